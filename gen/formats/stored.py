"""Datasets whose numbers are really there: HDF5 reads what it cannot find as a fill value, zeros, and says nothing.

So it does with chunks that were never written, with rows that no part of a virtual dataset maps or that its part
has not, and with parts that are missing or cannot be opened because a process has too many files open already.
"""

import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.formats.base import SnapshotError, reading

#: A dataset may unpack to this many times its files' size; more is a damaged header.
MOST_PACKED = 100
#: Files that may be opened beside the parts of a virtual dataset: the store, sockets, libraries.
SPARE_FILES = 32
#: Virtual datasets may map virtual ones, so deep.
_DEEPEST = 4


def checked(path: Path, group: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset of plain numbers, every one of which is there. Raises SnapshotError."""
    dataset = group.get(name)
    where = f"{path}: {group.name}/{name}"
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        what = "a link to nothing" if dataset is None else f"{getattr(dataset, 'dtype', 'a group')}"
        raise SnapshotError(f"{where} holds no plain numbers ({what}); damaged?")
    check_whole(where, dataset)
    return dataset


def check_whole(where: str, dataset: h5py.Dataset) -> None:
    """Raises SnapshotError, which begins with `where`, for a dataset whose numbers are not all there."""
    if len(files := _files_of(where, dataset)) > 1:
        _make_room(where, len(files))


def _files_of(where: str, dataset: h5py.Dataset, depth: int = 0) -> set[Path]:
    """The files that hold a dataset, its own and those of its parts. Raises SnapshotError where numbers are missing."""
    own = Path(dataset.file.filename)
    if dataset.external:
        raise SnapshotError(f"{where} lies in raw files outside of HDF5, which are not read; copy it into the file")
    if not dataset.is_virtual:
        if dataset.nbytes > 2**20 + MOST_PACKED * own.stat().st_size:
            raise SnapshotError(f"{where} claims {dataset.nbytes} bytes, more than the file can hold; damaged?")
        if dataset.size and not _is_written(dataset):
            raise SnapshotError(f"{where} was never written, or not all of it; was the program that made it stopped?")
        return {own}
    if depth == _DEEPEST or not _is_mapped(dataset):
        raise SnapshotError(f"{where} is a virtual dataset whose parts leave gaps in it; copy it into a plain one")
    files, known = {own}, set()
    for source in _sources(dataset):
        name, inner = source.file_name, source.dset_name
        part = own if name == "." else own.resolve().parent / name
        if not part.is_file():
            raise SnapshotError(f"{where} lies in {name}, which is not beside it")
        with reading(part, f" for {where}"), h5py.File(part, "r") as file:
            if not _has(file[inner], source):
                raise SnapshotError(f"{where} needs rows of {inner} in {name} that are not there; cut short?")
            if (name, inner) not in known:
                files |= _files_of(where, file[inner], depth + 1)
                known.add((name, inner))
    return files


def _sources(dataset: h5py.Dataset) -> list[Any]:
    """The mappings of a virtual dataset, without those of parts that have no particles."""
    return [source for source in dataset.virtual_sources() if source.vspace.get_select_npoints()]


def _has(part: h5py.Dataset, source: Any) -> bool:
    """Whether a part of a virtual dataset has what is mapped of it."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return bool(part.size == source.vspace.get_select_npoints())
    if source.src_space.get_select_npoints() != source.vspace.get_select_npoints():
        return False
    return not np.any(np.array(source.src_space.get_select_bounds()[1]) >= part.shape)


def _is_written(dataset: h5py.Dataset) -> bool:
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size())
    return bool(dataset.id.get_num_chunks() == np.prod(-(-np.array(dataset.shape) // dataset.chunks)))


def _is_mapped(dataset: h5py.Dataset) -> bool:
    """Whether the parts of a virtual dataset are blocks that fill it, one after the other."""
    rows: dict[tuple[tuple[int, ...], ...], list[tuple[int, int]]] = {}  # by the columns that they have
    for source in _sources(dataset):
        low, high = source.vspace.get_select_bounds()
        if np.prod(np.array(high) - low + 1) != source.vspace.get_select_npoints():
            return False
        rows.setdefault((low[1:], high[1:]), []).append((low[0], high[0]))
    if not dataset.size:
        return True
    columns = [(low[0], high[0]) for low, high in rows if low]
    return all(_tile(blocks, dataset.shape[0]) for blocks in rows.values()) and (
        dataset.ndim == 1 or (dataset.ndim == 2 and _tile(columns, dataset.shape[1]))
    )


def _tile(blocks: Iterable[tuple[int, int]], n: int) -> bool:
    """Whether blocks (first, last) fill 0 to n - 1 without gap or overlap."""
    end = 0
    for first, last in sorted(blocks):
        if first != end:
            return False
        end = last + 1
    return end == n


def _make_room(where: str, files: int) -> None:
    """Let the process open so many files more. Raises SnapshotError where it may not: HDF5 would read zeros."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = files + len(os.listdir("/dev/fd")) + SPARE_FILES
    if soft == resource.RLIM_INFINITY or need <= soft:
        return
    if hard != resource.RLIM_INFINITY and need > hard:
        raise SnapshotError(
            f"{where} lies in {files} files, and this process may have no more than {hard} open; "
            f"allow it {need} (`ulimit -n {need}`), or join the parts into one file"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def show(staged: h5py.File, name: str, dataset: h5py.Dataset, column: int | None = None) -> None:
    """Make a dataset, or one column of it, that of another file without copying it.

    Parts of a virtual one are named anew, with NaN where they cannot be read after all.
    """
    if column is not None:
        whole = dataset
        if dataset.is_virtual:
            show(staged, f"Whole{dataset.name}", dataset)
            whole = staged[f"Whole{dataset.name}"]
        layout = h5py.VirtualLayout(shape=dataset.shape[:1], dtype=dataset.dtype)
        layout[:] = h5py.VirtualSource(whole)[:, column]
        staged.create_virtual_dataset(name, layout, fillvalue=_missing(dataset))
    elif not dataset.is_virtual:
        staged[name] = h5py.ExternalLink(str(Path(dataset.file.filename).resolve()), dataset.name)
    else:
        own = Path(dataset.file.filename).resolve()
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_fill_value(np.array(_missing(dataset), dtype=dataset.dtype))
        for source in _sources(dataset):
            part = own if source.file_name == "." else own.parent / source.file_name
            space = source.src_space
            if space.get_select_type() == h5py.h5s.SEL_ALL:  # of an extent that is not known before it is opened
                low, high = np.array(source.vspace.get_select_bounds())
                space = h5py.h5s.create_simple(tuple(high - low + 1))
            made.set_virtual(source.vspace, os.fsencode(part), source.dset_name.encode(), space)
        group, _, last = name.rpartition("/")
        where = staged.require_group(group)
        h5py.h5d.create(where.id, last.encode(), dataset.id.get_type(), dataset.id.get_space(), dcpl=made)


def _missing(dataset: h5py.Dataset) -> float:
    return float("nan") if dataset.dtype.kind == "f" else 0
