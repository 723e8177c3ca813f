"""Which of five named keypoints is which landmark of a face."""

from __future__ import annotations

import re
from collections.abc import Sequence

# In the order of the landmarks: left eye, right eye, nose, left mouth corner, right mouth corner.
LANDMARKS = [("eye", "left"), ("eye", "right"), ("nose", ""), ("mouth", "left"), ("mouth", "right")]
PARTS = {"eye": ("eye", "pupil"), "nose": ("nose",), "mouth": ("mouth", "lip")}
SIDES = {"left": ("left", "l"), "right": ("right", "r")}
# Written together, as in lefteye or leye, a side leads or follows its part.
TOGETHER = re.compile(r"(left|right|l|r)?(eyes?|pupil|nose|mouth|lips?)(left|right|l|r)?$")
OTHERS = ("brow", "ear", "chin", "lash", "upper", "lower", "top", "bottom", "inner", "outer")


def order_points(names: Sequence[str]) -> list[int] | None:
    """Return for each landmark the index of the keypoint that its name means, or None.

    Understood are names such as left_eye, LeftEye, eye_l, "right mouth corner", lip_right, nose_tip;
    each landmark has to have one name.
    """
    meant = [_parse(name) for name in names]
    if sorted(map(str, meant)) != sorted(map(str, LANDMARKS)):
        return None
    return [meant.index(landmark) for landmark in LANDMARKS]


def _parse(name: str) -> tuple[str, str] | None:
    """The part and side that a name means."""
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
    tokens = []
    for token in re.findall(r"[a-z]+", words):
        found = TOGETHER.match(token)
        tokens += [part for part in found.groups() if part] if found else [token]
    if any(other in token for token in tokens for other in OTHERS):
        return None
    parts = {part for part, spellings in PARTS.items() if any(token.startswith(spellings) for token in tokens)}
    sides = {side for side, spellings in SIDES.items() if set(tokens) & set(spellings)}
    if len(parts) != 1 or len(sides) > 1:
        return None
    (part,) = parts
    if part == "nose":
        return "nose", ""
    return (part, sides.pop()) if sides else None


def right_before_left(
    faces: Sequence[Sequence[tuple[float, float, float]]], orders: Sequence[list[int] | None]
) -> bool:
    """Return True if the points named left lie right of those named right in most faces.

    The names then mean the person's own left. `faces` are five (x, y, visible) each.
    """
    balance = 0
    for points, order in zip(faces, orders, strict=True):
        for left, right in ((0, 1), (3, 4)) if order else ():
            a, b = points[order[left]], points[order[right]]    # type: ignore[index]
            if a[2] and b[2]:
                balance += (a[0] > b[0]) - (a[0] < b[0])
    return balance > 0
