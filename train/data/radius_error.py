"""A half-mass radius that is not quite right: the maps, and the profile, of whoever takes R_e for larger or smaller.

Half-light radii of one galaxy differ by .1 dex between bands, depths and methods, and a half-light radius is no
half-mass radius. An observer's maps reach as many of his R_e, and his profile is asked for at his radii.
"""

import math

import torch

from kinmass.train.data.dataset import RADII_RE

# N views, P pixels along a side, K radii


def with_radius_error(
    maps: torch.Tensor, half_mass_radius_kpc: torch.Tensor, log10_menc: torch.Tensor, dex: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the maps (N, 8, P, P), R_e (N,) and profiles (N, K) of observers who take R_e for 10^dex times what it is.

    maps (N, 8, P, P) as stored, profiles (N, K) at RADII_RE of the true R_e; dex (N,). Sigma, Sigma V and
    Sigma (V^2 + sigma^2) are interpolated linearly along rows and columns. Pixels hold as many particles as there are
    in their area, in whole numbers, and one at least where there are stars. Nothing comes in from beyond the maps.
    """
    pixels = maps.shape[-1]
    pixel = torch.arange(pixels, dtype=maps.dtype, device=maps.device)
    factor = (10**dex).to(maps)[:, None, None]
    middle = 0.5 * (pixels - 1)
    place = (pixel[:, None] - middle) * factor + middle
    weight = (1 - (place - pixel).abs_()).clamp_(min=0).mT
    density, velocity, dispersion, count = maps.unflatten(1, (2, 4)).unbind(2)
    moments = torch.stack([density, density * velocity, density * (velocity**2 + dispersion**2), count], dim=2)
    # Along x, and along y: one product for each view instead of one for each image.
    along_x = (moments.flatten(1, 3) @ weight).unflatten(1, (-1, pixels))
    along_xy = (along_x.mT.flatten(1, 2) @ weight).unflatten(1, (2, 4, pixels)).mT
    density, first, second, count = along_xy.unbind(2)
    divisor = torch.where(density > 0, density, 1.0)
    velocity = first / divisor
    dispersion = (second / divisor).sub_(velocity**2).clamp_(min=0).sqrt_()
    # `gen.instruments.thinning` draws which particles are kept, and cannot draw parts of one.
    count = (count * factor[:, None] ** 2).round_()
    count[:, 0].clamp_(min=(density[:, 0] > 0).to(count))
    moved = torch.stack([density, velocity, dispersion, count], dim=2).flatten(1, 2)
    return moved, half_mass_radius_kpc * factor[:, 0, 0].to(half_mass_radius_kpc), _at_other_radii(log10_menc, dex)


def _at_other_radii(log10_menc: torch.Tensor, dex: torch.Tensor) -> torch.Tensor:
    """Return profiles (N, K) at radii that are larger by dex (N,), on straight lines through neighbouring radii.

    Lines are of log M over log r. Beyond the first and the last radius the lines through the two nearest ones go on.
    """
    k = log10_menc.shape[1]
    step_dex = math.log10(RADII_RE[-1] / RADII_RE[0]) / (k - 1)
    place = torch.arange(k, device=log10_menc.device) + (dex / step_dex)[:, None].to(log10_menc)
    left = place.floor().long().clamp(0, k - 2)
    below, above = log10_menc.gather(1, left), log10_menc.gather(1, left + 1)
    return below + (place - left) * (above - below)
