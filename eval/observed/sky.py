"""Maps of an observed galaxy as pixels on the sky, and as the grid that a network looks at.

A pixel, a spaxel or a piece of a bin is a square here: it has a place, an area and what was measured there.
"""

from dataclasses import dataclass, replace

import numpy as np
from astropy import units
from astropy.utils.masked import Masked
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

# n pixels of the sky, Q pixels along a side of the network's grid
#: Cells of the fine grid along a side of a pixel of the network's grid.
FINE = 4
#: Share of a pixel of the network's grid that has to be observed: patchy gas stays. What is no larger than a beam, and
#: touches nothing else, is noise (`without_strays`).
MIN_COVERED = 0.02
#: Fewest pixels of a map that touch each other and are no noise, where no beam is known.
FEWEST_TOGETHER = 4
#: Area of a round Gaussian beam over the square of its FWHM.
BEAM_AREA = 1.1331
#: kpc per arcsec at a distance of 1 Mpc.
KPC_PER_ARCSEC_MPC = 1e3 * np.pi / 180 / 3600


_ERRORS = {"velocity_error_kms", "dispersion_error_kms"}
#: Units of a map's arrays, for those that have one of their own.
_UNITS = dict.fromkeys(("velocity_kms", "dispersion_kms", *_ERRORS), units.km / units.s)
_UNITS |= dict.fromkeys(("x_arcsec", "y_arcsec"), units.arcsec) | {"density": units.solMass / units.kpc**2}
_SIZES = ("side_arcsec", "beam_fwhm_arcsec")


def _plain(name: str, values: np.ndarray) -> np.ndarray:
    """Return an array of a map as plain numbers in its unit, NaN where it is masked.

    It may be a masked array, a column of astropy's or a quantity: numpy drops masks and units in silence. Raises
    ValueError for another quantity than the array is to be.
    """
    if type(values) is np.ndarray:
        return np.asarray(values, float)
    is_masked = values.mask if isinstance(values, np.ma.MaskedArray | Masked) else False
    numbers = np.array(values.unmasked if isinstance(values, Masked) else values, float)
    own_unit = getattr(values, "unit", None)
    if own_unit is not None and own_unit != units.dimensionless_unscaled:
        try:
            numbers *= units.Unit(own_unit).to(_UNITS.get(name, units.arcsec))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{name} is in {own_unit}: give it in {_UNITS.get(name, units.arcsec)}, or as plain numbers"
                + (" that are proportional to light or mass per area" if name == "density" else "")
            ) from error
    return np.where(is_masked, np.nan, numbers)


def _with_median(errors: np.ndarray) -> np.ndarray | None:
    """Return errors (n,) with the median of those that are known in the place of others; None where none is known."""
    is_known = np.isfinite(errors) & (errors > 0)
    return np.where(is_known, errors, np.median(errors[is_known])) if is_known.any() else None


@dataclass(frozen=True)
class SkyMap:
    """One tracer of one galaxy: n square pixels of side side_arcsec at offsets (x, y) from its centre [arcsec].

    density (n,) in any unit per area, V and sigma (n,) [km/s]; dispersion_kms is None where it was not measured.
    beam_fwhm_arcsec is the FWHM to which the maps are blurred, None where it is not known (then taken as sharp). Only
    pixels with finite values, a positive density and a dispersion that is not negative are kept. Standard errors of V
    and sigma (n,) [km/s] may be missing, as a whole or in some pixels, where they are taken to be the median of the
    others. What is masked in masked arrays counts as NaN, and arrays with units are converted to these.
    Raises ValueError where arrays differ in length, sizes are not positive or no pixel is left, and for a unit of
    another quantity.

    >>> x = np.array([-1.0, 1.0])
    >>> SkyMap(x, 0 * x, 2.0, density=np.array([3.0, np.nan]), velocity_kms=50 * x).velocity_kms  # one pixel has none
    array([-50.])
    """

    x_arcsec: np.ndarray
    y_arcsec: np.ndarray
    side_arcsec: float
    density: np.ndarray
    velocity_kms: np.ndarray
    dispersion_kms: np.ndarray | None = None
    beam_fwhm_arcsec: float | None = None
    velocity_error_kms: np.ndarray | None = None
    dispersion_error_kms: np.ndarray | None = None

    def __post_init__(self) -> None:
        arrays = {k: _plain(k, v).ravel() for k, v in vars(self).items() if k in _UNITS and v is not None}
        for name in _SIZES:
            if hasattr(size := getattr(self, name), "unit"):
                object.__setattr__(self, name, float(_plain(name, size)))
        if len({len(v) for v in arrays.values()}) != 1:
            raise ValueError(f"maps differ in size: {', '.join(f'{k} has {len(v)}' for k, v in arrays.items())}")
        if not self.side_arcsec > 0:
            raise ValueError(f"pixels must be wider than 0 arcsec, not {self.side_arcsec}")
        if not self.blur_arcsec >= 0:
            raise ValueError(f"beam_fwhm_arcsec must not be negative, not {self.beam_fwhm_arcsec}")
        for name in _ERRORS & arrays.keys():
            filled = _with_median(arrays.pop(name))
            object.__setattr__(self, name, filled)
            arrays |= {} if filled is None else {name: filled}
        is_usable = np.all([np.isfinite(v) for v in arrays.values()], axis=0) & (arrays["density"] > 0)
        if "dispersion_kms" in arrays:
            is_usable &= arrays["dispersion_kms"] >= 0
        if not is_usable.any():
            nowhere = [name.removesuffix("_kms") for name, values in arrays.items() if not np.isfinite(values).any()]
            raise ValueError(
                f"no pixel has a number for {' and '.join(nowhere)}; leave out what was not measured"
                if nowhere
                else "no pixel has a positive density and finite values in all of its maps; look at masks, `blank` and "
                "cuts"
            )
        for name, values in arrays.items():
            object.__setattr__(self, name, values[is_usable])

    @classmethod
    def from_images(
        cls,
        density: np.ndarray,
        velocity_kms: np.ndarray,
        dispersion_kms: np.ndarray | None,
        pixel_arcsec: float,
        centre: tuple[float, float] | None = None,
        beam_fwhm_arcsec: float | None = None,
        velocity_error_kms: np.ndarray | None = None,
        dispersion_error_kms: np.ndarray | None = None,
    ) -> "SkyMap":
        """Make a map from images (Y, X), NaN or masked where nothing was measured.

        centre (x, y) is in pixels, counted from 0; None is the middle. Raises ValueError as the class does, and for
        images that differ in shape.
        """
        given = {
            "velocity_kms": velocity_kms, "density": density, "dispersion_kms": dispersion_kms,
            "velocity_error_kms": velocity_error_kms, "dispersion_error_kms": dispersion_error_kms,
        }  # fmt: skip
        images = {name: _plain(name, image) for name, image in given.items() if image is not None}
        shapes = [image.shape for image in images.values()]
        shape = shapes[0]
        if len(shape) != 2 or len(set(shapes)) != 1:
            raise ValueError(f"images must have one shape (Y, X), not {', '.join(map(str, shapes))}")
        centre_xy = centre or (0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1))
        y, x = np.indices(shape)
        return cls(
            pixel_arcsec * (x - centre_xy[0]), pixel_arcsec * (y - centre_xy[1]), pixel_arcsec,
            beam_fwhm_arcsec=beam_fwhm_arcsec, **images,
        )  # fmt: skip

    @property
    def blur_arcsec(self) -> float:
        """FWHM of the beam [arcsec], 0 where it is not known."""
        return self.beam_fwhm_arcsec or 0.0

    def moved(self, x_arcsec: float, y_arcsec: float) -> "SkyMap":
        """Return the same map about another centre, at (x, y) [arcsec] from this one."""
        return replace(self, x_arcsec=self.x_arcsec - x_arcsec, y_arcsec=self.y_arcsec - y_arcsec)

    def chosen(self, is_kept: np.ndarray) -> "SkyMap":
        """Return the map of some of the pixels (n,)."""
        arrays = {name: value[is_kept] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    def measured_arcsec2(self) -> np.ndarray:
        """Return, for each pixel (n,), the area of the bin that it is part of, or its own [arcsec^2].

        Pixels side by side with one V, dispersion and errors hold one measurement.
        """
        values = (self.velocity_kms, self.dispersion_kms, self.velocity_error_kms, self.dispersion_error_kms)
        measured = np.stack([v for v in values if v is not None])
        pairs = touching_pairs(self, 1.1)
        label = groups_of(pairs[(measured[:, pairs[:, 0]] == measured[:, pairs[:, 1]]).all(0)], len(self.x_arcsec))
        return np.asarray(np.bincount(label)[label] * self.side_arcsec**2)

    def reach_arcsec(self) -> float:
        """Return the radius [arcsec] inside which nine tenths of the pixels lie."""
        return float(np.quantile(np.hypot(self.x_arcsec, self.y_arcsec), 0.9))

    def systemic_kms(self) -> float:
        """Return the mean velocity [km/s], weighted with the density."""
        return float(np.average(self.velocity_kms, weights=self.density))


def touching_pairs(sky: SkyMap, sides: float) -> np.ndarray:
    """Return the pairs of pixels (m, 2) whose middles lie no more than a number of sides apart."""
    places = np.column_stack([sky.x_arcsec, sky.y_arcsec])
    return cKDTree(places).query_pairs(sides * sky.side_arcsec, output_type="ndarray").reshape(-1, 2)


def bins_of(*values: np.ndarray) -> np.ndarray:
    """Return the number of the bin (n,) that each pixel is in: those of one bin have the same finite values (n,)."""
    return np.asarray(np.unique(np.stack(values), axis=1, return_inverse=True)[1]).ravel()


def groups_of(pairs: np.ndarray, n: int) -> np.ndarray:
    """Return the number of the group (n,) that each of n pixels belongs to; pairs (m, 2) belong together."""
    touching = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(n, n))
    return np.asarray(connected_components(touching, directed=False)[1])


def fewest_together(sky: SkyMap) -> float:
    """Return how many pixels of a map what is seen through its beam covers at least; no beam: FEWEST_TOGETHER."""
    return max(FEWEST_TOGETHER, BEAM_AREA * sky.blur_arcsec**2 / sky.side_arcsec**2)


def without_strays(sky: SkyMap) -> SkyMap:
    """Return a map without groups of pixels that are smaller than a beam and touch no others: these are noise.

    Without a known beam they are smaller than FEWEST_TOGETHER pixels. The largest group always stays.
    """
    if sky.side_arcsec > sky.blur_arcsec and len(sky.x_arcsec) < FEWEST_TOGETHER:
        return sky
    label = groups_of(touching_pairs(sky, 1.5), len(sky.x_arcsec))
    size = np.bincount(label)
    is_kept = ((size >= fewest_together(sky)) | (size == size.max()))[label]
    return sky if is_kept.all() else sky.chosen(is_kept)


@dataclass(frozen=True)
class Regridded:
    """A map on a network's grid: density, V, sigma and mask (4, Q, Q), and errors of V and sigma (Q, Q) if known."""

    channels: np.ndarray
    velocity_error_kms: np.ndarray | None
    dispersion_error_kms: np.ndarray | None


def regrid(sky: SkyMap, pixels: int, field_arcsec: float, psf_fwhm_arcsec: float = 0.0) -> np.ndarray:
    """Return the channels (4, Q, Q) of `regridded`."""
    without_errors = replace(sky, velocity_error_kms=None, dispersion_error_kms=None)
    return regridded(without_errors, pixels, field_arcsec, psf_fwhm_arcsec).channels


def regridded(
    sky: SkyMap,
    pixels: int,
    field_arcsec: float,
    psf_fwhm_arcsec: float = 0.0,
    measured_arcsec2: np.ndarray | None = None,
) -> Regridded:
    """Return density, V, sigma and a mask (4, Q, Q) of a map, on a grid of Q pixels over field_arcsec about the centre.

    Moments Sigma, Sigma V, Sigma (V^2 + sigma^2) are spread over the squares of the map and averaged, as light is, over
    the observed part of each pixel of the grid. The mask is 1 where a share MIN_COVERED of a pixel is observed. Maps
    sharper than psf_fwhm_arcsec are blurred to it. For a map without dispersion, sigma is zero everywhere, which
    marks that it is missing. The error of a pixel is the rms of the errors in it, weighted with the density, over the
    root of the number of measurements that it holds, where it holds several: of beams, or of what is wider, bins or
    pixels of the map. measured_arcsec2 (n,): areas of the latter, where they are known already.
    """
    n_cells = FINE * pixels
    cell_arcsec = field_arcsec / n_cells
    sigma = 0.0 if sky.dispersion_kms is None else sky.dispersion_kms
    v = sky.velocity_kms
    errors = [e for e in (sky.velocity_error_kms, sky.dispersion_error_kms) if e is not None]
    moments = [np.ones_like(v), sky.density, sky.density * v, sky.density * (v**2 + sigma**2)]
    moments += [sky.density * error**2 for error in errors]
    if errors:
        beam_arcsec2 = BEAM_AREA * max(psf_fwhm_arcsec, sky.blur_arcsec) ** 2
        areas = sky.measured_arcsec2() if measured_arcsec2 is None else measured_arcsec2
        moments.append(sky.density * (np.maximum(areas, beam_arcsec2) if beam_arcsec2 else 0.0))
    fine_moments = _spread(sky, np.stack(moments), n_cells, cell_arcsec)

    def average_cells(image: np.ndarray) -> np.ndarray:
        """Return the means (..., Q, Q) over the fine cells of each pixel of the grid."""
        return image.reshape(-1, pixels, FINE, pixels, FINE).mean((2, 4))

    is_seen = average_cells(fine_moments[:1])[0] >= MIN_COVERED
    blur_cells = np.sqrt(max(psf_fwhm_arcsec**2 - sky.blur_arcsec**2, 0.0)) / 2.3548 / cell_arcsec
    if blur_cells > 0:
        for image in fine_moments:
            gaussian_filter(image, blur_cells, output=image, mode="constant")
    covered, density, momentum, energy, *other_moments = average_cells(fine_moments)
    safe_density = np.where(density > 0, density, 1.0)
    velocity = momentum / safe_density
    dispersion = np.sqrt(np.maximum(energy / safe_density - velocity**2, 0.0))
    if sky.dispersion_kms is None:
        dispersion = np.zeros_like(velocity)
    channels = np.stack([density / np.maximum(covered, 1e-30), velocity, dispersion, np.ones_like(velocity)])
    is_seen &= density > 0
    cell_arcsec2 = covered * (field_arcsec / pixels) ** 2
    known = iter(_errors_of_means(np.stack(other_moments) / safe_density, cell_arcsec2) if errors else [])
    velocity_error, dispersion_error = (
        None if error is None else np.where(is_seen, next(known), 0.0)
        for error in (sky.velocity_error_kms, sky.dispersion_error_kms)
    )
    return Regridded(np.where(is_seen, channels, 0.0), velocity_error, dispersion_error)


def _spread(sky: SkyMap, values: np.ndarray, n_cells: int, cell_arcsec: float) -> np.ndarray:
    """Return the sums (M, C, C) of values (M, n) of a map's squares over a grid about the centre, by shares of area."""
    # Squares are cut into parts no larger than half a cell; each part is assigned to one cell.
    parts = max(1, int(np.ceil(2 * sky.side_arcsec / cell_arcsec)))
    offset = ((np.arange(parts) + 0.5) / parts - 0.5) * sky.side_arcsec
    cells_per_part = (sky.side_arcsec / parts / cell_arcsec) ** 2
    sums = np.zeros((len(values), n_cells * n_cells))
    half_field_arcsec = 0.5 * n_cells * cell_arcsec
    is_near = np.maximum(np.abs(sky.x_arcsec), np.abs(sky.y_arcsec)) < half_field_arcsec + sky.side_arcsec
    for dx in offset:
        column = np.floor((sky.x_arcsec[is_near] + dx) / cell_arcsec + 0.5 * n_cells).astype(int)
        for dy in offset:
            row = np.floor((sky.y_arcsec[is_near] + dy) / cell_arcsec + 0.5 * n_cells).astype(int)
            inside = (row >= 0) & (row < n_cells) & (column >= 0) & (column < n_cells)
            cell_index = row[inside] * n_cells + column[inside]
            for k in range(len(values)):
                sums[k] += cells_per_part * np.bincount(cell_index, values[k, is_near][inside], n_cells * n_cells)
    return sums.reshape(-1, n_cells, n_cells)


def _errors_of_means(means: np.ndarray, arcsec2: np.ndarray) -> np.ndarray:
    """Return the errors [km/s] of what is averaged over areas (Q, Q) [arcsec^2].

    means: of the errors' squares, and last of the areas [arcsec^2] that single measurements are of, nil if not known.
    """
    *squares, of_one_arcsec2 = means
    measurements = np.divide(arcsec2, of_one_arcsec2, out=np.ones_like(arcsec2), where=of_one_arcsec2 > 0)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0) / np.maximum(measurements, 1.0)))
