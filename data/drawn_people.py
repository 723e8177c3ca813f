"""Draws people and their masks, laid out like Penn-Fudan's photos: python -m data.synthetic DIR --people"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data.painting import draw_background, random_color, skin
from data.penn_fudan import MASKS, PHOTOS, Regions
from utils.arrays import FloatArray, Image
from utils.images import write_image

MOST_PEOPLE = 3
HEIGHTS = (0.4, 0.85)    # of a person / height of the image
LEAST_VISIBLE = 0.5    # of a person's pixels, behind others; one of whom less is seen is left out
OVERSAMPLING = 4
ALPHA = 128    # of 255: how much of a pixel a person covers whose pixel it is

# A standing person of height 1 with the feet at (0, 0), upwards negative: head, then the middle line of trunk, arms and legs with their
# widths.
HEAD, HEAD_SIZE = (0.0, -0.92), (0.055, 0.075)
TRUNK, TRUNK_WIDTH = [(0.0, -0.78), (0.0, -0.5)], 0.17
ARM_WIDTH, LEG_WIDTH, FOOT_WIDTH = 0.06, 0.085, 0.06


def draw_people(folder: Path, *, images: int, size: int, seed: int) -> Path:
    """Draw PNGImages/ and PedMasks/ into a folder, and return it; pictures are size x 3/4 size pixels, and equal seeds draw equal ones."""
    for index in range(images):
        picture, regions = draw_group(np.random.default_rng((seed, index)), width=size, height=size * 3 // 4)
        name = f"drawn_{index:04d}"
        write_image(folder / PHOTOS / f"{name}.png", picture)
        write_image(folder / MASKS / f"{name}_mask.png", regions.astype(np.uint8))
    return folder


def draw_group(rng: np.random.Generator, *, width: int, height: int) -> tuple[Image, Regions]:
    """A picture (H,W,3) of one to three people and the regions (H,W) that show them; who stands further down stands in front."""
    side = max(width, height)
    picture = np.ascontiguousarray(draw_background(rng, side)[:height, :width])
    people = []
    for _ in range(int(rng.integers(1, MOST_PEOPLE + 1))):
        tall = height * rng.uniform(*HEIGHTS)
        foot = np.array([rng.uniform(0.12, 0.88) * width, rng.uniform(tall + 1, height - 1) if tall < height - 2 else height - 1])
        people.append((foot, tall))
    people.sort(key=lambda person: float(person[0][1]))
    layers = [_draw_person((height, width), foot, tall, rng) for foot, tall in people]
    shown: list[tuple[Image, Image]] = []
    covered = np.zeros((height, width), bool)
    for colors, alpha in reversed(layers):    # from the front
        own = alpha >= ALPHA
        if own.any() and (own & ~covered).sum() >= LEAST_VISIBLE * own.sum():
            shown.append((colors, alpha))
            covered |= own
    regions = np.zeros((height, width), np.int16)
    for number, (colors, alpha) in enumerate(reversed(shown), start=1):
        share = alpha[..., None] / 255
        picture = (picture * (1 - share) + colors * share).round().astype(np.uint8)
        regions[alpha >= ALPHA] = number
    return picture, regions


def _draw_person(shape: tuple[int, int], foot: FloatArray, tall: float, rng: np.random.Generator) -> tuple[Image, Image]:
    """The colours (H,W,3) of a person, and how much of each pixel it covers (H,W)."""
    height, width = shape
    canvas = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING, 3), np.uint8)
    cover = np.zeros(canvas.shape[:2], np.uint8)
    stride, swing, lean = rng.uniform(0.02, 0.13), rng.uniform(0.0, 0.2), rng.uniform(-0.03, 0.03)
    tone, shirt, trousers, shoes = skin(rng), random_color(rng), random_color(rng), random_color(rng)

    def place(points: list[tuple[float, float]]) -> np.ndarray:
        leaning = np.array([(x - lean * y, y) for x, y in points])
        return np.rint((foot + leaning * tall) * OVERSAMPLING).astype(np.int32)

    def limb(points: list[tuple[float, float]], thickness: float, color: tuple[int, int, int]) -> None:
        pixels = max(1, round(thickness * tall * OVERSAMPLING))
        cv2.polylines(canvas, [place(points)], False, color, pixels)
        cv2.polylines(cover, [place(points)], False, 255, pixels)

    for sign in (-1, 1):
        limb([(0.04 * sign, -0.48), (stride * sign * 0.6, -0.25), (stride * sign, -0.03)], LEG_WIDTH, trousers)
        limb([(stride * sign, -0.02), (stride * sign + 0.04, -0.02)], FOOT_WIDTH, shoes)
    limb([(0.09, -0.76), (0.12 + swing / 2, -0.6), (0.1 + swing, -0.46)], ARM_WIDTH, shirt)
    limb(TRUNK, TRUNK_WIDTH, shirt)
    limb([(-0.09, -0.76), (-0.12 - swing / 2, -0.6), (-0.1 - swing, -0.46)], ARM_WIDTH, shirt)
    limb([(0.0, -0.86), (0.0, -0.8)], 0.05, tone)
    axes = tuple(max(1, round(share * tall * OVERSAMPLING)) for share in HEAD_SIZE)
    centre = tuple(int(value) for value in place([HEAD])[0])
    hair = tuple(int(value * 0.4) for value in tone)
    cv2.ellipse(canvas, centre, axes, 0, 0, 360, tone, cv2.FILLED)
    cv2.ellipse(canvas, centre, axes, 0, 180, 360, hair, cv2.FILLED)
    cv2.ellipse(cover, centre, axes, 0, 0, 360, 255, cv2.FILLED)
    # Colours are averaged over the covered part of a pixel only.
    alpha = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA)
    mean = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    colors = mean * (255 / np.maximum(alpha, 1))[..., None]
    return np.clip(colors, 0, 255).astype(np.uint8), np.asarray(alpha, np.uint8)
