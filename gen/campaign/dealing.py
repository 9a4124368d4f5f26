"""Who works on what: items dealt to nodes by their cost, and taken by the ranks of a node from counters they share."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

#: Items of one origin that cost more than this share of a node's part of the work may be dealt to several nodes.
LARGEST_SHARE = 0.25


def deal(origins: Sequence[Hashable], costs: Sequence[float], node_sizes: Sequence[int]) -> list[list[list[int]]]:
    """Deal items to nodes of so many ranks; return the runs of each node, which are items of one origin in their order.

    Every item is dealt once. The costliest run goes first, to the node that has least to do for each of its ranks
    (Graham 1969). A node's runs keep the order of their first items.

    >>> deal(["box", "box", "zoom"], [1.0, 1.0, 5.0], [2])
    [[[0, 1], [2]]]
    >>> deal(["box", "box", "zoom"], [1.0, 1.0, 5.0], [1, 1])
    [[[2]], [[0, 1]]]
    """
    runs: dict[Hashable, list[int]] = {}
    for item, origin in enumerate(origins):
        runs.setdefault(origin, []).append(item)
    if len(node_sizes) == 1:
        return [list(runs.values())]
    largest = LARGEST_SHARE * sum(costs) / len(node_sizes)
    pieces = [piece for run in runs.values() for piece in _split(run, costs, largest)]
    cost_of = [sum(costs[item] for item in piece) for piece in pieces]
    dealt: list[list[list[int]]] = [[] for _ in node_sizes]
    load = np.zeros(len(node_sizes))
    sizes = np.maximum(np.array(node_sizes, dtype=float), 1e-9)
    for i in sorted(range(len(pieces)), key=lambda i: -cost_of[i]):
        node = int(np.argmin((load + cost_of[i]) / sizes))
        load[node] += cost_of[i]
        dealt[node].append(pieces[i])
    return [sorted(node_runs, key=lambda run: run[0]) for node_runs in dealt]


def _split(run: list[int], costs: Sequence[float], largest: float) -> list[list[int]]:
    """Cut a run into pieces that cost at most `largest`, but hold one item at least."""
    pieces: list[list[int]] = [[]]
    cost = 0.0
    for item in run:
        if pieces[-1] and cost + costs[item] > largest:
            pieces.append([])
            cost = 0.0
        pieces[-1].append(item)
        cost += costs[item]
    return pieces


class Shelf:
    """The runs of one node, from which its ranks take items without asking anybody.

    values are `room(len(runs))` integers, zero at first, in memory that all ranks of the node share; add(i, n) adds n
    to the i-th at once and returns what it was before.
    """

    def __init__(self, runs: list[list[int]], values: np.ndarray, add: Callable[[int, int], int]):
        self.runs, self._add = runs, add
        n = len(runs)
        self._lengths = np.array([len(run) for run in runs], dtype=np.int64)
        self._taken, self._ranks = values[1 : 1 + n], values[1 + n : 1 + 2 * n]

    @staticmethod
    def room(n_runs: int) -> int:
        """How many integers a shelf of so many runs needs: runs begun, items taken and ranks at work by run."""
        return 1 + 2 * n_runs

    def take(self, run: int | None) -> tuple[int | None, int | None]:
        """Take the next item for a rank that works on a run (None: on none).

        Returns its run and the item, or None twice when none is left. A rank stays with its run; then it begins one
        that nobody has begun; then it joins the ranks at that of which most is left for each of them.
        """
        n = len(self.runs)
        while True:
            if run is not None:
                place = self._add(1 + run, 1)
                if place < len(self.runs[run]):
                    return run, self.runs[run][place]
                self._add(1 + n + run, -1)
            run = self._add(0, 1)
            if run >= n:
                left = (self._lengths - self._taken).clip(0)
                if not left.any():
                    return None, None
                run = int(np.argmax(left / (1 + self._ranks)))
            self._add(1 + n + run, 1)
