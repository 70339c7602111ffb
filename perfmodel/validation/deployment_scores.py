"""Published rates of disaggregated deployments beside the model's, and beside a data sheet: no number is fitted."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import PerfModelError
from perfmodel.formulas.serving_limits import optimal_tokens_per_s, weight_bound_tpot
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.records import Record
from perfmodel.predict.serving.roles import Pool, make_pool
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.registry import data_version
from perfmodel.validation.score import best_constant, mape

__all__ = ["DEPLOYMENTS", "DeploymentReport", "DeploymentScore", "run_deployments"]

DEPLOYMENTS = Path(__file__).parent / "published" / "deployments.toml"
_ROUNDS = 40


class DeploymentScore(Record):
    """One published rate [tokens/s of an accelerator]; `error` is predicted / published - 1."""

    id: str
    system: str
    claim: str
    source: str
    url: str
    phase: str
    published: float
    predicted: float | None
    error: float | None
    data_sheet: float | None
    iteration_s: float | None
    batch: float | None
    assumed: str
    refused: str = ""


class DeploymentReport(Record):
    """All rows; `mape` and `median_log` over those that were priced, beside a data sheet and one times a constant."""

    document: str = "perfmodel/deployment-validation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    rows: tuple[DeploymentScore, ...]
    refused: int
    mape: float
    median_log: float
    data_sheet_mape: float
    constant_mape: float


def run_deployments(path: Path = DEPLOYMENTS) -> DeploymentReport:
    """Price every row of the table."""
    rows = tuple(_scored(id, facts) for id, facts in _table(path).items())
    priced = [one for one in rows if one.predicted is not None]
    predicted, published = [float(one.predicted or 0.0) for one in priced], [one.published for one in priced]
    sheet = [float(one.data_sheet or 0.0) for one in priced]
    constant = best_constant(sheet, published)
    return DeploymentReport(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"table": path.name},
        rows=rows,
        refused=len(rows) - len(priced),
        mape=mape(predicted, published),
        median_log=median(abs(math.log(one / other)) for one, other in zip(predicted, published, strict=True)),
        data_sheet_mape=mape(sheet, published),
        constant_mape=mape([constant * value for value in sheet], published),
    )


@cache
def _table(path: Path) -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _scored(id: str, facts: Mapping[str, Any]) -> DeploymentScore:
    shared = {name: facts[name] for name in ("system", "claim", "source", "url", "phase", "assumed")}
    published = float(facts["value"])
    try:
        pool = make_pool(facts["phase"], load_model(facts["model"]), facts["role"])
        rate, iteration_s, batch = _prefill(pool, facts) if facts["phase"] == "prefill" else _decode(pool, facts)
    except PerfModelError as error:
        return DeploymentScore(
            id=id, published=published, predicted=None, error=None, data_sheet=None, iteration_s=None, batch=None,
            refused=str(error), **shared,
        )  # fmt: skip
    sheet = _data_sheet(pool, facts, batch)
    return DeploymentScore(
        id=id, published=published, predicted=rate, error=rate / published - 1.0, data_sheet=sheet,
        iteration_s=iteration_s, batch=batch, **shared,
    )  # fmt: skip


def _prefill(pool: Pool, facts: Mapping[str, Any]) -> tuple[float, float, float]:
    """(tokens/s of an accelerator, cached ones too, seconds of a full iteration, its prompts of a rank)."""
    tokens, hit = float(facts["prompt_tokens"]), float(facts.get("prefix_hit", 0.0))
    prompts = pool.prompts_at_once(tokens, hit)
    seconds = float(pool.prefill(prompts, tokens, hit).cost.seconds)
    return prompts * tokens / seconds / pool.accelerators, seconds, prompts / pool.attention_groups


def _decode(pool: Pool, facts: Mapping[str, Any]) -> tuple[float, float, float]:
    """(tokens/s of an accelerator, seconds a token, its sequences), at the batch or the time per token of the row."""
    lengths = float(facts["prompt_tokens"]), float(facts["output_tokens"])

    def tpot_s(batch: float) -> float:
        return float(pool.decode(batch * pool.accelerators, *lengths).cost.seconds)

    batch = float(facts["batch"]) if "batch" in facts else _batch_at(tpot_s, float(facts["tpot_s"]))
    return batch / tpot_s(batch), tpot_s(batch), batch


def _batch_at(tpot_s: Any, limit_s: float, most: float = 1024.0) -> float:
    low, high = 1.0, most
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if tpot_s(middle) <= limit_s else (low, middle)
    return low


def _data_sheet(pool: Pool, facts: Mapping[str, Any], batch: float) -> float:
    """The peaks alone: arithmetic of the missed tokens, or weights and cache read once a token."""
    part, model = pool.cluster.accelerator, pool.model
    peak = float(part.peak(matmul_format(pool.precisions.product).peak))
    arithmetic = float(optimal_tokens_per_s(peak, float(model.n_active_params)))
    if facts["phase"] == "prefill":
        return arithmetic / (1.0 - float(facts.get("prefix_hit", 0.0)))
    cache = batch * model.kv_cache_bytes_per_token(pool.precisions.kv_cache) * float(facts["prompt_tokens"])
    seconds = float(weight_bound_tpot(pool.memory.weights, cache, float(part.hbm_byte_per_s), 1.0))
    return min(arithmetic, batch / seconds)
