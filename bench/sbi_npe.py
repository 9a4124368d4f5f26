"""Ours beside `sbi`'s neural posterior estimation (NPE), trained on the same maps and the same split.

  python -m bench.sbi_npe --store maps.zarr       (bench.experiments says how to make the store)

sbi gets what our network gets: the same views of the same galaxies through the same instrument, as the same
dimensionless maps; an embedding that is our encoders and the layer that joins them; profiles in each view's own mass
unit. The rest is its own default: its flow (`maf`), z-scored profiles, Adam at 5e-4, batches of 200, gradients clipped
at 5, and stopping after 20 epochs without a better validation. Each has one thread, one after the other. What differs:

- A favour to sbi: it learns the profile's first value and the logarithms of its steps, as our density does, so
  that its samples rise with radius too; its densities are brought back to per dex^K.
- Maps are not z-scored pixel by pixel (--z-score independent, its default): they are in natural units, and the
  polar encoder divides by the mask.
- It validates on the views that we validate on. Its default, a random tenth of the rows (--split-rows, of both
  parts together), has views of one galaxy on either side, and stops later than it should.
- Against sbi: it takes fixed pairs, where ours draws noise and a symmetry of the sky at each look. Each view comes
  once, with the noise it is evaluated with; with --copies again, with noise and symmetries as our training draws them.

Printed per fit, over test views of all suites and the mean of ten radii: joint negative log-likelihood per view
[nats], dispersion and its robust form [dex], coverage of the central 68 and 95 % intervals (mean, and at the radius
that is farthest off), seconds from the store to a trained network (ours start Python too), how many looks at views
training took (steps x batch), and trainable parameters.
"""

import argparse
import io
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sbi.inference import NPE
from sbi.neural_nets import posterior_nn
from sbi.utils.tracking import TensorBoardTracker
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

from bench import common
from bench.experiments import train_one
from bench.generalization import views_of_both
from kinmass import train
from kinmass.eval.tables.calibration import coverage
from kinmass.gen.instruments.observe import observe
from kinmass.gen.storage import store
from kinmass.train.data import loader
from kinmass.train.data.dataset import RADII_RE, Views, concatenate, usable
from kinmass.train.loop.config import FitConfig
from kinmass.train.model.density import constrained, log_derivative, unconstrained
from kinmass.train.model.network import MassModel, ModelConfig
from kinmass.train.model.scaling import flip_sky
from kinmass.train.run.intervals import LEVELS

HEADS = ["fit", "nll", "dispersion", "robust", "cov68", "worst", "cov95", "worst", "seconds", "looks", "parameters"]
N_SAMPLES = 500
BATCH = 200  # sbi's default, of which it drops an incomplete one
BLOCK = 128  # test views that sbi samples at once


def figures(samples: np.ndarray, log_prob: np.ndarray, truth: np.ndarray) -> list[float]:
    """Joint negative log-likelihood, dispersion, robust dispersion; per level the mean and the worst radius's coverage.

    samples (S, N, K) of log10 M; log_prob (N,): log joint density at the truth; truth (N, K).
    """
    error = np.median(samples, axis=0) - truth
    low_error, high_error = np.quantile(error, [0.16, 0.84], axis=0)
    coverages = []
    for level in LEVELS:
        covered_share = coverage(samples, truth, level)
        coverages += [covered_share.mean(), covered_share[np.argmax(np.abs(covered_share - level))]]
    return [
        float(v) for v in (-log_prob.mean(), error.std(0).mean(), 0.5 * (high_error - low_error).mean(), *coverages)
    ]


class Embedding(nn.Module):
    """Our network without its density: dimensionless maps (N, 4 T, P, P) of T tracers to (N, F) features."""

    def __init__(self, model: MassModel):
        super().__init__()
        self.tracers, self.encoders, self.join = model.tracers, model.encoders, model.join

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Features (N, F) of maps (N, 4 T, P, P)."""
        encoded = [self.encoders[t](m) for t, m in zip(self.tracers, maps.split(4, dim=1), strict=True)]
        return self.join(torch.cat(encoded, dim=1))


class GivenSplit(NPE):
    """NPE that trains on the rows in `train_indices` and validates on `val_indices`, set beforehand."""

    def get_dataloaders(self, start: int, batch: int, fraction: float, resume: bool, **rest: Any) -> Any:
        """The loaders of NPE, told to resume: then it takes the indices that are set and draws none."""
        fraction = len(self.val_indices) / (len(self.train_indices) + len(self.val_indices))
        return super().get_dataloaders(start, batch, fraction, True, **rest)


def pairs(model: MassModel, views: Views, observed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Data of sbi: unconstrained profiles (N, K) and maps (N, 4 T, P, P); and log10 of the mass units (N,)."""
    inputs, unit = model.inputs(observed, views.half_mass_radius_kpc)
    free = unconstrained(views.log10_menc - unit[:, None], model.density.max_step)
    return free, torch.cat([inputs[t][0] for t in model.tracers], 1), unit


def views_of(config: FitConfig, part: str) -> Views:
    """The same views of a part, train or val, that `kinmass fit` takes."""
    path = Path(config.store)
    status = loader.done_galaxies(path, config.suites)
    galaxies = loader.galaxies_of(path, status, part, config.galaxies if part == "train" else 0)
    views = galaxies.read(np.arange(len(galaxies)))
    return views[usable(views, config.tracer, config.instrument_model)]


def looks(config: FitConfig, views: Views, copies: int) -> list[torch.Tensor]:
    """Observed maps (N, 8, Q, Q) per copy: first with the views' own noise, then with random noise and symmetries."""
    observed = [views.observed(config.instrument_model)]
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(copies - 1):
        noise = torch.randn(len(views), 4, *observed[0].shape[2:], generator=generator)
        maps = flip_sky(views.maps, torch.randint(16, (len(views),), generator=generator))
        observed.append(
            observe(maps, config.instrument_model, noise, views.field_of_view_re, views.half_mass_radius_kpc)
        )
    return observed


def train_sbi(config: FitConfig, flow: str, args: argparse.Namespace) -> tuple[Any, MassModel, int]:
    """Train sbi: its density estimator, our network with its encoders, and how many looks at views training took."""
    train_views, val_views = (views_of(config, part) for part in ("train", "val"))
    torch.manual_seed(config.seed)
    grid = config.instrument_model.grid(train_views.maps.shape[-1], train_views.field_of_view_re)
    model = MassModel(ModelConfig(config.tracer, RADII_RE, *grid, encoder=config.encoder))
    parts = [pairs(model, train_views, observed) for observed in looks(config, train_views, args.copies)]
    parts.append(pairs(model, val_views, val_views.observed(config.instrument_model)))
    theta, maps = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    # As NPE builds the flow from its name, but for the embedding and the maps' z-score.
    build_flow = posterior_nn(flow, z_score_x=args.z_score, embedding_net=Embedding(model))
    tracker = TensorBoardTracker(SummaryWriter(args.out / "sbi-npe" / flow))
    inference = (NPE if args.split_rows else GivenSplit)(density_estimator=build_flow, tracker=tracker)
    inference.train_indices, inference.val_indices = torch.arange(len(theta)).tensor_split(
        [len(theta) - len(val_views)]
    )
    inference.append_simulations(theta, maps)
    estimator = inference.train(**({"max_num_epochs": args.max_epochs} if args.max_epochs else {}))
    print()
    rows = len(inference.train_indices)
    batch = min(BATCH, rows)
    return estimator.eval(), model, inference.summary["epochs_trained"][-1] * (rows // batch) * batch


@torch.no_grad()
def infer_sbi(estimator: Any, model: MassModel, instrument: Any, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Samples (S, N, K) of log10 M(<r) [Msun] of sbi, and its log density (N,) per dex^K at the truth."""
    samples, log_prob = [], []
    for start in range(0, len(views), BLOCK):
        block = views[np.arange(start, min(start + BLOCK, len(views)))]
        theta, maps, unit = pairs(model, block, block.observed(instrument))
        free = estimator.sample((N_SAMPLES,), condition=maps)
        samples.append(constrained(free, model.density.max_step) + unit[:, None])
        log_density = estimator.log_prob(theta[None], condition=maps)[0]
        log_prob.append(log_density + log_derivative(theta, model.density.max_step))
    return torch.cat(samples, 1).numpy().astype(float), torch.cat(log_prob).numpy().astype(float)


def size(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def main() -> None:
    """Train ours and sbi's and print their figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store to train and test on")
    parser.add_argument("--tracer", default="both", choices=["gas", "stars", "both"], help="(default: both)")
    parser.add_argument("--encoder", default="polar", help="of both: polar, residual or plain")
    parser.add_argument("--galaxies", type=int, default=0, help="lineages to train on at most; 0 for all")
    parser.add_argument("--steps", type=int, default=1600, help="optimiser steps of our fit at most")
    parser.add_argument("--flows", nargs="*", default=["maf", "nsf"], help="of sbi; its default is maf")
    parser.add_argument("--max-epochs", type=int, default=0, help="epochs of sbi at most; 0 for its default, no limit")
    parser.add_argument("--copies", type=int, default=1, help="looks at each training view that sbi is given")
    parser.add_argument("--z-score", default="none", help="of sbi's maps: none, structured or independent, its default")
    parser.add_argument("--split-rows", action="store_true", help="let sbi split off its validation views itself")
    args = parser.parse_args()
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # sbi's progress, piped too
    # Pixels valid in every view, or in none, are no mistake; the other is nflows' own affair.
    for text in ("Data has constant values", "torch.triangular_solve is deprecated"):
        warnings.filterwarnings("ignore", text)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for `kinmass fit`, a process of its own
    config = FitConfig(
        str(args.store), args.tracer, tuple(store.suites(args.store)), encoder=args.encoder, galaxies=args.galaxies
    )
    test = concatenate([views_of_both(args.store, "test", suite, config.instrument_model) for suite in config.suites])
    truth = test.log10_menc.numpy().astype(float)
    rows: list[list[object]] = []

    with tempfile.TemporaryDirectory() as scratch:
        options = f"--tracer {args.tracer} --encoder {args.encoder} --galaxies {args.galaxies}"
        seconds = train_one(Path(scratch) / "ours", options, args.store, args.steps)
        infer = train.load(Path(scratch) / "ours")
    posterior = infer(test)
    n_looks = infer.run["steps"] * config.batch
    measured = figures(posterior.samples(N_SAMPLES), posterior.log_prob(truth), truth)
    rows.append(["ours", *measured, seconds, n_looks, size(infer.models[0])])

    for flow in args.flows:
        print(f"sbi, {flow}")
        began = time.time()
        estimator, model, n_looks = train_sbi(config, flow, args)
        seconds = time.time() - began
        rows.append([f"sbi, {flow}", *figures(*infer_sbi(estimator, model, config.instrument_model, test), truth)])
        rows[-1] += [seconds, n_looks, size(estimator)]
    print(f"{len(test)} views of {len(set(test.galaxy))} test galaxies; {args.galaxies or 'all'} training galaxies")
    common.table(HEADS, rows)


if __name__ == "__main__":
    main()
