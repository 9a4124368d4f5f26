"""Errors in words: an expected error is one sentence for the user, any other is a sentence and a traceback."""

import contextlib
import errno
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType


class MissingMPIError(ValueError):
    """There is no MPI library on this machine, or none that mpi4py finds."""


def is_user_error(error: BaseException) -> bool:
    """Whether `sentence` of an exception is a message for the user, so that no traceback is needed."""
    is_ours = isinstance(error, ValueError) and type(error).__module__.partition(".")[0] == "kinmass"
    return is_ours or _odd_byte(error) is not None or _wants_threads(error)


def _wants_threads(error: BaseException) -> bool:
    """Whether the system has refused to start a thread, as where a login node limits a user's processes."""
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def _odd_byte(error: BaseException) -> re.Match[str] | None:
    """Find the byte for which the name of a file or folder could not be written down, as it is no UTF-8.

    In `args`: an error that numpy raised was once seen to have no `object`. None for any other error.
    """
    name = error.args[1] if isinstance(error, UnicodeEncodeError) and len(error.args) > 1 else ""
    return re.search("[\udc80-\udcff]", str(name))


#: The system's errors when a disk is full, or a quota or a file-size limit is reached.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sentence(error: BaseException) -> str:
    """An expected error as a sentence for the user. Of a full disk Python says neither what to do nor always where."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = f": {error.filename}" if error.filename else ""
        return f"no room left to write ({error.strerror}{where}); make room and give the same command again"
    if found := _odd_byte(error):
        near = found.string[max(0, found.start() - 80) : found.end() + 40].encode(errors="backslashreplace").decode()
        return f"the name of a file or folder is no UTF-8, as old ones in Latin-1 ({near}); rename it"
    if _wants_threads(error):
        return (
            "no more threads can be started: raise the limit of processes or memory (`ulimit -u`, `ulimit -v`), or set "
            "OMP_NUM_THREADS=1"
        )
    return str(error)


def in_words(error: BaseException) -> str:
    """An exception as text for a log: the message alone if it is for the user, otherwise with type and traceback.

    What a file system refuses is for the user, too.
    """
    is_expected = is_user_error(error) or isinstance(error, OSError)
    return sentence(error) if is_expected else "".join(traceback.format_exception(error)).rstrip()


#: What a shell shows of Ctrl-C.
_INTERRUPTED = "\nkinmass: interrupted; the same command goes on where it stood"


def say_interrupted_in_words() -> None:
    """Have Ctrl-C, where a command does not handle it, end this process with a sentence in place of a traceback.

    The process still dies of the signal, by which a shell knows that its script is to end, too. Does nothing where
    somebody else, such as mpi4py, says what becomes of exceptions.
    """

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Print a sentence for Ctrl-C, and any other exception as usual."""
        if issubclass(kind, KeyboardInterrupt):
            print(_INTERRUPTED, file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = say
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Python does at Ctrl-C; while a module is imported, end the process at once.

    Torch and other libraries take an exception in the midst of their import for an error of their own: of one they
    abort, of another they begin anew without end.
    """
    caller = frame
    while caller:
        if caller.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, f"{_INTERRUPTED}\n".encode())
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caller = caller.f_back
    signal.default_int_handler(number, frame)


@contextlib.contextmanager
def named(command: str, arguments: Sequence[str] | None) -> Iterator[None]:
    """Print which command failed when an exception leaves this block; its type and traceback are kept.

    One that is for the user ends the process with a sentence and exit code 2. command: its name, such as "fit".
    arguments: those of its command line, None for those of this process.
    """
    try:
        yield
    except Exception as error:
        if is_user_error(error):
            print(f"kinmass {command}: {sentence(error)}", file=sys.stderr)
            raise SystemExit(2) from error
        command_line = shlex.join(["kinmass", *(sys.argv[1:] if arguments is None else arguments)])
        said = f"{type(error).__name__}, which was not foreseen, in `{command_line}`"
        print(f"kinmass {command}: {said}; traceback:", file=sys.stderr)
        raise
