"""Files that say less, or something else, than who wrote them means: read as meant, or refused in a sentence."""

import re
import time

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from conftest import galaxy_file

from kinmass.eval.__main__ import main
from kinmass.eval.observed.fits_units import kms_per_unit
from kinmass.eval.observed.galaxy import ObservedGalaxy, read_galaxy
from kinmass.eval.observed.sanity import refuse_fillings

P, SIDE, R_E = 31, 0.5, 3.0
IY, IX = np.indices((P, P))
X, Y = SIDE * (IX - P // 2), SIDE * (IY - P // 2)
R = np.hypot(X, Y)
NOISE = np.random.default_rng(1).normal(0, 3, (4, P, P))
#: Stars that rotate about a systemic velocity of zero.
MAPS = {"V": 120 * np.tanh(X / 2) + NOISE[0], "S": 150 * np.exp(-R / 15) + NOISE[1], "D": 1e8 * np.exp(-R / 2),
        "E": 3 + 0.1 * R}  # fmt: skip


def table(**changed: np.ndarray) -> Table:
    return Table({name: np.ravel(values) for name, values in ({"X": X, "Y": Y} | MAPS | changed).items()})


def described(folder, stars, **top) -> ObservedGalaxy:
    content = {"name": "odd", "distance_mpc": 40.0, "half_light_radius_arcsec": R_E}
    content |= {"stars": {"beam_fwhm_arcsec": 1.0} | stars} | top
    return read_galaxy(galaxy_file(folder / "odd.yaml", content))


def of_table(folder, rows: Table, keys=None, **top) -> ObservedGalaxy:
    rows.write(folder / "t.ecsv", overwrite=True)
    columns = {"table": "t.ecsv", "velocity": "V", "dispersion": "S", "density": "D", "velocity_error": "E"}
    return described(folder, columns | (keys or {}), **top)


# ---- zeros that stand for nothing


def test_a_part_of_the_map_that_is_zero_is_no_velocity(tmp_path):
    is_outside = R > 6
    velocity = np.where(is_outside, 0.0, MAPS["V"])
    words = f"V of the stars is 0 km/s exactly in {is_outside.sum()} of {P * P} pixels that lie together"
    for keys in ({}, {"dispersion": None}):
        with pytest.raises(ValueError, match=words):
            of_table(tmp_path, table(V=velocity), keys)
    kept = of_table(tmp_path, table(V=velocity), {"blank": 0.0}).stars
    assert len(kept.x_arcsec) == np.count_nonzero(~is_outside)
    assert len(of_table(tmp_path, table(V=velocity), {"blank": []}).stars.x_arcsec) == P * P
    # Where the dispersion is zero as well, nothing was measured.
    sigma = np.where(is_outside, 0.0, MAPS["S"])
    assert len(of_table(tmp_path, table(V=velocity, S=sigma)).stars.x_arcsec) == np.count_nonzero(~is_outside)


@pytest.mark.parametrize("number", [-1.0, -99.9])
def test_a_part_of_the_map_that_is_one_number_is_no_velocity(tmp_path, number):
    """No V of this galaxy is far from these numbers."""
    is_outside = R > 6
    velocity = np.where(is_outside, number, MAPS["V"])
    words = rf"V of the stars is {number:g} km/s exactly in {is_outside.sum()} of {P * P} pixels that lie together"
    with pytest.raises(ValueError, match=words):
        of_table(tmp_path, table(V=velocity))
    with pytest.raises(ValueError, match=rf"V of the stars is {1e-3 * number:g} km/s exactly"):
        of_table(tmp_path, table(V=np.where(is_outside, number, 1e3 * MAPS["V"])), {"velocity_unit": "m/s"})
    kept = of_table(tmp_path, table(V=velocity), {"blank": number}).stars
    assert len(kept.x_arcsec) == np.count_nonzero(~is_outside)
    assert len(of_table(tmp_path, table(V=velocity), {"blank": []}).stars.x_arcsec) == P * P


def test_the_v_of_a_large_bin_is_a_velocity(tmp_path):
    for v in (-43.2, 112.0, 100.0):
        assert len(of_table(tmp_path, table(V=np.where(R > 6, v, MAPS["V"]))).stars.x_arcsec) == P * P


def test_zeros_of_a_model_and_of_a_bin_are_velocities(tmp_path):
    model = 120 * np.tanh(X / 2)  # zero along the minor axis
    assert np.count_nonzero(model == 0) == P
    assert len(of_table(tmp_path, table(V=model)).stars.x_arcsec) == P * P
    binned = 10 * np.round(model / 10)  # one value for all of a bin
    assert len(of_table(tmp_path, table(V=binned)).stars.x_arcsec) == P * P


def test_an_inverse_variance_of_zero_is_no_measurement(tmp_path):
    is_outside = R > 6
    rows = table(V=np.where(is_outside, 0.0, MAPS["V"]), I=np.where(is_outside, 0.0, MAPS["E"] ** -2.0))
    for keys in ({"velocity_ivar": "I"}, {"dispersion_ivar": "I"}):
        galaxy = of_table(tmp_path, rows, {"velocity_error": None} | keys)
        assert len(galaxy.stars.x_arcsec) == np.count_nonzero(~is_outside)
        assert f"{is_outside.sum()} pixels of the stars have an inverse variance of zero" in " ".join(galaxy.remarks)
    rows = table(V=np.where(is_outside, 0.0, MAPS["V"]), I=np.where(is_outside, np.inf, MAPS["E"]))
    for keys in ({"velocity_error": "I"}, {"dispersion_error": "I"}):  # the same
        assert len(of_table(tmp_path, rows, keys).stars.x_arcsec) == np.count_nonzero(~is_outside)


def test_numbers_for_nothing_are_found_among_many_bins_in_time():
    rng = np.random.default_rng(0)
    value = np.repeat(rng.normal(1500.0, 80.0, 5000), 60)
    start = time.process_time()
    refuse_fillings("V", value)
    assert time.process_time() - start < 2.0  # thirty seconds when every number was held against all others
    value[::97] = -999.0
    with pytest.raises(ValueError, match=f"V is -999 km/s exactly in {len(value[::97])} of"):
        refuse_fillings("V", value)


def test_a_nucleus_of_one_bin_is_bright_and_measured(tmp_path):
    is_nucleus = R < 0.6  # five spaxels of one bin
    density = np.where(is_nucleus, 3.456789e9, MAPS["D"])
    binned = table(V=np.where(is_nucleus, 1.5, MAPS["V"]), D=density)
    assert len(of_table(tmp_path, binned).stars.x_arcsec) == P * P
    with pytest.raises(ValueError, match=r"the density of the stars is .* exactly in 5 of"):
        of_table(tmp_path, table(D=density))


# ---- the YAML file


@pytest.mark.parametrize("name", ["4451", "'NGC 1 (west)'", "2MASX J12:30+05", "M\u00f6bius", "NO"])
def test_a_name_is_what_the_galaxy_is_called(tmp_path, name):
    table().write(tmp_path / "t.ecsv")
    path = tmp_path / "odd.yaml"
    lines = (
        "distance_mpc: 40\nhalf_light_radius_arcsec: 3\nstars: {table: t.ecsv, velocity: V, dispersion: S, density: D}"
    )
    path.write_text(f"name: {name}\n{lines}\n")
    assert read_galaxy(path).name == name.strip("'")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", "a\nb", "a line with a letter or a digit"),
        ("name", "..", "a line with a letter or a digit"),
        ("name", "$x$", "without"),
        ("centre_deg", [150.0, 100.0], "both in degrees"),
        ("centre_deg", [44850.0, 40.0], "both in degrees"),
    ],
)
def test_what_no_name_and_no_place_is(tmp_path, key, value, words):
    with pytest.raises(ValueError, match=words):
        of_table(tmp_path, table(), **{key: value})


@pytest.mark.parametrize("line", ["distance_mpc: 1:30", "distance_mpc: yes", "centre_deg: [12:30:49, +12:23:28]"])
def test_what_yaml_1_1_makes_a_number_is_none(tmp_path, line):
    path = tmp_path / "odd.yaml"
    path.write_text(f"name: a\nhalf_light_radius_arcsec: 3\nstars: {{velocity: v.fits}}\n{line}\n")
    with pytest.raises(ValueError, match=r"must be a number alone|in degrees: 12:30:49 \+12:23:28 is \[187.70"):
        read_galaxy(path)


# ---- tables and files of several things


def test_rows_of_one_place_are_one_spaxel(tmp_path):
    rows = table()
    for again in (rows[:0], rows[:50], rows):
        found = of_table(tmp_path, vstack([rows, again])).stars
        assert len(found.x_arcsec) == P * P
    other = rows[:300].copy()
    other["V"] += 80
    with pytest.raises(ValueError, match=r"300 of 1261 rows have another velocity .* several galaxies, components"):
        of_table(tmp_path, vstack([rows, other]))
    both = vstack([rows, other])
    both["M"] = np.arange(len(both)) >= len(rows)
    both["M"] = both["M"].astype(int)
    assert len(of_table(tmp_path, both, {"mask": "M"}).stars.x_arcsec) == P * P


def test_numbers_of_pixels_are_no_arcseconds(tmp_path):
    rows = table(X=IX.astype(float), Y=IY.astype(float))
    centre = {"centre_arcsec": [15.0, 15.0]}
    with pytest.raises(ValueError, match="look like numbers of pixels: say xy_unit: pix"):
        of_table(tmp_path, rows, **centre)
    keys = {"xy_unit": "pix", "pixel_arcsec": SIDE, "centre_pixel": [15.0, 15.0]}
    np.testing.assert_allclose(of_table(tmp_path, rows, keys).stars.x_arcsec, X.ravel())
    assert (
        of_table(tmp_path, rows, {"xy_unit": "arcsec"}, half_light_radius_arcsec=6.0, **centre).stars.side_arcsec == 1
    )
    assert of_table(tmp_path, table(X=2 * X, Y=2 * Y), half_light_radius_arcsec=6.0).stars.side_arcsec == 1


def test_centres_of_bins_that_count_from_a_corner_are_no_arcseconds(tmp_path):
    """As Voronoi bins of an image have: taken for arcsec, the galaxy was a third larger or smaller, or five times."""
    rows = table()[:: P // 2]
    places = {"X": rows["X"].copy(), "Y": rows["Y"].copy()}
    rows["X"], rows["Y"] = (places[axis] / SIDE + 15.0 for axis in "XY")
    keys = {"rows": "bins"}
    with pytest.raises(ValueError, match=r"have no unit, none is below zero, .* say xy_unit: pix"):
        of_table(tmp_path, rows, keys, centre_arcsec=[15.0, 15.0])
    keys |= {"xy_unit": "pix", "pixel_arcsec": SIDE}
    with pytest.raises(ValueError, match="X and Y count from a corner of the map, and no centre is said"):
        of_table(tmp_path, rows, keys)
    found = of_table(tmp_path, rows, keys | {"centre_pixel": [15.0, 15.0]}).stars
    rows["X"], rows["Y"] = places["X"], places["Y"]
    np.testing.assert_allclose(found.x_arcsec, of_table(tmp_path, rows, {"rows": "bins"}).stars.x_arcsec)


#: Numbers of a row that holds nothing, and the keys that say so; of the last, V and sigma are numbers.
EMPTY = [
    (dict.fromkeys("XYVSDE", -999.0), {"blank": -999.0}),
    (dict.fromkeys("XYVSDE", 0.0), {"blank": [0.0, -5.0]}),
    ({"X": np.nan, "Y": 3.0, "V": 10.0, "S": 100.0}, {}),
    ({"X": -9999.0, "Y": -9999.0, "V": np.nan, "S": np.nan}, {}),
    ({"X": 1e20, "Y": 1e20, "V": 10.0, "S": 100.0, "BAD": 1}, {"mask": "BAD"}),
    ({"X": 3.0, "Y": -999.0, "V": 10.0, "S": 100.0}, {"blank": -999.0}),
]


@pytest.mark.parametrize("kind", ["spaxels", "bins"])
@pytest.mark.parametrize(("row", "keys"), EMPTY)
def test_a_row_that_holds_nothing_is_at_no_place(tmp_path, row, keys, kind):
    """One such row set the size of the squares that all bins are cut into, and the mass was .3 dex off."""
    rows = table(BAD=np.zeros((P, P), int))
    rows = rows[(np.arange(len(rows)) % 7 == 0) | (kind == "spaxels")]
    rows = rows[(rows["X"] != 0) | (rows["Y"] != 0)]
    full = rows.copy()
    full.add_row([row.get(name, 1.0) for name in full.colnames])
    keys = {"rows": kind} | keys
    found, true = (of_table(tmp_path, t, keys).stars for t in (full, rows))
    assert found.side_arcsec == true.side_arcsec
    np.testing.assert_array_equal(found.x_arcsec, true.x_arcsec)
    # Nor does it hide that all others count pixels from a corner.
    for axis in "XY":
        full[axis][:-1] = rows[axis] / SIDE + 30
    with pytest.raises(ValueError, match="look like numbers of pixels"):
        of_table(tmp_path, full, keys)


def test_a_place_that_is_also_a_number_for_nothing_is_kept(tmp_path):
    for blank in (0.0, -1.0, [0.0, -1.0, 2.5]):
        assert len(of_table(tmp_path, table(), {"blank": blank}).stars.x_arcsec) == P * P


def test_bins_beyond_all_others_are_asked_about(tmp_path):
    rows = table()[::7]
    rows.add_row([-999.0, -999.0, *np.ones(len(rows.colnames) - 2)])
    words = r"1 of \d+ bins lie 10 times as far from the middle as nine tenths of them, as at -999, -999 arcsec: say b"
    with pytest.raises(ValueError, match=words):
        of_table(tmp_path, rows, {"rows": "bins"})
    rows["X"] = np.nan
    with pytest.raises(ValueError, match="no row has numbers for its place in X and Y"):
        of_table(tmp_path, rows, {"rows": "bins"})


def test_places_one_apart_without_a_unit_are_told_of(tmp_path):
    rows = table(X=IX - 15.0, Y=IY - 15.0)
    assert "one apart and have no unit" in of_table(tmp_path, rows, half_light_radius_arcsec=6.0).remarks[-1]
    for keys in ({"xy_unit": "arcsec"}, {"pixel_arcsec": 1.0}):
        assert of_table(tmp_path, rows, keys, half_light_radius_arcsec=6.0).remarks == ()
    assert of_table(tmp_path, table()).remarks == ()


def test_centres_of_bins_without_a_unit_are_told_of(tmp_path):
    """As the means of vorbin are, about the centre in pixels: nothing was said of a galaxy of another size."""
    pairs = np.ravel(IY % 2 * P + IX) % 3 == 0  # bins of a pixel each in the middle, one of three without
    places = np.flatnonzero((R.ravel() < 3) | pairs)
    rows, moved = table()[places], np.random.default_rng(2).uniform(-0.2, 0.2, (2, len(places)))
    far = R.ravel()[places] >= 3
    for axis, move in zip("XY", moved, strict=True):
        rows[axis] = rows[axis] + SIDE * np.where(far, move, 0.0)
    keys = {"rows": "bins"}
    in_arcsec = of_table(tmp_path, rows, keys)
    assert "columns X and Y, centres of bins, have no unit and were taken for arcsec; if" in in_arcsec.remarks[-1]
    assert in_arcsec.doubts["stars"] == ()
    for said in ({"xy_unit": "arcsec"}, {"xy_unit": "arcsec", "pixel_arcsec": SIDE}):
        assert of_table(tmp_path, rows, keys | said).remarks == ()
    rows["X"], rows["Y"] = rows["X"] / SIDE + 0.3, rows["Y"] / SIDE - 0.2
    in_pixels = of_table(tmp_path, rows, keys)
    assert "though many lie one apart as pixels do: say xy_unit: pix" in in_pixels.doubts["stars"][0]
    assert in_pixels.remarks == ()
    assert of_table(tmp_path, rows, keys | {"xy_unit": "arcsec"}).doubts["stars"] == ()
    pixels = {"xy_unit": "pix", "pixel_arcsec": SIDE, "centre_pixel": [0.3, -0.2]}
    np.testing.assert_allclose(of_table(tmp_path, rows, keys | pixels).stars.x_arcsec, in_arcsec.stars.x_arcsec)
    with pytest.raises(ValueError, match="have no unit, and pixel_arcsec is said: say xy_unit: pix if"):
        of_table(tmp_path, rows, keys | {"pixel_arcsec": SIDE})


@pytest.mark.parametrize("kind", ["spaxels", "bins"])
@pytest.mark.parametrize(
    ("column", "words"),
    [("xpix", "called numbers of pixels: say xy_unit: pix and"), ("x_kpc", "called kpc: say xy_unit: kpc, or xy_unit"),
     ("Xkpc", "called kpc"), ("x_pc", "called pc"), ("dx_arcmin", "called arcmin"), ("x_deg", "called deg"),
     ("x.mas", "called mas"), ("xrad", None), ("x_rad", "called rad"), ("X_Re", "called re: convert them to arcsec"),
     ("x/R_e", "called r_e: convert them"), ("x_pix_arcsec", None), ("x_rel", None), ("RA", None)],
)  # fmt: skip
def test_columns_that_are_called_another_unit_are_no_arcseconds(tmp_path, kind, column, words):
    """In kpc, taken for arcsec, a galaxy was .17 dex too heavy."""
    rows = table()[:: 1 if kind == "spaxels" else 7]
    rows[column] = rows["X"]
    keys = {"rows": kind, "x": column}
    if words is not None:
        with pytest.raises(ValueError, match=f"columns {re.escape(column)} and Y have no unit and are {words}"):
            of_table(tmp_path, rows, keys)
    of_table(tmp_path, rows, keys | ({"xy_unit": "arcsec"} if words is not None else {}))


def test_nothing_follows_from_an_inclination_without_gas(tmp_path):
    assert "inclination_deg is that of a disc of gas" in of_table(tmp_path, table(), inclination_deg=60.0).remarks[-1]


def in_one_file(folder, keys, **top):
    images = [fits.ImageHDU(MAPS[name], name=name) for name in "VSD"]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(folder / "all.fits", overwrite=True)
    return described(folder, {"pixel_arcsec": SIDE, "centre_pixel": [16, 16]} | keys, **top)


def test_an_extension_is_named_where_there_are_several(tmp_path):
    named = {"velocity": "all.fits[V]", "dispersion": "all.fits[S]", "density": "all.fits[D]"}
    assert len(in_one_file(tmp_path, named).stars.x_arcsec) == P * P
    with pytest.raises(ValueError, match=r"all\.fits holds several images, V, S, D: say which is meant"):
        in_one_file(tmp_path, named | {"velocity": "all.fits"})
    with pytest.raises(ValueError, match=r"velocity and dispersion are one map|dispersion and velocity are one map"):
        in_one_file(tmp_path, named | {"dispersion": "all.fits[V]"})


def called_in(folder, kind: str, called: str, values: np.ndarray) -> str:
    """Write a map into a file of some kind that calls it so; return a name that gives its number, or its file alone."""
    image = fits.ImageHDU(values, name=called)
    if kind == "extension":
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(values, name="OTHER"), image]).writeto(folder / "c.fits")
        return "c.fits[2]"
    if kind == "only image":
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(folder / "c.fits")
        return "c.fits"
    if kind == "hdf5":
        with h5py.File(folder / "c.h5", "w") as file:
            file[called] = values
        return "c.h5"
    fits.PrimaryHDU(np.stack([values, values]), fits.Header({"NAME0": "OTHER", "NAME1": called})).writeto(
        folder / "c.fits"
    )
    return "c.fits[0,1]" if kind == "number of a plane" else f"c.fits[0,{called}]"


@pytest.mark.parametrize(
    "kind", ["column", "extension", "only image", "hdf5", "number of a plane", "name of a plane", "column of bins"]
)
@pytest.mark.parametrize(
    ("called", "keys", "words", "escape"),
    [
        ("vel_FWHM", {"dispersion": "S"}, "say dispersion_is: fwhm", {"dispersion_is": "sigma"}),
        ("log_s", {"dispersion": "S"}, "dispersion .* is called a logarithm", {"dispersion_unit": "km/s"}),
        ("S_ERR", {"dispersion": "S"}, "dispersion .* is called an error", {"dispersion_unit": "km/s"}),
        ("LSF_FWHM", {"instrument_sigma": "E"}, "instrument_sigma .* full width at half maximum: give sigma", None),
        ("log_flux", {"density": "D"}, "density .* is called a logarithm or a magn", {"density_unit": "arbitrary"}),
        ("V_IVAR", {"velocity_error": "E"}, "say velocity_ivar", {"velocity_error_unit": "km/s"}),
        ("vel_var", {"velocity_error": "E"}, "a variance: give its root", {"velocity_error_unit": "km/s"}),
        ("e_vel", {"velocity_ivar": "E", "velocity_error": None}, "say velocity_er", {"velocity_error_unit": "km/s"}),
    ],
)
def test_a_name_that_says_something_else_than_its_key(tmp_path, called, keys, words, escape, kind):
    """Of planes, and of extensions given by their number, the names were not looked at: full widths were sigma."""
    key, name = next(iter(keys.items()))
    if kind in ("column", "column of bins"):
        column = f"{called} (km/s)" if key in ("dispersion", "velocity_error") else called
        column = column.replace("(km/s)", "[km/s]") if kind == "column of bins" else column
        rows, files = table(**{column: MAPS[name]}), {"table": "t.ecsv"}
        if kind == "column of bins":
            bins = table(BIN_ID=np.arange(P * P), **{column: MAPS[name]})
            bins.remove_columns(["X", "Y"])
            bins.write(tmp_path / "b.fits")
            rows, files = table()["X", "Y"], files | {"bins": "b.fits"}
            rows["BIN_ID"] = np.arange(P * P)
        rows.write(tmp_path / "t.ecsv")
        files |= {"velocity": "V", "dispersion": "S", "density": "D", "velocity_error": "E"}
    else:
        column = called_in(tmp_path, kind, called, MAPS[name])
        for file in "VSDE":
            fits.PrimaryHDU(MAPS[file]).writeto(tmp_path / f"{file}.fits")
        files = {"velocity": "V.fits", "dispersion": "S.fits", "density": "D.fits", "velocity_error": "E.fits"}
        files |= {"pixel_arcsec": SIDE, "centre_pixel": [16, 16]}
    files |= keys | {key: column}
    with pytest.raises(ValueError, match=words) as caught:
        described(tmp_path, files)
    assert called.lower() in str(caught.value).lower()
    if escape is not None:
        described(tmp_path, files | escape)


@pytest.mark.parametrize("kind", ["extension", "name of a plane"])
def test_what_a_file_calls_a_map_tells_its_tracer_and_its_instrument(tmp_path, kind):
    gas = called_in(tmp_path, kind, "EMLINE_GVEL", MAPS["V"])
    files = {"pixel_arcsec": SIDE, "centre_pixel": [16, 16], "dispersion": None}
    said = described(tmp_path, files | {"velocity": gas}).remarks
    assert any("is called one of gas: is it the right map?" in remark for remark in said)
    images = [fits.ImageHDU(MAPS["S"], name=name) for name in ("STARS_SIGMA", "STARS_SIGMA_CORR", "X_SIGMA_CORR")]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "s.fits")
    with pytest.raises(ValueError, match=r"dispersion s\.fits\[1\] stands beside STARS_SIGMA_CORR"):
        described(tmp_path, files | {"velocity": gas, "dispersion": "s.fits[1]"})


def test_a_radius_that_is_none_is_refused_before_anything_is_read(capsys):
    for radius in ("0", "-2", "nan", "inf"):
        assert main(["predict", "none.yaml", "--inside-kpc", radius]) == 2
        assert "must be radii above 0 kpc" in capsys.readouterr().err


def test_a_unit_in_brackets_may_be_a_logarithm():
    with pytest.raises(ValueError, match="which is no velocity"):
        kms_per_unit("v.fits", "[km/s]")


def test_what_is_faster_than_light_is_in_m_s(tmp_path):
    with pytest.raises(ValueError, match=r"5.804e\+05 km/s, faster than light: if it is in m/s say velocity_unit: m/s"):
        of_table(tmp_path, table(V=1e3 * (580 + MAPS["V"])))


def test_a_text_that_is_no_table_is_said_in_a_line(tmp_path):
    (tmp_path / "bins.dat").write_text("#Counterrotaton_binning_version_1\n40\n" + "1 2 3 4 5 6 7 8 9 10\n" * 4)
    with pytest.raises(ValueError, match=r"bins.dat cannot be read as a table .lines must have") as caught:
        described(tmp_path, {"table": "bins.dat", "velocity": "V"})
    assert len(str(caught.value)) < 300


def test_c_z_of_a_distant_galaxy_is_declared(tmp_path):
    far = table(V=90_000 + MAPS["V"])
    with pytest.raises(ValueError, match="say convention: optical if that is c z"):
        of_table(tmp_path, far)
    frame = of_table(tmp_path, far, {"convention": "rest"}).stars.velocity_kms
    optical = of_table(tmp_path, far, {"convention": "optical"}).stars.velocity_kms
    assert np.ptp(frame) / np.ptp(optical) == pytest.approx(1.3, rel=0.01)
    assert len(of_table(tmp_path, table(V=9_000 + MAPS["V"])).stars.x_arcsec) == P * P  # a sentence is enough
