"""Infer posterior mass profiles of single simulated galaxies."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from kinmass.train.data.dataset import RADII_RE, part_of, read_views, usable
from kinmass.train.model.scaling import tracer_words
from kinmass.train.run.derived import without_unseen
from kinmass.train.run.intervals import SHARES
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import Inference, beyond_limits_message, load
from kinmass.train.run.trained_on import check_maps, seen_in_training, unlike_trained_on


def predict(run: Path, store: Path, suite: str) -> pd.DataFrame:
    """Return one row per view and radius: posterior median, 68 and 95 % intervals and true log10 M(<r) [Msun].

    `part` is the galaxy's part of the split: train, val or test; `ood_score` how unlike the training views a view is
    (`train.run.out_of_distribution`). Views without usable maps are left out. Their number, that of the views that the
    run was trained on, and what speaks against the intervals, is printed to stderr.
    Raises RunError, StoreError, or ValueError when no view can be used with this run's tracer.
    """
    check_maps(run, store, suite)
    infer = load(run)
    views = read_views(store, suite)
    is_usable = usable(views, infer.tracer, infer.instrument)
    posterior = infer(views[is_usable])
    if not posterior.is_answered.all():  # a look may show nothing, as where a wide PSF leaves all below what is seen
        is_usable[is_usable] = posterior.is_answered
        posterior = infer(views[is_usable])
    seen = f"maps of {tracer_words(infer.tracer)} through {infer.instrument.name}"
    if not is_usable.any():
        raise ValueError(f"{store}/{suite}: no view has usable {seen}; choose a run of another tracer or instrument")
    if n_unusable := np.count_nonzero(~is_usable):
        first_unusable = views[np.flatnonzero(~is_usable)[:1]]
        have, are = ("has", "is left out:") if n_unusable == 1 else ("have", "are left out, the first is")
        print(
            f"kinmass predict: {n_unusable} of {len(is_usable)} views {have} no usable {seen} and {are} view "
            f"{first_unusable.view[0]} of {first_unusable.galaxy[0]}",
            file=sys.stderr,
        )
    views = views[is_usable]
    parts = np.array([part_of(str(lineage)) for lineage in views.lineage])
    n_trained = np.count_nonzero(seen_in_training(run, views))
    if n_trained:
        print(
            f"kinmass predict: {run} was trained on {n_trained} of these {len(views)} views (part = train), and "
            "calibrated on those of part = val: only part = test says how it errs on other galaxies",
            file=sys.stderr,
        )
    scores = posterior.ood_score()
    others = unlike_trained_on([run], store, [suite]) + without_unseen([run], [suite])
    for remark in others + foreign_remarks(run, suite, infer, scores):
        print(f"kinmass predict: {remark}", file=sys.stderr)
    low68, high68, low95, high95, median = posterior.quantiles(SHARES)
    beyond_share = float(np.nan_to_num(posterior.beyond()).mean())
    if beyond_share:
        print(f"kinmass predict: {run}: {beyond_limits_message(beyond_share)}", file=sys.stderr)
    n, k = median.shape
    r_e = views.half_mass_radius_kpc.numpy()
    return pd.DataFrame(
        {
            "galaxy": np.repeat(views.galaxy, k),
            "view": np.repeat(views.view, k),
            "part": np.repeat(parts, k),
            "radius_re": np.tile(RADII_RE, n),
            "radius_kpc": np.outer(r_e, RADII_RE).ravel(),
            "log10_menc": median.ravel(),
            "lo_68": low68.ravel(), "hi_68": high68.ravel(),
            "lo_95": low95.ravel(), "hi_95": high95.ravel(),
            "log10_menc_true": views.log10_menc.numpy().ravel(),
            "ood_score": np.repeat(scores, k),
        }
    )  # fmt: skip


def foreign_remarks(run: Path, suite: str, infer: Inference, scores: np.ndarray) -> list[str]:
    """Return sentences on a suite that a run was not trained on, and on views unlike those it was trained on.

    scores (N,) as of `Posterior.ood_score`.
    """
    remarks, trained_on = [], infer.run["fit"]["suites"]
    if suite not in trained_on:
        intervals = (
            "its intervals are as wide as suites left out of training have shown that they must be"
            if infer.answers()[-1] in infer.unseen
            else "its intervals hold for those alone, and are far too narrow for others: fit with --robust"
        )
        remarks.append(f"{run} was trained on {', '.join(trained_on)}; {suite} is foreign to it: {intervals}")
    strange = float(np.nanmean(scores > OOD_THRESHOLD)) if np.isfinite(scores).any() else 0.0
    if strange > 2 * (1 - OOD_THRESHOLD):
        remarks.append(
            f"{100 * strange:.0f} % of these views are less like those trained on than {100 * OOD_THRESHOLD:.0f} % of "
            "galaxies kept from training (column ood_score): do not trust their intervals"
        )
    return remarks
