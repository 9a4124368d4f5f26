"""The evaluation table: every run on every suite, with the classical estimators beside it."""

from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pandas as pd

from eval.cluster import run_tasks
from eval.inference import Group, check_instruments, check_maps, evaluate_block
from eval.metrics import Sums, mean_dispersion, measures, ratio
from gen import store as map_store
from train.checkpoint import write_json
from train.dataset import RADII_RE

COLUMNS = [
    "estimator", "instrument", "tracer", "train", "test", "radius", "n_galaxies", "n_views",
    "bias", "bias_lo", "bias_hi", "bias_median", "dispersion", "dispersion_lo", "dispersion_hi",
    "dispersion_robust", "coverage_68", "coverage_95", "crps",
]  # fmt: skip
#: Columns of the summary that are printed.
SHOWN = [*COLUMNS[:5], "n_galaxies", "dispersion", "dispersion_robust", "bias", "coverage_68"]
_RATIO = ["estimator", "instrument", "train", "test", "ratio", "lo", "hi", "above_1"]
#: Name of the test group that pools every suite.
ALL = "all"
BLOCK = 64  # galaxies per task


def collect(
    store: Path, runs: list[Path], suites: list[str], part: str | None, workers: int | None = None
) -> dict[Group, Sums]:
    """Sums of every group, and of all suites pooled. Raises RunError, StoreError before any work."""
    check_instruments(runs)
    for run in runs:
        for suite in suites:
            check_maps(run, store, suite)
    arguments = []
    for suite in suites:
        n = map_store.open_suite(store, suite)["status"].shape[0]
        arguments += [
            ([str(r) for r in runs], str(store), suite, (i, min(i + BLOCK, n)), part) for i in range(0, n, BLOCK)
        ]
    found: dict[Group, list[Sums]] = {}
    for block in run_tasks(evaluate_block, arguments, workers):
        for group, sums in block.items():
            found.setdefault(group, []).append(sums)
            if len(suites) > 1:
                found.setdefault(Group(**asdict(group) | {"test": ALL}), []).append(sums)
    return {group: reduce(add, parts) for group, parts in found.items()}


def to_table(sums: dict[Group, Sums]) -> pd.DataFrame:
    """One row per group and radius at which the estimator is defined."""
    rows: list[dict[str, Any]] = []
    for group, total in sums.items():
        columns = measures(total)
        for k, radius in enumerate(RADII_RE):
            if total.other[0, k] > 0:
                counts = {"radius": radius, "n_galaxies": total.galaxies, "n_views": int(total.other[0, k])}
                rows.append(asdict(group) | counts | {name: values[k] for name, values in columns.items()})
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(COLUMNS[:6], kind="stable", ignore_index=True)


def to_ratios(sums: dict[Group, Sums]) -> pd.DataFrame:
    """Best single tracer over both, for every instrument, training set and test suite that has all three."""
    rows = []
    for group, both in sums.items():
        if group.train and group.tracer == "both":
            single = [sums.get(Group(**asdict(group) | {"tracer": t})) for t in ("gas", "stars")]
            present = [s for s in single if s is not None]
            if len(present) == 2:
                rows.append({k: getattr(group, k) for k in _RATIO[:4]} | ratio(present, both))
    return pd.DataFrame(rows, columns=_RATIO)


def to_summary(sums: dict[Group, Sums]) -> pd.DataFrame:
    """One row per group, averaged over its radii: the table people quote."""
    rows = []
    for group, total in sums.items():
        columns = measures(total)
        defined = total.other[0] > 0
        if not defined.any():
            continue
        spread = mean_dispersion(total)
        row: dict[str, Any] = asdict(group) | {"n_galaxies": total.galaxies, "n_views": int(total.other[0].max())}
        for name in ("dispersion", "dispersion_robust", "bias", "coverage_68", "coverage_95", "crps"):
            row[name] = columns[name][defined].mean()
        low, high = pd.Series(spread[1:]).quantile([0.1587, 0.8413])
        row |= {"dispersion_lo": low, "dispersion_hi": high}
        row["rmse"] = float(((columns["dispersion"] ** 2 + columns["bias"] ** 2) ** 0.5)[defined].mean())
        rows.append(row)
    return pd.DataFrame(rows).sort_values(COLUMNS[:5], kind="stable", ignore_index=True)


def write_tables(out: Path, store: Path, runs: list[Path], sums: dict[Group, Sums], part: str | None) -> pd.DataFrame:
    """table.csv and .parquet, ratios.csv, summary.csv, and tables.json that says where they come from."""
    out.mkdir(parents=True, exist_ok=True)
    table = to_table(sums)
    table.to_csv(out / "table.csv", index=False)
    table.to_parquet(out / "table.parquet", index=False)
    to_ratios(sums).to_csv(out / "ratios.csv", index=False)
    summary = to_summary(sums)
    summary.to_csv(out / "summary.csv", index=False)
    content = {"store": str(store), "runs": [str(r) for r in runs], "part": part or ALL, **map_store.provenance()}
    write_json(out / "tables.json", content)
    return summary
