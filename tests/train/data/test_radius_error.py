"""Whoever is wrong about R_e sees another part of the sky, and asks for masses at other radii."""

import numpy as np
import pytest
import torch

from kinmass.train.data.augmentation import Augmentation
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.data.radius_error import with_radius_error

PIXELS, FIELD_RE = 64, 6.0
INNER = (slice(None), slice(None), slice(8, 56), slice(8, 56))


def disc(scale):
    """Maps (1, 8, P, P) of a disc of known shape, in an R_e that is `scale` times the true one."""
    x = ((torch.arange(PIXELS, dtype=torch.float64) + 0.5) / PIXELS - 0.5) * FIELD_RE * scale
    r = torch.hypot(x[:, None], x[None, :])
    density = torch.exp(-(r**2) / 2)
    count = 1e4 * density * scale**2  # in a pixel's area
    return torch.stack([density, 100 * torch.tanh(x[None, :] + 0.3 * x[:, None]), 60 + 10 * r, count] * 2)[None]


@pytest.mark.parametrize("dex", [-0.12, 0.1])
def test_maps_are_those_of_a_galaxy_of_another_size(dex):
    maps, r_e, _ = with_radius_error(disc(1.0), torch.tensor([4.0]), torch.zeros(1, 10), torch.tensor([dex]))
    assert float(r_e) == pytest.approx(4 * 10**dex)
    expected = disc(10**dex)
    torch.testing.assert_close(maps[INNER][:, :3], expected[INNER][:, :3], rtol=2e-2, atol=1.0)
    assert float((maps[INNER] - expected[INNER])[:, 3::4].abs().max()) < 0.01 * float(expected[0, 3].max())
    torch.testing.assert_close(maps[:, :3], maps[:, 4:7])


def test_nothing_comes_in_from_beyond_and_particles_are_whole():
    maps, _, _ = with_radius_error(disc(1.0), torch.tensor([4.0]), torch.zeros(1, 10), torch.tensor([0.1]))
    assert float(maps[0, :, 0].abs().max()) == 0
    count = maps[:, 3::4]
    assert bool((count == count.round()).all())
    assert bool((maps[:, 3] >= 1)[maps[:, 0] > 0].all())


def test_masses_are_those_at_other_radii_on_power_laws_exactly():
    slopes, dex = torch.tensor([0.4, 1.3, 2.9], dtype=torch.float64)[:, None], torch.tensor([-0.17, 0.0, 0.31])
    log10_menc = 10 + slopes * torch.tensor(RADII_RE, dtype=torch.float64).log10()
    maps = disc(1.0).expand(3, -1, -1, -1)
    _, _, taken = with_radius_error(maps, torch.full((3,), 4.0), log10_menc, dex.double())
    torch.testing.assert_close(taken, log10_menc + slopes * dex[:, None], rtol=0, atol=1e-5)


def test_the_error_is_as_large_as_asked_for_and_leaves_other_numbers_as_they_were():
    samples = torch.arange(4000)
    plain, erring = Augmentation(heat=0.1), Augmentation(heat=0.1, radius_dex=0.08)
    torch.testing.assert_close(plain.numbers(samples, 1), erring.numbers(samples, 1))
    numbers = Augmentation(radius_dex=0.08).numbers(samples, 1)
    maps = torch.zeros(4000, 8, 2, 2)
    _, r_e, _ = Augmentation(radius_dex=0.08).vary(maps, torch.ones(4000), torch.zeros(4000, 10), FIELD_RE, numbers)
    dex = np.log10(r_e.numpy())
    assert abs(dex.mean()) < 0.005
    assert dex.std() == pytest.approx(0.08, rel=0.05)
    others = numbers[:, :12]
    assert float(torch.corrcoef(torch.cat([others, torch.from_numpy(dex)[:, None]], 1).T)[-1, :-1].abs().max()) < 0.06
