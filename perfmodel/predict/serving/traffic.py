"""A replica under open traffic: from a batch, or an array of batches, to rates, latencies and their percentiles.

The state of a replica is the number of answers that run. Everything else is explicit in it: a step of that batch, what
a prompt adds, the rate that keeps the batch, the queue of prompts at that rate. So a planner prices arrays of batches
with no loop over points, and a given rate is found on the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from perfmodel.formulas.queueing import (
    arrival_sees_work,
    backlog_of_window,
    crowd_of_window,
    gated_cycle_time,
    gated_residual_cycle,
    gated_token_time,
    modulated_cycle_time,
    palm_excess,
    rate_of_batch,
    split_dispersion,
    wilson_hilferty_gamma,
)
from perfmodel.ops import ceil_div
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load
from perfmodel.specs.workload import Slo, Workload

__all__ = ["Demand", "Phases", "Traffic", "attainment", "demand_of", "phases_of", "solve_batch", "traffic_at"]

Array = Any
# A queue fuller than this has no mean worth printing.
FULLEST = 0.98
SHARES = (0.05, 0.15, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
"""Shares of requests at which latencies are computed; a limit is placed between them."""
_TAIL = SHARES.index(0.95)
_WINDOWS = np.logspace(-3.0, 4.5, 26)
_CURVE = 25
_LEAST_BATCH = 0.01
_REFINEMENTS = 3
_ADDED_BATCHES = 9


@dataclass(frozen=True)
class Demand:
    """What a workload asks of one replica. Lengths in tokens; distributions as (shares [bin], values [bin])."""

    shares: np.ndarray
    prompts: np.ndarray
    prompt_quantiles: np.ndarray
    """Tokens of the prompts at `SHARES`."""
    steps_shares: np.ndarray
    steps: np.ndarray
    """Decode steps of answers that have any."""
    decode_steps: float
    steps_square: float
    output_tokens: float
    kv_len: float
    """Tokens in the cache of a running answer, mean over time."""
    held_tokens: float
    prefix_hit: float
    arrivals_index: np.ndarray
    """Index of dispersion of requests at `_WINDOWS`."""
    work_index: np.ndarray


def demand_of(workload: Workload, replicas: float = 1.0, max_seq_len: float = math.inf) -> Demand:
    """The demand on one of so many replicas among which requests are spread at random."""
    prompts, outputs = workload.prompts.clipped(max_seq_len), workload.outputs
    shares, tokens = prompts.points
    answered, answers = outputs.points
    steps = np.maximum(answers - 1.0, 0.0)
    ran = steps > 0
    requests, work = _indices(workload)
    mean = float(answered @ answers)
    # Over time one meets long answers more often: half of E[o^2] / E[o], not half of the mean.
    lived = float(answered @ answers**2) / (2.0 * mean)
    return Demand(
        shares=shares,
        prompts=tokens,
        prompt_quantiles=np.array([prompts.quantile(share) for share in SHARES]),
        steps_shares=answered[ran] / answered[ran].sum() if ran.any() else np.array([1.0]),
        steps=steps[ran] if ran.any() else np.array([1.0]),
        decode_steps=max(float(answered @ steps), 1e-6),
        steps_square=float(answered @ steps**2),
        output_tokens=mean,
        kv_len=float(shares @ tokens) + lived,
        held_tokens=float(shares @ tokens) + lived,
        prefix_hit=workload.prefix_hit,
        arrivals_index=np.asarray(split_dispersion(requests, replicas)),
        work_index=np.asarray(split_dispersion(work, replicas)),
    )


def _indices(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Indices of requests and of prompt tokens at `_WINDOWS`; constant beyond the measured ones."""
    if not workload.dispersion:
        flat = np.full(len(_WINDOWS), workload.burstiness)
        return flat, flat
    windows, requests, work = (np.array(column) for column in zip(*workload.dispersion, strict=True))
    return tuple(np.interp(np.log(_WINDOWS), np.log(windows), index) for index in (requests, work))  # type: ignore[return-value]


@dataclass(frozen=True)
class Phases:
    """Seconds of the iterations of a replica at some batches, all arrays [point]."""

    decode_s: Array
    added_s: Array
    """What a prompt adds to iterations, mean over prompts."""
    added_square: Array
    added_quantiles: tuple[Array, ...]
    """The same at `SHARES` of the prompts."""
    full_s: Array
    """What the prompts add to an iteration that is full of them."""

    @classmethod
    def joined(cls, parts: Sequence[Phases]) -> Phases:
        """Points of several layouts as one array, for a planner that prices them at once."""
        quantiles = zip(*(part.added_quantiles for part in parts), strict=True)
        names = "decode_s", "added_s", "added_square"
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
        full_s = np.concatenate([part.full_s for part in parts])
        return cls(*columns, tuple(np.concatenate(column) for column in quantiles), full_s)


def phases_of(engine: Engine, batch: Array, demand: Demand) -> Phases:
    """Phases at `batch` running answers (a float or an array [point])."""
    one = np.maximum(np.asarray(batch, dtype=float), 1.0)
    decode_s = np.asarray(engine.decode(one, demand.kv_len).cost.seconds)
    added = _added(engine, demand, one, decode_s)
    mean = added @ demand.shares
    computed = float(demand.shares @ demand.prompts) * (1.0 - demand.prefix_hit)
    room = engine.software.max_batched_tokens - (one if engine.software.mixes_phases else 0.0)
    return Phases(
        decode_s, mean, added**2 @ demand.shares, _between(added, demand), mean * np.maximum(room, 1.0) / computed
    )


def _added(engine: Engine, demand: Demand, batch: Array, decode_s: Array) -> np.ndarray:
    """`added_seconds` of every batch; of many, at a few and linear between: prompts hardly feel how many answers run."""
    size = np.size(batch)
    if size <= _ADDED_BATCHES:
        return added_seconds(engine, demand.prompts, demand.prefix_hit, batch, demand.kv_len, decode_s)
    few = np.geomspace(float(np.min(batch)), float(np.max(batch)), _ADDED_BATCHES)
    steps = np.asarray(engine.decode(few, demand.kv_len).cost.seconds)
    at_few = added_seconds(engine, demand.prompts, demand.prefix_hit, few, demand.kv_len, steps)
    return np.stack([np.interp(batch, few, column) for column in at_few.T], axis=-1)


def added_seconds(
    engine: Engine, prompts: np.ndarray, prefix_hit: float, batch: Array, kv_len: float, decode_s: Array
) -> np.ndarray:
    """What prompts of these lengths add to the iterations of a batch beyond its decode steps [point, bin]."""
    software = engine.software
    batches = np.repeat(np.atleast_1d(batch), len(prompts))
    computed = np.tile(prompts * (1.0 - prefix_hit), len(np.atleast_1d(batch)))
    cached = np.tile(prompts * prefix_hit, len(np.atleast_1d(batch)))
    chunks = ceil_div(computed, float(software.max_batched_tokens))
    past = cached + computed * (1.0 - 1.0 / chunks) / 2.0
    others = batches if software.mixes_phases else 0.0 * batches
    node = engine.iteration(Load(1.0, computed / chunks, past, others, kv_len, 1.0 / chunks))
    steps = np.repeat(np.atleast_1d(decode_s), len(prompts)) if software.mixes_phases else 0.0
    found = np.maximum(0.0, chunks * (np.asarray(node.cost.seconds) - steps))
    return found.reshape(*np.shape(batch), len(prompts))


def _between(added: np.ndarray, demand: Demand) -> tuple[Array, ...]:
    """Added seconds at the lengths of `SHARES`, between those of the bins; longer ones in proportion."""
    found = []
    last = len(demand.prompts) - 1
    for tokens in demand.prompt_quantiles:
        if last == 0 or tokens >= demand.prompts[-1]:
            found.append(added[..., -1] * tokens / demand.prompts[-1])
            continue
        at = min(max(int(np.searchsorted(demand.prompts, tokens)) - 1, 0), last - 1)
        width = demand.prompts[at + 1] - demand.prompts[at]
        share = (tokens - demand.prompts[at]) / width if width > 0 else 0.0
        found.append(np.maximum(0.0, added[..., at] + share * (added[..., at + 1] - added[..., at])))
    return tuple(found)


@dataclass(frozen=True)
class Traffic:
    """A replica under open traffic, all arrays [point]; quantiles are at `SHARES`."""

    batch: Array
    arrival_rate_per_s: Array
    load: Array
    """Share of time that prompts add to iterations."""
    ttft_s: Array
    tpot_s: Array
    waiting_s: Array
    latency_s: Array
    ttft_quantiles_s: Array
    tpot_quantiles_s: Array
    """[share, point], as those of the TTFT."""


def traffic_at(
    phases: Phases, full: Phases, batch: Array, rate: Array, demand: Demand, limit: Array, request_s: float = 0.0
) -> Traffic:
    """Latencies at a batch and the rate that keeps it; `full` are the phases at `limit`, the most answers at once."""
    load = np.minimum(FULLEST, rate * phases.added_s)
    prompts = _prompt_queue(phases, rate, load, demand)
    crowd = _crowd(phases, full, prompts, batch, rate, demand, limit)
    cycle_s = gated_cycle_time(phases.decode_s, load)
    met_s = gated_residual_cycle(phases.decode_s, load, prompts.mean_s)
    gain = (1.0 + 2.0 * load) / (1.0 + load)
    waiting_s = (0.5 + load) * met_s + crowd.waiting_s
    ttft_s = request_s + waiting_s + phases.decode_s + phases.added_s
    first_s = phases.decode_s + phases.added_s + load * met_s
    tokens = _token_times(phases, rate, load, cycle_s, first_s, prompts.mean_s, demand)
    tpot_s = np.minimum(tokens.most_s, tokens.mean_s + crowd.slower_s)
    # Near the most that an iteration takes nothing is left to vary.
    free = np.sqrt(np.clip((tokens.most_s - tpot_s) / np.maximum(tokens.most_s - tokens.mean_s, 1e-12), 0.0, 1.0))
    ttft_q, tpot_q = [], []
    for at, share in enumerate(SHARES):
        later_s = gain * (prompts.quantiles_s[at] - prompts.mean_s)
        parts = later_s, phases.added_quantiles[at] - phases.added_s, (share - 0.5) * cycle_s
        others_s = crowd.waiting_quantiles_s[at] - crowd.waiting_s
        ttft_q.append(np.maximum(request_s, ttft_s + _joined(*parts, others_s)))
        over_s = np.maximum(tokens.mean_s - phases.decode_s, 1e-12)
        alone_s = phases.decode_s + wilson_hilferty_gamma(over_s, tokens.spread_s, NormalDist().inv_cdf(share))
        slower_s = crowd.slower_quantiles_s[at] - crowd.slower_s
        over_mean_s = free * _joined(alone_s - tokens.mean_s, slower_s)
        tpot_q.append(np.clip(tpot_s + over_mean_s, phases.decode_s, tokens.most_s))
    latency_s = ttft_s + demand.decode_steps * tpot_s
    return Traffic(
        batch, rate, load, ttft_s, tpot_s, waiting_s, latency_s, _rising(ttft_q), _rising(tpot_q)
    )  # fmt: skip


@dataclass(frozen=True)
class _Queue:
    """Work before an arriving request [s]: mean, and at `SHARES`."""

    mean_s: Array
    quantiles_s: tuple[Array, ...]


def _queue(load: Array, capacity: Array, work: Array, index: np.ndarray) -> _Queue:
    """A server of that capacity under work of that variance; arrivals in bursts find more than time does."""
    used = np.minimum(load, FULLEST * capacity)
    over_time_s = np.maximum(_backlog(used, capacity, work, index, 1.0), 1e-9)
    busy = np.maximum(used / capacity, 1e-6)
    finds = arrival_sees_work(work / capacity**2, over_time_s)
    quantiles = tuple(
        _backlog(used, capacity, work, index, np.maximum(0.0, np.log(np.maximum(finds, 1e-9) / (1.0 - share)))) / busy
        for share in SHARES
    )
    return _Queue(finds * over_time_s / busy, quantiles)


def _prompt_queue(phases: Phases, rate: Array, load: Array, demand: Demand) -> _Queue:
    """Prompts before a prompt, served at the pace of iterations that are full of them."""
    capacity = phases.full_s / (phases.full_s + phases.decode_s)
    return _queue(load, capacity, rate * phases.added_square, demand.work_index)


@dataclass(frozen=True)
class _Crowd:
    """What requests that outnumber the usual do: to the iterations, and beyond the places [s]."""

    waiting_s: Array
    waiting_quantiles_s: tuple[Array, ...]
    slower_s: Array
    slower_quantiles_s: tuple[Array, ...]


def _crowd(
    phases: Phases, full: Phases, prompts: _Queue, batch: Array, rate: Array, demand: Demand, limit: Array
) -> _Crowd:
    """A burst longer than an answer fills places first, which slows every step, and then lets requests wait.

    The replica is a server whose work of a request is what it takes of a full replica's time; prompts that wait for
    their iteration hold no place.
    """
    most = rate_of_batch(limit, full.decode_s, full.added_s, demand.decode_steps)
    step_s = full.decode_s / limit
    square = full.added_square + 2.0 * full.added_s * demand.decode_steps * step_s + demand.steps_square * step_s**2
    free = np.maximum(limit - batch, 1e-9)
    cycle_s = gated_cycle_time(phases.decode_s, np.minimum(FULLEST, rate * phases.added_s))
    full_cycle_s = np.maximum(cycle_s, limit / (most * demand.decode_steps))
    piled = _piled_up(np.minimum(FULLEST, rate / most), rate * square, 1.0 / most, full.added_square / square, demand)
    queued = [seconds / phases.added_s for seconds in prompts.quantiles_s]
    waiting = [np.maximum(0.0, one * most - free) / most for one in piled]
    running = [np.maximum(0.0, one * most - other) for one, other in zip(piled, queued, strict=True)]
    swells = _swells(phases, full, batch, rate, demand, limit, cycle_s, full_cycle_s)
    slower = tuple(
        np.maximum((full_cycle_s - cycle_s) * np.minimum(1.0, one / free), swell_s)
        for one, (swell_s, _) in zip(running, swells, strict=True)
    )
    later = tuple(
        np.maximum(np.maximum(0.0, one - other), queue_s)
        for one, other, (_, queue_s) in zip(waiting, prompts.quantiles_s, swells, strict=True)
    )
    return _Crowd(_mean(later), later, _mean(slower), slower)


def _swells(
    phases: Phases, full: Phases, batch: Array, rate: Array, demand: Demand, limit: Array, cycle_s: Array,
    full_cycle_s: Array,
) -> list[tuple[Array, Array]]:  # fmt: skip
    """What rates that swell for as long as an answer takes add to an iteration and to a wait [s], at `SHARES`."""
    lasts_s = demand.decode_steps * cycle_s
    # A rate that varies slowly makes the index rise with the window; bursts shorter than that leave it level.
    deviation = np.sqrt(_slope(demand.arrivals_index, lasts_s) / np.maximum(rate * lasts_s, 1e-9))
    slope_s = np.maximum(0.0, full.decode_s - phases.decode_s) / np.maximum(limit - batch, 1.0)
    most = FULLEST / (phases.added_s + slope_s * demand.decode_steps)
    usual_s = _usual_wait(phases, rate, phases.decode_s, lasts_s)
    found = []
    for share in SHARES:
        swollen = np.clip(rate * (1.0 + NormalDist().inv_cdf(share) * deviation), 0.0, most)
        longer_s = modulated_cycle_time(
            phases.decode_s, np.minimum(batch, limit), slope_s, phases.added_s, demand.decode_steps, swollen
        )
        longer_s = np.minimum(longer_s, full_cycle_s)
        step_s = longer_s * (1.0 - np.minimum(FULLEST, swollen * phases.added_s))
        found.append((longer_s - cycle_s, _usual_wait(phases, swollen, step_s, lasts_s) - usual_s))
    return found


def _usual_wait(phases: Phases, rate: Array, decode_s: Array, lasts_s: Array) -> Array:
    """Wait of Poisson arrivals at a rate that lasts so long: no more piles up than comes in that time."""
    load = np.minimum(FULLEST, rate * phases.added_s)
    queue_s = np.minimum(rate * phases.added_square / (2.0 * (1.0 - load)), load * lasts_s)
    return (0.5 + load) * gated_residual_cycle(decode_s, load, queue_s)


def _piled_up(load: Array, work: Array, each_s: Array, prompts: Array, demand: Demand) -> list[Array]:
    """Work [s] that slow bursts pile up before the replica, at `SHARES`; `prompts` is their share of its variance."""
    found: list[Array] = [0.0] * len(SHARES)
    arrivals = np.maximum(demand.arrivals_index, 1.0)
    slopes = np.maximum(0.0, np.gradient(arrivals, np.log(_WINDOWS)))
    for window, requests, slope, tokens in zip(_WINDOWS, arrivals, slopes, demand.work_index, strict=True):
        index = prompts * float(tokens) + (1.0 - prompts) * float(requests)
        excess_s = palm_excess(float(requests), float(slope)) * each_s
        for at, share in enumerate(SHARES):
            score = NormalDist().inv_cdf(share)
            found[at] = np.maximum(found[at], crowd_of_window(float(window), load, work, index, excess_s, score))
    return found


def _mean(quantiles: tuple[Array, ...]) -> Array:
    """The mean of a law given at `SHARES`."""
    edges = np.concatenate([[0.0], (np.array(SHARES[1:]) + np.array(SHARES[:-1])) / 2.0, [1.0]])
    return sum(float(weight) * one for weight, one in zip(np.diff(edges), quantiles, strict=True))


def _backlog(load: Array, capacity: Array, work: Array, index: np.ndarray, likelihood: Array) -> Array:
    """The largest backlog over all windows [s at the server's pace]."""
    found: Array = 0.0
    for window, dispersion in zip(_WINDOWS, index, strict=True):
        one = backlog_of_window(float(window), load, capacity, work, float(dispersion), likelihood)
        found = np.maximum(found, one)
    return found


def _joined(*deviations: Array) -> Array:
    """Deviations of independent parts from their means, as those of a sum: exact for normal laws, or where one rules."""
    squares = sum(np.sign(one) * one**2 for one in deviations)
    return np.sign(squares) * np.sqrt(np.abs(squares))


def _rising(quantiles: list[Array]) -> Array:
    return np.maximum.accumulate(np.stack(np.broadcast_arrays(*quantiles)), axis=0)


@dataclass(frozen=True)
class _Tokens:
    mean_s: Array
    spread_s: Array
    most_s: Array


def _token_times(
    phases: Phases, rate: Array, load: Array, cycle_s: Array, first_s: Array, queue_s: Array, demand: Demand
) -> _Tokens:
    """TPOT over requests [s]: mean, standard deviation, and that of iterations full of prompts."""
    most_s = phases.decode_s + phases.full_s
    mean: Array = 0.0
    square: Array = 0.0
    for share, steps in zip(demand.steps_shares, demand.steps, strict=True):
        lasts_s = steps * cycle_s
        # Prompts that came behind this one while it waited are worked off while it answers.
        since_s = lasts_s + queue_s
        excess = palm_excess(_at(demand.arrivals_index, since_s), _slope(demand.arrivals_index, since_s))
        calm_s = gated_token_time(cycle_s, np.maximum(first_s, cycle_s), np.maximum(load, 1e-3), steps)
        one = np.minimum(most_s, calm_s + excess * phases.added_s / steps)
        variance = rate * lasts_s * phases.added_square * _at(demand.work_index, lasts_s) / (steps * (1.0 - load)) ** 2
        mean = mean + share * one
        square = square + share * (one**2 + variance)
    # What lies between two bounds varies by no more than this (Bhatia and Davis 2000).
    widest = np.maximum(0.0, mean - phases.decode_s) * np.maximum(0.0, most_s - mean)
    return _Tokens(mean, np.sqrt(np.clip(square - mean**2, 0.0, widest)), most_s)


def _at(index: np.ndarray, window_s: Array) -> Array:
    return np.maximum(1.0, np.interp(np.log(window_s), np.log(_WINDOWS), index))


def _slope(index: np.ndarray, window_s: Array) -> Array:
    """Increase of an index for each e-fold of the window."""
    return np.maximum(0.0, np.interp(np.log(window_s), np.log(_WINDOWS), np.gradient(index, np.log(_WINDOWS))))


def solve_batch(engine: Engine, rate: Array, demand: Demand, limit: float) -> tuple[Array, Array]:
    """Batches that rates [point] lead to, and the most that the replica serves [1/s]; above it the batch is `limit`."""
    curve = np.geomspace(_LEAST_BATCH, max(limit, 1.0), _CURVE)
    rates = np.maximum.accumulate(_rates(engine, curve, demand))
    wanted = np.minimum(np.asarray(rate, dtype=float), rates[-1])
    above = np.clip(np.searchsorted(rates, wanted), 1, _CURVE - 1)
    low, high = curve[above - 1], curve[above]
    for _ in range(_REFINEMENTS):
        low_rate, high_rate = _rates(engine, low, demand), _rates(engine, high, demand)
        share = np.clip((wanted - low_rate) / np.maximum(high_rate - low_rate, 1e-300), 0.0, 1.0)
        middle = low + share * (high - low)
        over = _rates(engine, middle, demand) > wanted
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.where(wanted <= rates[0], curve[0] * wanted / rates[0], 0.5 * (low + high)), rates[-1]


def _rates(engine: Engine, batch: Array, demand: Demand) -> Array:
    phases = phases_of(engine, batch, demand)
    return rate_of_batch(batch, phases.decode_s, phases.added_s, demand.decode_steps)


def attainment(traffic: Traffic, slo: Slo) -> Array:
    """Share of the requests within both limits of an SLO [point]; TTFT and TPOT are taken as independent."""
    within: Array = 1.0
    for limit, quantiles in ((slo.ttft_s, traffic.ttft_quantiles_s), (slo.tpot_s, traffic.tpot_quantiles_s)):
        if limit is not None:
            within = within * _share_below(quantiles, limit)
    return within


def _share_below(quantiles: tuple[Array, ...], limit: float) -> Array:
    """Share of the requests below `limit`, linear between the quantiles, exponential beyond the last."""
    stacked = np.stack(np.broadcast_arrays(*quantiles))
    found: Array = np.where(stacked[0] <= limit, SHARES[0], 0.0)
    for (low, high), (one, other) in zip(
        zip(stacked[:-1], stacked[1:], strict=True), zip(SHARES[:-1], SHARES[1:], strict=True), strict=True
    ):
        part = np.clip((limit - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
        found = np.where(limit >= low, one + part * (other - one), found)
    # Beyond the last quantile the tail falls as from the one at 95 %.
    left = 1.0 - SHARES[-1]
    scale = np.maximum(stacked[-1] - stacked[_TAIL], 1e-12) / math.log((1.0 - SHARES[_TAIL]) / left)
    return np.where(limit > stacked[-1], 1.0 - left * np.exp(-np.maximum(0.0, limit - stacked[-1]) / scale), found)
