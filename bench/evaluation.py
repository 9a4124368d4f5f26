"""What evaluation costs: measures of made-up predictions at any scale, and inference beside the bare network.

  python -m bench.evaluation                     measures of 10^4, 10^5 and 10^6 views x 10 radii x 200 samples
  python -m bench.evaluation --beside CHECKOUT   and the most of them by another checkout as well, in turns
  python -m bench.evaluation --store maps.zarr --runs runs/*    inference as well

Predictions are drawn inside each task and measured as `kinmass tables` measures kept ones, with bootstrap, CRPS, PIT
and TARP; sums travel. Beside it: a long table of samples and groupby in pandas, one process, which gives bias,
dispersion, coverage and sharpness only, and no intervals. Memory is the highest of all processes together.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench import common
from bench.common import run_in
from kinmass.eval.tables.cluster import Cluster, sum_of_tasks
from kinmass.eval.tables.metrics import Estimates, Sums, add_up, measures, per_view
from kinmass.eval.tables.predictions import BLOCK, N_SAMPLES, KeptPredictions, Part, prepare
from kinmass.eval.tables.tasks import predict_block, sources_of
from kinmass.train import load
from kinmass.train.data.dataset import RADII_RE, read_views, usable
from kinmass.train.model.scaling import only

K, VIEWS = len(RADII_RE), 4  # radii of a profile, views of a galaxy
GALAXIES = 256  # galaxies of a task


def made_up(start: int, galaxies: int) -> Estimates:
    """Made-up estimates of log10 M of all views of some galaxies: errors of 0.05 dex, and posteriors as wide."""
    rng = np.random.default_rng(start)
    n = galaxies * VIEWS
    names = np.repeat(np.array([f"g{start + i}" for i in range(galaxies)], dtype=object), VIEWS)
    truth = 10 + np.linspace(0, 1, K) + rng.standard_normal((n, 1))
    centre = truth + 0.05 * rng.standard_normal((n, K))
    samples = rng.standard_normal((N_SAMPLES, n, K), dtype=np.float32)
    samples *= np.float32(0.05)
    samples += centre.astype(np.float32)
    views = np.tile(np.arange(VIEWS), galaxies)
    return Estimates(names, views, names, truth, centre, samples, np.full(n, 30.0))


def task(start: int, galaxies: int) -> dict[str, Sums]:
    """Make the estimates of one block and measure them."""
    return {"cnn": add_up(per_view(made_up(start, galaxies)))}


def weighed(start: int, galaxies: int) -> dict[str, object]:
    """Run `task`, and add the peak memory of its process to the result."""
    return {**task(start, galaxies), f"mb {os.getpid()}": Highest(common.memory_mb("VmHWM"))}


def only_made_up(start: int, galaxies: int) -> dict[str, int]:
    """Make the estimates of one block, and count them."""
    return {"views": len(made_up(start, galaxies).galaxy)}


class Highest(float):
    """A number whose sum with another is the larger of both, so that adding up results gives their maximum."""

    def __add__(self, other: float) -> "Highest":
        return Highest(max(self, other))


def by_pandas(galaxies: int) -> pd.DataFrame:
    """Bias, dispersion, coverage and sharpness per radius, by pandas from a long table of samples."""
    estimates = made_up(0, galaxies)
    assert estimates.samples is not None
    index = pd.MultiIndex.from_product(
        [range(N_SAMPLES), range(len(estimates.galaxy)), RADII_RE], names=["draw", "view", "radius"]
    )
    table = pd.DataFrame({"log10_menc": estimates.samples.ravel()}, index=index)
    # pandas has numpy's default only, which is Weibull's at other shares (`train.run.intervals`).
    shares = [round((share * (N_SAMPLES + 1) - 1) / (N_SAMPLES - 1), 9) for share in (0.15865, 0.5, 0.84135)]
    quantiles = table.groupby(["view", "radius"]).log10_menc.quantile(shares).unstack()
    quantiles.columns = [0.15865, 0.5, 0.84135]
    quantiles["truth"] = estimates.truth.ravel()
    quantiles["d"] = quantiles[0.5] - quantiles.truth
    quantiles["inside"] = quantiles.truth.between(quantiles[0.15865], quantiles[0.84135])
    quantiles["width"] = 0.5 * (quantiles[0.84135] - quantiles[0.15865])
    grouped = quantiles.groupby("radius")
    return grouped.agg(
        bias=("d", "mean"), dispersion=("d", "std"), coverage=("inside", "mean"), width=("width", "mean")
    )


#: Prints the seconds in which a checkout measures views / 4 galaxies.
TIMED = """
import sys, time
from bench.evaluation import GALAXIES, weighed
from kinmass.eval.tables.cluster import Cluster, sum_of_tasks
if __name__ == "__main__":
    galaxies = int(sys.argv[1]) // 4
    began = time.perf_counter()
    sum_of_tasks(weighed, [(i, min(GALAXIES, galaxies - i)) for i in range(0, galaxies, GALAXIES)], Cluster())
    print(time.perf_counter() - began)
"""


def blocks(views: int) -> list[tuple[int, int]]:
    """List the tasks of so many views: the first galaxy of each, and how many."""
    galaxies = views // VIEWS
    return [(i, min(GALAXIES, galaxies - i)) for i in range(0, galaxies, GALAXIES)]


def compare(checkout: Path, views: int) -> None:
    """Print the seconds of this code and of another checkout, the mean of two runs each, less those of drawing."""
    places = [*common.checkouts(checkout).values()]
    seconds = dict.fromkeys(places, 0.0)
    for place in (*places, *places[::-1]):
        seconds[place] += 0.5 * float(run_in(place, "-c", TIMED, views).split()[-1])
    began = time.perf_counter()
    sum_of_tasks(only_made_up, blocks(views), Cluster())
    drawn = time.perf_counter() - began
    this, other = seconds.values()
    rows = [["this code", this, 1.0, 1.0], [checkout.name, other, this / other, (this - drawn) / (other - drawn)]]
    common.table([f"{views:,} views", "seconds", "ratio (wanted 0.5)", f"without drawing ({drawn:.1f} s)"], rows)


def measures_bench(max_views: int) -> None:
    """Print seconds and memory of the measures for growing numbers of views, with Dask and with pandas."""
    rows = []
    for views in [n for n in (10_000, 100_000, 1_000_000) if n <= max_views]:
        began = time.perf_counter()
        sums = sum_of_tasks(weighed, blocks(views), Cluster())
        seconds = time.perf_counter() - began
        memory = common.memory_mb("VmHWM") + sum(v for k, v in sums.items() if k.startswith("mb"))
        coverage = measures(sums["cnn"])["coverage_68"].mean()
        rows.append([f"Dask, {views:,} views", seconds, 1e6 * seconds / views, memory, coverage])
    began = time.perf_counter()
    galaxies = min(max_views, 10_000) // VIEWS
    table = by_pandas(galaxies)
    seconds = time.perf_counter() - began
    rows.append(
        [
            f"pandas, {galaxies * VIEWS:,} views",
            seconds,
            1e6 * seconds / galaxies / VIEWS,
            common.memory_mb("VmHWM"),
            table.coverage.mean(),
        ]
    )
    common.table(["measures", "seconds", "us per view", "peak MB (wanted 1500)", "cov68"], rows)


def inference_bench(store: Path, runs: list[Path], out: Path) -> None:
    """Print views per second of the task that `kinmass tables` runs, and of networks and densities alone."""
    torch.set_num_threads(1)
    inferences = [load(run) for run in runs]
    suite = inferences[0].run["fit"]["suites"][0]
    part = Part(store.absolute(), suite, None)
    sources = [replace(s, root=out / s.root.parent.name) for s in sources_of(runs, out, classical=False)]
    instruments, block = (
        {infer.instrument.name: infer.instrument for infer in inferences},
        slice(0, min(BLOCK, len(part))),
    )
    views = read_views(store, suite, None, block)
    views = views[np.all([usable(views, s.tracer, instruments[s.instrument]) for s in sources], axis=0)]
    observed = {name: views.observed(instrument) for name, instrument in instruments.items()}
    for source in sources:
        prepare(source, part)

    @torch.no_grad()
    def bare() -> None:
        """Do what networks and densities do alone: features, samples and the density at the truth."""
        for infer in inferences:
            for tracer in infer.answers():
                maps = observed[infer.instrument.name]
                maps = maps if tracer == "both" else only(maps, tracer)
                for model, scale in zip(infer.models, infer.scales[tracer], strict=True):
                    features, unit = model.symmetric_features(maps, views.half_mass_radius_kpc)
                    normal = torch.randn(N_SAMPLES // len(infer.models), len(views), K + 1)
                    model.density.from_normal(features, normal, scale)
                    model.density.log_prob(features, views.log10_menc - unit[:, None], scale)

    def full_task() -> None:
        """Do the task of `kinmass tables` for a block of which nothing is kept."""
        for source in sources:
            KeptPredictions(source, part).forget(block)
        predict_block(sources, instruments, part, block)

    times = {f"{len(runs)} networks and densities": common.best(bare, 3), "eval's task": common.best(full_task, 3)}
    bare_seconds = next(iter(times.values()))
    rows = [
        [name, len(views) * len(sources) / seconds, 100 * bare_seconds / seconds] for name, seconds in times.items()
    ]
    common.table(["inference", "views/s", "% of bare (wanted 95)"], rows)


def main() -> None:
    """Run the benchmarks that the options ask for."""
    parser = common.parser(__doc__)
    parser.add_argument("--views", type=int, default=1_000_000, help="views to measure at most; 0 for inference alone")
    parser.add_argument("--beside", type=Path, help="another checkout of this project, to compare with")
    parser.add_argument("--store", type=Path, help="map store, for inference")
    parser.add_argument("--runs", type=Path, nargs="+", help="run folders, for inference")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.views:
        measures_bench(args.views)
    if args.beside:
        compare(args.beside, args.views)
    if args.store and args.runs:
        inference_bench(args.store, args.runs, args.out / "evaluation")


if __name__ == "__main__":
    main()
