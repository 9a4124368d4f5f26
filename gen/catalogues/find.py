"""The galaxies of a snapshot: read from its catalogue and selected, or found from its particles."""

import math
import re
from collections import Counter
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np

from kinmass.gen.catalogues import BY_TYPE, READERS, Halo, Kinds, hbt
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.base import reading
from kinmass.gen.formats.once import names_in
from kinmass.gen.physics.centre import deepest_point, subsample
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.suite import Selection

#: What catalogues count as stars, and as dark matter of low resolution.
USUAL = Kinds()
#: An R200 above this is a wrong unit: several times that of the most massive clusters of galaxies.
LARGEST_R200_KPC = 1e4
#: A centre is searched for on at most so many particles of each component.
MOST_PARTICLES = 200_000


def files_of(catalogue_format: str, path: Path) -> list[Path]:
    """List all files that a catalogue is read from.

    Parts lie beside each other with numbers of their own, as `tab_099.3.hdf5`.
    """
    beside = hbt.logs(path) if catalogue_format == "hbt" else []
    patterns = r"(.*\.)\d+\.z\d+\.\d+\.AHF_halos", r"(.*\.)\d+(\.[^.]+)?"
    if not (match := next(filter(None, (re.fullmatch(p, path.name) for p in patterns)), None)):
        return [path, *beside]
    return [*sorted(path.parent / name for name in names_in(path.parent) if name.startswith(match[1])), *beside]


def find_haloes(
    catalogue_format: str, path: Path | None, snapshot: Path, units: CodeUnits, kinds: Kinds = USUAL
) -> list[Halo]:
    """Read the centrals and satellites of one snapshot; without a catalogue, one galaxy of unknown centre.

    kinds: which types of particles the suite takes for stars. Where these are unusual, what a catalogue that does not
    count by type says of stars is not of them, and unknown. Raises SnapshotError naming the catalogue that cannot be
    read, or has two entries of one name.
    """
    if catalogue_format == "none" or path is None:
        return [Halo("0", None)]
    with reading(path, f" as a {catalogue_format} catalogue"):
        told = (kinds,) if catalogue_format in BY_TYPE else ()
        haloes = READERS[catalogue_format](path, snapshot, units, *told)
    if not told and catalogue_format != "table" and kinds.stars != USUAL.stars:
        haloes = [halo._replace(n_stars=None, stellar_mass_msun=None) for halo in haloes]
    names = [halo.name for halo in haloes]
    if len(set(names)) < len(names):
        commonest = Counter(names).most_common(1)[0]
        raise SnapshotError(
            f"{path}: {commonest[1]} entries are called {commonest[0]}; "
            "give each a name of its own, or get the file again"
        )
    return haloes


def chosen(haloes: list[Halo], selection: Selection, tells_low_resolution: bool = False) -> list[Halo]:
    """Return the haloes that pass a selection, in their order; an unknown value passes.

    tells_low_resolution: the snapshot has particles of low resolution as types of their own, so that each galaxy's
    share of them is measured as it is mapped, whatever the catalogue says. Raises SnapshotError when no halo has the
    value that a cut needs.
    """
    reasons = why_not(haloes, selection, tells_low_resolution)
    return [halo for halo, reason in zip(haloes, reasons, strict=True) if not reason]


def why_not(haloes: list[Halo], selection: Selection, tells_low_resolution: bool) -> list[str]:
    """Return, for each halo, the key and value of the cut that excludes it, or "". Arguments and errors as `chosen`."""
    which = selection.which
    if which == "satellite" and haloes and all(h.central is None for h in haloes):
        raise _unknown("which: satellite")
    reasons = ["" if which == "all" or h.central in (None, which == "central") else f"which: {which}" for h in haloes]
    ranges = {
        "min_stars": ("n_stars", (selection.min_stars, None)),
        "stellar_mass_msun": ("stellar_mass_msun", selection.stellar_mass_msun),
        "halo_mass_msun": ("halo_mass_msun", selection.halo_mass_msun),
        "min_particles": ("n_particles", (selection.min_particles, None)),
        "min_high_res_fraction": ("high_res_fraction", (selection.min_high_res_fraction, None)),
    }
    # Haloes that pass `which` and min_stars: at least one of them must have the value that a later cut needs.
    first_cuts: list[Halo] = []
    for key, (field, limits) in ranges.items():
        low, high = limits or (None, None)
        if (
            key != "min_stars"
            and not (key == "min_high_res_fraction" and tells_low_resolution)
            and first_cuts
            and (low, high) != (None, None)
            and all(getattr(h, field) is None for h in first_cuts)
        ):
            raise _unknown(key)
        for i, value in enumerate(map(attrgetter(field), haloes) if (low, high) != (None, None) else ()):
            if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
                reasons[i] = reasons[i] or f"{key}: {getattr(selection, key)}"
        if key == "min_stars":
            first_cuts = [h for h, reason in zip(haloes, reasons, strict=True) if not reason]
    return reasons


def _unknown(key: str) -> SnapshotError:
    return SnapshotError(f"`selection.{key}` asks for what the catalogue does not give; take it out of the suite file")


def usable(halo: Halo, path: Path | None) -> tuple[Halo | None, str]:
    """Return the halo and "", or None and the reason why its position or radius cannot be used."""
    if halo.centre_kpc is not None and not all(map(math.isfinite, halo.centre_kpc.tolist())):
        return None, f"{path}: halo {halo.name} has no finite position; repair its entry, or take it out"
    if halo.r200_kpc is not None and halo.r200_kpc > LARGEST_R200_KPC:
        return None, f"{path}: halo {halo.name} has an R200 of {halo.r200_kpc:.4g} kpc; check its unit"
    return halo, ""


def find_centre(snapshot: Snapshot) -> np.ndarray:
    """Find the centre (3,) [kpc] of the galaxy in a snapshot without a catalogue.

    Uses `gen.physics.centre.deepest_point`. Raises SnapshotError where there are no stars.
    """
    parts = {name: subsample(snapshot.everything(name), MOST_PARTICLES) for name in snapshot.components}
    if len(parts["stars"]) == 0:
        raise SnapshotError(
            f"{snapshot.path}: no stars to find a centre from, and no catalogue; give `catalogue`, or leave this "
            "snapshot out"
        )
    origin = parts["stars"].pos_kpc[0]
    centred_parts = {name: replace(p, pos_kpc=snapshot.wrap(p.pos_kpc - origin)) for name, p in parts.items()}
    return origin + deepest_point(centred_parts["stars"], list(centred_parts.values()))
