"""The parts import one another in one direction only."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT, RunScript

ALLOWED = {
    "utils": {"utils"},
    "config": set(),
    "layers": {"layers", "utils", "config"},
    "data": {"data", "utils", "config"},
    "detector": {"detector", "layers", "utils", "config"},
}
OURS = {*ALLOWED, "train", "test", "analyze_data"}


def imported(source: str) -> set[str]:
    """The top-level modules of ours that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} & OURS


@pytest.mark.parametrize("part", ALLOWED)
def test_part_imports_only_what_lies_below_it(part: str) -> None:
    files = [ROOT / f"{part}.py"] if part == "config" else sorted((ROOT / part).glob("*.py"))
    assert files
    wrong = {str(file): extra for file in files if (extra := imported(file.read_text(encoding="utf-8")) - ALLOWED[part])}
    assert wrong == {}


def test_import_in_the_wrong_direction_is_noticed() -> None:
    assert imported("from data.labels import read_labels") - ALLOWED["detector"] == {"data"}


@pytest.mark.parametrize("script", ["train", "test", "analyze_data"])
def test_help_of_each_script_shows_its_commands(script: str, run: RunScript, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(script, "--help")
    printed = capfd.readouterr()
    assert (ended.value.code, printed.err) == (0, "")
    assert "--output" in printed.out
