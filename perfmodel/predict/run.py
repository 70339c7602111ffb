"""Totals of a whole training run: days, dollars, kilowatt-hours, and carbon by the hours in which it runs."""

from __future__ import annotations

from perfmodel.formulas.cost import energy_kwh
from perfmodel.predict.emissions import Emissions

__all__ = ["run_totals"]


def run_totals(
    tokens: float, tokens_per_s: float, step_s: float, step_j: float, step_usd: float, used: int, rented: int,
    emissions: Emissions, start_hour: float | None,
) -> dict[str, float]:  # fmt: skip
    """Totals of so many tokens at the rate, energy [J] and price [USD] of a step on `used` of `rented` accelerators.

    Where carbon by hour is known, `carbon_kg` is that of the hours from `start_hour` on (None: of the mean hour), and
    the best start is said beside it.
    """
    steps = tokens / (tokens_per_s * step_s)
    seconds, joules = tokens / tokens_per_s, step_j * steps
    carbon = float(emissions.kg(joules, used, seconds))
    hours = {}
    if emissions.knows_hours:
        best_hour, best_kg = emissions.best_start(joules, used, seconds)
        hours = {"best_start_hour": best_hour, "best_start_carbon_kg": best_kg, "mean_hour_carbon_kg": carbon}
        if start_hour is not None:
            carbon = emissions.kg_of_run(joules, used, seconds, start_hour)
    return {
        "tokens": tokens,
        "steps": steps,
        "run_days": seconds / 86400.0,
        "cost_usd": step_usd * steps,
        "energy_kwh": float(energy_kwh(joules)),
        "carbon_kg": carbon,
        "accelerator_hours": seconds / 3600.0 * rented,
        **hours,
    }
