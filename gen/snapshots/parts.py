"""Finds where a big snapshot's blocks lie by several processes: one stages it, each finds a part, one joins them."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from kinmass.gen.formats import FORMATS
from kinmass.gen.formats.base import Part, Slot, reading
from kinmass.gen.formats.blocks import Blocks, joined
from kinmass.gen.formats.domain import check_written
from kinmass.gen.formats.frontends import forget_datasets
from kinmass.gen.formats.once import asking_once
from kinmass.gen.formats.stored import held_open
from kinmass.gen.snapshots.indexes import KeptIndex
from kinmass.gen.snapshots.openings import KeptOpening, is_worth_keeping


class Found(NamedTuple):
    """Where the blocks of one part of a snapshot lie, and how many particles of each type of it lie at the origin.

    of_index: name of the index that it is a part of, which is another's when the snapshot's files are replaced.
    tally: what else was counted, of formats that count (`Format.beside`).
    """

    blocks: Blocks
    at_origin: dict[str, int]
    of_index: str
    tally: Any = None


def stage_once(path: Path, format_name: str, light: str | None, folder: Path, slot: Slot) -> None:
    """Stage a snapshot of many files for all ranks that are to open it, unless it is kept. Raises SnapshotError."""
    snapshot_format = FORMATS[format_name]
    with tempfile.TemporaryDirectory(prefix="kinmass-") as scratch, reading(path), asking_once():
        files = snapshot_format.files(path)
        kept = KeptOpening(folder, KeptIndex(folder, snapshot_format, path, light).name)
        if is_worth_keeping(snapshot_format, files) and not kept.is_staged():
            with held_open(files), slot():
                kept.keep_staged(snapshot_format.stage(path, Path(scratch), light))


def find_part(path: Path, format_name: str, light: str | None, folder: Path, part: Part, slot: Slot) -> Found | None:
    """Find where one part of a snapshot's blocks lie, for `keep_parts`; None where its whole index is kept.

    Raises SnapshotError.
    """
    snapshot_format = FORMATS[format_name]
    with tempfile.TemporaryDirectory(prefix="kinmass-") as scratch, reading(path), asking_once():
        files = snapshot_format.files(path) if snapshot_format.container == "hdf5" else []
        kept = KeptIndex(folder, snapshot_format, path, light)
        staged = KeptOpening(folder, kept.name).staged(Path(scratch))
        with held_open(files if staged is None else []):
            if staged is None:
                with slot():
                    staged = snapshot_format.stage(path, Path(scratch), light)
            if kept.fetch(staged):
                return None
            ds = snapshot_format.load(staged, slot, part)
            forget_datasets()
            return Found(ds.blocks, ds.at_origin, kept.name, getattr(ds, "tally", None))


def keep_parts(path: Path, format_name: str, light: str | None, folder: Path, parts: list[Found]) -> None:
    """Join all parts of a snapshot's blocks, in their order, and keep them as its index.

    Keeps nothing where a file was replaced meanwhile. Raises SnapshotError where positions were not written.
    """
    n_at_origin: Counter[str] = Counter()
    for part in parts:
        n_at_origin.update(part.at_origin)
    for ptype, n in n_at_origin.items():
        check_written(ptype, n)
    with reading(path):
        kept = KeptIndex(folder, FORMATS[format_name], path, light)
        if {part.of_index for part in parts} == {kept.name}:
            blocks = joined([part.blocks for part in parts])
            kept.keep_blocks(blocks, FORMATS[format_name].beside(blocks.extents(), [part.tally for part in parts]))
