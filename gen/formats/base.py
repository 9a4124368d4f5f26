"""What every snapshot format has to say about itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class SnapshotError(ValueError):
    """A file that cannot be read as what it is said to be: the message says which, why and what to do."""


@dataclass(frozen=True)
class CodeUnits:
    """What one code unit is worth, factors of a and h included, and the box it lives in.

    source says where each came from; box_kpc is None where space is not periodic; corner_kpc is
    the coordinate at which the box begins.
    """

    length_kpc: float
    mass_msun: float
    velocity_kms: float
    box_kpc: float | None
    scale_factor: float = 1.0
    hubble: float = 1.0
    source: str = ""
    corner_kpc: float = 0.0


class Format(ABC):
    """One family of snapshot files.

    `components` maps gas, stars, dark and black_holes to the particle types that make them up
    unless the suite file says otherwise; `position`, `velocity`, `mass` name the fields on disk.
    """

    name: ClassVar[str]
    components: ClassVar[dict[str, list[str]]]
    position: ClassVar[str] = "Coordinates"
    velocity: ClassVar[str] = "Velocities"
    mass: ClassVar[str] = "Masses"
    #: Volume of the smoothing kernel's support over the volume m / rho of a gas particle, and why.
    support_volumes: ClassVar[float]
    density: ClassVar[str] = "Density"
    smoothing: ClassVar[str | None] = None

    @abstractmethod
    def stage(self, path: Path, scratch: Path) -> Path:
        """Make the snapshot readable for yt inside the scratch folder; where is the result.

        yt writes index files beside what it opens: archives stay untouched. Raises SnapshotError
        for a file that is missing, cut short or no snapshot.
        """

    @abstractmethod
    def load(self, staged: Path) -> Any:
        """The yt dataset of a staged snapshot."""

    @abstractmethod
    def units(self, path: Path, given: dict[str, float]) -> CodeUnits:
        """Code units from the file's header, with what the suite file gives taking precedence."""

    def support(self, mass: np.ndarray, density: np.ndarray) -> np.ndarray:
        """Radius (N,) at which the kernel reaches zero, in code length, from code mass and density."""
        return np.cbrt(3 * self.support_volumes * mass / (4 * np.pi * density))
