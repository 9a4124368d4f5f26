"""Asks the file system once for what several steps of one opening need: a header, names in a folder, a link's end."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Q = TypeVar("Q")
T = TypeVar("T")
_answers: ContextVar[dict[Any, Any] | None] = ContextVar("answers", default=None)


@contextmanager
def asking_once() -> Iterator[None]:
    """Inside the block each function that is marked `once` runs once for the same arguments; its errors are not kept.

    Files may change between two such blocks: nothing is kept from one to the next.
    """
    if _answers.get() is not None:
        yield
        return
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


def _kept(key: object, ask: Callable[[], T]) -> T:
    """Return the answer that is kept under a key, or ask."""
    answers = _answers.get()
    if answers is None:
        return ask()
    if key not in answers:
        answers[key] = ask()
    return answers[key]  # type: ignore[no-any-return]


def once(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function of hashable arguments whose result nobody changes, for `asking_once`."""

    @wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        """Return the answer that is kept, or call the function."""
        return _kept((function, args, tuple(kwargs.items())), lambda: function(*args, **kwargs))

    return asked


def once_by_path(function: Callable[[Path, Q], T]) -> Callable[[Path, Q], T]:
    """Mark a function of a path and of the file that is open there, as `once` does: only the path tells calls apart."""

    @wraps(function)
    def asked(path: Path, file: Q) -> T:
        """Return the answer that is kept for the path, or call the function."""
        return _kept((function, path), lambda: function(path, file))

    return asked


@once
def names_in(folder: Path) -> tuple[str, ...]:
    """List the names in a folder. Raises OSError."""
    return tuple(os.listdir(folder))


@once
def _own_status(path: Path) -> os.stat_result:
    """Return the size, times and kind of a file, or of a link that lies in its place. Raises OSError."""
    return path.lstat()


@once
def status(path: Path) -> os.stat_result:
    """Return the size, times and kind of a file, also behind a link. Raises OSError."""
    own = _own_status(path)
    return path.stat() if stat.S_ISLNK(own.st_mode) else own


@once
def true_path(path: Path) -> Path:
    """Return a path without links, as `Path.resolve` does, but without a further look at its end, or at its folders."""
    in_folder = _true_folder(path.parent) / path.name
    try:
        is_link = stat.S_ISLNK(_own_status(path).st_mode)
    except OSError:  # what is not there is no link
        is_link = False
    return Path(os.path.realpath(in_folder)) if is_link else in_folder


@once
def _true_folder(folder: Path) -> Path:
    return Path(os.path.realpath(folder))
