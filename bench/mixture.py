"""What an ensemble of fits that differ in their seed is worth: the mixture of their posteriors beside each of them.

  make campaign SEEDS="0 1 2"
  cd campaign/runs && python -m bench.mixture --store ../maps.zarr --runs both both-seed1 both-seed2

Of the test galaxies: dispersion of log10 M(<r) [dex], mean of ten radii, and the share of truths inside the central
68 %, of every run and of the mixture, which takes as many samples from each. Intervals in brackets: 16th to 84th
percentiles of a bootstrap over galaxies.
"""

from pathlib import Path

import numpy as np

from bench import common
from bench.generalization import errors
from kinmass.eval.tables.metrics import interval
from kinmass.gen.storage import store

N_BOOTSTRAP = 300
HEADS = ["", "dispersion [dex]", "68 % covers", "galaxies", "views"]


def row(name: str, of_suites: list[dict[str, np.ndarray]]) -> list[object]:
    """Return name, dispersion with its interval, and coverage with the least and the most over radii.

    of_suites: of `generalization.errors`, for each suite.
    """
    d, inside, galaxy = (np.concatenate([found[key] for found in of_suites]) for key in ("d", "inside", "galaxy"))
    members = np.unique(galaxy, return_inverse=True)[1]
    rows_of = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members))[:-1])
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(rows_of), (N_BOOTSTRAP, len(rows_of)))
    low, high = interval(np.array([d[np.concatenate([rows_of[i] for i in drawn])].std(0).mean() for drawn in draws]))
    covered = inside.mean(0)
    return [
        name, f"{d.std(0).mean():.4f} ({low:.4f}-{high:.4f})",
        f"{covered.mean():.3f}, {covered.min():.3f}-{covered.max():.3f}", len(rows_of), len(d),
    ]  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="runs that differ in their seed")
    args = parser.parse_args()
    suites = store.suites(args.store)
    rows = [row(run.name, [errors([run], args.store, "test", suite) for suite in suites]) for run in args.runs]
    mixed = [errors(args.runs, args.store, "test", suite) for suite in suites]
    common.table(HEADS, [*rows, row(f"mixture of {len(args.runs)}", mixed)])


if __name__ == "__main__":
    main()
