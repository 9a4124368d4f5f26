"""Foretells how long a campaign takes on more ranks, from a few of its galaxies that are mapped now."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kinmass.gen.campaign.plan import Task
from kinmass.gen.campaign.record import Settings
from kinmass.gen.campaign.timing import WORK, Clock, bytes_read
from kinmass.gen.campaign.worker import Worker, load
from kinmass.gen.storage import suite_group

#: Galaxies of each suite that are mapped for a probe, after one more that is not counted: first calls are slower.
PROBED = 5
#: Ranks are worth their while as long as a run keeps this share of the speed that so many single ranks would have.
WORTHWHILE = 0.8


@dataclass(frozen=True)
class Load:
    """What is to be done of one suite: its galaxies and snapshots, and seconds of one galaxy and of one opening.

    fetch_s are those of a galaxy's seconds in which a rank holds a place among the readers, write_s those in which it
    writes; n_bytes are read for one. per_shard: how many galaxies one rank takes at once.
    """

    galaxies: int
    snapshots: int
    galaxy_s: float
    fetch_s: float
    open_s: float
    write_s: float = 0.0
    n_bytes: float = 0.0
    per_shard: int = 1

    @property
    def shard_s(self) -> float:
        """Seconds of what one rank takes at once, with the snapshots that it opens for that."""
        return self.per_shard * self.galaxy_s + max(self.per_shard * self.snapshots / self.galaxies, 1) * self.open_s


@dataclass(frozen=True)
class Foretold:
    """Seconds of a run on so many ranks, a core for each: before mapping, mapping, and the share of ideal speed."""

    ranks: int
    before_s: float
    mapping_s: float
    efficiency: float

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return self.before_s + self.mapping_s


def probe(tasks: Sequence[Task], out: Path, settings: Settings) -> list[Load]:
    """Map a few galaxies of each suite that are not done, beside the store `out`, and time them.

    Where the blocks of big snapshots lie is kept in the store, where the run finds it. Raises StoreError, OSError.
    """
    load()
    loads = []
    for name in dict.fromkeys(task.suite.name for task in tasks):
        todo = [task for task in tasks if task.suite.name == name and not task.is_done and task.halo is not None]
        if todo:
            loads.append(_timed(_chosen(todo), todo, out, settings))
    return loads


def _chosen(todo: list[Task]) -> list[Task]:
    """Choose galaxies from all over a suite: single ones, or of two snapshots PROBED / 2, where these hold several.

    One of another snapshot comes first, if there is one.
    """
    by_snapshot: dict[Path, list[Task]] = {}
    for task in todo:
        by_snapshot.setdefault(task.snapshot, []).append(task)
    groups = list(by_snapshot.values())
    each = 1 if len(todo) < 2 * len(groups) else -(-PROBED // 2)
    n_groups = -(-PROBED // each)
    step = max(1, len(groups) // (n_groups + 1))
    first, *others = groups[::step][: n_groups + 1]
    return [*first[:1], *(task for group in others or [first[1:]] for task in group[:each])]


def _timed(chosen: list[Task], todo: list[Task], out: Path, settings: Settings) -> Load:
    settings = replace(settings, galaxies_per_shard=1)
    costs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=out) as scratch:
        aside = Path(scratch)
        (out / ".indexes").mkdir(exist_ok=True)
        (aside / ".indexes").symlink_to((out / ".indexes").resolve())
        (aside / ".started").mkdir()
        names = [task.name for task in chosen]
        suite_group.create_suite(aside, chosen[0].suite.name, names, names, asdict(settings) | {"suite": {}})
        clock = Clock()
        with closing(Worker(aside, settings, clock)) as worker:
            for i, task in enumerate(chosen):
                before, bytes_before = dict(clock.seconds), bytes_read()
                worker.alone([replace(task, index=i, chunk=i)], nullcontext)
                costs.append({stage: clock.seconds[stage] - before[stage] for stage in WORK})
                costs[-1]["bytes"] = bytes_read() - bytes_before
    counted = list(zip(chosen, costs, strict=True))[1:] or [(chosen[0], costs[0])]
    opening = [cost for _, cost in counted if cost["opening"]]
    # A snapshot that is read whole is read with its first galaxy: that belongs to its opening.
    later = [cost for _, cost in counted if not cost["opening"]] or opening
    galaxy_s = _mean(later, *(stage for stage in WORK if stage != "opening"))
    open_s = max(_mean(opening, *WORK) - galaxy_s, 0.0) if opening else 0.0
    return Load(
        len(todo), len({task.snapshot for task in todo}), galaxy_s, _mean(later, "fetching"), open_s,
        _mean(later, "writing"), _mean(later, "bytes"), max(Counter(task.chunk for task in todo).values()),
    )  # fmt: skip


def _mean(costs: list[dict[str, float]], *keys: str) -> float:
    return sum(cost[key] for cost in costs for key in keys) / len(costs)


def foretell(loads: Sequence[Load], ranks: int, readers: int, start_s: float, listing_s: float) -> Foretold:
    """Foretell a run on so many ranks, each with a core of its own.

    Before mapping every rank starts and the listing is shared out. Mapping ends when all work is done, half of the
    costliest galaxy or shard after the mean, not before one rank has mapped that, and not before the bytes have come
    through the readers' places.
    """

    def mapping_s(ranks: int) -> float:
        """Return the seconds in which so many ranks map all galaxies."""
        opened = [max(load.snapshots, min(ranks, -(-load.galaxies // load.per_shard))) for load in loads]
        work_s = sum(n * load.open_s + load.galaxies * load.galaxy_s for n, load in zip(opened, loads, strict=True))
        fetch_s = sum(load.galaxies * load.fetch_s for load in loads) / min(ranks, readers)
        longest_s = max((load.shard_s for load in loads), default=0.0)
        return max(max(work_s / ranks, fetch_s) + 0.5 * longest_s * (ranks > 1), longest_s)

    before_s = start_s + listing_s / ranks
    alone_s = start_s + listing_s + mapping_s(1)
    return Foretold(ranks, before_s, mapping_s(ranks), alone_s / ranks / (before_s + mapping_s(ranks)))


def told(loads: Sequence[Load], ranks: int, readers: int, start_s: float, listing_s: float) -> str:
    """Say for 1, 2, 4 and so on up to `ranks` how long a run takes, and how many of them are worth their while."""
    if not loads:
        return "nothing is left to map, so nothing to foretell"
    numbers = sorted({*(2**k for k in range(ranks.bit_length())), ranks})
    rows = [foretell(loads, n, readers, start_s, listing_s) for n in numbers]
    lines = [f"{'ranks':>7} {'start, listing':>15} {'mapping':>10} {'galaxies/s':>11} {'efficiency':>11}"]
    n_galaxies = sum(load.galaxies for load in loads)
    for row in rows:
        rate = n_galaxies / max(row.seconds, 1e-9)
        lines.append(
            f"{row.ranks:7,d} {row.before_s:13.1f} s {row.mapping_s:8.1f} s {rate:11.1f} {row.efficiency:11.2f}"
        )
    worthwhile = max(row.ranks for row in rows if row.efficiency >= WORTHWHILE or row.ranks == 1)
    lines.append(
        f"foretold from at most {PROBED} galaxies of each suite, a core for each rank: "
        f"{worthwhile:,d} {'rank is worth its' if worthwhile == 1 else 'ranks are worth their'} while"
    )
    return "\n".join(lines)
