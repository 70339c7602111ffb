"""The ledger: every entry is complete, checkable claims are met, the others say why they are not checked."""

from __future__ import annotations

import pytest

from perfmodel.systems import ledger

KEYS = {"id", "n", "system", "capability", "scope", "status", "claim", "value", "unit", "error", "inputs", "command"}


@pytest.mark.parametrize("entry", ledger(), ids=lambda entry: entry["id"])
def test_entry(entry: dict) -> None:
    assert entry.keys() >= KEYS
    if entry["status"] == "checked":
        assert abs(entry["error"]) < 1e-3
    else:
        assert "checkable" in entry["status"]
        assert len(entry["status"]) > 40


def test_the_kernel_rows_are_there() -> None:
    assert {entry["n"] for entry in ledger()} >= {3, 80, 99, 142, 182, 237}
