r"""Prefill and decode on accelerators of their own: what moves between them, how many of each, and what queues."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum, minimum

__all__ = [
    "attention_offload_bytes",
    "disaggregated_requests_per_s",
    "dual_batch_time",
    "expert_exchange_time",
    "kv_transfer_bytes",
    "layerwise_exposed_transfer_time",
    "matched_prefill_share",
    "matched_requests_per_s",
    "md1_goodput",
    "md1_ttft",
    "transfer_link_byte_per_s",
]


@formula
def kv_transfer_bytes(prompt_tokens, kv_bytes_per_token, resident_share=0):
    r"""Cache that a request takes from its prefill to its decode accelerators.

    .. math:: n = I\, b\, (1 - r)

    Symbols      I  prompt_tokens [1] tokens of the prompt, those found in a cache of prefixes too;
                 b  kv_bytes_per_token [B] all layers and heads;
                 r  resident_share [1] share of the prompt that the decode side holds already;  returns [B]
    Valid for    prompt_tokens >= 0; kv_bytes_per_token >= 0; 0 <= resident_share <= 1
    Monotone     prompt_tokens +; kv_bytes_per_token +; resident_share -
    Limits       resident_share = 1 -> 0
    Source       Patel et al. 2023, "Splitwise", section 4.1, arXiv:2311.18677; Zhong et al. 2024, "DistServe",
                 section 3.3, arXiv:2401.09670
    Checked      Zhong et al. 2024, section 3.3: OPT-66B, 512 tokens, 1.13 GB
    """
    return prompt_tokens * kv_bytes_per_token * (1 - resident_share)


@formula
def transfer_link_byte_per_s(prefill_ranks, prefill_link_byte_per_s, decode_ranks, decode_link_byte_per_s):
    r"""Rate at which the ranks of one side send a cache to those of the other, each over its own link.

    .. math:: \beta = \min(p_p \beta_p,\; p_d \beta_d)

    Symbols      p_p  prefill_ranks [1] ranks that hold parts of the cache;
                 \beta_p  prefill_link_byte_per_s [B/s] link of one;  p_d  decode_ranks [1] ranks that receive parts;
                 \beta_d  decode_link_byte_per_s [B/s] link of one;  returns [B/s]
    Assumptions  parts are equal, no rank serves another transfer meanwhile, the network between is not the bottleneck
    Valid for    prefill_ranks >= 1; prefill_link_byte_per_s >= 0; decode_ranks >= 1; decode_link_byte_per_s >= 0
    Monotone     prefill_ranks +; prefill_link_byte_per_s +; decode_ranks +; decode_link_byte_per_s +
    Source       Patel et al. 2023, "Splitwise", section 4.3 (ranks of equal place are connected), arXiv:2311.18677
    """
    return minimum(prefill_ranks * prefill_link_byte_per_s, decode_ranks * decode_link_byte_per_s)


@formula
def layerwise_exposed_transfer_time(prefill_s, transfer_s, n_layers):
    r"""Time by which the transfer of a cache outlasts its prefill when every layer is sent as soon as it is computed.

    .. math:: T = \frac{t_x}{L} + \frac{L - 1}{L}\max(0,\; t_x - t_p)

    Symbols      t_p  prefill_s [s] all layers;  t_x  transfer_s [s] the whole cache;  L  n_layers [1] layers;
                 returns [s]
    Assumptions  equal layers; one layer is sent while the next is computed: a flow shop of two machines and L equal
                 jobs, less the prefill
    Valid for    prefill_s >= 0; transfer_s >= 0; n_layers >= 1
    Monotone     prefill_s -; transfer_s +
    Limits       transfer_s = 0 -> 0
    Source       derived from Johnson 1954, doi:10.1002/nav.3800010110; the transfer is that of Patel et al. 2023,
                 "Splitwise", section 4.3, arXiv:2311.18677
    Checked      equal to a replay of the layers (tests/test_disaggregation.py)
    """
    return transfer_s / n_layers + (n_layers - 1) / n_layers * maximum(0, transfer_s - prefill_s)


@formula
def dual_batch_time(compute_s, exchange_s):
    r"""Time of an iteration cut in two halves, where one computes while the messages of the other travel.

    .. math:: T = 2 \max(t_c, t_x)

    Symbols      t_c  compute_s [s] kernels of one half;  t_x  exchange_s [s] messages of one half;  returns [s]
    Assumptions  a steady state over many layers; kernels lose nothing to the messages
    Valid for    compute_s >= 0; exchange_s >= 0
    Monotone     compute_s +; exchange_s +
    Source       DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 3.4, arXiv:2412.19437
    """
    return 2 * maximum(compute_s, exchange_s)


@formula
def expert_exchange_time(tokens, copies, dispatch_bytes, combine_bytes, link_byte_per_s, latency_s):
    r"""Time of one layer's expert messages when ranks write straight into each other's memory: out, and back summed.

    .. math:: T = 2\alpha + \frac{t\, c\, (b_d + b_c)}{\beta}

    Symbols      t  tokens [1] of one rank;  c  copies [1] of a token that leave over the link: its experts elsewhere,
                 or its nodes where a node passes them on;  b_d  dispatch_bytes [B] of a token on its way out;
                 b_c  combine_bytes [B] of one on its way back;  \beta  link_byte_per_s [B/s] that a rank reaches;
                 \alpha  latency_s [s] of a write and its notice;  returns [s]
    Assumptions  balanced experts; every rank has a network interface of its own
    Valid for    tokens >= 0; copies >= 0; dispatch_bytes >= 0; combine_bytes >= 0; latency_s >= 0
    Monotone     tokens +; copies +; dispatch_bytes +; combine_bytes +; link_byte_per_s -; latency_s +
    Source       DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 3.2.2, arXiv:2412.19437; DeepEP,
                 low-latency kernels, github.com/deepseek-ai/DeepEP
    """
    return 2 * latency_s + tokens * copies * (dispatch_bytes + combine_bytes) / link_byte_per_s


@formula
def disaggregated_requests_per_s(prefill_replicas, prefill_s, decode_replicas, decode_batch, decode_s):
    r"""Requests per second of xPyD: what the scarcer of the two pools lets through.

    .. math:: \lambda = \min\left(\frac{x}{t_p},\; \frac{y\, b}{t_d}\right)

    Symbols      x  prefill_replicas [1] deployments that prefill;  t_p  prefill_s [s] each request occupies one for;
                 y  decode_replicas [1] deployments that decode;  b  decode_batch [1] requests that one runs at a time;
                 t_d  decode_s [s] from the first token of a request to its last;  returns [1/s]
    Assumptions  every request is alike and neither pool waits for the other's burst
    Valid for    prefill_replicas >= 0; prefill_s >= 0.000001; decode_replicas >= 0; decode_batch >= 0;
                 decode_s >= 0.000001
    Monotone     prefill_replicas +; prefill_s -; decode_replicas +; decode_batch +; decode_s -
    Source       Zhong et al. 2024, "DistServe", section 4.1 (replicas of each phase by their goodput),
                 arXiv:2401.09670
    """
    return minimum(prefill_replicas / prefill_s, decode_replicas * decode_batch / decode_s)


@formula
def matched_prefill_share(prefill_accelerator_s, decode_accelerator_s):
    r"""Share of the accelerators that prefill when both pools are as large as they need to be.

    .. math:: x = \frac{w_p}{w_p + w_d}

    Symbols      w_p  prefill_accelerator_s [s] of accelerators times seconds that a request's prefill takes;
                 w_d  decode_accelerator_s [s] the same of its decoding;  returns [1]
    Assumptions  pools of any size; the same accelerator on both sides, or a share of what both cost alike
    Valid for    prefill_accelerator_s >= 0.000001; decode_accelerator_s >= 0.000001
    Monotone     prefill_accelerator_s +; decode_accelerator_s -
    Source       derived: work per request over rate is the same on both sides; Zhong et al. 2024, "DistServe",
                 section 4.1, arXiv:2401.09670
    """
    return prefill_accelerator_s / (prefill_accelerator_s + decode_accelerator_s)


@formula
def matched_requests_per_s(budget, prefill_cost, prefill_work_s, decode_cost, decode_work_s):
    r"""Most requests per second that a budget (watts, dollars, accelerators) buys when the pools are matched.

    .. math:: \lambda = \frac{B}{c_p w_p + c_d w_d}

    Symbols      B  budget [1] of all machines, in any one unit;  c_p  prefill_cost [1] of a prefill machine, in it;
                 w_p  prefill_work_s [s] machines times seconds that a request's prefill takes;
                 c_d  decode_cost [1] of a decode machine;  w_d  decode_work_s [s] of its decoding;  returns [1/s]
    Assumptions  machines can be bought in parts
    Valid for    budget >= 0; prefill_cost >= 0.001; prefill_work_s >= 0.000001; decode_cost >= 0.001;
                 decode_work_s >= 0.000001
    Monotone     budget +; prefill_cost -; prefill_work_s -; decode_cost -; decode_work_s -
    Source       derived; iso-power and iso-cost clusters: Patel et al. 2023, "Splitwise", section 6,
                 arXiv:2311.18677
    """
    return budget / (prefill_cost * prefill_work_s + decode_cost * decode_work_s)


@formula
def md1_ttft(arrival_rate_per_s, service_s, slot_s):
    r"""Mean time to the first token before a prefill deployment that admits one prompt each slot.

    .. math:: T = D + \frac{\lambda d^2}{2 (1 - \lambda d)}

    Symbols      \lambda  arrival_rate_per_s [1/s] Poisson arrivals at one deployment;  D  service_s [s] one prompt;
                 d  slot_s [s] between two prompts: D alone or tensor-parallel (D and d both shrink), D over the stages
                 in a pipeline;  returns [s]
    Assumptions  prompts of one length, first come first served, no batching
    Valid for    0 <= arrival_rate_per_s <= 0.9; service_s >= 0; 0 <= slot_s <= 1; fails when slots fill the time
    Monotone     arrival_rate_per_s +; service_s +; slot_s +
    Source       Zhong et al. 2024, "DistServe", section 3.1, eqs. 1-3, arXiv:2401.09670
    """
    return service_s + arrival_rate_per_s * slot_s**2 / (2 * (1 - arrival_rate_per_s * slot_s))


@formula
def md1_goodput(service_s, slot_s, ttft_limit_s):
    r"""Largest arrival rate at which the mean time to the first token keeps a limit: `md1_ttft`, solved for the rate.

    .. math:: \lambda = \frac{2 w}{d\,(d + 2 w)},\quad w = \max(0, L - D)

    Symbols      D  service_s [s] one prompt;  d  slot_s [s] between two prompts;  L  ttft_limit_s [s] limit;
                 returns [1/s]
    Assumptions  those of `md1_ttft`; the mean keeps the limit, not a percentile
    Valid for    service_s >= 0; slot_s >= 0.000001; ttft_limit_s >= 0
    Monotone     service_s -; slot_s -; ttft_limit_s +
    Source       Zhong et al. 2024, "DistServe", section 3.1, eq. 1, arXiv:2401.09670, solved for the rate
    """
    slack_s = maximum(0, ttft_limit_s - service_s)
    return 2 * slack_s / (slot_s * (slot_s + 2 * slack_s))


@formula
def attention_offload_bytes(sequences, d_model, n_kv_heads, d_head, n_layers, bytes_per_value=2):
    r"""Bytes between the accelerators of a decode step whose attention runs on others: queries, keys, values, results.

    .. math:: n = L\, s\, w\, (2 h + 2 k d)

    Symbols      s  sequences [1] running answers;  h  d_model [1] width of all query heads together;
                 k  n_kv_heads [1] key and value heads;  d  d_head [1] width of a head;  L  n_layers [1] layers;
                 w  bytes_per_value [B] a number sent;  returns [B]
    Assumptions  the cache stays where attention runs; the new token's key and value are sent with its query
    Valid for    sequences >= 0; d_model >= 1; n_kv_heads >= 1; d_head >= 1; n_layers >= 1; bytes_per_value >= 0
    Monotone     sequences +; d_model +; n_kv_heads +; d_head +; n_layers +; bytes_per_value +
    Source       Chen et al. 2024, "Efficient and Economic Large Language Model Inference with Attention Offloading"
                 (Lamina), arXiv:2405.01814
    """
    return n_layers * sequences * bytes_per_value * (2 * d_model + 2 * n_kv_heads * d_head)
