"""What the backward pass repeats of the forward pass, and the arithmetic that this adds."""

from __future__ import annotations

from collections.abc import Mapping

from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Layer
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.software import Software

__all__ = ["MODULES", "planned_modules", "recompute_flops", "repeated_costs"]

MODULES: dict[str, tuple[str, ...]] = {
    "core_attn": ("attention_core",),
    "mla_up_proj": ("q_up", "kv_up"),
    "mlp": ("mlp_up", "mlp_down", "mlp_act"),
    "moe": ("router", "expert_up", "expert_down", "shared_up", "shared_down", "expert_parallel", "mlp_act", "moe_act"),
    "shared_experts": ("shared_up", "shared_down", "mlp_act"),
    "mlp_act": ("mlp_act",),
    "moe_act": ("moe_act",),
    "layernorm": ("layernorm",),
}
"""What recomputing a module repeats: operations of a layer, and its element-wise parts (`traffic.module_bytes`).

Names are those of Megatron-Core.
"""


def planned_modules(software: Software, model: Architecture) -> tuple[str, ...]:
    """The modules that a planner recomputes together: those that the stack offers and the model has."""
    absent = {"mla_up_proj": model.latent is None, "moe_act": model.experts is None}
    return tuple(module for module in software.recompute_modules if not absent.get(module, False))


def repeated_costs(
    software: Software, block: Layer, recompute: str, modules: tuple[str, ...], parts: Mapping[str, Cost]
) -> dict[str, Cost]:
    """Costs of what the backward pass repeats of one layer that is recomputed; `parts` are its element-wise modules."""
    if recompute == "full":
        again = dict(block.forward)
        if software.recompute_stops_early:
            # Its result is no input of any gradient: recomputation ends when the last saved tensor is back.
            for last in ("mlp_down", "expert_down", "shared_down"):
                again.pop(last, None)
            if "tensor_parallel" in again:
                again["tensor_parallel"] = again["tensor_parallel"] * 0.5
        return again
    if recompute == "selective":
        costs = block.forward | dict(parts)
        return {name: costs[name] for name in _selected(software, modules) if name in costs}
    return {}


def _selected(software: Software, modules: tuple[str, ...]) -> tuple[str, ...]:
    # A fused kernel never stores the scores, so by default there is nothing to repeat.
    modules = modules or (("core_attn",) if software.attention == "unfused" else ())
    return tuple(dict.fromkeys(name for module in modules for name in MODULES[module]))


def recompute_flops(
    model: Architecture, software: Software, d: Degrees, share: Number, global_batch: int, seq_len: int
) -> Number:
    """Arithmetic of matrix products that a step repeats [flop]; `share` [1] of all layers is run again as a whole."""
    if d.recompute == "full":
        head = 2.0 * sum(p.n * p.k for p in model.head_products) * global_batch * seq_len
        return (model.forward_flops(global_batch, seq_len, attention="full") - head) * share
    if d.recompute != "selective":
        return 0.0
    flops = 0.0
    selected = _selected(software, d.recompute_modules)
    for kind, count in model.layer_groups:
        for product in model.products(kind):
            if product.name in selected:
                used = model.experts_per_token if product.experts else 1
                flops += 2.0 * count * product.n * product.k * used * global_batch * seq_len
        if "attention_core" in selected and kind.mixer not in ("none", "mamba2", "linear"):
            flops += 4.0 * count * global_batch * float(seq_len) ** 2 * model.n_heads * model.d_head
    return flops
