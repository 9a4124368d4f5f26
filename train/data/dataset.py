"""Reads a map store as tensors, split by galaxy into parts to train, validate and test on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from kinmass.gen.instruments.looks import fixed_looks, fixed_noise
from kinmass.gen.instruments.model import FEWEST_PIXELS, Instrument
from kinmass.gen.instruments.observe import observe
from kinmass.gen.physics.profile import menc_at
from kinmass.gen.physics.sightline import within
from kinmass.gen.storage import store
from kinmass.gen.storage.galaxy_reader import read_galaxies
from kinmass.train.model.scaling import has_motion, tracers_of

#: The ten radii of the profile in units of R_e, equal steps in log r.
RADII_RE = tuple(float(x) for x in np.round(np.geomspace(0.3, 3.0, 10), 6))
#: Shares of galaxies in each part of the split.
SPLIT = {"train": 0.75, "val": 0.10, "test": 0.15}
#: Least share of pixels in which a tracer has to be seen: with fewer, its velocity scale is mostly noise. Of an
#: instrument that loses more than the faintest pixels they are FEWEST_PIXELS.
MIN_VALID_SHARE = 0.06


def part_of(lineage: str) -> str:
    """Return the part of the split (train, val or test) that a galaxy's lineage is in.

    It follows from a hash of the lineage's name alone, so that it is the same in every store and run.
    """
    digest = hashlib.blake2b(lineage.encode(), digest_size=8).digest()
    position, upper_edge = int.from_bytes(digest, "little") / 2**64, 0.0
    for part, share in SPLIT.items():
        upper_edge += share
        if position < upper_edge:
            return part
    return "test"


@dataclass
class Views:
    """N views of galaxies. `galaxy` (N,) and `suite` (N,) hold names, `view` (N,) the view's number in its galaxy.

    lineage (N,) names the history of which a galaxy is one snapshot; galaxies of one lineage are not independent.
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

    def __getitem__(self, rows: np.ndarray | Sequence[int] | slice | int) -> "Views":
        # By numpy, which refuses a list of True and False that is not as long as the views.
        indices = np.atleast_1d(np.arange(len(self))[rows])
        of_tensors = torch.from_numpy(indices)
        columns = self.columns().items()
        return replace(self, **{n: x[of_tensors if isinstance(x, torch.Tensor) else indices] for n, x in columns})

    def columns(self) -> dict[str, Any]:
        """Return the arrays and tensors (N, ...) by their names."""
        return {name: column for name, column in vars(self).items() if name != "field_of_view_re"}

    def names(self) -> list[tuple[str, int]]:
        """Return (suite/galaxy, view) of every view; random numbers depend on these names."""
        return [
            (within(suite, galaxy), int(view))
            for suite, galaxy, view in zip(self.suite, self.galaxy, self.view, strict=True)
        ]

    def lineages(self) -> np.ndarray:
        """Return suite/lineage (N,) of every view: names by which independent histories are counted and drawn."""
        return np.array([within(*names) for names in zip(self.suite, self.lineage, strict=True)], dtype=object)

    def ids(self) -> list[str]:
        """Return a name for every view, for messages."""
        return [f"{galaxy} view {view}" for galaxy, view in self.names()]

    def observed(self, instrument: Instrument, noisy: bool = True, told: bool = False) -> torch.Tensor:
        """Return maps (N, 8, Q, Q) as the instrument sees them, with each view's fixed noise or (noisy False) none.

        Of an instrument that varies every view has a look of its own, which is fixed as its noise is. told: return
        (N, 18, Q, Q), with the channels of `gen.instruments.observe.TOLD`.
        """
        pixels, _ = instrument.grid(self.maps.shape[-1], self.field_of_view_re)
        names = self.names() if noisy else []
        noise = torch.stack([torch.from_numpy(fixed_noise(*name, pixels)) for name in names]) if names else None
        look = fixed_looks(names, self.maps.shape[-1]) if names and instrument.varies() else None
        return observe(self.maps, instrument, noise, self.field_of_view_re, self.half_mass_radius_kpc, look, told)


def read_views(path: Path | str, suite: str, part: str | None = None, rows: slice | None = None) -> Views:
    """Read all views of a suite's finished galaxies, of one part of the split or (None) of all parts.

    rows limits which galaxies are read. Raises StoreError for a store that cannot be used, ValueError for another part.

    >>> views = read_views("maps.zarr", "quiet")
    >>> len(views), views.log10_menc.shape  # two views of twelve galaxies, ten radii
    (24, torch.Size([24, 10]))
    """
    if part is not None and part not in SPLIT:
        raise ValueError(f"no part {part!r} of a split; there are {', '.join(SPLIT)}")
    group = store.open_suite(Path(path), suite)
    names, lineages = store.read_labels(group, "galaxy"), store.read_labels(group, "lineage")
    numbers = np.arange(len(names))[rows or slice(None)]
    done = store.read(group, "status", numbers) == store.DONE
    selected = numbers[
        done & np.array([part is None or part_of(str(x)) == part for x in lineages[numbers]], dtype=bool)
    ]
    return views_of(group, suite, selected, names[selected], lineages[selected])


def views_of(group: zarr.Group, suite: str, numbers: np.ndarray, names: np.ndarray, lineages: np.ndarray) -> Views:
    """Read all views of finished galaxies with `numbers` (G,) in a suite's group; names and lineages (G,) are theirs.

    Raises StoreError for one whose maps, R_e or masses cannot be read, or were deleted.
    """
    config = group.attrs["config"]
    n_views, pixels = config["views"], config["pixels"]
    keys = ("maps", "half_mass_radius", "radius", "mass")
    maps, r_e, radius, mass = arrays = read_galaxies(group, keys, numbers)
    for key, values in zip(keys, arrays, strict=True):
        store.require_written(group, key, values, names)
    profile_radii_kpc = r_e[..., None].astype(float) * np.array(RADII_RE)
    grid_radii_kpc = np.repeat(radius[:, None], n_views, axis=1)
    grid_masses = np.repeat(mass[:, None, 0], n_views, axis=1)
    log10_menc = menc_at(grid_radii_kpc, grid_masses, profile_radii_kpc)
    return Views(
        torch.from_numpy(maps.reshape(-1, 8, pixels, pixels)),
        torch.from_numpy(r_e.reshape(-1).astype(np.float32)),
        torch.from_numpy(log10_menc.reshape(-1, len(RADII_RE)).astype(np.float32)),
        np.repeat(names.astype(object), n_views),
        np.tile(np.arange(n_views), len(numbers)),
        np.full(len(numbers) * n_views, suite),
        np.repeat(lineages.astype(object), n_views),
        float(config["field_of_view_re"]),
    )


def concatenate(parts: list[Views]) -> Views:
    """Join views of several suites. Raises StoreError where their maps have different shapes."""
    first = parts[0]
    for views in parts:
        if views.maps.shape[1:] != first.maps.shape[1:] or views.field_of_view_re != first.field_of_view_re:
            raise store.StoreError(
                f"suites {first.suite[0]} and {views.suite[0]} have maps of different size; "
                "map them with the same settings"
            )
    joined: dict[str, Any] = {}
    for name, column in first.columns().items():
        of_parts = [getattr(views, name) for views in parts]
        joined[name] = torch.cat(of_parts) if isinstance(column, torch.Tensor) else np.concatenate(of_parts)
    return replace(first, **joined)


#: Why a view is left out: the first reason that holds counts. Number 0 stands for a view that is not left out.
REASONS = (
    "usable",
    "maps that are not finite",
    "empty maps",
    "too few pixels seen through the instrument",
    "a mass profile that is not finite, or nil at one of its radii",
    "no motion to scale masses by",
)


def why_not(views: Views, tracer: str, instrument: Instrument, observed: torch.Tensor | None = None) -> np.ndarray:
    """Return (N,) why each view is left out, as a number in REASONS; 0 for views that are usable.

    observed (N, 8, Q, Q): the views through the instrument, where they are known already; without it they are observed
    without noise. `both` and `any` need only one tracer that is seen in enough pixels: a galaxy without gas still has
    stars. But a number that is not finite counts in either tracer's maps, and the motion is that of the stars wherever
    one of their pixels is seen. Raises ValueError for an unknown tracer.
    """
    parts = []
    pixels, _ = instrument.grid(views.maps.shape[-1], views.field_of_view_re)
    least_pixels = FEWEST_PIXELS if instrument.sees_parts() else MIN_VALID_SHARE * pixels**2
    tracer_indices = [("stars", "gas").index(t) for t in tracers_of(tracer)]
    for start in range(0, len(views), 512):
        block = views[np.arange(start, min(start + 512, len(views)))]
        maps = block.observed(instrument, noisy=False) if observed is None else observed[start : start + 512]
        enough_pixels = maps[:, [3, 7]].sum((2, 3))[:, tracer_indices] >= least_pixels
        has_fault = (
            ~torch.isfinite(block.maps.flatten(1)).all(1),
            (block.maps[:, [0, 4]][:, tracer_indices] == 0).flatten(1).all(1),
            ~enough_pixels.any(1),
            ~torch.isfinite(block.log10_menc).all(1),
            ~has_motion(maps, tracers_of(tracer)),
        )
        reason = torch.zeros(len(block), dtype=torch.int8)
        for reason_number, has_this_fault in reversed(list(enumerate(has_fault, start=1))):
            reason[has_this_fault] = reason_number
        parts.append(reason)
    return torch.cat(parts).numpy() if parts else np.zeros(0, dtype=np.int8)


def usable(views: Views, tracer: str, instrument: Instrument, observed: torch.Tensor | None = None) -> np.ndarray:
    """Return (N,) True for views that are usable, as `why_not` says."""
    return why_not(views, tracer, instrument, observed) == 0
