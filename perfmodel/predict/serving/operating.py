"""The operating point of one replica: what a batch, a concurrency or an arrival rate makes of its iterations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from perfmodel.formulas.serving import (
    closed_loop_refills,
    closed_loop_tpot,
    closed_loop_ttft,
    concurrency_of_rate,
    mean_decode_length,
    mg1_waiting_time,
    static_batch_latency,
)
from perfmodel.predict.cost import Node
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load

__all__ = ["Arrivals", "Point", "closed_loop", "open_arrivals", "static_batch"]

# Beyond this the waiting time of an open queue has no meaning for a mean.
_FULL = 0.98
_ROUNDS = 60
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


def static_batch(engine: Engine, batch: float, prompt_tokens: float, output_tokens: float) -> Point:
    """One batch from its prefill to its last token; the next one starts when it is done."""
    prefill = engine.prefill(batch, prompt_tokens)
    decode = engine.decode(batch, mean_decode_length(prompt_tokens, output_tokens))
    first_s, decode_s = float(engine.software.request_s) + float(prefill.cost.seconds), float(decode.cost.seconds)
    latency_s = float(static_batch_latency(first_s, decode_s, output_tokens))
    tpot_s = decode_s if output_tokens > 1 else 0.0
    return Point(
        first_s, tpot_s, latency_s, batch / latency_s, batch, ((1.0, first_s, first_s),), 0.0, prefill, decode,
        load=1.0,
    )  # fmt: skip


def closed_loop(
    engine: Engine, concurrency: float, prompt_tokens: float, output_tokens: float, limit: float, arrivals: Arrivals
) -> Point:
    """`concurrency` requests always in flight, of which at most `limit` run; the others wait for a place.

    A request that waits for its first token decodes nothing, so batch and waiting time are a fixed point.
    """
    places = max(1.0, min(concurrency, limit))
    decoding_share, point = 1.0, None
    for _ in range(_FIXED_POINT_ROUNDS):
        point = _closed_point(engine, places, decoding_share, prompt_tokens, output_tokens, arrivals)
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
    engine: Engine, places: float, decoding_share: float, prompt_tokens: float, output_tokens: float, arrivals: Arrivals
) -> Point:
    batch, rounds = 1.0 + (places - 1.0) * decoding_share, arrivals.requests_per_slot
    decode, prompt = _phases(engine, batch, prompt_tokens, output_tokens)
    decode_s, whole_s = float(decode.cost.seconds), float(prompt.cost.seconds)
    added_s = _added_s(engine, whole_s, decode_s, prompt_tokens)
    refills = closed_loop_refills(places, decoding_share, rounds)
    tpot_s = float(closed_loop_tpot(decode_s, added_s, refills, output_tokens))
    together = min(places, arrivals.joint)
    first_s = _joint_s(engine, prompt, together, batch, prompt_tokens, output_tokens)
    request_s = float(engine.software.request_s)
    # A group of prompts is prefilled at once, so the queue of the first burst is one of groups.
    groups = max(1.0, places / together)
    ttft_s = float(closed_loop_ttft(first_s, decode_s, groups, rounds, request_s))
    burst = (1.0 / rounds, request_s + first_s, request_s + groups * first_s + decode_s)
    later = (1.0 - 1.0 / rounds, request_s + first_s, request_s + first_s + decode_s)
    latency_s = ttft_s + max(0.0, output_tokens - 1.0) * tpot_s
    return Point(
        ttft_s, tpot_s if output_tokens > 1 else 0.0, latency_s, places / latency_s, batch,
        tuple(piece for piece in (burst, later) if piece[0] > 0), math.sqrt(refills) * added_s / output_tokens,
        prompt, decode, load=1.0,
    )  # fmt: skip


def open_arrivals(engine: Engine, rate_per_s: float, prompt_tokens: float, output_tokens: float, limit: float) -> Point:
    """Poisson arrivals: the batch at which as many leave as come (Little), prompts waiting as before one server.

    A rate beyond what the replica serves gives the fullest one, marked saturated.
    """

    def at(batch: float) -> Point:
        return _open_point(engine, rate_per_s, batch, prompt_tokens, output_tokens)

    if at(limit).requests_per_s < rate_per_s:
        return replace(at(limit), saturated=True)
    batch = _bisected(lambda one: concurrency_of_rate(rate_per_s, at(one).latency_s) - one, limit)
    return at(batch)


def _open_point(engine: Engine, rate: float, batch: float, prompt_tokens: float, output_tokens: float) -> Point:
    decode, prompt = _phases(engine, max(1.0, batch), prompt_tokens, output_tokens)
    decode_s, whole_s = float(decode.cost.seconds), float(prompt.cost.seconds)
    added_s = _added_s(engine, whole_s, decode_s, prompt_tokens)
    # While a request emits its tokens, rate * O * T others are prefilled; that is the closed loop's law for a mean.
    share = min(_FULL, rate * added_s)
    tpot_s = decode_s / (1.0 - share)
    waiting_s = float(mg1_waiting_time(whole_s, min(_FULL, rate * whole_s), 0.0))
    request_s = float(engine.software.request_s)
    ttft_s = request_s + waiting_s + whole_s + 0.5 * decode_s
    latency_s = ttft_s + max(0.0, output_tokens - 1.0) * tpot_s
    least = request_s + whole_s
    spread_s = math.sqrt(rate * output_tokens * tpot_s) * added_s / output_tokens
    return Point(
        ttft_s, tpot_s if output_tokens > 1 else 0.0, latency_s, max(1.0, batch) / latency_s, max(1.0, batch),
        ((1.0, least, least + decode_s),), spread_s, prompt, decode, waiting_s, min(_FULL, rate * whole_s),
    )  # fmt: skip


def _phases(engine: Engine, batch: float, prompt_tokens: float, output_tokens: float) -> tuple[Node, Node]:
    """A decode step of the batch, and the iterations of one prompt among the others' answers (mean of its chunks)."""
    length = float(mean_decode_length(prompt_tokens, output_tokens))
    decode = engine.decode(batch, length)
    others = batch - 1.0 if engine.software.mixes_phases else 0.0
    chunks = _chunks(engine, prompt_tokens)
    past = prompt_tokens * (1.0 - 1.0 / chunks) / 2.0
    one = engine.iteration(Load(1.0, prompt_tokens / chunks, past, others, length, 1.0 / chunks), "prefill")
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
    engine: Engine, prompt: Node, together: float, batch: float, prompt_tokens: float, output_tokens: float
) -> float:
    if together == 1.0:
        return float(prompt.cost.seconds)
    length = float(mean_decode_length(prompt_tokens, output_tokens))
    others = batch - together if engine.software.mixes_phases else 0.0
    return float(engine.iteration(Load(together, prompt_tokens, 0.0, max(0.0, others), length)).cost.seconds)


def _bisected(excess: Callable[[float], float], high: float) -> float:
    """The smallest batch at which arrivals no longer exceed departures; `excess` falls through zero once."""
    low = 0.0
    if excess(1.0) <= 0.0:
        return 1.0
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0.0 else (low, middle)
    return high
