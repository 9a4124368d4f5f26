"""Units that files of the Gadget HDF5 family say in words, as scripts of users write them beside what codes say."""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_fields import particle_groups
from kinmass.gen.formats.gadget_units import GAS_FIELDS, QUANTITIES, Beside, said_beside

#: Physical units without factors of a and h, in kpc, Msun, km/s and what is made of these: lower case, without blanks,
#: brackets and signs of products. To astropy's reader of units the a and h of `kpc a / h` are a year and an hour.
_LENGTHS = {"kpc": 1.0, "kiloparsec": 1.0, "mpc": 1e3, "megaparsec": 1e3, "pc": 1e-3, "cm": 1 / KPC_CM}
_MASSES = {
    **dict.fromkeys(("msun", "m_sun", "msol", "msolar", "solmass", "solarmass", "solar_mass", "m_sol"), 1.0),
    **dict.fromkeys(("1e10msun", "10^10msun", "1e10solmass", "1e+10msun"), 1e10), "g": 1 / MSUN_G,
}  # fmt: skip
_SPEEDS = {
    **dict.fromkeys(("km/s", "kms^-1", "kms-1", "km/sec", "kilometer/second"), 1.0),
    **dict.fromkeys(("cm/s", "cms^-1", "cms-1"), 1 / KMS_CM_S),
}  # fmt: skip
_DENSITIES = {
    **dict.fromkeys(("g/cm^3", "gcm^-3", "g/cm3", "gcm-3"), KPC_CM**3 / MSUN_G),
    **dict.fromkeys(("msun/kpc^3", "msunkpc^-3", "solmass/kpc^3", "msun/kpc3", "solmass/kpc3"), 1.0),
}  # fmt: skip
_ENERGIES = {
    **dict.fromkeys(("km^2/s^2", "km^2s^-2", "km2/s2", "km^2/s2"), 1.0),
    **dict.fromkeys(("cm^2/s^2", "cm^2s^-2", "cm2/s2", "erg/g", "ergg^-1"), KMS_CM_S**-2),
}  # fmt: skip
_UNIT_BY_WORD = {
    "Coordinates": _LENGTHS, "SmoothingLength": _LENGTHS, "Masses": _MASSES, "Velocities": _SPEEDS,
    "Density": _DENSITIES, "InternalEnergy": _ENERGIES,
}  # fmt: skip
#: What the suite file may say of each field's unit.
_KEYS = {field: {key} for key, (field, _, _) in QUANTITIES.items()} | {f: keys for f, (keys, _) in GAS_FIELDS.items()}


def _words_in(attrs: Any) -> dict[str, str]:
    """Return the attributes that are called after units, as text."""
    said = {name: attrs[name] for name in attrs if "unit" in name.lower()}
    return {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in said.items()}


def _words_beside(said: Iterable[Beside]) -> Iterator[tuple[str, str, str, str]]:
    """Give the name, the field, an attribute and its words of each dataset that has words for its unit."""
    for dataset, field, attrs in said:
        for attribute, words in _words_in(attrs).items() if field in _UNIT_BY_WORD else ():
            yield dataset, field, attribute, words


def words_by_field(said: Iterable[Beside]) -> dict[str, str]:
    """Return the words for the unit of each field: those of the first dataset that has any."""
    return {f"{field}: {name}": words for _, field, name, words in reversed([*_words_beside(said)])}


def check_nothing_is_said(path: Path, file: h5py.File) -> None:
    """Raise SnapshotError where units would be assumed, though the file says some in a way that is not understood.

    Such are the groups of other codes, and words beside datasets, groups or the file, as scripts write them: these
    leave open whether the numbers have factors of a and h.
    """
    hint = (
        "say in the suite file what holds: `units: {length_kpc: ..., mass_msun: ..., velocity_kms: ...}`, before "
        "factors of a and h"
    )
    for group in ("Units", "Parameters", "Header"):
        if said := list(_words_in(file[group].attrs if group in file else {})):
            raise SnapshotError(
                f"{path}: its {group} group says {', '.join(said[:3])}, not the units of length, mass and velocity as "
                f"this format has them; is `format:` right? If so, {hint}"
            )
    for dataset, field, attribute, words in _words_beside(said_beside(path, file)):
        if field not in GAS_FIELDS:
            raise SnapshotError(
                f"{path}: {dataset} says {attribute} = {words[:40]!r}, which is not read for it leaves open "
                f"factors of a and h; {hint}"
            )
    groups = [file, *(g for g in particle_groups(path, file).values() if isinstance(g, h5py.Group))]
    said = [
        f"{group.name} {name} = {words[:40]!r}" for group in groups for name, words in _words_in(group.attrs).items()
    ]
    said += [f"a group {name}" for name in file if "unit" in name.lower()]
    if said:
        raise SnapshotError(f"{path}: it has {', '.join(said[:3])}, which is not read; {hint}")


def check_words_agree(path: Path, said: Iterable[Beside], units: CodeUnits, overruled: Collection[str]) -> None:
    """Raise SnapshotError where a dataset says a physical unit, without factors of a and h, that is not the one held.

    A script may have converted it, and have copied the Header, or the attributes, that the code wrote. said: what the
    file says beside its datasets; units: those that hold; overruled: the quantities of which the suite file says the
    unit. Words that are not known, such as `kpc/h`, are passed over.
    """
    length, mass, velocity = units.length_kpc, units.mass_msun, units.velocity_kms
    held = {
        "Coordinates": length, "SmoothingLength": length, "Masses": mass, "Velocities": velocity,
        "Density": mass / length**3, "InternalEnergy": units.energy_kms2,
    }  # fmt: skip
    for dataset, field, attribute, words in _words_beside(said):
        word = re.sub(r"[\s\[\]()*]", "", words.lower().replace("**", "^"))
        told = _UNIT_BY_WORD[field].get(word)
        unit = held[field] * units.factors.get(field, 1.0)
        if told is not None and not _KEYS[field] & set(overruled) and abs(unit / told - 1) > 0.01:
            raise SnapshotError(
                f"{path}: {dataset} says {attribute} = {words[:40]!r}, of which one code unit would be "
                f"{unit / told:.6g} by what holds ({units.source}): was it converted, and the rest copied? Say in the "
                f"suite file what is true of all datasets, by `units`, or take the attribute {attribute} out"
            )
