r"""Repeated sampling: coverage of one problem and of many, where it saturates, and what it costs."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import ceil, exp, less, log, log_gamma, maximum, where

__all__ = [
    "coverage_beta_mixture",
    "coverage_beta_tail_scale",
    "coverage_exponent",
    "coverage_power_law",
    "coverage_scale",
    "expected_attempts",
    "independent_coverage",
    "pass_at_k",
    "saturating_accuracy",
    "saturation_attempts",
    "saturation_gain",
    "token_price_usd",
]


@formula
def pass_at_k(samples, correct, attempts):
    r"""Unbiased estimate that at least one of k attempts is right, from n samples of which c were right.

    .. math:: 1 - \binom{n-c}{k} \Big/ \binom{n}{k}

    Symbols      n  samples [1] drawn;  c  correct [1] of them;  k  attempts [1] k of pass@k, at most n;  returns [1]
    Assumptions  samples are independent and exchangeable
    Valid for    1 <= samples <= 100000; correct >= 0; attempts >= 1; fails where correct or attempts exceeds samples
    Source       Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1, arXiv:2107.03374; used by
                 Brown et al. 2024, "Large Language Monkeys", arXiv:2407.21787
    Checked      a product of exact fractions (tests/test_test_time_laws.py)
    Example      >>> pass_at_k(4, 1, 2)
                 0.5
    """
    wrong = maximum(0, samples - correct)
    spare = maximum(0, wrong - attempts)
    unused = maximum(0, samples - attempts)
    log_miss = log_gamma(wrong + 1) - log_gamma(spare + 1) + log_gamma(unused + 1) - log_gamma(samples + 1)
    return where(less(wrong, attempts), 1, 1 - exp(log_miss))


@formula
def independent_coverage(success_rate, attempts):
    r"""Probability that at least one of k independent attempts at one problem is right (Hit@k).

    .. math:: 1 - (1-p)^k

    Symbols      p  success_rate [1] of one attempt;  k  attempts [1] made;  returns [1]
    Assumptions  one known problem, or problems that are all equally hard; a perfect verifier picks the right one
    Valid for    0 <= success_rate <= 1; attempts >= 0
    Monotone     success_rate +; attempts +
    Limits       success_rate = 0 -> 0; attempts = 0 -> 0
    Source       Brown et al. 2024, "Large Language Monkeys", arXiv:2407.21787; Wang et al. 2025, "Scaling
                 over Scaling", arXiv:2505.20522 (parallel and, with the rethinking rate, sequential scaling)
    """
    return 1 - (1 - success_rate) ** attempts


@formula
def expected_attempts(success_rate, attempts):
    r"""Attempts made until the first success, or until k of them are spent.

    .. math:: \frac{1 - (1-p)^k}{p}

    Symbols      p  success_rate [1] of one attempt;  k  attempts [1] at most;  returns [1]
    Assumptions  one after the other, each checked before the next
    Valid for    0.000001 <= success_rate <= 1; attempts >= 1
    Monotone     success_rate -; attempts +
    Limits       success_rate = 1 -> 1
    Source       mean of a truncated geometric distribution; Hu et al. 2023, "Predicting Emergent Abilities with
                 Infinite Resolution Evaluation", arXiv:2310.03262 (PassUntil: 1/p without a limit)
    """
    return independent_coverage(success_rate, attempts) / success_rate


@formula
def coverage_power_law(attempts, scale, exponent):
    r"""Coverage of a set of problems after k attempts at each: an exponentiated power law.

    .. math:: c = \exp(-a k^{-b})

    Symbols      k  attempts [1] at each problem;  a  scale [1] minus the logarithm of pass@1;
                 b  exponent [1] of attempts;  returns [1]
    Assumptions  a perfect verifier; problems of which some are almost never solved
    Valid for    1 <= attempts <= 10000; scale >= 0; 0 <= exponent <= 2
    Monotone     attempts +; scale -
    Limits       scale = 0 -> 1
    Source       Brown et al. 2024, "Large Language Monkeys", arXiv:2407.21787 (there a, b < 0)
    Checked      SWE-bench Lite with DeepSeek-Coder-V2-Instruct: 15.9 % at 1 and 56 % at 250 fix the law
    """
    return exp(-scale * attempts ** (-exponent))


@formula
def coverage_scale(coverage_one):
    r"""Scale of the exponentiated power law from the coverage of one attempt.

    .. math:: a = -\ln c_1

    Symbols      c_1  coverage_one [1] pass@1;  returns [1]
    Valid for    0.001 <= coverage_one <= 0.999
    Monotone     coverage_one -
    Source       `coverage_power_law` at one attempt; Brown et al. 2024, arXiv:2407.21787
    """
    return -log(coverage_one)


@formula
def coverage_exponent(coverage_one, coverage_many, attempts):
    r"""Exponent of the exponentiated power law through pass@1 and pass@k.

    .. math:: b = \ln\frac{\ln c_1}{\ln c_k} \Big/ \ln k

    Symbols      c_1  coverage_one [1] pass@1;  c_k  coverage_many [1] pass@k;  k  attempts [1] made;  returns [1]
    Valid for    0.001 <= coverage_one <= 0.999; 0.001 <= coverage_many <= 0.999; attempts >= 2
    Monotone     coverage_one -; coverage_many +
    Source       `coverage_power_law` solved at two points; Brown et al. 2024, arXiv:2407.21787
    """
    return log(log(coverage_one) / log(coverage_many)) / log(attempts)


@formula
def coverage_beta_mixture(attempts, alpha, beta):
    r"""Expected coverage after k attempts where success rates of problems follow a Beta distribution.

    .. math:: 1 - \frac{B(\alpha, \beta + k)}{B(\alpha, \beta)}

    Symbols      k  attempts [1] at each problem;  \alpha  alpha [1] first shape: small where many are hard;
                 \beta  beta [1] second shape;  returns [1]
    Assumptions  attempts at one problem are independent given its success rate
    Valid for    attempts >= 0; alpha >= 0.01; beta >= 0.01
    Monotone     attempts +; alpha +; beta -
    Source       derived: E[1 - (1-p)^k]; Schaeffer et al. 2025, "How Do Large Language Monkeys Get Their Power
                 (Laws)?", arXiv:2502.17578
    Checked      numerical integration of the density (tests/test_test_time_laws.py)
    """
    log_miss = log_gamma(beta + attempts) - log_gamma(alpha + beta + attempts)
    return 1 - exp(log_miss + log_gamma(alpha + beta) - log_gamma(beta))


@formula
def coverage_beta_tail_scale(alpha, beta):
    r"""Scale of the power law that the misses of a Beta mixture approach: 1 - pass@k ~ scale k^-alpha.

    .. math:: a = \frac{\Gamma(\alpha + \beta)}{\Gamma(\beta)}

    Symbols      \alpha  alpha [1] first shape, which is the exponent;  \beta  beta [1] second shape;  returns [1]
    Assumptions  many attempts: k much larger than alpha + beta
    Valid for    0.01 <= alpha <= 10; 0.01 <= beta <= 100
    Source       Stirling's formula in `coverage_beta_mixture`; the exponent is the density's near zero, as in Schaeffer
                 et al. 2025, arXiv:2502.17578
    """
    return exp(log_gamma(alpha + beta) - log_gamma(beta))


@formula
def saturating_accuracy(attempts, ceiling, success_rate):
    r"""Accuracy after N parallel samples or N rounds of rethinking.

    .. math:: F(N) = F_{\max}\left(1 - (1-p)^N\right)

    Symbols      N  attempts [1] samples, or rounds;  F_{max}  ceiling [1] accuracy that no budget exceeds;
                 p  success_rate [1] of a sample, or of a rethinking;  returns [1]
    Assumptions  parallel: independent samples; sequential: a chain of two states of which the right one absorbs
    Valid for    attempts >= 0; 0 <= ceiling <= 1; 0 <= success_rate <= 1
    Monotone     attempts +; ceiling +; success_rate +
    Source       Wang et al. 2025, "Scaling over Scaling: Exploring Test-Time Scaling Pareto in Large Reasoning
                 Models", arXiv:2505.20522
    """
    return ceiling * independent_coverage(success_rate, attempts)


@formula
def saturation_gain(attempts, ceiling, success_rate):
    r"""Accuracy that one more sample, or round, adds.

    .. math:: \Delta F = F_{\max}\, p\, (1-p)^N

    Symbols      N  attempts [1] made so far;  F_{max}  ceiling [1] accuracy that no budget exceeds;
                 p  success_rate [1] of a sample, or of a rethinking;  returns [1]
    Valid for    attempts >= 0; 0 <= ceiling <= 1; 0 <= success_rate <= 1
    Monotone     attempts -; ceiling +
    Source       difference of `saturating_accuracy`; Wang et al. 2025, arXiv:2505.20522
    """
    return ceiling * success_rate * (1 - success_rate) ** attempts


@formula
def saturation_attempts(ceiling, success_rate, least_gain):
    r"""Fewest samples, or rounds, after which one more adds at most the least gain that is worth having.

    .. math:: N^* = \left\lceil \frac{\ln(\epsilon / (F_{\max} p))}{\ln(1-p)} \right\rceil

    Symbols      F_{max}  ceiling [1] accuracy that no budget exceeds;  p  success_rate [1] of a sample, or of a
                 rethinking;  \epsilon  least_gain [1] in accuracy;  returns [1]
    Assumptions  as `saturating_accuracy`; the ceiling makes a whole number of what the paper gives as a bound
    Valid for    0.001 <= ceiling <= 1; 0.001 <= success_rate <= 0.999; 0.000001 <= least_gain <= 1
    Monotone     ceiling +; least_gain -
    Limits       least_gain = 1 -> 0
    Source       Wang et al. 2025, arXiv:2505.20522 (saturation point, for both ways of scaling)
    Checked      the first N whose `saturation_gain` is small enough, found by counting (tests/test_test_time_laws.py)
    """
    return maximum(0, ceil(log(least_gain / (ceiling * success_rate)) / log(1 - success_rate)))


@formula
def token_price_usd(tokens, usd_per_mtok, tokens_per_mtok=1e6):
    r"""Price of tokens at a price list.

    .. math:: C = n c / 10^6

    Symbols      n  tokens [1] bought;  c  usd_per_mtok [USD] price of a million;
                 m  tokens_per_mtok [1] tokens in a million;  returns [USD]
    Valid for    tokens >= 0; usd_per_mtok >= 0
    Monotone     tokens +; usd_per_mtok +
    Source       definition: price times tokens
    Checked      CodeMonkeys Table 1 (Ehrlich et al. 2025, arXiv:2501.14723)
    """
    return tokens * usd_per_mtok / tokens_per_mtok
