"""What uneven experts cost the training and the serving step: the fullest rank's share, and how far its copies travel.

A step waits for the fullest rank: its experts work on `fullest` times the fair share, and it receives as much. Loads
given an expert are dealt to ranks in order, as frameworks place experts; a plan of experts places them on its own
number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.moe import imbalanced_layer_time
from perfmodel.ops import less, where
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.expert_load import checked_load, load_expert_load
from perfmodel.specs.expert_placement import ExpertPlacement, load_expert_placement

__all__ = [
    "EVEN",
    "ExpertRouting",
    "Unevenness",
    "expert_exchange",
    "expert_layer_slowdown",
    "expert_layers_slowdown",
    "expert_routing",
]

Floats = NDArray[np.float64]
_LEAST = 1e-9
"""Traffic over the even share is never quite nothing: what is divided by it stays finite."""


class Unevenness(NamedTuple):
    """Over their even values: load of the fullest rank, copies that leave a rank, that stay on its node, that leave it.

    `replicas` is the number of slots over that of experts; numbers may be arrays.
    """

    fullest: Number = 1.0
    leaving: Number = 1.0
    near: Number = 1.0
    far: Number = 1.0
    replicas: Number = 1.0


EVEN = Unevenness()


@dataclass(frozen=True, eq=False)
class ExpertRouting:
    """Unevenness at every expert-parallel degree that divides the experts, and at a placement's own, as tables.

    `request` holds the key of the question that it came from.
    """

    source: str
    request: dict[str, Any]
    degrees: Floats
    tables: Unevenness
    placement: ExpertPlacement | None = None

    def at(self, ep: Number) -> Unevenness:
        """Unevenness at one degree, or arrays for an array of them."""
        if not isinstance(ep, np.ndarray):
            found = int(np.searchsorted(self.degrees, float(ep)))
            return Unevenness(*(float(table[found]) for table in self.tables))
        at = np.searchsorted(self.degrees, ep)
        return Unevenness(*(table[at] for table in self.tables))

    def knows(self, ep: int) -> bool:
        """Whether a degree divides the experts, or is that of the placement."""
        return float(ep) in self.degrees

    def placed(self, ep: int) -> str:
        """How experts lie on so many ranks, in words."""
        if self.placement is not None and ep == self.placement.ranks:
            return "the plan's placement"
        return "given" if self.source == "given" else "in order"


def expert_routing(
    model: Architecture,
    expert_imbalance: float | None = None,
    expert_loads: Any = None,
    expert_placement: Any = None,
) -> ExpertRouting | None:
    """The unevenness that a question names, by one of three keys; None: balanced routing.

    `expert_imbalance` is the load of the fullest rank over the mean at any degree; `expert_loads` a file or
    load[layer][expert]; `expert_placement` a plan of experts (file or document). Layers count evenly: each waits for
    its own fullest rank. Raises `SpecError` for a bad file and `PlanError` for keys that do not go together.
    """
    given = {
        "expert_imbalance": expert_imbalance, "expert_loads": expert_loads, "expert_placement": expert_placement,
    }  # fmt: skip
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise PlanError(f"{', '.join(names)}: give one of them; a plan of experts brings its loads")
    if model.n_experts < 2:
        raise PlanError(f"{names[0]}: {model.id} has no routed experts")
    degrees = np.array([d for d in range(1, model.n_experts + 1) if model.n_experts % d == 0], dtype=np.float64)
    if expert_imbalance is not None:
        return _given(expert_imbalance, degrees)
    if expert_placement is not None:
        return _planned(load_expert_placement(expert_placement), model, degrees)
    load = _loads(expert_loads)
    _check_experts("expert_loads", load, model)
    return ExpertRouting("loads", {"expert_loads": load.tolist()}, degrees, _in_order(load, degrees))


def expert_exchange(links: Links, n_bytes: Number, ep: Number, etp: Number, uneven: Unevenness) -> Cost:
    """One dispatch or combine [s]: an all-to-all of `n_bytes` [B] a rank when even, as the fullest rank sees it."""
    if uneven is EVEN:
        return links.collective("all_to_all", n_bytes, ep, etp)
    inside = less(ep * etp, links.inner_domain + 0.5)
    own = n_bytes * uneven.fullest * where(inside, uneven.leaving, uneven.near)
    outward = where(inside, 1.0 + 0.0 * uneven.near, uneven.far / uneven.near)
    return links.collective("all_to_all", own, ep, etp, outward=outward)


def _given(imbalance: Any, degrees: Floats) -> ExpertRouting:
    if isinstance(imbalance, bool) or not isinstance(imbalance, (int, float)) or not 1 <= imbalance < np.inf:
        raise OutOfRangeError(f"expert_imbalance: must be a number >= 1, 1 is balanced (got {imbalance!r})")
    # No rank has more than everything.
    tables = Unevenness(np.minimum(float(imbalance), degrees), *np.ones((4, len(degrees))))
    return ExpertRouting("given", {"expert_imbalance": float(imbalance)}, degrees, tables)


def _loads(loads: Any) -> Floats:
    if isinstance(loads, (str, Path)):
        return load_expert_load(loads)["load"]
    return checked_load(loads, "expert_loads", error=PlanError)


def _check_experts(key: str, load: Floats, model: Architecture) -> None:
    if load.shape[1] != model.n_experts:
        raise PlanError(f"{key}: must give all {model.n_experts} experts of {model.id} (got {load.shape[1]})")


def _in_order(load: Floats, degrees: Floats) -> Unevenness:
    """Runs of neighbouring experts on every rank, at every degree."""
    fullest = np.array([_fullest(load.reshape(len(load), int(d), -1).sum(axis=2)) for d in degrees])
    return Unevenness(fullest, *np.ones((4, len(degrees))))


def _fullest(on_ranks: Floats) -> float:
    """The mean over layers: each waits for its own fullest rank."""
    return float((on_ranks.max(axis=1) / on_ranks.mean(axis=1)).mean())


def _planned(plan: ExpertPlacement, model: Architecture, degrees: Floats) -> ExpertRouting:
    _check_experts("expert_placement", plan.load, model)
    tables = _in_order(plan.load, degrees)
    at = int(np.searchsorted(degrees, plan.ranks))
    if plan.ranks not in degrees:  # slots divide by ranks where experts do not
        degrees = np.insert(degrees, at, plan.ranks)
        tables = Unevenness(*(np.insert(table, at, 1.0) for table in tables))
    tables.fullest[at] = _fullest(plan.on_ranks)
    tables.replicas[at] = plan.slots / model.n_experts
    if plan.follows_tokens:
        for table, factor in zip(tables[1:4], _travel(plan), strict=True):
            table[at] = max(factor, _LEAST)
    return ExpertRouting("plan", {"expert_placement": plan.document()}, degrees, tables, plan)


def _travel(plan: ExpertPlacement) -> tuple[float, float, float]:
    """Copies that leave a rank, stay on its node and leave it, over those of an even exchange."""
    ranks, each = plan.ranks, plan.ranks // plan.nodes
    near_share, far_share = (each - 1) / ranks, (ranks - each) / ranks
    near = plan.cross_rank_fraction - plan.cross_node_fraction
    leaving = plan.cross_rank_fraction / (near_share + far_share) if ranks > 1 else 1.0
    return (
        leaving,
        near / near_share if near_share else leaving,
        plan.cross_node_fraction / far_share if far_share else leaving,
    )


def expert_layer_slowdown(
    max_over_mean: float, *, compute_s: float, exchange_s: float = 0.0, cross_rank_fraction: float | None = None
) -> float:
    """Time of a layer of routed experts over that of a balanced one.

    `compute_s` [s] are the experts' products at a fair share, `exchange_s` [s] dispatch and combine at a fair share;
    `cross_rank_fraction` is the share of copies that leave their rank, relative to which `exchange_s` is 1 (an
    all-to-all without placement). Returns 1 where nothing takes time.
    """
    crossing = 1.0 if cross_rank_fraction is None else cross_rank_fraction
    fair = imbalanced_layer_time(compute_s, exchange_s, 1.0, 1.0)
    return imbalanced_layer_time(compute_s, exchange_s, max_over_mean, crossing) / fair if fair else 1.0


def expert_layers_slowdown(max_over_mean_load: Sequence[float], *, compute_s: float, exchange_s: float = 0.0) -> float:
    """The mean over layers: each layer waits for its own fullest rank, as `ExpertPlan.prediction` lists them."""
    return sum(
        expert_layer_slowdown(load, compute_s=compute_s, exchange_s=exchange_s) for load in max_over_mean_load
    ) / len(max_over_mean_load)
