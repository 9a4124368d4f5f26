"""Mutated files through the real command: a galaxy is what its file says, or refused in a sentence."""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grids
import h5py
import layouts
import numpy as np
import pytest
import test_catalogues
from conftest import command

from kinmass.gen.formats import tipsy
from kinmass.gen.mock.archive import HUBBLE
from kinmass.gen.physics.particles import Galaxy
from kinmass.gen.storage import store

SEED = int(os.environ.get("KINMASS_FUZZ_SEED", "1"))  # other seeds are other mutants
MUTANTS, CENTRE = 36, test_catalogues.CENTRE[0]
GRID_MUTANTS = 9  # many more are tried without the command (tests/gen/formats/test_grids.py)
KPC, MSUN = layouts.KPC, layouts.MSUN

#: format, writer of the snapshot, catalogue, number of files
BASES: dict[str, tuple[str, Any, str, int]] = {
    "nihao": ("tipsy", None, "ahf", 1),
    "tng": ("arepo", layouts.tng, "subfind", 2),
    "auriga": ("arepo", layouts.auriga, "none", 1),
    "fire": ("gizmo", layouts.fire, "table", 1),
    "gadget4": ("gadget", layouts.gadget4, "rockstar", 2),
    "eagle": ("eagle", layouts.eagle, "eagle_subfind", 1),
    "swift": ("swift", layouts.swift, "soap", 1),
    "simba": ("simba", layouts.simba, "caesar", 1),
    "gadget2": ("gadget_binary", layouts.gadget_binary, "none", 2),
    "newhorizon": ("ramses", grids.ramses, "none", 0),
    "foggie": ("enzo", grids.enzo, "none", 0),
    "vela": ("art", grids.art, "none", 0),
}
#: Codes of adaptive grids: where their snapshots lie in a folder.
GRIDS = {"newhorizon": "output_00099/info_00099.txt", "foggie": "DD0099/DD0099", "vela": "VELA99/10MpcBox_*.d"}
PATTERNS = {"ahf": "*.AHF_halos", "subfind": "fof*.0.hdf5", "eagle_subfind": "eagle_sub*.0.hdf5", "caesar": "m100*",
            "rockstar": "out_*", "soap": "halo_properties_*", "table": "galaxies.ecsv"}  # fmt: skip


def write_base(folder: Path, name: str) -> list[Path]:
    """One galaxy of 160 particles of each kind at CENTRE, and its catalogue; the files that may be damaged."""
    folder.mkdir(parents=True)
    _, write, catalogue, files = BASES[name]
    parts = layouts.bound(layouts.galaxy(160)).components()
    parts["dark"] = replace(parts["dark"], pos_kpc=2 * parts["dark"].pos_kpc)  # haloes are wider than galaxies
    if name in GRIDS:
        return sorted(write(folder, Galaxy(**parts), CENTRE, np.zeros(3)).parent.iterdir())
    galaxy = Galaxy(**{k: replace(p, pos_kpc=p.pos_kpc + CENTRE) for k, p in parts.items()})
    if write is None:
        tipsy.write(folder / "snap_099.01000", [(galaxy, np.zeros(3), np.zeros(3))], layouts.BOX, layouts.A, HUBBLE)
        snapshots = [folder / "snap_099.01000", folder / "snap_099.param"]
    else:
        write(folder / ("snap_099.hdf5" if files > 1 else "snap_099.0.hdf5"), galaxy, files)
        snapshots = sorted(folder.glob("snap_*"))
    if catalogue != "none":
        corner = layouts.BOX / 2 if write is None else 0.0  # AHF counts from the corner, Tipsy from the middle
        with pytest.MonkeyPatch.context() as at_this_epoch:
            at_this_epoch.setattr(test_catalogues, "A", layouts.A)
            at_this_epoch.setattr(test_catalogues, "H", HUBBLE if write is None else layouts.H)
            at_this_epoch.setattr(test_catalogues, "CENTRE", test_catalogues.CENTRE + corner)
            test_catalogues.WRITERS[catalogue](folder)
    # Of three files that are damaged, two are of the snapshot and one is beside it.
    others = sorted(set(folder.iterdir()) - set(snapshots))
    return [path for i in range(4) for kind in (snapshots, snapshots, others) if kind for path in [kind[i % len(kind)]]]


# Mutations of files.


NUMBERS = [np.nan, np.inf, -np.inf, 1e300, -1e300, 1e30, -1.0, 0.0, 1e-30, 1e9, 2**31 - 1, -(2**31)]
VALUES = [*NUMBERS, b"text", 1 + 2j, np.zeros(0), np.full((3, 3), 7.0), np.array([b"1", b"b"])]
Data = np.ndarray
REMADE: dict[str, Callable[[Data], Any]] = {
    "flat": lambda x: x.ravel(),
    "two columns": lambda x: x.reshape(len(x), -1)[:, :2],
    "one column more": lambda x: np.column_stack([x, x]),
    "one row less": lambda x: x[:-1],
    "no rows": lambda x: x[:0],
    "scalar": lambda x: x.flat[0],
    "text": lambda x: x.astype("S12"),
    "complex": lambda x: x + 1j,
    "integer": lambda x: x.astype(np.int64),
    "mask": lambda x: x > 0,
    "half precision": lambda x: np.nan_to_num(x, posinf=0).clip(-6e4, 6e4).astype(np.float16),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "compound": lambda x: np.rec.fromarrays([x.reshape(len(x), -1)[:, 0]] * 2, names="a,b"),
    "negative": lambda x: -x.astype(float),
    "zeros": lambda x: 0 * x,
    "reversed": lambda x: x[::-1],
    "tiny": lambda x: x.astype(float) * 1e-300,
    "huge": lambda x: x.astype(float) * 1e200,
}


def damage_hdf5(path: Path, rng: np.random.Generator) -> str:
    """Change one attribute, dataset or group into something that a faulty program could have written."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        attributes = [(name, key) for name in names for key in file[name].attrs]
        if attributes and rng.random() < 0.4:
            name, key = attributes[rng.integers(len(attributes))]
            value = VALUES[rng.integers(len(VALUES))]
            if rng.random() < 0.15:
                del file[name].attrs[key]
                return f"{name}.{key} gone"
            old = np.asarray(file[name].attrs[key])
            file[name].attrs[key] = np.full(old.shape, value) if old.size > 1 and np.ndim(value) == 0 else value
            return f"{name}.{key} = {value}"
        name = names[rng.integers(len(names))]
        data = file[name][()] if isinstance(file[name], h5py.Dataset) else None
        attrs = dict(file[name].attrs)
        kind = str(rng.choice(["a value", *REMADE, "gone", "group", "loop", "nowhere", "passwd", "raw passwd",
                               "virtual nowhere", "virtual passwd", "claims", "unwritten"]))  # fmt: skip
        if data is None and (kind in REMADE or kind in ("a value", "claims", "raw passwd", "unwritten")):
            kind = "gone"
        del file[name]
        if kind == "a value" and data.size:
            number = NUMBERS[rng.integers(len(NUMBERS))]
            data = data.astype(float) if data.dtype.kind in "iufb" else data
            data.flat[int(rng.integers(data.size))] = number
            file[name] = data
            kind += f" {number}"
        elif kind in REMADE:
            try:
                file[name] = REMADE[kind](data)
            except (TypeError, ValueError, IndexError):  # of texts
                kind = "gone"
        elif kind == "group":
            file.create_group(name)
        elif kind in ("loop", "nowhere", "passwd"):
            other = {"loop": h5py.SoftLink("/" + name), "nowhere": h5py.ExternalLink("nowhere.hdf5", "/x")}
            file[name] = other.get(kind, h5py.ExternalLink("/etc/passwd", "/x"))
        elif kind.startswith("virtual"):
            layout = h5py.VirtualLayout(shape=(320, 3), dtype="f8")
            layout[:] = h5py.VirtualSource("/etc/passwd" if "passwd" in kind else "nowhere.hdf5", "x", shape=(320, 3))
            file.create_virtual_dataset(name, layout)
        elif kind == "raw passwd":
            file.create_dataset(name, data.shape, "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        elif kind in ("claims", "unwritten"):
            shape = (10**9 if kind == "claims" else len(data), *data.shape[1:])
            file.create_dataset(name, shape, data.dtype, chunks=True)
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            file[name].attrs.update(attrs)
        return f"{name} {kind}"


def damage_text(path: Path, rng: np.random.Generator) -> str:
    """Change a word, a line or the order of a text table or a .param file."""
    lines = path.read_text().splitlines()
    kind = str(rng.choice(["word", "word", "word", "twice", "names", "line", "long"]))
    at = int(rng.integers(len(lines)))
    if kind == "word":
        at = at if path.suffix == ".param" else len(lines) - 1 - int(rng.integers(min(5, len(lines))))
        parts = re.split(r"([\s,]+)", lines[at])
        new = str(
            rng.choice(["nan", "inf", "-inf", "1e300", "-1", "0", "1e30", "?", "", "1e9", "é", "0x1", "1_0", "7"])
        )
        parts[2 * int(rng.integers(len(parts) // 2 + 1))] = new
        lines[at] = "".join(parts)
        kind = f"line {at} has {new!r}"
    elif kind == "names":
        words = lines[0].split()
        lines[0] = " ".join(str(w) for w in rng.permutation(words))
    else:
        lines[at:at] = {"twice": [lines[-1]], "line": [" ".join("?" * 40)], "long": ["7" * 3_000_000]}[kind]
    path.write_text("\n".join(lines) + "\n")
    return kind


def damage_counts(path: Path, rng: np.random.Generator) -> str:
    """Change counts or time of a Tipsy header, or numbers or record marks of a GADGET header."""
    raw = bytearray(path.read_bytes())
    if raw[:4] == struct.pack("<I", 256):
        if rng.random() < 0.5:
            at, value = int(rng.choice([28, 36, 60, 76, 84, 132, 140, 148, 156])), NUMBERS[rng.integers(len(NUMBERS))]
            raw[at : at + 8] = struct.pack("<d", value)
        else:
            at, value = 4 * int(rng.integers(33)), int(rng.choice([0, 1, 2, -1, 79, 81, 256, 2**31 - 1]))
            raw[at : at + 4] = struct.pack("<i", value)
    elif rng.random() < 0.6:
        at, value = 8 + 4 * int(rng.integers(6)), int(rng.choice([0, -1, 2**31 - 1, 159, 161, -(2**31)]))
        raw[at : at + 4] = struct.pack(">i", value)
    else:
        at, value = 0, float(rng.choice([0.0, -1.0, np.nan, np.inf, 1e300, 0.3, 1e-300]))
        raw[:8] = struct.pack(">d", value)
    path.write_bytes(raw)
    return f"byte {at} = {value}"


def damage(path: Path, rng: np.random.Generator) -> str:
    if rng.random() < 0.35:
        return layouts.damage_bytes(path, rng)
    if h5py.is_hdf5(path):
        return damage_hdf5(path, rng)
    try:
        path.read_text()
    except UnicodeDecodeError:
        return damage_counts(path, rng)
    return damage_text(path, rng)


# The truth, read plainly.

#: Positions [kpc] and masses [Msun] of "dark" and the "rest", and, of parts of cells, how far they reach [kpc].
Parts = dict[str, tuple[np.ndarray, ...]]
#: Parts into which a cell is cut along each side.
PIECES = 6


def read_tipsy(folder: Path) -> tuple[Parts, float | None]:
    path = folder / "snap_099.01000"
    parameters = dict(re.findall(r"^(\w+) *= *([^#\s]+)", path.with_suffix(".param").read_text(errors="replace"), re.M))
    a, _, _, *counts = struct.unpack(">diiiii", path.read_bytes()[:28])
    raw, rows, offset = (
        path.read_bytes(),
        [],
        path.stat().st_size - 4 * (12 * counts[0] + 9 * counts[1] + 11 * counts[2]),
    )
    for n, width in zip(counts, (12, 9, 11), strict=True):
        rows.append(np.frombuffer(raw, ">f4", n * width, offset).reshape(n, width)[:, :4].astype(float))
        offset += 4 * n * width
    length, mass = float(parameters["dKpcUnit"]), float(parameters["dMsolUnit"])
    comoving = bool(float(parameters.get("bComove", 0)))
    length *= a if comoving else 1.0
    periodic = comoving or bool(float(parameters.get("bPeriodic", 0)))
    gas, dark, stars = ((row[:, 1:4] * length, row[:, 0] * mass) for row in rows)
    gas_and_stars = np.concatenate([gas[0], stars[0]]), np.concatenate([gas[1], stars[1]])
    return {"dark": dark, "rest": gas_and_stars}, length * float(parameters.get("dPeriod", 1.0)) if periodic else None


def read_binary(folder: Path) -> tuple[Parts, float | None]:
    """GADGET's format 1, little-endian, single precision."""
    rows: dict[str, list] = {"dark": [], "rest": []}
    for path in sorted(folder.glob("snap_*")):
        raw = path.read_bytes()
        counts, mass_table = np.frombuffer(raw, "<i4", 6, 4), np.frombuffer(raw, "<f8", 6, 28)
        if path.name.endswith(".0"):
            time, z = np.frombuffer(raw, "<f8", 2, 76)
            box, _, lambda_, h = np.frombuffer(raw, "<f8", 4, 132)
            a, h = time or 1 / (1 + z) if lambda_ or z else 1.0, h or 1.0
        n = counts.sum()
        pos = np.frombuffer(raw, "<f4", 3 * n, 268).reshape(n, 3).astype(float) * a / h
        mass = np.repeat(mass_table, counts)
        mass[np.repeat(mass_table == 0, counts)] = np.frombuffer(
            raw, "<f4", counts[mass_table == 0].sum(), 292 + 28 * n
        )
        dark = np.isin(np.repeat(np.arange(6), counts), (1, 2, 3))
        for kind, mask in (("dark", dark), ("rest", ~dark)):
            rows[kind].append((pos[mask], mass[mask] * 1e10 / h))
    parts = {kind: tuple(np.concatenate(arrays) for arrays in zip(*pairs, strict=True)) for kind, pairs in rows.items()}
    return parts, box * a / h or None  # type: ignore[return-value]


def read_grid(folder: Path, name: str) -> tuple[Parts, float | None]:
    parts, box = grids.PLAIN[BASES[name][0]](next(folder.glob(GRIDS[name])))
    gas, stars, side = parts["gas"], parts["stars"], parts["gas"]["side_kpc"] / PIECES
    steps = np.stack(np.meshgrid(*3 * [np.arange(PIECES) - (PIECES - 1) / 2], indexing="ij"), axis=-1).reshape(-1, 3)
    pieces = (gas["pos_kpc"][:, None] + side[:, None, None] * steps).reshape(-1, 3)
    share = np.repeat(gas["mass_msun"] / PIECES**3, PIECES**3)
    reach = np.repeat(0.75**0.5 * side, PIECES**3)  # a piece may be on either side of a sphere that crosses it
    rest = np.concatenate([pieces, stars["pos_kpc"]]), np.concatenate([share, stars["mass_msun"]])
    dark = parts["dark"]["pos_kpc"], parts["dark"]["mass_msun"]
    return {"dark": dark, "rest": (*rest, np.concatenate([reach, np.zeros(len(stars["mass_msun"]))]))}, box


ATTRIBUTES = [("CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent"), ("to_cgs", "a_scaling", "h_scaling"),
              ("Conversion factor to CGS (not including cosmological corrections)", "a-scale exponent",
               "h-scale exponent")]  # fmt: skip


def first_value(value: Any) -> float:
    return float(np.ravel(value)[0])


def read_hdf5(folder: Path, name: str) -> tuple[Parts, float | None]:
    files = [h5py.File(path) for path in sorted(folder.glob("snap_*"))]
    first = files[0]
    attributes: dict[str, Any] = {}
    for group in ("Cosmology", "Parameters", "Header"):
        attributes |= dict(first[group].attrs) if group in first else {}
    z, h = attributes.get("Redshift"), first_value(attributes.get("h", attributes.get("HubbleParam", 1.0)))
    a = (
        1 / (1 + first_value(z))
        if z is not None
        else first_value(attributes.get("Scale-factor", attributes.get("ExpansionFactor", attributes.get("Time"))))
    )
    default_units = {"eagle": (1000 * a / h, 1e10 / h), "swift": (1000 * a, 1e10)}.get(name, (a / h, 1e10 / h))
    if "UnitLength_in_cm" in attributes and "UnitMass_in_g" in attributes and "UnitVelocity_in_cm_per_s" in attributes:
        default_units = (
            first_value(attributes["UnitLength_in_cm"]) / KPC * a / h,
            first_value(attributes["UnitMass_in_g"]) / MSUN / h,
        )
    kinds = (("Coordinates",), ("Masses", "Mass"), ("Velocities", "Velocity"))
    factors: list[float] = []
    for names, cgs in zip(kinds, (KPC, MSUN, 1e5), strict=True):
        datasets = [first[f"PartType{i}"][n] for i in range(6) for n in names if n in first.get(f"PartType{i}", ())]
        conversions = [[first_value(d.attrs.get(n, np.nan)) for n in triple] for d in datasets for triple in ATTRIBUTES]
        factors += [
            factor / cgs * a**a_power * h**h_power
            for factor, a_power, h_power in conversions
            if np.isfinite([factor, a_power, h_power]).all() and factor > 0
        ][:1]
    length, mass = factors[:2] if len(factors) == 3 else default_units
    rows: dict[str, list] = {"dark": [], "rest": []}
    for file in files:
        for i in range(6):
            group = file.get(f"PartType{i}", {})
            if "Coordinates" not in group:
                continue
            pos = group["Coordinates"][()]
            masses = next((group[n][()] for n in kinds[1] if n in group), None)
            if masses is None:
                masses = np.full(len(pos), file["Header"].attrs["MassTable"][i])
            dark = i in (1, 2) or (i == 3 and name != "swift")
            rows["dark" if dark else "rest"].append((pos.astype(float) * length, masses.astype(float) * mass))
    parts = {kind: tuple(np.concatenate(x) for x in zip(*of, strict=True)) if of else (np.zeros((0, 3)), np.zeros(0))
             for kind, of in rows.items()}  # fmt: skip
    return parts, first_value(attributes.get("BoxSize", 0.0)) * length or None  # type: ignore[return-value]


def enclosed(part: tuple[np.ndarray, ...], box: float | None, centre: np.ndarray, radius: float) -> tuple[float, float]:
    """The least and the most mass that may be in a sphere whose radius is known to .4 %."""
    offset = part[0] - centre
    offset -= box * np.round(offset / box) if box else 0.0
    distance, reach = np.linalg.norm(offset, axis=1), part[2] if len(part) > 2 else 0.0
    return float(part[1][distance + reach <= 0.996 * radius].sum()), float(
        part[1][distance - reach <= 1.004 * radius].sum()
    )


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], Any]:
    root = tmp_path_factory.mktemp("fuzz")
    damages: dict[str, str] = {}
    for number, (name, (form, _, catalogue, _)) in enumerate(BASES.items()):
        for i in range(GRID_MUTANTS if name in GRIDS else MUTANTS):
            files = write_base(root / name / f"m{i:03d}", name)
            rng = np.random.default_rng([SEED, number, i])
            path = files[i % len(files)]
            damages[f"{name} m{i:03d}"] = f"{path.name}: {damage(path, rng) if i else 'whole'}"
        path = f"{{format: {catalogue}, path: '{PATTERNS[catalogue]}'}}" if catalogue != "none" else "{format: none}"
        heavy = "" if catalogue == "none" else ", halo_mass_msun: [3e+11, null]"
        aperture = "{kpc: 63}" if catalogue == "none" else "{r200: 0.3}"
        (root / f"{name}.yaml").write_text(
            f"name: {name}\nformat: {form}\nroot: {name}\nsnapshots: '*/{GRIDS.get(name, 'snap_099.0*')}'\n"
            f"catalogue: {path}\naperture: {aperture}\nselection: {{min_stars: 50{heavy}}}\n"
        )
    out = root / "maps.zarr"
    done = command("gen", "maps", *sorted(root.glob("*.yaml")), "--out", out, "--views", 2, "--pixels", 8, check=False)
    return root, damages, done


def test_it_ends_with_an_answer(fuzzed):
    _, damages, done = fuzzed
    assert len(damages) >= 300
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr, done.stderr
    peak = re.search(r"peak memory per rank \[MB\]: (\d+)", done.stderr)
    assert peak
    assert int(peak[1]) < 900


def test_every_failure_is_a_sentence_that_names_its_file(fuzzed):
    root, damages, _ = fuzzed
    unclear = []
    for line in (root / "maps.zarr" / "failures.jsonl").read_text().splitlines():
        failure = json.loads(line)
        reason, mutant = failure["reason"], f"{failure['suite']} {failure['galaxy'].partition('.')[0]}"
        names_file = str(root / failure["suite"] / mutant.split()[1]) in reason
        if (
            "traceback" in failure
            or not names_file
            or len(reason) > 600
            or re.search(r"\n|^[A-Z]\w*(Error|Exception)", reason)
        ):
            unclear.append(f"{mutant} ({damages[mutant]}): {reason}")
    assert not unclear, "\n".join(unclear)


@pytest.mark.parametrize("name", BASES)
def test_what_is_done_is_what_the_file_says(name, fuzzed):
    root, damages, _ = fuzzed
    group = store.open_suite(root / "maps.zarr", name)
    names, status = list(group["galaxy"][:]), store.read_status(group)
    assert not np.any(status == store.PENDING)
    done, errors = np.flatnonzero(status == store.DONE), []
    assert names[done[0]].startswith("m000."), "the whole galaxy must pass"
    others = {"nihao": read_tipsy, "gadget2": read_binary} | {kind: partial(read_grid, name=kind) for kind in GRIDS}
    read = others.get(name, partial(read_hdf5, name=name))
    for index in done:
        record = store.read_galaxy(group, int(index))
        mutant = names[index].partition(".")[0]
        label = f"{name} {mutant}: {damages[f'{name} {mutant}']}"
        errors += [f"{label}: {array} is not finite" for array, x in record.items() if not np.isfinite(x).all()]
        parts, box = read(root / name / mutant)
        total, dark, stars, gas = record["mass"]
        for k in (20, 40, 63):
            r = record["radius"][k]
            for kind, stored in {"dark": dark[k], "rest": total[k] - dark[k]}.items():
                low, high = enclosed(parts[kind], box, record["centre"], r)
                if not 0.997 * low - 1 <= stored <= 1.003 * high + 1:
                    errors.append(f"{label}: {kind} mass {stored:.5g} within {r:.4g} kpc is {low:.5g} to {high:.5g}")
        mapped_mass = record["maps"][:, [0, 4]].sum(axis=(2, 3), dtype=float) * record["pixel_scale"][:, None] ** 2
        if (mapped_mass > 1.0001 * np.array([stars[-1], gas[-1]])).any() or record["half_mass_radius"].min() <= 0:
            errors.append(f"{label}: maps hold more than the galaxy, or R_e is zero")
    assert not errors, "\n".join(errors)
