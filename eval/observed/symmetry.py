"""About which point a velocity field is symmetric: where a disc's own motion has its centre."""

from dataclasses import dataclass

import numpy as np

from kinmass.eval.observed.sky import SkyMap, regrid

# Q pixels along a side of a grid, at most MOST_PIXELS
MOST_PIXELS = 40
#: Share of the pixels that must have one opposite them, about the given centre and about another one; and their number.
LEAST_SHARE, SHARE_OF_GIVEN, FEWEST_PAIRS = 0.3, 0.5, 12


@dataclass(frozen=True)
class Symmetry:
    """Where V is most antisymmetric, and how little it is so there and about the given centre.

    x_arcsec, y_arcsec: that place, from the given centre. asymmetry, asymmetry_given: the mean of |V + V'| / 2 about
    its median, over pixels and those opposite them, in units of the mean of |V| about its median.
    """

    x_arcsec: float
    y_arcsec: float
    asymmetry: float
    asymmetry_given: float

    @property
    def off_arcsec(self) -> float:
        """How far that place is from the given centre [arcsec]."""
        return float(np.hypot(self.x_arcsec, self.y_arcsec))


def evenness(sky: SkyMap) -> float | None:
    """Return how much V is the same on opposite sides of the centre, over how much it is opposite (rms of each part).

    Below one wherever something rotates, about one for noise alone; far above for maps of another kind, such as of
    brightness or age. None where too few pixels have one opposite the centre.
    """
    _, velocity, is_seen = _on_grid(sky)
    is_pair = is_seen & is_seen[::-1, ::-1]
    if np.count_nonzero(is_pair) < max(FEWEST_PAIRS, LEAST_SHARE * np.count_nonzero(is_seen)):
        return None
    opposite = velocity[::-1, ::-1]
    even, odd = 0.5 * (velocity + opposite)[is_pair], 0.5 * (velocity - opposite)[is_pair]
    rms_odd = float(np.sqrt(np.mean(odd**2)))
    return float(np.sqrt(np.mean((even - np.median(even)) ** 2))) / rms_odd if rms_odd > 0 else None


def share_opposite(sky: SkyMap) -> float:
    """Return the share of what is seen of a map that has something seen opposite the centre: nil for one side alone."""
    _, _, is_seen = _on_grid(sky)
    return float(np.mean(is_seen[::-1, ::-1][is_seen])) if is_seen.any() else 0.0


def _on_grid(sky: SkyMap) -> tuple[int, np.ndarray, np.ndarray]:
    """Return V averaged on a grid about the centre that holds the map: its side Q, V and where it is seen."""
    field_arcsec = _field_arcsec(sky)
    pixels = int(np.clip(field_arcsec / max(sky.side_arcsec, 0.4 * sky.blur_arcsec), 4, MOST_PIXELS))
    _, velocity, _, seen = regrid(sky, pixels, field_arcsec)
    return pixels, velocity, seen > 0


def _field_arcsec(sky: SkyMap) -> float:
    return 2 * (float(np.hypot(sky.x_arcsec, sky.y_arcsec).max()) + sky.side_arcsec)


def symmetry(sky: SkyMap) -> Symmetry | None:
    """Find the centre of a map's velocity field, None where too few of its pixels have one opposite the given centre.

    Whatever turns about a centre recedes on one side as fast as it approaches on the other, whatever its rotation curve
    and inclination. The map is averaged on a grid, and centres are tried at every half of its pixels.
    """
    pixels, velocity, is_seen = _on_grid(sky)
    swing = float(np.mean(np.abs(velocity[is_seen] - np.median(velocity[is_seen])))) if is_seen.any() else 0.0
    given, share_given = _asymmetry(velocity, is_seen, 0, 0)
    if not swing or share_given < LEAST_SHARE:
        return None
    best, place = given, (0, 0)
    steps = range(-pixels // 2, pixels // 2 + 1)
    for up in steps:
        for right in steps:
            there, share = _asymmetry(velocity, is_seen, up, right)
            if there < best and share >= max(LEAST_SHARE, SHARE_OF_GIVEN * share_given):
                best, place = there, (up, right)
    half_pixel_arcsec = 0.5 * _field_arcsec(sky) / pixels
    return Symmetry(place[1] * half_pixel_arcsec, place[0] * half_pixel_arcsec, best / swing, given / swing)


def _asymmetry(velocity: np.ndarray, is_seen: np.ndarray, up: int, right: int) -> tuple[float, float]:
    """Return the asymmetry [km/s] of V (Q, Q) about a point, and the share of the seen pixels that have an opposite.

    up, right: the point's distance from the middle of the grid, in halves of a pixel.
    """
    part = tuple(slice(max(0, n), min(len(velocity), len(velocity) + n)) for n in (up, right))
    is_pair = is_seen[part] & is_seen[part][::-1, ::-1]
    if np.count_nonzero(is_pair) < FEWEST_PAIRS:
        return np.inf, 0.0
    mean = 0.5 * (velocity[part] + velocity[part][::-1, ::-1])[is_pair]
    return float(np.mean(np.abs(mean - np.median(mean)))), np.count_nonzero(is_pair) / np.count_nonzero(is_seen)
