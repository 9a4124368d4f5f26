"""zarr's store of local files, with fewer calls to the file system for each chunk that is written."""

import asyncio
import os
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore


class ChunkFiles(LocalStore):
    """A `LocalStore` that takes a chunk's folder to exist, and makes it only where it does not.

    marked: names of arrays whose chunks count for nothing until another file, written later, says that they are whole.
    Their first chunks are written at their place at once, without a temporary name. A file that is there already is
    never opened for writing, whoever wrote it and whatever is in it: a new one is written aside and renamed over it.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False, marked: frozenset[str] = frozenset()):
        super().__init__(root, read_only=read_only)
        self.marked = marked

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value, None where there is none. Raises ValueError for an empty file, which zarr takes for a missing
        one where it reads a whole shard: some file systems leave such files after a power cut.
        """
        value = await super().get(key, prototype, byte_range)
        if value is not None and len(value) == 0:
            raise ValueError(f"{self.root / key} is empty")
        return value

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value aside and rename it, as `LocalStore.set` does; see `marked` for another way. Raises OSError."""
        if self._is_open and not self.read_only and isinstance(value, Buffer):
            name, _, within = key.partition("/")
            write = _create_file if name in self.marked and within != "zarr.json" else _replace_file
            try:
                await asyncio.to_thread(write, self.root / key, value)
                return
            except FileNotFoundError:  # its folder is missing
                pass
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value where there is none, without the hard link that zarr makes for it: some disks have no links.

        For groups and arrays in folders that no other process writes in.
        """
        if not await self.exists(key):
            await self.set(key, value)


def _create_file(path: Path, value: Buffer) -> None:
    """Write a new file at its place. What a kill or a full disk leaves of it is replaced by the next who writes it."""
    try:
        with open(path, "xb", buffering=0) as file:
            _write(file, value)
    except FileExistsError:
        _replace_file(path, value)


def _replace_file(path: Path, value: Buffer) -> None:
    partial = path.with_suffix(f".{uuid4().hex}.partial")
    try:
        with open(partial, "wb", buffering=0) as file:
            _write(file, value)
        os.replace(partial, path)
    except Exception:
        partial.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, value: Buffer) -> None:
    view = memoryview(value.as_buffer_like()).cast("B")
    while view:
        view = view[file.write(view) :]
