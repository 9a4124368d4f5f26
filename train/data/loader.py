"""Loads maps for training: read once and kept in memory, or streamed where they do not fit.

The processes of a node hold one copy of the maps, in memory that they share; a GPU holds them where they fit. A store
larger than memory is read in windows of steps (`sampler.Lanes`), the next window in the background.
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

from kinmass.gen.instruments.model import Instrument
from kinmass.gen.instruments.observe import CHANNELS, CHANNELS_TOLD
from kinmass.gen.physics.sightline import within
from kinmass.gen.storage import store
from kinmass.gen.storage.galaxy_reader import THREADS, GalaxyReader
from kinmass.train import distributed as ddp
from kinmass.train.allotted import free_memory
from kinmass.train.data.dataset import RADII_RE, REASONS, Views, concatenate, part_of, views_of, why_not
from kinmass.train.data.sampler import Lanes, Shuffle
from kinmass.train.model.scaling import has_motion, tracer_words, tracers_of

#: Galaxies that are read at once.
BLOCK = 32


def default_memory_gb() -> float:
    """Return half of the memory [GB] that this machine, the job and its control group leave free."""
    return 0.5 * free_memory() / 1e9


@dataclass
class Galaxies:
    """Finished galaxies of some suites that belong to one part of the split.

    suite (G,) is each galaxy's place in `suites`, number (G,) its number in that suite of the store. names and lineages
    are of all galaxies of each suite, groups the suites' open Zarr groups.
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
        """Shape (V, 8, P, P) of one galaxy's maps: V views, P pixels along a side."""
        config = self.groups[0].attrs["config"]
        return config["views"], 8, config["pixels"], config["pixels"]

    @property
    def field_of_view_re(self) -> float:
        """Side of the maps [R_e]."""
        return float(self.groups[0].attrs["config"]["field_of_view_re"])

    def read(self, galaxy_rows: np.ndarray) -> Views:
        """Read all views of the galaxies in `galaxy_rows`, which must rise; the views come in the same order."""
        parts = []
        for suite_number in np.unique(self.suite[galaxy_rows]) if len(galaxy_rows) else [0]:
            numbers = self.number[galaxy_rows][self.suite[galaxy_rows] == suite_number]
            parts.append(
                views_of(
                    self.groups[suite_number],
                    self.suites[suite_number],
                    numbers,
                    self.names[suite_number][numbers],
                    self.lineages[suite_number][numbers],
                )
            )
        return concatenate(parts)

    def lineage_keys(self) -> list[str]:
        """Return the `lineage_key` of each lineage, sorted."""
        places = zip(self.suite.tolist(), self.number.tolist(), strict=True)
        return sorted({lineage_key(within(self.suites[s], str(self.lineages[s][n]))) for s, n in places})

    @cached_property
    def _map_readers(self) -> list[GalaxyReader]:
        return [GalaxyReader(group, "maps") for group in self.groups]

    def read_maps(self, galaxy_row: int, maps: np.ndarray) -> None:
        """Write all views of a galaxy into `maps` (V, 8, P, P). Raises StoreError naming one that cannot be read."""
        self._map_readers[self.suite[galaxy_row]].read_into(int(self.number[galaxy_row]), maps)

    def places(self, galaxy_rows: np.ndarray) -> np.ndarray:
        """Return the views' places, their numbers among all views of all these galaxies, in the order of `read`."""
        return (galaxy_rows[:, None] * self.shape[0] + np.arange(self.shape[0])).ravel()

    def id(self, place: int) -> str:
        """Return the name, for messages, of the view at a place."""
        galaxy, view = divmod(int(place), self.shape[0])
        return f"{self.suites[self.suite[galaxy]]}/{self.names[self.suite[galaxy]][self.number[galaxy]]} view {view}"


def done_galaxies(path: Path, suites: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return per suite its galaxies' status (G,) as uint8: pending (0), done (1) or failed (2).

    Raises StoreError for a suite in which no galaxy is done.
    """
    status = {suite: store.read(store.open_suite(path, suite), "status") for suite in suites}
    for suite, suite_status in status.items():
        if not (suite_status == store.DONE).any():
            ready = [name for name, other_status in status.items() if (other_status == store.DONE).any()]
            raise store.StoreError(
                f"{path}: suite {suite} has no finished galaxy; run `kinmass maps` to its end"
                + (f", or choose --suites {','.join(ready)}" if ready else "")
            )
    return {suite: torch.from_numpy(suite_status) for suite, suite_status in status.items()}


def galaxies_of(path: Path, status: dict[str, torch.Tensor], part: str, max_lineages: int = 0) -> Galaxies:
    """Return the galaxies of a part of the split (train, val or test) that are done according to `status`.

    max_lineages: take galaxies of so many lineages only, 0 for all; the first in the order of a hash of their names.
    A lineage belongs to one suite, whatever names other suites use.
    Raises StoreError for suites whose maps differ in size.
    """
    suites = tuple(status)
    groups = [store.open_suite(path, suite) for suite in suites]
    shapes = [
        (group.attrs["config"]["views"], group["maps"].shape[2:], group.attrs["config"]["field_of_view_re"])
        for group in groups
    ]
    for suite, shape in zip(suites, shapes, strict=True):
        if shape != shapes[0]:
            raise store.StoreError(
                f"suites {suites[0]} and {suite} have maps of different size; map them with the same settings"
            )
    names, lineages = ([store.read_labels(group, label) for group in groups] for label in ("galaxy", "lineage"))
    selected = []
    for suite_status, lineage in zip(status.values(), lineages, strict=True):
        done = np.flatnonzero(suite_status.numpy() == store.DONE)
        selected.append(done[[part_of(str(x)) == part for x in lineage[done]]] if len(done) else done)
    if max_lineages:
        names_of_selected = [
            [within(suite, x) for x in lineage[numbers]]
            for suite, lineage, numbers in zip(suites, lineages, selected, strict=True)
        ]
        chosen = first_lineages(set().union(*names_of_selected), max_lineages)
        selected = [
            numbers[np.array([name in chosen for name in names_of_suite], dtype=bool)]
            for names_of_suite, numbers in zip(names_of_selected, selected, strict=True)
        ]
    suite_numbers = np.repeat(np.arange(len(suites)), [len(numbers) for numbers in selected])
    return Galaxies(path, suites, groups, names, lineages, suite_numbers, np.concatenate(selected))


def first_lineages(names: set[str], most: int) -> set[str]:
    """Return at most so many names of lineages: the first in the order of a hash of their names."""
    return set(sorted(names, key=lambda name: blake2b(name.encode()).digest())[:most])


def lineage_key(name: str) -> str:
    """Return a short hash of a lineage's name, `within` its suite."""
    return blake2b(name.encode(), digest_size=6).hexdigest()


@dataclass
class Table:
    """All usable views, without their maps.

    place (N,), rising, numbers a view among all views of all galaxies; half_mass_radius_kpc (N,); log10_menc
    (N, K) [Msun]; log10_unit (N,) of the mass unit [Msun]. left_out: per reason how many views, and their first places.
    """

    place: np.ndarray
    half_mass_radius_kpc: torch.Tensor
    log10_menc: torch.Tensor
    log10_unit: torch.Tensor
    left_out: dict[str, tuple[int, list[int]]]

    def __len__(self) -> int:
        return len(self.place)


@dataclass(frozen=True)
class ViewSelection:
    """Which views to train on, and how they are observed.

    units: returns (N,) log10 mass units [Msun] from observed maps (N, 8, Q, Q) and R_e (N,) [kpc].
    """

    tracer: str
    instrument: Instrument
    views: int  # most views of a galaxy, 0 for all
    units: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def survey(galaxies: Galaxies, selection: ViewSelection, crew: ddp.Crew, kept_maps: torch.Tensor | None) -> Table:
    """Read every selected view of all galaxies once and tabulate the usable ones; the crew's processes share the work.

    kept_maps (G V, 8, P, P): where given, the maps of usable views are written into it, each at its place.
    """
    blocks: list[tuple[np.ndarray, ...]] = []
    for block_start in range(BLOCK * crew.rank, len(galaxies), BLOCK * crew.size):
        galaxy_rows = np.arange(block_start, min(block_start + BLOCK, len(galaxies)))
        views, place = galaxies.read(galaxy_rows), galaxies.places(galaxy_rows)
        if selection.views:
            views, place = views[views.view < selection.views], place[views.view < selection.views]
        reason = why_not(views, selection.tracer, selection.instrument)
        good = np.flatnonzero(reason == 0)
        log10_unit = np.zeros(len(views), dtype=np.float32)
        if len(good):
            usable_views = views[good]
            observed = usable_views.observed(selection.instrument, selection.instrument.varies())
            shows_nothing = ~has_motion(observed, tracers_of(selection.tracer))
            if shows_nothing.any():  # by its look: without one it has a unit
                observed[shows_nothing] = usable_views[shows_nothing.numpy()].observed(selection.instrument, False)
            log10_unit[good] = selection.units(observed, usable_views.half_mass_radius_kpc).numpy()
            if kept_maps is not None:
                kept_maps[place[good]] = usable_views.maps
        blocks.append((place, reason, views.half_mass_radius_kpc.numpy(), views.log10_menc.numpy(), log10_unit))
    empty = (
        np.zeros(0, int),
        np.zeros(0, np.int8),
        *(np.zeros(shape, np.float32) for shape in (0, (0, len(RADII_RE)), 0)),
    )
    local_columns = tuple(np.concatenate(column) for column in zip(empty, *blocks, strict=True))
    columns = [np.concatenate(column) for column in zip(*ddp.gather(local_columns, crew), strict=True)]
    order = np.argsort(columns[0])
    place, reason, r_e, menc, log10_unit = (column[order] for column in columns)
    left_out = {
        REASONS[reason_number]: (int((reason == reason_number).sum()), place[reason == reason_number][:3].tolist())
        for reason_number in range(1, len(REASONS))
        if (reason == reason_number).any()
    }
    good = np.flatnonzero(reason == 0)
    tensors = [torch.from_numpy(column[good]) for column in (r_e, menc, log10_unit)]
    return Table(place[good], tensors[0], tensors[1], tensors[2], left_out)


class Loader:
    """Gives this process's share of the batch's maps for every step; `table` holds the views to draw from."""

    def __init__(self, galaxies: Galaxies, table: Table, batch: int, device: torch.device):
        self.galaxies, self.table, self.device = galaxies, table, device
        self._local_share = slice(ddp.rank(), batch, ddp.world_size())

    def next(self, step: int) -> tuple[np.ndarray, torch.Tensor]:
        """Return the batch's views (batch,) as rows of the table, and the maps (n, 8, P, P) of this process's share."""
        raise NotImplementedError

    def close(self) -> None:
        """End background threads."""


class InMemory(Loader):
    """Keeps maps in memory: on the GPU where they take less than half of its free memory, else on the machine."""

    def __init__(
        self, galaxies: Galaxies, table: Table, batch: int, seed: int, device: torch.device, maps: torch.Tensor
    ):
        super().__init__(galaxies, table, batch, device)
        self._order = Shuffle(len(table), batch, seed)
        self._maps, self._rows_in_maps = maps, torch.from_numpy(table.place)
        if device.type == "cuda" and 4 * len(table) * maps[0].numel() < 0.5 * torch.cuda.mem_get_info(device)[0]:
            self._maps, self._rows_in_maps = copy_of_rows(maps, self._rows_in_maps, device), torch.arange(len(table))

    def next(self, step: int) -> tuple[np.ndarray, torch.Tensor]:
        """Return what `Loader.next` does."""
        rows = self._order.rows(step)
        map_rows = self._rows_in_maps[torch.from_numpy(rows[self._local_share])]
        if self._maps.device.type == "cuda":
            return rows, self._maps[map_rows.pin_memory().to(self.device, non_blocking=True)]
        return rows, _to_device(self._maps[map_rows], self.device)


def copy_of_rows(
    maps: torch.Tensor, rows: torch.Tensor, device: torch.device, rows_at_once: int = 1024
) -> torch.Tensor:
    """Return `maps[rows]` on a device; beside the result it takes memory for rows_at_once maps only."""
    copy = torch.empty(len(rows), *maps.shape[1:], dtype=maps.dtype, device=device)
    for copied, block in zip(copy.split(rows_at_once), rows.split(rows_at_once), strict=True):
        copied.copy_(maps[block])
    return copy


class Streamed(Loader):
    """Reads maps window by window, the next window in the background."""

    def __init__(self, galaxies: Galaxies, table: Table, batch: int, seed: int, device: torch.device, window: int):
        super().__init__(galaxies, table, batch, device)
        self._lanes = Lanes(table.place // galaxies.shape[0], batch, seed, window)
        self._background_reader = ThreadPoolExecutor(1, "windows")
        self._galaxy_readers = ThreadPoolExecutor(THREADS, "maps")
        self._windows_ahead: dict[int, Future[tuple[np.ndarray, torch.Tensor]]] = {}
        self._window_number, self._window = -1, (np.zeros(0), torch.zeros(0))

    def _read(self, number: int) -> tuple[np.ndarray, torch.Tensor]:
        """Return the views (steps, batch) of a window, and the maps (steps, n, 8, P, P) of this process's share."""
        rows = self._lanes.rows(number)
        local_rows = rows[:, self._local_share]
        galaxy, view = np.divmod(self.table.place[local_rows.ravel()], self.galaxies.shape[0])
        by_galaxy = np.argsort(galaxy, kind="stable")
        rows_per_galaxy = np.split(by_galaxy, np.flatnonzero(np.diff(galaxy[by_galaxy])) + 1)
        maps = np.empty((len(galaxy), *self.galaxies.shape[1:]), np.float32)

        def read_share(first: int) -> None:
            """Read every THREADS-th galaxy from the number `first` on."""
            galaxy_maps = np.empty(self.galaxies.shape, np.float32)
            for map_rows in rows_per_galaxy[first::THREADS]:
                self.galaxies.read_maps(galaxy[map_rows[0]], galaxy_maps)
                for map_row in map_rows:
                    maps[map_row] = galaxy_maps[view[map_row]]

        list(self._galaxy_readers.map(read_share, range(THREADS)))
        return rows, torch.from_numpy(maps).reshape(*local_rows.shape, *self.galaxies.shape[1:])

    def next(self, step: int) -> tuple[np.ndarray, torch.Tensor]:
        """Return what `Loader.next` does. Fast only where steps follow each other, as the next window is read ahead."""
        number, within = self._lanes.at(step)
        if number != self._window_number:
            self._window = (np.zeros(0), torch.zeros(0))
            window_read = self._windows_ahead.pop(number, None) or self._background_reader.submit(self._read, number)
            self._window_number, self._window = number, window_read.result()
            self._windows_ahead = {number + 1: self._background_reader.submit(self._read, number + 1)}
        rows, maps = self._window
        return rows[within], _to_device(maps[within], self.device)

    def close(self) -> None:
        """Wait for the background readers and end them."""
        self._background_reader.shutdown(cancel_futures=True)
        self._galaxy_readers.shutdown()


def _to_device(maps: torch.Tensor, device: torch.device) -> torch.Tensor:
    return maps.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else maps


def window_for(galaxies: Galaxies, memory_gb: float, batch: int) -> int:
    """Return how many steps a window has so that two of them fit into a node's memory; 0 where all maps fit."""
    bytes_per_galaxy = 4 * int(np.prod(galaxies.shape))
    if bytes_per_galaxy * len(galaxies) <= memory_gb * 1e9:
        return 0
    return max(1, int(memory_gb * 1e9 / (2.5 * batch * bytes_per_galaxy / galaxies.shape[0])))


def open_loader(
    galaxies: Galaxies, selection: ViewSelection, batch: int, seed: int, window: int, device: torch.device
) -> Loader:
    """Make the loader of all usable views: kept in memory (window 0), or streamed. Every process has to call it.

    Raises StoreError where no view is usable, or one alone.
    """
    crew, maps = ddp.everyone(), None
    if not window:
        crew = ddp.neighbours()
        shape = (len(galaxies) * galaxies.shape[0], *galaxies.shape[1:])
        maps = ddp.node_memory(shape, crew)
        if maps is None:
            crew, maps = ddp.Crew(0, 1), torch.zeros(shape)
    table = survey(galaxies, selection, crew, maps)
    ddp.gather(0)  # Waits until all processes have filled the memory that they share.
    if not len(table):
        reasons = "; ".join(f"{n} with {reason}" for reason, (n, _) in table.left_out.items())
        raise store.StoreError(
            f"{galaxies.path}: no finished galaxy with usable maps of {tracer_words(selection.tracer)} to train on in "
            f"{', '.join(galaxies.suites)} ({reasons or 'none in this part of the split'}); map more galaxies"
        )
    if len(table) == 1:
        raise store.StoreError(
            f"{galaxies.path}: {galaxies.id(table.place[0])} is the only view to train on in "
            f"{', '.join(galaxies.suites)}, and one tells nothing of how masses differ; map more galaxies"
        )
    if maps is None:
        return Streamed(galaxies, table, batch, seed, device, window)
    return InMemory(galaxies, table, batch, seed, device, maps)


def validation_views(
    galaxies: Galaxies, tracer: str, instrument: Instrument, memory_gb: float, told: bool = False
) -> tuple[Views, torch.Tensor, np.ndarray]:
    """Return this process's share of the usable views, their observed maps (N, 8, Q, Q), and their places (N,).

    They are observed with their fixed noise and looks, and those of which a look shows nothing are left out; told:
    (N, 18, Q, Q), as `Views.observed` returns. Where all galaxies would take more than memory_gb, only every second,
    third, ... galaxy is taken. Every process has to call it. Raises StoreError where no view is usable.
    """
    size_gb = 4e-9 * int(np.prod(galaxies.shape)) * len(galaxies)
    galaxy_numbers = np.arange(0, len(galaxies), max(1, int(np.ceil(size_gb / memory_gb))))[
        ddp.rank() :: ddp.world_size()
    ]
    parts, places, n_views = [], [], 0
    # Pages of it that nobody writes take no memory.
    pixels, _ = instrument.grid(galaxies.shape[-1], galaxies.field_of_view_re)
    channels = CHANNELS_TOLD if told else CHANNELS
    observed = torch.empty(len(galaxy_numbers) * galaxies.shape[0], channels, pixels, pixels)
    for block_start in range(0, len(galaxy_numbers), BLOCK):
        block = galaxy_numbers[block_start : block_start + BLOCK]
        views = galaxies.read(block)
        good = np.flatnonzero(why_not(views, tracer, instrument) == 0)
        maps = views[good].observed(instrument, told=told)
        shows = has_motion(maps, tracers_of(tracer))
        good = good[shows.numpy()]
        if len(good):
            parts.append(views[good])
            observed[n_views : n_views + len(good)] = maps[shows]
            n_views += len(good)
            parts[-1].maps = parts[-1].maps[:, :, :0]  # observed by now, so the stored maps are not needed again
            places.append(galaxies.places(block)[good])
    if not sum(ddp.gather(len(parts))):
        raise store.StoreError(
            f"{galaxies.path}: no finished galaxy with usable maps of {tracer_words(tracer)} to validate on in "
            f"{', '.join(galaxies.suites)}; map more galaxies"
        )
    if not parts:
        no_views = galaxies.read(galaxy_numbers[:0])
        return no_views, no_views.observed(instrument, False, told), galaxy_numbers[:0]
    return concatenate(parts), observed[:n_views], np.concatenate(places)
