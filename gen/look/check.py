"""`kinmass check`: a snapshot, or a suite file and the first snapshot it leads to, in words and a verdict."""

from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from kinmass.gen.campaign.plan import facts_of
from kinmass.gen.catalogues.find import Halo, find_haloes, usable, why_not
from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.formats.recognise import recognised
from kinmass.gen.look.sketch import Sketch, sketch
from kinmass.gen.snapshots.alike import differences
from kinmass.gen.suite import Suite, SuiteError, load_suite

#: Galaxies of a suite that are listed one by one.
LISTED = 10


def describe(path: Path, format_name: str | None = None) -> list[str]:
    """Lines about one snapshot, or about a suite file (.yaml) and its first snapshot; the last is a verdict.

    Raises SnapshotError when a file cannot be read at all, SuiteError for a suite file that cannot work.
    """
    if not path.exists():
        raise SnapshotError(f"{path}: no such file; check the path")
    if path.suffix in (".yaml", ".yml"):
        return _suite_lines(load_suite(path))
    chosen = format_name or recognised(path)
    seen = sketch(path, chosen)
    how = "" if format_name else " (guessed; --format chooses another)"
    return [*_snapshot_lines(seen, how), *_verdict(seen.wrong, seen.odd)]


def _snapshot_lines(seen: Sketch, how: str = "") -> list[str]:
    lines = [f"{seen.path}", f"  format      {seen.format}{how}"]
    units = seen.units
    if units is not None:
        box = "not periodic" if units.box_kpc is None else f"{units.box_kpc:.6g} kpc, periodic"
        lines += [
            f"  a, h        {units.scale_factor:.6g} (z = {1 / units.scale_factor - 1:.4g}), {units.hubble:.6g}",
            f"  code units  {units.length_kpc:.6g} kpc, {units.mass_msun:.6g} Msun, {units.velocity_kms:.6g} km/s, "
            "a and h included",
            f"              from {units.source}",
            f"  box         {box}",
        ]
    for name, types in seen.components.items():
        about = ""
        if units is not None and len(p := seen.particles(name)):
            whole = all(seen.samples[t].is_whole for t in types if t in seen.samples)
            extent = (p.pos_kpc.max(0) - p.pos_kpc.min(0)).max()
            about = f", {'' if whole else 'about '}{p.mass_msun.sum():.4g} Msun, spans {extent:.4g} kpc"
        lines.append(f"  {name:11s} {seen.count(name):9,d} particles of {'+'.join(types) or 'none'}{about}")
    if units is not None and seen.count("stars"):
        centre, half = seen.galaxy()
        place = ", ".join(f"{x:.5g}" for x in centre)
        lines.append(f"  one galaxy  if it holds one: at ({place}) kpc, half of its stars within {half:.3g} kpc")
    return lines


def _verdict(wrong: list[str], odd: list[str]) -> list[str]:
    lines = [f"  wrong       {text}" for text in wrong] + [f"  odd         {text}" for text in odd]
    if wrong:
        return [*lines, f"  verdict     cannot be mapped as it is: {len(wrong)} wrong"]
    return [*lines, "  verdict     can be mapped" + (f"; look at what is odd ({len(odd)})" if odd else "")]


def _suite_lines(suite: Suite) -> list[str]:
    """What a suite file makes of its first snapshot: types, units, tracers, catalogue, galaxies."""
    paths = suite.snapshot_paths()
    first, given = paths[0], suite.particles.model_dump(exclude_none=True)
    seen = sketch(first, suite.format, given, suite.units.model_dump(exclude_none=True), suite.selection.min_stars)
    lines = [f"suite {suite.name}: {len(paths)} snapshots, of which the first:", *_snapshot_lines(seen)]
    light = f" of {suite.tracers.light_field}" if suite.tracers.light_field else ""
    lines.append(f"  maps show   gas: {suite.tracers.gas}, stars: {suite.tracers.stars}{light}")
    wrong, odd = list(seen.wrong), [*seen.odd, *_unlike(suite, paths)]
    if seen.units is None:
        return [*lines, *_verdict(wrong, odd)]
    try:
        path = suite.catalogue_path(first)
        haloes = find_haloes(suite.catalogue.format, path, first, seen.units)
        why = why_not(haloes, suite.selection)
    except (SnapshotError, SuiteError) as error:
        return [*lines, *_verdict([*wrong, str(error)], odd)]
    lines.append(f"  catalogue   {path or 'none: one galaxy, its centre found on its matter'}")
    chosen = [halo for halo, reason in zip(haloes, why, strict=True) if not reason]
    lines.append(f"  galaxies    {len(chosen)} of {len(haloes)} would be mapped")
    lines += [f"              {n} not: {reason}" for reason, n in Counter(filter(None, why)).most_common()]
    if not chosen:
        wrong.append("no galaxy passes `selection`")
    for halo in chosen[:LISTED]:
        problem = _doubt(seen, suite, halo, path)
        lines.append(f"              {suite.galaxy_name(first, halo.name)}  {problem or 'ok'}")
        wrong += [f"galaxy {halo.name}: {problem}"] if problem else []
    if len(chosen) > LISTED:
        lines.append(f"              and {len(chosen) - LISTED} more; `kinmass maps --dry-run` lists all")
    return [*lines, *_verdict(wrong, odd)]


def _unlike(suite: Suite, snapshots: list[Path]) -> list[str]:
    """What the headers of a suite's snapshots do not agree on."""
    known = {}
    for path in snapshots:
        with suppress(SnapshotError):  # one that cannot be read is a failure of its own
            units = FORMATS[suite.format].units(path, suite.units.model_dump(exclude_none=True))
            known[path] = facts_of(suite, path, units)
    return [f"its snapshots do not agree, is this meant? {words}"] if (words := differences(known)) else []


def _doubt(seen: Sketch, suite: Suite, halo: Halo, path: Path | None) -> str:
    """What speaks against one galaxy, as far as a sample of the stars can tell."""
    fit, problem = usable(halo, path)
    if fit is None or problem:
        return problem
    if suite.aperture.kpc is None and halo.r200_kpc is None:
        return "the catalogue has no R200 for it; give `aperture: {kpc: ...}`"
    if halo.centre_kpc is None or seen.units is None or not seen.count("stars"):
        return ""
    radius = suite.aperture.kpc or (suite.aperture.r200 or 0.0) * (halo.r200_kpc or 0.0)
    box = seen.units.box_kpc
    offset = seen.particles("stars").pos_kpc - halo.centre_kpc
    r = np.linalg.norm(offset if box is None else offset - box * np.round(offset / box), axis=1)
    share = len(r) / seen.count("stars")
    # Of a sample no star may be within by chance; of five that are expected one is.
    if not (r <= radius).any() and share * (halo.n_stars or suite.selection.min_stars) > 5:
        return (
            f"no star lies within its aperture of {radius:.3g} kpc, the nearest {r.min():.3g} kpc from its centre; "
            "another snapshot's catalogue, or other units?"
        )
    return ""
