"""Instruments: named noise models that turn stored noiseless moments into what would be observed.

Torch, so that training can look at every view afresh on its own device; nothing is stored.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gen.sightline import seed_of

# N views, P pixels along a side


@dataclass(frozen=True)
class TracerNoise:
    """How one tracer is seen. Errors are Gaussian; every number zero is a perfect view."""

    velocity_error_kms: float = 0.0  # on V and on sigma, at the mean density inside R_e
    error_slope: float = 0.0  # error grows as (Sigma / mean)^-slope towards faint pixels
    mask_below_mean: float = 0.0  # pixels below this fraction of the mean density inside R_e are lost
    mask_below_msun_kpc2: float = 0.0  # pixels below this surface density are lost


@dataclass(frozen=True)
class Instrument:
    """A named way of looking: a PSF common to the tracers, and each tracer's noise."""

    name: str
    psf_fwhm_pixels: float
    stars: TracerNoise
    gas: TracerNoise


INSTRUMENTS = {
    i.name: i
    for i in (
        Instrument("clean", 0.0, TracerNoise(), TracerNoise()),
        # As an integral-field survey with resolved HI or CO beside it: stellar continuum errors of
        # 10 km/s at the mean density inside R_e that grow as signal-to-noise falls, lost below 1/40
        # of it; gas lines good to 5 km/s above 0.3 Msun/pc^2.
        Instrument("ifu", 1.5, TracerNoise(10.0, 0.5, 1 / 40), TracerNoise(5.0, 0.0, 0.0, 3e5)),
    )
}


def instrument(name: str) -> Instrument:
    """The instrument of that name. Raises ValueError with the known ones."""
    if name not in INSTRUMENTS:
        raise ValueError(f"unknown instrument {name!r}; there are {', '.join(INSTRUMENTS)}")
    return INSTRUMENTS[name]


def _blur(images: torch.Tensor, fwhm_pixels: float) -> torch.Tensor:
    """Convolve (N, C, P, P) with a round Gaussian; edges are continued outwards.

    As two products with a (P, P) matrix: for maps of this size many times faster than convolutions.
    """
    if fwhm_pixels <= 0:
        return images
    n = images.shape[-1]
    reach = n + int(np.ceil(2 * fwhm_pixels))
    at = torch.arange(-reach, n + reach, dtype=images.dtype, device=images.device)
    row = torch.arange(n, dtype=images.dtype, device=images.device)
    weight = torch.exp(-0.5 * ((at[None, :] - row[:, None]) * (2.3548 / fwhm_pixels)) ** 2)
    weight = weight / weight.sum(1, keepdim=True)
    inside = weight[:, reach : reach + n].clone()
    inside[:, 0] += weight[:, :reach].sum(1)
    inside[:, -1] += weight[:, reach + n :].sum(1)
    return inside @ images @ inside.T


def inside_half_mass_radius(pixels: int, field_of_view_re: float, device: torch.device | None = None) -> torch.Tensor:
    """(P, P) mask of pixel centres within R_e of the middle."""
    x = (torch.arange(pixels, device=device) + 0.5) / pixels - 0.5
    return torch.hypot(x[:, None], x[None, :]) * field_of_view_re <= 1.0


def observe(
    maps: torch.Tensor, look: Instrument, noise: torch.Tensor | None, field_of_view_re: float = 6.0
) -> torch.Tensor:
    """Observed maps (N, 8, P, P): density, V, sigma and a mask of valid pixels for stars, then gas.

    maps (N, 8, P, P) as stored (stars' four channels, then gas's); noise (N, 4, P, P) standard
    normal numbers for V and sigma of stars and gas, or None for none. The PSF acts on the moments
    Sigma, Sigma V, Sigma (V^2 + sigma^2), exactly as light does. Invalid pixels are zero.
    """
    seen = []
    middle = inside_half_mass_radius(maps.shape[-1], field_of_view_re, maps.device)
    for t, tracer in enumerate((look.stars, look.gas)):
        density, velocity, dispersion = maps[:, 4 * t : 4 * t + 3].unbind(1)
        moments = torch.stack([density, density * velocity, density * (velocity**2 + dispersion**2)], dim=1)
        density, first, second = _blur(moments, look.psf_fwhm_pixels).unbind(1)
        mean = (density * middle).sum((1, 2), keepdim=True) / middle.sum()
        threshold = torch.clamp(tracer.mask_below_mean * mean, min=tracer.mask_below_msun_kpc2)
        valid = (density > 0) & (density >= threshold)
        safe = torch.where(valid, density, torch.ones_like(density))
        velocity = first / safe
        # Rounding can leave a slightly negative variance where the dispersion is nil.
        dispersion = torch.sqrt(torch.clamp(second / safe - velocity**2, min=0.0))
        if noise is not None and tracer.velocity_error_kms > 0:
            relative = safe / torch.clamp(mean, min=1e-30)
            error = tracer.velocity_error_kms * relative**-tracer.error_slope
            velocity = velocity + error * noise[:, 2 * t]
            dispersion = torch.clamp(dispersion + error * noise[:, 2 * t + 1], min=0.0)
        seen += [x * valid for x in (density, velocity, dispersion, torch.ones_like(density))]
    return torch.stack(seen, dim=1)


def fixed_noise(galaxy: str, view: int, pixels: int, seed: int = 0) -> np.ndarray:
    """(4, P, P) standard normal numbers that belong to one view: the noise of every evaluation."""
    rng = seed_of(seed + 1_000_003, galaxy, view)
    return rng.standard_normal((4, pixels, pixels), dtype=np.float32)
