"""Units of the Gadget HDF5 family, as the attributes of its datasets say them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import SnapshotError
from kinmass.gen.formats.gadget_fields import LINKED_FIELDS, particle_groups
from kinmass.gen.formats.gadget_header import header, scalar
from kinmass.gen.formats.once import once_by_path

#: One code unit in kpc, Msun or km/s, without factors of a and h, and the powers of a and of h that multiply it.
UnitScaling = tuple[float, float, float]
#: Per quantity: its field, the attributes with its unit in a Units, Parameters or Header group, and one kpc, Msun or
#: km/s in cgs, without factors of a and h. GIZMO since November 2020 writes `_In_CGS` into the Header, with those of h
#: (its allvars.h: UNIT_LENGTH_IN_CGS is All.UnitLength_in_cm / All.HubbleParam).
QUANTITIES = {
    "length_kpc": ("Coordinates", ("UnitLength_in_cm", "UnitLength_In_CGS"), KPC_CM),
    "mass_msun": ("Masses", ("UnitMass_in_g", "UnitMass_In_CGS"), MSUN_G),
    "velocity_kms": ("Velocities", ("UnitVelocity_in_cm_per_s", "UnitVelocity_In_CGS"), KMS_CM_S),
}
#: Fields of the gas that may be in a unit of their own: the quantities of which their code unit is made, and one kpc,
#: Msun/kpc^3, (km/s)^2 or K in cgs.
GAS_FIELDS = {
    "SmoothingLength": ({"length_kpc"}, KPC_CM),
    "Density": ({"length_kpc", "mass_msun"}, MSUN_G / KPC_CM**3),
    "InternalEnergy": ({"velocity_kms"}, KMS_CM_S**2),
    "Temperature": (set(), 1.0),
}
#: Attributes of a dataset with its unit in cgs, its power of a and its power of h.
_UNIT_ATTRIBUTES = (
    ("CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent"),  # EAGLE: arXiv:1706.09899, section 3
    ("to_cgs", "a_scaling", "h_scaling"),  # AREPO: TNG's data specifications; to_cgs is 0 without a unit
    (
        "Conversion factor to CGS (not including cosmological corrections)",  # SWIFT's documentation, Snapshots
        "a-scale exponent",
        "h-scale exponent",
    ),
)
#: That of SWIFT which says whether a dataset is physical; then its power of a is only that of the comoving one.
_PHYSICAL = "Value stored as physical"
_TELLING = {_PHYSICAL}.union(*_UNIT_ATTRIBUTES)
_OF_ALL = {field for field, _, _ in QUANTITIES.values()}
Part = TypeVar("Part")
Claim = TypeVar("Claim")


def in_round_units(unit: float) -> float:
    """Round a unit within 1e-3 of a power of ten to it: 1.989e43 g is 1e10 Msun, for any value of the solar mass.

    Raises SnapshotError for what can be no unit.
    """
    if not 0 < unit < np.inf:
        raise SnapshotError(f"a unit of {unit:.4g}, which must be a number above zero; damaged? Get it again")
    power = 10.0 ** round(np.log10(unit))
    return power if abs(unit / power - 1) < 1e-3 else unit


class Beside(NamedTuple):
    """What the attributes of one dataset say of its unit; field: its name in LINKED_FIELDS."""

    dataset: str
    field: str
    attrs: dict[str, Any]


@once_by_path
def said_beside(path: Path, file: h5py.File) -> tuple[Beside, ...]:
    """Read what one file says of units beside the datasets that are read; those which say nothing are left out."""
    said = []
    for number, group in particle_groups(path, file).items():
        for name in group if isinstance(group, h5py.Group) else ():
            field = LINKED_FIELDS.get(name, "")
            if field in _OF_ALL or (field in GAS_FIELDS and number == 0):  # stars have smoothing lengths, too
                attrs = getattr(group.get(name), "attrs", {})  # a link to nothing has none
                if told := {key: attrs[key] for key in attrs if key in _TELLING or "unit" in key.lower()}:
                    said.append(Beside(f"{group.name}/{name}", field, told))
    return tuple(said)


def unit_by_attributes(attrs: Mapping[str, Any], dataset: str, cgs: float) -> UnitScaling | None:
    """Read a dataset's unit from its attributes; dataset: its name, and cgs is one kpc, Msun or km/s in cgs.

    None unless all attributes are there and finite.
    """
    for names in _UNIT_ATTRIBUTES:
        if not all(name in attrs for name in names):
            continue
        values = [scalar(attrs[name], f"{dataset}: {name}") for name in names]
        if np.isfinite(values).all() and values[0] > 0:
            physical = scalar(attrs.get(_PHYSICAL, 0))
            return in_round_units(values[0] / cgs), 0.0 if physical else values[1], values[2]
    return None


def from_datasets(path: Path, said: Iterable[Beside]) -> dict[str, UnitScaling]:
    """Return the units of length, mass and velocity, and of fields of the gas, that the datasets' attributes give.

    Raises SnapshotError where datasets of one quantity disagree.
    """
    key_and_cgs = {field: (key, cgs) for key, (field, _, cgs) in QUANTITIES.items()}
    key_and_cgs |= {field: (field, cgs) for field, (_, cgs) in GAS_FIELDS.items()}
    first_by_key: dict[str, tuple[str, UnitScaling]] = {}
    for dataset, field, attrs in said:
        key, cgs = key_and_cgs[field]
        if (unit := unit_by_attributes(attrs, dataset, cgs)) is None:
            continue
        first, first_unit = first_by_key.setdefault(key, (dataset, unit))
        if not np.allclose(unit, first_unit, rtol=1e-4):
            raise SnapshotError(f"{path}: {dataset} and {first} claim different units; give `units` and repair them")
    return {key: unit for key, (_, unit) in first_by_key.items()}


def until_found(parts: Iterable[tuple[Part, set[str]]], types: set[str]) -> Iterator[Part]:
    """Give what the files of a snapshot say, until particles of all `types` were found: the first may have no gas.

    parts: of each file what it says, and the types of which it has particles.
    """
    for part, found in parts:
        yield part
        types = types - found
        if not types:
            return


def first_of_each(claims: Iterable[dict[str, Claim]]) -> dict[str, Claim]:
    """Return what holds for a snapshot in several files: of each key what the first says that says any."""
    held: dict[str, Claim] = {}
    for claimed in claims:
        held = claimed | held
    return held


def factors(
    claims: dict[str, UnitScaling], scalings: dict[str, UnitScaling], overruled: Collection[str], a: float, h: float
) -> dict[str, float]:
    """Return by what gas fields have to be multiplied to be in code units, where their own attributes say so.

    Newer versions of SWIFT store single fields in physical units, while positions are comoving. overruled: the
    quantities whose unit the suite file says. A field follows them: its factor is that between its own attributes and
    those that are overruled.
    """
    own = [claims[key] if key in overruled and key in claims else scalings[key] for key in QUANTITIES]
    length, mass, _ = (value * a**a_power * h**h_power for value, a_power, h_power in own)
    code_units = {
        "SmoothingLength": length, "Density": mass / length**3, "InternalEnergy": own[2][0] ** 2,
        "Temperature": 1.0,
    }  # fmt: skip
    factor_by_field = {}
    for field, (quantities, _) in GAS_FIELDS.items():
        if field in claims and quantities & set(overruled) <= claims.keys():
            value, a_power, h_power = claims[field]
            factor = value * a**a_power * h**h_power / code_units[field]
            factor_by_field[field] = 1.0 if abs(factor - 1) < 1e-3 else factor
    return factor_by_field


def check_groups_agree(path: Path, said: dict[str, dict[str, float]]) -> None:
    """Raise SnapshotError where groups say other units of one quantity. said: units in cgs by quantity and by place."""
    for key, values in said.items():
        if not np.allclose(list(values.values()), next(iter(values.values())), rtol=1e-2):
            words = ", and ".join(f"{value:.6g} by the {place}" for place, value in values.items())
            raise SnapshotError(
                f"{path}: its unit is {words}; say which is true by `units: {{{key}: ...}}` in the suite file"
            )


def check_h_is_meant(path: Path, h: float, scalings: dict[str, UnitScaling]) -> None:
    """Raise SnapshotError where a run without expansion has an h, and its units may be with or without factors of h.

    Codes read the same numbers either way: no dynamics changes with h. GIZMO's newer headers say that they have them.
    """
    unsaid = {key: (value, h_power) for key, (value, _, h_power) in sorted(scalings.items()) if h_power}
    if abs(h - 1) < 1e-3 or not unsaid or "UnitLength_In_CGS" in header(path):
        return
    with_h, without_h = (
        ", ".join(f"{key}: {value * factor**-h_power:.6g}" for key, (value, h_power) in unsaid.items())
        for factor in (1.0, h)
    )
    raise SnapshotError(
        f"{path}: HubbleParam = {h:g} in a run that is not cosmological: do its units have factors of 1 / h? If so "
        f"give `units: {{{with_h}}}` in the suite file, else `units: {{{without_h}}}`"
    )
