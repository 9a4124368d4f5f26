"""What a command is asked for, checked before it touches anything; what is wrong is one sentence with the option."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

Options = TypeVar("Options")
#: Numbers are finite, and what is said to be whole is.
STRICT = ConfigDict(allow_inf_nan=False)
#: Random numbers are seeded with what fits 63 bits, as HDF5, FITS and JSON readers hold it.
SEED = Field(ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")


class OptionError(ValueError):
    """An option that cannot be: the message names it, its value and what it may be."""


def whole(low: int, high: int) -> Any:
    """A whole number within limits, as a field of a checked dataclass."""
    return Field(ge=low, le=high, description=f"a whole number from {low:,d} to {high:,d}")


def checked(make: Callable[..., Options], names: dict[str, str] | None = None, **values: Any) -> Options:
    """make(**values), a pydantic dataclass. Raises OptionError in the words of each field's description.

    names: the option that a field is given by, where that is not --field-name.
    """
    try:
        return make(**values)
    except ValidationError as error:
        fields: dict[str, Any] = make.__pydantic_fields__  # type: ignore[attr-defined]
        wrong = dict.fromkeys(str(problem["loc"][0]) for problem in error.errors() if problem["loc"])
        raise OptionError(
            "; ".join(
                f"{(names or {}).get(key) or '--' + key.replace('_', '-')} must be {fields[key].description}, "
                f"not {_said(values[key])}"
                for key in wrong
            )
        ) from error


def _said(value: Any) -> str:
    return " ".join(map(_said, value)) if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True, config=STRICT)
class Mocks:
    """How many mock galaxies of each suite, and of how many particles."""

    galaxies: int = whole(1, 100_000)
    stars: int = whole(1, 10**9)
    gas: int = whole(0, 10**9)
    dark: int = whole(1, 10**9)
    seed: int = SEED


@dataclass(frozen=True, config=STRICT)
class Sharing:
    """How the ranks of a campaign share a file system."""

    readers: int = whole(1, 1_000_000)
