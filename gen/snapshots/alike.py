"""Do the snapshots of one suite belong together? What one header says in another way than the rest is often a slip:
a lost HubbleParam makes its galaxy 1.4 times too heavy, and every number of it looks sound."""

import re
from collections import defaultdict
from pathlib import Path

from kinmass.gen.formats import CodeUnits

#: Values of a fact, and snapshots of each value, that are named; more are counted.
NAMED = 3


def facts(units: CodeUnits, types: set[str]) -> dict[str, str]:
    """What all snapshots of a suite should agree on, in words."""
    comoving = None if units.box_kpc is None else units.box_kpc / units.scale_factor
    return {
        "h": f"{units.hubble:.4g}",
        "source of units": re.sub(r"\S+\.param", "its .param", units.source),  # a folder's .param may bear its name
        "box": "none" if comoving is None else f"{comoving:.5g} kpc",
        "particle types": ", ".join(sorted(types)) or "unknown",
        "expansion": "cosmological" if units.cosmological else "not cosmological",
    }


def differences(known: dict[Path, dict[str, str]]) -> str:
    """One line on what the snapshots differ in and which have what, the most frequent first; "" where they agree."""
    said = []
    for fact in next(iter(known.values()), {}):
        owners: dict[str, list[Path]] = defaultdict(list)
        for path, values in known.items():
            owners[values[fact]].append(path)
        if len(owners) > 1:
            ranked = sorted(owners.items(), key=lambda item: -len(item[1]))
            more = f"; {len(ranked) - NAMED} other values" if len(ranked) > NAMED else ""
            said.append(f"{fact}: " + "; ".join(f"{v} in {_named(paths)}" for v, paths in ranked[:NAMED]) + more)
    return ". ".join(said)


def _named(paths: list[Path]) -> str:
    names = [str(Path(*path.parts[-2:])) for path in paths[:NAMED]]
    return f"{len(paths)} ({', '.join(names)}{', ...' if len(paths) > NAMED else ''})"
