"""Stage two: trains, from a map store, a probabilistic network that infers mass profiles."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinmass.train.run.posterior import Inference, Posterior, load

__all__ = ["Inference", "Posterior", "load"]


def __getattr__(name: str) -> Any:
    """Import what __all__ names on first use, so that a command's --help does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kinmass.train.run import posterior

    return getattr(posterior, name)
