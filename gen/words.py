"""Numbers of things, and lists of them, in words, for what is printed."""

from collections.abc import Sequence


def counted(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun; `many` is the plural where that is not `one` with an s.

    >>> counted(1, "galaxy", "galaxies"), counted(20_000, "galaxy", "galaxies"), counted(0, "view")
    ('1 galaxy', '20000 galaxies', '0 views')
    """
    return f"{n} {one if n == 1 else many or one + 's'}"


def few(names: Sequence[object], most: int = 3) -> str:
    """Return the first names of a list, with dots for the others.

    >>> few(["a", "b"]), few("abcd")
    ('a, b', 'a, b, c, ...')
    """
    return ", ".join([*map(str, names[:most]), *(["..."] if len(names) > most else [])])
