"""Reads and writes run folders: configuration as JSON, weights as tensors. Nothing in them is executed on loading."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, create_model

from kinmass.gen.instruments.model import Instrument
from kinmass.gen.storage.files import write_atomically
from kinmass.gen.storage.lock import PATIENCE_S, Lock, hold
from kinmass.train.data.augmentation import Augmentation
from kinmass.train.model.network import MassModel, ModelConfig
from kinmass.train.model.scaling import TRACERS
from kinmass.train.run.records import Checkpoint, FitSettings, RunRecord

RUN_SCHEMA = 8
#: Settings that may differ when a run goes on: they change where and how fast a fit runs, not what it learns.
FREE_SETTINGS = (
    "store", "checkpoint_minutes", "memory_gb", "compile", "cuda_graph", "leave_one_suite_out", "families",
)  # fmt: skip
#: Settings that came later than the schema, and what they are in runs that do not tell.
LATER_SETTINGS: dict[str, Any] = {
    "join": "concat", "ema": 0.0, "start_from": [], "told": None, "radius_dex": 0.0, "families": [],
}  # fmt: skip
#: The same, of a network's settings.
LATER_NETWORK_SETTINGS: dict[str, Any] = {"join": "concat", "told": False}


class RunError(ValueError):
    """A run folder is missing, damaged, or holds something other than what is needed."""


class _DamagedError(RunError):
    """A run.json exists but cannot be read."""


class _Store(BaseModel):
    """What run.json says of one suite that was trained on."""

    schema_version: int
    config: dict[str, Any]
    galaxies: int
    names: str
    sizes: dict[str, float] = {}
    masses: dict[str, float] = {}
    lineages: str = ""


class _Seen(BaseModel):
    """What run.json says of which galaxies a run has seen."""

    views: int
    lineages: list[str]


_FIT_FIELDS: dict[str, Any] = {
    "tracer": (Literal[tuple(TRACERS)], ...),
    "suites": (list[str], Field(min_length=1)),
    "instrument": (str, ...),
    "inputs": (str, ...),
    "members": (int, Field(ge=1, le=1000)),  # each is a folder that is looked for
    "steps": (PositiveInt, ...),
    "seed": (int, ...),
} | {name: (float, ...) for name in Augmentation.__dataclass_fields__}
_NETWORK_FIELDS: dict[str, Any] = {
    field.name: (list[float] if field.name == "radii_re" else field.type, ...)
    for field in dataclasses.fields(ModelConfig)
}
#: What whoever reads a run needs of its fit's settings; `kinmass fit` compares them all.
_Fit = create_model("_Fit", __config__=ConfigDict(strict=True, extra="allow"), **_FIT_FIELDS)
_Network = create_model("_Network", __config__=ConfigDict(strict=True, extra="forbid"), **_NETWORK_FIELDS)


class _Run(BaseModel):
    """What a run.json holds at least."""

    model_config = ConfigDict(strict=True, extra="allow")
    fit: _Fit  # type: ignore[valid-type]
    model: _Network  # type: ignore[valid-type]
    instrument: dict[str, Any]
    store: dict[str, _Store]
    training: dict[str, Any]
    seen: _Seen | None = None
    finished: bool


class _FinishedRun(_Run):
    steps: int
    best: dict[str, Any]
    weights: str


def with_later_settings(content: RunRecord) -> RunRecord:
    """Return the content of a run.json with every setting that came later than the schema."""
    fit = cast(FitSettings, LATER_SETTINGS | content["fit"])
    return content | {"fit": fit, "model": LATER_NETWORK_SETTINGS | content["model"]}


def _check_content(content: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the keys, where the content of a run.json has not what its readers need."""
    try:
        (_FinishedRun if content.get("finished") else _Run).model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}" for problem in error.errors()]
        raise ValueError("; ".join(problems)) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file durably and atomically: at any time the old or the new content is there, never half of one.

    Raises OSError where it cannot be written; the old file then stays.
    """
    write_atomically(path, json.dumps(content, indent=1))


def write_tensors(path: Path, content: Mapping[str, Any], keep: Path | None = None) -> None:
    """Save tensors and plain values durably and atomically; the file that `path` was moves to `keep`.

    Raises OSError where the disk is full; the old file then stays.
    """
    buffer = io.BytesIO()  # Written by us, because torch raises another error than OSError on a full disk.
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer(), keep)


def write_last(run: Path, state: Checkpoint) -> None:
    """Write the checkpoint of a running fit; the one before stays as `previous.pt`. Raises OSError on a full disk."""
    write_tensors(run / "last.pt", state, keep=run / "previous.pt")


def read_last(run: Path) -> tuple[Checkpoint | None, str]:
    """Return the newest checkpoint that can be read (None without any), and a remark about one that cannot, or "".

    Raises RunError where there are checkpoints but none can be read.
    """
    checkpoints = [p for p in (run / "last.pt", run / "previous.pt") if p.exists()]
    remark = ""
    for path in checkpoints:
        try:
            state = _checked(read_tensors(path), path)
            return state, remark and f"{remark}; going on from {path.name}, step {state['step']}"
        except RunError as error:
            remark = f"{remark}; {error}" if remark else str(error)
    if checkpoints:
        raise RunError(f"{remark}; remove it to begin anew")
    return None, ""


#: What is read of a checkpoint before there is a network to load the rest into.
_FIXED_KINDS: dict[str, Any] = {"galaxies": dict, "run": dict, "step": int, "memory_gb": (int, float), "window": int}


def _checked(state: dict[str, Any], path: Path) -> Checkpoint:
    """Return what a file holds as a checkpoint. Raises RunError where it holds something else, as weights alone."""
    wrong = [name for name, kind in _FIXED_KINDS.items() if not isinstance(state.get(name), kind)]
    if not wrong:
        try:
            _check_content(with_later_settings(state["run"]))
        except (ValueError, KeyError, TypeError) as error:
            wrong.append(f"run ({error})")
    if not wrong and {name for name, status in state["galaxies"].items() if isinstance(status, torch.Tensor)} != set(
        state["run"]["store"]
    ):
        wrong.append("galaxies")
    if wrong:
        raise RunError(f"{path}: holds no checkpoint of a fit: missing or wrong in it are {', '.join(wrong)}")
    return cast(Checkpoint, state)


def remove_last(run: Path) -> None:
    """Delete the checkpoints of a fit that is done."""
    for name in ("previous.pt", "last.pt"):
        (run / name).unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what `write_tensors` wrote, without unpickling any code. Raises RunError where it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path}: cannot be read as a checkpoint ({reason}); was it cut short?") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds no checkpoint; remove it and give the `kinmass fit` command of its run again")
    return content


def digest_of(weights: dict[str, Any]) -> str:
    """Return a hash of a network's weights: of their names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_of(run: Path) -> list[str]:
    """Return the digest of every member's weights, from its run.json or else from its weights.

    Raises RunError where neither can be read.
    """
    digests = [(folder, read_config(folder).get("weights")) for folder in members_of(run)]
    return [str(digest or digest_of(read_tensors(folder / "model.pt"))) for folder, digest in digests]


def member_folders(run: Path, members: int) -> list[Path]:
    """Return the folders in which an ensemble of so many members is trained; a single network is trained in `run`."""
    return [run] if members == 1 else [run / f"member-{i}" for i in range(members)]


def members_of(run: Path) -> list[Path]:
    """Return the folders of an ensemble's members that exist, in their order; for a single network `run` itself."""
    members = [] if (run / "run.json").exists() else sorted(run.glob("member-*"), key=lambda p: (len(p.name), p.name))
    return members or [run]


def working_in(run: Path, patience_s: float | None = None) -> AbstractContextManager[Lock]:
    """Lock a run folder for the one process that writes in it; its name is the folder's, so a copy is not locked.

    Raises Busy, a StoreError, where another process holds it for longer than patience_s, or PATIENCE_S.
    """
    name = hashlib.blake2b(str(run.resolve()).encode(), digest_size=4).hexdigest()
    return hold(run / f".lock-{name}", str(run), PATIENCE_S if patience_s is None else patience_s)


#: Folders in a run's own that belong to it: its members, and fits without a suite.
OWN_FITS = ("member-", "without-")


def runs_in(folder: Path) -> list[Path]:
    """Return all folders of runs and ensembles in `folder`, which may be one itself; empty without any.

    Members and fits without a suite belong to their run, and are none of their own.
    """
    return _runs_in(folder, set())


def _runs_in(folder: Path, seen: set[Path]) -> list[Path]:
    """Return what `runs_in` does, without folders that are among `seen`, by their real paths, and add to these.

    So a run to which a link leads counts once, and a link to a folder above it ends.
    """
    real_path = folder.resolve()
    if real_path in seen:
        return []
    seen.add(real_path)
    is_run = any((member / "run.json").exists() for member in members_of(folder))
    subfolders = [path for path in folder.glob("*/") if path.suffix != ".zarr"]
    subfolders = [path for path in subfolders if not (is_run and path.name.startswith(OWN_FITS))]
    # Links last: where a run is there under a name of its own as well, it has that one.
    ordered = sorted(subfolders, key=lambda path: (path.is_symlink(), path))
    return sorted([folder] * is_run + [run for path in ordered for run in _runs_in(path, seen)])


def runs_in_all(folders: Sequence[Path]) -> list[Path]:
    """Return the runs of several folders in turn, each once, whatever paths lead to it."""
    runs = {run.resolve(): run for folder in reversed(folders) for run in reversed(runs_in(folder))}
    return list(runs.values())[::-1]


def read_config(run: Path) -> RunRecord:
    """Return the content of a run's run.json, of an ensemble that of its first member.

    Raises RunError where there is none, or it is damaged or of another schema.
    """
    path = members_of(run)[0] / "run.json"
    try:
        read = json.loads(path.read_text())
        if not isinstance(read, dict):
            raise TypeError(f"it holds a {type(read).__name__}")
        if "schema" not in read:
            raise ValueError("it has no schema")
        content: RunRecord = read  # type: ignore[assignment]
        schema = content["schema"]
        if schema == RUN_SCHEMA:
            content = with_later_settings(content)
            _check_content(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"{run} is no run folder: it has no run.json; make one with `kinmass fit`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{path} is damaged ({error}); give its `kinmass fit` command again") from error
    if schema != RUN_SCHEMA:
        raise RunError(f"{run} has schema {schema}, this code reads {RUN_SCHEMA}; train it again")
    return content


def read_begun(run: Path) -> tuple[RunRecord | None, str]:
    """Return the run.json of a fit that was begun in a folder (None for a new fit), and a remark, or "".

    Where run.json cannot be read, the copy in the checkpoint is taken, and the remark says so. Raises RunError where
    there is a network but neither of them describes it.
    """
    has_run_json = (run / "run.json").exists()
    try:
        if has_run_json:
            return read_config(run), ""
    except _DamagedError:
        pass
    problem = f"{run / 'run.json'} is {'damaged' if has_run_json else 'missing'}"
    state, _ = read_last(run)
    if state is not None and isinstance(state.get("run"), dict):
        return with_later_settings(state["run"]), f"{problem}; going by what the checkpoint says of it"
    if state is not None or (has_run_json and (run / "model.pt").exists()):
        raise RunError(f"{problem}, and nothing else says of what its weights are; remove {run} to train it again")
    return None, f"{problem}, and so far nothing was trained: beginning anew" if has_run_json else ""


def instrument_of(run: Path) -> Instrument:
    """Return the instrument of a run. Raises RunError where there is no run or its instrument is damaged."""
    return instrument_in(read_config(run), run)


def instrument_in(content: RunRecord, run: Path) -> Instrument:
    """Return what `instrument_of` does, from the content of a run.json. Raises RunError, which names `run`."""
    try:
        return Instrument(**content["instrument"])
    except (TypeError, ValueError) as error:
        raise RunError(f"{run / 'run.json'} holds no instrument that can be read ({error}); train it again") from error


def is_same_setting(name: str, earlier: Any, requested: Any) -> bool:
    """Whether a setting is what it was. Runs whose weights were begun with may have moved, as the run itself may."""
    if name == "start_from" and earlier and requested:
        return [Path(run).name for run in earlier] == [Path(run).name for run in requested]
    return bool(earlier == requested)


def load_members(run: Path) -> list[MassModel]:
    """Return the networks of a run, ready to predict.

    Raises RunError where one is missing, not finished, damaged, or trained with other settings than the first.
    """
    folders, first = members_of(run), read_config(run)
    if folders == [run] and any(run.glob("member-*/run.json")):
        raise RunError(f"{run} holds a single network and an ensemble; move one of them into a folder of its own")
    n_members = first["fit"].get("members", 1)
    if folders != member_folders(run, n_members) and folders != [run]:
        raise RunError(f"{run} has {len(folders)} of {n_members} members; give its `kinmass fit` command again")
    models: list[MassModel] = []
    seeds: set[int] = set()
    for folder in folders:
        model, content = load(folder)
        if instrument_in(content, folder) != instrument_in(first, run):
            raise RunError(
                f"{folder} was trained through another instrument than the other members of {run}; train it again"
            )
        different = [
            name
            for name, value in first["fit"].items()
            if name not in ("seed", *FREE_SETTINGS) and not is_same_setting(name, value, content["fit"].get(name))
        ]
        if different:
            raise RunError(
                f"{folder} was not trained as {folders[0]}, another member of {run}: {', '.join(different)} differ; "
                "remove it, and give the `kinmass fit` command of that one again"
            )
        if content["fit"]["seed"] in seeds:
            raise RunError(f"{folder} has the seed of another member of {run}, and counts twice; train it again")
        seeds.add(content["fit"]["seed"])
        models.append(model)
    return models


def load(run: Path) -> tuple[MassModel, RunRecord]:
    """Return the trained network of a single-network run, ready to predict, and the content of its run.json.

    Raises RunError for a run that is unfinished, damaged or of another schema, and for an ensemble.
    """
    content = read_config(run)
    if members_of(run) != [run]:
        raise RunError(f"{run} holds an ensemble; name one of its members, such as {members_of(run)[0]}")
    if not content.get("finished"):
        raise RunError(f"{run} has not finished training; give its `kinmass fit` command again")
    try:
        weights = read_tensors(run / "model.pt")
    except RunError as error:
        raise RunError(f"{error} Remove it and {run / 'run.json'} to train it again") from error
    try:
        is_damaged = content.get("weights", digest := digest_of(weights)) != digest
        model = MassModel(ModelConfig(**content["model"] | {"radii_re": tuple(content["model"]["radii_re"])}))
        model.load_state_dict(weights)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run / 'model.pt'} does not fit the network in run.json ({error}); remove both to train it again"
        ) from error
    if is_damaged:
        raise RunError(
            f"{run / 'model.pt'} does not hold the weights that run.json "
            "tells of: it is damaged, or another's; remove it and run.json to train it again"
        )
    return model.eval(), content
