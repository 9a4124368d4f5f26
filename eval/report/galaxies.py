"""Draw galaxies: observed maps with inferred profiles, and which parts of the maps carry the information."""

from collections.abc import Container, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from kinmass.eval.report.figures import COLOUR
from kinmass.gen.look.picture import QUANTITIES, density_unit, draw_map, plain_radii
from kinmass.train.run.intervals import SHARES, quantiles


def _name(channel: int) -> str:
    """A channel's tracer and symbol, of a density that of itself rather than of its logarithm."""
    return QUANTITIES[channel].title("").replace("log ", "")


def examples(
    observed: np.ndarray, radii_kpc: np.ndarray, truth: np.ndarray,
    samples: dict[str, np.ndarray], names: Sequence[str], half_width_kpc: np.ndarray,
    configs: Sequence[dict[str, Any]],
) -> Figure:  # fmt: skip
    """Draw observed maps (N, 8, P, P) and, beside them, true (N, K) and inferred (S, N, K) profiles, a row per view.

    radii_kpc (N, K); profiles are log10 M(<r) [Msun], samples by tracer; half_width_kpc (N,) of the maps;
    configs (N,) of their suites, which say in what units their densities are.
    """
    figure = plt.figure(figsize=(20, 3.0 * len(names)), layout="constrained")
    for i, row in enumerate(figure.subfigures(len(names), 1, squeeze=False)[:, 0]):
        row.suptitle(names[i], x=0.01, ha="left", fontsize=12)
        axes = row.subplots(1, 8, width_ratios=[1] * 6 + [1.25] * 2)
        for axis, channel in zip(axes, QUANTITIES, strict=False):
            unit = density_unit(configs[i], QUANTITIES[channel].tracer) if channel % 4 == 0 else None
            draw_map(axis, observed[i], channel, float(half_width_kpc[i]), unit=unit)
            axis.title.set_fontsize(9.5)  # or the first is wider than its map, and cut off at the figure's edge
        profile, error = axes[6:]
        for tracer, tracer_samples in samples.items():
            low, middle, high = quantiles(tracer_samples[:, i], [SHARES[0], 0.5, SHARES[1]])
            for axis, zero in ((profile, 0.0), (error, truth[i])):
                axis.fill_between(radii_kpc[i], low - zero, high - zero, color=COLOUR[tracer], alpha=0.25, lw=0)
                axis.plot(radii_kpc[i], middle - zero, color=COLOUR[tracer], label=tracer)
        profile.plot(radii_kpc[i], truth[i], "k--", label="true")
        error.axhline(0, color="k", ls="--", lw=1)
        profile.set(title="profile, 68 % bands", ylabel="log$_{10}$ M(<r) [M$_\\odot$]")
        error.set(title="inferred - true", ylabel="log$_{10}$ M / M$_{true}$ [dex]")
        for axis in (profile, error):
            axis.set_xlabel("r [kpc]")
            plain_radii(axis, float(radii_kpc[i, 0]), float(radii_kpc[i, -1]))
        profile.legend(frameon=False, fontsize=8)
    return figure


def saliency(attributions: np.ndarray, radii_re: np.ndarray, field_of_view_re: float) -> tuple[Figure, Figure]:
    """Draw the mean |attribution| per pixel at three radii, and each channel's share at every radius.

    attributions (N, R, 8, P, P) [dex] of log10 M(<r) at the radii radii_re (R,) [R_e]; field_of_view_re: side of the
    maps [R_e].
    """
    mean_size = np.abs(attributions).mean(0)
    rows = [0, len(radii_re) // 2, len(radii_re) - 1]
    channels = [c for c in QUANTITIES if mean_size[:, c].any()]
    maps, axes = plt.subplots(
        len(rows), len(channels), figsize=(2.2 * len(channels) + 0.8, 2.2 * len(rows) + 0.5), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    extent = 0.5 * field_of_view_re * np.array([-1, 1, -1, 1])
    for i, r in enumerate(rows):
        limit = mean_size[r].max()
        for j, channel in enumerate(channels):
            axis = axes[i, j]
            scale = PowerNorm(0.5, 0, 1e3 * limit)  # shows the outskirts, which are faint but have many pixels
            image = axis.imshow(1e3 * mean_size[r, channel], origin="lower", extent=extent, cmap="magma", norm=scale)
            axis.add_patch(plt.Circle((0, 0), radii_re[r], fill=False, color="w", lw=1, ls="--"))
            if i == 0:
                axis.set_title(_name(channel))
        axes[i, 0].set_ylabel(f"M(<{radii_re[r]:.2g} R$_e$)\ny / R$_e$")
        maps.colorbar(image, ax=axes[i], fraction=0.03, label="mean |attribution| [10$^{-3}$ dex]")
    for axis in axes[-1]:
        axis.set_xlabel("x / R$_e$")
    bars, axis = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    share = mean_size.sum((2, 3))
    share = share / share.sum(1, keepdims=True)
    bottom, positions = np.zeros(len(radii_re)), np.arange(len(radii_re))
    for channel in channels:
        tracer, hatch = ("stars", "gas")[channel // 4], ("", "///", "...")[channel % 4]
        style: dict[str, Any] = {"color": COLOUR[tracer], "hatch": hatch, "edgecolor": "w", "width": 0.9}
        axis.bar(positions, share[:, channel], bottom=bottom, label=_name(channel), **style)
        bottom += share[:, channel]
    axis.set(xlabel="r / R$_e$ of the enclosed mass", ylabel="share of the attribution", ylim=(0, 1))
    axis.set_xticks(positions, [f"{r:.2g}" for r in radii_re])
    upwards = [x[::-1] for x in axis.get_legend_handles_labels()]
    axis.legend(*upwards, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return maps, bars


def observed_profile(
    observed: np.ndarray, half_width_kpc: float, radius_kpc: np.ndarray, quantiles: np.ndarray,
    tilted_ring: np.ndarray, title: str, calibrated: Container[str],
) -> Figure:  # fmt: skip
    """Draw the maps (8, Q, Q) of one observed galaxy and its profile of log10 M(<r) [Msun] at radius_kpc (K,).

    quantiles (5, K): those of the posterior at SHARES. tilted_ring (K,): rotation curve of the gas, NaN where there
    is none. calibrated: tracers whose densities are in Msun/kpc^2; others have no unit.
    """
    tracers = [start for start in (0, 4) if observed[start + 3].any()]
    figure = plt.figure(figsize=(14, 3.4 * len(tracers) + 0.4), layout="constrained")
    figure.suptitle(title)
    maps, right = figure.subfigures(1, 2, width_ratios=[3, 1.4], squeeze=False)[0]
    axes = maps.subplots(len(tracers), 3, squeeze=False)
    for row, start in zip(axes, tracers, strict=True):
        for axis, channel in zip(row, range(start, start + 3), strict=True):
            seen = observed[channel][observed[start + 3] > 0]
            missing = "not measured" if channel == start + 2 and not observed[channel].any() else ""
            if channel == start and len(np.unique(seen)) == 1:  # one everywhere stands for what is not known
                missing = "not shown to the network:\nnot measured, or in no unit of mass"
            if missing:
                axis.text(0.5, 0.5, missing, ha="center", va="center", fontsize=8, transform=axis.transAxes)
                axis.set(title=QUANTITIES[channel].title(), xticks=[], yticks=[])
                continue
            images = observed
            if channel == start + 1:  # its own motion is not known as well as what moves in it
                images = observed.copy()
                images[channel] -= np.median(images[channel][observed[start + 3] > 0])
            has_unit = channel != start or QUANTITIES[channel].tracer in calibrated
            draw_map(axis, images, channel, half_width_kpc, unit=None if has_unit else "any unit")
    axis = right.subplots()
    low68, high68, low95, high95, median = quantiles
    axis.fill_between(radius_kpc, low95, high95, color=COLOUR["both"], alpha=0.2, lw=0, label="95 %")
    axis.fill_between(radius_kpc, low68, high68, color=COLOUR["both"], alpha=0.4, lw=0, label="68 %")
    axis.plot(radius_kpc, median, color=COLOUR["both"], label="median")
    if np.isfinite(tilted_ring).any():
        axis.plot(radius_kpc, tilted_ring, "k.--", label="rotation curve of the gas")
    axis.set(xlabel="r [kpc]", ylabel="log$_{10}$ M(<r) [M$_\\odot$]")
    plain_radii(axis, float(radius_kpc[0]), float(radius_kpc[-1]))
    axis.legend(frameon=False, fontsize=8)
    return figure
