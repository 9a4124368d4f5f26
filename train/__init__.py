"""Stage two: a map store in, a probabilistic network that infers the mass profile out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinmass.train.run.posterior import Inference, Posterior, load

__all__ = ["Inference", "Posterior", "load"]


def __getattr__(name: str) -> Any:
    """What __all__ names, read when it is asked for: a command's --help needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kinmass.train.run import posterior

    return getattr(posterior, name)
