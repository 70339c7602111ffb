"""What a source scores when its own rows fixed nothing: its software generation is fitted again without them.

`python -m perfmodel.calibrate.leave_one_out` prints the figures, `--write` keeps them for `perfmodel validate`. A
generation whose other sources give no rows falls back on the number of the generation that it inherits from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from perfmodel.calibrate.software import Rows, calibrating_rows, fit_software
from perfmodel.specs.quantity import Quantity
from perfmodel.specs.software import Software, load_software
from perfmodel.validation.predictions import estimate_row
from perfmodel.validation.runner import LEFT_OUT
from perfmodel.validation.sources import Source, measured, model_of

__all__ = ["LeftOutFit", "left_out_fits", "main"]

# The generation whose overlap others inherit: the only one that kernel and layer tables calibrate.
ANCESTOR = "megatron-2022"
# Calibrated by hand from rows that the host bounds.
BY_HAND = ("megatron-2021",)
_HEAD = (
    "# Written by `python -m perfmodel.calibrate.leave_one_out --write`: the error of each source over its validated\n"
    "# rows when its generation is fitted without its calibrating rows.\n"
)


@dataclass(frozen=True)
class LeftOutFit:
    """`exposed_share` [1] of a generation without one source, what it rests on, and the MAPE [1] of that source."""

    source: str
    software: str
    exposed_share: float
    fitted_on: str
    error: float


def left_out_fits() -> Iterator[LeftOutFit]:
    """One fit for every source that calibrates a generation."""
    for software, rows in calibrating_rows().items():
        if software in BY_HAND:
            continue
        for source in {one.id: one for one, _ in rows}.values():
            share, basis = _share_without(software, source, rows)
            stack = load_software(software).model_copy(update={"exposed_share": Quantity(share)})
            yield LeftOutFit(source.id, software, share, basis, _error(source, software, stack))


def _share_without(software: str, source: Source, rows: Rows) -> tuple[float, str]:
    others = [(one, row) for one, row in rows if one.id != source.id]
    if not others:
        return float(load_software(ANCESTOR).exposed_share), f"{ANCESTOR}, whose overlap {software} inherits"
    fit = fit_software(software, others)
    return fit.exposed_share, f"{fit.rows} row{'s' if fit.rows > 1 else ''} of {' and '.join(fit.sources)}"


def _error(source: Source, software: str, stack: Software) -> float:
    rows = [row for row in source.rows if row.software == software and not row.calibrates]
    return fmean(abs(estimate_row(row, stack).step_time_s / measured(row, source, model_of(row)) - 1.0) for row in rows)


def main() -> None:
    """Print the figures, and with `--write` keep them."""
    text = _HEAD
    for fit in left_out_fits():
        print(f"{fit.source}: {100 * fit.error:.2f} % with exposed_share {fit.exposed_share:.3g}, from {fit.fitted_on}")
        text += f'\n[{fit.source}]\nsoftware = "{fit.software}"\nexposed_share = {fit.exposed_share:.4g}\n'
        text += f'fitted_on = "{fit.fitted_on}"\nerror_percent = {100 * fit.error:.2f}\n'
    if "--write" in sys.argv[1:]:
        LEFT_OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
