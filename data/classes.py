"""Which classes of a labelled set are faces."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

NAME_FILES = (
    "data.yaml",
    "data.yml",
    "dataset.yaml",
    "obj.names",
    "classes.txt",
    "_darknet.labels",
)    # of YOLO's classes
YAML = (".yaml", ".yml")


def pick_classes(
    place: str, used: Collection[str], wanted: Sequence[str], *, listed: Collection[str] = ()
) -> set[str]:
    """The classes that are faces: the `wanted` ones, else `face` in any case, else the only one that is `used`.

    `listed` are those that the set declares, used or not. ValueError that lists what there is, where none of the wanted is there, or
    several are used and nothing tells them apart.
    """
    known = {*used, *listed}
    if wanted:
        if known and not set(wanted) & known:
            raise ValueError(
                f"{place}: data.classes names {', '.join(map(repr, wanted))}, found the classes {_list(known)}"
            )
        return set(wanted)
    faces = {name for name in known if name.lower() == "face"}
    if not faces and len(used) > 1:
        raise ValueError(
            f"{place}: expected one class, or data.classes=[NAME,...] to say which are faces, found the classes {_list(used)}"
        )
    return faces or set(used)


def _list(names: Collection[str]) -> str:
    return ", ".join(repr(name[:40]) for name in sorted(names)[:20])


def read_class_names(folder: Path) -> dict[str, str]:
    """Return YOLO's class names by number, from what lies in a folder of label files or above it.

    That is data.yaml, obj.names, classes.txt or another file of those kinds, up to two folders
    above; the names are empty where there is none.
    """
    for file in _name_files(folder):
        names = _yaml_value(file, "names") if file.suffix in YAML else _read(file).splitlines()
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict) and names:
            return {str(number): str(class_name).strip() for number, class_name in names.items()}
    return {}


def read_point_shape(folder: Path) -> tuple[int, int] | None:
    """Return how many points YOLO's data.yaml gives a box, and how many numbers each; or None."""
    for file in _name_files(folder):
        shape = _yaml_value(file, "kpt_shape") if file.suffix in YAML else None
        if (
            isinstance(shape, list)
            and len(shape) == 2
            and shape[1] in (2, 3)
            and isinstance(shape[0], int)
        ):
            return shape[0], shape[1]
    return None


def _name_files(folder: Path) -> Iterator[Path]:
    """Files that may name the classes, likeliest first."""
    above = list(folder.absolute().parents)[:2]
    for parent in (folder, *above):
        yield from (file for name in NAME_FILES if (file := parent / name).is_file())
    # Files of any name are of this set where they lie in its folder, not beside other sets.
    top = next(
        (each.parent for each in (folder.absolute(), *above) if each.name == "labels"), folder
    )
    for parent in dict.fromkeys([folder, top]):
        others = [file for suffix in (*YAML, ".names") for file in parent.glob(f"*{suffix}")]
        named = [file for file in others if file.suffix == ".names" or _yaml_value(file, "names")]
        yield from named if len(named) == 1 else []


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _yaml_value(file: Path, key: str) -> Any:
    try:
        content = yaml.safe_load(_read(file))
    except (yaml.YAMLError, ValueError, RecursionError):    # ValueError: of a date such as 2024-13-01
        return None
    return content.get(key) if isinstance(content, dict) else None
