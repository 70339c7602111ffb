"""What each task gains from so many samples of each method, and what that costs: the options of a plan.

Success rates known from counts are uncertain. The rates of all counted tasks are taken to follow one Beta distribution
for each method, fitted by maximum likelihood; each task then has its own posterior, so that a task with no success in
ten samples is hard and not impossible. `posterior_nodes` stand for it: equally likely rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from perfmodel.errors import PlanError
from perfmodel.formulas.test_time import coverage_beta_mixture, independent_coverage
from perfmodel.formulas.test_time_verifiers import resampling_accuracy, resampling_attempts
from perfmodel.formulas.test_time_voting import majority_vote_accuracy
from perfmodel.plan.test_time_question import Evidence, Method, Task

__all__ = ["JEFFREYS", "Difficulty", "Options", "difficulties_of", "fit_beta", "options_of", "sample_counts"]

Floats = NDArray[np.float64]
JEFFREYS = (0.5, 0.5)
_NODES = 33
_FEWEST_TASKS = 8
_SHAPES = (0.02, 500.0)
_DENSE, _STEP = 24, 1.07
_LEAST_RATE = 1e-9


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Success rates of one method: equally likely `nodes` [task, node], and Beta shapes where these say it exactly."""

    tasks: NDArray[np.int64]
    nodes: Floats
    alpha: Floats
    beta: Floats
    note: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """All options of all tasks: per task, arrays over its options."""

    method: list[NDArray[np.int64]]
    samples: list[Floats]
    attempts: list[Floats]
    value: list[Floats]
    spread: list[Floats]
    cost: list[Floats]


def sample_counts(most: int, *, odd: bool = False) -> Floats:
    """The numbers of samples that are offered: every one up to 24, then in steps of 7 %."""
    counts = list(range(1, min(most, _DENSE) + 1))
    while counts[-1] < most:
        counts.append(min(most, max(counts[-1] + 1, round(counts[-1] * _STEP))))
    offered = np.unique([count - 1 + count % 2 for count in counts] if odd else counts)
    return offered[offered >= 1].astype(np.float64)


def fit_beta(samples: Floats, correct: Floats) -> tuple[float, float] | None:
    """Shapes of the Beta distribution of success rates, by the likelihood of the counts; None where they do not say.

    They do not for fewer than eight tasks, for single samples, or where the likelihood has no maximum inside 0.02 to
    500.
    """
    if len(samples) < _FEWEST_TASKS or samples.max() < 2 or correct.sum() == 0 or (correct == samples).all():
        return None
    pairs, times = np.unique(np.stack([samples, correct]), axis=1, return_counts=True)
    drawn, right = pairs

    def loss(logs: Floats) -> float:
        alpha, beta = np.exp(logs)
        like = special.betaln(alpha + right, beta + drawn - right) - special.betaln(alpha, beta)
        return -float(times @ like)

    low, high = np.log(_SHAPES)
    found = optimize.minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(low, high)] * 2)
    if not ((found.x > low + 1e-3) & (found.x < high - 1e-3)).all():
        return None
    alpha, beta = np.exp(found.x)
    return float(alpha), float(beta)


def difficulties_of(methods: Sequence[Method], tasks: Sequence[Task], estimator: str) -> list[Difficulty]:
    """The success rates of each method over the tasks it can be judged on; raises `PlanError` where there is none."""
    shared: Difficulty | None = None
    found = []
    for method in methods:
        # Counts of a method of its own stand over counts for all methods, which are read once.
        own = any(method.id in task.evidence for task in tasks)
        if own:
            base = _difficulty(method.id, method.id, tasks, estimator)
        else:
            base = shared = shared or _difficulty("", method.id, tasks, estimator)
        found.append(_at_odds(base, method.odds))
    return found


def _difficulty(key: str, method: str, tasks: Sequence[Task], estimator: str) -> Difficulty:
    known = [(index, task.evidence.get(key)) for index, task in enumerate(tasks)]
    judged = [(index, one) for index, one in known if one is not None]
    if not judged:
        raise PlanError(f"tasks: none says how often method {method!r} succeeds; give rows for it, or without a method")
    (nodes, alpha, beta), note = _rates([one for _, one in judged], estimator, key)
    return Difficulty(np.array([index for index, _ in judged]), nodes, alpha, beta, note)


def _at_odds(base: Difficulty, odds: float) -> Difficulty:
    """The same tasks for a method of other odds: its rates are no longer Beta, so nodes alone stand for them."""
    if odds == 1.0:
        return base
    nodes = odds * base.nodes / (1.0 - base.nodes + odds * base.nodes)
    return Difficulty(base.tasks, nodes, np.full_like(base.alpha, np.nan), base.beta, base.note)


def _rates(
    evidence: Sequence[Evidence], estimator: str, method: str
) -> tuple[tuple[Floats, Floats, Floats], str | None]:
    """Nodes, and shapes where the rates are Beta (NaN where they are known)."""
    samples = np.array([one.samples for one in evidence])
    correct = np.array([one.correct for one in evidence])
    given = np.array([np.nan if one.rate is None else one.rate for one in evidence])
    alpha, beta = np.array([one.shapes or (np.nan, np.nan) for one in evidence], dtype=np.float64).T.copy()
    counted = np.isnan(given) & np.isnan(alpha)
    nodes = np.repeat(given[:, None], _NODES, axis=1)
    note = None
    if counted.any() and estimator == "counts":
        nodes[counted] = (correct / np.maximum(samples, 1.0))[counted, None]
    elif counted.any():
        shapes = fit_beta(samples[counted], correct[counted])
        if shapes is None:
            whose = f"method {method}" if method else "tasks"
            note = (
                f"{whose}: the counts do not identify how difficulty is spread; each task stands for itself with "
                "Jeffreys' prior Beta(1/2, 1/2)"
            )
            shapes = JEFFREYS
        alpha[counted] = shapes[0] + correct[counted]
        beta[counted] = shapes[1] + (samples - correct)[counted]
    spread = ~np.isnan(alpha)
    if spread.any():
        middle = (np.arange(_NODES) + 0.5) / _NODES
        nodes[spread] = special.betaincinv(alpha[spread, None], beta[spread, None], middle[None, :])
    return (np.clip(nodes, 0.0, 1.0), alpha, beta), note


def options_of(
    methods: Sequence[Method], difficulties: Sequence[Difficulty], weights: Floats, counts_of: Floats, unit: str
) -> Options:
    """Every method at every offered number of samples, for every task that it can be judged on.

    `weights` [task] are shares of the accuracy, `counts_of` [task] how many tasks a row stands for.
    """
    columns: list[list[list[Floats]]] = [[[] for _ in weights] for _ in range(6)]
    for index, (method, difficulty) in enumerate(zip(methods, difficulties, strict=True)):
        price = method.cost[unit]
        assert price is not None
        counts = sample_counts(method.max_samples, odd=method.selection == "majority")
        value, spread = _values(method, difficulty, counts)
        attempts = _attempts(method, difficulty, counts)
        for row, task in enumerate(difficulty.tasks):
            cost = attempts[row] * price * counts_of[task]
            parts = (np.full(len(counts), index), counts, attempts[row], value[row] * weights[task], spread[row], cost)
            for column, part in zip(columns, parts, strict=True):
                column[task].append(part)
    joined = [[np.concatenate(parts) if parts else np.zeros(0) for parts in column] for column in columns]
    return Options([part.astype(np.int64) for part in joined[0]], *joined[1:])


def _values(method: Method, difficulty: Difficulty, counts: Floats) -> tuple[Floats, Floats]:
    """Probability of a right answer [task, count], and its variance over what is not known of the rate."""
    nodes = np.maximum(difficulty.nodes, _LEAST_RATE)[:, None, :]
    of_count = counts[None, :, None]
    if method.selection == "majority":
        at_node = majority_vote_accuracy(nodes, of_count)
    elif method.completeness == 1.0 and method.soundness == 1.0:
        at_node = independent_coverage(difficulty.nodes[:, None, :], of_count)
    else:
        at_node = resampling_accuracy(nodes, method.completeness, method.soundness, of_count)
        at_node = np.where(difficulty.nodes[:, None, :] > 0, at_node, 0.0)
    mean, variance = at_node.mean(axis=2), at_node.var(axis=2)
    exact = ~np.isnan(difficulty.alpha)
    if exact.any() and method.selection == "verifier" and method.completeness == method.soundness == 1.0:
        alpha, beta = difficulty.alpha[exact, None], difficulty.beta[exact, None]
        mean[exact] = coverage_beta_mixture(counts[None, :], alpha, beta)
        missed_twice = 1.0 - coverage_beta_mixture(2.0 * counts[None, :], alpha, beta)
        variance[exact] = np.maximum(missed_twice - (1.0 - mean[exact]) ** 2, 0.0)
    return mean, variance


def _attempts(method: Method, difficulty: Difficulty, counts: Floats) -> Floats:
    """Samples that are paid for, expected where they stop at the first that is accepted [task, count]."""
    if not method.stops_when_accepted:
        return np.broadcast_to(counts, (len(difficulty.tasks), len(counts)))
    nodes = np.maximum(difficulty.nodes, _LEAST_RATE)[:, None, :]
    made = resampling_attempts(nodes, method.completeness, method.soundness, counts[None, :, None])
    return np.asarray(made.mean(axis=2))
