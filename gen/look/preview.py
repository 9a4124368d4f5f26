"""`kinmass maps --preview`: draws a few galaxies of a suite as they would be mapped, without a store."""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kinmass.gen.campaign.plan import Task, list_tasks
from kinmass.gen.campaign.record import REACH_RE, Settings
from kinmass.gen.campaign.worker import Worker
from kinmass.gen.constants import G
from kinmass.gen.look.picture import QUANTITIES, density_unit, draw_map, draw_profile
from kinmass.gen.physics.profile import menc_at
from kinmass.gen.storage.store import COMPONENTS
from kinmass.gen.suite import Suite, SuiteError
from kinmass.gen.words import few

#: How many galaxies of a suite are drawn where none is named, and how many of a galaxy's views.
GALAXIES, VIEWS = 3, 3


@dataclass(frozen=True)
class Preview:
    """A galaxy as it would be stored, and its picture; or (both None) the reason why it cannot be mapped."""

    name: str
    record: dict[str, np.ndarray] | None
    figure: Figure | None
    reason: str = ""


def preview(suite: Suite, settings: Settings, names: Sequence[str] = ()) -> list[Preview]:
    """Map some galaxies of a suite, those with `names` or else the first, the middle and the last, and draw them.

    Raises SuiteError for a name that is not in the suite, and for a suite without galaxies.
    """
    tasks, settings = _chosen(list_tasks(suite), names, suite.name), replace(settings, views=min(VIEWS, settings.views))
    previews = []
    # The folder is for yt's indexes of big files.
    with tempfile.TemporaryDirectory() as scratch, closing(Worker(Path(scratch), settings)) as worker:
        for task in tasks:
            record, reason = worker.attempt(task)
            figure = None if record is None else draw(suite, task, record, settings)
            previews.append(Preview(task.name, record, figure, reason))
    return previews


def _chosen(tasks: list[Task], names: Sequence[str], suite: str) -> list[Task]:
    by_name = {task.name: task for task in tasks}
    if unknown := [name for name in names if name not in by_name]:
        raise SuiteError(f"suite {suite} has no galaxy {unknown[0]!r}; `--dry-run` lists all: {few(list(by_name))}")
    if names:
        return [by_name[name] for name in names]
    usable = [task for task in tasks if not task.problem] or tasks
    places = np.linspace(0, len(usable) - 1, min(GALAXIES, len(usable))).round().astype(int)
    return [usable[i] for i in places]


def draw(suite: Suite, task: Task, record: dict[str, np.ndarray], settings: Settings) -> Figure:
    """Draw the maps of a galaxy's first views, a row for each, its true profile, and what tells whether it is right."""
    rows = min(VIEWS, settings.views)
    figure = Figure(figsize=(19.5, 1.0 + 2.5 * max(rows, 3)), layout="constrained")
    figure.suptitle(f"{suite.name}: {task.name}", x=0.01, ha="left", fontsize="x-large", fontweight="bold")
    left, right = figure.subfigures(1, 2, width_ratios=[6, 1.4], squeeze=False)[0]
    axes = left.subplots(rows, len(QUANTITIES), squeeze=False)
    config = {"suite": suite.model_dump(mode="json")}
    for view, row in enumerate(axes):
        r_e_kpc = float(record["half_mass_radius"][view])
        half_width_kpc = 0.5 * settings.pixels * float(record["pixel_scale"][view])
        for axis, channel in zip(row, QUANTITIES, strict=True):
            unit = density_unit(config, QUANTITIES[channel].tracer) if channel % 4 == 0 else None
            draw_map(axis, record["maps"][view], channel, half_width_kpc, r_e_kpc, unit=unit)
        row[0].set_ylabel(f"view {view}, i = {record['inclination'][view]:.0f}$\\degree$\nR$_e$ = {r_e_kpc:.3g} kpc")
    profile, text = right.subplots(2, 1, height_ratios=[1.1, 1])
    draw_profile(profile, record["radius"], record["mass"], record["half_mass_radius"][:rows])
    text.axis("off")
    text.text(0, 1, "\n".join(facts(record)), va="top", linespacing=1.5, transform=text.transAxes)
    return figure


def facts(record: dict[str, np.ndarray]) -> list[str]:
    """Say in lines what tells an astronomer whether centre, units, mass and resolution of a galaxy are right."""
    centre = ", ".join(f"{x:.5g}" for x in record["centre"])
    found = "found on its matter" if record["centre_found"] else "of the catalogue"
    radius, mass, r_e = record["radius"], record["mass"], float(record["half_mass_radius"][0])
    log_mass = menc_at(radius, mass[0], np.array([REACH_RE * r_e]))[0]
    speed_kms = np.sqrt(G * 10**log_mass / (REACH_RE * r_e))
    lines = [
        f"centre ({centre}) kpc,\n    {found}",
        f"its stars end at {record['stars_radius']:.4g} kpc,\n    maps hold {record['map_radius']:.4g} kpc",
        f"inside {radius[-1]:.4g} kpc (aperture) [M$_\\odot$]:",
        *(f"    {c} {m:.3g}" for c, m in zip(COMPONENTS[1:], mass[1:, -1], strict=True)),
        f"circular speed at {REACH_RE:g} R$_e$: {speed_kms:.0f} km/s",
        f"on view 0's map {record['maps'][0, 3].sum():,.0f} stars,",
        f"    {record['maps'][0, 7].sum():,.0f} gas particles",
        f"pixel {record['pixel_scale'][0]:.3g} kpc; dashed circle: R$_e$",
    ]
    if not record["has_dark"]:
        lines.append("no dark matter: the truth is stars and gas alone")
    return lines
