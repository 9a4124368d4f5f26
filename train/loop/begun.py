"""What a run folder holds already, and whether a fit with given settings can begin there, or go on."""

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from kinmass.gen.storage import store
from kinmass.train.data import loader
from kinmass.train.loop.config import VIEWS_FOR_A_GPU, FitConfig
from kinmass.train.run.checkpoint import (
    FREE_SETTINGS,
    OWN_FITS,
    RunError,
    instrument_in,
    is_same_setting,
    load,
    members_of,
    read_begun,
    read_config,
    read_last,
    with_later_settings,
)
from kinmass.train.run.records import Checkpoint, FitSettings, RunRecord, SuiteIdentity
from kinmass.train.run.trained_on import counts_changed, difference, store_differences, store_identity


@dataclass
class Start:
    """What rank 0 read from the run folder and the store: `finished` is the run.json of a run that is done.

    identity: of `store_identity`; status: per suite the galaxies' status; state: the checkpoint, if there is one;
    remark: a line for the user about files that could not be read, and about galaxies that the run knows nothing of.
    """

    finished: RunRecord | None
    identity: dict[str, SuiteIdentity]
    status: dict[str, torch.Tensor]
    state: Checkpoint | None
    remark: str


def settings_by_name(config: FitConfig) -> FitSettings:
    """Return settings as run.json has them: lists for tuples, and the instrument's name for its file."""
    lists = {"suites": list(config.suites), "start_from": list(config.start_from), "families": list(config.families)}
    named = dataclasses.asdict(config) | lists | {"instrument": config.instrument_model.name}
    return cast(FitSettings, named)


def with_batch_for(config: FitConfig, out: Path, processes: int, device_type: str) -> FitConfig:
    """Return the settings with the batch of the run that was begun in `out`, or with one for these processes.

    A member of an ensemble, and a fit without a suite, has that of the run that it belongs to: on other processes than
    the first ones it would be another network, and no ensemble with these.
    """
    begun = read_begun(out)[0] or _begun_beside(out)
    if begun:
        return config.with_batch(begun["fit"]["batch"])
    views = VIEWS_FOR_A_GPU * processes if device_type == "cuda" else FitConfig.batch
    return config.with_batch(-(-views // processes) * processes)


def _begun_beside(out: Path) -> RunRecord | None:
    """Return the run.json of the run, or of its first member with one, to which a fit in `out` belongs; None without.

    By its name a folder belongs to the one that it is in.
    """
    for folder in members_of(out.parent) if out.name.startswith(OWN_FITS) else ():
        with contextlib.suppress(RunError):
            return read_config(folder)
    return None


def check(config: FitConfig, out: Path, filled: bool = True) -> str:
    """Raise StoreError or RunError where `fit` could not start, or could not go on with the run in `out`.

    filled: False where the store's galaxies are still to be mapped, so that only the settings are compared. Returns
    what there is to say of the run, as of `Start.remark`.
    """
    if not config.batch:
        config = with_batch_for(config, out, 1, "cpu")
    if filled:
        return read_start(config, out).remark
    begun, remark = _read_begun_run(config, out)
    return "; ".join(filter(None, (remark, _of_fewer(begun, config, out))))


def read_start(config: FitConfig, out: Path) -> Start:
    """Read with what a fit in `out` begins or goes on. Raises RunError and StoreError as `fit`."""
    begun, remark = _read_begun_run(config, out)
    # A finished run outlives its store; but one that is another's now would pass for what it was trained on.
    if begun and (Path(config.store).exists() or not begun["finished"]):
        _refuse(out, store_differences(Path(config.store), begun["store"]))
    if begun and begun["finished"]:
        load(out)  # Raises RunError where the weights are damaged.
        return Start(begun, {}, {}, None, _of_fewer(begun, config, out))
    identity = store_identity(Path(config.store), config.suites)
    status = loader.done_galaxies(Path(config.store), config.suites)
    state, checkpoint_remark = read_last(out)
    remark = "; ".join(filter(None, (remark, checkpoint_remark, _of_fewer(begun, config, out) if state else "")))
    if state:
        _refuse_foreign(state, config, out)
        # The run goes on with the galaxies it began with: galaxies that were finished later are not added to it.
        for suite, status_before in state["galaxies"].items():
            lost = int(((status_before == store.DONE) & (status[suite][: len(status_before)] != store.DONE)).sum())
            if lost:
                galaxies_are = "galaxy that is" if lost == 1 else "galaxies that are"
                raise RunError(
                    f"{out} was trained on {lost} {galaxies_are} no longer done in {suite} of {config.store}; "
                    "give the command that made the store again, or choose another --out"
                )
        status = state["galaxies"]
        identity = begun["store"] if begun else identity
    return Start(None, identity, status, state, remark)


def _of_fewer(begun: RunRecord | None, config: FitConfig, out: Path) -> str:
    """Say that a run stays one of the galaxies that it began with where its store has others now; "" where it has not.

    Who gives the command of a run again once more galaxies are mapped may take it for one that was trained on all.
    """
    if not begun or not Path(config.store).exists():
        return ""
    words = ", ".join(counts_changed(Path(config.store), begun["store"]))
    return words and (
        f"{out} is trained on the galaxies that {config.store} had when it began, and not on others: {words}; for a "
        "network of all, choose another --out"
    )


def _read_begun_run(config: FitConfig, out: Path) -> tuple[RunRecord | None, str]:
    """Return what `read_begun` does. Raises RunError where the folder holds a run with other settings."""
    _refuse_another_kind(config, out)
    begun, remark = read_begun(out)
    if begun:
        earlier, settings = begun["fit"], settings_by_name(config)
        # One that changes no result may have come or gone since the run began.
        if names := ", ".join(sorted((earlier.keys() ^ settings.keys()) - set(FREE_SETTINGS))):
            raise RunError(
                f"{out / 'run.json'} is of another version, which differs in the settings {names}; choose another --out"
            )
        _refuse(out, _differences(earlier, settings))
        if instrument_in(begun, out) != config.instrument_model:
            _refuse(out, ["the instrument of that name"])
    return begun, remark


def _refuse_another_kind(config: FitConfig, out: Path) -> None:
    """Raise RunError where a single network would be trained among an ensemble's members, or these beside one.

    Who reads the folder could use one of them only.
    """
    if config.members == 1 and any(out.glob("member-*/run.json")):
        raise RunError(f"{out} holds an ensemble; choose another --out for a single network, or give its --members")
    if config.members > 1 and (out.parent / "run.json").exists():
        raise RunError(f"{out.parent} holds a single network; choose another --out for an ensemble")


def _refuse_foreign(state: Checkpoint, config: FitConfig, out: Path) -> None:
    """Raise RunError for a checkpoint that another run has written: it would go on under this run's name."""
    earlier = with_later_settings(state["run"])["fit"]
    different = _differences(earlier, settings_by_name(config))
    if different := different or store_differences(Path(config.store), state["run"]["store"]):
        raise RunError(f"{out}: its checkpoint is of another run: {', '.join(different)}; remove it to begin anew")


def _differences(earlier: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each requested setting that was another before, of those that change results."""
    return [
        difference(name, earlier.get(name), value)
        for name, value in sorted(requested.items())
        if name not in FREE_SETTINGS and not is_same_setting(name, earlier.get(name), value)
    ]


def _refuse(out: Path, different: list[str]) -> None:
    if different:
        raise RunError(f"{out} holds a run with other settings: {', '.join(different)}; choose another --out")
