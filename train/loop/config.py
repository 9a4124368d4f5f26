"""What a fit is asked for, checked on creation."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # and torch with them: a command's --help needs none
    from kinmass.gen.instrument import Instrument
    from kinmass.train.data.augmentation import Augmentation

#: Numbers that follow from it and from a step have to be below 2^64 (`train.loop.fitter`).
MOST_SEED = 2**28
PRECISIONS = ("auto", "float32", "bf16", "float64")
#: What closes most of the gap between suites (docs/generalization.md). Gas alone needs its density: seen face-on, a
#: disc has no other sign of its mass.
ROBUST: dict[str, dict[str, Any]] = {
    "gas": {"scale_dex": 0.2},
    "stars": {"scale_dex": 0.3, "heat": 0.3, "inputs": "relative"},
}


@dataclass(frozen=True)
class FitConfig:
    """One fit, checked on creation. Raises ValueError with what is wrong."""

    store: str
    tracer: str
    suites: tuple[str, ...]
    instrument: str = "ifu"  # a built-in name, or a YAML file
    encoder: str = "polar"
    head: str = "flow"
    norm: str = "group"
    inputs: str = "scale_free"
    width: int = 16
    galaxies: int = 0  # training galaxies at most, 0 for all: the first in the order of a hash of their names
    views: int = 0  # views per galaxy at most, 0 for all
    members: int = 1  # of the deep ensemble this network belongs to
    steps: int = 1000  # optimiser steps at most
    round_steps: int = 100  # steps between validations
    patience: int = 8  # rounds without a better validation before stopping
    batch: int = 64  # views per step, over all processes
    learning_rate: float = 1.5e-3  # at the peak of a one-cycle schedule
    weight_decay: float = 1e-2
    seed: int = 0
    precision: str = "auto"  # of the encoders: bf16 on GPUs and float32 else; the density has float32 or float64
    compile: bool = False  # torch.compile, on GPUs only
    checkpoint_minutes: float = 5.0  # between checkpoints inside a round; each round ends with one
    scale_dex: float = 0.0  # strengths of what varies while training: `train.data.augmentation`
    light_dex: float = 0.0
    heat: float = 0.0
    tilt: float = 0.0
    fade: float = 0.0
    no_dispersion: float = 0.0
    across: bool = False  # fit once more without each suite, for intervals on suites that were not trained on
    memory_gb: float = 0.0  # for maps, per node; more of them are streamed. 0: half of what is free

    def __post_init__(self) -> None:
        from kinmass.train.data.augmentation import Augmentation
        from kinmass.train.model.scaling import tracers_of

        tracers_of(self.tracer)
        _ = self.look
        for name in ("width", "steps", "round_steps", "patience", "batch", "members"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("galaxies", "views"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 1, or 0 for all, not {getattr(self, name)}")
        if not 0 <= self.seed < MOST_SEED:
            raise ValueError(f"seed must be from 0 to {MOST_SEED - 1}, not {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4, not {self.width}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        for name in ("weight_decay", "checkpoint_minutes", "memory_gb", *Augmentation.__dataclass_fields__):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number that is not negative: {getattr(self, name)}")
        if not self.suites:
            raise ValueError("no suites to train on")
        if self.across and len(self.suites) < 2:
            raise ValueError("--across leaves out one suite after another: it needs two at least")

    @classmethod
    def asked(
        cls, store: str, tracer: str, suites: tuple[str, ...], robust: bool = False, **options: Any
    ) -> "FitConfig":
        """With the options that belong to `robust`, each where it is not given, be it as its default."""
        if robust:
            options = {**ROBUST["gas" if tracer == "gas" else "stars"], **options, "across": True}
        return cls(store, tracer, suites, **options)

    @cached_property
    def look(self) -> "Instrument":
        """The instrument, read once."""
        from kinmass.gen.instrument import instrument

        return instrument(self.instrument)

    @cached_property
    def augmentation(self) -> "Augmentation":
        """What varies while training."""
        from kinmass.train.data.augmentation import Augmentation

        return Augmentation(**{name: getattr(self, name) for name in Augmentation.__dataclass_fields__})
