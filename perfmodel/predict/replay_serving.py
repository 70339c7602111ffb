"""A replay of one serving replica, iteration by iteration: what closed forms of queueing are compared with.

Only tests and validation call it. Requests are served in the order of a trace while places and blocks last, prompts in
chunks beside running answers (or alone, where the software does not mix phases); a prompt takes its blocks when its
first chunk is computed, and an answer that finds no block is sent back and computed again. Each iteration takes what
the same `Engine` says, read off a grid; steps between two events are taken at once.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load
from perfmodel.specs.trace import Requests

__all__ = ["IterationCosts", "Replayed", "replay"]

_BATCHES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0, 2048.0)
_TOKENS = (1.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0)
_CONTEXTS = (8.0, 128.0, 512.0, 2048.0, 8192.0, 32768.0, 131072.0)
_LENGTHS = (1.0, 512.0, 2048.0, 8192.0, 32768.0, 131072.0)


@dataclass(frozen=True)
class Replayed:
    """Latencies [s] of each request [request], and what the replica did."""

    ttft_s: np.ndarray
    tpot_s: np.ndarray
    """Not a number where an answer is one token."""
    latency_s: np.ndarray
    duration_s: float
    mean_in_flight: float
    preemptions: int
    iterations: int


class IterationCosts:
    """Seconds of an iteration of a replica, linear between the points of a grid."""

    def __init__(self, engine: Engine, max_batch: float, max_tokens: float) -> None:
        self.batches = _up_to(_BATCHES, max_batch)
        self.tokens = _up_to(_TOKENS, max_tokens)
        software = engine.software
        self.mixes, self.prompt_s = software.mixes_phases, float(software.prompt_s)
        self._decode = _decode_grid(engine, self.batches)
        self._mixed = _mixed_grid(engine, self.batches, self.tokens)

    def decode_s(self, batch: float, length: float) -> float:
        """One token for `batch` sequences over `length` tokens each."""
        i, u = _place(self.batches, batch)
        j, v = _place(_LENGTHS, length)
        low, high = self._decode[i], self._decode[i + 1]
        return (1 - u) * ((1 - v) * low[j] + v * low[j + 1]) + u * ((1 - v) * high[j] + v * high[j + 1])

    def iteration_s(self, tokens: float, context: float, firsts: float, batch: float, length: float) -> float:
        """`tokens` of prompts, each over `context` tokens on average, `firsts` of which end, among `batch` answers."""
        batch = batch if self.mixes else 0.0
        i, u = _place(self.tokens, tokens)
        j, v = _place(_CONTEXTS, context)
        k, w = _place(self.batches, batch)
        found = 0.0
        for first, share in ((i, 1 - u), (i + 1, u)):
            for second, part in ((j, 1 - v), (j + 1, v)):
                row = self._mixed[first][second]
                found += share * part * ((1 - w) * row[k] + w * row[k + 1])
        # The grid holds answers without a cache; their attention is that of a decode step.
        read_s = self.decode_s(batch, length) - self.decode_s(batch, 1.0) if batch else 0.0
        return found + read_s + firsts * self.prompt_s


def _up_to(grid: tuple[float, ...], most: float) -> tuple[float, ...]:
    inside = tuple(value for value in grid if value < most)
    return (*inside, most) if most > inside[0] else (*inside, 2.0 * most)


def _place(grid: tuple[float, ...], value: float) -> tuple[int, float]:
    at = min(max(bisect_right(grid, value) - 1, 0), len(grid) - 2)
    return at, max(0.0, (value - grid[at]) / (grid[at + 1] - grid[at]))


def _decode_grid(engine: Engine, batches: tuple[float, ...]) -> list[list[float]]:
    batch, length = np.meshgrid(np.maximum(batches, 1.0), _LENGTHS, indexing="ij")
    seconds = engine.decode(batch.ravel(), length.ravel()).cost.seconds
    return [[float(value) for value in row] for row in np.reshape(seconds, batch.shape)]


def _mixed_grid(engine: Engine, batches: tuple[float, ...], tokens: tuple[float, ...]) -> list[list[list[float]]]:
    alone = _mixed(engine, (0.0,), tokens)
    return [
        [[first[0], *others] for first, others in zip(*rows, strict=True)]
        for rows in zip(alone, _mixed(engine, batches[1:], tokens), strict=True)
    ]


def _mixed(engine: Engine, batches: tuple[float, ...], tokens: tuple[float, ...]) -> list[list[list[float]]]:
    total, context, batch = (axis.ravel() for axis in np.meshgrid(tokens, _CONTEXTS, batches, indexing="ij"))
    # One chunk of all tokens after a past, or, where the context is shorter than such a chunk has, several alone.
    several = context < total / 2
    prompts = np.where(several, total / (2 * context), 1.0)
    each = total / prompts
    past = np.where(several, 0.0, context - each / 2)
    seconds = engine.iteration(Load(prompts, each, past, batch, 1.0, 0.0)).cost.seconds
    shaped = np.reshape(np.broadcast_to(seconds, total.shape), (len(tokens), len(_CONTEXTS), len(batches)))
    found: list[list[list[float]]] = shaped.tolist()
    return found


@dataclass
class _Replica:
    """The state of a replica between two iterations; token counts include what is generated."""

    costs: IterationCosts
    requests: Requests
    limit: int
    capacity: float
    budget: int
    block: int
    now: float = 0.0
    step: int = 0
    held: float = 0.0
    waiting: deque[int] = field(default_factory=deque)
    filling: list[int] = field(default_factory=list)
    running: list[tuple[int, int]] = field(default_factory=list)
    preemptions: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        count = len(self.requests.prompt_tokens)
        self.prompt = self.requests.prompt_tokens.tolist()
        self.output = self.requests.output_tokens.tolist()
        self.done = self.requests.cached_tokens.tolist()
        self.emitted = [0] * count
        self.first = [float("nan")] * count
        self.last = [float("nan")] * count
        self.began = [0] * count
        self.before = [0] * count

    def chunks(self) -> list[tuple[int, int]]:
        """What the next iteration takes of prompts, (request, tokens): begun ones, then waiting ones in order.

        A prompt takes a place and all its blocks when it begins; one may always begin.
        """
        left = self.budget - (len(self.running) if self.costs.mixes else 0)
        found = []
        for one in self.filling:
            found.append((one, min(self.prompt[one] - self.done[one], max(1, left))))
            left -= found[-1][1]
            if left <= 0:
                return found
        while self.waiting and left > 0 and len(self.running) + len(self.filling) < self.limit:
            one = self.waiting[0]
            needs = self._padded(self.prompt[one])
            if self.held + needs > self.capacity and (self.running or self.filling):
                break
            self.held += needs
            self.filling.append(self.waiting.popleft())
            found.append((one, min(self.prompt[one] - self.done[one], left)))
            left -= found[-1][1]
        return found

    def _padded(self, tokens: int) -> float:
        return tokens + self.block / 2

    def fill(self, chunks: list[tuple[int, int]]) -> None:
        """One iteration with these chunks of prompts."""
        batch, length = len(self.running), self._mean_length()
        tokens = sum(chunk for _, chunk in chunks)
        reached = sum(chunk * (self.done[one] + chunk / 2) for one, chunk in chunks)
        for one, chunk in chunks:
            self.done[one] += chunk
        ended = [one for one, _ in chunks if self.done[one] == self.prompt[one]]
        self.now += self.costs.iteration_s(tokens, reached / tokens, len(ended), batch, length)
        self.iterations += 1
        if self.costs.mixes:
            self._answer(1)
        for one in ended:
            self.filling.remove(one)
            self._begin(one)

    def _mean_length(self) -> float:
        """Tokens in the cache of a running answer."""
        batch = len(self.running)
        filled = sum(self._padded(self.prompt[one]) for one in self.filling)
        return max(1.0, (self.held - filled) / batch - self.block / 2) if batch else 1.0

    def decode(self, next_arrival: float) -> None:
        """Steps until an answer ends or a request arrives."""
        batch = len(self.running)
        length, most = self._mean_length(), self.running[0][0] - self.step
        each = self.costs.decode_s(batch, length)
        steps = most
        if next_arrival < float("inf"):
            steps = max(1, min(most, int(-(-(next_arrival - self.now) // each))))
        room = int((self.capacity - self.held) // batch)
        steps = max(1, min(steps, room)) if room > 0 else 1
        self.now += steps * self.costs.decode_s(batch, length + (steps - 1) / 2)
        self.iterations += steps
        self._answer(steps)

    def _answer(self, steps: int) -> None:
        """Every running answer gets `steps` tokens; those that are complete leave."""
        self.step += steps
        self.held += steps * len(self.running)
        while self.running and self.running[0][0] <= self.step:
            _, one = heapq.heappop(self.running)
            self._leave(one)
        while self.held > self.capacity and len(self.running) > 1:
            self._send_back()

    def _begin(self, one: int) -> None:
        """The first token of an answer (or the next, where it was sent back)."""
        if self.emitted[one] == 0:
            self.first[one] = self.now
        self.before[one] = self.emitted[one]
        self.emitted[one] += 1
        self.held += 1
        self.began[one] = self.step
        if self.emitted[one] >= self.output[one]:
            self._leave(one)
        else:
            heapq.heappush(self.running, (self.step + self.output[one] - self.emitted[one], one))

    def _leave(self, one: int) -> None:
        self.last[one] = self.now
        self.held -= self._padded(self.prompt[one]) + self.output[one] - self.before[one]

    def _send_back(self) -> None:
        """The answer that began last gives up its blocks; what it said becomes part of its prompt."""
        at = max(range(len(self.running)), key=lambda i: (self.began[self.running[i][1]], self.running[i][1]))
        ends, one = self.running.pop(at)
        heapq.heapify(self.running)
        self.emitted[one] = self.output[one] - (ends - self.step)
        said = self.emitted[one] - self.before[one]
        self.held -= self._padded(self.prompt[one]) + said
        self.prompt[one] += said
        self.done[one] = 0
        self.waiting.appendleft(one)
        self.preemptions += 1


def replay(
    costs: IterationCosts, requests: Requests, *, limit: float, capacity_tokens: float, max_batched_tokens: float,
    block_tokens: float = 16, request_s: float = 0.0,
) -> Replayed:  # fmt: skip
    """Serve every request of a trace with times; `limit` places, `capacity_tokens` of cache. Returns `Replayed`."""
    one = _Replica(costs, requests, int(limit), capacity_tokens, int(max_batched_tokens), int(block_tokens))
    arrivals = requests.arrival_s.tolist()
    at, count = 0, len(arrivals)
    while at < count or one.waiting or one.filling or one.running:
        while at < count and arrivals[at] <= one.now:
            one.waiting.append(at)
            at += 1
        if chunks := one.chunks():
            one.fill(chunks)
        elif one.running:
            one.decode(arrivals[at] if at < count else float("inf"))
        else:
            one.now = arrivals[at]
    arrived, first, last = np.array(arrivals), np.array(one.first), np.array(one.last)
    steps = np.array(requests.output_tokens, dtype=float) - 1.0
    latency = last - arrived
    return Replayed(
        first - arrived + request_s, np.where(steps > 0, (last - first) / np.maximum(steps, 1.0), np.nan),
        latency + request_s, one.now, float(latency.sum() / one.now), one.preemptions, one.iterations,
    )  # fmt: skip
