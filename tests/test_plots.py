from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.images import read_image
from utils.plots import plot_losses, plot_positions


def test_curves_and_histogram_are_pictures_without_a_display(tmp_path: Path) -> None:
    rows = [{"step": step, "lr": 0.1, "class": 3.0 / step, "box": 2.0 / step} for step in range(20, 200, 20)]
    plot_losses(rows, ["class", "box"], tmp_path / "losses.png")
    plot_positions(np.arange(64).reshape(8, 8), tmp_path / "positions.png")
    for name in ("losses.png", "positions.png"):
        picture = read_image(tmp_path / name, turn=False)
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 5
    assert len(list(tmp_path.iterdir())) == 2
