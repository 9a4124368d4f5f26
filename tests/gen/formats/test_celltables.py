"""Tables of cells: what they say is used without looking at all positions, and never where it is not so."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import h5py
import layouts
import numpy as np
import pytest

from kinmass.gen.campaign.schedule import parts_to_find
from kinmass.gen.formats import SnapshotError, celltables, frontends
from kinmass.gen.formats.blocks import Blocks
from kinmass.gen.physics.particles import Galaxy, empty
from kinmass.gen.snapshots import snapshot as snapshots
from kinmass.gen.snapshots.snapshot import Snapshot

N, CELLS, BITS = 3000, (3, 4, 4), 3
CELL_KPC = layouts.BOX / np.array(CELLS)
SPHERES = [((0.0, 0.0, 0.0), 600.0), ((1333.0, 2000.0, 3999.0), 500.0), ((2000.0, 2000.0, 2000.0), 900.0)]


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch):
    """No file is read as a whole, nor in one block."""
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    monkeypatch.setattr(frontends, "block_size", lambda n: 100)


def all_over_the_box(order, seed=4):
    """Make a galaxy whose particles are all over the box and sorted by `order` of their positions [kpc]."""
    rng, written = np.random.default_rng(seed), layouts.galaxy(N)
    components = {}
    for name, p in list(written.components().items())[:3]:
        pos = rng.uniform(0, layouts.BOX, (N, 3))
        pos[:, 0] = (np.arange(N) // (N // 3) + rng.uniform(size=N)) * CELL_KPC[0]  # as many in each third
        pos = pos[np.argsort(order(pos), kind="stable")]
        components[name] = replace(p, pos_kpc=pos, support_kpc=None if p.support_kpc is None else np.full(N, 100.0))
    return Galaxy(components["stars"], components["gas"], components["dark"], empty())


def swift_cell(pos):
    i, j, k = np.floor(pos / CELL_KPC).astype(int).T
    return (i * CELLS[1] + j) * CELLS[2] + k


def swift(path, kind):
    """Write a snapshot whose particles have left their cells by up to a fifth of a cell since these were made."""
    whole = all_over_the_box(swift_cell)
    cells = {name: swift_cell(p.pos_kpc) for name, p in list(whole.components().items())[:3]}
    rng = np.random.default_rng(5)
    moved = {
        name: replace(p, pos_kpc=p.pos_kpc + rng.uniform(-0.2, 0.2, (N, 3)) * CELL_KPC)
        for name, p in list(whole.components().items())[:3]
    }
    galaxy = Galaxy(moved["stars"], moved["gas"], moved["dark"], empty())
    files = {"one": 1, "three": 3, "virtual": 3}[kind]
    write = layouts.swift_virtual if kind == "virtual" else layouts.swift
    first = write(path, galaxy, files=files)
    for part in [path] if kind != "three" else layouts.file_paths(path, files):
        with h5py.File(part, "r+") as file:
            table = file.create_group("Cells")
            for number, name in layouts.TYPES.items():
                n_cells = int(np.prod(CELLS))
                counts = np.bincount(cells[name], minlength=n_cells)
                of_file = np.arange(n_cells) * files // n_cells
                offsets = np.cumsum(counts) - counts
                table[f"Files/PartType{number}"] = of_file
                table[f"Counts/PartType{number}"] = counts
                table[f"OffsetsInFile/PartType{number}"] = offsets - (of_file * (N // files) if files > 1 else 0)
                extent = np.full((2, n_cells, 3), 1e300) * np.array([1, -1])[:, None, None]
                np.minimum.at(extent[0], cells[name], moved[name].pos_kpc / layouts.MPC)
                np.maximum.at(extent[1], cells[name], moved[name].pos_kpc / layouts.MPC)
                table[f"MinPositions/PartType{number}"], table[f"MaxPositions/PartType{number}"] = extent
            table.create_group("Meta-data").attrs["size"] = CELL_KPC / layouts.MPC
    return first, "swift"


def eagle_key(pos):
    """Look each position's cell up among the cells of the curve in their order."""
    cells = celltables.places_of_keys(np.arange(8**BITS), BITS)
    key_of = np.zeros((2**BITS,) * 3, dtype=int)
    key_of[tuple(cells.T)] = np.arange(8**BITS)
    return key_of[tuple(np.floor(pos / layouts.BOX * 2**BITS).astype(int).T)]


def eagle(path, files):
    """Write a snapshot sorted along the curve, with keys that go on in the next file."""
    galaxy = all_over_the_box(eagle_key)
    first = layouts.eagle(path, galaxy, files=files)
    for i, part in enumerate(layouts.file_paths(path, files)):
        with h5py.File(part, "r+") as file:
            table = file["HashTable"]
            table.attrs["HashBits"] = BITS
            for number, name in layouts.TYPES.items():
                keys = np.array_split(eagle_key(galaxy.components()[name].pos_kpc), files)
                table[f"PartType{number}/FirstKeyInFile"] = [k[0] for k in keys]
                table[f"PartType{number}/LastKeyInFile"] = [k[-1] for k in keys]
                table[f"PartType{number}/NumParticleInCell"] = np.bincount(keys[i] - keys[i][0])
    return first, "eagle"


WRITERS = {
    **{f"swift, {kind}": lambda path, kind=kind: swift(path, kind) for kind in ("one", "three", "virtual")},
    **{f"eagle, {files}": lambda path, files=files: eagle(path, files) for files in (1, 3)},
}


@pytest.fixture
def rows_looked_at(monkeypatch):
    """How many rows of positions have been read."""
    rows, real = Counter(), h5py.Dataset.__getitem__

    def counted(self, key, **options):
        value = real(self, key, **options)
        if self.name.endswith("/Coordinates"):
            rows["all"] += len(value)
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    return rows


def read(path, form, **options):
    """Read the particles of all spheres, in an order of their own."""
    with Snapshot(path, form, layouts.DARK, **options) as snapshot:
        assert len(snapshot._ds.index.data_files) > 20
        galaxies = [snapshot.galaxy(np.array(centre), radius) for centre, radius in SPHERES]
        whole = {name: snapshot.everything(name) for name in ("stars", "gas", "dark")}
        for (centre, radius), galaxy in zip(SPHERES, galaxies, strict=True):
            for name, all_of in whole.items():
                inside = np.linalg.norm(snapshot.wrap(all_of.pos_kpc - centre), axis=1) <= radius
                particles = galaxy.components()[name]
                assert len(particles) == inside.sum() > 3, (name, centre)
                assert particles.mass_msun.sum() == pytest.approx(all_of.mass_msun[inside].sum(), rel=1e-12)
        return snapshot._ds.blocks


@pytest.mark.parametrize("kind", WRITERS)
def test_a_sphere_is_read_by_the_table(kind, tmp_path, monkeypatch, rows_looked_at):
    """By brute force over all particles; of positions next to nothing is looked at before."""
    monkeypatch.setattr(celltables, "ROWS_LOOKED_AT", 5)
    path, form = WRITERS[kind](tmp_path / "snap_028.hdf5")
    with Snapshot(path, form, layouts.DARK) as snapshot:
        assert snapshot._ds.blocks.is_told
        opened = rows_looked_at["all"]
        snapshot.galaxy(np.array(SPHERES[0][0]), 20.0)
    n_files = len(snapshot.format.files(path)) if kind != "swift, virtual" else 1
    assert opened <= 5 * (celltables.LOOKED_AT + 3) * n_files + 3 * 1000 * n_files  # a sample of a thousand of each
    assert rows_looked_at["all"] - opened < 0.5 * 3 * N
    assert read(path, form, indexes=tmp_path / "kept").is_told
    assert read(path, form, indexes=tmp_path / "kept").is_told  # as it was kept


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_cells_that_follow_each_other_on_the_curve_touch(bits):
    """And it goes through each once, as Hilbert's does; the places of some are those that GADGET-2's peano.c gives."""
    cells = celltables.places_of_keys(np.arange(8**bits), bits)
    assert len(np.unique(cells, axis=0)) == 8**bits
    np.testing.assert_array_equal(np.abs(np.diff(cells, axis=0)).sum(axis=1), 1)
    given = {
        102985: (63, 0, 0), 62316: (17, 42, 5), 168521: (63, 63, 63), 209486: (31, 32, 33), 38014: (8, 60, 2),
    }  # fmt: skip
    np.testing.assert_array_equal(celltables.places_of_keys(np.array([*given]), 6), [*given.values()])


def _cut(table, numbers):
    del table["MinPositions"]


def _moved(table, numbers):
    for number in numbers:
        for name in ("MinPositions", "MaxPositions"):
            table[f"{name}/PartType{number}"][...] = table[f"{name}/PartType{number}"][...] * 1000


def _shuffled(table, numbers):
    for number in numbers:
        for name in ("MinPositions", "MaxPositions"):
            table[f"{name}/PartType{number}"][...] = np.roll(table[f"{name}/PartType{number}"][...], 7, axis=0)


def _incomplete(table, numbers):
    table["Counts/PartType1"][3] -= 1


def _not_a_number(table, numbers):
    table["MaxPositions/PartType4"][5] = np.nan


@pytest.mark.parametrize("damage", [_cut, _moved, _shuffled, _incomplete, _not_a_number])
def test_a_table_that_is_not_so_is_not_used(damage, tmp_path):
    path, form = swift(tmp_path / "snap_028.hdf5", "one")
    layouts.edit(path, lambda file: damage(file["Cells"], layouts.TYPES))
    assert not read(path, form).is_told


def test_a_hash_table_of_other_particles_is_not_used(tmp_path):
    path, form = eagle(tmp_path / "snap_028.hdf5", 1)
    layouts.edit(path, lambda file: file["HashTable"].attrs.update({"HashBits": BITS + 1}))
    assert not read(path, form).is_told
    layouts.edit(path, lambda file: file.pop("HashTable/PartType0"))
    assert not read(path, form).is_told


def test_what_is_read_has_to_be_where_the_table_says(tmp_path, monkeypatch):
    """A table that is wrong in a place at which nobody looked is noticed by whoever reads there."""
    monkeypatch.setattr(celltables, "LOOKED_AT", 0)
    path, form = swift(tmp_path / "snap_028.hdf5", "one")
    with h5py.File(path, "r+") as file:
        centre = file["PartType4/Coordinates"][N // 2] * layouts.MPC
        file["PartType4/Coordinates"][N // 2] = 0.99 * layouts.BOX / layouts.MPC
    for _ in range(2):  # when it is made, and when it is kept
        with (
            Snapshot(path, form, layouts.DARK, indexes=tmp_path / "kept") as snapshot,
            pytest.raises(SnapshotError, match=r"snap_028.hdf5: some of PartType4/Coordinates lie elsewhere than"),
        ):
            snapshot.galaxy(centre, 300.0)


def test_blocks_keep_whether_they_were_told(tmp_path):
    one = np.zeros((1, 1, 3)), np.ones((1, 1, 3)), np.ones((1, 1), dtype=int), np.array([0, 0]), np.zeros(0, np.uint32)
    for is_told in (True, False):
        (tmp_path / "kept").write_bytes(Blocks(["a"], *one, is_told).packed())
        blocks = Blocks.load(tmp_path / "kept")
        assert (blocks.names, blocks.is_told) == (["a"], is_told)
        for pos in ([[0.5, 0.5, 2.0]], [[np.nan, 0.5, 0.5]]) if is_told else ():
            with pytest.raises(SnapshotError):
                blocks.check(0, "a", np.array(pos))
        blocks.check(0, "a", np.array([[0.5, 0.5, 1.0]]))


def test_a_box_that_tells_is_not_searched_in_parts(tmp_path):
    path, form = swift(tmp_path / "snap_028.hdf5", "one")
    task = SimpleNamespace(snapshot=path, snapshot_bytes=10**10, suite=SimpleNamespace(format=form))
    assert parts_to_find([task], 8) == []
    layouts.edit(path, lambda file: file.pop("Cells/MaxPositions"))
    assert len(parts_to_find([task], 8)) == 8
    path.unlink()
    assert len(parts_to_find([task], 8)) == 8  # whoever opens it says what is wrong
