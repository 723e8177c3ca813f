"""Faces cut out upright, as networks for face recognition expect them."""

from __future__ import annotations

import cv2
import numpy as np

from utils.arrays import FloatArray, Image

# Where the five points lie in a crop of 112 pixels: the template of ArcFace (arXiv 1801.07698), which most others use too.
TEMPLATE_SIZE = 112
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])


def align_face(image: Image, landmarks: FloatArray, *, size: int = TEMPLATE_SIZE) -> Image:
    """The face with five landmarks (5,2) in an image (H,W,3), turned and scaled to (size,size,3); black where the image ends."""
    transform = similarity(landmarks, TEMPLATE * (size / TEMPLATE_SIZE))
    return np.asarray(cv2.warpAffine(image, transform, (size, size), flags=cv2.INTER_LINEAR), dtype=np.uint8)


def similarity(source: FloatArray, target: FloatArray) -> FloatArray:
    """The matrix (2,3) that turns, scales and shifts points (N,2) to lie as near to others (N,2) as can be, by least squares.

    Points that all coincide are shifted only.
    """
    source_mean, target_mean = source.mean(axis=0, dtype=np.float64), target.mean(axis=0, dtype=np.float64)
    x, y = (source - source_mean).T
    u, v = (target - target_mean).T
    spread = (x * x + y * y).sum()
    # a is the scale times the cosine of the angle, b the scale times its sine.
    a, b = ((x * u + y * v).sum() / spread, (x * v - y * u).sum() / spread) if spread > 0 else (1.0, 0.0)
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, target_mean - turn @ source_mean])
