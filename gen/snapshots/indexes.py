"""Keeps where the blocks of a big snapshot lie for the next process that opens the same files."""

import contextlib
import json
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kinmass.gen.code import digest_of, stage_key
from kinmass.gen.formats.base import Format
from kinmass.gen.formats.blocks import Blocks
from kinmass.gen.formats.domain import blocks_file, side_file
from kinmass.gen.formats.once import status, true_path
from kinmass.gen.storage.files import write_atomically

YT = version("yt")


class KeptIndex:
    """Where the blocks of a snapshot lie, and the extents of its particles, kept in a folder.

    The files' name is a digest of all that they depend on, this code too: it says which particles are of which type.
    The file of the extents is written last and holds the index's digest, so that a damaged index, which would silently
    miss particles, is never read. Raises SnapshotError where a file of the snapshot is missing.
    """

    def __init__(self, folder: Path, snapshot_format: Format, path: Path, light: str | None):
        files = snapshot_format.listed_files(path)
        marks = [(str(true_path(f)), (stat := status(f)).st_size, stat.st_mtime_ns) for f in files]
        self.name = digest_of(stage_key(), (marks, YT, snapshot_format.name, light))
        self.index, self.extents = folder / f"{self.name}.blocks", folder / f"{self.name}.json"

    def fetch(self, staged: Path) -> bool:
        """Copy the kept files beside the staged snapshot; False where none are sound."""
        try:
            kept, index = json.loads(self.extents.read_text()), self.index.read_bytes()
            if _digest(index) == kept["index"]:
                blocks_file(staged).write_bytes(index)
                side_file(staged).write_text(json.dumps(kept["extents"]))
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        forget(staged)
        return False

    def keep(self, staged: Path) -> None:
        """Keep what lies beside a staged snapshot in several blocks; of others there is nothing to keep."""
        if blocks_file(staged).exists():
            self._write(blocks_file(staged).read_bytes(), json.loads(side_file(staged).read_text()))

    def keep_blocks(self, blocks: Blocks, beside: Any) -> None:
        """Keep where blocks lie that were found in parts, and what lies beside them as JSON."""
        self._write(blocks.packed(), beside)

    def _write(self, index: bytes | memoryview, extents: Any) -> None:
        with contextlib.suppress(OSError):  # a kept index only saves time
            self.index.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.index, index)
            write_atomically(self.extents, json.dumps({"index": _digest(index), "extents": extents}))


def forget(staged: Path) -> None:
    """Remove what lies beside a staged snapshot, so that it is made again."""
    for file in (blocks_file(staged), side_file(staged)):
        file.unlink(missing_ok=True)


def _digest(index: bytes | memoryview) -> str:
    return sha256(index).hexdigest()
