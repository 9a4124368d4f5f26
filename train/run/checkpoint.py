"""Run folders: the configuration as JSON, weights as tensors, nothing that executes on loading."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from kinmass.gen.instrument import INSTRUMENTS, Instrument
from kinmass.gen.storage.files import write_atomically
from kinmass.train.model.network import MassModel, ModelConfig

RUN_SCHEMA = 5
#: Settings of a fit that change where and how fast it goes, not what it learns.
FREE = ("store", "checkpoint_minutes", "memory_gb", "compile", "across")


class RunError(ValueError):
    """A run folder that is missing, damaged or of another making."""


class _DamagedError(RunError):
    """A run.json that is there and cannot be read."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of JSON, whole and durably: the old one or the new one is there, never half of one."""
    write_atomically(path, json.dumps(content, indent=1))


def write_tensors(path: Path, content: dict[str, Any], keep: Path | None = None) -> None:
    """Save tensors and plain values, whole and durably; what `path` held goes to `keep`.

    Raises OSError when there is no room; the old file is as it was.
    """
    buffer = io.BytesIO()  # torch itself has another error for a full disk
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer(), keep)


def write_last(run: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint of a fit under way; the one before stays as `previous.pt`."""
    write_tensors(run / "last.pt", state, keep=run / "previous.pt")


def read_last(run: Path) -> tuple[dict[str, Any] | None, str]:
    """The newest checkpoint that can be read, or None where there is none, and a remark on one that cannot.

    Raises RunError when no checkpoint that is there can be read.
    """
    known = [p for p in (run / "last.pt", run / "previous.pt") if p.exists()]
    remark = ""
    for path in known:
        try:
            state = read_tensors(path)
            return state, remark and f"{remark}; going on from {path.name}, step {state['step']}"
        except RunError as error:
            remark = f"{remark}; {error}" if remark else str(error)
    if known:
        raise RunError(f"{remark}; remove it to begin anew")
    return None, ""


def remove_last(run: Path) -> None:
    """The fit is done: only its weights stay."""
    for name in ("previous.pt", "last.pt"):
        (run / name).unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Any]:
    """What `write_tensors` wrote; no code is ever unpickled. Raises RunError when it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path}: cannot be read as a checkpoint ({reason}); cut short, or not one?") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds no checkpoint")
    return content


def digest_of(weights: dict[str, Any]) -> str:
    """What tells the weights of one network from those of another, as numbers: names, types, shapes, values."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def weights_of(run: Path) -> list[str]:
    """The digest of every member's weights, as its run.json says. Raises RunError where they cannot be told."""
    known = [(folder, read_config(folder).get("weights")) for folder in members_of(run)]
    return [str(digest or digest_of(read_tensors(folder / "model.pt"))) for folder, digest in known]


def member_folders(run: Path, members: int) -> list[Path]:
    """Run folders of a deep ensemble's members, member i trained with seed + i; a single network is its own."""
    return [run] if members == 1 else [run / f"member-{i}" for i in range(members)]


def members_of(run: Path) -> list[Path]:
    """The run folders of an ensemble; a single network's is its own."""
    found = [] if (run / "run.json").exists() else sorted(run.glob("member-*"), key=lambda p: (len(p.name), p.name))
    return found or [run]


def runs_in(folder: Path) -> list[Path]:
    """A run's or an ensemble's folder, or those that a folder holds; none for folders of something else."""
    if any((member / "run.json").exists() for member in members_of(folder)):
        return [folder]
    return [run for below in sorted(folder.glob("*/")) if below.suffix != ".zarr" for run in runs_in(below)]


def read_config(run: Path) -> dict[str, Any]:
    """The configuration of a run, of an ensemble's first member. Raises RunError for none, or another schema."""
    path = members_of(run)[0] / "run.json"
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        schema = content["schema"]
        if schema == RUN_SCHEMA and not all(isinstance(content[key], dict) for key in ("fit", "model")):
            raise TypeError("fit or model is damaged")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"{run} is no run folder ({error}); make one with `kinmass fit`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{path} is damaged ({error}); give its `kinmass fit` command again") from error
    if schema != RUN_SCHEMA:
        raise RunError(f"{run} has schema {schema}, this code reads {RUN_SCHEMA}; train it again")
    return content


def read_begun(run: Path) -> tuple[dict[str, Any] | None, str]:
    """What a fit in a folder was begun with, or None for a new one, and a remark where run.json cannot be read.

    Its checkpoint says it too. Raises RunError where a network is there, but nothing says what it is.
    """
    there = (run / "run.json").exists()
    try:
        if there:
            return read_config(run), ""
    except _DamagedError:
        pass
    wrong = f"{run / 'run.json'} is {'damaged' if there else 'missing'}"
    state, _ = read_last(run)
    if state is not None and isinstance(state.get("run"), dict):
        return state["run"], f"{wrong}; going by what the checkpoint says of it"
    if state is not None or (there and (run / "model.pt").exists()):
        raise RunError(f"{wrong}, and nothing else says of what its weights are; remove {run} to train it again")
    return None, f"{wrong}, and so far nothing was trained: beginning anew" if there else ""


def is_finished(run: Path) -> bool:
    """Whether a single network's folder holds a trained one."""
    return (run / "run.json").exists() and bool(read_config(run).get("finished"))


def instrument_of(run: Path) -> Instrument:
    """The instrument of a run. Raises RunError when there is no run or its instrument is damaged.

    Runs from before instruments were kept whole name a built-in one.
    """
    return instrument_in(read_config(run), run)


def instrument_in(content: dict[str, Any], run: Path) -> Instrument:
    """As `instrument_of`, by the content of a run.json."""
    try:
        known = content.get("instrument")
        return Instrument(**known) if known else INSTRUMENTS[content["fit"]["instrument"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run / 'run.json'} holds no instrument that can be read ({error}); train it again") from error


def read_scales(run: Path, name: str = "calibration.json") -> dict[str, list[torch.Tensor]]:
    """Per tracer and member, the (K, K) scale of the latent numbers that `train.run.calibration` found.

    Raises RunError for a run that is not calibrated, whose calibration is damaged, or is of other weights.
    """
    try:
        content = json.loads((run / name).read_text())
        scales = {tracer: [torch.tensor(x) for x in each] for tracer, each in content["scale"].items()}
        known = content.get("weights")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{run} is not calibrated ({error}); give its `kinmass fit` command again") from error
    _same_weights(run, name, known)
    return scales


def read_training_features(run: Path) -> dict[str, dict[str, Any]]:
    """Per tracer what `out_of_distribution` has learnt of a run's training views. Raises RunError as `read_scales`."""
    content = read_tensors(run / "ood.pt")
    known = content.pop("weights", None)
    _same_weights(run, "ood.pt", known)
    return content


def _same_weights(run: Path, name: str, known: object) -> None:
    """Raise RunError where a file beside weights is of others; files from before weights were noted say nothing."""
    if known is not None and known != weights_of(run):
        raise RunError(f"{run / name} is of other weights than the run's; give its `kinmass fit` command again")


def load_members(run: Path) -> list[MassModel]:
    """The networks of a run, ready to predict. Raises RunError when one of them is not finished, or another run's."""
    folders, first = members_of(run), read_config(run)
    wanted = first["fit"].get("members", 1)
    if folders != member_folders(run, wanted) and folders != [run]:
        raise RunError(f"{run} has {len(folders)} of {wanted} members; give its `kinmass fit` command again")
    models = []
    for folder in folders:
        model, content = load(folder)
        if any(content["fit"].get(k) != v for k, v in first["fit"].items() if k not in ("seed", *FREE)):
            raise RunError(f"{folder} was not trained as the other members of {run}; train it again")
        models.append(model)
    return models


def load(run: Path) -> tuple[MassModel, dict[str, Any]]:
    """The trained network of a run, ready to predict, and the run's configuration.

    Raises RunError for a run that is unfinished, damaged or of another schema.
    """
    content = read_config(run)
    if not content.get("finished"):
        raise RunError(f"{run} has not finished training; give its `kinmass fit` command again")
    weights = read_tensors(run / "model.pt")
    try:
        damaged = content.get("weights", digest := digest_of(weights)) != digest
        model = MassModel(ModelConfig(**content["model"] | {"radii_re": tuple(content["model"]["radii_re"])}))
        model.load_state_dict(weights)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{run / 'model.pt'} does not fit the network in run.json: {error}") from error
    if damaged:
        raise RunError(
            f"{run / 'model.pt'} does not hold the weights that run.json "
            "tells of: it is damaged, or another's; remove it and run.json to train it again"
        )
    return model.eval(), content
