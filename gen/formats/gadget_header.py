"""The Header of the Gadget HDF5 family: files of a snapshot, time, cosmology and box, and what they may not say."""

import contextlib
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.formats.base import NOT_COSMOLOGICAL, SnapshotError, reading
from kinmass.gen.formats.gadget_fields import TYPES
from kinmass.gen.formats.once import names_in, once, once_by_path

#: Attributes of what TNG's API and EAGLE's tools cut out.
_CUT_OUT = {"CutoutID", "CutoutType", "CutoutRequest", "ExtractedFromSnapshot"}
#: A redshift below this is a rounding error: SWIFT and EAGLE write 1 / a - 1 at z = 0.
NO_REDSHIFT = 1e-6


def scalar(value: Any, name: str = "an attribute") -> float:
    """Return an attribute, often an array of one element, as a number. Raises SnapshotError naming it if it is none."""
    try:
        first = np.ravel(np.asarray(value))[0]
        return float(first if np.isrealobj(first) else "complex")
    except (ValueError, TypeError, IndexError) as error:
        raise SnapshotError(f"{name} is {str(value)[:40]!r}, no number; damaged? Get it again") from error


@once
def header(path: Path) -> dict[str, Any]:
    """Read the Header attributes of one file; those that are null say nothing, and are left out.

    Raises SnapshotError if it is no HDF5 file or has no Header.
    """
    with reading(path, " as HDF5"), h5py.File(path, "r") as file:
        if "Header" not in file:
            raise SnapshotError(f"{path}: no Header group, so no Gadget-type snapshot; is `format:` right?")
        return {name: value for name, value in file["Header"].attrs.items() if not isinstance(value, h5py.Empty)}


def files_of(path: Path) -> list[Path]:
    """Return all files of a snapshot from its first: `snap.0.hdf5`, `snap.1.hdf5` and so on.

    A cutout in one file may still have the NumFilesPerSnapshot of the snapshot it was cut from. Raises
    SnapshotError when a file is missing or the path is not the first.
    """
    match = re.fullmatch(r"(.*)\.(\d+)\.(hdf5|h5)", path.name)
    if not match:
        return [path]
    pattern = re.compile(re.escape(match[1]) + r"\.(\d+)\." + match[3])
    numbered = {int(m[1]): path.parent / m[0] for n in names_in(path.parent) if (m := pattern.fullmatch(n))}
    others = [other for number, other in numbered.items() if number != int(match[2])]
    if others and _is_whole(path) and all(_is_whole(other) and _time(other) != _time(path) for other in others):
        return [path]  # the numbers are times: snap_z0.000.hdf5 and snap_z0.500.hdf5
    if 0 in numbered and others and _is_whole(path) and all(map(_is_whole, others)):
        raise SnapshotError(
            f"{path}: by their Headers this file and {others[0].name} are snapshots of their own, and their names are "
            f"those of parts of one; rename them if so, as {match[1]}_{match[2]}.{match[3]}: else their "
            "NumFilesPerSnapshot and NumPart_Total are wrong"
        )
    if int(match[2]) and 0 in numbered:
        raise SnapshotError(
            f"{path}: not the first file of its snapshot; let `snapshots` match only {numbered[0].name}"
        )
    if int(match[2]) or not numbered:
        return [path]
    attrs = header(path)
    with reading(path):
        n_claimed = int(scalar(attrs.get("NumFilesPerSnapshot", len(numbered)), "NumFilesPerSnapshot"))
    is_complete = np.array_equal(attrs.get("NumPart_ThisFile", 0), attrs.get("NumPart_Total", 0))
    n_expected = max(numbered) + 1 if len(numbered) == 1 and is_complete else max(n_claimed, max(numbered) + 1)
    missing = next((i for i in range(n_expected) if i not in numbered), None)
    if missing is not None:
        raise SnapshotError(
            f"{path}: file number {missing} of this snapshot is missing ({n_expected:.9g} in all); get it, too"
        )
    return [numbered[i] for i in sorted(numbered)]


def _is_whole(path: Path) -> bool:
    """Whether a file says by its Header that it is a snapshot of its own, with all particles."""
    with contextlib.suppress(SnapshotError):
        attrs = header(path)
        is_complete = np.array_equal(attrs.get("NumPart_ThisFile", 0), attrs.get("NumPart_Total", np.nan))
        return is_complete and bool(np.all(attrs.get("NumFilesPerSnapshot", 0) == np.array(1)))
    return False


def _time(path: Path) -> float:
    return scalar(header(path).get("Time", np.nan), "Time")


@once_by_path
def _further_groups(path: Path, file: h5py.File) -> tuple[str, ...]:
    """Return the groups, beside the Header, with parameters of a run."""
    return tuple(name for name in ("Parameters", "RuntimePars") if name in file)


def box_side(path: Path, file: h5py.File) -> float:
    """Return the side of the box in the file's unit, by its Header or the run's parameters; 0 where none says one."""
    groups = [header(path), *(file[name].attrs for name in _further_groups(path, file))]
    sides = np.ravel(next((attrs["BoxSize"] for attrs in groups if "BoxSize" in attrs), 0.0)).astype(float)
    if np.isfinite(sides).all() and not np.allclose(sides, sides[0], rtol=1e-6):
        raise SnapshotError(
            f"{path}: its BoxSize has unequal sides {sides.tolist()}; only cubic boxes can be wrapped: "
            "if it is no box give `units: {box: none}` in the suite file"
        )
    return float(sides[0])


def run_parameter(path: Path, file: h5py.File, name: str, default: float) -> float:
    """Read an attribute of the Header or, as in GADGET-4 and EAGLE, of the groups with the run's parameters.

    Raises SnapshotError where two of them have other values: one was changed, or copied from another run.
    """
    groups = {"Header": header(path)} | {group: file[group].attrs for group in _further_groups(path, file)}
    values = {group: scalar(attrs[name], f"{group}: {name}") for group, attrs in groups.items() if name in attrs}
    if values and not np.allclose(list(values.values()), next(iter(values.values())), rtol=1e-3, equal_nan=True):
        words = " and ".join(f"{value:.6g} in its {group} group" for group, value in values.items())
        raise SnapshotError(f"{path}: {name} is {words}; keep the one that is true")
    return next(iter(values.values()), default)


def check_holds_all(path: Path, attrs: dict[str, Any]) -> None:
    """Raise SnapshotError for a snapshot with only a share of the particles of some types.

    They have the masses of single particles: nothing but its Header says that the others are missing. SWIFT writes
    such snapshots (OutputType and SubSampleFractions of its common_io.c), and EAGLE's read_eagle takes such samples
    (SamplingRate).
    """
    shares = np.ravel(attrs.get("SubSampleFractions", [])).astype(float)[: len(TYPES)]
    is_sampled = "SubSampled" in str(attrs.get("OutputType", ""))
    rate = scalar(attrs.get("SamplingRate", 1.0), "SamplingRate")
    if (is_sampled and (not len(shares) or ((shares > 0) & (shares < 1)).any())) or 0 < rate < 1:
        said = f"OutputType SubSampled, fractions {np.round(shares, 6).tolist()}"
        raise SnapshotError(
            f"{path}: its Header says {said if is_sampled else f'SamplingRate {rate:g}'}: masses would be those of a "
            "share of the particles; take all of them"
        )


def is_region(attrs: dict[str, Any]) -> bool:
    """Whether a Header says that its file is a region of the box, as swiftsimio's write_subset has it."""
    return "VolumeSubset" in str(attrs.get("OutputType", ""))


def says_cut_out(attrs: dict[str, Any]) -> bool:
    """Whether a Header says that its file was cut out of a snapshot."""
    return bool(_CUT_OUT & attrs.keys()) or is_region(attrs)


def scale_factor(path: Path, attrs: dict[str, Any], names: tuple[str, ...]) -> float:
    """Return a from the attributes `names` (0 means not set) and from Redshift, which must agree to 1e-3.

    Raises SnapshotError where they disagree or none is there.
    """
    a_by_attribute = {name: scalar(attrs[name], name) for name in names if scalar(attrs.get(name, 0.0), name) != 0}
    if "Redshift" in attrs:
        z = scalar(attrs["Redshift"], "Redshift")
        a_by_attribute["Redshift"] = 1 / (1 + z) if z > -1 else z
    if not a_by_attribute:
        raise SnapshotError(
            f"{path}: a cosmological run whose Header has no Redshift and no scale factor; repair it{NOT_COSMOLOGICAL}"
        )
    values = list(a_by_attribute.values())
    if not np.allclose(values, values[0], rtol=1e-3):
        words = ", ".join(f"{name} a = {value:.6g}" for name, value in a_by_attribute.items())
        raise SnapshotError(
            f"{path}: its Header contradicts itself on the scale factor ({words}); repair it{NOT_COSMOLOGICAL}"
        )
    return values[0]


def velocity_power(path: Path) -> float | None:
    """Return the power of a that makes a file's velocities peculiar ones; None where its Header does not say it.

    MP-Gadget (ASTRID, BlueTides) has it there: peculiar velocities, or a^2 dx/dt where UsePeculiarVelocity is 0 (its
    convert_to_hdf5.py). Who converts its snapshots copies the Header and the velocities as they are.
    """
    flag = header(path).get("UsePeculiarVelocity")
    return None if flag is None else 0.0 if scalar(flag, "UsePeculiarVelocity") else -1.0


def may_expand(attrs: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Whether a Header at redshift 0, or without one, may be that of a run that expands; `names` are those of a.

    It is not where the time is 0, as at the start of an isolated run, or is no scale factor of its redshift.
    """
    times = [scalar(attrs[name], name) for name in names if name in attrs]
    return all(time == 1 if "Redshift" in attrs else 0 < time <= 1 for time in times)


def expansion_unsaid(path: Path, *names: str) -> SnapshotError:
    """Make the error for a file in which nothing says whether its run expands: none of the attributes `names`.

    Codes that do not expand write dark energy or a flag of 0. A cutout may have lost it, as one of GADGET-4 without its
    Parameters group.
    """
    return SnapshotError(
        f"{path}: no {', '.join(names)}, so nothing says whether its run expands; copy the Header and the groups of "
        "parameters from its snapshot, or say it in the suite file: `units: {cosmological: true}` or false"
    )


def check_no_redshift(path: Path, z: float) -> None:
    """Raise SnapshotError for a redshift in a run that is not cosmological, where codes write 0 or nearly 0."""
    if not abs(z) < NO_REDSHIFT:
        raise SnapshotError(
            f"{path}: its Header has Redshift = {z:.4g} in a run that is not cosmological; repair it, or say in the "
            "suite file which is true: `units: {cosmological: true}` or false"
        )


def check_time_is_a(path: Path, attrs: dict[str, Any], h: float) -> None:
    """Raise SnapshotError where only Time could be the scale factor, or where it is 0 and the redshift, too.

    A run that is not cosmological, but has dark energy in its Header, stores a time there. At its start nothing but h
    makes a difference between the two.
    """
    if (
        "ExpansionFactor" not in attrs
        and abs(h - 1) > 1e-3
        and abs(scalar(attrs.get("Redshift", 1.0))) + abs(scalar(attrs.get("Time", 1.0))) == 0
    ):
        raise SnapshotError(
            f"{path}: its Header has Time = 0 and Redshift = 0, as a run without expansion has at its start, and dark "
            "energy; say in the suite file which is true: `units: {cosmological: true}` or false"
        )
    if not {"Redshift", "ExpansionFactor"} & attrs.keys() and scalar(attrs.get("Time", 1.0), "Time") not in (0.0, 1.0):
        raise SnapshotError(
            f"{path}: its Header has no Redshift, so Time = {scalar(attrs['Time']):.4g} may be a scale factor or a "
            "time; say in the suite file which: `units: {cosmological: true}` or false"
        )
