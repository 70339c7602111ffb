"""The scoreboard of the README: what `run` prints, as Markdown between two markers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from perfmodel.errors import SpecError
from perfmodel.validation.records import SourceScore, ValidationReport

__all__ = ["BEGIN", "END", "scoreboard_markdown", "write_scoreboard"]

BEGIN, END = "<!-- scoreboard:begin -->", "<!-- scoreboard:end -->"


def scoreboard_markdown(report: ValidationReport) -> str:
    """Two tables (accuracy; intervals of step times) and the reasons of what was refused or left out.

    Calibrated sources stand in brackets: their rows fixed constants, so they are no validation.
    """
    blocks = [_accuracy(report.sources), _intervals(report.sources), _remarks(report)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def write_scoreboard(path: str | Path, report: ValidationReport | None = None) -> bool:
    """Put the scoreboard between the markers of a file; True where it changed. Raises `SpecError` without markers."""
    from perfmodel.validation.runner import run

    path = Path(path)
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SpecError(f"{path}: needs one {BEGIN} and, after it, one {END}")
    head, rest = text.split(BEGIN)
    changed = f"{head}{BEGIN}\n{scoreboard_markdown(report or run())}{END}{rest.split(END)[1]}"
    path.write_text(changed, encoding="utf-8")
    return changed != text


def _accuracy(sources: dict[str, SourceScore]) -> str:
    head = (
        "source",
        "quantity",
        "scored / given",
        "error",
        "median \\|ln\\|",
        "bias",
        "worst row",
        "rank corr.",
        "HFU 0.5",
        "best HFU (fitted)",
        "other tools",
    )
    return _table(head, (_accuracy_row(id, one) for id, one in sources.items()))


def _accuracy_row(id: str, one: SourceScore) -> list[str]:
    counted = one.role == "validate"
    unit, digits = ("points", 2) if one.quantity == "activation memory" else ("%", 1)
    error = f"{_percent(one.headline)} {unit}"
    worst = f"{100 * one.worst.error:+.{digits}f} {unit} {one.worst.where}" if one.worst else "–"
    baselines = one.baselines
    return [
        f"[{id}]({one.url})",
        one.quantity if counted else f"{one.quantity}, calibrated ({len(one.free_constants)} constants)",
        f"{one.scored} / {one.given}",
        f"**{error}**" if counted else f"({error})",
        _fraction(one.median_abs_log, 3),
        f"{100 * one.bias:+.{digits}f} {unit}" if one.bias is not None else "–",
        worst,
        _fraction(one.rank_correlation, 2),
        f"{_percent(baselines.constant_hfu_mape)} %" if baselines else "–",
        f"{_percent(baselines.fitted_hfu_mape)} % (at {baselines.fitted_hfu:.3f})" if baselines else "–",
        ", ".join(f"{other.tool} {100 * other.mape:.3g} %" for other in one.other_tools) or "–",
    ]


def _intervals(sources: dict[str, SourceScore]) -> str:
    head = ("80 % interval", "holds", "median width", "score", "± 20 %: holds", "score", "fits in memory")
    rows = [
        [
            id,
            f"{one.interval.coverage:.0%}".replace("%", " %"),
            f"{100 * one.interval.median_relative_width:.0f} %",
            _fraction(one.interval.score, 3),
            f"{one.interval.constant_width_coverage:.0%}".replace("%", " %"),
            _fraction(one.interval.constant_width_score, 3),
            f"{one.fitting} / {one.scored}",
        ]
        for id, one in sources.items()
        if one.interval
    ]
    return _table(head, rows) if rows else ""


def _remarks(report: ValidationReport) -> str:
    lines = [f"- over tolerance: {line}" for line in report.failures]
    for id, one in report.sources.items():
        lines += [f"- {id}, refused: {refusal.where}: {refusal.reason}" for refusal in one.refused]
        lines += [f"- {id}, left out: {text}" for text in one.left_out]
    return "\n".join(lines)


def _table(head: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    lines = [list(head), ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _fraction(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
