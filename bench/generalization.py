"""What closes the gap between simulations? Fits on all suites but one, tested on the one left out.

  kinmass mock --out mocks --galaxies 934      (2,802 galaxies: 2,100 of them to train on)
  kinmass maps mocks/*/*.yaml --out maps.zarr --views 4 --pixels 32
  python -m bench.generalization --store maps.zarr --seeds 3                    # to choose by: its validation galaxies
  kinmass mock --out fresh --galaxies 150 --seed 77
  kinmass maps fresh/*/*.yaml --out fresh.zarr --views 4 --pixels 32
  python -m bench.generalization --store maps.zarr --seeds 3 --fresh fresh.zarr # to report: nothing was chosen on them

Fits are `kinmass fit` and (coral, mmd, dann, worst) `python -m bench.align`, two at a time on one thread each, and
kept: the same command goes on where it stood. `home` is the plain network trained on the suite that it is tested on.
Test views are seen through `ifu`, by networks that were trained through `survey`, too. Suites may be of different
resolution (`kinmass mock --suites quiet --stars 1000 --gas 1000 --dark 1000`). Printed per variant, tracer and suite
left out, means over seeds and ten radii (and for the mixture of all seeds, an ensemble): RMSE of log10 M(<r) [dex],
the part of the gap that is closed (from plain to home), bias and coverage of the central 68 % interval, how many views
are called out of distribution, and the area under that score's ROC curve against views of the training suites; the same
over all suites left out; the networks of one suite (`home`) on each other one, as RMSE over that of the network at home
there; and the RMSE of the best single tracer over that of both. Intervals are 16th to 84th percentiles of a bootstrap
that draws galaxies and seeds.
"""

import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch

from bench import common
from bench.align import WEIGHTS
from kinmass import train
from kinmass.eval.tables.tasks import digest_of_files
from kinmass.gen.code import code_key
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.storage import store
from kinmass.train.data.dataset import Views, read_views, usable
from kinmass.train.run.derived import digest_of_json
from kinmass.train.run.intervals import LEVELS, held
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import Inference, Posterior
from kinmass.train.run.trained_on import store_identity

#: Options of each variant, besides those of a plain fit.
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
    "survey": "--instrument survey",
    "survey+robust": "--instrument survey --robust",
} | dict.fromkeys(WEIGHTS, "")
TRACERS = ("gas", "stars", "both")
#: What is averaged over views, at each radius where it has one, for each measure.
MEASURES: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "rmse": lambda views: views["d"] ** 2,  # of whose mean the root is taken
    "bias": lambda views: views["d"],
    "coverage": lambda views: views["inside"],
    "strange": lambda views: views["score"][:, None] > OOD_THRESHOLD,
    "auc": lambda views: views["score"][:, None],
}
N_SAMPLES, N_BOOTSTRAP = 200, 300


def folder(out: Path, variant: str, tracer: str, suite: str, seed: int) -> Path:
    """Folder of a fit on all suites but `suite`, or, of the variant home, on that suite alone."""
    return out / variant.replace(" ", "-") / f"{tracer}-{suite}-{seed}"


def fit(
    variant: str, run: Path, store_path: Path, tracer: str, suites: list[str], left_out: str, seed: int, steps: int
) -> None:
    """Train one network; one that is finished is left as it is. Raises SystemExit with what a failed fit printed."""
    command = ["bench.align", "--way", variant, "--target", left_out] if variant in WEIGHTS else ["train"]
    words = ["--store", store_path, "--tracer", tracer, "--suites", ",".join(suites), "--seed", seed, "--steps", steps]
    common.run_silently(*command, "fit", *words, "--out", run, *shlex.split(VARIANTS.get(variant, "")))


def views_of_both(store_path: Path, part: str | None, suite: str, instrument: Instrument) -> Views:
    """Read the views of a part of a suite of which both gas and stars are seen through an instrument."""
    views = read_views(store_path, suite, part)
    return views[usable(views, "gas", instrument) & usable(views, "stars", instrument)]


def posterior(infer: Inference, views: Views, instrument: Instrument) -> Posterior:
    """Return a network's posteriors of views as they look through an instrument, which a network may be told of."""
    observed = views.observed(instrument, told=infer.told)
    return infer(observed, views.half_mass_radius_kpc, None, views.names(), infer.foreign(views.suite))


def errors(runs: list[Path], store_path: Path, part: str | None, suite: str) -> dict[str, np.ndarray]:
    """Per view of a part: galaxy, d = log10 M_pred / M_true (N, K), and if M_true is in the 68 % interval (N, K).

    score (N,): the out-of-distribution score; of views of the training suites it is uniform in 0 to 1. Of several runs,
    which differ by their seed, the mixture is taken, and the mean score. Results are kept in the first run's folder
    for as long as runs, galaxies and code are the same.
    """
    code = code_key("kinmass.eval.tables.tasks", ("numpy", "scipy", "torch", "zuko"))
    made_of = [code, *map(digest_of_files, runs), store_identity(store_path, [suite]), part]
    file = runs[0] / f"views-{store_path.stem}-{suite}-{digest_of_json(made_of)}.npz"
    if not file.exists():
        networks = [train.load(run) for run in runs]
        instrument = INSTRUMENTS["ifu"]
        views = views_of_both(store_path, part, suite, instrument)
        truth = views.log10_menc.numpy().astype(float)
        posteriors = [posterior(infer, views, instrument) for infer in networks]
        samples = np.concatenate([each.samples(N_SAMPLES) for each in posteriors])
        score = np.mean([each.ood_score() for each in posteriors], axis=0)
        inside = held((samples < truth).sum(0), len(samples), LEVELS[0])
        d = np.median(samples, axis=0) - truth
        np.savez(file, galaxy=views.galaxy.astype(str), d=d, inside=inside, score=score)
    return dict(np.load(file))


class Results:
    """Errors of every fit, and their statistics with a bootstrap over galaxies and seeds.

    Arrays (B + 1,) hold the value without drawing first, then those of the B draws.
    """

    def __init__(
        self,
        out: Path,
        store_path: Path,
        part: str | None,
        variants: list[str],
        tracers: list[str],
        suites: list[str],
        seeds: int,
    ):
        self.suites, self.tracers = suites, tracers
        self.found = {}
        for variant, tracer, suite in product([*variants, "home"], tracers, suites):
            runs = [folder(out, variant, tracer, suite, seed) for seed in range(seeds)]
            self.found[variant, tracer, suite] = [errors([run], store_path, part, suite) for run in runs]
            if seeds > 1:
                self.found[ensemble(variant), tracer, suite] = [errors(runs, store_path, part, suite)]
        for tracer, trained, tested in product(tracers, suites, suites):
            runs = [folder(out, "home", tracer, trained, seed) for seed in range(seeds)]
            self.found[trained, tracer, tested] = [errors([run], store_path, part, tested) for run in runs]
        rng = np.random.default_rng(1)
        galaxy_of_view = {s: self.found["home", tracers[0], s][0]["galaxy"] for s in suites}
        galaxies = {s: np.unique(galaxy_of_view[s]) for s in suites}
        self._galaxy = {s: np.searchsorted(galaxies[s], galaxy_of_view[s]) for s in suites}
        self._weights = {s: rng.poisson(1.0, (N_BOOTSTRAP + 1, len(galaxies[s]))).astype(float) for s in suites}
        self._seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), N_BOOTSTRAP + 1) / seeds
        for s in suites:
            self._weights[s][0] = 1.0
        self._seed_weights[0] = 1 / seeds

    def mean(self, variant: str, tracer: str, suite: str, measure: str) -> np.ndarray:
        """One of MEASURES (B + 1,) for one suite left out, by fits of a variant, or of another suite alone."""
        weights = self._weights[suite][:, self._galaxy[suite]]
        weights /= weights.sum(1, keepdims=True)
        total = np.zeros(N_BOOTSTRAP + 1)
        fits = self.found[variant, tracer, suite]
        for seed, errors in enumerate(fits):
            per_radius = weights @ MEASURES[measure](errors)
            if measure == "rmse":
                per_radius = np.sqrt(per_radius)
            total += (self._seed_weights[:, seed] if len(fits) > 1 else 1.0) * per_radius.mean(1)
        return total

    def over_suites(self, variant: str, tracer: str, measure: str) -> np.ndarray:
        """The mean (B + 1,) of the same over the suites left out."""
        return np.asarray(np.mean([self.mean(variant, tracer, suite, measure) for suite in self.suites], axis=0))

    def closed(self, variant: str, tracer: str, suite: str | None = None) -> np.ndarray:
        """The part (B + 1,) of the gap between plain and home that is closed [per cent]: of one suite or of all."""
        rmse_plain, rmse_home, rmse = (
            self.over_suites(compared, tracer, "rmse") if suite is None else self.mean(compared, tracer, suite, "rmse")
            for compared in ("plain", "home", variant)
        )
        return np.asarray(100 * (rmse_plain - rmse) / (rmse_plain - rmse_home))

    def abroad(self, tracer: str, trained: str, tested: str) -> np.ndarray:
        """RMSE of networks of one suite on another over that of networks at home there (B + 1,)."""
        return np.asarray(self.mean(trained, tracer, tested, "rmse") / self.mean("home", tracer, tested, "rmse"))

    def gain(self, variant: str) -> np.ndarray:
        """RMSE of the best single tracer over that of both (B + 1,)."""
        *singles, both = (self.over_suites(variant, t, "rmse") for t in TRACERS if t in self.tracers)
        return np.asarray(np.min(singles, axis=0) / both)


def ensemble(variant: str) -> str:
    """Name of the mixture of a variant's seeds."""
    return f"ensemble of {variant}"


def with_interval(values: np.ndarray, digits: int) -> str:
    """The first value, and the 16th to 84th percentiles of the others, as text."""
    low, high = np.quantile(values[1:], [0.16, 0.84])
    return f"{values[0]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rows_of(results: Results, variants: list[str], tracers: list[str], suites: list[str]) -> list[list[object]]:
    """Make a row of measures for each variant and tracer, on each suite that was left out and on all of them."""
    rows: list[list[object]] = []
    for variant, tracer, left_out in product(variants, tracers, [*suites, None]):
        found = {
            name: results.mean(variant, tracer, left_out, name)
            if left_out
            else results.over_suites(variant, tracer, name)
            for name in MEASURES
        }
        rmse, *others = (with_interval(values, 3) for values in found.values())
        closed = with_interval(results.closed(variant, tracer, left_out), 0)
        rows.append([variant, tracer, left_out or "all", rmse, closed, *others])
    return rows


def main() -> None:
    """Train all fits that are missing and print the tables."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store to train on")
    parser.add_argument("--fresh", type=Path, help="map store of other galaxies to report on; else validation galaxies")
    parser.add_argument("--steps", type=int, default=1600, help="optimiser steps for all suites; fewer for fewer")
    parser.add_argument("--seeds", type=int, default=3, help="networks of every kind")
    parser.add_argument("--tracers", nargs="*", default=TRACERS, choices=TRACERS, help="all where left out")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, help="names of variants, all where left out")
    args = parser.parse_args()
    out, suites = args.out / "generalization", list(store.suites(args.store))
    chosen = list(args.only or VARIANTS)
    chosen = chosen if "plain" in chosen else ["plain", *chosen]
    torch.set_num_threads(1)
    with ThreadPoolExecutor(2) as pool:
        fits = []
        for seed, variant, tracer, suite in product(range(args.seeds), ["home", *chosen], args.tracers, suites):
            train_suites = [suite] if variant == "home" else [s for s in suites if s != suite]
            steps = args.steps * len(train_suites) // len(suites)
            run = folder(out, variant, tracer, suite, seed)
            fits.append(pool.submit(fit, variant, run, args.store, tracer, train_suites, suite, seed, steps))
        for done in fits:
            done.result()
    results = Results(
        out, args.fresh or args.store, None if args.fresh else "val", chosen, list(args.tracers), suites, args.seeds
    )
    listed = ["home", *chosen]
    if args.seeds > 1:
        listed += [ensemble(variant) for variant in listed]
    heads = ["variant", "tracer", "left out", "RMSE [dex]", "closed [%]", "bias [dex]", "68 % coverage", "strange"]
    common.table([*heads, "AUC"], rows_of(results, listed, args.tracers, suites))
    rows: list[list[object]] = [
        [trained, tested, tracer, with_interval(results.abroad(tracer, trained, tested), 2)]
        + [with_interval(results.mean(trained, tracer, tested, name), 3) for name in ("coverage", "strange", "auc")]
        for tracer, trained, tested in product(args.tracers, suites, suites)
        if trained != tested
    ]
    common.table(["trained on", "tested on", "tracer", "RMSE / home", "68 % coverage", "strange", "AUC"], rows)
    if "both" in args.tracers and len(args.tracers) > 1:
        common.table(["variant", "best single / both"], [[v, with_interval(results.gain(v), 2)] for v in listed])


if __name__ == "__main__":
    main()
