"""The one door to solvers of linear and mixed-integer programs: HiGHS (highspy) and CBC (PuLP).

A problem is rows over columns, always minimised. A limit that ended a run is told, and never called optimal.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from perfmodel.errors import MissingExtraError, PlanError, unknown_name

__all__ = ["SOLVERS", "LinearProgram", "Solution", "solve"]

Floats = NDArray[np.float64]
SOLVERS = ("highs", "cbc")
_OPTIMAL, _FEASIBLE, _INFEASIBLE, _UNKNOWN = "optimal", "feasible", "infeasible", "unknown"


@dataclass(frozen=True)
class LinearProgram:
    """Minimise `cost @ x` with `row_low <= rows @ x <= row_high`, `low <= x <= high`, `x[integer]` whole.

    `rows` has shape (rows, columns); every other array has one value a row or a column.
    """

    cost: Floats
    rows: csr_matrix
    row_low: Floats
    row_high: Floats
    low: Floats
    high: Floats
    integer: NDArray[np.bool_]

    def relaxed(self) -> LinearProgram:
        """The same without whole numbers."""
        free = np.zeros_like(self.integer)
        return LinearProgram(self.cost, self.rows, self.row_low, self.row_high, self.low, self.high, free)


@dataclass(frozen=True)
class Solution:
    """What a solver proved: `status` is optimal, feasible, infeasible or unknown.

    No solution is below `bound` (-inf where the solver gave none); `stopped_by` is None, "work_limit" or "time_limit".
    """

    status: str
    objective: float | None
    bound: float
    values: Floats | None
    stopped_by: str | None = None


def solve(
    program: LinearProgram,
    *,
    solver: str = "highs",
    work_limit: int | None = None,
    time_limit_s: float | None = None,
    gap: float = 0.0,
) -> Solution:
    """Solve to a relative `gap`; `work_limit` is a number of branch-and-bound nodes, the same on every machine.

    Raises `PlanError` for an unknown solver and `MissingExtraError` where the solver is not installed.
    """
    if solver not in SOLVERS:
        raise PlanError(unknown_name("solver", solver, SOLVERS))
    run = _highs if solver == "highs" else _cbc
    return run(program, work_limit, time_limit_s, gap)


def _highs(program: LinearProgram, work_limit: int | None, time_limit_s: float | None, gap: float) -> Solution:
    try:
        import highspy
    except ImportError:
        raise MissingExtraError("solver highs: highspy is not installed; pip install highspy") from None
    engine = highspy.Highs()
    engine.setOptionValue("output_flag", False)
    engine.setOptionValue("threads", 1)
    engine.setOptionValue("random_seed", 0)
    engine.setOptionValue("mip_rel_gap", gap)
    if work_limit is not None:
        engine.setOptionValue("mip_max_nodes", int(work_limit))
    if time_limit_s is not None:
        engine.setOptionValue("time_limit", max(float(time_limit_s), 0.01))
    engine.passModel(_highs_model(highspy, program))
    engine.run()
    return _highs_solution(highspy, engine, bool(program.integer.any()))


def _highs_model(highspy: Any, program: LinearProgram) -> Any:
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.rows.shape
    model.col_cost_, model.col_lower_, model.col_upper_ = program.cost, program.low, program.high
    model.row_lower_, model.row_upper_ = program.row_low, program.row_high
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = program.rows.indptr
    model.a_matrix_.index_ = program.rows.indices
    model.a_matrix_.value_ = program.rows.data
    if program.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[int(whole)] for whole in program.integer]
    return model


def _highs_solution(highspy: Any, engine: Any, mixed: bool) -> Solution:
    status, info = engine.getModelStatus(), engine.getInfo()
    of = highspy.HighsModelStatus
    if status == of.kInfeasible:
        return Solution(_INFEASIBLE, None, np.inf, None)
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    values = np.array(engine.getSolution().col_value) if found else None
    objective = float(info.objective_function_value) if found else None
    if status == of.kOptimal:
        bound = float(info.mip_dual_bound) if mixed else float(info.objective_function_value)
        return Solution(_OPTIMAL, objective, bound, values)
    limits = {of.kTimeLimit: "time_limit", of.kIterationLimit: "work_limit", of.kSolutionLimit: "work_limit"}
    bound = float(info.mip_dual_bound) if mixed else -np.inf
    return Solution(_FEASIBLE if found else _UNKNOWN, objective, bound, values, limits.get(status))


def _cbc(program: LinearProgram, work_limit: int | None, time_limit_s: float | None, gap: float) -> Solution:
    import pulp

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", DeprecationWarning)  # of what PuLP 4 will drop; the version is pinned below it
        problem, columns = _pulp_problem(pulp, program)
        log = Path(folder) / "cbc.log"
        options: list[Any] = ["randomCbcSeed 1"]
        engine = pulp.PULP_CBC_CMD(
            msg=False,
            timeLimit=time_limit_s,
            gapRel=gap,
            maxNodes=work_limit,
            threads=None,
            logPath=str(log),
            options=options,
        )
        if not engine.available():
            raise MissingExtraError("solver cbc: no CBC program was found; pip install 'pulp<4'")
        problem.solve(engine)
        text = log.read_text(errors="replace")
    return _cbc_solution(pulp, problem, columns, text)


def _pulp_problem(pulp: Any, program: LinearProgram) -> tuple[Any, list[Any]]:
    problem = pulp.LpProblem("perfmodel", pulp.LpMinimize)
    columns = [
        pulp.LpVariable(f"x{i}", _finite(low), _finite(high), pulp.LpInteger if whole else pulp.LpContinuous)
        for i, (low, high, whole) in enumerate(zip(program.low, program.high, program.integer, strict=True))
    ]
    problem += pulp.LpAffineExpression([(x, float(c)) for x, c in zip(columns, program.cost, strict=True)])
    rows = program.rows
    for i, (low, high) in enumerate(zip(program.row_low, program.row_high, strict=True)):
        part = slice(rows.indptr[i], rows.indptr[i + 1])
        pairs = zip(rows.indices[part], rows.data[part], strict=True)
        left = pulp.LpAffineExpression([(columns[j], float(value)) for j, value in pairs])
        if low == high:
            problem += left == float(low)
            continue
        if np.isfinite(high):
            problem += left <= float(high)
        if np.isfinite(low):
            problem += left >= float(low)
    return problem, columns


def _finite(bound: float) -> float | None:
    return float(bound) if np.isfinite(bound) else None


def _cbc_solution(pulp: Any, problem: Any, columns: Sequence[Any], log: str) -> Solution:
    """CBC's own words decide: PuLP calls a run that a limit ended "Optimal"."""
    if problem.status in (pulp.LpStatusInfeasible, pulp.LpStatusUndefined) and "Stopped on" not in log:
        return Solution(_INFEASIBLE, None, np.inf, None)
    stopped = _stopped(log)
    values = np.array([np.nan if x.value() is None else float(x.value()) for x in columns])
    found = bool(np.isfinite(values).all()) and problem.sol_status in (
        pulp.LpSolutionOptimal,
        pulp.LpSolutionIntegerFeasible,
    )
    objective = float(pulp.value(problem.objective) or 0.0) if found else None
    if stopped is None and found and problem.sol_status == pulp.LpSolutionOptimal:
        return Solution(_OPTIMAL, objective, float(objective or 0.0), values)
    said = re.findall(r"Lower bound:\s+(\S+)", log)
    bound = float(said[-1]) if said else -np.inf
    return Solution(_FEASIBLE if found else _UNKNOWN, objective, bound, values if found else None, stopped)


def _stopped(log: str) -> str | None:
    if re.search(r"Stopped on time|Exiting on maximum time|stopped on time", log):
        return "time_limit"
    return "work_limit" if re.search(r"Exiting on maximum nodes|Stopped on nodes|maximum nodes", log) else None
