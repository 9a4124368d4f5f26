"""Regions of a snapshot: what is asked of yt, and when a process holds its place among the readers."""

from contextlib import contextmanager, nullcontext

import h5py
import layouts
import numpy as np
import pytest
from conftest import tree

from kinmass.gen.formats import SnapshotError, frontends
from kinmass.gen.snapshots import snapshot as snapshots
from kinmass.gen.snapshots.parts import find_part, keep_parts
from kinmass.gen.snapshots.regions import Regions
from kinmass.gen.snapshots.snapshot import Snapshot

CENTRE = np.zeros(3)
LAYOUTS = {"tipsy": layouts.tipsy, "gizmo": layouts.fire, "arepo": layouts.tng, "swift": layouts.swift_virtual}


class Slots:
    """Counts how often a slot is taken, and how many are held at once."""

    def __init__(self):
        self.taken = self.held = 0

    @contextmanager
    def __call__(self):
        assert self.held == 0, "a slot inside a slot: readers=1 would wait for ever"
        self.taken, self.held = self.taken + 1, 1
        yield
        self.held = 0


def _opened(form, folder, slots, **kwargs):
    path = LAYOUTS[form](folder / ("run.00512" if form == "tipsy" else "snap_028.hdf5"), layouts.galaxy(300))
    return Snapshot(path, form, {} if form == "tipsy" else layouts.DARK, slot=slots, **kwargs)


@pytest.mark.parametrize("form", LAYOUTS)
def test_a_region_is_one_request_without_the_velocities_of_dark_matter(form, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    with _opened(form, tmp_path, Slots()) as snapshot:
        io = type(snapshot._ds.index.io)
        real = io._read_particle_selection

        def read(self, chunks, selector, fields):
            asked.append(fields)
            return real(self, chunks, selector, fields)

        monkeypatch.setattr(io, "_read_particle_selection", read)
        galaxy = snapshot.galaxy(CENTRE, 30.0)
        dark = snapshot.components["dark"][0]
    assert 0 < len(galaxy.stars) < 300
    fields = [set(request) for request in asked]
    n_images = 1 if form == "tipsy" or snapshot.units.box_kpc is None else len(fields)
    assert len(fields) == n_images
    for request in fields:
        assert (dark, "Velocities") not in request
        assert {name for ptype, name in request if ptype == dark} >= {"Coordinates"}
    assert any(len({ptype for ptype, _ in request}) >= 3 for request in fields)
    assert len(galaxy.dark) > 0
    assert np.isnan(galaxy.dark.vel_kms).all()
    assert np.isfinite(galaxy.stars.vel_kms).all()


@pytest.mark.parametrize("form", LAYOUTS)
def test_the_same_particles_in_one_request_as_field_by_field(form, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    with _opened(form, tmp_path, Slots()) as snapshot:
        at_once = snapshot.galaxy(CENTRE, 40.0)

        def refused(self, path, parts, names, counts, slot):
            self.path, self._parts, self._counts, self._slot, self._read = path, parts, counts, slot, {}

        monkeypatch.setattr(Regions, "__init__", refused)
        one_by_one = snapshot.galaxy(CENTRE, 40.0)
    assert min(len(at_once.stars), len(at_once.gas), len(at_once.dark)) > 100
    for name, p in at_once.components().items():
        other = one_by_one.components()[name]
        assert len(p) == len(other)
        np.testing.assert_array_equal(p.pos_kpc, other.pos_kpc)
        np.testing.assert_array_equal(p.vel_kms, other.vel_kms)
        np.testing.assert_array_equal(p.mass_msun, other.mass_msun)


@pytest.mark.parametrize("form", ["tipsy", "gizmo", "arepo"])
def test_a_small_snapshot_holds_a_slot_for_its_bytes_alone(form, tmp_path):
    slots = Slots()
    with _opened(form, tmp_path, slots) as snapshot:
        assert slots.taken == 1
        snapshot.galaxy(CENTRE, 30.0)
        snapshot.galaxy(CENTRE, 60.0)
    assert (slots.taken, slots.held) == (1, 0)


def test_a_large_snapshot_and_parts_elsewhere_hold_a_slot_for_each_region(tmp_path, monkeypatch):
    slots = Slots()
    monkeypatch.setattr(snapshots, "SMALLEST_PARTICLE", 1000)  # this one holds 900 particles
    with _opened("swift", tmp_path, slots, keep=False) as snapshot:  # the parts are files of their own
        assert slots.taken == 3  # to fetch the file that names them, to look at these, and for the positions in them
        before = slots.taken
        snapshot.galaxy(CENTRE, 30.0)
        assert slots.taken > before
    monkeypatch.setattr(snapshots, "FETCH_WHOLE", 0)
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    slots = Slots()
    (tmp_path / "large").mkdir()
    with _opened("gizmo", tmp_path / "large", slots) as snapshot:
        before = slots.taken
        snapshot.galaxy(CENTRE, 30.0)
        assert slots.taken > before
    assert slots.held == 0


def test_a_large_file_is_cut_into_blocks_and_gives_the_same_particles(tmp_path, monkeypatch):
    """Into as many blocks as yt's index handles well; a region has the same particles in the same order."""
    sizes = [frontends.block_size(n) for n in (1, 2**20, 2**20 + 1, 10**8, 10**9, 10**10)]
    assert sizes == [2**18, 2**18, 2**14, 2**14, 122071, 2**18]
    found = {}
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    for block in (2**18, 64, 7):
        folder = tmp_path / str(block)
        folder.mkdir()
        monkeypatch.setattr(frontends, "block_size", lambda n, block=block: block)
        with _opened("gizmo", folder, Slots()) as snapshot:
            assert (len(snapshot._ds.index.data_files) > 1) == (block < 300)
            found[block] = snapshot.galaxy(CENTRE, 30.0)
    for block in (64, 7):
        for name, p in found[2**18].components().items():
            np.testing.assert_array_equal(p.pos_kpc, found[block].components()[name].pos_kpc)


@pytest.mark.parametrize("form", ["gizmo", "tipsy"])
def test_positions_of_a_large_file_are_read_once_each_block_in_a_slot_of_its_own(form, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "FETCH_WHOLE", 0)
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    monkeypatch.setattr(frontends, "block_size", lambda n: 64)
    slots, found = Slots(), []
    path = LAYOUTS[form](tmp_path / "run.00512" if form == "tipsy" else tmp_path / "snap.hdf5", layouts.galaxy(300))
    dark = {} if form == "tipsy" else layouts.DARK
    for opening in range(2):
        before = slots.taken
        with Snapshot(path, form, dark, slot=slots, indexes=tmp_path / "indexes") as snapshot:
            # The second time its blocks are known. Before that come fetching, which does nothing here, and staging.
            n_blocks = len(snapshot._ds.index.data_files)
            assert n_blocks > 4
            assert slots.taken - before == 2 + n_blocks * (opening == 0)
            found.append(snapshot.galaxy(CENTRE, 30.0))
    for name, p in found[0].components().items():
        np.testing.assert_array_equal(p.pos_kpc, found[1].components()[name].pos_kpc)
    assert slots.held == 0


@pytest.mark.parametrize("form", LAYOUTS)
def test_an_index_found_in_parts_is_that_of_one_process(form, tmp_path, monkeypatch):
    """Joined, it is made of the snapshot's positions once."""
    monkeypatch.setattr(snapshots, "FETCH_WHOLE", 0)
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    monkeypatch.setattr(frontends, "block_size", lambda n: 64)
    alone, shared, slots = tmp_path / "alone", tmp_path / "shared", Slots()
    with _opened(form, tmp_path, slots, indexes=alone) as snapshot:
        path, wanted = snapshot.path, snapshot.galaxy(CENTRE, 30.0)
    parts = {number: find_part(path, form, None, shared, (number, 4), nullcontext) for number in (2, 0, 3, 1)}
    assert sum(part.blocks.nfiles for part in parts.values()) > 4
    keep_parts(path, form, None, shared, [parts[number] for number in range(4)])
    before, dark = slots.taken, {} if form == "tipsy" else layouts.DARK
    with Snapshot(path, form, dark, slot=slots, indexes=shared) as snapshot:
        assert slots.taken - before == 2  # to fetch and to stage
        found = snapshot.galaxy(CENTRE, 30.0)
    for name, p in wanted.components().items():
        np.testing.assert_array_equal(p.pos_kpc, found.components()[name].pos_kpc)
    assert tree(shared) == tree(alone)
    assert find_part(path, form, None, shared, (0, 4), nullcontext) is None, "what is known is looked for again"


def test_parts_of_a_snapshot_that_is_replaced_meanwhile_are_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(frontends, "block_size", lambda n: 64)
    path, folder, parts = tmp_path / "snap_028.hdf5", tmp_path / "indexes", []
    for number in range(2):
        layouts.fire(path, layouts.galaxy(300 + number))
        parts.append(find_part(path, "gizmo", None, folder, (number, 2), nullcontext))
    keep_parts(path, "gizmo", None, folder, parts)
    assert not folder.exists()
    keep_parts(
        path, "gizmo", None, folder, [find_part(path, "gizmo", None, folder, (n, 2), nullcontext) for n in (0, 1)]
    )
    assert len(list(folder.iterdir())) == 2


def test_positions_that_were_not_written_are_told_from_all_parts_together(tmp_path, monkeypatch):
    monkeypatch.setattr(frontends, "block_size", lambda n: 64)
    path = layouts.fire(tmp_path / "snap_028.hdf5", layouts.galaxy(300))
    with h5py.File(path, "r+") as file:
        for row in (0, 299):
            file["PartType4/Coordinates"][row] = 0.0
    parts = [find_part(path, "gizmo", None, tmp_path / "indexes", (number, 2), nullcontext) for number in range(2)]
    assert [part.at_origin["PartType4"] for part in parts] == [1, 1]
    with pytest.raises(SnapshotError, match=r"2 particles at \(0, 0, 0\) in PartType4"):
        keep_parts(path, "gizmo", None, tmp_path / "indexes", parts)
    assert not (tmp_path / "indexes").exists()
