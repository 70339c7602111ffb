r"""Attention traffic: how many elements move between fast and slow memory, by algorithm and by lower bound.

Counts are per head and sequence; `cache_elements` is the size M of the fast memory in elements.
"""

from perfmodel.formulas._registry import formula
from perfmodel.ops import ceil, ceil_div, less, less_equal, maximum, minimum, sqrt, where

__all__ = [
    "attention_io_bytes",
    "attention_io_elements",
    "attention_io_elements_large_cache",
    "attention_io_elements_small_cache",
    "attention_io_lower_bound",
    "flash_attention_1_elements",
    "flash_attention_2_elements",
    "softmax_pass_elements",
    "unfused_attention_elements",
]


@formula
def attention_io_elements_large_cache(seq_len, d_head, cache_elements):
    r"""Order of the traffic of fused attention when a d x d tile fits in fast memory (FlashAttention).

    .. math:: I = N^2 d^2 / M

    Symbols      N  seq_len [1] sequence length;  d  d_head [1] head size;
                 M  cache_elements [1] elements of fast memory;  returns [1] elements
    Assumptions  constant factor 1 (Theta)
    Valid for    seq_len >= 1; d_head >= 1; cache_elements >= 1; fails below M = d^2, and above
                 M = N d, where reading the inputs costs more
    Monotone     seq_len +; d_head +; cache_elements -
    Source       Dao et al. 2022, "FlashAttention", Theorem 2, arXiv:2205.14135; optimal by Saha and Ye 2024, "The I/O
                 Complexity of Attention, or How Optimal is Flash Attention?", arXiv:2402.07443
    """
    return seq_len**2 * d_head**2 / cache_elements


@formula
def attention_io_elements_small_cache(seq_len, d_head, cache_elements):
    r"""Order of the traffic of attention when not even a d x d tile fits in fast memory.

    .. math:: I = N^2 d / \sqrt{M}

    Symbols      N  seq_len [1] sequence length;  d  d_head [1] head size;
                 M  cache_elements [1] elements of fast memory;  returns [1] elements
    Assumptions  constant factor 1 (Theta)
    Valid for    seq_len >= 1; d_head >= 1; cache_elements >= 1; fails above M = d^2
    Monotone     seq_len +; d_head +; cache_elements -
    Source       Saha and Ye 2024, arXiv:2402.07443 (better algorithm and matching lower bound for M < d^2)
    """
    return seq_len**2 * d_head / sqrt(cache_elements)


@formula
def attention_io_elements(seq_len, d_head, cache_elements):
    r"""Order of the least traffic of exact attention in the quadratic regime, for any size of fast memory.

    .. math:: I = \begin{cases} N^2 d / \sqrt{M} & M < d^2 \\ N^2 d^2 / M & M \ge d^2 \end{cases}

    Symbols      N  seq_len [1] sequence length;  d  d_head [1] head size;
                 M  cache_elements [1] elements of fast memory;  returns [1] elements
    Assumptions  constant factor 1 (Theta)
    Valid for    seq_len >= 1; d_head >= 1; cache_elements >= 1
    Monotone     seq_len +; d_head +; cache_elements -
    Source       Saha and Ye 2024, arXiv:2402.07443
    Checked      both regimes give N^2 at M = d^2 (tests/test_laws.py)
    """
    return where(
        less(cache_elements, d_head**2),
        attention_io_elements_small_cache(seq_len, d_head, cache_elements),
        attention_io_elements_large_cache(seq_len, d_head, cache_elements),
    )


@formula
def attention_io_lower_bound(seq_len, d_head, cache_elements):
    r"""Order of the traffic below which no exact attention algorithm can go, whatever it multiplies with.

    .. math:: I \ge \max(N d, I_{M})

    Symbols      N  seq_len [1] sequence length;  d  d_head [1] head size;
                 M  cache_elements [1] elements of fast memory;  returns [1] elements
    Assumptions  up to a constant factor (Omega)
    Valid for    seq_len >= 1; d_head >= 1; cache_elements >= 1
    Monotone     seq_len +; d_head +; cache_elements -
    Source       Saha and Ye 2024, arXiv:2402.07443; N d is the output that must be written
    """
    return maximum(seq_len * d_head, attention_io_elements(seq_len, d_head, cache_elements))


@formula
def attention_io_bytes(seq_len, d_head, cache_elements, bytes_per_element=2, scale=1):
    r"""Bytes that fused attention moves, by the optimal law with a constant factor.

    .. math:: B = c w \max(N d, I_M)

    Symbols      N  seq_len [1] sequence length;  d  d_head [1] head size;
                 M  cache_elements [1] elements of fast memory;  w  bytes_per_element [B] precision;
                 c  scale [1] constant factor of the implementation;  returns [B]
    Assumptions  the law's regime is chosen by the size of fast memory
    Valid for    seq_len >= 1; d_head >= 1; cache_elements >= 1; scale >= 0
    Monotone     seq_len +; d_head +; cache_elements -; bytes_per_element +; scale +
    Source       Dao et al. 2022, Theorem 2, arXiv:2205.14135; Saha and Ye 2024, arXiv:2402.07443
    Checked      FlashAttention-1's exact count stays between 1 and 20 times it for d >= 16 (tests/test_laws.py)
    """
    return scale * bytes_per_element * attention_io_lower_bound(seq_len, d_head, cache_elements)


@formula
def unfused_attention_elements(seq_len, d_head, operand_accesses=4, score_accesses=4):
    r"""Elements that attention moves when it writes scores and probabilities to slow memory.

    .. math:: I = 4 N d + 4 N^2

    Symbols      N  seq_len [1] sequence length;  d  d_head [1] head size;
                 q  operand_accesses [1] Q, K and V read, O written;
                 c  score_accesses [1] S written and read, P written and read, more with masks and dropout;
                 returns [1] elements
    Assumptions  forward, no mask, no dropout, matrix products that read each operand once
    Valid for    seq_len >= 1; d_head >= 1; operand_accesses >= 4; score_accesses >= 4
    Monotone     seq_len +; d_head +; operand_accesses +; score_accesses +
    Source       Dao et al. 2022, Algorithm 0 and Theorem 2, Theta(N d + N^2), arXiv:2205.14135
    """
    return operand_accesses * seq_len * d_head + score_accesses * seq_len**2


@formula
def flash_attention_1_elements(seq_len, d_head, cache_elements):
    r"""Elements that the forward pass of FlashAttention-1 moves, counted from its Algorithm 1.

    .. math:: I = 2 N d + \left\lceil \frac{N}{B_c} \right\rceil (3 N d + 4 N), \quad
              B_c = \min\left(N, \left\lceil \frac{M}{4 d} \right\rceil\right)

    Symbols      N  seq_len [1] sequence length;  d  d_head [1] head size;
                 M  cache_elements [1] elements of fast memory;  returns [1] elements
    Assumptions  K and V read once; for each block of B_c columns every row block reads Q, reads and writes O, and reads
                 and writes its two softmax statistics; B_r = min(B_c, d) cancels
    Valid for    seq_len >= 1; d_head >= 1; cache_elements >= 1
    Monotone     seq_len +; cache_elements -
    Source       Dao et al. 2022, "FlashAttention", Algorithm 1, arXiv:2205.14135
    Checked      against a literal walk through the loops of Algorithm 1 (tests/test_laws.py)
    """
    block_columns = minimum(seq_len, ceil(cache_elements / (4 * d_head)))
    column_blocks = ceil_div(seq_len, block_columns)
    return 2 * seq_len * d_head + column_blocks * (3 * seq_len * d_head + 4 * seq_len)


@formula
def flash_attention_2_elements(seq_len, kv_len, d_head, block_rows=128):
    r"""Elements that the forward pass of FlashAttention-2 moves: rows outside, keys and values streamed for each block.

    .. math:: I = 2 N d + N + 2 \left\lceil \frac{N}{B_r} \right\rceil L d

    Symbols      N  seq_len [1] query rows;  L  kv_len [1] keys and values;  d  d_head [1] head size;
                 B_r  block_rows [1] query rows of a block;  returns [1] elements
    Assumptions  Q read once, O and the log-sum-exp written once, no causal skipping, no reuse of K and V in a shared
                 cache between blocks (an upper bound where one exists)
    Valid for    seq_len >= 1; kv_len >= 1; d_head >= 1; block_rows >= 1
    Monotone     seq_len +; kv_len +; d_head +; block_rows -
    Source       Dao 2023, "FlashAttention-2", Algorithm 1, arXiv:2307.08691
    """
    return 2 * seq_len * d_head + seq_len + 2 * ceil_div(seq_len, block_rows) * kv_len * d_head


@formula
def softmax_pass_elements(seq_len, kv_len, passes, buffer_elements):
    r"""Elements of the score rows that a softmax in several passes reads: once if a row stays in the buffer.

    .. math:: I = N L \cdot \begin{cases} 1 & L \le M \\ k & L > M \end{cases}

    Symbols      N  seq_len [1] rows;  L  kv_len [1] row length;
                 k  passes [1] 3 for the naive softmax (maximum, sum, divide), 2 with a local maximum, 1 online;
                 M  buffer_elements [1] elements of a row that the buffer keeps;  returns [1] elements
    Assumptions  a pass must visit the whole row before the next one starts
    Valid for    seq_len >= 1; kv_len >= 1; 1 <= passes <= 3; buffer_elements >= 0
    Monotone     seq_len +; kv_len +; passes +; buffer_elements -
    Source       Nayak et al. 2024, "FuseMax", section 4 (passes of a cascade of einsums over attention),
                 arXiv:2406.10491
    """
    return seq_len * kv_len * where(less_equal(kv_len, buffer_elements), 1, passes)
