"""`estimate_serving`: from a model, a cluster, a layout and a load to the record of a deployment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel._version import __version__
from perfmodel.dual import plain
from perfmodel.errors import PlanError
from perfmodel.formulas.cost import cost_usd_per_mtok
from perfmodel.formulas.serving import concurrency_of_rate, mean_decode_length
from perfmodel.predict.cost import Node, Number
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.records import UnevenExperts, Warned, term_of, uneven_experts
from perfmodel.predict.serving.demand import demand_of
from perfmodel.predict.serving.draw import ServingDraw, draw_of
from perfmodel.predict.serving.intervals import serving_interval, serving_widenings
from perfmodel.predict.serving.operating import Point, closed_loop, open_arrivals, static_batch
from perfmodel.predict.serving.percentiles import attained_share, tpot_percentile, ttft_percentile
from perfmodel.predict.serving.records import ServingEstimate, ServingMemoryBytes
from perfmodel.predict.serving.task import ARRIVALS, ServingTask, serving_task
from perfmodel.specs.cluster import cluster_reference
from perfmodel.specs.huggingface import model_reference
from perfmodel.specs.quantity import cited
from perfmodel.specs.region import Region
from perfmodel.specs.registry import data_version, reference
from perfmodel.specs.serving_software import ServingSoftware
from perfmodel.specs.workload import Slo, TokenCounts, Workload

__all__ = [
    "estimate_serving",
    "figures_of",
    "most_requests_per_s",
    "operating_point",
    "places_of",
    "serving_estimate_of",
    "task_of",
]

_OF_WORKLOAD = ("prompt_tokens", "output_tokens", "arrival_rate_per_s", "burstiness", "dispersion", "prefix_hit")


def estimate_serving(
    model: Any,
    cluster: Any,
    *,
    layout: ParallelLayout | Mapping[str, Any],
    workload: Workload | None = None,
    prompt_tokens: int | TokenCounts | Mapping[str, Any] | None = None,
    output_tokens: int | TokenCounts | Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    arrival_rate_per_s: float | None = None,
    load: str | None = None,
    burstiness: float | None = None,
    dispersion: Sequence[Sequence[float]] | None = None,
    prefix_hit: float | None = None,
    slo: Slo | Mapping[str, Any] | None = None,
    weights: str = "bf16",
    activations: str | None = None,
    kv_cache: str | None = None,
    batching: str = "continuous",
    software: ServingSoftware | str | Path | Mapping[str, Any] | None = None,
    arrivals: str = "closed-loop",
    region: Region | str | Path | Mapping[str, Any] | None = None,
    carbon_kg_per_kwh: float | None = None,
    embodied_kg: float | None = None,
    life_years: float | None = None,
    carbon_by_hour: Sequence[float] | str | Path | None = None,
    expert_imbalance: float | None = None,
    expert_loads: Any = None,
    expert_placement: Any = None,
) -> ServingEstimate:
    """Latency, rate, memory, energy and cost of a deployment of `layout.dp` equal replicas.

    The load is one of three: `concurrency` (requests in flight, or with `batching` "static" the size of the batch),
    `arrival_rate_per_s` [1/s] of the whole deployment, or `load` "maximum" (every place taken). A `workload`, such as
    `load_trace` gives, brings lengths, rate, burstiness and prefix hits; keys given beside it stand instead. Lengths
    are tokens, or a table of mean, p50, p90 and p99; `burstiness` [1] is the squared coefficient of variation of the
    time between arrivals, `dispersion` its measure over windows (see `Workload`), `prefix_hit` [1] the share of prompt
    tokens that are cached. With `slo` the record says which share of the requests keeps it. `arrivals` says how the
    load generator of a closed loop sends: "closed-loop" and "lockstep" start all slots at once and refill each ten
    times (in lockstep, prompts that came together stay so), "burst" sends every request once. Carbon is that of a
    `region` (default: the world's mean) or of `carbon_kg_per_kwh`; with `embodied_kg`, of making one accelerator, also
    its share of `life_years`; of `carbon_by_hour` (24 intensities or their CSV) a steady load has the mean. Experts are
    loaded evenly, or as one of `expert_imbalance`, `expert_loads` and `expert_placement` says (`predict.imbalance`).
    Raises `SpecError` and `PlanError`; a deployment that does not fit is returned with `fits=False`.
    """
    return serving_estimate_of(
        task_of(
            workload, model=model, cluster=cluster, layout=layout, prompt_tokens=prompt_tokens,
            output_tokens=output_tokens, concurrency=concurrency, arrival_rate_per_s=arrival_rate_per_s, load=load,
            burstiness=burstiness, dispersion=dispersion, prefix_hit=prefix_hit, slo=slo, weights=weights,
            activations=activations, kv_cache=kv_cache, batching=batching, software=software, arrivals=arrivals,
            region=region, carbon_kg_per_kwh=carbon_kg_per_kwh, embodied_kg=embodied_kg, life_years=life_years,
            carbon_by_hour=carbon_by_hour, expert_imbalance=expert_imbalance, expert_loads=expert_loads,
            expert_placement=expert_placement,
        )
    )  # fmt: skip


def task_of(workload: Workload | None = None, **keywords: Any) -> ServingTask:
    """The checked question that all keywords of `estimate_serving` put; raises `SpecError` and `PlanError`."""
    given = {name: keywords.pop(name) for name in _OF_WORKLOAD}
    return serving_task(**keywords, **_asked(workload, keywords["concurrency"], keywords["load"], **given))


def _asked(workload: Workload | None, concurrency: Any, load: Any, **given: Any) -> dict[str, Any]:
    """The keys of the workload, with those given beside it in their place."""
    if workload is not None and not isinstance(workload, Workload):
        raise PlanError(f"workload: must be a Workload, as load_trace gives (got {type(workload).__name__})")
    own = {key: value for key, value in given.items() if value is not None}
    if workload is None:
        for key in ("prompt_tokens", "output_tokens"):
            if key not in own:
                raise PlanError(f"{key}: missing; give it, or a workload or trace that has lengths")
        return {"arrival_rate_per_s": None} | own
    merged = workload.with_(**own)
    rate = own.get("arrival_rate_per_s")
    if rate is None and concurrency is None and load is None:
        rate = workload.arrival_rate_per_s
        if rate is None:
            raise PlanError(
                f"workload: {workload.name or 'it'} has no arrival times; give arrival_rate_per_s or concurrency"
            )
    return {name: getattr(merged, name) for name in _OF_WORKLOAD} | {"arrival_rate_per_s": rate}


def operating_point(task: ServingTask, solved: Point | None = None) -> tuple[Point, float]:
    """One replica at work, and the blocks of its cache; of numbers with slopes, `solved` is the point without."""
    replicas = float(task.layout.dp)
    sizes, hit = (float(task.prompt_tokens), float(task.output_tokens)), task.workload.prefix_hit
    blocks = float(task.memory.blocks(*_peak(task)))
    if task.batching == "static":
        return static_batch(task.engine, math.ceil((task.concurrency or 1.0) / replicas), *sizes, hit), blocks
    if task.arrival_rate_per_s is not None:
        demand = demand_of(task.workload, replicas, float(task.model.max_seq_len))
        limit = places_of(task, blocks, demand.kv_len)
        return open_arrivals(task.engine, task.arrival_rate_per_s / replicas, demand, limit, solved), blocks
    # Blocks are taken as an answer grows, and running answers are on average halfway.
    limit = places_of(task, blocks, float(mean_decode_length(*sizes)))
    each = limit if task.concurrency is None else max(1.0, task.concurrency / replicas)
    return closed_loop(task.engine, each, *sizes, limit, ARRIVALS[task.arrivals], hit), blocks


def places_of(task: ServingTask, blocks: float, length: float) -> float:
    """Answers that run at once: as many as the software takes, or as the cache holds."""
    return min(float(task.software.max_batch), max(1.0, float(task.memory.concurrency(blocks, length))))


def _peak(task: ServingTask) -> tuple[float, float]:
    """Tokens and sequences of the largest iteration that this load can lead to."""
    most = float(task.software.max_batch)
    sequences = most if task.concurrency is None else min(most, task.concurrency)
    computed = task.prompt_tokens * (1.0 - task.workload.prefix_hit)
    return min(float(task.software.max_batched_tokens), sequences * computed), sequences


def figures_of(task: ServingTask, point: Point, draw: ServingDraw) -> dict[str, Number]:
    """What a deployment is chosen by: times [s], output tokens a second, and what one costs [J], [USD]."""
    tokens_per_s, price = _requests_per_s(task, point) * task.output_tokens, task.cluster.accelerator_usd_per_hour
    return {
        "ttft_s": point.ttft_s,
        "tpot_s": point.tpot_s,
        "output_tokens_per_s": tokens_per_s,
        "energy_j_per_token": draw.facility_w / tokens_per_s,
        "cost_usd_per_mtok": plain(cost_usd_per_mtok(float(task.layout.accelerators), plain(price), tokens_per_s)),
    }


def most_requests_per_s(task: ServingTask, point: Point) -> Number | None:
    """What the deployment can take, where requests come by themselves [1/s]."""
    return None if point.traffic is None else point.requests_per_s / point.load * float(task.layout.dp)


def _requests_per_s(task: ServingTask, point: Point) -> Number:
    if task.arrival_rate_per_s is not None and not point.saturated:
        return task.arrival_rate_per_s
    return point.requests_per_s * float(task.layout.dp)


def serving_estimate_of(task: ServingTask) -> ServingEstimate:
    """The record of a checked question."""
    point, blocks = operating_point(task)
    replicas, length = float(task.layout.dp), float(task.prompt_tokens + task.output_tokens)
    warnings = tuple(Warned(**one) for one in _warnings(task, point))
    kinds = [one.formula for one in warnings]
    requests_per_s, draw = _requests_per_s(task, point), draw_of(task, point)
    figures = figures_of(task, point, draw)
    tokens_per_s = figures["output_tokens_per_s"]
    places = float(task.memory.concurrency(blocks, length))
    memory = _memory(task, blocks)
    used = task.layout.accelerators
    carbon = float(task.emissions.kg(draw.facility_w, float(used), 1.0))
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
        **figures,
        **latencies,
        **bounds,
        ttft_interval_s=serving_interval(point.ttft_s, "ttft", kinds),
        tpot_interval_s=serving_interval(point.tpot_s, "tpot", kinds),
        request_latency_s=point.latency_s,
        requests_per_s=requests_per_s,
        output_tokens_per_s_per_accelerator=tokens_per_s / used,
        batch=point.batch,
        in_flight=float(concurrency_of_rate(requests_per_s, point.latency_s)),
        max_requests_per_s=most_requests_per_s(task, point),
        waiting_s=point.waiting_s,
        prompt_load=None if point.traffic is None else float(point.traffic.load[0]),
        **_attained(task, point, requests_per_s),
        max_concurrency=int(places * replicas),
        kv_blocks=int(blocks),
        block_tokens=task.software.block_tokens,
        memory_bytes=memory,
        fits=_fits(task),
        accelerators_used=used,
        energy_j_per_token_total=draw.facility_w / (requests_per_s * length),
        accelerator_w=draw.accelerator_w,
        prefill_w=draw.prefill_w,
        decode_w=draw.decode_w,
        facility_w=draw.facility_w,
        carbon_kg_per_mtok=carbon / tokens_per_s * 1e6,
        saturated=point.saturated,
        experts=_uneven_experts(task, point),
        terms=tuple(
            term_of(Node(name, node.cost, None, node.children))
            for name, node in (("prefill", point.prefill), ("decode_step", point.decode))
        ),
        warnings=(*warnings, *_slo_bounds(task)),
        notes=(*task.notes, *task.engine.power.notes),
        sources=_sources(task),
    )


def _fits(task: ServingTask) -> bool:
    """Whether one request does, its prompt alone: an engine that has room for no more works on them in turn."""
    length = float(task.prompt_tokens + task.output_tokens)
    blocks = task.memory.blocks(min(float(task.software.max_batched_tokens), float(task.prompt_tokens)), 1.0)
    return float(task.memory.concurrency(blocks, length)) >= 1.0


def _attained(task: ServingTask, point: Point, requests_per_s: float) -> dict[str, Any]:
    """Share of the requests within the limits, the requests a second that are, and whether enough of them."""
    if task.slo is None:
        return {}
    share = attained_share(point, task.slo)
    return {
        "slo_attainment": share, "goodput_requests_per_s": share * requests_per_s,
        "slo_met": share >= task.slo.percentile,
    }  # fmt: skip


def _uneven_experts(task: ServingTask, point: Point) -> UnevenExperts | None:
    """What a decode step of this batch waits for the fullest rank of experts; None where routing is balanced."""
    routing = task.engine.routing
    if routing is None:
        return None
    length = float(mean_decode_length(float(task.prompt_tokens), float(task.output_tokens)))
    batch = max(point.batch, 1.0)
    uneven, even = (float(one.decode(batch, length).cost.seconds) for one in (task.engine, task.engine.balanced()))
    return uneven_experts(routing, task.layout.ep, uneven / even)


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


def _warnings(task: ServingTask, point: Point) -> list[dict[str, Any]]:
    found = list(serving_widenings(task))
    if point.saturated:
        asked = task.concurrency if task.concurrency is not None else task.arrival_rate_per_s
        found.append(
            {"formula": "saturation", "quantity": "concurrency" if task.concurrency else "arrival_rate_per_s",
             "value": float(asked or 0.0), "valid": f"at most {point.batch:g} requests run in a replica"}
        )  # fmt: skip
    return found


def _slo_bounds(task: ServingTask) -> list[Warned]:
    """A limit that no load could keep: below one prompt alone, or a decode step of one answer, at perfect overlap."""
    if task.slo is None:
        return []
    hit, length = task.workload.prefix_hit, mean_decode_length(task.prompt_tokens, task.output_tokens)
    prompt = task.engine.prefill(1.0, task.prompt_tokens * (1.0 - hit), task.prompt_tokens * hit)
    least = {
        "ttft_s": float(task.software.request_s) + float(prompt.cost.lower),
        "tpot_s": float(task.engine.decode(1.0, length).cost.lower),
    }
    return [
        Warned(formula="slo", quantity=name, value=limit, valid=f"at least {bound:.3g} s on this layout, with no load")
        for name, bound in least.items()
        if (limit := getattr(task.slo, name)) is not None and limit < bound
    ]


def _request(task: ServingTask) -> dict[str, Any]:
    return {
        "model": model_reference(task.model),
        "cluster": cluster_reference(task.cluster),
        "accelerators": task.cluster.accelerators,
        "layout": task.layout.model_dump(mode="json"),
        "prompt_tokens": _written(task.workload.prompt_tokens),
        "output_tokens": _written(task.workload.output_tokens),
        "concurrency": None if task.concurrency is None else int(task.concurrency),
        "arrival_rate_per_s": task.arrival_rate_per_s,
        "weights": task.precisions.weights,
        "activations": task.precisions.activations,
        "kv_cache": task.precisions.kv_cache,
        "batching": task.batching,
        "software": reference("software", task.software),
        "arrivals": task.arrivals,
        "load": "maximum" if task.at_maximum else None,
        "burstiness": task.workload.burstiness,
        "dispersion": [list(row) for row in task.workload.dispersion],
        "prefix_hit": task.workload.prefix_hit,
        "slo": None if task.slo is None else task.slo.model_dump(mode="json"),
        **dict.fromkeys(("expert_imbalance", "expert_loads", "expert_placement")),
        **(task.engine.routing.request if task.engine.routing else {}),
        **task.emissions.request(),
    }


def _written(tokens: int | TokenCounts) -> int | dict[str, Any]:
    return tokens.model_dump(mode="json") if isinstance(tokens, TokenCounts) else tokens


def _sources(task: ServingTask) -> tuple[str, ...]:
    """Title and address of every description that this estimate used."""
    described = task.cluster.accelerator, task.cluster, task.software, task.engine.power.fitted, task.emissions.region
    used = [*cited(*described), task.model.source]
    return tuple(dict.fromkeys(f"{one.title}: {one.url}" for one in used if one is not None))
