r"""Joules per token, carbon, amortised capital, and the physical floor of computing."""

from perfmodel.formulas._registry import formula
from perfmodel.formulas.cost import energy_kwh
from perfmodel.ops import floor, log, maximum, minimum

__all__ = [
    "carbon_kg",
    "carbon_kg_in_hour_of_day",
    "carbon_kg_per_mtok",
    "embodied_carbon_kg",
    "energy_per_token",
    "landauer_energy",
    "owned_usd_per_hour",
    "time_in_hour_of_day",
]


@formula
def energy_per_token(power_w, tokens_per_s):
    r"""Energy of one token at a steady power and rate.

    .. math:: e = P / r

    Symbols      P  power_w [W] of all that serves or trains;  r  tokens_per_s [1/s] of all of it;  returns [J]
    Valid for    power_w >= 0; tokens_per_s >= 1e-9
    Monotone     power_w +; tokens_per_s -
    Source       definition; holds in every row of the ML.ENERGY leaderboard, <https://ml.energy/leaderboard>
    """
    return power_w / tokens_per_s


@formula
def carbon_kg(energy_j, kg_per_kwh, pue=1, joules_per_kwh=3.6e6):
    r"""Operational emissions of an energy, CO2 equivalents.

    .. math:: m = i E \cdot PUE / 3.6 \cdot 10^6

    Symbols      E  energy_j [J] energy of the servers;  i  kg_per_kwh [kg] carbon intensity of one kilowatt-hour;
                 PUE  pue [1] facility energy over server energy;
                 k  joules_per_kwh [J] joules in a kilowatt-hour;  returns [kg]
    Assumptions  one intensity over the whole time; embodied emissions apart
    Valid for    energy_j >= 0; kg_per_kwh >= 0; pue >= 1
    Monotone     energy_j +; kg_per_kwh +; pue +
    Source       GHG Protocol, Scope 2 Guidance: activity data times emission factor
    """
    return kg_per_kwh * energy_kwh(energy_j, pue, joules_per_kwh)


@formula
def time_in_hour_of_day(start_s, time_s, hour, seconds_per_hour=3600, seconds_per_day=86400):
    r"""How long a run works in one hour of the day, over all the days that it takes.

    .. math:: T_h = C_h(t_0 + t) - C_h(t_0),\quad
              C_h(x) = H \lfloor x / D \rfloor + \min(\max(x \bmod D - H h,\, 0),\, H)

    Symbols      t_0  start_s [s] since midnight;  t  time_s [s] of the run;  h  hour [1] of the day, 0 after midnight;
                 H  seconds_per_hour [s] seconds in an hour;  D  seconds_per_day [s] seconds in a day;  returns [s]
    Assumptions  local time without a change of the clock; no pause
    Valid for    0 <= start_s <= 86400; time_s >= 0; 0 <= hour <= 23; 3600 <= seconds_per_hour <= 3600;
                 86400 <= seconds_per_day <= 86400
    Monotone     time_s +
    Limits       time_s = 0 -> 0; time_s = 86400 -> 3600
    Source       overlap of an interval with a periodic one
    """
    opens_s = hour * seconds_per_hour
    end_s = start_s + time_s
    first_day = floor(start_s / seconds_per_day)
    last_day = floor(end_s / seconds_per_day)
    before_s = minimum(maximum(start_s - first_day * seconds_per_day - opens_s, 0), seconds_per_hour)
    after_s = minimum(maximum(end_s - last_day * seconds_per_day - opens_s, 0), seconds_per_hour)
    return (last_day - first_day) * seconds_per_hour + after_s - before_s


@formula
def carbon_kg_in_hour_of_day(
    power_w,
    start_s,
    time_s,
    hour,
    kg_per_kwh,
    pue=1,
    joules_per_kwh=3.6e6,
    seconds_per_hour=3600,
    seconds_per_day=86400,
):
    r"""Operational emissions of a run at a steady draw in one hour of the day; their sum over 24 hours is its own.

    .. math:: m_h = \frac{i_h\,PUE}{3.6 \cdot 10^6} P\,T_h

    Symbols      P  power_w [W] of the servers;  t_0  start_s [s] since midnight;  t  time_s [s] of the run;
                 h  hour [1] of the day, 0 after midnight;  i_h  kg_per_kwh [kg] carbon intensity of one kilowatt-hour
                 in that hour;  PUE  pue [1] facility energy over server energy;
                 k  joules_per_kwh [J] joules in a kilowatt-hour;  H  seconds_per_hour [s] seconds in an hour;
                 D  seconds_per_day [s] seconds in a day;  returns [kg]
    Assumptions  every day like the other; steady draw; embodied emissions apart
    Valid for    power_w >= 0; 0 <= start_s <= 86400; time_s >= 0; 0 <= hour <= 23; kg_per_kwh >= 0; pue >= 1;
                 3600 <= seconds_per_hour <= 3600; 86400 <= seconds_per_day <= 86400
    Monotone     power_w +; time_s +; kg_per_kwh +; pue +
    Limits       time_s = 0 -> 0; kg_per_kwh = 0 -> 0
    Source       carbon_kg hour by hour, as Dodge et al. 2022, "Measuring the Carbon Intensity of AI in Cloud
                 Instances", arXiv:2206.05229, section 3
    """
    at_work_s = time_in_hour_of_day(start_s, time_s, hour, seconds_per_hour, seconds_per_day)
    return carbon_kg(power_w * at_work_s, kg_per_kwh, pue, joules_per_kwh)


@formula
def carbon_kg_per_mtok(power_w, tokens_per_s, kg_per_kwh, pue=1, tokens_per_mtok=1e6, joules_per_kwh=3.6e6):
    r"""Operational emissions of a million tokens.

    .. math:: m = \frac{i\,PUE}{3.6 \cdot 10^6} \frac{P}{r} 10^6

    Symbols      P  power_w [W] of the servers;  r  tokens_per_s [1/s] of all of them;
                 i  kg_per_kwh [kg] carbon intensity of one kilowatt-hour;
                 PUE  pue [1] facility energy over server energy;  m  tokens_per_mtok [1] tokens in a million;
                 k  joules_per_kwh [J] joules in a kilowatt-hour;  returns [kg]
    Valid for    power_w >= 0; tokens_per_s >= 1e-9; kg_per_kwh >= 0; pue >= 1
    Monotone     power_w +; tokens_per_s -; kg_per_kwh +; pue +
    Source       carbon_kg of energy_per_token
    """
    return carbon_kg(energy_per_token(power_w, tokens_per_s) * tokens_per_mtok, kg_per_kwh, pue, joules_per_kwh)


@formula
def embodied_carbon_kg(accelerators, time_s, embodied_kg, life_years, seconds_per_year=31557600):
    r"""Emissions of making hardware, for the time it is used.

    .. math:: m = n\,e\,\frac{t}{3.15576 \cdot 10^7\,y}

    Symbols      n  accelerators [1] used;  t  time_s [s] for so long;
                 e  embodied_kg [kg] of making one, with its share of a server;
                 y  life_years [1] until it is replaced;  s  seconds_per_year [s] seconds in a year;  returns [kg]
    Assumptions  written off evenly over a life in which it is always in use
    Valid for    accelerators >= 0; time_s >= 0; embodied_kg >= 0; life_years >= 1e-3
    Monotone     accelerators +; time_s +; embodied_kg +; life_years -
    Source       Luccioni, Viguier and Ligozat 2022, "Estimating the Carbon Footprint of BLOOM", section 4.1,
                 arXiv:2211.02001
    """
    return accelerators * embodied_kg * time_s / (life_years * seconds_per_year)


@formula
def owned_usd_per_hour(capital_usd, life_years, power_w, usd_per_kwh, pue=1, hours_per_year=8766, watts_per_kw=1000):
    r"""Price of an hour of what is owned: capital written off evenly, and energy.

    .. math:: c = \frac{C}{8766\,y} + \frac{P\,PUE}{1000} c_e

    Symbols      C  capital_usd [USD] purchase;  y  life_years [1] until it is written off;
                 P  power_w [W] mean power;  c_e  usd_per_kwh [USD] price of one kilowatt-hour;
                 PUE  pue [1] facility energy over server energy;  h  hours_per_year [1] hours in a year;
                 k  watts_per_kw [W] watts in a kilowatt;  returns [USD] for one hour
    Assumptions  no interest, nothing left at the end, always on
    Valid for    capital_usd >= 0; life_years >= 1e-3; power_w >= 0; usd_per_kwh >= 0; pue >= 1
    Monotone     capital_usd +; life_years -; power_w +; usd_per_kwh +; pue +
    Source       straight-line depreciation; Barroso, Clidaras and Hoelzle, "The Datacenter as a Computer", chapter 6
    """
    return capital_usd / (life_years * hours_per_year) + power_w * pue / watts_per_kw * usd_per_kwh


@formula
def landauer_energy(bits, temperature_k=300, boltzmann_j=1.380649e-23):
    r"""Least energy that erasing bits turns into heat.

    .. math:: E = n k_B T \ln 2

    Symbols      n  bits [1] erased;  T  temperature_k [1] kelvins of the surroundings;
                 k_B  boltzmann_j [J] Boltzmann constant, of one kelvin;  returns [J]
    Assumptions  irreversible logic, slow enough
    Valid for    bits >= 0; temperature_k >= 1e-3
    Monotone     bits +; temperature_k +
    Limits       bits = 0 -> 0
    Source       Landauer 1961, "Irreversibility and heat generation in the computing process", doi:10.1147/rd.53.0183
    """
    two = 2.0
    return bits * boltzmann_j * temperature_k * log(two)
