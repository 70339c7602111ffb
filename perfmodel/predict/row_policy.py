"""What a row does when its power rises: thresholds, clocks by priority, latencies; and what that costs the work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.formulas.power import time_at_clock
from perfmodel.predict.power import ServerPower

__all__ = ["RowPolicy", "quantile_of"]


@dataclass(frozen=True)
class RowPolicy:
    """Caps in steps: past threshold i of the budget, priority p runs at `clocks[p][i]` (ratios of the full clock).

    `shares` [1] of the servers by priority sum to one; a cap holds `frequency_s` after it is ordered and is lifted
    `hysteresis` below its threshold; past `brake_at` everything falls to `brake_clock` within `brake_s`.
    `clock_bound_share` [1] of the time of each priority follows the clock.
    """

    thresholds: tuple[float, ...]
    shares: dict[str, float]
    clocks: dict[str, tuple[float, ...]]
    clock_bound_share: dict[str, float]
    frequency_s: float = 40.0
    brake_s: float = 5.0
    hysteresis: float = 0.05
    brake_at: float = 1.0
    brake_clock: float = 288.0 / 1410.0

    def with_thresholds(self, thresholds: tuple[float, ...]) -> RowPolicy:
        """The same policy with other thresholds."""
        return replace(self, thresholds=thresholds)

    def kept(self, server: ServerPower) -> NDArray[np.float64]:
        """Power of the row in each state over its power without caps [1]: no cap, past threshold 1, 2, ..., brake."""
        states = [self._kept(server, {name: 1.0 for name in self.shares})]
        for step in range(len(self.thresholds)):
            states.append(self._kept(server, {name: clocks[step] for name, clocks in self.clocks.items()}))
        states.append(self._kept(server, {name: self.brake_clock for name in self.shares}))
        return np.array(states)

    def _kept(self, server: ServerPower, clocks: dict[str, float]) -> float:
        return sum(share * float(server.kept_share(clocks[name])) for name, share in self.shares.items())

    def slowdowns(self, priority: str) -> NDArray[np.float64]:
        """How much longer requests of a priority take in each state, less one [1]; in the order of `kept`."""
        clocks = np.array([1.0, *self.clocks[priority], self.brake_clock])
        slowed: NDArray[np.float64] = time_at_clock(1.0, self.clock_bound_share[priority], clocks) - 1.0
        return slowed


def quantile_of(values: NDArray[np.float64], shares: NDArray[np.float64], at: float) -> float:
    """The smallest value below which a share `at` of the work lies; `shares` [1] sum to one."""
    order = np.argsort(values)
    reached = np.cumsum(shares[order]) >= at - 1e-12
    return float(values[order][int(np.argmax(reached))]) if reached.any() else float(values[order][-1])
