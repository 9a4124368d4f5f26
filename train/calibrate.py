"""How much wider or narrower posteriors have to be, told by galaxies that were not trained on.

A network that has seen its training galaxies often is a little too sure of others. One number mends most of
it, as the temperature of a classifier does (Guo et al. 2017, arXiv:1706.04599): the normal numbers that the
density turns into profiles are multiplied by it.
"""

import numpy as np

# N views, K radii, S samples
#: The central intervals that are to hold what they promise: one and two standard deviations of a Gaussian.
LEVELS = (0.6827, 0.9545)


def misses(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, K, 2) how far off the truth (N, K) is from the median, over the half width of the 68 and 95 % intervals.

    Each side of the median has its own half width, from samples (S, N, K).
    """
    found = []
    for level in LEVELS:
        low, median, high = np.quantile(samples, [0.5 - level / 2, 0.5, 0.5 + level / 2], axis=0)
        side = np.where(truth < median, median - low, high - median)
        found.append(np.abs(truth - median) / np.maximum(side, 1e-9))
    return np.stack(found, axis=-1)


def temperature(miss: np.ndarray) -> float:
    """By how much to widen intervals so that the levels are held: from `misses` (N, K, 2), in the mean of radii.

    To a thousandth: further digits are those of the samples, and differ with the number of processes.
    """
    return round(float(np.mean([np.quantile(miss[..., i], level, axis=0).mean() for i, level in enumerate(LEVELS)])), 3)
