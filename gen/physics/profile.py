"""Enclosed masses and half-mass radii, the truth that networks are trained on."""

import numpy as np

#: Number of radii of the stored profile.
N_RADII = 64
#: Cells are cut until the side of a piece is at most this share of its distance: spheres have their gas to 1 per cent.
PIECE = 0.1
#: Centres of the eight halves of a cube of side 1.
_HALVES = (np.indices((2, 2, 2)).reshape(3, 8).T - 0.5) / 2


def enclosed_mass(
    pos_kpc: np.ndarray, mass_msun: np.ndarray, radius_kpc: np.ndarray, side_kpc: np.ndarray | None = None
) -> np.ndarray:
    """Mass [Msun] of particles with |pos| <= r for every r: pos (N, 3), mass (N,), growing radius (K,) -> (K,).

    Cells, whose sides are side_kpc (N,), are cubes: a sphere has of each the part that lies in it. Those that reach
    beyond the last radius belong to the spheres that hold their centre, for of others there nobody may know.

    >>> enclosed_mass(np.array([[1.0, 0, 0], [0, 2.0, 0]]), np.array([1e6, 3e6]), np.array([0.5, 1.0, 3.0])).tolist()
    [0.0, 1000000.0, 4000000.0]
    """
    if side_kpc is not None:
        pos_kpc, mass_msun = _in_pieces(pos_kpc, mass_msun, side_kpc, radius_kpc)
    shell = np.searchsorted(radius_kpc, np.sqrt(np.einsum("ij,ij->i", pos_kpc, pos_kpc)))
    return np.cumsum(np.bincount(shell, mass_msun, minlength=len(radius_kpc) + 1))[: len(radius_kpc)]


def _in_pieces(
    pos_kpc: np.ndarray, mass_msun: np.ndarray, side_kpc: np.ndarray, radius_kpc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut cells into pieces (M, 3), (M,) that are small beside their distance, or the first radius."""
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    while len(mass_msun):
        r_kpc = np.sqrt(np.einsum("ij,ij->i", pos_kpc, pos_kpc))
        cut = (side_kpc > PIECE * np.maximum(r_kpc, radius_kpc[0])) & (r_kpc + 0.75**0.5 * side_kpc <= radius_kpc[-1])
        pieces.append((pos_kpc[~cut], mass_msun[~cut]))
        pos_kpc = (pos_kpc[cut, None] + side_kpc[cut, None, None] * _HALVES).reshape(-1, 3)
        mass_msun, side_kpc = np.repeat(mass_msun[cut] / 8, 8), np.repeat(side_kpc[cut] / 2, 8)
    pos, mass = zip(*pieces, strict=True) if pieces else ([pos_kpc], [mass_msun])
    return np.concatenate(pos), np.concatenate(mass)


def half_mass_radius(radius_kpc: np.ndarray, mass_msun: np.ndarray) -> float:
    """Radius [kpc] that encloses half the mass of particles at radii (N,), projected or not.

    Interpolates linearly between particles, so that the radius does not jump when there is one particle more or less.
    Particles at one radius count as one, and those without mass as none: so neither their order nor splitting them
    changes it.
    """
    # Sorting all particles is slow. Every 64th one shows where half the mass is, and only those near it are sorted.
    order_of_sample = np.argsort(radius_kpc[::64])
    mass_of_sample = np.cumsum(mass_msun[::64][order_of_sample])
    lo, hi = np.interp(
        [0.4 * mass_of_sample[-1], 0.6 * mass_of_sample[-1]], mass_of_sample, radius_kpc[::64][order_of_sample]
    )
    near_half = (radius_kpc >= lo) & (radius_kpc <= hi)
    r, mass = _sorted_by_radius(radius_kpc[near_half], mass_msun[near_half])
    inside, half_mass = mass_msun[radius_kpc < lo].sum(), 0.5 * mass_msun.sum()
    if not (len(r) and inside + mass.max() < half_mass < inside + mass.sum() - mass.max()):
        (r, mass), inside = _sorted_by_radius(radius_kpc, mass_msun), 0.0
    return float(np.interp(half_mass, inside + np.cumsum(mass) - 0.5 * mass, r))


def _sorted_by_radius(radius_kpc: np.ndarray, mass_msun: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different radii (M,), rising, of particles (N,) that have mass, and the mass at each of them."""
    if 0 < np.count_nonzero(mass_msun) < len(mass_msun):
        radius_kpc, mass_msun = radius_kpc[mass_msun > 0], mass_msun[mass_msun > 0]
    order = np.argsort(radius_kpc)
    radius, mass = radius_kpc[order], mass_msun[order]
    first = np.flatnonzero(np.diff(radius, prepend=-1.0))
    return (radius, mass) if len(first) == len(radius) else (radius[first], np.add.reduceat(mass, first))


def profile_radii(half_mass_kpc: float, aperture_kpc: float) -> np.ndarray:
    """(N_RADII,) logarithmic radii [kpc] from a twentieth of the stars' half-mass radius to the aperture."""
    return np.geomspace(min(0.05 * half_mass_kpc, 0.5 * aperture_kpc), aperture_kpc, N_RADII)


def menc_at(radius_kpc: np.ndarray, mass_msun: np.ndarray, at_kpc: np.ndarray) -> np.ndarray:
    """log10 M(<r) at any radii, by interpolation in log-log between the stored ones.

    radius_kpc (..., K) and mass_msun (..., K) share their leading dimensions with at_kpc (..., X). The result is NaN
    outside the stored radii, because a profile is never extrapolated, and next to a radius with no mass inside.
    """
    log_m = np.log10(mass_msun, out=np.full(np.shape(mass_msun), np.nan), where=np.asarray(mass_msun) > 0)
    log_r, log_at = np.log10(radius_kpc), np.log10(at_kpc)
    rows = zip(*(array.reshape(-1, array.shape[-1]) for array in (log_at, log_r, log_m)), strict=True)
    log_m_at = [np.interp(x, r, m, left=np.nan, right=np.nan) for x, r, m in rows]
    return np.array(log_m_at).reshape(np.shape(at_kpc))
