"""Writes pictures under names that follow from a galaxy's, which galaxies of other stores may have as well."""

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from kinmass.gen.options import OptionError
from kinmass.gen.storage.files import aside

#: The key of a PNG's text that says what the picture was made of.
_SOURCE = "Source"


def save_picture(figure: Figure, path: Path, source: Path, dpi: int) -> None:
    """Write a figure as a PNG that says in its text what it was made of, over an earlier one of the same source only.

    source: the store, or the snapshots, that the galaxy is of. Raises OptionError where another picture, or anything
    else, has the name; OSError where it cannot be written.
    """
    made_of = str(source.resolve())
    if path.exists():
        try:
            with Image.open(path) as picture:
                there = picture.info.get(_SOURCE)
        except (UnidentifiedImageError, IsADirectoryError):
            there = None
        if there != made_of:
            of = f"a picture of {there}" if there else "something that is no picture of this version"
            raise OptionError(f"{path} is there already, {of}; give another --out, or remove it")
    with aside(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png", metadata={_SOURCE: made_of})
