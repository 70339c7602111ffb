"""A replica under open traffic: from a batch, or an array of batches, to rates, latencies and their percentiles.

The state of a replica is the number of answers that run. Everything else is explicit in it: a step of that batch, what
a prompt adds, the rate that keeps the batch, the queue of prompts at that rate, and what bursts do. So a planner prices
arrays of batches with no loop over points, and a given rate is found on the curve (`demand.solve_batch`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from perfmodel.dual import plain
from perfmodel.dual_array import as_floats
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
    wilson_hilferty_gamma,
)
from perfmodel.predict.serving.demand import SHARES, WINDOWS_S, Demand, Phases
from perfmodel.specs.workload import Slo

__all__ = ["FULLEST", "Traffic", "attainment", "traffic_at"]

Array = Any
FULLEST = 0.98
"""A queue fuller than this has no mean worth printing."""
_SCORES = np.array([NormalDist().inv_cdf(float(share)) for share in SHARES])[:, None]
_LIKELIHOODS = -np.log(1.0 - SHARES)[:, None]
_PHASE = (SHARES - 0.5)[:, None]
_WEIGHTS = np.diff(np.concatenate([[0.0], (SHARES[1:] + SHARES[:-1]) / 2.0, [1.0]]))
# The tail beyond the last share falls as from this one.
_TAIL = 0.95
_LEAST = 1e-9


@dataclass(frozen=True)
class Traffic:
    """A replica under open traffic, arrays [point]; quantiles [share, point] are at `SHARES`."""

    batch: np.ndarray
    arrival_rate_per_s: np.ndarray
    load: np.ndarray
    """Share of time that prompts add to iterations."""
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    waiting_s: np.ndarray
    latency_s: np.ndarray
    ttft_quantiles_s: np.ndarray
    tpot_quantiles_s: np.ndarray


def traffic_at(
    phases: Phases, full: Phases, batch: Array, rate: Array, demand: Demand, limit: Array, request_s: Array = 0.0
) -> Traffic:
    """Latencies at a batch and the rate that keeps it; `full` are the phases at `limit`, the most answers at once.

    All but `demand` may be arrays [point], those of many layouts joined; `full` and `limit` may be one for all.
    """
    one = _Replica(phases, full, np.atleast_1d(batch), np.atleast_1d(rate), demand, limit)
    prompts = _prompt_queue(one)
    crowd = _crowd(one, prompts)
    met_s = gated_residual_cycle(phases.decode_s, one.load, prompts.mean_s)
    first_s = phases.decode_s + phases.added_s + one.load * met_s
    tokens = _token_times(one, np.maximum(first_s, one.cycle_s), prompts.mean_s)
    waiting_s = (0.5 + one.load) * met_s + crowd.waiting_s
    ttft_s = request_s + waiting_s + phases.decode_s + phases.added_s
    tpot_s = np.minimum(one.longest_s, tokens.mean_s + crowd.slower_s)
    return Traffic(
        one.batch, one.rate, one.load, ttft_s, tpot_s, waiting_s, ttft_s + demand.decode_steps * tpot_s,
        _first_quantiles(one, ttft_s, prompts, crowd, request_s), _token_quantiles(one, tpot_s, tokens, crowd),
    )  # fmt: skip


@dataclass(frozen=True)
class _Replica:
    """A replica at an operating point, and what follows from it at once."""

    phases: Phases
    full: Phases
    batch: np.ndarray
    rate: np.ndarray
    demand: Demand
    limit: Array

    @cached_property
    def load(self) -> np.ndarray:
        """Share of time that prompts add to iterations."""
        return np.minimum(FULLEST, self.rate * self.phases.added_s)

    @cached_property
    def cycle_s(self) -> np.ndarray:
        """Mean iteration."""
        return as_floats(gated_cycle_time(self.phases.decode_s, self.load))

    @property
    def longest_s(self) -> np.ndarray:
        """An iteration full of prompts."""
        return self.phases.decode_s + self.phases.full_s

    @cached_property
    def most(self) -> np.ndarray:
        """Requests a second with every place taken."""
        full = self.full
        return as_floats(rate_of_batch(self.limit, full.decode_s, full.added_s, self.demand.decode_steps))


# Prompts before a prompt


@dataclass(frozen=True)
class _Queue:
    """Work [s] before an arriving prompt: mean [point], and [share, point]."""

    mean_s: np.ndarray
    quantiles_s: np.ndarray


def _prompt_queue(one: _Replica) -> _Queue:
    """Prompts before a prompt, served at the pace of iterations that are full of them.

    Arrivals in bursts find more than time does; where any work is found it is about exponential.
    """
    capacity = one.phases.full_s / one.longest_s
    work = one.rate * one.phases.added_square
    used = np.minimum(one.load, FULLEST * capacity)
    busy = np.maximum(used / capacity, 1e-6)
    over_time_s = np.maximum(_backlog(one, used, capacity, work, 1.0), _LEAST)
    finds = arrival_sees_work(work / capacity**2, over_time_s)
    likelihoods = np.maximum(0.0, np.log(np.maximum(finds, _LEAST)) + _LIKELIHOODS)
    return _Queue(finds * over_time_s / busy, _backlog(one, used, capacity, work, likelihoods) / busy)


def _backlog(one: _Replica, load: Array, capacity: Array, work: Array, likelihood: Array) -> Array:
    """The largest backlog over all windows [s at the pace of the capacity]."""
    found: Array = 0.0
    for window_s, index in zip(WINDOWS_S, one.demand.tokens_index, strict=True):
        found = np.maximum(found, backlog_of_window(float(window_s), load, capacity, work, plain(index), likelihood))
    return found


# Requests that outnumber the usual


@dataclass(frozen=True)
class _Crowd:
    """What they do [s], mean [point] and [share, point]: to waits beyond those for prompts, and to iterations."""

    waiting_s: np.ndarray
    waiting_quantiles_s: np.ndarray
    slower_s: np.ndarray
    slower_quantiles_s: np.ndarray


def _crowd(one: _Replica, prompts: _Queue) -> _Crowd:
    """A burst longer than an answer fills places first, which slows every step, and then lets requests wait.

    Prompts that wait for their iteration hold no place.
    """
    free = np.maximum(one.limit - one.batch, _LEAST)
    piled_s = _piled_up(one)
    extra = piled_s * one.most
    longer_s = _full_cycle_s(one) - one.cycle_s
    running = np.maximum(0.0, extra - prompts.quantiles_s / one.phases.added_s)
    swell_s, swollen_wait_s = _swell(one)
    slower_s = np.maximum(longer_s * np.minimum(1.0, running / free), swell_s)
    beyond_s = np.maximum(0.0, extra - free) / one.most - prompts.quantiles_s
    later_s = np.maximum(np.maximum(0.0, beyond_s), swollen_wait_s)
    return _Crowd(_WEIGHTS @ later_s, later_s, _WEIGHTS @ slower_s, slower_s)


def _full_cycle_s(one: _Replica) -> np.ndarray:
    """Mean iteration with every place taken."""
    return np.maximum(one.cycle_s, one.limit / (one.most * one.demand.decode_steps))


def _piled_up(one: _Replica) -> Array:
    """Work [share, point] that slow bursts pile up: the replica as a server of what requests take of a full one [s]."""
    full, demand = one.full, one.demand
    step_s = full.decode_s / one.limit
    square = full.added_square + 2.0 * full.added_s * demand.decode_steps * step_s + demand.steps_square * step_s**2
    prompts = full.added_square / square
    load, work = np.minimum(FULLEST, one.rate / one.most), one.rate * square
    found: Array = 0.0
    indices = zip(WINDOWS_S, np.maximum(demand.requests_index, 1.0), demand.tokens_index, demand.slopes, strict=True)
    for window_s, requests, tokens, slope in indices:
        index = prompts * tokens + (1.0 - prompts) * requests
        excess_s = palm_excess(plain(requests), plain(slope)) / one.most
        found = np.maximum(found, crowd_of_window(float(window_s), load, work, index, excess_s, _SCORES))
    return found


def _swell(one: _Replica) -> tuple[Array, Array]:
    """What rates that vary for as long as an answer takes add to iterations and to waits [s], [share, point]."""
    phases, demand = one.phases, one.demand
    lasts_s = demand.decode_steps * one.cycle_s
    # A rate that varies slowly makes the index rise with the window; bursts shorter than that leave it level.
    usual = np.maximum(one.rate * lasts_s, _LEAST)
    requests = np.maximum(_LEAST, 1.0 + _SCORES * np.sqrt(demand.slope_at(lasts_s) / usual))
    tokens = np.maximum(_LEAST, 1.0 + _SCORES * np.sqrt(demand.tokens_slope_at(lasts_s) / usual))
    # Prompts may grow longer while more of them come.
    added_s = phases.added_s * tokens / requests
    slope_s = np.maximum(0.0, one.full.decode_s - phases.decode_s) / np.maximum(one.limit - one.batch, 1.0)
    rate = np.minimum(one.rate * requests, FULLEST / (added_s + slope_s * demand.decode_steps))
    batch = np.minimum(one.batch, one.limit)
    cycle_s = modulated_cycle_time(phases.decode_s, batch, slope_s, added_s, demand.decode_steps, rate)
    cycle_s = np.minimum(cycle_s, _full_cycle_s(one))
    busy = rate * added_s / phases.added_s
    step_s = cycle_s * (1.0 - np.minimum(FULLEST, busy * phases.added_s))
    usual_s = _usual_wait(phases, one.rate, phases.decode_s, lasts_s)
    return cycle_s - one.cycle_s, _usual_wait(phases, busy, step_s, lasts_s) - usual_s


def _usual_wait(phases: Phases, rate: Array, decode_s: Array, lasts_s: Array) -> Array:
    """Wait of Poisson arrivals at a rate that lasts so long: no more piles up than comes in that time."""
    load = np.minimum(FULLEST, rate * phases.added_s)
    queue_s = np.minimum(rate * phases.added_square / (2.0 * (1.0 - load)), load * lasts_s)
    return (0.5 + load) * gated_residual_cycle(decode_s, load, queue_s)


# Tokens of one answer


@dataclass(frozen=True)
class _Tokens:
    """TPOT over requests at the usual batch [s]: mean and standard deviation."""

    mean_s: np.ndarray
    spread_s: np.ndarray


def _token_times(one: _Replica, first_s: np.ndarray, queue_s: np.ndarray) -> _Tokens:
    """An answer meets prompts: those that came with its own, those of a burst, and by chance; short feel them most."""
    phases, demand, load = one.phases, one.demand, one.load
    mean: Array = 0.0
    square: Array = 0.0
    for share, steps in zip(demand.answer_shares, demand.steps, strict=True):
        lasts_s = steps * one.cycle_s
        # Prompts that came behind this one while it waited are worked off while it answers.
        since_s = lasts_s + queue_s
        excess = palm_excess(demand.index_at(since_s), demand.slope_at(since_s))
        calm_s = gated_token_time(one.cycle_s, first_s, np.maximum(load, 1e-3), steps)
        met_s = np.minimum(one.longest_s, calm_s + excess * phases.added_s / steps)
        variance = one.rate * lasts_s * phases.added_square * demand.tokens_index_at(lasts_s)
        mean = mean + share * met_s
        square = square + share * (met_s**2 + variance / (steps * (1.0 - load)) ** 2)
    # What lies between two bounds varies by no more than this (Bhatia and Davis 2000).
    widest = np.maximum(0.0, mean - phases.decode_s) * np.maximum(0.0, one.longest_s - mean)
    return _Tokens(mean, np.sqrt(np.clip(square - mean**2, 0.0, widest)))


# Percentiles


def _first_quantiles(one: _Replica, ttft_s: Array, prompts: _Queue, crowd: _Crowd, request_s: Array) -> np.ndarray:
    gain = (1.0 + 2.0 * one.load) / (1.0 + one.load)
    own_s = one.phases.added_quantiles_s - one.phases.added_s
    queued_s = gain * (prompts.quantiles_s - prompts.mean_s)
    crowded_s = crowd.waiting_quantiles_s - crowd.waiting_s
    # Bursts that crowd the replica lengthen its queue as well: these two rise together.
    deviations_s = _joined(queued_s, own_s, _PHASE * one.cycle_s) + crowded_s
    return _rising(np.maximum(request_s, ttft_s + deviations_s))


def _token_quantiles(one: _Replica, tpot_s: Array, tokens: _Tokens, crowd: _Crowd) -> np.ndarray:
    least_s, most_s = one.phases.decode_s, one.longest_s
    over_s = np.maximum(tokens.mean_s - least_s, 1e-12)
    usual_s = least_s + wilson_hilferty_gamma(over_s, tokens.spread_s, _SCORES) - tokens.mean_s
    # Near the most that an iteration takes nothing is left to vary.
    free = np.sqrt(np.clip((most_s - tpot_s) / np.maximum(most_s - tokens.mean_s, 1e-12), 0.0, 1.0))
    deviations_s = free * (usual_s + crowd.slower_quantiles_s - crowd.slower_s)
    return _rising(np.clip(tpot_s + deviations_s, least_s, most_s))


def _joined(*deviations: Array) -> Array:
    """Deviations of independent parts from their means, as of a sum: exact for normal laws or where one rules."""
    squares = sum(np.sign(one) * one**2 for one in deviations)
    return np.sign(squares) * np.sqrt(np.abs(squares))


def _rising(quantiles: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(quantiles, axis=0)


def attainment(traffic: Traffic, slo: Slo) -> np.ndarray:
    """Share of the requests within both limits of an SLO [point]; TTFT and TPOT are taken as independent."""
    within = np.ones_like(traffic.ttft_s)
    for limit, quantiles in ((slo.ttft_s, traffic.ttft_quantiles_s), (slo.tpot_s, traffic.tpot_quantiles_s)):
        if limit is not None:
            within = within * _share_below(quantiles, limit)
    return within


def _share_below(quantiles: np.ndarray, limit: float) -> np.ndarray:
    """Share of the requests below `limit`, linear between the quantiles, exponential beyond the last."""
    found = np.where(quantiles[0] <= limit, SHARES[0], 0.0)
    pairs = zip(itertools.pairwise(quantiles), itertools.pairwise(SHARES), strict=True)
    for (low, high), (share, following) in pairs:
        part = np.clip((limit - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
        found = np.where(limit >= low, share + part * (following - share), found)
    left, tail = 1.0 - SHARES[-1], int(np.searchsorted(SHARES, _TAIL))
    scale = np.maximum(quantiles[-1] - quantiles[tail], 1e-12) / math.log((1.0 - SHARES[tail]) / left)
    over = np.maximum(0.0, limit - quantiles[-1])
    return np.asarray(np.where(over > 0.0, 1.0 - left * np.exp(-over / scale), found))
