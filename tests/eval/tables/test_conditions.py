"""The same galaxies seen in many ways: errors and coverage are those of a sum by hand, and the report shows them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from conftest import KEPT, SUITES
from reference import held

from kinmass.eval.__main__ import main
from kinmass.eval.report import page
from kinmass.eval.tables import conditions
from kinmass.gen.instruments.model import Footprint, Instrument, PsfFwhm, TracerNoise
from kinmass.train import load
from kinmass.train.data.dataset import RADII_RE, Views, concatenate, usable
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit
from kinmass.train.run.derived import UNSEEN, made_from, write_scales


def test_errors_and_coverage_are_those_of_a_sum_by_hand(runs, map_store, tmp_path):
    run = next(run for run in runs if run.name == "both")
    views = conditions.views_to_test(map_store, ["middle"], None, 1)
    assert set(views.view) == {0}
    table = conditions.tabulate([conditions.Network("x", run)], views)
    assert set(table.tracer) == {"both"}
    assert list(table.condition) == list(conditions.conditions())
    instrument = conditions.conditions()["circle of 1 R_e"]
    infer = load(run)
    posterior = infer(views.observed(instrument), views.half_mass_radius_kpc, "both", views.names())
    samples, truth = posterior.samples(conditions.N_SAMPLES), views.log10_menc.numpy()
    row = table[table.condition == "circle of 1 R_e"].iloc[0]
    rmse = np.sqrt(((np.median(samples, 0) - truth) ** 2).mean(0)).mean()
    assert row.rmse == pytest.approx(rmse, rel=1e-5)
    assert row.in_68 == pytest.approx(held(samples, truth, 0.6827).mean(), abs=1e-6)
    assert row.rmse_lo < row.rmse < row.rmse_hi
    # Behind an edge the same galaxies are seen worse, or at least otherwise.
    assert row.rmse != table.rmse[0]


def test_views_of_which_too_little_is_seen_are_told_of(runs, map_store, monkeypatch):
    """They were left out in silence: through a small circle easier galaxies were tested than without it."""
    tested = {name: conditions.conditions()[name] for name in ("full", "circle of 1.5 R_e", "circle of 1 R_e")}
    monkeypatch.setattr(conditions, "conditions", lambda: tested)
    views = conditions.views_to_test(map_store, ["middle"], None, 1)
    maps, n = views.maps.clone(), len(views)
    x = torch.arange(maps.shape[-1]) - 0.5 * (maps.shape[-1] - 1)
    maps[0, 4:] *= torch.hypot(x[:, None], x) > 0.3 * len(x)  # gas in a ring
    network = conditions.Network("x", next(run for run in runs if run.name == "gas"))
    table = conditions.tabulate([network], replace(views, maps=maps), ["gas"])
    assert conditions.of_fewer_views(table) == [
        "gas: too little is seen of views, which are left out, in: "
        f"circle of 1.5 R_e (1 of {n}), circle of 1 R_e (1 of {n})"
    ]
    assert conditions.of_fewer_views(table[table.left_out == 0]) == [
        "gas: too little is seen of views, which are left out, in: circle of 1.5 R_e (all), circle of 1 R_e (all)"
    ]
    tested |= dict.fromkeys(tested, tested["full"])
    assert conditions.of_fewer_views(conditions.tabulate([network], views, ["gas"])) == []


def test_a_network_sees_them_on_the_grid_that_it_was_trained_on(map_store, tmp_path):
    """One trained through the how-to's own instrument file, with a field and pixels of its own, could not be tested."""
    (tmp_path / "mine.yaml").write_text("name: mine\nfield_of_view_re: 4.5\nrebin: 2\npsf_fwhm: {kpc: 0.8}\n")
    run = tmp_path / "run"
    fit(
        FitConfig(str(map_store), "both", tuple(SUITES), str(tmp_path / "mine.yaml"), steps=1, width=4), run, quiet=True
    )
    views = conditions.views_to_test(map_store, ["middle"], None, 1)
    table = conditions.tabulate([conditions.Network("x", run)], views)
    seen = conditions.changed("c", footprint=Footprint(radius_re=1.5), field_of_view_re=4.5, rebin=2)
    posterior = load(run)(views.observed(seen), views.half_mass_radius_kpc, "both", views.names())
    d = np.median(posterior.samples(conditions.N_SAMPLES), 0) - views.log10_menc.numpy()
    assert table[table.condition == "circle of 1.5 R_e"].rmse.item() == pytest.approx(
        np.sqrt((d**2).mean(0)).mean(), rel=1e-5
    )


def test_who_is_wrong_about_r_e_sees_another_part_of_the_sky(map_store):
    views = conditions.views_to_test(map_store, ["quiet"], None, 1)
    same = conditions.with_radius_error(views, 0.0)
    torch.testing.assert_close(same.maps, views.maps, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(same.log10_menc, views.log10_menc)
    torch.testing.assert_close(
        conditions.with_radius_error(views, 0.1).half_mass_radius_kpc, views.half_mass_radius_kpc * 10**0.1
    )


def test_the_report_has_a_page_of_conditions(results, runs, map_store, tmp_path, capsys):
    out = shutil.copytree(results, tmp_path / "results", ignore=KEPT)
    chosen = [run for run in runs if run.name in ("gas", "both", "middle")]
    line = ["conditions", *map(str, chosen), "--store", str(map_store), "--part", "all", "--out", str(out)]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "galaxies that networks were trained on are among those tested" in printed
    table = pd.read_csv(out / conditions.FILE)
    # Networks that were trained on other suites are not each other's seeds.
    assert set(table[table.tracer == "both"].network) == {
        f"cnn through ifu on {s}" for s in ("+".join(sorted(SUITES)), "middle")
    }
    assert (table.seeds == 1).all()
    middle = table[table.network == "cnn through ifu on middle"]
    assert set(middle.runs) == {str(next(run for run in runs if run.name == "middle"))}
    assert set(table.runs) == {str(run) for run in chosen}
    assert main(["report", str(out)]) == 0
    html = (out / "report.html").read_text()
    assert "How galaxies are seen" in html
    assert "30 brightest pixels" in html
    assert (out / "figures" / "conditions.png").stat().st_size > 20_000
    # It says of what it is, where it is not of the runs, store and part of the tables, or where nothing tells.
    assert "of something else than the other tables" not in html
    origin = json.loads((out / "conditions.json").read_text())
    elsewhere = {f"/elsewhere{run}": weights for run, weights in origin["weights"].items()}
    for change, words in (
        ({"weights": elsewhere}, None),
        ({"weights": {"runs/old": ["0"]}, "part": "test"}, "of something else .*: the part test; runs/old, with other"),
        ({"files": origin["files"] | {str(chosen[0]): "0"}}, f"{chosen[0]}, as calibrated at another time"),
        ({"digests": {"conditions": "0"}}, "Nothing says which runs conditions.csv is of"),
    ):
        (out / "conditions.json").write_text(json.dumps(origin | change))
        text = page._conditions(table, out / "figures", json.loads((out / "tables.json").read_text()))["text"]
        assert re.search(words, text) if words else text == page._TEXT["conditions"]


def test_intervals_on_suites_not_trained_on_are_those_for_such(runs, map_store, tmp_path):
    """As `kinmass tables` has them: of each view the samples are those that the run itself gives for its suite."""
    run = shutil.copytree(next(run for run in runs if run.name == "middle"), tmp_path / "run", ignore=KEPT)
    write_scales(run, UNSEEN, {"both": [0.1 * torch.eye(len(RADII_RE))]}, made_from(run, UNSEEN))
    infer, ifu = load(run), conditions.conditions()["full"]
    parts = [conditions.views_to_test(map_store, [suite], None, 1) for suite in ("quiet", "middle")]
    found = conditions.measured(infer, concatenate(parts), ifu, "both")
    by_suite = []
    for views in parts:
        samples, truth = infer(views).samples(conditions.N_SAMPLES), views.log10_menc.numpy()
        by_suite.append(held(samples, truth, 0.6827))
    np.testing.assert_allclose(found["in_68"], np.concatenate(by_suite), atol=1e-12)
    as_if_known = infer(parts[0], unseen=False).samples(conditions.N_SAMPLES)
    truth = parts[0].log10_menc.numpy()
    assert np.mean(by_suite[0]) < held(as_if_known, truth, 0.6827).mean() - 0.2


def test_maps_of_another_field_of_view_are_refused(runs, map_store, tmp_path, capsys):
    """They have as many pixels, and galaxies of half the size in them."""
    run, wide = next(run for run in runs if run.name == "gas"), shutil.copytree(map_store, tmp_path / "wide.zarr")
    group = zarr.open_group(wide / "middle", mode="r+")
    group.attrs["config"] = group.attrs["config"] | {"field_of_view_re": 12.0}
    line = ["conditions", str(run), "--store", str(wide), "--suites", "middle", "--part", "all", "--out", str(tmp_path)]
    assert main(line) == 2
    assert "was trained on maps with field_of_view_re = 6" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"over 6 R_e, these have \d+ over 12 R_e"):
        conditions.tabulate([conditions.Network("x", run)], conditions.views_to_test(wide, ["middle"], None, 1))


def test_what_a_run_cannot_tell_is_not_called_familiar(runs, map_store):
    infer = load(next(run for run in runs if run.name == "gas"))
    infer.training_features = {}  # as of a run with too few galaxies
    views = conditions.views_to_test(map_store, ["middle"], None, 1)
    found = conditions.measured(infer, views, conditions.conditions()["full"], "gas")
    assert np.isnan(found["strange"]).all()
    row = conditions.summary([found], np.repeat("one lineage", len(views)))
    table = pd.DataFrame([{"tracer": "gas", "condition": "full", "network": "x"} | row])
    assert conditions.as_text(table).splitlines()[-1].split() == [
        "full", f"{row['rmse']:.3f}", f"{row['in_68']:.2f}", f"{row['in_95']:.2f}", "-",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runs": "nowhere"}, "nowhere is no run folder and holds none"),
        ({"--suites": "nosuch"}, "it has bursty, middle, quiet"),
        ({"--store": "nowhere.zarr"}, "no map store"),
    ],
)
def test_what_cannot_be_tested_is_said(runs, map_store, tmp_path, capsys, change, words):
    options = {"--store": str(map_store), "--out": str(tmp_path)} | change
    run = options.pop("runs", str(runs[0]))
    assert main(["conditions", run, *(x for option in options.items() for x in option)]) == 2
    assert words in capsys.readouterr().err


def test_maps_that_end_before_a_footprint_are_tested_in_all_other_ways(runs, map_store, monkeypatch, capsys):
    """The command was refused for an instrument that its user had not named, and could not change."""
    infer = load(next(run for run in runs if run.name == "both"))
    monkeypatch.setattr(conditions, "load", lambda _: infer)
    views = conditions.views_to_test(map_store, ["middle"], None, 1)
    infer.models[0].config = replace(infer.models[0].config, field_of_view_re=3.0)
    views.field_of_view_re = 3.0
    names = ["full", "hexagon of 2.3 R_e", "circle of 1.5 R_e"]
    chosen = {name: instrument for name, instrument in conditions.conditions().items() if name in names}
    monkeypatch.setattr(conditions, "conditions", lambda: chosen)
    table = conditions.tabulate([conditions.Network("x", infer.path)], views)
    assert [name for name in table.condition if name in names] == ["full", "circle of 1.5 R_e"]
    assert "hexagon of 2.3 R_e: left out, as these maps end 1.5 R_e from the centre" in capsys.readouterr().err
    # Nor is it said that too little is seen there.
    untested = conditions.beyond_its_maps(conditions.Network("x", infer.path), views)
    assert conditions.of_fewer_views(table, untested) == []


def test_so_are_those_of_a_network_whose_own_field_ends_before_a_footprint(monkeypatch, capsys):
    """Its row was that of all that it sees, under the name of a footprint that cut nothing off."""
    own = conditions.IFU.model_copy(update={"name": "mine", "field_of_view_re": 3.0})
    infer = SimpleNamespace(instrument=own, answers=lambda: ["stars"], path=Path("run"))
    names = ["full", "hexagon of 2.3 R_e", "circle of 1 R_e"]
    chosen = {name: instrument for name, instrument in conditions.conditions().items() if name in names}
    text = np.array(["a", "b"])
    views = Views(
        1e8 + torch.rand(2, 8, 32, 32), torch.ones(2), torch.full((2, 10), 9.0), text, np.zeros(2, int), text, text, 6.0
    )
    zeros = {key: np.zeros((2, 10)) for key in ("d", "in_68", "in_95")} | {"strange": np.zeros(2)}
    for name, answer in (
        ("load", lambda _: infer), ("instrument_of", lambda _: own), ("conditions", lambda: chosen),
        ("measured", lambda *_: zeros),
    ):  # fmt: skip
        monkeypatch.setattr(conditions, name, answer)
    network = conditions.Network("x", infer.path)
    table = conditions.tabulate([network], views, ["stars"])
    assert list(table.condition) == ["full", "circle of 1 R_e"]
    assert "hexagon of 2.3 R_e: left out, as these maps end 1.5 R_e from the centre" in capsys.readouterr().err
    assert conditions.of_fewer_views(table, conditions.beyond_its_maps(network, views)) == []


def test_views_of_which_a_look_shows_nothing_are_not_counted(runs, map_store, monkeypatch):
    """They had no number for an error, and counted as truths that no interval holds."""
    beams = Instrument(name="beams", psf_fwhm=PsfFwhm(re=(0.01, 30.0)), gas=TracerNoise(mask_below_msun_kpc2=2e7))
    monkeypatch.setattr(conditions, "conditions", lambda: {"beams": beams})
    run = next(run for run in runs if run.name == "gas")
    views = conditions.views_to_test(map_store, SUITES, None, 0)
    row = conditions.tabulate([conditions.Network("x", run)], views).iloc[0]
    posterior = load(run)(views.observed(beams), views.half_mass_radius_kpc, "gas", views.names())
    answered = posterior.is_answered & usable(views, "gas", beams)
    truth = views.log10_menc.numpy()[answered]
    samples = posterior.samples(conditions.N_SAMPLES)[:, answered]
    assert row.views == answered.sum() < usable(views, "gas", beams).sum()
    assert row.in_68 == pytest.approx(held(samples, truth, 0.6827).mean(), abs=1e-6)
    assert row.rmse == pytest.approx(np.sqrt(((np.median(samples, 0) - truth) ** 2).mean(0)).mean(), rel=1e-5)
