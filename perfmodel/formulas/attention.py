r"""The attention core (softmax of Q K^T times V), materialised and fused."""

from perfmodel.formulas._registry import formula
from perfmodel.formulas.roofline import roofline_time

__all__ = ["attention_core_flops", "flash_attention_time", "flash_efficiency"]


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
def flash_efficiency(seq_len, peak_efficiency, half_length):
    r"""Share of the dense peak that a fused attention kernel reaches, rising with the sequence length.

    .. math:: e(s) = e_\infty \frac{s}{s + s_{1/2}}

    Symbols      s  seq_len [1] sequence length;  e_\infty  peak_efficiency [1] share at long sequences;
                 s_{1/2}  half_length [1] length at half of it;  returns [1]
    Assumptions  causal work counted as half of full; work per block grows with s while its set-up does not
    Valid for    128 <= seq_len <= 16384; 0 <= peak_efficiency <= 1; half_length >= 0
    Monotone     seq_len +; peak_efficiency +; half_length -
    Source       saturation law; constants from measured tables, hardware_specs/efficiency
    """
    return peak_efficiency * seq_len / (seq_len + half_length)


@formula
def flash_attention_time(flops, n_bytes, flop_per_s, byte_per_s, efficiency, memory_efficiency, launch_s):
    r"""Time of a fused attention kernel: a launch and the slower of its arithmetic and its traffic.

    .. math:: T = t_0 + \max\left(\frac{F}{e P}, \frac{B}{e_m \beta}\right)

    Symbols      F  flops [flop] arithmetic work;  B  n_bytes [B] memory traffic of Q, K, V and O;
                 P  flop_per_s [flop/s] dense peak;  \beta  byte_per_s [B/s] memory bandwidth;
                 e  efficiency [1] share of the peak;  e_m  memory_efficiency [1] share of the bandwidth;
                 t_0  launch_s [s] floor;  returns [s]
    Valid for    flops >= 0; n_bytes >= 0; 0 <= efficiency <= 1; 0 <= memory_efficiency <= 1; launch_s >= 0
    Monotone     flops +; n_bytes +; flop_per_s -; byte_per_s -; efficiency -; launch_s +
    Source       Dao 2023, "FlashAttention-2", arXiv:2307.08691, section 3 (tiles hide the loads behind the products)
    """
    return launch_s + roofline_time(flops, n_bytes, efficiency * flop_per_s, memory_efficiency * byte_per_s)
