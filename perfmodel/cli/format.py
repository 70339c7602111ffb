"""Numbers for people: the one place where base units become ms, GB, TFLOP/s, kWh and dollars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "bar",
    "byte_rate",
    "bytes_",
    "called",
    "carbon",
    "count",
    "energy",
    "flop_rate",
    "many",
    "percent",
    "power",
    "quantity",
    "seconds",
    "seconds_beside",
    "seconds_interval",
    "significant",
    "time_scale",
    "time_unit",
    "uneven_experts",
    "usd",
]

_SECONDS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_LARGE = {"min": 600.0, "h": 7200.0, "days": 172800.0}
_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_WORDS = ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"))
_EIGHTHS = "▏▎▍▌▋▊▉█"


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits, no exponent, thousands with commas.

    >>> [significant(x) for x in (0.01234, 6.1, 61.23, 1234.5)]
    ['0.0123', '6.10', '61.2', '1,234']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if round(abs(value), places) >= 10 ** (digits - places):  # 9.999 rounds up to one digit more
        places -= 1
    return f"{value:,.{min(max(places, 0), 12)}f}"


def seconds(value: float, digits: int = 3) -> str:
    """A time in the unit that suits it.

    >>> seconds(6.1), seconds(0.0123), seconds(4.7e6)
    ('6.10 s', '12.3 ms', '54.4 days')
    """
    scale, unit = time_scale(value)
    return f"{significant(value / scale, digits)} {unit}"


def seconds_interval(low: float, high: float) -> str:
    """Both ends of an interval in the unit of the upper one, `5.52 to 6.91 s`."""
    scale, unit = time_scale(high)
    return f"{significant(low / scale)} to {significant(high / scale)} {unit}"


def time_unit(value: float) -> str:
    """The unit in which `seconds` would write a time."""
    return time_scale(value)[1]


def seconds_beside(value: float, whole: float, digits: int = 4) -> str:
    """A time without its unit, in the unit and with the decimals of the `whole` it is part of.

    >>> seconds_beside(0.1153, 6.691), seconds_beside(6.691, 6.691)
    ('0.115', '6.691')
    """
    scale, _ = time_scale(whole)
    places = digits - 1 - math.floor(math.log10(whole / scale)) if whole > 0 else 3
    return f"{value / scale:,.{max(places, 0)}f}"


def time_scale(value: float) -> tuple[float, str]:
    """The unit in which `seconds` would write a time: its seconds and its name."""
    for scale, unit in _SECONDS:
        if abs(value) >= _LARGE.get(unit, scale * 0.9995):
            return scale, unit
    return (1.0, "s") if value == 0 else (1e-9, "ns")


def _si(value: float, unit: str, digits: int = 3) -> str:
    for scale, prefix in _SI:
        if abs(value) >= scale * 0.9995:
            return f"{significant(value / scale, digits)} {prefix}{unit}"
    return f"{significant(value, digits)} {unit}"


def bytes_(value: float) -> str:
    """Decimal bytes, `61.2 GB`."""
    return _si(value, "B")


def byte_rate(value: float) -> str:
    """`3.35 TB/s`."""
    return _si(value, "B/s")


def flop_rate(value: float) -> str:
    """`394 TFLOP/s`, never PFLOP/s below ten of them: that is how accelerators are compared."""
    if 1e12 <= abs(value) < 1e16:
        return f"{significant(value / 1e12)} TFLOP/s"
    return _si(value, "FLOP/s")


def energy(joules: float) -> str:
    """`12.3 kWh`, `11.4 GWh`; below a tenth of a watt-hour in joules."""
    return _si(joules, "J") if abs(joules) < 360 else _si(joules / 3600.0, "Wh")


def power(watts: float) -> str:
    """`700 W`, `11.2 MW`."""
    return _si(watts, "W")


def carbon(kg: float) -> str:
    """`12.3 kg CO2e`, `24.7 t CO2e`."""
    return f"{significant(kg / 1e3)} t CO2e" if abs(kg) >= 1e3 else f"{significant(kg)} kg CO2e"


def usd(value: float) -> str:
    """`$12.30`, `$47,300`, `$47.3 million`."""
    if abs(value) >= 1e6:
        return f"${count(value)}"
    if abs(value) >= 100:
        return f"${value:,.0f}"
    return f"${value:,.2f}" if abs(value) >= 0.1 else f"${significant(value, 2)}"


def called(reference: Any) -> str:
    """What a request names: an id, or that of a whole description."""
    return (
        str(reference.get("id") or reference.get("name") or reference.get("model_type") or "custom")
        if isinstance(reference, Mapping)
        else str(reference)
    )


def many(number: int, what: str) -> str:
    """One thing, or several: "1 replica", "12 replicas"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def count(value: float, digits: int = 3) -> str:
    """Whole below a million, then in words.

    >>> count(16384), count(15.6e12), count(310e9), count(2e9)
    ('16,384', '15.6 trillion', '310 billion', '2 billion')
    """
    for scale, word in _WORDS:
        if abs(value) >= scale:
            number = significant(value / scale, digits)
            return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{word}"
    return f"{value:,.0f}" if float(value).is_integer() else significant(value, digits)


def percent(share: float, *, signed: bool = False) -> str:
    """`39.8 %`."""
    return f"{100 * share:{'+' if signed else ''}.1f} %"


def bar(share: float, width: int, *, plain: bool = False) -> str:
    """A bar of `share` of `width` letters, to an eighth of a letter; `plain` uses # alone.

    >>> bar(0.5, 8), bar(0.5, 8, plain=True)
    ('████', '####')
    """
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if plain:
        return "#" * round(eighths / 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest - 1] if rest else "")


def quantity(key: str, value: float) -> str:
    """A number by the unit in its key (`hbm_byte_per_s`, `tdp_w`, `usd_per_hour`), as DESIGN section 3 names them.

    >>> quantity("hbm_byte_per_s", 3.35e12), quantity("peak_flop_per_s.bf16", 989.4e12)
    ('3.35 TB/s', '989 TFLOP/s')
    """
    name = next((part for part in reversed(key.split(".")) if "_" in part), key)
    for suffix, shown in (
        ("flop_per_s", flop_rate),
        ("byte_per_s", byte_rate),
        ("_bytes", bytes_),
        ("_j", energy),
        ("_w", power),
    ):
        if name.endswith(suffix):
            return shown(value)
    if name.startswith("usd_per_"):
        return f"{usd(value)} per {name.removeprefix('usd_per_')}"
    if name.endswith("_usd"):
        return usd(value)
    if name.endswith("_s") and not name.endswith("_per_s"):
        return seconds(value)
    return count(value)


def uneven_experts(experts: Mapping[str, Any], what: str = "a decode step") -> str:
    """What uneven experts cost, in one line.

    >>> uneven_experts({"ep": 8, "placed": "in order", "fullest_over_mean": 1.5, "leaving_node": 1.0, "slowdown": 1.2})
    'experts placed in order on 8 ranks: fullest rank 1.500 of the mean; a decode step takes 1.200 of a balanced one'
    """
    leaving, fullest = experts["leaving_node"], experts["fullest_over_mean"]
    crossing = "" if leaving == 1 else f", {leaving:.2f} of even traffic leaves its node"
    words = {"given": "as unevenly loaded as given", "the plan's placement": "in the plan's placement"}
    placed = words.get(experts["placed"], f"placed {experts['placed']}")
    return (
        f"experts {placed} on {experts['ep']} ranks: fullest rank {fullest:.3f} of the mean{crossing}; "
        f"{what} takes {experts['slowdown']:.3f} of a balanced one"
    )
