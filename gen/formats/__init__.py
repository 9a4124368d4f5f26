"""Snapshot formats, one file per family: reading through yt, and writing for the mocks."""

from kinmass.gen.formats.art import Art
from kinmass.gen.formats.base import CodeUnits, Format, SnapshotError
from kinmass.gen.formats.enzo import Enzo
from kinmass.gen.formats.gadget import Arepo, Eagle, Gadget, Gizmo, Simba
from kinmass.gen.formats.gadget_binary import GadgetBinary
from kinmass.gen.formats.ramses import Ramses
from kinmass.gen.formats.swift import Swift
from kinmass.gen.formats.tipsy import Tipsy

#: The reader of each format by its name in suite files.
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (Tipsy(), Arepo(), Gizmo(), Gadget(), GadgetBinary(), Simba(), Eagle(), Swift(), Ramses(), Enzo(), Art())
}

__all__ = ["FORMATS", "CodeUnits", "Format", "SnapshotError"]
