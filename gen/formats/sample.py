"""A sample of a snapshot's particles, of bounded size: the counts of its headers, and blocks spread over its files."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

#: Most blocks that are read from one file: few, because each may need a whole chunk of the dataset.
MAX_BLOCKS = 16
#: Most files that are read of a snapshot in many files.
MAX_FILES = 16


@dataclass(frozen=True)
class Sample:
    """Some particles of one type in code units: pos (n, 3), vel (n, 3), which is 0 where a file has none, mass (n,).

    count is the number of all particles of the type. fields are the names of its fields, as `gen.snapshots` knows
    them. formed (n,) is the formation time, where the file has the one that `Format.are_stars` needs.
    """

    count: int
    pos: np.ndarray
    vel: np.ndarray
    mass: np.ndarray
    fields: frozenset[str] = frozenset()
    formed: np.ndarray | None = None

    def __getitem__(self, mask: np.ndarray) -> "Sample":
        """Return the particles that a mask (n,) chooses, with `count` scaled by the share chosen, without `formed`."""
        count = round(self.count * np.count_nonzero(mask) / max(len(mask), 1))
        return Sample(count, self.pos[mask], self.vel[mask], self.mass[mask], self.fields)

    @property
    def is_whole(self) -> bool:
        """Tell whether the sample has all particles of the type."""
        return len(self.mass) == self.count


def blocks(n: int, max_entries: int) -> list[slice]:
    """Return slices of range(n) with `max_entries` entries or a few more: all, or evenly spaced ones of equal size."""
    if n <= max_entries:
        return [slice(0, n)] if n else []
    n_blocks = min(MAX_BLOCKS, max_entries)
    block_size = -(-max_entries // n_blocks)
    return [slice(start, start + block_size) for start in np.linspace(0, n - block_size, n_blocks).astype(int).tolist()]


def take(read: Callable[[slice], np.ndarray], n: int, max_entries: int) -> np.ndarray:
    """Read `max_entries` of n entries, or a few more, in `blocks`, as float64."""
    with np.errstate(invalid="ignore"):  # what is no number is looked for afterwards
        return np.concatenate([np.asarray(read(b), dtype=np.float64) for b in blocks(n, max_entries)])


def from_hdf5(files: list[Path], max_particles: int, formed: str, types: Collection[str] | None) -> dict[str, Sample]:
    """Sample each particle type of staged files, about `max_particles` of each; only `types` where given.

    formed is the name of the dataset with the stars' formation times.
    """
    samples_by_type: dict[str, list[Sample]] = {}
    counts: dict[str, int] = {}
    sampled_files = {files[i] for i in np.linspace(0, len(files) - 1, min(MAX_FILES, len(files))).astype(int)}
    for path in files:
        with h5py.File(path, "r") as file:
            mass_table = np.ravel(file["Header"].attrs["MassTable"])
            counts_in_file = {
                f"PartType{i}": int(n) for i, n in enumerate(file["Header"].attrs["NumPart_ThisFile"]) if n
            }
            for ptype, n in counts_in_file.items():
                if types is not None and ptype not in types:
                    continue
                counts[ptype] = counts.get(ptype, 0) + n
                if path in sampled_files:
                    samples_by_type.setdefault(ptype, []).append(
                        _sample_group(
                            file[ptype], n, -(-max_particles // len(sampled_files)), mass_table[int(ptype[-1])], formed
                        )
                    )
    return {ptype: _join_samples(counts[ptype], parts) for ptype, parts in samples_by_type.items()}


def _sample_group(group: h5py.Group, n: int, max_particles: int, table_mass: float, formed: str) -> Sample:
    pos = take(group["Coordinates"].__getitem__, n, max_particles)
    vel = take(group["Velocities"].__getitem__, n, max_particles) if "Velocities" in group else np.zeros_like(pos)
    mass = take(group["Masses"].__getitem__, n, max_particles) if "Masses" in group else np.full(len(pos), table_mass)
    formation_time = take(group[formed].__getitem__, n, max_particles) if formed in group else None
    fields = frozenset([*group, *(["Masses"] if table_mass else [])])
    return Sample(n, pos, vel, mass, fields, formation_time)


def _join_samples(count: int, parts: list[Sample]) -> Sample:
    pos, vel, mass = (np.concatenate([getattr(p, name) for p in parts]) for name in ("pos", "vel", "mass"))
    formed = [p.formed for p in parts if p.formed is not None]
    return Sample(count, pos, vel, mass, parts[0].fields, np.concatenate(formed) if len(formed) == len(parts) else None)
