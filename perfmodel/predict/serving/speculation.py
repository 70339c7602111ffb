"""Speculative decoding and multi-token prediction: a verification, the draft's steps, and what both make of a token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.speculative import expected_accepted_tokens, speculative_tpot
from perfmodel.ops import maximum
from perfmodel.predict.cost import Cost, Node, Number
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.records import Record, Term, term_of
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.memory import weights_per_rank
from perfmodel.predict.serving.task import ServingTask, serving_task
from perfmodel.specs.cluster import cluster_reference
from perfmodel.specs.huggingface import model_reference
from perfmodel.specs.registry import data_version
from perfmodel.specs.serving_software import ServingSoftware

__all__ = [
    "MTP",
    "Speculation",
    "SpeculationEstimate",
    "SpeculativeStep",
    "estimate_speculation",
    "mtp_step",
    "speculative_step",
    "verification",
]

MTP = "mtp"
"""The draft that is a module of the model itself: one more layer before its head."""
_AROUND_LAYERS = ("head", "sampling", "pipeline", "engine")


@dataclass(frozen=True)
class Speculation:
    """`draft_tokens` [1] drafted before each verification, each accepted with chance `acceptance` [1]."""

    acceptance: float
    draft_tokens: int

    @property
    def tokens(self) -> float:
        """Expected tokens of a verification."""
        return float(expected_accepted_tokens(self.acceptance, self.draft_tokens))


@dataclass(frozen=True)
class SpeculativeStep:
    """One round of drafting and verifying beside the plain decode step that it replaces."""

    draft: Node
    verify: Node
    decode: Node
    tokens: float
    tpot_s: float

    @property
    def speedup(self) -> float:
        """Plain time per token over the speculative one."""
        return float(self.decode.cost.seconds) / self.tpot_s


def verification(engine: Engine, sequences: Number, kv_len: Number, draft_tokens: Number) -> Node:
    """The target over `draft_tokens + 1` tokens of each sequence.

    Products, messages and logits are those of so many more sequences. Attention streams the keys of a sequence once
    for all its tokens, and computes for each.
    """
    rows = engine.decode(sequences * (draft_tokens + 1.0), kv_len)
    streams = engine.decode(sequences, kv_len)
    every, once = _child(rows, "attention").cost, _child(streams, "attention").cost
    seconds = maximum(once.seconds, every.compute_s)
    attention = Cost(
        seconds, maximum(once.lower, every.compute_s), maximum(once.upper, seconds), every.compute_s, once.memory_s
    )
    children = (replace(one, cost=attention) if one.name == "attention" else one for one in rows.children)
    return Node.of("verify", *children)


def mtp_step(engine: Engine, sequences: Number, kv_len: Number) -> Node:
    """One step of a module of multi-token prediction: a layer like the others, and the head, inside the same graph."""
    step, n_layers = engine.decode(sequences, kv_len), float(engine.model.n_layers)
    layer = [replace(one, cost=one.cost * (1.0 / n_layers)) for one in step.children if one.name not in _AROUND_LAYERS]
    return Node.of("draft", *layer, _child(step, "head"), _child(step, "sampling"))


def speculative_step(
    engine: Engine, speculation: Speculation, sequences: Number, kv_len: Number, draft: Engine | None = None
) -> SpeculativeStep:
    """A round of a batch: `draft` is the engine of a smaller model, None a module of the model itself."""
    drafted = mtp_step(engine, sequences, kv_len) if draft is None else draft.decode(sequences, kv_len)
    verify = verification(engine, sequences, kv_len, float(speculation.draft_tokens))
    tpot_s = speculative_tpot(
        drafted.cost.seconds, verify.cost.seconds, speculation.acceptance, speculation.draft_tokens
    )
    decode = engine.iteration(Load(sequences=sequences, kv_len=kv_len), "decode")
    return SpeculativeStep(drafted, verify, decode, speculation.tokens, float(tpot_s))


class SpeculationEstimate(Record):
    """A round of speculative decoding at one batch; `speedup` is over plain decoding of the same batch."""

    document: str = "perfmodel/speculation-estimate/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    tpot_s: float
    plain_tpot_s: float
    speedup: float
    tokens_per_round: float
    round_s: float
    draft_s: float
    verify_s: float
    draft_cost_ratio: float
    verify_cost_ratio: float
    output_tokens_per_s: float
    draft_weights_bytes: float
    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()


def estimate_speculation(
    model: Any,
    cluster: Any,
    *,
    layout: ParallelLayout | Mapping[str, Any],
    acceptance: float,
    draft_tokens: int,
    draft: Any = MTP,
    draft_layout: ParallelLayout | Mapping[str, Any] | None = None,
    batch: int = 1,
    kv_len: int = 1024,
    weights: str = "bf16",
    activations: str | None = None,
    kv_cache: str | None = None,
    draft_weights: str | None = None,
    software: ServingSoftware | str | Path | Mapping[str, Any] | None = None,
) -> SpeculationEstimate:
    """Time per output token when `draft_tokens` are drafted and verified at once, on one replica of `batch` sequences.

    `draft` is a smaller model (id, path or dict; on the same accelerators unless `draft_layout`), or "mtp": a module of
    the model itself. `acceptance` [1] is the chance that a drafted token is accepted, in [0, 1). `kv_len` [1] tokens of
    cache of each sequence. Raises `SpecError` and `PlanError`.
    """
    speculation = _speculation(acceptance, draft_tokens)
    shared: dict[str, Any] = {
        "prompt_tokens": kv_len, "output_tokens": 1, "concurrency": batch, "arrival_rate_per_s": None,
        "activations": activations, "kv_cache": kv_cache, "batching": "continuous", "software": software,
        "arrivals": "closed-loop",
    }  # fmt: skip
    task = serving_task(model, cluster, layout=layout, weights=weights, **shared)
    other = None
    if draft != MTP:
        other = serving_task(
            draft, cluster, layout=draft_layout or {"tp": task.layout.tp}, weights=draft_weights or weights, **shared
        )
    step = speculative_step(
        task.engine, speculation, float(batch), float(kv_len), None if other is None else other.engine
    )
    return _record(task, other, step, speculation)


def _record(
    task: ServingTask, other: ServingTask | None, step: SpeculativeStep, speculation: Speculation
) -> SpeculationEstimate:
    plain_s, draft_s, verify_s = (float(one.cost.seconds) for one in (step.decode, step.draft, step.verify))
    batch = float(task.concurrency or 1.0)
    if other is None:
        held = weights_per_rank(task.model, task.layout, task.precisions) / task.model.n_layers
    else:
        held = weights_per_rank(other.model, other.layout, other.precisions)
    return SpeculationEstimate(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={
            "model": model_reference(task.model), "cluster": cluster_reference(task.cluster),
            "accelerators": task.cluster.accelerators,
            "layout": task.layout.model_dump(mode="json"),
            "draft": MTP if other is None else model_reference(other.model),
            "acceptance": speculation.acceptance, "draft_tokens": speculation.draft_tokens, "batch": int(batch),
            "kv_len": task.prompt_tokens, "weights": task.precisions.weights,
            "activations": task.precisions.activations, "kv_cache": task.precisions.kv_cache,
            "software": task.software.id,
        },
        tpot_s=step.tpot_s,
        plain_tpot_s=plain_s,
        speedup=step.speedup,
        tokens_per_round=step.tokens,
        round_s=speculation.draft_tokens * draft_s + verify_s,
        draft_s=draft_s,
        verify_s=verify_s,
        draft_cost_ratio=draft_s / plain_s,
        verify_cost_ratio=verify_s / plain_s,
        output_tokens_per_s=batch / step.tpot_s,
        draft_weights_bytes=held,
        terms=tuple(term_of(node) for node in (step.draft, step.verify, step.decode)),
        notes=task.notes,
    )  # fmt: skip


def _speculation(acceptance: Any, draft_tokens: Any) -> Speculation:
    if isinstance(acceptance, bool) or not isinstance(acceptance, (int, float)) or not math.isfinite(acceptance):
        raise PlanError(f"acceptance: must be a number in [0, 1) (got {acceptance!r})")
    if not 0 <= acceptance < 1:
        raise OutOfRangeError(f"acceptance: must be in [0, 1) (got {acceptance!r})")
    if isinstance(draft_tokens, bool) or not isinstance(draft_tokens, (int, float)) or draft_tokens % 1:
        raise PlanError(f"draft_tokens: must be a whole number >= 1 (got {draft_tokens!r})")
    if not 1 <= draft_tokens <= 64:
        raise OutOfRangeError(f"draft_tokens: must be 1 to 64 (got {draft_tokens!r})")
    return Speculation(float(acceptance), int(draft_tokens))


def _child(node: Node, name: str) -> Node:
    return next(one for one in node.children if one.name == name)
