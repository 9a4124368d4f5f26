"""Varies views at random in training, in what differs between simulations but does not tell the mass.

A network that was trained on galaxies of one simulation learns that simulation's habits: how massive its galaxies are,
how bright for their mass, how turbulent their gas, how cuspy their haloes. A varied view comes with the mass profile
that belongs to it, so that dynamics is all that is left to learn from. `scale` and `light` are exact symmetries:
gravity has no scale of its own, and tracers move in a potential whatever they weigh. `heat` and `tilt` hold
approximately, for rotating discs. `radius` is the observer's error rather than the simulation's: his R_e.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from kinmass.gen.constants import G
from kinmass.gen.instruments.observe import CHANNELS, TOLD
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.data.radius_error import with_radius_error
from kinmass.train.data.sampler import normal

# N views, P pixels along a side, K radii
#: Random numbers per view, and what is added to the run's seed to draw them, and to draw the two of R_e.
_NUMBERS_PER_VIEW, _SEED_OFFSET, _RADIUS_SEED_OFFSET = 12, 7_000_003, 17_000_023
#: `fade` leaves at least this many pixels of a tracer.
_FEWEST_PIXELS = 8
#: `heat` leaves at least this share of V^2 to rotation.
_LEAST_V2_SHARE = 0.1


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the variations: standard deviations, or shares of views (fade, no_dispersion). Zero is no variation.

    scale_dex: of velocities; lengths scale as their square, so that surface densities stay. light_dex: of each
    tracer's surface density, as mass-to-light ratios are uncertain. heat: isotropic dispersion that is added, over the
    rms circular velocity along the middle row of the map; rotation falls by what asymmetric drift takes, to a tenth of
    V^2 at least. tilt: of the slope of log10 M(<r) against log10 r. fade: share of
    views of which only the brightest pixels are seen, from a tenth of them to all, for each tracer independently.
    no_dispersion: share of views whose dispersion is set to zero, for each tracer independently. radius_dex: of the
    R_e that an observer takes over the true one (`radius_error.with_radius_error`).
    """

    scale_dex: float = 0.0
    light_dex: float = 0.0
    heat: float = 0.0
    tilt: float = 0.0
    fade: float = 0.0
    no_dispersion: float = 0.0
    radius_dex: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Augmentation":
        """Return the variation with the strengths that are among a fit's settings; those of before have not all."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__ if name in settings})

    def numbers(self, samples: torch.Tensor, seed: int) -> torch.Tensor | None:
        """Return standard normal numbers (N, 14) for `samples` as in `sampler.draws`; None where nothing varies."""
        if not any(vars(self).values()):
            return None
        counter = samples[:, None] * (_NUMBERS_PER_VIEW // 2) + torch.arange(
            _NUMBERS_PER_VIEW // 2, device=samples.device
        )
        # Those of R_e are drawn apart: the others are what they were before there were any.
        return torch.cat(
            [normal(counter, seed + _SEED_OFFSET), normal(samples[:, None], seed + _RADIUS_SEED_OFFSET)], 1
        )

    def vary(
        self,
        maps: torch.Tensor,
        half_mass_radius_kpc: torch.Tensor,
        log10_menc: torch.Tensor,
        field_of_view_re: float,
        numbers: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return varied maps (N, 8, P, P), R_e (N,) [kpc] and profiles (N, K) [log10 Msun] from those of stored views.

        numbers (N, 14) of `numbers`; field_of_view_re is the side of the maps [R_e].
        """
        maps = maps.clone()
        radius = _radius_re(maps.shape[-1], field_of_view_re, maps)
        if self.tilt:
            slope = self.tilt * numbers[:, 1]
            growth = slope[:, None, None] * torch.log10(radius.clamp(RADII_RE[0], RADII_RE[-1]))
            # The gas keeps its dispersion, because turbulence does not come from gravity.
            speed_factor = 10 ** (0.5 * growth[:, None])
            maps[:, 1:3] *= speed_factor
            maps[:, 5:6] *= speed_factor
            profile_radii_re = _profile_radii_re(log10_menc.device, log10_menc.dtype)
            log10_menc = log10_menc + slope[:, None].to(log10_menc) * torch.log10(profile_radii_re)
        if self.heat:
            v_circular2 = _circular_velocity2(radius, half_mass_radius_kpc, log10_menc).to(maps)
            mean_v_circular2 = v_circular2[:, maps.shape[-1] // 2, :].mean(-1)
            for t in range(2):
                added_dispersion2 = ((self.heat * numbers[:, 2 + t]) ** 2 * mean_v_circular2)[:, None, None]
                density = maps[:, 4 * t]
                # The mean radius of an exponential disc is two scale lengths. Its pressure falls as its density does,
                # which gives the share of V^2 that dispersion takes over (asymmetric drift).
                scale_length_re = 0.5 * (density * radius).sum((1, 2)) / density.sum((1, 2)).clamp(min=1e-30)
                lost_share = added_dispersion2 * radius / scale_length_re.clamp(min=0.1)[:, None, None] / v_circular2
                maps[:, 4 * t + 1] *= (1 - lost_share).clamp(min=_LEAST_V2_SHARE).sqrt()
                maps[:, 4 * t + 2] = (maps[:, 4 * t + 2] ** 2 + added_dispersion2 * (density > 0)).sqrt()
        if self.scale_dex:
            dex = self.scale_dex * numbers[:, 0]
            maps.unflatten(1, (2, 4))[:, :, 1:3] *= 10 ** dex[:, None, None, None, None]
            half_mass_radius_kpc = half_mass_radius_kpc * 10 ** (2 * dex).to(half_mass_radius_kpc)
            log10_menc = log10_menc + (4 * dex[:, None]).to(log10_menc)
        if self.radius_dex:
            dex = self.radius_dex * numbers[:, _NUMBERS_PER_VIEW]
            maps, half_mass_radius_kpc, log10_menc = with_radius_error(maps, half_mass_radius_kpc, log10_menc, dex)
        return maps, half_mass_radius_kpc, log10_menc

    def vary_observed(self, observed: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return observed maps (N, 8, Q, Q) with `light_dex`, `fade` and `no_dispersion` applied to each tracer.

        What is told beside them (N, 18, Q, Q) is what is then known.
        """
        observed, told = observed[:, :CHANNELS].clone(), observed[:, CHANNELS:].unflatten(1, (2, -1)).clone()
        if self.fade:
            share = torch.special.ndtr(numbers[:, 6:10])
            for t in range(2):
                density, valid = observed[:, 4 * t].flatten(1), observed[:, 4 * t + 3].flatten(1)
                kept_share = torch.where(share[:, t] < self.fade, 0.1 + 0.9 * share[:, 2 + t], 1.0)[:, None]
                n_kept = (
                    (kept_share * valid.sum(1, keepdim=True))
                    .clamp(min=_FEWEST_PIXELS)
                    .long()
                    .clamp(max=density.shape[1])
                )
                faintest_kept = density.sort(1, descending=True).values.gather(1, n_kept - 1)
                is_kept = (density >= faintest_kept).to(observed).unflatten(1, observed.shape[2:])
                observed[:, 4 * t : 4 * t + 4] *= is_kept[:, None]
                told[:, t] *= is_kept[:, None]
        if self.no_dispersion:
            is_measured = torch.special.ndtr(numbers[:, 10:12]) >= self.no_dispersion
            observed[:, 2::4] *= is_measured.to(observed)[:, :, None, None]
            told[:, :, TOLD.index("has_dispersion") :][:, :, :1] *= is_measured.to(observed)[:, :, None, None, None]
        if self.light_dex:
            observed[:, ::4] *= 10 ** (self.light_dex * numbers[:, 4:6, None, None].to(observed))
        return torch.cat([observed, told.flatten(1, 2)], dim=1)


@lru_cache(maxsize=8)
def _profile_radii_re(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return RADII_RE (K,) on a device. It is made once, because a copy to a GPU makes the host wait."""
    return torch.tensor(RADII_RE, device=device, dtype=dtype)


def _radius_re(pixels: int, field_of_view_re: float, like: torch.Tensor) -> torch.Tensor:
    """Return the projected radius (P, P) of pixel centres [R_e]."""
    offset_re = ((torch.arange(pixels, device=like.device, dtype=like.dtype) + 0.5) / pixels - 0.5) * field_of_view_re
    return torch.hypot(offset_re[:, None], offset_re[None, :])


def _circular_velocity2(
    radius_re: torch.Tensor, half_mass_radius_kpc: torch.Tensor, log10_menc: torch.Tensor
) -> torch.Tensor:
    """Return the square (N, P, P) of the circular velocity [km^2/s^2] at radii (P, P).

    Outside of RADII_RE it is that of the nearest of them.
    """
    profile_radii_re = _profile_radii_re(log10_menc.device, log10_menc.dtype)
    log10_v2 = (
        torch.log10(G / profile_radii_re) + log10_menc - torch.log10(half_mass_radius_kpc)[:, None].to(log10_menc)
    )
    position = (
        torch.log10(radius_re / profile_radii_re[0]) / torch.log10(profile_radii_re[1] / profile_radii_re[0])
    ).clamp(0, len(profile_radii_re) - 1 - 1e-4)
    below = position.long()
    above_share = position - below
    return 10 ** (log10_v2[:, below] * (1 - above_share) + log10_v2[:, below + 1] * above_share)
