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

#: What differs from the default, which is trained on `both` of every view of every galaxy.
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
    """Seconds of the fit in out/name, or what it took when it was made."""
    folder = out / name.replace(", ", "-").replace(" ", "-")
    noted = folder / "seconds.json"
    if noted.exists():
        return float(json.loads(noted.read_text()))
    tracer = [] if "--tracer" in options else ["--tracer", "both"]
    line = ["train", "fit", "--store", store_path, *tracer, "--steps", steps, "--out", folder, *shlex.split(options)]
    began = time.time()
    subprocess.run([sys.executable, "-m", *map(str, line)], check=True, stdout=subprocess.DEVNULL)
    write_atomically(noted, json.dumps(time.time() - began))
    return time.time() - began


def figures(samples: np.ndarray, log_prob: np.ndarray, truth: np.ndarray) -> list[float]:
    """Joint nll, dispersion, robust dispersion, and per level the mean coverage and that of the worst radius.

    From samples (S, N, K) of log10 M, the log joint density (N,) at the truth, and the truth (N, K).
    """
    d, rank = np.median(samples, axis=0) - truth, ranks(samples, truth)
    low, high = np.quantile(d, [0.16, 0.84], axis=0)
    covered = []
    for level in LEVELS:
        at = coverage(rank, level)
        covered += [at.mean(), at[np.argmax(np.abs(at - level))]]
    return [float(v) for v in (-log_prob.mean(), d.std(0).mean(), 0.5 * (high - low).mean(), *covered)]


def measure(infer: train.Inference, tracer: str, views: train.data.dataset.Views) -> list[float]:
    """The figures of one run on test views."""
    views = views[usable(views, "gas", infer.instrument) & usable(views, "stars", infer.instrument)]
    posterior, truth = infer(views, tracer=tracer), views.log10_menc.numpy().astype(float)
    samples = posterior.samples(N_SAMPLES)
    nll, *rest = figures(samples, posterior.log_prob(truth), truth)
    once = views.view == 0
    return [
        nll,
        -posterior.log_prob_per_radius(truth, N_SAMPLES).mean(),
        *rest,
        min(uniformity(r) for r in ranks(samples, truth)[once].T),
        uniformity(tarp(samples[:, once], truth[once])),
    ]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store to train and test on")
    parser.add_argument("--steps", type=int, default=1600, help="optimiser steps of each fit")
    parser.add_argument("--only", nargs="*", help="names of fits, all where left out")
    args = parser.parse_args()
    out = args.out / "experiments"
    chosen = {name: VARIANTS[name] for name in args.only or VARIANTS}
    with ThreadPoolExecutor(2) as pool:
        work = {n: pool.submit(train_one, n, o, args.store, out, args.steps) for n, o in chosen.items()}
    test = concatenate([read_views(args.store, suite, "test") for suite in store.suites(args.store)])
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for name, done in work.items():
        infer = train.load(out / name.replace(", ", "-").replace(" ", "-"))
        for tracer in infer.answers():
            label = name if len(infer.answers()) == 1 else f"{name}, asked for {tracer}"
            rows.append([label, *measure(infer, tracer, test), done.result()])
    common.table(["fit", *HEADS], rows)


if __name__ == "__main__":
    main()
