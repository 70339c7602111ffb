from __future__ import annotations
import numpy as np
from numpy.lib import recfunctions
from perfmodel.validation.power_tables import power_table
CALIBRATES = {"zeus": "bert_base_uncased", "mlenergy-h100": "meta-llama/Llama-3.1-8B-Instruct"}
def zeus_jobs(gpu):
    table = power_table("zeus")
    rows = table[table["gpu"] == gpu]
    top = rows["limit_w"].max()
    keys = ("dataset", "network", "batch_size", "optimizer")
    free = {tuple(row[k] for k in keys): row for row in rows if row["limit_w"] == top}
    kept = rows[[tuple(row[k] for k in keys) in free for row in rows]]
    base = [free[tuple(row[k] for k in keys)] for row in kept]
    epoch = np.array([row["epoch_s"] for row in base]); watts = np.array([row["mean_w"] for row in base])
    time = kept["epoch_s"] / epoch
    return recfunctions.append_fields(kept, ["uncapped_w", "time_ratio", "energy_ratio"], [watts, time, time * kept["mean_w"] / watts], usemask=False)
