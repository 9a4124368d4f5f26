"""What a store's galaxies can be sorted and filtered by, read block by block behind the page and never all at first.

A galaxy's maps are not read for it, unless all are to be checked. Errors and out-of-distribution scores are those that
`kinmass tables` has kept, where they are of the present maps, runs and code; others are not read.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from kinmass.eval.gallery.scores import Scores, scores_of
from kinmass.eval.gallery.stored import REPAIR
from kinmass.eval.tables.predictions import BLOCK, Damaged, KeptPredictions, Part, Source, kept_of, tokens
from kinmass.gen.storage import store
from kinmass.gen.storage.chunks import chunk_file, galaxies_per_file
from kinmass.gen.storage.galaxy_reader import THREADS, GalaxyReader, read_galaxies

#: State of a galaxy here, beside those of the store: not read yet.
UNREAD = 250
STATES = {store.DONE: "mapped", store.FAILED: "failed", store.PENDING: "pending", store.DAMAGED: "damaged",
          UNREAD: "unread"}  # fmt: skip
#: Pause between two looks at a store that may be growing [s]; longer where a look itself takes long.
PAUSE_S = 15.0
#: What galaxies can be sorted by, in words; `order` is that of the store.
SORTS = {"order": "suite and number", "mass": "stellar mass", "size": "half-mass radius", "error": "error",
         "worst": "worst view's error", "ood": "out-of-distribution score"}  # fmt: skip


@dataclass
class SuiteIndex:
    """The galaxies of one suite: arrays (G,), NaN where not known yet.

    mass: log10 of the stellar mass inside the aperture [Msun]; size: R_e of view 0 [kpc]. scores: by source.
    problems: why a galaxy is damaged, by number. is_whole: whether a galaxy's maps were read and are not damaged.
    stale_blocks: by source, part and start, galaxies whose kept predictions are not of these maps, this run and this
    code.
    """

    suite: str
    group: zarr.Group
    names: np.ndarray
    signature: str
    state: np.ndarray = field(init=False)
    mass: np.ndarray = field(init=False)
    size: np.ndarray = field(init=False)
    has_gas: np.ndarray = field(init=False)
    is_whole: np.ndarray = field(init=False)
    scores: dict[int, Scores] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    seen_tokens: dict[tuple[int, str, int], int] = field(default_factory=dict)
    stale_blocks: dict[tuple[int, str, int], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.names)
        self.state, self.has_gas = np.full(n, UNREAD, np.uint8), np.ones(n, bool)
        self.mass, self.size = np.full(n, np.nan), np.full(n, np.nan)
        self.is_whole = np.zeros(n, bool)

    def read(self, block: slice) -> None:
        """Read status, mass and size of a block of galaxies that are not known to be done or damaged.

        A run that repairs the suite notes so in its attributes, and the suite is read anew.
        """
        numbers = np.arange(len(self.names))[block]
        numbers = numbers[~np.isin(self.state[numbers], (store.DONE, store.DAMAGED))]
        if not len(numbers):
            return
        status = self._statuses(numbers)
        done = numbers[status == store.DONE]
        try:
            self._take(done)
        except store.StoreError:
            for number in done:
                try:
                    self._take(np.array([number]))
                except store.StoreError as error:
                    self.damaged(int(number), str(error))
        for number, value in zip(numbers, status, strict=True):
            if value != store.DONE and self.state[number] != store.DAMAGED:
                self.state[number] = value

    def _statuses(self, numbers: np.ndarray) -> np.ndarray:
        """Status (N,) of galaxies; those whose chunk or shard was never written are pending, and cost no read."""
        status = np.full(len(numbers), store.PENDING, np.uint8)
        array: zarr.Array[Any] = self.group["status"]  # type: ignore[assignment]
        chunks = numbers // galaxies_per_file(array)
        written = [chunk for chunk in np.unique(chunks) if chunk_file(array, (chunk,)).exists()]
        reader = GalaxyReader(self.group, "status")
        for i in np.flatnonzero(np.isin(chunks, written)):
            try:
                reader.read_into(int(numbers[i]), status[i, ...])
            except store.StoreError as error:
                self.damaged(int(numbers[i]), str(error))
        return status

    def _take(self, numbers: np.ndarray) -> None:
        """Take in galaxies that are done. Raises StoreError where one cannot be read."""
        mass, r_e, has_gas = read_galaxies(self.group, ("mass", "half_mass_radius", "has_gas"), numbers)
        with np.errstate(divide="ignore"):
            self.mass[numbers] = np.log10(mass[:, store.COMPONENTS.index("stars"), -1])
        self.size[numbers], self.has_gas[numbers] = r_e[:, 0], has_gas.astype(bool)
        self.state[numbers] = store.DONE
        for number in numbers[np.isnan(self.mass[numbers])]:
            self.damaged(int(number), f"mass of galaxy {self.names[number]} was never written; {REPAIR}")

    def check(self, numbers: np.ndarray) -> None:
        """Read everything of these galaxies, which are done: they are whole or damaged then, as `--repair` has it."""
        names = [name for name in store.ARRAYS if name != "status"]
        try:
            arrays = read_galaxies(self.group, names, numbers)
        except store.StoreError as error:
            if len(numbers) == 1:
                self.damaged(int(numbers[0]), str(error))
                return
            for number in numbers:
                self.check(np.array([number]))
            return
        self.is_whole[numbers] = True
        record, config = dict(zip(names, arrays, strict=True)), self.group.attrs["config"]
        fit = store.scales_fit(record["pixel_scale"], record["half_mass_radius"], config).reshape(len(numbers), -1)
        for number in numbers[~fit.all(1)]:
            problem = f"pixel_scale of galaxy {self.names[number]} is not that of its R_e, as of a copy broken off"
            self.damaged(int(number), f"{problem}; {REPAIR}")
        for name, array in zip(names, arrays, strict=True):
            for number in numbers[store.empty_rows(name, array)]:
                self.damaged(int(number), f"{name} of galaxy {self.names[number]} was never written; {REPAIR}")

    def damaged(self, number: int, problem: str) -> None:
        """Note that a galaxy's arrays cannot be read."""
        self.problems[number], self.state[number], self.is_whole[number] = problem, store.DAMAGED, False
        self.mass[number] = self.size[number] = np.nan


class Index:
    """All galaxies of a store. `start` reads on behind the caller; `ensure` reads some of them at once.

    sources: networks whose kept predictions are looked for. check: whether to read every map, too, to find damage;
    otherwise it is found where a galaxy is looked at.
    """

    def __init__(self, path: Path, sources: Sequence[Source] = (), check: bool = False):
        self.path, self.sources, self.check = path, list(sources), check
        self.suites: dict[str, SuiteIndex] = {}
        self.trouble = ""
        self._stop = threading.Event()
        self.refresh()

    def refresh(self) -> None:
        """Take in suites that are new or that a run has changed, forget those that are gone. Raises StoreError."""
        for suite in store.suites(self.path):
            group = store.open_suite(self.path, suite)
            signature = json.dumps([dict(group.attrs), group["galaxy"].shape], sort_keys=True)
            known = self.suites.get(suite)
            if known is None or known.signature != signature:
                self.suites[suite] = SuiteIndex(
                    suite, group, store.read_labels(group, "galaxy").astype(object), signature
                )
        for suite in set(self.suites) - set(store.suites(self.path)):
            del self.suites[suite]

    def start(self) -> threading.Thread:
        """Read everything in a thread, and again what was not done, until `stop`."""
        thread = threading.Thread(target=self._run, name="index", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """End the thread after its present block."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.refresh()
                self.read_all()
                self.trouble = ""
                pause_s = max(PAUSE_S, 10 * (time.monotonic() - began))
                if self.check and self.check_some(pause_s):
                    continue
            except (OSError, ValueError) as error:  # a store that is just being changed; the next look may succeed
                self.trouble, pause_s = str(error), PAUSE_S
            self._stop.wait(pause_s)

    def read_all(self) -> None:
        """Look once at every block of every suite."""
        for table in list(self.suites.values()):
            for start in range(0, len(table.names), BLOCK):
                if self._stop.is_set():
                    return
                table.read(slice(start, start + BLOCK))
            for number, source in enumerate(self.sources):
                for part in (Part(self.path.absolute(), table.suite, name) for name in ("test", None)):
                    kept = kept_of(source, part)
                    if kept is not None:
                        self._read_kept(table, number, kept)

    def check_some(self, seconds: float = np.inf) -> bool:
        """Read everything of galaxies that are done and were not looked at, for so long; return whether there were any.

        Raises OSError where the disk fails.
        """
        until, any_checked = time.monotonic() + seconds, False
        for table in list(self.suites.values()):
            numbers = np.flatnonzero((table.state == store.DONE) & ~table.is_whole)
            for start in range(0, len(numbers), THREADS):
                if self._stop.is_set() or time.monotonic() > until:
                    return any_checked
                table.check(numbers[start : start + THREADS])
                any_checked = True
        return any_checked

    def n_whole(self) -> int:
        """Number of galaxies whose maps were read and are whole."""
        return sum(int(table.is_whole.sum()) for table in self.suites.values())

    def _read_kept(self, table: SuiteIndex, source: int, kept: KeptPredictions) -> None:
        """Take in what is kept of a part's galaxies, blocks whose token was not seen yet."""
        part = kept.part
        scores = table.scores.setdefault(source, Scores.unknown(len(table.names), part.views))
        for block in part.blocks():
            if self._stop.is_set():
                return
            key, token = (source, str(part.part), block.start), kept.kept_token(block)
            if not token or table.seen_tokens.get(key) == token:
                continue
            table.seen_tokens[key] = token
            numbers = part.names[0][block]
            if token != tokens([kept.source], part, block)[0]:
                table.stale_blocks[key] = numbers
                continue
            try:
                summary = kept.read_summary(block)
            except Damaged:  # `kinmass tables` makes it again, as what is old
                table.stale_blocks[key] = numbers
                continue
            table.stale_blocks.pop(key, None)
            scores.take_in(numbers, scores_of(summary, part.views))

    def ensure(self, places: Sequence[tuple[str, int]]) -> None:
        """Read the galaxies at these (suite, number), where they are not read yet."""
        for suite, start in dict.fromkeys((suite, number // BLOCK * BLOCK) for suite, number in places):
            table = self.suites[suite]
            block = slice(start, start + BLOCK)
            if (table.state[block] == UNREAD).any():
                table.read(block)

    def columns(self, source: int) -> dict[str, np.ndarray]:
        """Return what is known of all galaxies, arrays (G,).

        They are suite, number, name, state, mass, size and has_gas, and of Scores error, ood, worst, worst_view,
        strangest and strangest_view.
        """
        tables = [self.suites[suite] for suite in sorted(self.suites)]
        scores = [t.scores.get(source) or Scores.unknown(len(t.names), 1) for t in tables]

        def joined(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
            """Return the arrays of all suites as one."""
            return np.concatenate([np.empty(0, dtype), *parts])

        return {
            "suite": joined([np.full(len(t.names), t.suite, object) for t in tables], object),
            "number": joined([np.arange(len(t.names)) for t in tables], int),
            "name": joined([t.names for t in tables], object),
            "state": joined([t.state for t in tables], np.uint8),
            "mass": joined([t.mass for t in tables], float),
            "size": joined([t.size for t in tables], float),
            "has_gas": joined([t.has_gas for t in tables], bool),
            **{
                key: joined([getattr(s, key) for s in scores], int if key.endswith("view") else float)
                for key in ("error", "ood", "worst", "worst_view", "strangest", "strangest_view")
            },
        }  # fmt: skip

    def n_stale(self, source: int) -> int:
        """Number of galaxies whose kept predictions are of other maps, runs or code."""
        stale = ([n for key, n in t.stale_blocks.items() if key[0] == source] for t in self.suites.values())
        return sum(len(np.unique(np.concatenate(numbers))) for numbers in stale if numbers)


def chosen(columns: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> np.ndarray:
    """Return the rows of `columns` that pass the filters in `wanted`, in its order; unknown values come last.

    wanted: suite, state and name (a part of it), "" for all; mass_min, mass_max, error_min, ood_min, or None; sort, one
    of SORTS; descending. Rows that are equal stay in the order of the store.
    """
    passes = np.ones(len(columns["number"]), bool)
    if wanted["suite"]:
        passes &= columns["suite"] == wanted["suite"]
    if wanted["state"]:
        passes &= columns["state"] == next(k for k, word in STATES.items() if word == wanted["state"])
    if wanted["name"]:
        part = wanted["name"].lower()
        passes &= np.array([part in str(name).lower() for name in columns["name"]], dtype=bool)
    for key, limit in (("mass", wanted["mass_min"]), ("error", wanted["error_min"]), ("ood", wanted["ood_min"])):
        if limit is not None:
            passes &= columns[key] >= limit
    if wanted["mass_max"] is not None:
        passes &= columns["mass"] <= wanted["mass_max"]
    rows = np.flatnonzero(passes)
    if wanted["sort"] == "order":
        return rows[::-1] if wanted["descending"] else rows
    values = columns[wanted["sort"]][rows]
    order = np.argsort(-values if wanted["descending"] else values, kind="stable")  # NaN is sorted last either way
    return rows[order]
