"""Calibrates the widths of posteriors on galaxies that were not trained on.

A network that has seen its training galaxies often is a little too sure of other galaxies: the latent numbers that
belong to the true profiles of validation views are not standard normal. Their covariance becomes the scale of the
latent numbers that profiles are drawn from. A factor that depends on radius is then added, so that intervals have
their nominal coverage (as temperatures do: Guo et al. 2017, arXiv:1706.04599). The density stays exact. A run, or an
ensemble as a whole, keeps its scales per tracer in calibration.json. `calibrate` also writes what
`train.run.out_of_distribution` needs of the training views.
"""

import contextlib
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kinmass.gen.physics.sightline import view_rng
from kinmass.train.data.augmentation import Augmentation
from kinmass.train.data.dataset import Views, usable
from kinmass.train.data.loader import done_galaxies, galaxies_of
from kinmass.train.data.radius_error import with_radius_error
from kinmass.train.run.checkpoint import (
    FREE_SETTINGS,
    RunError,
    member_folders,
    members_of,
    read_config,
    weights_of,
    working_in,
)
from kinmass.train.run.derived import (
    CALIBRATION,
    OOD,
    UNSEEN,
    is_calibrated,
    is_calibrated_for_unseen,
    is_out_of_date,
    made_from,
    others_held,
    write_scales,
    write_training_features,
)
from kinmass.train.run.intervals import LEVELS, quantiles
from kinmass.train.run.out_of_distribution import SeenViews, learn_training_features
from kinmass.train.run.posterior import VIEWS_PER_BLOCK, Inference, Posterior
from kinmass.train.run.records import RunRecord
from kinmass.train.run.trained_on import require_store

# N views, K radii, S samples, C components
#: Posterior samples per view, and bootstrap samples of lineages.
SAMPLES, N_BOOTSTRAP = 200, 50
#: Most validation galaxies that a run is calibrated on.
MOST_GALAXIES = 4096
SEED, _RADIUS_SEED = 1_000_003, 19_000_013
#: Most training galaxies whose features are kept for `train.run.out_of_distribution`, and most views of each.
MOST_TRAINING, TRAINING_VIEWS = 1024, 4
#: Samples of each member from which `responses` is fitted, and how often intervals are measured and widened.
RESPONSE_SAMPLES, PASSES = 20, 2
#: What is said where another job has written weights of its own into a run folder that was being calibrated.
_TRAINED_MEANWHILE = "{run} was trained anew while it was calibrated; see that one job alone works on it, and try again"
#: What is said where intervals were widened for weights or settings that the run does not have any more.
_WIDENED_NO_MORE = (
    "kinmass fit: {run} was trained anew since `kinmass widen` had its intervals hold for {others}: they no longer do; "
    "give that command again"
)
#: What is said of fits without a suite that a folder has of a run that was there before.
_OF_OTHER_SETTINGS = (
    "kinmass fit: {run} has {others}, of other settings than its own: they say nothing of its intervals for suites "
    "that it was not trained on; remove them, and give its command with --leave-one-suite-out for fits of its own"
)
#: Weight, in galaxies, of uncorrelated latent numbers against the measured ones: so many show a correlation of 0.1.
PRIOR_GALAXIES = 100


@dataclass(frozen=True)
class InferredViews:
    """N views of which a network has seen the maps: their posterior without any calibration, and what is true of them.

    log10_menc (N, K) [Msun] are true profiles; lineage (N,) names of suite and lineage. The maps are not kept.
    """

    posterior: Posterior
    log10_menc: torch.Tensor
    lineage: np.ndarray

    def __len__(self) -> int:
        return len(self.posterior)

    @classmethod
    def of(cls, infer: Inference, views: Views, tracer: str) -> "InferredViews":
        """Return what a network infers from views with usable maps of a tracer.

        Those of which their look shows nothing, so that there is no posterior, are left out.
        """
        posterior = infer(views, tracer=tracer, unseen=False)
        if not posterior.is_answered.all():
            return cls.of(infer, views[posterior.is_answered], tracer)
        return cls(posterior.with_scales(None), views.log10_menc, views.lineages())

    @classmethod
    def joined(cls, parts: Sequence["InferredViews"]) -> "InferredViews":
        """Join parts that were inferred by the same networks."""
        return cls(
            Posterior.joined([part.posterior for part in parts]),
            torch.cat([part.log10_menc for part in parts]),
            np.concatenate([part.lineage for part in parts]),
        )


def misses(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the distance (N, K, 2) of the truth (N, K) from the median, over the half widths of the LEVELS intervals.

    From samples (S, N, K); the half width is that of the interval's part on the truth's side of the median.
    """
    misses_of_levels = []
    for level in LEVELS:
        low, median, high = quantiles(samples, [0.5 - level / 2, 0.5, 0.5 + level / 2])
        half_width = np.where(truth < median, median - low, high - median)
        misses_of_levels.append(np.abs(truth - median) / np.maximum(half_width, 1e-9))
    return np.stack(misses_of_levels, axis=-1)


def weighted_quantile(values: np.ndarray, share: float, weight: np.ndarray) -> np.ndarray:
    """Return the quantile (...) over the first axis of values (N, ...), each row of which has a weight (N,) above 0.

    With equal weights it is numpy's, interpolated linearly.

    >>> values = np.array([1.0, 2.0, 4.0])
    >>> [float(weighted_quantile(values, 0.25, np.array(weight))) for weight in ([1, 1, 1], [1, 1, 4])]
    [1.5, 2.0]
    """
    if (weight == weight[0]).all():
        return np.asarray(np.quantile(values, share, axis=0))
    order = np.argsort(values, axis=0)
    weight, columns = weight[order], np.take_along_axis(values, order, axis=0)
    before = np.cumsum(weight, axis=0) - weight
    # The k-th of N values is at (k - 1) / (N - 1), which weights move.
    place = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1)) * weight + (len(values) - 1) * before
    shares = zip(place.reshape(len(values), -1).T, columns.reshape(len(values), -1).T, strict=True)
    quantiles = [np.interp(share * column_place[-1], column_place, column) for column_place, column in shares]
    return np.array(quantiles).reshape(values.shape[1:])


def widening(miss_ratios: np.ndarray, lineage: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return the factors (K,) by which to widen intervals so that they have the coverage of LEVELS.

    miss_ratios (N, K, 2) of `misses`; lineage (N,) names; weight (N,) of the views, where they have not all the same.
    The factors are a straight line over the radii, which are even in log r, because a few hundred galaxies do not
    suffice to fit every radius. Its slope is shrunk towards zero by as much as it is uncertain (James & Stein 1961); of
    a single lineage nothing is known of it, and it is zero. Factors are rounded to a thousandth: further digits are
    noise of the samples and differ with the number of processes.
    """
    weight = np.ones(len(lineage)) if weight is None else weight

    def line(rows: np.ndarray | slice) -> np.ndarray:
        """Return the coefficients of the line of factors over the radii of some views, the slope first."""
        quantiles = [weighted_quantile(miss_ratios[rows, :, i], level, weight[rows]) for i, level in enumerate(LEVELS)]
        return np.polyfit(position, np.mean(quantiles, axis=0), min(1, len(position) - 1))

    position = np.linspace(-1, 1, miss_ratios.shape[1]) if miss_ratios.shape[1] > 1 else np.zeros(1)
    coefficients = line(slice(None))
    if len(coefficients) == 2:
        lineage_number = np.unique(lineage, return_inverse=True)[1]
        views_of_lineage = np.split(
            np.argsort(lineage_number, kind="stable"), np.cumsum(np.bincount(lineage_number))[:-1]
        )
        rng = np.random.default_rng(0)
        lineages_drawn = rng.integers(0, len(views_of_lineage), (N_BOOTSTRAP, len(views_of_lineage)))
        slopes = [line(np.concatenate([views_of_lineage[i] for i in drawn]))[0] for drawn in lineages_drawn]
        uncertainty = np.var(slopes) if len(views_of_lineage) > 1 else np.inf
        coefficients[0] *= max(0.0, 1 - uncertainty / max(coefficients[0] ** 2, 1e-12))
    return np.asarray(np.polyval(coefficients, position).clip(min=0.1).round(3))


def latent_scale(latent: torch.Tensor, weight: torch.Tensor, n_galaxies: int) -> torch.Tensor:
    """Return the lower triangular L (K, K) with L L^T the second moment, about zero, of latent numbers (N, C, K).

    weight (N, C) are the log weights of each component for a view, n_galaxies the number of galaxies among the views.
    The moment is shrunk towards a multiple of the unit matrix (PRIOR_GALAXIES).
    """
    component_share = torch.softmax(weight - 0.5 * (latent**2).sum(-1), dim=-1).double()
    second_moment = torch.einsum("nc,nck,ncl->kl", component_share, latent.double(), latent.double()) / len(latent)
    isotropic = (
        second_moment.trace()
        / len(second_moment)
        * torch.eye(len(second_moment), dtype=second_moment.dtype, device=second_moment.device)
    )
    return torch.linalg.cholesky(
        (n_galaxies * second_moment + PRIOR_GALAXIES * isotropic) / (n_galaxies + PRIOR_GALAXIES)
    ).float()


def responses(posterior: Posterior) -> list[torch.Tensor]:
    """Return, per member, the linear response (K, K) of profiles to latent numbers.

    Profiles are taken as deviations from each view's median, in units of the view's own width.
    """
    samples = torch.from_numpy(posterior.samples(SAMPLES))
    deviation = (samples - samples.median(0).values).double()
    deviation = deviation / deviation.std(0).mean(-1).clamp(min=1e-6)[:, None]
    responses_of_members, members = [], len(posterior.features)
    for member in range(members):
        member_samples = slice(member, members * RESPONSE_SAMPLES, members)
        latent = []
        for profile in samples[member_samples]:
            components, weight = posterior.latent(profile)[member]
            nearest = (weight - 0.5 * (components**2).sum(-1)).argmax(-1)
            latent.append(components[torch.arange(len(components)), nearest].cpu())
        responses_of_members.append(
            torch.linalg.lstsq(torch.cat(latent).double(), deviation[member_samples].flatten(0, 1)).solution.T
        )
    return responses_of_members


def stretched(scale: torch.Tensor, response: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    """Return the scale (K, K) of latent numbers with which intervals at each radius are wider by `factors` (K,).

    It is exact where profiles follow the linear `response` (K, K).
    """
    mean_factor = float(factors.mean())
    varying_part = torch.from_numpy(factors - mean_factor)[:, None] * response
    mixed = (
        mean_factor * torch.eye(len(factors)).double() + torch.linalg.pinv(response, rtol=1e-6) @ varying_part
    ) @ scale.cpu().double()
    return torch.linalg.cholesky(mixed @ mixed.T).to(scale)


def scales_of(views: InferredViews) -> list[torch.Tensor]:
    """Return the scale (K, K) of every member from usable validation views; the unit matrix without any view."""
    posterior, n_radii = views.posterior, views.log10_menc.shape[1]
    if not len(views):
        return [torch.eye(n_radii, device=features.device) for features in posterior.features]
    n_galaxies = len(set(views.lineage))
    scales = [latent_scale(*latent_and_weight, n_galaxies) for latent_and_weight in posterior.latent(views.log10_menc)]
    for _ in range(PASSES):
        scaled = posterior.with_scales(scales)
        factors = widening(misses(scaled.samples(SAMPLES), views.log10_menc.numpy()), views.lineage)
        scales = [stretched(*pair, factors) for pair in zip(scales, responses(scaled), strict=True)]
    return scales


def unseen_scale(parts: Sequence[InferredViews]) -> torch.Tensor:
    """Return the scale (K, K) for galaxies of a suite that a network was not trained on.

    parts: usable validation views of each suite, as a network that was trained without this suite infers them. Every
    suite has the same weight, as if suites were drawn at random from all suites that there might be, however many views
    it has.
    """
    second_moments = []
    for views in parts:
        scale = latent_scale(*views.posterior.latent(views.log10_menc)[0], len(set(views.lineage)))
        second_moments.append((scale @ scale.T).double().cpu())
    common_scale = torch.linalg.cholesky(torch.stack(second_moments).mean(0)).float()
    lineage = np.concatenate([views.lineage for views in parts])
    weight = np.concatenate([np.full(len(views), 1 / len(views)) for views in parts])
    for _ in range(PASSES):
        miss_ratios, responses_of_suites = [], []
        for views in parts:
            scaled = views.posterior.with_scales([common_scale.to(views.posterior.features[0].device)])
            miss_ratios.append(misses(scaled.samples(SAMPLES), views.log10_menc.numpy()))
            responses_of_suites.append(responses(scaled)[0])
        common_scale = stretched(
            common_scale,
            torch.stack(responses_of_suites).mean(0),
            widening(np.concatenate(miss_ratios), lineage, weight),
        )
    return common_scale


def blocks_of(store: Path, suites: tuple[str, ...], part: str, max_galaxies: int) -> Iterator[Views]:
    """Yield all views of at most max_galaxies galaxies of a part of the split, spread evenly over the store.

    They come in blocks of about VIEWS_PER_BLOCK views, so that memory suffices whatever the number of galaxies; a part
    without galaxies is one block without views.
    """
    galaxies = galaxies_of(store, done_galaxies(store, suites), part)
    rows = np.unique(np.linspace(0, len(galaxies) - 1, min(len(galaxies), max_galaxies)).astype(int))
    rows_at_once = max(1, VIEWS_PER_BLOCK // galaxies.shape[0])
    for start in range(0, max(1, len(rows)), rows_at_once):
        yield galaxies.read(rows[start : start + rows_at_once])


def inferred_views(infer: Inference, blocks: Iterator[Views], tracer: str) -> InferredViews:
    """Return what a network infers from the views in `blocks` that have usable maps of a tracer."""
    return InferredViews.joined([_inferred_as_taken(infer, block, tracer) for block in blocks])


def _inferred_as_taken(infer: Inference, views: Views, tracer: str) -> InferredViews:
    """Return what a network infers from usable views, of observers whose R_e errs as much as it did in training.

    Each view's error follows from its name.
    """
    if radius_dex := infer.run["fit"]["radius_dex"]:
        normal = [view_rng(_RADIUS_SEED, *name).standard_normal() for name in views.names()]
        dex = radius_dex * torch.tensor(normal, dtype=torch.float64)
        taken = with_radius_error(views.maps, views.half_mass_radius_kpc, views.log10_menc, dex)
        views = replace(views, maps=taken[0], half_mass_radius_kpc=taken[1], log10_menc=taken[2])
    return InferredViews.of(infer, views[usable(views, tracer, infer.instrument)], tracer)


def calibrate_unseen(run: Path, store: Path, runs_without_suite: dict[str, Path]) -> None:
    """Write unseen.json of a run from runs that were trained without a suite or several ({suite left out: run}).

    Does nothing where it is there for these weights and settings. Raises as `calibrate`.
    """
    without = _weights_without(runs_without_suite)
    if is_calibrated_for_unseen(run, without):
        return
    for trained_run in (run, *runs_without_suite.values()):
        require_store(trained_run, store)
    record = made_from(run, UNSEEN)
    members, scales = len(members_of(run)), {}
    infer_of = {path: Inference(path, calibrated=False) for path in set(runs_without_suite.values())}
    infers = {suite: infer_of[path] for suite, path in runs_without_suite.items()}
    measured: dict[str, list[str]] = {}
    for tracer in next(iter(infers.values())).answers():
        views_of = {suite: _views_left_out(infer, store, suite, tracer) for suite, infer in infers.items()}
        measured[tracer] = [suite for suite, views in views_of.items() if len(views)]
        if missing := ", ".join(sorted(views_of.keys() - set(measured[tracer]))):
            print(
                f"{run}: no view of {missing} can be used with {tracer}: how far off it is there is not in its "
                "intervals for suites that it was not trained on",
                file=sys.stderr,
            )
        if measured[tracer]:
            scales[tracer] = [unseen_scale([views_of[suite] for suite in measured[tracer]])] * members
    if made_from(run, UNSEEN) != record or _weights_without(runs_without_suite) != without:
        raise RunError(_TRAINED_MEANWHILE.format(run=run))
    if widened := others_held(run):
        print(_WIDENED_NO_MORE.format(run=run, others=", ".join(widened)), file=sys.stderr)
    write_scales(run, UNSEEN, scales, record | {"without": without, "measured": measured})


def _views_left_out(infer: Inference, store: Path, suite: str, tracer: str) -> InferredViews:
    """Return what a network infers from usable views of a suite that it was trained without.

    They are of validation galaxies or, where there is none, of those that the run itself was trained on.
    """
    for part in ("val", "train"):
        if len(views := inferred_views(infer, blocks_of(store, (suite,), part, MOST_GALAXIES), tracer)):
            break
    return views


def _weights_without(runs_without_suite: dict[str, Path]) -> dict[str, list[str]]:
    """Return the weights of the run without each suite, which unseen.json keeps beside those of its run."""
    return {suite: weights_of(path) for suite, path in runs_without_suite.items()}


def calibrate_all(run: Path, store: Path) -> None:
    """Calibrate a trained network, and what waited for it alone: its ensemble, and either for suites left out.

    So whoever is the last to be calibrated does it, and jobs that end at the same time do not all calibrate the whole
    ensemble. Raises as `calibrate`.
    """
    calibrate(run, store)
    if others := sorted(path.name for path in set(run.glob("without-*")) - set(_fits_without_suites(run))):
        print(_OF_OTHER_SETTINGS.format(run=run, others=", ".join(others)), file=sys.stderr)
    _forget_what_no_fit_makes_anew(run)
    for folder in waiting(run):
        # Jobs that end at the same time wait for the one that does it; the run's own folder is its fit's already.
        with working_in(folder, math.inf) if folder != run else contextlib.nullcontext():
            if _is_ensemble_waiting(folder):
                calibrate(folder, store)
            if runs_without_suite := _unseen_waiting(folder):
                calibrate_unseen(folder, store, runs_without_suite)


def _forget_what_no_fit_makes_anew(run: Path) -> None:
    """Remove unseen.json of other weights where only `kinmass widen` made it, and say so: nobody could use the run.

    Where there are fits without each suite, these make it anew.
    """
    if not (run / UNSEEN).exists() or not is_out_of_date(run, UNSEEN) or _fits_without_suites(run):
        return
    has_others = any(run.glob("without-*"))
    if read_config(run)["fit"].get("leave_one_suite_out") and not has_others:
        return
    widened = others_held(run)
    (run / UNSEEN).unlink()
    if widened or not has_others:
        print(_WIDENED_NO_MORE.format(run=run, others=", ".join(widened) or "other suites"), file=sys.stderr)


def _fits_without_suites(folder: Path) -> list[Path]:
    """Return the fits without each suite of a run or an ensemble that were made as it is, as far as they are begun.

    Where a run was removed and trained otherwise, those of before say nothing of it.
    """
    try:
        own = read_config(folder)
    except RunError:
        return []
    return [path for path in sorted(folder.glob("without-*")) if _is_made_as(path, own)]


def _is_made_as(path: Path, own: RunRecord) -> bool:
    """Whether a fit without a suite has the settings of its run, and its share of the steps; one not begun may have."""
    try:
        content = read_config(path)
    except RunError:
        return True
    steps = max(1, round(own["fit"]["steps"] * len(content["fit"]["suites"]) / len(own["fit"]["suites"])))
    free, expected = {"suites", "members", "seed", *FREE_SETTINGS}, {**own["fit"], "steps": steps}
    is_same = all(content["fit"].get(name) == value for name, value in expected.items() if name not in free)
    return is_same and content["instrument"] == own["instrument"]


def waiting(run: Path) -> list[Path]:
    """Return, of a trained run and its ensemble, what could be calibrated, also for unseen suites, and is not."""
    return [folder for folder in (run, run.parent) if _is_ensemble_waiting(folder) or _unseen_waiting(folder)]


def _is_ensemble_waiting(folder: Path) -> bool:
    """Whether all members of the ensemble in a folder are calibrated, and the ensemble is not."""
    try:
        members = member_folders(folder, read_config(folder)["fit"]["members"])
    except RunError:
        return False
    return members != [folder] and all(map(is_calibrated, members)) and not is_calibrated(folder)


def _unseen_waiting(folder: Path) -> dict[str, Path]:
    """Return the fits without each suite ({suite: run}) if all is there for unseen.json but itself, else none.

    Where a suite was left out by itself and with others, the fit that knows least of it counts.
    """
    fits = _fits_without_suites(folder)
    if not fits or not all(map(is_calibrated, (folder, *fits))):
        return {}
    suites = read_config(folder)["fit"]["suites"]
    left_out = {path: set(suites) - set(read_config(path)["fit"]["suites"]) for path in fits}
    runs_without_suite = {
        suite: path for path in sorted(fits, key=lambda path: len(left_out[path])) for suite in sorted(left_out[path])
    }
    if set(runs_without_suite) != set(suites):
        return {}
    without = _weights_without(runs_without_suite)
    return {} if is_calibrated_for_unseen(folder, without) else runs_without_suite


def _seen_as_trained(infer: Inference, views: Views, tracer: str, n_before: int) -> SeenViews:
    """Return what a network makes of views that are varied as in training, but not turned on the sky.

    Those of which nothing is seen are left out. So variations that the network was trained to ignore do not make a view
    count as out of distribution. n_before: the number of views that came before these, as random numbers follow a
    view's place among all of them.
    """
    augmentation = Augmentation.of(infer.run["fit"])
    numbers = augmentation.numbers(n_before + torch.arange(len(views)), SEED)
    if numbers is None or not len(views):
        return infer(views, tracer=tracer, unseen=False).seen_and_answered()
    maps, r_e, _ = augmentation.vary(
        views.maps, views.half_mass_radius_kpc, views.log10_menc, views.field_of_view_re, numbers
    )
    observed = replace(views, maps=maps, half_mass_radius_kpc=r_e).observed(infer.instrument, told=infer.told)
    return infer(augmentation.vary_observed(observed, numbers), r_e, tracer).seen_and_answered()


def calibrate(run: Path, store: Path) -> None:
    """Write ood.pt and calibration.json of a trained run, or of an ensemble whose members are all trained.

    Does nothing where both are there for these weights and settings. Raises RunError, StoreError or OSError.
    """
    if is_calibrated(run):
        return
    require_store(run, store)
    records = {name: made_from(run, name) for name in (OOD, CALIBRATION)}
    infer = Inference(run, calibrated=False)
    suites = tuple(infer.run["fit"]["suites"])

    # Per part and tracer, of each block of views.
    seen_of_blocks: dict[tuple[str, str], list[SeenViews]] = defaultdict(list)
    inferred_of_blocks: dict[str, list[InferredViews]] = defaultdict(list)
    for part, max_galaxies in (("train", MOST_TRAINING), ("val", MOST_GALAXIES)):
        n_views = dict.fromkeys(infer.answers(), 0)
        for block in blocks_of(store, suites, part, max_galaxies):
            block = block[block.view < TRAINING_VIEWS] if part == "train" else block
            for tracer in infer.answers():
                views = block[usable(block, tracer, infer.instrument)]
                seen_of_blocks[part, tracer].append(_seen_as_trained(infer, views, tracer, n_views[tracer]))
                n_views[tracer] += len(views)
                if part == "val":
                    inferred_of_blocks[tracer].append(_inferred_as_taken(infer, block, tracer))
    scales, training_features = {}, {}
    for tracer in infer.answers():
        training, validation = (SeenViews.joined(seen_of_blocks[part, tracer]) for part in ("train", "val"))
        if features := learn_training_features(training, validation):
            training_features[tracer] = features
        scales[tracer] = scales_of(InferredViews.joined(inferred_of_blocks[tracer]))
    if any(made_from(run, name) != record for name, record in records.items()):
        raise RunError(_TRAINED_MEANWHILE.format(run=run))
    write_training_features(run, training_features, records[OOD])
    write_scales(run, CALIBRATION, scales, records[CALIBRATION])
