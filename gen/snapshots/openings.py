"""Keeps what opening a snapshot of many files has found, for other processes that open the same files.

A rank asks a shared file system some fifteen times about each file of a snapshot to open it: of a box in hundreds of
files, opened by hundreds of ranks, that would take longer than mapping its galaxies.
"""

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from kinmass.gen.code import digest_of
from kinmass.gen.formats import CodeUnits
from kinmass.gen.formats.base import Format
from kinmass.gen.formats.smoothing import Smoothing
from kinmass.gen.storage.files import write_atomically

_FIRST, _TIMES = "first", "times.json"
_DIGEST_BYTES = 32


class Facts(NamedTuple):
    """What a snapshot's headers say: its units and kernels, and the particles of each type that they promise."""

    units: CodeUnits
    smoothing: Smoothing
    promised: Mapping[str, int]


class KeptOpening:
    """A snapshot as it is staged for yt, and its facts, kept in a folder by the name of its index.

    That name is of this code alone. said: what a suite file says of it, on which the facts depend, too.
    """

    def __init__(self, folder: Path, index_name: str, said: object = None):
        self._staged = folder / f"{index_name}.staged"
        self._facts = folder / f"{digest_of(index_name, said)}.facts"

    def fetch(self, scratch: str) -> tuple[Path, Facts] | None:
        """Return the path that yt opens, in a scratch folder, and the facts; None where either is not kept."""
        facts = self._read_facts()
        staged = self.staged(Path(scratch)) if facts else None
        return (staged, facts) if staged and facts else None

    def _read_facts(self) -> Facts | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._facts.read_text())
            return Facts(CodeUnits(**kept["units"]), Smoothing(**kept["smoothing"]), dict(kept["promised"]))
        return None

    def staged(self, scratch: Path) -> Path | None:
        """Copy the staged files into a scratch folder, and return the path that yt opens; None where none are kept."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, tarfile.TarError):
            content = self._staged.read_bytes()
            if sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
                return None
            with tarfile.open(fileobj=io.BytesIO(content[_DIGEST_BYTES:])) as archive:
                archive.extractall(scratch, filter="data")
            times = json.loads((scratch / _TIMES).read_text())
            first = scratch / Path(times.pop(_FIRST)).name
            for name, mtime_ns in times.items():  # by which yt knows a file; the archive has seconds alone
                os.utime(scratch / Path(name).name, ns=(mtime_ns, mtime_ns))
            return first
        return None

    def is_staged(self) -> bool:
        """Tell whether staged files are kept."""
        return self._staged.exists()

    def keep(self, staged: Path, facts: Facts) -> None:
        """Keep an opening for `fetch`. Does nothing where it cannot."""
        self.keep_staged(staged)
        words = {
            name: value if isinstance(value, Mapping) else asdict(value) for name, value in facts._asdict().items()
        }
        with contextlib.suppress(OSError):  # it only saves time
            write_atomically(self._facts, json.dumps(words))

    def keep_staged(self, staged: Path) -> None:
        """Keep the staged files, which lie beside each other, unless they are. Does nothing where it cannot."""
        if self.is_staged():
            return
        files = sorted(staged.parent.glob("*.hdf5"))
        times = {_FIRST: staged.name, **{path.name: path.stat().st_mtime_ns for path in files}}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            head = tarfile.TarInfo(_TIMES)
            head.size = len(words := json.dumps(times).encode())
            archive.addfile(head, io.BytesIO(words))
            for path in files:
                archive.add(path, path.name)
        with contextlib.suppress(OSError):  # it only saves time
            self._staged.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._staged, sha256(packed.getvalue()).digest() + packed.getvalue())


def is_worth_keeping(snapshot_format: Format, files: list[Path]) -> bool:
    """Tell whether opening a snapshot of these files is kept: of a single one there is little to save."""
    return len(files) > 1 and snapshot_format.container == "hdf5"
