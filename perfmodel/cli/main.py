# PYTHON_ARGCOMPLETE_OK
"""The entry: parse, call, and turn every outcome into an exit code and at most one line on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from perfmodel.cli.parser import build_parser, parse
from perfmodel.errors import PerfModelError, PlanError

__all__ = ["entry", "main"]

DEFECT, INTERRUPTED = 70, 130


def entry() -> None:
    """The console command: exits with the code of `main`."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(build_parser())
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code (DESIGN section 4); never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        return _run(words)
    except SystemExit as stop:  # --help and --version
        return _flushed(stop.code if isinstance(stop.code, int) else 0)
    except KeyboardInterrupt:
        _complain("interrupted", debug)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough, as `| head` does
        _abandon_stdout()
        return 0
    except PerfModelError as error:
        _complain(f"error: {error}", debug)
        return error.exit_code
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = "" if debug else "; --debug shows the traceback"
        _complain(f"error: {what} (a defect of perfmodel, not of the input{hint})", debug)
        return DEFECT


def _run(words: list[str]) -> int:
    parser = build_parser()
    namespace = parse(parser, words)
    if not hasattr(namespace, "run"):
        at = getattr(namespace, "parser", parser)
        if at is not parser:
            raise PlanError(f"{at.prog.removeprefix('perfmodel ')}: say what; see {at.prog} --help")
        parser.print_help()
        return _flushed(0)
    module, function = namespace.run.split(":")
    try:
        code: int = getattr(import_module(module), function)(namespace)
        return code
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        _abandon_stdout()  # a full disk behind `>`: nothing is wrong with the input, or with us
        raise PlanError(f"standard output: cannot be written: {error.strerror}") from None


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
    return code


def _complain(text: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    with contextlib.suppress(OSError):
        print(f"perfmodel: {' '.join(printable.split())}", file=sys.stderr)


def _abandon_stdout() -> None:
    # Python flushes standard output once more at exit and would complain there.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
