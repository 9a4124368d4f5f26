"""Examples in docstrings run unchanged in a folder with a store and runs."""

import doctest
from importlib import import_module

import pytest

MODULES = [
    "kinmass", "kinmass.gen.campaign.record", "kinmass.gen.instruments.observe", "kinmass.gen.physics.particles",
    "kinmass.gen.physics.profile", "kinmass.gen.physics.projection", "kinmass.gen.storage.store", "kinmass.gen.suite",
    "kinmass.train.data.dataset", "kinmass.train.run.posterior", "kinmass.eval.observed.inference",
    "kinmass.eval.observed.sky",
]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, map_store, runs, tmp_path, monkeypatch):
    (tmp_path / "maps.zarr").symlink_to(map_store)
    (tmp_path / "runs").symlink_to(runs[0].parent)
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 0
    assert outcome.failed == 0
