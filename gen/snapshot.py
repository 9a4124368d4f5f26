"""A snapshot file as plain particle arrays in kpc, km/s and Msun, read through yt."""

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
from scipy.spatial import cKDTree

from gen.formats import FORMATS, SnapshotError
from gen.particles import Galaxy, Particles, concatenate, empty

#: Above this many particles a region is selected by yt's index instead of reading everything.
READ_WHOLE = 200_000
#: Neighbours whose distance is the kernel support of gas that comes without density.
NEIGHBOURS = 32


class Snapshot:
    """One snapshot, opened in a scratch folder so that yt leaves nothing beside the archive's files.

    components: which particle types make up gas, stars, dark and black_holes; the format's own
    choice where empty. units: overrides of length_kpc, mass_msun, velocity_kms per code unit,
    before factors of a and h. Raises SnapshotError with the path and the reason.
    """

    def __init__(
        self,
        path: Path,
        format_name: str,
        components: dict[str, list[str]] | None = None,
        units: dict[str, float] | None = None,
    ):
        self.path = path
        self.format = FORMATS[format_name]
        self.components = self.format.components | (components or {})
        self._scratch = tempfile.TemporaryDirectory(prefix="kinmass-")
        try:
            staged = self.format.stage(path, Path(self._scratch.name))
            self._ds = self.format.load(staged)
            self.units = self.format.units(path, units or {})
        except Exception as error:
            self.close()
            text = str(error) if isinstance(error, SnapshotError) else f"{type(error).__name__}: {error}"
            raise SnapshotError(text if text.startswith(str(path)) else f"{path}: {text}") from error
        self.fields: dict[str, list[str]] = {}
        for ptype, name in self._ds.field_list:
            self.fields.setdefault(ptype, []).append(name)
        self.counts = {p: int(self._ds.particle_type_counts.get(p, 0)) for p in self.fields}
        self._cache: dict[str, Particles] = {}

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *args: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def frontend(self) -> str:
        """Name of the yt frontend that reads it."""
        return str(type(self._ds).__mro__[1].__name__)

    def close(self) -> None:
        """Forget the data and remove the scratch folder."""
        self._cache = {}
        self._ds = None
        self._scratch.cleanup()

    def galaxy(self, centre_kpc: np.ndarray, radius_kpc: float) -> Galaxy:
        """Every particle within radius_kpc of centre_kpc (3,), across the periodic boundary.

        Positions are relative to the centre, velocities as in the snapshot.
        """
        parts = {
            name: [self._sphere(p, centre_kpc, radius_kpc) for p in ptypes] for name, ptypes in self.components.items()
        }
        gas = concatenate(parts["gas"])
        if len(gas) and gas.support_kpc is None:
            near, _ = cKDTree(gas.pos_kpc).query(gas.pos_kpc, k=min(NEIGHBOURS, len(gas)))
            gas = Particles(gas.pos_kpc, gas.vel_kms, gas.mass_msun, near.reshape(len(gas), -1)[:, -1])
        rest = {name: concatenate(parts[name]) for name in ("stars", "dark", "black_holes")}
        return Galaxy(gas=gas, **rest)

    def everything(self, component: str) -> Particles:
        """All particles of a component at their positions in the box."""
        return concatenate([self._read(p, self._ds.all_data()) for p in self.components[component]])

    def wrap(self, offset_kpc: np.ndarray) -> np.ndarray:
        """The shortest periodic images of offsets (..., 3)."""
        box = self.units.box_kpc
        return offset_kpc if box is None else offset_kpc - box * np.round(offset_kpc / box)

    def _sphere(self, ptype: str, centre_kpc: np.ndarray, radius_kpc: float) -> Particles:
        if self.counts.get(ptype, 0) == 0:
            return empty()
        if sum(self.counts.values()) <= READ_WHOLE:
            if ptype not in self._cache:
                self._cache[ptype] = self._read(ptype, self._ds.all_data())
            p = self._cache[ptype]
        else:
            length = self.units.length_kpc
            # A percent more than asked for: yt's selection works in its own rounding.
            region = self._ds.sphere(
                self._ds.arr(np.asarray(centre_kpc) / length, "code_length"),
                (1.01 * radius_kpc / length, "code_length"),
            )
            p = self._read(ptype, region)
        offset = self.wrap(p.pos_kpc - centre_kpc)
        inside = np.einsum("ij,ij->i", offset, offset) <= radius_kpc**2
        return Particles(offset, p.vel_kms, p.mass_msun, p.support_kpc)[inside]

    def _read(self, ptype: str, region: object) -> Particles:
        def field(name: str) -> np.ndarray:
            try:
                values = np.asarray(region[ptype, name].d, dtype=np.float64)  # type: ignore[index]
            except Exception as error:
                raise SnapshotError(f"{self.path}: cannot read {ptype}/{name} ({error})") from error
            if not np.isfinite(values).all():
                raise SnapshotError(f"{self.path}: NaN or infinite values in {ptype}/{name}")
            return values

        if self.counts.get(ptype, 0) == 0:
            return empty()
        form, units, fields = self.format, self.units, self.fields[ptype]
        mass = field(form.mass)
        if np.any(mass < 0):
            raise SnapshotError(f"{self.path}: negative masses in {ptype}/{form.mass}")
        support = None
        if ptype in self.components["gas"]:
            if form.smoothing in fields:
                support = field(form.smoothing) * units.length_kpc
            elif form.density in fields and np.all((density := field(form.density)) > 0):
                support = form.support(mass, density) * units.length_kpc
        return Particles(
            field(form.position) * units.length_kpc,
            field(form.velocity) * units.velocity_kms,
            mass * units.mass_msun,
            support,
        )
