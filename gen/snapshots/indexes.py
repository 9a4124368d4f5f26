"""What yt has found out about a big snapshot, kept for whoever opens the same files next."""

import contextlib
import json
import shutil
from hashlib import blake2b, file_digest
from pathlib import Path

from kinmass.gen.formats.domain import side_file
from kinmass.gen.storage.files import aside, write_atomically

#: Of what is kept: a new one where a snapshot's domain, or what stands in these files, is made in another way.
VERSION = 2


class KeptIndex:
    """yt's index of a staged snapshot and the extents of its particles, in a folder under a name that marks tell.

    marks: whatever the index depends on. The extents' file is written last and knows the index's digest, so that
    no damaged index, which would pass over particles without a word, is ever read.
    """

    def __init__(self, folder: Path, staged: Path, marks: object):
        name = blake2b(repr((VERSION, marks)).encode(), digest_size=16).hexdigest()
        self.index, self.extents = folder / f"{name}.ewah", folder / f"{name}.json"
        self.own_index, self.own_extents = staged.with_name(f"{staged.name}.ewah"), side_file(staged)

    def fetch(self) -> bool:
        """Put copies beside the staged snapshot, as yt may write to its index; whether there are any that are sound."""
        try:
            kept = json.loads(self.extents.read_text())
            shutil.copyfile(self.index, self.own_index)
            if _digest(self.own_index) == kept["index"]:
                self.own_extents.write_text(json.dumps(kept["extents"]))
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.forget()
        return False

    def forget(self) -> None:
        """Take away the copies, so that both are made again."""
        for file in (self.own_index, self.own_extents):
            file.unlink(missing_ok=True)

    def keep(self) -> None:
        """Keep what yt has made, if it has: it makes none of a snapshot in one chunk."""
        if not self.own_index.exists():
            return
        with contextlib.suppress(OSError):  # it only saves time
            self.index.parent.mkdir(parents=True, exist_ok=True)
            with aside(self.index) as partial:
                shutil.copyfile(self.own_index, partial)
            extents = json.loads(self.own_extents.read_text())
            write_atomically(self.extents, json.dumps({"index": _digest(self.own_index), "extents": extents}))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "blake2b").hexdigest()
