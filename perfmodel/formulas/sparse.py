r"""Products whose weights are stored small: sparse but computed dense, quantised alone, and grouped with padding."""

from perfmodel.formulas._registry import formula
from perfmodel.formulas.matmul import matmul_flops, mixed_matmul_bytes
from perfmodel.formulas.roofline import roofline_time
from perfmodel.ops import ceil_div, maximum, minimum

__all__ = [
    "break_even_sparsity",
    "compute_bound_rows",
    "expected_padded_rows",
    "expected_touched_groups",
    "grouped_matmul_bytes",
    "grouped_matmul_time",
    "padded_group_rows",
    "sparse_as_dense_time",
    "sufficient_sparsity",
    "tiled_csl_bytes",
    "weight_only_bytes",
    "weight_only_speedup",
]


@formula
def tiled_csl_bytes(n, k, sparsity, item_bytes=4.0, tile_n=128.0, tile_k=64.0, items_per_vector=4.0, offset_bytes=4.0):
    r"""Size of pruned weights in the tiled-CSL format: value and place of every kept weight, an offset for every tile.

    .. math:: B = b_i \left((1 - s) n k + \frac{v - 1}{2} N_t\right) + b_o N_t,
              \quad N_t = \lceil n / t_n \rceil \lceil k / t_k \rceil

    Symbols      n  n [1] columns of the result;  k  k [1] summed dimension;  s  sparsity [1] share of zeros;
                 b_i  item_bytes [B] 16-bit value and 16-bit place inside its tile;
                 t_n  tile_n [1] columns of the result in a tile;  t_k  tile_k [1] summed dimension in a tile;
                 v  items_per_vector [1] every tile is padded to a multiple of so many items;
                 b_o  offset_bytes [B] start of a tile;  returns [B]
    Assumptions  zeros lie at random, so a tile is padded by (v - 1) / 2 items on average
    Valid for    n >= 1; k >= 1; 0 <= sparsity <= 1; tile_n >= 1; tile_k >= 1; items_per_vector >= 1
    Monotone     n +; k +; sparsity -; item_bytes +; items_per_vector +; offset_bytes +
    Source       Xia et al. 2023, "Flash-LLM", arXiv:2309.10285; sizes of item, tile and padding from
                 InitSparseMatrixA_API in csrc/SpMM_API.cu, github.com/AlibabaResearch/flash-llm
    """
    tiles = ceil_div(n, tile_n) * ceil_div(k, tile_k)
    return item_bytes * ((1 - sparsity) * n * k + (items_per_vector - 1) / 2 * tiles) + offset_bytes * tiles


@formula
def sparse_as_dense_time(
    m,
    n,
    k,
    sparsity,
    flop_per_s,
    byte_per_s,
    bytes_per_element=2.0,
    item_bytes=4.0,
    offset_bytes=4.0,
    flop_per_mac=2.0,
):
    r"""Time of a product whose weights are loaded sparse and multiplied dense (Flash-LLM).

    .. math:: T = \max\left(\frac{2 m n k}{P},\; \frac{B_{csl} + b (m k + m n)}{\beta}\right)

    Symbols      m  m [1] rows (tokens);  n  n [1] columns of the result;  k  k [1] summed dimension;
                 s  sparsity [1] share of zeros among the weights;  P  flop_per_s [flop/s] rate;
                 \beta  byte_per_s [B/s] memory bandwidth;  b  bytes_per_element [B] element of activations and result;
                 b_i  item_bytes [B] kept weight with its place;  b_o  offset_bytes [B] start of a tile;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [s]
    Assumptions  perfect overlap; every multiplication by zero is done; unpacking in the cores is hidden
    Valid for    m >= 1; n >= 1; k >= 1; 0 <= sparsity <= 1
    Monotone     m +; n +; k +; sparsity -; flop_per_s -; byte_per_s -
    Source       Xia et al. 2023, "Flash-LLM: Enabling Cost-Effective and Highly-Efficient Large Generative Model
                 Inference with Unstructured Sparsity", arXiv:2309.10285 (load as sparse, compute as dense)
    """
    activation_bytes = bytes_per_element * (m * k + m * n)
    weight_bytes = tiled_csl_bytes(n, k, sparsity, item_bytes, offset_bytes=offset_bytes)
    flops = matmul_flops(m, n, k, flop_per_mac=flop_per_mac)
    return roofline_time(flops, weight_bytes + activation_bytes, flop_per_s, byte_per_s)


@formula
def break_even_sparsity(
    bytes_per_weight=2.0, item_bytes=4.0, weights_per_tile=8192.0, items_per_vector=4.0, offset_bytes=4.0
):
    r"""Sparsity at which tiled-CSL weights take as many bytes as dense ones; above it a memory-bound product gains.

    .. math:: s^* = 1 - \frac{b - b_o / t}{b_i} + \frac{v - 1}{2 t}

    Symbols      b  bytes_per_weight [B] dense weight;  b_i  item_bytes [B] kept weight with its place;
                 t  weights_per_tile [1] weights of a tile;
                 v  items_per_vector [1] every tile is padded to a multiple of so many items;
                 b_o  offset_bytes [B] start of a tile;  returns [1]
    Assumptions  whole tiles; memory binds the dense and the sparse product
    Valid for    1 <= bytes_per_weight <= 2; item_bytes >= 2; weights_per_tile >= 64; items_per_vector >= 1;
                 offset_bytes >= 0
    Monotone     bytes_per_weight -; items_per_vector +; offset_bytes +; weights_per_tile -
    Source       `tiled_csl_bytes` equal to the dense bytes, solved for the sparsity; format of Xia et al. 2023,
                 arXiv:2309.10285
    """
    padding_share = (items_per_vector - 1) / (2 * weights_per_tile)
    return 1 - (bytes_per_weight - offset_bytes / weights_per_tile) / item_bytes + padding_share


@formula
def sufficient_sparsity(m, n, k, flop_per_s, byte_per_s, bytes_per_element=2.0, item_bytes=4.0, flop_per_mac=2.0):
    r"""Sparsity from which a product computed dense is bound by arithmetic, so that pruning more gains nothing.

    .. math:: s_c = 1 - \frac{\beta\, 2 m n k / P - b (m k + m n)}{b_i\, n k}, \quad 0 \le s_c \le 1

    Symbols      m  m [1] rows (tokens);  n  n [1] columns of the result;  k  k [1] summed dimension;
                 P  flop_per_s [flop/s] rate;  \beta  byte_per_s [B/s] memory bandwidth;
                 b  bytes_per_element [B] element of activations and result;
                 b_i  item_bytes [B] kept weight with its place;  \phi  flop_per_mac [flop] one multiply and one add;
                 returns [1]
    Assumptions  offsets and padding of tiles left out (below 0.002 of the weights); 0 means that arithmetic binds
                 without pruning, 1 that memory binds at any sparsity
    Valid for    m >= 1; n >= 1; k >= 1
    Monotone     flop_per_s +; byte_per_s -
    Source       The two sides of `sparse_as_dense_time` equal, solved for the sparsity; Xia et al. 2023,
                 arXiv:2309.10285
    """
    weight_bytes = byte_per_s * flop_per_mac * m * n * k / flop_per_s - bytes_per_element * (m * k + m * n)
    return minimum(1, maximum(0, 1 - weight_bytes / (item_bytes * n * k)))


@formula
def weight_only_bytes(bits, group_size, scale_bits=16.0, kept_share=1.0, place_bits=0.0, byte_per_bit=0.125):
    r"""Bytes of one quantised weight with its share of the scale, and of its place where only some are kept.

    .. math:: b_q = \frac{1}{8}\left(r (w + p) + \frac{s}{G}\right)

    Symbols      w  bits [1] bits of a weight;  G  group_size [1] weights that share one scale;
                 s  scale_bits [1] bits of a scale (and of its zero point);
                 r  kept_share [1] share of the weights kept (1/2 for 2:4 sparsity);
                 p  place_bits [1] bits that place a kept weight (2 for 2:4 sparsity);
                 u  byte_per_bit [B] one eighth of a byte;  returns [B]
    Assumptions  a group counts the weights before pruning
    Valid for    1 <= bits <= 16; group_size >= 1; scale_bits >= 0; 0 <= kept_share <= 1; place_bits >= 0
    Monotone     bits +; group_size -; scale_bits +; kept_share +; place_bits +
    Source       Frantar et al. 2024, "MARLIN: Mixed-Precision Auto-Regressive Parallel Inference on Large Language
                 Models", arXiv:2408.11743; 0.125 bits for the scales of groups of 128: README of
                 github.com/IST-DASLab/marlin
    """
    return byte_per_bit * (kept_share * (bits + place_bits) + scale_bits / group_size)


@formula
def compute_bound_rows(flop_per_s, byte_per_s, bytes_per_weight, flop_per_mac=2.0):
    r"""Rows (batch) at which the arithmetic on a weight takes as long as loading it.

    .. math:: m^* = \frac{P\,b}{2 \beta}

    Symbols      P  flop_per_s [flop/s] rate;  \beta  byte_per_s [B/s] memory bandwidth;
                 b  bytes_per_weight [B] stored weight;  \phi  flop_per_mac [flop] one multiply and one add;
                 returns [1]
    Assumptions  activations and result stay in cache: few rows, large weights
    Valid for    flop_per_s >= 0; byte_per_s >= 0; bytes_per_weight >= 0
    Monotone     flop_per_s +; byte_per_s -; bytes_per_weight +
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (the ridge point) for a weight;
                 Frantar et al. 2024, arXiv:2408.11743
    Checked      README of github.com/IST-DASLab/marlin: 25-50 rows at 100-200 flop/B
    """
    return flop_per_s * bytes_per_weight / (flop_per_mac * byte_per_s)


@formula
def weight_only_speedup(m, flop_per_s, byte_per_s, bytes_per_weight, dense_bytes=2.0, flop_per_mac=2.0):
    r"""Most that weight-only quantisation can gain: the ratio of bytes at few rows, nothing where arithmetic binds.

    .. math:: S = \frac{\max(b / \beta,\; 2 m / P)}{\max(b_q / \beta,\; 2 m / P)}

    Symbols      m  m [1] rows (tokens);  P  flop_per_s [flop/s] rate;  \beta  byte_per_s [B/s] memory bandwidth;
                 b_q  bytes_per_weight [B] quantised weight, `weight_only_bytes`;  b  dense_bytes [B] dense weight;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [1]
    Assumptions  both products reach the roofline; unpacking is hidden; activations and result stay in cache. The
                 bound is b / b_q up to `compute_bound_rows` of b_q, then falls as 1 / m to 1 at that of b
    Valid for    m >= 0; 0.1 <= bytes_per_weight <= 2; 2 <= dense_bytes <= 4; fails when unpacking binds
    Monotone     m -; flop_per_s +; byte_per_s -; bytes_per_weight -; dense_bytes +
    Source       Frantar et al. 2024, "MARLIN", arXiv:2408.11743 (roofline of a product with 4-bit weights)
    Checked      README of github.com/IST-DASLab/marlin: at most 3.87 on A10 with groups of 128; 2:4 sparsity 5.3
    """
    arithmetic_s = flop_per_mac * m / flop_per_s
    return maximum(dense_bytes / byte_per_s, arithmetic_s) / maximum(bytes_per_weight / byte_per_s, arithmetic_s)


@formula
def padded_group_rows(rows, groups, tile_rows):
    r"""Rows that a grouped product works on when its rows fall in equal groups and a tile never crosses a group.

    .. math:: R = g\,t \left\lceil \frac{r}{g\,t} \right\rceil

    Symbols      r  rows [1] rows of all groups;  g  groups [1] groups (experts);  t  tile_rows [1] rows of a tile;
                 returns [1]
    Assumptions  equal groups, the best case of a router
    Valid for    rows >= 0; groups >= 1; tile_rows >= 1
    Monotone     rows +
    Limits       rows = 0 -> 0
    Source       Gale et al. 2022, "MegaBlocks", arXiv:2211.15841 (groups padded to whole tiles)
    Example      >>> padded_group_rows(256.0, 8, 64)
                 512.0
    """
    return groups * tile_rows * ceil_div(rows, groups * tile_rows)


@formula
def expected_padded_rows(rows, groups, tile_rows):
    r"""Expected rows that a grouped product works on when group sizes vary by more than a tile.

    .. math:: R = r + g \frac{t - 1}{2}

    Symbols      r  rows [1] rows of all groups;  g  groups [1] groups (experts);  t  tile_rows [1] rows of a tile;
                 returns [1]
    Assumptions  the size of a group modulo the tile is uniform: no group is empty and sizes spread over tiles
    Valid for    rows >= 1; groups >= 1; tile_rows >= 1; fails when a group holds fewer rows than a tile
    Monotone     rows +; groups +; tile_rows +
    Source       Mean of the rounding to a multiple; padding of groups: Gale et al. 2022, "MegaBlocks",
                 arXiv:2211.15841
    """
    return rows + groups * (tile_rows - 1) / 2


@formula
def expected_touched_groups(rows, groups):
    r"""Expected groups that hold at least one row: the weights that a small grouped product has to load.

    .. math:: g' = g \left(1 - (1 - 1 / g)^r\right)

    Symbols      r  rows [1] rows of all groups;  g  groups [1] groups (experts);  returns [1]
    Assumptions  every row falls in one group, independently and with equal chance; a token of k experts counts as k
                 rows (its experts differ, which touches slightly more groups)
    Valid for    rows >= 1; groups >= 1
    Monotone     rows +; groups +
    Limits       groups = 1 -> 1; rows = 1 -> 1
    Source       Feller 1968, "An Introduction to Probability Theory and Its Applications", vol. 1 (occupancy problem)
    """
    return groups * (1 - (1 - 1 / groups) ** rows)


@formula
def grouped_matmul_bytes(rows, touched, n, k, left_bytes=2.0, right_bytes=2.0, result_bytes=2.0):
    r"""Least memory traffic of a grouped product: all rows once, and the weights of every group that has rows.

    .. math:: B = g' b_b\,k n + r (b_a k + b_c n)

    Symbols      r  rows [1] rows of all groups;  g'  touched [1] groups with rows;  n  n [1] columns of the result;
                 k  k [1] summed dimension;  b_a  left_bytes [B] element of the activations;
                 b_b  right_bytes [B] element of the weights;  b_c  result_bytes [B] element of the result;  returns [B]
    Assumptions  every operand crosses memory once
    Valid for    rows >= 0; touched >= 1; n >= 1; k >= 1
    Monotone     rows +; touched +; n +; k +
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (compulsory traffic)
    """
    return mixed_matmul_bytes(rows / touched, n, k, touched, left_bytes, right_bytes, result_bytes)


@formula
def grouped_matmul_time(
    rows,
    groups,
    n,
    k,
    tile_rows,
    flop_per_s,
    byte_per_s,
    left_bytes=2.0,
    right_bytes=2.0,
    result_bytes=2.0,
    flop_per_mac=2.0,
):
    r"""Roofline time of a grouped product with equal groups: padded rows are computed, real rows are moved.

    .. math:: T = \max\left(\frac{2 R n k}{P},\; \frac{B}{\beta}\right)

    Symbols      r  rows [1] rows of all groups;  g  groups [1] groups, none empty;  n  n [1] columns of the result;
                 k  k [1] summed dimension;  t  tile_rows [1] rows of a tile;  P  flop_per_s [flop/s] rate;
                 \beta  byte_per_s [B/s] memory bandwidth;  b_a  left_bytes [B] element of the activations;
                 b_b  right_bytes [B] element of the weights;  b_c  result_bytes [B] element of the result;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [s]
    Assumptions  R of `padded_group_rows`, B of `grouped_matmul_bytes`; perfect overlap; one launch for all groups
    Valid for    rows >= 1; groups >= 1; n >= 1; k >= 1; tile_rows >= 1
    Monotone     rows +; n +; k +; flop_per_s -; byte_per_s -
    Source       Gale et al. 2022, "MegaBlocks", arXiv:2211.15841, on the roofline of Williams, Waterman, Patterson
                 2009, doi:10.1145/1498765.1498785
    """
    n_bytes = grouped_matmul_bytes(rows, groups, n, k, left_bytes, right_bytes, result_bytes)
    flops = matmul_flops(padded_group_rows(rows, groups, tile_rows), n, k, flop_per_mac=flop_per_mac)
    return roofline_time(flops, n_bytes, flop_per_s, byte_per_s)
