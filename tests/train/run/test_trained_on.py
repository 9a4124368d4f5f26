"""Whether a store holds the galaxies that a run was trained on: what makes no difference, and what is said."""

import json
import re
import shutil

import numpy as np
import pytest
import zarr
from conftest import KEPT

from kinmass.eval.__main__ import main
from kinmass.train.run.checkpoint import RunError, read_config
from kinmass.train.run.trained_on import require_store, store_differences, unlike_trained_on


@pytest.fixture
def run(runs):
    return next(run for run in runs if run.name == "gas")


def change_config(store, suite, **change):
    """Change settings of a suite, with the sections of nested ones as `suite__selection__min_stars`."""
    group = zarr.open_group(store / suite, mode="r+")
    config = group.attrs["config"]
    for name, value in change.items():
        *sections, key = name.split("__")
        section = config
        for part in sections:
            section = section[part]
        section[key] = value
    group.attrs["config"] = config
    return group


def test_where_a_store_lies_and_what_was_added_make_no_difference(run, own_store):
    change_config(own_store, "quiet", suite__selection__min_stars=100, suite__snapshots="elsewhere/*.hdf5")
    group = change_config(own_store, "bursty")  # as a version of the code left it that did not have a key yet
    config = group.attrs["config"]
    del config["suite"]["lineage"]
    group.attrs["config"] = config
    assert store_differences(own_store, read_config(run)["store"]) == []
    require_store(run, own_store)
    assert unlike_trained_on([run], own_store, ["quiet", "middle", "bursty"]) == []


def test_views_from_other_sides_are_of_the_same_galaxies_but_no_store_to_go_on_with(run, own_store):
    group = change_config(own_store, "quiet", seed=7)
    group["half_mass_radius"][:] = 1.3 * group["half_mass_radius"][:]
    assert unlike_trained_on([run], own_store, ["quiet"]) == []
    with pytest.raises(RunError, match=r"seed of quiet \(0 there, 7 asked for\)"):
        require_store(run, own_store)
    _heavier(group)  # of galaxies that are others, from whatever side
    assert "mass of snap_" in "".join(unlike_trained_on([run], own_store, ["quiet"]))


def _resize(group):
    group["half_mass_radius"][:] = 1.1 * group["half_mass_radius"][:]


def _heavier(group):
    """As a suite that was mapped anew once snapshots that lacked dark matter were mended: its sizes are as before."""
    group["mass"][:] = 1.3 * group["mass"][:]


def _exchange(group):
    group["galaxy"][:2] = group["galaxy"][:2][::-1]


def _split_otherwise(group):
    group["lineage"][:] = np.array([f"of {name}" for name in group["lineage"][:]], dtype=object)


OTHERS = {
    "size": (_resize, "R_e of snap_"),
    "mass": (_heavier, r"mass of snap_\S+ inside [\d.]+ kpc \(\S+ Msun there, \S+ Msun asked for\)"),
    "names": (_exchange, "list of galaxies of quiet"),
    "lineages": (_split_otherwise, "lineages of quiet"),
    "mapping": (lambda group: None, r"suite.tracers.gas.* \(all there, cold asked for\)"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_suite_of_the_same_name_is_told(runs, run, own_store, kind, capsys, tmp_path):
    """It counts as known; with other lineages, galaxies of the training are in its test part."""
    make, words = OTHERS[kind]
    make(change_config(own_store, "quiet", **({"suite__tracers__gas": "cold"} if kind == "mapping" else {})))
    (sentence,) = unlike_trained_on(runs, own_store, ["middle", "quiet"])
    assert sentence.startswith(f"{own_store}/quiet is not the quiet that {runs[0]}, ")
    assert str(run) in sentence
    assert str(next(path for path in runs if path.name == "middle")) not in sentence  # not trained on quiet
    assert re.search(words, sentence)
    line = ["predict", run, "--store", own_store, "--suite", "quiet", "--out", tmp_path / "x.csv"]
    assert main([*map(str, line)]) == 0
    assert "/quiet is not the quiet that" in capsys.readouterr().err
    with pytest.raises(RunError, match=words):
        require_store(run, own_store)
    # What a run from before does not tell cannot be compared.
    old = shutil.copytree(run, tmp_path / "old", ignore=KEPT)
    content = json.loads((old / "run.json").read_text())
    for suite in content["store"].values():
        del suite["lineages"], suite["sizes"], suite["masses"]
    (old / "run.json").write_text(json.dumps(content))
    assert bool(unlike_trained_on([old], own_store, ["quiet"])) == (kind in ("names", "mapping"))
