"""Where pixels lie: images brought onto one grid, and the size of a table's spaxels, told from how they lie."""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import proj_plane_pixel_scales
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

#: Grids that differ less than this [pixels] are one.
SAME_PIXELS = 0.1
#: How a map is read between its pixels: averaged; the nearest; the largest of what is near (a mask).
How = Literal["mean", "nearest", "largest"]


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an image lie: a shape (Y, X), and celestial coordinates where it has them."""

    name: str
    shape: tuple[int, ...]
    wcs: WCS | None

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], header: fits.Header) -> "Grid":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(header).celestial
        return cls(name, shape, wcs if wcs.has_celestial else None)

    def sides_arcsec(self) -> np.ndarray:
        """(2,) sides of a pixel [arcsec]. Raises ValueError without coordinates."""
        if self.wcs is None:
            raise ValueError(f"{self.name} has no celestial coordinates (WCS)")
        return np.asarray(3600 * proj_plane_pixel_scales(self.wcs), float)

    def seen_from(self, other: "Grid", x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates here of pixels (x, y) of another grid; NaN where there are none."""
        assert self.wcs is not None
        assert other.wcs is not None
        try:
            there = self.wcs.world_to_pixel(other.wcs.pixel_to_world(x, y))
        except NoConvergence as error:
            raise ValueError(f"the coordinates (WCS) of {self.name} cannot be inverted") from error
        return np.asarray(there[0], float), np.asarray(there[1], float)

    def lies_on(self, other: "Grid") -> bool:
        """Whether pixels are those of the other grid, one by one."""
        if self.shape != other.shape:
            return False
        height, width = self.shape
        x, y = (
            v.ravel().astype(float)
            for v in np.meshgrid(np.arange(3) * (width - 1) / 2, np.arange(3) * (height - 1) / 2)
        )
        there = self.seen_from(other, x, y)
        return bool(np.all(np.hypot(there[0] - x, there[1] - y) < SAME_PIXELS))

    def fit(self, values: np.ndarray, onto: "Grid", how: How) -> np.ndarray:
        """Values (Y, X) of this grid at the pixels of another, averaged over them; NaN where too little is known."""
        parts = int(np.clip(np.ceil(np.max(onto.sides_arcsec()) / np.min(self.sides_arcsec()) - 0.01), 1, 16))
        parts = {"mean": parts, "nearest": 1, "largest": max(parts, 2)}[how]  # a mask between two pixels is of both
        offset = (np.arange(parts) + 0.5) / parts - 0.5
        iy, ix = np.indices(onto.shape)
        looks = [self.seen_from(onto, ix + dx, iy + dy) for dx in offset for dy in offset]
        return _largest(values, looks) if how != "mean" else _mean(values, looks)


def _largest(values: np.ndarray, looks: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The largest of the pixels nearest to the places looked at."""
    found = np.full(looks[0][0].shape, np.nan)
    for x, y in looks:
        at = [np.round(np.where(np.isfinite(v), v, -1)).astype(int) for v in (y, x)]
        inside = np.all([(i >= 0) & (i < n) for i, n in zip(at, values.shape, strict=True)], axis=0)
        found[inside] = np.fmax(found[inside], values[at[0][inside], at[1][inside]])
    return found


def _mean(values: np.ndarray, looks: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Interpolated between the pixels that are known, averaged over the places looked at."""
    known = np.isfinite(values)
    total, weight = np.zeros(looks[0][0].shape), np.zeros(looks[0][0].shape)
    for x, y in looks:
        at = np.stack([np.where(np.isfinite(v), v, -9.0) for v in (y, x)])
        total += map_coordinates(np.where(known, values, 0.0), at, order=1, mode="constant")
        weight += map_coordinates(known.astype(float), at, order=1, mode="constant")
    enough = weight >= 0.5 * len(looks)
    return np.where(enough, total / np.where(enough, weight, 1.0), np.nan)


def one_grid(
    images: dict[str, np.ndarray], grids: dict[str, Grid], first: str, hows: dict[str, How], as_they_lie: bool
) -> tuple[dict[str, np.ndarray], Grid, list[str]]:
    """Images {key: (Y, X)} on the grid of the `first`, that grid, and what was brought onto it, in sentences.

    as_they_lie: pixels are matched by number whatever their coordinates say. Raises ValueError where it is not known
    which pixels belong together.
    """
    main = grids[first]
    if as_they_lie and main.wcs is None:
        main = next((g for g in grids.values() if g.wcs is not None), main)
    out, remarks = {}, []
    for key, value in images.items():
        own = grids[key]
        if as_they_lie or (own.wcs is None and main.wcs is None):
            if own.shape != main.shape:
                raise ValueError(f"images differ in shape: {main.name} {main.shape}, {own.name} {own.shape}")
            out[key] = value
            continue
        if own.wcs is None or main.wcs is None:
            bare, other = (own, main) if own.wcs is None else (main, own)
            raise ValueError(
                f"{bare.name} has no celestial coordinates (WCS) and {other.name} has: say one_grid: true if their "
                "pixels are the same one by one, else give it a WCS"
            )
        if own is main or own.lies_on(main):
            out[key] = value
            continue
        out[key] = own.fit(value, main, hows.get(key, "mean"))
        if not np.isfinite(out[key]).any():
            raise ValueError(f"{own.name} and {main.name} show no common part of the sky: are their WCS right?")
        remarks.append(f"{own.name} lies on a grid of its own: it was brought onto that of {main.name}.")
    return out, main, remarks


def spaxel_side(x_arcsec: np.ndarray, y_arcsec: np.ndarray, name: str, pixel_arcsec: float | None) -> float:
    """Side [arcsec] of spaxels at places (n,), on a grid along any axes, or with rows shifted against each other.

    pixel_arcsec is what it is said to be. Raises ValueError where places lie on no grid (centres of bins), or on
    another than that.
    """
    places = np.unique(np.round(np.stack([x_arcsec, y_arcsec], axis=1), 6), axis=0)
    if len(places) < 6:
        raise ValueError(f"{name}: {len(places)} places are no map")
    near = cKDTree(places).query(places, k=6)[0][:, 1:]
    side = float(np.median(near[:, 0]))
    squared = (near[:, 0] / side) ** 2
    # Spaxels with gaps have their next at 1, sqrt(2), 2, ... sides; the centres of bins anywhere.
    off = (np.abs(near[:, 0] / side - 1) > 0.1) & ~((squared > 1.5) & (np.abs(squared - np.round(squared)) < 0.15))
    gridded = float(np.mean(off)) < 0.05
    square = float(np.quantile(near[:, 3], 0.1)) < 1.3 * side
    if pixel_arcsec is None:
        if not gridded:
            raise ValueError(
                f"{name}: rows lie on no grid. If they are centres of bins say rows: bins, or give a table of spaxels "
                "and `bins`; if they are spaxels or fibres, say pixel_arcsec, the side of one"
            )
        if not square:
            raise ValueError(f"{name}: spaxels are not square, or lie too thinly to tell; say pixel_arcsec, their side")
        # With six neighbours as near as the next, of hexagons: squares of the same area.
        return side * np.sqrt(np.sqrt(0.75)) if np.median(near[:, 4]) < 1.06 * side else side
    fits_said = 0.9 < side / pixel_arcsec < 1.1 or 1.3 < side / pixel_arcsec < 1.5  # the latter: a chessboard
    if (gridded and square and not fits_said) or side > 1.5 * pixel_arcsec:
        raise ValueError(
            f"{name}: rows lie {side:.3g} arcsec apart, and pixel_arcsec is {pixel_arcsec:.3g}: if x and y count "
            "pixels say xy_unit: pix, if rows are centres of bins say rows: bins"
        )
    return pixel_arcsec


def tiled(x_arcsec: np.ndarray, y_arcsec: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Squares that fill what bins about centres (n,) cover: x, y (m,), the bin (m,) of each, and their side [arcsec].

    Every place belongs to the nearest centre, as bins of a Voronoi tessellation do, out to 0.75 of the distance
    between neighbours. Raises ValueError for fewer than five bins.
    """
    centres = np.stack([x_arcsec, y_arcsec], axis=1)
    if len(centres) < 5:
        raise ValueError(f"{len(centres)} bins are no map")
    tree = cKDTree(centres)
    near = tree.query(centres, k=5)[0][:, 1:]
    if not (smallest := float(np.quantile(near[:, 0], 0.05))) > 0:
        raise ValueError("rows share a place: bins must have a centre each")
    reach = 0.75 * np.median(near, axis=1)
    low, high = (f(centres, axis=0) + s * reach.max() for f, s in ((np.min, -1), (np.max, 1)))
    side = max(0.5 * smallest, float(np.max(high - low)) / 200)
    x, y = (v.ravel() for v in np.meshgrid(*(np.arange(a, b, side) for a, b in zip(low, high, strict=True))))
    distance, bin_ = tree.query(np.stack([x, y], axis=1))
    inside = distance <= reach[bin_]
    return x[inside], y[inside], bin_[inside], side
