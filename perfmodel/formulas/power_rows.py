r"""Power of servers and rows: losses, diversity of many servers, and how far a level drifts before a cap acts."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import exp, maximum, minimum, sqrt

__all__ = [
    "drift_sd",
    "excursion_rate",
    "normal_tail",
    "power_supply_efficiency",
    "row_power_quantile",
    "row_power_sd",
    "server_power",
]


@formula
def server_power(accelerators, accelerator_w, other_idle_w, other_swing_w, load_share, psu_efficiency=1):
    r"""Power of a server at its inlet: accelerators, the rest of it, and the losses of its power supplies.

    .. math:: P = \frac{n P_a + P_0 + P_1 u}{\eta}

    Symbols      n  accelerators [1] of the server;  P_a  accelerator_w [W] each;
                 P_0  other_idle_w [W] processors, memory, network cards and fans without load;
                 P_1  other_swing_w [W] what load adds to them;  u  load_share [1] of their load;
                 \eta  psu_efficiency [1] of the supplies;  returns [W]
    Assumptions  the rest of a server is linear in its load
    Valid for    load_share <= 1; 1e-1 <= psu_efficiency <= 1; accelerators >= 0; accelerator_w >= 0
    Monotone     accelerators +; accelerator_w +; other_idle_w +; other_swing_w +; load_share +; psu_efficiency -
    Source       linear server model: Barroso and Hoelzle 2007, "The case for energy-proportional computing",
                 doi:10.1109/MC.2007.443
    """
    return (accelerators * accelerator_w + other_idle_w + other_swing_w * load_share) / psu_efficiency


@formula
def power_supply_efficiency(load_share, fixed_loss, proportional_loss, square_loss):
    r"""Efficiency of a power supply over its load: fixed, proportional and resistive losses.

    .. math:: \eta = \frac{u}{u + a + b u + c u^2}

    Symbols      u  load_share [1] output over rated output;  a  fixed_loss [1] of rated output;
                 b  proportional_loss [1] of the output;  c  square_loss [1] of rated output at full load;  returns [1]
    Valid for    1e-2 <= load_share <= 1; fixed_loss <= 1; proportional_loss <= 1; square_loss <= 1
    Monotone     fixed_loss -; proportional_loss -; square_loss -
    Source       loss model of converters: Erickson and Maksimovic, "Fundamentals of Power Electronics", chapter 3
    """
    return load_share / (load_share + fixed_loss + proportional_loss * load_share + square_loss * load_share**2)


@formula
def row_power_sd(servers, server_sd_w, correlation):
    r"""Spread of the power of many servers with a common and an independent part.

    .. math:: \sigma_n = \sigma \sqrt{n\,(1 + (n - 1) \rho)}

    Symbols      n  servers [1] of the row;  \sigma  server_sd_w [W] standard deviation of one;
                 \rho  correlation [1] between two of them;  returns [W]
    Assumptions  equal servers; synchronous training is correlation 1, unrelated requests 0
    Valid for    servers >= 1; correlation <= 1; server_sd_w >= 0
    Monotone     servers +; server_sd_w +; correlation +
    Source       variance of a sum of equally correlated variables
    """
    return server_sd_w * sqrt(servers * (1 + (servers - 1) * correlation))


@formula
def row_power_quantile(servers, mean_w, server_sd_w, correlation, z):
    r"""Power of a row that is exceeded with the probability of a standard normal above z.

    .. math:: Q = n \mu + z \sigma \sqrt{n\,(1 + (n - 1) \rho)}

    Symbols      n  servers [1] of the row;  \mu  mean_w [W] of one server;  \sigma  server_sd_w [W] of one server;
                 \rho  correlation [1] between two of them;  z  z [1] standard normal quantile;  returns [W]
    Assumptions  normal in the common and in the independent part
    Valid for    servers >= 1; correlation <= 1; -8 <= z <= 8; mean_w >= 0; server_sd_w >= 0
    Monotone     servers +; mean_w +; z +
    Source       row_power_sd; diversity after Fan, Weber and Barroso 2007, "Power provisioning for a warehouse-sized
                 computer", doi:10.1145/1250662.1250665
    """
    return servers * mean_w + z * row_power_sd(servers, server_sd_w, correlation)


@formula
def drift_sd(level_sd, latency_s, memory_s):
    r"""Spread of the change of a level over a latency, for a level that forgets exponentially.

    .. math:: \sigma_L = \sigma \sqrt{2 (1 - e^{-L / \tau})}

    Symbols      \sigma  level_sd [1] standard deviation of the level;  L  latency_s [s] until an action holds;
                 \tau  memory_s [s] correlation time of the level;  returns [1]
    Assumptions  Ornstein-Uhlenbeck process
    Valid for    level_sd <= 1; latency_s >= 1e-3; memory_s >= 1e-3
    Monotone     level_sd +; latency_s +; memory_s -
    Source       Uhlenbeck and Ornstein 1930, doi:10.1103/PhysRev.36.823
    """
    return level_sd * sqrt(2 * (1 - exp(-latency_s / memory_s)))


@formula
def normal_tail(z):
    r"""Probability that a standard normal variable exceeds z.

    .. math:: 1 - \Phi(z) \approx \phi(z)\,(b_1 t + b_2 t^2 + b_3 t^3 + b_4 t^4 + b_5 t^5),\quad
              t = 1 / (1 + 0.2316419\,|z|)

    Symbols      z  z [1] standard normal quantile;  returns [1]
    Valid for    -30 <= z <= 30; fails beyond an absolute error of 7.5e-8
    Monotone     z -
    Source       Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.2.17
    """
    root_of_two_pi = 2.5066282746310002
    size = maximum(z, -z)
    t = 1 / (1 + 0.2316419 * size)
    series = 0.319381530 * t - 0.356563782 * t**2 + 1.781477937 * t**3 - 1.821255978 * t**4 + 1.330274429 * t**5
    tail = exp(-(size**2) / 2) / root_of_two_pi * series
    upper = minimum(1, maximum(0, -z / maximum(size, 1e-300)))
    return upper + (1 - 2 * upper) * tail


@formula
def excursion_rate(over_share, z, memory_s):
    r"""How often a drifting level begins to exceed a limit.

    .. math:: \nu = p \max(1, z)^2 / \tau

    Symbols      p  over_share [1] of the time above the limit;  z  z [1] limit in standard deviations above the mean;
                 \tau  memory_s [s] correlation time of the level;  returns [1/s]
    Assumptions  Ornstein-Uhlenbeck process; crossings that follow each other within \tau / z^2 are one
    Valid for    over_share <= 1; 0 <= z <= 30; memory_s >= 1e-3; fails where the level is mostly above
    Monotone     over_share +; z +; memory_s -
    Source       Pickands 1969, "Upcrossing probabilities for stationary Gaussian processes",
                 doi:10.1090/S0002-9947-1969-0250367-X, with index 1
    """
    return over_share * maximum(1, z) ** 2 / memory_s
