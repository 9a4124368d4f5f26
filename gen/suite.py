"""The YAML file that describes one suite, checked before anything runs."""

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator, model_validator

from gen.formats import FORMATS


class SuiteError(ValueError):
    """A suite file that cannot work: the message says which key and what it may be."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Catalogue(_Section):
    """Where the galaxies are. `path` may use {name}, {stem} and {number} (the last digits) of the snapshot's file."""

    format: Literal["ahf", "subfind", "table", "none"] = "none"
    path: str | None = None

    @model_validator(mode="after")
    def _path_goes_with_format(self) -> "Catalogue":
        if (self.format == "none") != (self.path is None):
            raise ValueError("`path` goes with every format but none")
        return self


class Components(_Section):
    """Particle types of each component; the format's own choice where left out."""

    gas: list[str] | None = None
    stars: list[str] | None = None
    dark: list[str] | None = None
    black_holes: list[str] | None = None


class Units(_Section):
    """Worth of one code unit where the file does not say, before factors of a and h."""

    length_kpc: PositiveFloat | None = None
    mass_msun: PositiveFloat | None = None
    velocity_kms: PositiveFloat | None = None


class Aperture(_Section):
    """Radius of the sphere that is the galaxy: a length, or a multiple of the catalogue's R200."""

    kpc: PositiveFloat | None = None
    r200: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "Aperture":
        if (self.kpc is None) == (self.r200 is None):
            raise ValueError("give exactly one of `kpc` and `r200`")
        return self


class Selection(_Section):
    """Which galaxies are mapped."""

    min_stars: int = Field(default=200, ge=1)
    max_galaxies: int | None = Field(default=None, ge=1)


class Suite(_Section):
    """One suite of simulated galaxies."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    format: str
    snapshots: str
    catalogue: Catalogue = Catalogue()
    particles: Components = Components()
    units: Units = Units()
    aperture: Aperture
    selection: Selection = Selection()
    lineage: str | None = None  # regular expression on a galaxy's name; what it finds names the galaxy's history
    root: Path = Path(".")  # where the patterns start from, relative to the suite file

    @model_validator(mode="after")
    def _known_format(self) -> "Suite":
        if Path(self.snapshots).is_absolute():
            raise ValueError("`snapshots` is a pattern below `root`; put the absolute part there")
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is not one of {', '.join(FORMATS)}")
        return self

    @field_validator("lineage")
    @classmethod
    def _is_expression(cls, lineage: str | None) -> str | None:
        try:
            re.compile(lineage or "")
        except re.error as error:
            raise ValueError(f"{lineage!r} is no regular expression ({error})") from error
        return lineage

    def lineage_of(self, galaxy: str, of_catalogue: str | None) -> str:
        """The history a galaxy belongs to: what its catalogue says, what `lineage` finds in its name, or its name.

        All galaxies of one lineage fall on the same side of a split. With groups in the expression
        they are joined. Raises SuiteError when it finds nothing.
        """
        if of_catalogue is not None:
            return of_catalogue
        if self.lineage is None:
            return galaxy
        if not (found := re.search(self.lineage, galaxy)):
            raise SuiteError(f"suite {self.name}: `lineage` {self.lineage!r} finds nothing in the name {galaxy}")
        return "-".join(g or "" for g in found.groups()) or found[0]

    def snapshot_paths(self) -> list[Path]:
        """The snapshot files, sorted. Raises SuiteError when the pattern matches none."""
        paths = sorted(p for p in self.root.glob(self.snapshots) if p.is_file())
        if not paths:
            raise SuiteError(f"suite {self.name}: no file matches {self.root / self.snapshots}; check `snapshots`")
        return paths

    def catalogue_path(self, snapshot: Path) -> Path | None:
        """The catalogue that belongs to a snapshot. Raises SuiteError when it is not there."""
        if self.catalogue.path is None:
            return None
        stem = snapshot.name.rsplit(".", 1)[0]
        digits = re.findall(r"\d+", stem)
        number = digits[-1] if digits else ""
        pattern = self.catalogue.path.format(stem=stem, name=snapshot.name, number=number)
        for folder in (snapshot.parent, self.root):
            found = sorted(folder.glob(pattern))
            if found:
                return found[0]
        raise SuiteError(f"{snapshot}: no catalogue {pattern} beside it or in {self.root}")

    def galaxy_name(self, snapshot: Path, halo: str) -> str:
        """A name that stays the same from run to run: the file's path under the suite, and the halo."""
        relative = snapshot.relative_to(self.root) if snapshot.is_relative_to(self.root) else snapshot
        return f"{relative.as_posix().rsplit('.', 1)[0].replace('/', '.')}:{halo}"


def load_suite(path: Path, root: Path | None = None) -> Suite:
    """Read and check a suite file; `root` overrides its own. Raises SuiteError naming the key that is wrong."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise SuiteError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(content, dict):
        raise SuiteError(f"{path}: a suite file is a list of `key: value`; known keys: {known_keys(Suite)}")
    try:
        suite = Suite(**{str(k): v for k, v in content.items()})
    except ValidationError as error:
        raise SuiteError("\n".join(_sentence(path, problem) for problem in error.errors())) from error
    return suite.model_copy(update={"root": root or path.resolve().parent / suite.root})


def known_keys(model: type[BaseModel]) -> str:
    """The keys of a section, for messages."""
    return ", ".join(model.model_fields)


def _sentence(path: Path, problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    section: Any = Suite
    for part in problem["loc"][:-1]:
        if isinstance(part, str) and part in getattr(section, "model_fields", {}):
            section = section.model_fields[part].annotation
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key `{where}`; known keys: {known_keys(section)}"
    if problem["type"] == "missing":
        return f"{path}: key `{where}` is missing; known keys: {known_keys(section)}"
    return f"{path}: `{where or 'suite'}`: {problem['msg']}"
