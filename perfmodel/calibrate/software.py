"""The one number of a software generation that its calibrating rows determine: what an overlap leaves visible.

`python -m perfmodel.calibrate.software` prints the fits, `--write` puts them into `hardware_specs/software`. Which rows
calibrate is decided in `published/roles.toml`, by rules that name sizes and layouts, on at most a tenth of a source.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import date

import numpy as np
from scipy.optimize import least_squares

from perfmodel.specs import registry
from perfmodel.specs.quantity import Quantity
from perfmodel.specs.software import load_software
from perfmodel.validation.predictions import estimate_row
from perfmodel.validation.sources import Row, Source, load_sources, measured, model_of

__all__ = ["SoftwareFit", "calibrating_rows", "fit_software", "main", "write_fit"]

Rows = list[tuple[Source, Row]]


@dataclass(frozen=True)
class SoftwareFit:
    """`exposed_share` [1] of a generation and the rows of each source that gave it.

    `url` is the address of the first source, `error` the mean |ln(predicted / measured)| that remains.
    """

    software: str
    exposed_share: float
    sources: dict[str, int]
    url: str
    error: float

    @property
    def rows(self) -> int:
        """Rows of all sources."""
        return sum(self.sources.values())


def calibrating_rows() -> dict[str, Rows]:
    """Rows that calibrate, by the software generation that ran them; only times of steps."""
    found: dict[str, Rows] = {}
    for source in load_sources().values():
        if source.quantity == "step time" and source.role == "validate":
            for row in source.rows:
                if row.calibrates:
                    found.setdefault(row.software, []).append((source, row))
    return found


def fit_software(software: str, rows: Rows) -> SoftwareFit:
    """Least squares of ln(predicted / measured) over `exposed_share` in [0, 1]."""
    base = load_software(software)

    def residuals(values: np.ndarray) -> np.ndarray:
        share = Quantity(float(values[0]))
        stack = base.model_copy(update={"exposed_share": share})
        return np.array(
            [
                np.log(estimate_row(row, stack).step_time_s / measured(row, source, model_of(row)))
                for source, row in rows
            ]
        )

    found = least_squares(residuals, [0.5], bounds=([1e-3], [1.0]))
    return SoftwareFit(
        software,
        float(f"{found.x[0]:.3g}"),
        dict(Counter(source.id for source, _ in rows)),
        rows[0][0].url,
        float(np.mean(np.abs(found.fun))),
    )


def write_fit(fit: SoftwareFit) -> None:
    """Put a fit into the file of its generation, with where it comes from."""
    path = registry.path_of("software", fit.software)
    entry = (
        f'exposed_share = {{ value = {fit.exposed_share:.4g}, source = "calibration", where = "{fit.rows} rows of '
        f'{" and ".join(fit.sources)}", kind = "derived", checked = "{date.today()}", derived = "least squares of '
        f"the step times that published/roles.toml gives to calibration, mean error {100 * fit.error:.1f} %; "
        f'perfmodel.calibrate.software" }}'
    )
    text = re.sub(r"^exposed_share = .*$", entry, path.read_text(encoding="utf-8"), flags=re.M)
    if "[sources.calibration]" not in text:
        title = "published step times, perfmodel/validation/published/training"
        text = text.rstrip("\n") + f'\n\n[sources.calibration]\ntitle = "{title}"\nurl = "{fit.url}"\n'
    named = ", ".join(f'"{source}, {count} row{"s" * (count > 1)}"' for source, count in fit.sources.items())
    text = re.sub(r"^calibrated_on = .*$", f"calibrated_on = [{named}]", text, flags=re.M)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Print, and with `--write` keep, the fit of every generation that has rows to calibrate on."""
    for software, rows in calibrating_rows().items():
        if software.startswith("megatron-2021"):
            continue  # its rows are host-bound and fix host_layer_s, by hand
        fit = fit_software(software, rows)
        print(
            f"{fit.software}: exposed_share {fit.exposed_share:.3g} from {fit.rows} rows, error {100 * fit.error:.1f} %"
        )
        if "--write" in sys.argv[1:]:
            write_fit(fit)


if __name__ == "__main__":
    main()
