"""What the host adds to a step: launches that come late, and experts that wait for their token counts."""

from __future__ import annotations

from perfmodel.formulas.overlap import host_exposed_time
from perfmodel.predict.cost import Number, total
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.layer import Layer
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.software import Software

__all__ = ["host_floor_s", "host_wait_s"]

# Launches of a forward pass: a dense layer (four products, attention, norms, casts, residuals); what a router adds
# (logits, top-k, permutation and its inverse, exchanges); and each expert of the rank (two products, and for narrow
# formats the casts of their inputs).
_DENSE_LAUNCHES, _ROUTER_LAUNCHES = 16.0, 20.0
_EXPERT_LAUNCHES = {False: 2.0, True: 5.0}


def _expert_share(model: Architecture) -> float:
    return sum(count for kind, count in model.layer_groups if kind.ffn == "experts") / model.n_layers


def _expert_ratio(model: Architecture, kernels: Kernels, ep: Number) -> Number:
    """Launches around the experts of a rank over those of a dense layer."""
    own = _EXPERT_LAUNCHES[kernels.is_narrow] * model.n_experts / ep
    return (_ROUTER_LAUNCHES + own) / _DENSE_LAUNCHES


def host_wait_s(
    model: Architecture, software: Software, kernels: Kernels, block: Layer, repeats_all: bool, ep: Number
) -> Number:
    """Seconds that the mean layer and micro-batch wait for the host.

    A layer waits where its kernels take less than their launches. One with experts copies the token count of each to
    the host before it can launch their products: the queue runs empty, so the launches around its experts all count.
    """
    forward_s = total(block.forward.values()).seconds
    waits = _phase(forward_s, float(software.host_layer_s), 2.0 if repeats_all else 1.0)
    backward_host = float(software.host_layer_s) * float(software.host_backward_ratio)
    waits = waits + _phase(total(block.backward.values()).seconds, backward_host, 1.0)
    part = _expert_share(model) if software.expert_counts_on_host else 0.0
    if not part:
        return waits
    return waits + part * host_floor_s(software, repeats_all) * _expert_ratio(model, kernels, ep)


def _phase(device_s: Number, host_s: float, times: float) -> Number:
    return host_exposed_time(device_s, host_s) * times


def host_floor_s(software: Software, repeats_all: bool) -> float:
    """Seconds in which the host launches a dense layer, all passes."""
    rounds = 1.0 + float(software.host_backward_ratio) + (1.0 if repeats_all else 0.0)
    return float(software.host_layer_s) * rounds
