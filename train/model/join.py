"""Joins: layers that make one set of features from those of several tracers. Experiments show which is best.

All take a list of one tensor per tracer, zeros for a tracer that is not to be used, and return features (N, F).
docs/benchmarks/networks.md compares them.
"""

from collections.abc import Sequence

import torch
from torch import nn

# N views, T tracers, F features, R rings, C channels
HEADS = 4


class ConcatJoin(nn.Sequential):
    """One layer over the features of all tracers beside each other: of (N, F_t) each."""

    def __init__(self, parts: Sequence[int], n_features: int):
        super().__init__(nn.SiLU(), nn.Linear(sum(parts), n_features), nn.SiLU())

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Return features (N, F)."""
        return super().forward(torch.cat(parts, dim=1))


class GatedJoin(nn.Module):
    """A layer per tracer, added with weights that all tracers decide on together (Arevalo et al. 2017, 1702.01992)."""

    def __init__(self, parts: Sequence[int], n_features: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, n_features) for n in parts)
        self.gates = nn.Linear(sum(parts), len(parts) * n_features)

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Return features (N, F)."""
        parts = [nn.functional.silu(part) for part in parts]
        share = self.gates(torch.cat(parts, dim=1)).unflatten(1, (len(parts), -1)).softmax(dim=1)
        values = torch.stack([layer(part) for layer, part in zip(self.layers, parts, strict=True)], dim=1)
        return nn.functional.silu((share * values).sum(1))


class AttentionJoin(nn.Module):
    """Rings of each tracer look at the rings of the others (Vaswani et al. 2017, 1706.03762), then `ConcatJoin`.

    Takes rings (N, R, C) of encoders that keep them.
    """

    def __init__(self, rings: int, channels: int, tracers: int, n_features: int):
        super().__init__()
        self.across = nn.ModuleList(
            nn.MultiheadAttention(channels, HEADS, batch_first=True) for _ in range(tracers if tracers > 1 else 0)
        )
        self.out = nn.ModuleList(nn.Linear(rings * channels, n_features) for _ in range(tracers))
        self.join = ConcatJoin([n_features] * tracers, n_features)

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Return features (N, F)."""
        looked = list(parts)
        for i, attention in enumerate(self.across):
            others = torch.cat([part for j, part in enumerate(parts) if j != i], dim=1)
            looked[i] = parts[i] + attention(parts[i], others, others, need_weights=False)[0]
        return self.join([layer(rings.flatten(1)) for layer, rings in zip(self.out, looked, strict=True)])


JOINS = ("concat", "gated", "attention")
