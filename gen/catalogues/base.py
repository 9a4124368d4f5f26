"""The common form of all halo catalogues, and functions that their readers share."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from kinmass.gen.constants import KPC_CM, MSUN_G
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import scalar
from kinmass.gen.formats.gadget_units import in_round_units
from kinmass.gen.formats.once import names_in
from kinmass.gen.formats.stored import check_complete


class Halo(NamedTuple):
    """One entry of a catalogue; None means unknown.

    halo_mass_msun is M200 (or Mvir) of a central, and the bound mass of a satellite. A tuple is made in a sixth of a
    frozen dataclass's time, and a box has millions of them.
    """

    name: str
    centre_kpc: np.ndarray | None  # (3,) physical, in the snapshot's box; None: not yet determined
    r200_kpc: float | None = None
    n_stars: int | None = None
    n_particles: int | None = None
    central: bool | None = None
    halo_mass_msun: float | None = None
    stellar_mass_msun: float | None = None
    high_res_fraction: float | None = None  # by mass, 0 to 1
    lineage: str | None = None  # names its history: entries of one object at several times share it


class Kinds(NamedTuple):
    """Numbers of the particle types that a suite takes for stars, and for dark matter of low resolution.

    Catalogues that count particles by their type are read by these.
    """

    stars: tuple[int, ...] = (4,)
    low_resolution: tuple[int, ...] = (2, 3)


#: Catalogues whose heaviest galaxy has less than this [Msun] have other units, such as 1e10 Msun, or logarithms.
_SMALLEST_MASS = {"halo_mass_msun": 1e6, "stellar_mass_msun": 1e3}
_NO_HALO = (None,) * len(Halo._fields)


def packed(haloes: Iterable[Halo | None]) -> dict[str, list[Any]]:
    """Return haloes as plain columns by field, which JSON and pickle take ten times faster than objects.

    A column of which every entry is unknown is left out; None stands for an entry without a halo.
    """
    rows = [_NO_HALO if halo is None else halo for halo in haloes]
    columns = {name: list(column) for name, column in zip(Halo._fields, zip(*rows, strict=True), strict=bool(rows))}
    if "centre_kpc" in columns:
        places = centres_kpc(columns["centre_kpc"]).tolist()
        columns["centre_kpc"] = [None if x is None else p for x, p in zip(columns["centre_kpc"], places, strict=True)]
    return {name: column for name, column in columns.items() if column.count(None) < len(column)}


def centres_kpc(centres: Iterable[np.ndarray | None]) -> np.ndarray:
    """Return the centres (N, 3) [kpc] of haloes, NaN where one is unknown."""
    unknown = np.full(3, np.nan)
    # Joined end to end, which takes a tenth of the time that an array of arrays does.
    return np.concatenate([np.zeros(0), *(unknown if x is None else x for x in centres)]).reshape(-1, 3)


def unpacked(columns: Mapping[str, Sequence[Any]], row: int) -> Halo | None:
    """Return one halo of columns that `packed` has made. Raises LookupError, TypeError or ValueError for others."""
    if "name" not in columns or columns["name"][row] is None:
        return None
    values = {name: column[row] for name, column in columns.items()}
    if (centre_kpc := values.pop("centre_kpc", None)) is not None:
        centre_kpc = np.array(centre_kpc, dtype=float).reshape(3)
    return Halo(centre_kpc=centre_kpc, **values)


def of_types(columns: np.ndarray, types: Iterable[int]) -> np.ndarray:
    """Return the sum (N,) of some types' columns (N, T): of numbers of particles as such, of masses in doubles."""
    wanted = columns[:, [number for number in types if number < columns.shape[1]]]
    return np.asarray(wanted.sum(axis=1, dtype=np.int64 if columns.dtype.kind in "iu" else float))


_KIND: dict[str, type] = {"n_stars": int, "n_particles": int, "central": bool, "lineage": str}


def listed(names: Sequence[Any] | np.ndarray, centre_kpc: np.ndarray, **columns: Any) -> list[Halo]:
    """Make haloes from names, centres (N, 3) [kpc] and columns (N,) named as Halo's fields.

    A column that is None, an entry that is None or not finite, and a radius of zero count as unknown.
    Entries known to have no stars are left out: most entries of a cosmological box have none.
    Raises ValueError for columns of different lengths, SnapshotError for shares of high resolution in per cent and for
    masses that are logarithms.
    """
    centre_kpc = np.asarray(centre_kpc, dtype=float)
    if centre_kpc.shape != (len(names), 3):
        raise ValueError(f"positions of shape {centre_kpc.shape} for {len(names)} entries")
    filled = {key: values for key, values in columns.items() if values is not None}
    for key, values in filled.items():
        if len(values) != len(names) or getattr(values, "ndim", 1) != 1:
            raise ValueError(f"{key} of shape {np.shape(values)} for {len(names)} entries")

    if np.any(np.asarray(filled.get("high_res_fraction", []), dtype=float) > 1.01):
        raise SnapshotError("shares of high resolution above 1; are they percentages? Write them from 0 to 1")
    for key in filled.keys() & _SMALLEST_MASS.keys():
        masses = np.array([np.nan if mass is None else mass for mass in filled[key]], dtype=float)
        if 0 < (heaviest := np.max(masses, where=np.isfinite(masses), initial=0.0)) < _SMALLEST_MASS[key]:
            raise SnapshotError(
                f"{key.removesuffix('_msun').replace('_', ' ')}es of {heaviest:.4g} Msun at most; are they logarithms, "
                "or in another unit? Write them in Msun"
            )
    if "n_stars" in filled and not np.all(has_stars := np.asarray(filled["n_stars"]) != 0):
        rows = np.flatnonzero(has_stars)
        names, centre_kpc = [names[i] for i in rows.tolist()], centre_kpc[rows]
        filled = {k: v[rows] if isinstance(v, np.ndarray) else [v[i] for i in rows] for k, v in filled.items()}
    known = {key: _known(key, values) for key, values in filled.items()}
    others = (known.get(field, repeat(None)) for field in Halo._fields[2:])
    return list(map(Halo._make, zip(map(str, names), centre_kpc, *others, strict=False)))


def _known(key: str, values: Any) -> list[Any]:
    """Return a column (N,) as its field of Halo has it, None where an entry is unknown."""
    kind = _KIND.get(key, float)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
        is_known = np.isfinite(values) & (values > 0 if key == "r200_kpc" else True)
        return [kind(value) if known else None for value, known in zip(values.tolist(), is_known.tolist(), strict=True)]

    def known_value(value: Any) -> Any:
        """Return one entry, None where it is unknown."""
        if value is None or (key == "r200_kpc" and not value > 0):
            return None
        return kind(value) if key == "lineage" or math.isfinite(value) else None

    return [known_value(value) for value in values]


#: A catalogue and its snapshot agree in a to this share; TNG's last two snapshots differ by a hundred times more.
SAME_A = 1e-4


class OtherEpoch(SnapshotError):
    """A catalogue that was made from another snapshot of its run."""


def same_epoch(path: Path, scale_factor: float, units: CodeUnits, tolerance: float = 0.0) -> None:
    """Raise OtherEpoch when a catalogue's scale factor is not the snapshot's.

    tolerance: rounding error of the catalogue's value, allowed in addition to `SAME_A`.
    """
    if not abs(scale_factor - units.scale_factor) <= SAME_A * units.scale_factor + tolerance:
        raise OtherEpoch(
            f"{path}: made at a = {scale_factor:.6g}, the snapshot at a = {units.scale_factor:.6g}; "
            "check `catalogue.path`"
        )


def text_table(
    path: Path, needed_columns: set[str], optional_columns: set[str], names_in_first: str = ""
) -> tuple[dict[str, list[str]], str]:
    """Read a text table under a line `#name(1) name(2) ...`: columns by lower-case name, and the comments.

    Entries stay text, because AHF's IDs do not fit a float. names_in_first: that line of the first part, for parts that
    may have none of their own. Raises SnapshotError for a file without the needed columns, or cut short.
    """
    comments = ""
    with open(path, encoding="utf-8", errors="replace") as file:
        # Lines of a megabyte are no table: this keeps a binary file from being read into memory as one line.
        first_line = file.readline(1 << 20)
        if names_in_first and not first_line.startswith("#"):
            first_line = names_in_first
            file.seek(0)
        names = [re.sub(r"\(\d+\)$", "", word).lower() for word in first_line.lstrip("#").split()]
        if not first_line.startswith("#"):
            raise SnapshotError(f"{path}: does not begin with a line of column names; is `catalogue.format` right?")
        need(path, "its first line", needed_columns, names)
        columns: dict[str, list[str]] = {name: [] for name in names if name in needed_columns | optional_columns}
        column_index = {name: names.index(name) for name in columns}
        for line in iter(lambda: file.readline(1 << 20), ""):
            if line.startswith("#"):
                comments += line
            elif words := line.split():
                if len(words) < len(names) or not line.endswith("\n"):
                    raise SnapshotError(
                        f"{path}: {len(words)} columns under {len(names)} names; cut short? Get it again"
                    )
                for name, index in column_index.items():
                    columns[name].append(words[index])
    return columns, comments


def numbered_parts(path: Path, pattern: str, always: bool = False) -> list[Path]:
    """Return the files of a text catalogue that several processes have written, each a part of it.

    pattern: a regular expression of their names whose only group is the part's number. The number is that of a part
    where others count from 0, or always. Raises SnapshotError where one is missing, or `path` is not the first of them.
    """
    if not (match := re.fullmatch(pattern, path.name)):
        return [path]
    before, after = path.name[: match.start(1)], path.name[match.end(1) :]
    part = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    numbered = {int(m[1]): path.parent / name for name in names_in(path.parent) if (m := part.fullmatch(name))}
    if 0 not in numbered and not always:
        return [path]
    if (missing := next((i for i in range(max(numbered)) if i not in numbered), None)) is not None:
        raise SnapshotError(f"{path}: part {missing} of this catalogue is missing; get it, too")
    if int(match[1]):
        raise SnapshotError(f"{path}: not the first of its {len(numbered)} parts; give {numbered[0].name}")
    return [numbered[i] for i in sorted(numbered)]


def joined(path: Path, tables: list[tuple[dict[str, list[str]], str]]) -> tuple[dict[str, list[str]], str]:
    """Join the columns of all parts of a text catalogue, whose first is `path`, and give the comments of the first.

    Raises SnapshotError where parts have other columns than others.
    """
    names = _common_names(path, [set(columns) for columns, _ in tables])
    return {name: [word for columns, _ in tables for word in columns[name]] for name in names}, tables[0][1]


def need(path: Path, label: str, needed: Iterable[str], present: Iterable[str]) -> None:
    """Raise SnapshotError that names the needed columns which are not present; label says where they are missing."""
    if missing := sorted(set(needed) - set(present)):
        raise SnapshotError(
            f"{path}: {label} has no {', '.join(missing)}; is `catalogue.format` right? If so, add what is missing"
        )


def members(path: Path, file: h5py.File, name: str) -> Any:
    """Return a group of a file, empty if it is not there. Raises SnapshotError for a dataset of that name."""
    group = file.get(name, {})
    if isinstance(group, h5py.Dataset):
        raise SnapshotError(f"{path}: {name} is no group; is `catalogue.format` right?")
    return group


def numbers(path: Path, data: Any) -> np.ndarray:
    """Read an HDF5 dataset, floats as float64.

    Raises SnapshotError for one without numbers, or whose numbers are not all there.
    """
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iufb" or not data.shape:
        raise SnapshotError(f"{path}: {data.name} is no array of numbers; damaged? Get it again")
    check_complete(f"{path}: {data.name}", data)
    return data[()].astype(float) if data.dtype.kind == "f" else data[()]


def stacked(files: list[Path], group: str, needed: set[str], optional: set[str]) -> dict[str, np.ndarray]:
    """Join the datasets of one HDF5 group over files; files without any are skipped. Empty if all are.

    Raises SnapshotError naming the file that lacks a needed dataset, or where rows do not match.
    """
    parts: list[dict[str, np.ndarray]] = []
    for path in files:
        with h5py.File(path, "r") as file:
            in_group = members(path, file, group)
            datasets = {name: numbers(path, in_group[name]) for name in needed | optional if name in in_group}
        if datasets:
            need(path, "the file" if group == "/" else group, needed, datasets)
            if len({len(values) for values in datasets.values()}) > 1:
                raise SnapshotError(f"{path}: the datasets of {group} differ in length; damaged? Get it again")
            parts.append(datasets)
    return rows_joined(files[0], parts)


def rows_joined(path: Path, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the columns of all parts of a catalogue, whose first is `path`.

    Raises SnapshotError where parts have other columns than others.
    """
    names = _common_names(path, [set(part) for part in parts])
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _common_names(path: Path, names_by_part: list[set[str]]) -> set[str]:
    """Return the names of columns, which are the same in all parts of a catalogue; `path` is the first of them.

    Raises SnapshotError where they are not: of a column that is left out, such as SubhaloFlag, nobody would know.
    """
    names: set[str] = set().union(*names_by_part)
    if partial := sorted(name for name in names if not all(name in part for part in names_by_part)):
        raise SnapshotError(
            f"{path}: {', '.join(partial)} in some parts of this catalogue and not in all; get them all from one run"
        )
    return names


def header(path: Path, *names: str) -> float | None:
    """Return the first of the named Header attributes that a file has, None if it has none of them."""
    with h5py.File(path, "r") as file:
        attrs = file["Header"].attrs if "Header" in file else {}
        return next((scalar(attrs[name], name) for name in names if name in attrs), None)


def factor_of_h(path: Path, units: CodeUnits, power: float = 1.0) -> float:
    """Return h to the power that a catalogue's unit has of it. Raises SnapshotError where its snapshot says no h."""
    if power and units.cosmological and units.hubble == 1:
        raise SnapshotError(
            f"{path}: its units have factors of h, which the snapshot does not say; write it into the snapshot's "
            "header, or make a table of the catalogue (`format: table`)"
        )
    return float(units.hubble**power)


def code_units(path: Path, units: CodeUnits) -> tuple[float, float]:
    """Return the catalogue's code units in kpc and Msun, factors of a and h included.

    Taken from the catalogue's attributes, which leave out a and h; without them the snapshot's units hold,
    because the same code has written both files. So they do in a run without expansion: its numbers have factors of h
    or not, which the snapshot has said.
    """
    if not units.cosmological:
        return units.length_kpc, units.mass_msun
    cgs_by_attribute = {"UnitLength_in_cm": KPC_CM, "UnitMass_in_g": MSUN_G}
    snapshot_units = {
        "UnitLength_in_cm": (units.length_kpc, units.scale_factor),
        "UnitMass_in_g": (units.mass_msun, 1.0),
    }
    file_units: dict[str, float] = {}
    with h5py.File(path, "r") as file:
        groups = {group: file[group].attrs for group in ("Units", "Parameters", "Header") if group in file}
        for name, cgs in cgs_by_attribute.items():
            said = {group: scalar(attrs[name], name) for group, attrs in groups.items() if name in attrs}
            if said:
                first = file_units[name] = next(iter(said.values())) / cgs
                if not np.allclose(list(said.values()), first * cgs, rtol=1e-2):
                    words = ", and ".join(f"{value:.6g} by its {group} group" for group, value in said.items())
                    raise SnapshotError(f"{path}: {name} is {words}; keep the one that is true")
        said_h = [scalar(attrs["HubbleParam"], "HubbleParam") for attrs in groups.values() if "HubbleParam" in attrs]
    # GADGET-4 also runs in units without factors of h (its HubbleParam is 1, and Hubble is H0): both files say h = 1.
    has_no_h = units.hubble == 1 and {*said_h} == {1.0}
    kpc_per_unit, msun_per_unit = (
        in_round_units(file_units[name]) * (a / (1.0 if has_no_h else factor_of_h(path, units)))
        if name in file_units
        else unit
        for name, (unit, a) in snapshot_units.items()
    )
    return kpc_per_unit, msun_per_unit
