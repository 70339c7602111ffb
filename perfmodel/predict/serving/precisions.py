"""Precisions of a deployment, and the format of a matrix product that they lead to."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.errors import PlanError, unknown_name
from perfmodel.predict.attention import CACHE_BYTES_PER_ELEMENT
from perfmodel.specs.architecture import BYTE_PER_VALUE

__all__ = ["KV_PRECISIONS", "WEIGHT_PRECISIONS", "Precisions", "make_precisions"]

WEIGHT_PRECISIONS = ("fp16", "bf16", "fp8", "fp8-block", "int8", "int4", "nvfp4", "mxfp4")
KV_PRECISIONS = ("fp16", "bf16", "fp8")
ACTIVATION_PRECISIONS = ("fp16", "bf16", "fp8", "int8", "nvfp4")
_SIXTEEN = ("fp16", "bf16")
# Weights of 4 bits in blocks are widened like integers where 16 bits are multiplied.
_WEIGHT_ONLY = {"int8": "int8-weight-only", "int4": "int4-weight-only", "mxfp4": "int4-weight-only"}
# A scale of 4 bytes for 128 x 128 weights; group scales of 2 bytes for 128 weights (AWQ, GPTQ).
_BYTES = {"fp8-block": 1.0 + 4.0 / 128**2, "int4": 0.5 + 2.0 / 128}


@dataclass(frozen=True, slots=True)
class Precisions:
    """What weights, inputs of products and the cache are kept in; `product` is the format of a matrix product."""

    weights: str
    activations: str
    kv_cache: str
    product: str

    @property
    def weight_bytes(self) -> float:
        """Bytes [B] of one weight of the layers, scales included."""
        return _BYTES.get(self.weights, BYTE_PER_VALUE.get(self.weights, 1.0))

    @property
    def kv_bytes(self) -> float:
        """Bytes [B] of one value of the cache."""
        return CACHE_BYTES_PER_ELEMENT[self.kv_cache]

    @property
    def is_narrow(self) -> bool:
        """Whether inputs of products are narrowed on the way."""
        return self.activations not in _SIXTEEN


def make_precisions(weights: str, activations: str | None, kv_cache: str | None) -> Precisions:
    """The precisions of a deployment; raises `PlanError` for those that no kernel multiplies.

    `activations` None: those of the weights where hardware multiplies them (fp8, nvfp4), else 16 bits; `kv_cache` None:
    16 bits.
    """
    if weights not in WEIGHT_PRECISIONS:
        raise PlanError(f"weights: {unknown_name('precision', weights, WEIGHT_PRECISIONS)}")
    if kv_cache is not None and kv_cache not in KV_PRECISIONS:
        raise PlanError(f"kv_cache: {unknown_name('precision', kv_cache, KV_PRECISIONS)}")
    if activations is not None and activations not in ACTIVATION_PRECISIONS:
        raise PlanError(f"activations: {unknown_name('precision', activations, ACTIVATION_PRECISIONS)}")
    narrow = {"fp8-block": "fp8", "int8": "bf16", "int4": "bf16", "mxfp4": "bf16"}
    inputs = activations or narrow.get(weights, weights)
    if inputs in _SIXTEEN and weights in _SIXTEEN:
        product = weights
    elif inputs in _SIXTEEN and weights in _WEIGHT_ONLY:
        product = _WEIGHT_ONLY[weights]
    elif inputs == narrow.get(weights, weights) or (inputs, weights) == ("int8", "int8"):
        product = weights
    else:
        raise PlanError(f"activations: {weights} weights are not multiplied with {inputs} inputs (got {inputs!r})")
    return Precisions(weights, inputs, kv_cache or "bf16", product)
