"""Listings that are kept: the same galaxies without reading again, and anew where anything has changed."""

import json
import os
import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from conftest import called, command
from test_faults import SMALL, write_box

from kinmass.gen.campaign import listing
from kinmass.gen.campaign.listing import Listing
from kinmass.gen.campaign.maps import generate, list_all
from kinmass.gen.campaign.record import Settings
from kinmass.gen.formats import gadget, tipsy
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.snapshots.content import sampled
from kinmass.gen.storage.store import StoreError
from kinmass.gen.suite import SuiteError, Units, load_suite


@pytest.fixture
def box(tmp_path):
    return load_suite(write_box(tmp_path / "box", galaxies=6))


def listed(box, out, monkeypatch):
    """List as a run does; the listings and how many catalogues were read."""
    read = []
    real = listing.find_haloes
    monkeypatch.setattr(listing, "find_haloes", lambda *args: read.append(args[2]) or real(*args))
    (found,) = list_all([box], out).values()
    monkeypatch.undo()
    listing.keep(out, box.name, found)
    return found, len(read)


def test_what_was_listed_is_not_read_again_and_is_the_same(box, tmp_path, monkeypatch):
    out = tmp_path / "maps.zarr"
    first, n_read = listed(box, out, monkeypatch)
    again, n_read_again = listed(box, out, monkeypatch)
    assert (n_read, n_read_again) == (6, 0)
    assert first.keys() == again.keys()
    for path, found in first.items():
        assert found.facts == again[path].facts
        for (name, halo, problem), (name_again, halo_again, problem_again) in zip(
            found.entries, again[path].entries, strict=True
        ):
            assert (name, problem) == (name_again, problem_again) == (name, "")
            np.testing.assert_array_equal(halo.centre_kpc, halo_again.centre_kpc)
            assert halo._replace(centre_kpc=None) == halo_again._replace(centre_kpc=None)


def _touch(path):
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def _edit_table(box):
    table = box.root / "centres.csv"
    table.write_text(table.read_text().replace("1", "1 ", 1))


def _select_more(box):
    return box.model_copy(update={"selection": box.selection.model_copy(update={"min_stars": 201})})


CHANGES = {
    "a snapshot was written anew": (lambda box: _touch(sorted(box.root.glob("*.hdf5"))[2]) or box, 1),
    "the catalogue was edited": (lambda box: _edit_table(box) or box, 6),
    "the selection is another": (_select_more, 6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_listed_anew(box, tmp_path, monkeypatch, change):
    out = tmp_path / "maps.zarr"
    listed(box, out, monkeypatch)
    changed, n_expected = CHANGES[change]
    assert listed(changed(box), out, monkeypatch)[1] == n_expected


def _changed(kept, change):
    for of_snapshot in kept.values():
        change(of_snapshot["columns"])
    return json.dumps(kept)


DAMAGES = {
    "empty": lambda kept: "",
    "cut": lambda kept: "{",
    "of another kind": lambda kept: "[]",
    "of other snapshots": lambda kept: '{"x": 1}',
    "numbers for listings": lambda kept: json.dumps(dict.fromkeys(kept, 1)),
    "without galaxies": lambda kept: json.dumps({k: v | {"columns": None} for k, v in kept.items()}),
    "halos without numbers": lambda kept: _changed(kept, lambda columns: columns["haloes"]["name"].clear()),
    "halos of no place": lambda kept: _changed(kept, lambda columns: columns["haloes"].update(centre_kpc=[[1.0, 2.0]])),
    "halos of other kinds": lambda kept: _changed(kept, lambda columns: columns["haloes"].update(colour=["red"])),
    "names that are none": lambda kept: _changed(kept, lambda columns: columns["names"].__setitem__(0, None)),
    "without facts": lambda kept: json.dumps({k: v | {"facts": None} for k, v in kept.items()}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_list_is_made_again(box, tmp_path, monkeypatch, damage):
    out = tmp_path / "maps.zarr"
    listed(box, out, monkeypatch)
    path = out / ".listing" / "box.json"
    path.write_text(DAMAGES[damage](json.loads(path.read_text())))
    assert listed(box, out, monkeypatch)[1] == 6
    assert listed(box, out, monkeypatch)[1] == 0


def test_what_has_a_problem_is_not_kept(box, tmp_path, monkeypatch):
    out = tmp_path / "maps.zarr"
    victim = sorted(box.root.glob("*.hdf5"))[0]
    content = victim.read_bytes()
    victim.write_bytes(b"")
    found, _ = listed(box, out, monkeypatch)
    assert "is empty; was it not copied to the end?" in found[victim].entries[0][2]
    victim.write_bytes(content)
    found, n_read = listed(box, out, monkeypatch)
    assert (found[victim].entries[0][2], n_read) == ("", 1)


def test_a_run_tells_where_its_time_went(box, tmp_path):
    out = tmp_path / "maps.zarr"
    said = command("gen", "maps", tmp_path / "box" / "box.yaml", "--out", out, *SMALL, ranks=2).stderr
    assert re.search(r"start .* s, listing .* s, mapping .* s; 6 galaxies by 2 ranks, .* GB read", said)
    assert re.search(r"loading \d+ %, opening \d+ %.*waiting for work \d+ %, waiting at the end \d+ %", said)
    called("gen", "maps", tmp_path / "box" / "box.yaml", "--out", out, *SMALL)
    assert len(list((out / ".timing").glob("*.json"))) == 1  # the second run had nothing to do


def _param(**values):
    def change(path):
        lines = [line.split(" = ") for line in path.with_suffix(".param").read_text().splitlines()]
        lines = [f"{name} = {values.get(name, 1.0) * float(value)!r}\n" for name, value in lines]
        path.with_suffix(".param").write_text("".join(lines))

    return change


def _header(**values):
    def change(path):
        with h5py.File(path, "r+") as file:
            file["Header"].attrs.update(values)

    return change


REPAIRS = {
    "h": ("gizmo", _header(HubbleParam=0.5), r"h: 0\.7 -> 0\.5"),
    "a": ("gizmo", _header(Redshift=0.25, Time=0.8), r"a: 1 -> 0\.8"),
    "mass unit": ("arepo", _header(UnitMass_in_g=1.989e33), r"code units: .* 1\.42857e\+10 Msun.* -> .* 1\.42857 Msun"),
    "unit of velocity": ("arepo", _header(UnitVelocity_in_cm_per_s=1e2), r"code units: .* 1 km/s -> .* 0\.001 km/s"),
    "dMsolUnit": ("tipsy", _param(dMsolUnit=2.0), "h: .*code units: "),
    "dKpcUnit": ("tipsy", _param(dKpcUnit=2.0), "box: .*code units: "),
    "both, as h and box stay": ("tipsy", _param(dMsolUnit=8.0, dKpcUnit=2.0, dPeriod=0.5), r"code units: 1000 kpc"),
}


@pytest.mark.parametrize("repair", REPAIRS)
def test_a_snapshot_that_was_repaired_after_its_galaxies_were_mapped_is_refused(repair, tmp_path):
    """They would stay as they are, beside others in right units; no kept listing forgets what they were made from.

    Not even one with a galaxy that has failed, of which nothing but the snapshot's units is kept.
    """
    form, change, words = REPAIRS[repair]
    galaxy, box_kpc = make_galaxy("middle", 0, 1, 400, 200, 400)[0], 1000.0
    centre = np.full(3, 0.0 if form == "tipsy" else 500.0)
    path = tmp_path / f"snap.0010{'' if form == 'tipsy' else '.hdf5'}"
    if form == "tipsy":
        tipsy.write(path, [(galaxy, centre, np.zeros(3))], box_kpc, 1.0, 0.7)
    else:
        gadget.write(path, [(galaxy, centre, np.zeros(3))], box_kpc, 1.0, 0.7, form)
    place = ",".join(map(str, centre.tolist()))
    (tmp_path / "centres.csv").write_text(f"id,x,y,z,r200\n0,{place},100\n1,nan,nan,nan,100\n")
    (tmp_path / "s.yaml").write_text(
        f"name: s\nformat: {form}\nsnapshots: {path.name}\naperture: {{kpc: 80}}\n"
        "catalogue: {format: table, path: centres.csv}\n"
    )
    suite, out, settings = load_suite(tmp_path / "s.yaml"), tmp_path / "maps.zarr", Settings(views=1, pixels=8)
    assert generate([suite], out, settings, quiet=True) == (1, 1)
    change(path)
    for _ in range(2):
        with pytest.raises(SuiteError, match=rf"is not what .* was mapped from \(.*{words}"):
            generate([suite], out, settings, quiet=True)
    if repair == "h":
        shutil.rmtree(out / suite.name)
        assert sum(generate([suite], out, settings, quiet=True)) == 2


@pytest.mark.parametrize("units", [{"mass_msun": 2e10}, {"box": 1000.0}, {"cosmological": False}])
def test_units_that_the_suite_file_says_afterwards_are_refused(units, box, tmp_path):
    out, settings = tmp_path / "maps.zarr", Settings(views=1, pixels=8)
    generate([box], out, settings, quiet=True)
    other = box.model_copy(update={"units": Units(**units)})
    with pytest.raises(StoreError, match=rf"other settings \(suite\.units\.{next(iter(units))}: none -> "):
        generate([other], out, settings, quiet=True)


def _other_particles(path):
    """Replace a snapshot by another of the same name, size and time, whose header says the same."""
    stat = path.stat()
    with h5py.File(path, "r+") as file:
        for name in [name for name in file if name.startswith("PartType")]:
            file[name]["Velocities"][:] *= 1.01
            file[name]["Masses"][:] *= 1.01
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


@pytest.mark.parametrize("moved", [False, True])
def test_a_snapshot_that_was_replaced_is_told_until_its_galaxies_are_mapped_anew(box, tmp_path, capsys, moved):
    out, settings = tmp_path / "maps.zarr", Settings(views=1, pixels=8)
    generate([box], out, settings, quiet=True)
    if moved:
        shutil.move(box.root, tmp_path / "moved")
        box = load_suite(tmp_path / "moved" / "box.yaml")
    for path in sorted(box.root.glob("*.hdf5")):  # copied anew: nothing is said
        shutil.copy(path, tmp_path / "copy")
        os.replace(tmp_path / "copy", path)
    capsys.readouterr()
    generate([box], out, settings, quiet=True)
    assert "has changed since" not in capsys.readouterr().err
    victim = sorted(box.root.glob("*.hdf5"))[2]
    _other_particles(victim)
    for _ in range(2):
        generate([box], out, settings, quiet=True)
        said = capsys.readouterr().err
        assert f"box: the content of 1 snapshot ({victim}) has changed since 1 finished galaxy came from there" in said
        assert "is missing" not in said
    shutil.rmtree(out / ".listing")  # as after `cp -r maps.zarr/* elsewhere`
    for is_said in (True, False):
        generate([box], out, settings, quiet=True)
        assert ("box.json, which tells what snapshots were, is missing" in capsys.readouterr().err) == is_said
    shutil.rmtree(out / box.name)
    for _ in range(2):
        generate([box], out, settings, quiet=True)
        assert "has changed since" not in capsys.readouterr().err


def test_what_a_snapshot_was_is_kept_also_where_one_of_its_galaxies_has_a_problem(box, tmp_path, monkeypatch):
    out = tmp_path / "maps.zarr"
    path, found = next(iter(listed(box, out, monkeypatch)[0].items()))
    listing.keep(out, box.name, {path: replace(found, entries=[*found.entries, ("bad", None, "no centre")])})
    kept = listing.read_kept(out, box.name)[path]
    assert (kept.marks, kept.facts, kept.content) == ("", found.facts, found.content)
    assert listing.compared(replace(found, facts=found.facts | {"h": "0.5"}), kept).changed.startswith("h: ")


def test_a_dataset_that_was_written_anew_in_its_place_is_seen(tmp_path):
    """Whichever it is; what an older way of sampling has kept says nothing."""
    path = tmp_path / "snap.hdf5"
    galaxy = make_galaxy("middle", 0, 1, n_stars=20_000, n_gas=10_000, n_dark=20_000)[0]
    gadget.write(path, [(galaxy, np.full(3, 500.0), np.zeros(3))], 1000.0, 1.0, 0.7, "gizmo")

    def content() -> str:
        return sampled([(path, path.stat().st_size)], ())

    seen = [content()]
    with h5py.File(path) as file:
        names = [f"{ptype}/{name}" for ptype in file if "Part" in ptype for name in file[ptype]]
    assert len(names) > 12
    for name in names:
        with h5py.File(path, "r+") as file:
            file[name][...] = file[name][...] * 2
        seen.append(content())
        assert seen[-1] == content()
    assert len(set(seen)) == len(seen)
    now, older = (Listing([], {}, "", 0, content=words) for words in (seen[0], "0123"))
    assert listing.compared(now, older).replaced == ""
    assert listing.compared(now, replace(now, content=seen[1])).replaced == seen[1]
