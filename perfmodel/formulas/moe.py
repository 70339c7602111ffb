r"""Mixture of experts under uneven routing: how uneven ranks are, what they wait, what capacity drops, cheap experts.

The exchanges between ranks stand in `moe_exchange.py`, grouped products in `grouped.py`.
"""

from perfmodel.formulas._registry import formula
from perfmodel.formulas.overlap import expected_maximum_of_normals
from perfmodel.ops import ceil, exp, log, maximum, minimum, sqrt

__all__ = [
    "dropped_share",
    "expert_capacity",
    "ffn_share_with_zero_computation",
    "hot_rank_over_mean",
    "imbalanced_layer_time",
    "max_over_mean_of_experts",
    "max_over_mean_of_spread",
    "product_key_router_flops",
    "rerouted_layer_time",
    "router_flops",
]


@formula
def imbalanced_layer_time(compute_s, exchange_s, max_over_mean, crossing_share):
    r"""Time of a layer of routed experts that waits for its fullest rank.

    .. math:: T = f (C + c X)

    Symbols      C  compute_s [s] products of the experts at a fair share;
                 X  exchange_s [s] dispatch and combine at a fair share, were every copy to leave its rank;
                 f  max_over_mean [1] load of the fullest rank over the mean;
                 c  crossing_share [1] share of the copies that leave their rank;  returns [s]
    Assumptions  time is proportional to the tokens of a rank; what the fullest rank computes it also receives
    Valid for    compute_s >= 0; exchange_s >= 0; max_over_mean >= 1; 0 <= crossing_share <= 1
    Monotone     compute_s +; exchange_s +; max_over_mean +; crossing_share +
    Source       DeepSeek-AI 2025, open-infra-index day 6 (expert-parallel load balancing: dispatch receive load and
                 computation of the fullest GPU)
    """
    return max_over_mean * (compute_s + crossing_share * exchange_s)


@formula
def max_over_mean_of_spread(ranks, spread):
    r"""Load of the fullest of many ranks over the mean, from their coefficient of variation.

    .. math:: f = \exp(s E_N - s^2 / 2), \quad s^2 = \ln(1 + v^2)

    Symbols      N  ranks [1] ranks;  v  spread [1] standard deviation of the ranks' loads over their mean;
                 returns [1]
    Assumptions  independent lognormal loads; those of `expected_maximum_of_normals`
    Valid for    2 <= ranks <= 1e6; 0 <= spread <= 2
    Limits       spread = 0 -> 1
    Source       derived: expected maximum of normal draws (Cramer 1946, section 28.6) of the logarithms
    Checked      TensorRT-LLM blog 4, Table 1: DeepSeek-R1 on 32 and 36 ranks, with and without balancing
    """
    variance = log(1 + spread**2)
    return exp(sqrt(variance) * expected_maximum_of_normals(ranks) - variance / 2)


@formula
def max_over_mean_of_experts(ranks, experts_per_rank, log_deviation):
    r"""Load of the fullest of many ranks over the mean, from how uneven single experts are.

    .. math:: f = f_N\left(\sqrt{(e^{\sigma^2} - 1) / k}\right)

    Symbols      N  ranks [1] ranks;  k  experts_per_rank [1] experts (or replicas) on a rank;
                 \sigma  log_deviation [1] standard deviation of the logarithm of an expert's load, or of how far loads
                 drifted since replicas were balanced;  returns [1]
    Assumptions  independent lognormal experts, placed without looking at their loads; f_N is
                 `max_over_mean_of_spread`
    Valid for    2 <= ranks <= 1e6; experts_per_rank >= 1; 0 <= log_deviation <= 1.2
    Limits       log_deviation = 0 -> 1
    Source       derived: variance of a mean of lognormals (Fenton 1960, doi:10.1109/TCOM.1960.1097606)
    Checked      DeepSeek-R1 chat traces on 32 to 256 ranks, placed in order and by stale plans (EPFL hackathon)
    """
    return max_over_mean_of_spread(ranks, sqrt((exp(log_deviation**2) - 1) / experts_per_rank))


@formula
def hot_rank_over_mean(ranks, hot_share, hot_experts, n_experts):
    r"""Load of a rank over the mean when a few of its experts draw a given share of all tokens.

    .. math:: f = P \left(h + (1 - h) \frac{E/P - m}{E - m}\right)

    Symbols      P  ranks [1] ranks;  h  hot_share [1] share of the copies that go to the hot experts;
                 m  hot_experts [1] hot experts, all on this rank;  E  n_experts [1] experts;  returns [1]
    Assumptions  the other experts share the rest evenly; the hot ones fit on one rank
    Valid for    1 <= ranks <= 8; 0 <= hot_share <= 1; 1 <= hot_experts <= 16; n_experts >= 128; fails when the
                 hot experts do not fit on one rank
    Monotone     hot_share +
    Source       Salesforce AI Research 2026, "Least-Loaded Expert Parallelism", arXiv:2601.17111, Figure 4 (a sweep
                 of 30 to 95 % of the tokens into 1, 4 or 16 experts)
    Checked      the same, Figure 4, as the limit of what rerouting can gain
    """
    others = maximum(n_experts / ranks - hot_experts, 0)
    return ranks * (hot_share + (1 - hot_share) * others / (n_experts - hot_experts))


@formula
def rerouted_layer_time(compute_s, exchange_s, moved_weight_bytes, link_byte_per_s, planning_s=0):
    r"""Time of a layer whose surplus tokens go to less loaded ranks, the weights of their experts with them.

    .. math:: T = t_p + C + X + W / \beta

    Symbols      C  compute_s [s] products of the experts at a fair share;
                 X  exchange_s [s] dispatch and combine at a fair share;
                 W  moved_weight_bytes [B] weights that the most active rank sends or receives;
                 \beta  link_byte_per_s [B/s] one direction;  t_p  planning_s [s] deciding where tokens go;  returns [s]
    Assumptions  rerouting evens the load out fully; weights are not hidden behind products
    Valid for    compute_s >= 0; exchange_s >= 0; moved_weight_bytes >= 0; planning_s >= 0
    Monotone     compute_s +; exchange_s +; moved_weight_bytes +; link_byte_per_s -; planning_s +
    Source       Salesforce AI Research 2026, "Least-Loaded Expert Parallelism", arXiv:2601.17111, section 4
    """
    return planning_s + compute_s + exchange_s + moved_weight_bytes / link_byte_per_s


@formula
def expert_capacity(tokens, experts_per_token, n_experts, capacity_factor):
    r"""Token copies that an expert takes before it drops the rest.

    .. math:: \lceil c k T / E \rceil

    Symbols      T  tokens [1] tokens routed together;  k  experts_per_token [1] routed experts of a token;
                 E  n_experts [1] experts;  c  capacity_factor [1] room over the fair share;  returns [1]
    Valid for    tokens >= 1; experts_per_token >= 1; n_experts >= 1; 0 <= capacity_factor <= 16
    Monotone     tokens +; experts_per_token +; n_experts -; capacity_factor +
    Source       Fedus, Zoph, Shazeer 2021, "Switch Transformers", eq. 3, arXiv:2101.03961; k copies after Lepikhin et
                 al. 2020, "GShard", arXiv:2006.16668
    """
    return ceil(capacity_factor * experts_per_token * tokens / n_experts)


@formula
def dropped_share(over_mean, capacity_factor):
    r"""Share of an expert's copies that do not fit its capacity.

    .. math:: \max(0, 1 - c / f)

    Symbols      f  over_mean [1] load of the expert over the mean;  c  capacity_factor [1] room over the fair share;
                 returns [1]
    Valid for    over_mean >= 0.001; 0 <= capacity_factor <= 16
    Monotone     over_mean +; capacity_factor -
    Source       Fedus, Zoph, Shazeer 2021, "Switch Transformers", section 2.2, arXiv:2101.03961
    """
    return 1 - minimum(1, capacity_factor / over_mean)


@formula
def ffn_share_with_zero_computation(ffn_experts, zero_experts, ffn_weight):
    r"""Share of the routed copies that reach an expert with work where zero-computation experts stand beside them.

    .. math:: \frac{\tau N}{\tau N + Z}

    Symbols      N  ffn_experts [1] experts with a feed-forward network;
                 Z  zero_experts [1] experts that discard, copy or replace a token;
                 \tau  ffn_weight [1] target load of an expert with work over that of one without;  returns [1]
    Assumptions  the balance loss holds; the same share falls on products and on exchanged bytes
    Valid for    ffn_experts >= 1; zero_experts >= 0; 0.01 <= ffn_weight <= 1
    Monotone     ffn_experts +; zero_experts -; ffn_weight +
    Limits       zero_experts = 0 -> 1
    Source       Jin et al. 2024, "MoE++", Table 1 (complexity), arXiv:2410.07348
    """
    return ffn_weight * ffn_experts / (ffn_weight * ffn_experts + zero_experts)


@formula
def router_flops(tokens, d_model, n_experts, flop_per_mac=2):
    r"""Operations of a router that scores every expert.

    .. math:: F = 2 T h E

    Symbols      T  tokens [1] tokens;  h  d_model [1] hidden size;  E  n_experts [1] experts;
                 c  flop_per_mac [flop] operations of a multiply-add;  returns [flop]
    Valid for    tokens >= 0; d_model >= 1; n_experts >= 1
    Monotone     tokens +; d_model +; n_experts +
    Source       Shazeer et al. 2017, "Outrageously Large Neural Networks", section 2.1, arXiv:1701.06538
    """
    return flop_per_mac * tokens * d_model * n_experts


@formula
def product_key_router_flops(tokens, d_model, n_experts, flop_per_mac=2):
    r"""Operations of a router of product keys: two lists of sqrt(E) half keys instead of E keys.

    .. math:: F = 2 T h \sqrt{E}

    Symbols      T  tokens [1] tokens;  h  d_model [1] hidden size, half for each list;
                 E  n_experts [1] experts;  c  flop_per_mac [flop] operations of a multiply-add;  returns [flop]
    Assumptions  choosing the best pairs of the two short lists is free
    Valid for    tokens >= 0; d_model >= 1; n_experts >= 1
    Monotone     tokens +; d_model +; n_experts +
    Source       Lample et al. 2019, "Large Memory Layers with Product Keys", section 3.1, arXiv:1907.05242; used by
                 OmniMoE (router O(sqrt N))
    """
    return flop_per_mac * tokens * d_model * sqrt(n_experts)
