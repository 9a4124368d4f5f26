"""Draws maps and mass profiles: in which colours, between which limits and with which units is said here once.

Figures are made without pyplot, which keeps every figure that it makes and may not be used by several threads.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator, NullFormatter

from kinmass.gen.storage.store import COMPONENTS, TRACERS

# P pixels along a side, K radii
#: Colour-blind safe (Okabe & Ito 2008), the same for a tracer in every figure.
TRACER_COLOUR = {"gas": "#0072B2", "stars": "#D55E00", "both": "#009E73"}
_COMPONENT_STYLE: dict[str, dict[str, Any]] = {
    "total": {"color": "k", "lw": 2.2}, "dark": {"color": "#555555", "ls": "--"},
    "stars": {"color": TRACER_COLOUR["stars"], "ls": "-."}, "gas": {"color": TRACER_COLOUR["gas"], "ls": ":"},
}  # fmt: skip
#: Densities that are fainter than the brightest pixel by more than this are drawn in the faintest colour [dex].
DEEPEST_DEX = 5.0
#: Where a map shows nothing.
_EMPTY = "#e4e4e4"
_OUTLINE: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=2.5, foreground="w")]


@dataclass(frozen=True)
class Quantity:
    """What one channel of the maps holds: of which tracer, its symbol and unit, and the colour map it is drawn in.

    The maps' colours are even in brightness and can be told apart by the colour-blind.
    """

    tracer: str
    symbol: str
    unit: str
    colours: str

    def title(self, unit: str | None = None) -> str:
        """Return tracer, symbol and unit, in matplotlib's notation; `unit` stands in place of its own."""
        unit = self.unit if unit is None else unit
        return f"{self.tracer}: {self.symbol}" + (f" [{unit}]" if unit else "")


_PER_AREA = "M$_\\odot$ kpc$^{-2}$"
#: The channels that are drawn, by their number in the maps; the others are counts, or masks of valid pixels.
QUANTITIES = {
    4 * t + i: Quantity(tracer, symbol, unit, colours)
    for t, tracer in enumerate(TRACERS)
    for i, (symbol, unit, colours) in enumerate(
        (("log $\\Sigma$", _PER_AREA, "inferno"), ("V", "km/s", "RdBu_r"), ("$\\sigma$", "km/s", "viridis"))
    )
}


def shown(maps: np.ndarray, channel: int) -> np.ndarray:
    """Return the values (P, P) that are drawn of one channel of a view's maps (8, P, P): NaN where nothing is seen.

    Densities are log10. A pixel counts as seen where the tracer's fourth channel, its count or its mask, is above zero.
    """
    image = np.asarray(maps[channel], dtype=float)
    if channel % 4 == 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            image = np.where(image > 0, np.log10(image), np.nan)
    return np.where(_is_seen(maps, channel // 4), image, np.nan)


def _is_seen(maps: np.ndarray, t: int) -> np.ndarray:
    """Pixels (P, P) with something of the stars (t = 0) or the gas (1) in them.

    Gas that is smoothed over many pixels is counted in one alone, so its density counts as well.
    """
    return np.asarray((maps[4 * t + 3] > 0) | (maps[4 * t] > 0))


def colour_limits(image: np.ndarray, channel: int) -> tuple[float, float]:
    """Return the values at both ends of the colours of an image (P, P) from `shown`.

    V: the same on both sides of zero, so that no colour lies at rest. Outliers, 2 % of V and half a per cent at
    either end of sigma, do not count.
    """
    finite = image[np.isfinite(image)]
    if not len(finite):
        return (-1.0, 1.0) if channel % 4 == 1 else (0.0, 1.0)
    if channel % 4 == 1:
        limit = float(np.percentile(np.abs(finite), 98)) or 1.0
        return -limit, limit
    high = float(finite.max() if channel % 4 == 0 else np.percentile(finite, 99.5))
    low = max(float(finite.min()), high - DEEPEST_DEX) if channel % 4 == 0 else float(np.percentile(finite, 0.5))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def draw_map(
    axis: Axes,
    maps: np.ndarray,
    channel: int,
    half_width_kpc: float,
    r_e_kpc: float | None = None,
    psf_fwhm_kpc: float = 0.0,
    unit: str | None = None,
) -> AxesImage:
    """Draw one channel of a view's maps (8, P, P) with its colour bar, R_e as a circle, the PSF and a scale bar.

    unit: that of the density where it is not Msun/kpc^2. Returns the image, whose array is `shown`.
    """
    quantity, image = QUANTITIES[channel], np.ma.masked_invalid(shown(maps, channel))
    low, high = colour_limits(image.filled(np.nan), channel)
    extent = (-half_width_kpc, half_width_kpc, -half_width_kpc, half_width_kpc)
    colours = matplotlib.colormaps[quantity.colours]
    artist = axis.imshow(image, origin="lower", extent=extent, cmap=colours, vmin=low, vmax=high)
    axis.set(title=quantity.title(unit), xticks=[], yticks=[], facecolor=_EMPTY)
    if image.mask.all():
        words = "not measured" if (maps[channel - channel % 4 + 3] > 0).any() else f"no {quantity.tracer}\nseen"
        axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes)
        artist.set_visible(False)
        return artist
    assert axis.figure is not None
    is_cut = image.min() < low - 1e-9, image.max() > high + 1e-9
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(is_cut, "both")
    bar = axis.figure.colorbar(artist, ax=axis, fraction=0.046, pad=0.03, extend=extend)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    if r_e_kpc:
        axis.add_patch(Circle((0, 0), r_e_kpc, fill=False, ec="w", lw=2.6, alpha=0.8))
        axis.add_patch(Circle((0, 0), r_e_kpc, fill=False, ec="k", lw=1.1, ls="--"))
    if psf_fwhm_kpc:
        place = -half_width_kpc + 0.06 * half_width_kpc + 0.5 * psf_fwhm_kpc
        axis.add_patch(Circle((place, place), 0.5 * psf_fwhm_kpc, fc="0.6", ec="k", lw=1, hatch="////"))
    _scale_bar(axis, half_width_kpc)
    return artist


def _scale_bar(axis: Axes, half_width_kpc: float) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten [kpc], a third of the map's side at most, in its lower right."""
    longest = 0.66 * half_width_kpc
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(x * power for x in (1, 2, 5) if x * power <= longest)
    right, y = 0.93 * half_width_kpc, -0.90 * half_width_kpc
    for width, colour in ((5, "w"), (2.2, "k")):
        axis.plot([right - length, right], [y, y], color=colour, lw=width, solid_capstyle="butt")
    text = axis.text(right - 0.5 * length, y + 0.07 * half_width_kpc, f"{length:g} kpc", ha="center", va="bottom")
    text.set_path_effects(_OUTLINE)
    axis.set(xlim=(-half_width_kpc, half_width_kpc), ylim=(-half_width_kpc, half_width_kpc))


def draw_profile(axis: Axes, radius_kpc: np.ndarray, mass_msun: np.ndarray, r_e_kpc: Iterable[float] = ()) -> None:
    """Draw the true M(<r) of every component, mass (4, K) [Msun] at radius (K,) [kpc], and R_e of some views."""
    for component, mass in zip(COMPONENTS, mass_msun, strict=True):
        if (mass > 0).any():
            axis.plot(radius_kpc, np.where(mass > 0, mass, np.nan), label=component, **_COMPONENT_STYLE[component])
    for i, r_e in enumerate(dict.fromkeys(f"{r:.6g}" for r in r_e_kpc)):
        axis.axvline(float(r_e), color="0.6", lw=1, label="R$_e$" if i == 0 else None, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="r [kpc]", ylabel="M(<r) [M$_\\odot$]")
    plain_radii(axis, float(radius_kpc[0]), float(radius_kpc[-1]))
    axis.legend(frameon=False, fontsize="small")


def plain_radii(axis: Axes, low: float, high: float) -> None:
    """Label a logarithmic axis of radii [kpc] with plain numbers."""
    ticks = [x * 10.0**p for p in range(-3, 5) for x in (1, 2, 5) if low <= x * 10.0**p <= high]
    radius_axis(axis, ticks[:: 1 + len(ticks) // 8])


def radius_axis(axis: Axes, ticks: Sequence[float] = (0.3, 0.5, 1, 2, 3)) -> None:
    """Make the x axis a logarithmic radius with a few plain labels."""
    axis.set_xscale("log")
    axis.set_xticks(list(ticks), labels=[f"{x:g}" for x in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())


def tile(maps: np.ndarray) -> np.ndarray:
    """Return a small picture (2 P + 1, 2 P + 1, 4), RGBA from 0 to 255, of a view's stored maps (8, P, P).

    Density and V of the stars above those of the gas, pixel by pixel, in the colours of `draw_map`; row 0 is the top.
    """
    pixels = maps.shape[-1]
    picture = np.full((2 * pixels + 1, 2 * pixels + 1, 4), 255, dtype=np.uint8)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 4), (1, 1, 5)):
        y, x = row * (pixels + 1), column * (pixels + 1)
        picture[y : y + pixels, x : x + pixels] = coloured(shown(maps, channel), channel)[::-1]
    return picture


def coloured(image: np.ndarray, channel: int) -> np.ndarray:
    """Return the colours (P, P, 4), from 0 to 255, of an image (P, P) from `shown`."""
    low, high = colour_limits(image, channel)
    scale = matplotlib.colors.Normalize(low, high, clip=True)
    colours = matplotlib.colormaps[QUANTITIES[channel].colours].with_extremes(bad=_EMPTY)
    return np.asarray(colours(scale(np.ma.masked_invalid(image)), bytes=True))


def density_unit(config: dict[str, Any], tracer: str) -> str | None:
    """Return the unit of a tracer's density in a store whose config this is; None for Msun/kpc^2."""
    tracers = config.get("suite", {}).get("tracers", {})
    by_light = tracer == "stars" and tracers.get("stars") == "light"
    return "units of light kpc$^{-2}$" if by_light else None
