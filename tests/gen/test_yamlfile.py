"""YAML files say what a reader takes them to say: numbers, truths, and mappings that are merged."""

import math

import pytest
import yaml

from kinmass.gen.instruments.model import Instrument
from kinmass.gen.suite import Suite, SuiteError, load_suite
from kinmass.gen.yamlfile import FileError, read_checked, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("042", 42),
        ("09", 9),
        ("1e3", 1000.0),
        ("-1.5E-3", -0.0015),
        ("12.", 12.0),
        ("0x1f", 31),
        ("-.inf", -math.inf),
        ("true", True),
        # Which YAML 1.1 takes for 90, for truths and for a date.
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("2001-01-01", "2001-01-01"),
        ("'5'", "5"),
        ("~", None),
    ],
)
def test_numbers_and_truths_are_those_of_yaml_1_2(text, value):
    found = read_text(f"key: {text}")["key"]
    assert (type(found), found) == (type(value), value)


def test_a_mapping_may_be_merged_and_a_key_not_come_twice():
    text = "a: &other {velocity: v.fits, beam: 2.5}\nb:\n  <<: *other\n  beam: 3\n"
    assert read_text(text)["b"] == {"velocity": "v.fits", "beam": 3}
    with pytest.raises(yaml.YAMLError, match="key `beam` is there twice, in lines 4 and 5"):
        read_text(text + "  beam: 4\n")


def test_code_is_never_run(tmp_path):
    with pytest.raises(yaml.YAMLError, match="python/object/apply"):
        read_text(f"name: !!python/object/apply:os.system ['touch {tmp_path}/hacked']\n")
    assert not (tmp_path / "hacked").exists()


def test_a_number_that_no_setting_can_be_is_refused():
    with pytest.raises(yaml.YAMLError, match="a number of 5000 digits in line 1"):
        read_text("seed: " + "7" * 5000)


@pytest.mark.parametrize("key", ["field_of_view_re: [3, 4]", "rebin: [1, 2]", "stars: {density_dex: [.1, .3]}"])
def test_a_range_where_one_number_is_wanted_is_told_so(tmp_path, key):
    """It was said that the input should be a valid number, beside a how-to by which any may be a range."""
    (tmp_path / "mine.yaml").write_text(f"name: mine\n{key}\n")
    with pytest.raises(FileError, match=r"must be one number, and no list or range, not \["):
        read_checked(tmp_path / "mine.yaml", Instrument)


def test_a_file_of_another_kind_is_sent_to_its_command(tmp_path):
    """`kinmass check GALAXY.yaml` named each of its keys as unknown."""
    path = tmp_path / "a.yaml"
    path.write_text("name: mine\nhalf_light_radius_arcsec: 3\ngas: {velocity: v.fits}\n")
    with pytest.raises(FileError, match=r"a\.yaml: describes an observed galaxy, for `kinmass predict`; give it to"):
        read_checked(path, Suite)
    path.write_text("name: mine\nformat: swift\nsnapshots: snap.hdf5\n")
    with pytest.raises(FileError, match=r"a\.yaml: describes a suite of simulated galaxies, for `kinmass check` and"):
        read_checked(path, Instrument)


@pytest.mark.parametrize("words", ["rebin: true", "field_of_view_re: [false, 4]", "stars: {density_dex: true}"])
def test_a_truth_is_no_number(tmp_path, words):
    """`true` was 1 and `false` 0: an aperture of 1 kpc, a distance of 1 Mpc."""
    (tmp_path / "mine.yaml").write_text(f"name: mine\n{words}\n")
    with pytest.raises(FileError, match=r"`[a-z_.]+`: must be "):
        read_checked(tmp_path / "mine.yaml", Instrument)


def test_a_truth_in_a_suite_file_is_no_number(tmp_path):
    text = (
        "name: a\nformat: gadget\nsnapshots: 'a*'\naperture: {kpc: true}\nselection: {stellar_mass_msun: [false, 1e12]}"
    )
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FileError) as error:
        read_checked(tmp_path / "a.yaml", Suite)
    assert str(error.value).count("must be a number, not") == 2, error.value


@pytest.mark.parametrize(
    "words", ["!!int many", "!!bool perhaps", "!!timestamp 2001-13-45", "!!timestamp now", "[" * 3000]
)
def test_values_that_no_reader_knows_are_a_sentence(tmp_path, words):
    (tmp_path / "mine.yaml").write_text(f"name: {words}\n")
    with pytest.raises(FileError, match=r"mine\.yaml: not valid YAML \((a value that is not|brackets)"):
        read_checked(tmp_path / "mine.yaml", Instrument)


def test_a_root_in_the_home_of_nobody_is_no_traceback(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "name: a\nformat: gadget\nsnapshots: 'a*'\naperture: {kpc: 9}\nroot: ~no-one/data\n"
    )
    suite = load_suite(tmp_path / "a.yaml")
    with pytest.raises(SuiteError, match="~no-one/data"):
        suite.snapshot_paths()
