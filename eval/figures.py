"""The paper's figures from the evaluation table and a few example galaxies."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from eval.tables import ALL

#: Colour-blind safe (Okabe & Ito 2008), the same for a tracer in every figure.
COLOUR = {"gas": "#0072B2", "stars": "#D55E00", "both": "#009E73", "wolf2010": "#555555"}
_RADIUS = "r / R$_e$"


def _radius_axis(axis: Axes, ticks: Sequence[float] = (0.3, 0.5, 1, 2, 3)) -> None:
    """Logarithmic radius with a few plain labels."""
    axis.set_xscale("log")
    axis.set_xticks(list(ticks), labels=[f"{x:g}" for x in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())


def _label(row: pd.Series) -> str:
    if row.estimator == "wolf2010":
        return "Wolf+10 (stars)"
    return f"{row.tracer} (one network for any)" if row.estimator == "cnn-any" else str(row.tracer)


def joint_training(table: pd.DataFrame) -> str:
    """The training set with most suites: the one whose tracers are compared."""
    return max(table.loc[table.train != "", "train"].unique(), key=lambda t: (t.count("+"), t))


def against_radius(table: pd.DataFrame, instrument: str, test: str) -> Figure:
    """Dispersion (top) and bias (bottom) against radius for each tracer, with bootstrap intervals."""
    train = joint_training(table)
    here = table[(table.instrument == instrument) & (table.test == test)]
    here = here[(here.train == "") | (here.train == train)]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.2, 6), sharex=True, layout="constrained")
    for (estimator, tracer), rows in here.groupby(["estimator", "tracer"]):
        colour = COLOUR[estimator if estimator in COLOUR else tracer]
        line = "o--" if estimator == "cnn-any" else "o-"
        label = _label(rows.iloc[0])
        for axis, name in ((top, "dispersion"), (bottom, "bias")):
            if len(rows) == 1:
                row = rows.iloc[0]
                error = [[row[name] - row[f"{name}_lo"]], [row[f"{name}_hi"] - row[name]]]
                axis.errorbar(row.radius, row[name], error, fmt="D", color=colour, label=label)
            else:
                axis.plot(rows.radius, rows[name], line, ms=3.5, color=colour, label=label)
                axis.fill_between(rows.radius, rows[f"{name}_lo"], rows[f"{name}_hi"], color=colour, alpha=0.18, lw=0)
    top.set(ylabel="dispersion [dex]", title=f"tested on {test}, instrument {instrument}")
    top.set_ylim(0, 1.3 * top.get_ylim()[1])  # room for the legend
    top.legend(frameon=False, ncols=2, loc="upper left")
    bottom.axhline(0, color="k", lw=0.8)
    bottom.set(xlabel=_RADIUS, ylabel="bias [dex]")
    _radius_axis(bottom)
    return figure


def train_by_test(summary: pd.DataFrame, instrument: str, tracer: str = "both") -> Figure:
    """Matrices of dispersion, bias and 68 % coverage: trained on (rows), tested on (columns)."""
    here = summary[(summary.estimator == "cnn") & (summary.instrument == instrument) & (summary.tracer == tracer)]
    here = here[here.test != ALL]
    rows = sorted(here.train.unique(), key=lambda t: (t.count("+"), t))
    columns = sorted(here.test.unique())
    figure, axes = plt.subplots(1, 3, figsize=(12, 0.75 * len(rows) + 2.2), layout="constrained")
    shown = (("dispersion", "dispersion [dex]", "viridis"), ("bias", "bias [dex]", "RdBu_r"),
             ("coverage_68", "68 % coverage", "cividis"))  # fmt: skip
    for axis, (name, title, colours) in zip(axes, shown, strict=True):
        grid = (
            here.pivot_table(index="train", columns="test", values=name).reindex(index=rows, columns=columns).to_numpy()
        )
        limit = np.nanmax(np.abs(grid))
        low, high = (-limit, limit) if name == "bias" else (0.0, 1.0 if name == "coverage_68" else limit)
        image = axis.imshow(grid, cmap=colours, vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            share = (value - low) / (high - low)
            dark = abs(share - 0.5) > 0.3 if name == "bias" else share < 0.55
            axis.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if dark else "black")
        axis.set(title=title, xlabel="tested on", xticks=range(len(columns)), yticks=range(len(rows)))
        axis.set_xticklabels(columns)
        axis.set_yticklabels([r.replace("+", "+\n") for r in rows] if axis is axes[0] else [])
        figure.colorbar(image, ax=axis, fraction=0.05)
    axes[0].set_ylabel("trained on")
    return figure


def calibration(table: pd.DataFrame, instrument: str, test: str) -> Figure:
    """Share of true masses inside the 68 and 95 % posterior intervals, against radius."""
    train = joint_training(table)
    here = table[(table.estimator == "cnn") & (table.train == train)]
    here = here[(here.instrument == instrument) & (here.test == test)]
    figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for tracer, rows in here.groupby("tracer"):
        axis.plot(rows.radius, rows.coverage_68, "o-", ms=3.5, color=COLOUR[tracer], label=tracer)
        axis.plot(rows.radius, rows.coverage_95, "s--", ms=3.5, color=COLOUR[tracer])
    for level in (0.6827, 0.9545):
        axis.axhline(level, color="k", lw=0.8)
    axis.set(xlabel=_RADIUS, ylabel="share of truths inside", ylim=(0, 1.02))
    axis.set_title("68 % (full) and 95 % (dashed) intervals; lines: perfect")
    _radius_axis(axis)
    axis.legend(frameon=False)
    return figure


def examples(
    observed: np.ndarray, radii_kpc: np.ndarray, truth: np.ndarray,
    samples: dict[str, np.ndarray], names: Sequence[str], half_width_kpc: np.ndarray,
) -> Figure:  # fmt: skip
    """Observed maps (N, 8, P, P) and, beside them, true (N, K) and inferred (S, N, K) profiles."""
    n = len(names)
    figure, axes = plt.subplots(
        n, 7, figsize=(19, 2.7 * n), squeeze=False, layout="constrained", width_ratios=[1] * 6 + [1.5]
    )
    titles = ("stars: log $\\Sigma$", "stars: V [km/s]", "stars: $\\sigma$ [km/s]",
              "gas: log $\\Sigma$", "gas: V [km/s]", "gas: $\\sigma$ [km/s]")  # fmt: skip
    for i in range(n):
        extent = half_width_kpc[i] * np.array([-1, 1, -1, 1])
        for j, channel in enumerate((0, 1, 2, 4, 5, 6)):
            valid = observed[i, 3 if channel < 4 else 7] > 0
            image = np.where(valid, observed[i, channel], np.nan)
            options = {"cmap": "viridis"}
            if channel % 4 == 0:
                image = np.log10(np.where(image > 0, image, np.nan))
            if channel % 4 == 1 and np.isfinite(image).any():
                limit = np.nanpercentile(np.abs(image), 98)
                options = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
            shown = axes[i, j].imshow(image, origin="lower", extent=extent, **options)
            figure.colorbar(shown, ax=axes[i, j], fraction=0.046)
            axes[i, j].set(title=titles[j] if i == 0 else None, xlabel="x [kpc]" if i == n - 1 else None)
        axes[i, 0].set_ylabel(f"{names[i]}\ny [kpc]")
        last = axes[i, 6]
        for tracer, drawn in samples.items():
            low, middle, high = np.percentile(drawn[:, i], [15.9, 50, 84.1], axis=0)
            last.fill_between(radii_kpc[i], low, high, color=COLOUR[tracer], alpha=0.25, lw=0)
            last.plot(radii_kpc[i], middle, color=COLOUR[tracer], label=tracer)
        last.plot(radii_kpc[i], truth[i], "k--", label="true")
        last.set(xlabel="r [kpc]" if i == n - 1 else None, ylabel="log$_{10}$ M(<r) [M$_\\odot$]")
        inside = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if radii_kpc[i, 0] <= x <= radii_kpc[i, -1]]
        _radius_axis(last, inside)
        if i == 0:
            last.legend(frameon=False, fontsize=8)
            last.set_title("profile, 68 % band")
    return figure
