"""The engines that may serve a model: layouts and precisions on each kind of machine, with what their memory holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.errors import PerfModelError
from perfmodel.predict.imbalance import ExpertRouting
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.memory import ServingMemory, weights_per_rank
from perfmodel.predict.serving.precisions import Precisions, make_precisions
from perfmodel.predict.serving.task import check_serving_layout
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.serving_software import ServingSoftware

__all__ = ["Candidate", "Candidates", "candidates_of", "choices_of"]

TENSOR, PIPELINE, GROUPS = (1, 2, 4, 8), (1, 2), (2, 4, 8, 16, 32)
WIDE_TENSOR, WIDE_PIPELINE = (8, 16), (2, 4, 8)
"""Degrees that only a model too large for the others needs."""
MEMORY_RULE = "memory: one request of mean length does not fit beside the weights"
SHAPE_RULE = "a layout that does not cut the model"
KERNEL_RULE = "a precision without kernels on this accelerator"
SIZE_RULE = "larger than the accelerators allowed"


@dataclass(frozen=True)
class Candidate:
    """One engine: `groups` of attention (1 without data-parallel attention), each with room for `places` answers."""

    cluster: Cluster
    layout: ParallelLayout
    precisions: Precisions
    engine: Engine
    memory: ServingMemory
    blocks: float
    places: float
    whole: float
    """Requests of mean length whose whole cache fits at once in a group."""

    @property
    def groups(self) -> int:
        """Groups that serve requests of their own."""
        return self.layout.attention_dp

    @property
    def accelerators(self) -> int:
        """Accelerators of the engine."""
        return self.layout.accelerators

    @property
    def usd_per_hour(self) -> float:
        """Price of the engine."""
        return self.accelerators * float(self.cluster.accelerator_usd_per_hour)

    @property
    def name(self) -> str:
        """The engine in a few words."""
        degrees = {"tp": self.layout.tp, "pp": self.layout.pp, "ep": self.layout.ep, "attention_dp": self.groups}
        cut = ", ".join(f"{key} {value}" for key, value in degrees.items() if value > 1) or "one accelerator"
        return f"{self.cluster.accelerator.id}, {cut}, {self.precisions.weights}, {self.precisions.kv_cache} cache"


@dataclass(frozen=True)
class Candidates:
    """Every engine that fits, and how many layouts each rule removed."""

    engines: tuple[Candidate, ...]
    pruned: dict[str, int]
    least_weights: float
    """Bytes of weights on a rank of the layout that needs least [B]."""


def choices_of(
    cluster: Cluster, weights: Sequence[str] | None, kv_cache: Sequence[str] | None
) -> list[tuple[str, str]]:
    """Pairs of precisions of weights and cache to try: 16 bits, and 8 where the part multiplies them."""
    narrow = "fp8" in cluster.accelerator.peak_flop_per_s
    chosen = tuple(weights) if weights else ("bf16", "fp8") if narrow else ("bf16",)
    caches = tuple(kv_cache) if kv_cache else ("bf16", "fp8") if narrow else ("bf16",)
    return [(weight, cache) for weight in chosen for cache in caches]


def candidates_of(
    model: Architecture,
    clusters: Sequence[Cluster],
    software: ServingSoftware,
    lengths: tuple[float, float],
    *,
    weights: Sequence[str] | None = None,
    kv_cache: Sequence[str] | None = None,
    most: int | None = None,
    memory_margin: float = 0.0,
    beside: Sequence[Architecture] = (),
    routing: ExpertRouting | None = None,
) -> Candidates:
    """Engines of at most `most` accelerators that hold the model, a request of mean `lengths`, and what is `beside`.

    `lengths` [tokens] are the whole of a mean request and what a running answer holds on average; `memory_margin` [1]
    of the capacity stays free; weights of models `beside` stay resident on the same accelerators. `routing` says how
    uneven experts are; the ranks of a placement are among the degrees tried.
    """
    asked = (model, clusters, software, lengths, weights, kv_cache, most, memory_margin, beside, routing)
    found = _candidates(*asked, TENSOR, PIPELINE)
    return found if found.engines else _candidates(*asked, WIDE_TENSOR, WIDE_PIPELINE)


def _candidates(
    model: Architecture, clusters: Sequence[Cluster], software: ServingSoftware, lengths: tuple[float, float],
    weights: Sequence[str] | None, kv_cache: Sequence[str] | None, most: int | None, memory_margin: float,
    beside: Sequence[Architecture], routing: ExpertRouting | None, tensor: Sequence[int], pipeline: Sequence[int],
) -> Candidates:  # fmt: skip
    pruned: Counter[str] = Counter()
    engines, least = [], np.inf
    for cluster in clusters:
        efficiency = cluster.accelerator.kernel_constants()
        for layout in _layouts(model, cluster, tensor, pipeline, routing):
            machine = cluster.model_copy(update={"accelerators": max(layout.accelerators, cluster.accelerators)})
            if layout.accelerators > (most or layout.accelerators):
                pruned[SIZE_RULE] += 1
                continue
            if not _cuts(model, machine, layout, routing):
                pruned[SHAPE_RULE] += 1
                continue
            for pair in choices_of(cluster, weights, kv_cache):
                precisions = make_precisions(pair[0], None, pair[1])
                capacity = float(cluster.accelerator.capacity_bytes) * (1.0 - memory_margin)
                others = sum(weights_per_rank(other, layout, precisions) for other in beside)
                replicas = 1.0 if routing is None else routing.at(float(layout.ep)).replicas
                memory = ServingMemory(model, software, layout, precisions, capacity - others, replicas)
                least = min(least, memory.weights + others)
                blocks = float(memory.blocks(*_peak(software, lengths[0])))
                if float(memory.concurrency(blocks, lengths[0])) < 1.0:
                    pruned[MEMORY_RULE] += 1
                    continue
                try:
                    engine = Engine(model, machine, efficiency, software, layout, precisions, routing)
                except PerfModelError:
                    pruned[KERNEL_RULE] += 1
                    continue
                places = min(float(software.max_batch), float(memory.concurrency(blocks, lengths[1])))
                whole = min(float(software.max_batch), float(memory.concurrency(blocks, lengths[0])))
                engines.append(Candidate(machine, layout, precisions, engine, memory, blocks, max(1.0, places), whole))
    return Candidates(tuple(engines), dict(pruned), float(least))


def _layouts(
    model: Architecture, cluster: Cluster, tensor: Sequence[int], pipeline: Sequence[int],
    routing: ExpertRouting | None,
) -> Iterator[ParallelLayout]:  # fmt: skip
    domain = cluster.tiers[0].domain_accelerators or cluster.accelerators_per_node
    for tp in tensor:
        for pp in pipeline:
            if tp <= 2 * domain:
                yield ParallelLayout(tp=tp, pp=pp, sequence_parallel=False)
                if model.experts is not None and tp > 1:
                    yield ParallelLayout(tp=tp, pp=pp, ep=tp, sequence_parallel=False)
        if model.experts is not None:
            placed = routing.placement.ranks if routing is not None and routing.placement is not None else tp
            own = (placed // tp,) if placed % tp == 0 and placed > tp else ()
            for groups in sorted({*GROUPS, *own}):
                yield ParallelLayout(tp=tp, dp=groups, ep=tp * groups, attention_dp=groups, sequence_parallel=False)


def _cuts(model: Architecture, cluster: Cluster, layout: ParallelLayout, routing: ExpertRouting | None) -> bool:
    try:
        check_serving_layout(layout, model, cluster, routing)
    except PerfModelError:
        return False
    return True


def _peak(software: ServingSoftware, length: float) -> tuple[float, float]:
    """Tokens and sequences of the largest iteration."""
    most = float(software.max_batch)
    return min(float(software.max_batched_tokens), most * length), most
