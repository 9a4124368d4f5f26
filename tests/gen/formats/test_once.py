"""What several steps of an opening ask of the file system is asked once, and asked anew at the next opening."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from kinmass.gen.formats import frontends, gadget, tipsy
from kinmass.gen.formats.gadget_header import header
from kinmass.gen.formats.once import asking_once, names_in, once, true_path
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.snapshots.snapshot import Snapshot


def test_an_answer_is_kept_while_the_block_lasts_and_an_error_is_not(tmp_path):
    file = tmp_path / "n"

    @once
    def content(path: Path, times: int = 1) -> str:
        return times * path.read_text()

    with asking_once():
        with pytest.raises(FileNotFoundError):
            content(file)
        file.write_text("a")
        assert content(file) == "a"
        file.write_text("b")
        with asking_once():  # a block in a block is part of it
            assert content(file) == "a"
        assert content(file) == "a"
        assert content(file, times=2) == "bb"
    assert content(file) == "b"
    with asking_once():
        assert content(file) == "b"
        assert names_in(tmp_path) == ("n",)
        (tmp_path / "link").symlink_to(file)
        assert names_in(tmp_path) == ("n",)
        assert true_path(tmp_path / "link") == file.resolve()
    assert set(names_in(tmp_path)) == {"n", "link"}


def test_an_opening_looks_once_and_the_next_one_again(tmp_path, monkeypatch):
    """Folder and header of a Tipsy file, header of a GIZMO file; a header that has changed in between is seen."""
    galaxy, still = make_galaxy("middle", 0, 1, 300, 200, 300)[0], np.zeros(3)
    tipsy.write(tmp_path / "t.01000", [(galaxy, still, still)], 1000.0, 1.0, 0.7)
    gadget.write(tmp_path / "g.hdf5", [(galaxy, still + 500, still)], 1000.0, 1.0, 0.7, "gizmo")
    asked: list[str] = []

    real_list, real_open = tipsy.names_in.__wrapped__, h5py.File

    def listed(folder):
        asked.append(f"list {folder}")
        return real_list(folder)

    def opened(path, *arguments, **named):
        asked.append(f"open {path}")
        return real_open(path, *arguments, **named)

    monkeypatch.setattr(tipsy, "names_in", once(listed))
    with Snapshot(tmp_path / "t.01000", "tipsy") as snapshot:
        assert asked == [f"list {tmp_path}"]
        assert snapshot.units.box_kpc == pytest.approx(1000)
    monkeypatch.setattr(frontends.h5py, "File", opened)
    asked.clear()
    with Snapshot(tmp_path / "g.hdf5", "gizmo", keep=False) as snapshot:
        assert asked.count(f"open {tmp_path / 'g.hdf5'}") <= 7  # held, header, units, code, links, parts, positions
        asked.clear()
        read = snapshot.galaxy(still + 500, 100.0)
        assert asked.count(f"open {tmp_path / 'g.hdf5'}") == 1
        assert len(read.stars) > 200
    with h5py.File(tmp_path / "g.hdf5", "r+") as file:
        file["Header"].attrs["BoxSize"] = 2 * file["Header"].attrs["BoxSize"]
    with Snapshot(tmp_path / "g.hdf5", "gizmo") as snapshot:
        assert snapshot.units.box_kpc == pytest.approx(2000)
    assert header(tmp_path / "g.hdf5") is not header(tmp_path / "g.hdf5")
