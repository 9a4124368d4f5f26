"""The galaxies of each snapshot by its catalogue, kept beside the store for the next run that lists the same files."""

import contextlib
import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kinmass.gen.campaign import failures
from kinmass.gen.campaign.failures import UNLISTED
from kinmass.gen.catalogues.base import Halo, Kinds, packed, unpacked
from kinmass.gen.catalogues.find import chosen, files_of, find_haloes, usable
from kinmass.gen.code import digest_of, stage_key
from kinmass.gen.formats import FORMATS, CodeUnits, SnapshotError
from kinmass.gen.formats.once import asking_once, status
from kinmass.gen.snapshots import alike
from kinmass.gen.snapshots.components import components_of
from kinmass.gen.snapshots.content import WAY, sampled
from kinmass.gen.storage.files import make_folder, write_atomically
from kinmass.gen.suite import Suite, SuiteError

Entry = tuple[str, Halo | None, str]


@dataclass(frozen=True)
class Listing:
    """The galaxies of one snapshot as (name, halo, problem), and what all snapshots of a suite should agree on.

    facts is None where the snapshot cannot be read; changed says which of them are not those that an earlier run has
    kept. marks is a digest of all that the listing was made from, "" where it may not be kept; n_bytes are those of
    the snapshot's files, 0 where they cannot be found. content is a digest of a sample of the snapshot, replaced that
    of what an earlier run found in its place, "" where it was the same.
    """

    entries: list[Entry]
    facts: dict[str, str] | None
    marks: str = ""
    n_bytes: int = 0
    changed: str = ""
    content: str = ""
    replaced: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Let ranks send each other columns instead of objects."""
        columns = _columns(self.entries)
        return _from_columns, (columns, self.facts, self.marks, self.n_bytes, self.content, self.replaced)


def _columns(entries: list[Entry]) -> dict[str, Any]:
    problems = {str(row): problem for row, (_, _, problem) in enumerate(entries) if problem}
    return {
        "names": [name for name, _, _ in entries], "haloes": packed([halo for _, halo, _ in entries]),
        "problems": problems,
    }  # fmt: skip


def _from_columns(
    columns: dict[str, Any], facts: dict[str, str] | None, marks: str, n_bytes: int, content: str, replaced: str
) -> Listing:
    names, haloes, problems = columns["names"], columns["haloes"], columns["problems"]
    if any(len(column) != len(names) for column in haloes.values()) or not all(isinstance(x, str) for x in names):
        raise ValueError("columns of a listing that do not fit together")
    with uncollected():
        entries = [(name, unpacked(haloes, i), problems.get(str(i), "")) for i, name in enumerate(names)]
    return Listing(entries, facts, marks, n_bytes, content=content, replaced=replaced)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Hold Python's search for unused cycles back while many objects without any are made: half of the time is its."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


#: Facts of a snapshot that all masses or lengths depend on.
_DECISIVE = ("h", "box", "expansion", *alike.OWN)


def compared(listing: Listing, kept: Listing | None) -> Listing:
    """Return a listing that says in what its snapshot is not what it was when an earlier run listed it.

    Its header's facts are compared, and a sample of its content, of which the one of before is handed on.
    """
    before, now = (kept and kept.facts) or {}, listing.facts or {}
    changes = [f"{fact}: {before[fact]} -> {now[fact]}" for fact in _DECISIVE if before.get(fact) != now.get(fact)
               and fact in before and fact in now]  # fmt: skip
    first = (kept and (kept.replaced or kept.content)) or ""
    first = first if first.startswith(WAY) else listing.content  # sampled in another way: nothing is known
    replaced = first if listing.content and first != listing.content else ""
    return replace(listing, changed=", ".join(changes), replaced=replaced)


def list_unless_kept(suite: Suite, snapshot: Path, kept_marks: str) -> Listing | None:
    """List a snapshot as `list_snapshot`, or return None where an earlier run's listing of these marks still holds."""
    with contextlib.suppress(Exception):  # whoever lists it says what is wrong
        if kept_marks and kept_marks == _marks(suite, snapshot, suite.catalogue_path(snapshot))[0]:
            return None
    return list_snapshot(suite, snapshot)


def list_snapshot(suite: Suite, snapshot: Path) -> Listing:
    """List every galaxy of one snapshot without opening its particles.

    Never raises: a snapshot that cannot be listed is one entry that says why.
    """
    with asking_once():
        return _list(suite, snapshot)


def _list(suite: Suite, snapshot: Path) -> Listing:
    facts, content = None, ""
    sizes: list[tuple[Path, int]] = []
    entries: list[Entry]
    try:
        path = suite.catalogue_path(snapshot)
        marks, sizes = _marks(suite, snapshot, path)
        units = FORMATS[suite.format].units(snapshot, suite.units.model_dump(exclude_none=True))
        facts = facts_of(suite, snapshot, units)
        content = sampled(sizes, (f"{units.scale_factor:.6g}", f"{units.hubble:.6g}")) if sizes else ""
        with uncollected():
            found = find_haloes(suite.catalogue.format, path, snapshot, units, kinds_of(suite))
            haloes = chosen(found, suite.selection, tells_low_resolution(suite))
            prefix = suite.galaxy_name(snapshot, "")
            entries = [(prefix + h.name, *usable(h, path)) for h in haloes]
    except (SnapshotError, SuiteError, OSError) as error:
        entries, marks = [(suite.galaxy_name(snapshot, UNLISTED), None, str(error))], ""
    except Exception as error:  # one strange snapshot must not stop the others
        entries, marks = [(suite.galaxy_name(snapshot, UNLISTED), None, failures.unforeseen(snapshot, error))], ""
    return Listing(entries, facts, marks, sum(size for _, size in sizes), content=content)


def tells_low_resolution(suite: Suite) -> bool:
    """Whether a suite's snapshots have low resolution as types of their own, by the suite file or their format."""
    return bool(components_of(FORMATS[suite.format], suite.particles.model_dump(exclude_none=True))[1])


def kinds_of(suite: Suite) -> Kinds:
    """Tell which types a suite takes for stars, and for dark matter of low resolution: 2 and 3, if nothing says it."""
    declared = suite.particles.model_dump(exclude_none=True)
    components, low_resolution = components_of(FORMATS[suite.format], declared)
    stars = _numbers(components["stars"])
    others = {*stars, *_numbers(components["gas"])}
    return Kinds(stars or Kinds().stars, _numbers(low_resolution) or tuple({2, 3} - others))


def _numbers(types: list[str]) -> tuple[int, ...]:
    """Return the numbers of types named PartType0 and so on."""
    names = (ptype.removeprefix("PartType") for ptype in types)
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


def facts_of(suite: Suite, snapshot: Path, units: CodeUnits) -> dict[str, str]:
    """Read from one snapshot the facts that all of its suite should agree on. Raises SnapshotError."""
    snapshot_format = FORMATS[suite.format]
    present, assumed = snapshot_format.types(snapshot), ""
    types = _mapped_types(suite) & present
    components, _ = components_of(snapshot_format, suite.particles.model_dump(exclude_none=True))
    with contextlib.suppress(SnapshotError):  # whoever opens it says that its kernel is unknown
        assumed = snapshot_format.smoothing(snapshot).assumed if types & {*components["gas"]} else ""
    if unowned := snapshot_format.unowned(snapshot, {t for types in components.values() for t in types}):
        left_out = f"particles of {' and '.join(sorted(unowned))} are in no component, so their mass counts nowhere; "
        assumed = ". ".join(filter(None, [assumed, f"{left_out}if that is not meant name them in `particles`"]))
    assumed = ". ".join(filter(None, [assumed, units.without_box]))
    return alike.facts(units, types, assumed, snapshot.name)


def _mapped_types(suite: Suite) -> set[str]:
    """Particle types of gas, stars and dark matter. Black holes are left out: many galaxies have none."""
    component_types = FORMATS[suite.format].components | suite.particles.model_dump(exclude_none=True)
    return {ptype for name, types in component_types.items() if name != "black_holes" for ptype in types}


def _marks(suite: Suite, snapshot: Path, catalogue: Path | None) -> tuple[str, list[tuple[Path, int]]]:
    """Digest what a listing is made from: the code, the suite's settings, and its files by size and time of change.

    "" where a file cannot be looked at, whose error belongs to the listing. Also returns the snapshot's files, each
    with its size.
    """
    sizes: list[tuple[Path, int]] = []
    try:
        own = FORMATS[suite.format].listed_files(snapshot)
        files = dict.fromkeys([*own, *(files_of(suite.catalogue.format, catalogue) if catalogue else [])])
        stats = [(str(file), (stat := status(file)).st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file in files]
        sizes = [(Path(name), size) for name, size, _, _ in stats[: len(own)]]
    except (OSError, ValueError):
        return "", sizes
    settings = suite.model_dump_json(exclude={"root"})
    return digest_of(stage_key(), settings, stats), sizes


def kept_file(out: Path, suite: str) -> Path:
    """Return the file in which a store keeps the listings of a suite."""
    return out / ".listing" / f"{suite}.json"


def read_kept(out: Path, suite: str) -> dict[Path, Listing]:
    """Read the listings that an earlier run has kept of a suite; those that are damaged are left out."""
    kept = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(kept_file(out, suite).read_text())
        for path, listing in content.items() if isinstance(content, dict) else ():
            with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
                columns, facts = listing["columns"], dict(listing["facts"])
                marks, n_bytes = str(listing["marks"]), int(listing["n_bytes"])
                contents = (str(listing.get(name, "")) for name in ("content", "replaced"))
                kept[Path(path)] = _from_columns(columns, facts, marks, n_bytes, *contents)
    return kept


def keep_all(out: Path, listings: Mapping[str, dict[Path, Listing]]) -> None:
    """Keep the listings of all suites, given by their names, for the next run."""
    for suite, of_suite in listings.items():
        keep(out, suite, of_suite)


def keep(out: Path, suite: str, listings: dict[Path, Listing]) -> None:
    """Keep listings of a suite for the next run. Does nothing where it cannot.

    What has a problem is listed anew; of it is kept what its snapshot was, for the galaxies that were mapped from it.
    """
    kept = {
        str(path): {
            "marks": "" if any(problem for _, _, problem in listing.entries) else listing.marks,
            "facts": listing.facts, "n_bytes": listing.n_bytes, "content": listing.content,
            "replaced": listing.replaced, "columns": _columns(listing.entries),
        }
        for path, listing in listings.items()
        if listing.facts is not None
    }  # fmt: skip
    path = kept_file(out, suite)
    with contextlib.suppress(OSError, TypeError, ValueError):  # a kept listing only saves time
        text = json.dumps(kept)
        with contextlib.suppress(OSError, ValueError):
            if path.read_text() == text:
                return
        make_folder(path.parent)
        write_atomically(path, text)
