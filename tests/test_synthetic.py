from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.labels import read_labels
from data.synthetic import draw_image, draw_set, main
from utils.images import read_image


def test_equal_seeds_draw_equal_sets_and_others_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        draw_set(tmp_path / name, images=3, size=96, seed=seed)
    files = {name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))] for name in "abc"}
    assert len(files["a"]) == 4
    assert files["a"] == files["b"]
    assert all(one != other for one, other in zip(files["a"], files["c"], strict=True))


def test_labels_are_complete_and_inside(drawn_set: Path) -> None:
    records = read_labels(drawn_set)
    assert len(records) == 12
    assert sum(map(len, records)) > 12
    for record in records:
        assert read_image(drawn_set.parent / "images" / record.path, turn=False).shape == (128, 128, 3)
        assert record.has_landmarks.all()
        x1, y1, x2, y2 = record.boxes.T
        assert bool(((x1 >= 0) & (y1 >= 0) & (x2 <= 128) & (y2 <= 128)).all())
        points = record.landmarks
        assert bool(((points > record.boxes[:, None, :2]) & (points < record.boxes[:, None, 2:])).all())
        assert bool((points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3, 0] < points[:, 4, 0]).all())


def test_box_ends_where_the_face_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a flat grey background everything that is not grey is face."""
    monkeypatch.setattr("data.synthetic.draw_background", lambda rng, size: np.full((size, size, 3), 128, np.uint8))
    monkeypatch.setattr("data.synthetic.MOST_FACES", 1)
    seen = 0
    for seed in range(60):
        image, boxes, _ = draw_image(Still(np.random.PCG64(seed)), 256)
        for box in boxes:
            rows, columns = (np.abs(image.astype(int) - 128).max(axis=2) > 2).nonzero()
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(box - extent).max() < 1.5
            seen += 1
    assert seen > 30


class Still(np.random.Generator):
    """A generator without noise."""

    def normal(self, *arguments: object, **settings: object) -> float:    # type: ignore[override]
        return 0.0


def test_an_image_in_ten_has_no_face() -> None:
    faceless = sum(len(draw_image(np.random.default_rng(seed), 64)[1]) == 0 for seed in range(200))
    assert 5 < faceless < 40


def test_command_draws_and_refuses_to_draw_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "set"), "--images", "2", "--size", "64"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'set' / 'label.txt'}: 2 images\n"
    with pytest.raises(ValueError, match="holds a label.txt already"):
        main([str(tmp_path / "set")])
    with pytest.raises(ValueError, match="expected --images of at least 1"):
        main([str(tmp_path / "other"), "--images", "0"])
    assert not (tmp_path / "other").exists()
