"""Plans: what ranks send each other is what rank 0 planned, and what is done is read as zarr reads it."""

import errno
import json
import os
import pickle
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest
from conftest import called
from test_faults import SMALL, write_box

from kinmass.gen.campaign import doubles
from kinmass.gen.campaign.batches import Batches
from kinmass.gen.campaign.doubles import pairs_within
from kinmass.gen.campaign.failures import unforeseen
from kinmass.gen.campaign.listing import Listing, keep_all, list_snapshot
from kinmass.gen.campaign.plan import Task, list_tasks, plan
from kinmass.gen.campaign.record import Settings
from kinmass.gen.catalogues.base import Halo
from kinmass.gen.formats import FORMATS
from kinmass.gen.look.check import describe
from kinmass.gen.storage import galaxy_reader, store
from kinmass.gen.suite import Suite, SuiteError, load_suite


def planned(n):
    """Galaxies of two suites and some snapshots, in batches of one to three, some unknown in all that may be."""
    rng = np.random.default_rng(4)
    suites = [Suite(name=name, format="gizmo", snapshots="*.hdf5", aperture={"kpc": 30}) for name in ("a", "b")]
    batches = []
    for i in range(n):
        suite = suites[int(rng.integers(2))]
        path = suite.root / f"snap_{rng.integers(3)}.hdf5"
        haloes = [
            None,
            Halo("7", None),
            Halo("8", rng.uniform(size=3), 1.5, 3, None, True, lineage="x"),
            Halo("9", rng.uniform(size=3)),
        ]
        batch = []
        for k in range(int(rng.integers(1, 4))):
            halo = haloes[int(rng.integers(4))]
            problem = unforeseen(path, KeyError("x")) if halo is None else ""
            batch.append(Task(suite, 3 * i + k, f"galaxy {i} {k}", path, halo, problem, bool(k % 2), i, 10 + i % 2))
        batches.append(batch)
    return batches


def test_ranks_get_the_galaxies_that_were_planned():
    batches = planned(40)
    sent = pickle.loads(pickle.dumps(Batches(batches, np.arange(40.0).tolist())))
    assert len(sent) == 40
    assert sent.costs == list(range(40))
    for batch, got in zip(batches, sent, strict=True):
        for task, other in zip(batch, got, strict=True):
            centres = [None if t.halo is None else t.halo.centre_kpc for t in (task, other)]
            assert (centres[0] is None) == (centres[1] is None)
            assert centres[0] is None or np.array_equal(*centres)
            bare = [replace(t, halo=t.halo and t.halo._replace(centre_kpc=None)) for t in (task, other)]
            assert bare[0] == bare[1]
            assert getattr(task.problem, "traceback", "") == getattr(other.problem, "traceback", "")
    for origin in set(sent.origins):
        firsts = {(b[0].snapshot, b[0].suite.name) for b, o in zip(batches, sent.origins, strict=True) if o == origin}
        assert len(firsts) == 1
    assert sent.suite_names == ["a", "b"]
    with pytest.raises(IndexError):
        sent[40]


@pytest.mark.parametrize("shard", [1, 4])
def test_statuses_that_are_read_by_files_are_those_of_zarr(tmp_path, shard):
    box, out = write_box(tmp_path / "box", galaxies=6), tmp_path / "maps.zarr"
    called("gen", "maps", box, "--out", out, *SMALL, "--galaxies-per-shard", shard)
    group = store.open_suite(out, "box")
    written = galaxy_reader.written_chunks(group)
    assert written == list(range(-(-6 // shard)))
    files = sorted((out / "box" / "status" / "c").iterdir())
    files[0].unlink()
    left = galaxy_reader.written_chunks(group)
    assert left == written[1:]
    status = np.full(6, store.PENDING)
    for first, read in galaxy_reader.read_statuses(group, left).items():
        status[first : first + len(read)] = read
    assert status.tolist() == store.read_status(group).tolist() == [store.PENDING] * shard + [store.DONE] * (6 - shard)
    content = bytearray(files[1].read_bytes())
    content[3] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(store.StoreError, match="--repair"):
        galaxy_reader.read_statuses(group, left)
    read = galaxy_reader.read_statuses(group, left, unreadable_is_damaged=True)
    both = np.concatenate(list(read.values()))
    assert both.tolist() == store.read_status(group, unreadable_is_damaged=True)[shard:].tolist()
    assert store.DAMAGED in both


def test_a_table_of_several_snapshots_says_whose_its_galaxies_are(tmp_path):
    """Zooms that are all centred on their galaxies: each would have been mapped by the names of all of them."""
    zooms = [tmp_path / f"zoom_{name}.hdf5" for name in "ab"]
    for path in zooms:
        layouts.fire(path, layouts.galaxy())
    suite = Suite(name="zooms", format="gizmo", snapshots="*.hdf5", aperture={"kpc": 30}, root=tmp_path,
                  catalogue={"format": "table", "path": "t.csv"}, selection={"min_stars": 1})  # fmt: skip
    (tmp_path / "t.csv").write_text("id,x,y,z,r200\na,0,0,0,200\nb,0,0,0,150\n")
    with pytest.raises(SuiteError, match=r"t\.csv lists the same 2 galaxies for .*zoom_a\.hdf5 and .*zoom_b\.hdf5; "):
        list_tasks(suite)
    (tmp_path / "t.csv").write_text("id,snapshot,x,y,z,r200\na,zoom_a,0,0,0,200\nb,zoom_b,0,0,0,150\n")
    assert [task.name for task in list_tasks(suite)] == ["zoom_a:a", "zoom_b:b"]
    (tmp_path / "t.csv").write_text("x,y,z\n0,0,0\n")  # one galaxy at several times
    assert [task.name for task in list_tasks(suite)] == ["zoom_a:0", "zoom_b:0"]


@pytest.mark.parametrize(
    ("names", "word", "unclear", "clear"),
    [
        (("DD0042/DD0042.hdf5", "RD0042/RD0042.hdf5"), "42", "42", ("DD0042", "RD0042")),
        (("a/snap_007.hdf5", "b/snap_007.hdf5"), "snap_007", "snap_007", ("a/snap_007", "b/snap_007.hdf5")),
        (("a/snap_007.hdf5", "b/snap_007.hdf5"), "snap_007.hdf5", "snap_007.hdf5", ("a/snap_007", "b/snap_007")),
        (("a/snap_007.hdf5", "b/snap_7.hdf5"), "007", "007|7", ("a/snap_007", "b/snap_7")),
    ],
)
def test_a_row_for_two_snapshots_at_once_is_refused(tmp_path, names, word, unclear, clear):
    """Runs side by side have outputs of one number; rows of one would be mapped in the other as well."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        layouts.fire(tmp_path / name, layouts.galaxy())
    runs = tmp_path / "runs.yaml"
    runs.write_text(
        "name: runs\nformat: gizmo\nsnapshots: '*/*.hdf5'\naperture: {kpc: 30}\nselection: {min_stars: 1}\n"
        "catalogue: {format: table, path: t.csv}\n"
    )
    suite = load_suite(runs)
    (tmp_path / "t.csv").write_text(f"id,snapshot,x,y,z,r200\na,{word},0,0,0,200\n")
    with pytest.raises(SuiteError, match=rf"`snapshot` ({unclear}) names .* and .* alike; write the ends of"):
        list_tasks(suite)
    assert f"wrong       suite runs: {tmp_path / 't.csv'}: `snapshot` " in "\n".join(describe(runs))
    (tmp_path / "t.csv").write_text('id,snapshot,x,y,z\na,"' + 200_000 * "x" + ",0,0,0\n")
    tasks = list_tasks(suite)  # a table that cannot be read is said by the listing of each snapshot
    assert len(tasks) == 2
    assert all("t.csv: " in task.problem for task in tasks)
    (tmp_path / "t.csv").write_text(f"id,snapshot,x,y,z\na,{clear[0]},0,0,0\nb,{clear[1]},0,0,0\n")
    assert [task.name[-2:] for task in list_tasks(suite)] == [":a", ":b"]


def test_a_catalogue_found_by_a_number_is_not_that_of_two_runs(tmp_path):
    """`{number}` is the same in both: their galaxies would be those of one of them."""
    for run in "ab":
        (tmp_path / run).mkdir()
        layouts.fire(tmp_path / run / "snap_007.hdf5", layouts.galaxy())
    suite = Suite(name="runs", format="gizmo", snapshots="*/*.hdf5", aperture={"kpc": 30}, root=tmp_path,
                  catalogue={"format": "table", "path": "t_{number}.csv"}, selection={"min_stars": 1})  # fmt: skip
    (tmp_path / "t_007.csv").write_text("id,x,y,z,r200\na,0,0,0,200\nb,0,0,0,150\n")
    with pytest.raises(SuiteError, match=r"t_007\.csv lists the same 2 galaxies for .*a/snap_007.* and .*b/snap_007"):
        list_tasks(suite)
    (tmp_path / "b" / "t_007.csv").write_text("id,x,y,z,r200\na,0,0,0,200\nb,0,0,0,150\n")
    assert len(list_tasks(suite)) == 4


def test_what_is_read_otherwise_now_does_not_go_into_a_store_of_before(tmp_path, monkeypatch):
    """A store whose galaxies were made of the same files by other rules keeps to them; one without any is made anew."""
    suite, settings, out = load_suite(write_box(tmp_path / "box", galaxies=2)), Settings(2, 16), tmp_path / "maps.zarr"
    plan([suite], out, settings)
    monkeypatch.setattr(type(FORMATS[suite.format]), "version_of_reading", 2)
    plan([suite], out, settings)  # nothing was mapped yet
    store.open_suite(out, suite.name)["status"][0] = store.DONE
    plan([suite], out, settings)
    monkeypatch.setattr(type(FORMATS[suite.format]), "version_of_reading", 3)
    with pytest.raises(store.StoreError, match=r"holds 1 galaxy made .* \(version_of_reading: 2 -> 3\).*--out"):
        plan([suite], out, settings)
    monkeypatch.undo()
    with pytest.raises(store.StoreError, match=r"\(version_of_reading: 2 -> none\)"):
        plan([suite], out, settings)


def test_a_copy_of_a_snapshot_is_told_where_its_galaxies_would_have_other_names(tmp_path, capsys):
    """Copies of one lineage are on one side of the split; other centres are other galaxies."""
    suite = load_suite(write_box(tmp_path / "box", galaxies=2))
    (suite.root / "copy.hdf5").symlink_to(suite.root / "001.hdf5")
    assert len(list_tasks(suite)) == 3
    assert (
        "copy.hdf5 is a copy of 001.hdf5: one could be in a test and the other in training" in capsys.readouterr().err
    )
    assert len(list_tasks(suite.model_copy(update={"lineage": "(?<=:)0"}))) == 3
    rows = "".join(f"{name},0,500,500,{z},100\n" for name, z in (("000", 500), ("001", 500), ("copy", 501)))
    (suite.root / "centres.csv").write_text(f"snapshot,id,x,y,z,r200\n{rows}")
    assert len(list_tasks(suite)) == 3
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("apart", "lineage", "lineages", "said"),
    [(0.01, None, "", True), (1e-5, None, "", False), (0.01, r"^\w+", "", False), (0.01, None, ",lineage", False)],
)
def test_snapshots_of_several_times_without_a_lineage_are_told(tmp_path, capsys, apart, lineage, lineages, said):
    """A galaxy at two times would be in a test and, hardly changed, in training."""
    for name, a in (("zoom_1", layouts.A), ("zoom_2", layouts.A + apart)):
        with h5py.File(layouts.fire(tmp_path / f"{name}.hdf5", layouts.galaxy()), "r+") as file:
            file["Header"].attrs.update({"Time": a, "Redshift": 1 / a - 1})
    (tmp_path / "t.csv").write_text(f"x,y,z,r200{lineages}\n0,0,0,100{',one' if lineages else ''}\n")
    config = {"name": "zooms", "format": "gizmo", "snapshots": "*.hdf5", "aperture": {"kpc": 30},
              "catalogue": {"format": "table", "path": "t.csv"}, "selection": {"min_stars": 1}}  # fmt: skip
    (tmp_path / "s.yaml").write_text(json.dumps(config | ({"lineage": lineage} if lineage else {})))
    assert len(list_tasks(load_suite(tmp_path / "s.yaml"))) == 2
    words = "its snapshots are of several times (a = 0.6 to 0.61), and no `lineage`"
    assert (words in capsys.readouterr().err) == said == (words in "".join(describe(tmp_path / "s.yaml")))


@pytest.mark.parametrize(("times", "said"), [((0.5, 1.0), True), ((1.0, 1.0004), False)])
def test_outputs_of_a_run_without_expansion_are_of_several_times(tmp_path, capsys, times, said):
    """They all have a = 1: one galaxy at two times was on both sides of the split in silence."""
    for number, time in enumerate(times):
        with h5py.File(layouts.fire(tmp_path / f"snap_{number}.hdf5", layouts.galaxy()), "r+") as file:
            file["Header"].attrs.update({"Time": time, "Redshift": 0.0, "HubbleParam": 1.0})
    config = {"name": "disc", "format": "gizmo", "snapshots": "*.hdf5", "aperture": {"kpc": 30},
              "units": {"cosmological": False}, "selection": {"min_stars": 1}}  # fmt: skip
    (tmp_path / "s.yaml").write_text(json.dumps(config))
    assert len(list_tasks(load_suite(tmp_path / "s.yaml"))) == 2
    words = "its snapshots are of several times (Time 0.5 to 1), and no `lineage`"
    assert (words in capsys.readouterr().err) == said == (words in "".join(describe(tmp_path / "s.yaml")))


@pytest.mark.parametrize(("units", "said"), [({}, True), ({"box": "none"}, False)])
def test_a_run_that_expands_and_does_not_tell_its_box_is_told_as_it_is_mapped(tmp_path, capsys, units, said):
    """`kinmass check` said so alone: a galaxy near the box's face lost what lies behind it."""
    layouts.edit(
        layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy()), lambda file: file["Header"].attrs.pop("BoxSize")
    )
    suite = Suite(name="fire", format="gizmo", root=tmp_path, snapshots="*.hdf5", aperture={"kpc": 30}, units=units)
    list_tasks(suite)
    assert ("snap.hdf5): cosmological without the side of a box" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("pid", "which", "said"), [("", "central", True), (" -1", "central", False), ("", "all", False)]
)
def test_a_catalogue_that_does_not_tell_centrals_is_told_where_these_are_asked_for(tmp_path, capsys, pid, which, said):
    """FIRE's lists of Rockstar have no column PID: satellites were mapped as centrals in silence."""
    layouts.fire(tmp_path / "snap_600.hdf5", layouts.galaxy())
    names, rows = "#ID X Y Z M200c" + (" PID" if pid else ""), [f"{i} 1 1 {i} 1e12{pid}" for i in range(2)]
    (tmp_path / "out_600.list").write_text("\n".join([names, "#a = 0.6", *rows]) + "\n")
    config = {"name": "fire", "format": "gizmo", "snapshots": "*.hdf5", "aperture": {"kpc": 30},
              "catalogue": {"format": "rockstar", "path": "out_600.list"}, "selection": {"which": which}}  # fmt: skip
    (tmp_path / "s.yaml").write_text(json.dumps(config))
    assert len(list_tasks(load_suite(tmp_path / "s.yaml"))) == 2
    words = "its catalogue does not tell centrals from satellites"
    assert (words in capsys.readouterr().err) == said == (words in "".join(describe(tmp_path / "s.yaml")))
    layouts.fire(tmp_path / "snap_601.hdf5", layouts.galaxy())
    list_tasks(Suite(**config | {"root": tmp_path, "catalogue": {}}))  # without one there is nothing to tell
    assert words not in capsys.readouterr().err


def test_galaxies_of_one_snapshot_in_two_suites_are_told_where_their_lineages_differ(tmp_path, capsys):
    """Whoever moves snapshots, and renames the suite that the store refuses then, has each galaxy twice in it."""
    old = load_suite(write_box(tmp_path / "box", galaxies=2))
    settings, out = Settings(2, 16), tmp_path / "maps.zarr"
    keep_all(out, {old.name: {path: list_snapshot(old, path) for path in old.snapshot_paths()}})
    plan([old], out, settings)
    others = {"root": tmp_path, "name": "moved", "snapshots": "box/*.hdf5"}
    moved = old.model_copy(update=others)
    plan([moved], out, settings)
    said = capsys.readouterr().err
    assert "moved and box have 2 galaxies of the same snapshots under other lineages" in said
    assert "the first as box.000:0 and 000:0: one could be in a test and the other in training" in said
    same = {"lineage": r"\d+:\d+$"}  # galaxies of one lineage are on one side; so are those of one name
    plan([s.model_copy(update=same) for s in (old, moved)], tmp_path / "new.zarr", settings)
    plan([old, old.model_copy(update={"name": "light"})], tmp_path / "other.zarr", settings)
    (tmp_path / "box" / "centres.csv").write_text("id,x,y,z,r200\n0,500,500,520,100\n")  # another galaxy
    plan([moved], out, settings)
    assert not capsys.readouterr().err
    lone = [
        (of, {tmp_path: Listing([(name, Halo("0", None), "")], {}, content="3-x")})
        for of, name in ((old, "snap:0"), (moved, "box.snap:0"))
    ]
    assert "box and moved have 1 galaxy of the same snapshots" in doubles.in_two_suites(lone)[0]


def of_run(rng, places, box="37253 kpc", content="", folder="1P_0"):
    """A snapshot of a box with galaxies some 50 kpc off these places (N, 3) [kpc], in another order."""
    places = (places + rng.normal(scale=30, size=places.shape))[rng.permutation(len(places))]
    entries = [(f"{folder}.snap_090:{i}", Halo(str(i), place), "") for i, place in enumerate(places)]
    return {Path(folder, "snap_090.hdf5"): Listing(entries, {"box": box, "a": "1"}, content=content or folder)}


def test_runs_from_the_same_initial_conditions_are_told_where_lineages_differ():
    """The 1P set of CAMELS: a galaxy was in a test, and itself, with other feedback, in training."""
    rng = np.random.default_rng(3)
    suite = Suite(name="tng", format="arepo", snapshots="*/snap_090.hdf5", aperture={"kpc": 30})
    simba = suite.model_copy(update={"name": "simba"})
    box, other = rng.uniform(0, 37253, (2, 120, 3))
    same, fewer = (of_run(rng, *places) for places in ((box,), (box[:40], "37253 kpc", "", "1P_1")))
    (line,) = doubles.of_one_origin([(suite, same | fewer)])
    assert re.search(
        r"1P_1/snap_090.hdf5 \(tng\) looks like a run .* of 1P_0/snap_090.hdf5 \(tng\), with \d+ of 40", line
    )
    assert "(simba) looks like" in doubles.of_one_origin([(suite, same), (simba, fewer)])[0]
    set_of = suite.model_copy(update={"lineage": r"1P"})
    near = rng.normal(18600, 150, (2, 40, 3))  # satellites of two zooms, both in the middle of their boxes
    fair = [
        (set_of, same | fewer),
        (suite, same | of_run(rng, other, folder="LH_1")),
        (suite, same | of_run(rng, box, box="50000 kpc", folder="1P_1")),
        (suite, of_run(rng, near[0]) | of_run(rng, near[1], folder="1P_1")),
        (suite, of_run(rng, box[:4]) | of_run(rng, box[:4], folder="1P_1")),
    ]
    assert not any(doubles.of_one_origin([one]) for one in fair)


def test_maps_say_it_of_two_suites(tmp_path, capsys):
    path = write_box(tmp_path, galaxies=2)
    rows = [f"{i},{100 * i},500,500,100" for i in range(1, 7)]
    (tmp_path / "centres.csv").write_text("\n".join(["id,x,y,z,r200", *rows]) + "\n")
    suites = [load_suite(path).model_copy(update={"name": f"run{i}", "snapshots": f"00{i}.hdf5"}) for i in range(2)]
    plan(suites, tmp_path / "maps.zarr", Settings(2, 16))
    assert "looks like a run from the initial conditions of" in capsys.readouterr().err


@pytest.mark.parametrize("is_first", [True, False])
def test_one_galaxy_without_a_catalogue_may_be_any_of_the_other_suites(tmp_path, is_first):
    """A table without `id` numbers its rows: the second snapshot's one galaxy is 1, and 0 where no table is given."""
    suite = load_suite(write_box(tmp_path / "box", galaxies=2))
    none, two = [("snap:0", Halo("0", None), "")], [(f"snap:{i}", Halo(f"{i}", np.full(3, i)), "") for i in (1, 2)]
    table = suite.model_copy(update={"name": "table"})

    def said(of_table):
        listed = [(suite, {tmp_path: Listing(none, {}, content="3-x")})]
        listed.append((table, {tmp_path: Listing(of_table, {}, content="3-x")}))
        return doubles.in_two_suites(listed if is_first else listed[::-1])

    assert "have 1 galaxy of the same snapshots under other lineages" in said(two)[0]
    assert not said([*two, ("snap:0", Halo("0", np.full(3, 5)), "")])
    assert not said([])


def test_rows_of_no_snapshot_are_told(tmp_path, capsys):
    """`snap_98` is not `snap_098`: a galaxy would be missed in silence."""
    suite = write_box(tmp_path, galaxies=3)
    table = tmp_path / "centres.csv"
    table.write_text("id,snapshot,x,y,z,r200\n0,000,500,500,500,100\n1,1,500,500,500,100\n2,2.hdf5,500,500,500,100\n")
    assert len(list_tasks(load_suite(suite))) == 2
    said = capsys.readouterr().err
    assert f"{table}: `snapshot` 2.hdf5 is none of the 3 snapshots that `snapshots` matches" in said
    assert f"{table}: no row is of {tmp_path / '002.hdf5'}: nothing is mapped from it" in said
    assert "`snapshot` 2.hdf5 is none of the 3 snapshots" in "".join(describe(suite))
    table.write_text(table.read_text().replace("2.hdf5", "002.hdf5"))
    assert len(list_tasks(load_suite(suite))) == 3
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("apart", "lineages", "said"), [(0.05, "01", True), (0.05, "00", False), (0.2, "01", False)])
def test_a_galaxy_that_a_catalogue_has_twice_is_told(tmp_path, capsys, apart, lineages, said):
    suite, (first, second) = write_box(tmp_path), lineages
    (tmp_path / "centres.csv").write_text(
        f"id,x,y,z,r200,lineage\n7,500,500,500,100,{first}\n8,510,500,500,100,x\n"
        f"9,{500 + apart},500,{500 - apart},100,{second}\n"
    )
    list_tasks(load_suite(suite))
    assert ("7 and 9 are at one place" in "".join(describe(suite))) == said
    assert ("snap.hdf5: 7 and 9 are at one place: one could be in a test" in capsys.readouterr().err) == said


def test_pairs_are_those_of_brute_force():
    pos = np.random.default_rng(1).uniform(size=(300, 3)) * [1.0, 0.1, 0.1]
    pos[:5] = np.nan
    wanted = [(i, j) for i, j in combinations(range(300), 2) if (np.abs(pos[i] - pos[j]) <= 0.02).all()]
    assert len(wanted) > 20
    assert pairs_within(pos, 0.02) == wanted


def test_snapshots_that_lack_a_file_are_no_copies_of_each_other(tmp_path, capsys):
    for run in ("m12i", "m12fb"):
        write_box(tmp_path / run, "snap_099.0.hdf5", n_stars=400 + len(run))
        with h5py.File(tmp_path / run / "snap_099.0.hdf5", "r+") as file:
            attrs = file["Header"].attrs
            attrs["NumFilesPerSnapshot"], attrs["NumPart_Total"] = 2, 2 * attrs["NumPart_Total"]
    suite = tmp_path / "box.yaml"
    suite.write_text((tmp_path / "m12i" / "box.yaml").read_text().replace("'*.hdf5'", "'*/*.hdf5'"))
    list_tasks(load_suite(suite))
    assert "is a copy of" not in capsys.readouterr().err


def test_a_folder_that_may_not_be_looked_into_is_told(tmp_path, monkeypatch):
    """Whoever maps an archive of others is not told by glob of what is closed to him."""
    suite = load_suite(write_box(tmp_path)).model_copy(update={"snapshots": "run_*/out/snap*.hdf5"})
    closed = [tmp_path / "run_a" / "out", tmp_path / "run_b", tmp_path / "run_c" / "out"]
    for folder in (*closed[::2], tmp_path / "run_b" / "out", tmp_path / "run_d" / "out", tmp_path / "other"):
        folder.mkdir(parents=True)
    may, everything = dict(zip(closed, (os.X_OK, 0, os.R_OK), strict=True)), os.R_OK | os.X_OK
    monkeypatch.setattr(os, "access", lambda path, mode: may.get(path, everything) & mode == mode)
    assert suite.closed_folders() == closed
    assert "run_a/out" in doubles.said(suite, {})[0]
    with pytest.raises(SuiteError, match=r"no file matches .*run_a/out cannot be looked into"):
        suite.snapshot_paths()
    monkeypatch.undo()
    assert not suite.closed_folders()


def test_links_that_a_pattern_does_not_follow_are_told(tmp_path):
    """glob follows links of folders for `*`, and not for `**`, to whatever depth."""
    path = write_box(tmp_path / "runs" / "a" / "out")
    write_box(tmp_path / "elsewhere" / "out")
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "empty").symlink_to(tmp_path / "nothing", target_is_directory=True)
    (tmp_path / "nothing").mkdir()
    suite = load_suite(path).model_copy(update={"root": tmp_path / "runs", "snapshots": "**/*.hdf5"})
    assert suite.snapshot_paths() == [tmp_path / "runs" / "a" / "out" / "snap.hdf5"]
    assert suite.unfollowed_links() == [tmp_path / "runs" / "b" / "more"]
    assert f"{tmp_path / 'runs' / 'b' / 'more'}: `**` does not follow links" in doubles.not_looked_into(suite)[0]
    followed = suite.model_copy(update={"snapshots": "*/more/out/*.hdf5"})
    assert len(followed.snapshot_paths()) == 1
    assert not doubles.not_looked_into(followed)


def test_a_draw_that_leaves_out_what_is_done_says_which_number_keeps_it(tmp_path):
    """A suite with `max_galaxies` grows: galaxies that are there now may be drawn before those that are done."""
    suite, out = load_suite(write_box(tmp_path, galaxies=9)), tmp_path / "maps.zarr"
    later = [path.rename(path.with_suffix(".later")) for path in suite.snapshot_paths()[3:]]

    def grown(number):
        """Plan with so many galaxies at most."""
        selection = suite.selection.model_copy(update={"max_galaxies": number})
        return plan([suite.model_copy(update={"selection": selection})], out, Settings(2, 16))

    assert len(grown(2)) == 2
    store.open_suite(out, suite.name)["status"][:] = store.DONE
    for path in later:
        path.rename(path.with_suffix(".hdf5"))
    with pytest.raises(
        SuiteError, match="of the 9 galaxies that there are now, `max_galaxies: 2` draws others"
    ) as error:
        grown(2)
    enough = int(re.search(r"at least (\d+)", str(error.value))[1])
    with pytest.raises(SuiteError, match=f"at least {enough}, "):
        grown(enough - 1)
    assert sum(task.is_done for task in grown(enough)) == 2


def test_a_link_that_leads_nowhere_is_a_snapshot_that_cannot_be_read(tmp_path):
    suite = write_box(tmp_path, galaxies=2)
    (tmp_path / "001.hdf5").rename(tmp_path / "moved")
    (tmp_path / "001.hdf5").symlink_to(tmp_path / "gone")
    tasks = list_tasks(load_suite(suite))
    assert [task.snapshot.name for task in tasks] == ["000.hdf5", "001.hdf5"]
    assert "001.hdf5" in tasks[1].problem


def test_a_snapshot_on_a_disk_that_fails_is_not_left_out(tmp_path, monkeypatch):
    """One failing ended the listing of all, and from Python 3.13 on its galaxies would be missing without a word."""
    suite = write_box(tmp_path, galaxies=2)
    stat = Path.stat

    def fails(path: Path, **options: bool) -> os.stat_result:
        if path.name == "001.hdf5":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", fails)
    assert [path.name for path in load_suite(suite).snapshot_paths()] == ["000.hdf5", "001.hdf5"]
