"""The pixels that a detector's masks stand for."""

from __future__ import annotations

import math

import cv2
import numpy as np

from utils.arrays import BoolArray, FloatArray, Image

MASK = 128    # of 255: a pixel from here on shows the object


def encode_mask(mask: BoolArray) -> dict[str, list[int]]:
    """Encode a mask (H,W) as COCO's uncompressed run lengths: {"size": [H, W], "counts": [...]}.

    The counts are those of pixels without and with the object in turn, column by column, and begin
    with pixels without.
    """
    pixels = np.concatenate([[False], mask.T.ravel()])
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]), mask.size)
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}


def paste_mask(mask: Image, box: FloatArray, *, height: int, width: int) -> Image:
    """A mask (M,M) uint8, cells of a grid over its box (4,) xyxy, as an image (H,W) uint8 of height x width pixels.

    Each pixel takes its value where its centre lies, between the cells around it; outside of the box they are 0. So a mask moves with
    fractions of a pixel, as torchvision's, whose boxes are cut to whole pixels, does not.
    """
    image = np.zeros((height, width), np.uint8)
    x1, y1, x2, y2 = (float(value) for value in box)
    rows, columns = mask.shape
    cell_width, cell_height = (x2 - x1) / columns, (y2 - y1) / rows
    if cell_width <= 0 or cell_height <= 0:
        return image
    # Half a cell beyond the box the last traces of it are gone.
    left, top = max(0, math.floor(x1 - cell_width / 2)), max(0, math.floor(y1 - cell_height / 2))
    right, bottom = min(width, math.ceil(x2 + cell_width / 2)), min(height, math.ceil(y2 + cell_height / 2))
    if right <= left or bottom <= top:
        return image
    to_cells = np.array([
        [1 / cell_width, 0, (left + 0.5 - x1) / cell_width - 0.5],
        [0, 1 / cell_height, (top + 0.5 - y1) / cell_height - 0.5],
    ])    # fmt: skip
    image[top:bottom, left:right] = cv2.warpAffine(
        mask, to_cells, (right - left, bottom - top), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT
    )
    return image
