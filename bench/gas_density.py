"""What a gas map's density is worth to the networks that come along: in Msun/kpc^2, in no unit, or left out.

python -m bench.gas_density --store maps.zarr --instruments sami califa alma-co hi

Mock galaxies are seen through an instrument, put on the sky and weighed as observed galaxies are. Masses within R_e.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import common
from kinmass.eval.__main__ import shipped_runs
from kinmass.eval.observed.galaxy import ObservedGalaxy
from kinmass.eval.observed.inference import infer
from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC, SkyMap
from kinmass.gen.instruments.builtin import instrument as builtin
from kinmass.gen.instruments.observe import CHANNELS, TOLD
from kinmass.gen.storage import store
from kinmass.train import load
from kinmass.train.data.dataset import RADII_RE, Views, concatenate, read_views, usable

R_E_ARCSEC, DRAWS = 10.0, 4


def gas_of(observed: np.ndarray, field_re: float) -> SkyMap:
    """Return the gas of a view through an instrument (18, Q, Q), which says how it was taken, as a map on the sky."""
    density, velocity, sigma, valid = observed[4:8].astype(float)
    told = dict(zip(TOLD, observed[CHANNELS + len(TOLD) :], strict=True))
    is_seen = valid > 0
    images = [np.where(is_seen, image, np.nan) for image in (density, velocity, sigma)]
    error, beam_re = (float(np.median(told[name][is_seen])) for name in ("velocity_error", "psf_fwhm_re"))
    has_sigma = bool((told["has_dispersion"][is_seen] > 0).all())
    return SkyMap.from_images(
        images[0], images[1], images[2] if has_sigma else None, field_re * R_E_ARCSEC / len(density),
        beam_fwhm_arcsec=beam_re * R_E_ARCSEC if beam_re >= 0 else None,
        velocity_error_kms=told["velocity_error"] if error > 0 else None,
    )  # fmt: skip


def galaxies(views: Views, name: str) -> list[tuple[ObservedGalaxy, float]]:
    """Return the gas of the usable views through a built-in instrument, and log10 of each true mass within R_e."""
    seen_by = builtin(name)
    views = views[usable(views, "gas", seen_by)]
    observed = views.observed(seen_by, told=True).numpy()
    k = int(np.argmin(np.abs(np.log(RADII_RE))))
    found = []
    for i in range(len(views)):
        distance_mpc = float(views.half_mass_radius_kpc[i]) / (R_E_ARCSEC * KPC_PER_ARCSEC_MPC)
        gas = gas_of(observed[i], views.field_of_view_re)
        galaxy = ObservedGalaxy(f"{i}", distance_mpc, R_E_ARCSEC, gas=gas, calibrated=frozenset({"gas"}))
        found.append((galaxy, float(views.log10_menc[i, k])))
    return found


def main() -> None:
    """Print the rms error within R_e, the share of good verdicts, and how many of these are .2 dex off."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--instruments", nargs="+", default=["sami", "califa", "alma-co", "hi"])
    parser.add_argument("--galaxies", type=int, default=30, help="of each suite")
    args = parser.parse_args()
    run = load(shipped_runs()[0])
    all_views = concatenate([read_views(args.store, suite) for suite in store.suites(args.store)])
    chosen = np.concatenate([
        np.flatnonzero((all_views.suite == suite) & (all_views.view == 0))[: args.galaxies]
        for suite in np.unique(all_views.suite)
    ])  # fmt: skip
    views = all_views[chosen]
    rows = []
    for name in args.instruments:
        for what, without in (
            ("in Msun/kpc^2", {}),
            ("in no unit", {"calibrated": frozenset()}),
            ("left out", {"calibrated": frozenset(), "without_density": frozenset({"gas"})}),
        ):
            off, good = [], []
            for galaxy, truth in galaxies(views, name):
                profile = infer(run, replace(galaxy, **without), draws=DRAWS)
                k = int(np.argmin(np.abs(np.log(profile.radius_re))))
                off.append(float(np.median(profile.samples[:, k])) - truth)
                good.append(profile.verdict.degree == 0)
            wrong = np.count_nonzero(np.array(good) & (np.abs(off) > 0.2))
            rows.append([f"{name}: {what}", float(np.sqrt(np.mean(np.square(off)))), 100 * float(np.mean(good)), wrong])
    common.table([f"density of the gas ({len(off)} views)", "rms [dex]", "% good", "of these .2 dex off"], rows)


if __name__ == "__main__":
    main()
