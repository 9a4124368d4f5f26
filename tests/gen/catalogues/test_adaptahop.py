"""AdaptaHOP's tree_bricks: every version comes back, damage is refused, and a brick beside RAMSES makes maps."""

import os
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import bricks
import grids
import numpy as np
import pytest
from conftest import command
from test_catalogues import CENTRAL, CENTRE, HALO_MASS, HIGH_RES, N_ALL, N_STARS, R200, STARS

from kinmass.gen.catalogues.base import OtherEpoch
from kinmass.gen.catalogues.find import chosen, find_haloes, usable
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.fortran import record
from kinmass.gen.look.draft import draft
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.storage import store
from kinmass.gen.suite import Selection

SEED, MUTANTS = int(os.environ.get("KINMASS_FUZZ_SEED", "1")), 150
SIDE, A = 8000.0, 0.6
UNITS = CodeUnits(1.0, 1.0, 1.0, SIDE, A, 0.7)
SNAPSHOT = Path("output_00761/info_00761.txt")
N = {"n": N_ALL // 100, "n_stars": N_STARS // 100}
COLUMNS = {"m_vir": HALO_MASS, "r_vir_kpc": np.where(CENTRAL, R200, 7.0), "mass": 0.9 * HALO_MASS, "stars": STARS,
           "low_res_share": 1 - HIGH_RES, **N}  # fmt: skip


def written(folder: Path, kind: str, order: str = "<") -> Path:
    return bricks.write(folder / "tree_bricks761", bricks.KINDS[kind], SIDE, A, CENTRE, CENTRAL, order, **COLUMNS)


def found(path: Path, units: CodeUnits = UNITS) -> list:
    return find_haloes("adaptahop", path, SNAPSHOT, units)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", bricks.KINDS)
def test_every_version_comes_back(name, order, tmp_path):
    kind = bricks.KINDS[name]
    haloes = found(written(tmp_path, name, order))
    assert [h.name for h in haloes] == ["1", "2", "3", "4"]
    assert [h.central for h in haloes] == CENTRAL.tolist()
    digits = 1e-4 if kind.real == 4 else 1e-9
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE, atol=10 * digits)
    nothing = [None] * 4
    own_mass = np.where(CENTRAL, HALO_MASS, COLUMNS["mass"])
    high_res = list(HIGH_RES) if kind.low_res else [1.0, None, None, 1.0] if kind.flag else nothing
    expected = {
        "r200_kpc": nothing if kind.of == "stars" else [210.0, None, None, 95.0],
        "halo_mass_msun": nothing if kind.of == "stars" else list(own_mass),
        "n_stars": nothing if kind.of == "dark" else list(N["n_stars"]),
        "n_particles": nothing if kind.of == "stars" else list(N["n"]),
        "stellar_mass_msun": nothing if kind.of == "dark" else list(STARS),
        "high_res_fraction": nothing if kind.of == "stars" else high_res,
    }
    for field, values in expected.items():
        got = [getattr(h, field) for h in haloes]
        assert [x is None for x in got] == [x is None for x in values], field
        pairs = [(x, y) for x, y in zip(got, values, strict=True) if y is not None]
        assert all(x == pytest.approx(y, rel=1e-6) for x, y in pairs), field


@pytest.mark.parametrize("name", [
    "haloes in double", "new haloes", "new haloes with low resolution", "new haloes, short",
])  # fmt: skip
def test_yt_reads_the_same_numbers(name, tmp_path):
    """Where yt can open it (not in single precision); its raw places are from the box's centre, in HaloMaker's Mpc."""
    import yt
    from yt.frontends.adaptahop.api import AdaptaHOPDataset

    yt.set_log_level(50)
    galaxy = make_galaxy("quiet", 1, 1, 50, 50, 50)[0]
    info = grids.ramses(tmp_path, galaxy, np.full(3, 2000.0), np.zeros(3), levels=(3, 4))
    parent = yt.load(str(info))
    side_kpc = grids.BOX
    centre = CENTRE * side_kpc / SIDE
    path = bricks.write(tmp_path / "tree_bricks099", bricks.KINDS[name], side_kpc, A, centre, CENTRAL, **COLUMNS)
    halos = AdaptaHOPDataset(str(path), parent_ds=parent).all_data()
    ours = found(path, replace(UNITS, box_kpc=side_kpc))
    raw = np.array([halos["halos", f"raw_position_{x}"].to_value("Mpc") for x in "xyz"]).T
    np.testing.assert_allclose([h.centre_kpc for h in ours], raw * bricks.MPC_KPC + side_kpc / 2, rtol=1e-9, atol=1e-9)
    m_vir = halos["halos", "virial_mass"].to_value("1e11*Msun") * 1e11
    r_vir = halos["halos", "virial_radius"].to_value("Mpc") * bricks.MPC_KPC
    for i in np.flatnonzero(CENTRAL):
        assert ours[i].halo_mass_msun == pytest.approx(m_vir[i])
        assert ours[i].r200_kpc == pytest.approx(r_vir[i])
    assert [h.name for h in ours] == [str(int(x)) for x in halos["halos", "particle_identifier"]]
    assert [h.central for h in ours] == (halos["halos", "level"].to_value() == 1).tolist()
    assert [h.n_particles for h in ours] == halos["halos", "npart"].to_value().astype(int).tolist()


def test_a_time_without_haloes_and_another_epoch(tmp_path):
    path = written(tmp_path, "NewHorizon galaxies")
    for apart, same in ((5e-5, True), (1e-3, False), (-9e-3, False), (np.nan, False)):
        units = replace(UNITS, scale_factor=A * (1 + apart))
        if same:
            assert len(found(path, units)) == 4
        else:
            with pytest.raises(OtherEpoch, match=r"made at a = 0.6, the snapshot at a = .*check `catalogue.path`"):
                found(path, units)
    none = {key: values[:0] for key, values in COLUMNS.items()}
    kind = bricks.KINDS["NewHorizon galaxies"]
    assert found(bricks.write(tmp_path / "empty", kind, SIDE, A, CENTRE[:0], CENTRAL[:0], **none)) == []
    with pytest.raises(SnapshotError, match=r"tree_bricks761: its positions count from .* give `units.box`"):
        found(path, replace(UNITS, box_kpc=None))
    corner = found(path, replace(UNITS, corner_kpc=-SIDE / 2))
    np.testing.assert_allclose([h.centre_kpc for h in corner], CENTRE - SIDE / 2)


def test_galaxies_in_the_layout_of_haloes_are_told_by_the_number_of_stars(tmp_path):
    """A plain brick says only how many particles were searched: all stars, or all dark matter."""
    path = written(tmp_path, "haloes in double")
    bodies = int(np.frombuffer(path.read_bytes()[4:8], "<i4")[0])
    snapshot = tmp_path / SNAPSHOT.name
    for stars in (bodies - 1, bodies):
        numbers = [record(value, "i4") for value in (1, 3, 9, [0] * 4, stars)]
        (tmp_path / "part_00761.out00001").write_bytes(b"".join(numbers))
        if stars != bodies:
            assert len(find_haloes("adaptahop", path, snapshot, UNITS)) == 4
            continue
        with pytest.raises(SnapshotError, match=r"as many as info_00761.txt has stars"):
            find_haloes("adaptahop", path, snapshot, UNITS)


def test_selections_work(tmp_path):
    def names(kind: str, **selection: object) -> list[str]:
        return [h.name for h in chosen(found(written(tmp_path, kind)), Selection(min_stars=1, **selection))]

    assert names("NewHorizon galaxies") == ["1", "4"]
    assert names("NewHorizon galaxies", which="satellite") == ["2", "3"]
    assert names("NewHorizon galaxies", which="all", stellar_mass_msun=[1e9, None]) == ["1", "2"]
    assert names("NewHorizon haloes", halo_mass_msun=[1e12, None]) == ["1"]
    assert names("new haloes with low resolution", which="all", min_high_res_fraction=0.7) == ["1", "2", "4"]
    assert names("all particles", which="all", min_particles=500) == ["1", "4"]
    haloes = found(written(tmp_path, "Horizon-AGN galaxies"))
    assert [h.name for h in chosen(haloes, Selection(min_stars=10, which="all"))] == ["1", "2"]
    with pytest.raises(SnapshotError, match=r"selection\.halo_mass_msun"):
        names("Horizon-AGN galaxies", halo_mass_msun=[1e9, None])


# Faults. Bytes of a file of `NewHorizon haloes`: the records of its header have 4, 4, 8, 4, 4 and 8 bytes.
BODIES, A_EXP, COUNTS, FIRST = 4, 28, 68, 80


def put(kind: str, at: int, *values: float) -> object:
    def change(raw: bytearray) -> None:
        struct.pack_into(kind, raw, at, *values)

    return change


def offset(number: int) -> int:
    """The byte at which a record of the first entry begins, after its mark; 1 are its members."""
    sizes = [4, 4 * int(N["n"][0]), 4, 4, 20, 8, 24, 24, 24, 32, 24, 8, 8, 32, 16]
    return FIRST + sum(n + 8 for n in sizes[:number]) + 4


FAULTS = {
    "bytes beyond its end": (lambda raw: raw.extend(bytes(12)), "more than the 4 entries"),
    "fewer entries": (put("<2i", COUNTS, 2, 1), "more than the 3 entries|counts"),
    "more entries": (put("<2i", COUNTS, 2, 3), "ends within a record"),
    "entries without end": (put("<2i", COUNTS, 2, 2**31 - 5), "which it cannot hold"),
    "negative entries": (put("<2i", COUNTS, 5, -1), "which it cannot hold"),
    "other centrals": (put("<2i", COUNTS, 1, 3), "2 entries are of level 1, and its header counts 1"),
    "few bodies": (put("<i", BODIES, 100), "particles of the 100 that its header counts"),
    "another a": (put("<d", A_EXP, 0.7), "made at a = 0.7"),
    "a is NaN": (put("<d", A_EXP, np.nan), "made at a = nan"),
    "a wrong mark": (put("<i", offset(6) - 4, 28), "no version of HaloMaker"),
    "a wrong end mark": (put("<i", offset(6) + 24, 28), "no version of HaloMaker"),
    "wrong members": (put("<i", offset(0), 17), "no version of HaloMaker"),
    "no members": (put("<i", offset(0), 0), "no version of HaloMaker"),
    "level 0": (put("<i", offset(4), 0), "a level below 1"),
    "mass is NaN": (put("<d", offset(5), np.nan), "an entry has no mass"),
    "a mass that cannot be": (put("<d", offset(5), 1e300), "an entry has no mass"),
    "negative mass": (put("<d", offset(5), -1.0), "an entry has no mass"),
    "virial mass is NaN": (put("<d", offset(13) + 8, np.nan), "virial"),
    "virial radius is infinite": (put("<d", offset(13), np.inf), "virial"),
    "far away": (put("<d", offset(6), 4.1), "outside the snapshot's box"),
    "infinitely far": (put("<d", offset(6), np.inf), "outside the snapshot's box"),
    "the same number twice": (put("<i", offset(2), 2), "2 entries are called 2"),
    "half": (lambda raw: raw.__delitem__(slice(len(raw) // 2, None)), "ends within|a record of|version"),
    "cut short": (lambda raw: raw.__delitem__(slice(-3, None)), "ends within|a record of"),
    "a header alone": (lambda raw: raw.__delitem__(slice(FIRST, None)), "which it cannot hold"),
    "another file": (lambda raw: raw.__setitem__(slice(0, 4), b"ncpu"), "does not begin as a tree_bricks"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault, tmp_path):
    path = written(tmp_path, "NewHorizon haloes")
    change, words = FAULTS[fault]
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)
    with pytest.raises(SnapshotError, match=f"{re.escape(str(path))}: .*({words})"):
        found(path)


def test_an_entry_of_other_precision_is_refused(tmp_path):
    """Its records would fit, but no program writes such a file."""
    path = written(tmp_path, "haloes in double")
    parts = [record(raw) for raw in grids.records(path)]
    mass = 6 + 14 + 5  # of the second entry
    parts[mass] = record(np.frombuffer(grids.records(path)[mass], "<f8"), "f4")
    path.write_bytes(b"".join(parts))
    with pytest.raises(SnapshotError, match=r"tree_bricks761: .*no version of HaloMaker"):
        found(path)


@pytest.mark.parametrize(("number", "raw"), [
    (0, struct.pack("<2q", 8000, 999)), (0, struct.pack("<2q", 10_000, -1000)), (1, struct.pack("<2d", 9.0, 0.1)),
])  # fmt: skip
def test_stars_and_dark_matter_must_add_up(number, raw, tmp_path):
    path = written(tmp_path, "all particles")
    parts = grids.records(path)
    parts[len(parts) - 19 + number] = raw  # of the last entry: the counts and masses of both
    path.write_bytes(b"".join(map(record, parts)))
    with pytest.raises(SnapshotError, match=r"tree_bricks761: the stars and dark matter of an entry are not together"):
        found(path)


def test_a_place_that_is_no_number_fails_alone(tmp_path):
    path = written(tmp_path, "NewHorizon haloes")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<d", raw, offset(6), np.nan)
    path.write_bytes(raw)
    reasons = [usable(halo, path)[1] for halo in found(path)]
    assert "halo 1 has no finite position" in reasons[0]
    assert reasons[1:] == [""] * 3


def mutated(raw: bytearray, small: list[int], rng: np.random.Generator) -> bytearray:
    """Change bits, numbers or the length; `small` are the bytes outside the lists of members."""
    how = rng.integers(5)
    at = int(small[rng.integers(len(small))])
    if how == 0:
        raw[at] ^= 1 << int(rng.integers(8))
    elif how == 1:
        value = int(rng.choice([0, 1, -1, 4, 8, 2**31 - 1, 12, 24]))
        at = min(at // 4 * 4, len(raw) - 4)
        struct.pack_into("<i", raw, at, value)
    elif how == 2:
        struct.pack_into(
            "<d", raw, min(at // 4 * 4, len(raw) - 8), float(rng.choice([np.nan, np.inf, -1.0, 1e300, 0.0]))
        )
    elif how == 3:
        del raw[at : at + int(rng.choice([1, 4, 8, 12, 32]))]
    else:
        raw[at:at] = raw[at - 12 : at]
    return raw


@pytest.mark.parametrize("name", bricks.KINDS)
def test_mutants_are_refused_or_read_as_a_plain_reader_does(name, tmp_path):
    kind, path, rng = bricks.KINDS[name], written(tmp_path, name), np.random.default_rng(SEED)
    whole = path.read_bytes()
    small, at = [], 0
    for content in grids.records(path):
        size = len(content) + 8
        small += range(at, at + size) if len(content) < 80 else [*range(at, at + 4), *range(at + size - 4, at + size)]
        at += size
    read, unclear = 0, []
    for i in range(MUTANTS):
        path.write_bytes(mutated(bytearray(whole), small, rng))
        try:
            haloes = found(path)
        except SnapshotError as error:
            unclear += [str(error)] if str(path) not in str(error) or len(str(error)) > 600 else []
            continue
        rows, read = bricks.plain(path, kind, SIDE), read + 1
        assert [h.name for h in haloes] == [row["name"] for row in rows], i
        for halo, row in zip(haloes, rows, strict=True):
            central = row["level"] == 1
            np.testing.assert_allclose(halo.centre_kpc, row["centre"], rtol=1e-6, atol=1e-3)
            assert halo.central == central, i
            if kind.of == "stars":
                assert (halo.n_stars, halo.stellar_mass_msun) == (row["n"], pytest.approx(row["mass"], rel=1e-6)), i
            else:
                mass = row["m_vir"] if central else row["mass"]
                assert (halo.n_particles, halo.halo_mass_msun) == (row["n"], pytest.approx(mass, rel=1e-6)), i
                radius = row["r_vir_kpc"] if central and row["r_vir_kpc"] > 0 else None
                assert halo.r200_kpc == (None if radius is None else pytest.approx(radius, rel=1e-6)), i
            if kind.low_res:
                assert halo.high_res_fraction == pytest.approx(row["high_res_fraction"], abs=2e-5), i
            if kind.of == "all":
                stars = pytest.approx(row["stars"] * 1e11)
                assert (halo.n_stars, halo.stellar_mass_msun) == (row["n_stars"], stars), i
    assert not unclear
    assert 0.05 * MUTANTS < read < 0.95 * MUTANTS


@pytest.fixture(scope="module")
def simulation(tmp_path_factory) -> Path:
    """An output of RAMSES with bricks of haloes and of galaxies in folders beside it, as HaloMaker names them."""
    root = tmp_path_factory.mktemp("hop")
    galaxy = make_galaxy("quiet", 1, 1, 1500, 1500, 1500)[0]
    centre = np.array([100.0, 2100.0, 3950.0])
    grids.ramses(root, galaxy, centre, np.array([100.0, 0.0, -50.0]))
    one = {"m_vir": [1e12], "r_vir_kpc": [200.0], "mass": [9e11], "stars": [galaxy.stars.mass_msun.sum()],
           "n": [1500], "n_stars": [1500], "low_res_share": [0.0]}  # fmt: skip
    columns = {key: np.array(values) for key, values in one.items()}
    for folder, kind in (("haloes", "NewHorizon haloes"), ("galaxies", "NewHorizon galaxies")):
        (root / folder).mkdir()
        path = root / folder / "tree_bricks099"
        bricks.write(path, bricks.KINDS[kind], grids.BOX, grids.A, centre[None], np.array([True]), **columns)
    return root


@pytest.mark.parametrize(("folder", "aperture"), [("haloes", "{r200: 0.2}"), ("galaxies", "{kpc: 40}")])
def test_a_brick_beside_an_output_of_ramses_makes_maps(folder, aperture, simulation, tmp_path):
    suite = tmp_path / "hop.yaml"
    suite.write_text(
        f"name: hop\nroot: {simulation}\nformat: ramses\nsnapshots: output_*/info_*.txt\naperture: {aperture}\n"
        f"catalogue: {{format: adaptahop, path: '../{folder}/tree_bricks{{number:03d}}'}}\n"
        "selection: {min_stars: 300, min_high_res_fraction: 0.9}\n"
    )
    command("gen", "maps", suite, "--out", tmp_path / "maps.zarr", "--views", 1, "--pixels", 8)
    group = store.open_suite(tmp_path / "maps.zarr", "hop")
    assert list(group["galaxy"][:]) == ["output_00099.info_00099.txt:1"]
    assert store.read_status(group).tolist() == [store.DONE]
    galaxy = store.read_galaxy(group, 0)
    np.testing.assert_allclose(galaxy["centre"], [100.0, 2100.0, 3950.0], atol=1e-6)
    assert galaxy["maps"][:, 0].max() > 0


@pytest.mark.parametrize(("folder", "aperture"), [("haloes", "{r200: 0.2}"), ("galaxies", "{kpc: ")])
def test_a_draft_finds_the_brick_and_takes_what_it_gives(folder, aperture, simulation, tmp_path):
    both = draft(simulation / "output_00099" / "info_00099.txt")
    assert both.count("this may be its catalogue, or another run's") == 2
    for name in ("output_00099", folder):
        shutil.copytree(simulation / name, tmp_path / name)
    text = draft(tmp_path / "output_00099" / "info_00099.txt")
    assert f'catalogue: {{format: adaptahop, path: "../{folder}/tree_bricks099"}}' in text
    assert f"aperture: {aperture}" in text
