"""Maps of an observed galaxy as pixels on the sky, and as the grid that a network looks at.

What surveys call a pixel, a spaxel, a bin is a square here: a place, an area and what was measured there.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

# n pixels of the sky, Q pixels along a side of the network's grid
#: Cells of the fine grid along a side of a pixel of the network's.
FINE = 4
#: Share of a pixel of the network's grid that has to be observed.
MIN_COVERED = 0.3
KPC_PER_ARCSEC_MPC = 1e3 * np.pi / 180 / 3600


@dataclass(frozen=True)
class SkyMap:
    """One tracer of one galaxy: n pixels at (x, y) from its centre [arcsec], squares of a side [arcsec].

    density (n,) in any unit per area, V and sigma (n,) [km/s]; dispersion_kms None where it was not measured.
    beam_fwhm_arcsec is how far the maps are blurred, None where that is not known (taken as sharp). Only finite pixels
    with a positive density are kept.
    Raises ValueError where arrays differ in length or nothing is left.

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

    def __post_init__(self) -> None:
        arrays = {k: np.asarray(v, float).ravel() for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        if len({len(v) for v in arrays.values()}) != 1:
            raise ValueError(f"maps differ in size: {', '.join(f'{k} has {len(v)}' for k, v in arrays.items())}")
        if not self.side_arcsec > 0 or not self.blur_arcsec >= 0:
            raise ValueError(
                f"pixels of {self.side_arcsec} arcsec and a beam of {self.beam_fwhm_arcsec} arcsec make no map"
            )
        good = np.all([np.isfinite(v) for v in arrays.values()], axis=0) & (arrays["density"] > 0)
        if "dispersion_kms" in arrays:
            good &= arrays["dispersion_kms"] >= 0
        if not good.any():
            raise ValueError("no pixel has a positive density and finite values in all of its maps")
        for name, values in arrays.items():
            object.__setattr__(self, name, values[good])

    @classmethod
    def from_images(
        cls,
        density: np.ndarray,
        velocity_kms: np.ndarray,
        dispersion_kms: np.ndarray | None,
        pixel_arcsec: float,
        centre: tuple[float, float] | None = None,
        beam_fwhm_arcsec: float | None = None,
    ) -> "SkyMap":
        """From images (Y, X), NaN where nothing was measured; centre (x, y) in pixels from 0, or the middle."""
        shape = np.shape(velocity_kms)
        shapes = [shape, np.shape(density)] + ([] if dispersion_kms is None else [np.shape(dispersion_kms)])
        if len(shape) != 2 or len(set(shapes)) != 1:
            raise ValueError(f"images must have one shape (Y, X), not {', '.join(map(str, shapes))}")
        at = centre or (0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1))
        y, x = np.indices(shape)
        sigma = None if dispersion_kms is None else np.asarray(dispersion_kms, float)
        return cls(
            pixel_arcsec * (x - at[0]), pixel_arcsec * (y - at[1]), pixel_arcsec, np.asarray(density, float),
            np.asarray(velocity_kms, float), sigma, beam_fwhm_arcsec,
        )  # fmt: skip

    @property
    def blur_arcsec(self) -> float:
        """The beam's FWHM; none where it is not known."""
        return self.beam_fwhm_arcsec or 0.0

    def moved(self, x_arcsec: float, y_arcsec: float) -> "SkyMap":
        """The same about another centre."""
        return replace(self, x_arcsec=self.x_arcsec - x_arcsec, y_arcsec=self.y_arcsec - y_arcsec)

    def reach_arcsec(self) -> float:
        """Radius [arcsec] inside which nine tenths of the pixels lie."""
        return float(np.quantile(np.hypot(self.x_arcsec, self.y_arcsec), 0.9))

    def systemic_kms(self) -> float:
        """Mean velocity, weighted with the density."""
        return float(np.average(self.velocity_kms, weights=self.density))


def regrid(sky: SkyMap, pixels: int, field_arcsec: float, psf_fwhm_arcsec: float = 0.0) -> np.ndarray:
    """(4, Q, Q) density, V, sigma and a mask of what is seen, on a grid of a field [arcsec] about the centre.

    Moments Sigma, Sigma V, Sigma (V^2 + sigma^2) are spread over squares and averaged over what is observed of a
    pixel, as light is; a pixel is seen where enough of it is observed. Maps sharper than psf_fwhm_arcsec are
    blurred to it. Without a dispersion, sigma is zero everywhere: the mark of its absence.
    """
    cells = FINE * pixels
    size = field_arcsec / cells
    # Squares are cut into parts no larger than half a cell, each of which falls into one.
    parts = max(1, int(np.ceil(2 * sky.side_arcsec / size)))
    offset = ((np.arange(parts) + 0.5) / parts - 0.5) * sky.side_arcsec
    share = (sky.side_arcsec / parts / size) ** 2
    sigma = 0.0 if sky.dispersion_kms is None else sky.dispersion_kms
    v = sky.velocity_kms
    values = np.stack([np.ones_like(v), sky.density, sky.density * v, sky.density * (v**2 + sigma**2)])
    flat = np.zeros((4, cells * cells))
    near = np.maximum(np.abs(sky.x_arcsec), np.abs(sky.y_arcsec)) < 0.5 * field_arcsec + sky.side_arcsec
    for dx in offset:
        column = np.floor((sky.x_arcsec[near] + dx) / size + 0.5 * cells).astype(int)
        for dy in offset:
            row = np.floor((sky.y_arcsec[near] + dy) / size + 0.5 * cells).astype(int)
            inside = (row >= 0) & (row < cells) & (column >= 0) & (column < cells)
            at = row[inside] * cells + column[inside]
            for k in range(4):
                flat[k] += share * np.bincount(at, values[k, near][inside], cells * cells)
    fine = flat.reshape(4, cells, cells)

    def coarse(image: np.ndarray) -> np.ndarray:
        return image.reshape(-1, pixels, FINE, pixels, FINE).mean((2, 4))

    seen = coarse(fine[:1])[0] >= MIN_COVERED
    wider = np.sqrt(max(psf_fwhm_arcsec**2 - sky.blur_arcsec**2, 0.0)) / 2.3548 / size
    if wider > 0:
        for image in fine:
            gaussian_filter(image, wider, output=image, mode="constant")
    covered, density, first, second = coarse(fine)
    safe = np.where(density > 0, density, 1.0)
    velocity = first / safe
    dispersion = np.sqrt(np.maximum(second / safe - velocity**2, 0.0))
    if sky.dispersion_kms is None:
        dispersion = np.zeros_like(velocity)
    out = np.stack([density / np.maximum(covered, 1e-30), velocity, dispersion, np.ones_like(velocity)])
    return np.where(seen & (density > 0), out, 0.0)
