"""Published scaling relations from which the mock suites draw their galaxies (all at z = 0)."""

import numpy as np
from scipy.integrate import cumulative_trapezoid

from kinmass.gen.constants import GYR_PER_KPC_KMS, RHO_CRIT, G

#: Cosmic baryon fraction (Planck 2015).
BARYON_FRACTION = 0.157


def r200_kpc(m200_msun: float) -> float:
    """Radius [kpc] inside which the mean density is 200 times critical."""
    return float((3 * m200_msun / (4 * np.pi * 200 * RHO_CRIT)) ** (1 / 3))


def concentration(m200_msun: float) -> float:
    """Median c200 of relaxed NFW haloes: Dutton & Maccio 2014, eq. 8 (scatter 0.11 dex)."""
    return float(10 ** (0.905 - 0.101 * np.log10(m200_msun * 0.671 / 1e12)))


def stellar_mass(m200_msun: float) -> float:
    """Median stellar mass [Msun] of a halo: Moster et al. 2013, eq. 2 and table 1 (scatter 0.15 dex)."""
    x = m200_msun / 10**11.590
    return float(2 * 0.0351 * m200_msun / (x**-1.376 + x**0.608))


def gas_mass(mstar_msun: float) -> float:
    """Median atomic gas mass [Msun], helium included: Bradford, Geha & Blanton 2015, eq. 5-6."""
    log10_mstar = np.log10(mstar_msun)
    return float(10 ** (1.052 * log10_mstar + 0.236 if log10_mstar < 8.6 else 0.461 * log10_mstar + 5.329))


def size_shen2003(mstar_msun: float) -> float:
    """Half-mass radius [kpc] of late types: Shen et al. 2003, eq. 18 and table 1."""
    return float(0.1 * mstar_msun**0.14 * (1 + mstar_msun / 3.98e10) ** 0.25)


def size_shen2003_early(mstar_msun: float) -> float:
    """Half-mass radius [kpc] of early types: Shen et al. 2003, eq. 17 and table 1 (Sersic half-light radii)."""
    return float(2.88e-6 * mstar_msun**0.56)


def size_kravtsov2013(m200_msun: float) -> float:
    """Half-mass radius [kpc] = 0.015 R200: Kravtsov 2013, eq. 4 (scatter 0.2 dex)."""
    return 0.015 * r200_kpc(m200_msun)


def size_vanderwel2014(mstar_msun: float) -> float:
    """Half-mass radius [kpc] of late types at z = 0.25: van der Wel et al. 2014, table 1 (0.16 dex)."""
    return float(10**0.86 * (mstar_msun / 5e10) ** 0.25)


def nfw_mass(r_kpc: np.ndarray, m200_msun: float, c: float) -> np.ndarray:
    """NFW M(<r) [Msun] (Navarro, Frenk & White 1997) at radii of any shape."""
    x = np.asarray(r_kpc) * c / r200_kpc(m200_msun)
    return m200_msun * (np.log1p(x) - x / (1 + x)) / (np.log1p(c) - c / (1 + c))


def dc14_mass(r_kpc: np.ndarray, m200_msun: float, c: float, mstar_msun: float) -> np.ndarray:
    """M(<r) [Msun] of a halo reshaped by bursty feedback: Di Cintio et al. 2014, eq. 3 and 6.

    r_kpc: (K,) increasing and fine enough to integrate on (logarithmic, from deep inside the
    core to beyond R200). The fit holds for -4.1 < log10(M*/M200) < -1.3; outside, the nearest
    edge is used. Normalised to m200_msun inside R200.
    """
    x = float(np.clip(np.log10(mstar_msun / m200_msun), -4.1, -1.3))
    alpha = 2.94 - np.log10(10 ** (-1.08 * (x + 2.33)) + 10 ** (2.29 * (x + 2.33)))
    beta = 4.23 + 1.34 * x + 0.26 * x**2
    gamma = -0.06 + np.log10(10 ** (-0.68 * (x + 2.56)) + 10 ** (x + 2.56))
    c_sph = c * (1 + 3e-5 * np.exp(3.4 * (x + 4.5)))
    r_scale = r200_kpc(m200_msun) / c_sph / ((2 - gamma) / (beta - 2)) ** (1 / alpha)
    s = r_kpc / r_scale
    shell = r_kpc**3 * s**-gamma * (1 + s**alpha) ** ((gamma - beta) / alpha)  # dM/dlnr, unnormalised
    inner = shell[0] / (3 - gamma)  # rho ~ r^-gamma inside the first radius
    mass = inner + cumulative_trapezoid(shell, np.log(r_kpc), initial=0)
    return m200_msun * mass / np.interp(r200_kpc(m200_msun), r_kpc, mass)


def core_nfw_mass(r_kpc: np.ndarray, m200_msun: float, c: float, r_half_kpc: float, t_sf_gyr: float) -> np.ndarray:
    """M(<r) [Msun] of an NFW halo whose cusp star formation has partly melted: Read et al. 2016, eq. 16-20.

    r_half_kpc: projected stellar half-mass radius; t_sf_gyr: how long stars have formed.
    """
    r_s = r200_kpc(m200_msun) / c
    t_dyn_gyr = 2 * np.pi * np.sqrt(r_s**3 / (G * float(nfw_mass(np.array(r_s), m200_msun, c)))) * GYR_PER_KPC_KMS
    n = np.tanh(0.04 * t_sf_gyr / t_dyn_gyr)
    return nfw_mass(r_kpc, m200_msun, c) * np.tanh(r_kpc / (1.75 * r_half_kpc)) ** n


def contracted_mass(dmo_msun: np.ndarray, baryons_msun: np.ndarray) -> np.ndarray:
    """Dark M(<r) [Msun] after baryons condensed: Cautun et al. 2020, eq. 11.

    dmo_msun: (K,) total M(<r) of the dark-matter-only halo; baryons_msun: (K,) M(<r) of stars and gas.
    """
    eta = baryons_msun / (BARYON_FRACTION * dmo_msun)
    return (1 - BARYON_FRACTION) * dmo_msun * (0.45 + 0.38 * (eta + 1.16) ** 0.53)
