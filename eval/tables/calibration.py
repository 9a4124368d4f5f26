"""Test whether posteriors have the right width: coverage, simulation-based calibration, a test of the joint posterior.

All functions need test views whose true profile is known. Ranks and TARP of calibrated posteriors are uniform in 0 to
1.
"""

import numpy as np
from scipy.special import ndtr
from scipy.stats import kstest

# N views, K radii, S samples


def ranks(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the share (N, K) of the samples (S, N, K) that lie below the truth (N, K).

    This is the rank statistic of simulation-based calibration (Talts et al. 2018, arXiv:1804.06788), also known as
    PIT. It is uniform in 0 to 1 for calibrated marginals, and piles up at both ends when they are too narrow.
    """
    return np.asarray((samples < truth).mean(0))


def coverage(rank: np.ndarray, level: float) -> np.ndarray:
    """Return the share (K,) of views whose truth lies in the central interval that should hold a share `level`.

    rank (N, K): from `ranks`.
    """
    return np.asarray((np.abs(rank - 0.5) < 0.5 * level).mean(0))


def tarp(samples: np.ndarray, truth: np.ndarray, normal: np.ndarray | None = None) -> np.ndarray:
    """Return the rank (N,), in 0 to 1, of the truth (N, K) among samples (S, N, K) by distance from a random point.

    Tests of accuracy with random points (TARP, Lemos et al. 2023, arXiv:2302.03026): the share of samples that lie
    closer than the truth is uniform in 0 to 1 if and only if the joint posterior is calibrated, provided that the
    points depend on the observed maps. Of n samples it has n + 1 values; a random number spreads each of them evenly
    over 1 / (n + 1), so that every bin of a histogram is filled alike. Here
    points are drawn around each view's posterior, and distances are in units of its covariance; without that unit,
    the K masses, which are nearly equal, would count as one number. Mean and covariance come from the first half of
    the samples and the second half is counted, so both truth and counted samples are independent of the points.
    normal (N, K + 1): standard normal numbers, of which the last spreads the rank and the others make the points; drawn
    with a fixed seed if None.
    """
    half = len(samples) // 2
    mean = samples[:half].mean(0, dtype=float)
    deviations = np.ascontiguousarray(np.moveaxis(samples, 0, 1)) - mean[:, None].astype(samples.dtype)  # (N, S, K)
    first_half = deviations[:, :half].astype(float)
    covariance = first_half.mT @ first_half / max(half, 1)
    trace = np.trace(covariance, axis1=1, axis2=2)[:, None, None]
    whiten = np.linalg.inv(np.linalg.cholesky(covariance + 1e-9 * trace * np.eye(truth.shape[1])))
    if normal is None:
        normal = np.random.default_rng(0).standard_normal((len(truth), truth.shape[1] + 1))
    points, spread = normal[:, :-1], ndtr(normal[:, -1])
    truth_distance = np.linalg.norm((whiten @ (truth - mean)[..., None])[..., 0] - points, axis=-1)
    sample_distances = np.linalg.norm(
        deviations[:, half:] @ whiten.mT.astype(deviations.dtype) - points[:, None].astype(deviations.dtype), axis=-1
    )
    n_closer = np.count_nonzero(sample_distances < truth_distance[:, None], axis=1)
    return np.asarray((n_closer + spread) / (len(samples) - half + 1))


def uniformity(values: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov p-value for independent values (N,) being uniform in 0 to 1."""
    return float(kstest(values, "uniform").pvalue)
