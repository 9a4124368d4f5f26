"""Keep the predictions of estimators for every view in Zarr, so that new measures need neither maps nor networks.

RUN/predictions.zarr holds a group STORE/SUITE/PART/TRACER per map store, suite, part of the split and tracer. Groups
of classical estimators, STORE/SUITE/PART/INSTRUMENT-ESTIMATOR, are in a Zarr store beside the tables. STORE is the map
store's name, or name and digest for a second store of that name in another place. xarray
(`xarray.open_datatree(".../predictions.zarr/STORE/SUITE/PART/TRACER", engine="zarr")`) and ArviZ read each group:

posterior      log10_menc (chain, draw, view, radius) [Msun], the samples; absent for a point estimate
summary        median, lo_68, hi_68, lo_95, hi_95 (view, radius) [Msun], log_prob_joint, ood_score and beyond (view)
constant_data  what a view is: galaxy, lineage, sightline, state, log10_menc_true (view, radius), and COLUMNS

Galaxies are written in blocks, and a block's token is written last. The token is a digest of everything on which the
block's predictions depend: the map store's content for its galaxies, the network and the code. A block with the
current token is not computed again; a block with any other token is never read. Every array's chunk of a block that was
written is a file, be it of fill values alone: where one is missing, the block is damaged, and made again.
"""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from kinmass.eval.tables.metrics import Estimates
from kinmass.gen.physics.profile import menc_at
from kinmass.gen.physics.sightline import within
from kinmass.gen.storage import store
from kinmass.gen.storage.chunk_files import ChunkFiles
from kinmass.gen.storage.chunks import chunk_file, fingerprint, sync_chunk
from kinmass.gen.storage.files import aside
from kinmass.gen.storage.lock import hold
from kinmass.train.data.dataset import RADII_RE, part_of
from kinmass.train.run.checkpoint import RunError
from kinmass.train.run.derived import digest_of_json
from kinmass.train.run.intervals import SHARES, quantile_of_sorted

SCHEMA = 5
N_SAMPLES = 200
#: Number of galaxies of a block, which is one chunk of predictions and one task.
BLOCK = 64
#: How long to wait for another command that makes room for predictions [s].
PATIENCE_S = 120.0
#: State of a view: not mapped yet, predicted, or unusable (its maps show too little).
PENDING, PREDICTED, UNUSABLE = 0, 1, 2
#: Properties of a view, with units and the edges of the bins for which tables have rows.
COLUMNS: dict[str, tuple[str, tuple[float, ...]]] = {
    "log10_stellar_mass": ("log10 Msun", (-np.inf, 8.0, 9.0, 10.0, 11.0, np.inf)),
    "inclination": ("deg", (0.0, 30.0, 60.0, 90.1)),
    "gas_fraction": ("1", (0.0, 0.1, 0.3, 0.6, 1.01)),
    "rotation_support": ("1", (0.0, 0.3, 0.6, 1.0, np.inf)),
}
_SUMMARY = ("lo_68", "hi_68", "lo_95", "hi_95", "median")
#: The samples, whose third dimension is the views; of all other arrays it is the first.
_SAMPLES = "posterior/log10_menc"
#: Arrays that say which view a row is of; each is one chunk, written when the group is made.
_LABELS = ("galaxy", "lineage", "sightline")


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
        """Number of views of each galaxy."""
        return int(self.group.attrs["config"]["views"])

    @cached_property
    def names(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number in the suite, name and lineage of each galaxy, three arrays (G,)."""
        names, lineages = (store.read_labels(self.group, name).astype(object) for name in ("galaxy", "lineage"))
        selected = [i for i, lineage in enumerate(lineages) if self.part is None or part_of(lineage) == self.part]
        return np.array(selected, dtype=int), names[selected], lineages[selected]

    def __len__(self) -> int:
        return len(self.names[0])

    def blocks(self) -> list[slice]:
        """Return the galaxies of each block."""
        return [slice(i, min(i + BLOCK, len(self))) for i in range(0, len(self), BLOCK)]

    def overlapping_blocks(self, block: slice) -> list[slice]:
        """Return the blocks that contain any of the galaxies in a slice."""
        return [b for b in self.blocks() if b.start < block.stop and b.stop > block.start]

    @cached_property
    def galaxies_digest(self) -> str:
        """Digest of the arrays' layout and of the galaxies' names and lineages."""
        _, names, lineages = self.names
        return digest_of_json([SCHEMA, N_SAMPLES, self.views, list(RADII_RE), names.tolist(), lineages.tolist()])

    def __reduce__(self) -> tuple[Any, ...]:
        content = digest_of_json([self.galaxies_digest, dict(self.group.attrs)])
        return cached_part, (self.path, self.suite, self.part, content)


@lru_cache(maxsize=64)
def cached_part(path: Path, suite: str, part: str | None, state: str) -> Part:
    """Return a Part that each process reads once, and again when `state`, a digest of the store's state, differs.

    Unpickling calls this function: the sender's digest tells a worker that the store has changed.
    """
    return Part(path, suite, part)


@dataclass(frozen=True)
class Source:
    """An estimator and where its predictions are kept. key: digest of the code, files and settings that it uses."""

    name: str  # of the estimator
    instrument: str
    tracer: str
    train: str
    root: Path
    label: str  # of its group, below that of store, suite and part
    key: str
    run: Path | None = None
    seed: int = 0  # of the run; networks that differ only in it are one network, trained several times
    files: str = ""  # digest of the run's files, which is in `key`, too

    def group(self, part: Part) -> str:
        """Return the path of the group in `root`, which has a digest in it for a second store of the same name."""
        subpath, store_path = f"{part.suite}/{part.part or 'all'}/{self.label}", str(part.path.absolute())
        plain_group = f"{part.path.stem}/{subpath}"
        digest_group = f"{part.path.stem}-{digest_of_json(store_path)}/{subpath}"
        owner = _attributes(self.root / plain_group).get("store")
        if owner == store_path or _attributes(self.root / digest_group):
            return plain_group if owner == store_path else digest_group
        name_is_free = owner is None or not (Path(owner) / part.suite / "zarr.json").exists()
        return plain_group if name_is_free else digest_group


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a group of kept predictions, or none if there is no group that can be read."""
    try:
        return dict(zarr.open_group(path, mode="r").attrs)
    except (FileNotFoundError, ValueError, KeyError, zarr.errors.GroupNotFoundError):
        return {}


def _array(
    group: zarr.Group, name: str, dims: Sequence[str], shape: Sequence[int], chunks: Sequence[int], **options: Any
) -> None:
    """Create an array with named dimensions; options: `units` for its attributes, the others for create_array."""
    units = options.pop("units", None)
    array = group.create_array(
        name, shape=tuple(shape), chunks=tuple(max(1, c) for c in chunks), dimension_names=list(dims),
        compressors=(ZstdCodec(level=0), Crc32cCodec()),  # a flipped bit is an error, not a number
        **options,
    )  # fmt: skip
    if units:
        array.attrs["units"] = units


def prepare(source: Source, part: Part) -> None:
    """Create a source's group for a part, unless it exists already for the same galaxies.

    Commands that are given at the same time do so in turn: a group in use is never replaced by an empty one. Raises
    OSError where it cannot be written, Busy where another command is at it for very long.
    """
    attributes = {"galaxies": part.galaxies_digest, "store": str(part.path.absolute())}
    path = source.root / source.group(part)
    if _attributes(path) == attributes and _has_labels(path, part):
        return
    with hold(source.root.with_name(f".lock-{source.root.name}"), str(source.root), PATIENCE_S):
        path = source.root / source.group(part)  # which another command may have made meanwhile
        if _attributes(path) != attributes or not _has_labels(path, part):
            root = zarr.open_group(ChunkFiles(source.root), mode="a", zarr_format=3)
            root.require_group(str(Path(source.group(part)).parent))
            with aside(path) as partial:
                _create_group(partial, source, part, attributes)


def _labels(part: Part) -> dict[str, np.ndarray]:
    """Return what _LABELS are of a part's views."""
    _, names, lineages = part.names
    sightlines = np.tile(np.arange(part.views), len(names))
    return dict(zip(_LABELS, (np.repeat(names, part.views), np.repeat(lineages, part.views), sightlines), strict=True))


def _has_labels(path: Path, part: Part) -> bool:
    """Whether a group of kept predictions says of its rows what they are. Raises OSError where the disk fails."""
    try:
        data = zarr.open_group(path, mode="r")["constant_data"]
        return all(np.array_equal(data[name][:], values) for name, values in _labels(part).items())  # type: ignore[index]
    except FileNotFoundError:
        return False
    except OSError:
        raise
    except Exception:  # each codec raises errors of its own
        return False


def _create_group(path: Path, source: Source, part: Part, attributes: dict[str, str]) -> None:
    """Create an empty group for a source's predictions of a part."""
    n_rows, rows_per_block, k = len(part) * part.views, BLOCK * part.views, len(RADII_RE)
    root = zarr.open_group(ChunkFiles(path), mode="w", zarr_format=3, attributes=attributes)
    estimator_attributes = {
        "estimator": source.name, "instrument": source.instrument, "tracer": source.tracer, "train": source.train,
    }  # fmt: skip
    floats = partial(_array, dtype="float32", fill_value=np.nan)

    def per_radius(group: zarr.Group, name: str) -> None:
        """Create an empty array of log10 masses, of all views and radii."""
        floats(group, name, ["view", "radius"], (n_rows, k), (rows_per_block, k), units="log10 Msun")

    for name in ("summary", "constant_data", *(() if source.run is None else ("posterior",))):
        child = root.require_group(name)
        _array(child, "radius", ["radius"], [k], [k], dtype="float64", units="R_e")
        child["radius"][:] = np.array(RADII_RE)
        child.attrs.update(
            estimator_attributes | {"store": str(part.path), "suite": part.suite, "part": part.part or "all"}
        )
    summary, data = root["summary"], root["constant_data"]
    if source.run is not None:
        posterior, dimensions = root["posterior"], ["chain", "draw", "view", "radius"]
        for name, length in (("chain", 1), ("draw", N_SAMPLES)):
            _array(posterior, name, [name], [length], [length], dtype="int64")
            posterior[name][:] = np.arange(length)
        shape, chunks = (1, N_SAMPLES, n_rows, k), (1, N_SAMPLES, rows_per_block, k)
        floats(posterior, "log10_menc", dimensions, shape, chunks, units="log10 Msun")
    for name in _SUMMARY:
        per_radius(summary, name)
    per_radius(data, "log10_menc_true")
    per_view = {"log_prob_joint": "ln dex^-K", "ood_score": "1", "beyond": "1"}
    for group, units_of in ((summary, per_view), (data, {name: units for name, (units, _) in COLUMNS.items()})):
        for name, units in units_of.items():
            floats(group, name, ["view"], [n_rows], [rows_per_block], units=units)
    _array(data, "state", ["view"], [n_rows], [rows_per_block], dtype="uint8", fill_value=PENDING)
    for name, values in _labels(part).items():
        _array(data, name, ["view"], [n_rows], [n_rows], dtype="int64" if name == "sightline" else str)
        data[name][:] = values
    _array(root, "token", ["block"], [max(1, len(part.blocks()))], [1], dtype="uint64", fill_value=0)
    # Zarr warns that consolidated metadata, which xarray looks for first, is not in its specification.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


def tokens(sources: Sequence[Source], part: Part, block: slice) -> list[int]:
    """Return one token per source: a digest, above 0, of everything on which a block of its predictions depends.

    It reads no maps, only their fingerprint.
    """
    numbers, names, lineages = part.names
    maps_state = hashlib.blake2b(
        json.dumps([SCHEMA, names[block].tolist(), lineages[block].tolist()]).encode(), digest_size=8
    )
    maps_state.update(json.dumps(part.group.attrs["config"], sort_keys=True).encode())
    maps_state.update(fingerprint(part.group, numbers[block]))
    digests = [
        hashlib.blake2b(source.key.encode(), digest_size=8, key=maps_state.digest()).digest() for source in sources
    ]
    return [int.from_bytes(digest, "little") | 1 for digest in digests]


def _chunk_of(name: str, ndim: int, block: slice) -> list[int]:
    """Return the place of a block's chunk in the grid of chunks of an array with `ndim` dimensions."""
    place = [0] * ndim
    if name.rpartition("/")[2] not in _LABELS:
        place[2 if name == _SAMPLES else 0] = block.start // BLOCK
    return place


class Damaged(RunError):
    """Kept predictions of a block cannot be read; they have to be made again."""


class KeptPredictions:
    """One source's predictions for one part, written and read by block. Raises RunError if they cannot be opened."""

    def __init__(self, source: Source, part: Part):
        self.part, self.source = part, source
        try:
            self._root = zarr.open_group(source.root / source.group(part), mode="r+")
        except (FileNotFoundError, ValueError, zarr.errors.GroupNotFoundError) as error:
            raise RunError(
                f"{source.root / source.group(part)} cannot be read ({error}); remove it and try again"
            ) from error

    def rows(self, block: slice) -> slice:
        """Return the rows (views) of a block."""
        return slice(block.start * self.part.views, block.stop * self.part.views)

    def is_current(self, block: slice, token: int) -> bool:
        """Return whether the block has been written with this token."""
        return self.kept_token(block) == token

    def forget(self, block: slice) -> None:
        """Mark the block as not current, so that it is computed again."""
        self._write_token(block, 0)

    def _write_token(self, block: slice, token: int) -> None:
        """Write a block's token, and wait until it is on the disk."""
        self._root["token"][block.start // BLOCK] = token
        sync_chunk(self._root["token"], [block.start // BLOCK])

    def _write_array(self, name: str, block: slice, values: np.ndarray) -> None:
        """Write one array's chunk of a block, and wait until it is on the disk, so that the token can follow."""
        array = self._root[name].with_config({"write_empty_chunks": True})
        axis = 2 if name == _SAMPLES else 0
        array[(*(slice(None),) * axis, self.rows(block))] = values
        sync_chunk(array, _chunk_of(name, array.ndim, block))

    def write(
        self,
        block: slice,
        token: int,
        constant: dict[str, np.ndarray],
        median: np.ndarray,
        samples: np.ndarray | None = None,
        log_prob_joint: np.ndarray | None = None,
        ood_score: np.ndarray | None = None,
        beyond: np.ndarray | None = None,
    ) -> None:
        """Write a block and then its token. constant: arrays of constant_data, by name.

        A point estimate has medians (N, K) only. A posterior has samples (S, N, K), from which its median is computed,
        and the three arrays (N,) of `Estimates`. Commands write a block in turn: of a run that was calibrated anew
        while an earlier command still predicts with what it was, one's numbers would come under the other's token.
        Raises Busy where another command writes it for very long.
        """
        root = self.source.root
        place = digest_of_json([self.source.group(self.part), block.start])
        with hold(root.with_name(f".lock-{root.name}-{place}"), str(root), PATIENCE_S):
            self.forget(block)
            for name, values in constant.items():
                self._write_array(f"constant_data/{name}", block, values)
            if samples is not None and log_prob_joint is not None and ood_score is not None and beyond is not None:
                self._write_array(_SAMPLES, block, samples[None])
                sorted_samples = np.sort(np.moveaxis(samples, 0, -1), axis=-1)
                for name, share in zip(_SUMMARY, SHARES, strict=True):
                    self._write_array(f"summary/{name}", block, quantile_of_sorted(sorted_samples, share))
                self._write_array("summary/log_prob_joint", block, log_prob_joint)
                self._write_array("summary/ood_score", block, ood_score)
                self._write_array("summary/beyond", block, beyond)
            else:
                self._write_array("summary/median", block, median)
            self._write_token(block, token)

    def _within_suite(self, names: np.ndarray) -> np.ndarray:
        """Return names (N,) that differ from those of other suites."""
        return np.array([within(self.part.suite, name) for name in names], dtype=object)

    def read(self, block: slice, checked: bool = False) -> tuple[Estimates, dict[str, np.ndarray]]:
        """Return the predictions for the views of a slice of galaxies, and their `state` and COLUMNS, by name.

        Raises RunError if the predictions were made with other maps, another run or other code than the present ones.
        checked: the caller has made sure of that.
        """
        if not checked:
            check_current([self], self.part, block)
        with self._naming_damage():
            summary = ("median",) if self.source.run is None else ("median", "log_prob_joint", "ood_score", "beyond")
            self._require_chunks(
                block,
                [f"constant_data/{name}" for name in ("galaxy", "lineage", "state", "log10_menc_true", *COLUMNS)]
                + [f"summary/{name}" for name in summary]
                + [_SAMPLES] * (self.source.run is not None),
            )
            return self._read(self.rows(block))

    @contextlib.contextmanager
    def _naming_damage(self) -> Iterator[None]:
        """Raise Damaged in place of what codecs raise."""
        try:
            yield
        except (OSError, Damaged):
            raise
        except Exception as error:
            raise Damaged(self._damage(str(error))) from error

    def _damage(self, what: str) -> str:
        """Return in a sentence that kept predictions are damaged, and what mends them."""
        return (
            f"{self.source.root}: predictions kept of {self.part.path}/{self.part.suite} are damaged ({what}); "
            "give the `kinmass tables` command again, which makes them again"
        )

    def _require_chunks(self, block: slice, names: Sequence[str]) -> None:
        """Raise Damaged where a chunk of an array has no file: zarr would read fill values."""
        for name in names:
            array = self._root[name]
            for full_block in self.part.overlapping_blocks(block):
                file = chunk_file(array, _chunk_of(name, array.ndim, full_block))
                if not file.exists():
                    raise Damaged(self._damage(f"{file} is missing"))

    def _read(self, rows: slice) -> tuple[Estimates, dict[str, np.ndarray]]:
        data, summary = self._root["constant_data"], self._root["summary"]
        samples = None if self.source.run is None else self._root["posterior"]["log10_menc"][0, :, rows]
        estimates = Estimates(
            self._within_suite(data["galaxy"][rows]),
            data["sightline"][rows],
            self._within_suite(data["lineage"][rows]),
            data["log10_menc_true"][rows].astype(float),
            summary["median"][rows].astype(float),
            samples,
            None if samples is None else summary["log_prob_joint"][rows].astype(float),
            None if samples is None else summary["ood_score"][rows].astype(float),
            None if samples is None else summary["beyond"][rows].astype(float),
        )
        return estimates, {name: data[name][rows] for name in ("state", *COLUMNS)}

    def kept_token(self, block: slice) -> int:
        """Return the token that the block was written with; 0 where it was not written, or is damaged."""
        try:
            return int(self._root["token"][block.start // BLOCK])
        except OSError:
            raise
        except Exception:  # each codec raises errors of its own
            return 0

    def read_summary(self, block: slice) -> dict[str, np.ndarray]:
        """Return `state`, `ood_score` (N,), `median` and `log10_menc_true` (N, K) of a block's views, without samples.

        Of a network: a point estimate has no scores. The caller has made sure that the block is current. Raises Damaged
        where they cannot be read.
        """
        rows, data, summary = self.rows(block), self._root["constant_data"], self._root["summary"]
        with self._naming_damage():
            self._require_chunks(block, [f"constant_data/{name}" for name in ("state", "log10_menc_true")])
            self._require_chunks(block, [f"summary/{name}" for name in ("ood_score", "median")])
            arrays = {name: summary[name][rows].astype(float) for name in ("ood_score", "median")}
            truth = data["log10_menc_true"][rows].astype(float)
            return arrays | {"state": data["state"][rows], "log10_menc_true": truth}


def kept_of(source: Source, part: Part) -> KeptPredictions | None:
    """Return a source's kept predictions of a part's present galaxies, None where there are none."""
    attributes = {"galaxies": part.galaxies_digest, "store": str(part.path.absolute())}
    if _attributes(source.root / source.group(part)) != attributes:
        return None
    return KeptPredictions(source, part)


def check_current(kept: Sequence[KeptPredictions], part: Part, block: slice) -> None:
    """Raise RunError if kept predictions for a slice of galaxies are not what would be predicted now."""
    for full_block in part.overlapping_blocks(block):
        for predictions, token in zip(kept, tokens([k.source for k in kept], part, full_block), strict=True):
            if not predictions.is_current(full_block, token):
                raise RunError(
                    f"{predictions.source.root}: predictions kept of {part.path}/{part.suite} are older than its maps, "
                    "the run or the code; give the `kinmass tables` command again"
                )


def columns(part: Part, numbers: np.ndarray, maps: np.ndarray, r_e: np.ndarray) -> dict[str, np.ndarray]:
    """Return COLUMNS (N,) of all views of galaxies, from their maps (N, 8, P, P) and R_e (N,) [kpc].

    numbers: the galaxies in the suite. The stellar mass is that inside the profile's last radius. The gas fraction is
    M_gas / (M_gas + M_stars) inside 3 R_e. The rotation support is sqrt(<V^2> / <sigma^2>) of the stars' noiseless
    maps, weighted by density (Binney 2005, MNRAS 363, 937).
    """
    mass = store.read(part.group, "mass", numbers)
    radius = np.repeat(store.read(part.group, "radius", numbers), part.views, axis=0)
    stars, gas = (np.repeat(mass[:, store.COMPONENTS.index(c)], part.views, axis=0) for c in ("stars", "gas"))
    mass_inside = [10 ** menc_at(radius, m, 3 * r_e[:, None].astype(float))[:, 0] for m in (stars, gas)]
    mass_inside[1] = np.nan_to_num(mass_inside[1])  # of galaxies without gas
    density, velocity, dispersion = (maps[:, i].astype(float) for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "log10_stellar_mass": np.log10(stars[:, -1]),
            "inclination": store.read(part.group, "inclination", numbers).reshape(-1),
            "gas_fraction": mass_inside[1] / (mass_inside[0] + mass_inside[1]),
            "rotation_support": np.sqrt((density * velocity**2).sum((1, 2)) / (density * dispersion**2).sum((1, 2))),
        }
