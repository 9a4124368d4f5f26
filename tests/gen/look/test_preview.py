"""What is drawn is what would be stored, in colours that say what they should; a preview writes no store."""

import re

import matplotlib
import numpy as np
import pytest
from conftest import called

from kinmass.gen.campaign.record import Settings
from kinmass.gen.look.picture import DEEPEST_DEX, QUANTITIES, colour_limits, coloured, shown, tile
from kinmass.gen.look.preview import preview
from kinmass.gen.storage import store
from kinmass.gen.suite import SuiteError, load_suite


@pytest.mark.parametrize("suite", ["quiet", "bursty"])
def test_a_preview_draws_what_is_stored(mocks, map_store, suite):
    """Record and every image on the figure, of first, middle and last galaxy."""
    group = store.open_suite(map_store, suite)
    names = group["galaxy"][:].tolist()
    drawn = preview(load_suite(mocks / suite / f"{suite}.yaml"), Settings(views=2, pixels=16))
    assert [one.name for one in drawn] == [names[i] for i in (0, 6, 11)]
    for one in drawn:
        stored = store.read_galaxy(group, names.index(one.name))
        assert one.record is not None
        assert one.figure is not None
        for key in ("maps", "mass", "radius", "inclination", "half_mass_radius", "centre"):
            np.testing.assert_array_equal(one.record[key], stored[key], err_msg=key)
        images = [axis.images[0] for axis in one.figure.axes if axis.images]
        assert len(images) == 2 * len(QUANTITIES)
        for i, image in enumerate(images):
            view, channel = i // 6, list(QUANTITIES)[i % 6]
            expected = stored["maps"][view, channel].astype(float)
            seen = stored["maps"][view, channel // 4 * 4] > 0
            assert seen.any()
            if channel % 4 == 0:
                expected = np.log10(expected, where=seen, out=np.zeros_like(expected))
            array = image.get_array()
            np.testing.assert_array_equal(~np.ma.getmaskarray(array), seen)
            np.testing.assert_array_equal(array[seen], expected[seen])
            half = 0.5 * 16 * stored["pixel_scale"][view]
            np.testing.assert_allclose(image.get_extent(), [-half, half, -half, half], rtol=1e-6)


def test_velocities_have_no_colour_at_rest_and_opposite_ones_at_opposite_speeds():
    rng = np.random.default_rng(1)
    velocity = rng.normal(30, 50, (20, 20))
    low, high = colour_limits(velocity, 1)
    assert low == -high < 0
    image = np.array([[0.0, low, high]])
    at_rest, approaching, receding = coloured(image, 1)[0][:, :3].astype(int) * 1.0
    assert np.ptp(at_rest) <= 2  # grey
    assert approaching[2] > approaching[0]  # blue
    assert receding[0] > receding[2]  # red


def test_a_tile_is_the_maps_pixel_by_pixel(map_store):
    """Colours are looked up by brute force; the top row of the picture is the highest y of the stars."""
    maps = store.read(store.open_suite(map_store, "quiet"), "maps", 3)[1]
    picture = tile(maps)
    assert picture.shape == (33, 33, 4)
    for channel, y, x in ((0, 0, 0), (1, 0, 17), (4, 17, 0), (5, 17, 17)):
        image = shown(maps, channel)
        low, high = colour_limits(image, channel)
        table = matplotlib.colormaps[QUANTITIES[channel].colours]
        for i in range(16):
            for j in range(16):
                value, rgba = image[15 - i, j], picture[y + i, x + j]
                if np.isnan(value):
                    assert (rgba == (0xE4, 0xE4, 0xE4, 255)).all()
                else:
                    assert (rgba == table((value - low) / (high - low), bytes=True)).all()
    assert (picture[16] == 255).all()


def test_nothing_seen_is_drawn_as_nothing():
    maps = np.zeros((8, 8, 8))
    maps[0, 2, 2] = maps[3, 2, 2] = 1e7
    assert np.isfinite(shown(maps, 0)).sum() == 1
    assert np.isnan(shown(maps, 4)).all()
    assert (coloured(shown(maps, 5), 5)[..., :3] == 0xE4).all()
    maps[0, 3, 3] = 1e-9  # a faint tail does not take the colours from the rest
    low, high = colour_limits(shown(maps, 0), 0)
    assert (low, high) == (7 - DEEPEST_DEX, 7)


def test_the_command_writes_pictures_and_says_what_cannot_be_mapped(mocks, tmp_path):
    text = (mocks / "quiet" / "quiet.yaml").read_text()
    (tmp_path / "good.yaml").write_text(f"{text}\nroot: {mocks / 'quiet'}\n")
    strict = re.sub(r"aperture:.*", "aperture: {kpc: 0.5}", text)
    assert strict != text
    (tmp_path / "small.yaml").write_text(f"{strict}\nroot: {mocks / 'quiet'}\n".replace("name: quiet", "name: small"))
    out = tmp_path / "pictures"
    done = called("gen", "maps", tmp_path / "good.yaml", "--preview", "--galaxy", "snap_000:0", "--out", out)
    assert done.stdout.split() == [str(out / "quiet.snap_000%3A0.png")]
    assert (out / "quiet.snap_000%3A0.png").read_bytes().startswith(b"\x89PNG")
    done = called("gen", "maps", tmp_path / "small.yaml", "--preview", "--out", out, check=False)
    assert done.returncode == 3
    assert "aperture" in done.stderr
    assert [path.name for path in out.iterdir()] == ["quiet.snap_000%3A0.png"]


def test_names_that_are_not_there_and_options_that_do_not_go_together(mocks, map_store):
    suite = load_suite(mocks / "quiet" / "quiet.yaml")
    with pytest.raises(SuiteError, match="no galaxy 'snap_7:0'"):
        preview(suite, Settings(), ["snap_7:0"])
    path = mocks / "quiet" / "quiet.yaml"
    for words, sentence in (
        ([], "--out is missing"),
        (["--galaxy", "a", "--out", "b"], "--preview"),
        (["--preview", "--out", map_store], "is a map store"),
        (["--preview", "--plan", "--out", "b"], "--plan: not allowed with argument --preview"),
        (["--preview", "--ranks", "4", "--out", "b"], "--ranks foretells a run: give it with --plan"),
        (["--galaxies", "4", "--out", "b"], "--galaxies"),  # not a short form of --galaxies-per-shard
        (["--dry-run", "--repair", "--out", map_store], "--repair changes a store, and does nothing with"),
    ):
        done = called("gen", "maps", path, *words, check=False)
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
