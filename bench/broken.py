"""Does a network notice maps that are wrong? Out-of-distribution scores of test views as they are, and broken.

python -m bench.broken --store maps.zarr --runs runs/both runs/both-seed1 runs/both-seed2 runs/both-on-quiet

Runs whose names differ by `-seedN` alone are seeds of one network. Intervals of 68 % are over seeds and lineages.
"""

from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from bench import common
from kinmass.gen.instruments.observe import CHANNELS
from kinmass.gen.storage import store
from kinmass.train import load
from kinmass.train.data.dataset import concatenate, read_views, usable
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD

MOST_VIEWS = 600


def broken(observed: torch.Tensor, r_e: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Maps (N, 8 or 18, Q, Q) and R_e (N,) [kpc] by what is wrong with them: nothing, or one thing at a time."""
    rng = torch.Generator().manual_seed(0)
    noisy = observed.clone()
    for tracer_start in (0, 4):
        weight = observed[:, tracer_start + 3]
        rms = ((observed[:, tracer_start + 1] ** 2 * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).sqrt()
        noise = torch.randn(weight.shape, generator=rng) * rms[:, None, None]
        noisy[:, tracer_start + 1] += noise * weight
    no_dispersion = observed.clone()
    no_dispersion[:, [2, 6]] = 0
    doubled = observed.clone()
    doubled[:, [1, 2]] *= 2
    swapped = [observed[:, :CHANNELS], observed[:, CHANNELS:]]  # and what is told beside them
    swapped = [part.unflatten(1, (2, -1)).flip(1).flatten(1, 2) for part in swapped if part.shape[1]]
    return {
        "as they are": (observed, r_e),
        "stars and gas swapped": (torch.cat(swapped, dim=1), r_e),
        "velocities with noise as large as they are": (noisy, r_e),
        "no dispersion": (no_dispersion, r_e),
        "stars' velocities and dispersions doubled": (doubled, r_e),
        "R_e twice as large (distance wrong by two)": (observed, 2 * r_e),
    }


def scores(run: Path, store_path: Path, tracer: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lineages (N,) of test views of the suites that a run was trained on; scores (N,) by what is wrong with them."""
    infer = load(run)
    suites = [s for s in store.suites(store_path) if s in infer.run["fit"]["suites"]]
    views = concatenate([read_views(store_path, suite, "test") for suite in suites])
    views = views[usable(views, tracer, infer.instrument)]
    views = views[np.unique(np.linspace(0, len(views) - 1, min(len(views), MOST_VIEWS)).astype(int))]
    observed = views.observed(infer.instrument, told=infer.told)
    kinds = broken(observed, views.half_mass_radius_kpc)
    return views.lineages(), {name: infer(maps, r_e, tracer).ood_score() for name, (maps, r_e) in kinds.items()}


def main() -> None:
    """Print how many test views of each kind are called out of distribution, for every network."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store with the suites of the runs")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders")
    args = parser.parse_args()
    by_name = sorted(args.runs, key=lambda run: run.name.partition("-seed")[0])
    for name, runs in groupby(by_name, key=lambda run: run.name.partition("-seed")[0]):
        seeds = list(runs)
        for tracer in load(seeds[0]).answers():
            found = [scores(run, args.store, tracer) for run in seeds]
            lineages, kinds = found[0]
            rows: list[list[object]] = []
            for kind in kinds:
                of_seeds = np.stack([each[kind] for _, each in found])
                strange = common.mean_and_interval(100.0 * (of_seeds > OOD_THRESHOLD), lineages)
                rows.append([kind, strange, common.mean_and_interval(of_seeds, lineages)])
            heads = [f"{name}, {tracer}, {len(lineages)} views, seeds: {len(seeds)}"]
            common.table([*heads, "% out of distribution", "area under ROC"], rows)


if __name__ == "__main__":
    main()
