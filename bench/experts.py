"""Is a product of two experts as good as a network of both? Posteriors of gas alone times those of stars alone.

  make campaign SEEDS="0 1 2"
  cd campaign/runs && python -m bench.experts --store ../maps.zarr \\
    --gas gas gas-seed1 gas-seed2 --stars stars stars-seed1 stars-seed2 --both both both-seed1 both-seed2

If gas and stars erred independently of each other, the product of their posteriors, over the prior that both hold,
would be the posterior of both, and never worse than the better of the two. Posteriors and prior are taken as
Gaussians in log10 M(<r) at the ten radii; the prior is that of the training galaxies. Of the test galaxies, over all
seeds and suites and suite by suite: dispersion of log10 M(<r) [dex], mean of ten radii, and the share of truths
inside the central 68 %, of gas, stars, their product, and both. Intervals in brackets: 16th to 84th percentiles of a
bootstrap over galaxies.
"""

from itertools import chain
from itertools import product as product_of
from pathlib import Path

import numpy as np
from scipy.stats import norm

from bench import common
from bench.generalization import posterior, views_of_both
from bench.mixture import HEADS, row
from kinmass import train
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.storage import store
from kinmass.train.data.dataset import Views, concatenate, read_views
from kinmass.train.run.intervals import LEVELS

# N views, K radii
N_SAMPLES = 1000
#: Half the width of a Gaussian's central 68 % interval, in standard deviations.
HALF_WIDTH = norm.ppf(0.5 + LEVELS[0] / 2)


def gaussian(run: Path, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (N, K) [dex] and covariance (N, K, K) of a network's posteriors of views of one suite."""
    inferred = posterior(train.load(run), views, INSTRUMENTS["ifu"])
    return inferred.mean(N_SAMPLES), inferred.covariance(N_SAMPLES)


def product(
    experts: list[tuple[np.ndarray, np.ndarray]], prior: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (N, K) and covariance (N, K, K) of the product of Gaussian posteriors that hold one prior.

    experts: mean (N, K) and covariance (N, K, K) of each; prior: mean (K,) and covariance (K, K), which counts once.
    Directions in which experts together know less than the prior have the prior's width.
    """
    prior_precision = np.linalg.inv(prior[1])
    precisions = [np.linalg.inv(covariance) for _, covariance in experts]
    root = np.linalg.cholesky(prior[1])
    # In units in which the prior is round, what experts add to it is not negative in any direction.
    gained = root.T @ (sum(precisions) - len(experts) * prior_precision) @ root
    values, vectors = np.linalg.eigh(gained)
    gained = (vectors * np.maximum(values, 0)[:, None, :]) @ np.moveaxis(vectors, 1, 2)
    covariance = root @ np.linalg.inv(np.eye(len(root)) + gained) @ root.T
    weighted = sum(np.einsum("nkl,nl->nk", p, mean) for p, (mean, _) in zip(precisions, experts, strict=True))
    weighted = weighted - (len(experts) - 1) * prior_precision @ prior[0]
    return np.einsum("nkl,nl->nk", covariance, weighted), covariance


def errors_of(mean: np.ndarray, covariance: np.ndarray, views: Views) -> dict[str, np.ndarray]:
    """Return of Gaussian posteriors what `generalization.errors` does."""
    d = mean - views.log10_menc.numpy()
    inside = np.abs(d) <= HALF_WIDTH * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return {"galaxy": views.galaxy.astype(str), "d": d, "inside": inside}


def main() -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store")
    for tracer in ("gas", "stars", "both"):
        parser.add_argument(f"--{tracer}", type=Path, nargs="+", required=True, help="its runs, one for each seed")
    args = parser.parse_args()
    suites = list(store.suites(args.store))
    truths = concatenate([read_views(args.store, suite, "train") for suite in suites]).log10_menc.numpy().astype(float)
    prior = truths.mean(0), np.cov(truths.T)
    found: dict[str, dict[str, list[dict[str, np.ndarray]]]] = {}
    for suite, runs in product_of(suites, list(zip(args.gas, args.stars, args.both, strict=True))):
        views = views_of_both(args.store, "test", suite, INSTRUMENTS["ifu"])
        gas, stars, both = (gaussian(run, views) for run in runs)
        named = {"gas": gas, "stars": stars, "product": product([gas, stars], prior), "both": both}
        for name, (mean, covariance) in named.items():
            found.setdefault(name, {}).setdefault(suite, []).append(errors_of(mean, covariance, views))
    rows = [row(name, list(chain(*of_suites.values()))) for name, of_suites in found.items()]
    rows += [row(f"{name}, {suite}", found[name][suite]) for suite in suites for name in found]
    common.table(HEADS, rows)


if __name__ == "__main__":
    main()
