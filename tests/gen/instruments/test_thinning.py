"""Thinning: what is drawn from stored moments is what projecting fewer particles gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from kinmass.gen.instruments import thinning
from kinmass.gen.instruments.thinning import binomial, blurred, kernel_width, thin
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.projection import project
from kinmass.gen.physics.sightline import sightlines

PIXELS, REPEATS = 32, 48


def test_binomial_numbers_are_those_of_the_distribution():
    quantile = torch.linspace(-3.2, 3.2, 801)
    for count in (0, 1, 2, 5, 17, 24, 60, 400, 5000):
        for share in (1e-3, 0.02, 0.3, 0.5, 0.9, 0.999):
            drawn = binomial(torch.full_like(quantile, count), torch.tensor(share), quantile).numpy()
            exact = binom.ppf(norm.cdf(quantile.double().numpy()), count, share)
            assert np.abs(drawn - exact).max() <= 1, (count, share)
            assert (drawn == exact).mean() > (0.97 if count * min(share, 1 - share) < 5.9 else 0.75), (count, share)
    every = torch.tensor([0.0, 3.0, 1e6])
    assert torch.equal(binomial(every, torch.tensor(1.0), torch.zeros(3)), every)


@pytest.fixture(scope="module")
def galaxies():
    """Per galaxy: name, stars and gas as they are projected, the sightline and half the width of the map [kpc]."""
    found = []
    for suite, index in (("bursty", 5), ("quiet", 3), ("middle", 5)):
        galaxy, _ = make_galaxy(suite, index, 0)
        rotation = sightlines(0, f"{suite}{index}", 2)[1:]
        r_e_kpc = np.median(np.hypot(*(galaxy.stars.pos_kpc @ rotation[0].T)[:, :2].T))
        found.append((suite, replace(galaxy.stars, support_kpc=None), galaxy.gas, rotation, 3 * r_e_kpc))
    return found


def thinned_particles(particles: Particles, share: float, rng: np.random.Generator) -> Particles:
    """A random share of the particles, with the mass of all, and the kernels of as many neighbours as before."""
    kept = rng.random(len(particles)) < share
    support = None if particles.support_kpc is None else particles.support_kpc[kept] * share ** (-1 / 3)
    return Particles(particles.pos_kpc[kept], particles.vel_kms[kept], particles.mass_msun[kept] / share, support)


def seen(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Density, V and sigma (N, P, P) through a PSF of 1.5 pixels, as the built-in survey has it."""
    density, velocity, dispersion, _ = maps.unbind(1)
    moments = torch.stack([density, density * velocity, density * (velocity**2 + dispersion**2)], dim=1)
    density, first, second = blurred(moments, torch.full(density.shape, (1.5 / 2.3548) ** 2)).unbind(1)
    velocity = first / density.clamp(min=1e-20)
    return density, velocity, (second / density.clamp(min=1e-20) - velocity**2).clamp(min=0).sqrt()


@pytest.mark.parametrize("n", [300, 1500])
def test_noise_is_that_of_particles_really_thinned(galaxies, n):
    """Of density, V and sigma: stars within 10 % on every galaxy; gas on the mean of three, its sigma within 15 %."""
    rng, generator = np.random.default_rng(n), torch.Generator().manual_seed(n)
    ratios: dict[str, list[list[float]]] = {"stars": [], "gas": []}
    for _, stars, gas, rotation, half_kpc in galaxies:
        for name, particles in (("stars", stars), ("gas", gas)):
            full = project(particles, rotation, [half_kpc], PIXELS)
            share = n / full[0, 3].sum()
            real = np.concatenate(
                [
                    project(thinned_particles(particles, share, rng), rotation, [half_kpc], PIXELS)
                    for _ in range(REPEATS)
                ]
            )
            drawn = thin(
                torch.from_numpy(full).float().expand(REPEATS, -1, -1, -1), torch.full((REPEATS,), share),
                torch.randn(REPEATS, 3, PIXELS, PIXELS, generator=generator), smoothed=name == "gas",
            )  # fmt: skip
            pairs = list(zip(seen(torch.from_numpy(real).float()), seen(drawn), strict=True))
            mean = pairs[0][0].mean(0)
            bright = mean > 0.05 * mean[8:24, 8:24].mean()
            ratios[name].append([float((b.std(0) / a.std(0))[bright].median()) for a, b in pairs])
            kept = drawn[:, 3].sum((1, 2))
            assert float(kept.mean()) == pytest.approx(n, rel=0.03)
            assert float(drawn[:, 0].sum((1, 2)).mean()) == pytest.approx(full[0, 0].sum(), rel=0.05)
    np.testing.assert_allclose(ratios["stars"], 1, atol=0.10)
    np.testing.assert_array_less(np.abs(np.mean(ratios["gas"], axis=0) - 1), [0.10, 0.10, 0.15])


def test_all_particles_leave_a_view_as_it_is(galaxies):
    for _, stars, gas, rotation, half_kpc in galaxies:
        for particles, smoothed in ((stars, False), (gas, True)):
            maps = torch.from_numpy(project(particles, rotation, [half_kpc], PIXELS)).float()
            same = thin(maps, torch.ones(1), torch.randn(1, 3, PIXELS, PIXELS), smoothed)
            torch.testing.assert_close(same, maps, rtol=1e-5, atol=1e-3)


def test_an_empty_tracer_stays_empty():
    nothing = torch.zeros(2, 4, 16, 16)
    for smoothed in (False, True):
        assert thin(nothing, torch.tensor([0.1, 1.0]), torch.randn(2, 3, 16, 16), smoothed).abs().max() == 0


def test_blurs_conserve_and_have_the_variance_asked_for():
    image = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    image[0, 0, 20, 20] = 1.0
    offset2 = (torch.arange(41, dtype=torch.float64) - 20) ** 2
    for variance in (0.0, 0.2, 0.9, 3.0, 11.0, 24.0):
        spread = blurred(image, torch.full((1, 41, 41), variance, dtype=torch.float64))[0, 0]
        assert float(spread.sum()) == pytest.approx(1, abs=3e-3)
        assert float((spread.sum(0) * offset2).sum()) == pytest.approx(variance, rel=0.02, abs=1e-9)


def test_kernels_are_as_wide_as_brings_the_spread_counts_nearest_to_the_density():
    """The factor of each view is the one of the least misfit, worked out by blurring for each factor anew."""
    generator = torch.Generator().manual_seed(3)
    radius = torch.hypot(*torch.meshgrid(torch.arange(24) - 11.5, torch.arange(24) - 11.5, indexing="ij"))
    count = torch.poisson(200 * torch.exp(-radius / 4).expand(5, -1, -1).double(), generator=generator)
    true_width = torch.tensor([0.3, 0.7, 1.2, 1.9, 3.0], dtype=torch.float64)[:, None, None]
    density = blurred(count[:, None], (true_width**2).expand_as(count))[:, 0]
    mean = (density**2).sum((1, 2), keepdim=True) / density.sum((1, 2), keepdim=True)
    mass = density.sum((1, 2), keepdim=True) / count.sum((1, 2), keepdim=True)
    shape = (density / mean).clamp(1e-3, 1e3) ** (-1 / 3)
    misfits = []
    for factor in thinning._FACTORS:
        spread = blurred((mass * count)[:, None], thinning._spread(factor * shape))[:, 0]
        misfits.append(((spread - density) ** 2).sum((1, 2)))
    best = torch.tensor(thinning._FACTORS, dtype=torch.float64)[torch.stack(misfits).argmin(0)]
    assert len(best.unique()) >= 4
    torch.testing.assert_close(kernel_width(density, count), thinning._OF_ALL * best[:, None, None] * shape)
