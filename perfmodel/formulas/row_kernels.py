r"""Kernels that give each row of a matrix to one block of threads: norm, gated activation, rotary embedding."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import ceil_div, less_equal, maximum, minimum, where

__all__ = ["block_steps", "resident_blocks", "row_kernel_time", "uncached_bytes"]


@formula
def block_steps(elements, threads_per_block):
    r"""Passes of one block of threads over the elements of its row, one element a thread.

    .. math:: s = \lceil w / \tau \rceil

    Symbols      w  elements [1] of one row;  \tau  threads_per_block [1] threads of a block;  returns [1]
    Valid for    elements >= 1; threads_per_block >= 1
    Monotone     elements +; threads_per_block -
    Source       vLLM, csrc/layernorm_kernels.cu, csrc/activation_kernels.cu and csrc/pos_encoding_kernels.cu (strided
                 loops of one block a token), https://github.com/vllm-project/vllm/tree/v0.4.2/csrc
    """
    return ceil_div(elements, threads_per_block)


@formula
def resident_blocks(n_cores, threads_per_core, threads_per_block, max_blocks_per_core=32.0):
    r"""Blocks of threads that an accelerator works on at a time.

    .. math:: R = C \, \min(\tau_c / \tau,\; b)

    Symbols      C  n_cores [1] cores (SMs);  \tau_c  threads_per_core [1] a core holds;
                 \tau  threads_per_block [1] threads of a block;  b  max_blocks_per_core [1] blocks a core holds;
                 returns [1]
    Assumptions  threads bind, not registers or shared memory; blocks are powers of two, or their last one is shared out
    Valid for    n_cores >= 1; threads_per_core >= 1; threads_per_block >= 1; max_blocks_per_core >= 1
    Monotone     n_cores +; threads_per_core +; threads_per_block -; max_blocks_per_core +
    Source       NVIDIA, "CUDA C++ Programming Guide", compute capabilities, table of technical specifications,
                 https://docs.nvidia.com/cuda/cuda-c-programming-guide/
    """
    return n_cores * minimum(threads_per_core / threads_per_block, max_blocks_per_core)


@formula
def uncached_bytes(n_bytes, cache_bytes, cached_share):
    r"""Traffic that reaches memory when operands small enough are still in the last cache.

    .. math:: B_m = 0 \;\text{if}\; B \le \kappa L, \quad B \;\text{otherwise}

    Symbols      B  n_bytes [B] read plus written;  L  cache_bytes [B] last-level cache;
                 \kappa  cached_share [1] of it that operands may fill and stay;  returns [B]
    Assumptions  all or nothing: what exceeds the cache evicts itself before it is read again
    Valid for    n_bytes >= 0; cache_bytes >= 0; 0 <= cached_share <= 1
    Monotone     n_bytes +; cache_bytes -; cached_share -
    Source       Drepper 2007, "What every programmer should know about memory", section 3.3 (a working set beyond the
                 cache is evicted before its reuse), https://people.freebsd.org/~lstewart/articles/cpumemory.pdf
    """
    return where(less_equal(n_bytes, cached_share * cache_bytes), 0, n_bytes)


@formula
def row_kernel_time(rows, steps, resident_blocks, step_s, n_bytes, byte_per_s, memory_efficiency, launch_s):
    r"""Time of a kernel with one block of threads a row: the slower of its rounds of blocks and its traffic.

    .. math:: T = t_0 + \max\left(\left\lceil \frac{N}{R} \right\rceil s\, t_s,\; \frac{B}{e_m \beta}\right)

    Symbols      N  rows [1] rows, one a token;  s  steps [1] passes of a block over its row;
                 R  resident_blocks [1] blocks at a time;  t_s  step_s [s] latency of one pass;
                 B  n_bytes [B] that reach memory;  \beta  byte_per_s [B/s] memory bandwidth;
                 e_m  memory_efficiency [1] share of the bandwidth reached;  t_0  launch_s [s] floor of the kernel;
                 returns [s]
    Assumptions  blocks of a round are equal and start together; one row alone is bound by the latency of its passes
    Valid for    rows >= 1; steps >= 1; resident_blocks >= 1; step_s >= 0; n_bytes >= 0; 0 <= memory_efficiency <= 1;
                 launch_s >= 0
    Monotone     rows +; steps +; resident_blocks -; step_s +; n_bytes +; byte_per_s -; memory_efficiency -; launch_s +
    Source       Ivanov et al. 2021, "Data movement is all you need", arXiv:2007.00072, section 4 (traffic), with the
                 rounds of blocks of NVIDIA, "Matrix Multiplication Background User's Guide", section 3.2,
                 https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/
    Checked      held-out models of vidur_layer, hardware_specs/efficiency (tests/test_layer_ops.py)
    """
    rounds_s = ceil_div(rows, resident_blocks) * steps * step_s
    return launch_s + maximum(rounds_s, n_bytes / (memory_efficiency * byte_per_s))
