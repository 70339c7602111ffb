"""What closed forms of test-time compute leave to counting: votes among many answers, measured chains, many epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import OutOfRangeError
from perfmodel.formulas.scaling_laws_data import utility_after_epochs

__all__ = ["chains_tokens", "filtered_error", "multinomial_vote_accuracy", "order_statistic_latency"]

Floats = NDArray[np.float64]
_MOST_VOTES = 150
"""Beyond, factorials of the votes leave the range of a float."""


def multinomial_vote_accuracy(shares: Sequence[float], votes: int) -> float:
    """Probability that a plurality of `votes` independent votes elects the first answer; ties are broken at random.

    shares [answers] [1] are the probabilities of the answers, the right one first; they add up to one. Raises
    `OutOfRangeError`. Source: the definition, summed by generating functions; the limit for many votes is the share of
    problems whose commonest answer is right (Wu et al. 2024, arXiv:2408.00724).
    """
    if not 1 <= votes <= _MOST_VOTES or any(share < 0 for share in shares) or abs(sum(shares) - 1.0) > 1e-9:
        raise OutOfRangeError(
            f"votes must be from 1 to {_MOST_VOTES} and shares >= 0 add up to 1 (got {votes}, {shares})"
        )
    right, *others = (float(share) for share in shares)
    # A tie of t others wins 1 / (t + 1) of the time: the integral of u^t, exact for a Gauss rule of enough nodes.
    nodes, weights = np.polynomial.legendre.leggauss(len(others) // 2 + 1)
    factorials = np.array([math.factorial(count) for count in range(votes + 1)], dtype=np.float64)
    total = 0.0
    for count in range(1, votes + 1):
        left = votes - count + 1
        for node, weight in zip((nodes + 1.0) / 2.0, weights / 2.0, strict=True):
            ways = np.zeros(left)
            ways[0] = 1.0
            for share in others:
                ways = np.convolve(ways, _at_most(share, count, node, factorials))[:left]
            total += weight * right**count / factorials[count] * ways[left - 1]
    return float(total * factorials[votes])


def _at_most(share: float, count: int, node: float, factorials: Floats) -> Floats:
    """Generating function of an answer's votes: fewer than `count`, or as many, weighed by the node."""
    ways = share ** np.arange(len(factorials)) / factorials
    ways[count + 1 :] = 0.0
    ways[count] *= node
    return np.asarray(ways)


def order_statistic_latency(lengths: ArrayLike, finished: int, chains: int) -> float:
    """Expected length of the m-th shortest of k chains drawn from measured lengths (short-m@k).

    lengths [chains measured] in any unit, which is that of the result. Raises `OutOfRangeError` unless m <= k <=
    measured. Source: mean over all subsets of k; Hassid et al. 2025, arXiv:2505.17813.
    """
    ordered = np.sort(np.asarray(lengths, dtype=np.float64).ravel())
    if not 1 <= finished <= chains <= len(ordered):
        raise OutOfRangeError(f"needs 1 <= finished <= chains <= {len(ordered)} measured (got {finished}, {chains})")
    below = np.arange(len(ordered))
    ways = [math.comb(int(i), finished - 1) * math.comb(len(ordered) - 1 - int(i), chains - finished) for i in below]
    every = math.comb(len(ordered), chains)
    return float(sum(length * (way / every) for length, way in zip(ordered, ways, strict=True)))


def chains_tokens(lengths: ArrayLike, finished: int, chains: int) -> float:
    """Expected tokens of k chains, all stopped when m have finished; lengths as in `order_statistic_latency`."""
    ended = [order_statistic_latency(lengths, rank, chains) for rank in range(1, finished + 1)]
    return sum(ended) + (chains - finished) * ended[-1]


def filtered_error(
    scale: float, samples: float, epoch_samples: float, utility: float, half_life: float, irreducible: float = 0.0
) -> float:
    """Error after any number of epochs over one filtered pool: each epoch multiplies its own ratio, of weaker utility.

    Samples [1] seen in all, epoch_samples [1] in the pool. Source: Goyal et al. 2024, eq. 3, arXiv:2404.07177; the
    irreducible error is added once.
    """
    seen = min(samples, epoch_samples)
    error, epoch = (scale * seen) ** (-utility), 1
    while seen < samples:
        reached = min(samples, seen + epoch_samples)
        error *= (reached / seen) ** (-float(utility_after_epochs(utility, epoch, half_life)))
        seen, epoch = reached, epoch + 1
    return error + irreducible
