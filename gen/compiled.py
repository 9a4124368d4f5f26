"""Compiles functions of numbers, and keeps what was compiled for the next process where there is a place for it."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function with numba, which is told further options.

    Where neither the installation nor the user's home can be written to, as in some containers and service accounts,
    each process compiles anew, which takes some seconds.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        """Compile a function when it is first called."""
        try:
            return njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(nogil=True, error_model="numpy", **options)(function)

    return decorate
