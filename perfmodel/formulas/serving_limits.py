r"""What no serving system beats, and the plain laws that published systems measure themselves by."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum

__all__ = [
    "budgeted_batch_time",
    "cold_start_time",
    "fused_arrivals_speedup",
    "idealised_runtime",
    "optimal_tokens_per_s",
    "predicted_cache_flops_ratio",
    "prefill_time_at_peak",
    "streamed_weights_flop_per_s",
    "weight_bound_tpot",
]


@formula
def idealised_runtime(prompt_s, token_s, output_tokens):
    r"""Runtime of an autoregressive request on an idle deployment: a part of the prompt, and one equal part a token.

    .. math:: T = f(I) + g\, O

    Symbols      f(I)  prompt_s [s] to work on the prompt;  g  token_s [s] per generated token;
                 O  output_tokens [1] generated;  returns [s]
    Assumptions  no other request, no noise; the growth of the cache does not show
    Valid for    prompt_s >= 0; token_s >= 0; output_tokens >= 0
    Monotone     prompt_s +; token_s +; output_tokens +
    Source       Narayanan et al. 2023, "Cheaply Evaluating Inference Efficiency Metrics for Autoregressive Transformer
                 APIs", section 3, arXiv:2305.02440
    """
    return prompt_s + token_s * output_tokens


@formula
def optimal_tokens_per_s(flop_per_s, n_active_params, flop_per_mac=2):
    r"""Tokens per second, prompt and answer together, that arithmetic allows when everything else is hidden.

    .. math:: \lambda = \frac{P}{2 N}

    Symbols      P  flop_per_s [flop/s] that products reach;  N  n_active_params [1] weights that a token meets;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [1/s]
    Assumptions  every product at full rate; attention arithmetic, memory and messages hidden behind it
    Valid for    flop_per_s >= 0; n_active_params >= 1
    Monotone     flop_per_s +; n_active_params -
    Source       Zhu et al. 2024, "NanoFlow: Towards Optimal Large Language Model Serving Throughput", section 3, eq. 5,
                 arXiv:2408.12757
    """
    return flop_per_s / (flop_per_mac * n_active_params)


@formula
def weight_bound_tpot(weight_bytes, cache_bytes, byte_per_s, ranks):
    r"""Least time of a decode step: weights and cache are read once, by all ranks together.

    .. math:: T = \frac{W + K}{p\, \beta}

    Symbols      W  weight_bytes [B] of the model that the step meets;  K  cache_bytes [B] of all sequences;
                 \beta  byte_per_s [B/s] memory bandwidth of a rank;  p  ranks [1] that share them;  returns [s]
    Assumptions  perfect balance, no messages
    Valid for    weight_bytes >= 0; cache_bytes >= 0; ranks >= 1
    Monotone     weight_bytes +; cache_bytes +; byte_per_s -; ranks -
    Source       Aminabadi et al. 2022, "DeepSpeed Inference", section 3, arXiv:2207.00032; Fu 2024, "Challenges in
                 Deploying Long-Context Transformers", section 2, arXiv:2405.08944
    """
    return (weight_bytes + cache_bytes) / (ranks * byte_per_s)


@formula
def prefill_time_at_peak(prompt_tokens, n_params, n_layers, d_model, flop_per_s, kept_share=0.5, flop_per_mac=2):
    r"""Prefill at the peak rate of arithmetic: every weight once a token, and attention over the prompt.

    .. math:: T = \frac{2 I\,(N + 2 r L I h)}{P}

    Symbols      I  prompt_tokens [1] tokens;  N  n_params [1] weights;  L  n_layers [1] layers;
                 h  d_model [1] width of all heads together;  P  flop_per_s [flop/s] peak;
                 r  kept_share [1] share of the scores that the mask keeps;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [s]
    Assumptions  the two products of attention are r L I h multiplications each for a token; nothing is read or sent
    Valid for    prompt_tokens >= 0; n_params >= 0; n_layers >= 1; d_model >= 1; 0 <= kept_share <= 1
    Monotone     prompt_tokens +; n_params +; n_layers +; d_model +; flop_per_s -; kept_share +
    Limits       prompt_tokens = 0 -> 0
    Source       Fu 2024, "Challenges in Deploying Long-Context Transformers: A Theoretical Peak Performance Analysis",
                 section 3, arXiv:2405.08944
    """
    macs_per_token = n_params + 2 * kept_share * n_layers * prompt_tokens * d_model
    return flop_per_mac * prompt_tokens * macs_per_token / flop_per_s


@formula
def streamed_weights_flop_per_s(tokens, weight_bytes, n_params, link_byte_per_s, flop_per_s, flop_per_mac=2):
    r"""Arithmetic per second of a model whose weights are streamed from the host for every iteration.

    .. math:: R = \frac{2 N t}{\max(W / \beta,\; 2 N t / P)}

    Symbols      t  tokens [1] rows of an iteration;  W  weight_bytes [B] streamed;  N  n_params [1] weights;
                 \beta  link_byte_per_s [B/s] of the stream;  P  flop_per_s [flop/s] that products reach;
                 \phi  flop_per_mac [flop] one multiply and one add;  returns [flop/s]
    Assumptions  the next layer is fetched while one is computed
    Valid for    tokens >= 1; weight_bytes >= 1; n_params >= 1; link_byte_per_s >= 0
    Monotone     tokens +; weight_bytes -; link_byte_per_s +
    Source       Aminabadi et al. 2022, "DeepSpeed Inference", section 6 (ZeRO-Inference), arXiv:2207.00032
    """
    work = flop_per_mac * n_params * tokens
    return work / maximum(weight_bytes / link_byte_per_s, work / flop_per_s)


@formula
def budgeted_batch_time(prompt_tokens, budget_tokens, answers, iteration_s):
    r"""Time to the first token of a prompt that shares iterations of a fixed token budget with running answers.

    .. math:: T = \frac{I}{B - n}\, t

    Symbols      I  prompt_tokens [1] tokens of the prompt;  B  budget_tokens [1] tokens of an iteration;
                 n  answers [1] running, one token each;  t  iteration_s [s] an iteration of B tokens;  returns [s]
    Assumptions  iterations are always full, parts of a prompt are any number of tokens
    Valid for    prompt_tokens >= 0; budget_tokens >= 2048; 0 <= answers <= 1024; iteration_s >= 0
    Monotone     prompt_tokens +; budget_tokens -; answers +; iteration_s +
    Limits       prompt_tokens = 0 -> 0
    Source       Holmes et al. 2024, "DeepSpeed-FastGen: High-throughput Text Generation for LLMs via MII and
                 DeepSpeed-Inference", section 3 (Dynamic SplitFuse), arXiv:2401.08671
    """
    return prompt_tokens / (budget_tokens - answers) * iteration_s


@formula
def fused_arrivals_speedup(requests, output_tokens, interval_tokens):
    r"""Time to serve arrivals one after the other over that of joining each to the running batch at its next step.

    .. math:: S = \frac{n\, O}{O + (n - 1)\, k}

    Symbols      n  requests [1] that arrive;  O  output_tokens [1] of each;
                 k  interval_tokens [1] steps between two arrivals;  returns [1]
    Assumptions  a step is bound by reading weights, so it takes as long for many sequences as for one; the queue before
                 the serial server never empties (k <= O)
    Valid for    requests >= 1; output_tokens >= 1; interval_tokens >= 0
    Monotone     interval_tokens -
    Limits       requests = 1 -> 1
    Source       derived; Yao et al. 2023, "Flover: A Temporal Fusion Framework for Efficient Autoregressive Model
                 Parallel Inference", section 4, arXiv:2305.13484
    """
    return requests * output_tokens / (output_tokens + (requests - 1) * interval_tokens)


@formula
def predicted_cache_flops_ratio(auxiliary_params, projection_params, n_params):
    r"""Arithmetic to the first token when a small model's cache is projected into the large one's, over a full prefill.

    .. math:: r = \frac{N_a + N_p}{N}

    Symbols      N_a  auxiliary_params [1] weights of the small model;  N_p  projection_params [1] of the projections;
                 N  n_params [1] weights of the large model;  returns [1]
    Assumptions  prompts long enough that the single token of the large model does not count; attention left out
    Valid for    auxiliary_params >= 0; projection_params >= 0; n_params >= 1
    Monotone     auxiliary_params +; projection_params +; n_params -
    Source       Horton et al. 2024, "KV Prediction for Improved Time to First Token", section 3, arXiv:2410.08391
    """
    return (auxiliary_params + projection_params) / n_params


@formula
def cold_start_time(schedule_s, allocation_s, n_bytes, byte_per_s, initialise_s):
    r"""Time from a request to a replica that can serve it: a place, code and weights, and the start itself.

    .. math:: T = t_s + t_a + \frac{n}{\beta} + t_i

    Symbols      t_s  schedule_s [s] until a machine is chosen;  t_a  allocation_s [s] of its container;
                 n  n_bytes [B] of code, dependencies and weights;  \beta  byte_per_s [B/s] at which they are loaded;
                 t_i  initialise_s [s] of runtime, captured graphs and warm-up;  returns [s]
    Assumptions  the stages follow one another
    Valid for    schedule_s >= 0; allocation_s >= 0; n_bytes >= 0; initialise_s >= 0
    Monotone     schedule_s +; allocation_s +; n_bytes +; byte_per_s -; initialise_s +
    Source       Joosen et al. 2024, "Serverless Cold Starts and Where to Find Them", section 4 (components of a cold
                 start), arXiv:2410.06145
    """
    return schedule_s + allocation_s + n_bytes / byte_per_s + initialise_s
