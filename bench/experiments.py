"""Which network? Fits that differ in one thing each, on one store, compared on its test galaxies.

  kinmass mock --out mocks --galaxies 934      (2,802 galaxies: 2,100 of them to train on)
  kinmass maps mocks/*/*.yaml --out maps.zarr --views 4 --pixels 32
  python -m bench.experiments --store maps.zarr

Fits are `kinmass fit`, two at a time on one thread each, and kept: the same command goes on
where it stood. Printed per fit, over test views of all suites and the mean of ten radii: joint negative
log-likelihood per view [nats], that of single radii, dispersion and its robust form [dex], coverage of
the central 68 and 95 % intervals (mean, and at the radius that is farthest off), p-values of uniform
ranks (worst radius, one view per galaxy) and of the joint test, and training seconds.
"""

import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bench import common
from kinmass import train
from kinmass.eval.tables.calibration import coverage, ranks, tarp, uniformity
from kinmass.gen.storage import store
from kinmass.gen.storage.files import write_atomically
from kinmass.train.data.dataset import concatenate, read_views, usable
from kinmass.train.run.calibration import LEVELS

#: Options of each fit, besides the defaults and --tracer both: every view of every galaxy.
VARIANTS = {
    "plain": "--encoder plain",
    "residual": "--encoder residual",
    "polar": "",
    "polar, mixture": "--head mixture",
    "polar, gaussian": "--head gaussian",
    "polar, batch norm": "--norm batch",
    "polar, raw": "--inputs raw",
    "polar, 200 galaxies": "--galaxies 200",
    "polar, 700 galaxies": "--galaxies 700",
    "polar, 1 view": "--views 1",
    "gas": "--tracer gas",
    "stars": "--tracer stars",
    "any": "--tracer any",
    "ensemble of 3": "--members 3",
    "gas, ensemble of 3": "--tracer gas --members 3",
}
N_SAMPLES = 500
HEADS = ["nll", "nll/radius", "dispersion", "robust", "cov68", "worst", "cov95", "worst", "ranks", "joint", "seconds"]


def train_one(name: str, options: str, store_path: Path, out: Path, steps: int) -> float:
    """Train the fit in out/name unless it is there; the seconds that it took."""
    folder = out / name.replace(", ", "-").replace(" ", "-")
    seconds_file = folder / "seconds.json"
    if seconds_file.exists():
        return float(json.loads(seconds_file.read_text()))
    tracer = [] if "--tracer" in options else ["--tracer", "both"]
    words = ["train", "fit", "--store", store_path, *tracer, "--steps", steps, "--out", folder, *shlex.split(options)]
    began = time.time()
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    write_atomically(seconds_file, json.dumps(time.time() - began))
    return time.time() - began


def figures(samples: np.ndarray, log_prob: np.ndarray, truth: np.ndarray) -> list[float]:
    """Joint negative log-likelihood, dispersion, robust dispersion; per level the mean and the worst radius's coverage.

    samples (S, N, K) of log10 M; log_prob (N,): log joint density at the truth; truth (N, K).
    """
    error, rank = np.median(samples, axis=0) - truth, ranks(samples, truth)
    low_error, high_error = np.quantile(error, [0.16, 0.84], axis=0)
    coverages = []
    for level in LEVELS:
        covered_share = coverage(rank, level)
        coverages += [covered_share.mean(), covered_share[np.argmax(np.abs(covered_share - level))]]
    return [
        float(v) for v in (-log_prob.mean(), error.std(0).mean(), 0.5 * (high_error - low_error).mean(), *coverages)
    ]


def measure(infer: train.Inference, tracer: str, views: train.data.dataset.Views) -> list[float]:
    """The figures of one run on test views, in the order of HEADS but without the seconds."""
    views = views[usable(views, "gas", infer.instrument) & usable(views, "stars", infer.instrument)]
    posterior, truth = infer(views, tracer=tracer), views.log10_menc.numpy().astype(float)
    samples = posterior.samples(N_SAMPLES)
    joint_nll, *other_figures = figures(samples, posterior.log_prob(truth), truth)
    first_view = views.view == 0
    return [
        joint_nll,
        -posterior.log_prob_per_radius(truth, N_SAMPLES).mean(),
        *other_figures,
        min(uniformity(r) for r in ranks(samples, truth)[first_view].T),
        uniformity(tarp(samples[:, first_view], truth[first_view])),
    ]


def main() -> None:
    """Train the chosen variants and print their figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store to train and test on")
    parser.add_argument("--steps", type=int, default=1600, help="optimiser steps of each fit")
    parser.add_argument("--only", nargs="*", help="names of fits, all where left out")
    args = parser.parse_args()
    out = args.out / "experiments"
    chosen = {name: VARIANTS[name] for name in args.only or VARIANTS}
    with ThreadPoolExecutor(2) as pool:
        fits = {
            key: pool.submit(train_one, key, options, args.store, out, args.steps) for key, options in chosen.items()
        }
    test = concatenate([read_views(args.store, suite, "test") for suite in store.suites(args.store)])
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for name, seconds in fits.items():
        infer = train.load(out / name.replace(", ", "-").replace(" ", "-"))
        for tracer in infer.answers():
            label = name if len(infer.answers()) == 1 else f"{name}, asked for {tracer}"
            rows.append([label, *measure(infer, tracer, test), seconds.result()])
    common.table(["fit", *HEADS], rows)


if __name__ == "__main__":
    main()
