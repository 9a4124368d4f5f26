"""The galaxies of each snapshot by its catalogue, kept beside the store for the next run that lists the same files."""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.campaign import failures
from kinmass.gen.catalogues.find import Halo, chosen, find_haloes, usable
from kinmass.gen.code import stage_key
from kinmass.gen.formats import FORMATS, CodeUnits, SnapshotError
from kinmass.gen.snapshots import alike
from kinmass.gen.storage.files import make_folder, write_atomically
from kinmass.gen.suite import Suite, SuiteError

#: Stands in place of the galaxy's name for a snapshot whose galaxies could not be listed.
UNLISTED = "?"
Entry = tuple[str, Halo | None, str]


@dataclass(frozen=True)
class Listing:
    """The galaxies of one snapshot as (name, halo, problem), and what all snapshots of a suite should agree on.

    facts is None where the snapshot cannot be read. marks is a digest of all that the listing was made from, "" where
    it may not be kept.
    """

    entries: list[Entry]
    facts: dict[str, str] | None
    marks: str = ""


def list_snapshot(suite: Suite, snapshot: Path, kept: dict[str, Any] | None = None) -> Listing:
    """List every galaxy of one snapshot without opening its particles.

    kept: what an earlier run has kept of this snapshot, taken if its files are as they were. Never raises: a snapshot
    that cannot be listed is one entry that says why.
    """
    facts = None
    try:
        path = suite.catalogue_path(snapshot)
        marks = _marks(suite, snapshot, path)
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # what was kept may be damaged
            if kept and marks and kept["marks"] == marks:
                return Listing([_unpacked(entry) for entry in kept["entries"]], dict(kept["facts"]), marks)
        units = FORMATS[suite.format].units(snapshot, suite.units.model_dump(exclude_none=True))
        facts = facts_of(suite, snapshot, units)
        haloes = chosen(find_haloes(suite.catalogue.format, path, snapshot, units), suite.selection)
    except (SnapshotError, SuiteError, OSError) as error:
        return Listing([(suite.galaxy_name(snapshot, UNLISTED), None, str(error))], facts)
    except Exception as error:  # one strange snapshot must not stop the others
        return Listing([(suite.galaxy_name(snapshot, UNLISTED), None, failures.unforeseen(snapshot, error))], facts)
    prefix = suite.galaxy_name(snapshot, "")
    return Listing([(prefix + h.name, *usable(h, path)) for h in haloes], facts, marks)


def facts_of(suite: Suite, snapshot: Path, units: CodeUnits) -> dict[str, str]:
    """Read from one snapshot the facts that all of its suite should agree on. Raises SnapshotError."""
    return alike.facts(units, _mapped_types(suite) & FORMATS[suite.format].types(snapshot))


def _mapped_types(suite: Suite) -> set[str]:
    """Particle types of gas, stars and dark matter. Black holes are left out: many galaxies have none."""
    component_types = FORMATS[suite.format].components | suite.particles.model_dump(exclude_none=True)
    return {ptype for name, types in component_types.items() if name != "black_holes" for ptype in types}


def _marks(suite: Suite, snapshot: Path, catalogue: Path | None) -> str:
    """Digest what a listing is made from: the code, the suite's settings, and its files by size and time of change.

    "" where a file cannot be looked at, whose error belongs to the listing.
    """
    try:
        files = [*FORMATS[suite.format].listed_files(snapshot), *(_parts_of(catalogue) if catalogue else [])]
        stats = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file in files]
    except (OSError, ValueError):
        return ""
    settings = suite.model_dump_json(exclude={"root"})
    return blake2b(repr((stage_key(), settings, stats)).encode(), digest_size=16).hexdigest()


def _parts_of(catalogue: Path) -> list[Path]:
    """All files of a catalogue whose parts lie beside each other with numbers of their own, as `tab_099.3.hdf5`."""
    if not (match := re.fullmatch(r"(.*\.)\d+(\.[^.]+)?", catalogue.name)):
        return [catalogue]
    return sorted(catalogue.parent / name for name in os.listdir(catalogue.parent) if name.startswith(match[1]))


def read_kept(out: Path, suite: str) -> dict[str, Any]:
    """Read what an earlier run has kept of a suite, by snapshot; empty where there is nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads((out / ".listing" / f"{suite}.json").read_text())
        if isinstance(kept, dict):
            return kept
    return {}


def keep_all(out: Path, listings: Mapping[str, dict[Path, Listing]]) -> None:
    """Keep the listings of all suites, given by their names, for the next run."""
    for suite, of_suite in listings.items():
        keep(out, suite, of_suite)


def keep(out: Path, suite: str, listings: dict[Path, Listing]) -> None:
    """Keep listings of a suite for the next run; what has a problem is listed anew. Does nothing where it cannot."""
    kept = {
        str(path): {"marks": listing.marks, "facts": listing.facts, "entries": [_packed(e) for e in listing.entries]}
        for path, listing in listings.items()
        if listing.marks and not any(problem for _, _, problem in listing.entries)
    }
    if kept == read_kept(out, suite):
        return
    with contextlib.suppress(OSError, TypeError, ValueError):  # a kept listing only saves time
        make_folder(out / ".listing")
        write_atomically(out / ".listing" / f"{suite}.json", json.dumps(kept))


def _packed(entry: Entry) -> list[Any]:
    name, halo, _ = entry
    if halo is None:
        return [name, None]
    centre = None if halo.centre_kpc is None else np.asarray(halo.centre_kpc).tolist()
    return [name, asdict(halo) | {"centre_kpc": centre}]


def _unpacked(packed: list[Any]) -> Entry:
    name, halo = packed
    centre = None if halo["centre_kpc"] is None else np.array(halo["centre_kpc"], dtype=float)
    return name, Halo(**(halo | {"centre_kpc": centre})), ""
