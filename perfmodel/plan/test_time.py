"""`plan_test_time`: which method each task gets and how many samples, so that a budget answers as much as it can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel._version import __version__
from perfmodel.errors import PlanError, unknown_name
from perfmodel.plan.choices import ROUNDING, Choices, Frontier, choose, frontier
from perfmodel.plan.records import Certificate, Constraint
from perfmodel.plan.test_time_question import Method, Task, budget_of, methods_of, tasks_of
from perfmodel.plan.test_time_records import (
    Allocation,
    BudgetPoint,
    BudgetSensitivity,
    DifficultyClass,
    TestTimeDecision,
    TestTimePlan,
    TestTimePrediction,
    UniformSpending,
)
from perfmodel.plan.test_time_values import Difficulty, Options, difficulties_of, options_of
from perfmodel.specs.registry import data_version

__all__ = ["ESTIMATORS", "OBJECTIVES", "plan_test_time"]

OBJECTIVES = ("accuracy",)
ESTIMATORS = ("posterior", "counts")
_LEVEL_Z = 1.2815515655446004
"""80 % of a normal distribution lie within so many standard deviations."""
_MULTIPLES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_CLASSES = 5
_PAYS = 0.01
"""Doubling the budget pays while it adds at least one point of accuracy."""
Floats = NDArray[np.float64]


def plan_test_time(
    tasks: Iterable[Mapping[str, Any]],
    methods: Iterable[Mapping[str, Any]],
    budget: Mapping[str, float],
    objective: str = "accuracy",
    *,
    estimator: str = "posterior",
) -> TestTimePlan:
    """The allocation of samples to tasks with the most expected accuracy within the budget.

    tasks: rows {task, samples, correct}, {task, success_rate} or {task, alpha, beta} (a Beta distribution of
    difficulty), with optional weight, count (of tasks alike, treated the same) and method (rows without one speak for
    all methods).

    methods: rows {method, tokens, usd_per_mtok_in, usd_per_mtok_out}; tokens [1] are generated for a sample. Further
    keys: prompt_tokens, verifier_tokens, usd_per_mtok_verifier; selection "verifier" (any right sample counts, seen
    through a verifier of `completeness` and `soundness`) or "majority"; stop "never" (all samples at once) or
    "accepted" (one after the other); odds (of success, relative to the rows that speak for all); max_samples; usd, s, j
    of a sample; or hardware: model, cluster, accelerators, layout, concurrency and other keywords of
    `estimate_serving`, which gives seconds of the whole deployment, joules and dollars.

    budget: {"usd"|"s"|"j"|"tokens": x}. estimator: "posterior" (a Beta distribution of difficulty is fitted to the
    counts) or "counts" (correct / samples as it stands). Raises `PlanError` for bad input; where the budget buys no
    sample at all the plan is not feasible.
    """
    if objective not in OBJECTIVES:
        raise PlanError(unknown_name("objective", objective, OBJECTIVES))
    if estimator not in ESTIMATORS:
        raise PlanError(unknown_name("estimator", estimator, ESTIMATORS))
    unit, size = budget_of(budget)
    known_methods = methods_of(methods)
    known_tasks = tasks_of(tasks, known_methods)
    _check_prices(known_methods, unit)
    question = _Question(known_tasks, known_methods, unit, size, estimator)
    return question.plan()


def _check_prices(methods: Sequence[Method], unit: str) -> None:
    for method in methods:
        price = method.cost[unit]
        if price is None or price <= 0:
            fix = "usd_per_mtok_out, usd or hardware" if unit == "usd" else f"{unit}, or hardware (model and cluster)"
            raise PlanError(f"method {method.id!r}: a sample has no price in {unit}; give {fix}")


class _Question:
    """One checked question, its options, and the answer."""

    def __init__(
        self, tasks: tuple[Task, ...], methods: tuple[Method, ...], unit: str, budget: float, estimator: str
    ) -> None:
        self.tasks, self.methods, self.unit, self.budget, self.estimator = tasks, methods, unit, budget, estimator
        self.counts: Floats = np.array([task.count for task in tasks])
        weights = np.array([task.weight for task in tasks]) * self.counts
        self.weights: Floats = weights / weights.sum()
        self.difficulties: list[Difficulty] = difficulties_of(methods, tasks, estimator)
        self.options: Options = options_of(methods, self.difficulties, self.weights, self.counts, unit)
        self.candidates = sum(len(value) for value in self.options.value)

    def plan(self) -> TestTimePlan:
        """The record of the answer."""
        costs, most = self.options.cost, self.budget * (1.0 + ROUNDING)
        # What the budget cannot pay for one task alone would only weaken the bound.
        values = [np.where(cost <= most, value, -1.0) for value, cost in zip(self.options.value, costs, strict=True)]
        affordable = frontier(values, costs)
        if not len(affordable.cost):
            return self._record(feasible=False, infeasible_because=self._reasons(), certificate=self._certificate(None))
        choices = choose(values, costs, affordable, self.budget)
        steps = frontier(self.options.value, costs)
        prediction = self._prediction(choices, steps)
        doubled, _ = steps.at(2.0 * self.budget)
        return self._record(
            feasible=True,
            decision=self._decision(choices),
            prediction=prediction,
            constraints=(
                Constraint(
                    name=self.unit, limit=self.budget, value=choices.cost, slack=max(0.0, self.budget - choices.cost)
                ),
            ),
            alternatives=tuple(self._point(steps, multiple * self.budget) for multiple in _MULTIPLES),
            comparisons=self._comparisons(steps),
            certificate=self._certificate(choices),
            sensitivities=(
                BudgetSensitivity(
                    quantity="budget",
                    elasticity=choices.slope * self.budget / choices.value if choices.value else 0.0,
                    if_doubled_accuracy=doubled,
                ),
            ),
        )

    def _record(self, **facts: Any) -> TestTimePlan:
        empty: dict[str, Any] = {
            "decision": None,
            "prediction": None,
            "constraints": (),
            "alternatives": (),
            "comparisons": (),
            "sensitivities": (),
            "infeasible_because": (),
        }
        notes = [one.note for one in self.difficulties if one.note is not None]
        said = [*notes, *(text for method in self.methods for text in method.warnings)]
        return TestTimePlan(
            perfmodel_version=__version__,
            data_version=data_version(),
            request=self._request(),
            warnings=tuple(dict.fromkeys(said)),
            sources=tuple(dict.fromkeys(source for method in self.methods for source in method.sources)),
            **(empty | facts),
        )

    def _request(self) -> dict[str, Any]:
        rows = []
        for task in self.tasks:
            for method, one in task.evidence.items():
                row: dict[str, Any] = {"task": task.id} | ({"method": method} if method else {})
                rows.append(row | one.row() | {"weight": task.weight, "count": task.count})
        return {
            "tasks": rows,
            "methods": [method.given for method in self.methods],
            "budget": {self.unit: self.budget},
            "objective": "accuracy",
            "estimator": self.estimator,
        }

    def _certificate(self, choices: Choices | None) -> Certificate:
        return Certificate(
            method="linear relaxation over concave envelopes (bound); its steps in order, filled up, and a dynamic "
            "program over the options that the bound does not rule out",
            optimal=choices is not None and choices.optimal,
            bound=None if choices is None else choices.bound,
            gap=None if choices is None else max(0.0, (choices.bound - choices.value) / max(choices.bound, 1e-300)),
            candidates=self.candidates,
            priced=self.candidates,
            pruned={},
            stopped_by=None if choices is None else choices.stopped_by,
        )

    def _prediction(self, choices: Choices, steps: Frontier) -> TestTimePrediction:
        chances, spreads = self._chances(choices)
        mean = float(self.weights @ chances)
        each = self.weights**2 / self.counts
        unknown = float(each @ spreads)
        # A run is a draw of every task: the chance given the rate, and what is not known of the rate.
        run = float(each @ (chances * (1.0 - chances)))
        usd = [self._usd(task, option) for task, option in enumerate(choices.option)]
        allocations = [self._allocation(task, int(option)) for task, option in enumerate(choices.option)]
        return TestTimePrediction(
            accuracy=mean,
            accuracy_interval=_interval(mean, unknown),
            outcome_interval=_interval(mean, run),
            cost=choices.cost,
            cost_unit=self.unit,
            cost_usd=None if any(one is None for one in usd) else float(sum(one or 0.0 for one in usd)),
            tokens=float(sum(one.tokens for one in allocations)),
            marginal_accuracy_per_unit=choices.slope,
            accuracy_limit=float(steps.value.sum()),
            stops_paying_at=_stops_paying(steps),
        )

    def _chances(self, choices: Choices) -> tuple[Floats, Floats]:
        chances, spreads = np.zeros(len(self.tasks)), np.zeros(len(self.tasks))
        for task, option in enumerate(choices.option):
            if option >= 0:
                chances[task] = self.options.value[task][option] / self.weights[task]
                spreads[task] = self.options.spread[task][option]
        return chances, spreads

    def _usd(self, task: int, option: int) -> float | None:
        if option < 0:
            return 0.0
        price = self.methods[int(self.options.method[task][option])].cost["usd"]
        return None if price is None else price * float(self.options.attempts[task][option]) * self.tasks[task].count

    def _allocation(self, task: int, option: int) -> Allocation:
        id = self.tasks[task].id
        if option < 0:
            return Allocation(task=id, method=None, samples=0, tokens=0.0, verifier_calls=0.0, accuracy=0.0, cost=0.0)
        options, method = self.options, self.methods[int(self.options.method[task][option])]
        attempts = float(options.attempts[task][option]) * self.tasks[task].count
        return Allocation(
            task=id,
            method=method.id,
            samples=int(options.samples[task][option]),
            tokens=attempts * (method.tokens + method.verifier_tokens),
            verifier_calls=attempts if method.selection == "verifier" else 0.0,
            accuracy=float(options.value[task][option] / self.weights[task]),
            cost=float(options.cost[task][option]),
        )

    def _decision(self, choices: Choices) -> TestTimeDecision:
        allocations = tuple(self._allocation(task, int(option)) for task, option in enumerate(choices.option))
        return TestTimeDecision(allocations=allocations, classes=self._classes(allocations))

    def _classes(self, allocations: Sequence[Allocation]) -> tuple[DifficultyClass, ...]:
        """Up to five classes of equally many tasks, the hardest first."""
        rates = np.zeros(len(self.tasks))
        for difficulty in self.difficulties:
            np.maximum.at(rates, difficulty.tasks, difficulty.nodes.mean(axis=1))
        whole = sum(one.cost for one in allocations)
        found = []
        for part in np.array_split(np.argsort(rates, kind="stable"), min(_CLASSES, len(rates))):
            members = [allocations[task] for task in part]
            weights = self.weights[part]
            methods = [one.method for one in members if one.method is not None]
            found.append(
                DifficultyClass(
                    success_rate=(float(rates[part].min()), float(rates[part].max())),
                    tasks=int(self.counts[part].sum()),
                    samples_mean=float(np.average([one.samples for one in members], weights=self.counts[part])),
                    accuracy=float(weights @ [one.accuracy for one in members] / weights.sum()),
                    budget_share=float(sum(one.cost for one in members) / whole) if whole else 0.0,
                    methods={name: methods.count(name) for name in sorted(set(methods))},
                )
            )
        return tuple(found)

    def _point(self, steps: Frontier, budget: float) -> BudgetPoint:
        value, slope = steps.at(budget)
        return BudgetPoint(budget=budget, accuracy=value, marginal_accuracy_per_unit=slope)

    def _comparisons(self, steps: Frontier) -> tuple[UniformSpending, ...]:
        """The same for every task: of each method as much as the budget allows, and the dearest once."""
        found: list[UniformSpending] = []
        everybody = [index for index, one in enumerate(self.difficulties) if len(one.tasks) == len(self.tasks)]
        for index in everybody:
            values, costs, counts = self._uniform(index)
            affordable = np.flatnonzero(costs <= self.budget * (1.0 + ROUNDING))
            if len(affordable):
                best = int(affordable[np.argmax(values[affordable])])
                found.append(self._uniform_record(steps, "uniform", index, counts[best], values[best], costs[best]))
        found.sort(key=lambda one: -(one.accuracy or 0.0))
        if everybody:
            dearest = max(everybody, key=lambda index: self.methods[index].cost[self.unit] or 0.0)
            values, costs, counts = self._uniform(dearest)
            if len(values):
                found.append(self._uniform_record(steps, "dearest-once", dearest, counts[0], values[0], costs[0]))
        return tuple(found)

    def _uniform(self, index: int) -> tuple[Floats, Floats, Floats]:
        """Accuracy and cost of one method for all tasks, by number of samples."""
        chosen = [method == index for method in self.options.method]
        values = sum(value[mine] for value, mine in zip(self.options.value, chosen, strict=True))
        costs = sum(cost[mine] for cost, mine in zip(self.options.cost, chosen, strict=True))
        return np.asarray(values), np.asarray(costs), self.options.samples[0][chosen[0]]

    def _uniform_record(
        self, steps: Frontier, role: str, index: int, samples: float, accuracy: float, cost: float
    ) -> UniformSpending:
        return UniformSpending(
            role=role,
            method=self.methods[index].id,
            samples=int(samples),
            accuracy=float(accuracy),
            cost=float(cost),
            within_budget=bool(cost <= self.budget * (1.0 + ROUNDING)),
            plan_reaches_it_at=steps.budget_for(float(accuracy)),
        )

    def _reasons(self) -> tuple[str, ...]:
        cheapest = min(self.methods, key=lambda method: method.cost[self.unit] or 0.0)
        price = cheapest.cost[self.unit] or 0.0
        fewest, all_tasks = float(self.counts.min()), float(self.counts.sum())
        if price * fewest > self.budget:
            each = f"costs {price:g}" if fewest == 1 else f"costs {price:g}, {price * fewest:g} for a row"
            return (
                f"budget: {self.budget:g} {self.unit} buys no sample; the cheapest ({cheapest.id}) {each}",
                f"would fit: {price * all_tasks:g} {self.unit} for one sample of each of {all_tasks:g} tasks",
            )
        return ("no sample of any method can solve any task: every success rate is 0",)


def _interval(mean: float, variance: float) -> tuple[float, float]:
    reach = _LEVEL_Z * variance**0.5
    return max(0.0, mean - reach), min(1.0, mean + reach)


def _stops_paying(steps: Frontier) -> float | None:
    """The budget from which doubling it adds less than a point of accuracy, by bisection on the frontier."""
    most = float(steps.cost.sum())
    budgets = np.geomspace(float(steps.cost.min()), most, 200)
    spent, bought = np.concatenate(([0.0], np.cumsum(steps.cost))), np.concatenate(([0.0], np.cumsum(steps.value)))
    gains = np.interp(2.0 * budgets, spent, bought) - np.interp(budgets, spent, bought)
    pays = np.flatnonzero(gains >= _PAYS)
    return float(budgets[min(pays[-1] + 1, len(budgets) - 1)]) if len(pays) else float(budgets[0])
