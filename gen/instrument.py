"""Instruments: noise models that turn stored noiseless moments into what would be observed.

They are written in torch, so that training can draw new noise for a view every time, on its own device; observed maps
are not stored. An instrument acts in this order: PSF, field of view and rebinning, cuts, noise.
"""

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from kinmass.gen.options import OptionError
from kinmass.gen.physics.sightline import view_rng
from kinmass.gen.yamlfile import read_checked

# N views, P stored pixels along a side, Q observed ones

#: Least number of pixels along a side of an observed map.
MIN_PIXELS = 4


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TracerNoise(_Section):
    """Errors and cuts of one tracer. Errors are Gaussian; with every number zero the view is perfect."""

    velocity_error_kms: NonNegativeFloat = 0.0  # on V and on sigma, at the mean density inside R_e
    error_slope: float = 0.0  # error grows as (Sigma / mean)^-slope towards faint pixels
    mask_below_mean: NonNegativeFloat = 0.0  # pixels below this fraction of the mean density inside R_e are lost
    mask_below_msun_kpc2: NonNegativeFloat = 0.0  # pixels below this surface density are lost
    min_particles: NonNegativeInt = 0  # observed pixels with fewer particles in them (before the PSF) are lost


class PsfFwhm(_Section):
    """Full width at half maximum of a round Gaussian PSF, in one of three units."""

    pixels: PositiveFloat | None = None  # stored pixels, before rebinning
    re: PositiveFloat | None = None  # each view's R_e
    kpc: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> "PsfFwhm":
        if [self.pixels, self.re, self.kpc].count(None) != 2:
            raise ValueError("give exactly one of `pixels`, `re` and `kpc`")
        return self


class Instrument(_Section):
    """A named noise model: a PSF and a pixel grid that the tracers share, and the noise of each tracer."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    psf_fwhm: PsfFwhm | None = None
    field_of_view_re: PositiveFloat | None = None  # side of the observed field [R_e]; the stored one where left out
    rebin: int = Field(default=1, ge=1)  # stored pixels along a side of an observed one
    stars: TracerNoise = TracerNoise()
    gas: TracerNoise = TracerNoise()

    def grid(self, pixels: int, field_of_view_re: float) -> tuple[int, float]:
        """Pixels along a side and field of view [R_e] of the observed maps, from those of the stored maps.

        The observed field has the same centre and ends on pixel boundaries. Of the numbers of stored pixels that
        allow both and can be rebinned, the one nearest to the wanted field is taken, the larger of two equally near.
        Raises ValueError for a field wider than the stored one, or too few pixels.
        """
        wanted_re = self.field_of_view_re or field_of_view_re
        if wanted_re > field_of_view_re:
            raise ValueError(
                f"instrument {self.name} looks at {wanted_re:g} R_e, the maps have {field_of_view_re:g}; "
                "lower its field_of_view_re"
            )
        allowed = [n for n in range(pixels, 0, -1) if n % self.rebin == 0 and (pixels - n) % 2 == 0]
        side = min(allowed, key=lambda n: abs(n - pixels * wanted_re / field_of_view_re), default=0)
        if side < MIN_PIXELS * self.rebin:
            raise ValueError(
                f"instrument {self.name} makes {side // self.rebin} of {pixels} pixels over {field_of_view_re:g} R_e, "
                f"fewer than {MIN_PIXELS}; widen its field_of_view_re, lower its rebin, or map with more --pixels"
            )
        return side // self.rebin, field_of_view_re * (side / pixels)

    def psf_fwhm_pixels(
        self, pixels: int, field_of_view_re: float, half_mass_radius_kpc: torch.Tensor | None
    ) -> float | torch.Tensor:
        """FWHM of the PSF in stored pixels: one number, or (N,) where it differs from view to view.

        Raises ValueError for a PSF in kpc without the views' R_e.
        """
        psf = self.psf_fwhm
        if psf is None or psf.pixels is not None:
            return 0.0 if psf is None else psf.pixels or 0.0
        if psf.re is not None:
            return psf.re * pixels / field_of_view_re
        if half_mass_radius_kpc is None:
            raise OptionError(f"instrument {self.name} has a PSF in kpc: it needs each view's half_mass_radius_kpc")
        return (psf.kpc or 0.0) * pixels / (field_of_view_re * half_mass_radius_kpc.double())


INSTRUMENTS = {
    i.name: i
    for i in (
        Instrument(name="clean"),
        # An integral-field survey, with resolved HI or CO of the same galaxies. Stars: errors of 10 km/s at the mean
        # density inside R_e, which grow as the signal-to-noise ratio falls; pixels below 1/40 of that density are
        # lost. Gas lines: errors of 5 km/s, down to 0.3 Msun/pc^2.
        Instrument(
            name="ifu",
            psf_fwhm=PsfFwhm(pixels=1.5),
            stars=TracerNoise(velocity_error_kms=10.0, error_slope=0.5, mask_below_mean=1 / 40),
            gas=TracerNoise(velocity_error_kms=5.0, mask_below_msun_kpc2=3e5),
        ),
    )
}


def instrument(name: str) -> Instrument:
    """The built-in instrument of that name, or the one in a YAML file.

    Raises OptionError, which lists the built-in ones, for an unknown name, and FileError for a file that is wrong.
    """
    if name in INSTRUMENTS:
        return INSTRUMENTS[name]
    if not name.endswith((".yaml", ".yml")):
        raise OptionError(f"unknown instrument {name!r}; there are {', '.join(INSTRUMENTS)}, or give a YAML file")
    custom = read_checked(Path(name), Instrument)
    if INSTRUMENTS.get(custom.name, custom) != custom:
        raise OptionError(f"{name}: `name`: {custom.name} is a built-in instrument; choose another name")
    return custom


def _psf_matrix(like: torch.Tensor, fwhm_pixels: float | torch.Tensor) -> torch.Tensor | None:
    """The matrix A of a round Gaussian PSF: A @ image @ A.T is the blurred image.

    A is (P, P) for one FWHM, (N, 1, P, P) for FWHMs (N,), None for an FWHM of 0. Beyond the map its edge pixels
    are repeated. For maps of this size matrices are many times faster than convolutions. Each view's matrix depends on
    its own FWHM alone, and nothing here waits for a GPU.
    """
    n = like.shape[-1]
    # A PSF four fields wide is as good as uniform.
    widest = 4.0 * n
    scale: float | torch.Tensor
    if isinstance(fwhm_pixels, torch.Tensor):
        scale = (2.3548 / fwhm_pixels.clamp(max=widest)).to(like.dtype)[:, None, None]
    elif fwhm_pixels > 0:
        scale = 2.3548 / min(fwhm_pixels, widest)
    else:
        return None
    distance = torch.arange(n + int(2 * widest), dtype=like.dtype, device=like.device)
    weight = torch.exp(-0.5 * (distance * scale) ** 2)
    # Light from as far as the edge and farther: what all pixels beyond the map, alike with the edge's, give together.
    beyond = weight @ (distance[:, None] >= distance[1 : n + 1]).to(like.dtype)
    pixel = torch.arange(n, device=like.device)
    inside = weight[..., (pixel[:, None] - pixel).abs()]
    inside[..., 0] += beyond
    inside[..., -1] += beyond.flip(-1)
    return inside / inside.sum(-1, keepdim=True)


def _coarsen(images: torch.Tensor, pixels: int, rebin: int) -> torch.Tensor:
    """Cut the middle out of images (N, C, P, P) and sum it over rebin x rebin pixels: (N, C, Q, Q), Q = pixels."""
    edge = (images.shape[-1] - pixels * rebin) // 2
    middle = images[..., edge : edge + pixels * rebin, edge : edge + pixels * rebin]
    return middle if rebin == 1 else middle.unflatten(-1, (pixels, rebin)).unflatten(-3, (pixels, rebin)).sum((-1, -3))


def inside_half_mass_radius(pixels: int, field_of_view_re: float, device: torch.device | None = None) -> torch.Tensor:
    """Mask (P, P) of the pixels whose centres lie within R_e of the middle of the map."""
    x = (torch.arange(pixels, device=device) + 0.5) / pixels - 0.5
    return torch.hypot(x[:, None], x[None, :]) * field_of_view_re <= 1.0


def observe(
    maps: torch.Tensor,
    instrument: Instrument,
    noise: torch.Tensor | None,
    field_of_view_re: float = 6.0,
    half_mass_radius_kpc: torch.Tensor | None = None,
) -> torch.Tensor:
    """Observed maps (N, 8, Q, Q): density, V, sigma and a mask of valid pixels of the stars, then of the gas.

    maps (N, 8, P, P): as stored, four channels of the stars, then of the gas. Q comes from `instrument.grid`.
    noise (N, 4, Q, Q): standard normal numbers for V and sigma of stars and gas, or None for no noise.
    half_mass_radius_kpc (N,): needed only for a PSF in kpc.
    PSF and rebinning act on the moments Sigma, Sigma V, Sigma (V^2 + sigma^2), exactly as light does. Cuts and errors
    refer to the mean density inside R_e of the blurred map before rebinning; of a tracer with nothing inside R_e, to
    the mean of its non-empty pixels. Invalid pixels are zero.
    Raises ValueError where the instrument does not fit the maps.

    >>> maps = torch.rand(1, 8, 16, 16) + 1
    >>> seen = observe(maps, INSTRUMENTS["clean"], None)
    >>> seen.shape, bool((seen[:, 3] == 1).all())  # every pixel has stars
    (torch.Size([1, 8, 16, 16]), True)
    """
    images = []
    stored_pixels = maps.shape[-1]
    within_re = inside_half_mass_radius(stored_pixels, field_of_view_re, maps.device)
    psf = _psf_matrix(maps, instrument.psf_fwhm_pixels(stored_pixels, field_of_view_re, half_mass_radius_kpc))
    pixels, _ = instrument.grid(stored_pixels, field_of_view_re)
    for t, tracer in enumerate((instrument.stars, instrument.gas)):
        density, velocity, dispersion = maps[:, 4 * t : 4 * t + 3].unbind(1)
        moments = torch.stack([density, density * velocity, density * (velocity**2 + dispersion**2)], dim=1)
        moments = moments if psf is None else psf @ moments @ psf.mT
        mean = (moments[:, 0] * within_re).sum((1, 2), keepdim=True) / within_re.sum()
        # A tracer may have nothing inside R_e, such as gas in a ring: then the mean of its non-empty pixels.
        n_occupied = (moments[:, 0] > 0).sum((1, 2), keepdim=True).clamp(min=1)
        mean = torch.where(mean > 0, mean, moments[:, 0].sum((1, 2), keepdim=True) / n_occupied)
        density, first, second = (_coarsen(moments, pixels, instrument.rebin) / instrument.rebin**2).unbind(1)
        threshold = torch.clamp(tracer.mask_below_mean * mean, min=tracer.mask_below_msun_kpc2)
        valid = (density > 0) & (density >= threshold)
        if tracer.min_particles > 0:
            count = _coarsen(maps[:, 4 * t + 3 : 4 * t + 4], pixels, instrument.rebin)[:, 0]
            valid &= count >= tracer.min_particles
        divisor = torch.where(valid, density, torch.ones_like(density))
        velocity = first / divisor
        # Rounding can make the variance slightly negative where the dispersion is zero.
        dispersion = torch.sqrt(torch.clamp(second / divisor - velocity**2, min=0.0))
        if noise is not None and tracer.velocity_error_kms > 0:
            relative = divisor / torch.where(mean > 0, mean, 1.0)
            error = tracer.velocity_error_kms * relative**-tracer.error_slope
            velocity = velocity + error * noise[:, 2 * t]
            dispersion = torch.clamp(dispersion + error * noise[:, 2 * t + 1], min=0.0)
        images += [x * valid for x in (density, velocity, dispersion, torch.ones_like(density))]
    return torch.stack(images, dim=1)


def fixed_noise(galaxy: str, view: int, pixels: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers (4, P, P) that depend on the view only: the noise that every evaluation adds to it.

    galaxy: its name with that of its suite, as `physics.sightline.within` joins them.
    """
    rng = view_rng(seed + 1_000_003, galaxy, view)
    return rng.standard_normal((4, pixels, pixels), dtype=np.float32)
