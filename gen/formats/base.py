"""What every snapshot format has to say about itself."""

import struct
import traceback
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kinmass.gen.formats.sample import Sample
from kinmass.gen.formats.smoothing import SMOOTHING, Smoothing


class SnapshotError(ValueError):
    """A file that cannot be read as what it is said to be: the message says which, why and what to do."""


#: What reads files: errors raised in there may be of any type.
_READERS = ("h5py", "yt", "astropy", "unyt", "pandas")
#: What bytes that are not what they should be raise in our own readers.
_OF_BYTES = (OSError, EOFError, ValueError, LookupError, ArithmeticError, MemoryError, struct.error)


def is_the_files(error: BaseException) -> bool:
    """Whether a damaged file may be behind an exception: by what raised it, numerical libraries not counted.

    In libraries that read files that is any but a missing module, in our own readers what bytes can
    lead to. Everything else is a fault of the program.
    """
    if isinstance(error, ImportError | NotImplementedError):
        return False
    if isinstance(error, OSError | EOFError | UnicodeError | struct.error | MemoryError):
        return True
    raised_in = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in ("numpy", "scipy", "contextlib"):
            raised_in = name
    if raised_in.partition(".")[0] in _READERS:
        return True
    return raised_in.startswith(("kinmass.gen.formats.", "kinmass.gen.catalogues.")) and isinstance(error, _OF_BYTES)


@contextmanager
def reading(path: Path, what: str = "") -> Iterator[None]:
    """What a file makes go wrong inside, as a SnapshotError that names it; faults of the program pass as they are."""
    try:
        yield
    except SnapshotError as error:
        raise error if str(path.parent) in str(error) else SnapshotError(f"{path}: {error}") from error
    except Exception as error:
        if not is_the_files(error):
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise SnapshotError(
            f"{path}: cannot be read{what} ({why[:300]}); missing, cut short, damaged or of another format?"
        ) from error


@dataclass(frozen=True)
class CodeUnits:
    """What one code unit is worth, factors of a and h included, and the box it lives in.

    source says where each came from; box_kpc is the physical side at the snapshot's time, None where
    space is not periodic; corner_kpc is the coordinate at which the box begins; energy_kms2 is the
    unit of specific internal energy; box_given tells that the suite file has the last word on the box.
    """

    length_kpc: float
    mass_msun: float
    velocity_kms: float
    box_kpc: float | None
    scale_factor: float = 1.0
    hubble: float = 1.0
    source: str = ""
    corner_kpc: float = 0.0
    energy_kms2: float = 1.0
    cosmological: bool = True
    box_given: bool = False


#: Positions that leave the box by no more than this share of it are on its face: single precision.
ON_THE_FACE = 1e-6
#: Positions that span more than this share of the box are not those of a periodic box of that side.
WIDEST = 1.01
#: Positions that fill a cube from the box's corner to less than this share are of another box: no cutout begins there.
FULLEST = 0.98


def settled_box(path: Path, units: CodeUnits, extents_kpc: dict[str, np.ndarray]) -> CodeUnits:
    """The units with the header's box as the positions bear it out; extents_kpc: (2, 3) of each particle type.

    A run that is not cosmological and leaves its box is not periodic: codes write a BoxSize all the same.
    Raises SnapshotError where positions cannot be those of a periodic box of that side, unless the
    suite file gives it.
    """
    if units.box_kpc is None or not extents_kpc:
        return units
    box, corner = units.box_kpc, units.corner_kpc
    outside = {t: max(*(corner - low), *(high - corner - box)) for t, (low, high) in extents_kpc.items()}
    if not (units.cosmological or units.box_given) and max(outside.values()) > ON_THE_FACE * box:
        why = f"its box of {box:.6g} kpc is left by positions and not used, for it is not cosmological"
        return replace(units, box_kpc=None, source=f"{units.source}; {why}")
    hint = "check BoxSize and the length unit, or give `units: {box: none}` or its side in the suite file"
    for ptype, (low, high) in extents_kpc.items():
        if outside[ptype] > box:
            raise SnapshotError(f"{path}: positions more than a box outside the box in {ptype}/Coordinates; {hint}")
        if (span := (high - low).max()) > WIDEST * box and not units.box_given:
            raise SnapshotError(f"{path}: {ptype}/Coordinates span {span:.6g} kpc in a box of {box:.6g} kpc; {hint}")
    whole = np.array(list(extents_kpc.values()))
    low, high = whole[:, 0].min(axis=0) - corner, whole[:, 1].max(axis=0) - corner
    side = high.max()
    if side < FULLEST * box and max(*abs(low), *(side - high)) < 5e-3 * side and not units.box_given:
        raise SnapshotError(
            f"{path}: positions fill a cube of {side:.6g} kpc from the corner of a box of {box:.6g} kpc; {hint}"
        )
    return units


#: What to do about a header that a run without expansion has kept from a cosmological one.
NOT_COSMOLOGICAL = ", or give `units: {cosmological: false}` in the suite file if the run is not cosmological"


def check_cosmology(path: Path, scale_factor: float, hubble: float) -> None:
    """Raises SnapshotError for a scale factor outside (0.001, 10] or h outside (0.1, 10]: a damaged header."""
    if not 1e-3 < scale_factor <= 10:
        raise SnapshotError(
            f"{path}: its header says scale factor a = {scale_factor:.4g}; check Time and Redshift{NOT_COSMOLOGICAL}"
        )
    if not 0.1 < hubble <= 10:
        raise SnapshotError(f"{path}: its header says h = {hubble:.4g}; check HubbleParam (or dHubble0 and the units)")


class Format(ABC):
    """One family of snapshot files.

    `components` maps gas, stars, dark and black_holes to the particle types that make them up
    unless the suite file says otherwise; `mass` names the field as yt sees it. Whatever box a staged
    file claims yt never uses (gen.formats.domain). `container` is how its files are told from others
    (gen.formats.recognise). `formed` names the field that tells stars from what only goes as stars:
    `disguised`, a component or a type of its own.
    """

    name: ClassVar[str]
    container: ClassVar[str] = "hdf5"
    formed: ClassVar[str] = "GFM_StellarFormationTime"
    disguised: ClassVar[str] = "gas"
    components: ClassVar[dict[str, list[str]]]
    mass: ClassVar[str] = "Masses"
    corner: ClassVar[float] = 0.0  # the coordinate at which a box begins, in sides of it

    @abstractmethod
    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """Make the snapshot readable for yt inside the scratch folder; where is the result.

        yt writes index files beside what it opens: archives stay untouched. light names a dataset
        (`Name` or `Name[column]`) to be seen as the field `Light`. Raises SnapshotError for a file
        that is missing, cut short or no snapshot.
        """

    @abstractmethod
    def sample(self, staged: Path, most: int, types: Collection[str] | None = None) -> dict[str, Sample]:
        """Headers and a bounded look at a staged snapshot: about `most` particles of each type (of `types` alone)."""

    @abstractmethod
    def load(self, staged: Path) -> Any:
        """The yt dataset of a staged snapshot."""

    def units(self, path: Path, given: dict[str, Any]) -> CodeUnits:
        """Code units from the file, with what the suite file gives (the keys of gen.suite.Units) taking precedence.

        Raises SnapshotError where they are missing, contradict themselves, or are no positive numbers.
        """
        with self._or_what_it_is(path), reading(path):
            units = self._units(path, given)
        if said := [f"{key}: {str(given[key]).lower()}" for key in ("box", "cosmological") if key in given]:
            units = replace(units, source=f"{units.source}; {', '.join(said)} by the suite file")
        if (side := given.get("box")) == "none":
            units = replace(units, box_kpc=None, box_given=True)
        elif side is not None:
            box = side * units.scale_factor
            units = replace(units, box_kpc=box, corner_kpc=self.corner * box, box_given=True)
        worth = {"length unit": units.length_kpc, "mass unit": units.mass_msun, "velocity unit": units.velocity_kms}
        for name, value in {**worth, "box side": 1.0 if units.box_kpc is None else units.box_kpc}.items():
            if not (np.isfinite(value) and value > 0):
                raise SnapshotError(f"{path}: its {name} comes out as {value:.4g}; check the attributes that say so")
        return units

    @abstractmethod
    def _units(self, path: Path, given: dict[str, Any]) -> CodeUnits: ...

    def types(self, path: Path) -> set[str]:
        """The particle types that the header says the snapshot has; empty where it does not."""
        return set()

    def files(self, path: Path) -> list[Path]:
        """All files of the snapshot that `path` is the first of. Raises SnapshotError when one is missing."""
        return [path]

    @contextmanager
    def _or_what_it_is(self, path: Path) -> Iterator[None]:
        """Errors inside, in better words where the file is none of this format at all."""
        try:
            yield
        except SnapshotError as error:
            from kinmass.gen.formats.recognise import what_it_is_instead  # knows the formats, which are made of this

            if words := what_it_is_instead(path, self.container):
                raise SnapshotError(words) from error
            raise

    def are_stars(self, formed: np.ndarray) -> np.ndarray:
        """Which of the stars' types (N,) are stars, by when they formed (N,): AREPO's wind cells have not."""
        return formed > 0

    def promised(self, path: Path) -> dict[str, int]:
        """Particles of each type that the file's own header promises; empty where staging has seen to that."""
        return {}

    def smoothing(self, path: Path) -> Smoothing:
        """The convention of this file's smoothing lengths."""
        return SMOOTHING[self.name]
