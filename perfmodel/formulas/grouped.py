r"""Grouped products of a mixture of experts: the rows a rank receives, their tiles, and the traffic around them."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import ceil_div, exp

__all__ = ["expert_rows", "group_tile_count", "routed_activation_bytes"]


@formula
def expert_rows(tokens, experts_per_token, imbalance=1.0):
    r"""Token copies that the experts of the most loaded rank receive.

    .. math:: r = \lambda\,k\,T

    Symbols      T  tokens [1] fair share of a rank: tokens of all expert-parallel ranks over ranks;
                 k  experts_per_token [1] routed experts of a token;
                 \lambda  imbalance [1] load of the most loaded rank over the mean;  returns [1]
    Assumptions  no token is dropped
    Valid for    tokens >= 0; experts_per_token >= 1; imbalance >= 0
    Monotone     tokens +; experts_per_token +; imbalance +
    Limits       tokens = 0 -> 0
    Source       Shazeer et al. 2017, "Outrageously Large Neural Networks", arXiv:1701.06538 (k copies of every
                 token, spread over the devices that hold experts)
    Example      >>> expert_rows(128.0, 8, 1.5)
                 1536.0
    """
    return imbalance * experts_per_token * tokens


@formula
def group_tile_count(rows, touched, n, tile_m, tile_n, evenness=0.0):
    r"""Tiles of a grouped product: no tile crosses from one group to the next.

    .. math:: N = g \left(e \left\lceil \frac{r}{g\,t_m} \right\rceil
              + \frac{1 - e}{1 - \exp(-g\,t_m / r)}\right) \left\lceil \frac{n}{t_n} \right\rceil

    Symbols      r  rows [1] rows of all groups;  g  touched [1] groups (experts) with rows;
                 n  n [1] columns of the result;  t_m  tile_m [1] rows of a tile;  t_n  tile_n [1] columns of a tile;
                 e  evenness [1] 1 where all groups are equal, 0 where their sizes are random;  returns [1]
    Assumptions  random sizes are exponential about their mean: tiles of a group are then geometric. A last tile is half
                 full in large groups, and a group smaller than a tile fills one
    Valid for    rows >= 1; touched >= 1; n >= 1; tile_m >= 1; tile_n >= 1; 0 <= evenness <= 1
    Monotone     rows +; n +
    Source       Gale et al. 2022, "MegaBlocks", arXiv:2211.15841 (groups of whole tiles). Mean of the rounded size:
                 Feller 1968, "An Introduction to Probability Theory and Its Applications", vol. 1 (geometric law)
    Checked      routed loads drawn from x^-1.2: worst 12 % (tests/test_grouped.py)
    Example      >>> group_tile_count(256.0, 8, 128, 64, 128, 1.0)
                 8.0
    """
    even = ceil_div(rows, touched * tile_m)
    uneven = 1 / (1 - exp(-touched * tile_m / rows))
    return touched * (evenness * even + (1 - evenness) * uneven) * ceil_div(n, tile_n)


@formula
def routed_activation_bytes(rows, tokens, d_model, d_ff, gated=1.0, bytes_per_element=2.0):
    r"""Least traffic outside the products of routed experts: gather, activation, and the weighted sum per token.

    .. math:: B = b\left(T h + 3\,r h + (2 + \gamma)\,r f\right)

    Symbols      r  rows [1] token copies on this rank;  T  tokens [1] tokens whose sum this rank writes;
                 h  d_model [1] hidden size;  f  d_ff [1] width of one expert on this rank;
                 \gamma  gated [1] 1 with a gate projection, 0 without;  b  bytes_per_element [B] element size;
                 returns [B]
    Assumptions  three kernels, nothing stays in cache: the gather reads and writes each copy, the activation reads one
                 or two columns a unit and writes one, the sum reads each copy and writes each token
    Valid for    rows >= 0; tokens >= 0; d_model >= 1; d_ff >= 1; 0 <= gated <= 1
    Monotone     rows +; tokens +; d_model +; d_ff +; gated +
    Source       the unfused kernels (expand rows, gated activation, finalize routing) of TensorRT-LLM,
                 cpp/tensorrt_llm/kernels/cutlass_kernels/moe_gemm/moe_kernels.cu,
                 https://github.com/NVIDIA/TensorRT-LLM; compulsory traffic: Williams, Waterman, Patterson 2009,
                 doi:10.1145/1498765.1498785
    """
    return bytes_per_element * (tokens * d_model + 3 * rows * d_model + (2 + gated) * rows * d_ff)
