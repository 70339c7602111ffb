"""Where results go: one document or one page, on standard output or whole into a file; talk to standard error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.errors import PlanError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["emit", "say", "write_atomically"]

_NARROWEST, _WIDEST = 80, 120


class _Buffer(io.StringIO):
    encoding = "utf-8"  # the renderer asks for it to choose its bars


def say(text: str) -> None:
    """Talk: one line on standard error."""
    print(f"perfmodel: {' '.join(text.split())}", file=sys.stderr)


def emit(document: Any, page: Callable[[Console], None], *, as_json: bool, file: str | None) -> None:
    """Write the document (`as_json`, or a file named .json), or the page drawn for people."""
    if file == "-":
        file = None
    if as_json or (file is not None and file.lower().endswith(".json")):
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    elif file is None and sys.stdout.isatty():
        page(_console(sys.stdout))
        sys.stdout.flush()
        return
    else:
        buffer = _Buffer()
        buffer.encoding = "utf-8" if file is not None else sys.stdout.encoding or "utf-8"
        page(_console(buffer))
        # A table pads its lines to the full width; in a file or a pipe that is only noise.
        text = "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())
    if file is not None:
        write_atomically(file, text)
        return
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.replace("µ", "u").encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _console(target: Any) -> Console:
    from rich.console import Console

    width = shutil.get_terminal_size((100, 24)).columns
    return Console(file=target, width=min(max(width, _NARROWEST), _WIDEST), highlight=False, emoji=False)


def write_atomically(file: str, content: str | bytes, flag: str = "-o") -> None:
    """Write a whole file or leave what was there: a temporary file beside it, then a rename. Raises `PlanError`."""
    path = Path(file)
    data = content.encode("utf-8") if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp") if path.name else path
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has nothing to rename over
            path.write_bytes(data)
            return
        beside.write_bytes(data)
        if path.exists():
            shutil.copymode(path, beside)
        os.replace(beside, path.resolve())
    except (OSError, ValueError) as error:
        raise PlanError(f"{flag} {file}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            if beside != path:
                beside.unlink(missing_ok=True)
