"""Progress of long work on standard error: how much is done, how fast, how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

__all__ = ["progress"]

_AFTER_S, _EVERY_S = 1.0, 2.0
_BAR = 24


def progress(what: str = "") -> Callable[..., None]:
    """What to call with the number done, the total and, if it changes, what is done.

    Nothing is shown of work under a second. A terminal gets a bar that overwrites itself, a file a line now and then.
    What the first call says is done already has cost none of the time.
    """
    began = said = time.monotonic()
    before: int | None = None

    def show(done: int, total: int, of: str = what) -> None:
        nonlocal said, before
        before = done if before is None else before
        now, live = time.monotonic(), sys.stderr.isatty()
        if now - began < _AFTER_S or (done < total and now - said < (0.1 if live else _EVERY_S)):
            return
        said, rate = now, (done - before) / (now - began)
        filled = _BAR * done // max(total, 1)
        bar = f"[{'#' * filled}{'.' * (_BAR - filled)}] " if live else ""
        speed = f", {rate:,.1f} a second, {(total - done) / rate:,.0f} s left" if rate else ""
        line = f"perfmodel: {bar}{done:,} of {total:,} {of}{speed}"
        print(f"{line:<78}" if live else line, end="\r" if live and done < total else "\n", file=sys.stderr, flush=True)

    return show
