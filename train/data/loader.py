"""Maps for training: read once by chunk and kept in memory, or streamed where they do not fit.

The processes of a node hold the maps once, in memory that they share; a GPU holds them where they fit. A store
larger than memory is read in windows of steps (`sampler.Lanes`), the next one in the background.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import zarr

from kinmass.gen.instrument import Instrument
from kinmass.gen.storage import store
from kinmass.train import distributed as ddp
from kinmass.train.allotted import free_memory
from kinmass.train.data.dataset import RADII_RE, REASONS, Views, concatenate, part_of, views_of, why_not
from kinmass.train.data.sampler import Lanes, Shuffle

#: Galaxies read at once.
BLOCK = 32


def default_memory_gb() -> float:
    """Half of what this machine, the job and its control group leave free [GB]."""
    return 0.5 * free_memory() / 1e9


@dataclass
class Galaxies:
    """Finished galaxies of some suites that belong to one part of the split.

    suite (G,) says which of `suites` each is of, number (G,) which galaxy of that suite.
    """

    path: Path
    suites: tuple[str, ...]
    groups: list[zarr.Group]
    names: list[np.ndarray]
    lineages: list[np.ndarray]
    suite: np.ndarray
    number: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one galaxy's maps: views, channels and pixels twice."""
        config = self.groups[0].attrs["config"]
        return config["views"], 8, config["pixels"], config["pixels"]

    @property
    def field_of_view_re(self) -> float:
        """Side of the maps [R_e]."""
        return float(self.groups[0].attrs["config"]["field_of_view_re"])

    def read(self, which: np.ndarray) -> Views:
        """All views of some of the galaxies; `which` must rise, and so do the views' galaxies."""
        parts = []
        for s in np.unique(self.suite[which]) if len(which) else [0]:
            n = self.number[which][self.suite[which] == s]
            parts.append(views_of(self.groups[s], self.suites[s], n, self.names[s][n], self.lineages[s][n]))
        return concatenate(parts)

    def places(self, which: np.ndarray) -> np.ndarray:
        """Numbers of the galaxies' views among all views of all these galaxies, as `read` orders them."""
        return (which[:, None] * self.shape[0] + np.arange(self.shape[0])).ravel()

    def id(self, place: int) -> str:
        """Name of a view, counted over all views of all these galaxies."""
        g, view = divmod(int(place), self.shape[0])
        return f"{self.suites[self.suite[g]]}/{self.names[self.suite[g]][self.number[g]]} view {view}"


def done_galaxies(path: Path, suites: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Per suite which galaxies are done (1) and which failed (2), as uint8. Raises StoreError where none is done."""
    status = {suite: store.read(store.open_suite(path, suite), "status") for suite in suites}
    for suite, of_suite in status.items():
        if not (of_suite == store.DONE).any():
            ready = [name for name, s in status.items() if (s == store.DONE).any()]
            raise store.StoreError(
                f"{path}: suite {suite} has no finished galaxy; run `kinmass maps` to its end"
                + (f", or choose --suites {','.join(ready)}" if ready else "")
            )
    return {suite: torch.from_numpy(s) for suite, s in status.items()}


def galaxies_of(path: Path, status: dict[str, torch.Tensor], part: str, most: int = 0) -> Galaxies:
    """The galaxies of a part of the split that were done when `status` was taken; of `most` lineages, 0 for all.

    Raises StoreError for suites whose maps differ in size.
    """
    suites = tuple(status)
    groups = [store.open_suite(path, suite) for suite in suites]
    shapes = [(g.attrs["config"]["views"], g["maps"].shape[2:], g.attrs["config"]["field_of_view_re"]) for g in groups]
    for suite, shape in zip(suites, shapes, strict=True):
        if shape != shapes[0]:
            raise store.StoreError(
                f"suites {suites[0]} and {suite} have maps of different size; map them with the same settings"
            )
    names, lineages = ([g[label][:] for g in groups] for label in ("galaxy", "lineage"))
    mine = []
    for of_suite, lineage in zip(status.values(), lineages, strict=True):
        done = np.flatnonzero(of_suite.numpy() == store.DONE)
        mine.append(done[[part_of(str(x)) == part for x in lineage[done]]] if len(done) else done)
    if most:
        all_lineages = {str(x) for lineage, m in zip(lineages, mine, strict=True) for x in lineage[m]}
        chosen = set(sorted(all_lineages, key=lambda name: blake2b(name.encode()).digest())[:most])
        mine = [
            m[np.array([str(x) in chosen for x in lineage[m]], dtype=bool)]
            for lineage, m in zip(lineages, mine, strict=True)
        ]
    which = np.repeat(np.arange(len(suites)), [len(m) for m in mine])
    return Galaxies(path, suites, groups, names, lineages, which, np.concatenate(mine))


@dataclass
class Table:
    """What is known of the usable views without their maps.

    place (N,) numbers a view among all views of all galaxies, rising; half_mass_radius_kpc (N,), log10_menc
    (N, K) [Msun], log10_unit (N,) of the mass unit. left_out: per reason how many views, and the first places.
    """

    place: np.ndarray
    half_mass_radius_kpc: torch.Tensor
    log10_menc: torch.Tensor
    log10_unit: torch.Tensor
    left_out: dict[str, tuple[int, list[int]]]

    def __len__(self) -> int:
        return len(self.place)


@dataclass(frozen=True)
class Wanted:
    """Which views are wanted, and how they are seen. units gives (N,) log10 mass units [Msun] of observed maps."""

    tracer: str
    look: Instrument
    views: int  # of a galaxy at most, 0 for all
    units: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def survey(galaxies: Galaxies, wanted: Wanted, crew: ddp.Crew, keep: torch.Tensor | None) -> Table:
    """Look once at every wanted view of all galaxies; the crew's processes share the work.

    keep (G V, 8, P, P) takes the maps of usable views in, each at its place.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for first in range(BLOCK * crew.rank, len(galaxies), BLOCK * crew.size):
        which = np.arange(first, min(first + BLOCK, len(galaxies)))
        v, place = galaxies.read(which), galaxies.places(which)
        if wanted.views:
            v, place = v[v.view < wanted.views], place[v.view < wanted.views]
        why = why_not(v, wanted.tracer, wanted.look)
        good = np.flatnonzero(why == 0)
        unit = np.zeros(len(v), dtype=np.float32)
        if len(good):
            some = v[good]
            unit[good] = wanted.units(some.observed(wanted.look, False), some.half_mass_radius_kpc).numpy()
            if keep is not None:
                keep[place[good]] = some.maps
        found.append((place, why, v.half_mass_radius_kpc.numpy(), v.log10_menc.numpy(), unit))
    empty = (np.zeros(0, int), np.zeros(0, np.int8), *(np.zeros(s, np.float32) for s in (0, (0, len(RADII_RE)), 0)))
    mine = tuple(np.concatenate(x) for x in zip(empty, *found, strict=True))
    joined = [np.concatenate(x) for x in zip(*ddp.gather(mine, crew), strict=True)]
    order = np.argsort(joined[0])
    place, why, r_e, menc, unit = (x[order] for x in joined)
    left_out = {
        REASONS[k]: (int((why == k).sum()), place[why == k][:3].tolist())
        for k in range(1, len(REASONS))
        if (why == k).any()
    }
    good = np.flatnonzero(why == 0)
    known = [torch.from_numpy(x[good]) for x in (r_e, menc, unit)]
    return Table(place[good], known[0], known[1], known[2], left_out)


class Loader:
    """A batch's maps for every step, this process's share of them; `table` and `galaxies` say what there is."""

    def __init__(self, galaxies: Galaxies, table: Table, batch: int, device: torch.device):
        self.galaxies, self.table, self.device = galaxies, table, device
        self._mine = slice(ddp.rank(), batch, ddp.world_size())

    def next(self, step: int) -> tuple[np.ndarray, torch.Tensor]:
        """The batch's views (batch,), numbers in the table, and the maps of this process's (n, 8, P, P)."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of threads."""


class Held(Loader):
    """Maps kept in memory: this machine's, or the GPU's where they take less than half of what is free there."""

    def __init__(
        self, galaxies: Galaxies, table: Table, batch: int, seed: int, device: torch.device, maps: torch.Tensor
    ):
        super().__init__(galaxies, table, batch, device)
        self._order = Shuffle(len(table), batch, seed)
        self._maps, self._at = maps, torch.from_numpy(table.place)
        if device.type == "cuda" and 4 * len(table) * maps[0].numel() < 0.5 * torch.cuda.mem_get_info(device)[0]:
            parts = [maps[p].to(device) for p in self._at.split(4096)]
            self._maps, self._at = torch.cat(parts), torch.arange(len(table))

    def next(self, step: int) -> tuple[np.ndarray, torch.Tensor]:
        """As in Loader."""
        rows = self._order.rows(step)
        at = self._at[torch.from_numpy(rows[self._mine])]
        if self._maps.device.type == "cuda":
            return rows, self._maps[at.pin_memory().to(self.device, non_blocking=True)]
        return rows, _to(self._maps[at], self.device)


class Streamed(Loader):
    """Maps read window by window, the next one in the background."""

    def __init__(self, galaxies: Galaxies, table: Table, batch: int, seed: int, device: torch.device, window: int):
        super().__init__(galaxies, table, batch, device)
        self._lanes = Lanes(table.place // galaxies.shape[0], batch, seed, window)
        self._reader = ThreadPoolExecutor(1, "maps")
        self._ahead: dict[int, Future[tuple[np.ndarray, torch.Tensor]]] = {}
        self._number, self._window = -1, (np.zeros(0), torch.zeros(0))

    def _read(self, number: int) -> tuple[np.ndarray, torch.Tensor]:
        """The views (steps, batch) of a window, and the maps (steps, n, 8, P, P) of this process's."""
        rows = self._lanes.rows(number)
        mine = rows[:, self._mine]
        views = self.galaxies.shape[0]
        wanted, inverse = np.unique(self.table.place[mine.ravel()], return_inverse=True)
        maps = torch.empty(len(inverse), *self.galaxies.shape[1:])
        back = np.argsort(inverse, kind="stable")  # where the wanted ones go, one after another
        sorted_inverse = inverse[back]
        chosen = np.unique(wanted // views)
        for first in range(0, len(chosen), BLOCK):
            which = chosen[first : first + BLOCK]
            begin, end = np.searchsorted(wanted // views, [which[0], which[-1] + 1])
            here = slice(*np.searchsorted(sorted_inverse, [begin, end]))
            places = wanted[sorted_inverse[here]]
            from_read = np.searchsorted(which, places // views) * views + places % views
            maps[torch.from_numpy(back[here])] = self.galaxies.read(which).maps[torch.from_numpy(from_read)]
        return rows, maps.reshape(*mine.shape, *self.galaxies.shape[1:])

    def next(self, step: int) -> tuple[np.ndarray, torch.Tensor]:
        """As in Loader. Steps are to follow each other."""
        number, within = self._lanes.at(step)
        if number != self._number:
            self._window = (np.zeros(0), torch.zeros(0))
            waiting = self._ahead.pop(number, None) or self._reader.submit(self._read, number)
            self._number, self._window = number, waiting.result()
            self._ahead = {number + 1: self._reader.submit(self._read, number + 1)}
        rows, maps = self._window
        return rows[within], _to(maps[within], self.device)

    def close(self) -> None:
        """Wait for the reader."""
        self._reader.shutdown(cancel_futures=True)


def _to(maps: torch.Tensor, device: torch.device) -> torch.Tensor:
    return maps.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else maps


def window_for(galaxies: Galaxies, memory_gb: float, batch: int) -> int:
    """0 where all maps fit into the memory of a node; else how many steps a window has, of which two are held."""
    size = 4 * int(np.prod(galaxies.shape))
    if size * len(galaxies) <= memory_gb * 1e9:
        return 0
    return max(1, int(memory_gb * 1e9 / (2.5 * batch * size / galaxies.shape[0])))


def open_loader(galaxies: Galaxies, wanted: Wanted, batch: int, seed: int, window: int, device: torch.device) -> Loader:
    """All that is usable, kept in memory (window 0) or streamed. Every process has to call it.

    Raises StoreError when nothing is usable.
    """
    crew, maps = ddp.everyone(), None
    if not window:
        crew = ddp.neighbours()
        shape = (len(galaxies) * galaxies.shape[0], *galaxies.shape[1:])
        maps = ddp.node_memory(shape, crew)
        if maps is None:
            crew, maps = ddp.Crew(0, 1), torch.zeros(shape)
    table = survey(galaxies, wanted, crew, maps)
    ddp.gather(0)  # all have filled the memory they share
    if not len(table):
        why = "; ".join(f"{n} with {reason}" for reason, (n, _) in table.left_out.items())
        raise store.StoreError(
            f"{galaxies.path}: no finished galaxy with usable {wanted.tracer} maps to train on in "
            f"{', '.join(galaxies.suites)} ({why or 'none in this part of the split'}); map more galaxies"
        )
    if maps is None:
        return Streamed(galaxies, table, batch, seed, device, window)
    return Held(galaxies, table, batch, seed, device, maps)


def validation_views(
    galaxies: Galaxies, tracer: str, look: Instrument, memory_gb: float
) -> tuple[Views, torch.Tensor, np.ndarray]:
    """This process's share of the usable views, seen with their fixed noise (N, 8, Q, Q), and their places (N,).

    Of galaxies whose views would take more than memory_gb, every second, third, ... one.
    """
    size = 4e-9 * int(np.prod(galaxies.shape)) * len(galaxies)
    kept = np.arange(0, len(galaxies), max(1, int(np.ceil(size / memory_gb))))[ddp.rank() :: ddp.world_size()]
    parts, seen, places = [], [], []
    for first in range(0, len(kept), BLOCK):
        which = kept[first : first + BLOCK]
        v = galaxies.read(which)
        good = np.flatnonzero(why_not(v, tracer, look) == 0)
        if len(good):
            parts.append(v[good])
            seen.append(parts[-1].observed(look))
            parts[-1].maps = parts[-1].maps[:, :, :0]  # seen, and not needed again
            places.append(galaxies.places(which)[good])
    if not sum(ddp.gather(len(parts))):
        raise store.StoreError(
            f"{galaxies.path}: no finished galaxy with usable {tracer} maps to validate on in "
            f"{', '.join(galaxies.suites)}; map more galaxies"
        )
    if not parts:
        none = galaxies.read(kept[:0])
        return none, none.observed(look, False), kept[:0]
    return concatenate(parts), torch.cat(seen), np.concatenate(places)
