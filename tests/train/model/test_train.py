"""What is trained: the split, dimensional analysis, encoders, the posterior."""

import shutil

import numpy as np
import pytest
import torch

from kinmass.eval.tables.predictions import Part, columns
from kinmass.gen.constants import G
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.observe import observe
from kinmass.gen.storage import store
from kinmass.gen.storage.chunks import chunk_file
from kinmass.train.data.dataset import RADII_RE, REASONS, SPLIT, concatenate, part_of, read_views, usable, why_not
from kinmass.train.data.loader import done_galaxies, galaxies_of
from kinmass.train.data.sampler import draws, looks
from kinmass.train.loop.turns import observe_by_turns
from kinmass.train.model.density import (
    HEADS,
    MAX_SLOPE,
    ProfileDensity,
    constrained,
    log_derivative,
    max_steps,
    unconstrained,
)
from kinmass.train.model.encoders import ANGLES, ENCODERS, RINGS, PolarEncoder, polar_weights
from kinmass.train.model.join import JOINS
from kinmass.train.model.network import MassModel, ModelConfig
from kinmass.train.model.scaling import (
    SPEEDS_KMS,
    at_mass_limits,
    clip_to_mass_limits,
    drop_tracers,
    flip_sky,
    mass_limits,
    only,
    scale_free,
    velocity_scale,
)
from kinmass.train.run.posterior import Posterior

SUITES = ("bursty", "quiet", "middle")


def views_of(map_store):
    return read_views(map_store, "middle")


# ---- the split


def test_split_is_by_galaxy_and_has_the_stated_shares():
    names = [f"galaxy_{i}" for i in range(20_000)]
    parts = [part_of(name) for name in names]
    for part, share in SPLIT.items():
        assert parts.count(part) / len(parts) == pytest.approx(share, abs=0.01)
    assert parts == [part_of(name) for name in names]


def test_no_galaxy_is_on_two_sides(map_store):
    sides = [set(read_views(map_store, suite, part).galaxy) for part in SPLIT for suite in SUITES]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 36
    views = views_of(map_store)
    assert len(views) == 24
    assert torch.isfinite(views.log10_menc).all()
    assert (torch.diff(views.log10_menc, dim=1) > 0).all()


def test_reading_in_blocks_is_reading_it_all(map_store):
    views = views_of(map_store)
    parts = [read_views(map_store, "middle", None, slice(i, i + 5)) for i in range(0, 12, 5)]
    assert torch.equal(torch.cat([p.maps for p in parts]), views.maps)


def test_views_are_chosen_as_rows_of_an_array(map_store):
    """By numbers, a slice, or one True or False for each: a list of another length would choose other galaxies."""
    views = views_of(map_store)
    is_second = views.view == 1
    for rows, names in (
        ([5, -1], [views.names()[5], views.names()[-1]]),
        (slice(3), views.names()[:3]),
        (7, [views.names()[7]]),
        (is_second, [name for name in views.names() if name[1] == 1]),
        (torch.from_numpy(is_second), [name for name in views.names() if name[1] == 1]),
        ([], []),
    ):
        assert views[rows].names() == names
        assert len(views[rows].maps) == len(names)
    for wrong in (is_second[:5], np.append(is_second, False)):
        with pytest.raises(IndexError, match="boolean index did not match"):
            views[wrong]


# ---- which views are usable


def test_galaxies_without_gas_are_usable_by_stars_and_both_only(map_store):
    views = views_of(map_store)
    views.maps[:4, 4:] = 0
    views.maps[4, 0, 0, 0] = np.nan
    instrument = INSTRUMENTS["ifu"]
    assert not usable(views, "gas", instrument)[:5].any()
    assert usable(views, "both", instrument)[:4].all()
    assert not usable(views, "both", instrument)[4]
    assert usable(views, "stars", instrument).sum() == 23


def test_suites_of_equal_names_share_no_numbers_and_count_for_themselves(own_store):
    twin_json = shutil.copytree(own_store / "middle", own_store / "twin") / "zarr.json"
    twin_json.write_text(twin_json.read_text().replace('"suite": "middle"', '"suite": "twin"'))
    one, twin = (read_views(own_store, suite) for suite in ("middle", "twin"))
    assert one.galaxy.tolist() == twin.galaxy.tolist()
    assert (one.observed(INSTRUMENTS["ifu"]) != twin.observed(INSTRUMENTS["ifu"])).flatten(1).any(1).all()
    assert not set(one.names()) & set(twin.names())
    together = concatenate([one, twin])
    assert len(set(together.lineages())) == 2 * len(set(one.lineage))
    galaxies = galaxies_of(own_store, done_galaxies(own_store, ("middle", "twin")), "train", max_lineages=5)
    assert len(galaxies) == 5


def test_a_truth_of_nil_is_no_number_and_such_views_are_left_out(own_store):
    """No particle inside .3 R_e, as in galaxies of few stars; and no gas at all, which is no mass of gas."""
    group, instrument = store.open_suite(own_store, "middle"), INSTRUMENTS["ifu"]
    reasons_before = why_not(read_views(own_store, "middle"), "both", instrument)
    radius, mass = group["radius"][3], group["mass"][3]
    mass[:, radius <= 0.5 * group["half_mass_radius"][3].min()] = 0
    mass[3] = 0
    group["mass"][3] = mass
    views = read_views(own_store, "middle")
    of_galaxy = views.galaxy == group["galaxy"][3]
    assert torch.isnan(views.log10_menc[of_galaxy][:, :2]).all()
    assert torch.isfinite(views.log10_menc[of_galaxy][:, 4:]).all()
    assert torch.isfinite(views.log10_menc[~of_galaxy]).all()
    reasons = why_not(views, "both", instrument)
    assert set(REASONS[k] for k in reasons[of_galaxy]) == {
        "a mass profile that is not finite, or nil at one of its radii"
    }
    np.testing.assert_array_equal(reasons[~of_galaxy], reasons_before[~of_galaxy])
    part = Part(own_store, "middle", None)
    r_e = views.half_mass_radius_kpc.numpy()
    gas_fraction = columns(part, np.arange(12), views.maps.numpy(), r_e)["gas_fraction"]
    assert (gas_fraction[of_galaxy] == 0).all()
    assert ((gas_fraction[~of_galaxy] > 0) & (gas_fraction[~of_galaxy] < 1)).all()
    assert store.without_dark_matter(own_store, SUITES) == []
    group["has_dark"][3] = 0
    (message,) = store.without_dark_matter(own_store, SUITES)
    assert message.startswith("middle: 1 of 12 galaxies have no dark matter")


def test_a_view_without_any_motion_is_left_out(map_store):
    """Its scale would be a floor of 1e-3 km/s, and its mass one solar mass."""
    views, instrument = views_of(map_store), INSTRUMENTS["clean"]
    views.maps[2, [1, 2, 5, 6]] = 0
    reasons = why_not(views, "both", instrument)
    assert REASONS[reasons[2]] == "no motion to scale masses by"
    assert (np.delete(reasons, 2) == 0).all()


# ---- dimensional analysis and symmetry


@pytest.mark.parametrize("tracers", [("stars",), ("gas",), ("stars", "gas")])
def test_a_galaxy_of_any_size_looks_alike(map_store, tracers):
    """Lengths times a, velocities times b, masses times a b^2: same inputs, mass unit shifted by that."""
    views = views_of(map_store)
    observed = observe(views.maps, INSTRUMENTS["clean"], None)
    a, b = 3.0, 0.4
    scaled = observed.clone()
    for start in (0, 4):
        scaled[:, start] *= a * b**2 / a**2
        scaled[:, start + 1 : start + 3] *= b
    before, unit = scale_free(observed, views.half_mass_radius_kpc, tracers)
    after, shifted = scale_free(scaled, a * views.half_mass_radius_kpc, tracers)
    for tracer in tracers:
        torch.testing.assert_close(after[tracer][0], before[tracer][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shifted - unit, torch.full_like(unit, np.log10(a * b**2)), rtol=1e-4, atol=1e-4)


def test_symmetries_of_the_sky_keep_the_velocity_scale(map_store):
    views = views_of(map_store)
    flipped = flip_sky(views.maps, torch.arange(len(views)) % 16)
    scales = []
    for maps in (views.maps, flipped):
        scales.append(velocity_scale(observe(maps, INSTRUMENTS["ifu"], None), ("stars", "gas")))
    torch.testing.assert_close(scales[0], scales[1], rtol=1e-3, atol=1e-3)
    for channel in (0, 3):
        torch.testing.assert_close(flipped[:, channel].sum((1, 2)), views.maps[:, channel].sum((1, 2)))


def test_there_are_sixteen_symmetries_of_the_sky(map_store):
    """Four turns, mirrored or not, along the sight or not: each by brute force, and no two alike."""
    maps = views_of(map_store).maps[:1]
    flipped = flip_sky(maps.expand(16, -1, -1, -1), torch.arange(16))
    for choice in range(16):
        expected = torch.rot90(maps[0], choice % 4, (1, 2))
        expected = (expected.flip(2) if choice % 8 >= 4 else expected).clone()
        expected[[1, 5]] *= -1 if choice >= 8 else 1
        assert torch.equal(flipped[choice], expected)
    assert len({f.numpy().tobytes() for f in flipped}) == 16


@pytest.mark.parametrize(
    ("encoder", "told", "pixels"),
    [("polar", False, 16), ("residual", False, 16), ("polar", True, 16), ("polar", False, 15)],
)
def test_a_mirror_image_of_a_galaxy_has_the_same_posterior(map_store, encoder, told, pixels):
    """As an untrained network says it: the mean over symmetries is equal for all of them, one look is not."""
    torch.manual_seed(2)
    views = views_of(map_store)[np.arange(6)]
    options = {"encoder": encoder, "width": 4, "told": told}
    model = MassModel(ModelConfig("both", RADII_RE, pixels, views.field_of_view_re, **options)).eval()
    observed = views.observed(INSTRUMENTS["ifu"], told=told)[..., :pixels, :pixels]
    with torch.no_grad():
        expected, unit = model.symmetric_features(observed, views.half_mass_radius_kpc)
        single = model.features(observed, views.half_mass_radius_kpc)[0]
        for choice in range(16):
            image = flip_sky(observed, torch.full((6,), choice))
            features, image_unit = model.symmetric_features(image, views.half_mass_radius_kpc)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(image_unit, unit, rtol=1e-5, atol=1e-5)
        mirrored = model.features(flip_sky(observed, torch.full((6,), 12)), views.half_mass_radius_kpc)[0]
    assert (mirrored - single).abs().max() > 1e-3


@pytest.mark.parametrize("join", JOINS)
def test_a_tracer_by_itself_says_nothing_of_the_other(map_store, join):
    """Which in training stands beside both: each tracer's own density moves with its own maps alone."""
    torch.manual_seed(4)
    views = views_of(map_store)[np.arange(6)]
    network = {"pixels": views.maps.shape[-1], "field_of_view_re": views.field_of_view_re, "width": 4, "join": join}
    model = MassModel(ModelConfig("both", RADII_RE, **network)).eval()
    observed, r_e, truth = views.observed(INSTRUMENTS["ifu"]), views.half_mass_radius_kpc, views.log10_menc
    with torch.no_grad():
        log_probs = model(observed, r_e, truth, alone=True)
        torch.testing.assert_close(log_probs[:1], model(observed, r_e, truth), rtol=1e-4, atol=1e-4)
        for row, channels in ((1, slice(0, 4)), (2, slice(4, 8))):  # stars, gas
            mirrored = observed.clone()
            mirrored[:, channels] = mirrored[:, channels].flip(3)  # the velocity scale stays
            changed = (model(mirrored, r_e, truth, alone=True) - log_probs).abs()
            assert changed[0].min() > 1e-5
            assert changed[row].min() > 1e-5
            assert changed[3 - row].max() < 1e-4
    assert model(observed, r_e, truth, alone=True).shape == (3, 6)
    single = MassModel(ModelConfig("gas", RADII_RE, **network)).eval()
    assert single(observed, r_e, truth, alone=True).shape == (1, 6)


@pytest.mark.parametrize("encoder", ["polar", "residual", "plain"])
def test_what_is_told_adds_to_what_is_seen(map_store, encoder):
    """A network that gives no weight to what it is told is the one that is not told; one that does, is not."""
    views = views_of(map_store)[np.arange(6)]
    r_e, observed = views.half_mass_radius_kpc, views.observed(INSTRUMENTS["ifu"], told=True)
    options = {
        "pixels": views.maps.shape[-1],
        "field_of_view_re": views.field_of_view_re,
        "encoder": encoder,
        "width": 4,
    }
    untold = MassModel(ModelConfig("both", RADII_RE, **options)).eval()
    told = MassModel(ModelConfig("both", RADII_RE, told=True, **options)).eval()
    weights = dict(untold.state_dict())
    for name, weight in told.state_dict().items():
        if weight.shape != weights[name].shape:  # the first layer: zeros for the channels that are told
            n_seen = 5 if encoder == "polar" else 4
            wide = torch.zeros_like(weight)
            seen = [*range(4), *range(weight.shape[1] - 1, weight.shape[1])][:n_seen]  # the polar radius is last
            wide[:, seen] = weights[name]
            weights[name] = wide
    told.load_state_dict(weights)
    with torch.no_grad():
        expected = untold.features(observed[:, :8], r_e)[0]
        torch.testing.assert_close(told.features(observed, r_e)[0], expected, rtol=1e-4, atol=1e-5)
        other = MassModel(ModelConfig("both", RADII_RE, told=True, **options)).eval()
        louder = observed.clone()
        louder[:, [8, 9, 13, 14]] *= 3  # errors of both tracers
        assert (other.features(louder, r_e)[0] - other.features(observed, r_e)[0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="--inputs raw does not go with a network that is told"):
        MassModel(ModelConfig("both", RADII_RE, told=True, **options | {"encoder": "plain", "inputs": "raw"}))


def test_rings_that_look_at_each_other_turn_with_the_sky(map_store):
    """Both maps turned together are the same galaxy, whatever joins them."""
    views = views_of(map_store)[np.arange(6)]
    observed = views.observed(INSTRUMENTS["ifu"])
    for join in JOINS:
        torch.manual_seed(4)
        model = MassModel(ModelConfig("both", RADII_RE, views.maps.shape[-1], views.field_of_view_re, join=join)).eval()
        with torch.no_grad():
            features = model.features(observed, views.half_mass_radius_kpc)[0]
            turned = model.features(torch.rot90(observed, 1, (2, 3)), views.half_mass_radius_kpc)[0]
        torch.testing.assert_close(turned, features, rtol=1e-3, atol=1e-4)
    for refused in ({"encoder": "plain"}, {"inputs": "raw"}):
        with pytest.raises(ValueError, match="--join attention works on rings"):
            MassModel(ModelConfig("both", RADII_RE, 16, 6.0, join="attention", **refused))


# ---- encoders


def test_polar_cells_are_means_over_the_pixels(map_store):
    """Their weights add up; a map of one value has it everywhere; a turned map is turned cells."""
    weights = polar_weights(32, 6.0)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    encoder = PolarEncoder(4, 8, "group", 32, 6.0)
    maps = torch.rand(3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    maps[:, 3] = (maps[:, 3] > 0.3).float()
    maps[:, :3] *= maps[:, 3:]
    flat = maps.clone()
    flat[:, 1] = 7.0 * maps[:, 3]
    valid = encoder.polar(flat)[:, 3] > 1e-3
    torch.testing.assert_close(encoder.polar(flat)[:, 1][valid], torch.full((int(valid.sum()),), 7.0))
    turned = encoder.polar(torch.rot90(maps, 1, (2, 3)))
    torch.testing.assert_close(turned, encoder.polar(maps).roll(-ANGLES // 4, 3), rtol=1e-4, atol=1e-5)


def test_pixels_of_polar_cells_give_what_all_pixels_do():
    """Sums and gradients are those of the product with all weights, which a GPU works out."""
    encoder = PolarEncoder(4, 8, "group", 20, 6.0, is_told=True)
    maps = torch.rand(3, 7, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    towards = torch.rand(3, 7, RINGS * ANGLES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums, by_all = encoder._over_cells(maps), maps.flatten(2) @ encoder.weights.T.double()
    torch.testing.assert_close(sums, by_all, rtol=1e-12, atol=1e-12)
    gradient, of_all = (torch.autograd.grad((x * towards).sum(), maps)[0] for x in (sums, by_all))
    assert float(of_all.abs().max()) > 0.1
    torch.testing.assert_close(gradient, of_all, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_same_network_for_any_map_size(encoder):
    for pixels in (16, 32, 64):
        model = MassModel(ModelConfig("both", RADII_RE, pixels, 6.0, width=4, encoder=encoder))
        observed = torch.rand(3, 8, pixels, pixels) * 100 + 1
        assert model.sample(observed, torch.ones(3), 5).shape == (5, 3, 10)


def test_dropping_a_tracer_is_a_galaxy_without_it(map_store):
    observed = observe(views_of(map_store).maps, INSTRUMENTS["ifu"], None)
    observed[0, 4:] = 0
    choice = torch.arange(len(observed)) % 3
    dropped = drop_tracers(observed, choice)
    assert torch.equal(dropped[0], observed[0])  # its stars are all it has
    assert torch.equal(dropped[3::3], only(observed, "gas")[3::3])
    assert torch.equal(dropped[1::3], only(observed, "stars")[1::3])
    assert torch.equal(dropped[2::3], observed[2::3])


@pytest.mark.parametrize("instrument", ["ifu", "survey"])
def test_what_would_be_dropped_is_not_observed(map_store, instrument):
    """The same maps by turns as where all is observed first, also of views that show nothing of their turn's tracer."""
    views = views_of(map_store)
    maps = views.maps.clone()
    maps[0, 4:], maps[1, :4], maps[2] = 0, 0, 0
    samples, pixels = torch.arange(len(maps)), maps.shape[-1]
    look = looks(samples, pixels, 0) if instrument == "survey" else None
    seen_as = INSTRUMENTS[instrument], draws(samples, pixels, 0)[1], 6.0, views.half_mass_radius_kpc, look, True
    for shift in range(3):
        choice = (samples + shift) % 3
        expected = drop_tracers(observe(maps, *seen_as), choice)
        torch.testing.assert_close(observe_by_turns(choice, maps, *seen_as), expected)


@pytest.mark.parametrize("told", [False, True])
def test_views_that_show_nothing_are_encoded_as_one(map_store, told):
    """Features of a batch in which most views lack a tracer are those of each view by itself."""
    views = views_of(map_store)
    observed = drop_tracers(views.observed(INSTRUMENTS["ifu"], told=told), torch.arange(len(views)) % 3)
    observed[5] = 0
    model = MassModel(ModelConfig("any", RADII_RE, observed.shape[-1], 6.0, width=4, told=told)).eval()
    one_by_one = [model.features(observed[i : i + 1], views.half_mass_radius_kpc[i : i + 1])[0] for i in range(9)]
    together = model.features(observed, views.half_mass_radius_kpc)[0]
    torch.testing.assert_close(together[:9], torch.cat(one_by_one), rtol=1e-4, atol=1e-5)


def test_numbers_told_of_a_view_are_channels_that_are_alike_in_all_its_pixels(map_store):
    """The polar encoder makes one product of each; it is what a channel of them gives, cell by cell."""
    views = views_of(map_store)
    observed = views.observed(INSTRUMENTS["survey"], told=True)
    maps, told = scale_free(observed, views.half_mass_radius_kpc, ("stars",))[0]["stars"]
    encoder = PolarEncoder(4, 8, "group", maps.shape[-1], 6.0, is_told=True)
    channels = torch.cat([maps, told[:, :, None, None] * maps[:, 3:4]], dim=1)
    radius = encoder.radius.expand(len(maps), -1, -1, -1)
    x = encoder.layers(torch.cat([encoder.polar(channels), radius], dim=1))
    torch.testing.assert_close(
        encoder.rings(maps, told), torch.cat([x.mean(3), x.amax(3)], dim=1), rtol=1e-4, atol=1e-5
    )
    assert all(told[:, i].unique().numel() > 1 for i in (1, 2, 3, 4))  # they say something of each view


# ---- the posterior


def density_of(head: str, n_radii: int = 10) -> ProfileDensity:
    torch.manual_seed(0)
    density = ProfileDensity(6, RADII_RE[:n_radii], head)
    with torch.no_grad():
        for p in density.parameters():  # as after training: nothing is nil
            p.add_(0.03 * torch.randn_like(p))
    steps = torch.cat([torch.randn(400, 1), 0.05 + 0.2 * torch.rand(400, n_radii - 1)], dim=1)
    density.fit_whitening(steps.cumsum(1))
    return density


@pytest.mark.parametrize("head", HEADS)
def test_posterior_samples_rise_and_gradients_reach_everything(head):
    density = density_of(head)
    features, profiles = torch.randn(400, 6, requires_grad=True), (0.05 + 0.2 * torch.rand(400, 10)).cumsum(1)
    log_prob = density.log_prob(features, profiles)
    assert log_prob.shape == (400,)
    log_prob.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in density.parameters())
    with torch.no_grad():
        samples = density.sample(features[:5], 300)
    assert samples.shape == (300, 5, 10)
    assert (torch.diff(samples, dim=-1) > 0).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scale", [None, torch.tensor([[1.2, 0.0], [0.3, 0.9]])])
def test_density_integrates_to_one(head, scale):
    """In two radii, over a grid that holds nearly all of it: steps from nil to the largest."""
    density = density_of(head, 2)
    max_step, n_steps = float(density.max_step[0]), 1000
    steps = (torch.arange(n_steps) + 0.5) / n_steps * max_step
    first, step = torch.meshgrid(torch.linspace(-8, 8, 1500), steps, indexing="ij")
    profile = torch.stack([first, first + step], dim=-1).reshape(-1, 2)
    with torch.no_grad():
        p = torch.cat([density.log_prob(torch.zeros(len(p), 6), p, scale).exp() for p in profile.split(200_000)])
    assert float(p.sum() * (16 / 1499) * (max_step / n_steps)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("head", ["flow", "gaussian"])
@pytest.mark.parametrize("scale", [None, (torch.eye(4) + 0.3).tril().double()])
def test_drawing_is_the_inverse_of_the_density(head, scale):
    """log p(x(z)) = log N(z) - log |dx/dz|, the change of variables."""
    density, features = density_of(head, 4).double(), torch.randn(3, 6, dtype=torch.float64)
    z = torch.randn(3, 5, dtype=torch.float64)
    for i in range(3):

        def draw(numbers, i=i):
            return density.from_normal(features[i : i + 1], torch.cat([numbers, z[i, 4:]])[None, None], scale)[0, 0]

        jacobian = torch.autograd.functional.jacobian(draw, z[i, :4])
        expected = torch.distributions.Normal(0, 1).log_prob(z[i, :4]).sum() - torch.linalg.slogdet(jacobian)[1]
        log_prob = density.log_prob(features[i : i + 1], draw(z[i, :4])[None], scale)[0]
        torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_samples_follow_the_density(head):
    """Importance weights p / q of samples under another density of the same family average to one."""
    density, other = density_of(head, 2), density_of(head, 2)
    features = torch.zeros(1, 6)
    with torch.no_grad():
        other.gaussian.network[-1].bias[1:3] += 0.3
        samples = density.sample(features, 20_000)[:, 0]
        features_of_samples = features.expand(len(samples), -1)
        ratio = (other.log_prob(features_of_samples, samples) - density.log_prob(features_of_samples, samples)).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05)


def members_of_gaussians(n: int) -> Posterior:
    models = [MassModel(ModelConfig("both", RADII_RE, 16, 6.0, width=4, head="gaussian")).eval() for _ in range(n)]
    for model in models:
        model.density = density_of("gaussian").eval()
    features = [torch.randn(5, 6) + 0.3 * i for i in range(n)]
    names = [("g", i) for i in range(5)]
    return Posterior(models, features, torch.full((5,), 9.0), torch.ones(5), names)


@pytest.mark.parametrize("n", [1, 3])
def test_posterior_object_agrees_with_itself(n):
    """Moments, quantiles and the first radius' own density, which is a mixture of Gaussians known in closed form."""
    posterior, n_samples = members_of_gaussians(n), 30_000
    means, variances = [], []
    for model, features in zip(posterior._models, posterior.features, strict=True):
        with torch.no_grad():
            _, mean, factor, _ = model.density.gaussian(features)
        inverse = torch.linalg.inv(model.density.whitening)
        cholesky = inverse @ torch.linalg.inv(factor[:, 0])
        means.append((inverse @ mean[:, 0, :, None])[:, 0, 0] + model.density.centre[0] + 9.0)
        variances.append((cholesky @ cholesky.mT)[:, 0, 0])
    means, variances = torch.stack(means), torch.stack(variances)
    expected = means.mean(0)
    spread = variances.mean(0) + means.var(0, unbiased=False)
    np.testing.assert_allclose(posterior.mean(n_samples)[:, 0], expected, atol=0.03)
    np.testing.assert_allclose(posterior.covariance(n_samples)[:, 0, 0], spread, rtol=0.05)
    median = posterior.quantiles(0.5, n_samples)
    assert median.shape == (5, 10)
    assert (np.diff(posterior.quantiles([0.1, 0.9], n_samples), axis=0) > 0).all()
    profiles = posterior.samples(n_samples)[17]
    normal = torch.distributions.Normal(means, variances.sqrt())
    log_prob_per_radius = torch.logsumexp(normal.log_prob(torch.as_tensor(profiles[:, 0])), 0) - np.log(n)
    np.testing.assert_allclose(posterior.log_prob_per_radius(profiles, n_samples)[:, 0], log_prob_per_radius, atol=0.1)
    samples = posterior.samples(n_samples)
    samples += 1.0  # what is done to them is not done to the posterior
    np.testing.assert_array_equal(posterior.quantiles(0.5, n_samples), median)
    log_probs = [
        m.density.log_prob(f, torch.as_tensor(profiles) - 9.0)
        for m, f in zip(posterior._models, posterior.features, strict=True)
    ]
    np.testing.assert_allclose(
        posterior.log_prob(profiles), torch.logsumexp(torch.stack(log_probs), 0).detach() - np.log(n), rtol=1e-5
    )


@pytest.mark.parametrize("array_type", [np.asarray, torch.as_tensor])
def test_a_galaxy_is_neither_heavier_nor_lighter_than_galaxies_are(array_type):
    """What can be is left to the bit; a rising profile rises still; NaN stays; speeds are those of galaxies."""
    rng = np.random.default_rng(0)
    log10_r = np.log10(3.0 * np.array(RADII_RE))
    rising = rng.uniform(-20, 20, (500, 1)) + np.exp(3 * rng.standard_normal((500, 9))).cumsum(1)
    profiles = np.concatenate([rng.uniform(-30, 12, (500, 1)), rising], axis=1)
    profiles.sort(axis=1)
    clipped = np.asarray(clip_to_mass_limits(array_type(profiles), array_type(log10_r)))
    v_circ = 10 ** (0.5 * (clipped + np.log10(G) - log10_r))
    np.testing.assert_allclose([v_circ.min(), v_circ.max()], SPEEDS_KMS, rtol=1e-6)
    assert (np.diff(clipped, axis=1) > 0).all()
    low, high = mass_limits(log10_r)
    inside = (profiles > low) & (profiles < high)
    assert np.array_equal(clipped[inside], profiles[inside])
    np.testing.assert_array_equal(at_mass_limits(clipped, log10_r), ~inside.all(1))
    clipped_ends = clip_to_mass_limits(array_type(np.array([-np.inf, np.nan, np.inf])), array_type(np.zeros(3)))
    np.testing.assert_allclose(np.asarray(clipped_ends), [np.log10(1e-2 / G), np.nan, np.log10(1e8 / G)])


def test_samples_of_a_trained_network_are_its_densitys_own():
    posterior = members_of_gaussians(1)
    (model,), (features,) = posterior._models, posterior.features
    with torch.no_grad():
        unclipped = (model.density.from_normal(features, posterior._standard_normal(200, slice(None))) + 9.0).numpy()
    is_unclipped = (unclipped == posterior.samples(200)).all(-1)
    np.testing.assert_allclose(posterior.beyond(200), 1 - is_unclipped.mean(0), atol=1e-9)
    assert is_unclipped.mean() > 0.99
    wide_posterior = Posterior([model], [features], torch.full((5,), 9.0), torch.ones(5), names=posterior._names,
                     scales=[1e3 * torch.eye(10)])  # fmt: skip
    assert (wide_posterior.beyond(200) > 0.9).all()
    assert np.isfinite(wide_posterior.samples(200)).all()
    assert wide_posterior.samples(200).max() < 14


def test_any_numbers_are_a_profile_that_gravity_allows():
    """There and back; slopes of log M from 0 to 3; the derivative by automatic differentiation."""
    max_step = max_steps(RADII_RE)
    free = 1.5 * torch.randn(50, 10, dtype=torch.float64)
    profiles = constrained(free, max_step)
    torch.testing.assert_close(unconstrained(profiles, max_step), free, rtol=1e-6, atol=1e-6)
    for scale in (1.0, 1e3):  # the far tails of any density
        slopes = torch.diff(constrained(scale * free, max_step)) / torch.diff(
            torch.tensor(RADII_RE, dtype=torch.float64).log10()
        )
        assert slopes.min() >= 0
        assert slopes.max() <= MAX_SLOPE * (1 + 1e-9)
    # A constant density and a point mass are the limits, and what a few particles put beyond them is taken to be there.
    sphere, beyond = MAX_SLOPE * torch.tensor(RADII_RE, dtype=torch.float64).log10(), torch.linspace(0, 10, 10).double()
    for steep in (sphere, beyond, torch.zeros(10).double()):
        assert torch.isfinite(unconstrained(steep, max_step)).all()
    torch.testing.assert_close(constrained(unconstrained(sphere, max_step), max_step), sphere, rtol=0, atol=2e-3)
    jacobian = torch.autograd.functional.jacobian(lambda p: unconstrained(p, max_step), profiles[0])
    torch.testing.assert_close(log_derivative(free[0], max_step), torch.linalg.slogdet(jacobian)[1])


def test_store_error_is_a_sentence(tmp_path):
    with pytest.raises(store.StoreError, match="no map store"):
        read_views(tmp_path, "x")


@pytest.mark.parametrize("name", ["maps", "half_mass_radius", "radius", "mass"])
def test_a_galaxy_of_which_a_file_was_deleted_is_named(own_store, name):
    """It would be left out of training and of tables, as one that shows too little."""
    group = store.open_suite(own_store, "quiet")
    array = group[name]
    chunk_file(array, (3, *(0,) * (array.ndim - 1))).unlink()
    galaxy = group["galaxy"][3]
    with pytest.raises(store.StoreError, match=f"{name} of galaxy {galaxy} was never written, or deleted.*--repair"):
        read_views(own_store, "quiet")
    assert len(read_views(own_store, "quiet", rows=slice(0, 3))) == 6
