"""Looks: what an instrument leaves open is drawn for each view, acts where it should, and is told."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kinmass.gen.instruments import looks as looks_module
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.footprint import inside
from kinmass.gen.instruments.looks import CHOICES, MAPS, Look, without_look
from kinmass.gen.instruments.model import FEWEST_PIXELS, Footprint, Instrument, PsfFwhm, TracerNoise
from kinmass.gen.instruments.observe import CHANNELS_TOLD, TOLD, UNKNOWN, observe, with_told
from kinmass.train.data.dataset import read_views
from kinmass.train.data.sampler import looks

PIXELS = 32


def numbers(n: int, pixels: int = PIXELS, seed: int = 0) -> tuple[torch.Tensor, Look]:
    """Noise (N, 4, P, P) and looks of N views."""
    generator = torch.Generator().manual_seed(seed)
    look = Look(torch.rand(n, CHOICES, generator=generator), torch.randn(n, MAPS, pixels, pixels, generator=generator))
    return torch.randn(n, 4, pixels, pixels, generator=generator), look


def disc(n: int = 1, sigma_kms: float = 60.0, count: float = 1e6) -> torch.Tensor:
    """(N, 8, P, P): an exponential disc of one R_e over 6 R_e, rotating, without shot noise."""
    x = ((torch.arange(PIXELS, dtype=torch.float64) + 0.5) / PIXELS - 0.5) * 6
    radius = torch.hypot(x[:, None], x[None, :])
    density = 1e8 * torch.exp(-1.7 * radius)
    velocity = 150 * x[None, :] / (radius + 0.5)
    channels = [density, velocity, torch.full_like(density, sigma_kms), torch.full_like(density, count)] * 2
    return torch.stack(channels)[None].expand(n, -1, -1, -1).clone()


def told(observed: torch.Tensor, t: int, name: str) -> torch.Tensor:
    """One channel (N, Q, Q) of what is told of a tracer."""
    return observed[:, 8 + len(TOLD) * t + TOLD.index(name)]


def test_looks_belong_to_the_view_and_to_the_step(map_store):
    views = read_views(map_store, "middle")
    survey = INSTRUMENTS["survey"]
    seen = views.observed(survey, told=True)
    assert seen.shape[1] == CHANNELS_TOLD
    assert torch.isfinite(seen).all()
    some = views[np.array([3, 1])]
    torch.testing.assert_close(some.observed(survey, told=True), seen[[3, 1]], rtol=1e-5, atol=1e-2)
    assert (seen[0] != views[np.array([0, 0])].observed(survey, told=True)[1]).sum() == 0
    # In training: by the number of the look, whatever process takes it.
    whole, part = looks(torch.arange(8), 16, 5), looks(torch.arange(8)[1::2], 16, 5)
    assert torch.equal(whole.choices[1::2], part.choices)
    every = slice(0, MAPS)
    assert torch.equal(whole.normal[1::2, every], part.normal[:, every])
    assert not torch.equal(whole.choices, looks(torch.arange(8), 16, 6).choices)
    many = looks(torch.arange(4000), 4, 0)
    assert float(many.choices.mean()) == pytest.approx(0.5, abs=0.005)
    assert 0 <= float(many.choices.min()) < 1e-3 < 0.999 < float(many.choices.max()) < 1
    assert float(many.normal[:, every].std()) == pytest.approx(1, abs=0.01)


def test_maps_drawn_as_they_are_needed_are_those_drawn_all_at_once(monkeypatch):
    drawn = looks(torch.arange(5), 8, 5)
    monkeypatch.setattr(looks_module, "BRANCHES_ON", "none")
    at_once = looks(torch.arange(5), 8, 5)
    assert isinstance(at_once.normal, torch.Tensor)
    assert torch.equal(drawn.choices, at_once.choices)
    rows = torch.tensor([4, 0, 1])
    for first in range(MAPS):
        for last in range(first + 1, MAPS + 1):
            assert torch.equal(drawn.maps(first, last)(rows), at_once.normal[rows, first:last])
            assert torch.equal(drawn.maps(first, last)(slice(None)), at_once.normal[:, first:last])
    assert drawn.maps(0, 3)(rows[:0]).shape == (0, 3, 8, 8)


def test_an_instrument_without_ranges_has_no_looks():
    maps = disc(3)
    noise, look = numbers(3)
    for name in ("clean", "ifu"):
        assert not INSTRUMENTS[name].varies()
        assert torch.equal(observe(maps, INSTRUMENTS[name], noise), observe(maps, INSTRUMENTS[name], noise, look=look))
    for name in INSTRUMENTS.keys() - {"clean", "ifu"}:
        assert INSTRUMENTS[name].varies()
        settled = without_look(INSTRUMENTS[name])
        assert not settled.varies(), name
        assert torch.equal(observe(maps, settled, None), observe(maps, INSTRUMENTS[name], None))


def test_ranges_are_drawn_evenly_in_the_logarithm_or_in_the_number():
    _, look = numbers(4000)
    widths = look.value("psf_fwhm", (0.1, 1.6))
    assert isinstance(widths, torch.Tensor)
    assert 0.1 <= float(widths.min()) < 0.102 < 1.58 < float(widths.max()) <= 1.6
    assert float(widths.median()) == pytest.approx(0.4, rel=0.05)
    offsets = look.value("offset_re", (0.0, 2.0))
    assert isinstance(offsets, torch.Tensor)
    assert float(offsets.median()) == pytest.approx(1, rel=0.05)
    assert look.value("offset_re", 0.3) == 0.3
    # No two numbers are drawn from the same choice.
    assert (
        len(
            {
                float(look.value(f"{t}.{name}", (0.0, 1.0))[7])
                for t in ("stars", "gas")
                for name in ("particles", "density_dex")
            }
        )
        == 4
    )  # type: ignore[index]


# ---- footprints and losses


@pytest.mark.parametrize(("sides", "area"), [(0, np.pi), (4, 4.0), (6, 2 * np.sqrt(3))])
def test_footprints_have_their_area_and_place_however_they_are_turned(sides, area):
    like = torch.zeros(1, dtype=torch.float64)
    for turn in (0.0, 0.3, 1.1):
        mask = inside(256, 6.0, like, sides, 1.5, (0.4, -0.3), turn)[0]
        assert float(mask.sum()) * (6 / 256) ** 2 == pytest.approx(area * 1.5**2, rel=0.01)
        y, x = torch.nonzero(mask, as_tuple=True)
        assert float((x + 0.5).double().mean() / 256 - 0.5) * 6 == pytest.approx(0.4, abs=0.01)
        assert float((y + 0.5).double().mean() / 256 - 0.5) * 6 == pytest.approx(-0.3, abs=0.01)


def test_footprints_act_before_noise():
    """What lies inside is seen as without a footprint, with the same noise; what lies outside is lost."""
    noise, look = numbers(4)
    maps = disc(4)
    whole = Instrument(name="x", psf_fwhm={"re": 0.3}, stars={"velocity_error_kms": 9.0}, gas={"velocity_error_kms": 4})
    for footprint in ({"radius_re": 1.2}, {"shape": "hexagon", "radius_re": 1.5, "offset_re": 0.2}):
        part = whole.model_copy(update={"footprint": Footprint(**footprint)})
        all_seen, seen = observe(maps, whole, noise, look=look), observe(maps, part, noise, look=look)
        mask = seen[:, 3:4] > 0
        assert 0.05 < mask.double().mean() < 0.4
        torch.testing.assert_close(seen, all_seen * mask)
    with pytest.raises(ValueError, match=r"footprint of 10 R_e at least, the maps have 6"):
        observe(maps, Instrument(name="x", footprint={"radius_re": 5.0}), None)


def test_drawn_losses_leave_something_to_see():
    n = 300
    noise, look = numbers(n)
    maps = disc(n)
    # Gas with a central hole, of which many footprints show nothing.
    maps[:, 4:] *= (
        torch.hypot(*torch.meshgrid(torch.linspace(-3, 3, PIXELS), torch.linspace(-3, 3, PIXELS), indexing="ij")) > 1.5
    )
    seen = observe(maps, INSTRUMENTS["survey"], noise, look=look, told=True)
    assert int(seen[:, [3, 7]].sum((2, 3)).min()) >= FEWEST_PIXELS
    few = int((seen[:, 3].sum((1, 2)) < 60).sum())
    assert 0.05 * n < few < 0.6 * n
    # Gas so compact, and seen so little deep, that a PSF's endless tails are all there is beside it.
    compact = disc(n)
    compact[:, 4] = 1e5 * (
        torch.hypot(*torch.meshgrid(torch.arange(PIXELS) - 15.5, torch.arange(PIXELS) - 15.5, indexing="ij")) < 1.5
    )
    shallow = Instrument(name="x", psf_fwhm={"re": (0.2, 0.6)}, gas=INSTRUMENTS["survey"].gas)
    for instrument in (shallow, INSTRUMENTS["survey"]):
        seen = observe(compact.float(), instrument, noise, look=look, told=True)
        assert torch.isfinite(seen).all()
        gas = seen[:, 4]
        assert float(gas[gas > 0].min()) > 0.5
        assert float(seen[:, 5].abs().max()) < 1e4
    # Of one size at one distance, in a direction that is drawn: above and below a disc seen edge on there is nothing.
    edge_on = disc(n)
    edge_on[:, 0, :14], edge_on[:, 0, 18:] = 0.0, 0.0
    aside = Instrument(name="x", footprint={"radius_re": 0.8, "offset_re": 1.5})
    n_seen = observe(edge_on, aside, noise, look=look)[:, 3].sum((1, 2))
    assert int(n_seen.min()) >= FEWEST_PIXELS
    assert 0.3 < float((n_seen < 60).double().mean()) < 0.7
    # Of a few particles in a pixel no pixel has many: those that have most are seen.
    thinned = Instrument(name="x", psf_fwhm={"pixels": 1.5}, stars={"min_particles": 5, "particles": (100, 20_000)})
    n_seen = observe(disc(n, count=100.0), thinned, noise, look=look)[:, 3].sum((1, 2))
    assert int(n_seen.min()) >= FEWEST_PIXELS
    assert float((n_seen < 0.9 * PIXELS**2).double().mean()) > 0.1
    # A loss that is not drawn happens, whatever it leaves.
    small = Instrument(name="x", footprint={"radius_re": 0.5})
    assert observe(maps, small, None)[:, 7].sum() == 0


def test_complete_looks_lose_nothing_of_what_only_some_lose():
    n = 400
    noise, look = numbers(n)
    survey = INSTRUMENTS["survey"].model_copy(update={"complete": 0.0})
    shares = dict.fromkeys(("thinned", "binned", "faded", "holed", "no_dispersion", "no_density"), 0.0)
    whole = survey.model_copy(
        update={
            "footprint": None,
            **{name: getattr(survey, name).model_copy(update=shares) for name in ("stars", "gas")},
        }
    )

    def seen(instrument: Instrument) -> torch.Tensor:
        """What an instrument shows of a disc, with what is told."""
        return observe(disc(n), instrument, noise, look=look, told=True)

    lossy, complete = seen(survey), seen(whole)
    torch.testing.assert_close(seen(survey.model_copy(update={"complete": 1.0})), complete)
    mixed = seen(survey.model_copy(update={"complete": 0.25}))
    is_complete, is_lossy = ((mixed == other).flatten(1).all(1) for other in (complete, lossy))
    assert (is_complete | is_lossy).all()
    assert 0.2 < float((is_complete & ~is_lossy).double().mean()) < 0.3
    # What all looks lose, complete ones lose, too.
    always = Instrument(name="a", complete=0.5, gas=TracerNoise(lost_pixels=0.5, no_dispersion=1.0), stars=survey.stars)
    gas = observe(disc(n), always, noise, look=look, told=True)
    assert (gas[:, 7].mean((1, 2)) < 0.7).all()
    assert (told(gas, 1, "has_dispersion") == 0).all()


def test_the_brightest_pixels_are_kept_and_others_lost_at_random():
    noise, look = numbers(6)
    maps = disc(6)
    kept = observe(maps, Instrument(name="x", stars={"kept_pixels": 0.1}), None)
    assert (kept[:, 3].sum((1, 2)) - 0.1 * PIXELS**2).abs().max() <= 16  # equally bright ones stay together
    assert (kept[:, 0][kept[:, 3] > 0].min() >= maps[:, 0][kept[:, 3] == 0].max()).all()
    for most in (30, 12):
        n_kept = observe(maps, Instrument(name="x", stars={"most_pixels": most}), None)[:, 3].sum((1, 2))
        assert (n_kept >= most).all()
        assert (n_kept <= most + 8).all()
    assert torch.equal(kept[:, 4:], observe(maps, INSTRUMENTS["clean"], None)[:, 4:])
    lost = observe(maps, Instrument(name="x", gas={"lost_pixels": 0.25}), noise, look=look)
    assert float(lost[:, 7].mean()) == pytest.approx(0.75, abs=0.02)
    assert not torch.equal(lost[0, 7], lost[1, 7])


# ---- noise and what is told of it


def scatter(instrument: Instrument, maps: torch.Tensor, n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Observed maps (N, 18, Q, Q) of N looks at one view, and their standard deviation."""
    noise, look = numbers(n)
    seen = observe(maps.expand(n, -1, -1, -1), instrument, noise, look=look, told=True)
    return seen, seen.std(0)


@pytest.mark.parametrize(
    "tracer",
    [
        {"velocity_error_kms": 10.0, "error_slope": 0.5},
        {"velocity_error_kms": 10.0, "error_slope": 0.5, "correlated": 1.0},
        {"velocity_error_kms": 10.0, "error_slope": 0.5, "bin_to_kms": 12.0},
        {"velocity_error_kms": 4.0, "instrument_sigma_kms": 70.0},
    ],
)
def test_errors_that_are_told_are_those_that_are_made(tracer):
    instrument = Instrument(name="x", psf_fwhm={"re": 0.4}, stars=tracer, gas=tracer)
    seen, spread = scatter(instrument, disc())
    for t in range(2):
        for channel, name in ((1, "velocity_error"), (2, "dispersion_error")):
            error = told(seen, t, name).mean(0)
            ratio = spread[4 * t + channel] / error
            bright = error < 25  # where sigma is well above its error
            assert bright.double().mean() > 0.2
            assert float(ratio[bright].median()) == pytest.approx(1, abs=0.06), (t, name)


def test_correlated_errors_are_alike_within_a_psf_alone():
    noise = {"velocity_error_kms": 10.0, "correlated": 1.0}
    seen, _ = scatter(Instrument(name="x", psf_fwhm={"pixels": 3.0}, stars=noise), disc())
    error = seen[:, 1] - seen[:, 1].mean(0)
    alike = [float((error[..., :-k] * error[..., k:]).mean() / (error**2).mean()) for k in (1, 2, 8)]
    # Two beams a distance d apart share exp(-d^2 / 4 s^2) of their noise.
    expected = [np.exp(-(k**2) / (4 * (3 / 2.3548) ** 2)) for k in (1, 2, 8)]
    np.testing.assert_allclose(alike, expected, atol=0.03)


def test_bins_join_faint_pixels_until_they_are_known_well_enough():
    noise = TracerNoise(velocity_error_kms=5.0, error_slope=0.5, bin_to_kms=15.0)
    maps = disc()
    seen = observe(maps, Instrument(name="x", stars=noise), None, told=True)
    error, plain_error = told(seen, 0, "velocity_error")[0], 5.0 * (seen[0, 0] / seen[0, 0].max()) ** -0.5
    assert float(error.max()) < float(plain_error.max()) / 3.5
    # The middle, where pixels are good by themselves, is as it was; far out four by four are one.
    middle = (0, slice(0, 3), slice(14, 18), slice(14, 18))
    torch.testing.assert_close(seen[middle], observe(maps, INSTRUMENTS["clean"], None)[middle])
    corner = seen[0, :3, :4, :4].flatten(1)
    torch.testing.assert_close(corner, corner[:, :1].expand_as(corner))
    # Light and momentum are those of all pixels.
    for moments in (lambda m: m[:, 0], lambda m: m[:, 0] * m[:, 1], lambda m: m[:, 0] * (m[:, 1] ** 2 + m[:, 2] ** 2)):
        torch.testing.assert_close(moments(seen).sum(), moments(maps).sum(), rtol=1e-9, atol=1e-2)


def test_a_dispersion_below_the_instruments_is_hardly_known():
    resolved, spread = scatter(
        Instrument(name="x", gas={"velocity_error_kms": 4.0, "instrument_sigma_kms": 50.0}), disc(sigma_kms=100.0)
    )
    assert float(resolved[:, 6].mean()) == pytest.approx(100, rel=0.02)
    unresolved, wide = scatter(
        Instrument(name="x", gas={"velocity_error_kms": 4.0, "instrument_sigma_kms": 50.0}), disc(sigma_kms=5.0)
    )
    assert float(wide[6].mean()) > 2 * float(spread[6].mean())
    assert float(told(unresolved, 1, "dispersion_error").mean()) > 2 * float(
        told(resolved, 1, "dispersion_error").mean()
    )


def test_what_is_not_known_is_said_to_be_unknown():
    noise, look = numbers(200)
    half = {
        "velocity_error_kms": 5.0,
        "unknown_errors": 0.5,
        "no_dispersion": 0.5,
        "density_dex": 0.3,
        "uncertain_density": 0.5,
    }
    instrument = Instrument(name="x", psf_fwhm={"re": 0.4}, unknown_psf=0.5, stars=half)
    seen = observe(disc(200), instrument, noise, look=look, told=True)
    first = {name: told(seen, 0, name)[:, 0, 0].double().round(decimals=4) for name in TOLD}
    assert set(first["psf_fwhm_re"].tolist()) == {UNKNOWN, 0.4}
    assert set(first["has_dispersion"].tolist()) == {0.0, 1.0}
    assert set(first["density_dex"].tolist()) == {0.0, 0.3}
    for name, lost in (
        ("velocity_error", UNKNOWN),
        ("psf_fwhm_re", UNKNOWN),
        ("has_dispersion", 0.0),
        ("density_dex", 0.0),
    ):
        assert 0.35 < float((first[name] == lost).double().mean()) < 0.65, name
    has_none = first["has_dispersion"] == 0
    assert seen[has_none, 2].abs().max() == 0
    assert (seen[~has_none, 2].flatten(1).max(1).values > 0).all()
    exact = first["density_dex"] == 0
    dex = torch.log10(seen[:, 0].sum((1, 2)) / seen[exact][0, 0].sum())
    assert dex[exact].abs().max() < 1e-6
    assert float(dex[~exact].std()) == pytest.approx(0.3, rel=0.2)
    # Without a density it is seen where there are stars, and nothing more.
    no_density = observe(disc(1), Instrument(name="x", stars={"no_density": 1.0}), None, told=True)
    assert set(no_density[0, 0].flatten().tolist()) == {1.0}
    assert (told(no_density, 0, "density_dex") == UNKNOWN).all()
    torch.testing.assert_close(no_density[:, 1:3], disc(1)[:, 1:3])
    # Of maps alone nothing is known but whether they have a dispersion.
    bare = with_told(seen[:, :8])
    assert torch.equal(told(bare, 0, "has_dispersion"), told(seen, 0, "has_dispersion"))
    assert torch.equal(told(bare, 0, "psf_fwhm_re"), UNKNOWN * seen[:, 3])
    assert with_told(seen) is seen
    without = seen[:, :8].clone()
    without[:, 3, :4] = 0.0
    without[:, 2] = torch.where(without[:, 3] > 0, 0.0, 999.0)  # none was measured, and a number stands elsewhere
    assert not told(with_told(without), 0, "has_dispersion").any()


def test_the_eight_maps_are_the_same_told_or_not_and_of_one_tracer_alone():
    noise, look = numbers(12)
    for instrument in INSTRUMENTS.values():
        given = disc(12), instrument, noise, 6.0, None, look
        seen = observe(*given, told=True)
        assert torch.equal(observe(*given), seen[:, :8]), instrument.name
        for t, tracer in enumerate(("stars", "gas")):
            of_one = observe(*given, told=True, tracers=(tracer,)).split([4, 4, len(TOLD), len(TOLD)], dim=1)
            for i, (part, expected) in enumerate(
                zip(of_one, seen.split([4, 4, len(TOLD), len(TOLD)], dim=1), strict=True)
            ):
                assert torch.equal(part, expected if i % 2 == t else torch.zeros_like(expected))


@pytest.mark.parametrize("name", [name for name, i in INSTRUMENTS.items() if i.varies()])
def test_views_that_are_left_out_of_the_work_are_seen_as_by_a_gpu_that_works_on_all(name, monkeypatch):
    noise, look = numbers(60)
    maps = disc(60, count=3e4)
    seen = observe(maps, INSTRUMENTS[name], noise, look=look, told=True)
    monkeypatch.setattr(looks_module, "BRANCHES_ON", "none")
    by_a_gpu = observe(maps, INSTRUMENTS[name], noise, look=look, told=True)
    torch.testing.assert_close(seen, by_a_gpu, rtol=1e-9, atol=1e-9)


def test_a_wrong_centre_moves_the_map():
    maps = disc(400)
    maps[:, ::4] = maps[:, ::4] ** 3 / 1e16  # so small that nothing of it leaves the map
    _, look = numbers(400)
    x = ((torch.arange(PIXELS) + 0.5) / PIXELS - 0.5) * 6
    seen = observe(maps, Instrument(name="x", centre_error_re=0.1, psf_fwhm={"re": 0.3}), None, look=look)
    centre_x = (seen[:, 0].sum(1) * x).sum(1) / seen[:, 0].sum((1, 2))
    centre_y = (seen[:, 0].sum(2) * x).sum(1) / seen[:, 0].sum((1, 2))
    for centre in (centre_x, centre_y):
        assert float(centre.mean()) == pytest.approx(0, abs=0.015)
        assert float(centre.std()) == pytest.approx(0.1, rel=0.1)
    assert abs(float(np.corrcoef(centre_x, centre_y)[0, 1])) < 0.15


def test_psf_and_noise_of_a_look_are_those_that_it_draws():
    """A look at a range is the fixed instrument that has the drawn numbers."""
    maps = disc(5)
    noise, look = numbers(5)
    ranges = Instrument(name="x", psf_fwhm=PsfFwhm(re=(0.2, 0.9)), stars=TracerNoise(velocity_error_kms=(1.0, 20.0)))
    seen = observe(maps, ranges, noise, look=look)
    for i in range(5):
        fwhm, error = (
            look.value(name, ends)[i]
            for name, ends in (("psf_fwhm", (0.2, 0.9)), ("stars.velocity_error_kms", (1.0, 20.0)))
        )  # type: ignore[index]
        fixed = Instrument(name="x", psf_fwhm={"re": float(fwhm)}, stars={"velocity_error_kms": float(error)})
        torch.testing.assert_close(seen[i], observe(maps[i : i + 1], fixed, noise[i : i + 1])[0], rtol=1e-5, atol=1e-2)


def test_sources_of_the_named_instruments_are_there():
    """Each real survey has a comment with the papers that its numbers come from."""
    text = Path(__file__).parents[3].joinpath("gen/instruments/builtin.py").read_text()
    for name in INSTRUMENTS.keys() - {"clean", "ifu", "survey"}:
        before = text[: text.index(f'name="{name}"')].rsplit("\n\n", 1)[1]
        assert before.startswith("# "), name
        assert "et al." in before, name
