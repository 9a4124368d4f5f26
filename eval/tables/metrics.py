"""Every measure of an estimator, defined once, as sums that add up over blocks in any order.

For the views of a group, residual d(x) = log10 M_pred(<x R_e) - log10 M_true(<x R_e), M_pred the posterior median;
every measure but the last is per radius:

bias              mean of d [dex]; bias_median its median
dispersion        standard deviation of d over views [dex], 1/N; NaN for a single galaxy
dispersion_robust half the range from the 16th to the 84th percentile of d [dex]
outliers          share of views with d farther from its median than 3 dispersion_robust
rmse              root of the mean of d^2 [dex]
crps              continuous ranked probability score [dex] (Gneiting & Raftery 2007, eq. 21); |d| of a point estimate
log_prob          log density per dex at the truth, other radii integrated out (`Posterior.log_prob_per_radius`)
coverage_68/95    share of views whose truth lies in the central 68.27 / 95.45 % of the posterior
width_68/95       sharpness: half the width of those intervals, mean over views [dex] (Gneiting et al. 2007)
log_prob_joint    log density of the whole profile per dex^K

Besides: histograms of the PIT (the truth's rank among samples, Talts et al. 2018, arXiv:1804.06788), which say what
every central interval covers, of TARP (`calibration.tarp`), and of the out-of-distribution scores of views.

Views of one galaxy, and galaxies of one history, are not independent: intervals (`_lo`, `_hi`: 16th and 84th
percentile) come from a Poisson bootstrap over lineages (Hanley & MacGibbon 2006), whose weights follow the lineage's
name: the same for every estimator, so that ratios and differences are compared pair by pair.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

from kinmass.eval.tables.calibration import tarp
from kinmass.train.run.calibration import LEVELS
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import kernel_log_prob

# N views, K radii, S samples, B bootstrap replicates, Q quantities
N_BOOTSTRAP = 300
#: Residuals are counted in bins of this width for medians and percentiles, up to 2 dex [dex].
BIN_DEX = 0.002
EDGES = np.linspace(-2, 2, round(4 / BIN_DEX) + 1)
#: Bins of PIT and TARP from 0 to 1.
RANK_BINS = 100
#: What is averaged over views, per radius; the first three are of every estimator, the others of posteriors.
QUANTITIES = ("count", "d", "d2", "crps", "log_prob", "coverage_68", "coverage_95", "width_68", "width_95")
#: Ends of the central 68.27 and 95.45 % intervals, and the median.
SHARES = (*(0.5 + side * level / 2 for level in LEVELS for side in (-1, 1)), 0.5)
#: Measures with intervals, and those without, in the order of the tables.
WITH_INTERVAL = ("bias", "dispersion", "rmse", "crps", "log_prob", "coverage_68", "coverage_95")
PLAIN = ("bias_median", "dispersion_robust", "outliers", "width_68", "width_95")


@dataclass
class Estimates:
    """What an estimator says of N views, and the truth, log10 M [Msun].

    samples (S, N, K), the log densities log_prob_joint (N,), ood_score (N,) and beyond (N,), the
    share of samples that had to be held (`scaling.held`), are None for a point estimate, which is the median.
    """

    galaxy: np.ndarray  # (N,) names
    view: np.ndarray  # (N,) numbers
    lineage: np.ndarray  # (N,) what the bootstrap draws
    truth: np.ndarray  # (N, K)
    median: np.ndarray  # (N, K)
    samples: np.ndarray | None = None
    log_prob_joint: np.ndarray | None = None
    ood_score: np.ndarray | None = None
    beyond: np.ndarray | None = None

    def __getitem__(self, which: np.ndarray) -> "Estimates":
        """The views chosen by a mask or by indices."""
        return Estimates(
            self.galaxy[which],
            self.view[which],
            self.lineage[which],
            self.truth[which],
            self.median[which],
            None if self.samples is None else self.samples[:, which],
            None if self.log_prob_joint is None else self.log_prob_joint[which],
            None if self.ood_score is None else self.ood_score[which],
            None if self.beyond is None else self.beyond[which],
        )


@dataclass
class PerView:
    """Measures of single views: `values` (N, Q, K) with NaN where not defined, pit (N, K), and (N,) the others."""

    galaxy: np.ndarray
    lineage: np.ndarray
    values: np.ndarray
    pit: np.ndarray
    tarp: np.ndarray
    joint: np.ndarray
    ood_score: np.ndarray
    beyond: np.ndarray

    def __getitem__(self, which: np.ndarray) -> "PerView":
        return PerView(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


@dataclass
class Sums:
    """What has been added up of one group. Add two with +.

    moments (B + 1, Q, K): sums of QUANTITIES, first with weight 1 and then per bootstrap replicate;
    joint (B + 1, 2): count and sum of log_prob_joint; residual (bins, K), pit (RANK_BINS, K), tarp and ood_score
    (RANK_BINS,) are counts, as are galaxies, views, missing (K,), views without a finite prediction, and left_out,
    views in which too little is seen to ask. beyond: of `Estimates`, the sum over views.
    """

    moments: np.ndarray
    joint: np.ndarray
    residual: np.ndarray
    pit: np.ndarray
    tarp: np.ndarray
    ood_score: np.ndarray
    missing: np.ndarray
    galaxies: int
    views: int
    left_out: int = 0
    beyond: float = 0.0

    def __add__(self, more: "Sums") -> "Sums":
        return Sums(*(getattr(self, name) + getattr(more, name) for name in self.__dataclass_fields__))


@lru_cache(maxsize=100_000)
def bootstrap_weights(lineage: str, n: int = N_BOOTSTRAP) -> np.ndarray:
    """(n,) how often each replicate draws this lineage: Poisson numbers that follow its name."""
    return _draw(f"bootstrap {lineage}").poisson(1.0, n).astype(np.uint8)


def _draw(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def _numbers(galaxy: np.ndarray, view: np.ndarray, n: int) -> np.ndarray:
    """(N, n) standard normal numbers that belong to each view, by its galaxy's name and its own number."""
    out = np.empty((len(view), n))
    names, which = np.unique(galaxy.astype(str), return_inverse=True)
    for i, name in enumerate(names):
        rows = np.flatnonzero(which == i)
        out[rows] = _draw(f"views {name}").standard_normal((view[rows].max() + 1, n))[view[rows]]
    return out


def crps_of_samples(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, K) CRPS [dex] of posterior samples (S, N, K): E|X - y| - E|X - X'| / 2 (Gneiting & Raftery 2007, eq. 21)."""
    return _crps(np.sort(np.moveaxis(samples, 0, -1), axis=-1) - truth[..., None])


def _crps(rising: np.ndarray) -> np.ndarray:
    """CRPS of truths at nil from sorted samples (..., S)."""
    n = rising.shape[-1]
    weight = ((2 * np.arange(1, n + 1) - n - 1) / n**2).astype(rising.dtype)
    return np.asarray(np.abs(rising).mean(-1) - rising @ weight)


def quantile(rising: np.ndarray, share: float) -> np.ndarray:
    """Quantile along the last axis of sorted numbers, linear between them as numpy's."""
    at = share * (rising.shape[-1] - 1)
    low = int(at)
    return np.asarray(
        rising[..., low] + (at - low) * (rising[..., min(low + 1, rising.shape[-1] - 1)] - rising[..., low])
    )


def per_view(e: Estimates) -> PerView:
    """Measures of each view; a prediction that is not finite in all its samples is missing."""
    n, k = e.truth.shape
    values = np.full((n, len(QUANTITIES), k), np.nan)
    pit, joint, distance = np.full((n, k), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    known = np.isfinite(e.median) & np.isfinite(e.truth)
    d = np.where(known, e.median - e.truth, np.nan)
    values[:, 0] = known
    values[:, 1], values[:, 2], values[:, 3] = d, d**2, np.abs(d)
    if e.samples is not None and n:
        assert e.log_prob_joint is not None
        whole = known.all(1) & np.isfinite(e.samples).all((0, 2))
        values[~whole] = np.where(np.arange(len(QUANTITIES))[:, None] == 0, 0.0, np.nan)
        samples, truth = e.samples[:, whole], e.truth[whole]
        # Relative to the truth: small numbers, whose sums round less.
        rising = np.ascontiguousarray(np.moveaxis(samples, 0, -1)) - truth[..., None].astype(samples.dtype)
        rising.sort(axis=-1)
        low68, high68, low95, high95 = (quantile(rising, share) for share in SHARES[:4])
        rank = np.count_nonzero(rising < 0, axis=-1)
        numbers = _numbers(e.galaxy[whole], e.view[whole], 2 * k)
        jitter, points = ndtr(numbers[:, :k]), numbers[:, k:]
        pit[whole] = (rank + jitter) / (len(samples) + 1)
        columns = (
            _crps(rising), kernel_log_prob(rising),
            (low68 <= 0) & (high68 >= 0), (low95 <= 0) & (high95 >= 0),
            0.5 * (high68 - low68), 0.5 * (high95 - low95),
        )  # fmt: skip
        for i, column in enumerate(columns, start=3):
            values[whole, i] = column
        joint[whole], distance[whole] = e.log_prob_joint[whole], tarp(samples, truth, points)
    ood_score, beyond = (np.full(n, np.nan) if x is None else x for x in (e.ood_score, e.beyond))
    return PerView(e.galaxy.astype(str), e.lineage.astype(str), values, pit, distance, joint, ood_score, beyond)


def _counts(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(bins, K) counts of numbers (N, K); what is beyond the edges falls into the outermost bins, NaN into none."""
    n, out = len(edges) - 1, []
    for column in x.T:
        finite = column[np.isfinite(column)]
        at = ((finite - edges[0]) / (edges[-1] - edges[0]) * n).astype(int)
        out.append(np.bincount(np.clip(at, 0, n - 1), minlength=n))
    return np.stack(out, axis=1)


def add_up(views: PerView, left_out: int = 0) -> Sums:
    """Sums of one block. All views of a galaxy must be in the same block."""
    names, first, which = np.unique(views.galaxy, return_index=True, return_inverse=True)
    weights = np.ones((N_BOOTSTRAP + 1, len(names)))
    for i, lineage in enumerate(views.lineage[first]):
        weights[1:, i] = bootstrap_weights(lineage)
    n, q, k = views.values.shape
    each = np.concatenate(
        [views.values.reshape(n, q * k), np.isfinite(views.joint)[:, None], views.joint[:, None]], axis=1
    )
    per_galaxy = np.zeros((len(names), each.shape[1]))
    np.add.at(per_galaxy, which, np.where(np.isfinite(each), each, 0.0))
    total = weights @ per_galaxy
    edges = np.linspace(0, 1, RANK_BINS + 1)
    return Sums(
        total[:, :-2].reshape(-1, q, k),
        total[:, -2:],
        _counts(views.values[:, 1], EDGES),
        _counts(views.pit, edges),
        _counts(views.tarp[:, None], edges)[:, 0],
        _counts(views.ood_score[:, None], edges)[:, 0],
        n - views.values[:, 0].sum(0).astype(int),
        len(names),
        n,
        left_out,
        float(np.nansum(views.beyond)),
    )


def percentile(histogram: np.ndarray, share: float) -> np.ndarray:
    """(K,) value of d below which a share of the counts lies, linear inside its bin; NaN where there is none."""
    cumulative = np.cumsum(histogram, axis=0)
    out = np.full(histogram.shape[1], np.nan)
    for k in range(histogram.shape[1]):
        total = cumulative[-1, k]
        if total > 0:
            at = np.concatenate([[0.0], cumulative[:, k]]) / total
            rising = np.concatenate([[True], np.diff(at) > 0])
            rising[np.argmax(rising[1:])] = True  # the edge where counting starts
            out[k] = np.interp(share, at[rising], EDGES[rising])
    return out


def replicates(sums: Sums) -> dict[str, np.ndarray]:
    """(B + 1, K) of every measure in WITH_INTERVAL and `width_68`, `width_95`: its value, then bootstrap replicates."""
    q = dict(zip(QUANTITIES, np.moveaxis(sums.moments, 1, 0), strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {name: q[name] / q["count"] for name in QUANTITIES[3:]}
        found["bias"], square = q["d"] / q["count"], q["d2"] / q["count"]
    found["rmse"] = np.sqrt(square)
    found["dispersion"] = np.sqrt(np.maximum(square - found["bias"] ** 2, 0.0))
    if sums.galaxies < 2:
        found["dispersion"] = np.full_like(found["dispersion"], np.nan)
    if not sums.pit.any():  # a point estimate: no density, no intervals
        for name in QUANTITIES[4:]:
            found[name] = np.full_like(found[name], np.nan)
    return found


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """16th and 84th percentile over replicates (B, ...), those that drew nothing left out; NaN where all did."""
    low, high = np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    for at in np.ndindex(values.shape[1:]):
        finite = values[(slice(None), *at)]
        finite = finite[np.isfinite(finite)]
        if finite.size:
            low[at], high[at] = np.quantile(finite, [0.1587, 0.8413])
    return low, high


def measures(sums: Sums) -> dict[str, np.ndarray]:
    """Columns of the table, (K,) each: WITH_INTERVAL, each with `_lo` and `_hi`, then PLAIN."""
    each = replicates(sums)
    column: dict[str, np.ndarray] = {}
    for name in WITH_INTERVAL:
        low, high = interval(each[name][1:])
        column |= {name: each[name][0], f"{name}_lo": low, f"{name}_hi": high}
    median = percentile(sums.residual, 0.5)
    robust = 0.5 * (percentile(sums.residual, 0.8413) - percentile(sums.residual, 0.1587))
    middle = 0.5 * (EDGES[1:] + EDGES[:-1])[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        far = (sums.residual * (np.abs(middle - median) > 3 * robust)).sum(0) / sums.residual.sum(0)
    alone = np.isnan(each["dispersion"][0])
    return column | {
        "bias_median": median,
        "dispersion_robust": np.where(alone, np.nan, robust),
        "outliers": np.where(alone, np.nan, far),
        "width_68": each["width_68"][0],
        "width_95": each["width_95"][0],
    }


def mean_over_radii(values: np.ndarray) -> np.ndarray:
    """(B + 1,) mean over the radii (B + 1, K) at which an estimator is defined; NaN where it is nowhere."""
    there = np.isfinite(values[0])
    return values[:, there].mean(1) if there.any() else np.full(len(values), np.nan)


def joint_log_prob(sums: Sums) -> np.ndarray:
    """(B + 1,) mean log density of whole profiles per dex^K, and its replicates."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums.joint[:, 1] / sums.joint[:, 0])


def covered(counts: np.ndarray) -> np.ndarray:
    """(RANK_BINS / 2, ...) share of views in the central intervals of level 2/RANK_BINS, 4/RANK_BINS, ..., 1."""
    half = RANK_BINS // 2
    both = counts[half:] + counts[:half][::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.cumsum(both, axis=0) / both.sum(0))


def farthest_off(counts: np.ndarray) -> np.ndarray:
    """Largest distance of the cumulative distribution of PIT or TARP (RANK_BINS, ...) from a uniform one's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.cumsum(counts, axis=0) / counts.sum(0)
    even = np.arange(1, RANK_BINS + 1) / RANK_BINS
    return np.asarray(np.abs(share - even.reshape(-1, *[1] * (counts.ndim - 1))).max(0))


def ood(counts: np.ndarray) -> tuple[float, float]:
    """From the histogram of out-of-distribution scores (RANK_BINS,): share of views out of
    distribution, and the area under the ROC curve.

    The curve tells these views from validation galaxies of the training suites, whose scores are uniform:
    0.5 where they are alike, 1 where every one lies farther out than all of those. NaN without views.
    """
    if not counts.any():
        return np.nan, np.nan
    middle = (np.arange(RANK_BINS) + 0.5) / RANK_BINS
    return float(counts[round(OOD_THRESHOLD * RANK_BINS) :].sum() / counts.sum()), float(counts @ middle / counts.sum())


def compared(values: np.ndarray) -> dict[str, float]:
    """A ratio or difference (B + 1,) with its 68 % interval, as a row's `value`, `lo`, `hi`."""
    low, high = interval(values[1:])
    return {"value": float(values[0]), "lo": float(low), "hi": float(high)}


def ratio(single: Sequence[Sums], both: Sums) -> dict[str, float]:
    """Best single tracer over both: dispersions averaged over radii, with a paired bootstrap.

    The same replicate draws the same lineages for every tracer. `above_1` is the share of replicates in which both
    together do better: the probability that the ratio exceeds one.
    """
    values = [mean_over_radii(replicates(s)["dispersion"]) for s in (*single, both)]
    found = np.min(values[:-1], axis=0) / values[-1]
    shown = compared(found)
    return {"ratio": shown["value"], "lo": shown["lo"], "hi": shown["hi"], "above_1": float(np.mean(found[1:] > 1))}
