"""What it moves to turn a tensor's sharding on one group of ranks into another: a table from signatures to formulas."""

from __future__ import annotations

import re
from collections.abc import Callable

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.sharding import (
    disjoint_conversion_bytes,
    partial_to_broadcast_bytes,
    partial_to_split_bytes,
    split_to_broadcast_bytes,
    split_to_split_bytes,
)

__all__ = ["conversion_bytes"]

_SPLIT = re.compile(r"split\((\d+)\)")
_SIGNATURES = ("broadcast", "partial", "split(0)", "split(1)")
# Pairs that are not here move nothing on the same devices: ranks drop, zero or keep what they hold.
_SAME_DEVICES: dict[tuple[str, str], Callable[[float, float], float]] = {
    ("split", "split"): split_to_split_bytes,
    ("split", "broadcast"): split_to_broadcast_bytes,
    ("partial", "split"): partial_to_split_bytes,
    ("partial", "broadcast"): partial_to_broadcast_bytes,
}


def conversion_bytes(
    source: str, target: str, n_bytes: float, ranks: int, disjoint: bool = False, target_ranks: int | None = None
) -> float:
    """Bytes [B] that a group moves to turn `source` into `target`, each counted once, where it arrives.

    A signature is "split(AXIS)", "broadcast" or "partial"; `n_bytes` [B] is the whole tensor. With `disjoint` the
    target lives on `target_ranks` other devices (None: as many). Raises `PlanError` for an unknown signature and
    `OutOfRangeError` for sizes.

    >>> conversion_bytes("partial", "broadcast", 1024.0, ranks=4)
    6144.0
    """
    start, end = _kind("source", source), _kind("target", target)
    if not n_bytes >= 0:
        raise OutOfRangeError(f"n_bytes: got {n_bytes!r}; allowed: bytes >= 0")
    there = ranks if target_ranks is None else target_ranks
    for name, value in (("ranks", ranks), ("target_ranks", there)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OutOfRangeError(f"{name}: got {value!r}; allowed: whole numbers >= 1")
    if disjoint:
        return float(
            disjoint_conversion_bytes(n_bytes, ranks if start == "partial" else 1, there if end == "broadcast" else 1)
        )
    if there != ranks:
        raise PlanError(f"target_ranks: got {there} for {ranks} ranks; allowed: another number with disjoint=True only")
    law = None if source == target else _SAME_DEVICES.get((start, end))
    return 0.0 if law is None else float(law(n_bytes, ranks))


def _kind(key: str, signature: str) -> str:
    if signature in ("broadcast", "partial"):
        return signature
    if isinstance(signature, str) and _SPLIT.fullmatch(signature):
        return "split"
    raise PlanError(f"{key}: {unknown_name('signature', signature, _SIGNATURES)}")
