"""zarr's store of local files, with fewer calls to the file system for each chunk that is written."""

import asyncio
import os
from pathlib import Path
from uuid import uuid4

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore


class ChunkFiles(LocalStore):
    """A `LocalStore` that takes a chunk's folder to exist, and makes it only where it does not."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value aside and rename it, as `LocalStore.set` does. Raises OSError."""
        if self._is_open and not self.read_only and isinstance(value, Buffer):
            try:
                await asyncio.to_thread(_replace_file, self.root / key, value)
                return
            except FileNotFoundError:  # its folder is missing
                pass
        await super().set(key, value)


def _replace_file(path: Path, value: Buffer) -> None:
    partial = path.with_suffix(f".{uuid4().hex}.partial")
    try:
        with open(partial, "wb", buffering=0) as file:
            view = memoryview(value.as_buffer_like()).cast("B")
            while view:
                view = view[file.write(view) :]
        os.replace(partial, path)
    except Exception:
        partial.unlink(missing_ok=True)
        raise
