"""Scales maps and masses by the view's own velocity scale and R_e, and limits masses to those a galaxy can have."""

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

from kinmass.gen.constants import G

# N views, P pixels along a side, K radii
#: The encoders of each tracer option; `any` is trained on gas, on stars and on both by turns.
TRACERS = {"gas": ("gas",), "stars": ("stars",), "both": ("stars", "gas"), "any": ("stars", "gas")}
_OFFSET = {"stars": 0, "gas": 4}
#: Least and greatest circular speed [km/s], well outside those of all galaxies: the stars of the faintest dwarfs move
#: at 1 to 4 km/s (McConnachie 2012, AJ 144, 4), and in the richest clusters V_c is about 2,000 km/s.
SPEEDS_KMS = (0.1, 10_000.0)
#: Least velocity scale [km/s] of a view: what is slower does not move, but for rounding.
LEAST_VELOCITY_SCALE_KMS = 1e-3
#: What an encoder takes of one tracer: maps, and what is told of each view as a whole (None: nothing).
Inputs = tuple[torch.Tensor, torch.Tensor | None]
Numbers = TypeVar("Numbers", np.ndarray, torch.Tensor)


def tracers_of(tracer: str) -> tuple[str, ...]:
    """Return the tracers for which a network of this tracer option has encoders. Raises ValueError for others."""
    if tracer not in TRACERS:
        raise ValueError(f"unknown tracer {tracer!r}; there are {', '.join(TRACERS)}")
    return TRACERS[tracer]


def tracer_words(tracer: str) -> str:
    """Return in words which tracers' maps suffice for a tracer option: `gas or stars` for both and any.

    >>> tracer_words("both"), tracer_words("gas")
    ('gas or stars', 'gas')
    """
    return "gas or stars" if tracer in ("both", "any") else tracer


def only(observed: torch.Tensor, tracer: str) -> torch.Tensor:
    """Return observed maps (N, 8, P, P) in which the other tracer has no valid pixel, as in a galaxy without it.

    The same for maps with what is told beside them, (N, 18, P, P).
    """
    of_tracer = torch.tensor([channel_tracer == tracer for channel_tracer in _tracer_of_channels(observed.shape[1])])
    return observed * of_tracer.to(observed)[:, None, None]


def drop_tracers(observed: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Return observed maps (N, 8, P, P) without stars where choice (N,) is 0, and without gas where it is 1.

    A view whose other tracer has no valid pixel is left as it is.
    """
    has_stars, has_gas = (observed[:, mask].amax((1, 2)) > 0 for mask in (3, 7))
    is_kept = {"stars": ~((choice == 0) & has_gas), "gas": ~((choice == 1) & has_stars)}
    of_channels = torch.stack([is_kept[tracer] for tracer in _tracer_of_channels(observed.shape[1])], dim=1)
    return observed * of_channels[:, :, None, None]


def _tracer_of_channels(n_channels: int) -> list[str]:
    """Return the tracer of every channel of observed maps: four of the stars, four of the gas, then as many told."""
    told = (n_channels - 8) // 2
    return ["stars"] * 4 + ["gas"] * 4 + ["stars"] * told + ["gas"] * told


def split(observed: torch.Tensor, tracer: str) -> tuple[torch.Tensor, ...]:
    """Return density, V relative to the systemic velocity, sigma and mask, each (N, P, P), of one tracer."""
    first_channel = _OFFSET[tracer]
    density, velocity, dispersion, valid = observed[:, first_channel : first_channel + 4].unbind(1)
    weight = density / torch.clamp(density.sum((1, 2), keepdim=True), min=1e-30)
    systemic = (weight * velocity).sum((1, 2), keepdim=True)
    return density, (velocity - systemic) * valid, dispersion, valid


def mass_limits(log10_radius_kpc: Numbers) -> tuple[Numbers, Numbers]:
    """Return the least and the greatest log10 M(<r) [Msun] a galaxy can have: V_c^2 r / G at the ends of SPEEDS_KMS.

    Both have the shape of log10_radius_kpc, and both rise with r, so that a rising profile still rises when clipped.
    """
    low, high = (log10_radius_kpc + (2 * math.log10(speed_kms) - math.log10(G)) for speed_kms in SPEEDS_KMS)
    return low, high


def clip_to_mass_limits(log10_menc: Numbers, log10_radius_kpc: Numbers) -> Numbers:
    """Return profiles (..., K) of log10 M(<r) [Msun] clipped to `mass_limits`; all other values and NaN stay the same.

    Without it the tails of a density reach very far: to 10^96 Msun for a network that is hardly trained.
    """
    low, high = mass_limits(log10_radius_kpc)
    if isinstance(log10_menc, torch.Tensor):
        return torch.clamp(log10_menc, low, high)
    return np.clip(log10_menc, low, high)


def at_mass_limits(log10_menc: np.ndarray, log10_radius_kpc: np.ndarray) -> np.ndarray:
    """Return whether profiles (..., K) are at `mass_limits` at any radius, to the precision of saved samples."""
    low, high = mass_limits(log10_radius_kpc)
    return np.asarray(((log10_menc < low + 1e-4) | (log10_menc > high - 1e-4)).any(-1))


def velocity_scale(observed: torch.Tensor, tracers: tuple[str, ...]) -> torch.Tensor:
    """Return the rms (N,) [km/s] of V and sigma together, mass-weighted over valid pixels.

    It is that of the first tracer with a valid pixel. Stars come before gas, because a cold gas disc seen face-on has
    no velocity to scale by, while stars still have their dispersion. Zero where no tracer has a valid pixel.
    """
    scale2 = torch.zeros(observed.shape[0], device=observed.device)
    for tracer in reversed(tracers):
        density, velocity, dispersion, valid = split(observed, tracer)
        weight = density / torch.clamp(density.sum((1, 2), keepdim=True), min=1e-30)
        tracer_scale2 = (weight * (velocity**2 + dispersion**2)).sum((1, 2))
        scale2 = torch.where(valid.sum((1, 2)) > 0, tracer_scale2, scale2)
    return torch.sqrt(scale2)


def has_motion(observed: torch.Tensor, tracers: tuple[str, ...]) -> torch.Tensor:
    """Return whether views (N,) have a velocity to scale masses by: without one, nothing is known of their mass."""
    return velocity_scale(observed, tracers) > LEAST_VELOCITY_SCALE_KMS


def scale_free(
    observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor, tracers: tuple[str, ...], relative: bool = False
) -> tuple[dict[str, Inputs], torch.Tensor]:
    """Return dimensionless inputs of each tracer, and log10 (N,) of the mass scale V^2 R_e / G [Msun].

    observed (N, 8, P, P) from `gen.instruments.observe`; half_mass_radius_kpc (N,). Inputs are
    {tracer: (maps, None)}, maps (N, 4, P, P): log10 of Sigma over V^2 / (G R_e), V and sigma over the velocity
    scale, and the mask. Multiplying all lengths, velocities and masses of a galaxy by factors
    that obey M = V^2 R / G does not change the inputs. With `relative`, Sigma is divided by its mean over valid pixels
    instead, so that a factor on a tracer's density does not change them either. Where more is told (N, 18, P, P), the
    errors of `told_inputs` come after the mask, and its numbers in the place of None.
    """
    scale_kms = torch.clamp(velocity_scale(observed, tracers), min=LEAST_VELOCITY_SCALE_KMS)
    velocity_unit = scale_kms[:, None, None]
    sigma_unit = (scale_kms**2 / (G * half_mass_radius_kpc))[:, None, None]
    inputs = {}
    for tracer in tracers:
        density, velocity, dispersion, valid = split(observed, tracer)
        if relative:
            sigma_unit = (density.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).clamp(min=1e-30)[:, None, None]
        log_density = torch.log10(torch.clamp(density / sigma_unit, min=1e-4)) * valid
        maps = [log_density, velocity / velocity_unit, dispersion / velocity_unit, valid]
        errors, numbers = told_inputs(observed, tracer, velocity_unit) if observed.shape[1] > 8 else ([], None)
        inputs[tracer] = torch.stack(maps + errors, dim=1), numbers
    return inputs, torch.log10(scale_kms**2 * half_mass_radius_kpc / G)


#: How many channels, and how many numbers of a view as a whole, `told_inputs` makes.
ERRORS_TOLD, NUMBERS_TOLD = 2, 5
#: Smallest and largest error, in units of the velocity scale, that networks tell from others.
_TOLD_APART = (1e-3, 10.0)


def told_inputs(
    observed: torch.Tensor, tracer: str, velocity_unit: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what a network sees of TOLD of one tracer: ERRORS_TOLD channels (N, P, P) and NUMBERS_TOLD (N, T).

    The channels are log10 of the errors of V and of sigma over the velocity scale, zero in pixels not seen. The numbers
    are means over the pixels that are seen: whether errors are known; the PSF [R_e], and whether it is known; whether
    there is a dispersion; how uncertain the density is [dex]. What is not known is zero.
    """
    told = observed[:, 8:].unflatten(1, (2, -1))[:, _OFFSET[tracer] // 4]
    velocity_error, dispersion_error, psf_re, has_dispersion, density_dex = told.unbind(1)
    valid = observed[:, _OFFSET[tracer] + 3]
    n_valid = valid.sum((1, 2))
    # One where x >= 0, else zero.
    knows_errors = valid * (velocity_error.sign().clamp(max=0) + 1)
    errors = [
        torch.log10((error / velocity_unit).clamp(*_TOLD_APART)) * knows_errors
        for error in (velocity_error, dispersion_error)
    ]
    knows, psf, has, dex = (
        x.sum((1, 2)) / n_valid.clamp(min=1) for x in (knows_errors, psf_re, has_dispersion, density_dex)
    )
    knows_psf = (psf >= 0) & (n_valid > 0)
    return errors, torch.stack([knows, psf.clamp(min=0), knows_psf.to(psf), has, dex], dim=1)


def raw(observed: torch.Tensor, tracers: tuple[str, ...]) -> tuple[dict[str, Inputs], torch.Tensor]:
    """Return what `scale_free` does in fixed units (1e6 Msun/kpc^2, 100 km/s and 1 Msun), for comparison."""
    inputs: dict[str, Inputs] = {}
    for tracer in tracers:
        density, velocity, dispersion, valid = split(observed, tracer)
        log_density = torch.log10(torch.clamp(density / 1e6, min=1e-4)) * valid
        inputs[tracer] = torch.stack([log_density, velocity / 100, dispersion / 100, valid], dim=1), None
    return inputs, torch.zeros(len(observed), device=observed.device)


def flip_sky(maps: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Turn or mirror view i on the sky as choice[i] in 0...15 says; from 8 on it is also mirrored along the sight.

    maps (N, 8, P, P) as stored, or observed with more channels; choice (N,) on the same device. The mirror image of a
    galaxy is a possible galaxy; mirrored along the line of sight, its image stays and V changes sign.
    """
    from_pixel = _symmetries(maps.shape[-1], maps.device)[choice % 8][:, None].expand(-1, maps.shape[1], -1)
    flipped = maps.flatten(2).gather(2, from_pixel).reshape(maps.shape)
    flipped[:, 1:8:4] *= (1.0 - 2.0 * (choice >= 8))[:, None, None, None].to(flipped)
    return flipped


@lru_cache(maxsize=4)
def _symmetries(pixels_per_side: int, device: torch.device) -> torch.Tensor:
    """Return (8, P P) the pixel from which each pixel comes in the four turns of a map, then in these mirrored."""
    pixels = torch.arange(pixels_per_side**2, device=device).reshape(pixels_per_side, pixels_per_side)
    turned_pixels = [torch.rot90(pixels, quarter_turns) for quarter_turns in range(4)]
    return torch.stack(
        [pixel_grid.flatten() for pixel_grid in (*turned_pixels, *(pixel_grid.flip(1) for pixel_grid in turned_pixels))]
    )
