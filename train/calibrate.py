"""How much wider or narrower posteriors have to be, told by galaxies that were not trained on.

A network that has seen its training galaxies often is a little too sure of others: the latent numbers that the truth
of a validation view stands for are not standard normal. Their covariance, and then one factor for intervals to hold
what they promise (a temperature: Guo et al. 2017, arXiv:1706.04599), become the scale of the numbers that profiles
are drawn from. A run, or an ensemble as a whole, keeps it per tracer in calibration.json. On the way, what the
network has seen is noted (`train.familiar`).
"""

from pathlib import Path

import numpy as np
import torch

from train.checkpoint import write_json, write_tensors
from train.dataset import Views, usable
from train.familiar import learn
from train.feed import done_galaxies, galaxies_of
from train.posterior import Inference

# N views, K radii, S samples, C components
#: The central intervals that are to hold what they promise: one and two standard deviations of a Gaussian.
LEVELS = (0.6827, 0.9545)
SAMPLES = 200
MOST_GALAXIES = 4096
#: Training galaxies that show what is familiar.
MOST_TRAINING = 1024
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


def temperature(miss: np.ndarray) -> float:
    """By how much to widen intervals so that the levels are held: from `misses` (N, K, 2), in the mean of radii.

    To a thousandth: further digits are those of the samples, and differ with the number of processes.
    """
    return round(float(np.mean([np.quantile(miss[..., i], level, axis=0).mean() for i, level in enumerate(LEVELS)])), 3)


def latent_scale(latent: torch.Tensor, weight: torch.Tensor, galaxies: int) -> torch.Tensor:
    """(K, K) lower triangular L with L L^T the covariance about nil of latent numbers (N, C, K) of some galaxies.

    weight (N, C) are log weights with which each component holds a view. Drawn towards a multiple of one.
    """
    share = torch.softmax(weight - 0.5 * (latent**2).sum(-1), dim=-1).double()
    second = torch.einsum("nc,nck,ncl->kl", share, latent.double(), latent.double()) / len(latent)
    plain = second.trace() / len(second) * torch.eye(len(second), dtype=second.dtype, device=second.device)
    return torch.linalg.cholesky((galaxies * second + PRIOR_GALAXIES * plain) / (galaxies + PRIOR_GALAXIES)).float()


def scales_of(infer: Inference, views: Views, tracer: str) -> list[torch.Tensor]:
    """The scale (K, K) of every member from usable validation views; one where there is none."""
    if not len(views):
        return [torch.eye(views.log10_menc.shape[1], device=infer.device) for _ in infer.models]
    galaxies = len(set(views.lineage))
    plain = infer(views, tracer=tracer)
    infer.scales[tracer] = [latent_scale(*found, galaxies) for found in plain.latent(views.log10_menc)]
    samples = infer(views, tracer=tracer).samples(SAMPLES)
    wider = temperature(misses(samples, views.log10_menc.numpy()))
    return [wider * scale for scale in infer.scales[tracer]]


def calibrate(run: Path, store: Path) -> None:
    """Write familiar.pt and calibration.json of a trained run, or of an ensemble whose members are all trained.

    What is there is left alone. Raises RunError, StoreError or OSError.
    """
    path = run / "calibration.json"
    if path.exists():
        return
    infer = Inference(run, calibrated=False)
    done = done_galaxies(store, tuple(infer.run["fit"]["suites"]))

    def views_of(part: str, most: int) -> Views:
        galaxies = galaxies_of(store, done, part)
        return galaxies.read(np.unique(np.linspace(0, len(galaxies) - 1, min(len(galaxies), most)).astype(int)))

    def usable_of(views: Views, tracer: str) -> Views:
        return views[usable(views, tracer, infer.instrument)]

    training, validation = views_of("train", MOST_TRAINING), views_of("val", MOST_GALAXIES)
    scales, known = {}, {}
    for tracer in infer.answers():
        held_out = usable_of(validation, tracer)
        found = learn(
            infer(usable_of(training, tracer), tracer=tracer).features, infer(held_out, tracer=tracer).features
        )
        if found:
            known[tracer] = vars(found)
        scales[tracer] = scales_of(infer, held_out, tracer)
    write_tensors(run / "familiar.pt", known)
    write_json(path, {"scale": {tracer: [s.tolist() for s in each] for tracer, each in scales.items()}})
