"""`estimate_disaggregated`: prefill and decode on pools of their own, the cache sent between, and their balance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.collectives import send_recv_time
from perfmodel.formulas.cost import cost_usd_per_mtok
from perfmodel.formulas.disaggregation import (
    disaggregated_requests_per_s,
    kv_transfer_bytes,
    layerwise_exposed_transfer_time,
    matched_prefill_share,
    md1_ttft,
    transfer_link_byte_per_s,
)
from perfmodel.predict.cost import Node, Number
from perfmodel.predict.emissions import Emissions, emissions_of
from perfmodel.predict.records import Record, Term, term_of
from perfmodel.predict.serving.draw import busy_share, facility_w
from perfmodel.predict.serving.roles import Pool, make_pool
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.quantity import cited
from perfmodel.specs.region import Region
from perfmodel.specs.registry import data_version

__all__ = [
    "TRANSFERS",
    "DisaggregatedEstimate",
    "Pools",
    "RoleEstimate",
    "disaggregated_pools",
    "estimate_disaggregated",
    "tail_s",
]

TRANSFERS = ("layerwise", "serialised")
"""A layer's cache is sent while the next is computed (Splitwise), or all of it afterwards."""
_FULL = 0.98
_POINTS = 65


class RoleEstimate(Record):
    """One pool: `iteration_s` of a replica, `requests_per_s` that the pool can do, and `utilisation` of that."""

    replicas: int
    accelerators: int
    batch: float
    iteration_s: float
    requests_per_s: float
    tokens_per_s_per_accelerator: float
    utilisation: float
    weights_bytes: float
    capacity_bytes: float
    fits: bool
    provisioned_w: float
    accelerator_w: float
    """Mean draw of one accelerator."""
    usd_per_hour: float
    terms: tuple[Term, ...]


class DisaggregatedEstimate(Record):
    """Latencies, rates and budgets of xPyD. `ttft_s` includes the exposed transfer; arrivals are Poisson.

    `matched_prefill_share` is the share of accelerators that would prefill if both pools were as large as needed.
    """

    document: str = "perfmodel/disaggregated-estimate/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    ttft_s: float
    ttft_p90_s: float
    prefill_s: float
    queue_s: float
    kv_bytes_per_request: float
    transfer_link_byte_per_s: float
    transfer_s: float
    transfer_exposed_s: float
    tpot_s: float
    request_latency_s: float
    requests_per_s: float
    max_requests_per_s: float
    output_tokens_per_s: float
    output_tokens_per_s_per_accelerator: float
    total_tokens_per_s_per_accelerator: float
    accelerators_used: int
    bottleneck: str
    saturated: bool
    fits: bool
    matched_prefill_share: float
    provisioned_w: float
    facility_w: float
    """Mean draw of both pools, servers and facility included."""
    energy_j_per_token: float
    carbon_kg_per_mtok: float
    usd_per_hour: float
    cost_usd_per_mtok: float
    prefill: RoleEstimate
    decode: RoleEstimate
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pools:
    """A checked question."""

    model: Architecture
    prefill: Pool
    decode: Pool
    prompt_tokens: float
    output_tokens: float
    arrival_rate_per_s: float | None
    prefix_hit: float
    transfer: str
    link_byte_per_s: float | None
    emissions: Emissions = field(default_factory=emissions_of)

    # Prefill

    def prompt_time(self) -> Node:
        """One prompt alone on a replica, or on each of its groups."""
        return self.prefill.prefill(self.prefill.attention_groups, self.prompt_tokens, self.prefix_hit)

    def full_prefill(self) -> tuple[float, Node]:
        """Prompts of a full iteration, and the iteration."""
        prompts = self.prefill.prompts_at_once(self.prompt_tokens, self.prefix_hit)
        return prompts, self.prefill.prefill(prompts, self.prompt_tokens, self.prefix_hit)

    # Transfer

    def kv_bytes(self) -> float:
        """Cache of a prompt, in the precision in which decoding keeps it."""
        per_token = self.model.kv_cache_bytes_per_token(self.decode.precisions.kv_cache)
        return float(kv_transfer_bytes(self.prompt_tokens, per_token))

    def link(self) -> tuple[float, float]:
        """(rate [B/s], latency [s]) between a prefill and a decode replica: outermost tiers, rank beside rank."""
        ends, latency_s = [], 0.0
        for pool in (self.prefill, self.decode):
            tier = pool.cluster.tiers[-1]
            ends += [float(pool.layout.tp * pool.layout.pp), self.link_byte_per_s or float(tier.link_byte_per_s)]
            latency_s = max(latency_s, float(tier.latency_s))
        return float(transfer_link_byte_per_s(*ends)), latency_s

    def transfer_times(self, prefill_s: float) -> tuple[float, float]:
        """(whole, exposed) seconds of a request's transfer."""
        byte_per_s, latency_s = self.link()
        whole = float(send_recv_time(self.kv_bytes(), latency_s, byte_per_s))
        if self.transfer == "serialised":
            return whole, whole
        return whole, float(layerwise_exposed_transfer_time(prefill_s, whole, float(self.model.n_layers)))

    # Decode

    def step_s(self, sequences: Number) -> Number:
        """Time per token of a replica with so many sequences, a float or an array."""
        return self.decode.decode(sequences, self.prompt_tokens, self.output_tokens).cost.seconds

    def answer_s(self, sequences: Number) -> Number:
        """From the first token to the last."""
        return max(1.0, self.output_tokens - 1.0) * self.step_s(sequences)

    def batch_at(self, rate_per_s: float, places: float) -> float:
        """Sequences of a decode replica at which as many leave as come (Little); `places` where more come."""
        batches = np.geomspace(1.0, max(places, 1.0), _POINTS)
        plain = self.decode.speculation is None and not self.decode.dual_batch
        answers_s = self.answer_s(batches) if plain else [float(self.answer_s(float(one))) for one in batches]
        missing = rate_per_s * np.asarray(answers_s) - batches
        if missing[0] <= 0.0:
            return 1.0
        if missing[-1] > 0.0:
            return places
        at = int(np.argmax(missing <= 0.0))
        share = missing[at - 1] / (missing[at - 1] - missing[at])
        return float(batches[at - 1] + share * (batches[at] - batches[at - 1]))


def estimate_disaggregated(
    model: Any,
    prefill: Mapping[str, Any],
    decode: Mapping[str, Any],
    workload: Any = None,
    *,
    prompt_tokens: float | None = None,
    output_tokens: float | None = None,
    arrival_rate_per_s: float | None = None,
    prefix_hit: float | None = None,
    transfer: str = "layerwise",
    link_byte_per_s: float | None = None,
    region: Region | str | Path | Mapping[str, Any] | None = None,
    carbon_kg_per_kwh: float | None = None,
    embodied_kg: float | None = None,
    life_years: float | None = None,
    carbon_by_hour: Sequence[float] | str | Path | None = None,
) -> DisaggregatedEstimate:
    """Latency, rate and budgets of a deployment whose prefill and decode run on replicas of their own.

    A role is a mapping with `cluster` and `layout` (one replica: `dp` is `attention_dp`), and where they differ from
    the defaults `accelerators`, `count` (replicas), `weights`, `activations`, `kv_cache`, `software`, `batch` (most
    sequences that a decode replica runs), `batch_tokens` (that a group prefills at a time), `dual_batch` (messages
    of one half behind the kernels of the other), `acceptance` and `draft_tokens` (multi-token prediction). `workload`
    has `prompt_tokens`, `output_tokens`, `arrival_rate_per_s` and `prefix_hit` [1] (attributes or keys; keywords win).
    Without an arrival rate the deployment runs as fast as its scarcer pool. `transfer` sends a layer's cache behind the
    next layer ("layerwise") or all of it afterwards; `link_byte_per_s` [B/s] of a rank overrides the outermost tiers.
    Carbon is that of a `region`, of `carbon_kg_per_kwh` or of `carbon_by_hour`, as in `estimate_serving`.
    Raises `SpecError` and `PlanError`; roles that do not fit are returned with `fits=False`.
    """
    pools = disaggregated_pools(
        model, prefill, decode, workload, prompt_tokens=prompt_tokens, output_tokens=output_tokens,
        arrival_rate_per_s=arrival_rate_per_s, prefix_hit=prefix_hit, transfer=transfer,
        link_byte_per_s=link_byte_per_s,
    )  # fmt: skip
    emissions = emissions_of(region, carbon_kg_per_kwh, embodied_kg, life_years, carbon_by_hour)
    return _estimate(replace(pools, emissions=emissions))


def disaggregated_pools(
    model: Any, prefill: Mapping[str, Any], decode: Mapping[str, Any], workload: Any = None, *, transfer: str,
    link_byte_per_s: float | None, **asked: Any,
) -> Pools:  # fmt: skip
    """Everything loaded and checked; raises `SpecError` and `PlanError` before any work."""
    if transfer not in TRANSFERS:
        raise PlanError(f"transfer: {unknown_name('transfer', transfer, TRANSFERS)}")
    architecture = load_model(model)
    if not architecture.causal or architecture.head != "lm":
        raise PlanError(f"model: {architecture.id} generates no tokens (an encoder)")
    given = {name: _asked(workload, name) if value is None else value for name, value in asked.items()}
    hit = given["prefix_hit"] if given["prefix_hit"] is not None else 0.0
    rate = given["arrival_rate_per_s"]
    return Pools(
        architecture, make_pool("prefill", architecture, prefill), make_pool("decode", architecture, decode),
        _number("prompt_tokens", given["prompt_tokens"], 1.0), _number("output_tokens", given["output_tokens"], 1.0),
        None if rate is None else _number("arrival_rate_per_s", rate, 1e-9),
        _number("prefix_hit", hit, 0.0, 1.0), transfer,
        None if link_byte_per_s is None else _number("link_byte_per_s", link_byte_per_s, 1.0),
    )  # fmt: skip


def _asked(workload: Any, name: str) -> Any:
    value = workload.get(name) if isinstance(workload, Mapping) else getattr(workload, name, None)
    return value["mean"] if isinstance(value, Mapping) and "mean" in value else value


def _number(name: str, value: Any, least: float, most: float = math.inf) -> float:
    if value is None:
        raise PlanError(f"{name}: is missing; give it, or a workload that has it")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name}: must be a number (got {value!r})")
    if not least <= value <= most:
        upper = f" and <= {most:g}" if most < math.inf else ""
        raise OutOfRangeError(f"{name}: must be >= {least:g}{upper} (got {value!r})")
    return float(value)


def _estimate(pools: Pools) -> DisaggregatedEstimate:
    alone, (prompts, full) = pools.prompt_time(), pools.full_prefill()
    prefill_s, full_s = float(alone.cost.seconds), float(full.cost.seconds)
    places = pools.decode.places(pools.prompt_tokens, pools.output_tokens)
    most = max(1.0, places)
    x, y = float(pools.prefill.count), float(pools.decode.count)
    prefill_rate = x * prompts / full_s
    longest_s = float(pools.answer_s(most))
    decode_rate = y * most / longest_s
    limit = float(disaggregated_requests_per_s(x, full_s / prompts, y, most, longest_s))
    asked = pools.arrival_rate_per_s
    rate = limit if asked is None else min(asked, limit)
    batch = pools.batch_at(rate / y, most)
    step = pools.decode.decode(batch, pools.prompt_tokens, pools.output_tokens)
    tpot_s = float(step.cost.seconds) if pools.output_tokens > 1 else 0.0
    slot_s = full_s / prompts
    load = min(_FULL, rate / x * slot_s)
    queue_s = float(md1_ttft(load / slot_s, 0.0, slot_s))
    whole_s, exposed_s = pools.transfer_times(prefill_s)
    request_s = float(pools.prefill.software.request_s)
    ttft_s = request_s + queue_s + prefill_s + exposed_s
    used = pools.prefill.accelerators + pools.decode.accelerators
    tokens_per_s = rate * pools.output_tokens
    usd_per_hour = pools.prefill.usd_per_hour + pools.decode.usd_per_hour
    roles = {
        "prefill": _role(pools.prefill, prompts, full, prefill_rate, rate, pools.prompt_tokens, rate / prefill_rate),
        "decode": _role(
            pools.decode, batch, step, decode_rate, rate, pools.output_tokens,
            busy_share(rate / y, pools.answer_s(batch)), places >= 1.0,
        ),
    }  # fmt: skip
    sides = (pools.prefill, roles["prefill"]), (pools.decode, roles["decode"])
    watts = sum(facility_w(pool.cluster, pool.accelerators, role.accelerator_w) for pool, role in sides)
    work = [one.accelerators / one.requests_per_s for one in roles.values()]
    return DisaggregatedEstimate(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=_request(pools),
        ttft_s=ttft_s,
        ttft_p90_s=ttft_s - queue_s + tail_s(queue_s, load, 0.9),
        prefill_s=prefill_s,
        queue_s=queue_s,
        kv_bytes_per_request=pools.kv_bytes(),
        transfer_link_byte_per_s=pools.link()[0],
        transfer_s=whole_s,
        transfer_exposed_s=exposed_s,
        tpot_s=tpot_s,
        request_latency_s=ttft_s + max(0.0, pools.output_tokens - 1.0) * tpot_s,
        requests_per_s=rate,
        max_requests_per_s=limit,
        output_tokens_per_s=tokens_per_s,
        output_tokens_per_s_per_accelerator=tokens_per_s / used,
        total_tokens_per_s_per_accelerator=rate * (pools.prompt_tokens + pools.output_tokens) / used,
        accelerators_used=used,
        bottleneck="prefill" if prefill_rate < decode_rate else "decode",
        saturated=asked is not None and asked > limit,
        fits=all(one.fits for one in roles.values()),
        matched_prefill_share=float(matched_prefill_share(*work)),
        provisioned_w=pools.prefill.provisioned_w + pools.decode.provisioned_w,
        facility_w=watts,
        energy_j_per_token=watts / tokens_per_s,
        carbon_kg_per_mtok=float(pools.emissions.kg(watts, float(used), 1.0)) / tokens_per_s * 1e6,
        usd_per_hour=usd_per_hour,
        cost_usd_per_mtok=float(cost_usd_per_mtok(1.0, usd_per_hour, tokens_per_s)),
        **roles,
        notes=tuple(dict.fromkeys(note for pool, _ in sides for note in (*pool.notes, *pool.engine.power.notes))),
        sources=_sources(pools),
    )


def tail_s(mean_s: float, load: float, share: float) -> float:
    """Wait below which `share` of the requests lie: none with the share of idle time, else exponential."""
    if load <= 1.0 - share:
        return 0.0
    return mean_s / load * math.log(load / (1.0 - share))


def _role(
    pool: Pool, batch: float, full: Node, pool_rate: float, rate: float, tokens: float, busy: float,
    places: bool = True,
) -> RoleEstimate:  # fmt: skip
    power = pool.engine.power
    weights, capacity = pool.memory.weights, pool.memory.capacity_bytes
    return RoleEstimate(
        replicas=pool.count,
        accelerators=pool.accelerators,
        batch=batch,
        iteration_s=float(full.cost.seconds),
        requests_per_s=pool_rate,
        tokens_per_s_per_accelerator=pool_rate * tokens / pool.accelerators,
        utilisation=rate / pool_rate,
        weights_bytes=weights,
        capacity_bytes=capacity,
        fits=places and weights + float(pool.software.workspace_bytes) <= capacity,
        provisioned_w=pool.provisioned_w,
        accelerator_w=busy * power.mean_w(full) + (1.0 - busy) * power.idle_w,
        usd_per_hour=pool.usd_per_hour,
        terms=(term_of(Node(full.name, full.cost, None, full.children)),),
    )


def _request(pools: Pools) -> dict[str, Any]:
    return {
        "model": model_reference(pools.model),
        "prefill": pools.prefill.request(),
        "decode": pools.decode.request(),
        "prompt_tokens": pools.prompt_tokens,
        "output_tokens": pools.output_tokens,
        "arrival_rate_per_s": pools.arrival_rate_per_s,
        "prefix_hit": pools.prefix_hit,
        "transfer": pools.transfer,
        "link_byte_per_s": pools.link_byte_per_s,
    } | pools.emissions.request()


def _sources(pools: Pools) -> tuple[str, ...]:
    found = [
        one for pool in (pools.prefill, pools.decode)
        for one in cited(pool.cluster.accelerator, pool.cluster, pool.software, pool.engine.power.fitted)
    ]  # fmt: skip
    used = [*found, *cited(pools.emissions.region), pools.model.source]
    return tuple(dict.fromkeys(f"{one.title}: {one.url}" for one in used if one is not None))
