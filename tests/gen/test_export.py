"""FITS export, read back with astropy: masses, axes, orientation, units."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from conftest import called

from kinmass.gen.export import export, file_name
from kinmass.gen.instruments.builtin import INSTRUMENTS, instrument
from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.physics.projection import views
from kinmass.gen.storage import store
from kinmass.gen.storage.chunks import chunk_file
from kinmass.train.data.dataset import read_views

N = 4000
R_E, PIXELS = 2.0, 16
IMAGES = [name.upper() for name in store.channels()]


def disc() -> Galaxy:
    """A disc in the x-z plane, wider than the field; its +x side recedes from an observer at +z."""
    rng = np.random.default_rng(0)
    radius, angle = rng.uniform(0, 8, N), rng.uniform(0, 2 * np.pi, N)
    pos = np.stack([radius * np.cos(angle), rng.normal(0, 0.5, N), radius * np.sin(angle)], axis=1)
    vel = 150 * np.stack([np.sin(angle), np.zeros(N), -np.cos(angle)], axis=1)
    stars = Particles(pos, vel, rng.uniform(1e5, 1e6, N))
    return Galaxy(stars, replace(stars, pos_kpc=pos + np.array([0, 3.0, 0])), stars, stars)


@pytest.fixture
def disc_store(own_store: Path) -> tuple[Path, str]:
    """A store whose first galaxy's first view is the disc seen edge-on, the observer at +z; and its name."""
    group = store.open_suite(own_store, "quiet")
    turn = np.diag([1.0, 1.0, -1.0])
    group["sightline"][0, 0] = turn
    group["half_mass_radius"][0, 0] = R_E
    group["pixel_scale"][0, 0] = 6 * R_E / PIXELS
    group["maps"][0, 0] = views(disc(), turn[None], [3 * R_E], PIXELS)[0].astype(np.float32)
    return own_store, str(group["galaxy"][0])


def verified(path: Path) -> fits.HDUList:
    """Read the whole file and check it against the FITS standard; every unit must parse."""
    with fits.open(path, memmap=False) as hdus:
        hdus.verify("exception")
        for hdu in hdus[1:]:
            for key in [k for k in hdu.header if k == "BUNIT" or k.startswith(("TUNIT", "CUNIT"))]:
                u.Unit(hdu.header[key], format="fits", parse_strict="raise")
            assert hdu.data is not None
        return hdus


def test_masses_and_empty_pixels_come_back(disc_store, tmp_path):
    hdus = verified(export(disc_store[0], "quiet", disc_store[1], tmp_path, 0)[0])
    galaxy = disc()
    pixel = hdus[0].header["PIXKPC"] * u.kpc
    for tracer, particles in (("STARS", galaxy.stars), ("GAS", galaxy.gas)):
        density = hdus[f"{tracer}_DENSITY"]
        unit = u.Unit(density.header["BUNIT"], format="fits")
        inside = (np.abs(particles.pos_kpc[:, :2]) < 3 * R_E).all(axis=1)
        mass = (np.nansum(density.data.astype(float)) * unit * pixel**2).to_value("solMass")
        assert mass == pytest.approx(particles.mass_msun[inside].sum(), rel=1e-6)
        assert hdus[f"{tracer}_COUNT"].data.sum() == inside.sum()
        empty = hdus[f"{tracer}_COUNT"].data == 0
        assert 0 < empty.sum() < empty.size
        for channel in ("DENSITY", "VELOCITY", "DISPERSION"):
            np.testing.assert_array_equal(np.isnan(hdus[f"{tracer}_{channel}"].data), empty)


def test_axes_in_kpc_point_right_and_up(disc_store, tmp_path):
    hdus = verified(export(disc_store[0], "quiet", disc_store[1], tmp_path, 0)[0])
    for name in IMAGES:
        wcs = WCS(hdus[name].header)
        assert [str(unit) for unit in wcs.wcs.cunit] == ["kpc", "kpc"]
        np.testing.assert_allclose(wcs.pixel_to_world_values(7.5, 7.5), (0, 0), atol=1e-12)
        np.testing.assert_allclose(wcs.pixel_to_world_values(15, 4), (7.5 * 0.75, -3.5 * 0.75), rtol=1e-6)
    wcs, velocity = WCS(hdus["STARS_VELOCITY"].header), hdus["STARS_VELOCITY"].data
    rows, columns = np.indices(velocity.shape)
    x, _ = wcs.pixel_to_world_values(columns, rows)
    assert np.nanmean(velocity[x > 2]) > 50  # the receding side
    assert np.nanmean(velocity[x < -2]) < -50
    # The gas lies 3 kpc above the stars: upwards is y.
    _, y = WCS(hdus["GAS_DENSITY"].header).pixel_to_world_values(columns, rows)
    gas = hdus["GAS_DENSITY"].data
    assert np.nansum(gas * y) / np.nansum(gas) == pytest.approx(3, abs=0.1)


def test_on_the_sky_up_is_north_and_the_receding_side_is_west(disc_store, tmp_path):
    """x is to the right of the observer, where RA falls."""
    files = export(disc_store[0], "quiet", disc_store[1], tmp_path, 0, distance_mpc=20.0, centre_deg=(150.0, 30.0))
    hdus = verified(files[0])
    header, velocity = hdus["STARS_VELOCITY"].header, hdus["STARS_VELOCITY"].data
    assert header["CDELT1"] < 0 < header["CDELT2"]
    rows, columns = np.indices(velocity.shape)
    sky = WCS(header).pixel_to_world(columns, rows)
    assert np.nanmean(velocity[sky.ra.deg < 150]) > 50
    assert np.nanmean(velocity[sky.ra.deg > 150]) < -50
    assert (sky.dec.deg[rows > 8] > 30).all()
    expected = np.degrees(7.5 * 0.75 / 20e3)
    assert sky[7, 15].separation(WCS(header).pixel_to_world(7.5, 7)).deg == pytest.approx(expected, rel=1e-5)


def test_header_and_profile_are_the_stores(disc_store, tmp_path):
    path, galaxy = disc_store
    files = export(path, "quiet", galaxy, tmp_path, None)
    assert [p.name for p in sorted(tmp_path.glob("*fits*"))] == sorted(p.name for p in files)
    group = store.open_suite(path, "quiet")
    assert len(files) == 2
    for number, file in enumerate(files):
        hdus = verified(file)
        header = hdus[0].header
        assert (header["OBJECT"], header["SUITE"], header["VIEW"]) == (galaxy, "quiet", number)
        assert header["RE_KPC"] == group["half_mass_radius"][0, number]
        assert header["PIXKPC"] == group["pixel_scale"][0, number]
        turn = [[header[f"SIGHT{i}{j}"] for j in (1, 2, 3)] for i in (1, 2, 3)]
        np.testing.assert_array_equal(turn, group["sightline"][0, number])
        assert header["CREATOR"].startswith("kinmass ")
        assert header["MAPCOMMT"] == group.attrs["commit"]
        table = QTable.read(file, hdu="MASS_PROFILE")
        np.testing.assert_array_equal(table["RADIUS"].to_value("kpc"), group["radius"][0])
        for k, name in enumerate(store.COMPONENTS):
            np.testing.assert_array_equal(table[f"M_{name.upper()}"].to_value("solMass"), group["mass"][0, k])


@pytest.mark.parametrize("name", ["ifu", "survey", "manga"])
def test_through_an_instrument_it_is_what_evaluation_sees(name, map_store, tmp_path):
    """Also where each view is seen in a way of its own. With half the field and pixels of twice the side the header's
    scale follows.
    """
    views = read_views(map_store, "middle")
    galaxy, file = str(views.galaxy[4]), tmp_path / "s.yaml"
    file.write_text("name: s\nrebin: 2\nfield_of_view_re: 3\npsf_fwhm: {kpc: 1}\ngas: {velocity_error_kms: 5}\n")
    hdus = verified(export(map_store, "middle", galaxy, tmp_path, 1, name)[0])
    observed = views.observed(INSTRUMENTS[name])[5].numpy()
    for t, tracer in enumerate(("STARS", "GAS")):
        valid = observed[4 * t + 3] > 0
        np.testing.assert_array_equal(hdus[f"{tracer}_VALID"].data, valid)
        for c, channel in enumerate(("DENSITY", "VELOCITY", "DISPERSION")):
            expected = np.where(valid, observed[4 * t + c], np.nan)
            if name == "survey" and np.ptp(expected[valid]) == 0:  # there is none in this view
                expected[:] = np.nan
            np.testing.assert_allclose(hdus[f"{tracer}_{channel}"].data, expected, rtol=1e-3, atol=0.1)
    if name != "ifu":
        return
    fine = hdus[0].header["PIXKPC"]
    output = called(
        "gen", "export", map_store, "--suite", "middle", "--galaxy", galaxy, "--view", 1, "--out", tmp_path / "c",
        "--instrument", file,
    ).stdout  # fmt: skip
    coarse = verified(Path(output.strip()))
    assert coarse[0].header["INSTRUME"] == "s"
    assert "".join(coarse[0].header["HISTORY"]).startswith('instrument {"name":"s"')
    assert coarse["GAS_VELOCITY"].data.shape == (4, 4)
    wcs = WCS(coarse["GAS_VELOCITY"].header)
    np.testing.assert_allclose(wcs.pixel_to_world_values(1.5, 2.5), (0, 2 * fine), atol=1e-6)


def test_what_an_instrument_has_not_measured_is_no_number(map_store, tmp_path):
    """Networks are shown ones and zeros there, which were densities of 1 Msun/kpc^2 and dispersions of 0 km/s."""
    file = tmp_path / "s.yaml"
    file.write_text("name: s\nstars: {no_density: 1}\ngas: {no_dispersion: 1}\n")
    galaxy = str(read_views(map_store, "middle").galaxy[4])
    hdus = verified(export(map_store, "middle", galaxy, tmp_path, 1, str(file))[0])
    nothing = [hdu.name for hdu in hdus if hdu.is_image and hdu.data is not None and not np.isfinite(hdu.data).any()]
    assert nothing == ["STARS_DENSITY", "GAS_DISPERSION"]
    assert list(hdus[0].header["COMMENT"]) == [f"{name} was not measured in this view" for name in nothing]
    np.testing.assert_array_equal(np.isfinite(hdus["STARS_VELOCITY"].data), hdus["STARS_VALID"].data > 0)


def test_what_is_known_of_beam_and_errors_goes_with_the_maps(map_store, tmp_path):
    """As networks are told it: the beam in degrees where axes are, and errors that are known."""
    file, told = tmp_path / "s.yaml", tmp_path / "told"
    text = "name: s\nrebin: 2\npsf_fwhm: {kpc: 1}\nstars: {velocity_error_kms: 9}\ngas: {velocity_error_kms: 5"
    file.write_text(text + "}\n")
    views = read_views(map_store, "middle")
    galaxy = str(views.galaxy[4])
    expected = views.observed(instrument(str(file)), told=True)[5].numpy()
    hdus = verified(export(map_store, "middle", galaxy, told, 1, str(file), 20.0, (150.0, 30.0))[0])
    assert hdus[0].header["PSFKPC"] == pytest.approx(1, rel=1e-5)
    for hdu in [hdu for hdu in hdus[1:] if hdu.is_image]:
        axes = [hdu.header[key] for key in ("BMAJ", "BMIN", "BPA")]
        assert axes == pytest.approx([np.degrees(1 / 20e3)] * 2 + [0], rel=1e-5)
    for t, tracer in enumerate(("STARS", "GAS")):
        valid = hdus[f"{tracer}_VALID"].data > 0
        assert valid.any()
        for k, name in enumerate(("VELOCITY", "DISPERSION")):
            error = hdus[f"{tracer}_{name}_ERROR"]
            assert error.header["BUNIT"] == "km s-1"
            assert WCS(error.header).wcs.compare(WCS(hdus[f"{tracer}_{name}"].header).wcs)
            np.testing.assert_allclose(error.data, np.where(valid, expected[8 + 5 * t + k], np.nan), rtol=1e-3)
    assert np.nanmin(hdus["STARS_VELOCITY_ERROR"].data) >= 9
    assert "BMAJ" not in verified(export(map_store, "middle", galaxy, tmp_path / "kpc", 1, str(file))[0])[1].header
    file.write_text(text + ", unknown_errors: 1, density_dex: 0.3}\nunknown_psf: 1\n")
    hidden = verified(export(map_store, "middle", galaxy, tmp_path / "hidden", 1, str(file), 20.0)[0])
    assert [hdu.name for hdu in hidden if hdu.name.endswith("ERROR")] == [
        "STARS_VELOCITY_ERROR",
        "STARS_DISPERSION_ERROR",
    ]
    assert not {"PSFKPC", "BMAJ"} & {key for hdu in hidden for key in hdu.header}
    assert list(hidden[0].header["COMMENT"]) == [
        "GAS_DENSITY is known to 0.3 dex: a factor on all of it",
        "errors of GAS_VELOCITY are not known in this view",
        "errors of GAS_DISPERSION are not known in this view",
        "the PSF is not known in this view",
    ]
    assert not [hdu for hdu in verified(export(map_store, "middle", galaxy, tmp_path, 1)[0]) if "ERROR" in hdu.name]


def test_names_of_any_length_and_letters(own_store, tmp_path):
    names, galaxy = store.open_suite(own_store, "quiet")["galaxy"], "Fornax/" + "snapshot_" * 12 + "ü:\t7"
    names[:] = np.array([galaxy, *names[:][1:]], dtype=np.dtypes.StringDType())
    file = export(own_store, "quiet", galaxy, tmp_path / "fits", 0)[0]
    assert verified(file)[0].header["OBJECT"] == galaxy.replace("ü", "\\xfc").replace("\t", "\\t")
    assert file.parent == tmp_path / "fits"


def test_no_two_views_share_a_file():
    names = ["a:1", "a_1", "a/1", "a.1", "a%3A1", "a 1", "ä1", "a.view1", "x" * 400 + "1", "x" * 400 + "2", "a:1.view0"]
    files = [file_name(suite, name, view) for suite in ("s", "s_a", "s_a-1") for name in names for view in (0, 1)]
    assert len(set(files)) == len(files)
    assert all(len(name) < 240 and re.fullmatch(r"[A-Za-z0-9_.~%-]+\.fits", name) for name in files)
    assert file_name("quiet", "snap_099:0", 3) == "quiet.snap_099%3A0.view3.fits"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "nosuch"], "no suite 'nosuch'"),
        (["--galaxy", "nosuch"], "no galaxy 'nosuch'; it has "),
        (["--view", "7"], "has 2 views, numbered from 0; --view 7 is none of them"),
        (["--view", "-1"], "a number or all"),
        (["--instrument", "hubble"], "clean, ifu"),
        (["--distance-mpc", "0"], "--distance-mpc must be a positive number, not 0"),
        (["--ra", "10"], "need --distance-mpc"),
        (["--distance-mpc", "10", "--dec", "100"], "--dec from -90 to 90"),
    ],
)
def test_what_cannot_be_exported_is_said(options, words, map_store, tmp_path, capsys):
    from kinmass.gen.__main__ import main

    galaxy = str(store.open_suite(map_store, "quiet")["galaxy"][0])
    line = ["export", map_store, "--suite", "quiet", "--galaxy", galaxy, "--out", tmp_path / "out", *options]
    assert main([str(x) for x in line]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.glob("out/*"))


def test_a_galaxy_without_maps_is_refused(own_store, tmp_path):
    group = store.open_suite(own_store, "quiet")
    group["status"][2] = store.FAILED
    with pytest.raises(store.StoreError, match="has no maps"):
        export(own_store, "quiet", str(group["galaxy"][2]), tmp_path / "fits")


@pytest.mark.parametrize("name", ["maps", "half_mass_radius", "sightline", "pixel_scale", "radius", "mass", "status"])
def test_a_galaxy_of_which_a_file_is_missing_or_damaged_is_not_exported(own_store, tmp_path, name):
    group = store.open_suite(own_store, "quiet")
    file = chunk_file(group[name], (2, *(0,) * (group[name].ndim - 1)))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(store.StoreError, match=f"{name} of galaxy .* cannot be read"):
        export(own_store, "quiet", str(group["galaxy"][2]), tmp_path / "fits")
    file.unlink()
    with pytest.raises(store.StoreError, match="was never written, or deleted" if name != "status" else "has no maps"):
        export(own_store, "quiet", str(group["galaxy"][2]), tmp_path / "fits")
    assert not list(tmp_path.glob("fits/*"))


def test_an_export_of_something_else_is_never_written_over(map_store, own_store, tmp_path, capsys):
    """Galaxies of two stores have the same names, and so have views through two instruments."""
    from kinmass.gen.__main__ import main

    out, here = tmp_path / "fits", map_store.resolve()
    galaxy = str(store.open_suite(map_store, "quiet")["galaxy"][0])

    def exported(path: Path, *options: str) -> int:
        line = ["export", path, "--suite", "quiet", "--galaxy", galaxy, "--view", "all", "--out", out, *options]
        return main([str(x) for x in line])

    assert exported(map_store) == 0
    files = {path: path.read_bytes() for path in out.iterdir()}
    assert len(files) == 2
    for line, words in (
        ((own_store,), f"view0.fits is there already, of the store {here}; give another folder as --out"),
        ((map_store, "--instrument", "ifu"), "of another instrument or place on the sky"),
        ((map_store, "--distance-mpc", "10"), "of another instrument or place on the sky"),
    ):
        capsys.readouterr()
        assert exported(*line) == 2
        assert words in capsys.readouterr().err
        assert {path: path.read_bytes() for path in out.iterdir()} == files
    # The same again, by whatever path, is written anew; also after a kill that left one of two.
    next(iter(files)).unlink()
    (tmp_path / "link.zarr").symlink_to(map_store)
    assert exported(tmp_path / "link.zarr") == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == files
    # Views that the store had before it was made anew with fewer of them would pass for views of the new one.
    old, others = (
        out / file_name("quiet", galaxy, 7),
        [out / "quiet.mine.view7.fits", out / file_name("quiet", galaxy, 8)],
    )
    for path in (old, others[0]):
        path.write_bytes(files[out / file_name("quiet", galaxy, 1)])
    others[1].write_text("notes")
    assert exported(map_store) == 0
    assert {*out.iterdir()} == {*files, *others}
    # What is no export at all is somebody's.
    (out / file_name("quiet", galaxy, 1)).write_text("notes")
    assert exported(map_store) == 2
    assert (out / file_name("quiet", galaxy, 1)).read_text() == "notes"
