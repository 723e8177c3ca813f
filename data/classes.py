"""Which classes of a labelled set are faces."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def pick_classes(place: str, found: Collection[str], wanted: Sequence[str]) -> set[str]:
    """The classes that are faces, of those `found` in a file: the `wanted` ones, else `face` in any case, else the only one.

    ValueError that lists what there is, where none of the wanted is there, or several are and nothing tells them apart.
    """
    listed = ", ".join(repr(name[:40]) for name in sorted(found)[:20])
    if wanted:
        if found and not set(wanted) & set(found):
            raise ValueError(f"{place}: data.classes names {', '.join(map(repr, wanted))}, found the classes {listed}")
        return set(wanted)
    faces = {name for name in found if name.lower() == "face"}
    if not faces and len(found) > 1:
        raise ValueError(f"{place}: expected one class, or data.classes=[NAME,...] to say which are faces, found the classes {listed}")
    return faces or set(found)
