"""Plans as tables: the decision first, then what else was close; or who gets what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.plan.power_records import PowerAlternative
from perfmodel.plan.records import Alternative
from perfmodel.plan.serving.records import ServingAlternative
from perfmodel.predict.frames import cell, columns_of, document_of, frame_of
from perfmodel.predict.records import Record

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["document_frame", "to_frame"]

_Document = Mapping[str, Any]


def to_frame(result: Record | Mapping[str, Any]) -> DataFrame:
    """A result as a tidy table, one row a thing.

    Of a plan the choices, the decision first (`rank` 0), or who gets what (tasks; experts and their ranks); of an
    estimate its terms; of anything else its one row. Raises `PlanError` for what is no result.
    """
    return result.to_frame() if isinstance(result, Record) else document_frame(document_of(result))


def document_frame(document: _Document) -> DataFrame:
    """The table of a document."""
    from pandas import DataFrame

    rows = _ROWS.get(document["document"])
    return frame_of(document) if rows is None else DataFrame(list(rows(document)))


def _layouts(plan: _Document) -> Iterator[dict[str, Any]]:
    best = _best(plan, Alternative, tied=True)
    if best is not None:
        best = {"layout": plan["decision"]["layout"]} | best | {"memory_bytes": best["memory_bytes"]["total"]}
    return _ranked(best, plan["alternatives"])


def _deployments(plan: _Document) -> Iterator[dict[str, Any]]:
    decision = plan["decision"]
    best = None if decision is None else _best(plan, ServingAlternative, engine=_engines(decision), tied=True)
    return _ranked(best, plan["alternatives"])


def _engines(decision: _Document) -> str:
    if "serve" in decision:
        return str(decision["serve"]["engine"])
    return ", ".join(f"{decision[name]['replicas']} x ({decision[name]['engine']}) {name}" for name in _POOLS)


def _policies(plan: _Document) -> Iterator[dict[str, Any]]:
    return _ranked(_best(plan, PowerAlternative), plan["alternatives"])


def _sizes(plan: _Document) -> Iterator[dict[str, Any]]:
    return _ranked(plan["decision"], plan["alternatives"])


def _tasks(plan: _Document) -> Iterator[dict[str, Any]]:
    yield from (plan["decision"] or {}).get("allocations", ())


def _slots(plan: _Document) -> Iterator[dict[str, Any]]:
    decision = plan["decision"] or {"slot_expert": ()}
    for layer, slots in enumerate(decision["slot_expert"]):
        for slot, expert in enumerate(slots):
            rank = slot // decision["slots_per_rank"]
            node = rank // decision["ranks_per_node"]
            yield {"layer": layer, "slot": slot, "rank": rank, "node": node, "expert": expert}


def _parts(key: str) -> Callable[[_Document], Iterator[dict[str, Any]]]:
    def parts(plan: _Document) -> Iterator[dict[str, Any]]:
        yield from plan[key]

    return parts


_POOLS = ("prefill", "decode")
_ROWS: dict[str, Callable[[_Document], Iterator[dict[str, Any]]]] = {
    "perfmodel/training-plan/1": _layouts,
    "perfmodel/serving-plan/1": _deployments,
    "perfmodel/experts-plan/1": _slots,
    "perfmodel/power-plan/1": _policies,
    "perfmodel/clocks-plan/1": _parts("stages"),
    "perfmodel/pools-plan/1": _parts("machines"),
    "perfmodel/pool-clocks-plan/1": _parts("engines"),
    "perfmodel/rows-plan/1": _parts("placement"),
    "perfmodel/test-time-plan/1": _tasks,
    "perfmodel/training-budget-plan/1": _sizes,
}


def _best(plan: _Document, alternative: type[Record], **more: Any) -> dict[str, Any] | None:
    """What was decided, with the keys of an alternative."""
    if plan["decision"] is None or plan["prediction"] is None:
        return None
    known = dict(plan["prediction"]) | dict(plan["decision"]) | more
    return {key: known.get(key) for key in alternative.model_fields if key != "layout"}


def _ranked(best: _Document | None, others: Any) -> Iterator[dict[str, Any]]:
    for rank, one in enumerate([*([] if best is None else [best]), *others]):
        row = {"rank": rank}
        for key, value in one.items():
            row |= dict(value if key == "layout" else columns_of(key, value))
        yield {key: cell(value) for key, value in row.items()}
