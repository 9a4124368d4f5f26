"""Numbers of things in words, for what is printed."""


def counted(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun; `many` is the plural where that is not `one` with an s.

    >>> counted(1, "galaxy", "galaxies"), counted(20_000, "galaxy", "galaxies"), counted(0, "view")
    ('1 galaxy', '20000 galaxies', '0 views')
    """
    return f"{n} {one if n == 1 else many or one + 's'}"
