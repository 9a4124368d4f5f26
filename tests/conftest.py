"""Small mock suites, their map store, runs and tables, made once for all tests; real files where there are any."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import warm
import yaml
from filelock import FileLock

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
SUITES = ("bursty", "quiet", "middle")
#: What is left out of copies of a store that others use at the same time: their locks come and go.
LOCKS = shutil.ignore_patterns(".locks")
#: What is left out of copies of a run: predictions, and their lock, which other tests make at the same time.
KEPT = shutil.ignore_patterns("*.zarr")
#: Every variation that a training step may draw, as options of a fit.
VARIED = {"scale_dex": 0.2, "light_dex": 0.2, "heat": 0.2, "tilt": 0.1} | {
    "fade": 0.5, "no_dispersion": 0.3, "radius_dex": 0.1
}  # fmt: skip
MadeOnce = Callable[[str, Callable[[Path], object]], Path]
MPIEXEC = Path(sys.executable).parent / "mpiexec"


def command(*arguments: object, ranks: int = 1, check: bool = True, timeout: int = 250) -> subprocess.CompletedProcess:
    """Run `python -m ...`, or `python -c ...`, in a process of its own, under mpiexec when ranks > 1.

    Raises AssertionError if it fails.
    """
    words = [*(["-m"] if arguments[0] != "-c" else []), *map(str, arguments)]
    if ranks > 1:
        line = [str(MPIEXEC), "-n", str(ranks), sys.executable, *words]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    else:
        process = warm.Process(words)
        try:
            texts = process.communicate(timeout)
        finally:
            process.kill()
        done = subprocess.CompletedProcess(process.args, process.returncode or 0, *texts)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(done.args)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def called(stage: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    """Do in this process what `command` does in one of its own, which takes seconds to begin."""
    out, err = io.StringIO(), io.StringIO()
    words = [*map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = import_module(f"kinmass.{stage}.__main__").main(words)
        except SystemExit as ended:  # of a parser
            code = ended.code
    assert not (check and code), f"{stage} {' '.join(words)} ended with {code}:\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess([stage, *words], code, out.getvalue(), err.getvalue())


def until(condition: Callable[[], object], seconds: float = 200) -> None:
    """Wait until something is so. Raises AssertionError where it takes longer than that."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, f"not so after {seconds} s"
        time.sleep(0.02)


def tree(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a store, without the records of its runs: when, by which command, in what time."""
    paths = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and not {".timing", ".listing"} & {*path.parts}
    ]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    for name, content in files.items():
        if name.endswith("zarr.json") and b'"runs"' in content:
            meta = json.loads(content)
            del meta["attributes"]["runs"]
            files[name] = json.dumps(meta, sort_keys=True).encode()
    return files


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder that all workers of pytest-xdist share: the first worker that needs it fills it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                partial = shared / f"{name}.partial"
                partial.mkdir()
                fill(partial)
                partial.rename(folder)
        return folder

    return make


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    """Close what a test has drawn and looked at: pyplot keeps every figure, and warns of many."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def mocks(made_once: MadeOnce) -> Path:
    """Mock suites of twelve galaxies each, with few particles."""
    numbers = ("--galaxies", 12, "--stars", 3000, "--gas", 1500, "--dark", 3000)
    return made_once("mocks", lambda folder: command("gen", "mock", "--out", folder, *numbers))


@pytest.fixture(scope="session")
def map_store(mocks: Path, made_once: MadeOnce) -> Path:
    """The map store of `mocks`, made by one rank."""
    line = ("gen", "maps", *sorted(mocks.glob("*/*.yaml")), "--views", 2, "--pixels", 16)
    return made_once("store", lambda folder: command(*line, "--out", folder / "maps.zarr")) / "maps.zarr"


@pytest.fixture
def own_store(map_store: Path, tmp_path: Path) -> Path:
    """A copy of `map_store` that a test may change."""
    return Path(shutil.copytree(map_store, tmp_path / "maps.zarr", ignore=LOCKS))


@pytest.fixture(scope="session")
def real_files() -> Path:
    """The folder of public snapshot files; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real files at {SHARED}")
    return SHARED / "snapshots"


@pytest.fixture(scope="session")
def runs(map_store: Path, made_once: MadeOnce) -> list[Path]:
    """Runs of a few steps: three tracers on all suites and one on a single suite."""
    from kinmass.train.loop.config import FitConfig  # torch reads OMP_NUM_THREADS as it is imported
    from kinmass.train.loop.fit import fit

    def fill(folder: Path) -> None:
        small = {"width": 4, "steps": 20, "round_steps": 10, "batch": 8}
        for tracer in ("gas", "stars", "both"):
            fit(FitConfig(str(map_store), tracer, SUITES, **small), folder / tracer, quiet=True)
        fit(FitConfig(str(map_store), "both", ("middle",), **small), folder / "middle", quiet=True)

    return sorted(made_once("runs", fill).iterdir())


@pytest.fixture(scope="session")
def results(runs: list[Path], map_store: Path, made_once: MadeOnce) -> Path:
    """The tables of `runs`, made by two workers."""
    line = ("eval", "tables", *runs, "--store", map_store, "--part", "all", "--workers", 2)
    return made_once("results", lambda folder: command(*line, "--out", folder))


def assert_same_posterior(found, expected) -> None:
    """Assert that each of the samples (S, ..., K) agrees with the expected one to a fiftieth of the local width.

    The width is that of the expected samples' central 68 %. A tolerance in dex would not do: rounding moves the far
    tails of networks of few training steps by many dex.
    """
    import numpy as np

    low, high = np.quantile(expected, [0.16, 0.84], axis=0)
    assert (high > low).all()
    np.testing.assert_array_less(np.abs(found - expected), np.broadcast_to(0.02 * (high - low), expected.shape))


def tables_here(runs: list[Path], store: Path, out: Path, suites: tuple[str, ...] = SUITES, classical: bool = False):
    """Write what `kinmass tables --part all` writes, in this process and without Dask."""
    from kinmass.eval.tables.predictions import Part, prepare
    from kinmass.eval.tables.tables import pooled, write_tables
    from kinmass.eval.tables.tasks import evaluate_block, sources_of
    from kinmass.train.run.checkpoint import instrument_of
    from kinmass.train.run.trained_on import store_identity

    sources, instruments, sums = sources_of(runs, out, classical), {r.name: r for r in map(instrument_of, runs)}, {}
    for suite in suites:
        part = Part(store, suite, None)
        for source in sources:
            prepare(source, part)
        for block in part.blocks():
            for group, total in evaluate_block(sources, instruments, part, block).items():
                sums[group] = sums[group] + total if group in sums else total
    write_tables(out, store, runs, pooled(sums), None, store_identity(store, suites))


def galaxy_file(path: Path, content: dict[str, Any]) -> Path:
    """Write the YAML file of an observed galaxy, without keys, its own or a tracer's, whose value is None."""
    said = {key: value for key, value in content.items() if value is not None}
    for key in said.keys() & {"gas", "stars"}:
        said[key] = {name: value for name, value in said[key].items() if value is not None}
    path.write_text(yaml.safe_dump(said))
    return path


def write_votable(table: Any, path: Path) -> None:
    """Write a VOTable with its rows as text, in Python: astropy's compiled writer writes beyond its buffer."""
    from astropy.io import votable

    votable.from_table(table).to_xml(str(path), _debug_python_based_parser=True)
