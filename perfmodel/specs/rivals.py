"""Keys of a question that say the same in different ways: one of a group is given, and a new one replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RIVALS", "replaced"]

RIVALS = (
    ("concurrency", "arrival_rate_per_s", "load"),
    ("region", "carbon_kg_per_kwh", "carbon_by_hour"),
    ("expert_imbalance", "expert_loads", "expert_placement"),
)


def replaced(written: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was written, without what the given values stand instead of, and with them; None gives nothing."""
    beaten = {key for keys in RIVALS if any(given.get(key) is not None for key in keys) for key in keys}
    return {key: value for key, value in written.items() if key not in beaten} | dict(given)
