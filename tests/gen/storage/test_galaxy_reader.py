"""Galaxies read from their files alone are those that zarr reads, to the bit, whatever wrote them."""

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from kinmass.gen.storage import store, suite_group
from kinmass.gen.storage.galaxy_reader import GalaxyReader, read_galaxies

N_GALAXIES, SHAPE = 7, (2, 8, 8, 8)


def stored(out, per_shard):
    """A suite's group in which all galaxies but the last are done and have maps and masses, and zarr's maps."""
    names = [f"galaxy {i}" for i in range(N_GALAXIES)]
    config = {"views": SHAPE[0], "pixels": SHAPE[-1], "galaxies_per_shard": per_shard}
    group = suite_group.create_suite(out, "x", names, names, config)
    group["maps"][:-1] = np.random.default_rng(1).normal(size=(N_GALAXIES - 1, *SHAPE)).astype(np.float32)
    group["mass"][:-1] = np.random.default_rng(2).normal(size=(N_GALAXIES - 1, *group["mass"].shape[1:]))
    group["status"][:-1] = store.DONE
    return group, group["maps"][:]


def read_by(reader, number):
    maps = np.full(SHAPE, -1, np.float32)
    reader.read_into(number, maps)
    return maps


@pytest.mark.parametrize(
    ("per_shard", "together", "chunk"), [(1, 2**15, 1), (3, 2**15, 3), (10, 2**15, 5), (3, 1, 1), (10, 2**13, 2)]
)
def test_as_zarr_reads_them(tmp_path, per_shard, together, chunk, monkeypatch):
    """However many galaxies are compressed together; in older stores each is alone."""
    monkeypatch.setattr(suite_group, "MOST_TOGETHER", together)
    group, expected = stored(tmp_path / "maps.zarr", per_shard)
    assert group["maps"].chunks[0] == chunk
    reader = GalaxyReader(group, "maps")
    for number in (6, *range(N_GALAXIES)):  # 6 was never written
        np.testing.assert_array_equal(read_by(reader, number), expected[number])
    numbers, names = np.array([6, 0, 5, 5]), ("maps", "mass", "status")
    for name, values in zip(names, read_galaxies(group, names, numbers), strict=True):
        np.testing.assert_array_equal(values, group[name][:][numbers], strict=True)
    assert [len(values) for values in read_galaxies(group, names, numbers[:0])] == [0, 0, 0]
    monkeypatch.setattr(store, "read", None)
    np.testing.assert_array_equal(read_by(reader, 2), expected[2])  # without zarr
    np.testing.assert_array_equal(read_galaxies(group, ["status"], numbers[1:])[0], store.DONE)  # of one byte, too


def test_other_codecs_are_left_to_zarr(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    forms = {
        "raw": {"compressors": None},
        "no checksum": {"compressors": ZstdCodec()},
        "big endian": {"compressors": (ZstdCodec(), Crc32cCodec()), "serializer": zarr.codecs.BytesCodec(endian="big")},
        "two in a chunk": {"compressors": (ZstdCodec(), Crc32cCodec()), "chunks": (2, 2)},
    }
    group = zarr.open_group(tmp_path, mode="w")
    for name, form in forms.items():
        group.create_array(name, shape=(3, 2), dtype="float32", **{"chunks": (1, 2)} | form)[:] = values
        found = np.zeros(2, np.float32)
        GalaxyReader(group, name).read_into(1, found)
        np.testing.assert_array_equal(found, values[1], err_msg=name)


def test_a_sound_chunk_of_another_size_is_no_galaxy(tmp_path):
    group, expected = stored(tmp_path / "maps.zarr", 1)
    smaller = zarr.create_array(
        tmp_path / "smaller", shape=(8,), chunks=(8,), dtype="float32", compressors=(ZstdCodec(), Crc32cCodec())
    )
    smaller[:] = 1.0
    (tmp_path / "maps.zarr" / "x" / "maps" / "c.0.0.0.0.0").write_bytes((tmp_path / "smaller" / "c" / "0").read_bytes())
    reader = GalaxyReader(group, "maps")
    with pytest.raises(store.StoreError, match=r"maps of galaxy galaxy 0 cannot be read"):
        read_by(reader, 0)
    np.testing.assert_array_equal(read_by(reader, 1), expected[1])


@pytest.mark.parametrize("per_shard", [1, 3])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_galaxy_is_named(tmp_path, per_shard, damage):
    group, expected = stored(tmp_path / "maps.zarr", per_shard)
    file = tmp_path / "maps.zarr" / "x" / "maps" / "c.0.0.0.0.0"
    content = file.read_bytes()
    flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    file.write_bytes({"flipped": flipped, "cut": content[:-50], "empty": b""}[damage])
    reader = GalaxyReader(group, "maps")
    with pytest.raises(store.StoreError, match=r"maps of galaxy galaxy 0 cannot be read .*--repair"):
        read_by(reader, 0)
    np.testing.assert_array_equal(read_by(reader, 4), expected[4])
