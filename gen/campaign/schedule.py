"""In which order the galaxies of a plan are mapped, and which of them a killed process left behind."""

from collections import Counter
from pathlib import Path

from kinmass.gen.campaign.plan import Task
from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.storage import store

#: Snapshots above this size, with several galaxies, are indexed by one rank before the others read them.
INDEX_BYTES = 50_000_000


def mark_of(task: Task, galaxies_per_shard: int) -> str:
    """Name of a file in the store's .started that is there while a chunk is mapped, or its process was killed."""
    return f"{task.suite.name}.{task.index // galaxies_per_shard}"


def schedule(
    plan: list[Task], out: Path, galaxies_per_shard: int
) -> tuple[list[list[Task]], list[list[Task]], list[Task]]:
    """The galaxies to map, those to map after all others, and one of each snapshot to index first.

    Grouped by the chunk or shard they are written in, in the order in which they lie there. Big
    snapshots come first, so that no rank starts the longest one last. Whatever was in hand when a
    process was killed waits for all others, so that a galaxy that kills its process takes none
    along; half-written files are cleared.
    """
    shards: dict[tuple[str, int], list[Task]] = {}
    for task in plan:
        shards.setdefault((task.suite.name, task.index // galaxies_per_shard), []).append(task)
    todo = [[t for t in sorted(tasks, key=lambda t: t.index) if not t.kept] for tasks in shards.values()]
    todo = [tasks for tasks in todo if tasks]

    def mark(tasks: list[Task]) -> str:
        return mark_of(tasks[0], galaxies_per_shard)

    marks = {m.name for m in (out / ".started").iterdir()}
    for suite, chunk in shards:
        if f"{suite}.{chunk}" in marks:
            store.clear_unfinished(out, suite, chunk)
    for done in marks & ({f"{suite}.{chunk}" for suite, chunk in shards} - {mark(tasks) for tasks in todo}):
        (out / ".started" / done).unlink(missing_ok=True)  # it was killed after all was written
    bytes_of = {path: snapshot_bytes(t) for path, t in {t.snapshot: t for tasks in todo for t in tasks}.items()}

    def order(tasks: list[Task]) -> tuple[int, str, str, int, int]:
        particles = sum((t.halo.n_particles or t.halo.n_stars or 0) if t.halo else 0 for t in tasks)
        biggest = max((t.snapshot for t in tasks), key=lambda path: (bytes_of[path], str(path)))
        return -bytes_of[biggest], str(biggest), tasks[0].suite.name, -particles, tasks[0].index

    todo.sort(key=order)
    waiting = [t for tasks in todo for t in tasks]
    count = Counter(t.snapshot for t in waiting)
    first_of = {t.snapshot: t for t in reversed(waiting)}
    to_index = [t for path, t in first_of.items() if count[path] > 1 and bytes_of[path] > INDEX_BYTES]
    clean = [tasks for tasks in todo if mark(tasks) not in marks]
    return clean, [tasks for tasks in todo if mark(tasks) in marks], to_index


def snapshot_bytes(task: Task) -> int:
    """Size of a galaxy's snapshot, all its files together; 0 when it is not there."""
    try:
        return sum(part.stat().st_size for part in FORMATS[task.suite.format].files(task.snapshot))
    except (OSError, SnapshotError):
        return 0
