"""Laws of the maps of cells: exact volumes, mass, refinement, analytic bodies."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection
from scipy.spatial.transform import Rotation

from kinmass.gen.physics import projection
from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.projection import with_kernels
from kinmass.gen.physics.sightline import sightlines

TURNS = sightlines(7, "cells", 4)
ROLLED = Rotation.from_euler("z", 0.3).as_matrix()
#: Views in which some of the cube's faces or edges are seen from exactly aside or along, and one next to these.
SPECIAL = {
    "face on": np.eye(3),
    "rolled": ROLLED,
    "from behind": np.diag([-1.0, 1.0, -1.0]) @ ROLLED,
    "along a plane": ROLLED @ Rotation.from_euler("x", 0.5).as_matrix(),
    "along a plane, aligned": Rotation.from_euler("x", 0.5).as_matrix(),
    "along the diagonal": Rotation.align_vectors([[0, 0, 1]], [[1, 1, 1]])[0].as_matrix(),
    "nearly face on": ROLLED @ Rotation.from_euler("xy", [1e-5, 3e-7]).as_matrix(),
}
ALL_VIEWS = [*TURNS[:2], *SPECIAL.values()]


def assert_same_column(one: np.ndarray, other: np.ndarray, turn: np.ndarray) -> None:
    """Equal to 1e-6 of the largest column; but for views along a plane of the grid, to rounding."""
    tolerance = 1e-6 if np.abs(turn[2]).min() < 1e-6 else 1e-10
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * other.max())


def assert_same_maps(one: np.ndarray, other: np.ndarray, turn: np.ndarray) -> None:
    """Four maps that show something: equal columns, motions and spreads where there is enough gas, equal counts."""
    assert np.count_nonzero(other[0]) > 0.9 * other[0].size
    assert_same_column(one[0], other[0], turn)
    seen = other[0] > 1e-3 * other[0].max()
    for channel in (1, 2):
        assert np.ptp(other[channel][seen]) > 1
        np.testing.assert_allclose(one[channel][seen], other[channel][seen], atol=1e-3)
    np.testing.assert_array_equal(one[3], other[3])


def project(particles: Particles, turn: np.ndarray, half_kpc: float, pixels: int) -> np.ndarray:
    return projection.project(particles, turn[None], [half_kpc], pixels)[0]


def cells(pos: np.ndarray, side: np.ndarray | float, density: np.ndarray | float = 1.0, vel=0.0) -> Particles:
    """Cells of a density [Msun/kpc^3]."""
    side = np.full(len(pos), side) if np.isscalar(side) else np.asarray(side)
    vel = np.broadcast_to(vel, pos.shape).copy()
    return Particles(pos, vel, np.broadcast_to(density, len(pos)) * side**3, side_kpc=side)


def some_cells(n: int, sides: tuple[float, float], seed: int = 0) -> Particles:
    rng = np.random.default_rng(seed)
    side = np.exp(rng.uniform(*np.log(sides), n))
    return cells(rng.normal(0, 1, (n, 3)), side, rng.uniform(0.5, 2, n), rng.normal(0, 50, (n, 3)))


def children(p: Particles) -> Particles:
    """The eight halves of every cell."""
    corner = np.stack(np.meshgrid(*[[-0.25, 0.25]] * 3), axis=-1).reshape(8, 1, 3)
    side = np.tile(p.side_kpc / 2, 8)
    pos = (p.pos_kpc + corner * p.side_kpc[:, None]).reshape(-1, 3)
    return Particles(pos, np.tile(p.vel_kms, (8, 1)), np.tile(p.mass_msun / 8, 8), side_kpc=side)


def refined(inside, half_kpc: float, base: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sides of a grid that is refined wherever inside(centre, side) is neither 1 (in) nor 0 (out)."""
    side = 2 * half_kpc / base
    line = (np.arange(base) + 0.5) * side - half_kpc
    pos = np.stack(np.meshgrid(line, line, line), axis=-1).reshape(-1, 3)
    kept, sides = [], []
    for level in range(depth + 1):
        state = inside(pos, side)
        full = state == 1 if level < depth else inside(pos, 0.0) == 1
        kept.append(pos[full])
        sides.append(np.full(full.sum(), side))
        mixed = cells(pos[np.isnan(state)], side)
        pos, side = children(mixed).pos_kpc, side / 2
    return np.concatenate(kept), np.concatenate(sides)


def volume_in_pixel(pos: np.ndarray, side: float, turn: np.ndarray, edges: list[float]) -> float:
    """Volume of the part of a cube between x0, x1 and y0, y1 of a view: half-spaces, meeting in a convex hull."""
    x0, x1, y0, y1 = edges
    normals = np.concatenate([np.eye(3), -np.eye(3), [turn[0], -turn[0], turn[1], -turn[1]]])
    reach = np.concatenate([pos + side / 2, side / 2 - pos, [x1, -x0, y1, -y0]])
    inner = linprog([0, 0, 0, -1], np.c_[normals, np.ones(10)], reach, bounds=[(None, None)] * 3 + [(0, None)])
    if not inner.success or inner.x[3] < 1e-7 * side:
        return 0.0
    return float(ConvexHull(HalfspaceIntersection(np.c_[normals, -reach], inner.x[:3]).intersections).volume)


@pytest.mark.parametrize("side", [0.3, 1.0, 2.5, 7.0])
def test_every_pixel_has_the_volume_of_its_part_of_the_cube(side):
    rng = np.random.default_rng(int(10 * side))
    for turn in ALL_VIEWS:
        pos = rng.uniform(-0.7, 0.7, (1, 3))
        map_ = project(cells(pos, side), turn, 2.0, 4)[0]
        line = np.arange(-2.0, 3.0)
        exact = [[volume_in_pixel(pos[0], side, turn, [x, x + 1, y, y + 1]) for x in line[:-1]] for y in line[:-1]]
        np.testing.assert_allclose(map_, exact, atol=1e-7 * min(side, side**3))
        assert np.max(exact) > 0


@pytest.mark.parametrize("pixels", [0.01, 0.2, 1.0, 3.0, 10.0, 40.0])
def test_agrees_with_thousands_of_points_in_each_cell(pixels):
    """Stratified points, each in a box of its own: only those whose box a pixel's side cuts may be on the wrong one."""
    n, fine = 64, 20 if pixels < 10 else 50
    rng = np.random.default_rng(int(100 * pixels))
    for turn in TURNS:
        p = cells(rng.uniform(-2, 2, (4, 3)), pixels, vel=rng.normal(0, 50, (4, 3)))
        box = np.stack(np.meshgrid(*[np.arange(fine)] * 3), axis=-1).reshape(-1, 1, 3)
        points = p.pos_kpc + ((box + rng.random((fine**3, 4, 3))) / fine - 0.5) * pixels
        xy = points.reshape(-1, 3) @ turn[:2].T + n / 2
        theirs = np.histogram2d(xy[:, 1], xy[:, 0], bins=n, range=[[0, n], [0, n]])[0] / fine**3 * pixels**3
        ours = project(p, turn, n / 2, n)[0]
        cut = 4 * np.sqrt(3) * fine**2 / max(pixels, 1) * (1 + pixels / fine) ** 2
        assert np.abs(ours - theirs).max() < 4 * np.sqrt(cut / 4) * (pixels / fine) ** 3
        assert ours.sum() == pytest.approx(theirs.sum(), rel=1e-3 if pixels > 10 else 1e-7)


@pytest.mark.parametrize("sides", [(1e-3, 1e-2), (0.01, 1.0), (1.0, 6.0)])
def test_mass_is_conserved_and_each_cell_counted_once(sides):
    p = some_cells(300, sides)
    for turn in ALL_VIEWS:
        maps = project(p, turn, 12.0, 64)
        assert maps[0].sum() * (24 / 64) ** 2 == pytest.approx(p.mass_msun.sum(), rel=1e-6)
        assert maps[3].sum() == 300
        assert maps[0].min() == 0


def test_a_sheet_of_cells_fills_a_window_and_its_edges():
    """Cells that reach out of the field lose only what lies outside: the column of a slab is uniform."""
    line = np.arange(-6, 6) + 0.5
    pos = np.stack([a.ravel() for a in (*np.meshgrid(line, line), np.zeros((12, 12)))], axis=1)
    tilt = Rotation.from_euler("xz", [0.4, 1.0]).as_matrix()
    np.testing.assert_allclose(project(cells(pos, 1.0), tilt, 2.0, 20)[0], 1 / tilt[2, 2], rtol=1e-6)
    np.testing.assert_allclose(project(cells(np.zeros((1, 3)), 1000.0), tilt, 2.0, 20)[0], 1000 / tilt[2, 2], rtol=1e-6)


@pytest.mark.parametrize("sides", [(0.01, 0.3), (0.3, 3.0), (20.0, 40.0)])
def test_refining_a_grid_changes_nothing(sides):
    p = some_cells(40, sides)
    for turn in ALL_VIEWS:
        coarse, fine = project(p, turn, 2.0, 16), project(children(p), turn, 2.0, 16)
        assert_same_column(fine[0], coarse[0], turn)
        seen = coarse[0] > 1e-3 * coarse[0].max()
        np.testing.assert_allclose(fine[1][seen], coarse[1][seen], atol=1e-3)
        np.testing.assert_allclose(fine[2][seen], coarse[2][seen], atol=1e-3)


def test_a_cell_aligned_with_the_pixels_has_exact_areas():
    density = project(cells(np.array([[0.25, -0.5, 3.0]]), 1.5, 2.0), np.eye(3), 2.0, 4)[0]
    x, y = np.array([0, 0.5, 1, 0]), np.array([0.25, 1, 0.25, 0])
    np.testing.assert_allclose(density, 2 * 1.5 * np.outer(y, x), rtol=1e-6)


def test_quarter_turns_and_mirrors_turn_and_mirror_the_map():
    p = some_cells(200, (0.01, 2.0))
    for turn in ALL_VIEWS:
        maps = project(p, turn, 2.0, 16)
        quarter = project(p, np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]) @ turn, 2.0, 16)
        assert_same_maps(quarter, np.rot90(maps, -1, axes=(1, 2)), turn)
        mirrored = project(p, np.diag([-1.0, 1, 1]) @ turn, 2.0, 16)
        assert_same_maps(mirrored, maps[:, :, ::-1], turn)
        assert np.abs(np.rot90(maps[0]) - maps[0]).max() > 0.1 * maps[0].max()  # or any turn would do


def test_the_axes_of_the_grid_may_be_swapped():
    p = some_cells(200, (0.01, 2.0))
    for turn in ALL_VIEWS:
        swap = np.array([[0, 1.0, 0], [0, 0, -1], [1, 0, 0]])
        swapped = replace(p, pos_kpc=p.pos_kpc @ swap.T, vel_kms=p.vel_kms @ swap.T)
        assert_same_maps(project(swapped, turn @ swap.T, 2.0, 16), project(p, turn, 2.0, 16), turn)


def test_a_sphere_of_refined_cells():
    """The column of a uniform sphere is 2 rho sqrt(R^2 - b^2); on its surface cells count whose centre is inside."""
    radius = 1.0

    def inside(pos, side):
        r, reach = np.linalg.norm(pos, axis=1), side * np.sqrt(3) / 2
        return np.where(r + reach <= radius, 1.0, np.where(r - reach >= radius, 0.0, np.nan))

    pos, side = refined(inside, 1.0, 8, 4)
    density = project(cells(pos, side, 3.0), TURNS[0], 1.0, 20)[0]
    line = (np.arange(20) + 0.5) / 10 - 1
    b = np.hypot(line, line[:, None])
    np.testing.assert_allclose(density[b < 0.85], 6 * np.sqrt(1 - b[b < 0.85] ** 2), rtol=0.01)
    assert density.sum() * 0.01 == pytest.approx(4 * np.pi, rel=2e-3)


def test_an_inclined_disc_of_refined_cells():
    """A cold rotating disc: column rho h / cos i, v_los = v_c sin i cos phi on the side of the major axis."""
    tilt, thick, v_c = np.radians(60), 0.125, 200.0

    def inside(pos, side):
        height, reach = np.abs(pos[:, 2]), side / 2
        return np.where(height + reach <= thick / 2, 1.0, np.where(height - reach >= thick / 2, 0.0, np.nan))

    pos, side = refined(inside, 4.0, 16, 3)
    R = np.hypot(pos[:, 0], pos[:, 1])
    vel = v_c * np.stack([-pos[:, 1] / R, pos[:, 0] / R, 0 * R], axis=1)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    maps = project(cells(pos, side, 5.0, vel), turn, 1.5, 24)
    np.testing.assert_allclose(maps[0], 5 * thick / np.cos(tilt), rtol=1e-6)
    x = (np.arange(24) + 0.5) / 8 - 1.5
    x, y = np.meshgrid(x, x / np.cos(tilt))
    away = np.hypot(x, y) > 0.5
    np.testing.assert_allclose(maps[1][away], (v_c * np.sin(tilt) * x / np.hypot(x, y))[away], atol=8)
    assert maps[1][12, -1] > 150


def test_moments_are_those_of_the_masses_in_a_pixel():
    """Two cells in line: mean and dispersion by hand, in the one that both cover."""
    p = cells(np.array([[0.5, 0.5, -3.0], [0.5, 0.5, 3.0]]), 1.0, np.array([1.0, 3.0]))
    p.vel_kms[:, 2] = 1e4 + np.array([0.0, 40.0])
    maps = projection.project(p, np.eye(3)[None], [1.0], 2, (0, 0, 1e4))[0, :, 1, 1]
    np.testing.assert_allclose(maps, [4.0, 30.0, 40 * np.sqrt(3) / 4, 2.0], rtol=1e-6)


def test_views_weights_and_kernels():
    p = some_cells(2000, (0.01, 1.0))
    half = np.linspace(1.0, 3.0, len(TURNS))
    together = projection.project(p, TURNS, half, 16)
    for maps, turn, width in zip(together, TURNS, half, strict=True):
        np.testing.assert_allclose(maps, project(p, turn, width, 16), rtol=1e-12, atol=1e-6)
    weight = np.random.default_rng(1).uniform(0, 2, 2000) * (np.arange(2000) % 3 > 0)
    as_mass = project(replace(p, mass_msun=weight)[weight > 0], TURNS[0], 2.0, 16)
    np.testing.assert_array_equal(project(replace(p, weight=weight), TURNS[0], 2.0, 16), as_mass)
    assert with_kernels(p) is p
