"""Compiles functions of numbers, and keeps what was compiled for the next process where there is a place for it."""

import contextlib
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache


class _Kept(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, whose files only save time: damaged ones are made anew, on a full disk none is.

    A power cut leaves files with their names and without their content; numba would raise whatever unpickling these
    raises, each time until somebody finds and removes them.
    """

    def _load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super()._load_overload(signature, target)
        except Exception:
            with contextlib.suppress(OSError):
                self.flush()  # or the damaged index would be read again to be written
            return None

    def _save_overload(self, signature: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super()._save_overload(signature, data)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function with numba, which is told further options.

    Where neither the installation nor the user's home can be written to, as in some containers and service accounts,
    each process compiles anew, which takes some seconds. So it does where what was kept is damaged.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        """Compile a function when it is first called."""
        dispatcher = njit(nogil=True, error_model="numpy", **options)(function)
        try:
            dispatcher._cache = _Kept(function)  # as `cache=True` does with numba's own
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
        return dispatcher

    return decorate
