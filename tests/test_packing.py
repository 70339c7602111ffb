"""Padding and packing: formulas against drawn lengths, and the published bound."""

from __future__ import annotations

import numpy as np
import pytest

from perfmodel.formulas.packing import (
    expected_longest_of_normal_lengths,
    expected_longest_of_uniform_lengths,
    packed_attention_pairs,
    packed_attention_share,
    padded_attention_pairs,
    unpadded_speedup,
    unpadded_straggler_slowdown,
    useful_token_share,
)

RNG = np.random.default_rng(11)


def test_half_padding_is_twice_the_speed() -> None:
    """Krell et al. 2021, arXiv:2107.02027, abstract: 50 % of the tokens are padding at 512, 2x."""
    mean_length = 512 * (1 - 0.50)
    assert useful_token_share(mean_length, 512) == 0.5
    assert unpadded_speedup(mean_length, 512) == pytest.approx(2, rel=0.05)


def test_token_shares_are_those_of_a_batch() -> None:
    lengths = RNG.integers(16, 513, size=1000)
    padded = np.zeros((lengths.size, 512), dtype=bool)
    for row, length in zip(padded, lengths, strict=True):
        row[:length] = True
    assert useful_token_share(lengths.mean(), 512) == pytest.approx(padded.mean(), rel=1e-12)
    assert unpadded_speedup(lengths.mean(), 512) == pytest.approx(padded.size / padded.sum(), rel=1e-12)


def test_attention_pairs_are_sums_of_squares() -> None:
    lengths = RNG.integers(1, 513, size=400).astype(float)
    brute = sum(length**2 for length in lengths)
    assert packed_attention_pairs(lengths.size, lengths.mean(), lengths.std()) == pytest.approx(brute, rel=1e-12)
    share = packed_attention_share(lengths.mean(), lengths.std(), 512)
    assert share == pytest.approx(brute / padded_attention_pairs(lengths.size, 512), rel=1e-12)


def test_attention_gains_more_than_the_rest() -> None:
    """Lengths below the padded one: mean of squares <= longest x mean, so attention shrinks at least as tokens do."""
    for _ in range(50):
        lengths = RNG.integers(1, 129, size=64).astype(float)
        attention = packed_attention_share(lengths.mean(), lengths.std(), 128)
        assert useful_token_share(lengths.mean(), 128) ** 2 <= attention <= useful_token_share(lengths.mean(), 128)


@pytest.mark.parametrize("draws", [1, 2, 8, 64])
def test_longest_of_uniform_lengths(draws: int) -> None:
    drawn = RNG.uniform(64, 512, size=(40000, draws)).max(axis=1).mean()
    assert expected_longest_of_uniform_lengths(64, 512, draws) == pytest.approx(drawn, rel=0.01)


@pytest.mark.parametrize("draws", [64, 256])
def test_longest_of_normal_lengths(draws: int) -> None:
    drawn = RNG.normal(256, 40, size=(10000, draws)).max(axis=1).mean()
    # The extreme-value limit is 0.05 of a deviation too large for 64 draws.
    assert expected_longest_of_normal_lengths(256, 40, draws) == pytest.approx(drawn, abs=0.06 * 40)


@pytest.mark.parametrize(("sequences_per_rank", "dp"), [(16, 64), (56, 128)])
def test_wait_for_the_longest_rank(sequences_per_rank: int, dp: int) -> None:
    """Uniform lengths of 1 to 512 tokens, sums over ranks: the slowest rank against the mean, 2000 steps."""
    sums = RNG.integers(1, 513, size=(2000, dp, sequences_per_rank)).sum(axis=2)
    drawn = (sums.max(axis=1) / sums.mean(axis=1)).mean() - 1
    deviation = np.sqrt((512**2 - 1) / 12)
    estimate = unpadded_straggler_slowdown(513 / 2, deviation, sequences_per_rank, dp)
    assert estimate == pytest.approx(drawn, rel=0.05)  # tails of a sum of uniform draws are lighter than normal


def test_exchange_is_worth_less_with_more_sequences() -> None:
    waits = [unpadded_straggler_slowdown(256, 148, sequences, 8) for sequences in (1, 4, 16)]
    assert waits[0] == pytest.approx(2 * waits[1], rel=1e-12)
    assert waits[1] == pytest.approx(2 * waits[2], rel=1e-12)
