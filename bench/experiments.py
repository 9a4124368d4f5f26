"""Which network? Fits that differ in one thing each, on one store, three seeds each.

  kinmass mock --out mocks --galaxies 300
  kinmass maps mocks/*/*.yaml --out maps.zarr --views 4 --pixels 32
  python -m bench.experiments --store maps.zarr                          # to choose by: its validation galaxies
  kinmass mock --out fresh --galaxies 150 --seed 77
  kinmass maps fresh/*/*.yaml --out fresh.zarr --views 4 --pixels 32
  python -m bench.experiments --store maps.zarr --fresh fresh.zarr       # to report: galaxies nothing was chosen on

`python -m bench.equilibrium` makes galaxies of another generator for the same. Fits are `kinmass fit`, --at-once of
them side by side on one thread each, and kept: the same command goes on where it stood. Printed per fit, over all
suites and the mean of ten radii: joint log-likelihood per view [nats], CRPS, dispersion, half the 16-84 % range [dex],
and coverage of the central 68 % interval (mean, and at the radius that is farthest off), as `kinmass tables` makes
them; seconds of training; and, where `gas` and `stars` are among the fits, the dispersion of the best single tracer
over that of both, per suite.
Intervals are 16th to 84th percentiles of a bootstrap over lineages and seeds.
"""

import json
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from bench import common
from kinmass.eval.tables.cluster import Cluster
from kinmass.eval.tables.tables import ALL, collect, to_ratios, to_summary, to_table
from kinmass.gen.storage import store
from kinmass.gen.storage.files import write_atomically
from kinmass.train.run.intervals import LEVELS

#: What differs from the default, which is trained on `both` of every view of every galaxy.
VARIANTS = {
    "gas": "--tracer gas",
    "stars": "--tracer stars",
    "both": "",
    "both, no tracer alone": "--alone-weight 0",
    "both, tracers alone 1": "--alone-weight 1",
    "both, tracers alone 2": "--alone-weight 2",
    "both, 1 view": "--views 1",
    "both, 4 views": "--views 4",
    "both, twice the steps": "--steps {twice}",
    "both, gated": "--join gated",
    "both, attention": "--join attention",
    "both, mean of weights": "--ema 100",
    "both, from single tracers": "--start-from {gas} {stars}",
    "both, width 8": "--width 8",
    "both, width 24": "--width 24",
    "both, 256 views a step": "--batch 256 --learning-rate 3e-3",
    "both, half the rate": "--learning-rate 7.5e-4",
    "both, twice the rate": "--learning-rate 3e-3",
    "both, weight decay .3": "--weight-decay 0.3",
    "both, plain": "--encoder plain",
    "both, residual": "--encoder residual",
    "both, mixture": "--head mixture",
    "both, gaussian": "--head gaussian",
    "both, batch norm": "--norm batch",
    "both, raw": "--inputs raw",
    "both, 200 galaxies": "--galaxies 200",
    "both, 200 galaxies, width 8": "--galaxies 200 --width 8",
    "both, 200 galaxies, width 24": "--galaxies 200 --width 24",
    "both, 200 galaxies, weight decay .3": "--galaxies 200 --weight-decay 0.3",
    "any": "--tracer any",
    "both, ensemble of 3": "--members 3",
}
HEADS = ["fit", "log p, joint", "CRPS", "dispersion", "half 16-84", "cov68", "farthest", "seconds", "single / both"]


def folder(out: Path, name: str, seed: int) -> Path:
    """Where a fit lives."""
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"


def train_one(run: Path, options: str, store_path: Path, steps: int, needs: Sequence[Future[float]] = ()) -> float:
    """Train one fit, of `both` if the options say nothing else, where it is not there yet; return its seconds.

    It waits for the fits that it needs.
    """
    for fit in needs:
        fit.result()
    seconds_file = run / "seconds.json"
    if seconds_file.exists():
        return float(json.loads(seconds_file.read_text()))
    words = ["--store", store_path, "--tracer", "both", "--steps", steps, "--out", run]
    began = time.time()
    common.run_silently("kinmass", "fit", *words, *shlex.split(options))
    write_atomically(seconds_file, json.dumps(time.time() - began))
    return time.time() - began


def rows_of(
    name: str, runs: list[Path], singles: list[Path], seconds: float, args: tuple[Path, str | None, Path]
) -> list[list[object]]:
    """Return the printed rows of one kind of fit, of several seeds, one for each tracer that it answers for."""
    store_path, part, out = args
    suites = list(store.suites(store_path))
    sums = collect(store_path, [*singles, *runs], suites, part, out, Cluster(workers=2), classical=False)
    summary, ratios, table = to_summary(sums), to_ratios(sums), to_table(sums)
    shown = summary[summary.test == (ALL if len(suites) > 1 else suites[0])]
    tracers = [name] if name in ("gas", "stars") else ["both"] if name != "any" else ["gas", "stars", "both"]
    rows: list[list[object]] = []
    for tracer in tracers:
        (row,) = shown[(shown.tracer == tracer) & ((shown.estimator == "cnn-any") == (name == "any"))].itertuples()
        per_radius = table[(table.estimator == row.estimator) & (table.tracer == tracer) & (table.test == row.test)]
        coverage = per_radius.groupby("radius").coverage_68.first().to_numpy()
        gain = ratios[(ratios.estimator == row.estimator)].set_index("test") if tracer == "both" else pd.DataFrame()
        rows.append([
            name if len(tracers) == 1 else f"{name}, asked for {tracer}",
            f"{row.log_prob_joint:.2f} ({row.log_prob_joint_lo:.2f}-{row.log_prob_joint_hi:.2f})",
            row.crps, f"{row.dispersion:.4f} ({row.dispersion_lo:.4f}-{row.dispersion_hi:.4f})", row.dispersion_robust,
            row.coverage_68, coverage[np.argmax(np.abs(coverage - LEVELS[0]))], round(seconds),
            ", ".join(f"{test} {g.ratio:.2f} ({g.lo:.2f}-{g.hi:.2f})" for test, g in gain.iterrows()),
        ])  # fmt: skip
    return rows


def main() -> None:
    """Train all fits that are missing and print the table."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store to train on")
    parser.add_argument("--fresh", type=Path, help="map store of other galaxies to report on; else validation galaxies")
    parser.add_argument("--steps", type=int, default=1200, help="optimiser steps of each fit")
    parser.add_argument("--seeds", type=int, default=3, help="networks of every kind")
    parser.add_argument("--at-once", type=int, default=2, help="fits that run side by side")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, help="names of fits, all where left out")
    args = parser.parse_args()
    if args.only and not {"gas", "stars"} <= set(args.only) and any("{gas}" in VARIANTS[name] for name in args.only):
        parser.error("a fit that begins with those of single tracers needs gas and stars too")
    out, names = args.out / f"experiments-{args.store.stem}", list(args.only or VARIANTS)
    fits: dict[tuple[str, int], Future[float]] = {}
    with ThreadPoolExecutor(args.at_once) as pool:
        for seed in range(args.seeds):
            for name in sorted(names, key=lambda name: "{gas}" in VARIANTS[name]):
                begins_with = {tracer: folder(out, tracer, seed) for tracer in ("gas", "stars")}
                options = VARIANTS[name].format(twice=2 * args.steps, **begins_with)
                # Ensembles of other seeds share no member.
                options += f" --seed {seed * (3 if '--members 3' in options else 1)}"
                needs = [fits[tracer, seed] for tracer in begins_with if f"{{{tracer}}}" in VARIANTS[name]]
                run = folder(out, name, seed)
                fits[name, seed] = pool.submit(train_one, run, options, args.store, args.steps, needs)
    runs = {name: [folder(out, name, seed) for seed in range(args.seeds)] for name in names}
    where = (args.fresh or args.store, None if args.fresh else "val", out)
    rows: list[list[object]] = []
    for name in names:
        singles = [
            r for t in ("gas", "stars") if {"gas", "stars"} <= set(names) and name.startswith("both") for r in runs[t]
        ]
        seconds = float(np.mean([fits[name, seed].result() for seed in range(args.seeds)]))
        rows += rows_of(name, runs[name], singles, seconds, where)
    print(f"{args.seeds} seeds, {'galaxies of ' + str(args.fresh) if args.fresh else 'validation galaxies'}")
    common.table(HEADS, rows)


if __name__ == "__main__":
    main()
