"""AdaptaHOP (Aubert et al. 2004; Tweed et al. 2009) as HaloMaker and GalaxyMaker write it: `tree_bricks761`.

Layout: their own write_tree_brick and write_halo (input_output.f90), of several years, and yt's frontend. A file does
not say which version wrote it: the sizes of its records do, every one of which is checked. Lengths are physical Mpc
of 3.08e24 cm, places count from the box's centre, and masses are in 1e11 Msun.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kinmass.gen.catalogues.base import Halo, listed, same_epoch
from kinmass.gen.constants import KPC_CM, RAMSES_MPC_CM
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.fortran import Records

#: HaloMaker divides RAMSES's unit_l by RAMSES's own megaparsec, 0.18 per cent below the true one: 90 kpc in 50 Mpc.
_KPC_PER_MPC, _MSUN = RAMSES_MPC_CM / KPC_CM, 1e11
#: Centres outside the box by more than this share of its side are another box's.
_OUTSIDE = 1e-3

# Records of an entry: name, i (integers), f (floats) or b (bytes), and their number; n stands for that of the members,
# b for that of the bins, * for any. Numbers have 4 bytes or 8, the same in all entries.
_START = "n:i1 members:in"
_TREE = "number:i1 step:i1 tree:i5 mass:f1"
_WITH_SUBS = "n_with_subs:i1 mass_with_subs:f1"
_SHAPE = "pos:f3 vel:f3 momentum:f3 axes:f4 energy:f3 spin:f1"
_NEW = f"{_SHAPE} sigma:f1 virial:f4 vmax:f2 c:f1 r200:f2 r50:f2 r3d:f* rho3d:f* nfw:f2"
_BINS = "bins:i1 r:fb rho:fb"
_STELLAR = f"r_e:f1 metals:f1 age:f1 sfr:f3 rotation:f2 disc:f2 bulge:f2 {_BINS}"
_BY_KIND = (
    "n_kinds:i2 mass_kinds:f2 n_tot:i2 mass_tot:f2 pos_dark:f3 pos_stars:f3 vel_dark:f3 vel_stars:f3 "
    "l_dark:f3 l_stars:f3 axes_dark:f4 axes_stars:f4 r50_dark:f2 r50_stars:f2 r_dark:f* rho_dark:f* r_stars:f* "
    "rho_stars:f* sigmas:f2"
)
_FLAG, _LOW_RES = "flag:i1", "flag:i1 low_res:f2 n_low_res:i2"


@dataclass(frozen=True)
class _Layout:
    """What a version writes for an entry. of: particles that it was run on, `dark`, `stars`, or `all` of both."""

    of: Literal["dark", "stars", "all"]
    records: tuple[tuple[str, str, str], ...]


def _layout(of: Any, *texts: str) -> _Layout:
    words = " ".join(texts).split()
    return _Layout(of, tuple((name, kind[0], kind[1:]) for name, kind in (word.split(":") for word in words)))


_LAYOUTS = (
    *(  # HaloMaker 2: single precision, later double, which came with sigma; with the flag of CONTAM or without
        _layout("dark", _START, _TREE, _SHAPE, sigma, "virial:f4 nfw:f2", flag)
        for sigma, flag in product(("", "sigma:f1"), ("", _FLAG))
    ),
    *(  # GalaxyMaker: Horizon-AGN, NewHorizon
        _layout("stars", _START, _TREE, _SHAPE, "bulge:f3", virial, "nfw:f2", _BINS)
        for virial in ("virial:f4", "virial:f5")
    ),
    *(  # HaloMaker since 2020, on dark matter, on stars, or on both
        _layout(of, _START, members, _TREE, _WITH_SUBS, _NEW, more, low_res)
        for of, members, more in (
            ("dark", "", ""),
            ("stars", "", _STELLAR),
            ("all", "masses:fn families:bn", f"{_STELLAR} {_BY_KIND}"),
        )
        for low_res in ("", _LOW_RES)
    ),
)  # fmt: skip
_READ = {"n", "number", "tree", "mass", "pos", "virial", "bins", "flag", "low_res", "n_kinds", "mass_kinds"}
#: A mass above this is no galaxy's or cluster's, in HaloMaker's unit: 1e18 Msun.
_LARGEST_MASS = 1e7
#: An entry of the shortest layout has 14 records with two marks each.
_FEWEST_BYTES = 14 * 8


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read haloes or galaxies; R200 and M200 of a central halo are HaloMaker's Rvir and Mvir. Level 1 is a central.

    Of galaxies, number and mass are those of their stars, and there is no R200: what GalaxyMaker writes in its place is
    the stars' own. Raises OtherEpoch, or SnapshotError for a damaged file or one of an unknown version.
    """
    if units.box_kpc is None:
        raise SnapshotError(
            f"{path}: its positions count from the centre of a box, and the snapshot has none; give `units.box`"
        )
    with Records(path, _byte_order(path)) as records:
        bodies = _number(records, "i")
        _number(records, "f")  # mass of a particle
        same_epoch(path, _number(records, "f"), units)
        _number(records, "f"), _number(records, "f")  # omega and age
        centrals, others = map(int, _numbers(records, "i", 2))
        if min(centrals, others) < 0 or (centrals + others) * _FEWEST_BYTES > records.size - records.at:
            raise records.broken(f"{centrals} and {others} entries, which it cannot hold,")
        layout, columns = _entries(records, centrals + others)
    if layout.of == "dark" and bodies == _stars_of(snapshot) > 0:
        raise SnapshotError(
            f"{path}: its header counts {bodies:.0f} particles, as many as {snapshot.name} has stars: galaxies in the "
            "layout of haloes, whose Rvir is the stars' own; make a table of it (`format: table`), without r200"
        )
    with np.errstate(all="ignore"):  # numbers of damaged files overflow; what comes out is checked
        _check(path, columns, int(bodies), centrals)
        return _haloes(path, layout, columns, units)


def _stars_of(snapshot: Path) -> int:
    """Number of stars by the first particle file beside an info file of RAMSES; 0 where it cannot be told."""
    file = snapshot.with_name(f"part_{snapshot.stem.rpartition('_')[2]}.out00001")
    if not file.is_file():
        return 0
    with Records(file) as records:
        records.skip(times=4)
        return int(_number(records, "i"))


def _byte_order(path: Path) -> Literal["<", ">"]:
    """Tell the byte order by the first mark, of a record of 4 or 8 bytes. Raises SnapshotError for another file."""
    with open(path, "rb") as file:
        mark = file.read(4)
    for order in ("<", ">"):
        if int.from_bytes(mark, "little" if order == "<" else "big") in (4, 8):
            return order  # type: ignore[return-value]
    raise SnapshotError(f"{path}: does not begin as a tree_bricks file of AdaptaHOP; is `catalogue.format` right?")


def _numbers(records: Records, kind: str, count: int) -> np.ndarray:
    """Read a record of so many numbers of 4 bytes, or of 8. Raises SnapshotError for any other size."""
    size = records.peek()
    if size not in (4 * count, 8 * count):
        raise records.broken(f"a record of {size} bytes, not {4 * count} or {8 * count},")
    return records.read(f"{kind}{size // count}", count)


def _number(records: Records, kind: str) -> float:
    return float(_numbers(records, kind, 1)[0])


def _entries(records: Records, n: int) -> tuple[_Layout, dict[str, np.ndarray]]:
    """Read all entries by the layout whose records they have. Raises SnapshotError where they have those of none."""
    begin, problem = records.at, None
    for layout in _LAYOUTS:
        records.at = begin
        try:
            _columns(records, layout, min(n, 2))
        except SnapshotError:
            continue
        records.at = begin
        try:
            columns = _columns(records, layout, n)
            if records.at != records.size:
                raise records.broken(f"more than the {n} entries that its header counts")
            return layout, columns
        except SnapshotError as error:
            problem = error
    raise problem or SnapshotError(
        f"{records.path}: its first entries have the records of no version of HaloMaker that is known here, or are "
        "damaged; get the file again, or make a table of it (`format: table`)"
    )


def _columns(records: Records, layout: _Layout, n: int) -> dict[str, np.ndarray]:
    """Read n entries by a layout: what is in `_READ`, by name (n, ...). Raises SnapshotError where records differ."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name, _, _ in layout.records if name in _READ}
    widths: dict[str, int] = {}
    for _ in range(n):
        counts = {"n": 0, "b": 0}
        for name, kind, count_text in layout.records:
            size = records.peek()
            if count_text == "*":
                records.skip()
                continue
            count = counts[count_text] if count_text in counts else int(count_text)
            width = size // count if count else 0
            if width * count != size or width not in ((1,) if kind == "b" else (4, 8)):
                raise records.broken(f"a record of {size} bytes where {count} numbers are due,")
            if widths.setdefault(name, width) != width:
                raise records.broken(f"numbers of {width} bytes, and before that of {widths[name]},")
            if name not in rows:
                records.skip(size)
                continue
            rows[name].append(records.read(f"{kind}{width}", count))
            if name in ("n", "bins"):
                counts[name[0]] = int(rows[name][-1][0])
    return {name: np.array(values) for name, values in rows.items()}


def _check(path: Path, columns: dict[str, np.ndarray], bodies: int, centrals: int) -> None:
    """Raise SnapshotError for counts that disagree, or masses that cannot be."""
    if not len(columns["n"]):
        return
    n, level, mass = columns["n"][:, 0], columns["tree"][:, 0], columns["mass"][:, 0]
    wrong = ""
    if bodies >= 0 and n.sum(dtype=np.int64) > bodies:
        wrong = f"its entries have {n.sum(dtype=np.int64)} particles of the {bodies} that its header counts"
    elif (columns["number"] < 1).any() or level.min(initial=1) < 1:
        wrong = "an entry has a number or a level below 1"
    elif (level == 1).sum() != centrals:
        wrong = f"{(level == 1).sum()} entries are of level 1, and its header counts {centrals}"
    elif not ((mass > 0) & (mass < _LARGEST_MASS)).all():
        wrong = "an entry has no mass, or one that cannot be"
    elif not ((columns["virial"][:, :2] >= 0) & (columns["virial"][:, :2] < _LARGEST_MASS)).all():
        wrong = "an entry has no virial mass or radius, or one that cannot be"
    elif "flag" in columns and not np.isin(columns["flag"], (0, 1)).all():
        wrong = "a flag of contamination is neither 0 nor 1"
    elif "n_kinds" in columns and not _kinds_add_up(n, mass, columns["n_kinds"], columns["mass_kinds"]):
        wrong = "the stars and dark matter of an entry are not together what it has"
    if wrong:
        raise SnapshotError(f"{path}: {wrong}; damaged? Get it again")


def _kinds_add_up(n: np.ndarray, mass: np.ndarray, n_kinds: np.ndarray, mass_kinds: np.ndarray) -> bool:
    """Whether dark matter and stars (n, 2) have together the particles and the mass (n,) of their entries."""
    counts = (n_kinds >= 0).all() and (n_kinds.sum(axis=1, dtype=np.int64) == n).all()
    return bool(counts and (mass_kinds >= 0).all() and (np.abs(mass_kinds.sum(axis=1) - mass) <= 1e-4 * mass).all())


def _haloes(path: Path, layout: _Layout, columns: dict[str, np.ndarray], units: CodeUnits) -> list[Halo]:
    """Turn columns into haloes, in kpc and Msun."""
    if not len(columns["n"]):
        return []
    side_kpc = float(units.box_kpc or 0.0)
    offset_kpc = columns["pos"].astype(float) * _KPC_PER_MPC
    if (np.abs(offset_kpc) > (0.5 + _OUTSIDE) * side_kpc).any():
        raise SnapshotError(
            f"{path}: an entry lies outside the snapshot's box of {side_kpc:.5g} kpc; of another run, or damaged? "
            "Check `catalogue.path`, or get it again"
        )
    n, mass, central = columns["n"][:, 0], columns["mass"][:, 0].astype(float) * _MSUN, columns["tree"][:, 0] == 1
    values: dict[str, Any] = {"central": central}
    if layout.of == "stars":
        values |= {"n_stars": n, "stellar_mass_msun": mass}
    else:
        r_vir, m_vir = columns["virial"][:, :2].astype(float).T
        values |= {
            "n_particles": n,
            "r200_kpc": np.where(central, r_vir * _KPC_PER_MPC, np.nan),
            "halo_mass_msun": np.where(central, m_vir * _MSUN, mass),
            "high_res_fraction": _high_res_fraction(path, columns),
        }
    if layout.of == "all":
        stars = columns["mass_kinds"][:, 1].astype(float) * _MSUN
        values |= {"n_stars": columns["n_kinds"][:, 1], "stellar_mass_msun": stars}
    return listed(columns["number"][:, 0], offset_kpc + 0.5 * side_kpc + units.corner_kpc, **values)


def _high_res_fraction(path: Path, columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return the share (n,) of the mass that is of high resolution, NaN where only a flag says that it is not all."""
    if "low_res" in columns:
        share = columns["low_res"][:, 0].astype(float) / columns["mass"][:, 0]
        if not ((share >= 0) & (share <= 1 + 1e-5)).all():
            raise SnapshotError(f"{path}: low resolution has more than all of an entry's mass; damaged? Get it again")
        return 1 - np.minimum(share, 1.0)
    return np.where(columns["flag"][:, 0] == 0, 1.0, np.nan) if "flag" in columns else None
