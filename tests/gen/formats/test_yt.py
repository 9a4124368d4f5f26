"""The private names of yt that are used: if a release of yt moves one, this test says which."""

from importlib import import_module

import pytest

INDEX = ("_initialize_index", "_initialize_coarse_index", "_initialize_refined_index")
IO = ("_generate_smoothing_length", "_get_smoothing_length", "_yield_coordinates")
REGIONS = (
    "_coarse_index_data_file",
    "_set_coarse_index_data_file",
    "find_collisions_coarse",
    "find_collisions_refined",
)


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        ("yt.data_objects.static_output:Dataset", ("create_field_info", "_is_valid", "index")),
        ("yt.data_objects.static_output:FieldTypeContainer", ()),
        ("yt.data_objects.static_output:_ds_store._records", ("clear",)),
        ("yt.fields.field_info_container:FieldInfoContainer", ("add_output_field",)),
        ("yt.geometry.particle_geometry_handler:ParticleIndex", INDEX),
        ("yt.geometry.particle_oct_container:ParticleBitmap", REGIONS),
        ("yt.frontends.gadget.api:GadgetHDF5Dataset", ("_index_class",)),
        ("yt.frontends.gadget.io:IOHandlerGadgetHDF5", IO),
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
