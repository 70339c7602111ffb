"""Disaggregated against aggregated at one budget: most requests per second within limits, per watt or dollar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.predict.records import Record
from perfmodel.predict.serving.disaggregated import Pools, disaggregated_pools, tail_s
from perfmodel.predict.serving.estimate import estimate_serving
from perfmodel.predict.serving.roles import Pool, make_pool
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.registry import data_version

__all__ = ["BUDGETS", "IsoComparison", "aggregated_goodput", "compare_at_budget", "matched_counts", "role_goodputs"]

BUDGETS = ("provisioned_w", "usd_per_hour", "accelerators")
"""What two deployments may have the same of."""
_ROUNDS = 10
_MOST_LOAD = 0.98
_LEAST = 1e-4
"""A rate [1/s] below which a replica is said to serve nothing within its limits."""
_PERCENTILES = {0.5: "p50", 0.9: "p90", 0.99: "p99"}


class IsoComparison(Record):
    """`ratio` is disaggregated over aggregated requests per second, both at `budget` and within the limits."""

    document: str = "perfmodel/iso-comparison/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    ratio: float
    requests_per_s: float
    aggregated_requests_per_s: float
    prefill_count: int
    decode_count: int
    aggregated_count: int
    prefill_goodput_per_s: float
    decode_goodput_per_s: float
    aggregated_goodput_per_s: float
    provisioned_w: float
    aggregated_provisioned_w: float
    usd_per_hour: float
    aggregated_usd_per_hour: float
    feasible: bool


def aggregated_goodput(
    model: Any,
    role: Mapping[str, Any],
    *,
    prompt_tokens: int,
    output_tokens: int,
    ttft_s: float,
    tpot_s: float,
    percentile: float = 0.9,
) -> float:
    """Most Poisson arrivals per second that one aggregated replica serves within both limits; 0 where none."""
    word = _percentile(percentile)
    pool = make_pool("aggregated", load_model(model), role)

    def keeps(rate: float) -> bool:
        one = estimate_serving(
            pool.model, pool.cluster, layout=pool.layout, prompt_tokens=prompt_tokens, output_tokens=output_tokens,
            arrival_rate_per_s=rate, weights=pool.precisions.weights, activations=pool.precisions.activations,
            kv_cache=pool.precisions.kv_cache, software=pool.software,
        )  # fmt: skip
        within = getattr(one, f"ttft_{word}_s") <= ttft_s and getattr(one, f"tpot_{word}_s") <= tpot_s
        return one.fits and not one.saturated and within

    return _largest(keeps)


def role_goodputs(pools: Pools, *, ttft_s: float, tpot_s: float, percentile: float = 0.9) -> tuple[float, float]:
    """Most requests per second of one prefill and of one decode replica within the limits.

    The prefill queue is that of `md1_ttft` with an exponential tail; nothing disturbs decoding, so its limit is one of
    the batch.
    """
    _percentile(percentile)
    prompts, full = pools.full_prefill()
    slot_s, alone_s = float(full.cost.seconds) / prompts, float(pools.prompt_time().cost.seconds)
    fixed_s = alone_s + pools.transfer_times(alone_s)[1] + float(pools.prefill.software.request_s)

    def in_time(load: float) -> bool:
        queue_s = slot_s * load / (2.0 * (1.0 - load))
        return fixed_s + tail_s(queue_s, load, percentile) <= ttft_s

    prefill = _largest(in_time, _MOST_LOAD) / slot_s if in_time(0.0) else 0.0
    places = pools.decode.places(pools.prompt_tokens, pools.output_tokens)
    batch = _largest(lambda one: pools.step_s(max(1.0, one)) <= tpot_s, places) if places >= 1.0 else 0.0
    return prefill, batch / pools.answer_s(batch) if batch >= 1.0 else 0.0


def matched_counts(
    budget: float, prefill_cost: float, prefill_rate: float, decode_cost: float, decode_rate: float
) -> tuple[int, int]:
    """Whole numbers of prefill and decode replicas within a budget that let the most requests through.

    >>> matched_counts(10, 1, 2.0, 1, 3.0)
    (6, 4)
    """
    best, found = 0.0, (0, 0)
    for x in range(1, int(budget / prefill_cost) + 1):
        y = math.floor((budget - x * prefill_cost) / decode_cost + 1e-9)
        rate = min(x * prefill_rate, y * decode_rate)
        if rate > best * (1.0 + 1e-12):
            best, found = rate, (x, y)
    return found


def compare_at_budget(
    model: Any,
    prefill: Mapping[str, Any],
    decode: Mapping[str, Any],
    aggregated: Mapping[str, Any],
    *,
    prompt_tokens: int,
    output_tokens: int,
    ttft_s: float,
    tpot_s: float,
    percentile: float = 0.9,
    budget_by: str = "provisioned_w",
    aggregated_count: int = 10,
    budget_share: float = 1.0,
    prices: Mapping[str, float] | None = None,
    transfer: str = "layerwise",
) -> IsoComparison:
    """What `aggregated_count` aggregated replicas serve within the limits, and what xPyD does with the same budget.

    `budget_by` is what both have the same of (watts of the machines, dollars an hour, accelerators); `budget_share` is
    the part of it that the disaggregated deployment gets, `prices` replaces what one accelerator of "prefill",
    "decode" and "aggregated" costs of it. Raises `SpecError` and `PlanError`.
    """
    if budget_by not in BUDGETS:
        raise PlanError(f"budget_by: {unknown_name('budget', budget_by, BUDGETS)}")
    pools = disaggregated_pools(
        model, prefill, decode, None, prompt_tokens=prompt_tokens, output_tokens=output_tokens, prefix_hit=0.0,
        arrival_rate_per_s=None, transfer=transfer, link_byte_per_s=None,
    )  # fmt: skip
    whole = make_pool("aggregated", pools.model, aggregated)
    limits = {"ttft_s": ttft_s, "tpot_s": tpot_s, "percentile": percentile}
    single = aggregated_goodput(model, aggregated, prompt_tokens=prompt_tokens, output_tokens=output_tokens, **limits)
    rates = role_goodputs(pools, **limits)
    parts = {"prefill": pools.prefill, "decode": pools.decode, "aggregated": whole}
    cost = {name: _cost(pool, budget_by, (prices or {}).get(name)) for name, pool in parts.items()}
    budget = aggregated_count * cost["aggregated"] * budget_share
    x, y = matched_counts(budget, cost["prefill"], rates[0], cost["decode"], rates[1])
    served, other = min(x * rates[0], y * rates[1]), aggregated_count * single
    return IsoComparison(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={
            "model": pools.model.id, "prefill": pools.prefill.cluster.id, "decode": pools.decode.cluster.id,
            "aggregated": whole.cluster.id, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens,
            **limits, "budget_by": budget_by, "budget_share": budget_share,
            "prices": dict(prices) if prices else None,
        },
        ratio=served / other if other else 0.0,
        requests_per_s=served,
        aggregated_requests_per_s=other,
        prefill_count=x,
        decode_count=y,
        aggregated_count=aggregated_count,
        prefill_goodput_per_s=rates[0],
        decode_goodput_per_s=rates[1],
        aggregated_goodput_per_s=single,
        provisioned_w=x * pools.prefill.provisioned_w + y * pools.decode.provisioned_w,
        aggregated_provisioned_w=aggregated_count * whole.provisioned_w,
        usd_per_hour=x * pools.prefill.usd_per_hour + y * pools.decode.usd_per_hour,
        aggregated_usd_per_hour=aggregated_count * whole.usd_per_hour,
        feasible=served > 0 and other > 0,
    )  # fmt: skip


def _cost(pool: Pool, budget_by: str, price: float | None) -> float:
    """What one replica costs of the budget."""
    used = float(pool.layout.accelerators)
    if price is not None:
        return price * used
    if budget_by == "accelerators":
        return used
    return float(getattr(pool, budget_by)) / pool.count


def _percentile(percentile: float) -> str:
    if percentile not in _PERCENTILES:
        raise OutOfRangeError(f"percentile: must be one of {', '.join(map(str, _PERCENTILES))} (got {percentile!r})")
    return _PERCENTILES[percentile]


def _largest(keeps: Callable[[float], bool], most: float | None = None) -> float:
    """Largest value that a falling condition allows; found by doubling or halving from one where nothing bounds it."""
    if most is not None:
        low, high = 0.0, most
        if keeps(most):
            return most
    elif keeps(1.0):
        low, high = 1.0, 2.0
        while keeps(high):
            low, high = high, 2.0 * high
    else:
        low, high = 0.5, 1.0
        while low > _LEAST and not keeps(low):
            low, high = 0.5 * low, low
        if low <= _LEAST:
            return 0.0
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
