"""Files as surveys write them: one galaxy is the same in all of them, or a sentence says what to do."""

import bz2
import gzip
import io
import re
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from astropy.wcs.utils import fit_wcs_from_points
from conftest import galaxy_file, write_votable
from scipy.spatial import cKDTree

from kinmass.eval.observed.fits_units import read_density
from kinmass.eval.observed.galaxy import ObservedGalaxy, read_galaxy
from kinmass.eval.observed.sky import SkyMap
from kinmass.eval.observed.verdict import of_motions, of_one_number, of_sides

P, SIDE, R_E, CENTRE = 25, 0.8, 5.0, (150.0, 40.0)
IY, IX = np.indices((P, P))
X, Y = SIDE * (IX - P // 2), SIDE * (IY - P // 2)
R = np.hypot(X, Y / 0.7)
SEEN = R < 9
NOISE = np.random.default_rng(7).normal(0, 3, (2, P, P))
MAPS = {
    name: np.where(SEEN, values, np.nan)
    for name, values in {
        "V": 2500 + 120 * np.tanh((X + 0.4 * Y) / 4) + NOISE[0],
        "S": 30 + 0.5 * Y + 60 * np.exp(-R / 4) + NOISE[1],
        "D": 10 * np.exp(-R / 3 + 0.02 * X),
        "E": 3 + 0.1 * R,
        "F": 3.5 + 0.1 * R,
    }.items()
}
KEYS = {"velocity": "V", "dispersion": "S", "density": "D", "velocity_error": "E", "dispersion_error": "F"}
IN_PIXELS = {"pixel_arcsec": SIDE, "centre_pixel": [P // 2 + 1, P // 2 + 1]}


def described(folder, tracers, **top) -> ObservedGalaxy:
    content = {"name": "survey", "distance_mpc": 40.0, "half_light_radius_arcsec": R_E} | top
    content |= {tracer: {"beam_fwhm_arcsec": 1.6} | keys for tracer, keys in tracers.items()}
    return read_galaxy(galaxy_file(folder / "survey.yaml", content))


def assert_refused(folder, tracers, words, **top):
    """A galaxy is refused in these words, described as by `described`."""
    with pytest.raises(ValueError, match=words):
        described(folder, tracers, **top)


def images(folder, header=None, keys=None, top=None, **changed) -> ObservedGalaxy:
    """The galaxy as FITS images, some of which are changed; with keys of the gas, too."""
    for name, values in (MAPS | changed).items():
        fits.PrimaryHDU(values, header).writeto(folder / f"{name}.fits", overwrite=True)
    files = {key: f"{name}.fits" for key, name in KEYS.items()}
    where, centre = (IN_PIXELS, {}) if header is None else ({}, {"centre_deg": list(CENTRE)})
    return described(folder, {"gas": files | where | (keys or {})}, **centre, **(top or {}))


def rows(**more: np.ndarray) -> dict[str, np.ndarray]:
    return {"X": X[SEEN], "Y": Y[SEEN]} | {name: values[SEEN] for name, values in MAPS.items()} | more


def assert_same(sky: SkyMap, east: int = 1) -> None:
    """Assert that a map is the galaxy's: every number at its place."""
    order, true_order = (np.lexsort((np.round(x, 1), np.round(y, 1))) for x, y in (
        (sky.x_arcsec, sky.y_arcsec), (east * X[SEEN], Y[SEEN])))  # fmt: skip
    np.testing.assert_allclose(sky.x_arcsec[order], east * X[SEEN][true_order], atol=0.02)
    arrays = (sky.velocity_kms, sky.dispersion_kms, sky.density, sky.velocity_error_kms, sky.dispersion_error_kms)
    for name, values in zip("VSDEF", arrays, strict=True):
        np.testing.assert_allclose(values[order], MAPS[name][SEEN][true_order], rtol=1e-6)


def sky_header() -> fits.Header:
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": CENTRE[0], "CRVAL2": CENTRE[1]}
    header |= {f"CRPIX{i}": P // 2 + 1 for i in (1, 2)} | {"CDELT1": -SIDE / 3600, "CDELT2": SIDE / 3600}
    return fits.Header(header | {"RADESYS": "ICRS"})


def with_cards(**cards) -> fits.Header:
    header = sky_header()
    header.update(cards)
    return header


# ---- where the numbers are


def test_images_of_an_hdf5_file(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name, values in MAPS.items():
            file[f"gas/{name}"] = values * (1e3 if name == "V" else 1)
        file["gas/V"].attrs["units"] = "m/s"
        file["gas/cube"] = np.stack([MAPS["S"] + 9, MAPS["S"]])
    keys = {key: f"m.h5[gas/{name}]" for key, name in KEYS.items()}
    assert_same(described(tmp_path, {"gas": IN_PIXELS | keys}).gas)
    assert_same(described(tmp_path, {"gas": IN_PIXELS | keys | {"dispersion": "m.h5[gas/cube,1]"}}).gas)
    for wrong in ("m.h5", "m.h5[V]"):
        with pytest.raises(ValueError, match=r"m\.h5: say which image is meant, as FILE\[DATASET\]; there are gas/D"):
            described(tmp_path, {"gas": IN_PIXELS | keys | {"velocity": wrong}})
    assert_refused(tmp_path, {"gas": {"table": "m.h5"} | KEYS}, r"m\.h5\[DATASET\], without table")


@pytest.mark.parametrize("is_table", [True, False])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_arrays_of_numpy(tmp_path, is_table, kind):
    """As a script saves them; objects, which numpy would have to execute, are left alone."""
    maps = rows() if is_table else MAPS
    if kind == "npz":
        np.savez(tmp_path / "m.npz", **maps, rows=np.arange(3), notes=np.array([{}]))
    elif is_table:
        np.save(tmp_path / "m.npy", Table(maps).as_array())
    for name in maps if kind == "npy" and not is_table else ():
        np.save(tmp_path / f"{name}.npy", maps[name])
    keys = {key: f"m.npz[{name}]" if kind == "npz" else f"{name}.npy" for key, name in KEYS.items()} | IN_PIXELS
    if is_table:
        keys = {"table": f"m.{kind}", "xy_unit": "arcsec"} | KEYS
    assert_same(described(tmp_path, {"gas": keys}).gas)


def test_arrays_that_cannot_be_read_are_named(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}, None]))
    (tmp_path / "cut.npz").write_bytes(b"PK")
    (tmp_path / "t.csv").write_text(csv_of(rows()))
    for name, words in (
        ("o.npy", "o.npy .* holds objects"), ("cut.npz", "cut.npz cannot be read as numpy's"),
        ("lost.npy", "lost.npy: no such file"), ("t.csv", "t.csv is no image: name it as `table`"),
    ):  # fmt: skip
        assert_refused(tmp_path, {"gas": IN_PIXELS | {"velocity": name}}, words)
    for name in ("o.npy", "cut.npz", "lost.npz"):
        assert_refused(tmp_path, {"gas": {"table": name} | KEYS}, f"{name} cannot be read as a table")


@pytest.mark.parametrize("spelling", ["UNITS", "Unit", "BUNIT", "astropy_unit"])
@pytest.mark.parametrize("is_table", [True, False])
def test_attributes_of_hdf5_say_units_scales_and_blanks(tmp_path, is_table, spelling):
    """As netCDF does: arcmin in such an attribute were arcsec, numbers as stored km/s, and a filling was a number."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name, values in ({"X": X / 60, "Y": Y / 60} if is_table else {}).items():
            file[name] = values.ravel()
            file[name].attrs[spelling] = "arcmin"
        for name, values in MAPS.items():
            stored = np.where(SEEN, (values * (1e3 if name in "VS" else 1) - 50) / 0.5, 7.5)
            file[name] = stored.ravel() if is_table else stored
            file[name].attrs.update({"scale_factor": 0.5, "add_offset": np.array([50.0]), "_FillValue": 7.5})
            file[name].attrs[spelling] = {"V": "m/s", "S": "m/s", "D": "Lsun/pc2"}.get(name, "km/s")
    keys = {"table": "m.h5"} | KEYS if is_table else IN_PIXELS | {key: f"m.h5[{name}]" for key, name in KEYS.items()}
    assert_same(described(tmp_path, {"gas": keys}).gas)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file["V"].attrs["scale_factor"] = "half"
    assert_refused(tmp_path, {"gas": keys}, "/V: its attribute scale_factor is no number; mend it or remove it")


@pytest.mark.parametrize(("wide", "high", "parts"), [(1.35, 0.29, (2, 9)), (0.7, 1.0, (3, 2)), (1.02, 1.0, (1, 1))])
def test_pixels_of_slices_are_no_squares(tmp_path, wide, high, parts):
    """As of KCWI and WiFeS: parts of a pixel have its values, and its area together."""
    shape = (int(16 / high), int(16 / wide))
    iy, ix = np.indices(shape)
    x, y = wide * (ix - shape[1] / 2 + 0.5), high * (iy - shape[0] / 2 + 0.5)
    density = 1e6 * (5 + np.cos(0.3 * x + 0.2 * y))
    header = with_cards(CDELT1=-wide / 3600, CDELT2=high / 3600, CRPIX1=shape[1] / 2 + 0.5, CRPIX2=shape[0] / 2 + 0.5)
    for name, values, unit in (("V", 100 * np.tanh(x / 3) + y, "km/s"), ("D", density, "Msun/pix")):
        header["BUNIT"] = unit
        fits.PrimaryHDU(values, header).writeto(tmp_path / f"{name}.fits")
    galaxy = described(
        tmp_path, {"gas": {"velocity": "V.fits", "density": "D.fits"}}, centre_deg=list(CENTRE), distance_mpc=20.0
    )
    sky = galaxy.gas
    assert len(sky.x_arcsec) == x.size * np.prod(parts)
    assert sky.side_arcsec**2 * np.prod(parts) == pytest.approx(wide * high)
    assert ("Pixels of V.fits are" in " ".join(galaxy.remarks)) == (parts != (1, 1))
    # Which pixel each part lies in, +x to the east.
    column = np.floor(-sky.x_arcsec / wide + shape[1] / 2).astype(int)
    row = np.floor(sky.y_arcsec / high + shape[0] / 2).astype(int)
    np.testing.assert_allclose(sky.velocity_kms, (100 * np.tanh(x / 3) + y)[row, column])
    mass = sky.density.sum() * (sky.side_arcsec * 20 * np.pi / 648) ** 2
    assert mass == pytest.approx(density.sum(), rel=1e-3)


def test_images_of_one_file_lie_as_the_one_with_a_wcs(tmp_path):
    """SAMI's maps have a WCS in the primary header alone."""
    others = [fits.ImageHDU(values, name=name) for name, values in MAPS.items() if name != "V"]
    fits.HDUList([fits.PrimaryHDU(MAPS["V"], sky_header()), *others]).writeto(tmp_path / "m.fits")
    keys = {key: f"m.fits[{name}]" for key, name in KEYS.items()} | {"velocity": "m.fits"}
    assert_same(described(tmp_path, {"gas": keys}, centre_deg=list(CENTRE)).gas, east=-1)
    fits.PrimaryHDU(MAPS["D"]).writeto(tmp_path / "D.fits")
    other = keys | {"density": "D.fits"}
    assert_refused(tmp_path, {"gas": other}, "D.fits has no celestial coordinates", centre_deg=list(CENTRE))


@pytest.mark.parametrize("unit", ["arcsec", "deg"])
@pytest.mark.parametrize("matrix", ["CDELT", "CD"])
def test_a_header_without_a_sky_tells_how_wide_pixels_are(tmp_path, unit, matrix):
    """As of SAURON's cubes and of models (DysmalPy): twice the side was taken in silence, with twice the mass."""
    side = SIDE / {"arcsec": 1.0, "deg": 3600.0}[unit]
    cards = {"CUNIT1": unit, "CUNIT2": unit}

    def read(side_x, side_y, pixel_arcsec):
        steps = {
            f"{matrix}{'1_1' if matrix == 'CD' else 1}": side_x,
            f"{matrix}{'2_2' if matrix == 'CD' else 2}": side_y,
        }
        header = fits.Header(cards | steps)
        for name, values in MAPS.items():
            fits.PrimaryHDU(values, header).writeto(tmp_path / f"{name}.fits", overwrite=True)
        files = {key: f"{name}.fits" for key, name in KEYS.items()} | IN_PIXELS | {"pixel_arcsec": pixel_arcsec}
        return described(tmp_path, {"gas": files}).gas

    for said in (SIDE, None):
        assert_same(read(-side, side, said))
    with pytest.raises(ValueError, match=r"pixels are 0\.8 x 0\.8 arcsec by CDELT and CUNIT .* pixel_arcsec is 1\.6"):
        read(side, side, 2 * SIDE)
    with pytest.raises(ValueError, match=r"pixels are 0\.8 x 1\.2 arcsec"):
        read(side, 1.5 * side, SIDE)
    with pytest.raises(ValueError, match="say pixel_arcsec"):
        read(side, 1.5 * side, None)
    assert_same(read(3600 * side, 3600 * side, SIDE) if unit == "deg" else read(500.0, 500.0, SIDE))  # of nothing known


def test_a_primary_image_with_a_name_is_one_of_several(tmp_path):
    """As DysmalPy writes its models: the flux, which stands first, was the velocity."""
    hdus = [fits.PrimaryHDU(MAPS["D"]), *(fits.ImageHDU(MAPS[name], name=name) for name in "VSEF")]
    keys = {key: f"m.fits[{name}]" for key, name in KEYS.items()} | {"density": "m.fits"} | IN_PIXELS
    for name, is_clear in (("PRIMARY", True), ("FLUX", False)):
        hdus[0].name = name
        fits.HDUList(hdus).writeto(tmp_path / "m.fits", overwrite=True)
        if is_clear:
            assert_same(described(tmp_path, {"gas": keys}).gas)
        else:
            assert_refused(tmp_path, {"gas": keys}, "m.fits holds several images, FLUX, V, S, E, F: say which is meant")
            assert_same(described(tmp_path, {"gas": keys | {"density": "m.fits[FLUX]"}}).gas)


def test_east_is_on_one_side_for_both_tracers(tmp_path):
    """Beside a map on the sky, one in pixels is taken to be drawn as it, and offsets to grow to the east."""
    images(tmp_path, sky_header())
    gas = {key: f"{name}.fits" for key, name in KEYS.items()}
    for name, values in MAPS.items():
        fits.PrimaryHDU(values).writeto(tmp_path / f"n{name}.fits")
    stars = {key: f"n{name}.fits" for key, name in KEYS.items()} | IN_PIXELS
    galaxy = described(tmp_path, {"gas": gas, "stars": stars}, centre_deg=list(CENTRE))
    for sky in galaxy.maps().values():
        assert_same(sky, east=-1)
    assert not galaxy.remarks_on["gas"]
    assert "East was taken to be on the left of the stars" in " ".join(galaxy.remarks_on["stars"])
    Table(rows()).write(tmp_path / "t.fits")
    in_table = {"table": "t.fits", "xy_unit": "arcsec"} | KEYS
    galaxy = described(tmp_path, {"gas": in_table, "stars": stars})
    assert_same(galaxy.gas)
    assert_same(galaxy.stars, east=-1)
    assert "x of the gas, offsets from the centre, was taken to grow to the east" in " ".join(galaxy.remarks_on["gas"])
    Table(rows(X=X[SEEN] / SIDE, Y=Y[SEEN] / SIDE)).write(tmp_path / "p.fits")
    in_pixels = in_table | {"table": "p.fits", "xy_unit": "pix", "pixel_arcsec": SIDE}
    for sky in described(tmp_path, {"gas": in_pixels, "stars": stars}).maps().values():
        assert_same(sky)
    for alone in ({"gas": in_table}, {"stars": stars}):
        galaxy = described(tmp_path, alone)
        assert_same(next(iter(galaxy.maps().values())))
        assert "east" not in " ".join(galaxy.remarks).lower()


def test_a_header_that_turns_its_pixels_twice(tmp_path):
    """CD and PC may say the same, as where one was made from the other; else programs differ on what counts."""
    scale, turned = SIDE / 3600, {"CDELT1": 1.0, "CDELT2": 1.0}
    cd = {"CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale}
    pc = {key.replace("CD", "PC"): value for key, value in cd.items()}
    assert_same(images(tmp_path, with_cards(**cd, **pc, **turned)).gas, east=-1)
    assert_same(images(tmp_path, with_cards(**cd, PC1_1=1.0)).gas, east=-1)
    for wrong in ({"PC1_1": 1.0} | turned, {"PC1_2": 0.3}, {"PC2_2": -1.0}):
        with pytest.raises(ValueError, match=r"turns and scales the pixels twice, by CD1_1 = -0\.000222"):
            images(tmp_path, with_cards(**cd, **wrong))


def test_a_unit_that_is_no_text(tmp_path):
    """A card BUNIT without a value, and one that is a number."""
    assert_same(images(tmp_path, fits.Header([*sky_header().cards, fits.Card.fromstring("BUNIT   =")])).gas, east=-1)
    with pytest.raises(ValueError, match=r"V\.fits is in '2\.5', which is no velocity"):
        images(tmp_path, with_cards(BUNIT=2.5))


def test_planes_along_the_last_axis_are_not_cut_across(tmp_path):
    """Row 1 of (Y, X, N) is no map of the velocity: it holds one row of every map."""
    cube = np.stack([np.where(SEEN, MAPS[name], np.nan) for name in KEYS.values()])
    keys = IN_PIXELS | {key: f"m.h5[maps,{i}]" for i, key in enumerate(KEYS)}
    for axis in (0, -1):
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file["maps"] = np.moveaxis(cube, 0, axis)
        if axis == 0:
            described(tmp_path, {"gas": keys})
    assert_refused(tmp_path, {"gas": keys}, r"\[maps,0\]: a plane of data of shape .* would be .* along the first")


@pytest.mark.parametrize("kind", ["spaxels", "bins"])
def test_a_unit_of_one_offset_alone_is_asked_about(tmp_path, kind):
    """Of x in half arcsec, or kpc, and y without a unit, y was arcsec: a map stretched along x."""
    table = Table(rows(X=2 * X[SEEN]), units={"X": "0.5 arcsec"})
    table.write(tmp_path / "t.ecsv")
    keys = {"table": "t.ecsv", "rows": kind} | KEYS
    with pytest.raises(ValueError, match=r"column X is in .0\.5 arcsec., and Y has no unit: say xy_unit, that of both"):
        described(tmp_path, {"gas": keys})
    table["X"] = X[SEEN]
    table["X"].unit = "arcsec"  # as y without a unit
    table.write(tmp_path / "t.ecsv", overwrite=True)
    described(tmp_path, {"gas": keys})


@pytest.mark.parametrize("kind", ["ecsv", "fits", "h5"])
@pytest.mark.parametrize("unit", ["dex(Msun/pc2)", "mag(AB/arcsec2)", "mag(1/arcsec2)", "dex(Lsun/pc2)"])
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_logarithms_of_astropys_tables(tmp_path, kind, unit):
    """FITS has no such units, and astropy keeps them in comments: magnitudes were taken for light."""
    log = (1.0 if unit.startswith("dex") else -2.5) * np.log10(MAPS["D"][SEEN])
    table = QTable(rows())
    table["D"] = log * u.Unit(unit)
    table["D"].info.description = "of which the text is longer than a card of a header, " * 2
    table.write(tmp_path / f"t.{kind}", **({"path": "t", "serialize_meta": True} if kind == "h5" else {}))
    found = described(tmp_path, {"gas": {"table": f"t.{kind}"} | KEYS})
    assert_same(found.gas if "Msun" not in unit else replace(found.gas, density=found.gas.density / 1e6))
    assert (found.calibrated == {"gas"}) == ("Msun" in unit)
    if kind == "fits":
        table["V"] = np.log10(MAPS["V"][SEEN]) * u.dex(u.km / u.s)
        table.write(tmp_path / "t.fits", overwrite=True)
        assert_refused(tmp_path, {"gas": {"table": "t.fits"} | KEYS}, r"V is in 'dex\(km / s\)', which is no velocity")


@pytest.mark.parametrize("kind", ["ecsv", "fits", "h5"])
def test_places_that_are_one_object_of_astropy(tmp_path, kind):
    """The names that its FITS files have for them were unknown in its other files."""
    places = WCS(sky_header()).pixel_to_world(IX[SEEN], IY[SEEN])
    table = QTable({"sky": places} | {name: values for name, values in rows().items() if name not in "XY"})
    table.write(tmp_path / f"t.{kind}", **({"path": "t", "serialize_meta": True} if kind == "h5" else {}))
    keys = {"table": f"t.{kind}", "x": "sky.ra", "y": "sky.dec"} | KEYS
    assert_same(described(tmp_path, {"gas": keys}, centre_deg=list(CENTRE)).gas, east=-1)
    with pytest.raises(ValueError, match=r"has no column sky\.b; there are"):
        described(tmp_path, {"gas": keys | {"y": "sky.b"}}, centre_deg=list(CENTRE))
    with pytest.raises(ValueError, match=r"has no column X, Y; .*; say x and y, the columns of the places"):
        described(tmp_path, {"gas": {"table": f"t.{kind}"} | KEYS}, centre_deg=list(CENTRE))


@pytest.mark.parametrize("names", [("GLON", "GLAT"), ("sky.l", "sky.b")])
def test_galactic_coordinates_in_a_table(tmp_path, names):
    """They were measured against centre_deg as if they were right ascension and declination."""
    places = WCS(sky_header()).pixel_to_world(IX[SEEN], IY[SEEN]).galactic
    table = QTable(dict(zip(names, (places.l, places.b), strict=True)) | rows())
    table.write(tmp_path / "t.ecsv")
    keys = {"table": "t.ecsv", "x": names[0], "y": names[1]} | KEYS
    assert_same(described(tmp_path, {"gas": keys}, centre_deg=list(CENTRE)).gas, east=-1)
    assert_refused(tmp_path, {"gas": keys}, r"are galactic coordinates: say centre_deg")


def test_a_declination_beyond_the_poles_is_named(tmp_path):
    places = WCS(sky_header()).pixel_to_world(IX[SEEN], IY[SEEN])
    declination = places.dec.deg.copy()
    declination[9] = 1e300
    QTable(rows() | {"X": places.ra, "Y": declination * u.deg}).write(tmp_path / "t.ecsv")
    keys = {"table": "t.ecsv"} | KEYS
    with pytest.raises(ValueError, match=r"t\.ecsv: column Y is 1e\+300 degrees in 1 of [0-9]+ rows, beyond the poles"):
        described(tmp_path, {"gas": keys}, centre_deg=list(CENTRE))


def test_comments_that_only_look_like_astropys_are_left_alone(tmp_path):
    Table(rows()).write(tmp_path / "t.fits")
    for text in ("datatype: [", "datatype:\n- {name: V, unit: !!python/name:os.system }", "datatype:\n- 3", "none"):
        with fits.open(tmp_path / "t.fits") as hdus:
            for line in (
                "--BEGIN-ASTROPY-SERIALIZED-COLUMNS--",
                *text.split("\n"),
                "--END-ASTROPY-SERIALIZED-COLUMNS--",
            ):
                hdus[1].header.add_comment(line)
            hdus.writeto(tmp_path / "u.fits", overwrite=True)
        assert_same(described(tmp_path, {"gas": {"table": "u.fits"} | KEYS}).gas)


def test_pixels_without_a_density_are_told_of(tmp_path):
    is_dark = SEEN & (X > 4)
    for dark in (-0.5, 0.0, np.nan):
        found = images(tmp_path, D=np.where(is_dark, dark, MAPS["D"]))
        said = f"{is_dark.sum()} of {SEEN.sum()} pixels of the gas have a velocity and no density above zero, and are l"
        assert any(remark.startswith(said) for remark in found.remarks)
    nothing = {"V": np.where(is_dark, 0.0, MAPS["V"]), "D": np.where(is_dark, 0.0, MAPS["D"])}
    assert not any("density above" in remark for remark in images(tmp_path, **nothing).remarks)


@pytest.mark.parametrize("kind", ["hdf5", "fits"])
def test_of_several_tables_the_one_with_the_columns_is_meant_or_none(tmp_path, kind):
    def write(*names):
        tables = {name: Table(rows(**({} if name == "gas" else {"V": MAPS["V"][SEEN] - 50}))) for name in names}
        other = Table({"name": np.arange(3.0)})
        if kind == "fits":
            hdus = [fits.BinTableHDU(table, name=name) for name, table in ({"summary": other} | tables).items()]
            fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "t.fits", overwrite=True)
            return "t.fits"
        with h5py.File(tmp_path / "t.h5", "w") as file:
            file["a/name"] = np.arange(3.0)
            for name, table in tables.items():
                for column in table.colnames:
                    file[f"maps/{name}/{column}"] = np.asarray(table[column])
        return "t.h5"

    assert_same(described(tmp_path, {"gas": {"table": write("gas")} | KEYS}).gas)
    file = write("stars", "gas")
    with pytest.raises(ValueError, match=r"holds several tables with these columns, .*(?i:stars)"):
        described(tmp_path, {"gas": {"table": file} | KEYS})  # the first was taken, of the stars
    named = f"{file}[gas]" if kind == "fits" else f"{file}[maps/gas]"
    assert_same(described(tmp_path, {"gas": {"table": named} | KEYS}).gas)
    if kind == "hdf5":
        with pytest.raises(ValueError, match="there is no gas; there are a, maps, maps/gas, maps/stars"):
            described(tmp_path, {"gas": {"table": f"{file}[gas]"} | KEYS})


def test_columns_of_vectors_hold_a_line_each(tmp_path):
    n = np.count_nonzero(SEEN)
    Table({"X": X[SEEN], "Y": Y[SEEN], "BIN_ID": np.arange(n), "D": MAPS["D"][SEEN]}).write(tmp_path / "spaxels.fits")
    lines = {name: np.stack([values[SEEN] + 9, values[SEEN]], 1) for name, values in MAPS.items() if name != "D"}
    Table(lines | {"BIN_ID": np.arange(n)}).write(tmp_path / "lines.fits")
    files = {"table": "spaxels.fits", "bins": "lines.fits"}
    keys = {key: name if name == "D" else f"{name}[1]" for key, name in KEYS.items()}
    assert_same(described(tmp_path, {"gas": files | keys}).gas)
    with pytest.raises(ValueError, match=r"spaxels.fits has no column V.*; lines.fits has V\[0\], V\[1\]"):
        described(tmp_path, {"gas": files | keys | {"velocity": "V"}})


def test_a_row_of_vectors_of_two_lengths_is_two_tables(tmp_path):
    n = np.count_nonzero(SEEN)
    of_spaxels = {"A": X[SEEN], "B": Y[SEEN], "FLUX": MAPS["D"][SEEN], "BINNUM": np.arange(n)[::-1]}
    of_bins = {name: np.append(MAPS[name][SEEN][::-1], [MAPS[name][SEEN][0]]) for name in "VSEF"}
    Table({name: values[None] for name, values in (of_spaxels | of_bins).items()}).write(tmp_path / "idl.fits")
    keys = KEYS | {"density": "FLUX", "table": "idl.fits", "x": "A", "y": "B", "bins": "idl.fits", "bin": "BINNUM"}
    assert_same(described(tmp_path, {"gas": keys | {"bins_start_at": 0}}).gas)


@pytest.mark.parametrize("kind", ["fits", "txt", "csv", "comment"])
def test_of_two_columns_of_one_name_none_is_meant(tmp_path, kind):
    other = MAPS["V"][SEEN] * 0.5
    arrays = [*rows().items(), ("V", other)]
    keys, words = {"table": f"t.{kind if kind != 'comment' else 'txt'}"} | KEYS, "two columns are called V: give each"
    if kind == "fits":
        Table(rows(W=other)).write(tmp_path / "t.fits")
        content = (tmp_path / "t.fits").read_bytes()
        (tmp_path / "t.fits").write_bytes(content.replace(b"'W       '", b"'V       '"))
    else:
        mark, apart = {"txt": ("", " "), "csv": ("", ","), "comment": ("# ", " ")}[kind]
        lines = [mark + apart.join(name for name, _ in arrays)]
        lines += [apart.join(map(str, row)) for row in zip(*(a for _, a in arrays), strict=True)]
        (tmp_path / keys["table"]).write_text("\n".join(lines))
    with pytest.raises(ValueError, match=words):  # the first was taken
        described(tmp_path, {"gas": keys})


def test_the_names_of_columns_may_stand_in_the_last_comment(tmp_path):
    table = rows()
    np.savetxt(tmp_path / "t.txt", np.column_stack(list(table.values())), header=f"my maps\n\n{' '.join(table)}")
    assert_same(described(tmp_path, {"gas": {"table": "t.txt"} | KEYS}).gas)


def test_north_is_up_for_galactic_coordinates_too(tmp_path):
    pixels = IX.ravel().astype(float), IY.ravel().astype(float)
    places = WCS(sky_header()).pixel_to_world(*pixels)
    for frame in (places, places.galactic, places.fk4):  # 60 degrees were between the first two
        header = fit_wcs_from_points(pixels, frame, projection="TAN").to_header()
        assert_same(images(tmp_path, header).gas, east=-1)


# ---- numbers that stand for nothing


@pytest.mark.parametrize(
    ("name", "number", "what"),
    [
        ("S", 999.0, "sigma"),
        ("D", 99.0, "the density"),
        ("E", 1e10, "the error of V"),
        ("F", 99.0, "the error of sigma"),
    ],
)
@pytest.mark.parametrize("share", ["most", "some"])
def test_a_number_for_nothing_in_most_of_a_frame_and_in_any_map(tmp_path, name, number, what, share):
    everywhere = {"V": np.where(SEEN, MAPS["V"], 2400 + 10.0 * IX), "S": np.where(SEEN, MAPS["S"], 30.0 + IX)}
    everywhere |= {"D": np.where(SEEN, MAPS["D"], 0.01 + 1e-3 * IX), "E": np.where(SEEN, MAPS["E"], 4 + 0.1 * IX)}
    others = (MAPS if share == "some" else everywhere) | {"F": np.where(SEEN, MAPS["F"], 4 + 0.1 * IX)}
    edge_arcsec = 7 if share == "some" else 9
    is_nothing = edge_arcsec < R
    filled = np.where(is_nothing, number, others[name])
    with pytest.raises(ValueError, match=re.escape(f"{what} of the gas is {number:.6g}")):
        images(tmp_path, **(others | {name: filled}))
    images(tmp_path, keys={"blank": number}, **(others | {name: filled}))


@pytest.mark.parametrize(("unit", "number"), [("dex", 99.0), ("mag/arcsec2", -99.0), ("dex", -99.0)])
def test_a_number_for_nothing_in_a_logarithm(tmp_path, unit, number):
    log = (1.0 if unit == "dex" else -2.5) * np.log10(MAPS["D"])
    assert_same(images(tmp_path, D=log, keys={"density_unit": unit}).gas)
    filled = np.where(R > 7, number, log)
    with pytest.raises(ValueError, match=f"the density of the gas is {number:.0f} exactly in"):  # all light was there
        images(tmp_path, D=filled, keys={"density_unit": unit})


@pytest.mark.parametrize("number", [-999.0, 0.0, 1e10])
def test_a_number_for_nothing_in_the_instruments_width(tmp_path, number):
    wide, width = np.hypot(MAPS["S"], 40.0), np.where(SEEN, 40.0, np.nan)
    fits.PrimaryHDU(width).writeto(tmp_path / "I.fits")
    keys = {"instrument_sigma": "I.fits"}
    np.testing.assert_allclose(images(tmp_path, S=wide, keys=keys).gas.dispersion_kms, MAPS["S"][SEEN])
    fits.PrimaryHDU(np.where(R > 7, number, width)).writeto(tmp_path / "I.fits", overwrite=True)
    with pytest.raises(ValueError, match=r"the instrument's width of the gas is \S+ km/s exactly in"):  # sigma was 0
        images(tmp_path, S=wide, keys=keys)
    left = images(tmp_path, S=wide, keys=keys | {"blank": number}).gas
    assert len(left.x_arcsec) == np.count_nonzero(R <= 7)


def said_of_one_number(tracer, velocity=MAPS["V"][SEEN], sigma=MAPS["S"][SEEN]):
    sky = SkyMap(X[SEEN], Y[SEEN], SIDE, MAPS["D"][SEEN], velocity, sigma)
    return [reason.text for reason in of_one_number({tracer: sky})]


def test_a_dispersion_that_is_one_number_in_a_part_of_the_map_speaks_against_it():
    velocity, sigma = MAPS["V"][SEEN], MAPS["S"][SEEN]
    n = len(sigma)
    at_limit = np.where(np.arange(n) % 3 == 0, 99.0, sigma)
    assert "99 km/s exactly in 34 % of its pixels" in said_of_one_number("gas", sigma=at_limit)[0]
    for harmless in (sigma, np.full(n, 10.0), np.where(at_limit == 99, 0.0, sigma), np.round(sigma, -1)):  # rounded
        assert said_of_one_number("gas", sigma=harmless) == []
    assert said_of_one_number("gas", np.where(at_limit == 99, 2500.0, velocity), at_limit) == []  # one bin


def binned(n_bins: int = 40) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The number of each pixel's bin (n,), and the means of the maps in bins, which are larger farther out."""
    x, y = X[SEEN], Y[SEEN]
    drawn = np.random.default_rng(1).choice(len(x), n_bins, replace=False, p=MAPS["D"][SEEN] / MAPS["D"][SEEN].sum())
    number = cKDTree(np.column_stack([x, y])[drawn]).query(np.column_stack([x, y]))[1]
    area = np.bincount(number)
    return number, {name: np.bincount(number, values[SEEN]) / area for name, values in MAPS.items()}


@pytest.mark.parametrize("kind", ["bins", "spaxels", "images"])
def test_a_density_of_bins_as_a_whole_is_told_from_one_per_area(tmp_path, kind):
    """As GIST fits lines to the sums of spaxels: a disc was shown as flat, with a good verdict."""
    number, of_bins = binned()
    of_bins["total"] = of_bins["D"] * np.bincount(number)
    maps = {name: values[number] for name, values in of_bins.items()}
    keys = dict(KEYS)
    if kind == "images":
        for name, values in maps.items():
            image = np.full((P, P), np.nan)
            image[SEEN] = values
            fits.PrimaryHDU(image).writeto(tmp_path / f"{name}.fits")
        keys = {key: f"{name}.fits" for key, name in KEYS.items()} | IN_PIXELS
    elif kind == "spaxels":
        Table({"X": X[SEEN], "Y": Y[SEEN]} | maps).write(tmp_path / "t.fits")
        keys["table"] = "t.fits"
    else:
        Table({"X": X[SEEN], "Y": Y[SEEN], "BIN_ID": number}).write(tmp_path / "t.fits")
        Table(of_bins).write(tmp_path / "b.fits")
        keys |= {"table": "t.fits", "bins": "b.fits"}

    def read(**more):
        return described(tmp_path, {"gas": keys | more})

    expected, total = read(), keys["density"].replace("D", "total")
    assert expected.doubts["gas"] == ()
    (doubt,) = read(density=total).doubts["gas"]
    assert re.match(r"The density of the gas grows with the area of bins, to a power of (0.9|1.0)", doubt)
    assert read(density=total, density_unit="arbitrary").doubts["gas"] == ()
    found = read(density=total, density_is="bin_total")
    assert found.doubts["gas"] == ()
    np.testing.assert_allclose(found.gas.density, expected.gas.density, rtol=1e-6)


def test_a_velocity_that_is_one_number_in_a_part_of_the_map_speaks_against_it():
    """As where a fit stayed at its first guess, the systemic velocity."""
    velocity, sigma = MAPS["V"][SEEN], MAPS["S"][SEEN]
    at_guess = np.where(np.arange(len(velocity)) % 4 == 0, 2500.0, velocity)
    assert (
        "The velocity of the stars is 2500 km/s exactly in 25 % of its pixels"
        in said_of_one_number("stars", at_guess)[0]
    )
    assert len(said_of_one_number("stars", at_guess - 2500.0)) == 1
    assert said_of_one_number("stars", at_guess, np.where(at_guess == 2500, 40.0, sigma)) == []  # one bin


def test_stars_that_move_as_in_no_galaxy_speak_against_a_result():
    velocity, ones = MAPS["V"][SEEN], np.ones(np.count_nonzero(SEEN))
    for sigma_kms, n in ((170.0, 0), (2.355 * 173, 1)):
        sky = SkyMap(X[SEEN], Y[SEEN], SIDE, ones, velocity, sigma_kms * ones)
        assert len(of_motions({"stars": sky})) == n


def test_one_side_of_a_galaxy_speaks_against_a_result():
    seen = {name: values[SEEN] for name, values in MAPS.items()}
    whole = SkyMap(X[SEEN], Y[SEEN], SIDE, seen["D"], seen["V"], seen["S"])
    assert of_sides({"gas": whole}) == of_sides({"gas": whole.chosen(whole.x_arcsec > -3)}) == []
    half = whole.chosen(whole.x_arcsec - whole.y_arcsec > 0.5)  # rotation was a third, the mass .4 dex too low
    assert "The stars are seen on one side of the centre alone" in of_sides({"stars": half})[0].text


# ---- what names say


@pytest.mark.parametrize("column", ["e_vel_Halpha", "EVPXF", "DVPXF", "emom1", "co_emom1", "NGC1.evcen", "e_V", "Verr"])
def test_errors_are_called_so_in_short(tmp_path, column):
    table = rows()
    table[column] = table["E"]
    Table(table).write(tmp_path / "t.fits")
    assert_same(described(tmp_path, {"gas": {"table": "t.fits"} | KEYS | {"velocity_error": column}}).gas)
    with pytest.raises(ValueError, match=f"velocity {column} is called an error"):
        described(tmp_path, {"gas": {"table": "t.fits"} | KEYS | {"velocity": column, "velocity_error": "V"}})


@pytest.mark.parametrize("name", ["STAT", "VAR", "VARMAP"])
def test_a_variance_is_known_by_its_name_and_a_squared_velocity(tmp_path, name):
    """As mpdaf writes it: without a unit, STAT was an error of 25 km/s instead of 5; with one, VAR was refused."""
    images(tmp_path)

    def read(unit, power, keys=()):
        maps = [MAPS["V"], MAPS["E"] ** power, MAPS["F"] ** power]
        names, bunits = ["DATA", name, f"{name}_S"], ["km/s", unit, unit]
        headers = [fits.Header({"BUNIT": bunit} if bunit else {}) for bunit in bunits]
        hdus = [fits.ImageHDU(m, h, name=n) for m, h, n in zip(maps, headers, names, strict=True)]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "m.fits", overwrite=True)
        files = {"velocity": "m.fits[DATA]", "dispersion": "S.fits", "density": "D.fits"} | IN_PIXELS
        return described(tmp_path, {"gas": files | dict(keys)}).gas

    errors = {"velocity_error": f"m.fits[{name}]", "dispersion_error": f"m.fits[{name}_S]"}
    assert_same(read("km2 s-2", 2, errors))
    with pytest.raises(ValueError, match=rf"velocity_error m.fits\[{name}\] is called a variance: give its root"):
        read(None, 2, errors)
    with pytest.raises(ValueError, match=rf"\[{name}\] is called a variance: give one over it, or its root as veloc"):
        read(None, 2, {"velocity_ivar": f"m.fits[{name}]"})
    assert read(None, 2, {"velocity_error": f"m.fits[{name}]", "velocity_error_unit": "km2/s2"}) is not None


@pytest.mark.parametrize("column", ["WEIGHT", "V_WHT", "wgt"])
def test_weights_are_called_inverse_variances(tmp_path, column):
    Table(rows() | {column: MAPS["E"][SEEN] ** -2.0}).write(tmp_path / "t.fits")
    keys = {"table": "t.fits"} | KEYS | {"velocity_error": None}
    assert_same(described(tmp_path, {"gas": keys | {"velocity_ivar": column}}).gas)
    assert_refused(
        tmp_path, {"gas": keys | {"velocity_error": column}}, "is called an inverse variance: say velocity_ivar"
    )


@pytest.mark.parametrize("column", ["log_Sigma", "logF", "lg_D", "ln.flux", "mag", "mu_mag", "Log10 (mass)"])
def test_a_density_that_is_called_a_logarithm_says_its_unit(tmp_path, column):
    table = Table(rows())
    table[column] = np.log10(table["D"])
    called_so = {"table": "t.fits"} | KEYS | {"density": column}
    for unit in (None, "Msun/pc2"):
        table[column].unit = unit
        table.write(tmp_path / "t.fits", overwrite=True)
        with pytest.raises(ValueError, match="is called a logarithm or a magnitude, and its file does not say so"):
            described(tmp_path, {"gas": called_so})
    assert_same(described(tmp_path, {"gas": called_so | {"density_unit": "dex"}}).gas)
    assert described(tmp_path, {"gas": called_so | {"density_unit": "dex(Msun/pc2)"}}).calibrated == {"gas"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"dispersion": "W80"}, "neither sigma nor a full width at half maximum: convert it"),
        ({"dispersion": "w_20"}, "neither sigma nor a full width at half maximum: convert it"),
        ({"dispersion": "cube_dV"}, "neither sigma nor .*: convert it .* the Doppler width dV 1.414 sigma"),
        ({"dispersion": "gdV"}, "neither sigma nor a full width at half maximum: convert it"),
        ({"dispersion": "HWHM"}, "neither sigma nor .* the half width HWHM 1.177 sigma"),
        ({"dispersion": "VDISP_FWHM"}, "is called a full width at half maximum: say dispersion_is: fwhm"),
        ({"dispersion": "full_width"}, "is called a full width at half maximum: say dispersion_is: fwhm"),
        ({"instrument_sigma": "LSF_FWHM"}, "instrument_sigma LSF_FWHM is called a full width at half maximum"),
    ],
)
def test_widths_of_other_kinds_are_called_so(tmp_path, keys, words):
    (column,) = keys.values()
    Table(rows() | {column: MAPS["S"][SEEN]}).write(tmp_path / "t.fits")
    assert_refused(tmp_path, {"gas": {"table": "t.fits"} | KEYS | keys}, words)
    if "dispersion" in keys:
        assert_same(described(tmp_path, {"gas": {"table": "t.fits"} | KEYS | keys | {"dispersion_is": "sigma"}}).gas)


@pytest.mark.parametrize(
    ("key", "file", "extension", "words"),
    [
        ("dispersion", "ha_fwhm.fits", "DATA", "is called a full width at half maximum"),
        ("velocity_error", "vel_ivar.fits", "SCI", "is called an inverse variance"),
        ("dispersion_error", "disp_variance.fits", "data", "is called a variance"),
        ("velocity", "vel_err.fits", "PRIMARY", "is called an error"),
        ("density", "log_ha.fits", "DATA", "is called a logarithm"),
    ],
)
def test_a_file_says_what_an_extension_of_any_map_holds(tmp_path, key, file, extension, words):
    """As mpdaf, whose files have DATA and STAT, and JWST's: full widths were taken for sigma, 2.35 times too large."""
    images(tmp_path)
    values = MAPS[KEYS[key]]
    first = [fits.PrimaryHDU(values)] if extension == "PRIMARY" else [fits.PrimaryHDU(), fits.ImageHDU(values)]
    first[-1].name = extension
    fits.HDUList([*first, fits.ImageHDU(values, name="STAT")]).writeto(tmp_path / file)
    files = {k: f"{name}.fits" for k, name in KEYS.items()} | IN_PIXELS | {key: f"{file}[{extension}]"}
    assert_refused(tmp_path, {"gas": files}, rf"{key} {file}\[{extension}\] {words}")
    fits.HDUList([*first, fits.ImageHDU(values, name="STAT")]).writeto(tmp_path / "m.fits")
    assert_same(described(tmp_path, {"gas": files | {key: f"m.fits[{extension}]"}}).gas)


@pytest.mark.parametrize("column", ["vel_disp_var", "sigma_sq", "sigma^2", "sigvar", "Sigma**2"])
def test_a_dispersion_that_is_called_a_variance_says_its_unit(tmp_path, column):
    """Of cold gas a variance passes for a dispersion: 15 km/s were 225."""
    squares = {column: MAPS["S"][SEEN] ** 2, "F": 2 * (MAPS["S"] * MAPS["F"])[SEEN]}
    table = Table(rows() | squares)
    keys = {"table": "t.fits"} | KEYS | {"dispersion": column}
    table.write(tmp_path / "t.fits")
    assert_refused(tmp_path, {"gas": keys}, "is called a variance, and its file does not say so: say dispersion_unit")
    assert_same(described(tmp_path, {"gas": keys | {"dispersion_unit": "km2/s2"}}).gas)
    table[column].unit = "km2 s-2"
    table.write(tmp_path / "t.fits", overwrite=True)
    assert_same(described(tmp_path, {"gas": keys}).gas)


def test_maps_of_the_other_tracer_are_called_so(tmp_path):
    columns = {"STELLAR_VEL": MAPS["V"][SEEN], "Ha_vel": MAPS["V"][SEEN] + 1}
    Table(rows() | columns).write(tmp_path / "t.fits")
    files = {"table": "t.fits"} | KEYS
    stars, gas = files | {"velocity": "STELLAR_VEL"}, files | {"velocity": "Ha_vel"}
    assert described(tmp_path, {"stars": stars, "gas": gas}).remarks == ()
    assert "stars, Ha_vel, is called one of gas" in described(tmp_path, {"stars": gas, "gas": stars}).remarks[-1]
    assert_refused(tmp_path, {"stars": files, "gas": files}, "gas and stars have one velocity, V: give each its own")


# ---- conventions


def test_errors_of_cz_are_brought_to_the_galaxys_frame_as_differences_are(tmp_path):
    z = 1.5
    v_kms = 299792.458 * z + (1 + z) * (MAPS["V"] - 2500)
    wide = {name: (1 + z) * MAPS[name] for name in "SEF"}
    keys = {"convention": "optical"}
    found = images(tmp_path, V=v_kms, keys=keys, **wide).gas
    for name, values in (
        ("S", found.dispersion_kms),
        ("E", found.velocity_error_kms),
        ("F", found.dispersion_error_kms),
    ):
        np.testing.assert_allclose(values, MAPS[name][SEEN], rtol=2e-3)


@pytest.mark.parametrize(
    ("cards", "told"),
    [({"VELREF": 257}, "radio"), ({"VELREF": 2}, "optical"), ({"CTYPE3": "VRAD"}, "radio"),
     ({"CTYPE3": "VOPT-F2W", "VELREF": 257}, "optical"), ({"CTYPE3": "FELO-LSR", "VELREF": 1}, "optical"),
     ({"CTYPE3": "VELO-LSR", "VELREF": 258}, "radio"), ({"CTYPE3": "FREQ", "VELREF": 0}, None)],
)  # fmt: skip
def test_a_header_tells_the_convention_of_its_velocities(tmp_path, cards, told):
    """As CASA and AIPS write it: radio velocities at z = .07 that were said to be c z gave masses .12 dex too low."""
    header, z = with_cards(**cards), 0.07
    at_rest = MAPS["V"] - 2500
    one_plus_z = (1 + z) * (1 + at_rest / 299792.458)
    v_kms = 299792.458 * (1 - 1 / one_plus_z if told == "radio" else one_plus_z - 1)
    wide = {name: MAPS[name] * (1 / (1 + z) if told == "radio" else 1 + z) for name in "SEF"}
    found = images(tmp_path, header, V=v_kms, **wide)
    if told is None:
        assert not found.remarks
    else:
        assert "in its header says; if its differences are in the galaxy's frame say" in " ".join(found.remarks)
        expected = images(tmp_path, header, {"convention": told}, V=v_kms, **wide)
        assert not expected.remarks
        for name in ("velocity_kms", "dispersion_kms", "velocity_error_kms"):
            np.testing.assert_array_equal(getattr(found.gas, name), getattr(expected.gas, name))
        np.testing.assert_allclose(found.gas.dispersion_kms, MAPS["S"][SEEN], rtol=1e-2)
        other = {"optical": "radio", "radio": "optical"}[told]
        for said, share in ((other, 1.07**2), ("rest", 1.07)):
            (doubt,) = images(tmp_path, header, {"convention": said}, V=v_kms, **wide).doubts["gas"]
            found_share = re.fullmatch(
                rf"V of the gas is {told} by \w+ = .* and convention: {said} .* (\d+) % off.*", doubt
            )
            assert int(found_share[1]) == pytest.approx(100 * (share - 1), abs=2)
    # About a mean, and of near galaxies, it does not matter, or is not known.
    for values in (at_rest, MAPS["V"]):
        near = images(tmp_path, header, V=values)
        np.testing.assert_allclose(near.gas.velocity_kms, values[SEEN])
        assert not near.doubts["gas"]
        assert not near.remarks


def test_moments_in_frequencies_are_velocities(tmp_path):
    rest_hz, v_over_c = 1.420405752e9, MAPS["V"] / 299792.458
    wide = {name: MAPS[name] / 299792.458 * rest_hz / (1 + v_over_c) ** 2 for name in "SEF"}
    in_hz = {"V": rest_hz / (1 + v_over_c)} | wide
    with pytest.raises(ValueError, match=r"V\.fits is in Hz: convert it to km/s, or add RESTFRQ"):
        images(tmp_path, with_cards(BUNIT="Hz"), **in_hz)
    header = with_cards(BUNIT="Hz", RESTFRQ=rest_hz)
    found = images(tmp_path, header, {"density_unit": "Jy Hz"}, **in_hz)
    expected = images(tmp_path, sky_header(), {"convention": "optical"})
    header = with_cards(BUNIT="Hz", RESTFRQ=rest_hz)  # which is the cube's
    said = {"velocity_unit": "km/s", "dispersion_unit": "km/s", "velocity_error_unit": "km/s", "density_unit": "Jy"}
    kept = images(tmp_path, header, said | {"convention": "optical"}).gas
    np.testing.assert_allclose(kept.velocity_kms, expected.gas.velocity_kms)
    assert found.redshifts["gas"] == pytest.approx(expected.redshifts["gas"])
    for name in ("velocity_kms", "dispersion_kms", "velocity_error_kms", "dispersion_error_kms"):
        np.testing.assert_allclose(getattr(found.gas, name), getattr(expected.gas, name), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", ["km2/s2", "(km/s)^2", "m2 s-2"])
def test_an_error_in_squared_velocities_is_a_variance(tmp_path, unit):
    def write(errors, unit_of_errors, column="E"):
        arrays = rows(**{column: errors})
        units = {column: unit_of_errors}
        columns = [fits.Column(name, "D", array=values, unit=units.get(name)) for name, values in arrays.items()]
        fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits", overwrite=True)

    write((1e6 if unit == "m2 s-2" else 1) * MAPS["E"][SEEN] ** 2, unit)
    assert_same(described(tmp_path, {"gas": {"table": "t.fits"} | KEYS}).gas)
    write(2 * MAPS["S"][SEEN] * MAPS["F"][SEEN], unit, "F")  # the error of a variance
    assert_refused(tmp_path, {"gas": {"table": "t.fits"} | KEYS}, r"F is in .* which is no velocity")
    write(MAPS["E"][SEEN] ** -2, "(km/s)^-2")
    assert_refused(tmp_path, {"gas": {"table": "t.fits"} | KEYS}, r"velocity_error E is in .* say velocity_ivar")


#: Cards that say which kind of an error a map holds, and this kind of the galaxy's errors.
KINDS_OF_ERRORS = [
    ("UTYPE", "StdDevUncertainty", lambda e: e), ("HDUCLAS3", "RMSE", lambda e: e),
    ("UTYPE", "VarianceUncertainty", lambda e: e**2), ("HDUCLAS3", "MSE", lambda e: e**2),
    ("UTYPE", "InverseVariance", lambda e: e**-2.0), ("HDUCLAS3", "INVMSE", lambda e: e**-2.0),
    ("HDUCLAS3", "invrmse", lambda e: e**-1.0),
]  # fmt: skip


@pytest.mark.parametrize(("card", "kind", "written"), KINDS_OF_ERRORS)
@pytest.mark.parametrize("what", ["velocity", "dispersion"])
def test_which_kind_of_an_error_its_header_says(tmp_path, card, kind, written, what):
    """As astropy's CCDData, ESO's and SDSS' files: variances were errors of 64 km/s instead of 8."""
    images(tmp_path)
    files = {key: f"{name}.fits" for key, name in KEYS.items() if key != f"{what}_error"} | IN_PIXELS
    error = MAPS["E" if what == "velocity" else "F"]

    def read(unit=None, of_one=1.0, **keys):
        header = fits.Header({card: kind} | ({"BUNIT": unit} if unit else {}))
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(written(error / of_one), header, name="UNCERT")]
        fits.HDUList(hdus).writeto(tmp_path / "u.fits", overwrite=True)
        return described(tmp_path, {"gas": files | keys}).gas

    as_error, as_inverse = {f"{what}_error": "u.fits[1]"}, {f"{what}_ivar": "u.fits[1]"}
    by_card = rf"u.fits\[1\] is an? .* by {card} = '{kind}' in its header"
    if kind.lower().startswith("inv"):
        with pytest.raises(
            ValueError, match=rf"{by_card}: (say {what}_ivar|give one over it); if the key is right say"
        ):
            read(**as_error)
        if kind != "invrmse":
            assert_same(read(**as_inverse))
            assert_same(read("(m/s)^-2", 1e-3, **as_inverse))
    else:
        with pytest.raises(
            ValueError, match=f"{by_card}: say {what}_error; if the key is right say velocity_error_unit"
        ):
            read(**as_inverse)
        for unit, of_one in ((None, 1.0), ("m/s", 1e-3), ("m2/s2", 1e-3)):
            if unit != "m2/s2" or kind in ("VarianceUncertainty", "MSE"):
                assert_same(read(unit, of_one, **as_error))
    with pytest.raises(ValueError, match=f"{by_card}: give the map itself; if the key is right say density_unit"):
        read(density="u.fits[1]")
    read(density="u.fits[1]", density_unit="arbitrary")


@pytest.mark.parametrize("centre", [(0.0, 0.0), (359.9995, 0.0), (0.0005, -30.0)])
def test_right_ascensions_on_both_sides_of_zero(tmp_path, centre):
    places = WCS(with_cards(CRVAL1=centre[0], CRVAL2=centre[1])).pixel_to_world(IX[SEEN], IY[SEEN])
    assert np.ptp(places.ra.deg) > 350
    arrays = rows(X=places.ra.deg, Y=places.dec.deg)
    Table(arrays, units={"X": "deg", "Y": "deg"}).write(tmp_path / "t.fits")
    found = described(tmp_path, {"gas": {"table": "t.fits"} | KEYS}, centre_deg=list(centre))
    assert_same(found.gas, east=-1)


def test_how_much_within_kms_leaves_out_is_said(tmp_path):
    found = images(tmp_path, keys={"within_kms": 100.0}, top={"systemic_kms": 2500.0})
    n_beyond = np.count_nonzero(np.abs(MAPS["V"][SEEN] - 2500) > 100)
    assert f"within_kms leaves out {n_beyond} of {SEEN.sum()} pixels of the gas." in found.remarks


@pytest.mark.parametrize("unit", [r"M$_\odot$ pc$^{-2}$", "M⊙/pc²", r"$M_\odot\,pc^{-2}$"])
def test_solar_masses_in_tex(unit):
    assert read_density("D", np.ones(3), unit, 1.0, 20.0).msun_kpc2 == pytest.approx(1e6)


def test_several_masks_are_one(tmp_path):
    left = np.where(IX < 8, 1, 0).astype(np.int16)
    right = np.where(IX > 16, 4096, 0).astype(np.int16)
    for name, mask in (("left", left), ("right", right)):
        fits.PrimaryHDU(mask).writeto(tmp_path / f"{name}.fits")
    is_good = SEEN & (IX >= 8) & (IX <= 16)
    found = images(tmp_path, keys={"mask": ["left.fits", "right.fits"]}).gas
    assert len(found.x_arcsec) == np.count_nonzero(is_good)
    Table(rows(left=left[SEEN], right=right[SEEN])).write(tmp_path / "t.fits")
    found = described(tmp_path, {"gas": {"table": "t.fits", "mask": ["left", "right"]} | KEYS}).gas
    assert len(found.x_arcsec) == np.count_nonzero(is_good)


@pytest.mark.parametrize(
    ("kind", "sense"), [("MASKONE", "good"), ("MASKZERO", "bad"), ("FLAG32BIT", "bad"), ("", "bad")]
)
def test_which_pixels_a_mask_marks_its_header_says(tmp_path, kind, sense):
    is_good = SEEN & (IX >= 8)
    marked = is_good if sense == "good" else ~is_good
    fits.PrimaryHDU(marked.astype(np.int16), fits.Header({"HDUCLAS3": kind})).writeto(tmp_path / "m.fits")
    for said in ({}, {"mask_is": sense}):
        if kind == "MASKONE" and not said:
            with pytest.raises(ValueError, match=r"mask m.fits is zero in bad pixels by HDUCLAS3 = 'MASKONE' in "):
                images(tmp_path, keys={"mask": "m.fits"})
            continue
        found = images(tmp_path, keys={"mask": "m.fits"} | said)
        assert len(found.gas.x_arcsec) == np.count_nonzero(is_good)
        assert not any("mask" in remark for remark in found.remarks)
    other = images(tmp_path, keys={"mask": "m.fits", "mask_is": {"good": "bad", "bad": "good"}[sense]})
    assert len(other.gas.x_arcsec) == np.count_nonzero(SEEN & ~is_good)
    said = f"mask m.fits is not zero in {sense} pixels by HDUCLAS3 = '{kind}' in its header, and mask_is says"
    assert any(said in remark for remark in other.remarks) == bool(kind)


def test_right_ascension_without_a_projection_is_refused(tmp_path):
    header = with_cards(CTYPE1="RA", CTYPE2="DEC")
    with pytest.raises(ValueError, match=r"pixels lie 0.61\d and 0.8 arcsec apart on the sky, .* mend CTYPE"):
        images(tmp_path, header)


def test_numbers_of_pixels_may_be_of_their_middles(tmp_path):
    Table(rows(X=IX[SEEN] + 0.5, Y=IY[SEEN] + 0.5)).write(tmp_path / "t.fits")
    assert_refused(tmp_path, {"gas": {"table": "t.fits"} | KEYS}, "look like numbers of pixels")
    keys = {"table": "t.fits", "xy_unit": "pix", "pixel_arcsec": SIDE, "centre_pixel": [P / 2, P / 2]}
    assert_same(described(tmp_path, {"gas": keys | KEYS}).gas)


def test_csv_as_pandas_writes_it(tmp_path):
    frame = pd.DataFrame(rows())
    frame.loc[3, "V"] = np.nan
    frame.to_csv(tmp_path / "t.csv", na_rep="None")
    assert len(described(tmp_path, {"gas": {"table": "t.csv"} | KEYS}).gas.x_arcsec) == len(frame) - 1


def test_truths_as_pandas_writes_them_are_a_mask(tmp_path):
    """As FITS and ECSV have them; an empty field is not known to be good."""
    bad = np.where(X[SEEN] > 0, "True", "False").astype(object)
    for kept, missing in ((X[SEEN] <= 0, None), ((X[SEEN] <= 0) & (Y[SEEN] != 0), Y[SEEN] == 0)):
        frame = pd.DataFrame(rows() | {"bad": bad if missing is None else np.where(missing, None, bad), "remark": None})
        for name in ("t.csv", "t.tsv"):
            frame.to_csv(tmp_path / name, sep="," if name == "t.csv" else "\t", index=False)
            gas = described(tmp_path, {"gas": {"table": name, "mask": "bad"} | KEYS}).gas
            assert len(gas.x_arcsec) == np.count_nonzero(kept)


def csv_of(table: dict[str, np.ndarray], between: tuple[str, ...] = ()) -> str:
    """A text of a table, with lines between its names and its numbers."""
    numbers = [",".join(map(repr, map(float, row))) for row in zip(*table.values(), strict=True)]
    return "\n".join([",".join(table), *between, *numbers]) + "\n"


def in_encoding(name: str, text: str) -> bytes:
    if name == "latin-1":
        return ("# R\xe9sultats\n" + text).encode("latin-1")
    return text.replace("\n", "\r" if name == "mac" else "\r\n").encode("utf-8" if name == "mac" else name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "mac"])
@pytest.mark.parametrize("suffix", [".csv", ".txt", ".csv.gz"])
def test_texts_in_any_encoding(tmp_path, encoding, suffix):
    """Excel's mark made the first column's name another one, and a letter in a comment ended in a codec's words."""
    content = in_encoding(encoding, csv_of(rows()))
    (tmp_path / f"t{suffix}").write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    assert_same(described(tmp_path, {"gas": {"table": f"t{suffix}"} | KEYS}).gas)


@pytest.mark.parametrize(
    ("units", "between"),
    [("arcmin,arcmin,m/s,km/s,Lsun/pc2,km/s,km/s", ","), ("[arcmin],[arcmin],[m/s],[km/s],,(km/s),-", ","),
     ('"arcmin","arcmin","m/s","km/s","","",""', ","), ("# arcmin, arcmin, m/s, km/s, Lsun/pc2, km/s, km/s", ","),
     ("arcmin arcmin m/s km/s Lsun/pc2 - km/s", " "), ("# [arcmin] [arcmin] [m/s] [km/s] - - -", " ")],
)  # fmt: skip
def test_a_line_below_the_names_holds_their_units(tmp_path, units, between):
    """Units in a comment were left out: places in arcmin were taken for arcsec."""
    text = csv_of(rows(X=X[SEEN] / 60, Y=Y[SEEN] / 60, V=1e3 * MAPS["V"][SEEN]), (units,))
    if between == " ":
        text = "# " + text.replace(",", " ")
    (tmp_path / "t.txt").write_text(text)
    assert_same(described(tmp_path, {"gas": {"table": "t.txt"} | KEYS}).gas)


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("brackets", ["[]", "()"])
@pytest.mark.parametrize(
    ("begin", "between", "of_numbers"), [("", ",", ","), ("# ", ", ", ","), ("", " ", " "), ("# ", " ", " "),
                                         ("", "\t", "\t"), ("# ", "\t", "\t")],
)  # fmt: skip
def test_a_column_is_named_without_the_unit_in_brackets_after_it(tmp_path, begin, between, of_numbers, brackets, blank):
    """`velocity: V` of a column `V [km/s]` was said not to be there, and lines with blanks before brackets not read."""
    units = {"X": "arcmin", "Y": "arcmin", "V": "m/s", "S": "km/s", "E": "km/s"}
    called = [f"{name}{blank}{brackets[0]}{units[name]}{brackets[1]}" if name in units else name for name in rows()]
    _, text = csv_of(rows(X=X[SEEN] / 60, Y=Y[SEEN] / 60, V=1e3 * MAPS["V"][SEEN])).split("\n", 1)
    (tmp_path / "t.txt").write_text(f"{begin}{between.join(called)}\n{text.replace(',', of_numbers)}")
    assert_same(described(tmp_path, {"gas": {"table": "t.txt"} | KEYS}).gas)
    whole = {"velocity": "V [m/s]"} if brackets == "[]" else {"velocity": "V (m/s)"}
    assert_same(described(tmp_path, {"gas": {"table": "t.txt"} | KEYS | whole}).gas)


@pytest.mark.parametrize(
    "line", ["# column {}: {} [{}]", "# ({}) {}  of the galaxy ({})", "#{} {}  some words in {}", "% Col {} = {}, {}",
             "!  {} - {}: what it is [{}]", "# {}: {} {}"],
)  # fmt: skip
@pytest.mark.parametrize("first", [0, 1])
def test_a_comment_for_each_column_names_it(tmp_path, line, first):
    """Columns were col1 to col7, and places in arcmin would have been taken for arcsec."""
    units = {"X": "arcmin", "Y": "arcmin", "V": "m/s", "D": "-", "E": "km s-1" if "[" in line else "km/s"}
    table = rows(X=X[SEEN] / 60, Y=Y[SEEN] / 60, V=1e3 * MAPS["V"][SEEN])
    head = [line.format(first + i, name, units.get(name, "km/s")) for i, name in enumerate(table)]
    text = csv_of(table).replace(",", " ").split("\n", 1)[1]
    comments = [head[0][0] + " my maps of V in some galaxy", *head, head[0][0] + " 77 rows"]
    (tmp_path / "t.txt").write_text("\n".join([*comments, text]))
    assert_same(described(tmp_path, {"gas": {"table": "t.txt"} | KEYS}).gas)


@pytest.mark.parametrize(
    ("begin", "between"), [("#", ", "), ("% ", " "), ("! ", " | "), ("; ", ", "), ("// ", " "), ("## ", " ")]
)
def test_a_comment_with_the_names_begins_and_parts_them_in_any_way(tmp_path, begin, between):
    for blank in ("", " "):
        called = [f"{name}{blank}(m/s)" if name == "V" else name for name in rows()]
        text = csv_of(rows(V=1e3 * MAPS["V"][SEEN])).replace(",", " ").split("\n", 1)[1]
        (tmp_path / "t.dat").write_text(f"{begin}by me, in 2026\n{begin}{between.join(called)}\n{text}")
        assert_same(described(tmp_path, {"gas": {"table": "t.dat", "xy_unit": "arcsec"} | KEYS}).gas)


def test_a_name_that_two_columns_have_with_their_units_is_neither(tmp_path):
    (tmp_path / "t.csv").write_text(csv_of(rows() | {"W [km/s]": MAPS["V"][SEEN], "W [m/s]": 1e3 * MAPS["V"][SEEN]}))
    assert_refused(tmp_path, {"gas": {"table": "t.csv"} | KEYS | {"velocity": "W"}}, "no column W; there are .*W .km/s")


@pytest.mark.parametrize("line", [0, 1, 2, 3])
def test_the_number_of_an_element_is_no_unit(tmp_path, line):
    """A velocity `V[2]` of a column of vectors without a unit was said to be in '2', which is no velocity."""
    others = [MAPS["V"][SEEN] + 100 + i for i in range(4)]
    others[line] = MAPS["V"][SEEN]
    Table(rows(V=np.stack(others, axis=1))).write(tmp_path / "t.fits")
    assert_same(described(tmp_path, {"gas": {"table": "t.fits"} | KEYS | {"velocity": f"V[{line}]"}}).gas)


@pytest.mark.parametrize("style", ["fixed_width", "fixed_width_two_line", "markdown", "sql", "rst", "ipac"])
@pytest.mark.parametrize("units", [False, True])
def test_tables_in_frames(tmp_path, style, units):
    """Bars at both ends of all lines were two columns more, and Markdown's first numbers were units."""
    table = Table(rows(X=X[SEEN] / 60, Y=Y[SEEN] / 60) if units else rows())
    table.add_row([np.nan] * len(table.colnames))
    text = io.StringIO()
    is_framed = style in ("fixed_width", "markdown", "sql")
    table.write(text, format="ascii.fixed_width" if is_framed else f"ascii.{style}")
    lines, n_columns = text.getvalue().splitlines(), len(table.colnames)
    if style == "markdown":
        lines.insert(1, "|" + " :--- |" * n_columns)
    if style == "sql":
        dashes = "+" + "---+" * n_columns
        lines = [dashes, lines[0], dashes, *lines[1:], dashes]
    if units and is_framed:
        lines.insert(2 if style == "sql" else 1, "| arcmin | arcmin | km/s | km/s | Lsun/pc2 | km/s | km/s |")
    (tmp_path / "t.tbl").write_text("\n".join(["# maps", "", *lines, ""]) if style != "ipac" else "\n".join(lines))
    unit = {"xy_unit": "arcmin"} if units and not is_framed else {}
    assert_same(described(tmp_path, {"gas": {"table": "t.tbl"} | KEYS | unit}).gas)


@pytest.mark.parametrize("words", ["offset,offset,mean,width,light,error,error", "arcsec,arcsec,km/s,km/s,L,parrots,"])
def test_a_line_below_the_names_that_is_no_units_is_named(tmp_path, words):
    (tmp_path / "t.csv").write_text(csv_of(rows(), (words,)))
    with pytest.raises(ValueError, match=r"t.csv cannot be read .*below the line of names stands \S+, .* leave that"):
        described(tmp_path, {"gas": {"table": "t.csv"} | KEYS})


def test_comments_of_as_many_words_are_no_units(tmp_path):
    comments = ("a b c d e f g", "1 2 3 4 5 6 7", "my maps of V in some galaxy", "S V A g K J s", "1 galaxy", "77 rows")
    for comment in comments:
        (tmp_path / "t.txt").write_text(f"# {comment}\n" + csv_of(rows()).replace(",", " "))
        assert_same(described(tmp_path, {"gas": {"table": "t.txt"} | KEYS}).gas)


def test_of_several_tables_of_a_votable_one_is_named(tmp_path):
    """astropy's `table_id=`, of which the error spoke, is no key here."""
    tables = {"notes": {"a": np.arange(3.0)}, "other": rows(V=MAPS["V"][SEEN] - 50), "maps": rows()}
    for name, table in tables.items():
        write_votable(Table(table), tmp_path / f"{name}.vot")
    head, _, tail = re.split(r"(?s)(<TABLE.*</TABLE>)", (tmp_path / "maps.vot").read_text())

    def written(*names):
        parts = [re.search(r"(?s)<TABLE.*</TABLE>", (tmp_path / f"{name}.vot").read_text())[0] for name in names]
        named = [part.replace("<TABLE", f'<TABLE name="{name}"', 1) for name, part in zip(names, parts, strict=True)]
        (tmp_path / "t.vot").write_text(head + "".join(re.sub(r' ID="[^"]*"', "", part) for part in named) + tail)

    written("notes", "other", "maps")
    keys = {"table": "t.vot"} | KEYS
    with pytest.raises(
        ValueError, match=r"t.vot holds several tables with these columns, other, maps: say .* FILE.EXT"
    ):
        described(tmp_path, {"gas": keys})
    assert_same(described(tmp_path, {"gas": keys | {"table": "t.vot[maps]"}}).gas)
    assert_refused(tmp_path, {"gas": keys | {"table": "t.vot[map]"}}, "there is no map; there are notes, other, maps")
    written("notes", "maps")
    assert_same(described(tmp_path, {"gas": keys}).gas)


@pytest.mark.parametrize("kind", ["csv.gz", "ecsv.gz", "vot.gz", "fits.gz", "fits.bz2", "h5", "fits"])
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_table_is_said_to_be(tmp_path, kind, damage):
    """Compressed files ended in a traceback."""
    path, (bare, *compressed) = tmp_path / f"t.{kind}", kind.split(".")
    how = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "fits": "fits", "h5": "hdf5"}
    if bare == "vot":
        write_votable(Table(rows()), tmp_path / "u.vot")
    else:
        Table(rows()).write(tmp_path / f"u.{bare}", format=how[bare], **({"path": "t"} if bare == "h5" else {}))
    content = (tmp_path / f"u.{bare}").read_bytes()
    for opener in compressed:
        content = {"gz": gzip, "bz2": bz2}[opener].compress(content)
    keys = {"table": path.name} | KEYS
    path.write_bytes(content)
    assert_same(described(tmp_path, {"gas": keys}).gas)
    start = content.find(b"TTYPE3") if kind == "fits" else 12  # numbers of FITS may be any
    spoilt = content[:start] + b"\0\xff\x55\xaa" * 20 + content[start + 80 :]
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else spoilt)
    assert_refused(tmp_path, {"gas": keys}, rf"t\.{re.escape(kind)}\b.*(damaged|cannot be read|no such table)")


def test_a_compressed_file_that_is_damaged_behind_a_map_is_named(tmp_path):
    """What reads the headers behind it raises errors of its own, which named no file."""
    fits.HDUList([fits.PrimaryHDU(MAPS["V"]), *(fits.ImageHDU(n, name="noise") for n in [*NOISE] * 8)]).writeto(
        tmp_path / "V.fits"
    )
    content = bytearray(gzip.compress((tmp_path / "V.fits").read_bytes()))
    middle = len(content) // 2
    content[middle : middle + 40] = b"\x55" * 40
    (tmp_path / "V.fits.gz").write_bytes(bytes(content))
    assert_refused(tmp_path, {"gas": {"velocity": "V.fits.gz"} | IN_PIXELS}, r"gas: V\.fits\.gz is damaged")


# ---- the YAML file


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"distance_mpc": "40 Mpc"}, "`distance_mpc`: must be a number alone, without a unit, not '40 Mpc'"),
        ({"distance_mpc": 1.2e4, "half_light_radius_arcsec": 0.5}, "larger than any angular diameter distance"),
        ({"distance_mpc": True}, "distance_mpc must not be true: leave it out"),
        ({"centre_deg": "10h00m00s +40d00m00s"}, r"must be in degrees: .* is \[150.000000, 40.000000\]"),
        ({"centre_deg": ["10:00:00", "-40:30:00"]}, r"must be in degrees: .* is \[150.000000, -40.500000\]"),
        ({"centre_deg": ["10h", "north"]}, r"must be \[right ascension, declination\] in degrees"),
        ({"half_light_radius_kpc": 2.0}, "did you mean `half_light_radius_arcsec`. It is in arcsec: convert the value"),
        ({"centre_pixel": [9, 9]}, "key `centre_pixel` belongs below `gas` or `stars`, indented"),
        ({"stars": {"velocity": "V.fits", "centre_deg": [1, 2]}}, "key `stars.centre_deg` belongs outside of `stars`"),
    ],
)
def test_values_with_units_are_refused_with_what_to_write(tmp_path, keys, words):
    assert_refused(tmp_path, {"gas": {"velocity": "V.fits"}}, words, **keys)
    with pytest.raises(ValueError, match="beam_fwhm_arcsec must not be false"):
        described(tmp_path, {"gas": {"velocity": "V.fits", "beam_fwhm_arcsec": False}})


# ---- what files and their makers' habits leave open


@pytest.mark.parametrize("kind", ["fits", "cube", "hdf5", "hdf5 table", "table", "bins"])
def test_an_instruments_width_beside_a_dispersion_is_not_forgotten(tmp_path, kind):
    """As MaNGA's STELLAR_SIGMACORR and EMLINE_INSTSIGMA, or PHANGS' HA6562_SIGMA_CORR; that of another map is none."""

    def read(width, **keys):
        maps = {f"HA_{name}": values for name, values in MAPS.items()} | {width: np.full((P, P), 20.0)}
        if kind == "fits":
            hdus = [fits.ImageHDU(values, name=name) for name, values in maps.items()]
            fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "m.fits", overwrite=True)
            files, place = IN_PIXELS, "m.fits[{}]"
        elif kind == "cube":
            names = {f"DESC_{i}": name.replace("_", " ") for i, name in enumerate(maps)}
            cube = fits.ImageHDU(np.stack(list(maps.values())), fits.Header(names), name="KINEMATICS")
            fits.HDUList([fits.PrimaryHDU(), cube]).writeto(tmp_path / "c.fits", overwrite=True)
            numbers = {name: i for i, name in enumerate(maps)}
            names = {key: f"c.fits[KINEMATICS,{numbers[f'HA_{name}']}]" for key, name in KEYS.items()}
            names |= {key: f"c.fits[KINEMATICS,{width.replace('_', ' ')}]" for key in keys}
            return described(tmp_path, {"gas": IN_PIXELS | names}).gas
        elif kind == "hdf5":
            with h5py.File(tmp_path / "m.h5", "w") as file:
                for name, values in maps.items():
                    file[f"gas/{name}"] = values
            files, place = IN_PIXELS, "m.h5[gas/{}]"
        elif kind == "hdf5 table":
            columns = {name: values[SEEN] for name, values in maps.items()} | {"X": X[SEEN], "Y": Y[SEEN]}
            Table(columns).write(tmp_path / "t.h5", path="maps", overwrite=True)
            files, place = {"table": "t.h5", "xy_unit": "arcsec"}, "{}"
        else:
            numbers = {"BIN_ID": np.arange(np.count_nonzero(SEEN))}
            columns = {name: values[SEEN] for name, values in maps.items()} | numbers
            Table({"X": X[SEEN], "Y": Y[SEEN]} | (columns if kind == "table" else numbers)).write(
                tmp_path / "t.fits", overwrite=True
            )
            Table(columns).write(tmp_path / "b.fits", overwrite=True)
            files, place = {"table": "t.fits"} | ({"bins": "b.fits"} if kind == "bins" else {}), "{}"
        names = {key: place.format(f"HA_{name}") for key, name in KEYS.items()}
        return described(tmp_path, {"gas": files | names | {k: place.format(v) for k, v in keys.items()}}).gas

    for width in ("HA_SIGMA_CORR", "HA_INSTSIGMA", "INST_SIGMA", "HA_INSTRUMENTAL_SIGMA"):
        called = width.replace("_", "[ _]")
        with pytest.raises(ValueError, match=rf"stands beside {called}, .*: say instrument_sigma, that map, or .*: 0"):
            read(width)
    narrower = read("HA_SIGMA_CORR", instrument_sigma="HA_SIGMA_CORR")
    kept = np.sqrt(np.maximum(MAPS["S"][SEEN] ** 2 - 400, 0))
    np.testing.assert_allclose(np.sort(narrower.dispersion_kms), np.sort(kept), rtol=1e-5)
    for width in ("STELLAR_SIGMACORR", "HA_SIGMA_ERR", "HA_CORRECTION"):
        assert_same(read(width), east=1)


def test_a_width_that_was_taken_out_before_is_said_to_be(tmp_path):
    Table(rows(SIG_INST=np.full(np.count_nonzero(SEEN), 20.0), SIG=MAPS["S"][SEEN])).write(tmp_path / "t.fits")
    keys = {"table": "t.fits"} | KEYS | {"dispersion": "SIG"}
    assert_refused(tmp_path, {"gas": keys}, "stands beside SIG_INST")
    assert_same(described(tmp_path, {"gas": keys | {"instrument_sigma_kms": 0}}).gas)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("m.fits[S]", "m.fits[2]"),
        ("m.fits[S]", "./m.fits[S]"),
        ("m.fits[CUBE,sigma]", "m.fits[CUBE,1]"),
        ("m.fits[S]", "m.fits[CUBE,sigma]"),
        ("m.fits[S]", "copy.fits"),
    ],
)
def test_one_map_that_is_named_in_two_ways_is_one(tmp_path, first, second):
    """The dispersion was taken for the light."""
    cube = fits.ImageHDU(np.stack([MAPS["V"], MAPS["S"]]), fits.Header({"C01": "V", "C02": "sigma"}), name="CUBE")
    maps = [fits.ImageHDU(MAPS[name], name=name) for name in "VSDE"]
    fits.HDUList([fits.PrimaryHDU(), *maps, cube]).writeto(tmp_path / "m.fits")
    fits.PrimaryHDU(MAPS["S"]).writeto(tmp_path / "copy.fits")
    keys = IN_PIXELS | {key: f"m.fits[{name}]" for key, name in KEYS.items() if name != "F"} | {"dispersion": first}
    named = re.escape(f"dispersion and density are one map, {first} and {second}: give")
    assert_refused(tmp_path, {"gas": keys | {"density": second}}, named)
    # Errors of V and of sigma may be one map, and numbers that are the same everywhere those of two.
    described(tmp_path, {"gas": keys | {"dispersion_error": "m.fits[E]"}})
    for name in ("one", "too"):
        fits.PrimaryHDU(np.where(SEEN, 5.0, np.nan)).writeto(tmp_path / f"{name}.fits")
    described(tmp_path, {"gas": keys | {"density": "one.fits", "velocity_error": "too.fits"}})


def test_a_column_and_its_copy_are_one_map(tmp_path):
    Table(rows(S2=MAPS["S"][SEEN])).write(tmp_path / "t.ecsv")
    with pytest.raises(ValueError, match="dispersion and density are one map, S and S2"):
        described(tmp_path, {"gas": {"table": "t.ecsv"} | KEYS | {"density": "S2"}})


def test_one_velocity_for_stars_and_gas_is_doubted(tmp_path):
    """Given by two names, it passed for a tracer of each kind."""
    Table(rows()).write(tmp_path / "t.ecsv")
    Table(rows()).write(tmp_path / "u.fits")
    Table(rows(V=MAPS["V"][SEEN] + NOISE[1][SEEN])).write(tmp_path / "v.fits")

    def doubts(of_gas, of_stars):
        tracers = {"gas": {"table": of_gas} | KEYS, "stars": {"table": of_stars} | KEYS}
        return described(tmp_path, tracers).doubts

    for texts in doubts("t.ecsv", "u.fits").values():
        assert re.match("V of stars and of gas is one number in each of [0-9]+ pixels that both have", texts[0])
    assert not any(doubts("t.ecsv", "v.fits").values())


def test_a_cube_of_one_plane_has_one(tmp_path):
    """As SAMI's of one component: its plane 0 was not found."""
    for name, values in MAPS.items():
        fits.PrimaryHDU(values[None], fits.Header({"C01": "narrow"})).writeto(tmp_path / f"{name}.fits")
    for plane in ("0,0", "0,narrow"):
        files = {key: f"{name}.fits[{plane}]" for key, name in KEYS.items()}
        assert_same(described(tmp_path, {"gas": files | IN_PIXELS}).gas)
    with pytest.raises(ValueError, match="there is no plane 1 in data of shape"):
        described(tmp_path, {"gas": files | IN_PIXELS | {"velocity": "V.fits[0,1]"}})


@pytest.mark.parametrize("convention", ["optical", "radio"])
def test_differences_of_cz_need_the_redshift(tmp_path, convention):
    """c (z - z0) of a distant galaxy is 1 + z times V; without a redshift from somewhere it says nothing."""
    z, c = 1.5, 299792.458
    rest = np.where(SEEN, MAPS["V"] - np.median(MAPS["V"][SEEN]), np.nan)
    factor = 1 + z if convention == "optical" else 1 / (1 + z)
    changed = {"V": factor * rest, "S": factor * MAPS["S"], "E": factor * MAPS["E"], "F": factor * MAPS["F"]}
    far = {"distance_mpc": None, "redshift": z, "half_light_radius_arcsec": R_E}

    def read(**top):
        return images(tmp_path, keys={"convention": convention}, top=far | top, **changed)

    in_convention = c * (z if convention == "optical" else z / (1 + z))

    def assert_allclose_to_rest(sky):
        moved = sky.velocity_kms - np.median(sky.velocity_kms)
        np.testing.assert_allclose(moved, rest[SEEN], atol=0.2)
        np.testing.assert_allclose(sky.dispersion_kms, MAPS["S"][SEEN], rtol=1e-6)
        np.testing.assert_allclose(sky.velocity_error_kms, MAPS["E"][SEEN], rtol=1e-6)

    for sky in (read().gas, read(redshift=None, distance_mpc=1780.0, systemic_kms=in_convention).gas):
        assert_allclose_to_rest(sky)
    with pytest.raises(ValueError, match=r"V about a mean, .* \(at least 1\.3 at that distance\): say systemic_k"):
        read(redshift=None, distance_mpc=1780.0)
    # Where V is cut about its mean, systemic_kms is that mean and no redshift: sigma was 1 + z times too large.
    assert_allclose_to_rest(read(systemic_kms=0.0).gas)
    with pytest.raises(ValueError, match=r"at least 1\.3 at that distance\), and neither does systemic_kms: 0: say"):
        read(redshift=None, distance_mpc=1780.0, systemic_kms=0.0)
    near = read(redshift=None, distance_mpc=20.0).gas  # where it does not matter, V may be about zero
    np.testing.assert_allclose(near.dispersion_kms, factor * MAPS["S"][SEEN], rtol=1e-6)


@pytest.mark.parametrize("kind", ["images", "table"])
def test_an_extension_of_a_name_that_comes_twice_is_given_by_its_number(tmp_path, kind):
    other = {name: values + 50 for name, values in MAPS.items()}
    if kind == "images":
        hdus = [fits.ImageHDU(maps[name], name=name) for maps in (other, MAPS) for name in maps]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "m.fits")
        files = {key: f"m.fits[{6 + i}]" for i, key in enumerate(["velocity", "dispersion", "density"])} | IN_PIXELS
        files |= {"velocity_error": "m.fits[9]", "dispersion_error": "m.fits[10]"}
        changed, words = {"velocity": "m.fits[V]"}, r"m.fits has 2 extensions called V: .*, m.fits\[1\], m.fits\[6\]"
    else:
        tables = [fits.BinTableHDU(Table(rows(V=maps["V"][SEEN])), name="T") for maps in (other, MAPS)]
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(tmp_path / "m.fits")
        files = {"table": "m.fits[2]"} | KEYS
        changed, words = {"table": "m.fits[T]"}, r"2 extensions called T: choose one by its number, m.fits\[1\], m.fi"
        with pytest.raises(ValueError, match="holds several tables with these columns, 1, 2"):
            described(tmp_path, {"gas": files | {"table": "m.fits"}})  # the last was taken
    assert_same(described(tmp_path, {"gas": files}).gas)
    assert_refused(tmp_path, {"gas": files | changed}, words)


def test_an_error_and_a_width_are_of_the_line_that_they_belong_to(tmp_path):
    """As planes of MaNGA's MAPS are: the instrument's width of another line left the dispersion too large."""
    names = {"C01": "OII-3727", "C02": "Ha-6564"}
    cubes = MAPS | {"I": np.where(SEEN, 5.0, np.nan), "M": np.zeros((P, P))}
    for name, values in cubes.items():
        wrong = 0.5 * values if name in "VS" else values
        fits.PrimaryHDU(np.stack([wrong, values]), fits.Header(names)).writeto(tmp_path / f"{name}.fits")
    files = {key: f"{name}.fits[0,Ha-6564]" for key, name in (KEYS | {"mask": "M", "instrument_sigma": "I"}).items()}
    read = described(tmp_path, {"gas": files | IN_PIXELS}).gas
    np.testing.assert_allclose(np.sort(read.velocity_kms), np.sort(MAPS["V"][SEEN]))
    for key in ("velocity_error", "dispersion_error", "instrument_sigma", "mask"):
        with pytest.raises(ValueError, match=rf"{key} .*\[0,0\] is of OII-3727, and what it belongs to is of Ha-6564"):
            described(tmp_path, {"gas": files | IN_PIXELS | {key: files[key].replace("Ha-6564", "0")}})
    light = described(tmp_path, {"gas": files | IN_PIXELS | {"density": "D.fits[0,0]"}})
    assert not light.doubts["gas"]  # that of another line is light
    of_other = {
        key: f"{KEYS.get(key, 'I')}.fits[0,0]" for key in ("dispersion", "dispersion_error", "instrument_sigma")
    }
    (doubt,) = described(tmp_path, {"gas": files | IN_PIXELS | of_other}).doubts["gas"]
    assert doubt.startswith("The dispersion of the gas, S.fits[0,0], is of OII-3727, and V of Ha-6564")


def test_a_centre_that_nothing_is_made_of_is_refused(tmp_path):
    with pytest.raises(ValueError, match="centre_arcsec is the centre of tables of offsets, and there is none"):
        images(tmp_path, sky_header(), top={"centre_arcsec": [5.0, 3.0]})
    places = WCS(sky_header()).pixel_to_world(IX[SEEN], IY[SEEN])
    Table(rows(X=places.ra.deg, Y=places.dec.deg), units={"X": "deg", "Y": "deg"}).write(tmp_path / "t.fits")
    keys, centre = {"table": "t.fits"} | KEYS, {"centre_deg": list(CENTRE)}
    assert_same(described(tmp_path, {"gas": keys}, **centre).gas, east=-1)
    with pytest.raises(
        ValueError, match=r"X and Y lie about 155 degrees from zero: say centre_deg if they are right asc"
    ):
        described(tmp_path, {"gas": keys})  # it was asked for centre_pixel or centre_arcsec
    with pytest.raises(ValueError, match=r"X and Y are right ascension and declination, .* leave out centre_arcsec"):
        described(tmp_path, {"gas": keys}, centre_arcsec=[5.0, 3.0], **centre)
    with pytest.raises(ValueError, match="leave out centre_pixel"):
        described(tmp_path, {"gas": keys | {"centre_pixel": [13, 13], "pixel_arcsec": SIDE}}, **centre)
    Table(rows(X=1.0 * IX[SEEN], Y=1.0 * IY[SEEN])).write(tmp_path / "t.fits", overwrite=True)
    with pytest.raises(ValueError, match="X and Y count from a corner of the map, and no centre is said"):
        described(tmp_path, {"gas": keys | {"xy_unit": "pix", "pixel_arcsec": SIDE}})


def test_errors_of_a_dispersion_are_in_its_unit(tmp_path):
    """They were taken for m/s where the velocity was in m/s, and the dispersion said to be in km/s."""
    units = {"velocity_unit": "m/s", "dispersion_unit": "km/s", "velocity_error_unit": "m/s"}
    changed = {"V": 1e3 * MAPS["V"], "E": 1e3 * MAPS["E"]}
    assert_same(images(tmp_path, keys=IN_PIXELS | units, **changed).gas)
    inverse = {"dispersion_error": None, "dispersion_ivar": "F.fits"}
    found = images(tmp_path, keys=IN_PIXELS | units | inverse, **(changed | {"F": MAPS["F"] ** -2})).gas
    np.testing.assert_allclose(np.sort(found.dispersion_error_kms), np.sort(MAPS["F"][SEEN]))
    fits.PrimaryHDU(1e3 * MAPS["F"], fits.Header({"BUNIT": "m/s"})).writeto(tmp_path / "F.fits", overwrite=True)
    files = {key: f"{name}.fits" for key, name in KEYS.items()} | IN_PIXELS | units
    assert_same(described(tmp_path, {"gas": files | {"velocity_error_unit": "m/s"}}).gas)


def test_zeros_of_a_dispersion_on_another_grid_are_not_averaged_with_others(tmp_path):
    half = with_cards(CDELT1=-SIDE / 7200, CDELT2=SIDE / 7200, CRPIX1=P + 0.5, CRPIX2=P + 0.5)
    finer = np.where(IX.repeat(2, 0).repeat(2, 1) + 0.5 > 11, 40.0, 0.0)
    finer[:, 22] = 0.0  # half of a pixel of the velocity's
    images(tmp_path, sky_header())
    fits.PrimaryHDU(finer, half).writeto(tmp_path / "S2.fits")
    files = {key: f"{name}.fits" for key, name in KEYS.items()} | {"dispersion": "S2.fits"}
    found = described(tmp_path, {"gas": files}, centre_deg=list(CENTRE)).gas
    np.testing.assert_allclose(found.dispersion_kms, 40.0)


def test_a_systemic_velocity_that_is_none_is_refused(tmp_path):
    c_z = {"V": MAPS["V"] - 2500 + 1.2 * 299792.458}
    far = {"distance_mpc": None, "redshift": 1.2}
    for systemic_kms in (0.0, 3e4):
        with pytest.raises(
            ValueError, match=rf"systemic_kms is {systemic_kms:g}, V is about 3597\d\d km/s, and .* 1.2"
        ):
            images(tmp_path, keys={"convention": "optical"}, top=far | {"systemic_kms": systemic_kms}, **c_z)
    kept = images(tmp_path, keys={"convention": "optical"}, top=far | {"systemic_kms": 359_900.0}, **c_z).gas
    np.testing.assert_allclose(kept.dispersion_kms, MAPS["S"][SEEN] / 2.2, rtol=1e-3)
    words = r"no pixel has V within_kms 500 of systemic_kms 0: V of the gas is about 25\d\d km/s\. Give systemic_kms"
    with pytest.raises(ValueError, match=words):
        images(tmp_path, keys={"within_kms": 500.0}, top={"systemic_kms": 0.0})


C_KMS = 299792.458
COUNTED = {
    "optical": lambda z: C_KMS * z,
    "radio": lambda z: C_KMS * z / (1 + z),
    "logarithm": lambda z: C_KMS * np.log1p(z),
}


def receding(redshift: float, counted: str = "optical") -> np.ndarray:
    """V of the galaxy at a redshift, counted in a convention [km/s]."""
    return COUNTED[counted]((1 + redshift) * (1 + (MAPS["V"] - 2500) / C_KMS) - 1)


@pytest.mark.parametrize("tracer", ["gas", "stars"])
@pytest.mark.parametrize(
    ("counted", "said", "words"),
    [
        ("optical", "optical", None),
        ("optical", "rest", None),
        ("optical", "radio", "0.4286 in the radio convention, and redshift is 0.3: say convention: optical"),
        ("radio", "radio", None),
        ("radio", "rest", None),
        ("radio", "optical", "0.2308 in the optical convention, and redshift is 0.3: say convention: radio"),
        ("logarithm", "rest", None),
        ("logarithm", "optical", r"say convention: rest, as of c ln\(1 \+ z\), which fits"),
        ("logarithm", "radio", r"say convention: rest, as of c ln\(1 \+ z\), which fits"),
    ],
)
def test_velocities_tell_the_redshift_that_is_given_or_which_convention_would(tmp_path, tracer, counted, said, words):
    """A map in another convention than it is said to be gave a mass .2 to .4 dex off, without a word."""
    z = 0.3
    table = rows(V=receding(z, counted)[SEEN])
    Table(table).write(tmp_path / "t.ecsv")
    keys = {tracer: {"table": "t.ecsv", "convention": said} | KEYS}
    if words is None:
        (found,) = described(tmp_path, keys, distance_mpc=None, redshift=z).maps().values()
        if said == counted:
            np.testing.assert_allclose(np.ptp(found.velocity_kms), np.ptp(MAPS["V"][SEEN]), rtol=1e-3)
    else:
        assert_refused(tmp_path, keys, f"V of the {tracer} is about .*{words}", distance_mpc=None, redshift=z)


def test_velocities_of_another_galaxy_or_unit_contradict_the_redshift(tmp_path):
    def read(velocity, redshift, **keys):
        return images(tmp_path, V=velocity, keys=keys, top={"distance_mpc": None, "redshift": redshift})

    for keys in ({}, {"convention": "rest"}, {"convention": "optical"}):
        assert read(receding(0.05), 0.0585, **keys).redshift == 0.0585  # 2400 km/s off: doubted, not refused
        with pytest.raises(ValueError, match=r"a redshift of 0\.05\S* .*, and redshift is 0\.065: which is right\?"):
            read(receding(0.05), 0.065, **keys)
    with pytest.raises(ValueError, match="say velocity_unit: m/s, which fits"):
        read(1e3 * receding(0.03), 0.03, convention="optical")
    assert read(receding(2.0, "logarithm"), 2.0, convention="rest").redshifts["gas"] == pytest.approx(
        (np.log(3), np.inf), rel=1e-4
    )
    with pytest.raises(ValueError, match="which no velocity of the radio convention reaches: say convention: optical"):
        images(tmp_path, V=receding(1.6), keys={"convention": "radio"}, top={"distance_mpc": 1780.0})
    # A mean that is off, or one side of a galaxy, is no redshift: what was measured there is c z about a mean.
    about_mean = {"V": 1.5 * (MAPS["V"] - 2500) + 300} | {name: 1.5 * MAPS[name] for name in "SEF"}
    far = {"distance_mpc": None, "redshift": 0.5}
    found = images(tmp_path, keys={"convention": "optical"}, top=far, **about_mean)
    np.testing.assert_allclose(found.gas.dispersion_kms, MAPS["S"][SEEN], rtol=1e-6)
    assert found.redshifts == {}
    near = images(tmp_path, V=MAPS["V"] - 2200, top={"distance_mpc": 20.0})
    assert near.redshifts["gas"][0] == pytest.approx(300 / C_KMS, rel=0.1)


@pytest.mark.parametrize("said", [{}, {"convention": "rest"}, {"convention": "optical"}])
def test_stars_and_gas_are_of_one_galaxy(tmp_path, said):
    """Stars at 1400 km/s and gas at 9000 km/s were weighed together."""

    def read(of_gas_kms, of_stars_kms):
        tracers = {}
        for tracer, c_z in (("gas", of_gas_kms), ("stars", of_stars_kms)):
            Table(rows(V=MAPS["V"][SEEN] - 2500 + c_z)).write(tmp_path / f"{tracer}.ecsv", overwrite=True)
            tracers[tracer] = {"table": f"{tracer}.ecsv"} | KEYS | said
        return described(tmp_path, tracers)

    assert list(read(9000, 8500).redshifts) == ["gas", "stars"]
    assert list(read(0, 8500).redshifts) == ["stars"]  # about a mean, it tells nothing
    for velocities in ((9000, 1400), (1400, 2600)):
        with pytest.raises(ValueError, match=r"V of the gas .* and V of the stars .* km/s apart, which those of"):
            read(*velocities)


def test_a_distant_galaxy_whose_convention_is_not_said_is_doubted(tmp_path):
    about_mean = {"V": MAPS["V"] - 2500}

    def doubts(top, **keys):
        return images(tmp_path, keys=keys, top=top, **about_mean).doubts["gas"]

    far = {"distance_mpc": None, "redshift": 1.5}
    (said,) = doubts(far)
    assert "V of the gas is about a mean, at a redshift of 1.5 or more" in said
    assert "150 % too large" in said
    assert len(doubts({"distance_mpc": 500.0})) == 1
    assert doubts(far, convention="rest") == doubts({"distance_mpc": 40.0}) == ()


def test_a_dispersion_that_is_called_a_logarithm_or_is_missing_is_told_of(tmp_path):
    Table(rows(LOG_SIGMA=np.log10(MAPS["S"][SEEN]))).write(tmp_path / "t.fits")
    with pytest.raises(ValueError, match="dispersion LOG_SIGMA is called a logarithm"):
        described(tmp_path, {"gas": {"table": "t.fits"} | KEYS | {"dispersion": "LOG_SIGMA"}})
    few = np.where(MAPS["S"] > 40, MAPS["S"], np.nan)
    n, n_seen = np.count_nonzero(SEEN & ~(MAPS["S"] > 40)), np.count_nonzero(SEEN)
    said = images(tmp_path, S=few).remarks
    assert any(remark.startswith(f"{n} of {n_seen} pixels of the gas have a velocity and no disp") for remark in said)
