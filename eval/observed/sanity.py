"""Check that observed maps are what the user says: velocities in km/s, about the galaxy's centre, of that tracer."""

import re

import numpy as np
from scipy.spatial import cKDTree

from kinmass.eval.observed.sky import SkyMap, bins_of, fewest_together, groups_of, touching_pairs
from kinmass.gen.constants import LIGHT_KMS

#: Largest rms of V about its mean, and smallest rms of V and sigma together [km/s]; galaxies have 5 to 400.
MAX_V_RMS_KMS, MIN_RMS_KMS = 2000.0, 1.0
#: Smallest rms of V alone: even where nothing rotates, it has errors; and largest rms of sigma [km/s].
MIN_V_RMS_KMS, MAX_SIGMA_RMS_KMS = 0.3, 800.0
#: Smallest rms of sigma [km/s] that is measured. Cold clouds have .2 within themselves, none within a beam.
MIN_SIGMA_KMS = {"stars": 1.0, "gas": 0.1}
#: Pixels are no measurements where V is farther from the median, or sigma larger, than so many times what nine tenths
#: of the pixels stay below, at least the first and at most the second number [km/s]; of more than a share of all
#: pixels that cannot be said, and the map is refused.
TIMES_MOST, LEAST_KMS, MOST_V_KMS, MOST_SIGMA_KMS, WILD_SHARE = 5.0, 300.0, 1500.0, 1000.0, 0.05
#: The brightest pixels are no measurements where they are so many times brighter than all that touch them. Through a
#: beam as wide as a pixel those beside a point source have a sixth of its light, through one of half that width a
#: hundredth. In sharper maps, and where no beam is known, a nucleus may be one pixel: even quasars outshine their
#: galaxies a hundred times only.
TIMES_BLURRED, TIMES_SHARP = 100.0, 1000.0
#: Of fewer neighbours it does not follow that a pixel is brighter than what is around it: a corner of a map has three.
LEAST_NEIGHBOURS = 3
#: So many pixels with one value, farther than a multiple of the range of the others, hold a number for "nothing", if it
#: looks like one: whole, or all nines, or huge.
SAME, FAR_RANGES = 3, 4.0
#: Frames are often larger than what is seen of a galaxy: so few of the pixels, of all, may hold other numbers.
FEWEST_OTHERS = 0.05
_FILLING = re.compile(r"\d+|9+\.9+|.*e\+\d+")
#: A bin's V may be any number but, as files write them, these: also in the midst of others they stand for nothing.
_NO_V = re.compile(r"0|-1|-?99+(?:\.9+)?|-100+")
#: So many pixels, that share of all, and so many times the largest bin are no region that happens to be at rest.
LEAST_ZEROS, ZERO_SHARE, TIMES_A_BIN = 10, 0.02, 5
#: Largest median error of V, over the rms of V and sigma together, and smallest [km/s]: in bright lines of H I and CO
#: it is .1 km/s.
MAX_ERROR_SHARE, MIN_ERROR_KMS = 3.0, 0.05
#: Of more different V than these it is no chance, where stars and gas have the same at each place.
FEWEST_DIFFERENT = 5
#: The density of a bin as a whole grows with its area, to a power of 1; one per area to none. Above the first number,
#: by so many times its error, it is that of the bin as a whole: of 400 maps of simulated bins none per area was.
TOTAL_POWER, TOTAL_CERTAIN = 0.5, 4.0
#: Of fewer bins than these, or of pixels nearly all of which are bins of their own, nothing follows.
FEWEST_BINS, SINGLE_SHARE = 15, 0.9
#: Largest pixel [R_e].
MAX_PIXEL_RE = 2.0
#: Above this systemic velocity a caution asks for the convention: at 3000 km/s differences of c z are 1 % too large.
MAX_UNCORRECTED_KMS = 3000.0
#: Above this one the convention must be said: differences of c z are a tenth too large, masses .08 dex.
MAX_UNDECLARED_KMS = 30_000.0
#: Motion of a galaxy in a cluster [km/s], and a factor, by which a distance that is right may differ from that of the
#: redshift.
OWN_MOTION_KMS, DISTANCE_FACTOR = 1500.0, 1.3
#: Rotation over the velocity scale (`_rotation_axis`) from which the axis of rotation is known; and the largest angle
#: between the axes of stars and gas.
MIN_ROTATION_SHARE, MISALIGNED_DEG = 0.3, 60.0


def refuse(name: str, sky: SkyMap, r_e_arcsec: float) -> None:
    """Raise ValueError, saying what to change, where a tracer's maps cannot be what the user says they are."""
    v_rms, sigma_rms = rms_speeds(sky)
    if v_rms > MAX_V_RMS_KMS:
        raise ValueError(
            f"V of the {name} varies by {v_rms:.3g} km/s over the map, which no galaxy does: if it is in m/s say "
            "velocity_unit: m/s, if bad pixels spoil it cut them with mask, within_kms or max_velocity_error_kms"
        )
    if sigma_rms > MAX_SIGMA_RMS_KMS:
        raise ValueError(
            f"the dispersion of the {name} is {sigma_rms:.3g} km/s, which no galaxy has: if it is in m/s say "
            "dispersion_unit: m/s, if it is a variance take its root, if bad pixels spoil it cut them with mask"
        )
    if v_rms < MIN_V_RMS_KMS or np.hypot(v_rms, sigma_rms) < MIN_RMS_KMS:
        raise ValueError(
            f"V of the {name} varies by {v_rms:.3g} km/s over the map: it must be in km/s, neither a redshift nor in "
            "units of c"
        )
    if 0 < sigma_rms < MIN_SIGMA_KMS[name]:
        raise ValueError(
            f"the dispersion of the {name} is {sigma_rms:.3g} km/s, which no spectrograph measures: it must be in "
            "km/s; say dispersion_unit where velocity_unit is not that of the dispersion"
        )
    _refuse_errors(name, sky, float(np.hypot(v_rms, sigma_rms)))
    if sky.side_arcsec > MAX_PIXEL_RE * r_e_arcsec:
        raise ValueError(
            f"pixels of the {name} are {sky.side_arcsec:.3g} arcsec wide, R_e is {r_e_arcsec:.3g} arcsec: are the "
            "WCS (CDELT is in degrees without CUNIT) and half_light_radius_arcsec right?"
        )
    nearest_arcsec = float(np.hypot(sky.x_arcsec, sky.y_arcsec).min())
    if nearest_arcsec > r_e_arcsec:
        raise ValueError(
            f"the nearest pixel of the {name} lies {nearest_arcsec:.3g} arcsec from the centre, farther than R_e "
            f"({r_e_arcsec:.3g} arcsec): are the centre and half_light_radius_arcsec right?"
        )


def _refuse_errors(name: str, sky: SkyMap, scale_kms: float) -> None:
    """Raise ValueError for errors of V or sigma that are in another unit; scale_kms is the rms of V and sigma."""
    for what, key, errors in (
        ("V", "velocity_error_unit", sky.velocity_error_kms),
        ("the dispersion", "dispersion_unit or velocity_error_unit", sky.dispersion_error_kms),
    ):
        if errors is None:
            continue
        middle = float(np.median(errors))
        if middle > MAX_ERROR_SHARE * scale_kms:
            raise ValueError(
                f"errors of {what} of the {name} are {middle:.3g} km/s, far more than V and sigma "
                f"({scale_kms:.3g} km/s): is {key} right?"
            )
        if middle < MIN_ERROR_KMS:
            raise ValueError(
                f"errors of {what} of the {name} are {middle:.2g} km/s, less than any spectrograph's: if they are in "
                f"another unit than V say {key}"
            )


def cautions(maps: dict[str, SkyMap]) -> list[str]:
    """Return sentences on what is unusual in maps {tracer: map}."""
    sentences = []
    for name, sky in maps.items():
        systemic_kms = abs(sky.systemic_kms())
        if systemic_kms > MAX_UNCORRECTED_KMS:
            sentences.append(
                f"V of the {name} is about {systemic_kms:.0f} km/s: if that is c z, its differences are "
                f"{100 * systemic_kms / LIGHT_KMS:.1f} % too large; say convention: optical (or radio)."
            )
    if len(maps) == 2:
        (first_axis_deg, first_share), (second_axis_deg, second_share) = (_rotation_axis(sky) for sky in maps.values())
        angle_between_deg = abs((first_axis_deg - second_axis_deg + 180) % 360 - 180)
        if min(first_share, second_share) > MIN_ROTATION_SHARE and angle_between_deg > MISALIGNED_DEG:
            sentences.append(
                f"Stars and gas rotate about axes {angle_between_deg:.0f} degrees apart: where that is not known of "
                "the galaxy, one map is mirrored or turned."
            )
    return sentences


def one_velocity(maps: dict[str, SkyMap]) -> list[str]:
    """Return a doubt where stars and gas have one V at each place that both have, as where one map is named twice.

    Models without noise may be so.
    """
    if len(maps) < 2:
        return []
    one, other = maps.values()
    places, other_places = (np.column_stack([sky.x_arcsec, sky.y_arcsec]) for sky in (one, other))
    distance_arcsec, nearest = cKDTree(places).query(other_places)
    is_common = distance_arcsec < 0.1 * one.side_arcsec
    own, others = one.velocity_kms[nearest[is_common]], other.velocity_kms[is_common]
    if len(np.unique(own)) <= FEWEST_DIFFERENT or not np.array_equal(own, others):
        return []
    return [
        f"V of stars and of gas is one number in each of {len(own)} pixels that both have: is one map given for both?"
    ]


def refuse_fillings(name: str, value: np.ndarray, unit: str = " km/s", of_bin: np.ndarray | None = None) -> None:
    """Raise ValueError where several pixels (n,) of `name` hold one number that is far from all others.

    It is how files write that nothing was measured: -9999, -999.9, or zero among velocities of 3000 km/s, in km/s or in
    m/s. A pixel of a bin has the value of many, but hardly a number like these: a density may, as that of a nucleus in
    10^9 Msun/kpc2. of_bin (n,) is one number in all pixels of a bin, which count once then.
    """
    finite = np.sort(value[np.isfinite(value)])
    for number, count in _apart(finite):
        written = (f"{abs(number):.6g}", f"{1e3 * abs(number):.6g}")
        if not any(map(_FILLING.fullmatch, written)):
            continue
        if of_bin is not None and len(np.unique(of_bin[value == number])) < SAME:
            continue
        others = finite[finite != number]
        middle = float(np.median(others))
        range_of_others = float(np.quantile(np.abs(others - middle), 0.98))
        if abs(number - middle) > max(FAR_RANGES * range_of_others, 0.5 * abs(middle)):
            raise ValueError(
                f"{name} is {number:.6g}{unit} exactly in {count} of {len(finite)} pixels, far from all others: if "
                "that says that nothing was measured there, say blank: with this number in the file's unit, or use mask"
            )


def _apart(ordered: np.ndarray) -> list[tuple[float, int]]:
    """Return which of sorted numbers (n,) come SAME times or more and may be far from all others, and how often.

    Without looking at all others for each of the many numbers of a binned map: at least half of what lies between
    their 2nd and 98th percentiles is the range that 98 % of them keep to.
    """
    numbers, starts, counts = np.unique(ordered, return_index=True, return_counts=True)
    # A number in nearly all pixels is what was measured, or assumed, there.
    is_some = (counts >= SAME) & (len(ordered) - counts >= max(SAME, FEWEST_OTHERS * len(ordered)))
    numbers, starts, counts = numbers[is_some], starts[is_some], counts[is_some]

    def of_others(share: float) -> np.ndarray:
        """Return for each number the value below which a share of all others lies."""
        place = (share * (len(ordered) - counts - 1)).astype(int)
        return ordered[np.where(place < starts, place, place + counts)]

    middle, half_range = of_others(0.5), 0.5 * (of_others(0.98) - of_others(0.02))
    # Half of it again, for percentiles between two numbers.
    is_far = np.abs(numbers - middle) > 0.5 * np.maximum(FAR_RANGES * half_range, 0.5 * np.abs(middle))
    found = [(float(number), int(count)) for number, count in zip(numbers[is_far], counts[is_far], strict=True)]
    return sorted(found, key=lambda pair: (pair[0] > 0, pair[1]))  # where what was measured is one number as well


def refuse_one_number(name: str, sky_places: np.ndarray, side_arcsec: float, value: np.ndarray) -> None:
    """Raise ValueError where a part of a map of V (n,) at places (n, 2) [arcsec] is one number, such as 0 or -99.

    It is how files write that nothing was measured, in km/s or in m/s, and about a systemic velocity of zero it is far
    from no other V. Zeros along the minor axis of a model have few neighbours that are zero too; bins have a number
    each, which is hardly one of `_NO_V`.
    """
    numbers, counts = np.unique(value[np.isfinite(value)], return_counts=True)
    n, least = int(counts.sum()), max(LEAST_ZEROS, ZERO_SHARE * counts.sum())
    order = np.argsort(counts)
    if not n or counts[order[-1]] < least:
        return
    number, most = float(numbers[order[-1]]) + 0.0, int(counts[order[-2]]) if len(order) > 1 else 0
    if not any(_NO_V.fullmatch(f"{factor * number:.6g}") for factor in (1, 1e3)):
        return
    alike = sky_places[value == number]
    fifth_neighbour_arcsec = cKDTree(alike).query(alike, k=6, distance_upper_bound=1.5 * side_arcsec)[0][:, 5]
    n_amidst = np.count_nonzero(np.isfinite(fifth_neighbour_arcsec))
    if n_amidst >= max(least, TIMES_A_BIN * most):
        raise ValueError(
            f"{name} is {number:.6g} km/s exactly in {len(alike)} of {n} pixels that lie together: if that says that "
            "nothing was measured there, say blank: with this number in the file's unit, or use mask; if it was "
            "measured say blank: []"
        )


def refuse_undeclared_redshift(name: str, velocity_kms: np.ndarray) -> None:
    """Raise ValueError where V (n,), whose convention was not declared, is so fast that it matters."""
    middle = abs(float(np.nanmedian(velocity_kms))) if np.isfinite(velocity_kms).any() else 0.0
    if middle > LIGHT_KMS:
        raise ValueError(
            f"{name} is about {middle:.4g} km/s, faster than light: if it is in m/s say velocity_unit: m/s (and "
            "dispersion_unit: km/s if the dispersion is not)"
        )
    if middle > MAX_UNDECLARED_KMS:
        raise ValueError(
            f"{name} is about {middle:.0f} km/s: say convention: optical if that is c z (its differences are "
            f"{100 * middle / LIGHT_KMS:.0f} % too large then), radio, or rest if differences are in the galaxy's frame"
        )


def undeclared_differences(name: str, of_velocities: float | None, redshift: float) -> list[str]:
    """Return a doubt about V around a mean whose convention was not said, at a galaxy's redshift where it matters.

    of_velocities: the redshift that V itself tells, None where it is about a mean. It may be right: most maps of
    distant galaxies are in the galaxy's frame.
    """
    if of_velocities is not None or LIGHT_KMS * redshift <= MAX_UNDECLARED_KMS:
        return []
    return [
        f"{name} is about a mean, at a redshift of {redshift:.2g} or more: if its differences are those of c z they "
        f"are {100 * redshift:.0f} % too large. Say convention: rest if they are in the galaxy's frame, else optical."
    ]


def without_wild(name: str, sky: SkyMap) -> tuple[SkyMap, list[str]]:
    """Return a map without single pixels that move as no galaxy does, and a remark on how many these are.

    Raises ValueError where they are too many to be left out.
    """
    speed = np.abs(sky.velocity_kms - np.median(sky.velocity_kms))
    is_wild = speed > _bound(speed, MOST_V_KMS)
    if sky.dispersion_kms is not None:
        is_wild |= sky.dispersion_kms > _bound(sky.dispersion_kms, MOST_SIGMA_KMS)
    n_wild, n = int(is_wild.sum()), len(is_wild)
    if n_wild > max(WILD_SHARE * n, 1):
        sigma_max = 0.0 if sky.dispersion_kms is None else float(sky.dispersion_kms.max())
        raise ValueError(
            f"{n_wild} of {n} pixels of the {name} move as no galaxy does (V up to {speed.max():.4g} km/s from its "
            f"median, sigma up to {sigma_max:.4g} km/s): if they are in m/s say velocity_unit or dispersion_unit: m/s; "
            "cut what was not measured with mask, blank, within_kms or max_velocity_error_kms"
        )
    if not n_wild:
        return sky, []
    words = "moves as nothing else in the map: it is" if n_wild == 1 else "move as nothing else in the map: they are"
    return sky.chosen(~is_wild), [f"{n_wild} of {n} pixels of the {name} {words} left out."]


def without_hot(name: str, sky: SkyMap) -> tuple[SkyMap, list[str]]:
    """Return a map without the pixels, or bins, whose density no galaxy and no point source has, as where a fit failed.

    A remark says how many these are. They are the brightest of the map, and cover less than a beam: a nucleus has the
    beam's width, whether or not it is resolved, and is therefore not much brighter than all that touches it. Raises
    ValueError where they are too many to be left out.
    """
    n, density = len(sky.density), sky.density
    # Pixels that touch and are not so much brighter belong together: the galaxy is a group, what outshines it another.
    times = TIMES_BLURRED if sky.blur_arcsec >= sky.side_arcsec else TIMES_SHARP
    pairs = touching_pairs(sky, 1.5)
    low, high = np.sort(density[pairs], axis=1).T
    label = groups_of(pairs[high <= times * low], n)
    is_hot = np.zeros(n, bool)
    for group in dict.fromkeys(label[np.argsort(-density)].tolist()):  # the brightest first
        is_in = label == group
        if not _is_small(sky, is_in):
            break
        around = np.unique(pairs[is_in[pairs].any(1)])
        if np.count_nonzero(~is_in[around]) >= LEAST_NEIGHBOURS:
            is_hot |= is_in
    n_hot = int(is_hot.sum())
    if not n_hot:
        return sky, []
    are, them, they_are = ("is", "it", "it is") if n_hot == 1 else ("are", "them", "they are")
    said = f"{n_hot} of {n} pixels of the {name} {are} more than {times:g} times as bright as all that touches {them}"
    if n_hot > max(WILD_SHARE * n, 1):
        raise ValueError(
            f"{said}, as nothing in a galaxy is: cut what was not measured with mask or blank, or is beam_fwhm_arcsec "
            "that of another map?"
        )
    return sky.chosen(~is_hot), [f"{said}, as nothing in a galaxy is: {they_are} left out."]


def totals_of_bins(name: str, sky: SkyMap) -> list[str]:
    """Return a doubt where a density seems to be that of each bin as a whole: it is larger where bins are.

    So are fluxes of lines that were fitted to summed spectra, which make a disc flat.
    """
    power = power_of_area(sky)
    if power is None or power[0] < max(TOTAL_POWER, TOTAL_CERTAIN * power[1]):
        return []
    return [
        f"The density of the {name} grows with the area of bins, to a power of {power[0]:.2f} +- {power[1]:.2f}: if it "
        "is that of a bin as a whole say density_is: bin_total, if it is per area density_unit, its unit."
    ]


def power_of_area(sky: SkyMap) -> tuple[float, float] | None:
    """Return the power of their area with which the density of bins grows, and its error; None where bins are few.

    It is that by which bins differ from the mean of those that touch them, beside a plane and a paraboloid about the
    centre.
    """
    if len(np.unique(sky.velocity_kms)) > SINGLE_SHARE * len(sky.velocity_kms):
        return None
    label = bins_of(sky.velocity_kms, sky.density)
    area = np.bincount(label).astype(float)
    if (n := len(area)) < FEWEST_BINS or not np.ptp(area) > 0:
        return None
    pairs = label[touching_pairs(sky, 1.1)]
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    one, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    n_around = np.bincount(one, minlength=n)
    x, y, density = (np.bincount(label, v) / area for v in (sky.x_arcsec, sky.y_arcsec, sky.density))
    r = np.hypot(x, y)

    def beside(value: np.ndarray) -> np.ndarray:
        """Return by how much a value of bins (n,) differs from the mean of those around, for bins that have two."""
        return (value - np.bincount(one, value[other], n) / np.maximum(n_around, 1))[n_around >= 2]

    scale = max(float(r.mean()), 1e-9)
    terms = np.stack([beside(v) for v in (np.log(area), x / scale, y / scale, r / scale, (r / scale) ** 2)], axis=1)
    if len(terms) < FEWEST_BINS:
        return None
    differs = beside(np.log(density))
    coefficients = np.linalg.lstsq(terms, differs, rcond=None)[0]
    square = float(np.sum((differs - terms @ coefficients) ** 2)) / (len(terms) - terms.shape[1])
    error = np.sqrt(square * np.linalg.pinv(terms.T @ terms)[0, 0])
    return float(coefficients[0]), float(error)


def _is_small(sky: SkyMap, is_in: np.ndarray) -> bool:
    """Return whether some of the pixels (n,) are fewer than those of a beam, or one bin of a few."""
    if is_in.sum() < fewest_together(sky):
        return True
    sigma = 0.0 if sky.dispersion_kms is None else float(np.ptp(sky.dispersion_kms[is_in]))
    return bool(is_in.sum() <= WILD_SHARE * len(is_in) and np.ptp(sky.velocity_kms[is_in]) == sigma == 0)


def _bound(value_kms: np.ndarray, most_kms: float) -> float:
    return min(most_kms, max(LEAST_KMS, TIMES_MOST * float(np.quantile(value_kms, 0.9))))


def rms_speeds(sky: SkyMap) -> tuple[float, float]:
    """Return the rms of V about its mean and the rms of sigma [km/s], weighted with density; 0 without dispersion."""
    v_square = np.average((sky.velocity_kms - sky.systemic_kms()) ** 2, weights=sky.density)
    sigma_square = 0.0 if sky.dispersion_kms is None else np.average(sky.dispersion_kms**2, weights=sky.density)
    return float(np.sqrt(v_square)), float(np.sqrt(sigma_square))


def _rotation_axis(sky: SkyMap) -> tuple[float, float]:
    """Return the direction in which V grows [degrees from +x to +y], and how large that growth is.

    The second number is in units of the velocity scale, the rms of V and sigma together.
    """
    v = sky.velocity_kms - sky.systemic_kms()
    r = np.maximum(np.hypot(sky.x_arcsec, sky.y_arcsec), 1e-9)
    x, y = (np.average(v * offset_arcsec / r, weights=sky.density) for offset_arcsec in (sky.x_arcsec, sky.y_arcsec))
    return float(np.degrees(np.arctan2(y, x))), float(2 * np.hypot(x, y) / max(np.hypot(*rms_speeds(sky)), 1e-9))
