"""The share of an accelerator's memory that an engine is told to fill: three engines mean three different things."""

from __future__ import annotations

from perfmodel.formulas._registry import formula

__all__ = ["memory_fraction_of_free", "memory_fraction_of_total", "memory_fraction_static"]


@formula
def memory_fraction_of_total(cache_bytes, capacity_bytes, weights_bytes, other_bytes):
    r"""The fraction that makes vLLM give the cache so many bytes: of all memory, with everything it holds.

    .. math:: f = \frac{K + W + A}{M}

    Symbols      K  cache_bytes [B] of the cache;  M  capacity_bytes [B] of the accelerator;
                 W  weights_bytes [B] on it;  A  other_bytes [B] activations and workspace;  returns [1]
    Assumptions  the engine measures activations and workspace as they are given here
    Valid for    cache_bytes >= 0; capacity_bytes > 0; weights_bytes >= 0; other_bytes >= 0
    Monotone     cache_bytes +; capacity_bytes -; weights_bytes +; other_bytes +
    Source       vLLM, gpu_memory_utilization, https://docs.vllm.ai/en/v0.10.0/api/vllm/config.html
    """
    return (cache_bytes + weights_bytes + other_bytes) / capacity_bytes


@formula
def memory_fraction_static(cache_bytes, capacity_bytes, weights_bytes):
    r"""The fraction that makes SGLang give the cache so many bytes: of all memory, for weights and cache alone.

    .. math:: f = \frac{K + W}{M}

    Symbols      K  cache_bytes [B] of the cache;  M  capacity_bytes [B] of the accelerator;
                 W  weights_bytes [B] on it;  returns [1]
    Assumptions  activations, workspace and captured graphs live in the rest
    Valid for    cache_bytes >= 0; capacity_bytes > 0; weights_bytes >= 0
    Monotone     cache_bytes +; capacity_bytes -; weights_bytes +
    Source       SGLang, mem_fraction_static, https://docs.sglang.io/advanced_features/server_arguments.html
    """
    return (cache_bytes + weights_bytes) / capacity_bytes


@formula
def memory_fraction_of_free(cache_bytes, capacity_bytes, weights_bytes, other_bytes):
    r"""The fraction that makes TensorRT-LLM give the cache so many bytes: of what weights and buffers leave free.

    .. math:: f = \frac{K}{M - W - A}

    Symbols      K  cache_bytes [B] of the cache;  M  capacity_bytes [B] of the accelerator;
                 W  weights_bytes [B] on it;  A  other_bytes [B] activations and workspace;  returns [1]
    Assumptions  the engine measures what is free after it has loaded the weights and run its largest iteration
    Valid for    cache_bytes >= 0; capacity_bytes > 0; weights_bytes >= 0; other_bytes >= 0; fails where weights and
                 buffers fill the accelerator
    Source       NVIDIA, TensorRT-LLM, kv_cache_free_gpu_memory_fraction,
                 https://github.com/NVIDIA/TensorRT-LLM/blob/00209af149e7774406881a37283dce303571eb11/tensorrt_llm/commands/serve.py
    """
    return cache_bytes / (capacity_bytes - weights_bytes - other_bytes)
