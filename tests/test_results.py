"""Whose files a run may replace, which of its own it removes, and what its files are called."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RunScript
from test_detect import files, lines, write_ground_truth
from test_video import make_video

from utils.images import read_image, write_image
from utils.predictions import read_predictions
from utils.results import FreeNames

PHOTO = np.zeros((20, 30, 3), np.uint8)
MINE = np.full((5, 5, 3), 200, np.uint8)


def test_no_two_names_are_one_file_on_disks_that_ignore_case(tmp_path: Path) -> None:
    names = FreeNames([tmp_path / "detections"])
    stems = ("IMG", "img", "Img", "Detections", "caf\u00e9", "cafe\u0301", "A/x", "a/X", "img_2")
    claimed = [names.claim(tmp_path / stem, ".jpg") for stem in stems]
    assert [str(path.relative_to(tmp_path)) for path in claimed] == [
        "IMG.jpg", "img_2.jpg", "Img_3.jpg", "Detections_2.jpg", "caf\u00e9.jpg", "cafe\u0301_2.jpg",
        "A/x.jpg", "a/X_2.jpg", "img_2_2.jpg",
    ]  # fmt: skip


def test_names_are_cut_between_characters_where_the_disk_asks_for_it(tmp_path: Path) -> None:
    names = FreeNames()
    for stem in ("n" * 251, "n" * 254, "写" * 84, "写" * 84, "写" * 85):
        path = names.claim(tmp_path / stem, ".png")
        path.touch()
        path.name.encode()
    assert len(list(tmp_path.iterdir())) == 5


def test_photos_whose_names_differ_in_case_keep_their_own_results(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    for name in ("a/IMG.jpg", "b/img.jpg"):
        write_image(tmp_path / name, PHOTO)
    sources = [tmp_path / "a" / "IMG.jpg", tmp_path / "b" / "img.jpg"]
    assert run("test", *sources, "--weights", untrained, "--output", tmp_path / "out").code == 0
    written = files(tmp_path / "out")
    assert len({name.casefold() for name in written}) == len(written) == 6


def test_names_that_are_long_or_no_unicode_cost_nothing(
    drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    odd = os.fsdecode(b"caf\xe9")
    names = [f"{odd}.jpg", f"{odd}/{odd}.png", "写" * 83 + "a.jpg", "n" * 251 + ".png", "plain.jpg"]
    for name in names:
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(drawn_set.parent / "images" / "drawn_0001.jpg", photos / name)
    words = ["--weights", untrained, "test.draw_confidence=0.4"]
    result = run("test", photos, *words, "--output", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert {name for name in files(tmp_path / "out") if not name.startswith("pred")} == {
        *names, "detections.jsonl", "detections.png",
    }  # fmt: skip
    (tmp_path / "out" / "detections.jsonl").read_bytes().decode("utf-8")
    rows = lines(tmp_path / "out")
    assert {row["source"] for row in rows} == {str(photos / name) for name in names}
    assert len({json.dumps(row["detections"]) for row in rows}) == 1
    saved = tmp_path / "out" / "predictions" / f"{odd}.txt"
    assert saved.read_text(encoding="utf-8").splitlines()[0] == "caf\\udce9"
    assert len(read_predictions(saved)) > 0
    result = run("test", photos / f"{odd}.jpg", *words, "--output", tmp_path / "one")
    assert result.code == 0 and "caf\\udce9.jpg, " in result.out


def test_names_that_the_disk_refuses_cost_nothing_else(
    drawn_set: Path,
    tmp_path: Path,
    untrained: Path,
    run: RunScript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_video(tmp_path / "0003.mp4", frames=2)
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if "0003" in path.name:
            raise OSError(errno.EILSEQ, "Invalid or incomplete multibyte character", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    images = drawn_set.parent / "images"
    sources = [images, tmp_path / "0003.mp4"]
    result = run("test", *sources, "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 1 and len(result.err.splitlines()) == 2
    assert "left out: " in result.err and "0003.txt: cannot be written: Invalid" in result.err
    assert "0003.mp4: cannot be written: Invalid" in result.err
    assert len(lines(tmp_path / "out")) == 11 + 2
    words = ["--weights", untrained, "--output", tmp_path / "scored"]
    result = run("test", "--labels", drawn_set, *words)
    assert result.code == 1 and "0003.txt: cannot be written: Invalid" in result.err
    assert json.loads((tmp_path / "scored" / "metrics.json").read_text())["images"] == 12


def test_pictures_of_others_are_never_replaced(
    tmp_path: Path, untrained: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "c.png", "detections.png"):
        write_image(tmp_path / name, MINE)
    for name in ("sub/a.png", "sub/b.png", "more/c.gif.png", "more/d.png"):
        write_image(tmp_path / name, PHOTO)
    before = {name: (tmp_path / name).read_bytes() for name in ("a.png", "c.png", "detections.png")}
    common = ["--weights", untrained, "--output", "."]
    message = (
        "test.py: --output .: would replace a.png, which no earlier run drew; name another folder"
    )
    assert run("test", "sub/a.png", *common).complaint == message
    complaint = run("test", "more", *common).complaint
    assert "would replace detections.png, which no earlier run wrote" in complaint
    assert run("test", "sub/b.png", *common).code == 0
    assert run("test", "sub/a.png", *common).complaint == message    # in a folder with results too
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    # What was drawn by a run is replaced by the next.
    assert run("test", "sub/b.png", *common).code == 0


def test_videos_of_others_are_never_replaced(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    make_video(tmp_path / "clip.mp4", frames=2)
    make_video(tmp_path / "sub" / "clip.mp4", frames=3)
    make_video(tmp_path / "sub" / "other.avi.mp4", frames=3).rename(tmp_path / "sub" / "other.avi")
    before = (tmp_path / "clip.mp4").read_bytes()
    words = ["--weights", untrained, "--output", tmp_path]
    for _ in range(2):    # the second time in a folder with results
        complaint = run("test", tmp_path / "sub" / "clip.mp4", *words).complaint
        assert f"would replace {tmp_path / 'clip.mp4'}, which no earlier run drew" in complaint
        assert run("test", tmp_path / "sub" / "other.avi", *words).code == 0
    assert (tmp_path / "clip.mp4").read_bytes() == before
    (tmp_path / "detections.jsonl").write_text("[]\nno JSON")
    assert run("test", tmp_path / "sub" / "other.avi", *words).code == 2


def test_drawings_of_a_run_that_was_killed_are_replaced(
    tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    write_image(tmp_path / "a.png", PHOTO)
    command = ["test", tmp_path / "a.png", "--weights", untrained, "--output", tmp_path / "out"]
    assert run(*command).code == 0
    (tmp_path / "out" / "detections.jsonl").unlink()    # comes last
    assert run(*command).code == 0


def test_curves_and_sheets_of_others_are_never_replaced(
    drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    for name in ("detections.png", "first_images.png", "augmented.png", "notes.txt"):
        write_image(tmp_path / f"{name}.png", MINE)
        (tmp_path / f"{name}.png").rename(tmp_path / name)
    before = (tmp_path / "detections.png").read_bytes()
    scoring = run("test", "--labels", drawn_set, "--weights", untrained, "--output", tmp_path)
    assert f"would replace {tmp_path / 'detections.png'}, which no earlier run" in scoring.complaint
    statistics = run("analyze_data", drawn_set, "--output", tmp_path)
    assert f"would replace {tmp_path / 'first_images.png'}, which" in statistics.complaint
    shown = run("analyze_data", drawn_set, "--output", tmp_path, "--show-augmented", 1)
    assert f"would replace {tmp_path / 'augmented.png'}, which" in shown.complaint
    assert (
        len(list(tmp_path.iterdir())) == 4 and (tmp_path / "detections.png").read_bytes() == before
    )
    for _ in range(2):    # alone in their folder they are its own
        code = run(
            "analyze_data", drawn_set, "--output", tmp_path / "s", "--show-augmented", 1
        ).code
        assert code == 0


def test_scoring_removes_what_an_earlier_one_left_and_it_does_not_write(
    drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    truth, out = tmp_path / "truth", tmp_path / "out"
    write_ground_truth(
        truth, {f"images/drawn_{number:04}": [[10, 10, 30, 30]] for number in range(12)}
    )
    words = ["--weights", untrained, "--output", out]
    assert run("test", "--labels", drawn_set, *words, "--ground-truth", truth).code == 0
    (out / "landmark_errors.png").write_bytes((out / "pr_curves.png").read_bytes())
    (out / "mine.png").write_text("mine")
    (out / "predictions" / "notes.txt").write_text("mine")
    small = tmp_path / "small" / "label.txt"
    small.parent.mkdir()
    small.write_text("# drawn_0002.jpg\n")    # without faces there is no curve
    images = ["--images", drawn_set.parent / "images"]
    assert run("test", "--labels", small, *images, *words).code == 0
    assert files(out) == {
        "metrics.json", "detections.jsonl", "detections.png", "predictions/drawn_0002.txt",
        "predictions/notes.txt", "mine.png",
    }  # fmt: skip
    assert read_image(out / "detections.png", turn=False).shape[0] == 640


def test_one_photo_leaves_no_contact_sheet_of_earlier_ones(
    drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    images = drawn_set.parent / "images"
    words = ["--weights", untrained, "--output", tmp_path]
    assert run("test", images / "drawn_0001.jpg", images / "drawn_0002.jpg", *words).code == 0
    assert (tmp_path / "detections.png").exists()
    assert run("test", images / "drawn_0002.jpg", *words).code == 0
    assert not (tmp_path / "detections.png").exists()
    assert (tmp_path / "drawn_0001.jpg").exists()    # it may be all that is left of a video


def test_statistics_leave_no_picture_of_an_earlier_set(
    drawn_set: Path, tmp_path: Path, run: RunScript
) -> None:
    assert run("analyze_data", drawn_set, "--output", tmp_path / "out").code == 0
    assert {"coverage.png", "positions.png"} <= files(tmp_path / "out")
    (tmp_path / "out" / "mine.png").write_text("mine")
    (tmp_path / "empty.txt").write_text("# a.jpg\n")
    sizes = tmp_path / "sizes.txt"
    sizes.write_text("a.jpg 100 100\n")
    result = run(
        "analyze_data", tmp_path / "empty.txt", "--sizes", sizes, "--output", tmp_path / "out"
    )
    assert result.code == 0
    left = files(tmp_path / "out")
    assert "mine.png" in left and "coverage.png" not in left and "first_images.png" not in left
