"""Galaxies to map as columns: ranks send each other a hundred thousand of them in a tenth of the time of objects."""

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any, overload

import numpy as np

from kinmass.gen.campaign.plan import Task
from kinmass.gen.catalogues.base import packed, unpacked


class Batches(Sequence[list[Task]]):
    """Batches of galaxies, each of which is written by one rank; a batch's tasks are made when it is asked for.

    costs: what each batch costs beside others. origins: a number for each batch, the same for those of one suite whose
    first galaxies lie in one snapshot.
    """

    def __init__(self, batches: Sequence[list[Task]], costs: Sequence[float] | None = None):
        tasks = [task for batch in batches for task in batch]
        self.costs = [1.0] * len(batches) if costs is None else list(costs)
        self._ends = [0, *accumulate(map(len, batches))]
        suites = {id(task.suite): task.suite for task in tasks}
        self._suites = list(suites.values())
        numbers = {key: i for i, key in enumerate(suites)}
        files: dict[Any, int] = {}
        file_of: list[int] = []
        for key, run in groupby(tasks, lambda task: (numbers[id(task.suite)], task.snapshot, task.snapshot_bytes)):
            file_of += [files.setdefault(key, len(files))] * len(list(run))
        self._files = list(files)
        self._file = np.array(file_of, dtype=np.int64)
        self._names = [task.name for task in tasks]
        self._index = np.array([task.index for task in tasks], dtype=np.int64)
        self._chunk = np.array([task.chunk for task in tasks], dtype=np.int64)
        self._is_done = np.array([task.is_done for task in tasks], dtype=bool)
        self._problems = {i: task.problem for i, task in enumerate(tasks) if task.problem}
        self._haloes: dict[str, Any] = {**packed([task.halo for task in tasks])}
        if all(centre is not None for centre in self._haloes.get("centre_kpc", [None])):
            self._haloes["centre_kpc"] = np.array(self._haloes["centre_kpc"])  # sent at once, not list by list
        self.origins = [file_of[first] for first in self._ends[:-1]]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> list[Task]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[Task]]: ...
    def __getitem__(self, number: int | slice) -> list[Task] | list[list[Task]]:
        """Make the tasks of one batch, or of several."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return [self._task(row) for row in range(self._ends[number], self._ends[number + 1])]

    @property
    def suite_names(self) -> list[str]:
        """Names of the suites of all batches, sorted."""
        return sorted({suite.name for suite in self._suites})

    def _task(self, row: int) -> Task:
        suite, snapshot, n_bytes = self._files[self._file[row]]
        halo, problem = unpacked(self._haloes, row), self._problems.get(row, "")
        index, chunk, is_done = int(self._index[row]), int(self._chunk[row]), bool(self._is_done[row])
        return Task(self._suites[suite], index, self._names[row], snapshot, halo, problem, is_done, chunk, n_bytes)
