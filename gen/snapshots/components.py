"""Which particle types make up a galaxy's gas, stars, dark matter and black holes."""

from collections.abc import Mapping

import numpy as np

from kinmass.gen.formats.base import Format
from kinmass.gen.formats.sample import Sample

#: Types that are a zoom's low-resolution dark matter in one run, and a disc and a bulge of stars in another.
EITHER = ("PartType2", "PartType3")


def components_of(reader: Format, given: Mapping[str, list[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """Types of each component, the format's own where a suite file (given) says nothing; and those of low resolution,
    which are dark matter."""
    components = {**reader.components, **given}
    low = components.pop("low_resolution", [])
    components["dark"] = list(dict.fromkeys([*components["dark"], *low]))
    return components, low


def unsaid_types(dark: list[str], given: Mapping[str, list[str]]) -> list[str]:
    """Types that are dark matter only because nobody has said what they are."""
    said = {ptype for types in given.values() for ptype in types}
    return [ptype for ptype in EITHER if ptype in dark and ptype not in said]


def disc_types(
    dark: list[str], given: Mapping[str, list[str]], samples: Mapping[str, Sample], cosmological: bool
) -> list[str]:
    """Those of them that look like a disc and a bulge: in a run that is not cosmological, or lighter than type 1.

    A zoom's surroundings are heavier than its own dark matter, particle by particle.
    """
    there = [ptype for ptype in unsaid_types(dark, given) if ptype in samples]
    return there if not cosmological else lighter_than_dark(there, samples)


def lighter_than_dark(types: list[str], samples: Mapping[str, Sample]) -> list[str]:
    """Those whose particles are lighter than type 1's, or that have no type 1 beside them."""

    def weight(ptype: str) -> float:
        return float(np.median(samples[ptype].mass)) if ptype in samples else np.inf

    return [ptype for ptype in types if ptype in samples and weight(ptype) < 0.999 * weight("PartType1")]


def disc_question(types: list[str]) -> str:
    """What to ask of whoever has not said what such types are."""
    names = ", ".join(types)
    return (
        f"{names}: a disc and a bulge of stars, or dark matter of low resolution? Say it in `particles`: "
        f"{{stars: [{names}, PartType4], dark: [PartType1]}}, or {{dark: [PartType1], low_resolution: [{names}]}}"
    )
