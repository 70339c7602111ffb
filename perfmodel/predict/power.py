"""Watts of accelerators and servers from what they do, at any clock and under any cap.

Any prediction that knows how busy compute, memory and links are gets its watts from `accelerator_watts`; every function
takes floats or float64 arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.dual import plain
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.power import (
    accelerator_power,
    activity_energy,
    clock_dynamic_ratio,
    idle_gap_time_at_clock,
)
from perfmodel.predict.cost import Draw, Node, total
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.power import PowerSet, load_power_set, power_set_of
from perfmodel.specs.quantity import Quantity

__all__ = [
    "CappedJob",
    "DevicePower",
    "ServerPower",
    "accelerator_watts",
    "capped_job",
    "clock_under_cap",
    "device_power_of",
    "dynamic_ratio",
    "power_at_clock",
    "server_power_of",
    "watts_of_work",
]

Number = Any
_LOWEST_CLOCK, _HALVINGS = 0.05, 50


def accelerator_watts(
    power: PowerSet,
    *,
    compute_share: Number = 0.0,
    memory_share: Number = 0.0,
    link_share: Number = 0.0,
    active_share: Number = 1.0,
    clock_ratio: Number = 1.0,
    cap_w: Number | None = None,
) -> Number:
    """Draw of one accelerator [W], held at its limit or at `cap_w` if that is less.

    Shares [1] are of the dense peak, the memory bandwidth and the link bandwidth, as means over the time asked about;
    `active_share` is the part of that time in which any kernel runs.
    """
    watts = accelerator_power(
        static_w=float(power.static_w),
        idle_w=float(power.idle_w),
        active_w=float(power.active_w),
        hbm_w=float(power.hbm_w),
        tensor_w=float(power.tensor_w),
        link_w=float(power.link_w),
        active_share=active_share,
        memory_share=memory_share,
        compute_share=compute_share,
        link_share=link_share,
        dynamic_ratio=dynamic_ratio(power, clock_ratio),
    )
    limit = float(power.limit_w) if cap_w is None else np.minimum(cap_w, float(power.limit_w))
    return np.minimum(watts, limit)


def watts_of_work(
    power: PowerSet,
    seconds: Number,
    *,
    compute_s: Number = 0.0,
    memory_s: Number = 0.0,
    link_s: Number = 0.0,
    busy_s: Number | None = None,
    clock_ratio: Number = 1.0,
) -> Number:
    """Mean draw of one accelerator [W] over `seconds` [s] of a prediction: the hook for training and serving.

    `compute_s`, `memory_s` and `link_s` [s] are how long the work would take each resource at its data-sheet peak (flop
    over dense peak, bytes over bandwidth); `busy_s` [s] is how long any kernel runs, all the time without it.
    Energy is this times `seconds`; floats or arrays.
    """
    whole = np.maximum(seconds, 1e-300)
    return accelerator_watts(
        power,
        compute_share=np.minimum(compute_s / whole, 1.0),
        memory_share=np.minimum(memory_s / whole, 1.0),
        link_share=np.minimum(link_s / whole, 1.0),
        active_share=1.0 if busy_s is None else np.minimum(busy_s / whole, 1.0),
        clock_ratio=clock_ratio,
    )


@dataclass(frozen=True)
class DevicePower:
    """What an accelerator draws under a prediction [W]: waiting, in any kernel, and at its limit."""

    power: PowerSet
    draw: Draw

    @property
    def idle_w(self) -> float:
        """Without any kernel."""
        return plain(self.power.idle_w)

    @property
    def active_w(self) -> float:
        """More while a kernel runs, if it only polls."""
        return min(plain(self.power.active_w), plain(self.power.limit_w) - self.idle_w)

    @property
    def room_w(self) -> float:
        """From a kernel that only polls to the limit."""
        return plain(self.power.limit_w) - self.idle_w - self.active_w

    def energy_j(self, seconds: Number, host_wait_s: Number, at_full_draw_s: Number) -> Number:
        """Energy of one accelerator [J]; floats or arrays."""
        return activity_energy(seconds, seconds - host_wait_s, at_full_draw_s, self.idle_w, self.active_w, self.room_w)

    def mean_w(self, node: Node) -> Number:
        """Mean draw of one accelerator over a term [W]; 0 over no time."""
        seconds = plain(node.cost.seconds)
        leaves = list(node.leaves())
        waits = plain(total(leaf.cost for leaf in leaves if leaf.bound_by == "host").seconds)
        loaded = sum(plain(leaf.cost.at_full_draw(self.draw)) for leaf in leaves)
        return plain(self.energy_j(seconds, waits, loaded)) / seconds if seconds > 0 else 0.0

    @property
    def fitted(self) -> PowerSet:
        """The set whose coefficients were measured: its own, or that of the accelerator it was scaled from."""
        return self.power if self.power.relative is None else load_power_set(self.power.relative)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken from another accelerator."""
        if self.power.relative is None:
            return ()
        return (f"power: that of {self.power.relative} in the ratio of the power limits",)


def device_power_of(
    accelerator: Accelerator, compute_reached: float, memory_reached: float, power: PowerSet | None = None
) -> DevicePower:
    """A power set (default: the accelerator's) for costs whose kernels reach these shares of the peaks [1]."""
    power = power_set_of(accelerator) if power is None else power
    found = DevicePower(power, Draw(0.0, 0.0, 0.0))
    room = max(found.room_w, 1e-9)
    weights = compute_reached * plain(power.tensor_w), memory_reached * plain(power.hbm_w), plain(power.link_w)
    return DevicePower(power, Draw(*(watts / room for watts in weights)))


def power_at_clock(power: PowerSet, clock_ratio: float) -> PowerSet:
    """The set of the same device held at a lower clock [1]: its static power, memory and links draw as before.

    `tensor_w` is then what arithmetic draws at the peak of that clock (`accelerator_power` with its dynamic ratio).
    """
    kept, static = float(dynamic_ratio(power, clock_ratio)), float(power.static_w)
    how = f"at {clock_ratio:.4g} of the clock"
    watts = {
        "idle_w": static + (float(power.idle_w) - static) * kept,
        "active_w": float(power.active_w) * kept,
        "tensor_w": float(power.tensor_w) * kept,
    }
    return power.model_copy(
        update={name: Quantity(w, source="perfmodel", kind="derived", derived=how) for name, w in watts.items()}
    )


def dynamic_ratio(power: PowerSet, clock_ratio: Number) -> Number:
    """Dynamic power at a clock over that at full clock [1]."""
    return clock_dynamic_ratio(clock_ratio, float(power.voltage_slope), float(power.voltage_floor))


def clock_under_cap(power: PowerSet, cap_w: Number, busy_w: Number | None = None) -> Number:
    """Clock over full clock [1] at which work that draws `busy_w` at full clock draws `cap_w`; at least 0.05.

    The law of dynamic power is a cubic with a knee, so its inverse is found by bisection to 2^-50.
    """
    static = float(power.static_w)
    full = np.maximum(power.busy_w if busy_w is None else busy_w, static + 1e-9)
    wanted = np.clip((np.asarray(cap_w, dtype=float) - static) / (full - static), 0.0, 1.0)
    low, high = np.full(wanted.shape, _LOWEST_CLOCK), np.ones(wanted.shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = dynamic_ratio(power, middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(wanted >= 1.0, 1.0, high)


@dataclass(frozen=True)
class CappedJob:
    """A job under a cap beside itself without: time and energy ratios [1], clock ratio [1], mean draw [W]."""

    time_ratio: Number
    energy_ratio: Number
    clock_ratio: Number
    mean_w: Number


def capped_job(power: PowerSet, mean_w: Number, cap_w: Number) -> CappedJob:
    """A job that draws `mean_w` without a cap, under `cap_w`: it works at `busy_w` or waits at `idle_w`.

    How much of its time follows the clock is read from its mean draw alone, so nothing is fitted to a job.
    """
    busy = np.maximum(power.busy_w, mean_w)
    low = np.minimum(float(power.idle_w), mean_w)
    busy_s = np.clip((mean_w - low) / np.maximum(busy - low, 1e-9), 0.0, 1.0)
    clock = clock_under_cap(power, cap_w, busy)
    seconds = idle_gap_time_at_clock(busy_s, 1.0 - busy_s, clock)
    joules = (1.0 - busy_s) * low + busy_s / clock * np.minimum(busy, cap_w)
    return CappedJob(seconds, joules / mean_w, clock, joules / seconds)


@dataclass(frozen=True)
class ServerPower:
    """One server: its accelerators' set, how many, most and idle power at the inlet [W], and their clocks [Hz]."""

    id: str
    power: PowerSet
    accelerators: int
    max_w: float
    idle_w: float

    @property
    def accelerator_share(self) -> float:
        """Share of the server's full power that its accelerators draw [1]."""
        return self.accelerators * float(self.power.limit_w) / self.max_w

    def kept_share(self, clock_ratio: Number) -> Number:
        """Power at a clock over power at full clock [1], when the accelerators are busy; the rest draws as before."""
        power = self.power
        dynamic = (float(power.limit_w) - float(power.static_w)) / float(power.limit_w)
        return 1.0 - self.accelerator_share * dynamic * (1.0 - dynamic_ratio(power, clock_ratio))

    def clock_ratio(self, hz: float, key: str) -> float:
        """A clock as a share of the full one [1]; raises `OutOfRangeError` outside the device's range."""
        full, lowest = self.power.clock_hz, self.power.min_clock_hz
        if full is None or lowest is None:
            raise PlanError(f"{key}: the power set of {self.power.id} has no clocks; give clock_hz and min_clock_hz")
        if not float(lowest) <= hz <= float(full):
            allowed = f"{float(lowest) / 1e6:g} to {float(full) / 1e6:g} MHz"
            hint = "; clocks are in Hz" if hz < 1e5 else ""
            raise OutOfRangeError(f"{key}: must be a clock of {self.power.id}, {allowed} (got {hz / 1e6:g} MHz){hint}")
        return hz / float(full)


def server_power_of(cluster: Cluster) -> ServerPower:
    """A node of the cluster: its accelerators at their limit and at idle, and the rest of the server.

    `server_overhead_w` is known at full load alone, so `idle_w` is that of the accelerators: the least it can be.
    """
    part, n = cluster.accelerator, cluster.accelerators_per_node
    rest = n * float(cluster.server_overhead_w)
    return ServerPower(
        id=cluster.id,
        power=power_set_of(part),
        accelerators=n,
        max_w=n * float(part.tdp_w) + rest,
        idle_w=n * float(part.idle_w),
    )
