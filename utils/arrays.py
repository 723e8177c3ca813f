"""Names for the NumPy arrays that travel; importing them costs nothing, unlike importing torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]
Image = NDArray[np.uint8]    # (H, W, 3) BGR
