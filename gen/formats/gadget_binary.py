"""GADGET's binary snapshots, formats 1 and 2 (Springel 2005; GADGET-2 users' guide, section 6), of either byte order.

yt's reader for them gives wrong results without a warning: it computes the offsets of double-precision fields as if
they were single, indexes all blocks of a big file by the positions of the first, and reads format 2 in single precision
only. So the blocks are found here, checked against every count and record mark, and linked for yt as the datasets of a
Gadget HDF5 file.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import h5py
import numpy as np

from kinmass.gen.formats.base import CodeUnits, SnapshotError, first_bytes
from kinmass.gen.formats.gadget import Gadget
from kinmass.gen.formats.gadget_units import Beside
from kinmass.gen.formats.once import status

HEADER_BYTES = 256
_TYPES = range(6)
_HEADER: list[tuple[str, str, tuple[int, ...]]] = [
    ("NumPart_ThisFile", "i4", (6,)), ("MassTable", "f8", (6,)), ("Time", "f8", ()), ("Redshift", "f8", ()),
    ("Flag_Sfr", "i4", ()), ("Flag_Feedback", "i4", ()), ("NumPart_Total", "u4", (6,)), ("Flag_Cooling", "i4", ()),
    ("NumFilesPerSnapshot", "i4", ()), ("BoxSize", "f8", ()), ("Omega0", "f8", ()), ("OmegaLambda", "f8", ()),
    ("HubbleParam", "f8", ()), ("Flag_StellarAge", "i4", ()), ("Flag_Metals", "i4", ()),
    ("NumPart_Total_HighWord", "u4", (6,)), ("rest", "V60", ()),
]  # fmt: skip

#: Block names of format 2, and the names of their HDF5 datasets. The blocks after MASS belong to gas.
NAMES = {
    "POS": "Coordinates", "VEL": "Velocities", "ID": "ParticleIDs", "MASS": "Masses", "U": "InternalEnergy",
    "RHO": "Density", "NE": "ElectronAbundance", "NH": "NeutralHydrogenAbundance", "HSML": "SmoothingLength",
    "SFR": "StarFormationRate", "TEMP": "Temperature",
}  # fmt: skip
_BLOCKS_OF_ALL_TYPES = ("POS", "VEL", "ID")


@dataclass(frozen=True)
class Block:
    """A block of numbers of some particle types, one type after the other; start and size in bytes."""

    name: str
    start: int
    size: int


def record_marks(head: bytes) -> tuple[str, int] | None:
    """Return byte order and format (1 or 2) by the first bytes of a file, None if it is no GADGET binary snapshot."""
    for order in "<>":
        mark = int.from_bytes(head[:4], "little" if order == "<" else "big")
        if mark == HEADER_BYTES:
            return order, 1
        if mark == 8 and head[4:8] == b"HEAD":
            return order, 2
    return None


def read_header(path: Path) -> dict[str, Any]:
    """Read the header under its HDF5 names, with `order` and `format`. Raises SnapshotError for a damaged one."""
    head = first_bytes(path, 16 + 8 + HEADER_BYTES)
    if (marks := record_marks(head)) is None:
        raise SnapshotError(f"{path}: no GADGET binary snapshot, which begins with 256 or 8; is `format:` right?")
    order, file_format = marks
    start = 4 if file_format == 1 else 20
    layout = np.dtype([(name, order + kind, shape) for name, kind, shape in _HEADER])
    marks_read = np.frombuffer(head[start - 4 : start] + head[start + HEADER_BYTES :][:4], order + "u4")
    if marks_read.tolist() != [HEADER_BYTES] * 2:
        raise SnapshotError(
            f"{path}: a header between record marks of {marks_read.tolist()} bytes, not 256 as GADGET-2 and -3 write; "
            "cut short, or of GADGET-4's own kind? Write HDF5 (SnapFormat 3) or take its GADGET2_HEADER"
        )
    row = np.frombuffer(head, layout, 1, start)[0]
    header = {name: row[name].tolist() for name, *_ in _HEADER[:-1]}
    if min(header["NumPart_ThisFile"]) < 0 or not 0 <= header["NumFilesPerSnapshot"] < 10**6:
        raise SnapshotError(f"{path}: its header has negative counts of particles or files; damaged? Get it again")
    if not all(0 <= mass < np.inf for mass in header["MassTable"]):
        raise SnapshotError(f"{path}: its header has the particle masses {header['MassTable']}; damaged? Get it again")
    return {**header, "order": order, "format": file_format}


def _iterate_blocks(path: Path, file: BinaryIO, order: str, file_format: int, file_size: int) -> Iterator[Block]:
    """Yield the blocks in the file's order, with names in format 2. Raises SnapshotError for wrong record marks."""

    def mark() -> int:
        """Read a record mark. Raises SnapshotError at the file's end."""
        raw_mark = file.read(4)
        if len(raw_mark) < 4:
            raise SnapshotError(f"{path}: ends at byte {file_size}, within a record; cut short? Get it again")
        return int(np.frombuffer(raw_mark, order + "u4")[0])

    while file.tell() < file_size:
        name = ""
        if file_format == 2:
            if mark() != 8:
                raise SnapshotError(f"{path}: no block name before byte {file.tell()}; damaged? Get it again")
            name = file.read(8)[:4].decode("latin-1").strip(" \0")  # some codes pad with zeros
            if mark() != 8:
                raise SnapshotError(
                    f"{path}: no end of the block name before byte {file.tell()}; damaged? Get it again"
                )
        marked_size, start = mark(), file.tell()
        block_size = marked_size
        while True:  # a mark is the size modulo 2^32: a block of more than 4 GiB ends where its mark is repeated
            if start + block_size + 4 > file_size:
                raise SnapshotError(
                    f"{path}: {name or 'a block'} at byte {start} does not end in the file; cut short? Get it again"
                )
            file.seek(start + block_size)
            if mark() == marked_size:
                break
            block_size += 2**32
        yield Block(name, start, block_size)


def _gas_blocks(attrs: dict[str, Any]) -> list[str]:
    """Return the names of the blocks after MASS in format 1, by the header's flags (GADGET-2's and -3's io.c)."""
    cooling = ["NE", "NH"] if attrs["Flag_Cooling"] else []
    return ["U", "RHO", *cooling, "HSML", *(["SFR"] if attrs["Flag_Sfr"] else [])]


def _name_blocks(attrs: dict[str, Any], blocks: list[Block], own_mass: bool) -> list[Block]:
    """Name the blocks of format 1, whose order is fixed; own_mass tells whether a MASS block is there."""
    n_gas = attrs["NumPart_ThisFile"][0]
    names = [*_BLOCKS_OF_ALL_TYPES, *(["MASS"] if own_mass else [])]
    named_blocks = [Block(name, b.start, b.size) for name, b in zip(names, blocks, strict=False)]
    later_blocks = blocks[len(names) :]
    n_gas_sized = next(
        (i for i, b in enumerate(later_blocks) if b.size not in (4 * n_gas, 8 * n_gas)), len(later_blocks)
    )
    gas_names = _gas_blocks(attrs)
    if n_gas_sized != len(gas_names):  # initial conditions have U alone; the order of other sets of blocks is not known
        gas_names = gas_names[:2]
    return named_blocks + [
        Block(name, b.start, b.size) for name, b in zip(gas_names, later_blocks[:n_gas_sized], strict=False)
    ]


def blocks_of(path: Path, attrs: dict[str, Any]) -> dict[str, Block]:
    """Return the blocks of one file that are used, by their names in format 2.

    Raises SnapshotError where a block is missing, or its size does not fit the header's counts.
    """
    counts = attrs["NumPart_ThisFile"]
    n, own_mass = sum(counts), sum(c for c, m in zip(counts, attrs["MassTable"], strict=True) if m == 0)
    file_size = status(path).st_size
    with open(path, "rb") as file:
        blocks = list(_iterate_blocks(path, file, attrs["order"], attrs["format"], file_size))[1:]
    if attrs["format"] == 1:
        blocks = _name_blocks(attrs, blocks, own_mass > 0)
    used_blocks: dict[str, Block] = {}
    for block in blocks:
        if block.name in used_blocks:
            raise SnapshotError(f"{path}: has two blocks {block.name}; damaged? Get it again")
        if block.name in NAMES:
            used_blocks[block.name] = block
    n_values = {"POS": 3 * n, "VEL": 3 * n, "ID": n, "MASS": own_mass}
    for name in [name for name in ("POS", "VEL", "MASS") if n_values[name] and name not in used_blocks]:
        raise SnapshotError(
            f"{path}: has no block {name} for {n_values[name]} values; cut short, or not a snapshot? Get it again"
        )
    for name, block in used_blocks.items():
        if (n_expected := n_values.get(name, counts[0])) and block.size not in (4 * n_expected, 8 * n_expected):
            raise SnapshotError(
                f"{path}: block {name} has {block.size} bytes, neither 4 nor 8 for each of the {n_expected} values "
                "that its header counts; damaged, or blocks of another order? Get it again, or write HDF5"
            )
    return {name: block for name, block in used_blocks.items() if n_values.get(name, counts[0])}


class GadgetBinary(Gadget):
    """GADGET-2's and -3's binary formats 1 and 2, with the types, units and cosmology of `gadget`."""

    name = "gadget_binary"
    container: ClassVar[str] = "gadget_binary"

    def files(self, path: Path) -> list[Path]:
        """Return `snap_063.0`, `snap_063.1` and so on, as many files as the header says.

        Raises SnapshotError when one is missing, the path is not the first, or the counts do not add up.
        """
        attrs = read_header(path)
        n_files = attrs["NumFilesPerSnapshot"]
        if n_files <= 1 or attrs["NumPart_ThisFile"] == _totals(attrs):
            return [path]
        if not (match := re.fullmatch(r"(.*)\.(\d+)", path.name)) or int(match[2]):
            first = f"{match[1]}.0" if match else f"{path.name}.0"
            raise SnapshotError(f"{path}: one of {n_files} files of a snapshot; let `snapshots` match only {first}")
        files = [path.with_name(f"{match[1]}.{i}") for i in range(n_files)]
        for i, file in enumerate(files):
            if not file.is_file():
                raise SnapshotError(
                    f"{path}: file number {i} of this snapshot is missing ({n_files} in all); get it, too"
                )
        counts_sum = np.sum([read_header(file)["NumPart_ThisFile"] for file in files], axis=0)
        if any(_totals(attrs)) and counts_sum.tolist() != _totals(attrs):
            raise SnapshotError(
                f"{path}: its {n_files} files hold {counts_sum.tolist()} particles, its header says {_totals(attrs)}; "
                "do they belong together? Keep only those of one snapshot"
            )
        return files

    def listed_files(self, path: Path) -> list[Path]:
        """Return the files of a snapshot: they hold all their particles themselves."""
        return self.files(path)

    def promised(self, path: Path) -> dict[str, int]:
        """Return nothing, because staging checks the blocks against the header's counts."""
        return {}

    def types(self, path: Path) -> set[str]:
        """Return the particle types that the header counts."""
        attrs = read_header(path)
        counts = zip(_totals(attrs), attrs["NumPart_ThisFile"], strict=True)
        return {f"PartType{i}" for i, n in enumerate(counts) if any(n)}

    def _types_with_units(self, path: Path) -> set[str]:
        return set()  # blocks have no attributes

    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        with _header_as_hdf5(path) as hdf5_copy:
            try:
                return super()._units(hdf5_copy, suite_units)
            except SnapshotError as error:
                raise SnapshotError(str(error).replace(str(hdf5_copy), str(path))) from error

    def _header(self, path: Path) -> dict[str, Any]:
        return read_header(path)

    def _check_code(self, path: Path) -> None:
        """Find nothing: the file says nothing of its code."""

    def _stage_file(
        self, path: Path, attrs: dict[str, Any], staged: Path, light: str | None
    ) -> tuple[np.ndarray, np.ndarray, tuple[Beside, ...]]:
        counts, masses = np.array(attrs["NumPart_ThisFile"]), np.array(attrs["MassTable"])
        blocks = blocks_of(path, attrs)
        types_by_block = {"POS": [*_TYPES], "VEL": [*_TYPES], "ID": [], "MASS": [i for i in _TYPES if masses[i] == 0]}
        with h5py.File(staged, "w") as staged_file:
            for name, block in blocks.items():
                _link_block(staged_file, path, attrs, block, types_by_block.get(name, [0]))
        return counts, np.where(masses == 0, np.nan, masses), ()


def _totals(attrs: dict[str, Any]) -> list[int]:
    """Return the particle counts of the whole snapshot, from their low and high 32 bits."""
    return [low + (high << 32) for low, high in
            zip(attrs["NumPart_Total"], attrs["NumPart_Total_HighWord"], strict=True)]  # fmt: skip


def _link_block(staged_file: h5py.File, path: Path, attrs: dict[str, Any], block: Block, types: list[int]) -> None:
    """Link a block as datasets of its particle types; their numbers stay in the binary file."""
    columns = (3,) if block.name in ("POS", "VEL") else ()
    counts = [attrs["NumPart_ThisFile"][i] for i in types]
    start = block.start
    for number, n in zip(types, counts, strict=True):
        if n:
            size = n * block.size // sum(counts)
            dtype = f"{attrs['order']}f{size // (n * (3 if columns else 1))}"
            staged_file.create_dataset(
                f"PartType{number}/{NAMES[block.name]}", (n, *columns), dtype, external=[(path.resolve(), start, size)]
            )
            start += size


@contextmanager
def _header_as_hdf5(path: Path) -> Iterator[Path]:
    """Give a temporary HDF5 file with the header's attributes, from which Gadget's code reads units."""
    with tempfile.TemporaryDirectory(prefix="kinmass-") as folder:
        hdf5_copy = Path(folder) / path.name
        with h5py.File(hdf5_copy, "w") as file:
            file.create_group("Header").attrs.update(
                {k: v for k, v in read_header(path).items() if k not in ("order", "format")}
            )
        yield hdf5_copy
