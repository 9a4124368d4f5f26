"""From a store to a fit that is about to take its first step: maps to train on, views to validate on, the network."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kinmass.gen.words import counted
from kinmass.train import distributed as ddp
from kinmass.train.data import loader
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fitter import Fitter
from kinmass.train.model.network import MassModel, ModelConfig
from kinmass.train.run.checkpoint import RunError, load
from kinmass.train.run.intervals import LEVELS
from kinmass.train.run.out_of_distribution import FEWEST_DISTANCES
from kinmass.train.run.records import Seen
from kinmass.train.run.trained_on import seen_by_all, seen_of, split_otherwise

#: With fewer lineages to validate on, the user is told how well they can set the widths of posteriors.
FEW_LINEAGES = 20


@dataclass(frozen=True)
class Prepared:
    """A fit that is about to take its first step, or to go on from a checkpoint.

    memory_gb: for maps, per node [GB]; window: steps that are streamed at a time, 0 with all maps in memory;
    n_validation: views to validate on, of all processes; seen: which galaxies its weights will have seen.
    """

    fitter: Fitter
    memory_gb: float
    window: int
    n_validation: int
    seen: Seen

    def training(self) -> dict[str, object]:
        """Return for run.json which views are trained on: how many, of how many galaxies, and which are left out."""
        batches = self.fitter.loader
        left_out = {reason: n for reason, (n, _) in batches.table.left_out.items()}
        return {
            "views": len(batches.table),
            "galaxies": len(np.unique(batches.table.place // batches.galaxies.shape[0])),
            "left_out": sum(left_out.values()),
            "left_out_why": left_out,
        }

    def describe(self) -> list[str]:
        """Return lines that tell the user what is trained on, and where. Every process has to call it."""
        config, model, training = self.fitter.config, self.fitter.model.config, self.training()
        galaxies, left_out = self.fitter.loader.galaxies, self.fitter.loader.table.left_out
        lines = [
            f"{config.tracer} on {', '.join(config.suites)} through {config.instrument_model.name} "
            f"({model.pixels} x {model.pixels} pixels over {model.field_of_view_re:.3g} R_e): "
            f"{training['views']} views of {training['galaxies']} galaxies to train, {self.n_validation} to validate, "
            f"{training['left_out']} unusable left out; {ddp.describe_processes()}, {self.fitter.device.type}; "
            f"{f'streamed, {self.window} steps at a time' if self.window else 'maps in memory'}"
        ]
        for reason, (n, places) in left_out.items():
            names = ", ".join(map(galaxies.id, places))
            lines.append(f"left out {n} with {reason}: {names}{', ...' if n > len(places) else ''}")
        if (few := self.fitter.n_val_lineages) < FEW_LINEAGES:
            error = (LEVELS[0] * (1 - LEVELS[0]) / few) ** 0.5
            lines.append(
                f"warning: {counted(few, 'galaxy', 'galaxies')} to validate on: intervals that are to hold "
                f"{100 * LEVELS[0]:.0f} % of the truths are good to some {100 * error:.0f} %; map more galaxies"
            )
        if self.n_validation < FEWEST_DISTANCES:
            lines.append(
                f"warning: {counted(self.n_validation, 'view')} to validate on: from fewer than {FEWEST_DISTANCES} "
                "nothing follows on which views are out of distribution, and the run will have no scores for it"
            )
        return lines


def _begin_with(model: MassModel, run: Path, suites: tuple[str, ...], store: Path) -> Seen:
    """Take over a trained run's weights: all of them from the same kind of network, else those of its encoders.

    Returns which galaxies they have seen.

    Raises RunError where the run cannot be read, is of another network, or has seen other suites than `suites`, or
    galaxies that other lineages put into the test part now: an evaluation would take these for unseen ones.
    """
    earlier, content = load(run)
    if seen := sorted(set(content["fit"]["suites"]) - set(suites)):
        raise RunError(
            f"{run} was trained on {', '.join(seen)}, which this fit leaves out, so it cannot start from it; choose "
            "another run as --start-from, or add these suites"
        )
    if moved := split_otherwise(store, content["store"]):
        raise RunError(
            f"{run} was trained on galaxies of {', '.join(moved)} that were split by other lineages: some would be "
            "test galaxies now; train it again as well, or leave --start-from out"
        )
    weights, own = earlier.state_dict(), model.state_dict()
    if earlier.config.tracer != model.config.tracer:
        weights = {name: weight for name, weight in weights.items() if name.startswith("encoders.") and name in own}
    shapes, own_shapes = ({name: weight.shape for name, weight in x.items()} for x in (weights, own))
    same = (
        "encoder", "norm", "inputs", "width", "n_features", "join", "told", "pixels", "field_of_view_re", "radii_re",
    )  # fmt: skip
    different = [name for name in same if getattr(earlier.config, name) != getattr(model.config, name)]
    if different or not weights or not shapes.items() <= own_shapes.items():
        raise RunError(
            f"{run} has weights of another network ({', '.join(different) or earlier.config.tracer}): "
            "this fit cannot start from it; choose another run as --start-from, or give this fit the same settings"
        )
    model.load_state_dict(own | weights)
    return seen_of(content)


def prepare(
    config: FitConfig,
    device: torch.device,
    status: dict[str, torch.Tensor] | None = None,
    memory_gb: float | None = None,
    window: int | None = None,
    fitter_class: type[Fitter] = Fitter,
) -> Prepared:
    """Read a store's maps and make the network that is trained on them. Every process has to call it.

    status: per suite the status of its galaxies, as `loader.done_galaxies` returns, which it is where left out;
    memory_gb and window: as in `Prepared`; from the settings, and the memory there is, where left out. A window that is
    left out is that of the settings' memory, if they have one, also where memory_gb is given. The caller has to close
    the fitter's loader. Raises StoreError where there is nothing to train or to validate on, RunError for a run to
    start from that cannot be read, is of another network, or has seen suites that are not trained on here.
    """
    store_path, instrument = Path(config.store), config.instrument_model
    status = loader.done_galaxies(store_path, config.suites) if status is None else status
    train = loader.galaxies_of(store_path, status, "train", config.galaxies)
    val = loader.galaxies_of(store_path, status, "val")
    pixels, field_of_view_re = instrument.grid(train.shape[-1], train.field_of_view_re)
    torch.manual_seed(config.seed)
    model_options = {name: getattr(config, name) for name in ("head", "encoder", "norm", "inputs", "width", "join")}
    model = MassModel(
        ModelConfig(config.tracer, RADII_RE, pixels, field_of_view_re, told=config.is_told, **model_options)
    )
    seen = [Seen(views=config.views, lineages=train.lineage_keys() if config.galaxies else [])]
    seen += [_begin_with(model, Path(run), config.suites, store_path) for run in config.start_from]
    if memory_gb is None:
        memory_gb = min(ddp.gather(config.memory_gb or loader.default_memory_gb()))
    if window is None:
        window = loader.window_for(train, config.memory_gb or memory_gb, config.batch)
    selection = loader.ViewSelection(
        config.tracer, instrument, config.views, lambda observed, r_e: model.inputs(observed, r_e)[1]
    )
    batches = loader.open_loader(train, selection, config.batch, config.seed, window, device)
    try:
        validation = loader.validation_views(val, config.tracer, instrument, 0.25 * memory_gb, config.is_told)
        n_validation = sum(ddp.gather(len(validation[2])))
        fitter = fitter_class(config, model, batches, validation, device)
        return Prepared(fitter, memory_gb, window, n_validation, seen_by_all(seen))
    except BaseException:
        batches.close()
        raise
