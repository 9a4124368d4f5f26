"""Trained networks and a map store in, dispersion, bias and calibration out.

  kinmass tables runs/* --store maps.zarr --out results    the table, per tracer and suite
  kinmass conditions runs/* --store maps.zarr --out results  the same galaxies seen in many ways, for the report too
  kinmass report results                                   figures and one HTML file from it
  kinmass show results                                     its main lines again
  kinmass show maps.zarr quiet/snap_000:0 --runs runs/*    a picture of one galaxy, and what each network says of it
  kinmass gallery maps.zarr --runs runs/*                  a web page of all galaxies, on this machine alone
  kinmass compare runs/a runs/b --store maps.zarr          which of two runs is better, and is it chance?
  kinmass predict runs/both --store maps.zarr --suite mine posteriors of single galaxies
  kinmass predict NGC4451.yaml                             of an observed galaxy (docs/howto/galaxy.md)

Every run is tested on every suite, also on those it never saw. Predictions are kept beside each run
(predictions.zarr): only what changed is inferred again.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinmass.gen.command import add_command, parse, stage_parser
from kinmass.gen.errors import named, sentence
from kinmass.gen.streams import standard_streams

if TYPE_CHECKING:
    from pandas import DataFrame

    from kinmass.eval.tables.cluster import Cluster


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where tasks run."""
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--cluster", default="local", help="local (default), slurm, or a running Dask scheduler's address, tcp://..."
    )
    group.add_argument(
        "--workers",
        type=int,
        help="worker processes (default: one per GPU, else per core as memory allows), or Slurm jobs (default: 4)",
    )
    group.add_argument("--site", type=Path, help="slurm: the site's settings (default: $KINMASS_SITE, slurm/site.env)")
    group.add_argument("--gpus", type=int, help="slurm: GPUs of each job (default: 0)")
    group.add_argument("--hours", type=float, help="slurm: time limit of each job [h] (default: 2)")
    group.add_argument("--memory", help="slurm: memory of each job (default: 8GB)")


def _cluster_settings(args: argparse.Namespace) -> "Cluster":
    """Return where tasks run, as these options say. Raises OptionError for one that would have no effect there."""
    from kinmass.eval.tables.cluster import Cluster
    from kinmass.gen.options import OptionError
    from kinmass.train.launch.resources import read_site

    site = read_site(args.site) if args.cluster == "slurm" else {}
    is_table = args.command == "compare"  # `results.v2` of `tables` is a folder, and `results` may be another's
    logs = ((args.out.with_suffix("") if is_table else args.out) if args.out else Path("dask")) / "logs"
    of_jobs = {name: value for name in ("gpus", "hours", "memory") if (value := getattr(args, name)) is not None}
    if args.cluster != "slurm":
        for name in ("site", *of_jobs):
            if getattr(args, name) is not None:
                raise OptionError(f"--{name} is for the jobs of --cluster slurm, and does nothing without it")
    if args.workers is not None and args.cluster not in ("local", "slurm"):
        raise OptionError(f"--workers does nothing with {args.cluster}: a running scheduler has its workers")
    return Cluster(args.cluster, args.workers, logs=logs, site=site, **of_jobs)


def _add_galaxies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suites", help="test suites, comma-separated (default: all of the store)")
    parser.add_argument(
        "--part", default="test", choices=("test", "all"), help="galaxies kept from training, or all (default: test)"
    )


def _add_tables(commands: Any) -> None:
    tables = add_command(commands, "tables", "evaluate runs on every suite of a store")
    tables.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or a folder that holds them")
    tables.add_argument("--store", type=Path, required=True, help="map store with the galaxies to test on")
    tables.add_argument("--out", type=Path, required=True, help="folder for table.csv, table.parquet and the rest")
    _add_galaxies(tables)
    tables.add_argument("--no-classical", action="store_true", help="networks only, no classical estimators")
    tables.add_argument("--report", action="store_true", help="write the report as well")
    _add_cluster(tables)


def add_commands(commands: Any) -> None:
    """Add this stage's commands to `commands`, which argparse's add_subparsers has returned."""
    _add_tables(commands)
    compare = add_command(commands, "compare", "say which of two runs is better, by how much, and whether by chance")
    compare.add_argument("a", type=Path, metavar="RUN_A", help="run folder")
    compare.add_argument("b", type=Path, metavar="RUN_B", help="run folder")
    compare.add_argument("--store", type=Path, required=True, help="map store with the galaxies to test on")
    _add_galaxies(compare)
    compare.add_argument(
        "--tracer", choices=("gas", "stars", "both"), help="tracer to compare, of runs that answer for any"
    )
    compare.add_argument("--out", type=Path, help="CSV file to write as well")
    _add_cluster(compare)

    conditions = add_command(
        commands, "conditions", "test runs on galaxies seen through footprints, blur, noise, few particles, ..."
    )
    conditions.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or one that holds them")
    conditions.add_argument("--store", type=Path, required=True, help="map store with the galaxies to test on")
    conditions.add_argument("--out", type=Path, required=True, help="results folder, where `report` finds the table")
    _add_galaxies(conditions)
    conditions.add_argument("--views", type=int, default=1, help="views of each galaxy at most, 0 for all (default: 1)")

    report = add_command(commands, "report", "draw figures and write one HTML file that opens without a network")
    report.add_argument("results", type=Path, metavar="RESULTS", help="folder that `tables` has written")

    _add_show_and_gallery(commands)

    predict = add_command(
        commands,
        "predict",
        "posterior mass profiles of a suite's galaxies, or of observed ones that YAML files describe",
    )
    predict.add_argument(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN|GALAXY.yaml",
        help="YAML files of observed galaxies; run folders (default: the networks that come with the project)",
    )
    predict.add_argument("--store", type=Path, help="map store, for simulated galaxies")
    predict.add_argument("--suite", help="suite of these galaxies")
    predict.add_argument(
        "--inside-kpc", type=float, nargs="+", default=[], help="observed: say the mass inside these radii [kpc], too"
    )
    predict.add_argument(
        "--out",
        type=Path,
        help="simulated: CSV file to write, in place of printing, or of several runs a folder; observed: folder "
        "(default: profiles)",
    )


def _add_show_and_gallery(commands: Any) -> None:
    show = add_command(
        commands, "show", "print the main lines of what `tables` has written, or draw one galaxy of a store"
    )
    show.add_argument("path", type=Path, metavar="RESULTS|STORE", help="folder of tables; or a map store")
    show.add_argument(
        "galaxy", nargs="?", metavar="GALAXY", help="NAME or SUITE/NAME (without it: what the store holds)"
    )
    show.add_argument("--view", type=int, help="number of the line of sight, from 0 (default: 0)")
    show.add_argument("--instrument", help="built-in name or YAML file (default: the maps as stored)")
    show.add_argument("--runs", type=Path, nargs="+", default=[], metavar="RUN", help="run folders, or one with some")
    show.add_argument("--out", type=Path, help="picture to write, .png or .pdf (default: SUITE.NAME.viewN.png)")

    gallery = add_command(commands, "gallery", "show the galaxies of a store as a web page on this machine")
    gallery.add_argument("store", type=Path, metavar="STORE", help="map store")
    gallery.add_argument(
        "--runs", type=Path, nargs="+", default=[], metavar="RUN",
        help="run folders, or one with some: what they say of each galaxy; errors as far as `tables` has kept them",
    )  # fmt: skip
    gallery.add_argument(
        "--results", type=Path, help="folder that `tables` has written: its runs, and what it has kept"
    )
    gallery.add_argument(
        "--check", action="store_true", help="read every map behind the page, to mark galaxies that are damaged"
    )
    gallery.add_argument("--port", type=int, help="port on 127.0.0.1 (default: 8050, or a free one if that is taken)")


def _write_csv(table: "DataFrame", path: Path) -> None:
    from kinmass.gen.storage.files import aside, make_folder

    make_folder(path.parent)
    with aside(path) as partial:
        table.to_csv(partial, index=False)


def _runs_to_test(args: argparse.Namespace) -> list[Path]:
    """Return the runs in the folders of `args.runs`, and say on stderr what is left out.

    Raises ValueError for a folder that is not there, where there is no run, and for a damaged record of launches.
    """
    from kinmass.train.launch.status import launched_file, not_begun
    from kinmass.train.run.checkpoint import runs_in, runs_in_all

    runs = runs_in_all(args.runs)
    for path in args.runs:
        if not runs_in(path) and (len(runs) == 0 or not path.exists()):
            raise ValueError(f"{path} is no run folder and holds none; make one with `kinmass fit`")
        for run in (launched := not_begun(path)):
            left_out = "was launched and has trained nothing; left out: `kinmass status` says how it stands"
            print(f"kinmass {args.command}: {run} {left_out}", file=sys.stderr)
        if not (runs_in(path) or launched or path / "launched.json" == launched_file(path.parent)):
            print(f"kinmass {args.command}: {path} holds no run; left out", file=sys.stderr)
    return runs


def _tables(args: argparse.Namespace) -> int:
    from kinmass.eval.tables.tables import (
        collect,
        nothing_tested,
        remarks,
        shown,
        to_beside,
        trained_on_remark,
        without_answer,
        write_tables,
    )
    from kinmass.gen.storage.store import named_suites, without_dark_matter
    from kinmass.train.run.derived import without_unseen
    from kinmass.train.run.trained_on import store_identity, unlike_trained_on

    runs = _runs_to_test(args)
    test_suites = named_suites(args.store, args.suites)
    part = None if args.part == "all" else args.part
    maps = store_identity(args.store, test_suites)
    sums = collect(args.store, runs, test_suites, part, args.out, _cluster_settings(args), not args.no_classical)
    if not any(total.count.any() for total in sums.values()):
        raise ValueError(nothing_tested(sums, part, test_suites))
    summary = write_tables(args.out, args.store, runs, sums, part, maps)
    _print_tables(shown(summary), to_beside(sums))
    trained_on = trained_on_remark(part, summary.train, test_suites)
    missing = without_answer(sums) + without_dark_matter(args.store, test_suites)
    others = unlike_trained_on(runs, args.store, test_suites) + without_unseen(runs, test_suites)
    for line in trained_on + others + remarks(summary, test_suites) + missing:
        print(line)
    print(args.out / "table.csv")
    if (args.out / "report.html").exists() and not args.report:
        print(f"{args.out / 'report.html'} is of tables from before; `kinmass report {args.out}` makes it anew")
    return _report(argparse.Namespace(results=args.out)) if args.report else 0


def _conditions(args: argparse.Namespace) -> int:
    from kinmass.eval.tables.conditions import (
        as_text,
        beyond_its_maps,
        networks_of,
        of_fewer_views,
        tabulate,
        views_to_test,
        write,
    )
    from kinmass.eval.tables.origin import digest_of_file, origin_of
    from kinmass.eval.tables.tables import trained_on_remark
    from kinmass.eval.tables.tasks import check_files
    from kinmass.gen.storage.files import require_writable
    from kinmass.gen.storage.store import named_suites, refuse_inside
    from kinmass.train.run.checkpoint import read_config, write_json
    from kinmass.train.run.derived import without_unseen
    from kinmass.train.run.trained_on import check_maps, store_identity, unlike_trained_on

    runs = _runs_to_test(args)
    test_suites = named_suites(args.store, args.suites)
    for run in runs:
        for suite in test_suites:
            check_maps(run, args.store, suite)
    part = None if args.part == "all" else args.part
    origin = origin_of(args.store, runs, part, store_identity(args.store, test_suites))
    views = views_to_test(args.store, test_suites, part, args.views)
    refuse_inside(args.out)
    require_writable(args.out)
    networks = networks_of(runs, args.out)
    table = tabulate(networks, views)
    check_files({Path(run): files for run, files in origin["files"].items()})
    path = write(table, args.out)
    write_json(path.with_suffix(".json"), origin | {"digests": {path.stem: digest_of_file(path)}})
    print(as_text(table))
    train_sets = ["+".join(read_config(run)["fit"]["suites"]) for run in runs]
    others = unlike_trained_on(runs, args.store, test_suites) + without_unseen(runs, test_suites)
    untested = set.intersection(*(set(beyond_its_maps(network, views)) for network in networks))
    for line in of_fewer_views(table, untested) + trained_on_remark(part, train_sets, test_suites) + others:
        print(line)
    print(path)
    return 0


def _print_tables(summary: "DataFrame", beside: "DataFrame") -> None:
    """Print what `shown` has made of the summary, and the networks beside classical estimators, if there are any."""
    from kinmass.eval.tables.tables import main_rows, shown

    def text(rows: "DataFrame") -> str:
        """Return rows as text, with three decimals, and - where a measure is not defined."""
        return rows.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="-")

    print("Dispersion and bias of log10 M(<r) [dex], over the radii [R_e] and the share of views that each answers:")
    print(text(summary))
    if len(beside):
        print("Beside classical estimators, where both answer (ratio: their dispersion over the network's):")
        print(text(shown(main_rows(beside))))


def _compare(args: argparse.Namespace) -> int:
    from kinmass.eval.tables.compare import (
        compare,
        not_compared,
        same_run,
        unlike_in_what_they_see,
        verdicts,
    )
    from kinmass.eval.tables.tables import trained_on_remark
    from kinmass.gen.storage.files import require_writable
    from kinmass.gen.storage.store import named_suites, refuse_inside
    from kinmass.train.run.checkpoint import read_config
    from kinmass.train.run.derived import without_unseen
    from kinmass.train.run.trained_on import unlike_trained_on

    test_suites = named_suites(args.store, args.suites)
    part = None if args.part == "all" else args.part
    folder = args.out.parent if args.out else Path()
    if args.out:
        refuse_inside(folder)
        require_writable(folder)
    table = compare(args.a, args.b, args.store, test_suites, part, args.tracer, _cluster_settings(args), folder)
    if args.out:
        _write_csv(table, args.out)
    print(f"A is {args.a}, B is {args.b}")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4f}", na_rep="-"))
    train_sets = ["+".join(read_config(run)["fit"]["suites"]) for run in (args.a, args.b)]
    others = unlike_trained_on((args.a, args.b), args.store, test_suites)
    others += without_unseen((args.a, args.b), test_suites)
    said = ["A and B are the same run"] if same_run(args.a, args.b) else verdicts(table)
    remarks = [*unlike_in_what_they_see(args.a, args.b, args.tracer)]
    remarks += [*trained_on_remark(part, train_sets, test_suites), *others, *not_compared(table, test_suites)]
    print("\n".join([*remarks, *said]))
    return 0


def _show(args: argparse.Namespace) -> int:
    from kinmass.gen.options import OptionError

    if (args.path / "zarr.json").exists():
        return _show_galaxy(args)
    if args.galaxy is not None or args.runs or args.instrument or args.out or args.view is not None:
        raise OptionError(f"{args.path} is no map store: a galaxy is drawn from the store that `kinmass maps` has made")
    if not (args.path / "tables.json").exists():
        raise OptionError(
            f"{args.path} is neither a map store nor a folder of tables; make a store with `kinmass maps`, "
            "tables with `kinmass tables`"
        )
    from kinmass.eval.report.page import headlines, read_results
    from kinmass.eval.tables.tables import ALL, shown

    results = read_results(args.path)
    summary = results.summary
    if ALL in set(summary.test):
        summary = summary[summary.test == ALL]
    _print_tables(shown(summary), results.beside)
    print("\n".join(headlines(results)))
    return 0


def _show_galaxy(args: argparse.Namespace) -> int:
    """Draw one galaxy of a store, or say in lines what the store holds."""
    import numpy as np

    from kinmass.eval.gallery.figure import draw
    from kinmass.eval.gallery.stored import contents, find, networks_of, read_stored
    from kinmass.gen.export import file_stem
    from kinmass.gen.instruments.builtin import instrument
    from kinmass.gen.look.save import save_picture
    from kinmass.gen.look.style import own_style
    from kinmass.gen.options import OptionError
    from kinmass.gen.storage.files import aside, make_folder

    if args.galaxy is None:
        if args.runs or args.instrument or args.out or args.view is not None:
            raise OptionError("name the GALAXY to draw: without it, these options do nothing")
        print("\n".join(contents(args.path)))
        return 0
    galaxy = read_stored(args.path, *find(args.path, args.galaxy))
    if args.out and args.out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise OptionError(f"--out must be a picture that ends in .png or .pdf, not {args.out}")
    view = args.view or 0
    truth = galaxy.view(view).log10_menc[0].numpy()
    answers = [galaxy.ask(network, view) for network in networks_of(_runs(args.runs))]
    with own_style():
        figure = draw(galaxy, view, instrument(args.instrument) if args.instrument else None, answers)
        out = args.out or Path(f"{file_stem(galaxy.suite, galaxy.name)}.view{view}.png")
        if args.out:  # what the user has named is written over, as by other tools
            make_folder(out.parent)
            with aside(out) as partial:
                figure.savefig(partial, dpi=110)
        else:
            save_picture(figure, out, args.path, dpi=110)
    for answer in answers:
        training = f"; {answer.training}" if answer.training else ""
        score = "not known" if np.isnan(answer.ood_score) else f"{answer.ood_score:.2f}"
        said = f"rms error {answer.rms_dex(truth):.3f} dex, out-of-distribution score {score}{training}"
        print(f"{answer.network.label}: {answer.why_not or said}")
    print(out)
    return 0


def _runs(paths: list[Path]) -> list[Path]:
    """Return the runs in these folders. Raises ValueError for a folder that is no run and holds none."""
    from kinmass.train.run.checkpoint import runs_in, runs_in_all

    for path in paths:
        if not runs_in(path):
            raise ValueError(f"{path} is no run folder and holds none; make one with `kinmass fit`")
    return runs_in_all(paths)


def _gallery(args: argparse.Namespace) -> int:
    import json

    from kinmass.eval.gallery.server import serve

    runs = _runs(args.runs)
    if args.results and not runs:
        try:
            named = [Path(run) for run in json.loads((args.results / "tables.json").read_text())["runs"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{args.results}/tables.json names no runs ({error}); give --runs, or `kinmass tables` again"
            ) from error
        runs = _runs(named)
    return serve(args.store, runs, args.results or Path(), args.port, args.check)


def _report(args: argparse.Namespace) -> int:
    from kinmass.eval.report.page import write_report

    print(write_report(args.results))
    return 0


def _predict(args: argparse.Namespace) -> int:
    from kinmass.gen.storage.store import refuse_inside

    galaxies = [path for path in args.runs if path.suffix in (".yaml", ".yml")]
    runs = [path for path in args.runs if path not in galaxies]
    for path in runs:
        if path.is_file():
            raise ValueError(
                f"{path} is neither a run folder nor a YAML file; describe maps in a YAML file "
                "(docs/howto/galaxy.md) and give that"
            )
    if galaxies and not runs:
        runs = shipped_runs()
        if not runs:
            raise ValueError("no networks come with this installation: give runs, or make some with `make networks`")
    if not runs or bool(galaxies) == bool(args.store and args.suite) or (args.store is None) != (args.suite is None):
        raise ValueError(
            "give YAML files of observed galaxies; or run folders with --store and --suite, for simulated ones"
        )
    if impossible := [radius for radius in args.inside_kpc if not 0 < radius < float("inf")]:
        raise ValueError(f"--inside-kpc must be radii above 0 kpc, not {impossible[0]:g}")
    if args.inside_kpc and not galaxies:
        raise ValueError("--inside-kpc is for observed galaxies, and does nothing with --store")
    if galaxies:
        refuse_inside(args.out or Path("profiles"))
        return _predict_observed(runs, galaxies, args.out or Path("profiles"), args.inside_kpc)
    from kinmass.eval.observed.places import elsewhere, labels, write_beside
    from kinmass.eval.tables.predict import predict

    if args.out:
        refuse_inside(args.out)
    for run, label in zip(runs, labels(runs), strict=True):
        table = predict(run, args.store, args.suite)
        if not args.out:
            print(
                *([f"{run}:"] if len(runs) > 1 else []),
                table.to_string(index=False, float_format="{:.3f}".format),
                sep="\n",
            )
        elif len(runs) == 1:
            _write_csv(table, args.out)
            print(args.out)
        else:
            origin = {"run": str(run.resolve()), "store": str(args.store.resolve()), "suite": args.suite}
            path = write_beside(args.out / f"{label}.csv", table.to_csv(index=False), origin)
            if said := elsewhere(args.out / f"{label}.csv", path):
                print(f"kinmass predict: {said}", file=sys.stderr)
            print(path)
    return 0


def shipped_runs() -> list[Path]:
    """Return the run folders of the networks that come with the project, for any observed galaxy."""
    import kinmass
    from kinmass.train.run.checkpoint import runs_in

    return runs_in(Path(kinmass.__file__).parent / "networks")


def _predict_observed(runs: list[Path], galaxies: list[Path], out: Path, inside_kpc: list[float]) -> int:
    """Infer every galaxy with every run that can use its maps; return the exit code.

    The code is 2 if a galaxy cannot be read or no run can use it; the other galaxies are inferred all the same.
    """
    from kinmass.eval.observed.galaxy import read_galaxy
    from kinmass.eval.observed.inference import infer, tracers_asked
    from kinmass.eval.observed.places import claim, elsewhere, labels, set_outdated_aside
    from kinmass.train.run.posterior import load

    labelled_inferences = list(zip([load(run) for run in runs], labels(runs), strict=True))
    n_failed = 0
    for path, galaxy_label in zip(galaxies, labels(galaxies), strict=True):
        # Maps lie beside the path that is given, also where that links to one file for several galaxies.
        identity = str(path.parent.resolve() / path.name)
        refusals, profiles, folders = [], [], []
        try:
            galaxy = read_galaxy(path)
        except (ValueError, OSError) as error:
            print(f"kinmass predict: {error}", file=sys.stderr)
        else:
            for inference, label in labelled_inferences:
                for tracer, suffix in tracers_asked(inference, galaxy):
                    try:
                        profiles.append((infer(inference, galaxy, tracer=tracer), inference, f"{label}{suffix}"))
                    except ValueError as error:
                        refusals.append(str(error))
        for i, (profile, inference, label) in enumerate(profiles):
            # Gas and stars of one galaxy have to agree, whichever runs say so.
            profile = profile.beside([other for k, (other, _, _) in enumerate(profiles) if k != i])
            origin = {"galaxy": identity, "run": str(inference.path.resolve()), "tracer": profile.tracer}
            folder = claim(out / galaxy_label / label, origin)
            folders.append(folder)
            profile.write(folder)
            if said := elsewhere(out / galaxy_label / label, folder):
                print(f"kinmass predict: {said}", file=sys.stderr)
            print("\n".join([*profile.sentences(), *map(profile.inside, inside_kpc)]))
            print(f"{folder}/profile.ecsv, samples.zarr, figure.png\n")
        for reason in refusals:
            print(f"kinmass predict: {path}: {reason}", file=sys.stderr)
        asked = [{"galaxy": identity, "run": str(run.path.resolve())} for run, _ in labelled_inferences]
        # A file that is not there may be a slip; one that is refused has no result.
        for folder in set_outdated_aside(out / galaxy_label, asked, folders) if path.exists() else ():
            print(
                f"kinmass predict: {path}: it gives other results than before, which are in {folder}", file=sys.stderr
            )
        n_failed += not profiles
    return 2 if n_failed else 0


_COMMANDS = {
    "tables": _tables, "conditions": _conditions, "report": _report, "show": _show, "gallery": _gallery,
    "compare": _compare, "predict": _predict,
}  # fmt: skip


def run(args: argparse.Namespace, arguments: list[str] | None = None) -> int:
    """Run one command; return exit code 0, or 2 after an error, which is printed to stderr."""
    with named(args.command, arguments):
        try:
            return _COMMANDS[args.command](args)
        except (ValueError, OSError) as error:
            print(f"kinmass {args.command}: {sentence(error)}", file=sys.stderr)
        except MemoryError as error:
            reason = str(error) or "no more was given"
            print(f"kinmass {args.command}: memory does not suffice ({reason}); end other programs", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of this stage's commands."""
    return stage_parser("eval", __doc__, add_commands)


@standard_streams()
def main(arguments: list[str] | None = None) -> int:
    """Run `python -m eval`, which has this stage's commands only; return the exit code of `run`."""
    return run(parse(parser(), arguments), arguments)


if __name__ == "__main__":
    sys.exit(main())
