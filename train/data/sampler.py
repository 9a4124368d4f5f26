"""Draws which views a step sees, how they are turned, and their noise.

All draws depend only on (seed, step, place in the batch): they are the same for any number of processes, in a run that
was stopped, on a CPU and on a GPU, and a process draws only its own share.
"""

import math
from functools import lru_cache

import numpy as np
import torch

from kinmass.gen.instruments.looks import CHOICES, MAPS, Look, leaves_out


def _signed(constant: int) -> int:
    """Return the signed number that has the same 64 bits, as torch's int64 holds them."""
    return constant - (1 << 64) if constant >= 1 << 63 else constant


_INCREMENT, _FIRST_FACTOR, _SECOND_FACTOR = (
    _signed(constant) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def random_bits(counter: torch.Tensor, seed: int) -> torch.Tensor:
    """Return 64 random bits (int64) for every counter (int64), the same on every device.

    By splitmix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195).
    """
    x = (counter * _INCREMENT).add_(_signed(seed * 0xD1342543DE82EF95 % (1 << 64)))
    x.bitwise_xor_(_shifted(x, 30)).mul_(_FIRST_FACTOR)
    x.bitwise_xor_(_shifted(x, 27)).mul_(_SECOND_FACTOR)
    return x.bitwise_xor_(_shifted(x, 31))


def normal(counter: torch.Tensor, seed: int) -> torch.Tensor:
    """Return standard normal numbers (N, 2 M) for counters (N, M), by Box & Muller (1958) from 32 bits each."""
    bits = random_bits(counter, seed)
    uniform = _shifted(bits, 32).add_(1).float().mul_(2.0**-32)
    radius = uniform.log_().mul_(-2.0).sqrt_()
    angle = (bits & 0xFFFFFFFF).float().mul_(2 * math.pi * 2.0**-32)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)


def draws(samples: torch.Tensor, pixels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random bits (N,), for choices, and standard normal noise (N, 4, P, P).

    samples (N,) number the views that a run has drawn, from its first step on.
    """
    half = 2 * pixels**2
    counter = samples[:, None] * (half + 1) + torch.arange(half + 1, device=samples.device)
    return random_bits(counter[:, 0], seed), normal(counter[:, 1:], seed).reshape(-1, 4, pixels, pixels)


#: Added to a run's seed to draw looks.
_LOOK_SEED_OFFSET = 11_000_003


def looks(samples: torch.Tensor, pixels: int, seed: int) -> Look:
    """Return the numbers of a look for each of `samples` (N,), as in `draws`; pixels are those of the stored maps."""
    half = MAPS // 2 * pixels**2
    first, seed = samples[:, None] * (half + CHOICES), seed + _LOOK_SEED_OFFSET
    counter = first + torch.arange(half, half + CHOICES, device=samples.device)
    choices = _shifted(random_bits(counter, seed), 40).float() * 2.0**-24
    maps = LookMaps(first, pixels, seed)
    return Look(choices, maps if leaves_out(samples.device) else maps[slice(None), slice(0, MAPS)])


#: Normal numbers from which looks take theirs, at least; and per pixel of a map.
_POOL, _POOL_PER_PIXEL = 2**20, 16


@lru_cache(maxsize=4)
def _pool(n_pixels: int, device: torch.device) -> torch.Tensor:
    half = max(_POOL, _POOL_PER_PIXEL * n_pixels) // 2
    return normal(torch.arange(half)[None], _LOOK_SEED_OFFSET)[0].to(device)


class LookMaps:
    """The normal numbers (N, MAPS, P, P) of looks, taken when they are asked for: most looks need few of them.

    first (N, 1): the first counter of each look. A map is P^2 numbers in a row, from anywhere in one pool of a million,
    which is the same on all devices: to draw them anew for every look takes a processor five times as long.
    """

    def __init__(self, first: torch.Tensor, pixels: int, seed: int):
        self._first, self._pixels, self._seed = first, pixels, seed

    def __getitem__(self, index: tuple[torch.Tensor | slice, slice]) -> torch.Tensor:
        """Return the maps (M, K, P, P) of looks, a list (M,) or a slice, and of K maps, a slice."""
        first, n = self._first[index[0]], self._pixels**2
        counter = first + torch.arange(*index[1].indices(MAPS), device=first.device)
        rows = _pool(n, first.device).unfold(0, n, 1)
        begin = _shifted(random_bits(counter, self._seed), 32) % len(rows)
        return rows[begin.flatten()].reshape(*counter.shape, self._pixels, self._pixels)


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


class Shuffle:
    """Cuts batches from one shuffle of all n views after another; an epoch's last batch reaches into the next epoch."""

    def __init__(self, n: int, batch: int, seed: int):
        self.n, self.batch, self.seed = n, batch, seed

    def rows(self, step: int) -> np.ndarray:
        """Return the views (batch,) of a step."""
        samples = step * self.batch + np.arange(self.batch)
        epochs, within = np.divmod(samples, self.n)
        rows = np.empty(self.batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            rows[in_epoch] = _permutation(self.n, self.seed, int(epoch))[within[in_epoch]]
        return rows


class Lanes:
    """Makes batches of which a window of steps needs few galaxies, for maps that are read as they are needed.

    Each epoch shuffles the galaxies, lines up all their views, and cuts this line into lanes, one for each place in a
    batch. There are fewer lanes where a window of `window` steps would have less than GALAXIES galaxies per lane,
    because galaxies are read with all their views. Each place in the batch moves along a lane, in an order shuffled
    inside windows: a batch has views from all over the store, and a window needs few galaxies. To fill its last batch
    an epoch repeats up to batch - 1 views.
    """

    GALAXIES = 4

    def __init__(self, galaxy: np.ndarray, batch: int, seed: int, window: int):
        self.batch, self.seed, self.window = batch, seed, window
        self.steps = -(-len(galaxy) // batch)  # per epoch
        self._starts = np.flatnonzero(np.diff(galaxy, prepend=-1))
        self._counts = np.diff(np.append(self._starts, len(galaxy)))
        most_lanes = window * batch / (self.GALAXIES * self._counts.mean())
        self.lanes = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, most_lanes))

    def windows(self) -> int:
        """Return how many windows an epoch has."""
        return -(-self.steps // self.window)

    def at(self, step: int) -> tuple[int, int]:
        """Return a step's window, counted from the run's first window, and the step's number in that window."""
        epoch, within = divmod(step, self.steps)
        return epoch * self.windows() + within // self.window, within % self.window

    @lru_cache(maxsize=2)  # noqa: B019 - the cache lives as long as the process
    def _epoch(self, epoch: int) -> np.ndarray:
        order = _permutation(len(self._starts), self.seed, epoch)
        counts = self._counts[order]
        ends = np.cumsum(counts)
        rows = np.repeat(self._starts[order] - (ends - counts), counts) + np.arange(ends[-1])
        return np.resize(rows, (self.lanes, self.batch // self.lanes * self.steps))

    def rows(self, number: int) -> np.ndarray:
        """Return the views (steps, batch) of a window."""
        epoch, window = divmod(number, self.windows())
        places_per_lane = self.batch // self.lanes
        columns = slice(window * self.window * places_per_lane, (window + 1) * self.window * places_per_lane)
        shuffled = np.random.default_rng((self.seed, epoch, window)).permuted(self._epoch(epoch)[:, columns], axis=1)
        return shuffled.reshape(self.lanes, -1, places_per_lane).transpose(1, 2, 0).reshape(-1, self.batch)
