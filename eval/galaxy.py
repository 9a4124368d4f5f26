"""The description of an observed galaxy, a YAML file, and its FITS maps as pixels on the sky."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from eval.sky import SkyMap
from gen.yamlfile import read_checked

_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TracerFiles(_Section):
    """Where one tracer's maps are. A map is `FILE`, `FILE[EXTENSION]` or `FILE[EXTENSION,PLANE]` of a cube.

    With `table`, a FITS table of spaxels, maps are names of its columns.
    """

    velocity: str
    density: str
    dispersion: str | None = None
    table: str | None = None
    x: str = "X"  # columns of a table: offsets from the centre [arcsec], +x to the east or the west alike
    y: str = "Y"
    mask: str | None = None  # not zero: not to be used
    velocity_error: str | None = None  # to cut by
    velocity_ivar: str | None = None  # the same as an inverse variance
    density_is: Literal["surface_density", "peak"] = "surface_density"  # peak of a line: times its width
    density_msun_kpc2: PositiveFloat | None = None  # of one unit of density
    total_mass_msun: PositiveFloat | None = None  # of all that is seen, instead
    dispersion_is: Literal["sigma", "fwhm"] = "sigma"
    instrument_sigma_kms: NonNegativeFloat = 0.0  # taken out in quadrature
    blank: float | None = None  # a value that means none, besides NaN and the header's BLANK
    within_kms: PositiveFloat | None = None  # of the systemic velocity; what is farther off is noise
    max_velocity_error_kms: PositiveFloat | None = None
    beam_fwhm_arcsec: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> "TracerFiles":
        if self.density_msun_kpc2 and self.total_mass_msun:
            raise ValueError("give density_msun_kpc2 or total_mass_msun, not both")
        if self.velocity_error and self.velocity_ivar:
            raise ValueError("give velocity_error or velocity_ivar, not both")
        if self.max_velocity_error_kms and not (self.velocity_error or self.velocity_ivar):
            raise ValueError("max_velocity_error_kms needs velocity_error or velocity_ivar")
        if self.density_is == "peak" and not self.dispersion:
            raise ValueError("density_is: peak needs the line's width, dispersion")
        return self


class GalaxyFile(_Section):
    """An observed galaxy. Errors are standard deviations."""

    name: str = Field(pattern=r"^[A-Za-z0-9+. _-]+$")
    distance_mpc: PositiveFloat
    distance_error_mpc: NonNegativeFloat = 0.0
    half_light_radius_arcsec: PositiveFloat  # projected, of the stars
    half_light_radius_error_arcsec: NonNegativeFloat = 0.0
    centre_deg: tuple[float, float] | None = None  # right ascension, declination; of maps with a WCS
    centre_arcsec: tuple[float, float] = (0.0, 0.0)  # x, y of tables
    centre_error_arcsec: NonNegativeFloat = 0.0
    systemic_kms: float | None = None
    gas: TracerFiles | None = None
    stars: TracerFiles | None = None

    @model_validator(mode="after")
    def _has_maps(self) -> "GalaxyFile":
        if self.gas is None and self.stars is None:
            raise ValueError("give maps of `gas`, of `stars` or of both")
        return self


@dataclass(frozen=True)
class ObservedGalaxy:
    """A galaxy's maps and what is known of it. Densities are in Msun/kpc^2 where `calibrated` names the tracer."""

    name: str
    distance_mpc: float
    half_light_radius_arcsec: float
    gas: SkyMap | None = None
    stars: SkyMap | None = None
    distance_error_mpc: float = 0.0
    half_light_radius_error_arcsec: float = 0.0
    centre_error_arcsec: float = 0.0
    calibrated: frozenset[str] = frozenset()

    def maps(self) -> dict[str, SkyMap]:
        """The tracers that were observed."""
        return {name: sky for name in ("stars", "gas") if (sky := getattr(self, name)) is not None}


def read_galaxy(path: Path) -> ObservedGalaxy:
    """The galaxy that a YAML file describes; files are looked for beside it.

    Raises ValueError in one sentence for a file that is damaged, of another shape or empty, or OSError.
    """
    about = read_checked(path, GalaxyFile)
    found: dict[str, SkyMap] = {}
    calibrated = set()
    for tracer in ("gas", "stars"):
        files: TracerFiles | None = getattr(about, tracer)
        if files is None:
            continue
        try:
            found[tracer] = _sky_map(files, path.parent, about)
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            raise ValueError(f"{path}: {tracer}: {error}") from error
        if files.density_msun_kpc2 or files.total_mass_msun:
            calibrated.add(tracer)
    return ObservedGalaxy(
        about.name, about.distance_mpc, about.half_light_radius_arcsec, found.get("gas"), found.get("stars"),
        about.distance_error_mpc, about.half_light_radius_error_arcsec, about.centre_error_arcsec,
        frozenset(calibrated),
    )  # fmt: skip


def _sky_map(files: TracerFiles, folder: Path, about: GalaxyFile) -> SkyMap:
    if files.table is not None:
        values, x, y, side = _read_table(files, folder)
        x, y = x - about.centre_arcsec[0], y - about.centre_arcsec[1]
    else:
        values, x, y, side = _read_images(files, folder, about.centre_deg)
    if files.blank is not None:
        values = {k: np.where(np.isclose(v, files.blank), np.nan, v) for k, v in values.items()}
    good = np.ones(x.shape, bool)
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
            sigma = np.where(sigma > 0, np.sqrt(np.maximum(sigma**2 - files.instrument_sigma_kms**2, 0.0)), np.nan)
    if files.within_kms is not None:
        if about.systemic_kms is None:
            raise ValueError("within_kms needs systemic_kms of the galaxy")
        good &= np.abs(velocity - about.systemic_kms) <= files.within_kms
    velocity = np.where(good, velocity, np.nan)
    sky = SkyMap(x, y, side, density, velocity, sigma, files.beam_fwhm_arcsec)
    kpc = about.distance_mpc * 1e3 * np.radians(1 / 3600)
    factor = files.density_msun_kpc2 or 1.0
    if files.total_mass_msun:
        factor = files.total_mass_msun / (sky.density.sum() * (side * kpc) ** 2)
    return SkyMap(
        sky.x_arcsec, sky.y_arcsec, side, factor * sky.density, sky.velocity_kms, sky.dispersion_kms,
        files.beam_fwhm_arcsec,
    )  # fmt: skip


_MAPS = ("velocity", "density", "dispersion", "mask", "velocity_error", "velocity_ivar")


def _open(path: Path) -> fits.HDUList:
    try:
        # Headers and data as they are: no scaling by code, no pickles; files whose last block is short are common.
        return fits.open(path, ignore_missing_end=True, memmap=False)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as FITS ({error})") from error


def _named(name: str) -> tuple[str, Any, int | None]:
    """File, extension and plane of `FILE[EXTENSION,PLANE]`."""
    found = re.fullmatch(r"(.+?)(?:\[([^\],]+)(?:,\s*(\d+))?\])?", name)
    if found is None:
        raise ValueError(f"{name!r} is not FILE, FILE[EXTENSION] or FILE[EXTENSION,PLANE]")
    file, extension, plane = found.groups()
    return file, int(extension) if (extension or "").isdigit() else extension, None if plane is None else int(plane)


def _image(name: str, folder: Path) -> tuple[np.ndarray, fits.Header]:
    file, extension, plane = _named(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # headers off the standard, which it mends
        with _open(folder / file) as hdus:
            if extension is None:
                extension = next((i for i, h in enumerate(hdus) if h.is_image and h.header.get("NAXIS", 0) >= 2), None)
                if extension is None:
                    raise ValueError(f"{file} holds no image")
            if extension not in hdus if isinstance(extension, str) else extension >= len(hdus):
                raise ValueError(f"{file} has no extension {extension}; there are {', '.join(h.name for h in hdus)}")
            try:
                data, header = hdus[extension].data, hdus[extension].header
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"{file} is damaged ({error})") from error
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "fiub":
        raise ValueError(f"{name} is no image")
    data = np.squeeze(data)
    if plane is not None:
        if data.ndim != 3 or plane >= len(data):
            raise ValueError(f"{name}: there is no plane {plane} in data of shape {data.shape}")
        data = data[plane]
    if data.ndim != 2:
        raise ValueError(f"{name} has shape {data.shape}, not that of an image; choose a plane, FILE[EXTENSION,PLANE]")
    values = data.astype(float)
    if "BLANK" in header and data.dtype.kind == "f":  # off the standard, and common
        values[np.isclose(values, float(header["BLANK"]))] = np.nan
    return values, header


def _read_images(
    files: TracerFiles, folder: Path, centre_deg: tuple[float, float] | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, float]:
    values, header = {}, None
    for key in _MAPS:
        if (name := getattr(files, key)) is not None:
            values[key], one = _image(name, folder)
            header = one if key == "velocity" else header
    shapes = {key: v.shape for key, v in values.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"images differ in shape: {', '.join(f'{k} {s}' for k, s in shapes.items())}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        wcs = WCS(header).celestial
    if not wcs.has_celestial:
        raise ValueError(f"{files.velocity} has no celestial coordinates (WCS)")
    if centre_deg is None:
        raise ValueError("centre_deg: [right ascension, declination] is needed for maps with a WCS")
    scales = 3600 * proj_plane_pixel_scales(wcs)
    if abs(scales[0] / scales[1] - 1) > 0.02:
        raise ValueError(f"pixels are not square: {scales[0]:.3g} x {scales[1]:.3g} arcsec; rebin the maps first")
    rows, columns = np.indices(values["velocity"].shape)
    place = wcs.pixel_to_world(columns, rows)
    centre = SkyCoord(*centre_deg, unit="deg", frame="icrs").transform_to(place.frame)
    x, y = (offset.to_value("arcsec") for offset in centre.spherical_offsets_to(place))
    return values, x, y, float(np.sqrt(scales[0] * scales[1]))


def _read_table(files: TracerFiles, folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, float]:
    file, extension, _ = _named(str(files.table))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with _open(folder / file) as hdus:
            tables = [h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)]
            if extension is not None:
                tables = [h for i, h in enumerate(hdus) if extension in (i, h.name) and h in tables]
            if not tables:
                raise ValueError(f"{files.table} holds no such table")
            data, known = tables[0].data, tables[0].columns.names
            wanted = {key: name for key in (*_MAPS, "x", "y") if (name := getattr(files, key)) is not None}
            if missing := [name for name in wanted.values() if name not in known]:
                raise ValueError(f"{file} has no column {', '.join(missing)}; there are {', '.join(known)}")
            values = {key: np.asarray(data[name], float) for key, name in wanted.items()}
    if not len(values["x"]) or any(v.ndim != 1 for v in values.values()):
        raise ValueError(f"{file}: columns must hold one number a row, and there must be rows")
    x, y = values.pop("x"), values.pop("y")
    steps = np.diff(np.unique(np.round(x[np.isfinite(x)], 4)))
    if not len(steps):
        raise ValueError(f"{file}: all spaxels lie at one x")
    return values, x, y, float(np.median(steps))
