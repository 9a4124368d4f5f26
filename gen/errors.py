"""What a command says before the traceback of an error that nobody foresaw; the foreseen ones are a sentence alone."""

import contextlib
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence


class MissingMPIError(ValueError):
    """There is no MPI on this machine, or none that mpi4py finds."""


def is_said(error: BaseException) -> bool:
    """Whether an exception is one that this project words for its user: nothing more is to be known of it."""
    return isinstance(error, ValueError) and type(error).__module__.partition(".")[0] == "kinmass"


def in_words(error: BaseException) -> str:
    """An exception for a log: its message, where that is a sentence for the user; else type and traceback, too."""
    return str(error) if is_said(error) else "".join(traceback.format_exception(error)).rstrip()


@contextlib.contextmanager
def named(command: str, arguments: Sequence[str] | None) -> Iterator[None]:
    """An exception that leaves this block keeps its type and traceback; a sentence says which command it is of.

    command: as in "fit". arguments: of its command line, None for those that this process was started with.
    """
    try:
        yield
    except Exception as error:
        line = shlex.join(["kinmass", *(sys.argv[1:] if arguments is None else arguments)])
        what = f"{type(error).__name__}, which was not foreseen, in `{line}`"
        print(f"kinmass {command}: {what}; traceback:", file=sys.stderr)
        raise
