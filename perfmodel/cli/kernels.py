"""`perfmodel estimate gemm|attention|collective`: one kernel or message, its document and its page."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE
from perfmodel.cli.option import Option, parsed
from perfmodel.cli.options import ESTIMATE_ATTENTION, ESTIMATE_COLLECTIVE, ESTIMATE_GEMM
from perfmodel.cli.output import emit
from perfmodel.errors import PlanError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["estimate_attention", "estimate_collective", "estimate_gemm", "kernel_page"]

_WIDE, _HIGH = 61, 11
_DECADES = 3.0


def estimate_gemm(args: Namespace) -> int:
    """`perfmodel estimate gemm`."""
    from perfmodel.predict.kernel_documents import describe_gemm

    return _shown(args, describe_gemm(**_question(args, ESTIMATE_GEMM)).to_dict())


def estimate_attention(args: Namespace) -> int:
    """`perfmodel estimate attention`."""
    from perfmodel.predict.kernel_documents import describe_attention

    return _shown(args, describe_attention(**_question(args, ESTIMATE_ATTENTION)).to_dict())


def estimate_collective(args: Namespace) -> int:
    """`perfmodel estimate collective`."""
    import perfmodel as pm
    from perfmodel.predict.kernel_documents import describe_collective

    question = _question(args, ESTIMATE_COLLECTIVE)
    accelerators = question.pop("accelerators", None)
    question["cluster"] = pm.load_cluster(question["cluster"], accelerators=accelerators)
    return _shown(args, describe_collective(**question).to_dict())


def _question(args: Namespace, options: tuple[Option, ...]) -> dict[str, Any]:
    given = {
        option.name: parsed(option, getattr(args, option.name)) for option in options if hasattr(args, option.name)
    }
    for option in options:
        if option.required and option.name not in given:
            raise PlanError(f"{option.flag}: missing")
    return {option.name: option.default for option in options if option.default is not None} | given


def _shown(args: Namespace, document: Mapping[str, Any]) -> int:
    emit(document, lambda console: kernel_page(console, document), as_json=args.json, file=args.output)
    return DONE


def kernel_page(console: Console, document: Mapping[str, Any]) -> None:
    """The page of one kernel: its time, where it stands under the roofline, and what binds."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    low, high = document["interval_s"]
    console.print(
        Text.assemble(
            (f"{_subject(document['request'])}: ", "bold"),
            (fmt.seconds(document["seconds"]), "bold green"),
            f" ({fmt.seconds_interval(low, high)}), bound by ",
            (document["bound_by"], "bold"),
            f", {fmt.percent(document['roofline_share'])} of the data-sheet roofline",
        )
    )
    level = f"{100 * document['interval_level']:.0f} % interval in brackets"
    bounds = f"{fmt.seconds(document['lower_s'])} if all overlaps, {fmt.seconds(document['upper_s'])} if nothing does"
    console.print(Text(f"{level}; {bounds}", "dim"))
    if document["peak_flop_per_s"] is not None:
        heading(console, "Roofline", "flop/s over flop per byte, both axes logarithmic; # is this kernel")
        for line in roofline_lines(document):
            console.print(line, markup=False)
    heading(console, "Resources")
    table = plain_table("", "work", "achieved", "peak", "busy")
    seconds = document["seconds"]
    if document["peak_flop_per_s"] is not None:
        table.add_row(
            "compute",
            f"{fmt.significant(document['flops'])} FLOP"
            if document["flops"] < 1e6
            else f"{document['flops']:.3g} FLOP",
            fmt.flop_rate(document["flop_per_s"]),
            fmt.flop_rate(document["peak_flop_per_s"]),
            _busy(document["compute_s"], seconds),
        )
    link = document["peak_flop_per_s"] is None
    table.add_row(
        "link" if link else "memory",
        fmt.bytes_(document["n_bytes"]),
        fmt.byte_rate(document["byte_per_s"]),
        fmt.byte_rate(document["peak_byte_per_s"]),
        _busy(document["link_s" if link else "memory_s"], seconds),
    )
    console.print(table)
    for warning in document["warnings"]:
        console.print(f"- {warning['value']}: the interval is wider", markup=False)
    for note in document["notes"]:
        console.print(Text(note, "dim"))


def roofline_lines(document: Mapping[str, Any]) -> list[str]:
    """The roofline as text: `_` and `/` are the data sheet's two roofs, `#` is the kernel, `|` the ridge below."""
    balance, peak = document["machine_balance_flop_per_byte"], document["peak_flop_per_s"]
    here = math.log10(document["arithmetic_intensity_flop_per_byte"] / balance)
    reach = max(_DECADES, abs(here) + 0.5)
    high = max(0.0, min(4.0, -math.log10(document["flop_per_s"] / peak)))
    depth = max(reach, high + 0.3)

    def row_of(decades_below: float) -> int:
        return min(_HIGH - 1, max(0, round(decades_below / depth * (_HIGH - 1))))

    rows = [[" "] * _WIDE for _ in range(_HIGH)]
    for column in range(_WIDE):
        x = reach * (2 * column / (_WIDE - 1) - 1)
        rows[row_of(max(0.0, -x))][column] = "_" if x >= 0 else "/"
    column = round((here / reach + 1) / 2 * (_WIDE - 1))
    rows[row_of(high)][min(max(column, 0), _WIDE - 1)] = "#"
    labels = [""] * _HIGH
    labels[0] = "peak"
    ridge = (_WIDE - 1) // 2
    foot = "".join("|" if column == ridge else "-" for column in range(_WIDE))
    lines = [f"{label:>5} {''.join(row)}".rstrip() for label, row in zip(labels, rows, strict=True)]
    scale = f"memory-bound   {balance:.0f} flop/byte   compute-bound".center(_WIDE)
    return [*lines, f"      {foot}", f"      {scale}".rstrip()]


def _busy(busy_s: float, seconds: float) -> str:
    return f"{100 * busy_s / seconds:.0f} %" if seconds else "-"


def _subject(request: Mapping[str, Any]) -> str:
    from perfmodel.cli import format as fmt

    if request["kernel"] == "gemm":
        shape = " x ".join(f"{request[name]:,}" for name in ("m", "n", "k"))
        return f"matrix product {shape} in {request['dtype']} on {fmt.called(request['accelerator'])}"
    if request["kernel"] == "attention":
        heads = f"{request['n_heads']} heads over {request['n_kv_heads']} KV heads of {request['d_head']}"
        return (
            f"{request['phase']} attention, {request['batch']} x {request['seq_len']:,} tokens, {heads}, "
            f"{request['dtype']} on {fmt.called(request['accelerator'])}"
        )
    size = fmt.bytes_(request["n_bytes"])
    return f"{request['operation']} of {size} over {request['ranks']} ranks of {fmt.called(request['cluster'])}"
