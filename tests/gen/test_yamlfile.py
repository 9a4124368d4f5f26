"""YAML files say what a reader takes them to say: numbers, truths, and mappings that are merged."""

import math

import pytest
import yaml

from kinmass.gen.instruments.model import Instrument
from kinmass.gen.suite import Suite
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
