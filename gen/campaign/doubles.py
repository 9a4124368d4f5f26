"""Finds what a suite lists twice, and entries of its tables that are of no snapshot.

A galaxy that is there twice could be in a test once, and in training once more.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from kinmass.gen.campaign.listing import Listing
from kinmass.gen.catalogues.base import Halo, centres_kpc
from kinmass.gen.catalogues.table import named_by
from kinmass.gen.formats import SnapshotError
from kinmass.gen.storage.suite_group import SAME_PLACE_KPC
from kinmass.gen.suite import Suite, SuiteError
from kinmass.gen.words import counted, few

#: Scale factors, or times, that differ by a smaller share are of one time: runs write theirs at slightly other ones.
SAME_TIME = 1e-3
#: Galaxies of runs from the same initial conditions lie within so far of each other [kpc], and a quarter of the
#: distance to the next of their own run. Of unrelated runs one in a hundred does; so many, and this share, do not.
SAME_ORIGIN_KPC, OF_NEXT, FEWEST_SHARED, SHARED = 200.0, 0.25, 5, 0.2
#: At most so many galaxies of a snapshot are looked for in at most so many others, those listed before it.
MOST_COMPARED, MOST_RUNS = 200, 64
_REMEDY = "one could be in a test and the other in training"


def said(suite: Suite, listings: Mapping[Path, Listing]) -> list[str]:
    """Say what is likely a mistake of the user's: copies of snapshots, galaxies that are there twice, rows of nobody.

    Raises SuiteError where one catalogue gives several snapshots the same galaxies.
    """
    lines = rows_of_none(suite, listings)
    _check_catalogues(suite, listings)
    lines += not_looked_into(suite)
    if copies := _copies(suite, listings):
        more = f", and {len(copies) - 1} more are copies" if len(copies) > 1 else ""
        lines.append(f"{copies[0]}{more}: {_REMEDY}; let `snapshots` match one, or give both the same `lineage`")
    facts = [listing.facts for listing in listings.values() if listing.facts is not None]
    haloes = [halo for listing in listings.values() for _, halo, _ in listing.entries if halo is not None]
    lines += filter(None, [of_several_times(suite, facts, haloes), of_no_rank(suite, haloes)])
    for path, listing in listings.items():
        if place := at_one_place(suite, path, [halo for _, halo, _ in listing.entries if halo is not None]):
            lines.append(place)
    return lines


def not_looked_into(suite: Suite) -> list[str]:
    """Say which folders with snapshots, or that may have some, `snapshots` does not lead into."""
    closed, links = (few(paths) for paths in (suite.closed_folders(), suite.unfollowed_links()))
    lines = [f"{closed} cannot be looked into (permission denied): snapshots in there are left out"] if closed else []
    if links:
        lines.append(
            f"{links}: `**` does not follow links, and snapshots in there are left out; write the folders of "
            "`snapshots` as `*`, or give these as a suite of their own"
        )
    return lines


def rows_of_none(suite: Suite, snapshots: Iterable[Path]) -> list[str]:
    """Say which entries of a table's column `snapshot` name none of the suite's snapshots, and which have no row.

    Raises SuiteError for an entry that names two of them.
    """
    tables = _shared_tables(suite, snapshots)
    _check_entries(suite, tables)
    return _unmatched(tables)


@dataclass(frozen=True)
class _Shared:
    """A table that several snapshots share, and which of them each entry of its column `snapshot` names."""

    snapshots: frozenset[Path]
    by_entry: dict[str, list[Path]]


def _shared_tables(suite: Suite, snapshots: Iterable[Path]) -> dict[Path, _Shared]:
    """Return the tables that several snapshots share; those of one each, of which are thousands, are not read again."""
    snapshots_by_table: dict[Path, set[Path]] = {}
    for path in snapshots if suite.catalogue.format == "table" else ():
        with contextlib.suppress(SuiteError):  # its listing says what is wrong
            if table := suite.catalogue_path(path):
                snapshots_by_table.setdefault(table, set()).add(path)
    shared = {}
    for table, of_table in snapshots_by_table.items():
        with contextlib.suppress(SnapshotError):  # as above
            if len(of_table) > 1:
                shared[table] = _Shared(frozenset(of_table), named_by(table, of_table))
    return shared


def _check_entries(suite: Suite, tables: Mapping[Path, _Shared]) -> None:
    """Raise SuiteError where an entry of a table names two snapshots."""
    for table, shared in tables.items():
        for name, named in shared.by_entry.items():
            if len(named) > 1:
                raise SuiteError(
                    f"suite {suite.name}: {table}: `snapshot` {name} names {named[0]} and {named[1]} alike; write the "
                    "ends of their paths there, as far as they differ"
                )


def _check_catalogues(suite: Suite, listings: Mapping[Path, Listing]) -> None:
    """Raise SuiteError where one catalogue gives several snapshots the same galaxies, of which each is in one of them.

    Snapshots of one isolated galaxy at several times may share a catalogue of one entry, where that says no snapshot.
    """
    if len(listings) < 2 or suite.catalogue.path is None:
        return
    first_by_ends: dict[tuple[object, ...], Path] = {}
    haloes_of = {path: [halo for _, halo, _ in of.entries if halo is not None] for path, of in listings.items()}
    for path, haloes in haloes_of.items():
        ends = [(h.name, h.centre_kpc is not None and h.centre_kpc.tobytes()) for h in (*haloes[:1], *haloes[-1:])]
        if len(haloes) < 2 or (first := first_by_ends.setdefault((len(haloes), *ends), path)) == path:
            continue
        if _are_same(haloes, haloes_of[first]) and (
            (catalogue := suite.catalogue_path(path)) == suite.catalogue_path(first)
        ):
            raise SuiteError(
                f"suite {suite.name}: {catalogue} lists the same {len(haloes)} galaxies for {first} and {path}; give "
                "a table a column `snapshot`, or each snapshot a catalogue of its own, beside it or by {name}, {stem} "
                "or {number} in `catalogue.path`"
            )


def _unmatched(tables: Mapping[Path, _Shared]) -> list[str]:
    lines = []
    for table, shared in tables.items():
        if names := [name for name, named in shared.by_entry.items() if not named]:
            lines.append(
                f"{table}: `snapshot` {few(names)} is none of the {counted(len(shared.snapshots), 'snapshot')} that "
                "`snapshots` matches: these rows are left out; write a file's name or number"
            )
        named = {snapshot for of_name in shared.by_entry.values() for snapshot in of_name}
        if shared.by_entry and (without := sorted(shared.snapshots - named)):
            lines.append(
                f"{table}: no row is of {few(without)}: nothing is mapped from {'it' if len(without) == 1 else 'them'}"
            )
    return lines


def _copies(suite: Suite, listings: Mapping[Path, Listing]) -> list[str]:
    """Say which snapshots are copies of others and give the same galaxies other lineages."""
    first_by_content: dict[str, Path] = {}
    copies = []
    for path, listing in listings.items():
        first = first_by_content.setdefault(listing.content or str(path), path)
        haloes, its_haloes = ([halo for _, halo, _ in listings[p].entries if halo is not None] for p in (path, first))
        if first == path or not _are_same(haloes, its_haloes):
            continue
        lineages = {suite.lineage_of(suite.galaxy_name(p, haloes[0].name), haloes[0].lineage) for p in (path, first)}
        copies += [f"{path} is a copy of {first.name}"] if len(lineages) > 1 else []
    return copies


def in_two_suites(listed: Sequence[tuple[Suite, Mapping[Path, Listing]]]) -> list[str]:
    """Say for each two suites which galaxies of the same snapshots have other lineages in one than in the other.

    So it is where snapshots were moved, or `root` was changed, and the suite was given another name.
    """
    by_content: dict[str, list[tuple[Suite, Listing]]] = {}
    for suite, listings in listed:
        for listing in listings.values():
            if listing.content:
                by_content.setdefault(listing.content, []).append((suite, listing))
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for alike in by_content.values():
        for (suite, listing), (other, its_listing) in combinations(alike, 2):
            if suite.name != other.name:
                found = _under_two_lineages(suite, listing, other, its_listing)
                pairs.setdefault((suite.name, other.name), []).extend(found)
    return [
        f"{suite} and {other} have {counted(len(names), 'galaxy', 'galaxies')} of the same snapshots under other "
        f"lineages, the first as {names[0][0]} and {names[0][1]}: {_REMEDY}; keep one of the two suites, or give both "
        "a `lineage` that finds the same in both names"
        for (suite, other), names in pairs.items()
        if names
    ]


def _under_two_lineages(suite: Suite, listing: Listing, other: Suite, its_listing: Listing) -> list[tuple[str, str]]:
    """Return the names in both suites of a snapshot's galaxies that lie at one place and have other lineages."""
    galaxies = [
        (of, name, halo)
        for of, entries in ((suite, listing.entries), (other, its_listing.entries))
        for name, halo, _ in entries
        if halo is not None
    ]
    n_first = sum(of is suite for of, _, _ in galaxies)

    def lineage(number: int) -> str:
        """Return a galaxy's lineage in its suite."""
        of, name, halo = galaxies[number]
        return of.lineage_of(name, halo.lineage)

    if any(halo.centre_kpc is None for _, _, halo in galaxies):
        # Without a catalogue a snapshot is one galaxy, whose place is not known yet: it may be any of the other's.
        firsts, others = ({lineage(i) for i in of} for of in (range(n_first), range(n_first, len(galaxies))))
        pairs = [(0, n_first)] if firsts and others and firsts.isdisjoint(others) else []
    else:
        pairs = pairs_within(centres_kpc(halo.centre_kpc for _, _, halo in galaxies), SAME_PLACE_KPC)
    across = [(i, j) for i, j in pairs if i < n_first <= j and lineage(i) != lineage(j)]
    return [(galaxies[i][1], galaxies[j][1]) for i, j in across]


def of_one_origin(listed: Sequence[tuple[Suite, Mapping[Path, Listing]]]) -> list[str]:
    """Say which suites have runs from the same initial conditions whose galaxies are of other lineages.

    So are the runs of CAMELS's 1P set, EAGLE's variations, and the CV sets of two codes: a halo of one is in the
    others, at nearly the same place.
    """
    by_box: dict[tuple[str, str], list[tuple[Suite, Path, Listing]]] = {}
    for suite, listings in listed:
        for path, listing in listings.items():
            facts = listing.facts or {}
            if facts.get("box", "none") != "none" and len(listing.entries) >= FEWEST_SHARED:
                by_box.setdefault((facts["box"], f"{float(facts['a']):.3f}"), []).append((suite, path, listing))
    pairs: dict[tuple[str, str], list[tuple[_Run, _Run, int]]] = {}
    for of_box in by_box.values():
        runs = [_Run.of(*one) for one in of_box] if len(of_box) > 1 else []
        for i, run in enumerate(runs):
            # The first that it is like will do: of a hundred runs that are all alike each is told once.
            alike = ((first, run, first.shared_with(run)) for first in runs[max(i - MOST_RUNS, 0) : i])
            if found := next((pair for pair in alike if pair[2]), None):
                pairs.setdefault((found[0].suite.name, run.suite.name), []).append(found)
    lines = []
    for of_pair in pairs.values():
        first, run, n = of_pair[0]
        more = f", and so is {counted(len(of_pair) - 1, 'more snapshot')}" if len(of_pair) > 1 else ""
        lines.append(
            f"{run.path} ({run.suite.name}) looks like a run from the initial conditions of {first.path} "
            f"({first.suite.name}), with {n} of {counted(run.n_compared(first), 'galaxy', 'galaxies')} at one place"
            f"{more}: {_REMEDY}; keep one of them, or give a `lineage` that finds the same in the names of both"
        )
    return lines


@dataclass(frozen=True)
class _Run:
    """A snapshot's galaxies of known places: their numbers in its listing, and a tree of these places [kpc]."""

    suite: Suite
    path: Path
    listing: Listing
    numbers: np.ndarray
    tree: cKDTree

    @classmethod
    def of(cls, suite: Suite, path: Path, listing: Listing) -> "_Run":
        """Take what a snapshot's listing has."""
        places = centres_kpc(None if halo is None else halo.centre_kpc for _, halo, _ in listing.entries)
        numbers = np.flatnonzero(np.isfinite(places).all(axis=1))
        return cls(suite, path, listing, numbers, cKDTree(places[numbers]))

    def n_compared(self, other: "_Run") -> int:
        """Return how many galaxies of the run that has fewer are looked for in the other."""
        n = min(self.tree.n, other.tree.n)
        return len(range(0, n, -(-n // MOST_COMPARED))) if n else 0

    def shared_with(self, other: "_Run") -> int:
        """Return how many galaxies both have under other lineages; 0 where they are no more than chance has it.

        Copies of one snapshot are told elsewhere.
        """
        if (n_compared := self.n_compared(other)) < FEWEST_SHARED or (
            self.listing.content and self.listing.content == other.listing.content
        ):
            return 0
        fewer, more = (self, other) if self.tree.n <= other.tree.n else (other, self)
        chosen = np.arange(0, fewer.tree.n, -(-fewer.tree.n // MOST_COMPARED))
        distance_kpc, nearest = more.tree.query(fewer.tree.data[chosen], distance_upper_bound=SAME_ORIGIN_KPC)
        if np.count_nonzero(np.isfinite(distance_kpc)) < max(FEWEST_SHARED, SHARED * n_compared):
            return 0
        next_kpc = fewer.tree.query(fewer.tree.data[chosen], k=2)[0][:, 1]
        near = distance_kpc < OF_NEXT * next_kpc
        places = zip(chosen[near].tolist(), nearest[near].tolist(), strict=True)
        n = sum(fewer._lineage(i) != more._lineage(j) for i, j in places)
        return n if n >= max(FEWEST_SHARED, SHARED * n_compared) else 0

    def _lineage(self, row: int) -> str:
        name, halo, _ = self.listing.entries[self.numbers[row]]
        return self.suite.lineage_of(name, halo.lineage if halo else None)


def _are_same(haloes: Sequence[Halo], others: Sequence[Halo]) -> bool:
    """Tell whether two lists of haloes, not empty, have the same names and places."""
    places, other_places = (centres_kpc(halo.centre_kpc for halo in some) for some in (haloes, others))
    same_names = [halo.name for halo in haloes] == [halo.name for halo in others]
    return bool(haloes) and same_names and np.array_equal(places, other_places, equal_nan=True)


def of_no_rank(suite: Suite, haloes: Sequence[Halo]) -> str:
    """Say that a finder's catalogue does not tell the centrals that are asked for from satellites; "" where it does.

    So it is with Rockstar's own lists: a satellite passes for a central. Who writes a table has chosen its galaxies.
    """
    is_asked = suite.selection.which == "central" and suite.catalogue.format not in ("none", "table")
    if not is_asked or len(haloes) < 2 or any(halo.central is not None for halo in haloes):
        return ""
    return (
        "its catalogue does not tell centrals from satellites, and all count as centrals; Rockstar's `find_parents` "
        "adds the column PID, which tells them, or say `which: all`"
    )


def of_several_times(suite: Suite, facts: Sequence[Mapping[str, str]], haloes: Iterable[Halo]) -> str:
    """Say that a suite has snapshots of several times, and nothing tells which galaxies are one; "" where it is told.

    facts: those of each snapshot, of which earlier versions kept no time. A galaxy changes little from one output to
    the next, and each is on a side of the split by its name.
    """
    spans = {
        word: sorted({float(of_one[fact]) for of_one in facts if of_one.get(fact)})
        for fact, word in (("a", "a ="), ("time", "Time"))
    }
    apart = [
        f"{word} {times[0]:.4g} to {times[-1]:.4g}"
        for word, times in spans.items()
        if times and times[-1] - times[0] > SAME_TIME * times[-1]
    ]
    if not apart or suite.lineage is not None or any(halo.lineage is not None for halo in haloes):
        return ""
    return (
        f"its snapshots are of several times ({apart[0]}), and no `lineage` says which of "
        f"their galaxies are one: {_REMEDY}; give `lineage`, an expression that finds what is the same in their names"
    )


def at_one_place(suite: Suite, path: Path, haloes: Sequence[Halo]) -> str:
    """Say which two of a snapshot's galaxies lie at one place and have other lineages; "" for none."""
    pairs = [
        (haloes[i].name, haloes[j].name)
        for i, j in pairs_within(centres_kpc(halo.centre_kpc for halo in haloes), SAME_PLACE_KPC)
        if len({suite.lineage_of(suite.galaxy_name(path, haloes[k].name), haloes[k].lineage) for k in (i, j)}) > 1
    ]
    if not pairs:
        return ""
    more = f", and so are {counted(len(pairs) - 1, 'more pair')}" if len(pairs) > 1 else ""
    return (
        f"{path}: {pairs[0][0]} and {pairs[0][1]} are at one place{more}: {_REMEDY}; take one out of the catalogue, or "
        "give both the same `lineage`"
    )


def pairs_within(pos_kpc: np.ndarray, distance_kpc: float) -> list[tuple[int, int]]:
    """Return each two of the places (N, 3), by their numbers, at most a distance apart along each axis."""
    order = np.argsort(pos_kpc[:, 0])
    ordered, pairs = pos_kpc[order], []
    for step in range(1, len(order)):
        apart = np.abs(ordered[step:] - ordered[:-step])
        if not np.any(apart[:, 0] <= distance_kpc):
            break
        for k in np.flatnonzero(np.all(apart <= distance_kpc, axis=1)).tolist():
            i, j = sorted((int(order[k]), int(order[k + step])))
            pairs.append((i, j))
    return sorted(pairs)
