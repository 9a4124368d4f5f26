"""The settings of one fit, checked when they are made."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # These import torch, which a command's --help does not need.
    from kinmass.gen.instruments.model import Instrument
    from kinmass.train.data.augmentation import Augmentation

#: Seeds are below this: the numbers that `train.loop.fitter` makes from a seed and a step have to be below 2^64.
SEED_LIMIT = 2**28
#: With fewer views of a batch than this, the host that starts a GPU's work sets the pace of a step, not the GPU.
VIEWS_FOR_A_GPU = 256
PRECISIONS = ("auto", "float32", "bf16", "float64")
#: Options of `--robust`, which close most of the gap between suites (docs/explanation/change-of-simulation.md). Gas
#: alone keeps its absolute density as an input: a disc seen face-on shows no other sign of its mass.
ROBUST: dict[str, dict[str, Any]] = {
    "gas": {"scale_dex": 0.2},
    "stars": {"scale_dex": 0.3, "heat": 0.3, "inputs": "relative"},
}


@dataclass(frozen=True)
class FitConfig:
    """The settings of one fit, checked when they are made. Raises ValueError with what is wrong."""

    store: str
    tracer: str
    suites: tuple[str, ...]
    instrument: str = "ifu"  # a built-in name, or a YAML file
    encoder: str = "polar"
    head: str = "flow"
    norm: str = "group"
    inputs: str = "scale_free"
    told: bool | None = None  # the network sees how a view was taken; None: where the instrument varies
    join: str = "concat"
    width: int = 16
    galaxies: int = 0  # most lineages (galaxies' histories) to train on, 0 for all; the first by a hash of their names
    views: int = 0  # most views per galaxy, 0 for all
    members: int = 1  # networks in the deep ensemble that this network belongs to
    steps: int = 1000  # most optimiser steps
    round_steps: int = 100  # steps between validations
    patience: int = 0  # rounds without a better validation before stopping; 0: to the end of the schedule
    batch: int = 64  # views per step, over all processes; 0: as many as keep the GPUs busy, with the rate that suits
    learning_rate: float = 1.5e-3  # at the peak of a one-cycle schedule; where `batch` is 0, that of 64 views
    weight_decay: float = 1e-2
    ema: float = 0.0  # keep the mean of weights over this many steps, exponentially weighted; 0: the last step's
    start_from: tuple[str, ...] = ()  # run folders of single networks whose weights are begun with, where names agree
    alone_weight: float = (
        0.3  # in the loss of `both`: of the posteriors from each tracer by itself, beside that of both
    )
    seed: int = 0
    precision: str = "auto"  # of the encoders; auto: bf16 on GPUs that have it, else float32. Never of the density
    compile: bool = False  # use torch.compile, on GPUs only
    cuda_graph: bool = True  # on GPUs, record the work of a step once and replay it
    checkpoint_minutes: float = 5.0  # between checkpoints inside a round; each round ends with a checkpoint
    scale_dex: float = 0.0  # this and the next six: strengths of the variation in training (`train.data.augmentation`)
    light_dex: float = 0.0
    heat: float = 0.0
    tilt: float = 0.0
    fade: float = 0.0
    no_dispersion: float = 0.0
    radius_dex: float = 0.0
    leave_one_suite_out: bool = (
        False  # fit once more without each suite, to set the intervals for suites not trained on
    )
    families: tuple[str, ...] = ()  # suites that are left out together, as "a+b"; others are left out by themselves
    memory_gb: float = 0.0  # memory for maps, per node [GB]; a larger store is streamed. 0: half of the free memory

    def __post_init__(self) -> None:
        from kinmass.train.data.augmentation import Augmentation
        from kinmass.train.model.scaling import tracers_of

        tracers_of(self.tracer)
        _ = self.instrument_model
        for name in ("width", "steps", "round_steps", "members"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if 0 < self.ema < 1:
            raise ValueError(f"ema must be at least 1 step, or 0 for none, not {self.ema}")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 1, or 0 for none, not {self.patience}")
        if self.batch < 0:
            raise ValueError(
                f"batch must be at least 1, or 0 (--batch auto) for as many as suit the machine, not {self.batch}"
            )
        for name in ("galaxies", "views"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 1, or 0 for all, not {getattr(self, name)}")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"seed must be from 0 to {SEED_LIMIT - 1}, not {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4, not {self.width}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        for name in (
            "weight_decay",
            "ema",
            "alone_weight",
            "checkpoint_minutes",
            "memory_gb",
            *Augmentation.__dataclass_fields__,
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or a larger number, not {getattr(self, name)}")
        for name in ("fade", "no_dispersion"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is a share of views, from 0 to 1, not {getattr(self, name)}")
        if not self.suites:
            raise ValueError("there are no suites to train on; name some by --suites")
        if len(set(self.suites)) < len(self.suites):
            raise ValueError(f"a suite is named twice: {', '.join(self.suites)}")
        if self.leave_one_suite_out and self.start_from:
            raise ValueError(
                "--leave-one-suite-out cannot start from weights that have seen the suite left out; leave out "
                "--start-from"
            )
        if self.leave_one_suite_out and len(self.suites) < 2:
            raise ValueError(
                "--leave-one-suite-out leaves out one suite after another and needs at least two; map another suite, "
                "or leave the option out"
            )
        if self.families:
            self._check_families()

    def _check_families(self) -> None:
        named = [suite for family in self.families for suite in family.split("+")]
        if not self.leave_one_suite_out:
            raise ValueError("--families says what --leave-one-suite-out leaves out together; give that, too")
        if unknown := [suite for suite in named if suite not in self.suites]:
            raise ValueError(f"--families names {unknown[0]!r}, which is none of the suites {', '.join(self.suites)}")
        if len(set(named)) < len(named):
            raise ValueError(f"--families names a suite twice: {' '.join(self.families)}")
        if len(self.left_out_together()) < 2:
            raise ValueError(
                f"--families {self.families[0]} leaves no suite to train on without them; name those of one code or "
                "generator only"
            )

    def left_out_together(self) -> list[tuple[str, ...]]:
        """Return the families of suites, each of which `leave_one_suite_out` leaves out; a suite may be one by itself.

        >>> config = FitConfig("maps.zarr", "gas", ("a", "b", "c"), leave_one_suite_out=True, families=("a+c",))
        >>> config.left_out_together()
        [('a', 'c'), ('b',)]
        """
        families = [tuple(family.split("+")) for family in self.families]
        named = {suite for family in families for suite in family}
        return families + [(suite,) for suite in self.suites if suite not in named]

    def refuse_processes(self, processes: int, has_gpus: bool, words: str = "") -> None:
        """Raise ValueError where so many processes, with or without GPUs, cannot train with these settings.

        words: the processes in words, where these say more than their number.
        """
        if self.batch % processes:  # Nil where the batch is chosen for them.
            raise ValueError(
                f"{words or f'{processes} processes'} cannot share a batch of {self.batch} views evenly; take "
                f"a multiple of {processes} as --batch or, for a run that was begun, processes whose number divides it"
            )
        if self.norm == "batch" and processes > 1:
            raise ValueError(
                "--norm batch normalises over the views of one process only; with several processes take --norm group"
            )
        if self.compile and not has_gpus:  # Seen on torch 2.13: gradients of zuko's NSF were wrong by 10 %.
            raise ValueError(
                "--compile is for GPUs alone: on processors torch's compiler gives wrong gradients; leave it out"
            )

    @classmethod
    def from_options(
        cls, store: str, tracer: str, suites: tuple[str, ...], robust: bool = False, **options: Any
    ) -> "FitConfig":
        """Make a FitConfig from options; `robust` adds its own options where `options` does not name them.

        An option that is named keeps its value, also where that value is its default. Raises as FitConfig.
        """
        if robust:
            options = {**ROBUST["gas" if tracer == "gas" else "stars"], **options, "leave_one_suite_out": True}
        options["start_from"] = tuple(str(Path(run).absolute()) for run in options.get("start_from", ()))
        options["families"] = tuple(options.get("families", ()))
        return cls(store, tracer, suites, **options)

    def with_batch(self, views: int) -> "FitConfig":
        """Return the settings with a number of views per step and the learning rate that suits it.

        The rate grows with the root of the batch, which is the rule for adaptive optimisers (Malladi et al. 2022,
        arXiv:2205.10287).
        """
        rate = self.learning_rate * math.sqrt(views / FitConfig.batch)
        return replace(self, batch=views, learning_rate=rate)

    @cached_property
    def instrument_model(self) -> "Instrument":
        """The instrument that `instrument` names, read once. Raises ValueError for one that is unknown."""
        from kinmass.gen.instruments.builtin import instrument

        return instrument(self.instrument)

    @property
    def is_told(self) -> bool:
        """Whether the network sees how a view was taken (`gen.instruments.observe.TOLD`)."""
        return self.instrument_model.varies() if self.told is None else self.told

    @cached_property
    def augmentation(self) -> "Augmentation":
        """The variation of the views in training, with the strengths set here."""
        from kinmass.train.data.augmentation import Augmentation

        return Augmentation.of(vars(self))
