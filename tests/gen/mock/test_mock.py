"""The mock galaxies: true masses, equilibrium, and disturbances that keep both."""

import itertools
from argparse import ArgumentTypeError
from dataclasses import replace

import numpy as np
import pytest

from kinmass.gen.constants import G
from kinmass.gen.mock import archive
from kinmass.gen.mock.archive import jobs
from kinmass.gen.mock.disturb import Disturbance, disturb_gas
from kinmass.gen.mock.galaxy import MockGalaxy
from kinmass.gen.mock.jeans import spherical_jeans
from kinmass.gen.mock.potential import Potential
from kinmass.gen.mock.suites import SUITES, draw, make_galaxy, rng_of
from kinmass.gen.options import number_or_range
from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.profile import enclosed_mass, half_mass_radius
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.suite import load_suite


def miyamoto_nagai(R, z, mass, a, b):
    """Density and gradient (Miyamoto & Nagai 1975)."""
    s = np.sqrt(z**2 + b**2)
    d2 = R**2 + (a + s) ** 2
    rho = b**2 * mass / (4 * np.pi) * (a * R**2 + (a + 3 * s) * (a + s) ** 2) / (d2**2.5 * s**3)
    return rho, G * mass * R / d2**1.5, G * mass * z * (a + s) / (s * d2**1.5)


def test_multipoles_give_a_flattened_disc_its_forces():
    mass, a, b = 1e10, 3.0, 0.6
    r = np.geomspace(0.01, 3000, 300)
    potential = Potential(r, np.zeros_like(r), [lambda R, z: miyamoto_nagai(R, z, mass, a, b)[0]])
    R, z = (x.ravel() for x in np.meshgrid([0.5, 2, 5, 12], [0.1, 0.7, 3]))
    d_R, d_z = potential.gradient(R, z)
    _, true_R, true_z = miyamoto_nagai(R, z, mass, a, b)
    scale = np.hypot(true_R, true_z)
    assert np.abs(d_R - true_R).max() < 0.02 * scale.max()
    np.testing.assert_allclose(np.hypot(d_R, d_z), scale, rtol=0.03)
    assert potential.menc(np.array(2500.0)) == pytest.approx(mass, rel=0.01)


def test_spherical_jeans_on_a_plummer_sphere():
    mass, a = 1e10, 2.0
    r = np.geomspace(0.01, 1000, 2000)
    sigma, tangential = spherical_jeans(r, (1 + (r / a) ** 2) ** -2.5, mass * r**3 / (r**2 + a**2) ** 1.5)
    inner = r < 20
    expected = np.sqrt(G * mass / (6 * np.sqrt(r**2 + a**2)))
    np.testing.assert_allclose(sigma[inner], expected[inner], rtol=0.003)
    np.testing.assert_array_equal(sigma, tangential)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("index", range(4))
def test_particles_hold_the_integrated_mass(suite, index):
    galaxy, model = make_galaxy(suite, index, seed=11)
    parts = galaxy.components().values()
    pos = np.concatenate([p.pos_kpc for p in parts])
    mass = np.concatenate([p.mass_msun for p in parts])
    r_e = half_mass_radius(np.hypot(*galaxy.stars.pos_kpc[:, :2].T), galaxy.stars.mass_msun)
    r = np.geomspace(0.3 * r_e, 10 * r_e, 40)
    np.testing.assert_allclose(enclosed_mass(pos, mass, r), model.potential.menc(r), rtol=0.02)


@pytest.mark.parametrize("suite", SUITES)
def test_virial_ratio(suite):
    """2K = sum m x . grad Phi, for every component in the summed potential."""
    model = MockGalaxy(draw(SUITES[suite], rng_of(1, suite, 3))[0])
    for name, p in model.sample(20_000, 10_000, 20_000, np.random.default_rng(0)).items():
        R = np.hypot(*p.pos_kpc[:, :2].T)
        d_R, d_z = model.potential.gradient(R, p.pos_kpc[:, 2])
        kinetic = np.sum(p.mass_msun[:, None] * p.vel_kms**2)
        virial = np.sum(p.mass_msun * (R * d_R + p.pos_kpc[:, 2] * d_z))
        assert kinetic / virial == pytest.approx(1, abs=0.06), name


def orbits(model: MockGalaxy, p: Particles, time: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Leapfrog in the fixed potential."""

    def acceleration(x):
        R = np.hypot(x[:, 0], x[:, 1])
        d_R, d_z = model.potential.gradient(R, x[:, 2])
        return -np.stack([d_R * x[:, 0] / R, d_R * x[:, 1] / R, d_z], axis=1)

    x, v, dt = p.pos_kpc.copy(), p.vel_kms.copy(), time / steps
    a = acceleration(x)
    for _ in range(steps):
        v += 0.5 * dt * a
        x += dt * v
        a = acceleration(x)
        v += 0.5 * dt * a
    return x, v


def dispersion_profile(x, v, mass, edges):
    """Velocity dispersion (three dimensions, about the mean rotation) in annuli or shells of r."""
    r, R = np.linalg.norm(x, axis=1), np.hypot(x[:, 0], x[:, 1])
    v_phi = (x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0]) / R
    v_R = (x[:, 0] * v[:, 0] + x[:, 1] * v[:, 1]) / R
    dispersions = []
    for low, high in itertools.pairwise(edges):
        in_shell = (r >= low) & (r < high)
        assert in_shell.sum() > 300
        dispersions.append(
            np.sqrt(sum(np.cov(component[in_shell], aweights=mass[in_shell]) for component in (v_R, v_phi, v[:, 2])))
        )
    return np.array(dispersions)


@pytest.mark.parametrize("suite", SUITES)
def test_orbits_keep_the_dispersion_profile(suite):
    """Three orbits at the half-mass radius leave it within 5 %."""
    model = MockGalaxy(draw(SUITES[suite], rng_of(1, suite, 5))[0])
    smaller = min(model.structure.bulge_fraction, 1 - model.structure.bulge_fraction)
    parts = model.sample(max(24_000, int(16_000 / smaller)), 0, 100, np.random.default_rng(1))
    changes = []
    for name in ("bulge", "disc"):
        p = parts[name][np.random.default_rng(2).permutation(len(parts[name]))[:16_000]]
        half = half_mass_radius(np.linalg.norm(p.pos_kpc, axis=1), p.mass_msun)
        edges = np.array([0.5, 0.9, 1.4, 2.2]) * half
        before = dispersion_profile(p.pos_kpc, p.vel_kms, p.mass_msun, edges)
        period = 2 * np.pi * np.sqrt(half**3 / (G * float(model.potential.menc(half))))
        x, v = orbits(model, p, 3 * period, 600)
        changes.append(np.abs(dispersion_profile(x, v, p.mass_msun, edges) / before - 1))
    assert np.max(changes) < 0.05


def test_disturbances_keep_every_radius():
    rng = np.random.default_rng(0)
    pos = rng.normal(0, 3, (2000, 3)) * [1, 1, 0.1]
    gas = Particles(pos, rng.normal(0, 10, pos.shape), np.ones(2000))
    strong = Disturbance(30, 25, 0.6, 0.4, 0.1, 0.1, 6)
    moved = disturb_gas(gas, strong, 2.0, 100.0, rng)
    np.testing.assert_allclose(np.linalg.norm(moved.pos_kpc, axis=1), np.linalg.norm(pos, axis=1), rtol=1e-9)
    assert np.abs(moved.pos_kpc - pos).max() > 1
    np.testing.assert_allclose(disturb_gas(gas, Disturbance(), 2.0, 100.0, rng).pos_kpc[:, 2], pos[:, 2], atol=1e-12)


def test_gas_with_a_hole_is_in_equilibrium_and_lies_around_it():
    structure = draw(SUITES["early"], rng_of(1, "early", 5))[0]
    structure = replace(structure, gas_hole_kpc=1.2 * structure.gas_scale_kpc)
    model = MockGalaxy(structure)
    gas = model.sample(100, 40_000, 100, np.random.default_rng(1))["gas"]
    R = np.hypot(*gas.pos_kpc[:, :2].T)
    edges = structure.gas_scale_kpc * np.array([0.0, 0.2, 0.5, 1.0, 2.0, 4.0])
    z = np.linspace(-40, 40, 4001) * structure.gas_scale_kpc / 4
    for low, high in itertools.pairwise(edges):
        radii = np.linspace(low, high, 41)[1:]
        column = np.trapezoid(model.gas_density(radii[:, None], z[None, :]), z, axis=1)
        expected = (
            np.trapezoid(np.append(0.0, 2 * np.pi * radii * column), np.append(low, radii))
            if low == 0
            else (np.mean(2 * np.pi * radii * column) * (high - low))
        )
        share = np.sum((low <= R) & (high > R)) / len(R)
        assert share == pytest.approx(expected / structure.mgas_msun, rel=0.06, abs=0.003)
    assert np.sum(0.2 * structure.gas_scale_kpc > R) < 0.005 * len(R)
    d_R, d_z = model.potential.gradient(R, gas.pos_kpc[:, 2])
    kinetic = np.sum(gas.vel_kms**2)
    assert kinetic / np.sum(R * d_R + gas.pos_kpc[:, 2] * d_z) == pytest.approx(1, abs=0.06)


def test_early_types_are_what_surveys_see():
    """Dispersions of 100 to 350 km/s inside R_e that fall outwards, little rotation, and little gas."""
    sigma, slopes, spins, gas_shares = [], [], [], []
    for index in range(24):
        galaxy, model = make_galaxy("early", index, 1, 4000, 1000, 200)
        x, v, m = galaxy.stars.pos_kpc, galaxy.stars.vel_kms, galaxy.stars.mass_msun
        R = np.hypot(x[:, 0], x[:, 1])
        r_e = half_mass_radius(R, m)
        inner, outer = (np.std(v[(low * r_e < R) & (high * r_e > R), 2]) for low, high in ((0.0, 0.3), (1.0, 2.0)))
        sigma.append(np.std(v[r_e > R, 2]))
        slopes.append(outer / inner)
        spin = np.linalg.norm(np.sum(m[:, None] * np.cross(x, v), axis=0))
        spins.append(spin / np.sum(m * np.linalg.norm(x, axis=1) * np.linalg.norm(v, axis=1)))
        gas_shares.append(model.structure.mgas_msun / model.structure.mstar_msun)
    assert 80 < np.quantile(sigma, 0.1) < np.quantile(sigma, 0.9) < 380
    assert np.median(slopes) < 1.0
    assert np.median(spins) < 0.3
    assert np.median(gas_shares) < 0.05


def test_numbers_of_particles_are_drawn_for_each_galaxy():
    counts = [len(make_galaxy("middle", index, 3, (300, 3000), 50, 100)[0].stars) for index in range(12)]
    assert len(set(counts)) > 8
    assert 300 <= min(counts) < 900 < max(counts) <= 3000
    assert counts[:3] == [len(make_galaxy("middle", index, 3, (300, 3000), 50, 100)[0].stars) for index in range(3)]
    # However many there are, it is the same galaxy.
    few, many = (make_galaxy("middle", 7, 3, n, 50, 100)[1].structure for n in ((300, 400), 2000))
    assert few == many
    assert [number_or_range(text) for text in ("20000", "300-30000", "-1")] == [20_000, (300, 30_000), -1]
    for text in ("many", "300-", "1e4"):
        with pytest.raises(ArgumentTypeError, match=rf"a range such as 300-30000, not '{text}'"):
            number_or_range(text)


def test_same_seed_same_galaxy_and_only_then():
    a, b = (make_galaxy("middle", 7, 3, 200, 100, 200)[0].stars.pos_kpc for _ in range(2))
    c = make_galaxy("middle", 8, 3, 200, 100, 200)[0].stars.pos_kpc
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0


@pytest.mark.parametrize("suite", SUITES)
def test_files_keep_what_precision_promises(suite, tmp_path):
    """Single precision leaves every position within 2e-3 kpc, a hundredth of the thinnest discs; wider files differ."""
    n_particles, suite_file = {"n_stars": 300, "n_gas": 200, "n_dark": 300}, archive.write_suite_file(tmp_path, suite)
    members = jobs(suite, 10)[0]
    read = {}
    for precision in (None, False, True):
        folder = tmp_path / str(precision)
        archive.write_snapshot(folder, suite, members, 1, n_particles, precision)
        described = load_suite(suite_file, folder)
        path = described.snapshot_paths()[0]
        with Snapshot(path, described.format) as snapshot:
            read[precision] = snapshot.everything("stars"), path.stat().st_size
    (usual, size), (single, small), (double, large) = read.values()
    assert small < large
    assert size == (large if archive.DOUBLE[suite] else small)
    np.testing.assert_allclose(single.pos_kpc, double.pos_kpc, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(usual.pos_kpc, (double if archive.DOUBLE[suite] else single).pos_kpc)
    assert np.abs(single.pos_kpc - double.pos_kpc).max() > 1e-9


@pytest.mark.parametrize("suite", SUITES)
def test_what_others_write_beside_a_snapshot_may_vanish(suite, tmp_path):
    """Ranks share a suite's folder: what another wrote aside is renamed at any moment."""
    (tmp_path / ".done").mkdir()
    for place in (tmp_path, tmp_path / ".done"):
        (place / ".partial-of-another-rank").symlink_to("gone")
    n_particles = {"n_stars": 100, "n_gas": 50, "n_dark": 100}
    assert archive.write_snapshot(tmp_path, suite, [0], 1, n_particles).exists()


@pytest.mark.parametrize("suite", archive.WRITTEN)
def test_what_is_gone_of_a_snapshot_is_written_again_and_a_changed_suite_file_stays(suite, tmp_path):
    """Scratch file systems remove old files one by one: a suite was called whole that had lost some."""
    n_particles = {"n_stars": 100, "n_gas": 50, "n_dark": 100}

    def content() -> dict[str, bytes]:
        """Write what is not there and return all files but the marks, which tell of the others."""
        archive.write_snapshot(tmp_path, suite, [0], 1, n_particles)
        files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and ".done" not in path.parts]
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}

    whole = content()
    assert whole
    for name in whole:
        (tmp_path / name).unlink()
        again = content()
        assert {key: len(value) for key, value in again.items()} == {key: len(value) for key, value in whole.items()}
        (tmp_path / name).write_bytes(b"")  # a full disk
        assert content()[name]
    (tmp_path / ".done" / "00000").write_bytes(b"")  # the mark of an earlier version
    (tmp_path / name).unlink()
    assert name not in content()
    suite_file = archive.write_suite_file(tmp_path, suite)
    suite_file.write_text(f"{suite_file.read_text()}selection: {{min_stars: 5}}\n")
    assert "min_stars" in archive.write_suite_file(tmp_path, suite).read_text()
