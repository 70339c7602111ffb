r"""A cache of keys and values made smaller, moved, or shared out: bytes, and the time that its bookkeeping takes."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum, minimum

__all__ = [
    "block_transformer_cache_ratio",
    "budgeted_cache_ratio",
    "cache_swap_time",
    "distributed_attention_bytes",
    "page_waste_bytes",
    "projected_cache_ratio",
    "quantised_value_bytes",
    "recurrent_state_tokens",
    "swap_or_recompute_time",
    "windowed_cache_bytes",
]


@formula
def quantised_value_bytes(bits, group_size, scale_bits=16, zero_bits=16, byte_per_bit=0.125):
    r"""Bytes of one cached number quantised in groups, with its share of the group's scale and zero point.

    .. math:: b = \frac{1}{8}\left(w + \frac{s + z}{G}\right)

    Symbols      w  bits [1] of a number;  G  group_size [1] numbers that share a scale;  s  scale_bits [1] of a scale
                 (the exponent of a block floating-point format);  z  zero_bits [1] of a zero point, 0 without;
                 u  byte_per_bit [B] one eighth of a byte;  returns [B]
    Valid for    1 <= bits <= 16; group_size >= 1; scale_bits >= 0; zero_bits >= 0
    Monotone     bits +; group_size -; scale_bits +; zero_bits +
    Source       Liu et al. 2024, "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", section 3,
                 arXiv:2402.02750; block floating point: Trukhanov and Soloveychik 2024, "Accurate Block Quantization
                 in LLMs with Outliers", arXiv:2403.20137
    """
    return byte_per_bit * (bits + (scale_bits + zero_bits) / group_size)


@formula
def windowed_cache_bytes(tokens, window_tokens, token_bytes, narrow_token_bytes):
    r"""Cache of one sequence whose latest tokens stay in full precision and the others are quantised.

    .. math:: M = w\, b + \max(0, N - w)\, b_q,\quad w = \min(N, R)

    Symbols      N  tokens [1] of the sequence;  R  window_tokens [1] kept in full;
                 b  token_bytes [B] a token in full precision;  b_q  narrow_token_bytes [B] a token quantised;
                 returns [B]
    Valid for    tokens >= 0; window_tokens >= 0; token_bytes >= 0; narrow_token_bytes >= 0
    Monotone     tokens +; token_bytes +; narrow_token_bytes +
    Limits       tokens = 0 -> 0
    Source       Liu et al. 2024, "KIVI", section 3.3 (residual of 128 tokens), arXiv:2402.02750
    """
    full = minimum(tokens, window_tokens)
    return full * token_bytes + maximum(0, tokens - window_tokens) * narrow_token_bytes


@formula
def budgeted_cache_ratio(context_tokens, budget_tokens):
    r"""Cache of a full context over that of a fixed budget of tokens (eviction, compression of the prompt).

    .. math:: r = \max(1,\; N / B)

    Symbols      N  context_tokens [1] tokens of the context;  B  budget_tokens [1] tokens kept;  returns [1]
    Valid for    context_tokens >= 0; budget_tokens >= 1
    Monotone     context_tokens +; budget_tokens -
    Source       Huang et al. 2024, "Locret: Enhancing Eviction in Long-Context LLM Inference with Trained Retaining
                 Heads", arXiv:2410.01805; Li et al. 2024, "SnapKV", arXiv:2404.14469
    """
    return maximum(1, context_tokens / budget_tokens)


@formula
def projected_cache_ratio(rank, d_head):
    r"""Share of the cache that is left when keys and values of a head are projected onto fewer dimensions.

    .. math:: s = r / d

    Symbols      r  rank [1] dimensions kept of a head, on average;  d  d_head [1] width of a head;  returns [1]
    Valid for    rank >= 0; d_head >= 1
    Monotone     rank +; d_head -
    Source       Lin et al. 2024, "MatryoshkaKV: Adaptive KV Compression via Trainable Orthogonal Projection",
                 arXiv:2410.14731
    """
    return rank / d_head


@formula
def block_transformer_cache_ratio(block_tokens, global_share, context_tokens):
    r"""Cache of a plain transformer over that of one whose global layers see blocks and whose local layers one block.

    .. math:: r = \frac{N}{g N / B + (1 - g) B}

    Symbols      B  block_tokens [1] tokens of a block;  g  global_share [1] share of the layers that see all blocks;
                 N  context_tokens [1] tokens of the context;  returns [1]
    Assumptions  equal layers; a local layer keeps the block being written
    Valid for    block_tokens >= 1; 0 <= global_share <= 1; context_tokens >= 1
    Source       Ho et al. 2024, "Block Transformer: Global-to-Local Language Modeling for Fast Inference", section 2,
                 arXiv:2406.02657
    """
    kept = global_share * context_tokens / block_tokens + (1 - global_share) * block_tokens
    return context_tokens / kept


@formula
def recurrent_state_tokens(state_values, n_kv_heads, d_head):
    r"""Tokens of context from which a recurrent state is smaller than the cache of the attention layer it replaces.

    .. math:: N = \frac{S}{2 k d}

    Symbols      S  state_values [1] numbers in the state of a layer;  k  n_kv_heads [1] key and value heads;
                 d  d_head [1] width of a head;  returns [1]
    Assumptions  the same precision on both sides
    Valid for    state_values >= 0; n_kv_heads >= 1; d_head >= 1
    Monotone     state_values +; n_kv_heads -; d_head -
    Limits       state_values = 0 -> 0
    Source       Arora et al. 2024, "Simple linear attention language models balance the recall-throughput tradeoff"
                 (BASED), section 4, arXiv:2402.18668
    """
    return state_values / (2 * n_kv_heads * d_head)


@formula
def cache_swap_time(n_bytes, copies, copy_s, link_byte_per_s):
    r"""Time to move a request's cache to the host and forget it, or back: launches of copies beside their bytes.

    .. math:: T = \max\left(c\, t_c,\; \frac{n}{\beta}\right)

    Symbols      n  n_bytes [B] of the cache;  c  copies [1] contiguous pieces;  t_c  copy_s [s] to launch one copy;
                 \beta  link_byte_per_s [B/s] of the link to the host;  returns [s]
    Assumptions  copies are launched one after the other and run behind the launches
    Valid for    n_bytes >= 0; copies >= 0; copy_s >= 0
    Monotone     n_bytes +; copies +; copy_s +; link_byte_per_s -
    Source       Shen et al. 2024, "FastSwitch: Optimizing Context Switching Efficiency in Fairness-aware Large Language
                 Model Serving", section 2, arXiv:2411.18424
    """
    return maximum(copies * copy_s, n_bytes / link_byte_per_s)


@formula
def page_waste_bytes(sequences, page_bytes, pages_per_sequence=1):
    r"""Memory that the last pages of the caches leave unused: half a page each, on average.

    .. math:: W = n\, k\, P / 2

    Symbols      n  sequences [1] with a cache;  P  page_bytes [B] of a page;
                 k  pages_per_sequence [1] pages open at a time (two tensors a layer where each has its own);
                 returns [B]
    Assumptions  lengths are spread evenly over a page
    Valid for    sequences >= 0; page_bytes >= 0; pages_per_sequence >= 0
    Monotone     sequences +; page_bytes +; pages_per_sequence +
    Source       Kwon et al. 2023, "PagedAttention", section 4.2, arXiv:2309.06180; pages of 64 KiB to 2 MiB: Prabhu et
                 al. 2024, "vAttention", section 5, arXiv:2405.04437
    """
    return sequences * pages_per_sequence * page_bytes / 2


@formula
def distributed_attention_bytes(sequences, n_heads, d_head, n_layers, remote_parts, bytes_per_value=2):
    r"""Bytes of a decode step that attends to parts of a cache elsewhere: queries out, partial results and sums back.

    .. math:: n = L\, s\, q\, h\, (2 d + 2)\, w

    Symbols      s  sequences [1] running answers;  h  n_heads [1] query heads;  d  d_head [1] width of a head;
                 L  n_layers [1] layers;  q  remote_parts [1] other accelerators that hold a part of the cache;
                 w  bytes_per_value [B] a number sent;  returns [B]
    Assumptions  a partial result comes with its maximum and its sum
    Valid for    sequences >= 0; n_heads >= 1; d_head >= 1; n_layers >= 1; remote_parts >= 0; bytes_per_value >= 0
    Monotone     sequences +; n_heads +; d_head +; n_layers +; remote_parts +; bytes_per_value +
    Limits       remote_parts = 0 -> 0
    Source       Lin et al. 2024, "Infinite-LLM: Efficient LLM Service for Long Context with DistAttention and
                 Distributed KVCache", section 4, arXiv:2401.02669
    """
    return n_layers * sequences * remote_parts * n_heads * (2 * d_head + 2) * bytes_per_value


@formula
def swap_or_recompute_time(n_bytes, link_byte_per_s, recompute_s):
    r"""Least time to have keys and values again that are not on the accelerator: part is fetched, part computed.

    .. math:: T = \frac{t_x\, t_r}{t_x + t_r},\quad t_x = \frac{n}{\beta}

    Symbols      n  n_bytes [B] missing;  \beta  link_byte_per_s [B/s] of the link to the host;
                 t_r  recompute_s [s] to compute all of them again;  returns [s]
    Assumptions  both are proportional to the tokens and run beside each other, so the best split ends both together
    Valid for    n_bytes >= 1; recompute_s >= 0.000001
    Monotone     n_bytes +; link_byte_per_s -; recompute_s +
    Source       Zhao et al. 2024, "ALISA: Accelerating Large Language Model Inference via Sparsity-Aware KV Caching",
                 section 5 (caching, offloading and recomputation), arXiv:2403.17312
    """
    fetch_s = n_bytes / link_byte_per_s
    return fetch_s * recompute_s / (fetch_s + recompute_s)
