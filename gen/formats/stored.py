"""Check that all numbers of a dataset are there: HDF5 reads missing ones as a fill value, zeros, without a warning.

This happens to chunks that were never written, to rows of a virtual dataset that no part maps or that a part lacks,
and to parts that are missing or cannot be opened because the process has too many open files.
"""

import contextlib
import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.formats.base import SnapshotError, reading
from kinmass.gen.formats.once import status

#: A dataset may unpack to this many times the size of its file; a larger one has a damaged header.
LARGEST_COMPRESSION = 100
#: Open files that a process needs beside the parts of a virtual dataset: the store, sockets, libraries.
SPARE_FILES = 32
#: At most so many files of a snapshot are held open while it is opened.
MOST_HELD = 64
#: Virtual datasets may map other virtual datasets, to this depth.
_DEEPEST_NESTING = 4


@contextlib.contextmanager
def held_open(paths: list[Path]) -> Iterator[None]:
    """Hold HDF5 files open: inside the block HDF5 keeps what it has read of their structure, whoever opens them again.

    Files that cannot be opened are left to those who read them, and so are those beyond MOST_HELD.
    """
    with contextlib.ExitStack() as stack:
        for path in paths[:MOST_HELD]:
            with contextlib.suppress(OSError):
                stack.enter_context(h5py.File(path, "r"))
        yield


def checked(path: Path, group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset of a group after checking that it holds numbers and all are there. Raises SnapshotError."""
    dataset = group.get(name)
    label = f"{path}: {group.name}/{name}"
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        kind = "a link to nothing" if dataset is None else f"{getattr(dataset, 'dtype', 'a group')}"
        raise SnapshotError(f"{label} holds no plain numbers ({kind}); damaged? Get it again")
    _check_filters(label, dataset)
    check_complete(label, dataset)
    return dataset


def _check_filters(label: str, dataset: h5py.Dataset) -> None:
    """Raise SnapshotError for a dataset that is compressed in a way that this HDF5 cannot undo."""
    creation = dataset.id.get_create_plist()
    for number in range(creation.get_nfilters()):
        code, _, _, name = creation.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise SnapshotError(
                f"{label} is compressed by filter {code} ({name.decode(errors='replace') or 'unnamed'}), which is not "
                "installed; rewrite it where it is (`h5repack -f GZIP=4 old new`), or `pip install hdf5plugin` and set "
                "HDF5_PLUGIN_PATH to hdf5plugin.PLUGIN_PATH"
            )


def check_complete(label: str, dataset: h5py.Dataset) -> None:
    """Raise SnapshotError, which begins with `label`, for a dataset whose numbers are not all there."""
    if len(files := _files_of(label, dataset)) > 1:
        _allow_open_files(label, len(files))


def _files_of(label: str, dataset: h5py.Dataset, depth: int = 0) -> set[Path]:
    """Return a dataset's file and the files of its parts. Raises SnapshotError where numbers are missing."""
    own_file = Path(dataset.file.filename)
    if dataset.external:
        raise SnapshotError(f"{label} lies in raw files outside of HDF5, which are not read; copy it into the file")
    if not dataset.is_virtual:
        n_bytes = dataset.nbytes
        if n_bytes > 2**20 and n_bytes > 2**20 + LARGEST_COMPRESSION * status(own_file).st_size:
            raise SnapshotError(
                f"{label} claims {dataset.nbytes} bytes, more than the file can hold; damaged? Get it again"
            )
        if dataset.size and not _is_written(dataset):
            raise SnapshotError(f"{label} was never written, or not all of it; was its program stopped? Make it again")
        return {own_file}
    if depth == _DEEPEST_NESTING or not _is_mapped(dataset):
        raise SnapshotError(f"{label} is a virtual dataset whose parts leave gaps in it; copy it into a plain one")
    files, checked_parts = {own_file}, set()
    for source in _sources(dataset):
        name, inner = source.file_name, source.dset_name
        part_file = own_file if name == "." else own_file.resolve().parent / name
        if not part_file.is_file():
            raise SnapshotError(f"{label} lies in {name}, which is not beside it; put it there")
        with reading(part_file, f" for {label}"), h5py.File(part_file, "r") as file:
            if not _has_mapped_rows(file[inner], source):
                raise SnapshotError(
                    f"{label} needs rows of {inner} in {name} that are not there; cut short? Get it again"
                )
            if (name, inner) not in checked_parts:
                files |= _files_of(label, file[inner], depth + 1)
                checked_parts.add((name, inner))
    return files


def files_behind(file: h5py.File) -> set[Path]:
    """Return the other files in which positions of a snapshot's file lie: parts of virtual datasets, ends of links.

    What is not there is left out: whoever reads it says so.
    """
    found: set[Path] = set()
    for name in [name for name in file if name.startswith("PartType")]:
        group = file.get(name)
        pos = group.get("Coordinates") if isinstance(group, h5py.Group) else None
        if isinstance(pos, h5py.Dataset):
            found |= _files_under(pos)
    return found - {Path(file.filename)}


def _files_under(dataset: h5py.Dataset, depth: int = 0) -> set[Path]:
    """Return the file of a dataset, and those of its parts."""
    own_file = Path(dataset.file.filename)
    files = {own_file}
    parts = {(s.file_name, s.dset_name) for s in dataset.virtual_sources()} if dataset.is_virtual else set()
    for name, inner in parts if depth < _DEEPEST_NESTING else ():
        if name == "." or (part_file := own_file.resolve().parent / name).is_file():
            with contextlib.nullcontext(dataset.file) if name == "." else h5py.File(part_file, "r") as file:
                if isinstance(part := file.get(inner), h5py.Dataset):
                    files |= _files_under(part, depth + 1)
    return files


def _sources(dataset: h5py.Dataset) -> list[Any]:
    """Return the mappings of a virtual dataset, without those of parts that have no particles."""
    return [source for source in dataset.virtual_sources() if source.vspace.get_select_npoints()]


def _has_mapped_rows(part: h5py.Dataset, source: Any) -> bool:
    """Tell whether a part of a virtual dataset has the rows that are mapped."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return bool(part.size == source.vspace.get_select_npoints())
    if source.src_space.get_select_npoints() != source.vspace.get_select_npoints():
        return False
    return not np.any(np.array(source.src_space.get_select_bounds()[1]) >= part.shape)


def _is_written(dataset: h5py.Dataset) -> bool:
    """Tell whether all chunks of a dataset are stored in its file."""
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size())
    return bool(dataset.id.get_num_chunks() == np.prod(-(-np.array(dataset.shape) // dataset.chunks)))


def _is_mapped(dataset: h5py.Dataset) -> bool:
    """Tell whether the parts of a virtual dataset are blocks that fill it without gaps."""
    rows: dict[tuple[tuple[int, ...], ...], list[tuple[int, int]]] = {}  # by the range of columns that a part fills
    for source in _sources(dataset):
        low, high = source.vspace.get_select_bounds()
        if np.prod(np.array(high) - low + 1) != source.vspace.get_select_npoints():
            return False
        rows.setdefault((low[1:], high[1:]), []).append((low[0], high[0]))
    if not dataset.size:
        return True
    columns = [(low[0], high[0]) for low, high in rows if low]
    return all(_fill_without_gap(blocks, dataset.shape[0]) for blocks in rows.values()) and (
        dataset.ndim == 1 or (dataset.ndim == 2 and _fill_without_gap(columns, dataset.shape[1]))
    )


def _fill_without_gap(blocks: Iterable[tuple[int, int]], n: int) -> bool:
    """Tell whether blocks (first, last) fill 0 to n - 1 without gap or overlap."""
    end = 0
    for first, last in sorted(blocks):
        if first != end:
            return False
        end = last + 1
    return end == n


def _allow_open_files(label: str, n_files: int) -> None:
    """Raise the process's limit to `n_files` more open files. Raises SnapshotError if that is not allowed.

    HDF5 would read zeros from a file that it cannot open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_needed = n_files + len(os.listdir("/dev/fd")) + SPARE_FILES
    if soft == resource.RLIM_INFINITY or n_needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and n_needed > hard:
        raise SnapshotError(
            f"{label} lies in {n_files} files, and this process may have no more than {hard} open; "
            f"allow it {n_needed} (`ulimit -n {n_needed}`), or join the parts into one file"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def link_dataset(staged: h5py.File, name: str, dataset: h5py.Dataset, column: int | None = None) -> None:
    """Link a dataset of another file, or one of its columns, under `name` in the staged file, without copying it.

    A virtual dataset is made anew with absolute paths of its parts, and NaN where a part cannot be read.
    """
    if column is not None:
        file_name, inner = _no_pattern(Path(dataset.file.filename).absolute()), dataset.name
        if dataset.is_virtual:
            link_dataset(staged, f"Whole{dataset.name}", dataset)
            file_name, inner = ".", f"Whole{dataset.name}"
        layout = h5py.VirtualLayout(shape=dataset.shape[:1], dtype=dataset.dtype)
        layout[:] = h5py.VirtualSource(file_name, inner, dataset.shape, dataset.dtype)[:, column]
        staged.create_virtual_dataset(name, layout, fillvalue=_fill_value(dataset))
    elif not dataset.is_virtual:
        staged[name] = h5py.ExternalLink(str(Path(dataset.file.filename).absolute()), dataset.name)
    else:
        own_file = Path(dataset.file.filename).resolve()
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_fill_value(np.array(_fill_value(dataset), dtype=dataset.dtype))
        for source in _sources(dataset):
            part_file = own_file if source.file_name == "." else own_file.parent / source.file_name
            space = source.src_space
            if space.get_select_type() == h5py.h5s.SEL_ALL:  # its extent is not known before the part is opened
                low, high = np.array(source.vspace.get_select_bounds())
                space = h5py.h5s.create_simple(tuple(high - low + 1))
            creation.set_virtual(source.vspace, os.fsencode(_no_pattern(part_file)), source.dset_name.encode(), space)
        group, _, leaf_name = name.rpartition("/")
        parent = staged.require_group(group)
        h5py.h5d.create(parent.id, leaf_name.encode(), dataset.id.get_type(), dataset.id.get_space(), dcpl=creation)


def _no_pattern(path: Path) -> str:
    """Write a path so that HDF5 takes it as it is: `%b` in the name of a virtual dataset's file stands for a number."""
    return str(path).replace("%", "%%")


def _fill_value(dataset: h5py.Dataset) -> float:
    return float("nan") if dataset.dtype.kind == "f" else 0
