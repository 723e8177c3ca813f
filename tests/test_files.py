"""Files that appear whole or not at all, and which files of a folder count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePath

import numpy as np
import pytest
from conftest import ROOT, RunScript

from utils.files import files_below, is_hidden, remove_unfinished, whole_file
from utils.images import write_image
from utils.video import write_video

FRAME = np.zeros((16, 16, 3), np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["label.partial.txt", "label.txt.partial", "label.txt.tmp"])
def test_files_with_similar_names_stay_as_they_are(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with whole_file(tmp_path / "label.txt") as path:
        path.write_text("new")
    assert (tmp_path / name).read_text() == "mine"
    assert names(tmp_path) == sorted([name, "label.txt"])


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.png").symlink_to(tmp_path / "photo.png")
    write_image(tmp_path / "out" / "photo.png", FRAME)
    assert (tmp_path / "photo.png").read_text() == "mine"
    assert names(tmp_path / "out") == ["photo.png"]
    assert not (tmp_path / "out" / "photo.png").is_symlink()


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "写" * 83 + "ab.png", "a.png"])
def test_any_name_that_the_disk_takes_can_be_written(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / name, FRAME)
    assert names(tmp_path) == [name]
    with write_video(tmp_path / f"{name[:-4]}.mp4", rate=5) as writer:
        writer.write(FRAME)
    assert (tmp_path / f"{name[:-4]}.mp4").stat().st_size > 100


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_mode_follows_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_image(tmp_path / "a.png", FRAME)
        with whole_file(tmp_path / "a.txt") as path:
            path.write_text("a")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in sorted(tmp_path.iterdir())] == [mode, mode]


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for name, reason in (("folder.txt", "Is a directory"), ("n" * 256, "File name too long")):
        with pytest.raises(OSError) as error, whole_file(tmp_path / name) as path:
            path.write_text("a")
        assert str(error.value) == f"{tmp_path / name}: cannot be written: {reason}"
    with pytest.raises(FileNotFoundError, match=r"other\.txt"), whole_file(tmp_path / "a.txt"):
        (tmp_path / "other.txt").read_text()
    assert names(tmp_path) == ["folder.txt"]


def test_what_a_killed_process_left_is_removed_on_request(tmp_path: Path) -> None:
    killed = whole_file(tmp_path / "last.pth")
    killed.__enter__().write_text("half")
    assert len(names(tmp_path)) == 1
    remove_unfinished(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(OSError):    # so that it is not left to the garbage collector
        killed.__exit__(None, None, None)


@pytest.mark.parametrize(
    "path",
    [
        "._a.jpg", ".cache/a.jpg", "a/__MACOSX/b.jpg", "@eaDir/a.jpg/b.jpg", "Thumbs.db",
        "x/.ipynb_checkpoints/a.jpg", "$RECYCLE.BIN/a.jpg",
    ],
)  # fmt: skip
def test_hidden_files_and_folders_are_not_listed(path: str, tmp_path: Path) -> None:
    assert is_hidden(PurePath(path))
    for name in (path, "a.jpg", "b/a.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = [tmp_path / "a.jpg", tmp_path / "b" / "a.JPG"]
    assert files_below(tmp_path, {".jpg"}) == files_below(tmp_path, None) == listed
    assert not is_hidden(PurePath("../a..b/a.jpg"))


def test_folder_that_is_itself_hidden_is_listed(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.jpg").touch()
    assert files_below(tmp_path / ".data", {".jpg"}) == [tmp_path / ".data" / "a.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_names_that_the_terminal_cannot_show_are_printed_all_the_same(
    encoding: str, tmp_path: Path
) -> None:
    names = [os.fsdecode(b"caf\xe9"), "写真", "plain"]
    for name in names:
        write_image(tmp_path / f"{name}.png", FRAME)
    label = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "face"}]}
    for number, name in enumerate(names):
        image = {"id": number, "file_name": f"{name}.png", "width": 16, "height": 16}
        label["images"].append(image)
        face = {"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 20, 20]}
        label["annotations"].append(face)
    (tmp_path / "写真.json").write_text(json.dumps(label))
    command = [
        sys.executable,
        "analyze_data.py",
        tmp_path / "写真.json",
        "--images",
        tmp_path,
        "--check",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    out = ended.stdout.decode(encoding)
    assert (ended.returncode, ended.stderr) == (1, b"")
    label_name = "写真.json" if encoding == "utf-8" else r"\u5199\u771f.json"
    assert "caf\\udce9.png" in out and out.count(label_name) == 4 and "4 faults in 3 images" in out


def test_folder_whose_name_is_no_unicode_is_measured(
    drawn_set: Path, tmp_path: Path, run: RunScript
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(drawn_set.parent, folder)
    for words in ([], ["--check"], ["--fix", folder / "f.txt"], ["--convert", folder / "c.txt"]):
        result = run("analyze_data", folder / "label.txt", "--output", folder / "out", *words)
        assert (result.code, result.err) == (0, "")
    assert "caf\\udce9" in (folder / "out" / "report.html").read_text(encoding="utf-8")
