"""A plain table of galaxies, ECSV or CSV."""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinmass.gen.catalogues.base import Halo, listed, need
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.base import reading
from kinmass.gen.formats.ramses import is_group
from kinmass.gen.suite import snapshot_number

if TYPE_CHECKING:  # it takes half a second to load, which each of thousands of ranks would spend
    from astropy.table import Table

_OPTIONAL = {
    "r200": ("r200_kpc", "kpc"), "halo_mass": ("halo_mass_msun", "Msun"), "stellar_mass": ("stellar_mass_msun", "Msun"),
    "n_stars": ("n_stars", None), "high_res_fraction": ("high_res_fraction", ""),
}  # fmt: skip
#: What else a column of the snapshots' numbers may be called, in lower case.
_EPOCHS = {"snapnum", "snap_num", "snap", "snapshot_number", "snapshotnumber", "snapshot_id", "snapid"}
#: What stands for an entry that is empty.
_NOTHING = ("", "--", "nan")
#: From here on floats leave whole numbers out.
_LARGEST_WHOLE = 2**53
_TRUTH = dict.fromkeys(("true", "1", "1.0", "t", "yes", "y"), True) | dict.fromkeys(
    ("false", "0", "0.0", "f", "no", "n"), False
) | dict.fromkeys(_NOTHING, None)  # fmt: skip


#: What may be in a table that astropy's readers in C and in Python take for the same: the one in C has other rules for
#: quotes, control characters, `nan(1)` and whatever is not ASCII,
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"(')) + b"\t\n"
#: for blanks before a comment and for hexadecimal numbers, and does not take 1_000 for a number.
_STRANGE = (b"\n ", b"\n\t", b"0x", b"0X")


def _in_c(path: Path) -> "Table | None":
    """Read a plain CSV by astropy's reader in C, which takes a tenth of the time; None where it is to be left alone."""
    from astropy.table import Table

    raw = b"\n" + path.read_bytes().replace(b"\r\n", b"\n")
    if not (raw.translate(None, _PLAIN) or any(word in raw for word in _STRANGE) or re.search(rb"\d_\d", raw)):
        with contextlib.suppress(ValueError):  # the reader in Python says what is wrong
            table = Table.read(raw.decode(), format="ascii.csv", comment="#", guess=False, fast_reader="force")
            return table if table.colnames else None
    return None


def _table(path: Path) -> "Table":
    """Read a table as its name says. Raises SnapshotError where its rows do not fit, or a column comes twice."""
    from astropy.table import Table

    encoding = "utf-8-sig"  # spreadsheets begin a file with a mark that would become part of the first column's name
    try:
        if path.suffix == ".ecsv":
            # Given a path, astropy would look at it and open it several times.
            table = Table.read(path.read_text(encoding=encoding).split("\n"), format="ascii.ecsv")
        elif (table := _in_c(path)) is None:
            table = Table.read(path, format="ascii.csv", comment="#", encoding=encoding)
    except ValueError as error:  # astropy's readers in C leave no trace of where it comes from
        raise SnapshotError(
            f"{path}: no such table as its name says ({' '.join(str(error).split())[:200]}); "
            "repair it, or rename it to .ecsv or .csv"
        ) from error
    if twice := [name for name in table.colnames if name.endswith("_1") and name.removesuffix("_1") in table.colnames]:
        raise SnapshotError(f"{path}: column {twice[0].removesuffix('_1')} is there twice; keep one")
    return table


def _is_named(snapshot: Path, name: str) -> bool:
    """Whether a name is that of a snapshot's file, with or without its suffix, its number, or the end of its path.

    So is that of its folder where this has the snapshot's number, as RAMSES's `output_00080`.
    """
    number = _number(snapshot)
    if name.isdecimal() and number:
        return int(name) == int(number)
    parts, folder = Path(name).parts, _folder(snapshot)
    stem = _without_suffix(snapshot)
    own_folder = [folder] if number and re.search(rf"_0*{int(number)}$", folder.name) else []
    return bool(parts) and any(path.parts[-len(parts) :] == parts for path in (snapshot, stem, *own_folder))


def _folder(snapshot: Path) -> Path:
    """Return the folder of a snapshot, which is above those of its groups where RAMSES has written such."""
    return snapshot.parent.parent if is_group(snapshot.parent) else snapshot.parent


def _without_suffix(snapshot: Path) -> Path:
    return snapshot.with_name(re.sub(r"(\.0)?\.(hdf5|h5)$|\.(txt|d)$", "", snapshot.name))


def _number(snapshot: Path) -> str:
    """Return the number in a snapshot's name, "" where that is another one for other formats."""
    formats = ("gadget",) if snapshot.suffix in (".hdf5", ".h5") else ("gadget", "tipsy")
    numbers = {snapshot_number(snapshot, name) for name in formats}
    return numbers.pop() if len(numbers) == 1 else ""


def _by_word(snapshots: Iterable[Path]) -> dict[str | int, list[Path]]:
    """Return the names and numbers by which an entry may mean some of these snapshots, with these."""
    by_word: dict[str | int, list[Path]] = {}
    for snapshot in snapshots:
        words = {snapshot.name, _without_suffix(snapshot).name, _folder(snapshot).name}
        for word in words | ({int(number)} if (number := _number(snapshot)) else set()):
            by_word.setdefault(word, []).append(snapshot)
    return by_word


def named_by(path: Path, snapshots: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the entries of the table's column `snapshot`, each with those of the snapshots that it names.

    None may be, or two: a number names both where two runs have an output of that number, whose rows would be taken for
    galaxies of both. Empty for a table without the column. Raises SnapshotError where it cannot be read.
    """
    with reading(path, " as a table catalogue"):
        table = _table(path)
    by_word = _by_word(snapshots)
    named = {}
    for name in sorted({str(name).strip() for name in table["snapshot"]} if "snapshot" in table.colnames else ()):
        candidates = by_word.get(int(name) if name.isdecimal() else Path(name).name, [])
        named[name] = sorted(s for s in {*candidates, *by_word.get(name, ())} if _is_named(s, name))
    return named


def _check_spelling(path: Path, names: list[str]) -> None:
    """Raise SnapshotError for a column whose name is one that is read but for capitals and blanks: it would be ignored.

    Without `central` satellites would be centrals, without `id` and `lineage` a galaxy in training and in a test.
    """
    read_names = {*_OPTIONAL, "id", "central", "lineage", "snapshot"} - set(names)
    for name in names:
        if (meant := name.strip().lower()) in read_names:
            raise SnapshotError(f"{path}: column {name!r} would not be read; call it {meant!r}, or otherwise")


def _check_one_epoch(path: Path, table: "Table") -> None:
    """Raise SnapshotError where another column than `snapshot` says that rows are of several snapshots."""
    for name in table.colnames if "snapshot" not in table.colnames else ():
        if name.lower() in _EPOCHS and len(set(table[name].tolist())) > 1:
            raise SnapshotError(
                f"{path}: by its column {name!r} galaxies are of several snapshots; say in a column `snapshot` of which"
            )


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read columns `x`, `y`, `z` and the optional ones of docs/generation.md; an empty field is unknown.

    Lengths are physical kpc and masses Msun, unless an ECSV header gives other units. With a `snapshot` column only
    rows are read whose entry is the file's name, with or without its suffix, its number, or the end of its path.
    Raises SnapshotError for a missing column, or one that comes twice.
    """
    table = _table(path)
    need(path, f"the table ({', '.join(table.colnames)})", "xyz", table.colnames)
    _check_spelling(path, table.colnames)
    _check_one_epoch(path, table)
    table["row"] = np.arange(len(table))
    if "snapshot" in table.colnames:
        if len(table) and table["snapshot"].dtype.kind == "f":  # as pandas writes a column with an empty field
            raise SnapshotError(f"{path}: `snapshot` is {table['snapshot'][0]} in a row; write whole numbers, or names")
        table = table[[_is_named(snapshot, str(name).strip()) for name in table["snapshot"]]]

    def values(name: str, unit: str | None) -> np.ndarray:
        """Return a column (N,) in a unit, NaN where an entry is empty."""
        numbers: np.ndarray = np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan)
        if table[name].unit is None or unit is None:
            return numbers
        try:
            return np.asarray(table[name].unit.to(unit, numbers))
        except ValueError as error:
            raise SnapshotError(
                f"{path}: column {name!r} is in {str(table[name].unit)!r}, which is no known unit of "
                f"{'length' if unit == 'kpc' else 'mass' if unit else 'a share'}: it is read as physical, so without "
                f"factors of a and h; write it in {unit or 'numbers from 0 to 1'}"
            ) from error

    def truth(word: str) -> bool | None:
        """Return whether an entry says true or false, None where it is empty. Raises SnapshotError for any other."""
        if word.lower() not in _TRUTH:
            raise SnapshotError(f"{path}: `central` is {word!r} in a row; write true or false")
        return _TRUTH[word.lower()]

    def words(name: str) -> list[str]:
        """Return a column as texts without blanks around them; a whole number is the same with .0 and without.

        A table has whole numbers as floats where one of its rows has none. Raises SnapshotError for any other float.
        """
        numbers = table[name].tolist()  # None where masked
        if table[name].dtype.kind == "f":
            known = [x for x in numbers if x is not None and x == x]
            if strange := [x for x in known if not float(x).is_integer() or abs(x) >= _LARGEST_WHOLE]:
                raise SnapshotError(f"{path}: `{name}` is {strange[0]} in a row; write whole numbers, or names")
            numbers = [int(x) if x is not None and x == x else None for x in numbers]
        return ["--" if word is None else str(word).strip() for word in numbers]

    lineages = words("lineage") if "lineage" in table.colnames else [""] * len(table)
    return listed(
        words("id" if "id" in table.colnames else "row"),
        np.stack([values(x, "kpc") for x in "xyz"], axis=1),
        central=[truth(word) for word in words("central")] if "central" in table.colnames else None,
        lineage=[None if word.lower() in _NOTHING else word for word in lineages],
        **{halo_field: values(name, unit) for name, (halo_field, unit) in _OPTIONAL.items() if name in table.colnames},
    )
