"""Compare two runs: which one is better, by how much, and whether the difference may be chance."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pandas as pd

from kinmass.eval.tables.cluster import Cluster, sum_of_tasks
from kinmass.eval.tables.metrics import (
    FEW_LINEAGES,
    Estimates,
    Sums,
    add_up,
    joint_log_prob,
    mean_over_radii,
    per_view,
    probability_above,
    replicates,
    value_and_interval,
)
from kinmass.eval.tables.predictions import PREDICTED, Damaged, KeptPredictions, Part, Source
from kinmass.eval.tables.tasks import (
    ALL,
    arguments_of_blocks,
    check_suites,
    check_unchanged,
    digest_of_files,
    predict_block,
    predict_block_anew,
    sources_of,
)
from kinmass.gen.instruments.model import Instrument
from kinmass.train.run.checkpoint import RunError, instrument_of, read_config
from kinmass.train.run.intervals import LEVELS
from kinmass.train.run.trained_on import check_maps

#: Measures that are compared, and whether a larger value is better.
MEASURES = {"crps": False, "rmse": False, "dispersion": False, "bias": False, "coverage_68": False, "log_prob": True}
#: The measure that decides which run is better: a proper score (Gneiting & Raftery 2007), in dex, and robust to a
#: single bad profile.
DECISIVE = "crps"
_WORDS = {"both": "gas and stars"}


def measure_pair(
    sources: tuple[Source, Source], instruments: dict[str, Instrument], part: Part, block: slice
) -> dict[tuple[str, int], Sums]:
    """Return the sums of two sources over those views of a block that both can use, by suite and 0 or 1: one task."""
    predict_block([sources[0]], instruments, part, block)
    predict_block([sources[1]], instruments, part, block)

    def read() -> list[tuple[Estimates, dict[str, np.ndarray]]]:
        """Return what is kept of both sources."""
        return [KeptPredictions(source, part).read(block, checked=True) for source in sources]

    try:
        predictions = read()
    except Damaged:
        for source in sources:
            predict_block_anew([source], instruments, part, block)
        predictions = read()
    views = [per_view(estimates) for estimates, _ in predictions]
    pairs = zip(views, predictions, strict=True)
    usable_by_both = np.all([(d["state"] == PREDICTED) & (v.values[:, 0] > 0).all(1) for v, (_, d) in pairs], axis=0)
    return {(part.suite, i): add_up(v[usable_by_both]) for i, v in enumerate(views)}


def _source_of_run(run: Path, tracer: str | None, out: Path) -> Source:
    """Return the run's source for a tracer, or its last one (gas, stars, both) for None."""
    source_of_tracer = {source.tracer: source for source in sources_of([run], out.absolute(), classical=False)}
    if tracer and tracer not in source_of_tracer:
        raise RunError(f"{run} answers for {', '.join(source_of_tracer)}, not {tracer}; choose another --tracer or run")
    return source_of_tracer[tracer] if tracer else list(source_of_tracer.values())[-1]


def compare(
    a: Path,
    b: Path,
    store: Path,
    suites: list[str],
    part: str | None,
    tracer: str | None,
    cluster: Cluster,
    out: Path = Path(),
) -> pd.DataFrame:
    """Return one row per test suite (and `all`) and measure: a, b, b - a with its 68 % interval, and P(b better).

    Measures are taken on the views that both runs can use and averaged over radii. The bootstrap over lineages draws
    the same lineages for both runs. In this table, `bias` is the absolute value of the bias and `coverage_68` the
    distance of the coverage from 68.27 %, at each radius. `few_lineages` says that there are fewer than FEW_LINEAGES.
    Predictions of runs that cannot be written to are kept in `out`. Raises RunError, StoreError or ValueError where
    nothing can be compared.
    """
    check_suites(suites)
    sources = _source_of_run(a, tracer, out), _source_of_run(b, tracer, out)
    instruments = {instrument_of(run).name: instrument_of(run) for run in (a, b)}
    if len(instruments) == 1 and instrument_of(a) != instrument_of(b):
        raise RunError(f"{a} and {b} have different instruments of the same name; rename one and train it again")
    for suite in suites:
        check_maps(a, store, suite)
        check_maps(b, store, suite)
    sums = sum_of_tasks(measure_pair, arguments_of_blocks(sources, instruments, store, suites, part), cluster)
    check_unchanged(sources)
    if len(suites) > 1:
        # A suite may have no galaxy in this part of the split.
        suites_with_galaxies = [suite for suite in suites if (suite, 0) in sums]
        sums |= {
            (ALL, i): reduce(add, (sums[s, i] for s in suites_with_galaxies)) for i in (0, 1) if suites_with_galaxies
        }
    rows = []
    for suite in dict.fromkeys(suite for suite, _ in sums):
        pair = [sums[suite, i] for i in (0, 1)]
        if pair[0].galaxies < 2:
            continue
        for name, more_is_better in MEASURES.items():
            score_a, score_b = (_score(s, name) for s in pair)
            difference = value_and_interval(score_b - score_a)
            gain = (score_b - score_a)[1:] * (1 if more_is_better else -1)
            row = {"test": suite, "measure": name, "n_galaxies": pair[0].galaxies, "a": score_a[0], "b": score_b[0]}
            interval = {"b-a": difference["value"], "lo": difference["lo"], "hi": difference["hi"]}
            few = len(pair[0].lineages) < FEW_LINEAGES
            rows.append(row | interval | {"b_better": probability_above(gain, 0.0), "few_lineages": few})
    if not rows:
        raise ValueError(f"{a} and {b} have no two galaxies of {', '.join(suites)} in common to be compared on")
    return pd.DataFrame(rows)


def _score(sums: Sums, name: str) -> np.ndarray:
    """Return a measure (B + 1,), mean over radii, and its bootstrap replicates, as `compare` defines it."""
    if name == "log_prob":
        return joint_log_prob(sums)
    values = replicates(sums)[name]
    if name in ("bias", "coverage_68"):  # too much at one radius does not make up for too little at another
        values = np.abs(values - (LEVELS[0] if name == "coverage_68" else 0.0))
    return mean_over_radii(values)


def same_run(a: Path, b: Path) -> bool:
    """Whether two folders hold one run, or copies of it: the same files, as far as predictions depend on them."""
    return digest_of_files(a) == digest_of_files(b)


def unlike_in_what_they_see(a: Path, b: Path, tracer: str | None) -> list[str]:
    """Return a sentence where two runs that are compared see galaxies by other tracers, or through other instruments.

    tracer: the one asked for, of runs that answer for any. Raises RunError.
    """
    tracers = [
        tracer or "both" if trained_on == "any" else trained_on
        for trained_on in (read_config(run)["fit"]["tracer"] for run in (a, b))
    ]
    instruments = [instrument_of(run).name for run in (a, b)]
    seen = [f"{_WORDS.get(tracer, tracer)} through {name}" for tracer, name in zip(tracers, instruments, strict=True)]
    return [f"A sees {seen[0]}, B {seen[1]}: what differs is not the network alone"] if seen[0] != seen[1] else []


def not_compared(table: pd.DataFrame, suites: Sequence[str]) -> list[str]:
    """Return a sentence for each test suite that has too few galaxies to have rows in a table of `compare`."""
    missing = [suite for suite in suites if suite not in set(table.test)]
    return [f"{suite}: fewer than two galaxies that both can use; not compared by itself" for suite in missing]


def verdicts(table: pd.DataFrame) -> list[str]:
    """Return one sentence per test suite: which run has the lower CRPS, by how much, and whether it may be chance.

    table: from `compare`.
    """
    lines = []
    for row in table[table.measure == DECISIVE].to_dict("records"):
        if row["b-a"] == 0:
            lines.append(f"{row['test']}: neither is better, both have the same CRPS ({row['n_galaxies']} galaxies)")
            continue
        better, probability = ("B", row["b_better"]) if row["b-a"] < 0 else ("A", 1 - row["b_better"])
        worse_crps = max(row["a"], row["b"])
        chance = "beyond chance" if probability > 0.975 and not row["few_lineages"] else "which may be chance"
        said = f"it is the better one with a probability of {probability:.3f}"
        if not np.isfinite(probability):
            said = "of a single lineage there is nothing to draw"
        elif row["few_lineages"]:
            said += f", from draws of fewer than {FEW_LINEAGES} lineages"
        lines.append(
            f"{row['test']}: {better} is better, its CRPS lower by {abs(row['b-a']):.4f} dex "
            f"({100 * abs(row['b-a']) / worse_crps:.0f} %), {chance} ({said}; {row['n_galaxies']} galaxies)"
        )
    return lines
