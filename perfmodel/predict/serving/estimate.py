"""`estimate_serving`: from a model, a cluster, a layout and a load to the record of a deployment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel._version import __version__
from perfmodel.formulas.cost import cost_usd_per_mtok, energy_j
from perfmodel.formulas.serving import mean_decode_length
from perfmodel.predict.cost import Node, total
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.records import Warned, term_of
from perfmodel.predict.serving.intervals import serving_interval, serving_widenings
from perfmodel.predict.serving.operating import Point, closed_loop, open_arrivals, static_batch
from perfmodel.predict.serving.percentiles import tpot_percentile, ttft_percentile
from perfmodel.predict.serving.records import ServingEstimate, ServingMemoryBytes
from perfmodel.predict.serving.task import ARRIVALS, ServingTask, serving_task
from perfmodel.specs.huggingface import model_reference
from perfmodel.specs.quantity import cited
from perfmodel.specs.registry import data_version
from perfmodel.specs.serving_software import ServingSoftware

__all__ = ["estimate_serving", "operating_point", "serving_estimate_of"]


def estimate_serving(
    model: Any,
    cluster: Any,
    *,
    layout: ParallelLayout | Mapping[str, Any],
    prompt_tokens: int,
    output_tokens: int,
    concurrency: int | None = None,
    arrival_rate_per_s: float | None = None,
    weights: str = "bf16",
    activations: str | None = None,
    kv_cache: str | None = None,
    batching: str = "continuous",
    software: ServingSoftware | str | Path | Mapping[str, Any] | None = None,
    arrivals: str = "closed-loop",
) -> ServingEstimate:
    """Latency, rate, memory, energy and cost of a deployment of `layout.dp` equal replicas.

    Give `concurrency` (requests in flight, or with `batching` "static" the size of the batch) or `arrival_rate_per_s`
    (Poisson, of the whole deployment). `arrivals` says how the load generator of a closed loop sends: "closed-loop" and
    "lockstep" start all slots at once and refill each ten times (in lockstep, prompts that came together stay so),
    "burst" sends every request once. Raises `SpecError` and `PlanError`; a deployment that does not fit is returned
    with `fits=False`.
    """
    return serving_estimate_of(
        serving_task(
            model, cluster, layout=layout, prompt_tokens=prompt_tokens, output_tokens=output_tokens,
            concurrency=concurrency, arrival_rate_per_s=arrival_rate_per_s, weights=weights, activations=activations,
            kv_cache=kv_cache, batching=batching, software=software, arrivals=arrivals,
        )
    )  # fmt: skip


def operating_point(task: ServingTask) -> tuple[Point, float]:
    """One replica at work, and the blocks of its cache."""
    replicas = float(task.layout.dp)
    sizes = float(task.prompt_tokens), float(task.output_tokens)
    blocks = float(task.memory.blocks(*_peak(task)))
    if task.batching == "static":
        return static_batch(task.engine, math.ceil((task.concurrency or 1.0) / replicas), *sizes), blocks
    # Blocks are taken as an answer grows, and running answers are on average halfway.
    held = max(1.0, float(task.memory.concurrency(blocks, mean_decode_length(*sizes))))
    limit = min(float(task.software.max_batch), held)
    if task.concurrency is not None:
        each = max(1.0, task.concurrency / replicas)
        return closed_loop(task.engine, each, *sizes, limit, ARRIVALS[task.arrivals]), blocks
    assert task.arrival_rate_per_s is not None
    return open_arrivals(task.engine, task.arrival_rate_per_s / replicas, *sizes, limit), blocks


def _peak(task: ServingTask) -> tuple[float, float]:
    """Tokens and sequences of the largest iteration that this load can lead to."""
    most = float(task.software.max_batch)
    sequences = most if task.concurrency is None else min(most, task.concurrency)
    return min(float(task.software.max_batched_tokens), sequences * task.prompt_tokens), sequences


def serving_estimate_of(task: ServingTask) -> ServingEstimate:
    """The record of a checked question."""
    point, blocks = operating_point(task)
    replicas, length = float(task.layout.dp), float(task.prompt_tokens + task.output_tokens)
    warnings = tuple(Warned(**one) for one in _warnings(task, point))
    kinds = [one.formula for one in warnings]
    requests_per_s = point.requests_per_s * replicas
    if task.arrival_rate_per_s is not None and not point.saturated:
        requests_per_s = task.arrival_rate_per_s
    tokens_per_s = requests_per_s * task.output_tokens
    places = float(task.memory.concurrency(blocks, length))
    memory = _memory(task, blocks)
    used = task.layout.accelerators
    latencies = {
        f"{name}_p{percent}_s": float(law(point, percent / 100.0))
        for name, law in (("ttft", ttft_percentile), ("tpot", tpot_percentile))
        for percent in (50, 90, 99)
    }
    bounds = _bounds(point)
    return ServingEstimate(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=_request(task),
        ttft_s=point.ttft_s,
        tpot_s=point.tpot_s,
        **latencies,
        **bounds,
        ttft_interval_s=serving_interval(point.ttft_s, "ttft", kinds),
        tpot_interval_s=serving_interval(point.tpot_s, "tpot", kinds),
        request_latency_s=point.latency_s,
        requests_per_s=requests_per_s,
        output_tokens_per_s=tokens_per_s,
        output_tokens_per_s_per_accelerator=tokens_per_s / used,
        batch=point.batch,
        max_concurrency=int(places * replicas),
        kv_blocks=int(blocks),
        block_tokens=task.software.block_tokens,
        memory_bytes=memory,
        fits=places >= 1.0 and memory.weights + memory.activations <= memory.capacity,
        accelerators_used=used,
        energy_j_per_token=_joules_per_s(task, point) / tokens_per_s,
        cost_usd_per_mtok=float(
            cost_usd_per_mtok(float(used), float(task.cluster.accelerator_usd_per_hour), tokens_per_s)
        ),
        saturated=point.saturated,
        terms=tuple(
            term_of(Node(name, node.cost, None, node.children))
            for name, node in (("prefill", point.prefill), ("decode_step", point.decode))
        ),
        warnings=warnings,
        notes=task.notes,
        sources=_sources(task),
    )


def _bounds(point: Point) -> dict[str, float]:
    """Perfect overlap and none, in the same operating point: both phases scaled alike."""
    found = {}
    for name, seconds, node in (("ttft", point.ttft_s, point.prefill), ("tpot", point.tpot_s, point.decode)):
        cost = node.cost
        found[f"{name}_lower_s"] = seconds * float(cost.lower / cost.seconds)
        found[f"{name}_upper_s"] = seconds * float(cost.upper / cost.seconds)
    return found


def _memory(task: ServingTask, blocks: float) -> ServingMemoryBytes:
    weights, activations = task.memory.weights, float(task.memory.activations(*_peak(task)))
    cache, workspace = blocks * task.memory.block_bytes, float(task.software.workspace_bytes)
    return ServingMemoryBytes(
        weights=weights, kv_cache=cache, activations=activations, workspace=workspace,
        total=weights + cache + activations + workspace, capacity=task.memory.capacity_bytes,
    )  # fmt: skip


def _joules_per_s(task: ServingTask, point: Point) -> float:
    """Power [W] of the deployment: cores and memory busy as in the mix of its iterations, servers always on."""
    part, decode = task.cluster.accelerator, point.decode
    busy = total(leaf.cost for leaf in decode.leaves())
    share = min(1.0, float((busy.compute_s + busy.memory_s) / decode.cost.seconds)) * (point.load or 1.0)
    one = energy_j(share, 1.0, float(part.tdp_w), float(part.idle_w)) + float(task.cluster.server_overhead_w)
    return float(one) * task.layout.accelerators * float(task.cluster.pue)


def _warnings(task: ServingTask, point: Point) -> list[dict[str, Any]]:
    found = list(serving_widenings(task))
    if point.saturated:
        asked = task.concurrency if task.concurrency is not None else task.arrival_rate_per_s
        found.append(
            {"formula": "saturation", "quantity": "concurrency" if task.concurrency else "arrival_rate_per_s",
             "value": float(asked or 0.0), "valid": f"at most {point.batch:g} requests run in a replica"}
        )  # fmt: skip
    return found


def _request(task: ServingTask) -> dict[str, Any]:
    return {
        "model": model_reference(task.model),
        "cluster": task.cluster.id,
        "accelerators": task.cluster.accelerators,
        "layout": task.layout.model_dump(mode="json"),
        "prompt_tokens": task.prompt_tokens,
        "output_tokens": task.output_tokens,
        "concurrency": None if task.concurrency is None else int(task.concurrency),
        "arrival_rate_per_s": task.arrival_rate_per_s,
        "weights": task.precisions.weights,
        "activations": task.precisions.activations,
        "kv_cache": task.precisions.kv_cache,
        "batching": task.batching,
        "software": task.software.id,
        "arrivals": task.arrivals,
    }


def _sources(task: ServingTask) -> tuple[str, ...]:
    """Title and address of every description that this estimate used."""
    used = [*cited(task.cluster.accelerator, task.cluster, task.software), task.model.source]
    return tuple(dict.fromkeys(f"{one.title}: {one.url}" for one in used if one is not None))
