"""Draws one galaxy of a store: its maps, its true profile, and what networks say of it beside the truth."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinmass.eval.gallery.stored import Answer, StoredGalaxy
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.look.picture import (
    QUANTITIES,
    TRACER_COLOUR,
    density_unit,
    draw_map,
    draw_profile,
    plain_radii,
)
from kinmass.gen.storage.store import TRACERS
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD

_STYLES = ("-", "--", ":", "-.")


def map_figure(galaxy: StoredGalaxy, view: int, channel: int, instrument: Instrument | None) -> Figure:
    """Draw one map alone, for the page."""
    figure = Figure(figsize=(3.9, 3.3))
    _draw_map(figure.subplots(), galaxy, view, channel, instrument)
    figure.subplots_adjust(left=0.02, right=0.87, bottom=0.02, top=0.92)  # all maps of the page are of one size
    return figure


def _draw_map(axis: Axes, galaxy: StoredGalaxy, view: int, channel: int, instrument: Instrument | None) -> None:
    half_width, r_e, fwhm = galaxy.frame_kpc(view, instrument)
    config = galaxy.group.attrs["config"]
    unit = density_unit(config, QUANTITIES[channel].tracer) if channel % 4 == 0 else None
    draw_map(axis, galaxy.maps(view, instrument), channel, half_width, r_e, fwhm, unit)


def profile_figure(galaxy: StoredGalaxy, view: int, answers: Sequence[Answer]) -> Figure:
    """Draw the true profile with medians, and below it what each network's posterior is away from the truth."""
    given = [answer for answer in answers if answer.quantiles is not None]
    figure = Figure(figsize=(6.0, 4.2 + 1.35 * len(given)), layout="constrained")
    draw_answers(figure, galaxy, view, answers)
    return figure


def draw_answers(figure: Figure, galaxy: StoredGalaxy, view: int, answers: Sequence[Answer]) -> None:
    """Draw M(<r) and, a panel for each answer, inferred minus true with 68 and 95 % bands, into a (sub)figure."""
    given = [answer for answer in answers if answer.quantiles is not None]
    truth, r_e = galaxy.view(view).log10_menc[0].numpy(), float(galaxy.view(view).half_mass_radius_kpc[0])
    radii = r_e * np.array(RADII_RE)
    axes = np.atleast_1d(figure.subplots(1 + len(given), 1, height_ratios=[3.4, *[1.25] * len(given)]))
    for i, answer in enumerate(given):
        colour = TRACER_COLOUR[answer.network.tracer]
        # Beside those of the same tracer that came before.
        style = _STYLES[sum(a.network.tracer == answer.network.tracer for a in given[:i]) % len(_STYLES)]
        assert answer.quantiles is not None
        low68, high68, low95, high95, median = answer.quantiles
        line = {"color": colour, "ls": style, "marker": "o", "ms": 3.5}
        axes[0].plot(radii, 10**median, label=f"inferred: {answer.network.label}", **line)
        axis = axes[1 + i]
        axis.fill_between(radii, low95 - truth, high95 - truth, color=colour, alpha=0.2, lw=0)
        axis.fill_between(radii, low68 - truth, high68 - truth, color=colour, alpha=0.4, lw=0)
        axis.plot(radii, median - truth, **line)
        axis.axhline(0, color="k", lw=1)
        widest = max(0.05, float(np.abs(answer.quantiles - truth).max()) * 1.1)
        axis.set(xscale="log", xlim=(radii[0], radii[-1]), ylim=(-widest, widest), ylabel="dex")
        axis.set_title(_summary(answer, truth), loc="left", fontsize="medium")
        plain_radii(axis, float(radii[0]), float(radii[-1]))
        if i < len(given) - 1:
            axis.tick_params(labelbottom=False)
    draw_profile(axes[0], galaxy.radius_kpc, galaxy.mass_msun, [r_e])
    axes[0].axvspan(radii[0], radii[-1], color="k", alpha=0.05, lw=0)
    axes[0].set_title("true mass inside r" + (", and inferred medians" if given else ""), loc="left")
    if given:
        axes[-1].set_xlabel("r [kpc], 0.3 to 3 R$_e$; bands: 68 and 95 %")


def _summary(answer: Answer, truth: np.ndarray) -> str:
    """A network's panel in a line."""
    text = f"{answer.network.label}: inferred - true, rms {answer.rms_dex(truth):.3f} dex"
    if np.isfinite(answer.ood_score):
        strange = " (strange to it)" if answer.ood_score > OOD_THRESHOLD else ""
        text += f", OOD {answer.ood_score:.2f}{strange}"
    return text


def draw(galaxy: StoredGalaxy, view: int, instrument: Instrument | None, answers: Sequence[Answer]) -> Figure:
    """Draw all of one view of a galaxy, for `kinmass show STORE GALAXY`."""
    given = [answer for answer in answers if answer.quantiles is not None]
    figure = Figure(figsize=(16, max(7.0, 4.4 + 1.4 * len(given))), layout="constrained")
    seen = "as stored" if instrument is None else f"through {instrument.name}"
    figure.suptitle(
        f"{galaxy.suite}: {galaxy.name}, view {view} (i = {galaxy.inclination_deg[view]:.0f}$\\degree$, "
        f"R$_e$ = {galaxy.frame_kpc(view)[1]:.3g} kpc), maps {seen}",
        x=0.01, ha="left", fontsize="x-large", fontweight="bold",
    )  # fmt: skip
    left, right = figure.subfigures(1, 2, width_ratios=[1.85, 1], squeeze=False)[0]
    axes = left.subplots(len(TRACERS), 3)
    for axis, channel in zip(axes.flat, QUANTITIES, strict=True):
        _draw_map(axis, galaxy, view, channel, instrument)
    draw_answers(right, galaxy, view, answers)
    if silent := [f"{a.network.label}: no answer, {a.why_not}" for a in answers if a.why_not]:
        left.supxlabel("\n".join(silent), fontsize="medium")
    return figure
