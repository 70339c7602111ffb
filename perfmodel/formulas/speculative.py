r"""Speculative decoding and multi-token prediction: tokens won by a verification, and what drafting them costs."""

from perfmodel.formulas._registry import formula

__all__ = [
    "expected_accepted_tokens",
    "speculative_cascade_time",
    "speculative_operations_factor",
    "speculative_speedup",
    "speculative_tpot",
]


@formula
def expected_accepted_tokens(acceptance, draft_tokens):
    r"""Expected tokens that one verification yields: the accepted part of the draft, and one of the target's own.

    .. math:: E = \frac{1 - \alpha^{\gamma + 1}}{1 - \alpha}

    Symbols      \alpha  acceptance [1] chance that a drafted token is accepted;
                 \gamma  draft_tokens [1] tokens drafted (1 for one module of multi-token prediction);  returns [1]
    Assumptions  tokens are accepted independently and alike; what follows the first refusal is dropped
    Valid for    0 <= acceptance <= 0.999; 0 <= draft_tokens <= 64
    Monotone     acceptance +; draft_tokens +
    Limits       acceptance = 0 -> 1; draft_tokens = 0 -> 1
    Source       Leviathan et al. 2022, "Fast Inference from Transformers via Speculative Decoding", eq. 1,
                 arXiv:2211.17192
    Checked      Leviathan et al. 2022, table of theoretical speedups, through `speculative_speedup`: 6 rows
    Example      >>> expected_accepted_tokens(0.5, 1)
                 1.5
    """
    return (1 - acceptance ** (draft_tokens + 1)) / (1 - acceptance)


@formula
def speculative_speedup(acceptance, draft_tokens, draft_cost_ratio, verify_cost_ratio=1):
    r"""Time per token of plain decoding over that of speculative decoding.

    .. math:: S = \frac{1 - \alpha^{\gamma + 1}}{(1 - \alpha)(\gamma c + v)}

    Symbols      \alpha  acceptance [1] chance that a drafted token is accepted;  \gamma  draft_tokens [1] drafted;
                 c  draft_cost_ratio [1] a step of the draft over a decode step of the target;
                 v  verify_cost_ratio [1] a verification over a decode step of the target, 1 where the batch is small;
                 returns [1]
    Assumptions  draft and target take turns; independent acceptance
    Valid for    0 <= acceptance <= 0.999; 0 <= draft_tokens <= 64; draft_cost_ratio >= 0; verify_cost_ratio >= 1
    Monotone     acceptance +; draft_cost_ratio -; verify_cost_ratio -
    Source       Leviathan et al. 2022, theorem 3.8 (v = 1), arXiv:2211.17192; v for batches that verification makes
                 bound by arithmetic: Liu et al. 2024, "Optimizing Speculative Decoding for Serving LLMs Using
                 Goodput", arXiv:2406.14066
    Checked      Leviathan et al. 2022, table of theoretical speedups at c = 0: 6 rows, half a unit of the last digit
    """
    return expected_accepted_tokens(acceptance, draft_tokens) / (draft_tokens * draft_cost_ratio + verify_cost_ratio)


@formula
def speculative_operations_factor(acceptance, draft_tokens, draft_operations_ratio):
    r"""Arithmetic per token of speculative decoding over that of plain decoding: the price of refused tokens.

    .. math:: F = \frac{(1 - \alpha)(\gamma \hat c + \gamma + 1)}{1 - \alpha^{\gamma + 1}}

    Symbols      \alpha  acceptance [1] chance that a drafted token is accepted;  \gamma  draft_tokens [1] drafted;
                 \hat{c}  draft_operations_ratio [1] arithmetic of the draft over the target's, for one token;
                 returns [1]
    Assumptions  independent acceptance; the target works on every drafted token and one more
    Valid for    0 <= acceptance <= 0.999; 0 <= draft_tokens <= 64; draft_operations_ratio >= 0
    Monotone     acceptance -; draft_operations_ratio +
    Limits       draft_tokens = 0 -> 1
    Source       Leviathan et al. 2022, theorem 3.11, arXiv:2211.17192
    Checked      Leviathan et al. 2022, table of theoretical speedups, column of operations: 6 rows
    """
    operations = draft_tokens * draft_operations_ratio + draft_tokens + 1
    return operations / expected_accepted_tokens(acceptance, draft_tokens)


@formula
def speculative_tpot(draft_s, verify_s, acceptance, draft_tokens):
    r"""Time per output token of a draft that runs step by step and a target that verifies its tokens at once.

    .. math:: T = \frac{\gamma t_q + t_v}{E(\alpha, \gamma)}

    Symbols      t_q  draft_s [s] one step of the draft (a layer of multi-token prediction, a model, or a tier of its
                 own: put this law inside itself for a hierarchy);
                 t_v  verify_s [s] the target over all drafted tokens and one more;
                 \alpha  acceptance [1] chance that a drafted token is accepted;  \gamma  draft_tokens [1] drafted;
                 returns [s]
    Assumptions  draft and target take turns; independent acceptance
    Valid for    draft_s >= 0; verify_s >= 0; 0 <= acceptance <= 0.999; 0 <= draft_tokens <= 64
    Monotone     draft_s +; verify_s +; acceptance -
    Source       Leviathan et al. 2022, theorem 3.8, arXiv:2211.17192; a hierarchy: Sun et al. 2024, "TriForce",
                 arXiv:2404.11912
    """
    return (draft_tokens * draft_s + verify_s) / expected_accepted_tokens(acceptance, draft_tokens)


@formula
def speculative_cascade_time(small_s, large_step_s, depth, acceptance):
    r"""Time of a request that a small model answers first, and a loop of a large one only where that was refused.

    .. math:: T = t_s + (1 - \alpha)\, D\, t_l

    Symbols      t_s  small_s [s] the small model and its gate;  t_l  large_step_s [s] one step of the large one's loop;
                 D  depth [1] steps of the loop;  \alpha  acceptance [1] share of requests that the small one settles;
                 returns [s]
    Assumptions  the loop starts only after the refusal
    Valid for    small_s >= 0; large_step_s >= 0; depth >= 0; 0 <= acceptance <= 1
    Monotone     small_s +; large_step_s +; depth +; acceptance -
    Source       "SpecEyes: Accelerating Agentic Multimodal LLMs via Speculative Perception and Planning"; the mean of
                 two outcomes
    """
    return small_s + (1 - acceptance) * depth * large_step_s
