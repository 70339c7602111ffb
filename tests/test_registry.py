"""The formula register refuses a data sheet that does not fit its function."""

from __future__ import annotations

import pytest

from perfmodel.errors import PlanError
from perfmodel.formulas import explain, formula, get_formula

SHEET = """One sentence.

    .. math:: T = x

    Symbols      {symbols}
    Valid for    {valid}
    Source       somebody 2020, "A title", eq. 1
    """


def register(symbols: str = "x  x [s] time;  returns [s]", valid: str = "x >= 0", doc: str | None = None):
    def law(x):
        return x

    law.__doc__ = SHEET.format(symbols=symbols, valid=valid) if doc is None else doc
    return formula(law)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": "y  y [s] time;  returns [s]"}, "do not match the signature"),
        ({"symbols": "x  x [s] time"}, "lacks 'returns"),
        ({"symbols": "x time; returns [s]"}, "cannot read"),
        ({"valid": "1 <= z <= 2"}, "not an argument"),
        ({"doc": "One sentence."}, "docstring lacks Symbols"),
        ({"doc": "A \x07lpha"}, "control character"),
    ],
)
def test_a_wrong_data_sheet_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register(**changes)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown unit 'GB'"):
        register(symbols="x  x [GB] size;  returns [s]")


def test_out_of_range_values_are_reported() -> None:
    found = list(get_formula("tiled_attention_compute_time").out_of_range(seq_len=131072))
    assert found == [
        {
            "formula": "tiled_attention_compute_time",
            "quantity": "seq_len",
            "value": 131072.0,
            "valid": "1 <= x <= 16384",
        }
    ]


def test_explain_reads_the_one_definition() -> None:
    sheet = explain("ring_all_reduce_time").to_dict()
    assert sheet["returns"]["unit"] == "s"
    assert "ranks" in sheet["expression"]
    assert r"\alpha" in sheet["latex"]
    with pytest.raises(PlanError, match="nearest: 'ring_all_reduce_time'"):
        explain("ring_allreduce_time")
