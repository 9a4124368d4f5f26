"""A neural spline flow as zuko's, whose splines are made faster on a processor.

torch's softmax over the last axis takes many times as long per number where this axis is short, as the eight bins of a
spline are, than over the first. Splines of samples spend most of their time there.
"""

import math
from functools import partial
from typing import Any

import torch
import zuko
from torch.distributions import Transform
from torch.nn import functional
from zuko.transforms import MonotonicRQSTransform

# B bins


class Spline(MonotonicRQSTransform):  # type: ignore[misc]
    """A monotonic rational-quadratic spline (Durkan et al. 2019, arXiv:1906.04032), as zuko's but for rounding.

    widths and heights (..., B) and derivatives (..., B - 1) are unconstrained; bound and slope as zuko's
    since 1.5, whatever its version.
    """

    def __init__(
        self,
        widths: torch.Tensor,
        heights: torch.Tensor,
        derivatives: torch.Tensor,
        bound: float = 5.0,
        slope: float = 1e-3,
    ):
        Transform.__init__(self)  # zuko's makes the same knots by a softmax over the last axis
        least = math.log(slope)
        self.horizontal = bound * _knots(widths / (1 + (2 / least * widths).abs()))
        self.vertical = bound * _knots(heights / (1 + (2 / least * heights).abs()))
        inner = derivatives / (1 + (derivatives / least).abs())
        self.derivatives = torch.exp(functional.pad(inner, (1, 1), value=0))


def _knots(bins: torch.Tensor) -> torch.Tensor:
    """Return the knots (..., B + 1) from -1 to 1 of bins (..., B) whose shares are the softmax of these numbers."""
    share = torch.softmax(bins.movedim(-1, 0).contiguous(), 0).movedim(0, -1)
    return 2 * torch.cumsum(functional.pad(share, (1, 0), value=0), dim=-1) - 1


class SplineFlow(zuko.flows.MAF):  # type: ignore[misc]
    """zuko's `NSF` of these splines: the same weights by the same names, and the same numbers but for rounding."""

    def __init__(self, features: int, context: int = 0, bins: int = 8, slope: float = 1e-3, **kwargs: Any):
        shapes = [(bins,), (bins,), (bins - 1,)]
        super().__init__(features, context, univariate=partial(Spline, slope=slope), shapes=shapes, **kwargs)
        self.register_load_state_dict_pre_hook(_with_own_base)


def _with_own_base(flow: SplineFlow, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give weights that are to be loaded the flow's own base: a standard normal, which zuko has renamed once."""
    for name in [name for name in state if name.startswith(f"{prefix}base.")]:
        del state[name]
    state |= flow.base.state_dict(prefix=f"{prefix}base.")
