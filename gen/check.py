"""What yt makes of a file, in words: for `python -m gen check` and for whoever writes a suite file."""

from pathlib import Path

import h5py
import numpy as np

from gen.formats import SnapshotError, gadget
from gen.particles import Particles
from gen.snapshot import Snapshot


def guess_format(path: Path) -> str:
    """The format a file seems to have. A guess for people; suite files always say."""
    if not h5py.is_hdf5(path):
        return "tipsy"
    attrs = gadget.header(path)
    with h5py.File(path, "r") as file:
        fields = {name for i in (0, 4) if f"PartType{i}" in file for name in file[f"PartType{i}"]}
        config = set(file["Config"].attrs) if "Config" in file else set()
    if "SWIFT" in str(attrs.get("Code", "")) or "SmoothingLengths" in fields:
        return "swift"
    if "VORONOI" in config or any(name.startswith("GFM_") for name in fields):
        return "arepo"
    if "Mass" in fields and "ExpansionFactor" in attrs:
        return "eagle"
    if {"NWindLaunches", "Dust_Masses"} & fields:
        return "simba"
    if "Metallicity" in fields or any("GIZMO" in name.upper() for name in attrs):
        return "gizmo"
    return "gadget"


def describe(path: Path, format_name: str | None = None) -> list[str]:
    """Lines about one snapshot: frontend, units, box, particles, and what is missing.

    Raises SnapshotError when it cannot be read at all.
    """
    if not path.exists():
        raise SnapshotError(f"{path}: no such file")
    chosen = format_name or guess_format(path)
    with Snapshot(path, chosen) as snapshot:
        units = snapshot.units
        box = "not periodic" if units.box_kpc is None else f"{units.box_kpc:.6g} kpc, periodic"
        lines = [
            f"{path}",
            f"  format      {chosen}{'' if format_name else ' (guessed; --format chooses another)'}, "
            f"frontend {snapshot.frontend}",
            f"  a, h        {units.scale_factor:.6g} (z = {1 / units.scale_factor - 1:.4g}), {units.hubble:.6g}",
            f"  code units  {units.length_kpc:.6g} kpc, {units.mass_msun:.6g} Msun, {units.velocity_kms:.6g} km/s, "
            "a and h included",
            f"              from {units.source}",
            f"  box         {box}",
        ]
        parts = {name: snapshot.everything(name) for name in snapshot.components}
        for name, p in parts.items():
            types = "+".join(snapshot.components[name]) or "none"
            if name == "gas" and p.weight is not None and (wind := np.count_nonzero(p.weight == 0)):
                types += f" ({wind:,d} wind cells of the stars' types among them)"
            extent = f", spans {(p.pos_kpc.max(0) - p.pos_kpc.min(0)).max():.4g} kpc" if len(p) else ""
            lines.append(f"  {name:11s} {len(p):9,d} particles of {types}, {p.mass_msun.sum():.4g} Msun{extent}")
        other = {
            t: n for t, n in snapshot.counts.items() if n and not any(t in c for c in snapshot.components.values())
        }
        lines += [f"  not used    {n:,d} particles of {t}" for t, n in other.items()]
        lines += [f"  missing     {text}" for text in _missing(snapshot, parts)]
        stars = parts["stars"]
        if len(stars):
            offset = snapshot.wrap(stars.pos_kpc - stars.pos_kpc[0])
            if (offset.max(0) - offset.min(0)).max() < 0.1:
                lines.append(
                    "  doubtful    the stars span less than 0.1 kpc: is the length unit Mpc? "
                    "If so add `units: {length_kpc: 1000}` to the suite file"
                )
    return lines


def _missing(snapshot: Snapshot, parts: dict[str, Particles]) -> list[str]:
    found = []
    if "assumed" in snapshot.units.source:
        found.append("units: the file has none; if they are others, add `units: {length_kpc, mass_msun, velocity_kms}`")
    if snapshot.units.hubble == 1.0 and snapshot.units.scale_factor == 1.0:
        found.append("cosmology: taken as an isolated galaxy (a = h = 1)")
    for name, hint in (("stars", "no map can be made"), ("gas", "gas maps will be empty"), ("dark", "truth lacks it")):
        if len(parts[name]) == 0:
            found.append(f"{name}: {hint}; if they are of another type add `particles: {{{name}: [...]}}`")
    if len(parts["gas"]) and parts["gas"].support_kpc is None:
        found.append("smoothing lengths and densities of the gas: the distance of the 32nd neighbour is taken")
    return found
