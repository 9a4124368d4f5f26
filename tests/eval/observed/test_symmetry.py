"""What a velocity field, its errors and its light say about themselves: centre, kind of errors, mass that is seen."""

from dataclasses import replace

import numpy as np
import pytest

from kinmass.eval.observed.roughness import roughness_ratio
from kinmass.eval.observed.sky import SkyMap
from kinmass.eval.observed.symmetry import evenness, symmetry
from kinmass.eval.observed.verdict import (
    of_baryons,
    of_centre,
    of_diffuse,
    of_distance,
    of_errors,
    of_estimates,
    of_motions,
    of_parity,
    of_redshift,
    of_resolution,
    of_roughness,
    of_thin,
    of_two_redshifts,
)

P, SIDE, R_E = 41, 0.5, 5.0
X, Y = np.meshgrid(*[SIDE * (np.arange(P) - P // 2)] * 2)
R = np.hypot(X, Y / 0.6)


def disc(seed: int = 0, **more: object) -> SkyMap:
    """An inclined disc whose rotation curve turns over, with errors of 4 km/s that grow outwards."""
    error = 4 * np.exp(R / 20)
    noise = np.random.default_rng(seed).normal(size=(P, P)) * error
    velocity = 1200 + 150 * X / np.maximum(R, 1e-9) * np.tanh(R / 2) + noise
    images = 1e8 * np.exp(-R / 3), np.where(R < 10, velocity, np.nan), np.full((P, P), 10.0)
    errors = {"velocity_error_kms": error, "dispersion_error_kms": error} | more
    return SkyMap.from_images(*images, SIDE, beam_fwhm_arcsec=1.0, **errors)


def test_a_disc_turns_about_its_centre():
    for seed in range(5):
        found = symmetry(disc(seed))
        assert found is not None
        assert found.off_arcsec <= 2 * SIDE
        assert found.asymmetry_given < 0.1
        assert of_centre(disc(seed), R_E) == []


@pytest.mark.parametrize("moved", [(3.0, 0.0), (0.0, -2.5), (-2.0, 2.0)])
def test_it_does_not_turn_about_another_point(moved):
    found = symmetry(disc().moved(*moved))
    assert found is not None
    assert np.hypot(found.x_arcsec + moved[0], found.y_arcsec + moved[1]) < 1.5 * SIDE
    if moved[0]:  # along the minor axis V changes less
        (reason,) = of_centre(disc().moved(*moved), R_E)
        assert "Is the centre right?" in reason.text
        assert of_centre(replace(disc().moved(*moved), beam_fwhm_arcsec=4.0), R_E) == []  # within a beam


def test_what_turns_rigidly_or_is_too_little_has_no_centre():
    rigid = replace(disc(), velocity_kms=30 * disc().x_arcsec).moved(2.0, 0.0)
    assert of_centre(rigid, R_E) == []
    one_sided = disc().chosen(disc().x_arcsec > 3)
    assert symmetry(one_sided) is None
    still = replace(disc(), velocity_kms=0 * disc().velocity_kms)
    assert symmetry(still) is None


def test_velocities_are_opposite_on_opposite_sides():
    """Parts that are even and odd about the centre are told apart; noise has as much of both."""
    rng = np.random.default_rng(1)
    x, even, odd = disc().x_arcsec, disc().density ** 0.5, 100 * np.tanh(disc().x_arcsec)
    for share in (0.0, 0.5, 2.0):
        mixed = replace(disc(), velocity_kms=odd + share * 100 * (even - even.mean()) / even.std())
        assert evenness(mixed) == pytest.approx(100 * share / np.sqrt(np.mean(odd**2)), rel=0.2, abs=0.02)
        assert bool(of_parity({"stars": mixed})) == (share == 2.0)
    noise = replace(disc(), velocity_kms=rng.normal(size=len(x)))
    assert evenness(noise) == pytest.approx(1, abs=0.25)
    bright = replace(disc(), velocity_kms=even)
    (reason,) = of_parity({"gas": bright})
    assert reason.weight == 2
    assert "is this a map of velocities?" in reason.text
    assert evenness(bright.chosen(bright.x_arcsec > 1)) is None


def rough(ratio: float, seed: int = 0, bins: int = 1) -> SkyMap:
    """Stars whose dispersion, which falls outwards, has `ratio` times the noise of V; squares of pixels are one bin."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, P, P)) * np.array([4.0, 4.0 * ratio])[:, None, None]
    values = np.stack([60 * np.tanh(X / 3), 150 * np.exp(-R / 20)]) + noise
    first = bins * (np.arange(P) // bins)
    velocity, sigma = values[:, first][:, :, first]
    return SkyMap.from_images(1e8 * np.exp(-R / 3), velocity, sigma, SIDE, beam_fwhm_arcsec=1.0)


def test_a_sigma_is_as_rough_as_the_velocity_and_a_full_width_more():
    for bins in (1, 2):
        for ratio in (0.8, 1.0, 2.3548):
            sky = rough(ratio, bins=bins)
            assert roughness_ratio(sky) == pytest.approx(ratio, rel=0.3), (ratio, bins)
            assert len(of_roughness({"stars": sky}, {})) == (ratio > 2)
    full_width = rough(2.3548)
    assert "say dispersion_is: fwhm" in of_roughness({"stars": full_width}, {})[0].text
    # Where the instrument's width was taken out, what is left is rougher; of fast gas it does not matter.
    assert of_roughness({"stars": full_width}, {"stars": 250.0}) == []
    fast = replace(full_width, velocity_kms=8 * full_width.velocity_kms, dispersion_kms=full_width.dispersion_kms)
    assert of_roughness({"gas": fast}, {}) == []
    smooth = replace(full_width, velocity_kms=np.zeros(P * P))
    assert roughness_ratio(smooth) is None
    assert roughness_ratio(replace(full_width, dispersion_kms=None)) is None
    assert roughness_ratio(full_width.chosen(np.arange(P * P) < 20)) is None


def test_distances_agree_with_the_redshift():
    """Where galaxies move with the expansion: 7000 km/s are 100 Mpc, and as well in a cluster."""
    for redshift, right in ((None, (1e-3, 1e5)), (0.008, (2.0, 500.0)), (0.0234, (80.0, 125.0)), (1.6, (1750.0,))):
        for distance_mpc in right:
            assert of_distance(redshift, distance_mpc) == []
    for redshift, wrong in ((0.0234, (10.0, 55.0, 200.0, 1e5)), (1.6, (12_000.0,)), (0.5, (2900.0,))):
        for distance_mpc in wrong:
            (reason,) = of_distance(redshift, distance_mpc)
            assert "to which the mass is proportional" in reason.text


def test_a_redshift_that_is_given_agrees_with_velocities():
    """Within 600 km/s and three digits; where V may count in any convention, in any."""
    agree = ({}, 0.02), (both(0.02), 0.0216), (both(0.02), 0.0184), (both(1.6), 1.60), (both(1.608), 1.60)
    for told, redshift in (*agree, ({"gas": (0.09, 0.0989)}, 0.094)):
        assert of_redshift(told, redshift) == [], (told, redshift)
    for told, redshift, km_s in (
        (both(0.02), 0.0236, 1058),
        (both(0.02), 0.0164, 1062),
        (both(1.615), 1.60, 1730),
        ({"gas": (0.0945, 0.1043)}, 0.09, 1238),
        ({"stars": (0.02, 0.02), "gas": (0.024, 0.024)}, 0.02, 1176),
    ):
        (reason,) = of_redshift(told, redshift)
        assert f"redshift is {redshift:g}, {km_s} km/s from it" in reason.text
        assert reason.weight == 1


def both(redshift: float) -> dict[str, tuple[float, float]]:
    return {tracer: (redshift, redshift) for tracer in ("gas", "stars")}


def test_stars_and_gas_recede_alike():
    for gas, stars, n_reasons in (
        ((0.020, 0.020), (0.0209, 0.0209), 0),
        ((0.020, 0.020), (0.0215, 0.0215), 1),
        ((0.0215, 0.0215), (0.020, 0.020), 1),
        ((0.090, 0.0989), (0.099, 0.099), 0),
    ):
        reasons = of_two_redshifts({"gas": gas, "stars": stars})
        assert [reason.weight for reason in reasons] == [1] * n_reasons
    assert "V of the gas is that of a redshift of 0.09 to 0.0989 and V of the stars is that of a redshift of 0.12" in (
        of_two_redshifts({"gas": (0.09, 0.0989), "stars": (0.12, 0.12)})[0].text
    )
    assert of_two_redshifts({"gas": (0.02, 0.02)}) == of_two_redshifts({}) == []


def test_a_width_that_is_not_resolved_matters_to_gas_that_does_not_rotate():
    gas = disc()
    assert of_resolution({"gas": gas}, {"gas": 60.0}) == []
    slow = replace(gas, velocity_kms=1200 + 0.2 * (gas.velocity_kms - 1200))
    assert len(of_resolution({"gas": slow}, {"gas": 60.0})) == 1
    assert len(of_resolution({"gas": gas}, {"gas": 300.0})) == 1


def test_errors_are_not_inverse_variances_nor_those_of_full_widths():
    assert of_errors({"gas": disc()}) == []
    inverse = disc(velocity_error_kms=(4 * np.exp(R / 5)) ** -2.0)
    (reason,) = of_errors({"gas": inverse})
    assert "as inverse variances are" in reason.text
    full_width = disc(dispersion_error_kms=2.3548 * 4 * np.exp(R / 20))
    (reason,) = of_errors({"gas": full_width})
    assert "2.35 times those of V everywhere" in reason.text
    # Errors of a width of which the instrument's was taken out grow where little is left.
    corrected = disc(dispersion_error_kms=4 * np.exp(R / 20) * (1.5 + R / 6))
    assert of_errors({"gas": corrected}) == []
    assert of_errors({"gas": disc(velocity_error_kms=None, dispersion_error_kms=None)}) == []


def test_stars_do_not_weigh_more_than_all_mass():
    sky, kpc_per_arcsec, radius = disc(), 0.1, 5.0
    inside = np.hypot(sky.x_arcsec, sky.y_arcsec) < radius
    seen = np.log10(sky.density[inside].sum() * (SIDE * kpc_per_arcsec) ** 2)
    scatter = 0.05 * np.random.default_rng(0).standard_normal(1000)
    for above, expected in ((0.0, 0), (-0.3, 0), (-0.7, 1)):
        reasons = of_baryons({"stars": sky}, kpc_per_arcsec, radius, seen + above + scatter)
        assert len(reasons) == expected, above
    assert of_baryons({}, kpc_per_arcsec, radius, seen - 3 + scatter) == []


def test_no_density_is_thinner_than_what_is_seen():
    x, y = np.meshgrid(np.arange(9.0), np.arange(9.0))
    for density_msun_kpc2, n in ((10.0, 1), (1e5, 0)):
        sky = SkyMap(x, y, 1.0, density_msun_kpc2 + 0 * x, x, 10 + x)
        reasons = of_thin({"gas": sky, "stars": sky})
        assert len(reasons) == 2 * n
        assert all("is density_unit, or density_msun_kpc2, right" in reason.text for reason in reasons)


def test_no_galaxy_that_is_mapped_is_more_diffuse_than_those_known():
    """A disc of 130 km/s within 1 kpc has 10^9.6 Msun; in Angstrom it would move at 3 km/s, and have 10^6.3."""
    for radius_kpc, log10_msun, n in ((1.0, 9.6, 0), (1.0, 7.5, 0), (1.0, 6.3, 1), (3.0, 7.0, 1), (0.05, 5.5, 0)):
        assert len(of_diffuse(radius_kpc, np.array([log10_msun - 0.1, log10_msun, log10_msun + 0.1]))) == n


def test_an_estimate_counts_as_far_as_it_is_known():
    radius = np.log10(np.array([1.0, 2.0, 4.0]))
    samples = np.array([9.5, 10.0, 10.5]) + 0.05 * np.random.default_rng(0).standard_normal((500, 1))
    at, middle = np.log10(np.array([2.0])), 10.6
    assert [r.weight for r in of_estimates({"it": (at, np.array([middle]))}, radius, samples)] == [2]
    for lowest, expected in ((10.55, [2]), (10.35, [1]), (10.1, []), (9.4, [])):
        three = np.array([[lowest], [middle], [10.9]])
        assert [r.weight for r in of_estimates({"it": (at, three)}, radius, samples)] == expected


def test_a_dispersion_that_is_the_same_everywhere_is_the_instruments():
    noise = np.random.default_rng(0).normal(size=len(disc().x_arcsec))
    gas = replace(disc(), dispersion_kms=12 + noise)
    assert of_motions({"gas": gas}) == []
    (reason,) = of_motions({"gas": replace(gas, dispersion_kms=np.hypot(gas.dispersion_kms, 70))})
    assert "everywhere: is that the instrument's?" in reason.text
    turbulent = replace(gas, dispersion_kms=40 + 30 * np.exp(-np.hypot(gas.x_arcsec, gas.y_arcsec) / 4) + noise)
    assert of_motions({"gas": turbulent}) == []
