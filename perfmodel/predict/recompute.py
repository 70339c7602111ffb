"""What the backward pass repeats of the forward pass, and the arithmetic that this adds."""

from __future__ import annotations

from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Layer
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.software import Software

__all__ = ["MODULES", "recompute_flops", "repeated_costs"]

MODULES: dict[str, tuple[str, ...]] = {
    "core_attn": ("attention_core",),
    "mla_up_proj": ("q_up", "kv_up"),
    "mlp": ("mlp_up", "mlp_down"),
    "moe": ("router", "expert_up", "expert_down", "shared_up", "shared_down", "expert_parallel"),
    "shared_experts": ("shared_up", "shared_down"),
    # Element-wise kernels: a pass over memory that other element-wise work hides in the error of its count.
    "mlp_act": (),
    "moe_act": (),
    "layernorm": (),
}
"""The operations of a layer that recomputing a module repeats; names are those of Megatron-Core."""


def repeated_costs(software: Software, block: Layer, recompute: str, modules: tuple[str, ...] = ()) -> dict[str, Cost]:
    """Costs of what the backward pass repeats of one layer that is recomputed."""
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
        return {name: block.forward[name] for name in _selected(software, modules) if name in block.forward}
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
