"""A whole campaign: every galaxy of some suites into one map store, over all ranks."""

import contextlib
import platform
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median

import numpy as np

from kinmass.gen.bars import progress_bar
from kinmass.gen.campaign import failures, parallel, timing
from kinmass.gen.campaign.batches import Batches
from kinmass.gen.campaign.listing import Listing, compared, keep_all, list_unless_kept, read_kept, uncollected
from kinmass.gen.campaign.plan import Room, Task, check_unchanged, make_room, say_replaced, tasks_of, writing
from kinmass.gen.campaign.record import Settings, load_kernels
from kinmass.gen.campaign.schedule import Schedule, parts_to_find, schedule
from kinmass.gen.campaign.worker import Worker, load
from kinmass.gen.formats.base import Part
from kinmass.gen.formats.frontends import load_frontends
from kinmass.gen.snapshots.parts import Found
from kinmass.gen.storage import galaxy_reader, store, suite_group
from kinmass.gen.storage.lock import Lock
from kinmass.gen.suite import Suite
from kinmass.gen.words import counted

#: How many ranks read snapshots at the same time by default: more make parallel file systems slower.
READERS = 128
#: Files of statuses that a rank reads at a time, when a run goes on.
STATUS_FILES = 256
#: Damaged galaxies that are named.
NAMED = 20


def _peak_mb() -> float:
    """Peak memory of this process so far [MB]; 0 where the system does not say, as in some containers (gVisor).

    Not from getrusage: its value starts with that of the parent process.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def list_all(suites: list[Suite], out: Path) -> dict[str, dict[Path, Listing]]:
    """List the galaxies of all snapshots of some suites, by suite and snapshot; all ranks share the work.

    The result is rank 0's; what earlier runs have kept in the store is taken where the files are as they were. Raises
    SuiteError on every rank for a suite without snapshots.
    """
    paths = parallel.on_rank_0(lambda: [(i, path) for i, suite in enumerate(suites) for path in suite.snapshot_paths()])
    kept = [read_kept(out, suite.name) for suite in suites] if parallel.rank() == 0 else []
    kept_by_name = [{listing.entries[0][0]: listing for listing in k.values() if listing.entries} for k in kept]
    marks = parallel.broadcast([{path: listing.marks for path, listing in of_suite.items()} for of_suite in kept])
    if parallel.rank() == 0:
        for suite in suites:
            print(f"{suite.name}: listing galaxies of {suite.root / suite.snapshots}", file=sys.stderr)
    found: dict[tuple[int, Path], Listing] = {}

    def work(item: tuple[int, Path], _: object) -> Listing | None:
        """List one snapshot of a suite on any rank; None where its kept listing holds."""
        i, path = item
        return list_unless_kept(suites[i], path, marks[i].get(path, ""))

    def take(item: tuple[int, Path], listing: Listing | None) -> None:
        """Take a listing in on rank 0: the new one, or the one that was kept."""
        before, entries = kept[item[0]].get(item[1]), listing.entries if listing else []
        if before is None and entries:  # its snapshot may have lain elsewhere
            before = kept_by_name[item[0]].get(entries[0][0])
        found[item] = compared(listing, before) if listing else before  # type: ignore[assignment]

    if len(paths) > 1:
        parallel.share_out(paths, work, take)
    elif parallel.rank() == 0:  # a box: meanwhile the others go on
        for item in paths:
            take(item, work(item, None))
    listings: dict[str, dict[Path, Listing]] = {suite.name: {} for suite in suites}
    for i, path in paths if parallel.rank() == 0 else []:
        listings[suites[i].name][path] = found[i, path]
    return listings


@uncollected()
def plan_all(
    suites: list[Suite], out: Path, settings: Settings, repair: bool, listings: dict[str, dict[Path, Listing]]
) -> tuple[list[Task], set[tuple[str, int]]]:
    """Plan as `plan.plan` does, by a rank 0 that holds the suites' locks; all ranks read what is done already.

    With repair, also returns the galaxies whose status cannot be read, by suite and number. Both are rank 0's, others
    get none. Raises StoreError, SuiteError or OSError on every rank.
    """
    rooms: list[Room] = []

    def prepare() -> list[list[int]]:
        """Make room in the store; return the chunks of each suite that have a status."""
        rooms.extend(make_room(suites, out, settings, listings))
        return [galaxy_reader.written_chunks(room.group) for room in rooms]

    chunks = parallel.on_rank_0(prepare)
    blocks = [(i, own[k : k + STATUS_FILES]) for i, own in enumerate(chunks) for k in range(0, len(own), STATUS_FILES)]
    statuses = [np.full(room.group["status"].shape, store.PENDING, dtype=np.uint8) for room in rooms]  # type: ignore[union-attr]
    problems: list[store.StoreError] = []
    group_of = cache(lambda name: store.open_suite(out, name))

    def read(block: tuple[int, list[int]], _: object) -> dict[int, np.ndarray] | store.StoreError:
        """Read the statuses of a block of chunks on any rank, or return why that is not possible."""
        try:
            return galaxy_reader.read_statuses(group_of(suites[block[0]].name), block[1], unreadable_is_damaged=repair)
        except store.StoreError as error:
            return error

    def take(block: tuple[int, list[int]], read: dict[int, np.ndarray] | store.StoreError) -> None:
        """Take the statuses of a block in on rank 0."""
        if isinstance(read, store.StoreError):
            problems.append(read)
            return
        for first, status in read.items():
            statuses[block[0]][first : first + len(status)] = status

    if blocks:
        parallel.share_out(blocks, read, take)
    tasks: list[Task] = []

    def finish() -> None:
        """Make the tasks on rank 0. Raises the first StoreError of the blocks, or SuiteError."""
        if problems:
            raise problems[0]
        tasks.extend(tasks_of(rooms, statuses))
        check_unchanged(tasks, listings, out)
        say_replaced(tasks, listings, out)

    parallel.on_rank_0(finish)
    unreadable = {
        (room.suite.name, int(i))
        for room, status in zip(rooms, statuses, strict=True)
        for i in np.flatnonzero(status == store.DAMAGED)
    }
    return tasks, unreadable


def _damaged_undone(tasks: list[Task], unreadable: set[tuple[str, int]], out: Path) -> list[Task]:
    """Read all that is done, on all ranks; return the tasks with what is damaged as not done, and say how much it is.

    unreadable: galaxies whose status is damaged, by suite and number.
    """
    damaged = set(unreadable)
    done = parallel.broadcast(Batches([[t] for t in tasks if t.is_done]))
    parallel.share_out(
        done,
        lambda single, _: store.is_damaged(store.open_suite(out, single[0].suite.name), single[0].index),
        lambda single, is_broken: damaged.update([(single[0].suite.name, single[0].index)] if is_broken else []),
    )
    if parallel.rank() == 0:
        names = [f"{t.suite.name} {t.name}" for t in tasks if (t.suite.name, t.index) in damaged]
        n_read = len(done) + sum((t.suite.name, t.index) in unreadable for t in tasks)
        print(f"{out}: {counted(n_read, 'galaxy', 'galaxies')} read, {len(names)} of them damaged{_named(names)}")
        if n_read < len(tasks):
            n_unread = counted(len(tasks) - n_read, "galaxy", "galaxies")
            print(f"{out}: {n_unread} not done yet, or failed, or their status is missing")
    return [replace(t, is_done=t.is_done and (t.suite.name, t.index) not in damaged) for t in tasks]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f", mapped again: {', '.join(names[:NAMED])}{more}" if names else ""


def generate(
    suites: list[Suite],
    out: Path,
    settings: Settings,
    readers: int = READERS,
    repair: bool = False,
    quiet: bool = False,
) -> tuple[int, int]:
    """Map every galaxy that is not done yet; returns (done, failed) over all suites, on every rank.

    Galaxies that failed before are tried again; with repair also those whose stored arrays cannot
    be read. At most `readers` ranks read snapshots at a time. Failures are lines in
    `out`/failures.jsonl. Raises StoreError, SuiteError on every rank when nothing can be started, as
    when another process maps one of the suites into `out`.
    """
    with contextlib.ExitStack() as exit_stack:  # only rank 0 enters locks into it
        locks: list[Lock] = []
        parallel.on_rank_0(lambda: locks.extend(exit_stack.enter_context(writing(suites, out))))
        return _generate(suites, out, settings, readers, repair, quiet, locks)


@contextlib.contextmanager
def _keeping(out: Path, listings: dict[str, dict[Path, Listing]]) -> Iterator[None]:
    """Keep rank 0's listings for the next run beside the block's work, so that no rank waits for it."""
    thread = threading.Thread(target=keep_all, args=(out, listings))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _index(to_index: list[Task], worker: Worker, readers: int) -> None:
    """Find where the blocks of big snapshots lie: all ranks share the search, and rank 0 joins what they find.

    All wait for these, and rank 0 would load yt first: it leaves a few of them to the others.
    """
    n_ranks = parallel.size()
    if parts := parallel.on_rank_0(lambda: parts_to_find(to_index, n_ranks)):
        found: dict[Path, dict[int, Found | None]] = {}
        to_stage = list({task.snapshot: task for task, _ in parts}.values())
        parallel.share_out(to_stage, worker.stage, lambda task, _: None, readers, rank_0_works=len(to_stage) >= n_ranks)

        def take(item: tuple[Task, Part], of_part: Found | None) -> None:
            """Take a part in on rank 0; the last one of a snapshot completes its index."""
            task, (number, n_parts) = item
            of_snapshot = found.setdefault(task.snapshot, {})
            of_snapshot[number] = of_part
            if len(of_snapshot) == n_parts:
                worker.keep_parts(task, [of_snapshot.pop(number) for number in range(n_parts)])

        parallel.share_out(parts, worker.find_part, take, readers, rank_0_works=len(parts) >= n_ranks)
    parallel.share_out(to_index, worker.index, lambda task, _: None, readers, rank_0_works=len(to_index) >= n_ranks)


def _generate(
    suites: list[Suite], out: Path, settings: Settings, readers: int, repair: bool, quiet: bool, locks: list[Lock]
) -> tuple[int, int]:
    if parallel.size() == 1:
        load()
    phases_s, began = {"start": timing.process_age_s()}, time.monotonic()
    listings = list_all(suites, out)
    if parallel.rank():
        load_frontends()  # rank 0 does so with its first galaxy: nobody waits for that
    parallel.on_rank_0(load_kernels)  # compiles for all ranks; these load what it has made while it plans
    if parallel.rank():
        load_kernels()
    tasks, unreadable = plan_all(suites, out, settings, repair, listings)
    if repair:
        tasks = _damaged_undone(tasks, unreadable, out)
    todo: Schedule = parallel.on_rank_0(lambda: schedule(tasks, out))
    suite_names = {suite.name for suite in suites}
    for name in sorted({*todo.batches.suite_names, *todo.suspects.suite_names}):
        parallel.on_rank_0(partial(suite_group.add_run, out, name))
    failed: list[dict[str, str]] = []
    n_done = sum(t.is_done for t in tasks)
    bar = progress_bar(
        total=len(tasks), initial=n_done, desc="galaxies", unit="gal", disable=quiet or parallel.rank() > 0
    )

    def note(mapped: list[Task], reasons: list[str]) -> None:
        """Count mapped galaxies on rank 0 and write down which failed. Raises Busy where a lock was lost."""
        for lock in locks:
            lock.check()
        bar.update(len(mapped))
        new_failures = [failures.line(t.suite.name, t.name, r) for t, r in zip(mapped, reasons, strict=True) if r]
        failed.extend(new_failures)
        if new_failures:
            failures.add(out, new_failures)

    keeping = _keeping(out, listings) if parallel.rank() == 0 else contextlib.nullcontext()
    clock = timing.Clock()
    phases_s["listing"], began, bytes_before = time.monotonic() - began, time.monotonic(), timing.bytes_read()
    with keeping, contextlib.closing(Worker(out, settings, clock)) as worker, clock("waiting at the end"):
        _index(todo.to_index, worker, readers)
        parallel.on_rank_0(lambda: failures.replace_all(out, suite_names, []))
        batches, suspects = todo.batches, todo.suspects
        parallel.share_out(batches, worker, note, readers, batches.origins, batches.costs, finish=worker.finish)
        # What kills its process must not take with it what was mapped just before.
        parallel.share_out(suspects, worker.alone, note, readers, suspects.origins, suspects.costs)
    phases_s["mapping"] = time.monotonic() - began
    parallel.on_rank_0(lambda: failures.replace_all(out, suite_names, failed))
    bar.close()
    n_bytes = timing.bytes_read() - bytes_before
    own = timing.RankTiming(parallel.rank(), platform.node(), worker.n_mapped, n_bytes, clock.seconds)
    ranks, peaks = parallel.gather(own), parallel.gather(_peak_mb())
    if parallel.rank() == 0 and any(rank.galaxies for rank in ranks):
        with contextlib.suppress(OSError):  # what it cost is worth no failure
            timing.keep(out, ranks, phases_s)
    if parallel.rank() == 0 and not quiet:
        if any(rank.galaxies for rank in ranks):
            print(timing.told(ranks, phases_s), file=sys.stderr)
        if max(peaks):
            print(f"peak memory per rank [MB]: {max(peaks):.0f} at most, {median(peaks):.0f} median", file=sys.stderr)
    return parallel.broadcast((len(tasks) - len(failed), len(failed)))
