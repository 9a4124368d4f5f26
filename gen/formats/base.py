"""The base class of all snapshot formats, their code units, and the errors that name the file at fault."""

import errno
import os
import re
import struct
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kinmass.gen.errors import NO_ROOM
from kinmass.gen.formats.sample import Sample
from kinmass.gen.formats.smoothing import SMOOTHING, Smoothing

#: Makes the context that a process holds while it reads bytes from the file system.
Slot = Callable[[], AbstractContextManager[None]]
#: One part of a snapshot's blocks by its number, and how many parts there are.
Part = tuple[int, int]


class SnapshotError(ValueError):
    """A file cannot be read as the format it is declared to be; the message names it, the cause and the remedy."""


#: Libraries that read files; damaged files make them raise errors of any type.
_READING_LIBRARIES = ("h5py", "yt", "astropy", "unyt", "pandas")
#: Errors that our own readers raise on damaged bytes.
_DAMAGE_ERRORS = (OSError, EOFError, ValueError, LookupError, ArithmeticError, MemoryError, struct.error)


def may_be_damaged_file(error: BaseException) -> bool:
    """Tell whether a damaged file may have caused an exception, by the module that raised it.

    Numerical libraries are skipped in the traceback. In libraries that read files every error counts
    except a missing module; in our own readers only the errors that damaged bytes can cause.
    All others are faults of the program.
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
    if raised_in.partition(".")[0] in _READING_LIBRARIES:
        return True
    return raised_in.startswith(("kinmass.gen.formats.", "kinmass.gen.catalogues.")) and isinstance(
        error, _DAMAGE_ERRORS
    )


def _errno_of(error: BaseException) -> int:
    """Return the system's number for what went wrong, 0 where an exception tells of none. HDF5 has it in its words."""
    if told := re.search(r"errno = (\d+)", str(error)):
        return int(told[1])
    return int(error.errno or 0) if isinstance(error, OSError) else 0


def _what_to_do(error: BaseException) -> str:
    """Say what an error in reading may come from, and what to do: the system may have failed, and not the file."""
    number = _errno_of(error)
    if "unable to lock file" in str(error):
        if number in (errno.EAGAIN, errno.EACCES):
            return "another program is writing it; wait until that has ended"
        return "its file system has no locks: set HDF5_USE_FILE_LOCKING=FALSE and give the same command again"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open at once: raise that limit (`ulimit -n`) and give the same command again"
    if number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO):
        return "its disk or file system has failed; give the same command again when it answers"
    return "missing, cut short, damaged or of another format? Check its path and format, or get it again"


@contextmanager
def reading(path: Path, purpose: str = "") -> Iterator[None]:
    """Turn errors that a file causes inside the block into a SnapshotError that names it.

    Faults of the program pass unchanged, and a full disk, of temporary files, is an OSError that names their folder.
    purpose ends the words "cannot be read", such as ` as HDF5`.
    """
    try:
        yield
    except SnapshotError as error:
        raise error if str(path.parent) in str(error) else SnapshotError(f"{path}: {error}") from error
    except Exception as error:
        if (errno_of_room := _errno_of(error)) in NO_ROOM:
            place = tempfile.gettempdir()  # nothing else is written while a snapshot is read
            raise OSError(errno_of_room, f"{os.strerror(errno_of_room)} while {path} was read", place) from error
        if not may_be_damaged_file(error):
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise SnapshotError(f"{path}: cannot be read{purpose} ({cause[:300]}); {_what_to_do(error)}") from error


@dataclass(frozen=True)
class CodeUnits:
    """The code units of a snapshot in kpc, Msun and km/s, factors of a and h included, and its periodic box.

    source says where the units came from. box_kpc is the physical side at the snapshot's time, None where space is not
    periodic; corner_kpc is the coordinate at which the box begins. energy_kms2 is the unit of specific internal energy.
    box_given tells that the suite file sets the box, is_region that the file says it is a part of one. factors: by what
    fields of the gas that are not in code units have to be multiplied. time is that of a run that is not cosmological,
    in whatever unit its file has; None where no file says it.
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
    is_region: bool = False
    factors: Mapping[str, float] = field(default_factory=dict)
    time: float | None = None

    @property
    def without_box(self) -> str:
        """Say that a run which expands does not tell its box, unless the suite file says that it has none; else ""."""
        return NO_BOX if self.cosmological and self.box_kpc is None and not self.box_given else ""


NO_BOX = (
    "cosmological without the side of a box, so taken as not periodic: a galaxy on its edge would lose a part; "
    "give `units: {box: ...}`, the side in comoving kpc without h, or `units: {box: none}`"
)


#: Positions outside the box by at most this share of its side lie on its face: single precision rounds.
FACE_TOLERANCE = 1e-6
#: Positions that span more than this multiple of the box side cannot lie in a periodic box of that side.
LARGEST_SPAN = 1.01
#: Positions that fill a cube which begins at the box's corner, but has less than this share of its side, belong to
#: another box: no cutout begins there.
SMALLEST_FILL = 0.98


def settled_box(path: Path, units: CodeUnits, extents_kpc: dict[str, np.ndarray]) -> CodeUnits:
    """Check the header's box against the positions and return the units with the box that holds.

    extents_kpc: lowest and highest position (2, 3) of each particle type. A run that is not cosmological
    and leaves its box is not periodic, although codes write a BoxSize. Raises SnapshotError where the
    positions cannot lie in a periodic box of that side, unless the suite file gives the box.
    """
    if units.box_kpc is None or not extents_kpc:
        return units
    box_kpc, corner_kpc = units.box_kpc, units.corner_kpc
    outside_kpc = {
        t: max(*(corner_kpc - low), *(high - corner_kpc - box_kpc)) for t, (low, high) in extents_kpc.items()
    }
    if not (units.cosmological or units.box_given) and max(outside_kpc.values()) > FACE_TOLERANCE * box_kpc:
        note = f"its box of {box_kpc:.6g} kpc is left by positions and not used, for it is not cosmological"
        return replace(units, box_kpc=None, source=f"{units.source}; {note}")
    hint = "check BoxSize and the length unit, or give `units: {box: none}` or its side in the suite file"
    for ptype, (low, high) in extents_kpc.items():
        if outside_kpc[ptype] > box_kpc:
            raise SnapshotError(f"{path}: positions more than a box outside the box in {ptype}/Coordinates; {hint}")
        if (span_kpc := (high - low).max()) > LARGEST_SPAN * box_kpc and not units.box_given:
            raise SnapshotError(
                f"{path}: {ptype}/Coordinates span {span_kpc:.6g} kpc in a box of {box_kpc:.6g} kpc; {hint}"
            )
    extents = np.array(list(extents_kpc.values()))
    low, high = extents[:, 0].min(axis=0) - corner_kpc, extents[:, 1].max(axis=0) - corner_kpc
    cube_kpc = high.max()
    if (
        cube_kpc < SMALLEST_FILL * box_kpc
        and max(*abs(low), *(cube_kpc - high)) < 5e-3 * cube_kpc
        and not (units.box_given or units.is_region)
    ):
        raise SnapshotError(
            f"{path}: positions fill a cube of {cube_kpc:.6g} kpc from the corner of a box of {box_kpc:.6g} kpc; {hint}"
        )
    return units


#: Advice for a run without expansion whose header was copied from a cosmological one.
NOT_COSMOLOGICAL = ", or give `units: {cosmological: false}` in the suite file if the run is not cosmological"


def check_cosmology(path: Path, scale_factor: float, hubble: float, check_a: str, check_h: str) -> None:
    """Raise SnapshotError for a scale factor outside (0.001, 10] or h outside (0.1, 10]: a damaged header.

    check_a and check_h say what to check in files of this format.
    """
    if not 1e-3 < scale_factor <= 10:
        raise SnapshotError(f"{path}: its header says scale factor a = {scale_factor:.4g}; check {check_a}")
    if not 0.1 < hubble <= 10:
        raise SnapshotError(f"{path}: its header says h = {hubble:.4g}; check {check_h}")


def first_bytes(path: Path, n: int) -> bytes:
    """Read the first n bytes of a file, or all of a shorter one. Raises SnapshotError."""
    try:
        with open(path, "rb") as file:
            return file.read(n)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror}); check the snapshot pattern") from error


class Format(ABC):
    """One family of snapshot files: how they are found, checked, staged for yt, sampled and loaded.

    `components` maps gas, stars, dark and black_holes to their particle types, unless the suite file
    says otherwise. `mass` is the name of the mass field in yt. `container` is the kind of file, by which
    gen.formats.recognise tells it from others. `formed` is the field with the formation time; it separates
    stars from other particles that are stored as stars: they are a particle type of their own, `disguised`, and
    belong to `host` where no component names that type. yt never uses the box that a staged file claims
    (gen.formats.domain).
    """

    name: ClassVar[str]
    container: ClassVar[str] = "hdf5"
    formed: ClassVar[str] = "GFM_StellarFormationTime"
    disguised: ClassVar[str] = "Wind"
    host: ClassVar[str | None] = "gas"
    components: ClassVar[dict[str, list[str]]]
    mass: ClassVar[str] = "Masses"
    #: Whether star-forming gas of its cosmological runs has an effective equation of state, hotter than cold gas.
    has_equation_of_state: ClassVar[bool] = False
    #: The field of molecular hydrogen, where neutral hydrogen in another has only atoms.
    molecules: ClassVar[str | None] = None
    #: Raised where other galaxies are made of the same files than before: a store that has some is not gone on with.
    version_of_reading: ClassVar[int] = 1
    has_parts: ClassVar[bool] = True  # whether several processes can share the search for its blocks
    corner: ClassVar[float] = 0.0  # the coordinate at which a box begins, as a multiple of its side

    @abstractmethod
    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """Make the snapshot readable for yt inside the scratch folder, and return the path that yt opens.

        yt writes index files beside the file it opens, so it never opens a file of an archive itself.
        light names a dataset (`Name` or `Name[column]`) that yt shall see as the field `Light`. Raises
        SnapshotError for a file that is missing, cut short or no snapshot.
        """

    @abstractmethod
    def sample(self, staged: Path, max_particles: int, types: Collection[str] | None = None) -> dict[str, Sample]:
        """Read about `max_particles` particles of each type of a staged snapshot, or only of `types`."""

    @abstractmethod
    def load(self, staged: Path, slot: Slot = nullcontext, part: Part | None = None) -> Any:
        """Open a staged snapshot as a yt dataset, and find where its blocks lie, reading positions inside `slot()`.

        Of a part only its share of the blocks is found: they become the dataset's `blocks`, and `at_origin` is of these
        alone. Only formats with `has_parts` have any. Raises SnapshotError with yt's reason.
        """

    def beside(self, extents: dict[str, np.ndarray], tallies: Sequence[Any]) -> Any:
        """Return what is kept beside where all blocks lie, as JSON: here the extent (2, 3) of each type.

        tallies: what `load` has counted in each part, of formats that count.
        """
        return {ptype: extent.tolist() for ptype, extent in extents.items()}

    def units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        """Return the code units of the file; suite_units (the keys of gen.suite.Units) take precedence.

        Raises SnapshotError where units are missing, contradict each other, or are no positive numbers.
        """
        with self._explain_other_formats(path), reading(path):
            units = self._units(path, suite_units)
        if overrides := [
            f"{key}: {str(suite_units[key]).lower()}" for key in ("box", "cosmological") if key in suite_units
        ]:
            units = replace(units, source=f"{units.source}; {', '.join(overrides)} by the suite file")
        if (box_side := suite_units.get("box")) == "none":
            units = replace(units, box_kpc=None, box_given=True)
        elif box_side is not None:
            box_kpc = box_side * units.scale_factor
            units = replace(units, box_kpc=box_kpc, corner_kpc=self.corner * box_kpc, box_given=True)
        units_by_name = {
            "length unit": units.length_kpc,
            "mass unit": units.mass_msun,
            "velocity unit": units.velocity_kms,
        }
        for name, value in {**units_by_name, "box side": 1.0 if units.box_kpc is None else units.box_kpc}.items():
            if not (np.isfinite(value) and value > 0):
                raise SnapshotError(f"{path}: its {name} comes out as {value:.4g}; check the attributes that say so")
        return units

    @abstractmethod
    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits: ...

    def known_types(self) -> list[str]:
        """Return the names of all particle types that files of this format can have."""
        return sorted({ptype for types in self.components.values() for ptype in types})

    def tells_cells(self, path: Path) -> bool:
        """Tell whether the snapshot has a table of cells, which may say where its particles lie; not, if unreadable."""
        return False

    def types(self, path: Path) -> set[str]:
        """Return the particle types that the header lists; empty where the header does not list them."""
        return set()

    def unowned(self, path: Path, owned: set[str]) -> set[str]:
        """Return the types in the snapshot that no component owns, and whose particles have a mass that counts."""
        return self.types(path) - owned

    def files(self, path: Path) -> list[Path]:
        """Return all files of the snapshot whose first file is `path`. Raises SnapshotError when one is missing."""
        return [path]

    def listed_files(self, path: Path) -> list[Path]:
        """Return all files from which a snapshot's units come. Raises SnapshotError when one is missing."""
        return self.files(path)

    @contextmanager
    def _explain_other_formats(self, path: Path) -> Iterator[None]:
        """Replace a SnapshotError inside the block where the file is of another format: say which one."""
        try:
            yield
        except SnapshotError as error:
            from kinmass.gen.formats.recognise import explain_other_container  # imports this file

            if explanation := explain_other_container(path, self.container):
                raise SnapshotError(explanation) from error
            raise

    def are_stars(self, formed: np.ndarray) -> np.ndarray:
        """Tell which particles (N,) of the stars' types are stars, from their formation times (N,).

        AREPO's wind cells are stored as stars but have no formation time.
        """
        return formed > 0

    def doubt(self, formed: np.ndarray, cosmological: bool, scale_factor: float) -> str:
        """Say how many particles stored as stars, by their formation times (N,), may be stars or not; "" for none.

        In an expanding universe, at scale_factor, the times are scale factors: none is later than the snapshot.

        AREPO's wind has the time left until it is gas again, as a negative number, and never 0. So 0 is not what it
        says of wind, nor of a star in an expanding universe; and stars that an isolated run began with are as old.
        """
        if cosmological and (n_late := int(np.count_nonzero(formed > 1.001 * scale_factor))):
            return (
                f"{n_late} of {len(formed)} formed at up to {formed.max():.4g}, after a = {scale_factor:.4g}: are they "
                "ages, or logarithms, which do not tell wind from stars?"
            )
        if cosmological:
            unclear, words = formed == 0, "a formation time of 0"
        else:
            unclear, words = formed <= 0, "formation times of 0 or less in a run that is not cosmological"
        if (n := int(np.count_nonzero(unclear))) < 2:
            return ""
        return f"{n} of {len(formed)} with {words}: wind, or stars that were there at the start?"

    def untold(self, ptype: str, cosmological: bool) -> str:
        """Say why stars of a type need the formation times that they do not have, and what to do; "" if they do not."""
        return ""

    def doubt_hint(self, ptype: str) -> str:
        """Tell what to say in the suite file of the particles of a type that `doubt` finds."""
        return (
            f"say `particles: {{gas: [PartType0, {self.disguised}]}}`, or "
            f"`particles: {{stars: [{ptype}, {self.disguised}]}}`"
        )

    def promised(self, path: Path) -> dict[str, int]:
        """Return the particle count of each type by the file's header; empty where staging has checked the counts."""
        return {}

    def smoothing(self, path: Path) -> Smoothing:
        """Return the convention of this file's smoothing lengths."""
        return SMOOTHING[self.name]
