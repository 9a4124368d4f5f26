"""Trained networks and classical estimators on blocks of views: what one Dask task does."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from eval.estimators import ESTIMATORS, Seen
from eval.metrics import Sums, add_up, crps_of_samples
from gen.instrument import Instrument
from gen.store import open_suite
from train.checkpoint import RunError, instrument_of, read_config
from train.dataset import RADII_RE, read_views, usable
from train.posterior import Inference, load

N_SAMPLES = 128
#: Ends of the central 68.27 and 95.45 % intervals.
QUANTILES = (0.15865, 0.84135, 0.02275, 0.97725)


@dataclass(frozen=True)
class Group:
    """What one set of table rows is about."""

    estimator: str
    instrument: str
    tracer: str
    train: str
    test: str


def check_maps(run: Path, store: Path, suite: str) -> None:
    """Raise RunError when a run was trained on observed maps of another size than it would see of a suite."""
    content, maps = read_config(run), open_suite(store, suite).attrs["config"]
    seen = instrument_of(run).grid(maps["pixels"], maps["field_of_view_re"])
    for key, here in zip(("pixels", "field_of_view_re"), seen, strict=True):
        if content["model"][key] != here:
            raise RunError(
                f"{run} was trained on maps with {key} = {content['model'][key]}, {store}/{suite} has {here} "
                "through the same instrument; map the suite with the same settings"
            )


def check_instruments(runs: list[Path]) -> None:
    """Raise RunError when two runs have different instruments of the same name: a table could not tell them apart."""
    known: dict[str, tuple[Path, Instrument]] = {}
    for run in runs:
        look = instrument_of(run)
        other, theirs = known.setdefault(look.name, (run, look))
        if theirs != look:
            raise RunError(
                f"{other} and {run} have different instruments of the same name {look.name}; "
                "rename one and train it again, or make two tables"
            )


@lru_cache(maxsize=32)
def _load(run: str) -> Inference:
    # One thread per worker: Dask already uses every core.
    torch.set_num_threads(1)
    return load(run)


def evaluate_block(
    runs: list[str], store: str, suite: str, rows: tuple[int, int], part: str | None
) -> dict[Group, Sums]:
    """Sums of every run, and of the classical estimators, over the galaxies rows[0]:rows[1] of a suite."""
    views = read_views(Path(store), suite, part, slice(*rows))
    found: dict[Group, Sums] = {}
    if not len(views):
        return found
    looks: dict[Instrument, torch.Tensor] = {}
    for run in runs:
        infer = _load(run)
        look, fit = infer.instrument, infer.run["fit"]
        if look not in looks:
            looks[look] = views.observed(look)
        for tracer in infer.answers():
            keep = usable(views, tracer, look)
            chosen, observed = views[keep], looks[look][torch.as_tensor(keep)]
            posterior = infer(observed, chosen.half_mass_radius_kpc, tracer, chosen.names())
            truth = chosen.log10_menc.numpy().astype(float)
            median, *ends = posterior.quantiles((0.5, *QUANTILES), N_SAMPLES)
            crps = crps_of_samples(posterior.samples(N_SAMPLES), truth)
            sums = add_up(chosen.galaxy, truth, median, np.stack(ends), crps, chosen.lineage)
            estimator = "cnn-any" if infer.tracer == "any" else "cnn"
            group = Group(estimator, look.name, tracer, "+".join(sorted(fit["suites"])), suite)
            found[group] = found[group] + sums if group in found else sums
    for look, observed in looks.items():
        _, field_of_view_re = look.grid(views.maps.shape[-1], views.field_of_view_re)
        for name, (tracer, estimate) in ESTIMATORS.items():
            keep = usable(views, tracer, look)
            chosen, radii = views[keep], np.array(RADII_RE)
            seen = Seen(observed.numpy()[keep], chosen.half_mass_radius_kpc.numpy(), field_of_view_re, radii)
            truth = chosen.log10_menc.numpy().astype(float)
            group = Group(name, look.name, tracer, "", suite)
            found[group] = add_up(chosen.galaxy, truth, estimate(seen), lineage=chosen.lineage)
    return found
