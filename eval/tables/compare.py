"""Is one run better than another, by how much, and is it more than chance?"""

from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pandas as pd

from kinmass.eval.tables.cluster import Cluster, sum_of_tasks
from kinmass.eval.tables.metrics import Sums, add_up, compared, joint_log_prob, mean_over_radii, per_view, replicates
from kinmass.eval.tables.predictions import PREDICTED, Kept, Part, Source, prepare
from kinmass.eval.tables.tasks import check_maps, predict_block, sources_of
from kinmass.gen.instrument import Instrument
from kinmass.train.run.checkpoint import RunError, instrument_of

#: What is compared, and whether more of it is better.
MEASURES = {"crps": False, "rmse": False, "dispersion": False, "bias": False, "coverage_68": False, "log_prob": True}
#: The score that decides: proper, in dex, and robust to a single profile (Gneiting & Raftery 2007).
DECISIVE = "crps"


def both_blocks(
    sources: tuple[Source, Source], looks: dict[str, Instrument], part: Part, block: slice
) -> dict[tuple[str, int], Sums]:
    """Sums of two sources over the views of a block that both can use: one task."""
    predict_block([sources[0]], looks, part, block)
    predict_block([sources[1]], looks, part, block)
    read = [Kept(source, part).read(block, checked=True) for source in sources]
    views = [per_view(estimates) for estimates, _ in read]
    pairs = zip(views, read, strict=True)
    common = np.all([(d["state"] == PREDICTED) & (v.values[:, 0] > 0).all(1) for v, (_, d) in pairs], axis=0)
    return {(part.suite, i): add_up(v[common]) for i, v in enumerate(views)}


def _source(run: Path, tracer: str | None, out: Path) -> Source:
    found = {source.tracer: source for source in sources_of([run], out.absolute(), classical=False)}
    if tracer and tracer not in found:
        raise RunError(f"{run} answers for {', '.join(found)}, not {tracer}")
    return found[tracer] if tracer else list(found.values())[-1]


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
    """One row per test suite (and `all`) and measure: a, b, b - a with its 68 % interval, and P(b better).

    On the views that both can use, averaged over radii, with a bootstrap over lineages that draws the same ones for
    both. Predictions of runs that cannot be written to are kept in `out`. `bias` is its absolute value and
    `coverage_68` the distance from 68.27 %. Raises RunError, StoreError or ValueError where nothing can be compared.
    """
    sources = _source(a, tracer, out), _source(b, tracer, out)
    looks = {instrument_of(run).name: instrument_of(run) for run in (a, b)}
    if len(looks) == 1 and instrument_of(a) != instrument_of(b):
        raise RunError(f"{a} and {b} have different instruments of the same name; rename one and train it again")
    arguments = []
    for suite in suites:
        check_maps(a, store, suite)
        check_maps(b, store, suite)
        galaxies = Part(store.absolute(), suite, part)
        for source in sources:
            prepare(source, galaxies)
        arguments += [(sources, looks, galaxies, block) for block in galaxies.blocks()]
    sums = sum_of_tasks(both_blocks, arguments, cluster)
    if len(suites) > 1:
        there = [suite for suite in suites if (suite, 0) in sums]  # some may have no galaxy in this part
        sums |= {("all", i): reduce(add, (sums[s, i] for s in there)) for i in (0, 1) if there}
    rows = []
    for suite in dict.fromkeys(suite for suite, _ in sums):
        pair = [sums[suite, i] for i in (0, 1)]
        if pair[0].galaxies < 2:
            continue
        for name, more_is_better in MEASURES.items():
            one, two = (_score(s, name) for s in pair)
            shown = compared(two - one)
            gain = (two - one)[1:] * (1 if more_is_better else -1)
            better = np.mean(gain > 0) + 0.5 * np.mean(gain == 0)
            row = {"test": suite, "measure": name, "n_galaxies": pair[0].galaxies, "a": one[0], "b": two[0]}
            rows.append(row | {"b-a": shown["value"], "lo": shown["lo"], "hi": shown["hi"], "b_better": float(better)})
    if not rows:
        raise ValueError(f"{a} and {b} have no two galaxies of {', '.join(suites)} in common to be compared on")
    return pd.DataFrame(rows)


def _score(sums: Sums, name: str) -> np.ndarray:
    if name == "log_prob":
        return joint_log_prob(sums)
    values = mean_over_radii(replicates(sums)[name])
    return np.abs(values - (0.6827 if name == "coverage_68" else 0.0)) if name in ("bias", "coverage_68") else values


def verdicts(table: pd.DataFrame) -> list[str]:
    """A sentence per test suite: which is better by CRPS, by how much, and whether it may be chance."""
    lines = []
    for row in table[table.measure == DECISIVE].to_dict("records"):
        better, share = ("B", row["b_better"]) if row["b-a"] < 0 else ("A", 1 - row["b_better"])
        worse = max(row["a"], row["b"])
        beyond = "beyond chance" if share > 0.975 else "which may be chance"
        lines.append(
            f"{row['test']}: {better} is better, its CRPS lower by {abs(row['b-a']):.4f} dex "
            f"({100 * abs(row['b-a']) / worse:.0f} %), {beyond} (probability {share:.3f}, {row['n_galaxies']} galaxies)"
        )
    return lines
