"""Draw the paper's figures from the evaluation tables."""

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinmass.eval.tables.metrics import coverage_by_level
from kinmass.eval.tables.tables import ALL
from kinmass.gen.look.picture import TRACER_COLOUR, radius_axis
from kinmass.train.run.intervals import LEVELS

#: Colour-blind safe (Okabe & Ito 2008), the same for a tracer or estimator in every figure.
COLOUR = {
    **TRACER_COLOUR,
    "wolf2010": "#E69F00", "walker2009": "#56B4E9", "campbell2017": "#CC79A7",
    "errani2018": "#999999", "virial": "#000000",
    "rotation_curve": "#0072B2", "jeans": "#D55E00",
}  # fmt: skip
MARKER = {"wolf2010": "D", "walker2009": "s", "campbell2017": "^", "errani2018": "v", "virial": "P"}
NAME = {
    "wolf2010": "Wolf+10", "walker2009": "Walker+09", "campbell2017": "Campbell+17", "errani2018": "Errani+18",
    "virial": "virial (Cappellari)", "rotation_curve": "rotation curve (gas)", "jeans": "Jeans fit (stars)",
}  # fmt: skip
_COLUMN = {
    "log10_stellar_mass": "log$_{10}$ M$_*$ [M$_\\odot$]", "inclination": "inclination [deg]",
    "gas_fraction": "gas fraction inside 3 R$_e$", "rotation_support": "(<V$^2$> / <$\\sigma^2$>)$^{1/2}$, stars",
}  # fmt: skip
_RADIUS = "r / R$_e$"
_LINES = ("-", "--", ":", "-.")  # kinds of networks
_TITLE = 48  # letters of a title that fit above a figure of one panel
#: With more test suites than this, matrices are two beside two.
MANY_SUITES = 6
_LABEL_ROOM = 30  # letters that fit below a matrix


def joint_training(table: pd.DataFrame, instrument: str) -> str:
    """Return the training set with the most suites, for which tracers are compared; "" where no network is there.

    It is that of one instrument: networks for another may have been trained on other suites.
    """
    train_sets = table.loc[(table.train != "") & (table.instrument == instrument), "train"].unique()
    return max(train_sets, key=lambda t: (t.count("+"), t), default="")


def _networks(table: pd.DataFrame, instrument: str, test: str) -> pd.DataFrame:
    """Return the rows of the networks trained on the most suites, for an instrument and a test suite."""
    rows = table[(table.instrument == instrument) & (table.test == test)]
    return rows[rows.train == joint_training(table, instrument)]


def plainest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one kind of networks of each tracer: plain ones, else those that varied least in training.

    Networks of single tracers come before those for any. Tables of both tracers together have one kind alone.
    """
    tracer = rows.tracer if "tracer" in rows else pd.Series("both", rows.index)
    kind_of = {
        name: min(kinds, key=lambda kind: (kind.count("+"), kind))
        for name, kinds in rows.estimator.groupby(tracer).unique().items()
    }
    return rows[rows.estimator == tracer.map(kind_of)]


def _bars(value: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """Return the lengths (2, n) of error bars down to `low` and up to `high`, where the value lies between them."""
    return np.array([value - low, high - value]).clip(min=0)


def _draw(
    axis: Axes, rows: pd.DataFrame, name: str, colour: str, label: str, line_style: str, marker: str = "o"
) -> None:
    """Draw a measure against radius with its 68 % band, or one point with an error bar if there is only one radius."""
    if len(rows) == 1:
        # These two estimators have the same radius and often nearly the same value.
        shift = {"campbell2017": 0.97, "errani2018": 1.03}.get(rows.estimator.iloc[0], 1)
        error = _bars(rows[name], rows[f"{name}_lo"], rows[f"{name}_hi"])
        axis.errorbar(shift * rows.radius, rows[name], error, color=colour, ms=6, ls="", label=label, marker=marker)
        return
    axis.plot(rows.radius, rows[name], ms=3.5, color=colour, label=label, ls=line_style, marker=marker)
    axis.fill_between(rows.radius, rows[f"{name}_lo"], rows[f"{name}_hi"], color=colour, alpha=0.18, lw=0)


def against_radius(table: pd.DataFrame, instrument: str, test: str, classical: bool = False) -> Figure:
    """Draw dispersion (top) and bias (bottom) against radius with bootstrap intervals.

    Shown are the networks of each tracer, or (classical) the classical estimators beside the best network, which has
    the smallest dispersion in the mean over radii.
    """
    networks = _networks(table, instrument, test)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.2, 6.4), sharex=True, layout="constrained")
    order = {"gas": 0, "stars": 1, "both": 2}
    lines = sorted(networks.groupby(["estimator", "tracer"]), key=lambda item: (item[0][0], order[item[0][1]]))
    kinds = list(dict.fromkeys(estimator for (estimator, _), _ in lines))
    if classical and lines:
        # Of a single galaxy there is no dispersion: the plainest network of the most tracers.
        lines = [min(lines, key=lambda item: (item[1].dispersion.fillna(np.inf).mean(), -order[item[0][1]]))]
    for (estimator, tracer), rows in lines:
        kind = estimator.removeprefix("cnn").lstrip("-+")
        kind_label = f", {kind}" if kind != "any" else " (one network for any)"
        label = ("network, " if classical else "") + tracer + kind_label * (bool(kind) and len(kinds) > 1)
        line = "-" if classical else _LINES[kinds.index(estimator) % len(_LINES)]  # estimators have dotted lines
        for axis, name in ((top, "dispersion"), (bottom, "bias")):
            _draw(axis, rows, name, COLOUR[tracer], label, line)
    if classical:
        classical_rows = table[(table.instrument == instrument) & (table.test == test) & (table.train == "")]
        for estimator, rows in classical_rows.groupby("estimator"):
            style = (COLOUR.get(estimator, "#555555"), NAME.get(estimator, estimator), ":", MARKER.get(estimator, "o"))
            for axis, name in ((top, "dispersion"), (bottom, "bias")):
                _draw(axis, rows, name, *style)
    only_kind = f", {kinds[0]}" if len(kinds) == 1 and kinds != ["cnn"] else ""
    top.set(ylabel="dispersion [dex]")
    title = f"tested on {test}, instrument {instrument}{only_kind}"
    top.set_title(title if len(title) <= _TITLE else title.replace(", ", "\n"), wrap=True)
    legend_below = classical or len(kinds) > 1
    top.set_ylim(0, top.get_ylim()[1] * (1 if legend_below else 1.35))
    if legend_below:
        figure.legend(
            *top.get_legend_handles_labels(), frameon=False, ncols=2, loc="outside lower center", fontsize=8.5
        )
    else:
        top.legend(frameon=False, ncols=3, loc="upper left")
    bottom.axhline(0, color="k", lw=0.8)
    bottom.set(xlabel=_RADIUS, ylabel="bias [dex]")
    radius_axis(bottom)
    return figure


def gain(ratios: pd.DataFrame, instrument: str, train: str) -> Figure:
    """Draw the dispersion of the best single tracer over that of both, per test suite, with its 68 % interval."""
    rows = ratios[(ratios.instrument == instrument) & (ratios.train == train)].iloc[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(5.2, 1.2 + 0.42 * len(rows)), layout="constrained")
    error = _bars(rows.ratio, rows.lo, rows.hi)
    axis.errorbar(rows.ratio, rows.index, xerr=error, fmt="o", color=COLOUR["both"], capsize=3)
    for i, row in rows.iterrows():
        # There is no probability where there are few lineages.
        text = f"{row.ratio:.2f}" + (f"   P(>1) = {row.above_1:.2f}" if np.isfinite(row.above_1) else "")
        # Beside the axes, where the layout keeps room for all of it.
        axis.text(1.02, i, text, transform=axis.get_yaxis_transform(), va="center")
    axis.axvline(1, color="k", lw=0.8)
    axis.set(
        yticks=rows.index,
        yticklabels=rows.test,
        ylim=(-0.6, len(rows) - 0.4),
        xlabel="dispersion, best single tracer / both",
    )
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.95), max(high, 1.05))
    return figure


def gain_where(gains: pd.DataFrame) -> Figure:
    """Draw the dispersion of the best single tracer over that of both against radius and in bins of each column."""
    columns = ["radius", *(c for c in _COLUMN if c in set(gains.column))]
    figure, axes = plt.subplots(
        1, len(columns), figsize=(3 * len(columns) + 0.6, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, column in zip(axes[0], columns, strict=True):
        rows = gains[gains.column == column].sort_values("low")
        positions = rows.low.to_numpy() if column == "radius" else np.arange(len(rows))
        error = _bars(rows.ratio, rows.lo, rows.hi)
        axis.errorbar(positions, rows.ratio, error, fmt="o-", ms=4, lw=1, color=COLOUR["both"], capsize=2)
        axis.axhline(1, color="k", lw=0.8)
        axis.set_xlabel(_COLUMN.get(column, _RADIUS))
        if column == "radius":
            radius_axis(axis)
        else:
            labels = [f"{_bin_label(row.low, row.high)}\n({row.n_galaxies})" for row in rows.itertuples()]
            axis.set_xticks(positions, labels, fontsize=8)
    axes[0, 0].set_ylabel("best single tracer / both")
    return figure


def train_by_test(summary: pd.DataFrame, instrument: str) -> Figure:
    """Draw matrices of dispersion, bias, coverage and share out of distribution, with both tracers.

    Rows are the training sets, columns the test suites.
    """
    rows = summary[(summary.train != "") & (summary.instrument == instrument) & (summary.tracer == "both")]
    rows = plainest(rows)
    rows = rows[rows.test != ALL]
    train_sets = sorted(rows.train.unique(), key=lambda t: (t.count("+"), t))
    test_suites = sorted(rows.test.unique())
    all_suites = {name for train in train_sets for name in train.split("+")}
    labels = [_suites_label(train, all_suites) for train in train_sets]
    # Of many suites the panels are wider, and two stand above two.
    are_many, longest = len(test_suites) > MANY_SUITES, max(map(len, test_suites), default=0)
    height = max(0.75, 0.2 * max(label.count("\n") + 1 for label in labels)) * len(train_sets) + 2.2
    upright = longest * max(len(test_suites), 1) > _LABEL_ROOM  # names of columns would run into each other
    height += 0.1 * longest * upright
    n_rows, width = (2, 1.1 * len(test_suites) + 6) if are_many else (1, 15)
    figure, axes = plt.subplots(n_rows, 4 // n_rows, figsize=(width, n_rows * height), layout="constrained")
    axes = axes.ravel()
    panels = (("dispersion", "dispersion [dex]", "viridis"), ("bias", "bias [dex]", "RdBu_r"),
             ("coverage_68", "68 % coverage", "cividis"), ("ood_share", "out of distribution", "magma"))  # fmt: skip
    for axis, (name, title, colour_map) in zip(axes, panels, strict=True):
        grid = (
            rows.pivot_table(index="train", columns="test", values=name)
            .reindex(index=train_sets, columns=test_suites)
            .to_numpy()
        )
        limit = np.nanmax(np.abs(grid)) if np.isfinite(grid).any() else 1.0
        low, high = (-limit, limit) if name == "bias" else (0.0, limit if name == "dispersion" else 1.0)
        image = axis.imshow(grid, cmap=colour_map, vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            relative_value = (value - low) / (high - low)
            dark = abs(relative_value - 0.5) > 0.3 if name == "bias" else relative_value < 0.55
            text = f"{value:.3f}" if np.isfinite(value) else ""
            colour = "white" if dark else "black"
            axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=10 if len(test_suites) < 5 else 8)
        axis.set(title=title, xlabel="tested on", xticks=range(len(test_suites)), yticks=range(len(train_sets)))
        axis.set_xticklabels(test_suites, rotation=90 if upright else 0)
        is_first = axis is axes[0] or (are_many and axis is axes[2])
        axis.set(yticklabels=labels if is_first else [], ylabel="trained on" if is_first else "")
        figure.colorbar(image, ax=axis, fraction=0.05)
    return figure


def _suites_label(train: str, all_suites: set[str]) -> str:
    """Return the names of a training set, a line each; of many, which of all of them are not in it."""
    names = train.split("+")
    missing = sorted(all_suites - set(names))
    if len(names) <= 4 or len(missing) >= len(names):
        return "+\n".join(names)
    return f"all {len(names)}" if not missing else "all but\n" + "\n".join(missing)


def closed(table: pd.DataFrame) -> Figure:
    """Draw the RMSE on suites left out and the 68 % coverage there, per tracer and kind of training.

    Lines mark the RMSE of plain networks (dashed) and of those trained on the suite itself (full).
    """
    kinds = sorted(table.estimator.unique(), key=lambda kind: (kind.count("+"), kind))
    tracers = [t for t in ("gas", "stars", "both") if (table.tracer == t).any()]
    figure, axes = plt.subplots(
        2,
        len(tracers),
        figsize=(3.4 * len(tracers) + 1, 2.4 + 0.5 * len(kinds)),
        sharex="row",
        squeeze=False,
        layout="constrained",
    )
    for column, tracer in zip(axes.T, tracers, strict=True):
        rows = table[table.tracer == tracer].set_index("estimator").reindex(kinds)
        positions = np.arange(len(kinds))[::-1]
        for axis, name in zip(column, ("rmse", "coverage_68"), strict=True):
            axis.barh(positions, rows[name], color=COLOUR[tracer], alpha=0.7)
            axis.set_yticks(positions, kinds if tracer == tracers[0] else [""] * len(kinds))
            axis.set_ylim(-0.6, len(kinds) - 0.4)
            axis.set_xlabel({"rmse": "RMSE on suites left out [dex]", "coverage_68": "68 % coverage there"}[name])
        for y, row in zip(positions, rows.itertuples(), strict=True):
            if "+" in row.Index and np.isfinite(row.closed):
                share_text = f"{100 * row.closed:.0f} %"
                if np.isfinite(row.closed_lo):
                    share_text += f" ({100 * row.closed_lo:.0f} to {100 * row.closed_hi:.0f})"
                box = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1.5}
                column[0].text(0.002, y, f"closed {share_text}", va="center", fontsize=8, bbox=box)
        column[0].axvline(rows.rmse_plain.mean(), color="k", ls="--", lw=1)
        column[0].axvline(rows.rmse_home.mean(), color="k", lw=1)
        column[1].axvline(0.6827, color="k", lw=1)
        column[0].set_title(tracer)
    return figure


def calibration(table: pd.DataFrame, histograms: pd.DataFrame, instrument: str, test: str) -> Figure:
    """Draw coverage at all levels and against radius, PIT and TARP of each tracer's network."""
    figure, axes = plt.subplots(2, 2, figsize=(9.4, 7.4), layout="constrained")
    (levels, radii), (pit, joint) = axes
    networks, counts = (plainest(_networks(t, instrument, test)) for t in (table, histograms))
    for tracer, rows in networks.groupby("tracer"):
        colour = COLOUR[tracer]
        radii.plot(rows.radius, rows.coverage_68, "o-", ms=3.5, color=colour, label=tracer)
        radii.fill_between(rows.radius, rows.coverage_68_lo, rows.coverage_68_hi, color=colour, alpha=0.18, lw=0)
        radii.plot(rows.radius, rows.coverage_95, "s--", ms=3.5, color=colour)
        tracer_counts = counts[counts.tracer == tracer]
        by_bin = tracer_counts[tracer_counts.radius.notna()].groupby("low")["count"].sum().to_numpy()
        nominal = np.linspace(0, 1, len(by_bin) // 2 + 1)
        levels.plot(nominal, np.concatenate([[0], coverage_by_level(by_bin)]), color=colour, label=tracer)
        wide_bins = by_bin.reshape(20, -1).sum(1)
        pit.stairs(wide_bins / wide_bins.mean(), np.linspace(0, 1, 21), color=colour, lw=1.5, label=tracer)
        tarp = tracer_counts[tracer_counts.radius.isna()]["count"].to_numpy()
        if len(tarp):
            uniform = np.linspace(0, 1, len(tarp) + 1)
            joint.plot(
                uniform,
                np.concatenate([[0], np.cumsum(tarp) / max(tarp.sum(), 1)]) - uniform,
                color=colour,
                label=tracer,
            )
    levels.plot([0, 1], [0, 1], "k-", lw=0.8)
    levels.set(
        xlabel="level of the central interval",
        ylabel="share of truths inside",
        title="all levels, mean of radii",
        aspect="equal",
    )
    for level in (0.6827, 0.9545):
        radii.axhline(level, color="k", lw=0.8)
    radii.set(
        xlabel=_RADIUS,
        ylabel="share of truths inside",
        ylim=(min(0.4, radii.get_ylim()[0]), 1.01),
        title="68 % (full), 95 % (dashed)",
    )
    radius_axis(radii)
    pit.axhline(1, color="k", lw=0.8)
    pit.set(
        xlabel="rank of the truth among samples (PIT)",
        ylabel="views / their mean",
        title="ranks, all radii",
        ylim=(0, None),
    )
    joint.axhline(0, color="k", lw=0.8)
    joint.set(
        xlabel="share of samples closer to a random point (TARP)",
        ylabel="cumulative share - uniform",
        title="whole profile",
    )
    joint.set_ylim(*np.array([-1, 1]) * max(0.1, np.abs(joint.get_ylim()).max()))
    levels.legend(frameon=False)
    return figure


def by_column(bins: pd.DataFrame, instrument: str, test: str) -> Figure:
    """Draw dispersion and bias, averaged over radii, in bins of properties of the galaxy and its view."""
    networks = plainest(_networks(bins, instrument, test))
    columns = [c for c in _COLUMN if c in set(networks.column)]
    figure, axes = plt.subplots(
        2, len(columns), figsize=(3 * len(columns) + 0.6, 5.2), sharey="row", squeeze=False, layout="constrained"
    )
    for i, column in enumerate(columns):
        rows = networks[networks.column == column]
        position_of_bin = {low: k for k, low in enumerate(sorted(rows.low.unique()))}
        for k, (tracer, tracer_rows) in enumerate(rows.groupby("tracer")):
            mean = tracer_rows.groupby("low")[
                [f"{n}{e}" for n in ("dispersion", "bias") for e in ("", "_lo", "_hi")]
            ].mean()
            positions = np.array([position_of_bin[low] for low in mean.index]) + 0.12 * (k - 1)
            for axis, name in zip(axes[:, i], ("dispersion", "bias"), strict=True):
                error = _bars(mean[name], mean[f"{name}_lo"], mean[f"{name}_hi"])
                axis.errorbar(positions, mean[name], error, fmt="o-", ms=4, lw=1, color=COLOUR[tracer], label=tracer)
        axes[1, i].axhline(0, color="k", lw=0.8)
        galaxies = rows.groupby("low").n_galaxies.max()
        names = [f"{_bin_label(low, rows[rows.low == low].high.iloc[0])}\n({galaxies[low]})" for low in position_of_bin]
        axes[1, i].set_xticks(list(position_of_bin.values()), names, fontsize=8)
        axes[0, i].set_xticks(list(position_of_bin.values()), [])
        axes[1, i].set_xlabel(_COLUMN[column])
    axes[0, 0].set(ylabel="dispersion [dex]", ylim=(0, None))
    axes[1, 0].set_ylabel("bias [dex]")
    axes[0, 0].legend(frameon=False)
    return figure


def _bin_label(low: float, high: float) -> str:
    """Return a bin's range as a label; edges that lie just beyond the largest possible value count as open."""
    if not np.isfinite(low):
        return f"< {high:g}"
    return f"> {low:g}" if not np.isfinite(high) or high in (90.1, 1.01) else f"{low:g}-{high:g}"


def conditions(table: pd.DataFrame) -> Figure:
    """Draw RMSE and coverage of every network under every condition (`tables.conditions`): two panels per tracer."""
    tracers, kinds = list(table.tracer.unique()), list(table.network.unique())
    names = list(table.condition.unique())
    figure, axes = plt.subplots(
        2, len(tracers), figsize=(5 * len(tracers), 7), sharex=True, squeeze=False, layout="constrained"
    )
    for column, tracer in enumerate(tracers):
        for i, kind in enumerate(kinds):
            rows = table[(table.tracer == tracer) & (table.network == kind)].set_index("condition").reindex(names)
            x = np.arange(len(names)) + 0.2 * (i - 0.5 * (len(kinds) - 1))
            error = _bars(rows.rmse, rows.rmse_lo, rows.rmse_hi)
            axes[0, column].errorbar(x, rows.rmse, error, fmt="o", ms=4, label=kind, color=f"C{i}")
            axes[1, column].plot(x, rows.in_68, "o", ms=4, color=f"C{i}")
            axes[1, column].plot(x, rows.in_95, "s", ms=3, mfc="none", color=f"C{i}")
        for level in LEVELS:
            axes[1, column].axhline(level, color="0.6", lw=0.8)
        axes[0, column].set(title=tracer, yscale="log")
        axes[0, column].yaxis.set_major_formatter("{x:.2g}")
        axes[0, column].yaxis.set_minor_formatter("{x:.2g}")
        axes[1, column].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes[0, 0].set_ylabel("RMSE of log$_{10}$ M [dex]")
    axes[1, 0].set_ylabel("truths inside 68 % (filled), 95 % (open)")
    axes[0, 0].legend(frameon=False)
    return figure
