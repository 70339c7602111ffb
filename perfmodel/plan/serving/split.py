"""Deployments whose prefill and decode run on engines of their own: the cheapest pools that keep the limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.formulas.disaggregation import md1_ttft
from perfmodel.plan.serving.points import Curves
from perfmodel.plan.serving.space import Candidate
from perfmodel.predict.serving.demand import demand_of
from perfmodel.predict.serving.disaggregated import DisaggregatedEstimate, estimate_disaggregated, tail_s
from perfmodel.specs.workload import Slo

__all__ = ["Pools", "Split", "cheapest_split"]

LEAST_PAIRS, MOST_PAIRS = 4, 32
"""Pairs of engines that are priced as deployments: at least for comparison, at most for time."""
TRIES = 24
_SHORTER = 0.95
"""Curves are straight between their points: a prompt may take a little less than they say."""


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


@dataclass(frozen=True)
class Pools:
    """The best pools of the pairs that were `priced`, and the price that no other pair is below [USD/h]."""

    best: Split | None
    priced: int
    others_usd_per_hour: float


def cheapest_split(
    curves: Curves,
    rate_per_s: float,
    slo: Slo,
    most: int | None,
    value: Callable[[Split], float],
    carbon: Mapping[str, Any] | None = None,
    *,
    spare: int = 0,
    beaten_usd_per_hour: float = math.inf,
) -> Pools:
    """The pools of least finite `value`; `carbon` are an estimate's keywords of emissions.

    Pairs are priced from the cheapest up, by the engines that each role needs for its work alone, with `spare` of each,
    until no further pair can cost less than the best found or than `beaten_usd_per_hour`. Arrivals are taken as
    Poisson, prompts of a pool as of mean length in its queue.
    """
    count = len(curves.candidates)
    decode_rates, batches = _decode_rates(curves, slo)
    entries = {i: _entries(curves, i, rate_per_s, slo) for i in range(count)}
    answers = {i: math.ceil(rate_per_s / rate) if rate else 0 for i, rate in decode_rates.items()}
    busy = {i: rate_per_s / rate for i, rate in decode_rates.items() if rate}
    prefill = _prices(curves, entries, {i: rate_per_s / _prompt_rate(curves, i) for i in entries}, spare)
    decode = _prices(curves, answers, busy, spare)
    pairs = sorted((a[0] + b[0], a[1] + b[1], a[2], b[2]) for a in prefill for b in decode)
    found: list[tuple[tuple[float, ...], int, Split]] = []
    least_usd, left = beaten_usd_per_hour, math.inf
    for priced, (floor_usd, _, i, j) in enumerate(pairs):
        if priced >= MOST_PAIRS or (priced >= LEAST_PAIRS and floor_usd >= least_usd):
            left = floor_usd
            break
        split = _paired(curves, (i, entries[i]), (j, answers[j]), batches[j], rate_per_s, slo, carbon or {})
        if split is None or split.accelerators > (most or split.accelerators) or math.isinf(value(split)):
            continue
        usd = split.usd_per_hour + spare * (split.prefill.usd_per_hour + split.decode.usd_per_hour)
        least_usd = min(least_usd, usd)
        found.append(((value(split), usd, split.accelerators, split.ttft_s), priced, split))
    return Pools(min(found)[-1] if found else None, len(pairs) if math.isinf(left) else priced, left)


def _prices(
    curves: Curves, least: dict[int, int], busy: dict[int, float], spare: int
) -> list[tuple[float, float, int]]:
    """Of every engine that can do a role's work: price of whole engines, of the share they are busy, its position."""
    able = [i for i, count in least.items() if count > 0 and curves.candidates[i].layout.pp == 1]
    price = {i: curves.candidates[i].usd_per_hour for i in able}
    return [(price[i] * (least[i] + spare), price[i] * busy[i], i) for i in able]


def _entries(curves: Curves, i: int, rate_per_s: float, slo: Slo) -> int:
    """The fewest prefill engines whose queue and prompt alone keep the limit of the first token; 0 where none do."""
    slot_s, own_s = (
        _SHORTER / _prompt_rate(curves, i),
        _longer(curves, slo.percentile) * float(curves.phases[i].added_s[0]),
    )
    count = max(1, math.ceil(rate_per_s * slot_s))
    if slo.ttft_s is None:
        return count
    while own_s <= slo.ttft_s:
        load = rate_per_s / count * slot_s
        if load < 1.0 and own_s + tail_s(md1_ttft(load / slot_s, 0.0, slot_s), load, slo.percentile) <= slo.ttft_s:
            return count
        count += 1
    return 0


def _longer(curves: Curves, share: float) -> float:
    """A prompt of that percentile over the mean."""
    return float(curves.workload.prompts.quantile(share) / curves.workload.prompts.mean)


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
    curves: Curves, entry: tuple[int, int], answer: tuple[int, int], batch: int, rate_per_s: float, slo: Slo,
    carbon: Mapping[str, Any],
) -> Split | None:  # fmt: skip
    """The fewest engines of a pair that keep the limits, from the fewest of each role alone."""
    (i, x), (j, y) = entry, answer
    prefill, decode = curves.candidates[i], curves.candidates[j]
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
            if _tail(curves, i, found, slo.percentile, queue=False) > slo.ttft_s:
                return None  # more engines shorten only the queue
            x += 1
        elif slo.tpot_s is not None and found.tpot_s > slo.tpot_s:
            y += 1
        else:
            return Split(prefill, decode, x, y, batch, found, ttft_s)
    return None


def _tail(curves: Curves, i: int, found: DisaggregatedEstimate, share: float, *, queue: bool = True) -> float:
    own_s = found.ttft_s - found.queue_s - found.prefill_s + _longer(curves, share) * found.prefill_s
    if not queue or not found.queue_s:
        return float(own_s)
    return float(own_s + tail_s(found.queue_s, min(1.0, found.prefill.utilisation), share))


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
