"""Evaluate a block of galaxies in one task: make the predictions that are not kept yet, then measure them."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinmass.eval.classical.estimators import ESTIMATORS, ObservedViews
from kinmass.eval.tables.metrics import PerView, Sums, add_up, per_view, where_both_answer
from kinmass.eval.tables.predictions import (
    COLUMNS,
    N_SAMPLES,
    PENDING,
    PREDICTED,
    UNUSABLE,
    Damaged,
    KeptPredictions,
    Part,
    Source,
    check_current,
    columns,
    prepare,
    tokens,
)
from kinmass.gen.code import code_key
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.instruments.observe import CHANNELS
from kinmass.gen.storage import store
from kinmass.train.data.augmentation import Augmentation
from kinmass.train.data.dataset import RADII_RE, usable, views_of
from kinmass.train.run.checkpoint import FREE_SETTINGS, RunError, members_of, read_config
from kinmass.train.run.derived import CALIBRATION, OOD, UNSEEN, others_held
from kinmass.train.run.posterior import Inference, load
from kinmass.train.run.records import RunRecord
from kinmass.train.run.trained_on import same_galaxies

#: Name of the test group that pools every suite.
ALL = "all"
_CHANGED = "{run} has changed since the tables were begun; give the command again when nothing trains it"


@dataclass(frozen=True)
class Group:
    """Key of one set of table rows: an estimator on a test suite, on all of its views or on those of a bin.

    For all views, column is empty and bin is -1. A column of COLUMNS has bins numbered from 0. The column `common` has
    one bin, number 0: the views that gas, stars and both can all use, from which ratios between tracers are made; a
    column `common NAME` has the bins of the column NAME among these.
    Of a network there are columns `beside NAME`, with its sums in bin 0 and those of the classical estimator NAME in
    bin 1, both over the views and radii at which both have an answer.
    seed: that of a network which was trained several times; None for all of them together.
    """

    estimator: str
    instrument: str
    tracer: str
    train: str
    test: str
    column: str = ""
    bin: int = -1
    seed: int | None = None


def check_suites(suites: Sequence[str]) -> None:
    """Raise ValueError for test suites that a table could not tell apart, or would count twice."""
    if len(set(suites)) < len(suites):
        raise ValueError(f"a suite is named twice: {', '.join(suites)}")
    if ALL in suites and len(suites) > 1:
        raise ValueError(
            f"the suite {ALL!r} has the name that tables give to all suites together: test it by itself, --suites {ALL}"
        )


def sources_of(runs: Sequence[Path], out: Path, classical: bool = True) -> list[Source]:
    """Return a source for every run and tracer it answers for, and for the classical estimators with every instrument.

    Predictions of classical estimators are kept in `out`, as are those of runs that cannot be written to. Runs that
    differ only in their seed are one network, trained several times. Raises RunError for other runs that a table could
    not tell apart: of the same kind, or with different instruments of one name.
    """
    source_of_key: dict[tuple[object, ...], Source] = {}
    runs_of_kind: dict[tuple[str, ...], list[tuple[Path, dict[str, Any], RunRecord]]] = {}
    run_and_instrument: dict[str, tuple[Path, Instrument]] = {}
    for run in runs:
        infer = load(run)
        instrument = infer.instrument
        other_run, other_instrument = run_and_instrument.setdefault(instrument.name, (run, instrument))
        if other_instrument != instrument:
            raise RunError(
                f"{other_run} and {run} have different instruments of the same name {instrument.name}; "
                "rename one and train it again, or make two tables"
            )
        # Predictions of a colleague's run, which cannot be written to, are kept in `out`. The digest of the run's path
        # separates it from another run of the same name.
        folder_name = f"{run.name}-{_digest(str(run.absolute()).encode())}"
        folder = run.absolute() if os.access(run, os.W_OK) else out / "predictions" / folder_name
        files = digest_of_files(run)
        key = _key(files)
        for tracer in infer.answers():
            name, suites = _name_in_tables(infer), "+".join(sorted(infer.run["fit"]["suites"]))
            seed = infer.run["fit"]["seed"]
            source = Source(
                name, instrument.name, tracer, suites, folder / "predictions.zarr", tracer, key, run.absolute(), seed,
                files,
            )  # fmt: skip
            kind = name, instrument.name, tracer, suites
            of_kind = runs_of_kind.setdefault(kind, [])
            of_kind.append((run, _without_seed(infer), infer.run))
            first_run, first_settings, first_record = of_kind[0]
            same_seed = source_of_key.setdefault((*kind, seed), source)
            for other, _, record in of_kind[:-1]:
                _refuse_shared_members(other, record, run, infer.run)
            is_same = _is_same(first_settings, of_kind[-1][1]) and same_galaxies(first_record, infer.run)
            if same_seed is not source or not is_same:
                raise RunError(
                    f"{first_run if same_seed is source else same_seed.run} and {run} are both {name} for {tracer}, "
                    f"trained on {suites} through {instrument.name}, and differ in more than the seed (in settings, in "
                    "the suites that widen their intervals, or the galaxies they were trained on) or not at all: one "
                    "table cannot tell them apart; leave one out, and see `kinmass compare`"
                )
    for name, (_, instrument) in run_and_instrument.items() if classical else ():
        for label, (tracer, _) in ESTIMATORS.items():
            key = _key(label, instrument.model_dump_json())
            source = Source(label, name, tracer, "", out / "classical.zarr", f"{name}-{label}", key)
            source_of_key[label, name] = source
    return list(source_of_key.values())


def _refuse_shared_members(first_run: Path, first: RunRecord, run: Path, record: RunRecord) -> None:
    """Raise RunError for two ensembles, of other seeds, that have networks of one seed in common.

    Member i has the seed `seed + i`. Such ensembles differ by less than two trainings do.
    """
    members, shift = record["fit"]["members"], abs(record["fit"]["seed"] - first["fit"]["seed"])
    if members == first["fit"]["members"] and 0 < shift < members:
        raise RunError(
            f"{first_run} and {run} are ensembles of {members} that share members of the same seeds: train the second "
            f"with --seed {first['fit']['seed'] + members}"
        )


def _key(*parts: str) -> str:
    """Return a digest of the code and the packages that answer, and of what else an estimator's predictions depend on.

    Of a network that is the digest of its files, of a classical estimator its label and its instrument.
    """
    code = code_key("kinmass.eval.tables.tasks", ("numpy", "scipy", "torch", "zuko"))
    return _digest(code.encode(), *(part.encode() for part in parts))


def _require_same_code(source: Source, instruments: dict[str, Instrument]) -> None:
    """Raise RunError where this process has other code than the one that sent the source: it would answer otherwise."""
    parts = (source.files,) if source.run else (source.name, instruments[source.instrument].model_dump_json())
    if _key(*parts) != source.key:
        raise RunError(
            f"the worker {os.uname().nodename} runs other code or packages than the command that asks it; start the "
            "scheduler and its workers anew, with the same installation everywhere"
        )


def check_unchanged(sources: Sequence[Source]) -> None:
    """Raise RunError where a run was trained or calibrated anew since its source was made."""
    check_files({source.run: source.files for source in sources if source.run})


def check_files(files_of_runs: Mapping[Path, str]) -> None:
    """Raise RunError for a run whose files no longer have this digest."""
    for run, files in files_of_runs.items():
        if digest_of_files(run) != files:
            raise RunError(_CHANGED.format(run=run))


def digest_of_files(run: Path) -> str:
    """Return a digest of all files of a run, or an ensemble, that its predictions depend on."""
    files = [path for member in members_of(run) for path in (member / "run.json", member / "model.pt")]
    files += [run / CALIBRATION, run / OOD, *run.glob(UNSEEN)]
    return _digest(*(path.read_bytes() for path in files))


def _digest(*parts: bytes) -> str:
    """Return a digest of the parts and of where each ends."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _without_seed(infer: Inference) -> dict[str, Any]:
    """Return the settings that two trainings of one network share: what it was trained on and how, but not the seed.

    Nor which weights it began with, which are of another seed each; but for which tracers those were. And for which
    other suites its intervals are set.
    """
    settings = infer.run["fit"]
    free = {"seed", *FREE_SETTINGS} - {"leave_one_suite_out", "families"}
    same = {name: value for name, value in settings.items() if name not in free}
    widened = sorted(infer.unseen), sorted(others_held(infer.path))
    return same | {"model": infer.run["model"], "start_from": _began_with(infer), "unseen": widened}


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two trainings are of one network, by `_without_seed`; runs that are no more may be what fits."""
    begun, begun_other = one["start_from"], other["start_from"]
    is_begun_alike = begun == begun_other or "?" in begun + begun_other
    return is_begun_alike and len(begun) == len(begun_other) and one | {"start_from": []} == other | {"start_from": []}


def _began_with(infer: Inference) -> list[str]:
    """Return the tracers of the runs whose weights a run began with, "?" for one that is no more."""
    tracers = []
    for run in map(Path, infer.run["fit"]["start_from"]):
        try:
            tracers.append(str(read_config(run)["fit"]["tracer"]))
        except RunError:
            tracers.append("?")
    return sorted(tracers)


def _name_in_tables(infer: Inference) -> str:
    """Return a run's name in tables: cnn or cnn-any, and what varied while it was trained, as in cnn+scale+light."""
    fit = infer.run["fit"]
    varied = [name.removesuffix("_dex") for name, strength in vars(Augmentation.of(fit)).items() if strength]
    return "+".join(
        ["cnn-any" if infer.tracer == "any" else "cnn", *varied, *["relative"] * (fit["inputs"] == "relative")]
    )


@lru_cache(maxsize=32)
def _load_cached(run: Path, files: str) -> Inference:
    """Load a run once per worker, and again when `files`, a digest of its files, has changed.

    Raises RunError where its files are no longer those of the digest: predictions would be kept as another's.
    """
    torch.set_num_threads(1)  # one thread per worker: Dask already uses every core
    infer = load(run)
    if digest_of_files(run) != files:
        raise RunError(_CHANGED.format(run=run))
    return infer


def arguments_of_blocks(
    sources: Sequence[Source], instruments: dict[str, Instrument], store: Path, suites: Sequence[str], part: str | None
) -> list[tuple[Any, ...]]:
    """Prepare where predictions are kept, and return the arguments of a task for every block of galaxies."""
    parts = [Part(store.absolute(), suite, part) for suite in suites]
    for galaxies in parts:
        for source in sources:
            prepare(source, galaxies)
    return [(sources, instruments, galaxies, block) for galaxies in parts for block in galaxies.blocks()]


def predict_block(sources: Sequence[Source], instruments: dict[str, Instrument], part: Part, block: slice) -> int:
    """Predict and keep a block for those sources whose kept predictions are not current; return their number.

    Raises RunError where this process has other code than the one that made the sources.
    """
    for source in sources:
        _require_same_code(source, instruments)
    source_tokens = zip(sources, tokens(sources, part, block), strict=True)
    opened = [(source, KeptPredictions(source, part), token) for source, token in source_tokens]
    stale = [(source, kept, token) for source, kept, token in opened if not kept.is_current(block, token)]
    if not stale:
        return 0
    numbers, names, lineages = (x[block] for x in part.names)
    is_mapped = store.read(part.group, "status", numbers) == store.DONE
    views = views_of(part.group, part.suite, numbers[is_mapped], names[is_mapped], lineages[is_mapped])
    view_is_mapped = np.repeat(is_mapped, part.views)
    r_e, k = views.half_mass_radius_kpc.numpy(), len(RADII_RE)
    constant = {
        "state": np.full(len(view_is_mapped), PENDING, np.uint8),
        "log10_menc_true": np.full((len(view_is_mapped), k), np.nan),
    }
    constant["log10_menc_true"][view_is_mapped] = views.log10_menc
    for name, values in columns(part, numbers[is_mapped], views.maps.numpy(), r_e).items():
        constant[name] = np.full(len(view_is_mapped), np.nan)
        constant[name][view_is_mapped] = values
    # Networks of one instrument may be told how a view was taken or not: what is told comes after the eight maps.
    observed = {name: views.observed(instruments[name], told=True) for name in {s.instrument for s, *_ in stale}}
    usable_by = {
        (name, tracer): usable(views, tracer, instruments[name], observed[name])
        for name, tracer in {(s.instrument, s.tracer) for s, *_ in stale}
    }
    for source, kept, token in stale:
        is_usable = usable_by[source.instrument, source.tracer]
        rows = np.flatnonzero(view_is_mapped)[is_usable]
        constant["state"][view_is_mapped] = np.where(is_usable, PREDICTED, UNUSABLE)
        usable_views, usable_maps = views[is_usable], observed[source.instrument][torch.as_tensor(is_usable)]
        median, samples, log_prob, ood_score, beyond = np.full((len(view_is_mapped), k), np.nan), None, None, None, None
        if source.run is None:
            field_of_view_re = instruments[source.instrument].grid(views.maps.shape[-1], views.field_of_view_re)[1]
            estimate = ESTIMATORS[source.name][1]
            if len(usable_views):
                median[rows] = estimate(
                    ObservedViews(
                        usable_maps[:, :CHANNELS].numpy(), r_e[is_usable], field_of_view_re, np.array(RADII_RE)
                    )
                )
        else:
            samples = np.full((N_SAMPLES, len(view_is_mapped), k), np.nan, np.float32)
            log_prob, ood_score, beyond = np.full((3, len(view_is_mapped)), np.nan)
            if len(usable_views):
                infer = _load_cached(source.run, source.files)
                is_foreign = infer.foreign(usable_views.suite)
                posterior = infer(
                    usable_maps, usable_views.half_mass_radius_kpc, source.tracer, usable_views.names(), is_foreign
                )
                samples[:, rows] = posterior.samples(N_SAMPLES)
                log_prob[rows], ood_score[rows] = posterior.log_prob(usable_views.log10_menc), posterior.ood_score()
                beyond[rows] = posterior.beyond(N_SAMPLES)
        kept.write(block, token, constant, median, samples, log_prob, ood_score, beyond)
    return len(stale)


def measure_block(sources: Sequence[Source], part: Part, block: slice, checked: bool = False) -> dict[Group, Sums]:
    """Return the sums of every source over a block's views, over all and by bins, from the kept predictions.

    checked: the caller knows that these predictions are current. If not, raises RunError where they are not.
    """
    sums: dict[Group, Sums] = {}
    measured: dict[Source, tuple[PerView, dict[str, np.ndarray]]] = {}
    opened = [KeptPredictions(source, part) for source in sources]
    if not checked:
        check_current(opened, part, block)
    for source, predictions in zip(sources, opened, strict=True):
        estimates, data = predictions.read(block, checked=True)
        mapped = data["state"] != PENDING
        for values in data.values():
            values[~mapped] = 0
        measured[source] = (per_view(estimates), data)
    for source, (views, data) in measured.items():
        group = Group(source.name, source.instrument, source.tracer, source.train, part.suite, seed=source.seed)
        used = data["state"] == PREDICTED
        sums[group] = add_up(views[used], left_out=int((data["state"] == UNUSABLE).sum()))
        for column, i, in_bin in _bins(data, used):
            sums[replace(group, column=column, bin=i)] = add_up(views[in_bin])
    for (name, instrument, train), trio in _trios(measured).items():
        measured_trio = [measured[source] for source in trio]
        usable_by_all = np.all(
            [(d["state"] == PREDICTED) & (v.values[:, 0] > 0).all(1) for v, d in measured_trio], axis=0
        )
        for source, (v, data) in zip(trio, measured_trio, strict=True):
            group = Group(name, instrument, source.tracer, train, part.suite, "common", 0, source.seed)
            sums[group] = add_up(v[usable_by_all])
            for column, i, in_bin in _bins(data, usable_by_all):
                sums[replace(group, column=f"common {column}", bin=i)] = _without_residuals(add_up(v[in_bin]))
    for network, (views, _) in measured.items():
        for classical, (classical_views, _) in measured.items():
            if network.run is None or classical.run is not None or classical.instrument != network.instrument:
                continue
            for i, common in enumerate(where_both_answer(views, classical_views)):
                group = Group(
                    network.name, network.instrument, network.tracer, network.train, part.suite,
                    f"beside {classical.name}", i, network.seed,
                )  # fmt: skip
                sums[group] = _without_residuals(add_up(common))
    return sums


def _bins(data: dict[str, np.ndarray], chosen: np.ndarray) -> Iterable[tuple[str, int, np.ndarray]]:
    """Yield the name and number of every bin of COLUMNS with chosen views (N,) in it, and which these are."""
    for column, (_, edges) in COLUMNS.items():
        bin_number = np.digitize(data[column], edges) - 1
        bin_number[data[column] == edges[-1]] = len(edges) - 2  # a rotation support without end, of stars without sigma
        for i in range(len(edges) - 1):
            in_bin = chosen & (bin_number == i)
            if in_bin.any():
                yield column, i, in_bin


def _without_residuals(sums: Sums) -> Sums:
    """Return sums without histograms of residuals, which are most of what travels, where nothing is made of them."""
    return replace(sums, residual=sums.residual[:, :0])


def _trios(sources: Iterable[Source]) -> dict[tuple[str, str, str], list[Source]]:
    """Return networks that differ only in tracer and seed, by name, instrument and train, if all tracers are there."""
    trios: dict[tuple[str, str, str], list[Source]] = {}
    for source in sources:
        if source.run is not None:
            trios.setdefault((source.name, source.instrument, source.train), []).append(source)
    return {key: trio for key, trio in trios.items() if len({source.tracer for source in trio}) == 3}


def evaluate_block(
    sources: Sequence[Source], instruments: dict[str, Instrument], part: Part, block: slice
) -> dict[Group, Sums]:
    """Make the predictions of a block that are not kept yet, then return the sums over it: one task."""
    predict_block(sources, instruments, part, block)
    try:
        return measure_block(sources, part, block, checked=True)
    except Damaged:
        predict_block_anew(sources, instruments, part, block)
        return measure_block(sources, part, block, checked=True)


def predict_block_anew(sources: Sequence[Source], instruments: dict[str, Instrument], part: Part, block: slice) -> None:
    """Predict and keep a block as `predict_block` does, whatever is kept of it."""
    for source in sources:
        KeptPredictions(source, part).forget(block)
    predict_block(sources, instruments, part, block)
