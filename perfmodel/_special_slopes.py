"""Derivatives of special functions on floats: what `ops` gives to dual numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

__all__ = ["beta_cdf_by_first", "beta_cdf_by_second", "beta_density", "digamma", "normal_density", "trigamma"]


def digamma(x: float) -> float:
    """Slope of ln Gamma."""
    from scipy import special

    return float(special.psi(x))


def trigamma(x: float) -> float:
    """Slope of `digamma`."""
    from scipy import special

    return float(special.polygamma(1, x))


def normal_density(x: float) -> float:
    """Slope of the normal distribution function."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def beta_density(a: float, b: float, x: float) -> float:
    """Slope by `x` of the probability that a Beta(a, b) draw is at most `x`."""
    from scipy import special

    if not 0 < x < 1:
        return 0.0
    return math.exp((a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - float(special.betaln(a, b)))


def beta_cdf_by_first(a: float, b: float, x: float) -> float:
    """Slope by `a` of the same probability."""
    return _moved(a, b, x, math.log, digamma(a))


def beta_cdf_by_second(a: float, b: float, x: float) -> float:
    """Slope by `b` of the same probability."""
    return _moved(a, b, x, lambda t: math.log1p(-t), digamma(b))


def _moved(a: float, b: float, x: float, log: Callable[[float], float], of_one: float) -> float:
    """The integral below `x` of the density times what the logarithm exceeds its mean, over the lighter side."""
    from scipy import integrate

    if not 0 < x < 1:
        return 0.0
    below, mean_log = x * (a + b) <= a, of_one - digamma(a + b)
    low, high = (0.0, x) if below else (x, 1.0)
    edges = [low, *(p for p in _body(a, b) if low < p < high), high]
    parts = (
        integrate.quad(lambda t: beta_density(a, b, t) * (log(t) - mean_log), *ends, epsabs=0, epsrel=1e-11)
        for ends in itertools.pairwise(edges)
    )
    return (1 if below else -1) * math.fsum(part for part, *_ in parts)


def _body(a: float, b: float) -> list[float]:
    """Where nearly all of Beta(a, b) lies, rising: a quadrature that knows it misses no narrow peak."""
    mean = a / (a + b)
    deviation = math.sqrt(mean * (1 - mean) / (a + b + 1))
    return [p for p in (mean + k * deviation for k in (-8, -4, -1, 1, 4, 8)) if 0 < p < 1]
