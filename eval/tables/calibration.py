"""Are posteriors as wide as they should be? Coverage, simulation-based calibration, and a test of the joint.

All of it looks at test views whose truth is known; calibrated posteriors give uniform numbers.
"""

import numpy as np
from scipy.stats import kstest

# N views, K radii, S samples


def ranks(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, K) share of the samples (S, N, K) below the truth (N, K).

    The rank statistic of simulation-based calibration (Talts et al. 2018, arXiv:1804.06788), also
    known as PIT. Uniform in 0 to 1 for calibrated marginals; heaped at both ends when they are too narrow.
    """
    return np.asarray((samples < truth).mean(0))


def coverage(rank: np.ndarray, level: float) -> np.ndarray:
    """(K,) share of views whose truth lies in the central interval that should hold `level` of them."""
    return np.asarray((np.abs(rank - 0.5) < 0.5 * level).mean(0))


def tarp(samples: np.ndarray, truth: np.ndarray, normal: np.ndarray | None = None) -> np.ndarray:
    """(N,) share of a view's samples (S, N, K) that lie closer to a random point than its truth (N, K) does.

    Tests of accuracy with random points (Lemos et al. 2023, arXiv:2302.03026): uniform in 0 to 1 for
    joint posteriors that are calibrated, and for those only, if points depend on what was seen. Here they
    are drawn about each view's posterior, and distances are in units of its covariance, without which
    ten nearly equal numbers would count as one; both from one half of the samples, so that truth and the
    other half, which is counted, are strangers to them alike. normal (N, K): the points' standard normal numbers.
    """
    half = len(samples) // 2
    mean = samples[:half].mean(0, dtype=float)
    off = np.ascontiguousarray(np.moveaxis(samples, 0, 1)) - mean[:, None].astype(samples.dtype)  # (N, S, K)
    first = off[:, :half].astype(float)
    covariance = first.mT @ first / max(half, 1)
    trace = np.trace(covariance, axis1=1, axis2=2)[:, None, None]
    whiten = np.linalg.inv(np.linalg.cholesky(covariance + 1e-9 * trace * np.eye(truth.shape[1])))
    point = np.random.default_rng(0).standard_normal(truth.shape) if normal is None else normal
    own = np.linalg.norm((whiten @ (truth - mean)[..., None])[..., 0] - point, axis=-1)
    others = np.linalg.norm(off[:, half:] @ whiten.mT.astype(off.dtype) - point[:, None].astype(off.dtype), axis=-1)
    return np.asarray((others < own[:, None]).mean(1))


def uniformity(values: np.ndarray) -> float:
    """Kolmogorov-Smirnov p-value of independent values (N,) being uniform in 0 to 1."""
    return float(kstest(values, "uniform").pvalue)
