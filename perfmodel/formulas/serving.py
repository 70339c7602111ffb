r"""Serving: what an iteration of an engine adds to its kernels, and how iterations become latencies and rates."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum, minimum

__all__ = [
    "cache_reread_time",
    "closed_loop_refills",
    "closed_loop_tpot",
    "closed_loop_ttft",
    "concurrency_of_rate",
    "engine_host_time",
    "free_memory_cache_bytes",
    "kv_block_bytes",
    "kv_cache_budget_bytes",
    "mean_decode_length",
    "mg1_waiting_time",
    "rounds_all_reduce_time",
    "sampling_bytes",
    "static_batch_latency",
]


@formula
def static_batch_latency(prefill_s, decode_s, output_tokens):
    r"""Time to answer one static batch: a prefill that gives the first token, then one decode step a token.

    .. math:: T = t_p + (O - 1)\, t_d

    Symbols      t_p  prefill_s [s] the whole batch;  t_d  decode_s [s] a step at the mean length of the cache;
                 O  output_tokens [1] tokens of an answer;  returns [s]
    Assumptions  all answers are equally long, nothing joins or leaves the batch; a step is linear in the cache's length
    Valid for    prefill_s >= 0; decode_s >= 0; output_tokens >= 1
    Monotone     prefill_s +; decode_s +; output_tokens +
    Source       Yu et al. 2022, "Orca", OSDI, section 2 (request-level scheduling),
                 https://www.usenix.org/conference/osdi22/presentation/yu
    """
    return prefill_s + (output_tokens - 1) * decode_s


@formula
def mean_decode_length(prompt_tokens, output_tokens):
    r"""Mean tokens in the cache over the decode steps of one answer.

    .. math:: L = I + O / 2

    Symbols      I  prompt_tokens [1] tokens of the prompt;  O  output_tokens [1] tokens of the answer;  returns [1]
    Assumptions  steps 2 to O, each over all tokens before it and its own
    Valid for    prompt_tokens >= 0; output_tokens >= 1
    Monotone     prompt_tokens +; output_tokens +
    Source       the mean of an arithmetic series; Pope et al. 2022, "Efficiently scaling transformer inference",
                 arXiv:2211.05102, section 2
    """
    return prompt_tokens + output_tokens / 2


@formula
def closed_loop_refills(concurrency, decoding_share, requests_per_slot):
    r"""Prompts of others that are prefilled while one request emits its tokens, in a closed loop.

    .. math:: n = (C - 1)\left(x \left(1 - \frac{1}{R}\right) + \frac{1}{2R}\right)

    Symbols      C  concurrency [1] requests in flight;  x  decoding_share [1] share of its time that a request decodes;
                 R  requests_per_slot [1] requests that a slot serves in turn;  returns [1]
    Assumptions  every other slot is refilled once a cycle, of which the answer takes x; of the first burst a request
                 meets those behind it, half on average
    Valid for    concurrency >= 1; 0 <= decoding_share <= 1; requests_per_slot >= 1
    Monotone     concurrency +; decoding_share +
    Limits       concurrency = 1 -> 0
    Source       derived; the interference of prefills is that of Agrawal et al. 2024, "Sarathi-Serve",
                 arXiv:2403.02310, section 3
    """
    return (concurrency - 1) * (decoding_share * (1 - 1 / requests_per_slot) + 1 / (2 * requests_per_slot))


@formula
def closed_loop_tpot(decode_s, prefill_s, refills, output_tokens):
    r"""Time per output token where new prompts are prefilled between the tokens of running answers.

    .. math:: T = t_d + \frac{n\, t_p}{O}

    Symbols      t_d  decode_s [s] a decode step of all;  t_p  prefill_s [s] what one prompt adds to the iterations;
                 n  refills [1] prompts met, C - 1 at most;  O  output_tokens [1] tokens of an answer;  returns [s]
    Assumptions  all requests are equally long
    Valid for    decode_s >= 0; prefill_s >= 0; refills >= 0; output_tokens >= 1
    Monotone     decode_s +; prefill_s +; refills +; output_tokens -
    Source       derived; the interference of prefills is that of Agrawal et al. 2024, "Sarathi-Serve",
                 arXiv:2403.02310, section 3
    """
    return decode_s + refills * prefill_s / output_tokens


@formula
def closed_loop_ttft(prefill_s, iteration_s, concurrency, requests_per_slot, request_s, waiting_share=0.5):
    r"""Mean time to the first token in a closed loop that starts with one burst.

    .. math:: T = t_r + t_p + w \left(\frac{C - 1}{R}\, t_p + t_i\right)

    Symbols      t_p  prefill_s [s] the iterations of one prompt;  t_i  iteration_s [s] the iteration met on arrival;
                 C  concurrency [1] requests in flight;  R  requests_per_slot [1] requests that a slot serves in turn;
                 t_r  request_s [s] of a request outside of iterations;  w  waiting_share [1] mean of a uniform wait;
                 returns [s]
    Assumptions  the first C requests arrive together and are prefilled one after the other; that spreads them, so later
                 ones meet no queue, only the rest of an iteration
    Valid for    prefill_s >= 0; iteration_s >= 0; concurrency >= 1; requests_per_slot >= 1; request_s >= 0;
                 0 <= waiting_share <= 1
    Monotone     prefill_s +; iteration_s +; concurrency +; requests_per_slot -; request_s +
    Source       derived: the mean place in a queue of C is (C - 1) / 2, and one request of R meets it; Kleinrock 1975,
                 "Queueing Systems", volume 1, section 5.2 (residual life)
    """
    return request_s + prefill_s + waiting_share * ((concurrency - 1) / requests_per_slot * prefill_s + iteration_s)


@formula
def mg1_waiting_time(service_s, load, squared_variation):
    r"""Mean wait before the single server of an open queue.

    .. math:: W = \frac{\rho}{1 - \rho}\,\frac{1 + c^2}{2}\, s

    Symbols      s  service_s [s] mean service;  \rho  load [1] share of time it works;
                 c^2  squared_variation [1] squared coefficient of variation of the service;  returns [s]
    Assumptions  Poisson arrivals, first come first served
    Valid for    service_s >= 0; 0 <= load <= 0.999; squared_variation >= 0
    Monotone     service_s +; load +; squared_variation +
    Source       Pollaczek 1930 and Khinchine 1932; Kleinrock 1975, "Queueing Systems", volume 1, eq. 5.70
    """
    return load / (1 - load) * (1 + squared_variation) / 2 * service_s


@formula
def concurrency_of_rate(arrival_rate_per_s, latency_s):
    r"""Mean number of requests in flight.

    .. math:: C = \lambda T

    Symbols      \lambda  arrival_rate_per_s [1/s] requests;  T  latency_s [s] mean time in the system;  returns [1]
    Assumptions  a steady state exists
    Valid for    arrival_rate_per_s >= 0; latency_s >= 0
    Monotone     arrival_rate_per_s +; latency_s +
    Source       Little 1961, "A proof for the queuing formula L = lambda W", doi:10.1287/opre.9.3.383
    """
    return arrival_rate_per_s * latency_s


@formula
def engine_host_time(device_s, step_s, sequence_s, sequences):
    r"""Time by which the host lengthens one iteration: what it does between iterations, and an output that lags.

    .. math:: T = t_0 + \max(0,\; b\, t_1 - t_0 - D)

    Symbols      D  device_s [s] kernels of the iteration;  t_0  step_s [s] schedule, inputs, sampled tokens, in series;
                 t_1  sequence_s [s] front end, for each sequence that gets a token, beside the device;
                 b  sequences [1] that get a token;  returns [s]
    Assumptions  processes that detokenise and send run beside the engine, which stalls when they fall behind
    Valid for    device_s >= 0; step_s >= 0; sequence_s >= 0; sequences >= 0
    Monotone     device_s -; step_s +; sequence_s +; sequences +
    Source       Srivatsa et al. 2024, "Can scheduling overhead dominate LLM inference performance?" (up to half of the
                 time of an iteration, growing with its sequences), https://mlsys.wuklab.io/posts/scheduling_overhead/
    """
    return step_s + maximum(0, sequence_s * sequences - step_s - device_s)


@formula
def sampling_bytes(sequences, vocab_columns, bytes_per_logit=14):
    r"""Memory traffic of turning logits into tokens.

    .. math:: B = b\, n\, V

    Symbols      n  sequences [1] that get a token;  V  vocab_columns [1] logits of each;
                 b  bytes_per_logit [B] read plus written for each;  returns [B]
    Assumptions  the 16-bit logit is read, written in 32 bits (2 + 4), and read by maximum and by comparison (4 + 4)
    Valid for    sequences >= 0; vocab_columns >= 0; bytes_per_logit >= 0
    Monotone     sequences +; vocab_columns +; bytes_per_logit +
    Source       vLLM, vllm/v1/sample/sampler.py (logits to float32, then argmax),
                 https://github.com/vllm-project/vllm/blob/v0.10.0/vllm/v1/sample/sampler.py
    """
    return bytes_per_logit * sequences * vocab_columns


@formula
def kv_cache_budget_bytes(capacity_bytes, memory_fraction, weights_bytes, activations_bytes, workspace_bytes):
    r"""Memory that an engine gives to the cache: its share of the accelerator less what is taken.

    .. math:: B = \max(0,\; f M - W - A - S)

    Symbols      M  capacity_bytes [B] of the accelerator;  f  memory_fraction [1] that the engine may use;
                 W  weights_bytes [B] on it;  A  activations_bytes [B] at the peak;  S  workspace_bytes [B] the rest;
                 returns [B]
    Assumptions  vLLM's meaning: a fraction of all memory, weights included
    Valid for    capacity_bytes >= 0; 0 <= memory_fraction <= 1; weights_bytes >= 0; activations_bytes >= 0;
                 workspace_bytes >= 0
    Monotone     capacity_bytes +; memory_fraction +; weights_bytes -; activations_bytes -; workspace_bytes -
    Source       vLLM, gpu_memory_utilization, https://docs.vllm.ai/en/v0.10.0/configuration/engine_args.html
    """
    return maximum(0, memory_fraction * capacity_bytes - weights_bytes - activations_bytes - workspace_bytes)


@formula
def free_memory_cache_bytes(capacity_bytes, free_fraction, weights_bytes, activations_bytes, workspace_bytes):
    r"""Memory that an engine gives to the cache: its share of what everything else leaves free.

    .. math:: B = f \max(0,\; M - W - A - S)

    Symbols      M  capacity_bytes [B] of the accelerator;  f  free_fraction [1] of what is left;
                 W  weights_bytes [B] on it;  A  activations_bytes [B] at the peak;  S  workspace_bytes [B] the rest;
                 returns [B]
    Assumptions  TensorRT-LLM's meaning: a fraction of what is free once engine and buffers are loaded
    Valid for    capacity_bytes >= 0; 0 <= free_fraction <= 1; weights_bytes >= 0; activations_bytes >= 0;
                 workspace_bytes >= 0
    Monotone     capacity_bytes +; free_fraction +; weights_bytes -; activations_bytes -; workspace_bytes -
    Source       TensorRT-LLM, KvCacheConfig.free_gpu_memory_fraction,
                 https://nvidia.github.io/TensorRT-LLM/examples/kvcacheconfig.html
    """
    return free_fraction * maximum(0, capacity_bytes - weights_bytes - activations_bytes - workspace_bytes)


@formula
def kv_block_bytes(block_tokens, bytes_per_token, ranks, sharing_ranks):
    r"""Bytes of one block of the cache on one rank.

    .. math:: B = \frac{k\, b}{\min(p, h)}

    Symbols      k  block_tokens [1] tokens of a block;  b  bytes_per_token [B] all layers and heads;
                 p  ranks [1] tensor-parallel ranks;  h  sharing_ranks [1] ranks among which heads can be shared out;
                 returns [B]
    Assumptions  beyond h ranks hold copies of heads
    Valid for    block_tokens >= 1; bytes_per_token >= 0; ranks >= 1; sharing_ranks >= 1
    Monotone     block_tokens +; bytes_per_token +; ranks -; sharing_ranks -
    Source       Kwon et al. 2023, "Efficient memory management for LLM serving with PagedAttention", arXiv:2309.06180,
                 section 4.1
    """
    return block_tokens * bytes_per_token / minimum(ranks, sharing_ranks)


@formula
def rounds_all_reduce_time(read_bytes, blocks, rounds, latency_s, block_byte_per_s):
    r"""Time of an all-reduce kernel of few blocks that work through their share of the message round by round.

    .. math:: T = r\,\alpha + \frac{B}{b\,\beta_b}

    Symbols      B  read_bytes [B] that a rank reads from the others;  b  blocks [1] blocks of the kernel;
                 r  rounds [1] in which a block works through its share;  \alpha  latency_s [s] of one round;
                 \beta_b  block_byte_per_s [B/s] that one block draws over the links;  returns [s]
    Assumptions  a round copies, sums and gathers, each after the one before: nothing of the next round is under way
    Valid for    read_bytes >= 0; blocks >= 1; rounds >= 1; latency_s >= 0
    Monotone     read_bytes +; blocks -; rounds +; latency_s +; block_byte_per_s -
    Source       TensorRT-LLM 0.9.0, cpp/tensorrt_llm/kernels/customAllReduceKernels.cu, twoShotAllReduceKernel,
                 https://github.com/NVIDIA/TensorRT-LLM/blob/v0.9.0/cpp/tensorrt_llm/kernels/customAllReduceKernels.cu
    """
    return rounds * latency_s + read_bytes / (blocks * block_byte_per_s)


@formula
def cache_reread_time(sequences, kv_len, n_heads, d_head, cache_byte_per_s, efficiency, element_bytes=2, tensors=2):
    r"""Time in which every query head reads the keys and values of its group by itself, from the last cache.

    .. math:: T = \frac{t\, e\, s\, l\, a\, d}{\eta\, \beta_c}

    Symbols      s  sequences [1] one new token each;  l  kv_len [1] keys of each;  a  n_heads [1] query heads;
                 d  d_head [1] width of a head;  \beta_c  cache_byte_per_s [B/s] of the last cache;
                 \eta  efficiency [1] share of it;  e  element_bytes [B] an element occupies of the reads' width;
                 t  tensors [1] keys and values;  returns [s]
    Assumptions  memory brings each key once, every further head finds it in the cache; elements of 8 bits are loaded
                 as many at a time as those of 16
    Valid for    sequences >= 0; kv_len >= 0; n_heads >= 1; d_head >= 1; 0 <= efficiency <= 1
    Monotone     sequences +; kv_len +; n_heads +; d_head +; cache_byte_per_s -; efficiency -
    Source       TensorRT-LLM 0.9.0, docs/source/performance.md (kernels that share keys within a group are
                 experimental and off by default), https://github.com/NVIDIA/TensorRT-LLM/blob/v0.9.0/docs/source/performance.md
    """
    return tensors * element_bytes * sequences * kv_len * n_heads * d_head / (efficiency * cache_byte_per_s)
