"""How the process handles memory that was freed."""

from __future__ import annotations

import ctypes
import os

# mallopt's names for the size from which memory comes straight from the system, at most 32 MB, and for how much freed memory is kept.
MMAP_THRESHOLD, TRIM_THRESHOLD = (-3, 2**25), (-1, 2**29)


def keep_freed_memory() -> None:
    """Tell glibc to use the memory of one picture for the next.

    By default it gives large pieces back, and the system hands them out again page by page and cleared, which takes as long as decoding
    a picture does. Up to 512 MB stay with the process. Other systems' libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for name, size in (MMAP_THRESHOLD, TRIM_THRESHOLD):
        mallopt(name, size)


def keep_few_primitives(*, many_sizes: bool) -> None:
    """Have oneDNN keep few of the convolutions that it prepared; this has to come before the first of them. Not for training.

    By default it keeps 1,024 with all that they work on, which for photos of many sizes come to hundreds of MB. One image size takes some
    70, with MobileNet as with ResNet50; where hardly any size comes twice, none is worth keeping.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16" if many_sizes else "80")
