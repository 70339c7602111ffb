"""What a plan of test-time compute says; `budget` and costs are in the unit of the budget (usd, s, j or tokens)."""

from __future__ import annotations

from typing import Any

from perfmodel.plan.records import Certificate, Constraint, Plan
from perfmodel.predict.records import Record

__all__ = [
    "Allocation",
    "BudgetPoint",
    "BudgetSensitivity",
    "DifficultyClass",
    "TestTimeDecision",
    "TestTimePlan",
    "TestTimePrediction",
    "UniformSpending",
]


class Allocation(Record):
    """What one task gets: at most `samples` attempts by one method; None and 0 where it is left out.

    Of a row for many tasks `samples` and `accuracy` are of each, the rest of all. `tokens` are generated (samples and
    verifications), expected where attempts stop at the first that is accepted.
    """

    task: str
    method: str | None
    samples: int
    tokens: float
    verifier_calls: float
    accuracy: float
    cost: float


class DifficultyClass(Record):
    """Tasks of like difficulty: `success_rate` [low, high] of one attempt of the easiest method."""

    success_rate: tuple[float, float]
    tasks: int
    samples_mean: float
    accuracy: float
    budget_share: float
    methods: dict[str, int]


class TestTimeDecision(Record):
    """Who gets what."""

    __test__ = False
    allocations: tuple[Allocation, ...]
    classes: tuple[DifficultyClass, ...]


class TestTimePrediction(Record):
    """Expected accuracy: weighted share of tasks solved. `accuracy_interval` is of that mean (what the counts leave
    open), `outcome_interval` of one run. Marginal: accuracy per unit of budget at the budget's end.
    """

    __test__ = False
    accuracy: float
    accuracy_interval: tuple[float, float]
    outcome_interval: tuple[float, float]
    interval_level: float = 0.8
    cost: float
    cost_unit: str
    cost_usd: float | None
    tokens: float
    marginal_accuracy_per_unit: float
    accuracy_limit: float
    stops_paying_at: float | None


class BudgetPoint(Record):
    """The bound on accuracy at another budget, and what one more unit adds there."""

    budget: float
    accuracy: float
    marginal_accuracy_per_unit: float


class UniformSpending(Record):
    """The same method and the same samples for every task; `role` is uniform or dearest-once.

    `plan_reaches_it_at` is the budget at which the bound of a plan is as accurate.
    """

    role: str
    method: str
    samples: int
    accuracy: float | None
    cost: float
    within_budget: bool
    plan_reaches_it_at: float | None


class BudgetSensitivity(Record):
    """Elasticity of accuracy: the relative change for a relative change of one quantity."""

    quantity: str
    elasticity: float
    if_doubled_accuracy: float


class TestTimePlan(Plan):
    """The best allocation found, what it is worth beside simpler ways, and what more money would buy."""

    __test__ = False
    document: str = "perfmodel/test-time-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    decision: TestTimeDecision | None
    prediction: TestTimePrediction | None
    constraints: tuple[Constraint, ...]
    alternatives: tuple[BudgetPoint, ...]
    comparisons: tuple[UniformSpending, ...]
    certificate: Certificate
    sensitivities: tuple[BudgetSensitivity, ...]
    infeasible_because: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...]
