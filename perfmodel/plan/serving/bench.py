"""How many operating points of serving are priced a second, and how long whole plans take."""

from __future__ import annotations

import time
from typing import Any

from perfmodel._version import __version__
from perfmodel.plan.serving.planner import plan_serving
from perfmodel.plan.serving.points import curves_of
from perfmodel.plan.serving.space import candidates_of
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.serving_software import load_serving_software
from perfmodel.specs.trace import load_trace
from perfmodel.specs.workload import Slo

__all__ = ["bench_serving"]

QUESTIONS = {"llama_70b_h100": ("llama-3.1-70b", "dgx-h100"), "deepseek_v3_h200": ("deepseek-v3", "dgx-h200")}
BATCHES = 2048
_TRACE, _SLO = "azure-conversation", Slo(ttft_s=2.0, tpot_s=0.06, percentile=0.9)


def bench_serving(repeats: int = 3) -> dict[str, Any]:
    """Points (engine and batch, each with TTFT, TPOT, their percentiles and the memory of its engine) a second."""
    workload = load_trace(_TRACE)
    mean = workload.prompts.mean + workload.outputs.mean
    found: dict[str, Any] = {"document": "perfmodel/bench-serving/1", "perfmodel_version": __version__}
    model, cluster = (load_model("llama-3.1-70b"), load_cluster("dgx-h100"))
    priced = 0
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        engines = candidates_of(model, [cluster], load_serving_software(None), (mean, mean)).engines
        curves = curves_of(engines, workload, BATCHES)
        priced = sum(len(one.batch) for one in curves.along())
        best = min(best, time.perf_counter() - start)
    found |= {"operating_points": priced, "operating_points_s": best, "operating_points_per_s": priced / best}
    for name, (asked, machine) in QUESTIONS.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            plan_serving(asked, machine, load_trace(_TRACE), _SLO)
            seconds.append(time.perf_counter() - start)
        found[f"{name}_plan_s"] = min(seconds)
    return found
