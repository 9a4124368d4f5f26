"""The description of an observed galaxy, a YAML file, as a checked model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from kinmass.eval.observed.fits_units import kms


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
    x: str = "X"  # columns of a table: offsets from the centre, +x to the east or the west alike, or RA and Dec
    y: str = "Y"
    xy_unit: str | None = None  # of x and y; else the columns' own, or arcsec
    rows: Literal["spaxels", "bins"] = "spaxels"  # of a table: x and y are places of spaxels, or centres of bins
    pixel_arcsec: PositiveFloat | None = None  # side of a pixel: of images without a WCS, of rows on no grid
    centre_pixel: tuple[float, float] | None = None  # x, y of the centre in an image, whose first pixel is 1, 1
    one_grid: bool = False  # images' pixels are the same one by one, whatever their WCS say
    bins: str | None = None  # a table with one row per bin
    bin: str = "BIN_ID"  # the bin's number: a column of the table of spaxels, or an image
    bin_id: str | None = None  # the column of `bins` that holds it, where it has another name
    bins_start_at: Literal[0, 1] | None = None  # the number of the first row of `bins`, where no column holds it
    mask: str | None = None  # not zero: not to be used
    velocity_error: str | None = None  # to cut by
    velocity_ivar: str | None = None  # the same as an inverse variance
    density_is: Literal["surface_density", "peak"] = "surface_density"  # peak of a line: times its width
    density_msun_kpc2: PositiveFloat | None = None  # of one unit of density, where its unit does not tell
    total_mass_msun: PositiveFloat | None = None  # of all that is seen, instead
    dispersion_is: Literal["sigma", "fwhm"] = "sigma"
    velocity_unit: str | None = None  # of velocities, and of what has no unit of its own; else the files' own
    dispersion_unit: str | None = None
    velocity_error_unit: str | None = None  # of velocity_ivar, this to the power of -2
    density_unit: str | None = None  # as Msun/pc2, mag/arcsec2, dex, arbitrary; else the file's own
    convention: Literal["rest", "optical", "radio"] = "rest"  # rest: differences are those in the galaxy's own frame
    instrument_sigma_kms: NonNegativeFloat = 0.0  # taken out in quadrature
    instrument_sigma: str | None = None  # the same as a map
    blank: float | None = None  # a value that means none, besides NaN and the header's BLANK
    within_kms: PositiveFloat | None = None  # of the systemic velocity; what is farther off is noise
    max_velocity_error_kms: PositiveFloat | None = None
    beam_fwhm_arcsec: NonNegativeFloat | None = None  # what headers tell where left out

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
        if self.instrument_sigma and self.instrument_sigma_kms:
            raise ValueError("give instrument_sigma_kms or instrument_sigma, not both")
        if self.table is None and (self.rows == "bins" or self.xy_unit):
            raise ValueError("rows: bins and xy_unit need table")
        if self.table is not None and self.one_grid:
            raise ValueError("one_grid is for images, not for a table")
        if self.bins is None and (self.bin_id or self.bins_start_at is not None):
            raise ValueError("bin_id and bins_start_at need bins, a table with one row per bin")
        for key in ("velocity_unit", "dispersion_unit", "velocity_error_unit"):
            kms(key, getattr(self, key), key)
        return self


class GalaxyFile(_Section):
    """An observed galaxy. Errors are standard deviations."""

    name: str = Field(pattern=r"^[A-Za-z0-9+. _-]+$")
    distance_mpc: PositiveFloat  # angular diameter distance
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
