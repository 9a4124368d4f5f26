"""Tell what a file is by its content: for users who do not know, and for errors that say more than "damaged?"."""

import contextlib
import re
from codecs import getincrementaldecoder
from pathlib import Path
from typing import Any

import h5py

from kinmass.gen.formats import art, enzo, gadget_binary, ramses, tipsy
from kinmass.gen.formats.base import SnapshotError, reading
from kinmass.gen.formats.gadget_header import header
from kinmass.gen.formats.smoothing import SMOOTHING

#: First bytes of files that are often taken for snapshots, and what to do with them.
_MAGIC = {
    b"\x1f\x8b": "compressed by gzip; `gunzip` it first",
    b"BZh": "compressed by bzip2; `bunzip2` it first",
    b"\xfd7zXZ": "compressed by xz; `unxz` it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; `unzstd` it first",
    b"PK\x03\x04": "a zip archive; `unzip` it first",
    b"SIMPLE  =": "a FITS file; maps of an observed galaxy are for `kinmass predict` (docs/howto/galaxy.md)",
    b"\x93NUMPY": "a NumPy array, which says neither units nor types; write it as Gadget HDF5",
    b"version https://git-lfs": "a pointer that git leaves in the place of a large file; get it by `git lfs pull`",
    b"<!DOCTYPE": "a web page, as a failed download leaves; download it again",
    b"<html": "a web page, as a failed download leaves; download it again",
    b"\x00\x10\x34\xa5": "an NChilada field, which is not read; write the snapshot as Tipsy",
}
#: A dataset that tells an HDF5 catalogue, and its format in a suite file.
_CATALOGUES = {
    "Subhalo/CentreOfPotential": "eagle_subfind", "Subhalo/SubhaloPos": "subfind", "galaxy_data/GroupID": "caesar",
    "Subhalos": "hbt", "Structuretype": "velociraptor", "InputHalos/HaloCentre": "soap",
}  # fmt: skip
#: What to do with a catalogue that is not read.
_TABLE = "It is not read; make a table of it for `catalogue` (`format: table`)"


def container(path: Path) -> str:
    """Return `hdf5`, `gadget_binary`, `tipsy`, `ramses` (its info file), `enzo` (its parameters) or `art`.

    Raises SnapshotError for any other file: what it is, and what to do.
    """
    try:
        if (path / "Header" / "attr-v2").is_file():
            raise SnapshotError(
                f"{path}: a bigfile of MP-Gadget, which is not read; convert it by MP-Gadget's tools/convert_to_hdf5.py"
            )
        if path.is_dir():
            raise SnapshotError(f"{path}: a folder; give {_snapshot_in(path)}")
        with open(path, "rb") as file:
            head = file.read(4096)
    except FileNotFoundError as error:
        raise SnapshotError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not head:
        raise SnapshotError(f"{path}: is empty; was it not copied to the end? Get it again")
    for magic, advice in _MAGIC.items():
        if head.startswith(magic):
            raise SnapshotError(f"{path}: {advice}")
    if len(head) > 262 and head[257:262] == b"ustar":
        raise SnapshotError(f"{path}: a tar archive; unpack it by `tar xf` first")
    if h5py.is_hdf5(path):
        return "hdf5"
    if art.is_cells(head):  # before GADGET's: its first record has the size of their header
        return "art"
    if art.is_particle_header(head):
        raise SnapshotError(f"{path}: the header of ART's particles; give the file of cells beside it, 10MpcBox_*.d")
    if gadget_binary.record_marks(head) is not None:
        return "gadget_binary"
    if tipsy.read_header(head) is not None:
        return "tipsy"
    if ramses.is_info(head):
        return "ramses"
    if enzo.is_parameter_file(head):
        return "enzo"
    if part := re.fullmatch(r"(?:amr|hydro|part|rt|grav|sink)_(\d+)\.out\d+", path.name):
        raise SnapshotError(f"{path}: a file of RAMSES; give info_{part[1]}.txt beside it")
    if re.search(r"\.(hierarchy|boundary)$", path.name):
        raise SnapshotError(f"{path}: a file of Enzo; give {path.stem} beside it")
    if _is_text(head):
        raise SnapshotError(f"{path}: a text file (it begins with {_first_line(head)!r}); give the snapshot itself")
    raise SnapshotError(
        f"{path}: of no format that is read (it begins with {head[:8].hex(' ')}); "
        "damaged? Get it again; of another code? Convert it to Gadget HDF5"
    )


def _snapshot_in(folder: Path) -> str:
    """Return words that name a snapshot file in a folder, or say that it has none among its first 100 entries."""
    for path in sorted(folder.iterdir())[:100]:
        try:
            if path.is_file() and container(path):
                return f"a file in it, such as {path.name}"
        except SnapshotError:
            continue
    return "the snapshot file; none lies in this one"


def _is_text(head: bytes) -> bool:
    try:
        text = getincrementaldecoder("utf-8")().decode(head)  # the last letter may be incomplete
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _first_line(head: bytes) -> str:
    return head.decode(errors="replace").splitlines()[0][:40]


def recognised(path: Path) -> str:
    """Guess the format of a snapshot file, one of gen.formats.FORMATS; suite files always name it.

    Raises SnapshotError for a file that is cut short or no snapshot: what it is, and what to do.
    """
    kind = container(path)
    if kind == "hdf5":
        return _format_of_hdf5(path)
    if kind == "gadget_binary":
        gadget_binary.blocks_of(path, gadget_binary.read_header(path))
    return kind


def check_kernels_are_meant(path: Path, declared: str) -> None:
    """Raise SnapshotError where an HDF5 snapshot is by its content of another code than the format that is declared.

    Only codes count whose kernels are stored in another way: all else the files of these codes say themselves.
    """
    form, mark = _format_and_mark(path)
    if mark and SMOOTHING[form].stores != SMOOTHING[declared].stores:
        raise SnapshotError(
            f"{path}: by its {mark} of the format `{form}`, and kernels of the gas would have another size in "
            f"`{declared}`; give `format: {form}`"
        )


def _format_of_hdf5(path: Path) -> str:
    """Guess the format of an HDF5 snapshot. Raises SnapshotError without particles."""
    with reading(path, " as HDF5"), h5py.File(path, "r") as file:
        groups = set(file)
    if re.search(r"\.cpu\d+$", path.name) and any(re.fullmatch(r"Grid\d+", name) for name in groups):
        raise SnapshotError(f"{path}: a file of Enzo's grids; give {path.stem} beside it")
    if not any(name.startswith("PartType") for name in groups):
        raise SnapshotError(f"{path}: an HDF5 file without particles, {_what_else(groups)}")
    return _format_and_mark(path)[0]


def _format_and_mark(path: Path) -> tuple[str, str]:
    """Guess the format of an HDF5 snapshot by its fields and Header, and say by what; "" where others have it."""
    with reading(path, " as HDF5"), h5py.File(path, "r") as file:
        fields = {name for i in range(6) for name in _members(file.get(f"PartType{i}"))}
        config = set(file["Config"].attrs) if "Config" in file else set()
    attrs = header(path)
    run = str(attrs.get("SimulationName", ""))  # of a cutout of TNG's API
    gfm = next((name for name in sorted(fields) if name.startswith("GFM_")), "")
    marks = (
        ("swift", "SWIFT" in str(attrs.get("Code", "")), "Header's Code"),
        ("swift", "SmoothingLengths" in fields, "field SmoothingLengths"),
        ("arepo", "TNG" in run or "Illustris" in run, "Header's SimulationName"),
        ("arepo", "VORONOI" in config, "Config group's VORONOI"),
        ("arepo", bool(gfm), "" if "SmoothingLength" in fields else f"field {gfm}"),  # other codes lend its names
        ("eagle", "Mass" in fields and "ExpansionFactor" in attrs, "field Mass and Header's ExpansionFactor"),
        ("simba", bool({"NWindLaunches", "Dust_Masses"} & fields), "fields of winds or dust"),
        ("gizmo", any("GIZMO" in name.upper() for name in attrs), "Header's words of GIZMO"),
        ("gizmo", "Metallicity" in fields, ""),
    )
    return next(((form, mark) for form, is_there, mark in marks if is_there), ("gadget", ""))


def catalogue_format(path: Path) -> str:
    """Tell the format of an HDF5 catalogue by its content, whatever it is called; "" for any other file."""
    with contextlib.suppress(OSError), h5py.File(path, "r") as file:
        return next((form for name, form in _CATALOGUES.items() if name in file), "")
    return ""


def _members(group: Any) -> list[str]:
    return list(group) if isinstance(group, h5py.Group) else []


def _what_else(groups: set[str]) -> str:
    for names, guess in (
        ({"Group", "Subhalo", "FOF"}, "a SUBFIND catalogue? That goes under `catalogue`"),
        ({"galaxy_data", "halo_data"}, "a caesar catalogue? That goes under `catalogue`"),
        ({"Subhalos"}, "a catalogue of HBT? That goes under `catalogue`"),
        ({"Structuretype"}, "a catalogue of VELOCIraptor? That goes under `catalogue`"),
        ({"BoundSubhaloProperties"}, f"a catalogue of SOAP before 2024? {_TABLE}"),
        ({"InputHalos"}, "a SOAP catalogue? That goes under `catalogue`"),
        ({"Header"}, "an empty part of a snapshot, or one that was never written? Give another"),
    ):
        if names & groups:
            return guess
    return f"no snapshot; it holds {', '.join(sorted(groups)[:5]) or 'nothing'}"


def explain_other_container(path: Path, expected: str) -> str | None:
    """Say in one sentence what a file is; None if it is of the expected container, damaged or not."""
    try:
        if (actual := container(path)) == expected:
            return None
    except SnapshotError as error:
        return str(error)
    container_words = {
        "hdf5": "HDF5",
        "gadget_binary": "a GADGET binary file",
        "tipsy": "a Tipsy file",
        "ramses": "the info file of RAMSES",
        "enzo": "a parameter file of Enzo",
        "art": "ART's file of cells",
    }
    try:
        advice = f"give `format: {recognised(path)}`"
    except SnapshotError:
        advice = "give another `format`"
    return f"{path}: {container_words[actual]}, not {container_words[expected]}; {advice}"
