"""Compares the headers of one suite's snapshots: one that differs from the others is often a mistake.

A lost HubbleParam, for example, makes a galaxy 1.4 times too heavy while every number of it looks plausible.
"""

import re
from collections import defaultdict
from pathlib import Path

from kinmass.gen.formats import CodeUnits
from kinmass.gen.words import counted, few

#: Facts that may be other ones in each snapshot: of their times, and of zooms in boxes of their own.
OWN = ("a", "time", "code units")
#: The fact that is empty for a file which leaves nothing open or out, and of which a user is told all the same.
ASSUMED = "kernels"
#: How many values of a fact, and snapshots of each value, are named; the others are only counted.
NAMED = 3


def facts(units: CodeUnits, types: set[str], assumed: str = "", own_name: str = "") -> dict[str, str]:
    """Put into words what all snapshots of a suite should agree on, and OWN.

    types are the particle types of one; assumed says what its file leaves open of its kernels and what of it counts
    nowhere, "" for neither; own_name is the file's, which is another one in each.
    """
    comoving = None if units.box_kpc is None else units.box_kpc / units.scale_factor
    factors = "".join(f", {field} by {factor:.6g}" for field, factor in sorted(units.factors.items()) if factor != 1)
    return {
        "a": f"{units.scale_factor:.6g}",
        "time": "" if units.time is None else f"{units.time:.6g}",
        "code units": f"{units.length_kpc:.6g} kpc, {units.mass_msun:.6g} Msun, {units.velocity_kms:.6g} km/s{factors}",
        "h": f"{units.hubble:.4g}",
        # A .param file may be named after its folder.
        "source of units": re.sub(
            r"\S+\.param", "its .param", units.source.replace(own_name, "it") if own_name else units.source
        ),
        "box": "none" if comoving is None else f"{comoving:.5g} kpc",
        "particle types": ", ".join(sorted(types)) or "unknown",
        ASSUMED: assumed,
        "expansion": "cosmological" if units.cosmological else "not cosmological",
    }


def differences(facts_by_snapshot: dict[Path, dict[str, str]]) -> str:
    """Say in one line which snapshots differ in what, the most frequent value first; "" where all agree."""
    sentences = []
    for fact in [fact for fact in next(iter(facts_by_snapshot.values()), {}) if fact not in (*OWN, ASSUMED)]:
        paths_by_value: dict[str, list[Path]] = defaultdict(list)
        for path, values in facts_by_snapshot.items():
            paths_by_value[values[fact]].append(path)
        if len(paths_by_value) > 1:
            ranked = sorted(paths_by_value.items(), key=lambda item: -len(item[1]))
            n_unnamed = len(ranked) - NAMED
            unnamed_values = f"; {counted(n_unnamed, 'other value')}" if n_unnamed > 0 else ""
            sentences.append(
                f"{fact}: "
                + "; ".join(f"{v} in {_name_snapshots(paths)}" for v, paths in ranked[:NAMED])
                + unnamed_values
            )
    return ". ".join(sentences)


def assumptions(facts_by_snapshot: dict[Path, dict[str, str]]) -> str:
    """Say in one line what snapshots leave open, and which; "" where none does."""
    paths_by_value: dict[str, list[Path]] = defaultdict(list)
    for path, values in facts_by_snapshot.items():
        paths_by_value[values.get(ASSUMED, "")].append(path)
    return ". ".join(f"{_name_snapshots(paths)}: {value}" for value, paths in paths_by_value.items() if value)


def _name_snapshots(paths: list[Path]) -> str:
    return f"{len(paths)} ({few([Path(*path.parts[-2:]) for path in paths], NAMED)})"
