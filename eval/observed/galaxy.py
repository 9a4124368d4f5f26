"""An observed galaxy: its maps as pixels on the sky, and what is known of it. A YAML file describes it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kinmass.eval.observed.galaxy_file import GalaxyFile
from kinmass.eval.observed.sky import SkyMap
from kinmass.eval.observed.tracer import read_tracer
from kinmass.gen.yamlfile import read_checked


@dataclass(frozen=True)
class ObservedGalaxy:
    """A galaxy's maps and what is known of it. Densities are in Msun/kpc^2 where `calibrated` names the tracer.

    remarks are sentences on how the maps were read, which the result repeats.

    Raises ValueError for a distance or radius that is none.
    """

    name: str
    distance_mpc: float
    half_light_radius_arcsec: float
    gas: SkyMap | None = None
    stars: SkyMap | None = None
    distance_error_mpc: float = 0.0
    half_light_radius_error_arcsec: float = 0.0
    centre_error_arcsec: float = 0.0
    calibrated: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("distance_mpc", "half_light_radius_arcsec"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("distance_error_mpc", "half_light_radius_error_arcsec", "centre_error_arcsec"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")

    def maps(self) -> dict[str, SkyMap]:
        """The tracers that were observed."""
        return {name: sky for name in ("stars", "gas") if (sky := getattr(self, name)) is not None}


def read_galaxy(path: Path) -> ObservedGalaxy:
    """The galaxy that a YAML file describes; files are looked for beside it.

    Raises ValueError in one sentence for a file that is damaged, of another shape or empty, or OSError.
    """
    about = read_checked(path, GalaxyFile)
    found: dict[str, SkyMap] = {}
    calibrated, remarks = set(), []
    for tracer in ("gas", "stars"):
        if (files := getattr(about, tracer)) is None:
            continue
        try:
            found[tracer], known, said = read_tracer(files, path.parent, about)
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            raise ValueError(f"{path}: {tracer}: {error}") from error
        if known:
            calibrated.add(tracer)
        remarks += said
    return ObservedGalaxy(
        about.name, about.distance_mpc, about.half_light_radius_arcsec, found.get("gas"), found.get("stars"),
        about.distance_error_mpc, about.half_light_radius_error_arcsec, about.centre_error_arcsec,
        frozenset(calibrated), tuple(remarks),
    )  # fmt: skip
