"""Who works on what: every item once, a snapshot's galaxies together, like work for nodes, readers within a cap."""

import itertools
import json
import threading

import numpy as np
import pytest
from conftest import command

from kinmass.gen.campaign.dealing import Shelf, deal


def shelf_of(runs):
    """A shelf in this process's memory, whose counters threads may share."""
    values, lock = np.zeros(Shelf.room(len(runs)), dtype=np.int64), threading.Lock()

    def add(i, n):
        with lock:
            old = int(values[i])
            values[i] += n
            return old

    return Shelf(runs, values, add)


@pytest.mark.parametrize("seed", range(5))
def test_every_item_is_dealt_once_and_nodes_have_like_work_for_each_rank(seed):
    rng = np.random.default_rng(seed)
    origins = ["box a"] * 400 + ["box b"] * 300 + [f"zoom {i}" for i in range(100)]
    costs = [*rng.uniform(0.5, 1.5, 700), *rng.pareto(2.0, 100)]
    sizes = rng.integers(1, 9, rng.integers(2, 6)).tolist()
    dealt = deal(origins, costs, sizes)
    items = [list(itertools.chain(*runs)) for runs in dealt]
    assert sorted(itertools.chain(*items)) == list(range(800))
    for run in itertools.chain(*dealt):
        assert len({origins[item] for item in run}) == 1
        assert run == sorted(run)
    load = np.array([sum(costs[i] for i in own) for own in items]) / sizes
    largest = max(max(costs), 0.25 * sum(costs) / len(sizes))
    assert load.max() - load.mean() <= largest / min(sizes)  # Graham's bound
    assert deal(origins, costs, sizes) == dealt


def test_ranks_stay_with_their_snapshot_and_every_item_is_handed_out_once():
    """Two boxes of many galaxies and ten zooms, four ranks in random order."""
    rng = np.random.default_rng(2)
    origins = ["box a"] * 40 + ["box b"] * 30 + [f"zoom {i}" for i in range(10)]
    (runs,) = deal(origins, [1.0] * 80, [4])
    shelf, at = shelf_of(runs), {rank: None for rank in range(4)}
    taken = {rank: [] for rank in range(4)}
    while True:
        rank = int(rng.integers(4))
        at[rank], item = shelf.take(at[rank])
        if item is None:
            break
        taken[rank].append(item)
    assert sorted(itertools.chain(*taken.values())) == list(range(80))
    assert len({origins[items[0]] for items in taken.values()}) == 4  # each begins with a snapshot of its own
    opened = [
        len([1 for a, b in itertools.pairwise([None, *(origins[i] for i in items)]) if a != b])
        for items in taken.values()
    ]
    assert sum(opened) <= 10 + 2 * 4  # nobody comes back to a snapshot


def test_one_rank_takes_items_in_order():
    (runs,) = deal(["a", "a", "b", "c", "b"], [1.0] * 5, [1])
    shelf, run, items = shelf_of(runs), None, []
    for _ in range(6):
        run, item = shelf.take(run)
        items.append(item)
    assert items == [0, 1, 2, 4, 3, None]


def test_ranks_that_take_at_the_same_time_take_every_item_once():
    runs = [list(range(k * 50, k * 50 + 50)) for k in range(20)]
    shelf, taken = shelf_of(runs), [[] for _ in range(8)]

    def work(own):
        run = None
        while True:
            run, item = shelf.take(run)
            if item is None:
                return
            own.append(item)

    threads = [threading.Thread(target=work, args=(own,)) for own in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain(*taken)) == list(range(1000))


#: Shares items out, twice for each case: items, ranks to a node, readers at most, whether the first node is slow.
SHARED = """
import json, sys, time
import mpi4py
folder, threads, works, cases = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
mpi4py.rc.thread_level = threads
from pathlib import Path
from kinmass.gen.campaign import parallel

folder, results, mine = Path(folder), {}, []

def work(item, reading):
    with reading():
        mark = folder / f"{parallel.rank()}"
        mark.touch()
        assert not readers or len(list(folder.iterdir())) <= readers, "too many readers"
        time.sleep(0.002)
        mark.unlink()
    time.sleep(0.2 if parallel.rank() < per_node and slow else 0.001)
    mine.append(item)
    return item * item

for n, per_node, readers, slow in [case for case in cases for _ in range(2)]:
    results.clear()
    mine.clear()
    parallel.share_out(range(n), work, lambda item, result: results.update({item: result}), readers,
                       [i % 7 for i in range(n)], ranks_per_node=per_node, rank_0_works=bool(works))
    counts = parallel.gather(len(mine))
    if parallel.rank() == 0:
        assert results == {i: i * i for i in range(n)}, results
        print(*counts)
"""


def shared_out(folder, *cases, threads="multiple", works=True):
    """Share items out over four ranks; how many each rank has worked on, twice for each of the cases of SHARED."""
    done = command("-c", SHARED, folder, threads, int(works), json.dumps(cases), ranks=4)
    counts = [[int(count) for count in line.split()] for line in done.stdout.splitlines()]
    assert [len(of_ranks) for of_ranks in counts] == [4] * 2 * len(cases)
    return counts


@pytest.mark.parametrize(("threads", "works"), [("multiple", True), ("multiple", False), ("funneled", True)])
def test_ranks_of_several_nodes_do_every_item_once_within_the_readers_cap(tmp_path, threads, works):
    caps = ((0, 0), (0, 1), (2, 2), (2, 1), (1, 0))  # ranks to a node, and readers
    for counts in shared_out(tmp_path, *((40, *cap, 0) for cap in caps), threads=threads, works=works):
        assert sum(counts) == 40
        assert (counts[0] > 0) == (threads == "multiple" and works)  # with one thread rank 0 only serves


def test_a_node_that_runs_dry_takes_over_from_a_slower_one(tmp_path):
    for counts in shared_out(tmp_path, (60, 2, 0, 1)):
        assert sum(counts[2:]) > 40, counts  # 30 were dealt to each node


def test_no_item_and_fewer_items_than_ranks(tmp_path):
    counts = shared_out(tmp_path, *((n, 2, 0, 0) for n in (0, 1, 3)))
    assert [sum(of_ranks) for of_ranks in counts] == [0, 0, 1, 1, 3, 3]


LATE = """
import time
from kinmass.gen.campaign import parallel

noted = {}

def work(item, reading):
    time.sleep(2.0 if item >= 20 else 0.01)

costs = [1.0] * 20 + [200.0] * 2
parallel.share_out(range(22), work, lambda item, result: noted.setdefault(item, time.monotonic()), costs=costs)
if parallel.rank() == 0:
    print(min(noted[20], noted[21]) - max(noted[item] for item in range(20)))
"""


def test_what_is_done_is_reported_before_what_takes_long():
    """Two ranks, a slow item for each at the end: what both have done before is with rank 0 while they work on it."""
    assert float(command("-c", LATE, ranks=2).stdout) > 0.5
