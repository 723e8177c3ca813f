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
MIRRORED = (1, 0, 2, 4, 3)    # the landmarks with left and right changed
Point = tuple[float, float, float]    # x, y, and whether it is labelled
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


def order_in_image(order: Sequence[int], faces: Sequence[Sequence[Point]]) -> list[int]:
    """Return an order of keypoints in which left is left in the image.

    The names of some tools mean the person's own left. That is so where the points named left lie
    right of those named right in most of the `faces`, each of which has five points.
    """
    balance = 0
    for points in faces:
        for left, right in ((0, 1), (3, 4)):
            a, b = points[order[left]], points[order[right]]
            if a[2] and b[2]:
                balance += (a[0] > b[0]) - (a[0] < b[0])
    return [order[place] for place in (MIRRORED if balance > 0 else range(len(order)))]
