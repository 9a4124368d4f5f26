"""Changes several files of a folder all at once or not at all; a rename alone does so for one file only.

New files are written into a folder aside. The change is decided when that folder is renamed: from then on any process
that opens the changed folder moves the files into their places, if their writer was killed before it could.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kinmass.gen.storage.files import sync_folder, sync_tree


def _decided_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.changes")


@contextlib.contextmanager
def change(folder: Path) -> Iterator[Path]:
    """Give a folder for new files; they are moved into `folder` when the block ends well. One process at a time."""
    aside = folder.with_name(f".{folder.name}.changing")
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed before it decided
    aside.mkdir()
    yield aside
    sync_tree(aside)
    os.rename(aside, _decided_folder(folder))
    sync_folder(folder.parent)
    finish(folder)


def forget(folder: Path) -> None:
    """Remove a change that was decided on a folder that is no longer there, so that no other is changed by it.

    Raises OSError.
    """
    if (decided := _decided_folder(folder)).is_dir() and not folder.exists():
        shutil.rmtree(decided)


def finish(folder: Path) -> None:
    """Move the files of a decided change into `folder`; several processes may do so at once. Raises OSError."""
    decided = _decided_folder(folder)
    if not decided.is_dir():
        return
    for inner, _, names in os.walk(decided, topdown=False):
        place = folder / Path(inner).relative_to(decided)
        place.mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            with contextlib.suppress(FileNotFoundError):  # another process has moved the file
                os.replace(Path(inner, name), place / name)
        sync_folder(place)
    for inner, _, _ in os.walk(decided, topdown=False):
        # Only when empty: another process may have decided on the next change by now.
        with contextlib.suppress(OSError):
            Path(inner).rmdir()
