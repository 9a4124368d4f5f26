"""Classical mass estimators on the observed views that networks get: all have one signature and one list names them.

They are the estimates of M(<r) that an astronomer would usually make, to compare the networks with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kinmass.eval.classical.jeans import jeans_profile
from kinmass.eval.classical.noise import added_square
from kinmass.eval.classical.rotation import rotation_profile
from kinmass.gen.constants import G
from kinmass.gen.instruments.observe import inside_half_mass_radius
from kinmass.gen.storage.store import TRACERS

# N views, P pixels along a side, K radii


@dataclass(frozen=True)
class ObservedViews:
    """N views of galaxies as an instrument observes them, with what the estimators need beside the maps."""

    observed: np.ndarray  # (N, 8, P, P) of gen.instruments.observe: density [Msun/kpc^2], V, sigma [km/s], mask; twice
    half_mass_radius_kpc: np.ndarray  # (N,)
    field_of_view_re: float  # side of the observed maps [R_e]
    radii_re: np.ndarray  # (K,)

    def tracer(self, name: str) -> np.ndarray:
        """Maps (N, 4, P, P) of one tracer, `stars` or `gas`. Raises ValueError for another name."""
        start = 4 * TRACERS.index(name)
        return self.observed[:, start : start + 4]


def sigma_los(maps: np.ndarray, aperture: np.ndarray | None = None) -> np.ndarray:
    """Return the luminosity-weighted line-of-sight velocity dispersion (N,) [km/s] over the valid pixels of each view.

    maps (N, 4, P, P) of one tracer; aperture (P, P) bool limits the pixels. Rotation counts as dispersion, as in an
    aperture spectrum: <V^2 + sigma^2> about the mean V, less what errors add (`eval.classical.noise`). NaN for views
    with light in fewer than two pixels, for those without a dispersion, which is zero everywhere, and where errors
    explain all of <V^2 + sigma^2>.
    """
    density, velocity, dispersion = (maps[:, i].astype(float) for i in range(3))
    density = density * maps[:, 3] * (1.0 if aperture is None else aperture)
    total_light = density.sum((1, 2))
    has_two_pixels = np.count_nonzero(density > 0, axis=(1, 2)) >= 2
    has_dispersion = (density * dispersion > 0).any((1, 2))
    total_light = np.where(has_two_pixels & has_dispersion, total_light, np.nan)
    mean_velocity = (density * velocity).sum((1, 2)) / total_light
    second_moment = (velocity - mean_velocity[:, None, None]) ** 2 + dispersion**2 - added_square(maps)
    sigma2 = (density * second_moment).sum((1, 2)) / total_light
    return np.sqrt(np.where(sigma2 >= 0, sigma2, np.nan))


def _from_sigma(views: ObservedViews, sigma_kms: np.ndarray, radius_re: float, coefficient: float) -> np.ndarray:
    """Return log10 M (N, K) [Msun] from M(<radius_re) = coefficient sigma^2 R_e / G, NaN at all radii but one.

    That one is the radius of `radii_re` nearest to radius_re in ln r. The mass is scaled to it in proportion to r,
    as for a flat circular velocity curve.
    """
    radii = np.asarray(views.radii_re, dtype=float)
    nearest = int(np.argmin(np.abs(np.log(radii / radius_re))))
    log10_mass = np.full((len(sigma_kms), len(radii)), np.nan)
    mass = coefficient * sigma_kms**2 * views.half_mass_radius_kpc / G * (radii[nearest] / radius_re)
    positive = mass > 0
    log10_mass[positive, nearest] = np.log10(mass[positive])
    return log10_mass


def wolf2010(views: ObservedViews) -> np.ndarray:
    """M(<4/3 R_e) = 4 sigma_los^2 R_e / G (Wolf et al. 2010, arXiv:0908.2995, eq. 2).

    It is 3 sigma_los^2 r / G at the deprojected half-light radius, where the mass depends least on anisotropy.
    """
    return _from_sigma(views, sigma_los(views.tracer("stars")), 4 / 3, 4.0)


def walker2009(views: ObservedViews) -> np.ndarray:
    """M(<R_e) = 5/2 sigma_los^2 R_e / G (Walker et al. 2009, arXiv:0906.0341; 580 Msun/pc/(km/s)^2)."""
    return _from_sigma(views, sigma_los(views.tracer("stars")), 1.0, 2.5)


def campbell2017(views: ObservedViews) -> np.ndarray:
    """M(<1.77 R_e) = 5.29 sigma_los^2 R_e / G (Campbell et al. 2017, arXiv:1603.04443).

    The radius and the coefficient have the least scatter over simulated galaxies of the Local Group.
    """
    return _from_sigma(views, sigma_los(views.tracer("stars")), 1.77, 5.29)


def errani2018(views: ObservedViews) -> np.ndarray:
    """M(<1.8 R_e) = 3.5 * 1.8 R_e sigma_los^2 / G (Errani et al. 2018, arXiv:1805.00484, abstract)."""
    return _from_sigma(views, sigma_los(views.tracer("stars")), 1.8, 3.5 * 1.8)


def virial(views: ObservedViews) -> np.ndarray:
    """M(<r_1/2) = 2.5 sigma_e^2 R_e / G, r_1/2 = 1.33 R_e, sigma_e inside a circle of R_e (Cappellari et al. 2013).

    The coefficient 5.0 +- 0.1 of Cappellari et al. 2006 (arXiv:astro-ph/0505042, eq. 19) gives a total mass, L times
    the dynamical M/L inside R_e; half of it is inside r_1/2 (Cappellari et al. 2013, arXiv:1208.3522). It was
    measured on early-type galaxies, whose cusps raise sigma_e. So the mass is too low by a third in an isotropic
    Plummer sphere, and by half in discs.
    """
    aperture = inside_half_mass_radius(views.observed.shape[-1], views.field_of_view_re).numpy()
    return _from_sigma(views, sigma_los(views.tracer("stars"), aperture), 1.33, 2.5)


def _per_view(views: ObservedViews, profile: Callable[..., np.ndarray], *maps: np.ndarray) -> np.ndarray:
    """Apply `profile`, a function of one view, to every view and its entries of `maps`; (N, K)."""
    radii = np.asarray(views.radii_re, dtype=float)
    rows = zip(views.half_mass_radius_kpc, *maps, strict=True)
    profiles = [profile(*view_maps, float(r_e), views.field_of_view_re, radii) for r_e, *view_maps in rows]
    return np.array(profiles).reshape(len(profiles), len(radii))


def rotation_curve(views: ObservedViews) -> np.ndarray:
    """M(<r) from circular velocities of the gas disc: see `eval.classical.rotation.rotation_profile`."""
    return _per_view(views, rotation_profile, views.tracer("gas"))


def jeans(views: ObservedViews) -> np.ndarray:
    """M(<r) from a spherical Jeans fit of the stars' second moments: see `eval.classical.jeans.jeans_profile`."""
    stars = views.tracer("stars")
    return _per_view(views, jeans_profile, stars, added_square(stars))


#: Name -> the tracer that the estimator uses, and a function from N views to log10 M(<r) [Msun], (N, K), NaN at
#: radii where the estimator gives no mass.
ESTIMATORS: dict[str, tuple[str, Callable[[ObservedViews], np.ndarray]]] = {
    "wolf2010": ("stars", wolf2010),
    "walker2009": ("stars", walker2009),
    "campbell2017": ("stars", campbell2017),
    "errani2018": ("stars", errani2018),
    "virial": ("stars", virial),
    "rotation_curve": ("gas", rotation_curve),
    "jeans": ("stars", jeans),
}
