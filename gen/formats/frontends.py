"""yt's frontends, reduced to the fields that are on disk, in code units that are set up once per frontend."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from importlib import import_module
from itertools import count
from traceback import clear_frames
from typing import Any

import h5py
import numpy as np

from kinmass.gen.formats.base import Part, Slot, SnapshotError
from kinmass.gen.formats.block_reader import BlockReader, PositionReader
from kinmass.gen.formats.celltables import HAS_TABLE
from kinmass.gen.formats.domain import set_domain

Overrides = tuple[tuple[str, Any], ...]
_class_numbers = count()
#: Whether yt's units are set up once per frontend; otherwise anew for every file, which takes most of an opening.
LENDS_UNITS = True
#: Particles in a block, which is read as a whole: of a small file; of a large one the least, and how many blocks.
WHOLE_BLOCK, SMALLEST_BLOCK, MOST_BLOCKS = 64**3, 2**14, 2**13
#: Attributes of a yt dataset from which its units follow.
_UNIT_INPUTS = (
    "cosmological_simulation", "current_redshift", "hubble_constant", "omega_matter", "omega_lambda",
    "omega_radiation", "scale_factor", "use_dark_factor", "w_0", "w_a", "_unit_base", "_cosmology_parameters",
    "units_override",
)  # fmt: skip
#: Entries of a header from which no units follow. A staged file differs from another of its frontend in these alone.
_NO_UNIT_INPUTS = {
    "NumPart_ThisFile", "NumPart_Total", "NumPart_Total_HighWord", "NumFilesPerSnapshot", "MassTable",
    "NumFiles", "Npart", "Massarr", "time", "nbodies", "nsph", "ndark", "nstar", "dummy", "bDoublePos", "bDoubleVel",
    HAS_TABLE,
}  # fmt: skip


#: The context in which the dataset that is being opened reads positions, and of which part: yt makes its index when it
#: likes.
_measuring: list[tuple[Slot, Part | None]] = [(nullcontext, None)]


@contextmanager
def _measuring_inside(slot: Slot, part: Part | None) -> Iterator[None]:
    _measuring.append((slot, part))
    try:
        yield
    finally:
        _measuring.pop()


class _OtherUnitsError(Exception):
    """A file's units are not those that were set up for its frontend."""


def _as_doubles(yield_from_disk: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Convert the positions that yt's reader yields for each particle type to double precision."""
    for ptype, pos in yield_from_disk(*args, **kwargs):
        yield ptype, np.asarray(pos, dtype=np.float64)


def _staged_fields(io: Any, data_file: Any) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """List the fields of a staged HDF5 file by their names; yt opens each of them in the archive several times."""
    fields = []
    with h5py.File(data_file.filename, "r") as file:
        for ptype in [key for key in file if key.startswith("PartType")]:
            names = list(file[ptype])
            if "Coordinates" in names:
                masses = [] if ptype in io.var_mass else [io.ds._particle_mass_name]
                fields += [(ptype, name) for name in (*masses, *names)]
    return fields, {}


def _counted(in_files: dict[str, np.ndarray], data_file: Any) -> dict[str, int]:
    """Count the particles of each type in a block of a staged HDF5 file; yt opens the file anew for each block."""
    if data_file.filename not in in_files:
        with h5py.File(data_file.filename, "r") as file:
            in_files[data_file.filename] = np.asarray(file["Header"].attrs["NumPart_ThisFile"], dtype=np.int64)
    n, start, end = in_files[data_file.filename], data_file.start, data_file.end
    of_block = n if start is None or end is None else np.clip(n - start, 0, end - start)
    return {f"PartType{i}": count for i, count in enumerate(of_block)}


def hold_while_reading(ds: Any, slot: Slot) -> bool:
    """Have an open dataset read its bytes inside `slot()`; False where its reader cannot, and the caller has to."""
    io = ds.index.io
    io.slot = slot
    return "hdf5" in io._dataset_type


def _never_valid(cls: Any, filename: str, *args: Any, **kwargs: Any) -> bool:
    """Stand in for yt's `_is_valid`, so that yt.load never chooses our classes elsewhere in the process."""
    return False


def _create_field_info(self: Any) -> None:
    """Stand in for a yt dataset's `create_field_info`: list the fields on disk, without units and derived fields."""
    from yt.data_objects.static_output import FieldTypeContainer
    from yt.fields.field_info_container import FieldInfoContainer

    if self._instantiated_index is None:
        _ = self.index  # making the index calls this method again
        return
    self.field_dependencies = {}
    self.derived_field_list = []
    self.filtered_particle_types = []
    self.field_info = FieldInfoContainer(self, self.field_list)
    for field in self.field_list:
        kind = "cell" if field[0] in self.fluid_types else "particle"
        self.field_info.add_output_field(field, sampling_type=kind, units="")
    self.fields = FieldTypeContainer(self)
    self.fields_detected = True


def block_size(n_particles: int) -> int:
    """Return how many particles are read together, for a file of so many of its most frequent type.

    A region is read in whole blocks. A small file is one block of yt's size; a large one is cut finer, so that a galaxy
    of a box does not bring a hundred times its bytes along, but into no more blocks than can be looked through for
    each galaxy, unless these would be larger than yt's.
    """
    if n_particles <= 4 * WHOLE_BLOCK:
        return WHOLE_BLOCK
    return min(max(SMALLEST_BLOCK, -(-n_particles // MOST_BLOCKS)), WHOLE_BLOCK)


def _largest_type(ds: Any) -> int:
    """Count the particles of a dataset's most frequent type in its largest file."""
    if "nbodies" in ds.parameters:
        return int(max(ds.parameters[name] for name in ("nsph", "ndark", "nstar")))
    largest = 0
    for i in range(int(ds.file_count)):
        with h5py.File(ds.filename_template % {"num": i}, "r") as file:
            largest = max(largest, int(np.max(file["Header"].attrs["NumPart_ThisFile"])))
    return largest


def _point_index_class(index_class: Any) -> Any:
    """Derive an index from a yt index class that finds blocks by the places that they fill, in a measured domain.

    yt's own reads all positions several times to make its index.
    """

    class PointIndex(index_class):  # type: ignore[misc, valid-type]
        """Selects gas by its position, as other particles: without a kernel, and without a tree to find one."""

        _positions: PositionReader | None = None  # of HDF5, whose file stays open while blocks are measured

        def _setup_filenames(self) -> None:
            self._block = block_size(_largest_type(self.dataset))
            if "hdf5" in self.io._dataset_type:
                self.io._count_particles = partial(_counted, {})
            super()._setup_filenames()

        @property
        def chunksize(self) -> int:
            """Particles of a block, which is read as a whole."""
            return min(self._block, super().chunksize)

        def _detect_output_fields(self) -> None:
            if "hdf5" in self.io._dataset_type:
                self.io.slot = nullcontext
                self.io._identify_fields = partial(_staged_fields, self.io)
                self.io._yield_coordinates = self._positions = PositionReader()
                self.io._read_particle_fields = BlockReader(self.io).fields
            super()._detect_output_fields()

        def _initialize_index(self) -> None:
            # Readers of other formats than HDF5 would ask for kernels where they select gas.
            self.io._generate_smoothing_length = lambda index: None
            self.io._get_smoothing_length = lambda data_file, dtype, shape: np.zeros(shape[0])
            self.io._read_smoothing_length = lambda data_file, count: np.zeros(count)
            self.io._yield_coordinates = partial(_as_doubles, self.io._yield_coordinates)
            try:
                self.regions = self.io.blocks = set_domain(self, *_measuring[-1])
            finally:
                if self._positions:
                    self._positions.close()

    return PointIndex


def _unit_inputs(ds: Any) -> str:
    """Write down all from which the units of a yt dataset follow."""
    parameters = {k: v for k, v in ds.parameters.items() if k not in _NO_UNIT_INPUTS}
    return repr([parameters, *(getattr(ds, name, None) for name in _UNIT_INPUTS)])


def _lending_methods(frontend: Any) -> dict[str, Any]:
    """Make the methods by which datasets of one class set up their units once, and lend them to each other.

    All staged files of a frontend have the same code units, but yt makes them anew for each, and unyt then writes out
    the registry's symbolic expressions a hundred times. `_OtherUnitsError` is raised for a file that has others.
    """
    lent: dict[str, Any] = {}
    known_inputs: list[str] = []
    before: dict[str, Any] = {}

    def create_unit_registry(self: Any, unit_system: str) -> None:
        """Take the lent registry, or have the frontend make one."""
        if lent:
            self.unit_registry = lent["unit_registry"]
        else:
            frontend._create_unit_registry(self, unit_system)

    def set_units(self: Any) -> None:
        """Take the lent units, or have the frontend make them. Raises _OtherUnitsError for a file of other units."""
        inputs = _unit_inputs(self)
        if lent and known_inputs != [inputs]:
            raise _OtherUnitsError(f"{inputs} instead of {known_inputs[0]}")
        if lent:
            vars(self).update(lent)
            return
        known_inputs[:] = [inputs]
        before.clear()
        before.update(vars(self))
        frontend.set_units(self)

    def setup_cosmology(self: Any) -> None:
        """Have the frontend set up its cosmology, once."""
        if not lent:
            frontend.setup_cosmology(self)

    def assign_unit_system(self: Any, unit_system: str) -> None:
        """Have the frontend set up its unit system, once, and lend all that was made since `set_units`."""
        if not lent:
            frontend._assign_unit_system(self, unit_system)
            made = {k: v for k, v in vars(self).items() if k not in before or before[k] is not v}
            lent.update(made | {"unit_registry": self.unit_registry})
            before.clear()

    return {
        "_create_unit_registry": create_unit_registry,
        "set_units": set_units,
        "setup_cosmology": setup_cosmology,
        "_assign_unit_system": assign_unit_system,
    }


@cache
def raw_dataset_class(module: str, name: str, overrides: Overrides = (), lends_units: bool = True) -> Any:
    """Derive a class from the yt dataset class `module.name` that has only the fields on disk, in code units.

    overrides are further attributes of the class that differ from yt's; lends_units as in `_lending_methods`. yt spends
    half a second per snapshot on testing hundreds of derived fields, and builds a tree over the gas for smoothing
    lengths that the file lacks (it never returns when a position is NaN, and leaves side files). Neither is needed
    here; without them a galaxy of 50,000 particles opens ten times faster.
    """
    import_module("yt.frontends.gadget.api")  # the readers that AREPO and GIZMO borrow register here
    frontend = getattr(import_module(module), name)
    lending = _lending_methods(frontend) if lends_units else {}
    return _derived("Raw", frontend, {"_index_class": _point_index_class(frontend._index_class), **lending}, overrides)


@cache
def _grid_dataset_class(module: str, name: str, overrides: Overrides) -> Any:
    """Derive a class from a yt dataset class of a grid code that has only the fields on disk, in code units."""
    # yt keeps the fields of a dataset by this name, which it makes of the time in seconds.
    own_name = property(lambda self: f"{name}-{vars(self).setdefault('_number', next(_class_numbers))}")
    return _derived("Grid", getattr(import_module(module), name), {"unique_identifier": own_name}, overrides)


def _derived(kind: str, frontend: Any, methods: dict[str, Any], overrides: Overrides) -> Any:
    """Derive a class from a yt dataset class that has only the fields on disk, and keep yt from logging."""
    import yt
    from yt.config import ytcfg

    yt.set_log_level("error")
    ytcfg["yt", "suppress_stream_logging"] = True
    all_methods = {"_is_valid": classmethod(_never_valid), "create_field_info": _create_field_info, **methods}
    # yt warns of two classes of one name.
    return type(f"{kind}{frontend.__name__}{next(_class_numbers)}", (frontend,), all_methods | dict(overrides))


@contextmanager
def _refusals_of_yt(name: str) -> Iterator[None]:
    """Say as a SnapshotError why yt could not read a file as `name`, and close what it had left open.

    Otherwise the error's traceback holds these files for as long as somebody keeps the error.
    """
    try:
        yield
    except Exception as error:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            clear_frames(error.__traceback__)
        raise SnapshotError(
            f"yt cannot read it as {name} ({type(error).__name__}: {error}); is `format:` right, and the file whole?"
        ) from error


def open_grid(module: str, name: str, path: str, overrides: Overrides = (), **options: Any) -> Any:
    """Open a grid code's file and build its index, in a domain that is not periodic.

    Raises SnapshotError with yt's reason.
    """
    with _refusals_of_yt(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # yt leaves a hierarchy open until it is forgotten
        ds = _grid_dataset_class(module, name, overrides)(path, **options)
        ds._periodicity = (False, False, False)
        _ = ds.index
    return ds


def load_frontends() -> None:
    """Load yt and the readers of every frontend in use, which takes a second."""
    for module in ("gadget", "gizmo", "arepo", "tipsy", "ramses", "enzo", "art"):
        import_module(f"yt.frontends.{module}.api")


def forget_datasets() -> None:
    """Clear yt's record of every dataset that was opened: a process opens thousands."""
    from yt.data_objects import static_output

    if static_output._ds_store is not None:
        static_output._ds_store._records.clear()


def open_raw(
    module: str,
    name: str,
    path: str,
    overrides: Overrides = (),
    slot: Slot = nullcontext,
    part: Part | None = None,
    **options: Any,
) -> Any:
    """Open a file as `raw_dataset_class` and find its blocks, or those of a part, whose bytes are read inside `slot()`.

    Raises SnapshotError with yt's reason.
    """
    with _refusals_of_yt(name), _measuring_inside(slot, part):
        ds = _opened(module, name, path, overrides, **options)
        _ = ds.index
    return ds


def _opened(module: str, name: str, path: str, overrides: Overrides, **options: Any) -> Any:
    """Open a file with units that are lent, or with its own, and a warning, where these do not fit."""
    if LENDS_UNITS:
        try:
            return raw_dataset_class(module, name, overrides)(path, **options)
        except (_OtherUnitsError, AttributeError) as error:
            warnings.warn(
                f"{name}: yt's units are set up anew for each file, which is slow ({error})",
                RuntimeWarning,
                stacklevel=2,
            )
    return raw_dataset_class(module, name, overrides, lends_units=False)(path, **options)
