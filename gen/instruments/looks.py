"""Looks: what an instrument leaves open, drawn for every look at a view.

All that is drawn follows from the numbers of a `Look`, which training makes from counters and evaluation from a view's
name: a look is the same on any device and for any number of processes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import torch

from kinmass.gen.instruments.model import SHAPES, Instrument, Range, TracerNoise
from kinmass.gen.physics.sightline import view_rng

# N looks, C choices, P pixels along a side
_SHARED = (
    "psf_fwhm", "unknown_psf", "centre_x", "centre_y",
    "footprint", "shape", "radius_re", "offset_re", "offset_angle", "turn", "thinned", "complete",
)  # fmt: skip
_OF_TRACER = (
    "velocity_error_kms", "error_slope", "mask_below_mean", "mask_below_msun_kpc2", "instrument_sigma_kms",
    "correlated", "bin_to_kms", "binned", "kept_pixels", "most_pixels", "faded", "lost_pixels", "holed",
    "no_dispersion", "unknown_errors", "density_dex", "uncertain_density", "particles", "no_density",
)  # fmt: skip
#: Numbers of a look: of its choices, and maps of normal numbers on the stored pixels. There are more choices than
#: names, so that looks stay what they are when names are added, at the end of their list.
CHOICES, MAPS = 64, 8
#: The device on which views that stay as they are are left out of the work. A GPU would have to wait for their number.
BRANCHES_ON = "cpu"
_PLACE = {name: i for i, name in enumerate(_SHARED)} | {
    f"{tracer}.{name}": start + i for tracer, start in (("stars", 16), ("gas", 40)) for i, name in enumerate(_OF_TRACER)
}


#: What a look that is complete does not lose, where only some looks do; and a choice of what never happens to these.
_LOST = frozenset(
    {"footprint", "thinned"}
    | {f"{t}.{name}" for t in ("stars", "gas") for name in ("binned", "faded", "holed", "no_dispersion", "no_density")}
)
_NEVER = 1 - 2.0**-24
#: Numbers (N, ...) of N looks, of which only those of some rows are made: of a list (M,) of rows, or a slice of them.
Drawn = Callable[[torch.Tensor | slice], torch.Tensor]


class NormalMaps(Protocol):
    """A tensor (N, MAPS, P, P), or what draws a part of one when it is asked for: `maps[rows, first:last]`."""

    def __getitem__(self, index: tuple[torch.Tensor | slice, slice], /) -> torch.Tensor:
        """Return the maps (M, last - first, P, P) of a list (M,) of rows, or a slice of them."""
        ...


class _Rows:
    """The normal maps of some looks (M,) out of those of more."""

    def __init__(self, normal: NormalMaps, rows: torch.Tensor):
        self._normal, self._rows = normal, rows

    def __getitem__(self, index: tuple[torch.Tensor | slice, slice], /) -> torch.Tensor:
        return self._normal[self._rows[index[0]], index[1]]


@dataclass(frozen=True)
class Look:
    """The random numbers of N looks, one for each view.

    choices (N, CHOICES) are uniform between 0 and 1; normal (N, MAPS, P, P) are standard normal numbers on the stored
    pixels: three for thinning stars, three for thinning gas, and one for the lost pixels of each.
    """

    choices: torch.Tensor
    normal: NormalMaps

    def of(self, rows: torch.Tensor) -> "Look":
        """Return the looks of some rows (M,)."""
        return Look(self.choices[rows], _Rows(self.normal, rows))

    def spared(self, share: float) -> "Look":
        """Return the looks, of which a share loses nothing that only some looks lose."""
        if not share:
            return self
        is_spared = (self.choices[:, _PLACE["complete"], None] < share) & _lost_places(self.choices.device)
        return Look(torch.where(is_spared, _NEVER, self.choices), self.normal)

    def maps(self, first: int, last: int) -> Drawn:
        """Return the normal numbers (N, last - first, P, P) from a map to another, for `where`."""
        return lambda rows: self.normal[rows, first:last]

    def value(self, name: str, number: Range) -> float | torch.Tensor:
        """Return a number as it is, or (N, 1, 1) drawn from a range, as `between` does."""
        return between(number, self._choice(name)) if isinstance(number, tuple) else number

    @cached_property
    def _columns(self) -> tuple[torch.Tensor, ...]:
        return self.choices.T[:, :, None, None].unbind(0)

    def _choice(self, name: str) -> torch.Tensor:
        return self._columns[_PLACE[name]]

    def happens(self, name: str, share: float) -> torch.Tensor:
        """Return (N, 1, 1) of which looks are among a share of all."""
        return self._choice(name) < share

    def gaussian(self, name: str) -> torch.Tensor:
        """Return standard normal numbers (N, 1, 1)."""
        return torch.special.ndtri(self._choice(name).clamp(1e-6, 1 - 1e-6))

    def angle(self, name: str) -> torch.Tensor:
        """Return angles (N, 1, 1) [radian]."""
        return 2 * math.pi * self._choice(name)

    def sides(self, shape: str) -> torch.Tensor | int:
        """Return the number of a footprint's sides, or those (N, 1, 1) of a shape drawn for each look."""
        if shape != "any":
            return SHAPES[shape]
        choice = self._choice("shape") * len(SHAPES)
        circle, square, hexagon = SHAPES.values()
        return torch.where(choice < 1, circle, torch.where(choice < 2, square, hexagon))


@lru_cache(maxsize=8)
def _lost_places(device: torch.device) -> torch.Tensor:
    """Return which choices (CHOICES,) are of _LOST. It is made once, because a copy to a GPU makes the host wait."""
    is_lost = torch.zeros(CHOICES, dtype=torch.bool)
    is_lost[[_PLACE[name] for name in _LOST]] = True
    return is_lost.to(device)


def where(
    which: torch.Tensor | bool, change: Callable[..., torch.Tensor], unchanged: torch.Tensor, *numbers: object
) -> torch.Tensor:
    """Return `change(unchanged, *numbers)` of the views (N, 1, 1) that `which` tells, and `unchanged` of the others.

    unchanged: (N, ...); of the numbers, tensors have a row per view as well, and functions (`Drawn`) give them. Where
    that costs nothing, on a CPU, the other views are left out of the work.
    """

    def changed(rows: torch.Tensor | slice) -> torch.Tensor:
        """Return the changed views of some rows."""
        of_rows = (x[rows] if isinstance(x, torch.Tensor) else x(rows) if callable(x) else x for x in numbers)
        return change(unchanged[rows], *of_rows)

    if isinstance(which, bool):
        return changed(slice(None)) if which else unchanged
    if not leaves_out(unchanged.device):
        return torch.where(which.reshape(-1, *[1] * (unchanged.dim() - 1)), changed(slice(None)), unchanged)
    rows = torch.nonzero(which.flatten())[:, 0]
    if not len(rows):
        return unchanged
    result = unchanged.clone()
    result[rows] = changed(rows)
    return result


def leaves_out(device: torch.device) -> bool:
    """Return whether work on a device leaves out the views that it does not change."""
    return device.type == BRANCHES_ON


def between(ends: tuple[float, float], share: torch.Tensor) -> torch.Tensor:
    """Return numbers that divide a range as `share` says: of its logarithm where both ends are positive."""
    low, high = ends
    if low > 0:
        return torch.exp(math.log(low) + share * math.log(high / low))
    return low + share * (high - low)


def middle(number: Range) -> float:
    """Return a number, or the middle of a range."""
    return float(between(number, torch.tensor(0.5))) if isinstance(number, tuple) else number


def ends(number: Range) -> tuple[float, float]:
    """Return the ends of a range; of a number, twice itself."""
    return number if isinstance(number, tuple) else (number, number)


def sharpest(instrument: Instrument) -> Instrument:
    """Return the instrument with the narrowest PSF of its range."""
    return _with_psf(instrument, 0)


def blurriest(instrument: Instrument) -> Instrument:
    """Return the instrument with the widest PSF of its range."""
    return _with_psf(instrument, 1)


def _with_psf(instrument: Instrument, end: int) -> Instrument:
    if instrument.psf_fwhm is None:
        return instrument
    fixed = {name: ends(value)[end] for name, value in instrument.psf_fwhm if value is not None}
    return instrument.model_copy(update={"psf_fwhm": instrument.psf_fwhm.model_copy(update=fixed)})


def without_look(instrument: Instrument) -> Instrument:
    """Return the instrument that never varies: ranges at their middle, and nothing that only some looks have or lose.

    Views are judged through it (`train.data.dataset.why_not`), and mass units are taken from it.
    """

    def settled(noise: TracerNoise) -> TracerNoise:
        """Return a tracer's noise with every range at its middle, and nothing that only some looks lose."""
        numbers = {name: middle(value) for name, value in noise if isinstance(value, tuple)} | _NEEDS_A_LOOK
        numbers |= {name: none for name, none in _LOSSES.items() if _is_open(getattr(noise, name))}
        numbers |= {"kept_pixels": 1.0, "most_pixels": None} if noise.faded < 1 else {}
        numbers |= {"bin_to_kms": None} if noise.binned < 1 else {}
        return noise.model_copy(update=numbers)

    psf, footprint = instrument.psf_fwhm, instrument.footprint
    if psf:
        psf = psf.model_copy(update={name: middle(value) for name, value in psf if value is not None})
    if footprint:
        footprint = None if footprint.is_open() else footprint.model_copy(update={"offset_re": 0.0})
    fixed = {"psf_fwhm": psf, "footprint": footprint, "centre_error_re": 0.0, "unknown_psf": 0.0, "complete": 0.0}
    return instrument.model_copy(update=fixed | {"stars": settled(instrument.stars), "gas": settled(instrument.gas)})


#: What a look may lose, and what it has without a loss; and what cannot be had without random numbers.
_LOSSES = {
    "kept_pixels": 1.0,
    "most_pixels": None,
    "bin_to_kms": None,
    "no_dispersion": 0.0,
    "unknown_errors": 0.0,
    "correlated": 0.0,
    "no_density": 0.0,
}
_NEEDS_A_LOOK = {
    "lost_pixels": 0.0, "density_dex": 0.0, "particles": None, "binned": 1.0, "faded": 1.0, "holed": 1.0,
    "uncertain_density": 1.0, "thinned": 1.0,
}  # fmt: skip


def _is_open(value: object) -> bool:
    return isinstance(value, tuple) or (isinstance(value, float) and 0 < value < 1)


def fixed_look(galaxy: str, view: int, pixels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the choices (CHOICES,) and normal numbers (MAPS, P, P) of the look that every evaluation takes at a view.

    galaxy: its name with that of its suite, as `physics.sightline.within` joins them.
    """
    rng = view_rng(seed + 3_000_017, galaxy, view)
    return rng.random(CHOICES, np.float32), rng.standard_normal((MAPS, pixels, pixels), np.float32)


def fixed_looks(names: list[tuple[str, int]], pixels: int) -> Look:
    """Return the looks that every evaluation takes at views (galaxy, view); pixels are those of the stored maps."""
    looks = [fixed_look(*name, pixels) for name in names]
    choices = torch.from_numpy(np.stack([look[0] for look in looks]))
    return Look(choices, torch.from_numpy(np.stack([look[1] for look in looks])))


def fixed_noise(galaxy: str, view: int, pixels: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers (4, P, P) that depend on the view only: the noise that every evaluation adds to it.

    galaxy: its name with that of its suite, as `physics.sightline.within` joins them.
    """
    rng = view_rng(seed + 1_000_003, galaxy, view)
    return rng.standard_normal((4, pixels, pixels), dtype=np.float32)
