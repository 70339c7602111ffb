"""The command line as an argparse tree, and its one-line errors."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import Any, NoReturn

from perfmodel._version import __version__
from perfmodel.cli.arguments import add_command, add_debug
from perfmodel.cli.options import LAYOUT
from perfmodel.cli.subcommands import COMMANDS
from perfmodel.errors import PlanError, unknown_name

__all__ = ["build_parser", "parse"]

_EPILOG = """\
examples:
  perfmodel plan training --model llama-3.1-405b --cluster dgx-h100 --accelerators 16384 \\
      --global-batch 2048 --seq-len 8192 --precision bf16 --tokens 15.6e12
  perfmodel plan training -f scenario.toml --json -o plan.json
  perfmodel estimate training -f plan.json --micro-batch 2
  perfmodel export plan.json --to megatron -o train.sh
  perfmodel report plan.json -o plan.html
  perfmodel plot plan.json --figure roofline -o roofline.svg
  perfmodel explain ring_all_reduce_time
  perfmodel list models

exit codes: 0 done, 1 nothing feasible or a validation over its tolerance, 2 bad input, 3 something to install,
70 a defect of perfmodel, 130 interrupted

tab completion (bash, zsh): eval "$(register-python-argcomplete perfmodel)"
"""


class _Parser(argparse.ArgumentParser):
    """argparse that raises one-line errors with the nearest match instead of printing its usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        # "--tokens -1e12" and "--tp -inf" hold a value, not an option.
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf$|nan$)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (-[^:/]*/)?", "", message)
        raise PlanError(re.sub(r"^the following arguments are required: (.*)", rf"{self._said()}: missing \1", message))

    def _said(self) -> str:
        return self.prog.removeprefix("perfmodel ")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            prefix = self.prog.removeprefix("perfmodel").strip()
            names = [f"{prefix} {name}".strip() for name in action.choices]
            raise PlanError(unknown_name("command", f"{prefix} {value}".strip(), names, shown=20))
        raise PlanError(f"{self._said()}: {unknown_name(str(action.metavar).lower(), value, action.choices)}")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="perfmodel",
        description="How should this model be trained on this hardware, how long, how much, how sure, and why.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"perfmodel {__version__}")
    add_debug(parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, text, fill in COMMANDS:
        fill(add_command(commands, parser, name, text))
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The namespace of a command line; raises `PlanError` for what no command knows."""
    namespace, extra = parser.parse_known_args(argv)
    if extra:
        at: argparse.ArgumentParser = getattr(namespace, "parser", parser)
        raise PlanError(_unknown_argument(at, extra))
    return namespace


def _unknown_argument(parser: argparse.ArgumentParser, extra: list[str]) -> str:
    word = next((word for word in extra if word.startswith("-") and word != "-"), None)
    said = parser.prog.removeprefix("perfmodel").strip()
    if word is None:
        return f"{said or 'perfmodel'}: unexpected argument {extra[0]!r}"
    word = word.split("=", 1)[0]
    if said == "plan training" and word.replace("--no-", "--", 1) in {option.flag for option in LAYOUT}:
        return f"unknown option {word!r}: plan training chooses the layout itself; estimate training prices a given one"
    near = get_close_matches(word, parser._option_string_actions, n=1, cutoff=0.5)
    hint = f"; nearest: {near[0]!r}" if near else ""
    return f"unknown option {word!r}{hint}; see {parser.prog} --help"
