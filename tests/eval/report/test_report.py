"""The report is one self-contained file, shows the right galaxies, and its attributions add up."""

import json
import re
import shutil
from itertools import combinations, islice
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from conftest import KEPT, LOCKS, command, tables_here

from kinmass.eval.__main__ import main
from kinmass.eval.report import figures, page
from kinmass.eval.report import galaxies as pictures
from kinmass.eval.report.page import Galaxies, _sections, headlines, read_results, write_report
from kinmass.eval.report.saliency import attributions, central_profile, featureless
from kinmass.eval.tables import predictions
from kinmass.eval.tables.conditions import summary
from kinmass.eval.tables.origin import differences, digest_of_file
from kinmass.eval.tables.tables import to_beside
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.storage.store import DONE
from kinmass.train import load
from kinmass.train.data.dataset import RADII_RE, read_views
from kinmass.train.run.derived import made_from
from kinmass.train.run.trained_on import store_identity


def test_report_stands_alone(results, tmp_path):
    results = shutil.copytree(results, tmp_path / "results")
    command("eval", "report", results)
    html = (results / "report.html").read_text()
    images = re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/=]{5000,}"', html)
    names = sorted(path.stem for path in (results / "figures").glob("*.png"))
    assert len(images) == len(names) == len(list((results / "figures").glob("*.pdf"))) >= 14
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "https://" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    for words in ("Best single tracer / both", "wolf2010", "rotation_curve", "Best, median and worst", "commit"):
        assert words in html
    assert "Pictures of galaxies are left out" not in html
    for words in ("galaxies that networks were trained on are among those tested", "dispersion_beside"):
        assert words in html
    assert all((results / "figures" / f"{name}.pdf").stat().st_size > 5000 for name in names)
    stdout = command("eval", "show", results).stdout
    for words in ("Best single tracer / both", "galaxies that networks were trained on", "Beside classical estimators"):
        assert words in stdout


def test_best_median_and_worst_are_those(results, runs):
    """Compared with the CRPS from its definition, E|X - y| - E|X - X'| / 2, over all pairs of different samples."""
    galaxies = Galaxies(read_results(results), results, "ifu")
    ranked = galaxies.ranked
    assert len(ranked) == 72
    infer = load(next(run for run in runs if run.name == "both"))
    for place in (0, 36, 71):
        score, part, row = ranked[place]
        views = galaxies.views([(part, row)])
        samples, truth = infer(views).samples(200)[:, 0].astype(float), views.log10_menc.numpy()[0]
        pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (200 * 199)
        assert score == pytest.approx(float((np.abs(samples - truth).mean(0) - 0.5 * pairs).mean()), rel=1e-3)
    assert [score for score, _, _ in ranked] == sorted(score for score, _, _ in ranked)


def test_samples_are_read_block_by_block(results, runs, map_store, tmp_path, monkeypatch):
    """With blocks of five galaxies the same views are found, and never more than a block is read at once."""
    expected = [(score, part.suite, row) for score, part, row in Galaxies(read_results(results), results, "ifu").ranked]
    monkeypatch.setattr(predictions, "BLOCK", 5)
    run = shutil.copytree(next(run for run in runs if run.name == "both"), tmp_path / "both", ignore=KEPT)
    read, lengths = predictions.KeptPredictions.read, []

    def spied(self, block, *arguments, **options):
        lengths.append(block.stop - block.start)
        return read(self, block, *arguments, **options)

    tables_here([run], map_store, tmp_path / "out")
    monkeypatch.setattr(predictions.KeptPredictions, "read", spied)
    ranked = Galaxies(read_results(tmp_path / "out"), tmp_path / "out", "ifu").ranked
    assert max(lengths) == 5
    for (score, suite, row), (found_score, part, found_row) in zip(expected, ranked, strict=True):
        assert (found_score, part.suite, found_row) == (pytest.approx(score, abs=2e-4), suite, row)


def test_attributions_add_up_to_the_difference_from_a_featureless_galaxy(runs, map_store):
    infer = load(next(run for run in runs if run.name == "both"))
    views = read_views(map_store, "middle")[np.arange(6)]
    observed, r_e = views.observed(INSTRUMENTS["ifu"]), views.half_mass_radius_kpc
    pixel_attributions = attributions(infer, observed, r_e, "both", [0, 9], steps=128)
    with torch.no_grad():
        difference = central_profile(infer, observed, r_e) - central_profile(infer, featureless(observed), r_e)
    np.testing.assert_allclose(
        pixel_attributions.sum((2, 3, 4)), difference[:, [0, 9]], atol=0.05 * float(difference.abs().max())
    )
    assert np.abs(pixel_attributions[:, :, [3, 7]]).max() == 0  # masks are the same
    stars = attributions(infer, observed, r_e, "stars", [5], steps=4)
    assert np.abs(stars[:, :, 4:]).max() == 0


def test_networks_that_varied_in_training_are_shown_where_there_are_no_plain_ones(results, tmp_path):
    """Plain networks of single suites do not stand in for them, nor do those that see through another instrument.

    Each tracer has networks of its own kind, as `--robust` makes them.
    """
    moved = shutil.copytree(results, tmp_path / "moved")
    digests = json.loads((moved / "tables.json").read_text())
    for path in moved.glob("*.parquet"):
        table = pd.read_parquet(path)
        if "estimator" in table and "train" in table:
            is_of_all = table.train.str.contains("+", regex=False)
            table.loc[is_of_all, "estimator"] = "cnn+scale+heat"
            if "tracer" in table:
                table.loc[is_of_all & (table.tracer == "gas"), "estimator"] = "cnn+scale"
            of_single = table[(table.train == "middle") & (table.estimator == "cnn")]
            table = pd.concat([table, of_single.assign(instrument="other")], ignore_index=True)
        table.to_parquet(path)
        digests["digests"][path.stem] = digest_of_file(path)
    (moved / "tables.json").write_text(json.dumps(digests))
    changed = read_results(moved)
    assert {changed.train(name) for name in ("ifu", "other")} == {"bursty+middle+quiet", "middle"}
    ifu, other = headlines(changed)[1:3]
    for words in (
        "dispersion both",
        "dex (cnn+scale+heat), gas",
        "dex (cnn+scale), stars",
        "dex (cnn+scale+heat). Best",
    ):
        assert words in ifu
    assert "Through other, trained on middle, tested on all: dispersion both" in other
    drawn = (
        figures.by_column(changed.bins, "ifu", "all"),
        figures.calibration(changed.table, changed.calibration, "ifu", "all"),
    )
    assert [{label.get_text() for label in f.axes[0].get_legend().get_texts()} for f in drawn] == [
        {"gas", "stars", "both"}
    ] * 2
    assert next(iter(_sections(changed, tmp_path, tmp_path, "nobody's")))["text"] == "No network answers for any view."


def test_what_is_missing_is_left_out_and_said(results, runs, tmp_path):
    moved = shutil.copytree(results, tmp_path / "moved")
    origin = json.loads((moved / "tables.json").read_text())
    (moved / "tables.json").write_text(json.dumps(origin | {"store": str(tmp_path / "gone.zarr")}))
    html = write_report(moved).read_text()
    assert "Pictures of galaxies are left out" in html
    assert "Best, median and worst" not in html


@pytest.mark.parametrize("run_names", [["middle"], ["gas", "stars"]])
def test_few_runs_give_what_can_be_said(runs: list[Path], map_store: Path, tmp_path: Path, run_names: list[str]):
    chosen = [run for run in runs if run.name in run_names]
    tables_here(chosen, map_store, tmp_path, ("middle",))
    html = write_report(tmp_path).read_text()
    assert "Best, median and worst" in html
    assert "What two tracers gain" not in html
    assert "Beside classical" not in html
    assert set(pd.read_csv(tmp_path / "table.csv").test) == {"middle"}
    network = {"middle": "gas and stars, trained on middle", "gas": "stars, trained on bursty+middle+quiet"}
    assert html.count(f"<figcaption>The network of {network[run_names[0]]}.") == 3
    # Networks were trained on some of them.
    assert "have never seen" not in html


def test_pictures_of_light_are_not_called_mass():
    rng = np.random.default_rng(0)
    observed, profiles = rng.uniform(1, 2, (2, 8, 8, 8)), np.linspace(9, 11, 20).reshape(2, 10)
    configs = [{"suite": {"tracers": {"stars": stars}}} for stars in ("light", "mass")]
    radii = np.geomspace([1, 1], [9, 9], 10).T
    samples = {"both": profiles + rng.normal(size=(40, 2, 10))}
    figure = pictures.examples(observed, radii, profiles, samples, ["a", "b"], np.ones(2), configs)
    titles = [row.axes[i].get_title() for row in figure.subfigs for i in (0, 3)]
    assert ["M$_\\odot$ kpc" in title for title in titles] == [False, True, True, True]
    assert "units of light" in titles[0]


def test_beside_classical_estimators_stands_the_best_network_and_its_name():
    """Neither the last in the order of names, nor one of more tracers that errs more."""
    rows = [
        {"estimator": estimator, "tracer": tracer, "train": train, "radius": radius, "dispersion": dispersion}
        for estimator, tracer, train, dispersion in (
            ("cnn", "gas", "a", 0.2), ("cnn", "stars", "a", 0.1), ("cnn", "both", "a", 0.15),
            ("cnn-any", "both", "a", 0.18), ("jeans", "stars", "", 0.3),
        )
        for radius in (0.3, 1.0, 3.0)
    ]  # fmt: skip
    table = pd.DataFrame(rows).assign(instrument="ifu", test="a", bias=0.0)
    ends = {f"{name}_{end}": table[name] for name in ("dispersion", "bias") for end in ("lo", "hi")}

    def drawn(table: pd.DataFrame) -> dict[str, tuple[float, str]]:
        lines = figures.against_radius(table.assign(**ends), "ifu", "a", classical=True).axes[0].lines
        return {str(line.get_label()): (float(line.get_ydata()[0]), line.get_linestyle()) for line in lines}

    assert drawn(table) == {"network, stars": (0.1, "-"), "Jeans fit (stars)": (0.3, ":")}
    table.loc[table.estimator == "cnn-any", "dispersion"] = 0.05
    assert "network, both (one network for any)" in drawn(table)
    table["dispersion"] = np.nan  # of a single galaxy
    assert "network, both" in drawn(table)


def test_tables_of_runs_that_were_trained_anew_say_so(runs, map_store, tmp_path, capsys):
    """They are printed and drawn as before, and would be taken for those of the runs as they are."""
    run = shutil.copytree(next(run for run in runs if run.name == "middle"), tmp_path / "run", ignore=KEPT)
    out = tmp_path / "out"
    tables_here([run], map_store, out, ("middle",))
    assert main(["show", str(out)]) == 0
    assert "anew" not in capsys.readouterr().out
    unseen = json.loads((run / "calibration.json").read_text())
    unseen["made_from"] |= made_from(run, "unseen.json")
    (run / "unseen.json").write_text(json.dumps(unseen))  # as `kinmass widen` does
    assert main(["show", str(out)]) == 0
    for said in (capsys.readouterr().out, headlines(read_results(out))[0]):
        assert (
            f"runs that were trained or calibrated anew since: {run}; give the `kinmass tables` command again" in said
        )
    shutil.rmtree(run)
    assert "anew" not in headlines(read_results(out))[0]


def test_tables_of_other_maps_than_the_store_has_now_say_so(runs, map_store, tmp_path, capsys):
    """A store that was made anew at its place, or has grown, is not the one whose errors are shown."""
    run = shutil.copytree(next(run for run in runs if run.name == "middle"), tmp_path / "run", ignore=KEPT)
    store, out = shutil.copytree(map_store, tmp_path / "maps.zarr", ignore=LOCKS), tmp_path / "out"
    tables_here([run], store, out, ("middle",))
    assert len(headlines(read_results(out))) == 2
    group = zarr.open_group(store / "middle", mode="r+")
    group["status"][3] = 0
    expected = f"are of other maps than {store} has now: mapped galaxies of middle (12 there, 11 now); give"
    assert main(["show", str(out)]) == 0
    for said in (capsys.readouterr().out, headlines(read_results(out))[0]):
        assert expected in said
    group["status"][3] = DONE
    group["half_mass_radius"][:] = 2 * group["half_mass_radius"][:]
    assert "maps.zarr has now: R_e of " in headlines(read_results(out))[0]
    origin = read_results(out).origin
    maps = store_identity(store, ["middle"])
    assert differences(origin, origin | {"maps": maps})[-1].endswith("more or fewer, of middle")
    shutil.rmtree(store)
    assert len(headlines(read_results(out))) == 2


@pytest.mark.parametrize("content", ["", "tracer,condition\ngas,full\n"])
def test_damaged_conditions_are_named(results, tmp_path, capsys, content):
    moved = shutil.copytree(results, tmp_path / "moved", ignore=shutil.ignore_patterns("*.zarr", "figures"))
    (moved / "conditions.csv").write_text(content)
    assert main(["show", str(moved)]) == 2
    assert re.search(r"conditions\.csv cannot be read \(.*\); give the `kinmass conditions`", capsys.readouterr().err)


def test_conditions_are_drawn_where_an_rmse_lies_outside_of_its_interval():
    """As where each radius has its errors from another galaxy: draws leave out some of them."""
    n = len(RADII_RE)
    held = {name: np.ones((n, n)) for name in ("in_68", "in_95")}
    row = summary([{"d": np.eye(n), **held, "strange": np.zeros(n)}], np.arange(n).astype(str))
    assert row["rmse_hi"] < row["rmse"]
    figures.conditions(pd.DataFrame([{"tracer": "gas", "condition": "full", "network": "x"} | row]))
    plt.close()


def test_figures_of_many_suites_are_drawn_one_after_the_other(tmp_path, monkeypatch):
    """All were open at once, and matplotlib warned of it."""
    tests = [f"suite-{i}" for i in range(25)]
    table = pd.DataFrame({"instrument": "ifu", "train": train, "test": test} for train in ("x", "") for test in tests)
    results = SimpleNamespace(table=table, train=lambda _: "x", beside=to_beside({}))
    n_open = []
    monkeypatch.setattr(figures, "against_radius", lambda *_: (plt.figure(), n_open.append(len(plt.get_fignums())))[0])
    monkeypatch.setattr(page, "_png", lambda figure, _: plt.close(figure))
    plt.close("all")
    sections = list(islice(_sections(results, tmp_path, tmp_path, "ifu"), 2))
    assert [len(section["figures"]) for section in sections] == [25, 25]
    assert set(n_open) == {1}


def overlaps(boxes):
    """Whether any two of these extents have an area in common."""
    return any(one.padded(-1).overlaps(other.padded(-1)) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("n", [6, 12])
def test_matrices_of_many_suites_can_be_read(n):
    """Numbers and names of twelve suites, or of six with long names, stood on top of each other."""
    suites = [f"{name}-{i}" for i, name in enumerate(["TNG50-high", "eagle", "FIRE", "auriga"] * 3)][:n]
    train_sets = [*suites, "+".join(suites), "+".join(suites[1:])]
    rows = pd.DataFrame(
        {"estimator": "cnn", "instrument": "ifu", "tracer": "both", "train": train, "test": test, "dispersion": 0.123,
         "bias": -0.123, "coverage_68": 0.623, "ood_share": 0.523}
        for train in train_sets for test in suites
    )  # fmt: skip
    figure = figures.train_by_test(rows, "ifu")
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == 4
    for axis in panels:
        for texts in (axis.texts, axis.get_xticklabels(), axis.get_yticklabels()):
            extents = [text.get_window_extent(renderer) for text in texts if text.get_text()]
            assert not overlaps(extents)
            assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in extents)
            assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in extents)
    labels = {text.get_text() for text in panels[0].get_yticklabels()}
    assert {"+\n".join(suites), "+\n".join(suites[1:])} <= labels or {f"all {n}", f"all but\n{suites[0]}"} <= labels


def test_no_number_is_cut_off_beside_long_names():
    """P(>1) = 0.99 ended with the figure's edge, as 0.9, and titles at both edges."""
    name = "IllustrisTNG50-1_of_high_resolution"
    ratios = pd.DataFrame(
        {"instrument": "ifu", "train": "x", "test": [name, "all"], "ratio": 1.5, "lo": 1.4, "hi": [1.6, np.nan],
         "above_1": 0.99}
    )  # fmt: skip
    table = pd.DataFrame({"estimator": "cnn-any+scale+heat+relative", "instrument": "survey", "tracer": "gas"} | dict(
        train="x", test=name, radius=[0.3, 3.0], dispersion=0.1, dispersion_lo=0.1, dispersion_hi=0.1, bias=0.0,
        bias_lo=0.0, bias_hi=0.0))  # fmt: skip
    for figure in (figures.gain(ratios, "ifu", "x"), figures.against_radius(table, "survey", name)):
        figure.draw_without_rendering()
        for text in (*figure.axes[0].texts, figure.axes[0].title):
            box = text.get_window_extent(figure.canvas.get_renderer())
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1
