"""Lists the galaxies of a suite and gives each its place in the store."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import zarr

from kinmass.gen.campaign import doubles
from kinmass.gen.campaign.failures import UNLISTED
from kinmass.gen.campaign.listing import Entry, Listing, kept_file, list_snapshot, read_kept, uncollected
from kinmass.gen.campaign.record import Settings
from kinmass.gen.catalogues.base import Halo, centres_kpc
from kinmass.gen.formats import FORMATS
from kinmass.gen.snapshots import alike
from kinmass.gen.storage import lock, store, suite_group
from kinmass.gen.suite import Suite, SuiteError
from kinmass.gen.words import counted, few

#: A suite of more galaxies than this is written in shards of SHARD, others in a file for each galaxy and array.
MANY = 4_000
SHARD = 16


@dataclass(slots=True)
class Task:
    """One galaxy to map: where it is read from and where its maps go.

    Not frozen, only because a box has a hundred thousand of them: freezing makes each five times as costly.
    """

    suite: Suite
    index: int
    name: str
    snapshot: Path
    halo: Halo | None  # None: listing it failed, `problem` says why
    problem: str = ""
    is_done: bool = False  # mapped by an earlier run, and readable as far as is known
    chunk: int = 0  # number of the chunk or shard that it is written in
    snapshot_bytes: int = 0  # size of all files of the snapshot, 0 when they cannot be found


def drawn(names: list[str], max_galaxies: int | None) -> set[str]:
    """Draw at most max_galaxies of the names (None: all); the draw follows from the names alone, not from their order.

    Catalogues are sorted by mass, so their first galaxies are no fair sample. A higher number only adds to what a lower
    one draws; one name more replaces at most one that was drawn.
    """
    return set(_in_order_of_draw(names)[:max_galaxies])


def _in_order_of_draw(names: Iterable[str]) -> list[str]:
    """Return names in the order in which they are drawn."""

    def draw_key(name: str) -> bytes:
        """Return a digest by which names are drawn; it is not the hash that splits galaxies into training and test."""
        return blake2b(name.encode(), digest_size=16, person=b"max_galaxies").digest()

    return sorted(names, key=draw_key)


def list_tasks(suite: Suite) -> list[Task]:
    """List every galaxy of a suite in a fixed order; prints to stderr what its snapshots do not agree on.

    Raises SuiteError when there is no galaxy, or when two have the same name.
    """
    entries = _entries(suite, _listed(suite))
    return [Task(suite, i, name, path, halo, problem) for i, (path, _, (name, halo, problem)) in enumerate(entries)]


#: A snapshot, the size of its files, and a galaxy in it.
Place = tuple[Path, int, Entry]


def _entries(suite: Suite, listings: Mapping[Path, Listing]) -> list[Place]:
    """List every galaxy of a suite as `list_tasks` does."""
    entries = [(path, listing.n_bytes, entry) for path, listing in listings.items() for entry in listing.entries]
    facts_by_snapshot = {path: listing.facts for path, listing in listings.items() if listing.facts is not None}
    if disagreements := alike.differences(facts_by_snapshot):
        print(
            f"{suite.name}: its snapshots do not agree; if that is not meant, mend or leave out some: {disagreements}",
            file=sys.stderr,
        )
    if assumed := alike.assumptions(facts_by_snapshot):
        print(f"{suite.name}: {assumed}", file=sys.stderr)
    if not entries:
        raise SuiteError(
            f"suite {suite.name}: no galaxy in its catalogues passes `selection`; "
            "`kinmass check` with the suite file says why not"
        )
    for line in doubles.said(suite, listings):
        print(f"{suite.name}: {line}", file=sys.stderr)
    names = [entry[0] for _, _, entry in entries]
    if len(set(names)) < len(names):
        name, n_same = Counter(names).most_common(1)[0]
        raise SuiteError(
            f"suite {suite.name}: {n_same} galaxies are called {name}, by their "
            "snapshots' paths with dots for slashes; rename one, or let `snapshots` match it once"
        )
    if suite.selection.max_galaxies is None:
        return entries
    # A snapshot that could not be listed is not drawn away: its entry stays, to say why.
    drawn_names = drawn([name for name in names if not name.endswith(UNLISTED)], suite.selection.max_galaxies)
    return [place for place in entries if place[2][0] in drawn_names or place[2][0].endswith(UNLISTED)]


def _listed(suite: Suite) -> dict[Path, Listing]:
    return {path: list_snapshot(suite, path) for path in suite.snapshot_paths()}


def _others(suites: list[Suite], out: Path) -> list[tuple[Suite, Mapping[Path, Listing]]]:
    """Return the other suites of a store with what earlier runs have listed of them, as far as that can be read."""
    others: list[tuple[Suite, Mapping[Path, Listing]]] = []
    with contextlib.suppress(store.StoreError):  # there is none yet
        for name in set(store.suites(out)) - {suite.name for suite in suites}:
            with contextlib.suppress(store.StoreError, KeyError, TypeError, ValueError):
                suite = Suite(**store.open_suite(out, name).attrs["config"]["suite"])  # type: ignore[index, call-overload, arg-type]
                others.append((suite, read_kept(out, name)))
    return others


@contextlib.contextmanager
def writing(suites: list[Suite], out: Path) -> Iterator[list[lock.Lock]]:
    """Lock these suites' groups for writing by this process. Raises Busy, which names a process that holds one.

    Raises StoreError where `out` is no place for a store.
    """
    suite_group.require_place(out)
    with contextlib.ExitStack() as stack:
        names = sorted(suite.name for suite in suites)
        yield [stack.enter_context(lock.hold(out / ".locks" / name, f"{out / name}")) for name in names]


@dataclass(frozen=True)
class Room:
    """A suite's group in the store with room for every galaxy that the suite has now, and these galaxies."""

    suite: Suite
    entries: list[Place]
    group: zarr.Group
    per_shard: int


def plan(
    suites: list[Suite],
    out: Path,
    settings: Settings,
    repair: bool = False,
    listings: Mapping[str, dict[Path, Listing]] | None = None,
) -> list[Task]:
    """List every galaxy of the suites with its place in the store, which is made if need be. For one process only.

    listings: those of each suite's snapshots, by its name, where they are made already. repair: galaxies whose status
    cannot be read count as not done. Raises StoreError, SuiteError or OSError.
    """
    with writing(suites, out):
        rooms = make_room(suites, out, settings, listings)
        tasks = tasks_of(rooms, [store.read_status(room.group, unreadable_is_damaged=repair) for room in rooms])
        check_unchanged(tasks, listings or {}, out)
        say_replaced(tasks, listings or {}, out)
        return tasks


def make_room(
    suites: list[Suite],
    out: Path,
    settings: Settings,
    listings: Mapping[str, Mapping[Path, Listing]] | None = None,
) -> list[Room]:
    """Make room in the store for every galaxy of some suites, as `plan` does, by a process that holds their locks."""
    rooms = []
    listings = listings or {suite.name: _listed(suite) for suite in suites}
    listed = [*((s, listings[s.name]) for s in suites), *_others(suites, out)]
    for line in [*doubles.in_two_suites(listed), *doubles.of_one_origin(listed)]:
        print(line, file=sys.stderr)
    for suite in suites:
        with uncollected():
            entries = _entries(suite, listings[suite.name])
        _check_draw(suite, entries, listings[suite.name], out)
        per_shard = settings.galaxies_per_shard or store.galaxies_per_shard(out, suite.name)
        per_shard = per_shard or (SHARD if len(entries) > MANY else 1)
        if per_shard > 1:
            n_galaxies = counted(len(entries), "galaxy", "galaxies")
            print(f"{suite.name}: {n_galaxies}, {per_shard} in each file of an array", file=sys.stderr)
        config = asdict(settings) | {"galaxies_per_shard": per_shard}
        config |= {"suite": suite.model_dump(mode="json", exclude={"root"})}
        if (version := FORMATS[suite.format].version_of_reading) > 1:
            config["version_of_reading"] = version
        names = [name for _, _, (name, _, _) in entries]
        lineages = [suite.lineage_of(name, getattr(halo, "lineage", None)) for _, _, (name, halo, _) in entries]
        centres = centres_kpc(None if halo is None else halo.centre_kpc for _, _, (_, halo, _) in entries)
        group = suite_group.create_suite(out, suite.name, names, lineages, config, centres)
        rooms.append(Room(suite, entries, group, per_shard))
    (out / ".started").mkdir(exist_ok=True)
    return rooms


def _check_draw(suite: Suite, entries: Sequence[Place], listings: Mapping[Path, Listing], out: Path) -> None:
    """Raise SuiteError, which says what helps, where finished galaxies are drawn no more, as others came to the suite.

    They would be called gone from it.
    """
    most = suite.selection.max_galaxies
    if most is None or not (out / suite.name / "zarr.json").exists():
        return
    group = store.open_suite(out, suite.name)
    is_done = store.read_status(group, unreadable_is_damaged=True) == store.DONE
    names = [name for listing in listings.values() for name, _, _ in listing.entries if not name.endswith(UNLISTED)]
    done = set(store.read_labels(group, "galaxy")[is_done].tolist()) & set(names)
    if lost := sorted(done - {name for _, _, (name, _, _) in entries}):
        enough = max(i for i, name in enumerate(_in_order_of_draw(names), start=1) if name in done)
        raise SuiteError(
            f"suite {suite.name}: of the {len(names)} galaxies that there are now, `max_galaxies: {most}` draws others "
            f"than {lost[0]}, which is done: give at least {enough}, which keeps what is done, or write to a new --out"
        )


def tasks_of(rooms: Sequence[Room], statuses: Sequence[np.ndarray]) -> list[Task]:
    """Make the tasks of some suites; statuses are those (N,) of each group's galaxies."""
    tasks = []
    with uncollected():
        for room, status in zip(rooms, statuses, strict=True):
            index_of = {name: i for i, name in enumerate(store.read_labels(room.group, "galaxy").tolist())}
            is_done = (status == store.DONE).tolist()
            for path, n_bytes, (name, halo, problem) in room.entries:
                i = index_of[name]
                tasks.append(Task(room.suite, i, name, path, halo, problem, is_done[i], i // room.per_shard, n_bytes))
    return tasks


def check_unchanged(tasks: Sequence[Task], listings: Mapping[str, Mapping[Path, Listing]], out: Path) -> None:
    """Raise SuiteError where a snapshot's a, h, units, box or expansion are not those of its finished galaxies.

    A header that was repaired since then does not reach what is done.
    """
    for task in tasks if listings else ():
        if task.is_done and (changed := listings[task.suite.name][task.snapshot].changed):
            raise SuiteError(
                f"{task.snapshot} is not what {task.name} was mapped from ({changed}): bring back what was there, or "
                f"`rm -r {out / task.suite.name}` to map this suite anew"
            )


def say_replaced(tasks: Sequence[Task], listings: Mapping[str, dict[Path, Listing]], out: Path) -> None:
    """Print to stderr which snapshots have another content than finished galaxies were mapped from: these stay.

    A snapshot of which no galaxy is done is taken as it is now: `replaced` of its listing is emptied. Also says where
    no earlier run has kept what snapshots were.
    """
    for name, of_suite in listings.items():
        n_done = Counter(task.snapshot for task in tasks if task.is_done and task.suite.name == name)
        if n_done and not kept_file(out, name).exists():
            print(
                f"{name}: {kept_file(out, name)}, which tells what snapshots were, is missing, as after a copy without "
                f"hidden files: whether they have changed since {counted(n_done.total(), 'galaxy', 'galaxies')} came "
                "from there is not known",
                file=sys.stderr,
            )
        for path, listing in of_suite.items():
            if listing.replaced and not n_done[path]:
                of_suite[path] = replace(listing, replaced="")
        if others := [path for path, listing in of_suite.items() if listing.replaced]:
            n_mapped = counted(sum(n_done[path] for path in others), "finished galaxy", "finished galaxies")
            print(
                f"{name}: the content of {counted(len(others), 'snapshot')} ({few(others, alike.NAMED)}) has changed "
                f"since {n_mapped} came from there; what is done stays as it is, `rm -r {out / name}` maps the suite "
                "anew; if they are another run's, give its suite file another `name`",
                file=sys.stderr,
            )
