"""What a tracer's maps weigh particles by, other than mass: cold gas, neutral hydrogen, starlight."""

from collections.abc import Callable, Collection

import numpy as np

from kinmass.gen.formats.base import SnapshotError

Read = Callable[[str], np.ndarray]

#: Hydrogen's share of gas mass where a file does not say; that of the codes' own cooling tables.
HYDROGEN = 0.76
#: Proton mass over Boltzmann's constant [K / (km/s)^2] (CODATA 2018).
PROTON_K_PER_KMS2 = 121.14752


def temperature_k(energy_kms2: np.ndarray, electron_abundance: np.ndarray) -> np.ndarray:
    """Temperature (N,) [K] from specific internal energy (N,) and electrons per hydrogen nucleus (N,).

    T = (gamma - 1) u mu m_p / k_B, mu = 4 / (1 + 3 X + 4 X x_e), gamma = 5/3 (TNG's data specifications).
    """
    mu = 4 / (1 + 3 * HYDROGEN + 4 * HYDROGEN * electron_abundance)
    return 2 / 3 * PROTON_K_PER_KMS2 * energy_kms2 * mu


def is_cold(fields: Collection[str], read: Read, energy_kms2: float, below_k: float) -> np.ndarray:
    """Which gas (N,) is cooler than below_k, or forms stars: an effective equation of state is hotter than its gas.

    Raises SnapshotError where a file has neither temperatures nor what they follow from.
    """
    if "Temperature" in fields:
        kelvin = read("Temperature")
    elif {"InternalEnergy", "ElectronAbundance"} <= set(fields):
        kelvin = temperature_k(read("InternalEnergy") * energy_kms2, read("ElectronAbundance"))
    else:
        raise SnapshotError(
            "`gas: cold` needs Temperature(s), or InternalEnergy and ElectronAbundance; "
            "use a full snapshot or `tracers: {gas: all}`"
        )
    cold = kelvin < below_k
    return cold | (read("StarFormationRate") > 0) if "StarFormationRate" in fields else cold


def neutral_fraction(fields: Collection[str], read: Read) -> np.ndarray:
    """Neutral hydrogen, atoms and molecules, over gas mass (N,). Raises SnapshotError naming what is missing.

    Most codes have one number for both. SIMBA's Grackle and COLIBRE's CHIMES have atoms alone in theirs, and
    molecules, most of the gas that forms stars, in another: FractionH2 is the hydrogen's mass in them (Davé et
    al. 2019, section 2.2; caesar's hydrogen_mass_calc), SpeciesFractions[H2] molecules per hydrogen nucleus.
    """
    if "NeutralHydrogenAbundance" not in fields:
        raise SnapshotError(
            "`gas: hi` needs NeutralHydrogenAbundance (GIZMO, AREPO) or SpeciesFractions and ElementMassFractions "
            "(SWIFT); use a full snapshot, write that dataset, or take `tracers: {gas: cold}`"
        )
    fraction = _fraction("NeutralHydrogenAbundance", read)
    for name, nuclei in (("FractionH2", 1), ("MolecularHydrogenAbundance", 2)):
        if name in fields:
            fraction = np.minimum(fraction + nuclei * _fraction(name, read), 1.0)
    return fraction * (read("HydrogenFraction") if "HydrogenFraction" in fields else HYDROGEN)


def _fraction(name: str, read: Read) -> np.ndarray:
    fraction = read(name)
    if fraction.min(initial=0.0) < 0 or fraction.max(initial=0.0) > 1.001:
        raise SnapshotError(f"{name} leaves 0 to 1; it is no fraction of hydrogen")
    return fraction


def luminosity(light: np.ndarray, dataset: str) -> np.ndarray:
    """Luminosities (N,), in units of their own, of a dataset that holds them or, as TNG's, magnitudes."""
    if "photometrics" in dataset.lower() or "magnitude" in dataset.lower():
        return 10.0 ** (-0.4 * light)
    if light.min(initial=0.0) < 0:
        raise SnapshotError(
            f"negative luminosities in {dataset}; are they magnitudes? Name their dataset ...Magnitudes"
        )
    return light
