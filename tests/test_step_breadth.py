"""The step model over everything it claims to price: degrees, memory savers, adapters, and every model of the zoo."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layout import check_layout, make_layout
from perfmodel.predict.records import Term, TrainingEstimate
from perfmodel.predict.training_task import TrainingTask, degrees_of, training_task
from perfmodel.specs.registry import ids

DENSE, EXPERTS, LATENT = "llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite"
FAMILIES = (DENSE, EXPERTS, LATENT)
BATCH, SEQ_LEN = 256, 4096


@cache
def cluster(id: str = "dgx-h100", accelerators: int = 128) -> pm.Cluster:
    return pm.load_cluster(id, accelerators)


def estimate(model: str, more: dict[str, Any] | None = None, **layout: Any) -> TrainingEstimate:
    question = {"global_batch": BATCH, "seq_len": SEQ_LEN} | (more or {})
    return pm.estimate_training(model, cluster(), layout=layout, **question)


@cache
def task_of(model: str, software: str = "megatron-core-2025", trainable: str = "all") -> TrainingTask:
    return training_task(model, cluster(), global_batch=BATCH, seq_len=SEQ_LEN, software=software, trainable=trainable)


def term(found: TrainingEstimate, name: str) -> Term:
    return next(one for one in found.terms if one.name == name)


def names(found: TrainingEstimate) -> set[str]:
    return {one.name for one in found.terms}


# Expert and context parallelism


@pytest.mark.parametrize("model", [EXPERTS, LATENT, "qwen3-30b-a3b"])
def test_more_expert_ranks_hold_fewer_experts_each(model: str) -> None:
    found = [estimate(model, tp=1, dp=64, ep=ep) for ep in (1, 2, 4, 8)]
    weights = [one.memory_bytes.weights for one in found]
    spec = pm.load_model(model)
    experts = sum(
        count * spec.n_experts * product.params
        for kind, count in spec.layer_groups
        for product in spec.products(kind)
        if product.experts
    )
    for fewer, more, ep in zip(weights, weights[1:], (1, 2, 4), strict=False):
        # Two bytes of each expert weight go to the other half of the ranks.
        assert fewer - more == pytest.approx(2.0 * experts / ep / 2, rel=1e-9, abs=0)
    assert "expert_parallel" not in names(found[0])
    assert all("expert_parallel" in names(one) for one in found[1:])
    work = [one.mfu * one.step_time_s for one in found]
    assert work == pytest.approx([work[0]] * len(work), rel=1e-12, abs=0)


def test_expert_tensor_parallelism_cuts_each_expert() -> None:
    whole, cut = estimate(EXPERTS, tp=2, dp=32, ep=8), estimate(EXPERTS, tp=2, dp=32, ep=8, etp=2)
    assert cut.memory_bytes.weights < whole.memory_bytes.weights


@pytest.mark.parametrize("model", [DENSE, EXPERTS, LATENT])
def test_context_ranks_share_the_tokens(model: str) -> None:
    alone, shared = estimate(model, tp=2, dp=32), estimate(model, tp=2, dp=16, cp=2)
    assert Degrees(2.0, 1.0, 16.0, 1.0, 1.0, 32.0, cp=2.0).share(SEQ_LEN).tokens == SEQ_LEN / 2
    assert shared.memory_bytes.activations == pytest.approx(alone.memory_bytes.activations / 2, rel=0.02, abs=0)
    # ZeRO cuts among all ranks that hold the same weights, whether they share sequences or not.
    assert shared.memory_bytes.optimizer == alone.memory_bytes.optimizer
    assert "context_parallel" in names(shared) - names(alone)


@pytest.mark.parametrize("exchange", ["ring", "all-gather", "all-to-all"])
def test_every_exchange_of_context_ranks_is_priced(exchange: str) -> None:
    found = estimate(DENSE, dp=8, tp=2, cp=4, cp_exchange=exchange)
    assert term(found, "context_parallel").busy_seconds > 0


# Memory


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_zero_stages_order_memory_and_messages(model: str, micro_batch: int) -> None:
    found = [estimate(model, dp=64, micro_batch=micro_batch, zero_stage=stage) for stage in (0, 1, 2, 3)]
    totals = [one.memory_bytes.total for one in found]
    assert totals[3] <= totals[2] <= totals[1] <= totals[0]
    assert totals[3] < totals[0] / 2
    busy = [term(one, "data_parallel").busy_seconds for one in found]
    # Stages 1 and 2 move the same bytes; stage 3 gathers weights twice for every micro-batch.
    assert busy[1] == busy[2] < busy[3]


LAYOUTS = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2, 4, 8]),
        "pp": st.sampled_from([1, 2, 4]),
        "dp": st.sampled_from([1, 2]),
        "cp": st.sampled_from([1, 2]),
        "micro_batch": st.sampled_from([1, 2]),
        "zero_stage": st.sampled_from([0, 1, 3]),
    }
)
SOFTWARE = st.sampled_from(["megatron-2022", "megatron-core-2025", "torchtitan-2025"])


def memory(model: str, software: str, layout: dict[str, Any], trainable: str = "all") -> Any:
    task = task_of(model, software, trainable)
    chosen = make_layout(layout)
    check_layout(chosen, task.model, task.cluster, BATCH, SEQ_LEN)
    return task.steps.price(degrees_of(chosen, task.model.n_layers), BATCH, SEQ_LEN).memory


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(FAMILIES), SOFTWARE, LAYOUTS, st.booleans())
def test_computing_again_saves_memory(model: str, software: str, layout: dict[str, Any], sp: bool) -> None:
    kept = [
        float(memory(model, software, layout | {"sequence_parallel": sp, "recompute": recompute}).total)
        for recompute in ("none", "selective", "full")
    ]
    assert kept[2] <= kept[0] * (1 + 1e-12)
    assert kept[1] <= kept[0] * (1 + 1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(FAMILIES), SOFTWARE, LAYOUTS, st.sampled_from(["none", "selective", "full"]))
def test_sequence_parallelism_never_keeps_more(
    model: str, software: str, layout: dict[str, Any], recompute: str
) -> None:
    cut, whole = (
        memory(model, software, layout | {"recompute": recompute, "sequence_parallel": on}).activations
        for on in (True, False)
    )
    assert float(cut) <= float(whole) * (1 + 1e-12)


def test_more_modules_or_layers_computed_again_keep_less_and_take_longer() -> None:
    modules = [(), ("layernorm",), ("layernorm", "mlp"), ("layernorm", "mlp", "core_attn")]
    found = [estimate(DENSE, tp=2, dp=32, recompute="selective", recompute_modules=one) for one in modules]
    layers = [{"recompute": "none"}] + [{"recompute": "full", "recompute_layers": n} for n in (4, 16, 32)]
    for row in (found, [estimate(DENSE, tp=2, dp=32, **one) for one in layers]):
        kept, seconds = [one.memory_bytes.activations for one in row], [one.step_time_s for one in row]
        assert kept == sorted(kept, reverse=True)
        assert seconds == sorted(seconds)
        assert kept[-1] < kept[0]
        assert seconds[-1] > seconds[0]
    everything = estimate(DENSE, tp=2, dp=32, recompute="full")
    assert everything.memory_bytes.total < found[0].memory_bytes.total
    assert estimate(DENSE, tp=2, dp=32, **layers[-1]).step_time_s == everything.step_time_s


def test_offload_moves_activations_to_the_host() -> None:
    shares = (0.0, 0.25, 0.5, 1.0)
    found = [estimate(DENSE, tp=2, dp=32, offload={"activations": share}) for share in shares]
    kept = [one.memory_bytes.activations for one in found]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0]
    assert "offload" not in names(found[0])
    busy = [term(one, "offload").busy_seconds for one in found[1:]]
    assert [one / busy[-1] for one in busy] == pytest.approx(shares[1:], rel=1e-9, abs=0)
    # All 32 layers, or the whole share: two names for one thing.
    layers = estimate(DENSE, tp=2, dp=32, offload={"activation_layers": 32})
    assert layers.memory_bytes == found[-1].memory_bytes


def test_stages_placed_by_hand_are_the_even_ones_when_even() -> None:
    task = task_of(DENSE, "megatron-2022")  # a stack that places layers evenly
    steps = [
        task.steps.price(degrees_of(make_layout({"tp": 2, "pp": 4, "dp": 8} | more), 32), BATCH, SEQ_LEN)
        for more in ({}, {"stage_layers": (8, 8, 8, 8)}, {"stage_layers": (2, 14, 14, 2)})
    ]
    even, by_hand, uneven = steps
    assert float(by_hand.seconds) == float(even.seconds)
    assert float(by_hand.memory.total) == float(even.memory.total)
    assert float(uneven.seconds) > float(even.seconds)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(FAMILIES), SOFTWARE, LAYOUTS, st.sampled_from(["none", "selective", "full"]))
def test_bounds_hold_for_every_family(model: str, software: str, layout: dict[str, Any], recompute: str) -> None:
    task = task_of(model, software)
    chosen = make_layout(layout | {"recompute": recompute, "ep": min(layout["dp"] * layout["cp"], 4)})
    if task.model.n_experts == 1:
        chosen = make_layout(layout | {"recompute": recompute})
    step = task.steps.price(degrees_of(chosen, task.model.n_layers), BATCH, SEQ_LEN)
    assert float(step.lower_s) <= float(step.seconds) <= float(step.upper_s) * (1 + 1e-12)


def test_a_host_that_launches_slowly_is_no_lower_bound_above_the_estimate() -> None:
    """Recomputation that ends early launches less than a whole layer."""
    found = estimate(
        DENSE, {"software": "torchtitan-2025", "seq_len": 1024, "global_batch": 64}, tp=8, recompute="full"
    )
    assert found.step_time_lower_s <= found.step_time_s


# What learns, and what is padding


@pytest.mark.parametrize("model", FAMILIES)
def test_adapters_need_less_memory_than_all_weights(model: str) -> None:
    totals = [
        float(memory(model, "megatron-core-2025", {"tp": 2, "dp": 8}, trainable).total)
        for trainable in ("all", "lora:r=64", "lora:r=8", "qlora:r=8")
    ]
    assert totals == sorted(totals, reverse=True)
    assert totals[2] < totals[0] / 1.5
    full, adapted = estimate(model, dp=64), estimate(model, {"trainable": "lora:r=8"}, dp=64)
    # No weight gradients of frozen weights: two thirds of the arithmetic, plus the adapters' own.
    assert term(adapted, "layers").seconds < term(full, "layers").seconds


def test_padding_costs_time_and_packing_saves_attention() -> None:
    full, padded, packed = (
        estimate(DENSE, more, tp=2, dp=32)
        for more in ({}, {"mean_seq_len": 1024}, {"mean_seq_len": 1024, "packing": "packed"})
    )
    assert padded.step_time_s == full.step_time_s
    assert padded.tokens_per_s == pytest.approx(full.tokens_per_s / 4, rel=1e-12, abs=0)
    assert packed.step_time_s < full.step_time_s
    assert packed.tokens_per_s > full.tokens_per_s


# The whole zoo


def sensible(model: pm.Architecture) -> dict[str, int]:
    """A layout of 512 accelerators that a person would try first: small ones data parallel, large ones in stages."""
    large = model.n_params > 20e9
    most, pp = (1, 8) if large and model.experts else (8, 8) if large else (2, 1)
    fits = (t for t in (8, 4, 2, 1) if t <= most and not any(n % t for n in (model.n_heads, model.d_ff)))
    tp = next(t for t in fits if not model.n_kv_heads % t or not t % model.n_kv_heads)
    return {"tp": tp, "pp": pp, "dp": 512 // (tp * pp), "ep": math.gcd(64, model.n_experts)}


@pytest.mark.parametrize("on", ["dgx-h100", "dgx-b200"])
@pytest.mark.parametrize("id", ids("models"))
def test_every_model_prices(id: str, on: str) -> None:
    model = pm.load_model(id)
    layout, seq_len = sensible(model), min(4096, model.max_seq_len)
    found = pm.estimate_training(
        model, cluster(on, 512), layout=layout, global_batch=32 * layout["dp"], seq_len=seq_len
    )
    assert 0 < found.step_time_lower_s <= found.step_time_s <= found.step_time_upper_s < math.inf
    low, high = found.step_time_interval_s
    assert 0 < low < found.step_time_s < high
    assert 0 < found.mfu <= found.hfu < 1
    assert found.mfu_causal <= found.mfu
    parts = found.memory_bytes
    held = (parts.weights, parts.gradients, parts.optimizer, parts.activations, parts.workspace)
    assert min(held) >= 0
    assert sum(held) == pytest.approx(parts.total, rel=1e-12, abs=0)
    # Never less than the weights and the states that the layout leaves on the average rank.
    assert parts.total > 2.0 * model.n_params / 512
    found.to_json()


# One definition for floats and arrays

GRID = [
    (tp, pp, dp, cp, micro_batch, vpp)
    for tp in (1, 2, 4)
    for pp in (1, 2, 3)
    for dp in (2, 4)
    for cp in (1, 2)
    for micro_batch in (1, 2)
    for vpp in ((1, 2) if pp > 1 else (1,))
]


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize(
    "switches",
    [
        {"zero_stage": 1, "recompute": "selective", "sequence_parallel": True},
        {"zero_stage": 3, "recompute": "full", "recompute_layers": 5.0},
        {"zero_stage": 0, "recompute": "none", "offload_share": 0.5},
    ],
    ids=["selective", "full", "offload"],
)
def test_arrays_of_layouts_equal_one_at_a_time(model: str, switches: dict[str, Any]) -> None:
    task = task_of(model)
    columns = np.array(GRID, dtype=np.float64).T
    most = task.model.n_experts

    def degrees(tp: Any, pp: Any, dp: Any, cp: Any, micro_batch: Any, vpp: Any) -> Degrees:
        ep = np.minimum(dp * cp * tp, float(most)) if most > 1 else 1.0
        ep = 2.0 ** np.floor(np.log2(ep))
        return Degrees(tp, pp, dp, vpp, micro_batch, dp * cp, cp=cp, ep=ep, **switches)

    together = task.steps.price(degrees(*columns), BATCH, SEQ_LEN)
    alone = [task.steps.price(degrees(*map(float, row)), BATCH, SEQ_LEN) for row in GRID]
    readings = {
        "seconds": lambda step: step.seconds,
        "lower": lambda step: step.lower_s,
        "upper": lambda step: step.upper_s,
        "memory": lambda step: step.memory.total,
        "activations": lambda step: step.memory.activations,
        "flops": lambda step: step.recompute_flops,
    }
    for name, read in readings.items():
        array = np.broadcast_to(np.asarray(read(together), dtype=np.float64), (len(GRID),))
        assert array == pytest.approx(np.array([float(read(step)) for step in alone]), rel=1e-12, abs=0), name


# What is allowed, and what is refused


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (DENSE, {"cp": 8, "dp": 8}),
        (EXPERTS, {"ep": 8, "dp": 64}),
        (EXPERTS, {"tp": 8, "etp": 8, "ep": 8, "dp": 8}),
        (LATENT, {"ep": 64, "dp": 32, "cp": 2}),
        (DENSE, {"offload": {"activations": 1.0}, "dp": 64}),
        (DENSE, {"pp": 4, "stage_layers": (8, 8, 8, 8), "dp": 16}),
        (DENSE, {"pp": 2, "vpp": 4, "schedule": "interleaved", "dp": 32}),
        (DENSE, {"zero_stage": 3, "dp": 64, "dp_shard": 8}),
    ],
)
def test_what_is_allowed(model: str, layout: dict[str, Any]) -> None:
    check_layout(make_layout(layout), pm.load_model(model), cluster(), BATCH, SEQ_LEN)


@pytest.mark.parametrize(
    ("model", "layout", "said"),
    [
        (DENSE, {"ep": 2, "dp": 2}, "llama-3.1-8b has no experts, so ep and etp must be 1"),
        (EXPERTS, {"ep": 16, "dp": 16}, "ep: must divide n_experts 8 .got 16.; allowed: 1, 2, 4, 8"),
        (EXPERTS, {"ep": 8, "dp": 4}, "ep . etp must divide dp . cp . tp = 4"),
        (EXPERTS, {"tp": 8, "etp": 3, "dp": 3}, "etp: must divide the experts' d_ff 14336"),
        (DENSE, {"cp": 3}, "cp"),
        (DENSE, {"offload": {"activation_layers": 33}}, "activation_layers must be from 0 to 32"),
        (DENSE, {"offload": {"weights": 1}}, "offload: unknown key 'weights'"),
        (DENSE, {"recompute_modules": ("attention",)}, "recompute_modules: unknown module 'attention'"),
        (DENSE, {"pp": 2, "stage_layers": (16, 17)}, "stage_layers: must be pp = 2 numbers that add up to 32"),
        (DENSE, {"pp": 35}, "35 stages of 1 chunks need 35 layers"),
        (DENSE, {"tp": 8, "dp": 17}, "= 136 accelerators, dgx-h100 has 128"),
        (DENSE, {"dp": 4, "dp_shard": 3}, "dp_shard: must divide dp 4"),
        (DENSE, {"schedule": "zb-v", "pp": 2}, "vpp: schedule 'zb-v' places two chunks a rank"),
        (DENSE, {"vocab_parallel": "vocab-1"}, "vocab_parallel: only 'none' is priced yet"),
        (DENSE, {"attention_dp": 2}, "attention_dp: is for serving"),
        (DENSE, {"cp": 8, "tp": 8, "cp_exchange": "all-to-all"}, "cp_exchange: all-to-all gives each rank whole heads"),
    ],
)
def test_what_is_refused(model: str, layout: dict[str, Any], said: str) -> None:
    with pytest.raises(pm.PlanError, match=said):
        check_layout(make_layout(layout), pm.load_model(model), cluster(), BATCH, SEQ_LEN)
