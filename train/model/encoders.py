"""Encoders: networks that turn one tracer's dimensionless maps into features. Experiments show which is best.

All take (N, 4, P, P) maps - log density, V, sigma, mask - and return (N, F) features. Where `is_told` they take the
errors and numbers of `scaling.told_inputs` too: channels after the mask, and numbers (N, T) of each view.
docs/benchmarks/networks.md compares them.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kinmass.train.model.scaling import ERRORS_TOLD, NUMBERS_TOLD

# N views, P pixels along a side, F features, R rings, A angles, C channels, T numbers that are told of a view
#: Rings and angles of the polar grid. Rings are about a pixel of the demo's maps wide.
RINGS, ANGLES = 14, 16
#: Share of a polar cell that is seen at least in one that shows something.
LEAST_SHARE = 1e-3


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Return the layer that normalises activations (N, C, ...). Raises ValueError for an unknown kind.

    `group` uses each view's own statistics, the same on one process or many; `batch` those of the batch.
    """
    if kind == "group":
        return nn.GroupNorm(4, channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"unknown norm {kind!r}; there are group, batch")


def _channels(is_told: bool) -> int:
    return 4 + (ERRORS_TOLD + NUMBERS_TOLD) * is_told


def _spread(maps: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
    """Return maps (N, C + T, P, P) with the numbers told of each view (N, T) in all of its valid pixels."""
    return maps if told is None else torch.cat([maps, told[:, :, None, None] * maps[:, 3:4]], dim=1)


class PlainEncoder(nn.Module):
    """Convolutions that halve the map three times, then pooling over the sky by mean and by maximum."""

    def __init__(
        self, width: int, n_features: int, norm: str, pixels: int, field_of_view_re: float, is_told: bool = False
    ):
        super().__init__()

        def stage(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
            """Return the layers of one 3 x 3 convolution from c_in to c_out channels."""
            conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
            return [conv, norm_layer(norm, c_out), nn.SiLU(inplace=True)]

        self.layers = nn.Sequential(
            *stage(_channels(is_told), width, 2),
            *stage(width, width, 1),
            *stage(width, 2 * width, 2),
            *stage(2 * width, 2 * width, 1),
            *stage(2 * width, 3 * width, 2),
            *stage(3 * width, 3 * width, 1),
        )
        self.out = nn.Linear(6 * width, n_features)

    def forward(self, maps: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """Return features (N, F)."""
        x = self.layers(_spread(maps, told))
        return self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


class _Residual(nn.Module):
    """x + f(x), with two 3 x 3 convolutions and a normalisation before each; `wrap` pads the last axis as a circle."""

    def __init__(self, c_in: int, c_out: int, norm: str, stride: tuple[int, int], wrap: bool):
        super().__init__()
        self.wrap, self.stride = wrap, stride
        self.first, self.second = norm_layer(norm, c_in), norm_layer(norm, c_out)
        padding = (1, 0) if wrap else (1, 1)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=padding, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=padding, bias=False)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def _pad_around(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., -1:], x, x[..., :1]], dim=-1) if self.wrap else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return activations (N, c_out, ...) of x (N, c_in, R, A) or (N, c_in, P, P), smaller by the stride."""
        out = self.conv1(self._pad_around(functional.silu(self.first(x))))
        out = self.conv2(self._pad_around(functional.silu(self.second(out))))
        return self.skip(self._pooled(x)) + out

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Return the means of x (N, C, R, A) over blocks of the stride."""
        if self.stride == (1, 2):  # a processor takes a fifth of the time of torch's pooling
            return 0.5 * (x[..., ::2] + x[..., 1::2])
        return functional.avg_pool2d(x, self.stride) if self.stride != (1, 1) else x


class ResidualEncoder(nn.Module):
    """A residual network over the pixels, pooled over the sky by mean and by maximum."""

    def __init__(
        self, width: int, n_features: int, norm: str, pixels: int, field_of_view_re: float, is_told: bool = False
    ):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(_channels(is_told), width, 3, stride=2, padding=1, bias=False),
            _Residual(width, width, norm, (1, 1), wrap=False),
            _Residual(width, 2 * width, norm, (2, 2), wrap=False),
            _Residual(2 * width, 3 * width, norm, (2, 2), wrap=False),
            norm_layer(norm, 3 * width),
            nn.SiLU(),
        )
        self.out = nn.Linear(6 * width, n_features)

    def forward(self, maps: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """Return features (N, F)."""
        x = self.layers(_spread(maps, told))
        return self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


def polar_weights(pixels: int, field_of_view_re: float) -> torch.Tensor:
    """Return the weights (R A, P P) of a map's pixels in the cells of a polar grid about its centre.

    Each row adds up to one. Rings lie evenly from the centre to the edge of the field. A cell's weight is a tent
    function of r and of angle, no narrower than a pixel: far out a cell averages all pixels that it covers, near the
    centre it interpolates.
    """
    offset = np.arange(pixels) + 0.5 - pixels / 2
    pixel_radius, pixel_angle = (
        np.hypot(offset[:, None], offset[None, :]).ravel(),
        np.arctan2(offset[:, None], offset[None, :] + 0 * offset[:, None]).ravel(),
    )
    ring_width = max(pixels / 2 / RINGS, 1.0)
    ring_radii = (np.arange(RINGS) + 0.5) * pixels / 2 / RINGS
    cell_angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    angle_difference = np.abs((pixel_angle[None, :] - cell_angles[:, None] + np.pi) % (2 * np.pi) - np.pi)
    radial_weight = np.clip(1 - np.abs(pixel_radius[None, :] - ring_radii[:, None]) / ring_width, 0, None)
    # At least 1.5 pixels of arc, so that a pixel near the centre, which spans many angles, belongs to all of them.
    angular_width = np.maximum(2 * np.pi / ANGLES, 1.5 / np.maximum(pixel_radius, 0.5))
    angular_weight = np.clip(1 - angle_difference / angular_width[None, :], 0, None)
    weights = (radial_weight[:, None, :] * angular_weight[None, :, :]).reshape(RINGS * ANGLES, -1)
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))


@lru_cache(maxsize=4)
def _pixels_of_cells(
    pixels: int, field_of_view_re: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the pixels of each polar cell one cell after another, where each cell begins, and the pixels' weights."""
    weights = polar_weights(pixels, field_of_view_re)
    cell, pixel = weights.nonzero(as_tuple=True)
    first = torch.searchsorted(cell, torch.arange(len(weights)))
    return pixel, first, weights[cell, pixel].to(dtype)


class PolarEncoder(nn.Module):
    """A residual network over a polar grid: turning the sky turns its activations, and pooling removes the turn.

    Radii are kept to the end, because a mass profile is a function of radius; angles are pooled by mean and by
    maximum. Like that of Weiler & Cesa 2019 (arXiv:1911.08251) it is equivariant, but by its coordinates (Esteves et
    al. 2018, arXiv:1709.01889) rather than by its kernels.
    """

    weights: torch.Tensor
    radius: torch.Tensor
    layers: nn.Sequential

    def __init__(
        self, width: int, n_features: int, norm: str, pixels: int, field_of_view_re: float, is_told: bool = False
    ):
        super().__init__()
        self._grid = pixels, field_of_view_re
        self.register_buffer("weights", polar_weights(pixels, field_of_view_re), persistent=False)
        self.layers = nn.Sequential(
            nn.Conv2d(_channels(is_told) + 1, width, 1, bias=False),
            _Residual(width, width, norm, (1, 1), wrap=True),
            _Residual(width, 2 * width, norm, (1, 2), wrap=True),
            _Residual(2 * width, 2 * width, norm, (1, 2), wrap=True),
            norm_layer(norm, 2 * width),
            nn.SiLU(),
        )
        self.out = nn.Linear(4 * width * RINGS, n_features)
        radius = torch.linspace(-1, 1, RINGS)[None, None, :, None].expand(1, 1, RINGS, ANGLES).clone()
        self.register_buffer("radius", radius, persistent=False)

    def polar(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps in polar cells (N, 4, R, A): means over each cell's valid pixels, and their share.

        Channels after the mask are means over valid pixels too.
        """
        cells = self._over_cells(maps).unflatten(2, (RINGS, ANGLES))
        valid = cells[:, 3:4]
        means = cells / torch.where(valid > LEAST_SHARE, valid, torch.inf)
        return torch.cat([means[:, :3], valid, means[:, 4:]], dim=1)

    def _over_cells(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the weighted sums (N, C, R A) of maps (N, C, P, P) over polar cells.

        A cell has one pixel in seventy: a processor adds up these alone, in a tenth of the time of the whole product.
        """
        if maps.device.type != "cpu":
            return maps.flatten(2) @ self.weights.T
        pixel, first, weight = _pixels_of_cells(*self._grid, maps.dtype)
        by_pixel = maps.flatten(2).flatten(0, 1).T.contiguous()
        sums = functional.embedding_bag(pixel, by_pixel, first, mode="sum", per_sample_weights=weight)
        return sums.T.contiguous().unflatten(0, maps.shape[:2])

    def rings(self, maps: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """Return what each ring shows (N, C, R), pooled over angles."""
        cells = self.polar(maps)
        inputs = torch.cat([cells, self.radius.expand(len(cells), -1, -1, -1)], dim=1)
        x = self.layers[0](inputs) if told is None else self._first_of_told(inputs, told)
        x = self.layers[1:](x)
        return torch.cat([x.mean(3), x.amax(3)], dim=1)

    def _first_of_told(self, inputs: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Return what the first layer gives if every cell that shows something has the numbers told of its view.

        A number's part is one product for a view; as a channel it would cost as much as a map.
        """
        first = self.layers[0]
        assert isinstance(first, nn.Conv2d)
        weight = first.weight
        of_maps, of_numbers, of_radius = weight.split([weight.shape[1] - NUMBERS_TOLD - 1, NUMBERS_TOLD, 1], dim=1)
        x = functional.conv2d(inputs, torch.cat([of_maps, of_radius], dim=1))
        shows_something = (inputs[:, 3:4] > LEAST_SHARE).to(x)
        return torch.addcmul(x, (told @ of_numbers[:, :, 0, 0].T)[:, :, None, None], shows_something)

    def forward(self, maps: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """Return features (N, F)."""
        return self.out(self.rings(maps, told).flatten(1))


class RingEncoder(PolarEncoder):
    """A `PolarEncoder` that keeps rings apart, for `join.AttentionJoin`."""

    def __init__(
        self, width: int, n_features: int, norm: str, pixels: int, field_of_view_re: float, is_told: bool = False
    ):
        super().__init__(width, n_features, norm, pixels, field_of_view_re, is_told)
        del self.out

    def forward(self, maps: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """Return rings (N, R, C)."""
        return self.rings(maps, told).transpose(1, 2)


ENCODERS = {"plain": PlainEncoder, "residual": ResidualEncoder, "polar": PolarEncoder}
