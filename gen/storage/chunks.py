"""Zarr's chunks as files: which file one is, and what checksums say that galaxies are, without reading any map.

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

_CHECKSUM = 4  # bytes of a CRC32C
_ENTRY = 16  # bytes of a chunk's place and length in a shard's index, which is the shard's end


def chunk_file(array: zarr.Array[Any], at: Sequence[int]) -> Path:
    """The file of a chunk, or of a whole shard, by its place in the grid of chunks; it need not be there."""
    root: Any = array.store_path.store
    return Path(root.root) / array.path / array.metadata.encode_chunk_key(tuple(at))


def sync_chunk(array: zarr.Array[Any], at: Sequence[int]) -> None:
    """Bring a chunk that was written to the disk; one of fill values alone has no file."""
    file = chunk_file(array, at)
    for path in (file, file.parent):
        if path.exists():
            sync_folder(path)


def fingerprint(group: zarr.Group, numbers: np.ndarray) -> bytes:
    """A digest of everything that a suite's group holds of some galaxies (N,) by their numbers, rising.

    Galaxies that are packed together are looked at together. Raises OSError where a file cannot be read.
    """
    found = blake2b(digest_size=16)
    for name in ARRAYS:
        array = group[name]
        packed = (array.shards or (1,))[0]
        for chunk in dict.fromkeys((np.asarray(numbers) // packed).tolist()):
            checksums = _checksums(chunk_file(array, (chunk, *(0,) * (array.ndim - 1))), packed)
            found.update(len(checksums).to_bytes(8, "little") + checksums)
    return found.digest()


def _checksums(path: Path, packed: int) -> bytes:
    """Size and checksums of a chunk, or of a shard of so many; nothing where nothing was written."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            index = _CHECKSUM + (_ENTRY * packed if packed > 1 else 0)
            file.seek(max(0, size - index))
            found = [size.to_bytes(8, "little"), file.read()]
            if packed == 1:
                return b"".join(found)
            for offset, length in np.frombuffer(found[1][:-_CHECKSUM], "<u8").reshape(-1, 2).tolist():
                if offset + length <= size:  # else there is nothing at this place, or the shard is damaged
                    file.seek(offset + length - _CHECKSUM)
                    found.append(file.read(_CHECKSUM))
            return b"".join(found)
    except FileNotFoundError:
        return b""
