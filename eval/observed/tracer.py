"""Make pixels on the sky of the maps of one tracer: what is good, in the galaxy's frame, and what speaks against it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kinmass.eval.observed.fits_maps import beam_fwhm_arcsec, names_beside
from kinmass.eval.observed.fits_units import LOGARITHMS, Density
from kinmass.eval.observed.galaxy_file import GalaxyFile, TracerFiles
from kinmass.eval.observed.names import of_other_tracer, refuse_contradictions, refuse_forgotten_width, refuse_logarithm
from kinmass.eval.observed.redshifts import redshifts_of, refuse_other_redshift, share_between
from kinmass.eval.observed.sanity import (
    DISTANCE_FACTOR,
    MAX_UNCORRECTED_KMS,
    OWN_MOTION_KMS,
    refuse_fillings,
    refuse_one_number,
    refuse_undeclared_redshift,
    totals_of_bins,
    undeclared_differences,
    without_hot,
    without_wild,
)
from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC, SkyMap, bins_of, without_strays
from kinmass.eval.observed.tracer_maps import ERRORS, IVARS, Places, TracerMaps, bin_table_of, read_maps
from kinmass.gen.constants import LIGHT_KMS

#: V of so much [km/s] in the median, of a galaxy that recedes faster than MAX_UNCORRECTED_KMS, is no c z: it is about a
#: mean that is a little off, or one side of the galaxy is seen.
_MEAN_OFF_KMS = 500.0
#: Share by which differences of V are wrong, masses by twice as much, if its header is right and not the key.
_WRONG_SHARE = 0.05
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class Tracer:
    """One tracer's map as read: whether its density is in Msun/kpc^2, remarks on how it was read, and doubts about it.

    instrument_sigma_kms is what was taken out of the dispersion, the median of a map. redshifts are the lowest and the
    highest that the median velocity can mean, None where velocities are about a mean.
    """

    sky: SkyMap
    is_calibrated: bool
    instrument_sigma_kms: float
    redshifts: tuple[float, float] | None
    remarks: list[str]
    doubts: list[str]
    places: Places


def read_tracer(files: TracerFiles, folder: Path, galaxy_file: GalaxyFile) -> Tracer:
    """Read one tracer's map.

    Raises ValueError in one sentence, KeyError, TypeError, IndexError or OSError for files that cannot be used.
    """
    refuse_contradictions(files)
    maps = read_maps(files, folder, galaxy_file)
    refuse_forgotten_width(files, _beside_dispersion(files, folder), maps.called.get("dispersion", []))
    values, side_arcsec = maps.values, maps.side_arcsec
    refuse_logarithm(files, bool(maps.density.log), maps.called.get("density", []))
    is_good = _unmasked(files, maps, galaxy_file.half_light_radius_arcsec)
    velocity, density, sigma = values["velocity"], values["density"], values.get("dispersion")
    tracer = "gas" if files is galaxy_file.gas else "stars"
    maps.remarks += of_other_tracer(files, tracer, maps.called.get("velocity", []))
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity_error, sigma_error = (_error_kms(values, what) for what in ("velocity", "dispersion"))
        if files.max_velocity_error_kms is not None and velocity_error is not None:
            is_good &= velocity_error <= files.max_velocity_error_kms
        if files.density_is == "peak":
            density = density * sigma  # a line's flux, up to a factor
        if files.density_is == "bin_total":
            density = density / _pixels_of_bins(velocity, density)
        if sigma is not None:
            sigma, sigma_error = _without_instrument(files, values, sigma, sigma_error)
    is_good &= _within(files, galaxy_file, tracer, maps, is_good & np.isfinite(velocity))
    is_good &= _certain(tracer, maps)
    has_density = np.isfinite(density) & (density > 0)
    maps.remarks += _remark_on_density(tracer, np.where(is_good, velocity, np.nan), sigma, has_density)
    is_good &= has_density
    velocity = np.where(is_good, velocity, np.nan)
    if files.blank is None:
        places = np.column_stack([maps.x_arcsec.ravel(), maps.y_arcsec.ravel()])
        has_sigma = np.ones(velocity.shape, bool) if sigma is None else np.isfinite(sigma)
        refuse_one_number(f"V of the {tracer}", places, side_arcsec, np.where(has_sigma, velocity, np.nan).ravel())
    maps.remarks += _remark_on_missing(tracer, velocity, sigma)
    _refuse_fillings_of(tracer, maps, velocity, velocity_error, is_good)
    if "velocity_error" in values or "velocity_ivar" in values:
        maps.remarks += _remark_on_errors(tracer, velocity_error, velocity)
    recedes_kms = _recession_kms(velocity, galaxy_file)
    convention = _convention(files, tracer, maps, recedes_kms)
    redshifts = None if recedes_kms is None else redshifts_of(recedes_kms, convention)
    redshift = None if redshifts is None else redshifts[0]
    if convention == "rest" and "convention" not in files.model_fields_set:
        refuse_undeclared_redshift(f"V of the {tracer}", velocity)
        maps.doubts += undeclared_differences(f"V of the {tracer}", redshift, galaxy_file.least_redshift())
    if recedes_kms is not None:
        refuse_other_redshift(tracer, recedes_kms, convention, galaxy_file.redshift)
    velocity, (sigma, velocity_error, sigma_error) = _in_galaxys_frame(
        galaxy_file, convention, redshift, velocity, (sigma, velocity_error, sigma_error)
    )
    fwhm_arcsec = _beam_fwhm_arcsec(files, folder, maps)
    sky = SkyMap(
        maps.x_arcsec, maps.y_arcsec, side_arcsec, density, velocity, sigma, fwhm_arcsec, velocity_error, sigma_error
    )
    sky = _without_outliers(tracer, sky, maps.remarks)
    if files.density is not None and files.density_unit is None and files.density_is == "surface_density":
        maps.doubts += totals_of_bins(tracer, sky)
    if files.rows == "bins" and any(f"pixels of the {tracer}" in remark for remark in maps.remarks):
        maps.remarks.append(
            f"Pixels of the {tracer} are the {velocity.size} squares that their bins are cut into here."
        )
    msun_kpc2_per_unit = _msun_kpc2_per_unit(files, maps.density)
    if files.total_mass_msun:
        kpc_per_arcsec = galaxy_file.distance()[0] * KPC_PER_ARCSEC_MPC
        msun_kpc2_per_unit = files.total_mass_msun / (sky.density.sum() * (side_arcsec * kpc_per_arcsec) ** 2)
    return Tracer(
        replace(sky, density=(msun_kpc2_per_unit or 1.0) * sky.density),
        msun_kpc2_per_unit is not None,
        float(np.nanmedian(values.get("instrument_sigma", files.instrument_sigma_kms))),
        redshifts,
        maps.remarks,
        maps.doubts,
        maps.places,
    )


def _beside_dispersion(files: TracerFiles, folder: Path) -> list[str]:
    """Return the names of the maps in the file that holds the dispersion; none without one."""
    if files.dispersion is None:
        return []
    tables = [table for table in (files.table, files.bins) if table is not None]
    return [name for source in tables or [files.dispersion] for name in names_beside(source, folder)]


def _within(
    files: TracerFiles, galaxy_file: GalaxyFile, tracer: str, maps: TracerMaps, is_seen: np.ndarray
) -> np.ndarray:
    """Return the pixels that within_kms leaves. A remark says how many of those seen it does not leave.

    Raises ValueError without a systemic velocity.
    """
    velocity = maps.values["velocity"]
    if files.within_kms is None:
        return np.ones(velocity.shape, bool)
    if galaxy_file.systemic_kms is None:
        raise ValueError("within_kms needs systemic_kms of the galaxy")
    is_within = np.abs(velocity - galaxy_file.systemic_kms) <= files.within_kms
    if is_seen.any() and not (is_seen & is_within).any():
        raise ValueError(
            f"no pixel has V within_kms {files.within_kms:g} of systemic_kms {galaxy_file.systemic_kms:g}: V of the "
            f"{tracer} is about {np.median(velocity[is_seen]):.0f} km/s. Give systemic_kms as the file counts V: 0 "
            "about a mean (and redshift for the convention)"
        )
    if n_beyond := np.count_nonzero(is_seen & ~is_within):
        n_seen = np.count_nonzero(is_seen)
        maps.remarks.append(f"within_kms leaves out {n_beyond} of {n_seen} pixels of the {tracer}.")
    return is_within


def _recession_kms(velocity_kms: np.ndarray, galaxy_file: GalaxyFile) -> float | None:
    """Return the median V [km/s], None where V is about a mean: there it has both signs, or is far too small."""
    known = velocity_kms[np.isfinite(velocity_kms)]
    if not len(known) or np.quantile(known, 0.1) <= 0:
        return None
    middle_kms = float(np.median(known))
    is_far = LIGHT_KMS * galaxy_file.least_redshift() > MAX_UNCORRECTED_KMS
    return None if is_far and middle_kms < _MEAN_OFF_KMS else middle_kms


def _convention(files: TracerFiles, tracer: str, maps: TracerMaps, recedes_kms: float | None) -> str:
    """Return the convention of V: that of a frequency, else the one that is said, else the one that its header tells.

    recedes_kms: the median of V, None where that is about a mean; then, and of near galaxies, headers are not asked. A
    remark says where one is believed. Where it contradicts what is said, and that matters, a doubt is noted.
    """
    is_asked = recedes_kms is not None and MAX_UNCORRECTED_KMS < recedes_kms < LIGHT_KMS
    if maps.convention is not None or maps.told_convention is None or recedes_kms is None or not is_asked:
        return maps.convention or files.convention
    told, card = maps.told_convention
    if "convention" not in files.model_fields_set:
        maps.remarks.append(
            f"V of the {tracer} is taken for {'c z' if told == 'optical' else 'radio velocities'}, as {card} in its "
            "header says; if its differences are in the galaxy's frame say convention: rest."
        )
        return told
    share = share_between(told, files.convention, redshifts_of(recedes_kms, files.convention)[0])
    if share > _WRONG_SHARE:
        maps.doubts.append(
            f"V of the {tracer} is {told} by {card} in its header, and convention: {files.convention} is said: which "
            f"is right? Its differences would be {100 * share:.0f} % off, masses twice that."
        )
    return files.convention


def _without_instrument(
    files: TracerFiles, values: dict[str, np.ndarray], width: np.ndarray, error: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the dispersion that is left of a measured width without the instrument's, and its error [km/s]."""
    measured = width / (_FWHM_PER_SIGMA if files.dispersion_is == "fwhm" else 1.0)
    instrument = np.asarray(values.get("instrument_sigma", files.instrument_sigma_kms))
    sigma = np.where((measured > 0) & (instrument >= 0), np.sqrt(np.maximum(measured**2 - instrument**2, 0.0)), np.nan)
    if error is not None:
        error = error / (_FWHM_PER_SIGMA if files.dispersion_is == "fwhm" else 1.0)
        # What is left of a measured width has a larger error than that, up to that of its square at zero.
        of_rest = error * measured / np.hypot(sigma, np.sqrt(error * measured))
        error = np.where(instrument > 0, np.maximum(of_rest, error), error)
    return sigma, error


def _pixels_of_bins(velocity: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return how many pixels the bin of each pixel has (of any shape): those of a bin have one V and one density."""
    is_known = np.isfinite(velocity) & np.isfinite(density)
    n_pixels = np.ones(velocity.shape)
    label = bins_of(velocity[is_known], density[is_known])
    n_pixels[is_known] = np.bincount(label)[label]
    return n_pixels


def _without_outliers(tracer: str, sky: SkyMap, remarks: list[str]) -> SkyMap:
    """Leave out pixels that move or shine as nothing does and those that lie alone; `remarks` is told how many."""
    for without in (without_wild, without_hot):
        sky, said = without(tracer, sky)
        remarks += said
    connected = without_strays(sky)
    if n_strays := len(sky.velocity_kms) - len(connected.velocity_kms):
        alone = "lies alone, in a group" if n_strays == 1 else "lie alone, in groups"
        remarks.append(
            f"{n_strays} of {len(sky.velocity_kms)} pixels of the {tracer} {alone} smaller than a beam: "
            f"{'it is' if n_strays == 1 else 'they are'} left out."
        )
    return connected


def _unmasked(files: TracerFiles, maps: TracerMaps, r_e_arcsec: float) -> np.ndarray:
    """Return the pixels that the mask leaves. A remark is made where these are few, or where it cuts out the middle.

    Raises ValueError where it leaves none.
    """
    if "mask" not in maps.values:
        return np.ones(maps.x_arcsec.shape, bool)
    velocity = maps.values["velocity"]
    # A velocity of zero exactly, or without weight, was not measured.
    is_good, is_seen = maps.values["mask"] == 0, np.isfinite(velocity) & (velocity != 0)
    is_seen &= ~(maps.values.get("velocity_ivar", np.ones_like(velocity)) <= 0)
    n_left, n_seen = np.count_nonzero(is_good & is_seen), np.count_nonzero(is_seen)
    called = files.mask if isinstance(files.mask, str) else ", ".join(files.mask or [])
    if np.isfinite(velocity).any() and not (is_good & np.isfinite(velocity)).any():
        raise ValueError(f"mask {called} leaves no pixel with a velocity: if it marks good pixels say mask_is: good")
    if n_left < 0.5 * n_seen:
        maps.remarks.append(
            f"mask {called} leaves {n_left} of {n_seen} pixels: if it marks good pixels say mask_is: good."
        )
    is_inner = is_seen & (np.hypot(maps.x_arcsec, maps.y_arcsec) < 0.5 * r_e_arcsec)
    n_inner, n_cut = int(is_inner.sum()), int((is_inner & ~is_good).sum())
    share_of_others = (n_seen - n_left - n_cut) / max(int(n_seen) - n_inner, 1)
    if n_cut > n_inner * max(0.5, 2 * share_of_others):
        maps.remarks.append(
            f"mask {called} leaves out {n_cut} of {n_inner} pixels within R_e / 2 of the centre, more than of the "
            "others: is mask_is right?"
        )
    return is_good


def _certain(tracer: str, maps: TracerMaps) -> np.ndarray:
    """Return the pixels whose errors are not infinite: those have no measurement. A remark says how many."""
    is_certain = np.ones(maps.x_arcsec.shape, bool)
    for key in maps.values.keys() & {*IVARS, *ERRORS}:
        is_certain &= ~(maps.values[key] <= 0 if key in IVARS else np.isposinf(maps.values[key]))
    n_seen = np.count_nonzero(~is_certain & np.isfinite(maps.values["velocity"]))
    if n_seen:
        pixels, have, they_are = ("pixel", "has", "it is") if n_seen == 1 else ("pixels", "have", "they are")
        maps.remarks.append(
            f"{n_seen} {pixels} of the {tracer} {have} an inverse variance of zero, or an infinite error: nothing was "
            f"measured there, and {they_are} left out."
        )
    return is_certain


def _refuse_fillings_of(
    tracer: str, maps: TracerMaps, velocity: np.ndarray, velocity_error: np.ndarray | None, is_good: np.ndarray
) -> None:
    """Raise ValueError as `sanity.refuse_fillings` for all maps of a tracer; V and its error are given apart.

    Numbers below zero are no measurements of a width, an error or a density anyway.
    """
    log = LOGARITHMS.get(maps.density.log)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = maps.values["density"] if log is None else np.log10(maps.values["density"]) / log
        sigma_error = _error_kms(maps.values, "dispersion")
    of_any_sign = {"V": velocity, "the instrument's width": maps.values.get("instrument_sigma")}
    positive = {"sigma": maps.values.get("dispersion"), "the error of V": velocity_error}
    positive["the error of sigma"] = sigma_error
    (positive if log is None else of_any_sign)["the density"] = density
    for what, value in (of_any_sign | positive).items():
        if value is not None:
            is_shown = is_good & ((value > 0) | (what in of_any_sign))
            unit, of_bin = ("", velocity) if what == "the density" else (" km/s", None)
            refuse_fillings(f"{what} of the {tracer}", np.where(is_shown, value, np.nan), unit, of_bin)


def _remark_on_missing(tracer: str, velocity_kms: np.ndarray, sigma_kms: np.ndarray | None) -> list[str]:
    """Return a remark where pixels have a velocity and no dispersion: no map holds them, and others are not as they."""
    has_velocity = np.isfinite(velocity_kms)
    if sigma_kms is None or not (n := np.count_nonzero(has_velocity & ~np.isfinite(sigma_kms))):
        return []
    return [
        f"{n} of {np.count_nonzero(has_velocity)} pixels of the {tracer} have a velocity and no dispersion, and are "
        "left out: where they are many, and hardly resolved rather than faint, what is left has too large a dispersion."
    ]


def _remark_on_density(
    tracer: str, velocity_kms: np.ndarray, sigma_kms: np.ndarray | None, has_density: np.ndarray
) -> list[str]:
    """Return a remark where pixels are measured and have no density above zero, as magnitudes taken for light have."""
    is_measured = np.isfinite(velocity_kms) & (velocity_kms != 0)
    if sigma_kms is not None:
        is_measured &= np.isfinite(sigma_kms)
    if not (n := np.count_nonzero(is_measured & ~has_density)):
        return []
    return [
        f"{n} of {np.count_nonzero(is_measured)} pixels of the {tracer} have a velocity and no density above zero, and "
        "are left out."
    ]


def _remark_on_errors(tracer: str, error_kms: np.ndarray | None, velocity_kms: np.ndarray) -> list[str]:
    """Return a remark where errors of V are missing, nil or negative in some of the pixels that have a velocity."""
    has_velocity = np.isfinite(velocity_kms)
    is_known = (
        has_velocity & np.isfinite(error_kms) & (error_kms > 0) if error_kms is not None else has_velocity & False
    )
    n_unknown, n = int(has_velocity.sum() - is_known.sum()), int(has_velocity.sum())
    if not n_unknown:
        return []
    instead = "taken as not known"
    if is_known.any():
        instead = "taken to be the median of the others; if nothing was measured there leave them out with mask"
    return [f"Errors of V are missing, nil or negative in {n_unknown} of {n} pixels of the {tracer}, and {instead}."]


def _error_kms(values: dict[str, np.ndarray], what: str) -> np.ndarray | None:
    """Return the standard errors [km/s] of the velocity or dispersion, None where the files do not tell them."""
    if f"{what}_ivar" in values:
        return np.asarray(values[f"{what}_ivar"] ** -0.5)
    return values.get(f"{what}_error")


def _msun_kpc2_per_unit(files: TracerFiles, density: Density) -> float | None:
    """Return how many Msun/kpc^2 one unit of the density is, None where that is not known.

    Raises ValueError where density_msun_kpc2 and the unit of the density contradict each other.
    """
    from_key, from_unit = files.density_msun_kpc2, density.msun_kpc2
    if files.density_is != "surface_density":
        from_unit = None  # of a peak times a width, or a total over pixels, the file's unit is not that of the density
    if from_key is not None and density.log == "mag":
        raise ValueError(
            "density is in magnitudes, of which density_msun_kpc2 is not the value of one: give total_mass_msun instead"
        )
    if from_key is None or from_unit is None:
        return from_key or from_unit
    if from_key != 1.0 and abs(from_key / from_unit - 1) > 0.02:
        raise ValueError(
            f"density is in {density.unit}, of which one is {from_unit:.4g} Msun/kpc^2, and density_msun_kpc2 says "
            f"{from_key:.4g}: leave the key out, or say density_unit: arbitrary if the file's unit is wrong"
        )
    return from_unit


def _beam_fwhm_arcsec(files: TracerFiles, folder: Path, tracer_maps: TracerMaps) -> float | None:
    """Return the FWHM [arcsec] of the beam: beam_fwhm_arcsec, else what the maps' files say, else None.

    Raises ValueError for a beam wider than the map.
    """
    extent_arcsec = float(max(np.ptp(tracer_maps.x_arcsec), np.ptp(tracer_maps.y_arcsec)) + tracer_maps.side_arcsec)
    if files.beam_fwhm_arcsec is not None:
        if files.beam_fwhm_arcsec > extent_arcsec:
            raise ValueError(
                f"beam_fwhm_arcsec {files.beam_fwhm_arcsec:g} is wider than the map ({extent_arcsec:.3g} arcsec): is "
                "it in arcsec?"
            )
        if 0 < files.beam_fwhm_arcsec < 0.1 * tracer_maps.side_arcsec:
            raise ValueError(
                f"beam_fwhm_arcsec {files.beam_fwhm_arcsec:g} is far smaller than a pixel "
                f"({tracer_maps.side_arcsec:.3g} arcsec): is it in arcsec, not in degrees?"
            )
        return files.beam_fwhm_arcsec
    bin_table = bin_table_of(files, folder)
    bin_columns = {} if bin_table is None else bin_table.columns
    map_names = [files.table] if files.table else [files.velocity, files.density, files.dispersion]
    sources = [files.bins if name in bin_columns else name for name in map_names]
    fwhms = (beam_fwhm_arcsec(name, folder) for name in dict.fromkeys(sources) if name is not None)
    fwhm_arcsec = next((fwhm for fwhm in fwhms if fwhm is not None), None)
    if fwhm_arcsec is not None and fwhm_arcsec > extent_arcsec:
        raise ValueError(
            f"BMAJ of the header, which is in degrees, makes a beam of {fwhm_arcsec:.3g} arcsec, wider than the map "
            f"({extent_arcsec:.3g} arcsec): say beam_fwhm_arcsec"
        )
    return fwhm_arcsec


def _systemic_kms(galaxy_file: GalaxyFile, convention: str, redshift: float | None, middle_kms: float) -> float | None:
    """Return the systemic velocity in a convention where the galaxy's file tells it; None leaves it to the median of V.

    redshift: that of the median middle_kms, None where V is about a mean, and its median says nothing: systemic_kms may
    be that mean, for `within_kms`, and then tells nothing either. Raises ValueError where nothing else does, and the
    galaxy is too far for that not to matter, and for a systemic_kms that is neither.
    """
    given, known = galaxy_file.systemic_kms, galaxy_file.redshift if redshift is None else redshift
    if known is not None:
        told_kms = LIGHT_KMS * (known if convention == "optical" else known / (1 + known))
        if given is not None and min(abs(given - told_kms), abs(given - middle_kms)) > MAX_UNCORRECTED_KMS:
            raise ValueError(
                f"systemic_kms is {given:g}, V is about {middle_kms:.0f} km/s, and a redshift of {known:.4g} is "
                f"{told_kms:.0f} km/s in the {convention} convention: which is right? Leave out the wrong one"
            )
        return told_kms if redshift is None else given
    nearest = galaxy_file.least_redshift()
    if nearest * LIGHT_KMS <= MAX_UNCORRECTED_KMS:
        return given
    if (
        given is None
        or LIGHT_KMS * redshifts_of(given, convention)[0] < LIGHT_KMS * nearest / DISTANCE_FACTOR - OWN_MOTION_KMS
    ):
        said = "" if given is None else f", and neither does systemic_kms: {given:g}"
        raise ValueError(
            f"convention: {convention} of V about a mean, which does not tell the redshift (at least {nearest:.2g} at "
            f"that distance){said}: say systemic_kms, the galaxy's velocity in that convention, or redshift instead of "
            "distance_mpc"
        )
    return given


def _in_galaxys_frame(
    galaxy_file: GalaxyFile,
    convention: str,
    redshift: float | None,
    velocity: np.ndarray,
    widths: tuple[np.ndarray | None, ...],
) -> tuple[np.ndarray, tuple[np.ndarray | None, ...]]:
    """Return V, and widths and errors, about the galaxy; redshift is that of the median V, None where about a mean.

    Raises ValueError as `_systemic_kms`.
    """
    if convention == "rest":
        return velocity, widths
    middle_kms = float(np.nanmedian(velocity)) if np.isfinite(velocity).any() else 0.0
    systemic_kms = _systemic_kms(galaxy_file, convention, redshift, middle_kms)
    about_kms = systemic_kms if redshift is None and systemic_kms is not None else 0.0
    at_rest, factor = _at_rest(velocity + about_kms, convention, systemic_kms)
    return at_rest, tuple(None if width is None else width / factor for width in widths)


def _at_rest(velocity_kms: np.ndarray, convention: str, systemic_kms: float | None) -> tuple[np.ndarray, float]:
    """Turn V, as c z (optical) or c (1 - 1 / (1 + z)) (radio), into V about the galaxy.

    Returns the factor, too, by which differences are too large: sigma and errors as well. It is 1 + z in the optical
    convention, and one over that in the radio convention.
    """
    v_over_c = velocity_kms / LIGHT_KMS
    one_plus_z = 1 + v_over_c if convention == "optical" else 1 / (1 - v_over_c)
    systemic_over_c = systemic_kms / LIGHT_KMS if systemic_kms is not None else float(np.nanmedian(v_over_c))
    systemic_one_plus_z = 1 + systemic_over_c if convention == "optical" else 1 / (1 - systemic_over_c)
    width_factor = systemic_one_plus_z if convention == "optical" else 1 / systemic_one_plus_z
    return LIGHT_KMS * (one_plus_z / systemic_one_plus_z - 1), width_factor
