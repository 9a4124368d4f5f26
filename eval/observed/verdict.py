"""How far to trust a profile: checks beside the posterior, each a sentence with its numbers, and a verdict.

A network that has seen nothing like a galaxy answers all the same, and narrowly. What is wrong often shows elsewhere:
in the maps themselves, in simpler estimates, in the other tracer, or in the other networks of an ensemble.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import numpy as np
from astropy.cosmology import Planck18
from scipy.stats import spearmanr

from kinmass.eval.classical.estimators import ObservedViews, wolf2010
from kinmass.eval.classical.rotation import MIN_INCLINATION_DEG, apparent_axis_ratio
from kinmass.eval.observed.redshifts import (
    FRAMES_KMS,
    TRACERS_KMS,
    apart_in_words,
    contradiction_kms,
    gap_kms,
    in_words,
)
from kinmass.eval.observed.roughness import roughness_ratio
from kinmass.eval.observed.sanity import DISTANCE_FACTOR, OWN_MOTION_KMS, rms_speeds
from kinmass.eval.observed.sky import SkyMap
from kinmass.eval.observed.symmetry import evenness, share_opposite, symmetry
from kinmass.gen.constants import LIGHT_KMS
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD

Judged = ParamSpec("Judged")
# K radii, S samples
DEGREES = ("good", "doubtful", "not to be trusted")
#: Shares of held-out galaxies nearer to those trained on, above which maps are unlike these, and unlike anything.
UNLIKE, UNLIKE_ANYTHING = OOD_THRESHOLD, 0.995
#: Differences from simpler estimates [dex], beyond the posterior's 95 %, that count. Those estimates err by about .15
#: dex themselves (docs/benchmarks/classical.md).
FAR_DEX, VERY_FAR_DEX = 0.25, 0.5
#: Half widths of 68 % intervals [dex], and scatter between networks [dex], that leave a mass open.
WIDE_DEX, SCATTER_DEX, WIDE_SCATTER_DEX = 0.25, 0.10, 0.25
#: Share of the instrument's width below which a dispersion is not resolved.
RESOLVED_SHARE = 0.4
#: A dispersion of rotating gas that is not resolved adds less than a quarter to the squares of velocities, .1 dex,
#: where that share of the instrument's width is below this share of rms V.
HARDLY_MATTERS = 0.5
#: Above this rms V / rms sigma a map of stars is probably one of gas (it is below 2.3 in all mocks), and far above it
#: sigma is in another unit.
STARS_V_SIGMA, STARS_V_SIGMA_WRONG = 3.0, 8.0
#: A larger rms sigma of stars [km/s] than that of nearly all galaxies: massive ones have up to about 350 within
#: R_e (Veale et al. 2017, MNRAS 464, 356).
STARS_SIGMA_KMS = 400.0
#: A map of gas with a larger rms sigma [km/s], and an rms V of less than half of it, is probably one of stars.
GAS_SIGMA_KMS = 80.0
#: A larger dispersion of gas [km/s] that is the same everywhere (84th to 16th percentile) is that of an instrument.
SAME_SIGMA_KMS, SAME_SIGMA = 30.0, 1.15
#: Shares of the pixels between which V, or a dispersion, that is one number where the other is not is no measurement:
#: a dispersion that is so in all of them was assumed.
ONE_NUMBER = (0.1, 0.9)
#: And so many times more often than any other number: not where all are rounded.
TIMES_ANOTHER = 5
#: Circular speeds [km/s] that few galaxies have, and none (the fastest discs: 570, Ogle et al. 2019, ApJL 884, L11).
FAST_KMS, TOO_FAST_KMS = 700.0, 1000.0
#: Distance of the brightest stars from the centre [R_e], and how much larger than R_e the radius is that holds half of
#: the light of a map of stars, which is at most R_e where the map ends early.
OFF_CENTRE_RE, HALF_LIGHT_RE = 0.4, 1.6
#: How much smaller it may be: of a Sersic profile of index 6, seen inside .4 R_e, it is R_e / 7.
HALF_LIGHT_SHARE = 1 / 8
#: V of gas is asymmetric about its centre, in units of its swing, where it is symmetric elsewhere: so much at least,
#: less than that share of it there, and so many R_e and a beam away. Mock galaxies with right centres hardly ever are;
#: of wrong centres it finds most in maps that reach far, and few in small ones.
ASYMMETRY, ASYMMETRY_SHARE, SYMMETRIC_RE = 0.15, 0.45, 0.25
#: Axis ratio of a gas disc seen 30 degrees from face on: of masses of rounder ones a third is open (1 / sin^2 i), where
#: axis ratios err by .1, as those of clumpy discs do.
ROUND = apparent_axis_ratio(MIN_INCLINATION_DEG)
#: V that is so many times as even about the centre as it is odd is no velocity: of mock galaxies it is 1.2 at most,
#: where all is noise.
EVEN = 2.0
#: Of less than that share of a map something is seen opposite the centre: its mean V is not that of the galaxy. Of mock
#: galaxies it is less in patchy discs alone.
ONE_SIDE = 0.1
#: Radius [R_e] inside which something is seen of a galaxy that is seen around it, on so many of eight sides at least:
#: more than a share of what is seen in the same area beyond. Without what is inside .5 R_e masses are .1 dex too low.
HOLE_RE, HOLE_SHARE, AROUND = 0.4, 0.1, 6
#: A dispersion that is so many times as rough as V: in a line that is resolved both have the same errors (Landman,
#: Roussel-Dupre & Tanigawa 1982), in its full width 2.35 times that. Of mock galaxies, noisy or not, it is 1.5 at most.
ROUGH = 1.8
#: Redshift [km/s] from which on distances follow from it.
HUBBLE_FLOW_KMS = 3000.0
#: Rank correlation of errors of V with brightness, and their ratio of the 90th to the 10th percentile, of errors that
#: are largest where light is brightest.
BRIGHT_ERRORS, RANGE_OF_ERRORS = 0.6, 2.0
#: Errors of a line's full width are those of V times this, to that share; those of sigma are those of V in a Gaussian
#: (Landman, Roussel-Dupre & Tanigawa 1982, ApJ 261, 732). Nothing else keeps the ratio as constant (84th to 16th).
FWHM_PER_SIGMA, FWHM_TOLERANCE, RATIO_SPREAD = 2.3548, 0.12, 1.3
#: How far all mass within R_e may lie below stars and gas in the map within it [dex]: a disc seen edge on holds .15 of
#: that outside of the sphere, and masses of stars depend on their initial mass function.
BARYONS_DEX = 0.4
#: Mean density in a map [Msun/kpc^2] below which nothing is seen: of atomic hydrogen 4e18 atoms/cm^2, where the
#: deepest surveys end at 1e18 (de Blok et al. 2024, A&A 688, A109), of stars 30 mag/arcsec^2.
THIN_MSUN_KPC2 = {"gas": 3e4, "stars": 3e4}
#: All mass within R_e over pi R_e^2 [Msun/kpc^2] that no galaxy has whose motions can be mapped: the most diffuse ones
#: known, Crater II and Antlia II, whose stars are seen one by one, have about 2e6 (Ji et al. 2021, ApJ 921, 32).
DIFFUSE_MSUN_KPC2 = 3e6


@dataclass(frozen=True)
class Reason:
    """Something that speaks against a result: a sentence, and how heavily it weighs (1, or 2 by itself decisive)."""

    text: str
    weight: int = 1


@dataclass(frozen=True)
class Verdict:
    """A degree (0, 1, 2 of DEGREES) and its reasons, the heaviest first."""

    reasons: tuple[Reason, ...]

    @property
    def degree(self) -> int:
        """0 without reasons, 1 with one of weight 1, else 2."""
        return min(sum(reason.weight for reason in self.reasons), 2)

    def sentences(self) -> list[str]:
        """Return the verdict in words, and every reason."""
        if not self.reasons:
            return ["Verdict: good. Nothing that was checked speaks against it."]
        ordered = sorted(self.reasons, key=lambda reason: -reason.weight)
        return [f"Verdict: {DEGREES[self.degree]}.", *(reason.text for reason in ordered)]


def _listed(judge: Callable[Judged, Iterator[Reason]]) -> Callable[Judged, list[Reason]]:
    """Have a function that yields reasons return them as a list."""

    @wraps(judge)
    def listed(*args: Judged.args, **kwargs: Judged.kwargs) -> list[Reason]:
        """Return what the function yields."""
        return list(judge(*args, **kwargs))

    return listed


@_listed
def of_strangeness(score: float) -> Iterator[Reason]:
    """Judge how unlike the training galaxies the maps are; score as of `Posterior.ood_score`.

    Strange is not wrong: many a real galaxy is both strange and right, so that this alone decides nothing.
    """
    if np.isnan(score) or score <= UNLIKE:
        return
    words = "unlike anything the network was trained on" if score > UNLIKE_ANYTHING else "unlike most training galaxies"
    share = "fewer than 0.1" if score > 0.999 else f"only {100 * (1 - score):.1f}"
    yield Reason(f"The maps are {words}: {share} % of galaxies kept from training are as far from those trained on.")


@_listed
def of_width(low68: float, high68: float) -> Iterator[Reason]:
    """Judge the width of the interval of log10 M near R_e."""
    half = 0.5 * (high68 - low68)
    if not half <= WIDE_DEX:
        yield Reason(f"The mass near R_e is hardly constrained: its 68 % interval is {2 * half:.2f} dex wide.")


@_listed
def of_members(scatter_dex: float) -> Iterator[Reason]:
    """Judge the standard deviation of the medians of an ensemble's networks near R_e [dex]."""
    if scatter_dex > SCATTER_DEX:
        yield Reason(
            f"Networks of the ensemble, which know the same, differ by {scatter_dex:.2f} dex near R_e.",
            2 if scatter_dex > WIDE_SCATTER_DEX else 1,
        )


@_listed
def of_speeds(maps: dict[str, SkyMap], radius_arcsec: np.ndarray, v_circ_kms: np.ndarray) -> Iterator[Reason]:
    """Judge circular velocities (S, K) at radii (K,) [arcsec] against the line-of-sight velocities in the maps.

    Nothing that is bound on a circle moves faster than V_c. Of each tracer the 90th percentile of |V - V_sys| around a
    radius is taken, so that noise of single pixels does not count.
    """
    for name, sky in maps.items():
        speed = np.abs(sky.velocity_kms - sky.systemic_kms())
        distance = np.hypot(sky.x_arcsec, sky.y_arcsec)
        worst: tuple[float, float, float, int] | None = None
        for k, radius in enumerate(radius_arcsec):
            near = np.abs(np.log(np.maximum(distance, 1e-9) / radius)) < 0.15
            if np.count_nonzero(near) < 12:
                continue
            seen = float(np.quantile(speed[near], 0.9))
            median, high = np.quantile(v_circ_kms[:, k], [0.5, 0.975])
            if seen > median * 1.1 and (worst is None or seen / median > worst[0] / worst[1]):
                worst = (seen, float(median), float(radius), 2 if seen > high * 1.1 else 1)
        if worst is not None:
            seen, median, radius, weight = worst
            yield Reason(
                f"The {name} move{'s' if name == 'gas' else ''} at {seen:.0f} km/s along the line of sight "
                f"{radius:.3g} arcsec from the centre, faster than the inferred circular velocity of {median:.0f} "
                "km/s there: the mass is too low.",
                weight,
            )


@_listed
def of_motions(maps: dict[str, SkyMap]) -> Iterator[Reason]:
    """Judge whether the stars move as stars do, and the gas as gas does."""
    for name, sky in maps.items():
        v_rms, sigma_rms = rms_speeds(sky)
        if name == "stars" and sigma_rms > 0 and v_rms > STARS_V_SIGMA * sigma_rms:
            text = f"V / sigma of the stars is {v_rms / sigma_rms:.1f}, as of cold gas"
            weight = 2 if v_rms > STARS_V_SIGMA_WRONG * sigma_rms else 1
            yield Reason(f"{text}: is this a map of gas, or the dispersion not in km/s?", weight)
        if name == "stars" and sigma_rms > STARS_SIGMA_KMS:
            text = f"The stars have a dispersion of {sigma_rms:.0f} km/s, more than those of nearly all galaxies"
            yield Reason(f"{text}: is it a full width at half maximum?")
        if name == "gas" and sigma_rms > max(GAS_SIGMA_KMS, 2 * v_rms):
            text = f"The gas has a dispersion of {sigma_rms:.0f} km/s and hardly rotates"
            yield Reason(f"{text}: is this a map of stars, or a variance?")
        if name == "gas" and sky.dispersion_kms is not None:
            low, middle, high = np.quantile(sky.dispersion_kms, [0.16, 0.5, 0.84])
            if middle > SAME_SIGMA_KMS and high < SAME_SIGMA * low:
                text = f"The gas has a dispersion of about {middle:.0f} km/s everywhere"
                yield Reason(f"{text}: is that the instrument's? If so say instrument_sigma_kms.")


@_listed
def of_one_number(maps: dict[str, SkyMap]) -> Iterator[Reason]:
    """Judge whether V or a dispersion is one number in many pixels of several bins, as at the limit of a fit."""
    for name, sky in maps.items():
        if sky.dispersion_kms is None:
            continue
        for what, value, other, other_value in (
            ("dispersion", sky.dispersion_kms, "V", sky.velocity_kms),
            ("velocity", sky.velocity_kms, "the dispersion", sky.dispersion_kms),
        ):
            numbers, counts = np.unique(value[value > 0] if what == "dispersion" else value, return_counts=True)
            if not len(numbers):
                continue
            number, share = float(numbers[np.argmax(counts)]), float(counts.max()) / len(sky.x_arcsec)
            there = other_value[value == number]
            is_alone = counts.max() > TIMES_ANOTHER * max(np.sort(counts)[:-1], default=0)
            if is_alone and ONE_NUMBER[0] < share < ONE_NUMBER[1] and len(np.unique(there)) > 0.5 * len(there):
                yield Reason(
                    f"The {what} of the {name} is {number:.4g} km/s exactly in {100 * share:.0f} % of its pixels, of "
                    f"which {other} differs: is that where a fit began or the limit of it, or does it say that nothing "
                    "was measured (blank)?"
                )


@_listed
def of_velocities(radius_re: np.ndarray, v_circ_kms: np.ndarray) -> Iterator[Reason]:
    """Judge circular velocities (S, K) at radii (K,) [R_e]."""
    median = np.median(v_circ_kms, axis=0)
    k = int(np.argmax(median))
    if median[k] <= FAST_KMS:
        return
    who = "no galaxy has" if median[k] > TOO_FAST_KMS else "hardly any galaxy has"
    yield Reason(
        f"The circular velocity at {radius_re[k]:.2g} R_e is {median[k]:.0f} km/s, which {who}: are all pixels good?",
        2 if median[k] > TOO_FAST_KMS else 1,
    )


@_listed
def of_diffuse(radius_kpc: float, log10_menc: np.ndarray) -> Iterator[Reason]:
    """Judge samples (S,) of log10 M [Msun] inside a radius near R_e against the most diffuse galaxies known."""
    median, high = np.quantile(log10_menc, [0.5, 0.975])
    density = 10**median / (np.pi * radius_kpc**2)
    if density >= DIFFUSE_MSUN_KPC2:
        return
    yield Reason(
        f"All mass within {radius_kpc:.3g} kpc, log10 M = {median:.2f} (at most {high:.2f}, at 95 %), is {density:.1g} "
        "Msun/kpc^2, less than in any galaxy that was mapped: are V and the dispersion in km/s, not in Angstrom or "
        "pixels?"
    )


@_listed
def of_light(sky: SkyMap, r_e_arcsec: float) -> Iterator[Reason]:
    """Judge whether the light of a map of stars has its middle and its size where the galaxy's description has them."""
    radius = np.hypot(sky.x_arcsec, sky.y_arcsec)
    brightest = sky.density >= np.quantile(sky.density, 1 - min(1.0, max(0.02, 5 / len(radius))))
    x, y = (float(np.average(v[brightest], weights=sky.density[brightest])) for v in (sky.x_arcsec, sky.y_arcsec))
    off_arcsec = float(np.hypot(x, y))
    if off_arcsec > max(OFF_CENTRE_RE * r_e_arcsec, sky.blur_arcsec, 2 * sky.side_arcsec):
        text = f"The stars are brightest {off_arcsec:.3g} arcsec ({off_arcsec / r_e_arcsec:.1f} R_e) from the centre"
        yield Reason(f"{text}: is the centre right?")
    order = np.argsort(radius)
    light = np.cumsum(sky.density[order])
    half_arcsec = float(radius[order][np.searchsorted(light, 0.5 * light[-1])])
    is_large = half_arcsec > max(HALF_LIGHT_RE * r_e_arcsec, sky.blur_arcsec)
    if is_large or half_arcsec < HALF_LIGHT_SHARE * r_e_arcsec:
        yield Reason(
            f"Half of the light in the map lies within {half_arcsec:.3g} arcsec, and R_e is said to be "
            f"{r_e_arcsec:.3g} arcsec: is it in arcsec, and are the places of the pixels?"
        )


@_listed
def of_centre(gas: SkyMap, r_e_arcsec: float) -> Iterator[Reason]:
    """Judge whether the gas turns about the centre."""
    found = symmetry(gas)
    if (
        found is None
        or found.asymmetry_given < ASYMMETRY
        or found.asymmetry > ASYMMETRY_SHARE * found.asymmetry_given
        or found.off_arcsec < max(SYMMETRIC_RE * r_e_arcsec, gas.blur_arcsec)
    ):
        return
    yield Reason(
        f"The gas turns about a point {found.off_arcsec:.3g} arcsec ({found.off_arcsec / r_e_arcsec:.1f} R_e) from the "
        f"centre: about the centre, V of opposite pixels differs by {100 * found.asymmetry_given:.0f} % of its swing, "
        f"about that point by {100 * found.asymmetry:.0f} %. Is the centre right?"
    )


@_listed
def of_inclination(axis_ratio: float) -> Iterator[Reason]:
    """Judge whether the axis ratio of a gas disc, NaN where it is not known, tells how inclined it is.

    Line-of-sight velocities are V sin i, and nothing else in a map of rotating gas tells sin i.
    """
    if axis_ratio <= ROUND:
        return
    how = "is nearly round on the sky" if axis_ratio > ROUND else "has no density, or none inside the edge of its map"
    yield Reason(
        f"The gas {how}: how inclined its disc is does not follow from that, and its mass goes with 1 / sin^2 of it. "
        "Stars tell more; inclination_deg gives a rotation curve to hold it against."
    )


@_listed
def of_parity(maps: dict[str, SkyMap]) -> Iterator[Reason]:
    """Judge whether V is opposite on opposite sides of the centre, as velocities are."""
    for name, sky in maps.items():
        even = evenness(sky)
        if even is not None and even > EVEN:
            yield Reason(
                f"V of the {name} is {even:.1f} times more the same on opposite sides of the centre than it is "
                "opposite: is this a map of velocities?",
                2,
            )


@_listed
def of_sides(maps: dict[str, SkyMap]) -> Iterator[Reason]:
    """Judge whether both sides of the galaxy are seen: the networks take the mean V for that of the whole."""
    for name, sky in maps.items():
        if share_opposite(sky) < ONE_SIDE:
            yield Reason(
                f"The {name} {'is' if name == 'gas' else 'are'} seen on one side of the centre alone: how fast the "
                "galaxy as a whole moves does not follow from that. Is the centre right?"
            )


@_listed
def of_hole(maps: dict[str, SkyMap], r_e_arcsec: float) -> Iterator[Reason]:
    """Judge whether a map goes around the centre and shows nothing there."""
    for name, sky in maps.items():
        radius = np.hypot(sky.x_arcsec, sky.y_arcsec)
        hole_arcsec = max(HOLE_RE * r_e_arcsec, sky.blur_arcsec, 2 * sky.side_arcsec)
        n, n_beyond = len(radius), np.count_nonzero(radius >= hole_arcsec)
        # As many as in the same area beyond, out to where nine tenths of the map lie.
        expected = n_beyond * hole_arcsec**2 / max(sky.reach_arcsec() ** 2 - hole_arcsec**2, 1e-9)
        eighths = np.unique(np.floor(np.arctan2(sky.y_arcsec, sky.x_arcsec) / (0.25 * np.pi)))
        if sky.reach_arcsec() > hole_arcsec and n - n_beyond < HOLE_SHARE * expected and len(eighths) >= AROUND:
            yield Reason(
                f"The {name} {'is' if name == 'gas' else 'are'} not seen within {hole_arcsec:.3g} arcsec "
                f"({hole_arcsec / r_e_arcsec:.1f} R_e) of the centre, though around it: was that cut out, as by a mask "
                "that is the wrong way round (mask_is)?"
            )


@_listed
def of_roughness(maps: dict[str, SkyMap], instrument_sigma_kms: dict[str, float]) -> Iterator[Reason]:
    """Judge whether a dispersion has the errors of a sigma, where it matters to the mass."""
    for name, sky in maps.items():
        ratio = roughness_ratio(sky)
        v_rms, sigma_rms = rms_speeds(sky)
        if ratio is None or (name == "gas" and sigma_rms < HARDLY_MATTERS * v_rms):
            continue
        # Without the instrument's width, what is left has the errors of the squares.
        measured_kms = float(np.hypot(sigma_rms, instrument_sigma_kms.get(name, 0.0)))
        if ratio > ROUGH * measured_kms / sigma_rms:
            yield Reason(
                f"The dispersion of the {name} varies from pixel to pixel {ratio:.1f} times as much as V, as full "
                "widths do (2.35 times), or what is hardly resolved: if it is one, say dispersion_is: fwhm."
            )


@_listed
def of_distance(redshift: float | None, distance_mpc: float) -> Iterator[Reason]:
    """Judge an angular diameter distance against the redshift of the maps, None where they are about a mean."""
    if redshift is None or LIGHT_KMS * redshift < HUBBLE_FLOW_KMS:
        return
    ends = redshift + np.array([-1.0, 1.0]) * OWN_MOTION_KMS / LIGHT_KMS
    nearest, farthest = sorted(Planck18.angular_diameter_distance(ends).to_value("Mpc"))
    if nearest / DISTANCE_FACTOR < distance_mpc < farthest * DISTANCE_FACTOR:
        return
    yield Reason(
        f"Velocities of {LIGHT_KMS * redshift:.0f} km/s are those of galaxies {nearest:.0f} to {farthest:.0f} Mpc "
        f"away, and the distance is said to be {distance_mpc:.4g} Mpc, to which the mass is proportional: is it right?"
    )


@_listed
def of_redshift(told: dict[str, tuple[float, float]], redshift: float) -> Iterator[Reason]:
    """Judge a galaxy's redshift against those that V of its tracers tells {tracer: (lowest, highest)}."""
    if not told:
        return
    tracer = max(told, key=lambda name: contradiction_kms(told[name], redshift))
    if contradiction_kms(told[tracer], redshift) <= FRAMES_KMS:
        return
    yield Reason(
        f"V of the {tracer} is that of a redshift of {in_words(told[tracer])}, and redshift is {redshift:g}, "
        f"{gap_kms(told[tracer], (redshift, redshift)):.0f} km/s from it: are redshift and convention right? Where "
        "redshift is that of a cluster, give distance_mpc instead."
    )


@_listed
def of_two_redshifts(told: dict[str, tuple[float, float]]) -> Iterator[Reason]:
    """Judge whether V of stars and gas {tracer: (lowest, highest) redshift} is that of one galaxy."""
    if len(told) < 2 or gap_kms(*told.values()) <= TRACERS_KMS:
        return
    yield Reason(f"{apart_in_words(told)}: are both maps of one galaxy, and is each convention right?")


@_listed
def of_errors(maps: dict[str, SkyMap]) -> Iterator[Reason]:
    """Judge whether errors are errors, and of a sigma, by how they go with brightness and with each other."""
    for name, sky in maps.items():
        error = sky.velocity_error_kms
        if error is None:
            continue
        low, high = np.quantile(error, [0.1, 0.9])
        if high > RANGE_OF_ERRORS * low and np.ptp(sky.density) > 0:
            rank = float(spearmanr(error, sky.density).statistic)
            if rank > BRIGHT_ERRORS:
                yield Reason(
                    f"Errors of V of the {name} are largest where it is brightest (rank correlation {rank:.2f}), as "
                    "inverse variances are: are they errors?"
                )
        if sky.dispersion_error_kms is None:
            continue
        low, ratio, high = np.quantile(sky.dispersion_error_kms / error, [0.16, 0.5, 0.84])
        if abs(ratio / FWHM_PER_SIGMA - 1) < FWHM_TOLERANCE and high < RATIO_SPREAD * low:
            yield Reason(
                f"Errors of the dispersion of the {name} are {ratio:.2f} times those of V everywhere, as errors of a "
                "full width at half maximum are: if it is one, say dispersion_is: fwhm."
            )


@_listed
def of_baryons(
    maps: dict[str, SkyMap], kpc_per_arcsec: float, radius_arcsec: float, log10_menc: np.ndarray
) -> Iterator[Reason]:
    """Judge samples (S,) of log10 M inside radius_arcsec against the stars and gas in maps in Msun/kpc^2 there."""
    seen_msun = 0.0
    for sky in maps.values():
        is_inside = np.hypot(sky.x_arcsec, sky.y_arcsec) < radius_arcsec
        seen_msun += float(sky.density[is_inside].sum()) * (sky.side_arcsec * kpc_per_arcsec) ** 2
    median, high = np.quantile(log10_menc, [0.5, 0.975])
    if seen_msun <= 0 or np.log10(seen_msun) < high + BARYONS_DEX:
        return
    names, have = " and ".join(maps).capitalize(), "has" if set(maps) == {"gas"} else "have"
    yield Reason(
        f"{names} in the map {have} log10 M = {np.log10(seen_msun):.2f} within {radius_arcsec:.3g} arcsec, where all "
        f"mass together is {median:.2f} (at most {high:.2f}, at 95 %): are distance and density_unit right?"
    )


@_listed
def of_thin(maps: dict[str, SkyMap]) -> Iterator[Reason]:
    """Judge surface densities [Msun/kpc^2] against the least that is ever seen of a tracer."""
    for name, sky in maps.items():
        mean = float(np.mean(sky.density))
        if mean < THIN_MSUN_KPC2[name]:
            yield Reason(
                f"The {name} in the map {'has' if name == 'gas' else 'have'} a mean density of {mean:.2g} Msun/kpc^2, "
                f"less than is ever seen ({THIN_MSUN_KPC2[name]:.0e}): is density_unit, or density_msun_kpc2, right?"
            )


@_listed
def of_resolution(maps: dict[str, SkyMap], instrument_sigma_kms: dict[str, float]) -> Iterator[Reason]:
    """Judge dispersions against the widths of the instruments {tracer: sigma} that they were measured through."""
    for name, sky in maps.items():
        width = instrument_sigma_kms.get(name, 0.0)
        if sky.dispersion_kms is None or not width:
            continue
        if name == "gas" and RESOLVED_SHARE * width < HARDLY_MATTERS * rms_speeds(sky)[0]:
            continue
        share = float(np.average(sky.dispersion_kms < RESOLVED_SHARE * width, weights=sky.density))
        if share > 0.3:
            typical = float(np.median(sky.dispersion_kms))
            yield Reason(
                f"{100 * share:.0f} % of the light of the {name} has a dispersion below {RESOLVED_SHARE:g} of the "
                f"instrument's {width:.0f} km/s (the median is {typical:.0f} km/s): it is not resolved, and a mass "
                "that follows from it is too low or too high.",
                2 if name == "stars" and share > 0.6 else 1,
            )


@_listed
def of_estimates(
    estimates: dict[str, tuple[np.ndarray, np.ndarray]], log10_radius: np.ndarray, log10_menc: np.ndarray
) -> Iterator[Reason]:
    """Judge profiles log10_menc (S, K) at log10_radius (K,) against simpler estimates {name: (log10 r, log10 M)}.

    An estimate counts at those of its radii that lie between the profile's. Its masses (M,) may be three (3, M): the
    lowest, the middle and the highest that it allows, of which the one nearest to the profile counts.
    """
    for name, (radius, masses) in estimates.items():
        mass = masses
        if masses.ndim == 2:
            middle = np.interp(radius, log10_radius, np.median(log10_menc, axis=0))
            mass = np.clip(middle, masses.min(axis=0), masses.max(axis=0))
        usable = np.isfinite(mass) & (radius >= log10_radius[0]) & (radius <= log10_radius[-1])
        if not usable.any():
            continue
        at_radii = np.stack([np.interp(radius[usable], log10_radius, sample) for sample in log10_menc])
        low, median, high = np.quantile(at_radii, [0.025, 0.5, 0.975], axis=0)
        off = mass[usable] - median
        outside = np.where((mass[usable] < low) | (mass[usable] > high), np.abs(off), 0.0)
        k = int(np.argmax(outside))
        if outside[k] > FAR_DEX:
            yield Reason(
                f"{name} gives log10 M = {mass[usable][k]:.2f} inside {10 ** radius[usable][k]:.3g} kpc, where "
                f"this profile has {median[k]:.2f} ({low[k]:.2f} to {high[k]:.2f} at 95 %).",
                2 if outside[k] > VERY_FAR_DEX else 1,
            )


def star_estimates(
    stars: np.ndarray, r_e_kpc: float, field_of_view_re: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {name: (log10 r [kpc], log10 M [Msun])} of Wolf et al.'s estimator, from the stars' maps (4, Q, Q).

    Others of its kind are biased by more (docs/benchmarks/classical.md).
    """
    if not stars[3].any() or not stars[2].any():
        return {}
    radii_re = np.array([1.0, 4 / 3])
    maps = np.concatenate([stars, np.zeros_like(stars)])[None].astype(float)
    views = ObservedViews(maps, np.array([r_e_kpc]), field_of_view_re, radii_re)
    return {"The estimator of Wolf et al. 2010": (np.log10(radii_re * r_e_kpc), wolf2010(views)[0])}


@_listed
def of_tracers(profiles: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Iterator[Reason]:
    """Judge profiles of one galaxy from gas and from stars: (tracer, log10 r (K,), samples (S, K) of log10 M)."""
    for i, (tracer, radius, samples) in enumerate(profiles):
        for other, other_radius, other_samples in profiles[:i]:
            if {tracer, other} != {"gas", "stars"}:
                continue
            at_radii = np.stack([np.interp(radius, other_radius, sample) for sample in other_samples])
            medians = [np.median(s, axis=0) for s in (samples, at_radii)]
            widths = [0.5 * (np.quantile(s, 0.84, axis=0) - np.quantile(s, 0.16, axis=0)) for s in (samples, at_radii)]
            off = medians[0] - medians[1]
            significance = np.abs(off) / np.hypot(*widths)
            k = int(np.argmax(significance))
            if significance[k] > 2.5 and abs(off[k]) > 0.15:
                yield Reason(
                    f"The {tracer} give{'s' if tracer == 'gas' else ''} {abs(off[k]):.2f} dex "
                    f"{'more' if off[k] > 0 else 'less'} mass than the {other} inside {10 ** radius[k]:.3g} kpc, "
                    f"{significance[k]:.1f} times what their intervals allow: one of them is wrong.",
                    2 if significance[k] > 4 and abs(off[k]) > 0.3 else 1,
                )
