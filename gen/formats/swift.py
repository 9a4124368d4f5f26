"""SWIFT snapshots (COLIBRE, FLAMINGO, SWIFT-EAGLE): no factors of h, peculiar velocities, kernel lengths of 2 sigma."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import SnapshotError
from kinmass.gen.formats.gadget import Gadget
from kinmass.gen.formats.gadget_header import check_no_redshift, expansion_unsaid, header, scalar, scale_factor
from kinmass.gen.formats.gadget_units import UnitScaling, in_round_units
from kinmass.gen.formats.smoothing import KERNEL_GAMMA, Smoothing, swift_smoothing

#: The kernel of COLIBRE and SWIFT-EAGLE, taken where a file, such as a cutout, has lost its HydroScheme group.
USUAL_KERNEL = "Quartic spline (M5)"
UNNAMED_KERNEL = (
    "no HydroScheme group that names the kernel: the quartic spline of COLIBRE and SWIFT-EAGLE is assumed; others are "
    "up to a tenth narrower or a fifth wider. Copy the group from the original snapshot"
)


class Swift(Gadget):
    """SWIFT (its documentation, Snapshots): single, distributed or virtual files, staged as plain Gadget.

    The Header's BoxSize is a vector in comoving units and its Time is no scale factor; the Cosmology group has a and h.
    """

    name = "swift"
    components: ClassVar[dict[str, list[str]]] = {
        "gas": ["PartType0"],
        "stars": ["PartType4"],
        "dark": ["PartType1", "PartType2"],
        "black_holes": ["PartType5", "PartType3"],  # PartType3 are sinks: their mass counts, but no map shows them
    }
    default: ClassVar[dict[str, UnitScaling]] = {
        "length_kpc": (1000.0, 1.0, 0.0),
        "mass_msun": (1e10, 0.0, 0.0),
        "velocity_kms": (1.0, 0.0, 0.0),
    }
    default_words = "comoving Mpc, 1e10 Msun, km/s"
    left_out = frozenset({"PartType6"})  # neutrinos

    def _from_groups(
        self, path: Path, file: h5py.File, overruled: Collection[str]
    ) -> tuple[dict[str, UnitScaling], str]:
        attrs = file["Units"].attrs if "Units" in file else {}
        names = [f"Unit {what}" for what in ("length in cgs (U_L)", "mass in cgs (U_M)", "time in cgs (U_t)")]
        if any(name not in attrs for name in names):
            return {}, ""
        length, mass, time = (scalar(attrs[name], name) for name in names)
        units = dict(zip(self.default, (length / KPC_CM, mass / MSUN_G, length / time / KMS_CM_S), strict=True))
        return {k: (in_round_units(unit), *self.default[k][1:]) for k, unit in units.items()}, "the file's Units group"

    def _cosmology(self, path: Path, file: h5py.File, cosmological: bool | None) -> tuple[float, float, bool]:
        attrs = dict(file["Header"].attrs)
        cosmology_attrs = dict(file["Cosmology"].attrs) if "Cosmology" in file else {}
        z = scalar((cosmology_attrs | attrs).get("Redshift", 0.0), "Redshift")
        if cosmological is None:  # a cutout without the Cosmology group has a scale factor or a redshift
            comoving_flag = cosmology_attrs.get("Cosmological run", "Scale-factor" in attrs or z != 0)
            cosmological = scalar(comoving_flag, "Cosmological run") != 0
            if "Cosmological run" not in cosmology_attrs and not {"Scale-factor", "Redshift"} & attrs.keys():
                raise expansion_unsaid(path, "Scale-factor", "Redshift", "Cosmology group")
            if not cosmological:
                check_no_redshift(path, z)
        if not cosmological:
            return 1.0, 1.0, False
        h = scalar(cosmology_attrs.get("h", attrs.get("HubbleParam", 1.0)), "h")
        names = ("Scale-factor",)
        told = [scale_factor(path, of, names) for of in (attrs, cosmology_attrs) if {*names, "Redshift"} & of.keys()]
        if told and not np.allclose(told, told[0], rtol=1e-3):
            raise SnapshotError(
                f"{path}: a = {told[0]:.6g} by its Header, and {told[1]:.6g} by its Cosmology group; is one of them "
                "another snapshot's? Repair it"
            )
        return scale_factor(path, cosmology_attrs | attrs, names), h, True

    def _columns(self, ptype: str, group: h5py.Group) -> dict[str, str]:
        named_columns = group.file.get("SubgridScheme/NamedColumns", {})
        if (
            ptype != "PartType0"
            or "SpeciesFractions" not in named_columns
            or "ElementMassFractions" not in named_columns
        ):
            return {}
        molecules = any(bytes(name).strip(b"\0 ") == b"H2" for name in named_columns["SpeciesFractions"][()])
        return {
            "NeutralHydrogenAbundance": "SpeciesFractions[HI]",
            "HydrogenFraction": "ElementMassFractions[Hydrogen]",
            **({"MolecularHydrogenAbundance": "SpeciesFractions[H2]"} if molecules else {}),
        }

    def smoothing(self, path: Path) -> Smoothing:
        """Return the convention of the HydroScheme group's kernel. Raises SnapshotError for an unknown kernel."""
        header(path)
        with h5py.File(path, "r") as file:
            attrs = dict(file["HydroScheme"].attrs) if "HydroScheme" in file else {}
        kernel = np.ravel(np.asarray(attrs.get("Kernel function", USUAL_KERNEL)))[0]
        kernel = kernel.decode() if isinstance(kernel, bytes) else str(kernel)
        if kernel not in KERNEL_GAMMA:
            raise SnapshotError(f"{path}: unknown kernel {kernel!r}; known are {', '.join(KERNEL_GAMMA)}")
        smoothing = swift_smoothing(KERNEL_GAMMA[kernel], scalar(attrs.get("Kernel eta", 1.2348), "Kernel eta"))
        return smoothing if "Kernel function" in attrs else replace(smoothing, assumed=UNNAMED_KERNEL)
