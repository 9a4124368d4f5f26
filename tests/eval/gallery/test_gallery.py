"""The gallery shows what is stored and what networks say, hides no failure, and lets nobody else look."""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pytest
from conftest import KEPT, ROOT, SUITES, called

import kinmass
from kinmass.eval.gallery import figure
from kinmass.eval.gallery import index as gallery_index
from kinmass.eval.gallery.index import Index, chosen
from kinmass.eval.gallery.pages import Pages, Refusal, wanted_of
from kinmass.eval.gallery.scores import scores_of
from kinmass.eval.gallery.server import _user, bind
from kinmass.eval.gallery.stored import NotShown, StoredGalaxy, contents, find, networks_of, read_stored
from kinmass.eval.tables import predictions
from kinmass.eval.tables.tasks import sources_of
from kinmass.gen.campaign import failures
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Instrument, PsfFwhm, TracerNoise
from kinmass.gen.look.picture import QUANTITIES, shown
from kinmass.gen.storage import store, suite_group
from kinmass.gen.storage.chunks import chunk_file
from kinmass.gen.storage.galaxy_reader import GalaxyReader
from kinmass.train.data.dataset import read_views, usable
from kinmass.train.data.loader import done_galaxies, galaxies_of
from kinmass.train.run.checkpoint import write_json
from kinmass.train.run.intervals import SHARES

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def of_name(runs: list[Path], *names: str) -> list[Path]:
    return [run for run in runs if run.name in names]


def wanted(**changes: object) -> dict[str, object]:
    return wanted_of({}, list(SUITES), 1) | changes


def test_sorting_and_filtering_are_those_of_brute_force():
    """On 500 galaxies, some of whose numbers are unknown or equal; unknown ones are last in either direction."""
    rng = np.random.default_rng(3)
    n = 500
    columns = {
        "suite": np.array(["a", "b"], object)[np.sort(rng.integers(0, 2, n))],
        "number": np.arange(n),
        "name": np.array([f"Galaxy {i % 37}" for i in range(n)], object),
        "state": rng.choice([store.DONE, store.FAILED], n),
        **{
            key: np.where(rng.random(n) < 0.2, np.nan, rng.integers(0, 9, n))
            for key in ("mass", "size", "error", "ood")
        },
    }
    for sort in ("order", "mass", "size", "error", "ood"):
        for descending in (False, True):
            for changes in ({}, {"suite": "b", "state": "mapped"}, {"mass_min": 3.0, "mass_max": 6.0}, {"name": "y 1"}):
                rows = [
                    i for i in range(n)
                    if columns["suite"][i] == changes.get("suite", columns["suite"][i])
                    and ("state" not in changes or columns["state"][i] == store.DONE)
                    and ("mass_min" not in changes or 3 <= columns["mass"][i] <= 6)
                    and changes.get("name", "") in columns["name"][i].lower()
                ]  # fmt: skip
                if sort != "order":
                    known = [i for i in rows if not np.isnan(columns[sort][i])]
                    expected = sorted(known, key=lambda i: columns[sort][i] * (-1 if descending else 1))
                    expected += [i for i in rows if np.isnan(columns[sort][i])]
                else:
                    expected = rows[::-1] if descending else rows
                assert chosen(columns, wanted(sort=sort, descending=descending, **changes)).tolist() == expected
                assert len(expected) > 5


def test_errors_and_scores_are_those_that_tables_kept(results, runs, map_store):
    """Against the network asked anew: rms over views and radii of the median of the same samples, and mean score."""
    (run,) = of_name(runs, "both")
    index = Index(map_store, sources_of([run], results, classical=False))
    index.read_all()
    columns = index.columns(0)
    assert index.n_stale(0) == 0
    infer = kinmass.load(run)
    for suite in SUITES:
        views = read_views(map_store, suite)
        posterior = infer(views)
        # As many samples as are kept.
        offset = posterior.quantiles(0.5, 200) - views.log10_menc.numpy()
        rows = columns["suite"] == suite
        expected = np.sqrt((offset**2).mean(1).reshape(-1, 2).mean(1))
        np.testing.assert_allclose(columns["error"][rows], expected, atol=2e-4, rtol=0.02)
        np.testing.assert_allclose(columns["ood"][rows], posterior.ood_score().reshape(-1, 2).mean(1), atol=0.1)
        stars = store.open_suite(map_store, suite)["mass"][:, 2, -1]
        np.testing.assert_array_equal(columns["mass"][rows], np.log10(stars))
    assert (columns["state"] == store.DONE).all()


def test_the_worst_and_the_strangest_view_are_those_of_brute_force():
    """On 300 galaxies of 5 views, some of whose views, or all, have no answer or no score."""
    rng = np.random.default_rng(4)
    n, views, radii = 300, 5, 10
    state = rng.choice([predictions.PREDICTED, predictions.UNUSABLE], (n, views), p=[0.4, 0.6])
    offset, ood = (
        rng.normal(0, 0.2, (n, views, radii)),
        np.where(rng.random((n, views)) < 0.2, np.nan, rng.random((n, views))),
    )
    truth = rng.uniform(9, 12, (n * views, radii))
    kept = {
        "state": state.ravel(),
        "log10_menc_true": truth,
        "median": truth + offset.reshape(-1, radii),
        "ood_score": ood.ravel(),
    }
    scores = scores_of(kept, views)
    for g in range(n):
        errors = {v: np.sqrt(np.mean(offset[g, v] ** 2)) for v in range(views) if state[g, v] == predictions.PREDICTED}
        strange = {v: ood[g, v] for v in errors if np.isfinite(ood[g, v])}
        for values, view, value in (
            (errors, scores.worst_view[g], scores.worst[g]), (strange, scores.strangest_view[g], scores.strangest[g])
        ):  # fmt: skip
            assert view == (max(values, key=values.__getitem__) if values else -1)
            np.testing.assert_allclose(value, max(values.values()) if values else np.nan, rtol=1e-6)
        np.testing.assert_allclose(
            scores.error[g], np.sqrt(np.mean(np.square([*errors.values()]))) if errors else np.nan
        )
    assert len({*scores.worst_view.tolist()}) == len({*scores.strangest_view.tolist()}) == views + 1


def test_the_list_and_the_page_link_to_the_worst_view(results, runs, map_store):
    """As the network says when it is asked anew about each view; sorting by it puts the largest first."""
    (run,) = of_name(runs, "both")
    index = Index(map_store, sources_of([run], results, classical=False))
    index.read_all()
    pages = Pages(index, networks_of([run]))
    html = pages.listing({"sort": "worst", "descending": "1", "name": "_"}).decode()
    cards = re.findall(r'class="worst" href="/galaxy/(\w+)/(\d+)\?([^"]+)"[^>]*>worst: view (\d), ([\d.]+)', html)
    assert [float(error) for *_, error in cards] == sorted((float(error) for *_, error in cards), reverse=True)
    assert len(cards) > 20
    infer, of_views = kinmass.load(run), {}
    for suite in SUITES:
        views = read_views(map_store, suite)
        offset = infer(views).quantiles(0.5, 200) - views.log10_menc.numpy()  # as many samples as are kept
        of_views[suite] = np.sqrt((offset**2).mean(1)).reshape(-1, 2)
    for suite, number, _, view, error in cards:
        assert of_views[suite][int(number)].max() == pytest.approx(float(error), abs=1e-3, rel=0.02)
        assert of_views[suite][int(number), int(view)] == pytest.approx(float(error), abs=1e-3, rel=0.02)
    assert {view for *_, view, _ in cards} == {"0", "1"}
    for suite, number, query, view, error in cards[:2]:
        words = dict(parse_qsl(query.replace("&amp;", "&")))
        assert words == {"view": view, "sort": "worst", "descending": "1", "name": "_"}
        page = pages.galaxy(words, suite, number).decode()
        assert f"What networks say of view {view}" in page
        assert re.search(rf'<td><a href="/galaxy/{suite}/{number}\?[^"]*view={view}">{view}: {error}</a>', page)
    assert "worst view" not in Pages(Index(map_store), networks_of([run])).galaxy({}, "quiet", "4").decode()


def test_predictions_of_other_maps_are_left_out(results, runs, own_store, tmp_path):
    """Maps that change after `tables` has kept predictions of them take the errors from the list."""
    from conftest import tables_here

    run = shutil.copytree(of_name(runs, "gas")[0], tmp_path / "gas", ignore=KEPT)
    tables_here([run], own_store, tmp_path / "out", ("quiet", "middle"))
    group = store.open_suite(own_store, "quiet")
    group["maps"][5] = group["maps"][5] * np.float32(1.5)
    index = Index(own_store, sources_of([run], tmp_path / "out", classical=False))
    index.read_all()
    columns = index.columns(0)
    assert np.isnan(columns["error"][columns["suite"] == "quiet"]).all()
    assert np.isfinite(columns["error"][columns["suite"] == "middle"]).all()
    assert index.n_stale(0) == (columns["suite"] == "quiet").sum()  # galaxies, not blocks
    assert "older than their maps" in Pages(index, networks_of([run])).listing({}).decode()


def test_a_page_says_what_the_network_says(runs, map_store):
    """Medians and intervals on the page, and the bands on the figure, are those of kinmass.load(run)(views)."""
    pages = Pages(Index(map_store), networks_of(of_name(runs, "gas", "both")))
    html = pages.galaxy({"view": "1"}, "quiet", "4").decode()
    galaxy = read_stored(map_store, "quiet", 4)
    views = read_views(map_store, "quiet")
    row = views[(views.galaxy == galaxy.name) & (views.view == 1)]
    numbers = re.findall(r"<td>([\d.]+) <small>([\d.]+) to ([\d.]+)</small>", html)
    answers = [galaxy.ask(network, 1) for network in pages.networks]
    assert [answer.network.label for answer in answers] == ["both", "gas"]
    for place, answer in enumerate(answers):
        quantiles = kinmass.load(answer.network.inference.path)(row).quantiles(SHARES)[:, 0]
        np.testing.assert_allclose(answer.quantiles, quantiles, atol=1e-5)
        shown_here = np.array(numbers[place::2], dtype=float)
        np.testing.assert_allclose(shown_here, quantiles[[4, 0, 1]].T, atol=6e-4)
        axis = figure.profile_figure(galaxy, 1, answers).axes[1 + place]
        truth = row.log10_menc[0].numpy()
        wide, narrow = axis.collections[:2]
        for band, (low, high) in ((wide, quantiles[2:4]), (narrow, quantiles[:2])):
            y = band.get_paths()[0].vertices[:, 1]
            np.testing.assert_allclose([y.min(), y.max()], [(low - truth).min(), (high - truth).max()], atol=1e-5)
    np.testing.assert_allclose(
        [float(x) for x in re.findall(r"<td>\d\.\d\d<td>[\d.]+<td>([\d.]+)", html)], row.log10_menc[0], atol=6e-4
    )


def test_a_page_says_what_a_network_was_trained_on(runs, own_store, tmp_path):
    """By its suites, which have to be those, and by `--galaxies`; the split alone says that it was trained on more."""
    run = shutil.copytree(of_name(runs, "gas")[0], tmp_path / "gas", ignore=KEPT)
    (network,) = networks_of([run])
    of_part = {galaxy.part: galaxy for galaxy in of_suite(own_store, "quiet")}
    assert {part: galaxy.ask(network, 0).training for part, galaxy in of_part.items()}.items() >= {
        "train": "trained on this galaxy", "test": "",
    }.items()  # fmt: skip
    assert "Trained on this galaxy.</tr>" in Pages(Index(own_store), [network]).galaxy(
        {}, "quiet", str(of_part["train"].number)
    ).decode()  # fmt: skip
    of_three = galaxies_of(own_store, done_galaxies(own_store, SUITES), "train", 3)
    write_json(run / "run.json", network.inference.run | {"seen": {"views": 0, "lineages": of_three.lineage_keys()}})
    known = [galaxy._training(network.inference) for suite in SUITES for galaxy in of_suite(own_store, suite)]
    assert sum("trained on this galaxy" in words for words in known) == 3
    sizes = store.open_suite(own_store, "quiet")["half_mass_radius"]
    sizes[:] = 1.5 * sizes[:]
    (own_store / "quiet" / "zarr.json").touch()
    assert read_stored(own_store, "quiet", 1).ask(network, 0).training == "trained on another suite of this name"


def test_what_stood_for_a_snapshot_that_is_listed_by_now_is_no_galaxy(own_store):
    """Its entry stays in the store: it counted as one that has failed for ever."""
    group = store.open_suite(own_store, "quiet")
    group["galaxy"][0], group["status"][0] = "snap_000:?", store.FAILED
    for entries, words in (
        ([("quiet", "snap_000:?")], "12 galaxies (11 mapped, 1 failed"),
        ([], "11 galaxies (11 map"),
    ):
        failures.replace_all(own_store, {"quiet"}, [failures.line(*entry, "no catalogue") for entry in entries])
        assert contents(own_store)[-1].startswith(f"quiet: {words}")
    assert "?" not in contents(own_store)[-1]


def of_suite(path: Path, suite: str) -> list[StoredGalaxy]:
    """All galaxies of a suite of twelve."""
    return [read_stored(path, suite, number) for number in range(12)]


def test_of_a_look_that_shows_nothing_is_said_why_there_is_no_mass(runs, map_store):
    """It was drawn, and printed, as masses that are no numbers."""
    (network,) = networks_of([next(run for run in runs if run.name == "gas")])
    beams = Instrument(name="beams", psf_fwhm=PsfFwhm(re=(0.01, 30.0)), gas=TracerNoise(mask_below_msun_kpc2=2e7))
    network.inference.instrument = beams
    views = read_views(map_store, "bursty")
    nothing = np.flatnonzero(usable(views, "gas", beams) & ~network.inference(views).is_answered)
    answer = read_stored(map_store, "bursty", int(nothing[0]) // 2).ask(network, int(nothing[0]) % 2)
    assert answer.quantiles is None
    assert answer.why_not == "too few pixels seen through the instrument"


@pytest.mark.parametrize("name", [None, "ifu", "survey"])
def test_maps_are_those_of_the_store_through_the_instrument(map_store, name):
    galaxy = read_stored(map_store, "bursty", 7)
    instrument = None if name is None else INSTRUMENTS[name]
    views = read_views(map_store, "bursty")
    row = views[(views.galaxy == galaxy.name) & (views.view == 1)]
    maps = (row.maps if instrument is None else row.observed(instrument))[0].numpy().copy()
    if name == "survey":
        # Networks are shown ones and zeros where there is no density, or dispersion, in a view.
        unmeasured = [c for c in (0, 2, 4, 6) if np.ptp(maps[c][maps[c - c % 4 + 3] > 0]) == 0]
        maps[unmeasured] = np.nan
    drawn = figure.draw(galaxy, 1, instrument, [])
    if name == "survey":
        assert unmeasured
        assert sum(text.get_text() == "not measured" for axis in drawn.axes for text in axis.texts) == len(unmeasured)
    images = [axis.images[0] for axis in drawn.axes if axis.images]
    for image, channel in zip(images, QUANTITIES, strict=True):
        np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), shown(maps, channel))
    fwhm_kpc = galaxy.frame_kpc(1, instrument)[2]
    if name == "ifu":  # 1.5 stored pixels
        assert fwhm_kpc == pytest.approx(1.5 * float(galaxy.group["pixel_scale"][7, 1]))
    assert (fwhm_kpc > 0) == (name is not None)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_what_is_damaged_is_a_failure_and_never_zeros(own_store):
    """A flipped bit in a mass, one in maps, and maps that were never written; and failures with their reasons."""
    group = store.open_suite(own_store, "quiet")
    flip_a_bit(chunk_file(group["mass"], (1, 0, 0)))
    flip_a_bit(chunk_file(group["maps"], (2, 0, 0, 0, 0)))
    chunk_file(group["maps"], (3, 0, 0, 0, 0)).unlink()
    group["status"][4], group["status"][5] = store.FAILED, store.PENDING
    failures.add(own_store, [failures.line("quiet", str(group["galaxy"][4]), "half of <b>it</b> is missing")])
    index = Index(own_store)
    pages = Pages(index, [])
    for number in (1, 2, 3):
        with pytest.raises(store.StoreError, match="--repair"):
            pages.tile({}, "quiet", str(number))
        with pytest.raises(store.StoreError, match="--repair"):
            pages.galaxy({}, "quiet", str(number))
    with pytest.raises(NotShown, match="half of <b>it</b> is missing"):
        pages.galaxy({}, "quiet", "4")
    with pytest.raises(NotShown, match="not mapped yet"):
        pages.galaxy({}, "quiet", "5")
    index.read_all()
    columns = index.columns(0)
    quiet = columns["suite"] == "quiet"
    assert columns["state"][quiet][:6].tolist() == [
        store.DONE, store.DAMAGED, store.DAMAGED, store.DAMAGED, store.FAILED, store.PENDING,
    ]  # fmt: skip
    assert np.isnan(columns["mass"][quiet][1:6]).all()
    failed = pages.listing({"state": "failed"}).decode()
    assert "half of &lt;b&gt;it&lt;/b&gt; is missing" in failed
    assert "1 galaxy" in failed
    assert "cannot be read" in pages.listing({"state": "damaged"}).decode()


def test_a_check_finds_what_repair_would_do_again(own_store):
    """Damage of any array, maps too, is found without a look at the galaxy; pages say how far the check has come."""
    group = store.open_suite(own_store, "quiet")
    flip_a_bit(chunk_file(group["maps"], (2, 0, 0, 0, 0)))
    chunk_file(group["maps"], (3, 0, 0, 0, 0)).unlink()
    chunk_file(group["inclination"], (5, 0)).unlink()
    group["pixel_scale"][7] = 2 * group["pixel_scale"][7]  # as of a copy that was broken off over another galaxy
    index = Index(own_store, check=True)
    index.read_all()
    assert (index.columns(0)["state"] == store.DONE).all()
    assert index.n_whole() == 0
    assert not index.check_some(-1)
    assert index.check_some()
    assert not index.check_some()
    columns = index.columns(0)
    damaged = [(columns["suite"][i], columns["number"][i]) for i in np.flatnonzero(columns["state"] == store.DAMAGED)]
    to_repair = [
        (s, i) for s in sorted(SUITES) for i in range(12) if store.is_damaged(store.open_suite(own_store, s), i)
    ]
    assert damaged == to_repair == [("quiet", 2), ("quiet", 3), ("quiet", 5), ("quiet", 7)]
    assert index.n_whole() == 32
    html = Pages(index, []).listing({"state": "damaged"}).decode()
    assert html.count("--repair") >= 4
    assert "found whole so far: 32 of 32.</span>" in html
    unchecked = Pages(Index(own_store), [])
    unchecked.tile({}, "quiet", "0")
    assert "found whole so far: 1 of 36; <code>kinmass gallery --check</code>" in unchecked.listing({}).decode()


def test_a_store_that_is_being_written_is_followed(own_store):
    """Galaxies that come to be done, and a suite that comes later, are there at the next look."""
    group = store.open_suite(own_store, "middle")
    group["status"][:] = store.PENDING
    shutil.move(own_store / "bursty", own_store.parent / "bursty")
    index = Index(own_store)
    index.read_all()
    assert set(index.suites) == {"middle", "quiet"}
    assert (index.columns(0)["state"][:12] == store.PENDING).all()
    assert "12 pending" in (html := Pages(index, []).listing({}).decode())
    assert html.count('src="/tile/middle') == 0
    group["status"][:7] = store.DONE
    shutil.move(own_store.parent / "bursty", own_store / "bursty")
    index.refresh()
    index.read_all()
    columns = index.columns(0)
    assert columns["suite"].tolist() == [s for s in ("bursty", "middle", "quiet") for _ in range(12)]
    assert (columns["state"] == store.DONE).tolist() == [True] * 19 + [False] * 5 + [True] * 12
    assert np.isfinite(columns["mass"]).tolist() == (columns["state"] == store.DONE).tolist()


def test_a_suite_is_opened_once_until_it_changes(own_store, monkeypatch):
    """Names that are written anew, and a suite that is gone, are seen at the next look."""
    opened = []
    monkeypatch.setattr(store, "open_suite", lambda *a, open_=store.open_suite: opened.append(a) or open_(*a))
    before = [read_stored(own_store, "quiet", i).name for i in (0, 1)]
    assert len(opened) == 1
    group = store.open_suite(own_store, "quiet")
    group["galaxy"][:] = group["galaxy"][:][::-1]
    assert [read_stored(own_store, "quiet", 11 - i).name for i in (0, 1)] == before
    shutil.rmtree(own_store / "quiet")
    with pytest.raises(store.StoreError, match="no suite 'quiet'"):
        read_stored(own_store, "quiet", 0)


def test_a_page_of_a_large_store_reads_no_more_than_its_galaxies(map_store, tmp_path, monkeypatch):
    """20,000 galaxies, none of them read before: a page looks for the shards of its blocks, and reads those there."""
    large = tmp_path / "large.zarr"
    names = [f"g{i}" for i in range(20_000)]
    suite_group.create_suite(
        large, "many", names, names, {"views": 1, "pixels": 16, "galaxies_per_shard": 16, "suite": {}}
    )
    group = store.open_suite(large, "many")
    group["status"][11_936:11_952] = store.FAILED  # one shard, on page 200
    looked_at, read = [], []
    monkeypatch.setattr(gallery_index, "chunk_file", lambda *a: looked_at.append(a) or chunk_file(*a))
    monkeypatch.setattr(
        GalaxyReader, "read_into", lambda self, number, out: read.append(number) or out.fill(store.FAILED)
    )
    html = Pages(Index(large), []).listing({"page": "200"}).decode()
    assert "page 200 of 334" in html
    assert "of 20,000 galaxies are read so far" in html
    assert 8 <= len(looked_at) <= 16
    assert read == [*range(11_936, 11_952)]
    assert html.count("<b>failed</b>") > 10


def test_names_are_escaped_and_addresses_are_checked(own_store):
    group = store.open_suite(own_store, "quiet")
    names = group["galaxy"][:]
    names[0] = '<script>alert("x")</script>'
    group["galaxy"][:] = names
    pages = Pages(Index(own_store), [])
    for html in (
        pages.listing({"suite": "quiet", "name": '"><script>'}),
        pages.listing({"suite": "quiet"}),
        pages.galaxy({"name": '"><script>'}, "quiet", "0"),
    ):
        assert b"<script" not in html
    for query in ({"suite": "../x"}, {"sort": "__class__"}, {"mass_min": "1;2"}, {"page": "x"}, {"network": "9"}):
        with pytest.raises(Refusal):
            pages.listing(query)
    for query, place in (
        ({}, ("no", "0")),
        ({"view": "-1"}, ("quiet", "0")),
        ({"view": "²"}, ("quiet", "0")),
        ({"instrument": "/etc/passwd"}, ("quiet", "0")),
    ):
        with pytest.raises(Refusal):
            pages.galaxy(query, *place)
    for query, number in (({}, "12"), ({"view": "2"}, "0")):
        with pytest.raises(NotShown):
            pages.galaxy(query, "quiet", number)


def test_show_draws_a_galaxy_by_its_name(map_store, runs, tmp_path):
    name = str(store.open_suite(map_store, "quiet")["galaxy"][1])
    assert find(map_store, name) == find(map_store, f"quiet/{name}") == ("quiet", 1)
    with pytest.raises(NotShown, match="no galaxy 'x'"):
        find(map_store, "x")
    with pytest.raises(
        NotShown, match=rf"no galaxy '{name[:-2]}'; it has .*{name}"
    ):  # what holds these letters is named
        find(map_store, name[:-2])
    out = tmp_path / "a" / "picture.png"
    line = ("eval", "show", map_store, name, "--instrument", "ifu", "--runs", *of_name(runs, "gas", "middle"))
    done = called(*line, "--out", out)
    assert "rms error" in done.stdout
    assert "not trained on this suite" in done.stdout  # the run `middle`
    assert out.read_bytes().startswith(b"\x89PNG")
    assert re.findall(r"(\w+): 12 galaxies \(12 mapped", called("eval", "show", map_store).stdout) == sorted(SUITES)
    done = called("eval", "show", tmp_path, name, check=False)
    assert (done.returncode, "is no map store" in done.stderr) == (2, True)


def test_a_user_whom_the_system_does_not_name_gets_an_address(monkeypatch):
    """As in a container that is given a user's number alone: the gallery ended with a KeyError."""

    def no_name() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", no_name)
    assert _user() == "USER"


@pytest.fixture(scope="module")
def address(map_store: Path, runs: list[Path], results: Path) -> Iterator[str]:
    """The address that a running `kinmass gallery` prints."""
    words = ["gallery", str(map_store), "--runs", *map(str, of_name(runs, "gas", "stars", "both")), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kinmass", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [process.stdout.readline() for _ in range(3)]
    if not lines[1]:
        raise AssertionError(process.stderr.read())
    assert "ssh -N -L" in lines[2]
    yield lines[1].split()[1]
    process.terminate()
    process.communicate(timeout=20)


def asked(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of an answer; Cookie is that of the address's token unless another is given."""
    with contextlib.closing(http.client.HTTPConnection(address.split("/")[2], timeout=60)) as connection:
        connection.request("GET", f"/?{address.split('?')[1]}")
        first = connection.getresponse()
        first.read()
        cookie = first.headers["Set-Cookie"].split(";")[0]
        connection.request(method, path, headers={"Cookie": cookie} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace"), dict(answer.headers)


def test_only_who_has_the_address_may_read_and_nobody_may_write(address):
    assert address.startswith("http://127.0.0.1:")
    assert asked(address, "/")[0] == 200
    assert asked(address, "/", Cookie="")[0] == 403
    assert asked(address, "/", Host="evil.example")[0] == 403
    assert asked(address, "/?token=wrong", Cookie="kinmass=x")[0] == 403
    token = address.split("?")[1]
    assert asked(address, f"/galaxy/quiet/1?view=1&{token}")[2]["Location"] == "/galaxy/quiet/1?view=1"
    assert asked(address, f"//evil.example/?{token}")[2]["Location"] == "/evil.example/"  # not another machine's
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert asked(address, "/", method)[0] in (403, 405), method
    _, html, headers = asked(address, "/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "script-src" not in headers["Content-Security-Policy"]
    assert not re.findall(r"(?:src|href)=\"(?!/)", html)


@pytest.mark.parametrize(
    "path",
    ["/galaxy/quiet/12", "/galaxy/no/0", "/tile/quiet/99999.png", "/map/quiet/0/7/0.png", "/map/quiet/0/0/3.png",
     "/galaxy/quiet/0?view=x", "/galaxy/quiet/0?instrument=nope", "/galaxy/..%2f..%2fetc/0", "/../../etc/passwd",
     "/style.css/../pages.py", "/galaxy/quiet/-1", "/?suite=nope", "/favicon.ico"],
)  # fmt: skip
def test_addresses_that_lead_nowhere_give_404_and_a_sentence(address, path):
    status, html, _ = asked(address, path)
    assert status == 404
    sentence = re.search(r'class="note bad">([^<]+)<', html)
    assert sentence
    assert "Traceback" not in html


@pytest.fixture(scope="module")
def browser(address):
    """Headless Chromium that has opened the address; where KINMASS_NEED_BROWSER is set it must be there."""
    if not (CHROMIUM and DRIVER) and not os.environ.get("KINMASS_NEED_BROWSER"):
        pytest.skip("no browser: install chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver") if not os.environ.get("KINMASS_NEED_BROWSER") else None
    if webdriver is None:
        from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or "chromium"
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER or "chromedriver"))
    driver.set_page_load_timeout(60)
    driver.get(address)
    yield driver
    driver.quit()


def width(driver, pixels: int, height: int) -> None:
    size = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize(("pixels", "height"), [(1440, 900), (390, 844)])
def test_a_browser_shows_the_list_and_a_galaxy(browser, address, pixels, height):
    """Every picture loads, nothing is wider than the screen or asked of another machine, and links lead on."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    root = address.split("/?")[0]
    width(browser, pixels, height)
    browser.get(f"{root}/?sort=mass&descending=1")
    pictures = browser.find_elements(By.CSS_SELECTOR, ".cards img")
    assert len(pictures) == 36
    loaded = (
        "return [...document.images].filter(i => i.loading != 'lazy' || i.getBoundingClientRect().top < innerHeight)"
    )
    WebDriverWait(browser, 60).until(
        lambda d: d.execute_script(f"{loaded}.every(i => i.complete && i.naturalWidth > 0)")
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= pixels
    assert pictures[0].get_property("naturalWidth") == 33
    masses = [float(x) for x in re.findall(r"log M\* ([\d.]+)", browser.page_source)]
    assert len(masses) == 36
    assert masses == sorted(masses, reverse=True)
    name = browser.find_element(By.CSS_SELECTOR, ".cards .name")
    title = name.text
    name.click()
    assert title in browser.find_element(By.TAG_NAME, "h1").text
    WebDriverWait(browser, 60).until(
        lambda d: d.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 300)")
    )
    assert len(browser.find_elements(By.TAG_NAME, "img")) == 7
    assert browser.execute_script("return document.documentElement.scrollWidth") <= pixels
    for label in ("gas", "stars", "both"):
        assert browser.find_elements(By.XPATH, f"//tbody/tr/th[text()='{label}']")
    browser.find_element(By.CSS_SELECTOR, "a[rel=next]").click()
    second = browser.find_element(By.TAG_NAME, "h1").text
    assert title not in second
    browser.find_element(By.CSS_SELECTOR, "a[rel=prev]").click()
    assert title in browser.find_element(By.TAG_NAME, "h1").text
    requested = re.findall(r'"url":"(\w+://[^"]+)"', " ".join(e["message"] for e in browser.get_log("performance")))
    assert requested
    assert all(url.startswith(root) for url in requested if not url.startswith(("data:", "chrome"))), set(requested)
    assert not [e for e in browser.get_log("browser") if "favicon" not in e["message"]]


@pytest.mark.parametrize("port", [65536, 99999, -5, 10**20])
def test_a_number_that_is_no_port_is_refused(port):
    """The system takes the remainder by 65536."""
    with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 cannot be used"):
        bind(port)
