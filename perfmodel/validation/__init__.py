"""Published numbers against predictions: tables, scores, tolerances and the scoreboard; loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfmodel.validation.kernel_scores import run_kernels
    from perfmodel.validation.predictions import layer_steps, layer_times
    from perfmodel.validation.records import ValidationReport
    from perfmodel.validation.runner import run
    from perfmodel.validation.scoreboard import scoreboard_markdown, write_scoreboard
    from perfmodel.validation.sources import load_sources
    from perfmodel.validation.tolerances import record

_HOMES = {
    "ValidationReport": "records",
    "layer_steps": "predictions",
    "layer_times": "predictions",
    "load_sources": "sources",
    "record": "tolerances",
    "run": "runner",
    "run_kernels": "kernel_scores",
    "scoreboard_markdown": "scoreboard",
    "write_scoreboard": "scoreboard",
}

__all__ = [
    "ValidationReport",
    "layer_steps",
    "layer_times",
    "load_sources",
    "record",
    "run",
    "run_kernels",
    "scoreboard_markdown",
    "write_scoreboard",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'perfmodel.validation' has no attribute {name!r}")
    return getattr(import_module(f"perfmodel.validation.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
