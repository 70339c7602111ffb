"""What is asked of a deployment: lengths, rate and burstiness of its requests, and the latencies it owes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from perfmodel.specs.quantity import Spec

__all__ = ["Slo", "TokenCounts", "Workload", "binned"]

_Tokens = Annotated[float, Field(ge=1, le=1e9)]
_Positive = Annotated[float, Field(gt=0, le=1e12)]
# Edges of the bins in which a distribution is priced: finer where few long prompts hold much of the square of the work.
_EDGES = (0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 0.99, 0.998, 1.0)
_QUANTILES = (0.5, 0.9, 0.99)
_FINE = 2000
HOURS = 24


class TokenCounts(Spec):
    """How many tokens prompts (or answers) have. Raises `SpecError`.

    `mean` and the percentiles [tokens]; `bins` ((share of requests [1], mean tokens of that share), ...) says the
    distribution exactly, as a trace gives it; without it the percentiles are joined by pieces of a lognormal law.
    """

    mean: _Tokens
    p50: _Tokens
    p90: _Tokens
    p99: _Tokens
    bins: tuple[tuple[float, _Tokens], ...] = ()

    @field_validator("bins", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return _tuples(value)

    @model_validator(mode="after")
    def _ordered(self) -> Any:
        if not self.p50 <= self.p90 <= self.p99:
            raise ValueError(f"p50, p90, p99: must not fall (got {self.p50:g}, {self.p90:g}, {self.p99:g})")
        if self.bins and not math.isclose(sum(share for share, _ in self.bins), 1.0, rel_tol=1e-6):
            raise ValueError("bins: shares must sum to 1")
        return self

    @classmethod
    def constant(cls, tokens: float) -> TokenCounts:
        """Every request alike."""
        return cls(mean=tokens, p50=tokens, p90=tokens, p99=tokens, bins=((1.0, tokens),))

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(shares [1], tokens), both [bin]: a small distribution of the same mean."""
        if self.bins:
            return np.array([share for share, _ in self.bins]), np.array([tokens for _, tokens in self.bins])
        shares = (np.arange(_FINE) + 0.5) / _FINE
        found = _in_bins(self._quantiles(shares))
        weights = np.diff(_EDGES)
        scale = self.mean / float(weights @ found)
        return weights, np.maximum(1.0, found * scale)

    @property
    def second_moment(self) -> float:
        """Mean of the square [tokens^2]."""
        shares, tokens = self.points
        return float(shares @ tokens**2)

    def quantile(self, share: float) -> float:
        """Tokens below which `share` of the requests lie."""
        return float(self._quantiles(np.array([share]))[0])

    def _quantiles(self, shares: np.ndarray) -> np.ndarray:
        """Pieces of lognormal laws through the three percentiles."""
        scores = np.array([NormalDist().inv_cdf(float(share)) for share in shares])
        knots = np.array([NormalDist().inv_cdf(share) for share in _QUANTILES])
        logs = np.log([self.p50, self.p90, self.p99])
        below, above = np.diff(logs) / np.diff(knots)
        inside = np.interp(scores, knots, logs)
        logs_at = np.where(scores < knots[0], logs[0] + below * (scores - knots[0]), inside)
        logs_at = np.where(scores > knots[-1], logs[-1] + above * (scores - knots[-1]), logs_at)
        return np.asarray(np.maximum(1.0, np.exp(logs_at)))

    def clipped(self, most: float) -> TokenCounts:
        """The same with at most `most` tokens, as a model's context allows."""
        if max(tokens for _, tokens in self.bins) <= most if self.bins else self.p99 <= most:
            return self
        shares, tokens = self.points
        kept = np.minimum(tokens, most)
        return TokenCounts(
            mean=float(shares @ kept), p50=min(self.p50, most), p90=min(self.p90, most), p99=min(self.p99, most),
            bins=tuple(zip(shares.tolist(), kept.tolist(), strict=True)),
        )  # fmt: skip


def binned(tokens: Sequence[float] | np.ndarray) -> TokenCounts:
    """The distribution of measured lengths, its bins exact in their means."""
    values = np.sort(np.asarray(tokens, dtype=float))
    p50, p90, p99 = (float(value) for value in np.percentile(values, [50, 90, 99]))
    edges = np.unique(np.round(np.array(_EDGES) * len(values)).astype(int))
    shares, means = np.diff(edges) / len(values), [float(part.mean()) for part in np.split(values, edges[1:-1])]
    bins = tuple((float(share), mean) for share, mean in zip(shares, means, strict=True))
    return TokenCounts(mean=float(values.mean()), p50=p50, p90=p90, p99=p99, bins=bins)


def _in_bins(values: np.ndarray) -> np.ndarray:
    edges = np.round(np.array(_EDGES) * len(values)).astype(int)
    return np.array([part.mean() for part in np.split(values, edges[1:-1])])


class Workload(Spec):
    """Requests that a deployment serves. Raises `SpecError`.

    `prompt_tokens` and `output_tokens` are a count or a distribution (a dict of mean, p50, p90, p99). `burstiness` [1]
    is the squared coefficient of variation of the time between arrivals (Poisson: 1); `dispersion` says more where a
    trace was measured: ((window [s], index of requests, index of prompt tokens), ...), each the variance in windows of
    that length over what Poisson arrivals of the same lengths would have. `prefix_hit` [1] is the share of prompt
    tokens found in the cache. `arrival_rate_per_s` is of the whole deployment; None: not known, or as much as it can
    take. `hourly_rates_per_s` is a day's profile of 24 rates.
    """

    name: str = ""
    prompt_tokens: int | TokenCounts = 1024
    output_tokens: int | TokenCounts = 256
    arrival_rate_per_s: _Positive | None = None
    burstiness: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    dispersion: tuple[tuple[_Positive, float, float], ...] = ()
    prefix_hit: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hourly_rates_per_s: tuple[Annotated[float, Field(ge=0, le=1e12)], ...] = ()

    @field_validator("prompt_tokens", "output_tokens", mode="before")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        if isinstance(value, TokenCounts):
            return value
        if isinstance(value, Mapping):
            return TokenCounts(**value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 1e9 or value % 1:
            raise ValueError(f"must be a whole number >= 1, or a table of mean, p50, p90 and p99 (got {value!r})")
        return int(value)

    @field_validator("dispersion", "hourly_rates_per_s", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return _tuples(value)

    @field_validator("hourly_rates_per_s")
    @classmethod
    def _day(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (len(value) != HOURS or not max(value) > 0):
            raise ValueError(f"must hold {HOURS} rates, one above 0 (got {len(value)})")
        return value

    @field_validator("dispersion")
    @classmethod
    def _rising(cls, value: tuple[tuple[float, float, float], ...]) -> tuple[tuple[float, float, float], ...]:
        windows = [window for window, _, _ in value]
        if windows != sorted(set(windows)) or any(min(row) < 0 for row in value):
            raise ValueError("windows must rise and indices be >= 0")
        return value

    @property
    def prompts(self) -> TokenCounts:
        """The distribution of prompt lengths."""
        return _distribution(self.prompt_tokens)

    @property
    def outputs(self) -> TokenCounts:
        """The distribution of answer lengths."""
        return _distribution(self.output_tokens)

    def with_(self, **changes: Any) -> Workload:
        """The same workload with some keys changed; a new `burstiness` scales a measured `dispersion` along."""
        kept = {name: getattr(self, name) for name in Workload.model_fields} | changes
        if "burstiness" in changes and "dispersion" not in changes and self.dispersion and self.burstiness:
            ratio = changes["burstiness"] / self.burstiness
            kept["dispersion"] = tuple((x, n * ratio, w * ratio) for x, n, w in self.dispersion)
        return Workload(**kept)


class Slo(Spec):
    """Latency limits [s]: `percentile` [1] of the requests stay within both. Raises `SpecError`."""

    ttft_s: _Positive | None = None
    tpot_s: _Positive | None = None
    percentile: Annotated[float, Field(gt=0, lt=1)] = 0.9


def _tuples(value: Any) -> Any:
    """Lists of JSON and TOML as tuples."""
    return tuple(_tuples(one) for one in value) if isinstance(value, (list, tuple)) else value


def _distribution(tokens: int | TokenCounts) -> TokenCounts:
    return tokens if isinstance(tokens, TokenCounts) else TokenCounts.constant(float(tokens))
