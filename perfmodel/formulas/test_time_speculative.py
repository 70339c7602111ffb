r"""Small models that draft for large ones, and chains that need not wait for each other."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import log

__all__ = [
    "asynchronous_speedup",
    "draft_target_cost",
]


@formula
def draft_target_cost(draft_tokens, target_tokens, draft_flop_per_token, target_flop_per_token, escalated_share):
    r"""Operations of a problem where a small model drafts chains and a large one continues those that are rejected.

    .. math:: C = T_d f_d + e\, T_t f_t

    Symbols      T_d  draft_tokens [1] of all drafts;  T_t  target_tokens [1] of a continuation of all;
                 f_d  draft_flop_per_token [flop] of the small model;  f_t  target_flop_per_token [flop] of the large;
                 e  escalated_share [1] of drafts rejected, held at a level by conformal prediction;
                 returns [flop]
    Valid for    draft_tokens >= 0; target_tokens >= 0; draft_flop_per_token >= 0; target_flop_per_token >= 0;
                 0 <= escalated_share <= 1
    Monotone     draft_tokens +; target_tokens +; escalated_share +
    Source       Xiong et al. 2025, "ATTS: Asynchronous Test-Time Scaling via Conformal Prediction",
                 arXiv:2509.15148
    """
    return draft_tokens * draft_flop_per_token + escalated_share * target_tokens * target_flop_per_token


@formula
def asynchronous_speedup(chains, coefficient_of_variation, euler_gamma=0.5772156649015329):
    r"""How many times faster chains finish when none waits for the longest of its round.

    .. math:: 1 + \nu (\ln k + \gamma - 1)

    Symbols      k  chains [1] of a synchronous round;  \nu  coefficient_of_variation [1] of their lengths, 1 for an
                 exponential;  \gamma  euler_gamma [1] Euler's constant;  returns [1]
    Assumptions  shifted exponential lengths: a round waits for the longest, without rounds the mean counts; of other
                 gains (no rebuilding of rankings, cache kept) nothing is said
    Valid for    2 <= chains <= 1e6; 0 <= coefficient_of_variation <= 1
    Monotone     chains +
    Limits       coefficient_of_variation = 0 -> 1
    Source       expected maximum of exponentials, H_k - 1 over the mean, Renyi 1953, doi:10.1007/BF02127580; the
                 synchronisation it removes: Xiong et al. 2025, arXiv:2509.15148
    """
    return 1 + coefficient_of_variation * (log(chains) + euler_gamma - 1)
