"""What a workload asks of one replica, and how long its iterations take at any batch: arrays throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.dual_array import as_floats, flat, implicit_root
from perfmodel.formulas.queueing import rate_of_batch, split_dispersion
from perfmodel.ops import ceil_div
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load
from perfmodel.specs.workload import Workload

__all__ = [
    "SHARES",
    "WINDOWS_S",
    "Demand",
    "Phases",
    "demand_of",
    "phases_of",
    "rates_of",
    "sloped_batch",
    "solve_batch",
]

Array = Any
SHARES = np.array([0.05, 0.15, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995])
"""Shares of requests at which latencies are computed; a limit is placed between them."""
WINDOWS_S = np.logspace(-3.0, 4.5, 26)
"""Windows [s] over which bursts are looked at; the best of two neighbours is within 4 % of any between them."""
_LOG_WINDOWS = np.log(WINDOWS_S)
_CURVE = 25
_LEAST_BATCH = 0.01
_REFINEMENTS = 9
_ADDED_BATCHES = 9


@dataclass(frozen=True)
class Demand:
    """What a workload asks of one replica; lengths in tokens, distributions as shares [bin] and values [bin]."""

    shares: np.ndarray
    prompts: np.ndarray
    prompt_quantiles: np.ndarray
    """Tokens of prompts [share] at `SHARES`."""
    answer_shares: np.ndarray
    steps: np.ndarray
    """Decode steps [bin] of answers that have any."""
    decode_steps: float
    """Mean over all requests."""
    steps_square: float
    output_tokens: float
    kv_len: float
    """Tokens in the cache of a running answer, mean over time."""
    prefix_hit: float
    requests_index: np.ndarray
    """Index of dispersion [window] of requests at `WINDOWS_S`, and of prompt tokens."""
    tokens_index: np.ndarray

    @property
    def prompt_tokens(self) -> float:
        """Mean of a prompt."""
        return float(self.shares @ self.prompts)

    @property
    def slopes(self) -> np.ndarray:
        """Increase of the index of requests for each e-fold of the window [window]."""
        return np.maximum(0.0, np.gradient(self.requests_index, _LOG_WINDOWS))

    def index_at(self, window_s: Array) -> Array:
        """Index of requests in windows of that length, at least that of Poisson arrivals."""
        return np.maximum(1.0, np.interp(np.log(window_s), _LOG_WINDOWS, self.requests_index))

    def tokens_index_at(self, window_s: Array) -> Array:
        """Index of prompt tokens in windows of that length."""
        return np.interp(np.log(window_s), _LOG_WINDOWS, self.tokens_index)

    def slope_at(self, window_s: Array) -> Array:
        """Increase of the index of requests around that window, for each e-fold of it."""
        return np.interp(np.log(window_s), _LOG_WINDOWS, self.slopes)

    def tokens_slope_at(self, window_s: Array) -> Array:
        """The same of prompt tokens, times mean square over squared mean of a prompt: of their rate."""
        slopes = np.maximum(0.0, np.gradient(self.tokens_index, _LOG_WINDOWS))
        spread = float(self.shares @ self.prompts**2) / self.prompt_tokens**2
        return spread * np.interp(np.log(window_s), _LOG_WINDOWS, slopes)


def demand_of(workload: Workload, replicas: float = 1.0, max_seq_len: float = math.inf) -> Demand:
    """The demand on one of so many replicas among which requests are spread at random; a context clips prompts."""
    prompts, outputs = workload.prompts.clipped(max_seq_len), workload.outputs
    shares, tokens = prompts.points
    answered, answers = outputs.points
    steps = np.maximum(answers - 1.0, 0.0)
    ran = steps > 0 if (steps > 0).any() else np.ones(len(steps), dtype=bool)
    requests, work = _indices(workload)
    mean = float(answered @ answers)
    # Over time one meets long answers more often: half of E[o^2] / E[o], not half of the mean.
    lived = float(answered @ answers**2) / (2.0 * mean)
    return Demand(
        shares=shares,
        prompts=tokens,
        prompt_quantiles=np.array([prompts.quantile(float(share)) for share in SHARES]),
        answer_shares=answered[ran] / answered[ran].sum(),
        steps=np.maximum(steps[ran], 1.0),
        decode_steps=max(float(answered @ steps), 1e-6),
        steps_square=float(answered @ steps**2),
        output_tokens=mean,
        kv_len=float(shares @ tokens) + lived,
        prefix_hit=workload.prefix_hit,
        requests_index=as_floats(split_dispersion(requests, replicas)),
        tokens_index=as_floats(split_dispersion(work, replicas)),
    )


def _indices(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Indices of requests and of prompt tokens at `WINDOWS_S`; constant beyond the measured ones."""
    if not workload.dispersion:
        level = workload.burstiness * np.ones(len(WINDOWS_S))
        return level, level
    windows, requests, work = (np.array(column) for column in zip(*workload.dispersion, strict=True))
    at = np.log(windows)
    return np.interp(_LOG_WINDOWS, at, requests), np.interp(_LOG_WINDOWS, at, work)


@dataclass(frozen=True)
class Phases:
    """Seconds of the iterations of a replica at some batches, arrays [point]."""

    decode_s: np.ndarray
    added_s: np.ndarray
    """What a prompt adds to iterations, mean over prompts; `added_square` [s^2] is the mean of its square."""
    added_square: np.ndarray
    full_s: np.ndarray
    """What prompts add to an iteration that is full of them."""
    added_quantiles_s: np.ndarray
    """[share, point] of the prompts at `SHARES`."""

    @classmethod
    def joined(cls, parts: Sequence[Phases]) -> Phases:
        """Points of several layouts as one array, for a planner that prices them at once."""
        names = ("decode_s", "added_s", "added_square", "full_s", "added_quantiles_s")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names})


def phases_of(engine: Engine, batch: Array, demand: Demand) -> Phases:
    """Phases at `batch` running answers, a float or an array [point]."""
    batches = np.maximum(np.atleast_1d(as_floats(batch)), 1.0)
    decode_s = np.broadcast_to(engine.decode(batches, demand.kv_len).cost.seconds, batches.shape)
    added = _added(engine, demand, batches, decode_s)
    added_s = added @ demand.shares
    computed = demand.prompt_tokens * (1.0 - demand.prefix_hit)
    room = engine.software.max_batched_tokens - (batches if engine.software.mixes_phases else 0.0)
    full_s = added_s * np.maximum(room, 1.0) / computed
    return Phases(decode_s, added_s, added**2 @ demand.shares, full_s, _between(added, demand))


def _added(engine: Engine, demand: Demand, batches: np.ndarray, decode_s: np.ndarray) -> np.ndarray:
    """`_added_seconds` of every batch; of many, at a few and linear between: prompts hardly feel the batch."""
    if len(batches) <= _ADDED_BATCHES:
        return _added_seconds(engine, demand, batches, decode_s)
    few = np.geomspace(batches.min(), batches.max(), _ADDED_BATCHES)
    at_few = _added_seconds(engine, demand, few, as_floats(engine.decode(few, demand.kv_len).cost.seconds))
    return np.stack([np.interp(batches, few, column) for column in at_few.T], axis=-1)


def _added_seconds(engine: Engine, demand: Demand, batches: np.ndarray, decode_s: np.ndarray) -> np.ndarray:
    """What prompts add to the iterations of a batch beyond its decode steps [point, bin]."""
    software, bins = engine.software, len(demand.prompts)
    running = np.repeat(batches, bins)
    prompts = np.tile(demand.prompts, len(batches))
    computed, cached = prompts * (1.0 - demand.prefix_hit), prompts * demand.prefix_hit
    chunks = ceil_div(computed, float(software.max_batched_tokens))
    past = cached + computed * (1.0 - 1.0 / chunks) / 2.0
    others = running if software.mixes_phases else 0.0 * running
    node = engine.iteration(Load(1.0, computed / chunks, past, others, demand.kv_len, 1.0 / chunks))
    steps_s = np.repeat(decode_s, bins) if software.mixes_phases else 0.0
    found: Array = np.maximum(0.0, chunks * (as_floats(node.cost.seconds) - steps_s))
    return found.reshape(len(batches), bins)


def _between(added: np.ndarray, demand: Demand) -> np.ndarray:
    """Added seconds [share, point] at the lengths of `SHARES`, between those of the bins; longer ones in proportion."""
    known = demand.prompts
    if len(known) == 1:
        return added[:, 0] * (demand.prompt_quantiles / known[0])[:, None]
    at = np.clip(np.searchsorted(known, demand.prompt_quantiles) - 1, 0, len(known) - 2)
    width = np.maximum(known[at + 1] - known[at], 1e-9)
    part = ((demand.prompt_quantiles - known[at]) / width)[:, None]
    low, high = added.T[at], added.T[at + 1]
    inside = np.maximum(0.0, low + part * (high - low))
    beyond = (demand.prompt_quantiles > known[-1])[:, None]
    return np.where(beyond, added[:, -1] * (demand.prompt_quantiles / known[-1])[:, None], inside)


def rates_of(phases: Phases, batch: Array, demand: Demand) -> np.ndarray:
    """Requests a second [point] that keep a batch."""
    return as_floats(rate_of_batch(batch, phases.decode_s, phases.added_s, demand.decode_steps))


def solve_batch(engine: Engine, rate: Array, demand: Demand, limit: float) -> tuple[np.ndarray, float]:
    """Batches [point] that rates [point] lead to, and the most that the replica serves [1/s]; beyond, `limit`."""
    curve, known = _rate_curve(engine, demand, limit)
    wanted = np.minimum(np.atleast_1d(np.asarray(rate, dtype=float)), known[-1])
    above = np.clip(np.searchsorted(known, wanted), 1, _CURVE - 1)
    # A point more on either side: of many batches what prompts add is taken between a few, of one it is exact.
    below, above = np.maximum(above - 2, 0), np.minimum(above + 1, _CURVE - 1)
    low, high = curve[below], curve[above]
    low_rate, high_rate = known[below], known[above]
    for at in range(_REFINEMENTS):
        # The straight line, and every other time the middle: steps jump where a tile fills.
        share = 0.5 if at % 2 else (wanted - low_rate) / np.maximum(high_rate - low_rate, 1e-300)
        middle = low + np.clip(share, 0.0, 1.0) * (high - low)
        rate_there = _rates_at(engine, middle, demand)
        over = rate_there > wanted
        low, low_rate = np.where(over, low, middle), np.where(over, low_rate, rate_there)
        high, high_rate = np.where(over, middle, high), np.where(over, rate_there, high_rate)
    share = np.clip((wanted - low_rate) / np.maximum(high_rate - low_rate, 1e-300), 0.0, 1.0)
    found = np.where(wanted <= known[0], curve[0] * wanted / known[0], low + share * (high - low))
    return np.where(wanted >= known[-1], curve[-1], found), float(known[-1])


def sloped_batch(engine: Engine, rate: Array, demand: Demand, limit: float, batch: float) -> tuple[Array, Array]:
    """`solve_batch` for one rate where numbers carry slopes; `batch` is what it finds without.

    Slopes are not finite where the rate falls into a jump of the curve.
    """
    curve, known = _rate_curve(engine, demand, limit)
    most = known[-1]
    if flat(rate)[0] >= flat(most):
        return curve[-1:], most
    if flat(rate)[0] <= flat(known)[0]:
        return curve[0] * rate / known[0], most
    return implicit_root(lambda at: _rates_at(engine, at, demand) / rate - 1.0, np.array([batch])), most


def _rate_curve(engine: Engine, demand: Demand, limit: float) -> tuple[np.ndarray, Array]:
    """Batches from next to none to `limit`, and the rates that keep them, rising."""
    curve = np.geomspace(_LEAST_BATCH, max(limit, 1.0), _CURVE)
    return curve, np.maximum.accumulate(_rates_at(engine, curve, demand))


def _rates_at(engine: Engine, batch: Array, demand: Demand) -> Array:
    return rates_of(phases_of(engine, batch, demand), batch, demand)
