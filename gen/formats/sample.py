"""A bounded look at a snapshot's particles: what headers promise, and blocks spread over its files."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

#: Stretches of a file that a sample is taken from: few, for each may cost a chunk.
BLOCKS = 16
#: Files of a snapshot in many that a sample is taken from.
FILES = 16


@dataclass(frozen=True)
class Sample:
    """Some particles of one type in code units: pos (n, 3), vel (n, 3), mass (n,); count is how many there are in all.

    fields are the names that the type has in the file, as `gen.snapshots` knows them. formed (n,) is when stars formed,
    where the file tells stars from what only goes as stars by it (`Format.are_stars`).
    """

    count: int
    pos: np.ndarray
    vel: np.ndarray
    mass: np.ndarray
    fields: frozenset[str] = frozenset()
    formed: np.ndarray | None = None

    def __getitem__(self, mask: np.ndarray) -> "Sample":
        """The part of the sample that a mask (n,) chooses; of the type that share is counted."""
        count = round(self.count * np.count_nonzero(mask) / max(len(mask), 1))
        return Sample(count, self.pos[mask], self.vel[mask], self.mass[mask], self.fields)

    @property
    def is_whole(self) -> bool:
        """Whether these are all particles of the type."""
        return len(self.mass) == self.count


def blocks(n: int, most: int) -> list[slice]:
    """Slices of range(n) that hold `most` entries or a few more: all, or stretches of equal size evenly apart."""
    if n <= most:
        return [slice(0, n)] if n else []
    pieces = min(BLOCKS, most)
    size = -(-most // pieces)
    return [slice(start, start + size) for start in np.linspace(0, n - size, pieces).astype(int).tolist()]


def take(read: Callable[[slice], np.ndarray], n: int, most: int) -> np.ndarray:
    """The entries of some blocks, as float64."""
    return np.concatenate([np.asarray(read(b), dtype=np.float64) for b in blocks(n, most)])


def from_hdf5(files: list[Path], most: int, formed: str, types: Collection[str] | None = None) -> dict[str, Sample]:
    """Samples of each particle type of staged files, `most` of each or a few more; of types alone where given.

    formed names the dataset that says when stars formed.
    """
    found: dict[str, list[Sample]] = {}
    counts: dict[str, int] = {}
    chosen = {files[i] for i in np.linspace(0, len(files) - 1, min(FILES, len(files))).astype(int)}
    for path in files:
        with h5py.File(path, "r") as file:
            table = np.ravel(file["Header"].attrs["MassTable"])
            here = {f"PartType{i}": int(n) for i, n in enumerate(file["Header"].attrs["NumPart_ThisFile"]) if n}
            for ptype, n in here.items():
                if types is not None and ptype not in types:
                    continue
                counts[ptype] = counts.get(ptype, 0) + n
                if path in chosen:
                    found.setdefault(ptype, []).append(
                        _of_group(file[ptype], n, -(-most // len(chosen)), table[int(ptype[-1])], formed)
                    )
    return {ptype: _joined(counts[ptype], parts) for ptype, parts in found.items()}


def _of_group(group: h5py.Group, n: int, most: int, table_mass: float, formed: str) -> Sample:
    pos, vel = (take(group[name].__getitem__, n, most) for name in ("Coordinates", "Velocities"))
    mass = take(group["Masses"].__getitem__, n, most) if "Masses" in group else np.full(len(pos), table_mass)
    when = take(group[formed].__getitem__, n, most) if formed in group else None
    return Sample(n, pos, vel, mass, frozenset(group), when)


def _joined(count: int, parts: list[Sample]) -> Sample:
    pos, vel, mass = (np.concatenate([getattr(p, name) for p in parts]) for name in ("pos", "vel", "mass"))
    formed = [p.formed for p in parts if p.formed is not None]
    return Sample(count, pos, vel, mass, parts[0].fields, np.concatenate(formed) if len(formed) == len(parts) else None)
