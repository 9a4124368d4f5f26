"""Ours beside axisymmetric Jeans models of the same stellar maps: JamPy and MgeFit, by the author of the method.

  make bench-dynamics-env                         (once: .venv-dynamics, with what may not be shipped)
  .venv-dynamics/bin/python -m bench.dynamics --store maps.zarr --runs runs

Each view of the test part (or of --part), the first usable one of each galaxy, is modelled as a user of JAM would do
it, from what the stars' network sees of it: density, V, sigma and mask through the instrument whose PSF and errors are
known, and R_e. The truth is looked at in the table alone. Fits are kept in --out: the same command goes on where it
stood.

- Light: sectors of the density's image about the known centre, a regularised MGE (Cappellari 2002; Scott et al. 2013).
- Axis: of the rotation (Krajnovic et al. 2006), or of the light where there is hardly any.
- Data: V_rms^2 = V^2 + sigma^2 per pixel, less what the known errors add to it. Errors are those of the instrument, and
  of stars that are few, which grow as (density)^-1/2 too; how large the latter are is told by the fit's residuals.
- Model: JAM with the velocity ellipsoid that `bench.jam` says for the JamPy that is installed (9 where the environment
  has Python 3.12, else 8), blurred by PSF and pixels. Free are the flattest Gaussian's axis ratio (for the
  inclination), sigma_z / sigma_R (.5 to 1), mass and dark share inside R_e, slope and scale of a spherical gNFW halo.
  Priors are flat, as in JamPy's examples (slope 0 to 1.6, Zhu et al. 2023), but for the halo's scale: 6.7 R_e within .3
  dex, which is what R_e = .015 R_200 (Kravtsov 2013) and c = 10 say.
- `jam`: stars weigh any multiple of the map's density. `M/L known`: they weigh what the map says, to .05 dex.
- `best fit`: all that there is with JamPy 9, whose models are no sums. Of JamPy 8 it is the best one that MCMC has met.
- Intervals: from MCMC (the stretch move of Goodman & Weare 2010). Noise of few stars is blurred with them: errors are
  multiplied by the root of the pixels in a PSF's noise-equivalent area, 4 pi sigma^2. `(2 N)^1/4`, for N pixels: that
  instead, as JamPy's examples do for what is systematic (van den Bosch & van de Ven 2009). `as they are`: neither.

Networks are those of --runs named gas, stars and both, and seeds of them beside these (gas-seed1, ...). In brackets are
68 % intervals of the dispersion, over galaxies and seeds. How a fit takes seconds is in `bench.jam`; each kept fit of
JamPy 8 says how far its best model is from JamPy's own answer.
"""

import argparse
import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import common
from bench.generalization import views_of_both
from bench.jam import Mge, Model, Pixels, best_fit, halos, jampy_square, jampy_version, masses_of, seen_of
from kinmass import train
from kinmass.eval.classical.estimators import ESTIMATORS, ObservedViews
from kinmass.eval.classical.rotation import rotation_profile
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.storage import store
from kinmass.train.data.dataset import RADII_RE, Views, concatenate

# N views, K radii

QUANTILES = (0.02275, 0.15865, 0.5, 0.84135, 0.97725)
STEPS = 800  # of the MCMC's 64 walkers, half of which are kept
#: The variants of each fit: dex to which the stars' mass is known, and the factor by which errors are multiplied.
KINDS = {
    "jam": (np.inf, "psf"),
    "jam, M/L known": (0.05, "psf"),
    "jam, errors x (2 N)^1/4": (np.inf, "(2 N)^1/4"),
    "jam, errors as they are": (np.inf, ""),
}
BEST = "jam, best fit"


def fit(model: Model, seed: int = 0) -> dict[str, Any]:
    """Quantiles of log10 M(<r) [Msun] for each of KINDS, (5, K); and what the best fit of the first is like."""
    n = len(model.p.x)
    inflate = {"": 1.0, "psf": max(1.0, np.sqrt(4 * np.pi) * model.psf / model.p.side), "(2 N)^1/4": (2 * n) ** 0.25}
    rng = np.random.default_rng(seed)
    for _ in range(2):
        chi2 = model.believe(model.sample(inflate["psf"], np.inf, STEPS // 4, rng)[1])
    made: dict[str, Any] = {"pixels": n, "chi2": chi2}
    for name, (known, by) in KINDS.items():
        samples, best, taken = model.sample(inflate[by], known, STEPS, rng)
        made[name] = np.quantile(model.masses(samples), QUANTILES, axis=0).round(5).tolist()
        if name == "jam":
            own = jampy_square(model.light, model.r_e, best, model.p, model.psf)
            off = float(np.abs(model.square(best) / np.maximum(own, 1e-9) - 1).max())
            masses = masses_of(model.light, model.r_e, best).round(5).tolist()
            made |= {"best": best.round(4).tolist(), BEST: [masses] * len(QUANTILES), "taken": taken, "off_jampy": off}
    return made


def best_of(p: Pixels, light: Mge, r_e: float, psf: float) -> dict[str, Any]:
    """What the best of JamPy's own models is like."""
    theta, chi2 = best_fit(p, light, r_e, psf)
    masses = masses_of(light, r_e, theta).round(5).tolist()
    return {"pixels": len(p.x), "chi2": chi2, "best": theta.round(4).tolist(), BEST: [masses] * len(QUANTILES)}


def first_views(path: Path, part: str | None, instrument: Instrument, per_suite: int) -> Iterator[Views]:
    """Per suite the first usable view of each galaxy of a part (None: all galaxies), in the store's order."""
    for suite in store.suites(path):
        views = views_of_both(path, part, suite, instrument)
        yield views[np.sort(np.unique(views.galaxy.astype(str), return_index=True)[1])[:per_suite]]


def fits(views: Views, instrument: Instrument, kept: Path, kept_only: bool = False) -> list[dict[str, Any]]:
    """What JAM says of each view, made where `kept` does not have it yet; "failed" says why one could not be fitted."""
    known = {}
    if kept.exists():
        known = {tuple(each["view"]): each for each in map(json.loads, kept.read_text().splitlines())}
    halos()
    keys = [(str(suite), *name) for suite, name in zip(views.suite, views.names(), strict=True)]
    turn = [int(np.sum(views.suite[:i] == suite)) for i, suite in enumerate(views.suite)]
    for i in np.argsort(turn, kind="stable"):  # the suites take turns
        key, name = keys[i], views.ids()[i]
        if key not in known and not kept_only:
            observed, r_e = views[i].observed(instrument)[0].numpy(), float(views.half_mass_radius_kpc[i])
            began = time.process_time()
            try:
                seen = seen_of(observed, r_e, views.field_of_view_re, views.maps.shape[-1], instrument)
                made = fit(Model(*seen)) if jampy_version() < 9 else best_of(*seen)
            except (AssertionError, ValueError, RuntimeError, np.linalg.LinAlgError) as problem:
                made = {"failed": f"{type(problem).__name__}: {problem}"}
            known[key] = {"view": key, "seconds": time.process_time() - began, **made}
            with kept.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
            print(f"{name}: {known[key]['seconds']:.1f} s {made.get('failed', '')}", flush=True)
    return [known.get(key, {}) for key in keys]


def estimates(args: argparse.Namespace, views: Views, instrument: Instrument) -> dict[str, np.ndarray]:
    """Quantiles (S, 5, N, K) of log10 M of S seeds, all alike where an estimator gives none, by who says so.

    CPU seconds of a view that each network and all other estimators take are printed.
    """
    estimates_by_name = {}
    for name in ("gas", "stars", "both"):
        found = []
        for path in (path for path in sorted(args.runs.glob(f"{name}*")) if path.name.partition("-seed")[0] == name):
            network = train.load(path)
            network(views[np.arange(1)]).quantiles(QUANTILES)
            began = time.process_time()
            found.append(network(views).quantiles(QUANTILES))
            print(f"{path.name}: {(time.process_time() - began) / len(views):.3f} CPU-s per view, of the network")
        if found:
            estimates_by_name[name] = np.stack(found)
    began = time.process_time()
    radii, r_e = np.array(RADII_RE), views.half_mass_radius_kpc.numpy().astype(float)
    observed, field = (
        views.observed(instrument).numpy(),
        instrument.grid(views.maps.shape[-1], views.field_of_view_re)[1],
    )
    observed_views = ObservedViews(observed, r_e, field, radii)
    points = {name: estimate(observed_views) for name, (_, estimate) in ESTIMATORS.items()}
    inclined = np.concatenate([inclination_of(args.store, suite, views) for suite in dict.fromkeys(views.suite)])
    print(
        f"classical estimators: {(time.process_time() - began) / len(views):.3f} CPU-s per view, all of them together"
    )
    points["rotation_curve, i known"] = rings_of_known_inclination(observed_views, inclined)
    return estimates_by_name | {
        name: np.broadcast_to(one, (1, len(QUANTILES), *one.shape)) for name, one in points.items()
    }


def rings_of_known_inclination(views: ObservedViews, inclination_deg: np.ndarray) -> np.ndarray:
    """log10 M(<r) (N, K) [Msun] of `rotation_profile` with the inclinations (N,) [deg] given."""
    rows = zip(views.tracer("gas"), views.half_mass_radius_kpc, inclination_deg, strict=True)
    return np.stack(
        [rotation_profile(gas, r_e, views.field_of_view_re, views.radii_re, float(i)) for gas, r_e, i in rows]
    )


def inclination_of(path: Path, suite: str, views: Views) -> np.ndarray:
    """True inclinations [deg] of a suite's views."""
    group = store.open_suite(path, suite)
    row = {str(name): i for i, name in enumerate(group["galaxy"][:])}
    mine = np.array([row[str(name)] for name in views.galaxy[views.suite == suite]])
    return np.asarray(group["inclination"][:][mine, views.view[views.suite == suite]])


def half_range(off: np.ndarray) -> float:
    """Half the range from the 16th to the 84th percentile."""
    return float(np.diff(np.percentile(off, (16, 84)))[0]) / 2


def measures(quantiles: np.ndarray, truth: np.ndarray) -> list[np.ndarray]:
    """Per radius (K,), over seeds: views; dispersion, half the 16-84 % range, bias [dex]; shares in 68 and 95 %."""
    off = quantiles[:, 2] - truth
    count = np.isfinite(off[0]).sum(0)
    posterior = (quantiles[:, 0] < quantiles[:, 4]).any()
    inside = [
        ((quantiles[:, a] <= truth) & (truth <= quantiles[:, b])).mean((0, 1))
        if posterior
        else np.full(truth.shape[1], np.nan)
        for a, b in ((1, 3), (0, 4))
    ]
    defined = [[o[np.isfinite(o)] for o in seed.T] for seed in off]
    spread, half, bias = (
        np.mean([[f(o) if len(o) > 1 else np.nan for o in seed] for seed in defined], axis=0)
        for f in (np.std, half_range, np.mean)
    )
    return [count.astype(float), spread, half, bias, *inside]


def dispersion_interval(quantiles: np.ndarray, truth: np.ndarray, n: int = 300) -> str:
    """68 % interval of the dispersion, mean over radii where it is defined, by bootstrap over views and seeds."""
    off = quantiles[:, 2] - truth
    weight = np.random.default_rng(0).poisson(1.0, (n, len(truth))).astype(float)
    there = np.isfinite(off).astype(float)
    total, first, second = (np.einsum("bn,snk->bsk", weight, there * np.nan_to_num(off) ** i) for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.maximum(second / total - (first / total) ** 2, 0))
    spread = np.nanmean(spread[..., there[0].sum(0) > 1], axis=2)
    seeds = np.random.default_rng(1).multinomial(len(off), np.full(len(off), 1 / len(off)), n) / len(off)
    low, high = np.nanquantile((seeds * spread).sum(1), (0.16, 0.84))
    return f"({low:.3f}-{high:.3f})"


def main() -> None:
    """Fit, or go on fitting; then the tables."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="a map store")
    parser.add_argument("--part", choices=("test", "val", "all"), default="test", help="part of the store's galaxies")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the networks gas, stars and both")
    parser.add_argument("--per-suite", type=int, default=60, help="galaxies of each suite, at most")
    parser.add_argument("--kept-only", action="store_true", help="make no more fits: tables of those that are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    instrument = train.load(args.runs / "stars").instrument
    args.out.mkdir(parents=True, exist_ok=True)
    part = None if args.part == "all" else args.part
    views = concatenate(list(first_views(args.store, part, instrument, args.per_suite)))
    kept = args.out / f"dynamics-{args.store.stem}-jampy{jampy_version()}.jsonl"
    made = fits(views, instrument, kept, args.kept_only)
    fitted = np.array(["chi2" in each for each in made])
    failed = sum("failed" in each for each in made)
    views, made = views[fitted], [each for each in made if "chi2" in each]
    kinds = [name for name in (BEST, *KINDS) if name in made[0]]
    jam = {name: np.swapaxes([each[name] for each in made], 0, 1)[None] for name in kinds}
    estimates_by_name = jam | estimates(args, views, instrument)
    truth = views.log10_menc.numpy().astype(float)
    seconds = np.array([each["seconds"] for each in made])
    print(f"{len(views)} views, {failed} more that JAM could not fit; {np.median(seconds):.1f} CPU-s per view")
    off = np.median([each.get("off_jampy", 0.0) for each in made])
    print(f"JamPy {version('jampy')}; chi^2 per pixel {np.median([each['chi2'] for each in made]):.2f}; ", end="")
    print(f"as JamPy itself to {off:.1e} (worst pixel, median view)\n")
    heads = ["mean over radii", "views", "dispersion", "", "half 16-84", "bias", "68 % holds", "95 %"]
    for suite in [*dict.fromkeys(views.suite), "all"]:
        mine = np.full(len(views), True) if suite == "all" else views.suite == suite
        rows: list[list[object]] = []
        for name, quantiles in estimates_by_name.items():
            found = measures(quantiles[:, :, mine], truth[mine])
            there = np.isfinite(found[1])
            spread, *others = (float(np.mean(f[there])) for f in found[1:])
            interval = dispersion_interval(quantiles[:, :, mine], truth[mine])
            rows.append([name, int(found[0].max()), spread, interval, *others])
        print(f"{suite}: {mine.sum()} views")
        common.table(heads, rows)
    profiles = [*jam, *(n for n in ("gas", "stars", "both", "rotation_curve", "jeans") if n in estimates_by_name)]
    profiles.append("rotation_curve, i known")
    answered = np.logical_and.reduce([np.isfinite(estimates_by_name[name][:, 2]).all(0) for name in profiles])
    print(f"all, where each of these answers: {answered.any(1).sum()} views, {answered.mean():.0%} of views and radii")
    rows = []
    for name in profiles:
        found = measures(np.where(answered, estimates_by_name[name], np.nan), truth)
        rows.append([name, *(float(np.nanmean(f)) for f in found[1:4])])
    common.table(["mean over radii", "dispersion", "half 16-84", "bias"], rows)
    for title, which in (("dispersion [dex]", 1), ("bias [dex]", 3), ("68 % holds", 4)):
        shown = {name: measures(quantiles, truth)[which] for name, quantiles in estimates_by_name.items()}
        print(f"all, {title} at r / R_e")
        common.table(
            ["", *(f"{r:.2f}" for r in RADII_RE)],
            [[name, *map(float, each.round(3))] for name, each in shown.items() if np.isfinite(each).any()],
        )


if __name__ == "__main__":
    main()
