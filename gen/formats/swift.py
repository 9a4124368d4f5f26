"""SWIFT snapshots (COLIBRE, FLAMINGO, SWIFT-EAGLE): no factors of h, peculiar velocities, lengths of 2 sigma."""

from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import SnapshotError
from kinmass.gen.formats.gadget import Gadget, Worth, check_no_redshift, header, in_round_units, scalar, scale_factor
from kinmass.gen.formats.smoothing import KERNEL_GAMMA, Smoothing, of_kernel


class Swift(Gadget):
    """SWIFT (documentation, Snapshots): staged as plain Gadget, single, distributed or virtual files.

    Header BoxSize is a vector in comoving units; Time is a time; the Cosmology group has a and h.
    """

    name = "swift"
    components: ClassVar[dict[str, list[str]]] = {
        "gas": ["PartType0"],
        "stars": ["PartType4"],
        "dark": ["PartType1", "PartType2"],
        "black_holes": ["PartType5", "PartType3"],  # 3 are sinks: mass that no map shows
    }
    default: ClassVar[dict[str, Worth]] = {
        "length_kpc": (1000.0, 1.0, 0.0),
        "mass_msun": (1e10, 0.0, 0.0),
        "velocity_kms": (1.0, 0.0, 0.0),
    }
    default_words = "comoving Mpc, 1e10 Msun, km/s"

    def _from_groups(self, file: h5py.File) -> tuple[dict[str, Worth], str]:
        attrs = file["Units"].attrs if "Units" in file else {}
        names = [f"Unit {what}" for what in ("length in cgs (U_L)", "mass in cgs (U_M)", "time in cgs (U_t)")]
        if any(name not in attrs for name in names):
            return {}, ""
        length, mass, time = (scalar(attrs[name]) for name in names)
        worth = dict(zip(self.default, (length / KPC_CM, mass / MSUN_G, length / time / KMS_CM_S), strict=True))
        return {k: (in_round_units(w), *self.default[k][1:]) for k, w in worth.items()}, "the file's Units group"

    def _cosmology(self, path: Path, file: h5py.File, cosmological: bool | None) -> tuple[float, float, bool]:
        attrs = dict(file["Header"].attrs)
        known = dict(file["Cosmology"].attrs) if "Cosmology" in file else {}
        z = scalar((known | attrs).get("Redshift", 0.0))
        if cosmological is None:  # a cutout without the Cosmology group still has its scale factor or its redshift
            said = known.get("Cosmological run", "Scale-factor" in attrs or z != 0)
            cosmological = scalar(said) != 0
            if not cosmological:
                check_no_redshift(path, z)
        if not cosmological:
            return 1.0, 1.0, False
        h = scalar(known.get("h", attrs.get("HubbleParam", 1.0)))
        return scale_factor(path, known | attrs, ("Scale-factor",)), h, True

    def _columns(self, ptype: str, group: h5py.Group) -> dict[str, str]:
        named = group.file.get("SubgridScheme/NamedColumns", {})
        if ptype != "PartType0" or "SpeciesFractions" not in named or "ElementMassFractions" not in named:
            return {}
        molecules = any(bytes(name).strip(b"\0 ") == b"H2" for name in named["SpeciesFractions"][()])
        return {
            "NeutralHydrogenAbundance": "SpeciesFractions[HI]",
            "HydrogenFraction": "ElementMassFractions[Hydrogen]",
            **({"MolecularHydrogenAbundance": "SpeciesFractions[H2]"} if molecules else {}),
        }

    def smoothing(self, path: Path) -> Smoothing:
        """By the HydroScheme group's kernel. Raises SnapshotError for one whose support is not known."""
        header(path)
        with h5py.File(path, "r") as file:
            attrs = dict(file["HydroScheme"].attrs) if "HydroScheme" in file else {}
        kernel = attrs.get("Kernel function", "Quartic spline (M5)")  # SWIFT's default with COLIBRE and EAGLE
        kernel = kernel.decode() if isinstance(kernel, bytes) else str(np.ravel(kernel)[0])
        if kernel not in KERNEL_GAMMA:
            raise SnapshotError(f"{path}: unknown kernel {kernel!r}; known are {', '.join(KERNEL_GAMMA)}")
        return of_kernel(KERNEL_GAMMA[kernel], scalar(attrs.get("Kernel eta", 1.2348)))
