"""Classical mass estimators on the same observed views: one contract, one registry.

An astronomer's estimates of M(<r), as strong as is usual, to stand beside the networks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kinmass.eval.classical.jeans import jeans_profile
from kinmass.eval.classical.noise import added_square
from kinmass.eval.classical.rotation import rotation_profile
from kinmass.gen.constants import G
from kinmass.gen.instrument import inside_half_mass_radius
from kinmass.gen.storage.store import TRACERS

# N views, P pixels along a side, K radii


@dataclass(frozen=True)
class Seen:
    """N views as an instrument sees them."""

    observed: np.ndarray  # (N, 8, P, P) from gen.instrument.observe: density [Msun/kpc^2], V, sigma [km/s], mask; twice
    half_mass_radius_kpc: np.ndarray  # (N,)
    field_of_view_re: float  # side of the observed maps [R_e]
    radii_re: np.ndarray  # (K,)

    def tracer(self, name: str) -> np.ndarray:
        """(N, 4, P, P) maps of `stars` or `gas`."""
        start = 4 * TRACERS.index(name)
        return self.observed[:, start : start + 4]


def sigma_los(maps: np.ndarray, aperture: np.ndarray | None = None) -> np.ndarray:
    """(N,) luminosity-weighted line-of-sight velocity dispersion [km/s] over all valid pixels, or an aperture's.

    Rotation counts as dispersion, as in an aperture spectrum: <V^2 + sigma^2> about the mean V, less
    what errors add (`eval.classical.noise`). maps (N, 4, P, P) of one tracer; aperture (P, P) bool. NaN for fewer
    than two pixels with light, and where errors are all there is.
    """
    density, velocity, dispersion = (maps[:, i].astype(float) for i in range(3))
    density = density * maps[:, 3] * (1.0 if aperture is None else aperture)
    total = density.sum((1, 2))
    enough = np.count_nonzero(density > 0, axis=(1, 2)) >= 2
    total = np.where(enough, total, np.nan)
    mean = (density * velocity).sum((1, 2)) / total
    moment = (velocity - mean[:, None, None]) ** 2 + dispersion**2 - added_square(maps)
    square = (density * moment).sum((1, 2)) / total
    return np.sqrt(np.where(square >= 0, square, np.nan))


def _from_sigma(seen: Seen, sigma_kms: np.ndarray, radius_re: float, coefficient: float) -> np.ndarray:
    """(N, K) log10 of M(<radius) = coefficient sigma^2 R_e / G at the radius nearest (in ln r) to that; NaN elsewhere.

    Carried there in proportion to r, as flat circular velocities say.
    """
    radii = np.asarray(seen.radii_re, dtype=float)
    nearest = int(np.argmin(np.abs(np.log(radii / radius_re))))
    out = np.full((len(sigma_kms), len(radii)), np.nan)
    mass = coefficient * sigma_kms**2 * seen.half_mass_radius_kpc / G * (radii[nearest] / radius_re)
    found = mass > 0
    out[found, nearest] = np.log10(mass[found])
    return out


def wolf2010(seen: Seen) -> np.ndarray:
    """M(<4/3 R_e) = 4 sigma_los^2 R_e / G (Wolf et al. 2010, arXiv:0908.2995, eq. 2).

    3 sigma_los^2 r / G at the deprojected half-light radius, where the mass depends least on anisotropy.
    """
    return _from_sigma(seen, sigma_los(seen.tracer("stars")), 4 / 3, 4.0)


def walker2009(seen: Seen) -> np.ndarray:
    """M(<R_e) = 5/2 sigma_los^2 R_e / G (Walker et al. 2009, arXiv:0906.0341; 580 Msun/pc/(km/s)^2)."""
    return _from_sigma(seen, sigma_los(seen.tracer("stars")), 1.0, 2.5)


def campbell2017(seen: Seen) -> np.ndarray:
    """M(<1.77 R_e) = 5.29 sigma_los^2 R_e / G (Campbell et al. 2017, arXiv:1603.04443).

    Radius and coefficient are those of least scatter over simulated galaxies of the Local Group.
    """
    return _from_sigma(seen, sigma_los(seen.tracer("stars")), 1.77, 5.29)


def errani2018(seen: Seen) -> np.ndarray:
    """M(<1.8 R_e) = 3.5 * 1.8 R_e sigma_los^2 / G (Errani et al. 2018, arXiv:1805.00484, abstract)."""
    return _from_sigma(seen, sigma_los(seen.tracer("stars")), 1.8, 3.5 * 1.8)


def virial(seen: Seen) -> np.ndarray:
    """M(<r_1/2) = 2.5 sigma_e^2 R_e / G, r_1/2 = 1.33 R_e, sigma_e inside a circle of R_e (Cappellari et al. 2013).

    The coefficient 5.0 +- 0.1 of Cappellari et al. 2006 (arXiv:astro-ph/0505042, eq. 19) is that of a total
    mass, L times the dynamical M/L inside R_e; half of it is inside r_1/2 (Cappellari et al. 2013,
    arXiv:1208.3522). Measured on early-type galaxies, whose cusps raise sigma_e: too low by a third in an
    isotropic Plummer sphere, by half in discs.
    """
    aperture = inside_half_mass_radius(seen.observed.shape[-1], seen.field_of_view_re).numpy()
    return _from_sigma(seen, sigma_los(seen.tracer("stars"), aperture), 1.33, 2.5)


def _per_view(seen: Seen, profile: Callable[..., np.ndarray], *maps: np.ndarray) -> np.ndarray:
    radii = np.asarray(seen.radii_re, dtype=float)
    views = zip(seen.half_mass_radius_kpc, *maps, strict=True)
    found = [profile(*mine, float(r_e), seen.field_of_view_re, radii) for r_e, *mine in views]
    return np.array(found).reshape(len(found), len(radii))


def rotation_curve(seen: Seen) -> np.ndarray:
    """Circular velocities of the gas disc: see `eval.classical.rotation.rotation_profile`."""
    return _per_view(seen, rotation_profile, seen.tracer("gas"))


def jeans(seen: Seen) -> np.ndarray:
    """A spherical Jeans fit of the stars' second moments: see `eval.classical.jeans.jeans_profile`."""
    stars = seen.tracer("stars")
    return _per_view(seen, jeans_profile, stars, added_square(stars))


#: Name -> the tracer it sees, and (N, K) log10 M(<r) [Msun] from N views, NaN where it says nothing.
ESTIMATORS: dict[str, tuple[str, Callable[[Seen], np.ndarray]]] = {
    "wolf2010": ("stars", wolf2010),
    "walker2009": ("stars", walker2009),
    "campbell2017": ("stars", campbell2017),
    "errani2018": ("stars", errani2018),
    "virial": ("stars", virial),
    "rotation_curve": ("gas", rotation_curve),
    "jeans": ("stars", jeans),
}
