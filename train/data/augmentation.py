"""What differs between simulations and says nothing of the mass: varied at random while a network is trained.

A network that has seen galaxies of one simulation learns its habits: how massive its galaxies are, how bright for
their mass, how turbulent their gas, how cuspy their haloes. Varied views carry the truth that belongs to them, so
that what is left to learn from is dynamics. `scale` and `light` are exact symmetries: gravity has no scale of its own,
and tracers move in a potential whatever they weigh. `heat` and `tilt` hold for discs in rotation, approximately.
"""

from dataclasses import dataclass

import torch

from kinmass.gen.constants import G
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.data.sampler import normal

# N views, P pixels along a side, K radii
#: Random numbers per view, and what is added to the run's seed for them.
_NUMBERS, _SEED = 12, 7_000_003
#: Pixels of a tracer that are seen at least.
_FEWEST = 8
#: Least share of V^2 that is left of rotation.
_COLDEST = 0.1


@dataclass(frozen=True)
class Augmentation:
    """Strengths, standard deviations all but the last two; zero is none.

    scale_dex: of velocities, with lengths as their square, so that surface densities stay. light_dex: of each
    tracer's surface density, as an observer's mass-to-light ratio errs. heat: isotropic dispersion that takes the
    place of rotation, over the circular velocity at R_e. tilt: of the slope of log10 M(<r) against log10 r. fade:
    the share of views of which only the brightest pixels are seen, a tenth of them to all, each tracer by itself.
    no_dispersion: the share of views, each tracer by itself, without a dispersion, which is nil then.
    """

    scale_dex: float = 0.0
    light_dex: float = 0.0
    heat: float = 0.0
    tilt: float = 0.0
    fade: float = 0.0
    no_dispersion: float = 0.0

    def numbers(self, samples: torch.Tensor, seed: int) -> torch.Tensor | None:
        """(N, 12) standard normal numbers for samples (N,) counted over the run; None where nothing varies."""
        if not any(vars(self).values()):
            return None
        counter = samples[:, None] * (_NUMBERS // 2) + torch.arange(_NUMBERS // 2, device=samples.device)
        return normal(counter, seed + _SEED)

    def vary(
        self,
        maps: torch.Tensor,
        half_mass_radius_kpc: torch.Tensor,
        log10_menc: torch.Tensor,
        field_of_view_re: float,
        numbers: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Stored maps (N, 8, P, P), R_e (N,) [kpc] and profiles (N, K) [log10 Msun] of galaxies as they might be."""
        maps = maps.clone()
        radius = _radius_re(maps.shape[-1], field_of_view_re, maps)
        if self.tilt:
            slope = self.tilt * numbers[:, 1]
            growth = slope[:, None, None] * torch.log10(radius.clamp(RADII_RE[0], RADII_RE[-1]))
            # Turbulence is no matter of gravity: the gas keeps its dispersion.
            maps[:, [1, 2, 5]] *= 10 ** (0.5 * growth[:, None])
            log10_menc = log10_menc + slope[:, None].to(log10_menc) * torch.log10(
                torch.tensor(RADII_RE, device=log10_menc.device, dtype=log10_menc.dtype)
            )
        if self.heat:
            v2 = _circular2(radius, half_mass_radius_kpc, log10_menc).to(maps)
            middle = v2[:, maps.shape[-1] // 2, :].mean(-1)
            for t in range(2):
                more = ((self.heat * numbers[:, 2 + t]) ** 2 * middle)[:, None, None]
                density = maps[:, 4 * t]
                # An exponential disc's mean radius is two scale lengths; its pressure falls as its density.
                scale = 0.5 * (density * radius).sum((1, 2)) / density.sum((1, 2)).clamp(min=1e-30)
                drift = more * radius / scale.clamp(min=0.1)[:, None, None] / v2
                maps[:, 4 * t + 1] *= (1 - drift).clamp(min=_COLDEST).sqrt()
                maps[:, 4 * t + 2] = (maps[:, 4 * t + 2] ** 2 + more * (density > 0)).sqrt()
        if self.scale_dex:
            dex = self.scale_dex * numbers[:, 0]
            maps[:, [1, 2, 5, 6]] *= 10 ** dex[:, None, None, None]
            half_mass_radius_kpc = half_mass_radius_kpc * 10 ** (2 * dex).to(half_mass_radius_kpc)
            log10_menc = log10_menc + (4 * dex[:, None]).to(log10_menc)
        return maps, half_mass_radius_kpc, log10_menc

    def look(self, observed: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Observed maps (N, 8, Q, Q) with each tracer brighter or fainter, and its faint parts lost."""
        observed = observed.clone()
        if self.fade:
            share = torch.special.ndtr(numbers[:, 6:10])
            for t in range(2):
                density, valid = observed[:, 4 * t].flatten(1), observed[:, 4 * t + 3].flatten(1)
                kept = torch.where(share[:, t] < self.fade, 0.1 + 0.9 * share[:, 2 + t], 1.0)[:, None]
                seen = (kept * valid.sum(1, keepdim=True)).clamp(min=_FEWEST).long().clamp(max=density.shape[1])
                edge = density.sort(1, descending=True).values.gather(1, seen - 1)
                bright = (density >= edge).to(observed).unflatten(1, observed.shape[2:])
                observed[:, 4 * t : 4 * t + 4] *= bright[:, None]
        if self.no_dispersion:
            measured = torch.special.ndtr(numbers[:, 10:12]) >= self.no_dispersion
            observed[:, [2, 6]] *= measured.to(observed)[:, :, None, None]
        if self.light_dex:
            observed[:, [0, 4]] *= 10 ** (self.light_dex * numbers[:, 4:6, None, None].to(observed))
        return observed


def _radius_re(pixels: int, field_of_view_re: float, like: torch.Tensor) -> torch.Tensor:
    """(P, P) projected radius of pixel centres [R_e]."""
    x = ((torch.arange(pixels, device=like.device, dtype=like.dtype) + 0.5) / pixels - 0.5) * field_of_view_re
    return torch.hypot(x[:, None], x[None, :])


def _circular2(radius_re: torch.Tensor, half_mass_radius_kpc: torch.Tensor, log10_menc: torch.Tensor) -> torch.Tensor:
    """(N, P, P) square of the circular velocity [km^2/s^2] at radii (P, P); outside of RADII_RE that at their ends."""
    known = torch.tensor(RADII_RE, device=log10_menc.device, dtype=log10_menc.dtype)
    log10_v2 = torch.log10(G / known) + log10_menc - torch.log10(half_mass_radius_kpc)[:, None].to(log10_menc)
    at = (torch.log10(radius_re / known[0]) / torch.log10(known[1] / known[0])).clamp(0, len(known) - 1 - 1e-4)
    low = at.long()
    share = at - low
    return 10 ** (log10_v2[:, low] * (1 - share) + log10_v2[:, low + 1] * share)
