"""Tipsy snapshots (Gasoline, ChaNGa; NIHAO): records in either byte order, and a .param file with the units."""

import contextlib
import struct
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kinmass.gen.constants import HUBBLE, RHO_CRIT, G
from kinmass.gen.formats.base import (
    NOT_COSMOLOGICAL,
    CodeUnits,
    Format,
    Part,
    Slot,
    SnapshotError,
    check_cosmology,
    first_bytes,
)
from kinmass.gen.formats.frontends import open_raw
from kinmass.gen.formats.once import names_in, once, status, true_path
from kinmass.gen.formats.sample import Sample, take
from kinmass.gen.formats.smoothing import Smoothing
from kinmass.gen.physics.particles import Galaxy

_PERIODS = ("dxPeriod", "dyPeriod", "dzPeriod")
# Parameters of a .param file that are used: they must be numbers.
_PARAMETERS = {"bComove", "bPeriodic", "dKpcUnit", "dMsolUnit", "dHubble0", "dPeriod", "nSmooth", *_PERIODS}
# Parameters of a run that expands; one that does not has no need of them.
_EXPANDING = ("dOmega0", "dLambda")
# Fields after mass, position and velocity in a particle's record, all in single precision.
_LATER_FIELDS = {
    "gas": ("rho", "temp", "eps", "metals", "phi"),
    "dark": ("eps", "phi"),
    "star": ("metals", "tform", "eps", "phi"),
}
#: Those that are read, by yt's names.
_AS_FIELDS = {"rho": "Density", "temp": "Temperature", "tform": "FormationTime"}
_HEADER = (("time", "d"), ("nbodies", "i"), ("ndim", "i"), ("nsph", "i"), ("ndark", "i"), ("nstar", "i"))
#: Stars of negative formation time are black holes where they are no more than this, or than this share of the stars in
#: a run that is cosmological.
MOST_HOLES, LARGEST_SHARE_OF_HOLES = 10, 0.5
#: What is told of a run whose .param does not say how many neighbours its kernels have: its code's own number held.
NO_NEIGHBOURS = (
    "no nSmooth in its .param: kernels of the gas are taken to have 32 neighbours, ChaNGa's own number; Gasoline's own "
    "is 64, with which they reach 1.26 times as far. Write the run's number into it"
)
_HEADER_PAD = (("dummy", "i"),)  # follows the header in most files


class Tipsy(Format):
    """Tipsy: Gas, DarkMatter and Stars, with one .param file beside the snapshot or one folder above.

    Stars with a negative formation time are black holes (ChaNGa's and Gasoline's sinks).
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
    version_of_reading = 2  # before, all kernels had 32 neighbours, whatever nSmooth said
    corner = -0.5
    formed = "FormationTime"
    disguised = "BlackHoles"
    host = None

    def are_stars(self, formed: np.ndarray) -> np.ndarray:
        """Tell which stars (N,) are no black holes, from their formation times (N,)."""
        return formed >= 0

    def doubt(self, formed: np.ndarray, cosmological: bool, scale_factor: float) -> str:
        """Say how many stars, by their formation times (N,), may be old ones instead of black holes; "" for none."""
        n, share = int(np.count_nonzero(~self.are_stars(formed))), LARGEST_SHARE_OF_HOLES if cosmological else 0.0
        if n <= max(share * len(formed), MOST_HOLES):
            return ""
        return f"{n} of {len(formed)} formed before time began: black holes, or old stars of an isolated run?"

    def doubt_hint(self, ptype: str) -> str:
        """Tell what to say in the suite file of the particles of a type that `doubt` finds."""
        return (
            f"say `particles: {{black_holes: [{self.disguised}]}}`, or "
            f"`particles: {{stars: [{ptype}, {self.disguised}], black_holes: []}}`"
        )

    def _param(self, path: Path) -> Path:
        """Find the .param file of a snapshot, beside it or one folder up.

        It is the one whose name, or else whose achOutName, the snapshot's begins with, the longest of several; or a
        single one beside it that belongs to no other file there. Raises SnapshotError where there is none.
        """
        others: list[str] = []
        for folder in (path.parent, path.parent.parent):
            names: list[str] = []
            with contextlib.suppress(OSError):  # a folder that may not be looked into has none
                names = list(names_in(folder))
            param_files = sorted(folder / name for name in names if name.endswith(".param"))
            for stem_of in (lambda p: p.stem, self._out_name):
                if matching := [p for p in param_files if _is_of(path.name, stem_of(p))]:
                    return max(matching, key=lambda p: len(stem_of(p)))
            if len(param_files) == 1 and folder == path.parent and not self._out_name(param_files[0]):
                (lone,) = param_files
                if not any(_is_of(name, lone.stem) for name in names if name != lone.name):
                    return lone
            others += [str(p.relative_to(path.parent.parent)) for p in param_files]
        if others:
            raise SnapshotError(
                f"{path}: {' and '.join(others)} may be another run's: neither its name nor its achOutName is one that "
                f"{path.name} begins with; name the .param of its run so"
            )
        raise SnapshotError(
            f"{path}: no .param file beside it, and Tipsy files hold no units; put the run's .param there"
        )

    @staticmethod
    @once
    def _out_name(path: Path) -> str:
        """Return what a .param file calls its outputs (achOutName), without folders; "" where it does not say it."""
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.split("#")[0].partition("=")
            if name.strip() == "achOutName":
                return Path(value.strip().strip("\"'")).name
        return ""

    def listed_files(self, path: Path) -> list[Path]:
        """Return the snapshot and its .param file. Raises SnapshotError where there is none, or more than one."""
        return [path, self._param(path)]

    def _header(self, path: Path) -> tuple[float, tuple[int, int, int]]:
        """Return the time (the scale factor) and the counts of gas, dark matter and stars."""
        time, counts, _ = self._read_header(path)
        return time, counts

    @staticmethod
    @once
    def _read_header(path: Path) -> tuple[float, tuple[int, int, int], str]:
        """Read time, counts of gas, dark matter and stars, and byte order. Raises SnapshotError without a header."""
        if (header := read_header(first_bytes(path, 28))) is None:
            raise SnapshotError(f"{path}: no Tipsy header; is `format: tipsy` right?")
        return header

    def _layout(self, path: Path, params: dict[str, float]) -> tuple[int, tuple[str, ...]]:
        """Return the size of the header in bytes and the fields stored as doubles, by the file's size.

        Raises SnapshotError where no layout fits the size.
        """
        _, counts, _ = self._read_header(path)
        size, n = status(path).st_size, sum(counts)
        if n == 0:
            raise SnapshotError(f"{path}: holds no particles; check the snapshot pattern")
        for header_size in (32, 28):
            extra = (
                size
                - header_size
                - 4 * sum(c * (7 + len(f)) for c, f in zip(counts, _LATER_FIELDS.values(), strict=True))
            )
            wide_field = "Velocities" if params.get("bDoubleVel") and not params.get("bDoublePos") else "Coordinates"
            doubles = {0: (), 12 * n: (wide_field,), 24 * n: ("Coordinates", "Velocities")}
            if extra in doubles:
                return header_size, doubles[extra]
        raise SnapshotError(f"{path}: {size} bytes do not fit its header's {n} particles; cut short? Get it again")

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """Link the snapshot after checking its size, and write a .param for yt: all in code units."""
        parameters = self._parameters(self._param(path))
        _, doubles = self._layout(path, parameters)
        staged = scratch / "snapshot.tipsy"
        staged.symlink_to(true_path(path))
        precision = f"bDoublePos = {int('Coordinates' in doubles)}\nbDoubleVel = {int('Velocities' in doubles)}\n"
        staged.with_suffix(".param").write_text(f"bComove = 0\ndPeriod = 1\n{precision}dKpcUnit = 1\ndMsolUnit = 1\n")
        return staged

    def sample(self, staged: Path, max_particles: int, types: Collection[str] | None = None) -> dict[str, Sample]:
        """Sample each particle type of the staged file, as `Format.sample` says."""
        _, counts, order = self._read_header(staged)
        start, doubles = self._layout(staged, self._parameters(staged.with_suffix(".param")))
        pos_float, vel_float = ("f8" if name in doubles else "f4" for name in ("Coordinates", "Velocities"))
        samples = {}
        for ptype, n, later_fields in zip(("Gas", "DarkMatter", "Stars"), counts, _LATER_FIELDS.values(), strict=True):
            later_dtypes = [(name, f"{order}f4") for name in later_fields]
            row_dtype = np.dtype(
                [("mass", f"{order}f4"), ("pos", order + pos_float, 3), ("vel", order + vel_float, 3), *later_dtypes]
            )
            if n and (types is None or ptype in types):
                rows = np.memmap(staged, row_dtype, "r", start, (n,))
                mass, pos, vel = (take(rows[name].__getitem__, n, max_particles) for name in ("mass", "pos", "vel"))
                formed = take(rows["tform"].__getitem__, n, max_particles) if "tform" in later_fields else None
                fields = {
                    "Coordinates",
                    "Velocities",
                    "Mass",
                    *(_AS_FIELDS[f] for f in later_fields if f in _AS_FIELDS),
                }
                samples[ptype] = Sample(n, pos, vel, mass, frozenset(fields), formed)
            start += n * row_dtype.itemsize
        return samples

    def load(self, staged: Path, slot: Slot = nullcontext, part: Part | None = None) -> Any:
        """Open the staged snapshot with yt's Tipsy frontend, as `Format.load` says."""
        param = staged.with_suffix(".param")
        header_bytes, doubles = self._layout(staged, self._parameters(param))
        # yt rejects files with double velocities, and expects a pad after every header.
        overrides = (
            ("_validate_header", _VALIDATE_HEADER),
            ("_header_spec", _HEADER + (_HEADER_PAD if header_bytes == 32 else ())),
        )
        options = {"parameter_file": str(param), "field_dtypes": dict.fromkeys(doubles, "d")}
        return open_raw("yt.frontends.tipsy.api", "TipsyDataset", str(staged), overrides, slot, part, **options)

    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        """Take units from dKpcUnit and dMsolUnit of the .param; a is the header's time."""
        # yt computes its mass unit as rho_crit V from dHubble0, which differs from dMsolUnit by 0.1 % in real files.
        param = self._param(path)
        parameters = self._parameters(param)
        missing_parameters = [key for key in ("dKpcUnit", "dMsolUnit") if key not in parameters]
        if missing_parameters and not {"length_kpc", "mass_msun"} <= suite_units.keys():
            raise SnapshotError(
                f"{path}: {' and '.join(missing_parameters)} not in its .param; add `units:` to the suite file"
            )
        length_kpc = suite_units.get("length_kpc", parameters.get("dKpcUnit", 0.0))
        mass_msun = suite_units.get("mass_msun", parameters.get("dMsolUnit", 0.0))
        if not (length_kpc > 0 and mass_msun > 0):
            raise SnapshotError(f"{path}: dKpcUnit = {length_kpc:g} and dMsolUnit = {mass_msun:g}; repair {param.name}")
        if not {"cosmological", "bComove"} & {*suite_units, *parameters} and any(parameters.get(k) for k in _EXPANDING):
            raise SnapshotError(
                f"{path}: {param.name} has {' or '.join(_EXPANDING)}, and no bComove, which says whether lengths are "
                "comoving; write bComove = 1 or 0 into it, or give `units: {cosmological: true}` or false in the suite "
                "file"
            )
        comoving = bool(suite_units.get("cosmological", parameters.get("bComove", 0)))
        a, hubble = (self._header(path)[0], 1.0) if comoving else (1.0, 1.0)
        if comoving and "dHubble0" not in parameters:  # the codes do not run without it
            raise SnapshotError(
                f"{path}: {param.name} is a comoving run's and has no dHubble0, from which h follows, and units of "
                "catalogues; write it, H0 in code units (2.894405 where a density of 1 is the critical one)"
            )
        if comoving:
            # dHubble0 is in units of 1 / code time, with code time = 1/sqrt(G rho), rho = code mass / code volume.
            hubble = parameters["dHubble0"] * float(np.sqrt(G * mass_msun / length_kpc**3)) / 0.1
        # Gasoline's time unit is 1/sqrt(G rho); comoving velocities carry a factor a.
        velocity_kms = suite_units.get("velocity_kms", float(np.sqrt(G * mass_msun / length_kpc)))
        period = self._period(path, parameters, comoving, overruled="box" in suite_units)
        box_kpc = None if period is None else period * length_kpc * a
        check_cosmology(path, a, hubble, f"the header's time{NOT_COSMOLOGICAL}", "dHubble0, dKpcUnit and dMsolUnit")
        source = f"dKpcUnit and dMsolUnit of {param.name}"
        corner_kpc = self.corner * (box_kpc or 0.0)
        return CodeUnits(
            length_kpc * a,
            mass_msun,
            velocity_kms * a,
            box_kpc,
            a,
            hubble,
            source,
            corner_kpc,
            cosmological=comoving,
            time=None if comoving else self._header(path)[0],
        )

    @staticmethod
    def _period(path: Path, parameters: dict[str, float], comoving: bool, overruled: bool) -> float | None:
        """Return the side of the box in code units, None where space is not periodic.

        Gasoline's dxPeriod defaults to dPeriod. overruled: the suite file gives the box. Raises SnapshotError
        for a box that is no cube, unless it is overruled.
        """
        if not parameters.get("bPeriodic", comoving):
            return None
        sides = [parameters.get(name, parameters.get("dPeriod", 1.0)) for name in _PERIODS]
        if not (overruled or np.allclose(sides, sides[0], rtol=1e-6)):
            raise SnapshotError(
                f"{path}: its .param has unequal periods {sides}; only cubic boxes can be wrapped: "
                "give `units: {box: none}` or its side in the suite file"
            )
        return sides[0]

    def smoothing(self, path: Path) -> Smoothing:
        """Return the convention with as many neighbours in the support as the .param says; ChaNGa's own otherwise."""
        param = self._param(path)
        smoothing = super().smoothing(path)
        if (neighbours := self._parameters(param).get("nSmooth")) is None:
            return replace(smoothing, assumed=NO_NEIGHBOURS)
        if not 1 <= neighbours < np.inf:
            raise SnapshotError(f"{path}: nSmooth = {neighbours:g} in {param.name}: no number of neighbours; repair it")
        return replace(smoothing, volumes=neighbours)

    def types(self, path: Path) -> set[str]:
        """Return the particle types that the header counts."""
        return {name for name, n in zip(("Gas", "DarkMatter", "Stars"), self._header(path)[1], strict=True) if n}

    @staticmethod
    @once
    def _parameters(path: Path) -> dict[str, float]:
        """Read the numbers of a .param file, which has lines `name = value  # comment`."""
        parameters: dict[str, float] = {}
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.split("#")[0].partition("=")
            try:
                number = float(value)
                if parameters.setdefault(name.strip(), number) != number and name.strip() in _PARAMETERS:
                    raise SnapshotError(f"{path}: {name.strip()} is there twice, with two values; take one out")
            except SnapshotError:
                raise
            except ValueError as error:
                if name.strip() in _PARAMETERS:
                    raise SnapshotError(
                        f"{path}: {name.strip()} is {value.strip()[:40]!r}, no number; repair it"
                    ) from error
        return parameters


def _is_of(name: str, stem: str) -> bool:
    """Tell whether a file's name is a run's, or begins with it and a dot."""
    return bool(stem) and (name == stem or name.startswith(f"{stem}."))


def read_header(head_bytes: bytes) -> tuple[float, tuple[int, int, int], str] | None:
    """Return time, counts and byte order from the first 28 bytes of a Tipsy file, None if it is none."""
    for order in "><" if len(head_bytes) >= 28 else "":
        time, n, ndim, n_gas, n_dark, n_star = struct.unpack(order + "diiiii", head_bytes[:28])
        plausible = 1 <= ndim <= 3 and n == n_gas + n_dark + n_star and min(n_gas, n_dark, n_star) >= 0
        if plausible and 0 <= time < 1e6:
            return time, (n_gas, n_dark, n_star), order
    return None


def _record_dtype(name: str, double: bool) -> np.dtype:
    kind = ">f8" if double else ">f4"
    return np.dtype([("mass", ">f4"), ("pos", kind, 3), ("vel", kind, 3), *((f, ">f4") for f in _LATER_FIELDS[name])])


def _endianness(path: str) -> tuple[bool, str]:
    return True, Tipsy._read_header(Path(path))[2]


_VALIDATE_HEADER = staticmethod(_endianness)


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
    double: bool = False,
) -> None:
    """Write a cosmological Tipsy snapshot and its .param, as ChaNGa does.

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)) with physical centres in [-box/2, box/2).
    box_kpc is the physical side at this scale factor. Positions in single precision are accurate to 1e-7
    of the box, and better near its middle; double: positions and velocities in double precision.
    """
    length_kpc = box_kpc / scale_factor
    mass_unit_msun = RHO_CRIT * (hubble / HUBBLE) ** 2 * length_kpc**3  # that of a code density of 1: dHubble0 gives h
    velocity_unit_kms = np.sqrt(G * mass_unit_msun / length_kpc) * scale_factor

    def records(name: str, *parts: str) -> np.ndarray:
        """Make the records of one Tipsy type, from some components of all galaxies."""
        rows = []
        for galaxy, centre, bulk in galaxies:
            for part in parts:
                p = galaxy.components()[part]
                row = np.zeros(len(p), dtype=_record_dtype(name, double))
                row["mass"] = p.mass_msun / mass_unit_msun
                x = (p.pos_kpc + centre) / (length_kpc * scale_factor)
                row["pos"] = x - np.round(x)
                row["vel"] = (p.vel_kms + bulk) / velocity_unit_kms
                if name == "gas" and p.support_kpc is not None:
                    h = p.support_kpc / (length_kpc * scale_factor)
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
            # np.concatenate has changed the rows to the machine's byte order.
            file.write(rows.astype(_record_dtype(name, double)).tobytes())
    path.with_suffix(".param").write_text(
        f"bComove = 1\nbPeriodic = 1\ndKpcUnit = {float(length_kpc)!r}\ndMsolUnit = {float(mass_unit_msun)!r}\n"
        f"dHubble0 = {float(np.sqrt(8 * np.pi / 3))!r}\ndOmega0 = 0.3089\ndLambda = 0.6911\ndPeriod = 1.0\n"
        "nSmooth = 32\n"
    )
