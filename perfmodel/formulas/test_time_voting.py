r"""Voting: majorities of two and of many answers, weighted votes, and which of many chains to wait for."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import beta_cdf, digamma, normal_cdf, sqrt

__all__ = [
    "confidence_bounded_coverage",
    "majority_vote_accuracy",
    "shortest_chain_latency",
    "shortest_chains_tokens",
    "two_answer_vote_accuracy",
    "weighted_vote_accuracy",
]


@formula
def majority_vote_accuracy(success_rate, votes):
    r"""Probability that more than half of an odd number of votes are right, where wrong votes all agree.

    .. math:: \sum_{k > n/2} \binom{n}{k} p^k (1-p)^{n-k} = I_p\!\left(\tfrac{n+1}{2}, \tfrac{n+1}{2}\right)

    Symbols      p  success_rate [1] of one vote;  n  votes [1] an odd number;  returns [1]
    Assumptions  two answers, independent votes; an even number lies between its neighbours
    Valid for    0 <= success_rate <= 1; 1 <= votes <= 100000
    Monotone     success_rate +
    Limits       success_rate = 1 -> 1
    Source       Condorcet's jury theorem; Abramowitz and Stegun 1964, eq. 26.5.24 (binomial tail as incomplete beta);
                 self-consistency is Wang et al. 2022, arXiv:2203.11171
    Checked      .6, .648, .6826, .7535, .8256, .9791 for 1, 3, 5, 11, 21, 101 votes of .6 each (binomial sums)
    """
    half = (votes + 1) / 2
    return beta_cdf(half, half, success_rate)


@formula
def two_answer_vote_accuracy(first_share, second_share, votes):
    r"""Probability that the most frequent answer of many beats the runner-up: a vote among many answers.

    .. math:: \Phi\left(\sqrt n\, \frac{p_1 - p_2}{\sqrt{p_1 + p_2 - (p_1 - p_2)^2}}\right)

    Symbols      p_1  first_share [1] probability of the right answer;  p_2  second_share [1] of the commonest
                 wrong one;  n  votes [1] drawn;  returns [1]
    Assumptions  many votes (central limit); other answers too rare to win; `multinomial_vote_accuracy` counts exactly
    Valid for    0.001 <= first_share <= 0.5; 0.001 <= second_share <= 0.5; votes >= 1; fails for few votes
    Monotone     first_share +; second_share -
    Source       de Moivre-Laplace limit of the difference of two multinomial counts; Wu et al. 2024, "Inference Scaling
                 Laws" (votes converge to the share of problems whose commonest answer is right),
                 arXiv:2408.00724
    """
    margin = first_share - second_share
    return normal_cdf(sqrt(votes) * margin / sqrt(first_share + second_share - margin**2))


@formula
def weighted_vote_accuracy(right_share, wrong_share, right_weight, wrong_weight, weight_deviation, votes):
    r"""Probability that a vote weighted by a verifier's scores picks the right answer.

    .. math:: \Phi\left(\sqrt n\, \frac{m}{\sqrt{v - m^2}}\right), \quad m = p_1 w_1 - p_2 w_2, \quad
        v = p_1 (w_1^2 + s^2) + p_2 (w_2^2 + s^2)

    Symbols      p_1  right_share [1] probability of the right answer;  p_2  wrong_share [1] of the commonest wrong one;
                 w_1  right_weight [1] mean score of a right answer;  w_2  wrong_weight [1] of a wrong one;
                 s  weight_deviation [1] standard deviation of a score;  n  votes [1] drawn;  returns [1]
    Assumptions  many votes (central limit); equal scores give `two_answer_vote_accuracy`
    Valid for    0.001 <= right_share <= 0.5; 0.001 <= wrong_share <= 0.5; 0.01 <= right_weight <= 10;
                 0.01 <= wrong_weight <= 10; 0.01 <= weight_deviation <= 10; votes >= 1
    Monotone     wrong_share -
    Source       central limit of a sum of scores; Wu et al. 2024 (weighted voting), arXiv:2408.00724
    """
    margin = right_share * right_weight - wrong_share * wrong_weight
    second = right_share * right_weight**2 + wrong_share * wrong_weight**2
    spread = (right_share + wrong_share) * weight_deviation**2
    return normal_cdf(sqrt(votes) * margin / sqrt(second + spread - margin**2))


@formula
def shortest_chain_latency(shortest_s, mean_excess_s, finished, chains):
    r"""Time until m of k parallel chains of thought are finished (short-m@k).

    .. math:: T = t_0 + \tau \left(H_k - H_{k-m}\right)

    Symbols      t_0  shortest_s [s] the least that a chain takes;  \tau  mean_excess_s [s] mean beyond that;
                 m  finished [1] chains waited for, k at most;  k  chains [1] started;  returns [s]
    Assumptions  exponential excess, independent chains; H is the harmonic number. `order_statistic_latency` takes
                 measured lengths
    Valid for    shortest_s >= 0; mean_excess_s >= 0; 1 <= finished <= 8; 8 <= chains <= 100000
    Monotone     shortest_s +; mean_excess_s +; finished +; chains -
    Source       Renyi 1953 (spacings of exponential order statistics), doi:10.1007/BF02127580; Hassid et al. 2025,
                 "Don't Overthink it" (short-m@k), arXiv:2505.17813
    """
    return shortest_s + mean_excess_s * (digamma(chains + 1) - digamma(chains - finished + 1))


@formula
def shortest_chains_tokens(shortest_tokens, mean_excess_tokens, finished, chains):
    r"""Tokens of k parallel chains that are all stopped when m of them have finished (short-m@k).

    .. math:: k\, t_0 + m\, \tau

    Symbols      t_0  shortest_tokens [1] the least that a chain takes;  \tau  mean_excess_tokens [1] mean beyond that;
                 m  finished [1] chains waited for, k at most;  k  chains [1] started;  returns [1]
    Assumptions  exponential excess: each stretch between two finishes is paid by those that still run, tau in all
    Valid for    shortest_tokens >= 0; mean_excess_tokens >= 0; finished >= 1; chains >= 1
    Monotone     shortest_tokens +; mean_excess_tokens +; finished +; chains +
    Source       Renyi 1953 (normalised spacings), doi:10.1007/BF02127580; Hassid et al. 2025, arXiv:2505.17813
    """
    return chains * shortest_tokens + finished * mean_excess_tokens


@formula
def confidence_bounded_coverage(confidence, attempts, problem_share):
    r"""Expected coverage of N attempts where a model is confident on some problems and guesses the rest.

    .. math:: s \left(1 - (1-c)^N\right) + (1-s)\left(1 - c^N\right)

    Symbols      c  confidence [1] probability of its favourite answer;  N  attempts [1] made;
                 s  problem_share [1] of problems whose favourite is right, and of the rest the runner-up;  returns [1]
    Assumptions  two answers to a problem; a confidence below one is worth more, the more attempts are made
    Valid for    0 <= confidence <= 1; attempts >= 0; 0 <= problem_share <= 1
    Monotone     attempts +
    Limits       attempts = 0 -> 0
    Source       E[1 - (1-p)^N] of Chen et al. 2025, "Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting
                 Confidence Improves Mathematical Reasoning", arXiv:2502.07154, for two answers
    """
    return problem_share * (1 - (1 - confidence) ** attempts) + (1 - problem_share) * (1 - confidence**attempts)
