"""A snapshot of many files is opened once for all: others ask only whether its files are the same."""

import os
from contextlib import nullcontext

import h5py
import layouts
import numpy as np
import pytest

from kinmass.gen.formats import FORMATS, frontends
from kinmass.gen.snapshots import snapshot as snapshots
from kinmass.gen.snapshots.indexes import KeptIndex
from kinmass.gen.snapshots.parts import find_part, keep_parts, stage_once
from kinmass.gen.snapshots.snapshot import Snapshot

LAYOUTS = {"gizmo": layouts.fire, "arepo": layouts.tng, "eagle": layouts.eagle, "swift": layouts.swift}
FILES = 4


@pytest.fixture(params=LAYOUTS)
def archive(request, tmp_path, monkeypatch):
    """A snapshot of several files in blocks of 64 particles, and its format."""
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    monkeypatch.setattr(frontends, "block_size", lambda n: 64)
    path = LAYOUTS[request.param](tmp_path / "snap_028.hdf5", layouts.galaxy(600), files=FILES)
    return path, request.param


@pytest.fixture
def opened(archive, monkeypatch):
    """The names of the files of the archive that are opened, or staged anew."""
    names, real = [], h5py.File.__init__

    def init(self, name, *arguments, **options):
        if os.path.dirname(str(name)) == str(archive[0].parent):
            names.append(os.path.basename(str(name)))
        real(self, name, *arguments, **options)

    monkeypatch.setattr(h5py.File, "__init__", init)
    return names


def galaxy(archive, **options):
    with Snapshot(*archive, layouts.DARK, **options) as snapshot:
        return {name: p.mass_msun for name, p in snapshot.galaxy(np.full(3, 5.0), 12.0).components().items()}, (
            snapshot.units
        )


def assert_same(one, other):
    for name, mass_msun in one.items():
        np.testing.assert_array_equal(mass_msun, other[name])


def test_who_opens_it_again_opens_none_of_its_files_but_the_first(archive, opened, tmp_path):
    """Those in which a galaxy lies are opened when it is read."""
    alone, units = galaxy(archive)
    kept = {"indexes": tmp_path / "kept"}
    first, _ = galaxy(archive, **kept)
    opened.clear()
    with Snapshot(*archive, layouts.DARK, **kept) as snapshot:
        assert set(opened) == {archive[0].name}
        assert snapshot.units == units
        again = {n: p.mass_msun for n, p in snapshot.galaxy(np.full(3, 5.0), 12.0).components().items()}
    assert sum(map(len, alone.values())) > 100
    assert_same(alone, first)
    assert_same(alone, again)


def test_what_a_suite_file_says_of_it_is_asked_anew(archive, opened, tmp_path):
    kept = {"indexes": tmp_path / "kept"}
    _, units = galaxy(archive, **kept)
    opened.clear()
    _, others = galaxy(archive, units={"mass_msun": 3e9}, **kept)
    assert others.mass_msun != units.mass_msun
    assert len(set(opened)) == FILES


def test_where_blocks_lie_is_found_anew_by_other_code(tmp_path, monkeypatch):
    """With them it is kept how many particles each type has, which other code may see otherwise."""
    (path := tmp_path / "snap_028.hdf5").touch()

    def name() -> str:
        return KeptIndex(tmp_path, FORMATS["gizmo"], path, None).name

    monkeypatch.setattr(FORMATS["gizmo"], "listed_files", lambda path: [path])
    before = name()
    assert name() == before
    monkeypatch.setattr("kinmass.gen.snapshots.indexes.stage_key", lambda: "other code")
    assert name() != before


@pytest.mark.parametrize("damage", ["staged", "facts", "cut", "other files"])
def test_what_is_damaged_or_of_other_files_is_made_anew(archive, opened, tmp_path, damage):
    kept = {"indexes": tmp_path / "kept"}
    alone, _ = galaxy(archive, **kept)
    (staged,), (facts,) = ((tmp_path / "kept").glob(f"*.{kind}") for kind in ("staged", "facts"))
    content = staged.read_bytes()
    if damage == "staged":
        staged.write_bytes(content[:2000] + b"\0" * 8 + content[2008:])
    elif damage == "cut":
        staged.write_bytes(content[:-1])
    elif damage == "facts":
        facts.write_text('{"units": {}}')
    else:
        last = sorted(archive[0].parent.glob("*.hdf5"))[-1]
        os.utime(last, ns=(0, last.stat().st_mtime_ns + 10**9))
    opened.clear()
    again, _ = galaxy(archive, **kept)
    assert len(set(opened)) == FILES
    assert_same(alone, again)


def test_ranks_that_look_for_parts_of_its_blocks_do_not_stage_it_again(archive, opened, tmp_path, monkeypatch):
    path, form = archive
    alone, _ = galaxy(archive)
    folder, n_parts, staged = tmp_path / "kept", 3, []
    real = FORMATS[form].stage
    monkeypatch.setattr(type(FORMATS[form]), "stage", lambda self, *args: staged.append(1) or real(*args))
    for _ in range(2):
        stage_once(path, form, None, folder, nullcontext)
    parts = [find_part(path, form, None, folder, (number, n_parts), nullcontext) for number in range(n_parts)]
    keep_parts(path, form, None, folder, parts)
    assert len(staged) == 1
    assert_same(alone, galaxy(archive, indexes=folder)[0])
    assert len(staged) == 1
