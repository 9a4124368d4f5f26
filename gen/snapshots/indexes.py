"""Keeps where the blocks of a big snapshot lie for the next process that opens the same files."""

import contextlib
import json
import shutil
from hashlib import blake2b, file_digest
from pathlib import Path

from kinmass.gen.formats.domain import blocks_file, side_file
from kinmass.gen.storage.files import aside, write_atomically

#: Version of the kept files: raise it when a snapshot's domain, or the content of these files, is made in another way.
VERSION = 7


class KeptIndex:
    """Where the blocks of a staged snapshot lie, and the extents of its particles, kept in a folder.

    marks: all that the index depends on; the files' name is a digest of it. The file of the extents is written last and
    holds the index's digest, so that a damaged index, which would silently miss particles, is never read.
    """

    def __init__(self, folder: Path, staged: Path, marks: object):
        name = blake2b(repr((VERSION, marks)).encode(), digest_size=16).hexdigest()
        self.index, self.extents = folder / f"{name}.npz", folder / f"{name}.json"
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


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "blake2b").hexdigest()
