r"""What wires, breakers and feeds allow: ratings, trip times, redundancy and ramps."""

from perfmodel.formulas._registry import formula

__all__ = [
    "apparent_power",
    "breaker_trip_time",
    "continuous_power",
    "power_ramp",
    "redundant_feed_power",
]


@formula
def apparent_power(power_w, power_factor):
    r"""Apparent power that a feed carries for a real power.

    .. math:: S = P / \cos \varphi

    Symbols      P  power_w [W] real power;  \cos\varphi  power_factor [1] of the load;  returns [W] volt-amperes
    Valid for    power_w >= 0; 1e-1 <= power_factor <= 1
    Monotone     power_w +; power_factor -
    Source       IEC 60050-131, definition of apparent power
    """
    return power_w / power_factor


@formula
def continuous_power(rating_va, power_factor, derating=0.8):
    r"""Real power that a circuit may carry without end.

    .. math:: P = d S \cos \varphi

    Symbols      S  rating_va [W] volt-amperes of the breaker;  \cos\varphi  power_factor [1] of the load;
                 d  derating [1] share allowed for continuous load;  returns [W]
    Valid for    rating_va >= 0; 1e-1 <= power_factor <= 1; 1e-1 <= derating <= 1
    Monotone     rating_va +; power_factor +; derating +
    Source       NFPA 70 (NEC) 210.20(A), 215.3: breakers at 125 % of a load of three hours and more
    """
    return derating * rating_va * power_factor


@formula
def breaker_trip_time(overload, time_multiplier=1, curve_s=0.14, exponent=0.02):
    r"""Time until an inverse-time relay trips at an overload.

    .. math:: t = T_M \frac{k}{(1 + o)^{\alpha} - 1}

    Symbols      o  overload [1] current over setting, less one;  T_M  time_multiplier [1] of the relay;
                 k  curve_s [s] of the curve, standard inverse;  \alpha  exponent [1] of the curve;  returns [s]
    Assumptions  standard inverse curve; constant overload from cold
    Valid for    0.05 <= overload <= 2; 1e-2 <= time_multiplier <= 1; 1e-2 <= exponent <= 2; curve_s >= 0.05
    Monotone     overload -; time_multiplier +
    Source       IEC 60255-151:2009, equation of dependent-time relays, curve A
    """
    return time_multiplier * curve_s / ((1 + overload) ** exponent - 1)


@formula
def redundant_feed_power(feeds, spare_feeds, feed_w):
    r"""Power that feeds may carry so that the others hold the load when some fail.

    .. math:: P = (n - k) P_f

    Symbols      n  feeds [1] that share the load;  k  spare_feeds [1] that may fail: N is 0, N+1 is 1, 2N is half;
                 P_f  feed_w [W] continuous power of one;  returns [W]
    Valid for    feeds >= 1; spare_feeds >= 0; feed_w >= 0; fails where spare_feeds exceeds feeds
    Monotone     feeds +; spare_feeds -
    Limits       feed_w = 0 -> 0
    Source       Uptime Institute, Tier Standard: Topology, definitions of N, N+1 and 2N
    """
    return (feeds - spare_feeds) * feed_w


@formula
def power_ramp(power_swing_w, swing_s):
    r"""Rate of change of power that generators and batteries must follow.

    .. math:: \dot P = \Delta{P} / \Delta{t}

    Symbols      \Delta{P}  power_swing_w [W] change of power;  \Delta{t}  swing_s [s] in which it happens;
                 returns [W/s]
    Valid for    power_swing_w >= 0; swing_s >= 1e-6
    Monotone     power_swing_w +; swing_s -
    Source       definition; swings of synchronous training: Choukse et al. 2025, arXiv:2508.14318
    """
    return power_swing_w / swing_s
