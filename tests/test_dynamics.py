"""What bench.jam knows of its own accord; JamPy and MgeFit where they are installed, in an environment of their own."""

import numpy as np
import pytest

from bench.jam import (
    HALO_RE,
    LG_SCALES,
    RADII_RE,
    Mge,
    Model,
    Pixels,
    best_fit,
    halo_mge,
    halos,
    jampy_square,
    jampy_version,
    joined,
    masses_of,
    sphere_share,
    v_rms2,
)

STARS = Mge(np.array([300.0, 90.0, 12.0]), np.array([0.6, 1.9, 4.0]), np.array([0.75, 0.62, 0.58]))
INCLINATION = 68.0


def brute_mass(light: Mge, inclination_deg: float, radius: float) -> float:
    """Mass in a sphere, by adding up the deprojected Gaussians' density on shells and rings."""
    cos, sin = np.cos(np.radians(inclination_deg)), np.sin(np.radians(inclination_deg))
    r = (np.arange(1500) + 0.5) / 1500 * radius
    mu = (np.arange(400) + 0.5) / 400
    R2, z2 = r[:, None] ** 2 * (1 - mu**2), (r[:, None] * mu) ** 2
    density = np.zeros_like(R2)
    for mass, sigma, observed in zip(light.mass(), light.sigma, light.axis_ratio, strict=True):
        q = np.sqrt(observed**2 - cos**2) / sin
        density += mass / ((2 * np.pi) ** 1.5 * sigma**3 * q) * np.exp(-0.5 * (R2 + z2 / q**2) / sigma**2)
    return float(np.sum(4 * np.pi * r**2 * density.mean(1)) * (r[1] - r[0]))


def test_mass_in_spheres_is_that_of_the_density():
    radii = np.array([0.3, 1.0, 2.5, 9.0])
    brute = [brute_mass(STARS, INCLINATION, r) for r in radii]
    np.testing.assert_allclose(STARS.mass_inside(radii, INCLINATION), brute, rtol=1e-4)
    np.testing.assert_allclose(STARS.mass_inside(np.array([1e3]), INCLINATION), STARS.mass().sum())


def test_inclination_gives_the_flattest_gaussian_its_axis_ratio():
    cos = np.cos(np.radians(STARS.inclination(0.3)))
    assert np.sqrt(0.58**2 - cos**2) / np.sqrt(1 - cos**2) == pytest.approx(0.3)


def test_spherical_halo_is_the_same_from_every_side():
    masses = np.geomspace(1e9, 1e11, len(HALO_RE))
    radii = np.array(RADII_RE)
    whole = halo_mge(masses, 2.0).mass_inside(2.0 * radii, 33.0)
    np.testing.assert_allclose(whole, masses @ sphere_share(radii), rtol=2e-3)


def test_jampy_agrees_and_a_galaxy_of_its_making_is_weighed():
    """V_rms of stars in a halo, with errors of 2 %: the sum of parts is what JamPy says, and the mass comes back."""
    pytest.importorskip("mgefit")
    jampy = pytest.importorskip("jampy")
    r_e, side = 2.0, 0.5
    centre = (np.arange(24) - 11.5) * side
    x, y = (a.ravel() for a in np.meshgrid(centre, centre))
    radii = np.array(RADII_RE) * r_e
    own = jampy.mge.radial_mass(STARS.peak, STARS.sigma, STARS.axis_ratio, INCLINATION, radii, 648 / np.pi)
    np.testing.assert_allclose(STARS.mass_inside(radii, INCLINATION), own, rtol=1e-5)
    halo = halo_mge(3e9 * halos()[5, 9], r_e)  # of slope 1
    both = joined(STARS, halo)
    true = np.log10(both.mass_inside(radii, INCLINATION))
    flat = np.ones_like(x)
    square = v_rms2(
        STARS, both, INCLINATION, np.sqrt(1 - 0.2), Pixels(x, y, flat, flat, flat, flat, side, 0.6, 1.0), 0.4
    )
    noisy = square * (1 + 0.04 * np.random.default_rng(1).standard_normal(len(x)))
    p = Pixels(x, y, flat, noisy, square, 0.01 * np.sqrt(square), side, 0.6, 1.0)
    cos = np.cos(np.radians(INCLINATION))
    q = np.sqrt(0.58**2 - cos**2) / np.sqrt(1 - cos**2)
    inside_re = both.mass_inside(np.array([r_e]), INCLINATION)[0]
    dark = 1 - STARS.mass_inside(np.array([r_e]), INCLINATION)[0] / inside_re
    theta = np.array([q, np.sqrt(1 - 0.2), np.log10(inside_re), dark, 1.0, LG_SCALES[9]])
    np.testing.assert_allclose(masses_of(STARS, r_e, theta), true, atol=1e-3)
    np.testing.assert_allclose(jampy_square(STARS, r_e, theta, p, 0.4), square, rtol=1e-3)
    if jampy_version() >= 9:
        best, chi2 = best_fit(p, STARS, r_e, 0.4)
        assert chi2 == pytest.approx(0.04**2 / (0.05**2 + 0.02**2 + 0.02**4), rel=0.2)  # errors, and their floor
        np.testing.assert_allclose(masses_of(STARS, r_e, best), true, atol=0.06)
        return
    model = Model(p, STARS, r_e, 0.4)
    np.testing.assert_allclose(model.square(theta), square, rtol=5e-3)
    samples, _, taken = model.sample(1.0, np.inf, 400, np.random.default_rng(2))
    low, median, high = np.quantile(model.masses(samples), (0.023, 0.5, 0.977), axis=0)
    assert 0.1 < taken < 0.7
    np.testing.assert_allclose(median, true, atol=0.06)
    assert ((low < true + 0.01) & (true < high + 0.01)).all()
