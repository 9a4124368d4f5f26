"""One file per family of snapshot formats: how it is read through yt, and how the mocks write it."""

from kinmass.gen.formats.base import CodeUnits, Format, SnapshotError
from kinmass.gen.formats.gadget import Arepo, Eagle, Gadget, Gizmo, Simba
from kinmass.gen.formats.gadget_binary import GadgetBinary
from kinmass.gen.formats.swift import Swift
from kinmass.gen.formats.tipsy import Tipsy

FORMATS: dict[str, Format] = {
    f.name: f for f in (Tipsy(), Arepo(), Gizmo(), Gadget(), GadgetBinary(), Simba(), Eagle(), Swift())
}

__all__ = ["FORMATS", "CodeUnits", "Format", "SnapshotError"]
