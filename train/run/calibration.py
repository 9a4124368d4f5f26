"""How much wider or narrower posteriors have to be, told by galaxies that were not trained on.

A network that has seen its training galaxies often is a little too sure of others: the latent numbers that the truth
of a validation view stands for are not standard normal. Their covariance, and then a factor that follows the radius
for intervals to hold what they promise (temperatures: Guo et al. 2017, arXiv:1706.04599), become the scale of the
numbers that profiles are drawn from: the density stays exact. A run, or an ensemble as a whole, keeps it per tracer
in calibration.json. On the way, what the network has seen is noted (`train.run.out_of_distribution`).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinmass.train.data.augmentation import Augmentation
from kinmass.train.data.dataset import Views, usable
from kinmass.train.data.loader import done_galaxies, galaxies_of
from kinmass.train.run.checkpoint import (
    RunError,
    members_of,
    read_training_features,
    weights_of,
    write_json,
    write_tensors,
)
from kinmass.train.run.out_of_distribution import learn
from kinmass.train.run.posterior import UNSEEN, Inference, Posterior

# N views, K radii, S samples, C components
#: The central intervals that are to hold what they promise: one and two standard deviations of a Gaussian.
LEVELS = (0.6827, 0.9545)
SAMPLES, N_BOOTSTRAP = 200, 50
MOST_GALAXIES = 4096
SEED = 1_000_003
#: Training galaxies that show what training views look like.
MOST_TRAINING = 1024
#: Of each member, to see how profiles follow latent numbers; and how often intervals are looked at and widened.
RESPONSE_SAMPLES, PASSES = 20, 2
#: Weight of uncorrelated latent numbers against those seen: as many galaxies as show a correlation of a tenth.
PRIOR_GALAXIES = 100


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


def widening(miss: np.ndarray, lineage: np.ndarray) -> np.ndarray:
    """(K,) by how much to widen intervals for the levels to be held, from `misses` (N, K, 2) of views of lineages (N,).

    A straight line over the radii, which are even in log r, drawn towards a constant by as much as its slope is
    uncertain (James & Stein 1961): of single radii a few hundred galaxies say too little. To a thousandth: further
    digits are those of the samples, and differ with the number of processes.
    """

    def line(miss: np.ndarray) -> np.ndarray:
        needed = np.mean([np.quantile(miss[..., i], level, axis=0) for i, level in enumerate(LEVELS)], axis=0)
        return np.polyfit(at, needed, min(1, len(at) - 1))

    at = np.linspace(-1, 1, miss.shape[1]) if miss.shape[1] > 1 else np.zeros(1)
    found = line(miss)
    if len(found) == 2:
        number = np.unique(lineage, return_inverse=True)[1]
        views_of = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
        rng = np.random.default_rng(0)
        drawn = rng.integers(0, len(views_of), (N_BOOTSTRAP, len(views_of)))
        slopes = [line(miss[np.concatenate([views_of[i] for i in some])])[0] for some in drawn]
        found[0] *= max(0.0, 1 - np.var(slopes) / max(found[0] ** 2, 1e-12))
    return np.asarray(np.polyval(found, at).clip(min=0.1).round(3))


def latent_scale(latent: torch.Tensor, weight: torch.Tensor, galaxies: int) -> torch.Tensor:
    """(K, K) lower triangular L with L L^T the covariance about nil of latent numbers (N, C, K) of some galaxies.

    weight (N, C) are log weights with which each component holds a view. Drawn towards a multiple of one.
    """
    share = torch.softmax(weight - 0.5 * (latent**2).sum(-1), dim=-1).double()
    second = torch.einsum("nc,nck,ncl->kl", share, latent.double(), latent.double()) / len(latent)
    plain = second.trace() / len(second) * torch.eye(len(second), dtype=second.dtype, device=second.device)
    return torch.linalg.cholesky((galaxies * second + PRIOR_GALAXIES * plain) / (galaxies + PRIOR_GALAXIES)).float()


def responses(posterior: Posterior) -> list[torch.Tensor]:
    """Per member the (K, K) linear response of profiles, each view's over its own width, to latent numbers."""
    samples = torch.from_numpy(posterior.samples(SAMPLES))
    off = (samples - samples.median(0).values).double()
    off = off / off.std(0).mean(-1).clamp(min=1e-6)[:, None]
    found, members = [], len(posterior.features)
    for member in range(members):
        mine = slice(member, members * RESPONSE_SAMPLES, members)
        latent = []
        for profile in samples[mine]:
            each, weight = posterior.latent(profile)[member]
            nearest = (weight - 0.5 * (each**2).sum(-1)).argmax(-1)
            latent.append(each[torch.arange(len(each)), nearest].cpu())
        found.append(torch.linalg.lstsq(torch.cat(latent).double(), off[mine].flatten(0, 1)).solution.T)
    return found


def stretched(scale: torch.Tensor, response: torch.Tensor, wider: np.ndarray) -> torch.Tensor:
    """(K, K) scale of latent numbers with which intervals are `wider` (K,), as far as profiles follow `response`."""
    mean = float(wider.mean())
    some_more = torch.from_numpy(wider - mean)[:, None] * response
    mixed = (
        mean * torch.eye(len(wider)).double() + torch.linalg.pinv(response, rtol=1e-6) @ some_more
    ) @ scale.cpu().double()
    return torch.linalg.cholesky(mixed @ mixed.T).to(scale)


def scales_of(infer: Inference, views: Views, tracer: str) -> list[torch.Tensor]:
    """The scale (K, K) of every member from usable validation views; one where there is none."""
    if not len(views):
        return [torch.eye(views.log10_menc.shape[1], device=infer.device) for _ in infer.models]
    galaxies = len(set(views.lineage))
    plain = infer(views, tracer=tracer)
    infer.scales[tracer] = [latent_scale(*found, galaxies) for found in plain.latent(views.log10_menc)]
    for _ in range(PASSES):
        posterior = infer(views, tracer=tracer)
        wider = widening(misses(posterior.samples(SAMPLES), views.log10_menc.numpy()), views.lineage)
        pairs = zip(infer.scales[tracer], responses(posterior), strict=True)
        infer.scales[tracer] = [stretched(scale, response, wider) for scale, response in pairs]
    return infer.scales[tracer]


def unseen_scale(pairs: Sequence[tuple[Inference, Views]], tracer: str) -> torch.Tensor:
    """The scale (K, K) for galaxies of a suite that a network has not seen.

    From networks that were each trained without one suite, and usable validation views of that suite: as if suites,
    each of which counts the same, were drawn from all that there might be.
    """
    seconds = []
    for infer, views in pairs:
        scale = latent_scale(*infer(views, tracer=tracer).latent(views.log10_menc)[0], len(set(views.lineage)))
        seconds.append((scale @ scale.T).double().cpu())
    found = torch.linalg.cholesky(torch.stack(seconds).mean(0)).float()
    lineage = np.concatenate([[f"{s}/{x}" for s, x in zip(v.suite, v.lineage, strict=True)] for _, v in pairs])
    for _ in range(PASSES):
        missed, response = [], []
        for infer, views in pairs:
            infer.scales[tracer] = [found.to(infer.device)]
            posterior = infer(views, tracer=tracer, unseen=False)
            missed.append(misses(posterior.samples(SAMPLES), views.log10_menc.numpy()))
            response.append(responses(posterior)[0])
        found = stretched(found, torch.stack(response).mean(0), widening(np.concatenate(missed), lineage))
    return found


def _views(store: Path, suites: tuple[str, ...], part: str, most: int) -> Views:
    """All views of at most so many galaxies of a part of the split, from all over the store."""
    galaxies = galaxies_of(store, done_galaxies(store, suites), part)
    return galaxies.read(np.unique(np.linspace(0, len(galaxies) - 1, min(len(galaxies), most)).astype(int)))


def calibrate_across(run: Path, store: Path, without: dict[str, Path]) -> None:
    """Write unseen.json of a run from the runs that were trained without a suite each. Raises as `calibrate`."""
    weights = {"weights": weights_of(run), "without": {suite: weights_of(path) for suite, path in without.items()}}
    if _says(run / UNSEEN, weights):
        return
    members, scales = len(members_of(run)), {}
    infers = {suite: Inference(path, calibrated=False) for suite, path in without.items()}
    for tracer in next(iter(infers.values())).answers():
        pairs = []
        for suite, infer in infers.items():
            views = _views(store, (suite,), "val", MOST_GALAXIES)
            views = views[usable(views, tracer, infer.instrument)]
            pairs += [(infer, views)] if len(views) else []
        if pairs:
            scales[tracer] = [unseen_scale(pairs, tracer).tolist()] * members
    write_json(run / UNSEEN, {"scale": scales} | weights)


def is_calibrated(run: Path) -> bool:
    """Whether calibration.json and ood.pt are there, whole, and of the run's weights."""
    try:
        read_training_features(run)
    except RunError:
        return False
    return _says(run / "calibration.json", {"weights": weights_of(run)})


def _says(path: Path, weights: dict[str, Any]) -> bool:
    """Whether a file of scales can be read and is of some weights."""
    try:
        content = json.loads(path.read_text())
        return isinstance(content["scale"], dict) and {key: content[key] for key in weights} == weights
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _features_as_trained(infer: Inference, views: Views, tracer: str) -> list[torch.Tensor]:
    """Per member the features (N, F) of views that vary as they did in training, without turns of the sky.

    What a network was taught to look past does not put a view out of its distribution.
    """
    fit = infer.run["fit"]
    augmentation = Augmentation(**{name: fit.get(name, 0.0) for name in Augmentation.__dataclass_fields__})
    numbers = augmentation.numbers(torch.arange(len(views)), SEED)
    if numbers is None or not len(views):
        return infer(views, tracer=tracer, unseen=False).features
    maps, r_e, _ = augmentation.vary(
        views.maps, views.half_mass_radius_kpc, views.log10_menc, views.field_of_view_re, numbers
    )
    seen = replace(views, maps=maps, half_mass_radius_kpc=r_e).observed(infer.instrument)
    return infer(augmentation.vary_observed(seen, numbers), r_e, tracer).features


def calibrate(run: Path, store: Path) -> None:
    """Write ood.pt and calibration.json of a trained run, or of an ensemble whose members are all trained.

    What is there of these weights is left alone. Raises RunError, StoreError or OSError.
    """
    if is_calibrated(run):
        return
    infer = Inference(run, calibrated=False)
    suites = tuple(infer.run["fit"]["suites"])

    def usable_of(views: Views, tracer: str) -> Views:
        return views[usable(views, tracer, infer.instrument)]

    training, validation = _views(store, suites, "train", MOST_TRAINING), _views(store, suites, "val", MOST_GALAXIES)
    scales, known = {}, {}
    for tracer in infer.answers():
        held_out = usable_of(validation, tracer)
        found = learn(
            _features_as_trained(infer, usable_of(training, tracer), tracer),
            _features_as_trained(infer, held_out, tracer),
        )
        if found:
            known[tracer] = vars(found)
        scales[tracer] = scales_of(infer, held_out, tracer)
    weights = weights_of(run)
    write_tensors(run / "ood.pt", known | {"weights": weights})
    plain = {tracer: [s.tolist() for s in each] for tracer, each in scales.items()}
    write_json(run / "calibration.json", {"scale": plain, "weights": weights})
