"""Zarr's chunks as files: the path of each, and a digest of galaxies from checksums, without reading any map.

Every chunk of a map store ends with a checksum of its content (`store.py`), and so does every chunk in a shard.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from kinmass.gen.storage.files import sync_folder
from kinmass.gen.storage.store import ARRAYS

CHECKSUM_BYTES = 4  # of a CRC32C
ENTRY_BYTES = 16  # of a chunk's place and length in a shard's index, which is the shard's end


def chunk_file(array: zarr.Array[Any], grid_place: Sequence[int]) -> Path:
    """Path of a chunk, or of a whole shard, by its place in the grid of chunks; the file need not exist."""
    root: Any = array.store_path.store
    return Path(root.root) / array.path / array.metadata.encode_chunk_key(tuple(grid_place))


def galaxies_per_file(array: zarr.Array[Any]) -> int:
    """Return how many galaxies of an array lie in one file: those of a shard, or of a chunk where it has no shards."""
    return int((array.shards or array.chunks)[0])


def sync_chunk(array: zarr.Array[Any], grid_place: Sequence[int]) -> None:
    """Sync a chunk that was written to the disk; a chunk of fill values alone has no file. Raises OSError."""
    file = chunk_file(array, grid_place)
    for path in (file, file.parent):
        if path.exists():
            sync_folder(path)


def fingerprint(group: zarr.Group, numbers: np.ndarray) -> bytes:
    """Digest everything that a suite's group holds of some galaxies; numbers (N,) are theirs, rising.

    Galaxies in one shard are digested together, also those not asked for. Raises OSError where a file cannot be read.
    """
    digest = blake2b(digest_size=16)
    for name in ARRAYS:
        array = group[name]
        per_file = galaxies_per_file(array)
        n_chunks = per_file // array.chunks[0] if array.shards else 0
        for number in dict.fromkeys((np.asarray(numbers) // per_file).tolist()):
            checksums = _checksums(chunk_file(array, (number, *(0,) * (array.ndim - 1))), n_chunks)
            digest.update(len(checksums).to_bytes(8, "little") + checksums)
    return digest.digest()


def _checksums(path: Path, n_chunks: int) -> bytes:
    """Size and checksums of a shard of so many chunks, or of a lone chunk (0); empty where no file was written."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            index_bytes = CHECKSUM_BYTES + ENTRY_BYTES * n_chunks
            file.seek(max(0, size - index_bytes))
            parts = [size.to_bytes(8, "little"), file.read(index_bytes)]
            if n_chunks == 0 or size < index_bytes:  # or it is half written: nothing in it is done
                return b"".join(parts)
            for offset, length in np.frombuffer(parts[1][:-CHECKSUM_BYTES], "<u8").reshape(-1, 2).tolist():
                if CHECKSUM_BYTES <= offset + length <= size:  # else it was not written, or the shard is damaged
                    file.seek(offset + length - CHECKSUM_BYTES)
                    parts.append(file.read(CHECKSUM_BYTES))
            return b"".join(parts)
    except FileNotFoundError:
        return b""
