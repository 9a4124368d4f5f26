"""One HTML file, without a network, that tells what the table says."""

import base64
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from eval import figures
from eval.tables import ALL
from gen import store as map_store
from train.checkpoint import instrument_of, read_config
from train.dataset import RADII_RE, concatenate, read_views, usable
from train.posterior import load

_TEXT = {
    "radius": "Dispersion is the scatter of log10 M(<r) between galaxies, bias its mean offset. Bands: 68 % "
    "bootstrap intervals over galaxies.",
    "matrix": "Networks using both tracers, trained on the suites of a row and tested on the suite of a column. "
    "Off the diagonal the simulation has changed.",
    "calibration": "A calibrated posterior holds the truth in its 68 % interval 68 % of the time.",
    "examples": "Maps as the instrument sees them (masked pixels white) and the inferred mass profiles.",
    "table": "One row per estimator, tracer, training set and test suite, averaged over radii. "
    "The full table per radius is table.csv.",
}


def _png(figure: Figure, path: Path) -> str:
    """The figure as base64 PNG, kept as a file and as vector PDF too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    path.with_suffix(".png").write_bytes(buffer.getvalue())
    figure.savefig(path.with_suffix(".pdf"))
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _example_figure(store: Path, runs: list[Path], look_name: str) -> Figure | None:
    """One test galaxy of each suite, with the profile each tracer infers."""
    joint: dict[str, Path] = {}
    for run in runs:
        fit = read_config(run)["fit"]
        known = joint.get(fit["tracer"])
        if fit["instrument"] == look_name and (
            known is None or len(fit["suites"]) > len(read_config(known)["fit"]["suites"])
        ):
            joint[fit["tracer"]] = run
    if not joint:
        return None
    look = instrument_of(next(iter(joint.values())))
    chosen = []
    for suite in map_store.suites(store):
        views = read_views(store, suite, "test")
        good = np.flatnonzero(usable(views, "stars", look) & usable(views, "gas", look))
        if len(good):
            chosen.append(views[np.array([good[len(good) // 2]])])
    if not chosen:
        return None
    views = concatenate(chosen)
    observed = views.observed(look)
    samples: dict[str, np.ndarray] = {}
    for tracer in ("gas", "stars", "both"):
        found = joint.get(tracer, joint.get("any"))
        if found is not None:
            samples[tracer] = load(found)(views, tracer=tracer).samples()
    r_e = views.half_mass_radius_kpc.numpy()
    return figures.examples(
        observed.numpy(),
        np.outer(r_e, RADII_RE),
        views.log10_menc.numpy(),
        samples,
        [str(s) for s in views.suite],
        0.5 * look.grid(views.maps.shape[-1], views.field_of_view_re)[1] * r_e,
    )


@dataclass(frozen=True)
class Results:
    """What `eval tables` has written."""

    origin: dict[str, Any]
    table: pd.DataFrame
    summary: pd.DataFrame
    ratios: pd.DataFrame

    @property
    def train(self) -> str:
        """The training set whose tracers are compared."""
        return figures.joint_training(self.table)


def read_results(folder: Path) -> Results:
    """Read a results folder. Raises ValueError when the tables are not there."""
    try:
        origin = json.loads((folder / "tables.json").read_text())
        tables = [pd.read_csv(folder / f"{name}.csv", dtype={"train": str}) for name in ("summary", "ratios")]
        table = pd.read_parquet(folder / "table.parquet")
    except OSError as error:
        raise ValueError(f"{folder} holds no tables ({error}); make them with `python -m eval tables`") from error
    if not (table.train != "").any():
        raise ValueError(f"{folder}/table.parquet has no network in it")
    summary, ratios = tables
    if not (table.estimator == "cnn").any():  # one network for any tracer is all there is: it is the one shown
        table, summary, ratios = (t.replace({"estimator": {"cnn-any": "cnn"}}) for t in (table, summary, ratios))
    ratios = ratios[ratios.estimator == "cnn"]
    return Results(origin, table, summary.fillna({"train": ""}), ratios)


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
    return lines


def write_report(results: Path) -> Path:
    """Write report.html and figures/ from what `eval tables` left in `results`; the report's path.

    Raises ValueError when the tables are not there.
    """
    content = read_results(results)
    origin, table, summary, ratios, train = (
        dict(content.origin), content.table, content.summary, content.ratios, content.train
    )  # fmt: skip
    folder = results / "figures"
    folder.mkdir(exist_ok=True)
    train = figures.joint_training(table)
    tests = sorted(table.test.unique(), key=lambda t: (t != ALL, t))
    sections: list[dict[str, Any]] = []
    for look in sorted(table.instrument.unique()):
        shown = [
            {
                "png": _png(figures.against_radius(table, look, test), folder / f"radius_{look}_{test}"),
                "caption": f"Tested on {test}.",
            }
            for test in tests
        ]
        sections.append(
            {"title": f"Dispersion and bias against radius ({look})", "text": _TEXT["radius"], "figures": shown}
        )
        here = summary[(summary.estimator == "cnn") & (summary.instrument == look) & (summary.tracer == "both")]
        if here.train.nunique() > 1:
            png = _png(figures.train_by_test(summary, look), folder / f"matrix_{look}")
            sections.append(
                {"title": f"A change of simulation ({look})", "text": _TEXT["matrix"],
                 "figures": [{"png": png, "caption": "Averages over ten radii from 0.3 to 3 R_e."}]}
            )  # fmt: skip
        png = _png(figures.calibration(table, look, tests[0]), folder / f"calibration_{look}")
        sections.append(
            {"title": f"Calibration ({look})", "text": _TEXT["calibration"], "narrow": True,
             "figures": [{"png": png, "caption": f"Trained on {train}, tested on {tests[0]}."}]}
        )  # fmt: skip
        example = _example_figure(Path(origin["store"]), [Path(r) for r in origin["runs"]], look)
        if example is not None:
            png = _png(example, folder / f"examples_{look}")
            sections.append(
                {"title": f"Examples ({look})", "text": _TEXT["examples"],
                 "figures": [{"png": png, "caption": "One unseen galaxy of each suite; x and y in kpc."}]}
            )  # fmt: skip
    plain = {"index": False, "float_format": "{:.3f}".format, "border": 0, "na_rep": ""}
    sections.append({"title": "Table", "text": _TEXT["table"], "figures": [], "tables": [summary.to_html(**plain)]})
    if len(ratios):
        sections[-1]["tables"].append(ratios.to_html(**plain))
    origin["versions"] = ", ".join(f"{k} {v}" for k, v in origin["versions"].items())
    origin["runs"] = ", ".join(origin["runs"])
    provenance = pd.Series(origin).to_frame().to_html(header=False, border=0)
    template = jinja2.Environment(autoescape=True).from_string((Path(__file__).parent / "report.html.j2").read_text())
    html = template.render(headlines=headlines(content), sections=sections, provenance=provenance)
    aside = results / "report.html.partial"
    aside.write_text(html)
    os.replace(aside, results / "report.html")
    return results / "report.html"
