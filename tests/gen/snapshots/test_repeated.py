"""Particles that are there twice are noticed, and those that only lie close together are not taken for them."""

import numpy as np
import pytest

from kinmass.gen.snapshots.repeated import MOST, copies


@pytest.mark.parametrize("n", [40, 3000, 20 * MOST])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_the_share_of_copies_is_that_which_was_put_in(n, share):
    """Also where only some particles are looked at: a copy is looked at where its original is."""
    rng = np.random.default_rng([n, int(100 * share)])
    rows = rng.normal(0, 10, (n, 7))
    joined = rng.permutation(np.concatenate([rows, rows[: round(share * n)]]))
    found, looked_at = copies(list(joined.T))
    assert looked_at == len(joined) if n < MOST else 0.5 * MOST < looked_at < 2 * MOST
    expected = len(joined) - len(np.unique(joined, axis=0))
    if share <= 0.01 or expected <= 10:
        assert found == 0
    else:
        assert found / looked_at == pytest.approx(expected / len(joined), rel=0 if n < MOST else 0.15)


def test_places_that_single_precision_rounds_to_one_are_no_copies():
    """A galaxy's dense centre, in single precision on the far side of a box of 100 Mpc."""
    rng = np.random.default_rng(1)
    pos = np.float32(rng.normal(0, 0.01, (4000, 3)) + 9e4).astype(float)
    vel = rng.normal(0, 100, (4000, 3))
    assert len(np.unique(pos, axis=0)) < 1000
    assert copies([*pos.T, *vel.T])[0] == 0
