"""One mock galaxy: from some structural parameters to particles in equilibrium."""

from dataclasses import dataclass

import numpy as np
from scipy.integrate import cumulative_trapezoid
from scipy.special import gammainc, gammaincinv
from scipy.stats import norm

from kinmass.gen.mock import relations
from kinmass.gen.mock.jeans import gas_disc, spherical_jeans, stellar_disc
from kinmass.gen.mock.potential import Potential
from kinmass.gen.physics.particles import Particles

GOLDEN = (np.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Structure:
    """Structural parameters of one galaxy. Lengths in kpc, masses in Msun, velocities in km/s."""

    m200_msun: float
    concentration: float
    halo: str  # "dc14", "contracted" or "core_nfw"
    t_sf_gyr: float  # how long star formation has melted a "core_nfw" cusp
    mstar_msun: float
    bulge_fraction: float
    bulge_re_kpc: float
    bulge_sersic: float
    bulge_aniso_kpc: float  # Osipkov-Merritt radius
    bulge_spin: float  # 0: no net rotation, 1: every bulge star rotates in the sense of the disc
    disc_scale_kpc: float
    disc_height_kpc: float  # z0 of sech^2(z / z0)
    disc_sigma_z_over_R: float
    mgas_msun: float
    gas_scale_kpc: float
    gas_sigma_kms: float  # turbulent and thermal
    gas_hole_kpc: float = 0.0  # radius of a central hole: the surface density times 1 - exp(-(R / hole)^2)


def _sersic(n: float) -> tuple[float, float]:
    """Inner slope p (Lima Neto et al. 1999) and b(n) (Ciotti & Bertin 1999) of a Sersic index."""
    return 1 - 0.6097 / n + 0.05463 / n**2, 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2)


def sersic_mass(r_kpc: np.ndarray, mass_msun: float, re_kpc: float, n: float) -> np.ndarray:
    """M(<r) [Msun] of a deprojected Sersic spheroid (Prugniel & Simien 1997; Terzic & Graham 2005)."""
    p, b = _sersic(n)
    return mass_msun * gammainc(n * (3 - p), b * (np.asarray(r_kpc) / re_kpc) ** (1 / n))


def sersic_radius(fraction: np.ndarray, re_kpc: float, n: float) -> np.ndarray:
    """Radius [kpc] that encloses a fraction of the spheroid: the inverse of `sersic_mass`."""
    p, b = _sersic(n)
    return re_kpc * (gammaincinv(n * (3 - p), fraction) / b) ** n


def exponential_radius(fraction: np.ndarray, scale_kpc: float) -> np.ndarray:
    """Cylindrical radius [kpc] that encloses a fraction of an exponential disc."""
    x = np.concatenate([[0.0], np.geomspace(1e-4, 40.0, 1500)])
    return scale_kpc * np.interp(fraction, 1 - (1 + x) * np.exp(-x), x)


class MockGalaxy:
    """The smooth model from which particles are drawn: potential, true masses and velocity moments.

    `potential.mass_msun` is the true M(<r) on `r_kpc`. Sampling is stratified (a "quiet start"): particles lie at
    the quantiles of their component, so that M(<r) of the particles follows the truth to the mass of one particle.
    Azimuths are random, so that maps keep their Poisson noise.
    """

    def __init__(self, structure: Structure):
        s = self.structure = structure
        self.r200_kpc = relations.r200_kpc(s.m200_msun)
        self.r_kpc = np.geomspace(2e-3 * s.disc_scale_kpc, 1.5 * self.r200_kpc, 256)
        self.bulge_msun = s.bulge_fraction * s.mstar_msun
        self.disc_msun = s.mstar_msun - self.bulge_msun
        # Radii, and the share of the gas inside them; _gas_kept is the share that a hole leaves of an exponential disc.
        x = np.concatenate([[0.0], np.geomspace(1e-4, 40.0, 1500)])
        inside = 1 - (1 + x) * np.exp(-x)
        self._gas_kept = 1.0
        if s.gas_hole_kpc:
            density = x * np.exp(-x) * -np.expm1(-((x * s.gas_scale_kpc / s.gas_hole_kpc) ** 2))
            inside = cumulative_trapezoid(density, x, initial=0)
            self._gas_kept = float(inside[-1])
            inside = inside / inside[-1]
        self._gas_table = (s.gas_scale_kpc * x, inside)
        bulge = sersic_mass(self.r_kpc, self.bulge_msun, s.bulge_re_kpc, s.bulge_sersic)
        self.dark_msun = self._dark_mass(bulge)
        # The gas is in equilibrium in the gravity of all other components, which gives its thickness.
        without_gas = Potential(self.r_kpc, self.dark_msun + bulge, [self.disc_density])
        R = np.geomspace(0.02, 40.0, 96) * s.gas_scale_kpc
        _, d_z = without_gas.gradient(R, np.full_like(R, 0.02 * s.gas_scale_kpc))
        height = s.gas_sigma_kms / np.sqrt(np.maximum(d_z / (0.02 * s.gas_scale_kpc), 1e-6))
        self._gas_R, self._gas_height = R, np.minimum(height, 0.35 * (R + s.gas_scale_kpc))
        self.potential = Potential(self.r_kpc, self.dark_msun + bulge, [self.disc_density, self.gas_density])

    def disc_density(self, R_kpc: np.ndarray, z_kpc: np.ndarray) -> np.ndarray:
        """Stellar disc [Msun/kpc^3]: exponential in R, sech^2 in z (van der Kruit & Searle 1981)."""
        s = self.structure
        sigma0 = self.disc_msun / (2 * np.pi * s.disc_scale_kpc**2)
        decay = np.exp(-2 * np.abs(z_kpc) / s.disc_height_kpc)
        sech2 = 4 * decay / (1 + decay) ** 2
        return sigma0 * np.exp(-R_kpc / s.disc_scale_kpc) * sech2 / (2 * s.disc_height_kpc)

    def gas_height(self, R_kpc: np.ndarray | float) -> np.ndarray:
        """Gaussian scale height [kpc] of the gas: sigma / nu, with nu the vertical frequency."""
        return np.asarray(np.interp(R_kpc, self._gas_R, self._gas_height))

    def gas_density(self, R_kpc: np.ndarray, z_kpc: np.ndarray) -> np.ndarray:
        """Gas disc [Msun/kpc^3]: exponential in R, with or without a hole; Gaussian and flaring in z."""
        s = self.structure
        sigma = s.mgas_msun / (2 * np.pi * s.gas_scale_kpc**2) * np.exp(-R_kpc / s.gas_scale_kpc)
        if s.gas_hole_kpc:
            sigma = sigma * -np.expm1(-((R_kpc / s.gas_hole_kpc) ** 2)) / self._gas_kept
        h = self.gas_height(R_kpc)
        return sigma * np.exp(-0.5 * (z_kpc / h) ** 2) / (np.sqrt(2 * np.pi) * h)

    def _dark_mass(self, bulge_msun: np.ndarray) -> np.ndarray:
        """Dark M(<r) (K,) on the radial grid: M200 less the baryons inside R200, constant beyond."""
        s, r = self.structure, self.r_kpc
        if s.halo == "contracted":
            disc = self.disc_msun * (1 - (1 + r / s.disc_scale_kpc) * np.exp(-r / s.disc_scale_kpc))
            gas = s.mgas_msun * np.interp(r, *self._gas_table)
            dmo = relations.nfw_mass(r, s.m200_msun, s.concentration)
            mass = relations.contracted_mass(dmo, bulge_msun + disc + gas)
        else:
            dark = s.m200_msun - s.mstar_msun - s.mgas_msun
            if s.halo == "dc14":
                mass = relations.dc14_mass(r, s.m200_msun, s.concentration, s.mstar_msun)
            else:
                half = 1.678 * s.disc_scale_kpc
                mass = relations.core_nfw_mass(r, s.m200_msun, s.concentration, half, s.t_sf_gyr)
            mass = mass * dark / s.m200_msun
        return np.minimum(mass, np.interp(self.r200_kpc, r, mass))

    def sample(self, n_stars: int, n_gas: int, n_dark: int, rng: np.random.Generator) -> dict[str, Particles]:
        """Draw the particles of `bulge`, `disc`, `gas` and `dark`.

        Particles of one component have equal masses, but those of the dark matter differ.
        """
        n_bulge = round(n_stars * self.structure.bulge_fraction)
        return {
            "bulge": self._sample_bulge(n_bulge, rng),
            "disc": self._sample_disc(n_stars - n_bulge, rng),
            "gas": self._sample_gas(n_gas, rng),
            "dark": self._sample_dark(n_dark, rng),
        }

    def _sample_bulge(self, n: int, rng: np.random.Generator) -> Particles:
        s = self.structure
        r = sersic_radius((np.arange(n) + rng.random(n)) / n if n else np.zeros(0), s.bulge_re_kpc, s.bulge_sersic)
        r = np.clip(r, self.r_kpc[0], self.r200_kpc)
        cumulative = sersic_mass(self.r_kpc, 1.0, s.bulge_re_kpc, s.bulge_sersic)
        rho = np.gradient(cumulative, self.r_kpc) / self.r_kpc**2
        pos, vel = self._sample_sphere(r, rho, s.bulge_aniso_kpc, rng)
        # Reversing some orbits gives rotation and changes neither density nor dispersion (Lynden-Bell 1960).
        backwards = pos[:, 0] * vel[:, 1] - pos[:, 1] * vel[:, 0] < 0
        reversed_ = backwards & (rng.random(n) < s.bulge_spin)
        R2 = np.maximum(pos[:, 0] ** 2 + pos[:, 1] ** 2, 1e-30)
        v_phi_over_R = (pos[:, 0] * vel[:, 1] - pos[:, 1] * vel[:, 0]) / R2
        vel[reversed_, 0] += 2 * (v_phi_over_R * pos[:, 1])[reversed_]
        vel[reversed_, 1] -= 2 * (v_phi_over_R * pos[:, 0])[reversed_]
        return Particles(pos, vel, np.full(n, self.bulge_msun / max(n, 1)))

    def _sample_dark(self, n: int, rng: np.random.Generator) -> Particles:
        # Half the particles are distributed as the mass, half evenly in ln r where the stars are.
        ln_r, share = np.log(self.r_kpc), self.dark_msun / self.dark_msun[-1]
        ln_r_min, ln_r_max = np.log(0.05 * self.structure.disc_scale_kpc), np.log(12 * self.structure.disc_scale_kpc)
        cdf = (
            0.5 * share
            + 0.5 * np.clip((ln_r - ln_r_min) / (ln_r_max - ln_r_min), 0, 1)
            + 1e-9 * np.linspace(0, 1, ln_r.size)
        )
        cdf = (cdf - cdf[0]) / (cdf[-1] - cdf[0])
        edges = np.exp(np.interp(np.arange(n + 1) / n, cdf, ln_r))
        enclosed = np.exp(np.interp(np.log(edges), ln_r, np.log(self.dark_msun)))
        enclosed[0] = 0.0
        r = np.exp(np.interp((np.arange(n) + 0.5) / n, cdf, ln_r))
        mass = np.diff(enclosed)
        nonzero = mass > 1e-12 * mass.max()  # beyond R200 there is no mass
        rho = np.maximum(np.gradient(self.dark_msun, self.r_kpc), 0) / self.r_kpc**2
        pos, vel = self._sample_sphere(r[nonzero], rho, np.inf, rng)
        return Particles(pos, vel, mass[nonzero])

    def _sample_sphere(
        self, r: np.ndarray, rho: np.ndarray, r_aniso_kpc: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities (N, 3) of particles at radii r (N,) of a spherical tracer.

        rho (K,): the tracer's density on the radial grid, in any unit; r_aniso_kpc: as of `spherical_jeans`.
        """
        sigma_r, sigma_t = spherical_jeans(self.r_kpc, rho, self.potential.mass_msun, r_aniso_kpc)
        n = r.size
        cos = 2 * _low_discrepancy(n, rng) - 1
        phi = rng.uniform(0, 2 * np.pi, n)
        sin = np.sqrt(1 - cos**2)
        e_r = np.stack([sin * np.cos(phi), sin * np.sin(phi), cos], axis=1)
        e_theta = np.stack([cos * np.cos(phi), cos * np.sin(phi), -sin], axis=1)
        e_phi = np.stack([-np.sin(phi), np.cos(phi), np.zeros(n)], axis=1)
        ln_r = np.log(self.r_kpc)
        sr, st = np.interp(np.log(r), ln_r, sigma_r), np.interp(np.log(r), ln_r, sigma_t)
        v = self._bound(np.stack([sr, st, st]) * rng.standard_normal((3, n)), r, np.zeros(n))
        return r[:, None] * e_r, v[0][:, None] * e_r + v[1][:, None] * e_theta + v[2][:, None] * e_phi

    def _sample_disc(self, n: int, rng: np.random.Generator) -> Particles:
        s = self.structure
        R = exponential_radius((np.arange(n) + rng.random(n)) / max(n, 1), s.disc_scale_kpc)
        u = np.clip(_low_discrepancy(n, rng), 1e-9, 1 - 1e-9)
        z = s.disc_height_kpc * np.arctanh(2 * u - 1)
        kinematics = stellar_disc(
            self.potential, self.disc_density, s.disc_scale_kpc, s.disc_height_kpc, s.disc_sigma_z_over_R
        )
        vel = self._bound(kinematics.draw(R, z, rng), R, z)
        return _at_random_azimuth(R, z, vel, np.full(n, self.disc_msun / max(n, 1)), rng)

    def _sample_gas(self, n: int, rng: np.random.Generator) -> Particles:
        s = self.structure
        R = np.interp((np.arange(n) + rng.random(n)) / max(n, 1), *self._gas_table[::-1])
        z = self.gas_height(R) * norm.ppf(np.clip(_low_discrepancy(n, rng), 1e-9, 1 - 1e-9))
        height = float(self.gas_height(2 * s.gas_scale_kpc))
        streaming, sigma = gas_disc(self.potential, self.gas_density, R, z, s.gas_scale_kpc, height).T
        vel = sigma * rng.standard_normal((3, n))
        vel[1] += streaming
        mass = np.full(n, s.mgas_msun / max(n, 1))
        gas = _at_random_azimuth(R, z, self._bound(vel, R, z), mass, rng)
        # Each kernel holds the mass of 32 particles at the model's density, which has a floor far outside the disc.
        rho = np.maximum(self.gas_density(R, z), 1e-4 * self.gas_density(R, 0 * R))
        return Particles(gas.pos_kpc, gas.vel_kms, mass, (3 * 32 * mass / (4 * np.pi * rho)) ** (1 / 3))

    def _bound(self, vel: np.ndarray, R: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Slow the few of the velocities (3, N) that would escape down to 95 % of the escape speed."""
        limit2 = 0.9 * -2 * self.potential.phi(R, z)
        return vel / np.maximum(np.sqrt(np.sum(vel**2, axis=0) / limit2), 1.0)


def _low_discrepancy(n: int, rng: np.random.Generator) -> np.ndarray:
    """A golden-ratio sequence (n,) in [0, 1): even, also within any range of another stratified coordinate."""
    return np.mod(np.arange(n) * GOLDEN + rng.random(), 1.0)


def _at_random_azimuth(
    R: np.ndarray, z: np.ndarray, vel: np.ndarray, mass: np.ndarray, rng: np.random.Generator
) -> Particles:
    """Disc particles at (R, z), each (N,), and random azimuths, with velocities (3, N) along R, phi and z."""
    phi = rng.uniform(0, 2 * np.pi, R.size)
    cos, sin = np.cos(phi), np.sin(phi)
    pos = np.stack([R * cos, R * sin, z], axis=1)
    return Particles(pos, np.stack([vel[0] * cos - vel[1] * sin, vel[0] * sin + vel[1] * cos, vel[2]], axis=1), mass)
