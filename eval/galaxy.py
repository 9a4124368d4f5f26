"""The description of an observed galaxy, a YAML file, and its FITS maps as pixels on the sky."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from eval.fitsmaps import Bins, columns, image, kms
from eval.sky import SkyMap
from gen.constants import LIGHT_KMS
from gen.yamlfile import read_checked

_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TracerFiles(_Section):
    """Where one tracer's maps are. A map is `FILE`, `FILE[EXTENSION]` or `FILE[EXTENSION,PLANE]` of a cube.

    With `table`, a FITS table of spaxels, maps are names of its columns. With `bins`, a FITS table of Voronoi bins,
    they may be names of its columns too.
    """

    velocity: str
    density: str
    dispersion: str | None = None
    table: str | None = None
    x: str = "X"  # columns of a table: offsets from the centre [arcsec], +x to the east or the west alike
    y: str = "Y"
    bins: str | None = None  # a table with one row per bin
    bin: str = (
        "BIN_ID"  # the bin's number: a column of both tables, or an image; rows count from 0 where `bins` has none
    )
    mask: str | None = None  # not zero: not to be used
    velocity_error: str | None = None  # to cut by
    velocity_ivar: str | None = None  # the same as an inverse variance
    density_is: Literal["surface_density", "peak"] = "surface_density"  # peak of a line: times its width
    density_msun_kpc2: PositiveFloat | None = None  # of one unit of density
    total_mass_msun: PositiveFloat | None = None  # of all that is seen, instead
    dispersion_is: Literal["sigma", "fwhm"] = "sigma"
    velocity_unit: Literal["km/s", "m/s"] | None = None  # of velocities, dispersions and errors; else the files' own
    convention: Literal["rest", "optical", "radio"] = "rest"  # rest: differences are those in the galaxy's own frame
    instrument_sigma_kms: NonNegativeFloat = 0.0  # taken out in quadrature
    blank: float | None = None  # a value that means none, besides NaN and the header's BLANK
    within_kms: PositiveFloat | None = None  # of the systemic velocity; what is farther off is noise
    max_velocity_error_kms: PositiveFloat | None = None
    beam_fwhm_arcsec: NonNegativeFloat | None = None  # the velocity image's BMAJ and BMIN where left out

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
    """A galaxy's maps and what is known of it. Densities are in Msun/kpc^2 where `calibrated` names the tracer.

    Raises ValueError for a distance or radius that is none.
    """

    name: str
    distance_mpc: float
    half_light_radius_arcsec: float
    gas: SkyMap | None = None
    stars: SkyMap | None = None
    distance_error_mpc: float = 0.0
    half_light_radius_error_arcsec: float = 0.0
    centre_error_arcsec: float = 0.0
    calibrated: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("distance_mpc", "half_light_radius_arcsec"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("distance_error_mpc", "half_light_radius_error_arcsec", "centre_error_arcsec"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")

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
        values, x, y, side, beam = *_read_table(files, folder), 0.0
        x, y = x - about.centre_arcsec[0], y - about.centre_arcsec[1]
    else:
        values, x, y, side, beam = _read_images(files, folder, about.centre_deg)
    if files.beam_fwhm_arcsec is not None:
        beam = files.beam_fwhm_arcsec
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
    if files.convention != "rest":
        velocity, sigma = _at_rest(velocity, sigma, files.convention, about.systemic_kms)
    sky = SkyMap(x, y, side, density, velocity, sigma, beam)
    kpc = about.distance_mpc * 1e3 * np.radians(1 / 3600)
    factor = files.density_msun_kpc2 or 1.0
    if files.total_mass_msun:
        factor = files.total_mass_msun / (sky.density.sum() * (side * kpc) ** 2)
    return replace(sky, density=factor * sky.density)


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


_MAPS = ("velocity", "density", "dispersion", "mask", "velocity_error", "velocity_ivar")


def _cleaned(files: TracerFiles, found: dict[str, tuple[np.ndarray, str | None]]) -> dict[str, np.ndarray]:
    """Maps and their units to maps in km/s, NaN where there is none."""
    values = {}
    for key, (value, unit) in found.items():
        if files.blank is not None:
            value = np.where(np.isclose(value, files.blank), np.nan, value)
        if key in ("velocity", "dispersion", "velocity_error"):
            value = value * kms(getattr(files, key), files.velocity_unit or unit)
        elif key == "velocity_ivar" and files.velocity_unit == "m/s":
            value = value * 1e6
        values[key] = value
    return values


def _read_images(
    files: TracerFiles, folder: Path, centre_deg: tuple[float, float] | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, float, float]:
    rows = Bins(files.bins, folder, files.bin) if files.bins else None
    found, header = {}, None
    for key in _MAPS:
        if (name := getattr(files, key)) is None:
            continue
        if rows is not None and name in rows.columns:
            number, one = image(files.bin, folder)
            found[key] = rows.spread(name, number)
        else:
            value, one = image(name, folder)
            found[key] = value, one.get("BUNIT")
        header = one if key == "velocity" else header
    shapes = {key: v.shape for key, (v, _) in found.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"images differ in shape: {', '.join(f'{k} {s}' for k, s in shapes.items())}")
    assert header is not None
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
    iy, ix = np.indices(shapes["velocity"])
    place = wcs.pixel_to_world(ix, iy)
    centre = SkyCoord(*centre_deg, unit="deg", frame="icrs").transform_to(place.frame)
    x, y = (offset.to_value("arcsec") for offset in centre.spherical_offsets_to(place))
    beam = 3600 * np.sqrt(float(header.get("BMAJ", 0.0)) * float(header.get("BMIN", 0.0)))
    return _cleaned(files, found), x, y, float(np.sqrt(scales[0] * scales[1])), float(beam)


def _read_table(files: TracerFiles, folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, float]:
    found = columns(str(files.table), folder)
    rows = Bins(files.bins, folder, files.bin) if files.bins else None
    wanted = {key: name for key in (*_MAPS, "x", "y") if (name := getattr(files, key)) is not None}
    if rows is not None and files.bin in found:
        number = found[files.bin][0]
        found |= {n: rows.spread(n, number) for n in wanted.values() if n in rows.columns and n not in found}
    if missing := [name for name in wanted.values() if name not in found]:
        raise ValueError(f"{files.table} has no column {', '.join(missing)}; there are {', '.join(found)}")
    x, y = (found[wanted.pop(key)][0] for key in ("x", "y"))
    values = _cleaned(files, {key: found[name] for key, name in wanted.items()})
    steps = np.diff(np.unique(np.round(x[np.isfinite(x)], 4)))
    if not len(steps):
        raise ValueError(f"{files.table}: all spaxels lie at one x")
    return values, x, y, float(np.median(steps))
