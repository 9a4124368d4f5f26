"""Three mock suites that differ as feedback models do, one of early types, and the galaxies drawn from them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kinmass.gen.constants import G
from kinmass.gen.mock import relations
from kinmass.gen.mock.disturb import Disturbance, disturb_gas, disturb_stars
from kinmass.gen.mock.galaxy import MockGalaxy, Structure
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty

Range = tuple[float, float]


@dataclass(frozen=True)
class MockSuite:
    """Distributions from which the galaxies of one suite are drawn.

    Ranges are uniform; fields in `_dex` are the standard deviations of normal distributions in log10.
    """

    name: str
    log10_m200: Range
    halo: str
    size_kpc: Callable[[float, float], float]  # (M200, Mstar) in Msun -> half-mass radius
    size_dex: float
    mstar_dex: float
    gas_factor: float  # on the median gas mass of Bradford et al. 2015
    gas_size: float  # gas scale over stellar scale; 2.6 in Kravtsov 2013
    bulge_fraction: Range
    bulge_size: Range  # bulge half-mass radius over the galaxy's
    bulge_sersic: Range
    thickness: Range  # z0 over the disc's scale length
    gas_sigma_kms: Range
    disorder: float  # multiplies every disturbance
    gas_dex: float = 0.2
    gas_size_dex: float = 0.12
    bulge_aniso: Range = (1.5, 6.0)  # Osipkov-Merritt radius over the bulge's half-mass radius
    bulge_spin: Range = (0.0, 0.6)
    gas_hole: Range = (0.0, 0.0)  # radius of the central hole over the gas scale, in `holed` of the galaxies
    holed: float = 0.0
    clumpiness: Range = (0.0, 0.0)


SUITES = {
    # Bursty feedback: cored haloes, puffy and dispersion-supported stars, turbulent disturbed gas.
    "bursty": MockSuite(
        "bursty", (10.3, 12.0), "dc14", lambda m200, mstar: relations.size_kravtsov2013(m200), 0.20, 0.20,
        1.0, 1.7, (0.2, 0.8), (0.7, 1.3), (0.8, 2.0), (0.30, 0.60), (12.0, 25.0), 1.0,
    ),
    # Quiet feedback: contracted cuspy haloes, thin discs with compact bulges, large calm gas discs.
    "quiet": MockSuite(
        "quiet", (11.2, 12.6), "contracted", lambda m200, mstar: relations.size_shen2003(mstar), 0.15, 0.12,
        1.2, 2.6, (0.05, 0.5), (0.2, 0.5), (1.5, 4.0), (0.10, 0.20), (7.0, 12.0), 0.3,
    ),
    # In between, with its own size-mass relation and gas fractions.
    "middle": MockSuite(
        "middle", (10.8, 12.4), "core_nfw", lambda m200, mstar: relations.size_vanderwel2014(mstar), 0.16, 0.15,
        0.7, 2.1, (0.05, 0.7), (0.3, 0.9), (1.0, 3.0), (0.15, 0.35), (9.0, 16.0), 0.6,
    ),
    # Early types, as IFU surveys of lenticulars and ellipticals see them: Sersic spheroids on radial orbits, of 100 to
    # 350 km/s, that hardly rotate (Emsellem et al. 2011), with small discs; a few per cent of a spiral's gas (Young et
    # al. 2011), as compact as the stars or in rings, patchy, one-sided and often misaligned (Davis et al. 2011, 2013).
    "early": MockSuite(
        "early", (11.8, 13.6), "contracted", lambda m200, mstar: relations.size_shen2003_early(mstar), 0.15, 0.15,
        0.05, 0.7, (0.6, 0.97), (0.8, 1.2), (2.0, 6.0), (0.15, 0.30), (6.0, 20.0), 1.5,
        gas_dex=0.5, gas_size_dex=0.3, bulge_aniso=(1.0, 6.0), bulge_spin=(0.0, 0.5), gas_hole=(0.3, 1.5), holed=0.5,
        clumpiness=(0.0, 0.9),
    ),
}  # fmt: skip


def draw(suite: MockSuite, rng: np.random.Generator) -> tuple[Structure, Disturbance]:
    """Draw the structure and the disturbances of one galaxy."""
    m200 = 10 ** rng.uniform(*suite.log10_m200)
    mstar = relations.stellar_mass(m200) * 10 ** rng.normal(0, suite.mstar_dex)
    half_mass_kpc = suite.size_kpc(m200, mstar) * 10 ** rng.normal(0, suite.size_dex)
    disc_scale_kpc = half_mass_kpc / 1.678
    bulge_re = half_mass_kpc * rng.uniform(*suite.bulge_size)
    mgas = suite.gas_factor * relations.gas_mass(mstar) * 10 ** rng.normal(0, suite.gas_dex)
    # Turbulence of more than 0.3 of the circular velocity would disperse the disc.
    v200 = np.sqrt(G * m200 / relations.r200_kpc(m200))
    structure = Structure(
        m200_msun=m200,
        concentration=relations.concentration(m200) * 10 ** rng.normal(0, 0.11),
        halo=suite.halo,
        t_sf_gyr=rng.uniform(1, 5),
        mstar_msun=mstar,
        bulge_fraction=rng.uniform(*suite.bulge_fraction),
        bulge_re_kpc=bulge_re,
        bulge_sersic=rng.uniform(*suite.bulge_sersic),
        bulge_aniso_kpc=bulge_re * rng.uniform(*suite.bulge_aniso),
        bulge_spin=rng.uniform(*suite.bulge_spin),
        disc_scale_kpc=disc_scale_kpc,
        disc_height_kpc=disc_scale_kpc * rng.uniform(*suite.thickness),
        disc_sigma_z_over_R=rng.uniform(0.5, 0.8),
        mgas_msun=min(mgas, 0.8 * relations.BARYON_FRACTION * m200),
        gas_scale_kpc=disc_scale_kpc * suite.gas_size * 10 ** rng.normal(0, suite.gas_size_dex),
        gas_sigma_kms=min(rng.uniform(*suite.gas_sigma_kms), 0.3 * v200),
    )
    disorder = suite.disorder
    disturbance = Disturbance(
        misalignment_deg=min(rng.exponential(12 * disorder), 60.0),
        warp_deg=rng.exponential(12 * disorder),
        lopsidedness=min(rng.exponential(0.25 * disorder), 0.8),
        bar=rng.uniform(0, 0.5) if rng.random() < 0.4 else 0.0,
        flow=rng.normal(0, 0.08 * disorder),
        sloshing=rng.exponential(0.05 * disorder),
        holes=int(rng.poisson(4 * disorder)),
    )
    if suite.holed:
        hole = rng.uniform(*suite.gas_hole) if rng.random() < suite.holed else 0.0
        structure = replace(structure, gas_hole_kpc=hole * structure.gas_scale_kpc)
        disturbance = replace(disturbance, clumpiness=rng.uniform(*suite.clumpiness), clumps=int(rng.integers(3, 12)))
    return structure, disturbance


def rng_of(seed: int, suite: str, index: int) -> np.random.Generator:
    """Generator of the random numbers of one mock galaxy, which depend on (seed, suite, index) only."""
    return np.random.default_rng([seed, list(SUITES).index(suite), index])


Count = int | tuple[int, int]


def particles_of(count: Count, seed: int, suite: str, index: int, component: int) -> int:
    """How many particles a galaxy has of one component: a number, or one drawn evenly in log from a range."""
    if isinstance(count, int):
        return count
    rng = np.random.default_rng([seed, list(SUITES).index(suite), index, 4_001 + component])
    return round(float(np.exp(rng.uniform(*np.log(count)))))


def make_galaxy(
    suite: str, index: int, seed: int, n_stars: Count = 20_000, n_gas: Count = 10_000, n_dark: Count = 20_000
) -> tuple[Galaxy, MockGalaxy]:
    """Galaxy number `index` of a suite, centred and at rest, randomly oriented, and its smooth model.

    Numbers of particles may be ranges (low, high), from which each galaxy draws its own.
    """
    n_stars, n_gas, n_dark = (
        particles_of(count, seed, suite, index, i) for i, count in enumerate((n_stars, n_gas, n_dark))
    )
    rng = rng_of(seed, suite, index)
    structure, disturbance = draw(SUITES[suite], rng)
    model = MockGalaxy(structure)
    parts = model.sample(n_stars, n_gas, n_dark, rng)
    r_gas_kpc = 2 * structure.gas_scale_kpc
    v_circ_kms = float(np.sqrt(G * model.potential.menc(np.array(r_gas_kpc)) / r_gas_kpc))
    disc = disturb_stars(parts["disc"], disturbance, structure.disc_scale_kpc, rng)
    gas = disturb_gas(parts["gas"], disturbance, structure.gas_scale_kpc, v_circ_kms, rng)
    stars = concatenate([parts["bulge"], disc])
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)

    def rotated(p: Particles) -> Particles:
        """Turn particles as the whole galaxy is turned."""
        return Particles(p.pos_kpc @ rotation.T, p.vel_kms @ rotation.T, p.mass_msun, p.support_kpc)

    return Galaxy(rotated(stars), rotated(gas), rotated(parts["dark"]), empty()), model
