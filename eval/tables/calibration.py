"""Test whether posteriors have the right width: coverage, and TARP of the joint posterior, uniform in 0 to 1.

All functions need test views whose true profile is known.
"""

import numpy as np
from scipy.special import ndtr

from kinmass.gen.compiled import compiled
from kinmass.gen.physics.projection import FAST_MATH
from kinmass.train.run.intervals import held

# N views, K radii, S samples


def coverage(samples: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
    """Return the share (K,) of views whose truth (N, K) lies in the central interval that holds a share `level`.

    samples (S, N, K): of the posteriors. Its expectation is `level` for a right posterior, however few samples
    there are.
    """
    return np.asarray(held((samples < truth).sum(0), len(samples), level).mean(0))


def tarp(errors: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the rank (N,), in 0 to 1, of the truth among samples by distance from a random point.

    errors (N, K, S): the samples, in the order in which they were drawn, minus the truth.

    Tests of accuracy with random points (TARP, Lemos et al. 2023, arXiv:2302.03026): the share of samples that lie
    closer than the truth is uniform in 0 to 1 if and only if the joint posterior is calibrated, provided that the
    points depend on the observed maps. Of n samples it has n + 1 values; a random number spreads each of them evenly
    over 1 / (n + 1), so that every bin of a histogram is filled alike. Here
    points are drawn around each view's posterior, and distances are in units of its covariance; without that unit,
    the K masses, which are nearly equal, would count as one number. Mean and covariance come from the first half of
    the samples and the second half is counted, so both truth and counted samples are independent of the points.
    normal (N, K + 1): standard normal numbers, of which the last spreads the rank and the others make the points. NaN
    where the samples have no spread.
    """
    counted = errors.shape[-1] - errors.shape[-1] // 2
    return np.asarray((_closer_than_truth(errors, normal[:, :-1]) + ndtr(normal[:, -1])) / (counted + 1))


@compiled(fastmath=FAST_MATH)
def _closer_than_truth(errors, points):  # type: ignore[no-untyped-def]
    """How many (N,) of the second half of samples lie closer than the truth to points (N, K), given as in `tarp`.

    errors (N, K, S): samples minus truth. Distances are between L^-1 (x - mean), where L L^T is the covariance of the
    first half: L is found row by row, and each row is solved for all samples at once. One view after the other, so
    that all of it stays in the processor's caches.
    """
    n, k, n_samples = errors.shape
    half = n_samples // 2
    first, solved, distance2 = np.empty((k, half)), np.empty((k, n_samples - half)), np.empty(n_samples - half)
    truth, closer = np.empty(k), np.empty(n)
    for view in range(n):
        for i in range(k):
            total = 0.0
            for sample in range(half):
                total += errors[view, i, sample]
            mean = total / half
            for sample in range(half):
                first[i, sample] = errors[view, i, sample] - mean
            for sample in range(n_samples - half):
                solved[i, sample] = errors[view, i, half + sample] - mean
            truth[i] = -mean
        lower = np.dot(first, first.T) / half
        trace = np.trace(lower)
        truth_distance2 = 0.0
        distance2[:] = 0.0
        for i in range(k):
            lower[i, i] += 1e-9 * trace
            for j in range(i):
                for m in range(j):
                    lower[i, j] -= lower[i, m] * lower[j, m]
                lower[i, j] /= lower[j, j]
                lower[i, i] -= lower[i, j] ** 2
                truth[i] -= lower[i, j] * truth[j]
                for sample in range(n_samples - half):
                    solved[i, sample] -= lower[i, j] * solved[j, sample]
            lower[i, i] = np.sqrt(lower[i, i])
            truth[i] /= lower[i, i]
            truth_distance2 += (truth[i] - points[view, i]) ** 2
            for sample in range(n_samples - half):
                solved[i, sample] /= lower[i, i]
                distance2[sample] += (solved[i, sample] - points[view, i]) ** 2
        closer[view] = (distance2 < truth_distance2).sum() if np.isfinite(truth_distance2) else np.nan
    return closer
