"""Potential of a galaxy symmetric about its axis and its plane, as a series of even Legendre multipoles."""

from collections.abc import Callable

import numpy as np
from scipy.integrate import cumulative_trapezoid

from kinmass.gen.constants import G

Density = Callable[[np.ndarray, np.ndarray], np.ndarray]

# K radii, L multipoles, N points
L_MAX = 24
_MU, _WEIGHT = np.polynomial.legendre.leggauss(64)
_MU, _WEIGHT = 0.5 * (_MU + 1), 0.5 * _WEIGHT  # on [0, 1]; nodes are dense towards the plane


def _even_legendre(mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P_l(mu) and dP_l/dmu for l = 0, 2, ..., L_MAX; (L, N) each. The derivative needs |mu| < 1."""
    p = [np.ones_like(mu), mu]
    for n in range(1, L_MAX):
        p.append(((2 * n + 1) * mu * p[n] - n * p[n - 1]) / (n + 1))
    ell = np.arange(2, L_MAX + 1, 2)
    slope = [np.zeros_like(mu)] + [n * (p[n - 1] - mu * p[n]) / (1 - mu**2) for n in ell]
    return np.stack(p[::2]), np.stack(slope)


_P_NODES, _ = _even_legendre(_MU)


class Potential:
    """Gravity of spherical and flattened components together (Binney & Tremaine 2008, eq. 2.95).

    r_kpc (K,): radii in equal logarithmic steps; spherical_msun (K,): M(<r) of all spherical components;
    densities: functions rho(R_kpc, z_kpc) [Msun/kpc^3] of the flattened ones.
    `mass_msun` (K,) is the mass of all components inside spheres of these radii, the truth of the mock galaxies.
    """

    def __init__(self, r_kpc: np.ndarray, spherical_msun: np.ndarray, densities: list[Density]):
        self.r_kpc = r_kpc
        self._ln_r = np.log(r_kpc)
        ell = np.arange(0, L_MAX + 1, 2)[:, None]
        rho_l = np.zeros((ell.size, r_kpc.size))
        sin = np.sqrt(1 - _MU**2)
        for density in densities:
            rho = density(r_kpc[:, None] * sin, r_kpc[:, None] * _MU)
            rho_l += (2 * ell + 1) * ((_P_NODES * _WEIGHT) @ rho.T)
        # Inner and outer integrals of each multipole, step by step: r^l would overflow, ratios of radii do not.
        step = np.diff(self._ln_r)
        decay_in = np.exp(-(ell + 1) * step)
        decay_out = np.exp(-ell * step)
        shell = rho_l * r_kpc**2
        inner = np.zeros_like(rho_l)
        outer = np.zeros_like(rho_l)
        inner[:, 0] = shell[:, 0] / (ell[:, 0] + 3)
        for k in range(r_kpc.size - 1):
            gain = 0.5 * step[k] * (shell[:, k] * decay_in[:, k] + shell[:, k + 1])
            inner[:, k + 1] = inner[:, k] * decay_in[:, k] + gain
        for k in range(r_kpc.size - 2, -1, -1):
            gain = 0.5 * step[k] * (shell[:, k] + shell[:, k + 1] * decay_out[:, k])
            outer[:, k] = outer[:, k + 1] * decay_out[:, k] + gain
        factor = 4 * np.pi * G / (2 * ell + 1)
        self._phi = -factor * (inner + outer)
        self._dphi = factor * ((ell + 1) * inner - ell * outer) / r_kpc
        # Spherical components enter through their exact M(<r), not through a density.
        accel = G * spherical_msun / r_kpc**2
        self._dphi[0] += accel
        work = cumulative_trapezoid((accel * r_kpc)[::-1], -self._ln_r[::-1], initial=0)[::-1]  # from outside
        self._phi[0] += -G * spherical_msun[-1] / r_kpc[-1] - work
        self.mass_msun = self._dphi[0] * r_kpc**2 / G

    def _series(self, table: np.ndarray, r_kpc: np.ndarray) -> np.ndarray:
        """Every multipole (L, N) of `table` (L, K) at radii (N,): linear in ln r, constant beyond the grid."""
        index = (np.log(r_kpc) - self._ln_r[0]) / (self._ln_r[1] - self._ln_r[0])
        k = np.clip(index.astype(int), 0, self._ln_r.size - 2)
        share = np.clip(index - k, 0, 1)
        return table[:, k] * (1 - share) + table[:, k + 1] * share

    def gradient(self, R_kpc: np.ndarray, z_kpc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dPhi/dR and dPhi/dz [(km/s)^2/kpc] at cylindrical positions, R_kpc and z_kpc of the same shape."""
        shape = np.shape(R_kpc)
        R, z = np.ravel(R_kpc), np.ravel(z_kpc)
        r = np.maximum(np.hypot(R, z), self.r_kpc[0])
        mu = np.clip(z / r, -1 + 1e-9, 1 - 1e-9)
        p, dp = _even_legendre(mu)
        by_r = np.sum(self._series(self._dphi, r) * p, axis=0)
        by_mu = np.sum(self._series(self._phi, r) * dp, axis=0)
        sin2 = 1 - mu**2
        d_R = by_r * np.sqrt(sin2) - by_mu * mu * np.sqrt(sin2) / r
        d_z = by_r * mu + by_mu * sin2 / r
        return d_R.reshape(shape), d_z.reshape(shape)

    def phi(self, R_kpc: np.ndarray, z_kpc: np.ndarray) -> np.ndarray:
        """Potential [(km/s)^2], zero at infinity, at positions (N,)."""
        r = np.maximum(np.hypot(R_kpc, z_kpc), self.r_kpc[0])
        p, _ = _even_legendre(np.clip(z_kpc / r, -1 + 1e-9, 1 - 1e-9))
        return np.sum(self._series(self._phi, r) * p, axis=0)

    def menc(self, r_kpc: np.ndarray) -> np.ndarray:
        """Total mass [Msun] inside spherical radii of any shape."""
        return np.exp(np.interp(np.log(r_kpc), self._ln_r, np.log(self.mass_msun)))
