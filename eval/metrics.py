"""Measures of an estimator, defined once, as sums that add up over blocks in any order.

For galaxies of a group (one estimator, instrument, tracer, training set, test suite), residual
d(x) = log10 M_pred(<x R_e) - log10 M_true(<x R_e) per view, M_pred the posterior median:

bias              mean of d [dex]; bias_median its median
dispersion        standard deviation of d over views [dex], 1/N
dispersion_robust half the range from the 16th to the 84th percentile of d [dex]
coverage_68/95    share of views whose truth lies in the central 68 / 95 % of the posterior
crps              continuous ranked probability score [dex], Hersbach 2000; |d| for a point estimate

Views of one galaxy are not independent: intervals (`_lo`, `_hi`: 16th and 84th percentile) come
from a Poisson bootstrap over galaxies (Hanley & MacGibbon 2006), whose weights follow the galaxy's
name, so that they are the same for every estimator and ratios are compared pair by pair.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

# N views, K radii, S samples, B bootstrap replicates
N_BOOTSTRAP = 500
#: Residuals are counted in bins of this width for medians and percentiles [dex].
BIN_DEX = 0.002
_EDGES = np.arange(-1.5, 1.5 + BIN_DEX / 2, BIN_DEX)


@dataclass
class Sums:
    """What has been added up of one group. Add two with +.

    moments (B + 1, 3, K): sum of weights, of d and of d^2, first with weight 1 and then per
    bootstrap replicate; histogram (bins, K) of d; other (5, K): count, hits at 68 and 95 %,
    crps, and views without a finite prediction; galaxies and views are counts.
    """

    moments: np.ndarray
    histogram: np.ndarray
    other: np.ndarray
    galaxies: int
    views: int

    def __add__(self, more: "Sums") -> "Sums":
        return Sums(
            self.moments + more.moments,
            self.histogram + more.histogram,
            self.other + more.other,
            self.galaxies + more.galaxies,
            self.views + more.views,
        )


def bootstrap_weights(lineage: str, n: int = N_BOOTSTRAP) -> np.ndarray:
    """(n,) how often each replicate draws this lineage: Poisson numbers that follow its name."""
    seed = int.from_bytes(hashlib.blake2b(lineage.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).poisson(1.0, n).astype(float)


def add_up(
    galaxy: np.ndarray,
    truth: np.ndarray,
    median: np.ndarray,
    low_high: np.ndarray | None = None,
    crps: np.ndarray | None = None,
    lineage: np.ndarray | None = None,
) -> Sums:
    """Sums of one block. All views of a galaxy must be in the same block.

    lineage (N,) names what the bootstrap draws: a galaxy's history (None: the galaxy itself).

    galaxy (N,) names; truth and median (N, K) log10 M; low_high (4, N, K): ends of the central 68 %
    and 95 % intervals; crps (N, K). Without the last two the estimator is a point estimate.
    A NaN prediction (an estimator that is not defined there) is counted, not averaged.
    """
    d = median - truth
    there = np.isfinite(d)
    d0 = np.where(there, d, 0.0)
    names, first, which = np.unique(galaxy.astype(str), return_index=True, return_inverse=True)
    drawn = names if lineage is None else lineage[first]
    weights = np.stack([bootstrap_weights(str(name)) for name in drawn]) if len(names) else np.zeros((0, N_BOOTSTRAP))
    weights = np.concatenate([np.ones((len(names), 1)), weights], axis=1)
    per_galaxy = np.zeros((len(names), 3, d.shape[1]))
    np.add.at(per_galaxy, which, np.stack([there.astype(float), d0, d0**2], axis=1))
    bins = np.clip(np.digitize(d0, _EDGES) - 1, 0, len(_EDGES) - 2)
    histogram = np.zeros((len(_EDGES) - 1, d.shape[1]))
    for k in range(d.shape[1]):
        np.add.at(histogram[:, k], bins[there[:, k], k], 1)
    other = np.zeros((5, d.shape[1]))
    other[0], other[4] = there.sum(0), (~there).sum(0)
    if low_high is not None:
        for i in (0, 1):
            other[1 + i] = (there & (truth >= low_high[2 * i]) & (truth <= low_high[2 * i + 1])).sum(0)
    else:
        other[1:3] = np.nan
    other[3] = np.where(there, np.abs(d0) if crps is None else crps, 0.0).sum(0)
    moments = np.einsum("gb,gmk->bmk", weights, per_galaxy)
    return Sums(moments, histogram, other, len(names), len(d))


def crps_of_samples(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, K) CRPS [dex] of posterior samples (S, N, K): E|X - y| - E|X - X'| / 2 (Gneiting & Raftery 2007, eq. 21)."""
    s = np.sort(samples, axis=0)
    n = len(s)
    rank = (2 * np.arange(1, n + 1) - n - 1).reshape(-1, *[1] * (s.ndim - 1))
    return np.abs(s - truth).mean(0) - (rank * s).sum(0) / n**2


def _spread(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation from (..., 3, K) sums; NaN where nothing is, or a single galaxy spreads."""
    n, first, second = np.moveaxis(moments, -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = first / n
        return mean, np.sqrt(np.maximum(second / n - mean**2, 0.0))


def _percentile(histogram: np.ndarray, share: float) -> np.ndarray:
    """(K,) value of d below which a share of the counts lies, linear inside its bin."""
    cumulative = np.cumsum(histogram, axis=0)
    out = np.full(histogram.shape[1], np.nan)
    for k in range(histogram.shape[1]):
        total = cumulative[-1, k]
        if total > 0:
            at = np.concatenate([[0.0], cumulative[:, k]]) / total
            rising = np.concatenate([[True], np.diff(at) > 0])
            rising[np.argmax(rising[1:])] = True  # the edge where counting starts
            out[k] = np.interp(share, at[rising], _EDGES[rising])
    return out


def measures(sums: Sums) -> dict[str, np.ndarray]:
    """Columns of the table, (K,) each. A group of one galaxy has no dispersion: NaN."""
    mean, spread = _spread(sums.moments)
    if sums.galaxies < 2:
        spread = np.full_like(spread, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        hits = sums.other[1:4] / sums.other[0]
    robust = 0.5 * (_percentile(sums.histogram, 0.8413) - _percentile(sums.histogram, 0.1587))
    column = {
        "bias": mean[0],
        "bias_lo": _quantile(mean[1:], 0.1587), "bias_hi": _quantile(mean[1:], 0.8413),
        "bias_median": _percentile(sums.histogram, 0.5),
        "dispersion": spread[0],
        "dispersion_lo": _quantile(spread[1:], 0.1587), "dispersion_hi": _quantile(spread[1:], 0.8413),
        "dispersion_robust": np.where(np.isnan(spread[0]), np.nan, robust),
        "coverage_68": hits[0], "coverage_95": hits[1], "crps": hits[2],
    }  # fmt: skip
    return column


def _quantile(replicates: np.ndarray, share: float) -> np.ndarray:
    """(K,) quantile over replicates (B, K), those that drew nothing left out; NaN if all did."""
    out = np.full(replicates.shape[1], np.nan)
    for k in range(replicates.shape[1]):
        finite = replicates[np.isfinite(replicates[:, k]), k]
        if finite.size:
            out[k] = np.quantile(finite, share)
    return out


def mean_dispersion(sums: Sums) -> np.ndarray:
    """(B + 1,) dispersion averaged over radii [dex]: the value, then its bootstrap replicates."""
    return np.asarray(np.nanmean(_spread(sums.moments)[1], axis=1))


def ratio(single: list[Sums], both: Sums) -> dict[str, float]:
    """Best single tracer over both: dispersions averaged over radii, with a paired bootstrap.

    The same replicate draws the same galaxies for every tracer. `above_1` is the share of
    replicates in which both together do better.
    """
    best = np.min([mean_dispersion(s) for s in single], axis=0)
    values = best / mean_dispersion(both)
    low, high = np.quantile(values[1:], [0.1587, 0.8413])
    return {"ratio": float(values[0]), "lo": float(low), "hi": float(high), "above_1": float(np.mean(values[1:] > 1))}
