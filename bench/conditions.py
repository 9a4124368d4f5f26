"""One network for any way of seeing a galaxy, beside one that knows a single way, and one made for each.

  kinmass mock --out mocks --galaxies 934
  kinmass maps mocks/*/*.yaml --out maps.zarr --views 16 --pixels 32
  kinmass mock --out fresh --galaxies 150 --seed 77
  kinmass maps fresh/*/*.yaml --out fresh.zarr --views 4 --pixels 32
  python -m bench.conditions --store maps.zarr --fresh fresh.zarr
  python -m bench.conditions --fresh fresh.zarr --runs ifu=runs/both survey=runs/any      (runs that there are)

For every condition (how a view is taken) and tracer: RMSE of log10 M(<r) [dex], mean over ten radii, the share of
truths inside 68 and 95 % intervals, and of views called out of distribution; of the network trained through `ifu`
(which is not told how a view was taken), of the one trained through `survey` (which is), of the same without being told
(`untold`), and of a specialist that was trained for this condition alone (`--specialists TRACER ...`; each is a fit).
Intervals are the 16th to 84th percentiles of a bootstrap that draws lineages, and seeds. Fits are `kinmass fit`, two at
a time on one thread each, and kept: the same command goes on where it stood. Galaxies of --fresh are nobody's training
or validation galaxies; nothing was chosen on them.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import yaml

from bench import common
from kinmass import train
from kinmass.eval.tables.calibration import ranks
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Footprint, Instrument, PsfFwhm
from kinmass.gen.storage import store
from kinmass.gen.storage.files import aside, write_atomically
from kinmass.train.data.dataset import Views, concatenate, read_views, usable
from kinmass.train.run.calibration import LEVELS
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import Inference

TRACERS = ("gas", "stars", "both")
N_SAMPLES, N_BOOTSTRAP, VIEWS_AT_ONCE = 300, 300, 256
IFU = INSTRUMENTS["ifu"]


def changed(name: str, stars: dict[str, object] | None = None, **change: object) -> Instrument:
    """The built-in `ifu` with other numbers: those of `stars` for both tracers."""
    both = {"stars": IFU.stars.model_dump() | (stars or {}), "gas": IFU.gas.model_dump() | (stars or {})}
    return Instrument.model_validate(IFU.model_dump() | both | change | {"name": name})


def louder(name: str, factor: float) -> Instrument:
    """The built-in `ifu` with its errors multiplied."""
    noises = {
        tracer: noise.model_copy(update={"velocity_error_kms": factor * float(noise.velocity_error_kms)})  # type: ignore[arg-type]
        for tracer, noise in (("stars", IFU.stars), ("gas", IFU.gas))
    }
    return IFU.model_copy(update=noises | {"name": name})


def conditions() -> dict[str, Instrument]:
    """Every way in which galaxies are seen, by its name."""
    return {
        "full": IFU,
        "hexagon of 2.3 R_e": changed("hexagon", footprint=Footprint(shape="hexagon", radius_re=2.3)),
        "circle of 1.5 R_e": changed("circle-1-5", footprint=Footprint(radius_re=1.5)),
        "circle of 1 R_e": changed("circle-1", footprint=Footprint(radius_re=1.0)),
        "circle of .6 R_e": changed("circle-0-6", footprint=Footprint(radius_re=0.6)),
        "30 brightest pixels": changed("pixels-30", {"most_pixels": 30}),
        "12 brightest pixels": changed("pixels-12", {"most_pixels": 12}),
        "5,000 particles": changed("particles-5000", {"particles": 5000}),
        "1,000 particles": changed("particles-1000", {"particles": 1000}),
        "300 particles": changed("particles-300", {"particles": 300}),
        "PSF of .6 R_e": changed("psf-0-6", psf_fwhm=PsfFwhm(re=0.6)),
        "PSF of 1 R_e": changed("psf-1", psf_fwhm=PsfFwhm(re=1.0)),
        "errors x .1": louder("quiet-errors", 0.1),
        "errors x 3": louder("loud-errors", 3.0),
        "bins of 12 km/s": changed("bins", {"bin_to_kms": 12.0}),
        "no dispersion": changed("no-dispersion", {"no_dispersion": 1.0}),
        "all at once": INSTRUMENTS["survey"],
    }


def train_one(run: Path, store_path: Path, tracer: str, instrument: str, steps: int, options: str) -> None:
    """Train one network; one that is finished is left as it is. Raises SystemExit with what a failed fit printed."""
    words: list[object] = ["train", "fit", "--store", store_path, "--tracer", tracer, "--instrument", instrument]
    words += ["--steps", steps, "--out", run, *shlex.split(options)]
    process = subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr)


@dataclass(frozen=True)
class Network:
    """A kind of network, one of its runs, and the condition that it was trained for ("" for all)."""

    kind: str
    run: Path
    condition: str = ""


def fits(
    out: Path, store_path: Path, args: argparse.Namespace
) -> Iterator[tuple[Network, tuple[Path, Path, str, str, int, str]]]:
    """Yield every network that is needed, and the arguments of `train_one`."""
    general = {"ifu": ("ifu", ""), "survey": ("survey", ""), "untold": ("survey", "--no-told")}
    for seed in range(args.seeds):
        for tracer in ("any",) if args.any else args.tracers:
            for kind in args.networks:
                instrument, options = general[kind]
                run = out / f"{kind}-{tracer}-{seed}"
                yield Network(kind, run), (run, store_path, tracer, instrument, args.steps, f"{options} --seed {seed}")
    for tracer in args.specialists:
        for name, condition in conditions().items():
            if name in ("full", "all at once"):
                continue  # the first two networks are specialists for these
            file = out / f"{condition.name}.yaml"
            write_atomically(file, yaml.safe_dump(condition.model_dump(mode="json", exclude_none=True)))
            run = out / f"for-{condition.name}-{tracer}"
            yield Network("specialist", run, name), (run, store_path, tracer, str(file), args.steps, "--told")


def measured(infer: Inference, views: Views, instrument: Instrument, tracer: str) -> dict[str, np.ndarray]:
    """Per view: error d (N, K) of the median [dex], whether 68 and 95 % hold the truth (N, K), out-of-distribution."""
    parts: dict[str, list[np.ndarray]] = {"d": [], "in_68": [], "in_95": [], "strange": []}
    for start in range(0, len(views), VIEWS_AT_ONCE):
        block = views[np.arange(start, min(start + VIEWS_AT_ONCE, len(views)))]
        observed = block.observed(instrument, told=infer.told)
        posterior = infer(observed, block.half_mass_radius_kpc, tracer, block.names())
        samples, truth = posterior.samples(N_SAMPLES), block.log10_menc.numpy().astype(float)
        from_middle = np.abs(ranks(samples, truth) - 0.5)
        parts["d"].append(np.median(samples, axis=0) - truth)
        parts["in_68"].append(from_middle < 0.5 * LEVELS[0])
        parts["in_95"].append(from_middle < 0.5 * LEVELS[1])
        parts["strange"].append(posterior.ood_score() > OOD_THRESHOLD)
    return {name: np.concatenate(values) for name, values in parts.items()}


def summary(of_seeds: list[dict[str, np.ndarray]], lineage: np.ndarray) -> dict[str, float]:
    """RMSE with its interval, coverage and share of strange views: means over radii and seeds."""
    number = np.unique(lineage, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    weights = rng.poisson(1.0, (N_BOOTSTRAP + 1, number.max() + 1)).astype(float)
    weights[0] = 1.0
    weights = weights[:, number] / weights[:, number].sum(1, keepdims=True)
    rmse = np.stack([np.sqrt(weights @ errors["d"] ** 2).mean(1) for errors in of_seeds], axis=1)
    drawn = rng.integers(0, len(of_seeds), (N_BOOTSTRAP, len(of_seeds)))
    replicates = np.take_along_axis(rmse[1:], drawn, axis=1).mean(1)
    low, high = np.quantile(replicates, [0.16, 0.84])
    means = {
        name: float(np.mean([errors[name].mean() for errors in of_seeds])) for name in ("in_68", "in_95", "strange")
    }
    return {"rmse": float(rmse[0].mean()), "rmse_lo": float(low), "rmse_hi": float(high)} | means


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw RMSE and coverage of every network under every condition, a row of panels for each."""
    tracers, kinds = list(table.tracer.unique()), list(table.network.unique())
    names = list(table.condition.unique())
    figure, axes = plt.subplots(
        2, len(tracers), figsize=(5 * len(tracers), 7), sharex=True, squeeze=False, layout="constrained"
    )
    for column, tracer in enumerate(tracers):
        for i, kind in enumerate(kinds):
            rows = table[(table.tracer == tracer) & (table.network == kind)].set_index("condition").reindex(names)
            x = np.arange(len(names)) + 0.2 * (i - 0.5 * (len(kinds) - 1))
            spread = [rows.rmse - rows.rmse_lo, rows.rmse_hi - rows.rmse]
            axes[0, column].errorbar(x, rows.rmse, spread, fmt="o", ms=4, label=kind, color=f"C{i}")
            axes[1, column].plot(x, rows.in_68, "o", ms=4, color=f"C{i}")
            axes[1, column].plot(x, rows.in_95, "s", ms=3, mfc="none", color=f"C{i}")
        for level in LEVELS:
            axes[1, column].axhline(level, color="0.6", lw=0.8)
        axes[0, column].set(title=tracer, yscale="log")
        axes[0, column].yaxis.set_major_formatter("{x:.2g}")
        axes[0, column].yaxis.set_minor_formatter("{x:.2g}")
        axes[1, column].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes[0, 0].set_ylabel("RMSE of log$_{10}$ M [dex]")
    axes[1, 0].set_ylabel("truths inside 68 % (filled), 95 % (open)")
    axes[0, 0].legend(frameon=False)
    with aside(path) as partial:
        figure.savefig(partial, dpi=90, format="png")
    plt.close(figure)


def main() -> None:
    """Train what is missing, print a table for each tracer, keep it as conditions.csv and draw it."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, help="map store to train on; with --runs alone nothing is trained")
    parser.add_argument("--fresh", type=Path, required=True, help="map store of other galaxies to report on")
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="KIND=RUN", help="trained runs: ifu=runs/gas ifu=runs/both survey=any"
    )
    parser.add_argument("--steps", type=int, default=4800, help="optimiser steps of each fit")
    parser.add_argument("--seeds", type=int, default=1, help="networks of every general kind")
    parser.add_argument("--any", action="store_true", help="train one network for any tracer, not one for each")
    parser.add_argument("--specialists", nargs="*", default=[], choices=TRACERS, help="tracers with specialists")
    parser.add_argument("--networks", nargs="*", default=["ifu", "survey"], choices=["ifu", "survey", "untold"])
    parser.add_argument("--tracers", nargs="*", default=TRACERS, choices=TRACERS)
    parser.add_argument("--views", type=int, default=0, help="views of each galaxy to report on, all where left out")
    parser.add_argument("--at-once", type=int, default=2, help="fits that run side by side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out / f"conditions-{args.store.stem if args.store else 'runs'}"
    out.mkdir(parents=True, exist_ok=True)
    networks = [Network(kind, Path(run)) for kind, run in (text.split("=", 1) for text in args.runs)]
    if args.store:
        wanted = list(fits(out, args.store, args))
        with ThreadPoolExecutor(args.at_once) as pool:
            list(pool.map(lambda fit: train_one(*fit[1]), wanted))
        networks += [network for network, _ in wanted]
    views = concatenate([read_views(args.fresh, suite) for suite in store.suites(args.fresh)])
    views = views[views.view < args.views] if args.views else views
    loaded = {network: train.load(network.run) for network in networks}
    kinds = list(dict.fromkeys(network.kind for network in networks))
    rows = []
    for tracer in args.tracers:
        for name, instrument in conditions().items():
            seen = views[usable(views, tracer, instrument)]
            for kind in kinds:
                infers = [
                    infer
                    for network, infer in loaded.items()
                    if network.kind == kind and network.condition in ("", name) and tracer in infer.answers()
                ]
                if infers:
                    of_seeds = [measured(infer, seen, instrument, tracer) for infer in infers]
                    rows.append(
                        {"tracer": tracer, "condition": name, "network": kind, "views": len(seen)}
                        | summary(of_seeds, seen.lineages())
                    )
    table = pd.DataFrame(rows)
    write_atomically(out / "conditions.csv", table.to_csv(index=False, float_format="%.4f"))
    draw(table, out / "conditions.png")
    for tracer in args.tracers:
        print(f"{tracer}: RMSE [dex] (68 % interval), 68 and 95 % hold, called strange [%]")
        cells = {
            (row.condition, row.network): f"{row.rmse:.3f} ({row.rmse_lo:.3f}-{row.rmse_hi:.3f}) "
            f"{row.in_68:.2f} {row.in_95:.2f} {100 * row.strange:.0f}"
            for row in table[table.tracer == tracer].itertuples()
        }
        common.table(
            ["condition", *kinds], [[name, *(cells.get((name, k), "") for k in kinds)] for name in conditions()]
        )


if __name__ == "__main__":
    main()
