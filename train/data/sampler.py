"""Which views a step sees, turned how and under which noise.

All of it follows (seed, step, place in the batch) and nothing else: any number of processes, a run that was
stopped, a CPU and a GPU draw the same, and a process draws only its own share.
"""

import math
from functools import lru_cache

import numpy as np
import torch


def _signed(constant: int) -> int:
    """64 bits as torch's int64 holds them."""
    return constant - (1 << 64) if constant >= 1 << 63 else constant


_STEP, _FIRST, _SECOND = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def random_bits(counter: torch.Tensor, seed: int) -> torch.Tensor:
    """64 random bits (int64) for every counter (int64): splitmix64 (Steele, Lea & Flood 2014), whatever the device."""
    x = counter * _STEP + _signed(seed * 0xD1342543DE82EF95 % (1 << 64))
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def normal(counter: torch.Tensor, seed: int) -> torch.Tensor:
    """(N, 2 M) standard normal numbers for counters (N, M), by Box & Muller (1958) from 32 bits each."""
    bits = random_bits(counter, seed)
    radius = torch.sqrt(-2.0 * torch.log((_shifted(bits, 32) + 1).float() * 2.0**-32))
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)


def draws(samples: torch.Tensor, pixels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bits (N,) to choose by and standard normal noise (N, 4, P, P) for samples (N,) counted over the run."""
    half = 2 * pixels**2
    counter = samples[:, None] * (half + 1) + torch.arange(half + 1, device=samples.device)
    return random_bits(counter[:, 0], seed), normal(counter[:, 1:], seed).reshape(-1, 4, pixels, pixels)


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


class Shuffle:
    """Batches from one shuffle of all n views after another; the last batch of an epoch reaches into the next."""

    def __init__(self, n: int, batch: int, seed: int):
        self.n, self.batch, self.seed = n, batch, seed

    def rows(self, step: int) -> np.ndarray:
        """(batch,) views of a step."""
        at = step * self.batch + np.arange(self.batch)
        epochs, within = np.divmod(at, self.n)
        out = np.empty(self.batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = _permutation(self.n, self.seed, int(epoch))[within[here]]
        return out


class Lanes:
    """Batches whose views lie near each other in the store, for maps that are read as they are needed.

    Each epoch shuffles the galaxies and cuts the row of their views into lanes, one for each place in a batch;
    fewer where a window of `window` steps would be short of GALAXIES galaxies a lane, for they are read whole.
    Each place walks along a lane, shuffled inside windows: a batch has views from all over the store, and a
    window needs few galaxies. To fill the last batch an epoch repeats up to batch - 1 views.
    """

    GALAXIES = 4

    def __init__(self, galaxy: np.ndarray, batch: int, seed: int, window: int):
        self.batch, self.seed, self.window = batch, seed, window
        self.steps = -(-len(galaxy) // batch)  # an epoch's
        self._starts = np.flatnonzero(np.diff(galaxy, prepend=-1))
        self._counts = np.diff(np.append(self._starts, len(galaxy)))
        most = window * batch / (self.GALAXIES * self._counts.mean())
        self.lanes = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, most))

    def windows(self) -> int:
        """How many windows an epoch has."""
        return -(-self.steps // self.window)

    def at(self, step: int) -> tuple[int, int]:
        """The window of a step, counted from the run's first, and which of the window's steps it is."""
        epoch, within = divmod(step, self.steps)
        return epoch * self.windows() + within // self.window, within % self.window

    @lru_cache(maxsize=2)  # noqa: B019 - lives as long as the process
    def _epoch(self, epoch: int) -> np.ndarray:
        order = _permutation(len(self._starts), self.seed, epoch)
        counts = self._counts[order]
        ends = np.cumsum(counts)
        rows = np.repeat(self._starts[order] - (ends - counts), counts) + np.arange(ends[-1])
        return np.resize(rows, (self.lanes, self.batch // self.lanes * self.steps))

    def rows(self, number: int) -> np.ndarray:
        """(steps, batch) views of a window."""
        epoch, k = divmod(number, self.windows())
        each = self.batch // self.lanes  # places that share a lane
        here = slice(k * self.window * each, (k + 1) * self.window * each)
        mixed = np.random.default_rng((self.seed, epoch, k)).permuted(self._epoch(epoch)[:, here], axis=1)
        return mixed.reshape(self.lanes, -1, each).transpose(1, 2, 0).reshape(-1, self.batch)
