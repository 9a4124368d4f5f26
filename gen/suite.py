"""The YAML file that describes one suite, checked before anything runs."""

import glob
import math
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

from kinmass.gen.formats import FORMATS
from kinmass.gen.yamlfile import read_checked


class SuiteError(ValueError):
    """A suite file that cannot work: the message names the key and what it may be."""


def snapshot_number(path: Path, format_name: str) -> str:
    """The number of a snapshot or a catalogue, as it is written in the file's name; "" where there is none.

    It is 099 in snap_099.0.hdf5 (0 is the number of the file), 01024 in g8.26e11.01024, 028 in
    snap_028_z000p000.0.hdf5 and 600 in snap600Rpep..z0.000.AHF_halos (redshifts do not count, nor parts), and
    010 in snapshot_010.0 (a binary file of GADGET).

    >>> snapshot_number(Path("snapdir_099/snap_099.0.hdf5"), "arepo")
    '099'
    """
    name = re.sub(r"\.(hdf5|h5|list|ascii|ecsv|csv|AHF_halos|properties(\.\d+)?)$", "", path.name)
    name = re.sub(r"(\.0000)?[._]z\d+[.p]\d+", "", name)  # .0000: the first part of a catalogue of AHF
    if format_name != "tipsy":  # a snapshot of several files numbers them without leading zeros; Tipsy has one
        name = re.sub(r"(\d)\.(0|[1-9]\d{0,3})$", r"\1", name)
    return (["", *re.findall(r"\d+", name)])[-1]


class _Number(str):
    """The digits of a snapshot's number; formatted by `03d` and the like it is the number itself."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        """Raise ValueError where there are no digits, and a number is asked for."""
        return format(int(self), spec) if spec.endswith("d") else super().__format__(spec)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Catalogue(_Section):
    """The catalogue that lists the galaxies. `path` may use {name}, {stem} and {number} of the snapshot's file.

    {name}: the file's name. {stem}: the name up to its last dot. {number}: see `snapshot_number`; {number:03d}: the
    same with three digits or more, for catalogues that have fewer zeros than their snapshots.
    """

    format: Literal[
        "adaptahop", "ahf", "subfind", "eagle_subfind", "caesar", "hbt", "rockstar", "soap", "table",
        "velociraptor", "none",
    ] = "none"  # fmt: skip
    """Its format; `none`: one galaxy per snapshot, its centre found on its matter."""
    path: str | None = None
    """The file: beside the snapshot, below `root`, or absolute. May use wildcards, and `{name}`, `{stem}` and
    `{number}` of the snapshot's file; `{number:03d}` is 761 of 00761."""

    @model_validator(mode="after")
    def _path_goes_with_format(self) -> "Catalogue":
        if (self.format == "none") != (self.path is None):
            raise ValueError("give `path`, the catalogue's file, with every format but none, and no `path` with none")
        return self


class Components(_Section):
    """Particle types of each component; where left out, those that are usual for the format.

    low_resolution: types that fill the surroundings of a zoom. They count as dark matter, and each galaxy
    keeps the share of its dark mass that is not in them. An empty list means that there are none.
    """

    gas: list[str] | None = None
    """Particle types of the gas. Here and below: the format's own where left out."""
    stars: list[str] | None = None
    """Particle types of the stars."""
    dark: list[str] | None = None
    """Particle types of the dark matter. A file without any is refused unless `[]` says that the truth is to be
    stars and gas alone (`has_dark` in the store)."""
    black_holes: list[str] | None = None
    """Particle types of black holes."""
    low_resolution: list[str] | None = None
    """Types around a zoom: dark mass of the truth, and what `min_high_res_fraction` looks at."""


class Units(_Section):
    """Units and box where a file does not state them, or states them wrongly.

    length_kpc, mass_msun, velocity_kms: one code unit in kpc, Msun, km/s, before factors of a and h. box: `none`
    where space is not periodic, or the side of the box in comoving kpc (no h), one number for all snapshots of
    a suite. cosmological: whether there are factors of a at all.
    """

    length_kpc: PositiveFloat | None = None
    """One code unit of length in kpc, before factors of a and h."""
    mass_msun: PositiveFloat | None = None
    """One code unit of mass in Msun, before factors of h."""
    velocity_kms: PositiveFloat | None = None
    """One code unit of velocity in km/s, before factors of a."""
    box: Literal["none"] | PositiveFloat | None = None
    """In place of the header's BoxSize: `none` (space is not periodic), or the side in comoving kpc without h,
    one number for all snapshots."""
    cosmological: bool | None = None
    """`false`: no factors of a, whatever redshift, Time or dark energy the header has kept; `true`: it has them."""

    @field_validator("box", mode="before")
    @classmethod
    def _box_or_none(cls, box: object) -> object:
        if box is None:  # left out; model_dump writes None for it
            return None
        if str(box).lower() == "none":
            return "none"
        if isinstance(box, bool) or not isinstance(box, int | float) or not 0 < box < math.inf:
            raise ValueError(f"must be none or the side of the box in comoving kpc (no h), not {box!r}")
        return box


class Tracers(_Section):
    """What the maps weigh particles by; the true masses always count all particles.

    gas: `all` by its mass; `cold` by the mass of gas that is below cold_below_k or forms stars; `hi` by the mass of
    neutral hydrogen. The default of 2e4 K lies between the warm phase, which hydrogen cooling holds near 1e4 K, and
    gas on its way to 1e5 K and more, where gas cools fastest and little of it stays.
    stars: `mass`, or `light` of light_field: a dataset of luminosities, `Name` or `Name[column]`;
    columns of GFM_StellarPhotometrics (U, B, V, K, g, r, i, z) are magnitudes.
    """

    gas: Literal["all", "cold", "hi"] = "all"
    """`all` (mass), `cold` (mass below `cold_below_k`, or forming stars), `hi` (neutral hydrogen, atoms and
    molecules)."""
    cold_below_k: PositiveFloat = 2e4
    """Temperature below which gas is cold [K]."""
    stars: Literal["mass", "light"] = "mass"
    """`mass`, or `light` of `light_field`."""
    light_field: str | None = None
    """A dataset of luminosities: `Name`, `Name[column]`, `GFM_StellarPhotometrics[r]`."""

    @model_validator(mode="after")
    def _light_goes_with_its_field(self) -> "Tracers":
        if (self.stars == "light") != (self.light_field is not None):
            raise ValueError("`light_field` goes with `stars: light`, and with nothing else")
        return self


class Aperture(_Section):
    """Radius of the sphere whose mass is the truth: a length in kpc, or a multiple of the catalogue's R200."""

    kpc: PositiveFloat | None = None
    """Radius of the sphere whose mass is the truth. It must reach 3 R_e; maps do not depend on it. This or `r200` is
    needed."""
    r200: PositiveFloat | None = None
    """The same in units of the catalogue's R200, instead of `kpc`."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "Aperture":
        if (self.kpc is None) == (self.r200 is None):
            raise ValueError("give exactly one of `kpc` and `r200`")
        return self


#: [lowest, highest]; null stands for no limit.
Range = Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None], Field(min_length=2, max_length=2)]


class Selection(_Section):
    """Which galaxies are mapped. A bound of a range may be null.

    Where more than max_galaxies remain, a draw that depends on their names takes that many.
    """

    min_stars: int = Field(default=200, ge=1)
    """Star particles needed, in the aperture and of the galaxy's own."""
    max_galaxies: int | None = Field(default=None, ge=1)
    """Galaxies at most: a draw by their names, whatever the catalogue's order; a higher number keeps what a
    lower one drew."""
    which: Literal["central", "satellite", "all"] = "central"
    """Centrals, satellites or all."""
    stellar_mass_msun: Range | None = None
    """`[lowest, highest]`, an end may be `null`."""
    halo_mass_msun: Range | None = None
    """`[lowest, highest]`, an end may be `null`."""
    min_particles: int | None = Field(default=None, ge=1)
    """Particles of all kinds that a galaxy needs."""
    min_high_res_fraction: float | None = Field(default=None, ge=0, le=1)
    """Least share of the mass in high-resolution particles."""

    @field_validator("stellar_mass_msun", "halo_mass_msun")
    @classmethod
    def _low_before_high(cls, limits: Range | None) -> Range | None:
        low, high = limits or (None, None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"the lower bound comes first, not {low:g} before {high:g}")
        return limits


class Suite(_Section):
    """One suite of simulated galaxies.

    >>> suite = Suite(name="mine", format="arepo", snapshots="snap_*.hdf5", aperture={"kpc": 30})
    >>> suite.selection.min_stars
    200
    >>> Suite(name="mine", format="areppo", snapshots="snap_*.hdf5", aperture={"kpc": 30})
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Suite
    ...
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """The suite's group in the store."""
    format: str
    """Format of the snapshots."""
    snapshots: str
    """Glob pattern below `root`; hidden files do not count. Of a snapshot in several files give the first (`*.0.hdf5`;
    `snap_063.0` of GADGET's binary formats)."""
    catalogue: Catalogue = Catalogue()
    """The catalogue that lists the galaxies."""
    particles: Components = Components()
    """Particle types of each component."""
    units: Units = Units()
    """Units and box, where a file does not state them or states them wrongly."""
    tracers: Tracers = Tracers()
    """What the maps weigh particles by; the true masses always count all."""
    aperture: Aperture
    """The sphere whose mass is the truth."""
    selection: Selection = Selection()
    """Which galaxies are mapped."""
    lineage: str | None = None
    """Regular expression. What it finds in a galaxy's name is the name of its history; a catalogue's own comes
    first. Galaxies of one history are on one side of the split."""
    root: Path = Path(".")
    """Folder that the patterns start from, relative to this file (`--root` overrides)."""

    @model_validator(mode="after")
    def _known_format(self) -> "Suite":
        if Path(self.snapshots).is_absolute():
            raise ValueError("`snapshots` is a pattern below `root`; put the absolute part there")
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is not one of {', '.join(FORMATS)}")
        return self

    @model_validator(mode="after")
    def _known_types(self) -> "Suite":
        known_types = FORMATS[self.format].known_types()
        for component, types in self.particles.model_dump(exclude_none=True).items():
            if unknown := [ptype for ptype in types if ptype not in known_types]:
                raise ValueError(
                    f"`particles.{component}`: {self.format} has no type {unknown[0]!r}; "
                    f"its types are {', '.join(known_types)}"
                )
        return self

    @field_validator("lineage")
    @classmethod
    def _is_expression(cls, lineage: str | None) -> str | None:
        try:
            re.compile(lineage or "")
        except re.error as error:
            raise ValueError(f"{lineage!r} is no regular expression ({error})") from error
        return lineage

    def lineage_of(self, galaxy: str, catalogue_lineage: str | None) -> str:
        """The name of the history a galaxy belongs to: from its catalogue, else what `lineage` matches in its name.

        Without either it is the galaxy's own name. If the expression has groups, their matches are joined. All
        galaxies of one lineage are in the same part of a split. Raises SuiteError when the expression matches nothing.
        """
        if catalogue_lineage is not None:
            return catalogue_lineage
        if self.lineage is None:
            return galaxy
        match = re.search(self.lineage, galaxy)
        found = (match.groups("") or (match[0],)) if match else ()
        if not any(found):
            raise SuiteError(
                f"suite {self.name}: `lineage` {self.lineage!r} finds nothing in the name {galaxy}; "
                "mend the expression, or leave it out"
            )
        return "-".join(found)

    def snapshot_paths(self) -> list[Path]:
        """The snapshot files, sorted; none that is hidden, as `*` has it in a shell. Raises SuiteError for none."""
        paths = sorted(path for path in self.root.glob(self.snapshots) if _is_file_or_fails(path))
        if not any(part.startswith(".") for part in Path(self.snapshots).parts):  # ._snap_099.hdf5 of a Mac, .Trash
            paths = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(self.root).parts)]
        if not paths:
            closed = "".join(
                f"; {path} cannot be looked into (permission denied)" for path in self.closed_folders()[:1]
            )
            raise SuiteError(
                f"suite {self.name}: no file matches {self.root / self.snapshots}; check `snapshots`{closed}"
            )
        return paths

    def closed_folders(self) -> list[Path]:
        """The folders that `snapshots` leads into and that may not be looked into, of which glob says nothing."""
        *folders, name = Path(self.snapshots).parts
        closed = []
        for i, part in enumerate([*folders, name]):
            # To find a file by its name, a folder's list of names is not needed.
            needed = os.X_OK | (os.R_OK if glob.has_magic(part) else 0)
            closed += [path for path in self._folders(i) if os.path.isdir(path) and not os.access(path, needed)]
        return sorted(set(closed))

    def unfollowed_links(self) -> list[Path]:
        """The linked folders with snapshots into which `**` does not lead: glob would follow a circle for ever."""
        parts = Path(self.snapshots).parts
        if "**" not in parts:
            return []
        i = parts.index("**")
        folders = [folder for top in self._folders(i) for folder in top.glob("**")]
        links = [path for folder in folders for path in folder.glob("*") if path.is_symlink() and path.is_dir()]
        return sorted(link for link in links if any(link.glob(os.path.join(*parts[i:]))))

    def _folders(self, depth: int) -> Iterable[Path]:
        """The paths that the first parts of `snapshots` match."""
        return self.root.glob(os.path.join(*Path(self.snapshots).parts[:depth])) if depth else [self.root]

    def catalogue_path(self, snapshot: Path) -> Path | None:
        """The catalogue of a snapshot, None where the suite has none.

        Raises SuiteError unless exactly one file matches.
        """
        if self.catalogue.path is None:
            return None
        stem = snapshot.name.rsplit(".", 1)[0]
        number = _Number(snapshot_number(snapshot, self.format))
        placeholders = {"stem": glob.escape(stem), "name": glob.escape(snapshot.name), "number": number}
        try:
            # Only `path` may have wildcards: such characters in the snapshot's name are escaped.
            pattern = self.catalogue.path.format(**placeholders)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise SuiteError(
                f"suite {self.name}: catalogue path {self.catalogue.path!r} may use {{name}}, {{stem}} and "
                f"{{number}}, of which {snapshot.name} has {str(number) or 'none'}"
            ) from error
        for folder in (snapshot.parent, self.root):
            # os.path.join drops the folder where the pattern is absolute.
            path = os.path.join(glob.escape(str(folder)), os.path.expanduser(pattern))
            # glob would look at a name without wildcards once more.
            matches = glob.glob(path, recursive=True) if glob.has_magic(path) else [path]
            files = sorted(Path(match) for match in matches if os.path.isfile(match))
            if len(files) > 1:
                raise SuiteError(f"{snapshot}: {len(files)} files match {pattern} in {folder}; say which by `path`")
            if files:
                return files[0]
        searched = pattern if os.path.isabs(pattern) else f"{pattern} beside it or in {self.root}"
        raise SuiteError(f"{snapshot}: no catalogue {searched}; check `catalogue.path`")

    def galaxy_name(self, snapshot: Path, halo: str) -> str:
        """A galaxy's name, the same in every run: the path of its file below `root`, and the name of its halo."""
        relative = snapshot.relative_to(self.root) if snapshot.is_relative_to(self.root) else snapshot
        stem = re.sub(
            r"(\.0)?\.(hdf5|h5)$", "", relative.as_posix()
        )  # a Tipsy file has no suffix, but ends in its number
        return f"{stem.replace('/', '.')}:{halo}"


def _is_file_or_fails(path: Path) -> bool:
    """Whether a path is a file, or cannot be looked at: a link to nothing, or on a disk that fails.

    Such a one is a snapshot that cannot be read, of which its listing tells; from Python 3.13 on `is_file` is false for
    it, and its galaxies would be missing without a word.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def load_suite(path: Path, root: Path | None = None) -> Suite:
    """Read and check a suite file; `root` overrides its own. Raises SuiteError naming the key that is wrong."""
    try:
        suite = read_checked(path, Suite)
    except ValueError as error:
        raise SuiteError(str(error)) from error
    root = root or path.resolve().parent / os.path.expanduser(suite.root)  # `~nobody` stays as it is
    return suite.model_copy(update={"root": root})
