"""Which particle types make up a galaxy's gas, stars, dark matter and black holes."""

from collections.abc import Mapping

import numpy as np

from kinmass.gen.formats.base import Format
from kinmass.gen.formats.sample import Sample

#: Types that are a zoom's low-resolution dark matter in one run, and a disc and a bulge of stars in another.
AMBIGUOUS_TYPES = ("PartType2", "PartType3")
#: Coarse dark matter has a mass for each level of refinement, and these are fewer.
MOST_COARSE_MASSES = 16


def components_of(reader: Format, declared: Mapping[str, list[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the types of each component, and those of low resolution, which are dark matter.

    declared: `particles` of the suite file; where it says nothing the format's own types are taken.
    """
    components = {name: list(dict.fromkeys(types)) for name, types in {**reader.components, **declared}.items()}
    low_resolution = components.pop("low_resolution", [])
    if declared.get("dark") == [] and "low_resolution" not in declared:  # the truth is to have no dark matter at all
        low_resolution = []
    components["dark"] = list(dict.fromkeys([*components["dark"], *low_resolution]))
    return components, low_resolution


def host_of(reader: Format, components: Mapping[str, list[str]]) -> str | None:
    """Return the component of the particles that are only stored as stars, None where no component takes them."""
    return next((name for name, types in components.items() if reader.disguised in types), reader.host)


def undeclared_types(dark: list[str], declared: Mapping[str, list[str]]) -> list[str]:
    """List types 2 and 3 where they count as dark matter only because the suite file does not declare them."""
    declared_types = {ptype for types in declared.values() for ptype in types}
    return [ptype for ptype in AMBIGUOUS_TYPES if ptype in dark and ptype not in declared_types]


def disc_types(
    dark: list[str], declared: Mapping[str, list[str]], samples: Mapping[str, Sample], cosmological: bool
) -> list[str]:
    """List the undeclared types that look like stars of a disc and a bulge.

    In a run that is not cosmological these are all of them; else those with particles lighter than type 1's, since the
    dark matter around a zoom has heavier particles than the zoom's own.
    """
    undeclared = [ptype for ptype in undeclared_types(dark, declared) if ptype in samples]
    return undeclared if not cosmological else lighter_than_dark(undeclared, samples)


def lighter_than_dark(types: list[str], samples: Mapping[str, Sample]) -> list[str]:
    """List the types whose particles are lighter than type 1's; all of them where the file has no type 1."""

    def median_mass(ptype: str) -> float:
        """Return the median mass of a type's particles [code units], infinite where there are none."""
        return float(np.median(samples[ptype].mass)) if ptype in samples else np.inf

    return [ptype for ptype in types if ptype in samples and median_mass(ptype) < 0.999 * median_mass("PartType1")]


def disc_question(types: list[str]) -> str:
    """Make the question to ask where the suite file does not declare such types."""
    names = ", ".join(types)
    return (
        f"{names}: a disc and a bulge of stars, or dark matter of low resolution? Say it in `particles`: "
        f"{{stars: [{names}, PartType4], dark: [PartType1]}}, or {{dark: [PartType1], low_resolution: [{names}]}}"
    )


def coarse_question(declared: Mapping[str, list[str]], samples: Mapping[str, Sample]) -> str:
    """Ask whether particles stored as black holes are the coarse dark matter around a zoom; "" where they are not.

    MUSIC (Hahn & Abel 2011) gives it type 5 unless told otherwise. Such particles have one mass or a few, and all are
    heavier than those of type 1. Black holes that grow have a mass each, and begin with less.
    """
    is_declared = any("PartType5" in types for types in declared.values()) or "black_holes" in declared
    if is_declared or not {"PartType1", "PartType5"} <= samples.keys():
        return ""
    mass, fine_mass = samples["PartType5"].mass, float(np.median(samples["PartType1"].mass))
    n_masses = len(np.unique(mass))
    if n_masses > min(MOST_COARSE_MASSES, 0.1 * len(mass)) or not mass.min() > 1.5 * fine_mass:
        return ""
    return (
        f"PartType5: {n_masses} different mass{'es' if n_masses > 1 else ''}, of {mass.min() / fine_mass:.3g} times "
        "PartType1's or more: dark matter of low resolution around a zoom, or black holes? Say it in `particles`: "
        "{black_holes: [], low_resolution: [PartType2, PartType3, PartType5]}, or {black_holes: [PartType5]}"
    )


def first_stars_question(declared: Mapping[str, list[str]], counts: Mapping[str, int], cosmological: bool) -> str:
    """Ask whether dark matter of two kinds of masses is the first stars of an isolated run in part; "" where it is not.

    counts: of the particles of each type that the file has. Such stars have no birth time, and RAMSES gives all
    that it reads from a table at the start (`ic_part`) the family of dark matter.
    """
    is_declared = any("coarse_dark" in of_component for of_component in declared.values())
    if cosmological or is_declared or "coarse_dark" not in counts:
        return ""
    light, heavy = counts.get("dark", 0), counts["coarse_dark"]
    return (
        f"dark ({light:,d} lighter particles), coarse_dark ({heavy:,d} heavier ones): stars that were there at the "
        "start, stored as dark matter, and a halo, or dark matter of two resolutions? Say it in `particles`: {stars: "
        "[stars, dark], dark: [coarse_dark], low_resolution: []}, or {low_resolution: [coarse_dark]}"
    )
