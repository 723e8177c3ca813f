"""How many frames an animated image has, read from its blocks without decoding a pixel."""

from __future__ import annotations

from numpy.typing import NDArray

GIF_STARTS, PNG_START = (b"GIF87a", b"GIF89a"), b"\x89PNG\r\n\x1a\n"


def count_frames(encoded: NDArray) -> int:
    """Count the frames of a GIF, PNG or WebP file, given as bytes (N,) uint8; 1 for other files.

    Of a damaged file those are counted that come before the damage.
    """
    data = memoryview(encoded)    # type: ignore[arg-type]
    start = bytes(data[:12])
    try:
        if start.startswith(GIF_STARTS):
            return max(1, _count_gif(data))
        if start.startswith(PNG_START):
            return max(1, _count_png(data))
        if start[:4] == b"RIFF" and start[8:] == b"WEBP":
            return max(1, _count_webp(data))
    except IndexError:    # ends within a block
        pass
    return 1


def _count_png(data: memoryview) -> int:
    at = 8
    while at + 12 <= len(data):
        kind = bytes(data[at + 4 : at + 8])
        if kind == b"acTL":
            return int.from_bytes(data[at + 8 : at + 12], "big")
        if kind == b"IDAT":    # the count comes before the first frame
            return 1
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return 1


def _count_webp(data: memoryview) -> int:
    at, frames = 12, 0
    while at + 8 <= len(data):
        frames += bytes(data[at : at + 4]) == b"ANMF"
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return frames


def _count_gif(data: memoryview) -> int:
    at, frames = 13 + _color_table(data[10]), 0
    while at < len(data) and data[at] in (0x21, 0x2C):    # an extension, an image
        if data[at] == 0x2C:
            frames += 1
            at += 11 + (_color_table(data[at + 9]) if at + 9 < len(data) else 0)
        else:
            at += 2
        while at < len(data) and data[at]:    # sub-blocks, each behind its length
            at += 1 + data[at]
        at += 1
    return frames


def _color_table(flags: int) -> int:
    """Bytes of the color table that follows, if there is one."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
