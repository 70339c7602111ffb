"""Deployments whose prefill and decode run on engines of their own: the cheapest pools that keep the limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.plan.serving.points import Curves
from perfmodel.plan.serving.space import Candidate
from perfmodel.predict.serving.demand import demand_of
from perfmodel.predict.serving.disaggregated import DisaggregatedEstimate, estimate_disaggregated, tail_s
from perfmodel.specs.workload import Slo

__all__ = ["Split", "cheapest_split"]

PAIRS = 2
"""Engines of each role, cheapest for its work first, whose pairs are priced as deployments."""
TRIES = 24


@dataclass(frozen=True)
class Split:
    """Pools of `x` prefill and `y` decode engines; `batch` answers at most run in one of the latter."""

    prefill: Candidate
    decode: Candidate
    x: int
    y: int
    batch: int
    estimate: DisaggregatedEstimate
    ttft_s: float
    """At the percentile of the limits: the wait, the prompt of that length, and what is seen of the transfer."""

    @property
    def usd_per_hour(self) -> float:
        """Price of both pools."""
        return self.x * self.prefill.usd_per_hour + self.y * self.decode.usd_per_hour

    @property
    def accelerators(self) -> int:
        """Accelerators of both pools."""
        return self.x * self.prefill.accelerators + self.y * self.decode.accelerators


def cheapest_split(
    curves: Curves,
    rate_per_s: float,
    slo: Slo,
    most: int | None,
    value: Callable[[Split], float],
    carbon: Mapping[str, Any] | None = None,
) -> Split | None:
    """The pools of least finite `value`, or None; `carbon` are an estimate's keywords of emissions.

    Arrivals are taken as Poisson, prompts of a pool as of mean length in its queue.
    """
    prefill = _by_price(curves, {i: _prompt_rate(curves, i) for i in range(len(curves.candidates))})
    decode_rates, batches = _decode_rates(curves, slo)
    decode = _by_price(curves, decode_rates)
    found = [
        split
        for i in prefill[:PAIRS]
        for j in decode[:PAIRS]
        for split in [_paired(curves, i, j, batches[j], decode_rates[j], rate_per_s, slo, carbon or {})]
        if split is not None and split.accelerators <= (most or split.accelerators)
    ]
    values = [(value(one), one.usd_per_hour, one.accelerators, one.ttft_s) for one in found]
    best = min(range(len(found)), key=values.__getitem__, default=None)
    return None if best is None or math.isinf(values[best][0]) else found[best]


def _by_price(curves: Curves, rates: dict[int, float]) -> list[int]:
    able = [i for i, rate in rates.items() if rate > 0 and curves.candidates[i].layout.pp == 1]
    return sorted(able, key=lambda i: curves.candidates[i].usd_per_hour / rates[i])


def _prompt_rate(curves: Curves, i: int) -> float:
    """Prompts a second that an engine takes in with nothing else to do."""
    one = curves.candidates[i]
    added_s = float(curves.phases[i].added_s[0] + curves.phases[i].decode_s[0])
    return one.groups / added_s


def _decode_rates(curves: Curves, slo: Slo) -> tuple[dict[int, float], dict[int, int]]:
    """Requests a second that an engine decodes within the limit, and the answers that then run in a group."""
    rates, batches = {}, {}
    demand = demand_of(curves.workload)
    for i, one in enumerate(curves.candidates):
        within = curves.phases[i].decode_s <= (slo.tpot_s or math.inf)
        batch = float(curves.batches[i][within].max()) if within.any() else 0.0
        batches[i] = int(batch)
        step_s = float(np.interp(batch, curves.batches[i], curves.phases[i].decode_s))
        rates[i] = one.groups * batch / (demand.decode_steps * step_s) if batch >= 1 else 0.0
    return rates, batches


def _paired(
    curves: Curves, i: int, j: int, batch: int, decode_rate: float, rate_per_s: float, slo: Slo,
    carbon: Mapping[str, Any],
) -> Split | None:  # fmt: skip
    """The fewest engines of a pair that keep the limits."""
    prefill, decode = curves.candidates[i], curves.candidates[j]
    x = max(1, math.ceil(rate_per_s / _prompt_rate(curves, i)))
    y = max(1, math.ceil(rate_per_s / decode_rate))
    for _ in range(TRIES):
        found = estimate_disaggregated(
            prefill.engine.model,
            _role(prefill, x, None),
            _role(decode, y, batch * decode.groups),
            prompt_tokens=curves.workload.prompts.mean,
            output_tokens=curves.workload.outputs.mean,
            arrival_rate_per_s=rate_per_s,
            prefix_hit=curves.workload.prefix_hit,
            **carbon,
        )
        ttft_s = _tail(curves, i, found, slo.percentile)
        if found.saturated:
            x, y = (x + 1, y) if found.bottleneck == "prefill" else (x, y + 1)
        elif slo.ttft_s is not None and ttft_s > slo.ttft_s:
            x += 1
        elif slo.tpot_s is not None and found.tpot_s > slo.tpot_s:
            y += 1
        else:
            return Split(prefill, decode, x, y, batch, found, ttft_s)
    return None


def _tail(curves: Curves, i: int, found: DisaggregatedEstimate, share: float) -> float:
    prompts = curves.workload.prompts
    longer = prompts.quantile(share) / prompts.mean
    queued_s = tail_s(found.queue_s, min(1.0, found.prefill.utilisation), share) if found.queue_s else 0.0
    own_s = found.ttft_s - found.queue_s - found.prefill_s
    return float(own_s + queued_s + longer * found.prefill_s)


def _role(one: Candidate, count: int, batch: int | None) -> dict[str, Any]:
    needed = count * one.accelerators
    role: dict[str, Any] = {
        "cluster": one.cluster.model_copy(update={"accelerators": max(needed, one.cluster.accelerators)}),
        "layout": one.layout.model_dump(mode="json"),
        "count": count,
        "weights": one.precisions.weights,
        "kv_cache": one.precisions.kv_cache,
        "software": one.engine.software,
    }
    if one.engine.routing is not None:
        role |= one.engine.routing.request
    return role if batch is None else role | {"batch": max(1, batch)}
