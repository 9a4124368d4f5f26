"""GADGET's binary snapshots, formats 1 and 2 (Springel 2005; GADGET-2 users' guide, section 6), of either byte order.

yt's own reader of them goes wrong in silence: it places double-precision fields as if they were single, indexes all
blocks of a big file by the positions of its first, and reads format 2 in single precision only. So the blocks are
found here, against every count and record mark, and shown to yt as the datasets of a Gadget HDF5 file.
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

from kinmass.gen.formats.base import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget import Gadget

HEADER_BYTES = 256
_TYPES = range(6)
_HEADER: list[tuple[str, str, tuple[int, ...]]] = [
    ("NumPart_ThisFile", "i4", (6,)), ("MassTable", "f8", (6,)), ("Time", "f8", ()), ("Redshift", "f8", ()),
    ("Flag_Sfr", "i4", ()), ("Flag_Feedback", "i4", ()), ("NumPart_Total", "u4", (6,)), ("Flag_Cooling", "i4", ()),
    ("NumFilesPerSnapshot", "i4", ()), ("BoxSize", "f8", ()), ("Omega0", "f8", ()), ("OmegaLambda", "f8", ()),
    ("HubbleParam", "f8", ()), ("Flag_StellarAge", "i4", ()), ("Flag_Metals", "i4", ()),
    ("NumPart_Total_HighWord", "u4", (6,)), ("rest", "V60", ()),
]  # fmt: skip

#: Format 2's names of blocks, and the datasets that they are in HDF5. Those after MASS are the gas's.
NAMES = {
    "POS": "Coordinates", "VEL": "Velocities", "ID": "ParticleIDs", "MASS": "Masses", "U": "InternalEnergy",
    "RHO": "Density", "NE": "ElectronAbundance", "NH": "NeutralHydrogenAbundance", "HSML": "SmoothingLength",
    "SFR": "StarFormationRate", "TEMP": "Temperature",
}  # fmt: skip
_ALL = ("POS", "VEL", "ID")


@dataclass(frozen=True)
class Block:
    """Numbers of some particle types, one type after the other: where they begin [bytes], and what they are."""

    name: str
    start: int
    size: int


def record_marks(head: bytes) -> tuple[str, int] | None:
    """Byte order and format (1 or 2) of a file that begins so, None where it is no GADGET binary snapshot."""
    for order in "<>":
        mark = int.from_bytes(head[:4], "little" if order == "<" else "big")
        if mark == HEADER_BYTES:
            return order, 1
        if mark == 8 and head[4:8] == b"HEAD":
            return order, 2
    return None


def read_header(path: Path) -> dict[str, Any]:
    """The header under the names it has in HDF5, with `order` and `format`. Raises SnapshotError."""
    try:
        with open(path, "rb") as file:
            head = file.read(16 + 8 + HEADER_BYTES)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror}); check the snapshot pattern") from error
    if (marks := record_marks(head)) is None:
        raise SnapshotError(f"{path}: no GADGET binary snapshot, which begins with 256 or 8; is `format:` right?")
    order, form = marks
    start = 4 if form == 1 else 20
    layout = np.dtype([(name, order + kind, shape) for name, kind, shape in _HEADER])
    ends = np.frombuffer(head[start - 4 : start] + head[start + HEADER_BYTES :][:4], order + "u4")
    if ends.tolist() != [HEADER_BYTES] * 2:
        raise SnapshotError(
            f"{path}: a header between record marks of {ends.tolist()} bytes, not 256 as GADGET-2 and -3 write; "
            "cut short, or of GADGET-4's own kind? Write HDF5 (SnapFormat 3) or take its GADGET2_HEADER"
        )
    row = np.frombuffer(head, layout, 1, start)[0]
    found = {name: row[name].tolist() for name, *_ in _HEADER[:-1]}
    if min(found["NumPart_ThisFile"]) < 0 or not 0 <= found["NumFilesPerSnapshot"] < 10**6:
        raise SnapshotError(f"{path}: its header has negative counts of particles or files; damaged?")
    if not all(0 <= mass < np.inf for mass in found["MassTable"]):
        raise SnapshotError(f"{path}: its header has the particle masses {found['MassTable']}; damaged?")
    return {**found, "order": order, "format": form}


def _walk(path: Path, file: BinaryIO, order: str, form: int, size: int) -> Iterator[Block]:
    """Blocks in the file's order, with their names in format 2. Raises SnapshotError where marks lead nowhere."""

    def mark() -> int:
        raw = file.read(4)
        if len(raw) < 4:
            raise SnapshotError(f"{path}: ends at byte {size}, within a record; cut short?")
        return int(np.frombuffer(raw, order + "u4")[0])

    while file.tell() < size:
        name = ""
        if form == 2:
            if mark() != 8:
                raise SnapshotError(f"{path}: no block name before byte {file.tell()}; damaged?")
            name = file.read(8)[:4].decode("latin-1").strip()
            if mark() != 8:
                raise SnapshotError(f"{path}: no end of the block name before byte {file.tell()}; damaged?")
        said, start = mark(), file.tell()
        n = said
        while True:  # a mark counts modulo 2^32; a block of more than 4 GiB ends where its own mark stands again
            if start + n + 4 > size:
                raise SnapshotError(f"{path}: {name or 'a block'} at byte {start} does not end in the file; cut short?")
            file.seek(start + n)
            if mark() == said:
                break
            n += 2**32
        yield Block(name, start, n)


def _gas_blocks(attrs: dict[str, Any]) -> list[str]:
    """What follows MASS in format 1, which has no names, by the header's flags (GADGET-2's and -3's io.c)."""
    cooling = ["NE", "NH"] if attrs["Flag_Cooling"] else []
    return ["U", "RHO", *cooling, "HSML", *(["SFR"] if attrs["Flag_Sfr"] else [])]


def _named(attrs: dict[str, Any], blocks: list[Block], own_mass: bool) -> list[Block]:
    """Format 1's blocks with their names: the order is fixed, and what is not there ends the list."""
    n_gas = attrs["NumPart_ThisFile"][0]
    names = [*_ALL, *(["MASS"] if own_mass else [])]
    found = [Block(name, b.start, b.size) for name, b in zip(names, blocks, strict=False)]
    rest = blocks[len(names) :]
    alike = next((i for i, b in enumerate(rest) if b.size not in (4 * n_gas, 8 * n_gas)), len(rest))
    gas = _gas_blocks(attrs)
    if alike != len(gas):  # initial conditions have U alone; what else there is, is in no order that is known
        gas = gas[:2]
    return found + [Block(name, b.start, b.size) for name, b in zip(gas, rest[:alike], strict=False)]


def blocks_of(path: Path, attrs: dict[str, Any]) -> dict[str, Block]:
    """The blocks of one file that are used, by their names in format 2.

    Raises SnapshotError where one is missing, or its size does not fit the header's counts.
    """
    counts = attrs["NumPart_ThisFile"]
    n, own_mass = sum(counts), sum(c for c, m in zip(counts, attrs["MassTable"], strict=True) if m == 0)
    size = path.stat().st_size
    with open(path, "rb") as file:
        blocks = list(_walk(path, file, attrs["order"], attrs["format"], size))[1:]
    if attrs["format"] == 1:
        blocks = _named(attrs, blocks, own_mass > 0)
    found: dict[str, Block] = {}
    for block in blocks:
        if block.name in found:
            raise SnapshotError(f"{path}: has two blocks {block.name}; damaged?")
        if block.name in NAMES:
            found[block.name] = block
    values = {"POS": 3 * n, "VEL": 3 * n, "ID": n, "MASS": own_mass}
    for name in [name for name in ("POS", "VEL", "MASS") if values[name] and name not in found]:
        raise SnapshotError(f"{path}: has no block {name} for {values[name]} values; cut short, or not a snapshot?")
    for name, block in found.items():
        if (expected := values.get(name, counts[0])) and block.size not in (4 * expected, 8 * expected):
            raise SnapshotError(
                f"{path}: block {name} has {block.size} bytes, neither 4 nor 8 for each of the {expected} values "
                "that its header counts; damaged, or blocks of another order?"
            )
    return {name: block for name, block in found.items() if values.get(name, counts[0])}


class GadgetBinary(Gadget):
    """GADGET-2's and -3's own formats 1 and 2: types, units and cosmology are those of `gadget`."""

    name = "gadget_binary"
    container: ClassVar[str] = "gadget_binary"

    def files(self, path: Path) -> list[Path]:
        """`snap_063.0` brings `snap_063.1` and so on along, as many as its header says.

        Raises SnapshotError when one is missing or the path is not the first.
        """
        attrs = read_header(path)
        n = attrs["NumFilesPerSnapshot"]
        if n <= 1 or attrs["NumPart_ThisFile"] == _totals(attrs):
            return [path]
        if not (match := re.fullmatch(r"(.*)\.(\d+)", path.name)) or int(match[2]):
            first = f"{match[1]}.0" if match else f"{path.name}.0"
            raise SnapshotError(f"{path}: one of {n} files of a snapshot; let `snapshots` match only {first}")
        files = [path.with_name(f"{match[1]}.{i}") for i in range(n)]
        for i, file in enumerate(files):
            if not file.is_file():
                raise SnapshotError(f"{path}: file number {i} of this snapshot is missing ({n} in all)")
        total = np.sum([read_header(file)["NumPart_ThisFile"] for file in files], axis=0)
        if any(_totals(attrs)) and total.tolist() != _totals(attrs):
            raise SnapshotError(
                f"{path}: its {n} files hold {total.tolist()} particles, its header says {_totals(attrs)}; "
                "do they belong together?"
            )
        return files

    def promised(self, path: Path) -> dict[str, int]:
        """Nothing more: the blocks have been held against the counts."""
        return {}

    def types(self, path: Path) -> set[str]:
        """The particle types that the header says the snapshot has."""
        attrs = read_header(path)
        counts = zip(_totals(attrs), attrs["NumPart_ThisFile"], strict=True)
        return {f"PartType{i}" for i, n in enumerate(counts) if any(n)}

    def _units(self, path: Path, given: dict[str, Any]) -> CodeUnits:
        with _header_as_hdf5(path) as shown:
            try:
                return super()._units(shown, given)
            except SnapshotError as error:
                raise SnapshotError(str(error).replace(str(shown), str(path))) from error

    def _header(self, path: Path) -> dict[str, Any]:
        return read_header(path)

    def _stage_file(
        self, path: Path, attrs: dict[str, Any], staged: Path, light: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        counts, masses = np.array(attrs["NumPart_ThisFile"]), np.array(attrs["MassTable"])
        found = blocks_of(path, attrs)
        types = {"POS": [*_TYPES], "VEL": [*_TYPES], "ID": [], "MASS": [i for i in _TYPES if masses[i] == 0]}
        with h5py.File(staged, "w") as link:
            for name, block in found.items():
                _show(link, path, attrs, block, types.get(name, [0]))
        return counts, np.where(masses == 0, np.nan, masses)


def _totals(attrs: dict[str, Any]) -> list[int]:
    return [low + (high << 32) for low, high in
            zip(attrs["NumPart_Total"], attrs["NumPart_Total_HighWord"], strict=True)]  # fmt: skip


def _show(link: h5py.File, path: Path, attrs: dict[str, Any], block: Block, types: list[int]) -> None:
    """Make a block the datasets of its particle types, which lie where they are in the binary file."""
    columns = (3,) if block.name in ("POS", "VEL") else ()
    counts = [attrs["NumPart_ThisFile"][i] for i in types]
    start = block.start
    for number, n in zip(types, counts, strict=True):
        if n:
            size = n * block.size // sum(counts)
            kind = f"{attrs['order']}f{size // (n * (3 if columns else 1))}"
            link.create_dataset(
                f"PartType{number}/{NAMES[block.name]}", (n, *columns), kind, external=[(path.resolve(), start, size)]
            )
            start += size


@contextmanager
def _header_as_hdf5(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kinmass-") as folder:
        shown = Path(folder) / path.name
        with h5py.File(shown, "w") as file:
            file.create_group("Header").attrs.update(
                {k: v for k, v in read_header(path).items() if k not in ("order", "format")}
            )
        yield shown
