"""A first suite file for a snapshot one has, from what lies around it."""

import glob
import json
import os
import re
from pathlib import Path

import yaml

from kinmass.gen.catalogues.base import OtherEpoch
from kinmass.gen.catalogues.find import find_haloes
from kinmass.gen.formats import FORMATS, CodeUnits, SnapshotError
from kinmass.gen.formats.recognise import recognised
from kinmass.gen.look.sketch import FEW_STARS, Sketch, sketch
from kinmass.gen.suite import snapshot_number

#: Names that catalogues have, in the order in which they are looked for.
_NAMES = {
    "ahf": "*.AHF_halos",
    "subfind": "fof_subhalo_tab_*.hdf5",
    "eagle_subfind": "eagle_subfind_tab_*.hdf5",
    "caesar": "caesar*.hdf5",
    "rockstar": "out_*.list",
    "table": "*.ecsv",
}


def _yaml(text: str) -> str:
    """A text as YAML reads it back, plain where it may be."""
    plain = re.fullmatch(r"[\w./*+-]+", text) and yaml.safe_load(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)


def _catalogues(snapshot: Path, format_name: str) -> list[tuple[str, Path]]:
    """(format, path) of catalogues that seem to belong to a snapshot, in its folder or one beside it.

    By the snapshot's own name, or by its number. What lies beside it goes before what lies in another folder; a folder
    with snapshots of its own is another run, whose galaxies are elsewhere at the same time.
    """
    number, found = snapshot_number(snapshot, format_name).lstrip("0"), []
    alike = re.sub(r"\d+", "*", glob.escape(snapshot.name))
    folder = snapshot.absolute().parent
    beside = [f for f in folder.parent.glob("*/") if f != folder and not any(f.glob(alike))]
    for kind, pattern in _NAMES.items():
        for near in ([*folder.glob(pattern)], [p for f in beside for p in f.glob(pattern)]):
            named = [p for p in near if p.name.startswith(f"{snapshot.name}.")]
            mine = named or [p for p in near if number and snapshot_number(p, format_name).lstrip("0") == number]
            firsts = [p for p in mine if p.is_file() and not re.search(r"\.[1-9]\d*\.hdf5$", p.name)]
            found += [(kind, p) for p in sorted(firsts, key=str)]
            if firsts:
                break
    return found


def _epoch_fits(kind: str, catalogue: Path, snapshot: Path, units: CodeUnits) -> bool:
    """Whether a catalogue is of the snapshot's time; one that cannot be read says why when it is used."""
    try:
        find_haloes(kind, catalogue, snapshot, units)
    except OtherEpoch:
        return False
    except SnapshotError:
        pass
    return True


def draft(path: Path, format_name: str | None = None) -> str:
    """The YAML of a suite that holds this snapshot, with remarks on what to look at.

    What it cannot know is a remark, and what stands in the way of maps heads it. Raises
    SnapshotError when the file cannot be read.
    """
    if not path.exists():
        raise SnapshotError(f"{path}: no such file; check the path")
    chosen = format_name or recognised(path)
    first = sketch(path, chosen)
    particles, remark = _particles(first)
    seen = sketch(path, chosen, particles) if particles else first
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.name.split(".")[0]).strip("_") or "suite"
    return (
        "\n".join(
            [
                *(f"# look at this first: {text}" for text in seen.wrong),
                *(f"# {text}" for text in seen.odd),
                f"name: {_yaml(name)}   # any name; one group of the map store",
                f"root: {_yaml(str(path.resolve().parent))}",
                f"format: {chosen}",
                f"snapshots: {_yaml(glob.escape(path.name))}   # a pattern: `*` for many, `*/` for many folders",
                *_galaxies(seen),
                *([f"particles: {_flow(particles)}   # {remark}"] if particles else []),
                *_units(seen),
            ]
        )
        + "\n"
    )


def _flow(types: dict[str, list[str]]) -> str:
    return "{" + ", ".join(f"{key}: [{', '.join(names)}]" for key, names in types.items()) + "}"


def _particles(seen: Sketch) -> tuple[dict[str, list[str]], str]:
    """What to say of types 2 and 3: a disc and a bulge, or the surroundings of a zoom; nothing where there are none."""
    dark = [t for t in seen.components["dark"] if t in seen.samples]
    others = [t for t in dark if t in ("PartType2", "PartType3") and t not in seen.discs]
    if seen.discs:
        types = {"stars": [*seen.discs, "PartType4"], "dark": ["PartType1"]}
        return types | ({"low_resolution": others} if others else {}), "if they are a disc and a bulge"
    if others and "PartType1" in dark:
        return {"dark": ["PartType1"], "low_resolution": others}, "if it is a zoom"
    return {}, ""


def _galaxies(seen: Sketch) -> list[str]:
    """The lines on catalogue, aperture and selection."""
    near = _catalogues(seen.path, seen.format)
    fits = [c for c in near if seen.units is None or _epoch_fits(*c, seen.path, seen.units)]
    lines = [f"# {p.name} is of another time, and not its catalogue" for kind, p in near if (kind, p) not in fits]
    n = seen.count("stars")
    enough = FEW_STARS if n >= FEW_STARS else max(1, n // 2)
    few = "" if n >= FEW_STARS else f"   # there are {n}; maps of fewer than some {FEW_STARS} are shot noise"
    unsure = [(kind, p) for kind, p in fits if len({q.parent for other, q in fits if other == kind}) > 1]
    lines += [f"# this may be its catalogue, or another run's: {_catalogue_path(seen, p)}" for _, p in unsure]
    fits = [c for c in fits if c not in unsure]
    if fits:
        (kind, where), *rest = fits
        lines.append(f"catalogue: {{format: {kind}, path: {_catalogue_path(seen, where)}}}")
        lines += [f"# or: catalogue: {{format: {kind}, path: {_catalogue_path(seen, p)}}}" for kind, p in rest]
        lines.append("aperture: {r200: 0.2}   # of the catalogue's virial radius; must reach 3 R_e. Or {kpc: 30}")
    else:
        lines.append("# no catalogue found: one galaxy per snapshot, its centre found on its matter")
        half, words = 0.0, "30 kpc for want of stars: put your own"
        if seen.units is not None and n:
            half, words = seen.galaxy()[1], "6 half-mass radii of its stars"
        kpc = 6 * half if half > 0 else 30.0
        if seen.units is not None and seen.units.box_kpc is not None:
            kpc = min(kpc, 0.49 * seen.units.box_kpc)
        lines.append(f"aperture: {{kpc: {float(f'{kpc:.2g}'):g}}}   # {words}")
    return [*lines, f"selection: {{min_stars: {enough}}}{few}"]


def _catalogue_path(seen: Sketch, catalogue: Path) -> str:
    """Relative to the snapshot's folder, following the snapshot's own name where the catalogue bears it."""
    relative = os.path.relpath(catalogue.resolve(), seen.path.resolve().parent)
    parts = [glob.escape(part).replace("{", "{{").replace("}", "}}") for part in relative.split(seen.path.name)]
    return json.dumps("{name}".join(parts), ensure_ascii=False)


def _units(seen: Sketch) -> list[str]:
    """A commented line with the units that were assumed, to be put right."""
    if seen.units is not None and "assumed" not in seen.units.source:
        return []
    worth = {key: value for key, (value, _, _) in getattr(FORMATS[seen.format], "default", {}).items()}
    said = ", ".join(f"{key}: {value:g}" for key, value in worth.items())
    return [f"# units: {{{said}}}   # of one code unit, before factors of a and h: what is assumed"] if said else []
