"""The private names of yt that are used: if a release of yt moves one, this test says which."""

from importlib import import_module

import h5py
import layouts
import pytest

from kinmass.gen.formats import FORMATS, frontends

HDF5 = ("_identify_fields", "_dataset_type", "var_mass", "_known_ptypes", "_read_particle_fields",
        "_sorted_chunk_iterator")  # fmt: skip
UNITS = ("_create_unit_registry", "set_units", "setup_cosmology", "_assign_unit_system")
INDEX = (
    "_detect_output_fields",
    "_setup_filenames",
    "chunksize",
    "_initialize_index",
    "_identify_base_chunk",
)
IO = ("_generate_smoothing_length", "_get_smoothing_length", "_yield_coordinates")


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        ("yt.data_objects.static_output:Dataset", ("create_field_info", "_is_valid", "index")),
        ("yt.data_objects.static_output:Dataset", UNITS),
        ("yt.data_objects.static_output:FieldTypeContainer", ()),
        ("yt.data_objects.static_output:_ds_store._records", ("clear",)),
        ("yt.fields.field_info_container:FieldInfoContainer", ("add_output_field",)),
        ("yt.geometry.particle_geometry_handler:ParticleIndex", INDEX),
        ("yt.geometry.selection_routines:SphereSelector", ("center", "radius")),
        ("yt.frontends.gadget.api:GadgetHDF5Dataset", ("_index_class",)),
        ("yt.frontends.gadget.io:IOHandlerGadgetHDF5", (*IO, *HDF5)),
        ("yt.frontends.arepo.api:ArepoHDF5Dataset", ("_index_class",)),
        ("yt.frontends.gizmo.api:GizmoDataset", ("_index_class",)),
        ("yt.frontends.tipsy.api:TipsyDataset", ("_index_class",)),
        ("yt.frontends.tipsy.io:IOHandlerTipsyBinary", IO),
    ],
)
def test_yt_has_what_is_used_of_it(owner, names):
    module, _, path = owner.partition(":")
    yt_object = import_module(module)
    for name in path.split("."):
        yt_object = getattr(yt_object, name)
    assert [name for name in names if not hasattr(yt_object, name)] == []


STAGED = {
    "tipsy": lambda path, n: layouts.tipsy(path / f"run.{n:05d}", layouts.galaxy(30 + n)),
    "gizmo": lambda path, n: layouts.fire(path / f"snap_{n}.hdf5", layouts.galaxy(30 + n)),
    "arepo": lambda path, n: layouts.tng(path / f"snap_{n}.hdf5", layouts.galaxy(30 + n)),
    "eagle": lambda path, n: layouts.eagle(path / f"snap_{n}.hdf5", layouts.galaxy(30 + n)),
}


def _opened(form, folder, n):
    reader, scratch = FORMATS[form], folder / f"scratch{n}"
    scratch.mkdir()
    return reader.load(reader.stage(STAGED[form](folder, n), scratch))


def _units_of(ds):
    own = ("code_", "h", "a")  # unyt adds the others when somebody asks for them
    lut = {name: (v[0], str(v[1])) for name, v in ds.unit_registry.lut.items() if name.startswith(own)}
    names = [f"{what}_unit" for what in ("length", "mass", "time", "velocity", "density", "pressure", "temperature")]
    named = {
        name: (float(unit.value), str(unit.units)) for name in names if (unit := getattr(ds, name, None)) is not None
    }
    return lut, named, str(ds.unit_system)


@pytest.mark.parametrize("form", STAGED)
def test_lent_units_are_those_that_yt_makes_for_each_file(form, tmp_path, monkeypatch):
    frontends.raw_dataset_class.cache_clear()
    lent = [_opened(form, tmp_path, n) for n in range(3)]
    assert lent[0].unit_registry is lent[2].unit_registry
    monkeypatch.setattr(frontends, "LENDS_UNITS", False)
    own = [_opened(form, tmp_path, n) for n in range(3, 6)]
    assert own[0].unit_registry is not own[2].unit_registry
    assert all(_units_of(ds) == _units_of(own[0]) for ds in [*lent, *own])
    assert [str(ds.arr(2.0, "code_length").to("kpc")) for ds in lent] == [
        str(own[0].arr(2.0, "code_length").to("kpc"))
    ] * 3


def test_a_file_with_other_units_than_its_frontends_others_keeps_its_own(tmp_path):
    frontends.raw_dataset_class.cache_clear()
    _opened("gizmo", tmp_path, 0)
    (tmp_path / "other").mkdir()
    staged = FORMATS["gizmo"].stage(STAGED["gizmo"](tmp_path, 1), tmp_path / "other")
    with h5py.File(staged, "r+") as file:
        file["Header"].attrs["OmegaLambda"], file["Header"].attrs["HubbleParam"] = 0.7, 0.5
    with pytest.warns(RuntimeWarning, match="GizmoDataset: yt's units are set up anew for each file"):
        ds = FORMATS["gizmo"].load(staged)
    assert float(ds.quan(1.0, "code_length").to("kpc")) == pytest.approx(2.0)
    assert float(_opened("gizmo", tmp_path, 2).quan(1.0, "code_length").to("kpc")) == pytest.approx(1.0)
