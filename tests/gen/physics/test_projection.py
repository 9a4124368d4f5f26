"""Laws of the maps: mass, symmetry, analytic galaxies, brute force."""

from dataclasses import replace

import numpy as np
import pytest
import reference

from kinmass.gen.constants import G
from kinmass.gen.physics import projection
from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.projection import COLUMN
from kinmass.gen.physics.sightline import sightlines

TURN = sightlines(5, "a galaxy", 1)[0]


def project(particles: Particles, turn: np.ndarray, half_kpc: float, pixels: int, rest=(0, 0, 0)) -> np.ndarray:
    return projection.project(particles, turn[None], np.array([half_kpc]), pixels, rest)[0]


def some_particles(n: int = 60, seed: int = 0, support: tuple[float, float] = (0.01, 3.0)) -> Particles:
    rng = np.random.default_rng(seed)
    pos, vel = rng.normal(0, 1, (n, 3)), rng.normal(0, 50, (n, 3))
    return Particles(pos, vel, rng.uniform(0.5, 2, n), np.exp(rng.uniform(*np.log(support), n)))


def test_kernel_integrates_to_one():
    b2 = np.linspace(0, 1, COLUMN.size)
    assert np.trapezoid(COLUMN * np.pi, b2) == pytest.approx(1, abs=1e-5)


def test_agrees_with_the_slow_reference():
    particles = some_particles()
    fast, slow = project(particles, TURN, 2.0, 12), reference.project(particles, TURN, 2.0, 12)
    assert (slow[0] > 0).sum() > 100
    np.testing.assert_allclose(fast[0], slow[0], rtol=1e-5)
    np.testing.assert_allclose(fast[1:3], slow[1:3], atol=1e-3)
    np.testing.assert_array_equal(fast[3], slow[3])


@pytest.mark.parametrize("support", [(1e-4, 1e-3), (0.05, 0.5), (0.5, 3.0), (5.5, 7.0)])
def test_mass_is_conserved_whatever_the_kernel(support):
    particles = some_particles(500, support=support)
    maps = project(particles, TURN, 12.0, 64)
    area = (24.0 / 64) ** 2
    assert maps[0].sum() * area == pytest.approx(particles.mass_msun.sum(), rel=1e-7)
    assert maps[3].sum() == 500


def test_kernels_across_the_edge_lose_only_what_lies_outside():
    """A uniform sheet seen through a smaller window has its density everywhere, edges included."""
    x, y = np.meshgrid(np.linspace(-3, 3, 121), np.linspace(-3, 3, 121))
    pos = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    sheet = Particles(pos, 0 * pos, np.full(len(pos), 0.05**2), np.full(len(pos), 0.3))
    density = project(sheet, np.eye(3), 1.5, 20)[0]
    np.testing.assert_allclose(density, 1.0, rtol=0.01)


def test_a_boost_along_the_sight_moves_velocity_and_nothing_else():
    particles = some_particles(2000)
    still = project(particles, TURN, 2.0, 16)
    boosted = replace(particles, vel_kms=particles.vel_kms + 1e4 * TURN[2])
    occupied = still[0] > 0
    for rest, expected in (((0, 0, 0), 1e4), (1e4 * TURN[2], 0.0)):
        moving = project(boosted, TURN, 2.0, 16, rest)
        np.testing.assert_allclose(moving[1][occupied] - still[1][occupied], expected, atol=1e-3)
        np.testing.assert_allclose(moving[2], still[2], atol=1e-3)
        np.testing.assert_allclose(moving[0], still[0], rtol=1e-12)


def test_views_together_are_views_one_by_one():
    particles, turns, half = some_particles(5000), sightlines(6, "a galaxy", 5), np.linspace(1.0, 3.0, 5)
    together = projection.project(particles, turns, half, 16)
    for maps, turn, width in zip(together, turns, half, strict=True):
        np.testing.assert_allclose(maps, project(particles, turn, width, 16), rtol=1e-12, atol=1e-9)


def test_maps_are_weighted_by_the_particles_weight():
    particles = some_particles(500)
    weight = np.random.default_rng(1).uniform(0, 2, 500) * (np.arange(500) % 3 > 0)
    light = project(replace(particles, weight=weight), TURN, 2.0, 16)
    as_mass = project(replace(particles, mass_msun=weight)[weight > 0], TURN, 2.0, 16)
    np.testing.assert_array_equal(light, as_mass)
    assert light[3].sum() < project(particles, TURN, 2.0, 16)[3].sum()


@pytest.mark.parametrize("tracer", ["kernels", "points", "cells"])
def test_maps_are_the_same_wherever_arrays_lie_in_memory(tracer):
    """To the last bit: else a store's bytes would depend on what a rank has mapped before."""
    particles, rng, kept = some_particles(500), np.random.default_rng(0), []
    if tracer != "kernels":
        side_kpc = np.full(500, 0.3) if tracer == "cells" else None
        particles = replace(particles, support_kpc=None, side_kpc=side_kpc)
    found = set()
    for _ in range(400):
        kept.append(np.empty(rng.integers(1, 3000), np.uint8))  # what comes next lies elsewhere
        if len(kept) > 200:
            kept.pop(rng.integers(200))
        found.add(project(particles, TURN, 2.0, 16).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("support", [0.26, 0.37, 0.45, 0.5, 0.6, 2.0, 5.0])
def test_one_kernel_wherever_it_lies(support):
    """The kernel's own column, integrated over each pixel's share, in a field that it fills, overfills or leaves.

    A pixel is .25 wide: kernels of 1.04 to 20 pixels, of each way in which they are spread.
    """
    rng = np.random.default_rng(int(support * 10))
    edge = np.array([2 + 0.99 * support, 0.1])
    for place in (rng.uniform(-1, 1, 2), edge, -edge[::-1]):
        particle = Particles(np.array([[*place, 0.0]]), np.ones((1, 3)), np.array([3.0]), np.array([support]))
        fast, slow = project(particle, np.eye(3), 2.0, 16), reference.project(particle, np.eye(3), 2.0, 16)
        np.testing.assert_allclose(fast[0], slow[0], rtol=1e-5, atol=1e-7 * slow[0].max())
        np.testing.assert_array_equal(fast[3], slow[3])


def test_many_particles_are_the_sum_of_each():
    """More than a block of them, in all ways in which they are spread."""
    particles = some_particles(2500, support=(0.1, 3.0))
    area, sums = (4.0 / 16) ** 2, np.zeros((3, 16, 16))
    for i in range(len(particles)):
        density, velocity, _, count = project(particles[i : i + 1], TURN, 2.0, 16)
        sums += density * area, density * velocity * area, count
    together = project(particles, TURN, 2.0, 16)
    np.testing.assert_allclose(together[0] * area, sums[0], rtol=1e-12)
    np.testing.assert_allclose(together[0] * together[1] * area, sums[1], atol=1e-9)
    np.testing.assert_array_equal(together[3], sums[2])


def test_seen_from_behind():
    particles = some_particles(2000)
    behind = np.diag([-1.0, 1.0, -1.0]) @ TURN
    front, back = project(particles, TURN, 2.0, 16), project(particles, behind, 2.0, 16)[:, :, ::-1]
    np.testing.assert_allclose(back[0], front[0], rtol=1e-9)
    np.testing.assert_allclose(back[1], -front[1], atol=1e-9)
    np.testing.assert_allclose(back[2], front[2], atol=1e-6)


def test_turning_the_galaxy_is_turning_the_sight():
    particles = some_particles(500)
    turned = Particles(
        particles.pos_kpc @ TURN.T, particles.vel_kms @ TURN.T, particles.mass_msun, particles.support_kpc
    )
    np.testing.assert_allclose(project(turned, np.eye(3), 2.0, 16), project(particles, TURN, 2.0, 16), atol=1e-8)


def test_halving_every_particle_changes_nothing_but_the_count():
    particles = some_particles(300)
    twice = Particles(
        np.tile(particles.pos_kpc, (2, 1)), np.tile(particles.vel_kms, (2, 1)),
        np.tile(particles.mass_msun / 2, 2), np.tile(particles.support_kpc, 2),
    )  # fmt: skip
    one, two = project(particles, TURN, 2.0, 16), project(twice, TURN, 2.0, 16)
    np.testing.assert_allclose(two[:3], one[:3], atol=1e-7, rtol=1e-9)
    np.testing.assert_array_equal(two[3], 2 * one[3])


@pytest.mark.parametrize("n", [0, 1])
def test_no_particle_and_one(n):
    maps = project(some_particles(n), TURN, 20.0, 8)
    assert np.isfinite(maps).all()
    assert maps[3].sum() == n


def test_isotropic_plummer_sphere():
    """Surface density M a^2 / (pi (R^2 + a^2)^2); dispersion^2 3 pi G M / (64 sqrt(R^2 + a^2)) (Dejonghe 1987)."""
    rng, n, mass, a = np.random.default_rng(3), 400_000, 1e10, 2.0
    r = a / np.sqrt(rng.random(n) ** (-2 / 3) - 1)
    direction = rng.normal(size=(n, 3))
    pos = r[:, None] * direction / np.linalg.norm(direction, axis=1)[:, None]
    # Distribution function E^(7/2): speeds over escape speed follow q^2 (1 - q^2)^(7/2), a Beta law in q^2.
    q = np.sqrt(rng.beta(1.5, 4.5, n))
    speed = q * np.sqrt(2 * G * mass / np.sqrt(r**2 + a**2))
    direction = rng.normal(size=(n, 3))
    vel = speed[:, None] * direction / np.linalg.norm(direction, axis=1)[:, None]
    maps = project(Particles(pos, vel, np.full(n, mass / n)), TURN, 3.0, 12)
    centre = (np.arange(12) + 0.5) * 0.5 - 3
    R2 = centre[:, None] ** 2 + centre[None, :] ** 2
    sigma = np.sqrt(3 * np.pi * G * mass / (64 * np.sqrt(R2 + a**2)))
    density = mass * a**2 / (np.pi * (R2 + a**2) ** 2)
    near = R2 < 9
    assert np.median(np.abs(maps[0] / density - 1)[near]) < 0.03
    assert np.median(np.abs(maps[2] / sigma - 1)[near]) < 0.02
    assert abs(np.mean(maps[2][near] / sigma[near]) - 1) < 0.005
    assert np.abs(maps[1][near]).mean() < 0.03 * sigma.mean()


def test_cold_inclined_disc():
    """v_los = v_c sin i cos phi on the major axis side that recedes; no dispersion but the pixels' own."""
    rng, n, v_c, tilt = np.random.default_rng(4), 300_000, 200.0, np.radians(60)
    R, phi = 4 * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    pos = np.stack([R * np.cos(phi), R * np.sin(phi), 0 * R], axis=1)
    vel = v_c * np.stack([-np.sin(phi), np.cos(phi), 0 * R], axis=1)
    # Inclined about the x axis; the line of sight is away from the observer.
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    maps = project(Particles(pos, vel, np.ones(n)), rotation, 2.0, 32)
    x = (np.arange(32) + 0.5) / 8 - 2
    x, y = np.meshgrid(x, x / np.cos(tilt))
    expected = v_c * np.sin(tilt) * x / np.hypot(x, y)
    outside = (np.hypot(x, y) > 1) & (np.hypot(x, y) < 3.8)
    np.testing.assert_allclose(maps[1][outside], expected[outside], atol=4)
    assert maps[2][outside].mean() < 8
    assert maps[1][16, -1] > 150  # x > 0 recedes: the disc turns from x to y, and +y leans away
