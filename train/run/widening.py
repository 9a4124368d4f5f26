"""Widens the intervals for galaxies of other simulations by what a run does on simulations of another kind.

`--leave-one-suite-out` asks how far a network is off on a suite of the store that it was not trained on. Suites of one
store are often of one family: made by one code, or one mock generator. Galaxies of another family are worse.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch

from kinmass.train.run.calibration import MOST_GALAXIES, InferredViews, blocks_of, inferred_views, unseen_scale
from kinmass.train.run.checkpoint import RunError, members_of, read_config, working_in
from kinmass.train.run.derived import UNSEEN, differs_in, made_from, read_scales, record_of, write_scales
from kinmass.train.run.posterior import Inference
from kinmass.train.run.records import SuiteIdentity
from kinmass.train.run.trained_on import check_maps, maps_changed, store_identity

#: Parts of a split whose galaxies are looked at: those of the test part are left to test on.
PARTS = ("train", "val")


def widen(run: Path, store: Path, suites: Sequence[str]) -> list[str]:
    """Widen a run's intervals for galaxies of suites that it was not trained on; return the suites they now hold for.

    The covariance of latent numbers becomes the mean over all suites that it was found on: those that a fit without
    them left out, those of earlier calls, and these, all of the same weight; of each tracer those in which it is seen,
    and which suite says nothing of which tracer is printed to stderr. The test part of the split is not used.
    Suites of the same names and galaxies as in an earlier call change nothing. Raises RunError for suites that the run
    was trained on, whose maps have another size than the run's, of which it can use no view, or that share a name with
    other galaxies of an earlier call, and for a run that is not trained; StoreError for a store that cannot be used,
    and where another process works in the run's folder.
    """
    read_config(run)  # before a lock makes its folder
    with contextlib.ExitStack() as held:  # the last of an ensemble's members calibrates all of it
        for folder in dict.fromkeys((run, *members_of(run))):
            held.enter_context(working_in(folder))
        return _widen(run, store, suites)


def _widen(run: Path, store: Path, suites: Sequence[str]) -> list[str]:
    """Do what `widen` does, in a folder in which no other process works."""
    members = [Inference(path, calibrated=False) for path in members_of(run)]
    record, scales = _read(run)
    if known := sorted(set(suites) & set(members[0].run["fit"]["suites"])):
        raise RunError(f"{run} was trained on {', '.join(known)}: name suites that it was not trained on by --suites")
    others, earlier = store_identity(store, suites), record.get("others", {})
    if words := [word for suite in suites if suite in earlier for word in _differences(store, suite, earlier[suite])]:
        raise RunError(
            f"the intervals of {run} hold other galaxies of these names already: {', '.join(words)}; remove "
            f"{run / UNSEEN} and give the `kinmass fit` command of the run again, then widen anew"
        )
    new = [suite for suite in suites if suite not in earlier]
    for suite in new:
        check_maps(run, store, suite)
    names, unused = [*record.get("without", {}), *earlier, *new], set(new)
    # Those of which each tracer's scale is the mean. Files of before `held` have taken all earlier suites for seen.
    held_by = record.get("held") or {
        tracer: [*record.get("measured", {}).get(tracer, record.get("without", {})), *earlier] for tracer in scales
    }
    for tracer in members[0].answers() if new else ():
        views = {suite: [views_of(infer, store, suite, tracer) for infer in members] for suite in new}
        seen = [suite for suite, of_members in views.items() if any(map(len, of_members))]
        unused -= set(seen)
        if seen:
            scale = unseen_scale([part for of_members in views.values() for part in of_members if len(part)])
            before, of_before = scales.get(tracer), held_by.get(tracer, [])
            held = _mean((scale, len(seen)), (before[0], len(of_before))) if before else scale
            scales[tracer] = [held] * len(members)
            held_by = {**held_by, tracer: [*of_before, *seen]}
    if unused:
        raise RunError(
            f"{store} has no view of {', '.join(sorted(unused))} that {run} can use, other than of the test part: it "
            "cannot be told how far it is off there; map more galaxies, or name other suites by --suites"
        )
    if new:
        if differs_in(record, run, UNSEEN):
            raise RunError(f"{run} was trained anew meanwhile; give the command again")
        write_scales(run, UNSEEN, scales, record | {"others": earlier | others, "held": held_by})
        for tracer in members[0].answers():
            if unseen := [suite for suite in new if suite not in held_by.get(tracer, [])]:
                print(
                    f"{run}: no view of {', '.join(unseen)} can be used with {tracer}: its intervals for suites that "
                    "it was not trained on know nothing of that",
                    file=sys.stderr,
                )
    return names


def _differences(store: Path, suite: str, earlier: dict[str, Any]) -> list[str]:
    """Return in words in what a suite is not what unseen.json keeps of it, which at first was names alone."""
    if "config" in earlier:
        return maps_changed(store, {suite: cast(SuiteIdentity, earlier)})
    now: Mapping[str, Any] = store_identity(store, [suite])[suite]
    return [f"galaxies of {suite}"] if any(now[key] != value for key, value in earlier.items()) else []


def views_of(infer: Inference, store: Path, suite: str, tracer: str) -> InferredViews:
    """Return what a network infers from all usable views of a suite but those of the test part."""
    blocks = (blocks_of(store, (suite,), part, MOST_GALAXIES) for part in PARTS)
    return inferred_views(infer, chain.from_iterable(blocks), tracer)


def _read(run: Path) -> tuple[dict[str, Any], dict[str, list[torch.Tensor]]]:
    """Return the record and the scales of a run's unseen.json, or those of a run that has none yet."""
    if (run / UNSEEN).exists():
        return record_of(run, UNSEEN), read_scales(run, UNSEEN)
    return made_from(run, UNSEEN) | {"without": {}}, {}


def _mean(*scales: tuple[torch.Tensor, int]) -> torch.Tensor:
    """Return the lower triangular L (K, K) with L L^T the mean of that of scales (K, K), each with its weight."""
    products = [weight * (scale.double() @ scale.double().T) for scale, weight in scales]
    return torch.linalg.cholesky(torch.stack(products).sum(0) / sum(weight for _, weight in scales)).float()
