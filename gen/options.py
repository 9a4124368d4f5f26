"""Checks of a command's options before it does anything; a wrong option is one sentence that names it."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

Options = TypeVar("Options")
#: Numbers must be finite; pydantic itself refuses fractions for integers.
STRICT = ConfigDict(allow_inf_nan=False)
#: A seed must fit into 63 bits, so that HDF5, FITS and JSON readers can hold it.
SEED = Field(ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")


class OptionError(ValueError):
    """An option with an impossible value: the message names the option, its value and what is allowed."""


def whole(low: int, high: int) -> Any:
    """A field of a checked dataclass that holds a whole number from low to high."""
    return Field(ge=low, le=high, description=f"a whole number from {low:,d} to {high:,d}")


#: A number of particles, or a range of numbers of which each galaxy draws its own.
Particles = int | tuple[int, int]


def _counts(least: int) -> AfterValidator:
    """The check of a number of particles from `least` on, or a range from 1 on."""

    def check(count: Particles) -> Particles:
        """Return the number or range as it is. Raises ValueError for one out of bounds."""
        low, high = count if isinstance(count, tuple) else (count, count)
        if not (max(least, 1) if isinstance(count, tuple) else least) <= low <= high <= 10**9:
            raise ValueError
        return count

    return AfterValidator(check)


def number_or_range(text: str) -> Particles:
    """Parse 20000, or 300-30000, for argparse. Raises ArgumentTypeError for anything else."""
    low, dash, high = text.partition("-")
    try:
        return (int(low), int(high)) if dash and low else int(text)
    except ValueError as error:
        raise ArgumentTypeError(f"must be a whole number, or a range such as 300-30000, not {text!r}") from error


def checked(make: Callable[..., Options], names: dict[str, str] | None = None, **values: Any) -> Options:
    """Build a pydantic dataclass: make(**values). Raises OptionError, worded by the description of each wrong field.

    names: the command-line option of a field, where that is not --field-name.
    """
    try:
        return make(**values)
    except ValidationError as error:
        fields: dict[str, Any] = make.__pydantic_fields__  # type: ignore[attr-defined]
        wrong_fields = dict.fromkeys(str(problem["loc"][0]) for problem in error.errors() if problem["loc"])
        raise OptionError(
            "; ".join(
                f"{(names or {}).get(key) or '--' + key.replace('_', '-')} must be {fields[key].description}, "
                f"not {_as_typed(values[key], '-' if isinstance(values[key], tuple) and key in _RANGES else ' ')}"
                for key in wrong_fields
            )
        ) from error


#: Fields whose ranges are typed as one word, LOW-HIGH.
_RANGES = ("stars", "gas", "dark")


def _as_typed(value: Any, between: str = " ") -> str:
    """A value as it is typed on the command line."""
    return between.join(map(_as_typed, value)) if isinstance(value, list | tuple) else str(value)


def _particles(least: int) -> Any:
    """A field of a checked dataclass that holds a number of particles, or a range of numbers."""
    return Field(description=f"a whole number from {least} to 1,000,000,000, or a range of such, as 300-30000")


@dataclass(frozen=True, config=STRICT)
class Mocks:
    """The number of mock galaxies of each suite, and of particles in each galaxy."""

    galaxies: int = whole(1, 100_000)
    stars: Annotated[Particles, _counts(1)] = _particles(1)
    gas: Annotated[Particles, _counts(0)] = _particles(0)
    dark: Annotated[Particles, _counts(1)] = _particles(1)
    seed: int = SEED


@dataclass(frozen=True, config=STRICT)
class Sharing:
    """How many ranks of a campaign read at a time, and how many it is foretold for, if it is."""

    readers: int = whole(1, 1_000_000)
    ranks: Annotated[int | None, whole(1, 1_000_000)] = None
