"""Keeps where the blocks of a big snapshot lie for the next process that opens the same files."""

import contextlib
import json
import tempfile
from collections import Counter
from hashlib import blake2b, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from kinmass.gen.formats import FORMATS
from kinmass.gen.formats.base import Format, Part, Slot, reading
from kinmass.gen.formats.blocks import Blocks, joined
from kinmass.gen.formats.domain import blocks_file, check_written, side_file
from kinmass.gen.formats.frontends import forget_datasets
from kinmass.gen.formats.once import asking_once, status, true_path
from kinmass.gen.formats.stored import held_open
from kinmass.gen.storage.files import write_atomically

#: Version of the kept files: raise it when a snapshot's domain, or the content of these files, is made in another way.
VERSION = 10
YT = version("yt")


class Found(NamedTuple):
    """Where the blocks of one part of a snapshot lie, and how many particles of each type of it lie at the origin.

    of_index: name of the index that it is a part of, which is another's when the snapshot's files are replaced.
    """

    blocks: Blocks
    at_origin: dict[str, int]
    of_index: str


class KeptIndex:
    """Where the blocks of a snapshot lie, and the extents of its particles, kept in a folder.

    The files' name is a digest of all that they depend on. The file of the extents is written last and holds the
    index's digest, so that a damaged index, which would silently miss particles, is never read. Raises SnapshotError
    where a file of the snapshot is missing.
    """

    def __init__(self, folder: Path, snapshot_format: Format, path: Path, light: str | None):
        files = snapshot_format.listed_files(path)
        marks = [(str(true_path(f)), (stat := status(f)).st_size, stat.st_mtime_ns) for f in files]
        depends_on = (VERSION, (marks, YT, snapshot_format.name, light))
        name = blake2b(repr(depends_on).encode(), digest_size=16).hexdigest()
        self.index, self.extents = folder / f"{name}.blocks", folder / f"{name}.json"

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

    def keep_blocks(self, blocks: Blocks) -> None:
        """Keep where blocks lie that were found in parts."""
        self._write(blocks.packed(), {ptype: extent.tolist() for ptype, extent in blocks.extents().items()})

    def _write(self, index: bytes | memoryview, extents: Any) -> None:
        with contextlib.suppress(OSError):  # a kept index only saves time
            self.index.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.index, index)
            write_atomically(self.extents, json.dumps({"index": _digest(index), "extents": extents}))


def forget(staged: Path) -> None:
    """Remove what lies beside a staged snapshot, so that it is made again."""
    for file in (blocks_file(staged), side_file(staged)):
        file.unlink(missing_ok=True)


def find_part(path: Path, format_name: str, light: str | None, folder: Path, part: Part, slot: Slot) -> Found | None:
    """Find where one part of a snapshot's blocks lie, for `keep_parts`; None where its whole index is kept.

    Raises SnapshotError.
    """
    snapshot_format = FORMATS[format_name]
    with tempfile.TemporaryDirectory(prefix="kinmass-") as scratch, reading(path), asking_once():
        files = snapshot_format.files(path) if snapshot_format.container == "hdf5" else []
        with held_open(files):
            with slot():
                staged = snapshot_format.stage(path, Path(scratch), light)
            kept = KeptIndex(folder, snapshot_format, path, light)
            if kept.fetch(staged):
                return None
            ds = snapshot_format.load(staged, slot, part)
            forget_datasets()
            return Found(ds.blocks, ds.at_origin, kept.index.name)


def keep_parts(path: Path, format_name: str, light: str | None, folder: Path, parts: list[Found]) -> None:
    """Join all parts of a snapshot's blocks, in their order, and keep them as its index.

    Keeps nothing where a file was replaced meanwhile. Raises SnapshotError where positions were not written.
    """
    n_at_origin: Counter[str] = Counter()
    for part in parts:
        n_at_origin.update(part.at_origin)
    for ptype, n in n_at_origin.items():
        check_written(ptype, n)
    with reading(path):
        kept = KeptIndex(folder, FORMATS[format_name], path, light)
        if {part.of_index for part in parts} == {kept.index.name}:
            kept.keep_blocks(joined([part.blocks for part in parts]))


def _digest(index: bytes | memoryview) -> str:
    return sha256(index).hexdigest()
