"""The same particles are read from every kind of file, precision, byte order, number of files and storage.

Every pair of values of the factors below is in some file, but not every combination.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grids
import h5py
import layouts
import numpy as np
import pytest
from conftest import command, tree

from kinmass.gen.formats.recognise import recognised
from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.snapshots.snapshot import Snapshot

Case = dict[str, str]
ORIGIN = np.zeros(3)
FACTORS = {
    "kind": ("tipsy", "gadget", "binary 1", "binary 2", "arepo", "gizmo", "simba", "eagle", "swift"),
    "real": ("f4", "f8"),
    "ids": ("i4", "u4", "i8", "u8"),
    "order": ("<", ">"),
    "files": ("1", "3"),
    "storage": ("contiguous", "chunked", "compressed"),
    "holds": ("all", "no gas", "one gas", "one star, no dark"),
    "cosmological": ("yes", "no"),
}
HDF5: dict[str, Callable[..., Path]] = {
    "gadget": layouts.gadget4, "arepo": layouts.tng, "gizmo": layouts.fire, "simba": layouts.simba,
    "eagle": layouts.eagle, "swift": layouts.swift,
}  # fmt: skip


def possible(case: Case) -> bool:
    """Tell whether a file of this case can exist: Tipsy is one file without ids, only HDF5 is chunked or compressed."""
    plain = case["storage"] == "contiguous" or case["kind"] in HDF5
    return plain and (case["kind"] != "tipsy" or (case["files"], case["ids"]) == ("1", "i4"))


def pairwise(seed: int = 0) -> Iterator[Case]:
    """Yield cases that cover every possible pair of values.

    Each is the one that covers most missing pairs, of fifty drawn at random among those with the first missing pair.
    """
    rng = np.random.default_rng(seed)
    names = list(FACTORS)
    cases = [dict(zip(names, values, strict=True)) for values in itertools.product(*FACTORS.values())]
    cases = [case for case in cases if possible(case)]
    missing = sorted({pair for case in cases for pair in itertools.combinations(case.items(), 2)})
    while missing:
        cases_with_pair = [case for case in cases if all(item in case.items() for item in missing[0])]
        drawn = [cases_with_pair[i] for i in rng.integers(len(cases_with_pair), size=50)]
        best = max(drawn, key=lambda case: sum(set(pair) <= case.items() for pair in missing))
        missing = [pair for pair in missing if not set(pair) <= best.items()]
        yield best


CASES = list(pairwise())


def the_galaxy(holds: str) -> Galaxy:
    galaxy = layouts.galaxy(60)
    return replace(
        galaxy,
        gas=galaxy.gas[: {"no gas": 0, "one gas": 1}.get(holds, 60)],
        stars=galaxy.stars[: 1 if holds == "one star, no dark" else 60],
        dark=galaxy.dark[: 0 if holds == "one star, no dark" else 60],
    )


def recast(path: Path, case: Case) -> None:
    """Rewrite a file's datasets in another precision, byte order and storage, with ids; drop empty types."""
    with h5py.File(path, "r+") as file:
        for number in range(6):
            if (group := file.get(f"PartType{number}")) is None or "Coordinates" not in group:
                continue
            n = len(group["Coordinates"])
            if n == 0 and case["files"] == "1":
                del file[group.name]
                continue
            if "ParticleIDs" in group:
                del group["ParticleIDs"]
            group["ParticleIDs"] = np.arange(n)
            for name, dataset in [item for item in group.items() if isinstance(item[1], h5py.Dataset)]:
                values, attrs = dataset[()], dict(dataset.attrs)
                dtype = {"Coordinates": case["real"], "ParticleIDs": case["ids"]}.get(name, values.dtype)
                del group[name]
                storage_options = {"chunked": {"chunks": True}, "compressed": {"compression": "gzip", "shuffle": True}}
                new_dataset = group.create_dataset(
                    name, data=values.astype(np.dtype(dtype).newbyteorder(case["order"])),
                    **storage_options.get(case["storage"] if n else "", {}),
                )  # fmt: skip
                new_dataset.attrs.update(attrs)
        if case["cosmological"] == "no":
            file["Header"].attrs.update({"OmegaLambda": 0.0, "Redshift": 0.0, "Time": 3.7})
            if "Parameters" in file:
                file["Parameters"].attrs.update({"OmegaLambda": 0.0, "ComovingIntegrationOn": 0})
            if "Cosmology" in file:
                file["Cosmology"].attrs.update({"Cosmological run": [0], "Redshift": [0.0]})


def write(folder: Path, galaxy: Galaxy, case: Case) -> Path:
    files, comoving = int(case["files"]), case["cosmological"] == "yes"
    if case["kind"] == "tipsy":
        return layouts.tipsy(folder / "run.00512", galaxy, case["order"], case["real"], int(comoving))
    if case["kind"].startswith("binary"):
        isolated = {} if comoving else {"Time": 3.7, "Redshift": 0.0, "OmegaLambda": 0.0}
        return layouts.gadget_binary(
            folder / "snap_028.bin", galaxy, files, int(case["kind"][-1]), case["order"], case["real"],
            case["ids"].replace("i", "u"), **isolated,
        )  # fmt: skip
    path = HDF5[case["kind"]](folder / "snap_028.hdf5", galaxy, files)
    for file in folder.glob("*.hdf5"):
        recast(file, case)
    return path


def said(case: Case) -> dict[str, float]:
    """Return what a suite file has to say of units: of factors of h in a run without expansion."""
    has_words = case["kind"] in ("tipsy", "arepo", "eagle", "swift") or case["cosmological"] == "yes"
    return {} if has_words else {"length_kpc": 1.0, "mass_msun": 1e10}


def as_read(p: Particles, case: Case) -> Particles:
    """Return the particles as they are read back.

    The layouts write comoving lengths and velocities with a power of a, which are not undone without expansion.
    """
    if case["cosmological"] == "yes":
        return p
    velocity = {"tipsy": 1 / layouts.A, "swift": 1.0}.get(case["kind"], 1 / layouts.ROOT_A)
    support = None if p.support_kpc is None else p.support_kpc / layouts.A
    return Particles(p.pos_kpc / layouts.A, p.vel_kms * velocity, p.mass_msun, support)


def assert_same(galaxy_read: Galaxy, written: Galaxy, case: Case, radius_kpc: float) -> None:
    """Compare the particles within a radius, in any order, to the precision of the file."""
    precision_kpc = layouts.BOX / layouts.A * {"f4": 2.0**-24, "f8": 1e-15}[case["real"]]
    for name, written_part in written.components().items():
        p, read = as_read(written_part, case), galaxy_read.components()[name]
        distance_kpc = np.linalg.norm(p.pos_kpc, axis=1)
        assert np.abs(distance_kpc - radius_kpc).min(initial=np.inf) > 4 * precision_kpc, "choose another radius"
        p = p[distance_kpc < radius_kpc]
        assert len(read) == len(p), name
        moves = name in ("stars", "gas")
        written_order, read_order = (np.argsort((x.vel_kms if moves else x.pos_kpc)[:, 0]) for x in (p, read))
        np.testing.assert_allclose(
            read.pos_kpc[read_order], p.pos_kpc[written_order], rtol=1e-6, atol=2 * precision_kpc, err_msg=name
        )
        if moves:
            np.testing.assert_allclose(
                read.vel_kms[read_order], p.vel_kms[written_order], rtol=1e-6, atol=1e-4, err_msg=name
            )
        np.testing.assert_allclose(read.mass_msun[read_order], p.mass_msun[written_order], rtol=1e-6, err_msg=name)
        if name == "gas" and len(p):
            np.testing.assert_allclose(read.support_kpc[read_order], p.support_kpc[written_order], rtol=2e-6)


def test_every_pair_of_values_is_in_some_file():
    pairs = {pair for case in CASES for pair in itertools.combinations(case.items(), 2)}
    for factor, other_factor in itertools.combinations(FACTORS, 2):
        if {factor, other_factor}.isdisjoint({"kind", "ids", "storage", "files"}):
            assert {((factor, x), (other_factor, y)) for x in FACTORS[factor] for y in FACTORS[other_factor]} <= pairs
    assert {kind for kind in FACTORS["kind"] if (("kind", kind), ("storage", "compressed")) in pairs} == set(HDF5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()).replace(" ", "_"))
def test_the_same_particles_come_back(case, tmp_path, monkeypatch):
    """All particles lie around the corner of the periodic box; read whole, and by an index of many blocks."""
    written = the_galaxy(case["holds"])
    path = write(tmp_path, written, case)
    form = "gadget_binary" if case["kind"].startswith("binary") else case["kind"]
    like_gizmo = case["kind"] == "simba" and case["holds"] == "no gas"  # SIMBA is told from GIZMO by fields of its gas
    assert recognised(path) in ({form, "gizmo"} if like_gizmo else {form})
    for read_whole_below, chunk_size in ((10**6, 64**3), (10, 25)):
        monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", read_whole_below)
        monkeypatch.setattr("yt.geometry.particle_geometry_handler.ParticleIndex.chunksize", chunk_size)
        with Snapshot(path, form, units=said(case)) as snapshot:
            expands = case["cosmological"] == "yes"
            assert snapshot.units.scale_factor == pytest.approx(layouts.A if expands else 1)
            assert snapshot.units.box_kpc == pytest.approx(layouts.BOX / (1 if expands else layouts.A))
            for radius in (23.4, 600.0):
                assert_same(snapshot.galaxy(ORIGIN, radius), written, case, radius)


def test_one_rank_and_two_map_them_to_the_same_bytes(tmp_path):
    """Maps of one galaxy in each kind of file."""
    galaxy = layouts.bound(the_galaxy("all"))
    cases = [next(c for c in CASES if c["kind"] == kind and c["holds"] == "all") for kind in FACTORS["kind"]]
    for case in cases:
        folder = tmp_path / case["kind"].replace(" ", "_")
        folder.mkdir()
        path = write(folder, galaxy, case)
        form = "gadget_binary" if "binary" in case["kind"] else case["kind"]
        dark = "DarkMatter" if form == "tipsy" else "PartType1"
        (folder / "suite.yaml").write_text(
            f"name: {folder.name}\nformat: {form}\nsnapshots: {path.name}\naperture: {{kpc: 200}}\n"
            f"selection: {{min_stars: 30}}\nparticles: {{dark: [{dark}]}}\nunits: {said(case)}\n"
        )
    for kind, write_grid in grids.WRITERS.items():
        path = write_grid(tmp_path / kind.replace(" ", "_"), galaxy, ORIGIN, ORIGIN)
        folder = tmp_path / kind.replace(" ", "_")
        (folder / "suite.yaml").write_text(
            f"name: {folder.name}\nformat: {kind.split()[-1]}\nsnapshots: {path.relative_to(folder)}\n"
            "aperture: {kpc: 200}\nselection: {min_stars: 30}\n"
        )
    suites = sorted(tmp_path.glob("*/suite.yaml"))
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.zarr"
        finished = command("gen", "maps", *suites, "--out", out, "--views", 2, "--pixels", 8, ranks=ranks, check=False)
        assert f"{9 + len(grids.WRITERS)} galaxies done, 0 failed" in finished.stdout, finished.stderr
    tree_of_one_rank, tree_of_two_ranks = (tree(tmp_path / f"{ranks}.zarr") for ranks in (1, 2))
    assert tree_of_one_rank == tree_of_two_ranks
