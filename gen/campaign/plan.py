"""Lists the galaxies of a suite and gives each its place in the store."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from kinmass.gen.campaign.listing import UNLISTED, Listing, list_snapshot
from kinmass.gen.campaign.record import Settings
from kinmass.gen.catalogues.base import Halo
from kinmass.gen.snapshots import alike
from kinmass.gen.storage import lock, store
from kinmass.gen.suite import Suite, SuiteError

#: A suite of more galaxies than this is written in shards of SHARD, others in a file for each galaxy and array.
MANY = 4_000
SHARD = 16


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


def drawn(names: list[str], max_galaxies: int | None) -> set[str]:
    """Draw at most max_galaxies of the names (None: all); the draw follows from the names alone, not from their order.

    Catalogues are sorted by mass, so their first galaxies are no fair sample. A higher number only adds to what a lower
    one draws; one name more replaces at most one that was drawn.
    """

    def draw_key(name: str) -> bytes:  # not the hash that splits galaxies into training and test
        return blake2b(name.encode(), digest_size=16, person=b"max_galaxies").digest()

    return set(sorted(names, key=draw_key)[:max_galaxies])


def list_tasks(suite: Suite, listings: Mapping[Path, Listing] | None = None) -> list[Task]:
    """List every galaxy of a suite in a fixed order; prints to stderr what its snapshots do not agree on.

    listings: those of its snapshots, made here if they are not given. Raises SuiteError when there is no galaxy, or
    when two have the same name.
    """
    if listings is None:
        listings = {path: list_snapshot(suite, path) for path in suite.snapshot_paths()}
    entries = [(path, entry) for path, listing in listings.items() for entry in listing.entries]
    facts_by_snapshot = {path: listing.facts for path, listing in listings.items() if listing.facts is not None}
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


def plan(
    suites: list[Suite],
    out: Path,
    settings: Settings,
    repair: bool = False,
    locked: bool = False,
    listings: Mapping[str, Mapping[Path, Listing]] | None = None,
) -> list[Task]:
    """List every galaxy of the suites with its place in the store, which is made if need be. For one process only.

    listings: those of each suite's snapshots, by its name, where they are made already. repair: galaxies whose status
    cannot be read count as not done. locked: this process holds the locks of `writing` already. Raises StoreError,
    SuiteError or OSError.
    """
    if not locked:
        with writing(suites, out):
            return plan(suites, out, settings, repair, True, listings)
    planned = []
    for suite in suites:
        tasks = list_tasks(suite, listings[suite.name] if listings else None)
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
        is_done = (status == store.DONE).tolist()
        for task in tasks:
            i = index_of[task.name]
            planned.append(replace(task, index=i, chunk=i // per_shard, is_done=is_done[i]))
    (out / ".started").mkdir(exist_ok=True)
    return planned


def _centres(tasks: list[Task]) -> np.ndarray:
    """Centres of the galaxies (N, 3) [kpc] by their catalogues, NaN where a catalogue gives none."""
    centres_kpc = [None if t.halo is None else t.halo.centre_kpc for t in tasks]
    return np.array([np.full(3, np.nan) if centre is None else centre for centre in centres_kpc], dtype=float)
