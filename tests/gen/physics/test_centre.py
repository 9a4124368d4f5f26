"""Centres: found without a catalogue, and a catalogue's compared with the galaxy's own particles."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from conftest import called

from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.centre import FARTHEST_RE, deepest_point, offset_re
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate
from kinmass.gen.physics.profile import half_mass_radius


def a_galaxy(suite: str, number: int = 0) -> tuple[Galaxy, float]:
    """A mock galaxy about its origin, and its R_e [kpc]."""
    galaxy, *_ = make_galaxy(suite, number, 1, 4000, 2000, 4000)
    r = np.linalg.norm(galaxy.stars.pos_kpc, axis=1)
    return galaxy, 0.75 * half_mass_radius(r, galaxy.stars.mass_msun)


def moved(galaxy: Galaxy, by_kpc: np.ndarray) -> Galaxy:
    return Galaxy(**{k: replace(p, pos_kpc=p.pos_kpc + by_kpc) for k, p in galaxy.components().items()})


def clumpy(galaxy: Galaxy, at_kpc: np.ndarray, size_kpc: float) -> Galaxy:
    """The same galaxy with every seventh star in one bright clump."""
    pos = galaxy.stars.pos_kpc.copy()
    pos[::7] = at_kpc + size_kpc * np.random.default_rng(1).standard_normal((len(pos[::7]), 3))
    return replace(galaxy, stars=replace(galaxy.stars, pos_kpc=pos))


@pytest.mark.parametrize("suite", ["bursty", "quiet", "middle"])
def test_a_catalogues_centre_is_as_far_off_as_it_was_put(suite):
    galaxy, r_e = a_galaxy(suite)
    one_re_kpc = np.array([0.6, 0.0, 0.8]) * r_e
    assert offset_re(galaxy) < 0.2
    for distance in (0.5, 1.5, 4.0):
        assert offset_re(moved(galaxy, distance * one_re_kpc)) == pytest.approx(distance, abs=0.2)
    # A bright clump is not taken for the centre, and does not put the galaxy off its centre.
    assert offset_re(clumpy(galaxy, one_re_kpc, 0.05 * r_e)) < 0.3


def test_particles_without_mass_move_no_centre():
    galaxy, r_e = a_galaxy("quiet")
    there = moved(galaxy, np.array([2.0 * r_e, 0, 0]))
    massless = Particles(0.1 * r_e * galaxy.gas.pos_kpc, galaxy.gas.vel_kms, np.zeros(len(galaxy.gas)))
    beside = replace(there, stars=concatenate([massless, there.stars]), gas=massless)
    assert offset_re(beside) == pytest.approx(offset_re(replace(there, gas=massless[:0])), abs=0.1)


def test_stars_off_their_halo_are_no_reason_to_refuse():
    galaxy, r_e = a_galaxy("quiet")
    away = replace(galaxy, dark=moved(galaxy, np.array([3.0 * r_e, 0, 0])).dark)
    assert offset_re(away) < 0.3
    assert offset_re(replace(galaxy, stars=moved(galaxy, np.array([3.0 * r_e, 0, 0])).stars)) < 0.3


def test_a_satellite_is_compared_with_itself_and_not_with_its_host():
    satellite, r_e = a_galaxy("bursty")
    host = moved(a_galaxy("quiet")[0], np.array([12.0 * r_e, 0, 0]))
    components = {
        k: concatenate([p, q])
        for (k, p), q in zip(host.components().items(), satellite.components().values(), strict=True)
    }
    components["stars"] = concatenate([host.stars, host.stars, host.stars, satellite.stars])
    together = Galaxy(**{k: replace(p, support_kpc=None, weight=None) for k, p in components.items()})
    assert offset_re(together, n_stars=len(satellite.stars)) < FARTHEST_RE / 2


@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize("n_others", [1, 3])
def test_neighbours_in_the_aperture_bring_no_centre_nearer(n_others, is_counted):
    """A galaxy beside one as heavy, and the satellite of a heavier one, whose stars a catalogue counts or not."""
    own, r_e = a_galaxy("bursty")
    others = [moved(a_galaxy("quiet", k)[0], np.array([25.0 * r_e, k * r_e, 0])) for k in range(n_others)]
    parts = [g.components() for g in (own, *others)]
    kinds = {k: concatenate([replace(p[k], support_kpc=None, weight=None) for p in parts]) for k in parts[0]}
    for distance in (0.5, 1.5, 4.0, 8.0):
        off = moved(Galaxy(**kinds), np.array([0.0, 0.0, distance * r_e]))
        found = offset_re(off, n_stars=len(own.stars) if is_counted else None)
        assert found == pytest.approx(distance, rel=0.25)


@pytest.mark.parametrize("suite", ["bursty", "quiet", "middle"])
def test_a_centre_found_is_the_potentials_and_not_that_of_the_brightest_clump(suite):
    galaxy, r_e = a_galaxy(suite)
    place_kpc = np.array([100.0, -20.0, 3000.0])
    for variant in (galaxy, clumpy(galaxy, np.array([0.0, r_e, 0.0]), 0.05 * r_e)):
        placed = moved(variant, place_kpc)
        centre = deepest_point(placed.stars, list(placed.components().values()))
        assert np.linalg.norm(centre - place_kpc) < 0.2 * r_e
    # The result does not depend on the number of particles, but for noise.
    tripled = {k: concatenate([p, p, p]) for k, p in galaxy.components().items() if len(p)}
    centre = deepest_point(tripled["stars"], list(tripled.values()))
    assert np.linalg.norm(centre) < 0.2 * r_e


def test_one_star_is_its_own_centre():
    star = Particles(np.array([[1.0, 2.0, 3.0]]), np.zeros((1, 3)), np.ones(1))
    assert np.allclose(deepest_point(star, [star]), [1, 2, 3])


def test_a_catalogue_that_is_off_is_refused_galaxy_by_galaxy(mocks, tmp_path):
    """A table whose centres are some kpc off, in one galaxy of three: that one alone is refused, with its distance."""
    for name in ("middle.yaml", "middle_00000", "middle_00001", "middle_00002"):
        (shutil.copytree if name[-1].isdigit() else shutil.copy)(mocks / "middle" / name, tmp_path / name)
    table = tmp_path / "middle_00001" / "galaxies.ecsv"
    rows = Table.read(table)
    rows["x"] += 15.0
    rows.write(table, overwrite=True)
    done = called("gen", "maps", tmp_path / "middle.yaml", "--out", tmp_path / "maps.zarr", "--views", 1, check=False)
    assert (done.returncode, "2 galaxies done, 1 failed" in done.stdout) == (3, True)
    (line,) = (tmp_path / "maps.zarr" / "failures.jsonl").read_text().splitlines()
    assert "middle_00001" in line
    assert re.search(r"centre lies \d+\.\d R_e from the nearest peak of the galaxy's stars and matter", line)
