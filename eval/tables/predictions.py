"""What estimators say of every view, kept in Zarr, so that new measures need neither maps nor networks.

RUN/predictions.zarr holds a group STORE/SUITE/PART/TRACER per map store, suite, part of the split and tracer; classical
estimators have theirs, STORE/SUITE/PART/INSTRUMENT-ESTIMATOR, in a store beside the tables. STORE is the map store's
name, or name and digest for a second store of that name in another place. In each group, readable
with xarray (`xarray.open_datatree(".../predictions.zarr/STORE/SUITE/PART/TRACER", engine="zarr")`) and ArviZ:

posterior      log10_menc (chain, draw, view, radius) [Msun], samples; not there for a point estimate
summary        median, lo_68, hi_68, lo_95, hi_95 (view, radius) [Msun], log_prob_joint, ood_score and beyond (view)
constant_data  what a view is: galaxy, lineage, sightline, state, log10_menc_true (view, radius), and COLUMNS

Galaxies are written in blocks, the block's token last. A token is a digest of all that a block follows from: what the
map store holds of its galaxies, the network, the code. A block whose token still holds is not computed again, and one
whose token does not is never read.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from kinmass.eval.tables.metrics import SHARES, Estimates, quantile
from kinmass.gen.physics.profile import menc_at
from kinmass.gen.storage import store
from kinmass.gen.storage.chunks import fingerprint, sync_chunk
from kinmass.gen.storage.files import aside
from kinmass.train.data.dataset import RADII_RE, part_of
from kinmass.train.run.checkpoint import RunError

SCHEMA = 4
N_SAMPLES = 200
#: Galaxies of a block: one chunk of predictions, one task.
BLOCK = 64
#: What a view can be: not mapped yet, predicted, or not to be used (too little is seen of it).
PENDING, PREDICTED, UNUSABLE = 0, 1, 2
#: What a view is like, with units, and the edges of the bins in which tables look at it.
COLUMNS: dict[str, tuple[str, tuple[float, ...]]] = {
    "log10_stellar_mass": ("log10 Msun", (-np.inf, 8.0, 9.0, 10.0, 11.0, np.inf)),
    "inclination": ("deg", (0.0, 30.0, 60.0, 90.1)),
    "gas_fraction": ("1", (0.0, 0.1, 0.3, 0.6, 1.01)),
    "rotation_support": ("1", (0.0, 0.3, 0.6, 1.0, np.inf)),
}
_SUMMARY = ("lo_68", "hi_68", "lo_95", "hi_95", "median")


@dataclass(frozen=True)
class Part:
    """The galaxies of a suite that belong to a part of the split (None: all), whether mapped yet or not."""

    path: Path
    suite: str
    part: str | None

    @cached_property
    def group(self) -> zarr.Group:
        """The suite's group in the map store."""
        return store.open_suite(self.path, self.suite)

    @cached_property
    def views(self) -> int:
        """Views of each galaxy."""
        return int(self.group.attrs["config"]["views"])

    @cached_property
    def names(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number in the suite, name and lineage of each galaxy."""
        names, lineages = (self.group[name][:].astype(object) for name in ("galaxy", "lineage"))
        mine = [i for i, lineage in enumerate(lineages) if self.part is None or part_of(lineage) == self.part]
        return np.array(mine, dtype=int), names[mine], lineages[mine]

    def __len__(self) -> int:
        return len(self.names[0])

    def blocks(self) -> list[slice]:
        """Galaxies of each block."""
        return [slice(i, min(i + BLOCK, len(self))) for i in range(0, len(self), BLOCK)]

    def of(self, block: slice) -> list[slice]:
        """The blocks that some galaxies are in."""
        return [b for b in self.blocks() if b.start < block.stop and b.stop > block.start]

    @cached_property
    def galaxies(self) -> str:
        """A digest of how the views are laid out, and of which galaxies they are."""
        _, names, lineages = self.names
        return _digest([SCHEMA, N_SAMPLES, self.views, list(RADII_RE), names.tolist(), lineages.tolist()])

    def __reduce__(self) -> tuple[Any, ...]:
        return known_part, (self.path, self.suite, self.part, _digest([self.galaxies, dict(self.group.attrs)]))


@lru_cache(maxsize=64)
def known_part(path: Path, suite: str, part: str | None, state: str) -> Part:
    """A Part that is read once per process, and again where the one who asks has seen another state of the store."""
    return Part(path, suite, part)


@dataclass(frozen=True)
class Source:
    """An estimator and where its predictions are kept. `key` is a digest of everything it answers by."""

    name: str  # the estimator's
    instrument: str
    tracer: str
    train: str
    root: Path
    label: str  # of its group, below that of store, suite and part
    key: str
    run: Path | None = None

    def group(self, part: Part) -> str:
        """Path of the group in `root`: another one for a second store of the same name."""
        below, place = f"{part.suite}/{part.part or 'all'}/{self.label}", str(part.path.absolute())
        plain, own = f"{part.path.stem}/{below}", f"{part.path.stem}-{_digest(place)}/{below}"
        owner = _attributes(self.root / plain).get("store")
        if owner == place or _attributes(self.root / own):
            return plain if owner == place else own
        free = owner is None or not (Path(owner) / part.suite / "zarr.json").exists()
        return plain if free else own


def _attributes(path: Path) -> dict[str, Any]:
    """Of a group of kept predictions; nothing where there is none that can be read."""
    try:
        return dict(zarr.open_group(path, mode="r").attrs)
    except (FileNotFoundError, ValueError, KeyError, zarr.errors.GroupNotFoundError):
        return {}


def _array(
    group: zarr.Group, name: str, dims: Sequence[str], shape: Sequence[int], chunks: Sequence[int], **more: Any
) -> None:
    units = more.pop("units", None)
    array = group.create_array(
        name, shape=tuple(shape), chunks=tuple(max(1, c) for c in chunks), dimension_names=list(dims), **more
    )
    if units:
        array.attrs["units"] = units


def prepare(source: Source, part: Part) -> None:
    """Make a source's group for a part, or leave it if it is there for the same galaxies.

    Raises OSError where it cannot be written.
    """
    wanted = {"galaxies": part.galaxies, "store": str(part.path.absolute())}
    path = source.root / source.group(part)
    if _attributes(path) != wanted:
        zarr.open_group(source.root, mode="a").require_group(str(Path(source.group(part)).parent))
        with aside(path) as partial:
            _make(partial, source, part, wanted)


def _make(path: Path, source: Source, part: Part, attributes: dict[str, str]) -> None:
    """An empty group for a source's predictions of a part."""
    _, names, lineages = part.names
    rows, per, k = len(names) * part.views, BLOCK * part.views, len(RADII_RE)
    root = zarr.open_group(path, mode="w", attributes=attributes)
    said = {"estimator": source.name, "instrument": source.instrument, "tracer": source.tracer, "train": source.train}
    nan = {"dtype": "float32", "fill_value": np.nan}
    for name in ("summary", "constant_data", *(() if source.run is None else ("posterior",))):
        child = root.require_group(name)
        _array(child, "radius", ["radius"], [k], [k], dtype="float64", units="R_e")
        child["radius"][:] = np.array(RADII_RE)
        child.attrs.update(said | {"store": str(part.path), "suite": part.suite, "part": part.part or "all"})
    if source.run is not None:
        for name, n in (("chain", 1), ("draw", N_SAMPLES)):
            _array(root["posterior"], name, [name], [n], [n], dtype="int64")
            root["posterior"][name][:] = np.arange(n)
        shape, chunks = (1, N_SAMPLES, rows, k), (1, N_SAMPLES, per, k)
        _array(
            root["posterior"],
            "log10_menc",
            ["chain", "draw", "view", "radius"],
            shape,
            chunks,
            units="log10 Msun",
            **nan,
        )
    for name in _SUMMARY:
        _array(root["summary"], name, ["view", "radius"], (rows, k), (per, k), units="log10 Msun", **nan)
    _array(root["summary"], "log_prob_joint", ["view"], [rows], [per], units="ln dex^-K", **nan)
    for name in ("ood_score", "beyond"):
        _array(root["summary"], name, ["view"], [rows], [per], units="1", **nan)
    data = root["constant_data"]
    _array(data, "log10_menc_true", ["view", "radius"], (rows, k), (per, k), units="log10 Msun", **nan)
    for name, (units, _) in COLUMNS.items():
        _array(data, name, ["view"], [rows], [per], units=units, **nan)
    _array(data, "state", ["view"], [rows], [per], dtype="uint8", fill_value=PENDING)
    for name, values in (("galaxy", names), ("lineage", lineages)):
        _array(data, name, ["view"], [rows], [rows], dtype=str)
        data[name][:] = np.repeat(values, part.views)
    _array(data, "sightline", ["view"], [rows], [rows], dtype="int64")
    data["sightline"][:] = np.tile(np.arange(part.views), len(names))
    _array(root, "token", ["block"], [max(1, len(part.blocks()))], [1], dtype="uint64", fill_value=0)
    with warnings.catch_warnings():  # what xarray looks for first is not in Zarr's specification
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def tokens(sources: Sequence[Source], part: Part, block: slice) -> list[int]:
    """Per source what a block of its predictions follows from, as a number above 0; asked before any map is read."""
    numbers, names, lineages = part.names
    state = hashlib.blake2b(
        json.dumps([SCHEMA, names[block].tolist(), lineages[block].tolist()]).encode(), digest_size=8
    )
    state.update(json.dumps(part.group.attrs["config"], sort_keys=True).encode())
    state.update(fingerprint(part.group, numbers[block]))
    each = [hashlib.blake2b(source.key.encode(), digest_size=8, key=state.digest()).digest() for source in sources]
    return [int.from_bytes(digest, "little") | 1 for digest in each]


class Kept:
    """One source's predictions of one part, to write and read by block."""

    def __init__(self, source: Source, part: Part):
        self.part, self.source = part, source
        try:
            self._root = zarr.open_group(source.root / source.group(part), mode="r+")
        except (FileNotFoundError, ValueError, zarr.errors.GroupNotFoundError) as error:
            raise RunError(
                f"{source.root / source.group(part)} cannot be read ({error}); remove it and try again"
            ) from error

    def rows(self, block: slice) -> slice:
        """Views of a block."""
        return slice(block.start * self.part.views, block.stop * self.part.views)

    def holds(self, block: slice, wanted: int) -> bool:
        """Whether the block is there and follows from what `token` says."""
        return int(self._root["token"][block.start // BLOCK]) == wanted

    def forget(self, block: slice) -> None:
        """The block is to be computed again."""
        self._mark(block, 0)

    def _mark(self, block: slice, token: int) -> None:
        self._root["token"][block.start // BLOCK] = token
        sync_chunk(self._root["token"], [block.start // BLOCK])

    def _put(self, name: str, block: slice, values: np.ndarray) -> None:
        """Write one array's chunk of a block: it is on the disk before the block's token says that it is."""
        array, axis = self._root[name], 2 if name == "posterior/log10_menc" else 0
        array[(*(slice(None),) * axis, self.rows(block))] = values
        at = [0] * array.ndim
        at[axis] = block.start // BLOCK
        sync_chunk(array, at)

    def write(
        self,
        block: slice,
        wanted: int,
        constant: dict[str, np.ndarray],
        median: np.ndarray,
        samples: np.ndarray | None = None,
        log_prob_joint: np.ndarray | None = None,
        ood_score: np.ndarray | None = None,
        beyond: np.ndarray | None = None,
    ) -> None:
        """A block: constant data by name; medians (N, K), or samples (S, N, K) and what `Estimates` has (N,) of."""
        self.forget(block)
        for name, values in constant.items():
            self._put(f"constant_data/{name}", block, values)
        if samples is not None and log_prob_joint is not None and ood_score is not None and beyond is not None:
            self._put("posterior/log10_menc", block, samples[None])
            rising = np.sort(np.moveaxis(samples, 0, -1), axis=-1)
            for name, share in zip(_SUMMARY, SHARES, strict=True):
                self._put(f"summary/{name}", block, quantile(rising, share))
            self._put("summary/log_prob_joint", block, log_prob_joint)
            self._put("summary/ood_score", block, ood_score)
            self._put("summary/beyond", block, beyond)
        else:
            self._put("summary/median", block, median)
        self._mark(block, wanted)

    def read(self, block: slice, checked: bool = False) -> tuple[Estimates, dict[str, np.ndarray]]:
        """Predictions of some galaxies' views, and `state` and COLUMNS by name.

        Raises RunError where they do not follow from the maps, the run and the code as they are now, unless the caller
        has `checked`.
        """
        if not checked:
            check_kept([self], self.part, block)
        rows = self.rows(block)
        data, summary = self._root["constant_data"], self._root["summary"]
        samples = None if self.source.run is None else self._root["posterior"]["log10_menc"][0, :, rows]
        estimates = Estimates(
            data["galaxy"][rows].astype(object),
            data["sightline"][rows],
            data["lineage"][rows].astype(object),
            data["log10_menc_true"][rows].astype(float),
            summary["median"][rows].astype(float),
            samples,
            None if samples is None else summary["log_prob_joint"][rows].astype(float),
            None if samples is None else summary["ood_score"][rows].astype(float),
            None if samples is None else summary["beyond"][rows].astype(float),
        )
        return estimates, {name: data[name][rows] for name in ("state", *COLUMNS)}


def check_kept(kept: Sequence[Kept], part: Part, block: slice) -> None:
    """Raise RunError where what is kept of some galaxies is not what would be predicted now."""
    for whole in part.of(block):
        for each, wanted in zip(kept, tokens([k.source for k in kept], part, whole), strict=True):
            if not each.holds(whole, wanted):
                raise RunError(
                    f"{each.source.root}: predictions kept of {part.path}/{part.suite} are older than its maps, "
                    "the run or the code; give the `kinmass tables` command again"
                )


def columns(part: Part, numbers: np.ndarray, maps: np.ndarray, r_e: np.ndarray) -> dict[str, np.ndarray]:
    """COLUMNS of all views (N,) of galaxies, from their maps (N, 8, P, P) and R_e (N,) [kpc].

    Stellar mass is that inside the profile's last radius; the gas fraction is of gas and stars inside 3 R_e;
    rotation support is sqrt(<V^2> / <sigma^2>) of the stars' noiseless maps, weighted by density (Binney 2005,
    MNRAS 363, 937).
    """
    mass = store.read(part.group, "mass", numbers)
    radius = np.repeat(store.read(part.group, "radius", numbers)[:, None], part.views, axis=1).reshape(len(r_e), -1)
    stars, gas = (
        np.repeat(mass[:, store.COMPONENTS.index(c)][:, None], part.views, axis=1).reshape(radius.shape)
        for c in ("stars", "gas")
    )
    inside = [10 ** menc_at(radius, m, 3 * r_e[:, None].astype(float))[:, 0] for m in (stars, gas)]
    inside[1] = np.nan_to_num(inside[1])  # no gas is no mass of gas
    density, velocity, dispersion = (maps[:, i].astype(float) for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "log10_stellar_mass": np.log10(stars[:, -1]),
            "inclination": store.read(part.group, "inclination", numbers).reshape(-1),
            "gas_fraction": inside[1] / (inside[0] + inside[1]),
            "rotation_support": np.sqrt((density * velocity**2).sum((1, 2)) / (density * dispersion**2).sum((1, 2))),
        }
