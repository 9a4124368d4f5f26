"""Functions that the benchmarks share: galaxies, timing, tables, memory, fresh processes."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from kinmass.gen.campaign.record import Settings, frame_of, map_galaxy
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.particles import Galaxy, Particles

ROOT = Path(__file__).resolve().parent.parent


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the option --out of every benchmark, which shows `description` with its line breaks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for figures and scratch files")
    return parser


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Make the folder `out` where it is missing; yield one in it that is gone afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.resolve()) as folder:
        yield Path(folder)


def disc_galaxy(n_stars: int, n_gas: int, n_dark: int = 1000) -> Galaxy:
    """A `quiet` mock galaxy like the Milky Way: a disc of 6e10 Msun of stars, 3e10 Msun of gas with kernels.

    Its arrays are in Fortran order (column by column), as those read from a snapshot.
    """
    galaxy = make_galaxy("quiet", 8, 1, n_stars, n_gas, n_dark)[0]
    parts = {
        name: replace(p, pos_kpc=np.asfortranarray(p.pos_kpc), vel_kms=np.asfortranarray(p.vel_kms))
        for name, p in galaxy.components().items()
    }
    return Galaxy(parts["stars"], parts["gas"], parts["dark"], parts["black_holes"])


def refined_grid(gas: Particles, half_box_kpc: float, most: int = 4, depth: int = 12) -> tuple[Particles, np.ndarray]:
    """Gas as the leaves of an octree that is refined wherever a cell has more than `most` particles, and its mask.

    The mask (uint8) has 8 for each cell that is refined and 0 for each leaf, depth first, z fastest, as yt reads it.
    """
    at = np.clip((gas.pos_kpc / half_box_kpc + 1) / 2 * 2**depth, 0, 2**depth - 1).astype(np.int64)
    key = sum((at[:, i] >> b & 1) << (3 * b + 2 - i) for b in range(depth) for i in range(3))
    order = np.argsort(key, kind="stable")
    key, nodes, found = np.asarray(key)[order], np.zeros(1, dtype=np.int64), []
    for level in range(depth + 1):
        first = nodes << 3 * (depth - level)
        begin, end = np.searchsorted(key, first), np.searchsorted(key, first + (1 << 3 * (depth - level)))
        split = (end - begin > most) & (level < depth)
        found.append(np.stack([first, np.full(len(nodes), level), begin, end, split], axis=1))
        nodes = (nodes[split, None] * 8 + np.arange(8)).ravel()
    tree = np.concatenate(found)
    tree = tree[np.lexsort((tree[:, 1], tree[:, 0]))]
    first, level, begin, end, _ = tree[tree[:, 4] == 0].T
    side = 2 * half_box_kpc / 2.0**level
    corner = np.stack([sum((first >> (3 * b + 2 - i) & 1) << b for b in range(depth)) for i in range(3)])
    pos = corner * (2 * half_box_kpc / 2**depth) - half_box_kpc + side / 2
    sums = np.concatenate([[gas.mass_msun], gas.mass_msun * gas.vel_kms.T])[:, order].cumsum(axis=1)
    sums = np.concatenate([np.zeros((4, 1)), sums], axis=1)
    inside = np.where(end > begin, sums[:, end] - sums[:, begin], 0.0)
    vel = np.divide(inside[1:], inside[0], out=np.zeros_like(pos), where=inside[0] > 0)
    return Particles(pos.T, vel.T, inside[0], side_kpc=side), (8 * tree[:, 4]).astype(np.uint8)


def resampled(p: Particles, n: int, shrink: float) -> Particles:
    """Draw n particles of a component with repeats, in their old order, and multiply their kernels by `shrink`."""
    drawn = p[np.sort(np.random.default_rng(n).integers(0, len(p), n))]
    support = None if drawn.support_kpc is None else shrink * drawn.support_kpc
    return replace(drawn, support_kpc=support)


def mapped(galaxy: Galaxy, settings: Settings) -> dict[str, np.ndarray]:
    """The record that `kinmass maps` makes of a galaxy, in an aperture of 100 kpc, with all stars its own."""
    return map_galaxy(galaxy, frame_of(galaxy.stars, np.inf, "bench", settings), 100.0, settings)


def array_bytes(galaxy: Galaxy) -> int:
    """Bytes of all particle arrays of a galaxy."""
    return sum(a.nbytes for p in galaxy.components().values() for a in vars(p).values() if a is not None)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def best(call: Callable[[], object], repeats: int = 5) -> float:
    """Shortest of several timings [s], after one call that is not timed and fills compilers' and other caches."""
    call()
    return min(seconds(call) for _ in range(repeats))


def table(heads: list[str], rows: list[list[object]]) -> None:
    """Print rows below their headings in aligned columns."""
    rows_as_text = [heads] + [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in rows
    ]
    widths = [max(len(row[i]) for row in rows_as_text) for i in range(len(heads))]
    for row in rows_as_text:
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells))
    print(flush=True)


def mean_and_interval(values: np.ndarray, lineages: np.ndarray, n: int = 300) -> str:
    """Mean of values (S, N) of S seeds and N views, and its 68 % interval by bootstrap over seeds and lineages (N,)."""
    names, lineage = np.unique(lineages, return_inverse=True)
    rng = np.random.default_rng(0)
    weights = rng.poisson(1.0, (n, len(names)))[:, lineage].astype(float)
    seeds = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), n) / len(values)
    low, high = np.quantile(np.einsum("bs,sn,bn->b", seeds, values, weights) / weights.sum(1), (0.16, 0.84))
    return f"{values.mean():.3g} ({low:.3g}-{high:.3g})"


def memory_mb(key: str) -> float:
    """Return the memory of this process [10^6 bytes]: key VmRSS, in use now, or VmHWM, the highest since `forget_peak`.

    The kernel counts it in units of 1024 bytes.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024e-6 * int(line.split()[1]) for line in lines if line.startswith(key))


def forget_peak() -> None:
    """Reset VmHWM to the memory in use now."""
    Path("/proc/self/clear_refs").write_text("5")


def run(module: str, *arguments: object, ranks: int = 0) -> str:
    """Run `python -m module` in a fresh process, under mpiexec if there are ranks, and return its output.

    Its error output stays visible. Raises CalledProcessError when it fails.
    """
    mpiexec_here = Path(sys.executable).with_name("mpiexec")
    mpi = [str(mpiexec_here) if mpiexec_here.exists() else "mpiexec", "-n", str(ranks)] if ranks else []
    command = [*mpi, sys.executable, "-m", module, *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=Path.cwd(), env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def checkouts(beside: Path | None) -> dict[str, Path]:
    """This code's folder and, where another checkout of it is given, that one's, by the names that tables give them."""
    return {"this code": ROOT} | ({"beside": beside.resolve()} if beside else {})


def environment(checkout: Path) -> dict[str, str]:
    """Return the environment of one process of a checkout's code on one thread."""
    return os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def run_in(checkout: Path, *arguments: object) -> str:
    """Run Python in a fresh process with the code of a checkout, and return its output."""
    command = [sys.executable, *map(str, arguments)]
    env = environment(checkout)
    return subprocess.run(command, cwd=checkout, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def run_silently(module: str, *arguments: object) -> None:
    """Run `python -m module` in a fresh process. Raises SystemExit with what a failed one printed."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
