"""What one accelerator draws: a set of coefficients beside its data sheet, with how each was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from perfmodel.specs import registry
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.quantity import Quantity, QuantityOrZero, SourcedSpec

__all__ = ["DEFAULT_POWER_SET", "PowerSet", "full_clock_hz", "load_power_set", "power_set_of"]

DEFAULT_POWER_SET = "h100-sxm"
_SCALED = ("static_w", "idle_w", "active_w", "hbm_w", "tensor_w", "link_w")


class PowerSet(SourcedSpec):
    """Power of one accelerator by activity and clock. Raises `SpecError`.

    `limit_w` [W] is what the device holds by itself; `static_w` [W] remains at no clock and `idle_w` [W] at full
    clocks, both with a process on the device. `active_w`, `hbm_w`, `tensor_w`, `link_w` [W] come on top while a kernel
    runs, at the full memory bandwidth, at the dense peak and at the full link bandwidth. Dynamic power follows clock
    times voltage squared: `voltage_slope` [1] is relative voltage per relative clock, down to `voltage_floor` [1].
    `clock_hz`, `min_clock_hz` [Hz] bound what can be set.
    """

    id: str = "custom"
    name: str = ""
    relative: str | None = None
    """Id of the set that stood in, for one that has none of its own."""
    limit_w: Quantity
    static_w: QuantityOrZero
    idle_w: Quantity
    active_w: QuantityOrZero
    hbm_w: QuantityOrZero
    tensor_w: QuantityOrZero
    link_w: QuantityOrZero
    voltage_slope: QuantityOrZero
    voltage_floor: Quantity
    clock_hz: Quantity | None = None
    min_clock_hz: Quantity | None = None

    @property
    def busy_w(self) -> float:
        """Draw of clock-bound work at full clocks [W]: the device's own limit at most."""
        return min(float(self.limit_w), float(self.idle_w) + float(self.active_w) + float(self.tensor_w))

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> PowerSet:
        if self.static_w > self.idle_w:
            raise ValueError(f"static_w: must be at most idle_w, {float(self.idle_w):g} (got {float(self.static_w):g})")
        if self.idle_w > self.limit_w:
            raise ValueError(f"idle_w: must be at most limit_w, {float(self.limit_w):g} (got {float(self.idle_w):g})")
        if self.voltage_floor > 1:
            raise ValueError(f"voltage_floor: must be at most 1 (got {float(self.voltage_floor):g})")
        if (self.clock_hz is None) != (self.min_clock_hz is None):
            raise ValueError("clock_hz, min_clock_hz: come together or not at all")
        if self.clock_hz is not None and self.min_clock_hz is not None and self.min_clock_hz > self.clock_hz:
            raise ValueError(f"min_clock_hz: must be at most clock_hz, {float(self.clock_hz):g}")
        return self


def load_power_set(what: str | Path | Mapping[str, Any] | PowerSet) -> PowerSet:
    """The power set of that id, path or dict; raises `SpecError`.

    >>> float(load_power_set("h100-sxm").limit_w)
    700.0
    """
    return registry.load("power", what, PowerSet)


def power_set_of(accelerator: str | Accelerator) -> PowerSet:
    """The accelerator's own set, or the default one scaled to its limit, which `relative` then names."""
    part = load_accelerator(accelerator)
    for id in (part.id, part.relative):
        if id in registry.ids("power"):
            own = load_power_set(id)
            return own if own.limit_w == part.tdp_w and id == part.id else _scaled(own, part)
    return _scaled(load_power_set(DEFAULT_POWER_SET), part)


def full_clock_hz(power: PowerSet) -> float | None:
    """Its full clock [Hz]; None where it is not known, as of a set that was scaled from another accelerator's."""
    return None if power.clock_hz is None or power.relative is not None else float(power.clock_hz)


def _scaled(given: PowerSet, part: Accelerator) -> PowerSet:
    """Every coefficient in the ratio of the limits; the idle power is the part's own where that is more."""
    ratio = float(part.tdp_w) / float(given.limit_w)
    how = f"{given.id} times {ratio:.4g}, the ratio of the power limits"
    numbers: dict[str, Any] = {
        name: Quantity(float(getattr(given, name)) * ratio, source="perfmodel", kind="derived", derived=how)
        for name in _SCALED
    }
    idle = min(max(float(numbers["idle_w"]), float(part.idle_w)), float(part.tdp_w))
    numbers["idle_w"] = Quantity(idle, source="perfmodel", kind="derived", derived=f"{how}, or its own idle power")
    for name in ("voltage_slope", "voltage_floor", "clock_hz", "min_clock_hz"):
        numbers[name] = getattr(given, name)
    limit = Quantity(float(part.tdp_w), source="perfmodel", kind="derived", derived="tdp_w of the accelerator")
    return PowerSet(id=part.id, name=part.name, relative=given.id, limit_w=limit, sources=given.sources, **numbers)
