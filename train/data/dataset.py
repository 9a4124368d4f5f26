"""A map store as tensors, split by galaxy."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr

from kinmass.gen.instrument import Instrument, fixed_noise, observe
from kinmass.gen.physics.profile import menc_at
from kinmass.gen.storage import store
from kinmass.train.model.scaling import tracers_of, velocity_scale

#: The ten radii of the profile in units of R_e, equal steps in log r.
RADII_RE = tuple(float(x) for x in np.round(np.geomspace(0.3, 3.0, 10), 6))
#: Shares of galaxies in each part of the split.
SPLIT = {"train": 0.75, "val": 0.10, "test": 0.15}
#: A tracer seen in a smaller share of the map says nothing: its velocity scale would be noise.
MIN_VALID_SHARE = 0.06


def part_of(lineage: str) -> str:
    """Which part of the split a galaxy's lineage is in: a hash of its name, so never a matter of order or run."""
    digest = hashlib.blake2b(lineage.encode(), digest_size=8).digest()
    at, edge = int.from_bytes(digest, "little") / 2**64, 0.0
    for part, share in SPLIT.items():
        edge += share
        if at < edge:
            return part
    return "test"


@dataclass
class Views:
    """N views of galaxies. `galaxy` (N,) holds names, `view` (N,) their numbers, `suite` (N,) suites.

    lineage (N,) names the history a galaxy is a moment of; galaxies of one lineage are not independent.
    maps (N, 8, P, P) as stored; half_mass_radius_kpc (N,); log10_menc (N, K) at RADII_RE [Msun].
    """

    maps: torch.Tensor
    half_mass_radius_kpc: torch.Tensor
    log10_menc: torch.Tensor
    galaxy: np.ndarray
    view: np.ndarray
    suite: np.ndarray
    lineage: np.ndarray
    field_of_view_re: float

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, rows: np.ndarray) -> "Views":
        at = torch.as_tensor(np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows)
        return Views(
            self.maps[at], self.half_mass_radius_kpc[at], self.log10_menc[at],
            self.galaxy[at.numpy()], self.view[at.numpy()], self.suite[at.numpy()], self.lineage[at.numpy()],
            self.field_of_view_re,
        )  # fmt: skip

    def names(self) -> list[tuple[str, int]]:
        """(galaxy, view) of every view, which random numbers follow."""
        return [(str(galaxy), int(view)) for galaxy, view in zip(self.galaxy, self.view, strict=True)]

    def ids(self) -> list[str]:
        """A name for every view, for messages."""
        return [f"{s}/{g} view {v}" for s, g, v in zip(self.suite, self.galaxy, self.view, strict=True)]

    def observed(self, look: Instrument, noisy: bool = True) -> torch.Tensor:
        """(N, 8, Q, Q) observed maps, with the fixed noise with which each view is evaluated or none."""
        pixels, _ = look.grid(self.maps.shape[-1], self.field_of_view_re)
        noise = [torch.from_numpy(fixed_noise(*name, pixels)) for name in (self.names() if noisy else ())]
        stacked = torch.stack(noise) if noise else None
        return observe(self.maps, look, stacked, self.field_of_view_re, self.half_mass_radius_kpc)


def read_views(path: Path, suite: str, part: str | None = None, rows: slice | None = None) -> Views:
    """All views of a suite's finished galaxies, of one part of the split or (None) of all.

    rows limits which galaxies are looked at. Raises StoreError for a store that cannot be used.

    >>> views = read_views(Path("maps.zarr"), "quiet")
    >>> len(views), views.log10_menc.shape  # two views of twelve galaxies, ten radii
    (24, torch.Size([24, 10]))
    """
    group = store.open_suite(path, suite)
    names, lineages = group["galaxy"][:], group["lineage"][:]
    number = np.arange(len(names))[rows or slice(None)]
    done = store.read(group, "status", number) == store.DONE
    mine = number[done & np.array([part is None or part_of(str(x)) == part for x in lineages[number]], dtype=bool)]
    return views_of(group, suite, mine, names[mine], lineages[mine])


def views_of(group: zarr.Group, suite: str, mine: np.ndarray, names: np.ndarray, lineages: np.ndarray) -> Views:
    """All views of the galaxies numbered `mine`, with their names and lineages."""
    config = group.attrs["config"]
    n_views, pixels = config["views"], config["pixels"]
    maps, r_e = store.read(group, "maps", mine), store.read(group, "half_mass_radius", mine)
    radii = r_e[..., None].astype(float) * np.array(RADII_RE)
    radius = np.repeat(store.read(group, "radius", mine)[:, None], n_views, axis=1)
    mass = np.repeat(store.read(group, "mass", mine)[:, None, 0], n_views, axis=1)
    log10_menc = menc_at(radius, mass, radii) if len(mine) else radii
    return Views(
        torch.from_numpy(maps.reshape(-1, 8, pixels, pixels)),
        torch.from_numpy(r_e.reshape(-1).astype(np.float32)),
        torch.from_numpy(log10_menc.reshape(-1, len(RADII_RE)).astype(np.float32)),
        np.repeat(names.astype(object), n_views),
        np.tile(np.arange(n_views), len(mine)),
        np.full(len(mine) * n_views, suite),
        np.repeat(lineages.astype(object), n_views),
        float(config["field_of_view_re"]),
    )


def concatenate(parts: list[Views]) -> Views:
    """Several suites as one. Raises StoreError when their maps have different shapes."""
    first = parts[0]
    for p in parts:
        if p.maps.shape[1:] != first.maps.shape[1:] or p.field_of_view_re != first.field_of_view_re:
            raise store.StoreError(
                f"suites {first.suite[0]} and {p.suite[0]} have maps of different size; map them with the same settings"
            )
    return Views(
        torch.cat([p.maps for p in parts]),
        torch.cat([p.half_mass_radius_kpc for p in parts]),
        torch.cat([p.log10_menc for p in parts]),
        np.concatenate([p.galaxy for p in parts]),
        np.concatenate([p.view for p in parts]),
        np.concatenate([p.suite for p in parts]),
        np.concatenate([p.lineage for p in parts]),
        first.field_of_view_re,
    )


#: Why a view is left out, in the order in which it is looked for; the first is no reason.
REASONS = (
    "usable",
    "maps that are not finite",
    "empty maps",
    "too few pixels seen through the instrument",
    "a mass profile that is not finite, or nil at one of its radii",
    "no motion to scale masses by",
)


def why_not(views: Views, tracer: str, look: Instrument, observed: torch.Tensor | None = None) -> np.ndarray:
    """(N,) number in REASONS of why a view is left out, 0 for those that are usable.

    observed: the views through the instrument, where they are at hand. `both` needs one tracer that is seen in
    enough pixels: a galaxy without gas still has stars.
    """
    parts = []
    mine = [("stars", "gas").index(t) for t in tracers_of(tracer)]
    for start in range(0, len(views), 512):
        some = views[np.arange(start, min(start + 512, len(views)))]
        maps = some.observed(look, noisy=False) if observed is None else observed[start : start + 512]
        seen = maps[:, [3, 7]].mean((2, 3))[:, mine] >= MIN_VALID_SHARE
        wrong = (
            ~torch.isfinite(some.maps.flatten(1)).all(1),
            (some.maps[:, [0, 4]][:, mine] == 0).flatten(1).all(1),
            ~seen.any(1),
            ~torch.isfinite(some.log10_menc).all(1),
            ~(velocity_scale(maps, tracers_of(tracer)) > 0),
        )
        why = torch.zeros(len(some), dtype=torch.int8)
        for number, here in reversed(list(enumerate(wrong, start=1))):
            why[here] = number
        parts.append(why)
    return torch.cat(parts).numpy() if parts else np.zeros(0, dtype=np.int8)


def usable(views: Views, tracer: str, look: Instrument, observed: torch.Tensor | None = None) -> np.ndarray:
    """(N,) True where every tracer has enough valid pixels through the instrument, and all is finite."""
    return why_not(views, tracer, look, observed) == 0
