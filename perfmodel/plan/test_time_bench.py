"""How long a plan of test-time compute takes, and how far from the optimum it may be."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from perfmodel._version import __version__
from perfmodel.plan.test_time import plan_test_time

__all__ = ["bench_test_time"]

_TASKS, _METHODS, _SAMPLES, _USD = 500, 10, 100, 5.0


def bench_test_time(repeats: int = 3) -> dict[str, Any]:
    """A plan for 500 tasks, counts drawn from a Beta distribution of difficulty, by ten methods of rising price."""
    random = np.random.default_rng(0)
    right = random.binomial(_SAMPLES, random.beta(0.4, 1.2, _TASKS))
    tasks = [{"task": f"t{at}", "samples": _SAMPLES, "correct": int(one)} for at, one in enumerate(right)]
    methods = [
        {"method": f"m{at}", "tokens": 500 * (at + 1), "usd_per_mtok_out": 1.0, "odds": 1 + 0.6 * at}
        for at in range(_METHODS)
    ]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        plan = plan_test_time(tasks, methods, {"usd": _USD})
        seconds.append(time.perf_counter() - start)
    return {
        "document": "perfmodel/bench-test-time/1",
        "perfmodel_version": __version__,
        "tasks": _TASKS,
        "methods": _METHODS,
        "candidates": plan.certificate.candidates,
        "plan_s": min(seconds),
        "gap": plan.certificate.gap,
    }
