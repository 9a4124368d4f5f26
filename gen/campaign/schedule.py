"""Orders the galaxies of a plan, and finds those that a killed process was working on."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from kinmass.gen.campaign.batches import Batches
from kinmass.gen.campaign.listing import uncollected
from kinmass.gen.campaign.plan import Task
from kinmass.gen.formats import FORMATS
from kinmass.gen.formats.base import Part
from kinmass.gen.storage import writer

#: Snapshots above this size, with several galaxies, are indexed by one rank before the others read them.
INDEX_BYTES = 50_000_000
#: A snapshot's index is found by several ranks in parts of at least so many bytes, which take a rank half a second, for
#: each of them opens all files of the snapshot.
PART_BYTES = 500_000_000
#: What opening and writing a galaxy costs beside reading, as bytes that could be read in that time.
GALAXY_BYTES = 5_000_000


def mark_of(task: Task) -> str:
    """Name of the mark of a task's chunk: a file in the store's .started, there while the chunk is mapped.

    A mark that is there when nothing runs was left by a process that was killed.
    """
    return f"{task.suite.name}.{task.chunk}"


@dataclass(frozen=True)
class Schedule:
    """The galaxies to map, by chunk or shard: `batches`, then `suspects`; before both, snapshots to index.

    A batch costs the bytes to read, of a box the share of each of its galaxies. to_index: one galaxy of each snapshot
    that one rank indexes for all.
    """

    batches: Batches
    suspects: Batches
    to_index: list[Task]


def parts_to_find(to_index: list[Task], n_ranks: int) -> list[tuple[Task, Part]]:
    """Part the search for the blocks of big snapshots, so that so many ranks share it by its bytes.

    What is left out here one rank finds alone: small snapshots, or as many as there are ranks; and those that tell
    where their particles lie.
    """
    total = sum(task.snapshot_bytes for task in to_index)
    parts: list[tuple[Task, Part]] = []
    for task in to_index:
        n_parts = min(-(-n_ranks * task.snapshot_bytes // total), task.snapshot_bytes // PART_BYTES)
        snapshot_format = FORMATS[task.suite.format]
        if n_parts > 1 and snapshot_format.has_parts and not snapshot_format.tells_cells(task.snapshot):
            parts += [(task, (number, n_parts)) for number in range(n_parts)]
    return parts


@uncollected()
def schedule(plan: list[Task], out: Path) -> Schedule:
    """Order what is to be done.

    Galaxies are grouped by the chunk or shard that they are written in, in the order in which they
    lie there. Big snapshots come first, so that no rank starts the longest one last. What was being
    mapped when a process was killed comes after all others, so that a galaxy that kills its process
    stops no other; half-written files are removed.
    """
    shards: dict[tuple[str, int], list[Task]] = {}
    for task in plan:
        shards.setdefault((task.suite.name, task.chunk), []).append(task)
    todo = [[t for t in sorted(tasks, key=lambda t: t.index) if not t.is_done] for tasks in shards.values()]
    todo = [tasks for tasks in todo if tasks]

    def mark(tasks: list[Task]) -> str:
        """Name the mark of a chunk by its tasks."""
        return mark_of(tasks[0])

    marks_left = {m.name for m in (out / ".started").iterdir()}
    for suite, chunk in shards:
        if f"{suite}.{chunk}" in marks_left:
            writer.clear_unfinished(out, suite, chunk)
    for mark_name in marks_left & ({f"{suite}.{chunk}" for suite, chunk in shards} - {mark(tasks) for tasks in todo}):
        (out / ".started" / mark_name).unlink(missing_ok=True)  # its process was killed after all was written

    def runs(tasks: Iterable[Task]) -> Iterator[tuple[Path, list[Task]]]:
        """Part tasks into runs of one snapshot: a box's many tasks then need one look-up of a path, which is slow."""
        return ((path, list(run)) for path, run in groupby(tasks, attrgetter("snapshot")))

    def order(tasks: list[Task]) -> tuple[int, str, str, int, int]:
        """Return the sort key of a chunk: biggest snapshot first, and in it the galaxies of most particles."""
        particles = sum((t.halo.n_particles or t.halo.n_stars or 0) if t.halo else 0 for t in tasks)
        n_bytes, biggest = max((run[0].snapshot_bytes, str(path)) for path, run in runs(tasks))
        return -n_bytes, biggest, tasks[0].suite.name, -particles, tasks[0].index

    todo.sort(key=order)
    n_waiting: Counter[Path] = Counter()
    first_of: dict[Path, Task] = {}
    for path, run in runs(t for tasks in todo for t in tasks):
        n_waiting[path] += len(run)
        first_of.setdefault(path, run[0])
    to_index = [t for path, t in first_of.items() if n_waiting[path] > 1 and t.snapshot_bytes > INDEX_BYTES]
    share = {path: GALAXY_BYTES + first_of[path].snapshot_bytes / n for path, n in n_waiting.items()}

    def batches(in_doubt: bool) -> Batches:
        """Return the chunks that a killed process was working on, or all others, with what they cost."""
        chosen = [tasks for tasks in todo if (mark(tasks) in marks_left) == in_doubt]
        return Batches(chosen, [sum(share[path] * len(run) for path, run in runs(tasks)) for tasks in chosen])

    return Schedule(batches(False), batches(True), to_index)
