"""A second maker of mock galaxies, to ask whether what is found on the demo's holds on another's.

  python -m bench.equilibrium --out second --galaxies 240 --seed 1
  kinmass maps second/*/*.yaml --out second.zarr --views 4 --pixels 32

It shares no physics with `kinmass mock`. Velocities are drawn from distribution functions, not from Jeans moments:

- halo and bulge: Eddington's inversion in the total potential made spherical, the bulge's after Osipkov and Merritt
  (Binney & Tremaine 2008, sec. 4.3);
- stellar disc: f(E_R, L_z) falls exponentially with the energy of the radial motion (Shu 1969; B&T 4.4.3), each star
  drawn at a random time of its own orbit, vertically isothermal;
- gas: isothermal in the vertical, rotation less than circular by what pressure carries; H I discs with H2 within, some
  with a hole, warped, with a lopsided kinematic wave.

The force of the discs is that of exponential ones of finite thickness, by Hankel transform. `cuspy`, `einasto` and
`cored` differ in haloes, thickness, bulges, gas and turbulence. The same seed gives the same galaxies; galaxies that
are there are left as they are. Not modelled: contraction of haloes, bars, spirals, winds, anything out of equilibrium.

Motions in the plane and across it are taken to be independent, so that a disc is only near equilibrium in its
innermost 0.3 R_d, where it is no thinner than it is wide. A cored halo has no isotropic f(E) near its centre: it is cut
to zero where it is negative, which concerns velocities of dark particles alone.
"""

import argparse
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from astropy.table import Table
from scipy.integrate import cumulative_simpson, cumulative_trapezoid
from scipy.interpolate import CubicSpline, RegularGridInterpolator
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.special import j0, j1

from kinmass.gen.bars import progress_bar
from kinmass.gen.constants import RHO_CRIT, G
from kinmass.gen.formats import gadget
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty
from kinmass.gen.storage.files import aside, write_atomically

Range = tuple[float, float]
BOX_KPC, HUBBLE = 20_000.0, 0.6774
N_STARS, N_GAS, N_DARK = 15_000, 8_000, 15_000


@dataclass(frozen=True)
class Suite:
    """What one suite draws from, uniformly."""

    height: Range  # exponential scale height of the stars over R_d; Kregel et al. 2002: 1/7.3
    bulge_share: Range  # of the stars
    bulge_half: Range  # the bulge's half-mass radius over R_d
    gas_factor: float  # on the median mass of H I and H2
    gas_sigma_kms: Range  # turbulent and thermal, far out


#: Each with a halo of its name in `dark_density`.
SUITES = {
    "cuspy": Suite((0.08, 0.15), (0.10, 0.50), (0.2, 0.6), 0.7, (7.0, 11.0)),
    "einasto": Suite((0.12, 0.25), (0.05, 0.35), (0.3, 0.9), 1.0, (8.0, 16.0)),
    "cored": Suite((0.20, 0.40), (0.02, 0.20), (0.4, 1.2), 1.5, (12.0, 24.0)),
}


def stellar_mass(m200_msun: float) -> float:
    """Median stellar mass [Msun] of a halo at z = 0: Behroozi et al. 2013, eq. 3 and sec. 5 (scatter 0.2 dex)."""

    def f(x: float) -> float:
        """Return f(x) of eq. 3, with the parameters of z = 0."""
        rise = 3.508 * np.log10(1 + np.exp(x)) ** 0.316 / (1 + np.exp(10**-x))
        return float(rise - np.log10(10 ** (-1.412 * x) + 1))

    return float(10 ** (-1.777 + 11.514 + f(np.log10(m200_msun) - 11.514) - f(0.0)))


def hi_mass(mstar_msun: float) -> float:
    """Median H I mass [Msun], without helium: Papastergis et al. 2012, fig. 19."""
    return float(10 ** (0.57 * np.log10(mstar_msun) + 3.75))


def hi_scale_kpc(hi_msun: float) -> float:
    """Scale length [kpc] of an exponential H I disc whose diameter at 1 Msun/pc^2 is that of Wang et al. 2016, eq. 2.

    At that relation's mean surface density the disc falls to 1 Msun/pc^2 at 2.4 scale lengths.
    """
    return float(0.5 * 10 ** (0.506 * np.log10(hi_msun) - 3.293) / 2.4)


def dark_density(family: str, r: np.ndarray, m200_msun: float, r200: float, rng: np.random.Generator) -> np.ndarray:
    """Dark density at r, of any normalisation, faded out beyond R200.

    cuspy: Dehnen 1993 of slope 1 to 1.3 with the NFW concentration of Duffy et al. 2008; einasto: theirs for Einasto's
    profile, of shape 0.17 (Gao et al. 2008); cored: Burkert's, with the core of Salucci et al. 2007, eq. 10.
    """
    scatter = 10 ** rng.normal(0, 0.12)
    mass = m200_msun * HUBBLE / 2e12
    if family == "cuspy":
        gamma = rng.uniform(1.0, 1.3)
        a = r200 / (5.71 * mass**-0.084 * scatter) * 2 / (2 - gamma)  # slope -2 at r_s
        rho = r**-gamma * (r + a) ** (gamma - 4)
    elif family == "einasto":
        alpha = np.clip(rng.normal(0.17, 0.03), 0.1, 0.25)
        rho = np.exp(-2 / alpha * (r * 6.40 * mass**-0.108 * scatter / r200) ** alpha)
    else:
        core = 10**0.66 * (m200_msun / 1e11) ** 0.58 * scatter
        rho = 1 / ((r + core) * (r**2 + core**2))
    return np.asarray(rho * np.exp(-((r / (2 * r200)) ** 2)))


def enclosed(r: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """M(<r) of a spherical density on a logarithmic grid, a power law within it."""
    shell = 4 * np.pi * r**3 * rho
    inner = shell[0] / (3 + np.log(rho[1] / rho[0]) / np.log(r[1] / r[0]))
    return np.asarray(inner + cumulative_simpson(shell, x=np.log(r), initial=0))


def eddington(r: np.ndarray, rho: np.ndarray, mass: np.ndarray, psi: np.ndarray, r_aniso: float) -> np.ndarray:
    """f(Q) at Q = psi(r) of a spherical density: B&T eq. 4.46 and, with an Osipkov-Merritt radius, 4.291.

    mass: total M(<r) [Msun]; psi: minus the potential [(km/s)^2]. The second derivative is constant between radii.
    """
    rho_q = rho * (1 + (r / r_aniso) ** 2)
    first = -rho_q * np.gradient(np.log(rho_q), np.log(r)) * r / (G * mass)  # d rho_Q / d psi
    q, first = psi[::-1], first[::-1]
    root = np.sqrt(np.maximum(q[:, None] - q, 0))
    f = 2 * (root[:, :-1] - root[:, 1:]) @ (np.diff(first) / np.diff(q)) / (np.sqrt(8) * np.pi**2)
    return np.asarray(f[::-1])


def draw(
    rows: np.ndarray, nodes: np.ndarray, weight: np.ndarray, at: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A value per entry of `at` (N,), from densities `weight` (rows, nodes) over `nodes`, between rows."""
    cdf = cumulative_trapezoid(weight, nodes, axis=1, initial=0)
    quantile = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 128))
    inverse = np.stack([np.interp(quantile, row / row[-1], nodes) for row in cdf])
    place = np.stack([np.clip(at, rows[0], rows[-1]), rng.random(at.size)], axis=1)
    return np.asarray(RegularGridInterpolator((rows, quantile), inverse)(place))


def even(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) increasing in (0, 1), one in each of n equal steps: enclosed masses without shot noise."""
    return (np.arange(n) + rng.random(n)) / max(n, 1)


def fine_inside(
    n: int, r: np.ndarray, mass_msun: np.ndarray, crowd: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Radii and masses of n particles, each of a shell of its own, as many shells inside r as `crowd` says."""
    edges = np.interp(np.linspace(0, crowd[-1], n + 1), crowd, r)
    within = np.interp(edges, r, mass_msun)
    within[0] = 0
    return edges[:-1] + rng.random(n) * np.diff(edges), np.diff(within)


@dataclass(frozen=True)
class Disc:
    """A sum of exponential surface densities: (mass [Msun], scale length [kpc]), a negative mass is a hole."""

    terms: list[tuple[float, float]]
    height: float  # exponential scale height that its gravity has [kpc]

    def surface(self, R: np.ndarray) -> np.ndarray:
        """Surface density [Msun/kpc^2]."""
        return np.asarray(sum(m / (2 * np.pi * a**2) * np.exp(-R / a) for m, a in self.terms))

    def enclosed(self, R: np.ndarray) -> np.ndarray:
        """Mass [Msun] within cylindrical R."""
        return np.asarray(sum(m * (1 - (1 + R / a) * np.exp(-R / a)) for m, a in self.terms))

    def ball(self, r: np.ndarray) -> np.ndarray:
        """Mass [Msun] within spherical r."""
        sin, weight = np.polynomial.legendre.leggauss(64)
        R = r[:, None] * 0.5 * (sin + 1)
        inside = -np.expm1(-np.sqrt(r[:, None] ** 2 - R**2) / self.height)
        return np.asarray(np.pi * r * ((self.surface(R) * R * inside) @ weight))

    def gravity(self, R: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """R dPhi/dR in the plane (nR,) and Phi(R, z) - Phi(R, 0) (nR, nz) [(km/s)^2]: Kuijken & Gilmore 1989."""
        x, k, weight, bessel0, bessel1 = hankel()
        found = np.zeros((R.size, z.size))
        for m, a in self.terms:
            kh = k * self.height / a
            kh = np.where(np.abs(kh - 1) < 1e-6, 1 + 1e-6, kh)[:, None]
            lift = (np.exp(-k[:, None] * z[1:] / a) - kh * np.exp(-z[1:] / self.height)) / (1 - kh**2) - 1 / (1 + kh)
            v2 = x * (bessel1 @ (weight * k / (1 + kh[:, 0])))
            near = CubicSpline(np.log(x), np.column_stack([v2, -bessel0 @ (weight[:, None] * lift)]))
            # Far out a point mass and, in the plane, its quadrupole.
            far = np.column_stack([a / R + 4.5 * (a / R) ** 3, a / R[:, None] - a / np.hypot(R[:, None], z[1:])])
            inside = x[-1] * a > R
            found += G * m / a * np.where(inside[:, None], near(np.log(np.clip(R / a, x[0], x[-1]))), far)
        return found[:, 0], np.column_stack([0 * R, found[:, 1:]])


@cache
def hankel() -> tuple[np.ndarray, ...]:
    """Radii x, wave numbers k, weights of an exponential disc's transform, J0 and J1 (x, k): in scale lengths."""
    t, dt = np.polynomial.legendre.leggauss(900)
    t, dt = 0.5 * (t + 1), 0.5 * dt
    x, k = np.geomspace(1e-3, 25, 120), 100 * t**3
    return x, k, 300 * t**2 * dt * (1 + k**2) ** -1.5, j0(x[:, None] * k), j1(x[:, None] * k)


class Model:
    """One galaxy's smooth parts and their summed gravity, drawn by its random numbers [kpc, km/s, Msun]."""

    def __init__(self, family: str, rng: np.random.Generator):
        s = SUITES[family]
        m200 = 10 ** rng.uniform(10.6, 12.4)
        self.r200 = float((3 * m200 / (800 * np.pi * RHO_CRIT)) ** (1 / 3))
        mstar = stellar_mass(m200) * 10 ** rng.normal(0, 0.2)
        # Mo, Mao & White 1998, eq. 28, with spins of Bullock et al. 2001, 0.6 of them kept (Romanowsky & Fall 2012),
        # and 0.7 for the shape of the rotation curve.
        r_d = self.r_d = 0.7 * 0.6 * 0.035 * np.exp(rng.normal(0, 0.5)) / np.sqrt(2) * self.r200
        share = rng.uniform(*s.bulge_share)
        self.bulge_msun, self.star_msun = share * mstar, mstar
        hi = 1.33 * s.gas_factor * hi_mass(mstar) * 10 ** rng.normal(0, 0.25)
        hi = min(hi, 0.1 * m200)
        h2 = s.gas_factor * 0.066 * mstar * 10 ** rng.normal(0, 0.3)  # Saintonge et al. 2011
        r_g = self.r_g = hi_scale_kpc(hi / 1.33) * 10 ** rng.normal(0, 0.06)
        gas = [(hi, r_g), (h2, r_d)]
        if rng.random() < 0.35:  # no gas at the centre
            r_h = r_g * rng.uniform(0.15, 0.4)
            gas = [(hi / (1 - (r_h / r_g) ** 2), r_g), (-hi / ((r_g / r_h) ** 2 - 1), r_h)]
        self.stars = Disc([(mstar - self.bulge_msun, r_d)], r_d * rng.uniform(*s.height))

        r = self.r = np.geomspace(1e-3 * r_d, 5 * self.r200, 400)
        self.dark_rho = dark_density(family, r, m200, self.r200, rng)
        dark = enclosed(r, self.dark_rho)
        norm = (m200 - mstar - sum(m for m, _ in gas)) / np.interp(self.r200, r, dark)
        self.dark_rho, self.dark_mass = self.dark_rho * norm, dark * norm
        # A bulge after Dehnen 1993, eq. 1-3.
        gamma = rng.uniform(0.8, 1.6)
        a = r_d * rng.uniform(*s.bulge_half) * (2 ** (1 / (3 - gamma)) - 1)
        self.bulge_rho = self.bulge_msun * (3 - gamma) * a / (4 * np.pi) * r**-gamma * (r + a) ** (gamma - 4)
        self.bulge_mass = self.bulge_msun * (r / (r + a)) ** (3 - gamma)
        self.r_aniso, self.spin = a * rng.uniform(3, 10), rng.uniform(0, 0.5)
        spheres = self.dark_mass + self.bulge_mass

        R = self.R = np.geomspace(4e-3 * r_d, 12 * max(r_d, r_g), 100)
        self.ln_R = np.log(R)
        z = self.z = np.concatenate([[0.0], np.geomspace(0.03, 40, 40) * self.stars.height])
        v2_s, lift_s = self.stars.gravity(R, z)
        psi = CubicSpline(np.log(r), cumulative_simpson(G * spheres / r, x=np.log(r), initial=0))
        v2_s += G * np.interp(self.ln_R, np.log(r), spheres) / R
        lift_s += psi(0.5 * np.log(R[:, None] ** 2 + z**2)) - psi(self.ln_R)[:, None]
        # Turbulence rises inwards (Tamburro et al. 2009), and stays below what would blow the disc apart.
        sigma = min(rng.uniform(*s.gas_sigma_kms), 0.2 * float(np.sqrt(v2_s.max())))
        self.gas_sigma = sigma * np.sqrt(1 + rng.uniform(0, 2) * np.exp(-R / r_g))
        self.gas = Disc(gas, 0.1 * r_g)
        for _ in range(2):  # its thickness follows from its own gravity as well
            v2_g, lift_g = self.gas.gravity(R, z)
            self.v2, self.lift = v2_s + v2_g, lift_s + lift_g
            self.gas_layer = np.exp(-self.lift / self.gas_sigma[:, None] ** 2)
            height = np.trapezoid(self.gas_layer * z, z) / np.trapezoid(self.gas_layer, z)
            self.gas = Disc(gas, float(np.interp(2 * r_d, R, height)))
        # Stars: the vertical virial theorem for the height they are to have.
        ratio = z / self.stars.height
        self.sigma_z = np.sqrt(np.trapezoid(np.gradient(self.lift, z, axis=1) * ratio * np.exp(-ratio), z))
        at = float(np.interp(2 * r_d, R, self.sigma_z)) / rng.uniform(0.5, 0.8)  # Gerssen & Shapiro Griersmith 2012
        self.sigma_R = np.minimum(at * np.exp(1 - R / (2 * r_d)), 0.6 * np.sqrt(self.v2))
        self.mass = spheres + self.stars.ball(r) + self.gas.ball(r)
        inside = cumulative_simpson(G * self.mass / r, x=np.log(r), initial=0)
        self.psi = G * self.mass[-1] / r[-1] + inside[-1] - inside
        self.warp, self.wave = np.radians(min(rng.exponential(6), 20)), min(rng.exponential(0.04), 0.15)

    def streaming(self) -> np.ndarray:
        """Mean rotation [km/s] of the gas on R: what pressure leaves for it to carry in the plane."""
        pressure = self.gas.surface(self.R) * self.gas_sigma**2 / np.trapezoid(self.gas_layer, self.z)
        slope = np.gradient(np.log(np.maximum(pressure, 1e-200)), self.ln_R)
        return np.sqrt(np.maximum(self.v2 + self.gas_sigma**2 * slope, 0))

    def sphere(
        self, rho: np.ndarray, radius: np.ndarray, mass: np.ndarray, r_aniso: float, rng: np.random.Generator
    ) -> Particles:
        """Particles at radii (N,), with masses (N,), of a spherical density on r: velocities from its f(Q)."""
        f = np.log(np.maximum(eddington(self.r, rho, self.mass, self.psi, r_aniso), 1e-300))
        x = np.linspace(0, 1, 161)
        rows = slice(None, None, 4)
        q = self.psi[rows, None] * (1 - x**2)
        weight = x**2 * np.exp(np.interp(q, self.psi[::-1], f[::-1]) - f[rows, None])
        speed = draw(np.log(self.r[rows]), x, weight, np.log(radius), rng)
        speed *= np.sqrt(2 * np.interp(radius, self.r, self.psi))
        outwards, way = (v / np.linalg.norm(v, axis=1)[:, None] for v in rng.standard_normal((2, radius.size, 3)))
        along = np.sum(way * outwards, axis=1)[:, None] * outwards
        vel = speed[:, None] * (along + (way - along) / np.sqrt(1 + (radius / r_aniso) ** 2)[:, None])
        return Particles(radius[:, None] * outwards, vel, mass)

    def bulge_and_dark(self, n_bulge: int, n_dark: int, rng: np.random.Generator) -> tuple[Particles, Particles]:
        """The bulge, and a halo whose particles are lighter inside."""
        radius = np.interp(even(n_bulge, rng) * self.bulge_mass[-1], self.bulge_mass, self.r)
        equal = np.full(n_bulge, self.bulge_msun / max(n_bulge, 1))
        bulge = self.sphere(self.bulge_rho, radius, equal, self.r_aniso, rng)
        # f(E, L) knows no sense of rotation: some orbits are run the other way.
        spin = bulge.pos_kpc[:, 0] * bulge.vel_kms[:, 1] - bulge.pos_kpc[:, 1] * bulge.vel_kms[:, 0]
        bulge.vel_kms[(spin < 0) & (rng.random(n_bulge) < self.spin)] *= -1
        crowd = cumulative_trapezoid((self.r**3 * self.dark_rho) ** (1 / 3), np.log(self.r), initial=0)
        radius, mass = fine_inside(n_dark, self.r, self.dark_mass, crowd, rng)
        return bulge, self.sphere(self.dark_rho, radius, mass, np.inf, rng)

    def disc(self, n: int, rng: np.random.Generator) -> Particles:
        """The stellar disc: stars at random times of orbits in the plane, isothermal across it."""
        share = self.stars.enclosed(self.R) / self.stars.terms[0][0]
        v2 = CubicSpline(self.ln_R, self.v2)
        phi = v2.antiderivative()
        u = even(2 * n, rng)
        guide = np.interp(u, share, self.ln_R)
        ang2 = v2(guide) * np.exp(2 * guide)
        radial = rng.exponential(size=u.size) * np.interp(guide, self.ln_R, self.sigma_R) ** 2
        energy = phi(guide) + 0.5 * ang2 * np.exp(-2 * guide) + radial

        def kinetic(ln_R: np.ndarray, of: slice | np.ndarray = np.s_[:]) -> np.ndarray:
            """Return v_R^2 / 2 (N,) [(km/s)^2] of the orbits `of` at radii exp(ln_R); below zero beyond their ends."""
            return np.asarray(energy[of] - phi(ln_R) - 0.5 * ang2[of] * np.exp(-2 * ln_R))

        ends = []
        for edge in (self.ln_R[0], self.ln_R[-1]):  # peri- and apocentre by bisection
            free, bound = guide, np.full_like(guide, edge)
            for _ in range(17):
                middle = 0.5 * (free + bound)
                moving = kinetic(middle) > 0
                free, bound = np.where(moving, middle, free), np.where(moving, bound, middle)
            ends.append(np.exp(free))
        middle, reach = 0.5 * (ends[1] + ends[0]), 0.5 * (ends[1] - ends[0])
        steps = 16
        angle = np.pi * (np.arange(steps) + 0.5)[:, None] / steps
        speed2 = kinetic(np.log(middle - reach * np.cos(angle)))
        time = np.sin(angle) / np.sqrt(np.maximum(speed2, 1e-3 * radial))
        passed = np.cumsum(time, axis=0) / np.sum(time, axis=0)
        angle = np.pi / steps * (np.sum(passed < rng.random(u.size), axis=0) + rng.random(u.size))
        R = middle - reach * np.cos(angle)
        # Orbits are weighted until their sum is the exponential disc (Richardson 1972, Lucy 1974).
        bins = 40
        seen = np.interp(np.log(R), self.ln_R, share)
        kernel, _, _ = np.histogram2d(seen, u, bins=bins, range=((0, 1), (0, 1)))
        kernel /= kernel.sum(axis=0)
        weight = np.ones(bins)
        for _ in range(30):
            weight *= kernel.T @ (1 / np.maximum(kernel @ weight, 1e-3))
        order = np.argsort(R)
        total = np.cumsum(np.interp(u, (np.arange(bins) + 0.5) / bins, weight)[order])
        pick = order[np.searchsorted(total, even(n, rng) * total[-1])]
        R, at = R[pick], np.log(R[pick])
        v_R = np.sqrt(2 * np.maximum(kinetic(at, pick), 0)) * rng.choice([-1, 1], n)
        sigma_z = np.interp(at, self.ln_R, self.sigma_z)
        z = draw(self.ln_R, self.z, np.exp(-self.lift / self.sigma_z[:, None] ** 2), at, rng) * rng.choice([-1, 1], n)
        mass = np.full(n, self.stars.terms[0][0] / max(n, 1))
        vel = np.stack([v_R, np.sqrt(ang2[pick]) / R, sigma_z * rng.standard_normal(n)])
        return around(R, rng.uniform(0, 2 * np.pi, n), z, vel, mass)

    def gas_disc(self, n: int, rng: np.random.Generator) -> Particles:
        """The gas, lighter particles inside, with the lopsided wave and the warp; kernels reach the 32nd neighbour."""
        share = self.gas.enclosed(self.R)
        crowd = cumulative_trapezoid(1 / (1 + (self.R / (3 * self.r_d)) ** 2), share, initial=0)
        R, mass = fine_inside(n, self.R, share, crowd, rng)
        at = np.log(R)
        z = draw(self.ln_R, self.z, self.gas_layer, at, rng) * rng.choice([-1, 1], n)
        vel = np.interp(at, self.ln_R, self.gas_sigma) * rng.standard_normal((3, n))
        mean = np.interp(at, self.ln_R, self.streaming())
        # Closed lopsided orbits, all to one side: forced epicycles of m = 1 (B&T sec. 6.2.1).
        kappa = np.sqrt(np.maximum(2 + np.gradient(np.log(self.v2), self.ln_R), 1.0) * self.v2) / self.R
        kappa = np.interp(at, self.ln_R, kappa)
        phi = rng.uniform(0, 2 * np.pi, n)
        wave = self.wave * np.clip(R / self.r_d, 0, 1)
        moved = R * (1 - wave * np.cos(phi))
        vel[0] += kappa * R * wave * np.sin(phi)
        vel[1] += mean * R / moved
        phi += 2 * np.divide(mean, kappa * R) * wave * np.sin(phi)
        gas = around(moved, phi, z, vel, mass)
        # Outside 3 R_d rings tilt about one line, at 6 R_d by the whole angle (Briggs 1990).
        tilt = self.warp * np.clip(R / (3 * self.r_d) - 1, 0, 1)
        node = rng.uniform(0, 2 * np.pi)
        turn = Rotation.from_rotvec(tilt[:, None] * [np.cos(node), np.sin(node), 0])
        pos = turn.apply(gas.pos_kpc)
        return Particles(pos, turn.apply(gas.vel_kms), gas.mass_msun, cKDTree(pos).query(pos, [33])[0][:, 0])


def around(R: np.ndarray, phi: np.ndarray, z: np.ndarray, vel: np.ndarray, mass_msun: np.ndarray) -> Particles:
    """Particles at cylindrical coordinates (N,), with velocities along R, phi, z (3, N)."""
    cos, sin = np.cos(phi), np.sin(phi)
    pos = np.stack([R * cos, R * sin, z], axis=1)
    vel = np.stack([vel[0] * cos - vel[1] * sin, vel[0] * sin + vel[1] * cos, vel[2]], axis=1)
    return Particles(pos, vel, mass_msun)


def make(family: str, index: int, seed: int) -> tuple[Galaxy, Model, np.random.Generator]:
    """Galaxy number `index` of a suite at the origin, its discs in the x-y plane; more random numbers of its own."""
    rng = np.random.default_rng([seed, list(SUITES).index(family), index])
    model = Model(family, rng)
    n_bulge = round(N_STARS * model.bulge_msun / model.star_msun)
    bulge, dark = model.bulge_and_dark(n_bulge, N_DARK, rng)
    stars = concatenate([bulge, model.disc(N_STARS - n_bulge, rng)])
    return Galaxy(stars, model.gas_disc(N_GAS, rng), dark, empty()), model, rng


def write(folder: Path, family: str, index: int, seed: int) -> None:
    """One galaxy as GIZMO writes it, z = 0, turned at random, with a table of its centre beside it."""
    path = folder / f"{family}_{index:05d}.hdf5"
    if path.exists():
        return
    galaxy, model, rng = make(family, index, seed)
    turn = Rotation.random(rng=rng)
    stars, gas, dark = (
        Particles(turn.apply(p.pos_kpc), turn.apply(p.vel_kms), p.mass_msun, p.support_kpc)
        for p in (galaxy.stars, galaxy.gas, galaxy.dark)
    )
    centre = rng.uniform(0, BOX_KPC, 3)
    columns = {"x": [centre[0]], "y": [centre[1]], "z": [centre[2]], "r200": [model.r200]}
    table = Table({"id": [0], **columns}, units=dict.fromkeys(columns, "kpc"))
    with aside(path.with_suffix(".ecsv")) as partial:
        table.write(partial, format="ascii.ecsv")
    with aside(path) as partial:
        member = (Galaxy(stars, gas, dark, empty()), centre, rng.normal(0, 150, 3))
        gadget.write(partial, [member], BOX_KPC, 1.0, HUBBLE, "gizmo")


def main() -> None:
    """Make the galaxies that are missing, with a suite file beside each suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("second"), help="folder for a folder of each suite")
    parser.add_argument("--galaxies", type=int, default=240, help="galaxies of each suite")
    parser.add_argument("--seed", type=int, default=1, help="other seeds make other galaxies (default: %(default)s)")
    args = parser.parse_args()
    todo = [(family, index) for family in SUITES for index in range(args.galaxies)]
    for family in SUITES:
        folder = args.out / family
        folder.mkdir(parents=True, exist_ok=True)
        text = f"name: {family}\nformat: gizmo\nsnapshots: {family}_*.hdf5\naperture: {{r200: 0.3}}\n"
        write_atomically(folder / f"{family}.yaml", text + "catalogue: {format: table, path: '{stem}.ecsv'}\n")
    for family, index in progress_bar(todo, desc="galaxies", unit="gal"):
        write(args.out / family, family, index, args.seed)


if __name__ == "__main__":
    main()
