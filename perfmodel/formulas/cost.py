r"""Energy, money and calendar time of a run."""

from perfmodel.formulas._registry import formula

__all__ = ["cost_usd", "cost_usd_per_mtok", "energy_cost_usd", "energy_j", "energy_kwh", "run_days"]


@formula
def energy_j(busy_s, total_s, busy_w, idle_w):
    r"""Energy of a device that works for part of the time and idles for the rest.

    .. math:: E = P_b t_b + P_i (t - t_b)

    Symbols      t_b  busy_s [s] time at work;  t  total_s [s] whole time;  P_b  busy_w [W] power at work;
                 P_i  idle_w [W] power when idle;  returns [J]
    Assumptions  two power levels, no ramps
    Valid for    busy_s >= 0; total_s >= 0; busy_w >= 0; idle_w >= 0; fails where busy_s exceeds total_s
    Monotone     total_s +; busy_w +
    Source       definition: power integrated over two states (J = W s)
    """
    return busy_w * busy_s + idle_w * (total_s - busy_s)


@formula
def energy_kwh(energy_j, pue=1, joules_per_kwh=3.6e6):
    r"""Kilowatt-hours at the meter of a data centre.

    .. math:: E_{kWh} = E \cdot PUE / 3.6 \cdot 10^6

    Symbols      E  energy_j [J] energy of the servers;  PUE  pue [1] facility energy over server energy;
                 k  joules_per_kwh [J] joules in a kilowatt-hour;  returns [1] kilowatt-hours
    Valid for    energy_j >= 0; pue >= 1
    Monotone     energy_j +; pue +
    Source       ISO/IEC 30134-2 (power usage effectiveness); 1 kWh = 3.6 MJ by definition
    """
    return energy_j * pue / joules_per_kwh


@formula
def energy_cost_usd(energy_j, usd_per_kwh, pue=1, joules_per_kwh=3.6e6):
    r"""Price of the energy of a run.

    .. math:: C = c E \cdot PUE / 3.6 \cdot 10^6

    Symbols      E  energy_j [J] energy of the servers;  c  usd_per_kwh [USD] price of one kilowatt-hour;
                 PUE  pue [1] facility energy over server energy;
                 k  joules_per_kwh [J] joules in a kilowatt-hour;  returns [USD]
    Valid for    energy_j >= 0; usd_per_kwh >= 0; pue >= 1
    Monotone     energy_j +; usd_per_kwh +; pue +
    Source       definition: price times energy at the meter (energy_kwh)
    """
    return usd_per_kwh * energy_kwh(energy_j, pue, joules_per_kwh)


@formula
def cost_usd(accelerators, time_s, usd_per_hour, seconds_per_hour=3600):
    r"""Price of accelerators rented by the hour.

    .. math:: C = n c t / 3600

    Symbols      n  accelerators [1] rented;  t  time_s [s] rented for;
                 c  usd_per_hour [USD] price of one accelerator for one hour;
                 h  seconds_per_hour [s] seconds in an hour;  returns [USD]
    Assumptions  billed for what is used, idle accelerators included
    Valid for    accelerators >= 0; time_s >= 0; usd_per_hour >= 0
    Monotone     accelerators +; time_s +; usd_per_hour +
    Source       definition: price times accelerator-hours
    Checked      DeepSeek-V3 technical report Table 1: 2788 K H800 hours at 2 USD are 5.576 M USD
    """
    return accelerators * usd_per_hour * time_s / seconds_per_hour


@formula
def cost_usd_per_mtok(accelerators, usd_per_hour, tokens_per_s, tokens_per_mtok=1e6, seconds_per_hour=3600):
    r"""Price of a million tokens from a deployment that produces tokens at a steady rate.

    .. math:: C = \frac{n c}{3600 r} 10^6

    Symbols      n  accelerators [1] rented;  c  usd_per_hour [USD] price of one accelerator for one hour;
                 r  tokens_per_s [1/s] of the whole deployment;  m  tokens_per_mtok [1] tokens in a million;
                 h  seconds_per_hour [s] seconds in an hour;  returns [USD]
    Assumptions  the rate holds at all hours
    Valid for    accelerators >= 0; usd_per_hour >= 0; tokens_per_s >= 1e-9
    Monotone     accelerators +; usd_per_hour +; tokens_per_s -
    Source       definition: cost_usd over the time of a million tokens
    """
    return cost_usd(accelerators, tokens_per_mtok / tokens_per_s, usd_per_hour, seconds_per_hour)


@formula
def run_days(tokens, tokens_per_s, seconds_per_day=86400):
    r"""Days that a training run takes at a steady rate.

    .. math:: D = \frac{T}{86400 r}

    Symbols      T  tokens [1] to train on;  r  tokens_per_s [1/s] of the whole cluster;
                 d  seconds_per_day [s] seconds in a day;  returns [1] days
    Assumptions  no failures, no evaluation, no restarts
    Valid for    tokens >= 0; tokens_per_s >= 1e-9
    Monotone     tokens +; tokens_per_s -
    Source       definition: tokens over rate
    Checked      DeepSeek-V3 technical report section 1: 180 K H800 hours per 10^12 tokens on 2048 take 3.7 days
    """
    return tokens / tokens_per_s / seconds_per_day
