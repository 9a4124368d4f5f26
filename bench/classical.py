"""Why are tilted rings and spherical Jeans fits biased? One thing is taken away at a time.

  python -m bench.classical --store maps.zarr

The same views of test galaxies, the first usable one of each, as `ifu` sees them (PSF, errors, pixels that are lost),
without its errors, without its PSF, and as they are stored (`clean`). From these, the bias of log10 M(<r) [dex] of the
stars' Jeans fit and of the gas's rings, with the inclination fitted and known, at .3, 1 and 3 R_e; as stored also for
views that are more or less what the models assume: little and much rotation, discs seen at some inclination.
Intervals are one standard error.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import common
from bench.dynamics import first_views, inclination_of, rings_of_known_inclination
from kinmass.eval.classical.estimators import ESTIMATORS, ObservedViews
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Instrument, TracerNoise
from kinmass.train.data.dataset import RADII_RE, Views, concatenate

# N views, K radii

SHOWN = (0, 5, 9)  # numbers of the radii .3, 1.08 and 3 R_e


def instruments() -> dict[str, Instrument]:
    """`ifu`, and what is left of it when something is taken away."""
    ifu = INSTRUMENTS["ifu"]
    exact = {
        tracer: TracerNoise(**getattr(ifu, tracer).model_dump() | {"velocity_error_kms": 0.0})
        for tracer in ("stars", "gas")
    }
    return {
        "ifu": ifu,
        "ifu without errors": ifu.model_copy(update=exact),
        "ifu without PSF": ifu.model_copy(update={"psf_fwhm": None}),
        "clean": INSTRUMENTS["clean"],
    }


def offsets(views: Views, instrument: Instrument, inclination_deg: np.ndarray) -> dict[str, np.ndarray]:
    """Estimated minus true log10 M (N, K) [dex] of each estimator; NaN where it has none. inclination_deg (N,)."""
    radii, r_e = np.array(RADII_RE), views.half_mass_radius_kpc.numpy().astype(float)
    observed = views.observed(instrument).numpy()
    field_re = instrument.grid(views.maps.shape[-1], views.field_of_view_re)[1]
    looks = ObservedViews(observed, r_e, field_re, radii)
    estimated = {name: ESTIMATORS[name][1](looks) for name in ("jeans", "rotation_curve")}
    estimated["rotation_curve, i known"] = rings_of_known_inclination(looks, inclination_deg)
    return {name: values - views.log10_menc.numpy() for name, values in estimated.items()}


def row_of(label: str, off: np.ndarray) -> list[object]:
    """Return a printed row: views, bias and its error at the SHOWN radii, dispersion in the mean of all radii."""
    count = np.isfinite(off).sum(0)
    if not count.max(initial=0) > 9:
        return [label, int(count.max(initial=0)), *["too few"] * len(SHOWN), ""]
    biases = [
        f"{np.nanmean(off[:, k]):+.3f} +- {np.nanstd(off[:, k]) / np.sqrt(count[k]):.3f}" if count[k] > 9 else "-"
        for k in SHOWN
    ]
    return [label, int(count.max()), *biases, float(np.mean([np.nanstd(o) for o in off.T if np.isfinite(o).sum() > 9]))]


def kinds(views: Views, inclination_deg: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield estimator, label and views (N,) of kinds that are more or less what the estimator assumes."""
    stars = views.maps[:, :4].numpy().astype(float)  # density, V, sigma, particles
    density, velocity, sigma = (stars[:, i].reshape(len(stars), -1) for i in range(3))
    rotation = np.sqrt((density * velocity**2).sum(1) / (density * sigma**2).sum(1))
    for low, high in ((0, 0.3), (0.3, 0.6), (0.6, np.inf)):
        yield "jeans", f"rotation support {low:g} to {high:g}", (rotation >= low) & (rotation < high)
    for low, high in ((30, 50), (50, 70), (70, 90.1)):
        chosen = (inclination_deg >= low) & (inclination_deg < high)
        yield "rotation_curve, i known", f"inclination {low:g} to {high:g} deg", chosen


def main() -> None:
    """Print both tables."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="a map store")
    parser.add_argument("--per-suite", type=int, default=150, help="galaxies of each suite, at most")
    args: argparse.Namespace = parser.parse_args()
    views = concatenate(list(first_views(args.store, "test", INSTRUMENTS["ifu"], args.per_suite)))
    inclination_deg = np.concatenate([inclination_of(args.store, s, views) for s in dict.fromkeys(views.suite)])
    heads = ["", "views", *(f"bias at {RADII_RE[k]:.2g} R_e" for k in SHOWN), "dispersion"]
    off = {label: offsets(views, instrument, inclination_deg) for label, instrument in instruments().items()}
    for name in off["clean"]:
        print(f"{name}: {len(views)} views [dex]")
        common.table(heads, [row_of(label, of_instrument[name]) for label, of_instrument in off.items()])
    print("as stored (clean), by kind of view [dex]")
    rows = [
        row_of(f"{name}, {label}", off["clean"][name][chosen]) for name, label, chosen in kinds(views, inclination_deg)
    ]
    common.table(heads, rows)
    for suite in dict.fromkeys(views.suite):
        rows = [row_of(f"{suite}, {name}", off["clean"][name][views.suite == suite]) for name in off["clean"]]
        common.table(heads, rows)


if __name__ == "__main__":
    main()
