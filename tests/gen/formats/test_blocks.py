"""Blocks of particles: whatever their order in the file, no particle of a sphere is missed, and few others are read."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from kinmass.gen.formats.blocks import MOST_CELLS, Blocks, filled_cells, joined, measured
from kinmass.gen.formats.domain import lowest_and_highest

BLOCK = 500


def cells_of_space(pos, n=8):
    """Sort by top-level cells of a box of side 1, as SWIFT writes."""
    i, j, k = np.floor(pos * n).astype(int).T
    return pos[np.lexsort((k, j, i))]


def groups(rng, n, offset=0.0):
    """Small groups all over a box of side 1, one after the other, as SUBFIND leaves them."""
    return np.repeat(rng.uniform(size=(n // 50, 3)), 50, axis=0) + rng.normal(0, 2e-3, (n // 50 * 50, 3)) + offset


ORDERS = {
    "no order": lambda rng: rng.uniform(size=(20_000, 3)),
    "cells": lambda rng: cells_of_space(rng.uniform(size=(20_000, 3))),
    "cells that particles have left": lambda rng: np.concatenate(
        [cells_of_space(rng.uniform(size=(20_000, 3)))[:-1], [[0.01, 0.01, 0.01]]]
    ),
    "groups": lambda rng: groups(rng, 20_000),
    "groups far from the origin": lambda rng: groups(rng, 20_000, offset=1e6),
    "a plane": lambda rng: groups(rng, 20_000) * [1, 1, 0],
    "single precision": lambda rng: groups(rng, 20_000).astype(np.float32),
    "one point": lambda rng: np.zeros((20_000, 3)),
}


def blocks_of(pos, other):
    """Measure positions cut into blocks, of two types of which the second has fewer; and how often each was read."""
    n, reads = -(-len(pos) // BLOCK), []

    def positions(block):
        reads.append(block)
        for name, all_pos in (("a", pos), ("b", other)):
            yield name, all_pos[block * BLOCK : (block + 1) * BLOCK]

    blocks = measured(range(n), positions, lowest_and_highest, is_single=n == 1)
    assert reads == list(range(n))
    ends = [0, n // 3, n // 3, n]  # one part has nothing to do
    parts = joined([measured(range(*pair), positions, lowest_and_highest) for pair in itertools.pairwise(ends)])
    for name in ("names", "low", "high", "sides", "ends", "cells") if n > 1 else ():
        np.testing.assert_array_equal(getattr(parts, name), getattr(blocks, name), strict=name != "names")
    return blocks, blocks.extents()


def sphere(centre, radius):
    return SimpleNamespace(center=tuple(centre), radius=radius)


@pytest.mark.parametrize("order", ORDERS)
def test_no_particle_of_a_sphere_is_missed(order, tmp_path):
    rng = np.random.default_rng(7)
    pos = ORDERS[order](rng)
    other = pos[::7][:3000]
    blocks, extents = blocks_of(pos, other)
    np.testing.assert_array_equal(extents["a"], lowest_and_highest(pos))
    np.testing.assert_array_equal(extents["b"], lowest_and_highest(other))
    (tmp_path / "kept.blocks").write_bytes(blocks.packed())
    n_inside = 0
    for _ in range(100):
        centre, radius = pos[rng.integers(len(pos))] + rng.normal(0, 0.01, 3), 10 ** rng.uniform(-3, -0.5)
        for kept in (blocks, Blocks.load(tmp_path / "kept.blocks")):
            selector = sphere(centre, radius)
            named = set(kept.identify_file_masks(selector)[0].tolist())
            for name, all_pos in (("a", pos), ("b", other)):
                inside = np.flatnonzero(((all_pos.astype(float) - centre) ** 2).sum(axis=1) <= radius**2)
                n_inside += len(inside)
                assert named >= set((inside // BLOCK).tolist())
                assert all(kept.touches(selector, block, name) for block in set((inside // BLOCK).tolist()))
    assert n_inside > 1000
    everything = SimpleNamespace()  # what is no sphere
    assert kept.identify_file_masks(everything)[0].tolist() == list(range(len(pos) // BLOCK))
    assert [kept.touches(everything, k, "b") for k in (0, len(pos) // BLOCK - 1)] == [True, False]


@pytest.mark.parametrize(("order", "most"), [("cells", 0.1), ("groups", 0.06)])
def test_few_other_blocks_are_read(order, most):
    """Of groups all over the box each block's own cuboid is the whole box: only its cells tell it from others."""
    rng = np.random.default_rng(8)
    pos = ORDERS[order](rng)
    blocks, _ = blocks_of(pos, pos[:0])
    touched = [len(blocks.touched(sphere(pos[rng.integers(len(pos))], 0.01))) for _ in range(50)]
    assert 0 < np.mean(touched) < most * blocks.nfiles
    assert max(np.diff(blocks.ends)) <= MOST_CELLS


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_is_found_whatever_other_blocks_there_are(order):
    """Which blocks are asked at all is told by the room of the box that they reach into."""
    rng = np.random.default_rng(6)
    pos = ORDERS[order](rng)
    blocks, _ = blocks_of(pos, pos[:2000])
    alone = [
        measured(
            range(1), lambda _, k=k: (("a", pos[k : k + BLOCK]), ("b", pos[:2000][k : k + BLOCK])), lowest_and_highest
        )
        for k in range(0, len(pos), BLOCK)
    ]
    for radius in 10 ** rng.uniform(-3, 1, 40):
        selector = sphere(pos[rng.integers(len(pos))] + rng.normal(0, 0.1, 3), radius)
        expected = {
            (k, name)
            for k, one in enumerate(alone)
            for name in "ab"
            if name in one.names and one.touches(selector, 0, name)
        }
        found = {(k, name) for k in range(len(alone)) for name in blocks.names if blocks.touches(selector, k, name)}
        assert found == expected


def test_of_a_block_that_fills_its_cuboid_no_cells_are_kept():
    """They say no more than the cuboid, and every rank of a large box would keep them."""
    pos = np.random.default_rng(3).uniform(size=(2**14, 3))
    assert filled_cells(pos, *lowest_and_highest(pos))[0] == 1
    pos[:, 0] = np.where(pos[:, 0] < 0.5, 0.1 * pos[:, 0], 1 - 0.1 * pos[:, 0])
    side, cells = filled_cells(pos, *lowest_and_highest(pos))
    assert side > 1
    assert 0 < len(cells) <= side**3 / 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
def test_positions_that_are_not_finite_are_never_left_out(value):
    pos = np.random.default_rng(9).uniform(size=(1000, 3))
    pos[700, 1], pos[701, 1] = value, -value
    blocks, extents = blocks_of(pos, pos[:0])
    assert np.isfinite(extents["a"]).all() == (value == 1e308)
    assert blocks.touched(sphere((50.0, 50.0, 50.0), 1.0)) == {1}


@pytest.mark.parametrize("content", [b"{}", b"", np.arange(3).tobytes()])
def test_what_is_no_file_of_blocks_is_refused(content, tmp_path):
    blocks, _ = blocks_of(np.random.default_rng(2).uniform(size=(5000, 3)), np.zeros((0, 3)))
    (tmp_path / "cut").write_bytes(blocks.packed()[:-1])
    (tmp_path / "other").write_bytes(content)
    for name in ("cut", "other"):
        with pytest.raises(ValueError, match=r"array|magic"):
            Blocks.load(tmp_path / name)
