"""Several files of a folder changed at once or not at all, where a rename makes only one of them whole.

New files are written into a folder aside. The rename of that one decides; from then on whoever opens the folder moves
them into their places, if the process that wrote them did not live to do it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kinmass.gen.storage.files import sync_folder, sync_tree


def _decided(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.changes")


@contextlib.contextmanager
def change(folder: Path) -> Iterator[Path]:
    """A folder to put new files in, as they are to lie in `folder` when the block has ended well. For one process."""
    aside = folder.with_name(f".{folder.name}.changing")
    shutil.rmtree(aside, ignore_errors=True)  # of one that was killed before it decided
    aside.mkdir()
    yield aside
    sync_tree(aside)
    os.rename(aside, _decided(folder))
    sync_folder(folder.parent)
    finish(folder)


def finish(folder: Path) -> None:
    """Move what was decided into its place; several processes may do so at a time. Raises OSError."""
    decided = _decided(folder)
    if not decided.is_dir():
        return
    for inner, _, names in os.walk(decided, topdown=False):
        place = folder / Path(inner).relative_to(decided)
        place.mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                os.replace(Path(inner, name), place / name)
        sync_folder(place)
    for inner, _, _ in os.walk(decided, topdown=False):
        # Never with what is in it: another process may have decided on the next change by now.
        with contextlib.suppress(OSError):
            Path(inner).rmdir()
