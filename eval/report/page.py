"""One HTML file, without a network, that tells what the tables say."""

import base64
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from kinmass.eval.report import figures
from kinmass.eval.report import galaxies as pictures
from kinmass.eval.report.saliency import attributions
from kinmass.eval.tables.metrics import crps_of_samples
from kinmass.eval.tables.predictions import PREDICTED, KeptPredictions, Part, Source
from kinmass.eval.tables.tables import ALL, KEYS, SHOWN
from kinmass.eval.tables.tasks import sources_of
from kinmass.gen.storage.files import aside, make_folder, write_atomically
from kinmass.train.data.dataset import RADII_RE, Views, concatenate, views_of
from kinmass.train.run.checkpoint import instrument_of
from kinmass.train.run.posterior import load

_TEXT = {
    "radius": "Dispersion is the scatter of log10 M(<r) between galaxies, bias its mean offset. Bands: 68 % "
    "bootstrap intervals over galaxies.",
    "classical": "The best network beside what is done without one, on the same observed views, at the radii where "
    "each is defined: estimators from the stars' aperture dispersion (points), a spherical Jeans fit of"
    " the stars, and tilted rings of the gas with pressure support (dotted lines; not for discs seen "
    "closer to face-on than 30 degrees).",
    "gain": "How much is gained by both tracers, on the views that all three networks can use: the dispersion "
    "of the better single tracer over that of both. Bars: 68 % intervals; P: probability that the ratio"
    " exceeds 1 (paired bootstrap).",
    "matrix": "Networks using both tracers, trained on the suites of a row and tested on the suite of a column. "
    "Off the diagonal the simulation has changed. A view is out of distribution when it is less like the training "
    "galaxies than 95 % of those kept for validation: 5 % are where nothing has changed.",
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
    "galaxies": "The best, the median and the worst view of the test galaxies, by the CRPS of the network using "
    "both tracers. Maps as the instrument sees them (masked pixels white).",
    "table": "One row per estimator, tracer, training set and test suite, averaged over radii. table.csv has "
    "every radius, bins.csv the bins, and docs/evaluation.md says what the columns are.",
}


def _png(figure: Figure, path: Path) -> str:
    """The figure as base64 PNG, kept as a file and as vector PDF too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path.with_name(f"{path.name}.png"), buffer.getvalue())  # a suite's name may have a dot in it
    figure.set_layout_engine("none")  # where it was just laid out it stays: laying out takes half of the time
    with aside(path.with_name(f"{path.name}.pdf")) as partial:
        figure.savefig(partial, format="pdf")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Results:
    """What `kinmass tables` has written."""

    origin: dict[str, Any]
    table: pd.DataFrame
    summary: pd.DataFrame
    ratios: pd.DataFrame
    gap: pd.DataFrame
    closed: pd.DataFrame
    bins: pd.DataFrame
    calibration: pd.DataFrame

    @property
    def train(self) -> str:
        """The training set whose tracers are compared."""
        return figures.joint_training(self.table)


def read_results(folder: Path) -> Results:
    """Read a results folder. Raises ValueError when the tables are not there."""
    try:
        origin = json.loads((folder / "tables.json").read_text())
        names = ("table", "summary", "ratios", "gap", "closed", "bins", "calibration")
        tables = [pd.read_parquet(folder / f"{name}.parquet") for name in names]
        missing = {"store", "runs", "part", "versions"} - set(origin) | ({*SHOWN, "ood_share"} - set(tables[1].columns))
        if missing:
            raise ValueError(f"without {', '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no tables that can be read ({error}); make them with `kinmass tables`"
        ) from error
    if not (tables[0].train != "").any():
        raise ValueError(f"{folder}/table.parquet has no network in it")
    networks = sorted(tables[0].estimator[tables[0].train != ""].unique())
    if "cnn" not in networks:  # one network for any tracer, or trained on what varies, is all there is: it is shown
        tables = [t.replace({"estimator": {networks[0]: "cnn"}}) for t in tables]
    table, summary, ratios, gap, closed, bins, calibration = tables
    return Results(origin, table, summary, ratios[ratios.estimator == "cnn"], gap, closed, bins, calibration)


def headlines(results: Results) -> list[str]:
    """What the table says, in sentences: one per instrument."""
    lines = []
    summary, ratios, train = results.summary, results.ratios, results.train
    for look in sorted(summary.instrument.unique()):
        here = summary[(summary.instrument == look) & (summary.train == train) & (summary.estimator == "cnn")]
        for test in [ALL] if ALL in set(here.test) else sorted(here.test.unique()):
            values = ", ".join(f"{r.tracer} {r.dispersion:.3f}" for r in here[here.test == test].itertuples())
            line = f"Through {look}, tested on {test}: dispersion {values} dex."
            match = ratios[(ratios.instrument == look) & (ratios.train == train) & (ratios.test == test)]
            for r in match.itertuples():
                line += f" Best single tracer / both: {r.ratio:.2f} (68 % interval {r.lo:.2f} to {r.hi:.2f})."
            lines.append(line)
        gap = results.gap[(results.gap.instrument == look) & (results.gap.estimator == "cnn")]
        for tracer, rows in gap.groupby("tracer"):
            lines.append(
                f"On suites they never saw, networks of {tracer} err {rows.rmse_ratio.mean():.1f} times as much as "
                f"those trained there (RMSE, mean of {len(rows)} pairs); their 68 % intervals hold "
                f"{100 * rows.coverage_68.mean():.0f} % of the truths, and "
                f"{100 * rows.ood_share.mean():.0f} % of the views are out of distribution."
            )
        for r in results.closed[results.closed.instrument == look].itertuples():
            if r.estimator != "cnn":
                lines.append(
                    f"{r.estimator}, {r.tracer}: {100 * r.closed:.0f} % of the gap to suites left out is closed "
                    f"(68 % interval {100 * r.closed_lo:.0f} to {100 * r.closed_hi:.0f}); 68 % intervals hold "
                    f"{100 * r.coverage_68:.0f} %."
                )
    return lines


class Galaxies:
    """What is kept of single views: predictions of the networks that are compared, through one instrument.

    Raises OSError or ValueError where store or runs are no longer there.
    """

    def __init__(self, results: Results, folder: Path, instrument: str):
        origin, train = results.origin, results.train
        self.store, self.part = Path(origin["store"]), None if origin["part"] == ALL else origin["part"]
        runs = [Path(run) for run in origin["runs"]]
        all_of_them = [s for s in sources_of(runs, folder, False) if (s.instrument, s.train) == (instrument, train)]
        fewest = min(s.name.count("+") for s in all_of_them)  # what varied in training
        sources = [s for s in all_of_them if s.name.count("+") == fewest]
        self.sources = {s.tracer: s for s in sorted(sources, key=lambda s: s.name, reverse=True)}  # cnn before cnn-any
        self.look = next(instrument_of(s.run) for s in sources if s.run)
        tested = [suite for suite in results.table.test.unique() if suite != ALL]
        self.parts = [Part(self.store.absolute(), suite, self.part) for suite in sorted(tested)]

    @cached_property
    def best_tracer(self) -> str:
        """both, where there is such a network."""
        return next(t for t in ("both", "stars", "gas") if t in self.sources)

    def score(self, source: Source) -> list[tuple[float, Part, int]]:
        """CRPS, mean of radii, of every view that can be used, with its part and number in it; rising."""
        found = []
        for part in self.parts:
            estimates, data = KeptPredictions(source, part).read(slice(0, len(part)))
            good = np.flatnonzero((data["state"] == PREDICTED) & np.isfinite(estimates.median).all(1))
            if len(good) and estimates.samples is not None:
                crps = crps_of_samples(estimates.samples[:, good], estimates.truth[good]).mean(1)
                found += [(float(c), part, int(row)) for c, row in zip(crps, good, strict=True)]
        return sorted(found, key=lambda item: item[0])

    def views(self, chosen: Iterable[tuple[Part, int]]) -> Views:
        """The views themselves, from the map store."""
        found = []
        for part, row in chosen:
            numbers, names, lineages = part.names
            galaxy, view = divmod(row, part.views)
            one = slice(galaxy, galaxy + 1)
            found.append(views_of(part.group, part.suite, numbers[one], names[one], lineages[one])[np.array([view])])
        return concatenate(found)

    def extremes(self) -> Figure | None:
        """The best, the median and the worst view, with each tracer's profile."""
        ranked = self.score(self.sources[self.best_tracer])
        if not ranked:
            return None
        picked = [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
        views = self.views((part, row) for _, part, row in picked)
        samples: dict[str, np.ndarray] = {}
        for tracer in (t for t in ("gas", "stars", "both") if t in self.sources):
            drawn = [
                KeptPredictions(self.sources[tracer], p).read(slice(r // p.views, r // p.views + 1))
                for _, p, r in picked
            ]
            each = [
                e.samples[:, r % p.views]
                for (e, _), (_, p, r) in zip(drawn, picked, strict=True)
                if e.samples is not None
            ]
            samples[tracer] = np.stack(each, axis=1)
        r_e = views.half_mass_radius_kpc.numpy()
        labels = [
            f"{word}, CRPS {score:.3f} dex\n{name}"
            for word, (score, _, _), name in zip(("best", "median", "worst"), picked, views.ids(), strict=True)
        ]
        half_width = 0.5 * self.look.grid(views.maps.shape[-1], views.field_of_view_re)[1] * r_e
        observed = views.observed(self.look).numpy()
        radii = np.outer(r_e, RADII_RE)
        return pictures.examples(observed, radii, views.log10_menc.numpy(), samples, labels, half_width)

    def saliency(self, n: int = 32) -> tuple[Figure, Figure] | None:
        """Of views spread over all that the network of both tracers (or the only one) can use."""
        source = self.sources[self.best_tracer]
        ranked = self.score(source)
        if not ranked or source.run is None:
            return None
        order = sorted(ranked, key=lambda item: (item[1].suite, item[2]))
        few = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).astype(int))]
        views, infer = self.views((part, row) for _, part, row in few), load(source.run)
        observed = views.observed(infer.instrument)
        found = attributions(infer, observed, views.half_mass_radius_kpc, source.tracer, list(range(len(RADII_RE))))
        field = infer.instrument.grid(views.maps.shape[-1], views.field_of_view_re)[1]
        return pictures.saliency(found, np.array(RADII_RE), field)


def _sections(results: Results, folder: Path, out: Path, look: str) -> Iterable[dict[str, Any]]:
    """One section after the other, of one instrument: title, text and figures."""
    table, train = results.table, results.train
    tests = sorted(table[table.instrument == look].test.unique(), key=lambda t: (t != ALL, t))

    def section(title: str, text: str, shown: list[tuple[str, Figure, str]], **more: Any) -> dict[str, Any]:
        made = [{"png": _png(f, folder / f"{name}_{look}"), "caption": caption} for name, f, caption in shown]
        return {"title": f"{title} ({look})", "text": _TEXT[text], "figures": made} | more

    here = table[(table.instrument == look) & (table.train == train)]
    tests_of = [test for test in tests if (here.test == test).any()]
    if not tests_of:
        return
    yield section(
        "Dispersion and bias against radius", "radius",
        [(f"radius-{t}", figures.against_radius(table, look, t), f"Tested on {t}.") for t in tests_of],
    )  # fmt: skip
    if ((table.train == "") & (table.instrument == look)).any():
        shown = [(f"classical-{t}", figures.against_radius(table, look, t, True), f"Tested on {t}.") for t in tests_of]
        yield section("Beside classical estimators", "classical", shown)
    ratios = results.ratios[(results.ratios.instrument == look) & (results.ratios.train == train)]
    if len(ratios):
        yield section("What two tracers gain", "gain", [("gain", figures.gain(ratios, look, train), "")], narrow=True)
    joint = results.summary[(results.summary.estimator == "cnn") & (results.summary.instrument == look)]
    joint = joint[(joint.tracer == "both") & (joint.test != ALL)]
    if joint.train.nunique() > 1:
        shown = [("matrix", figures.train_by_test(joint, look), "Averages over ten radii from 0.3 to 3 R_e.")]
        yield section("A change of simulation", "matrix", shown, wide=True)
    closed = results.closed[results.closed.instrument == look]
    if closed.estimator.nunique() > 1:
        yield section("Closing the gap", "closed", [("closed", figures.closed(closed), "")], wide=True)
    first = tests_of[0]
    figure = figures.calibration(table, results.calibration, look, first)
    shown = [("calibration", figure, f"Trained on {train}, tested on {first}.")]
    yield section("Calibration", "calibration", shown, wide=True)
    bins = results.bins[(results.bins.instrument == look) & (results.bins.test == first)]
    if (bins.train == train).any():
        shown = [("column", figures.by_column(results.bins, look, first), f"Tested on {first}.")]
        yield section("Errors against mass, inclination, gas and rotation", "column", shown, wide=True)
    try:
        galaxies = Galaxies(results, out, look)
        made = galaxies.saliency()
        extremes = galaxies.extremes()
    except (OSError, ValueError) as error:
        text = f"Pictures of galaxies are left out: store, runs or kept predictions are not where they were ({error})."
        yield {"title": f"Galaxies ({look})", "text": text, "figures": []}
        return
    if made is not None:
        shown = [("saliency-maps", made[0], ""), ("saliency-share", made[1], "")]
        yield section("Where the information is", "saliency", shown, wide=True)
    if extremes is not None:
        yield section("Best, median and worst", "galaxies", [("galaxies", extremes, "x and y in kpc.")], wide=True)


def write_report(results: Path) -> Path:
    """Write report.html and figures/ from what `kinmass tables` left in `results`; the report's path.

    Raises ValueError when the tables are not there.
    """
    content = read_results(results)
    folder = results / "figures"
    make_folder(folder)
    sections: list[dict[str, Any]] = []
    looks = sorted(content.table.instrument.unique())
    with tqdm(desc="report", unit="section") as bar:
        for look in looks:
            for section in _sections(content, folder, results, look):
                sections.append(section)
                bar.update()
    plain = {"index": False, "float_format": "{:.3f}".format, "border": 0, "na_rep": ""}
    columns = [*KEYS, "n_galaxies", "n_views", "bias", "dispersion", "dispersion_lo", "dispersion_hi",
               "dispersion_robust", "outliers", "rmse", "crps", "coverage_68", "coverage_95", "width_68",
               "log_prob_joint"]  # fmt: skip
    tables = [content.summary[columns].to_html(**plain)]
    if len(content.ratios):
        tables.append(content.ratios.to_html(**plain))
    tables += [t.to_html(**plain) for t in (content.gap, content.closed) if len(t)]
    sections.append({"title": "Table", "text": _TEXT["table"], "figures": [], "tables": tables})
    origin = dict(content.origin)
    origin["versions"] = ", ".join(f"{k} {v}" for k, v in origin["versions"].items())
    origin["runs"] = ", ".join(origin["runs"])
    provenance = pd.Series(origin).to_frame().to_html(header=False, border=0)
    template = jinja2.Environment(autoescape=True).from_string((Path(__file__).parent / "report.html.j2").read_text())
    html = template.render(headlines=headlines(content), sections=sections, provenance=provenance)
    write_atomically(results / "report.html", html)
    return results / "report.html"
