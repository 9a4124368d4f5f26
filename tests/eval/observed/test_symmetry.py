"""What a velocity field, its errors and its light say about themselves: centre, kind of errors, mass that is seen."""

from dataclasses import replace

import numpy as np
import pytest

from kinmass.eval.observed.sky import SkyMap
from kinmass.eval.observed.symmetry import symmetry
from kinmass.eval.observed.verdict import of_baryons, of_centre, of_errors, of_estimates, of_motions

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
