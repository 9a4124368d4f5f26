"""Which pixels are seen: footprints on the sky, the brightest pixels, lost ones."""

import math

import numpy as np
import torch

from kinmass.gen.instruments.looks import leaves_out
from kinmass.gen.instruments.model import FEWEST_PIXELS

# N views, Q observed pixels along a side
#: More pixels than any map has.
PIXELS_OF_ANY = 1e9


def inside(
    pixels: int,
    field_of_view_re: float,
    like: torch.Tensor,
    sides: torch.Tensor | int,
    radius_re: torch.Tensor | float,
    middle_re: tuple[torch.Tensor | float, torch.Tensor | float] = (0.0, 0.0),
    turn: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Return masks (N, Q, Q), or (1, Q, Q), of the pixels whose centres lie in a footprint.

    sides: of a regular polygon, 0 for a circle; radius_re: of the circle, or from the middle to the polygon's sides
    [R_e]; middle_re: x and y of the middle; turn [radian]. Numbers, or tensors (N, 1, 1).
    """
    offset = ((torch.arange(pixels, device=like.device, dtype=like.dtype) + 0.5) / pixels - 0.5) * field_of_view_re
    x, y = offset[None, None, :] - middle_re[0], offset[None, :, None] - middle_re[1]
    radius, angle = torch.hypot(x, y), torch.atan2(y, x) - turn
    if isinstance(sides, int):
        sides = torch.full_like(x[:1, :1, :1], sides)
    sector = 2 * math.pi / sides.clamp(min=1)
    # The distance along the normal of the nearest side; a circle's is the radius itself.
    from_normal = torch.remainder(angle + sector / 2, sector) - sector / 2
    return torch.where(sides > 0, radius * torch.cos(from_normal), radius) <= radius_re


def brightest(
    density: torch.Tensor, valid: torch.Tensor, share: torch.Tensor | float, most: torch.Tensor | float
) -> torch.Tensor:
    """Return masks (N, Q, Q) of a share (N, 1, 1) of the valid pixels, `most` (N, 1, 1) at most: the brightest.

    At least FEWEST_PIXELS are kept. Pixels that are not valid, but as bright, are in the masks as well.
    """
    flat = torch.where(valid, density, -1.0).flatten(1)
    share, most = (x.reshape(-1, 1) if isinstance(x, torch.Tensor) else x for x in (share, most))
    kept = (
        (share * valid.flatten(1).sum(1, keepdim=True))
        .clamp(max=most)
        .ceil()
        .clamp(min=FEWEST_PIXELS, max=flat.shape[1])
        .long()
    )
    faintest = _ascending(flat).gather(1, flat.shape[1] - kept.expand(len(flat), 1))
    return density >= faintest[:, :, None]


def _ascending(values: torch.Tensor) -> torch.Tensor:
    """Return rows (N, M) sorted. On a CPU NumPy does it in a thirtieth of torch's time."""
    return torch.from_numpy(np.sort(values.numpy())) if leaves_out(values.device) else values.sort(1).values


def nth_brightest(density: torch.Tensor, n: int) -> torch.Tensor:
    """Return the density (N, 1, 1) of the n-th brightest pixel of maps (N, Q, Q)."""
    return density.flatten(1).topk(min(n, density[0].numel()), dim=1).values[:, -1:, None]


def cut(valid: torch.Tensor, mask: torch.Tensor, always: bool) -> torch.Tensor:
    """Return valid pixels (N, Q, Q) that are also in a mask.

    always False: views that would keep fewer than FEWEST_PIXELS keep all they had, because a drawn loss that leaves
    nothing to learn from is no view.
    """
    both = valid & mask
    return both if always else torch.where(both.sum((1, 2), keepdim=True) >= FEWEST_PIXELS, both, valid)
