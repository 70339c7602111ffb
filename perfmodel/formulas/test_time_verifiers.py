r"""Selection: resampling with an imperfect verifier, generative verification, best-of-N, and cascades."""

from perfmodel.formulas._registry import formula
from perfmodel.formulas.overlap import expected_maximum_of_normals
from perfmodel.ops import ceil, log, maximum

__all__ = [
    "best_of_n_gain",
    "best_of_n_kl",
    "cascade_accuracy",
    "cascade_cost",
    "optimal_solutions",
    "optimal_verifications",
    "resampling_accuracy",
    "resampling_accuracy_limit",
    "resampling_attempts",
    "resampling_best_attempts",
    "resampling_utility",
    "verification_budget",
    "verifier_rejection",
]


@formula
def verifier_rejection(success_rate, completeness, soundness):
    r"""Probability that a verifier rejects one attempt.

    .. math:: \beta = (1-c)\, r + s (1-r)

    Symbols      r  success_rate [1] of one attempt;  c  completeness [1] share of right answers that it accepts;
                 s  soundness [1] share of wrong answers that it rejects;  returns [1]
    Assumptions  acceptance depends on the attempt only through its being right
    Valid for    0 <= success_rate <= 1; 0 <= completeness <= 1; 0 <= soundness <= 1
    Monotone     completeness -; soundness +
    Source       Stroebl et al. 2024, "Inference Scaling fLaws", arXiv:2411.17501; the authors' notebook
                 limits_to_inference_scaling_model.ipynb
    Checked      .0975 and .6525 for the two kinds of task of the authors' toy model
    """
    return (1 - completeness) * success_rate + soundness * (1 - success_rate)


@formula
def resampling_attempts(success_rate, completeness, soundness, attempts):
    r"""Attempts that resampling until acceptance makes, K at most.

    .. math:: \frac{1 - \beta^K}{1 - \beta}

    Symbols      r  success_rate [1] of one attempt;  c  completeness [1] share of right answers that it accepts;
                 s  soundness [1] share of wrong answers that it rejects;  K  attempts [1] at most;  returns [1]
    Assumptions  one after the other; as `verifier_rejection`
    Valid for    0.001 <= success_rate <= 1; 0.001 <= completeness <= 1; 0 <= soundness <= 1; attempts >= 1
    Monotone     attempts +; soundness +; completeness -
    Source       truncated geometric sum of `verifier_rejection`; Stroebl et al. 2024, arXiv:2411.17501
    """
    rejected = verifier_rejection(success_rate, completeness, soundness)
    return (1 - rejected**attempts) / (1 - rejected)


@formula
def resampling_accuracy(success_rate, completeness, soundness, attempts):
    r"""Probability that resampling until the verifier accepts, K times at most, ends with a right answer.

    .. math:: \frac{c r}{1 - \beta}\left(1 - \beta^K\right)

    Symbols      r  success_rate [1] of one attempt;  c  completeness [1] share of right answers that it accepts;
                 s  soundness [1] share of wrong answers that it rejects;  K  attempts [1] at most;  returns [1]
    Assumptions  as `verifier_rejection`; no answer when all K are rejected
    Valid for    0.001 <= success_rate <= 1; 0.001 <= completeness <= 1; 0 <= soundness <= 1; attempts >= 1
    Monotone     attempts +; soundness +
    Source       geometric sum over the attempts; Stroebl et al. 2024, arXiv:2411.17501
    Checked      a perfect verifier gives `independent_coverage` (tests/test_test_time_laws.py)
    """
    return completeness * success_rate * resampling_attempts(success_rate, completeness, soundness, attempts)


@formula
def resampling_accuracy_limit(success_rate, completeness, soundness):
    r"""Upper bound of resampling with an imperfect verifier: its precision, whatever the budget.

    .. math:: \frac{c r}{c r + (1-s)(1-r)}

    Symbols      r  success_rate [1] of one attempt;  c  completeness [1] share of right answers that it accepts;
                 s  soundness [1] share of wrong answers that it rejects;  returns [1]
    Assumptions  as `verifier_rejection`; attempts until one is accepted
    Valid for    0.001 <= success_rate <= 1; 0.001 <= completeness <= 1; 0 <= soundness <= 1
    Monotone     success_rate +; soundness +; completeness +
    Limits       soundness = 1 -> 1; success_rate = 1 -> 1
    Source       `resampling_accuracy` for ever more attempts; Stroebl et al. 2024, arXiv:2411.17501
    """
    right = completeness * success_rate
    return right / (right + (1 - soundness) * (1 - success_rate))


@formula
def resampling_utility(success_rate, completeness, soundness, attempts, right_value, wrong_cost):
    r"""Expected utility of resampling where a wrong answer that is accepted costs something.

    .. math:: U(K) = \frac{1 - \beta^K}{1 - \beta}\left(V_c\, c r - V_f (1-s)(1-r)\right)

    Symbols      r  success_rate [1] of one attempt;  c  completeness [1] share of right answers that it accepts;
                 s  soundness [1] share of wrong answers that it rejects;  K  attempts [1] at most;
                 V_c  right_value [1] value of a right answer;  V_f  wrong_cost [1] loss from an accepted wrong one;
                 returns [1]
    Assumptions  one kind of task; of several, the mean by prior. (The authors' notebook multiplies the k-th term by
                 the posterior of the kinds, which counts their attrition twice)
    Valid for    0.001 <= success_rate <= 1; 0.001 <= completeness <= 1; 0 <= soundness <= 1; attempts >= 1;
                 right_value >= 0; wrong_cost >= 0
    Monotone     right_value +; wrong_cost -
    Source       Stroebl et al. 2024, arXiv:2411.17501
    Checked      counting of single attempts (tests/test_test_time_laws.py)
    """
    gain = right_value * completeness * success_rate - wrong_cost * (1 - soundness) * (1 - success_rate)
    return gain * resampling_attempts(success_rate, completeness, soundness, attempts)


@formula
def resampling_best_attempts(
    easy_share, easy_success_rate, hard_success_rate, completeness, soundness, right_value, wrong_cost
):
    r"""Attempts after which one more loses utility, for two kinds of task and a verifier that accepts wrong answers.

    .. math:: K^* = \left\lceil \frac{\ln(p_1 g_1 / (-p_2 g_2))}{\ln(\beta_2 / \beta_1)} \right\rceil, \quad
        g_i = V_c\, c r_i - V_f (1-s)(1-r_i)

    Symbols      p_1  easy_share [1] of tasks that are easy;  r_1  easy_success_rate [1] of an attempt at an easy task;
                 r_2  hard_success_rate [1] of an attempt at a hard task;
                 c  completeness [1] share of right answers that it accepts;
                 s  soundness [1] share of wrong answers that it rejects;
                 V_c  right_value [1] value of a right answer;  V_f  wrong_cost [1] loss from an accepted wrong one;
                 returns [1]
    Assumptions  g_1 > 0 > g_2 and beta_1 < beta_2: easy tasks leave early, and what remains is hard; 0 where even the
                 first attempt loses. A hard kind that gains (g_2 >= 0) is taken to gain a millionth of a right answer's
                 loss: there is no best number, and the result is large
    Valid for    0.01 <= easy_share <= 0.99; 0.5 <= easy_success_rate <= 0.999; 0.001 <= hard_success_rate <= 0.4;
                 0.6 <= completeness <= 1; 0.6 <= soundness <= 0.999; right_value >= 1; wrong_cost >= 0.001
    Monotone     wrong_cost -
    Source       sign of the k-th increment of the mixture of `resampling_utility`; Stroebl et al. 2024,
                 arXiv:2411.17501
    Checked      3, 2 and 1 attempts for losses of 0.7, 1 and 2 (the authors' toy model)
    """
    false_accept = 1 - soundness
    easy = right_value * completeness * easy_success_rate - wrong_cost * false_accept * (1 - easy_success_rate)
    hard = right_value * completeness * hard_success_rate - wrong_cost * false_accept * (1 - hard_success_rate)
    least = right_value / 1000000
    gained = easy_share * maximum(easy, least)
    lost = (1 - easy_share) * maximum(-hard, least)
    easy_rejected = maximum(verifier_rejection(easy_success_rate, completeness, soundness), least / right_value)
    hard_rejected = verifier_rejection(hard_success_rate, completeness, soundness)
    return maximum(0, ceil(log(gained / lost) / log(hard_rejected / easy_rejected)))


@formula
def verification_budget(solutions, verifications, verification_ratio):
    r"""Cost per problem of sampling S solutions and verifying each V times, in solutions.

    .. math:: C = S (1 + \lambda V)

    Symbols      S  solutions [1] sampled;  V  verifications [1] of each, 0 for a vote;
                 \lambda  verification_ratio [1] tokens of a verification over tokens of a solution;  returns [1]
    Assumptions  equal price of a token; prompts not counted
    Valid for    solutions >= 0; verifications >= 0; verification_ratio >= 0
    Monotone     solutions +; verifications +; verification_ratio +
    Source       Singhi et al. 2025, "When To Solve, When To Verify", arXiv:2504.01005
    Checked      generative verification meets the vote of 8 times fewer solutions at 8 times the compute (abstract)
    """
    return solutions * (1 + verification_ratio * verifications)


@formula
def optimal_solutions(compute_ratio, solutions, exponent=0.57):
    r"""Solutions to sample when the budget of generative verification grows.

    .. math:: S = S_0\, \rho^{a}

    Symbols      \rho  compute_ratio [1] budget over the one that is known;  S_0  solutions [1] best at that one;
                 a  exponent [1] fitted by the authors;  returns [1]
    Valid for    1 <= compute_ratio <= 1000; solutions >= 1; 0 <= exponent <= 1
    Monotone     compute_ratio +; solutions +; exponent +
    Source       Singhi et al. 2025 (S ~ C^0.57, V ~ C^0.39), arXiv:2504.01005
    """
    return solutions * compute_ratio**exponent


@formula
def optimal_verifications(compute_ratio, verifications, exponent=0.39):
    r"""Verifications of each solution when the budget of generative verification grows.

    .. math:: V = V_0\, \rho^{b}

    Symbols      \rho  compute_ratio [1] budget over the one that is known;  V_0  verifications [1] best at that one;
                 b  exponent [1] fitted by the authors;  returns [1]
    Valid for    1 <= compute_ratio <= 1000; verifications >= 1; 0 <= exponent <= 1
    Monotone     compute_ratio +; verifications +; exponent +
    Source       Singhi et al. 2025 (S ~ C^0.57, V ~ C^0.39), arXiv:2504.01005
    """
    return verifications * compute_ratio**exponent


@formula
def best_of_n_gain(samples, reward_correlation, quality_deviation):
    r"""Quality gained by keeping the best of N samples by an imperfect reward.

    .. math:: \rho \sigma E_N

    Symbols      N  samples [1] drawn;  \rho  reward_correlation [1] of reward and true quality;
                 \sigma  quality_deviation [1] standard deviation of quality over samples;  returns [1]
    Assumptions  reward and quality are jointly normal; E_N is `expected_maximum_of_normals`
    Valid for    1 <= samples <= 1e7; 0 <= reward_correlation <= 1; quality_deviation >= 0
    Monotone     reward_correlation +; quality_deviation +
    Limits       samples = 1 -> 0; reward_correlation = 0 -> 0
    Source       regression on the largest order statistic: David and Nagaraja 2003, "Order Statistics", section 6.8
                 (concomitants), doi:10.1002/0471722162
    """
    return reward_correlation * quality_deviation * expected_maximum_of_normals(samples)


@formula
def best_of_n_kl(samples):
    r"""Upper bound of how far best-of-N moves from the model it samples, in nats.

    .. math:: \ln N - \frac{N-1}{N}

    Symbols      N  samples [1] drawn;  returns [1]
    Assumptions  equality where no two samples are alike
    Valid for    samples >= 1
    Monotone     samples +
    Limits       samples = 1 -> 0
    Source       Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy",
                 arXiv:2401.01879
    """
    return log(samples) - (samples - 1) / samples


@formula
def cascade_cost(cheap_cost, dear_cost, escalated_share):
    r"""Cost per problem of asking a cheap method first and a dear one where the first is not trusted.

    .. math:: C = c_1 + e\, c_2

    Symbols      c_1  cheap_cost [USD] of the first method;  c_2  dear_cost [USD] of the second;
                 e  escalated_share [1] of problems that go on;  returns [USD]
    Valid for    cheap_cost >= 0; dear_cost >= 0; 0 <= escalated_share <= 1
    Monotone     cheap_cost +; dear_cost +; escalated_share +
    Source       Chen et al. 2023, "FrugalGPT", arXiv:2305.05176
    """
    return cheap_cost + escalated_share * dear_cost


@formula
def cascade_accuracy(cheap_accuracy_kept, dear_accuracy_escalated, escalated_share):
    r"""Accuracy of a cascade of two methods.

    .. math:: A = (1-e)\, a_1 + e\, a_2

    Symbols      a_1  cheap_accuracy_kept [1] of the first method where it is trusted;
                 a_2  dear_accuracy_escalated [1] of the second on what goes on;
                 e  escalated_share [1] of problems that go on;  returns [1]
    Valid for    0 <= cheap_accuracy_kept <= 1; 0 <= dear_accuracy_escalated <= 1; 0 <= escalated_share <= 1
    Monotone     cheap_accuracy_kept +; dear_accuracy_escalated +
    Source       Chen et al. 2023, "FrugalGPT", arXiv:2305.05176
    """
    return (1 - escalated_share) * cheap_accuracy_kept + escalated_share * dear_accuracy_escalated
