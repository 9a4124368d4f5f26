"""The three archive layouts: what was written comes back, in kpc, km/s and Msun, at z > 0 too."""

import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import command

from gen.catalogue import find_haloes
from gen.formats import FORMATS, SnapshotError, gadget, tipsy
from gen.mock.suites import make_galaxy
from gen.particles import Galaxy
from gen.snapshot import Snapshot

A, H = 0.6, 0.7
VELOCITY = np.array([300.0, -150.0, 80.0])
CENTRES = {"middle": np.array([20.0, -15.0, 10.0]), "corner": np.array([2000.0, 2000.0, -2000.0])}


def write(path: Path, form: str, galaxy: Galaxy, centre: np.ndarray, box_kpc: float = 4000.0) -> None:
    members = [(galaxy, centre, VELOCITY)]
    if form == "tipsy":
        tipsy.write(path, members, box_kpc, A, H)
    else:
        gadget.write(path, members, box_kpc, A, H, form)


@pytest.fixture(scope="module")
def galaxy() -> Galaxy:
    return make_galaxy("bursty", 2, 1, 800, 400, 800)[0]


@pytest.mark.parametrize("form", ["tipsy", "arepo", "gizmo"])
@pytest.mark.parametrize("place", CENTRES)
def test_read_back(form, place, galaxy, tmp_path):
    centre = CENTRES[place]
    write(tmp_path / "snap.hdf5", form, galaxy, centre)
    with Snapshot(tmp_path / "snap.hdf5", form) as snapshot:
        assert snapshot.units.scale_factor == pytest.approx(A)
        assert snapshot.units.box_kpc == pytest.approx(4000)
        found = snapshot.galaxy(centre, 600.0)
    # Tipsy positions are float32 fractions of the box: at its edge 4000 kpc * 6e-8 at best.
    grain = 1e-5 if form != "tipsy" or place == "middle" else 3e-4
    for name, written in galaxy.components().items():
        read = found.components()[name]
        assert len(read) == len(written)
        np.testing.assert_allclose(read.pos_kpc, written.pos_kpc, rtol=1e-5, atol=grain)
        np.testing.assert_allclose(read.vel_kms, written.vel_kms + VELOCITY, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(read.mass_msun, written.mass_msun, rtol=1e-5)
    np.testing.assert_allclose(found.gas.support_kpc, galaxy.gas.support_kpc, rtol=1e-4)


@pytest.mark.parametrize("form", ["tipsy", "arepo", "gizmo"])
def test_archives_stay_untouched(form, galaxy, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    write(folder / "snap.hdf5", form, galaxy, CENTRES["middle"])
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    os.chmod(folder, 0o555)
    with Snapshot(folder / "snap.hdf5", form) as snapshot:
        snapshot.galaxy(CENTRES["middle"], 50.0)
    os.chmod(folder, 0o755)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_a_region_of_a_big_snapshot_is_the_same_as_all_of_it(galaxy, tmp_path, monkeypatch):
    write(tmp_path / "snap.hdf5", "arepo", galaxy, CENTRES["corner"])
    with Snapshot(tmp_path / "snap.hdf5", "arepo") as snapshot:
        whole = snapshot.galaxy(CENTRES["corner"], 5.0)
    monkeypatch.setattr("gen.snapshot.READ_WHOLE", 10)
    with Snapshot(tmp_path / "snap.hdf5", "arepo") as snapshot:
        region = snapshot.galaxy(CENTRES["corner"], 5.0)
    assert 50 < len(whole.stars) < 800
    for a, b in zip(whole.components().values(), region.components().values(), strict=True):
        order_a, order_b = np.lexsort(a.pos_kpc.T), np.lexsort(b.pos_kpc.T)
        np.testing.assert_array_equal(a.pos_kpc[order_a], b.pos_kpc[order_b])


@pytest.mark.parametrize("suite", ["bursty", "quiet", "middle"])
def test_catalogues_find_the_mock_galaxies(suite, mocks):
    """Half the stars lie within a few R_e of where the catalogue says the galaxy is."""
    from gen.suite import load_suite

    described = load_suite(mocks / suite / f"{suite}.yaml")
    path = described.snapshot_paths()[0]
    units = FORMATS[described.format].units(path, {})
    haloes = find_haloes(described.catalogue.format, described.catalogue_path(path), path, units)
    assert len(haloes) == (10 if suite == "quiet" else 1)
    with Snapshot(path, described.format) as snapshot:
        for halo in haloes:
            near = snapshot.galaxy(halo.centre_kpc, 0.05 * halo.r200_kpc)
            assert len(near.stars) > 1500


DAMAGE = {
    "missing": lambda p: p.unlink(),
    "cut short": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a snapshot " * 1000),
}


@pytest.mark.parametrize("form", ["tipsy", "arepo", "gizmo"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(form, damage, galaxy, tmp_path):
    path = tmp_path / "snap.hdf5"
    write(path, form, galaxy, CENTRES["middle"])
    DAMAGE[damage](path)
    with pytest.raises(SnapshotError, match=re.escape(str(path))), Snapshot(path, form) as snapshot:
        snapshot.galaxy(CENTRES["middle"], 50.0)


@pytest.mark.parametrize("name", ["Coordinates", "Velocities", "Masses"])
def test_nan_in_a_field_is_refused(name, galaxy, tmp_path):
    path = tmp_path / "snap.hdf5"
    write(path, "gizmo", galaxy, CENTRES["middle"])
    with h5py.File(path, "r+") as file:
        file["PartType4"][name][5] = np.nan
    with pytest.raises(SnapshotError, match=f"NaN.*PartType4/{name}"), Snapshot(path, "gizmo") as snapshot:
        snapshot.galaxy(CENTRES["middle"], 50.0)


def test_nan_in_tipsy_positions_is_refused_not_waited_for(galaxy, tmp_path):
    path = tmp_path / "snap.tipsy"
    write(path, "tipsy", galaxy, CENTRES["middle"])
    raw = bytearray(path.read_bytes())
    raw[36:40] = np.array([np.nan], ">f4").tobytes()
    path.write_bytes(raw)
    with Snapshot(path, "tipsy") as snapshot, pytest.raises(SnapshotError, match="NaN"):
        snapshot.galaxy(CENTRES["middle"], 50.0)


def test_tipsy_without_its_param_says_so(galaxy, tmp_path):
    path = tmp_path / "a" / "snap.tipsy"
    path.parent.mkdir()
    write(path, "tipsy", galaxy, CENTRES["middle"])
    path.with_suffix(".param").unlink()
    with pytest.raises(SnapshotError, match=r"no \.param"):
        Snapshot(path, "tipsy")


def test_several_files_are_one_snapshot(galaxy, tmp_path):
    for i in range(2):
        half = Galaxy(**{k: p[np.arange(len(p)) % 2 == i] for k, p in galaxy.components().items()})
        write(tmp_path / f"snap.{i}.hdf5", "gizmo", half, CENTRES["middle"])
    with Snapshot(tmp_path / "snap.0.hdf5", "gizmo") as snapshot:
        found = snapshot.galaxy(CENTRES["middle"], 600.0)
    assert [len(p) for p in found.components().values()] == [len(p) for p in galaxy.components().values()]
    shutil.move(tmp_path / "snap.1.hdf5", tmp_path / "snap.2.hdf5")
    with pytest.raises(SnapshotError, match="file number 1"):
        Snapshot(tmp_path / "snap.0.hdf5", "gizmo")


def test_check_says_what_is_there_and_what_is_not(galaxy, tmp_path):
    write(
        tmp_path / "snap.hdf5",
        "arepo",
        Galaxy(galaxy.stars, galaxy.gas[:0], galaxy.dark, galaxy.black_holes),
        CENTRES["middle"],
    )
    said = command("gen", "check", tmp_path / "snap.hdf5").stdout
    for words in ("ArepoHDF5Dataset", "z = 0.6667", "4000 kpc", "800 particles of PartType4", "gas maps will be empty"):
        assert words in said
    assert command("gen", "check", tmp_path / "nothing.hdf5", check=False).returncode == 2
