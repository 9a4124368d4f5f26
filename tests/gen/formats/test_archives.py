"""Snapshots in the archives' layouts are read back in kpc, km/s and Msun as they were written, also at z > 0."""

import os
import re
import shutil
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from math import comb
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest
import yaml
from astropy.constants import k_B, m_p
from conftest import ROOT, command
from layouts import edit, set_attrs

from kinmass.gen.catalogues.find import find_haloes
from kinmass.gen.constants import KPC_CM
from kinmass.gen.formats import FORMATS, SnapshotError, gadget, tipsy
from kinmass.gen.formats.grid import GridFormat
from kinmass.gen.formats.recognise import recognised
from kinmass.gen.formats.smoothing import KERNEL_GAMMA, SMOOTHING, as_markdown
from kinmass.gen.formats.swift import Swift
from kinmass.gen.formats.tracers import luminosity
from kinmass.gen.look.check import describe
from kinmass.gen.look.sketch import sketch
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.particles import Galaxy
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.snapshots.typed import kernels_per_neighbours
from kinmass.gen.suite import Suite, Tracers

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
        assert snapshot.units.hubble == pytest.approx(H)
        assert snapshot.units.box_kpc == pytest.approx(4000)
        galaxy_read = snapshot.galaxy(centre, 600.0)
    # Tipsy positions are float32 fractions of the box: at its edge they are accurate to 4000 kpc * 6e-8 at best.
    tolerance_kpc = 1e-5 if form != "tipsy" or place == "middle" else 3e-4
    for name, written in galaxy.components().items():
        read = galaxy_read.components()[name]
        assert len(read) == len(written)
        np.testing.assert_allclose(read.pos_kpc, written.pos_kpc, rtol=1e-5, atol=tolerance_kpc)
        if name in ("stars", "gas"):
            np.testing.assert_allclose(read.vel_kms, written.vel_kms + VELOCITY, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(read.mass_msun, written.mass_msun, rtol=1e-5)
    np.testing.assert_allclose(galaxy_read.gas.support_kpc, galaxy.gas.support_kpc, rtol=1e-4)


@pytest.mark.parametrize("form", ["tipsy", "arepo", "gizmo"])
def test_archives_stay_untouched(form, galaxy, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    write(folder / "snap.hdf5", form, galaxy, CENTRES["middle"])
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    os.chmod(folder, 0o555)
    layouts.read(folder / "snap.hdf5", form, centre=CENTRES["middle"], radius=50.0)
    os.chmod(folder, 0o755)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_a_region_of_a_big_snapshot_is_the_same_as_all_of_it(galaxy, tmp_path, monkeypatch):
    write(tmp_path / "snap.hdf5", "arepo", galaxy, CENTRES["corner"])
    read_whole = layouts.read(tmp_path / "snap.hdf5", "arepo", centre=CENTRES["corner"], radius=5.0)
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10)
    read_by_region = layouts.read(tmp_path / "snap.hdf5", "arepo", centre=CENTRES["corner"], radius=5.0)
    assert 50 < len(read_whole.stars) < 800
    for whole_part, region_part in zip(
        read_whole.components().values(), read_by_region.components().values(), strict=True
    ):
        whole_order, region_order = np.lexsort(whole_part.pos_kpc.T), np.lexsort(region_part.pos_kpc.T)
        np.testing.assert_array_equal(whole_part.pos_kpc[whole_order], region_part.pos_kpc[region_order])


@pytest.mark.parametrize("suite", ["bursty", "quiet", "middle"])
def test_catalogues_find_the_mock_galaxies(suite, mocks):
    """Half the stars lie within a few R_e of the catalogue's position."""
    from kinmass.gen.suite import load_suite

    suite_file = load_suite(mocks / suite / f"{suite}.yaml")
    path = suite_file.snapshot_paths()[0]
    units = FORMATS[suite_file.format].units(path, {})
    haloes = find_haloes(suite_file.catalogue.format, suite_file.catalogue_path(path), path, units)
    assert len(haloes) == (10 if suite == "quiet" else 1)
    with Snapshot(path, suite_file.format) as snapshot:
        for halo in haloes:
            inner_galaxy = snapshot.galaxy(halo.centre_kpc, 0.05 * halo.r200_kpc)
            assert len(inner_galaxy.stars) > 1500


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
    with pytest.raises(SnapshotError, match=re.escape(str(path))):
        layouts.read(path, form, centre=CENTRES["middle"], radius=50.0)


@pytest.mark.parametrize("name", ["Coordinates", "Velocities", "Masses"])
def test_nan_in_a_field_is_refused(name, galaxy, tmp_path):
    path = tmp_path / "snap.hdf5"
    write(path, "gizmo", galaxy, CENTRES["middle"])
    with h5py.File(path, "r+") as file:
        file["PartType4"][name][5] = np.nan
    with pytest.raises(SnapshotError, match=f"NaN.*PartType4/{name}"):
        layouts.read(path, "gizmo", centre=CENTRES["middle"], radius=50.0)


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
    layouts.assert_refused(path, "tipsy", r"no \.param")


def test_several_files_are_one_snapshot(galaxy, tmp_path):
    for i in range(2):
        half = Galaxy(**{k: p[np.arange(len(p)) % 2 == i] for k, p in galaxy.components().items()})
        write(tmp_path / f"snap.{i}.hdf5", "gizmo", half, CENTRES["middle"])
        with h5py.File(tmp_path / f"snap.{i}.hdf5", "r+") as file:
            file["Header"].attrs["NumPart_Total"] = [len(galaxy.gas), len(galaxy.dark), 0, 0, len(galaxy.stars), 0]
    galaxy_read = layouts.read(tmp_path / "snap.0.hdf5", "gizmo", centre=CENTRES["middle"], radius=600.0)
    assert [len(p) for p in galaxy_read.components().values()] == [len(p) for p in galaxy.components().values()]
    shutil.move(tmp_path / "snap.1.hdf5", tmp_path / "snap.2.hdf5")
    layouts.assert_refused(tmp_path / "snap.0.hdf5", "gizmo", "file number 1")


def test_check_says_what_is_there_and_what_is_not(galaxy, tmp_path):
    write(
        tmp_path / "snap.hdf5",
        "arepo",
        Galaxy(galaxy.stars, galaxy.gas[:0], galaxy.dark, galaxy.black_holes),
        CENTRES["middle"],
    )
    output = command("gen", "check", tmp_path / "snap.hdf5").stdout
    for words in (
        "format      arepo",
        "z = 0.6667",
        "4000 kpc",
        "800 particles of PartType4",
        "gas maps will be empty",
    ):
        assert words in output
    assert command("gen", "check", tmp_path / "nothing.hdf5", check=False).returncode == 2


ARCHIVES = {
    "eagle": ("eagle", layouts.eagle),
    "tng": ("arepo", layouts.tng),
    "auriga": ("arepo", layouts.auriga),
    "fire": ("gizmo", layouts.fire),
    "gizmo_2020": ("gizmo", layouts.gizmo_2020),
    "gizmo_newer": ("gizmo", layouts.gizmo_newer),
    "gadget4": ("gadget", layouts.gadget4),
    "simba": ("simba", layouts.simba),
    "swift": ("swift", layouts.swift),
}
CORNER = np.zeros(3)


def assert_same(galaxy_read: Galaxy, written: Galaxy) -> None:
    """Compare two galaxies, particle by particle in the same order, to float32's precision.

    Velocities of dark matter and black holes are not read, and NaN.
    """
    for name, p in written.components().items():
        read = galaxy_read.components()[name]
        assert len(read) == len(p), name
        np.testing.assert_allclose(read.pos_kpc, p.pos_kpc, atol=1e-5)
        if name in ("stars", "gas"):
            np.testing.assert_allclose(read.vel_kms, p.vel_kms, rtol=1e-6, atol=1e-4)
        else:
            assert np.isnan(read.vel_kms).all(), name
        np.testing.assert_allclose(read.mass_msun, p.mass_msun, rtol=1e-6)
    np.testing.assert_allclose(galaxy_read.gas.support_kpc, written.gas.support_kpc, rtol=2e-6)


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("files", [1, 3])
def test_an_archives_true_layout_gives_back_the_particles(archive, files, tmp_path):
    """Around the corner of the periodic box, at a = 0.6 and h = 0.7."""
    form, layout = ARCHIVES[archive]
    written = layouts.galaxy()
    path = layout(tmp_path / "snap_028.hdf5", written, files)
    assert recognised(path) == form
    with Snapshot(path, form, layouts.DARK) as snapshot:
        assert snapshot.units.box_kpc == pytest.approx(layouts.BOX)
        assert (snapshot.units.scale_factor, snapshot.units.hubble) == pytest.approx((layouts.A, layouts.H))
        assert_same(snapshot.galaxy(CORNER, 100.0), written)
        assert len(snapshot.galaxy(CORNER + layouts.BOX / 2, 100.0).stars) == 0
        assert_same(snapshot.galaxy(CORNER + layouts.BOX, 100.0), written)


@pytest.mark.parametrize("archive", ARCHIVES)
def test_without_their_datasets_words_groups_and_the_formats_default_say_the_same(archive, tmp_path):
    form, layout = ARCHIVES[archive]
    written = layouts.galaxy()
    path = layout(tmp_path / "snap.hdf5", written)

    def strip(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            for attribute in list(item.attrs):
                del item.attrs[attribute]

    edit(path, lambda file: file.visititems(strip))
    with Snapshot(path, form, layouts.DARK) as snapshot:
        assert "attributes" not in snapshot.units.source
        assert_same(snapshot.galaxy(CORNER, 100.0), written)


def test_swifts_virtual_snapshot_is_whole_or_refused(tmp_path):
    written = layouts.galaxy()
    path = layouts.swift_virtual(tmp_path / "snap_028.hdf5", written)
    with Snapshot(path, "swift", tracers=Tracers(gas="hi")) as snapshot:
        galaxy_read = snapshot.galaxy(CORNER, 100.0)
        assert_same(galaxy_read, written)
    hi_per_hydrogen = np.concatenate([np.linspace(0, 1, 3 * n).reshape(-1, 3)[:, 1] for n in (14, 13, 13)])
    np.testing.assert_allclose(galaxy_read.gas.weight, 0.7 * hi_per_hydrogen * written.gas.mass_msun, rtol=1e-6)
    (tmp_path / "snap_028.1.hdf5").unlink()
    layouts.assert_refused(path, "swift", r"snap_028\.1\.hdf5, which is not beside it")


def test_virtual_files_elsewhere_are_found_from_a_linked_snapshot(tmp_path):
    written = layouts.galaxy()
    (tmp_path / "archive").mkdir()
    path = layouts.swift_virtual(tmp_path / "archive" / "snap_028.hdf5", written)
    (tmp_path / "mine.hdf5").symlink_to(path)
    assert_same(layouts.read(tmp_path / "mine.hdf5", "swift"), written)


def test_swifts_kernel_decides_the_support(tmp_path):
    written = layouts.galaxy()
    path = layouts.swift(tmp_path / "s.hdf5", written, kernel="Wendland C2")
    edit(path, lambda f: f["HydroScheme"].attrs.update({"Kernel function": np.array([b"Wendland C2"])}))  # as h5py may
    ratio = layouts.read(path, "swift").gas.support_kpc / written.gas.support_kpc
    np.testing.assert_allclose(ratio, KERNEL_GAMMA["Wendland C2"] / KERNEL_GAMMA["Quartic spline (M5)"], rtol=1e-6)
    with pytest.raises(SnapshotError, match="unknown kernel 'Top hat'"):
        Snapshot(layouts.swift(tmp_path / "t.hdf5", written, kernel="Top hat"), "swift")


def splines(n: int, x: np.ndarray) -> np.ndarray:
    """Return the B-spline M_n in q = r / H, not normalised: cubic M4, quartic M5, quintic M6."""
    half = n / 2
    terms = [(-1) ** k * comb(n, k) * np.maximum(half - k - half * x, 0) ** (n - 1) for k in range(n)]
    return np.sum([t for k, t in enumerate(terms) if k < half], axis=0)


KERNELS = {
    "Cubic spline (M4)": lambda q: splines(4, q),
    "Quartic spline (M5)": lambda q: splines(5, q),
    "Quintic spline (M6)": lambda q: splines(6, q),
    "Wendland C2": lambda q: (1 - q) ** 4 * (1 + 4 * q),
    "Wendland C4": lambda q: (1 - q) ** 6 * (1 + 6 * q + 35 / 3 * q**2),
    "Wendland C6": lambda q: (1 - q) ** 8 * (1 + 8 * q + 25 * q**2 + 32 * q**3),
}


@pytest.mark.parametrize(
    ("archive", "declared", "words"),
    [
        ("tng", "gizmo", "field GFM_StellarFormationTime of the format `arepo`"),
        ("eagle", "swift", "field Mass and Header's ExpansionFactor of the format `eagle`"),
        ("swift", "gadget", "Header's Code of the format `swift`"),
    ],
)
def test_kernels_are_not_read_by_another_codes_convention(archive, declared, words, tmp_path):
    """All but the kernels would be right: of an isolated run of SWIFT, whose Time is a time, half as large."""
    path = ARCHIVES[archive][1](tmp_path / "snap.hdf5", layouts.galaxy(), files=2)
    if archive == "swift":
        for file in tmp_path.glob("snap.*.hdf5"):
            edit(
                file,
                lambda f: (f["Cosmology"].attrs.update({"Cosmological run": [0]}), f["Header"].attrs.pop("Redshift")),
            )
    layouts.assert_refused(path, declared, f"{re.escape(str(path))}: by its {re.escape(words)}")
    with pytest.raises(SnapshotError, match=re.escape(words)):
        describe(path, declared)


@pytest.mark.parametrize("kernel", KERNEL_GAMMA)
def test_a_kernels_support_is_gamma_times_twice_its_standard_deviation(kernel):
    """Dehnen & Aly 2012, eq. 8: h = 2 sigma, sigma^2 = 1/3 of the mean r^2."""
    q, w = np.polynomial.legendre.leggauss(400)
    q, w = (q + 1) / 2, w * KERNELS[kernel]((q + 1) / 2)
    sigma = np.sqrt((w * q**4).sum() / (w * q**2).sum() / 3)
    assert 1 / (2 * sigma) == pytest.approx(KERNEL_GAMMA[kernel], rel=1e-6)


def test_stored_lengths_and_densities_give_one_support(tmp_path):
    """Without smoothing lengths, SWIFT's definition of h is used: rho h^3 = m eta^3."""
    written = layouts.galaxy()
    path = layouts.swift(tmp_path / "s.hdf5", written)
    with h5py.File(path, "r+") as file:
        del file["PartType0/SmoothingLengths"]
    assert_same(layouts.read(path, "swift"), written)


def set_neighbours(path, line):
    """Write another line for the number of neighbours into a run's .param."""
    param = path.with_suffix(".param")
    param.write_text(param.read_text().replace("nSmooth = 32", line))


@pytest.mark.parametrize(("line", "neighbours"), [("nSmooth = 50   # Wendland C2", 50), ("", 32)])
def test_kernels_of_tipsy_have_as_many_neighbours_as_the_run(line, neighbours, tmp_path):
    """NIHAO's have 50; all were taken for Gasoline's 32, and its gas for points of 86 per cent of the size."""
    galaxy = layouts.galaxy()
    path = layouts.tipsy(tmp_path / "run.00512", galaxy)
    set_neighbours(path, line)
    gas = layouts.read(path, "tipsy").gas  # rho is written for 32 of them
    np.testing.assert_allclose(gas.support_kpc, galaxy.gas.support_kpc * (neighbours / 32) ** (1 / 3), rtol=1e-5)


def test_a_number_of_neighbours_that_cannot_be_is_refused(tmp_path):
    path = layouts.tipsy(tmp_path / "run.00512", layouts.galaxy())
    set_neighbours(path, "nSmooth = 0")
    layouts.assert_refused(path, "tipsy", r"nSmooth = 0 in run\.param")


def test_the_docs_show_the_table_of_smoothing_lengths():
    assert as_markdown() in (ROOT / "docs" / "generation.md").read_text()
    assert SMOOTHING.keys() == {name for name, reader in FORMATS.items() if not isinstance(reader, GridFormat)}


HARMLESS = {
    "one-element arrays": lambda f: f["Header"].attrs.update(
        {k: np.ravel(f["Header"].attrs[k]) for k in ("BoxSize", "Time", "Redshift", "HubbleParam", "OmegaLambda")}
    ),
    "no MassTable": lambda f: f["Header"].attrs.pop("MassTable"),
    "no NumFilesPerSnapshot": lambda f: f["Header"].attrs.pop("NumFilesPerSnapshot"),
    "NumFilesPerSnapshot of the whole": set_attrs(NumFilesPerSnapshot=448),
    "NumPart of the whole": set_attrs(NumPart_ThisFile=[9, 9, 0, 0, 9, 0], NumPart_Total=[99, 9, 0, 0, 9, 0]),
    "BoxSize as a vector": set_attrs(BoxSize=np.full(3, layouts.BOX / layouts.KPC_H)),
    "Time not set": set_attrs(Time=0.0),
    "MassTable beside Masses": set_attrs(MassTable=np.ones(6)),
    "one column of masses": lambda f: [
        f.create_dataset(f"{name}/Masses", data=f[name].pop("Masses")[()][:, None])
        for name in list(f)
        if "Part" in name
    ],
    "no velocities of dark matter": lambda f: f["PartType1"].pop("Velocities"),
    "another mass beside it": lambda f: f["PartType4"].create_dataset("Mass", data=np.full(40, 7.0)),
    "all of SWIFT's particles": set_attrs(OutputType=np.bytes_("FullVolume")),
    "all of EAGLE's particles": set_attrs(SamplingRate=np.array([1.0])),
    # NumPart_Total stays that of all.
    "a region that swiftsimio has cut out": set_attrs(OutputType=np.bytes_("VolumeSubset"), NumPart_Total=[999] * 7),
    "a cutout of TNG's API": set_attrs(CutoutType="Subhalo", CutoutID=3, NumPart_Total=[999] * 6),
    "neutrinos sampled": set_attrs(OutputType="SubSampled", SubSampleFractions=[0, 0, 0, 0, 0, 0, 0.1]),
    "a type without particles as a group": lambda f: f.create_group("PartType5"),
    "one as rows of three": lambda f: [
        f.create_dataset(f"PartType5/{k}", (0, 3), "f4") for k in ("Coordinates", "Velocities")
    ],
    "one as flat rows": lambda f: [
        f.create_dataset(f"PartType5/{k}", (0,), "f4") for k in ("Coordinates", "Velocities")
    ],
    "one without a shape": lambda f: [
        f.create_dataset(f"PartType5/{k}", data=h5py.Empty("f4")) for k in ("Coordinates", "Masses")
    ],
    "one of numbers alone": lambda f: f.create_dataset("PartType5/ParticleIDs", (0,), "u8"),
}


@pytest.mark.parametrize("trap", HARMLESS)
def test_odd_headers_of_cutouts_and_types_without_particles_change_nothing(trap, tmp_path):
    written = layouts.galaxy()
    path = edit(layouts.fire(tmp_path / "cutout.hdf5", written), HARMLESS[trap])
    assert_same(layouts.read(path, "gizmo"), written)


def test_a_region_may_begin_at_the_corner_of_its_box(tmp_path):
    """As in swiftsimio's own example; of any other file it is asked whether BoxSize is in another unit."""
    written = layouts.galaxy()
    for p in (written.gas, written.stars, written.dark):
        p.pos_kpc[...] = np.random.default_rng(len(p)).uniform(0, 0.5 * layouts.BOX, p.pos_kpc.shape)
        p.pos_kpc[:2] = [[0], [0.5 * layouts.BOX]]
    path = layouts.swift(tmp_path / "cut_0127.hdf5", written)
    with pytest.raises(SnapshotError, match="positions fill a cube of 2000 kpc from the corner of a box of 4000 kpc"):
        Snapshot(path, "swift")
    with Snapshot(edit(path, set_attrs(OutputType="VolumeSubset")), "swift") as snapshot:
        assert snapshot.units.box_kpc == pytest.approx(layouts.BOX)


def test_a_cutout_named_like_a_first_file_is_whole(tmp_path):
    written = layouts.galaxy()
    path = edit(layouts.fire(tmp_path / "cutout.0.hdf5", written), set_attrs(NumFilesPerSnapshot=448))
    assert_same(layouts.read(path, "gizmo"), written)


@pytest.mark.parametrize("gone", ["1", "2", "12"])
def test_a_missing_file_is_named(gone, tmp_path):
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy(), files=3)
    for number in gone:
        (tmp_path / f"snap.{number}.hdf5").unlink()
    layouts.assert_refused(path, "gizmo", f"file number {gone[0]} of this snapshot is missing")


def test_only_the_first_file_stands_for_a_snapshot(tmp_path):
    layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy(), files=3)
    layouts.assert_refused(tmp_path / "snap.2.hdf5", "gizmo", "not the first file")


def test_snapshots_of_their_own_that_are_named_as_parts_are_told_so(tmp_path):
    for number in range(3):
        layouts.fire(tmp_path / f"halo.{number}.hdf5", layouts.galaxy(40 + number, seed=number))
    for number in range(3):
        with pytest.raises(SnapshotError, match=rf"snapshots of their own.* rename them if so, as halo_{number}\.hdf5"):
            Snapshot(tmp_path / f"halo.{number}.hdf5", "gizmo")


def test_snapshots_that_are_named_by_their_times_are_no_parts(tmp_path):
    """`snap_z0.000.hdf5` and `snap_z0.500.hdf5` are whole; at one time they would be parts that say they are alone."""
    written = layouts.galaxy()
    now, then = (layouts.fire(tmp_path / f"snap_z0.{number}.hdf5", written) for number in ("000", "500"))
    edit(then, set_attrs(Time=1 / (1 + 2.0), Redshift=2.0))
    for path in (now, then):
        assert FORMATS["gizmo"].listed_files(path) == [path]
    assert_same(layouts.read(now, "gizmo"), written)
    edit(then, set_attrs(Time=layouts.A, Redshift=1 / layouts.A - 1))
    layouts.assert_refused(then, "gizmo", "NumFilesPerSnapshot and NumPart_Total are wrong")


def put(field: str, value: object, row: object = 3) -> Callable[[h5py.File], None]:
    return lambda file: file[field].__setitem__(row, value)


def again(file: h5py.File, name: str, dtype: str) -> None:
    values = file[name][()]
    del file[name]
    file[name] = values.astype(dtype)


def twice(file: h5py.File) -> None:
    """Append all particles to themselves, as a script does that joins pieces which overlap."""
    for group in (file[name] for name in file if name.startswith("PartType")):
        for field in list(group):
            values = group[field][()]
            del group[field]
            group[field] = np.concatenate([values, values])


REFUSED = {
    "unequal BoxSize": (set_attrs(BoxSize=[100.0, 100.0, 50.0]), "unequal sides"),
    "a disagrees": (set_attrs(Time=0.5), "contradicts itself.*Time a = 0.5, Redshift a = 0.6"),
    "a negative": (set_attrs(Redshift=-2.0, Time=-2.0), "scale factor a = -2"),
    "a enormous": (set_attrs(Redshift=-0.99, Time=100.0), "scale factor a = 100"),
    "a not a number": (set_attrs(Redshift=np.nan, Time=np.nan), "contradicts itself|scale factor a = nan"),
    "h tiny": (set_attrs(HubbleParam=0.007), "h = 0.007"),
    "h in km/s/Mpc": (set_attrs(HubbleParam=70.0), "h = 70"),
    "faster than light": (put("PartType4/Velocities", 1e6), "speeds beyond that of light in PartType4/Velocities"),
    "negative mass": (put("PartType1/Masses", -1.0), "negative masses in PartType1/Masses"),
    "massless": (put("PartType1/Masses", 0.0, ...), "only zeros in PartType1/Masses"),
    "far outside": (put("PartType4/Coordinates", 3e4), "more than a box outside the box in PartType4/Coordinates"),
    "smoothing length": (put("PartType0/SmoothingLength", np.inf), "NaN or infinite values in PartType0/Smoothing"),
    "some without kernels": (
        put("PartType0/SmoothingLength", 0.0, slice(5)),
        "5 of 40 values of SmoothingLength are 0",
    ),
    "stars at rest": (put("PartType4/Velocities", 0.0, ...), "40 of 40 particles at rest in PartType4/Velocities"),
    "some stars at rest": (put("PartType4/Velocities", 0.0, slice(11)), "11 of 40 particles at rest in PartType4/Vel"),
    "some gas at rest": (put("PartType0/Velocities", 0.0, slice(11)), "11 of 40 particles at rest in PartType0/Vel"),
    "some gas nowhere": (put("PartType0/Coordinates", 0.0, slice(2)), r"2 particles at \(0, 0, 0\) in PartType0/Coord"),
    "whole numbers": (lambda f: again(f, "PartType4/Velocities", "i2"), "PartType4/Velocities are int16, too coarse"),
    "a type of its own": (
        lambda f: f.copy("PartType1", f, "PartType6"),
        "40 particles of PartType6, and types above 5",
    ),
    "half of the masses": (put("PartType4/Masses", 0.0, slice(20)), "20 of 40 masses are zero in PartType4/Masses"),
    "a share of the particles": (
        set_attrs(OutputType=np.bytes_("SubSampled"), SubSampleFractions=[0, 0, 0, 0, 0.25, 0, 0]),
        "OutputType SubSampled, .* masses would be those of a share",
    ),
    "a sample of EAGLE": (set_attrs(SamplingRate=0.1), "SamplingRate 0.1: masses would be those of a share"),
    "every particle twice": (twice, "of 80 particles are others' copies, with the same places in PartType"),
    "one part of several": (
        set_attrs(NumFilesPerSnapshot=4, NumPart_Total=[160, 160, 0, 0, 160, 0]),
        "it has 120 of the 480 particles of its snapshot, by NumPart_Total",
    ),
    "one part that says it is alone": (
        set_attrs(NumFilesPerSnapshot=1, NumPart_Total=[80, 80, 0, 0, 80, 0]),
        "it has 120 of the 240 particles of its snapshot, by NumPart_Total",
    ),
    "one part that does not say of how many": (
        lambda f: (f["Header"].attrs.pop("NumFilesPerSnapshot"), set_attrs(NumPart_Total=[40, 41, 0, 0, 40])(f)),
        "it has 120 of the 121 particles of its snapshot, by NumPart_Total",
    ),
    "a time and no expansion": (set_attrs(Time=0.0, Redshift=0.0), "Time = 0 and Redshift = 0.*`units: {cosmological"),
    "stars without velocities": (lambda f: f["PartType4"].pop("Velocities"), "PartType4 has no Velocities, which maps"),
    "no mass at all": (lambda f: f["PartType4"].pop("Masses"), "PartType4 has neither Masses nor a MassTable entry"),
    "short field": (
        lambda f: (f["PartType0"].pop("SmoothingLength"), f["PartType0"].create_dataset("SmoothingLength", data=[1.0])),
        r"PartType0/SmoothingLength has shape \(1,\), not \(40,\)",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_is_refused_by_name(fault, tmp_path):
    change, words = REFUSED[fault]
    path = edit(layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), change)
    with pytest.raises(SnapshotError, match=f"{re.escape(str(path))}.*({words})"):
        layouts.read(path, "gizmo")


@pytest.mark.parametrize("whole", [True, False])
def test_a_type_without_masses_may_be_left_out(whole, tmp_path, monkeypatch):
    """A cutout of few fields has black holes without masses, AREPO its tracers: the file was refused all the same."""
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10**6 if whole else 10)

    def add_holes(file: h5py.File) -> None:
        file["PartType5/Coordinates"] = np.array([[1.0, 2, 3], [3.0, 2, 1]])
        for name in ("NumPart_ThisFile", "NumPart_Total"):
            file["Header"].attrs[name] = [40, 40, 0, 0, 40, 2]

    path = edit(layouts.fire(tmp_path / "snap.hdf5", written := layouts.galaxy()), add_holes)
    read = layouts.read(path, "gizmo", layouts.DARK | {"black_holes": []})
    for name, p in written.components().items():
        assert read.components()[name].mass_msun.sum() == pytest.approx(p.mass_msun.sum(), rel=1e-6)
    assert not [words for words in sketch(path, "gizmo", layouts.DARK | {"black_holes": []}).wrong if "mass" in words]
    with pytest.raises(SnapshotError, match=r"PartType5 has neither Masses nor .*, or leave this type out"):
        layouts.read(path, "gizmo", layouts.DARK)


def test_places_that_were_not_written_are_missed_wherever_the_galaxy_is(tmp_path, monkeypatch):
    """A sphere that does not reach (0, 0, 0) would only lack these particles, and a kept index says nothing of them."""
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10)
    monkeypatch.setattr("yt.geometry.particle_geometry_handler.ParticleIndex.chunksize", 25)
    path = edit(layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), put("PartType1/Coordinates", 0.0, slice(5)))
    for _ in range(2):
        with pytest.raises(SnapshotError, match=r"snap\.hdf5: 5 particles at \(0, 0, 0\) in PartType1/Coordinates"):
            Snapshot(path, "gizmo", indexes=tmp_path / "indexes")
    assert len(layouts.read(path, "gizmo", {"dark": []}).stars) == 40  # who does not need them may leave them out


@pytest.mark.parametrize(
    ("values", "words"), [(0.0, "5 of 40 values of Density are 0"), (-1e-4, "negative values in Density")]
)
def test_one_cell_without_a_density_does_not_change_the_kernels_of_all(values, words, tmp_path):
    written = layouts.galaxy()
    path = edit(layouts.tng(tmp_path / "snap.hdf5", written), put("PartType0/Density", values, slice(5)))
    with pytest.raises(SnapshotError, match=words):
        layouts.read(path, "arepo", layouts.DARK)
    if values == 0:  # a cell that has no mass needs none
        edit(path, put("PartType0/Masses", 0.0, slice(5)))
        gas = layouts.read(path, "arepo", layouts.DARK).gas
        np.testing.assert_allclose(gas.support_kpc[5:], written.gas.support_kpc[5:], rtol=2e-6)


@pytest.mark.parametrize("factor", [1e10, 1e-10])
@pytest.mark.parametrize(
    ("archive", "field", "power"),
    [("tng", "Density", 1), ("swift", "Densities", 1), ("fire", "SmoothingLength", 1 / 3),
     ("gadget4", "SmoothingLength", -1 / 3), ("swift", "SmoothingLengths", 1 / 3)],
)  # fmt: skip
def test_kernels_in_another_unit_than_places_and_masses_are_refused(archive, field, power, factor, tmp_path):
    """A script converts what it knows of, and leaves the rest: maps of gas would be a haze, or single points."""
    form, layout = ARCHIVES[archive]
    written = layouts.galaxy(400)
    path = layout(tmp_path / "snap.hdf5", written)
    if field == "Densities":
        edit(path, lambda f: f["PartType0"].pop("SmoothingLengths"))
    gas = layouts.read(path, form, layouts.DARK, radius=600.0).gas
    np.testing.assert_allclose(gas.support_kpc, written.gas.support_kpc, rtol=2e-3)
    edit(path, lambda f: f["PartType0"][field].write_direct(np.float32(f["PartType0"][field][()] * factor**power)))
    with Snapshot(path, form, layouts.DARK) as snapshot, pytest.raises(SnapshotError, match="another unit"):
        snapshot.galaxy(CORNER, 600.0)


def test_kernels_are_told_by_neighbours_whatever_the_unit_of_length():
    """A lattice of n cells across has its 32nd neighbour at two cells, and a thinned file tells nothing."""
    cells = np.stack(np.meshgrid(*3 * [np.arange(12.0)]), axis=-1).reshape(-1, 3)
    for unit in (1e-3, 1.0, 1e3):
        ratio = kernels_per_neighbours(unit * cells, np.full(len(cells), 2 * unit))
        assert 0.6 < ratio <= 1.0
    many = np.random.default_rng(1).uniform(size=(100_000, 3))  # of which a part is looked at
    expected_distance = (32 / len(many) / (4 / 3 * np.pi)) ** (1 / 3)
    assert kernels_per_neighbours(many, np.full(len(many), expected_distance)) == pytest.approx(1, rel=0.2)
    assert kernels_per_neighbours(cells[:100], np.full(100, 1e-9)) == 1.0
    assert kernels_per_neighbours(cells, np.zeros(len(cells))) == 1.0  # of wind, which no map shows


@pytest.mark.parametrize("other", ["dark", "gas"])
def test_masses_of_which_some_were_converted_are_refused(other, tmp_path):
    """As where a script writes Masses in Msun, and leaves the MassTable in the code's unit: no mass was dark."""
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())

    def convert(file: h5py.File) -> None:
        if other == "dark":
            del file["PartType1/Masses"]
            file["Header"].attrs["MassTable"] = np.array([0, layouts.DARK_MSUN / layouts.MASS_H, 0, 0, 0, 0])
        for number in (0, 4) if other == "dark" else (1, 4):
            file[f"PartType{number}/Masses"][...] *= np.float32(layouts.MASS_H)

    units, words = {"mass_msun": layouts.H}, f"particles of {other} weigh .* Write those of all types in one unit"
    edit(path, convert)
    with Snapshot(path, "gizmo", units=units) as snapshot, pytest.raises(SnapshotError, match=words):
        snapshot.galaxy(CORNER, 100.0)
    wrong = sketch(path, "gizmo", units=units, min_stars=1).wrong
    assert re.search(words.replace(other, {"dark": "PartType1", "gas": "PartType0"}[other]), "; ".join(wrong))


@pytest.mark.parametrize("folder", ["50%b", "Größe 星系", "a b[c]{d}"])
def test_a_folder_may_have_any_name(folder, tmp_path):
    """HDF5 takes `%b` in the name of a virtual dataset's file for a number."""
    written, place = layouts.galaxy(), tmp_path / folder
    place.mkdir()
    for form, path, tracers in (
        ("swift", layouts.swift_virtual(place / "snap_028.hdf5", written), Tracers(gas="hi")),
        (
            "arepo",
            layouts.tng(place / "tng.hdf5", written),
            Tracers(stars="light", light_field="GFM_StellarPhotometrics[r]"),
        ),
    ):
        assert_same(layouts.read(path, form, layouts.DARK, tracers=tracers), written)


def test_a_file_in_the_working_folder_has_its_columns(tmp_path, monkeypatch):
    layouts.tng(tmp_path / "snap.hdf5", layouts.galaxy())
    monkeypatch.chdir(tmp_path)
    tracers = Tracers(stars="light", light_field="GFM_StellarPhotometrics[r]")
    assert layouts.read(Path("snap.hdf5"), "arepo", layouts.DARK, tracers=tracers).stars.weight.min() > 1


def test_a_field_that_some_files_lack_is_missed(tmp_path):
    path = layouts.tng(tmp_path / "snap.hdf5", layouts.galaxy(), 3)
    edit(tmp_path / "snap.1.hdf5", lambda f: f.pop("PartType4/GFM_StellarFormationTime"))
    words = "PartType4 has GFM_StellarFormationTime in some of its files and not in all"
    with pytest.raises(SnapshotError, match=words):
        layouts.read(path, "arepo", layouts.DARK)


def test_units_come_from_the_suite_then_datasets_then_groups_then_the_format(tmp_path):
    path = layouts.eagle(tmp_path / "snap.hdf5", layouts.galaxy())
    eagle = FORMATS["eagle"]

    def length(suite_units: dict[str, float]) -> float:
        return eagle.units(path, suite_units).length_kpc * layouts.H / layouts.A

    assert length({"length_kpc": 5.0}) == pytest.approx(5)
    assert eagle.units(path, {"length_kpc": 5.0}).mass_msun == pytest.approx(layouts.MASS_H)
    set_units = {"UnitLength_in_cm": 7 * KPC_CM, "UnitMass_in_g": 2e43, "UnitVelocity_in_cm_per_s": 1e5}
    edit(path, lambda f: f.create_group("Units").attrs.update(set_units))
    assert length({}) == pytest.approx(1000)
    edit(path, lambda f: [f[f"PartType{i}/Coordinates"].attrs.update(CGSConversionFactor=np.nan) for i in (0, 1, 4)])
    assert length({}) == pytest.approx(7)
    edit(path, lambda f: f.pop("Units"))
    assert length({}) == pytest.approx(1000)
    assert "assumed Mpc/h" in eagle.units(path, {}).source
    assert FORMATS["gadget"].units(path, {}).length_kpc == pytest.approx(layouts.KPC_H)


@pytest.mark.parametrize(("flag", "power"), [(1, 0.0), (0, -1.0)])
def test_velocities_of_mp_gadget_have_the_factors_that_its_header_says(flag, power, tmp_path):
    """A snapshot of ASTRID that a script has copied from its bigfile: velocities were too small by sqrt(a)."""
    path = edit(layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), set_attrs(UsePeculiarVelocity=flag))
    units = FORMATS["gadget"].units(path, {})
    assert units.velocity_kms == pytest.approx(layouts.A**power)
    assert units.length_kpc == pytest.approx(layouts.KPC_H)
    assert "UsePeculiarVelocity of its Header" in units.source


@pytest.mark.parametrize("whole", [True, False])
def test_black_holes_of_mp_gadget_that_others_have_swallowed_have_no_mass_twice(whole, tmp_path, monkeypatch):
    """They stay in its snapshots with the mass that their swallower has, too: the truth had it twice."""
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10**6 if whole else 10)
    place, mass = np.array([[1.0, 2, 3], [1.0, 2, 2], [2.0, 2, 3]]), np.array([7e7, 2e7, 1e7])

    def add_holes(file: h5py.File) -> None:
        holes = file.create_group("PartType5")
        holes["Coordinates"], holes["Masses"] = place / layouts.KPC_H, np.float32(mass / layouts.MASS_H)
        holes["Swallowed"] = np.array([0, 1, 1], dtype=np.uint8)
        for name in ("NumPart_ThisFile", "NumPart_Total"):
            file["Header"].attrs[name] = [40, 40, 0, 0, 40, 3]

    path = edit(layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), add_holes)
    holes = layouts.read(path, "gadget", layouts.DARK).black_holes
    np.testing.assert_allclose(holes.mass_msun, mass[:1], rtol=1e-6)
    np.testing.assert_allclose(holes.pos_kpc, place[:1], rtol=1e-6)
    edit(path, lambda file: file["PartType5"].pop("Swallowed"))
    assert len(layouts.read(path, "gadget", layouts.DARK).black_holes) == 3


def test_an_isolated_run_whose_header_has_all_masses_is_read_in_the_units_of_its_datasets(tmp_path):
    """GADGET-4 writes powers of zero beside positions and velocities, and then no masses: it was refused."""

    def isolate(file: h5py.File) -> None:
        for number, (name, one) in product((0, 1, 4), {"Coordinates": layouts.KPC, "Velocities": 1e5}.items()):
            layouts.attributes(file[f"PartType{number}/{name}"], ("to_cgs", "a_scaling", "h_scaling"), (one, 0, 0))
        for number in (0, 1, 4):
            del file[f"PartType{number}/Masses"]
        file["Header"].attrs.update(MassTable=[1e-5, 1e-3, 0, 0, 1e-5, 0], Redshift=0.0, Time=1.5)
        file["Parameters"].attrs.update(ComovingIntegrationOn=0, OmegaLambda=0.0, HubbleParam=1.0)

    path = edit(layouts.gadget4(tmp_path / "snap.hdf5", layouts.galaxy()), isolate)
    units = FORMATS["gadget"].units(path, {})
    assert (units.length_kpc, units.mass_msun, units.velocity_kms) == pytest.approx((1, 1e10, 1))
    edit(path, lambda f: f["Parameters"].attrs.update(HubbleParam=0.7))
    with pytest.raises(SnapshotError, match=r"factors of 1 / h\? If so give `units: \{mass_msun: 1e\+10\}`"):
        FORMATS["gadget"].units(path, {})
    edit(path, lambda f: f["Parameters"].attrs.update(HubbleParam=1.0, UnitLength_in_cm=1000 * layouts.KPC))
    with pytest.raises(SnapshotError, match="the attributes of Coordinates say another unit than what holds"):
        FORMATS["gadget"].units(path, {})


def test_units_of_which_a_file_says_some_are_not_assumed(tmp_path):
    """A Header in Mpc/h without a unit of velocity was read in kpc/h."""
    written = layouts.galaxy()
    path = layouts.fire(tmp_path / "snap.hdf5", written)
    edit(path, set_attrs(UnitLength_in_cm=KPC_CM * 1000, UnitMass_in_g=1.989e43))
    with pytest.raises(SnapshotError, match=r"the file's Header group says some units, but not velocity_kms; give"):
        FORMATS["gizmo"].units(path, {})
    units = FORMATS["gizmo"].units(path, {"velocity_kms": 1.0})
    assert units.length_kpc == pytest.approx(layouts.MPC_H)
    edit(path, set_attrs(UnitVelocity_in_cm_per_s=1e5))
    assert FORMATS["gizmo"].units(path, {}) == replace(units, source="the file's Header group")


def test_groups_that_contradict_each_other_are_refused(tmp_path):
    """A script changes the Header to what it has converted; the Parameters, or the reverse, stay as they were."""
    path, form = layouts.gadget4(tmp_path / "snap.hdf5", layouts.galaxy()), FORMATS["gadget"]
    same = {"UnitLength_in_cm": KPC_CM, "UnitMass_in_g": 1.989e43, "UnitVelocity_in_cm_per_s": 1e5, "HubbleParam": 0.7}
    units = form.units(path, {})
    edit(path, set_attrs(**same))
    assert form.units(path, {}) == units
    edit(path, set_attrs(UnitMass_in_g=1.989e33))
    with pytest.raises(
        SnapshotError, match=r"1\.989e\+43 by the .*, and 1\.989e\+33 by the UnitMass_in_g of its Header"
    ):
        form.units(path, {})
    assert form.units(path, {"mass_msun": 3e9}).mass_msun == pytest.approx(3e9 / layouts.H)
    edit(path, set_attrs(**same | {"HubbleParam": 1.0}))
    with pytest.raises(SnapshotError, match=r"HubbleParam is 1 in its Header group and 0\.7 in its Parameters"):
        form.units(path, {})


def test_another_codes_group_of_units_is_not_overheard(tmp_path):
    """PKDGRAV3 writes KpcUnit and MsolUnit into its HDF5 files; kpc/h was assumed in spite of them."""
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda file: file.create_group("Units").attrs.update(KpcUnit=4000.0, MsolUnit=1e16, KmPerSecUnit=100.0))
    with pytest.raises(SnapshotError, match=r"its Units group says KpcUnit, MsolUnit, KmPerSecUnit|KmPerSecUnit, KpcU"):
        FORMATS["gizmo"].units(path, {})


@pytest.mark.parametrize(("field", "words"), [("PartType4/Coordinates", "kpc"), ("PartType1/Masses", b"Msun")])
def test_words_for_units_are_not_overheard(field, words, tmp_path):
    """Scripts write `units` beside numbers, in which a is in them or not; kpc/h was assumed in spite of them."""
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda file: file[field].attrs.update(Units=words))
    with pytest.raises(SnapshotError, match=rf"/{field} says Units = '(kpc|Msun)', which is not read .*`units: "):
        FORMATS["gizmo"].units(path, {})
    said = {"length_kpc": 1.0, "mass_msun": 1e10, "velocity_kms": 1.0}
    assert FORMATS["gizmo"].units(path, said).length_kpc == pytest.approx(layouts.KPC_H)


UNREAD = {
    "another attribute": lambda f: f["PartType4/Coordinates"].attrs.update(astropy_unit="kpc"),
    "a type's": lambda f: f["PartType4"].attrs.update(unit="kpc"),
    "the file's": lambda f: f.attrs.update(Units="kpc, Msun, km/s"),
    "a group of words": lambda f: f.create_group("units").attrs.update(length="kpc"),
}


@pytest.mark.parametrize("where", UNREAD)
def test_words_for_units_are_not_overheard_wherever_they_stand(where, tmp_path):
    path = edit(layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), UNREAD[where])
    with pytest.raises(SnapshotError, match=r"which is not read.*`units: "):
        FORMATS["gizmo"].units(path, {})


@pytest.mark.parametrize(
    ("archive", "field", "other", "held"),
    [
        ("gizmo_2020", "PartType4/Coordinates", "kpc", "Mpc / h"),
        ("gadget4", "PartType1/Velocities", "km s**-1", "km s**-1 a**(1/2)"),
        ("gadget4", "PartType4/Masses", "1e10 Msun", "1e10 Msun / h"),
        ("gadget4", "PartType0/SmoothingLength", "kpc", "kpc a / h"),
        ("tng", "PartType0/Density", "g/cm**3", "code_density"),
        ("tng", "PartType0/InternalEnergy", "erg/g", "(km/s)^2"),
        ("tng", "PartType0/Masses", np.bytes_(b"solMass"), "code_mass"),
        ("swift", "PartType0/Coordinates", "kpc", "comoving Mpc"),
    ],
)
def test_words_that_contradict_what_was_copied_are_refused(archive, field, other, held, tmp_path):
    """A script converts one dataset, writes its unit beside it, and copies the Header and other attributes."""
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())
    units = FORMATS[form].units(path, {})
    edit(path, lambda f: f[field].attrs.update(units=held))
    assert FORMATS[form].units(path, {}) == units
    edit(path, lambda f: f[field].attrs.update(units=other))
    with pytest.raises(SnapshotError, match=rf"/{field} says units = '.*', of which one code unit would be "):
        FORMATS[form].units(path, {})
    assert FORMATS[form].units(path, {"length_kpc": 1.0, "mass_msun": 1.0, "velocity_kms": 1.0})


@pytest.mark.parametrize("part", range(3))
def test_words_that_contradict_are_seen_in_every_part(part, tmp_path):
    """A script that converts the gas of one part writes another word there, or the only one."""
    path = layouts.gadget4(tmp_path / "snap.hdf5", layouts.galaxy(), 3)
    for number in range(3):
        edit(tmp_path / f"snap.{number}.hdf5", lambda f: f["PartType0/SmoothingLength"].attrs.update(units="kpc a / h"))
    assert layouts.read(path, "gadget", layouts.DARK).gas
    edit(tmp_path / f"snap.{part}.hdf5", lambda f: f["PartType0/SmoothingLength"].attrs.update(units="kpc"))
    words = r"snap\.\d\.hdf5: (.* in other units|/PartType0/SmoothingLength says units)"
    with pytest.raises(SnapshotError, match=words):
        Snapshot(path, "gadget", layouts.DARK)


def test_datasets_that_disagree_on_units_are_refused(tmp_path):
    path = layouts.eagle(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda f: f["PartType4/Coordinates"].attrs.update(CGSConversionFactor=3.085678e21))
    with pytest.raises(SnapshotError, match="PartType4/Coordinates and /PartType0/Coordinates claim different units"):
        FORMATS["eagle"].units(path, {})


def test_a_cosmological_run_that_has_lost_its_h_is_refused_where_units_depend_on_it(tmp_path):
    path = edit(layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), lambda f: f["Header"].attrs.pop("HubbleParam"))
    with pytest.raises(SnapshotError, match="a cosmological run without HubbleParam"):
        FORMATS["gizmo"].units(path, {})
    given = {"length_kpc": 1 / layouts.H, "mass_msun": 1e10 / layouts.H}
    assert FORMATS["gizmo"].units(path, given).length_kpc == pytest.approx(layouts.KPC_H)


def test_a_run_without_expansion_stays_at_a_of_one(tmp_path):
    path = edit(
        layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()),
        set_attrs(OmegaLambda=0.0, Redshift=0.0, Time=3.7, HubbleParam=1.0),
    )
    assert FORMATS["gizmo"].units(path, {}).scale_factor == 1
    path = layouts.swift(tmp_path / "swift.hdf5", layouts.galaxy())
    edit(path, lambda f: f["Cosmology"].attrs.update({"Cosmological run": [0]}))
    with pytest.raises(SnapshotError, match=r"Redshift = 0\.6667 in a run that is not cosmological"):
        FORMATS["swift"].units(path, {})
    edit(path, lambda f: [f[group].attrs.update({"Redshift": [0.0]}) for group in ("Header", "Cosmology")])
    units = FORMATS["swift"].units(path, {})
    assert (units.scale_factor, units.hubble, units.length_kpc) == pytest.approx((1, 1, 1000))


@pytest.mark.parametrize("archive", ["fire", "gadget4", "swift"])
def test_a_file_in_which_nothing_says_whether_its_run_expands_is_asked(archive, tmp_path):
    """A Header of counts alone made a run at a = .6 an isolated one; at z = 0 GADGET-4's is one without Parameters."""
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())

    def lose(file: h5py.File) -> None:
        for name in {"Redshift", "Time", "Scale-factor", "OmegaLambda", "HubbleParam"} & set(file["Header"].attrs):
            del file["Header"].attrs[name]
        if archive == "gadget4":
            file["Header"].attrs.update(Redshift=0.0, Time=1.0)
        for name in {"Parameters", "Cosmology"} & set(file):
            del file[name]

    edit(path, lose)
    with pytest.raises(SnapshotError, match=r"so nothing says whether its run expands; .*`units: \{cosmological: true"):
        FORMATS[form].units(path, {})
    assert not FORMATS[form].units(path, {"cosmological": False}).cosmological
    if archive == "fire":  # a time that is no scale factor is an isolated run's
        for times in ({"Time": 0.0}, {"Time": 0.0, "Redshift": 0.0}, {"Time": 0.5, "Redshift": 0.0}, {"Time": 1.5}):
            assert not FORMATS[form].units(edit(path, set_attrs(**times)), {}).cosmological


def test_the_start_of_a_run_without_h_is_read_either_way(tmp_path):
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, set_attrs(Time=0.0, Redshift=0.0, HubbleParam=1.0))
    assert (
        FORMATS["gizmo"].units(path, {}).length_kpc == FORMATS["gizmo"].units(path, {"cosmological": False}).length_kpc
    )


def test_names_of_blocks_may_be_padded_with_zeros(tmp_path):
    written = layouts.galaxy()
    path = layouts.gadget_binary(tmp_path / "snap_028", written, file_format=2, float_type="f8")
    raw = path.read_bytes()
    for name in (b"POS", b"VEL", b"ID", b"U", b"RHO"):
        label = b"\x08\0\0\0" + name.ljust(4)
        assert label in raw
        raw = raw.replace(label, b"\x08\0\0\0" + name.ljust(4, b"\0"))
    path.write_bytes(raw)
    assert_same(layouts.read(path, "gadget_binary", layouts.DARK), written)


def test_tracers_with_places_of_their_own_have_no_mass(tmp_path):
    """They stand for gas that is there; TNG's MassTable has a mass of type 3 all the same."""
    written = layouts.galaxy()
    path = layouts.tng(tmp_path / "snap.hdf5", written)
    edit(path, lambda f: f["PartType3"].create_dataset("Coordinates", data=np.ones((5, 3))))
    assert_same(layouts.read(path, "arepo"), written)


def test_wind_is_gas_that_no_map_shows(tmp_path):
    written = layouts.galaxy()
    path = edit(layouts.tng(tmp_path / "snap.hdf5", written), put("PartType4/GFM_StellarFormationTime", -0.1, slice(7)))
    with Snapshot(path, "arepo", layouts.DARK) as snapshot:
        galaxy_read = snapshot.galaxy(CORNER, 100.0)
        assert len(snapshot.everything("gas")) == 47
        assert len(snapshot.everything("stars")) == 33
    np.testing.assert_allclose(galaxy_read.stars.mass_msun, written.stars.mass_msun[7:], rtol=1e-6)
    np.testing.assert_allclose(galaxy_read.gas.mass_msun[40:], written.stars.mass_msun[:7], rtol=1e-6)
    np.testing.assert_array_equal(galaxy_read.gas.weight, np.where(np.arange(47) < 40, galaxy_read.gas.mass_msun, 0))


def test_stars_without_what_tells_them_from_wind_are_asked_about(tmp_path):
    """A cutout of TNG with the fields that maps need, and not this one: its wind would be stars."""
    written = layouts.galaxy()
    path = edit(
        layouts.tng(tmp_path / "cutout.hdf5", written), lambda f: f["PartType4"].pop("GFM_StellarFormationTime")
    )
    edit(path, lambda f: f["PartType4"].pop("GFM_StellarPhotometrics"))
    assert recognised(edit(path, set_attrs(SimulationName=np.bytes_("TNG50-1")))) == "arepo"
    dark, words = layouts.DARK, r"PartType4 has no GFM_StellarFormationTime.*stars: \[PartType4, Wind\]"
    assert re.search(words, "\n".join(describe(path, "arepo")))
    for gas in (["PartType0"], ["PartType0", "Wind"]):
        with pytest.raises(SnapshotError, match=words):
            layouts.read(path, "arepo", dark | {"gas": gas}, radius=200.0)
    assert_same(layouts.read(path, "arepo", dark | {"stars": ["PartType4", "Wind"]}, radius=200.0), written)


ISOLATED = {"OmegaLambda": 0.0, "Redshift": 0.0, "Time": 2.5}


@pytest.mark.parametrize(
    ("header", "times", "words"),
    [
        (ISOLATED, np.repeat([-0.1, 0.3], [7, 33]), "7 of 40 with formation times of 0 or less in a run that is not"),
        (ISOLATED, np.zeros(40), "40 of 40 with formation times of 0 or less in a run that is not"),
        ({}, np.repeat([0.0, -0.1, 0.3], [3, 3, 34]), "3 of 40 with a formation time of 0"),
        ({}, np.repeat([0.0, -0.1, 0.3], [1, 32, 7]), ""),
        (ISOLATED, np.full(40, 1e-3), ""),
    ],
    ids=["isolated, some", "isolated, all", "zeros", "mostly wind", "isolated, none"],
)
def test_what_may_be_wind_or_a_star_is_asked_and_counts_as_what_is_said(header, times, words, tmp_path):
    """AREPO's wind has less than 0; an isolated run's first stars have 0 or their ages; both weigh the same in all."""
    written = layouts.galaxy()
    path = edit(layouts.tng(tmp_path / "snap.hdf5", written), set_attrs(**header))
    edit(path, put("PartType4/GFM_StellarFormationTime", times, ...))
    dark, old = layouts.DARK, times <= 0
    asked = f"PartType4: {words}.*: wind, or .*stars: \\[PartType4, Wind\\]"
    assert bool(re.search(asked, "\n".join(describe(path, "arepo")))) == bool(words)
    if words:
        with pytest.raises(SnapshotError, match=f"{re.escape(str(path))}: {asked}"):
            layouts.read(path, "arepo", dark, radius=200.0)
    for component, types in (("stars", ["PartType4"]), ("gas", ["PartType0"]), ("black_holes", ["PartType5"])):
        with Snapshot(path, "arepo", dark | {component: [*types, "Wind"]}) as snapshot:
            read = snapshot.galaxy(CORNER, 200.0)
            everything = snapshot.everything("stars")
        gone = old & (component != "stars")
        assert len(everything) == len(read.stars) == 40 - gone.sum()
        np.testing.assert_allclose(read.stars.mass_msun, written.stars.mass_msun[~gone], rtol=1e-6)
        mass_msun = getattr(read, component).mass_msun.sum()
        own_msun = getattr(written, component).mass_msun.sum()
        assert mass_msun == pytest.approx(own_msun + written.stars.mass_msun[gone].sum(), rel=1e-6)


@pytest.mark.parametrize("times", [np.linspace(0.1, 11, 40), np.linspace(-2, 1.1, 40)], ids=["ages", "log ages"])
def test_stars_that_formed_after_their_snapshot_are_asked_about(times, tmp_path):
    """A script writes ages [Gyr] over the scale factors: wind became stars, or stars below 1 Gyr became wind."""
    written = layouts.galaxy()
    path = edit(layouts.tng(tmp_path / "snap.hdf5", written), put("PartType4/GFM_StellarFormationTime", times, ...))
    asked = r"PartType4: \d+ of 40 formed at up to [\d.]+, after a = 0\.6: are they ages, or logarithms, .*Wind\]"
    assert re.search(asked, "\n".join(describe(path, "arepo")))
    with pytest.raises(SnapshotError, match=asked):
        layouts.read(path, "arepo", layouts.DARK, radius=200.0)
    with_wind = layouts.DARK | {"stars": ["PartType4", "Wind"]}
    assert_same(layouts.read(path, "arepo", with_wind, radius=200.0), written)


@pytest.mark.parametrize("archive", ["eagle", "tng", "swift"])
def test_cold_gas_weighs_its_mass_and_hot_gas_nothing(archive, tmp_path):
    form, layout = ARCHIVES[archive]
    written = layouts.galaxy()
    path = layout(tmp_path / "snap.hdf5", written)
    kelvin = np.geomspace(1e3, 1e6, 40)
    if archive == "tng":  # ionised: mu = 4 / (3 + 5 X) = 0.588; u in (km/s)^2
        kelvin = 2 / 3 * np.geomspace(10, 1e5, 40) * 0.58823529 * m_p.value * 1e6 / k_B.value
    assert 5 < (kelvin < 2e4).sum() < 35
    forming = 39
    rate = "PartType0/StarFormationRate" + ("s" if archive == "swift" else "")
    edit(path, put(rate, 1.0, forming))
    gas = layouts.read(path, form, layouts.DARK, tracers=Tracers(gas="cold")).gas
    np.testing.assert_allclose(gas.mass_msun, written.gas.mass_msun, rtol=1e-6)
    np.testing.assert_array_equal(gas.weight, gas.mass_msun * ((kelvin < 2e4) | (np.arange(40) == forming)))


@pytest.mark.parametrize(
    ("archive", "asked"),
    [("eagle", True), ("tng", True), ("simba", True), ("swift", True), ("gadget4", True), ("fire", False)],
)
def test_gas_that_forms_stars_on_an_equation_of_state_is_not_lost_from_cold_gas(archive, asked, tmp_path):
    """A cutout of few fields lacked the rates: the densest gas, above 2e4 K on that equation, was in no map."""
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda f: [f["PartType0"].pop(name, None) for name in ("StarFormationRate", "StarFormationRates")])
    tracers = Tracers(gas="cold")
    wrong = sketch(path, form, layouts.DARK, tracers=tracers).wrong
    assert any("no StarFormationRate" in words for words in wrong) == asked
    with pytest.raises(SnapshotError, match="no StarFormationRate") if asked else nullcontext():
        assert layouts.read(path, form, layouts.DARK, tracers=tracers).gas.weight is not None
    assert layouts.read(path, form, layouts.DARK).gas.weight is None


@pytest.mark.parametrize(
    ("archive", "field", "change", "words"),
    [
        ("swift", "Temperatures", np.log10, r"by its Temperature no gas is above 9\.5 K"),
        ("swift", "Temperatures", np.zeros_like, r"by its Temperature no gas is above 9\.5 K"),
        ("swift", "Temperatures", np.negative, "negative values in Temperature"),
        ("swift", "Temperatures", lambda x: x * 1e8, r"by its Temperature half of the gas is above 3\.2e\+12 K"),
        ("tng", "InternalEnergy", lambda x: x * 1e10, r"by its InternalEnergy half of the gas is above 5\.1e\+14 K"),
        ("tng", "InternalEnergy", np.zeros_like, r"by its InternalEnergy no gas is above 9\.5 K"),
        ("tng", "InternalEnergy", np.negative, "negative values in InternalEnergy"),
        ("tng", "InternalEnergy", lambda x: x * (np.arange(40) < 39), "1 of 40 values of InternalEnergy are 0"),
        ("swift", "Temperatures", lambda x: x * (np.arange(40) > 9), "10 of 40 values of Temperature are 0"),
    ],
)
def test_temperatures_that_are_none_make_no_gas_cold(archive, field, change, words, tmp_path):
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda f: put(f"PartType0/{field}", change(f[f"PartType0/{field}"][()]), ...)(f))
    for gas in ("cold", "all"):
        with Snapshot(path, form, layouts.DARK, tracers=Tracers(gas=gas)) as snapshot:
            if gas == "all":
                assert len(snapshot.galaxy(CORNER, 100.0).gas) == 40
            else:
                with pytest.raises(SnapshotError, match=words):
                    snapshot.galaxy(CORNER, 100.0)


def test_temperature_in_tipsy(galaxy, tmp_path):
    write(tmp_path / "snap.tipsy", "tipsy", galaxy, CENTRES["middle"])
    for cold_below_k, expected_share in ((9e3, 0.0), (1.1e4, 1.0)):  # the mocks' gas has 1e4 K
        cold, place = Tracers(gas="cold", cold_below_k=cold_below_k), CENTRES["middle"]
        gas = layouts.read(tmp_path / "snap.tipsy", "tipsy", centre=place, radius=600.0, tracers=cold).gas
        np.testing.assert_array_equal(gas.weight, expected_share * gas.mass_msun)


@pytest.mark.parametrize("archive", ["tng", "fire"])
def test_neutral_hydrogen_weighs_its_mass(archive, tmp_path):
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())
    gas = layouts.read(path, form, layouts.DARK, tracers=Tracers(gas="hi")).gas
    np.testing.assert_allclose(gas.weight, 0.76 * np.linspace(0, 1, 40) * gas.mass_msun, rtol=1e-6)


@pytest.mark.parametrize(
    ("archive", "is_neutral"), [("tng", True), ("gadget4", True), ("simba", False), ("fire", False)]
)
def test_gas_that_forms_stars_on_an_equation_of_state_is_neutral(archive, is_neutral, tmp_path):
    """TNG's specifications: its neutral fraction is that at the effective temperature, by which a disc had a hole."""
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda file: file["PartType0"].require_dataset("StarFormationRate", 40, "f4").write_direct(
        np.float32(np.arange(40) < 10)))  # fmt: skip
    hi = Tracers(gas="hi")
    gas = layouts.read(path, form, layouts.DARK, tracers=hi).gas
    share = np.where((np.arange(40) < 10) & is_neutral, 1.0, np.linspace(0, 1, 40))
    np.testing.assert_allclose(gas.weight, 0.76 * share * gas.mass_msun, rtol=1e-6)
    edit(path, lambda file: file["PartType0"].pop("StarFormationRate"))
    with pytest.raises(SnapshotError, match=r"`gas: hi` .* no StarFormationRate") if is_neutral else nullcontext():
        assert layouts.read(path, form, layouts.DARK, tracers=hi).gas.weight is not None


def test_neutral_hydrogen_of_simba_without_its_molecules_is_refused(tmp_path):
    """A cutout of few fields: the densest gas, which is molecular, weighed next to nothing."""
    path = edit(layouts.simba(tmp_path / "snap.hdf5", layouts.galaxy()), lambda f: f["PartType0"].pop("FractionH2"))
    with pytest.raises(SnapshotError, match="`gas: hi` needs FractionH2"):
        layouts.read(path, "simba", layouts.DARK, tracers=Tracers(gas="hi"))


@pytest.mark.parametrize(
    ("archive", "field", "light"),
    [
        ("tng", "GFM_StellarPhotometrics[r]", 10 ** (-0.4 * np.linspace(-8, -2, 320).reshape(40, 8)[:, 5])),
        ("tng", "GFM_StellarPhotometrics[5]", 10 ** (-0.4 * np.linspace(-8, -2, 320).reshape(40, 8)[:, 5])),
        ("swift", "Luminosities[GAMA_r]", np.linspace(1, 2, 80).reshape(40, 2)[:, 1]),
        ("tng", "GFM_StellarFormationTime", np.full(40, 0.3)),
    ],
)
def test_starlight_weighs_stars(archive, field, light, tmp_path):
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())
    tracers = Tracers(stars="light", light_field=field)
    galaxy_read = layouts.read(path, form, layouts.DARK, tracers=tracers)
    np.testing.assert_allclose(galaxy_read.stars.weight, light, rtol=1e-6)
    assert galaxy_read.gas.weight is None


@pytest.mark.parametrize(
    ("archive", "tracers", "words"),
    [
        ("eagle", Tracers(gas="hi"), "`gas: hi` needs NeutralHydrogenAbundance"),
        ("fire", Tracers(stars="light", light_field="Brightness"), "no dataset for `light_field: Brightness`"),
        (
            "tng",
            Tracers(stars="light", light_field="GFM_StellarPhotometrics[u]"),
            "no column u.*Photometrics.column.*U, B, V, K, g, r, i, z",
        ),
        (
            "tng",
            Tracers(stars="light", light_field="GFM_StellarPhotometrics"),
            "has several columns, and one is needed; give `GFM_StellarPhotometrics.column.*U, B, V, K, g, r, i, z",
        ),
        ("swift", Tracers(stars="light", light_field="Luminosities[2]"), "no column 2.*GAMA_g, GAMA_r"),
    ],
)
def test_a_tracer_without_its_field_says_which(archive, tracers, words, tmp_path):
    form, layout = ARCHIVES[archive]
    path = layout(tmp_path / "snap.hdf5", layouts.galaxy())
    with pytest.raises(SnapshotError, match=f"{re.escape(str(path))}.*{words}"):
        layouts.read(path, form, layouts.DARK, tracers=tracers)


@pytest.mark.parametrize("name", ["Mag_r", "r_mag", "StellarMags[1]", "AbsMag", "logL_r", "L_log10", "LuminosityLog"])
def test_logarithms_are_no_luminosities(name):
    """Apparent magnitudes and logarithms are above zero, too: all stars shone alike, the faintest brightest."""
    with pytest.raises(SnapshotError, match="has magnitudes or logarithms"):
        luminosity(np.linspace(18, 25, 5), name)


@pytest.mark.parametrize("name", ["Luminosities[GAMA_r]", "MagentaLight", "L_Imag", "Image_r", "Catalog_r", "Analogue"])
def test_luminosities_of_any_name_are_taken_as_they_are(name):
    np.testing.assert_array_equal(luminosity(light := np.linspace(1, 9, 5), name), light)


def test_a_mark_of_no_magnitude_is_no_light():
    """-99 outshone all other stars by 1e30."""
    with pytest.raises(SnapshotError, match=r"magnitudes of -99 in AbsMagnitudes: no star particle is as bright"):
        luminosity(np.array([-9.0, -99.0]), "AbsMagnitudes")


def test_columns_without_names_are_not_called_by_tngs_bands(tmp_path):
    """Swift's luminosities are in GAMA's bands: `r` of a cutout without their names was the seventh column, J."""
    path = edit(layouts.swift(tmp_path / "s.hdf5", layouts.galaxy()), lambda f: f.pop("SubgridScheme"))
    edit(path, lambda f: f["PartType4"].pop("Luminosities"))
    edit(path, lambda f: f["PartType4"].create_dataset("Luminosities", data=np.tile(np.arange(1.0, 10.0), (40, 1))))
    with pytest.raises(SnapshotError, match=r"has no column r; give `Luminosities\[column\]` with its number"):
        Snapshot(path, "swift", tracers=Tracers(stars="light", light_field="Luminosities[r]"))
    light = Tracers(stars="light", light_field="Luminosities[2]")
    assert set(layouts.read(path, "swift", tracers=light).stars.weight) == {3.0}


def test_cold_gas_needs_a_temperature(tmp_path):
    path = edit(layouts.fire(tmp_path / "s.hdf5", layouts.galaxy()), lambda f: f["PartType0"].pop("ElectronAbundance"))
    with pytest.raises(SnapshotError, match="`gas: cold` needs Temperature"):
        layouts.read(path, "gizmo", tracers=Tracers(gas="cold"))


def test_low_resolution_matter_is_counted_and_owned_up_to(tmp_path):
    """AURIGA's types 2 and 3: 40 particles of the fine mass, 4 of twice that."""
    path = layouts.auriga(tmp_path / "snap.hdf5", layouts.galaxy())
    parts = {"dark": ["PartType1"], "low_resolution": ["PartType2", "PartType3"]}
    galaxy_read = layouts.read(path, "arepo", parts)
    assert galaxy_read.dark.mass_msun.sum() == pytest.approx(48 * layouts.DARK_MSUN, rel=1e-6)
    assert galaxy_read.high_res_fraction == pytest.approx(40 / 48, rel=1e-6)
    assert layouts.read(path, "arepo", layouts.DARK).high_res_fraction == 1


def with_type_5(file: h5py.File, masses: np.ndarray) -> None:
    """Add particles of type 5 of these masses [those of type 1] near the corner of the box."""
    group, n = file.create_group("PartType5"), len(masses)
    group["Coordinates"] = np.linspace(1, 9, 3 * n).reshape(n, 3)
    group["Masses"] = masses * layouts.DARK_MSUN / layouts.MASS_H
    counts = [int(c) for c in file["Header"].attrs["NumPart_Total"]]
    file["Header"].attrs["NumPart_ThisFile"] = file["Header"].attrs["NumPart_Total"] = [*counts[:5], n]


@pytest.mark.parametrize(
    ("masses", "is_asked"),
    [
        (np.repeat([8.0, 64.0], 10), True),
        (np.geomspace(2, 900, 20), False),  # black holes have grown by this much and by that
        (np.full(20, 0.2), False),  # black holes that have not
        (np.full(9, 8.0), False),  # too few to tell
    ],
)
def test_coarse_dark_matter_of_type_5_is_no_black_holes_unless_that_is_said(masses, is_asked, tmp_path):
    """MUSIC gives the coarse particles around a zoom this type; galaxies among them passed for well resolved ones."""
    path = edit(layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), lambda file: with_type_5(file, masses))
    total = layouts.DARK_MSUN * masses.sum()
    if is_asked:
        words = "PartType5: 2 different masses, of 8 times PartType1's or more"
        assert words in "\n".join(describe(path, "gizmo"))
        layouts.assert_refused(path, "gizmo", f"{re.escape(str(path))}: {words}")
        galaxy_read = layouts.read(path, "gizmo", {"black_holes": [], "low_resolution": ["PartType5"]})
        fine_msun = 40 * layouts.DARK_MSUN
        assert galaxy_read.high_res_fraction == pytest.approx(fine_msun / (fine_msun + total), rel=1e-6)
        assert galaxy_read.dark.mass_msun.sum() == pytest.approx(fine_msun + total, rel=1e-6)
    black_holes = layouts.read(path, "gizmo", {"black_holes": ["PartType5"]} if is_asked else {}).black_holes
    assert black_holes.mass_msun.sum() == pytest.approx(total, rel=1e-6)


SWIFT_WORDS = (
    "Conversion factor to CGS (not including cosmological corrections)", "a-scale exponent", "h-scale exponent",
)  # fmt: skip


@pytest.mark.parametrize("field", ["SmoothingLengths", "Densities"])
@pytest.mark.parametrize("kind", ["physical", "cgs"])
def test_a_kernel_has_the_unit_that_its_own_dataset_says(field, kind, tmp_path):
    """Positions stay comoving; one field of the gas is stored in physical units, or in cgs."""
    written = layouts.galaxy()
    path = layouts.swift(tmp_path / "snap.hdf5", written)
    power, cgs = (
        (1, 1e3 * layouts.KPC) if field == "SmoothingLengths" else (-3, 1e10 * layouts.MSUN / (1e3 * layouts.KPC) ** 3)
    )
    with h5py.File(path, "r+") as file:
        dataset = file["PartType0"][field]
        values, factor = dataset[:].astype(float), layouts.A**power if kind == "physical" else cgs
        del file["PartType0"][field]
        if field == "Densities":
            del file["PartType0/SmoothingLengths"]
        dataset = file["PartType0"].create_dataset(field, data=values * factor)
        layouts.attributes(dataset, SWIFT_WORDS, (cgs if kind == "physical" else 1.0, power, 0))
        dataset.attrs["Value stored as physical"] = [int(kind == "physical")]
    gas = layouts.read(path, "swift", radius=500.0).gas
    assert gas.support_kpc == pytest.approx(written.gas.support_kpc, rel=1e-3)


def in_another_unit(file: h5py.File, factor: float = 1e-3) -> None:
    """Say another unit of the gas's smoothing lengths or densities and of its temperatures, and store them in it."""
    for name in {"SmoothingLengths", "SmoothingLength", "Density", "Temperatures"} & set(file["PartType0"]):
        dataset = file["PartType0"][name]
        dataset[...] /= factor
        for word in ("to_cgs", "CGSConversionFactor", SWIFT_WORDS[0]):
            if word in dataset.attrs:
                dataset.attrs[word] = np.asarray(dataset.attrs[word]) * factor


def with_words(file: h5py.File) -> None:
    """Have SWIFT's smoothing lengths and temperatures say their units."""
    if "SmoothingLengths" in file.get("PartType0", {}):
        layouts.attributes(file["PartType0/SmoothingLengths"], SWIFT_WORDS, (1e3 * layouts.KPC, 1, 0))
        layouts.attributes(file["PartType0/Temperatures"], SWIFT_WORDS, (1.0, 0, 0))


@pytest.mark.parametrize("archive", ["eagle", "tng", "swift"])
@pytest.mark.parametrize("parts", ["0", "2", "012"])
def test_the_fields_of_all_parts_are_in_one_unit_and_read_in_it(archive, parts, tmp_path):
    form, layout = ARCHIVES[archive]
    written = layouts.galaxy()
    path = layout(tmp_path / "snap.hdf5", written, 3)
    for number in range(3):
        edit(tmp_path / f"snap.{number}.hdf5", with_words)
    for number in parts:
        edit(tmp_path / f"snap.{number}.hdf5", in_another_unit)
    if parts == "012":
        assert_same(layouts.read(path, form, layouts.DARK), written)
    else:
        other = r"snap\.1\.hdf5" if parts == "0" else r"snap\.2\.hdf5"
        with pytest.raises(SnapshotError, match=rf"{other}: .* in other units than those of snap\.0.*(Smooth|Density)"):
            Snapshot(path, form, layouts.DARK)


@pytest.mark.parametrize("archive", ["eagle", "tng", "swift"])
def test_a_first_part_without_gas_and_stars_says_no_units_of_theirs(archive, tmp_path):
    """Units are those of the first part that has any; here nothing of the first one has any."""
    form, layout = ARCHIVES[archive]
    written = layouts.galaxy()
    path = layout(tmp_path / "snap.hdf5", written, 3)
    for number in range(3):
        edit(tmp_path / f"snap.{number}.hdf5", with_words)
        edit(tmp_path / f"snap.{number}.hdf5", in_another_unit)

    def first(file: h5py.File) -> None:
        for ptype in ("PartType0", "PartType4"):
            del file[ptype]
        file["Header"].attrs["NumPart_ThisFile"] = [0, 14, 0, 0, 0, 0]

    edit(path, first)
    for number in range(3):
        edit(tmp_path / f"snap.{number}.hdf5", set_attrs(NumPart_Total=[26, 40, 0, 0, 26, 0]))
    rest = replace(written, gas=written.gas[14:], stars=written.stars[14:])
    with Snapshot(path, form, layouts.DARK) as snapshot:
        assert "attributes of its datasets" in snapshot.units.source
        assert_same(snapshot.galaxy(CORNER, 100.0), rest)


def test_kernels_of_stars_say_nothing_of_the_gas(tmp_path):
    written = layouts.galaxy()
    path = edit(layouts.eagle(tmp_path / "snap.hdf5", written), in_another_unit)

    def stars(file: h5py.File) -> None:
        file.copy("PartType0/SmoothingLength", file["PartType4"])
        layouts.attributes(file["PartType4/SmoothingLength"], ("CGSConversionFactor",) * 3, (7.0 * layouts.KPC,) * 3)

    assert_same(layouts.read(edit(path, stars), "eagle"), written)


@pytest.mark.parametrize("said", ["velocity_kms", "mass_msun", "length_kpc"])
def test_a_field_in_a_unit_of_its_own_follows_the_unit_that_the_suite_file_says(said, tmp_path):
    """The suite file says of one quantity what the file says; then that all lengths are twice as long."""
    written = layouts.galaxy()
    path = edit(edit(layouts.swift(tmp_path / "snap.hdf5", written), with_words), in_another_unit)
    value = Swift.default[said][0]
    assert_same(layouts.read(path, "swift", units={said: value}), written)
    gas = layouts.read(path, "swift", units={"length_kpc": 2 * Swift.default["length_kpc"][0]}, radius=200.0).gas
    np.testing.assert_allclose(gas.support_kpc, 2 * written.gas.support_kpc, rtol=2e-6)


@pytest.mark.parametrize("factor", [1.0, 1e-3])
def test_temperatures_are_in_the_unit_that_they_say(factor, tmp_path):
    path = edit(layouts.swift(tmp_path / "snap.hdf5", layouts.galaxy()), with_words)
    edit(path, lambda file: in_another_unit(file, factor))
    gas = layouts.read(path, "swift", tracers=Tracers(gas="cold")).gas
    np.testing.assert_array_equal(gas.weight > 0, np.geomspace(1e3, 1e6, 40) < 2e4)


def test_units_that_contradict_each_other_are_refused(tmp_path):
    path = layouts.swift(tmp_path / "snap.hdf5", layouts.galaxy())
    with h5py.File(path, "r+") as file:
        for ptype in ("PartType0", "PartType1", "PartType4"):
            file[ptype]["Coordinates"].attrs["Value stored as physical"] = [1]
    with pytest.raises(SnapshotError, match="positions are physical, and its BoxSize may be comoving"):
        FORMATS["swift"].units(path, {})
    assert FORMATS["swift"].units(path, {"box": 6000.0}).length_kpc == pytest.approx(1000)
    path = layouts.tng(tmp_path / "tng.hdf5", layouts.galaxy())
    with h5py.File(path, "r+") as file:
        for ptype in ("PartType0", "PartType1", "PartType4"):
            file[ptype]["Coordinates"].attrs["to_cgs"] = [1000 * layouts.KPC]
            del file[ptype]["Velocities"].attrs["to_cgs"]
    with pytest.raises(SnapshotError, match="attributes of Coordinates say another unit than what holds"):
        FORMATS["arepo"].units(path, {})
    assert FORMATS["arepo"].units(path, {"length_kpc": 1000.0}).length_kpc == pytest.approx(layouts.MPC_H)


@pytest.mark.parametrize(
    ("own", "other", "component"), [("PartType1", "PartType2", "dark"), ("PartType4", "PartType3", "stars")]
)
def test_particles_that_are_in_two_types_are_missed_in_none(own, other, component, tmp_path):
    """A script writes a part of one type as another, too: dark matter of types 1 and 2 was counted twice."""
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda f: [f.pop(other, None), f.copy(own, other)])
    parts = {"dark": ["PartType1"], "low_resolution": [], component: [own, other]}
    with (
        Snapshot(path, "gizmo", parts) as snapshot,
        pytest.raises(SnapshotError, match=f"40 of 80 particles of {own} and {other} are the same ones"),
    ):
        snapshot.galaxy(CORNER, 100.0)


def test_a_type_cannot_be_two_components(tmp_path):
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    with pytest.raises(SnapshotError, match="PartType2 is both stars and dark"):
        Snapshot(path, "gizmo", {"stars": ["PartType2", "PartType4"]})
    galaxy_read = layouts.read(path, "gizmo", {"stars": ["PartType4", "PartType4"]}, radius=500.0)
    assert len(galaxy_read.stars) == 40  # one that comes twice counts once


def test_eagles_abundances_stay_out_of_yts_sight(tmp_path):
    """yt would download ionisation tables if it saw these fields."""
    with Snapshot(layouts.eagle(tmp_path / "snap.hdf5", layouts.galaxy()), "eagle") as snapshot:
        assert not any("lement" in name or name == "Hydrogen" for name in snapshot.fields["PartType0"])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("read_whole_below", [10, 10**9], ids=["region", "all of it"])
def test_memory_stays_below_two_and_a_half_times_the_galaxy(read_whole_below, keep, tmp_path, monkeypatch):
    """The worst case: all particles are gas, whose kernel support is computed from a density."""
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", read_whole_below)
    few, many = layouts.galaxy(10), layouts.galaxy(100_000)
    path = layouts.tng(tmp_path / "snap.hdf5", Galaxy(few.stars, many.gas, few.dark, few.black_holes))
    with Snapshot(path, "arepo", layouts.DARK, keep=keep) as snapshot:
        snapshot.galaxy(CORNER, 1.0)  # so that yt's setup is not counted
        snapshot._kept = {} if keep else None
        tracemalloc.start()
        galaxy_read = snapshot.galaxy(CORNER, 300.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    arrays = [a for p in galaxy_read.components().values() for a in vars(p).values() if a is not None]
    assert sum(len(p) for p in galaxy_read.components().values()) == 100_020
    assert peak < 2.5 * sum(a.nbytes for a in arrays)


@pytest.mark.parametrize("path", sorted((ROOT / "gen" / "templates").glob("*.yaml")), ids=lambda path: path.stem)
def test_templates_say_what_formats_and_components_understand(path):
    content = yaml.safe_load(path.read_text())
    assert content["name"].startswith(path.stem) or path.stem.endswith(content["name"])
    suite = Suite(**{key: value for key, value in content.items() if key not in ("catalogue", "selection")})
    particle_types = [t for types in suite.particles.model_dump(exclude_none=True).values() for t in types]
    assert len(set(particle_types)) == len(particle_types)


def test_light_and_its_field_go_together():
    for options in ({"stars": "light"}, {"light_field": "Luminosities"}):
        with pytest.raises(ValueError, match="`light_field` goes with `stars: light`"):
            Tracers(**options)


PARAM_FILES = {
    "its own": ({"run/g8.1e11.param": ""}, "run/g8.1e11.param"),
    "its own of two": ({"run/g8.param": "", "run/g8.1e11.param": "", "run/g8.1e11.0.param": ""}, "run/g8.1e11.param"),
    "its own one folder up": ({"g8.1e11.param": "", "g9.param": ""}, "g8.1e11.param"),
    "by its output's name": ({"run/a.param": "achOutName = '../x/g8.1e11'  # so", "run/b.param": ""}, "run/a.param"),
    "the only one": ({"run/a.param": ""}, "run/a.param"),
    "a shorter name that goes on": ({"run/g8.1.param": "", "run/g8.1.00128": ""}, None),
    "of another beside it": ({"run/a.param": "", "run/a.00128": ""}, None),
    "that says another output": ({"run/a.param": "achOutName = g9"}, None),
    "the only one, one folder up": ({"a.param": ""}, None),
    "two": ({"run/a.param": "", "run/b.param": ""}, None),
}


@pytest.mark.parametrize("case", PARAM_FILES)
def test_the_units_of_a_tipsy_file_are_of_its_own_run(case, tmp_path):
    """Another run's would be taken for right: masses, lengths and speeds of one run fit together."""
    files, expected = PARAM_FILES[case]
    (tmp_path / "run").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    path = tmp_path / "run" / "g8.1e11.00128"
    if expected is None:
        with pytest.raises(SnapshotError, match=r"g8.1e11.00128: .*a.param.*|.*g8.1.param may be another run's"):
            FORMATS["tipsy"].listed_files(path)
    else:
        assert FORMATS["tipsy"].listed_files(path) == [path, tmp_path / expected]
