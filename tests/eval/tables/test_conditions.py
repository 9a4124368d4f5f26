"""The same galaxies seen in many ways: errors and coverage are those of a sum by hand, and the report shows them."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SUITES

from kinmass.eval.__main__ import main
from kinmass.eval.tables import conditions
from kinmass.train import load

KEPT = shutil.ignore_patterns("predictions.zarr")


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
    low, high = np.quantile(samples, [0.1587, 0.8413], axis=0)
    assert row.in_68 == pytest.approx(((truth > low) & (truth < high)).mean(), abs=0.02)
    assert row.rmse_lo < row.rmse < row.rmse_hi
    # Behind an edge the same galaxies are seen worse, or at least otherwise.
    assert row.rmse != table.rmse[0]


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
    assert main(["report", str(out)]) == 0
    html = (out / "report.html").read_text()
    assert "How galaxies are seen" in html
    assert "30 brightest pixels" in html
    assert (out / "figures" / "conditions.png").stat().st_size > 20_000


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
