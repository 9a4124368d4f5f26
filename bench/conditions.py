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
(`untold`), and of a specialist that was trained for this condition alone (`--specialists TRACER ...`; each is a fit;
--of CONDITION ... for some conditions only).
Intervals are the 16th to 84th percentiles of a bootstrap that draws lineages, and seeds. Fits are `kinmass fit`, two at
a time on one thread each, and kept: the same command goes on where it stood. Galaxies of --fresh are nobody's training
or validation galaxies; nothing was chosen on them.
"""

import argparse
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import yaml

from bench import common
from kinmass.eval.report import figures
from kinmass.eval.tables.conditions import (
    RADIUS_ERROR_DEX,
    TRACERS,
    Network,
    as_text,
    conditions,
    tabulate,
    views_to_test,
    write,
)
from kinmass.gen.storage import store
from kinmass.gen.storage.files import aside, write_atomically

#: Conditions that have specialists: the networks through `ifu` and `survey` are those of the others.
SPECIAL = [name for name in conditions() if name not in ("full", "all at once", *RADIUS_ERROR_DEX)]


def train_one(run: Path, store_path: Path, tracer: str, instrument: str, steps: int, options: str) -> None:
    """Train one network; one that is finished is left as it is. Raises SystemExit with what a failed fit printed."""
    words = ["--store", store_path, "--tracer", tracer, "--instrument", instrument, "--steps", steps, "--out", run]
    common.run_silently("train", "fit", *words, *shlex.split(options))


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
        for name in args.of:
            condition = conditions()[name]
            file = out / f"{condition.name}.yaml"
            write_atomically(file, yaml.safe_dump(condition.model_dump(mode="json", exclude_none=True)))
            run = out / f"for-{condition.name}-{tracer}"
            yield Network("specialist", run, name), (run, store_path, tracer, str(file), args.steps, "--told")


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
    parser.add_argument(
        "--specialists", nargs="*", default=[], choices=[*TRACERS, "any"], help="tracers with specialists"
    )
    parser.add_argument(
        "--of", nargs="*", default=SPECIAL, choices=SPECIAL, metavar="CONDITION",
        help=f"conditions with specialists; all where left out: {', '.join(SPECIAL)}",
    )  # fmt: skip
    parser.add_argument(
        "--networks", nargs="*", default=["ifu", "survey"], choices=["ifu", "survey", "untold"],
        help="general kinds to train (default: ifu survey)",
    )  # fmt: skip
    parser.add_argument("--tracers", nargs="*", default=TRACERS, choices=TRACERS, help="all where left out")
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
    views = views_to_test(args.fresh, store.suites(args.fresh), None, args.views)
    table = tabulate(networks, views, args.tracers)
    write(table, out)
    with aside(out / "conditions.png") as partial:
        figures.conditions(table).savefig(partial, dpi=90, format="png")
    print(as_text(table))


if __name__ == "__main__":
    main()
