"""Codes of adaptive grids: particles as they were written, gas in cells that hold the gas, the same by other roads."""

import os
import re
import shutil
import struct
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import grids
import h5py
import layouts
import numpy as np
import pytest
from scipy.spatial import cKDTree

from kinmass.gen.campaign.listing import list_snapshot
from kinmass.gen.constants import KPC_CM, MSUN_G
from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.formats.grid import coarse_above, coarse_above_counted, count_masses
from kinmass.gen.formats.recognise import recognised
from kinmass.gen.look.check import describe
from kinmass.gen.look.draft import draft
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.snapshots import snapshot as snapshots
from kinmass.gen.snapshots.parts import find_part, keep_parts
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.suite import Suite, Tracers

VELOCITY = np.array([300.0, -150.0, 80.0])
CENTRES = {"middle": np.array([1800.0, 2100.0, 1950.0]), "corner": np.zeros(3)}
MUTANTS = int(os.environ.get("KINMASS_GRID_MUTANTS", "16"))


@pytest.fixture(scope="module")
def galaxy() -> Galaxy:
    return grids.steps_of_mass(make_galaxy("quiet", 1, 1, 500, 1200, 400)[0])


@pytest.fixture(scope="module")
def written(galaxy, tmp_path_factory) -> dict[tuple[str, str], Path]:
    """One output of each kind and place."""
    root = tmp_path_factory.mktemp("grids")
    return {
        (kind, place): write(root / f"{kind} {place}".replace(" ", "_"), galaxy, centre, VELOCITY)
        for kind, write in grids.WRITERS.items()
        for place, centre in CENTRES.items()
    }


def opened(kind: str, path: Path, **options: object) -> Snapshot:
    return Snapshot(path, kind.split()[-1], **options)  # type: ignore[arg-type]


def assert_refused(kind: str, path: Path, words: str) -> None:
    with pytest.raises(SnapshotError, match=words):
        opened(kind, path)


def sorted_rows(p: Particles | grids.Plain) -> np.ndarray:
    columns = vars(p) if isinstance(p, Particles) else p
    rows = [columns["pos_kpc"], columns["vel_kms"], columns["mass_msun"][:, None]]
    if columns["side_kpc"] is not None and len(columns["side_kpc"]):
        rows.append(columns["side_kpc"][:, None])
    table = np.nan_to_num(np.hstack(rows))
    return table[np.lexsort(np.round(table[:, :3].T, 6))]


@pytest.mark.parametrize("read_whole_below", [10**9, 10], ids=["all of it", "region"])
@pytest.mark.parametrize("place", CENTRES)
@pytest.mark.parametrize("kind", grids.WRITERS)
def test_particles_come_back(kind, place, read_whole_below, galaxy, written, monkeypatch):
    monkeypatch.setattr(snapshots, "READ_WHOLE", read_whole_below)
    with opened(kind, written[kind, place]) as snapshot:
        assert snapshot.units.scale_factor == pytest.approx(grids.A)
        assert snapshot.units.hubble == pytest.approx(grids.H)
        assert snapshot.units.box_kpc == pytest.approx(grids.BOX)
        read = snapshot.galaxy(CENTRES[place], 60.0)
    for name in ("stars", "dark"):
        p = galaxy.components()[name]
        p = p[np.linalg.norm(p.pos_kpc, axis=1) <= 60.0]
        found = read.components()[name]
        assert len(found) == len(p) > 100
        relative, within_kpc = grids.STORED[kind.split()[-1]]
        _, order = cKDTree(p.pos_kpc).query(found.pos_kpc)
        assert len(np.unique(order)) == len(p)
        np.testing.assert_allclose(found.pos_kpc, p.pos_kpc[order], rtol=1e-9, atol=within_kpc)
        np.testing.assert_allclose(found.mass_msun, p.mass_msun[order], rtol=relative)
        if name == "stars":
            expected = p.vel_kms[order] + VELOCITY
            np.testing.assert_allclose(found.vel_kms, expected, rtol=relative, atol=relative)
    coarse = galaxy.dark.mass_msun[np.linalg.norm(galaxy.dark.pos_kpc, axis=1) <= 60.0]
    assert read.high_res_fraction == pytest.approx(1 - coarse[coarse > 2e6].sum() / coarse.sum())


def test_no_dark_matter_is_none_of_low_resolution_either(written):
    """`dark: []` says that the truth is to be stars and gas alone."""
    (place, *_) = CENTRES
    with opened("ramses", written["ramses", place], components={"dark": []}) as snapshot:
        assert snapshot.counts["coarse_dark"] > 0
        assert len(snapshot.galaxy(CENTRES[place], 60.0).dark) == snapshot.count("dark") == 0


@pytest.mark.parametrize("kind", grids.WRITERS)
def test_cells_hold_the_gas_that_lies_in_them(kind, galaxy, written):
    """Brute force: every cell has the mass and momentum of the gas particles between its faces; all fill the box."""
    with opened(kind, written[kind, "middle"]) as snapshot:
        cells = snapshot.everything("gas")
    assert cells.support_kpc is None
    relative, _ = grids.STORED[kind.split()[-1]]
    assert (cells.side_kpc**3).sum() == pytest.approx(grids.BOX**3, rel=relative)
    assert len(np.unique(np.round(np.log2(grids.BOX / cells.side_kpc), 6))) >= 4, "several levels"
    assert cells.mass_msun.sum() == pytest.approx(galaxy.gas.mass_msun.sum(), rel=1e-3)
    mass = momentum = 0.0
    for centre, side, m, v in zip(cells.pos_kpc, cells.side_kpc, cells.mass_msun, cells.vel_kms, strict=True):
        inside = (np.abs(galaxy.gas.pos_kpc + CENTRES["middle"] - centre) < side / 2).all(axis=1)
        if inside.any():
            total = galaxy.gas.mass_msun[inside].sum()
            assert m == pytest.approx(total, rel=relative)
            expected = (galaxy.gas.mass_msun[inside, None] * galaxy.gas.vel_kms[inside]).sum(0) / total + VELOCITY
            np.testing.assert_allclose(v, expected, rtol=100 * relative, atol=100 * relative)
            mass, momentum = mass + m, momentum + m * v
    assert mass == pytest.approx(galaxy.gas.mass_msun.sum(), rel=relative / 10)
    whole = (galaxy.gas.mass_msun[:, None] * (galaxy.gas.vel_kms + VELOCITY)).sum(0)
    np.testing.assert_allclose(momentum, whole, rtol=relative)


@pytest.mark.parametrize("kind", grids.WRITERS)
def test_the_same_as_a_plain_reader_and_as_yts_plain_fields(kind, written):
    path = written[kind, "middle"]
    with opened(kind, path) as snapshot:
        read = {name: snapshot.everything(name) for name in ("gas", "stars", "dark")}
    plain, box_kpc = grids.PLAIN[kind.split()[-1]](path)
    assert box_kpc == pytest.approx(grids.BOX)
    for name, p in read.items():
        rows, plain_rows = sorted_rows(p), sorted_rows(plain[name])
        if name == "dark":
            rows, plain_rows = (np.delete(x, [3, 4, 5], axis=1) for x in (rows, plain_rows))
        np.testing.assert_allclose(rows[:, :3], plain_rows[:, :3], rtol=1e-9, atol=1e-8, err_msg=name)
        precision = grids.PRECISION[kind.split()[-1]]
        np.testing.assert_allclose(rows[:, 3:], plain_rows[:, 3:], rtol=precision, atol=1e-9, err_msg=name)
    yt = pytest.importorskip("yt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        ds = yt.load(str(path))  # its regions do not keep it alive
        everything = ds.all_data()
        gas = Particles(
            np.stack([everything["index", axis].to("kpc").d for axis in "xyz"], axis=-1),
            np.stack([everything["gas", f"velocity_{axis}"].to("km/s").d for axis in "xyz"], axis=-1),
            everything["gas", "cell_mass"].to("Msun").d, side_kpc=everything["index", "dx"].to("kpc").d,
        )  # fmt: skip
        mass = everything["all", "particle_mass"].to("Msun").d
    np.testing.assert_allclose(sorted_rows(read["gas"]), sorted_rows(gas), rtol=1e-5, atol=1e-6)
    both = np.concatenate([read["stars"].mass_msun, read["dark"].mass_msun])
    np.testing.assert_allclose(np.sort(mass[mass > 0]), np.sort(both), rtol=1e-5)


@pytest.mark.parametrize("place", CENTRES)
@pytest.mark.parametrize("kind", grids.WRITERS)
def test_a_sphere_is_that_part_of_the_whole_whose_centres_it_holds(kind, place, written, monkeypatch):
    centre = CENTRES[place] + [3.0, -5.0, 4.0]
    with opened(kind, written[kind, place]) as snapshot:
        whole = {name: snapshot.everything(name) for name in ("gas", "stars", "dark")}
        box_kpc = snapshot.units.box_kpc
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    with opened(kind, written[kind, place], keep=False) as snapshot:
        for radius in (2.0, 40.0, 700.0):
            read = snapshot.galaxy(centre, radius)
            for name, p in whole.items():
                offset = p.pos_kpc - centre
                offset -= box_kpc * np.round(offset / box_kpc)
                inside = np.linalg.norm(offset, axis=1) <= radius
                expected = Particles(offset[inside], p.vel_kms[inside], p.mass_msun[inside],
                                     side_kpc=None if p.side_kpc is None else p.side_kpc[inside])  # fmt: skip
                assert inside.any() or radius == 2.0
                np.testing.assert_allclose(sorted_rows(read.components()[name]), sorted_rows(expected), atol=1e-7)


def test_domains_that_share_large_octs_lose_nothing(galaxy, tmp_path, monkeypatch):
    """A domain owns octs by their centres: what lies in a large one may lie on another domain's piece of the curve."""
    path = grids.ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY, domains=61)
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    rng = np.random.default_rng(3)
    with opened("ramses", path, keep=False) as snapshot:
        whole = {name: snapshot.everything(name) for name in ("gas", "dark")}
        assert len(whole["gas"]) == len(sorted_rows(grids.plain_ramses(path)[0]["gas"]))
        for name, p in whole.items():
            for at in rng.choice(p.pos_kpc, 25):
                centre, radius = at + rng.normal(size=3), 10 ** rng.uniform(0.8, 2.0)
                inside = np.linalg.norm(p.pos_kpc - centre, axis=1) <= radius
                assert len(snapshot.galaxy(centre, radius).components()[name]) == inside.sum() > 0


def test_an_isolated_run_whose_box_is_not_one_is_the_same_galaxy(galaxy, written, tmp_path):
    """Codes of grids measure places in boxes or in units of length; densities are per unit of length."""
    with opened("ramses", written["ramses", "middle"]) as snapshot:
        expected = {name: snapshot.everything(name) for name in ("gas", "stars", "dark")}
    path = grids.isolated_ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY)
    with opened("ramses", path, components={"low_resolution": ["coarse_dark"]}) as snapshot:
        assert not snapshot.units.cosmological
        assert snapshot.units.box_kpc == pytest.approx(grids.BOX)
        for name, p in expected.items():
            found = snapshot.everything(name)
            assert found.mass_msun.sum() == pytest.approx(galaxy.components()[name].mass_msun.sum(), rel=1e-3)
            rows, expected_rows = sorted_rows(found), sorted_rows(p)
            # Cells without gas have another floor.
            np.testing.assert_allclose(rows[:, 6], expected_rows[:, 6], rtol=1e-6, atol=1e5)
            np.testing.assert_allclose(np.delete(rows, 6, axis=1), np.delete(expected_rows, 6, axis=1), atol=1e-5)


def test_the_order_of_fields_that_a_user_has_told_yt_is_not_that_of_every_file(galaxy, written, tmp_path):
    """A yt.toml in the home or working folder names the fields of one run's files, for a user's own scripts."""
    from yt.config import ytcfg

    swapped = ["Density", *(f"{axis}-velocity" for axis in "zyx"), "Pressure", "Metallicity"]
    particles = [f"particle_{kind}_{axis}, d" for kind in ("position", "velocity") for axis in "zyx"]
    path = grids.old_ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY)
    grids.without_descriptors(path)
    orders = {"ramses-hydro": swapped, "ramses-particles": "\n".join([*particles, "particle_mass, d"])}
    for section, fields in orders.items():
        ytcfg.add_section(section)
        ytcfg[section, "fields"] = fields
    try:
        found = read_all("ramses", path)
        assert all(ytcfg.has_section(section) for section in orders), "for whoever uses yt in this process, too"
    finally:
        for section in orders:
            ytcfg.remove_section(section)
    for name, p in read_all("ramses", written["old ramses", "middle"]).items():
        np.testing.assert_array_equal(sorted_rows(found[name]), sorted_rows(p))


def changed(change: Callable[[list[bytes]], list[bytes]], pattern: str = "part_*.out*") -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        for file in path.parent.glob(pattern):
            grids.change_records(file, change)

    return apply


def with_old_names(path: Path) -> None:
    """Name the fields as old versions did, with scalars beyond the ninth, whose numbers did not fit their format."""
    grids.without_descriptors(path, 11)
    names = ["density", *(f"velocity_{axis}" for axis in "xyz"), "thermal_pressure"]
    names += [f"passive_scalar_{i if i < 10 else '*'}" for i in range(1, 13)]
    lines = [f"variable #{i:2d}: {name}" for i, name in enumerate(names, start=1)]
    text = "\n".join(["nvar        =         17", *lines, ""])
    path.with_name("hydro_file_descriptor.txt").write_text(text)


def with_long_numbers(found: list[bytes]) -> list[bytes]:
    """Number particles in eight bytes; of stars whose supernovae are still to come the numbers are negative."""
    number, born = np.frombuffer(found[15], "<i4").astype("<i8"), np.frombuffer(found[17], "<f8")
    young = np.flatnonzero(born < 0)[::3]
    number[young] = -(2**40) - number[young]
    return [*found[:15], number.tobytes(), *found[16:]]


#: Outputs of RAMSES that hold the same galaxy in another layout: how they are written, and what is changed then.
LAYOUTS = {
    "boundaries": ({}, grids.with_boundary),
    "isolated, without families": ({"families": False, "boxlen": 250.0}, lambda path: None),
    "six fields without names": ({}, grids.without_descriptors),
    "twelve fields without names": ({}, lambda path: grids.without_descriptors(path, 6)),
    "old names of seventeen fields": ({}, with_old_names),
    "odd records of particles": ({"families": False}, changed(lambda r: [*r, b"abcde", b"x" * 7])),
    "first stars are counted by the first domain alone": (
        {},
        changed(lambda r: [*r[:4], struct.pack("<i", 0), *r[5:]], "part_*.out0000[23]"),
    ),
    "long numbers": ({"families": False}, changed(with_long_numbers)),
    "a domain has two pieces of the curve": (
        {},
        lambda path: edit(path, r"(?s)DOMAIN.*", f"DOMAIN  ind_min  ind_max\n 1 0 1\n 2 1 2\n 3 2 3\n 4 3 {8.0**10}\n"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_galaxy_in_other_layouts_of_ramses(layout, galaxy, written, tmp_path, monkeypatch):
    options, change = LAYOUTS[layout]
    path = grids.ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY, **options)
    change(path)
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    with opened("ramses", written["ramses", "middle"]) as snapshot:
        expected = snapshot.galaxy(CENTRES["middle"], 300.0).components()
    said = {"low_resolution": ["coarse_dark"]} if layout == "isolated, without families" else {}
    with opened("ramses", path, components=said) as snapshot:
        found = snapshot.galaxy(CENTRES["middle"], 300.0).components()
        assert (snapshot.units.box_kpc is None) == (layout == "boundaries")
    for name in ("gas", "stars", "dark"):
        assert len(expected[name]) > 100
        rows, expected_rows = sorted_rows(found[name]), sorted_rows(expected[name])
        np.testing.assert_allclose(rows, expected_rows, rtol=1e-6, atol=1e5 if "isolated" in layout else 1e-6)


@pytest.mark.parametrize("families", [True, False], ids=["families", "birth times"])
def test_first_stars_of_an_isolated_run_are_no_dark_matter_unless_that_is_said(families, galaxy, tmp_path):
    """Old files know stars by their birth time alone, and those of the start have none: here light dark matter.

    New ones give all particles of a table of initial conditions the family of dark matter (init_part.f90, ic_part).
    """
    path = grids.ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY, families=families, boxlen=250.0)
    assert_refused("ramses", path, r"coarse_dark \(100 heavier ones\): stars that were there at the start")
    assert "coarse_dark (100 heavier ones): stars that were there at the start" in "\n".join(describe(path))
    heavy = galaxy.dark.mass_msun > 1.5 * galaxy.dark.mass_msun.min()
    said = {"stars": ["stars", "dark"], "dark": ["coarse_dark"], "low_resolution": []}
    with opened("ramses", path, components=said) as snapshot:
        assert len(snapshot.everything("stars")) == len(galaxy.stars) + np.count_nonzero(~heavy)
        assert np.isfinite(snapshot.everything("stars").vel_kms).all()
        found_msun = snapshot.everything("dark").mass_msun.sum()
    assert found_msun == pytest.approx(galaxy.dark.mass_msun[heavy].sum(), rel=1e-6)
    with opened("ramses", path, components={"low_resolution": ["coarse_dark"]}) as snapshot:
        assert len(snapshot.everything("stars")) == len(galaxy.stars)


def test_stars_before_their_supernovae_are_stars_whose_number_is_negative(galaxy, tmp_path):
    """Mechanical feedback numbers stars -5001, -5002, ...; debris has that of its stars, clouds that of their sink."""
    path = grids.old_ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY)
    n_others = {"stars": 0, "dark": 0}

    def renumber(found: list[bytes]) -> list[bytes]:
        number, born = np.frombuffer(found[15], "<i4").copy(), np.frombuffer(found[17], "<f8").copy()
        stars, dark = np.flatnonzero(born < 0), np.flatnonzero((born == 0) & (number > 0))
        number[stars[::3]] = -5000 - number[stars[::3]]
        number[stars[1::3]] = -3  # debris
        number[dark[::9]] = -4000  # clouds
        born[dark[::18]] = -0.3
        n_others["stars"] += len(stars[1::3])
        n_others["dark"] += len(dark[::9])
        return [
            *found[:7],
            struct.pack("<i", 4001),
            *found[8:15],
            number.tobytes(),
            found[16],
            born.tobytes(),
            found[18],
        ]

    changed(renumber)(path)
    assert min(n_others.values()) > 30
    with opened("ramses", path) as snapshot:
        for name, n in n_others.items():
            assert snapshot.count(name) == len(galaxy.components()[name]) - n


def of_other_families(found: list[bytes]) -> list[bytes]:
    """Make some dark matter clouds of sinks, debris, what is of another or no family, and tracers that have a mass."""
    family = np.frombuffer(found[17], "i1").copy()
    dark = np.flatnonzero(family == 1)
    for i, other in enumerate((3, 4, 5, 127, -1)):
        family[dark[i::6]] = other
    return [*found[:17], family.tobytes(), *found[18:]]


def renumbered(found: list[bytes]) -> list[bytes]:
    """Give some dark matter of an old file the negative numbers of clouds."""
    number, born = np.frombuffer(found[15], "<i4").copy(), np.frombuffer(found[17], "<f8")
    number[np.flatnonzero((born == 0) & (number > 0))[::6]] = -1
    return [*found[:15], number.tobytes(), *found[16:]]


OTHERS = {
    "families": (True, of_other_families, {"clouds": 68, "debris": 67, "other": 134}),
    "birth times": (False, renumbered, {"other": 68}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_who_maps_ramses_is_told_of_particles_that_count_nowhere(kind, galaxy, tmp_path):
    families, change, others = OTHERS[kind]
    path = grids.ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY, families=families)
    said = {"name": "x", "format": "ramses", "snapshots": "*/info_*.txt", "aperture": {"kpc": 50}, "root": tmp_path}
    assert "count" not in list_snapshot(Suite(**said), path).facts["kernels"]  # tracers have no mass
    changed(change)(path)
    with opened("ramses", path) as snapshot:
        assert {name: n for name, n in snapshot.counts.items() if name in others} == others
        left_msun = galaxy.dark.mass_msun.sum() - snapshot.everything("dark").mass_msun.sum()
    assert left_msun > 5e7
    words = f"particles of {' and '.join(others)} are in no component, so their mass counts nowhere"
    assert words in list_snapshot(Suite(**said), path).facts["kernels"]
    lines = [line for line in describe(path) if "in no component" in line]
    assert all(f"{n} particles of {name} are" in line for line, (name, n) in zip(lines, others.items(), strict=True))
    named = Suite(**said, particles={"black_holes": [*others]})
    assert "count" not in list_snapshot(named, path).facts["kernels"]
    with opened("ramses", path, components={"black_holes": [*others]}) as snapshot:
        assert snapshot.count("black_holes") == sum(others.values())


def test_an_output_of_ramses_in_groups_of_files_is_the_same(galaxy, tmp_path):
    """As runs with IOGROUPSIZE write it: the info file and the descriptors lie with the first domains."""
    path = grids.ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY)
    changed(of_other_families)(path)
    ramses = FORMATS["ramses"]
    with opened("ramses", path) as snapshot:
        units, counts, dark = snapshot.units, snapshot.counts, snapshot.everything("dark")
    others = ramses.unowned(path, set())
    for file in list(path.parent.iterdir()):
        folder = path.parent / ("group_00002" if file.suffix == ".out00003" else "group_00001")
        folder.mkdir(exist_ok=True)
        file.rename(folder / file.name)
    grouped = path.parent / "group_00001" / path.name
    with opened("ramses", grouped) as snapshot:
        assert (snapshot.units, snapshot.counts) == (units, counts)
        np.testing.assert_array_equal(sorted_rows(snapshot.everything("dark")), sorted_rows(dark))
    assert ramses.unowned(grouped, set()) == others > {"clouds"}
    (path.parent / "group_00002" / "hydro_00099.out00003").unlink()
    assert_refused("ramses", grouped, "hydro_00099.out00003: missing")


def test_a_layout_of_ramses_that_cannot_be_told_is_refused(galaxy, tmp_path):
    def write(name: str, **options: object) -> Path:
        return grids.ramses(tmp_path / name, galaxy, CENTRES["middle"], VELOCITY, **options)

    path = write("potential", families=False)
    changed(lambda r: [*r[:17], np.full(len(r[8]) // 8, -3.0).tobytes(), *r[17:]])(path)
    assert_refused("ramses", path, r"counts 500 stars, by birth times or families there are 900")
    path = write("one-sided")
    grids.with_boundary(path, 2)
    assert_refused("ramses", path, r"its coarse grid is 2 x 2 x 2")
    path = write("level")
    edit(path, "levelmin .*", "levelmin = 5")
    assert_refused("ramses", path, r"levelmin = 5, and of the 4096 octs")
    path = write("box")
    edit(path, "boxlen .*", "boxlen = 2.0")
    assert_refused("ramses", path, r"boxlen = 2, .* it would be 1; which is right")
    path = write("time", boxlen=250.0)
    edit(path, "unit_t .*", "unit_t = 3.1e13")
    assert_refused("ramses", path, r"unit_t = 3.1e\+13, and by G = 1")
    path = write("single")
    changed(lambda r: [*r[:7], struct.pack("<f", 1.0), *r[8:]], "amr_*.out*")(path)
    assert_refused("ramses", path, r"amr_00099.out00001: of a run in single precision")
    path = write("big")
    put(path.with_name("amr_00099.out00001"), 0, ">i4", 4)
    assert_refused("ramses", path, r"amr_00099.out00001: written on a big-endian machine")
    path = write("names")
    grids.without_descriptors(path, 6)
    with (
        opened("ramses", path, tracers=Tracers(gas="cold")) as snapshot,
        pytest.raises(SnapshotError, match="needs Temperature"),
    ):
        snapshot.everything("gas")


def without_cosmology(path: Path) -> None:
    """Give the units that follow from the cosmology by name."""
    with opened("enzo", path) as snapshot:
        units = snapshot.units
    length_cm = units.length_kpc * KPC_CM
    density = units.mass_msun * MSUN_G / length_cm**3
    edit(path, "ComovingCoordinates .*", "ComovingCoordinates = 0")
    named = f"LengthUnits = {length_cm}\nDensityUnits = {density}\nTimeUnits = {length_cm / units.velocity_kms / 1e5}\n"
    path.write_text(path.read_text() + named)


def in_grids(change: Callable[[h5py.Group], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        for file in path.parent.glob("*.cpu*"):
            with h5py.File(file, "r+") as data:
                for group in data.values():
                    change(group)

    return apply


def in_single_precision(group: h5py.Group) -> None:
    for name in ("Density", "Temperature", *(f"{axis}-velocity" for axis in "xyz")):
        replaced(group, name, group[name][()].astype("f4"))


def without_types(group: h5py.Group) -> None:
    if "particle_type" in group:
        del group["particle_type"]


def some_must_be_refined(group: h5py.Group) -> None:
    """Of dark matter, as in zooms, and of young stars, which have a creation time."""
    if "particle_type" in group:
        kind = group["particle_type"][()]
        replaced(group, "particle_type", np.where(np.isin(kind, (1, 2)) & (np.arange(len(kind)) % 2 == 0), 4, kind))


@pytest.mark.parametrize(
    "change",
    [without_cosmology, in_grids(in_single_precision), in_grids(without_types), in_grids(some_must_be_refined)],
    ids=["not cosmological", "single precision", "by creation time", "must be refined"],
)
def test_the_same_galaxy_in_other_layouts_of_enzo(change, small, tmp_path):
    path = copied(small["enzo"], tmp_path)
    expected = read_all("enzo", path)
    change(path)
    said = {"low_resolution": ["coarse_dark"]} if change is without_cosmology else {}
    with opened("enzo", path, components=said) as snapshot:
        assert snapshot.units.cosmological == (change is not without_cosmology)
    for name, p in read_all("enzo", path, components=said).items():
        assert len(p) == len(expected[name]) > 100
        np.testing.assert_allclose(sorted_rows(p), sorted_rows(expected[name]), rtol=2e-7, atol=1e-5)


def test_stars_of_enzo_that_have_ended_are_neither_stars_nor_dark_matter(small, tmp_path):
    """Exploded ones keep 1e-20 of their mass, remnants their time of creation; one that is not active yet is one."""
    path, n_ended, n_remnants = copied(small["enzo"], tmp_path), [0], [0]
    expected = read_all("enzo", path)
    assert not FORMATS["enzo"].unowned(path, set())  # there is a tracer

    def end(group: h5py.Group) -> None:
        if "particle_type" not in group:
            return
        kind, mass = group["particle_type"][()], group["particle_mass"][()]
        stars = np.flatnonzero(kind == 2)
        exploded, remnants, unborn = (stars[i::10] for i in range(3))
        kind[exploded], kind[remnants], kind[unborn] = 5, 1, -7
        mass[exploded] *= 1e-20
        mass[remnants] *= 1e-6
        replaced(group, "particle_type", kind)
        replaced(group, "particle_mass", mass)
        n_ended[0] += len(exploded) + len(remnants)
        n_remnants[0] += len(remnants)

    in_grids(end)(path)
    found = read_all("enzo", path)
    assert n_ended[0] > 50
    with opened("enzo", path) as snapshot:
        assert snapshot.counts["other"] == n_remnants[0]
    assert f"{n_remnants[0]} particles of other are in no component" in "\n".join(describe(path))
    suite = Suite(name="x", format="enzo", snapshots="DD????/DD????", aperture={"kpc": 50}, root=path.parents[1])
    assert "particles of other are in no component" in list_snapshot(suite, path).facts["kernels"]
    assert len(found["stars"]) == len(expected["stars"]) - n_ended[0]
    for name in ("dark", "gas"):  # which is parted by the lightest of its masses
        np.testing.assert_allclose(sorted_rows(found[name]), sorted_rows(expected[name]), rtol=2e-7, atol=1e-5)


def test_a_corrected_descriptor_is_another_snapshot(small, tmp_path):
    """It says which record is which velocity: what was mapped before it was corrected is not what is mapped now."""
    path = copied(small["ramses"], tmp_path)
    suite = Suite(name="x", format="ramses", snapshots="*/info_[0-9]*.txt", aperture={"kpc": 50}, root=tmp_path)
    before = list_snapshot(suite, path)
    descriptor = path.with_name("hydro_file_descriptor.txt")
    text, swapped = descriptor.read_text(), {"velocity_x": "velocity_z", "velocity_z": "velocity_x"}
    descriptor.write_text(re.sub("velocity_[xz]", lambda match: swapped[match[0]], text))
    assert descriptor.read_text() != text
    now = list_snapshot(suite, path)
    assert now.content != before.content
    assert now.marks != before.marks
    descriptor.write_text(text)
    assert list_snapshot(suite, path).content == before.content


@pytest.mark.parametrize("kind", grids.WRITERS)
def test_outputs_of_one_run_have_units_of_one_kind(kind, written):
    """Their source is a file of each output: an alarm that is always there hides the others."""
    path = written[kind, "middle"]
    suite = Suite(name="x", format=kind.split()[-1], snapshots="*", aperture={"kpc": 50}, root=path.parent)
    facts = list_snapshot(suite, path).facts
    assert facts is not None
    assert facts["source of units"].endswith(" of it")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("ramses", "amr_00099.out00001", "a file of RAMSES; give info_00099.txt beside it"),
        ("ramses", "part_00099.out00002", "a file of RAMSES; give info_00099.txt beside it"),
        ("enzo", "DD0099.cpu0000", "a file of Enzo's grids; give DD0099 beside it"),
        ("enzo", "DD0099.hierarchy", "a file of Enzo; give DD0099 beside it"),
    ],
)
def test_other_files_of_a_grid_say_which_to_give(kind, name, words, written):
    with pytest.raises(SnapshotError, match=words):
        recognised(written[kind, "middle"].with_name(name))


def test_stars_of_enzo_that_are_active_particles_are_refused(small, tmp_path):
    path = copied(small["enzo"], tmp_path)
    path.write_text(path.read_text() + "AppendActiveParticleType = CenOstriker\n")
    assert_refused("enzo", path, "it has active particles")


@pytest.mark.parametrize("kind", grids.WRITERS)
def test_its_size_is_that_of_all_its_files(kind, written):
    """By size the ranks share work, and one of them goes first through a large snapshot."""
    path = written[kind, "middle"]
    suite = Suite(name="x", format=kind.split()[-1], snapshots="*", aperture={"kpc": 50}, root=path.parent)
    files = [file for file in path.parent.iterdir() if not file.name.endswith("boundary")]
    assert list_snapshot(suite, path).n_bytes == sum(file.stat().st_size for file in files) > 50_000


def test_masses_tell_of_resolution_only_where_they_come_in_steps():
    assert coarse_above(np.array([8.0, 1.0, 1.0, 64.0]), True) == 1.5
    for expands in (True, False):
        assert coarse_above(np.geomspace(1, 2, 1000), expands) == np.inf
        assert coarse_above(np.zeros(0), expands) == np.inf
        assert not (np.array([1.0, 1.4]) > coarse_above(np.array([1.0, 1.4, 1.4]), expands)).any()


def test_a_few_particles_do_not_part_a_run_that_does_not_expand():
    """One black hole among the initial conditions is no halo, and the halo no disc."""
    masses = np.array([1e5, 1e6, 5e7])
    limit = coarse_above_counted({1e5: 5000, 1e6: 9999, 5e7: 1}, False)
    np.testing.assert_array_equal(masses > limit, [False, True, True])
    assert coarse_above_counted({1e5: 5000, 5e7: 1}, False) == np.inf


def test_disc_and_bulge_are_on_one_side_of_the_halo_in_a_run_that_does_not_expand():
    masses = np.array([1e5, 4e5, 1.2e7, 4e5])
    np.testing.assert_array_equal(masses > coarse_above(masses, False), [False, False, True, False])
    np.testing.assert_array_equal(masses > coarse_above(masses, True), [False, True, True, True])


@pytest.mark.parametrize("n_fine", [3, 150_000])
def test_coarse_particles_are_counted_or_not_told_apart(n_fine):
    """More different masses than are counted may hide the coarse ones: none of the dark may be left out for that."""
    counts: dict[float, int] = {}
    count_masses(counts, np.linspace(1, 1.1, n_fine))
    count_masses(counts, np.full(50, 8.0))
    limit = coarse_above_counted(counts, True)
    assert (limit == np.inf) == (n_fine > 100_000)
    assert limit == np.inf or sum(n for mass, n in counts.items() if mass > limit) == 50


@pytest.mark.parametrize("kind", grids.WRITERS)
def test_check_and_draft_know_it(kind, written):
    path = written[kind, "middle"]
    assert recognised(path) == kind.split()[-1]
    lines = "\n".join(describe(path))
    for words in (
        f"format      {kind.split()[-1]}",
        "z = 0.6667",
        "4000 kpc",
        "500 particles of stars",
        "can be mapped",
    ):
        assert words in lines
    assert f"format: {kind.split()[-1]}" in draft(path)


def test_check_finds_stars_that_lie_in_few_of_many_files(galaxy, tmp_path):
    """Sixteen of 64 domains are looked into: those with the most particles, and some for the rest."""
    path = grids.ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY, domains=64)
    lines = "\n".join(describe(path))
    assert "500 particles of stars" in lines
    assert "can be mapped" in lines
    n_gas = int(re.search(r"gas +([\d,]+) particles", lines)[1].replace(",", ""))
    with opened("ramses", path) as snapshot:
        assert n_gas == pytest.approx(snapshot.counts["gas"], rel=0.1)


def test_cold_gas_is_told_by_its_pressure(written):
    with opened("ramses", written["ramses", "middle"], tracers=Tracers(gas="cold", cold_below_k=1e9)) as snapshot:
        cells = snapshot.everything("gas")
        np.testing.assert_allclose(cells.weight, cells.mass_msun)
    with opened("ramses", written["ramses", "middle"], tracers=Tracers(gas="cold", cold_below_k=1e-3)) as snapshot:
        assert not snapshot.everything("gas").weight.any()


def test_arts_temperature_is_yts(written):
    """All gas is written with the same energy per mass."""
    yt = pytest.importorskip("yt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        kelvin = yt.load(str(written["art", "middle"])).all_data()["gas", "temperature"].to("K").d
    assert kelvin.max() == pytest.approx(kelvin.min(), rel=1e-5)
    for factor, share in ((1.001, 1.0), (0.999, 0.0)):
        tracers = Tracers(gas="cold", cold_below_k=factor * kelvin.mean())
        with opened("art", written["art", "middle"], tracers=tracers) as snapshot:
            cells = snapshot.everything("gas")
        np.testing.assert_array_equal(cells.weight, share * cells.mass_msun)


def test_arts_other_files_say_which_to_give(written):
    path = written["art", "middle"]
    with pytest.raises(SnapshotError, match=r"header of ART's particles; give the file of cells beside it"):
        recognised(path.with_name(ART_HEADER))
    assert_refused("ramses", path, r"give `format: art`")
    assert_refused("gadget_binary", path, r"give `format: art`")
    assert_refused("art", written["ramses", "middle"], r"not ART's file of cells; give `format: ramses`")


@pytest.mark.parametrize("n_parts", [2, 5])
@pytest.mark.parametrize("kind", [kind for kind in grids.WRITERS if kind.split()[-1] != "art"])
def test_a_census_that_is_taken_in_parts_is_that_of_one_process(kind, n_parts, written, tmp_path):
    """Byte for byte, by more processes than files too; whoever opens the output then takes it, and counts nothing."""
    path, form = written[kind, "corner"], kind.split()[-1]
    with opened(kind, path, indexes=tmp_path / "alone") as snapshot:
        wanted = snapshot.counts
    parts = {n: find_part(path, form, None, tmp_path / "shared", (n, n_parts), nullcontext) for n in range(n_parts)}
    assert sum(part.tally.counts.get("stars", 0) for part in parts.values()) == wanted["stars"] > 0
    keep_parts(path, form, None, tmp_path / "shared", [parts[n] for n in range(n_parts)])
    assert {file.name: file.read_bytes() for file in (tmp_path / "alone").iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "shared").iterdir()
    }
    assert find_part(path, form, None, tmp_path / "shared", (0, n_parts), nullcontext) is None


@pytest.mark.parametrize(("number", "at"), [(13, 4 * 80), (17, 4), (18, 4), (48, 4), (48, 4 * 11)])
def test_an_oct_that_is_not_where_its_cell_is_gets_refused(number, at, small, tmp_path):
    """Children of the root, the first oct's number, its place, and the chain: yt reads them without a word."""
    path = copied(small["art"], tmp_path)
    at += big_record(path, number)
    value = int(np.frombuffer(path.read_bytes()[at : at + 4], ">i4")[0])
    put(path, at, ">i4", value + (1 << 13))
    with pytest.raises(SnapshotError, match=r"10MpcBox_csf512_a0.600.d: .*damaged"):
        read_all("art", path)


@pytest.mark.parametrize("kind", ["ramses", "enzo", "art"])
def test_a_place_among_the_readers_is_held_for_bytes_alone(kind, written, monkeypatch):
    taken, held = [], []

    @contextmanager
    def slot():
        assert not held, "a slot inside a slot: readers=1 would wait for ever"
        taken.append(1), held.append(1)
        yield
        held.clear()

    with opened(kind, written[kind, "middle"], slot=slot) as snapshot:
        snapshot.galaxy(CENTRES["middle"], 60.0)
        assert len(taken) == 1
    monkeypatch.setattr(snapshots, "FETCH_WHOLE", 0)
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    with opened(kind, written[kind, "middle"], slot=slot) as snapshot:
        before = len(taken)
        snapshot.galaxy(CENTRES["middle"], 60.0)
        assert len(taken) > before


# Faults


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def zero_tail(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: -len(raw) // 8] + bytes(len(raw) // 8 + 1))


def put(path: Path, at: int, kind: str, value: float) -> None:
    raw = bytearray(path.read_bytes())
    new = np.array([value], kind).tobytes()
    raw[at : at + len(new)] = new
    path.write_bytes(raw)


def edit(path: Path, pattern: str, text: str) -> None:
    changed = re.sub(pattern, text, path.read_text(), count=1)
    assert changed != path.read_text()
    path.write_text(changed)


RAMSES_FAULTS = {
    "no amr file of a domain": ("amr_00099.out00002", Path.unlink, "missing; info_00099.txt says 3 domains"),
    "no hydro file of a domain": ("hydro_00099.out00003", Path.unlink, "missing"),
    "no particles of a domain": ("part_00099.out00002", Path.unlink, "missing"),
    "no particles of the first domain": ("part_00099.out00001", Path.unlink, "part_00099.out00001: missing; .* 3 dom"),
    "no particles of any domain": (
        "",
        lambda folder: [file.unlink() for file in folder.glob("part_*.out*")],
        "part_00099.out00001: missing; .* 3 domains",
    ),
    "no descriptor of particles with families": ("part_file_descriptor.txt", Path.unlink, "part_file_descriptor.txt:"),
    "amr cut": ("amr_00099.out00002", cut, "cut short or damaged"),
    "hydro cut": ("hydro_00099.out00001", cut, "cut short or damaged"),
    "particles cut": ("part_00099.out00003", cut, "cut short or damaged"),
    "hydro of zeros at its end": ("hydro_00099.out00003", zero_tail, "written to its end|other sizes"),
    "amr of zeros at its end": ("amr_00099.out00001", zero_tail, "written to its end"),
    "particles of zeros at their end": ("part_00099.out00002", zero_tail, "damaged"),
    "another count of particles": ("part_00099.out00001", lambda p: put(p, 28, "<i4", 7), "damaged"),
    "another count of domains": ("info_00099.txt", lambda p: edit(p, r"ncpu  .*", "ncpu        =  2"), "2"),
    "no unit": ("info_00099.txt", lambda p: edit(p, r"unit_l .*\n", ""), "no unit_l"),
    "unit no number": ("info_00099.txt", lambda p: edit(p, r"unit_t .*", "unit_t = ***"), "unit_t is"),
    "another a": ("info_00099.txt", lambda p: edit(p, r"aexp .*", "aexp = 0.7"), "which is right"),
    "another h": ("info_00099.txt", lambda p: edit(p, r"H0 .*", "H0 = 50"), "which is right"),
    "another length": ("info_00099.txt", lambda p: edit(p, r"unit_l .*", "unit_l = 1e25"), "which is right"),
    "fewer fields": ("hydro_file_descriptor.txt", lambda p: edit(p, r"6, metal.*\n", ""), "says 5"),
    "no density": ("hydro_file_descriptor.txt", lambda p: edit(p, "density", "darkness"), "no Density"),
    "no mass": ("part_file_descriptor.txt", lambda p: edit(p, "mass", "weight"), "no mass"),
    "a domain of another step": (
        "amr_00099.out00002",
        lambda p: grids.change_records(p, lambda r: [*r[:14], struct.pack("<2i", 9, 10), *r[15:]]),
        "amr_00099.out00002: .* 9, 10.* another output",
    ),
    "a domain of another time": (
        "amr_00099.out00003",
        lambda p: grids.change_records(p, lambda r: [*r[:11], struct.pack("<d", -1.00001), *r[12:]]),
        "amr_00099.out00003: .* another output",
    ),
    "particles of a domain of another moment": (
        "part_00099.out00003",
        lambda p: grids.change_records(p, lambda r: [*r[:4], struct.pack("<i", 499), *r[5:]]),
        "part_00099.out00003: .* 499 stars in all.* 500: of another output",
    ),
    "another type": ("part_file_descriptor.txt", lambda p: edit(p, "family, b", "family, d"), "damaged"),
}


def in_grid(path: Path, change: Callable[[h5py.Group], object]) -> None:
    """Change the deepest grid of a data file that has particles."""
    with h5py.File(path, "r+") as file:
        change(file[max(name for name in file if "particle_mass" in file[name])])


def with_value(group: h5py.Group, name: str, value: float) -> None:
    values = group[name][()]
    values.flat[0] = value
    group[name][...] = values


def replaced(group: h5py.Group, name: str, values: np.ndarray) -> None:
    del group[name]
    group[name] = values


def unwritten(group: h5py.Group, name: str) -> None:
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape, "f8", chunks=True)


ENZO_FAULTS = {
    "no hierarchy": ("DD0099.hierarchy", Path.unlink, "missing"),
    "hierarchy cut": ("DD0099.hierarchy", cut, "damaged"),
    "no data file": ("DD0099.cpu0001", Path.unlink, "missing, and DD0099.hierarchy names it"),
    "data file cut": ("DD0099.cpu0000", cut, "damaged"),
    "another count of particles": (
        "DD0099.hierarchy",
        lambda p: edit(p, r"NumberOfParticles   = [1-9]\d*", "NumberOfParticles   = 1"),
        "entries",
    ),
    "a grid elsewhere": (
        "DD0099.hierarchy",
        lambda p: edit(p, r"GridLeftEdge      = 0 0 0", "GridLeftEdge = 0.1 0 0"),
        "lattice",
    ),
    "a pointer to nowhere": (
        "DD0099.hierarchy",
        lambda p: edit(p, r"NextLevel = [1-9]\d* ", "NextLevel = 0 "),
        "of the domain|yt",
    ),
    "no density": ("DD0099.cpu0000", lambda p: in_grid(p, lambda g: g.pop("Density")), "Density"),
    "density of another shape": (
        "DD0099.cpu0000",
        lambda p: in_grid(p, lambda g: replaced(g, "Density", np.ones((2, 2, 3)))),
        "damaged",
    ),
    "density never written": ("DD0099.cpu0000", lambda p: in_grid(p, lambda g: unwritten(g, "Density")), "Density"),
    "density zero": (
        "DD0099.cpu0000",
        lambda p: in_grid(p, lambda g: replaced(g, "Density", 0 * g["Density"][()])),
        "density",
    ),
    "density NaN": (
        "DD0099.cpu0001",
        lambda p: in_grid(p, lambda g: replaced(g, "Density", np.nan * g["Density"][()])),
        "NaN",
    ),
    "fewer particles": (
        "DD0099.cpu0000",
        lambda p: in_grid(p, lambda g: replaced(g, "particle_mass", g["particle_mass"][1:])),
        "entries",
    ),
    "position NaN": (
        "DD0099.cpu0000",
        lambda p: in_grid(p, lambda g: with_value(g, "particle_position_x", np.nan)),
        "NaN",
    ),
    "mass NaN": ("DD0099.cpu0001", lambda p: in_grid(p, lambda g: with_value(g, "particle_mass", np.nan)), "NaN"),
    "another redshift": ("DD0099", lambda p: edit(p, r"CurrentRedshift .*", "CurrentRedshift = 0.2"), "which is right"),
    "another h": ("DD0099", lambda p: edit(p, r"HubbleConstantNow .*", "HubbleConstantNow = 70"), "h = 70"),
    "no box": ("DD0099", lambda p: edit(p, r"CosmologyComovingBoxSize .*", ""), "no CosmologyComovingBoxSize"),
    "cells that are no cubes": (
        "DD0099",
        lambda p: edit(p, r"TopGridDimensions .*", "TopGridDimensions = 8 8 16"),
        "no cubes",
    ),
    "a factor of refinement that is not read": (
        "DD0099",
        lambda p: edit(p, r"RefineBy .*", "RefineBy = 4"),
        "factors of 2",
    ),
}


ART_CELLS, ART_HEADER, ART_STARS = "10MpcBox_csf512_a0.600.d", "PMcrda0.600.DAT", "stars_a0.600.dat"
ART_DATA = "PMcrs0a0.600.DAT"


def big_record(path: Path, number: int) -> int:
    """Where the numbers of a record of a big-endian Fortran file begin, of which the first is 0."""
    raw, at = path.read_bytes(), 0
    for _ in range(number):
        at += 8 + struct.unpack_from(">i", raw, at)[0]
    return at + 4


ART_FAULTS = {
    "no particles": (ART_DATA, Path.unlink, "PMcrs0a0.600.DAT: missing"),
    "no header of particles": (ART_HEADER, Path.unlink, "PMcrda0.600.DAT: missing"),
    "no stars": (ART_STARS, Path.unlink, "stars_a0.600.dat: missing"),
    "two headers": (
        ART_HEADER,
        lambda p: shutil.copyfile(p, p.with_name("PMcrd_a0.600.DAT")),
        "PMcrda0.600.DAT: there is PMcrd_a0.600.DAT, too",
    ),
    "cells cut": (ART_CELLS, cut, "csf512_a0.600.d: .*cut short or damaged"),
    "cells cut at their end": (ART_CELLS, lambda p: cut(p, 0.99), "csf512_a0.600.d: .*cut short or damaged"),
    "header of particles cut": (ART_HEADER, cut, "PMcrda0.600.DAT: .*cut short or damaged"),
    "particles cut": (ART_DATA, cut, "PMcrs0a0.600.DAT: .* cut short"),
    "stars cut": (ART_STARS, cut, "stars_a0.600.dat: .*cut short or damaged"),
    "cells of zeros at their end": (ART_CELLS, zero_tail, "csf512_a0.600.d: .*damaged"),
    "stars of zeros at their end": (ART_STARS, zero_tail, "stars_a0.600.dat: .*damaged"),
    "another count of stars": (ART_STARS, lambda p: put(p, 28, ">i4", 499), "499 stars, and the last species has 500"),
    "another count of dark matter": (
        ART_HEADER,
        lambda p: put(p, 181, ">i4", 350),
        "500 stars, and the last species has 550",
    ),
    "another count of particles": (ART_HEADER, lambda p: put(p, 185, ">i4", 9000), "PMcrs0a0.600.DAT: .* cut short"),
    "fewer species": (ART_HEADER, lambda p: put(p, 105, ">i4", 2), "PMcrs0|last species"),
    "no particle": (ART_HEADER, lambda p: [put(p, 177 + 4 * i, ">i4", 0) for i in range(3)], "species of"),
    "weight NaN": (ART_HEADER, lambda p: put(p, 141, ">f4", np.nan), "PMcrda0.600.DAT: .*weights"),
    "other pages": (ART_HEADER, lambda p: put(p, 97, ">i4", 64), "PMcrs0a0.600.DAT"),
    "another root": (ART_HEADER, lambda p: put(p, 101, ">i4", 16), "Ngridc = 16, .* has 8.3 root cells"),
    "another a of particles": (ART_HEADER, lambda p: put(p, 49, ">f4", 0.5), "a = 0.5, .*both of one snapshot"),
    "another a of stars": (ART_STARS, lambda p: put(p, 12, ">f8", 0.5), "a = 0.5"),
    "another a": (ART_CELLS, lambda p: put(p, 264 + 4 + 20, ">f4", 0.5), "its name says a = 0.600"),
    "another h": (ART_CELLS, lambda p: put(p, 300 + 4 + 16, ">f4", 0.5), "hubble = 0.7, .* says 0.5"),
    "another Om0": (ART_CELLS, lambda p: put(p, 300 + 4 + 4, ">f4", 0.5), "omega_m = 0.27, .* says 0.5"),
    "no box": (ART_CELLS, lambda p: put(p, 300 + 4, ">f4", 0.0), "a box of 0 Mpc"),
    "box NaN": (ART_CELLS, lambda p: put(p, 300 + 4, ">f4", np.nan), "boxh = nan"),
    "fewer levels": (ART_CELLS, lambda p: put(p, big_record(p, 6) + 4, ">i4", 5), "have children that it lacks"),
    "a child of nobody": (ART_CELLS, lambda p: put(p, big_record(p, 13), ">i4", 4000), "those of the cells above"),
    "density NaN": (ART_CELLS, lambda p: put(p, big_record(p, 14), ">f4", np.nan), "NaN"),
    "density zero": (ART_CELLS, lambda p: put(p, big_record(p, 14), ">f4", 0.0), "density"),
    "momentum NaN": (ART_CELLS, lambda p: put(p, big_record(p, 14) + 8, ">f4", np.nan), "NaN"),
    "position NaN": (ART_DATA, lambda p: put(p, 40, ">f4", np.nan), "PMcrs0a0.600.DAT: places"),
    "position outside": (ART_DATA, lambda p: put(p, 40, ">f4", 0.5), "PMcrs0a0.600.DAT: places"),
    "velocity NaN": (ART_DATA, lambda p: put(p, 4 * (9 * 256 + 244), ">f4", np.nan), "NaN"),
    "mass of a star NaN": (ART_STARS, lambda p: put(p, 24 + 12 + 24 + 4, ">f4", np.nan), "stars_a0.600.dat: masses"),
}
FAULTS = {
    (kind, fault): faults[fault]
    for kind, faults in (("ramses", RAMSES_FAULTS), ("enzo", ENZO_FAULTS), ("art", ART_FAULTS))
    for fault in faults
}


@pytest.fixture(scope="module")
def small(galaxy, tmp_path_factory) -> dict[str, Path]:
    write = {"ramses": grids.ramses, "enzo": grids.enzo, "art": grids.art}
    return {k: write[k](tmp_path_factory.mktemp(k), galaxy, CENTRES["middle"], VELOCITY) for k in write}


def copied(path: Path, to: Path) -> Path:
    shutil.copytree(path.parent, to / path.parent.name)
    return to / path.parent.name / path.name


def read_all(kind: str, path: Path, **options: object) -> dict[str, Particles]:
    with opened(kind, path, **options) as snapshot:
        return {name: snapshot.everything(name) for name in ("gas", "stars", "dark")}


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_a_damaged_output_is_refused_by_the_file_at_fault(kind, fault, small, tmp_path):
    path = copied(small[kind], tmp_path)
    name, damage, words = FAULTS[kind, fault]
    damage(path.parent / name)
    with pytest.raises(SnapshotError, match=words) as raised:
        read_all(kind, path)
    error = raised.value.with_traceback(None)
    del raised
    assert str(path.parent) in str(error)
    assert "\n" not in str(error)
    held = {os.path.realpath(f"/proc/self/fd/{fd}").removesuffix(" (deleted)") for fd in os.listdir("/proc/self/fd")}
    assert not {Path(file).name for file in held} & set(os.listdir(path.parent))  # though yt's error is kept


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_impossible_densities_are_refused(value, galaxy, tmp_path):
    grids.ramses(tmp_path, galaxy, CENTRES["middle"], VELOCITY, domains=1)
    hydro = tmp_path / "output_00099" / "hydro_00099.out00001"
    sizes = [len(record) for record in grids.records(hydro)]
    last = max(i for i in range(6, len(sizes)) if sizes[i] >= 8)  # of the deepest level, of whose cells none is refined
    at = sum(size + 8 for size in sizes[: last - 47]) + 4
    put(hydro, at, "<f8", value)
    with pytest.raises(SnapshotError, match=r"density|NaN or infinite|negative"):
        read_all("ramses", tmp_path / "output_00099" / "info_00099.txt")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # yt leaves files open
@pytest.mark.parametrize("kind", ["ramses", "enzo", "art"])
@pytest.mark.parametrize("number", range(MUTANTS))
def test_a_mutant_is_what_its_files_say_or_refused(number, kind, small, tmp_path):
    path = copied(small[kind], tmp_path)
    files = sorted(path.parent.iterdir())
    damaged = files[number % len(files)]
    said = f"{damaged.name}: {layouts.damage_bytes(damaged, np.random.default_rng([7, number]))}"
    try:
        read = read_all(kind, path)
    except SnapshotError as error:
        message = str(error)
        assert str(path.parent) in message, said
        assert "\n" not in message
        assert len(message) < 600
        return
    with np.errstate(over="ignore"):
        plain, _ = grids.PLAIN[kind](path)
    for name, p in read.items():
        assert len(p) == len(plain[name]["mass_msun"]), said
        rows, plain_rows = sorted_rows(p), sorted_rows(plain[name])
        if name == "dark":
            rows, plain_rows = (np.delete(x, [3, 4, 5], axis=1) for x in (rows, plain_rows))
        np.testing.assert_allclose(rows, plain_rows, rtol=max(grids.PRECISION[kind], 2e-7), atol=2e-4, err_msg=said)
