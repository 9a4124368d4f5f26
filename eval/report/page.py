"""Write one HTML file, readable without a network connection, that shows and explains the tables."""

import base64
import io
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kinmass.eval.report import figures
from kinmass.eval.report import galaxies as pictures
from kinmass.eval.report.saliency import attributions
from kinmass.eval.tables.conditions import FILE as CONDITIONS
from kinmass.eval.tables.metrics import crps_of_samples
from kinmass.eval.tables.origin import changed_since, differences, digest_of_file, read_origin
from kinmass.eval.tables.predictions import PREDICTED, KeptPredictions, Part
from kinmass.eval.tables.tables import ALL, KEYS, SHOWN, main_rows, shown, trained_on_remark
from kinmass.eval.tables.tasks import sources_of
from kinmass.gen.bars import progress_bar
from kinmass.gen.instruments.observe import as_measured
from kinmass.gen.look.style import own_style
from kinmass.gen.storage.files import aside, make_folder, write_atomically
from kinmass.train.data.dataset import RADII_RE, Views, concatenate, views_of
from kinmass.train.run.checkpoint import instrument_of, weights_of
from kinmass.train.run.posterior import load

_TEXT = {
    "radius": "Dispersion is the scatter of log10 M(<r) between galaxies, bias its mean offset. Bands: 68 % "
    "bootstrap intervals over galaxies and, where there are several, seeds.",
    "classical": "The best network beside what is done without one, on the same observed views, at the radii where "
    "each is defined: estimators from the stars' aperture dispersion (points), a spherical Jeans fit of"
    " the stars, and tilted rings of the gas with pressure support (dotted lines; not for discs seen "
    "closer to face-on than 30 degrees). In the figures each is measured on the views that it answers; the table "
    "compares on the same views at the same radii (ratio: the classical estimator's dispersion over the network's). "
    "Axisymmetric Jeans models (JAM) take seconds a view, and are not among them. On suites that networks know they "
    "scatter more; on another generator's galaxies they were less biased than networks, and truer in their errors.",
    "gain": "How much is gained by both tracers, on the views that all three networks can use: the dispersion "
    "of the better single tracer over that of both. Bars: 68 % intervals; P: probability that the ratio"
    " exceeds 1 (paired bootstrap).",
    "gain_where": "The same ratio at each radius, and averaged over radii in bins of what the galaxy and its view are "
    "like (galaxies in brackets): above one, both tracers together do better than the better of the two alone.",
    "matrix": "Networks using both tracers, trained on the suites of a row and tested on the suite of a column. "
    "Where a row does not name the column's suite the simulation has changed. A view is out of distribution when it is "
    "less like the training galaxies than 95 % of those kept for validation: 5 % are where nothing has changed.",
    "closed": "Networks trained on all suites but one and tested on that one, mean over the suites left out. RMSE is "
    "bias and dispersion together. Lines: what plain networks reach on it (dashed), and what those trained on it alone "
    "do (full). By what varied while they were trained: scale (velocities, lengths and masses by factors that gravity "
    "does not notice), light (mass-to-light ratios), heat (rotation against dispersion), tilt (mass profiles' slopes);"
    " relative: densities are seen up to a factor only.",
    "calibration": "A calibrated posterior holds the truth in its 68 % interval 68 % of the time, and so for every "
    "level (top left); ranks of the truth are even (bottom left: heaped at the ends where posteriors "
    "are too narrow, in the middle where too wide); and for the whole profile the curve of TARP lies at"
    " zero (bottom right).",
    "column": "Where errors come from: dispersion and bias, averaged over radii, in bins of what the galaxy and "
    "its view are like (galaxies in brackets).",
    "saliency": "Integrated gradients of log10 M(<r) with respect to the observed maps: what each pixel adds, "
    "counted from a featureless galaxy with the same pixels, the same velocity scale, an even density "
    "and no rotation. Top: mean size over views, as they lie on the sky (the circle is r); below: the "
    "share of each map.",
    "galaxies": "The best, the median and the worst view of the galaxies tested, by the CRPS of the network that is "
    "named below. Maps as the instrument sees them (grey where nothing is seen).",
    "conditions": "The same galaxies seen in many ways, each of which differs in one thing from the instrument ifu "
    "(survey, the last, in all of them at once): RMSE of log10 M(<r), mean over radii, with 68 % bootstrap intervals "
    "over galaxies, and seeds; the truths inside 68 and 95 % intervals (in_68, in_95); the share of views that are "
    "called out of distribution (strange). Where a network was trained through another instrument than a galaxy is "
    "seen through, and not through ranges that hold it, its intervals are not to be believed.",
    "table": "One row per estimator, tracer, training set and test suite, averaged over the radii that it answers; "
    "answered is the share of views, at the radius with the fewest and with the most answers. table.csv has "
    "every radius, bins.csv the bins, and the site (make docs) says what the columns are, in reference/columns.",
}


#: What names of figures begin with, by which those of an earlier report are known.
_NAMES = (
    "radius-", "classical-", "gain_", "gain-where_", "matrix_", "closed_", "calibration_", "column_", "saliency-maps_",
    "saliency-share_", "galaxies_", "conditions.",
)  # fmt: skip


#: What tables.json keeps to compare with, and nobody reads.
_NOT_SHOWN = ("digests", "weights", "files", "maps")
#: Tracers in the words of a caption.
_WORDS = {"both": "gas and stars"}


def _remove_others(folder: Path, written: Collection[str]) -> None:
    """Remove an earlier report's figures that are not among those written now: they are of other tables.

    Files of other names are somebody else's and stay.
    """
    for path in folder.iterdir():
        if path.name.startswith(_NAMES) and path.suffix in (".png", ".pdf") and path.name not in written:
            path.unlink()


def _png(figure: Figure, path: Path) -> str:
    """Write the figure as PNG and as vector PDF, close it, and return the PNG in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    # Not with_suffix: the suite's name, which is part of the file name, may have a dot in it.
    write_atomically(path.with_name(f"{path.name}.png"), buffer.getvalue())
    # Keep the layout of the PNG for the PDF: a second layout would take half of the time.
    figure.set_layout_engine("none")
    with aside(path.with_name(f"{path.name}.pdf")) as partial:
        figure.savefig(partial, format="pdf")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Results:
    """Tables that `kinmass tables` has written, and (origin) the content of tables.json.

    conditions: what `kinmass conditions` has written there, if it has.
    """

    origin: dict[str, Any]
    table: pd.DataFrame
    summary: pd.DataFrame
    ratios: pd.DataFrame
    gains: pd.DataFrame
    beside: pd.DataFrame
    gap: pd.DataFrame
    closed: pd.DataFrame
    bins: pd.DataFrame
    calibration: pd.DataFrame
    conditions: pd.DataFrame | None = None

    @property
    def part(self) -> str | None:
        """The part of the split that was tested, None for all galaxies."""
        return None if self.origin["part"] == ALL else str(self.origin["part"])

    def train(self, instrument: str) -> str:
        """Return the training set with the most suites through an instrument, for which tracers are compared."""
        return figures.joint_training(self.table, instrument)


def read_results(folder: Path) -> Results:
    """Read a results folder. Raises ValueError when the tables are not there."""
    if not (folder / "tables.json").exists():
        raise ValueError(f"{folder} holds no tables; make them with `kinmass tables ... --out {folder}`")
    try:
        origin = json.loads((folder / "tables.json").read_text())
        names = ("table", "summary", "ratios", "gains", "beside", "gap", "closed", "bins", "calibration")
        tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in names}
        missing = {"store", "runs", "part", "versions"} - set(origin) | ({*SHOWN, "ood_share"} - set(tables["summary"]))
        if missing:
            raise ValueError(f"without {', '.join(sorted(missing))}")
        for name, digest in origin.get("digests", {}).items():
            if digest_of_file(folder / f"{name}.parquet") != digest:
                raise ValueError(f"{name}.parquet is not the one that tables.json tells of")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} holds no tables that can be read ({error}); make them with `kinmass tables`"
        ) from error
    if not (tables["table"].train != "").any():
        raise ValueError(f"{folder}/table.parquet has no network in it; give `kinmass tables` the runs of some")
    conditions = _read_conditions(folder / CONDITIONS) if (folder / CONDITIONS).exists() else None
    return Results(origin, **tables, conditions=conditions)


def _read_conditions(path: Path) -> pd.DataFrame:
    """Read what `kinmass conditions` has written. Raises ValueError, which names the file, where that is damaged."""
    try:
        table = pd.read_csv(path)
        if missing := {"tracer", "condition", "network", "rmse", "in_68", "in_95", "strange"} - set(table.columns):
            raise ValueError(f"without {', '.join(sorted(missing))}")
        return table
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); give the `kinmass conditions` command again, or remove it"
        ) from error


def headlines(results: Results) -> list[str]:
    """Return the main results as sentences, per instrument: dispersions, the gap to unseen suites, what closes it."""
    lines = changed_since(results.origin)
    summary, ratios = results.summary, results.ratios
    lines += trained_on_remark(results.part, summary.train, summary.test)
    for instrument in sorted(summary.instrument.unique()):
        train = results.train(instrument)
        of_train = summary[(summary.instrument == instrument) & (summary.train == train) & (summary.train != "")]
        network_rows = figures.plainest(of_train)
        for test in [ALL] if ALL in set(network_rows.test) else sorted(network_rows.test.unique()):
            values = ", ".join(
                f"{row.tracer} {f'{row.dispersion:.3f} dex' if np.isfinite(row.dispersion) else 'not defined'}"
                + _kind(row.estimator)
                for row in network_rows[network_rows.test == test].itertuples()
            )
            line = f"Through {instrument}, trained on {train}, tested on {test}: dispersion {values}."
            ratio_rows = ratios[(ratios.instrument == instrument) & (ratios.train == train) & (ratios.test == test)]
            ratio_rows = ratio_rows[ratio_rows.estimator.isin(network_rows.estimator)]
            for row in ratio_rows.itertuples():
                line += f" Best single tracer / both: {row.ratio:.2f} ({_interval(row.lo, row.hi, 2)})."
            lines.append(line)
        gap = figures.plainest(results.gap[results.gap.instrument == instrument])
        for tracer, rows in gap.groupby("tracer"):
            strange = 100 * rows.ood_share.mean(skipna=False)  # known of every pair, or not said
            lines.append(
                f"On suites they never saw, networks of {tracer}{_kind(rows.estimator.iloc[0])} err "
                f"{rows.rmse_ratio.mean():.1f} times as much as those trained there (RMSE, "
                f"{'one pair' if len(rows) == 1 else f'mean of {len(rows)} pairs'}); their 68 % intervals hold "
                f"{100 * rows.coverage_68.mean():.0f} % of the truths"
                + (f", and {strange:.0f} % of the views are out of distribution." if np.isfinite(strange) else ".")
            )
        for row in results.closed[results.closed.instrument == instrument].itertuples():
            if "+" in row.estimator and np.isfinite(row.closed):
                lines.append(
                    f"{row.estimator}, {row.tracer}: {100 * row.closed:.0f} % of the gap to suites left out is closed "
                    f"({_interval(100 * row.closed_lo, 100 * row.closed_hi, 0)}); 68 % intervals hold "
                    f"{100 * row.coverage_68:.0f} %."
                )
    return lines


def _kind(estimator: str) -> str:
    """Return what kind of network it is, in brackets, if not a plain one."""
    return "" if estimator == "cnn" else f" ({estimator})"


def _interval(low: float, high: float, digits: int) -> str:
    """Return an interval in words, also where there is none."""
    if not np.isfinite(low):
        return "no interval: all galaxies are of one lineage"
    return f"68 % interval {low:.{digits}f} to {high:.{digits}f}"


class Galaxies:
    """Kept predictions for single views, by the networks that are compared, through one instrument.

    Raises OSError or ValueError where the store or the runs are no longer there.
    """

    def __init__(self, results: Results, folder: Path, instrument: str):
        origin, self.train = results.origin, results.train(instrument)
        self.store = Path(origin["store"])
        runs = [Path(run) for run in origin["runs"]]
        for run, weights in origin.get("weights", {}).items():
            if weights_of(Path(run)) != weights:
                raise ValueError(f"{run} was trained anew since these tables were made")
        candidates = [s for s in sources_of(runs, folder, False) if (s.instrument, s.train) == (instrument, self.train)]
        # Of a tracer's networks that with the fewest variations in training is shown; the last source is used: cnn
        # comes after cnn-any, and is preferred; so is the lowest seed.
        by_kind = sorted(candidates, key=lambda s: (s.name.count("+"), s.name, s.seed), reverse=True)
        self.sources = {s.tracer: s for s in by_kind}
        self.instrument = next(instrument_of(s.run) for s in candidates if s.run)
        suites = [suite for suite in results.table.test.unique() if suite != ALL]
        self.parts = [Part(self.store.absolute(), suite, results.part) for suite in sorted(suites)]

    @cached_property
    def best_tracer(self) -> str:
        """`both` where there is a network for it, else `stars` or `gas`."""
        return next(t for t in ("both", "stars", "gas") if t in self.sources)

    @cached_property
    def ranked(self) -> list[tuple[float, Part, int]]:
        """(CRPS, part, row) of the views that the best tracer's network can use, read block by block.

        In rising order of the CRPS [dex], averaged over radii.
        """
        scored = []
        for part in self.parts:
            kept = KeptPredictions(self.sources[self.best_tracer], part)
            for block in part.blocks():
                estimates, data = kept.read(block)
                rows = np.flatnonzero((data["state"] == PREDICTED) & np.isfinite(estimates.median).all(1))
                if len(rows) and estimates.samples is not None:
                    crps = crps_of_samples(estimates.samples[:, rows], estimates.truth[rows]).mean(1)
                    rows += block.start * part.views
                    scored += [(float(c), part, int(row)) for c, row in zip(crps, rows, strict=True)]
        return sorted(scored, key=lambda item: item[0])

    def views(self, chosen: Iterable[tuple[Part, int]]) -> Views:
        """Read views, given by part and row, from the map store."""
        views = []
        for part, row in chosen:
            numbers, names, lineages = part.names
            galaxy, view = divmod(row, part.views)
            single = slice(galaxy, galaxy + 1)
            views.append(
                views_of(part.group, part.suite, numbers[single], names[single], lineages[single])[np.array([view])]
            )
        return concatenate(views)

    def extremes(self) -> Figure | None:
        """Draw the best, the median and the worst view, with each tracer's profile; None if no view is usable."""
        ranked = self.ranked
        if not ranked:
            return None
        extreme_views = [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
        views = self.views((part, row) for _, part, row in extreme_views)
        samples: dict[str, np.ndarray] = {}
        for tracer in (t for t in ("gas", "stars", "both") if t in self.sources):
            kept = [
                KeptPredictions(self.sources[tracer], p).read(slice(r // p.views, r // p.views + 1))
                for _, p, r in extreme_views
            ]
            view_samples = [
                e.samples[:, r % p.views]
                for (e, _), (_, p, r) in zip(kept, extreme_views, strict=True)
                if e.samples is not None
            ]
            samples[tracer] = np.stack(view_samples, axis=1)
        r_e = views.half_mass_radius_kpc.numpy()
        labels = [
            f"{place}, CRPS {score:.3f} dex\n{name}"
            for place, (score, _, _), name in zip(("best", "median", "worst"), extreme_views, views.ids(), strict=True)
        ]
        half_width = 0.5 * self.instrument.grid(views.maps.shape[-1], views.field_of_view_re)[1] * r_e
        observed = as_measured(views.observed(self.instrument, told=True)).numpy()
        radii = np.outer(r_e, RADII_RE)
        configs = [part.group.attrs.asdict()["config"] for _, part, _ in extreme_views]
        return pictures.examples(observed, radii, views.log10_menc.numpy(), samples, labels, half_width, configs)

    def saliency(self, n: int = 32) -> tuple[Figure, Figure] | None:
        """Draw attributions of the best tracer's network, for n views spread evenly over all usable ones."""
        source = self.sources[self.best_tracer]
        ranked = self.ranked
        if not ranked or source.run is None:
            return None
        order = sorted(ranked, key=lambda item: (item[1].suite, item[2]))
        chosen = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).astype(int))]
        views, infer = self.views((part, row) for _, part, row in chosen), load(source.run)
        observed = views.observed(infer.instrument, told=infer.told)
        pixel_attributions = attributions(
            infer, observed, views.half_mass_radius_kpc, source.tracer, list(range(len(RADII_RE)))
        )
        field_of_view_re = infer.instrument.grid(views.maps.shape[-1], views.field_of_view_re)[1]
        return pictures.saliency(pixel_attributions, np.array(RADII_RE), field_of_view_re)


def _section(
    folder: Path, instrument: str, title: str, text: str, captioned: Iterable[tuple[str, Figure, str]], **options: Any
) -> dict[str, Any]:
    """Return a section; writes its figures, given as (file name, figure, caption), each before the next is drawn."""
    figure_parts = [
        {"png": _png(figure, folder / f"{name}_{instrument}"), "name": f"{name}_{instrument}", "caption": caption}
        for name, figure, caption in captioned
    ]
    return {"title": f"{title} ({instrument})", "text": _TEXT[text], "figures": figure_parts} | options


def _sections(results: Results, folder: Path, out: Path, instrument: str) -> Iterable[dict[str, Any]]:
    """Yield the sections for one instrument, each with title, text and figures."""
    table, train = results.table, results.train(instrument)
    tests = sorted(table[table.instrument == instrument].test.unique(), key=lambda t: (t != ALL, t))

    section = partial(_section, folder, instrument)
    network_rows = table[(table.instrument == instrument) & (table.train == train)]
    if not train:
        yield {"title": f"Networks ({instrument})", "text": "No network answers for any view.", "figures": []}
        return
    tested = [test for test in tests if (network_rows.test == test).any()]

    def caption(test: str) -> str:
        """Return what the networks of a figure were trained and tested on."""
        return f"Trained on {train}, tested on {test}."

    yield section(
        "Dispersion and bias against radius", "radius",
        ((f"radius-{t}", figures.against_radius(table, instrument, t), caption(t)) for t in tested),
    )  # fmt: skip
    if ((table.train == "") & (table.instrument == instrument)).any():
        drawn = ((f"classical-{t}", figures.against_radius(table, instrument, t, True), caption(t)) for t in tested)
        beside = main_rows(results.beside[results.beside.instrument == instrument])
        yield section("Beside classical estimators", "classical", drawn, tables=[_html(shown(beside))])
    ratios, gains = (
        figures.plainest(rows[(rows.instrument == instrument) & (rows.train == train)])
        for rows in (results.ratios, results.gains)
    )
    if len(ratios):
        captioned = [("gain", figures.gain(ratios, instrument, train), f"Trained on {train}.")]
        yield section("What two tracers gain", "gain", captioned, narrow=True)
        where = gains[gains.test == tested[0]]
        if len(where):
            captioned = [("gain-where", figures.gain_where(where), caption(tested[0]))]
            yield section("Where two tracers gain", "gain_where", captioned, wide=True)
    joint = results.summary[(results.summary.train != "") & (results.summary.instrument == instrument)]
    joint = figures.plainest(joint[(joint.tracer == "both") & (joint.test != ALL)])
    if joint.train.nunique() > 1:
        captioned = [("matrix", figures.train_by_test(joint, instrument), "Averages over ten radii from 0.3 to 3 R_e.")]
        yield section("A change of simulation", "matrix", captioned, wide=True)
    closed = results.closed[results.closed.instrument == instrument]
    if closed.estimator.nunique() > 1:
        yield section("Closing the gap", "closed", [("closed", figures.closed(closed), "")], wide=True)
    first_test = tested[0]
    figure = figures.calibration(table, results.calibration, instrument, first_test)
    captioned = [("calibration", figure, caption(first_test))]
    yield section("Calibration", "calibration", captioned, wide=True)
    bins = results.bins[(results.bins.instrument == instrument) & (results.bins.test == first_test)]
    if (bins.train == train).any():
        captioned = [("column", figures.by_column(results.bins, instrument, first_test), caption(first_test))]
        yield section("Errors against mass, inclination, gas and rotation", "column", captioned, wide=True)
    yield from _galaxy_sections(results, out, instrument, section)


def _galaxy_sections(
    results: Results, out: Path, instrument: str, section: Callable[..., dict[str, Any]]
) -> Iterable[dict[str, Any]]:
    """Yield the sections that show galaxies, or one that says why there are none; section: of `_section`."""
    try:
        galaxies = Galaxies(results, out, instrument)
        saliency_figures = galaxies.saliency()
        extremes = galaxies.extremes()
    except (OSError, ValueError) as error:
        text = f"Pictures of galaxies are left out: store, runs or kept predictions are not where they were ({error})."
        yield {"title": f"Galaxies ({instrument})", "text": text, "figures": []}
        return
    network = f"The network of {_WORDS.get(galaxies.best_tracer, galaxies.best_tracer)}, trained on {galaxies.train}."
    if saliency_figures is not None:
        captioned = [("saliency-maps", saliency_figures[0], network), ("saliency-share", saliency_figures[1], network)]
        yield section("Where the information is", "saliency", captioned, wide=True)
    if extremes is not None:
        yield section("Best, median and worst", "galaxies", [("galaxies", extremes, network)], wide=True)


def _conditions(table: pd.DataFrame, folder: Path, tables_origin: dict[str, Any]) -> dict[str, Any]:
    """Return the section on the conditions under which galaxies are seen; it says of what, if not of the tables'."""
    picture = {"png": _png(figures.conditions(table), folder / "conditions"), "name": "conditions", "caption": ""}
    path = folder.parent / CONDITIONS
    origin = read_origin(path.with_suffix(".json"), path)
    text = _TEXT["conditions"]
    if not origin:
        text += f" Nothing says which runs {CONDITIONS} is of: give the kinmass conditions command again."
    elif others := differences(origin, tables_origin):
        text += f" Made on {origin['date']} of something else than the other tables here: {'; '.join(others)}."
    return {
        "title": "How galaxies are seen", "text": text, "figures": [picture], "wide": True,
        "tables": [_html(table.drop(columns="runs", errors="ignore"))],
    }  # fmt: skip


def _html(table: pd.DataFrame) -> str:
    return str(table.to_html(index=False, float_format="{:.3f}".format, border=0, na_rep=""))


@own_style()
def write_report(results: Path) -> Path:
    """Write report.html and figures/ in the folder `results`, in which `kinmass tables` has written; return its path.

    Raises ValueError when the tables are not there.
    """
    evaluation = read_results(results)
    folder = results / "figures"
    make_folder(folder)
    sections: list[dict[str, Any]] = []
    instruments = sorted(evaluation.table.instrument.unique())
    with progress_bar(desc="report", unit="section") as progress:
        for instrument in instruments:
            for section in _sections(evaluation, folder, results, instrument):
                sections.append(section)
                progress.update()
        if evaluation.conditions is not None:
            sections.append(_conditions(evaluation.conditions, folder, evaluation.origin))
    columns = [*KEYS, "n_galaxies", "n_views", "radii", "answered", "bias", "dispersion", "dispersion_lo",
               "dispersion_hi", "dispersion_robust", "outliers", "rmse", "crps", "coverage_68", "coverage_95",
               "width_68", "log_prob_joint"]  # fmt: skip
    summary = evaluation.summary.assign(**shown(evaluation.summary)[["radii", "answered"]])[columns]
    others = [table for table in (evaluation.ratios, evaluation.gap, evaluation.closed) if len(table)]
    tables = [_html(table) for table in (summary, *others)]
    sections.append({"title": "Table", "text": _TEXT["table"], "figures": [], "tables": tables})
    origin = {key: value for key, value in evaluation.origin.items() if key not in _NOT_SHOWN}
    origin["versions"] = ", ".join(f"{k} {v}" for k, v in origin["versions"].items())
    origin["runs"] = ", ".join(origin["runs"])
    provenance = pd.Series(origin).to_frame().to_html(header=False, border=0)
    template = jinja2.Environment(autoescape=True).from_string((Path(__file__).parent / "report.html.j2").read_text())
    html = template.render(
        headlines=headlines(evaluation), sections=sections, provenance=provenance, is_test=evaluation.part is not None
    )
    write_atomically(results / "report.html", html)
    written = [f"{figure['name']}{end}" for s in sections for figure in s["figures"] for end in (".png", ".pdf")]
    _remove_others(folder, written)
    return results / "report.html"
