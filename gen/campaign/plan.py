"""Lists the galaxies of a suite and gives each its place in the store."""

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

#: A suite of more galaxies than this is written in shards of SHARD, others in a file for each galaxy and array.
MANY = 4_000
SHARD = 16
#: Stands in place of the galaxy's name for a snapshot whose galaxies could not be listed.
UNLISTED = "?"


@dataclass(frozen=True)
class Task:
    """One galaxy to map: where it is read from and where its maps go."""

    suite: Suite
    index: int
    name: str
    snapshot: Path
    halo: Halo | None  # None: listing it failed, `problem` says why
    problem: str = ""
    is_done: bool = False  # mapped by an earlier run, and readable as far as is known
    chunk: int = 0  # number of the chunk or shard that it is written in


def list_snapshot(
    suite: Suite, snapshot: Path, facts_by_snapshot: dict[Path, dict[str, str]] | None = None
) -> list[tuple[str, Halo | None, str]]:
    """List every galaxy of one snapshot as (name, halo, problem), without opening its particles.

    facts_by_snapshot, where given, takes up what all snapshots of a suite should agree on. Never raises: a snapshot
    that cannot be listed is one entry that says why.
    """
    try:
        units = FORMATS[suite.format].units(snapshot, suite.units.model_dump(exclude_none=True))
        if facts_by_snapshot is not None:
            facts_by_snapshot[snapshot] = facts_of(suite, snapshot, units)
        path = suite.catalogue_path(snapshot)
        haloes = chosen(find_haloes(suite.catalogue.format, path, snapshot, units), suite.selection)
    except (SnapshotError, SuiteError, OSError) as error:
        return [(suite.galaxy_name(snapshot, UNLISTED), None, str(error))]
    except Exception as error:  # one strange snapshot must not stop the others
        return [(suite.galaxy_name(snapshot, UNLISTED), None, failures.unforeseen(snapshot, error))]
    return [(suite.galaxy_name(snapshot, h.name), *usable(h, path)) for h in haloes]


def drawn(names: list[str], max_galaxies: int | None) -> set[str]:
    """Draw at most max_galaxies of the names (None: all); the draw follows from the names alone, not from their order.

    Catalogues are sorted by mass, so their first galaxies are no fair sample. A higher number only adds to what a lower
    one draws; one name more replaces at most one that was drawn.
    """

    def draw_key(name: str) -> bytes:  # not the hash that splits galaxies into training and test
        return blake2b(name.encode(), digest_size=16, person=b"max_galaxies").digest()

    return set(sorted(names, key=draw_key)[:max_galaxies])


def facts_of(suite: Suite, snapshot: Path, units: CodeUnits) -> dict[str, str]:
    """Read from one snapshot the facts that all of its suite should agree on. Raises SnapshotError."""
    return alike.facts(units, _mapped_types(suite) & FORMATS[suite.format].types(snapshot))


def _mapped_types(suite: Suite) -> set[str]:
    """Particle types of gas, stars and dark matter. Black holes are left out: many galaxies have none."""
    component_types = FORMATS[suite.format].components | suite.particles.model_dump(exclude_none=True)
    return {ptype for name, types in component_types.items() if name != "black_holes" for ptype in types}


def list_tasks(suite: Suite) -> list[Task]:
    """List every galaxy of a suite in a fixed order; prints to stderr what its snapshots do not agree on.

    Raises SuiteError when there is none, or when two have the same name.
    """
    entries: list[tuple[Path, tuple[str, Halo | None, str]]] = []
    facts_by_snapshot: dict[Path, dict[str, str]] = {}
    for snapshot in suite.snapshot_paths():
        entries += [(snapshot, entry) for entry in list_snapshot(suite, snapshot, facts_by_snapshot)]
    if disagreements := alike.differences(facts_by_snapshot):
        print(f"{suite.name}: its snapshots do not agree, is this meant? {disagreements}", file=sys.stderr)
    if not entries:
        raise SuiteError(f"suite {suite.name}: no galaxy in its catalogues passes `selection`")
    name, n_same = Counter(entry[0] for _, entry in entries).most_common(1)[0]
    if n_same > 1:
        raise SuiteError(f"suite {suite.name}: {n_same} galaxies are called {name}")
    # A snapshot that could not be listed is not drawn away: its entry stays, to say why.
    drawn_names = drawn([n for _, (n, *_) in entries if not n.endswith(UNLISTED)], suite.selection.max_galaxies)
    entries = [(path, entry) for path, entry in entries if entry[0] in drawn_names or entry[0].endswith(UNLISTED)]
    return [Task(suite, i, name, path, halo, problem) for i, (path, (name, halo, problem)) in enumerate(entries)]


@contextlib.contextmanager
def writing(suites: list[Suite], out: Path) -> Iterator[list[lock.Lock]]:
    """Lock these suites' groups for writing by this process. Raises Busy, which names a process that holds one."""
    with contextlib.ExitStack() as stack:
        names = sorted(suite.name for suite in suites)
        yield [stack.enter_context(lock.hold(out / ".locks" / name, f"{out / name}")) for name in names]


def plan(suites: list[Suite], out: Path, settings: Settings, repair: bool = False, locked: bool = False) -> list[Task]:
    """List every galaxy of the suites with its place in the store, which is made if need be. For one process only.

    repair: galaxies whose status cannot be read count as not done. locked: this process holds the locks of `writing`
    already. Raises StoreError, SuiteError or OSError.
    """
    if not locked:
        with writing(suites, out):
            return plan(suites, out, settings, repair, locked=True)
    planned = []
    for suite in suites:
        print(f"{suite.name}: listing galaxies of {suite.root / suite.snapshots}", file=sys.stderr)
        tasks = list_tasks(suite)
        per_shard = settings.galaxies_per_shard or store.galaxies_per_shard(out, suite.name)
        per_shard = per_shard or (SHARD if len(tasks) > MANY else 1)
        if per_shard > 1:
            print(f"{suite.name}: {len(tasks)} galaxies, {per_shard} in each file of an array", file=sys.stderr)
        config = asdict(settings) | {"galaxies_per_shard": per_shard}
        config |= {"suite": suite.model_dump(mode="json", exclude={"root"})}
        lineages = [suite.lineage_of(t.name, getattr(t.halo, "lineage", None)) for t in tasks]
        group = store.create_suite(out, suite.name, [t.name for t in tasks], lineages, config, _centres(tasks))
        status = store.read_status(group, unreadable_is_pending=repair)
        index_of = {str(name): i for i, name in enumerate(group["galaxy"][:])}
        tasks = [replace(t, index=i, chunk=i // per_shard) for t in tasks for i in (index_of[t.name],)]
        planned += [replace(t, is_done=bool(status[t.index] == store.DONE)) for t in tasks]
    (out / ".started").mkdir(exist_ok=True)
    return planned


def _centres(tasks: list[Task]) -> np.ndarray:
    """Centres of the galaxies (N, 3) [kpc] by their catalogues, NaN where a catalogue gives none."""
    centres_kpc = [None if t.halo is None else t.halo.centre_kpc for t in tasks]
    return np.array([np.full(3, np.nan) if centre is None else centre for centre in centres_kpc], dtype=float)
