"""A whole campaign: every galaxy of some suites into one map store, over all ranks."""

import contextlib
import platform
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from tqdm import tqdm

from kinmass.gen.campaign import failures, parallel, timing
from kinmass.gen.campaign.listing import Listing, keep_all, list_snapshot, read_kept
from kinmass.gen.campaign.plan import Task, plan, writing
from kinmass.gen.campaign.record import Settings
from kinmass.gen.campaign.schedule import Schedule, schedule
from kinmass.gen.campaign.worker import Worker, load
from kinmass.gen.storage import store
from kinmass.gen.storage.lock import Lock
from kinmass.gen.suite import Suite

#: How many ranks read snapshots at the same time by default: more make parallel file systems slower.
READERS = 128


def _peak_mb() -> float:
    """Peak memory of this process so far [MB]. Not from getrusage: its value starts with that of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def list_all(suites: list[Suite], out: Path) -> dict[str, dict[Path, Listing]]:
    """List the galaxies of all snapshots of some suites, by suite and snapshot; all ranks share the work.

    The result is rank 0's; what earlier runs have kept in the store is taken where the files are as they were. Raises
    SuiteError on every rank for a suite without snapshots.
    """
    paths = parallel.on_rank_0(lambda: [(i, path) for i, suite in enumerate(suites) for path in suite.snapshot_paths()])
    kept = parallel.on_rank_0(lambda: [read_kept(out, suite.name) for suite in suites])
    if parallel.rank() == 0:
        for suite in suites:
            print(f"{suite.name}: listing galaxies of {suite.root / suite.snapshots}", file=sys.stderr)
    found: dict[tuple[int, Path], Listing] = {}

    def work(item: tuple[int, Path], _: object) -> Listing:
        i, path = item
        return list_snapshot(suites[i], path, kept[i].get(str(path)))

    parallel.share_out(paths, work, lambda item, listing: found.update({item: listing}))
    listings: dict[str, dict[Path, Listing]] = {suite.name: {} for suite in suites}
    for i, path in paths if parallel.rank() == 0 else []:
        listings[suites[i].name][path] = found[i, path]
    return listings


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


def _generate(
    suites: list[Suite], out: Path, settings: Settings, readers: int, repair: bool, quiet: bool, locks: list[Lock]
) -> tuple[int, int]:
    parallel.on_rank_0(load)  # compiles for all ranks; these load what it has made
    load()
    phases_s, began = {"start": timing.process_age_s()}, time.monotonic()
    listings = list_all(suites, out)
    tasks = parallel.on_rank_0(lambda: plan(suites, out, settings, repair, True, listings))
    if parallel.rank() == 0:
        keep_all(out, listings)
    if repair:
        damaged: list[Task] = []
        parallel.share_out(
            [[t] for t in tasks if t.is_done],
            lambda single, _: store.is_damaged(store.open_suite(out, single[0].suite.name), single[0].index),
            lambda single, is_broken: damaged.extend(single if is_broken else []),
        )
        damaged_ids = {(t.suite.name, t.index) for t in parallel.broadcast(damaged)}
        tasks = [replace(t, is_done=t.is_done and (t.suite.name, t.index) not in damaged_ids) for t in tasks]
        if damaged_ids and parallel.rank() == 0:
            names = [t.name for t in tasks if (t.suite.name, t.index) in damaged_ids]
            print(f"{out}: cannot be read and done again: {', '.join(names)}", file=sys.stderr)
    todo: Schedule = parallel.on_rank_0(lambda: schedule(tasks, out))
    suite_names = {suite.name for suite in suites}
    for name in sorted({batch[0].suite.name for batch in (*todo.batches, *todo.suspects)}):
        parallel.on_rank_0(partial(store.add_run, out, name))
    failed: list[dict[str, str]] = []
    n_done = sum(t.is_done for t in tasks)
    bar = tqdm(total=len(tasks), initial=n_done, desc="galaxies", unit="gal", disable=quiet or parallel.rank() > 0)

    def note(mapped: list[Task], reasons: list[str]) -> None:
        for lock in locks:
            lock.check()
        bar.update(len(mapped))
        new_failures = [failures.line(t.suite.name, t.name, r) for t, r in zip(mapped, reasons, strict=True) if r]
        failed.extend(new_failures)
        if new_failures:
            failures.add(out, new_failures)

    clock = timing.Clock()
    phases_s["listing"], began, bytes_before = time.monotonic() - began, time.monotonic(), timing.bytes_read()
    with contextlib.closing(Worker(out, settings, clock)) as worker, clock("waiting at the end"):
        parallel.share_out(todo.to_index, worker.index, lambda task, _: None, readers)
        parallel.on_rank_0(lambda: failures.replace_all(out, suite_names, []))
        for queue in (todo.batches, todo.suspects):
            parallel.share_out(
                queue, worker, note, readers, lambda tasks: (tasks[0].snapshot, tasks[0].suite.name), todo.cost
            )
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
        print(timing.told(ranks, phases_s), file=sys.stderr)
        print(f"peak memory per rank [MB]: {max(peaks):.0f} at most, {median(peaks):.0f} median", file=sys.stderr)
    return parallel.broadcast((len(tasks) - len(failed), len(failed)))
