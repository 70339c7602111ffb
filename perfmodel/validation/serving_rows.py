"""The published serving rows, what the model predicts for one, and what a data sheet does."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from perfmodel.formulas.serving import closed_loop_tpot, mean_decode_length, static_batch_latency
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.serving.estimate import operating_point
from perfmodel.predict.serving.memory import weights_per_rank
from perfmodel.predict.serving.operating import Point
from perfmodel.predict.serving.task import ServingTask, serving_task

__all__ = [
    "SERVING_FOLDER", "ServingRow", "data_sheet_value", "load_serving_rows", "predicted_value", "serving_sources",
    "serving_task_of",
    "value_of",
]  # fmt: skip

SERVING_FOLDER = Path(__file__).parent / "published" / "serving"


@dataclass(frozen=True)
class ServingRow:
    """One published figure [s, or tokens/s] and the deployment it was measured on."""

    source: str
    model: str
    cluster: str
    tp: int
    pp: int
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    weights: str
    kv_cache: str
    software: str
    batching: str
    arrivals: str
    metric: str
    measured: float
    calibrates: bool
    version: str
    cited: str
    routing: str = "random"
    """"alike" where all tokens choose the same experts."""

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.metric.startswith("output_tokens")


_WHOLE = ("tp", "pp", "prompt_tokens", "output_tokens", "concurrency")


def serving_sources(folder: Path = SERVING_FOLDER) -> list[str]:
    """The sources that have a table."""
    return sorted(path.stem for path in folder.glob("*.csv"))


@cache
def load_serving_rows(source: str, folder: Path = SERVING_FOLDER) -> tuple[ServingRow, ...]:
    """The rows of one source."""
    with (folder / f"{source}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_row(source, line) for line in csv.DictReader(file))


def _row(source: str, line: dict[str, str]) -> ServingRow:
    values: dict[str, Any] = dict(line)
    values |= {name: int(line[name]) for name in _WHOLE}
    values |= {"measured": float(line["measured"]), "calibrates": line["calibrates"] == "1"}
    return ServingRow(source=source, **values)


@cache
def _engine_task(row_key: tuple[Any, ...]) -> ServingTask:
    model, cluster, tp, pp, weights, kv_cache, software = row_key
    return serving_task(
        model, cluster, layout={"tp": tp, "pp": pp}, prompt_tokens=1, output_tokens=1, concurrency=1,
        arrival_rate_per_s=None, weights=weights, activations=None, kv_cache=kv_cache, batching="continuous",
        software=software, arrivals="closed-loop",
    )  # fmt: skip


def serving_task_of(row: ServingRow) -> ServingTask:
    """The question of a row; its engine is shared by all rows of one deployment."""
    one = _engine_task((row.model, row.cluster, row.tp, row.pp, row.weights, row.kv_cache, row.software))
    if row.routing == "alike":
        one = replace(one, engine=one.engine.choosing_alike())
    return replace(
        one, prompt_tokens=row.prompt_tokens, output_tokens=row.output_tokens, concurrency=float(row.concurrency),
        batching=row.batching, arrivals=row.arrivals,
    )  # fmt: skip


def _deployment(row: ServingRow) -> ServingRow:
    """The row without its figure: TTFT and TPOT of one run share an operating point."""
    return replace(row, source="", metric="", measured=0.0, calibrates=False, version="", cited="")


@cache
def _point_of(deployment: ServingRow) -> Point:
    return operating_point(serving_task_of(deployment))[0]


def predicted_value(row: ServingRow) -> tuple[float, bool]:
    """The model's figure in the row's own unit, and whether the deployment fits; raises `PerfModelError`.

    It fits where one request does, its prompt alone: an engine that has room for no more works on them in turn.
    """
    task, point = serving_task_of(row), _point_of(_deployment(row))
    blocks = task.memory.blocks(float(row.prompt_tokens), 1.0)
    length = float(row.prompt_tokens + row.output_tokens)
    fits = float(task.memory.concurrency(blocks, length)) >= 1.0
    return value_of(row, point), fits


def value_of(row: ServingRow, point: Point) -> float:
    """The figure that a row prints, at an operating point of one replica."""
    values = {
        "ttft_s": point.ttft_s,
        "tpot_s": point.tpot_s,
        "request_latency_s": point.latency_s,
        "output_tokens_per_s_per_accelerator": point.requests_per_s * row.output_tokens / (row.tp * row.pp),
    }
    return values[row.metric]


def data_sheet_value(row: ServingRow) -> float:
    """The same operating point at the peaks of the data sheet: arithmetic or weights and cache, nothing else."""
    task = serving_task_of(row)
    part = task.cluster.accelerator
    ranks, batch = float(row.tp * row.pp), float(row.concurrency)
    peak, byte_per_s = float(part.peak(matmul_format(task.precisions.product).peak)), float(part.hbm_byte_per_s)
    weights = weights_per_rank(task.model, task.layout, task.precisions)
    length = float(mean_decode_length(row.prompt_tokens, row.output_tokens))
    cache = task.model.kv_cache_bytes_per_token(row.kv_cache) * length / ranks
    token_flops = task.model.forward_flops(1, row.prompt_tokens) / row.prompt_tokens / ranks
    prompts = batch if row.batching == "static" else 1.0
    prefill = max(prompts * row.prompt_tokens * token_flops / peak, weights / byte_per_s)
    decode = max(batch * token_flops / peak, (weights + batch * cache) / byte_per_s)
    if row.metric == "ttft_s":
        return prefill
    if row.metric == "tpot_s":
        return float(closed_loop_tpot(decode, prefill, batch - 1.0, row.output_tokens))
    latency = float(static_batch_latency(prefill, decode, row.output_tokens))
    rate = batch * row.output_tokens / latency / ranks
    return rate if row.is_rate else latency
