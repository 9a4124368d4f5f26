"""Keeps where the blocks of a big snapshot lie for the next process that opens the same files."""

import contextlib
import json
import shutil
import tempfile
from hashlib import blake2b, file_digest
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

from kinmass.gen.formats import FORMATS
from kinmass.gen.formats.base import Format, Part, Slot, reading
from kinmass.gen.formats.domain import blocks_file, join_parts, part_file, side_file
from kinmass.gen.formats.frontends import forget_datasets
from kinmass.gen.formats.once import asking_once, status, true_path
from kinmass.gen.formats.stored import held_open
from kinmass.gen.storage.files import aside, write_atomically

#: Version of the kept files: raise it when a snapshot's domain, or the content of these files, is made in another way.
VERSION = 8
YT = version("yt")


class KeptIndex:
    """Where the blocks of a staged snapshot lie, and the extents of its particles, kept in a folder.

    The files' name is a digest of all that the index depends on. The file of the extents is written last and
    holds the index's digest, so that a damaged index, which would silently miss particles, is never read. Processes
    that share the search keep parts of it, which the first that finds all of them joins.
    """

    def __init__(self, folder: Path | None, snapshot_format: Format, path: Path, staged: Path, light: str | None):
        """folder: where indexes are kept; beside the staged snapshot, for no other process, where there is none."""
        files = snapshot_format.listed_files(path)
        marks = [(str(true_path(f)), (stat := status(f)).st_size, stat.st_mtime_ns) for f in files]
        depends_on = (VERSION, (marks, YT, snapshot_format.name, light))
        self._folder, self._staged = folder or staged.parent, staged
        self._name = blake2b(repr(depends_on).encode(), digest_size=16).hexdigest()
        self.index, self.extents = self._folder / f"{self._name}.npz", self._folder / f"{self._name}.json"
        self.staged_index, self.staged_extents = blocks_file(staged), side_file(staged)

    def fetch(self) -> bool:
        """Copy the kept files beside the staged snapshot; False where none are sound."""
        try:
            content = json.loads(self.extents.read_text())
            shutil.copyfile(self.index, self.staged_index)
            if _digest(self.staged_index) == content["index"]:
                self.staged_extents.write_text(json.dumps(content["extents"]))
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.forget()
        return False

    def forget(self) -> None:
        """Remove the copies beside the staged snapshot, so that both are made again."""
        for file in (self.staged_index, self.staged_extents):
            file.unlink(missing_ok=True)

    def keep(self) -> None:
        """Keep what was made of a snapshot in several blocks; of others there is nothing to keep."""
        if not self.staged_index.exists():
            return
        with contextlib.suppress(OSError):  # a kept index only saves time
            self.index.parent.mkdir(parents=True, exist_ok=True)
            with aside(self.index) as partial:
                shutil.copyfile(self.staged_index, partial)
            extents = json.loads(self.staged_extents.read_text())
            write_atomically(self.extents, json.dumps({"index": _digest(self.staged_index), "extents": extents}))
            for part in self._folder.glob(f"{self._name}.*.part"):
                part.unlink(missing_ok=True)

    def keep_part(self, part: Part) -> None:
        """Keep what was made of one part."""
        number, n_parts = part
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with aside(self._folder / f"{self._name}.{n_parts}.{number}.part") as partial:
                shutil.copyfile(part_file(self._staged), partial)

    def join(self) -> dict[str, int]:
        """Make both files beside the staged snapshot of the parts that are kept, where all are there and sound.

        Returns how many particles of each type lie at the origin; nothing where there are no such parts.
        """
        for first in sorted(self._folder.glob(f"{self._name}.*.0.part")):
            n_parts = int(first.name.split(".")[1])
            parts = [first.with_name(f"{self._name}.{n_parts}.{number}.part") for number in range(n_parts)]
            try:
                return join_parts(parts, self._staged)
            except (OSError, ValueError, LookupError, BadZipFile):
                self.forget()
        return {}


def find_part(path: Path, format_name: str, light: str | None, folder: Path, part: Part, slot: Slot) -> None:
    """Find where one part of a snapshot's blocks lie, and keep it for the process that joins all parts.

    Does nothing where the whole index is kept. Raises SnapshotError.
    """
    snapshot_format = FORMATS[format_name]
    with tempfile.TemporaryDirectory(prefix="kinmass-") as scratch, reading(path), asking_once():
        files = snapshot_format.files(path) if snapshot_format.container == "hdf5" else []
        with held_open(files):
            with slot():
                staged = snapshot_format.stage(path, Path(scratch), light)
            kept = KeptIndex(folder, snapshot_format, path, staged, light)
            if not kept.fetch():
                snapshot_format.load(staged, slot, part)
                kept.keep_part(part)
        forget_datasets()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "blake2b").hexdigest()
