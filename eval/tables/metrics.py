"""Define every measure of an estimator, once, as sums over views that can be added up over blocks in any order.

The residual of a view is d(x) = log10 M_pred(<x R_e) - log10 M_true(<x R_e), where M_pred is the posterior median.
Every measure but the last is taken per radius, over the views of a group:

bias              mean of d [dex]; bias_median its median
dispersion        standard deviation of d over views [dex], 1/N; NaN where a single galaxy has an answer
dispersion_robust half the range from the 16th to the 84th percentile of d [dex]
outliers          share of views with d farther from its median than 3 dispersion_robust
rmse              root of the mean of d^2 [dex]
crps              continuous ranked probability score [dex] (Gneiting & Raftery 2007, eq. 21), unbiased for any number
                  of samples; |d| of a point estimate
log_prob          log density per dex at the truth, other radii integrated out (`Posterior.log_prob_per_radius`)
coverage_68/95    share of views whose truth lies in the central 68.27 / 95.45 % of the posterior, which is the same
                  for any number of samples (`train.run.intervals`)
width_68/95       sharpness: half the width of those intervals, mean over views [dex] (Gneiting et al. 2007)
log_prob_joint    log density of the whole profile per dex^K

In addition there are three histograms: of the PIT (the truth's rank among samples, Talts et al. 2018,
arXiv:1804.06788), from which the coverage of every central interval follows, of TARP (`calibration.tarp`), and of the
out-of-distribution scores of views.

Views of one galaxy are not independent, nor are galaxies of one history (lineage). Intervals (`_lo`, `_hi`: 16th and
84th percentile) therefore come from a Poisson bootstrap over lineages (Hanley & MacGibbon 2006). A lineage's weights
follow from its name and are the same for every estimator, so that ratios and differences are paired. Of a single
lineage, at a radius, nothing can be said of the scatter between lineages: there are no intervals.

A network that was trained several times, with seeds of their own, counts as one estimator: its measures are means over
the seeds, and each bootstrap replicate draws seeds too (with replacement, for each network by itself). With one seed,
intervals leave out the scatter of training.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri, pdtr

from kinmass.eval.tables.calibration import tarp as tarp_of
from kinmass.gen.compiled import compiled
from kinmass.gen.physics.projection import FAST_MATH
from kinmass.train.run.intervals import LEVELS, SHARES, held, quantile_of_sorted
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import kernel_log_prob

# N views, K radii, S samples, B bootstrap replicates, Q quantities
N_BOOTSTRAP = 300
#: With fewer lineages than this, chance alone often favours the same estimator in each: of 5 once in 16 times.
FEW_LINEAGES = 6
#: Width [dex] of the bins in which residuals from -2 to 2 dex are counted, for medians and percentiles.
BIN_DEX = 0.002
EDGES = np.linspace(-2, 2, round(4 / BIN_DEX) + 1)
#: Views that are measured together: their samples stay in the processor's caches.
VIEWS_AT_ONCE = 64
#: Number of bins of PIT, TARP and out-of-distribution scores from 0 to 1.
RANK_BINS = 100
#: Quantities that are averaged over views, per radius. Those up to crps exist for every estimator, the others for
#: posteriors only.
QUANTITIES = ("count", "d", "d2", "crps", "log_prob", "coverage_68", "coverage_95", "width_68", "width_95")
_IS_COUNT = np.array([name == "count" for name in QUANTITIES])[:, None]
#: Measures with bootstrap intervals, and (PLAIN) those without, in the order of the tables.
WITH_INTERVAL = ("bias", "dispersion", "rmse", "crps", "log_prob", "coverage_68", "coverage_95")
PLAIN = ("bias_median", "dispersion_robust", "outliers", "width_68", "width_95")


@dataclass
class Estimates:
    """Estimated and true log10 M(<r) [Msun] of N views.

    A point estimate is stored as the median, and the last four fields are None. Of a posterior these are: samples
    (S, N, K); log_prob_joint (N,), the log density at the truth; ood_score (N,); and beyond (N,), the share of samples
    that had to be held at the limits of what a galaxy's mass can be (`scaling.clip_to_mass_limits`).
    """

    galaxy: np.ndarray  # (N,) names, which hold the suite's
    view: np.ndarray  # (N,) numbers
    lineage: np.ndarray  # (N,) names of lineages, which hold the suite's and which the bootstrap draws
    truth: np.ndarray  # (N, K)
    median: np.ndarray  # (N, K)
    samples: np.ndarray | None = None
    log_prob_joint: np.ndarray | None = None
    ood_score: np.ndarray | None = None
    beyond: np.ndarray | None = None

    def __getitem__(self, chosen: np.ndarray) -> "Estimates":
        """Return the views chosen by a mask or by indices."""
        axes = {"samples": (slice(None), chosen)}
        given = {name: values for name, values in vars(self).items() if values is not None}
        return Estimates(**{name: values[axes.get(name, chosen)] for name, values in given.items()})


@dataclass
class PerView:
    """Measures of single views: values (N, Q, K) of QUANTITIES, NaN where undefined; pit (N, K); the others (N,).

    tarp is `calibration.tarp`, joint the log density of the whole profile; the others are as in `Estimates`.
    """

    galaxy: np.ndarray
    lineage: np.ndarray
    values: np.ndarray
    pit: np.ndarray
    tarp: np.ndarray
    joint: np.ndarray
    ood_score: np.ndarray
    beyond: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "PerView":
        """Return the views chosen by a mask or by indices."""
        return PerView(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass
class Sums:
    """Sums over the views of one group; two of them, of the same R seeds, are added with +.

    moments (R, B + 1, Q, K): sums of QUANTITIES, first with weight 1 and then per bootstrap replicate.
    joint (R, B + 1, 2): count and sum of log_prob_joint. seed_weights (R, B + 1): the share of each seed, in the value
    and in the replicates. residual (R, bins, K): a histogram of each seed. pit (RANK_BINS, K), tarp and ood_score
    (RANK_BINS,): histograms, summed over seeds. The other numbers are those of one seed: missing (K,), views without a
    finite prediction; galaxies and views; galaxies_at (K,), galaxies with a finite prediction; left_out, views that
    show too little to be used; beyond, the sum over views of `Estimates.beyond`. lineages are the first FEW_LINEAGES
    names of lineages, in order: enough to know whether there are so many; lineages_at are those with a finite
    prediction, at each of the K radii.
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
    galaxies_at: np.ndarray
    left_out: int = 0
    beyond: float = 0.0
    lineages: tuple[str, ...] = ()
    lineages_at: tuple[tuple[str, ...], ...] = ()
    seed_weights: np.ndarray = field(default_factory=lambda: np.ones((1, N_BOOTSTRAP + 1)))

    def __add__(self, other: "Sums") -> "Sums":
        names = [n for n in self.__dataclass_fields__ if n not in ("lineages", "lineages_at", "seed_weights")]
        added = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Sums(
            **added,
            lineages=_first_lineages([*self.lineages, *other.lineages]),
            lineages_at=tuple(
                _first_lineages([*one, *two]) for one, two in zip(self.lineages_at, other.lineages_at, strict=True)
            ),
            seed_weights=self.seed_weights,
        )

    @property
    def count(self) -> np.ndarray:
        """The number of views (K,) with a finite prediction at each radius."""
        return np.asarray(self.moments[:, 0, 0].min(0))

    @property
    def answered(self) -> np.ndarray:
        """The share (K,) of all views asked about, also of those that show too little, that have a prediction."""
        return np.asarray(self.count / max(self.views + self.left_out, 1))

    @property
    def n_seeds(self) -> int:
        """The number of networks whose measures are averaged."""
        return len(self.moments)


def _first_lineages(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first FEW_LINEAGES different names, in order."""
    return tuple(sorted(set(names))[:FEW_LINEAGES])


def over_seeds(name: str, sums: Sequence[Sums]) -> Sums:
    """Return the sums of one network that was trained several times, from those of each seed.

    name: of the network, from which the draws of its seeds follow.
    """
    n = len(sums)
    generator = np.random.default_rng(_bits(f"seeds {name}", 2, "<u4"))
    draws = generator.multinomial(n, np.full(n, 1 / n), N_BOOTSTRAP + 1).T / n
    draws[:, 0] = 1 / n
    added = {key: sum(getattr(s, key) for s in sums) for key in ("pit", "tarp", "ood_score")}
    of_each = {key: np.concatenate([getattr(s, key) for s in sums]) for key in ("moments", "joint", "residual")}
    return Sums(
        **of_each,
        **added,
        missing=np.max([s.missing for s in sums], axis=0),
        galaxies=sums[0].galaxies,
        views=sums[0].views,
        galaxies_at=np.min([s.galaxies_at for s in sums], axis=0),
        left_out=sums[0].left_out,
        beyond=float(np.mean([s.beyond for s in sums])),
        lineages=sums[0].lineages,
        lineages_at=tuple(min(names, key=len) for names in zip(*(s.lineages_at for s in sums), strict=True)),
        seed_weights=draws,
    )


def bootstrap_weights(lineages: Sequence[str], n: int = N_BOOTSTRAP) -> np.ndarray:
    """Return how often (L, n) each replicate draws lineages: Poisson numbers that follow from their names alone."""
    bits = [_bits(f"bootstrap {lineage}", n, "<u2") for lineage in lineages]
    return _POISSON[np.array(bits, np.uint16).reshape(-1, n)]


#: The Poisson numbers of mean 1 (.99998, in fact) that 16 bits stand for.
_POISSON = np.searchsorted(np.round(65536 * pdtr(np.arange(8), 1.0)), np.arange(65536), side="right").astype(np.uint8)


def _bits(name: str, n: int, dtype: str) -> np.ndarray:
    """Return n random numbers of all bits of a type, which follow from the name; a generator is slower to set up."""
    return np.frombuffer(hashlib.shake_128(name.encode()).digest(n * np.dtype(dtype).itemsize), dtype)


def _normal_numbers(galaxy: np.ndarray, view: np.ndarray, n: int) -> np.ndarray:
    """Return n standard normal numbers per view (N, n), which follow from its galaxy's name and its own number."""
    names, name_index = np.unique(galaxy.astype(str), return_inverse=True)
    n_views = view.max(initial=-1) + 1
    bits = np.array([_bits(f"views {name}", n_views * n, "<u4") for name in names]).reshape(len(names), n_views, n)
    return np.asarray(ndtri((bits[name_index, view] + 0.5) / 2**32))


def crps_of_samples(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the CRPS (N, K) [dex] of posterior samples (S, N, K) at the truth (N, K).

    It is E|X - y| - E|X - X'| / 2 (Gneiting & Raftery 2007, eq. 21), with the mean over pairs of different samples: so
    its expectation does not depend on the number of samples (Ferro 2014, QJRMS 140, 1917).
    """
    return np.asarray(_crps_and_rank(np.sort(np.moveaxis(samples, 0, -1), axis=-1) - truth[..., None])[0])


@compiled()
def _errors(samples, truth):  # type: ignore[no-untyped-def]
    """Samples (S, N, K) minus truth (N, K), as (N, K, S): numpy takes three times as long to turn them."""
    s, n, k = samples.shape
    errors = np.empty((n, k, s), dtype=samples.dtype)
    for view in range(n):
        for sample in range(s):
            for i in range(k):
                errors[view, i, sample] = samples[sample, view, i] - truth[view, i]
    return errors


@compiled(fastmath=FAST_MATH)
def _crps_and_rank(sorted_errors):  # type: ignore[no-untyped-def]
    """CRPS and number of samples below the truth, (N, K) each, from sorted samples minus truth (N, K, S).

    In one pass, since the numbers take longer to come from memory than to be added up.
    """
    n, k, s = sorted_errors.shape
    crps, rank = np.empty((n, k)), np.empty((n, k))
    for view in range(n):
        for i in range(k):
            absolute, weighted, below = 0.0, 0.0, 0
            for sample in range(s):
                error = float(sorted_errors[view, i, sample])
                absolute += abs(error)
                weighted += (2 * sample + 1 - s) * error
                below += error < 0
            crps[view, i] = absolute / s - weighted / (s * max(s - 1, 1))
            rank[view, i] = below
    return crps, rank


def per_view(estimates: Estimates) -> PerView:
    """Return the measures of each view.

    A posterior with any sample that is not finite is missing at all radii, a point estimate only where it is not
    finite.
    """
    n, k = estimates.truth.shape
    values = np.full((n, len(QUANTITIES), k), np.nan)
    pit, joint, tarp_share = np.full((n, k), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    is_finite = np.isfinite(estimates.median) & np.isfinite(estimates.truth)
    residual = np.where(is_finite, estimates.median - estimates.truth, np.nan)
    values[:, 0] = is_finite
    values[:, 1], values[:, 2], values[:, 3] = residual, residual**2, np.abs(residual)
    if estimates.samples is not None and n:
        assert estimates.log_prob_joint is not None
        normal = _normal_numbers(estimates.galaxy, estimates.view, 2 * k + 1)
        is_complete = is_finite.all(1)
        for start in range(0, n, VIEWS_AT_ONCE):
            part = slice(start, start + VIEWS_AT_ONCE)
            measured = _of_samples(estimates.samples[:, part], estimates.truth[part], normal[part], is_complete[part])
            values[part, 3:], pit[part], tarp_share[part] = measured
        values[~is_complete] = np.where(np.arange(len(QUANTITIES))[:, None] == 0, 0.0, np.nan)
        joint[is_complete] = estimates.log_prob_joint[is_complete]
    ood_score, beyond = (np.full(n, np.nan) if x is None else x for x in (estimates.ood_score, estimates.beyond))
    return PerView(
        estimates.galaxy.astype(str), estimates.lineage.astype(str), values, pit, tarp_share, joint, ood_score, beyond
    )


def _of_samples(
    samples: np.ndarray, truth: np.ndarray, normal: np.ndarray, is_complete: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the QUANTITIES from crps on (N, 6, K), pit (N, K) and tarp (N,) of samples (S, N, K), NaN where undefined.

    is_complete (N,), whether median and truth are finite, becomes false where a sample is not. normal (N, 2 K + 1).
    """
    n, k = truth.shape
    # Samples minus truth are small numbers, so that their sums have smaller rounding errors.
    errors = _errors(samples, truth.astype(samples.dtype))
    values, pit = np.full((n, len(QUANTITIES) - 3, k), np.nan), np.full((n, k), np.nan)
    tarp = tarp_of(errors, normal[:, k:])
    errors.sort(axis=-1)
    # What is not finite has been sorted to the ends.
    is_complete &= np.isfinite(errors[..., [0, -1]]).all((1, 2))
    tarp[~is_complete] = np.nan
    if not is_complete.all():
        errors = errors[is_complete]
    low68, high68, low95, high95 = (quantile_of_sorted(errors, share) for share in SHARES[:4])
    crps, rank = _crps_and_rank(errors)
    pit[is_complete] = (rank + ndtr(normal[is_complete, :k])) / (errors.shape[-1] + 1)
    quantities = (
        crps, kernel_log_prob(errors),
        *(held(rank, errors.shape[-1], level) for level in LEVELS),
        0.5 * (high68 - low68), 0.5 * (high95 - low95),
    )  # fmt: skip
    values[is_complete] = np.stack(quantities, axis=1)
    return values, pit, tarp


def where_both_answer(*pair: PerView) -> tuple[PerView, PerView]:
    """Return the same views of two estimators with NaN at every view and radius at which either has no answer.

    Views at which they have no radius in common are left out.
    """
    answered = np.all([views.values[:, 0] > 0 for views in pair], axis=0)  # (N, K)
    rows = answered.any(1)
    one, other = (
        replace(
            views[rows],
            values=np.where(answered[rows, None], views.values[rows], np.where(_IS_COUNT, 0.0, np.nan)),
            pit=np.where(answered[rows], views.pit[rows], np.nan),
        )
        for views in pair
    )
    return one, other


def _counts(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return counts (bins, K) of numbers (N, K): those beyond the edges in the outermost bins, NaN in none."""
    n_bins, counts = len(edges) - 1, []
    for column in values.T:
        finite = column[np.isfinite(column)]
        bin_number = ((finite - edges[0]) / (edges[-1] - edges[0]) * n_bins).astype(int)
        counts.append(np.bincount(np.clip(bin_number, 0, n_bins - 1), minlength=n_bins))
    return np.stack(counts, axis=1)


def add_up(views: PerView, left_out: int = 0) -> Sums:
    """Return the sums of one block. All views of a galaxy must be in the same block."""
    names, first_view, galaxy_index = np.unique(views.galaxy, return_index=True, return_inverse=True)
    weights = np.ones((len(names), N_BOOTSTRAP + 1))
    weights[:, 1:] = bootstrap_weights(views.lineage[first_view].tolist())
    n, q, k = views.values.shape
    summands = np.concatenate(
        [views.values.reshape(n, q * k), np.isfinite(views.joint)[:, None], views.joint[:, None]], axis=1
    )
    is_of = csr_array((np.ones(n), galaxy_index, np.arange(n + 1)), shape=(n, len(names)))  # 1 at each view's galaxy
    of_galaxies = is_of.T @ np.where(np.isfinite(summands), summands, 0.0)
    total = weights.T @ of_galaxies
    is_answered, lineage = of_galaxies[:, :k] > 0, views.lineage[first_view]  # (G, K) at which a galaxy counts
    rank_edges = np.linspace(0, 1, RANK_BINS + 1)
    return Sums(
        total[:, :-2].reshape(1, -1, q, k),
        total[None, :, -2:],
        _counts(views.values[:, 1], EDGES)[None],
        _counts(views.pit, rank_edges),
        _counts(views.tarp[:, None], rank_edges)[:, 0],
        _counts(views.ood_score[:, None], rank_edges)[:, 0],
        n - views.values[:, 0].sum(0).astype(int),
        len(names),
        n,
        is_answered.sum(0),
        left_out,
        float(np.nansum(views.beyond)),
        _first_lineages(lineage.tolist()),
        tuple(_first_lineages(lineage[answered].tolist()) for answered in is_answered.T),
    )


def percentile(histogram: np.ndarray, share: float) -> np.ndarray:
    """Return the residual (K,) [dex] below which a share of the counts (bins, K) lies; NaN where nothing is counted.

    So it is where the residual is in an outermost bin, which holds all that lies beyond it as well. Else it is numpy's,
    interpolated linearly between the two nearest of the sorted residuals, of which each is known to about half a bin:
    those of one bin are taken as evenly spread over it.
    """
    values = np.full(histogram.shape[1], np.nan)
    for k, counts in enumerate(histogram.T):
        at_most = np.cumsum(counts)
        if (n := at_most[-1]) > 0:
            position = share * (n - 1)
            order = np.array([np.floor(position), np.ceil(position)])
            bin_number = np.searchsorted(at_most, order, side="right")
            if {0, len(counts) - 1} & set(bin_number.tolist()):
                continue
            within_bin = (order - at_most[bin_number] + counts[bin_number] + 0.5) / counts[bin_number]
            low, high = EDGES[bin_number] + BIN_DEX * within_bin
            values[k] = low + (position - order[0]) * (high - low)
    return values


def replicates(sums: Sums) -> dict[str, np.ndarray]:
    """Return (B + 1, K) per measure in WITH_INTERVAL and `width_68`, `width_95`: value, then bootstrap replicates.

    Replicates are NaN at radii at which a single lineage has an answer, of which there is nothing to draw.
    """
    sum_of = dict(zip(QUANTITIES, np.moveaxis(sums.moments, 2, 0), strict=True))  # (R, B + 1, K) each
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {name: sum_of[name] / sum_of["count"] for name in QUANTITIES[3:]}
        values["bias"], mean_square = sum_of["d"] / sum_of["count"], sum_of["d2"] / sum_of["count"]
    values["rmse"] = np.sqrt(mean_square)
    values["dispersion"] = np.sqrt(np.maximum(mean_square - values["bias"] ** 2, 0.0))
    values["dispersion"][..., sums.galaxies_at < 2] = np.nan
    if not sums.pit.any():  # a point estimate: no density, no intervals
        for name in QUANTITIES[4:]:
            values[name] = np.full_like(values[name], np.nan)
    means = {name: np.einsum("rb,rbk->bk", sums.seed_weights, each) for name, each in values.items()}
    has_one_lineage = [len(names) < 2 for names in sums.lineages_at]
    for mean in means.values():
        mean[1:, has_one_lineage] = np.nan
    return means


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 16th and 84th percentile (...) over replicates (B, ...).

    Replicates that are not finite (no lineage was drawn) are left out; NaN where none is finite.
    """
    low, high = np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    for index in np.ndindex(values.shape[1:]):
        finite = values[(slice(None), *index)]
        finite = finite[np.isfinite(finite)]
        if finite.size:
            low[index], high[index] = np.quantile(finite, [0.1587, 0.8413])
    return low, high


def measures(sums: Sums) -> dict[str, np.ndarray]:
    """Return the table's columns, (K,) each: WITH_INTERVAL, each followed by `_lo` and `_hi`, then PLAIN."""
    replicates_of = replicates(sums)
    columns: dict[str, np.ndarray] = {}
    for name in WITH_INTERVAL:
        low, high = interval(replicates_of[name][1:])
        columns |= {name: replicates_of[name][0], f"{name}_lo": low, f"{name}_hi": high}
    median, robust, outliers = np.mean([_of_residuals(histogram) for histogram in sums.residual], axis=0)
    is_single = np.isnan(replicates_of["dispersion"][0])
    return columns | {
        "bias_median": median,
        "dispersion_robust": np.where(is_single, np.nan, robust),
        "outliers": np.where(is_single, np.nan, outliers),
        "width_68": replicates_of["width_68"][0],
        "width_95": replicates_of["width_95"][0],
    }


def _of_residuals(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return median and robust dispersion [dex] and the share of outliers (K,) from counts (bins, K) of residuals.

    NaN where residuals beyond EDGES keep them from being known.
    """
    median = percentile(histogram, 0.5)
    robust = 0.5 * (percentile(histogram, 0.8413) - percentile(histogram, 0.1587))
    centre = 0.5 * (EDGES[1:] + EDGES[:-1])[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        outliers = (histogram * (np.abs(centre - median) > 3 * robust)).sum(0) / histogram.sum(0)
    is_beyond = [histogram[end] * (np.abs(EDGES[end] - median) <= 3 * robust) > 0 for end in (0, -1)]
    return median, robust, np.where(np.isnan(robust) | is_beyond[0] | is_beyond[1], np.nan, outliers)


def mean_over_radii(values: np.ndarray) -> np.ndarray:
    """Return the mean (B + 1,) of values (B + 1, K) over the radii where the first row is finite; NaN if none is."""
    is_defined = np.isfinite(values[0])
    return values[:, is_defined].mean(1) if is_defined.any() else np.full(len(values), np.nan)


def joint_log_prob(sums: Sums) -> np.ndarray:
    """Return the mean log density of whole profiles per dex^K and its bootstrap replicates (B + 1,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.asarray((sums.seed_weights * (sums.joint[..., 1] / sums.joint[..., 0])).sum(0))
    if min(map(len, sums.lineages_at)) < 2:
        values[1:] = np.nan
    return values


def coverage_by_level(counts: np.ndarray) -> np.ndarray:
    """Return the share (RANK_BINS / 2, ...) of truths in central intervals of level 2/RANK_BINS, 4/RANK_BINS, ..., 1.

    counts (RANK_BINS, ...): a histogram of PIT.
    """
    half = RANK_BINS // 2
    symmetric_counts = counts[half:] + counts[:half][::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.cumsum(symmetric_counts, axis=0) / symmetric_counts.sum(0))


def distance_from_uniform(counts: np.ndarray) -> np.ndarray:
    """Return the largest distance (...) of the cumulative distribution of PIT or TARP from a uniform one.

    counts (RANK_BINS, ...): their histogram.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        cumulative_share = np.cumsum(counts, axis=0) / counts.sum(0)
    uniform_share = np.arange(1, RANK_BINS + 1) / RANK_BINS
    return np.asarray(np.abs(cumulative_share - uniform_share.reshape(-1, *[1] * (counts.ndim - 1))).max(0))


def ood(counts: np.ndarray) -> tuple[float, float]:
    """Return the share of views out of distribution and the area under the ROC curve, from a histogram (RANK_BINS,)
    of out-of-distribution scores.

    The ROC curve separates these views from validation galaxies of the training suites, whose scores are uniform: the
    area is 0.5 if both are alike, 1 if every view lies farther out than all validation galaxies. NaN without views.
    """
    if not counts.any():
        return np.nan, np.nan
    centre = (np.arange(RANK_BINS) + 0.5) / RANK_BINS
    return float(counts[round(OOD_THRESHOLD * RANK_BINS) :].sum() / counts.sum()), float(counts @ centre / counts.sum())


def value_and_interval(values: np.ndarray) -> dict[str, float]:
    """Return a number, of which (B + 1,) is the value and its bootstrap replicates, as `value` with 68 % `lo`, `hi`."""
    low, high = interval(values[1:])
    return {"value": float(values[0]), "lo": float(low), "hi": float(high)}


def ratio(single: Sequence[Sums], both: Sums, radii: slice = slice(None)) -> dict[str, float]:
    """Return the dispersion of the best single tracer over that of both, each averaged over radii, with its interval.

    radii: numbers of those to average over. The bootstrap is paired: a replicate draws the same lineages for every
    tracer. `above_1` is the share of replicates (of those with a dispersion) in which both tracers together do better,
    the probability that the ratio exceeds one; NaN where fewer than FEW_LINEAGES have an answer at these radii.
    """
    dispersions = [mean_over_radii(replicates(s)["dispersion"][:, radii]) for s in (*single, both)]
    # A replicate that draws a single view, again and again, has no dispersion.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.min(dispersions[:-1], axis=0) / dispersions[-1]
    result = value_and_interval(ratios)
    few = any(_few_lineages(sums, radii) for sums in (*single, both))
    return {
        "ratio": result["value"], "lo": result["lo"], "hi": result["hi"],
        "above_1": np.nan if few else probability_above(ratios[1:], 1.0),
    }  # fmt: skip


def _few_lineages(sums: Sums, radii: slice) -> bool:
    """Whether fewer than FEW_LINEAGES have an answer at any of these radii."""
    return len({name for names in sums.lineages_at[radii] for name in names}) < FEW_LINEAGES


def probability_above(values: np.ndarray, limit: float) -> float:
    """Return the share of bootstrap replicates (B,) above a limit, and half of those at it; NaN without any.

    Replicates that are not finite (no lineage was drawn) say nothing and are left out.
    """
    finite = values[np.isfinite(values)]
    return float(np.mean(finite > limit) + 0.5 * np.mean(finite == limit)) if len(finite) else float("nan")
