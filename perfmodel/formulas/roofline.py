r"""Roofline laws: how compute and memory time combine."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum

__all__ = ["machine_balance", "roofline_time", "serial_roofline_time", "smooth_roofline_time"]


@formula
def roofline_time(flops, n_bytes, flop_per_s, byte_per_s):
    r"""Time of a kernel whose arithmetic and memory traffic overlap perfectly: the lower bound.

    .. math:: T = \max(F / P, B / \beta)

    Symbols      F  flops [flop] arithmetic work;  B  n_bytes [B] memory traffic;  P  flop_per_s [flop/s] peak rate;
                 \beta  byte_per_s [B/s] memory bandwidth;  returns [s]
    Assumptions  perfect overlap, no launch latency, every peak reached
    Valid for    flops >= 0; n_bytes >= 0
    Monotone     flops +; n_bytes +; flop_per_s -; byte_per_s -
    Source       Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model", eq. 1,
                 doi:10.1145/1498765.1498785
    Example      >>> roofline_time(2e12, 1e9, 1e15, 1e12)
                 0.002
    """
    return maximum(flops / flop_per_s, n_bytes / byte_per_s)


@formula
def serial_roofline_time(flops, n_bytes, flop_per_s, byte_per_s):
    r"""Time of a kernel whose arithmetic and memory traffic never overlap: the upper bound.

    .. math:: T = F / P + B / \beta

    Symbols      F  flops [flop] arithmetic work;  B  n_bytes [B] memory traffic;  P  flop_per_s [flop/s] rate;
                 \beta  byte_per_s [B/s] memory bandwidth;  returns [s]
    Assumptions  no overlap, no launch latency
    Valid for    flops >= 0; n_bytes >= 0
    Monotone     flops +; n_bytes +; flop_per_s -; byte_per_s -
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (its two terms, without overlap)
    """
    return flops / flop_per_s + n_bytes / byte_per_s


@formula
def smooth_roofline_time(
    flops, n_bytes, flop_per_s, byte_per_s, compute_efficiency, memory_efficiency, exponent, launch_s
):
    r"""Time of a real kernel: a launch floor and a p-norm between the two roofs that it really reaches.

    .. math:: T = t_0 + \left((F / e_c P)^p + (B / e_m \beta)^p\right)^{1/p}

    Symbols      F  flops [flop] arithmetic work;  B  n_bytes [B] memory traffic;  P  flop_per_s [flop/s] peak rate;
                 \beta  byte_per_s [B/s] memory bandwidth;  e_c  compute_efficiency [1] share of the peak reached;
                 e_m  memory_efficiency [1] share of the bandwidth reached;
                 p  exponent [1] 1 is no overlap and infinity is perfect overlap;  t_0  launch_s [s] floor;  returns [s]
    Assumptions  one kernel, one accelerator; shape effects (tiles, waves) are inside the efficiencies
    Valid for    flops >= 0; n_bytes >= 0; 0 <= compute_efficiency <= 1; 0 <= memory_efficiency <= 1;
                 1 <= exponent <= 16; launch_s >= 0
    Monotone     flops +; n_bytes +; flop_per_s -; byte_per_s -; compute_efficiency -; memory_efficiency -; launch_s +
    Source       p-norm of the roofline of Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785; constants
                 per accelerator in hardware_specs/efficiency
    """
    compute_s = flops / (compute_efficiency * flop_per_s)
    memory_s = n_bytes / (memory_efficiency * byte_per_s)
    return launch_s + (compute_s**exponent + memory_s**exponent) ** (1 / exponent)


@formula
def machine_balance(flop_per_s, byte_per_s):
    r"""Arithmetic intensity at which a kernel turns from memory-bound to compute-bound.

    .. math:: I^* = P / \beta

    Symbols      P  flop_per_s [flop/s] peak rate;  \beta  byte_per_s [B/s] memory bandwidth;  returns [flop/B]
    Valid for    flop_per_s >= 0; byte_per_s >= 0
    Monotone     flop_per_s +; byte_per_s -
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (the ridge point)
    """
    return flop_per_s / byte_per_s
