"""Instruments: noise models that turn stored noiseless moments into what would be observed.

Torch, so that training can look at every view afresh on its own device; nothing is stored. An
instrument acts in this order: PSF, field of view and rebinning, cuts, noise.
"""

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from kinmass.gen.options import OptionError
from kinmass.gen.physics.sightline import seed_of
from kinmass.gen.yamlfile import read_checked

# N views, P stored pixels along a side, Q observed ones

#: Fewer pixels along a side are no map.
MIN_PIXELS = 4


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TracerNoise(_Section):
    """How one tracer is seen. Errors are Gaussian; every number zero is a perfect view."""

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
    """A named way of looking: a PSF and a pixel grid common to the tracers, and each tracer's noise."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    psf_fwhm: PsfFwhm | None = None
    field_of_view_re: PositiveFloat | None = None  # side of the observed field [R_e]; the stored one where left out
    rebin: int = Field(default=1, ge=1)  # stored pixels along a side of an observed one
    stars: TracerNoise = TracerNoise()
    gas: TracerNoise = TracerNoise()

    def grid(self, pixels: int, field_of_view_re: float) -> tuple[int, float]:
        """Pixels along a side and field of view [R_e] of what is seen of maps of (pixels, field_of_view_re).

        The field keeps its centre and ends on pixel boundaries: of the numbers of stored pixels that
        allow both and can be rebinned, that nearest to the field asked for, of two the larger. Raises
        ValueError for a field wider than the stored one, or too few pixels.
        """
        wanted = self.field_of_view_re or field_of_view_re
        if wanted > field_of_view_re:
            raise ValueError(
                f"instrument {self.name} looks at {wanted:g} R_e, the maps have {field_of_view_re:g}; "
                "lower its field_of_view_re"
            )
        possible = [n for n in range(pixels, 0, -1) if n % self.rebin == 0 and (pixels - n) % 2 == 0]
        kept = min(possible, key=lambda n: abs(n - pixels * wanted / field_of_view_re), default=0)
        if kept < MIN_PIXELS * self.rebin:
            raise ValueError(
                f"instrument {self.name} makes {kept // self.rebin} of {pixels} pixels over {field_of_view_re:g} R_e, "
                f"fewer than {MIN_PIXELS}; widen its field_of_view_re, lower its rebin, or map with more --pixels"
            )
        return kept // self.rebin, field_of_view_re * (kept / pixels)

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
        # As an integral-field survey with resolved HI or CO beside it: stellar continuum errors of
        # 10 km/s at the mean density inside R_e that grow as signal-to-noise falls, lost below 1/40
        # of it; gas lines good to 5 km/s above 0.3 Msun/pc^2.
        Instrument(
            name="ifu",
            psf_fwhm=PsfFwhm(pixels=1.5),
            stars=TracerNoise(velocity_error_kms=10.0, error_slope=0.5, mask_below_mean=1 / 40),
            gas=TracerNoise(velocity_error_kms=5.0, mask_below_msun_kpc2=3e5),
        ),
    )
}


def instrument(name: str) -> Instrument:
    """The built-in instrument of that name, or that of a YAML file. Raises OptionError with the known ones."""
    if name in INSTRUMENTS:
        return INSTRUMENTS[name]
    if not name.endswith((".yaml", ".yml")):
        raise OptionError(f"unknown instrument {name!r}; there are {', '.join(INSTRUMENTS)}, or give a YAML file")
    look = read_checked(Path(name), Instrument)
    if INSTRUMENTS.get(look.name, look) != look:
        raise OptionError(f"{name}: `name`: {look.name} is a built-in instrument; choose another name")
    return look


def _psf_matrix(like: torch.Tensor, fwhm_pixels: float | torch.Tensor) -> torch.Tensor | None:
    """The matrix A of a round Gaussian PSF, A @ image @ A.T: (P, P) for one FWHM, (N, 1, P, P) for (N,), None for 0.

    Edges are continued outwards. For maps of this size many times faster than convolutions.
    """
    n = like.shape[-1]
    scale: float | torch.Tensor
    # Four fields wide is as good as uniform; wider would cost memory for nothing.
    if isinstance(fwhm_pixels, torch.Tensor):
        fwhm_pixels = fwhm_pixels.clamp(max=4.0 * n)
        widest, scale = float(fwhm_pixels.max()), (2.3548 / fwhm_pixels).to(like.dtype)[:, None, None, None]
    elif fwhm_pixels > 0:
        widest = min(fwhm_pixels, 4.0 * n)
        scale = 2.3548 / widest
    else:
        return None
    reach = n + int(np.ceil(2 * widest))
    at = torch.arange(-reach, n + reach, dtype=like.dtype, device=like.device)
    row = torch.arange(n, dtype=like.dtype, device=like.device)
    weight = torch.exp(-0.5 * ((at[None, :] - row[:, None]) * scale) ** 2)
    weight = weight / weight.sum(-1, keepdim=True)
    inside = weight[..., reach : reach + n].clone()
    inside[..., 0] += weight[..., :reach].sum(-1)
    inside[..., -1] += weight[..., reach + n :].sum(-1)
    return inside


def _coarsen(images: torch.Tensor, pixels: int, rebin: int) -> torch.Tensor:
    """(N, C, Q, Q) sums over rebin x rebin pixels of the middle of (N, C, P, P)."""
    edge = (images.shape[-1] - pixels * rebin) // 2
    middle = images[..., edge : edge + pixels * rebin, edge : edge + pixels * rebin]
    return middle if rebin == 1 else middle.unflatten(-1, (pixels, rebin)).unflatten(-3, (pixels, rebin)).sum((-1, -3))


def inside_half_mass_radius(pixels: int, field_of_view_re: float, device: torch.device | None = None) -> torch.Tensor:
    """(P, P) mask of pixel centres within R_e of the middle."""
    x = (torch.arange(pixels, device=device) + 0.5) / pixels - 0.5
    return torch.hypot(x[:, None], x[None, :]) * field_of_view_re <= 1.0


def observe(
    maps: torch.Tensor,
    look: Instrument,
    noise: torch.Tensor | None,
    field_of_view_re: float = 6.0,
    half_mass_radius_kpc: torch.Tensor | None = None,
) -> torch.Tensor:
    """Observed maps (N, 8, Q, Q): density, V, sigma and a mask of valid pixels for stars, then gas.

    maps (N, 8, P, P) as stored (stars' four channels, then gas's); Q is `look.grid`'s; noise (N, 4,
    Q, Q) standard normal numbers for V and sigma of stars and gas, or None for none;
    half_mass_radius_kpc (N,) is needed for a PSF in kpc only. PSF and rebinning act on the moments
    Sigma, Sigma V, Sigma (V^2 + sigma^2), exactly as light does. The mean density inside R_e that
    cuts and errors refer to is that of the blurred map before rebinning; of a tracer with nothing inside R_e the mean
    of the pixels that have some. Invalid pixels are zero.
    Raises ValueError where the instrument cannot look at such maps.

    >>> maps = torch.rand(1, 8, 16, 16) + 1
    >>> seen = observe(maps, INSTRUMENTS["clean"], None)
    >>> seen.shape, bool((seen[:, 3] == 1).all())  # every pixel has stars
    (torch.Size([1, 8, 16, 16]), True)
    """
    seen = []
    stored = maps.shape[-1]
    middle = inside_half_mass_radius(stored, field_of_view_re, maps.device)
    psf = _psf_matrix(maps, look.psf_fwhm_pixels(stored, field_of_view_re, half_mass_radius_kpc))
    pixels, _ = look.grid(stored, field_of_view_re)
    for t, tracer in enumerate((look.stars, look.gas)):
        density, velocity, dispersion = maps[:, 4 * t : 4 * t + 3].unbind(1)
        moments = torch.stack([density, density * velocity, density * (velocity**2 + dispersion**2)], dim=1)
        moments = moments if psf is None else psf @ moments @ psf.mT
        mean = (moments[:, 0] * middle).sum((1, 2), keepdim=True) / middle.sum()
        # Nothing inside R_e, as of gas in a ring: the mean of what there is.
        there = (moments[:, 0] > 0).sum((1, 2), keepdim=True).clamp(min=1)
        mean = torch.where(mean > 0, mean, moments[:, 0].sum((1, 2), keepdim=True) / there)
        density, first, second = (_coarsen(moments, pixels, look.rebin) / look.rebin**2).unbind(1)
        threshold = torch.clamp(tracer.mask_below_mean * mean, min=tracer.mask_below_msun_kpc2)
        valid = (density > 0) & (density >= threshold)
        if tracer.min_particles > 0:
            count = _coarsen(maps[:, 4 * t + 3 : 4 * t + 4], pixels, look.rebin)[:, 0]
            valid &= count >= tracer.min_particles
        safe = torch.where(valid, density, torch.ones_like(density))
        velocity = first / safe
        # Rounding can leave a slightly negative variance where the dispersion is nil.
        dispersion = torch.sqrt(torch.clamp(second / safe - velocity**2, min=0.0))
        if noise is not None and tracer.velocity_error_kms > 0:
            relative = safe / torch.where(mean > 0, mean, 1.0)
            error = tracer.velocity_error_kms * relative**-tracer.error_slope
            velocity = velocity + error * noise[:, 2 * t]
            dispersion = torch.clamp(dispersion + error * noise[:, 2 * t + 1], min=0.0)
        seen += [x * valid for x in (density, velocity, dispersion, torch.ones_like(density))]
    return torch.stack(seen, dim=1)


def fixed_noise(galaxy: str, view: int, pixels: int, seed: int = 0) -> np.ndarray:
    """(4, P, P) standard normal numbers that belong to one view: the noise of every evaluation."""
    rng = seed_of(seed + 1_000_003, galaxy, view)
    return rng.standard_normal((4, pixels, pixels), dtype=np.float32)
