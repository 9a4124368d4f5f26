"""Which weights a fit begins with, and which it keeps."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_fit
import torch
import zarr
from test_fit import SUITES, same, stop_at_once, weights_of

from kinmass.eval.tables.tasks import sources_of
from kinmass.train import distributed as ddp
from kinmass.train.data.dataset import concatenate, read_views
from kinmass.train.data.loader import done_galaxies, galaxies_of
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import Stopped, fit, fit_ensemble
from kinmass.train.loop.fitter import Fitter
from kinmass.train.loop.prepare import prepare
from kinmass.train.run.checkpoint import RunError, load_members, write_json
from kinmass.train.run.trained_on import seen_by_all, seen_in_training

#: A fit whose one step moves nothing.
STILL = {"steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}


def config_of(map_store: Path, **options: object) -> FitConfig:
    return test_fit.config_of(map_store, **{"steps": 4} | options)


def test_the_mean_of_weights_is_that_of_all_steps_also_when_stopped(map_store, tmp_path):
    """Added up by hand from the weights after each step; a fit that is stopped goes on with its mean, to the bit."""

    class Noting(Fitter):
        def _take_step(self) -> None:
            super()._take_step()
            weights = self.model.state_dict().items()
            after_steps.append({name: weight.clone() for name, weight in weights if weight.is_floating_point()})

    class Stopping(Fitter):
        def _take_step(self) -> None:
            super()._take_step()
            if self.step == 3:
                ddp.request_stop()

    config, after_steps = config_of(map_store, steps=8, round_steps=8, ema=4.0), []
    fit(config, tmp_path / "whole", quiet=True, fitter_class=Noting)
    mean = after_steps[0]
    for weights in after_steps[1:]:
        mean = {name: 0.75 * mean[name] + 0.25 * weights[name] for name in mean}
    kept = weights_of(tmp_path / "whole")
    for name, weight in mean.items():
        torch.testing.assert_close(kept[name], weight, rtol=1e-5, atol=1e-6)
    assert not torch.equal(kept["join.1.weight"], after_steps[-1]["join.1.weight"])
    with pytest.raises(Stopped, match="at step 3"):
        fit(config, tmp_path / "stopped", quiet=True, fitter_class=Stopping)
    fit(config, tmp_path / "stopped", quiet=True)
    assert same(weights_of(tmp_path / "stopped"), kept)


@pytest.fixture(scope="module")
def trained(map_store, tmp_path_factory):
    """Folders of trained runs: of both tracers, and of stars alone."""
    folder = tmp_path_factory.mktemp("trained")
    for tracer in ("both", "stars"):
        fit(config_of(map_store, tracer=tracer, seed=1), folder / tracer, quiet=True)
    return folder


@pytest.mark.parametrize(("tracer", "earlier"), [("both", "both"), ("both", "stars"), ("gas", "both")])
def test_a_fit_starts_from_trained_weights(map_store, tmp_path, trained, tracer, earlier):
    """From all of them where the tracers are the same, else from the encoders that both have; the rest is its own."""
    fit(config_of(map_store, tracer=tracer, **STILL), tmp_path / "own", quiet=True)
    config = config_of(map_store, tracer=tracer, start_from=(str(trained / earlier),), **STILL)
    fit(config, tmp_path / "begun", quiet=True)
    begun, own, before = weights_of(tmp_path / "begun"), weights_of(tmp_path / "own"), weights_of(trained / earlier)
    taken = {name for name in begun if name in before and (tracer == earlier or name.startswith("encoders."))}
    assert any(name.startswith("encoders.") for name in taken)
    for name, weight in begun.items():
        torch.testing.assert_close(weight, (before if name in taken else own)[name], rtol=1e-5, atol=1e-6)
        if name in taken and "conv1" in name:
            assert not torch.equal(before[name], own[name])


def test_seeds_that_began_with_weights_of_their_own_are_one_network(map_store, tmp_path, trained):
    """Where these are of the same tracer; begun with none it is another network."""
    for seed, earlier in ((0, "stars"), (1, "stars"), (2, None), (3, "both")):
        begun_with = (str(trained / earlier),) if earlier else ()
        fit(config_of(map_store, seed=seed, start_from=begun_with, **STILL), tmp_path / str(seed), quiet=True)
    sources = sources_of([tmp_path / "0", tmp_path / "1"], tmp_path, classical=False)
    assert [source.seed for source in sources] == [0, 1]
    for other in (2, 3):
        with pytest.raises(RunError, match="differ in more than the seed"):
            sources_of([tmp_path / "0", tmp_path / str(other)], tmp_path, classical=False)


def test_members_that_began_with_one_run_at_two_places_are_an_ensemble(map_store, tmp_path, trained):
    """Its folder may have moved between them. Others, and an ensemble to start from, are told by a sentence."""
    here = shutil.copytree(trained / "stars", tmp_path / "here" / "stars")
    config = config_of(map_store, members=2, start_from=(str(here),), **STILL)
    fit(config, tmp_path / "run" / "member-0", quiet=True)
    moved = shutil.move(here, tmp_path / "stars")
    config = dataclasses.replace(config, start_from=(str(moved),))
    fit_ensemble(config, tmp_path / "run", quiet=True)
    assert len(load_members(tmp_path / "run")) == 2
    with pytest.raises(RunError, match=r"holds an ensemble; name one of its members, such as .*member-0"):
        fit(config_of(map_store, start_from=(str(tmp_path / "run"),)), tmp_path / "begun", quiet=True)
    content = json.loads((tmp_path / "run" / "member-1" / "run.json").read_text())
    write_json(tmp_path / "run" / "member-1" / "run.json", content | {"fit": content["fit"] | {"batch": 16}})
    with pytest.raises(RunError, match=r"member-1 was not trained as .*member-0, .*: batch differ; remove it"):
        load_members(tmp_path / "run")


def test_a_fit_that_goes_on_needs_no_run_to_start_from(map_store, tmp_path, trained):
    """Its weights are in the checkpoint: the run that it began with may be gone by then."""
    begun_with = tmp_path / "earlier"
    fit(config_of(map_store, tracer="stars"), begun_with, quiet=True)
    config = config_of(map_store, start_from=(str(begun_with),))
    fit(config, tmp_path / "whole", quiet=True)
    stop_at_once(config, tmp_path / "stopped")
    begun_with.rename(tmp_path / "gone")
    fit(config, tmp_path / "stopped", quiet=True)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))
    moved = str(tmp_path / "elsewhere" / "earlier")  # with its run, by the command that is given again there
    assert fit(dataclasses.replace(config, start_from=(moved,)), tmp_path / "stopped", quiet=True)["finished"]
    for others in ((), (str(tmp_path / "other"),)):
        with pytest.raises(RunError, match="settings: start_from"):
            fit(dataclasses.replace(config, start_from=others), tmp_path / "stopped", quiet=True)


def test_which_galaxies_weights_have_seen_is_kept(own_store, tmp_path, trained):
    """Galaxies that are mapped later are others of --galaxies; members, and runs that they begin with, have their own.

    Galaxies that were trained on passed for those of a test.
    """
    config, expected = config_of(own_store, galaxies=3, views=1, **STILL), set()
    content = json.loads((trained / "both" / "run.json").read_text())
    for member, n_done in enumerate((8, 12)):
        for suite in SUITES:
            zarr.open_group(own_store / suite, mode="r+")["status"][:] = np.arange(12) < n_done
        of_three = galaxies_of(own_store, done_galaxies(own_store, SUITES), "train", 3)
        expected |= {(SUITES[s], of_three.names[s][n]) for s, n in zip(of_three.suite, of_three.number, strict=True)}
        run = shutil.copytree(trained / "both", tmp_path / "run" / f"member-{member}")
        write_json(run / "run.json", content | {"seen": prepare(config, torch.device("cpu")).seen})
    assert 3 < len(expected) <= 6
    views = concatenate([read_views(own_store, suite) for suite in SUITES])

    def seen_by(run: Path) -> set[tuple[str, str]]:
        seen = views[seen_in_training(run, views)]
        assert not seen.view.any()
        return set(zip(seen.suite, seen.galaxy, strict=True))

    assert seen_by(tmp_path / "run") == expected
    begun = dataclasses.replace(config, galaxies=2, start_from=(str(tmp_path / "run" / "member-0"),))
    for _ in "begun", "gone on with":
        stop_at_once(begun, tmp_path / "begun")
        begun = dataclasses.replace(begun, start_from=(str(tmp_path / "moved" / "member-0"),))
    assert seen_by(tmp_path / "run" / "member-0") <= seen_by(tmp_path / "begun")
    assert seen_by_all([{"views": 1, "lineages": ["a"]}, {"views": 0, "lineages": []}]) == {"views": 0, "lineages": []}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 8}, r"weights of another network \(width\): this fit cannot start from it"),
        ({"tracer": "gas", "width": 4, "of": "stars"}, r"weights of another network \(stars\)"),
        ({"suites": ("bursty", "quiet")}, "was trained on middle, which this fit leaves out"),
        ({"of": "nowhere"}, "is no run folder"),
    ],
)
def test_what_a_fit_cannot_start_from_is_said(map_store, tmp_path, trained, options, words):
    earlier = trained / options.pop("of", "both")
    with pytest.raises(RunError, match=words):
        fit(config_of(map_store, start_from=(str(earlier),), **options), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_fit_does_not_start_from_galaxies_that_other_lineages_put_into_the_test(own_store, tmp_path, trained):
    """As where `lineage` was forgotten at first. Galaxies of other names, and new ones at the end, are others."""
    lineages = zarr.open_group(own_store / "quiet", mode="r+")["lineage"]
    lineages[:] = np.array([f"{name} " for name in lineages[:]])
    config = config_of(own_store, start_from=(str(trained / "both"),), **STILL)
    with pytest.raises(RunError, match="galaxies of quiet that were split by other lineages: some would be test"):
        fit(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    names = zarr.open_group(own_store / "quiet", mode="r+")["galaxy"]
    names[:] = np.array([f"{name} " for name in names[:]])
    fit(config, tmp_path / "run", quiet=True)


def test_a_suite_that_is_left_out_was_not_seen_before_either(map_store):
    with pytest.raises(ValueError, match="cannot start from weights that have seen the suite left out"):
        config_of(map_store, start_from=("run",), leave_one_suite_out=True)
    with pytest.raises(ValueError, match=r"ema must be at least 1 step, or 0 for none, not 0\.5"):
        config_of(map_store, ema=0.5)


def test_a_run_from_before_these_settings_has_their_defaults(map_store, tmp_path, trained):
    run = trained / "stars"
    content = json.loads((run / "run.json").read_text())
    before = (run / "model.pt").read_bytes()
    for section, names in (("fit", ("join", "ema", "start_from")), ("model", ("join",))):
        for name in names:
            del content[section][name]
    (run / "run.json").write_text(json.dumps(content))
    fit(config_of(map_store, tracer="stars", seed=1), run, quiet=True)
    assert (run / "model.pt").read_bytes() == before
    fit(config_of(map_store, tracer="stars", seed=2), tmp_path / "another", quiet=True)
    sources = sources_of([run, tmp_path / "another"], tmp_path, classical=False)
    assert [(source.name, source.seed) for source in sources] == [("cnn", 1), ("cnn", 2)]
    with pytest.raises(RunError, match=r"settings: join \(concat there, gated asked for\)"):
        fit(config_of(map_store, tracer="stars", seed=1, join="gated"), run, quiet=True)
