"""The packages that the project stands on: their bounds, and what is said where one is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from utils.import_errors import PACKAGES, explain

COMMANDS = [
    ["train.py", "--help"], ["test.py", "--help"], ["analyze_data.py", "--help"],
    *(["-m", f"detector.{module}", "--help"] for module in ("summary", "export", "compare", "average")),
    ["-m", "data.synthetic", "--help"],
]    # fmt: skip


def run(arguments: list[str], *, path: Path | None = None, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.run([python, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def broken_package(folder: Path, module: str, error: str) -> None:
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(f"raise {error}\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0] if len(command) < 3 else command[1])
def test_missing_system_library_of_opencv_is_one_line_and_names_what_to_install(command: list[str], tmp_path: Path) -> None:
    message = "libGL.so.1: cannot open shared object file: No such file or directory"
    broken_package(tmp_path, "cv2", f"ImportError({message!r})")
    done = run(command, path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"opencv-python cannot be imported ({message}): apt-get install libgl1 libglib2.0-0")


@pytest.mark.parametrize("module", [
    "cv2", *(pytest.param(module, marks=pytest.mark.slow) for module in PACKAGES if module != "cv2")
])  # fmt: skip
def test_package_that_is_not_installed_is_named(module: str, tmp_path: Path) -> None:
    broken_package(tmp_path, module, f"ModuleNotFoundError(\"No module named '{module}'\", name={module!r})")
    done = run(["train.py", "--help"], path=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"train.py: {PACKAGES[module]} is not installed: pip install -e . installs what is needed\n"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("ImportError('numpy.core.multiarray failed to import')", "pip install --force-reinstall"),
        ("RuntimeError('operator torchvision::nms\\n does not exist')", "pip install --force-reinstall"),
        ("ValueError('numpy.dtype size changed')", "pip install --force-reinstall"),
        ("AttributeError('_ARRAY_API not found')", "pip install --force-reinstall"),
        ("ModuleNotFoundError(\"No module named 'x'\", name='x')", "pip install --force-reinstall"),
        ("OSError('libgomp.so.1: cannot open shared object file')", "apt-get install libgomp1"),
        ("OSError('libcudart.so.12: cannot open shared object file')", "pip install --force-reinstall"),
    ],
)
@pytest.mark.parametrize("module", ["numpy"])
def test_broken_package_is_one_line_with_its_reason(
    module: str, error: str, advice: str, tmp_path: Path
) -> None:
    broken_package(tmp_path, module, error)
    done = run(["test.py", "--help"], path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"test.py: {module} cannot be imported (")
    assert advice in line


def test_opencv_that_is_too_old_is_named(tmp_path: Path) -> None:
    (tmp_path / "cv2").mkdir()
    source = "from types import SimpleNamespace\n__version__ = '4.12.0'\nutils = SimpleNamespace()\n"
    (tmp_path / "cv2" / "__init__.py").write_text(source)
    done = run(["analyze_data.py", "--help"], path=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "analyze_data.py: opencv-python cannot be imported (OpenCV 4.12.0 is older than 4.13): "
        "pip install --force-reinstall opencv-python\n"
    )


def test_error_within_a_package_that_was_imported_is_no_failed_import() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert explain(caught.value) is None


def test_package_that_is_missing_later_is_named_too(drawn_set: Path, tmp_path: Path) -> None:
    """analyze_data.py needs PyTorch for --show-augmented alone."""
    broken_package(tmp_path, "torch", "ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    words = ["analyze_data.py", str(drawn_set), "--output", str(tmp_path / "out")]
    assert run(words, path=tmp_path).returncode == 0
    done = run([*words, "--show-augmented", "1"], path=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("analyze_data.py: torch is not installed: pip install -e .")


@pytest.mark.slow
def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    broken_package(tmp_path, "cv2", "KeyError('a bug')")
    done = run(["train.py", "--help"], path=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


def dependencies() -> dict[str, str]:
    """The lower bound of each package in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.partition("\ndependencies = [")[2].partition("\n]")[0]
    return dict(re.findall(r'"([\w-]+)>=([\d.]+)"', listed))


def test_lowest_versions_are_the_bounds_of_the_project() -> None:
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds = dependencies()
    assert len(bounds) == 7 and set(lowest) == set(bounds)
    for name, bound in bounds.items():
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*(\.90)?", lowest[name]), name


@pytest.mark.slow
def test_lowest_versions_run_the_scripts_and_detect_a_face(tmp_path: Path) -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("tests/lowest.txt names the lowest versions that have wheels for Python 3.11")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "-r", ROOT / "tests" / "lowest.txt"]
    subprocess.run(install, check=True, timeout=1200)
    try:
        for script in ("train.py", "test.py", "analyze_data.py"):
            assert run([script, "--help"], python=python).returncode == 0
        assert run(["-m", "data.synthetic", str(tmp_path / "set"), "--images", "1"], python=python).returncode == 0
        image = next((tmp_path / "set" / "images").iterdir())
        done = run(["test.py", str(image), "--output", str(tmp_path / "out")], python=python)
        assert done.returncode == 0 and "face" in done.stdout, done.stderr
    finally:
        shutil.rmtree(tmp_path / "venv")    # several GB
