"""One process that maps galaxies one after the other, from snapshot to store."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from gen import store
from gen.catalogue import Halo, densest_point
from gen.formats import SnapshotError
from gen.particles import Galaxy
from gen.plan import Task
from gen.record import Refused, Settings, at_rest, map_galaxy
from gen.schedule import mark_of
from gen.snapshot import Snapshot
from gen.suite import SuiteError

#: What a rank holds while it reads from the file system.
Reading = Callable[[], AbstractContextManager[None]]


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
            mark = self.out / ".started" / mark_of(tasks[0])
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
                "check `aperture`, the catalogue's R200 and BoxSize (`units: {box: none}` if it is no box)"
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
