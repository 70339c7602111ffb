r"""Matrix products: arithmetic, the least memory traffic, and the tiles that cores work off in rounds."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import ceil, ceil_div, maximum, minimum

__all__ = [
    "matmul_bytes",
    "matmul_flops",
    "mixed_matmul_bytes",
    "steady_slowdown",
    "sustained_time",
    "tile_count",
    "tile_edge_time",
    "tile_loop_time",
    "tiled_compute_time",
    "tiled_matmul_time",
    "wave_count",
]


@formula
def matmul_flops(m, n, k, count=1.0, flop_per_mac=2.0):
    r"""Arithmetic of `count` products of an (m, k) by a (k, n) matrix.

    .. math:: F = 2\,c\,m\,n\,k

    Symbols      m  m [1] rows of the result;  n  n [1] columns of the result;  k  k [1] summed dimension;
                 c  count [1] products of that shape;  \phi  flop_per_mac [flop] one multiply and one add;
                 returns [flop]
    Valid for    m >= 1; n >= 1; k >= 1; count >= 0
    Monotone     m +; n +; k +; count +
    Limits       count = 0 -> 0
    Source       Golub, Van Loan 2013, "Matrix Computations", section 1.1.11
    Example      >>> matmul_flops(2, 3, 4)
                 48.0
    """
    return flop_per_mac * count * m * n * k


@formula
def matmul_bytes(m, n, k, count=1.0, bytes_per_element=2.0):
    r"""Least memory traffic of `count` matrix products: both operands read and the result written once.

    .. math:: B = c\,b\,(m k + k n + m n)

    Symbols      m  m [1] rows of the result;  n  n [1] columns of the result;  k  k [1] summed dimension;
                 c  count [1] products of that shape;  b  bytes_per_element [B] element size;  returns [B]
    Assumptions  every operand crosses memory once, which holds while a block of it stays in cache
    Valid for    m >= 1; n >= 1; k >= 1; count >= 0
    Monotone     m +; n +; k +; count +
    Limits       count = 0 -> 0
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (compulsory traffic)
    """
    return bytes_per_element * count * (m * k + k * n + m * n)


@formula
def mixed_matmul_bytes(m, n, k, count=1.0, left_bytes=2.0, right_bytes=2.0, result_bytes=2.0):
    r"""Least memory traffic of `count` products whose operands and result have elements of different size.

    .. math:: B = c\,(b_a m k + b_b k n + b_c m n)

    Symbols      m  m [1] rows of the result;  n  n [1] columns of the result;  k  k [1] summed dimension;
                 c  count [1] products of that shape;  b_a  left_bytes [B] element of the (m, k) activations;
                 b_b  right_bytes [B] element of the (k, n) weights, its share of the scales included;
                 b_c  result_bytes [B] element of the result;  returns [B]
    Assumptions  every operand crosses memory once, which holds while a block of it stays in cache
    Valid for    m >= 1; n >= 1; k >= 1; count >= 0
    Monotone     m +; n +; k +; count +
    Limits       count = 0 -> 0
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (compulsory traffic)
    """
    return count * (left_bytes * m * k + right_bytes * k * n + result_bytes * m * n)


@formula
def tile_count(m, n, tile_m, tile_n, count=1.0):
    r"""Tiles of the results of `count` products: an edge tile is worked on whole.

    .. math:: N = c \lceil m / t_m \rceil \lceil n / t_n \rceil

    Symbols      m  m [1] rows of the result;  n  n [1] columns of the result;  t_m  tile_m [1] rows of a tile;
                 t_n  tile_n [1] columns of a tile;  c  count [1] products of that shape;  returns [1]
    Valid for    m >= 1; n >= 1; tile_m >= 1; tile_n >= 1; count >= 0
    Monotone     m +; n +; count +
    Limits       count = 0 -> 0
    Source       NVIDIA, "Matrix Multiplication Background User's Guide", section 3.1 (tile quantization),
                 https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/
    """
    return count * ceil_div(m, tile_m) * ceil_div(n, tile_n)


@formula
def wave_count(tiles, n_cores, quantisation=1.0):
    r"""Rounds in which the cores of an accelerator work off equal tiles; at least one.

    .. math:: W = \max(1,\; w + q (\lceil w \rceil - w)), \quad w = N / C

    Symbols      N  tiles [1] tiles, parts of the summed dimension counted apart;  C  n_cores [1] cores (SMs);
                 q  quantisation [1] 1 waits for whole rounds, 0 shares out the last one (stream-K);  returns [1]
    Assumptions  one tile a core at a time
    Valid for    tiles >= 0; n_cores >= 1; 0 <= quantisation <= 1
    Monotone     quantisation +
    Source       NVIDIA, "Matrix Multiplication Background User's Guide", section 3.2 (wave quantization),
                 https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/; between
                 whole and shared rounds: Osama et al. 2023, "Stream-K", arXiv:2301.03598
    """
    waves = tiles / n_cores
    return maximum(1, waves + quantisation * (ceil(waves) - waves))


@formula
def tile_loop_time(
    m, n, k, tile_m, tile_n, core_flop_per_s, core_byte_per_s, left_bytes=2.0, right_bytes=2.0, flop_per_mac=2.0
):
    r"""Time of one core for the summed dimension of one tile: the slower of its arithmetic and its loads.

    .. math:: T = \max\left(\frac{2 t_m t_n k}{P_c},\; \frac{(b_a \min(m, t_m) + b_b \min(n, t_n)) k}{\beta_c}\right)

    Symbols      m  m [1] rows of the result;  n  n [1] columns of the result;  k  k [1] summed dimension;
                 t_m  tile_m [1] rows of a tile;  t_n  tile_n [1] columns of a tile;
                 P_c  core_flop_per_s [flop/s] rate of one core;
                 \beta_c  core_byte_per_s [B/s] at which one core can load;
                 b_a  left_bytes [B] element of the activations;  b_b  right_bytes [B] element of the weights;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [s]
    Assumptions  loads are hidden behind arithmetic or the other way round; rows outside the result are not loaded
    Valid for    m >= 1; n >= 1; k >= 1; tile_m >= 1; tile_n >= 1
    Monotone     m +; n +; k +; core_flop_per_s -; core_byte_per_s -
    Source       Kerr et al. 2017, "CUTLASS: Fast Linear Algebra in CUDA C++",
                 https://developer.nvidia.com/blog/cutlass-linear-algebra-cuda/ (the loop over a tile)
    """
    arithmetic_s = flop_per_mac * tile_m * tile_n * k / core_flop_per_s
    loads = (left_bytes * minimum(m, tile_m) + right_bytes * minimum(n, tile_n)) * k
    return maximum(arithmetic_s, loads / core_byte_per_s)


@formula
def tile_edge_time(m, tile_m, tile_n, core_byte_per_s, epilogue_share, start_s, result_bytes=2.0):
    r"""Time of one tile outside its loop: filling the pipeline, and writing what the next tile does not hide.

    .. math:: T = t_w + \epsilon\, b_c \min(m, t_m) t_n / \beta_c

    Symbols      m  m [1] rows of the result;  t_m  tile_m [1] rows of a tile;  t_n  tile_n [1] columns of a tile;
                 \beta_c  core_byte_per_s [B/s] share of the memory bandwidth of one core;
                 \epsilon  epilogue_share [1] share of the writing that stays exposed;
                 t_w  start_s [s] filling the pipeline;  b_c  result_bytes [B] element of the result;  returns [s]
    Assumptions  all cores write at once
    Valid for    m >= 1; tile_m >= 1; tile_n >= 1; 0 <= epilogue_share <= 1; start_s >= 0
    Monotone     m +; epilogue_share +; start_s +; core_byte_per_s -
    Source       Kerr et al. 2017, "CUTLASS: Fast Linear Algebra in CUDA C++",
                 https://developer.nvidia.com/blog/cutlass-linear-algebra-cuda/ (prologue and epilogue of a tile)
    """
    return start_s + epilogue_share * result_bytes * minimum(m, tile_m) * tile_n / core_byte_per_s


@formula
def tiled_compute_time(tiles, loop_s, edge_s, n_cores, quantisation, split=1.0, join_s=0.0):
    r"""Time in which the cores work off the tiles of a product, each tile's loop cut into `split` parts.

    .. math:: T = W(s N, C, q) \left(T_{loop} / s + T_{edge}\right) + T_{join}

    Symbols      N  tiles [1] tiles of the result;  T_{loop}  loop_s [s] loop of one tile;
                 T_{edge}  edge_s [s] start and end of one tile;  C  n_cores [1] cores (SMs);
                 q  quantisation [1] 1 waits for whole rounds;
                 s  split [1] parts of the summed dimension on different cores (split-K);
                 T_{join}  join_s [s] launch and traffic of adding the parts up;  returns [s]
    Valid for    tiles >= 0; loop_s >= 0; edge_s >= 0; n_cores >= 1; 0 <= quantisation <= 1; split >= 1; join_s >= 0
    Monotone     loop_s +; edge_s +; join_s +; quantisation +
    Source       Osama et al. 2023, "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix
                 Multiplication on the GPU", section 2 (data-parallel and fixed-split tiles), arXiv:2301.03598
    """
    return wave_count(tiles * split, n_cores, quantisation) * (loop_s / split + edge_s) + join_s


@formula
def tiled_matmul_time(compute_s, memory_s, exponent, launch_s, quantise_s=0.0):
    r"""Time of a matrix product from that of its fastest tiling and that of its memory traffic.

    .. math:: T = t_0 + T_q + \left(T_c^p + T_m^p\right)^{1/p}

    Symbols      T_c  compute_s [s] fastest tiling of `tiled_compute_time`;  T_m  memory_s [s] traffic alone;
                 p  exponent [1] 1 is no overlap and infinity is perfect overlap;  t_0  launch_s [s] floor;
                 T_q  quantise_s [s] quantising the activations by a kernel of its own;  returns [s]
    Assumptions  the library picks the fastest of its tile shapes
    Valid for    compute_s >= 0; memory_s >= 0; 1 <= exponent <= 16; launch_s >= 0; quantise_s >= 0
    Monotone     compute_s +; memory_s +; launch_s +; quantise_s +
    Source       p-norm of the roofline of Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785, over the
                 tiles of Osama et al. 2023, arXiv:2301.03598; constants in hardware_specs/efficiency
    Checked      aiconfigurator-core 0.12.0, GEMM tables of A100, H100 and B200: tests/test_matmul.py
    """
    return launch_s + quantise_s + (compute_s**exponent + memory_s**exponent) ** (1 / exponent)


@formula
def sustained_time(burst_s, sustained_slowdown, settle_s):
    r"""Time of work that the power limit slows down once it lasts: clocks settle below those of a short burst.

    .. math:: T = T_b \left(1 + \sigma \frac{T_b}{T_b + \tau}\right)

    Symbols      T_b  burst_s [s] time at the clocks of a short burst;
                 \sigma  sustained_slowdown [1] how much slower the clocks settle at full load;
                 \tau  settle_s [s] time after which half of that is felt;  returns [s]
    Assumptions  the device rests between measured kernels, so a short one runs at burst clocks
    Valid for    burst_s >= 0; 0 <= sustained_slowdown <= 1; settle_s >= 0
    Monotone     burst_s +; sustained_slowdown +; settle_s -
    Source       derived: saturation of the slowdown with the length of a kernel, as the tables show on every part;
                 constants in hardware_specs/efficiency
    Checked      aiconfigurator-core 0.12.0, GEMM tables of A100, H100 and B200: tests/test_matmul.py
    """
    return burst_s * (1 + sustained_slowdown * burst_s / (burst_s + settle_s))


@formula
def steady_slowdown(duty, sustained_slowdown):
    r"""Time of a matrix product in a lasting load over its time in a short burst.

    .. math:: f = 1 + \sigma d

    Symbols      d  duty [1] share of the load in which products run;
                 \sigma  sustained_slowdown [1] how much slower the clocks settle when nothing but products runs;
                 returns [1]
    Assumptions  the power limit acts on the mean over a time that is long against a kernel and short against a load, so
                 the clocks settle in proportion to how long the power-hungry products run; first order in that share
    Valid for    0 <= duty <= 1; 0 <= sustained_slowdown <= 1
    Monotone     duty +; sustained_slowdown +
    Limits       duty = 0 -> 1; sustained_slowdown = 0 -> 1
    Source       derived: `sustained_time` of a product that never ends (d = 1), linear in the duty below
    Example      >>> steady_slowdown(0.5, 0.2)
                 1.1
    """
    return 1 + sustained_slowdown * duty
