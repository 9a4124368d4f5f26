"""Pictures are the same whatever the user's own matplotlibrc says."""

import matplotlib
import numpy as np
import pytest

from kinmass.gen.look.style import own_style
from kinmass.train.loop.monitor import Monitor


def drawn(folder, settings):
    """The events of a fit's examples as a user draws them who has these settings."""
    with matplotlib.rc_context(settings):
        monitor = Monitor(folder, True, 0, {})
        rng = np.random.default_rng(1)
        maps, profile = rng.uniform(0, 1, (2, 8, 4, 4)), np.tile(np.linspace(9, 11, 10), (2, 1))
        samples = profile + rng.normal(0, 0.1, (5, 2, 10))
        monitor.profiles(0, maps, np.geomspace(0.3, 3, 10), profile, samples, ["snap_000:0", "snap_001:0"])
        monitor.close()
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(folder))
    read.Reload()
    return read.Images("examples")[0].encoded_image_string


@pytest.mark.parametrize("settings", [{"text.usetex": True}, {"image.origin": "lower", "figure.facecolor": "k"}])
def test_a_fit_draws_its_examples_alike_for_every_user(settings, tmp_path):
    """With text.usetex, which many have for their papers, a fit ended in a traceback where there is no LaTeX."""
    assert drawn(tmp_path / "theirs", settings) == drawn(tmp_path / "plain", {})


def test_settings_are_the_users_again_afterwards():
    with matplotlib.rc_context({"text.usetex": True}):
        with own_style():
            assert not matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["text.usetex"]
