"""What does it cost that the galaxies which calibrate a network are those that chose its weights?

  python -m bench.calibration_set --store maps.zarr runs/both runs/both-seed1 runs/both-seed2

Test galaxies are cut into two halves by turns. On one half each network is measured as calibrated on its validation
galaxies, which chose its weights, and as calibrated on as many galaxies of the other half, which chose nothing; then
the halves change places. Printed per network, over both halves: the share of truths inside the central 68 and 95 %
intervals (68 %: also least and most over the radii), and the joint log density per view [nats]; last the difference in
the mean, with a 68 % interval of a bootstrap over networks and lineages.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench import common
from kinmass.train.run.calibration import (
    LEVELS,
    MOST_GALAXIES,
    SAMPLES,
    InferredViews,
    blocks_of,
    inferred_views,
    misses,
    scales_of,
)
from kinmass.train.run.posterior import Inference

# N views, K radii


@dataclass(frozen=True)
class Measured:
    """Of N views: which truths are inside the LEVELS intervals (N, K, 2), joint log density (N,), lineage (N,)."""

    inside: np.ndarray
    log_prob: np.ndarray
    lineage: np.ndarray


def inferred(infer: Inference, store: Path, part: str, lineages: np.ndarray | None = None) -> InferredViews:
    """Return what a network infers from the usable views of a part of the split, of some lineages or of all."""
    blocks = blocks_of(store, tuple(infer.run["fit"]["suites"]), part, MOST_GALAXIES)
    if lineages is not None:
        blocks = (block[np.isin(block.lineages(), lineages)] for block in blocks)
    return inferred_views(infer, (block for block in blocks if len(block)), infer.answers()[0])


def measured(views: InferredViews, calibrated_on: InferredViews) -> Measured:
    """Measure views with the scales that other views give."""
    posterior = views.posterior.with_scales(scales_of(calibrated_on))
    inside = misses(posterior.samples(SAMPLES), views.log10_menc.numpy()) <= 1
    return Measured(inside, np.asarray(posterior.log_prob(views.log10_menc)), views.lineage)


def both_ways(run: Path, store: Path) -> dict[str, Measured]:
    """Measure a run's test galaxies, calibrated on validation galaxies and on as many others of the test part."""
    infer = Inference(run, calibrated=False)
    validation = inferred(infer, store, "val")
    lineages = np.unique(inferred(infer, store, "test").lineage)
    n_calibrating = len(np.unique(validation.lineage))
    parts: dict[str, list[Measured]] = {"validation": [], "others": []}
    for turn in range(2):
        others = np.random.default_rng(turn).permutation(lineages[turn::2])[:n_calibrating]
        here = inferred(infer, store, "test", lineages[1 - turn :: 2])
        parts["validation"].append(measured(here, validation))
        parts["others"].append(measured(here, inferred(infer, store, "test", others)))
    print(f"{run}: {n_calibrating} validation galaxies, {len(lineages)} of the test part; ", end="")
    print(f"calibrated on {len(others)} of these in their turn")
    return {
        name: Measured(
            *(np.concatenate([getattr(m, field) for m in ms]) for field in ("inside", "log_prob", "lineage"))
        )
        for name, ms in parts.items()
    }


def difference(runs: list[dict[str, Measured]], values: str, level: int | None = None) -> tuple[float, float, float]:
    """Return by how much calibrating on validation galaxies exceeds calibrating on others, with its 68 % interval."""
    lineages = np.unique(runs[0]["others"].lineage)
    per_lineage = []
    for run in runs:
        each = {name: getattr(m, values) for name, m in run.items()}
        off = each["validation"].astype(float) - each["others"].astype(float)
        off = off if level is None else off[..., level].mean(1)
        number = np.searchsorted(lineages, run["others"].lineage)
        per_lineage.append([np.bincount(number, w, minlength=len(lineages)) for w in (off, np.ones(len(off)))])
    total = np.array(per_lineage)  # (runs, 2, lineages)
    rng = np.random.default_rng(0)
    replicates = []
    for _ in range(500):
        drawn = total[rng.integers(0, len(runs), len(runs))][:, :, rng.integers(0, len(lineages), len(lineages))]
        replicates.append(drawn[:, 0].sum() / drawn[:, 1].sum())
    low, high = np.quantile(replicates, [0.16, 0.84])
    return float(total[:, 0].sum() / total[:, 1].sum()), float(low), float(high)


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store that the runs were trained on")
    parser.add_argument("runs", type=Path, nargs="+", help="runs of one tracer")
    args: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    runs = [both_ways(run, args.store) for run in args.runs]
    rows: list[list[object]] = []
    for path, run in zip(args.runs, runs, strict=True):
        for name, m in run.items():
            per_radius = m.inside[..., 0].mean(0)
            share = [float(m.inside[..., i].mean()) for i in range(len(LEVELS))]
            extremes = f"{per_radius.min():.3f}-{per_radius.max():.3f}"
            rows.append([path.name, name, share[0], extremes, share[1], f"{m.log_prob.mean():.3f}"])
    common.table(["run", "calibrated on", "68 %", "over radii", "95 %", "log p, joint"], rows)
    for label, (values, level) in {
        "68 %": ("inside", 0), "95 %": ("inside", 1), "log p, joint": ("log_prob", None),
    }.items():  # fmt: skip
        value, low, high = difference(runs, values, level)
        print(f"{label}, on validation galaxies less on others: {value:+.4f} ({low:+.4f} to {high:+.4f})")


if __name__ == "__main__":
    main()
