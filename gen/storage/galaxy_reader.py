"""Reads galaxies of an array one by one into memory that is there already, without zarr's own cost for each chunk.

That cost, hops through an event loop and threads and new buffers, is twice that of decoding a galaxy's maps, and more
where they lie in a shard.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from kinmass.gen.storage import store
from kinmass.gen.storage.chunks import CHECKSUM_BYTES, ENTRY_BYTES, chunk_file, galaxies_per_file

#: Threads that read galaxies at once: on a file system of many disks each waits more than it works.
THREADS = 8


class GalaxyReader:
    """Reads single galaxies of group[name]; several threads may do so at once.

    What `suite_group.create_suite` would not write so, and what cannot be read, is left to zarr.
    """

    def __init__(self, group: zarr.Group, name: str):
        self._group, self._name = group, name
        self._array: zarr.Array[Any] = group[name]
        self._per_chunk, self._per_file = self._array.chunks[0], galaxies_per_file(self._array)
        codecs = self._array.metadata.codecs
        self._in_shards = self._array.shards is not None
        self._codecs = codecs[0].codecs if self._in_shards else codecs
        self._is_known = (
            sys.byteorder == "little"
            and self._array.chunks[1:] == self._array.shape[1:]
            and self._codecs[:1] == (BytesCodec(endian="little" if self._array.dtype.itemsize > 1 else None),)
            and [type(codec) for codec in self._codecs[1:]] == [ZstdCodec, Crc32cCodec]
            and (not self._in_shards or codecs[0].index_location.value == "end")
        )
        self._zstd = Zstd()

    def read_into(self, number: int, out: np.ndarray) -> None:
        """Write the galaxy with this number into `out`, which has one galaxy's shape and the array's dtype.

        Raises what `store.read` does: StoreError naming the galaxy that cannot be read, or OSError.
        """
        try:
            if not self._is_known:
                raise ValueError(f"{self._name} has other codecs")
            file_number, in_file = divmod(number, self._per_file)
            chunk_number, within = divmod(in_file, self._per_chunk)
            with open(chunk_file(self._array, (file_number, *(0,) * out.ndim)), "rb", buffering=0) as file:
                chunk = self._from_shard(file, chunk_number) if self._in_shards else file.read()
            decoded = self._zstd.decode(_checked(chunk))
            # Decoded into `out` at once, a chunk that is too short would leave another galaxy's numbers at its end.
            if len(decoded) != self._per_chunk * out.nbytes:
                raise ValueError(f"{len(decoded)} bytes instead of {self._per_chunk * out.nbytes}")
            out[...] = np.frombuffer(decoded, out.dtype).reshape(self._per_chunk, *out.shape)[within]
        except Exception:  # never written, or damaged: zarr fills it in, or says what is wrong
            out[...] = store.read(self._group, self._name, number)

    def _from_shard(self, file: BinaryIO, number: int) -> bytes:
        """Read one of a shard's chunks, whose places and lengths stand at the shard's end."""
        file.seek(-(ENTRY_BYTES * (self._per_file // self._per_chunk) + CHECKSUM_BYTES), 2)
        index = _checked(file.read()).view("<u8").reshape(-1, 2)
        offset, length = index[number].tolist()
        file.seek(offset)
        return file.read(length)


def read_galaxies(group: zarr.Group, names: Sequence[str], numbers: np.ndarray) -> list[np.ndarray]:
    """Read arrays (G, ...) of the galaxies with `numbers` (G,), in that order. Raises what `store.read` does."""
    readers = [GalaxyReader(group, name) for name in names]
    arrays = [np.empty((len(numbers), *group[name].shape[1:]), group[name].dtype) for name in names]

    def read_share(first: int) -> None:
        """Read every THREADS-th galaxy from the first on."""
        for row in range(first, len(numbers), THREADS):
            for reader, array in zip(readers, arrays, strict=True):
                reader.read_into(int(numbers[row]), array[row, ...])

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(read_share, range(min(THREADS, len(numbers)))))
    return arrays


def written_chunks(group: zarr.Group) -> list[int]:
    """List the chunks or shards of a suite of which a status was written: galaxies in all others are pending."""
    first: Path = chunk_file(group["status"], (0,))  # type: ignore[arg-type]
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(name) for name in os.listdir(first.parent) if name.isdecimal())
    return []


def read_statuses(
    group: zarr.Group, chunks: Iterable[int], unreadable_is_damaged: bool = False
) -> dict[int, np.ndarray]:
    """Read the statuses of galaxies by the chunks or shards that they lie in, each under its first galaxy's number.

    Raises StoreError naming one that cannot be read, unless unreadable_is_damaged: it is DAMAGED then.
    """
    reader, statuses = GalaxyReader(group, "status"), {}
    array: zarr.Array[Any] = group["status"]  # type: ignore[assignment]
    per_file = galaxies_per_file(array)
    for chunk in chunks:
        first = chunk * per_file
        status = np.full(max(min(per_file, array.shape[0] - first), 0), store.PENDING, dtype=np.uint8)
        for i in range(len(status)):
            try:
                reader.read_into(first + i, status[i, ...])
            except store.StoreError:
                if not unreadable_is_damaged:
                    raise
                status[i] = store.DAMAGED
        statuses[first] = status
    return statuses


def _checked(content: bytes) -> np.ndarray:
    """Return bytes without the CRC32C at their end. Raises ValueError where it is not theirs."""
    data, checksum = np.frombuffer(content, np.uint8, len(content) - CHECKSUM_BYTES), content[-CHECKSUM_BYTES:]
    if google_crc32c.value(data) != int.from_bytes(checksum, "little"):
        raise ValueError("the checksum differs")
    return data
