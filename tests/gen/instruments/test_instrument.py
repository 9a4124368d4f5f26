"""Instruments: PSF, grid, cuts and noise act on moments as they would on particles; YAML; runs that keep them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, called, command

from kinmass.eval.classical.estimators import ESTIMATORS
from kinmass.eval.tables.predict import predict
from kinmass.gen.instruments.builtin import INSTRUMENTS, instrument
from kinmass.gen.instruments.looks import fixed_noise
from kinmass.gen.instruments.model import Instrument, TracerNoise
from kinmass.gen.instruments.observe import observe
from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.projection import project
from kinmass.train.data.dataset import RADII_RE, read_views
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit
from kinmass.train.run.checkpoint import RunError, instrument_in, instrument_of, read_config

SIGMA_OF_FWHM = 1 / np.sqrt(8 * np.log(2))


def cloud(n: int, seed: int = 0) -> Particles:
    """Rotating particles without a kernel, within 2.5 kpc mostly."""
    rng = np.random.default_rng(seed)
    pos = rng.normal(size=(n, 3))
    vel = np.stack([0 * pos[:, 0], 0 * pos[:, 0], 80 * pos[:, 0]], axis=1) + rng.normal(0, 30, (n, 3))
    return Particles(pos, vel, rng.uniform(1e5, 2e5, n))


def stored(particles: Particles, half_width_kpc: float, pixels: int) -> torch.Tensor:
    """(1, 8, P, P) in double precision; the same particles are stars and gas."""
    maps = project(particles, np.eye(3)[None], [half_width_kpc], pixels)[0]
    return torch.from_numpy(np.concatenate([maps, maps]))[None]


def rotating(pixels: int, gradient: float, sigma: float) -> torch.Tensor:
    """(1, 8, P, P): uniform density, V growing by `gradient` per pixel along x."""
    velocity = (gradient * torch.arange(pixels, dtype=torch.float64)).expand(pixels, pixels)
    ones = torch.ones(pixels, pixels, dtype=torch.float64)
    return torch.stack([1e8 * ones, velocity, sigma * ones, ones] * 2)[None]


# ---- the built-in ones


def test_clean_views_are_the_stored_moments(map_store):
    views = read_views(map_store, "middle")
    observed = observe(views.maps, INSTRUMENTS["clean"], None)
    valid = views.maps[:, 0] > 0
    # float32: a dispersion of nil beside a velocity of 300 km/s is nil to 0.1 km/s.
    for channel in (0, 1, 2):
        torch.testing.assert_close(observed[:, channel][valid], views.maps[:, channel][valid], rtol=1e-4, atol=0.2)
    assert torch.equal(observed[:, 3] > 0, valid)
    assert (observed[:, 1][~valid] == 0).all()


def test_the_psf_conserves_moments_and_mixes_rotation_into_dispersion():
    n = 33
    density = torch.zeros(1, n, n)
    density[0, 12:21, 12:21] = 1e8
    velocity = torch.linspace(-100, 100, n).expand(1, n, n)
    maps = torch.stack([density, velocity * (density > 0), 10 * (density > 0), density > 0] * 2, dim=1).float()
    survey = INSTRUMENTS["ifu"]
    observed = observe(maps, survey, None)
    gas, valid = observed[:, 4], observed[:, 7] > 0
    kept_share = gas.sum() / density.sum()
    assert kept_share == pytest.approx(1, abs=0.01)
    assert observed[0, 5, 16, 16] == pytest.approx(float(velocity[0, 16, 16]), abs=0.5)
    # Gradient 6.25 km/s per pixel through a PSF of 1.5/2.355 pixels adds in quadrature.
    assert observed[0, 6, 16, 16] == pytest.approx(np.hypot(10, 200 / 32 * 1.5 / 2.3548), rel=0.02)
    assert valid.sum() > (density > 0).sum()


def test_noise_has_the_stated_size_and_belongs_to_the_view(map_store):
    views = read_views(map_store, "middle")
    survey = INSTRUMENTS["ifu"]
    noisy, still = views.observed(survey), views.observed(survey, noisy=False)
    gas = still[:, 7] > 0
    assert (noisy - still)[:, 5][gas].std() == pytest.approx(5, rel=0.05)
    stars = still[:, 3] > 0
    inner = stars & (still[:, 0] > still[:, 0].flatten(1).mean(1)[:, None, None])
    outer = stars & ~inner
    assert (noisy - still)[:, 1][outer].std() > 1.5 * (noisy - still)[:, 1][inner].std()
    np.testing.assert_array_equal(fixed_noise("a", 1, 8), fixed_noise("a", 1, 8))
    assert np.abs(fixed_noise("a", 1, 8) - fixed_noise("a", 2, 8)).max() > 0.1


# ---- PSF


def test_rotation_under_a_psf_becomes_dispersion():
    """sigma^2 -> sigma^2 + (dV/dx)^2 s^2 for a Gaussian PSF of standard deviation s; V stays."""
    maps = rotating(48, 7.0, 20.0)
    observed = observe(maps, Instrument(name="x", psf_fwhm={"pixels": 4.0}), None)
    inner = (0, slice(None), slice(18, 30), slice(18, 30))
    torch.testing.assert_close(observed[inner][1], maps[inner][1], rtol=1e-6, atol=1e-6)
    expected = np.hypot(20.0, 7.0 * 4.0 * SIGMA_OF_FWHM)
    np.testing.assert_allclose(observed[inner][2], expected, rtol=1e-4)


def test_blurred_moments_are_the_moments_of_blurred_particles():
    """Every particle spread over copies at whole pixels, with the PSF's weights as masses."""
    pixels, half, fwhm = 32, 8.0, 2.5
    particles, pixel = cloud(400), 2 * half / pixels
    reach = np.arange(-8, 9)
    weight = np.exp(-0.5 * (reach / (fwhm * SIGMA_OF_FWHM)) ** 2)
    weight = np.outer(weight, weight) / weight.sum() ** 2
    dy, dx = (pixel * d.ravel() for d in np.meshgrid(reach, reach, indexing="ij"))
    shift = np.stack([dx, dy, 0 * dx], axis=1)
    blurred = Particles(
        (particles.pos_kpc[:, None] + shift).reshape(-1, 3),
        np.repeat(particles.vel_kms, len(shift), axis=0),
        np.outer(particles.mass_msun, weight.ravel()).ravel(),
    )
    expected = stored(blurred, half, pixels)[0]
    observed = observe(stored(particles, half, pixels), Instrument(name="x", psf_fwhm={"pixels": fwhm}), None)[0]
    occupied = expected[0] > 1e-4 * expected[0].max()
    for channel, tolerance in ((0, 1e-3), (1, 1e-2), (2, 1e-2)):
        torch.testing.assert_close(observed[channel][occupied], expected[channel][occupied], rtol=1e-3, atol=tolerance)


def test_psf_in_kpc_and_re_is_the_psf_in_pixels_where_scales_say_so():
    maps = torch.cat([stored(cloud(500, seed), 3.0, 32) for seed in range(3)])
    r_e = torch.tensor([1.0, 2.0, 4.0])
    in_kpc = Instrument(name="x", psf_fwhm={"kpc": 1.5})
    observed = observe(maps, in_kpc, None, 6.0, r_e)
    for i in range(3):
        pixel_kpc = 6.0 * float(r_e[i]) / 32
        in_pixels = Instrument(name="x", psf_fwhm={"pixels": 1.5 / pixel_kpc})
        torch.testing.assert_close(observed[i], observe(maps, in_pixels, None)[i], rtol=1e-6, atol=1e-4)
        in_re = Instrument(name="x", psf_fwhm={"re": 1.5 / float(r_e[i])})
        torch.testing.assert_close(observed[i], observe(maps, in_re, None)[i], rtol=1e-6, atol=1e-4)
    assert (observed[0] - observe(maps, in_kpc, None, 6.0, r_e.flip(0))[0]).abs().max() > 1
    with pytest.raises(ValueError, match="needs each view's half_mass_radius_kpc"):
        observe(maps, in_kpc, None, 6.0)


# ---- field of view and pixels


@pytest.mark.parametrize(
    ("field", "rebin", "pixels", "share"), [(None, 2, 16, 1.0), (4.5, 1, 24, 0.75), (4.5, 3, 8, 0.75)]
)
def test_a_fine_map_rebinned_and_cut_out_is_the_coarse_map_of_the_same_particles(field, rebin, pixels, share):
    particles = cloud(3000)
    survey = Instrument(name="x", field_of_view_re=field, rebin=rebin, stars={"min_particles": 3})
    observed = observe(stored(particles, 3.0, 32), survey, None, 6.0)[0]
    coarse = stored(particles, 3.0 * share, pixels)[0]
    assert survey.grid(32, 6.0) == (pixels, 6.0 * share)
    assert torch.equal(observed[3] > 0, coarse[3] >= 3)
    assert 0.3 < float(observed[3].mean()) < 1
    for start, valid in ((0, coarse[3] >= 3), (4, coarse[7] > 0)):
        assert torch.equal(observed[start + 3] > 0, valid)
        for channel in range(3):
            torch.testing.assert_close(
                observed[start + channel], coarse[start + channel] * valid, rtol=1e-9, atol=1e-5
            )  # sigma of single particles is nil to the rounding of V^2


@pytest.mark.parametrize(
    ("stored_pixels", "field", "rebin", "expected"),
    [
        (32, None, 1, (32, 6.0)),
        (32, 3.0, 1, (16, 3.0)),
        (32, 4.0, 1, (22, 4.125)),  # 21.3 asked for; an odd number would shift the centre
        (32, 3.9375, 1, (22, 4.125)),  # 21: as far from 20
        (33, 4.0, 1, (23, 138 / 33)),  # 22: as far from 21
        (32, None, 3, (10, 5.625)),
        (33, None, 3, (11, 6.0)),
    ],
)
def test_the_field_ends_on_pixel_boundaries(stored_pixels, field, rebin, expected):
    grid = Instrument(name="x", field_of_view_re=field, rebin=rebin).grid(stored_pixels, 6.0)
    assert grid == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (32, {"field_of_view_re": 8}, "looks at 8 R_e, the maps have 6"),
        (33, {"rebin": 2}, "makes 0 of 33 pixels"),
        (32, {"rebin": 16}, "makes 2 of 32 pixels over 6 R_e, fewer than 4"),
        (32, {"footprint": {"radius_re": [0.2, 0.3]}}, "footprints of 3.2 pixels across at most: with fewer than 12"),
        (32, {"rebin": 2, "footprint": {"radius_re": 0.5, "share": 0.5}}, "footprints of 2.7 pixels across at most"),
    ],
)
def test_a_field_that_is_not_there_is_refused(pixels, options, words):
    with pytest.raises(ValueError, match=words):
        Instrument(name="x", **options).grid(pixels, 6.0)


def test_cuts_and_noise_come_after_rebinning():
    """A fine pixel above the cut in a coarse one below it is lost; a coarse pixel has the error of one pixel."""
    maps = rotating(64, 0.0, 50.0)
    maps[:, [0, 4], :32] = 0
    maps[:, [0, 4], ::2, ::2] = 4e5  # a quarter of the upper half's pixels, 1e5 on average
    maps[:, [0, 4], 32:] = 4e5
    gas = {"velocity_error_kms": 5, "mask_below_msun_kpc2": 3e5}
    survey = Instrument(name="x", rebin=2, gas=gas)
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observed = observe(maps, survey, noise)[0]
    assert observed[7, :16].sum() == 0
    assert observed[7, 16:].all()
    assert observed[3].all()
    torch.testing.assert_close(observed[5, 16:], 5 * noise[0, 2, 16:])


# ---- files


GOOD = {
    "name": "my_survey",
    "psf_fwhm": {"kpc": 0.7},
    "field_of_view_re": 4.5,
    "rebin": 2,
    "stars": {"velocity_error_kms": 8, "min_particles": 1},
    "gas": {"mask_below_msun_kpc2": 3e5},
}


def written(path: Path, **change: object) -> Path:
    path.write_text(yaml.safe_dump(GOOD | change))
    return path


def test_gas_in_a_ring_has_noise_too():
    """Nothing lies inside R_e: errors refer to the mean of the ring."""
    x = np.linspace(-3, 3, 33)[:-1] + 3 / 32
    ring = np.abs(np.hypot(x[:, None], x[None, :]) - 2) < 0.4
    maps = torch.zeros(1, 8, 32, 32)
    maps[0, 4] = torch.from_numpy(1e7 * ring)
    survey = Instrument(name="x", gas=TracerNoise(velocity_error_kms=10.0, error_slope=0.5, mask_below_mean=0.1))
    observed = observe(maps, survey, torch.ones(1, 4, 32, 32))
    np.testing.assert_allclose(observed[0, 5].numpy(), 10.0 * ring, rtol=1e-6)
    assert observe(0 * maps, survey, torch.ones(1, 4, 32, 32)).abs().max() == 0


def test_an_instrument_survives_yaml_and_json(tmp_path):
    survey = instrument(str(written(tmp_path / "s.yaml")))
    assert survey == Instrument(**GOOD)
    assert Instrument(**json.loads(json.dumps(survey.model_dump(mode="json")))) == survey
    for builtin in INSTRUMENTS.values():
        assert Instrument(**builtin.model_dump(mode="json")) == builtin


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"psf": 1}, ["unknown key `psf`", "known keys: name, psf_fwhm, unknown_psf, centre_error_re, footprint"]),
        ({"psf_fwhm": {"arcsec": 1}}, ["unknown key `psf_fwhm.arcsec`", "known keys: pixels, re, kpc"]),
        ({"psf_fwhm": {"pixels": 1, "kpc": 1}}, ["`psf_fwhm`", "exactly one of `pixels`, `re` and `kpc`"]),
        ({"psf_fwhm": {}}, ["exactly one"]),
        ({"stars": {"noise": 1}}, ["unknown key `stars.noise`", "known keys: velocity_error_kms"]),
        ({"gas": {"min_particles": -1}}, ["`gas.min_particles`", "greater than or equal to 0"]),
        ({"rebin": 0}, ["`rebin`", "greater than or equal to 1"]),
        ({"field_of_view_re": float("inf")}, ["`field_of_view_re`", "finite"]),
        ({"name": "my survey"}, ["`name`"]),
        ({"name": "ifu"}, ["ifu is a built-in instrument"]),
        ({"psf_fwhm": {"re": [1.2, 0.1]}}, ["`psf_fwhm.re`", "the smaller one first"]),
        ({"psf_fwhm": {"re": [0.0, 0.1]}}, ["`psf_fwhm.re`", "above 0"]),
        ({"stars": {"particles": -5}}, ["`stars.particles`", "above 0", "not -5"]),
        ({"stars": {"particles": [0, 100]}}, ["`stars.particles`", "above 0"]),
        ({"gas": {"kept_pixels": [0.5, 2]}}, ["`gas.kept_pixels`", "at most 1"]),
        ({"gas": {"velocity_error_kms": [1, 2, 3]}}, ["`gas.velocity_error_kms`", "[low, high]"]),
        ({"gas": {"velocity_error_kms": "loud"}}, ["`gas.velocity_error_kms`", "at least 0", "not loud"]),
        ({"gas": {"velocity_error_kms": True}}, ["`gas.velocity_error_kms`"]),
        ({"gas": {"thinned": 1.5}}, ["`gas.thinned`", "less than or equal to 1"]),
        ({"footprint": {"radius_re": 1.0, "shape": "triangle"}}, ["`footprint.shape`", "hexagon"]),
        ({"footprint": {"shape": "circle"}}, ["`footprint.radius_re` is missing"]),
    ],
)
def test_wrong_files_name_the_key(change, words, tmp_path):
    with pytest.raises(ValueError, match=r"s\.yaml") as error:
        instrument(str(written(tmp_path / "s.yaml", **change)))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"clean, ifu, survey, manga, .* or give a YAML file"):
        instrument("hubble")
    with pytest.raises(ValueError, match="no such file; check the path"):
        instrument(str(tmp_path / "none.yaml"))
    for text, words in (
        ("a: [", r"x.yaml: not valid YAML \(.* in line 1\); mend it there$"),
        ("- 1", "known keys: name"),
        ("rebin: 2", "key `name` is missing"),
        ("name: !!python/object/apply:os.system ['touch hacked']", "not valid YAML"),
    ):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            instrument(str(tmp_path / "x.yaml"))


def test_the_example_in_the_docs_is_valid(tmp_path):
    text = (ROOT / "docs" / "howto" / "survey.md").read_text()
    example = re.search(r"```yaml\n(name: my_survey\n.*?)```", text, re.DOTALL)
    (tmp_path / "x.yaml").write_text(example[1])
    assert set(Instrument.model_fields) == instrument(str(tmp_path / "x.yaml")).model_fields_set


# ---- runs


SMALL = {"width": 4, "steps": 2, "round_steps": 2, "batch": 8}


def test_a_run_keeps_its_instrument_whole(map_store, tmp_path):
    """Trained on 6 of 16 pixels; the YAML file is not needed again."""
    file, run = written(tmp_path / "s.yaml"), tmp_path / "run"
    options = [x for k, v in SMALL.items() for x in (f"--{k.replace('_', '-')}", v)]
    line = ("train", "fit", "--store", map_store, "--tracer", "both", "--out", run, "--instrument", file, *options)
    assert "through my_survey (6 x 6 pixels over 4.5 R_e)" in called(*line).stderr
    config = read_config(run)
    assert instrument_of(run) == Instrument(**GOOD)
    assert (config["fit"]["instrument"], config["model"]["pixels"]) == ("my_survey", 6)
    written(file, rebin=1)
    refused = called(*line, check=False)
    assert refused.returncode == 2
    assert "other settings: the instrument of that name" in refused.stderr
    file.unlink()
    predictions = predict(run, map_store, "quiet")
    assert len(predictions) == 12 * 2 * len(RADII_RE)
    assert np.isfinite(predictions.log10_menc).all()
    tables = ("eval", "tables", run, "--store", map_store, "--suites", "quiet", "--part", "all")
    command(*tables, "--workers", 1, "--out", tmp_path / "out")
    groups = pd.read_csv(tmp_path / "out" / "table.csv")
    assert set(zip(groups.estimator, groups.instrument, strict=True)) == {
        (name, "my_survey") for name in ("cnn", *ESTIMATORS)
    }


def test_two_instruments_of_one_name_do_not_share_a_table(map_store, tmp_path):
    for name, rebin in (("a", 1), ("b", 2), ("c", 2)):
        file = written(tmp_path / "s.yaml", rebin=rebin)
        fit(
            FitConfig(str(map_store), "stars", ("bursty", "middle", "quiet"), str(file), **SMALL),
            tmp_path / name,
            quiet=True,
        )
    done = called(
        "eval", "tables", tmp_path / "a", tmp_path / "b", "--store", map_store, "--out", tmp_path / "out", check=False
    )
    assert done.returncode == 2
    assert "different instruments of the same name my_survey" in done.stderr


@pytest.mark.parametrize("broken", [{}, {"rebin": 2}, [1], None])
def test_a_damaged_instrument_of_a_run_is_an_error_of_one_sentence(broken, tmp_path):
    with pytest.raises(RunError, match=r"run\.json holds no instrument"):
        instrument_in({"instrument": broken}, tmp_path)
