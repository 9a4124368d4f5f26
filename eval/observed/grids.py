"""Where pixels lie: bring images onto one grid, and derive the size of a table's spaxels from their positions."""

import re
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, WCSSUB_CELESTIAL, NoConvergence, WcsError
from astropy.wcs.utils import proj_plane_pixel_scales, wcs_to_celestial_frame
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from kinmass.eval.observed.fits_units import factor_to

#: Grids whose pixels lie less than this [pixels] apart count as the same grid.
SAME_PIXELS = 0.1
#: No pixel of a galaxy's map is so wide [arcsec]: 1 degree is what headers have where nothing is known.
WIDEST_PIXEL = 100.0
#: How a map is resampled: as the mean over a pixel, the value nearest to it, or the largest value near it (a mask).
Resampling = Literal["mean", "nearest", "largest"]


#: How files write the units of celestial axes, which wcslib mends only where all axes of a header can be read.
_CELESTIAL_UNITS = {"degree": "deg", "degrees": "deg", "deg": "deg", "arcsec": "arcsec", "arcsecs": "arcsec"}
#: The cards of a header that name its frame, and frames that are written in other ways than the standard's.
_FRAME_CARDS = ("RADESYS", "RADECSYS")
_FRAMES = {"J2000": "FK5", "J2000.0": "FK5", "B1950": "FK4", "B1950.0": "FK4", "ICRF": "ICRS"}
#: With these, the equinox alone tells the frame, as the standard has it for a header without such a card.
_NO_FRAME = ("UNKNOWN", "NONE", "N/A")


#: Cards of celestial axes that hold a number, and those of the SIP convention's distortions.
_NUMBERS = re.compile(r"(?:CRPIX|CRVAL|CDELT|CROTA)\d|(?:CD|PC)\d_\d|LONPOLE|LATPOLE|EQUINOX|EPOCH")
_DISTORTIONS = re.compile(r"[AB]P?_(?:ORDER|DMAX|\d_\d)")


def _with_numbers(header: fits.Header) -> fits.Header:
    """Return a header in which numbers of the WCS that are written as texts, `'21.0'`, are numbers.

    wcslib leaves out such cards, and those without a value, in silence: CRPIX is nil then. Raises ValueError for those
    of celestial axes that are no numbers, and where CRPIX or CRVAL is not there at all.
    """
    own = header.copy()
    on_sky = [i for i in range(1, 5) if str(header.get(f"CTYPE{i}", "")).startswith(("RA", "DEC", "GLON", "GLAT"))]
    for key in [f"{card}{axis}" for axis in on_sky for card in ("CRPIX", "CRVAL") if f"{card}{axis}" not in header]:
        raise ValueError(f"{key} is missing")
    for key in [key for key in header if _NUMBERS.fullmatch(key) and not isinstance(header[key], int | float)]:
        try:
            own[key] = float(str(header[key]))
        except ValueError as error:
            if {int(digit) for digit in re.findall(r"\d", key)} & {*on_sky}:
                is_text = isinstance(header[key], str)
                raise ValueError(f"{key} {f'= {header[key]!r} is no number' if is_text else 'has no value'}") from error
    return own


def _celestial(header: fits.Header) -> WCS:
    """Return the celestial axes of a header, whose units and frame may be written in other ways than the standard's.

    An image has no velocity axis any more, but headers of moments often keep one, without its rest frequency: the
    others are left out before anything is made of them.
    """
    header = _with_numbers(header)
    for key in [key for key in header if re.fullmatch(r"CUNIT\d[A-Z]?", key)]:
        if unit := _CELESTIAL_UNITS.get(str(header[key]).strip().lower()):
            header[key] = unit
    for key in [key for key in _FRAME_CARDS if isinstance(header.get(key), str)]:
        frame = str(header[key]).strip().upper()
        header[key] = _FRAMES.get(frame, frame)
        if frame in _NO_FRAME and "EQUINOX" in header:
            del header[key]
    # By the SIP convention these are meant where CTYPE says so. Mosaics keep those of an exposure, which astropy takes.
    if not any("-SIP" in str(header.get(f"CTYPE{axis}", "")) for axis in range(1, 5)):
        for key in [key for key in header if _DISTORTIONS.fullmatch(key)]:
            del header[key]
    return WCS(header, naxis=[WCSSUB_CELESTIAL])


def _refuse_unknown_frame(name: str, wcs: WCS, header: fits.Header) -> None:
    """Raise ValueError where the celestial coordinates of an image are in a frame of which no place on the sky follows.

    Ecliptic coordinates are refused too: astropy would take them for right ascension and declination.
    """
    instead = "or remove the WCS and say pixel_arcsec and centre_pixel"
    if wcs.wcs.lngtyp.strip() not in ("RA", "GLON"):
        raise ValueError(
            f"{name}: its header has celestial coordinates in {wcs.wcs.lngtyp.strip()} and {wcs.wcs.lattyp.strip()} "
            f"(CTYPE): give right ascension and declination, or galactic coordinates, {instead}"
        )
    try:
        wcs_to_celestial_frame(wcs)
    except ValueError as error:
        card = next((f"{key} = {header[key]!r}" for key in _FRAME_CARDS if key in header), f"{wcs.wcs.radesys!r}")
        raise ValueError(
            f"{name}: {card} in its header is no frame that is known here: write ICRS, FK5 (with EQUINOX) or FK4, that "
            f"of its coordinates, {instead}"
        ) from error


def _refuse_two_matrices(name: str, header: fits.Header) -> None:
    """Raise ValueError where a header turns and scales its first two axes by CD and by PC, and not alike.

    The standard forbids both, and programs differ on which counts.
    """
    has = {kind: any(f"{kind}{i}_{j}" in header for i in (1, 2) for j in (1, 2)) for kind in ("CD", "PC")}
    if not all(has.values()):
        return
    cd, pc = (
        np.array([[header.get(f"{kind}{i}_{j}", of_none[i == j]) for j in (1, 2)] for i in (1, 2)], float)
        for kind, of_none in (("CD", (0.0, 0.0)), ("PC", (0.0, 1.0)))
    )
    by_pc = np.array([[header.get("CDELT1", 1.0)], [header.get("CDELT2", 1.0)]], float) * pc
    if np.abs(cd - by_pc).max() > 1e-3 * np.abs(cd).max():
        raise ValueError(
            f"{name}: its header turns and scales the pixels twice, by CD1_1 = {cd[0, 0]:.6g} and by CDELT1 PC1_1 = "
            f"{by_pc[0, 0]:.6g} and the like, which differ: remove the cards that are wrong, CDi_j or PCi_j and CDELTi"
        )


def _sides_in(header: fits.Header) -> tuple[float, float] | None:
    """Return the sides of a pixel [arcsec] that a header without celestial axes tells by CDELT, or CD, and CUNIT.

    None where it tells none in an angle, as those of offsets from a centre are.
    """
    sides = []
    for axis in (1, 2):
        column = [header.get(f"CD{i}_{axis}") for i in (1, 2)]
        steps = [step for step in column if step] or [header.get(f"CDELT{axis}")]
        arcsec = factor_to(units.arcsec, str(header.get(f"CUNIT{axis}", "")))
        if arcsec is None or not all(isinstance(step, int | float) for step in steps):
            return None
        sides.append(arcsec * float(np.hypot(*([*steps, 0.0][:2]))))
    return (sides[0], sides[1]) if min(sides) > 0 and max(sides) < WIDEST_PIXEL else None


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an image lie: its shape (Y, X), and its celestial coordinates, None where it has none."""

    name: str
    shape: tuple[int, ...]
    wcs: WCS | None
    told_arcsec: tuple[float, float] | None = None  # sides of a pixel without a WCS, where its header tells them

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], header: fits.Header) -> "Grid":
        """Read the grid of an image `name` from its header. Raises ValueError for coordinates that cannot be read."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AstropyWarning)
                wcs = _celestial(header)
        except (ValueError, TypeError, AttributeError, MemoryError, WcsError) as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"{name}: the coordinates (WCS) in its header cannot be read ({why}); mend CTYPE, CRVAL, CDELT or CD "
                "of its celestial axes, or remove them and say pixel_arcsec and centre_pixel"
            ) from error
        if not wcs.has_celestial:
            return cls(name, shape, None, _sides_in(header))
        _refuse_unknown_frame(name, wcs, header)
        _refuse_two_matrices(name, header)
        return cls(name, shape, wcs)

    def sides_arcsec(self) -> np.ndarray:
        """Return the two sides (2,) of a pixel [arcsec]. Raises ValueError without celestial coordinates."""
        if self.wcs is None:
            raise ValueError(f"{self.name} has no celestial coordinates (WCS)")
        return np.asarray(3600 * proj_plane_pixel_scales(self.wcs), float)

    def pixel_coordinates_of(self, other: "Grid", x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel coordinates (x, y) in this grid of the pixels (x, y) of another grid; NaN where there are none.

        Raises ValueError where this grid's coordinates cannot be inverted.
        """
        assert self.wcs is not None
        assert other.wcs is not None
        try:
            pixel_xy = self.wcs.world_to_pixel(other.wcs.pixel_to_world(x, y))
        except NoConvergence as error:
            raise ValueError(
                f"the coordinates (WCS) of {self.name} cannot be inverted; is its header right?"
            ) from error
        return np.asarray(pixel_xy[0], float), np.asarray(pixel_xy[1], float)

    def lies_on(self, other: "Grid") -> bool:
        """Whether each pixel lies at the place of the same pixel of the other grid."""
        if self.shape != other.shape:
            return False
        height, width = self.shape
        x, y = (
            v.ravel().astype(float)
            for v in np.meshgrid(np.arange(3) * (width - 1) / 2, np.arange(3) * (height - 1) / 2)
        )
        xy_in_this_grid = self.pixel_coordinates_of(other, x, y)
        return bool(np.all(np.hypot(xy_in_this_grid[0] - x, xy_in_this_grid[1] - y) < SAME_PIXELS))

    def resample(self, values: np.ndarray, onto: "Grid", method: Resampling) -> np.ndarray:
        """Resample values (Y, X) of this grid to the pixels of another; NaN where too little of a pixel is known.

        Means are infinite where a part of the pixel is.
        """
        # Sample points along a side of a pixel; at least 2 for masks, since a bad pixel between two others spoils both.
        n_samples = int(np.clip(np.ceil(np.max(onto.sides_arcsec()) / np.min(self.sides_arcsec()) - 0.01), 1, 16))
        n_samples = {"mean": n_samples, "nearest": 1, "largest": max(n_samples, 2)}[method]
        offset = (np.arange(n_samples) + 0.5) / n_samples - 0.5
        iy, ix = np.indices(onto.shape)
        sample_points = [self.pixel_coordinates_of(onto, ix + dx, iy + dy) for dx in offset for dy in offset]
        if method != "mean":
            return _largest(values, sample_points)
        means = _mean(values, sample_points)
        for sign in (1, -1):  # no measurement, of which means of pixels beside it would make one
            means[_largest((values == sign * np.inf).astype(float), sample_points) > 0] = sign * np.inf
        return means


def _largest(values: np.ndarray, sample_points: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the largest value of the pixels nearest to the sample points; NaN where no point lies in the image."""
    largest = np.full(sample_points[0][0].shape, np.nan)
    for x, y in sample_points:
        nearest_pixel = [np.round(np.where(np.isfinite(v), v, -1)).astype(int) for v in (y, x)]
        inside = np.all([(i >= 0) & (i < n) for i, n in zip(nearest_pixel, values.shape, strict=True)], axis=0)
        largest[inside] = np.fmax(largest[inside], values[nearest_pixel[0][inside], nearest_pixel[1][inside]])
    return largest


def _mean(values: np.ndarray, sample_points: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Interpolate linearly between known pixels, average over the sample points; NaN where less than half is known."""
    is_known = np.isfinite(values)
    weighted_sum, weight = np.zeros(sample_points[0][0].shape), np.zeros(sample_points[0][0].shape)
    for x, y in sample_points:
        pixel_yx = np.stack([np.where(np.isfinite(v), v, -9.0) for v in (y, x)])
        weighted_sum += map_coordinates(np.where(is_known, values, 0.0), pixel_yx, order=1, mode="constant")
        weight += map_coordinates(is_known.astype(float), pixel_yx, order=1, mode="constant")
    has_enough = weight >= 0.5 * len(sample_points)
    return np.where(has_enough, weighted_sum / np.where(has_enough, weight, 1.0), np.nan)


def _unmasked(
    key: str, images: dict[str, np.ndarray], grids: dict[str, Grid], methods: dict[str, Resampling]
) -> np.ndarray:
    """Return an image (Y, X) that is NaN where a mask on its own grid marks it, or means would hold what it marks."""
    value, grid = images[key], grids[key]
    for other, method in methods.items() if methods.get(key, "mean") == "mean" else ():
        if method == "largest" and grids[other].wcs is not None and grids[other].lies_on(grid):
            value = np.where(images[other] == 0, value, np.nan)
    return value


def onto_one_grid(
    images: dict[str, np.ndarray],
    grids: dict[str, Grid],
    reference_key: str,
    methods: dict[str, Resampling],
    by_pixel_number: bool,
) -> tuple[dict[str, np.ndarray], Grid, list[str]]:
    """Bring images {key: (Y, X)} onto the grid of the image reference_key.

    by_pixel_number: pixels of one index belong together whatever their coordinates say. methods {key: Resampling} is
    "mean" for keys that it leaves out. Returns the images, their common grid, and sentences on which images were
    resampled. Raises ValueError where it is not known which pixels belong together.
    """
    common = grids[reference_key]
    if by_pixel_number and common.wcs is None:
        common = next((g for g in grids.values() if g.wcs is not None), common)
    aligned, remarks = {}, []
    for key, value in images.items():
        grid = grids[key]
        if by_pixel_number or (grid.wcs is None and common.wcs is None):
            if grid.shape != common.shape:
                raise ValueError(
                    f"images differ in shape: {common.name} {common.shape}, {grid.name} {grid.shape}; give images of "
                    "one shape, or each with its celestial coordinates (WCS)"
                )
            aligned[key] = value
            continue
        if grid.wcs is None or common.wcs is None:
            without_wcs, with_wcs = (grid, common) if grid.wcs is None else (common, grid)
            raise ValueError(
                f"{without_wcs.name} has no celestial coordinates (WCS) and {with_wcs.name} has: say one_grid: true "
                "if their pixels are the same one by one, else give it a WCS"
            )
        if grid is common or grid.lies_on(common):
            aligned[key] = value
            continue
        aligned[key] = grid.resample(_unmasked(key, images, grids, methods), common, methods.get(key, "mean"))
        if not np.isfinite(aligned[key]).any():
            raise ValueError(f"{grid.name} and {common.name} show no common part of the sky: are their WCS right?")
        remarks.append(f"{grid.name} lies on a grid of its own: it was brought onto that of {common.name}.")
    return aligned, common, remarks


def spaxel_side(x_arcsec: np.ndarray, y_arcsec: np.ndarray, name: str, pixel_arcsec: float | None) -> float:
    """Find the side [arcsec] of spaxels at positions (n,), on a grid along any axes, or with rows shifted.

    pixel_arcsec is the side that the user gives, None where the positions alone determine it. Raises ValueError where
    the positions lie on no grid (as centres of bins do), or on a grid with another side than pixel_arcsec.
    """
    positions = np.unique(np.round(np.stack([x_arcsec, y_arcsec], axis=1), 6), axis=0)
    if len(positions) < 6:
        raise ValueError(
            f"{name}: a map needs six spaxels at least, this one has {len(positions)}; is `table` the right one?"
        )
    distance = cKDTree(positions).query(positions, k=6)[0][:, 1:]
    side = float(np.median(distance[:, 0]))
    squared_sides = (distance[:, 0] / side) ** 2
    # On a grid with gaps the nearest neighbour is at 1, sqrt(2), 2, ... sides; for centres of bins it is anywhere.
    off_grid = (np.abs(distance[:, 0] / side - 1) > 0.1) & ~(
        (squared_sides > 1.5) & (np.abs(squared_sides - np.round(squared_sides)) < 0.15)
    )
    is_gridded = float(np.mean(off_grid)) < 0.05
    is_square = float(np.quantile(distance[:, 3], 0.1)) < 1.3 * side
    spacings = _spacings(positions) if len(positions) > 9 else (0.0, 0.0)
    if is_gridded and all(spacings) and max(spacings) > 1.04 * min(spacings):
        raise ValueError(
            f"{name}: spaxels lie {spacings[0]:.3g} arcsec apart along x and {spacings[1]:.3g} along y: if x is a "
            "difference of right ascension, multiply it by cos(declination), or give right ascension, declination and "
            "centre_deg"
        )
    if pixel_arcsec is None:
        if not is_gridded:
            raise ValueError(
                f"{name}: rows lie on no grid. If they are centres of bins say rows: bins, or give a table of spaxels "
                "and `bins`; if they are spaxels or fibres, say pixel_arcsec, the side of one"
            )
        if not is_square:
            raise ValueError(f"{name}: spaxels are not square, or lie too thinly to tell; say pixel_arcsec, their side")
        # Hexagons have six neighbours that are equally near: their squares have the same area.
        return side * np.sqrt(np.sqrt(0.75)) if np.median(distance[:, 4]) < 1.06 * side else side
    agrees = 0.9 < side / pixel_arcsec < 1.1 or 1.3 < side / pixel_arcsec < 1.5  # 1.4: a chessboard
    if (is_gridded and is_square and not agrees) or side > 1.5 * pixel_arcsec:
        raise ValueError(
            f"{name}: rows lie {side:.3g} arcsec apart, and pixel_arcsec is {pixel_arcsec:.3g}: if x and y "
            "count pixels say xy_unit: pix, if rows are centres of bins say rows: bins"
        )
    return pixel_arcsec


def first_of_each_place(x_arcsec: np.ndarray, y_arcsec: np.ndarray, side_arcsec: float) -> np.ndarray:
    """Return, for each of n spaxels at x, y (n,), the first one that lies at the same place, to .02 sides."""
    places = np.round(np.column_stack([x_arcsec, y_arcsec]) / (0.02 * side_arcsec))
    _, first, place = np.unique(places, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[place.ravel()])


def lie_one_apart(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a twentieth of positions (n,) have their nearest neighbour one apart along an axis, as single pixels."""
    positions = np.stack([x, y], axis=1)
    nearest = cKDTree(positions).query(positions, k=2)[1][:, 1]
    step = np.sort(np.abs(positions[nearest] - positions), axis=1)
    return bool(np.count_nonzero(np.abs(step - [0, 1]).max(1) < 2e-3) >= max(5, 0.05 * len(positions)))


def count_from_a_corner(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether positions have none below zero along both axes, as numbers of pixels and no offsets from a centre."""

    def counts(values: np.ndarray) -> bool:
        """Return whether positions (n,) along one axis do."""
        known = values[np.isfinite(values)]
        return len(known) > 4 and float(known.min()) >= 0

    return counts(x) and counts(y)


def _spacings(positions: np.ndarray) -> tuple[float, float]:
    """Return how far neighbours of positions (n, 2) lie along x and along y, nil where these are no lattice along both.

    In a lattice all other neighbours lie farther, across the corners.
    """
    apart = np.abs(positions[cKDTree(positions).query(positions, k=9)[1][:, 1:]] - positions[:, None])
    is_along = [apart[..., 1 - axis] < 0.15 * apart[..., axis] for axis in range(2)]
    along = [np.where(is_along[axis], apart[..., axis], np.inf).min(1) for axis in range(2)]
    across = np.where(is_along[0] | is_along[1], np.inf, np.hypot(*np.moveaxis(apart, 2, 0))).min(1)
    spacings = [float(np.median(distance)) for distance in along]
    return (spacings[0], spacings[1]) if np.median(across) > max(spacings) else (0.0, 0.0)


#: No bin lies so many times as far from the middle as nine tenths of them, unless its place stands for nothing.
FARTHEST_BIN = 10


def tiled(x_arcsec: np.ndarray, y_arcsec: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Fill the area of bins with squares: x, y (m,), the bin (m,) of each square, and their common side [arcsec].

    x_arcsec, y_arcsec (n,) are the centres of the bins. Every place belongs to the nearest centre, as in a Voronoi
    tessellation, out to 0.75 of the typical distance to a bin's neighbours. Raises ValueError for fewer than five bins,
    for bins that share a centre, and for some that lie far from all others, and would set the squares' side.
    """
    centres = np.stack([x_arcsec, y_arcsec], axis=1)
    if len(centres) < 5:
        raise ValueError(f"a map needs five bins at least, this one has {len(centres)}; is `table` the right one?")
    from_middle = np.abs(centres - np.median(centres, axis=0)).max(axis=1)
    is_far = from_middle > FARTHEST_BIN * np.quantile(from_middle, 0.9, method="lower")
    if is_far.any():
        raise ValueError(
            f"{is_far.sum()} of {len(centres)} bins lie {FARTHEST_BIN} times as far from the middle as nine tenths of "
            f"them, as at {centres[is_far][0, 0]:.6g}, {centres[is_far][0, 1]:.6g} arcsec: say blank if such a number "
            "stands for nothing, or leave the rows out"
        )
    tree = cKDTree(centres)
    neighbour_distance = tree.query(centres, k=5)[0][:, 1:]
    if not (smallest_spacing := float(np.quantile(neighbour_distance[:, 0], 0.05))) > 0:
        raise ValueError("rows share a place: bins must have a centre each")
    reach_arcsec = 0.75 * np.median(neighbour_distance, axis=1)
    low, high = (f(centres, axis=0) + s * reach_arcsec.max() for f, s in ((np.min, -1), (np.max, 1)))
    side_arcsec = max(0.5 * smallest_spacing, float(np.max(high - low)) / 200)
    x, y = (v.ravel() for v in np.meshgrid(*(np.arange(a, b, side_arcsec) for a, b in zip(low, high, strict=True))))
    distance, bin_index = tree.query(np.stack([x, y], axis=1))
    inside = distance <= reach_arcsec[bin_index]
    return x[inside], y[inside], bin_index[inside], side_arcsec
