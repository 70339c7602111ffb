"""`plan_training_budget`: how many parameters, tokens and bits, for a model trained once and served for its life."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.cost import cost_usd
from perfmodel.formulas.scaling_laws import chinchilla_loss, chinchilla_optimal_params
from perfmodel.formulas.scaling_laws_training import effective_precision_params, lifetime_cost_usd
from perfmodel.plan.records import Certificate, Constraint, Plan
from perfmodel.predict.records import Record
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.registry import data_version

__all__ = ["LOSS_LAWS", "TrainingBudgetPlan", "TrainingChoice", "plan_training_budget"]

LOSS_LAWS: dict[str, tuple[dict[str, float], str]] = {
    "hoffmann": (
        {
            "irreducible": math.exp(0.5267228),
            "params_scale": math.exp(6.0073404),
            "tokens_scale": math.exp(6.0179186),
            "params_exponent": 0.33917084,
            "tokens_exponent": 0.2849083,
        },
        "Hoffmann et al. 2022, approach 3, unrounded constants: https://arxiv.org/abs/2203.15556",
    ),
    "epoch": (
        {
            "irreducible": 1.81686,
            "params_scale": 482.00572,
            "tokens_scale": 2085.4342,
            "params_exponent": 0.34781,
            "tokens_exponent": 0.36585,
        },
        "Besiroglu et al. 2024, refit of Hoffmann et al.: https://arxiv.org/abs/2404.10102",
    ),
    "kumar": (
        {
            "irreducible": 2.7648,
            "params_scale": 4299.0,
            "tokens_scale": 18060.0,
            "params_exponent": 0.4965,
            "tokens_exponent": 0.4965,
        },
        "Kumar et al. 2024, appendix K: https://arxiv.org/abs/2411.04330",
    ),
}
_BITS = {"bf16": 16.0, "fp16": 16.0, "fp8": 8.0, "int8": 8.0, "nvfp4": 4.0, "mxfp4": 4.0, "int4": 4.0}
_PRECISION_SOURCE = "Kumar et al. 2024, effective parameters in low precision: https://arxiv.org/abs/2411.04330"
_SIZES = (1e6, 1e14)
_GRID = 600
_FEWEST_TOKENS = 1e6


class TrainingChoice(Record):
    """One size, length and precision; costs are in the unit of the budget (usd, or flop at 16 bits)."""

    role: str
    n_params: float
    tokens: float
    tokens_per_param: float
    precision: str
    loss: float
    training_cost: float
    serving_cost: float
    cost: float


class TrainingBudgetPlan(Plan):
    """The best model under a total budget, beside the one that ignores serving and beside other precisions."""

    document: str = "perfmodel/training-budget-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    decision: TrainingChoice | None
    constraints: tuple[Constraint, ...]
    alternatives: tuple[TrainingChoice, ...]
    certificate: Certificate
    infeasible_because: tuple[str, ...]
    warnings: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Prices:
    """Cost of one operation in training and in serving, by precision."""

    training: float
    serving: float


@dataclass(frozen=True, slots=True)
class _Question:
    law: dict[str, float]
    served_tokens: float
    prices: dict[str, _Prices]

    def loss(self, n_params: float, tokens: float, precision: str) -> float:
        return float(chinchilla_loss(n_params * _share_left(precision), tokens, **self.law))

    def cost(self, n_params: float, tokens: float, precision: str) -> tuple[float, float]:
        """Of training and of serving."""
        price = self.prices[precision]
        training = float(lifetime_cost_usd(n_params, tokens, 0.0, price.training, 0.0))
        return training, float(lifetime_cost_usd(n_params, 0.0, self.served_tokens, 0.0, price.serving))

    def tokens_within(self, budget: float, n_params: float, precision: str) -> float:
        """Tokens that the budget leaves for training a model of this size."""
        of_token, serving = self.cost(n_params, 1.0, precision)
        return (budget - serving) / of_token

    def tokens_for(self, loss: float, n_params: float, precision: str) -> float:
        """Tokens that reach the loss; infinite where the model is too small for it."""
        law = self.law
        params = n_params * _share_left(precision)
        left = loss - law["irreducible"] - law["params_scale"] * params ** -law["params_exponent"]
        return float((law["tokens_scale"] / left) ** (1.0 / law["tokens_exponent"])) if left > 0 else math.inf

    def choice(self, role: str, n_params: float, tokens: float, precision: str) -> TrainingChoice:
        training, serving = self.cost(n_params, tokens, precision)
        return TrainingChoice(
            role=role, n_params=n_params, tokens=tokens, tokens_per_param=tokens / n_params, precision=precision,
            loss=self.loss(n_params, tokens, precision), training_cost=training, serving_cost=serving,
            cost=training + serving,
        )  # fmt: skip


def plan_training_budget(
    budget: Mapping[str, float] | None = None,
    *,
    target_loss: float | None = None,
    served_tokens: float = 0.0,
    law: str = "epoch",
    precisions: Sequence[str] = ("bf16",),
    cluster: Any = None,
    mfu: float = 0.4,
    serving_mfu: float = 0.2,
) -> TrainingBudgetPlan:
    """Parameters, tokens and precision of least loss within a budget, or of least cost for a loss.

    Give `budget` {"usd": x} or {"flop": x}, or `target_loss` in nats per token. The budget pays for training (6 N D)
    and for `served_tokens` over the lifetime (2 N each). Dollars need a `cluster`: price and peak of its accelerator,
    of which training reaches `mfu` and serving `serving_mfu`. Operations in fewer bits count by their bits over 16.
    Raises `PlanError` for bad input.
    """
    unit, size = _unit(budget, target_loss, cluster)
    _check(law, precisions, served_tokens, mfu, serving_mfu)
    constants, source = LOSS_LAWS[law]
    priced = None if cluster is None or unit == "flop" else load_cluster(cluster)
    prices = {name: _prices(priced, name, mfu, serving_mfu) for name in precisions}
    question = _Question(constants, float(served_tokens), prices)
    request = {
        "budget": None if budget is None else {unit: size}, "target_loss": target_loss, "served_tokens": served_tokens,
        "law": law, "precisions": list(precisions), "cluster": None if priced is None else priced.id, "mfu": mfu,
        "serving_mfu": serving_mfu,
    }  # fmt: skip
    best = [_best(question, precision, size, target_loss) for precision in precisions]
    found = [one for one in best if one is not None]
    key: Callable[[TrainingChoice], float] = (lambda one: one.loss) if target_loss is None else (lambda one: one.cost)
    found.sort(key=key)
    alternatives = [one.model_copy(update={"role": "other precision"}) for one in found[1:]]
    if found:
        alternatives += _ignoring_service(question, found[0], size, target_loss)
    low_bits = [name for name in precisions if _BITS[name] < 16]
    low = [f"{', '.join(low_bits)}: the authors of the precision law warn that its constants do not transfer"]
    return TrainingBudgetPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request,
        feasible=bool(found),
        decision=found[0] if found else None,
        constraints=_constraints(found, unit, size, target_loss),
        alternatives=tuple(alternatives),
        certificate=Certificate(
            method="a logarithmic grid of sizes and bounded minimisation around the best of each precision",
            optimal=bool(found), bound=key(found[0]) if found else None, gap=0.0 if found else None,
            candidates=_GRID * len(precisions), priced=_GRID * len(precisions), pruned={},
        ),
        infeasible_because=() if found else _reasons(question, size, unit, target_loss),
        warnings=tuple(low if low_bits else []),
        sources=(source, *([_PRECISION_SOURCE] if low_bits else [])),
    )  # fmt: skip


def _unit(budget: Mapping[str, float] | None, target_loss: float | None, cluster: Any) -> tuple[str, float]:
    if (budget is None) == (target_loss is None):
        raise PlanError("budget, target_loss: give one of the two")
    if budget is None:
        return ("flop" if cluster is None else "usd"), math.inf
    if not isinstance(budget, Mapping) or len(budget) != 1:
        raise PlanError(f"budget: must be one of usd, flop with a number (got {budget!r})")
    ((unit, size),) = budget.items()
    if unit not in ("usd", "flop"):
        raise PlanError(f"budget: {unknown_name('unit', unit, ('usd', 'flop'))}")
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < math.inf:
        raise OutOfRangeError(f"budget: {unit}: must be a number > 0 (got {size!r})")
    if unit == "usd" and cluster is None:
        raise PlanError("cluster: missing; dollars need the price and the peak of an accelerator")
    return unit, float(size)


def _check(law: str, precisions: Sequence[str], served_tokens: float, mfu: float, serving_mfu: float) -> None:
    if law not in LOSS_LAWS:
        raise PlanError(f"law: {unknown_name('law', law, LOSS_LAWS)}")
    if isinstance(precisions, str) or not precisions:
        raise PlanError(f"precisions: must be a list of names (got {precisions!r})")
    for name in precisions:
        if name not in _BITS:
            raise PlanError(f"precisions: {unknown_name('precision', name, _BITS)}")
    if not 0 <= served_tokens < math.inf:
        raise OutOfRangeError(f"served_tokens: must be a number >= 0 (got {served_tokens!r})")
    for name, share in (("mfu", mfu), ("serving_mfu", serving_mfu)):
        if not 0 < share <= 1:
            raise OutOfRangeError(f"{name}: must be above 0 and at most 1 (got {share!r})")


def _prices(cluster: Any, precision: str, mfu: float, serving_mfu: float) -> _Prices:
    if cluster is None:
        relative = _BITS[precision] / 16.0
        return _Prices(relative, relative)
    peak = float(cluster.accelerator.peak(precision))
    hourly = float(cluster.accelerator_usd_per_hour)
    return _Prices(*(float(cost_usd(1.0, 1.0, hourly)) / (peak * share) for share in (mfu, serving_mfu)))


def _share_left(precision: str) -> float:
    """Effective parameters in this precision over those in 16 bits, which the laws were fitted in."""
    bits = _BITS[precision]
    return float(effective_precision_params(1.0, bits, bits, bits) / effective_precision_params(1.0, 16.0, 16.0, 16.0))


def _best(question: _Question, precision: str, budget: float, target_loss: float | None) -> TrainingChoice | None:
    def tokens_of(log_params: float) -> float:
        n_params = math.exp(log_params)
        if target_loss is None:
            return question.tokens_within(budget, n_params, precision)
        return question.tokens_for(target_loss, n_params, precision)

    def badness(log_params: float) -> float:
        tokens = tokens_of(log_params)
        if not _FEWEST_TOKENS <= tokens < math.inf:
            return math.inf
        if target_loss is None:
            return question.loss(math.exp(log_params), tokens, precision)
        return math.log(sum(question.cost(math.exp(log_params), tokens, precision)))

    grid = np.linspace(math.log(_SIZES[0]), math.log(_SIZES[1]), _GRID)
    values = np.array([badness(float(point)) for point in grid])
    at = int(np.argmin(values))
    if not math.isfinite(values[at]):
        return None
    around = float(grid[max(at - 1, 0)]), float(grid[min(at + 1, _GRID - 1)])
    finite = optimize.minimize_scalar(
        lambda point: min(badness(point), 1e300), bounds=around, method="bounded", options={"xatol": 1e-10}
    )
    point = float(finite.x) if badness(float(finite.x)) <= values[at] else float(grid[at])
    return question.choice("best", math.exp(point), tokens_of(point), precision)


def _ignoring_service(
    question: _Question, best: TrainingChoice, budget: float, target_loss: float | None
) -> list[TrainingChoice]:
    """What the optimum of training alone would be under the same limit, with the service paid all the same."""
    if question.served_tokens == 0:
        return []
    alone = _Question(question.law, 0.0, question.prices)
    precision, size = best.precision, best.n_params
    if target_loss is not None:
        found = _best(alone, precision, budget, target_loss)
        return [] if found is None else [question.choice("training alone", found.n_params, found.tokens, precision)]
    law = {name: value for name, value in question.law.items() if name != "irreducible"}
    law["params_scale"] *= _share_left(precision) ** -law["params_exponent"]

    def excess(log_flops: float) -> float:
        size = float(chinchilla_optimal_params(math.exp(log_flops), **law))
        tokens = math.exp(log_flops) / 6.0 / size
        return math.log(sum(question.cost(size, tokens, precision)) / budget)

    try:
        log_flops = float(optimize.brentq(excess, math.log(1e12), math.log(1e32)))
    except ValueError:  # the service of even the smallest model takes more than all
        return []
    size = float(chinchilla_optimal_params(math.exp(log_flops), **law))
    return [question.choice("training alone", size, math.exp(log_flops) / 6.0 / size, precision)]


def _constraints(
    found: Sequence[TrainingChoice], unit: str, size: float, target_loss: float | None
) -> tuple[Constraint, ...]:
    if not found:
        return ()
    if target_loss is not None:
        slack = target_loss - found[0].loss
        return (Constraint(name="loss", limit=target_loss, value=found[0].loss, slack=slack),)
    return (Constraint(name=unit, limit=size, value=found[0].cost, slack=size - found[0].cost),)


def _reasons(question: _Question, size: float, unit: str, target_loss: float | None) -> tuple[str, ...]:
    if target_loss is not None:
        floor = question.law["irreducible"]
        return (f"target_loss: {target_loss:g} is not reached by any size up to 1e14; the law's floor is {floor:.4g}",)
    least = {name: sum(question.cost(_SIZES[0], _FEWEST_TOKENS, name)) for name in question.prices}
    name = min(least, key=least.__getitem__)
    return (f"budget: 1e6 parameters in {name} with their service cost {least[name]:.4g} {unit} (given {size:g})",)
