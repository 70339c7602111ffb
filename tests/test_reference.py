"""The composable step equals the one-page reference; bounds and sums hold for every layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.predict.cost import Node
from perfmodel.predict.layout import check_layout
from perfmodel.predict.records import Term, TrainingEstimate
from perfmodel.predict.reference import reference_step_time_s
from perfmodel.predict.training_task import TrainingTask, degrees_of, training_task
from perfmodel.specs.efficiency import load_efficiency

BASIC = [
    # model, accelerators, tp, pp, dp, micro_batch, global_batch
    ("megatron-1.7b", 32, 1, 1, 32, 16, 512),
    ("megatron-7.5b", 128, 4, 1, 32, 16, 512),
    ("megatron-39b", 512, 8, 2, 32, 4, 1536),
    ("megatron-1t", 3072, 8, 64, 6, 1, 3072),
    ("gpt2", 1, 1, 1, 1, 1, 4),
]


def task_of(model: str, accelerators: int, batch: int, software: str = "megatron-2021") -> TrainingTask:
    cluster = pm.load_cluster("dgx-a100-80gb", accelerators)
    seq_len = min(2048, pm.load_model(model).max_seq_len)
    return training_task(model, cluster, global_batch=batch, seq_len=seq_len, precision="fp16", software=software)


@pytest.mark.parametrize(("model", "accelerators", "tp", "pp", "dp", "micro_batch", "batch"), BASIC)
def test_composable_step_equals_the_reference_page(
    model: str, accelerators: int, tp: int, pp: int, dp: int, micro_batch: int, batch: int
) -> None:
    task = task_of(model, accelerators, batch)
    layout = pm.ParallelLayout(
        tp=tp, pp=pp, dp=dp, micro_batch=micro_batch, zero_stage=0, sequence_parallel=False, recompute="full"
    )
    step = task.steps.price(degrees_of(layout, task.model.n_layers), batch, task.seq_len)
    efficiency = load_efficiency("a100-sxm-80gb")
    reference = reference_step_time_s(
        task.model, task.cluster, efficiency, task.software, layout, batch, task.seq_len, "fp16"
    )
    assert float(step.seconds) == pytest.approx(reference, rel=1e-12, abs=0)


LAYOUTS = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2, 4, 8]),
        "pp": st.sampled_from([1, 2, 3, 4, 6]),
        "dp": st.sampled_from([1, 2, 8]),
        "vpp": st.sampled_from([1, 2]),
        "micro_batch": st.sampled_from([1, 2]),
        "zero_stage": st.sampled_from([0, 1, 2, 3]),
        "sequence_parallel": st.booleans(),
        "recompute": st.sampled_from(["none", "selective", "full"]),
    }
)


def legal(options: dict) -> pm.ParallelLayout:
    if options["pp"] == 1:
        options["vpp"] = 1
    return pm.ParallelLayout(**options, schedule="interleaved" if options["vpp"] > 1 else "1f1b")


def exact_sums(term: Term) -> None:
    if term.children:
        assert term.seconds == sum(child.seconds for child in term.children)
    for child in term.children:
        exact_sums(child)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(LAYOUTS, st.sampled_from(["megatron-2021", "megatron-2022", "megatron-core-2025", "fsdp-2024"]))
def test_bounds_and_sums_hold(options: dict, software: str) -> None:
    layout = legal(options)
    task = task_of("megatron-1.7b", 512, 768, software)
    check_layout(layout, task.model, task.cluster, 768, task.seq_len)
    estimate = pm.estimate_training(
        task.model, task.cluster, layout=layout, global_batch=768, seq_len=2048, precision="fp16", software=software
    )
    assert estimate.step_time_lower_s <= estimate.step_time_s <= estimate.step_time_upper_s
    assert estimate.step_time_s == pytest.approx(sum(t.seconds for t in estimate.terms), rel=1e-12, abs=0)
    for term in estimate.terms:
        exact_sums(term)
        assert term.seconds >= 0
    memory = estimate.memory_bytes
    parts = memory.weights + memory.gradients + memory.optimizer + memory.activations + memory.workspace
    assert memory.total == pytest.approx(parts, rel=1e-12, abs=0)
    roofline = 3 * task.model.forward_flops(768, 2048, attention="causal") / layout.accelerators / 312e12
    assert estimate.step_time_s > roofline


@settings(max_examples=30, deadline=None, derandomize=True)
@given(LAYOUTS, st.sampled_from(["link_byte_per_s", "hbm_byte_per_s", "peak"]))
def test_better_hardware_is_never_slower(options: dict, what: str) -> None:
    layout = legal(options)
    cluster = pm.load_cluster("dgx-a100-80gb", 512)
    data = cluster.model_dump(mode="json")
    if what == "link_byte_per_s":
        for tier in data["tiers"]:
            tier["link_byte_per_s"]["value"] *= 2
    elif what == "hbm_byte_per_s":
        data["accelerator"]["hbm_byte_per_s"]["value"] *= 2
    else:
        data["accelerator"]["peak_flop_per_s"]["fp16"]["value"] *= 2
    times = [
        pm.estimate_training(
            "megatron-1.7b",
            machine,
            layout=layout,
            global_batch=768,
            seq_len=2048,
            precision="fp16",
            software="megatron-2022",
        ).step_time_s
        for machine in (cluster, pm.load_cluster(data))
    ]
    assert times[1] <= times[0] * (1 + 1e-12)


def test_arrays_equal_scalars() -> None:
    task = task_of("megatron-39b", 512, 1536, "megatron-2022")
    layouts = [
        pm.ParallelLayout(tp=tp, pp=pp, dp=512 // (tp * pp), micro_batch=1, recompute="selective", zero_stage=1)
        for tp in (2, 4, 8)
        for pp in (1, 2, 8)
    ]
    columns = {
        name: np.array([float(getattr(layout, name)) for layout in layouts])
        for name in ("tp", "pp", "dp", "vpp", "micro_batch")
    }
    one = degrees_of(layouts[0], task.model.n_layers)
    together = task.steps.price(
        type(one)(**columns, shards=columns["dp"], zero_stage=1, sequence_parallel=True, recompute="selective"),
        1536,
        2048,
    )
    for row, layout in enumerate(layouts):
        alone = task.steps.price(degrees_of(layout, task.model.n_layers), 1536, 2048)
        assert together.seconds[row] == pytest.approx(float(alone.seconds), rel=1e-12, abs=0)
        assert together.memory.total[row] == pytest.approx(float(alone.memory.total), rel=1e-12, abs=0)


def test_parent_is_the_sum_of_its_children() -> None:
    tree = Node.of("parent", Node.wait("a", 0.1, "host"), Node.wait("b", 0.2, "link"))
    assert tree.cost.seconds == 0.1 + 0.2


def test_overlap_can_be_turned_off_and_on() -> None:
    layout = {"tp": 8, "pp": 2, "dp": 32, "micro_batch": 1}
    question = {"global_batch": 768, "seq_len": 2048, "precision": "bf16"}
    off, default, on = (
        pm.estimate_training(
            "megatron-39b",
            pm.load_cluster("dgx-a100-80gb", 512),
            layout=layout | {"overlap": overlap},
            software="megatron-2022",
            **question,
        ).step_time_s
        for overlap in (False, None, True)
    )
    assert on < default < off


def test_a_law_outside_its_range_warns_and_widens() -> None:
    question = {"layout": {"tp": 8, "dp": 1}, "global_batch": 1, "precision": "bf16"}
    cluster = pm.load_cluster("dgx-h100", 8)
    usual, beyond = (
        pm.estimate_training("llama-3.1-8b", cluster, seq_len=seq_len, **question) for seq_len in (8192, 65536)
    )
    assert "tiled_attention_compute_time" not in {warning.formula for warning in usual.warnings}
    assert "tiled_attention_compute_time" in {warning.formula for warning in beyond.warnings}

    def width(estimate: TrainingEstimate) -> float:
        return estimate.step_time_interval_s[1] / estimate.step_time_interval_s[0]

    assert width(beyond) > width(usual)
