"""Power sets from measured tables, through the same code that predicts: `python -m perfmodel.calibrate.power`.

What may be fitted was written down first: of Zeus the jobs of one network (BERT), of ML.ENERGY one model (Llama 3.1 8B,
11 of 177 rows). All other networks and models validate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import least_squares

from perfmodel.predict.power import accelerator_watts, capped_job
from perfmodel.specs.power import PowerSet, load_power_set
from perfmodel.validation.power_scores import CALIBRATES, zeus_jobs
from perfmodel.validation.power_tables import ml_energy_shares, power_table

__all__ = ["fit_activity", "fit_clocks"]

_CLOCKS = ("static_w", "idle_w", "active_w", "voltage_slope", "voltage_floor")


def fit_clocks(gpu: str, limit_w: float) -> dict[str, float]:
    """Five numbers of a GPU from the calibrating jobs under power limits: least squares of ln(time), ln(energy)."""
    jobs = zeus_jobs(gpu)
    rows = jobs[(jobs["network"] == CALIBRATES["zeus"]) & (jobs["limit_w"] < jobs["limit_w"].max())]
    fixed = {"limit_w": limit_w, "hbm_w": 0.0, "tensor_w": 0.0, "link_w": 0.0}

    def set_of(x: Any) -> PowerSet:
        idle = x[0] + x[1]
        numbers = dict(zip(_CLOCKS, (x[0], idle, x[2] * limit_w - idle, x[3], x[4]), strict=True))
        return load_power_set(fixed | {name: float(value) for name, value in numbers.items()})

    def residuals(x: Any) -> Any:
        job = capped_job(set_of(x), rows["uncapped_w"], rows["limit_w"])
        time, energy = np.log(job.time_ratio / rows["time_ratio"]), np.log(job.energy_ratio / rows["energy_ratio"])
        return np.concatenate([time, energy])

    # Static power below the lowest limit that a job ran under; busy power at most the limit itself.
    low, high = [5.0, 0.0, 0.6, 0.3, 0.5], [95.0, 60.0, 1.0, 2.5, 1.0]
    found = least_squares(
        residuals, [60.0, 5.0, 0.9, 1.2, 0.7], bounds=(low, high), loss="soft_l1", x_scale=[50.0, 20.0, 1.0, 1.0, 1.0]
    )
    power = set_of(found.x)
    return {name: round(float(getattr(power, name)), 3) for name in _CLOCKS}


def fit_activity(id: str = "h100-sxm") -> dict[str, float]:
    """`active_w`, `hbm_w`, `tensor_w` of a part from the calibrating model, clipped at its limit as the device does."""
    given = load_power_set(id)
    table = power_table("mlenergy-h100")
    rows = table[table["model"] == CALIBRATES["mlenergy-h100"]]
    memory, compute = ml_energy_shares(rows)
    measured = rows["watts"] / rows["gpus"]

    def set_of(x: Any) -> PowerSet:
        return given.model_copy(update=dict(zip(("active_w", "hbm_w", "tensor_w"), map(float, x), strict=True)))

    def residuals(x: Any) -> Any:
        watts = accelerator_watts(set_of(x), memory_share=memory, compute_share=compute)
        return watts / measured - 1.0

    found = least_squares(residuals, [150.0, 200.0, 1500.0], bounds=([0.0, 0.0, 0.0], [400.0, 400.0, 5000.0]))
    return dict(zip(("active_w", "hbm_w", "tensor_w"), (round(float(x), 1) for x in found.x), strict=True))


if __name__ == "__main__":
    for gpu, limit in (("v100", 250.0), ("a40", 300.0), ("rtx6000", 260.0), ("p100", 250.0)):
        print(gpu, fit_clocks(gpu, limit))
    print("h100-sxm", fit_activity())
