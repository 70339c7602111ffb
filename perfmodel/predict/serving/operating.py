"""The operating point of one replica: what a batch, a concurrency or an arrival rate makes of its iterations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from perfmodel.dual import plain
from perfmodel.dual_array import as_floats
from perfmodel.formulas.serving import (
    closed_loop_refills,
    closed_loop_tpot,
    closed_loop_ttft,
    mean_decode_length,
    static_batch_latency,
)
from perfmodel.ops import sqrt
from perfmodel.predict.cost import Node
from perfmodel.predict.serving.demand import Demand, phases_of, sloped_batch, solve_batch
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.traffic import Traffic, traffic_at

__all__ = ["Arrivals", "Point", "closed_loop", "open_arrivals", "phases_at", "static_batch"]

_FIXED_POINT_ROUNDS = 8


@dataclass(frozen=True)
class Arrivals:
    """How a load generator in a closed loop sends: `requests_per_slot` in turn, the first of each slot at once.

    `joint` prompts arrive together and share an iteration, so their answers end together and they stay together.
    """

    requests_per_slot: float = 10.0
    joint: float = 1.0


@dataclass(frozen=True)
class Point:
    """One replica at work: seconds of a request, what it meets, and the iterations that it consists of."""

    ttft_s: float
    tpot_s: float
    latency_s: float
    requests_per_s: float
    batch: float
    waits: tuple[tuple[float, float, float], ...]
    """Pieces of the TTFT's law: (share of requests, least, most), uniform inside."""
    tpot_spread_s: float
    prefill: Node
    decode: Node
    waiting_s: float = 0.0
    load: float = 0.0
    saturated: bool = False
    traffic: Traffic | None = None
    """The same with its percentiles, for requests that come by themselves."""


def static_batch(
    engine: Engine, batch: float, prompt_tokens: float, output_tokens: float, prefix_hit: float = 0.0
) -> Point:
    """One batch from its prefill to its last token; the next one starts when it is done."""
    prefill = engine.prefill(batch, prompt_tokens * (1.0 - prefix_hit), prompt_tokens * prefix_hit)
    decode = engine.decode(batch, mean_decode_length(prompt_tokens, output_tokens))
    first_s, decode_s = plain(engine.software.request_s) + plain(prefill.cost.seconds), plain(decode.cost.seconds)
    latency_s = plain(static_batch_latency(first_s, decode_s, output_tokens))
    tpot_s = decode_s if output_tokens > 1 else 0.0
    return Point(
        first_s, tpot_s, latency_s, batch / latency_s, batch, ((1.0, first_s, first_s),), 0.0, prefill, decode,
        load=1.0,
    )  # fmt: skip


def closed_loop(
    engine: Engine, concurrency: float, prompt_tokens: float, output_tokens: float, limit: float, arrivals: Arrivals,
    prefix_hit: float = 0.0,
) -> Point:  # fmt: skip
    """`concurrency` requests always in flight, of which at most `limit` run; the others wait for a place.

    A request that waits for its first token decodes nothing, so batch and waiting time are a fixed point.
    """
    places = max(1.0, min(concurrency, limit))
    decoding_share, point = 1.0, None
    for _ in range(_FIXED_POINT_ROUNDS):
        point = _closed_point(engine, places, decoding_share, prompt_tokens, output_tokens, arrivals, prefix_hit)
        decoding_share = 0.5 * (decoding_share + 1.0 - min(1.0, point.ttft_s / point.latency_s))
    assert point is not None
    waiting_s = (concurrency / places - 1.0) * point.latency_s
    return replace(
        point,
        ttft_s=point.ttft_s + waiting_s,
        latency_s=point.latency_s + waiting_s,
        requests_per_s=places / point.latency_s,
        waits=tuple((share, low + waiting_s, high + waiting_s) for share, low, high in point.waits),
        waiting_s=waiting_s,
        saturated=concurrency > places,
    )


def _closed_point(
    engine: Engine, places: float, decoding_share: float, prompt_tokens: float, output_tokens: float,
    arrivals: Arrivals, prefix_hit: float,
) -> Point:  # fmt: skip
    batch, rounds = 1.0 + (places - 1.0) * decoding_share, arrivals.requests_per_slot
    decode, prompt = _phases(engine, batch, prompt_tokens, output_tokens, prefix_hit)
    decode_s, whole_s = plain(decode.cost.seconds), plain(prompt.cost.seconds)
    added_s = _added_s(engine, whole_s, decode_s, prompt_tokens * (1.0 - prefix_hit))
    refills = closed_loop_refills(places, decoding_share, rounds)
    tpot_s = plain(closed_loop_tpot(decode_s, added_s, refills, output_tokens))
    together = min(places, arrivals.joint)
    first_s = _joint_s(engine, prompt, together, batch, prompt_tokens, output_tokens, prefix_hit)
    request_s = plain(engine.software.request_s)
    # A group of prompts is prefilled at once, so the queue of the first burst is one of groups.
    groups = max(1.0, places / together)
    ttft_s = plain(closed_loop_ttft(first_s, decode_s, groups, rounds, request_s))
    burst = (1.0 / rounds, request_s + first_s, request_s + groups * first_s + decode_s)
    later = (1.0 - 1.0 / rounds, request_s + first_s, request_s + first_s + decode_s)
    latency_s = ttft_s + max(0.0, output_tokens - 1.0) * tpot_s
    return Point(
        ttft_s, tpot_s if output_tokens > 1 else 0.0, latency_s, places / latency_s, batch,
        tuple(piece for piece in (burst, later) if piece[0] > 0), sqrt(refills) * added_s / output_tokens,
        prompt, decode, load=1.0,
    )  # fmt: skip


def open_arrivals(
    engine: Engine, rate_per_s: float, demand: Demand, limit: float, solved: Point | None = None
) -> Point:
    """Requests that come by themselves: the batch at which as many leave as come, and the queue before it.

    A rate beyond what the replica serves gives the fullest one, marked saturated. Where numbers carry slopes, `solved`
    is the point without.
    """
    wanted = np.atleast_1d(as_floats(rate_per_s))
    batch, most = (
        solve_batch(engine, wanted, demand, limit)
        if solved is None
        else sloped_batch(engine, wanted, demand, limit, solved.batch)
    )
    rate = np.minimum(wanted, most)
    full = phases_of(engine, np.array([limit]), demand)
    traffic = traffic_at(
        phases_of(engine, batch, demand), full, batch, rate, demand, limit, plain(engine.software.request_s)
    )
    decode, prompt = phases_at(engine, max(1.0, plain(batch[0])), demand)
    answers = demand.decode_steps > 1e-3
    return Point(
        plain(traffic.ttft_s[0]), plain(traffic.tpot_s[0]) if answers else 0.0, plain(traffic.latency_s[0]),
        plain(rate[0]), plain(batch[0]), (), 0.0, prompt, decode, plain(traffic.waiting_s[0]),
        plain(rate[0] / most), bool(rate_per_s > most), traffic,
    )  # fmt: skip


def phases_at(engine: Engine, batch: float, demand: Demand) -> tuple[Node, Node]:
    """A decode step of the batch, and the iterations of a prompt of mean length among the others' answers."""
    prompt_tokens = float(demand.shares @ demand.prompts)
    _, prompt = _phases(engine, batch, prompt_tokens, demand.output_tokens, demand.prefix_hit)
    return engine.decode(batch, demand.kv_len), prompt


def _phases(
    engine: Engine, batch: float, prompt_tokens: float, output_tokens: float, prefix_hit: float = 0.0
) -> tuple[Node, Node]:
    """A decode step of the batch, and the iterations of one prompt among the others' answers (mean of its chunks)."""
    length = float(mean_decode_length(prompt_tokens, output_tokens))
    decode = engine.decode(batch, length)
    others = batch - 1.0 if engine.software.mixes_phases else 0.0
    computed, cached = prompt_tokens * (1.0 - prefix_hit), prompt_tokens * prefix_hit
    chunks = _chunks(engine, computed)
    past = cached + computed * (1.0 - 1.0 / chunks) / 2.0
    one = engine.iteration(Load(1.0, computed / chunks, past, others, length, 1.0 / chunks), "prefill")
    return decode, _times(one, chunks)


def _chunks(engine: Engine, prompt_tokens: float) -> float:
    return float(math.ceil(prompt_tokens / engine.software.max_batched_tokens))


def _times(node: Node, count: float) -> Node:
    if count == 1.0:
        return node
    return Node.of(node.name, *(replace(child, cost=child.cost * count) for child in node.children))


def _added_s(engine: Engine, whole_s: float, decode_s: float, prompt_tokens: float) -> float:
    """What the iterations of a prompt take beyond the decode steps that they stand for."""
    steps = _chunks(engine, prompt_tokens) if engine.software.mixes_phases else 0.0
    return max(0.0, whole_s - steps * decode_s)


def _joint_s(
    engine: Engine, prompt: Node, together: float, batch: float, prompt_tokens: float, output_tokens: float,
    prefix_hit: float,
) -> float:  # fmt: skip
    if together == 1.0:
        return plain(prompt.cost.seconds)
    length = float(mean_decode_length(prompt_tokens, output_tokens))
    others = batch - together if engine.software.mixes_phases else 0.0
    computed, cached = prompt_tokens * (1.0 - prefix_hit), prompt_tokens * prefix_hit
    return plain(engine.iteration(Load(together, computed, cached, max(0.0, others), length)).cost.seconds)
