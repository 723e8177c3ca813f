"""The numbers and code in the READMEs of layers/ and data/ are those that the code gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, RunScript
from torch import nn

from config import ModelConfig
from data.labels import read_labels
from data.records import FaceRecord
from data.statistics import best_overlaps
from data.synthetic import draw_set
from detector.retinaface import RetinaFace
from layers.losses import box_loss
from utils.box_utils import encode, jaccard, xyxy_to_cxcywh
from utils.images import read_image

LAYERS, DATA, MAIN = (
    (ROOT / place).read_text(encoding="utf-8")
    for place in ("layers/README.md", "data/README.md", "README.md")
)
QUESTIONS, MOST_WORDS = 10, 120


def answer(number: int) -> str:
    """The text below the heading of a question."""
    found = re.search(rf"^### {number}\. .*?\n(.*?)(?=^### |\Z)", LAYERS, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def flat(text: str) -> str:
    return " ".join(text.split())


def code(text: str) -> str:
    """The Python code of a text."""
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(block)


@pytest.mark.parametrize("number", range(1, QUESTIONS + 1))
def test_answers_are_short(number: int) -> None:
    prose = re.sub(r"```.*?```", "", answer(number), flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "![", "*"))]
    assert 20 < len(" ".join(lines).split()) <= MOST_WORDS


def test_pictures_are_there() -> None:
    for folder, text in (("layers", LAYERS), ("data", DATA)):
        pictures = re.findall(r"!\[[^\]]+\]\((.*?)\)", text)
        assert len(pictures) >= 2
        for picture in pictures:
            assert read_image(ROOT / folder / picture, turn=False).shape[0] > 200
    links = re.findall(r"\]\(((?:\.\./)?[\w/]+\.(?:py|md))[)#]", LAYERS)
    assert len(links) > 10 and all((ROOT / "layers" / link).is_file() for link in links)


def test_plot_of_iou_is_drawn_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values: dict[str, torch.Tensor] = {}
    exec(code(answer(1)), values)
    assert read_image(tmp_path / "iou.png", turn=False).shape[0] > 200
    iou, shift = values["iou"], values["shift"]
    assert iou.max() == 1 and iou.min() == 0
    inside = 10 - shift.abs().clamp(max=10)
    assert torch.allclose(iou, inside / (20 - inside), atol=1e-5)    # the formula of the answer


def test_example_of_iou_losses_is_right() -> None:
    text = flat(answer(2))
    form = r"\(([\d, ]+)\) and \(([\d, ]+)\), IoU is (\S+), GIoU (\S+), DIoU (\S+) and CIoU (-0\.\d{3})"
    examples = re.findall(form, text)
    assert len(examples) == 2
    for first, second, *values in examples:
        boxes = torch.tensor([[float(word) for word in box.split(",")] for box in (first, second)])
        a, b = boxes[:1], boxes[1:]
        prior = xyxy_to_cxcywh(b)
        losses = [
            box_loss(kind, encode(a, prior), b, prior) for kind in ("iou", "giou", "diou", "ciou")
        ]
        assert [f"{1 - loss.item():.3f}" for loss in losses] == values
        assert jaccard(a, b).item() == 0


def test_parameters_of_vgg16_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| (conv|fully).*?\| (.*?) \| ([\d,]+) \|$", answer(3), re.MULTILINE)
    numbers = [int(number.replace(",", "")) for _, _, number in rows]
    assert [eval(formula.replace(" x ", " * ")) for _, formula, _ in rows] == numbers
    with torch.device("meta"):
        network = torchvision.models.vgg16(weights=None, init_weights=False)
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert [sum(values.numel() for values in part.parameters()) for part in layers] == numbers
    assert f"{sum(numbers):,}" in answer(3) and sum(numbers) == 138_357_544


@pytest.mark.slow
def test_positions_of_widers_faces_are_those_of_the_answer(
    real_data: Path, tmp_path: Path, run: RunScript
) -> None:
    folder = real_data / "annotations"
    labels = [folder / "wider_train_label_boxes_only.txt", folder / "labelv2_val.txt"]
    sizes = folder / "wider_train_sizes.txt"
    assert run("analyze_data", *labels, "--sizes", sizes, "--output", tmp_path).code == 0
    drawn, shown = (
        read_image(path, turn=False)
        for path in (tmp_path / "positions.png", ROOT / "layers/pictures/wider_positions.png")
    )
    assert np.abs(drawn.astype(int) - shown).mean() < 2    # but for fonts
    total = json.loads((tmp_path / "statistics.json").read_text())["total"]
    text = flat(answer(4))
    assert f"chi-square is {total['uniformity']['chi_square']:,.0f} with 63" in text
    assert f"exceed {total['uniformity']['critical_value']:.0f}." in text
    size_of = dict(line.split(maxsplit=1) for line in sizes.read_text().splitlines())
    centers = []
    for record in [record for label in labels for record in read_labels(label)]:
        width, height = record.size or map(int, size_of[record.path].split())
        centers.append((record.boxes[:, :2] + record.boxes[:, 2:]) / 2 / (width, height))
    x, y = np.concatenate(centers).T
    inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    x, y = x[inside], y[inside]
    columns = np.histogram(x, bins=8, range=(0, 1))[0] / len(x)
    assert f"{len(x):,} faces" in text
    assert f"{(y < 0.5).mean():.1%} of the faces lie in the upper half".replace("%", " %") in text
    assert f"only {(y >= 0.75).mean():.1%} in the lowest quarter".replace("%", " %") in text
    assert f"({(x < 0.5).mean():.1%} in the left half)".replace("%", " %") in text
    assert f"holds {100 * columns.min():.1f} to {100 * columns.max():.1f} %" in text


def overlapping(records: list[FaceRecord], *, least: float) -> int:
    return sum(int((best_overlaps(record.boxes) > least).sum()) for record in records)


@pytest.mark.slow
def test_overlaps_of_widers_faces_are_those_of_the_answer(real_data: Path) -> None:
    folder, text = real_data / "annotations", flat(answer(5))
    train, val = (
        read_labels(folder / f"wider_{name}_label_boxes_only.txt") for name in ("train", "val")
    )
    both = [*train, *val]
    faces = sum(map(len, both))
    count = overlapping(both, least=0)
    assert f"{count:,} of {faces:,} ({100 * count / faces:.2f} %)" in text
    assert (
        f"{overlapping(train, least=0):,} in train and {overlapping(val, least=0):,} in val" in text
    )
    for least in (0.005, 0.01):
        assert f"{least:g} ({overlapping(both, least=least):,})" in text
    above = overlapping(both, least=0.4)
    assert f"Only {above} faces ({100 * above / faces:.2f} %)" in text
    same = sum(int((best_overlaps(record.boxes) >= 1).sum()) for record in both)
    assert f"{same} of them are exact duplicates" in text
    pairs = later = images = touching = neighbors = 0
    for record in both:
        x1, y1, x2, y2 = record.boxes.astype(np.float64).T
        width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
        height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
        crossing = np.triu((width > 0) & (height > 0), 1)
        pairs += int(crossing.sum())
        later += int(crossing.any(axis=1).sum())
        images += bool(crossing.any())
        neighbors += int(np.diagonal(crossing, 1).sum())
        near = (width >= 0) & (height >= 0)
        np.fill_diagonal(near, False)
        touching += int(near.any(axis=1).sum())
    assert f"({touching:,} both); pairs ({pairs:,}); one face of each pair ({later:,})" in text
    assert (
        f"images with a pair ({images:,}); only neighboring lines of the label ({neighbors:,})"
        in text
    )


@pytest.mark.slow
def test_boxes_that_leave_their_image_are_those_of_the_answer(real_data: Path) -> None:
    sizes = (real_data / "annotations" / "wider_train_sizes.txt").read_text().splitlines()
    size_of = dict(line.split(maxsplit=1) for line in sizes)
    outside = []
    for record in read_labels(real_data / "annotations" / "wider_train_label_boxes_only.txt"):
        size = np.array(size_of[record.path].split(), float)
        low = np.minimum(record.boxes[:, :2], record.boxes[:, 2:])
        high = np.maximum(record.boxes[:, :2], record.boxes[:, 2:])
        leaves = (low < 0).any(axis=1) | (high > size).any(axis=1)
        outside += [" ".join(f"{number:g}" for number in row[:4]) for row in record.rows[leaves]]
    assert len(outside) == 2 and all(f"`{box}`" in answer(6) for box in outside)


def priors(side: int, *, strides: tuple[int, ...] = (8, 16, 32)) -> list[int]:
    return [2 * (-(-side // stride)) ** 2 for stride in strides]


def test_numbers_of_priors_are_those_of_the_answer() -> None:
    text = flat(answer(7))
    with torch.no_grad():
        model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64))
    for side in (640, 840):
        counts = priors(side)
        assert f"{' + '.join(f'{count:,}' for count in counts)} = {sum(counts):,}" in text
        assert len(model.priors(side, side)) == sum(counts)
    assert f"{sum(priors(1280)):,}" in text and sum(priors(1280)) == 4 * sum(priors(640))
    assert f"(840 / 640)^2 is {sum(priors(640)) * (840 / 640) ** 2:,.0f}" in text
    assert f"two sizes adds {priors(640, strides=(4,))[0]:,} at" in text
    assert 0.74 < priors(640)[0] / sum(priors(640)) < 0.77


def test_lines_of_the_matcher_are_quoted_as_they_are() -> None:
    rows = re.findall(r"^\| `.*` \| .* \| `(.*)` \|$", answer(8), re.MULTILINE)
    matcher = (ROOT / "layers" / "matcher.py").read_text(encoding="utf-8")
    assert len(rows) == 4 and all(f"    {line}" in matcher for line in rows)


def test_shapes_of_the_heads_are_those_of_the_answer() -> None:
    model = RetinaFace(ModelConfig(backbone="mobilenet0.25", channels=64)).eval()
    shapes: dict[str, list[tuple[int, ...]]] = {"class": [], "box": [], "landmark": []}
    with torch.no_grad():
        features = model.features(torch.zeros(1, 3, 840, 840, dtype=torch.uint8))
        for name, of_levels in shapes.items():
            heads = getattr(model, f"{name}_head")
            of_levels += [
                tuple(head(level).shape) for head, level in zip(heads, features, strict=True)
            ]
    rows = re.findall(r"^\| (\d+) \| (\d+) x \d+ \| ([\d,]+) \| (.*) \|$", answer(9), re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(model.levels.values())
    for level, (_, side, count, written) in enumerate(rows):
        assert int(side) == features[level].shape[3]
        expected = [f"(B, {of[level][1]}, {of[level][2]})" for of in shapes.values()]
        assert written.split(" | ") == expected and count == f"{shapes['box'][level][1]:,}"
    difference = torch.linspace(-5, 5, 11)
    logits = torch.stack([torch.zeros(11), difference], dim=1)
    assert torch.allclose(difference.sigmoid(), logits.softmax(dim=1)[:, 1])


def test_accuracy_without_landmarks_is_that_of_the_table() -> None:
    table = re.findall(
        r"^\| (?:with landmarks|`model.landmarks=false`) \|(.*)\|$", MAIN, re.MULTILINE
    )
    with_landmarks, without = ([cell.split()[0] for cell in row.split("|")] for row in table)
    told = re.findall(r"from (0\.\d+) to (0\.\d+)", flat(answer(10)))
    assert told == list(zip(with_landmarks, without, strict=True))


def test_attributes_of_a_dataset_are_shown_by_code_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = draw_set(tmp_path, images=1, size=256, seed=1)    # the first one of the demo set
    lines = [line for line in code(DATA).splitlines() if line]
    assert len(lines) <= 6
    place = "weights/demo/data/val/label.txt"
    assert place in code(DATA)
    exec(code(DATA).replace(place, str(label)), {})
    printed = capsys.readouterr().out
    path, words, *rows = printed.splitlines()
    assert Path(path).is_file()
    faces = json.loads(words)
    assert faces and {len(face) for face in faces} == {20}
    assert "\n".join(rows).count("]") == len(faces) + 1
