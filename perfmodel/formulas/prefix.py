r"""Prefix reuse: what a prompt whose beginning is cached still computes, and what sequences that share one hold."""

from perfmodel.formulas._registry import formula

__all__ = ["missed_prompt_tokens", "prefix_prefill_speedup", "shared_prefix_cache_tokens", "shared_prefix_saving"]


@formula
def missed_prompt_tokens(prompt_tokens, prefix_hit):
    r"""Tokens of a prompt that are prefilled when the rest is in the cache.

    .. math:: m = I\,(1 - h)

    Symbols      I  prompt_tokens [1] tokens of the prompt;  h  prefix_hit [1] share of them found in the cache;
                 returns [1]
    Assumptions  the missed tokens still attend to all tokens before them
    Valid for    prompt_tokens >= 0; 0 <= prefix_hit <= 1
    Monotone     prompt_tokens +; prefix_hit -
    Limits       prefix_hit = 1 -> 0
    Source       Zheng et al. 2023, "SGLang: Efficient Execution of Structured Language Model Programs", section 3
                 (RadixAttention), arXiv:2312.07104
    """
    return prompt_tokens * (1 - prefix_hit)


@formula
def shared_prefix_cache_tokens(sequences, shared_tokens, own_tokens):
    r"""Tokens that a cache holds for sequences with one common beginning, kept once.

    .. math:: N = S + n\, o

    Symbols      n  sequences [1] that share it;  S  shared_tokens [1] of the common beginning;
                 o  own_tokens [1] further tokens of each, prompt and answer;  returns [1]
    Assumptions  whole blocks are shared, none copied
    Valid for    sequences >= 1; shared_tokens >= 0; own_tokens >= 0
    Monotone     sequences +; shared_tokens +; own_tokens +
    Source       Kwon et al. 2023, "Efficient memory management for LLM serving with PagedAttention", section 4.4,
                 arXiv:2309.06180
    """
    return shared_tokens + sequences * own_tokens


@formula
def shared_prefix_saving(sequences, shared_tokens, own_tokens):
    r"""Share of prompt tokens that prefilling a common beginning once saves.

    .. math:: s = \frac{(n - 1) S}{n (S + o)}

    Symbols      n  sequences [1] that share it;  S  shared_tokens [1] of the common beginning;
                 o  own_tokens [1] further tokens of each prompt;  returns [1]
    Assumptions  the prefix stays cached from its first use to its last
    Valid for    sequences >= 1; shared_tokens >= 0; own_tokens >= 1
    Monotone     sequences +; shared_tokens +; own_tokens -
    Limits       sequences = 1 -> 0; shared_tokens = 0 -> 0
    Source       Zheng et al. 2024, "BatchLLM: Optimizing Large Batched LLM Inference with Global Prefix Sharing and
                 Throughput-oriented Token Batching", section 4, arXiv:2412.03594
    """
    return (sequences - 1) * shared_tokens / (sequences * (shared_tokens + own_tokens))


@formula
def prefix_prefill_speedup(prompt_tokens, prefix_hit, attention_tokens):
    r"""Arithmetic of a whole prefill over that of the tokens missed: less than one would think, for they look back.

    .. math:: S = \frac{1 + I / 2 a}{(1 - h)\left(1 + (1 + h)\, I / 2 a\right)}

    Symbols      I  prompt_tokens [1] tokens of the prompt;  h  prefix_hit [1] share found in the cache;
                 a  attention_tokens [1] tokens of context at which attention does as much arithmetic as the products;
                 returns [1]
    Assumptions  causal attention; arithmetic alone, without launches or weights
    Valid for    prompt_tokens >= 1; 0 <= prefix_hit <= 0.999; attention_tokens >= 1
    Monotone     prefix_hit +
    Limits       prefix_hit = 0 -> 1
    Source       derived: missed tokens look back at I (1 + h) / 2 tokens on average; Zheng et al. 2023, "SGLang",
                 arXiv:2312.07104
    """
    whole = 1 + prompt_tokens / (2 * attention_tokens)
    return whole / ((1 - prefix_hit) * (1 + (1 + prefix_hit) * prompt_tokens / (2 * attention_tokens)))
