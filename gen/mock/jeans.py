"""Velocity moments that keep a given density in equilibrium in a given potential."""

from dataclasses import dataclass

import numpy as np
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import RegularGridInterpolator

from kinmass.gen.constants import G
from kinmass.gen.mock.potential import Density, Potential


def spherical_jeans(
    r_kpc: np.ndarray, rho: np.ndarray, menc_msun: np.ndarray, r_aniso_kpc: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Radial and one tangential dispersion [km/s], each (K,), of a spherical tracer.

    Anisotropy after Osipkov 1979 and Merritt 1985, beta = r^2 / (r^2 + r_aniso^2); isotropic by
    default. rho (K,) in any unit; menc_msun (K,) is the total mass. Binney & Tremaine 2008, eq. 4.215.
    """
    weight = 1 + (r_kpc / r_aniso_kpc) ** 2
    integrand = rho * weight * G * menc_msun / r_kpc  # per ln r
    pressure = cumulative_trapezoid(integrand[::-1], -np.log(r_kpc)[::-1], initial=0)[::-1]  # from outside
    sigma2 = np.divide(pressure, rho * weight, out=np.zeros_like(rho), where=rho > 0).clip(min=0)
    return np.sqrt(sigma2), np.sqrt(sigma2 / weight)


@dataclass
class DiscKinematics:
    """In-plane orbits and velocity moments of one disc, tabulated for drawing velocities.

    The second moments at (R, z) are those of the Jeans equations. The shape of the in-plane velocity distribution is
    that of Shu's (1969) distribution function: it is skewed towards slow rotation by stars that come from smaller
    radii. Gaussians with the same moments would not be in equilibrium: their sigma_phi grows by up to 40 % within an
    orbit.
    """

    ln_R: np.ndarray  # (nR,)
    asinh_z: np.ndarray  # (nz,)
    z_unit_kpc: float
    second: np.ndarray  # (nR, nz, 3): sqrt of <v_R^2>, <v_phi^2>, <v_z^2> [km/s]
    guiding_cdf: np.ndarray  # (nR, nR): share of stars at R (row) whose guiding radius is below R_g
    ang_mom: np.ndarray  # (nR,) L_z of a circular orbit at R_g [kpc km/s]
    sigma_g: np.ndarray  # (nR,) Shu's sigma_R(R_g) [km/s]

    def draw(self, R_kpc: np.ndarray, z_kpc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw velocities v_R, v_phi, v_z (3, N) [km/s] at positions (N,)."""
        ln_R = np.clip(np.log(R_kpc), self.ln_R[0], self.ln_R[-1])
        height = np.clip(np.arcsinh(np.abs(z_kpc) / self.z_unit_kpc), 0, self.asinh_z[-1])
        grid = RegularGridInterpolator((self.ln_R, self.asinh_z), self.second)
        rms = grid(np.stack([ln_R, height], axis=-1)).T
        n = R_kpc.size
        index = np.arange(self.ln_R.size)
        row = np.rint((ln_R - self.ln_R[0]) / (self.ln_R[1] - self.ln_R[0])).astype(int)
        # One search serves all rows: the cumulative distribution of row i is shifted to the values i .. i + 1.
        cdf = np.minimum(self.guiding_cdf, 1.0) + index[:, None]
        flat = np.column_stack([index, cdf]).ravel()
        position = np.arange(flat.size) % (index.size + 1) - 0.5
        u = row + rng.uniform(1e-12, 1 - 1e-12, n)
        above = np.searchsorted(flat, u)
        share = (u - flat[above - 1]) / np.maximum(flat[above] - flat[above - 1], 1e-300)
        guide = np.clip(position[above - 1] + np.clip(share, 0, 1), 0, index[-1])
        v_phi = np.interp(guide, index, self.ang_mom) / np.exp(self.ln_R[row])
        v_R = np.interp(guide, index, self.sigma_g) * rng.standard_normal(n)
        weight = np.diff(self.guiding_cdf, axis=1, prepend=0.0)
        shu_phi = np.sqrt(weight @ self.ang_mom**2) / np.exp(self.ln_R)
        shu_R = np.sqrt(weight @ self.sigma_g**2)
        return np.stack([v_R * rms[0] / shu_R[row], v_phi * rms[1] / shu_phi[row], rms[2] * rng.standard_normal(n)])


def jeans_second_moments(
    potential: Potential, density: Density, R_kpc: np.ndarray, z_kpc: np.ndarray, b_max: float
) -> np.ndarray:
    """Mean squares (nR, nz, 3) of v_R, v_phi, v_z [(km/s)^2] for sigma_R^2 = b(R) sigma_z^2.

    Axisymmetric Jeans equations aligned with cylindrical coordinates (Cappellari 2008, eq. 8-9).
    b is b_max where the disc is cold. It falls to 1 where sigma_R would exceed 0.35 V_c: orbits become isotropic
    towards the centre, because very radial ones would carry many stars to the outer disc.
    R_kpc (nR,) in equal logarithmic steps; z_kpc (nz,) from 0 to where the density vanishes.
    """
    R, z = np.meshgrid(R_kpc, z_kpc, indexing="ij")
    rho = np.maximum(density(R, z), 1e-30 * density(R[:1, :1], 0 * R[:1, :1]))
    d_R, d_z = potential.gradient(R, z)
    weight = rho * d_z
    pressure = cumulative_trapezoid(weight[:, ::-1], -z_kpc[::-1], initial=0)[:, ::-1]
    pressure[:, -1] = pressure[:, -2] * rho[:, -1] / rho[:, -2]
    sigma_z2 = pressure / rho
    cap = (0.35**2 * R * d_R)[:, :1] / sigma_z2[:, :1]
    b = np.clip(cap, 1.0, b_max)
    slope = np.gradient(np.log(np.maximum(b * pressure, 1e-300)), np.log(R_kpc), axis=0)
    vphi2 = np.maximum(b * sigma_z2 * (1 + slope) + R * d_R, 0.0)
    return np.stack([b * sigma_z2, vphi2, sigma_z2], axis=-1)


def stellar_disc(
    potential: Potential, density: Density, r_scale_kpc: float, z_scale_kpc: float, sigma_z_over_R: float
) -> DiscKinematics:
    """Kinematics of a stellar disc whose sigma_z / sigma_R is fixed.

    Shu's distribution function is f = F(R_g) exp(-(E - E_c(R_g)) / sigma^2(R_g)). F is iterated until f gives the
    surface density of the disc (Dehnen 1999, section 3.2).
    """
    ln_R = np.log(r_scale_kpc) + np.linspace(np.log(0.03), np.log(12.0), 256)
    asinh_z = np.linspace(0, np.arcsinh(14.0), 40)
    R, z = np.exp(ln_R), z_scale_kpc * np.sinh(asinh_z)
    second = jeans_second_moments(potential, density, R, z, sigma_z_over_R**-2)
    rho = density(R[:, None], z[None, :])
    column = np.trapezoid(rho, z, axis=1)
    sigma2 = np.trapezoid(rho * second[..., 0], z, axis=1) / column
    phi = potential.phi(R, 0 * R)
    d_R, _ = potential.gradient(R, 0 * R)
    ang_mom = np.sqrt(np.maximum(R**3 * d_R, 1e-12))
    barrier = phi[:, None] - phi[None, :] + 0.5 * ang_mom**2 * (R[:, None] ** -2 - R[None, :] ** -2)
    amplitude = column.copy()
    for _ in range(12):
        weight = np.exp(-np.maximum(barrier, 0) / sigma2)  # (R, R_g)
        norm = weight.sum(axis=0)
        weight *= amplitude * R / norm  # row: how the stars at R are distributed over guiding radii
        total = weight.sum(axis=1)
        amplitude *= np.clip(column * R / total, 0.5, 2.0)
    cdf = np.cumsum(weight, axis=1) / total[:, None]
    return DiscKinematics(ln_R, asinh_z, z_scale_kpc, np.sqrt(second), cdf, ang_mom, np.sqrt(sigma2))


def gas_disc(
    potential: Potential, density: Density, R_kpc: np.ndarray, z_kpc: np.ndarray, r_scale_kpc: float, z_scale_kpc: float
) -> np.ndarray:
    """Mean v_phi and isotropic dispersion (N, 2) [km/s] of a gas disc at positions (N,).

    Rotation supports the part of the weight that pressure does not (asymmetric drift; Jeans equations with b = 1).
    """
    ln_R = np.log(r_scale_kpc) + np.linspace(np.log(0.02), np.log(16.0), 64)
    asinh_z = np.linspace(0, np.arcsinh(14.0), 40)
    second = jeans_second_moments(potential, density, np.exp(ln_R), z_scale_kpc * np.sinh(asinh_z), 1.0)
    sigma2 = second[..., 0]
    streaming = np.sqrt(np.maximum(second[..., 1] - sigma2, 0.0))
    table = np.stack([streaming, np.sqrt(sigma2)], axis=-1)
    height = np.clip(np.arcsinh(np.abs(z_kpc) / z_scale_kpc), 0, asinh_z[-1])
    points = np.stack([np.clip(np.log(R_kpc), ln_R[0], ln_R[-1]), height], axis=-1)
    return RegularGridInterpolator((ln_R, asinh_z), table)(points)
