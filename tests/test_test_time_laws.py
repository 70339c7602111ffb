"""Laws of test-time compute against counting, sums and integrals, and what the published tables say together."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

import perfmodel
from perfmodel.errors import OutOfRangeError
from perfmodel.formulas import test_time as laws
from perfmodel.formulas import test_time_memory as memory
from perfmodel.formulas import test_time_methods as methods
from perfmodel.formulas import test_time_verifiers as verifiers
from perfmodel.formulas import test_time_voting as voting
from perfmodel.formulas.test_time_agents import cached_prompt_price_usd
from perfmodel.predict.test_time import (
    chains_tokens,
    filtered_error,
    multinomial_vote_accuracy,
    order_statistic_latency,
)

PUBLISHED_LAWS = Path(perfmodel.__file__).parent / "validation" / "published" / "laws"
TOY = {"completeness": 1.0, "soundness": 0.75}
EASY, HARD, PRIOR = 0.87, 0.13, (0.58, 0.42)


@settings(derandomize=True, max_examples=60)
@given(st.integers(1, 60), st.data())
def test_pass_at_k_is_a_product_of_fractions(samples: int, data: st.DataObject) -> None:
    correct, attempts = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    exact = 1 - Fraction(math.comb(samples - correct, attempts), math.comb(samples, attempts))
    assert laws.pass_at_k(float(samples), float(correct), float(attempts)) == pytest.approx(float(exact), abs=1e-11)


def test_pass_at_k_is_unbiased() -> None:
    """Its mean over the binomial number of right samples is 1 - (1-p)^k."""
    samples, rate, attempts = 12, 0.3, 5
    weights = stats.binom.pmf(np.arange(samples + 1), samples, rate)
    estimates = laws.pass_at_k(float(samples), np.arange(samples + 1.0), float(attempts))
    assert weights @ estimates == pytest.approx(laws.independent_coverage(rate, attempts), rel=1e-10)


@pytest.mark.parametrize(("alpha", "beta", "attempts"), [(0.4, 1.3, 1), (0.4, 1.3, 40), (2.0, 5.0, 7)])
def test_beta_mixture_is_the_integral(alpha: float, beta: float, attempts: int) -> None:
    density = stats.beta(alpha, beta).pdf
    solved, _ = integrate.quad(lambda p: (1 - (1 - p) ** attempts) * density(p), 0, 1, limit=200)
    assert laws.coverage_beta_mixture(float(attempts), alpha, beta) == pytest.approx(solved, rel=1e-6)


def test_the_tail_of_a_beta_mixture_is_a_power_law() -> None:
    scale = laws.coverage_beta_tail_scale(0.4, 1.3)
    assert 1 - laws.coverage_beta_mixture(1e6, 0.4, 1.3) == pytest.approx(scale * 1e6**-0.4, rel=1e-5)


def test_two_points_fix_the_coverage_law() -> None:
    scale, exponent = laws.coverage_scale(0.159), laws.coverage_exponent(0.159, 0.56, 250.0)
    assert (scale, exponent) == (pytest.approx(1.8389, abs=5e-5), pytest.approx(0.2090, abs=5e-5))
    assert laws.coverage_power_law(250.0, scale, exponent) == pytest.approx(0.56, rel=1e-12)
    assert methods.attempts_for_coverage(0.56, scale, exponent) == pytest.approx(250.0, rel=1e-9)


@pytest.mark.parametrize(("ceiling", "rate", "gain"), [(0.9, 0.3, 0.01), (0.533, 0.05, 0.001), (1.0, 0.5, 0.6)])
def test_saturation_is_the_first_small_gain(ceiling: float, rate: float, gain: float) -> None:
    counted = next(n for n in itertools.count() if laws.saturation_gain(n, ceiling, rate) <= gain)
    assert laws.saturation_attempts(ceiling, rate, gain) == counted


def counted_utility(rates: tuple[float, ...], prior: tuple[float, ...], wrong_cost: float, attempts: int) -> float:
    """Every attempt of every kind of task, one by one."""
    total = 0.0
    for rate, share in zip(rates, prior, strict=True):
        reached = share
        for _ in range(attempts):
            total += reached * (rate - wrong_cost * 0.25 * (1 - rate))
            reached *= 0.75 * (1 - rate)
    return total


@pytest.mark.parametrize(("wrong_cost", "best", "utility"), [(0.7, 3, 0.5246), (1.0, 2, 0.4724), (2.0, 1, 0.3388)])
def test_utility_by_the_prior_and_not_by_the_posterior(wrong_cost: float, best: int, utility: float) -> None:
    """The authors' notebook prints .5541 and .4884 for the first two: it weights by the posterior."""

    def mixed(attempts: int) -> float:
        words = TOY | {"attempts": attempts, "right_value": 1.0, "wrong_cost": wrong_cost}
        each = [verifiers.resampling_utility(rate, **words) for rate in (EASY, HARD)]
        return PRIOR[0] * each[0] + PRIOR[1] * each[1]

    assert mixed(best) == pytest.approx(counted_utility((EASY, HARD), PRIOR, wrong_cost, best), rel=1e-12)
    assert max(range(1, 30), key=mixed) == best
    assert mixed(best) == pytest.approx(utility, abs=5e-5)


def test_no_budget_exceeds_the_precision_of_a_verifier() -> None:
    limits = [verifiers.resampling_accuracy_limit(rate, **TOY) for rate in (EASY, HARD)]
    assert PRIOR[0] * limits[0] + PRIOR[1] * limits[1] == pytest.approx(0.7162, abs=5e-5)
    for rate, limit in zip((EASY, HARD), limits, strict=True):
        for attempts in (1, 10, 1000):
            assert verifiers.resampling_accuracy(rate, **TOY, attempts=attempts) <= limit * (1 + 1e-12)


@settings(derandomize=True, max_examples=50)
@given(st.floats(0.01, 1.0), st.integers(1, 200))
def test_a_perfect_verifier_gives_coverage(rate: float, attempts: int) -> None:
    assert verifiers.resampling_accuracy(rate, 1.0, 1.0, attempts) == pytest.approx(
        laws.independent_coverage(rate, attempts), rel=1e-9
    )
    assert verifiers.resampling_attempts(rate, 1.0, 1.0, attempts) == pytest.approx(
        laws.expected_attempts(rate, attempts), rel=1e-9
    )


@pytest.mark.parametrize("votes", [1, 3, 5, 11, 21])
def test_majority_is_a_binomial_sum(votes: int) -> None:
    summed = sum(math.comb(votes, k) * 0.6**k * 0.4 ** (votes - k) for k in range(votes // 2 + 1, votes + 1))
    assert voting.majority_vote_accuracy(0.6, float(votes)) == pytest.approx(summed, rel=1e-12)
    assert multinomial_vote_accuracy([0.6, 0.4], votes) == pytest.approx(summed, rel=1e-10)


@pytest.mark.parametrize(("shares", "votes"), [([0.5, 0.3, 0.2], 5), ([0.4, 0.3, 0.2, 0.1], 6), ([0.2, 0.5, 0.3], 4)])
def test_plurality_is_counted_exactly(shares: list[float], votes: int) -> None:
    counted = 0.0
    for ballot in itertools.product(range(len(shares)), repeat=votes):
        counts = [ballot.count(answer) for answer in range(len(shares))]
        if counts[0] == max(counts):
            counted += math.prod(shares[answer] for answer in ballot) / counts.count(counts[0])
    assert multinomial_vote_accuracy(shares, votes) == pytest.approx(counted, rel=1e-10)


def test_the_normal_law_of_votes_nears_the_count() -> None:
    shares = [0.35, 0.25, 0.2, 0.2]
    exact = multinomial_vote_accuracy(shares, 150)
    assert voting.two_answer_vote_accuracy(0.35, 0.25, 150.0) == pytest.approx(exact, abs=0.03)
    equal = voting.weighted_vote_accuracy(0.35, 0.25, 1.0, 1.0, 1e-9, 150.0)
    assert equal == pytest.approx(voting.two_answer_vote_accuracy(0.35, 0.25, 150.0), rel=1e-9)
    with pytest.raises(OutOfRangeError, match="votes must be"):
        multinomial_vote_accuracy([0.5, 0.4], 3)


def test_shortest_chains_are_order_statistics() -> None:
    lengths = [5.0, 1.0, 3.0, 8.0, 2.0, 9.0]
    for finished, chains in ((1, 3), (2, 3), (3, 3), (1, 6), (4, 6)):
        drawn = [sorted(subset) for subset in itertools.combinations(lengths, chains)]
        mean = np.mean([subset[finished - 1] for subset in drawn])
        tokens = np.mean([sum(min(length, subset[finished - 1]) for length in subset) for subset in drawn])
        assert order_statistic_latency(lengths, finished, chains) == pytest.approx(mean, rel=1e-12)
        assert chains_tokens(lengths, finished, chains) == pytest.approx(tokens, rel=1e-12)
    with pytest.raises(OutOfRangeError, match="finished"):
        order_statistic_latency(lengths, 4, 3)


def test_exponential_chains_against_their_quantiles() -> None:
    quantiles = -np.log(1 - (np.arange(4000) + 0.5) / 4000)
    for finished in (1, 3):
        law = voting.shortest_chain_latency(0.0, 1.0, finished, 8.0)
        assert law == pytest.approx(order_statistic_latency(quantiles, finished, 8), rel=2e-3)
        tokens = voting.shortest_chains_tokens(0.0, 1.0, finished, 8.0)
        assert tokens == pytest.approx(chains_tokens(quantiles, finished, 8), rel=5e-3)


SHAPE = {"n_heads": 32.0, "d_head": 128.0, "n_layers": 36.0}


def test_kinetics_is_a_sum_over_tokens() -> None:
    """Two operations and two elements of two bytes for every key and value of every head that a token attends to."""
    trials, params, prompt, output = 4, 8.19e9, 512, 2000
    lengths = prompt + np.arange(output) + 0.5
    attention = trials * 2 * 2 * lengths.sum() * 32 * 128 * 36
    flops = memory.generation_flops(trials, params, prompt, output, **SHAPE)
    assert flops == pytest.approx(trials * 2 * params * output + attention, rel=1e-12)
    own = trials * (np.arange(output) + 0.5).sum()
    read = memory.generation_cache_bytes(trials, prompt, output, 8, 128, 36)
    assert read == pytest.approx(2 * 2 * (prompt * output + own) * 8 * 128 * 36, rel=1e-12)
    apart = memory.generation_cache_bytes(trials, prompt, output, 8, 128, 36, shared_prompt=0)
    assert apart == pytest.approx(2 * 2 * trials * lengths.sum() * 8 * 128 * 36, rel=1e-12)


@pytest.mark.parametrize(("prompt", "budget"), [(100, 700), (2000, 512)])
def test_attention_to_the_best_tokens_is_a_sum_of_minima(prompt: int, budget: int) -> None:
    """Minus, not plus as in one function of the authors' code."""
    output = 3000
    counted = np.minimum(prompt + np.arange(output) + 0.5, budget).sum()
    assert memory.attended_tokens_top_k(prompt, output, budget) == pytest.approx(counted, rel=1e-9)


def test_sparse_attention_moves_the_best_model_size() -> None:
    """With dense attention the cache of a small model costs more than its weights; with a budget it does not."""
    small = {"n_heads": 16.0, "d_head": 128.0, "n_layers": 28.0}
    dense = memory.equivalent_flops(
        memory.generation_flops(32.0, 0.752e9, 512.0, 16384.0, **small),
        memory.generation_cache_bytes(32.0, 512.0, 16384.0, 8.0, 128.0, 28.0),
        562.5,
    )
    sparse = memory.equivalent_flops(
        memory.sparse_generation_flops(32.0, 0.752e9, 512.0, 16384.0, 1024.0, **small),
        memory.sparse_generation_cache_bytes(32.0, 512.0, 16384.0, 1024.0, 8.0, 128.0, 28.0),
        562.5,
    )
    weights = 32 * 2 * 0.752e9 * 16384
    assert dense > 10 * weights
    assert sparse < dense / 5


CODEMONKEYS = {
    "relevance": ((0.00, 0.00, 0.00, 0.00, 334.02), 334.02),
    "ranking": ((0.00, 11.92, 1.10, 6.90, 0.00), 19.92),
    "tests": ((10.60, 295.15, 21.60, 112.64, 0.00), 439.99),
    "edits": ((14.67, 353.95, 636.82, 360.58, 0.00), 1366.02),
    "selection": ((0.52, 51.12, 15.17, 65.14, 0.00), 131.95),
}
"""Ehrlich et al. 2025, arXiv:2501.14723, Table 1: input, output, cache read, cache write, local model; sum [USD]."""


def test_codemonkeys_table_adds_up() -> None:
    for parts, whole in CODEMONKEYS.values():
        assert sum(parts) == pytest.approx(whole, abs=0.006)
    total = np.sum([parts for parts, _ in CODEMONKEYS.values()], axis=0)
    tokens = total[:4] / np.array([3.0, 15.0, 0.30, 3.75]) * 1e6
    priced = cached_prompt_price_usd(tokens[0], tokens[2], tokens[3], tokens[1], 3.0, 0.30, 3.75, 15.0)
    assert priced + total[4] == pytest.approx(2291.90, abs=0.01)
    assert (priced + total[4]) / 500 == pytest.approx(4.58, abs=0.005)


def test_operations_alone_do_not_tell_time() -> None:
    """Quiet-STaR against REBASE: 5.4 times the operations, 65 times the time."""
    operations, seconds = 12.73 / 2.35, 554.66 / 8.47
    assert (operations, seconds) == (pytest.approx(5.4, abs=0.05), pytest.approx(65.0, abs=0.6))
    assert seconds / operations > 10
    rates = methods.rate_of_flops(12.73e12, 554.66), methods.rate_of_flops(2.35e12, 8.47)
    assert rates[1] / rates[0] == pytest.approx(seconds / operations, rel=1e-12)


def test_exponents_of_generative_verification_nearly_add_up() -> None:
    grown = verifiers.optimal_solutions(100.0, 1.0) * verifiers.optimal_verifications(100.0, 1.0)
    assert math.log(grown, 100) == pytest.approx(0.96, rel=1e-9)
    assert verifiers.verification_budget(8.0, 0.0, 0.5) == 8.0


def test_a_cascade_lies_between_its_methods() -> None:
    assert verifiers.cascade_cost(1.0, 10.0, 0.2) == pytest.approx(3.0)
    assert 0.7 <= verifiers.cascade_accuracy(0.7, 0.9, 0.5) <= 0.9


def test_filtering_by_epochs() -> None:
    """One epoch is a power law; the second falls by the utility that is left; a third multiplies once more."""
    from perfmodel.formulas.scaling_laws_data import filtering_error

    for samples in (50.0, 100.0, 160.0, 200.0):
        law = filtering_error(1.0, samples, 100.0, 0.2, 2.0, 0.1)
        assert filtered_error(1.0, samples, 100.0, 0.2, 2.0, 0.1) == pytest.approx(law, rel=1e-12)
    third = (3 / 2) ** (-0.2 * 0.5 ** (2 / 2.0))
    assert filtered_error(1.0, 300.0, 100.0, 0.2, 2.0) == pytest.approx(
        filtered_error(1.0, 200.0, 100.0, 0.2, 2.0) * third, rel=1e-12
    )


def test_resampling_against_weak_tests_is_capped() -> None:
    """17 models: infinite attempts of a weak one do not reach one attempt of GPT-4o, but for two that nearly do."""
    from perfmodel.calibrate.laws import read_law_table

    rows = read_law_table(PUBLISHED_LAWS / "weak-tests.csv")
    accuracy = {row["model"]: float(row["accuracy"]) for row in rows}
    limit = {row["model"]: float(row["limit"]) for row in rows}
    assert len(rows) == 17
    for model, share in accuracy.items():
        assert share < limit[model] < 1
        # The limit is the precision of the tests: what they accept of wrong answers follows from it.
        accepted_wrong = share * (1 / limit[model] - 1) / (1 - share)
        capped = verifiers.resampling_accuracy_limit(share, 1.0, 1 - accepted_wrong)
        assert capped == pytest.approx(limit[model], rel=1e-9)
    weak = {model for model, share in accuracy.items() if share < 0.61 and limit[model] > accuracy["GPT-4o"]}
    assert weak == {"Phi-3 Medium", "Phi-3 Mini"}
    assert max(limit[model] for model in weak) - accuracy["GPT-4o"] < 0.004
