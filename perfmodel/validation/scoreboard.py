"""The scoreboard of the README: what `run` prints, as Markdown between two markers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from perfmodel.errors import SpecError
from perfmodel.validation.records import SourceScore, ValidationReport

__all__ = ["BEGIN", "END", "scoreboard_markdown", "write_scoreboard"]

_LONGEST = 64
BEGIN, END = "<!-- scoreboard:begin -->", "<!-- scoreboard:end -->"


def scoreboard_markdown(report: ValidationReport) -> str:
    """A summary, three tables (accuracy, intervals, layout choice) and the reasons of what was refused or left out.

    What fixed constants stands in brackets, never as a headline: it is no validation.
    """
    blocks = [
        _summary(report),
        _accuracy(report.sources),
        _LEGEND,
        "<details><summary>Intervals, choices of layout, and what was left out</summary>",
        _intervals(report.sources),
        _layouts(report.sources),
        _remarks(report),
        "</details>",
    ]
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


def _summary(report: ValidationReport) -> str:
    summary = report.summary
    lines = [f"{summary.beating} of {summary.compared} sources are nearer than both trivial baselines."]
    if summary.mean_coverage is not None:
        lines.append(
            f"The 80 % intervals hold {_percent(summary.mean_coverage, 0)} % of the measurements, mean over "
            f"{summary.intervals} sources; median half-width of dense rows {_percent(summary.median_half_width, 1)} %, "
            f"interval score {_fraction(summary.interval_score, 3)} against "
            f"{_fraction(summary.constant_width_score, 3)} of ± 20 %."
        )
    if (choice := summary.layout_choice) is not None:
        lines.append(
            f"The layouts that it ranks first ran {_percent(choice.mean_regret, 1)} % longer than the best, mean over "
            f"{choice.groups} choices."
        )
    for name, pool in report.pooled.items():
        base = pool.baselines
        lines.append(
            f"{name}, {pool.given} configurations as one table: **{_percent(pool.headline)} %** over the {pool.scored} "
            f"that fixed nothing; HFU 0.5 {_percent(base.constant_hfu_mape, 1)} %, best HFU, fitted on these rows, "
            f"{_percent(base.fitted_hfu_mape, 1)} %."
        )
    return "\n".join(f"- {line}" for line in lines)


def _accuracy(sources: dict[str, SourceScore]) -> str:
    head = (
        "source",
        "quantity",
        "scored / given",
        "error",
        "rows that calibrate",
        "fitted without it",
        "median \\|ln\\|",
        "bias",
        "worst row",
        "rank corr.",
        "trivial",
        "trivial, fitted",
        "other tools",
    )
    return _table(head, (_accuracy_row(id, one) for id, one in sources.items()))


_LEGEND = (
    "Trivial: every step at half the peak; of memory 16 bytes a parameter over tp × pp ranks. Trivial, fitted: the "
    "best utilisation, or the best multiple, fitted on the rows that it is scored on. In brackets: rows that fixed "
    "constants, never part of an error. Fitted without it: the error when the software generation was fitted from "
    "other sources."
)


def _accuracy_row(id: str, one: SourceScore) -> list[str]:
    counted = one.role == "validate"
    unit, digits = ("points", 2) if one.quantity == "activation memory" else ("%", 1)
    error = f"{_percent(one.headline)} {unit}"
    worst = f"{100 * one.worst.error:+.{digits}f} {unit} {_short(one.worst.where)}" if one.worst else "–"
    own, without = one.calibrated, one.without_it
    trivial, fitted = _trivial(one)
    return [
        f"[{id}]({one.url})",
        one.quantity if counted else f"{one.quantity}, calibrated ({len(one.free_constants)} constants)",
        f"{one.scored} / {one.given}",
        f"**{error}**" if counted else f"({error})",
        f"({_percent(own.headline)} %; {_plural(own.rows, 'row')}, {_plural(own.constants, 'constant')})"
        if own
        else "–",
        f"{_percent(without.headline)} %" if without else "–",
        _fraction(one.median_abs_log, 3),
        f"{100 * one.bias:+.{digits}f} {unit}" if one.bias is not None else "–",
        worst,
        _fraction(one.rank_correlation, 2),
        trivial,
        fitted,
        ", ".join(f"{other.tool} {100 * other.mape:.3g} %" for other in one.other_tools) or "–",
    ]


def _trivial(one: SourceScore) -> tuple[str, str]:
    if (base := one.baselines) is not None:
        return f"{_percent(base.constant_hfu_mape)} %", f"{_percent(base.fitted_hfu_mape)} % (at {base.fitted_hfu:.3f})"
    if (memory := one.memory_baselines) is not None:
        fitted = f"{_percent(memory.fitted_mape)} % (at {memory.fitted_bytes_per_param:.0f} bytes)"
        return f"{_percent(memory.states_mape)} %", fitted
    return "–", "–"


def _intervals(sources: dict[str, SourceScore]) -> str:
    head = ("80 % interval", "holds", "median width", "score", "± 20 %: holds", "score", "fits in memory")
    rows = [
        [
            id,
            f"{_percent(one.interval.coverage, 0)} %",
            f"{100 * one.interval.median_relative_width:.0f} %",
            _fraction(one.interval.score, 3),
            f"{_percent(one.interval.constant_width_coverage, 0)} %",
            _fraction(one.interval.constant_width_score, 3),
            f"{one.fitting} / {one.predicted}",
        ]
        for id, one in sources.items()
        if one.interval
    ]
    return _table(head, rows) if rows else ""


def _layouts(sources: dict[str, SourceScore]) -> str:
    head = ("choosing the layout", "choices", "layouts", "mean regret", "rank corr. inside choices")
    rows = [
        [id, str(one.groups), str(one.rows), f"{_percent(one.mean_regret, 1)} %", _fraction(one.rank_correlation, 2)]
        for id, one in ((id, source.layout_choice) for id, source in sources.items())
        if one
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


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _fraction(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1].rstrip(' ,')}…"
