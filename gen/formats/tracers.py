"""Weights of particles in a tracer's maps, other than mass: cold gas, neutral hydrogen, starlight."""

import re
from collections.abc import Callable, Collection

import numpy as np

from kinmass.gen.formats.base import SnapshotError

#: Reads a field (N,) by its name.
Read = Callable[[str], np.ndarray]

#: Hydrogen's share of gas mass where a file does not have it; the value of the codes' cooling tables.
HYDROGEN = 0.76
#: Gas of a galaxy has some above this temperature [K], and no logarithm of a temperature is.
WARMEST_LOG10 = 9.5
#: Half of a galaxy's gas is never hotter than this [K]: what feedback heats is less, and not as hot.
HOTTEST_HALF_K = 1e10
#: Brighter than any star particle, near or far: it would be 1e18 suns. Some programs write -99 where there is none.
BRIGHTEST_MAGNITUDE = -40.0
#: What datasets of magnitudes and of logarithms of luminosities are called: Mag_r, StellarMags, logL_r.
_IS_LOGARITHM = re.compile(r"(?:^|[^A-Za-z])mags?(?![a-z])|Mags?(?![a-z])|MAG(?![A-Z])|(?:^|_)(?i:log)|Log(?![a-z])")
#: Proton mass over Boltzmann's constant [K / (km/s)^2] (CODATA 2018).
PROTON_K_PER_KMS2 = 121.14752


def temperature_k(energy_kms2: np.ndarray, electron_abundance: np.ndarray) -> np.ndarray:
    """Return the temperature (N,) [K] from specific internal energy (N,) and electrons per hydrogen nucleus (N,).

    T = (gamma - 1) u mu m_p / k_B, mu = 4 / (1 + 3 X + 4 X x_e), gamma = 5/3 (TNG's data specifications).
    """
    mu = 4 / (1 + 3 * HYDROGEN + 4 * HYDROGEN * electron_abundance)
    return 2 / 3 * PROTON_K_PER_KMS2 * energy_kms2 * mu


def is_cold(
    fields: Collection[str],
    read: Read,
    energy_kms2: float,
    below_k: float,
    unit_k: float,
    has_equation_of_state: bool,
) -> np.ndarray:
    """Tell which gas particles (N,) are cooler than below_k [K] or form stars.

    Star-forming gas counts because its effective equation of state is hotter than the gas it stands for;
    has_equation_of_state tells that it has one, so that it cannot be told without its rate. energy_kms2 is the code
    unit of specific energy, unit_k that of temperatures. Raises SnapshotError where a file has neither temperatures nor
    energies.
    """
    if name := next((name for name in ("Temperature", "InternalEnergy") if name in fields), ""):
        values = read(name)
        if values.min(initial=0.0) < 0:
            raise SnapshotError(f"negative values in {name}; is the file damaged? Get it again")
        if 0 < (n_blank := np.count_nonzero(values == 0)) < len(values):
            raise SnapshotError(
                f"{n_blank} of {len(values)} values of {name} are 0, and would count as cold; was the file written to "
                "its end? Get it again, or take `tracers: {gas: all}`"
            )
    if name == "Temperature":
        kelvin = values * unit_k
    elif name and "ElectronAbundance" in fields:
        kelvin = temperature_k(values * energy_kms2, read("ElectronAbundance").clip(min=0))
    else:
        raise SnapshotError(
            "`gas: cold` needs Temperature(s), or InternalEnergy and ElectronAbundance; "
            "use a full snapshot or `tracers: {gas: all}`"
        )
    if len(kelvin) and kelvin.max() < WARMEST_LOG10:
        raise SnapshotError(
            f"by its {name} no gas is above {WARMEST_LOG10:g} K: is it a logarithm, in another unit, or never "
            "computed? Repair it, or take `tracers: {gas: all}`"
        )
    if len(kelvin) and np.median(kelvin) > HOTTEST_HALF_K:
        raise SnapshotError(
            f"by its {name} half of the gas is above {np.median(kelvin):.2g} K, and would not count as cold: is it in "
            "another unit? Repair it, or take `tracers: {gas: all}`"
        )
    cold = kelvin < below_k
    if "StarFormationRate" in fields:
        return cold | (read("StarFormationRate") > 0)
    if has_equation_of_state:
        raise _no_rate("cold")
    return cold


def _no_rate(tracer: str) -> SnapshotError:
    return SnapshotError(
        f"`gas: {tracer}` counts gas that forms stars, which most models of this code keep hotter than the gas it "
        "stands for, but there is no StarFormationRate; get the file with it, or take `tracers: {gas: all}`"
    )


def neutral_fraction(
    fields: Collection[str], read: Read, molecules: str | None = None, has_equation_of_state: bool = False
) -> np.ndarray:
    """Return the mass of neutral hydrogen, atoms and molecules, over gas mass (N,).

    Most codes store one number for both. SIMBA's Grackle and COLIBRE's CHIMES store atoms alone in it, and
    molecules, which are most of the star-forming gas, in another field: FractionH2 is the share of the hydrogen
    mass (Davé et al. 2019, section 2.2; caesar's hydrogen_mass_calc), SpeciesFractions[H2] is molecules per
    hydrogen nucleus. molecules: the field that has them in files of this format, None where none is needed.

    has_equation_of_state: star-forming gas has one, by whose temperature, which is of no gas, a code without molecules
    has computed the number (TNG's data specifications, ElectronAbundance). It is neutral: clouds are 0.9 of its mass
    and more (Springel & Hernquist 2003). Raises SnapshotError naming the missing fields.
    """
    if "NeutralHydrogenAbundance" not in fields:
        raise SnapshotError(
            "`gas: hi` needs NeutralHydrogenAbundance (GIZMO, AREPO) or SpeciesFractions and ElementMassFractions "
            "(SWIFT); use a full snapshot, write that dataset, or take `tracers: {gas: cold}`"
        )
    if molecules is not None and molecules not in fields:
        raise SnapshotError(
            f"`gas: hi` needs {molecules}, for this code's NeutralHydrogenAbundance leaves out molecules, most of the "
            "densest gas; get the file with it, or take `tracers: {gas: cold}`"
        )
    fraction = _fraction("NeutralHydrogenAbundance", read)
    for name, nuclei in (("FractionH2", 1), ("MolecularHydrogenAbundance", 2)):
        if name in fields:
            fraction = np.minimum(fraction + nuclei * _fraction(name, read), 1.0)
    if has_equation_of_state and not {"FractionH2", "MolecularHydrogenAbundance"} & {*fields}:
        if "StarFormationRate" not in fields:
            raise _no_rate("hi")
        fraction = np.where(read("StarFormationRate") > 0, 1.0, fraction)
    return fraction * (read("HydrogenFraction") if "HydrogenFraction" in fields else HYDROGEN)


def _fraction(name: str, read: Read) -> np.ndarray:
    """Read a field (N,) of fractions. Raises SnapshotError for values outside 0 to 1."""
    fraction = read(name)
    if fraction.min(initial=0.0) < 0 or fraction.max(initial=0.0) > 1.001:
        raise SnapshotError(
            f"{name} has values outside 0 to 1, so it is no fraction of hydrogen; repair it, or take `tracers: "
            f"{{gas: cold}}`"
        )
    return fraction


def luminosity(light: np.ndarray, dataset: str) -> np.ndarray:
    """Return luminosities (N,) in the dataset's unit, computed from magnitudes where the dataset has these (TNG).

    dataset is its name, which tells magnitudes. Raises SnapshotError for negative luminosities, and for what may be
    logarithms.
    """
    if "photometrics" in dataset.lower() or "magnitude" in dataset.lower():
        if light.min(initial=0.0) < BRIGHTEST_MAGNITUDE:
            raise SnapshotError(
                f"magnitudes of {light.min():.4g} in {dataset}: no star particle is as bright; are they marks of what "
                "has none? Write a large number in their place"
            )
        return 10.0 ** (-0.4 * light)
    if _IS_LOGARITHM.search(dataset):
        raise SnapshotError(
            f"by its name {dataset} has magnitudes or logarithms, which were taken for luminosities; name a dataset of "
            "magnitudes ...Magnitudes, and write others as luminosities"
        )
    if light.min(initial=0.0) < 0:
        raise SnapshotError(
            f"negative luminosities in {dataset}; are they magnitudes? Name their dataset ...Magnitudes"
        )
    return light
