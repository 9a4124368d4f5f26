"""The same galaxies written as particles and as cells: their maps agree as far as cells resolve them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kinmass.gen.catalogues.base import Halo
from kinmass.gen.catalogues.find import find_haloes
from kinmass.gen.formats import ramses_files
from kinmass.gen.mock import archive
from kinmass.gen.physics.particles import Galaxy
from kinmass.gen.physics.projection import views
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.suite import load_suite

PARTICLES = {"n_stars": 2000, "n_gas": 8000, "n_dark": 2000}
ROTATIONS = Rotation.random(3, random_state=1).as_matrix()
DENSITY, VELOCITY, SIGMA = 4, 5, 6  # channels of the gas


def read(folder: Path, suite: str, radius_kpc: float) -> tuple[Galaxy, Halo]:
    archive.write_suite_file(folder, suite)
    archive.write_snapshot(folder, suite, [3], 1, PARTICLES)
    settings = load_suite(folder / f"{suite}.yaml")
    (path,) = settings.snapshot_paths()
    with Snapshot(path, settings.format) as snapshot:
        (halo,) = find_haloes(settings.catalogue.format, settings.catalogue_path(path), path, snapshot.units)
        return snapshot.galaxy(halo.centre_kpc, radius_kpc), halo


def maps(galaxy: Galaxy, half_width_kpc: float) -> np.ndarray:
    rest = np.average(galaxy.stars.vel_kms, axis=0, weights=galaxy.stars.mass_msun)
    return views(galaxy, ROTATIONS, [half_width_kpc] * len(ROTATIONS), 16, rest)


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> dict[str, tuple[Galaxy, Halo]]:
    root = tmp_path_factory.mktemp("twins")
    # Far beyond the galaxy: a particle alone lies in a cell of 500 kpc, whose centre is anywhere.
    return {suite: read(root / suite, suite, 3900.0) for suite in ("quiet", "grid")}


def test_twins_are_of_one_lineage_and_have_the_same_stars_and_mass(twins):
    (particles, halo), (cells, twin) = twins["quiet"], twins["grid"]
    assert twin.lineage == "snap_000:3"  # what `Suite.lineage_of` calls the galaxy of `quiet`
    assert halo.r200_kpc == pytest.approx(twin.r200_kpc)
    assert cells.gas.side_kpc is not None
    assert particles.gas.side_kpc is None
    for name, p in particles.components().items():
        assert cells.components()[name].mass_msun.sum() == pytest.approx(p.mass_msun.sum(), rel=1e-6), name
    stars = [maps(galaxy, 15.0)[:, :4] for galaxy, _ in twins.values()]
    inside = stars[0][:, 0] > 0
    assert np.mean((stars[0][:, 0] > 0) == (stars[1][:, 0] > 0)) > 0.99  # single precision moves a few across a pixel
    assert np.corrcoef(stars[0][:, 1][inside], stars[1][:, 1][inside])[0, 1] > 0.99


def test_maps_of_cells_hold_the_gas_and_show_its_motion(twins):
    of_particles, of_cells = (maps(galaxy, 4500.0) for galaxy, _ in twins.values())
    sums = [m[:, DENSITY].sum(axis=(1, 2), dtype=float) for m in (of_particles, of_cells)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-6)
    of_particles, of_cells = (maps(galaxy, 15.0) for galaxy, _ in twins.values())
    for particles, cells in zip(of_particles, of_cells, strict=True):
        seen = particles[DENSITY] > 0.02 * particles[DENSITY].max()
        assert seen.sum() > 30
        assert np.std(np.log10(cells[DENSITY] / particles[DENSITY])[seen]) < 0.1
        spread = np.abs(particles[VELOCITY][seen]).max()
        assert np.sqrt(np.mean((cells[VELOCITY] - particles[VELOCITY])[seen] ** 2)) < 0.06 * spread
        assert (cells[SIGMA][seen].mean() - particles[SIGMA][seen].mean()) < 0.5  # motions inside cells are lost


def test_smaller_cells_show_more_of_the_dispersion(twins, tmp_path):
    """The dispersion that cells lose is that inside them: it comes back as they become smaller."""
    particles, _ = twins["quiet"]
    truth, lost = maps(particles, 15.0), []
    seen = truth[:, DENSITY] > 0.02 * truth[:, DENSITY].max()
    for per_cell in (64, 8, 1):
        path = tmp_path / str(per_cell) / "output_00001" / "info_00001.txt"
        members, _ = archive._place_in_box("grid", [3], 1, 8000.0, 40.0, PARTICLES)
        ramses_files.write(path, members, 8000.0, 0.75, archive.HUBBLE, levels=(4, 16), per_cell=per_cell)
        with Snapshot(path, "ramses") as snapshot:
            cells = maps(snapshot.galaxy(np.mod(members[0][1], 8000.0), 300.0), 15.0)
        lost.append((truth[:, SIGMA] - cells[:, SIGMA])[seen].mean())
    assert lost[0] > lost[1] > lost[2]
    assert abs(lost[2]) < 0.3 * lost[0]
