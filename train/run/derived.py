"""What was made from a run beside its weights: how wide its posteriors are, and what its training views look like.

Each of these files holds a record of what it was made from: the weights, the settings, and the version of what the code
writes. One of other weights or settings, or that the code makes otherwise now, is never used: `kinmass fit` makes it
anew, and whoever reads it refuses it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from kinmass.train.run.checkpoint import (
    FREE_SETTINGS,
    LATER_NETWORK_SETTINGS,
    LATER_SETTINGS,
    RunError,
    members_of,
    read_config,
    read_tensors,
    weights_of,
    write_json,
    write_tensors,
)
from kinmass.train.run.out_of_distribution import TrainingFeatures

CALIBRATION, OOD, UNSEEN = "calibration.json", "ood.pt", "unseen.json"
#: Version of each file's content. Raise it where the code makes another content of the same run: files of before are
#: then made anew, those older than OLDEST. ood.pt 2: views that were varied in training are told, as networks are told
#: how views were taken. 3: distances are beyond what is expected of views that were seen alike; those of 2 stay in use.
#: calibration.json and unseen.json 2: from intervals that hold what they promise (`intervals`). Those of version 1 make
#: 68 % intervals 1.4 %, and 95 % intervals 4 %, wider than they need to be; they stay in use, as OLDEST says.
VERSIONS = {CALIBRATION: 2, OOD: 3, UNSEEN: 2}
OLDEST = {CALIBRATION: 1, OOD: 2, UNSEEN: 1}
#: What makes a file anew.
REMEDY = "give the `kinmass fit` or `kinmass launch` command of the run again, which makes it anew"


def digest_of_json(content: Any) -> str:
    """Return a digest of what can be written as JSON, whatever the order of its keys."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def settings_of(run: Path) -> str:
    """Return a digest of what every member of a run is beside its weights: its network, fit and instrument.

    Settings that change no result, and those that came later and have the value from before, do not count. Raises
    RunError where a run.json cannot be read.
    """
    settings = []
    for folder in members_of(run):
        content = read_config(folder)
        fit = {name: value for name, value in content["fit"].items() if name not in FREE_SETTINGS}
        settings.append([_without(content["model"], LATER_NETWORK_SETTINGS), _without(fit, LATER_SETTINGS)])
        settings[-1].append(content["instrument"])
    return digest_of_json(settings)


def _without(values: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in before or value != before[name]}


def made_from(run: Path, name: str) -> dict[str, Any]:
    """Return the record that the file `name` of a run has if it is made now. Raises RunError as `settings_of`."""
    return {"version": VERSIONS[name], "weights": weights_of(run), "settings": settings_of(run)}


def write_scales(run: Path, name: str, scales: Mapping[str, list[torch.Tensor]], record: Mapping[str, Any]) -> None:
    """Write, per tracer and member, the scale (K, K) of the latent numbers, with the record of `made_from`."""
    of_members = {tracer: [scale.tolist() for scale in member_scales] for tracer, member_scales in scales.items()}
    write_json(run / name, {"scale": of_members, "made_from": record})


def write_training_features(run: Path, features: Mapping[str, TrainingFeatures], record: Mapping[str, Any]) -> None:
    """Write ood.pt, which `read_training_features` reads, with the record of `made_from`."""
    fields = {tracer: vars(of_tracer) for tracer, of_tracer in features.items()}
    write_tensors(run / OOD, fields | {"made_from": record})


def read_scales(run: Path, name: str = CALIBRATION) -> dict[str, list[torch.Tensor]]:
    """Return, per tracer and member, the scale (K, K) of the latent numbers that `train.run.calibration` found.

    Raises RunError where the run is not calibrated, or its calibration is damaged, or was made from something else than
    the run is now.
    """
    try:
        content = json.loads((run / name).read_text())
        scales = {
            tracer: [torch.tensor(scale) for scale in member_scales]
            for tracer, member_scales in content["scale"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{run} is not calibrated ({error}); {REMEDY}") from error
    _require_current(run, name, content.get("made_from"))
    return scales


def read_training_features(run: Path) -> dict[str, TrainingFeatures]:
    """Return what `train.run.out_of_distribution` knows of each tracer's training views. Raises as `read_scales`."""
    try:
        content = read_tensors(run / OOD)
    except RunError as error:
        raise RunError(f"{error} If so, {REMEDY}") from error
    _require_current(run, OOD, content.pop("made_from", None))
    try:
        return {tracer: TrainingFeatures.as_kept(fields) for tracer, fields in content.items()}
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise RunError(f"{run / OOD} is damaged ({error}); {REMEDY}") from error


def is_calibrated(run: Path) -> bool:
    """Whether calibration.json and ood.pt can be read and were made from what the run is now."""
    try:
        read_scales(run)
        read_training_features(run)
    except RunError:
        return False
    return True


def record_of(run: Path, name: str) -> dict[str, Any]:
    """Return the record of what a file of scales was made from. Raises RunError where there is none."""
    try:
        return dict(json.loads((run / name).read_text())["made_from"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run / name} does not say what it was made from ({error}); {REMEDY}") from error


def others_held(run: Path) -> list[str]:
    """Return the names of suites for which `kinmass widen` had the intervals of unseen.json hold; empty without any."""
    try:
        return list(record_of(run, UNSEEN).get("others", {}))
    except (RunError, TypeError):
        return []


def is_out_of_date(run: Path, name: str) -> bool:
    """Whether a file is damaged, or was made from something else than the run is now; not by a newer version."""
    try:
        record = record_of(run, name)
    except RunError:
        return True
    version = record.get("version")
    is_newer = isinstance(version, int) and version > VERSIONS[name]
    return not is_newer and bool(differs_in(record, run, name))


def differs_in(record: Mapping[str, Any], run: Path, name: str) -> list[str]:
    """Return in what a file's record is not the one that it could have now: version, weights or settings.

    Versions from OLDEST on are as good as the latest.
    """
    version = record.get("version")
    is_usable = isinstance(version, int) and OLDEST[name] <= version <= VERSIONS[name]
    current = made_from(run, name)
    return [key for key in current if (not is_usable if key == "version" else record.get(key) != current[key])]


def is_calibrated_for_unseen(run: Path, without: Mapping[str, list[str]]) -> bool:
    """Whether unseen.json can be read, and was made from what the run is now and from these weights without a suite."""
    try:
        read_scales(run, UNSEEN)
        return bool(record_of(run, UNSEEN).get("without") == without)
    except RunError:
        return False


def without_unseen(runs: Iterable[Path], suites: Iterable[str]) -> list[str]:
    """Return a sentence for each run that is tested on foreign suites, and is to have unseen.json but has it not yet.

    Raises RunError where a run.json cannot be read.
    """
    lines, tested = [], list(suites)
    for run in runs:
        fit = read_config(run)["fit"]
        foreign = [suite for suite in tested if suite not in fit["suites"]]
        if foreign and fit.get("leave_one_suite_out") and not (run / UNSEEN).exists():
            lines.append(
                f"{run} has no {UNSEEN} yet: its intervals on {', '.join(foreign)} are those of suites that it was "
                "trained on, which are far too narrow; wait for its fits without each suite, or give its `kinmass fit` "
                "command again"
            )
    return lines


def _require_current(run: Path, name: str, record: object) -> None:
    """Raise RunError, which says why, where a file has not the record that it would have if it were made now."""
    record = record if isinstance(record, dict) else {}
    version, different = record.get("version", 0), differs_in(record, run, name)
    if isinstance(version, int) and version > VERSIONS[name]:
        raise RunError(f"{run / name} was made by a newer version of this code, which is needed to use it")
    for key, words in (
        ("version", "was made by an older version of this code, which made it otherwise"),
        ("weights", "is of other weights than the run's"),
        ("settings", "is of other settings than those in run.json"),
    ):
        if key in different:
            raise RunError(f"{run / name} {words}; {REMEDY}")
