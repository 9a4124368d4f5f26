"""Dimensional analysis: maps and masses in units of the view's own velocity scale and R_e, and what a galaxy can be."""

import math
from typing import TypeVar

import numpy as np
import torch

from kinmass.gen.constants import G

# N views, P pixels along a side, K radii
#: The encoders of each; `any` is trained on gas, on stars and on both by turns.
TRACERS = {"gas": ("gas",), "stars": ("stars",), "both": ("stars", "gas"), "any": ("stars", "gas")}
_OFFSET = {"stars": 0, "gas": 4}
#: Circular speeds [km/s] that hold those of all galaxies with room to spare: the stars of the faintest dwarfs move at
#: 1 to 4 km/s (McConnachie 2012, AJ 144, 4), and in the richest clusters V_c is some 2,000 km/s.
SPEEDS_KMS = (0.1, 10_000.0)
Numbers = TypeVar("Numbers", np.ndarray, torch.Tensor)


def tracers_of(tracer: str) -> tuple[str, ...]:
    """The encoders a tracer needs. Raises ValueError with the known ones."""
    if tracer not in TRACERS:
        raise ValueError(f"unknown tracer {tracer!r}; there are {', '.join(TRACERS)}")
    return TRACERS[tracer]


def only(observed: torch.Tensor, tracer: str) -> torch.Tensor:
    """Observed maps (N, 8, P, P) in which the other tracer has no valid pixel, as in a galaxy that has none of it."""
    seen = torch.zeros_like(observed)
    start = _OFFSET[tracer]
    seen[:, start : start + 4] = observed[:, start : start + 4]
    return seen


def drop_tracers(observed: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Observed maps (N, 8, P, P) without stars where choice (N,) is 0, without gas where it is 1.

    A view whose other tracer has no valid pixel stays whole.
    """
    seen = observed[:, [3, 7]].amax((2, 3)) > 0
    lost = torch.stack([(choice == 0) & seen[:, 1], (choice == 1) & seen[:, 0]], dim=1)
    return observed * (~lost).repeat_interleave(4, dim=1)[:, :, None, None]


def split(observed: torch.Tensor, tracer: str) -> tuple[torch.Tensor, ...]:
    """Density, V about the systemic velocity, sigma and mask, each (N, P, P), of one tracer."""
    start = _OFFSET[tracer]
    density, velocity, dispersion, valid = observed[:, start : start + 4].unbind(1)
    weight = density / torch.clamp(density.sum((1, 2), keepdim=True), min=1e-30)
    systemic = (weight * velocity).sum((1, 2), keepdim=True)
    return density, (velocity - systemic) * valid, dispersion, valid


def mass_limits(log10_radius_kpc: Numbers) -> tuple[Numbers, Numbers]:
    """Least and most that log10 M(<r) [Msun] of a galaxy can be: V_c^2 r / G at the ends of SPEEDS_KMS.

    They are of the shape of log10_radius_kpc. Both rise with r, and so does a rising profile that is held between them.
    """
    low, high = (log10_radius_kpc + (2 * math.log10(speed) - math.log10(G)) for speed in SPEEDS_KMS)
    return low, high


def held(log10_menc: Numbers, log10_radius_kpc: Numbers) -> Numbers:
    """Profiles (..., K) of log10 M(<r) [Msun] with what is beyond `mass_limits` put there; all else is left to the bit.

    A density's tails reach as far as its numbers do: of a network that is hardly trained, to 10^96 Msun. NaN stays.
    """
    low, high = mass_limits(log10_radius_kpc)
    if isinstance(log10_menc, torch.Tensor):
        return torch.clamp(log10_menc, low, high)
    return np.clip(log10_menc, low, high)


def is_held(log10_menc: np.ndarray, log10_radius_kpc: np.ndarray) -> np.ndarray:
    """(...) whether profiles (..., K) are at `mass_limits` at any radius, to the precision of what is kept of them."""
    low, high = mass_limits(log10_radius_kpc)
    return np.asarray(((log10_menc < low + 1e-4) | (log10_menc > high - 1e-4)).any(-1))


def velocity_scale(observed: torch.Tensor, tracers: tuple[str, ...]) -> torch.Tensor:
    """(N,) rms of V and sigma together, mass-weighted over valid pixels [km/s].

    That of the first tracer with a valid pixel (stars before gas: seen face-on, a cold disc has
    no velocity to scale by, stars still have their dispersion). Zero where no tracer has any.
    """
    scale2 = torch.zeros(observed.shape[0], device=observed.device)
    for tracer in reversed(tracers):
        density, velocity, dispersion, valid = split(observed, tracer)
        weight = density / torch.clamp(density.sum((1, 2), keepdim=True), min=1e-30)
        here = (weight * (velocity**2 + dispersion**2)).sum((1, 2))
        scale2 = torch.where(valid.sum((1, 2)) > 0, here, scale2)
    return torch.sqrt(scale2)


def scale_free(
    observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor, tracers: tuple[str, ...], relative: bool = False
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Dimensionless inputs per tracer, and log10 of the mass scale V^2 R_e / G [Msun].

    observed (N, 8, P, P) from `gen.instrument.observe`; half_mass_radius_kpc (N,). Inputs are
    {tracer: (N, 4, P, P)}: log10 of Sigma over V^2 / (G R_e), V and sigma over the velocity
    scale, and the mask. Multiplying all lengths, velocities and masses of a galaxy by factors
    that obey M = V^2 R / G changes nothing here; with `relative`, which takes Sigma over its mean of valid pixels,
    nor does any factor on a tracer's density.
    """
    scale = torch.clamp(velocity_scale(observed, tracers), min=1e-3)
    v = scale[:, None, None]
    sigma_unit = (scale**2 / (G * half_mass_radius_kpc))[:, None, None]
    inputs = {}
    for tracer in tracers:
        density, velocity, dispersion, valid = split(observed, tracer)
        if relative:
            sigma_unit = (density.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).clamp(min=1e-30)[:, None, None]
        log_density = torch.log10(torch.clamp(density / sigma_unit, min=1e-4)) * valid
        inputs[tracer] = torch.stack([log_density, velocity / v, dispersion / v, valid], dim=1)
    return inputs, torch.log10(scale**2 * half_mass_radius_kpc / G)


def raw(observed: torch.Tensor, tracers: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """As `scale_free`, but in fixed units - 1e6 Msun/kpc^2, 100 km/s and 1 Msun - for comparison."""
    inputs = {}
    for tracer in tracers:
        density, velocity, dispersion, valid = split(observed, tracer)
        log_density = torch.log10(torch.clamp(density / 1e6, min=1e-4)) * valid
        inputs[tracer] = torch.stack([log_density, velocity / 100, dispersion / 100, valid], dim=1)
    return inputs, torch.zeros(len(observed), device=observed.device)


def flip_sky(maps: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Symmetries of the sky: view i turned or mirrored as choice[i] in 0...15 says, 8 and above also along the sight.

    maps (N, 8, P, P) as stored, choice (N,) on the same device. A mirror image of a galaxy is a galaxy;
    mirrored along the line of sight its image stays and V changes sign.
    """
    pixels = torch.arange(maps.shape[-1] ** 2, device=maps.device).reshape(maps.shape[-2:])
    turned = [torch.rot90(pixels, k) for k in range(4)]
    table = torch.stack([t.flatten() for t in (*turned, *(t.flip(1) for t in turned))])
    from_pixel = table[choice % 8][:, None].expand(-1, maps.shape[1], -1)
    out = maps.flatten(2).gather(2, from_pixel).reshape(maps.shape)
    out[:, 1::4] *= (1.0 - 2.0 * (choice >= 8))[:, None, None, None].to(out)
    return out
