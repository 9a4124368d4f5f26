"""Make the evaluation tables: every run on every suite, with the classical estimators beside it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kinmass.eval.tables.cluster import Cluster, sum_of_tasks
from kinmass.eval.tables.metrics import (
    PLAIN,
    RANK_BINS,
    WITH_INTERVAL,
    Sums,
    distance_from_uniform,
    joint_log_prob,
    mean_over_radii,
    measures,
    ood,
    over_seeds,
    ratio,
    replicates,
    value_and_interval,
)
from kinmass.eval.tables.origin import digest_of_file, origin_of
from kinmass.eval.tables.predictions import COLUMNS as VIEW_COLUMNS
from kinmass.eval.tables.tasks import (
    ALL,
    Group,
    arguments_of_blocks,
    check_suites,
    check_unchanged,
    evaluate_block,
    sources_of,
)
from kinmass.gen.storage.files import aside, make_folder, require_writable, write_atomically
from kinmass.gen.storage.store import refuse_inside
from kinmass.train.data.dataset import RADII_RE, SPLIT
from kinmass.train.run.checkpoint import instrument_of, write_json
from kinmass.train.run.posterior import beyond_limits_message
from kinmass.train.run.trained_on import check_maps

KEYS = ["estimator", "instrument", "tracer", "train", "test"]
_COUNTS = ["n_seeds", "n_galaxies", "n_views", "n_missing", "n_left_out", "answered"]
_MEASURES = [f"{name}{end}" for name in WITH_INTERVAL for end in ("", "_lo", "_hi")] + list(PLAIN)
COLUMNS = [*KEYS, "radius", *_COUNTS, *_MEASURES]
#: Columns of the summary from which what is printed is made (`shown`).
SHOWN = [*KEYS, "n_seeds", "n_galaxies", "radius_min", "radius_max", "answered_min", "answered_max", "dispersion",
         "dispersion_robust", "bias", "coverage_68"]  # fmt: skip
_RATIO = ["estimator", "instrument", "train", "test", "ratio", "lo", "hi", "above_1"]
_GAINS = [*_RATIO[:4], "column", "low", "high", "n_galaxies", *_RATIO[4:]]
_GAP = [*KEYS, "rmse_ratio", "rmse_ratio_lo", "rmse_ratio_hi", "rmse", "rmse_home", "coverage_68", "coverage_68_home",
        "log_prob_loss", "log_prob_loss_lo", "log_prob_loss_hi", "ood_share", "ood_auc"]  # fmt: skip
_BESIDE = [*KEYS, "beside", "radius_min", "radius_max", "answered_min", "answered_max", "n_galaxies",
           *(f"{name}{of}" for name in ("dispersion", "bias", "rmse", "crps") for of in ("", "_beside")),
           "ratio", "lo", "hi", "above_1"]  # fmt: skip
_CLOSED = ["estimator", "instrument", "tracer", "suites", "rmse_home", "rmse_plain", "rmse", "closed", "closed_lo",
           "closed_hi", "coverage_68", "gain", "gain_lo", "gain_hi"]  # fmt: skip


def collect(
    store: Path,
    runs: list[Path],
    suites: list[str],
    part: str | None,
    out: Path,
    cluster: Cluster,
    classical: bool = True,
) -> dict[Group, Sums]:
    """Evaluate every run on every suite; return the sums of every group, and those of all suites pooled.

    Predictions are kept on disk on the way. part: `test`, or None for all galaxies. Raises RunError, StoreError or
    OSError before any work starts if a run does not fit a suite or files cannot be read or written.
    """
    check_suites(suites)
    for run in runs:
        for suite in suites:
            check_maps(run, store, suite)
    sources = sources_of(runs, out.absolute(), classical)
    refuse_inside(out)
    require_writable(out)
    instruments = {instrument_of(run).name: instrument_of(run) for run in runs}
    arguments = arguments_of_blocks(sources, instruments, store, suites, part)
    sums = sum_of_tasks(evaluate_block, arguments, cluster)
    check_unchanged(sources)
    return pooled(seeds_together(sums))


def seeds_together(sums: dict[Group, Sums]) -> dict[Group, Sums]:
    """Return the sums with those of networks that differ only in the seed made one."""
    sums_of_seeds: dict[Group, dict[int, Sums]] = {}
    for group, total in sums.items():
        sums_of_seeds.setdefault(replace(group, seed=None), {})[group.seed or 0] = total
    return {
        group: over_seeds(
            " ".join((group.estimator, group.instrument, group.tracer, group.train)),
            [each for _, each in sorted(by_seed.items())],
        )
        for group, by_seed in sums_of_seeds.items()
    }


def pooled(sums: dict[Group, Sums]) -> dict[Group, Sums]:
    """Return the sums and, if there are several suites, also the sums over all suites, as test suite `all`."""
    sums_over_suites: dict[Group, list[Sums]] = {}
    for group, total in sums.items():
        sums_over_suites.setdefault(replace(group, test=ALL), []).append(total)
    several = len({group.test for group in sums}) > 1
    return sums | ({group: reduce(add, parts) for group, parts in sums_over_suites.items()} if several else {})


def _key_columns(group: Group) -> dict[str, Any]:
    return {name: getattr(group, name) for name in KEYS}


def _with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    """Return the columns of a number, of which (B + 1,) is the value and its replicates: NAME, NAME_lo and NAME_hi."""
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), value_and_interval(values).values(), strict=True))


def to_table(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return one row per group and radius at which the estimator is defined.

    Rows of a bin say in `column`, `low` and `high` which bin it is; in rows of all views, `column` is empty.
    """
    rows: list[dict[str, Any]] = []
    for group, total in sums.items():
        if group.column and group.column not in VIEW_COLUMNS:
            continue
        columns = measures(total)
        count = total.count
        for k, radius in enumerate(RADII_RE):
            if count[k] > 0:
                row = _key_columns(group) | _bin_columns(group) | {"radius": radius}
                row |= {
                    "n_seeds": total.n_seeds,
                    "n_galaxies": total.galaxies,
                    "n_views": int(count[k]),
                    "n_missing": int(total.missing[k]),
                    "n_left_out": total.left_out,
                    "answered": total.answered[k],
                }
                rows.append(row | {name: values[k] for name, values in columns.items()})
    table = pd.DataFrame(rows, columns=[*KEYS, "column", "low", "high", *COLUMNS[5:]])
    return table.sort_values([*KEYS, "column", "low", "radius"], kind="stable", ignore_index=True)


def _bin_columns(group: Group) -> dict[str, Any]:
    edges = VIEW_COLUMNS[group.column][1] if group.column else (np.nan, np.nan)
    bin_number = max(group.bin, 0)
    return {"column": group.column, "low": edges[bin_number], "high": edges[bin_number + 1]}


def to_ratios(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return the dispersion of the best single tracer over that of both, one row per kind of network and test suite.

    It is taken on the views that gas, stars and both can all use; `above_1` is the probability that it exceeds 1.
    """
    rows = []
    for group, both in sums.items():
        if group.column == "common" and group.tracer == "both" and both.galaxies > 1:
            single = [sums[replace(group, tracer=t)] for t in ("gas", "stars")]
            rows.append({k: getattr(group, k) for k in _RATIO[:4]} | ratio(single, both))
    return pd.DataFrame(rows, columns=_RATIO).sort_values(_RATIO[:4], kind="stable", ignore_index=True)


def to_gains(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return where both tracers gain: `to_ratios` at each radius, and in bins of what a galaxy and its view are like.

    column: `radius` [R_e], for which low is high, or one of `predictions.COLUMNS`, averaged over radii. On the same
    views as `to_ratios`.
    """
    rows = []
    for group, both in sums.items():
        if group.column.split(" ")[0] != "common" or group.tracer != "both" or both.galaxies < 2:
            continue
        single = [sums[replace(group, tracer=t)] for t in ("gas", "stars")]
        row: dict[str, Any] = {k: getattr(group, k) for k in _RATIO[:4]} | {"n_galaxies": both.galaxies}
        if column := group.column.removeprefix("common").strip():
            low, high = VIEW_COLUMNS[column][1][group.bin : group.bin + 2]
            rows.append(row | {"column": column, "low": low, "high": high} | ratio(single, both))
        else:
            for k, radius in enumerate(RADII_RE):
                here = {"column": "radius", "low": radius, "high": radius}
                rows.append(row | here | ratio(single, both, slice(k, k + 1)))
    return pd.DataFrame(rows, columns=_GAINS).sort_values(_GAINS[:6], kind="stable", ignore_index=True)


def to_beside(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return every network beside every classical estimator, on the views and at the radii that both answer.

    Columns ending in `_beside` are the classical estimator's. `ratio` is its dispersion over the network's, from draws
    of the same lineages; `above_1` is the probability that it exceeds 1. The share answered is of all views.
    """
    rows = []
    for group, total in sums.items():
        if not group.column.startswith("beside ") or group.bin or total.galaxies < 2:
            continue
        other, all_views = sums[replace(group, bin=1)], sums[replace(group, column="", bin=-1)]
        row: dict[str, Any] = _key_columns(group) | {"beside": group.column.removeprefix("beside ")}
        n_asked = all_views.views + all_views.left_out
        row |= _radii_and_share(total.count, total.count / n_asked) | {"n_galaxies": total.galaxies}
        replicates_of, replicates_of_other = replicates(total), replicates(other)
        for name in ("dispersion", "bias", "rmse", "crps"):
            row[name] = mean_over_radii(replicates_of[name])[0]
            row[f"{name}_beside"] = mean_over_radii(replicates_of_other[name])[0]
        rows.append(row | ratio([other], total))
    return pd.DataFrame(rows, columns=_BESIDE).sort_values([*KEYS, "beside"], kind="stable", ignore_index=True)


def _radii_and_share(count: np.ndarray, answered: np.ndarray) -> dict[str, float]:
    """Return the first and the last radius [R_e] with an answer, and the least and the largest share answered."""
    radii = np.array(RADII_RE)[count > 0]
    shares = answered[count > 0]
    return {
        "radius_min": float(radii.min()), "radius_max": float(radii.max()),
        "answered_min": float(shares.min()), "answered_max": float(shares.max()),
    }  # fmt: skip


def _percent(share: float) -> str:
    """Return a share in per cent; it is 100 % of all alone, and 0 % of none."""
    return f"{share if share in (0, 1) else min(max(share, 0.01), 0.99):.0%}"


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the summary or of `to_beside` as they are printed, with ranges of radii and of shares as text."""

    def range_of(name: str, text: Callable[[float], str]) -> list[str]:
        """Return the ranges from `NAME_min` to `NAME_max` as text, one number where both are equal."""
        pairs = zip(rows[f"{name}_min"], rows[f"{name}_max"], strict=True)
        return ["-".join(dict.fromkeys((text(low), text(high)))) for low, high in pairs]

    rows = rows.assign(radii=range_of("radius", "{:.3g}".format), answered=range_of("answered", _percent))
    if "beside" in rows:
        return rows[
            ["beside", "radii", "answered", *KEYS, "n_galaxies", "dispersion", "dispersion_beside", "ratio", "lo", "hi"]
        ]
    measured = ["dispersion", "dispersion_robust", "bias", "coverage_68"]
    return rows[[*KEYS, "n_seeds", "n_galaxies", "radii", "answered", *measured]]


def main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows over all suites together, if there are several, of classical estimators and of the networks that
    were trained on the most suites, through each instrument."""
    n_joined = rows.train.str.count(r"\+")
    rows = rows[(rows.train == "") | (n_joined == n_joined.groupby(rows.instrument).transform("max"))]
    return rows[rows.test == ALL] if ALL in set(rows.test) else rows


def _foreign_and_home(sums: dict[Group, Sums]) -> dict[Group, tuple[Sums, Sums]]:
    """Return the sums of runs on suites they were not trained on, with those of the plain run trained on that suite.

    Groups without such a plain run are left out.
    """
    networks = {group: total for group, total in sums.items() if not group.column and group.train}
    homes = {g: networks.get(replace(g, train=g.test, estimator=_plain_estimator(g.estimator))) for g in networks}
    return {
        g: (networks[g], home) for g, home in homes.items() if home is not None and g.test not in g.train.split("+")
    }


def _plain_estimator(estimator: str) -> str:
    """Return the kind of network without what varied while it was trained: cnn for cnn+scale."""
    return estimator.split("+")[0]


def _one_left_out(foreign: dict[Group, tuple[Sums, Sums]]) -> dict[Group, tuple[Sums, Sums]]:
    """Return those of `_foreign_and_home` that were trained on all suites but the one that they are tested on.

    What all suites are follows from the networks of the most suites through an instrument: those of a training set and
    the suite tested on, of which the most are left out in turn. Where two sets are equal in that, as of networks of one
    suite each of three, no network was trained on all but one.
    """
    chosen: dict[Group, tuple[Sums, Sums]] = {}
    for instrument in {group.instrument for group in foreign}:
        groups = [group for group in foreign if group.instrument == instrument]
        most_plus_signs = max(group.train.count("+") for group in groups)
        groups_of: dict[frozenset[str], list[Group]] = {}
        for group in groups:
            if group.train.count("+") == most_plus_signs:
                groups_of.setdefault(frozenset({*group.train.split("+"), group.test}), []).append(group)
        n_left_out = {suites: len({group.test for group in of}) for suites, of in groups_of.items()}
        all_suites = [suites for suites, n in n_left_out.items() if n == max(n_left_out.values())]
        if len(all_suites) == 1:
            chosen |= {group: foreign[group] for group in groups_of[all_suites[0]]}
    return chosen


def to_closed(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return how much of the gap between simulations is closed by what varied in training, per estimator and tracer.

    Uses runs trained on all suites but one and tested on that one, and averages over the suites left out. Columns:
    `rmse`; `closed`, the share of the way from the RMSE of the plain run on the same suites to that of the run trained
    on the suite left out, NaN where this is no smaller; `coverage_68`; and `gain`, the RMSE of the best single tracer
    over that of both, with the single tracers' networks of the same kind where there are any, and only where they were
    tested on the same suites.
    Intervals are paired by galaxy.
    """
    one_left_out = _one_left_out(_foreign_and_home(sums))
    rmse: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}  # of each kind, by the suites it was tested on
    rows = []
    for key in sorted({(g.estimator, g.instrument, g.tracer) for g in one_left_out}):
        groups = [g for g in one_left_out if (g.estimator, g.instrument, g.tracer) == key]
        plain_pairs = [one_left_out.get(replace(g, estimator=_plain_estimator(g.estimator))) for g in groups]
        if None in plain_pairs:
            continue
        mean_rmse = {
            name: np.mean([mean_over_radii(replicates(total)["rmse"]) for total in totals], axis=0)
            for name, totals in (
                ("rmse", [one_left_out[g][0] for g in groups]), ("rmse_home", [one_left_out[g][1] for g in groups]),
                ("rmse_plain", [p[0] for p in plain_pairs if p]),
            )
        }  # fmt: skip
        suites = "+".join(sorted(g.test for g in groups))
        rmse[key] = {suites: mean_rmse["rmse"]}
        row: dict[str, Any] = dict(zip(_CLOSED[:3], key, strict=True)) | {"suites": suites}
        row |= {name: values[0] for name, values in mean_rmse.items()}
        coverages = [mean_over_radii(replicates(one_left_out[g][0])["coverage_68"])[0] for g in groups]
        row |= {"coverage_68": float(np.mean(coverages))}
        gap = mean_rmse["rmse_plain"] - mean_rmse["rmse_home"]
        # Of no gap, or of less than none, there is no share: a network that errs more would have closed all of it.
        gap = np.where((gap > 0) & (gap[0] > 0), gap, np.nan)
        closed_share = (mean_rmse["rmse_plain"] - mean_rmse["rmse"]) / gap
        rows.append(row | _with_interval("closed", closed_share))
    for row in rows:
        if row["tracer"] != "both":
            continue
        on_suites = {kind: of_suites[row["suites"]] for kind, of_suites in rmse.items() if row["suites"] in of_suites}
        gas, stars = (
            _rmse_of_like_kind(on_suites, row["estimator"], row["instrument"], tracer) for tracer in ("gas", "stars")
        )
        if gas is not None and stars is not None:
            both = on_suites[row["estimator"], row["instrument"], "both"]
            row |= _with_interval("gain", np.minimum(gas, stars) / both)
    return pd.DataFrame(rows, columns=_CLOSED)


def _rmse_of_like_kind(
    rmse: dict[tuple[str, str, str], np.ndarray], estimator: str, instrument: str, tracer: str
) -> np.ndarray | None:
    """Return the RMSE of a tracer by the same kind of network, or else by the kind with the lowest; None if no kind."""
    rmse_of_kind = {
        kind: values
        for (kind, kind_instrument, kind_tracer), values in rmse.items()
        if (kind_instrument, kind_tracer) == (instrument, tracer)
    }
    best = min(rmse_of_kind.values(), key=lambda values: float(values[0]), default=None)
    return rmse_of_kind.get(estimator, best)


def to_gap(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return what a change of simulation costs: runs on a suite they never saw, against the run trained on it alone.

    `rmse_ratio` is the ratio of the RMSEs (bias and dispersion together), averaged over radii, and `log_prob_loss` the
    joint log density that is lost. Both are paired galaxy by galaxy.
    """
    rows = []
    for group, (total, home) in _foreign_and_home(sums).items():
        replicates_foreign, replicates_home = replicates(total), replicates(home)
        rmse, rmse_home = mean_over_radii(replicates_foreign["rmse"]), mean_over_radii(replicates_home["rmse"])
        row: dict[str, Any] = _key_columns(group) | {"rmse": rmse[0], "rmse_home": rmse_home[0]}
        row |= {"coverage_68": mean_over_radii(replicates_foreign["coverage_68"])[0]}
        row |= {"coverage_68_home": mean_over_radii(replicates_home["coverage_68"])[0]}
        row |= _with_interval("rmse_ratio", rmse / rmse_home)
        row |= _with_interval("log_prob_loss", joint_log_prob(home) - joint_log_prob(total))
        row["ood_share"], row["ood_auc"] = ood(total.ood_score)
        rows.append(row)
    return pd.DataFrame(rows, columns=_GAP).sort_values(KEYS, kind="stable", ignore_index=True)


def to_summary(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return one row per group, averaged over its radii: the table to quote in a paper.

    Numbers of views are those at the radius where the fewest are answered.
    """
    rows = []
    for group, total in sums.items():
        count = total.count
        if group.column or not count.any():
            continue
        row: dict[str, Any] = _key_columns(group) | {"n_seeds": total.n_seeds, "n_galaxies": total.galaxies}
        fewest = int(np.argmin(np.where(count > 0, count, np.inf)))
        row |= {"n_views": int(count[fewest]), "n_missing": int(total.missing[fewest]), "n_left_out": total.left_out}
        row |= _radii_and_share(count, total.answered)
        replicates_of = replicates(total)
        for name in WITH_INTERVAL:
            row |= _with_interval(name, mean_over_radii(replicates_of[name]))
        # As of those with intervals, without radii at which a single galaxy has an answer.
        row |= {name: mean_over_radii(values[None])[0] for name, values in measures(total).items() if name in PLAIN}
        row |= _with_interval("log_prob_joint", joint_log_prob(total))
        has_samples = bool(total.pit.any())
        row["pit_off"] = float(np.max(distance_from_uniform(total.pit))) if has_samples else np.nan
        row["tarp_off"] = float(distance_from_uniform(total.tarp)) if has_samples else np.nan
        row["ood_share"], row["ood_auc"] = ood(total.ood_score)
        row["beyond"] = total.beyond / total.views if has_samples else np.nan
        rows.append(row)
    return pd.DataFrame(rows).sort_values(KEYS, kind="stable", ignore_index=True)


def to_calibration(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Return histograms of PIT (per radius) and TARP (radius NaN) of every network: `low`, `high` and `count`."""
    edges = np.linspace(0, 1, RANK_BINS + 1)
    frames = []
    for group, total in sums.items():
        if group.column or not total.pit.any():
            continue
        for radius, counts in [*zip(RADII_RE, total.pit.T, strict=True), (np.nan, total.tarp)]:
            frame = {"radius": radius, "low": edges[:-1], "high": edges[1:], "count": counts}
            frames.append(pd.DataFrame(_key_columns(group) | frame))
    return (
        pd.concat(frames, ignore_index=True)
        if frames
        else pd.DataFrame(columns=[*KEYS, "radius", "low", "high", "count"])
    )


def write_tables(
    out: Path, store: Path, runs: list[Path], sums: dict[Group, Sums], part: str | None, maps: Mapping[str, Any]
) -> pd.DataFrame:
    """Write all tables as CSV and Parquet, summary.tex, and tables.json, which says what they were made from.

    maps: what `store_identity` said of the store before its galaxies were read.

    tables.json is removed first and written last, with a digest of every table: so tables of two commands are never
    taken for one. Returns the summary. Raises OSError where they cannot be written.
    """
    make_folder(out)
    everything = to_table(sums)
    plain = everything.column == ""
    summary = to_summary(sums)
    tables = {
        "table": everything[plain][COLUMNS].reset_index(drop=True),
        "bins": everything[~plain].reset_index(drop=True),
        "summary": summary,
        "ratios": to_ratios(sums),
        "gains": to_gains(sums),
        "beside": to_beside(sums),
        "gap": to_gap(sums),
        "closed": to_closed(sums),
        "calibration": to_calibration(sums),
    }
    digests: dict[str, str] = {}
    (out / "tables.json").unlink(missing_ok=True)
    for name, table in tables.items():
        with aside(out / f"{name}.csv") as partial:
            table.to_csv(partial, index=False)
        with aside(out / f"{name}.parquet") as partial:
            table.to_parquet(partial, index=False)
            digests[name] = digest_of_file(partial)
    write_atomically(out / "summary.tex", to_latex(summary))
    content = origin_of(store, runs, part, maps) | {"digests": digests}
    write_json(out / "tables.json", content)
    return summary


def nothing_tested(sums: dict[Group, Sums], part: str | None, suites: Sequence[str]) -> str:
    """Return in a sentence why no view of these suites was tested, and what to do."""
    if n_views := max((total.views for total in sums.values()), default=0):
        return (
            f"none of the predictions for {n_views} views of {', '.join(suites)} is finite; train these runs again, "
            "with a lower --learning-rate"
        )
    if any(total.left_out for total in sums.values()):
        return (
            f"no view of {', '.join(suites)} shows enough of a tracer that these runs infer from, and has a true mass "
            "at all radii; choose other --suites, or runs of another tracer"
        )
    if part is None:
        return f"no finished galaxy in {', '.join(suites)}; run `kinmass maps` to its end"
    return f"no finished galaxy in the {part} part of {', '.join(suites)}; map more galaxies, or try --part all"


def trained_on_remark(part: str | None, train_sets: Iterable[str], test_suites: Iterable[str]) -> list[str]:
    """Return a sentence if galaxies of all parts of the split are tested by networks trained on some of them, or [].

    train_sets: suites joined with +, as in the column `train`.
    """
    trained = {name for train in train_sets for name in train.split("+")}
    suites = [suite for suite in dict.fromkeys(test_suites) if suite in trained]
    if part is not None or not suites:
        return []
    shares = ", ".join(f"{100 * share:.0f} % {name}" for name, share in SPLIT.items())
    return [
        f"{', '.join(suites)}: galaxies that networks were trained on are among those tested ({shares}, as "
        "--part all says): on other galaxies of the suite these networks err more, as --part test tells"
    ]


def remarks(summary: pd.DataFrame, suites: list[str]) -> list[str]:
    """Return sentences to print below the summary.

    They name suites without galaxies, suites that no run was trained on, and rows with predictions that are not
    finite or that had to be held at the limits of what a galaxy's mass can be.
    """
    lines = []
    trained = {name for train in summary.train for name in train.split("+")}
    for suite in suites:
        here = summary[summary.test == suite]
        if not len(here):
            lines.append(f"{suite}: no finished galaxy that an estimator could use in this part; not in the tables")
        elif suite not in trained:
            lines.append(f"{suite}: no run was trained on it; every figure is that of a foreign simulation")
    for row in summary[(summary.train != "") & (summary.n_missing > 0)].itertuples():
        are = "prediction is" if row.n_missing == 1 else "predictions are"
        lines.append(f"{row.tracer}, {row.train} on {row.test}: {row.n_missing} {are} not finite; left out")
    once = summary[(summary.train != "") & (summary.n_seeds == 1)]
    if len(once):
        lines.append(
            "networks that were trained once: intervals hold the scatter of galaxies, not that of training; train them "
            "again with --seed 1 and --seed 2 (ensembles of 5: --seed 5 and --seed 10) in folders of their own beside "
            "these, and give all of them"
        )
    for row in summary[summary.beyond > 0].itertuples():
        lines.append(f"{row.tracer}, {row.train} on {row.test}: {beyond_limits_message(row.beyond)}")
    return lines


def without_answer(sums: dict[Group, Sums]) -> list[str]:
    """Return a sentence for each network that has no answer for any view of a suite: it has no row there."""
    lines = []
    for group, total in sums.items():
        if group.train and not group.column and group.test != ALL and not total.count.any():
            why = (
                [f"none of {total.left_out} views shows enough, and has a true mass at all radii"]
                if total.left_out
                else []
            )
            why += [f"none of {total.views} predictions is finite"] if total.views else []
            if why:
                lines.append(f"{group.tracer}, {group.train} on {group.test}: {'; '.join(why)}; not in the tables")
    return lines


def to_latex(summary: pd.DataFrame) -> str:
    """Return the summary as a LaTeX table (booktabs): each value with its 68 % interval, in dex."""

    def with_interval(row: pd.Series, name: str) -> str:
        """Return a value with its interval in LaTeX; -- where it is not defined."""
        value, low, high = row[name], row[f"{name}_lo"], row[f"{name}_hi"]
        if not np.isfinite(value):
            return "--"
        if not np.isfinite(low):
            return f"${value:.3f}$"
        return f"${value:.3f}_{{-{max(value - low, 0):.3f}}}^{{+{max(high - value, 0):.3f}}}$"

    names = {"dispersion": "dispersion [dex]", "bias": "bias [dex]", "coverage_68": r"68\,\% coverage"}
    ranges = shown(summary)
    lines = [
        [str(row[k]).replace("_", r"\_") or "--" for k in KEYS]
        + [ranges[name][i].replace("%", r"\,\%").replace("-", "--") for name in ("radii", "answered")]
        + [with_interval(row, n) for n in names]
        for i, row in summary.iterrows()
    ]
    body = " \\\\\n".join(" & ".join(line) for line in lines)
    head = " & ".join([*KEYS, r"radii [$R_\mathrm{e}$]", "views answered", *names.values()])
    inside = f"\\toprule\n{head} \\\\\n\\midrule\n{body} \\\\\n\\bottomrule\n"
    return f"\\begin{{tabular}}{{lllllrrrrr}}\n{inside}\\end{{tabular}}\n"
