"""The posterior of one observed galaxy's mass profile, as numbers, words, a table and a figure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import zarr
from astropy import units
from astropy.table import QTable
from matplotlib.figure import Figure

from kinmass.eval.observed.curve import RotationCurve
from kinmass.eval.observed.galaxy import ObservedGalaxy
from kinmass.eval.observed.verdict import DEGREES, Verdict, of_tracers
from kinmass.eval.report.galaxies import observed_profile
from kinmass.gen.code import provenance
from kinmass.gen.look.style import own_style
from kinmass.gen.storage.chunk_files import ChunkFiles
from kinmass.gen.storage.files import aside, make_folder
from kinmass.train.model.scaling import clip_to_mass_limits
from kinmass.train.run.intervals import SHARES, quantiles

# D draws of distance, R_e and centre, S posterior samples of each, K radii, Q pixels along a side of the network's grid


@dataclass(frozen=True)
class ObservedProfile:
    """The posterior of one galaxy's mass profile from one run.

    radius_re, radius_arcsec and radius_kpc (K,) are the radii for the R_e and distance as given. samples (D S, K) are
    of log10 M(<r) [Msun] inside these angles, with distance, R_e and centre drawn anew for each of D draws, of which
    those are left out that show nothing; v_circ_kms (D S, K) are the circular velocities there. ood_score is the median
    over draws of that of `train.run.out_of_distribution`. observed (8, Q, Q) are the maps that the network saw, without
    errors of distance, R_e and centre, over field_of_view_re. tilted_ring (K,) is log10 M(<r) [Msun] from the rotation
    curve of the gas alone, NaN where there is none; curve is the same at the radii of its own rings, out to the edge of
    the map. verdict says how far to trust it, cautions are further sentences for the reader.
    """

    galaxy: ObservedGalaxy
    tracer: str
    run: Path
    radius_re: np.ndarray
    radius_arcsec: np.ndarray
    radius_kpc: np.ndarray
    samples: np.ndarray
    v_circ_kms: np.ndarray
    ood_score: float
    observed: np.ndarray
    field_of_view_re: float
    tilted_ring: np.ndarray
    curve: RotationCurve
    verdict: Verdict
    cautions: list[str] = field(default_factory=list)

    def quantiles(self, shares: tuple[float, ...]) -> np.ndarray:
        """Return quantiles (len(shares), K) of log10 M(<r) [Msun]."""
        return quantiles(self.samples, shares)

    def at_kpc(self, radius_kpc: float | units.Quantity, shares: tuple[float, ...] = SHARES) -> np.ndarray:
        """Return quantiles (len(shares),) of log10 M [Msun] inside a radius [kpc, at the distance as given].

        Samples are interpolated linearly in log10 r between the K radii, extrapolated beyond them, and then held to
        masses that galaxies have. A radius may have a unit of its own. Raises ValueError for one that is not above 0.
        """
        log10_radius = np.log10([_kpc(radius_kpc)])
        log10_mass = clip_to_mass_limits(
            interpolate_rows(np.log10(self.radius_kpc), self.samples, log10_radius), log10_radius
        )
        return quantiles(log10_mass[:, 0], shares)

    def inside(self, radius_kpc: float | units.Quantity) -> str:
        """Return a sentence on the mass inside a radius [kpc, at the distance as given]; see `at_kpc`."""
        radius_kpc = _kpc(radius_kpc)
        low68, high68, low95, high95, median = self.at_kpc(radius_kpc)
        first, last = self.radius_kpc[0], self.radius_kpc[-1]
        is_within = first / 1.001 <= radius_kpc <= last * 1.001
        beyond = "" if is_within else f" (extrapolated: the profile goes from {first:.3g} to {last:.3g} kpc)"
        return (
            f"log10 M(<{radius_kpc:.3g} kpc) = {median:.2f} Msun, {low68:.2f} to {high68:.2f} at 68 % and "
            f"{low95:.2f} to {high95:.2f} at 95 %{beyond}{self.curve.inside(radius_kpc)}"
        )

    def beside(self, others: Sequence["ObservedProfile"]) -> "ObservedProfile":
        """Return the profile with a verdict that also looks at those of the same galaxy from other tracers."""
        mine, *theirs = (
            (p.tracer, np.log10(p.radius_kpc), p.samples[:: max(1, len(p.samples) // 1000)]) for p in (self, *others)
        )
        reasons = of_tracers([*theirs, mine])
        return replace(self, verdict=Verdict((*self.verdict.reasons, *reasons)))

    def table(self) -> QTable:
        """Make a table of M(<r) and V_c(r), median and 68 and 95 % intervals, and of the mass from tilted rings."""
        low68, high68, low95, high95, median = self.quantiles(SHARES)
        table = QTable()
        table["radius_re"], table["radius"] = self.radius_re, self.radius_kpc * units.kpc
        table["angle"] = self.radius_arcsec * units.arcsec
        masses_by_suffix = {"": median, "_lo_68": low68, "_hi_68": high68, "_lo_95": low95, "_hi_95": high95}
        for suffix, values in masses_by_suffix.items():
            table[f"log10_menc{suffix}"] = values
        speeds = quantiles(self.v_circ_kms, SHARES)
        for suffix, values in zip(("_lo_68", "_hi_68", "_lo_95", "_hi_95", ""), speeds, strict=True):
            table[f"v_circ{suffix}"] = values * units.km / units.s
        table["log10_menc_tilted_ring"] = self.tilted_ring
        table.meta = {
            "galaxy": self.galaxy.name, "tracer": self.tracer, "run": str(self.run), "masses": "log10 of Msun",
            "ood_score": round(self.ood_score, 3), "verdict": DEGREES[self.verdict.degree],
            "sentences": self.sentences(), **provenance(),
        }  # fmt: skip
        return table

    def sentences(self) -> list[str]:
        """Return sentences on the mass near R_e, on how far to trust it, and the cautions."""
        k = int(np.argmin(np.abs(np.log(self.radius_re))))
        tracer_words = {"both": "gas and stars", "gas": "gas", "stars": "stars"}[self.tracer]
        sentences = [
            f"{self.galaxy.name}, from {tracer_words}: {self.inside(self.radius_kpc[k])}; "
            f"V_c = {np.median(self.v_circ_kms[:, k]):.0f} km/s."
        ]
        if np.isnan(self.ood_score):
            sentences.append("The run cannot tell how like its training galaxies this one is.")
        else:
            sentences.append(
                f"{100 * self.ood_score:.1f} % of galaxies kept from training are more like those trained on."
            )
        return sentences + self.verdict.sentences() + self.cautions

    def figure(self) -> Figure:
        """Draw the maps as the network saw them, the profile with its intervals, and the tilted rings."""
        half = 0.5 * self.field_of_view_re * self.radius_kpc[0] / self.radius_re[0]
        score = "" if np.isnan(self.ood_score) else f"; out-of-distribution score {self.ood_score:.3f}"
        return observed_profile(
            self.observed, float(half), self.radius_kpc, self.quantiles(SHARES), self.tilted_ring,
            f"{self.galaxy.name} ({self.tracer}): {DEGREES[self.verdict.degree]}{score}",
            self.galaxy.calibrated,
        )  # fmt: skip

    @own_style()
    def write(self, out: Path) -> None:
        """Write profile.ecsv, samples.zarr and figure.png into a folder; each appears complete and synced to disk.

        The profile of before is removed first and the new one written last: with a profile, all are of one galaxy file.
        """
        make_folder(out)
        (out / "profile.ecsv").unlink(missing_ok=True)
        with aside(out / "samples.zarr") as partial:
            group = zarr.open_group(ChunkFiles(partial), mode="w", zarr_format=3)
            group.create_array("log10_menc", data=self.samples.astype(np.float32), dimension_names=("sample", "radius"))
            group.create_array("radius_kpc", data=self.radius_kpc, dimension_names=("radius",))
            group.attrs.update({"unit": "log10 of Msun", "galaxy": self.galaxy.name, "tracer": self.tracer})
        with aside(out / "figure.png") as partial:
            self.figure().savefig(partial, dpi=120, format="png")
        with aside(out / "profile.ecsv") as partial:
            self.table().write(partial, format="ascii.ecsv")


def _kpc(radius: float | units.Quantity) -> float:
    """Return a radius, which is in kpc where it has no unit, in kpc. Raises ValueError where it is not above 0."""
    try:
        radius_kpc = float(units.Quantity(radius, units.kpc).value)
    except (TypeError, units.UnitConversionError) as error:
        raise ValueError(f"a radius is one number, in kpc or with a unit of length, not {radius!r}") from error
    if not 0 < radius_kpc < np.inf:
        raise ValueError(f"a radius must be above 0 kpc, not {radius_kpc:g}")
    return radius_kpc


def interpolate_rows(positions: np.ndarray, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Interpolate each row of values (N, K), given at rising positions (K,) or (N, K), to targets (M,).

    Linear, and extrapolated linearly beyond the ends; returns (N, M).
    """
    positions = np.broadcast_to(positions, values.shape)
    lower = np.clip((positions[:, :, None] < targets).sum(1) - 1, 0, positions.shape[1] - 2)
    x0, x1 = (np.take_along_axis(positions, i, 1) for i in (lower, lower + 1))
    y0, y1 = (np.take_along_axis(values, i, 1) for i in (lower, lower + 1))
    return np.asarray(y0 + (y1 - y0) * (targets - x0) / (x1 - x0))
