"""Measured tables of power against the model: errors on rows that fix no number, beside trivial baselines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.lib import recfunctions
from numpy.typing import NDArray

from perfmodel.predict.power import accelerator_watts, capped_job
from perfmodel.predict.records import Record
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.power import load_power_set
from perfmodel.validation.power_tables import ml_energy_shares, power_table
from perfmodel.validation.score import best_constant, bias, mape

__all__ = ["CALIBRATES", "ZEUS_SETS", "PowerScore", "median_curve", "power_scores", "zeus_jobs"]

CALIBRATES = {"zeus": "bert_base_uncased", "mlenergy-h100": "meta-llama/Llama-3.1-8B-Instruct"}
"""The network and the model that fix numbers; written down before fitting, everything else validates."""
ZEUS_SETS = {"v100": "v100-pcie", "a40": "a40", "rtx6000": "rtx-6000", "p100": "p100-pcie"}
ML_ENERGY_LIMIT = 0.15
_JOB = ("dataset", "network", "batch_size", "optimizer")
_PARAMS = {"bloom-176b": 176e9, "llama2-70b": 69e9}


class PowerScore(Record):
    """Errors of one table [1]; `trivial` is that of the best constant or of "nothing changes" on the same rows."""

    source: str
    scored: int
    calibrating: int
    mape: float
    median: float
    bias: float
    trivial: float
    trivial_is: str
    limit: float | None = None


def power_scores() -> list[PowerScore]:
    """Every table."""
    return [*_zeus_scores(), _ml_energy_score(), *_splitwise_scores()]


def zeus_jobs(gpu: str) -> Any:
    """Jobs of a GPU that also ran without a limit, with their draw there and time and energy relative to it."""
    table = power_table("zeus")
    rows = table[table["gpu"] == gpu]
    free = {_job(row): row for row in rows if row["limit_w"] == rows["limit_w"].max()}
    kept = rows[[_job(row) in free for row in rows]]
    seconds, watts = (np.array([free[_job(row)][key] for row in kept]) for key in ("epoch_s", "mean_w"))
    time = kept["epoch_s"] / seconds
    columns = ["uncapped_w", "time_ratio", "energy_ratio"]
    return recfunctions.append_fields(kept, columns, [watts, time, time * kept["mean_w"] / watts], usemask=False)


def _job(row: Any) -> tuple[Any, ...]:
    return tuple(row[key] for key in _JOB)


def median_curve(gpu: str) -> dict[str, NDArray[np.float64]]:
    """Medians over all jobs of a GPU by limit: `limit_w`, time and energy ratios measured and predicted."""
    rows = zeus_jobs(gpu)
    job = capped_job(load_power_set(ZEUS_SETS[gpu]), rows["uncapped_w"], rows["limit_w"].astype(float))
    limits = np.unique(rows["limit_w"])
    columns = {
        "time": rows["time_ratio"], "energy": rows["energy_ratio"],
        "predicted_time": job.time_ratio, "predicted_energy": job.energy_ratio,
    }  # fmt: skip
    medians = {name: np.array([np.median(x[rows["limit_w"] == at]) for at in limits]) for name, x in columns.items()}
    return {"limit_w": limits.astype(float)} | medians


def _zeus_scores() -> Iterable[PowerScore]:
    for gpu, id in ZEUS_SETS.items():
        rows = zeus_jobs(gpu)
        capped = rows[rows["limit_w"] < rows["limit_w"].max()]
        held = capped[capped["network"] != CALIBRATES["zeus"]]
        job = capped_job(load_power_set(id), held["uncapped_w"], held["limit_w"].astype(float))
        for name, predicted in (("time", job.time_ratio), ("energy", job.energy_ratio)):
            measured = held[f"{name}_ratio"]
            yield _score(f"zeus-{gpu}-{name}", predicted, measured, np.ones(len(held)), "nothing changes",
                         len(capped) - len(held))  # fmt: skip


def _ml_energy_score() -> PowerScore:
    table = power_table("mlenergy-h100")
    held = table[table["model"] != CALIBRATES["mlenergy-h100"]]
    memory, compute = ml_energy_shares(held)
    watts = accelerator_watts(load_power_set("h100-sxm"), memory_share=memory, compute_share=compute) * held["gpus"]
    per_token = watts / held["tokens_per_s"]
    flat = held["gpus"] / held["tokens_per_s"]
    constant = best_constant(list(flat), list(held["j_per_token"])) * flat
    return _score("mlenergy-h100-j-per-token", per_token, held["j_per_token"], constant, "one wattage for every row",
                  len(table) - len(held), ML_ENERGY_LIMIT)  # fmt: skip


def _splitwise_scores() -> Iterable[PowerScore]:
    """The A100's set is the H100's scaled by the limits: nothing of these rows is fitted.

    The published average is taken for that of the token phase: it falls where prompts take longer at full power (BLOOM
    .64 to .54 of the limit while the prompt's share of the time rises from 1 to 35 %), as no mean over both could.
    """
    table = power_table("splitwise")
    rows = table[(table["hardware"] == "a100-80gb") & (table["mean_share"] > 0)]
    power, part = load_power_set("a100-sxm-80gb"), load_accelerator("a100-sxm-80gb")
    params = np.array([_PARAMS[model] for model in rows["model"]])
    memory = np.minimum(1.0, 2.0 * params / rows["tp"] / rows["token_s"] / float(part.hbm_byte_per_s))
    decode = 2.0 * params * rows["batch"] / rows["tp"] / rows["token_s"] / float(part.peak("fp16"))
    tokens = rows["prompt_tokens"] * rows["batch"]
    prefill = np.minimum(1.0, 2.0 * params * tokens / rows["tp"] / rows["prompt_s"] / float(part.peak("fp16")))
    token_w = accelerator_watts(power, memory_share=memory, compute_share=decode)
    prompt_w = accelerator_watts(power, compute_share=prefill)
    limit = float(power.limit_w)
    for name, predicted, measured in (
        ("mean", token_w / limit, rows["mean_share"]),
        ("peak", np.maximum(prompt_w, token_w) / limit, rows["peak_share"]),
    ):
        constant = np.full(len(rows), best_constant([1.0] * len(rows), list(measured)))
        yield _score(f"splitwise-a100-{name}-power", predicted, measured, constant, "one wattage for every row", 0)


def _score(
    source: str,
    predicted: Any,
    measured: Any,
    trivial: Any,
    trivial_is: str,
    calibrating: int,
    limit: float | None = None,
) -> PowerScore:
    p, m, t = (list(map(float, x)) for x in (predicted, measured, trivial))
    return PowerScore(
        source=source, scored=len(m), calibrating=calibrating, mape=mape(p, m),
        median=float(np.median(np.abs(np.array(p) / np.array(m) - 1.0))), bias=bias(p, m), trivial=mape(t, m),
        trivial_is=trivial_is, limit=limit,
    )  # fmt: skip
