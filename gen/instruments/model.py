"""The description of an instrument: numbers, or ranges from which each look at a view draws its own."""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    model_validator,
)

#: Least number of pixels along a side of an observed map.
MIN_PIXELS = 4
#: A loss that is drawn leaves at least so many pixels of a tracer, or does not happen.
FEWEST_PIXELS = 12


def _number(low: float = -math.inf, high: float = math.inf, above: bool = False) -> PlainValidator:
    """Return the check of a number, or range, from low (or above it) to high."""

    def check(value: object) -> float | tuple[float, float]:
        """Return a number, or the two ends of a range. Raises ValueError that says what is allowed."""
        ends = [_as_number(end) for end in (value if isinstance(value, list | tuple) else [value])]
        limits = f"{'above' if above else 'at least'} {low:g}" if low > -math.inf else "a number"
        limits += f" and at most {high:g}" if high < math.inf else ""
        for end in ends:
            if not low <= end <= high or (above and end == low):
                raise ValueError(f"must be {limits}, or a range [low, high] of such numbers, not {value}")
        if len(ends) == 1 and not isinstance(value, list | tuple):
            return ends[0]
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise ValueError(f"a range is two numbers, the smaller one first: [low, high], not {value}")
        return ends[0], ends[1]

    return PlainValidator(check)


def _as_number(value: object) -> float:
    """Return a finite number, also of a text such as "3e5"; NaN for what is none."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


#: A number, or a range [low, high] from which every look at a view draws its own: uniform in the logarithm where both
#: ends are positive, else uniform.
Range = float | tuple[float, float]
_PLAIN = PlainSerializer(lambda value: value, return_type=Any)
AnyNumber = Annotated[Range, _number(), _PLAIN]
Number = Annotated[Range, _number(0.0), _PLAIN]
PositiveNumber = Annotated[Range, _number(0.0, above=True), _PLAIN]
ShareOfPixels = Annotated[Range, _number(0.0, 1.0), _PLAIN]
_Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of an instrument's YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def varies(self) -> bool:
        """Whether looks at a view differ in more than their noise, so that each needs random numbers of its own."""
        return any(_varies(name, getattr(self, name)) for name in type(self).model_fields)


def _varies(name: str, value: Any) -> bool:
    if isinstance(value, Section):
        return value.varies()
    if name == "particles":
        return value is not None
    return isinstance(value, tuple) or (name in _SHARES_OF_LOOKS and 0 < value < 1) or (name in _DRAWN and value > 0)


#: Fields that are shares of looks, and fields of which a number above zero is drawn around or drawn with.
_SHARES_OF_LOOKS = frozenset(
    {
        "correlated",
        "binned",
        "faded",
        "holed",
        "no_dispersion",
        "no_density",
        "unknown_errors",
        "unknown_psf",
        "uncertain_density",
        "thinned",
        "share",
        "complete",
    }
)
_DRAWN = frozenset({"density_dex", "centre_error_re", "lost_pixels"})


class TracerNoise(Section):
    """Errors, cuts and losses of one tracer. With the defaults a view is perfect."""

    velocity_error_kms: Number = 0.0
    """Error of V and of sigma per observed pixel, at the mean density inside R_e."""
    error_slope: AnyNumber = 0.0
    """The error grows as (Sigma / that mean)^-slope towards faint pixels."""
    mask_below_mean: Number = 0.0
    """Pixels below this fraction of the mean density inside R_e are lost."""
    mask_below_msun_kpc2: Number = 0.0
    """Pixels below this surface density are lost."""
    min_particles: NonNegativeInt = 0
    """Observed pixels with fewer particles are lost (counted before the PSF, by particle centres)."""
    instrument_sigma_kms: Number = 0.0
    """Resolution: taken out of sigma in quadrature, so errors grow where sigma is below it."""
    correlated: _Share = 0.0
    """Share of looks whose errors are alike over a PSF."""
    bin_to_kms: PositiveNumber | None = None
    """Pixels are joined, up to 4 x 4, until V is known to this."""
    binned: _Share = 1.0
    """Share of looks that are binned."""
    kept_pixels: ShareOfPixels = 1.0
    """Share of the pixels that are seen: the brightest, a dozen at least."""
    most_pixels: PositiveNumber | None = None
    """Number of pixels that are seen at most: the brightest."""
    faded: _Share = 1.0
    """Share of looks to which `kept_pixels` and `most_pixels` happen."""
    lost_pixels: ShareOfPixels = 0.0
    """Share of the pixels that are lost anywhere; a dozen at least are left."""
    holed: _Share = 1.0
    """Share of looks that lose them."""
    no_dispersion: _Share = 0.0
    """Share of looks without a dispersion."""
    no_density: _Share = 0.0
    """Share of looks that show where the tracer is, and not how much of it."""
    unknown_errors: _Share = 0.0
    """Share of looks of which a network is not told the errors."""
    density_dex: NonNegativeFloat = 0.0
    """Standard deviation of a factor on the density [dex]."""
    uncertain_density: _Share = 1.0
    """Share of looks whose density has that factor."""
    particles: PositiveNumber | None = None
    """Particles in the field; views that have more are thinned to so many."""
    thinned: _Share = 1.0
    """Share of looks that are thinned, the same of both tracers: simulations have one resolution."""


class PsfFwhm(Section):
    """Full width at half maximum of a round Gaussian PSF, in one of three units."""

    pixels: PositiveNumber | None = None
    """In stored pixels, before rebinning. Give one of the three."""
    re: PositiveNumber | None = None
    """In each view's R_e."""
    kpc: PositiveNumber | None = None
    """In kpc."""

    @model_validator(mode="after")
    def _one_of_three(self) -> "PsfFwhm":
        if [self.pixels, self.re, self.kpc].count(None) != 2:
            raise ValueError("give exactly one of `pixels`, `re` and `kpc`")
        return self


#: A footprint's shapes, by the number of their sides; a circle has none.
SHAPES = {"circle": 0, "square": 4, "hexagon": 6}


class Footprint(Section):
    """The part of the sky that is seen: pixels whose centres lie outside of it are lost.

    Every look turns it, and moves it in a direction of its own.
    """

    shape: Literal["circle", "square", "hexagon", "any"] = "circle"
    """Its shape; `any`: each look has one of the three."""
    radius_re: PositiveNumber
    """Radius of the circle, or from the middle to the sides [R_e]."""
    offset_re: Number = 0.0
    """From the galaxy's centre to its middle, in any direction [R_e]."""
    share: _Share = 1.0
    """Share of looks that end at a footprint."""

    def varies(self) -> bool:
        """Whether looks differ: circles about the centre that all looks have do not."""
        return self.is_open() or self.shape != "circle" or self.offset_re != 0.0

    def is_open(self) -> bool:
        """Whether looks have footprints of different size, or shape, or some have none."""
        ranges = isinstance(self.radius_re, tuple) or isinstance(self.offset_re, tuple)
        return ranges or self.shape == "any" or self.share < 1


class Instrument(Section):
    """A named noise model: a PSF, a footprint and a pixel grid that the tracers share, and the noise of each tracer.

    Where a number is a range, every look at a view draws its own, and so do angles.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Name in tables and run folders."""
    psf_fwhm: PsfFwhm | None = None
    """The PSF, which all tracers share."""
    unknown_psf: _Share = 0.0
    """Share of looks of which a network is not told the PSF."""
    centre_error_re: NonNegativeFloat = 0.0
    """Standard deviation of the centre along x and y [R_e]."""
    footprint: Footprint | None = None
    """The part of the sky that is seen."""
    complete: _Share = 0.0
    """Share of looks that lose nothing of what only some lose: they have no footprint, are not thinned, binned or
    faded, have no holes, and have a dispersion and a density."""
    field_of_view_re: PositiveFloat | None = None
    """Side of the observed field [R_e], at most the stored one. Where left out: the stored one."""
    rebin: int = Field(default=1, ge=1)
    """Stored pixels along a side of an observed one."""
    stars: TracerNoise = TracerNoise()
    """Noise of the stars."""
    gas: TracerNoise = TracerNoise()
    """Noise of the gas."""

    def sees_parts(self) -> bool:
        """Whether it loses more of a view than its faintest pixels: then fewer pixels make a view."""
        parts = any(
            noise.kept_pixels != 1.0 or noise.most_pixels is not None or noise.lost_pixels != 0.0
            for noise in (self.stars, self.gas)
        )
        return parts or self.footprint is not None

    def footprint_is_beyond(self, field_of_view_re: float) -> bool:
        """Whether maps of this width [R_e] end before its footprint does, which would cut off nothing but corners."""
        return self.footprint is not None and 2 * _least(self.footprint.radius_re) > 1.5 * field_of_view_re

    def grid(self, pixels: int, field_of_view_re: float) -> tuple[int, float]:
        """Pixels along a side and field of view [R_e] of the observed maps, from those of the stored maps.

        The observed field has the same centre and ends on pixel boundaries. Of the numbers of stored pixels that
        allow both and can be rebinned, the one nearest to the wanted field is taken, the larger of two equally near.
        Raises ValueError for a field or a footprint wider than the stored field, or too few pixels in either.
        """
        wanted_re = self.field_of_view_re or field_of_view_re
        if wanted_re > field_of_view_re:
            raise ValueError(
                f"instrument {self.name} looks at {wanted_re:g} R_e, the maps have {field_of_view_re:g}; "
                "lower its field_of_view_re"
            )
        if self.footprint and self.footprint_is_beyond(field_of_view_re):
            raise ValueError(
                f"instrument {self.name} has a footprint of {2 * _least(self.footprint.radius_re):g} R_e at least, the "
                f"maps have {field_of_view_re:g} and end before it; lower its radius_re, or leave the footprint out"
            )
        allowed = [n for n in range(pixels, 0, -1) if n % self.rebin == 0 and (pixels - n) % 2 == 0]
        side = min(allowed, key=lambda n: abs(n - pixels * wanted_re / field_of_view_re), default=0)
        if side < MIN_PIXELS * self.rebin:
            raise ValueError(
                f"instrument {self.name} makes {side // self.rebin} of {pixels} pixels over {field_of_view_re:g} R_e, "
                f"fewer than {MIN_PIXELS}; widen its field_of_view_re, lower its rebin, or map with more --pixels"
            )
        if self.footprint and self.footprint.is_open():
            across_pixels = 2 * _most(self.footprint.radius_re) / field_of_view_re * pixels / self.rebin
            if across_pixels**2 < FEWEST_PIXELS:
                raise ValueError(
                    f"instrument {self.name} has footprints of {across_pixels:.2g} pixels across at most: with fewer "
                    f"than {FEWEST_PIXELS} pixels they would never happen; widen its radius_re, lower its rebin, or "
                    "map with more --pixels"
                )
        return side // self.rebin, field_of_view_re * (side / pixels)


def _least(number: Range) -> float:
    return number[0] if isinstance(number, tuple) else number


def _most(number: Range) -> float:
    return number[1] if isinstance(number, tuple) else number
