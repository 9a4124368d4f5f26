"""Observed galaxies: maps on the sky become the maps a network knows, uncertainties are what they should be."""

import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr
from astropy import units
from astropy.io import fits
from astropy.table import MaskedColumn, QTable
from astropy.utils.masked import Masked
from conftest import ROOT, SHARED, SUITES, assert_same_posterior, galaxy_file

from kinmass.eval.__main__ import main
from kinmass.eval.observed.fits_units import kms_per_unit
from kinmass.eval.observed.galaxy import ObservedGalaxy, read_galaxy
from kinmass.eval.observed.inference import KPC_PER_ARCSEC_MPC, infer
from kinmass.eval.observed.profile import ObservedProfile
from kinmass.eval.observed.sky import SkyMap, regrid
from kinmass.train.data.dataset import read_views, usable
from kinmass.train.loop.config import FitConfig
from kinmass.train.model.scaling import SPEEDS_KMS
from kinmass.train.run.posterior import load

FIELD = 6.0


@pytest.fixture(scope="module")
def relative(map_store, tmp_path_factory):
    """A gas network for densities up to a factor and maps without dispersion, fitted once more without each suite."""
    from kinmass.train.loop.fit import fit_ensemble

    out = tmp_path_factory.mktemp("sky") / "gas"
    small = {"width": 4, "steps": 20, "round_steps": 10, "batch": 8}
    wide = {"inputs": "relative", "fade": 0.5, "no_dispersion": 0.3, "leave_one_suite_out": True}
    fit_ensemble(FitConfig(str(map_store), "gas", SUITES, **small, **wide), out, quiet=True)
    return load(out)


@pytest.fixture
def sharp(relative):
    """The same, sure of what it says: what is left of a posterior's width is not the network's."""
    network = load(relative.path)
    network.unseen = {"gas": [1e-3 * torch.eye(10)]}
    return network


@pytest.fixture(scope="module")
def seen(runs, map_store):
    """A view through the instrument, (8, P, P), and its R_e [kpc]."""
    run = load(next(run for run in runs if run.name == "both"))
    views = read_views(map_store, "quiet")
    views = views[usable(views, "gas", run.instrument) & usable(views, "stars", run.instrument)][np.arange(1)]
    return views.observed(run.instrument)[0].numpy(), float(views.half_mass_radius_kpc[0])


def on_the_sky(seen, tracer, r_e_arcsec=20.0, blur=1e3):
    """The view's tracer as a survey would give it, with a beam that the network's cannot sharpen."""
    maps, _ = seen
    first_channel = 0 if tracer == "stars" else 4
    density, velocity, sigma, mask = maps[first_channel : first_channel + 4].astype(float)
    images = [np.where(mask > 0, channel, np.nan) for channel in (density, velocity, sigma)]
    return SkyMap.from_images(*images, FIELD * r_e_arcsec / maps.shape[-1], beam_fwhm_arcsec=blur)


def galaxy_of(seen, *tracers, r_e_arcsec=20.0, **errors):
    distance = seen[1] / (r_e_arcsec * KPC_PER_ARCSEC_MPC)
    maps = {t: on_the_sky(seen, t, r_e_arcsec) for t in tracers}
    return ObservedGalaxy("mock 1", distance, r_e_arcsec, **maps, calibrated=frozenset(tracers), **errors)


# ---- the grid


def test_on_its_own_grid_a_map_stays_what_it_is(seen):
    for tracer, first_channel in (("stars", 0), ("gas", 4)):
        regridded = regrid(on_the_sky(seen, tracer), seen[0].shape[-1], FIELD * 20.0)
        np.testing.assert_allclose(regridded, seen[0][first_channel : first_channel + 4], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("side", [0.37, 1.0, 3.1])
@pytest.mark.parametrize("psf", [0.0, 4.0])
def test_moments_of_any_pixels_are_kept(side, psf):
    """Mass, momentum and energy inside a field larger than the galaxy; and the position of its centre."""
    pixel_offsets = np.arange(-15, 15 + side, side)
    x, y = (v.ravel() for v in np.meshgrid(pixel_offsets, pixel_offsets))
    density = np.exp(-0.5 * ((x - 2) ** 2 + (y + 3) ** 2) / 4**2) + 1e-9
    sky = SkyMap(x, y, side, density, 3 * x, 20 + 0 * x)
    density_out, v, sigma, mask = regrid(sky, 32, 64.0, psf)
    covered = mask > 0
    assert covered.sum() >= (pixel_offsets[-1] - pixel_offsets[0]) ** 2 / 4 - 40
    area, cell = side**2, (64.0 / 32) ** 2
    cell_offsets = (np.arange(32) + 0.5) * 2 - 32
    for weight_in, weight_out, rtol in (
        (1, 1, 0.02), (x, cell_offsets[None, :], 0.03), (3 * x, v, 0.03), ((3 * x) ** 2 + 400, v**2 + sigma**2, 0.03),
    ):  # fmt: skip
        moment_in = (density * weight_in).sum() * area
        np.testing.assert_allclose((density_out * weight_out * covered).sum() * cell, moment_in, rtol=rtol)


def test_blurring_is_to_the_networks_beam():
    """A point seen with a beam, on a grid with a wider PSF: as wide as the PSF. A wider beam is left alone."""
    pixel_offsets = np.arange(-30, 30.1, 0.5)
    x, y = (v.ravel() for v in np.meshgrid(pixel_offsets, pixel_offsets))
    for beam, psf in ((3.0, 9.0), (9.0, 3.0)):
        density = np.exp(-0.5 * (x**2 + y**2) * (2.3548 / beam) ** 2) + 1e-12
        blurred = regrid(SkyMap(x, y, 0.5, density, 0 * x, 0 * x, beam), 32, 64.0, psf)[0]
        cell_offsets = (np.arange(32) + 0.5) * 2 - 32
        width = 2.3548 * np.sqrt((blurred * cell_offsets[None, :] ** 2).sum() / blurred.sum())
        assert width == pytest.approx(max(beam, psf), rel=0.05)


def test_what_makes_no_map_is_said():
    ones = np.ones((4, 4))
    for arguments, words in (
        ((ones, np.ones((4, 5)), ones, 1.0), "one shape"),
        ((ones, np.nan * ones, ones, 1.0), "no pixel"),
        ((-ones, ones, ones, 1.0), "no pixel"),
        ((ones, ones, ones, 0.0), "pixels must be wider than 0"),
    ):
        with pytest.raises(ValueError, match=words):
            SkyMap.from_images(*arguments)


def test_a_map_without_a_number_is_named():
    """As of an export in which an instrument has not measured a density."""
    seen, nothing = np.ones((3, 3)), np.full((3, 3), np.nan)
    with pytest.raises(ValueError, match="a number for density; leave out what was not measured"):
        SkyMap.from_images(nothing, seen, seen, 1.0)
    with pytest.raises(ValueError, match="a number for density and dispersion; leave out"):
        SkyMap.from_images(nothing, seen, nothing, 1.0)
    half = np.where(np.arange(3) > 1, 1.0, np.nan) * seen
    with pytest.raises(ValueError, match="look at masks, `blank` and cuts"):
        SkyMap.from_images(half, seen, half[:, ::-1], 1.0)


def test_masks_and_units_of_arrays_count():
    """numpy drops both in silence: what is masked was measured, m/s were km/s, and Msun/pc^2 Msun/kpc^2."""
    y, x = np.indices((9, 7))
    seen, error = x > 2, 5.0 + x
    plain = [np.where(seen, values, np.nan) for values in (1e6 + x, 10.0 * y, 20.0 + x)]
    expected = SkyMap.from_images(*plain, 0.5, beam_fwhm_arcsec=1.0, velocity_error_kms=np.where(seen, error, np.nan))
    density, velocity, sigma = (np.where(seen, values, 7.0) for values in plain)
    masked_column = MaskedColumn(1e3 * sigma.ravel(), mask=~seen.ravel(), unit="m/s")
    found = SkyMap(
        *((x.ravel() - 3) * 0.5 / 60 * units.arcmin, (y.ravel() - 4) * 0.5, 0.5 / 60 * units.arcmin),
        Masked(density.ravel() / 1e6 * units.solMass / units.pc**2, mask=~seen.ravel()),
        np.ma.masked_array(velocity.ravel(), ~seen.ravel()), masked_column, 1000 * units.mas, error.ravel(),
    )  # fmt: skip
    assert found.dispersion_error_kms is expected.dispersion_error_kms is None
    for name, values in vars(expected).items():
        assert type(getattr(found, name)) is type(values)
        if values is not None:
            np.testing.assert_allclose(getattr(found, name), values, err_msg=name)
    as_images = SkyMap.from_images(
        density, np.ma.masked_array(velocity, ~seen), 1e3 * sigma * units.m / units.s, 0.5, None, 1.0, error
    )
    np.testing.assert_allclose(as_images.dispersion_kms, expected.dispersion_kms)
    for values, words in (
        ((density * units.mag, velocity), "density is in mag: give it in .* proportional to light or mass per area"),
        ((density, velocity * units.Hz), "velocity_kms is in Hz: give it in km / s, or as plain numbers"),
        ((density, velocity, sigma, 0.5, None, 1.0, error.T), "images must have one shape"),
    ):
        with pytest.raises(ValueError, match=words):
            SkyMap.from_images(*(values if len(values) > 2 else (*values, sigma, 0.5)))


# ---- the posterior


def test_a_view_on_the_sky_has_the_posterior_of_the_view(runs, seen):
    for run, tracers in (("gas", ["gas"]), ("both", ["stars", "gas"])):
        network = load(next(r for r in runs if r.name == run))
        profile = infer(network, galaxy_of(seen, *tracers), draws=3)
        posterior = network(seen[0][None], np.array([seen[1]]), names=[("mock 1", 0)], unseen=True)
        assert_same_posterior(profile.samples[:20], posterior.samples(20)[:, 0])
        assert np.isnan([profile.ood_score, posterior.ood_score()[0]]).all()  # of four validation views
        assert (np.diff(profile.samples, axis=1) >= 0).all()


def test_mass_inside_an_angle_is_proportional_to_the_distance(relative, sharp, seen):
    near = galaxy_of(seen, "gas")
    far = replace(near, distance_mpc=2 * near.distance_mpc)
    near_profile, far_profile = (infer(relative, g, draws=4) for g in (near, far))
    assert_same_posterior(far_profile.samples - np.log10(2), near_profile.samples)
    assert_same_posterior(np.log10(far_profile.v_circ_kms), np.log10(near_profile.v_circ_kms))
    first, last = near_profile.radius_kpc[[0, -1]]
    assert ["extrapolated" in near_profile.inside(r) for r in (0.5 * first, first, last, 2 * last)] == [1, 0, 0, 1]
    np.testing.assert_allclose(near_profile.at_kpc(1e3 * last * units.pc), near_profile.at_kpc(last), rtol=1e-9)
    assert near_profile.inside(1e3 * last * units.pc) == near_profile.inside(last)
    for radius in (-1.0, 0.0, np.nan, 3 * units.arcsec, np.array([1.0, 2.0])):
        with pytest.raises(ValueError, match=r"a radius (must be above 0 kpc|is one number)"):
            near_profile.at_kpc(radius)
    # Its error is the distance's: e.g. 20 % are .086 dex; V_c does not know it.
    vague = infer(sharp, replace(near, distance_error_mpc=0.2 * near.distance_mpc), draws=400)
    exact = infer(sharp, near, draws=400)
    np.testing.assert_allclose(np.var(vague.samples, axis=0), np.log(1.04) / np.log(10) ** 2, rtol=0.35)
    np.testing.assert_allclose(vague.v_circ_kms, exact.v_circ_kms, rtol=0.05)


def test_what_is_not_known_of_the_galaxy_makes_it_wider(sharp, seen):
    plain = infer(sharp, galaxy_of(seen, "gas"), draws=100)
    vague = infer(sharp, galaxy_of(seen, "gas", half_light_radius_error_arcsec=6.0, centre_error_arcsec=2.0), draws=100)
    assert (np.std(vague.samples, axis=0) > 2 * np.std(plain.samples, axis=0)).all()
    again = infer(sharp, galaxy_of(seen, "gas"), draws=100)
    np.testing.assert_array_equal(again.samples, plain.samples)


def test_draws_that_see_nothing_say_nothing_of_the_mass(sharp, seen):
    """With a centre that is hardly known, some draws lie beside the map."""
    profile = infer(sharp, galaxy_of(seen, "gas", centre_error_arcsec=80.0), draws=60)
    assert 0 < len(profile.samples) < 60 * 20
    assert np.isfinite(profile.samples).all()
    assert len(profile.samples) == len(profile.v_circ_kms)
    n_left_out = 60 - len(profile.samples) // 20
    assert f"{n_left_out} of 60 draws of distance, R_e and centre are left out" in " ".join(profile.sentences())
    profile.table()


def test_a_density_is_known_up_to_a_factor(sharp, seen):
    galaxy = galaxy_of(seen, "gas")
    brighter = replace(galaxy, gas=replace(galaxy.gas, density=7.0 * galaxy.gas.density), calibrated=frozenset())
    samples, samples_of_brighter = (infer(sharp, g, draws=2).samples for g in (galaxy, brighter))
    np.testing.assert_allclose(samples, samples_of_brighter, atol=1e-3)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_a_network_that_knows_nothing_says_what_a_galaxy_can_be(runs, seen, scale):
    """Its steps are e^thousands dex; the answer is held, rises, has speeds, and says what happened to it."""
    network = load(next(run for run in runs if run.name == "gas"))
    network.scales = {"gas": [scale * torch.eye(10)]}
    profile = infer(network, galaxy_of(seen, "gas", half_light_radius_error_arcsec=6.0), draws=20)
    low, high = SPEEDS_KMS
    assert profile.v_circ_kms.min() >= 0.999 * low
    assert profile.v_circ_kms.max() == pytest.approx(high)
    assert (np.diff(profile.samples, axis=1) >= 0).all()
    for kpc in (0.01, 3.0, 1000.0):
        assert 0 < profile.at_kpc(kpc, (0.0, 1.0))[1] < 18
    assert "of the samples were masses that no galaxy has" in " ".join(profile.sentences())


def test_what_a_run_cannot_use_is_refused(runs, relative, seen):
    by_name = {run.name: load(run) for run in runs}
    galaxy = galaxy_of(seen, "gas")
    with pytest.raises(ValueError, match="choose a run trained on gas"):
        infer(by_name["stars"], galaxy)
    with pytest.raises(ValueError, match="choose a run trained on gas"):
        infer(by_name["both"], galaxy)
    with pytest.raises(ValueError, match="density_msun_kpc2 or total_mass_msun"):
        infer(by_name["gas"], replace(galaxy, calibrated=frozenset()))
    cold = replace(galaxy, gas=replace(galaxy.gas, dispersion_kms=None))
    with pytest.raises(ValueError, match="--no-dispersion"):
        infer(by_name["gas"], cold)
    assert not infer(relative, cold, draws=2).observed[6].any()
    with pytest.raises(ValueError, match="is half_light_radius_arcsec right"):
        infer(relative, replace(galaxy, half_light_radius_arcsec=900.0))


def test_it_says_what_is_doubtful(runs, relative, seen):
    gas = next(run for run in runs if run.name == "gas")
    assert any(
        "--leave-one-suite-out" in line for line in infer(load(gas), galaxy_of(seen, "gas"), draws=2).sentences()
    )
    galaxy = galaxy_of(seen, "gas")
    is_inner = np.hypot(galaxy.gas.x_arcsec, galaxy.gas.y_arcsec) < 22
    inner = {
        k: getattr(galaxy.gas, k)[is_inner]
        for k in ("x_arcsec", "y_arcsec", "density", "velocity_kms", "dispersion_kms")
    }
    sentences = " ".join(infer(relative, replace(galaxy, gas=replace(galaxy.gas, **inner)), draws=2).sentences())
    assert "Gas is seen out to 1." in sentences or "Gas is seen out to 0." in sentences
    assert "--leave-one-suite-out" not in sentences
    assert "beam of the gas is 50.00 R_e wide" in sentences


def test_the_redshift_of_a_profile_is_that_of_its_own_maps(relative, seen):
    """The lowest of both was held against the distance, whichever map a profile was from."""

    def said(**of_velocities: float) -> str:
        redshifts = {tracer: (z, z) for tracer, z in of_velocities.items()}
        galaxy = replace(galaxy_of(seen, "gas"), redshift=given, redshifts=redshifts, distance_mpc=distance_mpc)
        return " ".join(infer(relative, galaxy, draws=2).verdict.sentences())

    of_distance, of_redshift, of_both = "are those of galaxies", "and redshift is 0.02", "are both maps of one galaxy"
    given, distance_mpc = None, 88.0
    for maps, expected in (
        ({"gas": 0.02}, []),
        ({"stars": 0.05}, []),
        ({"gas": 0.05}, [of_distance]),
        ({"gas": 0.05, "stars": 0.05}, [of_distance]),
        ({"gas": 0.05, "stars": 0.02}, [of_distance, of_both]),
        ({"gas": 0.02, "stars": 0.05}, [of_both]),
    ):
        assert [words for words in (of_distance, of_redshift, of_both) if words in said(**maps)] == expected, maps
    # One that is given says the distance: what speaks against it counts once.
    given = 0.02
    assert [words for words in (of_distance, of_redshift) if words in said(gas=0.05)] == [of_redshift]
    assert of_redshift not in said(gas=0.0202)


# ---- files


def write_images(folder: Path, seen) -> dict:
    """The view's gas as FITS images with a WCS, and the YAML's content."""
    maps, r_e = seen
    r_e_arcsec, p = 20.0, maps.shape[-1]
    header = fits.Header()
    step = FIELD * r_e_arcsec / p / 3600
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CDELT1": -step,
                   "CDELT2": step, "CRPIX1": 0.5 * (p + 1), "CRPIX2": 0.5 * (p + 1)})  # fmt: skip
    density, velocity, sigma, mask = maps[4:8].astype(float)
    for name, image in (("density", density), ("velocity", velocity + 1500), ("fwhm", 2.3548200450309493 * sigma)):
        fits.PrimaryHDU(np.where(mask > 0, image, np.nan).astype(np.float32), header).writeto(folder / f"{name}.fits")
    return {
        "name": "mock 1", "centre_deg": [150.0, 2.0], "distance_mpc": r_e / (r_e_arcsec * KPC_PER_ARCSEC_MPC),
        "half_light_radius_arcsec": r_e_arcsec, "systemic_kms": 1500.0,
        "gas": {"velocity": "velocity.fits", "density": "density.fits", "dispersion": "fwhm.fits",
                "dispersion_is": "fwhm", "density_msun_kpc2": 1.0, "beam_fwhm_arcsec": 100.0},
    }  # fmt: skip


def described(folder: Path, content: dict) -> Path:
    return galaxy_file(folder / "mock.yaml", content)


def test_planes_of_a_cube_masks_and_inverse_variances(tmp_path, seen):
    """As MaNGA's MAPS: one file, named extensions, channels of emission lines, masks and inverse variances."""
    content = write_images(tmp_path, seen)
    from_arrays = galaxy_of(seen, "gas")
    images = {n: fits.getdata(tmp_path / f"{n}.fits") for n in ("velocity", "density", "fwhm")}
    header = fits.getheader(tmp_path / "velocity.fits")
    bad = np.zeros_like(images["velocity"], dtype=np.int32)
    bad[::2] = 1 << 30
    inverse_variance = np.where(np.arange(bad.shape[1]) % 2, 1 / 4.0**2, 0.0) + 0 * images["density"]
    hdus = [fits.PrimaryHDU()]
    for name, image in (("GVEL", images["velocity"]), ("GSIGMA", images["fwhm"] / 2.3548200450309493),
                        ("FLUX", images["density"]), ("MASK", bad), ("IVAR", inverse_variance)):  # fmt: skip
        hdus.append(fits.ImageHDU(np.stack([np.full_like(image, 7), image]), header, name=name))
    fits.HDUList(hdus).writeto(tmp_path / "maps.fits")
    content["gas"] = {
        "velocity": "maps.fits[GVEL,1]", "dispersion": "maps.fits[GSIGMA,1]", "density": "maps.fits[FLUX, 1]",
        "mask": "maps.fits[MASK,1]", "velocity_ivar": "maps.fits[IVAR,1]", "max_velocity_error_kms": 5.0,
        "total_mass_msun": 3e9,
    }  # fmt: skip
    gas = read_galaxy(described(tmp_path, content)).gas
    rows, columns = np.indices(bad.shape)
    good = np.isfinite(images["velocity"]) & (rows % 2 == 1) & (columns % 2 == 1)
    assert len(gas.x_arcsec) == good.sum()
    assert gas.density.sum() * (gas.side_arcsec * from_arrays.distance_mpc * KPC_PER_ARCSEC_MPC) ** 2 == pytest.approx(
        3e9
    )


def test_a_table_of_spaxels_is_its_image(tmp_path, seen):
    content, from_arrays = write_images(tmp_path, seen), galaxy_of(seen, "gas").gas
    p = seen[0].shape[-1]
    rows, columns = np.indices((p, p))
    side = from_arrays.side_arcsec
    table = {"X": side * (columns - 0.5 * (p - 1)) + 2, "Y": side * (rows - 0.5 * (p - 1)) - 1, "FLUX": seen[0][4],
             "VEL": np.where(seen[0][7] > 0, seen[0][5], -999.9), "SIG": seen[0][6]}  # fmt: skip
    columns_out = [fits.Column(k, "D", array=np.asarray(v, float).ravel()) for k, v in table.items()]
    fits.BinTableHDU.from_columns(columns_out, name="BINS").writeto(tmp_path / "table.fits")
    content["gas"] = {"table": "table.fits[BINS]", "velocity": "VEL", "density": "FLUX", "dispersion": "SIG",
                      "blank": -999.9, "density_msun_kpc2": 1.0}  # fmt: skip
    del content["centre_deg"]
    content["centre_arcsec"] = [2.0, -1.0]
    gas = read_galaxy(described(tmp_path, content)).gas
    for name in ("x_arcsec", "y_arcsec", "density", "velocity_kms", "dispersion_kms"):
        np.testing.assert_allclose(getattr(gas, name), getattr(from_arrays, name), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("binned", ["table", "image"])
def test_a_row_per_bin_is_the_same_for_its_spaxels(tmp_path, seen, binned):
    """As GIST's and DYNAMITE's: spaxels know the number of their bin, kinematics are in a table of bins."""
    content = write_images(tmp_path, seen)
    images = {n: fits.getdata(tmp_path / f"{n}.fits") for n in ("velocity", "density", "fwhm")}
    header = fits.getheader(tmp_path / "velocity.fits")
    iy, ix = np.indices(images["velocity"].shape)
    number = np.where(np.isfinite(images["velocity"]), 7 + iy // 2 * 100 + ix // 3, -1)
    bins = np.random.default_rng(0).permutation(np.unique(number[number >= 0]))
    velocity, sigma = 1500 + np.sin(bins) * 80, 20 + np.cos(bins) ** 2
    columns = [fits.Column("BIN_ID", "J", array=bins), fits.Column("V", "D", array=1e3 * velocity, unit="m/s"),
               fits.Column("SIGMA", "D", array=sigma)]  # fmt: skip
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "kin.fits")
    content["gas"] = {"velocity": "V", "dispersion": "SIGMA", "bins": "kin.fits", "density_msun_kpc2": 1.0}
    if binned == "image":
        fits.PrimaryHDU(number.astype(np.int32), header).writeto(tmp_path / "number.fits")
        content["gas"] |= {"density": "density.fits", "bin": "number.fits"}
        # As some pipelines do: rows count the bins.
        rows = np.zeros((bins.max() + 1, 2))
        rows[bins] = np.stack([velocity, sigma], axis=1)
        columns = [fits.Column("V", "D", array=rows[:, 0]), fits.Column("SIGMA", "D", array=rows[:, 1])]
        fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "kin.fits", overwrite=True)
    else:
        x, y = 2.0 * (ix - ix.mean()), 2.0 * (iy - iy.mean())
        columns = [fits.Column(n, "D", array=v.ravel()) for n, v in
                   (("X", x), ("Y", y), ("FLUX", images["density"]), ("BIN_ID", number))]  # fmt: skip
        fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "spaxels.fits")
        content["gas"] |= {"density": "FLUX", "table": "spaxels.fits"}
    gas = read_galaxy(described(tmp_path, content)).gas
    in_bin = number >= 0
    row = np.argsort(bins)[np.searchsorted(np.sort(bins), number[in_bin])]
    np.testing.assert_allclose(gas.velocity_kms, velocity[row], rtol=1e-12)
    np.testing.assert_allclose(gas.dispersion_kms, sigma[row], rtol=1e-12)
    np.testing.assert_allclose(gas.density, images["density"][in_bin], rtol=1e-6)


@pytest.mark.parametrize("convention", ["optical", "radio"])
@pytest.mark.parametrize("systemic", [True, False])
def test_velocities_of_any_unit_and_convention_are_the_galaxys_own(tmp_path, seen, convention, systemic):
    content, light_kms, redshift = write_images(tmp_path, seen), 299792.458, 0.03
    rest, sigma = (fits.getdata(tmp_path / f"{n}.fits").astype(float) for n in ("velocity", "fwhm"))
    rest -= np.nanmedian(rest)
    shifted = (1 + redshift) * (1 + rest / light_kms)
    in_convention = {"optical": light_kms * (shifted - 1), "radio": light_kms * (1 - 1 / shifted)}[convention]
    width_factor = {"optical": 1 + redshift, "radio": 1 / (1 + redshift)}[convention]
    header = fits.getheader(tmp_path / "velocity.fits")
    header.update({"BMAJ": 4 / 3600, "BMIN": 1 / 3600})
    for name, image, unit in (("velocity", 1e3 * in_convention, "m s-1"), ("fwhm", width_factor * sigma, "km/s")):
        header["BUNIT"] = unit
        fits.PrimaryHDU(image, header).writeto(tmp_path / f"{name}.fits", overwrite=True)
    content["gas"]["convention"] = convention
    content["systemic_kms"] = light_kms * redshift if convention == "optical" else light_kms * (1 - 1 / (1 + redshift))
    del content["gas"]["beam_fwhm_arcsec"]
    if not systemic:
        del content["systemic_kms"]
    gas = read_galaxy(described(tmp_path, content)).gas
    good = np.isfinite(rest)
    np.testing.assert_allclose(gas.velocity_kms, rest[good], atol=1e-6)
    np.testing.assert_allclose(gas.dispersion_kms, sigma[good] / 2.3548200450309493, rtol=1e-6)
    assert gas.beam_fwhm_arcsec == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("km/s", 1), ("Km/s", 1), ("KM/SEC", 1), ("km s^-1", 1), ("km.s**-1", 1), ("kms", 1), ("", 1), (None, 1),
     ("M/S", 1e-3), ("METR/SEC", 1e-3), ("m s-1", 1e-3), ("cm/s", 1e-5), ("1.E-3 km/s", 1e-3), ("m s⁻¹", 1e-3),
     ("'km/s'", 1), ("kilometre/second", 1), ("metre / second", 1e-3), ("km s$^{-1}$", 1), (r"$km\,s^{-1}$", 1),
     (r"\mathrm{km~s^{-1}}", 1), (r"$\mathrm{km\,s^{-1}}$", 1)],
)  # fmt: skip
def test_units_as_headers_write_them(unit, factor):
    assert kms_per_unit("v.fits", unit) == pytest.approx(factor)


def test_maps_that_are_not_what_they_are_said_to_be(relative, runs, seen):
    galaxy = galaxy_of(seen, "gas")
    fast = replace(galaxy.gas, velocity_kms=1e3 * galaxy.gas.velocity_kms)
    with pytest.raises(ValueError, match="velocity_unit: m/s"):
        infer(relative, replace(galaxy, gas=fast), draws=2)
    redshift = replace(galaxy.gas, velocity_kms=galaxy.gas.velocity_kms / 3e5, dispersion_kms=None)
    with pytest.raises(ValueError, match="neither a redshift"):
        infer(relative, replace(galaxy, gas=redshift), draws=2)
    still = replace(galaxy.gas, dispersion_kms=1e-3 * galaxy.gas.dispersion_kms)
    with pytest.raises(ValueError, match=r"dispersion of the gas is .* which no spectrograph measures"):
        infer(relative, replace(galaxy, gas=still), draws=2)
    with pytest.raises(ValueError, match="are the centre and"):
        infer(relative, replace(galaxy, gas=galaxy.gas.moved(300, 0)), draws=2)
    far = replace(galaxy, gas=replace(galaxy.gas, velocity_kms=galaxy.gas.velocity_kms + 7500))
    assert "2.5 % too large; say convention" in " ".join(infer(relative, far, draws=2).sentences())
    with pytest.raises(ValueError, match="distance_mpc must be positive"):
        replace(galaxy, distance_mpc=0.0)
    both = load(next(run for run in runs if run.name == "both"))
    galaxy = galaxy_of(seen, "gas", "stars")
    odd = "mirrored or turned|map of gas|map of stars"
    assert not re.search(odd, " ".join(infer(both, galaxy, draws=2).sentences()))
    mirrored = replace(galaxy, stars=replace(galaxy.stars, velocity_kms=-galaxy.stars.velocity_kms))
    assert "mirrored or turned" in " ".join(infer(both, mirrored, draws=2).sentences())
    cold = replace(galaxy.gas, dispersion_kms=0.2 * galaxy.gas.dispersion_kms)
    assert "map of gas" in " ".join(infer(both, replace(galaxy, stars=cold), draws=2).sentences())
    hot = replace(galaxy.stars, dispersion_kms=300 + galaxy.stars.dispersion_kms)
    assert "map of stars" in " ".join(infer(both, replace(galaxy, gas=hot), draws=2).sentences())


def test_predict_writes_table_samples_and_figure(tmp_path, seen, relative, runs, capsys, monkeypatch):
    path = described(tmp_path, write_images(tmp_path, seen))
    stars = next(run for run in runs if run.name == "stars")
    out = tmp_path / "out"
    assert main(["predict", str(relative.path), str(stars), str(path), "--out", str(out), "--inside-kpc", "3"]) == 0
    printed = capsys.readouterr()
    assert "mock 1, from gas: log10 M(<" in printed.out
    assert "\nlog10 M(<3 kpc) = " in printed.out
    assert "was trained on stars" in printed.err
    folder = out / "mock" / "gas"
    table = QTable.read(folder / "profile.ecsv")
    assert str(table["v_circ"].unit) == "km / s"
    assert (np.diff(table["log10_menc"]) > 0).all()
    for inner, outer in (("lo_95", "lo_68"), ("lo_68", "hi_68"), ("hi_68", "hi_95")):
        assert (table[f"log10_menc_{inner}"] < table[f"log10_menc_{outer}"]).all()
    assert table.meta["galaxy"] == "mock 1"
    assert np.isnan(table.meta["ood_score"])  # of four validation views
    samples = zarr.open_group(folder / "samples.zarr", mode="r")["log10_menc"][:]
    np.testing.assert_allclose(np.median(samples, axis=0), table["log10_menc"], atol=1e-4)
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(folder.glob("*partial*"))
    # Given again, with another galaxy file: where that ends in the middle there is no profile beside other samples.
    monkeypatch.setattr(ObservedProfile, "figure", lambda _: exec("raise OSError(28, 'No space left on device')"))
    assert main(["predict", str(relative.path), str(path), "--out", str(out)]) == 2
    assert re.search(r"no room left to write \(No space.*figure\.png\); make room and give", capsys.readouterr().err)
    assert sorted(path.name for path in folder.iterdir()) == ["figure.png", "origin.json", "samples.zarr"]


def test_results_of_one_name_are_all_kept(tmp_path, seen, relative, capsys, monkeypatch):
    """Two runs and two galaxies of one folder's or file's name, and one that cannot be read: four results."""
    monkeypatch.setattr("kinmass.eval.observed.inference.infer", partial(infer, draws=2))
    for folder in ("A", "B"):
        shutil.copytree(relative.path, tmp_path / folder / "net")
        content = write_images(tmp_path / folder, seen)
        del content["gas"]["beam_fwhm_arcsec"]
        described(tmp_path / folder, content | {"name": folder})
    (tmp_path / "C.yaml").write_text("name: C\n")
    runs = [tmp_path / folder / "net" for folder in ("A", "B")]
    galaxies = [tmp_path / "A" / "mock.yaml", tmp_path / "C.yaml", tmp_path / "B" / "mock.yaml"]
    out = tmp_path / "out"
    assert main(["predict", *map(str, runs), *map(str, galaxies), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "`half_light_radius_arcsec` is missing" in printed.err
    assert printed.out.count("No beam of the gas is known") == 4

    def written_pairs():
        return {(m["galaxy"], m["run"]) for m in (QTable.read(f).meta for f in out.rglob("profile.ecsv"))}

    all_pairs = {(name, str(run)) for name in "AB" for run in runs}
    assert written_pairs() == all_pairs
    # One by one, in the same folder, they do not know of each other.
    for name, run in zip("AB", map(str, runs), strict=True):
        assert main(["predict", run, str(tmp_path / name / "mock.yaml"), "--out", str(out)]) == 0
    assert written_pairs() == all_pairs
    assert len(list((out / "mock").rglob("profile.ecsv"))) == 2
    # A file without gas any more leaves no profile of the gas under the name of a result.
    content["stars"] = content.pop("gas")
    described(tmp_path / "A", content | {"name": "A"})
    assert main(["predict", str(runs[0]), str(tmp_path / "A" / "mock.yaml"), "--out", str(out)]) == 2
    assert "mock.yaml: it gives other results than before, which are in" in capsys.readouterr().err
    assert {path.parent.name for path in (out / "mock").rglob("profile.ecsv")} == {"net-outdated", "net-2"}


def test_a_file_that_is_linked_into_two_folders_is_two_galaxies(tmp_path, seen, relative, monkeypatch):
    """The second, whose maps lie beside the link, was written over the first."""
    monkeypatch.setattr("kinmass.eval.observed.inference.infer", partial(infer, draws=2))
    monkeypatch.chdir(tmp_path)
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        content = write_images(tmp_path / folder, seen)
        (tmp_path / folder / "mock.yaml").symlink_to("../mock.yaml")
    described(tmp_path, content)
    (tmp_path / "same").symlink_to("A")
    written = []
    for path in ("A/mock.yaml", "B/mock.yaml", "A/mock.yaml", "same/mock.yaml"):
        assert main(["predict", str(relative.path), path, "--out", "out"]) == 0
        written.append(sorted(folder.name for folder in (tmp_path / "out" / "mock").iterdir()))
    assert written == [["gas"], ["gas", "gas-2"], ["gas", "gas-2"], ["gas", "gas-2"]]


def test_a_galaxy_that_is_refused_keeps_no_result_of_before(tmp_path, seen, relative, capsys, monkeypatch):
    monkeypatch.setattr("kinmass.eval.observed.inference.infer", partial(infer, draws=2))
    content = write_images(tmp_path, seen)
    command = ["predict", str(relative.path), str(described(tmp_path, content)), "--out", str(tmp_path / "out")]
    changes = ({}, {"half_light_radius_arcsec": 600.0, "distance_mpc": 1.0}, {}, {"distance_mpc": -1.0}, {})
    expected = [["gas"], ["gas-outdated"], ["gas", "gas-outdated"], ["gas-outdated", "gas-outdated-2"]]
    for change, folders in zip(changes, [*expected, ["gas", *expected[-1]]], strict=True):
        described(tmp_path, content | change)
        assert main(command) == (2 if change else 0)
        assert sorted(folder.name for folder in (tmp_path / "out" / "mock").iterdir()) == folders
        assert ("it gives other results than before, which are in" in capsys.readouterr().err) == bool(change)
    (tmp_path / "mock.yaml").unlink()
    assert main(command) == 2
    assert (tmp_path / "out" / "mock" / "gas").exists()


def without(*keys):
    def change(content, folder):
        for key in keys:
            content.pop(key)

    return change


def gas(**values):
    return lambda content, folder: content["gas"].update(values)


def damaged(content, folder):
    content_bytes = (folder / "velocity.fits").read_bytes()
    (folder / "velocity.fits").write_bytes(content_bytes[:2880] + content_bytes[2880:3000])


def frequency(content, folder):
    fits.setval(folder / "velocity.fits", "BUNIT", value="GHz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("gas"), "give maps of `gas`, of `stars` or of both"),
        (without("distance_mpc"), "give either distance_mpc"),
        (without("centre_deg"), "centre_deg"),
        (gas(velocity="none.fits"), "none.fits"),
        (gas(velocity="velocity.fits[VEL]"), "no extension VEL"),
        (gas(velocity="velocity.fits[0,3]"), "no plane 3"),
        (gas(velocty="velocity.fits"), "unknown key `gas.velocty`"),
        (gas(total_mass_msun=1e9), "not both"),
        (gas(within_kms=1e-6), "no pixel has"),
        (gas(max_velocity_error_kms=3.0), "needs velocity_error or velocity_ivar"),
        (gas(dispersion="mock.yaml"), "cannot be read as FITS"),
        (gas(dispersion="gone.fits"), "gone.fits: no such file"),
        (lambda content, folder: content.update(distance_mpc=-3.0), "distance_mpc"),
        (lambda content, folder: content.update(name="../../etc"), "name"),
        (lambda content, folder: content.update(half_light_radius_arcsec=float("nan")), "half_light_radius_arcsec"),
        (lambda content, folder: content.update(distance_mpc=0), "distance_mpc"),
        (lambda content, folder: content.update(centre_deg=[float("nan"), 2.0]), "centre_deg"),
        (lambda content, folder: content.update(centre_deg=[151.0, 2.0]), "are the centre and"),
        (gas(velocity_unit="m/s"), "neither a redshift"),
        (gas(velocity_unit="Hz"), "velocity_unit"),
        (frequency, "convert it to km/s"),
        (gas(bins="mock.yaml"), "cannot be read as FITS"),
        (gas(bins="velocity.fits"), "no such table"),
        (damaged, "velocity.fits"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(tmp_path, seen, relative, capsys, change, words):
    content = write_images(tmp_path, seen)
    change(content, tmp_path)
    path = described(tmp_path, content)
    assert main(["predict", str(relative.path), str(path), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_runs_and_galaxies_do_not_mix(tmp_path, relative, map_store, capsys):
    path = tmp_path / "mock.yaml"
    assert main(["predict", str(relative.path), str(path), "--store", str(map_store), "--suite", "quiet"]) == 2
    assert main(["predict", str(relative.path)]) == 2
    assert main(["predict", "--store", str(map_store), "--suite", "quiet"]) == 2
    (tmp_path / "v.fits").touch()
    assert main(["predict", str(tmp_path / "v.fits")]) == 2  # a newcomer's first try
    printed = capsys.readouterr().err
    assert f"{tmp_path}/v.fits is neither a run folder nor a YAML file" in printed
    assert printed.count("give YAML files of observed galaxies; or run folders") == 3


# ---- real ones


@pytest.fixture(scope="module")
def observed_files():
    if not (SHARED / "observed").is_dir():
        pytest.skip(f"no observed galaxies at {SHARED / 'observed'}")
    return SHARED / "observed"


@pytest.mark.parametrize(("name", "pixels"), [("NGC4310", 2000), ("NGC4451", 2000), ("NGC6278", 1500)])
def test_published_maps_are_read_and_rotate(observed_files, tmp_path, name, pixels):
    """The examples in docs/observed, on the files as published: in place, at rest, rotating, and no blank left."""
    content = yaml.safe_load((ROOT / "docs" / "observed" / f"{name}.yaml").read_text())
    for file in observed_files.glob(f"*/{name}*.fits"):
        (tmp_path / file.name).symlink_to(file)
    path = described(tmp_path, content)
    galaxy = read_galaxy(path)
    (sky,) = galaxy.maps().values()
    assert len(sky.x_arcsec) > pixels
    assert np.hypot(np.average(sky.x_arcsec, weights=sky.density), np.average(sky.y_arcsec, weights=sky.density)) < 4
    v_offset = sky.velocity_kms - sky.systemic_kms()
    gradient = np.linalg.lstsq(np.stack([sky.x_arcsec, sky.y_arcsec], 1), v_offset, rcond=None)[0]
    assert np.hypot(*gradient) > 1.0  # km/s per arcsec
    assert 3 < np.median(sky.dispersion_kms) < 250
