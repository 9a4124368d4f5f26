"""An instrument's view: stored noiseless moments as they would be observed.

Written in torch, so that training can draw new noise and new looks for a view every time, on its own device; observed
maps are not stored. An instrument acts in this order: resolution of the simulation (thinning), PSF and pointing, field
of view and rebinning, cuts and losses, binning, noise, and what is known of it.
"""

from copy import copy
from functools import partial

import torch

from kinmass.gen.instruments import optics
from kinmass.gen.instruments.bins import alike_in_bins, joined
from kinmass.gen.instruments.footprint import PIXELS_OF_ANY, brightest, cut, inside, nth_brightest
from kinmass.gen.instruments.looks import Look, where, without_look
from kinmass.gen.instruments.model import FEWEST_PIXELS, SHAPES, Instrument, TracerNoise
from kinmass.gen.instruments.thinning import thin
from kinmass.gen.options import OptionError

# N views, P stored pixels along a side, Q observed ones
Number = float | torch.Tensor
#: What is told of a tracer beside its four maps: errors of V and of sigma [km/s], FWHM of the PSF [R_e], whether there
#: is a dispersion, and how uncertain a factor on the density is [dex]. Of what is not known it is UNKNOWN.
TOLD = ("velocity_error", "dispersion_error", "psf_fwhm_re", "has_dispersion", "density_dex")
UNKNOWN = -1.0
#: Share of the mean density inside R_e below which the light in the tails of a PSF is not seen.
FAINTEST = 1e-4
#: Particles that share a pixel of smoothed gas, because a kernel holds some 32 neighbours.
UNDER_A_KERNEL = 32.0
#: Channels of observed maps: four of the stars, four of the gas; with what is told, those of TOLD of each after them.
CHANNELS, CHANNELS_TOLD = 8, 8 + 2 * len(TOLD)


def inside_half_mass_radius(pixels: int, field_of_view_re: float, device: torch.device | None = None) -> torch.Tensor:
    """Mask (P, P) of the pixels whose centres lie within R_e of the middle of the map."""
    x = (torch.arange(pixels, device=device) + 0.5) / pixels - 0.5
    return torch.hypot(x[:, None], x[None, :]) * field_of_view_re <= 1.0


def psf_fwhm_pixels(
    instrument: Instrument,
    pixels: int,
    field_of_view_re: float,
    half_mass_radius_kpc: torch.Tensor | None,
    look: Look | None = None,
) -> Number:
    """FWHM of the PSF in stored pixels: one number, or (N,) where it differs from view to view.

    Raises OptionError for a PSF in kpc without the views' R_e.
    """
    psf = (instrument if look else without_look(instrument)).psf_fwhm
    if psf is None:
        return 0.0
    number = next(x for x in (psf.pixels, psf.re, psf.kpc) if x is not None)
    if isinstance(number, tuple):
        assert look is not None
        drawn = look.value("psf_fwhm", number)
        assert isinstance(drawn, torch.Tensor)
        size: Number = drawn[:, 0, 0]
    else:
        size = number
    if psf.pixels is not None:
        return size
    if psf.re is not None:
        return size * pixels / field_of_view_re
    if half_mass_radius_kpc is None:
        raise OptionError(f"instrument {instrument.name} has a PSF in kpc: it needs each view's half_mass_radius_kpc")
    return size * pixels / (field_of_view_re * half_mass_radius_kpc.double())


def as_measured(observed: torch.Tensor) -> torch.Tensor:
    """Return observed maps (N, 8, Q, Q) from those with what is told (N, 18, Q, Q), NaN for what was not measured.

    Of a view without a density, or a dispersion, of a tracer networks are shown ones, or zeros, in all of its pixels.
    """
    maps, told = observed[:, :CHANNELS].clone(), observed[:, CHANNELS:].unflatten(1, (2, -1))
    for t in range(2):
        is_seen = maps[:, 4 * t + 3].amax((1, 2)) > 0
        has_density = told[:, t, TOLD.index("density_dex")].amin((1, 2)) > UNKNOWN
        has_dispersion = told[:, t, TOLD.index("has_dispersion")].amax((1, 2)) > 0
        for channel, is_measured in ((0, has_density), (2, has_dispersion)):
            maps[is_seen & ~is_measured, 4 * t + channel] = torch.nan
    return maps


def observe(
    maps: torch.Tensor,
    instrument: Instrument,
    noise: torch.Tensor | None,
    field_of_view_re: float = 6.0,
    half_mass_radius_kpc: torch.Tensor | None = None,
    look: Look | None = None,
    told: bool = False,
    tracers: tuple[str, ...] = ("stars", "gas"),
    wanted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Observed maps (N, 8, Q, Q): density, V, sigma and a mask of valid pixels of the stars, then of the gas.

    maps (N, 8, P, P): as stored, four channels of the stars, then of the gas. Q comes from `Instrument.grid`.
    noise (N, 4, Q, Q): standard normal numbers for V and sigma of stars and gas, or None for no noise.
    half_mass_radius_kpc (N,): needed only for a PSF in kpc. look: the numbers from which an instrument that varies
    draws; without them it is `without_look`. told: return (N, 18, Q, Q), with the channels of TOLD after these eight.
    tracers: those that are observed; the maps of the other are zero. wanted (N, 2): of which views stars and gas are
    observed; without it, of all.
    PSF and rebinning act on the moments Sigma, Sigma V, Sigma (V^2 + sigma^2), exactly as light does. Cuts and errors
    refer to the mean density inside R_e of the blurred map before rebinning; of a tracer with nothing inside R_e, to
    the mean of its non-empty pixels. Invalid pixels are zero.
    Raises ValueError where the instrument does not fit the maps.

    >>> from kinmass.gen.instruments.builtin import INSTRUMENTS
    >>> maps = torch.rand(1, 8, 16, 16) + 1
    >>> seen = observe(maps, INSTRUMENTS["clean"], None)
    >>> seen.shape, bool((seen[:, 3] == 1).all())  # every pixel has stars
    (torch.Size([1, 8, 16, 16]), True)
    """
    if instrument.varies() and look is None:
        instrument = without_look(instrument)
    view = _View(maps, instrument, field_of_view_re, half_mass_radius_kpc, look)
    size = len(maps), CHANNELS_TOLD if told else CHANNELS, view.pixels, view.pixels
    fills_all = wanted is None and len(tracers) == 2
    observed = maps.new_empty(size) if fills_all else maps.new_zeros(size)
    for t, name in enumerate(("stars", "gas")):
        if name not in tracers:
            continue
        channels = [slice(4 * t, 4 * t + 4), *([slice(8 + 5 * t, 13 + 5 * t)] if told else [])]
        if wanted is None:
            view.tracer(t, noise, [x for part in channels for x in observed[:, part].unbind(1)])
        elif len(rows := torch.nonzero(wanted[:, t])[:, 0]):
            seen = [observed.new_empty(len(rows), part.stop - part.start, *size[2:]) for part in channels]
            numbers = None if noise is None else noise[rows]
            view.of(rows).tracer(t, numbers, [x for part in seen for x in part.unbind(1)])
            for part, x in zip(channels, seen, strict=True):
                observed[rows, part] = x
    return observed


def with_told(observed: torch.Tensor) -> torch.Tensor:
    """Return observed maps (N, 18, Q, Q) from maps (N, 8, Q, Q) of which nothing is told: errors and PSF are UNKNOWN.

    A tracer has a dispersion where any of its valid pixels has one. Maps with all channels are returned as they are.
    """
    if observed.shape[1] == CHANNELS_TOLD:
        return observed
    told = []
    for t in range(2):
        dispersion, valid = observed[:, 4 * t + 2], observed[:, 4 * t + 3]
        measured = ((dispersion > 0) & (valid > 0)).any(-1, keepdim=True).any(-2, keepdim=True) * valid
        told += [UNKNOWN * valid, UNKNOWN * valid, UNKNOWN * valid, measured, torch.zeros_like(valid)]
    return torch.cat([observed, torch.stack(told, dim=1)], dim=1)


class _View:
    """What both tracers of N views have in common: PSF, pointing, pixels and footprint."""

    def __init__(
        self,
        maps: torch.Tensor,
        instrument: Instrument,
        field_of_view_re: float,
        half_mass_radius_kpc: torch.Tensor | None,
        look: Look | None,
    ):
        look = look and look.spared(instrument.complete)
        self.maps, self.instrument, self.look = maps, instrument, look
        stored = maps.shape[-1]
        self.pixels, self.observed_field_re = instrument.grid(stored, field_of_view_re)
        self.within_re = inside_half_mass_radius(stored, field_of_view_re, maps.device)
        self.fwhm = psf_fwhm_pixels(instrument, stored, field_of_view_re, half_mass_radius_kpc, look)
        self.fwhm_re = self.fwhm * (field_of_view_re / stored)
        self.psf: tuple[torch.Tensor, torch.Tensor] | None
        if look and instrument.centre_error_re:
            fwhm = _like(self.fwhm, maps[:, 0, 0, 0])
            per_re = instrument.centre_error_re * stored / field_of_view_re
            x, y = (per_re * look.gaussian(name)[:, 0, 0] for name in ("centre_x", "centre_y"))
            self.psf = optics.moved_psf_matrix(maps, fwhm, y), optics.moved_psf_matrix(maps, fwhm, x)
        else:
            matrix = optics.psf_matrix(maps, self.fwhm)
            self.psf = None if matrix is None else (matrix, matrix)
        self.footprint = self._footprint()

    def of(self, rows: torch.Tensor) -> "_View":
        """Return some of the views (M,)."""
        part = copy(self)
        part.maps, part.look = self.maps[rows], self.look and self.look.of(rows)
        part.fwhm, part.fwhm_re = (x[rows] if isinstance(x, torch.Tensor) else x for x in (self.fwhm, self.fwhm_re))
        part.psf = self.psf and (_rows(self.psf[0], rows), _rows(self.psf[1], rows))
        part.footprint = None if self.footprint is None else _rows(self.footprint, rows)
        return part

    def _blurred(self, images: torch.Tensor) -> torch.Tensor:
        if self.psf is None:
            return images
        rows, columns = self.psf
        if columns.dim() == 2:
            return rows @ images @ columns.mT
        # One product for each view instead of one for each image.
        return rows @ (images.flatten(1, 2) @ columns[:, 0].mT).reshape(images.shape)

    def _footprint(self) -> torch.Tensor | None:
        footprint, look = self.instrument.footprint, self.look
        if footprint is None:
            return None
        grid = self.pixels, self.observed_field_re, self.maps
        if look is None:  # a fixed instrument: nothing of its footprint is drawn
            assert isinstance(footprint.radius_re, float)
            return inside(*grid, SHAPES[footprint.shape], footprint.radius_re)
        offset, angle = look.value("offset_re", footprint.offset_re), look.angle("offset_angle")
        middle = offset * torch.cos(angle), offset * torch.sin(angle)
        sides, radius = look.sides(footprint.shape), look.value("radius_re", footprint.radius_re)
        all_seen = torch.ones(len(self.maps), self.pixels, self.pixels, dtype=torch.bool, device=self.maps.device)
        happens = look.happens("footprint", footprint.share)
        return where(happens, partial(_footprint, grid), all_seen, sides, radius, *middle, look.angle("turn"))

    def _seen(self, t: int, moments: torch.Tensor, mean: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Return the valid pixels (N, Q, Q) of a tracer, from its observed moments and their mean inside R_e."""
        value, look, density = self._value(t), self.look, moments[:, 0]
        tracer = value.tracer
        threshold = torch.maximum(value("mask_below_mean") * mean, _like(value("mask_below_msun_kpc2"), mean))
        # A PSF has tails without end: what is a ten thousandth of the mean is not seen.
        valid = density > (0.0 if self.psf is None else FAINTEST * mean)
        if isinstance(tracer.mask_below_mean, tuple) or isinstance(tracer.mask_below_msun_kpc2, tuple):
            # A depth that is drawn leaves the brightest pixels.
            is_too_deep = (density >= threshold).sum((1, 2), keepdim=True) < FEWEST_PIXELS
            threshold = where(is_too_deep, lambda _, light: nth_brightest(light, FEWEST_PIXELS), threshold, density)
        valid &= density >= threshold
        if tracer.min_particles > 0:
            particles = optics.coarsened(count, self.pixels, self.instrument.rebin)[:, 0] * valid
            fewest = torch.full_like(mean, tracer.min_particles)
            if look and tracer.particles is not None:
                # A view that is thinned keeps the pixels with the most particles.
                is_too_thin = (particles >= fewest).sum((1, 2), keepdim=True) < FEWEST_PIXELS
                fewest = where(is_too_thin, lambda _, x: nth_brightest(x, FEWEST_PIXELS), fewest, particles)
            valid &= particles >= fewest
        if self.footprint is not None:
            footprint = self.instrument.footprint
            is_drawn = footprint is not None and (footprint.is_open() or footprint.offset_re != 0.0)
            valid = cut(valid, self.footprint, always=not is_drawn)
        if tracer.kept_pixels != 1.0 or tracer.most_pixels is not None:
            most = PIXELS_OF_ANY if tracer.most_pixels is None else value("most_pixels")
            share = value("kept_pixels")
            valid = where(value.happens("faded"), _brightest, valid, density, share, most)
        if look and tracer.lost_pixels != 0.0:
            numbers = look.maps(6 + t, 7 + t)
            valid = where(value.happens("holed"), self._with_holes, valid, value("lost_pixels"), numbers)
        return valid

    def _with_holes(self, valid: torch.Tensor, share: Number, numbers: torch.Tensor) -> torch.Tensor:
        """Return valid pixels (N, Q, Q) but for a share of them, as numbers (N, 1, P, P) say."""
        rebin = self.instrument.rebin
        is_kept = torch.special.ndtr(optics.coarsened(numbers, self.pixels, rebin)[:, 0] / rebin) >= share
        return cut(valid, is_kept, always=False)

    def _value(self, t: int) -> "_Values":
        return _Values(self.look, "stars" if t == 0 else "gas", (self.instrument.stars, self.instrument.gas)[t])

    def tracer(self, t: int, noise: torch.Tensor | None, out: list[torch.Tensor]) -> None:
        """Write the four observed channels (N, Q, Q) of the stars (t = 0) or gas (1) into `out`, or nine with TOLD.

        Nothing is stacked afterwards, because copies of this size cost as much as all arithmetic.
        """
        instrument, look, value, told = self.instrument, self.look, self._value(t), len(out) > 4
        tracer = value.tracer
        stored = self.maps[:, 4 * t : 4 * t + 4]
        if look and tracer.particles is not None:
            share = value("particles") / stored[:, 3].sum((1, 2), keepdim=True).clamp(min=1)
            share = torch.where(look.happens("thinned", tracer.thinned), share.clamp(max=1), 1.0)[:, 0, 0]
            stored = thin(stored, share, look.maps(3 * t, 3 * t + 3), smoothed=t == 1)
        # The light, and the particles, of which `_shot_variance` asks.
        blurred = self._blurred(_moments(stored if told else stored[:, :3]))
        moments = blurred[:, :3]
        mean = (moments[:, 0] * self.within_re).sum((1, 2), keepdim=True) / self.within_re.sum()
        # A tracer may have nothing inside R_e, such as gas in a ring: then the mean of its non-empty pixels.
        n_occupied = (moments[:, 0] > 0).sum((1, 2), keepdim=True).clamp(min=1)
        mean = torch.where(mean > 0, mean, moments[:, 0].sum((1, 2), keepdim=True) / n_occupied)
        moments = optics.coarsened(moments, self.pixels, instrument.rebin)
        if instrument.rebin > 1:
            moments = moments / instrument.rebin**2
        valid = self._seen(t, moments, mean, stored[:, 3:4])
        # Ones and zeros: a product with them costs a processor a tenth of a choice between two numbers.
        seen = valid.to(moments)
        relative = torch.addcmul(1 - seen, moments[:, 0], seen) / torch.where(mean > 0, mean, 1.0)
        error = value("velocity_error_kms") * _power(relative, -value("error_slope"))
        sides = None
        if tracer.bin_to_kms is not None:
            apart = torch.cat([moments, torch.stack([_like(error, relative), torch.ones_like(relative)], dim=1)], dim=1)
            in_bins = where(value.happens("binned"), _in_bins, apart, valid, value("bin_to_kms"))
            moments, error, sides = in_bins[:, :3], in_bins[:, 3], in_bins[:, 4]
        density, first, second = moments.unbind(1)
        divisor = torch.addcmul(1 - seen, density, seen)
        velocity = first / divisor
        # Rounding can make the variance slightly negative where the dispersion is zero.
        dispersion = (second / divisor).sub_(velocity**2).clamp_(min=0.0).sqrt_()
        true_dispersion = dispersion
        if noise is not None and tracer.velocity_error_kms != 0.0:
            normal = self._normal(t, noise, sides)
            velocity = velocity + error * normal[:, 0]
            width = value("instrument_sigma_kms")
            if tracer.instrument_sigma_kms != 0.0:
                dispersion = (dispersion**2).add_(width**2).sqrt_()
            dispersion = (error * normal[:, 1]).add_(dispersion).clamp_(min=0.0)
            if tracer.instrument_sigma_kms != 0.0:
                dispersion = (dispersion**2).sub_(width**2).clamp_(min=0.0).sqrt_()
        is_measured = _chosen(value.happens("no_dispersion"), 0.0, 1.0)
        if tracer.no_dispersion > 0:
            dispersion = dispersion * is_measured
        if look and tracer.density_dex > 0:
            dex = tracer.density_dex * look.gaussian(f"{value.name}.density_dex")
            density = density * _chosen(value.happens("uncertain_density"), 10**dex, 1.0)
        if tracer.no_density > 0:
            density = _like(_chosen(value.happens("no_density"), 1.0, density), dispersion)
        channels: tuple[Number, ...] = density, velocity, dispersion, 1.0
        if told:
            shot = self._shot_variance(t, blurred[:, 3:4], true_dispersion, sides, seen)
            channels += self._told(value, error, shot, dispersion, is_measured)
        for x, channel in zip(channels, out, strict=True):
            torch.mul(seen, x, out=channel)

    def _normal(self, t: int, noise: torch.Tensor, sides: torch.Tensor | None) -> torch.Tensor:
        """Return standard normal numbers (N, 2, Q, Q) for V and sigma, alike over a PSF or a bin where errors are."""
        normal, tracer = noise[:, 2 * t : 2 * t + 2], (self.instrument.stars, self.instrument.gas)[t]
        if tracer.correlated > 0:
            fwhm = self.fwhm / self.instrument.rebin
            normal = where(self._value(t).happens("correlated"), optics.alike_over_psf, normal, fwhm)
        return normal if sides is None else where(self._value(t).happens("binned"), alike_in_bins, normal, sides)

    def _shot_variance(
        self,
        t: int,
        count: torch.Tensor,
        dispersion: torch.Tensor,
        sides: torch.Tensor | None,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        """Return the variance (N, Q, Q) [km^2/s^2] of V that follows from the number of particles.

        count (N, 1, P, P): particles, blurred by the PSF. The variance is sigma^2 over the number of
        particles under a kernel, or the PSF, or a bin: an estimate, good to some tens of per cent.
        """
        rebin = self.instrument.rebin
        under = optics.coarsened(count, self.pixels, rebin)[:, 0]
        fwhm = self.fwhm[:, None, None] if isinstance(self.fwhm, torch.Tensor) else self.fwhm
        beam_area = 4 * torch.pi * (fwhm * optics.SIGMA_PER_FWHM) ** 2 / rebin**2  # that a Gaussian holds, in pixels
        under = under * (1 + beam_area) + (UNDER_A_KERNEL if t == 1 else 0.0)
        variance = dispersion**2 / under.clamp(min=0.5)
        if sides is not None:
            variance = variance / sides**2
        return variance * seen

    def _told(
        self,
        value: "_Values",
        error: Number,
        shot_variance: torch.Tensor,
        dispersion: torch.Tensor,
        is_measured: Number,
    ) -> tuple[Number, ...]:
        """Return the channels of TOLD, each (N, Q, Q), or a number for all or each of the views."""
        variance = _like(error, dispersion) ** 2
        width = _like(value("instrument_sigma_kms"), dispersion[:, :1, :1])
        # The error of sigma grows where sigma is below the instrument's, to what its square's error leaves at zero.
        square, width2 = dispersion**2, width**2
        least = (variance + width2).mul_(variance).sqrt_()
        growth = (square + width2).div_(least.add_(square).clamp_(min=1e-12)).clamp_(min=1.0)
        velocity_error = (variance + shot_variance).sqrt_()
        dispersion_error = growth.mul_(variance).add_(shot_variance, alpha=0.5).sqrt_()
        is_hidden = value.happens("unknown_errors")
        errors = [_chosen(is_hidden, UNKNOWN, x) for x in (velocity_error, dispersion_error)]
        fwhm_re = self.fwhm_re[:, None, None] if isinstance(self.fwhm_re, torch.Tensor) else self.fwhm_re
        psf: Number = _like(fwhm_re, dispersion[:, :1, :1])
        if self.instrument.unknown_psf > 0:
            share = self.instrument.unknown_psf
            hidden = self.look.happens("unknown_psf", share) if self.look else share == 1
            psf = _chosen(hidden, UNKNOWN, psf)
        uncertain = _chosen(value.happens("uncertain_density"), value.tracer.density_dex, 0.0)
        uncertain = _chosen(value.happens("no_density"), UNKNOWN, uncertain)
        return *errors, psf, is_measured, uncertain


class _Values:
    """The numbers of one tracer of N views, by their names: those of the instrument, or drawn from its ranges."""

    def __init__(self, look: Look | None, name: str, tracer: TracerNoise):
        self.look, self.name, self.tracer = look, name, tracer

    def __call__(self, key: str) -> Number:
        number = getattr(self.tracer, key)
        return self.look.value(f"{self.name}.{key}", number) if self.look else number

    def happens(self, key: str) -> torch.Tensor | bool:
        """Return which looks (N, 1, 1) are among a share of them; without looks whether all are."""
        share = getattr(self.tracer, key)
        return self.look.happens(f"{self.name}.{key}", share) if self.look else bool(share == 1)


def _moments(stored: torch.Tensor) -> torch.Tensor:
    """Return Sigma, Sigma V and Sigma (V^2 + sigma^2), and what comes after them, of stored channels (N, C, P, P)."""
    density, velocity, dispersion = stored[:, :3].unbind(1)
    images = stored.clone()
    torch.mul(density, velocity, out=images[:, 1])
    torch.mul((velocity**2).add_(dispersion**2), density, out=images[:, 2])
    return images


def _rows(numbers: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return some rows of what has one for each view; what is the same for all views has none."""
    return numbers[rows] if len(numbers) > 1 and numbers.dim() > 2 else numbers


def _footprint(
    grid: tuple[int, float, torch.Tensor],
    all_seen: torch.Tensor,
    sides: torch.Tensor | int,
    radius_re: Number,
    x_re: torch.Tensor,
    y_re: torch.Tensor,
    turn: torch.Tensor,
) -> torch.Tensor:
    return all_seen & inside(*grid, sides, radius_re, (x_re, y_re), turn)


def _brightest(valid: torch.Tensor, density: torch.Tensor, share: Number, most: Number) -> torch.Tensor:
    return valid & brightest(density, valid, share, most)


def _in_bins(apart: torch.Tensor, valid: torch.Tensor, target: float | torch.Tensor) -> torch.Tensor:
    """Return moments, error and bins' sides (N, 5, Q, Q) after `joined`, from those without bins."""
    moments, error, sides = joined(apart[:, :3], apart[:, 3], valid, target)
    return torch.cat([moments, torch.stack([error, sides], dim=1)], dim=1)


def _chosen(which: torch.Tensor | bool, yes: Number, no: Number) -> Number:
    """Return `torch.where`, also for one answer for all views."""
    if isinstance(which, bool):
        return yes if which else no
    if isinstance(no, torch.Tensor) and isinstance(yes, float) and no.numel() > which.numel():
        chosen = which.to(no)  # a product with ones and zeros, as in `_View.tracer`
        return torch.addcmul(yes * chosen, no, 1 - chosen)
    return torch.where(which, yes, no)


def _power(x: torch.Tensor, exponent: Number) -> torch.Tensor:
    """Return x ** exponent of positive numbers; a processor takes half the time of torch's power of two tensors."""
    return x.log().mul_(exponent).exp_() if isinstance(exponent, torch.Tensor) else x**exponent


def _like(number: Number, like: torch.Tensor) -> torch.Tensor:
    """Return a number, or numbers (N, 1, 1), as a tensor like another; without a copy, for which a GPU would wait."""
    return number.to(like).expand_as(like) if isinstance(number, torch.Tensor) else torch.full_like(like, number)
