"""`perfmodel validate --traffic`: queueing in closed form against a replay of real traces, beside trivial baselines.

Both sides take the same iteration times from the same engine, so these errors are those of queueing alone: what
iterations really take is scored by `--serving`. Arrivals are those of the trace, stretched or compressed to a share of
the load that the replica can take, and Poisson arrivals of the same requests; nothing here is fitted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from perfmodel._version import __version__
from perfmodel.errors import PlanError
from perfmodel.formulas.queueing import mm1_waiting_time
from perfmodel.predict.records import Record
from perfmodel.predict.replay_serving import IterationCosts, Replayed, replay
from perfmodel.predict.serving.demand import Demand, demand_of, solve_batch
from perfmodel.predict.serving.estimate import places_of
from perfmodel.predict.serving.operating import Point, open_arrivals
from perfmodel.predict.serving.percentiles import attained_share, tpot_percentile, ttft_percentile
from perfmodel.predict.serving.task import ServingTask, serving_task
from perfmodel.specs.registry import data_version
from perfmodel.specs.trace import Requests, Trace, load_trace, trace_of
from perfmodel.specs.workload import Slo
from perfmodel.validation.tolerances import MARGIN_PERCENT, Tolerance, load_tolerances

__all__ = [
    "LOADS",
    "TRAFFIC_TOLERANCES",
    "TrafficReport",
    "TrafficScore",
    "record_traffic",
    "run_traffic",
    "traffic_sources",
]

TRAFFIC_TOLERANCES = Path(__file__).parent / "traffic_tolerances.toml"
_HEAD = (
    "# Written by `perfmodel validate --traffic --record`: median |ln(closed form / replay)| of the last record, in "
    "percent.\n"
)
LOADS = (0.3, 0.5, 0.7, 0.85)
"""Shares of what the replica can take at most."""
_DEPLOYMENT: dict[str, Any] = {"model": "llama-3.1-70b", "cluster": "dgx-h100", "layout": {"tp": 4}}
_TRACES = ("azure-conversation", "azure-code", "mooncake-conversation", "sharegpt")
_FIGURES = ("mean", "p50", "p90", "p99")
_SLO = Slo(ttft_s=2.0, tpot_s=0.06, percentile=0.9)
_SEED = 20231116
_FULLEST = 0.98


class TrafficRow(Record):
    """One figure at one load [s]; baselines: nobody waits for anybody, and the textbook's M/M/1 queue of prompts."""

    load: float
    arrival_rate_per_s: float
    metric: str
    figure: str
    replayed: float
    closed_form: float
    no_queue: float
    mm1: float


class TrafficScore(Record):
    """Errors of one trace: median |ln(predicted / replayed)|, of TTFT and of TPOT, beside those of the baselines.

    `calm_*` are over loads up to a half; `attainment` [(load, closed form, replayed)] is of one latency limit.
    """

    source: str
    arrivals: str
    given: int
    ttft_error: float
    tpot_error: float
    error: float
    calm_error: float
    no_queue_error: float
    mm1_error: float
    bias: float
    worst: float
    attainment: tuple[tuple[float, float, float], ...]
    landed_percent: float | None
    tolerance_percent: float | None
    over_tolerance: bool
    rows: tuple[TrafficRow, ...] = ()


class TrafficReport(Record):
    """Scores of all traces."""

    document: str = "perfmodel/traffic-validation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    sources: dict[str, TrafficScore]
    over_tolerance: tuple[str, ...]


def traffic_sources() -> list[str]:
    """Every trace as it came, and its requests as a Poisson stream."""
    return [f"{trace}{kind}" for trace in _TRACES for kind in ("", "-poisson") if trace != "sharegpt" or kind]


def run_traffic(source: str | None = None, *, rows: bool = True) -> TrafficReport:
    """Score every trace, or one; raises `PlanError` for an unknown one."""
    known = traffic_sources()
    if source is not None and source not in known:
        raise PlanError(f"source: unknown trace {source!r}; known: {', '.join(known)}")
    tolerances = load_tolerances(TRAFFIC_TOLERANCES)
    scores = {id: _score(id, tolerances.get(id)) for id in known if source in (None, id)}
    over = tuple(id for id, one in scores.items() if one.over_tolerance)
    if not rows:
        scores = {id: one.model_copy(update={"rows": ()}) for id, one in scores.items()}
    return TrafficReport(
        perfmodel_version=__version__, data_version=data_version(),
        request={"source": source, "rows": rows, **_DEPLOYMENT, "slo": _SLO.model_dump(mode="json")},
        sources=scores, over_tolerance=over,
    )  # fmt: skip


def record_traffic(report: TrafficReport, *, because: str | None = None) -> None:
    """Land the figures: tolerances follow them down; raising one needs `because`. Raises `PlanError`."""
    if report.request["source"] is not None:
        raise PlanError("record: needs a report of every trace")
    old, text = load_tolerances(TRAFFIC_TOLERANCES), _HEAD
    for id, one in report.sources.items():
        figure = round(100.0 * one.error, 2)
        limit, reason = round(figure + MARGIN_PERCENT, 2), ""
        if id in old:
            limit, reason = min(limit, old[id].tolerance_percent), old[id].raised_because
        if figure > limit:
            if not because:
                raise PlanError(f"record: {id}: {figure:.2f} % is over its tolerance of {limit:.2f} %; needs because=")
            limit, reason = round(figure + MARGIN_PERCENT, 2), because
        raised = f"raised_because = {json.dumps(reason)}\n" if reason else ""
        text += f"\n[{id}]\nlanded_percent = {figure}\ntolerance_percent = {limit}\n{raised}"
    TRAFFIC_TOLERANCES.write_text(text, encoding="utf-8")


# One trace


@dataclass(frozen=True)
class _Deployment:
    task: ServingTask
    costs: IterationCosts
    blocks: float

    @property
    def capacity_tokens(self) -> float:
        return self.blocks * self.task.software.block_tokens


@cache
def _deployment() -> _Deployment:
    task = serving_task(
        **_DEPLOYMENT, prompt_tokens=1024, output_tokens=256, concurrency=1, arrival_rate_per_s=None, weights="bf16",
        activations=None, kv_cache=None, batching="continuous", software=None, arrivals="closed-loop",
    )  # fmt: skip
    software = task.software
    costs = IterationCosts(task.engine, float(software.max_batch), float(software.max_batched_tokens))
    blocks = float(task.memory.blocks(float(software.max_batched_tokens), float(software.max_batch)))
    return _Deployment(task, costs, blocks)


def _score(id: str, tolerance: Tolerance | None) -> TrafficScore:
    trace, arrivals = _trace_of(id), "poisson" if id.endswith("-poisson") else "trace"
    rows: list[TrafficRow] = []
    attained = []
    for load in LOADS:
        found, shares = _at_load(trace, load)
        rows += found
        attained.append((load, *shares))
    logs = {name: _logs(rows, name) for name in ("closed_form", "no_queue", "mm1")}
    error = median(abs(log) for log in logs["closed_form"])
    allowed = tolerance.tolerance_percent if tolerance else None
    return TrafficScore(
        source=id, arrivals=arrivals, given=len(trace.requests.prompt_tokens),
        ttft_error=_error([row for row in rows if row.metric == "ttft_s"]),
        tpot_error=_error([row for row in rows if row.metric == "tpot_s"]),
        error=error, calm_error=_error([row for row in rows if row.load <= 0.5]),
        no_queue_error=median(abs(log) for log in logs["no_queue"]), mm1_error=median(abs(log) for log in logs["mm1"]),
        bias=math.exp(fmean(logs["closed_form"])) - 1.0, worst=math.exp(max(logs["closed_form"], key=abs)) - 1.0,
        attainment=tuple(attained), landed_percent=tolerance.landed_percent if tolerance else None,
        tolerance_percent=allowed, over_tolerance=allowed is not None and round(100.0 * error, 2) > allowed,
        rows=tuple(rows),
    )  # fmt: skip


def _logs(rows: list[TrafficRow], name: str) -> list[float]:
    return [math.log(getattr(row, name) / row.replayed) for row in rows]


def _error(rows: list[TrafficRow]) -> float:
    return median(abs(log) for log in _logs(rows, "closed_form"))


@cache
def _trace_of(id: str) -> Trace:
    longest = _deployment().task.model.max_seq_len
    trace = load_trace(id.removesuffix("-poisson"), max_tokens=longest - 1)
    return _poisson(trace, id) if id.endswith("-poisson") else trace


def _poisson(trace: Trace, name: str) -> Trace:
    """The same requests in another order, at times without memory."""
    random = np.random.default_rng(_SEED)
    kept: Requests = trace.requests
    order = random.permutation(len(kept.prompt_tokens))
    arrival_s = np.cumsum(random.exponential(1.0, len(order)))
    columns = kept.prompt_tokens[order], kept.output_tokens[order], kept.cached_tokens[order]
    return trace_of(Requests(arrival_s - arrival_s[0], *columns), name)


def _stretched(trace: Trace, rate: float) -> Trace:
    """The trace at another rate: every time by the same factor."""
    kept: Requests = trace.requests
    assert trace.arrival_rate_per_s is not None
    arrival_s = kept.arrival_s * (trace.arrival_rate_per_s / rate)
    return trace_of(Requests(arrival_s, kept.prompt_tokens, kept.output_tokens, kept.cached_tokens), trace.name)


def _at_load(trace: Trace, load: float) -> tuple[list[TrafficRow], tuple[float, float]]:
    """Rows of one load, and the share of requests within the limit: closed form, replayed."""
    one = _deployment()
    task, software = one.task, one.task.software
    longest = float(task.model.max_seq_len)
    demand = demand_of(trace, max_seq_len=longest)
    limit = places_of(task, one.blocks, demand.kv_len)
    _, most = solve_batch(task.engine, np.array([1.0]), demand, limit)
    rate = load * float(most)
    served = _stretched(trace, rate)
    # Measured again: windows do not stretch along.
    demand = demand_of(served, max_seq_len=longest)
    point = open_arrivals(task.engine, rate, demand, limit)
    replayed = replay(
        one.costs, served.requests, limit=float(software.max_batch), capacity_tokens=one.capacity_tokens,
        max_batched_tokens=float(software.max_batched_tokens), block_tokens=float(software.block_tokens),
        request_s=float(software.request_s),
    )  # fmt: skip
    rows = [
        TrafficRow(
            load=load, arrival_rate_per_s=rate, metric=metric, figure=figure, replayed=value,
            closed_form=_closed(point, metric, figure), no_queue=_no_queue(point, demand, software.request_s, metric),
            mm1=_mm1(point, demand, rate, float(software.request_s), metric, figure),
        )
        for metric, figure, value in _figures(replayed)
    ]  # fmt: skip
    return rows, (attained_share(point, _SLO), _kept(replayed))


def _figures(replayed: Replayed) -> Iterator[tuple[str, str, float]]:
    for metric in ("ttft_s", "tpot_s"):
        values = getattr(replayed, metric)
        values = values[~np.isnan(values)]
        found = [float(values.mean()), *(float(one) for one in np.percentile(values, [50, 90, 99]))]
        yield from ((metric, figure, value) for figure, value in zip(_FIGURES, found, strict=True))


def _closed(point: Point, metric: str, figure: str) -> float:
    if figure == "mean":
        return float(getattr(point, metric))
    law = ttft_percentile if metric == "ttft_s" else tpot_percentile
    return law(point, float(figure[1:]) / 100.0)


def _no_queue(point: Point, demand: Demand, request_s: float, metric: str) -> float:
    """A prompt alone, and a decode step of the batch."""
    decode_s = float(point.decode.cost.seconds)
    return request_s + float(point.prefill.cost.seconds) if metric == "ttft_s" else decode_s


def _mm1(point: Point, demand: Demand, rate: float, request_s: float, metric: str, figure: str) -> float:
    """Prompts before one exponential server; tokens as if alone."""
    if metric == "tpot_s":
        return float(point.decode.cost.seconds)
    service_s = float(point.prefill.cost.seconds)
    whole_s = service_s + float(mm1_waiting_time(service_s, min(_FULLEST, rate * service_s)))
    # Time in an M/M/1 system is exponential.
    share = {"mean": 1.0 - math.exp(-1.0), "p50": 0.5, "p90": 0.9, "p99": 0.99}[figure]
    return request_s - whole_s * math.log(1.0 - share)


def _kept(replayed: Replayed) -> float:
    assert _SLO.ttft_s is not None
    assert _SLO.tpot_s is not None
    tokens = np.nan_to_num(replayed.tpot_s, nan=0.0)
    return float(np.mean((replayed.ttft_s <= _SLO.ttft_s) & (tokens <= _SLO.tpot_s)))
