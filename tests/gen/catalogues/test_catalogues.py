"""Halo catalogues, as their programs write them, are read in physical kpc and Msun; selections apply all cuts."""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import bricks
import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table
from layouts import edit, set_attrs

from kinmass.gen.campaign.plan import list_tasks
from kinmass.gen.catalogues import BY_TYPE, READERS, Halo, Kinds, table
from kinmass.gen.catalogues.base import OtherEpoch
from kinmass.gen.catalogues.find import chosen, files_of, find_haloes, usable
from kinmass.gen.constants import KPC_CM, MSUN_G, G
from kinmass.gen.formats import FORMATS, CodeUnits, SnapshotError
from kinmass.gen.formats.recognise import catalogue_format, recognised
from kinmass.gen.suite import Catalogue, Selection, SuiteError, load_suite, snapshot_number

A, H = 0.5, 0.7
UNITS = CodeUnits(A / H, 1e10 / H, np.sqrt(A), 10_000 * A / H, A, H)
SNAPSHOT = Path("run/snap_099.0.hdf5")

# Two groups: a central with two satellites, and a central alone; physical kpc and Msun.
CENTRE = np.array([[10.0, 20.0, 30.0], [12.0, 19.0, 33.0], [40.0, 2.0, 30.0], [900.0, 2000.0, 3000.0]])
CENTRAL = np.array([True, False, False, True])
GROUP = np.array([0, 0, 0, 1])
R200 = np.array([210.0, np.nan, np.nan, 95.0])
HALO_MASS = np.array([1.1e12, 4e10, 3e9, 9e10])
STARS = np.array([5e10, 2e9, 1e8, 3e8])
N_STARS = np.array([50_000, 2000, 100, 300])
N_ALL = np.array([900_000, 40_000, 3000, 80_000])
HIGH_RES = np.array([1.0, 0.75, 0.5, 1.0])
TRACK = np.array([7, 8, 3_000_000_000, 2])


def by_type(values: np.ndarray, low: Any = 0) -> np.ndarray:
    """Return columns (N, 6) of the particle types, with `values` for stars and `low` for type 3, low resolution."""
    table = np.zeros((len(values), 6), dtype=values.dtype)
    table[:, 4], table[:, 3] = values, low
    return table


def write_ahf(folder: Path) -> Path:
    # AHF v1.0 writes a tab after every column, long IDs, and 0 for no host.
    ids = 128000000000000001 + np.arange(4)
    hosts = np.where(CENTRAL, 0, ids[0])
    names = "ID hostHalo numSubStruct Mvir npart Xc Yc Zc VXc VYc VZc Rvir fMhires n_gas M_gas n_star M_star"
    lines = ["#" + "".join(f"{name}({i + 1})\t" for i, name in enumerate(names.split()))]
    pos, rvir = CENTRE * H / A, np.where(CENTRAL, R200, 7.0) * H / A
    for i in range(4):
        row = [ids[i], hosts[i], 0, HALO_MASS[i] * H, N_ALL[i], *pos[i], 0.0, 0.0, 0.0, rvir[i], HIGH_RES[i], 0, 0.0]
        lines.append("".join(f"{value!s}\t" for value in [*row, N_STARS[i], STARS[i] * H]))
    path = folder / f"snap.z{1 / A - 1:.3f}.AHF_halos"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_subfind(folder: Path, length: float = 1.0, units_group: str | None = None) -> Path:
    """Write three files, the middle one empty; `length` kpc per unit, in attributes of a group named `units_group`."""
    pos, r200 = CENTRE * H / A / length, np.array([R200[0], 0.0, R200[3]]) * H / A / length
    mass = 1e10 / H
    low_res_mass = (1 - HIGH_RES) * HALO_MASS / mass
    groups = {
        # The second group has no subhalo; older codes then write the first subhalo of the next group.
        "Group_R_Crit200": np.float32(r200), "GroupFirstSub": np.int32([0, 3, 3]), "GroupNsubs": np.int32([3, 0, 1]),
        "Group_M_Crit200": np.float32(np.array([HALO_MASS[0], 1e8, HALO_MASS[3]]) / mass),
        "GroupPos": np.float32(pos[[0, 0, 3]]),
    }  # fmt: skip
    masses = by_type(STARS / mass, low_res_mass)
    masses[:, 1] = HALO_MASS / mass - masses.sum(axis=1)
    subhaloes = {
        "SubhaloPos": np.float32(pos), "SubhaloLen": np.int32(N_ALL), "SubhaloLenType": by_type(np.int32(N_STARS)),
        "SubhaloMass": np.float32(HALO_MASS / mass), "SubhaloMassType": np.float32(masses),
        "SubhaloGrNr": np.int32([0, 0, 0, 2]), "SubhaloFlag": np.ones(4, dtype=bool),
    }  # fmt: skip
    for number, (group_rows, sub_rows) in enumerate(
        [(slice(0, 1), slice(0, 2)), (slice(0), slice(0)), (slice(1, 3), slice(2, 4))]
    ):
        with h5py.File(folder / f"fof_subhalo_tab_099.{number}.hdf5", "w") as file:
            header_attrs = file.create_group("Header").attrs
            header_attrs["Ngroups_Total"], header_attrs["Nsubgroups_Total"] = np.int32(3), np.int32(4)
            header_attrs["NumFiles"], header_attrs["Time"], header_attrs["Redshift"] = np.int32(3), A, 1 / A - 1
            for name, columns, rows in (("Group", groups, group_rows), ("Subhalo", subhaloes, sub_rows)):
                group = file.create_group(name)
                for key, values in columns.items() if number != 1 else ():
                    group[key] = values[rows]
            if units_group:
                attrs = file.require_group(units_group).attrs
                attrs["UnitLength_in_cm"] = np.array([length * KPC_CM * 1.0001])
                attrs["UnitMass_in_g"] = np.array([1.989e43])
    return folder / "fof_subhalo_tab_099.0.hdf5"


def write_eagle(folder: Path) -> Path:
    mass = 1e10 / H
    scales = {"length": (KPC_CM * 1000 * 1.000001, 1.0, -1.0), "mass": (1.989e43, 0.0, -1.0), "": (1.0, 0.0, 0.0)}
    fof = {
        "Group_R_Crit200": (np.float32(np.array([R200[0], R200[3], 0.0]) * H / A / 1000), "length"),
        "Group_M_Crit200": (np.float32(np.array([HALO_MASS[0], HALO_MASS[3], 1e8]) / mass), "mass"),
        # The last group is empty: its first subhalo is one too many.
        "FirstSubhaloID": (np.uint32([0, 3, 4]), ""), "NumOfSubhalos": (np.int32([3, 1, 0]), ""),
    }  # fmt: skip
    low_res_mass = (1 - HIGH_RES) * HALO_MASS / mass
    masses = by_type(1.3 * STARS / mass, low_res_mass)
    masses[:, 1] = HALO_MASS / mass - masses.sum(axis=1)
    subhaloes = {
        "CentreOfPotential": (CENTRE * H / A / 1000, "length"), "GroupNumber": (np.int32(GROUP + 1), ""),
        "SubGroupNumber": (np.int32([0, 1, 2, 0]), ""), "SubLength": (np.int32(N_ALL), ""),
        "SubLengthType": (by_type(np.int32(N_STARS)), ""), "Mass": (np.float32(HALO_MASS / mass), "mass"),
        "MassType": (np.float32(masses), "mass"),
        "ApertureMeasurements/Mass/030kpc": (np.float32(by_type(STARS / mass)), "mass"),
    }  # fmt: skip
    name = "eagle_subfind_tab_028_z000p000"
    for number, (group_rows, sub_rows) in enumerate([(slice(0, 1), slice(0, 1)), (slice(1, 3), slice(1, 4))]):
        with h5py.File(folder / f"{name}.{number}.hdf5", "w") as file:
            attrs = file.create_group("Header").attrs
            attrs["TotNgroups"], attrs["TotNsubgroups"], attrs["NTask"] = np.int32([3]), np.int32([4]), np.int32([2])
            attrs["Redshift"], attrs["HubbleParam"] = np.array([1 / A - 1]), np.array([H])
            for group, columns, rows in (("FOF", fof, group_rows), ("Subhalo", subhaloes, sub_rows)):
                for key, (values, kind) in columns.items():
                    data = file.create_dataset(f"{group}/{key}", data=values[rows])
                    names = ("CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent")
                    data.attrs.update(dict(zip(names, scales[kind], strict=True)))
    return folder / f"{name}.0.hdf5"


def write_caesar(folder: Path) -> Path:
    path = folder / "m100n1024_099.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["ngalaxies"], file.attrs["nhalos"] = 4, 3
        simulation = file.create_group("simulation_attributes").attrs
        simulation["redshift"], simulation["hubble_constant"], simulation["scale_factor"] = 1 / A - 1, H, A
        galaxy, halo = file.create_group("galaxy_data"), file.create_group("halo_data")

        def write(group: h5py.Group, name: str, values: Any, unit: str | None = None) -> None:
            data = group.create_dataset(name, data=values)
            if unit:
                data.attrs["unit"] = unit.encode()

        write(galaxy, "GroupID", np.int32(np.arange(4)))
        write(galaxy, "minpotpos", CENTRE / A, "kpccm")
        write(galaxy, "pos", CENTRE / A + 5.0, "kpccm")
        write(galaxy, "central", CENTRAL)
        write(galaxy, "parent_halo_index", np.int32(np.where(GROUP == 0, 2, 0)))
        write(galaxy, "nstar", np.int32(N_STARS))
        write(galaxy, "ngas", np.int32(N_ALL - N_STARS - 1))
        write(galaxy, "nbh", np.int32(np.ones(4)))
        write(galaxy, "dicts/masses.stellar", STARS, "Msun")
        write(halo, "dicts/virial_quantities.r200c", np.array([R200[3], 1.0, R200[0]]) / A, "kpccm")
        write(halo, "dicts/virial_quantities.m200c", np.array([HALO_MASS[3], 1e8, HALO_MASS[0]]), "Msun")
    return path


def write_rockstar(folder: Path, mvir_only: bool = False) -> Path:
    om, ol = 0.3, 0.7
    hubble = 0.1 * H * np.sqrt(om / A**3 + ol)
    names = f"ID DescID M200b Vmax Vrms R200b Rs Np X Y Z {'Mvir' if mvir_only else 'M200c'} T/|U| Type SM"
    lines = [f"#{names} m200b_hires m200b_lowres PID", f"#a = {A:f}"]
    lines += [f"#Om = {om:f}; Ol = {ol:f}; h = {H:f}", "#FOF linking length: 0.280000", "#Particle mass: 1e+05 Msun/h"]
    lines += ["#Units: Masses in Msun / h", "#Units: Positions in Mpc / h (comoving)"]
    for i in range(4):
        m200c = 100 * hubble**2 * np.nan_to_num(R200[i]) ** 3 / G if not mvir_only else HALO_MASS[i]
        row = [
            6723 + i,
            -1,
            f"{HALO_MASS[i] * H:.4e}",
            2.1,
            3.6,
            f"{np.nan_to_num(R200[i]) * H / A:.3f}",
            0.1,
            N_ALL[i],
        ]
        row += [f"{x:.7f}" for x in CENTRE[i] * H / A / 1000]
        row += [f"{m200c * H:.6e}", "nan", 0, f"{STARS[i] * H:.4e}", HIGH_RES[i], 1 - HIGH_RES[i]]
        lines.append(" ".join(map(str, [*row, -1 if CENTRAL[i] else 6723])))
    path = folder / "out_99.list"
    path.write_text("\n".join(lines) + "\n")
    return path


CGS = "Conversion factor to CGS (not including cosmological corrections)"


def soap_dataset(file: h5py.File, name: str, values: Any, unit: float = 1.0, length: int = 0, mass: int = 0, a: int = 0,
                 physical: bool = True) -> None:  # fmt: skip
    """As SOAP writes it: `unit` in cgs without factors of a, which comoving numbers have."""
    file[name] = values
    attrs = {
        CGS: unit,
        "Conversion factor to physical CGS (including cosmological corrections)": unit * (1 if physical else A**a),
        "U_L exponent": length, "U_M exponent": mass, "a-scale exponent": a, "h-scale exponent": 0.0,
    }  # fmt: skip
    file[name].attrs.update({key: [float(value)] for key, value in attrs.items()})
    file[name].attrs["Value stored as physical"] = [int(physical)]


def write_soap(folder: Path) -> Path:
    mpc, mass = 1000 * KPC_CM, 1e10 * MSUN_G
    path = folder / "halo_properties_0099.hdf5"
    with h5py.File(path, "w") as file:
        attrs = file.create_group("Header").attrs
        attrs["Code"], attrs["OutputType"], attrs["NumSubhalos_Total"] = "SOAP", "SOAP", np.int32([4])
        attrs["Redshift"], attrs["Scale-factor"] = [1 / A - 1], [A]
        soap_dataset(file, "InputHalos/HaloCentre", CENTRE / A / 1000, mpc, length=1, a=1, physical=False)
        for name, values in (("IsCentral", CENTRAL), ("NumberOfBoundParticles", N_ALL), ("HBTplus/TrackId", TRACK)):
            soap_dataset(file, f"InputHalos/{name}", np.int64(values))
        of_centrals = np.where(CENTRAL, [R200, HALO_MASS / 1e10], 0.0)
        soap_dataset(file, "SO/200_crit/SORadius", of_centrals[0] / 1000, mpc, length=1, a=1)
        soap_dataset(file, "SO/200_crit/TotalMass", of_centrals[1], mass, mass=1)
        bound = np.where(CENTRAL, 0.8 * HALO_MASS, HALO_MASS) / 1e10
        soap_dataset(file, "BoundSubhalo/TotalMass", bound, mass, mass=1)
        soap_dataset(file, "BoundSubhalo/StellarMass", STARS / 1e10, mass, mass=1)
        soap_dataset(file, "BoundSubhalo/NumberOfStarParticles", np.uint32(N_STARS))
    return path


#: What HBT's numbers are to be multiplied with, in Mpc/h and Msun/h: SWIFT's Mpc and 1e10 Msun.
HBT_UNITS = {"LengthInMpch": H, "MassInMsunh": 1e10 * H, "VelInKmS": 1.0}


def write_hbt(folder: Path) -> Path:
    """Records as three processes of HBT-HERONS write them; the fifth is an orphan of one star, as in HBT+."""
    rows, is_orphan = np.array([0, 1, 2, 3, 3]), np.arange(5) == 4
    bound = np.where(CENTRAL, 0.8 * HALO_MASS, HALO_MASS)
    of_centrals = np.nan_to_num(np.where(CENTRAL, [R200 / A / 1000, HALO_MASS / 1e10], 0.0))
    columns = {
        "TrackId": np.append(TRACK, 4), "Nbound": np.where(is_orphan, 1, N_ALL[rows]),
        "Mbound": np.where(is_orphan, 0.0, bound[rows] / 1e10), "HostHaloId": np.array([0, 0, 0, -1, 0]),
        "Rank": np.array([0, 1, 2, 0, 3]), "ComovingMostBoundPosition": CENTRE[rows] / A / 1000,
        "ComovingAveragePosition": CENTRE[rows] / A / 1000 + 0.01,
        "NboundType": by_type(np.where(is_orphan, 1, N_STARS[rows])),
        "MboundType": np.float32(by_type(STARS[rows] / 1e10)),
        "BoundR200CritComoving": np.float32(of_centrals[0][rows]), "BoundM200Crit": np.float32(of_centrals[1][rows]),
    }  # fmt: skip
    records = np.empty(5, dtype=[(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        records[name] = values
    for part, own in enumerate((slice(0, 2), slice(0), slice(2, 5))):
        with h5py.File(folder / f"SubSnap_099.{part}.hdf5", "w") as file:
            file["Subhalos"] = records[own]
            file["NumberOfFiles"], file["NumberOfSubhalosInAllFiles"] = np.array([3]), np.array([5])
            file["SnapshotId"], file["Cosmology/ScaleFactor"] = np.array([99]), np.array([A])
            for name, value in HBT_UNITS.items():
                file[f"Units/{name}"] = np.array([value])
    return folder / "SubSnap_099.0.hdf5"


def sort_hbt(first: Path) -> Path:
    """Sort a catalogue's rows by TrackId into datasets, as HERONS's `SortCatalogues` does."""
    path = first.with_name("OrderedSubSnap_099.hdf5")
    with h5py.File(first) as old, h5py.File(path, "w") as new:
        for name in ("Cosmology", "Units"):
            old.copy(name, new)
        parts = [h5py.File(first.with_name(f"SubSnap_099.{part}.hdf5")) for part in range(3)]
        rows = np.concatenate([part["Subhalos"][()] for part in parts])
        for name in rows.dtype.names:
            new[f"Subhalos/{name}"] = rows[np.argsort(rows["TrackId"])][name]
        new["NumberOfSubhalosInAllFiles"] = [5]
        [part.close() for part in parts]
    return path


def write_velociraptor(folder: Path, comoving: bool = False) -> Path:
    """As three of its processes write it: numbers as attributes of the file and, in words, of its groups.

    Comoving numbers have factors of h, physical ones have none. A group of its first search is kept beside the haloes.
    """
    length, mass = (1000 * A / H, 1e10 / H) if comoving else (1000.0, 1e10)
    rows = np.array([0, 1, 2, 3, 3])
    is_group = np.arange(5) == 4
    columns = {
        "ID": np.uint64(np.arange(5) + 1), "hostHaloID": np.int64([-1, 1, 1, -1, -1]), "npart": np.uint64(N_ALL)[rows],
        "Structuretype": np.int32([10, 20, 30, 10, 7]), "n_star": np.uint64(N_STARS)[rows],
        # Subhaloes have such radii and masses as well, of their own particles.
        "R_200crit": np.where(CENTRAL, R200, 7.0)[rows] / length,
        "Mass_200crit": np.where(CENTRAL, HALO_MASS, 1.0)[rows] / mass,
        "Mass_tot": np.where(CENTRAL, 0.8 * HALO_MASS, HALO_MASS)[rows] / mass, "M_star": STARS[rows] / mass,
    }  # fmt: skip
    for axis, name in enumerate("XYZ"):
        columns[f"{name}cmbp"] = CENTRE[rows, axis] / length
        columns[f"{name}c"] = columns[f"{name}cmbp"] + 0.01
    simulation = {"ScaleFactor": A, "h_val": H, "Cosmological_Sim": 1, "Period": 10_000 / length}
    said = {"Length_unit_to_kpc": 1000.0, "Mass_unit_to_solarmass": 1e10, "Comoving_or_Physical": int(comoving)}
    for part, own in enumerate((slice(0, 2), slice(0), slice(2, 5))):
        with h5py.File(folder / f"halos_0099.properties.{part}", "w") as file:
            counts = {"File_id": part, "Num_of_files": 3, "Num_of_groups": len(is_group[own]), "Total_num_of_groups": 5}
            for name, number in counts.items():
                file[name] = np.array([number])
            for name, values in columns.items():
                file[name] = values[own]
            file.attrs.update(said | {"Time": A, "Cosmological_Sim": 1, "Velocity_to_kms": 1.0})
            for name, values in (("UnitInfo", said), ("SimulationInfo", simulation)):
                words = {key: f"{value:f}" if isinstance(value, float) else str(value) for key, value in values.items()}
                file.create_group(name).attrs.update({key: np.bytes_(word) for key, word in words.items()})
    return folder / "halos_0099.properties.0"


def assert_refused(form: str, path: Path, words: str) -> None:
    """A catalogue is refused in these words."""
    with pytest.raises(SnapshotError, match=words):
        find_haloes(form, path, SNAPSHOT, UNITS)


def refused_after(reader: str, write: Callable[[Path], Path], folder: Path, words: str, change: Any) -> None:
    """A catalogue of HDF5 that was changed is refused by its path and these words."""
    path = edit(write(folder), change)
    assert_refused(reader, path, rf"{re.escape(str(path))}: {words}")


def write_table(folder: Path) -> Path:
    unknown = ~CENTRAL
    table = Table({"id": np.arange(4), "snapshot": ["snap_099.0.hdf5"] * 4, "lineage": ["a", "b", "c", "a"]})
    table["x"], table["y"], table["z"] = (CENTRE / 1000).T * u.Mpc
    table["r200"] = MaskedColumn(np.nan_to_num(R200), unit="kpc", mask=unknown)
    table["n_stars"], table["central"], table["high_res_fraction"] = N_STARS, CENTRAL, HIGH_RES
    table["halo_mass"], table["stellar_mass"] = HALO_MASS / 1e3 * u.Unit("1000 solMass"), STARS
    table.add_row([9, "snap_098.0.hdf5", "b", 1, 1, 1, 1, 999, True, 1, 1, 1])
    table.write(folder / "galaxies.ecsv", format="ascii.ecsv")
    return folder / "galaxies.ecsv"


def write_adaptahop(folder: Path) -> Path:
    kind = bricks.KINDS["all particles with low resolution"]
    columns = {"m_vir": HALO_MASS, "r_vir_kpc": np.where(CENTRAL, R200, 7.0), "mass": HALO_MASS, "stars": STARS}
    counts = {"n": N_ALL, "n_stars": N_STARS, "low_res_share": 1 - HIGH_RES}
    return bricks.write(folder / "tree_bricks099", kind, UNITS.box_kpc, A, CENTRE, CENTRAL, **columns, **counts)


WRITERS = {
    "adaptahop": write_adaptahop,
    "ahf": write_ahf,
    "subfind": write_subfind,
    "eagle_subfind": write_eagle,
    "caesar": write_caesar,
    "rockstar": write_rockstar,
    "soap": write_soap,
    "hbt": write_hbt,
    "table": write_table,
    "velociraptor": write_velociraptor,
}
#: Fields that a format does not have, or not for satellites.
LACKS = {
    "caesar": {"high_res_fraction"},
    "hbt": {"high_res_fraction"},
    "soap": {"high_res_fraction"},
    "rockstar": {"n_stars"},
    "table": {"n_particles"},
    "velociraptor": {"high_res_fraction"},
}
LINEAGE = {"table": ["a", "b", "c", "a"], "soap": list(map(str, TRACK)), "hbt": list(map(str, TRACK))}


@pytest.mark.parametrize("form", WRITERS)
def test_what_was_written_comes_back(form, tmp_path):
    path = WRITERS[form](tmp_path)
    assert catalogue_format(path) == (form if h5py.is_hdf5(path) else "")
    haloes = find_haloes(form, path, SNAPSHOT, UNITS)
    assert len({h.name for h in haloes}) == 4
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE, rtol=1e-5, atol=1e-3)
    halo_mass = HALO_MASS.copy()
    if form == "rockstar":  # M200c follows from R200c
        halo_mass = 100 * (0.1 * H) ** 2 * (0.3 / A**3 + 0.7) * R200**3 / G
    if form == "caesar":
        halo_mass[~CENTRAL] = np.nan
    r200 = np.where(CENTRAL, R200, 7.0) if form == "ahf" else R200
    expected = {
        "r200_kpc": r200, "n_stars": N_STARS, "n_particles": N_ALL, "central": CENTRAL, "halo_mass_msun": halo_mass,
        "stellar_mass_msun": STARS, "high_res_fraction": HIGH_RES,
    }  # fmt: skip
    for field, values in expected.items():
        for halo, value in zip(haloes, values, strict=True):
            if field in LACKS.get(form, set()) or np.isnan(value):
                assert getattr(halo, field) in (None, 0.0), (field, halo)
            else:
                # 1.989e33 g of EAGLE's headers is a solar mass.
                assert getattr(halo, field) == pytest.approx(value, rel=2e-5), (field, halo)
    assert [h.lineage for h in haloes] == LINEAGE.get(form, [None] * 4)
    assert (
        set(get_args(Catalogue.model_fields["format"].annotation)) == set(READERS) | {"none"} == set(WRITERS) | {"none"}
    )


@pytest.mark.parametrize("form", WRITERS)
def test_a_catalogue_whose_units_have_factors_of_h_is_refused_where_no_file_says_h(form, tmp_path):
    """A cutout of SWIFT may have lost it; h = 1 would put every galaxy elsewhere without a word."""
    path, unsaid = WRITERS[form](tmp_path), replace(UNITS, hubble=1.0)
    if form in {"ahf", "eagle_subfind", "hbt"}:
        with pytest.raises(SnapshotError, match=rf"{re.escape(path.name)}.*: its units have factors of h, which the s"):
            find_haloes(form, path, SNAPSHOT, unsaid)
    else:
        for halo, other in zip(*(find_haloes(form, path, SNAPSHOT, units) for units in (UNITS, unsaid)), strict=True):
            np.testing.assert_array_equal(halo.centre_kpc, other.centre_kpc)
            assert halo[2:] == other[2:]


def test_subfind_of_gadget4_without_factors_of_h_has_none(tmp_path):
    """Its users' guide, Hubble: HubbleParam may be 1, and the Hubble constant given in internal units."""
    path, units = write_subfind(tmp_path, 1.0, "Parameters"), CodeUnits(A, 1e10, np.sqrt(A), None, A, 1.0)
    with pytest.raises(SnapshotError, match="factors of h, which the snapshot does not say"):
        find_haloes("subfind", path, SNAPSHOT, units)
    for part in tmp_path.iterdir():
        edit(part, lambda file: file["Parameters"].attrs.update({"HubbleParam": 1.0, "Hubble": 0.1 * H}))
    haloes = find_haloes("subfind", path, SNAPSHOT, units)
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE * H, rtol=1e-6)
    assert haloes[3].stellar_mass_msun == pytest.approx(STARS[3] * H, rel=1e-6)


@pytest.mark.parametrize("units_group", ["Units", "Parameters", "Header"])
def test_subfind_in_mpc_says_so_itself(units_group, tmp_path):
    haloes = find_haloes("subfind", write_subfind(tmp_path, 1000.0, units_group), SNAPSHOT, UNITS)
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE, rtol=1e-6)
    assert haloes[3].r200_kpc == pytest.approx(R200[3], rel=1e-6)
    assert haloes[3].halo_mass_msun == pytest.approx(HALO_MASS[3], rel=1e-6)


def test_groups_of_a_catalogue_that_contradict_each_other_on_its_unit_are_refused(tmp_path):
    path = write_subfind(tmp_path, 1000.0, "Parameters")
    edit(path, set_attrs(UnitLength_in_cm=KPC_CM))
    assert_refused("subfind", path, r"UnitLength_in_cm is .* by its Parameters group, and .* Header group")


def test_the_catalogue_of_a_run_without_expansion_has_no_other_factors_of_h_than_its_snapshot(tmp_path):
    """GADGET-4 writes an h, and numbers without it; its snapshot's datasets say so."""
    isolated = CodeUnits(1.0, 1e10, 1.0, None, 1.0, H, cosmological=False)
    path = write_subfind(tmp_path, 1.0, "Parameters")
    for file in tmp_path.glob("*.hdf5"):
        edit(file, set_attrs(Redshift=0.0))
    haloes = find_haloes("subfind", path, SNAPSHOT, isolated)
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE * H / A, rtol=1e-6)
    assert haloes[3].r200_kpc == pytest.approx(R200[3] * H / A, rel=1e-6)
    assert haloes[3].halo_mass_msun == pytest.approx(HALO_MASS[3] * H, rel=1e-6)


def test_groups_without_subhaloes_are_told_by_a_number_without_a_sign(tmp_path):
    """Illustris keeps the -1 of GroupFirstSub so; of few columns, as its API gives, nothing else tells them."""
    path = write_subfind(tmp_path)
    said = find_haloes("subfind", path, SNAPSHOT, UNITS)

    def unsign(file):
        """Make GroupFirstSub of one file what Illustris has, without GroupNsubs."""
        if "GroupNsubs" in file.get("Group", {}):
            first, n = file["Group/GroupFirstSub"][()], file["Group/GroupNsubs"][()]
            del file["Group/GroupFirstSub"], file["Group/GroupNsubs"]
            file["Group/GroupFirstSub"] = np.where(n > 0, first, -1).astype(np.uint32)

    for part in tmp_path.glob("*.hdf5"):
        edit(part, unsign)
    assert list(map(repr, find_haloes("subfind", path, SNAPSHOT, UNITS))) == list(map(repr, said))


def test_a_column_that_some_parts_lack_is_missed(tmp_path):
    """Fragments would be mapped as galaxies where one file of many has lost its SubhaloFlag."""
    path = WRITERS["subfind"](tmp_path)
    edit(tmp_path / "fof_subhalo_tab_099.2.hdf5", lambda file: file.pop("Subhalo/SubhaloFlag"))
    assert_refused("subfind", path, "SubhaloFlag in some parts of this catalogue and not in all")


@pytest.mark.parametrize("form", ["subfind", "eagle_subfind"])
def test_groups_that_are_missing_are_missed(form, tmp_path):
    """Galaxies would have the radii and masses of other groups, which are known by their rows."""
    path = WRITERS[form](tmp_path)
    edit(path, lambda file: file.pop("Group" if form == "subfind" else "FOF"))
    assert_refused(form, path, rf"{re.escape(str(path))}: 2 groups of 3; give the first of all files")


def test_subfind_leaves_out_fragments_and_keeps_the_names(tmp_path):
    first = write_subfind(tmp_path)
    with h5py.File(first, "r+") as file:
        file["Subhalo/SubhaloFlag"][1] = False
    assert [h.name for h in find_haloes("subfind", first, SNAPSHOT, UNITS)] == ["0", "2", "3"]


@pytest.mark.parametrize("form", BY_TYPE)
def test_stars_are_those_of_the_types_that_the_suite_says(form, tmp_path):
    """A disc of stars of type 3, which zooms have as dark matter of low resolution, counts as such elsewhere."""
    path = WRITERS[form](tmp_path)
    usual, declared = (find_haloes(form, path, SNAPSHOT, UNITS, kinds) for kinds in (Kinds(), Kinds((3,), (4,))))
    both = find_haloes(form, path, SNAPSHOT, UNITS, Kinds((3, 4), ()))
    assert usual[0].n_stars == both[0].n_stars > 0
    assert len(usual) == len(both) > len(declared) == 0  # types of which a catalogue has no particles
    if form != "hbt":
        assert usual[1].high_res_fraction == pytest.approx(HIGH_RES[1])
        assert both[1].high_res_fraction == 1
    if form == "subfind":
        coarse_msun = (1 - HIGH_RES) * HALO_MASS
        np.testing.assert_allclose([h.stellar_mass_msun for h in both], STARS + coarse_msun, rtol=1e-6)


def test_what_other_catalogues_say_of_stars_is_unknown_where_these_are_of_other_types(tmp_path):
    (usual, *_), (declared, *_) = (
        find_haloes("ahf", write_ahf(tmp_path), SNAPSHOT, UNITS, kinds) for kinds in (Kinds(), Kinds((2, 4)))
    )
    assert (usual.n_stars, usual.stellar_mass_msun) == (N_STARS[0], pytest.approx(STARS[0]))
    assert (declared.n_stars, declared.stellar_mass_msun) == (None, None)


def test_satellites_without_stars_are_left_out_of_a_million_rows(tmp_path):
    n = 1_000_000
    path = tmp_path / "big.hdf5"
    with h5py.File(path, "w") as file:
        stars = np.zeros(n, dtype=np.int32)
        stars[[7, 500_000]] = 300, 200
        file["Subhalo/SubhaloPos"], file["Subhalo/SubhaloLenType"] = np.ones((n, 3), dtype="f4"), by_type(stars)
        file["Group/GroupFirstSub"], file["Group/Group_R_Crit200"] = np.int32([7]), np.float32([100.0])
    haloes = find_haloes("subfind", path, SNAPSHOT, UNITS)
    assert [(h.name, h.central, h.n_stars) for h in haloes] == [("7", True, 300), ("500000", False, 200)]


def test_caesar_of_a_time_without_galaxies_is_empty(tmp_path):
    path = write_caesar(tmp_path)
    edit(path, lambda file: (file.pop("galaxy_data"), file.pop("halo_data")))
    assert find_haloes("caesar", path, SNAPSHOT, UNITS) == []


def test_caesar_reads_the_units_it_is_told(tmp_path):
    """Old files have only the centre of mass; a unit may have a factor of h, or be unknown."""
    path = write_caesar(tmp_path)
    with h5py.File(path, "r+") as file:
        galaxy = file["galaxy_data"]
        del galaxy["minpotpos"], galaxy["pos"]
        galaxy["pos"] = CENTRE * H / A / 1000
        galaxy["pos"].attrs["unit"] = "Mpccm/h"
        galaxy["dicts/masses.stellar"][...] = STARS * H
        galaxy["dicts/masses.stellar"].attrs["unit"] = "Msun/h"
    haloes = find_haloes("caesar", path, SNAPSHOT, UNITS)
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE)
    np.testing.assert_allclose([h.stellar_mass_msun for h in haloes], STARS)
    edit(path, lambda file: file["galaxy_data/pos"].attrs.update(unit="furlong"))
    assert_refused("caesar", path, "galaxy_data/pos is in 'furlong'")


def test_soap_tells_comoving_numbers_from_physical_ones(tmp_path):
    """Both have the same exponent of a; files of before the difference was told are comoving."""
    haloes = find_haloes("soap", write_soap(tmp_path), SNAPSHOT, UNITS)
    for name, of_halo in (("InputHalos/HaloCentre", "centre_kpc"), ("SO/200_crit/SORadius", "r200_kpc")):
        for physical in (True, False, None):
            path = write_soap(tmp_path)
            with h5py.File(path, "r+") as file:
                attrs = file[name].attrs
                was_physical = int(attrs["Value stored as physical"][0])
                del attrs["Value stored as physical"]
                if physical is not None:
                    attrs["Value stored as physical"] = [int(physical)]
            ratio = A ** (was_physical - int(bool(physical)))
            for halo, other in zip(find_haloes("soap", path, SNAPSHOT, UNITS), haloes, strict=True):
                value, before = getattr(halo, of_halo), getattr(other, of_halo)
                assert (value is before is None) or np.allclose(value, ratio * before, rtol=1e-12)


def test_a_subset_of_soaps_subhaloes_is_whole_by_its_own_number(tmp_path):
    """As swiftsimio writes it, beside a snapshot's region; it was refused for it has not all."""
    path = write_soap(tmp_path)
    with h5py.File(path, "r+") as file:
        file["Header"].attrs.update(OutputType="SOAPSubset", NumSubhalos_Total=[99], NumSubhalos_ThisFile=[4])
    assert len(find_haloes("soap", path, SNAPSHOT, UNITS)) == 4
    with h5py.File(path, "r+") as file:
        file["Header"].attrs["NumSubhalos_ThisFile"] = [5]
    with pytest.raises(SnapshotError, match="4 subhaloes of 5"):
        find_haloes("soap", path, SNAPSHOT, UNITS)


@pytest.mark.parametrize(
    ("snapshot", "names", "others"),
    [
        ("output_00080/info_00080.txt", ("output_00080", "info_00080", "80"), ("output_00081", "81")),
        ("output_00080/group_00001/info_00080.txt", ("output_00080", "80"), ("output_00081", "group_00001", "1")),
        ("VELA07/10MpcBox_csf512_a0.330.d", ("10MpcBox_csf512_a0.330",), ("VELA07", "10MpcBox_csf512_a0")),
        ("run_99/snapdir_099/snap_099.0.hdf5", ("snapdir_099", "snap_099"), ("run_99", "run_99/snap_099", "snap_09")),
        ("g8.26e11/g8.26e11.01024", ("g8.26e11.01024", "1024"), ("g8.26e11", "8.26e11")),
    ],
)
def test_a_table_names_a_snapshot_as_users_do(snapshot, names, others, tmp_path):
    path = tmp_path / "galaxies.csv"
    for name in (*names, *others):
        path.write_text(f"id,snapshot,x,y,z\n7,{name},1,2,3\n8,other,1,2,3\n")
        assert [halo.name for halo in table.read(path, tmp_path / snapshot, UNITS)] == ["7"] * (name in names)
    path.write_text("id,snapshot,x,y,z\n7,80.0,1,2,3\n8,81.0,1,2,3\n")
    with pytest.raises(SnapshotError, match=r"`snapshot` is 80.0 in a row; write whole numbers, or names"):
        table.read(path, tmp_path / snapshot, UNITS)


OLD_SOAP = "BoundSubhaloProperties"


@pytest.mark.parametrize(
    ("name", "finder", "words"),
    [("Subhalos", "HBT", "goes under `catalogue`"), ("Structuretype", "VELOCIraptor", "goes under `catalogue`"),
     ("InputHalos", "SOAP", "goes under `catalogue`"), (OLD_SOAP, "SOAP before 2024", "not read; make a table")],
)  # fmt: skip
def test_a_catalogue_is_named_where_a_snapshot_is_asked_for(name, finder, words, tmp_path):
    path = tmp_path / "halo_099.properties.0"
    with h5py.File(path, "w") as file:
        file.create_group(name)
    with pytest.raises(SnapshotError, match=rf"{finder}.*\? .*{words}"):
        recognised(path)


def test_soap_without_what_it_needs_is_refused(tmp_path):
    refused = partial(refused_after, "soap", write_soap, tmp_path)

    def without(name: str, attribute: str) -> Any:
        return lambda file: file[name].attrs.pop(attribute)

    def fewer(file: h5py.File) -> None:
        file["Header"].attrs["NumSubhalos_Total"] = [5]

    def shorter(file: h5py.File) -> None:
        del file["InputHalos/IsCentral"]
        file["InputHalos/IsCentral"] = np.ones(3, dtype=int)

    refused("4 subhaloes of 5; get the whole file", fewer)
    refused(r"/InputHalos/IsCentral is of shape \(3,\) where \(4,\) is due", shorter)
    refused("/InputHalos/HaloCentre does not say its unit", without("InputHalos/HaloCentre", CGS))
    refused("/SO/200_crit/SORadius does not say its unit", without("SO/200_crit/SORadius", "a-scale exponent"))
    refused("BoundSubhalo has no Number", lambda file: file.move("BoundSubhalo", "Bound"))
    refused("in SOAP's layout of before 2024; make a table", lambda file: file.move("BoundSubhalo", OLD_SOAP))
    refused(
        "/InputHalos/HaloCentre does not say its unit",
        lambda file: file["InputHalos/HaloCentre"].attrs.create(CGS, [-1.0]),
    )
    refused(
        "/InputHalos/IsCentral is neither 0 nor 1",
        lambda file: file["InputHalos/IsCentral"].write_direct(np.int64([1, 0, 2, 1])),
    )
    refused(
        "/SO/200_crit/SORadius is no length",
        lambda file: file["SO/200_crit/SORadius"].attrs.create("U_L exponent", [2.0]),
    )


def test_hbts_sorted_catalogues_have_the_same_haloes_and_its_older_ones_have_their_units_in_a_log(tmp_path):
    path = write_hbt(tmp_path)
    haloes = {halo.name: halo for halo in find_haloes("hbt", path, SNAPSHOT, UNITS)}
    assert list(haloes) == list(map(str, TRACK))  # the orphan is no galaxy

    def are_the_same(others: list[Halo]) -> None:
        assert {halo.name for halo in others} == set(haloes)
        for halo in others:
            np.testing.assert_array_equal(halo.centre_kpc, haloes[halo.name].centre_kpc)
            assert halo[2:] == haloes[halo.name][2:]

    are_the_same(find_haloes("hbt", sort_hbt(path), SNAPSHOT, UNITS))
    for part in tmp_path.glob("SubSnap*"):
        edit(part, lambda file: file.pop("Units"))
    with pytest.raises(
        SnapshotError, match=r"SubSnap_099\.0\.hdf5: says no LengthInMpch and no MassInMsunh, nor does a"
    ):
        find_haloes("hbt", path, SNAPSHOT, UNITS)
    log = "#VERSION 1.16\nSnapshotPath  /a b/c\nBoxSize  10\n" + "".join(f"{k}  {v!r}\n" for k, v in HBT_UNITS.items())
    (tmp_path / "099").mkdir()
    for part in tmp_path.glob("SubSnap*"):
        part.rename(tmp_path / "099" / part.name)
    (tmp_path / "Parameters.log").write_text(log)
    are_the_same(find_haloes("hbt", tmp_path / "099" / path.name, SNAPSHOT, UNITS))
    parts = sorted((tmp_path / "099").glob("SubSnap*"))
    assert files_of("hbt", tmp_path / "099" / path.name) == [*parts, tmp_path / "Parameters.log"]
    (tmp_path / "Parameters.log").write_text(log.replace("LengthInMpch  ", "LengthInMpch  x"))
    assert_refused("hbt", tmp_path / "099" / path.name, r"Parameters\.log: LengthInMpch is 'x0\.7', no number")


def test_hbt_without_what_it_needs_is_refused(tmp_path):
    refused = partial(refused_after, "hbt", write_hbt, tmp_path)

    def replaced(name: str, values: Any) -> Any:
        return lambda file: (file.pop(name), file.create_dataset(name, data=values))

    kinds = {"TrackId": "S1", "Nbound": "i8", "Rank": "i8", "ComovingMostBoundPosition": "f8"}
    words = np.array([(b"a", 5, 0, 1.0)], dtype=list(kinds.items()))
    refused("the file has no Subhalos; is `catalogue.format` right", lambda file: file.pop("Subhalos"))
    refused("Subhalos has no ComovingMostBoundPosition, Nbound, Rank, TrackId", replaced("Subhalos", [1, 2]))
    refused("TrackId of Subhalos is no column of numbers", replaced("Subhalos", words))
    refused("5 subhaloes of 6; have all files", replaced("NumberOfSubhalosInAllFiles", [6]))
    refused("says no LengthInMpch, nor does a Parameters.log", replaced("Units/LengthInMpch", [0.0]))
    path = write_hbt(tmp_path)
    assert_refused(
        "hbt", path.with_name("SubSnap_099.2.hdf5"), r"not the first of its 3 parts; give SubSnap_099\.0\.hdf5"
    )
    path.with_name("SubSnap_099.1.hdf5").unlink()
    assert_refused("hbt", path, "part 1 of this catalogue is missing")


def test_velociraptors_comoving_numbers_have_factors_of_h_and_its_words_do_as_well(tmp_path):
    path = write_velociraptor(tmp_path)
    haloes = find_haloes("velociraptor", path, SNAPSHOT, UNITS)
    assert [h.name for h in haloes] == ["1", "2", "3", "4"]  # as it counts; its group is no galaxy
    for comoving in (True, False):
        path = write_velociraptor(tmp_path, comoving)
        for part in tmp_path.iterdir():
            with h5py.File(part, "r+") as file:
                [file.attrs.pop(name) for name in list(file.attrs)]
        # A snapshot of SWIFT may say no h, and has no use for one.
        for halo, other in zip(
            find_haloes("velociraptor", path, SNAPSHOT, replace(UNITS, hubble=1.0)), haloes, strict=True
        ):
            np.testing.assert_allclose(halo.centre_kpc, other.centre_kpc, rtol=1e-12)
            assert (halo.r200_kpc or 0, halo.halo_mass_msun, halo.stellar_mass_msun) == pytest.approx(
                (other.r200_kpc or 0, other.halo_mass_msun, other.stellar_mass_msun), rel=1e-12
            )


@pytest.mark.parametrize("reference", ["c", "cmbp", "cminpot"])
def test_velociraptor_of_before_june_2019_writes_other_places_as_offsets_from_one(reference, tmp_path):
    """Its PropertyReferencePosition says from which; of an isolated run places are small themselves."""
    path = write_velociraptor(tmp_path)

    def write(part: Path, isolated: bool) -> None:
        with h5py.File(part, "r+") as file:
            for axis in "XYZ":
                bound = 1e-4 + 0 * file[f"{axis}cmbp"][()] if isolated else file[f"{axis}cmbp"][()]
                places = {"cmbp": bound, "c": bound + 0.01, "cminpot": bound + 0.001}
                for name, place in places.items():
                    file.pop(f"{axis}{name}", None)
                    file[f"{axis}{name}"] = place if isolated or name == reference else place - places[reference]
            file["R_size"] = np.full(len(file["ID"]), 0.02)

    parts = list(tmp_path.iterdir())
    [write(part, isolated=False) for part in parts]
    centres = [h.centre_kpc for h in find_haloes("velociraptor", path, SNAPSHOT, UNITS)]
    np.testing.assert_allclose(centres, CENTRE, rtol=1e-6)
    path = write_velociraptor(tmp_path)
    [write(part, isolated=True) for part in parts]
    centres = [h.centre_kpc for h in find_haloes("velociraptor", path, SNAPSHOT, UNITS)]
    np.testing.assert_allclose(centres, 0.1, rtol=1e-6)


def test_velociraptor_without_what_it_needs_is_refused(tmp_path):
    refused = partial(refused_after, "velociraptor", write_velociraptor, tmp_path)

    def without_a_unit(file: h5py.File) -> None:
        del file.attrs["Length_unit_to_kpc"], file["UnitInfo"].attrs["Length_unit_to_kpc"]

    refused("says no Length_unit_to_kpc; is `catalogue.format` right", without_a_unit)
    refused("units of 0 kpc and 1e.10 Msun", lambda file: file.attrs.create("Length_unit_to_kpc", 0.0))
    refused("the file has no Total_num_of_groups", lambda file: file.pop("Total_num_of_groups"))
    refused("5 haloes of 6; have all files", lambda file: file["Total_num_of_groups"].write_direct(np.array([6])))
    refused(
        "the datasets of / differ in length", lambda file: (file.pop("npart"), file.create_dataset("npart", data=[1]))
    )
    refused("/Structuretype is no array", lambda file: (file.pop("Structuretype"), file.create_group("Structuretype")))
    path = write_velociraptor(tmp_path)
    assert_refused(
        "velociraptor", path.with_suffix(".2"), r"not the first of its 3 parts; give halos_0099\.properties\.0"
    )
    path.with_suffix(".1").unlink()
    assert_refused("velociraptor", path, "part 1 of this catalogue is missing")
    h5py.File(tmp_path / "other.hdf5", "w").close()
    assert_refused(
        "velociraptor", tmp_path / "other.hdf5", r"other\.hdf5: says no Length.*is `catalogue\.format` right"
    )


def test_subfind_of_a_time_without_haloes_is_empty_and_another_file_is_not_one(tmp_path):
    with h5py.File(tmp_path / "early.hdf5", "w") as file:
        file.create_group("Header").attrs["Nsubgroups_Total"] = np.int32(0)
    assert find_haloes("subfind", tmp_path / "early.hdf5", SNAPSHOT, UNITS) == []
    h5py.File(tmp_path / "other.hdf5", "w").close()
    assert_refused("subfind", tmp_path / "other.hdf5", r"other\.hdf5.*format")


def test_ahf_of_older_versions_counts_from_zero(tmp_path):
    """In those -1 stands for no host, and 0 for the first halo."""
    path = write_ahf(tmp_path)
    text = re.sub(r"12800000000000000(\d)", lambda m: str(int(m[1]) - 1), path.read_text())
    path.write_text(re.sub(r"^([03])\t0\t", r"\1\t-1\t", text, flags=re.M))
    assert [(h.name, h.central) for h in find_haloes("ahf", path, SNAPSHOT, UNITS)] == [
        ("0", True), ("1", False), ("2", False), ("3", True),
    ]  # fmt: skip


def test_ahf_of_several_ranks_that_count_from_zero(tmp_path):
    """Built without AHFnewHaloIDs each rank has a halo 0; -1 is no host."""
    path = write_ahf(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    rows = [line.split("\t", 2)[2] for line in lines[1:]]
    for part, (number, host) in product(range(2), enumerate(("-1", "0"))):
        with path.with_name(f"snap.000{part}.z1.000.AHF_halos").open("a") as file:
            file.write((lines[0] if part + number == 0 else "") + f"{number}\t{host}\t{rows[2 * part + number]}")
    haloes = find_haloes("ahf", path.with_name("snap.0000.z1.000.AHF_halos"), SNAPSHOT, UNITS)
    assert [(h.name, h.central) for h in haloes] == [("0.0", True), ("0.1", False), ("1.0", True), ("1.1", False)]
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE)


def test_ahf_of_newer_versions_has_other_names_of_mass_and_radius(tmp_path):
    path = write_ahf(tmp_path)
    older = find_haloes("ahf", path, SNAPSHOT, UNITS)
    path.write_text(path.read_text().replace("Mvir(4)", "Mhalo(4)").replace("Rvir(12)", "Rhalo(12)"))
    for halo, old in zip(find_haloes("ahf", path, SNAPSHOT, UNITS), older, strict=True):
        assert (halo.r200_kpc, halo.halo_mass_msun) == (old.r200_kpc, old.halo_mass_msun)
        assert halo.r200_kpc
    path.write_text(path.read_text().replace("Rhalo(12)", "Rother(12)"))
    assert_refused("ahf", path, r"its first line has no rvir")


def test_ahf_of_dark_matter_alone_says_nothing_of_stars(tmp_path):
    """It has columns of gas and stars, too, with zeros: its haloes were left out as ones without stars."""
    path = write_ahf(tmp_path)
    names, *rows = path.read_text().splitlines()
    bare = ["\t".join([*row.split("\t")[:-5], "0", "0", "0", "0", ""]) for row in rows]
    path.write_text("\n".join([names, *bare]) + "\n")
    haloes = find_haloes("ahf", path, SNAPSHOT, UNITS)
    assert [(h.n_stars, h.stellar_mass_msun) for h in haloes] == [(None, None)] * 4
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE)
    some_gas = bare[0].split("\t")
    some_gas[-5] = "12"  # a run with gas, of a time before the first star
    path.write_text("\n".join([names, "\t".join(some_gas), *bare[1:]]) + "\n")
    assert find_haloes("ahf", path, SNAPSHOT, UNITS) == []


def test_ahf_counts_from_the_corner_of_the_box(tmp_path):
    corner = CodeUnits(1, 1, 1, 1000.0, A, H, corner_kpc=-500.0)
    haloes = find_haloes("ahf", write_ahf(tmp_path), SNAPSHOT, corner)
    np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE - 500)


def test_rockstar_without_parents_or_m200c(tmp_path):
    path = write_rockstar(tmp_path, mvir_only=True)
    path.write_text("\n".join(line.rsplit(" ", 1)[0] if not line.startswith("#") else line.removesuffix(" PID")
                              for line in path.read_text().splitlines()) + "\n")  # fmt: skip
    haloes = find_haloes("rockstar", path, SNAPSHOT, UNITS)
    assert [h.central for h in haloes] == [None] * 4
    assert haloes[3].halo_mass_msun == pytest.approx(HALO_MASS[3], rel=1e-4)
    assert haloes[3].r200_kpc == pytest.approx(R200[3], rel=1e-4)


def test_rockstar_converted_to_other_units_is_refused(tmp_path):
    path = write_rockstar(tmp_path)
    text = path.read_text()
    radii = "#Units: Halo Distances, Lengths, and Radii in kpc / h (comoving)"
    path.write_text(text.replace("#Units: Positions", f"{radii}\n#Units: Positions"))
    assert len(find_haloes("rockstar", path, SNAPSHOT, UNITS)) == 4
    for old, new in (("Masses in Msun / h", "Masses in Msun"), ("Mpc / h (comoving)", "Mpc (physical)")):
        path.write_text(text.replace(old, new))
        with pytest.raises(
            SnapshotError, match=r"out_99\.list: by its comments (masses in Msun, not|positions in Mpc \(p)"
        ):
            find_haloes("rockstar", path, SNAPSHOT, UNITS)


def test_a_csv_may_leave_fields_empty(tmp_path):
    (tmp_path / "t.csv").write_text("x,y,z,central,n_stars,halo_mass,lineage\n1,2,3,True,,1e11,a\n4,5,,0,300,,\n")
    first, second = find_haloes("table", tmp_path / "t.csv", SNAPSHOT, UNITS)
    assert (first.name, first.central, first.n_stars, first.halo_mass_msun, first.lineage) == (
        "0",
        True,
        None,
        1e11,
        "a",
    )
    assert (second.name, second.central, second.n_stars, second.halo_mass_msun) == ("1", False, 300, None)
    assert second.lineage is None
    halo, reason = usable(second, tmp_path / "t.csv")
    assert halo is None
    assert "t.csv: halo 1 has no finite position" in reason


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,x,y,z,central\n7,1,2,3,1.0\n",  # a spreadsheet's mark
        "# made by hand\nid,x,y,z,central\n# the first\n7,1,2,3,yes\n",
        "id,x,y,z,snapshot,central\n8,4,5,6,snap_098,1\n7,1,2,3,run/snap_099,1\n9,4,5,6,*,1\n",
        "id,x,y,z,snapshot,central\n8,4,5,6,98,1\n7,1,2,3,99,1\n9,4,5,6,0,1\n",
    ],
    ids=["byte order mark", "comments", "snapshots without suffix", "numbers of snapshots"],
)
def test_a_csv_may_be_written_by_other_programs(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    (halo,) = find_haloes("table", tmp_path / "t.csv", SNAPSHOT, UNITS)
    assert (halo.name, halo.centre_kpc.tolist(), halo.central) == ("7", [1.0, 2.0, 3.0], True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,x,x,y,z\n7,0,1,2,3\n", "column x is there twice"),
        ("x,y,z\n1,2,3,4\n", "inconsistent with data columns"),
        ("x,y,z,central\n1,2,3,perhaps\n", "`central` is 'perhaps'"),
        ("x,y,z,high_res_fraction\n1,2,3,99.9\n", "are they percentages"),
        ("x,y,z,Central\n1,2,3,false\n", "column 'Central' would not be read; call it 'central', or otherwise"),
        ("x,y,z,SnapNum\n1,2,3,99\n1,2,3,98\n", "by its column 'SnapNum' galaxies are of several snapshots; say in"),
        ("x,y,z,Lineage,R200\n1,2,3,4,5\n", "column 'Lineage' would not be read"),
        ("ID,x,y,z\n7,1,2,3\n", "column 'ID' would not be read; call it 'id'"),
        ("id,x,y,z,lineage\n7,1,2,3,1.5\n", r"`lineage` is 1\.5 in a row; write whole numbers, or names"),
        ("id,x,y,z\n7e18,1,2,3\n", r"`id` is 7e\+18 in a row; write whole numbers, or names"),
        ("x,y,z,halo_mass\n1,2,3,45000\n", r"halo masses of 4\.5e\+04 Msun at most; are they logarithms, or in an"),
        ("x,y,z,stellar_mass\n1,2,3,300\n", r"stellar masses of 300 Msun at most; are they logarithms, or in an"),
        ("x,y,z,stellar_mass\n1,2,3,10.5\n1,2,4,\n", r"stellar masses of 10\.5 Msun at most; are they logarithms"),
    ],
)
def test_a_csv_that_can_be_read_in_two_ways_is_refused(text, words, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    assert_refused("table", tmp_path / "t.csv", rf"t\.csv: .*{words}")


@pytest.mark.parametrize("suffix", ["csv", "ecsv"])
def test_a_whole_number_is_one_name_in_every_table(suffix, tmp_path):
    """Where one row has none, tables have 17.0 for 17: its galaxy would be another than the day before."""
    for number, missing in enumerate(("", "nan")):
        rows = {"id": [1, 2, 3], "lineage": [17, 18, missing]}
        texts = [",".join(map(str, (i, 1, 2, 3, lineage))) for i, lineage in zip(*rows.values(), strict=True)]
        whole = [f"{i}.0,1,2,3,{lineage}.0" for i, lineage in ((1, 17), (2, 18))] + [f",1,2,3,{missing}"]
        for name, lines in (("whole", texts[:2]), ("floats", [*texts[:2], f"3,1,2,3,{missing}"]), ("all", whole[:2])):
            path = tmp_path / f"{name}{number}.{suffix}"
            if suffix == "csv":
                path.write_text("\n".join(["id,x,y,z,lineage", *lines]) + "\n")
            else:
                kind = "int64" if name == "whole" else "float64"
                columns = ", ".join(
                    f"{{name: {c}, datatype: {kind if c == 'lineage' else 'float64'}}}"
                    for c in ("id", *"xyz", "lineage")
                )
                head = ["# %ECSV 1.0", "# ---", "# delimiter: ','", f"# datatype: [{columns}]", "id,x,y,z,lineage"]
                path.write_text("\n".join([*head, *lines]) + "\n")
            found = [(halo.name, halo.lineage) for halo in find_haloes("table", path, SNAPSHOT, UNITS)]
            assert found == [("1", "17"), ("2", "18"), ("3", None)][: len(found)]
            assert len(found) == len(lines)


#: Entries of which some are numbers to one reader and words to another.
ODD = [
    "1", "007", "-0", "+5", ".5", "5.", "1e3", "1D3", "1d+3", "1e400", "-1e400", "1e-400", "5e-324", "nan", "-nan",
    "NaN", "nan(1)", "inf", "-Infinity", "--", "a", "True", "no", "1e", "0x10", "1_000", "9223372036854775807", "N/A",
    "1e23", "9223372036854775808", "99999999999999999999999", "0.30000000000000004", "snap_099", "#7", "1.2.3", "",
    "e5", " ", " 3", "4 ", "\t5", "1 2", '"1,2"', '"', "'1'", "1,2", "\u0661", "\u00e9", "\x0c6",
]  # fmt: skip
LINE_ENDS = [*["\n"] * 8, "\r\n", "\r", "\n\n", "\n \n", "\n\t\n", "\n#c\n", "\n #c\n", "\n,,\n"]


def odd_table(rng):
    """A table of some columns and rows with entries, line ends and lengths of rows that are odd here and there."""
    others = rng.permutation(["id", "snapshot", "lineage", "r200", "n_stars", "central", "q", "x", ""])
    columns = list(rng.permutation(["x", "y", "z", *others][rng.random() < 0.05 : rng.integers(3, 8)]))
    share = rng.choice([0.0, 0.02, 0.3])
    usual = {"snapshot": ["99", "snap_099"], "central": ["1", "0", "True", ""], "lineage": ["a", "b_1", ""]}

    def entry(name):
        """Return an entry of a column."""
        numbers = [f"{rng.normal(0, 1e3):.{rng.integers(18)}f}", str(rng.integers(10)), repr(rng.random() * 1e-200)]
        return str(rng.choice(ODD if rng.random() < share else usual.get(name, numbers)))

    rows = [columns, *([entry(name) for name in columns] for _ in range(rng.integers(5)))]
    if rng.random() < 0.1:
        rows[-1] = [*rows[-1], *["", "1"][: rng.integers(1, 3)]] if rng.random() < 0.5 else rows[-1][:-1]
    text = str(rng.choice(LINE_ENDS)).join(map(",".join, rows)) + str(rng.choice(["\n", "\n", "", "\n \n"]))
    return "\ufeff" * (rng.random() < 0.05) + text


@pytest.mark.parametrize(
    ("column", "unit", "kind"), [("x", "kpc/h", "length"), ("z", "ckpc", "length"), ("halo_mass", "Msun/h", "mass")]
)
def test_a_unit_with_factors_of_a_or_h_in_a_table_is_told_so(tmp_path, column, unit, kind):
    """To astropy `kpc/h` are kiloparsecs per hour; the table was called damaged."""
    path = tmp_path / "t.ecsv"
    names = ["x", "y", "z", "halo_mass"]
    columns = [f"# - {{name: {n}, unit: {unit if n == column else 'kpc' if n in 'xyz' else 'Msun'}, datatype: float64}}"
               for n in names]  # fmt: skip
    path.write_text("\n".join(["# %ECSV 1.0", "# ---", "# datatype:", *columns, " ".join(names), "1 1 1 1e12", ""]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy's, of units that it does not know
        words = rf"t\.ecsv: column '{column}' is in .*, which is no known unit of {kind}: it is read as physical"
        assert_refused("table", path, words)


def test_a_unit_of_a_logarithm_is_one(tmp_path):
    """astropy's factor from dex(solMass) to solMass is 10."""
    galaxies = Table({name: np.array([1.0, 2.0]) for name in "xyz"})
    galaxies["halo_mass"] = MaskedColumn([12.0, 1.0], unit=u.dex(u.Msun), mask=[False, True])
    galaxies.write(tmp_path / "t.ecsv", format="ascii.ecsv")
    haloes = find_haloes("table", tmp_path / "t.ecsv", SNAPSHOT, UNITS)
    assert haloes[0].halo_mass_msun == pytest.approx(1e12)
    assert haloes[1].halo_mass_msun is None


def test_a_csv_is_read_in_c_as_it_is_in_python(tmp_path, monkeypatch):
    path, plain, n_quick, n_read = tmp_path / "t.csv", table._PLAIN, 0, 0

    def outcome():
        """Return the haloes as texts, in which NaN equals itself, or the error."""
        try:
            return [repr(halo) for halo in table.read(path, SNAPSHOT, UNITS)]
        except (SnapshotError, TypeError, ValueError) as error:
            return repr(error)

    rng = np.random.default_rng(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy's, of numbers that are too large
        for text in [*(odd_table(rng) for _ in range(400)), "\n", "", "\n#x,y,z\n", "x,y,z\n", " x,y,z\n1,2,3\n"]:
            path.write_bytes(text.encode())
            monkeypatch.setattr(table, "_PLAIN", b"")  # nothing is plain
            expected = outcome()
            monkeypatch.setattr(table, "_PLAIN", plain)
            assert outcome() == expected, text
            n_quick += table._in_c(path) is not None
            n_read += isinstance(expected, list)
    assert n_quick > 150
    assert 150 < n_read < 350


@pytest.mark.parametrize("form", [form for form in WRITERS if form != "table"])
def test_a_catalogue_of_another_time_is_refused(form, tmp_path):
    """TNG's last two snapshots differ by .9 % in a, zooms with many outputs by .1 %."""
    path = WRITERS[form](tmp_path)
    if form == "ahf":  # only its name has the redshift
        path = path.rename(tmp_path / "snap_099.0001.z1.000.AHF_halos")
    for apart, same in ((0.0, True), (5e-5, True), (1e-3, False), (-9e-3, False), (0.8, False)):
        units = replace(UNITS, scale_factor=A * (1 + apart))
        if same:
            assert find_haloes(form, path, SNAPSHOT, units)
        else:
            with pytest.raises(OtherEpoch, match=r"made at a = 0.5, the snapshot at a = 0.\d+; check `catalogue.path`"):
                find_haloes(form, path, SNAPSHOT, units)


def test_an_ahf_catalogue_of_the_snapshots_own_name_is_its_own(tmp_path):
    path = WRITERS["ahf"](tmp_path).rename(tmp_path / f"{SNAPSHOT.name}.z0.300.AHF_halos")
    assert find_haloes("ahf", path, SNAPSHOT, UNITS)
    with pytest.raises(OtherEpoch):  # of the tenth and later snapshots the names begin as that of the first
        find_haloes("ahf", path, Path("run/snap_09"), UNITS)


@pytest.mark.parametrize(("scale", "same"), [(A, True), (A + 4e-5, True), (0.51, False)])
def test_trees_say_the_scale_factor_in_a_column(scale, same, tmp_path):
    """The first lines of consistent-trees' hlist files have none, and call the cosmology otherwise."""
    text = WRITERS["rockstar"](tmp_path).read_text()
    text = text.replace("#Om =", "#Omega_M =").replace("Ol =", "Omega_L =").replace("; h =", "; h0 =")
    text = re.sub(r"^(\d+(?: \S+){4}) \S+", r"\1 999.0", text, flags=re.M)  # the radius that holds where M200c does not
    lines = [line for line in text.splitlines() if not line.startswith("#a =")]
    rows = [
        f"#scale(0) {lines[0][1:]}",
        *(line if line.startswith("#") else f"{scale:.4f} {line}" for line in lines[1:]),
    ]
    path = tmp_path / "hlist_0.50000.list"
    path.write_text("\n".join(rows) + "\n")
    if same:
        haloes = find_haloes("rockstar", path, SNAPSHOT, replace(UNITS, hubble=0.9))
        np.testing.assert_allclose([h.centre_kpc for h in haloes], CENTRE, rtol=1e-6)
        np.testing.assert_allclose([haloes[0].r200_kpc, haloes[3].r200_kpc], R200[[0, 3]], rtol=1e-3)
    else:
        with pytest.raises(OtherEpoch, match=r"made at a = 0\.51"):
            find_haloes("rockstar", path, SNAPSHOT, UNITS)


def test_eagles_units_without_their_powers_are_refused(tmp_path):
    path = WRITERS["eagle_subfind"](tmp_path)
    for part in tmp_path.iterdir():
        edit(part, lambda file: file["Subhalo/CentreOfPotential"].attrs.pop("h-scale-exponent"))
    assert_refused("eagle_subfind", path, r"Subhalo/CentreOfPotential has no h-scale-exponent")


def in_parts(path: Path, name: str) -> list[Path]:
    """Share the rows of a text catalogue of four haloes between two files, which `name` names by their numbers."""
    lines = path.read_text().splitlines(keepends=True)
    head = [line for line in lines if line.startswith("#")]
    rows = lines[len(head) :]
    parts = [path.with_name(name.format(part)) for part in range(2)]
    for part, own in zip(parts, (rows[:1], rows[1:]), strict=True):
        part.write_text("".join([*head, *own]))
    return parts


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("ahf", "snap_099.000{}.z1.000.AHF_halos"),
        ("rockstar", "halos_99.{}.ascii"),
        ("rockstar", "halos_snap_099.{}.ascii"),  # by the name in SNAPSHOT_NAMES
        ("rockstar", "halos_a0.500.{}.ascii"),
    ],
)
def test_a_catalogue_in_the_parts_of_several_processes_is_read_whole(form, name, tmp_path):
    """Each of AHF's and Rockstar's processes writes the haloes of its own part of the box."""
    whole = find_haloes(form, WRITERS[form](tmp_path), SNAPSHOT, UNITS)
    first, second = in_parts(WRITERS[form](tmp_path), name)
    read = find_haloes(form, first, SNAPSHOT, UNITS)
    assert [h.name for h in read] == [h.name for h in whole]
    np.testing.assert_array_equal([h.centre_kpc for h in read], [h.centre_kpc for h in whole])
    assert_refused(form, second, rf"not the first of its 2 parts; give {re.escape(name.format(0))}")
    if form == "ahf":  # its first rank alone writes the names of the columns, and a rank may find nothing
        third = second.with_name(name.format(2))
        second.write_text("".join(second.read_text().splitlines(keepends=True)[1:]))
        third.write_text("")
        assert [h.name for h in find_haloes(form, first, SNAPSHOT, UNITS)] == [h.name for h in whole]
        third.unlink()
    second.rename(second.with_name(name.format(2)))
    assert_refused(form, first, "part 1 of this catalogue is missing")


@pytest.mark.parametrize(("form", "length", "mass"), [("subfind", 1000.0, 10.0), ("eagle_subfind", 1.0, 0.1)])
def test_a_catalogue_that_says_no_units_has_those_of_its_snapshot(form, length, mass, tmp_path):
    """One code writes both files: beside a snapshot in Mpc/h the same numbers are a thousand times longer."""
    path = WRITERS[form](tmp_path)
    for file in tmp_path.glob("*.hdf5"):
        with h5py.File(file, "r+") as opened:
            for item in [*opened.values(), *(d for g in opened.values() for d in g.values())]:
                [item.attrs.pop(name) for name in list(item.attrs) if "CGS" in name]
    kpc_per_code_length = 1000.0 if form == "eagle_subfind" else 1.0
    own_units = replace(UNITS, length_kpc=kpc_per_code_length * A / H)
    scaled_units = replace(UNITS, length_kpc=kpc_per_code_length * length * A / H, mass_msun=mass * 1e10 / H)
    own, scaled = (find_haloes(form, path, SNAPSHOT, units) for units in (own_units, scaled_units))
    assert len(own) == 4
    for halo, scaled_halo in zip(own, scaled, strict=True):
        assert np.allclose(scaled_halo.centre_kpc, length * halo.centre_kpc, rtol=1e-12)
        assert scaled_halo.halo_mass_msun == pytest.approx(mass * halo.halo_mass_msun)
        assert (scaled_halo.r200_kpc or 0) == pytest.approx(length * (halo.r200_kpc or 0))


NUMBERS = [
    ("snap_099.0.hdf5", "arepo", "099"), ("snap_099.hdf5", "arepo", "099"), ("snap_5.h5", "gadget", "5"),
    ("g8.26e11.01024", "tipsy", "01024"), ("cosmo25.1024", "tipsy", "1024"), ("tiny.000832", "tipsy", "000832"),
    ("snap_028_z000p000.0.hdf5", "eagle", "028"), ("snapshot_600.12.hdf5", "gizmo", "600"),
    ("snap_m100n1024_151.hdf5", "simba", "151"), ("colibre_0127.hdf5", "swift", "0127"),
    ("snapshot_010.0", "gadget_binary", "010"), ("snapshot_010", "gadget_binary", "010"), ("halo.hdf5", "gizmo", ""),
    # Names of the catalogues beside them.
    ("snap600Rpep..z0.000.AHF_halos", "gizmo", "600"), ("g8.26e11.01024.z0.000.AHF_halos", "tipsy", "01024"),
    ("fof_subhalo_tab_098.0.hdf5", "arepo", "098"), ("out_600.list", "gizmo", "600"),
    ("snap_099.0000.z0.000.AHF_halos", "arepo", "099"), ("cosmo25.1024.z0.000.AHF_halos", "tipsy", "1024"),
    ("eagle_subfind_tab_028_z000p000.0.hdf5", "eagle", "028"), ("m100n1024_151.hdf5", "simba", "151"),
    ("halos_0127.properties", "swift", "0127"), ("SubSnap_034.0.hdf5", "swift", "034"),
    ("vr_catalogue_0077.properties.0", "swift", "0077"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "form", "number"), NUMBERS)
def test_the_number_of_a_snapshot(name, form, number):
    assert snapshot_number(Path(name), form) == number


def test_a_catalogue_may_lie_anywhere_and_a_snapshots_name_is_no_pattern(tmp_path):
    folder = tmp_path / "far away"
    folder.mkdir()
    suite = snapshot_with(tmp_path, "x,y,z\n1,1,1\n")
    snapshot = suite.snapshot_paths()[0]
    (tmp_path / "snap[1]*.hdf5").write_bytes(snapshot.read_bytes())
    for name in ("t.csv", "snap[1]*.hdf5.csv", "snap11.hdf5.csv"):
        (folder / name).write_text("x,y,z\n1,1,1\n")

    def catalogue_found(path: str, of_snapshot: Path = snapshot) -> Path | None:
        return suite.model_copy(update={"catalogue": Catalogue(format="table", path=path)}).catalogue_path(of_snapshot)

    assert catalogue_found(f"{folder}/t.csv") == folder / "t.csv"
    assert catalogue_found(f"{folder}/[s-u].csv") == folder / "t.csv"
    assert catalogue_found("far*/t.csv") == catalogue_found("**/far away/t.csv") == folder / "t.csv"
    assert catalogue_found(f"{folder}/{{name}}.csv", tmp_path / "snap[1]*.hdf5") == folder / "snap[1]*.hdf5.csv"
    with pytest.raises(SuiteError, match=re.escape(f"no catalogue {folder}/no.csv; check `catalogue.path`")):
        catalogue_found(f"{folder}/no.csv")
    numbered = folder / "bricks761"
    numbered.write_text("")
    assert catalogue_found(f"{folder}/bricks{{number:03d}}", tmp_path / "info_00761.txt") == numbered
    for path in ("bricks{number}", "bricks{number:05d}"):
        with pytest.raises(SuiteError, match=r"no catalogue .*bricks00761"):
            catalogue_found(f"{folder}/{path}", tmp_path / "info_00761.txt")
    with pytest.raises(SuiteError, match=r"may use {name}, {stem} and {number}, of which halo.hdf5 has none"):
        catalogue_found(f"{folder}/bricks{{number:03d}}", tmp_path / "halo.hdf5")


MISSING = {
    "ahf": lambda p: p.write_text(p.read_text().replace("Xc(", "Qc(")),
    "rockstar": lambda p: p.write_text(p.read_text().replace(" X ", " Q ")),
    "table": lambda p: p.write_text(p.read_text().replace(" x ", " q ").replace("name: x,", "name: q,")),
    "subfind": "Subhalo/SubhaloPos",
    "eagle_subfind": "Subhalo/CentreOfPotential",
    "caesar": "galaxy_data/nstar",
    "soap": "InputHalos/HaloCentre",
    "velociraptor": "/Zcmbp",
}


@pytest.mark.parametrize("form", MISSING)  # AdaptaHOP's have no names
def test_a_missing_column_is_named(form, tmp_path):
    path, change = WRITERS[form](tmp_path), MISSING[form]
    if isinstance(change, str):
        edit(path, lambda file: file.pop(change))
        column = change.split("/")[1]
    else:
        change(path)
        column = "xc" if form == "ahf" else "x"
    assert_refused(form, path, rf"{re.escape(str(path))}: .* has no {column}\b")


DAMAGE = {
    "gone": lambda p: p.unlink(),
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-20]),
    "halved": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a catalogue\n" * 1000),
    "zeros": lambda p: p.write_bytes(bytes(3_000_000)),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(form, damage, tmp_path):
    path = WRITERS[form](tmp_path)
    DAMAGE[damage](path)
    assert_refused(form, path, re.escape(str(path)))


@pytest.mark.parametrize("form", ["subfind", "eagle_subfind", "caesar", "soap"])
def test_wrong_types_and_absurd_sizes_are_refused_without_reading_them(form, tmp_path):
    path = WRITERS[form](tmp_path)
    name = {
        "subfind": "Subhalo/SubhaloPos", "eagle_subfind": "Subhalo/GroupNumber", "caesar": "galaxy_data/nstar",
        "soap": "InputHalos/HaloCentre",
    }[form]  # fmt: skip
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = [b"one", b"two"]
    assert_refused(form, path, rf"{re.escape(str(path))}: /{name} is no array of numbers")
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, shape=(10**12,), chunks=(1000,), dtype="f8")
    assert_refused(form, path, "more than the file can hold")
    group = name.split("/")[0]
    with h5py.File(path, "r+") as file:
        del file[group]
        file.create_dataset(group, shape=(10**12,), chunks=(1000,), dtype="f8")
    assert_refused(form, path, f"{group} is no group")


def test_a_last_file_that_is_missing_is_missed(tmp_path):
    for form in ("subfind", "eagle_subfind"):
        path = WRITERS[form](tmp_path)
        path.with_name(path.name.replace(".0.", ".2." if form == "subfind" else ".1.")).unlink()
        assert_refused(form, path, "subhaloes of 4")


def test_numbers_that_point_beyond_the_file_are_refused(tmp_path):
    for form, name in (("subfind", "Group/GroupFirstSub"), ("eagle_subfind", "Subhalo/GroupNumber"),
                       ("caesar", "galaxy_data/parent_halo_index")):  # fmt: skip
        path = WRITERS[form](tmp_path)
        with h5py.File(path, "r+") as file:
            file[name][0] = 10**6
        assert_refused(form, path, re.escape(path.name))


def snapshot_with(folder: Path, text: str, **selection: Any) -> Any:
    """Write and load a suite of one snapshot, which has only a header, with a table of galaxies."""
    with h5py.File(folder / "snap.hdf5", "w") as file:
        attrs = file.create_group("Header").attrs
        attrs["Redshift"], attrs["HubbleParam"], attrs["OmegaLambda"], attrs["BoxSize"] = 0.0, 0.7, 0.7, 1e4
    (folder / "t.csv").write_text(text)
    lines = ["name: s", "format: gizmo", "snapshots: snap.hdf5", "aperture: {kpc: 30}"]
    lines += ["catalogue: {format: table, path: t.csv}", f"selection: {selection or '{}'}"]
    (folder / "s.yaml").write_text("\n".join(lines))
    return load_suite(folder / "s.yaml")


def test_one_bad_position_fails_alone_and_only_if_it_is_chosen(tmp_path):
    text = "id,x,y,z,central\na,1,1,1,True\nb,nan,1,1,True\nc,2,2,2,False\nd,,2,2,False\n"
    tasks = list_tasks(snapshot_with(tmp_path, text))
    assert [(t.name, t.halo is None) for t in tasks] == [("snap:a", False), ("snap:b", True)]
    assert "halo b has no finite position" in tasks[1].problem
    assert "t.csv" in tasks[1].problem
    everything = list_tasks(snapshot_with(tmp_path, text, which="all"))
    assert [t.name for t in everything] == ["snap:a", "snap:b", "snap:c", "snap:d"]


def test_what_the_catalogue_never_gives_is_said(tmp_path):
    (task,) = list_tasks(snapshot_with(tmp_path, "x,y,z\n1,1,1\n", stellar_mass_msun=[1e9, 1e12]))
    assert task.halo is None
    assert "selection.stellar_mass_msun" in task.problem


def test_selection_is_every_cut_at_once():
    rng = np.random.default_rng(5)
    haloes = [
        Halo(str(i), np.zeros(3), None, *(None if rng.random() < 0.1 else v for v in (
            int(rng.integers(100, 400)), int(rng.integers(500, 5000)), bool(rng.integers(2)), 10 ** rng.uniform(9, 13),
            10 ** rng.uniform(7, 11), rng.uniform(0, 1))))
        for i in range(500)
    ]  # fmt: skip
    cuts = {
        "min_stars": (200, lambda h: h.n_stars is None or h.n_stars >= 200),
        "which": ("satellite", lambda h: h.central is not True),
        "stellar_mass_msun": ([1e8, None], lambda h: h.stellar_mass_msun is None or h.stellar_mass_msun >= 1e8),
        "halo_mass_msun": ([1e10, 1e12], lambda h: h.halo_mass_msun is None or 1e10 <= h.halo_mass_msun <= 1e12),
        "min_particles": (1000, lambda h: h.n_particles is None or h.n_particles >= 1000),
        "min_high_res_fraction": (0.5, lambda h: h.high_res_fraction is None or h.high_res_fraction >= 0.5),
    }
    everything = Selection(min_stars=1, which="all")
    assert chosen(haloes, everything) == haloes
    for key, (value, passes) in cuts.items():
        selected = chosen(haloes, everything.model_validate({"min_stars": 1, "which": "all", key: value}))
        assert selected == [h for h in haloes if passes(h)]
        assert 50 < len(selected) < 490
    selected_by_all = chosen(haloes, Selection(**{key: value for key, (value, _) in cuts.items()}))
    assert selected_by_all == [h for h in haloes if all(passes(h) for _, passes in cuts.values())]
    assert len(selected_by_all) > 5
    assert all(h.central is not False for h in chosen(haloes, Selection()))


def test_what_is_unknown_does_not_cut_unless_it_is_asked_for():
    unknown_haloes = [Halo("0", np.zeros(3)), Halo("1", np.ones(3))]
    assert chosen(unknown_haloes, Selection()) == unknown_haloes
    assert chosen([], Selection(which="satellite", min_particles=5)) == []
    assert chosen(unknown_haloes, Selection(halo_mass_msun=[None, None])) == unknown_haloes
    for cut in ({"which": "satellite"}, {"min_particles": 5}, {"min_high_res_fraction": 0.9},
                  {"halo_mass_msun": [1e9, None]}, {"stellar_mass_msun": [None, 1e9]}):  # fmt: skip
        with pytest.raises(SnapshotError, match=rf"selection\.{next(iter(cut))}"):
            chosen(unknown_haloes, Selection(**cut))
        if "min_high_res_fraction" in cut:  # the snapshot tells, and each galaxy is measured as it is mapped
            assert chosen(unknown_haloes, Selection(**cut), tells_low_resolution=True) == unknown_haloes


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("{stellar_mass_msun: [1e12, 1e9]}", "selection.stellar_mass_msun`: .*lower bound comes first"),
        ("{halo_mass_msun: [1e12]}", "selection.halo_mass_msun"),
        ("{halo_mass_msun: [.nan, 1e9]}", "selection.halo_mass_msun"),
        ("{min_high_res_fraction: 2}", "selection.min_high_res_fraction"),
        ("{which: both}", "selection.which.*'central', 'satellite' or 'all'"),
    ],
)
def test_wrong_selections_are_named(selection, words, tmp_path):
    (tmp_path / "s.yaml").write_text(
        f"name: s\nformat: gizmo\nsnapshots: x\naperture: {{kpc: 30}}\nselection: {selection}\n"
    )
    with pytest.raises(SuiteError, match=words):
        load_suite(tmp_path / "s.yaml")


def test_real_ahf_masses_fill_their_spheres(real_files):
    """Mvir is ovdens times the critical density within Rvir, at z = 0 in FIRE's units."""
    snapshot = real_files / "fire_m12i/snapdir_600/snapshot_600.0.hdf5"
    path = real_files / "fire_m12i/analysis_dir/snap600Rpep..z0.000.AHF_halos"
    units = FORMATS["gizmo"].units(snapshot, {})
    haloes = find_haloes("ahf", path, snapshot, units)
    assert len(haloes) == 9
    assert all(h.central for h in haloes)
    main = haloes[0]
    assert (main.n_stars, main.high_res_fraction) == (12222491, 1.0)
    critical = 3 * (0.1 * units.hubble) ** 2 / (8 * np.pi * G)
    expected = 4 / 3 * np.pi * main.r200_kpc**3 * 97.29 * critical
    assert main.halo_mass_msun == pytest.approx(expected, rel=2e-3)
    assert chosen(haloes, Selection(min_high_res_fraction=0.99)) == [haloes[0], haloes[8]]


def test_real_rockstar_and_ahf_see_the_same_halo(real_files):
    """Rockstar's list has only haloes in and around AHF's fourth halo: they lie there, and are lighter than it."""
    snapshot = real_files / "fire_m12i/snapdir_600/snapshot_600.0.hdf5"
    units = FORMATS["gizmo"].units(snapshot, {})
    ahf_halo = find_haloes("ahf", next(real_files.glob("fire_m12i/*/*.AHF_halos")), snapshot, units)[4]
    path = real_files / "fire_m12i/rockstar_dir/out_600.list"
    rockstar_haloes = find_haloes("rockstar", path, snapshot, units)
    assert len(rockstar_haloes) == 34
    distances_kpc = [np.linalg.norm(h.centre_kpc - ahf_halo.centre_kpc) for h in rockstar_haloes]
    assert max(distances_kpc) < 1.2 * ahf_halo.r200_kpc
    assert sum(h.halo_mass_msun for h in rockstar_haloes if h.halo_mass_msun) < 0.1 * ahf_halo.halo_mass_msun
    # Its radius within 200 mean densities, from the same masses: R200c / R200b = (Om M200c / M200b)^(1/3).
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    for halo, row in zip(rockstar_haloes, rows, strict=True):
        m200b, r200b, m200c = float(row[2]), float(row[5]) / units.hubble, float(row[21])
        if m200c > 0:
            assert halo.r200_kpc == pytest.approx(r200b * np.cbrt(0.272 * m200c / m200b), rel=1e-3)
        else:
            assert halo.r200_kpc is None


def test_real_tipsy_ahf_at_high_redshift(real_files):
    snapshot = real_files / "tipsy_tiny/tiny.000640"
    units = FORMATS["tipsy"].units(snapshot, {})
    haloes = find_haloes("ahf", next(real_files.glob("tipsy_tiny/tiny.000640*AHF_halos")), snapshot, units)
    assert len(haloes) == 9
    # ovdens is in mean densities here: 180.24 Omega_0 rho_crit,0 / a^3.
    mean = 180.24 * 0.3156 / units.scale_factor**3 * 3 * (0.1 * units.hubble) ** 2 / (8 * np.pi * G)
    for halo in haloes:
        assert halo.halo_mass_msun == pytest.approx(4 / 3 * np.pi * halo.r200_kpc**3 * mean, rel=5e-3)
