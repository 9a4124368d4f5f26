"""The streams that a command prints to: whoever stops reading them, or has closed them, does not stop the work."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class _Forgiving(io.FileIO):
    """A stream that goes nowhere once its reader is gone, as `kinmass ... | head` leaves it, or its disk is full.

    refused: the error of the system, where it could not be written; not where nobody reads it any more.
    """

    refused: OSError | None = None

    def write(self, content: Any) -> int:
        """Write bytes, or drop them where that is not possible any more."""
        try:
            return super().write(content)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.refused = error
            _to_nowhere(self.fileno())
            return memoryview(content).nbytes


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Let a command work to its end whatever becomes of its output: a decorator of the function that runs it.

    A command may print before its last file is written. So what nobody reads is dropped; letters that a terminal does
    not know are printed as \\u escapes; a stream that was closed leads nowhere, or the first file that is opened would
    take its number, and what a library prints. Ends with exit code 2 where the output cannot be written.
    """
    _open_what_is_closed()
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:  # else somebody has put others in their place
        sys.stdout, sys.stderr = _forgiving(before[0]), _forgiving(before[1])
    mine = [stream for stream in (sys.stdout, sys.stderr) if stream not in before]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        _end(mine)


def _open_what_is_closed() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
            setattr(sys, f"__{name}__", getattr(sys, name))


def _forgiving(stream: Any) -> Any:
    """Return a stream to the same place that forgives; `stream` itself where it is no file."""
    try:
        stream.flush()
        raw = _Forgiving(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError, AttributeError):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering
    )


def _end(streams: list[Any]) -> None:
    """Write what is left of streams of `_Forgiving`. Raises SystemExit where one could not be written to its end."""
    for stream in streams:
        stream.flush()
    if refused := [error for stream in streams if (error := stream.buffer.raw.refused)]:
        said = f"kinmass: what was printed cannot be written ({refused[0].strerror}); make room, or print it elsewhere"
        with contextlib.suppress(OSError):  # nor may this
            os.write(2, f"{said}\n".encode())
        raise SystemExit(2) from refused[0]


def _to_nowhere(number: int) -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, number)
    os.close(descriptor)
