"""Snapshots to map store: what happens to each galaxy, and to a whole campaign of them."""

import contextlib
import fcntl
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from tqdm import tqdm

from gen import parallel, store
from gen.catalogue import Halo, chosen, densest_point, find_haloes, usable
from gen.formats import FORMATS, SnapshotError
from gen.particles import Galaxy, Particles
from gen.profile import enclosed_mass, half_mass_radius, profile_radii
from gen.projection import views
from gen.sightline import sightlines
from gen.snapshot import Snapshot
from gen.suite import Suite, SuiteError

#: Side of the map, and the largest radius of the network's profile, in projected half-mass radii.
FIELD_OF_VIEW_RE = 6.0
REACH_RE = 3.0
#: Ranks that read snapshots at a time unless told otherwise: more make parallel file systems slower.
READERS = 128

#: Snapshots above this size, with several galaxies, are indexed by one rank before the others read them.
INDEX_BYTES = 50_000_000

#: What a rank holds while it reads from the file system.
Reading = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Settings:
    """How galaxies are looked at; kept in the store's attributes."""

    views: int = 4
    pixels: int = 32
    seed: int = 0
    field_of_view_re: float = FIELD_OF_VIEW_RE
    inclination_deg: tuple[float, float] = (0.0, 90.0)
    galaxies_per_shard: int = 1


@dataclass(frozen=True)
class Task:
    """One galaxy to map: where it is read from and where its maps go."""

    suite: Suite
    index: int
    name: str
    snapshot: Path
    halo: Halo | None  # None: listing it failed
    problem: str = ""
    kept: bool = False  # done before, and readable as far as is known


class Refused(ValueError):
    """A galaxy that cannot be mapped honestly: the message is its line in failures.jsonl."""


def at_rest(galaxy: Galaxy, min_stars: int) -> np.ndarray:
    """The galaxy's own velocity (3,) [km/s]: that of the inner half of its stars.

    Raises Refused for too few stars.
    """
    stars = galaxy.stars
    if len(stars) < min_stars:
        raise Refused(f"{len(stars)} star particles in the aperture, fewer than min_stars = {min_stars}")
    if not stars.mass_msun.sum() > 0:
        raise Refused("the star particles in the aperture have no mass; is the file damaged?")
    r = np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc))
    inner = np.where(r <= half_mass_radius(r, stars.mass_msun), stars.mass_msun, 0.0)
    return np.asarray(inner @ stars.vel_kms / inner.sum())


def spin(stars: Particles, bulk_kms: np.ndarray) -> np.ndarray:
    """Direction (3,) of the angular momentum of the stars within twice their half-mass radius."""
    r = np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc))
    weight = np.where(r <= 2 * half_mass_radius(r, stars.mass_msun), stars.mass_msun, 0.0)
    # Sums of m x_i v_j, one axis at a time: no copy of all the stars.
    moment = np.stack([(weight * x) @ stars.vel_kms - (weight @ x) * bulk_kms for x in stars.pos_kpc.T])
    momentum = np.array([moment[1, 2] - moment[2, 1], moment[2, 0] - moment[0, 2], moment[0, 1] - moment[1, 0]])
    return np.asarray(momentum / max(float(np.linalg.norm(momentum)), 1e-30))


def map_galaxy(
    galaxy: Galaxy, name: str, aperture_kpc: float, settings: Settings, bulk_kms: np.ndarray
) -> dict[str, np.ndarray]:
    """Maps and truth of one centred galaxy that moves with bulk_kms (3,), as `store.ARRAYS` describes them.

    Raises Refused when the aperture ends before the profile does.
    """
    stars = galaxy.stars
    pole = spin(stars, bulk_kms)
    if not pole.any() and settings.inclination_deg != (0.0, 90.0):
        raise Refused("its stars have no angular momentum, so no inclination; map it without --inclination")
    turns = sightlines(settings.seed, name, settings.views, pole, settings.inclination_deg)
    r_e = np.array([half_mass_radius(np.hypot(*(turn[:2] @ stars.pos_kpc.T)), stars.mass_msun) for turn in turns])
    if not r_e.min() > 0:
        raise Refused("half of the stars lie at one point; is the file damaged?")
    if REACH_RE * r_e.max() > aperture_kpc:
        raise Refused(
            f"the aperture of {aperture_kpc:.3g} kpc ends before {REACH_RE:g} R_e = {REACH_RE * r_e.max():.3g} kpc; "
            "enlarge `aperture`"
        )
    half_width = 0.5 * settings.field_of_view_re * r_e
    radius = profile_radii(stars, aperture_kpc)
    menc = {c: enclosed_mass(p.pos_kpc, p.mass_msun, radius) for c, p in galaxy.components().items()}
    total = sum(menc.values())
    return {
        "maps": views(galaxy, turns, half_width, settings.pixels, bulk_kms).astype(np.float32),
        "sightline": turns,
        "inclination": np.degrees(np.arccos(np.clip(np.abs(turns[:, 2] @ pole), 0, 1))).astype(np.float32),
        "half_mass_radius": r_e.astype(np.float32),
        "pixel_scale": (2 * half_width / settings.pixels).astype(np.float32),
        "radius": radius,
        "mass": np.stack([total if c == "total" else menc[c] for c in store.COMPONENTS]),
        "has_gas": np.array(_is_seen(galaxy.gas), dtype=np.uint8),
        "bulk_velocity": bulk_kms,
    }


def _is_seen(tracer: Particles) -> bool:
    return len(tracer) > 0 and (tracer.weight is None or bool((tracer.weight > 0).any()))


class Worker:
    """Maps galaxies one after the other; keeps the last snapshot open for its other galaxies."""

    def __init__(self, out: Path, settings: Settings):
        self.out, self.settings = out, settings
        self._groups: dict[str, Any] = {}
        self._open: tuple[Path, str] | None = None
        self._snapshot: Snapshot | None = None

    def close(self) -> None:
        """Let go of the open snapshot."""
        if self._snapshot is not None:
            self._snapshot.close()
        self._snapshot = self._open = None

    def __call__(self, tasks: list[Task], reading: Reading) -> list[str]:
        """Map the galaxies of one chunk or shard and write it whole; the reason why each failed, or "".

        Raises StoreError when there is no room left: what was done before stays.
        """
        try:
            if (name := tasks[0].suite.name) not in self._groups:
                self._groups[name] = store.open_suite(self.out, name)
            group = self._groups[name]
            mark = self.out / ".started" / _mark(tasks[0])
            mark.touch()
            kept = {t.index: store.read_galaxy(group, t.index) for t in tasks if t.kept}
            results = [(kept[t.index], "") if t.kept else self._try(t, reading) for t in tasks]
            store.write_galaxies(group, tasks[0].index, [record for record, _ in results])
            mark.unlink()
        except OSError as error:
            if error.errno in store.NO_ROOM:
                raise store.StoreError(
                    f"{self.out}: no room left to write ({error.strerror}: {error.filename}); make room and give "
                    "the same command again, what is done stays"
                ) from error
            raise
        return [reason for _, reason in results]

    def _try(self, task: Task, reading: Reading) -> tuple[dict[str, np.ndarray] | None, str]:
        try:
            if task.halo is None:
                raise Refused(task.problem)
            return self.record(task, task.halo, reading), ""
        except (Refused, SnapshotError, SuiteError) as error:
            return None, str(error) if str(task.snapshot.parent) in str(error) else f"{task.snapshot}: {error}"
        except OSError as error:
            if error.errno in store.NO_ROOM:  # the scratch folder's disk, and the store's may be next
                raise
            return None, f"{task.snapshot}: cannot be read ({error})"
        except Exception as error:  # one strange galaxy must not take the others along
            return None, f"{task.snapshot}: cannot be mapped ({type(error).__name__}: {error}); is the file damaged?"

    def open(self, task: Task) -> Snapshot:
        """The task's snapshot, kept open; yt's index of a big one is shared through the store's folder."""
        suite = task.suite
        if self._snapshot is None or self._open != (task.snapshot, suite.name):
            self.close()
            self._snapshot = Snapshot(
                task.snapshot,
                suite.format,
                suite.particles.model_dump(exclude_none=True),
                suite.units.model_dump(exclude_none=True),
                suite.tracers,
                keep=suite.catalogue.format != "none",
                indexes=self.out / ".indexes",
            )
            self._open = task.snapshot, suite.name
        return self._snapshot

    def index(self, task: Task, reading: Reading) -> None:
        """Have the task's snapshot indexed, so that every rank finds its galaxies at once."""
        with reading(), contextlib.suppress(SnapshotError):  # each of its galaxies will say why
            self.open(task)

    def _read(self, task: Task, halo: Halo) -> tuple[Galaxy, np.ndarray, float]:
        """The galaxy, its centre (3,) [kpc] and its aperture [kpc]."""
        suite, snapshot = task.suite, self.open(task)
        if suite.aperture.kpc is None and halo.r200_kpc is None:
            raise Refused("the catalogue has no R200 for it; give `aperture: {kpc: ...}`")
        radius = suite.aperture.kpc or (suite.aperture.r200 or 0.0) * (halo.r200_kpc or 0.0)
        if radius > 0.5 * (snapshot.units.box_kpc or np.inf):
            raise Refused(
                f"the aperture of {radius:.4g} kpc does not fit into the box of {snapshot.units.box_kpc:.4g} kpc; "
                "check `aperture`, the catalogue's R200 and BoxSize"
            )
        centre = densest_point(snapshot) if halo.centre_kpc is None else halo.centre_kpc
        return snapshot.galaxy(centre, radius), centre, radius

    def record(self, task: Task, halo: Halo, reading: Reading) -> dict[str, np.ndarray]:
        """Everything the store keeps of one galaxy, status excepted."""
        with reading():
            galaxy, centre, radius = self._read(task, halo)
        selection = task.suite.selection
        if galaxy.high_res_fraction < (selection.min_high_res_fraction or 0.0):
            raise Refused(
                f"{galaxy.high_res_fraction:.4f} of its dark matter is of high resolution, less than "
                f"min_high_res_fraction = {selection.min_high_res_fraction:g}"
            )
        bulk = at_rest(galaxy, selection.min_stars)
        return {"centre": centre, **map_galaxy(galaxy, task.name, radius, self.settings, bulk)}


def _mark(task: Task) -> str:
    """Name of a file in the store's .started that is there while a galaxy is mapped, or its process was killed."""
    return f"{task.suite.name}.{task.index}"


def list_snapshot(suite: Suite, snapshot: Path) -> list[tuple[str, Halo | None, str]]:
    """(name, halo, problem) of every galaxy in one snapshot, without opening its particles."""
    try:
        units = FORMATS[suite.format].units(snapshot, suite.units.model_dump(exclude_none=True))
        path = suite.catalogue_path(snapshot)
        haloes = chosen(find_haloes(suite.catalogue.format, path, snapshot, units), suite.selection)
    except (SnapshotError, SuiteError, OSError, ValueError) as error:
        return [(suite.galaxy_name(snapshot, "?"), None, str(error))]
    return [(suite.galaxy_name(snapshot, h.name), *usable(h, path)) for h in haloes]


def list_tasks(suite: Suite) -> list[Task]:
    """Every galaxy of a suite in a fixed order. Raises SuiteError when there is none."""
    found: list[tuple[Path, tuple[str, Halo | None, str]]] = []
    for snapshot in suite.snapshot_paths():
        found += [(snapshot, entry) for entry in list_snapshot(suite, snapshot)]
    found = found[: suite.selection.max_galaxies]
    if not found:
        raise SuiteError(f"suite {suite.name}: no galaxy in its catalogues passes `selection`")
    name, times = Counter(entry[0] for _, entry in found).most_common(1)[0]
    if times > 1:
        raise SuiteError(f"suite {suite.name}: {times} galaxies are called {name}")
    return [Task(suite, i, name, path, halo, why) for i, (path, (name, halo, why)) in enumerate(found)]


def _peak_mb() -> float:
    """Highest memory of this process so far [MB]; getrusage's begins with that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def generate(
    suites: list[Suite],
    out: Path,
    settings: Settings,
    readers: int = READERS,
    repair: bool = False,
    quiet: bool = False,
) -> tuple[int, int]:
    """Map every galaxy that is not done yet; (done, failed) over all suites, on every rank.

    Galaxies that failed before are tried again; with repair also those whose stored arrays cannot
    be read. At most `readers` ranks read snapshots at a time. Failures are lines in
    `out`/failures.jsonl. Raises StoreError, SuiteError on every rank when nothing can be started.
    """
    tasks = parallel.on_rank_0(lambda: plan(suites, out, settings, repair))
    if repair:
        damaged: list[Task] = []
        parallel.share_out(
            [[t] for t in tasks if t.kept],
            lambda one, _: store.is_damaged(store.open_suite(out, one[0].suite.name), one[0].index),
            lambda one, broken: damaged.extend(one if broken else []),
        )
        again = {(t.suite.name, t.index) for t in parallel.broadcast(damaged)}
        tasks = [replace(t, kept=t.kept and (t.suite.name, t.index) not in again) for t in tasks]
        if again and parallel.rank() == 0:
            names = [t.name for t in tasks if (t.suite.name, t.index) in again]
            print(f"{out}: cannot be read and done again: {', '.join(names)}", file=sys.stderr)
    batches, suspects, to_index = parallel.on_rank_0(lambda: _schedule(tasks, out, settings.galaxies_per_shard))
    ours = {suite.name for suite in suites}
    failed: list[dict[str, str]] = []
    done = sum(t.kept for t in tasks)
    bar = tqdm(total=len(tasks), initial=done, desc="galaxies", unit="gal", disable=quiet or parallel.rank() > 0)

    def note(mapped: list[Task], why: list[str]) -> None:
        bar.update(sum(not t.kept for t in mapped))
        new = [{"suite": t.suite.name, "galaxy": t.name, "reason": r} for t, r in zip(mapped, why, strict=True) if r]
        failed.extend(new)
        if new:
            with _failures_to_oneself(out), open(out / "failures.jsonl", "a") as file:
                file.writelines(json.dumps(line) + "\n" for line in new)

    with contextlib.closing(Worker(out, settings)) as worker:
        parallel.share_out(to_index, worker.index, lambda task, _: None, readers)
        parallel.on_rank_0(lambda: _write_failures(out, ours, []))
        for part in (batches, suspects):
            parallel.share_out(part, worker, note, readers, lambda tasks: (tasks[0].snapshot, tasks[0].suite.name))
    parallel.on_rank_0(lambda: _write_failures(out, ours, failed))
    bar.close()
    peaks = parallel.gather(_peak_mb())
    if parallel.rank() == 0 and not quiet:
        print(f"peak memory per rank [MB]: {', '.join(f'{peak:.0f}' for peak in peaks)}", file=sys.stderr)
    return parallel.broadcast((len(tasks) - len(failed), len(failed)))


def plan(suites: list[Suite], out: Path, settings: Settings, repair: bool = False) -> list[Task]:
    """Every galaxy of the suites, with a place in the store, which is made if need be. For one process.

    Raises StoreError, SuiteError or OSError.
    """
    found = []
    for suite in suites:
        print(f"{suite.name}: listing galaxies of {suite.root / suite.snapshots}", file=sys.stderr)
        tasks = list_tasks(suite)
        config = {**vars(settings), "suite": suite.model_dump(mode="json", exclude={"root"})}
        lineages = [suite.lineage_of(t.name, getattr(t.halo, "lineage", None)) for t in tasks]
        group = store.create_suite(out, suite.name, [t.name for t in tasks], lineages, config)
        status = store.read_status(group, unreadable_is_pending=repair)
        number = {str(name): i for i, name in enumerate(group["galaxy"][:])}
        tasks = [replace(t, index=number[t.name]) for t in tasks]
        found += [replace(t, kept=bool(status[t.index] == store.DONE)) for t in tasks]
    (out / ".started").mkdir(exist_ok=True)
    return found


def _schedule(
    plan: list[Task], out: Path, galaxies_per_shard: int
) -> tuple[list[list[Task]], list[list[Task]], list[Task]]:
    """The galaxies to map, those to map after all others, and one of each snapshot to index first.

    Grouped by the chunk or shard they are written in. Big snapshots come first, so that no rank
    starts the longest one last. Whatever was in hand when a process was killed waits for all
    others, so that a galaxy that kills its process takes none along; half-written files are cleared.
    """
    shards: dict[tuple[str, int], list[Task]] = {}
    for task in plan:
        shards.setdefault((task.suite.name, task.index // galaxies_per_shard), []).append(task)
    todo = [tasks for tasks in shards.values() if not all(t.kept for t in tasks)]
    marks = {m.name for m in (out / ".started").iterdir()}
    for first in (tasks[0] for tasks in shards.values() if _mark(tasks[0]) in marks):
        store.clear_unfinished(out, first.suite.name, first.index)
    for mark in marks & ({_mark(t[0]) for t in shards.values()} - {_mark(t[0]) for t in todo}):
        (out / ".started" / mark).unlink()  # it was killed after all was written
    bytes_of = {path: snapshot_bytes(t) for path, t in {t.snapshot: t for tasks in todo for t in tasks}.items()}

    def order(tasks: list[Task]) -> tuple[int, str, str, int, int]:
        particles = sum((t.halo.n_particles or t.halo.n_stars or 0) if t.halo else 0 for t in tasks)
        biggest = max((t.snapshot for t in tasks), key=lambda path: (bytes_of[path], str(path)))
        return -bytes_of[biggest], str(biggest), tasks[0].suite.name, -particles, tasks[0].index

    todo.sort(key=order)
    waiting = [t for tasks in todo for t in tasks if not t.kept]
    count = Counter(t.snapshot for t in waiting)
    first_of = {t.snapshot: t for t in reversed(waiting)}
    to_index = [t for path, t in first_of.items() if count[path] > 1 and bytes_of[path] > INDEX_BYTES]
    clean = [tasks for tasks in todo if _mark(tasks[0]) not in marks]
    return clean, [tasks for tasks in todo if _mark(tasks[0]) in marks], to_index


def snapshot_bytes(task: Task) -> int:
    """Size of a galaxy's snapshot, all its files together; 0 when it is not there."""
    try:
        return sum(part.stat().st_size for part in FORMATS[task.suite.format].files(task.snapshot))
    except (OSError, SnapshotError):
        return 0


def _failures(out: Path) -> list[dict[str, str]]:
    """What earlier runs have noted, line by line; a line cut short by a kill is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (out / "failures.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


@contextlib.contextmanager
def _failures_to_oneself(out: Path) -> Iterator[None]:
    """No other job that maps other suites into the same store writes failures.jsonl meanwhile."""
    with open(out / ".failures.lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: nothing better to be had
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_failures(out: Path, suites: set[str], lines: list[dict[str, str]]) -> None:
    """Put these lines in the place of those that there were of some suites."""
    with _failures_to_oneself(out):
        lines = lines + [line for line in _failures(out) if line["suite"] not in suites]
        ordered = sorted(lines, key=lambda line: (line["suite"], line["galaxy"]))
        aside = out / f".failures.{uuid4().hex}.partial"
        aside.write_text("".join(json.dumps(line) + "\n" for line in ordered))
        os.replace(aside, out / "failures.jsonl")
