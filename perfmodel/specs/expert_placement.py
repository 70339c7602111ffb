"""A placement of experts as a description: what `plan experts` decided, read again from its document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import SpecError
from perfmodel.specs.expert_load import checked_load

__all__ = ["EXPERT_PLAN", "ExpertPlacement", "load_expert_placement"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EXPERT_PLAN = "perfmodel/experts-plan/1"


@dataclass(frozen=True, eq=False)
class ExpertPlacement:
    """`load[layer, expert]` [tokens] and `slot_expert[layer, slot]`; slot s lives on rank `s // (slots / ranks)`.

    `follows_tokens` says that the crossing fractions come from transitions: a token's next copy leaves from the rank of
    its last expert.
    """

    load: Floats
    slot_expert: Ints
    ranks: int
    nodes: int
    cross_rank_fraction: float
    cross_node_fraction: float
    follows_tokens: bool

    @property
    def slots(self) -> int:
        """Experts that all ranks hold together, replicas counted."""
        return int(self.slot_expert.shape[1])

    @cached_property
    def on_ranks(self) -> Floats:
        """Load of every rank, shape (layers, ranks): replicas of an expert share its load evenly."""
        layers = []
        for load, held in zip(self.load, self.slot_expert, strict=True):
            each = load / np.bincount(held, minlength=len(load))
            layers.append(each[held].reshape(self.ranks, -1).sum(axis=1))
        return np.array(layers)

    def document(self) -> dict[str, Any]:
        """As much of the plan's document as reads back to the same."""
        return {
            "document": EXPERT_PLAN,
            "request": {
                "load": self.load.tolist(), "ranks": self.ranks, "nodes": self.nodes,
                "transitions": [] if self.follows_tokens else None,
            },
            "decision": {"slot_expert": self.slot_expert.tolist()},
            "prediction": {
                "cross_rank_fraction": self.cross_rank_fraction, "cross_node_fraction": self.cross_node_fraction,
            },
        }  # fmt: skip


def load_expert_placement(plan: Any) -> ExpertPlacement:
    """The placement in a plan of experts: its document, a file with it, or the plan itself; raises `SpecError`."""
    label = "expert_placement"
    if isinstance(plan, (str, Path)):
        label = str(plan)
        try:
            plan = json.loads(Path(plan).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SpecError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    elif hasattr(plan, "to_dict"):
        plan = plan.to_dict()
    if not isinstance(plan, Mapping) or plan.get("document") != EXPERT_PLAN:
        got = plan.get("document") if isinstance(plan, Mapping) else type(plan).__name__
        raise SpecError(
            f"{label}: must be a {EXPERT_PLAN} document, as `perfmodel plan experts --json` prints (got {got!r})"
        )
    if not plan.get("decision"):
        raise SpecError(f"{label}: decision: missing; the plan is not feasible and places nothing")
    try:
        return _placement(plan, label)
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"{label}: not a whole plan of experts: {error}") from None


def _placement(plan: Mapping[str, Any], label: str) -> ExpertPlacement:
    asked, said = plan["request"], plan["prediction"]
    load = checked_load(asked["load"], f"{label}: request: load")
    slots = np.asarray(plan["decision"]["slot_expert"], dtype=np.int64)
    ranks, nodes = int(asked["ranks"]), int(asked["nodes"])
    if slots.ndim != 2 or len(slots) != len(load) or ranks < 1 or slots.shape[1] % ranks or nodes < 1 or ranks % nodes:
        raise SpecError(
            f"{label}: decision: slot_expert: must hold equal slots of {ranks} ranks in {nodes} nodes for each of "
            f"{len(load)} layers (got shape {slots.shape})"
        )
    for layer, row in enumerate(slots):
        if not np.array_equal(np.unique(row), np.arange(load.shape[1])):
            raise SpecError(
                f"{label}: decision: slot_expert: layer {layer}: must hold each of the {load.shape[1]} experts"
            )
    ranked, noded = (float(said[f"cross_{name}_fraction"]) for name in ("rank", "node"))
    if not 0 <= noded <= ranked + 1e-9 <= 1 + 2e-9:
        raise SpecError(
            f"{label}: prediction: cross_rank_fraction: must be from that of nodes, {noded!r}, to 1 (got {ranked!r})"
        )
    follows = asked.get("transitions") is not None
    return ExpertPlacement(load, slots, ranks, nodes, ranked, noded, follows)
