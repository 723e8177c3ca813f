"""Which classes of a labelled set are faces."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

NAME_FILES = ("data.yaml", "dataset.yaml", "obj.names", "classes.txt", "_darknet.labels")    # of YOLO's classes


def pick_classes(place: str, used: Collection[str], wanted: Sequence[str], *, listed: Collection[str] = ()) -> set[str]:
    """The classes that are faces: the `wanted` ones, else `face` in any case, else the only one that is `used`.

    `listed` are those that the set declares, used or not. ValueError that lists what there is, where none of the wanted is there, or
    several are used and nothing tells them apart.
    """
    known = {*used, *listed}
    if wanted:
        if known and not set(wanted) & known:
            raise ValueError(f"{place}: data.classes names {', '.join(map(repr, wanted))}, found the classes {_list(known)}")
        return set(wanted)
    faces = {name for name in known if name.lower() == "face"}
    if not faces and len(used) > 1:
        raise ValueError(f"{place}: expected one class, or data.classes=[NAME,...] to say which are faces, found the classes {_list(used)}")
    return faces or set(used)


def _list(names: Collection[str]) -> str:
    return ", ".join(repr(name[:40]) for name in sorted(names)[:20])


def read_class_names(folder: Path) -> dict[str, str]:
    """Return YOLO's class names by number, from data.yaml, obj.names or classes.txt in a folder of
    label files or up to two folders above it; empty where there is none."""
    for parent in (folder, *list(folder.absolute().parents)[:2]):
        for name in NAME_FILES:
            try:
                text = (parent / name).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            names = _yaml_names(text) if name.endswith(".yaml") else text.splitlines()
            if isinstance(names, list):
                names = dict(enumerate(names))
            if isinstance(names, dict) and names:
                return {str(number): str(class_name).strip() for number, class_name in names.items()}
    return {}


def _yaml_names(text: str) -> Any:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return content.get("names") if isinstance(content, dict) else None
