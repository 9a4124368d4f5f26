"""The particles of one galaxy as plain arrays, into which every archive is read."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Particles:
    """N particles of one component.

    pos_kpc (N, 3), vel_kms (N, 3), mass_msun (N,), all float64; velocities of dark matter and black holes are not read
    from snapshots, and NaN there. Snapshots give positions and velocities in Fortran
    order (column by column in memory), the order in which the projection reads them. support_kpc (N,) is the radius
    at which each particle's smoothing kernel reaches zero; None where there are no kernels. weight (N,) is what maps
    weigh each particle by (light, HI mass, 0 for a particle that is not seen); None means by mass. side_kpc (N,) is the
    side of the cube that each "particle" fills where it is a cell of an adaptive grid: pos_kpc is the cell's centre,
    its edges lie along the axes of the coordinates; None where there are no cells.

    >>> two = Particles(np.array([[1.0, 0, 0], [0, 2.0, 0]]), np.zeros((2, 3)), np.array([1e6, 3e6]))
    >>> len(two), two[two.mass_msun > 2e6].pos_kpc.tolist()
    (2, [[0.0, 2.0, 0.0]])
    """

    pos_kpc: np.ndarray
    vel_kms: np.ndarray
    mass_msun: np.ndarray
    support_kpc: np.ndarray | None = None
    weight: np.ndarray | None = None
    side_kpc: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.mass_msun)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Particles":
        rows = np.arange(len(self))[chosen]
        return Particles(
            self.pos_kpc.T.take(rows, axis=1).T,  # several times faster than by a mask, one axis after the other
            self.vel_kms.T.take(rows, axis=1).T if any(self.vel_kms.strides) else unmoved(len(rows)),
            self.mass_msun[rows],
            None if self.support_kpc is None else self.support_kpc[rows],
            None if self.weight is None else self.weight[rows],
            None if self.side_kpc is None else self.side_kpc[rows],
        )


def empty() -> Particles:
    """Particles of a component that has none."""
    return Particles(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))


def unmoved(n: int) -> np.ndarray:
    """Velocities (n, 3) that nobody reads, as of dark matter: NaN, which take no memory."""
    return np.broadcast_to(np.nan, (n, 3))


def wrapped(offset_kpc: np.ndarray, box_kpc: float | None) -> np.ndarray:
    """Return the shortest periodic images of offsets (..., 3) [kpc] in a box of this side; None stands for no box."""
    return offset_kpc if box_kpc is None else offset_kpc - box_kpc * np.round(offset_kpc / box_kpc)


def concatenate(parts: list[Particles]) -> Particles:
    """Join several components into one; a single non-empty component is returned without a copy.

    Kernel supports, and sides of cells, are kept only when every non-empty part has them. If any part has weights,
    parts without weights are weighed by their masses.
    """
    parts = [p for p in parts if len(p)] or [empty()]
    if len(parts) == 1:
        return parts[0]
    supports = [p.support_kpc for p in parts if p.support_kpc is not None]
    sides = [p.side_kpc for p in parts if p.side_kpc is not None]
    weighted = any(p.weight is not None for p in parts)
    return Particles(
        np.concatenate([p.pos_kpc.T for p in parts], axis=1).T,
        np.concatenate([p.vel_kms.T for p in parts], axis=1).T
        if any(any(p.vel_kms.strides) for p in parts)
        else unmoved(sum(map(len, parts))),
        np.concatenate([p.mass_msun for p in parts]),
        np.concatenate(supports) if len(supports) == len(parts) else None,
        np.concatenate([p.mass_msun if p.weight is None else p.weight for p in parts]) if weighted else None,
        np.concatenate(sides) if len(sides) == len(parts) else None,
    )


def is_within(p: Particles, radius_kpc: float) -> np.ndarray:
    """Tell which particles (N,) lie within a radius of the origin."""
    return np.einsum("ij,ij->i", p.pos_kpc, p.pos_kpc) <= radius_kpc**2  # type: ignore[no-any-return]


def within(p: Particles, radius_kpc: float) -> Particles:
    """The particles within a radius of the origin; without a copy where that is all of them."""
    inside = is_within(p, radius_kpc)
    return p if inside.all() else p[inside]


@dataclass(frozen=True)
class Galaxy:
    """One galaxy about its centre: its stars and gas (the tracers), its dark matter and its black holes.

    Velocities may hold a motion of its own, which `gen.campaign.record.frame_of` finds.

    high_res_fraction: share of its dark mass that is not in low-resolution particles, which surround a zoom.
    """

    stars: Particles
    gas: Particles
    dark: Particles
    black_holes: Particles
    high_res_fraction: float = 1.0

    def components(self) -> dict[str, Particles]:
        """Particles by the name of their component, in the order of the store."""
        return {"dark": self.dark, "stars": self.stars, "gas": self.gas, "black_holes": self.black_holes}
