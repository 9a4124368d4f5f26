"""Simulated galaxies in, one Zarr store of kinematic maps and mass profiles out.

  kinmass mock --out mocks                      make the three mock suites
  kinmass maps mocks/*/*.yaml --out maps.zarr   map every galaxy of some suites
  kinmass maps mine.yaml --preview              draw a few of its galaxies first: is all of it right?
  kinmass check snap_099.hdf5                   say what a snapshot file holds; --draft: a suite file for it
  kinmass check mine.yaml                       and what a suite file makes of it: galaxies, and why not others
  kinmass export maps.zarr --suite mine --galaxy snap_099:0 --out fits   a galaxy's maps as FITS

Put `mpiexec -n 8` (or srun) before `mock` and `maps` to share the galaxies out over processes.
A run that was stopped goes on where it stood when the same command is given again.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinmass.gen.command import add_command, parse, several_processes, stage_parser
from kinmass.gen.errors import in_words, is_user_error, sentence
from kinmass.gen.look.style import own_style
from kinmass.gen.options import number_or_range
from kinmass.gen.streams import standard_streams
from kinmass.gen.words import counted

if TYPE_CHECKING:
    from kinmass.gen.campaign.record import Settings
    from kinmass.gen.suite import Suite


def add_commands(commands: Any) -> None:
    """Add this stage's commands to `commands`, the result of argparse's add_subparsers."""
    _add_mock(commands)
    _add_maps(commands)
    _add_check_and_export(commands)


def _add_mock(commands: Any) -> None:
    mock = add_command(commands, "mock", "make mock suites of galaxies in equilibrium, in archive formats")
    mock.add_argument("--out", type=Path, required=True, help="folder to write the suites into")
    mock.add_argument(
        "--suites",
        default="bursty,quiet,middle",
        help="suites, comma-separated; there are also early, of ellipticals and lenticulars, and grid, those of quiet "
        "as RAMSES writes them (default: %(default)s)",
    )
    mock.add_argument("--galaxies", type=int, default=300, help="galaxies per suite (default: %(default)s)")
    mock.add_argument(
        "--seed", type=int, default=1, help="seed; the same one makes the same galaxies (default: %(default)s)"
    )
    for name, what, default in (("stars", "star", 20_000), ("gas", "gas", 10_000), ("dark", "dark-matter", 20_000)):
        mock.add_argument(
            f"--{name}",
            type=number_or_range,
            default=default,
            metavar="N|LOW-HIGH",
            help=f"{what} particles per galaxy, or a range from which each galaxy draws its own number "
            "(default: %(default)s)",
        )
    mock.add_argument(
        "--precision",
        choices=("single", "double"),
        help="precision of positions (default: as the suite's code writes them: Tipsy and AREPO single, GIZMO double)",
    )


def _add_maps(commands: Any) -> None:
    maps = add_command(commands, "maps", "project the galaxies of suites into a map store")
    maps.add_argument(
        "suites", type=Path, nargs="+", metavar="SUITE.yaml", help="suite files (docs/howto/simulation.md)"
    )
    maps.add_argument(
        "--out", type=Path,
        help="map store to write or to go on with, e.g. maps.zarr; with --preview a folder (default: preview)",
    )  # fmt: skip
    maps.add_argument(
        "--views",
        type=int,
        default=16,
        help="random lines of sight per galaxy: networks learn more from more of them (default: %(default)s)",
    )
    maps.add_argument("--pixels", type=int, default=32, help="pixels along a side of the map (default: %(default)s)")
    maps.add_argument("--seed", type=int, default=0, help="seed of the lines of sight (default: %(default)s)")
    maps.add_argument(
        "--field-of-view", type=float, default=6.0, metavar="RE", help="side of the map in R_e (default: %(default)s)"
    )
    maps.add_argument(
        "--inclination", type=float, nargs=2, default=(0.0, 90.0), metavar=("MIN", "MAX"),
        help="only lines of sight this inclined to the stars' angular momentum, in degrees (default: all)",
    )  # fmt: skip
    maps.add_argument(
        "--galaxies-per-shard", type=int, metavar="K",
        help="pack K galaxies into each file, for sites that limit the number of files; one rank maps them together "
        "(default: as the store has it; else 16 for a suite of more than 4,000 galaxies, and 1 for others)",
    )  # fmt: skip
    maps.add_argument(
        "--readers", type=int, default=128, help="ranks that read snapshots at the same time (default: %(default)s)"
    )
    maps.add_argument("--repair", action="store_true", help="read all that is done, and map again what is damaged")
    maps.add_argument(
        "--root", type=Path, help="folder from which the suites' patterns start (default: that of each suite file)"
    )
    instead = maps.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="list the galaxies that would be mapped and stop")
    instead.add_argument(
        "--preview",
        action="store_true",
        help="draw a few galaxies of each suite as they would be mapped; writes no store",
    )
    maps.add_argument(
        "--galaxy", action="append", metavar="NAME",
        help="with --preview: this one, as --dry-run names it; may be repeated (default: first, middle and last)",
    )  # fmt: skip
    instead.add_argument("--plan", action="store_true", help="make the store with room for all galaxies, and stop")
    maps.add_argument(
        "--ranks", type=int, metavar="N",
        help="with --plan: map a few galaxies of each suite aside, and foretell a run on up to N ranks",
    )  # fmt: skip


def _add_check_and_export(commands: Any) -> None:
    check = add_command(
        commands,
        "check",
        "say what a snapshot file holds, or what a suite file makes of its first snapshot, with a verdict",
    )
    check.add_argument("files", type=Path, nargs="+", metavar="FILE", help="snapshots, or suite files (.yaml)")
    check.add_argument(
        "--draft", action="store_true", help="print a first suite file for the snapshot, and nothing else"
    )
    check.add_argument("--format", help="format of the snapshot, one of those in docs/generation.md (default: guessed)")

    export = add_command(commands, "export", "write the maps of a galaxy as FITS files")
    export.add_argument("store", type=Path, metavar="STORE", help="map store")
    export.add_argument("--suite", required=True, help="suite of the galaxy")
    export.add_argument("--galaxy", required=True, metavar="NAME", help="name of the galaxy in the store")
    export.add_argument("--view", default="0", help="number of the view, or all (default: %(default)s)")
    export.add_argument("--out", type=Path, required=True, help="folder to write into, a file per view")
    export.add_argument("--instrument", help="built-in name or YAML file (default: the stored noiseless moments)")
    export.add_argument(
        "--distance-mpc", type=float, help="put the galaxy on the sky at this angular diameter distance"
    )
    export.add_argument("--ra", type=float, help="right ascension there [deg] (default: 0)")
    export.add_argument("--dec", type=float, help="declination there [deg] (default: 0)")


def _mock(args: argparse.Namespace) -> int:
    from kinmass.gen.bars import progress_bar
    from kinmass.gen.campaign import parallel
    from kinmass.gen.mock.archive import WRITTEN, jobs, write_snapshot, write_suite_file
    from kinmass.gen.options import Mocks, OptionError, checked
    from kinmass.gen.storage.files import write_atomically

    parallel.check()
    names = list(dict.fromkeys(args.suites.split(",")))
    if unknown := [name for name in names if name not in WRITTEN]:
        raise OptionError(f"unknown suite {unknown[0]!r}; there are {', '.join(WRITTEN)}")
    mocks = checked(Mocks, galaxies=args.galaxies, stars=args.stars, gas=args.gas, dark=args.dark, seed=args.seed)
    n_particles = {"n_stars": mocks.stars, "n_gas": mocks.gas, "n_dark": mocks.dark}
    config = {"seed": mocks.seed, "galaxies": mocks.galaxies, **n_particles}
    config |= {"precision": args.precision} if args.precision else {}

    def prepare() -> None:
        """Write the suites' files. Raises OptionError where a folder holds galaxies made with other settings."""
        for name in names:
            settings_file = args.out / name / "mock.json"
            if settings_file.exists() and (made_with := settings_file.read_text()) and made_with != json.dumps(config):
                raise OptionError(
                    f"{settings_file.parent} holds galaxies made with {_as_options(made_with)}; repeat these options, "
                    "or choose a new --out"
                )
            write_suite_file(args.out / name, name)
            write_atomically(settings_file, json.dumps(config))

    parallel.on_rank_0(prepare)
    snapshot_groups = [(name, group) for name in names for group in jobs(name, args.galaxies)]
    double = None if args.precision is None else args.precision == "double"
    bar = progress_bar(total=len(names) * args.galaxies, desc="galaxies", unit="gal", disable=parallel.rank() > 0)
    parallel.share_out(
        snapshot_groups,
        lambda job, _: write_snapshot(args.out / job[0], *job, args.seed, n_particles, double),
        lambda job, _: bar.update(len(job[1])),
    )
    bar.close()
    if parallel.rank() == 0:
        folders = ", ".join(str(args.out / name) for name in names)
        print(f"{counted(args.galaxies, 'galaxy', 'galaxies')} in each of {folders}")
    return 0


def _as_options(settings: str) -> str:
    """Write the settings of a mock suite, which are JSON, as the options of its command; damaged ones as they are."""
    try:
        made_with = {key.removeprefix("n_"): value for key, value in json.loads(settings).items()}
    except (ValueError, AttributeError):
        return settings
    words = {key: "-".join(map(str, value)) if isinstance(value, list) else value for key, value in made_with.items()}
    return " ".join(f"--{key} {word}" for key, word in words.items())


def _maps(args: argparse.Namespace) -> int:
    from kinmass.gen.campaign import parallel
    from kinmass.gen.campaign.maps import generate
    from kinmass.gen.campaign.plan import list_tasks
    from kinmass.gen.campaign.record import Settings
    from kinmass.gen.options import OptionError, Sharing, checked
    from kinmass.gen.suite import load_suite

    parallel.check()
    checked(Sharing, readers=args.readers, ranks=args.ranks)
    if args.ranks is not None and not args.plan:
        raise OptionError("--ranks foretells a run: give it with --plan (mpiexec -n or srun starts ranks)")
    if args.repair and (args.preview or args.dry_run):
        raise OptionError("--repair changes a store, and does nothing with --preview and --dry-run; leave one out")
    if args.galaxy and not args.preview:
        raise OptionError("--galaxy names what to draw: give it with --preview (`selection` in the suite file chooses)")
    if args.out is None and not (args.preview or args.dry_run):
        raise OptionError("--out is missing: name the map store to write, e.g. --out maps.zarr")
    settings = checked(
        Settings,
        {"field_of_view_re": "--field-of-view", "inclination_deg": "--inclination"},
        views=args.views,
        pixels=args.pixels,
        seed=args.seed,
        field_of_view_re=args.field_of_view,
        inclination_deg=tuple(args.inclination),
        galaxies_per_shard=args.galaxies_per_shard,
    )
    suites = parallel.on_rank_0(lambda: [load_suite(path, args.root) for path in args.suites])
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"two suite files have the same name, {twice}; change `name` in one of them")
    if args.dry_run:
        for suite in suites if parallel.rank() == 0 else []:
            for task in list_tasks(suite):
                print(f"{suite.name}  {task.name}  {task.snapshot}  {task.problem or 'ok'}")
        return 0
    if args.preview:
        drawn = parallel.on_rank_0(lambda: _preview(suites, settings, args.galaxy or [], args.out or Path("preview")))
        return 0 if drawn else 3
    if args.plan:
        return _plan(args, suites, settings)
    done, failed = generate(suites, args.out, settings, args.readers, args.repair)
    if parallel.rank() == 0:
        hint = f"; why: {args.out / 'failures.jsonl'}" if failed else ""
        print(f"{counted(done, 'galaxy', 'galaxies')} done, {failed} failed, in {args.out}{hint}")
    return 3 if failed else 0


def _plan(args: argparse.Namespace, suites: "list[Suite]", settings: "Settings") -> int:
    """Make the store with room for all galaxies, and foretell a run where it is asked for; return the exit code."""
    from kinmass.gen.campaign import parallel
    from kinmass.gen.campaign.foretell import probe, told
    from kinmass.gen.campaign.listing import keep_all
    from kinmass.gen.campaign.maps import list_all
    from kinmass.gen.campaign.plan import Task, plan
    from kinmass.gen.campaign.timing import process_age_s
    from kinmass.gen.campaign.worker import load

    if args.ranks is not None:
        load()  # belongs to the start of a run
    age_s, began = process_age_s(), time.monotonic()
    listings = list_all(suites, args.out)
    listing_s, began = parallel.size() * (time.monotonic() - began), time.monotonic()
    tasks: list[Task] = []  # rank 0's
    parallel.on_rank_0(lambda: tasks.extend(plan(suites, args.out, settings, args.repair, listings)))
    start_s = age_s + time.monotonic() - began
    if parallel.rank() == 0:
        keep_all(args.out, listings)
        print(
            f"{args.out}: room for {counted(len(tasks), 'galaxy', 'galaxies')}, {sum(t.is_done for t in tasks)} of "
            "them done"
        )
        if args.ranks is not None:
            print(told(probe(tasks, args.out, settings), args.ranks, args.readers, start_s, listing_s))
    return 0


@own_style()
def _preview(suites: "list[Suite]", settings: "Settings", names: list[str], out: Path) -> bool:
    """Write a picture of a few galaxies of each suite into the folder `out`; return whether all could be mapped."""
    from kinmass.gen.export import file_stem
    from kinmass.gen.look.preview import preview
    from kinmass.gen.look.save import save_picture
    from kinmass.gen.options import OptionError
    from kinmass.gen.storage.files import make_folder

    if (out / "zarr.json").exists():
        raise OptionError(f"{out} is a map store, and previews are pictures: give another folder as --out")
    make_folder(out)
    all_drawn = True
    for suite in suites:
        for galaxy in preview(suite, settings, names):
            if galaxy.figure is None:
                print(f"kinmass maps: {suite.name}: {galaxy.name}: {galaxy.reason}", file=sys.stderr)
                all_drawn = False
                continue
            path = out / f"{file_stem(suite.name, galaxy.name)}.png"
            save_picture(galaxy.figure, path, suite.root / suite.snapshots, dpi=100)
            print(path)
    return all_drawn


def _check(args: argparse.Namespace) -> int:
    from kinmass.gen.formats import FORMATS
    from kinmass.gen.look.check import describe
    from kinmass.gen.options import OptionError

    if args.format and args.format not in FORMATS:
        raise OptionError(f"format {args.format!r} is not one of {', '.join(FORMATS)}")
    from kinmass.gen.look.draft import draft

    n_unread = 0
    for path in args.files:  # a file that cannot be read does not stop the others
        try:
            print(draft(path, args.format) if args.draft else "\n".join(describe(path, args.format)) + "\n", end="")
        except (ValueError, OSError) as error:
            print(f"kinmass check: {sentence(error)}", file=sys.stderr)
            n_unread += 1
    return 2 if n_unread else 0


def _export(args: argparse.Namespace) -> int:
    from kinmass.gen.export import export
    from kinmass.gen.options import OptionError

    if args.view != "all" and not args.view.isdecimal():
        raise OptionError(f"--view must be a number or all, not {args.view!r}")
    if args.distance_mpc is None and (args.ra, args.dec) != (None, None):
        raise OptionError("--ra and --dec need --distance-mpc; give it, too")
    view, centre_deg = None if args.view == "all" else int(args.view), (args.ra or 0.0, args.dec or 0.0)
    for path in export(
        args.store, args.suite, args.galaxy, args.out, view, args.instrument, args.distance_mpc, centre_deg
    ):
        print(path)
    return 0


def _one_thread_per_rank() -> None:
    """Have numeric libraries use one thread where several processes share the work, unless the user says otherwise.

    They read this when they are loaded, which they are not yet. Else every rank would use all cores at once.
    """
    if several_processes():
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.setdefault(name, "1")


def run(args: argparse.Namespace, arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code.

    0: all done. 1: stopped by a fault of the program, whose traceback is printed. 2: nothing could be started.
    3: some galaxies failed.
    """
    if args.command in ("mock", "maps"):
        _one_thread_per_rank()
    try:
        return {"mock": _mock, "maps": _maps, "check": _check, "export": _export}[args.command](args)
    except Exception as error:
        is_expected = is_user_error(error) or isinstance(error, OSError)
        parallel = sys.modules.get("kinmass.gen.campaign.parallel")  # imported only by commands that run under MPI
        if parallel is None or parallel.rank() == 0 or not is_expected:
            print(
                f"kinmass {args.command}: {sentence(error) if is_expected else in_words(error)}",
                file=sys.stderr,
                flush=True,
            )
        if parallel is not None and not is_expected and parallel.size() > 1:  # the other ranks may not have this error
            parallel.abort()
        return 2 if is_expected else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of this stage's commands."""
    return stage_parser("gen", __doc__, add_commands)


@standard_streams()
def main(arguments: list[str] | None = None) -> int:
    """Run `python -m gen`, which has this stage's commands only, and return the exit code of `run`."""
    return run(parse(parser(), arguments), arguments)


if __name__ == "__main__":
    sys.exit(main())
