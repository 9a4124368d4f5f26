"""Is a wrong mass told from a strange view? Numbers that every view has, against how far its mass is off.

  python -m bench.equilibrium --out second-fresh --galaxies 100 --seed 2
  kinmass maps second-fresh/*/*.yaml --out second-fresh.zarr --views 4 --pixels 32
  python -m bench.wrong --run kinmass/networks/any --home fresh.zarr --foreign second-fresh.zarr

A view is wrong where the rms over the ten radii of (median - truth) over half the 68 % interval is above 2. Each number
is judged by the area under its ROC curve (.5 is chance, 1 tells all wrong views from all others):

- features: the out-of-distribution score, from the distance of features to those of training views;
- members: scatter of the medians of an ensemble's members, over half the 68 % interval;
- tracers: difference of the medians from gas alone and stars alone, over their widths added in quadrature;
- density: the flow's log density of its own median profile, which is low where it is unsure;
- together: the straight line through all four that tells wrong views best (Fisher 1936), from the normal scores of
  their ranks; found on half of the lineages and judged on the other half, both ways.

Printed for galaxies of --home and of --foreign (suites that the run was not trained on, with the intervals for these),
in every way of seeing them of `bench.conditions`, and for all foreign views together: RMSE [dex], the share of truths
inside 68 %, of wrong views, and of right views that are called out of distribution. Intervals in brackets: 16th to 84th
percentiles of a bootstrap over lineages.
"""

from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm, rankdata

from bench import common
from kinmass.eval.tables.conditions import (
    RADIUS_ERROR_DEX,
    VIEWS_AT_ONCE,
    conditions,
    views_to_test,
    with_radius_error,
)
from kinmass.eval.tables.metrics import interval
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.storage import store
from kinmass.train import load
from kinmass.train.data.dataset import Views, usable
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import Inference, Posterior

# N views, K radii
NUMBERS = ("features", "members", "tracers", "density")
N_SAMPLES, N_BOOTSTRAP = 300, 200


def half_width(samples: np.ndarray) -> np.ndarray:
    """Half the 16-84 % range (N, K) of samples (S, N, K)."""
    low, high = np.quantile(samples, [0.16, 0.84], axis=0)
    return np.asarray(high - low) / 2


def of_block(infer: Inference, views: Views, instrument: Instrument, unseen: bool) -> dict[str, np.ndarray]:
    """Return of N views the error d (N, K) [dex], d over half widths (N, K), and each of NUMBERS (N,)."""
    observed = views.observed(instrument, told=infer.told)

    def posterior_of(tracer: str) -> Posterior:
        return infer(observed, views.half_mass_radius_kpc, tracer, views.names(), unseen=unseen)

    posterior = posterior_of("both")
    samples, truth = posterior.samples(N_SAMPLES), views.log10_menc.numpy().astype(float)
    median, width = np.median(samples, axis=0), half_width(samples)
    singles = [posterior_of(tracer).samples(N_SAMPLES) for tracer in ("gas", "stars")]
    apart = np.abs(np.median(singles[0], axis=0) - np.median(singles[1], axis=0))
    numbers = {
        "features": posterior.ood_score(),
        "members": (posterior.member_medians(N_SAMPLES).std(0) / width).mean(1),
        "tracers": np.nan_to_num(apart / np.hypot(*map(half_width, singles))).mean(1),  # one of them may be missing
        "density": -posterior.log_prob(median),
    }
    return {"d": median - truth, "relative": (median - truth) / width} | numbers


def measured(infer: Inference, views: Views, instrument: Instrument, unseen: bool) -> dict[str, np.ndarray]:
    """Return `of_block` of all usable views, with their lineage (N,)."""
    views = views[usable(views, "both", instrument)]
    starts = range(0, len(views), VIEWS_AT_ONCE)
    blocks = [
        of_block(infer, views[np.arange(start, min(start + VIEWS_AT_ONCE, len(views)))], instrument, unseen)
        for start in starts
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]} | {
        "lineage": views.lineages()
    }


def together(numbers: np.ndarray, is_wrong: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return one number (N,) from numbers (N, M): of each half (N,) of the views by what tells the other's wrong views.

    Those of a half without wrong views to learn from are 0.
    """
    scores = norm.ppf((rankdata(numbers, axis=0) - 0.5) / len(numbers))
    result = np.zeros(len(numbers))
    for side in (False, True):
        known = half != side
        wrong, right = scores[known & is_wrong], scores[known & ~is_wrong]
        if len(wrong) > 1 and len(right) > 1:
            within = np.cov(wrong.T) * (len(wrong) - 1) + np.cov(right.T) * (len(right) - 1)
            within += 1e-6 * np.trace(within) * np.eye(len(within))
            result[~known] = scores[~known] @ np.linalg.solve(within, wrong.mean(0) - right.mean(0))
    return result


def auc(number: np.ndarray, is_wrong: np.ndarray, weight: np.ndarray) -> float:
    """Return the area under the ROC curve by which a number (N,) tells wrong views; weight (N,) of each view."""
    values, place = np.unique(number, return_inverse=True)
    wrong, right = (np.bincount(place, weight * which, len(values)) for which in (is_wrong, ~is_wrong))
    below = np.cumsum(right) - right
    total = wrong.sum() * right.sum()
    return float((wrong * (below + 0.5 * right)).sum() / total) if total else float("nan")


def row(name: str, found: dict[str, np.ndarray]) -> list[object]:
    """Return the printed row of views of `measured`."""
    is_wrong = np.sqrt((found["relative"] ** 2).mean(1)) > 2
    lineages, number_of_lineage = np.unique(found["lineage"], return_inverse=True)
    rng = np.random.default_rng(0)
    half = (rng.permutation(len(lineages)) % 2 == 0)[number_of_lineage]
    numbers = np.stack([found[n] for n in NUMBERS], axis=1)
    columns = [*numbers.T, together(numbers, is_wrong, half)]
    weights = rng.poisson(1.0, (N_BOOTSTRAP, len(lineages)))[:, number_of_lineage].astype(float)
    cells: list[object] = [
        name, len(numbers), float(np.sqrt((found["d"] ** 2).mean(0)).mean()),
        float((np.abs(found["relative"]) < 1).mean()), float(is_wrong.mean()),
        float((found["features"][~is_wrong] > OOD_THRESHOLD).mean()),
    ]  # fmt: skip
    for column in columns:
        drawn = np.array([auc(column, is_wrong, weight) for weight in weights])
        if is_wrong.any() and not is_wrong.all():
            low, high = interval(drawn[np.isfinite(drawn)])
            cells.append(f"{auc(column, is_wrong, np.ones(len(column))):.2f} ({low:.2f}-{high:.2f})")
        else:
            cells.append("")
    return cells


def main() -> None:
    """Print the table of the home suites, and that of the foreign ones."""
    parser = common.parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run of an ensemble for any tracer")
    parser.add_argument("--home", type=Path, required=True, help="map store of suites that it was trained on")
    parser.add_argument("--foreign", type=Path, required=True, help="map store of suites that it was not trained on")
    parser.add_argument("--views", type=int, default=1, help="views of each galaxy; 0 for all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    infer = load(args.run)
    if "gas" not in infer.answers():
        parser.error(f"{args.run} was trained on {infer.tracer}: it says nothing of gas and stars alone")
    heads = ["seen as", "views", "RMSE", "in 68 %", "wrong", "right, flagged", *NUMBERS, "together"]
    for path, unseen in ((args.home, False), (args.foreign, True)):
        views = views_to_test(path, store.suites(path), None, args.views)
        views_with = {name: with_radius_error(views, dex) for name, dex in RADIUS_ERROR_DEX.items()}
        found = {name: measured(infer, views_with.get(name, views), how, unseen) for name, how in conditions().items()}
        pooled = {key: np.concatenate([part[key] for part in found.values()]) for key in next(iter(found.values()))}
        print(f"{path}, {'suites that the run was not trained on' if unseen else 'suites that it was trained on'}")
        common.table(heads, [*(row(name, part) for name, part in found.items()), row("all together", pooled)])


if __name__ == "__main__":
    main()
