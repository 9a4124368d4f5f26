"""Missing numbers are not read as zeros, and the error for a file that is no snapshot says what it is."""

import gzip
import re
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import layouts
import numpy as np
import pytest
from layouts import edit

from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.formats.gadget_binary import blocks_of, read_header
from kinmass.gen.formats.recognise import recognised
from kinmass.gen.look.check import describe
from kinmass.gen.physics.particles import Particles
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.suite import Tracers

ORIGIN = np.zeros(3)


def again(file: h5py.File, name: str, **options: object) -> h5py.Dataset:
    """Replace a dataset by one of the same shape and type without any numbers."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    return file.create_dataset(name, shape, dtype, **options)  # type: ignore[arg-type]


def half_written(file: h5py.File) -> None:
    again(file, "PartType4/Velocities", chunks=(10, 3))[:25] = 1.0


#: All rows of a dataset of 40.
ALL = slice(0, 40)


def virtual(file: h5py.File, *pieces: tuple[Any, Any], n_rows: int = 40) -> None:
    """Make velocities virtual: `rows` of them from `source_rows` of a file beside it, which has `n_rows` rows."""
    name = "PartType4/Velocities"
    values = file[name][()]
    del file[name]
    with h5py.File(Path(file.filename).with_name("beside.hdf5"), "w") as beside:
        beside["x"] = values[:n_rows]
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    for rows, source_rows in pieces:
        layout[rows] = h5py.VirtualSource("beside.hdf5", "x", values.shape)[source_rows]
    file.create_virtual_dataset(name, layout)


def nested(file: h5py.File) -> None:
    """Map a virtual dataset that has a gap."""
    virtual(file, (ALL, ALL))
    with h5py.File(Path(file.filename).with_name("beside.hdf5"), "r+") as beside:
        beside.move("x", "y")
        layout = h5py.VirtualLayout((40, 3), "f4")
        layout[:39] = h5py.VirtualSource(".", "y", (40, 3))[:39]
        beside.create_virtual_dataset("x", layout)


def outside(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink("nowhere.hdf5", name)


GAPS = {
    "never written": (lambda f: again(f, "PartType4/Velocities", chunks=True), "was never written"),
    "half written": (half_written, "was never written, or not all of it"),
    "filled": (lambda f: again(f, "PartType0/Masses", chunks=True, fillvalue=1e-5), "was never written"),
    "virtual, rows missing": (lambda f: virtual(f, (slice(0, 39), slice(0, 39))), "leave gaps"),
    "virtual, first row missing": (lambda f: virtual(f, (slice(1, 40), slice(1, 40))), "leave gaps"),
    "virtual, every second": (lambda f: virtual(f, (slice(0, 40, 2), slice(0, 20))), "leave gaps"),
    # As many rows as there are, but some twice and some not at all.
    "virtual, overlapping": (lambda f: virtual(f, *[(slice(i, i + 20),) * 2 for i in (0, 10)]), "leave gaps"),
    "virtual, part cut short": (lambda f: virtual(f, (ALL, ALL), n_rows=39), "not there; cut short"),
    "virtual of virtual": (nested, "leave gaps"),
    "column of nothing": (lambda f: again(f, "PartType4/Light", chunks=True), "was never written"),
    "link to no file": (lambda f: outside(f, "PartType4/Velocities"), "a link to nothing"),
    "group that links to no file": (lambda f: outside(f, "PartType4"), "PartType4 is a link to nothing"),
    "all zeros": (lambda f: (zeros(f, "Coordinates"), zeros(f, "Velocities")), r"40 particles at \(0, 0, 0\)"),
    "integer positions": (lambda f: recast(f, "i4"), "are int32, too coarse for positions"),
    "half-precision positions": (lambda f: recast(f, "f2"), "are float16, too coarse for positions"),
}  # fmt: skip


def zeros(file: h5py.File, name: str) -> None:
    file[f"PartType4/{name}"][...] = 0


def recast(file: h5py.File, kind: str) -> None:
    data = file["PartType4/Coordinates"][()]
    del file["PartType4/Coordinates"]
    file["PartType4/Coordinates"] = data.astype(kind)


@pytest.mark.parametrize("gap", GAPS)
def test_what_is_not_there_is_refused(gap, tmp_path):
    change, words = GAPS[gap]
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda f: f.create_dataset("PartType4/Light", data=np.ones((40, 2))))
    edit(path, change)
    with pytest.raises(SnapshotError, match=f"{re.escape(str(path))}.*{words}"):
        layouts.read(path, "gizmo", tracers=Tracers(stars="light", light_field="Light[1]"))


@pytest.mark.parametrize("form", ["whole", "in columns", "linked", "with an empty part"])
def test_what_lies_elsewhere_is_read(form, tmp_path):
    """A virtual dataset as one block, a column each or beside a part that has nothing, and a group of another file."""
    written = layouts.galaxy()
    path = layouts.fire(tmp_path / "snap.hdf5", written)

    def columns(file: h5py.File) -> None:
        virtual(file, *[(np.s_[:, i], np.s_[:, i]) for i in range(3)])

    def with_empty(file: h5py.File) -> None:
        virtual(file, (ALL, ALL))
        with h5py.File(tmp_path / "empty.hdf5", "w") as empty:
            empty["x"] = np.zeros((0, 3), "f4")
        layout = h5py.VirtualLayout((40, 3), "f4")
        layout[:40] = h5py.VirtualSource("beside.hdf5", "x", (40, 3))
        layout[40:] = h5py.VirtualSource("empty.hdf5", "x", (0, 3))
        del file["PartType4/Velocities"]
        file.create_virtual_dataset("PartType4/Velocities", layout)

    def linked(file: h5py.File) -> None:
        with h5py.File(tmp_path / "beside.hdf5", "w") as beside:
            file.copy("PartType4", beside, "stars")
        del file["PartType4"]
        file["PartType4"] = h5py.ExternalLink("beside.hdf5", "/stars")

    as_one_block = lambda file: virtual(file, (ALL, ALL))  # noqa: E731
    edit(path, {"whole": as_one_block, "in columns": columns, "linked": linked, "with an empty part": with_empty}[form])
    stars_read = layouts.read(path, "gizmo").stars
    np.testing.assert_allclose(stars_read.vel_kms, written.stars.vel_kms, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(stars_read.mass_msun, written.stars.mass_msun, rtol=1e-6)


@pytest.fixture
def few_files() -> Iterator[Callable[[int], None]]:
    """Return a function that lowers the number of files which this process may open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_virtual_snapshot_of_more_parts_than_may_be_open(few_files, tmp_path, monkeypatch):
    """The limit is raised; no zeros are read where it cannot be raised, or where a part cannot be opened."""
    written = layouts.galaxy(300)
    path = layouts.swift_virtual(tmp_path / "snap_028.hdf5", written, files=80)
    few_files(100)
    with Snapshot(path, "swift", tracers=Tracers(gas="hi")) as snapshot:
        galaxy_read = snapshot.galaxy(ORIGIN, 100.0)
        assert len(galaxy_read.stars) == 300
        np.testing.assert_allclose(galaxy_read.stars.mass_msun, written.stars.mass_msun, rtol=1e-6)
        snapshot._kept = {}
        (tmp_path / "snap_028.7.hdf5").rename(tmp_path / "away")
        with pytest.raises(SnapshotError, match="NaN or infinite values in PartType0"):
            snapshot.galaxy(ORIGIN, 100.0)
        (tmp_path / "away").rename(tmp_path / "snap_028.7.hdf5")
    few_files(100)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 100))
    with pytest.raises(
        SnapshotError, match=r"lies in 81 files, and this process may have no more than 100 open; .*ulimit"
    ):
        Snapshot(path, "swift")


def test_files_of_one_snapshot_agree(tmp_path):
    path = layouts.tng(tmp_path / "snap.hdf5", layouts.galaxy(), files=2)
    second = tmp_path / "snap.1.hdf5"
    edit(second, lambda f: f["Header"].attrs.update(MassTable=[0, 1.0, 0, 0, 0, 0]))
    layouts.assert_refused(path, "arepo", "give PartType1 different masses")
    edit(
        second, lambda f: (f["Header"].attrs.update(MassTable=np.zeros(6)), f.update({"PartType1/Masses": np.ones(20)}))
    )
    layouts.assert_refused(path, "arepo", "give PartType1 different masses")
    edit(second, lambda f: f["Header"].attrs.update(Redshift=0.5))
    layouts.assert_refused(path, "arepo", r"snap\.1\.hdf5: its Redshift is not that of snap\.0\.hdf5")


def parts(folder: Path) -> list[Path]:
    layouts.tng(folder / "snap.hdf5", layouts.galaxy(), files=3)
    return [folder / f"snap.{i}.hdf5" for i in range(3)]


def in_other_units(file: h5py.File) -> None:
    for ptype in ("PartType0", "PartType1", "PartType4"):
        file[ptype]["Coordinates"][...] /= 1000
        file[ptype]["Coordinates"].attrs["to_cgs"] = [1000 * layouts.KPC]


def without_stars(file: h5py.File) -> None:
    del file["PartType4"]
    file["Header"].attrs["NumPart_ThisFile"] = [13, 13, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: shutil.copy(p[2], p[2].with_name("snap.3.hdf5")),
            "53 particles of PartType0, and .* says 40",
        ),
        (lambda p: shutil.copy(p[2], p[1]), r"snap\.2\.hdf5: begins with the same particle as snap\.1\.hdf5"),
        (lambda p: edit(p[2], without_stars), "27 particles of PartType4, and NumPart_Total says 40"),
        (lambda p: edit(p[1], in_other_units), r"snap\.1\.hdf5: its datasets are in other units than those of snap\.0"),
        (lambda p: edit(p[1], lambda f: f["Header"].attrs.update(HubbleParam=0.68)), "its HubbleParam is not that of"),
        (lambda p: edit(p[1], lambda f: f["Header"].attrs.update(BoxSize=1.0)), "its BoxSize is not that of"),
    ],
    ids=["left over", "a copy", "cut short", "other units", "other h", "other box"],
)
def test_a_file_that_does_not_belong_to_its_snapshot_is_refused(change, words, tmp_path):
    paths = parts(tmp_path)
    with Snapshot(paths[0], "arepo"):
        pass
    change(paths)
    layouts.assert_refused(paths[0], "arepo", words)


def test_a_filter_that_is_not_installed_is_named(tmp_path):
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    with h5py.File(path, "r+") as file:
        del file["PartType4/Masses"]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((40,))
        creation.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((40,))
        masses = h5py.h5d.create(file["PartType4"].id, b"Masses", h5py.h5t.NATIVE_FLOAT, space, dcpl=creation)
        masses.write_direct_chunk((0,), np.ones(40, "<f4").tobytes())
    layouts.assert_refused(path, "gizmo", r"PartType4/Masses is compressed by filter 32999 .*h5repack.*_PLUGIN_PATH")


def test_counts_of_the_snapshot_that_files_were_cut_out_of_and_lost_high_words_are_no_fault(tmp_path):
    """A cutout may keep the Header of the whole; codes of 32 bits lose the rest of 2^32 + 40."""
    paths = parts(tmp_path)
    for total, high in ([40, 40, 0, 0, 40, 0], [1, 0, 0, 0, 0, 0]), ([99, 99, 0, 0, 99, 0], np.zeros(6)):
        for path in paths:
            edit(path, lambda f: f["Header"].attrs.update(NumPart_Total=total, NumPart_Total_HighWord=high))  # noqa: B023
        if total[0] == 99:  # files with right numbers of their own may be only some of the snapshot's
            layouts.assert_refused(paths[0], "arepo", "its 3 files have 120 of the 297 particles of its snapshot")
            for path in paths:
                edit(path, lambda f: f["Header"].attrs.update(NumPart_ThisFile=[33, 33, 0, 0, 33, 0]))
        with Snapshot(paths[0], "arepo") as snapshot:
            assert snapshot.counts["PartType0"] == 40


# GADGET's binary formats.


def binary(folder: Path, form: int = 1, files: int = 1, **kinds: object) -> Path:
    return layouts.gadget_binary(folder / "snap_028.bin", layouts.galaxy(), files, form, **kinds)  # type: ignore[arg-type]


def put(path: Path, offset: int, struct_format: str, *values: float) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(struct_format, content, offset, *values)
    path.write_bytes(content)


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("fault", ["cut", "one byte", "count", "more", "mark", "end mark", "header mark", "negative"])
def test_a_binary_snapshot_whose_records_do_not_fit_is_refused(fault, form, tmp_path):
    path = binary(tmp_path, form)
    content, header_start = path.read_bytes(), 20 if form == 2 else 4
    first_mark = header_start + 256 + 4 + (16 if form == 2 else 0)
    changes = {
        "cut": lambda: path.write_bytes(content[: len(content) // 2]),
        "one byte": lambda: path.write_bytes(content[:-1]),
        "count": lambda: put(path, header_start, "<i", 39),
        "more": lambda: put(path, header_start + 4, "<i", 2**31 - 1),
        "mark": lambda: put(path, first_mark, "<I", 12),
        "end mark": lambda: put(path, first_mark + 4 + 120 * 12, "<I", 1441),
        "header mark": lambda: put(path, header_start + 256, "<I", 255),
        "negative": lambda: put(path, header_start, "<i", -1),
    }
    changes[fault]()
    layouts.assert_refused(path, "gadget_binary", re.escape(str(path)))


def test_a_binary_snapshot_without_a_block_it_needs_is_refused(tmp_path):
    path = binary(tmp_path, 2)
    content = path.read_bytes()
    vel_start, vel_end = content.index(b"VEL "), content.index(b"ID  ")
    path.write_bytes(content[: vel_start - 4] + content[vel_end - 4 :])
    layouts.assert_refused(path, "gadget_binary", "no block VEL for 360 values")
    path.write_bytes(content[: vel_end - 4] + content[vel_start - 4 : vel_end - 4] + content[vel_end - 4 :])
    layouts.assert_refused(path, "gadget_binary", "two blocks VEL")


@pytest.mark.parametrize("gone", [1, 2])
def test_a_binary_snapshot_needs_all_its_files(gone, tmp_path):
    path = binary(tmp_path, files=3)
    assert [file.name for file in FORMATS["gadget_binary"].files(path)] == [f"snap_028.{i}" for i in range(3)]
    layouts.assert_refused(tmp_path / "snap_028.1", "gadget_binary", r"let `snapshots` match only snap_028\.0")
    put(tmp_path / f"snap_028.{gone}", 4 + 4 * 4, "<i", 0)
    layouts.assert_refused(path, "gadget_binary", "do they belong together")
    (tmp_path / f"snap_028.{gone}").unlink()
    layouts.assert_refused(path, "gadget_binary", f"file number {gone} of this snapshot is missing")
    put(path, 4 + 124, "<i", gone - 1)  # it says that it is one of none, or of one
    layouts.assert_refused(path, "gadget_binary", r"it has 42 of the 120 particles of its snapshot, by NumPart_Total")


def test_blocks_of_no_known_order_give_no_smoothing_lengths(tmp_path):
    """Format 1 has no names: U, RHO, HSML only where nothing else of the gas's size follows."""
    path = binary(tmp_path)
    assert set(blocks_of(path, read_header(path))) == {"POS", "VEL", "ID", "MASS", "U", "RHO", "HSML"}
    with open(path, "ab") as file:
        file.write(struct.pack("<I", 160) + bytes(160) + struct.pack("<I", 160))
    assert "HSML" not in blocks_of(path, read_header(path))
    put(path, 4 + 24 + 48 + 16 + 8 + 24, "<i", 1)  # Flag_Cooling: NE and NH come before HSML
    assert "HSML" not in blocks_of(path, read_header(path))
    with open(path, "ab") as file:
        file.write(struct.pack("<I", 160) + np.ones(40, "<f4").tobytes() + struct.pack("<I", 160))
    assert set(blocks_of(path, read_header(path))) >= {"RHO", "NE", "NH", "HSML"}


# Tipsy.


@pytest.mark.parametrize("real", ["f4", "f8"])
def test_black_holes_of_tipsy_are_no_stars(real, tmp_path):
    written = layouts.galaxy()
    hole = Particles(np.array([[1.0, 2.0, 3.0]]), np.zeros((1, 3)), np.array([1e8]))
    path = layouts.tipsy(tmp_path / "run.00512", replace(written, black_holes=hole), float_type=real)
    with Snapshot(path, "tipsy") as snapshot:
        galaxy_read = snapshot.galaxy(ORIGIN, 100.0)
        assert len(snapshot.everything("stars")) == 40
        assert snapshot.everything("black_holes").mass_msun == pytest.approx([1e8])
    np.testing.assert_allclose(galaxy_read.stars.mass_msun, written.stars.mass_msun, rtol=1e-6)
    np.testing.assert_allclose(galaxy_read.black_holes.pos_kpc, hole.pos_kpc, atol=1e-3)
    old_components = {"stars": ["Stars", "BlackHoles"], "black_holes": []}
    assert len(layouts.read(path, "tipsy", old_components).stars) == 41


@pytest.mark.parametrize(("comove", "n", "asked"), [(1, 35, True), (1, 15, False), (0, 15, True), (0, 5, False)])
def test_old_stars_of_an_isolated_run_are_not_taken_for_black_holes(comove, n, asked, tmp_path):
    written = layouts.galaxy()
    both = replace(written, stars=written.stars[n:], black_holes=written.stars[:n])
    path = layouts.tipsy(tmp_path / "run.00512", both, comove=comove)
    words = rf"Stars: {n} of 40 formed before time began.*BlackHoles"
    assert bool(re.search(words, "\n".join(describe(path)))) == asked
    if asked:
        with pytest.raises(SnapshotError, match=words):
            layouts.read(path, "tipsy")
    said = {"black_holes": ["BlackHoles"]} if asked else {}
    assert len(layouts.read(path, "tipsy", said, radius=200.0).black_holes) == n
    all_stars = {"stars": ["Stars", "BlackHoles"], "black_holes": []}
    assert len(layouts.read(path, "tipsy", all_stars, radius=200.0).stars) == 40


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tipsy_header_without_its_pad_shifts_nothing(order, tmp_path):
    written = layouts.galaxy()
    path = layouts.tipsy(tmp_path / "run.00512", written, order)
    raw = path.read_bytes()
    path.write_bytes(raw[:28] + raw[32:])
    np.testing.assert_allclose(layouts.read(path, "tipsy").stars.mass_msun, written.stars.mass_msun, rtol=1e-6)


@pytest.mark.parametrize(
    ("line", "words"),
    [("dKpcUnit = 1", "dKpcUnit is there twice, with two values"), ("bComove = 1", ""), ("achOutName = a = b", "")],
)
def test_a_parameter_that_comes_twice_has_one_value(line, words, tmp_path):
    path = layouts.tipsy(tmp_path / "run.00512", layouts.galaxy())
    with open(tmp_path / "run.param", "a") as file:
        file.write(f"{line}\n")
    if not words:
        assert FORMATS["tipsy"].units(path, {}).cosmological
        return
    with pytest.raises(SnapshotError, match=words):
        FORMATS["tipsy"].units(path, {})


def test_a_param_without_a_positive_unit_says_so(tmp_path):
    path = layouts.tipsy(tmp_path / "run.00512", layouts.galaxy())
    (tmp_path / "run.param").write_text("bComove = 1\ndKpcUnit = 0\ndMsolUnit = -1\ndHubble0 = 2.9\n")
    with pytest.raises(SnapshotError, match="dKpcUnit = 0 and dMsolUnit = -1"):
        FORMATS["tipsy"].units(path, {})


def test_tipsys_param_tells_double_velocities_from_double_positions(tmp_path):
    """Both have files of one size."""
    written = layouts.galaxy()
    path = layouts.tipsy(tmp_path / "run.00512", written)
    single_file, rows_by_kind = path.read_bytes(), {}
    double_file, offset = single_file[:32], 32
    for kind, n_after in (("gas", 5), ("dark", 2), ("stars", 4)):
        rows = np.frombuffer(
            single_file,
            np.dtype([("m", ">f4"), ("x", ">f4", 3), ("v", ">f4", 3), ("more", ">f4", n_after)]),
            40,
            offset,
        )
        offset += rows.nbytes
        rows_by_kind[kind] = rows
        double_rows = np.zeros(40, np.dtype([("m", ">f4"), ("x", ">f4", 3), ("v", ">f8", 3), ("more", ">f4", n_after)]))
        for name in rows.dtype.names or ():
            double_rows[name] = rows[name]
        double_file += double_rows.tobytes()
    path.write_bytes(double_file)
    with path.with_suffix(".param").open("a") as file:
        file.write("bDoubleVel = 1\n")
    np.testing.assert_allclose(layouts.read(path, "tipsy").stars.vel_kms, written.stars.vel_kms, rtol=1e-5, atol=1e-3)


# Files that are no snapshots.

OTHERS = {
    "nothing": (b"", "is empty"),
    "text": (b"# x y z\n1 2 3\n", "a text file"),
    "umlauts": ("Größe\n".encode(), "a text file"),
    "gzip": (gzip.compress(b"snapshot"), "compressed by gzip; `gunzip` it"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "FITS": (b"SIMPLE  =                    T", "FITS"),
    "noise": (bytes(range(200, 256)) * 20, "of no format that is read"),
    "HDF5 cut short": (b"\x89HDF\r\n\x1a\n" + bytes(30), "cannot be read as HDF5"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_snapshot_says_what_it_is(other, tmp_path):
    content, words = OTHERS[other]
    path = tmp_path / "snap_028"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=f"{re.escape(str(path))}.*{words}"):
        recognised(path)
    formats_to_try = [name for name in FORMATS if not (other == "HDF5 cut short" and FORMATS[name].container == "hdf5")]
    for form in formats_to_try:
        with pytest.raises(SnapshotError, match=re.escape(str(path))) as refused:
            Snapshot(path, form)
        assert re.search(words, str(refused.value)) or other == "HDF5 cut short"


def test_folders_catalogues_and_missing_files_say_what_they_are(tmp_path):
    path = layouts.fire(tmp_path / "snap_028.hdf5", layouts.galaxy())
    with pytest.raises(SnapshotError, match=r"a folder; give a file in it, such as snap_028\.hdf5"):
        recognised(tmp_path)
    (tmp_path / "PART_214" / "Header").mkdir(parents=True)
    (tmp_path / "PART_214" / "Header" / "attr-v2").write_text("")
    with pytest.raises(SnapshotError, match=r"PART_214: a bigfile of MP-Gadget, .*convert_to_hdf5\.py"):
        recognised(tmp_path / "PART_214")
    with pytest.raises(SnapshotError, match="no such file"):
        recognised(tmp_path / "snap_029.hdf5")
    edit(path, lambda f: [f.pop(f"PartType{i}") for i in (0, 1, 4)] and f.create_group("Subhalo"))
    with pytest.raises(SnapshotError, match="without particles, a SUBFIND catalogue"):
        recognised(path)


def test_another_format_is_named(tmp_path):
    """Opened as another format, a file's true format is in the message."""
    paths = {"tipsy": layouts.tipsy(tmp_path / "run.00512", layouts.galaxy()), "gadget_binary": binary(tmp_path),
            "swift": layouts.swift(tmp_path / "snap.hdf5", layouts.galaxy())}  # fmt: skip
    for form, path in paths.items():
        assert recognised(path) == form
        for wrong_format in paths.keys() - {form}:
            layouts.assert_refused(path, wrong_format, f"{re.escape(str(path))}.*`format: {form}`")


# Neutral hydrogen.


def test_molecules_are_neutral_hydrogen(tmp_path):
    """SIMBA stores molecules apart from atoms, of which star-forming gas has few (Davé et al. 2019)."""
    path = layouts.simba(tmp_path / "snap.hdf5", layouts.galaxy())
    atoms, molecules = np.linspace(0, 1, 40), np.full(40, 0.3, np.float32)
    edit(path, lambda f: f["PartType0/FractionH2"].write_direct(molecules))
    gas = layouts.read(path, "simba", tracers=Tracers(gas="hi")).gas
    np.testing.assert_allclose(gas.weight, 0.76 * np.minimum(atoms + 0.3, 1) * gas.mass_msun, rtol=1e-6)


def test_swifts_molecules_are_two_nuclei(tmp_path):
    path = layouts.swift(tmp_path / "snap.hdf5", layouts.galaxy())

    def species(file: h5py.File) -> None:
        for name in ("PartType0/SpeciesFractions", "SubgridScheme/NamedColumns/SpeciesFractions"):
            del file[name]
        file["PartType0/SpeciesFractions"] = np.full((40, 4), [1.0, 0.4, 0.1, 0.25])
        file["SubgridScheme/NamedColumns/SpeciesFractions"] = np.array([b"elec", b"HI", b"HII", b"H2"], "S32")

    edit(path, species)
    gas = layouts.read(path, "swift", tracers=Tracers(gas="hi")).gas
    np.testing.assert_allclose(gas.weight, 0.7 * (0.4 + 2 * 0.25) * gas.mass_msun, rtol=1e-6)


def test_smoothing_lengths_of_zero_are_none(tmp_path):
    """Initial conditions have smoothing lengths of zero; negative ones are damage."""
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    edit(path, lambda f: f["PartType0/SmoothingLength"].write_direct(np.zeros(40, np.float32)))
    assert layouts.read(path, "gizmo").gas.support_kpc is None  # later computed from the distances of neighbours
    edit(path, lambda f: f["PartType0/SmoothingLength"].write_direct(np.full(40, -1, np.float32)))
    with pytest.raises(SnapshotError, match="negative values in SmoothingLength"):
        layouts.read(path, "gizmo")
