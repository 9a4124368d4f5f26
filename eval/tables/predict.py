"""Posterior mass profiles of single galaxies."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from kinmass.eval.tables.metrics import SHARES
from kinmass.eval.tables.tasks import check_maps
from kinmass.train.data.dataset import RADII_RE, read_views, usable
from kinmass.train.run.posterior import beyond_limits_message, load


def predict(run: Path, store: Path, suite: str) -> pd.DataFrame:
    """One row per view and radius: posterior median and 68 and 95 % intervals of log10 M [Msun], and the truth.

    Raises RunError, StoreError, or ValueError when no view can be used with this run's tracer.
    """
    check_maps(run, store, suite)
    infer = load(run)
    views = read_views(store, suite)
    keep = usable(views, infer.tracer, infer.instrument)
    if not keep.any():
        raise ValueError(f"{store}/{suite}: no view has usable {infer.tracer} maps through {infer.instrument.name}")
    if not keep.all():
        first = views[np.flatnonzero(~keep)[:1]]
        print(
            f"kinmass predict: {(~keep).sum()} of {len(keep)} views have no usable {infer.tracer} maps through "
            f"{infer.instrument.name} and are left out, the first is view {first.view[0]} of {first.galaxy[0]}",
            file=sys.stderr,
        )
    views = views[keep]
    posterior = infer(views)
    low68, high68, low95, high95, median = posterior.quantiles(SHARES)
    beyond = float(posterior.beyond().mean())
    if beyond:
        print(f"kinmass predict: {run}: {beyond_limits_message(beyond)}", file=sys.stderr)
    n, k = median.shape
    r_e = views.half_mass_radius_kpc.numpy()
    return pd.DataFrame(
        {
            "galaxy": np.repeat(views.galaxy, k),
            "view": np.repeat(views.view, k),
            "radius_re": np.tile(RADII_RE, n),
            "radius_kpc": np.outer(r_e, RADII_RE).ravel(),
            "log10_menc": median.ravel(),
            "lo_68": low68.ravel(), "hi_68": high68.ravel(),
            "lo_95": low95.ravel(), "hi_95": high95.ravel(),
            "log10_menc_true": views.log10_menc.numpy().ravel(),
        }
    )  # fmt: skip
