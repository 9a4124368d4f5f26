"""Read one tracer of an observed galaxy: turn FITS maps of any unit and grid into pixels on the sky."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord

from kinmass.eval.observed.fits_maps import (
    Bins,
    beam_fwhm_arcsec,
    blank_to_nan,
    columns,
    image,
    names_beside,
    text_columns,
)
from kinmass.eval.observed.fits_units import (
    LOGARITHMS,
    Density,
    arcsec_per_unit,
    inverse_variance_per_unit,
    is_inverse_variance,
    kms2_per_unit,
    kms_per_unit,
    read_density,
)
from kinmass.eval.observed.frequencies import to_velocities
from kinmass.eval.observed.galaxy_file import GalaxyFile, TracerFiles
from kinmass.eval.observed.grids import (
    Grid,
    Resampling,
    first_of_each_place,
    look_like_pixel_numbers,
    onto_one_grid,
    spaxel_side,
    tiled,
)
from kinmass.eval.observed.names import (
    of_other_tracer,
    refuse_contradictions,
    refuse_error_for,
    refuse_forgotten_width,
    refuse_logarithm,
)
from kinmass.eval.observed.sanity import (
    MAX_UNCORRECTED_KMS,
    refuse_fillings,
    refuse_undeclared_redshift,
    refuse_zeros,
    undeclared_differences,
    without_wild,
)
from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC, SkyMap, without_strays
from kinmass.gen.constants import LIGHT_KMS

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_MAPS = (
    "velocity", "density", "dispersion", "mask", "velocity_error", "velocity_ivar", "dispersion_error",
    "dispersion_ivar", "instrument_sigma",
)  # fmt: skip
_IVARS, _ERRORS = ("velocity_ivar", "dispersion_ivar"), ("velocity_error", "dispersion_error")


@dataclass
class _TracerMaps:
    """Maps of one tracer as read: values {key: (n,) or (Y, X)}, NaN where blank, and the offsets of their pixels.

    Velocities and widths are in km/s, densities linear in the unit that `density` tells. remarks are for the reader,
    doubts speak against what follows from the maps.
    """

    values: dict[str, np.ndarray]
    x_arcsec: np.ndarray
    y_arcsec: np.ndarray
    side_arcsec: float
    density: Density
    remarks: list[str] = field(default_factory=list)
    convention: str | None = None  # of V, where the files tell it
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tracer:
    """One tracer's map as read: whether its density is in Msun/kpc^2, remarks on how it was read, and doubts about it.

    instrument_sigma_kms is what was taken out of the dispersion, the median of a map. redshift is that of the median
    velocity, None where velocities are about a mean.
    """

    sky: SkyMap
    is_calibrated: bool
    instrument_sigma_kms: float
    redshift: float | None
    remarks: list[str]
    doubts: list[str]


def read_tracer(files: TracerFiles, folder: Path, galaxy_file: GalaxyFile) -> Tracer:
    """Read one tracer's map.

    Raises ValueError in one sentence, KeyError, TypeError, IndexError or OSError for files that cannot be used.
    """
    refuse_contradictions(files)
    maps = (_read_table if files.table is not None else _read_images)(files, folder, galaxy_file)
    refuse_forgotten_width(files, _beside_dispersion(files, folder))
    values, side_arcsec = maps.values, maps.side_arcsec
    refuse_logarithm(files, bool(maps.density.log))
    is_good = _unmasked(files, maps)
    velocity, density, sigma = values["velocity"], values["density"], values.get("dispersion")
    tracer = "gas" if files is galaxy_file.gas else "stars"
    maps.remarks += of_other_tracer(files, tracer)
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity_error, sigma_error = (_error_kms(values, what) for what in ("velocity", "dispersion"))
        if files.max_velocity_error_kms is not None and velocity_error is not None:
            is_good &= velocity_error <= files.max_velocity_error_kms
        if files.density_is == "peak":
            density = density * sigma  # a line's flux, up to a factor
        if sigma is not None:
            sigma, sigma_error = _without_instrument(files, values, sigma, sigma_error)
    is_good &= _within(files, galaxy_file, tracer, maps, is_good & np.isfinite(velocity))
    is_good &= np.isfinite(density) & (density > 0)
    is_good &= _certain(tracer, maps)
    velocity = np.where(is_good, velocity, np.nan)
    if files.blank is None:
        places = np.column_stack([maps.x_arcsec.ravel(), maps.y_arcsec.ravel()])
        has_sigma = np.ones(velocity.shape, bool) if sigma is None else np.isfinite(sigma)
        refuse_zeros(f"V of the {tracer}", places, side_arcsec, np.where(has_sigma, velocity, np.nan).ravel())
    maps.remarks += _remark_on_missing(tracer, velocity, sigma)
    _refuse_fillings_of(tracer, maps, velocity, velocity_error, is_good)
    if "velocity_error" in values or "velocity_ivar" in values:
        maps.remarks += _remark_on_errors(tracer, velocity_error, velocity)
    convention = maps.convention or files.convention
    redshift = _redshift(velocity, convention)
    if maps.convention is None and "convention" not in files.model_fields_set:
        refuse_undeclared_redshift(f"V of the {tracer}", velocity)
        maps.doubts += undeclared_differences(f"V of the {tracer}", redshift, galaxy_file.least_redshift())
    velocity, (sigma, velocity_error, sigma_error) = _in_galaxys_frame(
        galaxy_file, convention, redshift, velocity, (sigma, velocity_error, sigma_error)
    )
    fwhm_arcsec = _beam_fwhm_arcsec(files, folder, maps)
    sky = SkyMap(
        maps.x_arcsec, maps.y_arcsec, side_arcsec, density, velocity, sigma, fwhm_arcsec, velocity_error, sigma_error
    )
    sky = _without_outliers(tracer, sky, maps.remarks)
    msun_kpc2_per_unit = _msun_kpc2_per_unit(files, maps.density)
    if files.total_mass_msun:
        kpc_per_arcsec = galaxy_file.distance()[0] * KPC_PER_ARCSEC_MPC
        msun_kpc2_per_unit = files.total_mass_msun / (sky.density.sum() * (side_arcsec * kpc_per_arcsec) ** 2)
    return Tracer(
        replace(sky, density=(msun_kpc2_per_unit or 1.0) * sky.density),
        msun_kpc2_per_unit is not None,
        float(np.nanmedian(values.get("instrument_sigma", files.instrument_sigma_kms))),
        redshift,
        maps.remarks,
        maps.doubts,
    )


def _beside_dispersion(files: TracerFiles, folder: Path) -> list[str]:
    """Return the names of the maps in the file that holds the dispersion; none without one."""
    if files.dispersion is None:
        return []
    tables = [table for table in (files.table, files.bins) if table is not None]
    return [name for source in tables or [files.dispersion] for name in names_beside(source, folder)]


def _within(
    files: TracerFiles, galaxy_file: GalaxyFile, tracer: str, maps: _TracerMaps, is_seen: np.ndarray
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
    if n_beyond := np.count_nonzero(is_seen & ~is_within):
        n_seen = np.count_nonzero(is_seen)
        maps.remarks.append(f"within_kms leaves out {n_beyond} of {n_seen} pixels of the {tracer}.")
    return is_within


def _redshift(velocity_kms: np.ndarray, convention: str) -> float | None:
    """Return the redshift of the median velocity, None where V is about a mean: there, it has both signs."""
    known = velocity_kms[np.isfinite(velocity_kms)]
    if not len(known) or np.quantile(known, 0.1) <= 0:
        return None
    v_over_c = float(np.median(known)) / LIGHT_KMS
    return 1 / (1 - v_over_c) - 1 if convention == "radio" else v_over_c


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


def _without_outliers(tracer: str, sky: SkyMap, remarks: list[str]) -> SkyMap:
    """Leave out wild pixels and those that lie alone; `remarks` is told how many."""
    sky, said = without_wild(tracer, sky)
    remarks += said
    connected = without_strays(sky)
    if n_strays := len(sky.velocity_kms) - len(connected.velocity_kms):
        alone = "lies alone, in a group" if n_strays == 1 else "lie alone, in groups"
        remarks.append(
            f"{n_strays} of {len(sky.velocity_kms)} pixels of the {tracer} {alone} smaller than a beam: "
            f"{'it is' if n_strays == 1 else 'they are'} left out."
        )
    return connected


def _unmasked(files: TracerFiles, maps: _TracerMaps) -> np.ndarray:
    """Return the pixels that the mask leaves; few are remarked on. Raises ValueError where it leaves none."""
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
    return is_good


def _certain(tracer: str, maps: _TracerMaps) -> np.ndarray:
    """Return the pixels whose inverse variances are not nil: those have no measurement. A remark says how many."""
    is_certain = np.ones(maps.x_arcsec.shape, bool)
    for key in _IVARS:
        if key in maps.values:
            is_certain &= ~(maps.values[key] <= 0)
    n_seen = np.count_nonzero(~is_certain & np.isfinite(maps.values["velocity"]))
    if n_seen:
        pixels, have, they_are = ("pixel", "has", "it is") if n_seen == 1 else ("pixels", "have", "they are")
        maps.remarks.append(
            f"{n_seen} {pixels} of the {tracer} {have} an inverse variance of zero: nothing was measured there, and "
            f"{they_are} left out."
        )
    return is_certain


def _refuse_fillings_of(
    tracer: str, maps: _TracerMaps, velocity: np.ndarray, velocity_error: np.ndarray | None, is_good: np.ndarray
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
            unit = "" if what == "the density" else " km/s"
            refuse_fillings(f"{what} of the {tracer}", np.where(is_shown, value, np.nan), unit)


def _remark_on_missing(tracer: str, velocity_kms: np.ndarray, sigma_kms: np.ndarray | None) -> list[str]:
    """Return a remark where pixels have a velocity and no dispersion: no map holds them, and others are not as they."""
    has_velocity = np.isfinite(velocity_kms)
    if sigma_kms is None or not (n := np.count_nonzero(has_velocity & ~np.isfinite(sigma_kms))):
        return []
    return [
        f"{n} of {np.count_nonzero(has_velocity)} pixels of the {tracer} have a velocity and no dispersion, and are "
        "left out: where they are many, and hardly resolved rather than faint, what is left has too large a dispersion."
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
    instead = "taken to be the median of the others" if is_known.any() else "taken as not known"
    return [f"Errors of V of the {tracer} are missing, nil or negative in {n_unknown} of {n} pixels, and {instead}."]


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
    if files.density_is == "peak":
        from_unit = None  # the peak is multiplied by a width, so its unit is not that of the density
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


def _beam_fwhm_arcsec(files: TracerFiles, folder: Path, tracer_maps: _TracerMaps) -> float | None:
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
    bin_table = _bin_table(files, folder)
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


def _systemic_kms(galaxy_file: GalaxyFile, convention: str, redshift: float | None) -> float | None:
    """Return the systemic velocity in a convention where the galaxy's file tells it; None leaves it to the median of V.

    redshift: that of the median, None where V is about a mean, and its median says nothing. Raises ValueError where
    nothing else does, and the galaxy is too far for that not to matter.
    """
    if galaxy_file.systemic_kms is not None or redshift is not None:
        return galaxy_file.systemic_kms
    if galaxy_file.redshift is not None:
        z = galaxy_file.redshift
        return LIGHT_KMS * (z if convention == "optical" else z / (1 + z))
    if (z := galaxy_file.least_redshift()) * LIGHT_KMS > MAX_UNCORRECTED_KMS:
        raise ValueError(
            f"convention: {convention} of V about a mean, which does not tell the redshift (at least {z:.2g} at that "
            "distance): say systemic_kms, the galaxy's velocity in that convention, or redshift instead of distance_mpc"
        )
    return None


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
    systemic_kms = _systemic_kms(galaxy_file, convention, redshift)
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


def _without_blanks(files: TracerFiles, value: np.ndarray) -> np.ndarray:
    for blank in [files.blank] if isinstance(files.blank, float) else files.blank or []:
        value = blank_to_nan(value, blank)
    return value


def _in_kms(files: TracerFiles, key: str, value: np.ndarray, unit: str | None) -> np.ndarray:
    """Convert a map as read: blanks become NaN; velocities, dispersions and errors are in km/s, or (km/s)^-2."""
    if key.startswith("mask") and files.mask_is == "good":
        return np.where(value > 0, 0.0, 1.0)
    if key.startswith("mask") or key == "bin":
        return value  # a zero of these is a value, even where `blank` is zero
    value = _without_blanks(files, value)
    name, velocity_unit = getattr(files, key), files.velocity_unit
    if key == "density":
        return value
    if key == "velocity":
        return value * kms_per_unit(name, velocity_unit or unit)
    if key in _IVARS:
        ivar_unit = files.velocity_error_unit and f"({files.velocity_error_unit})^-2"
        return value * inverse_variance_per_unit(name, ivar_unit or unit, kms_per_unit(name, velocity_unit) ** -2)
    unit_key = "velocity_error_unit" if key in _ERRORS else "dispersion_unit"
    # A variance, as a moment of second order is, or the square of an error. That of a dispersion may be another thing,
    # the error of a variance.
    is_squared = key == "velocity_error" or (key == "dispersion" and files.dispersion_is == "sigma")
    squared = kms2_per_unit(getattr(files, unit_key) or unit) if is_squared else None
    if squared is not None:
        return np.sqrt(np.where(value >= 0, value * squared, np.nan))
    if key in _ERRORS and getattr(files, unit_key) is None and is_inverse_variance(unit):
        raise ValueError(f"{key} {name} is in {unit!r}: say {key.removesuffix('_error')}_ivar, an inverse variance")
    return value * _width_kms_per_unit(name, getattr(files, unit_key), velocity_unit, unit, unit_key)


def _width_kms_per_unit(
    name: str, unit_of_key: str | None, velocity_unit: str | None, unit_of_file: str | None, key: str
) -> float:
    """Return how many km/s one unit of a map of widths or errors is.

    The unit is that of the map's own key, else velocity_unit, else that of its file. Raises ValueError where the last
    two differ: velocity_unit may be meant for both maps, or the header of the velocity alone may be wrong.
    """
    if unit_of_key is not None or velocity_unit is None:
        return kms_per_unit(name, unit_of_key or unit_of_file, key)
    try:
        kms_per_file_unit = kms_per_unit(name, unit_of_file) if (unit_of_file or "").strip() else None
    except ValueError:
        kms_per_file_unit = None
    kms_per_velocity_unit = kms_per_unit(name, velocity_unit)
    if kms_per_file_unit is not None and abs(kms_per_file_unit / kms_per_velocity_unit - 1) > 1e-6:
        raise ValueError(
            f"{name} is in {unit_of_file!r} as its file says, velocity_unit is {velocity_unit}: say {key}, its unit"
        )
    return kms_per_velocity_unit


def _map_names(files: TracerFiles) -> dict[str, str]:
    """Return the names of a tracer's maps {key: name}; of several masks, the second is called mask 2."""
    masks = [files.mask] if isinstance(files.mask, str) else files.mask or []
    names = {key: name for key in _MAPS if key != "mask" and (name := getattr(files, key)) is not None}
    return names | {f"mask {i + 1}" if i else "mask": name for i, name in enumerate(masks)}


def _merge_masks(values: dict[str, np.ndarray]) -> None:
    """Make one mask of several: a pixel is bad where it is in any of them."""
    if len(masks := [values.pop(key) for key in list(values) if key.startswith("mask")]):
        values["mask"] = np.any([mask != 0 for mask in masks], axis=0).astype(float)  # NaN too


def _bin_table(files: TracerFiles, folder: Path) -> Bins | None:
    if files.bins is None:
        return None
    return Bins(files.bins, folder, files.bin_id or files.bin, files.bins_start_at, _map_names(files).values())


def _read_images(files: TracerFiles, folder: Path, galaxy_file: GalaxyFile) -> _TracerMaps:
    """Read maps that are images, or columns of a table of bins whose numbers are an image."""
    bin_table = _bin_table(files, folder)
    map_names = _map_names(files)
    bin_columns = {key: name for key, name in map_names.items() if bin_table is not None and name in bin_table.columns}
    image_names = {key: name for key, name in map_names.items() if key not in bin_columns} | (
        {"bin": files.bin} if bin_columns else {}
    )
    read = {key: image(name, folder) for key, name in image_names.items()}
    values_and_headers, is_frequency = read, False
    if files.velocity_unit is None:
        values_and_headers, is_frequency = to_velocities(read, files.velocity, lambda v: _without_blanks(files, v))
    planes = {key: str(header["PLANE"]) for key, (_, header) in values_and_headers.items() if "PLANE" in header}
    for key, called in planes.items():
        refuse_error_for(files, key, called)
    grids = {key: Grid.of(image_names[key], value.shape, header) for key, (value, header) in values_and_headers.items()}
    images = {
        key: _in_kms(files, key, value, header.get("BUNIT")) for key, (value, header) in values_and_headers.items()
    }
    density = None
    if "density" in images:
        density_grid = next((g for g in (grids["density"], *grids.values()) if g.wcs is not None), grids["density"])
        unit = files.density_unit or values_and_headers["density"][1].get("BUNIT")
        side = (
            _side_arcsec(density_grid, files.pixel_arcsec)
            if density_grid.wcs is None
            else float(np.sqrt(np.prod(density_grid.sides_arcsec())))
        )
        assert files.density is not None
        density = read_density(files.density, images["density"], unit, side, galaxy_file.distance()[0])
        images["density"] = density.value
    reference_key = "velocity" if "velocity" in images else "bin"
    methods: dict[str, Resampling] = {"bin": "nearest"}
    methods |= dict.fromkeys((key for key in images if key.startswith("mask")), "largest")
    values, grid, remarks = onto_one_grid(images, grids, reference_key, methods, files.one_grid)
    x, y, side = _pixel_offsets(files, grid, galaxy_file)
    if bin_table is not None and bin_columns:
        row_of_spaxel = bin_table.row_of(values.pop("bin"))
        for key, name in bin_columns.items():
            value, unit = bin_table.at_spaxels(name, row_of_spaxel)
            values[key] = _in_kms(files, key, value, unit)
            if key == "density":
                density = read_density(
                    name, values[key], files.density_unit or unit, side, galaxy_file.distance()[0], bins=True
                )
                values[key] = density.value
    if planes:
        keys_of = {called: [key for key in planes if planes[key] == called] for called in planes.values()}
        listed = "; ".join(f"{', '.join(keys)} {called!r}" for called, keys in keys_of.items())
        tracer = "gas" if files is galaxy_file.gas else "stars"
        remarks.append(f"Planes of the {tracer} as headers call them: {listed}.")
    _merge_masks(values)
    return _TracerMaps(values, x, y, side, density or _even(values), remarks, "optical" if is_frequency else None)


def _even(values: dict[str, np.ndarray]) -> Density:
    """Put a density of one where there is a velocity, into the maps of a tracer of which none was measured."""
    values["density"] = np.where(np.isfinite(values["velocity"]), 1.0, np.nan)
    return Density(values["density"], None, "", units.dimensionless_unscaled)


def _side_arcsec(grid: Grid, pixel_arcsec: float | None) -> float:
    """Return the side of a square pixel [arcsec], from the WCS or else pixel_arcsec.

    Raises ValueError where they differ, where neither is known, and for pixels that are not square.
    """
    if grid.wcs is None:
        if pixel_arcsec is None:
            raise ValueError(
                f"{grid.name} has no celestial coordinates (WCS): say pixel_arcsec, the side of a pixel, and "
                "centre_pixel, or give a WCS"
            )
        return pixel_arcsec
    first_side, second_side = grid.sides_arcsec()
    if abs(first_side / second_side - 1) > 0.02:
        raise ValueError(
            f"{grid.name}: pixels are not square: {first_side:.3g} x {second_side:.3g} arcsec; rebin the maps first"
        )
    side_arcsec = float(np.sqrt(first_side * second_side))
    if pixel_arcsec is not None and abs(pixel_arcsec / side_arcsec - 1) > 0.02:
        raise ValueError(
            f"{grid.name}: pixels are {side_arcsec:.4g} arcsec wide in its WCS, and pixel_arcsec is {pixel_arcsec}: "
            "which is right? Leave pixel_arcsec out, or mend the WCS"
        )
    return side_arcsec


def _pixel_offsets(files: TracerFiles, grid: Grid, galaxy_file: GalaxyFile) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the offsets x, y (Y, X) of an image's pixels from the centre, and their side [arcsec].

    Raises ValueError where the centre is not known.
    """
    side = _side_arcsec(grid, files.pixel_arcsec)
    iy, ix = np.indices(grid.shape)
    centre_pixel = files.centre_pixel
    if grid.wcs is None:
        if centre_pixel is None:
            raise ValueError(f"{grid.name} has no celestial coordinates (WCS): say centre_pixel: [x, y], from 1")
        return side * (ix + 1 - centre_pixel[0]), side * (iy + 1 - centre_pixel[1]), side
    # North is up for both tracers, be the one's image in galactic coordinates.
    sky_position = _icrs(grid.wcs.pixel_to_world(ix, iy))
    if centre_pixel is not None:
        sky_centre = _icrs(grid.wcs.pixel_to_world(centre_pixel[0] - 1, centre_pixel[1] - 1))
        if galaxy_file.centre_deg is not None:
            given = SkyCoord(*galaxy_file.centre_deg, unit="deg", frame="icrs")
            if (apart_arcsec := float(given.separation(sky_centre).to_value("arcsec"))) > 2 * side:
                raise ValueError(
                    f"centre_pixel and centre_deg are {apart_arcsec:.3g} arcsec apart: give the one that is right"
                )
    elif galaxy_file.centre_deg is not None:
        sky_centre = SkyCoord(*galaxy_file.centre_deg, unit="deg", frame="icrs")
    else:
        raise ValueError("centre_deg: [right ascension, declination] is needed for maps with a WCS")
    x, y = (offset.to_value("arcsec") for offset in sky_centre.spherical_offsets_to(sky_position))
    _refuse_stretched(grid.name, sky_position, side)
    return x, y, side


def _refuse_stretched(name: str, position: SkyCoord, side_arcsec: float) -> None:
    """Raise ValueError where pixels (Y, X) lie farther from, or nearer to each other on the sky than their side.

    So they do where coordinates grow with right ascension itself: CTYPE1 = 'RA', without a projection.
    """
    iy, ix = (n // 2 for n in position.shape)
    if min(iy, ix) < 1:
        return
    here, left, below = position[iy, ix], position[iy, ix - 1], position[iy - 1, ix]
    apart_arcsec = [float(here.separation(other).to_value("arcsec")) for other in (left, below)]
    if max(abs(apart / side_arcsec - 1) for apart in apart_arcsec) > 0.05:
        raise ValueError(
            f"{name}: pixels lie {apart_arcsec[0]:.3g} and {apart_arcsec[1]:.3g} arcsec apart on the sky, and are "
            f"{side_arcsec:.3g} arcsec wide by CDELT or CD: mend CTYPE (RA---TAN, DEC--TAN), or remove the WCS and say "
            "pixel_arcsec and centre_pixel"
        )


def _icrs(position: SkyCoord) -> SkyCoord:
    """Return a position in ICRS, without what else its own frame knows (an equinox)."""
    return SkyCoord(position.icrs.ra, position.icrs.dec, frame="icrs")


def _read_table(files: TracerFiles, folder: Path, galaxy_file: GalaxyFile) -> _TracerMaps:
    """Read maps that are columns of a table of spaxels or bins, or of a table of bins that its spaxels refer to."""
    name = str(files.table)
    bin_table = _bin_table(files, folder)
    places = (files.x, files.y)
    table_columns = columns(
        name, folder, (*places, *_map_names(files).values(), *((files.bin,) if bin_table else ())), places
    )
    map_columns = _map_names(files) | {"x": files.x, "y": files.y}
    bin_columns = set()
    if bin_table is not None and files.bin in table_columns:
        row_of_spaxel = bin_table.row_of(table_columns[files.bin][0])
        bin_columns = {
            column_name
            for column_name in map_columns.values()
            if column_name in bin_table.columns and column_name not in table_columns
        }
        table_columns |= {column_name: bin_table.at_spaxels(column_name, row_of_spaxel) for column_name in bin_columns}
    if missing := [column for column in map_columns.values() if column not in table_columns]:
        for column, text in text_columns(name, folder).items():
            if column in missing:
                raise ValueError(
                    f"{name}: column {column} holds text, {text!r}: it must be a number, or nan, in every row (right "
                    "ascension and declination in degrees)"
                )
        of_bins = f"; {files.bins} has {', '.join(bin_table.columns)}" if bin_table is not None else ""
        raise ValueError(f"{name} has no column {', '.join(missing)}; there are {', '.join(table_columns)}{of_bins}")
    x, y = _row_offsets(files, galaxy_file, *(table_columns[map_columns.pop(key)] for key in ("x", "y")))
    values = {key: _in_kms(files, key, *table_columns[column]) for key, column in map_columns.items()}
    _merge_masks(values)
    has_position = np.isfinite(x) & np.isfinite(y)
    x, y, values = x[has_position], y[has_position], {key: value[has_position] for key, value in values.items()}
    if files.rows == "bins":
        x, y, bin_index, side = tiled(x, y)
        values = {key: value[bin_index] for key, value in values.items()}
    else:
        side = spaxel_side(x, y, name, files.pixel_arcsec)
        values["velocity"] = _without_doubles(name, x, y, side, values)
    if files.density is None:
        return _TracerMaps(values, x, y, side, _even(values))
    unit, is_binned = (
        files.density_unit or table_columns[files.density][1],
        files.rows == "bins" or files.density in bin_columns,
    )
    density = read_density(files.density, values["density"], unit, side, galaxy_file.distance()[0], is_binned)
    values["density"] = density.value
    return _TracerMaps(values, x, y, side, density)


def _without_doubles(
    name: str, x_arcsec: np.ndarray, y_arcsec: np.ndarray, side_arcsec: float, values: dict[str, np.ndarray]
) -> np.ndarray:
    """Return velocities (n,) of a table's rows, NaN in those that say once more what another row of the place says.

    Raises ValueError where rows of one place have different velocities.
    """
    velocity = np.where(values.get("mask", 0) == 0, values["velocity"], np.nan)
    is_used = np.flatnonzero(np.isfinite(velocity))
    first = is_used[first_of_each_place(x_arcsec[is_used], y_arcsec[is_used], side_arcsec)]
    n_others = np.count_nonzero(velocity[is_used] != velocity[first])
    if n_others:
        raise ValueError(
            f"{name}: {n_others} of {len(is_used)} rows have another velocity than a row at the same place: are there "
            "several galaxies, components or pointings in it? give a table with one row for each spaxel, or a mask"
        )
    return np.where(np.isin(np.arange(len(velocity)), first) | ~np.isfinite(velocity), values["velocity"], np.nan)


def _about_zero(angle: Any, turn: float) -> Any:
    """Return angles from -1/2 to 1/2 of a turn: beside a right ascension of zero lie those of 359 degrees."""
    return (angle + 0.5 * turn) % turn - 0.5 * turn


def _row_offsets(
    files: TracerFiles, galaxy_file: GalaxyFile, x: tuple[np.ndarray, str | None], y: tuple[np.ndarray, str | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets [arcsec] of a table's rows from the centre, from columns x and y (values, unit).

    The columns are right ascension and declination where their median is nearer to centre_deg than to zero.
    """
    if not (x[1] or y[1] or files.xy_unit or files.pixel_arcsec) and look_like_pixel_numbers(x[0], y[0]):
        raise ValueError(
            f"columns {files.x} and {files.y} have no unit and look like numbers of pixels: say xy_unit: pix and "
            "pixel_arcsec, or xy_unit: arcsec if that is what they are in"
        )
    names, values_and_units = (files.x, files.y), (x, y)
    units = [files.xy_unit or unit for _, unit in values_and_units]
    pixel = files.pixel_arcsec
    coordinates_arcsec = [
        v * arcsec_per_unit(n, u, galaxy_file.distance()[0], pixel)
        for n, u, (v, _) in zip(names, units, values_and_units, strict=True)
    ]
    if galaxy_file.centre_deg is not None and not any(units):
        medians = np.array([np.nanmedian(v) for v in coordinates_arcsec])
        if np.linalg.norm(medians - np.array(galaxy_file.centre_deg)) < 0.1 * np.linalg.norm(medians):
            raise ValueError(
                f"columns {files.x} and {files.y} have no unit and look like right ascension and declination in "
                "degrees: say xy_unit: deg"
            )
    if galaxy_file.centre_deg is not None and all(units):
        turn_arcsec, given_arcsec = 360 * 3600, 3600 * np.array(galaxy_file.centre_deg)
        from_given, from_zero = (
            [
                np.nanmedian(_about_zero(v - origin, turn_arcsec))
                for v, origin in zip(coordinates_arcsec, at, strict=True)
            ]
            for at in (given_arcsec, (0.0, 0.0))
        )
        if np.linalg.norm(from_given) < np.linalg.norm(from_zero):
            sky_positions = SkyCoord(*coordinates_arcsec, unit="arcsec", frame="icrs")
            offsets = SkyCoord(*galaxy_file.centre_deg, unit="deg", frame="icrs").spherical_offsets_to(sky_positions)
            return offsets[0].to_value("arcsec"), offsets[1].to_value("arcsec")
    centre_arcsec = list(galaxy_file.centre_arcsec)
    if files.centre_pixel is not None:
        if pixel is None:
            raise ValueError("centre_pixel of a table needs pixel_arcsec")
        centre_arcsec = [pixel * v for v in files.centre_pixel]
    x_arcsec = _about_zero(coordinates_arcsec[0], 360 * 3600)
    return x_arcsec - centre_arcsec[0], coordinates_arcsec[1] - centre_arcsec[1]
