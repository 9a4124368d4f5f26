"""One writer per suite, and changes of a store that happen at once or not at all: killed at every step, and raced."""

import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import tree

from kinmass.gen.campaign import failures
from kinmass.gen.campaign.record import Settings
from kinmass.gen.storage import changes, journal, lock, store, suite_group, writer
from kinmass.gen.storage.chunks import chunk_file
from kinmass.gen.suite import Suite
from kinmass.train.data.dataset import read_views
from kinmass.train.run.trained_on import store_identity

#: Pixels of one R_e: a galaxy whose every number is the same has pixels of its R_e.
SMALL = Settings(views=1, pixels=8, field_of_view_re=8)


def stages(action: Callable[[], object], out: Path, into: Path) -> list[Path]:
    """Copy the folder `out` before each change of a file that action() makes: the states in which a kill can leave it.

    Where a file is opened for writing there are two more: it is empty, or holds the first half of what it will hold.
    Runs in a process of its own, because an audit hook cannot be removed again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads of this process stay behind
        child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for opened in into.glob("*.opened"):
            half, place = opened.with_suffix(".half"), Path((opened / "opened").read_text())
            (opened / "opened").unlink()
            if (out / place).is_file():  # else it was written aside
                shutil.copytree(opened, half)
                content = (out / place).read_bytes()
                (half / place).write_bytes(content[: len(content) // 2])
        return sorted(into.iterdir())
    turn, copying = threading.Lock(), threading.local()  # zarr writes in several threads

    def copy_before_change(event: str, arguments: tuple[Any, ...]) -> None:
        changing = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")
        if getattr(copying, "now", False):
            return
        if not (changing or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
            return
        with turn:
            copying.now = True
            stage = into / f"{len(os.listdir(into)):04d}"
            copy_of(out, stage)
            if event == "open" and (place := written_at(out, *arguments)):
                opened = into / f"{stage.name}.opened"
                shutil.copytree(stage, opened)
                (opened / place).write_bytes(b"")
                (opened / "opened").write_text(str(place))
            copying.now = False

    try:
        into.mkdir()
        sys.addaudithook(copy_before_change)
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def written_at(out: Path, path: Any, _: object, flags: int) -> Path | None:
    """Return the place below `out` of a file that is about to be opened, empty, under the name that it is read by."""
    file = Path(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else Path("/")
    if not (file.is_relative_to(out) and flags & (os.O_TRUNC | os.O_EXCL)) or (flags & os.O_EXCL and file.exists()):
        return None
    place = file.relative_to(out)
    return None if ".partial" in str(place) or ".x.changing" in place.parts else place


def copy_of(folder: Path, to: Path) -> None:
    """Copy a folder that another thread may be changing: as before or after a change, never half of one."""
    for _ in range(20):
        try:
            shutil.copytree(folder, to) if folder.exists() else to.mkdir()
        except (shutil.Error, FileNotFoundError):
            shutil.rmtree(to, ignore_errors=True)
        else:
            return
    raise AssertionError(f"{folder} changes all the time")


def record_of(group: zarr.Group, value: float) -> store.Record:
    """A galaxy whose every number is `value`."""
    return {n: np.full(group[n].shape[1:], value, group[n].dtype) for n in store.ARRAYS if n != "status"}


def made(
    out: Path, names: str, per_shard: int = 1, settings: dict[str, Any] | None = None, **place_kpc: float
) -> zarr.Group:
    """Make or grow a store's suite `x` of galaxies named by one letter each, at place_kpc by the catalogue."""
    config = {**asdict(replace(SMALL, galaxies_per_shard=per_shard)), "suite": settings or {}}
    centres = np.array([np.full(3, place_kpc.get(name, np.nan)) for name in names])
    return suite_group.create_suite(out, "x", list(names), [name.upper() for name in names], config, centres)


def held(out: Path) -> dict[str, float | None]:
    """Read the value that each galaxy of `made` holds in all its arrays; None for one that is not done."""
    group = store.open_suite(out, "x")
    names, status = group["galaxy"][:].tolist(), group["status"][:]
    assert group["lineage"][:].tolist() == [name.upper() for name in names]
    arrays = [store.read(group, n).reshape(len(names), -1).astype(float) for n in store.ARRAYS if n != "status"]
    values = [set(np.concatenate([a[i] for a in arrays])) for i in range(len(names))]
    assert all(len(values[i]) == 1 for i in np.flatnonzero(status == store.DONE))
    return {name: values[i].pop() if status[i] == store.DONE else None for i, name in enumerate(names)}


#: What each case begins with, as galaxies and the value that all their arrays hold, and how many lie in a shard.
BEGUN = {
    "made": ("", {}, 1),
    "grown": ("ab", {"a": 10.0, "b": 11.0}, 1),
    "written": ("abc", {"a": 10.0, "b": 11.0}, 1),
    "packed": ("ab", {"a": 10.0, "b": 11.0}, 4),
    "new shard": ("abcdef", {"a": 10.0, "b": 11.0}, 4),
}


@pytest.mark.parametrize("case", BEGUN)
def test_killed_at_every_step_it_goes_on_to_the_same_store(tmp_path, case, monkeypatch):
    """Making a suite, growing it, writing galaxies, also again; also into shards, one with finished and damaged ones.

    At every step whoever reads finds each finished galaxy whole, and all others as they are or as if not there.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)  # power cuts are not tested here
    if case == "packed":
        monkeypatch.setattr(suite_group, "MOST_TOGETHER", 1)  # as maps of many pixels are: damage is to one galaxy
    start, whole, out = (tmp_path / name for name in ("begun", "whole", "out"))
    names, done, per_shard = BEGUN[case]
    if done:
        group = made(start, names, per_shard, b=1.0)
        writer.write_galaxies(group, [1, 0], [record_of(group, 11), record_of(group, 10)])
    if case == "packed":  # its first galaxy is to be mapped again, another one to come
        made(start, "abc", per_shard, b=1.0)
        shard = start / "x" / "maps" / "c.0.0.0.0.0"
        content = bytearray(shard.read_bytes())
        content[10] ^= 16
        shard.write_bytes(content)
        with pytest.raises(store.StoreError, match="maps of galaxy a cannot be read"):
            store.read_galaxy(group, 0)
        store.open_suite(start, "x")["status"][0] = store.PENDING

    def action(folder: Path) -> None:
        group = made(folder, "bdac", b=1.0, c=2.0) if case in ("made", "grown") else store.open_suite(folder, "x")
        if case == "packed":
            writer.write_galaxies(group, [0, 2], [record_of(group, 20), record_of(group, 12)])
        elif case == "written":  # the first is done: its arrays may each be of before or after, but whole
            writer.write_galaxies(group, [0, 2], [record_of(group, 10), record_of(group, 12)])
        elif case == "new shard":
            writer.write_galaxies(group, [4, 5], [record_of(group, 14), record_of(group, 15)])

    if start.exists():
        shutil.copytree(start, whole)
    action(whole)
    expected, after = tree(whole), held(whole)
    if start.exists():
        shutil.copytree(start, out)
    stage_folders = stages(lambda: action(out), out, tmp_path / "stages")
    assert len(stage_folders) > 20
    half_written = {stage for stage in stage_folders if stage.suffix}
    for i, stage in enumerate(stage_folders):
        step = 3 if stage in half_written else 1 if case == "packed" else 2 if (stage / ".x.changes").exists() else 5
        if i % step:
            continue  # many steps of one kind
        if case != "made":
            found = held(stage)
            assert all(found[name] == value for name, value in done.items() if (case, name) != ("packed", "a")), stage
            assert all(value in (None, after[name]) for name, value in found.items()), stage
        if per_shard == 4:
            writer.clear_unfinished(stage, "x", 0)
            writer.clear_unfinished(stage, "x", 1)
        action(stage)
        assert {path: text for path, text in tree(stage).items() if ".partial" not in path} == expected, stage
    if case in ("written", "new shard"):  # what nobody counts on yet is written at its place, all else aside
        assert len(half_written) == 2 * len(store.ARRAYS) - 2
    else:
        assert not half_written
    if case == "packed":
        assert held(out) == {"a": 20.0, "b": 11.0, "c": 12.0}


def test_a_change_goes_with_the_suite_that_was_removed(tmp_path, monkeypatch):
    """A process is killed once a change is decided, the suite is removed, as messages propose, and made otherwise."""

    def killed(folder):
        if (tmp_path / ".x.changes").exists():
            raise KeyboardInterrupt

    made(tmp_path, "ab")
    with monkeypatch.context() as patch:
        patch.setattr(journal, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, "abc")
    decided = shutil.copytree(tmp_path / ".x.changes", tmp_path / "kept")
    assert held(tmp_path).keys() == {*"abc"}  # without the removal it is done
    shutil.copytree(decided, tmp_path / ".x.changes")
    shutil.rmtree(tmp_path / "x")
    made(tmp_path, "zyx")
    assert list(held(tmp_path)) == [*"zyx"]


def test_what_an_earlier_version_left_half_grown_is_mended(tmp_path):
    group = made(tmp_path, "ab")
    writer.write_galaxies(group, [0, 1], [record_of(group, 10), record_of(group, 11)])
    for name in store.ARRAYS:
        group[name].resize((4, *group[name].shape[1:]))
    with pytest.raises(store.StoreError, match="of 2 and 4 galaxies: a process was killed"):
        store.open_suite(tmp_path, "x")
    for name in ("lineage", "galaxy"):
        group[name].resize((4,))
    for names in ("ab", "abcd", "abcde"):
        made(tmp_path, names)
        assert held(tmp_path) == {"a": 10.0, "b": 11.0} | dict.fromkeys(names[2:])


@pytest.mark.parametrize("per_shard", [1, 3])
def test_a_finished_galaxy_of_which_an_array_has_no_file_is_named(tmp_path, per_shard):
    """Whoever reads it, one or all; galaxies that are not done have nothing to show yet."""
    group = made(tmp_path / "maps", "abcdef", per_shard=per_shard)
    writer.write_galaxies(group, [0, 1, 3], [record_of(group, v) for v in (10, 11, 13)])
    for name in sorted(store.MARKED):
        array = group[name]
        nothing = np.full(array.shape[1:], store.ARRAYS[name].fill)
        np.testing.assert_array_equal(store.read(group, name, 5), nothing)
        file = chunk_file(array, (3 // per_shard, *(0,) * (array.ndim - 1)))
        file.rename(tmp_path / "kept")
        for select in (3, slice(None), np.array([4, 3])):
            with pytest.raises(store.StoreError, match=f"{name} of galaxy d was never written, or deleted.*--repair"):
                store.read(group, name, select)
        assert [store.is_damaged(group, number) for number in (3, 1)] == [True, False]
        assert [set(values.ravel()) for values in store.read(group, name, np.array([1, 0]))] == [{11}, {10}]
        if per_shard > 1:  # it would be written anew without its numbers
            with pytest.raises(store.StoreError, match="galaxy d"):
                writer.write_galaxies(group, 4, [record_of(group, 14)])
        (tmp_path / "kept").rename(file)
    assert held(tmp_path / "maps") == {"a": 10.0, "b": 11.0, "c": None, "d": 13.0, "e": None, "f": None}


def test_every_write_names_its_galaxies(tmp_path):
    """In any order, over several shards, beside what is there; what cannot be is refused before anything is written."""
    group = made(tmp_path, "abcdefg", per_shard=3)
    writer.write_galaxies(group, [6, 1, 0], [record_of(group, v) for v in (16, 11, 10)])
    writer.write_galaxies(group, [5, 2], [record_of(group, 15), None])
    writer.write_galaxies(group, 4, [record_of(group, 14)])
    assert held(tmp_path) == {"a": 10.0, "b": 11.0, "c": None, "d": None, "e": 14.0, "f": 15.0, "g": 16.0}
    assert group["status"][:].tolist() == [1, 1, 2, 0, 1, 1, 1]
    before = tree(tmp_path)
    for numbers in ([1, 1], [6, 7], [-1, 0]):
        with pytest.raises(store.StoreError, match="has galaxies 0 to 6, not"):
            writer.write_galaxies(group, numbers, [record_of(group, 99)] * 2)
    with pytest.raises(ValueError, match="zip"):
        writer.write_galaxies(group, [0, 1], [record_of(group, 99)])
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["maps", "has_gas"])
def test_a_writer_that_was_taken_for_dead_spoils_nothing(tmp_path, name):
    """It hangs in the middle of a chunk while another writes the galaxy, and goes on when that one is done."""
    group = made(tmp_path, "ab")
    writer.write_galaxies(group, 0, [record_of(group, 10)])
    place = chunk_file(group[name], (1, *(0,) * (group[name].ndim - 1)))
    with open(place, "xb", buffering=0) as hanging:  # as a writer opens a chunk that is not there yet
        hanging.write(b"first half")
        assert held(tmp_path) == {"a": 10.0, "b": None}
        writer.write_galaxies(group, 1, [record_of(group, 11)])
        hanging.write(b"second half")
    assert held(tmp_path) == {"a": 10.0, "b": 11.0}


def test_what_is_half_written_is_missing_only_while_it_is_not_done(tmp_path):
    """And an unreadable chunk of a finished galaxy stays an error, whatever is read with it."""
    group = made(tmp_path, "abcd")
    writer.write_galaxies(group, [0, 1], [record_of(group, 10), record_of(group, 11)])
    chunk_file(group["mass"], (2, 0, 0)).write_bytes(b"half")
    assert np.isnan(store.read(group, "mass")[2:]).all()
    assert (store.read(group, "mass", np.array([2, 1, 0]))[1:, 0, 0] == [11, 10]).all()
    assert np.isnan(store.read(group, "mass", 2)).all()
    chunk_file(group["mass"], (1, 0, 0)).write_bytes(b"half")
    for select in (slice(None), np.array([2, 1]), 1):
        with pytest.raises(store.StoreError, match="mass of galaxy b cannot be read"):
            store.read(group, "mass", select)
    assert (store.read(group, "mass", 0) == 10).all()


def test_galaxies_that_are_done_are_those_that_the_suite_has(tmp_path):
    """A name alone is no galaxy: a table without ids, sorted anew, has the same names in other places."""
    group = made(tmp_path, "abc", a=1.0, b=500.0, c=900.0)
    writer.write_galaxies(group, [0, 1], [record_of(group, 10), record_of(group, 11)])
    before = tree(tmp_path)
    made(tmp_path, "cab", a=1.0, b=500.05, c=900.0)
    assert tree(tmp_path) == before
    with pytest.raises(
        store.StoreError, match=r"other galaxies .* a is done at \(1, 1, 1\) kpc, .*it at \(500, 500, 500\)"
    ):
        made(tmp_path, "abc", a=500.0, b=1.0, c=900.0)
    with pytest.raises(store.StoreError, match="b is done, and gone"):
        made(tmp_path, "acd", a=1.0, c=900.0)
    assert tree(tmp_path) == before
    made(tmp_path, "abc", a=1.0, b=500.0, c=910.0)  # not done: its catalogue may be mended
    made(tmp_path, "abd", a=1.0, b=500.0, d=7.0)
    group = store.open_suite(tmp_path, "x")
    assert group["galaxy"][:].tolist() == ["a", "b", "c", "d"]
    assert group["catalogue_centre"][:, 0].tolist() == [1.0, 500.0, 910.0, 7.0]


GOOD = {"name": "x", "format": "gizmo", "snapshots": "*.hdf5", "aperture": {"kpc": 30.0}}
SELECTED = {"selection": {"min_stars": 200, "max_galaxies": 10, "stellar_mass_msun": [1e9, None]}}


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"snapshots": "*/*.hdf5", "catalogue": {"format": "ahf", "path": "b"}}, ""),
        ({"selection": {"min_stars": 50, "which": "all"}}, ""),
        ({"selection": {"max_galaxies": 20, "stellar_mass_msun": [1e8, None]}}, ""),
        ({"aperture": {"kpc": 60}}, "suite.aperture.kpc: 30 -> 60"),
        ({"aperture": {"r200": 0.2}}, "suite.aperture.kpc: 30 -> none; suite.aperture.r200: none -> 0.2"),
        ({"selection": {"min_stars": 300}}, "suite.selection.min_stars: 200 -> 300"),
        ({"selection": {"max_galaxies": 5}}, "suite.selection.max_galaxies: 10 -> 5"),
        (
            {"selection": {"halo_mass_msun": [1e11, None]}},
            "suite.selection.halo_mass_msun: none -> [100000000000.0, None]",
        ),
        (
            {"selection": {"stellar_mass_msun": [1e9, 1e11]}},
            "suite.selection.stellar_mass_msun: [1000000000.0, None] -> ",
        ),
        ({"tracers": {"gas": "hi"}}, "suite.tracers.gas: all -> hi"),
        ({"lineage": "g"}, "suite.lineage: none -> g"),
        ({"views": 3}, "views: 1 -> 3"),
    ],
)
def test_settings_that_only_add_galaxies_pass_and_others_are_named(tmp_path, change, refusal):
    def settings(**changed: Any) -> dict[str, Any]:
        base = GOOD | SELECTED | {"catalogue": {"format": "ahf", "path": "a"}}
        selection = {"selection": base["selection"] | changed.pop("selection", {})}
        return Suite(**(base | changed | selection)).model_dump(mode="json", exclude={"root"})

    def again() -> zarr.Group:
        suite_changes = {key: value for key, value in change.items() if key != "views"}
        config = {**asdict(SMALL), "suite": settings(**suite_changes)} | ({"views": 3} if "views" in change else {})
        return suite_group.create_suite(tmp_path, "x", ["a", "b"], ["A", "B"], config)

    group = made(tmp_path, "ab", settings=settings())
    writer.write_galaxies(group, [0], [None])
    if refusal:  # while no galaxy is done any setting may change
        assert again()["status"][:].tolist() == [0, 0]
        shutil.rmtree(tmp_path / "x")
        group = made(tmp_path, "ab", settings=settings())
    writer.write_galaxies(group, [0], [record_of(group, 1)])
    before = tree(tmp_path)
    if not refusal:
        group = again()
        assert not changes.refused(group.attrs["config"], json.loads(json.dumps(group.attrs["config"])))
        assert group.attrs["config"]["suite"] != settings()
        assert group["status"][:].tolist() == [1, 0]
        return
    with pytest.raises(store.StoreError) as error:
        again()
    assert refusal in str(error.value)
    assert f"1 galaxy made with other settings ({refusal}" in str(error.value)
    assert f"remove {tmp_path / 'x'} first: its other suites stay" in str(error.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("units", [{}, {"box": "none"}, {"box": 1000.0}, {"cosmological": False}, {"length_kpc": 2.0}])
def test_what_has_not_changed_is_not_refused(units):
    suite = Suite(**GOOD, units=units)
    config = {"suite": suite.model_dump(mode="json", exclude={"root"})}
    assert Suite(**suite.model_dump()) == suite
    assert changes.refused(config, config) == []
    assert changes.refused(config, {"suite": {**config["suite"], "units": {"box": 7.0}}}) != []


def test_keys_that_came_later_count_as_their_defaults():
    current = Suite(**GOOD).model_dump(mode="json", exclude={"root"})
    earlier = {key: value for key, value in current.items() if key not in ("tracers", "selection")}
    assert changes.refused({"suite": earlier}, {"suite": current}) == []


def test_results_are_not_written_into_a_store(tmp_path):
    (tmp_path / "maps.zarr" / "quiet").mkdir(parents=True)
    (tmp_path / "maps.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "maps.zarr")
    for name in ("maps.zarr", "maps.zarr/results", "maps.zarr/quiet/a/b", "link/results"):
        with pytest.raises(store.StoreError, match=r"in the map store .*maps\.zarr, where results do not belong"):
            store.refuse_inside(tmp_path / name)
    store.refuse_inside(tmp_path / "results")


def test_consolidated_metadata_never_hides_what_comes_later(tmp_path):
    group = made(tmp_path, "ab")
    writer.write_galaxies(group, [0, 1], [record_of(group, 10), record_of(group, 11)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "x")
        zarr.consolidate_metadata(tmp_path)
    group = made(tmp_path, "abc")
    writer.write_galaxies(group, [2], [record_of(group, 12)])
    assert held(tmp_path) == {"a": 10.0, "b": 11.0, "c": 12.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # by default xarray proposes to consolidate
        data = xr.open_zarr(tmp_path, group="x")
    with data:
        assert dict(data.sizes)["galaxy"] == 3
        assert data["catalogue_centre"].dims == ("galaxy", "xyz")
        assert (data["maps"][2] == 12).all()


def _make_suite(out: Path, suite: str, barrier: Any) -> None:
    barrier.wait()
    config = {**asdict(SMALL), "suite": {}}
    with lock.hold(out / ".locks" / suite, suite):
        group = suite_group.create_suite(out, suite, ["a"], ["A"], config)
        writer.write_galaxies(group, [0], [record_of(group, 1)])
    for i in range(3):
        failures.add(out, [failures.line(suite, f"a{i}", "why")])
    failures.replace_all(out, {suite}, [failures.line(suite, "a", "why")])


@pytest.mark.parametrize("suites", ["xxxx", "wxyz"])
def test_stores_are_made_by_several_jobs_at_one_moment(tmp_path, suites):
    """One suite by all of them, or each its own, as arrays of jobs do."""
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        out, barrier = tmp_path / f"m{attempt}.zarr", context.Barrier(len(suites))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            jobs = [context.Process(target=_make_suite, args=(out, suite, barrier)) for suite in suites]
            for job in jobs:
                job.start()
        for job in jobs:
            job.join(120)
        assert [job.exitcode for job in jobs] == [0] * len(suites)
        assert store.suites(out) == sorted(set(suites))
        assert all(store.open_suite(out, suite)["status"][:].tolist() == [store.DONE] for suite in suites)
        assert [line["suite"] for line in failures.noted(out)] == sorted(set(suites))
        assert {path.name for path in out.iterdir()} == {*suites, "zarr.json", "failures.jsonl"}


def _owner(path: Path, **changed: Any) -> None:
    """A lock as another process would have left it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(replace(lock._myself(), token="theirs", **changed))))


def test_a_lock_is_held_by_one_and_says_by_whom(tmp_path):
    path = tmp_path / "m.zarr" / ".locks" / "x"
    with lock.hold(path, "the suite"):
        began = time.monotonic()
        busy = pytest.raises(lock.Busy, match=rf"the suite is being written by process {os.getpid()} on .* since 20")
        with busy, lock.hold(path, "the suite", patience_s=0.3):
            pytest.fail("held by two")
        assert 0.3 < time.monotonic() - began < 30
    assert not (tmp_path / "m.zarr").exists()
    with lock.hold(path, "the suite"):
        pass


@pytest.mark.parametrize(
    ("owner", "silent_s", "free"),
    [
        ({"pid": 2**22 + 1}, 0, True),  # killed on this machine
        ({"began": "1"}, 0, True),  # its number has been given to another process since
        ({}, 1e6, False),  # stopped for a while: it lives
        ({"machine": "n7 boot", "host": "n7"}, 0, False),
        ({"machine": "n7 boot", "host": "n7"}, lock.STALE_S + 5, True),
        ({"machine": "n7 boot", "host": "n7", "job": "77", "restarts": 0}, 0, True),  # queued again on another node
        ({"machine": "n7 boot", "host": "n7", "job": "77", "restarts": 1}, 0, False),  # another step of the same job
        ({"machine": "n7 boot", "host": "n7", "job": "76", "restarts": 0}, 0, False),
    ],
)
def test_a_lock_outlives_no_owner(tmp_path, monkeypatch, owner, silent_s, free):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    path = tmp_path / ".locks" / "x"
    _owner(path, **owner)
    os.utime(path, (time.time() - silent_s,) * 2)
    if free:
        with lock.hold(path, "it") as held_lock:
            assert json.loads(path.read_text())["token"] == held_lock.owner.token
        assert not path.exists()
        return
    with pytest.raises(lock.Busy), lock.hold(path, "it", patience_s=0.2):
        pass
    assert json.loads(path.read_text())["token"] == "theirs"


@pytest.mark.parametrize("age_s", [1.0, -3e7], ids=["old", "of the future"])
def test_an_owner_that_may_be_dead_is_waited_for(tmp_path, monkeypatch, capsys, age_s):
    """Also where a clock was set back: the lock would not grow old for a year."""
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "STALE_S", 1.5)
    path = tmp_path / ".locks" / "x"
    _owner(path, machine="n7 boot", host="n7")
    os.utime(path, (time.time() - age_s,) * 2)
    began = time.monotonic()
    with lock.hold(path, "it", patience_s=0):
        assert time.monotonic() - began >= 1.4 - max(0, age_s)
    assert "on n7" in capsys.readouterr().err


def test_a_lock_of_the_future_whose_owner_lives_is_touched(tmp_path):
    path = tmp_path / ".locks" / "x"
    _owner(path, machine="n7 boot", host="n7")
    os.utime(path, (time.time() + 3e7,) * 2)
    touched = threading.Timer(0.3, os.utime, (path,))
    touched.start()
    with pytest.raises(lock.Busy, match="on n7"), lock.hold(path, "it", patience_s=0):
        pass
    touched.join()


def test_a_lock_below_a_link_to_nothing_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "MAKING_S", 0.05)
    (tmp_path / "m.zarr").symlink_to(tmp_path / "purged")
    with pytest.raises(OSError, match=r"m\.zarr"), lock.hold(tmp_path / "m.zarr" / ".locks" / "x", "it"):
        pass


def test_whoever_loses_a_lock_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    path = tmp_path / ".locks" / "x"
    with lock.hold(path, "it") as held_lock:
        held_lock.check()
        _owner(path, host="n8")
        time.sleep(0.5)
        with pytest.raises(lock.Busy, match=r"taken over by process .* on n8"):
            held_lock.check()
    assert path.exists()


def test_a_lock_of_a_file_system_without_links(tmp_path, monkeypatch):
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / ".locks" / "x"
    with lock.hold(path, "it"), pytest.raises(lock.Busy), lock.hold(path, "it", patience_s=0):
        pass
    assert not path.exists()


def test_a_store_on_a_file_system_without_links(tmp_path, monkeypatch):
    """As exFAT, SMB and folders that virtual machines share are; zarr makes groups by a link."""

    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    group = made(tmp_path, ["a"])
    writer.write_galaxies(group, 0, [record_of(group, 1.0)])
    made(tmp_path, ["a", "b"])  # its labels are written anew
    assert held(tmp_path) == {"a": 1.0, "b": None}


def _compete(path: Path, log: Path, barrier: Any) -> None:
    barrier.wait()
    with lock.hold(path, "it", patience_s=100):
        with open(log, "a") as file:
            file.write("in\n")
        time.sleep(0.01)
        with open(log, "a") as file:
            file.write("out\n")


def test_of_many_that_take_over_from_the_dead_one_is_first(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        path, log, barrier = tmp_path / ".locks" / f"x{attempt}", tmp_path / f"log{attempt}", context.Barrier(6)
        _owner(path, pid=2**22 + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            jobs = [context.Process(target=_compete, args=(path, log, barrier)) for _ in range(6)]
            for job in jobs:
                job.start()
        for job in jobs:
            job.join(120)
        assert log.read_text().split() == ["in", "out"] * 6
    assert not (tmp_path / ".locks").exists()


def test_a_suite_is_no_store(map_store):
    with pytest.raises(store.StoreError, match=r"is one suite of the store .*: give that"):
        store.suites(map_store / "quiet")


def test_a_suite_under_another_name_is_refused(own_store):
    """Renamed or copied, it would count as a simulation that no network has seen."""
    (own_store / "quiet").rename(own_store / "calm")
    for read in (
        lambda: store.open_suite(own_store, "calm"),
        lambda: store.without_dark_matter(own_store, store.suites(own_store)),
    ):
        with pytest.raises(
            store.StoreError, match=r"maps\.zarr/calm is the suite quiet under another name.* rename the"
        ):
            read()
    shutil.copytree(own_store / "calm", own_store / "quiet")
    assert store.open_suite(own_store, "quiet")


@pytest.mark.parametrize("place", ["maps.zarr/quiet", "file"])
def test_no_store_is_made_where_there_is_none_to_be(own_store, mocks, tmp_path, capsys, place):
    """A store inside one of a store's suites was made, and then refused; its arrays stayed there."""
    from kinmass.gen.__main__ import main

    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["maps", str(mocks / "quiet" / "quiet.yaml"), "--out", str(tmp_path / place)]) == 2
    assert ("is one suite of the store" if "/" in place else "is a file, and a map store is") in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *product(
            ["zarr.json", "maps/zarr.json", "galaxy/zarr.json", "galaxy/c/0", "lineage/c/0"], [b"", b"{}", b"[1]"]
        ),
        ("galaxy/c/0", None),  # zarr would read empty names
        ("lineage/c/0", None),
    ],
)
def test_a_damaged_file_that_a_suite_depends_on_is_named(own_store, mocks, capsys, name, content):
    from kinmass.gen.__main__ import main

    (own_store / "quiet" / name).unlink() if content is None else (own_store / "quiet" / name).write_bytes(content)
    for read in (
        lambda: store.read_labels(store.open_suite(own_store, "quiet"), name.split("/")[0]),
        lambda: store_identity(own_store, ["quiet"]),
        lambda: read_views(own_store, "quiet"),
    ):
        with pytest.raises(
            store.StoreError, match=r"maps\.zarr/quiet.*(is damaged|lacks|schema version None)"
        ) as error:
            read()
        assert len(str(error.value).splitlines()) == 1
    line = ["maps", mocks / "quiet" / "quiet.yaml", "--views", 2, "--pixels", 16, "--out", own_store]
    assert main([*map(str, line)]) == 2
    assert "maps.zarr/quiet" in capsys.readouterr().err.splitlines()[-1]
