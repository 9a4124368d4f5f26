"""What is foretold of a run: its laws, and a probe that leaves the store as it was."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import called, tree
from test_faults import SMALL, write_box

from kinmass.gen.campaign.foretell import Load, foretell, probe, told
from kinmass.gen.campaign.plan import plan
from kinmass.gen.campaign.record import Settings
from kinmass.gen.suite import load_suite

ZOOMS = Load(galaxies=1000, snapshots=1000, galaxy_s=0.3, fetch_s=0.1, open_s=0.2)
BOX = Load(galaxies=1000, snapshots=1, galaxy_s=0.3, fetch_s=0.01, open_s=5.0)


def test_one_rank_takes_the_sum_of_all_costs():
    alone = foretell([ZOOMS, BOX], 1, 128, start_s=2.0, listing_s=8.0)
    assert alone.seconds == pytest.approx(2 + 8 + 1000 * 0.5 + 1000 * 0.3 + 5)
    assert alone.efficiency == pytest.approx(1)


@pytest.mark.parametrize("loads", [[ZOOMS], [BOX], [ZOOMS, BOX]])
def test_more_ranks_are_faster_and_less_efficient_up_to_the_readers(loads):
    runs = [foretell(loads, 2**k, 10**6, 2.0, 8.0) for k in range(8)]
    assert np.all(np.diff([run.seconds for run in runs]) < 0)
    assert np.all(np.diff([run.efficiency for run in runs]) < 0)


def test_bytes_come_through_the_readers_places_alone():
    run = foretell([ZOOMS], 1000, 4, 0.0, 0.0)
    assert run.mapping_s == pytest.approx(1000 * 0.1 / 4 + 0.25)
    assert foretell([ZOOMS], 1000, 1000, 0.0, 0.0).mapping_s == pytest.approx(0.5 + 0.25)


def test_every_rank_opens_a_box_of_its_own():
    assert foretell([BOX], 10, 100, 0.0, 0.0).mapping_s == pytest.approx((10 * 5.0 + 300) / 10 + 0.5 * 5.3)


def test_ranks_take_whole_shards():
    sharded = replace(ZOOMS, per_shard=16)
    assert foretell([sharded], 1, 128, 0.0, 0.0).mapping_s == pytest.approx(1000 * 0.5)
    assert foretell([sharded], 10, 128, 0.0, 0.0).mapping_s == pytest.approx(100 * 0.5 + 0.5 * 16 * 0.5)
    # There are no more than 63 shards, so 1000 ranks are no faster than as many as there are.
    assert foretell([sharded], 1000, 1000, 0.0, 0.0).mapping_s == pytest.approx(16 * 0.5)


@pytest.mark.parametrize("per_shard", [1, 3])
def test_a_probe_times_galaxies_and_leaves_the_store_as_it_was(tmp_path, per_shard):
    suite, out = load_suite(write_box(tmp_path / "box", galaxies=8)), tmp_path / "m.zarr"
    settings = Settings(2, 16, galaxies_per_shard=per_shard)
    tasks = plan([suite], out, settings)
    before = tree(out)
    (load,) = probe(tasks, out, settings)
    assert tree(out) == before
    assert not list(out.glob(".probe*"))
    assert (load.galaxies, load.snapshots, load.per_shard) == (8, 8, per_shard)
    assert 0 < load.fetch_s < load.galaxy_s < 5
    assert 0 < load.open_s < 5
    worthwhile = "2 ranks are worth their while" if per_shard == 1 else "1 rank is worth its while"  # of three shards
    assert worthwhile in told([load], 2, 128, 0.0, 0.0)


def test_plan_foretells_from_the_command_line(tmp_path):
    suite, out = write_box(tmp_path / "box", galaxies=3), tmp_path / "maps.zarr"
    said = called("gen", "maps", suite, "--out", out, *SMALL, "--plan", "--ranks", 3).stdout
    assert "room for 3 galaxies, 0 of them done" in said
    assert [line.split()[0] for line in said.splitlines()[2:5]] == ["1", "2", "3"]
    called("gen", "maps", suite, "--out", out, *SMALL)
    said = called("gen", "maps", suite, "--out", out, *SMALL, "--plan", "--ranks", 3).stdout
    assert "nothing is left to map" in said
