"""The mass profile of an observed galaxy: maps on the network's grid, what is uncertain sampled, an answer in words.

galaxy = eval.observed.galaxy.read_galaxy(Path("NGC4451.yaml"))         or, from arrays,
galaxy = ObservedGalaxy("mine", 25.9, 15.0, gas=SkyMap.from_images(density, velocity_kms, sigma_kms, 0.42))
profile = infer(train.load("runs/gas"), galaxy)
profile.table(), profile.sentences, profile.figure()
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import zarr
from astropy import units
from astropy.table import QTable
from matplotlib.figure import Figure

from kinmass.eval.classical.rotation import rotation_profile
from kinmass.eval.observed import sanity as plausible
from kinmass.eval.observed.galaxy import ObservedGalaxy
from kinmass.eval.observed.sky import FINE, KPC_PER_ARCSEC_MPC, SkyMap, regrid
from kinmass.eval.report.galaxies import observed_profile
from kinmass.eval.tables.metrics import SHARES
from kinmass.gen.code import provenance
from kinmass.gen.constants import G
from kinmass.gen.storage.files import aside, make_folder
from kinmass.train.model.scaling import at_mass_limits, clip_to_mass_limits
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD
from kinmass.train.run.posterior import Inference, beyond_limits_message

# D draws of what is uncertain, S samples of each, K radii, Q pixels
DRAWS, SAMPLES, SEED = 200, 20, 0
#: Fewer pixels of the network's grid are no map.
MIN_PIXELS = 8


@dataclass(frozen=True)
class ObservedProfile:
    """The posterior of one galaxy from one run.

    radius_arcsec (K,) and radius_kpc (K,), at the distance as given; samples (D S, K) of log10 M(<r) [Msun] inside
    these angles, with distance, R_e and centre drawn anew for each of D draws; v_circ_kms (D S, K) of the circular
    velocity there. ood_score: as of
    `train.run.out_of_distribution`, median of draws. observed (8, Q, Q) is what the network saw.
    tilted_ring (K,) is the gas disc's
    log10 mass [Msun] from its rotation curve alone, NaN where it has none.
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
    cautions: list[str] = field(default_factory=list)

    def quantiles(self, shares: tuple[float, ...]) -> np.ndarray:
        """(len(shares), K) of log10 M(<r) [Msun]."""
        return np.asarray(np.quantile(self.samples, shares, axis=0))

    def at_kpc(self, radius_kpc: float, shares: tuple[float, ...] = SHARES) -> np.ndarray:
        """Quantiles of log10 M [Msun] inside a radius [kpc, at the distance as given], between or near the K radii."""
        at = np.log10([radius_kpc])
        inside = clip_to_mass_limits(_interpolated(np.log10(self.radius_kpc), self.samples, at), at)
        return np.asarray(np.quantile(inside[:, 0], shares))

    def inside(self, radius_kpc: float) -> str:
        """The mass inside a radius [kpc, at the distance as given] in words."""
        low68, high68, low95, high95, median = self.at_kpc(radius_kpc)
        return (
            f"log10 M(<{radius_kpc:.2g} kpc) = {median:.2f} Msun, {low68:.2f} to {high68:.2f} at 68 % and "
            f"{low95:.2f} to {high95:.2f} at 95 %"
        )

    def table(self) -> QTable:
        """M(<r) and V_c(r) per radius: median, 68 and 95 % intervals; the tilted rings' mass beside."""
        low68, high68, low95, high95, median = self.quantiles(SHARES)
        out = QTable()
        out["radius_re"], out["radius"] = self.radius_re, self.radius_kpc * units.kpc
        out["angle"] = self.radius_arcsec * units.arcsec
        named = {"": median, "_lo_68": low68, "_hi_68": high68, "_lo_95": low95, "_hi_95": high95}
        for suffix, values in named.items():
            out[f"log10_menc{suffix}"] = values
        speeds = np.quantile(self.v_circ_kms, SHARES, axis=0)
        for suffix, values in zip(("_lo_68", "_hi_68", "_lo_95", "_hi_95", ""), speeds, strict=True):
            out[f"v_circ{suffix}"] = values * units.km / units.s
        out["log10_menc_tilted_ring"] = self.tilted_ring
        out.meta = {
            "galaxy": self.galaxy.name, "tracer": self.tracer, "run": str(self.run), "masses": "log10 of Msun",
            "ood_score": round(self.ood_score, 3), "sentences": self.sentences(), **provenance(),
        }  # fmt: skip
        return out

    def sentences(self) -> list[str]:
        """What can be concluded, in words."""
        k = int(np.argmin(np.abs(np.log(self.radius_re))))
        from_ = {"both": "gas and stars", "gas": "gas", "stars": "stars"}[self.tracer]
        found = [
            f"{self.galaxy.name}, from {from_}: {self.inside(self.radius_kpc[k])}; "
            f"V_c = {np.median(self.v_circ_kms[:, k]):.0f} km/s."
        ]
        if np.isnan(self.ood_score):
            found.append("The run cannot tell how like its training galaxies this one is.")
        elif self.ood_score > OOD_THRESHOLD:
            found.append(
                f"Do not trust this: the maps are less like the training galaxies' than {100 * self.ood_score:.1f} % "
                "of galaxies kept from training; the intervals hold for galaxies like those alone."
            )
        else:
            found.append(
                f"{100 * self.ood_score:.0f} % of galaxies kept from training are more like those trained on: "
                "nothing speaks against the intervals, as far as the simulated suites resemble real galaxies."
            )
        return found + self.cautions

    def figure(self) -> Figure:
        """Maps as the network saw them, the profile with its bands, and the tilted rings."""
        half = 0.5 * self.field_of_view_re * self.radius_kpc[0] / self.radius_re[0]
        return observed_profile(
            self.observed, float(half), self.radius_kpc, self.quantiles(SHARES), self.tilted_ring,
            f"{self.galaxy.name} ({self.tracer}), out-of-distribution score {self.ood_score:.3f}",
            self.galaxy.calibrated,
        )  # fmt: skip

    def write(self, out: Path) -> None:
        """profile.ecsv, samples.zarr and figure.png in a folder, each whole and durable."""
        make_folder(out)
        with aside(out / "profile.ecsv") as partial:
            self.table().write(partial, format="ascii.ecsv")
        with aside(out / "samples.zarr") as partial:
            group = zarr.open_group(partial, mode="w")
            group.create_array("log10_menc", data=self.samples.astype(np.float32), dimension_names=("sample", "radius"))
            group.create_array("radius_kpc", data=self.radius_kpc, dimension_names=("radius",))
            group.attrs.update({"unit": "log10 of Msun", "galaxy": self.galaxy.name, "tracer": self.tracer})
        with aside(out / "figure.png") as partial:
            self.figure().savefig(partial, dpi=120, format="png")


def _interpolated(known: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(N, M) values (N, K) at rising places known (K,) or (N, K), at places (M,); straight on beyond the ends."""
    known = np.broadcast_to(known, values.shape)
    low = np.clip((known[:, :, None] < at).sum(1) - 1, 0, known.shape[1] - 2)
    x0, x1 = (np.take_along_axis(known, i, 1) for i in (low, low + 1))
    y0, y1 = (np.take_along_axis(values, i, 1) for i in (low, low + 1))
    return np.asarray(y0 + (y1 - y0) * (at - x0) / (x1 - x0))


def _tracer(infer: Inference, galaxy: ObservedGalaxy) -> str:
    """What a run is asked for; raises ValueError where it cannot use what there is."""
    there = galaxy.maps()
    wanted = "both" if len(there) == 2 else next(iter(there), "")
    if not wanted:
        raise ValueError(f"{galaxy.name} has no maps; give gas, stars or both")
    answers = infer.answers()
    usable = [wanted] if wanted in answers else [t for t in answers if t in there]
    if not usable:
        raise ValueError(
            f"{infer.path} was trained on {infer.tracer}, {galaxy.name} has {' and '.join(there)} alone; "
            f"choose a run trained on {wanted}, or on any"
        )
    tracer = usable[0]
    needed = ("stars", "gas") if tracer == "both" else (tracer,)
    fit = infer.run["fit"]
    for name in needed:
        if there[name].dispersion_kms is None and not fit.get("no_dispersion", 0.0):
            raise ValueError(
                f"{galaxy.name} has no dispersion of {name}, and {infer.path} has never seen maps without; give the "
                "dispersion, or choose a run trained with `--no-dispersion 0.3`"
            )
        if fit["inputs"] != "relative" and name not in galaxy.calibrated:
            raise ValueError(
                f"{infer.path} looks at surface densities in Msun/kpc^2: give density_msun_kpc2 or total_mass_msun of "
                f"{name}, or choose a run trained with `--inputs relative`"
            )
    return tracer


def infer(run: Inference, galaxy: ObservedGalaxy, draws: int = DRAWS) -> ObservedProfile:
    """The posterior of a galaxy's mass profile, with distance, R_e and centre drawn from their errors.

    Distances and radii are drawn from lognormals of the given relative errors, which keeps them positive; a mass
    inside an angle is proportional to the distance. Raises ValueError where the run cannot use the galaxy's maps.

    >>> from kinmass.eval.observed.galaxy import ObservedGalaxy
    >>> from kinmass.eval.observed.sky import SkyMap
    >>> from kinmass.train import load
    >>> x, y = np.meshgrid(np.arange(-14.5, 15), np.arange(-14.5, 15))
    >>> r = np.hypot(x, y)
    >>> gas = SkyMap(x, y, 1.0, np.exp(-r / 5), 150 * x / (r + 3), np.full(r.shape, 10.0))
    >>> galaxy = ObservedGalaxy("mine", 20.0, 5.0, gas=gas, calibrated=frozenset({"gas"}))
    >>> profile = infer(load("runs/gas"), galaxy, draws=2)
    >>> profile.radius_kpc.shape, profile.inside(1.0).startswith("log10 M(<1 kpc) = ")
    ((10,), True)
    """
    tracer = _tracer(run, galaxy)
    config = run.models[0].config
    maps = {name: sky for name, sky in galaxy.maps().items() if tracer in ("both", name)}
    for name, sky in maps.items():
        plausible.refuse(name, sky, galaxy.half_light_radius_arcsec)
    rng = np.random.default_rng(SEED)

    def lognormal(value: float, error: float) -> np.ndarray:
        width = np.sqrt(np.log1p((error / value) ** 2))
        return value * np.exp(width * rng.standard_normal(draws) * (np.arange(draws) > 0))  # the first is as given

    distance = lognormal(galaxy.distance_mpc, galaxy.distance_error_mpc)
    r_e_arcsec = lognormal(galaxy.half_light_radius_arcsec, galaxy.half_light_radius_error_arcsec)
    shift = galaxy.centre_error_arcsec * rng.standard_normal((draws, 2)) * (np.arange(draws) > 0)[:, None]
    r_e_kpc = r_e_arcsec * distance * KPC_PER_ARCSEC_MPC
    psf_re = _psf_re(run, r_e_kpc)
    observed = np.zeros((draws, 8, config.pixels, config.pixels), np.float32)
    for i in range(draws):
        for name, sky in maps.items():
            field_arcsec = config.field_of_view_re * r_e_arcsec[i]
            # A mass of given light goes as the square of the distance, a surface density does not change.
            channels = regrid(sky.moved(*shift[i]), config.pixels, field_arcsec, float(psf_re[i] * r_e_arcsec[i]))
            observed[i, 0 if name == "stars" else 4 :][:4] = channels
    for name in maps:
        seen = int(observed[0, 3 if name == "stars" else 7].sum())
        if seen < MIN_PIXELS:
            raise ValueError(
                f"{galaxy.name}: {name} is seen in {seen} of the network's {config.pixels**2} pixels over "
                f"{config.field_of_view_re:g} R_e, at least {MIN_PIXELS} are needed; is half_light_radius_arcsec right?"
            )
    names = [(galaxy.name, i) for i in range(draws)]
    posterior = run(torch.from_numpy(observed), r_e_kpc, tracer, names, unseen=True)
    drawn = np.moveaxis(posterior.samples(SAMPLES), 0, 1).reshape(draws * SAMPLES, -1).astype(float)
    # Inside the same angles for all draws.
    angle = np.log10(galaxy.half_light_radius_arcsec * posterior.radii_re)
    own = np.log10(np.outer(r_e_arcsec, posterior.radii_re)).repeat(SAMPLES, axis=0)
    log10_kpc = angle + np.log10(distance * KPC_PER_ARCSEC_MPC).repeat(SAMPLES)[:, None]
    menc = clip_to_mass_limits(_interpolated(own, drawn, angle), log10_kpc)  # straight on beyond the ends can be steep
    r_e = float(r_e_kpc[0])
    cautions = _cautions(run, galaxy, maps, float(psf_re[0]))
    beyond = float(at_mass_limits(menc, log10_kpc).mean())
    cautions += [f"{beyond_limits_message(beyond)}."] if beyond else []
    ring = np.full(len(angle), np.nan)
    if "gas" in maps:
        ring = _tilted_ring(maps["gas"], galaxy, posterior.radii_re)
    return ObservedProfile(
        galaxy, tracer, run.path, posterior.radii_re, 10**angle, r_e * posterior.radii_re,
        menc, 10 ** (0.5 * (menc + np.log10(G) - log10_kpc)), float(np.median(posterior.ood_score())), observed[0],
        config.field_of_view_re, ring, cautions,
    )  # fmt: skip


def _psf_re(run: Inference, r_e_kpc: np.ndarray) -> np.ndarray:
    """(D,) FWHM [R_e] of the PSF through which the run's galaxies were seen."""
    stored = run.models[0].config.pixels * run.instrument.rebin
    found = run.instrument.psf_fwhm_pixels(stored, 1.0, torch.as_tensor(r_e_kpc))
    return np.broadcast_to(np.asarray(found, float), r_e_kpc.shape) / stored * run.models[0].config.field_of_view_re


def _tilted_ring(gas: SkyMap, galaxy: ObservedGalaxy, radii_re: np.ndarray) -> np.ndarray:
    """(K,) `rotation_profile` of the gas, on a grid that fits the map rather than the network."""
    r_e = galaxy.half_light_radius_arcsec
    reach = 2.4 * gas.reach_arcsec()
    pixels = int(np.clip(2 * reach / max(gas.blur_arcsec, 2 * gas.side_arcsec), 16, 64))
    kpc = r_e * galaxy.distance_mpc * KPC_PER_ARCSEC_MPC
    return rotation_profile(regrid(gas, pixels, reach), kpc, reach / r_e, radii_re)


def _cautions(run: Inference, galaxy: ObservedGalaxy, maps: dict[str, SkyMap], psf_re: float) -> list[str]:
    """What a reader of the result has to know."""
    config, r_e = run.models[0].config, galaxy.half_light_radius_arcsec
    grid_re = max(psf_re, config.field_of_view_re / config.pixels)
    found = []
    for name, sky in maps.items():
        reach = sky.reach_arcsec() / r_e
        if reach < 0.9 * config.radii_re[-1]:
            found.append(
                f"{name.capitalize()} {'is' if name == 'gas' else 'are'} seen out to {reach:.1f} R_e: the profile "
                "beyond is that of training galaxies alike inside."
            )
        if sky.beam_fwhm_arcsec is None:
            found.append(
                f"No beam of the {name} is known: the map was taken as perfectly sharp, and masses in the centre are "
                "too low where it is not; say beam_fwhm_arcsec."
            )
        if sky.blur_arcsec / r_e > 1.2 * grid_re:
            found.append(
                f"The beam of the {name} is {sky.blur_arcsec / r_e:.2f} R_e wide, the network knows maps as sharp "
                f"as {grid_re:.2f} R_e: rotation in the centre is smeared, and masses there too low."
            )
        if sky.side_arcsec / r_e > FINE * config.field_of_view_re / config.pixels:
            found.append(f"The pixels of the {name} are coarser than anything the network has seen.")
    found += [*galaxy.remarks, *plausible.cautions(maps)]
    if not run.unseen:
        found.append(
            "The intervals are those for galaxies of the training suites: train with --across to have them hold what "
            "they promise for galaxies of suites that were not trained on."
        )
    return found
