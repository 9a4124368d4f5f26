"""Files that outlive a kill, a full disk and a power cut: written aside, brought to the disk, then renamed.

Whoever looks finds what was there before or what is there now, whole. A rename alone does not do it: after a power
cut a file may have its new name and none of its content.
"""

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

#: What file systems say that cannot sync something, a folder as a rule (CIFS, FUSE, VirtualBox), or do not let one.
_CANNOT = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS, errno.EBADF, errno.EISDIR, errno.EACCES,
    errno.EPERM, errno.ENOTTY,
}  # fmt: skip
#: What a killed process left aside goes when the same file is next written and it is this old [s].
_LEFT_BEHIND_S = 3600.0


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, or a file's content; where the file system cannot, nothing is done.

    Raises OSError where the disk is broken or full.
    """
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def sync_tree(path: Path) -> None:
    """Bring a file, or a folder with all that is in it, to the disk. Raises OSError where it cannot be read back."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_folder(Path(folder, name))
        sync_folder(Path(folder))
    if not path.is_dir():
        sync_folder(path)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, known to the disk like what will be written into it."""
    missing = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


@contextlib.contextmanager
def aside(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder at, which becomes `path` when the block ends well.

    with aside(out / "table.csv") as partial:
        table.to_csv(partial)

    The name ends like `path`, for writers that tell the format by it. What `path` held goes to `keep`, if given.
    When the block or the disk fails, `path` is as it was. Links are followed; a pipe or a terminal is written as it is.
    Raises OSError.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    partial = path.with_name(_shortened(f".partial-{uuid4().hex[:12]}-", path.name))
    try:
        yield partial
        _clear_old(path, partial)
        sync_tree(partial)
        if keep is not None and path.exists():
            os.replace(path, keep)
        _put(partial, path)
    except BaseException:
        _remove(partial)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes | memoryview, keep: Path | None = None) -> None:
    """Write a file whole and durably, text as UTF-8. `keep` and errors as of `aside`."""
    with aside(path, keep) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def clear_left_behind(folder: Path) -> None:
    """Remove what killed writers left aside in a folder that nobody else writes in now."""
    for left in folder.glob(".partial-*"):
        _remove(left)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file and bring them to the disk; a line that a kill cut short is ended before."""
    with open(path, "ab+") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")
        file.write("".join(line + "\n" for line in lines).encode())
    sync_folder(path)
    sync_folder(path.parent)


def _shortened(prefix: str, name: str) -> str:
    """A prefix and the end of a name, no longer than file systems allow (255 bytes)."""
    return prefix + os.fsdecode(os.fsencode(name)[len(prefix) - 255 :])


def _put(partial: Path, path: Path) -> None:
    """Rename over what is there; a folder cannot be renamed over one that holds something, which goes away first."""
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
        return
    old = partial.with_name(partial.name + "~")
    os.rename(path, old)
    os.rename(partial, path)
    _remove(old)


def _clear_old(path: Path, ours: Path) -> None:
    """Remove what killed processes left aside of the same file; ages are by the file system's own clock."""
    now = ours.stat().st_mtime
    pattern = glob.escape(_shortened(".partial-" + "0" * 12 + "-", path.name)).replace("0" * 12, "?" * 12, 1)
    for left in path.parent.glob(pattern):
        with contextlib.suppress(OSError):
            if left != ours and now - left.stat().st_mtime > _LEFT_BEHIND_S:
                _remove(left)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
