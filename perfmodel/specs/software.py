"""Software generations: which operations are fused, what overlaps, and at most six numbers each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from perfmodel.specs import registry
from perfmodel.specs.quantity import Quantity, QuantityOrZero, SourcedSpec

__all__ = ["DEFAULT_TRAINING_SOFTWARE", "NUMBERS", "Software", "default_training_software", "load_software"]

DEFAULT_TRAINING_SOFTWARE = "megatron-core-2025"
_DEFAULT_BY_VENDOR = {"Google": "maxtext-2025"}
NUMBERS = (
    "host_layer_s",
    "host_backward_ratio",
    "exposed_share",
    "loss_bytes_per_logit",
    "optimizer_bytes_per_param",
    "workspace_bytes",
)


class Software(SourcedSpec):
    """One generation of a training stack, the same for all accelerators. Raises `SpecError`.

    The six numbers are `host_layer_s` [s] to launch one dense layer forward, `host_backward_ratio` [1] backward over
    forward, `exposed_share` [1] what an overlap leaves of the shorter activity, `loss_bytes_per_logit` [B] traffic of
    softmax and cross entropy forward and backward, `optimizer_bytes_per_param` [B] traffic of the optimizer step, and
    `workspace_bytes` [B] that the allocator counts beyond tensors. Everything else says what the stack does:

    * `attention`, `norm_backward`, `activation`: which kernels are fused; `wgrad_accumulation`: in the product or not;
    * `overlap_*`: which messages run behind computation; `context_parallel`: how key-value heads are shared;
    * `recompute_stops_early`: recomputation of a layer ends when its last saved tensor is back, not with its result;
    * `recompute_modules`: the cheap modules that selective recomputation can name, which a planner recomputes together;
    * `shards_by_layer`: ZeRO's messages are those of one layer, whatever the stage;
    * `places_layers_freely`: pipeline layouts name the layers of each chunk and relieve the stage with the head;
    * `schedules`: the pipeline schedules that it offers, which a planner searches;
    * `expert_counts_on_host`, `expert_dispatch`: the host waits for the tokens of each expert; a token's copies travel
      one by one, or once to each node.
    """

    id: str
    name: str
    kind: Literal["training"] = "training"
    inherits: tuple[str, ...] = ()
    attention: Literal["unfused", "flash"]
    attention_library: str
    elementwise_library: str
    norm_backward: Literal["split", "fused", "eager"]
    activation: Literal["fused", "eager"] = "fused"
    wgrad_accumulation: Literal["separate", "fused"]
    main_gradient_bytes: dict[str, float]
    overlap_tensor: Literal["none", "backward", "all"]
    overlap_pipeline: bool
    overlap_data: bool
    context_parallel: Literal["ring", "all-gather", "all-to-all"] = "ring"
    recompute_stops_early: bool = False
    recompute_modules: tuple[str, ...] = ()
    shards_by_layer: bool = False
    places_layers_freely: bool = False
    expert_counts_on_host: bool = False
    expert_dispatch: Literal["per-copy", "per-node"] = "per-copy"
    schedules: tuple[str, ...] = ("gpipe", "1f1b", "interleaved")
    calibrated_on: tuple[str, ...] = ()
    host_layer_s: QuantityOrZero
    host_backward_ratio: Quantity
    exposed_share: QuantityOrZero
    loss_bytes_per_logit: Quantity
    optimizer_bytes_per_param: Quantity
    workspace_bytes: QuantityOrZero

    @field_validator("inherits", "schedules", "calibrated_on", "recompute_modules", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def gradient_bytes(self, dtype: str) -> float:
        """Bytes of one accumulated gradient [B] when training in `dtype`."""
        return self.main_gradient_bytes.get(dtype, 4.0)


def load_software(what: str | Path | Mapping[str, Any] | Software | None = None) -> Software:
    """The generation of that id, path or dict (None: the default); raises `SpecError`."""
    return registry.load("software", DEFAULT_TRAINING_SOFTWARE if what is None else what, Software)


def default_training_software(vendor: str) -> str:
    """Id of the stack that runs on a vendor's accelerators when none is named."""
    return _DEFAULT_BY_VENDOR.get(vendor, DEFAULT_TRAINING_SOFTWARE)
