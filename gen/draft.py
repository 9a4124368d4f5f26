"""A first suite file for a snapshot one has, from what lies around it."""

import os
import re
from pathlib import Path

import numpy as np

from gen.catalogue import found_centre
from gen.check import guess_format
from gen.profile import half_mass_radius
from gen.snapshot import Snapshot

#: Names that catalogues have, in the order in which they are looked for.
_NAMES = {
    "ahf": "*.AHF_halos",
    "subfind": "fof_subhalo_tab_*.hdf5",
    "eagle_subfind": "eagle_subfind_tab_*.hdf5",
    "caesar": "caesar*.hdf5",
    "rockstar": "out_*.list",
    "table": "*.ecsv",
}


def _number(path: Path) -> str:
    """The snapshot's number in a name: 099 of snap_099.0.hdf5, 600 of snap600Rpep..z0.000.AHF_halos."""
    found = re.findall(r"\d+", re.sub(r"\.\d+\.(hdf5|h5)$|\.z\d+\.\d+", "", path.name))
    return found[-1].lstrip("0") if found else ""


def _catalogues(snapshot: Path) -> list[tuple[str, Path]]:
    """(format, path) of catalogues that seem to belong to a snapshot, in its folder or one beside it."""
    found = []
    for kind, pattern in _NAMES.items():
        near = [*snapshot.parent.glob(pattern), *snapshot.parent.parent.glob(f"*/{pattern}")]
        mine = [p for p in near if p.name.startswith(snapshot.name) or _number(p) == _number(snapshot)]
        firsts = [p for p in mine if not re.search(r"\.[1-9]\d*\.hdf5$", p.name)]
        found += [(kind, p) for p in sorted(firsts, key=lambda p: (not p.name.startswith(snapshot.name), str(p)))[:1]]
    return found


def draft(path: Path, format_name: str | None = None) -> str:
    """The YAML of a suite that holds this snapshot, with remarks on what to look at.

    Raises SnapshotError when it cannot be read.
    """
    chosen = format_name or guess_format(path)
    catalogues = _catalogues(path)
    lines = [
        f"name: {re.sub(r'[^A-Za-z0-9_-]+', '_', path.name.split('.')[0])}   # any name; one group of the map store",
        f"root: {path.resolve().parent}",
        f"format: {chosen}",
        f"snapshots: {path.name}   # a pattern: `*` for many snapshots, `*/` for many folders",
    ]
    with Snapshot(path, chosen) as snapshot:
        if catalogues:
            kind, where = catalogues[0]
            relative = os.path.relpath(where.resolve(), path.resolve().parent).replace(path.name, "{name}")
            lines.append(f"catalogue: {{format: {kind}, path: {relative!r}}}   # {{number}} stands for the snapshot's")
            lines += [f"# or: catalogue: {{format: {kind}, path: {str(where)!r}}}" for kind, where in catalogues[1:]]
            lines.append("aperture: {r200: 0.2}   # of the catalogue's virial radius; must reach 3 R_e. Or {kpc: 30}")
        else:
            lines.append("# no catalogue found: one galaxy per snapshot, its centre found on the stars")
            stars = snapshot.everything("stars")
            offset = snapshot.wrap(stars.pos_kpc - found_centre(snapshot))
            half = half_mass_radius(np.linalg.norm(offset, axis=1), stars.mass_msun)
            lines.append(f"aperture: {{kpc: {float(f'{6 * half:.2g}'):g}}}   # 6 half-mass radii of all its stars")
        zoom = [t for t in ("PartType2", "PartType3") if snapshot.counts.get(t) and t in snapshot.components["dark"]]
        if zoom and snapshot.counts.get("PartType1"):
            lines.append(f"particles: {{dark: [PartType1], low_resolution: [{', '.join(zoom)}]}}   # if it is a zoom")
        if "assumed" in snapshot.units.source:
            lines.append("# units: {length_kpc: 1, mass_msun: 1e10, velocity_kms: 1}   # the file says nothing")
        n = sum(snapshot.counts.get(t, 0) for t in snapshot.components["stars"])
    lines.append(f"selection: {{min_stars: {min(200, max(n, 1))}}}")
    return "\n".join(lines) + "\n"
