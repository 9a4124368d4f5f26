"""What one task does with a block of galaxies: predictions that are not kept yet, then their measures."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from kinmass.eval.classical.estimators import ESTIMATORS, ObservedViews
from kinmass.eval.tables.metrics import PerView, Sums, add_up, per_view
from kinmass.eval.tables.predictions import (
    COLUMNS,
    N_SAMPLES,
    PENDING,
    PREDICTED,
    UNUSABLE,
    Kept,
    Part,
    Source,
    check_kept,
    columns,
    tokens,
)
from kinmass.gen.code import code_key
from kinmass.gen.instrument import Instrument
from kinmass.gen.storage import store
from kinmass.train.data.augmentation import Augmentation
from kinmass.train.data.dataset import RADII_RE, usable, views_of
from kinmass.train.run.checkpoint import RunError, instrument_of, members_of, read_config
from kinmass.train.run.posterior import UNSEEN, Inference, load


@dataclass(frozen=True)
class Group:
    """What one set of table rows is about: an estimator on a test suite, all of its views or those of a bin.

    column and bin are empty for all views. A column of COLUMNS has bins numbered from 0; the column `common` has one
    bin, the views that gas, stars and both can all use: what ratios between tracers are made of.
    """

    estimator: str
    instrument: str
    tracer: str
    train: str
    test: str
    column: str = ""
    bin: int = -1


def check_maps(run: Path, path: Path, suite: str) -> None:
    """Raise RunError when a run has other radii, or was trained on observed maps of another size than a suite's."""
    content, maps = read_config(run), store.open_suite(path, suite).attrs["config"]
    if list(content["model"]["radii_re"]) != list(RADII_RE):
        raise RunError(
            f"{run} infers masses at the radii {content['model']['radii_re']} R_e, this code evaluates at "
            f"{list(RADII_RE)}; train it again"
        )
    seen = instrument_of(run).grid(maps["pixels"], maps["field_of_view_re"])
    for key, here in zip(("pixels", "field_of_view_re"), seen, strict=True):
        if content["model"][key] != here:
            raise RunError(
                f"{run} was trained on maps with {key} = {content['model'][key]}, {path}/{suite} has {here} "
                "through the same instrument; map the suite with the same settings"
            )


def sources_of(runs: Sequence[Path], out: Path, classical: bool = True) -> list[Source]:
    """Every run for every tracer it answers for, and the classical estimators through every run's instrument.

    out is where classical estimators' predictions are kept, and those of runs that cannot be written to. Raises
    RunError for runs that a table could not tell apart: of the same kind, or with different instruments of one name.
    """
    code = code_key("kinmass.eval.tables.tasks", ("numpy", "scipy", "torch", "zuko")).encode()
    found: dict[tuple[str, ...], Source] = {}
    looks: dict[str, tuple[Path, Instrument]] = {}
    for run in runs:
        infer = load(run)
        look = infer.instrument
        other, theirs = looks.setdefault(look.name, (run, look))
        if theirs != look:
            raise RunError(
                f"{other} and {run} have different instruments of the same name {look.name}; "
                "rename one and train it again, or make two tables"
            )
        # A colleague's run is kept elsewhere, apart from another colleague's of the same name.
        theirs_is = f"{run.name}-{_digest(str(run.absolute()).encode())}"
        home = run if os.access(run, os.W_OK) else out / "predictions" / theirs_is
        files = [f for m in members_of(run) for f in (m / "run.json", m / "model.pt")]
        files += [run / "calibration.json", run / "ood.pt", *run.glob(UNSEEN)]
        key = _digest(code, *(f.read_bytes() for f in files))
        for tracer in infer.answers():
            name, suites = _kind(infer), "+".join(sorted(infer.run["fit"]["suites"]))
            source = Source(name, look.name, tracer, suites, home / "predictions.zarr", tracer, key, run)
            same = found.setdefault((name, look.name, tracer, suites), source)
            if same is not source:
                raise RunError(
                    f"{same.run} and {run} are both {name} for {tracer}, trained on {suites} through {look.name}: one "
                    "table cannot tell them apart; leave one out, and see `kinmass compare`"
                )
    for name, (_, look) in looks.items() if classical else ():
        for label, (tracer, _) in ESTIMATORS.items():
            key = _digest(code, label.encode(), look.model_dump_json().encode())
            source = Source(label, name, tracer, "", out / "classical.zarr", f"{name}-{label}", key)
            found[label, name] = source
    return list(found.values())


def _digest(*parts: bytes) -> str:
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def _kind(infer: Inference) -> str:
    """What a run is called in tables: cnn, cnn-any, and what varied while it was trained, as in cnn+scale+light."""
    fit = infer.run["fit"]
    varied = [name.removesuffix("_dex") for name in Augmentation.__dataclass_fields__ if fit.get(name)]
    return "+".join(
        ["cnn-any" if infer.tracer == "any" else "cnn", *varied, *["relative"] * (fit["inputs"] == "relative")]
    )


@lru_cache(maxsize=32)
def _load(run: Path, key: str) -> Inference:
    """A run, once per worker; the key changes with what is in its folder."""
    torch.set_num_threads(1)  # one thread per worker: Dask already uses every core
    return load(run)


def predict_block(sources: Sequence[Source], looks: dict[str, Instrument], part: Part, block: slice) -> int:
    """Predict what is not kept of a block; how many sources had to be asked."""
    wanted_of = zip(sources, tokens(sources, part, block), strict=True)
    asked = [(source, Kept(source, part), wanted) for source, wanted in wanted_of]
    stale = [(source, kept, wanted) for source, kept, wanted in asked if not kept.holds(block, wanted)]
    if not stale:
        return 0
    numbers, names, lineages = (x[block] for x in part.names)
    done = store.read(part.group, "status", numbers) == store.DONE
    views = views_of(part.group, part.suite, numbers[done], names[done], lineages[done])
    mapped = np.repeat(done, part.views)
    r_e, k = views.half_mass_radius_kpc.numpy(), len(RADII_RE)
    constant = {"state": np.full(len(mapped), PENDING, np.uint8), "log10_menc_true": np.full((len(mapped), k), np.nan)}
    constant["log10_menc_true"][mapped] = views.log10_menc
    for name, values in columns(part, numbers[done], views.maps.numpy(), r_e).items():
        constant[name] = np.full(len(mapped), np.nan)
        constant[name][mapped] = values
    observed = {name: views.observed(looks[name]) for name in {s.instrument for s, *_ in stale}}
    good = {
        (name, tracer): usable(views, tracer, looks[name], observed[name])
        for name, tracer in {(s.instrument, s.tracer) for s, *_ in stale}
    }
    for source, kept, wanted in stale:
        keep = good[source.instrument, source.tracer]
        rows = np.flatnonzero(mapped)[keep]
        constant["state"][mapped] = np.where(keep, PREDICTED, UNUSABLE)
        chosen, seen = views[keep], observed[source.instrument][torch.as_tensor(keep)]
        median, samples, log_prob, ood_score, beyond = np.full((len(mapped), k), np.nan), None, None, None, None
        if source.run is None:
            field = looks[source.instrument].grid(views.maps.shape[-1], views.field_of_view_re)[1]
            estimate = ESTIMATORS[source.name][1]
            if len(chosen):
                median[rows] = estimate(ObservedViews(seen.numpy(), r_e[keep], field, np.array(RADII_RE)))
        else:
            samples = np.full((N_SAMPLES, len(mapped), k), np.nan, np.float32)
            log_prob, ood_score, beyond = np.full((3, len(mapped)), np.nan)
            if len(chosen):
                infer = _load(source.run, source.key)
                unseen = infer.foreign(chosen.suite)
                posterior = infer(seen, chosen.half_mass_radius_kpc, source.tracer, chosen.names(), unseen)
                samples[:, rows] = posterior.samples(N_SAMPLES)
                log_prob[rows], ood_score[rows] = posterior.log_prob(chosen.log10_menc), posterior.ood_score()
                beyond[rows] = posterior.beyond(N_SAMPLES)
        kept.write(block, wanted, constant, median, samples, log_prob, ood_score, beyond)
    return len(stale)


def measure_block(sources: Sequence[Source], part: Part, block: slice, checked: bool = False) -> dict[Group, Sums]:
    """Sums of every source over a block's views, all of them and by bins, from what is kept.

    checked: what is kept is known to be of the maps as they are. Raises RunError where it turns out not to be.
    """
    found: dict[Group, Sums] = {}
    kept: dict[Source, tuple[PerView, dict[str, np.ndarray]]] = {}
    opened = [Kept(source, part) for source in sources]
    if not checked:
        check_kept(opened, part, block)
    for source, there in zip(sources, opened, strict=True):
        estimates, data = there.read(block, checked=True)
        estimates.lineage = np.array([f"{part.suite}/{name}" for name in estimates.lineage], dtype=object)
        mapped = data["state"] != PENDING
        for values in data.values():
            values[~mapped] = 0
        kept[source] = (per_view(estimates), data)
    for source, (views, data) in kept.items():
        group = Group(source.name, source.instrument, source.tracer, source.train, part.suite)
        used = data["state"] == PREDICTED
        found[group] = add_up(views[used], left_out=int((data["state"] == UNUSABLE).sum()))
        for column, (_, edges) in COLUMNS.items():
            number = np.digitize(data[column], edges) - 1
            for i in range(len(edges) - 1):
                here = used & (number == i)
                if here.any():
                    found[replace(group, column=column, bin=i)] = add_up(views[here])
    for (name, instrument, train), trio in _trios(kept).items():
        three = [kept[source] for source in trio]
        common = np.all([(d["state"] == PREDICTED) & (v.values[:, 0] > 0).all(1) for v, d in three], axis=0)
        for source, (v, _) in zip(trio, three, strict=True):
            found[Group(name, instrument, source.tracer, train, part.suite, "common", 0)] = add_up(v[common])
    return found


def _trios(sources: Iterable[Source]) -> dict[tuple[str, str, str], list[Source]]:
    """Networks that differ in the tracer alone, where there are all three."""
    found: dict[tuple[str, str, str], list[Source]] = {}
    for s in sources:
        if s.run is not None:
            found.setdefault((s.name, s.instrument, s.train), []).append(s)
    return {key: trio for key, trio in found.items() if len(trio) == 3}


def evaluate_block(
    sources: Sequence[Source], looks: dict[str, Instrument], part: Part, block: slice
) -> dict[Group, Sums]:
    """Predict what is not kept of a block, then measure it: one task."""
    predict_block(sources, looks, part, block)
    return measure_block(sources, part, block, checked=True)
