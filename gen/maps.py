"""Snapshots to map store: what happens to each galaxy, and to a whole campaign of them."""

import errno
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gen import parallel, store
from gen.catalogue import Halo, chosen, densest_point, find_haloes, usable
from gen.formats import FORMATS, SnapshotError
from gen.particles import Galaxy
from gen.profile import enclosed_mass, half_mass_radius, profile_radii
from gen.projection import view
from gen.sightline import sightlines
from gen.snapshot import Snapshot
from gen.suite import Suite, SuiteError

#: Side of the map, and the largest radius of the network's profile, in projected half-mass radii.
FIELD_OF_VIEW_RE = 6.0
REACH_RE = 3.0


@dataclass(frozen=True)
class Settings:
    """How galaxies are looked at; kept in the store's attributes."""

    views: int = 4
    pixels: int = 32
    seed: int = 0
    field_of_view_re: float = FIELD_OF_VIEW_RE


@dataclass(frozen=True)
class Task:
    """One galaxy to map: where it is read from and where its maps go."""

    suite: Suite
    index: int
    name: str
    snapshot: Path
    halo: Halo | None  # None: listing it failed
    problem: str = ""


class Refused(ValueError):
    """A galaxy that cannot be mapped honestly: the message is its line in failures.jsonl."""


def centred(galaxy: Galaxy, min_stars: int) -> tuple[Galaxy, np.ndarray]:
    """The galaxy at rest, and the velocity (3,) [km/s] taken out: that of its inner half of stars.

    Raises Refused for too few stars.
    """
    if len(galaxy.stars) < min_stars:
        raise Refused(f"{len(galaxy.stars)} star particles in the aperture, fewer than min_stars = {min_stars}")
    r = np.linalg.norm(galaxy.stars.pos_kpc, axis=1)
    inner = r <= half_mass_radius(r, galaxy.stars.mass_msun)
    bulk = np.average(galaxy.stars.vel_kms[inner], axis=0, weights=galaxy.stars.mass_msun[inner])
    return Galaxy(**{name: p.moved(np.zeros(3), -bulk) for name, p in galaxy.components().items()}), bulk


def map_galaxy(galaxy: Galaxy, name: str, aperture_kpc: float, settings: Settings) -> dict[str, np.ndarray]:
    """Maps and truth of one centred galaxy at rest, as `store.ARRAYS` describes them (no status).

    Raises Refused when the aperture ends before the profile does.
    """
    turns = sightlines(settings.seed, name, settings.views)
    stars = galaxy.stars
    r_e = np.array([half_mass_radius(np.hypot(*(stars.pos_kpc @ turn[:2].T).T), stars.mass_msun) for turn in turns])
    if REACH_RE * r_e.max() > aperture_kpc:
        raise Refused(
            f"the aperture of {aperture_kpc:.3g} kpc ends before {REACH_RE:g} R_e = {REACH_RE * r_e.max():.3g} kpc; "
            "enlarge `aperture`"
        )
    half_width = 0.5 * settings.field_of_view_re * r_e
    maps = [view(galaxy, turn, half, settings.pixels) for turn, half in zip(turns, half_width, strict=True)]
    radius = profile_radii(stars, aperture_kpc)
    menc = {c: enclosed_mass(p.pos_kpc, p.mass_msun, radius) for c, p in galaxy.components().items()}
    total = sum(menc.values())
    return {
        "maps": np.stack(maps).astype(np.float32),
        "sightline": turns,
        "half_mass_radius": r_e.astype(np.float32),
        "pixel_scale": (2 * half_width / settings.pixels).astype(np.float32),
        "radius": radius,
        "mass": np.stack([total if c == "total" else menc[c] for c in store.COMPONENTS]),
        "has_gas": np.array(len(galaxy.gas) > 0, dtype=np.uint8),
    }


class Worker:
    """Maps tasks one after the other; keeps the last snapshot open for its other galaxies."""

    def __init__(self, root: Path, settings: Settings):
        self.root, self.settings = root, settings
        self._open: tuple[Path, str] | None = None
        self._snapshot: Snapshot | None = None

    def _snapshot_of(self, task: Task) -> Snapshot:
        if self._snapshot is None or self._open != (task.snapshot, task.suite.name):
            self.close()
            suite = task.suite
            self._snapshot = Snapshot(
                task.snapshot,
                suite.format,
                suite.particles.model_dump(exclude_none=True),
                suite.units.model_dump(exclude_none=True),
            )
            self._open = task.snapshot, suite.name
        return self._snapshot

    def close(self) -> None:
        """Let go of the open snapshot."""
        if self._snapshot is not None:
            self._snapshot.close()
        self._snapshot = self._open = None

    def __call__(self, task: Task) -> str:
        """Map one galaxy into the store; an empty string, or the reason why it failed."""
        group = store.open_suite(self.root, task.suite.name)
        try:
            if task.halo is None:
                raise Refused(task.problem)
            store.write_galaxy(group, task.index, self.record(task, task.halo))
            return ""
        except (Refused, SnapshotError, SuiteError) as error:
            reason = str(error)
        except OSError as error:
            if self._store_is_full(error):
                raise
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # one strange galaxy must not take the others along
            reason = f"{type(error).__name__}: {error}"
        group["status"][task.index] = store.FAILED
        return reason

    @staticmethod
    def _store_is_full(error: OSError) -> bool:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

    def record(self, task: Task, halo: Halo) -> dict[str, np.ndarray]:
        """Everything the store keeps of one galaxy, status excepted."""
        snapshot = self._snapshot_of(task)
        centre = densest_point(snapshot) if halo.centre_kpc is None else halo.centre_kpc
        aperture = task.suite.aperture
        if aperture.kpc is None and halo.r200_kpc is None:
            raise Refused("the catalogue has no R200 for it; give `aperture: {kpc: ...}`")
        radius = aperture.kpc or (aperture.r200 or 0.0) * (halo.r200_kpc or 0.0)
        galaxy, bulk = centred(snapshot.galaxy(centre, radius), task.suite.selection.min_stars)
        record = map_galaxy(galaxy, task.name, radius, self.settings)
        return record | {"centre": centre, "bulk_velocity": bulk}


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
        raise SuiteError(f"suite {suite.name}: its catalogues list no galaxy with min_stars or more")
    names = [entry[0] for _, entry in found]
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
        raise SuiteError(f"suite {suite.name}: two galaxies are called {sorted(twice)[0]}")
    return [Task(suite, i, name, path, halo, why) for i, (path, (name, halo, why)) in enumerate(found)]


def generate(suites: list[Suite], out: Path, settings: Settings, quiet: bool = False) -> tuple[int, int]:
    """Map every galaxy that is not done yet; (done, failed) over all suites, on every rank.

    Galaxies that failed before are tried again. Failures are lines in `out`/failures.jsonl.
    Raises StoreError, SuiteError on every rank when nothing can be started.
    """
    plan: Any = None
    if parallel.rank() == 0:
        try:
            plan = _plan(suites, out, settings)
        except (store.StoreError, SuiteError, OSError) as error:
            plan = error
    plan = parallel.broadcast(plan)
    if isinstance(plan, Exception):
        raise plan
    todo, total = plan
    reasons: dict[tuple[str, str], str] = {}
    bar = tqdm(
        total=total, initial=total - len(todo), desc="galaxies", unit="gal", disable=quiet or parallel.rank() > 0
    )

    def done(task: Task, reason: str) -> None:
        bar.update()
        if reason:
            reasons[task.suite.name, task.name] = reason
            _write_failures(out, reasons)

    worker = Worker(out, settings)
    if parallel.rank() == 0:
        _write_failures(out, reasons)
    parallel.share_out(todo, worker, done)
    worker.close()
    bar.close()
    return parallel.broadcast((total - len(reasons), len(reasons)) if parallel.rank() == 0 else None)


def _plan(suites: list[Suite], out: Path, settings: Settings) -> tuple[list[Task], int]:
    todo, total = [], 0
    for suite in suites:
        print(f"{suite.name}: listing galaxies of {suite.root / suite.snapshots}", file=sys.stderr)
        tasks = list_tasks(suite)
        config = {**vars(settings), "suite": suite.model_dump(mode="json", exclude={"root"})}
        group = store.create_suite(out, suite.name, [t.name for t in tasks], config)
        status = group["status"][:]
        todo += [t for t in tasks if status[t.index] != store.DONE]
        total += len(tasks)
    # Big snapshots first, so that no rank starts the longest one last.
    sizes = {t.snapshot: t.snapshot.stat().st_size for t in todo}
    return sorted(todo, key=lambda t: (-sizes[t.snapshot], str(t.snapshot), t.index)), total


def _write_failures(out: Path, reasons: dict[tuple[str, str], str]) -> None:
    lines = [json.dumps({"suite": s, "galaxy": g, "reason": r}) + "\n" for (s, g), r in sorted(reasons.items())]
    aside = out / "failures.jsonl.partial"
    aside.write_text("".join(lines))
    os.replace(aside, out / "failures.jsonl")
