"""Writes small outputs of Enzo in its own layout: grids of several sizes, in the order of its recursive writer.

Layout: Enzo's WriteDataHierarchy, Grid_Group_WriteGrid and WriteParameterFile.
"""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.octree import Gas, in_unit_cube
from kinmass.gen.physics.particles import Galaxy, Particles

OMEGA_M, OMEGA_L, Z_FIRST = 0.3089, 0.6911, 99.0
#: Density of cells without gas, over that of the mean matter.
FLOOR = 1e-12


@dataclass
class _Grid:
    """A grid: its level (0 is the root), first cell (3,) on the lattice of its level, cells (3,), children, number."""

    level: int
    first: np.ndarray
    shape: np.ndarray
    children: list["_Grid"] = field(default_factory=list)
    number: int = 0


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
    files: int = 2,
    root: int = 16,
    finest: int = 8,
    per_cell: int = 8,
) -> None:
    """Write a cosmological output of Enzo; path is its parameter file.

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)). Gas is put into grids, two at the root of root^3 cells
    together, which are refined up to level `finest` where a cell would have more than per_cell gas particles. Black
    holes are not written.
    """
    from yt.frontends.enzo.misc import cosmology_get_units

    z = 1 / scale_factor - 1
    box_mpc_h = box_kpc / 1000 / scale_factor * hubble
    units = cosmology_get_units(hubble, OMEGA_M, box_mpc_h, Z_FIRST, z)
    mass_msun, velocity_kms = units["urho"] * (box_kpc * KPC_CM) ** 3 / MSUN_G, units["uvel"] / KMS_CM_S

    def joined(name: str) -> Particles:
        """Join one component of all galaxies in code units."""
        return in_unit_cube(galaxies, name, box_kpc, velocity_kms, mass_msun)

    gas = joined("gas")
    levels = [Gas.of(gas.pos_kpc, gas.vel_kms, gas.mass_msun, root << level) for level in range(finest + 1)]
    half = np.array([root // 2, root, root])
    tops = [_Grid(0, np.array([i * root // 2, 0, 0]), half) for i in range(2)]
    for top in tops:
        _refine(top, levels, per_cell)
    ordered: list[_Grid] = []
    text = _hierarchy(tops, ordered)
    counts = _write_data(path, ordered, levels, joined("stars"), joined("dark"), root, files)
    _write_hierarchy(path, text, counts, root, files)
    _write_parameters(path, units, box_mpc_h, z, hubble, root)


def _refine(grid: _Grid, levels: list[Gas], per_cell: int) -> None:
    """Give a grid children: runs along x of cells with too much gas."""
    if grid.level + 1 >= len(levels):
        return
    crowded = levels[grid.level].counts_in(grid.first, grid.shape) > per_cell
    for y, z in zip(*np.nonzero(crowded.any(axis=0)), strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], crowded[:, y, z].astype(int), [0]])))
        for begin, end in edges.reshape(-1, 2):
            first = 2 * (grid.first + np.array([begin, y, z]))
            child = _Grid(grid.level + 1, first, np.array([2 * (end - begin), 2, 2]))
            grid.children.append(child)
            _refine(child, levels, per_cell)


def _hierarchy(siblings: list[_Grid], ordered: list[_Grid], at: int = 0) -> list[tuple[_Grid | None, str]]:
    """Number the grids as Enzo's recursion does, and list grids and the pointers between them in the file's order."""
    grid = siblings[at]
    ordered.append(grid)
    grid.number = len(ordered)
    lines: list[tuple[_Grid | None, str]] = [(grid, "")]
    following = len(ordered) + 1 if at + 1 < len(siblings) else 0
    lines.append((None, f"Pointer: Grid[{grid.number}]->NextGridThisLevel = {following} "))
    if following:
        lines += _hierarchy(siblings, ordered, at + 1)
    below = len(ordered) + 1 if grid.children else 0
    lines.append((None, f"Pointer: Grid[{grid.number}]->NextGridNextLevel = {below} "))
    return lines + (_hierarchy(grid.children, ordered) if below else [])


def _holders(ordered: list[_Grid], pos: np.ndarray, root: int) -> np.ndarray:
    """Index (N,) of the finest grid that holds each point of the unit cube (N, 3)."""
    holder = np.zeros(len(pos), dtype=int)
    for index in np.argsort([grid.level for grid in ordered], kind="stable"):
        grid = ordered[index]
        place = pos * (root << grid.level)
        holder[((place >= grid.first) & (place < grid.first + grid.shape)).all(axis=1)] = index
    return holder


def _write_data(
    path: Path, ordered: list[_Grid], levels: list[Gas], stars: Particles, dark: Particles, root: int, files: int
) -> np.ndarray:
    """Write the data files: fields of cells as [z, y, x], particles' masses as densities of their grid's cells.

    One tracer without mass lies with the first star. Returns the number of particles (grids,) of each grid.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pos, vel = (np.concatenate([getattr(p, name) for p in (dark, stars, stars[:1])]) for name in ("pos_kpc", "vel_kms"))
    mass = np.concatenate([dark.mass_msun, stars.mass_msun, np.zeros(min(len(stars), 1))])
    kind = np.repeat([1, 2, 3], [len(dark), len(stars), min(len(stars), 1)])
    holder = _holders(ordered, pos, root)
    for number in range(files):
        with h5py.File(path.with_name(f"{path.name}.cpu{number:04d}"), "w") as file:
            for index in range(number, len(ordered), files):
                grid, own = ordered[index], holder == index
                group = file.create_group(f"Grid{grid.number:08d}")
                density, velocity = levels[grid.level].cells(grid.first, grid.shape, FLOOR)
                group["Density"] = density.T
                group["Temperature"] = np.full(density.T.shape, 1e4)
                for i, axis in enumerate("xyz"):
                    group[f"{axis}-velocity"] = velocity[..., i].T
                    if own.any():
                        group[f"particle_position_{axis}"] = pos[own, i]
                        group[f"particle_velocity_{axis}"] = vel[own, i]
                if own.any():
                    group["particle_mass"] = mass[own] * float(root << grid.level) ** 3
                    group["particle_type"], group["particle_index"] = kind[own], np.flatnonzero(own)
                    group["creation_time"] = np.where(kind[own] == 2, 3.0, 0.0)
    return np.bincount(holder, minlength=len(ordered))


def _write_hierarchy(
    path: Path, lines: list[tuple[_Grid | None, str]], counts: np.ndarray, root: int, files: int
) -> None:
    """Write the hierarchy and an empty file of boundaries."""

    def words(values: np.ndarray) -> str:
        """Write numbers with all their digits."""
        return " ".join(f"{value:.17g}" for value in values)

    text = []
    for grid, pointer in lines:
        if grid is None:
            text.append(pointer)
            continue
        side, n = 1.0 / (root << grid.level), int(counts[grid.number - 1])
        data = f"/scratch/run/{path.name}.cpu{(grid.number - 1) % files:04d}"  # Enzo writes the machine's own paths
        text += ["", f"Grid = {grid.number}", "Task              = 0", "GridRank          = 3"]
        text += [f"GridDimension     = {words(grid.shape + 6)} ", "GridStartIndex    = 3 3 3 "]
        text += [f"GridEndIndex      = {words(grid.shape + 2)} ", f"GridLeftEdge      = {words(grid.first * side)} "]
        text += [f"GridRightEdge     = {words((grid.first + grid.shape) * side)} ", "Time              = 1.0"]
        text += ["SubgridsAreStatic = 0", "NumberOfBaryonFields = 5", "FieldType = 0 1 4 5 6 "]
        text += [f"BaryonFileName = {data}", f"NumberOfParticles   = {n}"]
        text += [*([f"ParticleFileName = {data}"] if n else []), "GravityBoundaryType = 0"]
    path.with_name(f"{path.name}.hierarchy").write_text("\n".join(text) + "\n")
    path.with_name(f"{path.name}.boundary").write_text("BoundaryRank         = 3 \n")


def _write_parameters(path: Path, units: dict[str, float], box_mpc_h: float, z: float, h: float, root: int) -> None:
    """Write the parameter file."""
    hubble_s = h * 3.2407793e-18
    age_s = 2 / (3 * hubble_s * np.sqrt(OMEGA_L)) * np.arcsinh(np.sqrt(OMEGA_L / OMEGA_M) / (1 + z) ** 1.5)
    parameters = {
        "InitialCycleNumber": 46, "InitialTime": f"{age_s / units['utim']:.12g}", "TopGridRank": 3,
        "TopGridDimensions": f"{root} {root} {root}", "RefineBy": 2, "DomainLeftEdge": "0 0 0",
        "DomainRightEdge": "1 1 1", "LeftFaceBoundaryCondition": "3 3 3",
        "RightFaceBoundaryCondition": "3 3 3", "Gamma": "1.6667", "HydroMethod": 0,
        "MultiSpecies": 0, "DualEnergyFormalism": 0,
        "NumberOfParticles": 0, "ComovingCoordinates": 1, "VersionNumber": "2.500000",
        "CosmologyHubbleConstantNow": f"{h:.17g}", "CosmologyOmegaMatterNow": OMEGA_M,
        "CosmologyOmegaLambdaNow": OMEGA_L,
        "CosmologyComovingBoxSize": f"{box_mpc_h:.17g}", "CosmologyInitialRedshift": f"{Z_FIRST:.12g}",
        "CosmologyCurrentRedshift": f"{z:.17g}", "MetaDataDatasetUUID": "00000000-0000-0000-0000-000000000000",
    }  # fmt: skip
    path.write_text("".join(f"{key:30s} = {value}\n" for key, value in parameters.items()))
