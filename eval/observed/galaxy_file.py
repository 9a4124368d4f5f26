"""The description of an observed galaxy, a YAML file, as a checked model."""

from typing import Any, Literal

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.cosmology import Planck18
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from kinmass.eval.observed.fits_units import kms2_per_unit, kms_per_unit
from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truths(cls, content: Any) -> Any:
        """Refuse `true` and `false` for numbers, which they would be: 1 and 0."""
        for key, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field is not None and field.annotation not in (bool, str):
                raise ValueError(f"{key} must not be {str(value).lower()}: leave it out where it is not known")
        return content


#: Sizes R_e that galaxies have [kpc], compact dwarfs and cD galaxies included; and a redshift that no map was taken at.
SMALLEST_KPC, LARGEST_KPC, FARTHEST = 0.02, 150.0, 15.0
#: Typical motion of a galaxy against the expansion, along the line of sight [km/s] (Davis et al. 2011, ApJ 741, 67).
PECULIAR_KMS = 300.0
#: No angular diameter distance is larger [Mpc], and the redshift that has it (Planck 2018's cosmology).
LARGEST_DISTANCE_MPC, FARTHEST_ANGLE = 1800.0, 1.6


class TracerFiles(_Section):
    """Where the maps of one tracer are. A map is `FILE`, `FILE[EXTENSION]` or `FILE[EXTENSION,PLANE]` of a cube.

    In an HDF5 file an extension is a dataset or a group, such as `maps.h5[gas/velocity]`; in one of numpy
    an array, `maps.npz[V]`.

    A plane is its number, from 0, or its name in the header (`C24 = 'Ha-6564'`), whose units count for it alone.

    With `table`, a table of spaxels or bins, maps are names of its columns; `V[2]` is an element of a column of
    vectors, counted from 0. With `bins`, a table of Voronoi bins, maps
    may be names of its columns too. Raises pydantic's ValidationError for keys that contradict each other.
    """

    velocity: str
    """Map of the mean velocity along the line of sight."""
    density: str | None = None
    """Map of light or mass, per area or per pixel, in any unit, magnitudes and logarithms too. Where left out,
    only the places of the tracer count."""
    dispersion: str | None = None
    """Map of the velocity dispersion; may be left out for networks trained with `--no-dispersion`."""
    table: str | None = None
    """A table (FITS, ECSV, VOTable, HDF5, numpy, or text: .csv, .tsv, .txt, .dat, .tbl, .mrt) instead of images; maps
    are then names of its columns."""
    x: str = "X"
    """Column of `table`: offset from the centre, +x to the east (or, of one tracer alone, west), or right ascension."""
    y: str = "Y"
    """Column of `table`: offset from the centre, or declination."""
    xy_unit: str | None = None
    """Unit of x and y. Where left out: the columns' own, or arcsec."""
    rows: Literal["spaxels", "bins"] = "spaxels"
    """Whether x and y of `table` are places of spaxels or centres of bins. With `bins`, every place belongs to
    the nearest."""
    pixel_arcsec: PositiveFloat | None = None
    """Side of a pixel, where no header (WCS, or CDELT and CUNIT) and no grid of spaxels tells it."""
    centre_pixel: tuple[float, float] | None = None
    """Centre in an image, as DS9 counts: the first pixel is 1, 1. Instead of `centre_deg`. Of a table whose x and y
    count pixels, in its own numbers: 0, 0 is the first pixel where they begin with 0."""
    one_grid: bool = False
    """Pixels of one index are one place in all images, whatever their WCS say, or fail to say."""
    bins: str | None = None
    """A table with one row per Voronoi bin; maps may be its columns too."""
    bin: str = "BIN_ID"
    """Number of each spaxel's bin: a column of `table`, or an image."""
    bin_id: str | None = None
    """Column of `bins` that holds the bin's number, where it has another name than `bin`. Where left out: `BIN_ID` or
    the like, else the only column that holds the spaxels' numbers, else rows are counted."""
    bins_start_at: Literal[0, 1] | None = None
    """Bin number of the first row of `bins`, where no column holds it; else of the lowest number in that column."""
    mask: str | list[str] | None = None
    """Map of pixels to leave out: those that are not zero. Or a list of such maps, as surveys have one for each map."""
    mask_is: Literal["bad", "good"] = "bad"
    """`good` turns the mask round: pixels that are zero are left out."""
    velocity_error: str | None = None
    """Map of the velocity's standard deviation. Networks that know how a view was taken are told it."""
    velocity_ivar: str | None = None
    """Map of its inverse variance, instead of `velocity_error`."""
    dispersion_error: str | None = None
    """Map of the standard deviation of what `dispersion` holds. Told to networks, as `velocity_error` is."""
    dispersion_ivar: str | None = None
    """Map of its inverse variance, instead of `dispersion_error`."""
    density_is: Literal["surface_density", "peak", "bin_total"] = "surface_density"
    """`peak`: of a line, which is multiplied by its width. `bin_total`: of each bin as a whole, as of lines in GIST's
    bins, which is divided by the number of its pixels."""
    density_msun_kpc2: PositiveFloat | None = None
    """Msun/kpc^2 in one unit of `density`, where the unit does not tell. Needed by networks that look at
    absolute densities."""
    total_mass_msun: PositiveFloat | None = None
    """Mass in all pixels that are used, instead of `density_msun_kpc2`."""
    dispersion_is: Literal["sigma", "fwhm"] = "sigma"
    """Whether `dispersion` holds sigma or the full width at half maximum."""
    velocity_unit: str | None = None
    """Unit of the velocity, and of dispersions and errors without one of their own. Where left out: the file's
    (BUNIT, TUNIT, or in brackets after the name of a column, `V [m/s]`), or km/s."""
    dispersion_unit: str | None = None
    """Unit of the dispersion, and of its errors and the instrument's width where their files tell none. Of a squared
    velocity, km2/s2, it is a variance."""
    velocity_error_unit: str | None = None
    """Unit of `velocity_error`, of a squared velocity where it is a variance; `velocity_ivar` is in this unit to the
    power of -2. Where neither is given, that of the dispersion's error."""
    density_unit: str | None = None
    """Unit of the density, such as Msun/pc2, mag/arcsec2, dex, arbitrary. Where left out: the file's."""
    convention: Literal["rest", "optical", "radio"] = "rest"
    """`optical` (c z) or `radio`: V and sigma are brought into the galaxy's frame. `rest`: they are in it. Where left
    out, of V beyond 3000 km/s: what its header says (CTYPE3 = VRAD, VOPT or FELO, or VELREF), or `rest`."""
    instrument_sigma_kms: NonNegativeFloat = 0.0
    """The instrument's dispersion, in the `convention` of the dispersion, taken out in quadrature."""
    instrument_sigma: str | None = None
    """The same as a map, instead of `instrument_sigma_kms`."""
    blank: float | list[float] | None = None
    """Value, or values, of pixels without a measurement, besides NaN and BLANK in headers. Not of masks."""
    within_kms: PositiveFloat | None = None
    """Pixels farther than this from `systemic_kms` are left out."""
    max_velocity_error_kms: PositiveFloat | None = None
    """Pixels whose velocity is less certain than this are left out."""
    beam_fwhm_arcsec: NonNegativeFloat | None = None
    """Full width at half maximum of the beam. Where left out: what headers say (BMAJ and BMIN, a table BEAMS,
    GIPSY's BMMAJ, AIPS's HISTORY)."""

    @model_validator(mode="after")
    def _consistent(self) -> "TracerFiles":
        if self.density_msun_kpc2 and self.total_mass_msun:
            raise ValueError("give density_msun_kpc2 or total_mass_msun, not both")
        for what in ("velocity", "dispersion"):
            if getattr(self, f"{what}_error") and getattr(self, f"{what}_ivar"):
                raise ValueError(f"give {what}_error or {what}_ivar, not both")
        if (self.dispersion_error or self.dispersion_ivar) and not self.dispersion:
            raise ValueError("an error of the dispersion needs the dispersion")
        if self.density is None and (self.density_msun_kpc2 or self.total_mass_msun or self.density_unit):
            raise ValueError("density_msun_kpc2, total_mass_msun and density_unit need density")
        if self.max_velocity_error_kms and not (self.velocity_error or self.velocity_ivar):
            raise ValueError("max_velocity_error_kms needs velocity_error or velocity_ivar")
        if self.density_is == "peak" and not (self.dispersion and self.density):
            raise ValueError("density_is: peak needs density, and the line's width, dispersion")
        if self.density_is == "bin_total" and not self.density:
            raise ValueError("density_is: bin_total needs density")
        if self.instrument_sigma and self.instrument_sigma_kms:
            raise ValueError("give instrument_sigma_kms or instrument_sigma, not both")
        if self.table is None and (self.rows == "bins" or self.xy_unit):
            raise ValueError("rows: bins and xy_unit need table")
        if self.table is not None and self.one_grid:
            raise ValueError("one_grid is for images, not for a table")
        if self.bins is None and (self.bin_id or self.bins_start_at is not None):
            raise ValueError("bin_id and bins_start_at need bins, a table with one row per bin")
        may_be_square = {
            "dispersion_unit": self.dispersion_is == "sigma",
            "velocity_error_unit": not self.velocity_ivar,
        }
        for key in ("velocity_unit", "dispersion_unit", "velocity_error_unit"):
            if not (may_be_square.get(key) and kms2_per_unit(getattr(self, key)) is not None):
                kms_per_unit(key.removesuffix("_unit"), getattr(self, key), key)
        return self


def _source(files: TracerFiles) -> tuple[str | None, str | None, str]:
    return files.table, files.bins, files.velocity


class GalaxyFile(_Section):
    """The YAML file of an observed galaxy. Errors are standard deviations."""

    name: str = Field(coerce_numbers_to_str=True)
    """Name of the galaxy: a line with a letter or a digit. Results are written into a folder of the file's name."""
    distance_mpc: PositiveFloat | None = None
    """Angular diameter distance. Give this or `redshift`."""
    distance_error_mpc: NonNegativeFloat | None = None
    """Its error."""
    redshift: PositiveFloat | None = None
    """Instead of `distance_mpc`: by Planck 2018's cosmology, with an error for 300 km/s of own motion."""
    inclination_deg: float | None = Field(default=None, ge=0, le=90)
    """Inclination of the gas disc, 0 face on, for its rotation curve, and for a density in no unit of mass."""
    inclination_error_deg: NonNegativeFloat = 0.0
    """Its error."""
    half_light_radius_arcsec: PositiveFloat
    """Projected half-light radius of the stars, R_e: the networks' unit of length. It is that of a circle: multiply a
    radius along the major axis by the root of the axis ratio."""
    half_light_radius_error_arcsec: NonNegativeFloat = 0.0
    """Its error."""
    centre_deg: tuple[float, float] | None = None
    """Right ascension and declination of the centre, for images with a WCS and tables of right ascensions."""
    centre_arcsec: tuple[float, float] = (0.0, 0.0)
    """Centre of tables of offsets, in their x and y."""
    centre_error_arcsec: NonNegativeFloat = 0.0
    """Error of the centre along x and along y."""
    systemic_kms: float | None = None
    """Systemic velocity, as the files count V (0 where it is about a mean), for `within_kms`; and for `convention`
    where no redshift is known. Networks take the mean out themselves."""
    gas: TracerFiles | None = None
    """The maps of the gas. Give gas, stars or both."""
    stars: TracerFiles | None = None
    """The maps of the stars."""

    @field_validator("centre_deg", mode="before")
    @classmethod
    def _is_in_degrees(cls, centre: Any) -> Any:
        """Refuse hours and minutes, with what they are in degrees."""
        text = " ".join(map(str, centre)) if isinstance(centre, list | tuple) else str(centre)
        if not any(mark in text for mark in ":hms"):
            return centre
        try:
            place = SkyCoord(text.replace(",", " "), unit=("hourangle", "deg"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"must be [right ascension, declination] in degrees, not {text}") from error
        raise ValueError(f"must be in degrees: {text} is [{place.ra.deg:.6f}, {place.dec.deg:.6f}]")

    @model_validator(mode="after")
    def _has_maps(self) -> "GalaxyFile":
        if not (self.name.isprintable() and any(map(str.isalnum, self.name))) or set(self.name) & set("$/\\"):
            raise ValueError(f"name {self.name!r} must be a line with a letter or a digit, without $, / and \\")
        if self.gas is None and self.stars is None:
            raise ValueError("give maps of `gas`, of `stars` or of both")
        if self.gas and self.stars and _source(self.gas) == _source(self.stars):
            raise ValueError(f"gas and stars have one velocity, {self.gas.velocity}: give each its own, or one tracer")
        if self.centre_deg and not (-360 <= self.centre_deg[0] <= 360 and -90 <= self.centre_deg[1] <= 90):
            raise ValueError(
                f"centre_deg [{self.centre_deg[0]:g}, {self.centre_deg[1]:g}] must be right ascension and declination, "
                "both in degrees"
            )
        if (self.distance_mpc is None) == (self.redshift is None):
            raise ValueError("give either distance_mpc, the angular diameter distance, or redshift")
        tracers = [files for files in (self.gas, self.stars) if files is not None]
        if any(self.centre_arcsec) and not any(files.table and files.centre_pixel is None for files in tracers):
            raise ValueError(
                "centre_arcsec is the centre of tables of offsets, and there is none: say centre_deg for images with a "
                "WCS, centre_pixel for other images and for tables that count pixels"
            )
        if self.inclination_error_deg and self.inclination_deg is None:
            raise ValueError("inclination_error_deg needs inclination_deg")
        if self.redshift is not None and self.redshift > FARTHEST:
            raise ValueError(f"redshift {self.redshift:g} is no galaxy's: is it c z in km/s? give z")
        r_e_kpc = self.half_light_radius_arcsec * self.distance()[0] * KPC_PER_ARCSEC_MPC
        if not SMALLEST_KPC <= r_e_kpc <= LARGEST_KPC:
            raise ValueError(
                f"half_light_radius_arcsec {self.half_light_radius_arcsec:g} at {self.distance()[0]:.4g} Mpc is "
                f"{r_e_kpc:.3g} kpc, an R_e that no galaxy has: is the radius in arcsec, and the distance in Mpc?"
            )
        if self.distance_mpc is not None and self.distance_mpc > LARGEST_DISTANCE_MPC:
            raise ValueError(
                f"distance_mpc {self.distance_mpc:g} is larger than any angular diameter distance: is it a luminosity "
                "distance? divide that by (1 + z)^2, or give redshift instead"
            )
        return self

    def least_redshift(self) -> float:
        """Return the redshift, or the lowest at which a galaxy has the angular diameter distance (Planck 2018)."""
        if self.redshift is not None:
            return self.redshift
        redshifts = np.linspace(0.0, FARTHEST_ANGLE, 161)
        return float(
            np.interp(self.distance()[0], Planck18.angular_diameter_distance(redshifts).to_value("Mpc"), redshifts)
        )

    def distance(self) -> tuple[float, float]:
        """Return the angular diameter distance and its standard error [Mpc].

        From a redshift by Planck 2018's cosmology (arXiv:1807.06209), with the error that a galaxy's own motion makes
        where none is given.
        """
        if self.distance_mpc is not None:
            return self.distance_mpc, self.distance_error_mpc or 0.0
        assert self.redshift is not None
        distance_mpc = float(Planck18.angular_diameter_distance(self.redshift).to_value("Mpc"))
        own_motion_mpc = PECULIAR_KMS / float(Planck18.H0.to_value("km/(s Mpc)"))
        error_mpc = self.distance_error_mpc
        return distance_mpc, own_motion_mpc if error_mpc is None else error_mpc
