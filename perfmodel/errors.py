"""The error tree, and the one way to say "did you mean"."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "InfeasibleError",
    "MissingExtraError",
    "OutOfRangeError",
    "PerfModelError",
    "PlanError",
    "SpecError",
    "unknown_name",
]


class PerfModelError(Exception):
    """Any error that perfmodel raises on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 2


class SpecError(PerfModelError):
    """A model, cluster, software or scenario description is wrong: raised by loaders and constructors only."""


class PlanError(PerfModelError):
    """An argument of an estimate or a planner is wrong: raised before any work."""


class OutOfRangeError(PlanError):
    """A number lies outside what its key allows."""


class InfeasibleError(PerfModelError):
    """A caller insisted on an answer where none exists (planners themselves return `feasible=False`)."""

    exit_code = 1


class MissingExtraError(PerfModelError):
    """An optional package or a solver is not installed."""

    exit_code = 3


def unknown_name(what: str, got: object, allowed: Iterable[str], *, shown: int = 12) -> str:
    """One line naming the wrong word, the nearest allowed one and what is allowed.

    >>> unknown_name("cluster", "dgx-h10", ["dgx-h100", "dgx-a100-80gb"])
    "unknown cluster 'dgx-h10'; nearest: 'dgx-h100'; allowed: dgx-a100-80gb, dgx-h100"
    """
    names = sorted(allowed)
    near = get_close_matches(str(got).lower(), names, n=1, cutoff=0.5)
    hint = f"; nearest: {near[0]!r}" if near else ""
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return f"unknown {what} {got!r}{hint}; allowed: {', '.join(names[:shown])}{more}"
