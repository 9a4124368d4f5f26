"""One tracer of an observed galaxy: FITS maps of any unit and grid as pixels on the sky."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord

from kinmass.eval.observed.fits_maps import Bins, beam_fwhm_arcsec, columns, image, without
from kinmass.eval.observed.fits_units import Density, arcsec, inverse_variance, kms, read_density
from kinmass.eval.observed.galaxy_file import GalaxyFile, TracerFiles
from kinmass.eval.observed.grids import Grid, How, one_grid, spaxel_side, tiled
from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC, SkyMap
from kinmass.gen.constants import LIGHT_KMS

_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
_MAPS = ("velocity", "density", "dispersion", "mask", "velocity_error", "velocity_ivar", "instrument_sigma")
#: Maps of which a part of a pixel counts, not the mean.
_HOWS: dict[str, How] = {"mask": "largest", "bin": "nearest"}


@dataclass
class _Read:
    """Maps {key: (n,)} of one tracer, NaN where blank, in km/s, densities linear; where they lie; remarks."""

    values: dict[str, np.ndarray]
    x_arcsec: np.ndarray
    y_arcsec: np.ndarray
    side_arcsec: float
    density: Density
    remarks: list[str] = field(default_factory=list)


def read_tracer(files: TracerFiles, folder: Path, about: GalaxyFile) -> tuple[SkyMap, bool, list[str]]:
    """One tracer's map, whether its density is in Msun/kpc^2, and what a reader should know of it.

    Raises ValueError in one sentence, KeyError, TypeError, IndexError or OSError for files that cannot be used.
    """
    read = (_read_table if files.table is not None else _read_images)(files, folder, about)
    values, side = read.values, read.side_arcsec
    good = np.ones(read.x_arcsec.shape, bool)
    if "mask" in values:
        good &= values["mask"] == 0
    velocity, density, sigma = values["velocity"], values["density"], values.get("dispersion")
    with np.errstate(divide="ignore", invalid="ignore"):
        if files.max_velocity_error_kms is not None:
            error = values["velocity_ivar"] ** -0.5 if "velocity_ivar" in values else values["velocity_error"]
            good &= error <= files.max_velocity_error_kms
        if files.density_is == "peak":
            density = density * sigma  # a line's flux, up to a factor
        if sigma is not None:
            sigma = sigma / (_FWHM if files.dispersion_is == "fwhm" else 1.0)
            instrument = values.get("instrument_sigma", files.instrument_sigma_kms)
            sigma = np.where(sigma > 0, np.sqrt(np.maximum(sigma**2 - instrument**2, 0.0)), np.nan)
    if files.within_kms is not None:
        if about.systemic_kms is None:
            raise ValueError("within_kms needs systemic_kms of the galaxy")
        good &= np.abs(velocity - about.systemic_kms) <= files.within_kms
    velocity = np.where(good, velocity, np.nan)
    if files.convention != "rest":
        velocity, sigma = _at_rest(velocity, sigma, files.convention, about.systemic_kms)
    sky = SkyMap(read.x_arcsec, read.y_arcsec, side, density, velocity, sigma, _beam(files, folder, read))
    factor = _msun_kpc2(files, read.density)
    if files.total_mass_msun:
        kpc = about.distance_mpc * KPC_PER_ARCSEC_MPC
        factor = files.total_mass_msun / (sky.density.sum() * (side * kpc) ** 2)
    return replace(sky, density=(factor or 1.0) * sky.density), factor is not None, read.remarks


def _msun_kpc2(files: TracerFiles, density: Density) -> float | None:
    """One of the density in Msun/kpc^2; None where it is not known. Raises ValueError where two say otherwise."""
    said, told = files.density_msun_kpc2, density.msun_kpc2
    if files.density_is == "peak":
        told = None  # times a width it is in another unit
    if said is not None and density.log == "mag":
        raise ValueError(
            "density is in magnitudes, of which density_msun_kpc2 is not the value of one: give total_mass_msun instead"
        )
    if said is None or told is None:
        return said or told
    if said != 1.0 and abs(said / told - 1) > 0.02:
        raise ValueError(
            f"density is in {density.unit}, of which one is {told:.4g} Msun/kpc^2, and density_msun_kpc2 says "
            f"{said:.4g}: leave the key out, or say density_unit: arbitrary if the file's unit is wrong"
        )
    return told


def _beam(files: TracerFiles, folder: Path, read: _Read) -> float | None:
    """FWHM [arcsec] of the beam: as said, or as the maps' files say; None where nothing is known of it."""
    if files.beam_fwhm_arcsec is not None:
        return files.beam_fwhm_arcsec
    of_bins = columns(files.bins, folder) if files.bins else {}
    maps = [files.table] if files.table else [files.velocity, files.density, files.dispersion]
    names = [files.bins if name in of_bins else name for name in maps]
    found = (beam_fwhm_arcsec(name, folder) for name in dict.fromkeys(names) if name is not None)
    beam = next((b for b in found if b is not None), None)
    extent = float(max(np.ptp(read.x_arcsec), np.ptp(read.y_arcsec)) + read.side_arcsec)
    if beam is not None and beam > extent:
        raise ValueError(
            f"BMAJ of the header, which is in degrees, makes a beam of {beam:.3g} arcsec, wider than the map "
            f"({extent:.3g} arcsec): say beam_fwhm_arcsec"
        )
    return beam


def _at_rest(
    velocity_kms: np.ndarray, sigma_kms: np.ndarray | None, convention: str, systemic_kms: float | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """V about the galaxy and sigma in its own frame, from c z (optical) or c (1 - 1 / (1 + z)) (radio).

    Differences of the first are too large by 1 + z, those of the second too small.
    """
    share = velocity_kms / LIGHT_KMS
    stretch = 1 + share if convention == "optical" else 1 / (1 - share)
    middle = systemic_kms / LIGHT_KMS if systemic_kms is not None else float(np.nanmedian(share))
    whole = 1 + middle if convention == "optical" else 1 / (1 - middle)
    too_wide = whole if convention == "optical" else 1 / whole
    return LIGHT_KMS * (stretch / whole - 1), None if sigma_kms is None else sigma_kms / too_wide


def _in_kms(files: TracerFiles, key: str, value: np.ndarray, unit: str | None) -> np.ndarray:
    """A map as read: NaN where blank, velocities and what is measured as they are in km/s."""
    if key in ("mask", "bin"):
        return value  # their zero is no blank
    if files.blank is not None:
        value = without(value, files.blank)
    name, said = getattr(files, key), files.velocity_unit
    if key == "density":
        return value
    if key == "velocity":
        return value * kms(name, said or unit)
    if key == "velocity_ivar":
        own = files.velocity_error_unit and f"({files.velocity_error_unit})^-2"
        return value * inverse_variance(name, own or unit, kms(name, said) ** -2)
    which = "velocity_error_unit" if key == "velocity_error" else "dispersion_unit"
    return value * _width_kms(name, getattr(files, which), said, unit, which)


def _width_kms(name: str, own: str | None, velocities: str | None, unit: str | None, key: str) -> float:
    """One of a map of widths or errors in km/s: in the unit of its own key, of its file, or that of velocities.

    Raises ValueError where the last two differ: velocity_unit may mean both, or one header alone is wrong.
    """
    if own is not None or velocities is None:
        return kms(name, own or unit, key)
    try:
        told = kms(name, unit) if (unit or "").strip() else None
    except ValueError:
        told = None
    said = kms(name, velocities)
    if told is not None and abs(told / said - 1) > 1e-6:
        raise ValueError(f"{name} is in {unit!r} as its file says, velocity_unit is {velocities}: say {key}, its unit")
    return said


def _read_images(files: TracerFiles, folder: Path, about: GalaxyFile) -> _Read:
    rows = Bins(files.bins, folder, files.bin_id or files.bin, files.bins_start_at) if files.bins else None
    wanted = {key: name for key in _MAPS if (name := getattr(files, key)) is not None}
    binned = {key: name for key, name in wanted.items() if rows is not None and name in rows.columns}
    names = {key: name for key, name in wanted.items() if key not in binned} | ({"bin": files.bin} if binned else {})
    read = {key: image(name, folder) for key, name in names.items()}
    grids = {key: Grid.of(names[key], value.shape, header) for key, (value, header) in read.items()}
    images = {key: _in_kms(files, key, value, header.get("BUNIT")) for key, (value, header) in read.items()}
    told = None
    if "density" in images:
        own = next((g for g in (grids["density"], *grids.values()) if g.wcs is not None), grids["density"])
        unit = files.density_unit or read["density"][1].get("BUNIT")
        side = _side_arcsec(own, files.pixel_arcsec) if own.wcs is None else float(np.sqrt(np.prod(own.sides_arcsec())))
        told = read_density(files.density, images["density"], unit, side, about.distance_mpc)
        images["density"] = told.value
    first = "velocity" if "velocity" in images else "bin"
    values, grid, remarks = one_grid(images, grids, first, _HOWS, files.one_grid)
    x, y, side = _places(files, grid, about)
    if rows is not None and binned:
        row = rows.row_of(values.pop("bin"))
        for key, name in binned.items():
            value, unit = rows.spread(name, row)
            values[key] = _in_kms(files, key, value, unit)
            if key == "density":
                told = read_density(name, values[key], files.density_unit or unit, side, about.distance_mpc, bins=True)
                values[key] = told.value
    assert told is not None
    return _Read(values, x, y, side, told, remarks)


def _side_arcsec(grid: Grid, pixel_arcsec: float | None) -> float:
    """Side of a square pixel [arcsec], of its WCS or as said. Raises ValueError where they differ, or for others."""
    if grid.wcs is None:
        if pixel_arcsec is None:
            raise ValueError(
                f"{grid.name} has no celestial coordinates (WCS): say pixel_arcsec, the side of a pixel, and "
                "centre_pixel, or give a WCS"
            )
        return pixel_arcsec
    one, other = grid.sides_arcsec()
    if abs(one / other - 1) > 0.02:
        raise ValueError(f"{grid.name}: pixels are not square: {one:.3g} x {other:.3g} arcsec; rebin the maps first")
    side = float(np.sqrt(one * other))
    if pixel_arcsec is not None and abs(pixel_arcsec / side - 1) > 0.02:
        raise ValueError(
            f"{grid.name}: pixels are {side:.4g} arcsec wide in its WCS, and pixel_arcsec is {pixel_arcsec}"
        )
    return side


def _places(files: TracerFiles, grid: Grid, about: GalaxyFile) -> tuple[np.ndarray, np.ndarray, float]:
    """Offsets x, y (Y, X) [arcsec] of an image's pixels from the centre, and their side."""
    side = _side_arcsec(grid, files.pixel_arcsec)
    iy, ix = np.indices(grid.shape)
    at = files.centre_pixel
    if grid.wcs is None:
        if at is None:
            raise ValueError(f"{grid.name} has no celestial coordinates (WCS): say centre_pixel: [x, y], from 1")
        return side * (ix + 1 - at[0]), side * (iy + 1 - at[1]), side
    place = grid.wcs.pixel_to_world(ix, iy)
    if at is not None:
        centre = grid.wcs.pixel_to_world(at[0] - 1, at[1] - 1)
    elif about.centre_deg is not None:
        centre = SkyCoord(*about.centre_deg, unit="deg", frame="icrs").transform_to(place.frame)
    else:
        raise ValueError("centre_deg: [right ascension, declination] is needed for maps with a WCS")
    x, y = (offset.to_value("arcsec") for offset in centre.spherical_offsets_to(place))
    return x, y, side


def _read_table(files: TracerFiles, folder: Path, about: GalaxyFile) -> _Read:
    name = str(files.table)
    found = columns(name, folder)
    rows = Bins(files.bins, folder, files.bin_id or files.bin, files.bins_start_at) if files.bins else None
    wanted = {key: one for key in (*_MAPS, "x", "y") if (one := getattr(files, key)) is not None}
    binned = set()
    if rows is not None and files.bin in found:
        row = rows.row_of(found[files.bin][0])
        binned = {n for n in wanted.values() if n in rows.columns and n not in found}
        found |= {n: rows.spread(n, row) for n in binned}
    if missing := [one for one in wanted.values() if one not in found]:
        raise ValueError(f"{name} has no column {', '.join(missing)}; there are {', '.join(found)}")
    x, y = _offsets(files, about, *(found[wanted.pop(key)] for key in ("x", "y")))
    values = {key: _in_kms(files, key, *found[one]) for key, one in wanted.items()}
    there = np.isfinite(x) & np.isfinite(y)
    x, y, values = x[there], y[there], {key: value[there] for key, value in values.items()}
    if files.rows == "bins":
        x, y, bin_, side = tiled(x, y)
        values = {key: value[bin_] for key, value in values.items()}
    else:
        side = spaxel_side(x, y, name, files.pixel_arcsec)
    unit, bins = files.density_unit or found[files.density][1], files.rows == "bins" or files.density in binned
    told = read_density(files.density, values["density"], unit, side, about.distance_mpc, bins)
    values["density"] = told.value
    return _Read(values, x, y, side, told)


def _offsets(
    files: TracerFiles, about: GalaxyFile, x: tuple[np.ndarray, str | None], y: tuple[np.ndarray, str | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [arcsec] of a table's rows from the centre; of right ascensions and declinations where they are those."""
    names, both = (files.x, files.y), (x, y)
    units = [files.xy_unit or unit for _, unit in both]
    pixel = files.pixel_arcsec
    along = [v * arcsec(n, u, about.distance_mpc, pixel) for n, u, (v, _) in zip(names, units, both, strict=True)]
    if about.centre_deg is not None and all(units):
        middle = np.array([np.nanmedian(v) for v in along])
        if np.linalg.norm(middle - 3600 * np.array(about.centre_deg)) < np.linalg.norm(middle):
            sky = SkyCoord(*along, unit="arcsec", frame="icrs")
            away = SkyCoord(*about.centre_deg, unit="deg", frame="icrs").spherical_offsets_to(sky)
            return away[0].to_value("arcsec"), away[1].to_value("arcsec")
    centre = list(about.centre_arcsec)
    if files.centre_pixel is not None:
        if pixel is None:
            raise ValueError("centre_pixel of a table needs pixel_arcsec")
        centre = [pixel * v for v in files.centre_pixel]
    return along[0] - centre[0], along[1] - centre[1]
