"""Writes galaxies into a suite's group, each or each shard of them at once."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.core.sync import sync

from kinmass.gen.storage.chunks import galaxies_per_file
from kinmass.gen.storage.store import ARRAYS, DONE, FAILED, PENDING, Record, StoreError, read, read_galaxy


def write_galaxies(group: zarr.Group, numbers: Sequence[int] | int, records: Sequence[Record | None]) -> None:
    """Write galaxies at their numbers, as `Writer.write` does."""
    Writer(group).write(numbers, records)


class Writer:
    """Writes galaxies into a suite's group, whose arrays it opens once."""

    def __init__(self, group: zarr.Group):
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {name: group[name] for name in ARRAYS}  # type: ignore[misc]

    def write(self, numbers: Sequence[int] | int, records: Sequence[Record | None]) -> None:
        """Write galaxies at their numbers, one chunk or whole shard after the other, their status last.

        A record of None is a galaxy that failed. Only one process may write a shard: each array is written
        once, together with the finished galaxies that the shard holds already. Raises StoreError for
        numbers that the group does not have or that come twice, and where one of these finished galaxies
        cannot be read.
        """
        wanted_numbers = np.atleast_1d(numbers).tolist()
        record_of = dict(zip(wanted_numbers, records, strict=True))
        status = self._arrays["status"]
        n_galaxies, per_shard = status.shape[0], galaxies_per_file(status)
        if len(record_of) < len(records) or not all(0 <= number < n_galaxies for number in record_of):
            root = self._group.store_path.store.root  # type: ignore[attr-defined]
            raise StoreError(f"{root} has galaxies 0 to {n_galaxies - 1}, not {wanted_numbers}")
        for shard in sorted({number // per_shard for number in record_of}):
            self._write_shard(range(shard * per_shard, min((shard + 1) * per_shard, n_galaxies)), record_of)

    def _write_shard(self, numbers: range, record_of: dict[int, Record | None]) -> None:
        records = {number: record_of[number] for number in numbers if number in record_of}
        status = np.array([DONE if records.get(number) else FAILED for number in numbers], dtype=np.uint8)
        for position, number in enumerate(numbers):
            if number not in record_of:
                status[position] = PENDING
                with contextlib.suppress(StoreError):  # a status that cannot be read counts as pending
                    status[position] = read(self._group, "status", number)
                records[number] = read_galaxy(self._group, number) if status[position] == DONE else None
        if any(records.values()):
            values = {}
            for name, array in self._arrays.items():
                if name != "status":
                    blank = np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
                    values[name] = np.stack([record[name] if (record := records[n]) else blank for n in numbers])
            self._assign(numbers, values)
        self._assign(numbers, {"status": status})

    def _assign(self, numbers: range, values: dict[str, np.ndarray]) -> None:
        """Write a shard of some arrays, all at the same time: each of them waits more than it works."""
        shard = slice(numbers.start, numbers.stop)

        async def assign() -> list[BaseException | None]:
            """Write all arrays at once; return the error of each, or None."""
            writes = (self._arrays[name].async_array.setitem(shard, value) for name, value in values.items())
            return await asyncio.gather(*writes, return_exceptions=True)

        failed = {name: error for name, error in zip(values, sync(assign()), strict=True) if error is not None}
        for error in failed.values():
            if isinstance(error, OSError) or not isinstance(error, Exception):
                raise error
        for name, error in failed.items():  # zarr reads the shard that it replaces, and perhaps cannot
            with contextlib.suppress(ValueError, RuntimeError):
                _ = self._arrays[name][shard]
                raise error
            _replace(self._arrays[name], shard, values[name])


def _replace(array: zarr.Array, galaxies: slice, values: np.ndarray) -> None:
    """Write a whole shard without reading the one that it replaces, which stays until the new one is written."""
    folder = Path(array.store_path.store.root) / array.path
    chunk = galaxies.start // galaxies_per_file(array)
    aside = folder / f"c.{chunk}.{uuid4().hex}.partial"
    aside.mkdir()
    shutil.copyfile(folder / "zarr.json", aside / "zarr.json")
    zarr.open_array(aside, mode="r+")[galaxies] = values
    (written,) = [path for path in aside.rglob("*") if path.is_file() and path.name != "zarr.json"]
    place = folder / written.relative_to(aside)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, place)
    shutil.rmtree(aside)


def clear_unfinished(store: Path, suite: str, chunk: int) -> None:
    """Remove the half-written files that a killed process left of one chunk or shard."""
    for name in ARRAYS:
        # Stores of earlier versions have a folder for each dimension of a chunk.
        patterns = f"c.{chunk}.*.partial", f"c/{chunk}.*.partial", f"c/{chunk}/**/*.partial"
        for partial in [path for pattern in patterns for path in (store / suite / name).glob(pattern)]:
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
