"""Two slots a rank: given the counts the best packing is known, so the search is over the counts alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["folded_maximum", "searched_pairs"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_MOVES, _STEEPNESS = 256, 150.0


def folded_maximum(counts: Ints, loads: Floats) -> float:
    """The fullest of the pairs when the largest replica goes with the smallest."""
    return float(_pairs(np.sort(np.repeat(loads / counts, counts))[None]).max())


def searched_pairs(counts: Ints, loads: Floats, most: int, target: float, rounds: int) -> Ints:
    """Move one replica from an expert to another, as long as the pairs over `target` shrink.

    Counts keep their sum and stay between 1 and `most`. Moves are drawn from a fixed seed.
    """
    if counts.max() == 1 or counts.min() >= most:
        return counts
    draws = np.random.default_rng(0)
    counts = counts.copy()
    best, fullest, stale = counts.copy(), folded_maximum(counts, loads), 0
    now = _pressure(np.sort(np.repeat(loads / counts, counts))[None], target)[0]
    for _ in range(rounds):
        if fullest <= target or stale > 12:
            break
        giver, taker = _drawn(draws, counts, loads, most)
        replicas = _moved(counts, loads, giver, taker)
        pressure = _pressure(replicas, target)
        chosen = int(pressure.argmin())
        if pressure[chosen] >= now * (1 - 1e-12):
            stale += 1
            continue
        stale, now = 0, pressure[chosen]
        counts[giver[chosen]] -= 1
        counts[taker[chosen]] += 1
        reached = float(_pairs(replicas[chosen : chosen + 1]).max())
        if reached < fullest:
            best, fullest = counts.copy(), reached
    return best


def _drawn(draws: np.random.Generator, counts: Ints, loads: Floats, most: int) -> tuple[Ints, Ints]:
    givers, takers = np.flatnonzero(counts > 1), np.flatnonzero(counts < most)
    giver, taker = draws.choice(givers, _MOVES), draws.choice(takers, _MOVES)
    kept = giver != taker
    return giver[kept], taker[kept]


def _moved(counts: Ints, loads: Floats, giver: Ints, taker: Ints) -> Floats:
    """Sorted replica sizes after each move, shape (moves, slots)."""
    moved = np.repeat(counts[None], len(giver), axis=0)
    at = np.arange(len(giver))
    moved[at, giver] -= 1
    moved[at, taker] += 1
    sizes = (loads / moved).ravel()
    return np.sort(np.repeat(sizes, moved.ravel()).reshape(len(giver), -1), axis=1)


def _pairs(replicas: Floats) -> Floats:
    half = replicas.shape[1] // 2
    return np.asarray(replicas[:, :half] + replicas[:, half:][:, ::-1])


def _pressure(replicas: Floats, target: float) -> Floats:
    """How far pairs reach over the target, the fullest ones foremost."""
    return np.asarray(np.exp(np.minimum(_STEEPNESS * (_pairs(replicas) / target - 1), 600)).sum(axis=1))
