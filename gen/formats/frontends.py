"""yt's frontends, reduced to the fields that are on disk."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from itertools import count
from typing import Any

import numpy as np

from kinmass.gen.formats.base import SnapshotError
from kinmass.gen.formats.domain import set_domain

Overrides = tuple[tuple[str, Any], ...]
_class_numbers = count()


def _as_doubles(yield_from_disk: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Convert the positions that yt's reader yields for each particle type to double precision."""
    for ptype, pos in yield_from_disk(*args, **kwargs):
        yield ptype, np.asarray(pos, dtype=np.float64)


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
        self.field_info.add_output_field(field, sampling_type="particle", units="")
    self.fields = FieldTypeContainer(self)
    self.fields_detected = True


def _point_index_class(index_class: Any) -> Any:
    """Derive an index from a yt index class that treats gas as points, in a domain that is measured."""

    class PointIndex(index_class):  # type: ignore[misc, valid-type]
        """Selects gas by its position, as other particles: without a kernel, and without a tree to find one.

        Positions are doubles whatever the file holds: the index needs positions and kernels of one float type.
        """

        def _initialize_index(self) -> None:
            self.io._generate_smoothing_length = lambda index: None
            self.io._get_smoothing_length = lambda data_file, dtype, shape: np.zeros(shape[0])
            self.io._read_smoothing_length = lambda data_file, count: np.zeros(count)
            self.io._yield_coordinates = partial(_as_doubles, self.io._yield_coordinates)
            set_domain(self)
            super()._initialize_index()

        def _initialize_coarse_index(self) -> float:
            if len(self.data_files) > 1:
                return float(super()._initialize_coarse_index())
            # A file of one chunk belongs to every cell of the index, so it need not be read twice to find its cells.
            edges = np.array([self.dataset.domain_left_edge.d, self.dataset.domain_right_edge.d])
            cells = np.array(np.meshgrid(*(0.75 * edges + 0.25 * edges[::-1]).T)).reshape(3, -1).T
            self.regions._coarse_index_data_file(np.ascontiguousarray(cells), None, 0)
            self.regions._set_coarse_index_data_file(0)
            self.regions.find_collisions_coarse()
            return 0.0

        def _initialize_refined_index(self) -> None:
            if len(self.data_files) > 1:
                super()._initialize_refined_index()
            else:
                self.regions.find_collisions_refined()

    return PointIndex


@cache
def raw_dataset_class(module: str, name: str, overrides: Overrides = ()) -> Any:
    """Derive a class from the yt dataset class `module.name` that has only the fields on disk, in code units.

    overrides are further attributes of the class that differ from yt's. yt spends half a second per
    snapshot on testing hundreds of derived fields, and builds a tree over the gas for smoothing lengths
    that the file lacks (it never returns when a position is NaN, and leaves side files). Neither is
    needed here; without them a galaxy of 50,000 particles opens ten times faster.
    """
    import yt
    from yt.config import ytcfg

    yt.set_log_level("error")
    ytcfg["yt", "suppress_stream_logging"] = True
    import_module("yt.frontends.gadget.api")  # the readers that AREPO and GIZMO borrow register here
    frontend = getattr(import_module(module), name)
    methods = {
        "_is_valid": classmethod(_never_valid),
        "create_field_info": _create_field_info,
        "_index_class": _point_index_class(frontend._index_class),
        **dict(overrides),
    }
    return type(f"Raw{name}{next(_class_numbers)}", (frontend,), methods)  # yt warns of two classes of one name


def forget_datasets() -> None:
    """Clear yt's record of every dataset that was opened: a process opens thousands."""
    from yt.data_objects import static_output

    if static_output._ds_store is not None:
        static_output._ds_store._records.clear()


def open_raw(module: str, name: str, path: str, overrides: Overrides = (), **options: Any) -> Any:
    """Open a file as `raw_dataset_class` and build its index. Raises SnapshotError with yt's reason."""
    try:
        ds = raw_dataset_class(module, name, overrides)(path, **options)
        _ = ds.index
    except Exception as error:
        raise SnapshotError(f"yt cannot read it as {name}: {type(error).__name__}: {error}") from error
    return ds
