"""Observers' files: whatever units, grids, numbers and headers they are written with, the galaxy is the same."""

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from conftest import galaxy_file

from kinmass.eval.observed import fits_maps
from kinmass.eval.observed.galaxy import read_galaxy
from kinmass.eval.observed.grids import spaxel_side, tiled
from kinmass.eval.observed.places import claim, elsewhere, labels, set_outdated_aside, write_beside
from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC, regrid
from kinmass.gen.storage.files import PARTIAL

P, SIDE, DISTANCE = 40, 0.8, 20.0
IY, IX = np.indices((P, P))
X, Y = SIDE * (IX - 0.5 * (P - 1)), SIDE * (IY - 0.5 * (P - 1))
R = np.hypot(X, Y / 0.7)
SEEN = R < 14
# The view has no symmetry, so that a map that is mirrored, turned or moved is another.
MAPS = {
    "density": np.where(SEEN, 1e8 * np.exp(-R / 5 + 0.02 * X), np.nan),
    "velocity": np.where(SEEN, 1500 + 120 * np.tanh((X + 0.4 * Y) / 4), np.nan),
    "dispersion": np.where(SEEN, 30 + 2 * Y + 40 * np.exp(-R / 4), np.nan),
}
UNITS = {"density": "solMass kpc-2", "velocity": "km/s", "dispersion": "km/s"}


def sky_header(**changes):
    step = SIDE / 3600
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CRVAL1": 150.0,
             "CRVAL2": 40.0, "CRPIX1": 0.5 * (P + 1), "CRPIX2": 0.5 * (P + 1), "CD1_1": -step, "CD1_2": 0.0,
             "CD2_1": 0.0, "CD2_2": step, "RADESYS": "ICRS"}  # fmt: skip
    return fits.Header(cards | changes)


def put(folder, key, values, header=None, unit=None):
    header = sky_header() if header is None else header.copy()
    if unit or key in UNITS:
        header["BUNIT"] = unit or UNITS[key]
    fits.PrimaryHDU(values, header).writeto(folder / f"{key}.fits", overwrite=True)


def images(folder, without=(), top=None, **keys):
    """The galaxy as images, described."""
    for key, values in MAPS.items():
        if not (folder / f"{key}.fits").exists():
            put(folder, key, values)
    files = {key: f"{key}.fits" for key in MAPS} | {"density_msun_kpc2": 1.0} | keys
    return described(folder, {k: v for k, v in files.items() if k not in without}, top)


def table(folder, values=None, x=None, y=None, x_unit=None, top=None, **keys):
    """The galaxy as a table, described."""
    values = MAPS if values is None else values
    x, y = X if x is None else x, Y if y is None else y
    columns = [fits.Column(n, "D", array=np.ravel(v), unit=x_unit) for n, v in (("X", x), ("Y", y))]
    columns += [fits.Column(key, "D", array=np.ravel(v), unit=UNITS.get(key)) for key, v in values.items()]
    fits.BinTableHDU.from_columns(columns).writeto(folder / "table.fits", overwrite=True)
    return described(folder, {"table": "table.fits"} | {k: k for k in MAPS} | keys, {"centre_deg": None} | (top or {}))


def described(folder, gas, top=None):
    content = {"name": "disc", "distance_mpc": DISTANCE, "half_light_radius_arcsec": 8.0, "centre_deg": [150.0, 40.0]}
    return galaxy_file(folder / "disc.yaml", content | (top or {}) | {"gas": gas})


def assert_refused(path, words):
    """A galaxy's file is refused in these words."""
    with pytest.raises(ValueError, match=words):
        read_galaxy(path)


def mismatches(path, seen=SEEN, density=1.0, rtol=1e-5, mirrored=-1):
    """What differs, in words, between the galaxy of a file and the one above where it is seen; empty for the same."""
    sky = read_galaxy(path).gas
    visible = seen.ravel()
    if len(sky.x_arcsec) != visible.sum():
        return [f"{len(sky.x_arcsec)} pixels, not {visible.sum()}"]
    order = np.lexsort((np.round(sky.x_arcsec, 2), np.round(sky.y_arcsec, 2)))
    true_x, true_y = mirrored * X.ravel()[visible], Y.ravel()[visible]
    true_order = np.lexsort((np.round(true_x, 2), np.round(true_y, 2)))
    true_maps = {key: values.ravel()[visible] for key, values in MAPS.items()}
    compared = {
        "x": (sky.x_arcsec, true_x, 1e-7, 0.03),
        "y": (sky.y_arcsec, true_y, 1e-7, 0.03),
        "density": (sky.density / density, true_maps["density"], rtol, 0.0),
        "velocity": (sky.velocity_kms, true_maps["velocity"], rtol, 0.0),
        "dispersion": (sky.dispersion_kms, true_maps["dispersion"], rtol, 0.0),
    }
    found = [] if abs(sky.side_arcsec / SIDE - 1) <= 2e-3 else [f"pixels of {sky.side_arcsec} arcsec, not {SIDE}"]
    for key, (values, true_values, relative, absolute) in compared.items():
        error = np.abs(values[order] - true_values[true_order])
        allowed = absolute + relative * np.abs(true_values[true_order])
        if not (error <= allowed).all():
            found.append(f"{key} differs in {np.count_nonzero(~(error <= allowed))} pixels, by up to {error.max():.4g}")
    return found


# ---- units


def test_the_plain_files_are_the_galaxy(tmp_path):
    assert mismatches(images(tmp_path)) == []
    assert "gas" in read_galaxy(images(tmp_path)).calibrated
    assert mismatches(table(tmp_path), mirrored=1) == []


def test_maps_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    images(tmp_path)
    (tmp_path / "velocity.fits").rename(tmp_path / "home" / "v.fits")
    assert mismatches(images(tmp_path, velocity="~/v.fits")) == []


@pytest.mark.parametrize("key", ["velocity", "dispersion"])
@pytest.mark.parametrize(
    ("unit", "of_one"), [("m/s", 1e-3), ("M S-1", 1e-3), ("10^3 m/s", 1), ("kpc/Gyr", 0.97779222168)]
)
def test_a_velocity_in_any_unit(tmp_path, key, unit, of_one):
    put(tmp_path, key, MAPS[key] / of_one, unit=unit)
    assert mismatches(images(tmp_path)) == []


KPC = DISTANCE * KPC_PER_ARCSEC_MPC  # of an arcsec
KPC2_PIXEL = (SIDE * KPC) ** 2
DENSITIES = [
    ("solMass pc-2", lambda d: d / 1e6), ("Msun/pc^2", lambda d: d / 1e6), ("MSUN/PC2", lambda d: d / 1e6),
    ("M_odot pc^-2", lambda d: d / 1e6),
    ("g/cm2", lambda d: d / 4788452460.043275), ("dex(solMass kpc-2)", np.log10),
    ("dex(Msun/pc2)", lambda d: np.log10(d) - 6),
    ("log10(Msun/pc^2)", lambda d: np.log10(d) - 6), ("log(m_sun/spaxels^2)", lambda d: np.log10(d * KPC2_PIXEL)),
    ("Msun/arcsec2", lambda d: d * KPC2_PIXEL / SIDE**2), ("Msun / pixel", lambda d: d * KPC2_PIXEL),
    ("dB(Msun/kpc2)", lambda d: 10 * np.log10(d)), ("ln(Msun/pc2)", lambda d: np.log(d / 1e6)),
]  # fmt: skip


@pytest.mark.parametrize(("unit", "written"), DENSITIES)
@pytest.mark.parametrize("as_table", [False, True])
def test_a_mass_per_area_in_any_unit_is_in_msun_per_kpc2(tmp_path, unit, written, as_table):
    if as_table:
        path = table(tmp_path, MAPS | {"density": written(MAPS["density"])}, density_unit=unit)
    else:
        put(tmp_path, "density", written(MAPS["density"]), unit=unit)
        assert mismatches(images(tmp_path, density_msun_kpc2=1.0)) == []  # the factor agrees with the unit
        path = images(tmp_path, without=["density_msun_kpc2"])
    assert mismatches(path, mirrored=1 if as_table else -1) == []
    assert "gas" in read_galaxy(path).calibrated


@pytest.mark.parametrize(
    "unit",
    ["mag/arcsec2", "mag arcsec^-2", "ABmag/arcsec^2", "mag(AB/arcsec2)", "MAG/SQARCSEC", "mag"],
)
def test_magnitudes_are_light(tmp_path, unit):
    put(tmp_path, "density", 40 - 2.5 * np.log10(MAPS["density"]), unit=unit)
    total = np.nansum(MAPS["density"]) * KPC2_PIXEL
    assert mismatches(images(tmp_path, without=["density_msun_kpc2"], total_mass_msun=float(total))) == []
    path = images(tmp_path, without=["density_msun_kpc2"])
    assert mismatches(path, density=1e-16) == []
    assert not read_galaxy(path).calibrated
    assert_refused(images(tmp_path), "total_mass_msun")


@pytest.mark.parametrize(
    "unit",
    ["Jy/beam km/s", "JY/B*M/S", "K.KM/S", "K", "1E-17 erg/s/cm^2/spaxel", "10**(-16) erg/s/cm2/ang", "counts", "adu/s",
     "nanomaggies", "Lsun/pc2", "cm-2", "MJy/sr", "electrons/s", "arbitrary", "arb. units", "1e20 atoms/cm2", ""],
)  # fmt: skip
def test_light_in_any_linear_unit_is_taken_as_it_is(tmp_path, unit):
    put(tmp_path, "density", MAPS["density"], unit=unit or " ")
    assert mismatches(images(tmp_path)) == []
    path = images(tmp_path, without=["density_msun_kpc2"])
    assert mismatches(path) == []
    assert not read_galaxy(path).calibrated


@pytest.mark.parametrize(
    ("key", "unit", "words"),
    [
        ("density", "furlongs", "density_unit"), ("density", "[Msun/pc2]", "density_unit"),
        ("density", "Msun/pc2 (log)", "density_unit"),
        ("density", "dex Msun / kpc2 / mag", "density_unit"), ("density", "mmag", "density_unit"),
        ("density", "mag-1", "density_unit"), ("density", "km/s", "a velocity"), ("density", "Angstrom", "a length"),
        ("density", "arcsec", "an angle"), ("velocity", "dex(km/s)", "velocity_unit"),
        ("velocity", "GHz", "velocity_unit"), ("velocity", "furlongs", "velocity_unit"),
        ("dispersion", "Angstrom", "dispersion_unit"), ("dispersion", "dex(km/s)", "dispersion_unit"),
        ("dispersion", "mag", "dispersion_unit"),
    ],
)  # fmt: skip
def test_what_is_not_known_or_another_quantity_is_refused_with_the_key(tmp_path, key, unit, words):
    put(tmp_path, key, MAPS[key], unit=unit)
    assert_refused(images(tmp_path), f"{key}.fits.*{words}")


def test_what_a_key_says_of_a_unit_goes_before_what_the_file_says(tmp_path):
    put(tmp_path, "density", np.log10(MAPS["density"]) - 6, unit="furlongs")
    put(tmp_path, "dispersion", MAPS["dispersion"] * 1e3, unit="JY/BEAM")  # a second moment with the cube's unit
    assert mismatches(images(tmp_path, density_unit="dex(Msun/pc2)", dispersion_unit="m/s")) == []
    put(tmp_path, "velocity", MAPS["velocity"] * 1e3, unit="JY/BEAM")
    assert mismatches(images(tmp_path, density_unit="dex(Msun/pc2)", velocity_unit="m/s")) == []
    put(tmp_path, "dispersion", MAPS["dispersion"])
    with pytest.raises(ValueError, match=r"dispersion.fits is in 'km/s' .* say dispersion_unit"):
        read_galaxy(images(tmp_path, density_unit="dex(Msun/pc2)", velocity_unit="m/s"))
    assert mismatches(images(tmp_path, density_unit="dex(Msun/pc2)", velocity_unit="m/s", dispersion_unit="km/s")) == []


#: Errors of the galaxy above, and an instrument's width that is hardly one.
WIDTHS = {"dispersion": MAPS["dispersion"], "velocity_error": 5 + 0 * X, "dispersion_error": 7 + 0 * X,
          "instrument_sigma": 1e-3 + 0 * X}  # fmt: skip


@pytest.mark.parametrize("key", WIDTHS)
@pytest.mark.parametrize("as_table", [False, True])
def test_a_unit_that_is_said_of_velocities_is_none_of_a_width_in_another(tmp_path, key, as_table):
    """Said of a V in 'km/s LSRK', it had a dispersion, an error or the instrument's width in Angstrom be km/s."""

    def read(unit, velocity="km/s LSRK", **keys):
        maps = MAPS | {key: WIDTHS[key]}
        if as_table:
            path = table(tmp_path, maps, **({key: key} | keys))
            fits.setval(tmp_path / "table.fits", f"TUNIT{3 + list(maps).index('velocity')}", value=velocity, ext=1)
            fits.setval(tmp_path / "table.fits", f"TUNIT{3 + list(maps).index(key)}", value=unit or "", ext=1)
        else:
            put(tmp_path, "velocity", MAPS["velocity"], unit=velocity)
            put(tmp_path, key, WIDTHS[key], unit=unit or " ")
            path = images(tmp_path, **({key: f"{key}.fits"} | keys))
        assert mismatches(path, mirrored=1 if as_table else -1) == []
        sky = read_galaxy(path).gas
        for name in ("velocity_error", "dispersion_error"):
            assert key != name or np.median(getattr(sky, f"{name}_kms")) == pytest.approx(WIDTHS[name][0, 0], rel=1e-3)

    with pytest.raises(ValueError, match=r"in .km/s LSRK., which is no velocity"):
        read("km/s")
    for unit in (None, "KM/S", "km/s LSRK", "1"):
        read(unit, velocity_unit="km/s")
    for unit in ("Angstrom", "dex(km/s)"):
        with pytest.raises(ValueError, match=rf"{key}\S* is in '{re.escape(unit)}', which is no velocity: convert it"):
            read(unit, velocity_unit="km/s")
        read(unit, velocity=unit, velocity_unit="km/s")  # wrong in one header as in the other
    own = {"dispersion": "dispersion_unit", "instrument_sigma": None}.get(key, "velocity_error_unit")
    if own is not None:
        read("Angstrom", velocity_unit="km/s", **{own: "km/s"})


@pytest.mark.parametrize("key", ["instrument_sigma", "dispersion_error", "dispersion_ivar"])
@pytest.mark.parametrize(
    ("in_file", "of_dispersion", "km_s"),
    [("km/s", " ", 1.0), ("km/s", "Jy", 1.0), ("m/s", "km/s", 1e-3), (" ", " ", 1e-3), ("furlongs", "Jy", 1e-3),
     ("km/s", "km/s", 1e-3), ("Jy", "Jy", 1e-3)],
)  # fmt: skip
def test_the_unit_that_a_file_tells_goes_before_that_of_another_map(tmp_path, key, in_file, of_dispersion, km_s):
    """Of an instrument's width of 70 km/s by its header, .07 were taken out where the dispersion was said to be in m/s.

    Where the dispersion's own header tells what its key contradicts, the same unit in the other's is as wrong.
    """
    width, keys = 4.0 + IX % 2, {"dispersion_unit": "m/s", key: "w.fits"}
    sigma = np.hypot(MAPS["dispersion"], width if key == "instrument_sigma" else 0.0)
    put(tmp_path, "dispersion", 1e3 * sigma, unit=of_dispersion)
    if key == "dispersion_ivar":
        put(tmp_path, "w", (width / km_s) ** -2, unit=f"({in_file})^-2" if in_file != " " else in_file)
        if in_file in ("km/s", "Jy") and of_dispersion == in_file:
            return  # an inverse variance is in another unit than the dispersion anyway
    else:
        put(tmp_path, "w", width / km_s, unit=in_file)
    path = images(tmp_path, **keys)
    assert mismatches(path) == []
    if key != "instrument_sigma":
        np.testing.assert_allclose(read_galaxy(path).gas.dispersion_error_kms, width[SEEN])
    # What is said of V's errors is said of the dispersion's where there are none of V.
    put(tmp_path, "velocity_error", 5e3 + 0 * X, unit=" ")
    of_both = {"velocity_error": "velocity_error.fits", "velocity_error_unit": "m/s", "velocity_unit": "km/s"}
    if key != "instrument_sigma" and km_s == 1:
        read = read_galaxy(images(tmp_path, **keys, **of_both)).gas
        np.testing.assert_allclose(read.dispersion_error_kms, width[SEEN])


def test_two_values_of_one_unit_are_refused(tmp_path):
    put(tmp_path, "density", MAPS["density"] / 1e6, unit="Msun/pc2")
    assert mismatches(images(tmp_path, density_msun_kpc2=1e6)) == []
    assert_refused(images(tmp_path, density_msun_kpc2=1.36), r"density_msun_kpc2 says 1\.36")
    assert mismatches(images(tmp_path, density_msun_kpc2=1.36e6, density_unit="arbitrary"), density=1.36) == []


def test_zeros_of_a_logarithm_are_not_bright(tmp_path):
    put(tmp_path, "density", np.nan_to_num(np.log10(MAPS["density"])), unit="dex(Msun/kpc2)")
    assert_refused(images(tmp_path), "blank: 0")
    assert mismatches(images(tmp_path, blank=0.0)) == []


@pytest.mark.parametrize("as_ivar", [False, True])
@pytest.mark.parametrize(("unit", "of_one"), [("m/s", 1e-3), ("km/s", 1.0), (None, 1.0)])
def test_errors_of_any_unit(tmp_path, as_ivar, unit, of_one):
    error = np.where(IX % 3 == 0, 25.0, 5.0)
    values, key = error / of_one, "velocity_error"
    if as_ivar:
        values, key, unit = values**-2, "velocity_ivar", unit and f"({unit})^{{-2}}"
    put(tmp_path, key, values, unit=unit)
    path = images(tmp_path, **{key: f"{key}.fits"}, max_velocity_error_kms=20.0)
    assert mismatches(path, seen=SEEN & (IX % 3 != 0)) == []


def test_the_instruments_width_as_a_map(tmp_path):
    width = 10.0 + 5 * (IX % 2)
    put(tmp_path, "dispersion", np.hypot(MAPS["dispersion"], width))
    put(tmp_path, "lsf", 1e3 * width, unit="m/s")
    assert mismatches(images(tmp_path, instrument_sigma="lsf.fits")) == []


# ---- blanks


def cube(folder, planes, **cards):
    """A cube of planes [(key, values)], with text cards; PLANES in it stands for a number of each."""
    header = sky_header()
    for name, texts in cards.items():
        for number, text in texts.items():
            header[f"{name}{number:02d}" if name == "C" else f"{name}{number}"] = text
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.stack(planes), header, name="MAPS")]).writeto(
        folder / "cube.fits", overwrite=True
    )


@pytest.mark.parametrize(("cards", "first"), [("C", 1), ("DESC_", 0), ("NAME", 0)])
def test_planes_have_the_names_and_units_that_headers_give_them(tmp_path, cards, first):
    planes = [MAPS["velocity"] / 2, MAPS["velocity"], MAPS["dispersion"], 1 + 0 * MAPS["velocity"]]
    called = ["other", "Ha-6564", "disp Ha", "e_disp error"]
    numbered = {cards: {i + first: text for i, text in enumerate(called)}}
    cube(tmp_path, planes, **numbered)
    for velocity, sigma in (("1", "2"), ("Ha-6564", "disp Ha")):
        path = images(tmp_path, velocity=f"cube.fits[MAPS,{velocity}]", dispersion=f"cube.fits[MAPS, {sigma} ]")
        assert mismatches(path) == []
        words = "Planes of the gas as headers call them: velocity 'Ha-6564'; dispersion 'disp Ha'."
        assert words in read_galaxy(path).remarks
    assert_refused(images(tmp_path, velocity="cube.fits[MAPS,Hb]"), "no plane Hb; there are other, Ha-6564")
    assert_refused(images(tmp_path, velocity="cube.fits[MAPS]"), r"choose a plane, .* there are other, Ha-6564")
    with pytest.raises(ValueError, match=r"dispersion .* is called an error \(e_disp error\)"):
        read_galaxy(images(tmp_path, dispersion="cube.fits[MAPS,3]"))
    for unit_cards in ("UNIT", "UNITS_"):
        units = {unit_cards: {first: "Angstrom", first + 1: "m/s", first + 2: "Angstrom", first + 3: "km/s"}}
        cube(tmp_path, [planes[0], 1e3 * planes[1], *planes[2:]], **numbered, **units)
        assert mismatches(images(tmp_path, velocity="cube.fits[MAPS,1]")) == []
        with pytest.raises(ValueError, match="is in 'Angstrom', which is no velocity"):
            read_galaxy(images(tmp_path, velocity="cube.fits[MAPS,1]", dispersion="cube.fits[MAPS,2]"))


def test_cards_of_axes_are_no_names_of_planes(tmp_path):
    cube(tmp_path, [MAPS["velocity"]] * 3, CTYPE={3: "VELO"}, CUNIT={3: "m/s"})
    path = images(tmp_path, velocity="cube.fits[MAPS,2]")
    assert mismatches(path) == []
    assert not any("Planes" in remark for remark in read_galaxy(path).remarks)
    assert_refused(images(tmp_path, velocity="cube.fits[MAPS,Ha]"), "no plane Ha; give its number, from 0 to 2")


@pytest.mark.parametrize(
    ("unit", "factor", "as_table"), [("km2 / s2", 1.0, True), ("km^2 s^-2", 1.0, False), ("m2 s-2", 1e6, False)]
)
@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_a_second_moment_may_be_a_variance(tmp_path, unit, factor, by_key, told, as_table):
    """Of its error, where that had no unit, nothing was divided by 2 sigma; and no key could say such a unit."""
    error = np.where(SEEN, 2.0 + 0.1 * R, np.nan)
    own, of_errors = (" " if by_key else unit), (unit if told else " ")
    written = {"dispersion": (factor * MAPS["dispersion"] ** 2, own)}
    written["dispersion_error"] = 2 * factor * MAPS["dispersion"] * error, of_errors
    written["dispersion_ivar"] = written["dispersion_error"][0] ** -2.0, f"({unit})^-2" if told else " "
    keys = {"dispersion_unit": unit} if by_key else {}

    def read(without, **more):
        values = {key: pair for key, pair in written.items() if key != without}
        if as_table:
            path = table(tmp_path, MAPS | {key: value for key, (value, _) in values.items()}, **keys, **more)
            for i, column in enumerate(fits.getdata(tmp_path / "table.fits").names):
                if column in values:
                    fits.setval(tmp_path / "table.fits", f"TUNIT{i + 1}", value=values[column][1], ext=1)
        else:
            for key, (value, own_unit) in values.items():
                put(tmp_path, key, value, unit=own_unit)
            more = {key: f"{name}.fits" if name in values else name for key, name in more.items()}
            path = images(tmp_path, **keys, **more)
        assert mismatches(path, mirrored=1 if as_table else -1) == []
        return read_galaxy(path).gas

    assert read("dispersion_ivar").dispersion_error_kms is None
    for key, other in (("dispersion_error", "dispersion_ivar"), ("dispersion_ivar", "dispersion_error")):
        np.testing.assert_allclose(read(other, **{key: key}).dispersion_error_kms, error[SEEN])
    written["dispersion_error"] = error, "km/s"  # of sigma itself
    np.testing.assert_allclose(
        read("dispersion_ivar", dispersion_error="dispersion_error").dispersion_error_kms, error[SEEN]
    )
    with pytest.raises(ValueError, match="which is no velocity"):
        read("dispersion_ivar", dispersion_is="fwhm")


def test_the_error_of_a_variance_of_nothing_is_finite(tmp_path):
    sigma = np.where(SEEN, np.where(IX % 2, 0.02 + 1e-3 * R, 30 + R), np.nan)
    put(tmp_path, "dispersion", sigma**2, unit="km2/s2")
    half = 16 + R
    put(tmp_path, "e", 2 * half, unit=" ")
    found = read_galaxy(images(tmp_path, dispersion_error="e.fits")).gas.dispersion_error_kms
    np.testing.assert_allclose(found, np.where(IX % 2, np.sqrt(half), half / (30 + R))[SEEN])


def test_a_key_may_say_that_an_error_is_a_variance(tmp_path):
    put(tmp_path, "e", 25.0 + 0 * X, unit=" ")
    keys = {"velocity_error": "e.fits", "velocity_error_unit": "km2/s2"}
    np.testing.assert_allclose(read_galaxy(images(tmp_path, **keys)).gas.velocity_error_kms, 5.0)
    for wrong in ({"velocity_ivar": "e.fits", "velocity_error": None}, {"velocity_error_unit": "km/s2"}):
        with pytest.raises(ValueError, match=r"velocity_error is in 'km2?/s2', which is no velocity"):
            read_galaxy(images(tmp_path, **{k: v for k, v in (keys | wrong).items() if v is not None}))


def test_a_mask_of_a_small_field_is_not_taken_for_one_of_good_pixels(tmp_path):
    """Outside, where zeros were written or no weight is, no pixel is lost to it."""
    outside = R > 4
    put(tmp_path, "mask", outside.astype(np.int16))
    for zero in ("velocity", "velocity_ivar"):
        put(tmp_path, "velocity", np.where(outside & (zero == "velocity"), 0.0, MAPS["velocity"]))
        put(tmp_path, "velocity_ivar", np.where(outside, 0.0, 0.1))
        path = images(tmp_path, mask="mask.fits", velocity_ivar="velocity_ivar.fits")
        assert mismatches(path, seen=~outside) == []
        assert not any("mask_is" in remark for remark in read_galaxy(path).remarks)


def test_a_blank_of_zero_is_none_of_a_mask(tmp_path):
    bad = (IY < 12).astype(np.int32)
    for key, values in MAPS.items():
        put(tmp_path, key, np.nan_to_num(np.where(bad, 0.0, values)))
    put(tmp_path, "mask", bad)
    for keys in ({"mask": "mask.fits"}, {"blank": 0.0}, {"blank": 0.0, "mask": "mask.fits"}):
        assert mismatches(images(tmp_path, **keys), seen=SEEN & (bad == 0)) == []


@pytest.mark.parametrize("blank", [0.0, -999.9, 1e20])
def test_a_blank_is_no_faint_light(tmp_path, blank):
    """Densities in erg/s/cm2 are as small as 1e-17; a blank in single precision is not the number as written."""
    faint = np.where(SEEN, 1e-25 * MAPS["density"], blank)
    put(tmp_path, "density", faint.astype(np.float32), unit="erg/s/cm2")
    for key in ("velocity", "dispersion"):
        put(tmp_path, key, np.where(SEEN, MAPS[key], blank).astype(np.float32))
    assert mismatches(images(tmp_path, blank=blank), density=1e-25) == []


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_null_of_integers_and_a_mask_of_truths(tmp_path, scale):
    stored = np.where(SEEN, np.round((MAPS["velocity"] - 1500) / scale), -32768)  # blank ones were 1500 - 16384 km/s
    columns = [
        fits.Column(n, "D", array=np.ravel(v))
        for n, v in (("X", X), ("Y", Y), ("F", np.where(SEEN, MAPS["density"], 1.0)))
    ]
    columns += [fits.Column("V", "I", array=stored.ravel().astype(np.int16), null=-32768),
                fits.Column("BAD", "L", array=(X < 0).ravel())]  # fmt: skip
    table = fits.BinTableHDU.from_columns(columns)
    table.header["TSCAL4"], table.header["TZERO4"] = scale, 1500.0
    table.writeto(tmp_path / "t.fits")
    files = {"table": "t.fits", "velocity": "V", "density": "F", "mask": "BAD"}
    sky = read_galaxy(described(tmp_path, files, {"centre_deg": None})).gas
    assert len(sky.velocity_kms) == (SEEN & (X > 0)).sum()
    assert sky.velocity_kms.min() > 1300


@pytest.mark.parametrize("unsaid", ["", "-999", "null"])
@pytest.mark.parametrize("form", ["I6", "F8.1"])
def test_an_empty_field_of_an_ascii_table_is_no_zero(unsaid, form, tmp_path):
    values = np.where(SEEN, np.round(MAPS["velocity"]), 77777).ravel()
    columns = [
        fits.Column(n, "D25.16", array=np.ravel(v))
        for n, v in (("X", X), ("Y", Y), ("F", np.where(SEEN, MAPS["density"], 1.0)))
    ]
    columns.append(fits.Column("V", form, array=values.astype(int) if form == "I6" else values, null=unsaid or None))
    fits.TableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    content = (tmp_path / "t.fits").read_bytes()
    written = b" 77777" if form == "I6" else b" 77777.0"
    assert content.count(written) == (~SEEN).sum()
    (tmp_path / "t.fits").write_bytes(content.replace(written, unsaid.rjust(len(written)).encode()))
    files = {"table": "t.fits", "velocity": "V", "density": "F"}
    sky = read_galaxy(described(tmp_path, files, {"centre_deg": None})).gas
    assert len(sky.velocity_kms) == SEEN.sum()
    assert np.abs(np.sort(sky.velocity_kms) - np.sort(values[SEEN.ravel()])).max() < 1e-3


# ---- grids


def flipped(values, header):
    header["CD1_1"] *= -1
    return values[:, ::-1], header


def moved(values, header):
    header["CRPIX1"] += 6
    return np.pad(values, ((0, 0), (6, 0)), constant_values=values.dtype.type(0))[:, :P], header


def larger(values, header):
    header["CRPIX1"] += 3
    header["CRPIX2"] += 5
    return np.pad(values, ((5, 2), (3, 8)), constant_values=values.dtype.type(0)), header


def turned(values, header):
    step = SIDE / 3600
    header.update({"CD1_1": 0.0, "CD1_2": step, "CD2_1": step, "CD2_2": 0.0})
    return np.ascontiguousarray(values[::-1].T[:, ::-1][::-1]), header


def with_grid(change, values):
    values, header = change(values, sky_header())
    return values, header


@pytest.mark.parametrize("change", [flipped, moved, larger, turned])
@pytest.mark.parametrize("key", ["density", "dispersion", "mask", "velocity_error", "velocity_ivar", "bin"])
def test_an_image_on_a_grid_of_its_own_is_brought_onto_that_of_the_velocity(tmp_path, key, change):
    kept = SEEN & (R < 10) & (X > -7)
    if change is turned:  # as the WCS has it, not as this test does
        header_of_turned = sky_header()
        _, header_of_turned = change(np.zeros((P, P)), header_of_turned)
        x, y = WCS(sky_header()).world_to_pixel(WCS(header_of_turned).pixel_to_world(IX, IY))
        nearest_pixel = np.round(y).astype(int), np.round(x).astype(int)
        regridded = lambda v: (v[nearest_pixel], header_of_turned)  # noqa: E731
    else:
        regridded = lambda v: with_grid(change, v)  # noqa: E731
    extra = {}
    if key in MAPS:
        values = np.where(kept, MAPS[key], 0.0)
        extra = {"blank": 0.0}
    elif key == "mask":
        values = (~kept).astype(np.int16)
    elif key == "bin":
        values = np.where(kept, 1 + np.cumsum(kept).reshape(P, P), -1).astype(np.int32)
        numbers = values[kept]
        columns = [fits.Column("BINID", "J", array=numbers), fits.Column("S", "D", array=MAPS["dispersion"][kept])]
        fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "bins.fits")
        extra = {"bins": "bins.fits", "dispersion": "S"}
        values += 0
    else:
        values = np.where(kept, 5.0 if key == "velocity_error" else 0.04, 0.0)
        extra = {"max_velocity_error_kms": 20.0, "blank": 0.0}
    moved_values, header = regridded(values)
    if key == "bin" and change in (moved, larger):
        moved_values = np.where(moved_values == 0, -1, moved_values)
    if key == "mask" and change in (moved, larger):
        moved_values = np.where(moved_values == 0, moved_values, 1)
    put(tmp_path, key, moved_values, header)
    path = images(tmp_path, **({key: f"{key}.fits"} | extra))
    assert mismatches(path, seen=kept, rtol=1e-4) == []
    assert any(f"{key}.fits lies on a grid of its own" in remark for remark in read_galaxy(path).remarks)


@pytest.mark.parametrize("size", [0.45, 1.0, 1.7])
def test_other_pixels_show_the_same_galaxy(tmp_path, size):
    """Half a pixel off, turned by 20 degrees, and with smaller or larger pixels: the same light at the same places."""
    c, s, step, n = np.cos(0.35), np.sin(0.35), size * SIDE / 3600, int(P / size) + 9
    header = sky_header(CD1_1=-step * c, CD1_2=step * s, CD2_1=step * s, CD2_2=step * c, CRPIX1=n / 2, CRPIX2=n / 2)
    iy, ix = np.indices((n, n))
    x, y = WCS(sky_header()).world_to_pixel(WCS(header).pixel_to_world(ix, iy))
    x, y = SIDE * (x - 0.5 * (P - 1)), SIDE * (y - 0.5 * (P - 1))
    put(tmp_path, "density", 1e8 * np.exp(-np.hypot(x, y / 0.7) / 5 + 0.02 * x), header)
    assert mismatches(images(tmp_path), rtol=0.1) == []
    sky = read_galaxy(images(tmp_path)).gas
    assert sky.density.sum() == pytest.approx(np.nansum(MAPS["density"]), rel=0.01)
    # A mass per pixel is one of that image's pixels, whatever those of the velocity are.
    mass = fits.getdata(tmp_path / "density.fits") * (size * SIDE * KPC) ** 2
    put(tmp_path, "density", mass, header, unit="Msun/pix")
    np.testing.assert_allclose(read_galaxy(images(tmp_path, pixel_arcsec=SIDE)).gas.density, sky.density, rtol=1e-3)


def test_a_pixel_is_masked_where_a_part_of_it_is(tmp_path):
    step = SIDE / 3600 / 2
    header = sky_header(CD1_1=-step, CD2_2=step, CRPIX1=P + 0.5, CRPIX2=P + 0.5)
    bad = np.zeros((2 * P, 2 * P), np.int16)
    bad[P, P] = bad[P + 5, P - 6] = 4
    put(tmp_path, "mask", bad, header)
    seen = SEEN.copy()
    seen[P // 2, P // 2] = seen[(P + 5) // 2, (P - 6) // 2] = False
    assert mismatches(images(tmp_path, mask="mask.fits"), seen=seen) == []
    # Half a pixel over, a bad pixel spoils both.
    put(tmp_path, "mask", np.where((IX == 20) & (IY == 20), 1, 0), sky_header(CRPIX1=0.5 * P))
    assert mismatches(images(tmp_path, mask="mask.fits"), seen=SEEN & ~((IX >= 20) & (IX <= 21) & (IY == 20))) == []
    # What a mask does not cover is not known to be good.
    put(tmp_path, "mask", np.zeros((P // 2, P), np.int16))
    assert mismatches(images(tmp_path, mask="mask.fits"), seen=SEEN & (IY < P // 2)) == []


def test_images_of_which_one_has_no_wcs(tmp_path):
    put(tmp_path, "density", MAPS["density"], fits.Header())
    assert_refused(images(tmp_path), r"density.fits has no celestial .* one_grid: true")
    assert mismatches(images(tmp_path, one_grid=True)) == []
    put(tmp_path, "velocity", MAPS["velocity"], fits.Header())
    assert_refused(images(tmp_path), r"velocity.fits has no celestial .* one_grid: true")
    assert mismatches(images(tmp_path, one_grid=True)) == []
    put(tmp_path, "velocity", MAPS["velocity"])
    put(tmp_path, "dispersion", MAPS["dispersion"][:-1], fits.Header())
    assert_refused(images(tmp_path, one_grid=True), "differ in shape")


def test_images_of_different_parts_of_the_sky(tmp_path):
    put(tmp_path, "density", MAPS["density"], sky_header(CRVAL1=150.5))
    assert_refused(images(tmp_path), "no common part of the sky")
    assert mismatches(images(tmp_path, one_grid=True)) == []


def test_an_axis_that_an_image_has_no_more_is_not_read(tmp_path):
    """Moments keep the cube's axes: four of them, and a velocity without its rest frequency (THINGS)."""
    cards = {"CTYPE3": "FELO-HEL", "CRVAL3": 5.8e5, "CDELT3": -2600.0, "CRPIX3": 1.0, "CTYPE4": "STOKES"}
    for key, values in MAPS.items():
        put(tmp_path, key, values[None, None], sky_header(**cards))
    assert mismatches(images(tmp_path)) == []
    for key, values in MAPS.items():  # as older files write it, also beside such an axis
        put(tmp_path, key, values, sky_header(**cards, CUNIT1="DEGREE", CUNIT2="DEGREE"))
    assert mismatches(images(tmp_path)) == []
    for key, values in MAPS.items():  # and units that are repaired
        put(tmp_path, key, values, sky_header(CUNIT1="DEGREE", CUNIT2="DEGREE"))
    assert mismatches(images(tmp_path)) == []
    put(tmp_path, "velocity", MAPS["velocity"], sky_header(CTYPE1="RA---XYZ"))
    with pytest.raises(ValueError, match=r"velocity.fits: the coordinates \(WCS\) .* mend CTYPE") as caught:
        read_galaxy(images(tmp_path))
    assert "\n" not in str(caught.value)


def test_numbers_of_the_wcs_may_be_written_as_texts(tmp_path):
    """wcslib leaves such cards out: CRPIX was nil, and a map half its width off."""
    for key, values in MAPS.items():
        put(tmp_path, key, values, sky_header(CRPIX1=str(0.5 * (P + 1)), CRVAL2="40.0", CD1_1=f"{-SIDE / 3600!r}"))
    assert mismatches(images(tmp_path)) == []
    for card, value, words in (
        ("CRVAL1", "10:00:00", "CRVAL1 = '10:00:00' is no number"),
        ("CRPIX1", None, "CRPIX1 has no value"),
        ("CRPIX2", "gone", "CRPIX2 is missing"),
    ):
        header = sky_header(**{card: value})
        if value == "gone":
            del header[card]
        put(tmp_path, "velocity", MAPS["velocity"], header)
        assert_refused(images(tmp_path), rf"velocity.fits: the coordinates .WCS. .*{words}")
    put(tmp_path, "velocity", MAPS["velocity"], sky_header(CTYPE1="PIXEL", CTYPE2="PIXEL", CRVAL1="", CRPIX1=""))
    assert mismatches(images(tmp_path, one_grid=True)) == []  # of no sky


@pytest.mark.parametrize(("card", "value"), [("CRPIX1", 8.0), ("CD1_1", SIDE / 3600), ("BUNIT", "m/s")])
def test_a_card_that_comes_twice_and_not_alike_is_refused(tmp_path, card, value):
    header = sky_header(BUNIT="km/s")
    header.append((card, header[card]))
    for key, values in MAPS.items():
        put(tmp_path, key, values, header if key == "velocity" else None)
    assert mismatches(images(tmp_path)) == []
    header[card, 1] = value
    put(tmp_path, "velocity", MAPS["velocity"], header)
    assert_refused(images(tmp_path), f"velocity.fits: {card} comes twice in its header, as .* and as .*: remove")


def test_distortions_count_where_the_projection_says_so(tmp_path):
    """Mosaics keep those of their exposures, and CTYPE without -SIP."""
    cards = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 5e-3, "B_0_2": -5e-3}
    for key, values in MAPS.items():
        put(tmp_path, key, values, sky_header(**cards))
    assert mismatches(images(tmp_path)) == []
    put(tmp_path, "velocity", MAPS["velocity"], sky_header(**cards, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP"))
    assert mismatches(images(tmp_path)) != []


def test_what_is_masked_is_in_no_mean_of_pixels_beside_it(tmp_path):
    """A star in an image of its own grid, and its mask, which the pixels of V cut at a fifth of a pixel."""
    is_star = (IX >= 18) & (IX < 22) & (IY >= 24) & (IY < 27)
    for key, outlier in (("density", 20.0), ("dispersion", 6.0)):
        put(tmp_path, key, np.where(is_star, outlier, 1.0) * MAPS[key], sky_header(CRPIX1=0.5 * (P + 1) + 0.2))
    put(tmp_path, "mask", is_star.astype(np.int16), sky_header(CRPIX1=0.5 * (P + 1) + 0.2))
    sky = read_galaxy(images(tmp_path, mask="mask.fits")).gas
    ix, iy = (np.round(v / SIDE + 0.5 * (P - 1)).astype(int) for v in (-sky.x_arcsec, sky.y_arcsec))
    inside = np.hypot(sky.x_arcsec, sky.y_arcsec) > 2  # where pixels hardly differ from those beside them
    assert not (is_star[iy, ix]).any()
    assert len(ix) > 0.9 * SEEN.sum()
    np.testing.assert_allclose(sky.density[inside], MAPS["density"][iy, ix][inside], rtol=0.1)
    np.testing.assert_allclose(sky.dispersion_kms[inside], MAPS["dispersion"][iy, ix][inside], rtol=0.1)


@pytest.mark.parametrize(("key", "unmeasured"), [("velocity_error", np.inf), ("velocity_ivar", 0.0)])
def test_what_was_not_measured_on_a_grid_of_its_own_is_no_measurement(tmp_path, key, unmeasured):
    """Errors of pixels beside it were taken for its own, or the median of all."""
    is_bad = (IX >= 18) & (IX < 22) & (IY >= 24) & (IY < 27)
    put(tmp_path, "velocity", np.where(is_bad, 1300.0, MAPS["velocity"]))
    values = np.where(is_bad, unmeasured, 4.0)
    put(tmp_path, key, values)
    assert mismatches(images(tmp_path, **{key: f"{key}.fits"}), seen=SEEN & ~is_bad) == []
    put(tmp_path, key, values, sky_header(CRPIX1=0.5 * (P + 1) + 0.3))
    galaxy = read_galaxy(images(tmp_path, **{key: f"{key}.fits"}))
    assert "12 pixels of the gas have an inverse variance of zero, or an infinite error" in " ".join(galaxy.remarks)
    assert mismatches(images(tmp_path, **{key: f"{key}.fits"}), seen=SEEN & ~is_bad) == []


def test_totals_of_bins_lie_on_the_grid_of_the_bins(tmp_path):
    """Between two pixels there are no bins: each was taken for one of a pixel of its own, and was as dense as all."""
    number = (IY // 4) * P + IX // 4
    velocity, total = (np.bincount(number.ravel(), np.ravel(MAPS[key]))[number] for key in ("velocity", "density"))
    put(tmp_path, "velocity", velocity / 16)
    put(tmp_path, "density", total)
    keys = {"density_is": "bin_total", "dispersion": None, "density_msun_kpc2": None}
    found = read_galaxy(images(tmp_path, **keys)).gas.density
    np.testing.assert_allclose(found, (total / 16)[np.isfinite(velocity)], rtol=1e-6)
    put(tmp_path, "density", total, sky_header(CRPIX1=0.5 * (P + 1) + 0.3))
    assert_refused(
        images(tmp_path, **keys), "bin_total needs the density on the grid of the velocity, and density.fits"
    )


@pytest.mark.parametrize("stored", [-32768, 32767])
def test_a_blank_of_unsigned_integers_is_none_of_their_numbers(tmp_path, stored):
    """They are kept as signed ones and a BZERO, in which BLANK is told."""
    velocity = np.where(SEEN, np.round(MAPS["velocity"]), np.nan)
    raw = np.where(SEEN, np.round(MAPS["velocity"]) - 32768, stored).astype(">i2")
    cards = {"SIMPLE": True, "BITPIX": 16, "NAXIS": 2, "NAXIS1": P, "NAXIS2": P, "BZERO": 32768, "BLANK": stored}
    content = fits.Header(cards).tostring().encode() + raw.tobytes()
    (tmp_path / "v.fits").write_bytes(content.ljust(3 * 2880, b"\0"))
    np.testing.assert_array_equal(fits_maps.image("v.fits", tmp_path)[0], velocity)


@pytest.mark.parametrize("key", ["RADESYS", "RADECSYS"])
@pytest.mark.parametrize(
    ("frame", "equinox", "meant"),
    [("J2000", None, "FK5"), ("fk5", None, "FK5"), (" Fk5", 2000.0, "FK5"), ("icrs", None, "ICRS"),
     ("B1950", None, "FK4"), ("UNKNOWN", 2000.0, "FK5"), ("n/a", 1950.0, "FK4")],
)  # fmt: skip
def test_a_frame_in_other_words_is_the_same(tmp_path, key, frame, equinox, meant):
    """The velocity's header has it in the standard's words; those of the others have to be the same grid."""
    written = sky_header(**{key: frame} | ({"EQUINOX": equinox} if equinox else {}))
    if key == "RADECSYS":
        del written["RADESYS"]
    for name, values in MAPS.items():
        put(tmp_path, name, values, sky_header(RADESYS=meant) if name == "velocity" else written)
    sky = read_galaxy(images(tmp_path)).gas
    for name in MAPS:
        put(tmp_path, name, MAPS[name], sky_header(RADESYS=meant))
    standard = read_galaxy(images(tmp_path)).gas
    np.testing.assert_array_equal(sky.x_arcsec, standard.x_arcsec)
    np.testing.assert_array_equal(sky.density, standard.density)


@pytest.mark.parametrize("frame", ["GAPPT", "UNKNOWN", "apparent"])
def test_a_frame_that_is_not_known_is_named(tmp_path, frame):
    equinox = {"EQUINOX": 2000.0} if frame != "UNKNOWN" else {}
    put(tmp_path, "density", MAPS["density"], sky_header(RADESYS=frame, **equinox))
    assert_refused(images(tmp_path), rf"density.fits: RADESYS = '{frame}' in its header is no frame .* ICRS, FK5")
    put(tmp_path, "density", MAPS["density"], sky_header(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN", RADESYS=frame))
    with pytest.raises(ValueError, match="no common part of the sky"):  # the frame is that of right ascensions
        read_galaxy(images(tmp_path))
    put(tmp_path, "density", MAPS["density"], sky_header(CTYPE1="ELON-TAN", CTYPE2="ELAT-TAN"))
    assert_refused(images(tmp_path), r"density.fits: .* coordinates in ELON and ELAT .CTYPE.: give right asc")


def test_images_without_coordinates(tmp_path):
    for key, values in MAPS.items():
        put(tmp_path, key, values, fits.Header())
    assert_refused(images(tmp_path), "pixel_arcsec")
    assert_refused(images(tmp_path, pixel_arcsec=SIDE), "centre_pixel")
    assert (
        mismatches(images(tmp_path, pixel_arcsec=SIDE, centre_pixel=[0.5 * (P + 1), 0.5 * (P + 1)]), mirrored=1) == []
    )


def test_a_centre_in_pixels_and_a_pixel_of_another_size(tmp_path):
    assert mismatches(images(tmp_path, centre_pixel=[0.5 * (P + 1), 0.5 * (P + 1)], top={"centre_deg": None})) == []
    assert_refused(images(tmp_path, pixel_arcsec=0.5), r"pixel_arcsec is 0\.5")


def test_the_redshift_of_a_file_is_that_of_its_velocities(tmp_path):
    speed = 299792.458
    for convention, velocity in (("optical", 0.02 * speed), ("radio", (1 - 1 / 1.02) * speed), ("rest", 0.02 * speed)):
        put(tmp_path, "velocity", MAPS["velocity"] - 1500 + velocity)
        (found,) = read_galaxy(images(tmp_path, convention=convention)).redshifts.values()
        # As no c z, it may be more.
        expected = (0.02, 1 / 0.98 - 1) if convention == "rest" else (0.02, 0.02)
        assert found == pytest.approx(expected, abs=2e-4), convention
    put(tmp_path, "velocity", MAPS["velocity"] - 1500)
    assert read_galaxy(images(tmp_path)).redshifts == {}


# ---- beams


def beams_table(*columns):
    table_columns = [fits.Column(n, "E", array=[axis, axis], unit=u) for n, axis, u in columns]
    return fits.BinTableHDU.from_columns(table_columns, name="BEAMS")


HISTORY = "AIPS   CLEAN BMAJ=  1.6667E-03 BMIN=  4.1667E-04 BPA=   0.00"


@pytest.mark.parametrize(
    ("cards", "history", "beams", "fwhm"),
    [
        ({"BMAJ": 6 / 3600, "BMIN": 1.5 / 3600}, "", None, 3.0),
        ({"BMAJ": 3 / 3600}, "", None, 3.0),
        ({"BMAJ": 3 / 3600, "BMIN": 0.0}, "", None, 3.0),
        ({}, HISTORY, None, 3.0),
        ({"BMMAJ": 6.0, "BMMIN": 1.5}, "", None, 3.0),  # of GIPSY, in arcsec
        ({"BMMAJ": 6 / 3600, "BMMIN": 1.5 / 3600}, "", None, 3.0),  # of BBarolo
        ({"CLBMMAJ": 3.0}, "", None, 3.0),
        ({"BMAJ": 3 / 3600, "BMMAJ": 9.0}, "", None, 3.0),
        ({"BMAJ": 0.0, "BMIN": 0.0}, HISTORY, None, 3.0),
        ({"BMAJ": "none"}, "", None, None),
        ({}, "AIPS   CLEAN BMAJ=  9.E-03 BMIN=  9.E-03\n" + HISTORY, None, 3.0),
        ({"CASAMBM": True}, "", (("BMAJ", 6.0, "arcsec"), ("BMIN", 1.5, "arcsec")), 3.0),
        ({"CASAMBM": True}, "", (("BMAJ", 0.1, "arcmin"), ("BMIN", 1.5, "arcsec")), 3.0),
        ({}, "", None, None),
    ],
)
@pytest.mark.parametrize("key", ["velocity", "density"])
def test_the_beam_is_read_from_where_it_is(tmp_path, cards, history, beams, fwhm, key):
    header = sky_header(**cards)
    for line in history.splitlines():
        header.add_history(line)
    put(tmp_path, key, MAPS[key], header)
    if beams:
        fits.append(tmp_path / f"{key}.fits", beams_table(*beams).data, beams_table(*beams).header)
    fwhm_arcsec = read_galaxy(images(tmp_path)).gas.beam_fwhm_arcsec
    assert fwhm_arcsec == (None if fwhm is None else pytest.approx(fwhm, rel=1e-3))
    assert read_galaxy(images(tmp_path, beam_fwhm_arcsec=1.0)).gas.beam_fwhm_arcsec == 1.0


def test_a_beam_in_the_primary_header_of_an_extension_and_of_a_table(tmp_path):
    primary = fits.PrimaryHDU(header=fits.Header({"BMAJ": 3 / 3600, "BMIN": 3 / 3600}))
    fits.HDUList([primary, fits.ImageHDU(MAPS["velocity"], sky_header(), name="V")]).writeto(tmp_path / "v.fits")
    assert read_galaxy(images(tmp_path, velocity="v.fits[v]")).gas.beam_fwhm_arcsec == pytest.approx(3.0)
    path = table(tmp_path)
    fits.setval(tmp_path / "table.fits", "BMAJ", value=3 / 3600, ext=1)
    assert read_galaxy(path).gas.beam_fwhm_arcsec == pytest.approx(3.0)


def test_a_beam_that_is_given_in_degrees_is_refused(tmp_path):
    assert_refused(images(tmp_path, beam_fwhm_arcsec=2 * SIDE / 3600), r"far smaller than a pixel .* not in degrees")
    assert read_galaxy(images(tmp_path, beam_fwhm_arcsec=0.0)).gas.beam_fwhm_arcsec == 0


def test_a_beam_in_arcsec_is_not_one_in_degrees(tmp_path):
    put(tmp_path, "velocity", MAPS["velocity"], sky_header(BMAJ=3.0, BMIN=3.0))
    assert_refused(images(tmp_path), "beam_fwhm_arcsec")


# ---- tables


@pytest.mark.parametrize(
    ("unit", "of_one"),
    [("arcsec", 1), ("ARCSEC", 1), ("arcmin", 60), ("'", 60), ("deg", 3600), ("rad", 206264.806247), ("pix", SIDE),
     ('"', 1), ("spaxel", SIDE), ("kpc", 1 / KPC), ("pc", 1e-3 / KPC), (None, 1)],
)  # fmt: skip
@pytest.mark.parametrize("by_key", [False, True])
def test_offsets_in_any_unit(tmp_path, unit, of_one, by_key):
    keys = {"pixel_arcsec": SIDE} if of_one == SIDE else {}
    keys |= {"xy_unit": unit} if by_key and unit else {}
    written = {"x": X / of_one, "y": Y / of_one, "x_unit": "furlongs" if by_key and unit else unit}
    assert mismatches(table(tmp_path, **written, **keys), mirrored=1) == []
    # A centre in degrees is that of other maps: these are offsets.
    assert mismatches(table(tmp_path, **written, **keys, top={"centre_deg": [150.0, 40.0]}), mirrored=1) == []


@pytest.mark.parametrize("unit", ["furlongs", "km/s", "mag", "s"])
def test_offsets_in_no_unit_of_the_sky(tmp_path, unit):
    assert_refused(table(tmp_path, x_unit=unit), f"X is in '{unit}'.*xy_unit")


def test_offsets_in_pixels_need_their_size(tmp_path):
    assert_refused(table(tmp_path, x=X / SIDE, y=Y / SIDE, x_unit="pix"), "pixel_arcsec")
    assert_refused(table(tmp_path, x=X / SIDE, y=Y / SIDE, pixel_arcsec=0.5), "xy_unit: pix")
    numbers = {"x": IX + 1, "y": IY + 1, "xy_unit": "pix", "pixel_arcsec": SIDE}
    assert mismatches(table(tmp_path, **numbers, centre_pixel=[0.5 * (P + 1), 0.5 * (P + 1)]), mirrored=1) == []


def test_right_ascensions_and_declinations(tmp_path):
    place = WCS(sky_header()).pixel_to_world(IX, IY)
    assert (
        mismatches(table(tmp_path, x=place.ra.deg, y=place.dec.deg, x_unit="deg", top={"centre_deg": [150.0, 40.0]}))
        == []
    )


def test_spaxels_as_they_lie(tmp_path):
    """Turned, a little off, row by row half over, with gaps: always the same squares."""
    c, s = np.cos(0.5), np.sin(0.5)
    rng = np.random.default_rng(1)
    gaps = rng.uniform(size=X.shape) < 0.7
    for x, y in ((X, Y), (c * X - s * Y, s * X + c * Y), (X + rng.normal(0, 0.02, X.shape), Y),
                 (X + 0.5 * SIDE * (IY % 2), Y), (X[gaps], Y[gaps]), (X.astype("f4"), Y.astype("f4"))):  # fmt: skip
        assert spaxel_side(x.ravel(), y.ravel(), "t", None) == pytest.approx(SIDE, rel=0.03)
    path = table(tmp_path, x=c * X - s * Y, y=s * X + c * Y)
    sky = read_galaxy(path).gas
    assert sky.side_arcsec == pytest.approx(SIDE)
    assert len(sky.x_arcsec) == SEEN.sum()
    hexagons = spaxel_side((X + 0.5 * SIDE * (IY % 2)).ravel(), np.sqrt(0.75) * Y.ravel(), "t", None)
    assert hexagons**2 == pytest.approx(np.sqrt(0.75) * SIDE**2)
    chess = (IX + IY) % 2 == 0
    assert spaxel_side(X[chess], Y[chess], "t", SIDE) == SIDE
    for x, y, words in (
        (X, 2 * Y, "apart along x"),
        (1.06 * X, Y, "apart along x"),
        (X[:3], Y[:3] * 0, "not square"),
        (X[0, :2], Y[0, :2], "six spaxels at least"),
    ):
        with pytest.raises(ValueError, match=words):
            spaxel_side(x.ravel(), y.ravel(), "t", None)


def binned(centres):
    """Number of the nearest centre, and the means of the maps in each bin, weighted with the light."""
    from scipy.spatial import cKDTree

    number = cKDTree(centres).query(np.stack([X[SEEN], Y[SEEN]], axis=1))[1]
    _, number = np.unique(number, return_inverse=True)
    light = MAPS["density"][SEEN]
    total = np.bincount(number, light)
    means = {k: np.bincount(number, light * v) / total for k, v in
             (("x", X[SEEN]), ("y", Y[SEEN]), *((k, MAPS[k][SEEN]) for k in ("velocity", "dispersion")))}  # fmt: skip
    return number, means | {"density": total / np.bincount(number)}


def test_centres_of_bins(tmp_path):
    """As JAM's input has them: said to be bins they cover what the spaxels do; unsaid they are refused."""
    rng = np.random.default_rng(0)
    r, angle = 14 * rng.uniform(0.1, 1, 150), rng.uniform(0, 2 * np.pi, 150)
    number, means = binned(np.stack([r * np.cos(angle), 0.7 * r * np.sin(angle)], axis=1))
    centres = {"x": means.pop("x"), "y": means.pop("y")}
    assert_refused(table(tmp_path, means, **centres), "rows: bins")
    assert_refused(table(tmp_path, means, **centres, pixel_arcsec=0.2), "rows: bins")
    of_bins = read_galaxy(table(tmp_path, means, **centres, rows="bins")).gas
    spaxels = {k: np.full((P, P), np.nan) for k in means}
    for key, values in means.items():
        spaxels[key][SEEN] = values[number]
    of_spaxels = read_galaxy(table(tmp_path, spaxels)).gas
    map_of_bins, map_of_spaxels = (regrid(sky, 16, 48.0) for sky in (of_bins, of_spaxels))
    in_both = (map_of_bins[3] > 0) & (map_of_spaxels[3] > 0)
    assert in_both.sum() > 0.8 * max(map_of_bins[3].sum(), map_of_spaxels[3].sum())
    np.testing.assert_allclose(map_of_bins[1][in_both], map_of_spaxels[1][in_both], atol=50)
    assert np.sqrt(np.mean((map_of_bins[1] - map_of_spaxels[1])[in_both] ** 2)) < 12
    assert of_bins.density.sum() * of_bins.side_arcsec**2 == pytest.approx(of_spaxels.density.sum() * SIDE**2, rel=0.1)


@pytest.mark.parametrize("xy_unit", ["pix", "arcsec"])
@pytest.mark.parametrize("unit", ["Msun/pix", "dex(Msun/spaxel^2)"])
def test_a_mass_per_pixel_of_bins_is_one_of_a_pixel(tmp_path, xy_unit, unit):
    """It was taken for that of the squares that bins are cut into, and was four times too large."""
    _, means = binned(CENTRES)
    side = SIDE if xy_unit == "pix" else 1.0
    centres = {axis: means.pop(axis) / side for axis in ("x", "y")}
    mass = means["density"] * KPC2_PIXEL
    written = means | {"density": np.log10(mass) if unit.startswith("dex") else mass}
    keys = {"rows": "bins", "xy_unit": xy_unit}
    true = read_galaxy(table(tmp_path, means, **centres, **keys, density_msun_kpc2=1.0, pixel_arcsec=SIDE)).gas
    keys["density_unit"] = unit
    found = read_galaxy(table(tmp_path, written, **centres, **keys, pixel_arcsec=SIDE)).gas
    np.testing.assert_allclose(found.density, true.density)
    if xy_unit == "arcsec":
        with pytest.raises(ValueError, match=rf"density density is in '{re.escape(unit)}': say pixel_arcsec, the side"):
            read_galaxy(table(tmp_path, written, **centres, **keys))
        total = float(true.density.sum() * (true.side_arcsec * KPC) ** 2)
        for said in ({"total_mass_msun": total}, {"density_msun_kpc2": 1 / KPC2_PIXEL}):
            found = read_galaxy(table(tmp_path, written, **centres, **keys, **said)).gas
            np.testing.assert_allclose(found.density, true.density)


def test_squares_of_bins_are_nearest_to_their_centre():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-10, 10, (2, 60))
    tx, ty, number, side = tiled(x, y)
    distance = np.hypot(tx[:, None] - x, ty[:, None] - y)
    np.testing.assert_array_equal(np.argmin(distance, axis=1), number)
    assert side < 2
    assert set(number) == set(range(60))
    assert len(tx) * side**2 == pytest.approx(400, rel=0.3)


# ---- numbers of bins

CENTRES = np.stack([v.ravel() for v in np.meshgrid(np.arange(-13, 14, 2.5), np.arange(-9, 10, 2.5))], axis=1)


def with_bins(folder, first, ids, none=-1, shift=0, as_table=False, order=None, more=None, **keys):
    """The galaxy in bins that an image, or a table of spaxels, numbers from `first`; what spaxels should have.

    order: rows of the table of bins by that map of theirs, as sorted by it; more: its other columns {name: numbers}, of
    rows in the order of their numbers.
    """
    number, means = binned(CENTRES[np.argsort(np.hypot(*CENTRES.T))])
    count = len(means["x"])
    numbers = np.full((P, P), none)
    numbers[SEEN] = number + first + shift
    columns = [fits.Column(k, "D", array=means[k]) for k in MAPS]
    numbered = ({ids: np.arange(count) + first} if ids else {}) | {k: v(count) for k, v in (more or {}).items()}
    columns += [fits.Column(name, "J", array=values) for name, values in numbered.items()]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.data = hdu.data[np.argsort(means[order])] if order else hdu.data
    hdu.writeto(folder / "bins.fits", overwrite=True)
    put(folder, "number", numbers.astype(np.int32))
    files = {"bins": "bins.fits", "bin": "number.fits"} | {k: k for k in MAPS} | keys
    if as_table:
        columns = [fits.Column(n, "D", array=v.ravel()) for n, v in (("X", X), ("Y", Y), ("BIN_ID", numbers))]
        fits.BinTableHDU.from_columns(columns).writeto(folder / "table.fits", overwrite=True)
        files |= {"table": "table.fits", "bin": "BIN_ID"}
    return described(folder, files), means["velocity"][number], numbers


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("none", [-1, 0])
@pytest.mark.parametrize("ids", [None, "BIN_ID", "binNum", "NR"])
@pytest.mark.parametrize("as_table", [False, True])
def test_bins_are_numbered_from_any_start(tmp_path, first, none, ids, as_table):
    if first == 0 and none == 0:
        return
    keys = {"bin_id": "NR"} if ids == "NR" else {}
    path, velocity, _ = with_bins(tmp_path, first, ids, none, as_table=as_table, **keys)
    gas = read_galaxy(path).gas
    assert len(gas.velocity_kms) == SEEN.sum()
    np.testing.assert_allclose(gas.velocity_kms, velocity)


@pytest.mark.parametrize(("first", "shift", "none"), [(0, 1, -1), (1, -1, -1), (0, 1, 0)])
def test_numbers_that_are_not_the_tables_are_refused(tmp_path, first, shift, none):
    path, velocity, _ = with_bins(tmp_path, first, "BIN_ID", none, shift=shift)
    assert_refused(path, "bins_start_at")
    path, velocity, _ = with_bins(tmp_path, first, "BIN_ID", none, shift=shift, bins_start_at=first + shift)
    np.testing.assert_allclose(read_galaxy(path).gas.velocity_kms, velocity)


@pytest.mark.parametrize(("first", "none", "as_table"), [(0, -1, False), (1, 0, True)])
@pytest.mark.parametrize("ids", ["BIN_ID", "vbin_id"])
def test_bins_in_any_order_are_found_by_the_column_of_their_numbers(tmp_path, first, none, ids, as_table):
    """In the order of the file, a map of bins sorted by y was scrambled, and its mass .4 dex off."""

    def read(**keys):
        path, velocity, _ = with_bins(tmp_path, first, ids, none, as_table=as_table, **({"order": "y"} | keys))
        galaxy = read_galaxy(path)
        np.testing.assert_allclose(galaxy.gas.velocity_kms, velocity)
        return " ".join(galaxy.remarks)

    taken = rf"Rows of bins.fits were taken by their numbers in column {ids}, which are those of"
    assert (taken in read(more={"size": lambda n: np.arange(n) % 7})) == (ids != "BIN_ID")
    assert "Rows" not in read(order=None) + read(bin_id=ids)
    other = {"rank": lambda n: np.arange(n)[::-1] + first}
    if ids == "BIN_ID":
        read(more=other)
    else:
        with pytest.raises(ValueError, match=rf"columns {ids}, rank may all hold the bins' numbers, .* say bin_id"):
            read(more=other)
    assert "Rows" not in read(more=other, bin_id=ids)
    with pytest.raises(ValueError, match=r"bins.fits has no column NR .bin_id.; there are density, velocity"):
        read(bin_id="NR")


@pytest.mark.parametrize("ids", ["BIN_ID", "vbin_id"])
@pytest.mark.parametrize("first", [0, 1])
def test_bins_in_any_order_may_be_counted_from_another_start(tmp_path, ids, first):
    """Said to be counted, rows were numbered as they stand in the file."""
    keys = {"first": first, "ids": ids, "shift": 1 - 2 * first, "order": "y"}
    assert_refused(with_bins(tmp_path, **keys)[0], "bins_start_at: 0 or 1, the number of the first bin")
    path, velocity, _ = with_bins(tmp_path, **keys, bin_id=ids, bins_start_at=1 - first)
    np.testing.assert_allclose(read_galaxy(path).gas.velocity_kms, velocity)


def test_of_two_usual_names_of_the_numbers_one_is_said(tmp_path):
    more = {"bin_num": lambda n: np.arange(n)[::-1]}
    assert_refused(with_bins(tmp_path, 0, "binid", more=more)[0], "columns binid, bin_num may all hold")
    read_galaxy(with_bins(tmp_path, 0, "binid", more=more, bin_id="binid")[0])


@pytest.mark.parametrize("ids", [None, "BIN_ID"])
def test_a_bin_zero_that_holds_what_is_in_no_bin_is_refused(tmp_path, ids):
    """All that surrounds the galaxy had V and sigma of its centre."""
    path, _, numbers = with_bins(tmp_path, 0, ids, none=0)
    n = np.count_nonzero(numbers == 0)
    with pytest.raises(
        ValueError, match=rf"{n} of {P * P} spaxels are in bin 0, in any other \d+ at most: .* give these -1"
    ):
        read_galaxy(path)
    filled, *_ = with_bins(tmp_path, 0, ids, none=0, bins_start_at=0)
    assert len(read_galaxy(filled).gas.velocity_kms) == P * P


def test_numbers_that_leave_open_where_rows_begin_are_refused(tmp_path):
    path, *_, numbers = with_bins(tmp_path, 1, None)
    put(tmp_path, "number", np.where(numbers == numbers.max(), -1, numbers).astype(np.int32))
    assert_refused(path, "bins_start_at")
    put(tmp_path, "number", np.where(numbers > 0, numbers + 500, -1).astype(np.int32))
    assert_refused(path, "bins_start_at")
    columns = [fits.Column("BIN_ID", "J", array=[1, 1, 2])] + [fits.Column(k, "D", array=np.ones(3)) for k in MAPS]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "bins.fits", overwrite=True)
    assert_refused(path, "several rows")


def test_bins_that_a_table_leaves_out_are_not_seen(tmp_path):
    path, velocity, numbers = with_bins(tmp_path, 0, "BIN_ID")
    with fits.open(tmp_path / "bins.fits", mode="update") as hdus:
        hdus[1].data = hdus[1].data[hdus[1].data["BIN_ID"] % 5 != 2]
    in_table = numbers[SEEN] % 5 != 2
    np.testing.assert_allclose(read_galaxy(path).gas.velocity_kms, velocity[in_table])


def test_the_mass_of_a_bin_as_a_whole_is_no_density(tmp_path):
    assert_refused(with_bins(tmp_path, 0, "BIN_ID", density_unit="Msun")[0], "per area")


# ---- keys that do nothing


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rows": "bins"}, "need table"), ({"xy_unit": "kpc"}, "need table"), ({"bin_id": "N"}, "need bins"),
        ({"bins_start_at": 1}, "need bins"), ({"velocity_unit": "GHz"}, "velocity_unit"),
        ({"dispersion_unit": "dex"}, "dispersion_unit"), ({"pixel_arcsec": 0}, "pixel_arcsec"),
        ({"instrument_sigma": "a.fits", "instrument_sigma_kms": 3}, "not both"),
    ],
)  # fmt: skip
def test_keys_without_use_are_refused(tmp_path, keys, words):
    assert_refused(images(tmp_path, **keys), words)


# ---- where results go


def test_names_tell_paths_apart(tmp_path):
    a, b = tmp_path / "A" / "g.yaml", tmp_path / "B" / "g.yaml"
    assert labels([a, tmp_path / "h.yaml"]) == ["g", "h"]
    assert labels([a, b, a]) == ["A-g", "B-g", "A-g"]
    assert len(set(labels([a, a.with_suffix(".yml")]))) == 2
    assert labels([tmp_path / "run.v1", tmp_path / "run.v2"]) == ["run.v1", "run.v2"]
    assert labels([]) == []


def test_a_folder_holds_the_results_of_one_origin(tmp_path):
    folder = tmp_path / "g" / "gas"
    assert claim(folder, {"run": "1"}) == folder
    assert claim(folder, {"run": "2"}) == folder.with_name("gas-2")
    assert claim(folder, {"run": "1"}) == folder
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "profile.ecsv").write_text("of before")
    assert claim(tmp_path / "old", {"run": "1"}) == tmp_path / "old-2"
    assert write_beside(tmp_path / "t" / "a.csv", "1") == tmp_path / "t" / "a.csv"
    assert write_beside(tmp_path / "t" / "a.csv", "2") == tmp_path / "t" / "a-2.csv"
    assert write_beside(tmp_path / "t" / "a.csv", "1") == tmp_path / "t" / "a.csv"


def test_who_looks_under_the_usual_name_is_told_of_another(tmp_path):
    """After galaxies, networks and results have moved together, the old results have the usual names."""
    usual, other, run = tmp_path / "g" / "any", tmp_path / "g" / "any-2", tmp_path / "run"
    run.mkdir()
    before, now = ({"galaxy": str(tmp_path / name), "run": str(run), "tracer": "gas"} for name in ("a.yaml", "b.yaml"))
    assert elsewhere(usual, claim(usual, before)) == ""
    gone = f"({tmp_path}/a.yaml is not there any more: if it has moved, these are old, and may be removed)"
    assert (
        elsewhere(usual, claim(usual, now))
        == f"{usual} holds results of {tmp_path}/a.yaml by {run} {gone}; the new ones are in {other}"
    )
    (tmp_path / "a.yaml").touch()
    assert "any more" not in elsewhere(usual, claim(usual, now))
    table = tmp_path / "gas.csv"
    write_beside(table, "old", {"run": str(run), "store": str(tmp_path / "a.zarr"), "suite": "x"})
    written = write_beside(table, "new", {"run": str(run), "store": str(tmp_path), "suite": "x"})
    words = elsewhere(table, written)
    assert words.startswith(f"{table} holds results of {tmp_path}/a.zarr by {run} ({tmp_path}/a.zarr is not")
    (tmp_path / "mine.csv").write_text("of somebody else")
    words = elsewhere(tmp_path / "mine.csv", tmp_path / "mine-2.csv")
    assert words == f"{tmp_path}/mine.csv holds something else; the new ones are in {tmp_path}/mine-2.csv"


def test_a_table_of_the_same_origin_is_written_anew(tmp_path):
    """After its run was trained anew, the old table would stand under the name that the command gives."""
    path, one, other = tmp_path / "gas.csv", {"run": "1"}, {"run": "2"}
    assert write_beside(path, "old", one) == write_beside(path, "new", one) == path
    assert path.read_text() == "new"
    assert write_beside(path, "other", other) == tmp_path / "gas-2.csv"
    assert write_beside(path, "newest", one) == path
    assert write_beside(path, "another", other) == tmp_path / "gas-2.csv"
    assert [(tmp_path / name).read_text() for name in ("gas.csv", "gas-2.csv")] == ["newest", "another"]
    (tmp_path / "mine.csv").write_text("of somebody else")
    assert write_beside(tmp_path / "mine.csv", "new", one) == tmp_path / "mine-2.csv"


def test_what_a_kill_or_a_full_disk_leaves_is_not_taken_for_whole(tmp_path, monkeypatch):
    def cut_short(path, content):
        path.with_name(path.name).touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", cut_short)
        for write in (lambda: write_beside(tmp_path / "t" / "a.csv", "1"), lambda: claim(tmp_path / "g", {"run": "1"})):
            with pytest.raises(OSError, match="No space left"):
                write()
    assert not any((tmp_path / "t").iterdir())
    (tmp_path / "g" / f"{PARTIAL}0123456789ab-origin.json").write_text("{")  # of a killed process
    assert claim(tmp_path / "g", {"run": "1"}) == tmp_path / "g"
    assert write_beside(tmp_path / "t" / "a.csv", "1") == tmp_path / "t" / "a.csv"
    # Without hard links, nothing is written over either.
    monkeypatch.setattr("os.link", lambda *_: exec("raise OSError(95, 'Operation not supported')"))
    assert write_beside(tmp_path / "t" / "a.csv", "2") == tmp_path / "t" / "a-2.csv"
    assert (tmp_path / "t" / "a.csv").read_text() == "1"
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["a-2.csv", "a.csv"]


def test_results_that_are_not_made_again_are_set_aside(tmp_path):
    """Gas was taken out of the galaxy's file: its profile of before must not stand beside the new ones."""
    origins = [{"galaxy": "g", "run": run, "tracer": tracer} for run in "ab" for tracer in ("both", "gas", "stars")]
    folders = [claim(tmp_path / f"{origin['run']}-{origin['tracer']}", origin) for origin in origins]
    (tmp_path / "a-gas" / "profile.ecsv").write_text("of before")
    asked, stars = [{"galaxy": "g", "run": "a"}], folders[2]
    assert set_outdated_aside(tmp_path, asked, [stars]) == [tmp_path / "a-both-outdated", tmp_path / "a-gas-outdated"]
    assert (tmp_path / "a-gas-outdated" / "profile.ecsv").read_text() == "of before"
    assert stars.exists()
    assert all(folder.exists() for folder in folders[3:])  # of a run that was not asked
    assert set_outdated_aside(tmp_path, asked, [stars]) == []
    # Gas comes back, and goes again.
    assert claim(folders[1], origins[1]) == folders[1]
    assert set_outdated_aside(tmp_path, asked, [stars]) == [tmp_path / "a-gas-outdated-2"]
