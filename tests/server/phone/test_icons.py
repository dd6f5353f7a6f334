"""The icon: a PNG of the size that was asked for, with what counts in the middle."""

import io

import numpy as np
import pytest
from PIL import Image

from melfed.server.phone.icons import icon


@pytest.mark.parametrize("side", [192, 512])
def test_it_is_drawn_at_any_size_and_leaves_its_edge_free(side: int) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(icon(side))))
    assert pixels.shape == (side, side, 3)
    rows, columns = np.mgrid[:side, :side] + 0.5 - side / 2
    outside = pixels[np.hypot(rows, columns) > 0.4 * side]
    assert (outside == outside[0]).all(), "systems cut a circle of 80 % out"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 4
