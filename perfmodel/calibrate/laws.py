"""Laws of scaling fitted to a table: robust in logarithms, with bootstrap intervals, refused where data do not decide.

The loss is Huber's on differences of logarithms, as Hoffmann et al. 2022 fit theirs (arXiv:2203.15556, section D.2).
Parameters are searched as logarithms from a grid of starts. A fit is refused where the table cannot tell one parameter:
too few rows, a direction in which the predictions do not change, or an uncertainty beyond a factor of three.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from perfmodel._version import __version__
from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.formulas.scaling_laws import chinchilla_loss, hestness_error
from perfmodel.formulas.scaling_laws_training import overtraining_loss, parscale_loss
from perfmodel.formulas.test_time import coverage_power_law
from perfmodel.predict.records import Record
from perfmodel.specs.registry import data_version

__all__ = ["LAWS", "FittedParameter", "LawFit", "fit_law", "published_law_table", "read_law_table"]

Floats = NDArray[np.float64]
_PUBLISHED = Path(__file__).parent.parent / "validation" / "published" / "laws"
_HUBER = 1e-3
_ROWS_PER_PARAMETER = 2
_LEAST_SINGULAR = 1e-7
_STEP = 1e-5
_WIDEST = 3.0
_SEED = 20220329


@dataclass(frozen=True, slots=True)
class _Law:
    """A registered formula, the columns of its table (the last is what it predicts) and starts of its parameters."""

    columns: tuple[str, ...]
    starts: dict[str, tuple[float, ...]]
    scales: frozenset[str]
    predict: Callable[[Mapping[str, Floats], Mapping[str, float]], Any]


LAWS: dict[str, _Law] = {
    "chinchilla": _Law(
        ("n_params", "tokens", "loss"),
        {
            "irreducible": (1.0, 2.0),
            "params_scale": (50.0, 1000.0),
            "tokens_scale": (50.0, 2000.0),
            "params_exponent": (0.25, 0.5),
            "tokens_exponent": (0.25, 0.5),
        },
        frozenset({"params_scale", "tokens_scale"}),
        lambda x, p: chinchilla_loss(x["n_params"], x["tokens"], **p),
    ),
    "overtraining": _Law(
        ("n_params", "tokens", "loss"),
        {
            "irreducible": (1.0, 2.0),
            "params_scale": (10.0, 100.0, 1000.0),
            "tokens_scale": (30.0, 300.0, 3000.0),
            "exponent": (0.1, 0.2),
        },
        frozenset({"params_scale", "tokens_scale"}),
        lambda x, p: overtraining_loss(6.0 * x["n_params"] * x["tokens"], x["tokens"] / x["n_params"], **p),
    ),
    "parscale": _Law(
        ("n_params", "streams", "loss"),
        {"irreducible": (0.5, 1.5), "scale": (0.01, 0.1, 1.0), "exponent": (0.1, 0.3), "gain": (0.1, 0.4)},
        frozenset({"scale"}),
        lambda x, p: parscale_loss(x["n_params"], x["streams"], **p),
    ),
    "coverage": _Law(
        ("attempts", "coverage"),
        {"scale": (0.1, 1.0, 4.0), "exponent": (0.1, 0.5)},
        frozenset({"scale"}),
        lambda x, p: coverage_power_law(x["attempts"], **p),
    ),
    "power-law": _Law(
        ("x", "y"),
        {"scale": (1.0, 100.0), "exponent": (0.05, 0.3)},
        frozenset({"scale"}),
        lambda x, p: hestness_error(x["x"], **p),
    ),
    "power-law-floor": _Law(
        ("x", "y"),
        {"scale": (1.0, 100.0), "exponent": (0.05, 0.3), "irreducible": (0.1, 1.0)},
        frozenset({"scale"}),
        lambda x, p: hestness_error(x["x"], **p),
    ),
}


class FittedParameter(Record):
    """A parameter with its bootstrap interval and standard error (of the bootstrap)."""

    name: str
    value: float
    interval: tuple[float, float]
    standard_error: float


class LawFit(Record):
    """A fitted law: parameters, the sum of Huber losses, and how much of the spread of logarithms it explains."""

    document: str = "perfmodel/law-fit/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    parameters: tuple[FittedParameter, ...]
    interval_level: float
    rows: int
    objective: float
    r_squared: float
    worst_residual: float

    def values(self) -> dict[str, float]:
        """The parameters by name, as keyword arguments of the formula."""
        return {one.name: one.value for one in self.parameters}


def fit_law(
    law: str, table: Sequence[Mapping[str, Any]], *, bootstraps: int = 200, level: float = 0.95, huber: float = _HUBER
) -> LawFit:
    """Fit one of `LAWS` to rows with its columns; raises `PlanError` for bad input and where the table does not decide.

    `bootstraps` resamplings of the rows give the intervals of `level`; the seed is fixed, so a fit reproduces.
    """
    if law not in LAWS:
        raise PlanError(unknown_name("law", law, LAWS))
    if not 0.0 < level < 1.0 or bootstraps < 20:
        raise PlanError(f"level must be between 0 and 1 and bootstraps at least 20 (got {level!r}, {bootstraps!r})")
    form = LAWS[law]
    columns = _columns(form, table)
    rows, needed = len(table), _ROWS_PER_PARAMETER * len(form.starts)
    if rows < needed:
        raise PlanError(f"law {law}: {rows} rows cannot tell {len(form.starts)} parameters; give at least {needed}")
    found = _best(form, columns, huber)
    _refuse(law, form, columns, found.x)
    samples = _bootstrap(form, columns, found.x, huber, bootstraps)
    values = np.exp(found.x)
    low, high = np.quantile(samples, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    _judge(law, form, np.sqrt(high / low))
    residuals = _residuals(form, columns, found.x)
    spread = np.log(columns[form.columns[-1]])
    return LawFit(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"law": law, "rows": rows, "bootstraps": bootstraps, "level": level, "huber": huber},
        parameters=tuple(
            FittedParameter(
                name=name,
                value=float(values[at]),
                interval=(float(low[at]), float(high[at])),
                standard_error=float(samples[:, at].std(ddof=1)),
            )
            for at, name in enumerate(form.starts)
        ),
        interval_level=level,
        rows=rows,
        objective=float(found.cost),
        r_squared=1.0 - float((residuals**2).sum() / ((spread - spread.mean()) ** 2).sum()),
        worst_residual=float(np.abs(residuals).max()),
    )


def _columns(form: _Law, table: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    columns = {}
    for name in form.columns:
        missing = next((number for number, row in enumerate(table) if name not in row), None)
        if missing is not None:
            raise PlanError(f"row {missing}: {name}: missing; the law needs {', '.join(form.columns)}")
        try:
            values = np.array([float(row[name]) for row in table], dtype=np.float64)
        except (TypeError, ValueError):
            raise PlanError(f"{name}: every row must hold a number") from None
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(wrong):
            raise PlanError(f"row {wrong[0]}: {name}: must be a number > 0 (got {values[wrong[0]]:g})")
        columns[name] = values
    return columns


def _residuals(form: _Law, columns: Mapping[str, Floats], logs: Floats) -> Floats:
    parameters = dict(zip(form.starts, np.exp(logs), strict=True))
    with np.errstate(over="ignore", under="ignore"):
        predicted = np.asarray(form.predict(columns, parameters))
    return np.asarray(np.log(np.clip(predicted, 1e-300, 1e300)) - np.log(columns[form.columns[-1]]))


def _solved(form: _Law, columns: Mapping[str, Floats], start: Floats, huber: float, precise: bool = True) -> Any:
    tolerance, most = (1e-12, 400) if precise else (1e-6, 60)
    return optimize.least_squares(
        lambda logs: _residuals(form, columns, logs), start, bounds=(-25.0, 25.0), loss="huber", f_scale=huber,
        x_scale="jac", xtol=tolerance, ftol=tolerance, gtol=tolerance, max_nfev=most,
    )  # fmt: skip


def _best(form: _Law, columns: Mapping[str, Floats], huber: float) -> Any:
    """The least objective over all starts: coarsely with a wide loss, which has fewer traps, then with the true one."""
    starts = [np.log(point) for point in itertools.product(*form.starts.values())]
    coarse = [_solved(form, columns, start, 0.1, precise=False) for start in starts]
    coarse.sort(key=lambda found: found.cost)
    fine = [_solved(form, columns, found.x, huber) for found in coarse[:4]]
    return min(fine, key=lambda found: found.cost)


def _refuse(law: str, form: _Law, columns: Mapping[str, Floats], logs: Floats) -> None:
    """Raise `PlanError` naming what the table leaves open."""
    names = list(form.starts)
    residuals = _residuals(form, columns, logs)
    steps = _STEP * np.eye(len(logs))
    slopes = [_residuals(form, columns, logs + step) - _residuals(form, columns, logs - step) for step in steps]
    _, singular, directions = np.linalg.svd(np.stack(slopes, axis=1) / (2.0 * _STEP), full_matrices=False)
    if singular[-1] <= _LEAST_SINGULAR * singular[0]:
        loose = [names[at] for at in np.flatnonzero(np.abs(directions[-1]) > 0.1)]
        raise PlanError(
            f"law {law}: the table does not tell {' from '.join(loose)}: predictions do not change when they do so "
            f"together; vary {', '.join(form.columns[:-1])} independently"
        )
    noise = np.sqrt((residuals**2).sum() / max(1, len(residuals) - len(names)))
    errors = noise * np.sqrt(((directions.T / singular) ** 2).sum(axis=1))
    # A scale stands for the law's value far from the data and moves with its exponent; the exponent is what is judged.
    _judge(law, form, np.exp(np.minimum(errors, 20.0)))


def _judge(law: str, form: _Law, factors: Floats) -> None:
    """Raise `PlanError` where a parameter is known to no better than a factor of three either way."""
    wide = [at for at, name in enumerate(form.starts) if name not in form.scales and factors[at] > _WIDEST]
    if wide:
        said = ", ".join(f"{list(form.starts)[at]} (known to a factor of {factors[at]:.3g})" for at in wide)
        wider = ", ".join(form.columns[:-1])
        raise PlanError(f"law {law}: the table does not fix {said}; give rows over a wider range of {wider}")


def _bootstrap(form: _Law, columns: Mapping[str, Floats], start: Floats, huber: float, bootstraps: int) -> Floats:
    """Parameters refitted to rows drawn with replacement [bootstrap, parameter]."""
    random = np.random.default_rng(_SEED)
    rows = len(columns[form.columns[-1]])
    found = []
    for _ in range(bootstraps):
        drawn = random.integers(0, rows, rows)
        found.append(_solved(form, {name: column[drawn] for name, column in columns.items()}, start, huber).x)
    return np.asarray(np.exp(np.array(found)))


def read_law_table(file: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV file; lines that begin with # are remarks. Raises `SpecError`."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise SpecError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    rows = list(csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")))
    if not rows:
        raise SpecError(f"{file}: holds no rows; the first line names the columns")
    return rows


def published_law_table(name: str) -> list[dict[str, float]]:
    """The published runs behind a law: "chinchilla", "overtraining-DATASET", "parscale-stack" or "parscale-pile".

    Of Chinchilla's 245 runs the five with the fewest tokens for a parameter are left out, as Besiroglu et al. 2024 do.
    """
    kind, _, part = name.partition("-")
    if kind not in ("chinchilla", "overtraining", "parscale"):
        raise PlanError(unknown_name("published table", name, ["chinchilla", "overtraining", "parscale"]))
    rows = read_law_table(_PUBLISHED / f"{kind}.csv")
    if kind == "parscale":
        names = {"n_params": "n_params", "streams": "streams", "loss": f"loss_{part}"}
        return [{name: float(row[column]) for name, column in names.items()} for row in rows]
    if kind == "overtraining":
        chosen = [row for row in rows if row["dataset"] == part]
        return [{name: float(row[name]) for name in ("n_params", "tokens", "loss")} for row in chosen]
    table = []
    for row in rows:
        n_params = float(row["n_params"])
        tokens = float(row["compute_flops"]) / 6.0 / n_params
        table.append({"n_params": n_params, "tokens": tokens, "loss": float(row["loss"])})
    return sorted(table, key=lambda row: row["tokens"] / row["n_params"])[5:]
