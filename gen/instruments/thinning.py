"""Thinning: the moments of a view as they were if its galaxy had fewer particles, with the shot noise that follows.

A simulation's resolution is how many particles a galaxy has; suites differ in it first. Which particles are kept is
drawn pixel by pixel from the stored counts: so many of the c particles of a pixel as a binomial distribution says, and
mean and variance of their velocities as of a sample without replacement (Cochran 1977, Sampling Techniques, eq. 2.12
and 2.17). Stars have no kernel. Gas is smoothed over its neighbours, and with fewer of them farther: the noise of
its particles is spread over kernels whose width is found from the map itself.
"""

import math
from functools import lru_cache, partial
from itertools import pairwise

import torch

from kinmass.gen.instruments.looks import Drawn, where

# N views, P pixels along a side
#: Numbers that `binomial` sums one by one; where more can be expected, a skewed normal distribution is near enough.
_SUMMED = 18
#: `_tails` of gas: a part of its sigma is the gradient of V under a kernel, whose distribution has no tails (that of a
#: straight gradient is uniform, with a factor of 0.4).
_TAILS_OF_GAS = 0.7
#: Fewest particles of a pixel whose dispersion says something about tails.
_ENOUGH = 8
#: Variances [pixels^2] of the blurs between which maps are interpolated.
_VARIANCES = (0.0, 0.5, 1.5, 5.0, 15.0, 45.0)
#: Widths [pixels] that kernels may have at a map's mean density (`kernel_width`).
_FACTORS = tuple(0.12 * 1.35**i for i in range(10))
#: Mean width of a column's kernels over that of the narrow ones, which decide how a map looks: measured on mock discs,
#: whose kernels are known, where it makes the noise of thinned gas right (tests/gen/instruments/test_thinning.py).
_OF_ALL = 1.25


def binomial(count: torch.Tensor, share: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Return how many of `count` particles are kept, each with probability `share`, at standard normal quantiles.

    All three have one shape, or can be broadcast. Sums of probabilities where count or mean is small, else a normal
    distribution with a first correction for skewness (Cornish & Fisher 1938).

    >>> binomial(torch.tensor([4.0, 0.0, 7.0]), torch.tensor([1.0, 0.5, 0.0]), torch.zeros(3)).tolist()
    [4.0, 0.0, 0.0]
    """
    wanted = share.expand_as(count)
    # Of many that are kept, those that are lost are drawn: their sums do not run out of digits.
    is_most = wanted > 0.5
    share, normal = torch.where(is_most, 1 - wanted, wanted), torch.where(is_most, -normal, normal)
    mean, lost = count * share, 1 - share
    smooth = mean + (mean * lost).sqrt() * normal + (1 - 2 * share) * (normal**2 - 1) / 6
    kept = smooth.round().clamp(min=0).minimum(count)
    # The smallest number whose cumulative probability reaches the quantile's; `left` is what is missing.
    odds = share / lost
    log_none = count * torch.log1p(-share)
    probability = torch.exp(log_none)  # of k, times k!
    left = torch.special.ndtr(normal).sub_(probability)
    summed = torch.gt(left, 0, out=torch.empty_like(left))
    expected, is_above = count * odds, torch.empty_like(left)
    for k in range(1, _SUMMED):
        # Nil from k = count + 1 on, as the factor is nil there.
        probability *= torch.sub(expected, odds, alpha=k - 1)
        left.sub_(probability, alpha=1 / math.factorial(k))
        summed += torch.gt(left, 0, out=is_above)
    is_summed = (mean < _SUMMED / 3) & (log_none > -80)
    drawn = torch.where(is_summed, summed.minimum(count), kept)
    return torch.where(is_most, count - drawn, drawn)


def _sampled(
    count: torch.Tensor,
    kept: torch.Tensor,
    velocity: torch.Tensor,
    dispersion: torch.Tensor,
    tails: torch.Tensor | float,
    normal: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean velocity and dispersion of `kept` of `count` particles; all (N, P, P), and two normal numbers each.

    Dispersions are those of the particles themselves, not estimates of a wider population: nil for a single particle.
    tails: of `_tails`.
    """
    others = (count - 1).clamp(min=1)
    left_out = ((count - kept) / others).clamp(0, 1)  # of the population: nil where all are kept
    variance = dispersion**2 * count / others  # as of a sample, of all particles
    mean = velocity + (dispersion**2 * left_out / kept.clamp(min=1)).sqrt() * normal[0]
    freedom = (kept - 1).clamp(min=1) / tails
    # A variable of the chi squared distribution over its mean, by Wilson & Hilferty (1931).
    chi2 = (1 - 2 / (9 * freedom) + normal[1] * (2 / (9 * freedom)).sqrt()).clamp(min=0) ** 3
    relative = (1 + (chi2 - 1) * left_out.sqrt()).clamp(min=0)
    return mean, (variance * (kept - 1).clamp(min=0) / kept.clamp(min=1) * relative).sqrt()


def _tails(dispersion: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return by what factor (N, 1, 1) the noise of sigma^2 exceeds that of normal distributions of velocities.

    It is half of their kurtosis less one, and follows from how much sigma^2 (N, P, P) of neighbouring pixels differs
    (from a straight line through three of them, so that gradients do not count).
    """
    square, inverse = dispersion**2, torch.where(count >= _ENOUGH, 1 / count.clamp(min=1), torch.inf)
    excess = torch.zeros(len(count), 1, 1, dtype=square.dtype, device=square.device)
    pairs = torch.zeros_like(excess)
    for _ in range(2):
        square, inverse = square.mT, inverse.mT
        bent = square[:, :-2] - 2 * square[:, 1:-1] + square[:, 2:]
        level = (square[:, :-2] + square[:, 1:-1] + square[:, 2:]) / 3
        expected = 2 * level**2 * (inverse[:, :-2] + 4 * inverse[:, 1:-1] + inverse[:, 2:])
        counts = torch.isfinite(expected) & (expected > 0)
        excess += torch.where(counts, bent**2 / expected, 0.0).sum((1, 2), keepdim=True)
        pairs += counts.sum((1, 2), keepdim=True)
    return torch.where(pairs > 0, excess / pairs.clamp(min=1), 1.0).clamp(0.4, 4.0)


def thin(maps: torch.Tensor, share: torch.Tensor, normal: torch.Tensor | Drawn, smoothed: bool) -> torch.Tensor:
    """Return the four channels (N, 4, P, P) of one tracer with a share (N,) of its particles, chosen at random.

    The particles that are kept have the mass of all. maps (N, 4, P, P): density, V, sigma and count as stored; normal
    (N, 3, P, P) standard normal numbers, or what draws them; smoothed: whether particles have kernels, as gas does.
    A share of one leaves a view as it is.
    """
    return where(share < 1, partial(_thinned, smoothed=smoothed), maps, share, normal)


def _thinned(maps: torch.Tensor, share: torch.Tensor, normal: torch.Tensor, smoothed: bool) -> torch.Tensor:
    density, velocity, dispersion, count = maps.unbind(1)
    wanted = share[:, None, None].to(maps)
    kept = binomial(count, wanted, normal[:, 0])
    tails = _TAILS_OF_GAS if smoothed else _tails(dispersion, count)
    mean, spread = _sampled(count, kept, velocity, dispersion, tails, normal[:, 1:].unbind(1))
    growth = kept / (wanted * count).clamp(min=1e-6)
    if not smoothed:
        # Density and dispersion are nil where no particle is kept.
        return torch.stack([density * growth, mean * (kept > 0).to(mean), spread, kept], dim=1)
    mass = density.sum((1, 2), keepdim=True) / count.sum((1, 2), keepdim=True).clamp(min=1) * count
    width = kernel_width(density, count)
    wider = width * wanted ** (-1 / 3)
    # What is drawn differs from what is stored particle by particle; the kernels spread the difference.
    moments = torch.stack([density, density * velocity, density * (velocity**2 + dispersion**2)], dim=1)
    square = mean**2 + spread**2
    drawn = mass * growth
    noise = torch.stack(
        [drawn - mass, drawn * mean - mass * velocity, drawn * square - mass * (velocity**2 + dispersion**2)], dim=1
    )
    moments = blurred(moments, (_spread(wider) - _spread(width)).clamp(min=0)) + blurred(noise, wider**2)
    density = moments[:, 0].clamp(min=0)
    some = (density > 1e-6 * density.amax((1, 2), keepdim=True)).to(density)
    divisor = torch.addcmul(1 - some, density, some)
    velocity = moments[:, 1] / divisor
    dispersion = (moments[:, 2] / divisor).sub_(velocity**2).clamp_(min=0).sqrt_()
    return torch.stack([density * some, velocity * some, dispersion * some, kept], dim=1)


def kernel_width(density: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return the width (N, P, P) [pixels, standard deviation along an axis] of the kernels that made a density map.

    density and count (N, P, P) as stored: the count is of particles, each in its pixel; the density is spread. Kernels
    hold a certain number of neighbours: in a layer of one depth their width goes as density^(-1/3). The factor is that
    with which the spread counts come nearest to the density.
    """
    mass = density.sum((1, 2), keepdim=True) / count.sum((1, 2), keepdim=True).clamp(min=1)
    mean = (density**2).sum((1, 2), keepdim=True) / density.sum((1, 2), keepdim=True).clamp(min=1e-30)
    shape = (density / mean.clamp(min=1e-30)).clamp(1e-3, 1e3) ** (-1 / 3)
    levels = [level[:, 0] for level in _levels((count * mass)[:, None])]
    # What a spread changes goes by how far its variance has gone from each of _VARIANCES to the next.
    steps = list(pairwise(_VARIANCES))
    slopes = [
        (after - before) / (high - low) for (low, high), (before, after) in zip(steps, pairwise(levels), strict=True)
    ]
    without = levels[0] - density
    for (low, _), slope in zip(steps, slopes, strict=True):
        without.sub_(slope, alpha=low)
    factors = _on_device(_FACTORS, density.device, density.dtype)
    variance = _spread(factors[:, None, None, None] * shape)
    misfit = without.expand_as(variance).clone()
    for (low, high), slope in zip(steps, slopes, strict=True):
        misfit.addcmul_(variance.clamp(low, high), slope)
    best = torch.linalg.vector_norm(misfit, dim=(2, 3)).argmin(0)
    return _OF_ALL * factors[best][:, None, None] * shape


def _spread(width: torch.Tensor) -> torch.Tensor:
    """Return the variance along an axis [pixels^2] by which the deposit into pixels spreads kernels of a width.

    A kernel that ends within a pixel falls into its own pixel as a whole; a wider one is summed at pixel centres, from
    anywhere within its pixel.
    """
    return (width - 0.2).div_(0.15).clamp_(0, 1).mul_((width**2).add_(1 / 12))


def blurred(images: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, P, P) blurred by Gaussians of a variance (N, P, P) [pixels^2] of each pixel's own.

    Interpolated linearly in the variance between blurs of _VARIANCES. Nothing comes in from outside of the map.
    """
    result = torch.zeros_like(images)
    for share, level in zip(_shares(variance), _levels(images), strict=True):
        result.addcmul_(share[:, None], level)
    return result


def _levels(images: torch.Tensor) -> list[torch.Tensor]:
    """Return images (N, C, P, P) blurred by each of _VARIANCES."""
    pixels = images.shape[-1]
    blurs = [images]
    for weight in _blurs(pixels, images.device, images.dtype):
        rows = (images @ weight).reshape(-1, pixels, pixels)
        blurs.append((weight.expand_as(rows) @ rows).reshape(images.shape))
    return blurs


@lru_cache(maxsize=8)
def _blurs(pixels: int, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return the matrices (P, P) of blurs along an axis by all of _VARIANCES but none; they are symmetric."""
    pixel = torch.arange(pixels, device=device)
    offset = (pixel[:, None] - pixel).abs()
    blurs = []
    for variance in _VARIANCES[1:]:
        if variance <= 0.5:
            weight = (1 - variance) * (offset == 0).to(dtype) + variance / 2 * (offset == 1).to(dtype)
        else:
            weight = torch.exp(-0.5 * offset.to(dtype) ** 2 / variance) / (2 * math.pi * variance) ** 0.5
        blurs.append(weight)
    return blurs


def _shares(variance: torch.Tensor) -> list[torch.Tensor]:
    """Return the share (N, P, P) of each of _VARIANCES in a variance (N, P, P) between them."""
    wanted = variance.clamp(0, _VARIANCES[-1])
    # How far the variance has gone beyond each step, as a share of the step.
    steps = [(wanted - low) / (high - low) for low, high in pairwise(_VARIANCES)]
    gone = [step.clamp_(0, 1) for step in steps]
    return [1 - gone[0], *(before - after for before, after in pairwise(gone)), gone[-1]]


@lru_cache(maxsize=8)
def _on_device(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers as a tensor, made once for each device, because a copy to a GPU makes the host wait."""
    return torch.tensor(numbers, device=device, dtype=dtype)
