"""Bins: faint pixels joined until V is known as well as wanted.

As Voronoi bins do (Cappellari & Copin 2003, MNRAS 342, 345) these join faint pixels and leave bright ones alone, but
they are squares of 1, 2 or 4 pixels on a grid.
"""

import torch

# N views, C channels, Q observed pixels along a side
SIDES = (2, 4)


def block_sums(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return the sums (..., Q / side, Q / side) of images (..., Q, Q) over blocks of pixels."""
    rows = sum(images[..., i::side, :] for i in range(side))
    assert isinstance(rows, torch.Tensor)
    return torch.as_tensor(sum(rows[..., i::side] for i in range(side)))


def joined(
    moments: torch.Tensor, error: torch.Tensor, valid: torch.Tensor, target: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return moments (N, 3, Q, Q) and the error of V (N, Q, Q) [km/s] as they are in bins, and the bins' sides.

    Every pixel of a bin has the mean over the bin's valid pixels. A bin is taken where any of its pixels, or of the
    bins in it, is less certain than the target [km/s], a number or (N, 1, 1). moments: density first.
    """
    pixels, seen = error.shape[-1], valid.to(error)
    light = moments[:, 0] * seen
    variance = error**2
    sides = torch.ones_like(light)
    is_poor = (light > 0) & (variance > target**2)
    # Sums over blocks: of what the means are made of, of valid pixels, and of the variance of a mean weighted by light.
    sums = _padded(torch.cat([moments * seen[:, None], torch.stack([seen, variance * light**2, light], 1)], 1))
    for side in SIDES:
        sums = block_sums(sums, 2)
        is_poor = block_sums(_padded(is_poor.to(light)), side) > 0
        is_joined = spread_over_blocks(is_poor, side, pixels)
        sides = sides.masked_fill(is_joined, float(side))
        mean = sums[:, :3] / sums[:, 3:4].clamp(min=1)
        block_variance = sums[:, 4] / sums[:, 5].clamp(min=1e-30) ** 2
        moments = torch.where(is_joined[:, None], spread_over_blocks(mean, side, pixels), moments)
        variance = torch.where(is_joined, spread_over_blocks(block_variance, side, pixels), variance)
        is_poor = is_joined & (variance > target**2)
    return moments, torch.where(sides > 1, variance.sqrt(), error), sides


def alike_in_bins(images: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, Q, Q) with the first pixel of its bin, of `joined`, in every pixel."""
    for side in SIDES:
        corners = spread_over_blocks(images[..., ::side, ::side], side, images.shape[-1])
        images = torch.where((sides == side)[:, None], corners, images)
    return images


def _padded(images: torch.Tensor) -> torch.Tensor:
    """Return images (..., Q, Q) with zeros at two edges, to a multiple of 4 pixels."""
    more = -images.shape[-1] % SIDES[-1]
    return torch.nn.functional.pad(images, (0, more, 0, more)) if more else images


def spread_over_blocks(values: torch.Tensor, side: int, pixels: int) -> torch.Tensor:
    """Return (..., pixels, pixels) with the value of its block in every pixel."""
    rows, columns = values.shape[-2:]
    spread = values[..., :, None, :, None].expand(*values.shape[:-2], rows, side, columns, side)
    return spread.reshape(*values.shape[:-2], side * rows, side * columns)[..., :pixels, :pixels]
