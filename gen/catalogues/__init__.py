"""Halo catalogues, one file per format, read into haloes in physical kpc and Msun."""

from collections.abc import Callable

from kinmass.gen.catalogues import adaptahop, ahf, caesar, hbt, rockstar, soap, subfind, table, velociraptor
from kinmass.gen.catalogues.base import Halo, Kinds

#: Formats that count particles by their type, whose readers are told which types are stars (`base.Kinds`).
BY_TYPE = ("subfind", "eagle_subfind", "hbt")
#: Per format, the function from (catalogue, snapshot, the snapshot's units) to all centrals and satellites.
READERS: dict[str, Callable[..., list[Halo]]] = {
    "adaptahop": adaptahop.read,
    "ahf": ahf.read,
    "subfind": subfind.read,
    "eagle_subfind": subfind.read_eagle,
    "caesar": caesar.read,
    "hbt": hbt.read,
    "rockstar": rockstar.read,
    "soap": soap.read,
    "table": table.read,
    "velociraptor": velociraptor.read,
}

__all__ = ["BY_TYPE", "READERS", "Halo", "Kinds"]
