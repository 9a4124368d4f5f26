"""The second maker of mock galaxies: its forces, its distribution functions, and the balance of what it draws."""

import ast
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid
from scipy.special import i0, i1, k0, k1

from bench import equilibrium
from bench.equilibrium import N_STARS, SUITES, Disc, eddington, make, write
from kinmass.gen.constants import G
from kinmass.gen.physics.particles import Particles


def cylindrical(p: Particles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R, v_R and v_phi."""
    (x, y, _), (u, v, _) = p.pos_kpc.T, p.vel_kms.T
    R = np.hypot(x, y)
    return R, (x * u + y * v) / R, (x * v - y * u) / R


def test_a_thin_disc_turns_as_freeman_says():
    mass, a = 1e10, 2.0
    R = np.geomspace(0.5, 15, 12)
    y = R / (2 * a)
    freeman = 2 * G * mass / a * y**2 * (i0(y) * k0(y) - i1(y) * k1(y))  # B&T eq. 2.165
    v2, lift = Disc([(mass, a)], 1e-3 * a).gravity(R, np.array([0.0, 100.0]))
    np.testing.assert_allclose(v2, freeman, rtol=0.01)
    assert (lift[:, 1] > 0).all()
    far, _ = Disc([(mass, a)], 0.3).gravity(np.array([100.0]), np.array([0.0, 1.0]))
    assert far == pytest.approx(G * mass / 100, rel=0.01)


def test_a_thick_disc_obeys_poisson():
    """Above the plane, laplace Phi = 4 pi G rho."""
    disc = Disc([(1e10, 2.0), (-1e9, 0.7)], 0.4)
    ln_R, z, step = np.log(3.0) + 1e-2 * np.arange(-3, 4), 0.5 + 0.05 * np.arange(-3, 4), 0.05
    R = np.exp(ln_R)
    v2, lift = disc.gravity(R, np.concatenate([[0.0], z]))
    lift = lift[:, 1:]
    radial = np.gradient(v2[:, None] + np.gradient(lift, 1e-2, axis=0), 1e-2, axis=0) / R[:, None] ** 2
    vertical = np.gradient(np.gradient(lift, step, axis=1), step, axis=1)
    rho = disc.surface(R[3:4])[0] * np.exp(-0.5 / 0.4) / 0.8
    assert (radial + vertical)[3, 3] == pytest.approx(4 * np.pi * G * rho, rel=0.02)


def test_eddington_finds_hernquists_distribution_function():
    r = np.geomspace(1e-3, 1e4, 600)
    mass = 1e10 * (r / (1 + r)) ** 2
    psi = G * 1e10 / (1 + r)
    f = eddington(r, 1e10 / (2 * np.pi * r * (1 + r) ** 3), mass, psi, np.inf)
    e = psi / (G * 1e10)
    known = (1 - 2 * e) * (8 * e**2 - 8 * e - 3) + 3 * np.arcsin(np.sqrt(e)) / np.sqrt(e * (1 - e))
    known *= np.sqrt(e) / (1 - e) ** 2 / (np.sqrt(2) * (2 * np.pi) ** 3)  # B&T eq. 4.51
    inside = (r > 0.03) & (r < 30)
    np.testing.assert_allclose((f * np.sqrt(G**3 * 1e10))[inside], known[inside], rtol=0.02)


@pytest.mark.parametrize("family", SUITES)
def test_galaxies_are_in_balance(family):
    """Masses are the model's; bulge, disc and gas obey the Jeans equations of its gravity."""
    galaxy, m, _ = make(family, 0, 3)
    n_bulge = round(N_STARS * m.bulge_msun / m.star_msun)
    at = np.geomspace(0.5, 6, 6) * m.r_d
    parts = [(np.linalg.norm(p.pos_kpc, axis=1), p.mass_msun) for p in (galaxy.stars, galaxy.gas, galaxy.dark)]
    within = np.array([sum(mass[r < edge].sum() for r, mass in parts) for edge in at])
    np.testing.assert_allclose(within, np.interp(at, m.r, m.mass), rtol=0.04)  # and so V_c^2 = G M / r

    for p, rho, aniso in ((galaxy.stars[:n_bulge], m.bulge_rho, m.r_aniso), (galaxy.dark, m.dark_rho, np.inf)):
        weight = 1 + (m.r / aniso) ** 2
        pressure = cumulative_trapezoid((rho * weight * G * m.mass / m.r)[::-1], -np.log(m.r)[::-1], initial=0)[::-1]
        r = np.linalg.norm(p.pos_kpc, axis=1)
        v_r = np.sum(p.pos_kpc * p.vel_kms, axis=1) / r
        inner = (r > 0.2 * m.r_d) & (r < 6 * m.r_d)
        jeans = np.interp(r[inner], m.r, pressure / (rho * weight))
        error = 3 * np.sqrt(2 / inner.sum())
        assert np.mean(v_r[inner] ** 2 / jeans) == pytest.approx(1, abs=0.03 + error)
        tangential = (np.sum(p.vel_kms**2, axis=1) - v_r**2)[inner] * (1 + (r[inner] / aniso) ** 2) / 2
        assert np.mean(tangential / jeans) == pytest.approx(1, abs=0.03 + error)

    disc = galaxy.stars[n_bulge:]
    R, v_R, v_phi = cylindrical(disc)
    edges = np.array([0.5, 1, 1.5, 2, 3, 4]) * m.r_d
    expected = np.diff(m.stars.enclosed(edges)) / disc.mass_msun[0]
    np.testing.assert_allclose(np.histogram(R, edges)[0], expected, rtol=0.05)
    # Radial Jeans equation, summed over an annulus: sum(v_phi^2 - R dPhi/dR) = the change of R^2 Sigma <v_R^2>.
    for low, high in ((0.7, 1.4), (1.4, 2.8)):
        ring = (low * m.r_d < R) & (high * m.r_d > R)
        v2 = np.interp(R[ring], m.R, m.v2)
        flux = []
        for edge in (low, high):
            near = np.abs(R / (edge * m.r_d) - 1) < 0.1
            flux.append(2 * np.pi * m.stars.surface(edge * m.r_d) * (edge * m.r_d) ** 2 * np.mean(v_R[near] ** 2))
        left = np.sum(v_phi[ring] ** 2 - v2 + v_R[ring] ** 2)
        assert left / v2.sum() == pytest.approx(np.diff(flux)[0] / disc.mass_msun[0] / v2.sum(), abs=0.04)

    R, v_R, v_phi = cylindrical(galaxy.gas)
    for low, high in ((1, 1.5), (1.5, 2), (2, 3)):
        ring = (low * m.r_d < R) & (high * m.r_d > R)
        streaming, v_c = (np.interp(R[ring], m.R, v).mean() for v in (m.streaming(), np.sqrt(m.v2)))
        noise = 4 * v_R[ring].std() / np.sqrt(ring.sum())
        assert v_phi[ring].mean() == pytest.approx(streaming, rel=0.02, abs=noise)
        assert 0.6 * v_c < streaming < 1.02 * v_c
        assert abs(v_R[ring].mean()) < noise


def test_the_same_seed_gives_the_same_file(tmp_path, monkeypatch):
    for name in ("N_STARS", "N_GAS", "N_DARK"):
        monkeypatch.setattr(equilibrium, name, 1000)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write(tmp_path / place, "einasto", 4, 7)
    with h5py.File(tmp_path / "a/einasto_00004.hdf5") as a, h5py.File(tmp_path / "b/einasto_00004.hdf5") as b:
        for kind in ("PartType0", "PartType1", "PartType4"):
            for name in a[kind]:
                np.testing.assert_array_equal(a[kind][name][:], b[kind][name][:])
    assert (tmp_path / "a/einasto_00004.ecsv").read_text() == (tmp_path / "b/einasto_00004.ecsv").read_text()


def test_it_shares_no_physics_with_the_demo():
    """Nor does what it imports: tests/test_house.py."""
    nodes = ast.walk(ast.parse(Path(equilibrium.__file__).read_text()))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert "kinmass.gen.formats" in modules
    assert not any("mock" in module or module.startswith("bench") for module in modules)
