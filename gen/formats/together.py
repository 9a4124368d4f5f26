"""Whether the files of one HDF5 snapshot belong together: one moment, one run, each file once.

Files of another run, or left over from one in more files, have names that fit and numbers that look plausible.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.formats.base import SnapshotError
from kinmass.gen.formats.gadget_header import says_cut_out
from kinmass.gen.formats.gadget_units import Beside, first_of_each, from_datasets
from kinmass.gen.formats.gadget_words import words_by_field

#: Header attributes that are the same in all files of a snapshot.
_COMMON = ("Time", "Redshift", "HubbleParam", "BoxSize", "NumPart_Total", "NumPart_Total_HighWord")
#: Old codes count in 32 bits, and some of them lose the rest.
_WORD = 2**32


def check_together(files: list[Path], headers: list[dict[str, Any]]) -> None:
    """Raise SnapshotError where the Headers of a snapshot's files are of different times or runs."""
    first = headers[0]
    for file, attrs in zip(files[1:], headers[1:], strict=True):
        for key in first.keys() & attrs.keys() & set(_COMMON):
            if not np.array_equal(attrs[key], first[key]):
                raise SnapshotError(
                    f"{file}: its {key} is not that of {files[0].name}; do they belong together? "
                    "Keep only those of one snapshot"
                )


def check_whole(files: list[Path], headers: list[dict[str, Any]], counts_by_file: list[np.ndarray]) -> None:
    """Raise SnapshotError where the files of a snapshot have more or fewer particles than NumPart_Total says.

    counts_by_file: particles that are in each file, (6,). A Header that says other numbers of its own file is that of
    the snapshot which the file was cut out of; one whose own numbers are right belongs to a part of the snapshot,
    unless it says that it is a cutout.
    """
    first = headers[0]
    if len(files) == 1 and says_cut_out(first):
        return
    if "NumPart_Total" not in first or not all("NumPart_ThisFile" in attrs for attrs in headers):
        return
    own = [_of_types(attrs["NumPart_ThisFile"]) for attrs in headers]
    found, low = np.sum(own, axis=0), _of_types(first["NumPart_Total"])
    total = low + np.where(low < _WORD, _WORD * _of_types(first.get("NumPart_Total_HighWord", 0)), 0)
    differs = found % _WORD != total % _WORD
    if len(files) > 1 and (np.any(differs & (found > total)) or (np.any(differs) and np.any((found > 0) & ~differs))):
        number = int(np.flatnonzero(differs)[0])
        raise SnapshotError(
            f"{files[0]}: its {len(files)} files have {found[number]} particles of PartType{number}, and NumPart_Total "
            f"says {total[number]}; is one of them of another run, left over, cut short, or there twice? "
            "Keep only those of one snapshot"
        )
    # Of types that nobody reads, such as tracers, no particles are counted.
    is_written_for_them = all((n == rows)[rows > 0].all() for n, rows in zip(own, counts_by_file, strict=True))
    if is_written_for_them and np.any(differs & (found < total)):
        has = f"its {len(files)} files have" if len(files) > 1 else "it has"
        raise SnapshotError(
            f"{files[0]}: {has} {found.sum()} of the {total.sum()} particles of its snapshot, by NumPart_Total of its "
            "Header; put all files of the snapshot beside it, numbered from 0, or, if it is a cutout, write its own "
            "numbers as NumPart_Total"
        )


def _of_types(numbers: Any) -> np.ndarray:
    """Return an attribute's numbers of particles for each of six types; of types that it leaves out there are none."""
    with np.errstate(invalid="ignore"):  # what is no number is that of no particle
        given = np.ravel(numbers)[:6].astype(np.int64)
    return np.concatenate([given, np.zeros(6 - len(given), dtype=np.int64)])


def check_copies(files: list[Path], staged: list[Path], counts_by_file: list[np.ndarray]) -> None:
    """Raise SnapshotError where two files begin with the same particle: one is a copy of the other.

    staged: the HDF5 files that stand for them. Only files of equal counts (6,) are looked into.
    """
    files_by_counts: dict[tuple[int, ...], list[tuple[Path, Path]]] = defaultdict(list)
    for file, staged_file, counts in zip(files, staged, counts_by_file, strict=True):
        files_by_counts[tuple(counts.tolist())].append((file, staged_file))
    for equal_files in files_by_counts.values():
        if len(equal_files) == 1:
            continue
        file_by_place: dict[bytes, Path] = {}
        for path, staged_file in equal_files:
            if (place := _first_place(staged_file)) is None:
                continue
            if (other := file_by_place.setdefault(place, path)) is not path:
                raise SnapshotError(
                    f"{path}: begins with the same particle as {other.name}; is it a copy? Take one of them out"
                )


def _first_place(path: Path) -> bytes | None:
    """Read the position of the first particle of a file's first type, None where it has no particles."""
    with h5py.File(path, "r") as file:
        for number in range(6):
            pos = file.get(f"PartType{number}/Coordinates")
            if isinstance(pos, h5py.Dataset) and len(pos.shape) == 2 and len(pos):
                return bytes(pos[0].tobytes())
    return None


def check_one_unit(
    files: list[Path], said_by_file: list[tuple[Beside, ...]], looked_at: list[tuple[Beside, ...]]
) -> None:
    """Raise SnapshotError where the datasets of a file claim other units than those which hold for the snapshot.

    said_by_file: what the files say beside their datasets; looked_at: of the first files, from which the units are.
    """
    held = first_of_each(from_datasets(files[0], said) for said in looked_at)
    held_words = first_of_each(words_by_field(said) for said in looked_at)
    for file, said in zip(files, said_by_file, strict=True):
        differs = [key for key, unit in from_datasets(file, said).items()
                   if key not in held or not np.allclose(unit, held[key], rtol=1e-4)]  # fmt: skip
        differs += [key for key, words in words_by_field(said).items() if held_words.get(key) != words]
        if differs:
            raise SnapshotError(
                f"{file}: its datasets are in other units than those of {files[0].name} ({differs[0]}); repair it"
            )
