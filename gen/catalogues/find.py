"""Where the galaxies of a snapshot are: read from its catalogue, chosen, or found on its matter."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from kinmass.gen.catalogues import READERS, Halo
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.base import reading
from kinmass.gen.physics.centre import deepest_point, subsample
from kinmass.gen.snapshots.snapshot import READ_WHOLE, Snapshot
from kinmass.gen.suite import Selection

#: Several times that of the heaviest clusters of galaxies.
LARGEST_R200_KPC = 1e4


def find_haloes(kind: str, path: Path | None, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Centrals and satellites of one snapshot; one galaxy of unknown centre when there is no catalogue.

    Raises SnapshotError naming the catalogue that cannot be read.
    """
    if kind == "none" or path is None:
        return [Halo("0", None)]
    with reading(path, f" as a {kind} catalogue"):
        haloes = READERS[kind](path, snapshot, units)
    names = Counter(halo.name for halo in haloes)
    if haloes and (most := names.most_common(1)[0])[1] > 1:
        raise SnapshotError(f"{path}: {most[1]} entries are called {most[0]}; damaged?")
    return haloes


def chosen(haloes: list[Halo], selection: Selection) -> list[Halo]:
    """The haloes that a selection lets through, in their order; what is not known of one does not cut it.

    Raises SnapshotError when what is asked for is known of none.
    """
    return [halo for halo, reason in zip(haloes, why_not(haloes, selection), strict=True) if not reason]


def why_not(haloes: list[Halo], selection: Selection) -> list[str]:
    """The key of the selection that keeps each halo out, or "". Raises SnapshotError as `chosen` does."""
    which = selection.which
    if which == "satellite" and haloes and all(h.central is None for h in haloes):
        raise _unknown("which: satellite")
    why = ["" if which == "all" or h.central in (None, which == "central") else f"which: {which}" for h in haloes]
    ranges = {
        "min_stars": ("n_stars", (selection.min_stars, None)),
        "stellar_mass_msun": ("stellar_mass_msun", selection.stellar_mass_msun),
        "halo_mass_msun": ("halo_mass_msun", selection.halo_mass_msun),
        "min_particles": ("n_particles", (selection.min_particles, None)),
        "min_high_res_fraction": ("high_res_fraction", (selection.min_high_res_fraction, None)),
    }
    begun: list[Halo] = []  # what `which` and min_stars let through: of these the others must know what they ask for
    for key, (field, limits) in ranges.items():
        low, high = limits or (None, None)
        if (
            key != "min_stars"
            and begun
            and (low, high) != (None, None)
            and all(getattr(h, field) is None for h in begun)
        ):
            raise _unknown(key)
        for i, halo in enumerate(haloes):
            value = getattr(halo, field)
            out = value is not None and ((low is not None and value < low) or (high is not None and value > high))
            why[i] = why[i] or (f"{key}: {getattr(selection, key)}" if out else "")
        if key == "min_stars":
            begun = [h for h, reason in zip(haloes, why, strict=True) if not reason]
    return why


def _unknown(key: str) -> SnapshotError:
    return SnapshotError(f"`selection.{key}` asks for what the catalogue does not give; take it out of the suite file")


def usable(halo: Halo, path: Path | None) -> tuple[Halo | None, str]:
    """The halo, or None and the reason why it can be no galaxy."""
    if halo.centre_kpc is not None and not np.isfinite(halo.centre_kpc).all():
        return None, f"{path}: halo {halo.name} has no finite position"
    if halo.r200_kpc is not None and halo.r200_kpc > LARGEST_R200_KPC:
        return None, f"{path}: halo {halo.name} has an R200 of {halo.r200_kpc:.4g} kpc; check its unit"
    return halo, ""


def found_centre(snapshot: Snapshot) -> np.ndarray:
    """Centre (3,) [kpc] of the galaxy in a snapshot without a catalogue (`gen.physics.centre.deepest_point`).

    Raises SnapshotError where there are no stars.
    """
    parts = {name: subsample(snapshot.everything(name), READ_WHOLE) for name in snapshot.components}
    if len(parts["stars"]) == 0:
        raise SnapshotError(f"{snapshot.path}: no stars to find a centre from, and no catalogue given")
    origin = parts["stars"].pos_kpc[0]
    about = {name: replace(p, pos_kpc=snapshot.wrap(p.pos_kpc - origin)) for name, p in parts.items()}
    return origin + deepest_point(about["stars"], list(about.values()))
