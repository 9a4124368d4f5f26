"""Trained networks and a map store in, dispersion, bias and calibration out.

  python -m eval tables runs/* --store maps.zarr --out results    the table, per tracer and suite
  python -m eval report results                                   figures and one HTML file from it
  python -m eval show results                                     its main lines again
  python -m eval predict runs/both --store maps.zarr --suite mine posteriors of single galaxies

Every run is tested on every suite, also on those it never saw.
"""

import argparse
import sys
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    tables = commands.add_parser("tables", help="evaluate runs on every suite of a store")
    tables.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders of `python -m train fit`")
    tables.add_argument("--store", type=Path, required=True, help="map store with the galaxies to test on")
    tables.add_argument("--out", type=Path, required=True, help="folder for table.csv, table.parquet and the rest")
    tables.add_argument("--suites", help="test suites, comma-separated (default: all of the store)")
    tables.add_argument(
        "--part", default="test", choices=("test", "all"), help="galaxies kept from training, or all (default: test)"
    )
    tables.add_argument("--workers", type=int, help="worker processes (default: one per core)")

    report = commands.add_parser("report", help="figures and one HTML file that opens without a network")
    report.add_argument("results", type=Path, help="folder that `tables` has written")

    show = commands.add_parser("show", help="print the main lines of a table that `tables` has written")
    show.add_argument("results", type=Path)

    predict = commands.add_parser("predict", help="posterior mass profiles of the galaxies of one suite")
    predict.add_argument("run", type=Path, metavar="RUN", help="run folder")
    predict.add_argument("--store", type=Path, required=True)
    predict.add_argument("--suite", required=True)
    predict.add_argument("--out", type=Path, help="CSV file to write as well")
    return parser


def _tables(args: argparse.Namespace) -> int:
    from eval.tables import SHOWN, collect, write_tables
    from gen.store import suites

    args.runs = [run for run in args.runs if not (run / "launched.json").exists()]  # runs/* takes in runs/logs
    chosen = args.suites.split(",") if args.suites else suites(args.store)
    part = None if args.part == "all" else args.part
    sums = collect(args.store, args.runs, chosen, part, args.workers)
    if not sums:
        raise ValueError(f"no finished galaxy in the {args.part} part of {', '.join(chosen)}; try --part all")
    summary = write_tables(args.out, args.store, args.runs, sums, part)
    print("Dispersion and bias of log10 M(<r) [dex], averaged over the radii of each estimator:")
    print(summary[SHOWN].to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    print(args.out / "table.csv")
    return 0


def _show(args: argparse.Namespace) -> int:
    from eval.report import headlines, read_results
    from eval.tables import ALL, SHOWN

    results = read_results(args.results)
    summary = results.summary
    if ALL in set(summary.test):
        summary = summary[summary.test == ALL]
    print(summary[SHOWN].to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    print("\n".join(headlines(results)))
    return 0


def _report(args: argparse.Namespace) -> int:
    from eval.report import write_report

    print(write_report(args.results))
    return 0


def _predict(args: argparse.Namespace) -> int:
    from eval.predict import predict

    table = predict(args.run, args.store, args.suite)
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    if args.out:
        table.to_csv(args.out, index=False)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 0, or 2 when nothing could be started."""
    args = _parser().parse_args(arguments)
    try:
        return {"tables": _tables, "report": _report, "show": _show, "predict": _predict}[args.command](args)
    except (ValueError, OSError) as error:
        print(f"eval {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
