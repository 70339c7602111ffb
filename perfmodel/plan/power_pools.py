"""Pools of machines under a budget of watts and dollars: one pool for prompts and one for tokens, or one for both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.errors import OutOfRangeError, PlanError

__all__ = ["MOST_MACHINES", "PhasePools", "PoolMachine", "affordable", "mixed_rate", "plan_phase_pools"]

MOST_MACHINES = 4096
"""Of each phase, as many as are tried."""


@dataclass(frozen=True)
class PoolMachine:
    """One kind of machine: requests a second that it can prompt, requests a second that it can finish, watts, dollars.

    A rate of 0 is a phase that it cannot do. `token_requests_per_s` is batch / (output tokens * seconds a token).
    Raises `OutOfRangeError`.
    """

    name: str
    prompt_requests_per_s: float
    token_requests_per_s: float
    watts: float
    usd_per_hour: float

    def __post_init__(self) -> None:
        for key in ("prompt_requests_per_s", "token_requests_per_s"):
            if not 0 <= (value := getattr(self, key)) < math.inf:
                raise OutOfRangeError(f"{self.name}: {key}: must be 0 or a positive number (got {value!r})")
        for key in ("watts", "usd_per_hour"):
            if not 0 < (value := getattr(self, key)) < math.inf:
                raise OutOfRangeError(f"{self.name}: {key}: must be a positive number (got {value!r})")


@dataclass(frozen=True)
class PhasePools:
    """The best pools: machines that prompt, machines that answer, what they reach and what they need."""

    prompt_machine: str
    prompt_machines: int
    token_machine: str
    token_machines: int
    requests_per_s: float
    watts: float
    usd_per_hour: float
    candidates: int


def plan_phase_pools(
    machines: Mapping[str, PoolMachine], *, watts: float | None = None, usd_per_hour: float | None = None
) -> PhasePools | None:
    """The pair of pools with most requests a second within the budgets, every count tried; None where nothing fits."""
    if not machines:
        raise PlanError("machines: is empty; give at least one")
    if watts is None and usd_per_hour is None:
        raise PlanError("watts, usd_per_hour: give at least one budget")
    best: PhasePools | None = None
    candidates = 0
    for prompt in machines.values():
        for token in machines.values():
            found, tried = _best_pair(prompt, token, watts or math.inf, usd_per_hour or math.inf)
            candidates += tried
            if found is not None and (best is None or found.requests_per_s > best.requests_per_s):
                best = found
    return None if best is None else PhasePools(**(vars(best) | {"candidates": candidates}))


def mixed_rate(machine: PoolMachine, *, watts: float | None = None, usd_per_hour: float | None = None) -> float:
    """Requests a second of one pool within the budgets, each machine doing both phases one after the other."""
    if not machine.prompt_requests_per_s or not machine.token_requests_per_s:
        return 0.0
    per_machine = 1.0 / (1.0 / machine.prompt_requests_per_s + 1.0 / machine.token_requests_per_s)
    return affordable(machine, watts=watts, usd_per_hour=usd_per_hour) * per_machine


def affordable(machine: PoolMachine, *, watts: float | None = None, usd_per_hour: float | None = None) -> int:
    """Machines of one kind within the budgets."""
    most = min((watts or math.inf) / machine.watts, (usd_per_hour or math.inf) / machine.usd_per_hour)
    return math.floor(most + 1e-9)


def _best_pair(
    prompt: PoolMachine, token: PoolMachine, watts: float, usd_per_hour: float
) -> tuple[PhasePools | None, int]:
    most = int(min(watts / prompt.watts, usd_per_hour / prompt.usd_per_hour, MOST_MACHINES) + 1e-9)
    n_prompt = np.arange(1, max(most, 1) + 1)
    left = np.minimum((watts - n_prompt * prompt.watts) / token.watts,
                      (usd_per_hour - n_prompt * prompt.usd_per_hour) / token.usd_per_hour)  # fmt: skip
    n_token = np.clip(np.floor(left + 1e-9), 0, MOST_MACHINES)
    rates = np.minimum(n_prompt * prompt.prompt_requests_per_s, n_token * token.token_requests_per_s)
    at = int(np.argmax(rates))
    if rates[at] <= 0:
        return None, len(n_prompt)
    counts = int(n_prompt[at]), int(n_token[at])
    return (
        PhasePools(
            prompt.name, counts[0], token.name, counts[1], float(rates[at]),
            counts[0] * prompt.watts + counts[1] * token.watts,
            counts[0] * prompt.usd_per_hour + counts[1] * token.usd_per_hour, 0,
        ),
        len(n_prompt),
    )  # fmt: skip
