"""Tipsy snapshots (Gasoline, ChaNGa; NIHAO): big-endian records and a .param file that holds the units."""

import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gen.constants import RHO_CRIT, G
from gen.formats.base import CodeUnits, Format, SnapshotError, check_cosmology
from gen.formats.frontends import open_raw
from gen.particles import Galaxy

_PERIODS = ("dxPeriod", "dyPeriod", "dzPeriod")
_READ = {"bComove", "bPeriodic", "dKpcUnit", "dMsolUnit", "dHubble0", "dPeriod", *_PERIODS}  # of a .param file
_RECORD = {"gas": 12, "dark": 9, "star": 11}  # float32 values per particle


class Tipsy(Format):
    """Gas, DarkMatter and Stars; one .param file beside (or above) the snapshot."""

    name = "tipsy"
    components: ClassVar[dict[str, list[str]]] = {
        "gas": ["Gas"],
        "stars": ["Stars"],
        "dark": ["DarkMatter"],
        "black_holes": [],
    }
    mass = "Mass"
    corner = -0.5

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
        try:
            with open(path, "rb") as file:
                head = file.read(28)
        except OSError as error:
            raise SnapshotError(f"{path}: cannot be read ({error.strerror}); check the snapshot pattern") from error
        for order in "><" if len(head) == 28 else "":
            time, n, ndim, n_gas, n_dark, n_star = struct.unpack(order + "diiiii", head)
            sound = 1 <= ndim <= 3 and n == n_gas + n_dark + n_star and min(n_gas, n_dark, n_star) >= 0
            if sound and 0 < time < 1e6:
                return time, (n_gas, n_dark, n_star)
        raise SnapshotError(f"{path}: no Tipsy header; is `format: tipsy` right?")

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """A link to the snapshot, once the size fits the header, and a .param of what yt needs: all in code units."""
        _, counts = self._header(path)
        size = path.stat().st_size
        single = 4 * sum(n * k for n, k in zip(counts, _RECORD.values(), strict=True))
        double = single + 12 * sum(counts)  # positions as float64
        if size not in (28 + single, 32 + single, 28 + double, 32 + double):
            raise SnapshotError(f"{path}: {size} bytes do not fit its header's {sum(counts)} particles; cut short?")
        staged = scratch / "snapshot.tipsy"
        staged.symlink_to(path.resolve())
        (scratch / "snapshot.param").write_text("bComove = 0\ndPeriod = 1\ndKpcUnit = 1\ndMsolUnit = 1\n")
        return staged

    def load(self, staged: Path) -> Any:
        param = str(staged.with_suffix(".param"))
        return open_raw("yt.frontends.tipsy.api", "TipsyDataset", str(staged), parameter_file=param)

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


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
) -> None:
    """A Tipsy snapshot and its .param, cosmological, as ChaNGa leaves them.

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)) with physical centres in [-box/2, box/2).
    box_kpc is the physical side at this scale factor. Float32 positions: 1e-7 of the box at best,
    better near its middle.
    """
    length = box_kpc / scale_factor
    mass = RHO_CRIT * length**3
    velocity = np.sqrt(G * mass / length) * scale_factor

    def record(name: str, part: str) -> np.ndarray:
        rows = []
        for galaxy, centre, bulk in galaxies:
            p = galaxy.components()[part]
            row = np.zeros((len(p), _RECORD[name]), dtype=np.float32)
            row[:, 0] = p.mass_msun / mass
            x = (p.pos_kpc + centre) / (length * scale_factor)
            row[:, 1:4] = x - np.round(x)
            row[:, 4:7] = (p.vel_kms + bulk) / velocity
            if name == "gas" and p.support_kpc is not None:
                h = p.support_kpc / (length * scale_factor)
                row[:, 7] = 3 * 32 * row[:, 0] / (4 * np.pi * h**3)
                row[:, 8] = 1e4
            rows.append(row)
        return np.concatenate(rows)

    gas, dark, star = record("gas", "gas"), record("dark", "dark"), record("star", "stars")
    total = len(gas) + len(dark) + len(star)
    with open(path, "wb") as file:
        file.write(struct.pack(">diiiiii", scale_factor, total, 3, len(gas), len(dark), len(star), 0))
        for rows in (gas, dark, star):
            file.write(rows.astype(">f4").tobytes())  # concatenation made it native
    path.with_suffix(".param").write_text(
        f"bComove = 1\nbPeriodic = 1\ndKpcUnit = {float(length)!r}\ndMsolUnit = {float(mass)!r}\n"
        f"dHubble0 = {float(np.sqrt(8 * np.pi / 3))!r}\ndOmega0 = 0.3089\ndLambda = 0.6911\ndPeriod = 1.0\n"
    )
