"""python -m detector.average: between a start and what was tuned from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RunScript
from published_networks import SMALL, published_state, randomized, save
from torch import nn

from config import Config, DataConfig, to_dict
from data.synthetic import draw_set
from detector.average import average_states, compute_batch_norms, main, random_crops
from detector.retinaface import RetinaFace
from detector.weights import load_model, read_weights
from utils.checkpoint import read_checkpoint
from utils.script import run_script

FOUR_LEVELS = replace(SMALL, min_sizes=((8, 11), (16, 32), (64, 128), (256, 512)))


def average(*words: object) -> int:
    return run_script(lambda: main([str(word) for word in words]), "detector.average")


def test_states_are_mixed_tensor_by_tensor() -> None:
    start = {"a": torch.tensor([0.0, 4.0]), "steps": torch.tensor(3)}
    tuned = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([7.0]), "steps": torch.tensor(9)}
    mixed = average_states(start, tuned, 0.25)
    assert {name: value.tolist() for name, value in mixed.items()} == {
        "a": [0.25, 3.0],
        "b": [7.0],
        "steps": 9,
    }
    assert mixed["b"] is not tuned["b"]
    with pytest.raises(ValueError, match=r"a is \(2,\) in one and \(1,\) in the other"):
        average_states(start, {"a": torch.zeros(1)}, 0.5)


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_average_lies_between_its_two_files(tmp_path: Path, alpha: float) -> None:
    start = save(randomized(SMALL), tmp_path / "start.pth")
    tuned = save(randomized(FOUR_LEVELS), tmp_path / "tuned.pth")
    out = tmp_path / "new" / "out.pth"
    assert average(start, tuned, out, "--alpha", alpha) == 0
    model, ours, theirs = (
        load_model(out),
        load_model(tuned).state_dict(),
        load_model(start).state_dict(),
    )
    assert isinstance(model, RetinaFace) and model.config == FOUR_LEVELS
    mixed = model.state_dict()
    for level in range(4):
        name = f"class_head.{level}.conv.weight"
        source = theirs[f"class_head.{max(0, level - 1)}.conv.weight"]
        assert torch.allclose(mixed[name], (1 - alpha) * source + alpha * ours[name], atol=1e-6)
    new = "fpn.lateral.0.0.weight"    # the start has none at stride 4
    assert torch.equal(mixed[new], ours[new])
    checkpoint = read_checkpoint(out)
    assert checkpoint["averaged_from"] == {"start": str(start), "tuned": str(tuned), "alpha": alpha}
    assert checkpoint["config"] == read_checkpoint(tuned)["config"]
    assert read_weights(out).draw_confidence is None


def test_start_may_be_a_published_file(tmp_path: Path) -> None:
    network = randomized(SMALL)
    torch.save(published_state(network), tmp_path / "published.pth")
    tuned = save(randomized(SMALL), tmp_path / "tuned.pth")
    assert average(tmp_path / "published.pth", tuned, tmp_path / "out.pth", "--alpha", 0) == 0
    mixed = load_model(tmp_path / "out.pth").state_dict()
    assert all(torch.equal(mixed[name], value) for name, value in network.state_dict().items())


def test_batch_norms_have_the_statistics_of_the_crops(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    model = randomized(SMALL)
    first = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    images = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(64)]
    inputs: list[torch.Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, values: inputs.append(values[0]))
    compute_batch_norms(model, iter(images), total=64)
    handle.remove()
    assert len(inputs) == 2 and not model.training and first.momentum == 0.1
    assert first.running_mean is not None
    means = torch.stack([each.mean(dim=(0, 2, 3)) for each in inputs]).mean(dim=0)
    assert torch.allclose(first.running_mean, means, atol=1e-3)


def test_crops_are_squares_of_the_training_size_and_the_same_each_time(tmp_path: Path) -> None:
    draw_set(tmp_path, images=3, size=96, seed=0)
    config = Config(data=DataConfig(size=64))
    crops = list(random_crops(tmp_path, config, count=5))
    assert {crop.shape for crop in crops} == {(64, 64, 3)}
    again = random_crops(tmp_path, config, count=5)
    assert all(np.array_equal(crop, other) for crop, other in zip(crops, again, strict=True))
    assert not np.array_equal(crops[0], crops[1])


def test_crops_skip_images_that_cannot_be_read(tmp_path: Path) -> None:
    draw_set(tmp_path, images=1, size=96, seed=0)
    (tmp_path / "images" / "damaged.jpg").write_bytes(b"no image")
    config = Config(data=DataConfig(size=64))
    with pytest.warns(UserWarning, match="damaged.jpg: not a readable image"):
        assert len(list(random_crops(tmp_path, config, count=20))) == 20
    next(tmp_path.rglob("drawn*.jpg")).unlink()
    crops = random_crops(tmp_path, config, count=1)
    with (
        pytest.warns(UserWarning, match="damaged.jpg"),
        pytest.raises(ValueError, match="damaged.jpg"),
    ):
        list(crops)


def test_command_computes_batch_norms_and_keeps_a_confidence(
    tmp_path: Path, run: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.average.CROPS", 4)
    label = draw_set(tmp_path / "set", images=2, size=64, seed=0)
    tuned = save(
        randomized(SMALL),
        tmp_path / "tuned.pth",
        config=to_dict(Config(DataConfig(size=64), model=SMALL)),
    )
    words = ["--alpha", 1, "--batch-norm", label.parent / "images", "--draw-confidence", 0.7]
    assert average(tuned, tuned, tmp_path / "out.pth", *words) == 0
    before, after = load_model(tuned).state_dict(), load_model(tmp_path / "out.pth").state_dict()
    changed = {
        name.rpartition(".")[2] for name in after if not torch.equal(before[name], after[name])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    assert read_weights(tmp_path / "out.pth").draw_confidence == 0.7
    photo = next((label.parent / "images").iterdir())
    weights = ["--weights", tmp_path / "out.pth", "--output", tmp_path / "drawn"]
    result = run("test", photo, *weights)
    assert f"drawing detections from confidence 0.7 (of {tmp_path / 'out.pth'})" in result.out
    result = run("test", photo, *weights, "test.draw_confidence=0.2")
    assert "drawing detections from confidence 0.2 (as asked for)" in result.out
    result = run("test", photo, "--weights", tuned, "--output", tmp_path / "drawn")
    assert "drawing detections from confidence 0.5 (the default)" in result.out


def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tuned = save(randomized(SMALL), tmp_path / "tuned.pth")
    other = save(randomized(replace(SMALL, channels=32)), tmp_path / "other.pth")
    torch.save(published_state(randomized(SMALL)), tmp_path / "published.pth")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out.pth"
    for words, message in [
        (
            [other, tuned, out, "--alpha", 0.5],
            f"{other}: expected the channels of {tuned}, 64, found 32",
        ),
        (
            [tuned, tmp_path / "published.pth", out, "--alpha", 0.5],
            "published.pth: expected a checkpoint of train.py",
        ),
        ([tuned, tmp_path / "no.pth", out, "--alpha", 0.5], "no.pth: no such checkpoint"),
        ([tuned, tuned, out, "--alpha", 1.5], "--alpha: expected a number from 0 to 1, found 1.5"),
        ([tuned, tuned, out], "the following arguments are required: --alpha"),
        ([tuned, tuned, tuned, "--alpha", 1], "would replace one of the two files"),
        ([tuned, tuned, tmp_path, "--alpha", 1], "expected a file, found a folder"),
        (
            [tuned, tuned, out, "--alpha", 1, "--draw-confidence", 2],
            "--draw-confidence: expected a number from 0 to 1",
        ),
        (
            [tuned, tuned, out, "--alpha", 1, "--batch-norm", tmp_path / "empty"],
            "no images in this folder",
        ),
    ]:
        assert average(*words) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
        assert not out.exists()
