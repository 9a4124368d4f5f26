"""Faults, really done: killed processes, flipped bits, full disks, read-only archives, mutated files."""

import contextlib
import errno
import os
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import pytest
from conftest import MPIEXEC, ROOT, called, command, tree
from zarr.core.buffer import Buffer

from kinmass.gen.__main__ import main
from kinmass.gen.campaign import failures, parallel, worker
from kinmass.gen.campaign import listing as listings
from kinmass.gen.campaign import plan as plans
from kinmass.gen.campaign.maps import _peak_mb, generate
from kinmass.gen.campaign.plan import plan
from kinmass.gen.campaign.record import Settings
from kinmass.gen.campaign.schedule import schedule
from kinmass.gen.errors import sentence
from kinmass.gen.formats import SnapshotError, gadget
from kinmass.gen.formats.base import reading
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.storage import chunk_files, store, writer
from kinmass.gen.storage.chunks import fingerprint
from kinmass.gen.suite import SuiteError, load_suite

SMALL = ("--views", 2, "--pixels", 16)


def write_box(folder: Path, name: str = "snap.hdf5", galaxies: int = 1, **n: int) -> Path:
    """GIZMO snapshots of a galaxy in the middle of a small box, their centre in a CSV beside them."""
    folder.mkdir(exist_ok=True, parents=True)
    for number in range(galaxies):
        galaxy = make_galaxy("middle", number, 1, **({"n_stars": 400, "n_gas": 200, "n_dark": 400} | n))[0]
        path = folder / (name if galaxies == 1 else f"{number:03d}.hdf5")
        gadget.write(path, [(galaxy, np.full(3, 500.0), np.zeros(3))], 1000.0, 1.0, 0.7, "gizmo")
    (folder / "centres.csv").write_text("id,x,y,z,r200\n0,500,500,500,100\n")
    (folder / "box.yaml").write_text(
        "name: box\nformat: gizmo\nsnapshots: '*.hdf5'\naperture: {kpc: 80}\n"
        "catalogue: {format: table, path: centres.csv}\n"
    )
    return folder / "box.yaml"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of thirty galaxies, and the unbroken store of it as maps.zarr beside it."""
    suite = write_box(tmp_path_factory.mktemp("box"), galaxies=30)
    called("gen", "maps", suite, "--out", suite.parent / "maps.zarr", *SMALL)
    return suite


@pytest.fixture(scope="module")
def packed(box: Path) -> Path:
    """The same store in shards of four."""
    generate([load_suite(box)], box.parent / "packed.zarr", Settings(2, 16, galaxies_per_shard=4), quiet=True)
    return box.parent / "packed.zarr"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Stores of nine galaxies by the galaxies in their shards; their suite lies beside them."""
    suite = write_box(tmp_path_factory.mktemp("few"), galaxies=9)
    stores = {shard: suite.parent / f"{shard}.zarr" for shard in (1, 4)}
    for shard, out in stores.items():
        generate([load_suite(suite)], out, Settings(2, 16, galaxies_per_shard=shard), quiet=True)
    return stores


def start(*arguments: object, ranks: int) -> subprocess.Popen:
    line = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
    line += [sys.executable, "-m", "gen", "maps", *map(str, arguments)]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def wait_for_galaxies(out: Path, n: int) -> None:
    until = time.monotonic() + 100
    while len(list(out.glob("box/status/c/*"))) < n:
        assert time.monotonic() < until, "nothing was mapped"
        time.sleep(0.002)


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listing.splitlines()[1:]]
    descendants, generation = [], [pid]
    while generation:
        generation = [child for child, parent in pairs if parent in generation]
        descendants += generation
    return descendants


def test_many_galaxies_are_packed_and_a_store_keeps_its_packing(box, packed, tmp_path, monkeypatch):
    suite, out = load_suite(box), tmp_path / "maps.zarr"
    monkeypatch.setattr(plans, "MANY", 29)
    monkeypatch.setattr(plans, "SHARD", 4)
    assert generate([suite], out, Settings(2, 16), quiet=True) == (30, 0)
    assert tree(out) == tree(packed)
    monkeypatch.undo()
    store.open_suite(out, "box")["status"][:5] = store.PENDING
    assert generate([suite], out, Settings(2, 16), quiet=True) == (30, 0)
    assert tree(out) == tree(packed)
    with pytest.raises(store.StoreError, match="galaxies_per_shard: 4 -> 1"):
        generate([suite], out, Settings(2, 16, galaxies_per_shard=1), quiet=True)


@pytest.mark.parametrize(("whom", "shard"), [("the whole job", 1), ("one rank", 4)])
def test_kill_9_in_the_middle_and_again(box, packed, tmp_path, whom, shard):
    out, whole = tmp_path / "maps.zarr", packed if shard > 1 else box.parent / "maps.zarr"
    pack = ("--galaxies-per-shard", shard) if shard > 1 else ()
    job = start(box, "--out", out, *SMALL, *pack, ranks=2)
    wait_for_galaxies(out, 3)
    if whom == "the whole job":
        os.killpg(job.pid, signal.SIGKILL)
    else:
        workers = [pid for pid in children(job.pid) if b"gen" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[-1], signal.SIGKILL)
    _, errors = job.communicate(timeout=60)
    assert job.returncode != 0, errors
    done = int((store.open_suite(out, "box")["status"][:] == store.DONE).sum())
    assert 0 < done < 30
    command("gen", "maps", box, "--out", out, *SMALL, *pack, ranks=2)
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("shard", [1, 4])
def test_kill_9_in_the_middle_of_a_chunk_and_again(box, packed, tmp_path, shard):
    """Half of a chunk at its place: nobody counts on it, whoever reads the rest is not disturbed, it is replaced."""
    suite, out, settings = load_suite(box), tmp_path / "maps.zarr", Settings(2, 16, galaxies_per_shard=shard)
    whole = packed if shard > 1 else box.parent / "maps.zarr"
    n_written = 0

    def write_half(file: BinaryIO, value: Buffer) -> None:
        nonlocal n_written
        n_written += 1
        content = bytes(value.as_buffer_like())
        if n_written == 70:
            file.write(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        file.write(content)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads of this process stay behind
        child = os.fork()
    if not child:
        chunk_files._write = write_half
        with contextlib.suppress(BaseException):
            generate([suite], out, settings, quiet=True)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    before, after = tree(out / "box"), tree(whole / "box")
    cut = [path for path, content in before.items() if "zarr.json" not in path and content != after.get(path)]
    assert cut
    assert not any(path.startswith("status") for path in cut)
    group, expected = store.open_suite(out, "box"), store.open_suite(whole, "box")
    done = np.flatnonzero(store.read_status(group) == store.DONE)
    assert 0 < len(done) < 30
    for name in store.ARRAYS:
        np.testing.assert_array_equal(store.read(group, name)[done], store.read(expected, name)[done])
        assert len(store.read(group, name, slice(1, 29))) == len(store.read(group, name, np.arange(28))) == 28
    fingerprint(group, np.arange(30))
    assert generate([suite], out, settings, quiet=True) == (30, 0)
    assert tree(out) == tree(whole)


def test_a_galaxy_that_kills_its_process_takes_no_other_along(box, tmp_path):
    """It was in hand when the process died: next time it comes last."""
    out = tmp_path / "maps.zarr"
    shutil.copytree(box.parent / "maps.zarr", out)
    for index in (0, 1, 2):
        (out / "box" / "status" / "c" / str(index)).unlink()
    (out / ".started" / "box.1").touch()
    (out / "box" / "maps" / "c.1.0.0.0.0.abc.partial").write_bytes(b"half")
    planned = plan([load_suite(box)], out, Settings(views=2, pixels=16))
    clean, suspects = schedule(planned, out).batches, schedule(planned, out).suspects
    assert [tasks[0].index for tasks in clean] == [0, 2]
    assert [tasks[0].index for tasks in suspects] == [1]
    # Killed again before it came to the suspect: it is remembered.
    assert [tasks[0].index for tasks in schedule(planned, out).suspects] == [1]
    called("gen", "maps", box, "--out", out, *SMALL)
    assert tree(out) == tree(box.parent / "maps.zarr")


def test_a_galaxy_that_kills_its_process_leaves_what_was_mapped_before_written(box, tmp_path):
    """Of what was in hand when a process died each is written before the next is tried, however slow the disk is."""
    suite, out, settings = load_suite(box), tmp_path / "maps.zarr", Settings(2, 16)
    shutil.copytree(box.parent / "maps.zarr", out)
    for index in (1, 2):
        (out / "box" / "status" / "c" / str(index)).unlink()
        (out / ".started" / f"box.{index}").touch()
    write, attempt = writer.Writer.write, worker.Worker.attempt

    def write_late(self: writer.Writer, *args: object) -> None:
        time.sleep(1)
        write(self, *args)

    def die(self: worker.Worker, task: plans.Task) -> object:
        return os.kill(os.getpid(), signal.SIGKILL) if task.index == 2 else attempt(self, task)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads of this process stay behind
        child = os.fork()
    if not child:
        writer.Writer.write, worker.Worker.attempt = write_late, die
        with contextlib.suppress(BaseException):
            generate([suite], out, settings, quiet=True)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    status = store.read_status(store.open_suite(out, "box"))
    assert np.flatnonzero(status != store.DONE).tolist() == [2]
    assert os.listdir(out / ".started") == ["box.2"]


@pytest.mark.parametrize(
    ("array", "shard", "damage"),
    [
        *product(["maps", "status"], [1, 4], ["flipped", "cut", "empty", "gone"]),
        *product(["mass", "has_gas"], [1], ["flipped", "gone"]),
    ],
)
def test_damaged_chunks_are_found_counted_named_and_repaired(few, tmp_path, capsys, shard, array, damage):
    out, settings = tmp_path / "maps.zarr", Settings(views=2, pixels=16, galaxies_per_shard=shard)
    suite = load_suite(few[shard].parent / "box.yaml")
    shutil.copytree(few[shard], out)
    before = tree(out)
    names = f"c.{7 // shard}", f"c.{7 // shard}.*", f"c/{7 // shard}"
    (path,) = [path for name in names for path in (out / "box" / array).glob(name)]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 16
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":  # as some file systems leave a file that was renamed before it was on the disk
        path.write_bytes(b"")
    else:
        path.unlink()
    if damage != "gone":
        with pytest.raises(store.StoreError, match=r"of galaxy 0\d\d:0 cannot be read .*\n?.*--repair"):
            store.read(store.open_suite(out, "box"), array)
    group = store.open_suite(out, "box")
    status = store.read_status(group, unreadable_is_damaged=True)
    damaged = [
        i for i in range(9) if status[i] == store.DAMAGED or (status[i] == store.DONE and store.is_damaged(group, i))
    ]
    missing = int((status == store.PENDING).sum())
    assert len(damaged) + missing in (1, group[array].chunks[0], shard)
    capsys.readouterr()
    assert generate([suite], out, settings, repair=True, quiet=True) == (9, 0)
    said = capsys.readouterr().out
    assert f"{9 - missing} galaxies read, {len(damaged)} of them damaged" in said
    assert re.findall(r"box (\S+?)(?=,|$)", said, re.MULTILINE) == [group["galaxy"][i] for i in damaged]
    assert ("their status is missing" in said) == (missing > 0)
    assert tree(out) == before
    generate([suite], out, settings, repair=True, quiet=True)
    assert "9 galaxies read, 0 of them damaged\n" in capsys.readouterr().out


def test_a_galaxy_whose_arrays_are_of_two_campaigns_is_damaged(few, tmp_path, capsys):
    """As where a store is copied over an older one of other sides, and the copy is broken off between two arrays."""
    out, suite = tmp_path / "maps.zarr", load_suite(few[1].parent / "box.yaml")
    shutil.copytree(few[1], out)
    before, group = tree(out), store.open_suite(out, "box")
    group["half_mass_radius"][4] = 1.1 * group["half_mass_radius"][4]
    capsys.readouterr()
    assert generate([suite], out, Settings(2, 16, galaxies_per_shard=1), repair=True, quiet=True) == (9, 0)
    assert "9 galaxies read, 1 of them damaged" in capsys.readouterr().out
    assert tree(out) == before


def test_a_full_disk_is_a_sentence_and_corrupts_nothing(box, tmp_path):
    """A tmpfs of 600 kB where one can be mounted; a limit on file sizes elsewhere is the next test's."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted without root")
    try:
        full = command("gen", "maps", box, "--out", small / "maps.zarr", *SMALL, check=False)
        assert full.returncode not in (0, 3)
        assert "no room left to write" in full.stderr
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        called("gen", "maps", box, "--out", small / "maps.zarr", *SMALL)
        assert tree(small / "maps.zarr") == tree(box.parent / "maps.zarr")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_limit_on_file_sizes_is_a_sentence(box, tmp_path):
    """A quota met while writing. MPI needs larger files itself, so the limit comes once it has started."""
    line = f"""
from mpi4py import MPI
import resource, sys
from kinmass.gen.physics import projection
from kinmass.gen.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(["maps", {str(box)!r}, "--out", {str(tmp_path / "maps.zarr")!r}, "--pixels", "64"]))
"""
    done = command("-c", line, check=False)
    assert done.returncode == 2, done.stderr
    assert "no room left to write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (store.open_suite(tmp_path / "maps.zarr", "box")["status"][:] == store.DONE).any()


def test_a_catalogue_that_comes_later_brings_its_galaxies(tmp_path):
    """And a snapshot that comes later; what is done is kept, byte for byte."""
    suite = write_box(tmp_path / "a", galaxies=4)
    text = suite.read_text().replace("path: centres.csv", "path: '{stem}.csv'")
    suite.write_text(text)
    for i in (0, 1, 2, 3):
        shutil.copy(suite.parent / "centres.csv", suite.parent / f"{i:03d}.csv")
    later = [(suite.parent / name).rename(tmp_path / name) for name in ("001.csv", "000.hdf5")]
    out = tmp_path / "maps.zarr"
    assert generate([load_suite(suite)], out, Settings(views=2, pixels=16), quiet=True) == (2, 1)
    before = {path: content for path, content in tree(out).items() if "/maps/c." in path}
    for path in later:
        path.rename(suite.parent / path.name)
    assert generate([load_suite(suite)], out, Settings(views=2, pixels=16), quiet=True) == (4, 0)
    assert before.items() <= tree(out).items()
    group = store.open_suite(out, "box")
    assert dict(zip(group["galaxy"][:], group["status"][:], strict=True)) == {
        "001:?": store.FAILED, "002:0": store.DONE, "003:0": store.DONE, "000:0": store.DONE, "001:0": store.DONE
    }  # fmt: skip
    (suite.parent / "002.hdf5").unlink()
    with pytest.raises(store.StoreError, match="holds other galaxies"):
        generate([load_suite(suite)], out, Settings(views=2, pixels=16), quiet=True)


def write_row(folder: Path, n: int) -> Path:
    """A box of n galaxies in a row, 600 kpc apart; `list_row` says which of them the catalogue has."""
    galaxies = [make_galaxy("middle", i, 1, 400, 200, 400)[0] for i in range(n)]
    members = [(galaxy, np.array([300.0 + 600 * i, 300, 300]), np.zeros(3)) for i, galaxy in enumerate(galaxies)]
    gadget.write(folder / "snap.hdf5", members, 600.0 * n, 1.0, 0.7, "gizmo")
    (folder / "row.yaml").write_text(
        "name: row\nformat: gizmo\nsnapshots: '*.hdf5'\naperture: {kpc: 80}\n"
        "catalogue: {format: table, path: row.csv}\n"
    )
    return folder / "row.yaml"


def list_row(folder: Path, order: list[int]) -> None:
    rows = [f"g{i},{300 + 600 * i},300,300,100" for i in order]
    (folder / "row.csv").write_text("\n".join(["id,x,y,z,r200", *rows]) + "\n")


@pytest.mark.parametrize("shard", [1, 3])
def test_a_catalogue_in_another_order_shorter_or_longer(tmp_path, shard):
    """Every galaxy stays in its place, and what is done stays done."""
    suite, settings = write_row(tmp_path, 8), Settings(views=1, pixels=8, galaxies_per_shard=shard)
    out, whole = tmp_path / "maps.zarr", tmp_path / "whole.zarr"

    def content(folder: Path) -> dict[str, list[np.ndarray]]:
        group = store.open_suite(folder, "row")
        names, status = group["galaxy"][:].tolist(), store.read_status(group)
        return {n: list(store.read_galaxy(group, i).values()) for i, n in enumerate(names) if status[i] == store.DONE}

    list_row(tmp_path, list(range(8)))
    assert generate([load_suite(suite)], whole, settings, quiet=True) == (8, 0)
    expected = content(whole)
    list_row(tmp_path, [0, 1, 2, 3, 4])
    assert generate([load_suite(suite)], out, settings, quiet=True) == (5, 0)
    group = store.open_suite(out, "row")
    for index in (1, 4):
        group["status"][index] = store.FAILED
    list_row(tmp_path, [3, 7, 2, 0])  # those that were not done may go, and one has come
    assert generate([load_suite(suite)], out, settings, quiet=True) == (4, 0)
    assert store.open_suite(out, "row")["status"][:].tolist() == [1, 2, 1, 1, 2, 1]
    list_row(tmp_path, [7, 6, 5, 4, 3, 2, 1, 0])
    assert generate([load_suite(suite)], out, settings, quiet=True) == (8, 0)
    stored = content(out)
    assert stored.keys() == expected.keys()
    for name, arrays in expected.items():
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(stored[name], arrays, strict=True)), name
    before = tree(out)
    list_row(tmp_path, [7, 5, 4, 3, 2, 1, 0])
    with pytest.raises(store.StoreError, match="snap:g6 is done, and gone"):
        generate([load_suite(suite)], out, settings, quiet=True)
    assert tree(out) == before


def test_of_two_campaigns_at_once_one_works_and_the_other_says_so(box, tmp_path):
    out = tmp_path / "maps.zarr"
    jobs = [start(box, "--out", out, *SMALL, ranks=ranks) for ranks in (1, 2)]
    errors = [job.communicate(timeout=250)[1].decode() for job in jobs]
    assert sorted(job.returncode for job in jobs) in ([0, 2], [0, 0]), errors  # or waited for the other's end
    for job, words in zip(jobs, errors, strict=True):
        assert "Traceback" not in words
        assert job.returncode == 0 or "maps.zarr/box is being written by process" in words
    assert tree(out) == tree(box.parent / "maps.zarr")
    assert [path.name for path in out.iterdir() if path.name == ".locks"] == []


def test_a_fault_of_the_program_is_not_called_one_of_the_file(tmp_path, monkeypatch):
    """In a worker, wherever it comes from: type and traceback are kept, the other galaxies are mapped."""
    suite = write_box(tmp_path / "box", galaxies=3)
    real_frame, real_read, real_list = worker.frame_of, Snapshot._cut, listings.find_haloes

    def frame(stars: object, end: float, name: str, *arguments: object) -> object:
        return {}["pos"] if name == "000:0" else real_frame(stars, end, name, *arguments)

    def cut(self: Snapshot, *arguments: object, **named: object) -> object:
        return None + 1 if "001" in self.path.name else real_read(self, *arguments, **named)

    def listing(kind: str, path: Path, snapshot: Path, *arguments: object) -> object:
        return None.haloes if "002" in snapshot.name else real_list(kind, path, snapshot, *arguments)

    out = tmp_path / "maps.zarr"
    for module, name, broken in (
        (worker, "frame_of", frame),
        (Snapshot, "_cut", cut),
        (listings, "find_haloes", listing),
    ):
        monkeypatch.setattr(module, name, broken)
    assert generate([load_suite(suite)], out, Settings(2, 16), quiet=True) == (0, 3)
    lines = {line["galaxy"]: line for line in failures.noted(out)}
    assert lines.keys() == {"000:0", "001:0", "002:?"}
    for name, kind in (("000:0", "KeyError: 'pos'"), ("001:0", "TypeError"), ("002:?", "AttributeError")):
        reason, trace = lines[name]["reason"], lines[name]["traceback"]
        assert "damaged" not in reason
        assert kind in reason
        assert str(suite.parent) in reason
        assert trace.startswith("Traceback")
        assert "test_faults.py" in trace
    monkeypatch.undo()
    assert generate([load_suite(suite)], out, Settings(2, 16), quiet=True) == (3, 0)


def test_a_full_scratch_folder_is_no_damaged_snapshot(tmp_path, mocks, monkeypatch):
    """Who is told that a file is damaged gets it again, and galaxies count as failed."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    suite = load_suite(mocks / "quiet" / "quiet.yaml")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match=r"while .*snap_000\.hdf5 was read.*scratch") as raised:
            Snapshot(suite.snapshot_paths()[0], suite.format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no room left to write" in sentence(raised.value)


def test_what_a_file_makes_go_wrong_is_told_from_what_we_do(tmp_path):
    path = tmp_path / "f.hdf5"
    with h5py.File(path, "w") as file:
        file["a"] = 1

    def missing() -> None:
        with h5py.File(path) as file:
            file["b"]

    def cut_short() -> None:
        struct.unpack("<d", b"1234")

    for file_fault in (
        missing,
        cut_short,
        lambda: h5py.File(tmp_path / "none"),
    ):
        with pytest.raises(SnapshotError, match=r"f\.hdf5: cannot be read .*damaged"), reading(path):
            file_fault()
    for program_fault, kind in (
        (lambda: {}["b"], KeyError),
        (lambda: None + 1, TypeError),
        (lambda: np.zeros(3) + np.zeros(2), ValueError),
        (lambda: np.stack([]), ValueError),
        (lambda: nothing, NameError),  # noqa: F821
        (lambda: 1 / 0, ZeroDivisionError),
    ):
        with pytest.raises(kind) as error, reading(path):
            program_fault()
        assert not isinstance(error.value, SnapshotError)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_fault_outside_of_any_galaxy_ends_all_ranks_with_its_traceback(box, tmp_path, ranks):
    line = f"""
import sys
from kinmass.gen.storage import writer
from kinmass.gen.__main__ import main
def broken(*_): raise ValueError("operands could not be broadcast")
writer.Writer.write = broken
sys.exit(main(["maps", {str(box)!r}, "--out", {str(tmp_path / "maps.zarr")!r}, "--views", "2", "--pixels", "16"]))
"""
    done = command("-c", line, ranks=ranks, check=False)
    assert done.returncode == 1
    assert "ValueError: operands could not be broadcast" in done.stderr
    assert "in broken" in done.stderr


@pytest.mark.parametrize(
    ("number", "words", "advice"),
    [
        (
            errno.ENOLCK,
            "unable to lock file, errno = 37, error message = 'No locks available'",
            "HDF5_USE_FILE_LOCKING",
        ),
        (errno.EAGAIN, "unable to lock file, errno = 11, error message = 'Again'", "another program is writing it"),
        (errno.EMFILE, "Too many open files", "ulimit -n"),
        (
            errno.EIO,
            "file read failed: errno = 5, error message = 'Input/output error'",
            "disk or file system has failed",
        ),
        (errno.ENOENT, "No such file", "missing, cut short"),
    ],
)
def test_what_a_machine_does_is_not_called_a_fault_of_the_file(tmp_path, number, words, advice):
    """ "Damaged? Get it again" was said of snapshots on file systems without locks."""
    with pytest.raises(SnapshotError, match=advice), reading(tmp_path / "snap.hdf5"):
        raise OSError(number, words)


def test_a_disk_that_fails_is_a_sentence_from_any_rank(capsys, monkeypatch):
    monkeypatch.setattr(parallel, "abort", lambda: None)
    with parallel._ending_all():
        raise OSError(errno.EIO, "Input/output error", "maps.zarr/box/status/c.0")
    printed = capsys.readouterr().err
    assert printed == "rank 0: [Errno 5] Input/output error: 'maps.zarr/box/status/c.0'\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--seed", "-1"), "--seed must be a whole number from 0 to 2^63 - 1, not -1"),
        (("--seed", str(2**63)), "--seed must be a whole number from 0 to 2^63 - 1, not 9223372036854775808"),
        (("--field-of-view", "inf"), "--field-of-view must be a number from 0.01 to 1000 (half-mass radii), not inf"),
        (("--field-of-view", "nan"), "--field-of-view must be a number from 0.01 to 1000 (half-mass radii), not nan"),
        (("--field-of-view", "-6"), "not -6"),
        (("--views", "0"), "--views must be a whole number from 1 to 10,000, not 0"),
        (("--pixels", "3"), "--pixels must be a whole number from 4 to 4,096, not 3"),
        (("--readers", "0"), "--readers must be a whole number from 1 to 1,000,000, not 0"),
        (("--galaxies-per-shard", "-1"), "--galaxies-per-shard must be a whole number from 1 to 100,000, not -1"),
        (("--inclination", "40", "40"), "--inclination must be two growing angles from 0 to 90 degrees, not 40.0 40.0"),
        (("--inclination", "0", "nan"), "--inclination must be two growing angles from 0 to 90 degrees, not 0.0 nan"),
    ],
)
def test_settings_are_checked_before_a_store_is_touched(box, tmp_path, capsys, option, message):
    assert main(["maps", str(box), "--out", str(tmp_path / "maps.zarr"), *option]) == 2
    words = capsys.readouterr().err.strip()
    assert words.startswith("kinmass maps: --")
    assert message in words
    assert len(words.splitlines()) == 1
    assert not (tmp_path / "maps.zarr").exists()


@pytest.mark.parametrize(
    ("variable", "launcher"),
    [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpiexec"), ("PMI_SIZE", "mpiexec")],
)
def test_processes_of_another_mpi_are_refused(box, tmp_path, capsys, monkeypatch, variable, launcher):
    """Each of them would be alone in its MPI, and do all of it."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # as ranks have it
    monkeypatch.setenv(variable, "3")
    assert main(["maps", str(box), "--out", str(tmp_path / "maps.zarr")]) == 2
    said = capsys.readouterr().err
    assert f"{launcher} started 3 processes, and each is alone in its MPI: set MPIRUN" in said
    assert "which is MPICH" in said or "which is Open MPI" in said
    assert not (tmp_path / "maps.zarr").exists()


@pytest.mark.parametrize(
    "option",
    [
        ("--seed", "-1"),
        ("--galaxies", "0"),
        ("--stars", "0"),
        ("--stars", "300-100"),
        ("--gas", "0-100"),
        ("--gas", "-1"),
        ("--dark", str(10**10)),
        ("--suites", "loud"),
    ],
)
def test_settings_of_mocks_are_checked_before_anything_is_made(tmp_path, capsys, option):
    assert main(["mock", "--out", str(tmp_path / "mocks"), *option]) == 2
    words = capsys.readouterr().err.strip()
    assert option[1] in words.replace(",", "")
    assert len(words.splitlines()) == 1
    assert not (tmp_path / "mocks").exists()


def test_mocks_of_other_settings_are_named_by_their_options(tmp_path, capsys):
    few = ["--galaxies", "1", "--stars", "30-40", "--gas", "10", "--dark", "30"]
    command_line = ["mock", "--out", str(tmp_path), "--suites", "middle", *few]
    assert main(command_line) == main(command_line) == 0
    assert main([*command_line, "--seed", "2"]) == 2
    assert f"middle holds galaxies made with --seed 1 {' '.join(few)}; repeat these" in capsys.readouterr().err


@pytest.mark.parametrize("value", [".inf", ".nan", "-1"])
def test_numbers_of_suite_files_are_finite(tmp_path, value):
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\nformat: gizmo\nsnapshots: '*'\naperture: {{kpc: {value}}}\n")
    with pytest.raises(SuiteError, match=r"aperture\.kpc"):
        load_suite(path)


@pytest.mark.parametrize("line", ["VmRSS:\t 7 kB\n", None])
def test_a_system_that_tells_no_peak_memory_loses_nothing(line, monkeypatch):
    """As gVisor, in which some clouds run containers: all galaxies were mapped, and the run ended in a traceback."""

    def read_text(path: Path) -> str:
        if line is None:
            raise FileNotFoundError(path)
        return line

    monkeypatch.setattr(Path, "read_text", read_text)
    assert _peak_mb() == 0.0


def test_a_name_that_is_no_utf8_is_said(tmp_path, capsys):
    """Archives of old machines have names in Latin-1, by which no galaxy can be called."""
    suite = write_box(tmp_path / "box", galaxies=1)
    (suite.parent / "snap.hdf5").rename(suite.parent / os.fsdecode(b"caf\xe9.hdf5"))
    assert main(["maps", str(suite), "--out", str(tmp_path / "maps.zarr"), "--views", "2", "--pixels", "16"]) == 2
    message = capsys.readouterr().err
    assert re.search(r"kinmass maps: the name of a file or folder is no UTF-8, .*\(caf\\udce9.*\); rename it", message)
    assert "Traceback" not in message


def test_every_run_that_writes_says_so_in_the_store(tmp_path, capsys):
    suite = write_box(tmp_path / "box", galaxies=2)
    out, later = tmp_path / "maps.zarr", (suite.parent / "001.hdf5").rename(tmp_path / "001.hdf5")
    assert generate([load_suite(suite)], out, Settings(2, 16)) == (1, 0)
    assert re.search(r"peak memory per rank \[MB\]: (\d+) at most, \1 median\n", capsys.readouterr().err)
    before = (out / "box" / "zarr.json").read_bytes()
    assert generate([load_suite(suite)], out, Settings(2, 16), quiet=True) == (1, 0)
    assert (out / "box" / "zarr.json").read_bytes() == before  # it had nothing to write
    later.rename(suite.parent / later.name)
    assert generate([load_suite(suite)], out, Settings(2, 16), quiet=True) == (2, 0)
    first, second = store.open_suite(out, "box").attrs["runs"]
    assert first["time"] <= second["time"]
    assert set(first) == {"time", "command", "versions", "commit"}
    assert first["command"] == shlex.join(sys.orig_argv)


def test_archives_are_only_read(tmp_path):
    """Snapshots in a folder that cannot be written (by another user than root): yt's side files stay out of it."""
    suite = write_box(tmp_path / "archive", n_gas=2000)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in suite.parent.iterdir()}
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    nobody: dict[str, int] = {}
    if os.getuid() == 0:  # root may write everywhere
        for folder in [tmp_path, *tmp_path.parents][:-1]:
            folder.chmod(folder.stat().st_mode | 0o5)
        with contextlib.suppress(OSError):  # where Python or the checkout is root's alone, times and sizes must do
            subprocess.run([sys.executable, "-c", "import kinmass.gen"], cwd=ROOT, check=True, user=65534, group=65534)
            nobody = {"user": 65534, "group": 65534}
    env = {**os.environ, "HOME": str(out), "MPLCONFIGDIR": str(out), "NUMBA_CACHE_DIR": str(out / "numba")}
    line = [sys.executable, "-m", "gen", "maps", str(suite), "--out", str(out / "maps.zarr"), *map(str, SMALL)]
    suite.parent.chmod(0o555)
    try:
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=250, env=env, **nobody)
    finally:
        suite.parent.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in suite.parent.iterdir()} == before


#: Maps a suite whose box is indexed in parts; the process that has found a part is killed. Suite, store, part.
IN_PARTS = """
import os, sys
from kinmass.gen.__main__ import main
from kinmass.gen.campaign import schedule, worker
from kinmass.gen.formats import frontends
from kinmass.gen.snapshots import snapshot
schedule.INDEX_BYTES = snapshot.READ_WHOLE = snapshot.FETCH_WHOLE = 0
schedule.PART_BYTES = 1
frontends.block_size = lambda n: 1000
find_part = worker.find_part
def killed(*args):
    found = find_part(*args)
    print("part", args[4], file=sys.stderr, flush=True)
    if str(args[4][0]) == sys.argv[3]:
        os.kill(os.getpid(), 9)
    return found
worker.find_part = killed
sys.exit(main(["maps", sys.argv[1], "--out", sys.argv[2], "--views", "2", "--pixels", "16"]))
"""


def test_ranks_that_share_the_search_for_a_boxs_blocks_write_the_same_bytes(tmp_path):
    """One of them is killed when it has found its part; the next run finds all of them anew."""
    suite, centres = write_box(tmp_path / "crowd"), [np.full(3, x) for x in (200.0, 500.0, 800.0)]
    galaxies = [make_galaxy("middle", i, 1, n_stars=900, n_gas=500, n_dark=900)[0] for i in range(len(centres))]
    placed = [(galaxy, centre, np.zeros(3)) for galaxy, centre in zip(galaxies, centres, strict=True)]
    gadget.write(tmp_path / "crowd" / "snap.hdf5", placed, 1000.0, 1.0, 0.7, "gizmo")
    rows = [f"{i},{x},{y},{z},100\n" for i, (x, y, z) in enumerate(centres)]
    (tmp_path / "crowd" / "centres.csv").write_text("".join(["id,x,y,z,r200\n", *rows]))
    outs = {ranks: tmp_path / f"{ranks}.zarr" for ranks in (1, 3)}
    for ranks, dies in ((3, "1"), (3, ""), (1, "")):
        done = command("-c", IN_PARTS, suite, outs[ranks], dies, ranks=ranks, check=False)
        assert (done.returncode == 0) == (dies == ""), done.stderr
        if dies:
            assert not (outs[ranks] / ".indexes").exists()
        else:
            assert [f"part ({n}, 3)" in done.stderr for n in range(3)] == [ranks == 3] * 3
    assert tree(outs[1]) == tree(outs[3])
    assert [path.suffix for path in sorted((outs[3] / ".indexes").iterdir())] == [".blocks", ".json"]
