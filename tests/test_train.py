"""Training: the split, dimensional analysis, the posterior, one process or two, stopping and going on."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gen import store
from gen.instrument import INSTRUMENTS, observe
from train.checkpoint import RunError, load, read_tensors
from train.dataset import RADII_RE, SPLIT, part_of, read_views, usable
from train.fit import FitConfig, Fitter, fit
from train.network import MassModel, ModelConfig
from train.posterior import ProfilePosterior, monotone, unconstrained
from train.scaling import flip_sky, scale_free, velocity_scale

SUITES = ("bursty", "quiet", "middle")
SMALL = {"width": 4, "steps": 12, "round_steps": 4, "batch": 8}


def views_of(map_store):
    return read_views(map_store, "middle")


# ---- the split


def test_split_is_by_galaxy_and_has_the_stated_shares():
    names = [f"galaxy_{i}" for i in range(20_000)]
    parts = [part_of(name) for name in names]
    for part, share in SPLIT.items():
        assert parts.count(part) / len(parts) == pytest.approx(share, abs=0.01)
    assert parts == [part_of(name) for name in names]


def test_no_galaxy_is_on_two_sides(map_store):
    sides = [set(read_views(map_store, suite, part).galaxy) for part in SPLIT for suite in SUITES]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 36
    views = views_of(map_store)
    assert len(views) == 24
    assert torch.isfinite(views.log10_menc).all()
    assert (torch.diff(views.log10_menc, dim=1) > 0).all()


def test_reading_in_blocks_is_reading_it_all(map_store):
    whole = views_of(map_store)
    parts = [read_views(map_store, "middle", None, slice(i, i + 5)) for i in range(0, 12, 5)]
    assert torch.equal(torch.cat([p.maps for p in parts]), whole.maps)


# ---- which views are usable


def test_galaxies_without_gas_are_usable_by_stars_and_both_only(map_store):
    views = views_of(map_store)
    views.maps[:4, 4:] = 0
    views.maps[4, 0, 0, 0] = np.nan
    look = INSTRUMENTS["ifu"]
    assert not usable(views, "gas", look)[:5].any()
    assert usable(views, "both", look)[:4].all()
    assert not usable(views, "both", look)[4]
    assert usable(views, "stars", look).sum() == 23


# ---- dimensional analysis and symmetry


@pytest.mark.parametrize("tracers", [("stars",), ("gas",), ("stars", "gas")])
def test_a_galaxy_of_any_size_looks_alike(map_store, tracers):
    """Lengths times a, velocities times b, masses times a b^2: same inputs, mass unit shifted by that."""
    views = views_of(map_store)
    observed = observe(views.maps, INSTRUMENTS["clean"], None)
    a, b = 3.0, 0.4
    scaled = observed.clone()
    for start in (0, 4):
        scaled[:, start] *= a * b**2 / a**2
        scaled[:, start + 1 : start + 3] *= b
    before, unit = scale_free(observed, views.half_mass_radius_kpc, tracers)
    after, shifted = scale_free(scaled, a * views.half_mass_radius_kpc, tracers)
    for tracer in tracers:
        torch.testing.assert_close(after[tracer], before[tracer], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shifted - unit, torch.full_like(unit, np.log10(a * b**2)), rtol=1e-4, atol=1e-4)


def test_symmetries_of_the_sky_keep_the_velocity_scale(map_store):
    views = views_of(map_store)
    flipped = flip_sky(views.maps, torch.Generator().manual_seed(0))
    scales = []
    for maps in (views.maps, flipped):
        scales.append(velocity_scale(observe(maps, INSTRUMENTS["ifu"], None), ("stars", "gas")))
    torch.testing.assert_close(scales[0], scales[1], rtol=1e-3, atol=1e-3)
    for channel in (0, 3):
        torch.testing.assert_close(flipped[:, channel].sum((1, 2)), views.maps[:, channel].sum((1, 2)))
    assert not torch.equal(flipped, views.maps)


# ---- the posterior


@pytest.mark.parametrize("head", ["flow", "mixture"])
def test_posterior_samples_rise_and_gradients_reach_everything(head):
    torch.manual_seed(0)
    posterior = ProfilePosterior(6, 10, head)
    profiles = torch.cumsum(0.05 + 0.2 * torch.rand(400, 10), dim=1)
    posterior.fit_whitening(profiles)
    features = torch.randn(400, 6, requires_grad=True)
    log_prob = posterior.log_prob(features, profiles)
    assert log_prob.shape == (400,)
    log_prob.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in posterior.parameters())
    with torch.no_grad():
        samples = posterior.sample(features[:5], 300)
    assert samples.shape == (300, 5, 10)
    assert (torch.diff(samples, dim=-1) > 0).all()


@pytest.mark.parametrize("head", ["flow", "mixture"])
def test_posterior_density_integrates_to_one(head):
    """In two radii, over a grid that holds nearly all of it."""
    torch.manual_seed(1)
    posterior = ProfilePosterior(3, 2, head)
    posterior.fit_whitening(torch.stack([0.3 * torch.randn(500), 0.3 + 0.2 * torch.rand(500)], 1).cumsum(1))
    first, step = torch.meshgrid(torch.linspace(-6, 6, 1200), torch.linspace(1e-3, 6, 3000), indexing="ij")
    profile = torch.stack([first, first + step], dim=-1).reshape(-1, 2)
    with torch.no_grad():
        density = torch.cat([posterior.log_prob(torch.zeros(len(p), 3), p).exp() for p in profile.split(200_000)])
    cell = (12 / 1199) * ((6 - 1e-3) / 2999)
    assert float(density.sum() * cell) == pytest.approx(1, abs=0.05)


def test_unconstrained_and_back():
    profiles = torch.cumsum(0.01 + torch.rand(50, 10), dim=1)
    torch.testing.assert_close(monotone(unconstrained(profiles)), profiles)


# ---- fitting


def run_fit(map_store: Path, out: Path, processes: int = 1, **options: object) -> dict[str, torch.Tensor]:
    """`train fit` for real, under torchrun for more than one process; the best weights."""
    flags = [str(x) for k, v in (SMALL | options).items() for x in (f"--{k.replace('_', '-')}", v)]
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    line = [*launcher, "train", "fit", "--store", str(map_store), "--tracer", "both", "--out", str(out), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return load(out)[0].state_dict()


def test_two_processes_train_what_one_does(map_store, tmp_path):
    one, two = (run_fit(map_store, tmp_path / str(n), n) for n in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_stopped_fit_goes_on_to_the_same_weights(map_store, tmp_path, monkeypatch):
    config = FitConfig(str(map_store), "both", SUITES, **SMALL)
    fit(config, tmp_path / "whole", quiet=True)
    rounds = []
    original = Fitter.round

    def stop_in_the_second(self):
        if len(rounds) == 2:
            raise KeyboardInterrupt
        rounds.append(original(self))
        return rounds[-1]

    monkeypatch.setattr(Fitter, "round", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path / "stopped", quiet=True)
    monkeypatch.undo()
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path / "stopped")
    fit(config, tmp_path / "stopped", quiet=True)
    a, b = (load(tmp_path / name)[0].state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_run_folder_tensorboard_and_refusals(map_store, tmp_path):
    run = tmp_path / "run"
    run_fit(map_store, run)
    content = json.loads((run / "run.json").read_text())
    assert content["fit"]["suites"] == sorted(SUITES)
    assert content["training"]["galaxies"] > 20
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0}).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/train", "loss/val", "learning_rate", "samples_per_second", "bias/mean"} <= tags
    assert {f"dispersion/{x:.2f}_Re" for x in RADII_RE} <= tags
    assert [e.step for e in events.Scalars("loss/val")] == [4, 8, 12]
    assert events.Tags()["images"] == ["examples"]
    base = ("train", "fit", "--store", map_store, "--tracer", "both", "--out", run)
    flags = [x for k, v in SMALL.items() for x in (f"--{k.replace('_', '-')}", v)]
    assert "best after" in command(*base, *flags).stdout  # left alone
    other = command(*base, check=False)
    assert other.returncode == 2
    assert "another batch, round_steps, steps, width" in other.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tracer", "dust"], "gas, stars, both"),
        (["--tracer", "gas", "--suites", "nosuch"], "it has bursty, middle, quiet"),
        (["--tracer", "gas", "--instrument", "hubble"], "clean, ifu"),
        (["--tracer", "gas", "--store", "nowhere.zarr"], "no map store"),
        (["--tracer", "gas", "--batch", "0"], "batch must be at least 1"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(options, words, map_store, tmp_path):
    done = command("train", "fit", "--store", map_store, "--out", tmp_path / "run", *options, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_store_without_finished_galaxies(map_store, tmp_path):
    shutil.copytree(map_store, tmp_path / "maps.zarr")
    for suite in SUITES:
        shutil.rmtree(tmp_path / "maps.zarr" / suite / "status" / "c")
    done = command(
        "train", "fit", "--store", tmp_path / "maps.zarr", "--tracer", "both", "--out", tmp_path / "run", check=False
    )
    assert done.returncode == 2
    assert "no finished galaxy" in done.stderr


def test_checkpoints_never_execute(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'hacked'}",))

    buffer = io.BytesIO()
    torch.save({"a": Bomb()}, buffer, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    with pytest.raises(RunError, match="cannot be read as a checkpoint"):
        read_tensors(tmp_path / "model.pt")
    assert not (tmp_path / "hacked").exists()
    (tmp_path / "short.pt").write_bytes(buffer.getvalue()[:100])
    with pytest.raises(RunError):
        read_tensors(tmp_path / "short.pt")


def test_a_loss_that_is_no_number_names_the_views(map_store, tmp_path, monkeypatch):
    from train.fit import NonFinite

    monkeypatch.setattr(MassModel, "forward", lambda self, observed, r_e, truth: truth.sum(1) * np.nan)
    with pytest.raises(NonFinite, match=r"step 0; views of this rank: .*view"):
        fit(FitConfig(str(map_store), "both", SUITES, **SMALL), tmp_path / "run", quiet=True)


def test_same_network_for_any_map_size():
    for pixels in (16, 32, 64):
        model = MassModel(ModelConfig("both", RADII_RE, pixels, 6.0, width=4))
        observed = torch.rand(3, 8, pixels, pixels) * 100 + 1
        assert model.sample(observed, torch.ones(3), 5).shape == (5, 3, 10)


def test_store_error_is_a_sentence(tmp_path):
    with pytest.raises(store.StoreError, match="no map store"):
        read_views(tmp_path, "x")
