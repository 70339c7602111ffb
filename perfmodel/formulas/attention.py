r"""The attention core (softmax of Q K^T times V) of many queries: its arithmetic, its traffic and a fused kernel."""

from perfmodel.formulas._registry import formula
from perfmodel.formulas.attention_io import attention_io_bytes
from perfmodel.ops import ceil_div, maximum, minimum

__all__ = [
    "attention_core_flops",
    "attention_traffic_bytes",
    "causal_tiles",
    "fused_attention_time",
    "tiled_attention_compute_time",
]


@formula
def attention_core_flops(batch, seq_len, n_heads, d_head, kept_share, flop_per_mac=2.0):
    r"""Arithmetic of the two products of the attention core, forward.

    .. math:: F = 4\,b\,s^2\,a\,d\,\kappa

    Symbols      b  batch [1] sequences;  s  seq_len [1] query and key length;  a  n_heads [1] query heads;
                 d  d_head [1] head width;  \kappa  kept_share [1] 1 for full and 0.5 for causal attention;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [flop]
    Valid for    batch >= 0; seq_len >= 1; n_heads >= 1; d_head >= 1; 0 <= kept_share <= 1
    Monotone     batch +; seq_len +; n_heads +; d_head +; kept_share +
    Limits       batch = 0 -> 0
    Source       Dao 2023, "FlashAttention-2", arXiv:2307.08691, section 4.1 (4 s^2 d a, halved for a causal mask)
    """
    return 2 * flop_per_mac * batch * seq_len**2 * n_heads * d_head * kept_share


@formula
def attention_traffic_bytes(
    batch, seq_len, kv_len, n_heads, n_kv_heads, key_width, value_width, cache_bytes, bytes_per_element=2.0
):
    r"""Memory traffic of fused attention: Q, K, V and O once each, or what a small cache forces if that is more.

    .. math:: B = w\,b\,(d_k + d_v)\left(s a + l a_{kv}\right) \;\text{or}\; b\,a\,I(l, d_v, M)

    Symbols      b  batch [1] sequences;  s  seq_len [1] queries of a sequence;  l  kv_len [1] keys of a sequence;
                 a  n_heads [1] query heads;  a_{kv}  n_kv_heads [1] key and value heads;
                 d_k  key_width [1] width of a query and a key;  d_v  value_width [1] width of a value and a result;
                 M  cache_bytes [B] on-chip memory shared by the cores;  w  bytes_per_element [B] element size;
                 returns [B]
    Assumptions  operands that fit the shared cache cross memory once; beyond it the optimal I/O law, with factor 1
    Valid for    batch >= 0; seq_len >= 1; kv_len >= 1; n_heads >= 1; n_kv_heads >= 1; key_width >= 1;
                 value_width >= 1; cache_bytes >= 1
    Monotone     batch +; seq_len +; n_heads +; n_kv_heads +; cache_bytes -
    Limits       batch = 0 -> 0
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (compulsory traffic);
                 Saha and Ye 2024, arXiv:2402.07443 (the least beyond the cache)
    Checked      never below attention_io_lower_bound (tests/test_attention.py)
    """
    compulsory = batch * (key_width + value_width) * (seq_len * n_heads + kv_len * n_kv_heads)
    forced = attention_io_bytes(seq_len, value_width, cache_bytes / bytes_per_element, bytes_per_element)
    return maximum(bytes_per_element * compulsory, batch * n_heads * forced)


@formula
def causal_tiles(seq_len, past_len, window, block_rows):
    r"""Square score tiles that one head of one sequence computes behind a causal mask or a sliding window.

    .. math:: N = \sum_{i=1}^{n} \min(i + m, w),\quad n = \lceil s / R \rceil,\; m = \lceil c / R \rceil,\;
              w = \lceil W / R \rceil + 1

    Symbols      s  seq_len [1] new queries;  c  past_len [1] keys before them (a prefix, earlier chunks);
                 W  window [1] keys that a query may see, s + c without a window;
                 R  block_rows [1] rows and columns of a tile;  returns [1]
    Assumptions  tiles that the mask cuts are computed whole, tiles outside of it are skipped
    Valid for    seq_len >= 1; past_len >= 0; window >= 1; block_rows >= 1
    Monotone     seq_len +; past_len +; window +
    Source       Dao 2023, "FlashAttention-2", arXiv:2307.08691, section 3.1 (causal masking by blocks)
    """
    blocks = ceil_div(seq_len, block_rows)
    earlier = ceil_div(past_len, block_rows)
    widest = ceil_div(window, block_rows) + 1
    rising = minimum(blocks, maximum(widest - earlier, 0.0))
    return rising * earlier + rising * (rising + 1) / 2 + (blocks - rising) * widest


@formula
def tiled_attention_compute_time(
    batch, seq_len, past_len, window, n_heads, key_width, value_width, n_cores, flop_per_s, peak_efficiency,
    block_tiles, lone_share, exponent, block_rows=128.0, flop_per_mac=2.0,
):  # fmt: skip
    r"""Compute time of a fused causal attention kernel whose row blocks are shared out over the cores of a device.

    .. math:: T = \tau \left(\left(\frac{b a (N + o n)}{C}\right)^p + \left(\lambda (l + o)\right)^p\right)^{1/p},
              \quad \tau = \frac{2 R^2 (d_k + d_v) C}{e P}

    Symbols      b  batch [1] sequences;  s  seq_len [1] new queries;  c  past_len [1] keys before them;
                 W  window [1] keys that a query may see;  a  n_heads [1] query heads;
                 d_k  key_width [1] width of a query;  d_v  value_width [1] width of a value;
                 C  n_cores [1] cores of the device;  P  flop_per_s [flop/s] dense peak;
                 e  peak_efficiency [1] share of the peak inside the tiles;
                 o  block_tiles [1] start and end of a row block, in tiles;
                 \lambda  lone_share [1] time of a tile on a core that works on one block alone, in shares of \tau;
                 p  exponent [1] how evenly blocks fill the cores, infinity is perfect;
                 R  block_rows [1] rows of a block and columns of a tile;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [s]
    Assumptions  work is either all the tiles over all the cores or the chain of the longest block, l tiles long
    Valid for    batch >= 0; 1 <= seq_len <= 16384; past_len >= 0; window >= 1; n_heads >= 1; key_width >= 1;
                 value_width >= 1; n_cores >= 1; 0 <= peak_efficiency <= 1; block_tiles >= 0; 0 <= lone_share <= 1;
                 1 <= exponent <= 16
    Monotone     batch +; seq_len +; past_len +; window +; n_heads +; flop_per_s -; peak_efficiency -; block_tiles +
    Source       Dao 2023, "FlashAttention-2", arXiv:2307.08691, section 3.2 (row blocks over cores); Graham 1969,
                 "Bounds on multiprocessing timing anomalies", doi:10.1137/0117039 (total work and longest chain)
    """
    tile_s = flop_per_mac * block_rows**2 * (key_width + value_width) * n_cores / (peak_efficiency * flop_per_s)
    blocks = ceil_div(seq_len, block_rows)
    tiles = causal_tiles(seq_len, past_len, window, block_rows) + block_tiles * blocks
    longest = minimum(blocks + ceil_div(past_len, block_rows), ceil_div(window, block_rows) + 1) + block_tiles
    shared = batch * n_heads * tiles / n_cores
    return tile_s * (shared**exponent + (lone_share * longest) ** exponent) ** (1 / exponent)


@formula
def fused_attention_time(compute_s, n_bytes, byte_per_s, memory_efficiency, launch_s):
    r"""Time of a fused attention kernel of a prefill or of training: launch, tiles, and operands in and out.

    .. math:: T = t_0 + T_c + \frac{B}{e_m \beta}

    Symbols      T_c  compute_s [s] the tiles over the cores;  B  n_bytes [B] traffic of Q, K, V and O;
                 \beta  byte_per_s [B/s] memory bandwidth;
                 e_m  memory_efficiency [1] share of the bandwidth, with the copies into the cache around the kernel;
                 t_0  launch_s [s] floor;  returns [s]
    Assumptions  a row block waits for its Q and its first keys, and writes O after its last product: no overlap
    Valid for    compute_s >= 0; n_bytes >= 0; 0 <= memory_efficiency <= 1; launch_s >= 0
    Monotone     compute_s +; n_bytes +; byte_per_s -; memory_efficiency -; launch_s +
    Source       Dao 2023, "FlashAttention-2", arXiv:2307.08691, Algorithm 1 (lines 3 and 15 outside the inner loop)
    Checked      held-out head configurations of the kernel tables, hardware_specs/efficiency (tests/test_attention.py)
    """
    return launch_s + compute_s + n_bytes / (memory_efficiency * byte_per_s)
