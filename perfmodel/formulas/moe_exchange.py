r"""What experts exchange: dispatch and combine, one all-to-all or two, compression, overlap, prefetch, pre-scheduling.

Direct, two-level and torus all-to-all stand in the collectives' families.
"""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum, minimum, sqrt

__all__ = [
    "best_exchange_chunks",
    "chunked_layer_time",
    "expected_rank_changes",
    "expert_exchange_bytes",
    "expert_prefetch_stall",
    "low_latency_all_to_all_time",
    "placed_exchange_share",
    "prescheduled_exchange_bytes",
    "share_removed_speedup",
]


@formula
def expert_exchange_bytes(tokens, experts_per_token, d_model, bytes_per_element, crossing_share, exchanges=2):
    r"""Bytes that a rank sends for one layer of experts.

    .. math:: n = a k T h b c

    Symbols      T  tokens [1] tokens of the rank;  k  experts_per_token [1] routed experts of a token;
                 h  d_model [1] hidden size;  b  bytes_per_element [B] of an activation on the wire;
                 c  crossing_share [1] share of the copies whose expert is on another rank;
                 a  exchanges [1] all-to-alls of a layer: dispatch and combine, or one where every rank knows the
                 context of all sequences;  returns [B]
    Assumptions  a copy to each expert; where a token is sent once to each rank or node, k is that number
    Valid for    tokens >= 0; experts_per_token >= 1; d_model >= 1; 0 <= crossing_share <= 1; 1 <= exchanges <= 2
    Monotone     tokens +; experts_per_token +; d_model +; bytes_per_element +; crossing_share +; exchanges +
    Limits       crossing_share = 0 -> 0
    Source       Yao et al. 2024, "Exploiting Inter-Layer Expert Affinity" (ExFlow), section 3, arXiv:2401.08383
    """
    return exchanges * experts_per_token * tokens * d_model * bytes_per_element * crossing_share


@formula
def expected_rank_changes(layers, stay_share):
    r"""How often a token changes rank on its way through the layers.

    .. math:: (L - 1)(1 - s)

    Symbols      L  layers [1] layers with experts;  s  stay_share [1] mean share of tokens whose next expert is on
                 the same rank (1 / ranks for a random placement);  returns [1]
    Valid for    layers >= 1; 0 <= stay_share <= 1
    Monotone     layers +; stay_share -
    Limits       layers = 1 -> 0; stay_share = 1 -> 0
    Source       Yao et al. 2024 (ExFlow), arXiv:2401.08383; cost in solve_affinity.py of github.com/YJHMITWEB/ExFlow
    Checked      its Mixtral solutions on 4 and 8 ranks against random placement
    """
    return (layers - 1) * (1 - stay_share)


@formula
def share_removed_speedup(share, left, added_share=0):
    r"""Gain of shrinking one part of a step (all-to-all compressed, hidden or avoided).

    .. math:: \frac{1}{1 - c + c r + a}

    Symbols      c  share [1] share of the step that the part takes;  r  left [1] what is left of the part;
                 a  added_share [1] share of the step that the means costs (hashing, decoding);  returns [1]
    Assumptions  the part is exposed and nothing else changes
    Valid for    0 <= share <= 0.99; 0 <= left <= 1; 0 <= added_share <= 1
    Monotone     left -; added_share -
    Source       Amdahl 1967, doi:10.1145/1465482.1465560; for LSH compression of the all-to-all Nie et al. 2024,
                 "LSH-MoE", arXiv:2411.08446
    Checked      LSH-MoE, COMET and MoETuner: shares and gains of their abstracts
    """
    return 1 / (1 - share + share * left + added_share)


@formula
def chunked_layer_time(compute_s, exchange_s, chunks, chunk_s=0):
    r"""Time of a layer of experts whose tokens pass exchange and products in chunks, the two overlapping.

    .. math:: T = \frac{C + X}{r} + \frac{r - 1}{r}\max(C, X) + r t_0

    Symbols      C  compute_s [s] products of all tokens;  X  exchange_s [s] dispatch and combine of all tokens;
                 r  chunks [1] pipeline degree;  t_0  chunk_s [s] cost of one more chunk;  returns [s]
    Assumptions  equal chunks, neither disturbs the other
    Valid for    compute_s >= 0; exchange_s >= 0; chunks >= 1; chunk_s >= 0
    Monotone     compute_s +; exchange_s +; chunk_s +
    Source       Hwang et al. 2022, "Tutel", section 3.2, arXiv:2206.03382; Pan et al. 2025, "FSMoE",
                 arXiv:2501.10714
    """
    return (compute_s + exchange_s + (chunks - 1) * maximum(compute_s, exchange_s)) / chunks + chunks * chunk_s


@formula
def best_exchange_chunks(compute_s, exchange_s, chunk_s):
    r"""Pipeline degree that makes a chunked layer of experts shortest.

    .. math:: r = \max\left(1, \sqrt{(C + X - \max(C, X)) / t_0}\right)

    Symbols      C  compute_s [s] products of all tokens;  X  exchange_s [s] dispatch and combine of all tokens;
                 t_0  chunk_s [s] cost of one more chunk;  returns [1]
    Assumptions  those of `chunked_layer_time`; a fraction of a chunk is possible
    Valid for    compute_s >= 0; exchange_s >= 0; chunk_s >= 1e-9
    Monotone     chunk_s -
    Source       derived: zero of the derivative of `chunked_layer_time`; the optimum of Pan et al. 2025, "FSMoE",
                 arXiv:2501.10714
    """
    return maximum(1, sqrt((compute_s + exchange_s - maximum(compute_s, exchange_s)) / chunk_s))


@formula
def expert_prefetch_stall(n_bytes, byte_per_s, compute_s):
    r"""Time that a layer waits for experts fetched from host or disk behind the layers before it.

    .. math:: \max(0, n / \beta - C)

    Symbols      n  n_bytes [B] weights of the experts fetched;  \beta  byte_per_s [B/s] of the way there;
                 C  compute_s [s] work of the layers that the fetch runs behind;  returns [s]
    Assumptions  which experts are needed is known that early; the way is not shared
    Valid for    n_bytes >= 0; compute_s >= 0
    Monotone     n_bytes +; byte_per_s -; compute_s -
    Source       Shen et al. 2022, "SE-MoE", sections 3.1 and 4.2 (2D prefetch, ring memory), arXiv:2205.10034
    """
    return maximum(n_bytes / byte_per_s - compute_s, 0)


@formula
def low_latency_all_to_all_time(n_bytes, crossing_share, launch_s, latency_s, link_byte_per_s):
    r"""All-to-all of few tokens by direct remote writes, every pair at once.

    .. math:: T = t_0 + \alpha + c n / \beta

    Symbols      n  n_bytes [B] input of each rank;  c  crossing_share [1] share that leaves the rank;
                 t_0  launch_s [s] floor of the kernel;  \alpha  latency_s [s] one write and its signal;
                 \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Assumptions  no staging through a neighbour, latencies of all peers overlap
    Valid for    n_bytes >= 0; 0 <= crossing_share <= 1; launch_s >= 0; latency_s >= 0
    Monotone     n_bytes +; crossing_share +; launch_s +; latency_s +; link_byte_per_s -
    Source       DeepSeek-AI 2025, DeepEP, low-latency kernels, github.com/deepseek-ai/DeepEP
    """
    return launch_s + latency_s + crossing_share * n_bytes / link_byte_per_s


@formula
def placed_exchange_share(near_share, far_share, ranks, ranks_per_node, inner_byte_per_s, outer_byte_per_s):
    r"""Time of an exchange between placed experts over that of one where every rank is as likely.

    .. math:: \max\left(\frac{s_n}{\beta_i}, \frac{s_f}{\beta_o}\right) \Big/
              \max\left(\frac{k - 1}{p\,\beta_i}, \frac{p - k}{p\,\beta_o}\right)

    Symbols      s_n  near_share [1] copies that change rank inside a node;  s_f  far_share [1] copies that change node;
                 p  ranks [1] ranks;  k  ranks_per_node [1] ranks of a node;
                 \beta_i  inner_byte_per_s [B/s] link of a rank inside its node;
                 \beta_o  outer_byte_per_s [B/s] link of a rank out of it;  returns [1]
    Assumptions  both links work at once and the slower one sets the pace; latencies are left out
    Valid for    0 <= near_share <= 1; 0 <= far_share <= 1; 2 <= ranks <= 1e6; ranks_per_node >= 1; fails when nodes
                 hold more ranks than there are
    Monotone     near_share +; far_share +
    Source       derived: `two_level_all_to_all_time` (Thakur, Rabenseifner, Gropp 2005,
                 doi:10.1177/1094342005051521) with the shares of a placement in place of even ones
    """
    inside = minimum(ranks_per_node, ranks)
    even_s = maximum((inside - 1) / inner_byte_per_s, (ranks - inside) / outer_byte_per_s) / ranks
    return maximum(near_share / inner_byte_per_s, far_share / outer_byte_per_s) / even_s


@formula
def prescheduled_exchange_bytes(tokens, experts_per_token, ranks, d_model, bytes_per_element, remote_share):
    r"""Bytes that a rank sends in one all-to-all when tokens are shuffled beforehand to where their experts will be.

    .. math:: n = \alpha k T h b / G

    Symbols      T  tokens [1] tokens of all ranks;  k  experts_per_token [1] routed experts of a token;
                 G  ranks [1] ranks;  h  d_model [1] hidden size;  b  bytes_per_element [B] on the wire;
                 \alpha  remote_share [1] share of the copies that predicted placement leaves remote;  returns [B]
    Assumptions  the shuffle rides on a reduce-scatter that was there anyway
    Valid for    tokens >= 0; experts_per_token >= 1; ranks >= 1; d_model >= 1; 0 <= remote_share <= 1
    Monotone     tokens +; experts_per_token +; ranks -; d_model +; bytes_per_element +; remote_share +
    Limits       remote_share = 0 -> 0
    Source       "Speculative MoE: Communication Efficient Parallel MoE Inference" 2025, arXiv:2503.04398
    """
    return remote_share * experts_per_token * tokens * d_model * bytes_per_element / ranks
