"""Tipsy snapshots (Gasoline, ChaNGa; NIHAO): records of either byte order and a .param file that holds the units."""

import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kinmass.gen.constants import RHO_CRIT, G
from kinmass.gen.formats.base import CodeUnits, Format, SnapshotError, check_cosmology
from kinmass.gen.formats.frontends import open_raw
from kinmass.gen.formats.sample import Sample, take
from kinmass.gen.physics.particles import Galaxy

_PERIODS = ("dxPeriod", "dyPeriod", "dzPeriod")
_READ = {"bComove", "bPeriodic", "dKpcUnit", "dMsolUnit", "dHubble0", "dPeriod", *_PERIODS}  # of a .param file
# What follows mass, position and velocity in a particle's record, all in single precision.
_REST = {
    "gas": ("rho", "temp", "eps", "metals", "phi"),
    "dark": ("eps", "phi"),
    "star": ("metals", "tform", "eps", "phi"),
}
_HEADER = (("time", "d"), ("nbodies", "i"), ("ndim", "i"), ("nsph", "i"), ("ndark", "i"), ("nstar", "i"))
_PAD = (("dummy", "i"),)  # behind the header of most files


class Tipsy(Format):
    """Gas, DarkMatter and Stars; one .param file beside (or above) the snapshot.

    Stars that formed before time began are black holes (ChaNGa's and Gasoline's sinks).
    """

    name = "tipsy"
    container = "tipsy"
    components: ClassVar[dict[str, list[str]]] = {
        "gas": ["Gas"],
        "stars": ["Stars"],
        "dark": ["DarkMatter"],
        "black_holes": ["BlackHoles"],
    }
    mass = "Mass"
    corner = -0.5
    formed = "FormationTime"
    disguised = "BlackHoles"

    def are_stars(self, formed: np.ndarray) -> np.ndarray:
        """Which of the stars are stars, by their formation time."""
        return formed >= 0

    def _param(self, path: Path) -> Path:
        for folder in (path.parent, path.parent.parent):
            found = sorted(folder.glob("*.param"))
            named = [p for p in found if path.name.startswith(p.stem)]
            if len(named or found) == 1:
                return (named or found)[0]
            if len(found) > 1:
                names = ", ".join(p.name for p in found)
                raise SnapshotError(
                    f"{path}: several .param files beside it ({names}); keep the one that belongs to it"
                )
        raise SnapshotError(
            f"{path}: no .param file beside it, and Tipsy files hold no units; put the run's .param there"
        )

    def _header(self, path: Path) -> tuple[float, tuple[int, int, int]]:
        """Time (the scale factor) and counts of gas, dark matter and stars."""
        time, counts, _ = self._read_header(path)
        return time, counts

    @staticmethod
    def _read_header(path: Path) -> tuple[float, tuple[int, int, int], str]:
        """Time, counts of gas, dark matter and stars, and byte order. Raises SnapshotError."""
        try:
            with open(path, "rb") as file:
                head = file.read(28)
        except OSError as error:
            raise SnapshotError(f"{path}: cannot be read ({error.strerror}); check the snapshot pattern") from error
        if (found := read_header(head)) is None:
            raise SnapshotError(f"{path}: no Tipsy header; is `format: tipsy` right?")
        return found

    def _layout(self, path: Path, known: dict[str, float]) -> tuple[int, tuple[str, ...]]:
        """Bytes of the header, and which fields are doubles, by the file's size.

        Raises SnapshotError where no layout fits it.
        """
        _, counts, _ = self._read_header(path)
        size, n = path.stat().st_size, sum(counts)
        if n == 0:
            raise SnapshotError(f"{path}: holds no particles")
        for head in (32, 28):
            more = size - head - 4 * sum(c * (7 + len(k)) for c, k in zip(counts, _REST.values(), strict=True))
            one = "Velocities" if known.get("bDoubleVel") and not known.get("bDoublePos") else "Coordinates"
            doubles = {0: (), 12 * n: (one,), 24 * n: ("Coordinates", "Velocities")}
            if more in doubles:
                return head, doubles[more]
        raise SnapshotError(f"{path}: {size} bytes do not fit its header's {n} particles; cut short?")

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """A link to the snapshot, once the size fits the header, and a .param of what yt needs: all in code units."""
        known = self._parameters(self._param(path))
        _, doubles = self._layout(path, known)
        staged = scratch / "snapshot.tipsy"
        staged.symlink_to(path.resolve())
        precision = f"bDoublePos = {int('Coordinates' in doubles)}\nbDoubleVel = {int('Velocities' in doubles)}\n"
        staged.with_suffix(".param").write_text(f"bComove = 0\ndPeriod = 1\n{precision}dKpcUnit = 1\ndMsolUnit = 1\n")
        return staged

    def sample(self, staged: Path, most: int, types: Collection[str] | None = None) -> dict[str, Sample]:
        _, counts, order = self._read_header(staged)
        start, doubles = self._layout(staged, self._parameters(staged.with_suffix(".param")))
        pos, vel = ("f8" if name in doubles else "f4" for name in ("Coordinates", "Velocities"))
        found = {}
        for ptype, n, rest in zip(("Gas", "DarkMatter", "Stars"), counts, _REST.values(), strict=True):
            alone = [(name, f"{order}f4") for name in rest]
            row = np.dtype([("mass", f"{order}f4"), ("pos", order + pos, 3), ("vel", order + vel, 3), *alone])
            if n and (types is None or ptype in types):
                rows = np.memmap(staged, row, "r", start, (n,))
                mass, x, v = (take(rows[name].__getitem__, n, most) for name in ("mass", "pos", "vel"))
                formed = take(rows["tform"].__getitem__, n, most) if "tform" in rest else None
                found[ptype] = Sample(n, x, v, mass, frozenset({"Density"} if "rho" in rest else ()), formed)
            start += n * row.itemsize
        return found

    def load(self, staged: Path) -> Any:
        param = staged.with_suffix(".param")
        head, doubles = self._layout(staged, self._parameters(param))
        # yt takes no file with double velocities for one of Tipsy's, and every header for one with a pad.
        overrides = (("_validate_header", _YTS_HEADER), ("_header_spec", _HEADER + (_PAD if head == 32 else ())))
        options = {"parameter_file": str(param), "field_dtypes": dict.fromkeys(doubles, "d")}
        return open_raw("yt.frontends.tipsy.api", "TipsyDataset", str(staged), overrides, **options)

    def _units(self, path: Path, given: dict[str, Any]) -> CodeUnits:
        """From dKpcUnit and dMsolUnit of the .param; a is the header's time."""
        # yt's own mass unit is rho_crit V from dHubble0, off from dMsolUnit by 0.1 % in real files.
        known = self._parameters(self._param(path))
        missing = [key for key in ("dKpcUnit", "dMsolUnit") if key not in known]
        if missing and not {"length_kpc", "mass_msun"} <= given.keys():
            raise SnapshotError(f"{path}: {' and '.join(missing)} not in its .param; add `units:` to the suite file")
        length = given.get("length_kpc", known.get("dKpcUnit", 0.0))
        mass = given.get("mass_msun", known.get("dMsolUnit", 0.0))
        comoving = bool(given.get("cosmological", known.get("bComove", 0)))
        a, hubble = (self._header(path)[0], 1.0) if comoving else (1.0, 1.0)
        if comoving and "dHubble0" in known:
            # dHubble0 counts in code time, 1/sqrt(G rho) with rho one code mass per code volume.
            hubble = known["dHubble0"] * float(np.sqrt(G * mass / length**3)) / 0.1
        # Gasoline's time unit is 1/sqrt(G rho); comoving velocities carry a factor a.
        velocity = given.get("velocity_kms", float(np.sqrt(G * mass / length)))
        period = self._period(path, known, comoving, overruled="box" in given)
        box = None if period is None else period * length * a
        check_cosmology(path, a, hubble)
        source = f"dKpcUnit and dMsolUnit of {self._param(path).name}"
        corner = self.corner * (box or 0.0)
        return CodeUnits(length * a, mass, velocity * a, box, a, hubble, source, corner, cosmological=comoving)

    @staticmethod
    def _period(path: Path, known: dict[str, float], comoving: bool, overruled: bool) -> float | None:
        """Side of the box in code units, None where space is not periodic (Gasoline: dxPeriod defaults to dPeriod)."""
        if not known.get("bPeriodic", comoving):
            return None
        sides = [known.get(name, known.get("dPeriod", 1.0)) for name in _PERIODS]
        if not (overruled or np.allclose(sides, sides[0], rtol=1e-6)):
            raise SnapshotError(f"{path}: its .param has unequal periods {sides}; only cubic boxes can be wrapped")
        return sides[0]

    def types(self, path: Path) -> set[str]:
        """By the counts of the header."""
        return {name for name, n in zip(("Gas", "DarkMatter", "Stars"), self._header(path)[1], strict=True) if n}

    @staticmethod
    def _parameters(path: Path) -> dict[str, float]:
        """The numbers in a .param file of `name = value  # comment` lines."""
        known = {}
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.split("#")[0].partition("=")
            try:
                known[name.strip()] = float(value)
            except ValueError as error:
                if name.strip() in _READ:
                    raise SnapshotError(
                        f"{path}: {name.strip()} is {value.strip()[:40]!r}, no number; repair it"
                    ) from error
        return known


def read_header(head: bytes) -> tuple[float, tuple[int, int, int], str] | None:
    """Time, counts and byte order of a Tipsy file that begins so (28 bytes), None where it is none."""
    for order in "><" if len(head) >= 28 else "":
        time, n, ndim, n_gas, n_dark, n_star = struct.unpack(order + "diiiii", head[:28])
        sound = 1 <= ndim <= 3 and n == n_gas + n_dark + n_star and min(n_gas, n_dark, n_star) >= 0
        if sound and 0 <= time < 1e6:
            return time, (n_gas, n_dark, n_star), order
    return None


def _record(name: str, double: bool) -> np.dtype:
    wide = ">f8" if double else ">f4"
    return np.dtype([("mass", ">f4"), ("pos", wide, 3), ("vel", wide, 3), *((field, ">f4") for field in _REST[name])])


def _endianness(path: str) -> tuple[bool, str]:
    return True, Tipsy._read_header(Path(path))[2]


_YTS_HEADER = staticmethod(_endianness)


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
    double: bool = False,
) -> None:
    """A Tipsy snapshot and its .param, cosmological, as ChaNGa leaves them.

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)) with physical centres in [-box/2, box/2).
    box_kpc is the physical side at this scale factor. Single-precision positions: 1e-7 of the box at
    best, better near its middle; double: positions and velocities in double precision.
    """
    length = box_kpc / scale_factor
    mass = RHO_CRIT * length**3
    velocity = np.sqrt(G * mass / length) * scale_factor

    def records(name: str, *parts: str) -> np.ndarray:
        rows = []
        for galaxy, centre, bulk in galaxies:
            for part in parts:
                p = galaxy.components()[part]
                row = np.zeros(len(p), dtype=_record(name, double))
                row["mass"] = p.mass_msun / mass
                x = (p.pos_kpc + centre) / (length * scale_factor)
                row["pos"] = x - np.round(x)
                row["vel"] = (p.vel_kms + bulk) / velocity
                if name == "gas" and p.support_kpc is not None:
                    h = p.support_kpc / (length * scale_factor)
                    row["rho"] = 3 * 32 * row["mass"] / (4 * np.pi * h**3)
                    row["temp"] = 1e4
                if part == "black_holes":
                    row["tform"] = -0.1
                rows.append(row)
        return np.concatenate(rows)

    gas, dark, star = records("gas", "gas"), records("dark", "dark"), records("star", "stars", "black_holes")
    total = len(gas) + len(dark) + len(star)
    with open(path, "wb") as file:
        file.write(struct.pack(">diiiiii", scale_factor, total, 3, len(gas), len(dark), len(star), 0))
        for rows, name in ((gas, "gas"), (dark, "dark"), (star, "star")):
            file.write(rows.astype(_record(name, double)).tobytes())  # concatenation made it native
    path.with_suffix(".param").write_text(
        f"bComove = 1\nbPeriodic = 1\ndKpcUnit = {float(length)!r}\ndMsolUnit = {float(mass)!r}\n"
        f"dHubble0 = {float(np.sqrt(8 * np.pi / 3))!r}\ndOmega0 = 0.3089\ndLambda = 0.6911\ndPeriod = 1.0\n"
    )
