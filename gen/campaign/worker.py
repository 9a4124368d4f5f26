"""One process that maps galaxies one after the other, from snapshot to store."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.campaign import failures
from kinmass.gen.campaign.plan import Task
from kinmass.gen.campaign.record import REACH_RE, Refused, Settings, check_aperture, enough_stars, frame_of, map_galaxy
from kinmass.gen.campaign.schedule import mark_of
from kinmass.gen.catalogues.find import Halo, found_centre
from kinmass.gen.formats import SnapshotError
from kinmass.gen.physics.centre import FARTHEST_RE, offset_re
from kinmass.gen.physics.extent import MIN_STARS, edge
from kinmass.gen.physics.particles import Galaxy, Particles, within
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.storage import store
from kinmass.gen.suite import SuiteError

#: What a rank holds while it reads from the file system.
Reading = Callable[[], AbstractContextManager[None]]
#: So many apertures away is looked for the end of a galaxy's stars: one that ends farther out has an R_e of more than
#: 6 / 10 / 1.5 apertures, for a spherical half-mass radius is no more than 1.5 of the largest projected one.
FARTHEST = 6


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
        """Map galaxies of one chunk or shard and write it whole; the reason why each failed, or "".

        Raises StoreError when there is no room left: what was done before stays.
        """
        try:
            if (name := tasks[0].suite.name) not in self._groups:
                self._groups[name] = store.open_suite(self.out, name)
            group = self._groups[name]
            mark = self.out / ".started" / mark_of(tasks[0], self.settings.galaxies_per_shard)
            mark.touch()
            results = [self._try(t, reading) for t in tasks]
            store.write_galaxies(group, [t.index for t in tasks], [record for record, _ in results])
            mark.unlink(missing_ok=True)
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
            if getattr(task.problem, "traceback", ""):
                return None, task.problem
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
            return None, failures.unforeseen(task.snapshot, error)

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
        """All that is within the aperture, the galaxy's centre (3,) [kpc] and its aperture [kpc]."""
        suite, snapshot = task.suite, self.open(task)
        if not snapshot.count("dark") and suite.particles.dark != []:
            raise Refused(
                f"no dark matter in it (no {', '.join(snapshot.components['dark'])}): the truth would be stars and gas "
                "alone; name its types in `particles: {dark: [...]}`, or say that it is meant: `particles: {dark: []}`"
            )
        if suite.aperture.kpc is None and halo.r200_kpc is None:
            raise Refused("the catalogue has no R200 for it; give `aperture: {kpc: ...}`")
        radius = suite.aperture.kpc or (suite.aperture.r200 or 0.0) * (halo.r200_kpc or 0.0)
        if radius > snapshot.half_box_kpc:
            raise Refused(
                f"the aperture of {radius:.4g} kpc does not fit into the box of {snapshot.units.box_kpc:.4g} kpc; "
                "check `aperture`, the catalogue's R200 and BoxSize (`units: {box: none}` if it is no box)"
            )
        centre = found_centre(snapshot) if halo.centre_kpc is None else halo.centre_kpc
        return snapshot.galaxy(centre, radius), centre, radius

    def _check(self, task: Task, galaxy: Galaxy, halo: Halo) -> None:
        """Raises Refused for what an aperture must not lack, and for a centre that is not the galaxy's."""
        selection = task.suite.selection
        if galaxy.high_res_fraction < (selection.min_high_res_fraction or 0.0):
            raise Refused(
                f"{galaxy.high_res_fraction:.4f} of its dark matter is of high resolution, less than "
                f"min_high_res_fraction = {selection.min_high_res_fraction:g}"
            )
        enough_stars(galaxy.stars, selection.min_stars, "in the aperture")
        if not len(galaxy.dark) and self.open(task).count("dark"):
            raise Refused(
                "no dark matter in the aperture, though its file has some: is it a galaxy, and are all the types in "
                "`particles`?"
            )
        if halo.centre_kpc is not None and (off := offset_re(galaxy, halo.n_stars)) > FARTHEST_RE:
            raise Refused(
                f"the catalogue's centre lies {off:.1f} R_e from the nearest peak of the galaxy's stars and matter; "
                "is the catalogue another snapshot's, or in other units?"
            )

    def _own_stars(
        self, task: Task, stars: Particles, centre: np.ndarray, aperture_kpc: float
    ) -> tuple[Particles, float]:
        """The stars that are the galaxy, and the radius [kpc] at which they end, whatever the aperture.

        stars: those in the aperture; farther ones are read where these have no end yet. Half a box is an end.
        """
        snapshot, least, known = self.open(task), task.suite.selection.min_stars, aperture_kpc
        farthest = min(FARTHEST * aperture_kpc, snapshot.half_box_kpc)
        while (end := edge(stars, known, min(MIN_STARS, least))) is None:
            if known == snapshot.half_box_kpc:
                end = known
                break
            if known >= farthest:
                raise Refused(
                    f"the aperture of {aperture_kpc:.3g} kpc ends before {REACH_RE:g} R_e: of the stars within "
                    f"{known:.3g} kpc half lie beyond a tenth of that; enlarge `aperture`, or is it part of a larger "
                    "galaxy?"
                )
            known = min(2 * known, farthest)
            stars = snapshot.stars(centre, known)
        stars = within(stars, end)
        enough_stars(stars, least, f"within {end:.3g} kpc, where its own end")
        return stars, end

    def record(self, task: Task, halo: Halo, reading: Reading) -> dict[str, np.ndarray]:
        """Everything the store keeps of one galaxy, status excepted."""
        with reading():
            galaxy, centre, radius = self._read(task, halo)
            self._check(task, galaxy, halo)
            stars, end = self._own_stars(task, galaxy.stars, centre, radius)
        snapshot = self.open(task)
        frame = frame_of(stars, end, task.name, self.settings, snapshot.half_box_kpc)
        check_aperture(frame, radius)
        if frame.map_radius_kpc > radius:
            del galaxy, stars
            with reading():
                galaxy = snapshot.galaxy(centre, frame.map_radius_kpc)
        found = np.array(halo.centre_kpc is None, dtype=np.uint8)
        return {"centre": centre, "centre_found": found, **map_galaxy(galaxy, frame, radius, self.settings)}
