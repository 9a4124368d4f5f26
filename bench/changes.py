"""What choices in the code of the network are worth: fits that differ in one of them, three seeds each.

  kinmass mock --out mocks --galaxies 300
  kinmass maps mocks/*/*.yaml --out maps.zarr --views 4 --pixels 32
  kinmass mock --out fresh --galaxies 150 --seed 77
  kinmass maps fresh/*/*.yaml --out fresh.zarr --views 4 --pixels 32
  python -m bench.changes --store maps.zarr --fresh fresh.zarr
  python -m bench.changes --store maps.zarr --fresh fresh.zarr --begun     # each fit begins with fits of gas and stars

These are no options: a process changes the code, fits `both` and infers the fresh galaxies. Compared are what
velocities and masses are scaled by (of the stars, which is what `kinmass` does, of the gas, or of both), what a
posterior can say (slopes of log M against log r from 0 to 3, as in `kinmass`, or above 0 alone), and whether
validation, which chooses the weights, averages over mirror images as the finished network does.

Printed per fit, over all suites: joint log density per view [nats], dispersion of log10 M(<r) [dex], mean of ten radii,
half the 16-84 % range of the errors, coverage of the central 68 and 95 %, and of the samples the share with a slope
above 3 anywhere, which no galaxy has, and the share beyond the masses that one can have. Intervals: 16th to 84th
percentiles of a bootstrap over galaxies and seeds.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bench import common
from bench.generalization import posterior, views_of_both, with_interval
from kinmass import train
from kinmass.gen.storage import store
from kinmass.train.__main__ import main as train_main
from kinmass.train.data.dataset import RADII_RE, Views
from kinmass.train.loop.fitter import Fitter
from kinmass.train.model import density, scaling
from kinmass.train.model.density import MAX_SLOPE
from kinmass.train.run.intervals import held

N_SAMPLES, N_BOOTSTRAP = 1000, 300
#: Steps between radii are at least this [dex] where slopes have no upper limit.
LEAST_STEP = 1e-4


def scaled_by_gas() -> None:
    """Scale by the gas where there is some, else by the stars."""
    of_first = scaling.velocity_scale
    scaling.velocity_scale = lambda observed, tracers: of_first(observed, tracers[::-1])


def scaled_by_both() -> None:
    """Scale by the root mean square of the scales of all tracers that are seen."""
    of_first = scaling.velocity_scale

    def of_all(observed: torch.Tensor, tracers: tuple[str, ...]) -> torch.Tensor:
        """Return the scale (N,) [km/s]."""
        scales = torch.stack([of_first(observed, (tracer,)) for tracer in tracers])
        return torch.sqrt((scales**2).sum(0) / (scales > 0).sum(0).clamp(min=1))

    scaling.velocity_scale = of_all


def rising_alone() -> None:
    """Let posteriors say any slope above 0: the numbers behind a profile are the logarithms of its steps."""

    def unconstrained(profile: torch.Tensor, max_step: torch.Tensor) -> torch.Tensor:
        """Return the first value, and the logarithms of the steps."""
        steps = torch.diff(profile, dim=-1).clamp(min=LEAST_STEP)
        return torch.cat([profile[..., :1], torch.log(steps)], dim=-1)

    def constrained(free: torch.Tensor, max_step: torch.Tensor) -> torch.Tensor:
        """Return the profile of such numbers."""
        return torch.cumsum(torch.cat([free[..., :1], torch.exp(free[..., 1:])], dim=-1), dim=-1)

    density.unconstrained, density.constrained = unconstrained, constrained
    density.log_derivative = lambda free, max_step: -free[..., 1:].sum(-1)


def chosen_by_mirror_images() -> None:
    """Validate with the mean of the features of each view's mirror images."""
    validate = Fitter._validate

    def averaged(fitter: Fitter) -> dict[str, float]:
        """Validate a stand-in for the network."""
        kept: Any = fitter.kept
        stand_in: Any = SimpleNamespace(
            eval=kept.eval, features=kept.symmetric_features, density=kept.density, profiles=kept.profiles
        )
        fitter.kept = stand_in
        try:
            return validate(fitter)
        finally:
            fitter.kept = kept

    Fitter._validate = averaged  # type: ignore[method-assign, assignment]


CHANGES: dict[str, Callable[[], None]] = {
    "as it is": lambda: None,
    "scaled by the gas": scaled_by_gas,
    "scaled by both": scaled_by_both,
    "slopes above 0 alone": rising_alone,
    "chosen by mirror images": chosen_by_mirror_images,
}


def fit_and_infer(name: str, seed: int, steps: int, run: Path, store_path: Path, fresh: Path, is_begun: bool) -> None:
    """Change the code of this process, train a network, and keep what it says of fresh galaxies in its folder.

    is_begun: it begins with the encoders of fits of gas and stars, which are made before, with the same change.
    """
    CHANGES[name]()
    torch.set_num_threads(1)
    singles = {tracer: run.with_name(f"{run.name}-{tracer}") for tracer in ("gas", "stars") if is_begun}
    for tracer, out in {**singles, "both": run}.items():
        fit = ["fit", "--store", store_path, "--tracer", tracer, "--steps", steps, "--seed", seed, "--out", out]
        if singles and tracer == "both":
            fit += ["--start-from", *singles.values()]
        if train_main([*map(str, fit)]):
            raise SystemExit(f"{out} could not be trained")
    infer = train.load(run)
    parts: dict[str, list[np.ndarray]] = {}
    for suite in store.suites(fresh):
        for key, values in said(infer, views_of_both(fresh, None, suite, infer.instrument)).items():
            parts.setdefault(key, []).append(values)
    np.savez(run / "said.npz", allow_pickle=False, **{key: np.concatenate(found) for key, found in parts.items()})


def said(infer: train.Inference, views: Views) -> dict[str, np.ndarray]:
    """What a network says of views, by view (N, ...)."""
    of_views = posterior(infer, views, infer.instrument)
    samples, truth = of_views.samples(N_SAMPLES), views.log10_menc.numpy().astype(float)
    slopes = np.diff(samples, axis=-1) / np.diff(np.log10(RADII_RE))
    rank = (samples < truth).sum(0)
    return {
        "galaxy": views.lineage.astype(str), "log_prob": of_views.log_prob(truth),
        "error": np.median(samples, axis=0) - truth,
        "in_68": held(rank, N_SAMPLES, 0.68).mean(1), "in_95": held(rank, N_SAMPLES, 0.95).mean(1),
        "steep": (slopes > MAX_SLOPE * 1.001).any(-1).mean(0), "beyond": of_views.beyond(N_SAMPLES),
    }  # fmt: skip


def row(name: str, seeds: list[dict[str, np.ndarray]]) -> list[object]:
    """Return the printed row of one change."""
    rng = np.random.default_rng(1)
    galaxies, at = np.unique(seeds[0]["galaxy"], return_inverse=True)
    weights = np.concatenate([np.ones((1, len(galaxies))), rng.poisson(1.0, (N_BOOTSTRAP, len(galaxies)))])[:, at]
    drawn = np.concatenate(
        [np.ones((1, len(seeds))), rng.multinomial(len(seeds), [1 / len(seeds)] * len(seeds), N_BOOTSTRAP)]
    )
    share = drawn / len(seeds)

    def mean(key: str, power: int = 1) -> np.ndarray:
        """Return the mean (B + 1, ...) of a power of what was kept by view, over galaxies and seeds."""
        of_seeds = [np.tensordot(weights, of_seed[key] ** power, 1) for of_seed in seeds]
        total = np.einsum("bs,sb...->b...", share, np.stack(of_seeds))
        return np.asarray((total.T / weights.sum(1)).T)

    mean_error, mean_square = mean("error"), mean("error", 2)
    dispersion = np.sqrt((mean_square - mean_error**2).clip(0)).mean(1)
    half = np.mean([np.diff(np.quantile(s["error"], [0.16, 0.84], axis=0), axis=0).mean() / 2 for s in seeds])
    return [
        name, with_interval(mean("log_prob"), 2), with_interval(dispersion, 4), f"{half:.4f}",
        with_interval(mean("in_68"), 3), with_interval(mean("in_95"), 3),
        *(f"{100 * mean(key)[0]:.3g}" for key in ("steep", "beyond")),
    ]  # fmt: skip


def main() -> None:
    """Train all fits that are missing and print the table."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store to train on")
    parser.add_argument("--fresh", type=Path, required=True, help="map store of other galaxies")
    parser.add_argument("--steps", type=int, default=1200, help="optimiser steps of each fit")
    parser.add_argument("--seeds", type=int, default=3, help="networks of every kind")
    parser.add_argument("--only", nargs="*", choices=CHANGES, default=list(CHANGES), help="all where left out")
    parser.add_argument("--begun", action="store_true", help="begin each fit with fits of gas and stars")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help="(internal) train this one in this process")
    args = parser.parse_args()
    out = args.out / f"changes-{args.store.stem}{'-begun' * args.begun}"
    runs = {name: [out / f"{name.replace(' ', '-')}-{seed}" for seed in range(args.seeds)] for name in CHANGES}
    if args.one:
        name, seed = args.one[0], int(args.one[1])
        return fit_and_infer(name, seed, args.steps, runs[name][seed], args.store, args.fresh, args.begun)

    def fit(name: str, seed: int) -> None:
        """Train one in a process of its own, which changes the code, unless that was done before."""
        if not (runs[name][seed] / "said.npz").exists():
            common.run_silently("bench.changes", *sys.argv[1:], "--one", name, seed)

    with ThreadPoolExecutor(2) as pool:
        for waiting in [pool.submit(fit, name, seed) for seed in range(args.seeds) for name in args.only]:
            waiting.result()
    heads = [
        "fit of both",
        "log p, joint",
        "dispersion",
        "half 16-84",
        "68 % holds",
        "95 %",
        "slopes > 3 [%]",
        "beyond [%]",
    ]
    rows = [row(name, [dict(np.load(run / "said.npz")) for run in runs[name]]) for name in args.only]
    common.table(heads, rows)
    return None


if __name__ == "__main__":
    main()
