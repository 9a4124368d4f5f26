"""What closes the gap between simulations? Fits on all suites but one, tested on the one left out.

  kinmass mock --out mocks --galaxies 934      (2,802 galaxies: 2,100 of them to train on)
  kinmass maps mocks/*/*.yaml --out maps.zarr --views 4 --pixels 32
  python -m bench.generalization --store maps.zarr --seeds 3

Fits are `kinmass fit` and (coral, mmd, dann, worst) `python -m bench.align`, two at a time on one thread
each, and kept: the same command goes on where it stood. `home` is the plain network trained on the suite that it is
tested on. Printed per variant, tracer and suite left out, means over seeds and ten radii (and for the mixture of all
seeds, an ensemble): RMSE of log10 M(<r) [dex], the part of the gap that is closed (from plain to home), bias and
coverage of the central 68 % interval; the same over all suites left out; and the RMSE of the best single tracer over
that of both. Intervals are 16th to 84th percentiles of a bootstrap that draws galaxies and seeds.
"""

import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch

from bench import common
from bench.align import WEIGHTS
from kinmass import train
from kinmass.eval.tables.calibration import ranks
from kinmass.gen.storage import store
from kinmass.train.data.dataset import read_views, usable
from kinmass.train.run.calibration import LEVELS

#: What differs from a plain fit.
VARIANTS = {
    "plain": "",
    "scale": "--scale-dex 0.2",
    "light": "--light-dex 0.2",
    "heat": "--heat 0.2",
    "tilt": "--tilt 0.2",
    "scale+light": "--scale-dex 0.2 --light-dex 0.2",
    "strong": "--scale-dex 0.3 --light-dex 0.3",
    "strong+heat": "--scale-dex 0.3 --light-dex 0.3 --heat 0.3",
    "stronger heat": "--scale-dex 0.3 --light-dex 0.3 --heat 0.5",
    "strong+heat+tilt": "--scale-dex 0.3 --light-dex 0.3 --heat 0.3 --tilt 0.2",
    "scale+relative": "--scale-dex 0.3 --inputs relative",
    "scale+heat+relative": "--scale-dex 0.3 --heat 0.3 --inputs relative",
    "robust": "--robust",
} | dict.fromkeys(WEIGHTS, "")
TRACERS = ("gas", "stars", "both")
N_SAMPLES, N_BOOTSTRAP = 200, 300


def folder(out: Path, variant: str, tracer: str, suite: str, seed: int) -> Path:
    """Where a fit lives: of all suites but `suite`, or (variant home) of that suite alone."""
    return out / variant.replace(" ", "-") / f"{tracer}-{suite}-{seed}"


def fit(
    variant: str, run: Path, store_path: Path, tracer: str, suites: list[str], left_out: str, seed: int, steps: int
) -> None:
    """Train one network where it is not there yet."""
    line: list[object] = ["bench.align", "--way", variant, "--target", left_out] if variant in WEIGHTS else ["train"]
    line += ["fit", "--store", store_path, "--tracer", tracer, "--suites", ",".join(suites), "--seed", seed]
    line += ["--steps", steps, "--out", run, *shlex.split(VARIANTS.get(variant, ""))]
    done = subprocess.run([sys.executable, "-m", *map(str, line)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def errors(runs: list[Path], store_path: Path, suite: str) -> dict[str, np.ndarray]:
    """Per test view of a suite: its galaxy, log10 M_pred / M_true (N, K), whether the 68 % interval holds it (N, K).

    Of runs that differ by their seed the mixture.
    """
    kept = runs[0] / f"errors-{suite}{f'-of-{len(runs)}' * (len(runs) > 1)}.npz"
    if not kept.exists():
        networks = [train.load(run) for run in runs]
        look = networks[0].instrument
        views = read_views(store_path, suite, "test")
        views = views[usable(views, "gas", look) & usable(views, "stars", look)]
        truth = views.log10_menc.numpy().astype(float)
        samples = np.concatenate([infer(views).samples(N_SAMPLES) for infer in networks])
        inside = np.abs(ranks(samples, truth) - 0.5) < 0.5 * LEVELS[0]
        np.savez(kept, galaxy=views.galaxy.astype(str), d=np.median(samples, axis=0) - truth, inside=inside)
    return dict(np.load(kept))


class Found:
    """Errors of every fit, and figures of them under a bootstrap over galaxies and seeds."""

    def __init__(
        self, out: Path, store_path: Path, variants: list[str], tracers: list[str], suites: list[str], seeds: int
    ):
        self.suites, self.tracers = suites, tracers
        self.found = {}
        for variant, tracer, suite in product([*variants, "home"], tracers, suites):
            runs = [folder(out, variant, tracer, suite, seed) for seed in range(seeds)]
            self.found[variant, tracer, suite] = [errors([run], store_path, suite) for run in runs]
            if seeds > 1:
                self.found[ensemble(variant), tracer, suite] = [errors(runs, store_path, suite)]
        rng = np.random.default_rng(1)
        of = {s: self.found["home", tracers[0], s][0]["galaxy"] for s in suites}
        galaxies = {s: np.unique(of[s]) for s in suites}
        self._galaxy = {s: np.searchsorted(galaxies[s], of[s]) for s in suites}
        self._weights = {s: rng.poisson(1.0, (N_BOOTSTRAP + 1, len(galaxies[s]))).astype(float) for s in suites}
        self._seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), N_BOOTSTRAP + 1) / seeds
        for s in suites:
            self._weights[s][0] = 1.0
        self._seed_weights[0] = 1 / seeds

    def mean(self, variant: str, tracer: str, suite: str, of: str) -> np.ndarray:
        """(B + 1,) rmse, bias or coverage of one suite left out; first without drawing."""
        weights = self._weights[suite][:, self._galaxy[suite]]
        weights /= weights.sum(1, keepdims=True)
        total = np.zeros(N_BOOTSTRAP + 1)
        fits = self.found[variant, tracer, suite]
        for seed, e in enumerate(fits):
            values = {"rmse": e["d"] ** 2, "bias": e["d"], "coverage": e["inside"]}[of]
            per_radius = weights @ values
            if of == "rmse":
                per_radius = np.sqrt(per_radius)
            total += (self._seed_weights[:, seed] if len(fits) > 1 else 1.0) * per_radius.mean(1)
        return total

    def over_suites(self, variant: str, tracer: str, of: str) -> np.ndarray:
        """(B + 1,) the same, mean over suites left out."""
        return np.asarray(np.mean([self.mean(variant, tracer, s, of) for s in self.suites], axis=0))

    def closed(self, variant: str, tracer: str, suite: str | None = None) -> np.ndarray:
        """(B + 1,) the part of the gap between plain and home that is closed [per cent]."""
        plain, home, here = (
            self.over_suites(v, tracer, "rmse") if suite is None else self.mean(v, tracer, suite, "rmse")
            for v in ("plain", "home", variant)
        )
        return np.asarray(100 * (plain - here) / (plain - home))

    def gain(self, variant: str) -> np.ndarray:
        """(B + 1,) RMSE of the best single tracer over that of both."""
        *singles, both = (self.over_suites(variant, t, "rmse") for t in TRACERS if t in self.tracers)
        return np.asarray(np.min(singles, axis=0) / both)


def ensemble(variant: str) -> str:
    """What the mixture of its seeds is called."""
    return f"ensemble of {variant}"


def told(values: np.ndarray, digits: int) -> str:
    """The first, and the interval of the others."""
    low, high = np.quantile(values[1:], [0.16, 0.84])
    return f"{values[0]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store to train and test on")
    parser.add_argument("--steps", type=int, default=1600, help="optimiser steps for all suites; fewer for fewer")
    parser.add_argument("--seeds", type=int, default=3, help="networks of every kind")
    parser.add_argument("--tracers", nargs="*", default=TRACERS, choices=TRACERS)
    parser.add_argument("--only", nargs="*", help="names of variants, all where left out")
    args = parser.parse_args()
    out, suites = args.out / "generalization", list(store.suites(args.store))
    chosen = list(args.only or VARIANTS)
    chosen = chosen if "plain" in chosen else ["plain", *chosen]
    torch.set_num_threads(1)
    with ThreadPoolExecutor(2) as pool:
        work = []
        for seed, variant, tracer, suite in product(range(args.seeds), ["home", *chosen], args.tracers, suites):
            known = [suite] if variant == "home" else [s for s in suites if s != suite]
            steps = args.steps * len(known) // len(suites)
            where = folder(out, variant, tracer, suite, seed)
            work.append(pool.submit(fit, variant, where, args.store, tracer, known, suite, seed, steps))
        for done in work:
            done.result()
    found = Found(out, args.store, chosen, list(args.tracers), suites, args.seeds)
    rows: list[list[object]] = []
    listed = ["home", *chosen]
    if args.seeds > 1:
        listed += [ensemble(variant) for variant in listed]
    for variant, tracer in product(listed, args.tracers):
        for suite in suites:
            means = [told(found.mean(variant, tracer, suite, of), 3) for of in ("rmse", "bias", "coverage")]
            rows.append([variant, tracer, suite, means[0], told(found.closed(variant, tracer, suite), 0), *means[1:]])
        means = [told(found.over_suites(variant, tracer, of), 3) for of in ("rmse", "bias", "coverage")]
        rows.append([variant, tracer, "all", means[0], told(found.closed(variant, tracer), 0), *means[1:]])
    common.table(["variant", "tracer", "left out", "RMSE [dex]", "closed [%]", "bias [dex]", "68 % coverage"], rows)
    if "both" in args.tracers and len(args.tracers) > 1:
        common.table(["variant", "best single / both"], [[v, told(found.gain(v), 2)] for v in listed])


if __name__ == "__main__":
    main()
