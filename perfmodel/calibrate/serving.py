"""The host's numbers of a serving generation, from the rows that its tables give to calibration.

`python -m perfmodel.calibrate.serving [--write]`: `step_s`, `sequence_s`, `prompt_s` and `request_s` by least mean
|ln(predicted / measured)|; everything else of an iteration stands fixed by kernel tables.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from scipy.optimize import minimize

from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.estimate import operating_point
from perfmodel.predict.serving.task import ServingTask
from perfmodel.specs import registry
from perfmodel.specs.quantity import Quantity
from perfmodel.validation.serving_rows import ServingRow, load_serving_rows, serving_sources, serving_task_of, value_of

__all__ = ["FITTED", "fit_generation"]

FITTED = ("step_s", "sequence_s", "prompt_s", "request_s")
# Middle and reach of what each may plausibly be [s]; the fit leaves the middle only where rows ask for it.
_START = (5e-4, 2e-5, 2e-3, 1e-2)
_STATIC = ("step_s", "request_s")
_SERIAL = ("step_s", "sequence_s", "request_s")
_PULL = 0.002


def fit_generation(software: str) -> tuple[dict[str, float], float, int]:
    """The numbers of a generation, the mean |ln| that they reach, and how many rows fixed them."""
    rows = [row for id in serving_sources() for row in load_serving_rows(id) if _calibrates(row, software)]
    if not rows:
        return {}, 0.0, 0
    tasks = [serving_task_of(row) for row in rows]
    # One static batch shows neither admission nor a front end: its rows fix what lies between and around iterations.
    static, serial = all(row.batching == "static" for row in rows), tasks[0].software.serial_front_end
    fitted = (_SERIAL if serial else _STATIC) if static else FITTED
    middle = [start for name, start in zip(FITTED, _START, strict=True) if name in fitted]

    def error(logs: Sequence[float]) -> float:
        numbers = {name: one * math.exp(log) for name, one, log in zip(fitted, middle, logs, strict=True)}
        misses = [
            abs(math.log(value_of(row, operating_point(_with(task, numbers))[0]) / row.measured))
            for row, task in zip(rows, tasks, strict=True)
        ]
        return fmean(misses) + _PULL * fmean(log * log for log in logs)

    corners = [[0.0] * len(fitted)] + [[float(i == j) for j in range(len(fitted))] for i in range(len(fitted))]
    options = {"maxfev": 160, "xatol": 0.02, "initial_simplex": corners}
    found = minimize(error, corners[0], method="Nelder-Mead", options=options)
    numbers = {name: one * math.exp(log) for name, one, log in zip(fitted, middle, found.x, strict=True)}
    return numbers, float(found.fun), len(rows)


def _calibrates(row: ServingRow, software: str) -> bool:
    return row.software == software and row.calibrates


def _with(task: ServingTask, numbers: dict[str, float]) -> ServingTask:
    changes = {name: Quantity(value, source="perfmodel") for name, value in numbers.items()}
    software = task.software.model_copy(update=changes)
    engine = Engine.__new__(Engine)
    engine.__dict__ |= task.engine.__dict__ | {"software": software}
    return replace(task, software=software, engine=engine)


def _write(software: str, numbers: dict[str, float], rows: int, error: float) -> None:
    path = registry.path_of("software", software)
    text = path.read_text(encoding="utf-8")
    for name, value in numbers.items():
        text, count = re.subn(rf"^({name} = \{{ value = )[^,]+", rf"\g<1>{value:.3g}", text, flags=re.M)
        if count != 1:
            raise SystemExit(f"{path}: {name}: not found")
    text = re.sub(r"^calibrated_on = .*\n", "", text, flags=re.M)
    text = text.replace("step_s = {", f'calibrated_on = ["published/serving, {rows} rows"]\nstep_s = {{', 1)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for id in sorted({row.software for source in serving_sources() for row in load_serving_rows(source)}):
        values, miss, count = fit_generation(id)
        print(id, count, f"{miss:.4f}", {name: f"{value:.3g}" for name, value in values.items()})
        if values and "--write" in sys.argv:
            _write(id, values, count, miss)
