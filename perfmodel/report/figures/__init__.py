"""Figures of result documents; each takes a result (a record or its document) and returns a matplotlib `Figure`.

    pm.figures.waterfall(plan).savefig("waterfall.svg")

They draw what the document says. Only `roofline` and `load_curve` price the document's own request again, and raise
`PlanError` where this version of perfmodel would answer differently.
"""

from perfmodel.report.figures.budgets import budget_curve, spending
from perfmodel.report.figures.choices import pareto, tornado
from perfmodel.report.figures.placement import expert_balance, load_duration
from perfmodel.report.figures.roof import roofline
from perfmodel.report.figures.serving import frontier, hourly_replicas, load_curve, percentiles
from perfmodel.report.figures.terms import memory_bars, waterfall
from perfmodel.report.figures.timeline import pipeline_timeline

__all__ = [
    "budget_curve",
    "expert_balance",
    "frontier",
    "hourly_replicas",
    "load_curve",
    "load_duration",
    "memory_bars",
    "pareto",
    "percentiles",
    "pipeline_timeline",
    "roofline",
    "spending",
    "tornado",
    "waterfall",
]
