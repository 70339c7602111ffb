"""Intervals: pooled by source, honest on synthetic sources, never surer where less is known."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from perfmodel.predict import uncertainty
from perfmodel.predict.records import Warned
from perfmodel.predict.uncertainty import between_sources, pooled_quantile
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.efficiency import load_efficiency
from perfmodel.specs.software import load_software


def test_pooled_quantiles_count_every_source_alike() -> None:
    assert pooled_quantile([[1.0, 2.0, 3.0]], 0.5) == pytest.approx(2.0, rel=1e-12, abs=0)
    # A hundred rows at 0 weigh as much as one at 1: half of the mass each.
    assert pooled_quantile([[0.0] * 100, [1.0]], 0.1) == 0.0
    assert pooled_quantile([[0.0] * 100, [1.0]], 0.9) == 1.0
    assert pooled_quantile([[0.0, 1.0]], 0.5) == pytest.approx(0.5, rel=1e-12, abs=0)


def test_the_spread_between_sources_is_that_of_their_means() -> None:
    # Means 0 and .2 around .1, one of a class alone: .02 with one degree of freedom; no scatter inside to take off.
    recorded = {"dense": {"a": [0.0, 0.0], "b": [0.2, 0.2]}, "experts": {"c": [5.0, 5.0]}}
    assert between_sources(recorded) == pytest.approx(math.sqrt(0.02), rel=1e-12, abs=0)
    # Means that scatter no more than their rows explain show nothing.
    assert between_sources({"dense": {"a": [-1.0, 1.0], "b": [-0.9, 1.1]}}) == 0.0


def test_intervals_hold_new_sources_of_the_same_making(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sources with means of their own (5 %) around 3 % too fast, and rows that scatter by 5 % inside them.
    random = Random(7)

    def source() -> list[float]:
        mean = random.gauss(0.03, 0.05)
        return [random.gauss(mean, 0.05) for _ in range(20)]

    held = []
    for _ in range(100):
        seen = {name: {str(i): source() for i in range(6)} for name in ("dense", "dense-uncalibrated", "experts")}
        monkeypatch.setattr(uncertainty, "residuals", lambda seen=seen: seen)
        uncertainty.residual_reach.cache_clear()
        low, high = (math.log(end) for end in uncertainty.interval_of(1.0, ()))
        held += [low <= value <= high for value in source()]
    uncertainty.residual_reach.cache_clear()
    # 80 % within three standard errors of 100 sources.
    assert 0.72 <= sum(held) / len(held) <= 0.88


def test_a_class_of_one_source_falls_back_on_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "residuals", lambda: {"dense": {"a": [0.0, 0.1]}, "experts": {"b": [0.0, 0.5]}})
    uncertainty.residual_reach.cache_clear()
    alone = uncertainty.interval_of(1.0, (), "b", experts=True)
    assert alone[0] < 1.0 < alone[1]
    uncertainty.residual_reach.cache_clear()


def warned(*formulas: str) -> tuple[Warned, ...]:
    return tuple(Warned(formula=name, quantity="q", value=1.0, valid="v") for name in formulas)


def test_less_knowledge_is_never_surer() -> None:
    def reach(*formulas: str, experts: bool = False, leave_out: str | None = None) -> tuple[float, float]:
        low, high = uncertainty.interval_of(1.0, warned(*formulas), leave_out, experts=experts)
        return -math.log(low), math.log(high)

    ladders = [
        [(), ("efficiency of the same architecture",), ("efficiency",), ("efficiency of another vendor",)],
        [(), ("collectives",), ("collectives", "efficiency")],
        [(), ("software",), ("software", "efficiency"), ("software", "efficiency", "straggler_slowdown")],
    ]
    for leave_out in (None, *uncertainty.residuals()["dense"], *uncertainty.residuals()["dense-uncalibrated"]):
        for experts in (False, True):
            for ladder in ladders:
                reaches = [reach(*kinds, experts=experts, leave_out=leave_out) for kinds in ladder]
                assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(reaches))
                assert reaches[0][1] < reaches[-1][1]
        assert all(
            a <= b for a, b in zip(reach(leave_out=leave_out), reach(experts=True, leave_out=leave_out), strict=True)
        )
    # What is unknown about software and foreign kernels only makes a step slower.
    assert reach("efficiency of another vendor")[0] == reach("efficiency")[0]


@pytest.mark.parametrize(
    ("cluster", "kinds"),
    [
        ("dgx-a100-80gb", set()),
        ("dgx-h100", set()),  # int8 kernels are the A100's: a step in bf16 runs none
        ("dgx-h200", {"efficiency of the same architecture"}),
        ("dgx-v100", {"efficiency"}),
        ("dgx-b200", {"collectives"}),
        ("gb200-nvl72", {"efficiency of the same architecture", "collectives"}),
        ("mi300x-8", {"efficiency of another vendor"}),
    ],
)
def test_borrowed_constants_widen_by_how_near_they_are(cluster: str, kinds: set[str]) -> None:
    machine = load_cluster(cluster, accelerators=8)
    notes = load_efficiency(machine.accelerator.id, machine.accelerator.relative).inherited
    stack = load_software("megatron-core-2025")
    found = uncertainty.widenings(machine, stack, "bf16", (*notes, *stack.inherits))
    assert {one["formula"] for one in found} == kinds
