"""`kinmass check`: describes a snapshot, or a suite file and its first snapshot, and ends with a verdict."""

import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np

from kinmass.gen.campaign.doubles import at_one_place, not_looked_into, of_no_rank, of_several_times, rows_of_none
from kinmass.gen.campaign.listing import facts_of, kinds_of, tells_low_resolution
from kinmass.gen.campaign.plan import Task
from kinmass.gen.campaign.record import Refused, Settings, aperture_of
from kinmass.gen.campaign.worker import Worker
from kinmass.gen.catalogues.find import Halo, find_haloes, usable, why_not
from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.formats.recognise import recognised
from kinmass.gen.look.sketch import Sketch, sketch
from kinmass.gen.physics.particles import wrapped
from kinmass.gen.snapshots.alike import differences
from kinmass.gen.suite import Suite, SuiteError, load_suite
from kinmass.gen.words import counted

#: How many galaxies of a suite are listed one by one.
LISTED = 10


def describe(path: Path, format_name: str | None = None) -> list[str]:
    """Describe one snapshot, or a suite file (.yaml) and its first snapshot, in lines of which the last is a verdict.

    Raises SnapshotError when a file cannot be read at all, SuiteError for a suite file that cannot work.
    """
    if not path.exists():
        raise SnapshotError(f"{path}: no such file; check the path")
    if path.suffix in (".yaml", ".yml"):
        return _suite_lines(load_suite(path))
    chosen_format = format_name or recognised(path)
    contents = sketch(path, chosen_format)
    format_note = "" if format_name else " (guessed; --format chooses another)"
    return [*_snapshot_lines(contents, format_note), *_verdict(contents.wrong, contents.odd)]


def _snapshot_lines(contents: Sketch, format_note: str = "") -> list[str]:
    lines = [f"{contents.path}", f"  format      {contents.format}{format_note}"]
    units = contents.units
    if units is not None:
        box = "not periodic" if units.box_kpc is None else f"{units.box_kpc:.6g} kpc, periodic"
        lines += [
            f"  a, h        {units.scale_factor:.6g} (z = {1 / units.scale_factor - 1:.4g}), {units.hubble:.6g}",
            f"  code units  {units.length_kpc:.6g} kpc, {units.mass_msun:.6g} Msun, {units.velocity_kms:.6g} km/s, "
            "a and h included",
            f"              from {units.source}",
            f"  box         {box}",
        ]
    for name, types in contents.components.items():
        mass_and_extent = ""
        if units is not None and len(particles := contents.particles(name)):
            is_whole = all(contents.samples[t].is_whole for t in types if t in contents.samples)
            extent_kpc = (particles.pos_kpc.max(0) - particles.pos_kpc.min(0)).max()
            mass_and_extent = (
                f", {'' if is_whole else 'about '}{particles.mass_msun.sum():.4g} Msun, spans {extent_kpc:.5g} kpc"
            )
        lines.append(
            f"  {name:11s} {contents.count(name):9,d} particles of {'+'.join(types) or 'none'}{mass_and_extent}"
        )
    if units is not None and contents.count("stars") and (found := contents.galaxy()):
        centre_kpc, half_mass_kpc = found
        place = ", ".join(f"{x:.5g}" for x in centre_kpc)
        lines.append(
            f"  one galaxy  if it holds one: at ({place}) kpc, half of its stars within {half_mass_kpc:.4g} kpc"
        )
    return lines


def _verdict(wrong: list[str], odd: list[str]) -> list[str]:
    lines = [f"  wrong       {text}" for text in wrong] + [f"  odd         {text}" for text in odd]
    if wrong:
        return [*lines, f"  verdict     cannot be mapped as it is: {len(wrong)} wrong"]
    return [*lines, "  verdict     can be mapped" + (f"; look at what is odd ({len(odd)})" if odd else "")]


def _suite_lines(suite: Suite) -> list[str]:
    """Describe a suite by its first snapshot: types, units, tracers, catalogue, galaxies, verdict."""
    paths = suite.snapshot_paths()
    first, declared_types = paths[0], suite.particles.model_dump(exclude_none=True)
    units, min_stars = suite.units.model_dump(exclude_none=True), suite.selection.min_stars
    contents = sketch(first, suite.format, declared_types, units, min_stars, suite.tracers)
    lines = [f"suite {suite.name}: {counted(len(paths), 'snapshot')}, of which the first:", *_snapshot_lines(contents)]
    light = f" of {suite.tracers.light_field}" if suite.tracers.light_field else ""
    lines.append(f"  maps show   gas: {suite.tracers.gas}, stars: {suite.tracers.stars}{light}")
    facts = _facts(suite, paths)
    wrong, odd = list(contents.wrong), [*contents.odd, *_disagreements(facts)]
    if contents.units is None:
        return [*lines, *_verdict(wrong, odd)]
    try:
        path = suite.catalogue_path(first)
        haloes = find_haloes(suite.catalogue.format, path, first, contents.units, kinds_of(suite))
        reasons = why_not(haloes, suite.selection, tells_low_resolution(suite))
        odd += [*rows_of_none(suite, paths), *not_looked_into(suite)]
    except (SnapshotError, SuiteError) as error:
        return [*lines, *_verdict([*wrong, str(error)], odd)]
    lines.append(f"  catalogue   {path or 'none: one galaxy, its centre found on its matter'}")
    chosen_haloes = [halo for halo, reason in zip(haloes, reasons, strict=True) if not reason]
    times = of_several_times(suite, [*facts.values()], haloes)
    odd += filter(None, [times, of_no_rank(suite, chosen_haloes), at_one_place(suite, first, chosen_haloes)])
    lines.append(f"  galaxies    {len(chosen_haloes)} of {len(haloes)} pass `selection`")
    lines += [f"              {n} not: {reason}" for reason, n in Counter(filter(None, reasons)).most_common()]
    if not chosen_haloes:
        wrong.append(
            "no galaxy passes `selection`; loosen what the lines above name"
            if haloes
            else "the catalogue lists no galaxy of this snapshot; check `catalogue`"
        )
    listed = chosen_haloes[:LISTED]
    problems = [_find_problem(contents, suite, halo, path) for halo in listed]
    is_tried = _is_whole(contents) and not wrong
    without = [halo for halo, problem in zip(listed, problems, strict=True) if not problem]
    tried = iter(_try_to_map(contents, suite, without) if is_tried else [""] * len(without))
    reasons = [problem or next(tried) for problem in problems]
    fine = "ok" if is_tried else "nothing found wrong, not mapped here"
    galaxies_by_reason: dict[str, list[str]] = defaultdict(list)
    for halo, reason in zip(listed, reasons, strict=True):
        lines.append(f"              {suite.galaxy_name(first, halo.name)}  {reason or fine}")
        galaxies_by_reason[reason].append(halo.name)
    works = galaxies_by_reason.pop("", None) is not None and not any(problems)  # for others than these
    (odd if works else wrong).extend(f"galaxy {', '.join(names)}: {why}" for why, names in galaxies_by_reason.items())
    if len(chosen_haloes) > LISTED:
        lines.append(f"              and {len(chosen_haloes) - LISTED} more; `kinmass maps --dry-run` lists all")
    return [*lines, *_verdict(wrong, odd)]


def _facts(suite: Suite, snapshots: list[Path]) -> dict[Path, dict[str, str]]:
    """Read from each snapshot what all of a suite should agree on."""
    facts_by_snapshot = {}
    for path in snapshots:
        with suppress(SnapshotError):  # one that cannot be read fails by itself when it is mapped
            units = FORMATS[suite.format].units(path, suite.units.model_dump(exclude_none=True))
            facts_by_snapshot[path] = facts_of(suite, path, units)
    return facts_by_snapshot


def _disagreements(facts_by_snapshot: dict[Path, dict[str, str]]) -> list[str]:
    """Say what the headers of a suite's snapshots do not agree on, in at most one line."""
    return (
        [f"its snapshots do not agree; if that is not meant, mend or leave out some: {difference}"]
        if (difference := differences(facts_by_snapshot))
        else []
    )


def _is_whole(contents: Sketch) -> bool:
    """Tell whether a snapshot is so small that it was sampled whole, and its galaxies can be mapped in a moment."""
    return all(sample.is_whole for sample in contents.samples.values())


def _try_to_map(contents: Sketch, suite: Suite, haloes: list[Halo]) -> list[str]:
    """Say of each galaxy why it could not be mapped, "" where nothing is wrong: it is mapped, and forgotten."""
    with tempfile.TemporaryDirectory(prefix="kinmass-") as folder:
        worker = Worker(Path(folder), Settings(pixels=4))
        try:
            tasks = [Task(suite, 0, suite.galaxy_name(contents.path, h.name), contents.path, h) for h in haloes]
            reasons = [worker.attempt(task)[1] for task in tasks]
        finally:
            worker.close()
    return [reason.removeprefix(f"{contents.path}: ") for reason in reasons]


def _find_problem(contents: Sketch, suite: Suite, halo: Halo, path: Path | None) -> str:
    """Say why one galaxy could not be mapped, as far as a sample of the stars can tell; "" where nothing is wrong."""
    usable_halo, problem = usable(halo, path)
    if usable_halo is None or problem:
        return problem
    box_kpc = contents.units.box_kpc if contents.units is not None else None
    try:
        aperture_kpc = aperture_of(suite.aperture, halo.r200_kpc, box_kpc)
    except Refused as error:
        return str(error)
    if halo.centre_kpc is None or contents.units is None or not contents.count("stars"):
        return ""
    r_kpc = np.linalg.norm(wrapped(contents.particles("stars").pos_kpc - halo.centre_kpc, box_kpc), axis=1)
    sampled_share = len(r_kpc) / contents.count("stars")
    # A small sample may have no star within by chance; where more than five are expected that is not likely.
    if not (r_kpc <= aperture_kpc).any() and sampled_share * (halo.n_stars or suite.selection.min_stars) > 5:
        return (
            f"no star lies within its aperture of {aperture_kpc:.4g} kpc, the nearest {r_kpc.min():.4g} kpc from its "
            "centre; is the catalogue another snapshot's, or in other units? Check `catalogue`"
        )
    return ""
