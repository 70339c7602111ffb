"""`perfmodel calibrate`: this machine, a user's own table, or how well the shipped constants were fitted."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any

from perfmodel._version import __version__
from perfmodel.cli.calibrate_machine import check_output
from perfmodel.cli.commands import DONE
from perfmodel.cli.option import parsed
from perfmodel.cli.options import CALIBRATE
from perfmodel.cli.output import emit, say, write_atomically
from perfmodel.errors import PlanError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from perfmodel.calibrate.user_table import OwnFit, UserCalibration
    from perfmodel.specs.cluster import Cluster

__all__ = ["calibrate", "shipped"]

_PATIENCE_S = 1.0


def calibrate(args: Namespace) -> int:
    """`perfmodel calibrate`: this machine; with `--from-table` a table, with `--shipped` the errors of the shipped."""
    if args.law is not None or args.laws:
        from perfmodel.cli.laws import calibrate_law

        return calibrate_law(args)
    given = {option.name: parsed(option, getattr(args, option.name)) for option in CALIBRATE if _has(args, option.name)}
    _check_mode(args, given)
    if args.from_table is None and not args.shipped:
        from perfmodel.cli.calibrate_machine import calibrate_machine

        return calibrate_machine(args)
    if args.from_table is None:
        document = shipped(given.get("accelerator"))
        emit(document, lambda console: _shipped_page(console, document), as_json=args.json, file=None)
        return DONE
    from perfmodel.calibrate import user_table

    check_output(args.output)
    cluster = _cluster(args)
    question = user_table.question_of(args.from_table, **given)
    what = f"fitting {len(question.rows):,} rows of {question.table.kind} on {question.accelerator.id}"
    with _told_if_slow(what):
        calibration = user_table.calibrate(question)
    text, inherited = user_table.fragment_of(calibration)
    if cluster is not None:
        text = _with_constants(cluster, calibration)
    if args.output is not None:
        write_atomically(args.output, text)
    fitted = _document(calibration, inherited)
    emit(fitted, lambda console: _page(console, fitted), as_json=args.json, file=None)
    if args.output is not None:
        say(f"wrote {args.output}")
    return DONE


def shipped(accelerator: str | None = None) -> dict[str, Any]:
    """The document of the shipped calibrations, from the `fit` entries of their files; raises `PlanError`."""
    from perfmodel.specs import registry

    ids = registry.ids("efficiency")
    if accelerator is not None and accelerator not in ids:
        raise PlanError(f"--accelerator: {unknown_name('calibrated accelerator', accelerator, ids)}")
    blocks = []
    for id in ids if accelerator is None else [accelerator]:
        for key, fit in _fits(registry.read_toml(registry.path_of("efficiency", id))):
            errors = {name: fit.get(name) for name in ("fitted_error", "held_out_error")}
            facts = {name: fit[name] for name in ("source", "table", "rows", "how")}
            blocks.append({"accelerator": id, "block": key} | facts | errors)
    return {
        "document": "perfmodel/calibrations/1",
        "perfmodel_version": __version__,
        "data_version": registry.data_version(),
        "request": {"accelerator": accelerator},
        "blocks": blocks,
    }


def _fits(table: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, entry in table.items():
        if name == "fit":
            yield key, entry
        elif isinstance(entry, Mapping):
            yield from _fits(entry, f"{key}.{name}".lstrip("."))


def _has(args: Namespace, name: str) -> bool:
    return getattr(args, name, None) is not None


def _check_mode(args: Namespace, given: Mapping[str, Any]) -> None:
    """Refuse options of another way to calibrate; raises `PlanError`."""
    measuring = {"--device": args.device, "--quick": args.quick, "--note": args.note}
    fitting = {"--accelerator": given.get("accelerator"), "--dtype": given.get("dtype"), "--cluster": args.cluster}
    if args.shipped and args.from_table is not None:
        raise PlanError("--shipped: does not go with --from-table")
    if args.shipped:
        refused, goes = measuring | fitting | {"-o": args.output}, "with a measurement or --from-table"
        del refused["--accelerator"]
    elif args.from_table is not None:
        refused, goes = measuring, "with a measurement of this machine, not with --from-table"
    else:
        refused, goes = fitting, "with --from-table"
    for flag, value in refused.items():
        if value:
            raise PlanError(f"{flag}: goes {goes}")


@contextmanager
def _told_if_slow(what: str) -> Iterator[None]:
    timer = Timer(_PATIENCE_S, say, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cluster(args: Namespace) -> Cluster | None:
    """The cluster that is to hold the constants; raises `PlanError` without a file to write it to."""
    if args.cluster is None:
        return None
    if args.output is None:
        raise PlanError("--cluster: goes with -o, the file that is to hold the cluster with the constants")
    from perfmodel.specs.cluster import load_cluster

    return load_cluster(args.cluster)


def _with_constants(cluster: Cluster, calibration: UserCalibration) -> str:
    """The TOML text of the cluster with the fitted constants in its accelerator; raises `PlanError`."""
    from perfmodel.calibrate.machine.description import toml
    from perfmodel.calibrate.user_table import document_of

    part = calibration.question.accelerator.id
    if cluster.accelerator.id != part:
        raise PlanError(f"--cluster: {cluster.id} is of {cluster.accelerator.id}, the table of {part}")
    described = cluster.model_dump(mode="json", exclude_none=True)
    described["id"] = f"{cluster.id}-measured"
    described["accelerator"]["efficiency"] = document_of(calibration)
    return toml(described)


def _document(calibration: UserCalibration, inherited: tuple[str, ...]) -> dict[str, Any]:
    from perfmodel.specs.registry import data_version

    question = calibration.question
    return {
        "document": "perfmodel/calibration/1",
        "perfmodel_version": __version__,
        "data_version": data_version(),
        "request": {
            "from_table": question.table.name,
            "accelerator": question.accelerator.id,
            "dtype": question.dtype,
        },
        "relative": question.relative,
        "blocks": [_block(fit) for fit in calibration.fits],
        "notes": list(calibration.notes),
        "inherited": list(inherited),
    }


def _block(fit: OwnFit) -> dict[str, Any]:
    found = fit.found
    return {
        "block": fit.key,
        "how": found.how,
        "choices": fit.choices,
        "constants": [
            {"name": name, "value": value, "unit": _unit(name)} for name, value in sorted(found.constants.items())
        ],
        "rows": found.rows,
        "held_out_rows": fit.held_out_rows,
        "fitted_median": found.fitted.median,
        "fitted_p90": found.fitted.p90,
        "held_out_median": found.held_out.median,
        "held_out_p90": found.held_out.p90,
        "data_sheet_median": found.roofline.median,
        "data_sheet_p90": found.roofline.p90,
    }


def _unit(name: str) -> str:
    return "s" if name.endswith("_s") else "B" if name.endswith("_bytes") else "1"


def _page(console: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    request = document["request"]
    console.print(Text(f"Kernel constants of {request['accelerator']} from {request['from_table']}", "bold"))
    console.print(Text("errors are |ln(law / measured)|; data sheet: peaks without latency, on held-out rows", "dim"))
    for block in document["blocks"]:
        heading(console, block["block"], block["how"])
        table = plain_table("", "rows", "median", "P90", left=(0,), gap=2)
        for name, rows, key in (
            ("fitted", block["rows"], "fitted"),
            ("held out", block["held_out_rows"], "held_out"),
            ("data sheet", block["held_out_rows"], "data_sheet"),
        ):
            table.add_row(name, f"{rows:,}", fmt.percent(block[f"{key}_median"]), fmt.percent(block[f"{key}_p90"]))
        console.print(table)
        console.print()
        table = plain_table("constant", "value", left=(0,), gap=2)
        for one in block["constants"]:
            table.add_row(one["name"], _shown(one["value"], one["unit"]))
        console.print(table)
    if document["notes"]:
        heading(console, "Mind")
    for note in document["notes"]:
        console.print(f"- {note}", markup=False)
    console.print()
    console.print(Text(f"every other block is that of {document['relative']}", "dim"))


def _shown(value: float, unit: str) -> str:
    from perfmodel.cli import format as fmt

    if unit == "s":
        return fmt.seconds(value, 4)
    return f"{value:.4g} B" if unit == "B" else f"{value:.4g}"


def _shipped_page(console: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    console.print(Text("Shipped kernel constants", "bold"))
    console.print(Text("medians of |ln(law / measured)|; held-out rows were not fitted", "dim"))
    blocks = document["blocks"]
    for accelerator in dict.fromkeys(block["accelerator"] for block in blocks):
        heading(console, accelerator)
        table = plain_table("block", "rows", "fitted", "held out", "table", left=(0, 4), gap=2)
        for block in blocks:
            if block["accelerator"] == accelerator:
                errors = [
                    "-" if block[name] is None else fmt.percent(block[name])
                    for name in ("fitted_error", "held_out_error")
                ]
                table.add_row(block["block"], f"{block['rows']:,}", *errors, block["table"])
        console.print(table)
