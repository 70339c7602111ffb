r"""Cost of long generations with their memory traffic: Kinetics' equivalent operations, and decoding in parallel."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum

__all__ = [
    "attended_tokens_top_k",
    "block_search_bytes",
    "block_search_flops",
    "equivalent_flops",
    "generation_cache_bytes",
    "generation_flops",
    "hogwild_step_bytes",
    "parallel_paths_step_bytes",
    "sparse_generation_cache_bytes",
    "sparse_generation_flops",
]


@formula
def equivalent_flops(compute_flops, cache_bytes, intensity_flop_per_byte):
    r"""Operations and memory traffic of a method in one number: what else the hardware could have computed.

    .. math:: C = C_{comp} + I\, C_{mem}

    Symbols      C_{comp}  compute_flops [flop] done;  C_{mem}  cache_bytes [B] of the cache that are read;
                 I  intensity_flop_per_byte [flop/B] peak rate over bandwidth;  returns [flop]
    Assumptions  both in turn, no overlap; weights are read for so many sequences at once that they cost nothing
    Valid for    compute_flops >= 0; cache_bytes >= 0; intensity_flop_per_byte >= 0
    Monotone     compute_flops +; cache_bytes +; intensity_flop_per_byte +
    Source       Sadhukhan et al. 2025, "Kinetics: Rethinking Test-Time Scaling Laws", arXiv:2506.05333;
                 the authors' code takes 562.5 flop/B (4.5e15 dense FP8 over 8e12 byte/s of a B200)
    """
    return compute_flops + intensity_flop_per_byte * cache_bytes


@formula
def generation_flops(trials, n_params, prompt_tokens, output_tokens, n_heads, d_head, n_layers, flop_per_mac=2):
    r"""Operations of N generations from one prompt, dense attention.

    .. math:: C = N \left(2 P O + 2 (2 I + O)\, O\, h d L\right)

    Symbols      N  trials [1] generations;  P  n_params [1] weights used for a token;  I  prompt_tokens [1] in the
                 prompt;  O  output_tokens [1] of each generation;  h  n_heads [1] query heads;  d  d_head [1] width of
                 a head;  L  n_layers [1] with attention;  f  flop_per_mac [flop] of a multiply-add;  returns [flop]
    Assumptions  the prefill of the prompt is not counted
    Valid for    trials >= 1; n_params >= 1; prompt_tokens >= 0; output_tokens >= 1; n_heads >= 1; d_head >= 1;
                 n_layers >= 1
    Monotone     trials +; n_params +; prompt_tokens +; output_tokens +
    Source       Sadhukhan et al. 2025, arXiv:2506.05333; cost_model/utils.py (dense_cost) of
                 github.com/Infini-AI-Lab/Kinetics
    Checked      a sum over the generated tokens (tests/test_test_time_laws.py)
    """
    attention = (2 * prompt_tokens + output_tokens) * n_heads * d_head * n_layers
    return trials * flop_per_mac * output_tokens * (n_params + attention)


@formula
def generation_cache_bytes(
    trials, prompt_tokens, output_tokens, n_kv_heads, d_head, n_layers, bytes_per_element=2, shared_prompt=1
):
    r"""Bytes of the cache that N generations from one prompt read, dense attention.

    .. math:: C = b\, (2 I\, N^{1-s} + N O)\, O\, h d L

    Symbols      N  trials [1] generations;  I  prompt_tokens [1] in the prompt;  O  output_tokens [1] of each;
                 h  n_kv_heads [1] heads of keys;  d  d_head [1] width of a head;  L  n_layers [1] with attention;
                 b  bytes_per_element [B] of the cache;  s  shared_prompt [1] 1 where all read one copy of the prompt at
                 the same time, 0 where each reads its own;  returns [B]
    Assumptions  keys and values; weights not counted
    Valid for    trials >= 1; prompt_tokens >= 0; output_tokens >= 1; n_kv_heads >= 1; d_head >= 1; n_layers >= 1;
                 0 <= shared_prompt <= 1
    Monotone     trials +; prompt_tokens +; output_tokens +; shared_prompt -
    Source       Sadhukhan et al. 2025, arXiv:2506.05333; cost_model/utils.py (dense_cost) of
                 github.com/Infini-AI-Lab/Kinetics
    Checked      a sum over the generated tokens (tests/test_test_time_laws.py)
    """
    prompts = 2 * prompt_tokens * trials ** (1 - shared_prompt)
    return bytes_per_element * (prompts + trials * output_tokens) * output_tokens * n_kv_heads * d_head * n_layers


@formula
def attended_tokens_top_k(prompt_tokens, output_tokens, budget_tokens):
    r"""Tokens that one generation attends to in all, where each step sees B at most.

    .. math:: K_s = B O - \tfrac12 \max(0, B - I)^2

    Symbols      I  prompt_tokens [1] in the prompt;  O  output_tokens [1] generated;
                 B  budget_tokens [1] that a step attends to at most;  returns [1]
    Assumptions  the context reaches B before the generation ends: O >= B - I. The authors' zero_overhead_sparse_cost
                 adds the square; the sum of min(t, B), and their block_sparse_cost, subtract it
    Valid for    prompt_tokens >= 0; 1024 <= output_tokens; 1 <= budget_tokens <= 1024
    Monotone     output_tokens +; prompt_tokens +; budget_tokens +
    Source       sum of min(t, B) over t from I to I + O; Sadhukhan et al. 2025, arXiv:2506.05333
    Checked      that sum (tests/test_test_time_laws.py)
    """
    return budget_tokens * output_tokens - maximum(0, budget_tokens - prompt_tokens) ** 2 / 2


@formula
def sparse_generation_flops(
    trials, n_params, prompt_tokens, output_tokens, budget_tokens, n_heads, d_head, n_layers, flop_per_mac=2
):
    r"""Operations of N generations from one prompt with attention to B tokens at most; search is not counted.

    .. math:: C = N (2 P O + 4 K_s h d L)

    Symbols      N  trials [1] generations;  P  n_params [1] weights used for a token;  I  prompt_tokens [1] in the
                 prompt;  O  output_tokens [1] of each generation;  B  budget_tokens [1] that a step attends to at most;
                 h  n_heads [1] query heads;  d  d_head [1] width of a head;  L  n_layers [1] with attention;
                 f  flop_per_mac [flop] of a multiply-add;  returns [flop]
    Assumptions  as `attended_tokens_top_k` (K_s)
    Valid for    trials >= 1; n_params >= 1; prompt_tokens >= 0; 1024 <= output_tokens; 1 <= budget_tokens <= 1024;
                 n_heads >= 1; d_head >= 1; n_layers >= 1
    Monotone     trials +; n_params +; output_tokens +; budget_tokens +
    Source       Sadhukhan et al. 2025, arXiv:2506.05333; cost_model/utils.py of
                 github.com/Infini-AI-Lab/Kinetics
    """
    attended = attended_tokens_top_k(prompt_tokens, output_tokens, budget_tokens)
    return trials * flop_per_mac * (n_params * output_tokens + 2 * attended * n_heads * d_head * n_layers)


@formula
def sparse_generation_cache_bytes(
    trials, prompt_tokens, output_tokens, budget_tokens, n_kv_heads, d_head, n_layers, bytes_per_element=2
):
    r"""Bytes of the cache that N generations read with attention to B tokens at most.

    .. math:: C = 2 b N K_s h d L

    Symbols      N  trials [1] generations;  I  prompt_tokens [1] in the prompt;  O  output_tokens [1] of each;
                 B  budget_tokens [1] that a step attends to at most;  h  n_kv_heads [1] heads of keys;
                 d  d_head [1] width of a head;  L  n_layers [1] with attention;
                 b  bytes_per_element [B] of the cache;  returns [B]
    Assumptions  as `attended_tokens_top_k`; each generation chooses its own tokens, so nothing is shared
    Valid for    trials >= 1; prompt_tokens >= 0; 1024 <= output_tokens; 1 <= budget_tokens <= 1024; n_kv_heads >= 1;
                 d_head >= 1; n_layers >= 1
    Monotone     trials +; output_tokens +; budget_tokens +
    Source       Sadhukhan et al. 2025, arXiv:2506.05333; cost_model/utils.py of
                 github.com/Infini-AI-Lab/Kinetics
    """
    attended = attended_tokens_top_k(prompt_tokens, output_tokens, budget_tokens)
    return 2 * bytes_per_element * trials * attended * n_kv_heads * d_head * n_layers


@formula
def block_search_flops(trials, prompt_tokens, output_tokens, block_tokens, n_heads, d_head, n_layers, flop_per_mac=2):
    r"""Operations of finding the blocks to attend to: each step scores one mean key of every block.

    .. math:: C = N\, \frac{2 I + O}{B}\, O\, h d L

    Symbols      N  trials [1] generations;  I  prompt_tokens [1] in the prompt;  O  output_tokens [1] of each;
                 B  block_tokens [1] of a block;  h  n_heads [1] query heads;  d  d_head [1] width of a head;
                 L  n_layers [1] with attention;  f  flop_per_mac [flop] of a multiply-add;  returns [flop]
    Assumptions  partial blocks counted by their share, where the authors' code rounds down
    Valid for    trials >= 1; prompt_tokens >= 0; output_tokens >= 1; block_tokens >= 1; n_heads >= 1; d_head >= 1;
                 n_layers >= 1
    Monotone     trials +; prompt_tokens +; output_tokens +; block_tokens -
    Source       Sadhukhan et al. 2025, arXiv:2506.05333; block_sparse_cost in cost_model/utils.py of
                 github.com/Infini-AI-Lab/Kinetics
    """
    scored = (2 * prompt_tokens + output_tokens) / (2 * block_tokens)
    return trials * flop_per_mac * scored * output_tokens * n_heads * d_head * n_layers


@formula
def block_search_bytes(
    trials, prompt_tokens, output_tokens, block_tokens, n_kv_heads, d_head, n_layers, bytes_per_element=2
):
    r"""Bytes of mean keys that are read to find the blocks to attend to.

    .. math:: C = \frac{b}{2}\, \frac{2 I + N O}{B}\, O\, h d L

    Symbols      N  trials [1] generations;  I  prompt_tokens [1] in the prompt;  O  output_tokens [1] of each;
                 B  block_tokens [1] of a block;  h  n_kv_heads [1] heads of keys;  d  d_head [1] width of a head;
                 L  n_layers [1] with attention;  b  bytes_per_element [B] of the cache;  returns [B]
    Assumptions  keys alone; the prompt's are read once for all generations
    Valid for    trials >= 1; prompt_tokens >= 0; output_tokens >= 1; block_tokens >= 1; n_kv_heads >= 1; d_head >= 1;
                 n_layers >= 1
    Monotone     trials +; prompt_tokens +; output_tokens +; block_tokens -
    Source       Sadhukhan et al. 2025, arXiv:2506.05333; block_sparse_cost in cost_model/utils.py of
                 github.com/Infini-AI-Lab/Kinetics
    """
    scored = (2 * prompt_tokens + trials * output_tokens) / (2 * block_tokens)
    return bytes_per_element * scored * output_tokens * n_kv_heads * d_head * n_layers


@formula
def parallel_paths_step_bytes(weights_bytes, cache_bytes_per_token, prompt_tokens, path_tokens, paths):
    r"""Bytes that one decode step of P parallel paths of thought reads: weights once, the cache of every path.

    .. math:: B = W + b (I + P t)

    Symbols      W  weights_bytes [B] of the model;  b  cache_bytes_per_token [B] of all layers;
                 I  prompt_tokens [1] shared by the paths;  t  path_tokens [1] of a path so far;  P  paths [1] decoded
                 together;  returns [B]
    Assumptions  the paths are one batch; reading memory is what a step waits for
    Valid for    weights_bytes >= 0; cache_bytes_per_token >= 0; prompt_tokens >= 0; path_tokens >= 0; paths >= 1
    Monotone     weights_bytes +; cache_bytes_per_token +; prompt_tokens +; path_tokens +; paths +
    Source       Wen et al. 2025, "ParaThinker: Native Parallel Thinking", arXiv:2509.04475
    """
    return weights_bytes + cache_bytes_per_token * (prompt_tokens + paths * path_tokens)


@formula
def hogwild_step_bytes(weights_bytes, cache_bytes_per_token, shared_tokens, workers):
    r"""Bytes that one step of W workers reads who all attend to one shared cache.

    .. math:: B = M + b\, W t

    Symbols      M  weights_bytes [B] of the model;  b  cache_bytes_per_token [B] of all layers;
                 t  shared_tokens [1] written by each worker so far;  W  workers [1] decoding together;  returns [B]
    Assumptions  the keys of a block are read once for the queries of all workers, which are rotated instead; every
                 worker sees what all have written, W t tokens
    Valid for    weights_bytes >= 0; cache_bytes_per_token >= 0; shared_tokens >= 0; workers >= 1
    Monotone     weights_bytes +; cache_bytes_per_token +; shared_tokens +; workers +
    Source       Rodionov et al. 2025, "Hogwild! Inference: Parallel LLM Generation via Concurrent Attention",
                 arXiv:2504.06261
    """
    return weights_bytes + cache_bytes_per_token * shared_tokens * workers
