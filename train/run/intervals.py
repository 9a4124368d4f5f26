"""Central intervals of samples, which hold the share of truths that they are named after, however few samples are.

Of n samples, and a truth of the same distribution, each of the n + 1 gaps between the sorted numbers holds the truth
equally often. So what lies below the i-th of them (i from 1) is a share i / (n + 1) of truths: plotting positions of
Weibull (1939; Hyndman & Fan 1996, American Statistician 50, 361, definition 6). Numpy's default takes
(i - 1) / (n - 1), for which a 68.27 % interval of 200 samples holds 67.6 % of the truths, and a 95.45 % one 94.5 %.
Between two of the numbers, the quantile is interpolated linearly; beyond the first and the last it is these, so that
fewer than 43 samples have no interval that holds 95.45 %. Coverage is counted by ranks (`held`).
"""

from collections.abc import Sequence

import numpy as np

# N views, K radii, S samples, Q shares
#: Probabilities of the central intervals: one and two standard deviations of a Gaussian.
LEVELS = (0.6827, 0.9545)
#: Cumulative probabilities of the ends of the central 68.27 and 95.45 % intervals, and of the median.
SHARES = (*(0.5 + side * level / 2 for level in LEVELS for side in (-1, 1)), 0.5)


def quantiles(samples: np.ndarray, shares: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the quantiles (Q, ...) of samples (S, ...) at shares (Q,), or (...) at a single share.

    >>> np.round(quantiles(np.array([3.0, 1.0, 2.0]), [0.25, 0.5, 0.8]), 6).tolist()
    [1.0, 2.0, 3.0]
    """
    return np.asarray(np.quantile(samples, shares, axis=0, method="weibull"))


def quantile_of_sorted(sorted_values: np.ndarray, share: float) -> np.ndarray:
    """Return `quantiles` (...) at one share of numbers (..., S) that are sorted along the last axis."""
    n = sorted_values.shape[-1]
    position = min(max(share * (n + 1) - 1, 0.0), n - 1.0)
    low = int(position)
    return np.asarray(
        sorted_values[..., low] + (position - low) * (sorted_values[..., min(low + 1, n - 1)] - sorted_values[..., low])
    )


def held(n_below: np.ndarray, n_samples: int, level: float) -> np.ndarray:
    """Return how far (...) each truth lies in the central interval of its samples that holds a share `level`: 0 to 1.

    n_below (...): the number of samples below the truth, of n_samples. An end of the interval that lies between two
    samples, and not on one, holds the truths between these two in part, by how near the end is to either. So its mean
    over right posteriors is `level` exactly, whatever their shape and for any number of samples: it is the probability
    that the rank of the truth, spread evenly over 1 / (n_samples + 1), lies within `level` / 2 of one half.
    """
    outside = 0.5 * (1 - level) * (n_samples + 1)
    above_low_end = np.clip(n_below + 1 - outside, 0, 1)
    below_high_end = np.clip(n_samples - n_below + 1 - outside, 0, 1)
    return np.asarray(above_low_end + below_high_end - 1)
