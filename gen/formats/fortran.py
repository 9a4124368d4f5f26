"""Fortran's sequential binary files: records between two marks of four bytes that hold their size."""

import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kinmass.gen.formats.base import SnapshotError
from kinmass.gen.formats.once import status


class Records:
    """Reads the records of a file in turn, and checks both marks of each. Raises SnapshotError naming the file."""

    def __init__(self, path: Path, order: Literal["<", ">"] = "<"):
        self.path, self.order, self.at = path, order, 0
        try:
            self.size = status(path).st_size
            self._file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise SnapshotError(
                f"{path}: missing or unreadable ({error.strerror}); get all files of its folder"
            ) from error

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    def broken(self, why: str) -> SnapshotError:
        """Make the error for a file that is not as its own numbers say."""
        return SnapshotError(f"{self.path}: {why} at byte {self.at} of {self.size}; cut short or damaged? Get it again")

    def _mark(self, at: int) -> int:
        self._file.seek(at)
        raw = self._file.read(4)
        if len(raw) < 4:
            raise self.broken("ends within a record")
        return int(struct.unpack(self.order + "i", raw)[0])

    def peek(self) -> int:
        """Return the size in bytes that the next record's first mark says."""
        return self._mark(self.at)

    def skip(self, expected_bytes: int | None = None, times: int = 1) -> int:
        """Go past some records, of `expected_bytes` each where that is given; return the last one's size in bytes."""
        for _ in range(times):
            n = self._mark(self.at)
            if n < 0 or self.at + n + 8 > self.size or (expected_bytes is not None and n != expected_bytes):
                raise self.broken(f"a record of {n} bytes{'' if expected_bytes is None else f', not {expected_bytes}'}")
            if self._mark(self.at + 4 + n) != n:
                raise self.broken(f"a record of {n} bytes without its end")
            self.at += n + 8
        return n

    def read(self, kind: str, count: int | None = None) -> np.ndarray:
        """Read one record of numbers (n,) of a NumPy kind, of which there must be count where that is given."""
        dtype = np.dtype(kind).newbyteorder(self.order)
        start, n = self.at + 4, self.skip(None if count is None else count * dtype.itemsize)
        if n % dtype.itemsize:
            raise self.broken(f"a record of {n} bytes before the end")
        self._file.seek(start)
        return np.frombuffer(self._file.read(n), dtype)

    def number(self, kind: str) -> Any:
        """Read one record of a single number of a NumPy kind."""
        return self.read(kind, 1)[0].item()

    def last_record(self) -> int:
        """Return the size in bytes of the file's last record; 0 where no record ends there."""
        n = self._mark(self.size - 4) if self.size >= 8 else 0
        return n if 0 < n <= self.size - 8 and self._mark(self.size - 8 - n) == n else 0


def record(values: Any, kind: str | None = None, order: Literal["<", ">"] = "<") -> bytes:
    """Return a record of numbers of a NumPy kind, or of bytes, as Fortran writes it."""
    data = values if isinstance(values, bytes) else np.asarray(values, np.dtype(kind).newbyteorder(order)).tobytes()
    mark = struct.pack(order + "i", len(data))
    return mark + data + mark
