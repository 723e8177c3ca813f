"""test.py as a command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import RunScript

from utils.images import read_image, write_image
from utils.predictions import read_predictions

scipy_io = pytest.importorskip("scipy.io")


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "detections.jsonl").read_text().splitlines()]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_images_and_folders_are_drawn_and_listed(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    write_image(tmp_path / "photos" / "sub" / "a b.png", np.zeros((50, 70, 3), np.uint8))
    write_image(tmp_path / "photos" / "é.jpg", np.zeros((1, 1, 3), np.uint8))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    output = tmp_path / "out"
    one = drawn_set.parent / "images" / "drawn_0001.jpg"
    result = run("test", one, tmp_path / "photos", "--weights", untrained, "--output", output, "test.draw_confidence=0.4")
    assert result.code == 0, result.err
    drawn = {"drawn_0001.jpg", "sub/a b.png", "é.jpg"}
    saved = {f"predictions/{Path(name).with_suffix('.txt')}" for name in drawn}
    assert files(output) == {"detections.jsonl", "detections.png"} | drawn | saved
    rows = lines(output)
    assert [row["source"] for row in rows] == [str(one), str(tmp_path / "photos/sub/a b.png"), str(tmp_path / "photos/é.jpg")]
    assert (rows[1]["width"], rows[1]["height"], rows[1]["frame"]) == (70, 50, None)
    assert set(rows[0]) == {"source", "frame", "width", "height", "detections"}
    face = rows[0]["detections"][0]
    assert len(face["box"]) == 4 and 0.4 <= face["score"] <= 1 and np.shape(face["landmarks"]) == (5, 2)
    assert read_image(output / "sub" / "a b.png", turn=False).shape == (50, 70, 3)


def test_number_of_drawn_faces_is_printed(
    drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript
) -> None:
    one = drawn_set.parent / "images" / "drawn_0001.jpg"
    words = ["--weights", untrained, "--output", tmp_path, "test.draw_confidence=0.45"]
    result = run("test", one, *words)
    faces = len(lines(tmp_path)[0]["detections"])
    assert f"\n{faces:,} face{'s' * (faces != 1)} in {one}, " in result.out
    result = run("test", drawn_set.parent / "images", *words)
    faces = sum(len(row["detections"]) for row in lines(tmp_path))
    assert f"\n{faces:,} faces in 12 photos, " in result.out


def test_only_confident_faces_are_listed(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    one = drawn_set.parent / "images" / "drawn_0001.jpg"
    assert run("test", one, "--weights", untrained, "--output", tmp_path, "test.draw_confidence=1").code == 0
    assert lines(tmp_path)[0]["detections"] == []
    assert "detections.png" not in files(tmp_path)


def test_sources_of_one_name_keep_their_own_pictures(tmp_path: Path, untrained: Path, run: RunScript) -> None:
    for name, side in (("a", 20), ("b", 30), ("c", 40)):
        write_image(tmp_path / name / "same.png", np.zeros((side, side, 3), np.uint8))
    write_image(tmp_path / "detections.png", np.zeros((50, 50, 3), np.uint8))
    sources = [tmp_path / name / "same.png" for name in "abc"]
    assert run("test", *sources, tmp_path / "detections.png", "--weights", untrained, "--output", tmp_path / "out").code == 0
    names = ["same.png", "same_2.png", "same_3.png", "detections_2.png"]
    assert [read_image(tmp_path / "out" / name, turn=False).shape[0] for name in names] == [20, 30, 40, 50]


def test_drawings_of_an_earlier_run_are_no_sources(tmp_path: Path, untrained: Path, run: RunScript) -> None:
    write_image(tmp_path / "photo.png", np.zeros((20, 20, 3), np.uint8))
    for _ in range(2):
        assert run("test", tmp_path, "--weights", untrained, "--output", tmp_path / "out").code == 0
    assert files(tmp_path) == {"photo.png", "out/photo.png", "out/detections.jsonl", "out/predictions/photo.txt"}


def test_glob_names_its_files(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    assert run("test", str(drawn_set.parent / "images" / "drawn_000[0-2].jpg"), "--weights", untrained, "--output", tmp_path).code == 0
    assert len(lines(tmp_path)) == 3


def test_bad_images_are_listed_and_the_rest_is_done(tmp_path: Path, untrained: Path, run: RunScript) -> None:
    photos = tmp_path / "photos"
    write_image(photos / "good.png", np.zeros((20, 20, 3), np.uint8))
    (photos / "text.jpg").write_text("no picture")
    (photos / "empty.png").write_bytes(b"")
    encoded = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))[1].tobytes()
    (photos / "half.jpg").write_bytes(encoded[: len(encoded) // 2])
    result = run("test", photos, "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 1
    left_out = [line for line in result.err.splitlines() if line.startswith("test.py: left out: ")]
    assert [Path(line.split(": ")[2]).name for line in left_out] == ["empty.png", "half.jpg", "text.jpg"]
    assert files(tmp_path / "out") == {"detections.jsonl", "good.png", "predictions/good.txt"}


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((40, 50), 90, np.uint8), np.full((40, 50, 3), 9_000, np.uint16), np.full((40, 50, 4), 90, np.uint8),
        np.full((1, 1, 3), 90, np.uint8), np.full((6000, 8000), 90, np.uint8),
    ],
    ids=["grey", "16-bit", "alpha", "1x1", "8000x6000"],
)  # fmt: skip
def test_image_of_any_kind_works(pixels: np.ndarray, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    (tmp_path / "image.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    result = run("test", tmp_path / "image.png", "--weights", untrained, "--output", tmp_path / "out", "test.size=original")
    assert result.code == 0, result.err
    assert (lines(tmp_path / "out")[0]["height"], lines(tmp_path / "out")[0]["width"]) == pixels.shape[:2]


def test_labelled_set_is_scored_and_its_first_images_drawn(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    result = run("test", "--labels", drawn_set, "test.size=long:96", "--weights", untrained, "--output", tmp_path, "test.nms=0.3")
    assert result.code == 0, result.err
    saved = {f"predictions/drawn_{number:04}.txt" for number in range(12)}
    assert files(tmp_path) - {"landmark_errors.png"} == {"detections.jsonl", "detections.png", "metrics.json", "pr_curves.png"} | saved
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 12 and metrics["faces"] > 12 and 0 <= metrics["ap50"] < 0.5
    assert metrics["settings"]["size"] == "long:96" and metrics["settings"]["nms"] == 0.3
    assert metrics["settings"]["weights"] == str(untrained)
    assert read_image(tmp_path / "detections.png", turn=False).shape == (1280, 1280, 3)
    assert len(lines(tmp_path)) == 12


def test_missing_image_of_a_labelled_set_is_listed(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    shutil.copytree(drawn_set.parent, tmp_path / "set")
    (tmp_path / "set" / "images" / "drawn_0003.jpg").unlink()
    result = run("test", "--labels", tmp_path / "set" / "label.txt", "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 1
    assert "left out: " in result.err and "drawn_0003.jpg: no such image" in result.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"] == 11


def test_model_that_finds_nothing_is_scored_too(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    result = run("test", "--labels", drawn_set, "--weights", untrained, "--output", tmp_path, "test.confidence=1")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["ap50"] == 0 and metrics["landmarks"] == {"matched": 0.0}
    assert "0.0% of the faces with landmarks matched" in result.out


def test_images_may_lie_elsewhere(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    shutil.copy(drawn_set, tmp_path / "moved.txt")
    images = drawn_set.parent / "images"
    common = ["--labels", tmp_path / "moved.txt", "--weights", untrained, "--output"]
    assert run("test", *common, tmp_path / "a", "--images", images).code == 0
    assert run("test", *common, tmp_path / "b", f"data.images={images}").code == 0
    assert (tmp_path / "a" / "detections.jsonl").read_text() == (tmp_path / "b" / "detections.jsonl").read_text()


def test_bad_input_is_one_line_and_leaves_nothing(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    image = drawn_set.parent / "images" / "drawn_0000.jpg"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "bad.pth").write_text("no weights")
    (tmp_path / "malformed.txt").write_text("# a.jpg\n1 2 3\n")
    (tmp_path / "noimages.txt").write_text("# a.jpg\n1 2 3 4\n")
    with_weights = ["--weights", untrained]
    cases: list[tuple[list[Any], str]] = [
        ([image, "--weights", "no.pth"], "no.pth: no such checkpoint"),
        ([image, "--weights", tmp_path / "bad.pth"], "bad.pth: is a text file, not a checkpoint"),
        ([*with_weights], "expected either images to look at (SOURCE ...), or sets to score on (--labels FILE ...), or --predictions DIR"),
        ([image, "--labels", drawn_set, *with_weights], "expected either images to look at"),
        ([image, "--images", tmp_path, *with_weights], "--images: names the folder of labelled images, so it goes with --labels"),
        (["no.jpg", *with_weights], "no image readable of 1: no.jpg: no such image"),
        ([tmp_path / "text.jpg", *with_weights], "text.jpg: not a readable image"),
        ([tmp_path / "empty", *with_weights], "empty: no images or videos in this folder"),
        (["nothing*.jpg", *with_weights], "nothing*.jpg: no file matches"),
        (["--labels", "no.txt", *with_weights], "no.txt: no such label file"),
        (["--labels", tmp_path / "malformed.txt", *with_weights], "malformed.txt:2: expected 4, 5, 19 or 20 numbers, found 3"),
        (["--labels", tmp_path / "noimages.txt", *with_weights], "no image readable of 1: "),
        ([image, "--ground-truth", tmp_path, *with_weights], "--ground-truth: goes with --labels or --predictions"),
        (["--labels", drawn_set, "--show", *with_weights], "--show: shows the images to look at (SOURCE ...), of which there are none"),
        (["--predictions", tmp_path], "--predictions: expected --ground-truth DIR beside it"),
        (["--predictions", tmp_path, "--ground-truth", tmp_path, *with_weights], "--predictions: are scored as they are, without"),
        (["--predictions", tmp_path, "--ground-truth", tmp_path], "wider_easy_val.mat: no such list"),
        (["99", *with_weights], "no image readable of 1: camera 99: cannot be opened"),
        ([image, "--weights", "no.onnx"], "no.onnx: no such ONNX file"),
        ([image, *with_weights, "test.sise=x2"], "test.sise: unknown setting; the nearest is test.size, which takes a text"),
        ([image, *with_weights, "test.nms=2"], "test.nms: expected a number of at least 0 and of at most 1, found 2"),
        ([image, *with_weights, "train.lr=2"], "train.lr=2: only test.* and data.images, data.format,"),
        ([image, *with_weights, "test.device=gpu"], "device gpu: not available here"),
    ]
    for arguments, message in cases:
        result = run("test", *arguments, "--output", tmp_path / "out")
        assert message in result.complaint, arguments
        assert result.complaint.startswith("test.py: ")
        assert not (tmp_path / "out").exists() or files(tmp_path / "out") == set(), arguments


def test_sources_are_never_drawn_over(tmp_path: Path, untrained: Path, run: RunScript) -> None:
    write_image(tmp_path / "photo.png", np.zeros((20, 20, 3), np.uint8))
    before = (tmp_path / "photo.png").read_bytes()
    result = run("test", tmp_path / "photo.png", "--weights", untrained, "--output", tmp_path)
    assert "photo.png, which is a source; name another folder" in result.complaint
    assert (tmp_path / "photo.png").read_bytes() == before


def test_photo_is_turned_as_its_camera_was_held(tmp_path: Path, untrained: Path, run: RunScript) -> None:
    encoded = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    header = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "turned.jpg").write_bytes(encoded[:2] + header + encoded[2:])
    assert run("test", tmp_path / "turned.jpg", "--weights", untrained, "--output", tmp_path / "out").code == 0
    (row,) = lines(tmp_path / "out")
    assert (row["width"], row["height"]) == (40, 60)


def test_huge_photo_is_looked_at_smaller_and_says_so(tmp_path: Path, untrained: Path, run: RunScript) -> None:
    write_image(tmp_path / "huge.png", np.zeros((90, 400, 3), np.uint8))
    result = run("test", tmp_path / "huge.png", "--weights", untrained, "--output", tmp_path / "out", "test.max_side=200")
    assert result.code == 0
    assert result.err == (
        "test.py: warning: an image of 400 x 90 pixels is looked at with a long side of 200, the most by test.max_side\n"
    )
    assert lines(tmp_path / "out")[0]["width"] == 400


def test_saved_predictions_are_the_detections_that_are_scored(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    result = run("test", "--labels", drawn_set, "--weights", untrained, "--output", tmp_path, "test.draw_confidence=0.02")
    assert result.code == 0
    for row in lines(tmp_path):
        saved = read_predictions(tmp_path / "predictions" / f"{Path(row['source']).stem}.txt")
        assert len(saved) == len(row["detections"])
        assert np.allclose(saved.boxes, [face["box"] for face in row["detections"]], atol=2e-3)


def test_photos_of_one_name_keep_their_own_predictions(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    shutil.copytree(drawn_set.parent, tmp_path / "other")
    result = run("test", "--labels", drawn_set, tmp_path / "other" / "label.txt", "--weights", untrained, "--output", tmp_path / "out")
    assert result.code == 0
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == 24
    assert (tmp_path / "out" / "predictions" / "drawn_0003_2.txt").exists()


@pytest.mark.slow
def test_merged_views_are_never_below_the_best_of_their_scales(real_data: Path, tmp_path: Path, run: RunScript) -> None:
    weights = real_data / "weights" / "retinaface_mobilenet0.25_published.pth"
    for name in ("wider_val_sample", "boxes_val"):
        ap50 = {}
        for words in ("test.size=x1", "test.size=x2", "test.scales=[1,2] test.flip=true test.vote=true", "test.precision=bfloat16"):
            command = ["--labels", real_data / name / "label.txt", "--weights", weights, "--output", tmp_path, *words.split()]
            assert run("test", *command).code == 0
            ap50[words] = json.loads((tmp_path / "metrics.json").read_text())["ap50"]
        single, double, merged, low = ap50.values()
        assert merged >= max(single, double)
        assert abs(low - single) < 0.005
        if name == "wider_val_sample":
            assert double == pytest.approx(0.544, abs=0.006)


def write_ground_truth(folder: Path, faces: dict[str, list[list[float]]]) -> None:
    """The three official lists, of images `event/name` and their boxes x y w h, all of which are to be found."""
    events = sorted({name.split("/")[0] for name in faces})

    def column(cells: list[Any]) -> np.ndarray:
        array = np.empty((len(cells), 1), dtype=object)
        for index, cell in enumerate(cells):
            array[index, 0] = cell
        return array

    names = [sorted(name for name in faces if name.startswith(f"{event}/")) for event in events]
    content = {
        "event_list": column(events),
        "file_list": column([column([name.split("/")[1] for name in of_event]) for of_event in names]),
        "face_bbx_list": column([column([np.array(faces[name], float).reshape(-1, 4) for name in of_event]) for of_event in names]),
        "gt_list": column([column([np.arange(1, len(faces[name]) + 1)[:, None] for name in of_event]) for of_event in names]),
    }
    folder.mkdir()
    for setting in ("easy", "medium", "hard"):
        scipy_io.savemat(folder / f"wider_{setting}_val.mat", content)


def test_saved_predictions_are_scored_and_missing_ones_reported(tmp_path: Path, run: RunScript) -> None:
    write_ground_truth(tmp_path / "truth", {"0--A/one": [[10, 10, 20, 20]], "0--A/two": [[0, 0, 30, 30]], "1--B/three": [[5, 5, 9, 9]]})
    for name, rows in {"0--A/one": "10 10 20 20 0.9\n", "0--A/two": "0 0 30 30 0.8\n100 0 30 30 0.1\n"}.items():
        path = tmp_path / "saved" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.stem}\n{rows.count(chr(10))}\n{rows}")
    command = ["--predictions", tmp_path / "saved", "--ground-truth", tmp_path / "truth", "--output", tmp_path / "out"]
    result = run("test", *command)
    assert result.code == 1
    assert files(tmp_path / "out") == {"metrics.json", "pr_curves.png"}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["wider"] == pytest.approx(dict.fromkeys(["easy", "medium", "hard"], 2 / 3)) and metrics["missing"] == 1
    left_out = [line for line in result.err.splitlines() if "left out" in line]
    assert left_out == [
        f"test.py: left out: {tmp_path / 'saved' / '1--B'}: no such event folder",
        f"test.py: left out: {tmp_path / 'saved' / '1--B' / 'three.txt'}: no such file of predictions",
    ]
    shutil.rmtree(tmp_path / "saved" / "0--A")
    assert "has none of the 3 images, expected such as 0--A/one.txt" in run("test", *command).complaint


def test_predictions_in_the_wrong_form_are_told(tmp_path: Path, run: RunScript) -> None:
    write_ground_truth(tmp_path / "truth", {"0--A/one": [[90, 50, 30, 30]]})
    (tmp_path / "saved" / "0--A").mkdir(parents=True)
    (tmp_path / "saved" / "0--A" / "one.txt").write_text("one\n1\n90 50 120 80 0.9\n")
    command = ["--predictions", tmp_path / "saved", "--ground-truth", tmp_path / "truth"]
    result = run("test", *command, "--output", tmp_path / "out")
    assert (result.code, result.err) == (
        0,
        f"test.py: warning: {tmp_path / 'saved'}: the boxes look like corners x1 y1 x2 y2, with "
        "which AP would be 1.00; expected x y w h in pixels of the image\n",
    )


def test_labelled_set_is_scored_by_the_official_lists_too(drawn_set: Path, tmp_path: Path, untrained: Path, run: RunScript) -> None:
    write_ground_truth(tmp_path / "truth", {f"images/drawn_{number:04}": [[10, 10, 30, 30]] for number in range(12)})
    command = ["--labels", drawn_set, "--weights", untrained, "--output", tmp_path / "a", "--ground-truth", tmp_path / "truth"]
    assert run("test", *command).code == 0
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert set(metrics["wider"]) == {"easy", "medium", "hard"} and metrics["settings"]["ground_truth"] == str(tmp_path / "truth")
    assert (tmp_path / "a" / "pr_curves.png").exists()
    # The saved detections, in the folder of their event, give the same.
    shutil.move(tmp_path / "a" / "predictions", tmp_path / "saved" / "images")
    assert run("test", "--predictions", tmp_path / "saved", "--ground-truth", tmp_path / "truth", "--output", tmp_path / "b").code == 0
    again = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert again["wider"] == pytest.approx(metrics["wider"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ap50"),
    [
        ("wider_val_sample", 0.328),
        ("boxes_val", 0.711),
        ("points_val", 0.868),
    ],
)
def test_published_weights_reach_their_figures(name: str, ap50: float, real_data: Path, tmp_path: Path, run: RunScript) -> None:
    weights = real_data / "weights" / "retinaface_mobilenet0.25_published.pth"
    assert run("test", "--labels", real_data / name / "label.txt", "--weights", weights, "--output", tmp_path).code == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["ap50"] == pytest.approx(ap50, abs=0.004)
    if name == "points_val":
        assert metrics["landmarks"]["nme"] == pytest.approx(0.0315, abs=0.001)
    else:
        assert "landmarks" not in metrics
