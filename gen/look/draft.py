"""Drafts a first suite file for a snapshot, from the snapshot and the files around it."""

import glob
import json
import os
import re
from pathlib import Path

from kinmass.gen.catalogues import ahf
from kinmass.gen.catalogues.base import OtherEpoch
from kinmass.gen.catalogues.find import find_haloes
from kinmass.gen.formats import FORMATS, CodeUnits, SnapshotError
from kinmass.gen.formats.recognise import catalogue_format, recognised
from kinmass.gen.look.sketch import FEW_STARS, Sketch, sketch
from kinmass.gen.suite import snapshot_number
from kinmass.gen.yamlfile import read_text

#: File names of catalogues by format, in the order in which they are searched for.
_CATALOGUE_PATTERNS = {
    "adaptahop": "tree_bricks*",
    "ahf": "*.AHF_halos",
    "subfind": "fof_subhalo_tab_*.hdf5",
    "eagle_subfind": "eagle_subfind_tab_*.hdf5",
    "caesar": "caesar*.hdf5",
    "rockstar": "out_*.list",
    "soap": "halo_properties_*.hdf5",
    "hbt": "*SubSnap_*.hdf5",
    "velociraptor": "*.properties*",
    "table": "*.ecsv",
}
#: That of files which are looked into.
_ANY = "*.hdf5"


def _as_yaml(text: str) -> str:
    """Write a text so that YAML reads it back the same: plain where possible, else quoted."""
    is_plain = re.fullmatch(r"[\w./*+-]+", text) and read_text(text) == text
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _find_catalogues(snapshot: Path, format_name: str) -> list[tuple[str, Path]]:
    """List (format, path) of catalogues that seem to belong to a snapshot, in its folder or one beside that.

    They have the snapshot's own name, or its number. Those in its folder go before those in another one, and folders
    farther off count where there are none.
    """
    number = _without_zeros(snapshot_number(snapshot, format_name))
    near, far = _folders_of_catalogues(snapshot, number)
    return _catalogues_in(near, snapshot, format_name, number) or _catalogues_in([far], snapshot, format_name, number)


def _catalogues_in(places: list[list[Path]], snapshot: Path, format_name: str, number: str) -> list[tuple[str, Path]]:
    """List (format, path) of a snapshot's catalogues, those of each format from the first places that have any.

    They are known by their names; where there are none, HDF5 files with the snapshot's number by their content, as
    `m100n1024_151.hdf5` of SIMBA and `groups_135.0.hdf5` of Illustris and CAMELS.
    """

    def found(pattern: str) -> list[Path]:
        """List the first files of catalogues that a pattern finds, in the first places that have any."""
        for candidates in ([p for folder in folders for p in folder.glob(pattern)] for folders in places):
            same_name = [p for p in candidates if p.name.startswith(f"{snapshot.name}.")]
            matching = same_name or [
                p for p in candidates if number and _without_zeros(snapshot_number(p, format_name)) == number
            ]
            first_files = [p for p in matching if p.is_file() and not (p.name.startswith(".") or _is_later_part(p))]
            if first_files := [p for p in first_files if pattern != _ANY or catalogue_format(p)]:
                return sorted(first_files, key=str)
        return []

    named = [(kind, path) for kind, pattern in _CATALOGUE_PATTERNS.items() for path in found(pattern)]
    return named or [(catalogue_format(path), path) for path in found(_ANY)]


def _folders_of_catalogues(snapshot: Path, number: str) -> tuple[list[list[Path]], list[Path]]:
    """Return the folders in which a snapshot's catalogue may lie, the nearest first, and those farther off.

    They are its own, those in it (SIMBA's `Groups`) and those beside it. Where its own folder is that of one snapshot
    (`snapshots/flamingo_0077`), the run's catalogues lie in one beside `snapshots`; HBT has folders of its own, named
    by number, in one. A folder with snapshots of its own is another run, with other galaxies at the same time, and is
    left out.
    """
    pattern = re.sub(r"\d+", "*", glob.escape(snapshot.name))
    folder = snapshot.absolute().parent

    def has_snapshots(own: Path, *patterns: str) -> bool:
        found = (path for pattern in patterns for path in own.glob(pattern))
        return any(_ending(path) == _ending(snapshot) for path in found)  # AHF's files begin with a snapshot's name

    def beside(own: Path, *patterns: str) -> list[Path]:
        return [f for f in own.parent.glob("*/") if f != own and not has_snapshots(f, *patterns)]

    is_of_one = bool(number) and number in map(_without_zeros, re.findall(r"\d+", folder.name))
    far = beside(folder.parent, pattern, f"*/{pattern}", f"*/*/{pattern}") if is_of_one else []
    inside = [f for f in folder.glob("*/") if not (f.name.startswith(".") or has_snapshots(f, pattern, f"*/{pattern}"))]
    near = beside(folder, pattern)
    numbered = [f for own in near for f in own.glob("*/") if number and _without_zeros(f.name) == number]
    return [[folder], inside, [*near, *(f for f in numbered if not has_snapshots(f, pattern))]], far


def _ending(path: Path) -> str:
    """Return what a file's name ends in, "" where that is a number."""
    return "" if path.suffix[1:].isdecimal() else path.suffix


def _is_later_part(catalogue: Path) -> bool:
    """Whether a file is a part of a catalogue, and not the first, which is given for all."""
    if part := re.fullmatch(ahf.PARTS, catalogue.name):  # or the step of a Tipsy run, of four digits, too
        name = f"{catalogue.name[: part.start(1)]}0000{catalogue.name[part.end(1) :]}"
        return name != catalogue.name and catalogue.with_name(name).exists()
    name = re.sub(r"[._]z\d+[.p]\d+", "", catalogue.name)  # caesar_0151_z0.667.hdf5 is no part 667
    return re.search(r"\.[1-9]\d*\.hdf5$|\.properties\.[1-9]\d*$", name) is not None


def _without_zeros(number: str) -> str:
    """Return a number as it is written without leading zeros; "" stays, and 000 is 0."""
    return number.lstrip("0") or number[-1:]


def _look_into(kind: str, catalogue: Path, contents: Sketch) -> tuple[bool, bool]:
    """Whether a catalogue is of the snapshot's time, and whether it gives any R200.

    Both are True for one that cannot be read, which fails when used, and where the snapshot's units are not known.
    """
    try:
        haloes = find_haloes(kind, catalogue, contents.path, contents.units or CodeUnits(1, 1, 1, None))
    except OtherEpoch:
        return contents.units is None, True
    except SnapshotError:
        return True, True
    return True, not haloes or any(halo.r200_kpc is not None for halo in haloes)


def draft(path: Path, format_name: str | None = None) -> str:
    """Write the YAML of a suite that holds this snapshot, with comments on what to check.

    What prevents maps comes first, as comments; what cannot be known is a comment as well. Raises
    SnapshotError when the file cannot be read.
    """
    if not path.exists():
        raise SnapshotError(f"{path}: no such file; check the path")
    chosen_format = format_name or recognised(path)
    first_look = sketch(path, chosen_format)
    types, remark = _guess_types(first_look)
    contents = sketch(path, chosen_format, types) if types else first_look
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.name.split(".")[0]).strip("_") or "suite"
    return (
        "\n".join(
            [
                *(f"# look at this first: {text}" for text in contents.wrong),
                *(f"# {text}" for text in contents.odd),
                f"name: {_as_yaml(name)}   # any, of letters, digits, _ and -; one group of the map store",
                f"root: {_as_yaml(str(_in_true_folder(path).parent))}",
                f"format: {chosen_format}",
                f"snapshots: {_as_yaml(glob.escape(path.name))}   # a pattern: `*` for many, `*/` for many folders",
                *_galaxy_lines(contents),
                *([f"particles: {_flow_mapping(types)}   # {remark}"] if types else []),
                *_unit_lines(contents),
            ]
        )
        + "\n"
    )


def _flow_mapping(types: dict[str, list[str]]) -> str:
    return "{" + ", ".join(f"{key}: [{', '.join(names)}]" for key, names in types.items()) + "}"


def _guess_types(contents: Sketch) -> tuple[dict[str, list[str]], str]:
    """Guess `particles` where there are types 2 and 3, and say when the guess holds; ({}, "") where there are none."""
    dark = [t for t in contents.components["dark"] if t in contents.samples]
    others = [t for t in dark if t in ("PartType2", "PartType3") and t not in contents.discs]
    if contents.discs:
        types = {"stars": [*contents.discs, "PartType4"], "dark": ["PartType1"]}
        return types | ({"low_resolution": others} if others else {}), "if they are a disc and a bulge"
    if others and "PartType1" in dark:
        return {"dark": ["PartType1"], "low_resolution": others}, "if it is a zoom"
    return {}, ""


def _galaxy_lines(contents: Sketch) -> list[str]:
    """Make the lines on catalogue, aperture and selection."""
    seen = {
        candidate: _look_into(*candidate, contents) for candidate in _find_catalogues(contents.path, contents.format)
    }
    fitting = [candidate for candidate, (is_of_its_time, _) in seen.items() if is_of_its_time]
    lines = [f"# {p.name} is of another time, and not its catalogue" for kind, p in seen if (kind, p) not in fitting]
    n_stars = contents.count("stars")
    min_stars = FEW_STARS if n_stars >= FEW_STARS else max(1, n_stars // 2)
    few_stars_note = (
        "" if n_stars >= FEW_STARS else f"   # there are {n_stars}; maps of fewer than some {FEW_STARS} are shot noise"
    )
    unsure = [(kind, p) for kind, p in fitting if len({q.parent for other, q in fitting if other == kind}) > 1]
    lines += [f"# this may be its catalogue, or another run's: {_catalogue_path(contents, p)}" for _, p in unsure]
    fitting = [c for c in fitting if c not in unsure]
    if fitting:
        (kind, path), *alternatives = fitting
        lines.append(f"catalogue: {{format: {kind}, path: {_catalogue_path(contents, path)}}}")
        lines += [
            f"# or: catalogue: {{format: {kind}, path: {_catalogue_path(contents, p)}}}" for kind, p in alternatives
        ]
        lines.append(
            "aperture: {r200: 0.2}   # of the catalogue's virial radius; must reach 3 R_e. Or {kpc: 30}"
            if seen[kind, path][1]
            else _aperture_line(contents)
        )
    else:
        lines.append("# no catalogue found: one galaxy per snapshot, its centre found on its matter")
        lines.append(_aperture_line(contents))
    return [*lines, f"selection: {{min_stars: {min_stars}}}{few_stars_note}"]


def _aperture_line(contents: Sketch) -> str:
    """Make the line of an aperture in kpc, where there is no R200."""
    half_mass_kpc, aperture_note = 0.0, "30 kpc for want of stars: put your own"
    if contents.units is not None and contents.count("stars") and (found := contents.galaxy()):
        half_mass_kpc, aperture_note = found[1], "6 half-mass radii of its stars"
    aperture_kpc = 6 * half_mass_kpc if half_mass_kpc > 0 else 30.0
    if contents.units is not None and contents.units.box_kpc is not None:
        aperture_kpc = min(aperture_kpc, 0.49 * contents.units.box_kpc)
    return f"aperture: {{kpc: {float(f'{aperture_kpc:.2g}'):g}}}   # {aperture_note}"


def _in_true_folder(path: Path) -> Path:
    """Return a path without links among its folders; the file, which may be a link itself, keeps its name and place."""
    return path.absolute().parent.resolve() / path.name


def _catalogue_path(contents: Sketch, catalogue: Path) -> str:
    """Path of a catalogue relative to the snapshot's folder, with {name} where it holds the snapshot's own name."""
    relative = os.path.relpath(_in_true_folder(catalogue), _in_true_folder(contents.path).parent)
    parts = [glob.escape(part).replace("{", "{{").replace("}", "}}") for part in relative.split(contents.path.name)]
    return json.dumps("{name}".join(parts), ensure_ascii=False)


def _unit_lines(contents: Sketch) -> list[str]:
    """Make a commented line with the units that were assumed, for the user to correct."""
    if contents.units is not None and "assumed" not in contents.units.source:
        return []
    default_units = {key: value for key, (value, _, _) in getattr(FORMATS[contents.format], "default", {}).items()}
    unit_list = ", ".join(f"{key}: {value:g}" for key, value in default_units.items())
    return (
        [f"# units: {{{unit_list}}}   # of one code unit, before factors of a and h: what is assumed"]
        if unit_list
        else []
    )
