"""What varies while training: exact symmetries are exact, approximate ones obey their law, nothing else is touched."""

import numpy as np
import pytest
import torch

from kinmass.gen.constants import G
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.observe import observe
from kinmass.train.data.augmentation import Augmentation
from kinmass.train.data.dataset import RADII_RE, concatenate, read_views, usable
from kinmass.train.model.scaling import scale_free

FIELD = 6.0


@pytest.fixture(scope="module")
def views(map_store):
    stored_views = concatenate([read_views(map_store, suite) for suite in ("bursty", "quiet")])
    instrument = INSTRUMENTS["ifu"]
    return stored_views[usable(stored_views, "gas", instrument) & usable(stored_views, "stars", instrument)]


def varied(views, **strengths):
    """Maps, R_e and profiles after variation, and the numbers used."""
    augmentation = Augmentation(**strengths)
    numbers = augmentation.numbers(torch.arange(len(views)), seed=3)
    return *augmentation.vary(views.maps, views.half_mass_radius_kpc, views.log10_menc, FIELD, numbers), numbers


def test_nothing_varies_unless_asked_to(views):
    assert Augmentation().numbers(torch.arange(4), 0) is None


def test_numbers_belong_to_the_sample_and_differ():
    augmentation = Augmentation(scale_dex=1.0)
    together = augmentation.numbers(torch.arange(2000), 1)
    torch.testing.assert_close(augmentation.numbers(torch.arange(7, 2000, 13), 1), together[7::13])
    assert abs(float(together.mean())) < 0.02
    assert abs(float(together.std()) - 1) < 0.02
    assert float(torch.corrcoef(together.T).fill_diagonal_(0).abs().max()) < 0.1


def test_scale_is_the_symmetry_of_gravity(views):
    """Seen without noise, a scaled galaxy has the same dimensionless maps and the same dimensionless profile."""
    maps, r_e, menc, _ = varied(views, scale_dex=0.3)
    assert float((r_e / views.half_mass_radius_kpc).log10().std()) > 0.3
    torch.testing.assert_close(maps[:, [0, 4]], views.maps[:, [0, 4]])  # surface densities stay: so do masks
    observed = [observe(maps_of_kind, INSTRUMENTS["clean"], None) for maps_of_kind in (views.maps, maps)]
    for tracers in (("stars",), ("gas",), ("stars", "gas")):
        before, unit = scale_free(observed[0], views.half_mass_radius_kpc, tracers)
        after, shifted = scale_free(observed[1], r_e, tracers)
        for tracer in tracers:
            torch.testing.assert_close(after[tracer][0], before[tracer][0], rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(menc - shifted[:, None], views.log10_menc - unit[:, None], rtol=1e-4, atol=1e-4)


def test_light_changes_densities_alone_and_relative_inputs_not_at_all(views):
    observed = observe(views.maps, INSTRUMENTS["ifu"], None)
    augmentation = Augmentation(light_dex=0.3)
    brighter = augmentation.vary_observed(observed, augmentation.numbers(torch.arange(len(observed)), 0))
    ratio = (brighter / observed.clamp(min=1e-30)).nan_to_num()
    for t in (0, 4):
        ratios = [
            torch.unique((r[s[t + 3] > 0]).log10().round(decimals=4))
            for r, s in zip(ratio[:, t], observed, strict=True)
        ]
        assert all(len(x) <= 2 for x in ratios)
    torch.testing.assert_close(brighter[:, [1, 2, 3, 5, 6, 7]], observed[:, [1, 2, 3, 5, 6, 7]])
    r_e = views.half_mass_radius_kpc
    scale_free_inputs, relative_inputs = (
        [scale_free(s, r_e, ("stars", "gas"), relative=is_relative)[0] for s in (observed, brighter)]
        for is_relative in (False, True)
    )
    assert float((scale_free_inputs[0]["gas"][0] - scale_free_inputs[1]["gas"][0])[:, 0].abs().max()) > 0.1
    for tracer in ("stars", "gas"):
        torch.testing.assert_close(relative_inputs[0][tracer][0], relative_inputs[1][tracer][0], rtol=1e-4, atol=1e-4)


def test_tilt_moves_speeds_as_the_mass_inside(views):
    maps, _, menc, numbers = varied(views, tilt=0.2)
    slope = 0.2 * numbers[:, 1:2]
    torch.testing.assert_close(menc - views.log10_menc, slope * torch.tensor(RADII_RE).log10(), rtol=1e-3, atol=1e-5)
    assert (menc.diff(dim=1) > 0).float().mean() > 0.99
    p = maps.shape[-1]
    x = (torch.arange(p) + 0.5) / p * FIELD - FIELD / 2
    radius = torch.hypot(x[:, None], x[None, :]).clamp(RADII_RE[0], RADII_RE[-1])
    for channel in (1, 2, 5):
        torch.testing.assert_close(
            maps[:, channel] ** 2, views.maps[:, channel] ** 2 * 10 ** (slope[:, :, None] * radius.log10()),
            rtol=1e-3, atol=1e-3,
        )  # fmt: skip
    torch.testing.assert_close(maps[:, [0, 3, 4, 6, 7]], views.maps[:, [0, 3, 4, 6, 7]])


def test_heat_takes_from_rotation_what_pressure_supports():
    """A thin exponential disc seen edge on: V^2 + sigma^2 R / R_d is the circular velocity's square again."""
    p, r_e, v_c, r_d = 64, 4.0, 150.0, 0.6
    x = (torch.arange(p) + 0.5) / p * FIELD - FIELD / 2
    radius = torch.hypot(x[:, None], x[None, :])
    maps = torch.zeros(200, 8, p, p)
    maps[:, 4] = 1e8 * torch.exp(-radius / r_d)
    maps[:, 5] = v_c
    menc = torch.log10(v_c**2 * r_e * torch.tensor(RADII_RE) / G).expand(200, -1)
    augmentation = Augmentation(heat=0.2)
    numbers = augmentation.numbers(torch.arange(200), 0)
    heated, _, profiles = augmentation.vary(maps, torch.full((200,), r_e), menc, FIELD, numbers)
    torch.testing.assert_close(profiles, menc)
    sigma = heated[:, 6]
    torch.testing.assert_close(sigma, (0.2 * v_c * numbers[:, 3].abs())[:, None, None].expand_as(sigma))
    support = heated[:, 5] ** 2 + sigma**2 * radius / r_d
    is_cold = (sigma**2 * radius / r_d / v_c**2 < 0.8) & (radius > RADII_RE[0]) & (radius < RADII_RE[-1])
    np.testing.assert_allclose(support[is_cold], v_c**2, rtol=0.08)  # the field cuts the disc's mean radius a little
    assert not heated[:, :4].any()


def test_fade_keeps_the_brightest_pixels(views):
    observed = observe(views.maps, INSTRUMENTS["ifu"], None)
    augmentation = Augmentation(fade=0.5)
    copies = observed.repeat(40, 1, 1, 1)
    faded = augmentation.vary_observed(copies, augmentation.numbers(torch.arange(len(copies)), 0))
    for t in (0, 4):
        is_kept, was_valid = faded[:, t + 3] > 0, copies[:, t + 3] > 0
        assert (is_kept <= was_valid).all()
        torch.testing.assert_close(faded[:, t : t + 4], copies[:, t : t + 4] * is_kept[:, None])
        dimmest = torch.where(is_kept, copies[:, t], torch.inf).amin((1, 2))
        brightest = torch.where(was_valid & ~is_kept, copies[:, t], -torch.inf).amax((1, 2))
        assert (dimmest >= brightest).all()
        share = is_kept.sum((1, 2)) / was_valid.sum((1, 2))
        assert abs(float((share == 1).float().mean()) - 0.5) < 0.07
        assert float(share.min()) < 0.3
        assert int(is_kept.sum((1, 2)).min()) >= 8


def test_a_dispersion_that_was_not_measured_is_nil(views):
    observed = observe(views.maps, INSTRUMENTS["ifu"], None).repeat(40, 1, 1, 1)
    augmentation = Augmentation(no_dispersion=0.3)
    without_dispersion = augmentation.vary_observed(observed, augmentation.numbers(torch.arange(len(observed)), 0))
    absent = (without_dispersion[:, [2, 6]] == 0).flatten(2).all(2)
    np.testing.assert_allclose(absent.double().mean(0), 0.3, atol=0.07)
    assert not torch.equal(absent[:, 0], absent[:, 1])
    torch.testing.assert_close(without_dispersion[:, [0, 1, 3, 4, 5, 7]], observed[:, [0, 1, 3, 4, 5, 7]])
