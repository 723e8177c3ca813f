"""Which classes of a labelled set are faces."""

from __future__ import annotations

from collections.abc import Collection, Sequence


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
