"""The table of smoothing-length conventions: from the stored length to the radius where the kernel vanishes."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Smoothing:
    """How a format's gas particles get their kernel support H.

    factor is H over the stored length (None: no length is stored, or the factor depends on the file's kernel);
    volumes is the volume of the support over m / rho, for files that have only a density; source is the reference;
    assumed says what is taken to hold because a file does not tell, '' where it does.
    """

    stores: str
    factor: float | None
    volumes: float | None
    source: str
    assumed: str = ""

    def from_density(self, mass: np.ndarray, density: np.ndarray) -> np.ndarray:
        """Return H (N,) in the code's length unit, from mass (N,) and density (N,) in code units."""
        return np.cbrt(3 * (self.volumes or 1.0) / (4 * np.pi) * mass / density)


SMOOTHING = {
    "tipsy": Smoothing("density", None, 32.0, "Wadsley et al. 2004, section 2: 32 neighbours in the support"),
    "gadget": Smoothing("H", 1.0, 32.0, "Springel 2005, eq. 4: the spline vanishes at the stored length"),
    "gadget_binary": Smoothing("H", 1.0, 32.0, "Springel 2005, eq. 4: the spline vanishes at the stored length"),
    "eagle": Smoothing("H", 1.0, 58.0, "Schaye et al. 2015, appendix A: GADGET's convention, 58 neighbours"),
    "arepo": Smoothing("density", None, 8.0, "a choice, yt's own: twice the radius of a sphere of the cell's volume"),
    "gizmo": Smoothing("H", 1.0, 32.0, "Hopkins 2015, section 2: the kernel's support, about 32 neighbours"),
    "simba": Smoothing("H", 1.0, 64.0, "Davé et al. 2019, section 2.1: GIZMO with 64 neighbours"),
    "swift": Smoothing("h = 2 sigma", None, None, "Dehnen & Aly 2012, table 1: H = gamma_K h by the file's kernel"),
}

#: H / h of SWIFT's `Kernel function`, h being twice the kernel's standard deviation (Dehnen & Aly 2012, table 1).
KERNEL_GAMMA = {
    "Cubic spline (M4)": 1.825742,
    "Quartic spline (M5)": 2.018932,
    "Quintic spline (M6)": 2.195775,
    "Wendland C2": 1.936492,
    "Wendland C4": 2.207940,
    "Wendland C6": 2.449490,
}


def swift_smoothing(gamma: float, eta: float) -> Smoothing:
    """Return SWIFT's row of the table for one kernel; h = eta (m / rho)^(1/3) (SWIFT's `Kernel eta`)."""
    return replace(SMOOTHING["swift"], factor=gamma, volumes=4 * np.pi / 3 * (gamma * eta) ** 3)


def as_markdown() -> str:
    """Return the table as docs/generation.md shows it."""
    lines = ["| format | stored | H / stored | support in m / rho | source |", "|---|---|---|---|---|"]
    for name, row in SMOOTHING.items():
        kernel = "gamma_K" if name == "swift" else "-"
        factor = f"{row.factor:g}" if row.factor else kernel
        volumes = f"{row.volumes:g}" if row.volumes else "4 pi/3 (gamma_K eta)^3"
        lines.append(f"| `{name}` | {row.stores} | {factor} | {volumes} | {row.source} |")
    gammas = ", ".join(f"{kernel} {gamma}" for kernel, gamma in KERNEL_GAMMA.items())
    return "\n".join([*lines, "", f"gamma_K: {gammas}."])
