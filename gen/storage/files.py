"""Writes files that survive a kill, a full disk and a power cut: written aside, synced to the disk, then renamed.

A reader finds the old content or the new one, whole. A rename without the sync is not enough: after a power cut a
file may have its new name and none of its content.
"""

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

#: Errors of file systems that cannot sync something (mostly a folder: CIFS, FUSE, VirtualBox) or do not permit it.
_SYNC_UNSUPPORTED = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS, errno.EBADF, errno.EISDIR, errno.EACCES,
    errno.EPERM, errno.ENOTTY,
}  # fmt: skip
#: How names of files begin that are not whole yet, or whose writer was killed.
PARTIAL = ".partial-"
#: Partial files of killed processes are removed at the next write of the same file, once they are this old [s].
_LEFTOVER_AGE_S = 3600.0


def sync_folder(folder: Path) -> None:
    """Sync a folder's list of names, or a file's content, to the disk; does nothing where the file system cannot.

    Raises OSError where the disk is broken or full.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _SYNC_UNSUPPORTED:
            raise


def sync_tree(path: Path) -> None:
    """Sync a file, or a folder with all that is in it, to the disk. Raises OSError where the disk is broken or full."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_folder(Path(folder, name))
        sync_folder(Path(folder))
    if not path.is_dir():
        sync_folder(path)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and sync their names to the disk. Raises OSError."""
    missing = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
    for above in (path, *path.absolute().parents):
        if above.exists() and not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is there, and no folder; give another name", str(above))
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def require_writable(folder: Path) -> None:
    """Make a folder, and raise OSError where no file can be written in it: before what is to be written is computed."""
    make_folder(folder)
    probe = folder / f"{PARTIAL}{uuid4().hex[:12]}-probe"
    try:
        probe.write_bytes(b"")
    finally:
        _remove(probe)


@contextlib.contextmanager
def aside(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Give a temporary name beside `path` to write a file or a folder at; it becomes `path` when the block ends well.

    with aside(out / "table.csv") as partial:
        table.to_csv(partial)

    The name ends like `path`, for writers that tell the format by it. The old `path` is renamed to `keep`, if given.
    When the block or the disk fails, `path` is as it was. Links are followed; a pipe or a terminal is written directly.
    Raises OSError.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path  # /dev/stdout may lead to a pipe, whose real path no file has
        return
    path = Path(os.path.realpath(path))
    partial = path.with_name(_shortened(f"{PARTIAL}{uuid4().hex[:12]}-", path.name))
    try:
        yield partial
        _clear_leftovers(path, partial)
        sync_tree(partial)
        if keep is not None and path.exists():
            os.replace(path, keep)
        _rename_over(partial, path)
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # of a full disk Python says no name
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes | memoryview, keep: Path | None = None) -> None:
    """Write a file whole and durably, text as UTF-8. `keep` and errors are those of `aside`."""
    with aside(path, keep) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_new(path: Path, content: str | bytes) -> bool:
    """Write a file whole and durably where there is none of its name; return whether it was written.

    Of several processes that do so at the same time one writes. Text is UTF-8. Raises OSError.
    """
    partial = path.with_name(_shortened(f"{PARTIAL}{uuid4().hex[:12]}-", path.name))
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        sync_folder(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            if path.exists():
                return False
            os.replace(partial, path)
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)  # of a full disk Python says no name
        raise
    finally:
        _remove(partial)
    sync_folder(path.parent)
    return True


def clear_left_behind(folder: Path) -> None:
    """Remove the partial files of killed writers from a folder that no other process writes in now."""
    for leftover in folder.glob(f"{PARTIAL}*"):
        _remove(leftover)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines to a file and sync it; a last line that a kill cut short is ended first. Raises OSError."""
    with open(path, "ab+") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")
        file.write("".join(line + "\n" for line in lines).encode())
    sync_folder(path)
    sync_folder(path.parent)


def _shortened(prefix: str, name: str) -> str:
    """Join a prefix and the end of a name to at most the 255 bytes that file systems allow."""
    return prefix + os.fsdecode(os.fsencode(name)[len(prefix) - 255 :])


def _rename_over(partial: Path, path: Path) -> None:
    """Rename over `path`. A folder cannot be renamed over one that is not empty, so that one is moved away first."""
    if path.is_dir() and partial.is_file():
        raise IsADirectoryError(errno.EISDIR, "a folder of this name is there already; give another name", str(path))
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
        return
    old = partial.with_name(partial.name + "~")
    os.rename(path, old)
    os.rename(partial, path)
    _remove(old)


def _clear_leftovers(path: Path, own_partial: Path) -> None:
    """Remove partial files of killed writers of the same `path`; ages are by the file system's own clock."""
    now_s = own_partial.stat().st_mtime
    pattern = glob.escape(_shortened(PARTIAL + "0" * 12 + "-", path.name)).replace("0" * 12, "?" * 12, 1)
    for leftover in path.parent.glob(pattern):
        with contextlib.suppress(OSError):
            if leftover != own_partial and now_s - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                _remove(leftover)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
