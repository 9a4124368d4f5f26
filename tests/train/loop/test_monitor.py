"""What TensorBoard shows of a fit."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from kinmass.train.loop.monitor import _draw_maps


def test_maps_are_drawn_upright_each_in_its_place_and_only_where_something_is_seen():
    side, gap = 8, 2
    observed = np.zeros((2, 8, side, side))
    observed[:, (3, 7), 0, 5:7] = 1  # two pixels of the lowest row are seen, of both tracers
    observed[:, 1:3, 0, 5:7] = [[-50, 50], [60, 30]]
    observed[:, 5:7, 0, 5:7] = [[-20, 20], [10, 5]]
    observed[:, 1, 4, 4] = 9999.0  # not seen
    axis = Figure().add_subplot()
    _draw_maps(axis, observed)
    (image,) = axis.get_images()
    canvas = np.asarray(image.get_array())
    at = {(i * (side + gap) + gap + side - 1, j * (side + gap) + k) for i in range(2) for j in range(4) for k in (5, 6)}
    assert {(int(y), int(x)) for y, x in np.argwhere((canvas != 1).any(-1))} == at
    red, blue = (mpl.colormaps["RdBu_r"](end)[:3] for end in (1.0, 0.0))
    for j in (0, 2):
        np.testing.assert_allclose(canvas[gap + side - 1, j * (side + gap) + 5], blue)
        np.testing.assert_allclose(canvas[gap + side - 1, j * (side + gap) + 6], red)
        largest = canvas[gap + side - 1, (j + 1) * (side + gap) + 5]
        np.testing.assert_allclose(largest, mpl.colormaps["viridis"](1.0)[:3])
    assert [text.get_text() for text in axis.texts[:3]] == [
        "V stars, to 50 km/s", "sigma stars, to 60 km/s", "V gas, to 20 km/s",
    ]  # fmt: skip
