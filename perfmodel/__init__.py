"""perfmodel: analytical performance models and planners for machine-learning systems.

Names are loaded on first use, so that `import perfmodel` and `perfmodel --help` cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from perfmodel._version import __version__

_HOMES = {
    "Accelerator": "perfmodel.specs.accelerator",
    "Architecture": "perfmodel.specs.architecture",
    "Cluster": "perfmodel.specs.cluster",
    "Host": "perfmodel.specs.host",
    "ParallelLayout": "perfmodel.predict.layout",
    "PerfModelError": "perfmodel.errors",
    "PlanError": "perfmodel.errors",
    "PoolMachine": "perfmodel.plan.power_pools",
    "PoolOption": "perfmodel.plan.power_milp",
    "Scenario": "perfmodel.study.scenario",
    "Slo": "perfmodel.specs.workload",
    "SpecError": "perfmodel.errors",
    "Workload": "perfmodel.specs.workload",
    "cite": "perfmodel.study.cite",
    "compare": "perfmodel.study.compare",
    "elasticities": "perfmodel.predict.elasticities",
    "estimate_attention": "perfmodel.predict.kernel_estimates",
    "estimate_collective": "perfmodel.predict.kernel_estimates",
    "estimate_disaggregated": "perfmodel.predict.serving.disaggregated",
    "estimate_gemm": "perfmodel.predict.kernel_estimates",
    "estimate_memory": "perfmodel.predict.training",
    "estimate_serving": "perfmodel.predict.serving.estimate",
    "estimate_speculation": "perfmodel.predict.serving.speculation",
    "estimate_training": "perfmodel.predict.training",
    "explain": "perfmodel.formulas",
    "figures": "perfmodel.report",
    "fit_law": "perfmodel.calibrate.laws",
    "load_accelerator": "perfmodel.specs.accelerator",
    "load_cluster": "perfmodel.specs.cluster",
    "load_expert_load": "perfmodel.specs.expert_load",
    "load_host": "perfmodel.specs.host",
    "load_model": "perfmodel.specs.huggingface",
    "load_power_set": "perfmodel.specs.power",
    "load_scenario": "perfmodel.study.scenario",
    "load_software": "perfmodel.specs.software",
    "load_trace": "perfmodel.specs.trace",
    "place_loads": "perfmodel.plan.power_milp",
    "plan_clocks": "perfmodel.plan.clocks",
    "plan_clocks_of_pools": "perfmodel.plan.pool_clocks",
    "plan_experts": "perfmodel.plan.experts.planner",
    "plan_phase_pools": "perfmodel.plan.power_pools",
    "plan_pool_clocks": "perfmodel.plan.power_milp",
    "plan_pools": "perfmodel.plan.pools",
    "plan_power": "perfmodel.plan.power",
    "plan_rows": "perfmodel.plan.rows",
    "plan_serving": "perfmodel.plan.serving.planner",
    "plan_stage_clocks": "perfmodel.plan.power_caps",
    "plan_test_time": "perfmodel.plan.test_time",
    "plan_training": "perfmodel.plan.training",
    "plan_training_budget": "perfmodel.plan.training_budget",
    "render_report": "perfmodel.report",
    "serving_elasticities": "perfmodel.study.slopes",
    "solve": "perfmodel.study.solve",
    "sweep": "perfmodel.study.sweep",
    "to_frame": "perfmodel.plan.frames",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'perfmodel' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
