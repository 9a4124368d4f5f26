"""Infer the mass profile of an observed galaxy: bring its maps onto the network's grid, sample over what is uncertain.

galaxy = eval.observed.galaxy.read_galaxy(Path("NGC4451.yaml"))         or, from arrays,
galaxy = ObservedGalaxy("mine", 25.9, 15.0, gas=SkyMap.from_images(density, velocity_kms, sigma_kms, 0.42))
profile = infer(train.load("runs/gas"), galaxy)
profile.table(), profile.sentences(), profile.figure()
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from kinmass.eval.classical.rotation import THICKNESS
from kinmass.eval.observed import sanity
from kinmass.eval.observed.curve import RotationCurve, axis_ratio_of_gas, rotation_curve_of
from kinmass.eval.observed.galaxy import ObservedGalaxy
from kinmass.eval.observed.profile import ObservedProfile, interpolate_rows
from kinmass.eval.observed.sky import FINE, KPC_PER_ARCSEC_MPC, SkyMap, regrid, regridded
from kinmass.eval.observed.verdict import (
    Reason,
    Verdict,
    of_baryons,
    of_centre,
    of_diffuse,
    of_distance,
    of_errors,
    of_estimates,
    of_hole,
    of_inclination,
    of_light,
    of_members,
    of_motions,
    of_one_number,
    of_parity,
    of_redshift,
    of_resolution,
    of_roughness,
    of_sides,
    of_speeds,
    of_strangeness,
    of_thin,
    of_two_redshifts,
    of_velocities,
    of_width,
    star_estimates,
)
from kinmass.gen.constants import G
from kinmass.gen.instruments.looks import blurriest, ends, sharpest
from kinmass.gen.instruments.model import FEWEST_PIXELS, Instrument, TracerNoise
from kinmass.gen.instruments.observe import CHANNELS, CHANNELS_TOLD, TOLD, UNKNOWN, psf_fwhm_pixels
from kinmass.train.model.network import ModelConfig
from kinmass.train.model.scaling import at_mass_limits, clip_to_mass_limits
from kinmass.train.run.posterior import Inference, Posterior, beyond_limits_message

# D draws of distance, R_e and centre, S posterior samples of each, K radii, Q pixels along a side of the network's grid
DRAWS, SAMPLES, SEED = 200, 20, 0
#: A tracer must be observed in at least this many pixels of the network's grid.
MIN_PIXELS = 8
#: Mean surface density of gas within R_e [Msun/kpc^2], seen face on, where the unit of its map tells none, and its
#: scatter [dex]: 2.1 x 14 Msun/pc^2 exp(-1.65 r / r_25), with R_e = .4 r_25 (Bigiel & Blitz 2012, ApJ 756, 183,
#: equation 3).
LIKELY_GAS_MSUN_KPC2, LIKELY_GAS_DEX = 2e7, 0.3


def _choose_tracer(run: Inference, galaxy: ObservedGalaxy, asked_for: str | None) -> str:
    """Choose the tracer that the run is asked for: `gas`, `stars` or `both`; asked_for, where it is given.

    Raises ValueError where the run was trained for other tracers, or on maps that this galaxy does not have.
    """
    maps = galaxy.maps()
    wanted = asked_for or ("both" if len(maps) == 2 else next(iter(maps), ""))
    if not wanted:
        raise ValueError(f"{galaxy.name} has no maps; give gas, stars or both")
    answers = run.answers()
    usable = [wanted] if wanted in answers else [t for t in answers if t in maps]
    if not usable:
        raise ValueError(
            f"{run.path} was trained on {run.tracer}, {galaxy.name} has {' and '.join(maps)} alone; "
            f"choose a run trained on {wanted}, or on any"
        )
    tracer = usable[0]
    needed_maps = ("stars", "gas") if tracer == "both" else (tracer,)
    settings = run.run["fit"]
    for name in needed_maps:
        trained: TracerNoise = getattr(run.instrument, name)
        if maps[name].dispersion_kms is None and not (settings["no_dispersion"] or trained.no_dispersion):
            raise ValueError(
                f"{galaxy.name} has no dispersion of {name}, and {run.path} has never seen maps without; give the "
                "dispersion, or choose a run trained with `--no-dispersion 0.3`, or through `survey`"
            )
        if name in galaxy.without_density and not trained.no_density:
            raise ValueError(
                f"{galaxy.name} has no density of {name}, and {run.path} has never seen maps without; give the "
                "density, or choose a run trained through `survey`"
            )
        knows_units = settings["inputs"] == "relative" or (run.told and trained.no_density > 0)
        if not knows_units and name not in galaxy.calibrated:
            raise ValueError(
                f"{run.path} looks at surface densities in Msun/kpc^2: give density_msun_kpc2 or total_mass_msun of "
                f"{name}, or choose a run trained with `--inputs relative`, or through `survey`"
            )
    return tracer


def tracers_asked(run: Inference, galaxy: ObservedGalaxy) -> list[tuple[str | None, str]]:
    """Return the tracers that a run is asked for, each with a suffix for its results' folder.

    A run that was trained on any says what both tell, and each by itself; others say what they were trained for.
    """
    if run.tracer != "any" or len(galaxy.maps()) < 2:
        return [(None, "")]
    return [("both", ""), ("gas", "-gas"), ("stars", "-stars")]


@dataclass(frozen=True)
class _Geometry:
    """D draws of a galaxy's distance, R_e and centre; draw 0 is as given, without errors."""

    distance_mpc: np.ndarray  # (D,)
    r_e_arcsec: np.ndarray  # (D,)
    centre_shift_arcsec: np.ndarray  # (D, 2)
    likely_density_dex: np.ndarray  # (D,)

    def r_e_kpc(self) -> np.ndarray:
        """R_e (D,) [kpc] at the drawn distances."""
        return self.r_e_arcsec * self.distance_mpc * KPC_PER_ARCSEC_MPC


def _draw_geometry(galaxy: ObservedGalaxy, draws: int) -> _Geometry:
    """Draw distance and R_e from lognormals of their relative errors, and the centre from a Gaussian of its error.

    So is how far a density of gas in no unit lies from what is likely.
    """
    rng = np.random.default_rng(SEED)
    has_error = np.arange(draws) > 0

    def lognormal(value: float, error: float) -> np.ndarray:
        """Return draws (D,) of a value with a standard error; the first is the value itself."""
        width = np.sqrt(np.log1p((error / value) ** 2))
        return value * np.exp(width * rng.standard_normal(draws) * has_error)

    return _Geometry(
        lognormal(galaxy.distance_mpc, galaxy.distance_error_mpc),
        lognormal(galaxy.half_light_radius_arcsec, galaxy.half_light_radius_error_arcsec),
        galaxy.centre_error_arcsec * rng.standard_normal((draws, 2)) * has_error[:, None],
        LIKELY_GAS_DEX * rng.standard_normal(draws) * has_error,
    )


def _observe(
    maps: dict[str, SkyMap],
    geometry: _Geometry,
    psf_re: np.ndarray,
    pixels: int,
    field_of_view_re: float,
    density_dex: dict[str, float],
    likely: Collection[str] = (),
) -> np.ndarray:
    """Bring maps {tracer: map} onto the network's grid for each draw, (D, 18, Q, Q); zero for a tracer without a map.

    psf_re (D,) is the FWHM [R_e] to which sharper maps are blurred. After the eight maps come the channels of
    `gen.instruments.observe.TOLD`: what is known of errors, beam and density. likely: tracers whose density is right up
    to the drawn factor.
    """
    draws = len(geometry.r_e_arcsec)
    observed = np.zeros((draws, CHANNELS_TOLD, pixels, pixels), np.float32)
    areas = {name: sky.measured_arcsec2() if sky.velocity_error_kms is not None else None for name, sky in maps.items()}
    for i in range(draws):
        r_e_arcsec = geometry.r_e_arcsec[i]
        for name, sky in maps.items():
            centred = sky.moved(*geometry.centre_shift_arcsec[i])
            # The mass of given light is proportional to the distance squared, so surface densities do not depend on it.
            seen = regridded(centred, pixels, field_of_view_re * r_e_arcsec, float(psf_re[i] * r_e_arcsec), areas[name])
            t = ("stars", "gas").index(name)
            observed[i, 4 * t : 4 * t + 4] = seen.channels
            if name in likely:
                observed[i, 4 * t] *= 10 ** geometry.likely_density_dex[i]
            beam_re = UNKNOWN
            if sky.beam_fwhm_arcsec is not None:
                beam_re = max(sky.beam_fwhm_arcsec / r_e_arcsec, float(psf_re[i]))
            velocity_error = UNKNOWN if seen.velocity_error_kms is None else seen.velocity_error_kms
            dispersion_error = velocity_error if seen.dispersion_error_kms is None else seen.dispersion_error_kms
            told = velocity_error, dispersion_error, beam_re, float(sky.dispersion_kms is not None), density_dex[name]
            for k, value in enumerate(told):
                observed[i, CHANNELS + len(TOLD) * t + k] = value * seen.channels[3]
    return observed


def _of_likely_density(run: Inference, galaxy: ObservedGalaxy) -> frozenset[str]:
    """Return the tracers whose density is in no unit, and shown to the run as it likely is in Msun/kpc^2.

    Its shape tells of the inclination and of what the beam has mixed, and weighs more than its unit: of gas as surveys
    see it, masses err by half as much (docs/howto/galaxy.md). The light of stars is not shown so: masses hardly gain
    from it, and are worse where mass does not follow light. Runs that know no uncertain densities are shown none.
    """
    has_density = "gas" in galaxy.maps() and "gas" not in galaxy.without_density | galaxy.calibrated
    return frozenset({"gas"}) if has_density and run.told and run.instrument.gas.density_dex > 0 else frozenset()


def _density_dex(run: Inference, galaxy: ObservedGalaxy) -> dict[str, float]:
    """Return how uncertain the densities of each tracer are told to be [dex]: as uncertain as the run has seen them.

    A density that is not shown is told to be unknown, as one that was not measured is.
    """
    known = {name: float(getattr(run.instrument, name).density_dex) for name in ("stars", "gas")}
    shown = galaxy.calibrated | _of_likely_density(run, galaxy)
    return {name: dex if name in shown else UNKNOWN for name, dex in known.items()}


def _with_likely_density(sky: SkyMap, r_e_arcsec: float, inclination_deg: float | None) -> SkyMap:
    """Return a map of gas with its likely density in the mean within R_e, or over all that is seen.

    It is LIKELY_GAS_MSUN_KPC2 over the axis ratio on the sky, into which a disc that is not face on is squeezed; where
    that is not known, as of a disc face on.
    """
    is_inside = np.hypot(sky.x_arcsec, sky.y_arcsec) < r_e_arcsec
    chosen = is_inside if np.count_nonzero(is_inside) >= MIN_PIXELS else np.ones_like(is_inside)
    axis_ratio = np.nan_to_num(axis_ratio_of_gas(sky, inclination_deg), nan=1.0)
    likely = LIKELY_GAS_MSUN_KPC2 / max(axis_ratio, THICKNESS)
    return replace(sky, density=sky.density * (likely / np.mean(sky.density[chosen])))


def _refuse_too_small(
    galaxy: ObservedGalaxy, maps: dict[str, SkyMap], observed: np.ndarray, field_of_view_re: float
) -> None:
    """Raise ValueError where a tracer is seen in fewer than MIN_PIXELS pixels of the network's grid (18, Q, Q)."""
    for name in maps:
        mask = observed[3 if name == "stars" else 7]
        n_seen = int(mask.sum())
        if n_seen < MIN_PIXELS:
            raise ValueError(
                f"{galaxy.name}: {name} is seen in {n_seen} of the network's {mask.size} pixels over "
                f"{field_of_view_re:g} R_e, at least {MIN_PIXELS} are needed; is half_light_radius_arcsec right?"
            )


def infer(run: Inference, galaxy: ObservedGalaxy, draws: int = DRAWS, tracer: str | None = None) -> ObservedProfile:
    """Infer the posterior of a galaxy's mass profile, with distance, R_e and centre drawn from their errors.

    draws: how many times these are drawn; the first draw is as given, without errors. tracer: gas, stars or both, for
    runs that were trained on any and galaxies with both.

    Distances and R_e are drawn from lognormals with the given relative errors, which keeps them positive; a mass
    inside an angle is proportional to the distance. Raises ValueError where the run cannot use the galaxy's maps.

    >>> from kinmass.eval.observed.galaxy import ObservedGalaxy
    >>> from kinmass.eval.observed.sky import SkyMap
    >>> from kinmass.train import load
    >>> x, y = np.meshgrid(np.arange(-14.5, 15), np.arange(-14.5, 15))
    >>> r = np.hypot(x, y)
    >>> gas = SkyMap(x, y, 1.0, np.exp(-r / 5), 150 * x / (r + 3), np.full(r.shape, 10.0))
    >>> galaxy = ObservedGalaxy("mine", 20.0, 5.0, gas=gas, calibrated=frozenset({"gas"}))
    >>> profile = infer(load("runs/gas"), galaxy, draws=2)
    >>> profile.radius_kpc.shape, profile.inside(1.0).startswith("log10 M(<1 kpc) = ")
    ((10,), True)
    """
    tracer = _choose_tracer(run, galaxy, tracer)
    config = run.models[0].config
    maps = {name: sky for name, sky in galaxy.maps().items() if tracer in ("both", name)}
    for name, sky in maps.items():
        sanity.refuse(name, sky, galaxy.half_light_radius_arcsec)
    geometry = _draw_geometry(galaxy, draws)
    r_e_kpc = geometry.r_e_kpc()
    # Sharper maps are blurred to what the network knows, wider ones are told, or said to be too wide.
    psf_re = psf_fwhm_re(sharpest(run.instrument), config, r_e_kpc)
    density_dex = _density_dex(run, galaxy)
    likely = _of_likely_density(run, galaxy)
    shown = _as_shown(run, galaxy, maps, density_dex, likely)
    observed = _observe(shown, geometry, psf_re, config.pixels, config.field_of_view_re, density_dex, likely)
    _refuse_too_small(galaxy, maps, observed[0], config.field_of_view_re)
    names = [(galaxy.name, i) for i in range(draws)]
    posterior = run(torch.from_numpy(observed), r_e_kpc, tracer, names, unseen=True)
    if not posterior.is_answered.any():
        raise ValueError(f"{galaxy.name}: nothing moves in the maps of {tracer}; no mass follows from them")
    log10_angle = np.log10(galaxy.half_light_radius_arcsec * posterior.radii_re)
    log10_menc, log10_kpc = _at_angles(posterior, geometry, log10_angle)
    cautions = [*_cautions(run, galaxy, maps, observed[0]), *_cautions_of_draws(posterior, log10_menc, log10_kpc)]
    ood_score = float(np.median(posterior.ood_score()[posterior.is_answered]))
    radius_kpc = float(r_e_kpc[0]) * posterior.radii_re
    curve = rotation_curve_of(maps["gas"], galaxy) if "gas" in maps else RotationCurve(np.zeros(0), np.zeros((3, 0)))
    v_circ_kms = 10 ** (0.5 * (log10_menc + np.log10(G) - log10_kpc))
    profile = ObservedProfile(
        galaxy, tracer, run.path, posterior.radii_re, 10**log10_angle, radius_kpc, log10_menc, v_circ_kms, ood_score,
        observed[0, :CHANNELS], config.field_of_view_re, curve.at(radius_kpc), curve, Verdict(()), cautions,
    )  # fmt: skip
    reasons = [*_outside(run, maps, observed[0]), *_too_coarse(run, galaxy, maps, float(psf_re[0]))]
    reasons += [Reason(text) for text in dict.fromkeys(t for name in maps for t in galaxy.doubts.get(name, ()))]
    return replace(profile, verdict=_verdict(profile, maps, posterior, reasons))


def _as_shown(
    run: Inference,
    galaxy: ObservedGalaxy,
    maps: dict[str, SkyMap],
    density_dex: dict[str, float],
    likely: Collection[str],
) -> dict[str, SkyMap]:
    """Return maps with the densities that the networks are shown; likely: tracers whose density is in no unit."""
    shown = dict(maps)
    for name, sky in maps.items():
        if name in likely:
            shown[name] = _with_likely_density(sky, galaxy.half_light_radius_arcsec, galaxy.inclination_deg)
        elif run.told and density_dex[name] == UNKNOWN:
            shown[name] = replace(sky, density=np.ones_like(sky.density))
    return shown


def _cautions_of_draws(posterior: Posterior, log10_menc: np.ndarray, log10_kpc: np.ndarray) -> list[str]:
    """Return sentences on draws that are left out, and on samples (S, K) that are masses no galaxy has."""
    cautions, draws = [], len(posterior)
    if n_left_out := np.count_nonzero(~posterior.is_answered):
        cautions.append(
            f"{n_left_out} of {draws} draws of distance, R_e and centre {'is' if n_left_out == 1 else 'are'} left out: "
            "with them nothing is seen on the network's grid."
        )
    if held_share := float(at_mass_limits(log10_menc, log10_kpc).mean()):
        cautions.append(f"{beyond_limits_message(held_share)}.")
    return cautions


def _at_angles(posterior: Posterior, geometry: _Geometry, log10_angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return samples (S, K) of log10 M [Msun] at angles (K,) [log10 arcsec], and log10 of the radii in kpc there.

    Each draw of the geometry has masses at its own R_e; they are interpolated to the same angles for all draws. Draws
    that are not answered are left out.
    """
    log10_mass_at_re = np.moveaxis(posterior.samples(SAMPLES), 0, 1).reshape(len(posterior) * SAMPLES, -1).astype(float)
    log10_angle_drawn = np.log10(np.outer(geometry.r_e_arcsec, posterior.radii_re)).repeat(SAMPLES, axis=0)
    log10_kpc = log10_angle + np.log10(geometry.distance_mpc * KPC_PER_ARCSEC_MPC).repeat(SAMPLES)[:, None]
    # Extrapolation can be steep.
    log10_menc = clip_to_mass_limits(interpolate_rows(log10_angle_drawn, log10_mass_at_re, log10_angle), log10_kpc)
    is_sampled = posterior.is_answered.repeat(SAMPLES)
    return log10_menc[is_sampled], log10_kpc[is_sampled]


def _verdict(profile: ObservedProfile, maps: dict[str, SkyMap], posterior: Posterior, reasons: list[Reason]) -> Verdict:
    """Return what speaks against a profile from the maps of one run's tracers, whose draws have the posterior.

    reasons: those that are known already.
    """
    k = int(np.argmin(np.abs(np.log(profile.radius_re))))
    r_e_kpc = float(profile.radius_kpc[k] / profile.radius_re[k])
    galaxy, r_e_arcsec = profile.galaxy, profile.galaxy.half_light_radius_arcsec
    calibrated = {name: sky for name, sky in maps.items() if name in galaxy.calibrated}
    members = posterior.member_medians(SAMPLES)[:, posterior.is_answered, k].mean(1)
    estimates = {}
    if "stars" in maps:  # weighted with their light, also where the network does not look at it
        stars = regrid(maps["stars"], profile.observed.shape[-1], profile.field_of_view_re * r_e_arcsec)
        estimates = star_estimates(stars, r_e_kpc, profile.field_of_view_re)
    if len(profile.curve.radius_kpc):
        # Inside, a beam smears the rotation out.
        outer = profile.curve.radius_kpc >= 0.5 * profile.curve.radius_kpc[-1]
        masses = np.where(outer, profile.curve.log10_menc, np.nan)  # as far as the inclination is known
        estimates["The rotation curve of the gas"] = np.log10(profile.curve.radius_kpc), masses
    return Verdict((
        *of_strangeness(profile.ood_score),
        *of_width(*np.quantile(profile.samples[:, k], [0.16, 0.84])),
        *of_members(float(members.std()) if len(members) > 1 else 0.0),
        *of_speeds(maps, profile.radius_arcsec, profile.v_circ_kms),
        *of_velocities(profile.radius_re, profile.v_circ_kms),
        *of_diffuse(float(profile.radius_kpc[k]), profile.samples[:, k]),
        *of_motions(maps),
        *of_one_number(maps),
        *(of_light(maps["stars"], r_e_arcsec) if "stars" in maps.keys() - galaxy.without_density else []),
        *(of_centre(maps["gas"], r_e_arcsec) if "gas" in maps else []),
        *(of_inclination(axis_ratio_of_gas(maps["gas"], galaxy.inclination_deg)) if list(maps) == ["gas"] else []),
        *of_parity(maps),
        *of_sides(maps),
        *of_hole(maps, r_e_arcsec),
        *of_errors(maps),
        *of_roughness(maps, galaxy.instrument_sigma_kms),
        *_of_redshifts(galaxy, list(maps)),
        *of_baryons(
            calibrated, galaxy.distance_mpc * KPC_PER_ARCSEC_MPC, float(profile.radius_arcsec[k]), profile.samples[:, k]
        ),
        *of_thin(calibrated),
        *of_resolution(maps, galaxy.instrument_sigma_kms),
        *of_estimates(estimates, np.log10(profile.radius_kpc), profile.samples),
        *reasons,
    ))  # fmt: skip


def _of_redshifts(galaxy: ObservedGalaxy, tracers: list[str]) -> list[Reason]:
    """Judge whether the velocities of the tracers that a profile is from agree with distance, redshift, each other.

    Which of two tracers is that of another galaxy nothing tells: it speaks against a profile from either.
    """
    told = {tracer: galaxy.redshifts[tracer] for tracer in tracers if tracer in galaxy.redshifts}
    if galaxy.redshift is not None:
        reasons = of_redshift(told, galaxy.redshift)
    else:
        reasons = of_distance(min((low for low, _ in told.values()), default=None), galaxy.distance_mpc)
    return [*reasons, *of_two_redshifts(galaxy.redshifts)]


def psf_fwhm_re(instrument: Instrument, config: ModelConfig, r_e_kpc: np.ndarray) -> np.ndarray:
    """Return the FWHM (D,) [R_e] of an instrument's PSF on a network's grid, for galaxies of R_e (D,) [kpc]."""
    pixels, field_re = config.pixels * instrument.rebin, config.field_of_view_re
    fwhm_pixels = psf_fwhm_pixels(instrument, pixels, field_re, torch.as_tensor(r_e_kpc))
    return np.broadcast_to(np.asarray(fwhm_pixels, float), r_e_kpc.shape) * field_re / pixels


def _too_coarse(run: Inference, galaxy: ObservedGalaxy, maps: dict[str, SkyMap], psf_re: float) -> Iterator[Reason]:
    """Judge whether maps are blurred more than what the network knows, which has a PSF of at least psf_re [R_e]."""
    config, r_e_arcsec = run.models[0].config, galaxy.half_light_radius_arcsec
    r_e_kpc = np.array([r_e_arcsec * galaxy.distance_mpc * KPC_PER_ARCSEC_MPC])
    widest_psf_re = max(psf_re, float(psf_fwhm_re(blurriest(run.instrument), config, r_e_kpc)[0]))
    grid_re = max(widest_psf_re, config.field_of_view_re / config.pixels)
    for name, sky in maps.items():
        if sky.blur_arcsec / r_e_arcsec > 1.2 * grid_re:
            yield Reason(
                f"The beam of the {name} is {sky.blur_arcsec / r_e_arcsec:.2f} R_e wide, the network knows maps as "
                f"sharp as {grid_re:.2f} R_e: rotation in the centre is smeared, and masses there are wrong."
            )
        if sky.side_arcsec / r_e_arcsec > FINE * config.field_of_view_re / config.pixels:
            yield Reason(
                f"The pixels of the {name} are {sky.side_arcsec / r_e_arcsec:.2f} R_e wide, coarser than anything the "
                "network has seen."
            )


def _cautions(run: Inference, galaxy: ObservedGalaxy, maps: dict[str, SkyMap], observed: np.ndarray) -> list[str]:
    """Return sentences on what limits the result: the maps' reach and beam, remarks on them, the run."""
    config = run.models[0].config
    sentences = []
    for name, sky in maps.items():
        reach_re = _reach_re(observed[3 if name == "stars" else 7], config.field_of_view_re)
        if reach_re < 0.9 * config.radii_re[-1]:
            sentences.append(
                f"{name.capitalize()} {'is' if name == 'gas' else 'are'} seen out to {reach_re:.1f} R_e: the profile "
                "beyond is that of training galaxies alike inside."
            )
        if sky.beam_fwhm_arcsec is None and not (run.told and run.instrument.unknown_psf):
            sentences.append(
                f"No beam of the {name} is known: the map was taken as perfectly sharp, and masses in the centre are "
                "too low where it is not; say beam_fwhm_arcsec."
            )
    sentences += [*(text for name in maps for text in galaxy.remarks_on.get(name, ())), *sanity.cautions(maps)]
    of_any = "both" if len(maps) > 1 else next(iter(maps))
    if (of_any if run.tracer == "any" else run.tracer) not in run.unseen:
        sentences.append(
            "The intervals are those for galaxies of the training suites: train with --leave-one-suite-out to have "
            "them hold what they promise for galaxies of suites that were not trained on."
        )
    return sentences


def _reach_re(mask: np.ndarray, field_of_view_re: float) -> float:
    """Return the radius [R_e] inside which nine tenths of the pixels (Q, Q) lie that the network sees."""
    x = ((np.arange(len(mask)) + 0.5) / len(mask) - 0.5) * field_of_view_re
    radius = np.hypot(x[:, None], x[None, :])[mask > 0]
    return float(np.quantile(radius, 0.9)) if len(radius) else 0.0


def _outside(run: Inference, maps: dict[str, SkyMap], observed: np.ndarray) -> Iterator[Reason]:
    """Judge what lies outside of the ranges that a network, which is told of them, has seen."""
    for name in maps if run.told else ():
        t, trained = ("stars", "gas").index(name), getattr(run.instrument, name)
        mask = observed[4 * t + 3] > 0
        error = observed[CHANNELS + len(TOLD) * t][mask]
        largest = ends(trained.velocity_error_kms)[1] * 10.0 ** ends(trained.error_slope)[1]
        if (error >= 0).all() and float(np.median(error)) > largest:
            yield Reason(
                f"Velocities of the {name} are known to {float(np.median(error)):.0f} km/s, the network has seen "
                f"errors of up to about {largest:.0f} km/s."
            )
        if mask.sum() < FEWEST_PIXELS:
            yield Reason(
                f"The network sees the {name} in {int(mask.sum())} pixels, and was trained on views with at least "
                f"{FEWEST_PIXELS}."
            )
