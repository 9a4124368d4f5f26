"""What maps cannot be is refused in a sentence or weighs in the verdict; what a file writes for "nothing" is found."""

import gzip
from dataclasses import replace

import h5py
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from conftest import ROOT, galaxy_file, write_votable

from kinmass.eval.observed import sanity
from kinmass.eval.observed.galaxy import read_galaxy
from kinmass.eval.observed.galaxy_file import GalaxyFile
from kinmass.eval.observed.sky import SkyMap
from kinmass.eval.observed.verdict import of_hole, of_light, of_motions, of_velocities
from kinmass.gen.yamlfile import read_checked

SIDE, P, R_E = 1.0, 30, 6.0


def stars(seed: int = 0, **more: object) -> SkyMap:
    """A rotating spheroid with errors of 5 km/s, at a systemic velocity of 2800 km/s."""
    x, y = np.meshgrid(*[SIDE * (np.arange(P) - (P - 1) / 2)] * 2)
    r, noise = np.hypot(x, y), np.random.default_rng(seed).normal(0, 5, (2, P, P))
    velocity = 2800 + 120 * np.tanh(x / 4) + noise[0]
    return SkyMap.from_images(
        1e8 * np.exp(-1.7 * r / R_E), velocity, 180 * np.exp(-r / 30) + noise[1], SIDE, beam_fwhm_arcsec=2.0, **more
    )


def table_of(sky: SkyMap) -> Table:
    columns = {"X": sky.x_arcsec, "Y": sky.y_arcsec, "V": sky.velocity_kms, "S": sky.dispersion_kms}
    return Table(columns | {"E": np.full(len(sky.x_arcsec), 5.0), "D": sky.density})


def described(folder, file="t.ecsv", **keys):
    content = {
        "name": "one", "distance_mpc": 40.0, "half_light_radius_arcsec": R_E,
        "stars": {"table": file, "velocity": "V", "dispersion": "S", "density": "D", "velocity_error": "E",
                  "beam_fwhm_arcsec": 2.0},
    }  # fmt: skip
    for key, value in keys.items():
        (content if key in content or key in ("redshift", "centre_deg") else content["stars"])[key] = value
    return galaxy_file(folder / "one.yaml", content)


def read(folder, table: Table, **keys) -> SkyMap:
    table.write(folder / "t.ecsv", overwrite=True)
    return read_galaxy(described(folder, **keys)).stars


# ---- numbers that stand for nothing


@pytest.mark.parametrize(
    ("column", "number", "rows", "factor"),
    [
        ("V", -9999, 9, 1),
        ("V", -999.9, 60, 1),
        ("V", 0, 300, 1),
        ("V", -9999, 9, 1e3),
        ("S", 9999, 9, 1),
        ("V", 1e20, 5, 1),
        ("E", 9999, 90, 1),
        ("D", 1e20, 12, 1),
    ],
)
def test_a_number_for_nothing_is_found_and_named_in_whatever_unit(tmp_path, column, number, rows, factor):
    table = table_of(stars())
    for name in ("V", "S", "E"):
        table[name] *= factor
    table[column][:rows] = number
    unit = {"velocity_unit": "m/s"} if factor == 1e3 else {}
    what = {"V": "V", "S": "sigma", "E": "the error of V", "D": "the density"}[column]
    with pytest.raises(ValueError, match=rf"{what} of the stars is \S+( km/s)? exactly in {rows} of"):
        read(tmp_path, table, **unit)
    # A velocity without an error is one all the same.
    n_left = P * P - (0 if column == "E" else rows)
    for blank in (float(number), [-12345.0, float(number)]):
        assert len(read(tmp_path, table, blank=blank, **unit).velocity_kms) == n_left
    # What a mask leaves out is not looked at.
    table["M"] = (np.arange(P * P) < rows).astype(int)
    assert len(read(tmp_path, table, mask="M", **unit).velocity_kms) == P * P - rows


def test_bins_and_whole_numbers_are_no_such_numbers(tmp_path):
    table = table_of(stars())
    table["V"] = np.round(table["V"], -1)  # channels of 10 km/s: each number many times
    assert len(read(tmp_path, table).velocity_kms) == P * P
    table["V"][:40] = table["V"].max() + 30  # a bin of 40 spaxels that rotates a little faster
    assert len(read(tmp_path, table).velocity_kms) == P * P


def test_single_wild_pixels_are_left_out_and_many_refused(tmp_path):
    table = table_of(stars())
    table["V"][[3, 50, 700]] += [2300.5, -1400.25, 900.75]
    table["S"][[100]] = 1234.5
    table.write(tmp_path / "t.ecsv")
    galaxy = read_galaxy(described(tmp_path))
    assert len(galaxy.stars.velocity_kms) == P * P - 4
    assert "4 of 900 pixels of the stars move as nothing else in the map: they are left out." in galaxy.remarks
    table["V"][:90] += np.linspace(2000, 3000, 90)
    with pytest.raises(ValueError, match=r"9\d of 900 pixels of the stars move as no galaxy does"):
        read(tmp_path, table)


@pytest.mark.parametrize("times", [300.0, 1e10])
@pytest.mark.parametrize("unit", ["Lsun/pc2", "mag/arcsec2"])
@pytest.mark.parametrize(
    "rows", [[400], [0], [435], [200, 400, 650], [400, 401]], ids=["one", "corner", "centre", "three", "two that touch"]
)
def test_pixels_whose_flux_failed_are_left_out(tmp_path, times, unit, rows):
    """A single one took all weight in V and sigma, and the map was said to be in m/s, or gave half of the mass."""
    table = table_of(stars())
    table["D"][rows] = times * table["D"].max() * (1 + np.arange(len(rows)))
    if unit.startswith("mag"):
        table["D"] = 30 - 2.5 * np.log10(table["D"])
    table.write(tmp_path / "t.ecsv")
    galaxy = read_galaxy(described(tmp_path, density_unit=unit, total_mass_msun=1e10))
    np.testing.assert_allclose(galaxy.stars.velocity_kms, np.delete(stars().velocity_kms, rows))
    area_kpc2 = (40.0 * 1e3 * np.pi / 180 / 3600) ** 2
    assert galaxy.stars.density.sum() * area_kpc2 == pytest.approx(1e10)
    are, them = ("is", "it") if len(rows) == 1 else ("are", "them")
    words = f"{are} more than 100 times as bright as all that touches {them}, as nothing in a galaxy is: "
    assert f"{len(rows)} of 900 pixels of the stars {words}" in " ".join(galaxy.remarks)


def test_a_bin_whose_flux_failed_is_left_out_and_many_pixels_are_refused():
    sky = stars()
    is_bin = (np.abs(sky.x_arcsec - 8) < 2) & (np.abs(sky.y_arcsec) < 3)
    bright = replace(sky, density=np.where(is_bin, 1e12, sky.density))
    one_v, one_sigma = np.where(is_bin, 2900.0, sky.velocity_kms), np.where(is_bin, 150.0, sky.dispersion_kms)
    for change in ({}, {"velocity_kms": one_v}, {"dispersion_kms": one_sigma}):  # no bin, and wider than a beam
        whole = replace(bright, **change)
        assert sanity.without_hot("stars", whole) == (whole, [])
    for sigma_kms in (None, one_sigma):
        left, (said,) = sanity.without_hot("stars", replace(bright, dispersion_kms=sigma_kms, velocity_kms=one_v))
        assert len(left.density) == P * P - is_bin.sum()
        assert "24 of 900 pixels of the stars are" in said
    large = np.abs(sky.y_arcsec) < 1
    slit = replace(sky, density=np.where(large, 1e12, sky.density), velocity_kms=np.where(large, 2900.0, 2800.0))
    assert len(sanity.without_hot("stars", replace(slit, dispersion_kms=None))[0].density) == P * P
    every_third = (np.arange(P * P) // P % 3 == 0) & (np.arange(P * P) % 3 == 0)
    with pytest.raises(ValueError, match=r"100 of 900 pixels of the stars are more than .* cut what was not .* beam"):
        sanity.without_hot("stars", replace(sky, density=np.where(every_third, 1e12, sky.density)))


def test_a_nucleus_of_any_brightness_stays():
    """It is as wide as the beam, in pixels that are not larger; in larger ones it may be a pixel."""
    sky = stars()
    r2 = (sky.x_arcsec - 0.5) ** 2 + (sky.y_arcsec - 0.5) ** 2

    def left_of(density, **change):
        return len(sanity.without_hot("stars", replace(sky, density=density, **change))[0].density)

    for said, fwhm in ((1.0, 1.0), (2.0, 1.2), (2.0, 2.0), (5.0, 2.5)):
        for times in (1e2, 1e4, 1e8):
            nucleus = times * sky.density.max() * np.exp(-4 * np.log(2) * r2 / fwhm**2)
            assert left_of(sky.density + nucleus, beam_fwhm_arcsec=said) == P * P, (said, fwhm, times)
    for said, times, n_left_out in ((None, 500, 0), (None, 2000, 1), (0.9, 500, 0), (0.9, 2000, 1), (1.0, 500, 1)):
        one = np.where(r2 < 0.1, times * sky.density.max(), sky.density)
        assert left_of(one, beam_fwhm_arcsec=said) == P * P - n_left_out, (said, times)
    # Nor is one left out that the galaxy outshines, or that has too few beside it to tell.
    assert left_of(np.where(np.arange(P * P) == 0, 0.9 * sky.density.max(), sky.density)) == P * P
    one = replace(sky, density=np.where(r2 < 0.1, 1e12, sky.density))
    beside = np.flatnonzero((r2 > 0.1) & (r2 < 2.1))
    assert len(beside) == 8
    for n_missing, n_left_out in ((5, 1), (6, 0), (8, 0)):
        few = one.chosen(~np.isin(np.arange(P * P), beside[:n_missing]))
        assert len(sanity.without_hot("stars", few)[0].density) == P * P - n_missing - n_left_out


def test_errors_that_are_none_are_told_of(tmp_path):
    table = table_of(stars())
    table["E"][:10], table["E"][10:30], table["E"][30:35] = 0, -1, np.nan
    table.write(tmp_path / "t.ecsv")
    galaxy = read_galaxy(described(tmp_path))
    said = "missing, nil or negative in 35 of 900 pixels of the stars, and taken to be the median"
    assert said in " ".join(galaxy.remarks)
    assert "squares" not in " ".join(galaxy.remarks)
    of_bins = " ".join(read_galaxy(described(tmp_path, rows="bins")).remarks)
    assert "pixels of the stars, and taken to be" in of_bins
    assert "Pixels of the stars are the" in of_bins
    assert "squares that their bins are cut into here." in of_bins
    assert (galaxy.stars.velocity_error_kms == 5).all()
    table["E"] = -1.0
    table.write(tmp_path / "t.ecsv", overwrite=True)
    galaxy = read_galaxy(described(tmp_path))
    assert "in 900 of 900 pixels of the stars, and taken as not known" in " ".join(galaxy.remarks)
    assert galaxy.stars.velocity_error_kms is None


# ---- quantities in another unit than said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"velocity_kms": s.velocity_kms / 3e5}, "neither a redshift nor in units of c"),
        (lambda s: {"velocity_kms": 0 * s.velocity_kms}, "V of the stars varies by 0 km/s"),
        (lambda s: {"dispersion_kms": s.dispersion_kms**2}, "if it is a variance take its root"),
        (lambda s: {"dispersion_kms": s.dispersion_kms / 1e3}, "which no spectrograph measures"),
        (lambda s: {"velocity_error_kms": np.full(P * P, 5e3)}, "is velocity_error_unit right"),
        (lambda s: {"velocity_error_kms": np.full(P * P, 5e-3)}, "say velocity_error_unit"),
        (lambda s: {"dispersion_error_kms": np.full(P * P, 5e3)}, "errors of the dispersion of the stars are 5e.03"),
        (lambda s: {"dispersion_error_kms": np.full(P * P, 5e-3)}, "say dispersion_unit or velocity_error_unit"),
        (lambda s: {"side_arcsec": 60.0}, "CDELT is in degrees without CUNIT"),
    ],
)
def test_what_no_map_can_be_is_refused(change, words):
    sky = stars()
    sanity.refuse("stars", sky, R_E)
    with pytest.raises(ValueError, match=words):
        sanity.refuse("stars", replace(sky, **change(sky)), R_E)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"distance_mpc": 0.04}, "an R_e that no galaxy has"),
        ({"distance_mpc": 4e4}, "an R_e that no galaxy has"),
        ({"distance_mpc": None, "redshift": 2832.0}, "is it c z in km/s"),
        ({"beam_fwhm_arcsec": 200.0}, "wider than the map"),
    ],
)
def test_sizes_and_distances_that_no_galaxy_has_are_refused(tmp_path, keys, words):
    table_of(stars()).write(tmp_path / "t.ecsv")
    with pytest.raises(ValueError, match=words):
        read_galaxy(described(tmp_path, **keys))


def test_odd_motions_weigh_in_the_verdict():
    sky = stars()

    def weights(name: str, **change: object) -> list[int]:
        return [reason.weight for reason in of_motions({name: replace(sky, **change)})]

    assert weights("stars") == []
    assert weights("stars", dispersion_kms=sky.dispersion_kms / 10) == [1]
    assert weights("stars", dispersion_kms=np.log10(sky.dispersion_kms)) == [2]
    assert weights("gas", velocity_kms=0.5 * sky.velocity_kms) == [1]
    assert weights("gas", dispersion_kms=0.1 * sky.dispersion_kms) == []
    radii = np.array([0.3, 1.0, 3.0])
    for speed, expected in ((250, []), (800, [1]), (2100, [2])):
        assert [r.weight for r in of_velocities(radii, np.array([[100.0, 150.0, speed]] * 9))] == expected


def test_the_light_is_where_and_as_large_as_it_is_said_to_be():
    sky = stars()
    assert of_light(sky, R_E) == []
    assert "brightest 4" in of_light(sky.moved(4.2, 0), R_E)[0].text
    assert of_light(sky.moved(1.5, 0), R_E) == []
    for factor in (0.3, 20):
        (reason,) = of_light(sky, factor * R_E)
        assert "is it in arcsec" in reason.text


def test_a_middle_that_is_not_seen_speaks_against_a_result():
    """Cut out by a mask the wrong way round, all within R_e was missing, and the mass .17 dex too low with it."""
    sky = replace(stars(), beam_fwhm_arcsec=1.0)
    radius = np.hypot(sky.x_arcsec, sky.y_arcsec)
    for hole, expected in ((0.0, 0), (0.3, 0), (0.5, 1), (0.97, 1)):
        around = sky.chosen(radius >= hole * R_E)
        reasons = of_hole({"stars": around}, R_E)
        assert [reason.weight for reason in reasons] == [1] * expected
        if expected:
            assert "The stars are not seen within 2.4 arcsec (0.4 R_e) of the centre" in reasons[0].text
            assert of_hole({"stars": around.chosen(around.x_arcsec > 0)}, R_E) == []  # another matter
            assert of_hole({"stars": replace(around, beam_fwhm_arcsec=4 * hole * R_E)}, R_E) == []
    for is_seen in (np.abs(sky.y_arcsec) < 0.6, np.arange(len(radius)) % 13 == 0):  # slits and sparse maps have no hole
        assert of_hole({"stars": sky.chosen(is_seen)}, R_E) == of_hole({"stars": sky.chosen(is_seen)}, 0.1 * R_E) == []
    assert of_hole({"stars": replace(sky, beam_fwhm_arcsec=1e3)}, R_E) == []


@pytest.mark.parametrize("mask_is", ["bad", "good"])
def test_a_mask_that_cuts_out_the_middle_is_remarked_on(tmp_path, mask_is):
    sky = stars()
    table, radius = table_of(sky), np.hypot(sky.x_arcsec, sky.y_arcsec)
    noise = np.random.default_rng(3).uniform(size=len(radius)) < 0.3

    def remarks(is_cut):
        table["M"] = (is_cut if mask_is == "bad" else ~is_cut).astype(int)
        table.write(tmp_path / "t.ecsv", overwrite=True)
        return " ".join(read_galaxy(described(tmp_path, mask="M", mask_is=mask_is)).remarks)

    for is_cut in (radius > 10, radius < 1.5, noise, noise | (radius > 8), np.abs(sky.x_arcsec) < 1):
        assert "is mask_is right" not in remarks(is_cut)
    n = np.count_nonzero(radius < 3)
    assert f"mask M leaves out {n} of {n} pixels within R_e / 2 of the centre, more than of" in remarks(radius < R_E)


# ---- files


def test_a_key_that_comes_twice_is_refused(tmp_path):
    table_of(stars()).write(tmp_path / "t.ecsv")
    path = described(tmp_path)
    text = path.read_text()
    for again in ("half_light_radius_arcsec: 3.0\n", None):
        path.write_text(text + again if again else text.replace("  velocity: V\n", "  velocity: V\n  velocity: S\n"))
        with pytest.raises(ValueError, match=r"key `\w+` is there twice, in lines \d+ and \d+"):
            read_galaxy(path)


def test_a_mask_may_mark_good_pixels(tmp_path):
    table = table_of(stars())
    table["M"] = (np.hypot(table["X"], table["Y"]) < 10).astype(int)
    assert len(read(tmp_path, table, mask="M", mask_is="good").velocity_kms) == table["M"].sum()
    table["M"] = 1
    with pytest.raises(ValueError, match="leaves no pixel with a velocity: if it marks good pixels say mask_is: good"):
        read(tmp_path, table, mask="M")


def test_differences_of_right_ascension_without_the_cosine_are_refused(tmp_path):
    table = table_of(stars())
    table["X"] *= 1.5
    for keys in ({}, {"pixel_arcsec": 1.0}):
        with pytest.raises(ValueError, match=r"multiply it by cos\(declination\)"):
            read(tmp_path, table, **keys)
    table["X"] = 180 + table["X"] / 1.5 / 3600 / np.cos(np.radians(40))
    table["Y"] = 40 + table["Y"] / 3600
    with pytest.raises(ValueError, match="say xy_unit: deg"):
        read(tmp_path, table, centre_deg=[180.0, 40.0])
    x = np.sort(read(tmp_path, table, centre_deg=[180.0, 40.0], xy_unit="deg").x_arcsec)
    np.testing.assert_allclose(x, np.sort(stars().x_arcsec), atol=1e-2)


@pytest.mark.parametrize(
    "kind",
    ["blanks.txt", "tabs.dat", "semicolons.csv", "hash.csv", "t.csv.gz", "t.vot", "dashes.csv", "vizier.tsv", "t.tbl",
     "t.mrt", "places.ecsv", "places.h5"],
)  # fmt: skip
def test_tables_as_others_write_them(tmp_path, kind):
    table = table_of(stars())
    lines = [[*table.colnames], *([f"{value:.8g}" for value in row] for row in table)]
    if kind == "dashes.csv":
        lines[5][2] = "--"
    if kind == "vizier.tsv":  # units, and dashes, below the names
        lines[1:1] = [[{"X": "arcsec", "V": "km/s"}.get(name, "") for name in lines[0]], ["---"] * len(lines[0])]
    separator = {"blanks.txt": "  ", "tabs.dat": "\t", "semicolons.csv": ";", "vizier.tsv": "\t"}.get(kind, ",")
    text = "\n".join(separator.join(line) for line in lines) + "\n"
    if kind == "t.vot":
        write_votable(table, tmp_path / kind)
    elif kind in ("t.tbl", "t.mrt"):
        table.write(tmp_path / kind, format={"t.tbl": "ascii.ipac", "t.mrt": "ascii.mrt"}[kind])
    elif kind.startswith("places"):  # astropy's columns of other kinds beside those of numbers
        table["place"] = SkyCoord(150 + table["X"] / 3600, 2 + table["Y"] / 3600, unit="deg")
        table.write(tmp_path / kind, **({"path": "t", "serialize_meta": True} if kind == "places.h5" else {}))
    elif kind == "t.csv.gz":
        (tmp_path / kind).write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / kind).write_text(f"# {text}" if kind == "hash.csv" else text)
    found = read_galaxy(described(tmp_path, kind)).stars
    expected = stars().velocity_kms
    np.testing.assert_allclose(
        found.velocity_kms, np.delete(expected, 4) if kind == "dashes.csv" else expected, rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["one row", "n by 1"])
def test_tables_of_vectors_are_columns(tmp_path, kind):
    table = table_of(stars())
    n = len(table)
    shape, form = ((1, n), f"{n}D") if kind == "one row" else ((n, 1), "1D")
    columns = [
        fits.Column(name, form, array=np.asarray(table[name]).reshape(shape), dim=f"({shape[1]})")
        for name in table.colnames
    ]
    if kind == "one row":
        columns.append(fits.Column("Z", "D", array=[0.01]))
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    found = read_galaxy(described(tmp_path, "t.fits")).stars
    np.testing.assert_allclose(found.velocity_kms, stars().velocity_kms)


def test_units_of_datasets_may_be_arrays(tmp_path):
    table = table_of(stars())
    with h5py.File(tmp_path / "t.h5", "w") as file:
        for name in table.colnames:
            file[name] = np.asarray(table[name]) * (1e3 if name in "VSE" else 1)
            file[name].attrs["unit"] = np.array([{"X": b"arcsec", "Y": b"arcsec", "D": b"Msun/kpc2"}.get(name, b"m/s")])
    np.testing.assert_allclose(read_galaxy(described(tmp_path, "t.h5")).stars.velocity_kms, stars().velocity_kms)


def test_a_column_of_text_is_called_so(tmp_path):
    table = table_of(stars())
    table["V"] = [*map(str, table["V"][:-1]), "bad"]
    table.write(tmp_path / "t.csv", format="ascii.csv")
    with pytest.raises(ValueError, match="column V holds text, 'bad': it must be a number, or nan, in every row"):
        read_galaxy(described(tmp_path, "t.csv"))
    for name in table.colnames:
        table[name] = [f"{float(value):.8e}".replace("e", "D") if value != "bad" else "1.D0" for value in table[name]]
    for kind in ("csv", "fits"):  # as Fortran writes numbers
        table.write(tmp_path / f"t.{kind}", overwrite=True)
        with pytest.raises(
            ValueError, match=rf"t\.{kind}: .*; column \w+ holds text, '.*D.0.' \(write numbers as 1.5e3"
        ):
            read_galaxy(described(tmp_path, f"t.{kind}"))
    table[:0].write(tmp_path / "t.fits", overwrite=True)
    with pytest.raises(ValueError, match=r"t\.fits: columns must hold one number a row, and there must be rows$"):
        read_galaxy(described(tmp_path, "t.fits"))
    (tmp_path / "t.sav").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"t\.sav cannot be read as FITS .*known by their suffix: \.ecsv, \.csv"):
        read_galaxy(described(tmp_path, "t.sav"))


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "observed").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_describe_galaxies(path):
    assert read_checked(path, GalaxyFile).distance()[0] > 1
