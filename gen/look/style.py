"""How pictures are drawn, whoever draws them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_style() -> Iterator[None]:
    """Draw as matplotlib comes while the block runs, whatever the user's own matplotlibrc says; also a decorator.

    Who has `text.usetex` there for papers has no LaTeX on a node that trains, and galaxies' names are no LaTeX;
    `image.origin: lower` would turn pictures over.
    """
    from matplotlib import style  # where it is needed, as it takes a while

    with style.context("default"):
        yield
