"""What is written in a run folder: the keys of run.json and of checkpoints, and what each holds.

They are plain dictionaries, as JSON and torch's weights-only loader give them; `checkpoint.py` checks what is read.
"""

from typing import Any, NotRequired, TypedDict

import torch

from kinmass.gen.code import Provenance


class SuiteIdentity(TypedDict):
    """What identifies the galaxies of a suite, wherever its store lies: names is a hash of them, in their order.

    sizes: R_e [kpc] of the first view of a few galaxies, by their numbers; masses: their total mass [Msun] inside three
    of these; lineages: a hash of those by which they are split, in their order; done: how many are mapped. These are
    younger than the others.
    """

    schema_version: int
    config: dict[str, Any]
    galaxies: int
    names: str
    sizes: NotRequired[dict[str, float]]
    masses: NotRequired[dict[str, float]]
    lineages: NotRequired[str]
    done: NotRequired[int]


class Seen(TypedDict):
    """Which galaxies of its suites' training part a run's weights have seen, also before it began with them.

    views: most views of each, 0 for all; lineages: `data.loader.lineage_key` of each, none for all.
    """

    views: int
    lineages: list[str]


class Best(TypedDict):
    """The best validation so far: loss (calibrated) [nats], step; dispersion and bias [dex], means over radii.

    Of a single galaxy there is no dispersion.
    """

    loss: float
    step: NotRequired[int]
    dispersion: NotRequired[float]
    bias: NotRequired[float]


class FitSettings(TypedDict):
    """The settings of `train.loop.config.FitConfig`, which says what each means; instrument: its name."""

    store: str
    tracer: str
    suites: list[str]
    instrument: str
    encoder: str
    head: str
    norm: str
    inputs: str
    told: bool | None
    join: str
    width: int
    galaxies: int
    views: int
    members: int
    steps: int
    round_steps: int
    patience: int
    batch: int
    learning_rate: float
    weight_decay: float
    ema: float
    start_from: list[str]
    alone_weight: float
    seed: int
    precision: str
    compile: bool
    cuda_graph: bool
    checkpoint_minutes: float
    scale_dex: float
    light_dex: float
    heat: float
    tilt: float
    fade: float
    no_dispersion: float
    radius_dex: float
    leave_one_suite_out: bool
    families: list[str]
    memory_gb: float


class RunRecord(Provenance):
    """run.json. model: of `ModelConfig.to_json`; fit: settings; store: by suite; training: which views.

    seen: which galaxies; runs of before that was kept do not tell.
    """

    schema: int
    model: dict[str, Any]
    fit: FitSettings
    instrument: dict[str, Any]
    store: dict[str, SuiteIdentity]
    training: dict[str, Any]
    seen: NotRequired[Seen]
    finished: bool
    # Of a run that is finished. weights: a digest of model.pt.
    steps: NotRequired[int]
    best: NotRequired[Best]
    weights: NotRequired[str]


class FitState(TypedDict):
    """What a fit needs to go on, beside its settings. sums: of losses and gradients in this round, by process."""

    model: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    schedule: dict[str, Any]
    step: int
    stale: int
    best: Best
    best_weights: dict[str, torch.Tensor]
    mean: dict[str, torch.Tensor]
    round_step: int
    sums: list[list[float]]


class FixedState(TypedDict):
    """What stays the same from one checkpoint of a run to the next. galaxies: by suite the status of each (G,)."""

    galaxies: dict[str, torch.Tensor]
    memory_gb: float
    window: int
    run: RunRecord


class Checkpoint(FitState, FixedState):
    """last.pt and previous.pt."""
