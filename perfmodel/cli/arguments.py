"""Arguments that commands share: the question, the output, and what completes a word."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from perfmodel.cli.option import Option
from perfmodel.cli.options import LAYOUT

__all__ = ["add_command", "add_debug", "add_json", "add_option", "add_output", "add_scenario"]

_METAVARS = {
    "whole": "N",
    "number": "X",
    "array": "FILE",
    "spec": "ID",
    "text": "NAME",
    "tokens": "N",
    "texts": "NAMES",
    "wholes": "N,N",
    "shares": "NAME=X",
    "table": "NAME=X,...",
}


def add_command(commands: Any, above: argparse.ArgumentParser, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.prog = f"{above.prog} {name}"
    parser.set_defaults(parser=parser)
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )


def add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    add_json(group)
    group.add_argument(
        "-o", "--output", metavar="FILE", help="write there instead (*.json: as JSON), whole or not at all"
    )


def add_scenario(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    scenario = parser.add_argument_group("scenario")
    scenario.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="TOML or JSON with the same keys, or an earlier result; - is standard input",
    )
    layout = parser.add_argument_group("layout")
    for option in options:
        if option.kind != "rows":  # rows of numbers belong in a file
            add_option(layout if option in LAYOUT else scenario, option)
    add_output(parser)


def add_option(group: Any, option: Option) -> None:
    default = "" if option.default is None else f" (default: {option.default})"
    if option.kind == "switch":
        group.add_argument(
            option.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=option.help
        )
        return
    choices = f": {', '.join(option.choices)}" if option.choices else ""
    action = group.add_argument(
        option.flag,
        metavar=_METAVARS[option.kind],
        default=argparse.SUPPRESS,
        help=f"{option.help}{choices}{default}",
    )
    action.completer = _completer(option)


def _completer(option: Option) -> Callable[..., Iterable[str]]:
    def complete(prefix: str = "", **_: Any) -> Iterable[str]:
        if option.kind == "texts":  # after a comma comes another name
            before, comma, _last = prefix.rpartition(",")
            return [f"{before}{comma}{name}" for name in option.choices]
        if option.kind == "shares":
            return [f"{name}=" for name in option.choices]
        if not option.complete:
            return option.choices
        if option.complete == "traces":
            from perfmodel.specs.trace import trace_ids

            return trace_ids()
        from perfmodel.specs.registry import ids

        return ids(option.complete)

    return complete
