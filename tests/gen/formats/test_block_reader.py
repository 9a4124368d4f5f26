"""A region out of the blocks of a file: the same particles whatever is kept of other galaxies, and few bytes."""

from collections import Counter

import h5py
import layouts
import numpy as np
import pytest

from kinmass.gen.formats import block_reader, frontends
from kinmass.gen.snapshots import snapshot as snapshots
from kinmass.gen.snapshots.snapshot import Snapshot

CENTRES = np.array([[0.0, 0.0, 0.0], [8.0, -5.0, 2.0], [0.5, 0.5, 0.0], [-20.0, 3.0, 9.0], [0.0, 0.0, 0.0]])
RADIUS_KPC = 12.0
LAYOUTS = {"gizmo": layouts.fire, "eagle": layouts.eagle}


@pytest.fixture(params=LAYOUTS)
def path(request, tmp_path, monkeypatch):
    """A snapshot in blocks of 64 particles, of which no galaxy is read as a whole."""
    monkeypatch.setattr(snapshots, "READ_WHOLE", 0)
    monkeypatch.setattr(frontends, "block_size", lambda n: 64)
    return LAYOUTS[request.param](tmp_path / "snap_028.hdf5", layouts.galaxy(600)), request.param


def opened(path):
    return Snapshot(path[0], path[1], layouts.DARK)


def same(a, b):
    for name, p in a.components().items():
        for key, values in vars(p).items():
            np.testing.assert_array_equal(values, getattr(b.components()[name], key))


def test_a_region_is_the_same_whatever_was_read_before_it(path, monkeypatch):
    monkeypatch.setattr(block_reader, "KEPT_BYTES", 0)
    with opened(path) as snapshot:
        alone = [snapshot.galaxy(centre, RADIUS_KPC) for centre in CENTRES]
        all_kpc = snapshot.everything("stars").pos_kpc
        for centre, galaxy in zip(CENTRES, alone, strict=True):
            distance_kpc = np.linalg.norm(snapshot.wrap(all_kpc - centre), axis=1)
            assert len(galaxy.stars) == np.count_nonzero(distance_kpc <= RADIUS_KPC) > 0
    for kept_bytes in (2_000, 32_000_000):
        monkeypatch.setattr(block_reader, "KEPT_BYTES", kept_bytes)
        with opened(path) as snapshot:
            assert len(snapshot._ds.index.data_files) > 8
            reader = snapshot._ds.index.io._read_particle_fields.__self__
            for centre, galaxy in zip(CENTRES, alone, strict=True):
                same(snapshot.galaxy(centre, RADIUS_KPC), galaxy)
                assert reader._kept_bytes == sum(pos.nbytes for pos in reader._kept.values()) <= kept_bytes
            assert reader._kept


def test_a_file_is_opened_once_to_find_where_its_blocks_lie(path, monkeypatch):
    """And is closed when that is done."""
    opened_files, real = [], h5py.File

    def counted(name, *arguments, **options):
        opened_files.append(real(name, *arguments, **options))
        return opened_files[-1]

    real_set_domain = frontends.set_domain

    def set_domain(index, *arguments):
        monkeypatch.setattr(h5py, "File", counted)
        try:
            return real_set_domain(index, *arguments)
        finally:
            monkeypatch.setattr(h5py, "File", real)

    monkeypatch.setattr(frontends, "set_domain", set_domain)
    with opened(path) as snapshot:
        assert len(snapshot._ds.index.data_files) > 4
        assert len(opened_files) == 2  # staged, and that of the archive
        assert not any(opened_files)


def test_positions_are_read_once_and_other_fields_where_the_region_is(path, monkeypatch):
    rows = Counter()
    real = h5py.Dataset.__getitem__

    def counted(self, key, **options):
        value = real(self, key, **options)
        rows["positions" if self.name.endswith("/Coordinates") else "motions" if "/Velocit" in self.name else ""] += (
            len(value)
        )
        return value

    with opened(path) as snapshot:
        distances_kpc = np.sort(np.linalg.norm(snapshot.wrap(snapshot.everything("stars").pos_kpc), axis=1))
        monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
        one = snapshot.stars(CENTRES[0], float(distances_kpc[:2].mean()))
        assert len(one) == rows["motions"] == 1
        assert 0 < rows["positions"] <= snapshot.counts[snapshot.components["stars"][0]]
        read = rows["positions"]
        assert not len(snapshot.stars(CENTRES[0], 0.5 * float(distances_kpc[0])))
        assert (rows["positions"], rows["motions"]) == (read, 1)
        snapshot.stars(CENTRES[0], RADIUS_KPC)
        assert rows["motions"] > 1
        assert rows["positions"] <= snapshot.counts[snapshot.components["stars"][0]]
