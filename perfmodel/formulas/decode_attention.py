r"""Attention of one new token per sequence: the cache streams from memory, split over the cores when work is scarce."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import ceil_div, floor, less, less_equal, maximum, minimum, where

__all__ = [
    "decode_attention_time",
    "decode_stream_time",
    "latent_decode_flops",
    "split_kv_blocks",
    "unsplit_latent_decode_time",
]


@formula
def split_kv_blocks(units, kv_len, slots, max_splits=128.0, split_below=0.8, block_keys=256.0):
    r"""Blocks of keys that a split-KV (flash-decoding) kernel works on at once.

    .. math:: A = \begin{cases} \min(S, U \max(1, \min(m, l / K))) & U < \theta S \\ U & U \ge \theta S \end{cases}

    Symbols      U  units [1] independent streams, batch times key heads;  l  kv_len [1] keys of a stream;
                 S  slots [1] blocks that the device holds at once;  m  max_splits [1] 1 where a kernel cannot split;
                 \theta  split_below [1] share of the slots above which nothing is split;
                 K  block_keys [1] keys of the smallest part;  returns [1]
    Valid for    units >= 1; kv_len >= 1; slots >= 1; max_splits >= 1; 0 <= split_below <= 1; block_keys >= 1
    Monotone     kv_len +; block_keys -
    Source       Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference",
                 https://crfm.stanford.edu/2023/10/12/flashdecoding.html; the 0.8 is the heuristic of its code
    """
    parts = maximum(minimum(max_splits, kv_len / block_keys), 1.0)
    return where(less(units, split_below * slots), maximum(minimum(slots, units * parts), minimum(units, slots)), units)


@formula
def decode_stream_time(n_bytes, blocks, slots, byte_per_s, memory_efficiency, lone_speedup, exponent=3.0):
    r"""Time to stream the cache in waves of blocks: full waves at full bandwidth, a last one that may not fill it.

    .. math:: T = \frac{B}{A e_m \beta}\left(W S + \left\Vert r, \frac{S}{\sigma}\right\Vert_p\right),\quad
              W = \lceil A / S \rceil - 1,\; r = A - W S

    Symbols      B  n_bytes [B] keys and values;  A  blocks [1] blocks of keys that share them equally;
                 S  slots [1] blocks on the device at once;  \beta  byte_per_s [B/s] memory bandwidth;
                 e_m  memory_efficiency [1] share of it;  \sigma  lone_speedup [1] what a block draws alone, over its
                 even share;  p  exponent [1] sharpness of the change from one limit to the other;  returns [s]
    Assumptions  equal blocks; a block alone is bound by the latency of its own loads
    Valid for    n_bytes >= 0; blocks >= 1; slots >= 1; 0 <= memory_efficiency <= 1; lone_speedup >= 1;
                 1 <= exponent <= 16
    Monotone     n_bytes +; byte_per_s -; memory_efficiency -; lone_speedup -
    Source       Little 1961, doi:10.1287/opre.9.3.383 (bytes in flight bound a block's rate); NVIDIA, "Matrix
                 multiplication background user's guide", wave quantization
    """
    waves = ceil_div(blocks, slots) - 1
    rest = blocks - waves * slots
    last = (rest**exponent + (slots / lone_speedup) ** exponent) ** (1 / exponent)
    return n_bytes / (blocks * memory_efficiency * byte_per_s) * (waves * slots + last)


@formula
def decode_attention_time(
    kv_bytes, io_bytes, compute_s, units, kv_len, n_cores, cache_bytes, byte_per_s, memory_efficiency, lone_speedup,
    block_s, cold_s, launch_s, max_splits=128.0, resident=2.0, exponent=3.0,
):  # fmt: skip
    r"""Time of the attention of one new token per sequence over a cache of keys and values.

    .. math:: T = t_0 + t_c \min(1, B / M) + t_b \frac{U}{C} + \left\Vert T_s, T_c \right\Vert_p + \frac{B_q}{e_m \beta}

    Symbols      B  kv_bytes [B] keys and values read;  B_q  io_bytes [B] queries read and results written;
                 T_c  compute_s [s] arithmetic at the rate that the kernel reaches;
                 U  units [1] independent streams, batch times key heads;  l  kv_len [1] keys of a sequence;
                 C  n_cores [1] cores;  M  cache_bytes [B] last-level cache;  \beta  byte_per_s [B/s] memory bandwidth;
                 e_m  memory_efficiency [1] share of the bandwidth;  \sigma  lone_speedup [1] see decode_stream_time;
                 t_b  block_s [s] start and end of one stream on a core;
                 t_c  cold_s [s] once keys come from memory: first misses, tail, merging of parts;
                 t_0  launch_s [s] floor;  m  max_splits [1] 1 where a kernel cannot split the keys;
                 R  resident [1] blocks that a core holds at once;  p  exponent [1] sharpness of the roofs;
                 returns [s]
    Assumptions  equal lengths; keys do not stay in the cache from one layer to the next
    Valid for    kv_bytes >= 0; io_bytes >= 0; compute_s >= 0; units >= 1; kv_len >= 1; n_cores >= 1;
                 cache_bytes >= 1; 0 <= memory_efficiency <= 1; lone_speedup >= 1; block_s >= 0; cold_s >= 0;
                 launch_s >= 0; max_splits >= 1; resident >= 1; 1 <= exponent <= 16
    Monotone     kv_bytes +; io_bytes +; compute_s +; byte_per_s -; memory_efficiency -; launch_s +
    Source       Dao, Haziza, Massa, Sizov 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html; Williams,
                 Waterman, Patterson 2009, doi:10.1145/1498765.1498785
    Checked      held-out head configurations of the kernel tables, hardware_specs/efficiency (tests/test_attention.py)
    """
    slots = resident * n_cores
    blocks = split_kv_blocks(units, kv_len, slots, max_splits)
    stream_s = decode_stream_time(kv_bytes, blocks, slots, byte_per_s, memory_efficiency, lone_speedup, exponent)
    busy_s = (stream_s**exponent + compute_s**exponent) ** (1 / exponent)
    cold = cold_s * minimum(1.0, kv_bytes / cache_bytes)
    return launch_s + cold + block_s * units / n_cores + busy_s + io_bytes / (memory_efficiency * byte_per_s)


@formula
def latent_decode_flops(batch, kv_len, n_heads, key_width=576.0, value_width=512.0, flop_per_mac=2.0):
    r"""Arithmetic of latent attention (MLA) over its compressed cache, with the up-projections absorbed.

    .. math:: F = 2\,b\,l\,a\,(d_k + d_v)

    Symbols      b  batch [1] sequences, one new token each;  l  kv_len [1] cached tokens;  a  n_heads [1] query heads;
                 d_k  key_width [1] latent and rotary width, 512 + 64;  d_v  value_width [1] latent width;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [flop]
    Valid for    batch >= 0; kv_len >= 1; n_heads >= 1; key_width >= 1; value_width >= 1
    Monotone     batch +; kv_len +; n_heads +; key_width +; value_width +
    Limits       batch = 0 -> 0
    Source       DeepSeek-AI 2024, "DeepSeek-V2", section 2.1 and appendix C, arXiv:2405.04434
    """
    return flop_per_mac * batch * kv_len * n_heads * (key_width + value_width)


@formula
def unsplit_latent_decode_time(
    batch, kv_len, n_heads, n_cores, flop_per_s, compute_efficiency, pair_slowdown, block_s, launch_s,
    head_rows=64.0, halves=2.0, block_keys=64.0, key_width=576.0, value_width=512.0, flop_per_mac=2.0,
):  # fmt: skip
    r"""Time of latent attention (MLA) of new tokens by a kernel that gives a whole sequence to a pair of blocks.

    .. math:: T = t_0 + t_b \frac{n}{C} + \tau\left(\kappa W + \begin{cases} \min(1, r) & r \le C \\ \kappa & r > C
              \end{cases}\right),\; n = h b \lceil a / R \rceil,\; W = \lfloor n / 2C \rfloor,\; r = n - 2 C W

    Symbols      b  batch [1] sequences;  l  kv_len [1] cached tokens;  a  n_heads [1] query heads;
                 C  n_cores [1] cores, two blocks on each;  P  flop_per_s [flop/s] dense peak;
                 e  compute_efficiency [1] share of a core's peak that one block alone reaches;
                 \kappa  pair_slowdown [1] time of a block that shares its core with another, over alone;
                 t_b  block_s [s] start and end of a block;  t_0  launch_s [s] floor;
                 R  head_rows [1] heads of a block, padded;  h  halves [1] blocks that share one sequence;
                 K  block_keys [1] keys of a step, padded;  d_k  key_width [1] latent and rotary width;
                 d_v  value_width [1] latent width;  \phi  flop_per_mac [flop] one multiply and one add;  returns [s]
    Assumptions  no split over the keys: the time of a small batch is the time of one sequence on one core
    Valid for    batch >= 1; kv_len >= 1; n_heads >= 1; n_cores >= 1; 0 <= compute_efficiency <= 1;
                 1 <= pair_slowdown <= 2; block_s >= 0; launch_s >= 0; head_rows >= 1; halves >= 1; block_keys >= 1
    Monotone     batch +; kv_len +; n_heads +; flop_per_s -; compute_efficiency -; launch_s +
    Source       structure read off the tables themselves (one to 1024 sequences, waves of 216 blocks on 108 cores);
                 DeepSeek-AI 2024, arXiv:2405.04434 (the arithmetic)
    Checked      held-out head counts of mla_decode, A100 (tests/test_attention.py)
    """
    blocks = halves * batch * ceil_div(n_heads, head_rows)
    keys = block_keys * ceil_div(kv_len, block_keys)
    flops = flop_per_mac * head_rows * keys * (key_width + value_width)
    alone_s = flops * n_cores / (compute_efficiency * flop_per_s)
    waves = floor(blocks / (2 * n_cores))
    rest = blocks - 2 * n_cores * waves
    last = where(less_equal(rest, n_cores), minimum(1.0, rest), pair_slowdown)
    return launch_s + block_s * blocks / n_cores + alone_s * (waves * pair_slowdown + last)
