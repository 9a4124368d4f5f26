"""Faults, really done: killed processes, flipped bits, full disks, read-only archives, mutated files."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import MPIEXEC, ROOT, command, tree

from gen import store
from gen.formats import gadget
from gen.maps import generate
from gen.mock.suites import make_galaxy
from gen.plan import plan
from gen.record import Settings
from gen.schedule import schedule
from gen.suite import load_suite

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
    command("gen", "maps", suite, "--out", suite.parent / "maps.zarr", *SMALL)
    return suite


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
    found, new = [], [pid]
    while new:
        new = [child for child, parent in pairs if parent in new]
        found += new
    return found


@pytest.mark.parametrize("whom", ["one rank", "the whole job"])
@pytest.mark.parametrize("shard", [1, 4])
def test_kill_9_in_the_middle_and_again(box, tmp_path, whom, shard):
    out, whole = tmp_path / "maps.zarr", box.parent / "maps.zarr"
    pack = ("--galaxies-per-shard", shard) if shard > 1 else ()
    if pack:
        whole = tmp_path / "whole.zarr"
        command("gen", "maps", box, "--out", whole, *SMALL, *pack)
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


def test_a_galaxy_that_kills_its_process_takes_no_other_along(box, tmp_path):
    """It was in hand when the process died: next time it comes last."""
    out = tmp_path / "maps.zarr"
    shutil.copytree(box.parent / "maps.zarr", out)
    for index in (0, 1, 2):
        (out / "box" / "status" / "c" / str(index)).unlink()
    (out / ".started" / "box.1").touch()
    (out / "box" / "maps" / "c" / "1" / "0" / "0" / "0" / "0.abc.partial").write_bytes(b"half")
    planned = plan([load_suite(box)], out, Settings(views=2, pixels=16))
    clean, suspects, _ = schedule(planned, out, 1)
    assert [tasks[0].index for tasks in clean] == [0, 2]
    assert [tasks[0].index for tasks in suspects] == [1]
    # Killed again before it came to the suspect: it is remembered.
    assert [tasks[0].index for tasks in schedule(planned, out, 1)[1]] == [1]
    command("gen", "maps", box, "--out", out, *SMALL)
    assert tree(out) == tree(box.parent / "maps.zarr")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
@pytest.mark.parametrize(
    ("array", "shard"), [("maps", 1), ("mass", 1), ("status", 1), ("has_gas", 1), ("maps", 4), ("status", 4)]
)
def test_damaged_chunks_are_found_named_and_repaired(box, tmp_path, shard, array, damage):
    out, settings = tmp_path / "maps.zarr", Settings(views=2, pixels=16, galaxies_per_shard=shard)
    if shard == 1:
        shutil.copytree(box.parent / "maps.zarr", out)
    else:
        generate([load_suite(box)], out, settings, quiet=True)
    before = tree(out)
    path = next(p for p in (out / "box" / array / "c").rglob("*") if p.is_file() and _chunk(p, array) == 7 // shard)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 16
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    if damage != "gone":
        with pytest.raises(store.StoreError, match=r"of galaxy 0\d\d:0 cannot be read .*\n?.*--repair"):
            store.read(store.open_suite(out, "box"), array)
    assert generate([load_suite(box)], out, settings, repair=True, quiet=True) == (30, 0)
    assert tree(out) == before


def _chunk(path: Path, array: str) -> int:
    parts = path.parts
    return int(parts[parts.index("c", parts.index(array)) + 1])


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
        command("gen", "maps", box, "--out", small / "maps.zarr", *SMALL)
        assert tree(small / "maps.zarr") == tree(box.parent / "maps.zarr")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_limit_on_file_sizes_is_a_sentence(box, tmp_path):
    """A quota met while writing. MPI needs larger files itself, so the limit comes once it has started."""
    line = f"""
from mpi4py import MPI
import resource, sys
from gen import projection
from gen.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(["maps", {str(box)!r}, "--out", {str(tmp_path / "maps.zarr")!r}, "--pixels", "64"]))
"""
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=250)
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
    before = {path: content for path, content in tree(out).items() if "/maps/c/" in path}
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
            subprocess.run([sys.executable, "-c", "import gen"], cwd=ROOT, check=True, user=65534, group=65534)
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
