"""Generations of serving engines: which kernels they call, what they fuse and capture, and six numbers each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from perfmodel.specs import registry
from perfmodel.specs.quantity import Quantity, QuantityOrZero, SourcedSpec
from perfmodel.specs.software import Software, load_software

__all__ = [
    "DEFAULT_SERVING_SOFTWARE",
    "SERVING_NUMBERS",
    "ServingSoftware",
    "load_any_software",
    "load_serving_software",
]

DEFAULT_SERVING_SOFTWARE = "vllm-2025"
SERVING_NUMBERS = (
    "step_s",
    "sequence_s",
    "prompt_s",
    "request_s",
    "memory_fraction",
    "workspace_bytes",
)
_Whole = Annotated[int, Field(ge=1)]


class ServingSoftware(SourcedSpec):
    """One generation of a serving engine, the same for all accelerators. Raises `SpecError`.

    The six numbers are `step_s` [s] between iterations, `sequence_s` [s] of the front end for each token it hands out,
    `prompt_s` [s] of each new prompt in its iteration (admission, blocks, an iteration that no captured graph fits),
    `request_s` [s] of a request outside of iterations, `memory_fraction` [1] of an accelerator that the engine fills,
    and `workspace_bytes` [B] beyond weights, activations and cache. Everything else says what the engine does:

    * `*_library`: whose kernels it calls; `fused_quantise`: norms and activations write the narrow format themselves;
      `splits_products`: products of few rows sum in parts in every format; `vector_elements` a thread loads at once;
    * `in_network`: long messages are summed by the switch where it can (NCCL with NVLS);
    * `all_reduce_blocks`: most blocks of its own all-reduce, which share a message evenly (none: no such limit);
    * `grouped_decode`: group sizes of queries for which decode reads a key once (empty: all);
    * `mixes_phases`: prompts join the iteration of running answers, else they have iterations of their own;
    * `serial_front_end`: what `sequence_s` is spent on runs in the engine's own process, between iterations;
    * `memory_rule`: what `memory_fraction` is of: "all" memory, weights, activations and workspace inside (vLLM); what
      these leave "free" (TensorRT-LLM); or "static", weights and cache alone, everything else outside (SGLang);
    * `block_tokens`, `max_batched_tokens`, `max_batch`: a block of the cache, and what one iteration takes.
    """

    id: str
    name: str
    kind: Literal["serving"] = "serving"
    inherits: tuple[str, ...] = ()
    prefill_library: str
    decode_library: str
    all_reduce_library: str | None = None
    framework: str | None = None
    fused_quantise: bool = False
    splits_products: bool = False
    vector_elements: Annotated[float, Field(ge=1, le=16)] = 1.0
    in_network: bool = True
    all_reduce_blocks: _Whole | None = None
    grouped_decode: tuple[_Whole, ...] = ()
    mixes_phases: bool = True
    serial_front_end: bool = False
    memory_rule: Literal["all", "free", "static"] = "all"
    block_tokens: _Whole
    max_batched_tokens: _Whole
    max_batch: _Whole
    calibrated_on: tuple[str, ...] = ()
    step_s: QuantityOrZero
    sequence_s: QuantityOrZero
    prompt_s: QuantityOrZero
    request_s: QuantityOrZero
    memory_fraction: Quantity
    workspace_bytes: QuantityOrZero

    @field_validator("inherits", "calibrated_on", "grouped_decode", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


def load_serving_software(
    what: str | Path | Mapping[str, Any] | ServingSoftware | None = None,
) -> ServingSoftware:
    """The generation of that id, path or dict (None: the default); raises `SpecError`.

    >>> load_serving_software().block_tokens
    16
    """
    return registry.load("software", DEFAULT_SERVING_SOFTWARE if what is None else what, ServingSoftware)


def load_any_software(id: str) -> Software | ServingSoftware:
    """The generation of that id, of training or of serving; raises `SpecError`."""
    kind = registry.read_toml(registry.path_of("software", id)).get("kind")
    return load_serving_software(id) if kind == "serving" else load_software(id)
