"""A whole campaign: every galaxy of some suites into one map store, over all ranks."""

import contextlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from tqdm import tqdm

from kinmass.gen.campaign import failures, parallel
from kinmass.gen.campaign.plan import Task, plan, writing
from kinmass.gen.campaign.record import Settings
from kinmass.gen.campaign.schedule import schedule
from kinmass.gen.campaign.worker import Worker
from kinmass.gen.storage import store
from kinmass.gen.storage.lock import Lock
from kinmass.gen.suite import Suite

#: Ranks that read snapshots at a time unless told otherwise: more make parallel file systems slower.
READERS = 128


def _peak_mb() -> float:
    """Highest memory of this process so far [MB]; getrusage's begins with that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def generate(
    suites: list[Suite],
    out: Path,
    settings: Settings,
    readers: int = READERS,
    repair: bool = False,
    quiet: bool = False,
) -> tuple[int, int]:
    """Map every galaxy that is not done yet; (done, failed) over all suites, on every rank.

    Galaxies that failed before are tried again; with repair also those whose stored arrays cannot
    be read. At most `readers` ranks read snapshots at a time. Failures are lines in
    `out`/failures.jsonl. Raises StoreError, SuiteError on every rank when nothing can be started, as
    when another process maps one of the suites into `out`.
    """
    with contextlib.ExitStack() as held:  # of rank 0
        locks: list[Lock] = []
        parallel.on_rank_0(lambda: locks.extend(held.enter_context(writing(suites, out))))
        return _generate(suites, out, settings, readers, repair, quiet, locks)


def _generate(
    suites: list[Suite], out: Path, settings: Settings, readers: int, repair: bool, quiet: bool, locks: list[Lock]
) -> tuple[int, int]:
    tasks = parallel.on_rank_0(lambda: plan(suites, out, settings, repair, ours=True))
    if repair:
        damaged: list[Task] = []
        parallel.share_out(
            [[t] for t in tasks if t.kept],
            lambda one, _: store.is_damaged(store.open_suite(out, one[0].suite.name), one[0].index),
            lambda one, broken: damaged.extend(one if broken else []),
        )
        again = {(t.suite.name, t.index) for t in parallel.broadcast(damaged)}
        tasks = [replace(t, kept=t.kept and (t.suite.name, t.index) not in again) for t in tasks]
        if again and parallel.rank() == 0:
            names = [t.name for t in tasks if (t.suite.name, t.index) in again]
            print(f"{out}: cannot be read and done again: {', '.join(names)}", file=sys.stderr)
    batches, suspects, to_index = parallel.on_rank_0(lambda: schedule(tasks, out, settings.galaxies_per_shard))
    ours = {suite.name for suite in suites}
    for name in sorted({batch[0].suite.name for batch in (*batches, *suspects)}):
        parallel.on_rank_0(partial(store.add_run, out, name))
    failed: list[dict[str, str]] = []
    done = sum(t.kept for t in tasks)
    bar = tqdm(total=len(tasks), initial=done, desc="galaxies", unit="gal", disable=quiet or parallel.rank() > 0)

    def note(mapped: list[Task], why: list[str]) -> None:
        for lock in locks:
            lock.check()
        bar.update(len(mapped))
        new = [failures.line(t.suite.name, t.name, r) for t, r in zip(mapped, why, strict=True) if r]
        failed.extend(new)
        if new:
            failures.add(out, new)

    with contextlib.closing(Worker(out, settings)) as worker:
        parallel.share_out(to_index, worker.index, lambda task, _: None, readers)
        parallel.on_rank_0(lambda: failures.replace_all(out, ours, []))
        for part in (batches, suspects):
            parallel.share_out(part, worker, note, readers, lambda tasks: (tasks[0].snapshot, tasks[0].suite.name))
    parallel.on_rank_0(lambda: failures.replace_all(out, ours, failed))
    bar.close()
    peaks = parallel.gather(_peak_mb())
    if parallel.rank() == 0 and not quiet:
        print(f"peak memory per rank [MB]: {max(peaks):.0f} at most, {median(peaks):.0f} median", file=sys.stderr)
    return parallel.broadcast((len(tasks) - len(failed), len(failed)))
