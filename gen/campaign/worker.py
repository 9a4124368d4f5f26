"""Maps galaxies one after the other in one process, from snapshot to store."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from kinmass.gen.campaign import failures
from kinmass.gen.campaign.plan import Task
from kinmass.gen.campaign.record import (
    REACH_RE,
    Refused,
    Settings,
    aperture_of,
    check_aperture,
    check_ends,
    check_light,
    check_motion,
    ends_of,
    enough_stars,
    frame_of,
    load_kernels,
    map_galaxy,
)
from kinmass.gen.campaign.schedule import mark_of
from kinmass.gen.campaign.timing import Clock
from kinmass.gen.catalogues.find import Halo, find_centre
from kinmass.gen.errors import NO_ROOM
from kinmass.gen.formats import SnapshotError
from kinmass.gen.formats.base import Part
from kinmass.gen.formats.frontends import load_frontends
from kinmass.gen.physics.centre import FARTHEST_RE, offset_re
from kinmass.gen.physics.extent import MIN_STARS, edge
from kinmass.gen.physics.particles import Galaxy, Particles, within
from kinmass.gen.snapshots.parts import Found, find_part, keep_parts, stage_once
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.storage import store, writer
from kinmass.gen.suite import SuiteError

#: Folder of the store in which it is kept where the blocks of big snapshots lie.
INDEXES = ".indexes"
#: Makes the context that a rank holds while it reads from the file system.
Reading = Callable[[], AbstractContextManager[None]]
#: The end of a galaxy's stars is searched for out to so many apertures. One that ends farther out has an R_e of more
#: than 6 / 10 / 1.5 apertures: a spherical half-mass radius is at most 1.5 times the largest projected one.
FARTHEST = 6


def load() -> None:
    """Load all that mapping needs before any clock starts: yt, and kernels, which are compiled if need be."""
    load_frontends()
    load_kernels()


class Worker:
    """Maps galaxies one after the other; keeps the last snapshot open for its other galaxies.

    A thread writes each chunk or shard while the next is mapped: nobody waits for a file system that answers slowly.
    """

    def __init__(self, out: Path, settings: Settings, clock: Clock | None = None):
        self.out, self.settings, self.clock = out, settings, clock or Clock()
        self.n_mapped = 0
        self._writers: dict[str, writer.Writer] = {}
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._written: Future[None] | None = None
        self._reading: Reading = contextlib.nullcontext
        self._open: tuple[Path, str] | None = None
        self._snapshot: Snapshot | None = None

    def close(self) -> None:
        """Close the snapshot that is open, if any; what is being written is written to its end."""
        self._behind.shutdown()
        self._close_snapshot()

    def _close_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
        self._snapshot = self._open = None

    def __call__(self, tasks: list[Task], reading: Reading) -> list[str]:
        """Map galaxies of one chunk or shard, and have it written whole; returns the reason why each failed, or "".

        It is written when `finish` has returned. Raises StoreError when the disk is full; what was done before stays.
        """
        with self.clock("rest", before="waiting for work"), self._store_has_room():
            return self._map(tasks, reading)

    def alone(self, tasks: list[Task], reading: Reading) -> list[str]:
        """Map galaxies of one chunk or shard as a call does; they are written before anything else is done."""
        reasons = self(tasks, reading)
        self.finish()
        return reasons

    def finish(self) -> None:
        """Wait until all is written. Raises StoreError when the disk is full."""
        written, self._written = self._written, None
        if written is not None:
            with self.clock("writing"), self._store_has_room():
                written.result()

    def _map(self, tasks: list[Task], reading: Reading) -> list[str]:
        if (name := tasks[0].suite.name) not in self._writers:
            self._writers[name] = writer.Writer(store.open_suite(self.out, name))
        open(self._mark(tasks), "wb").close()  # one call to the file system, of which `touch` makes two
        self._reading = reading
        results = [self.attempt(t) for t in tasks]
        self.finish()
        self._written = self._behind.submit(self._write, tasks, [record for record, _ in results])
        self.n_mapped += len(tasks)
        return [reason for _, reason in results]

    def _write(self, tasks: list[Task], records: list[dict[str, np.ndarray] | None]) -> None:
        self._writers[tasks[0].suite.name].write([t.index for t in tasks], records)
        self._mark(tasks).unlink(missing_ok=True)

    def _mark(self, tasks: list[Task]) -> Path:
        return self.out / ".started" / mark_of(tasks[0])

    @contextlib.contextmanager
    def _store_has_room(self) -> Iterator[None]:
        """Raise StoreError, which says what to do, where a disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise store.StoreError(
                    f"{self.out}: no room left to write ({error.strerror}: {error.filename or self.out}); make room "
                    "and give the same command again, what is done stays"
                ) from error
            raise

    def attempt(self, task: Task) -> tuple[dict[str, np.ndarray] | None, str]:
        """Return what the store keeps of one galaxy and "", or None and the reason why it cannot be mapped."""
        try:
            if getattr(task.problem, "traceback", ""):
                return None, task.problem
            if task.halo is None:
                raise Refused(task.problem)
            return self.record(task, task.halo), ""
        except (Refused, SnapshotError, SuiteError) as error:
            return None, str(error) if str(task.snapshot.parent) in str(error) else f"{task.snapshot}: {error}"
        except OSError as error:
            if error.errno in NO_ROOM:  # the scratch folder's disk is full, the store's may be next
                raise
            return None, f"{task.snapshot}: cannot be read ({error}); check that it is there and may be read"
        except Exception as error:  # one strange galaxy must not stop the others
            return None, failures.unforeseen(task.snapshot, error)

    def open(self, task: Task) -> Snapshot:
        """Open the task's snapshot and keep it open; where a big one's blocks lie is shared through the store's folder.

        Raises SnapshotError.
        """
        suite = task.suite
        if self._snapshot is None or self._open != (task.snapshot, suite.name):
            with self.clock("loading"):
                load_frontends()
            with self.clock("opening"):
                self._close_snapshot()
                self._snapshot = Snapshot(
                    task.snapshot,
                    suite.format,
                    suite.particles.model_dump(exclude_none=True),
                    suite.units.model_dump(exclude_none=True),
                    suite.tracers,
                    keep=suite.catalogue.format != "none",
                    indexes=self.out / INDEXES,
                    slot=self._slot,
                )
            self._open = task.snapshot, suite.name
        return self._snapshot

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold a place among the readers while the block runs."""
        with contextlib.ExitStack() as stack:
            with self.clock("waiting to read"):
                stack.enter_context(self._reading())
            with self.clock("fetching"):
                yield

    def _kept(self, task: Task) -> tuple[Path, str, str | None, Path]:
        """Return what says which index a task's snapshot has, and where it is kept."""
        return task.snapshot, task.suite.format, task.suite.tracers.light_field, self.out / INDEXES

    def stage(self, task: Task, reading: Reading) -> None:
        """Stage a snapshot of many files for all ranks that look for parts of its blocks, or read from it."""
        self._reading = reading
        with self.clock("opening"), contextlib.suppress(SnapshotError):  # whoever opens it says what is wrong
            stage_once(*self._kept(task), self._slot)

    def find_part(self, item: tuple[Task, Part], reading: Reading) -> Found | None:
        """Find where one part of the blocks of a task's snapshot lie; None where that cannot be told or is kept."""
        (task, part), self._reading = item, reading
        with self.clock("loading"):
            load_frontends()
        with self.clock("opening"), contextlib.suppress(SnapshotError):  # whoever opens the whole says what is wrong
            return find_part(*self._kept(task), part, self._slot)
        return None

    def keep_parts(self, task: Task, parts: list[Found | None]) -> None:
        """Keep the index of a task's snapshot that is joined of all its parts; without one of them nothing is kept."""
        if found := [part for part in parts if part is not None]:
            with contextlib.suppress(SnapshotError):  # the same error comes again with each of its galaxies
                if len(found) == len(parts):
                    keep_parts(*self._kept(task), found)

    def index(self, task: Task, reading: Reading) -> None:
        """Find where the blocks of the task's snapshot lie, so that no rank that reads from it has to wait for that."""
        self._reading = reading
        with contextlib.suppress(SnapshotError):  # the same error comes again with each of its galaxies
            self.open(task)

    def _read(self, task: Task, halo: Halo) -> tuple[Galaxy, np.ndarray, float]:
        """Read all within the aperture; returns that, the galaxy's centre (3,) [kpc] and the aperture [kpc]."""
        suite, snapshot = task.suite, self.open(task)
        if not snapshot.count("dark") and suite.particles.dark != []:
            raise Refused(
                f"no dark matter in it (no {', '.join(snapshot.components['dark'])}): the truth would be stars and gas "
                "alone; name its types in `particles: {dark: [...]}`, or say that it is meant: `particles: {dark: []}`"
            )
        aperture_kpc = aperture_of(suite.aperture, halo.r200_kpc, snapshot.units.box_kpc)
        centre_kpc = find_centre(snapshot) if halo.centre_kpc is None else halo.centre_kpc
        return snapshot.galaxy(centre_kpc, aperture_kpc), centre_kpc, aperture_kpc

    def _check(self, task: Task, galaxy: Galaxy, halo: Halo) -> None:
        """Raise Refused where the aperture lacks stars, dark matter or resolution, or is not centred on the galaxy."""
        selection = task.suite.selection
        if galaxy.high_res_fraction < (selection.min_high_res_fraction or 0.0):
            raise Refused(
                f"only {galaxy.high_res_fraction:.4f} of its dark matter is of high resolution, less than "
                f"min_high_res_fraction = {selection.min_high_res_fraction:g}"
            )
        enough_stars(galaxy.stars, selection.min_stars, "in the aperture")
        if not len(galaxy.dark) and self.open(task).count("dark"):
            raise Refused(
                "no dark matter in the aperture, though its file has some: is it a galaxy, and are all the types in "
                "`particles`?"
            )
        if halo.centre_kpc is not None and (centre_offset_re := offset_re(galaxy, halo.n_stars)) > FARTHEST_RE:
            raise Refused(
                f"the catalogue's centre lies {centre_offset_re:.1f} R_e from the nearest peak of the galaxy's stars "
                "and matter; is the catalogue another snapshot's, or in other units? Check `catalogue`"
            )

    def _own_stars(
        self, task: Task, stars: Particles, centre_kpc: np.ndarray, aperture_kpc: float, is_central: bool
    ) -> tuple[Particles, float]:
        """Find the galaxy's own stars and the radius [kpc] at which they end, whatever the aperture.

        stars are those in the aperture; farther ones are read while no end is found. Half a box counts as an end.
        """
        snapshot, min_stars, read_kpc = self.open(task), task.suite.selection.min_stars, aperture_kpc
        farthest_kpc = min(FARTHEST * aperture_kpc, snapshot.half_box_kpc)
        while (end_kpc := edge(stars, read_kpc, min(MIN_STARS, min_stars), is_central)) is None:
            if read_kpc == snapshot.half_box_kpc:
                end_kpc = read_kpc
                break
            if read_kpc >= farthest_kpc:
                raise Refused(
                    f"the aperture of {aperture_kpc:.4g} kpc ends before {REACH_RE:g} R_e: of the stars within "
                    f"{read_kpc:.4g} kpc half lie beyond a tenth of that; enlarge `aperture`, or is it part of a "
                    "larger galaxy?"
                )
            read_kpc = min(2 * read_kpc, farthest_kpc)
            with self.clock("reading"):
                stars = snapshot.stars(centre_kpc, read_kpc)
        stars = within(stars, end_kpc)
        enough_stars(stars, min_stars, f"within {end_kpc:.4g} kpc, where its own end")
        return stars, end_kpc

    def record(self, task: Task, halo: Halo) -> dict[str, np.ndarray]:
        """Make everything the store keeps of one galaxy but its status. Raises Refused, SnapshotError or SuiteError."""
        with self.clock("reading"):
            galaxy, centre_kpc, aperture_kpc = self._read(task, halo)
        with self.clock("framing"):
            self._check(task, galaxy, halo)
            # The one galaxy of a snapshot without a catalogue, whose centre is found, is a satellite of none.
            is_central = halo.central is True or halo.centre_kpc is None
            stars, end_kpc = self._own_stars(task, galaxy.stars, centre_kpc, aperture_kpc, is_central)
            snapshot = self.open(task)
            frame = frame_of(stars, end_kpc, task.name, self.settings, snapshot.half_box_kpc)
            check_aperture(frame, aperture_kpc)
            check_ends(frame, snapshot.nearest_end(centre_kpc))
        if frame.map_radius_kpc > aperture_kpc:
            del galaxy, stars
            with self.clock("reading"):
                galaxy = snapshot.galaxy(centre_kpc, frame.map_radius_kpc)
        with self.clock("framing"):
            check_ends(frame, ends_of(galaxy.dark))
        centre_found = np.array(halo.centre_kpc is None, dtype=np.uint8)
        with self.clock("projecting"):
            if light_field := task.suite.tracers.light_field:
                check_light(galaxy.stars, frame, light_field)
            mapped = map_galaxy(galaxy, frame, aperture_kpc, self.settings)
            check_motion(galaxy, frame, snapshot.units.source)
        return {"centre": centre_kpc, "centre_found": centre_found, **mapped}
