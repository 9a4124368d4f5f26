"""Which galaxies a suite has, and their places in the store."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from kinmass.gen.campaign import failures
from kinmass.gen.campaign.record import Settings
from kinmass.gen.catalogues.find import Halo, chosen, find_haloes, usable
from kinmass.gen.formats import FORMATS, CodeUnits, SnapshotError
from kinmass.gen.snapshots import alike
from kinmass.gen.storage import lock, store
from kinmass.gen.suite import Suite, SuiteError

#: What stands for the galaxies of a snapshot that could not be listed.
UNLISTED = "?"


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


def list_snapshot(
    suite: Suite, snapshot: Path, known: dict[Path, dict[str, str]] | None = None
) -> list[tuple[str, Halo | None, str]]:
    """(name, halo, problem) of every galaxy in one snapshot, without opening its particles.

    known: takes up what all snapshots of a suite should agree on.
    """
    try:
        units = FORMATS[suite.format].units(snapshot, suite.units.model_dump(exclude_none=True))
        if known is not None:
            known[snapshot] = facts_of(suite, snapshot, units)
        path = suite.catalogue_path(snapshot)
        haloes = chosen(find_haloes(suite.catalogue.format, path, snapshot, units), suite.selection)
    except (SnapshotError, SuiteError, OSError) as error:
        return [(suite.galaxy_name(snapshot, UNLISTED), None, str(error))]
    except Exception as error:  # one strange snapshot must not take the others along
        return [(suite.galaxy_name(snapshot, UNLISTED), None, failures.unforeseen(snapshot, error))]
    return [(suite.galaxy_name(snapshot, h.name), *usable(h, path)) for h in haloes]


def drawn(names: list[str], most: int | None) -> set[str]:
    """At most so many of some names (None: all), a draw that follows from the names alone.

    Catalogues go by mass: their first galaxies are no sample. A higher number adds to what a lower one draws, whatever
    the order; another name takes the place of one at most.
    """

    def lot(name: str) -> bytes:  # not the hash that parts the galaxies into training and test
        return blake2b(name.encode(), digest_size=16, person=b"max_galaxies").digest()

    return set(sorted(names, key=lot)[:most])


def facts_of(suite: Suite, snapshot: Path, units: CodeUnits) -> dict[str, str]:
    """What a suite's snapshots should agree on, of one of them. Raises SnapshotError."""
    return alike.facts(units, _mapped(suite) & FORMATS[suite.format].types(snapshot))


def _mapped(suite: Suite) -> set[str]:
    """The particle types of gas, stars and dark matter; many a galaxy has no black hole."""
    chosen = FORMATS[suite.format].components | suite.particles.model_dump(exclude_none=True)
    return {ptype for name, types in chosen.items() if name != "black_holes" for ptype in types}


def list_tasks(suite: Suite) -> list[Task]:
    """Every galaxy of a suite in a fixed order; what its snapshots do not agree on is said on stderr.

    Raises SuiteError when there is none.
    """
    found: list[tuple[Path, tuple[str, Halo | None, str]]] = []
    known: dict[Path, dict[str, str]] = {}
    for snapshot in suite.snapshot_paths():
        found += [(snapshot, entry) for entry in list_snapshot(suite, snapshot, known)]
    if odd := alike.differences(known):
        print(f"{suite.name}: its snapshots do not agree, is this meant? {odd}", file=sys.stderr)
    if not found:
        raise SuiteError(f"suite {suite.name}: no galaxy in its catalogues passes `selection`")
    name, times = Counter(entry[0] for _, entry in found).most_common(1)[0]
    if times > 1:
        raise SuiteError(f"suite {suite.name}: {times} galaxies are called {name}")
    # A snapshot that could not be listed is no galaxy: it stays, to say why.
    mine = drawn([n for _, (n, *_) in found if not n.endswith(UNLISTED)], suite.selection.max_galaxies)
    found = [(path, entry) for path, entry in found if entry[0] in mine or entry[0].endswith(UNLISTED)]
    return [Task(suite, i, name, path, halo, why) for i, (path, (name, halo, why)) in enumerate(found)]


@contextlib.contextmanager
def writing(suites: list[Suite], out: Path) -> Iterator[list[lock.Lock]]:
    """Be the one process that writes these suites' groups. Raises StoreError naming another one that does."""
    with contextlib.ExitStack() as stack:
        names = sorted(suite.name for suite in suites)
        yield [stack.enter_context(lock.hold(out / ".locks" / name, f"{out / name}")) for name in names]


def plan(suites: list[Suite], out: Path, settings: Settings, repair: bool = False, ours: bool = False) -> list[Task]:
    """Every galaxy of the suites, with a place in the store, which is made if need be. For one process.

    ours: this process is `writing` the suites already. Raises StoreError, SuiteError or OSError.
    """
    if not ours:
        with writing(suites, out):
            return plan(suites, out, settings, repair, ours=True)
    found = []
    for suite in suites:
        print(f"{suite.name}: listing galaxies of {suite.root / suite.snapshots}", file=sys.stderr)
        tasks = list_tasks(suite)
        config = {**asdict(settings), "suite": suite.model_dump(mode="json", exclude={"root"})}
        lineages = [suite.lineage_of(t.name, getattr(t.halo, "lineage", None)) for t in tasks]
        group = store.create_suite(out, suite.name, [t.name for t in tasks], lineages, config, _centres(tasks))
        status = store.read_status(group, unreadable_is_pending=repair)
        number = {str(name): i for i, name in enumerate(group["galaxy"][:])}
        tasks = [replace(t, index=number[t.name]) for t in tasks]
        found += [replace(t, kept=bool(status[t.index] == store.DONE)) for t in tasks]
    (out / ".started").mkdir(exist_ok=True)
    return found


def _centres(tasks: list[Task]) -> np.ndarray:
    """Where catalogues put the galaxies (N, 3) [kpc], NaN where they do not say."""
    given = [None if t.halo is None else t.halo.centre_kpc for t in tasks]
    return np.array([np.full(3, np.nan) if centre is None else centre for centre in given], dtype=float)
