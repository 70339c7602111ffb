"""How fast planning is, as rates and as ratios measured in one run (machines are shared and noisy)."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from perfmodel._version import __version__
from perfmodel.plan.bench_numpy import step_by_hand
from perfmodel.plan.limits import Limit, limits_of
from perfmodel.plan.loads import Loads
from perfmodel.plan.pricing import chunks_of, columns_of, unfolded
from perfmodel.plan.search import Found, search
from perfmodel.plan.space import PLAIN, Space, Switches, space_of
from perfmodel.plan.training import plan_training
from perfmodel.predict.training_task import TrainingTask, degrees_of, training_task
from perfmodel.specs.cluster import load_cluster

__all__ = ["bench_training", "over_numpy"]

T = TypeVar("T")
GPT3 = ("gpt3-175b", "dgx-a100-80gb", 4096, 1536, 2048)
QUESTIONS = {
    "llama_405b": ("llama-3.1-405b", "dgx-h100", 16384, 2048, 8192),
    "gpt3_175b": GPT3,
    "deepseek_v3": ("deepseek-v3", "dgx-h800", 2048, 15360, 4096),
}
BILLION = ("deepseek-v3", "dgx-h800", 16384, 15360, 4096)
GROWTH = (64, 256, 1024, 4096)


def bench_training(repeats: int = 3) -> dict[str, Any]:
    """Rates of pricing everything and of bounding it, against NumPy by hand and against a loop over floats.

    "Same winner" compares the best layout with bounds to that of pricing every layout of the GPT-3 space.
    """
    task, space, limits = _asked(*GPT3)
    every_s, everything = _best(lambda: search(task, space, "time", limits, bounds=False, uneven=False), repeats)
    bounded_s, bounded = _best(lambda: search(task, space, "time", limits, uneven=False), repeats)
    found: dict[str, Any] = {
        "document": "perfmodel/bench-training/1",
        "perfmodel_version": __version__,
        "candidates": space.candidates,
        "legal": space.legal,
        "legal_without_uneven_stages": space.legal - space.uneven,
        "priced": everything.priced,
        "priced_s": every_s,
        "priced_per_s": everything.priced / every_s,
        "bounded_s": bounded_s,
        "bounded_priced": bounded.priced,
        "same_winner": bounded.layout(0) == everything.layout(0),
        "over_numpy_by_hand": over_numpy(repeats),
        "array_over_float_loop": _loop_s(task, everything) / (every_s / everything.priced),
    }
    for name, question in QUESTIONS.items():
        found[f"{name}_plan_s"], _ = _best(partial(_planned, *question), repeats)
    for accelerators in GROWTH:
        question = (*GPT3[:2], accelerators, *GPT3[3:])
        found[f"gpt3_175b_on_{accelerators}_candidates"] = _asked(*question)[1].candidates
        found[f"gpt3_175b_on_{accelerators}_s"], _ = _best(partial(_searched, *question), repeats)
    found["billion_candidates"] = _asked(*BILLION)[1].candidates
    found["billion_s"], _ = _best(partial(_searched, *BILLION), 1)
    found["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def over_numpy(repeats: int = 3) -> float:
    """Time of the composed step over that of the same step written by hand, on one core; raises if they differ.

    Of every chunk the best of several turns, which the two take one after the other.
    """
    model, cluster, accelerators, batch, seq_len = GPT3
    machine = load_cluster(cluster, accelerators)
    task = training_task(
        model, machine, global_batch=batch, seq_len=seq_len, precision="fp16", software="megatron-2022"
    )
    space, switches = space_of(task), Switches(0, True, PLAIN)
    rows, _ = space.under(space.blocks[0].rows(), switches)
    layers, loads = space.stage_layers(rows), Loads(task, space)
    cuts = [({k: v[cut] for k, v in rows.items()}, layers[cut]) for cut in chunks_of(rows, layers, switches, "full")]

    def composed(part: Any, stages: Any) -> list[Any]:
        block = unfolded(part, stages, switches, "full")
        load = loads.of(part, True, 3)
        step = task.steps.price(block.degrees, batch, seq_len, detail=False, load=load)
        of = columns_of(task, block.degrees, step)
        return [of(name) for name in ("step_time_s", "memory_bytes", "cost_usd")]

    times = np.full((2, len(cuts)), np.inf)
    for _ in range(2 * repeats):
        for chunk, (part, stages) in enumerate(cuts):
            ours_s, ours = _best(partial(composed, part, stages), 1)
            theirs_s, theirs = _best(partial(step_by_hand, task, part, loads), 1)
            times[:, chunk] = np.minimum(times[:, chunk], (ours_s, theirs_s))
            for one, by_hand in zip(ours, theirs, strict=True):
                if not np.allclose(one[:, 0, :], by_hand, rtol=1e-12, atol=0):
                    raise AssertionError("the step by hand and the composed step differ")
    return float(times[0].sum() / times[1].sum())


def _asked(model: str, cluster: str, accelerators: int, batch: int, seq_len: int) -> tuple[TrainingTask, Space, Any]:
    machine = load_cluster(cluster, accelerators)
    task = training_task(model, machine, global_batch=batch, seq_len=seq_len)
    limits: tuple[Limit, ...] = limits_of(task, 0.95 * float(machine.accelerator.capacity_bytes), None, None, None)
    return task, space_of(task), limits


def _searched(*question: Any) -> Found:
    task, space, limits = _asked(*question)
    return search(task, space, "time", limits)


def _planned(model: str, cluster: str, accelerators: int, batch: int, seq_len: int) -> object:
    return plan_training(model, load_cluster(cluster, accelerators), global_batch=batch, seq_len=seq_len)


def _loop_s(task: TrainingTask, found: Found) -> float:
    """Seconds of one layout priced alone."""
    degrees = [degrees_of(found.layout(i), task.model.n_layers) for i in range(0, len(found.columns["value"]), 997)]
    seconds, _ = _best(lambda: [task.steps.price(one, task.global_batch, task.seq_len) for one in degrees[:100]], 1)
    return seconds / len(degrees[:100])


def _best(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result
