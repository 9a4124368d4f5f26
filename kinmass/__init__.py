"""Mass profiles of galaxies from gas and stellar kinematic maps, learnt from simulations.

  kinmass.open_store("maps.zarr")             the maps and masses of a store's suites
  infer = kinmass.load("runs/both")           a trained network: views in, posterior out
  kinmass.infer("runs/gas", "NGC4451.yaml")   the mass profile of an observed galaxy

Stages are kinmass.gen (simulations to maps), kinmass.train (maps to a posterior), kinmass.eval (posteriors to
tables).
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray

    from kinmass.eval.observed.profile import ObservedProfile
    from kinmass.train import Inference

try:
    __version__ = version("kinmass")
except PackageNotFoundError:  # the package is used without being installed
    __version__ = "unknown"


def open_store(path: Path | str) -> "xarray.DataTree":
    """Open a map store as a tree of lazy arrays, one group per suite; `gen.storage.store.ARRAYS` lists them.

    Galaxies whose status is not 1 (done) may be half written. Raises StoreError when there is no store.

    >>> tree = open_store("maps.zarr")
    >>> sorted(tree.children), tree["quiet"].sizes["view"]
    (['bursty', 'middle', 'quiet'], 2)
    """
    import xarray

    from kinmass.gen.storage.store import suites

    path = Path(path)
    groups = {name: xarray.open_zarr(path, group=name, consolidated=False) for name in suites(path)}
    return xarray.DataTree.from_dict(groups)


def load(run: Path | str) -> "Inference":
    """Load the trained run in a folder, a single network or an ensemble. No code in the folder is executed.

    Raises RunError for a run that is unfinished, damaged or of another schema.
    """
    from kinmass.train import load

    return load(run)


def infer(run: "Inference | Path | str", galaxy: Path | str) -> "ObservedProfile":
    """Infer the mass profile of an observed galaxy that a YAML file describes (docs/howto/galaxy.md).

    run: a loaded run, or its folder. Raises RunError or ValueError that says what is wrong with the run, the file or
    its maps.
    """
    from kinmass.eval.observed.galaxy import read_galaxy
    from kinmass.eval.observed.inference import infer

    return infer(load(run) if isinstance(run, Path | str) else run, read_galaxy(Path(galaxy)))
