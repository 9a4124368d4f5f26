"""How well networks infer the same galaxies seen in many ways: through footprints, few particles, blur, loud errors.

Every condition is an instrument, in which one thing differs from the built-in `ifu`; `survey` has all at once. In two
more, the observer takes R_e for .1 dex less or more than it is. A network sees them over the field, and in the pixels,
of the instrument that it was trained through.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kinmass.eval.tables.metrics import interval
from kinmass.eval.tables.tasks import sources_of
from kinmass.gen.bars import progress_bar
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Footprint, Instrument, PsfFwhm
from kinmass.gen.storage.files import make_folder, write_atomically
from kinmass.train.data import radius_error
from kinmass.train.data.dataset import RADII_RE, Views, concatenate, read_views, usable
from kinmass.train.run.checkpoint import instrument_of
from kinmass.train.run.intervals import LEVELS, held
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import Inference, load

# N views, K radii
TRACERS = ("gas", "stars", "both")
N_SAMPLES, N_BOOTSTRAP, VIEWS_AT_ONCE = 300, 300, 256
#: The table's file in a results folder, which the report draws; and what stands between its runs.
FILE, RUNS_SEPARATOR = "conditions.csv", "; "
IFU = INSTRUMENTS["ifu"]
#: Conditions under which R_e is taken to be another than it is: by how much [dex].
RADIUS_ERROR_DEX = {"R_e .1 dex too small": -0.1, "R_e .1 dex too large": 0.1}


def changed(name: str, stars: dict[str, object] | None = None, **change: object) -> Instrument:
    """Return the built-in `ifu` with other numbers (`change`), and with those in `stars` for both tracers."""
    both = {"stars": IFU.stars.model_dump() | (stars or {}), "gas": IFU.gas.model_dump() | (stars or {})}
    return Instrument.model_validate(IFU.model_dump() | both | change | {"name": name})


def louder(name: str, factor: float) -> Instrument:
    """Return the built-in `ifu` with the errors of V of both tracers multiplied by a factor."""
    noises = {
        tracer: noise.model_copy(update={"velocity_error_kms": factor * float(noise.velocity_error_kms)})  # type: ignore[arg-type]
        for tracer, noise in (("stars", IFU.stars), ("gas", IFU.gas))
    }
    return IFU.model_copy(update=noises | {"name": name})


def conditions() -> dict[str, Instrument]:
    """Return every way in which galaxies are seen, by its name."""
    return {
        "full": IFU,
        "hexagon of 2.3 R_e": changed("hexagon", footprint=Footprint(shape="hexagon", radius_re=2.3)),
        "circle of 1.5 R_e": changed("circle-1-5", footprint=Footprint(radius_re=1.5)),
        "circle of 1 R_e": changed("circle-1", footprint=Footprint(radius_re=1.0)),
        "circle of .6 R_e": changed("circle-0-6", footprint=Footprint(radius_re=0.6)),
        "30 brightest pixels": changed("pixels-30", {"most_pixels": 30}),
        "12 brightest pixels": changed("pixels-12", {"most_pixels": 12}),
        "5,000 particles": changed("particles-5000", {"particles": 5000}),
        "1,000 particles": changed("particles-1000", {"particles": 1000}),
        "300 particles": changed("particles-300", {"particles": 300}),
        "PSF of .6 R_e": changed("psf-0-6", psf_fwhm=PsfFwhm(re=0.6)),
        "PSF of 1 R_e": changed("psf-1", psf_fwhm=PsfFwhm(re=1.0)),
        "errors x .1": louder("quiet-errors", 0.1),
        "errors x 3": louder("loud-errors", 3.0),
        "bins of 12 km/s": changed("bins", {"bin_to_kms": 12.0}),
        "no dispersion": changed("no-dispersion", {"no_dispersion": 1.0}),
        "all at once": INSTRUMENTS["survey"],
    } | dict.fromkeys(RADIUS_ERROR_DEX, IFU)


def on_grid_of(instrument: Instrument, own: Instrument) -> Instrument:
    """Return the instrument with the field and the pixels of another, a network's own, of whose size its maps are."""
    return instrument.model_copy(update={"field_of_view_re": own.field_of_view_re, "rebin": own.rebin})


def with_radius_error(views: Views, dex: float) -> Views:
    """Return the views of an observer who takes R_e for 10^dex times what it is."""
    same = torch.full((len(views),), dex, dtype=torch.float64)
    taken = radius_error.with_radius_error(views.maps.double(), views.half_mass_radius_kpc, views.log10_menc, same)
    maps, r_e, log10_menc = taken
    return replace(views, maps=maps.to(views.maps), half_mass_radius_kpc=r_e, log10_menc=log10_menc)


@dataclass(frozen=True)
class Network:
    """A kind of network, one of its runs, and the condition that it was trained for ("" for all).

    Runs of one kind that answer for the same tracer are its seeds.
    """

    kind: str
    run: Path
    condition: str = ""


def networks_of(runs: Sequence[Path], out: Path) -> list[Network]:
    """Return runs as networks whose kind says what they are, and what they were trained through and, if need be, on.

    Raises RunError as `tasks.sources_of`, also for runs that one table could not tell apart.
    """
    sources = sources_of(runs, out, classical=False)
    trained_on = {source.train for source in sources}
    networks = [
        Network(
            f"{source.name} through {source.instrument}{f' on {source.train}' if len(trained_on) > 1 else ''}",
            source.run,
        )
        for source in sources
        if source.run
    ]
    return list(dict.fromkeys(networks))


def measured(infer: Inference, views: Views, instrument: Instrument, tracer: str) -> dict[str, np.ndarray]:
    """Return per view: error d (N, K) of the median [dex], whether 68 and 95 % hold the truth (N, K), strange (N,).

    strange: 1 where the view is called out of distribution, 0 where it is not, NaN where the run cannot tell. Intervals
    of galaxies of a suite that the run was not trained on are those that it has for such, as in `kinmass tables`.
    Raises ValueError for maps of another size than the run's.
    """
    infer.check_size(views)
    is_foreign = ~np.isin(views.suite, infer.run["fit"]["suites"])
    rows_of_blocks = [
        (unseen, rows[start : start + VIEWS_AT_ONCE])
        for unseen, rows in ((unseen, np.flatnonzero(is_foreign == unseen)) for unseen in (False, True))
        for start in range(0, len(rows), VIEWS_AT_ONCE)
    ]
    d = np.empty((len(views), len(RADII_RE)))
    inside = {f"in_{name}": np.empty_like(d) for name in ("68", "95")}
    score = np.empty(len(views))
    for unseen, rows in rows_of_blocks:
        block = views[rows]
        observed = block.observed(instrument, told=infer.told)
        posterior = infer(observed, block.half_mass_radius_kpc, tracer, block.names(), unseen)
        samples, truth = posterior.samples(N_SAMPLES), block.log10_menc.numpy().astype(float)
        d[rows], score[rows] = np.median(samples, axis=0) - truth, posterior.ood_score()
        for of_level, level in zip(inside.values(), LEVELS, strict=True):
            of_level[rows] = held((samples < truth).sum(0), N_SAMPLES, level)
    return {"d": d, **inside, "strange": np.where(np.isnan(score), np.nan, score > OOD_THRESHOLD)}


def summary(of_seeds: list[dict[str, np.ndarray]], lineage: np.ndarray) -> dict[str, float]:
    """Return RMSE [dex] with its interval, coverage and share of strange views: means over radii and seeds.

    of_seeds: of `measured`; lineage (N,). Intervals are the 16th to 84th percentiles of a bootstrap that draws
    lineages, and seeds; NaN where there is one lineage. The share is NaN where a run cannot tell of a view.
    """
    number = np.unique(lineage, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    weights = rng.poisson(1.0, (N_BOOTSTRAP + 1, number.max() + 1)).astype(float)
    weights[0] = 1.0
    weights = weights[:, number]
    weights = weights[weights.sum(1) > 0]  # A replicate that draws no lineage says nothing.
    weights /= weights.sum(1, keepdims=True)
    rmse = np.stack([np.sqrt(weights @ errors["d"] ** 2).mean(1) for errors in of_seeds], axis=1)
    drawn = rng.integers(0, len(of_seeds), (len(weights) - 1, len(of_seeds)))
    replicates = np.take_along_axis(rmse[1:], drawn, axis=1).mean(1)
    low, high = interval(replicates) if number.max() else (np.nan, np.nan)
    means = {
        name: float(np.mean([errors[name].mean() for errors in of_seeds])) for name in ("in_68", "in_95", "strange")
    }
    return {"rmse": float(rmse[0].mean()), "rmse_lo": float(low), "rmse_hi": float(high)} | means


def views_to_test(store: Path, suites: Sequence[str], part: str | None, per_galaxy: int) -> Views:
    """Return the views of a part of the split (None for all), and at most so many of each galaxy, unless that is 0."""
    views = concatenate([read_views(store, suite, part) for suite in suites])
    return views[views.view < per_galaxy] if per_galaxy else views


def _field_re(network: Network, views: Views) -> float:
    """Return the side [R_e] of the field that a network sees of views, that of its own instrument."""
    return instrument_of(network.run).grid(views.maps.shape[-1], views.field_of_view_re)[1]


def beyond_its_maps(network: Network, views: Views) -> list[str]:
    """Return the conditions under which a network's maps of views end before the footprint does, which cuts nothing."""
    field_re = _field_re(network, views)
    return [name for name, instrument in conditions().items() if instrument.footprint_is_beyond(field_re)]


def _rows(networks: Sequence[Network], views: Views, tracers: Sequence[str]) -> Iterator[dict[str, object]]:
    loaded = {network: load(network.run) for network in networks}
    kinds = list(dict.fromkeys(network.kind for network in networks))
    answered = [t for t in tracers if any(t in infer.answers() for infer in loaded.values())]
    instruments = conditions()
    beyond = {network.kind: beyond_its_maps(network, views) for network in networks}
    for kind, names in beyond.items():
        if names:
            of_kind = f" for {kind}" if len(kinds) > 1 else ""
            edge_re = 0.5 * _field_re(next(network for network in networks if network.kind == kind), views)
            print(
                f"kinmass conditions: {', '.join(names)}: left out{of_kind}, as these maps end {edge_re:.3g} R_e from "
                "the centre",
                file=sys.stderr,
            )
    views_with = {name: with_radius_error(views, dex) for name, dex in RADIUS_ERROR_DEX.items()}
    asked = [(tracer, name, kind) for tracer in answered for name in instruments for kind in kinds]
    for tracer, name, kind in progress_bar(asked, desc="conditions", unit="condition"):
        infers = [
            infer
            for network, infer in loaded.items()
            if network.kind == kind and network.condition in ("", name) and tracer in infer.answers()
        ]
        if not infers or name in beyond[kind]:
            continue
        instrument, seen = on_grid_of(instruments[name], infers[0].instrument), views_with.get(name, views)
        seen = seen[usable(seen, tracer, instrument)]
        of_seeds = [measured(infer, seen, instrument, tracer) for infer in infers if len(seen)]
        # Of views of which their look shows nothing there is no error, and no interval that holds or does not.
        answered = np.all([np.isfinite(errors["d"]).all(1) for errors in of_seeds], axis=0) if len(seen) else []
        seen = seen[np.flatnonzero(answered)]
        if len(seen):
            of_seeds = [{key: values[answered] for key, values in errors.items()} for errors in of_seeds]
            origin = {"tracer": tracer, "condition": name, "network": kind, "seeds": len(infers), "views": len(seen)}
            origin["left_out"] = len(views) - len(seen)
            runs = RUNS_SEPARATOR.join(str(infer.path.absolute()) for infer in infers)
            yield origin | summary(of_seeds, seen.lineages()) | {"runs": runs}


def tabulate(networks: Sequence[Network], views: Views, tracers: Sequence[str] = TRACERS) -> pd.DataFrame:
    """Return a row per tracer, condition and kind of network, with `summary`; a progress bar shows how far it is.

    The column `left_out` counts views of which too little is seen, `runs` has the folders of the seeds. Raises RunError
    for a run that cannot be read, ValueError where no view can be used.
    """
    table = pd.DataFrame(_rows(networks, views, tracers))
    if not len(table):
        raise ValueError(
            "none of these views shows a tracer that these runs infer from; choose other --suites, or runs of "
            "another tracer"
        )
    return table


def of_fewer_views(table: pd.DataFrame, untested: Collection[str] = ()) -> list[str]:
    """Return a sentence for each tracer on the conditions under which too little is seen of some views, or of all.

    untested: conditions under which nothing was looked at.
    """
    sentences = []
    for tracer, rows in table.groupby("tracer", sort=False):
        most = rows.groupby("condition", sort=False)[["left_out", "views"]].max()
        counts = [f"{name} ({n} of {n + seen})" for name, n, seen in most.itertuples() if n]
        counts += [f"{name} (all)" for name in conditions() if name not in {*most.index, *untested}]
        if counts:
            sentences.append(f"{tracer}: too little is seen of views, which are left out, in: {', '.join(counts)}")
    return sentences


def write(table: pd.DataFrame, results: Path) -> Path:
    """Write a table of `tabulate` into a results folder, where `kinmass report` finds it; return its path."""
    make_folder(results)
    write_atomically(results / FILE, table.to_csv(index=False, float_format="%.4f"))
    return results / FILE


def as_text(table: pd.DataFrame) -> str:
    """Return a table of `tabulate` as text: RMSE with its interval, what 68 and 95 % hold, and called strange [%].

    No interval is shown where there is none, and - where the runs cannot tell what is strange.
    """

    def cell(row: Any) -> str:
        """Return what is shown of one row of the table."""
        interval = f" ({row.rmse_lo:.3f}-{row.rmse_hi:.3f})" if np.isfinite(row.rmse_lo) else ""
        strange = f"{100 * row.strange:.0f}" if np.isfinite(row.strange) else "-"
        return f"{row.rmse:.3f}{interval} {row.in_68:.2f} {row.in_95:.2f} {strange}"

    texts = []
    for tracer, rows in table.groupby("tracer", sort=False):
        cells = rows.assign(cell=list(map(cell, rows.itertuples()))).pivot(
            index="condition", columns="network", values="cell"
        )
        cells = cells.reindex(rows.condition.unique())[rows.network.unique()].fillna("")
        texts.append(
            f"{tracer}: RMSE [dex] (68 % interval), truths inside 68 and 95 %, called strange [%]\n"
            + cells.rename_axis(index=None, columns=None).to_string()
        )
    return "\n".join(texts)
