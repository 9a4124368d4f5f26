"""What a command says before the traceback of an error that nobody foresaw; the foreseen ones are a sentence alone."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence


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
