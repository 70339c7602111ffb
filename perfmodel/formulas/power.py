r"""Power of one accelerator: from activity, at lower clocks and under a cap."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum, minimum

__all__ = [
    "accelerator_power",
    "activity_energy",
    "clock_dynamic_ratio",
    "energy_at_clock",
    "idle_gap_time_at_clock",
    "iteration_mean_power",
    "loaded_time",
    "time_at_clock",
]


@formula
def accelerator_power(
    static_w,
    idle_w,
    active_w,
    hbm_w,
    tensor_w,
    link_w,
    active_share,
    memory_share,
    compute_share,
    link_share,
    dynamic_ratio=1,
):
    r"""Power of an accelerator from what its parts do.

    .. math:: P = P_s + (P_i - P_s + P_a a + P_t c)\,\phi + P_h m + P_l l

    Symbols      P_s  static_w [W] at no clock, a process present;  P_i  idle_w [W] at full clocks, a process present;
                 P_a  active_w [W] more while a kernel runs;  P_h  hbm_w [W] more at the full memory bandwidth;
                 P_t  tensor_w [W] more at the dense peak;  P_l  link_w [W] more at the full link bandwidth;
                 a  active_share [1] of the time in which a kernel runs;  m  memory_share [1] of the memory bandwidth;
                 c  compute_share [1] of the dense peak;  l  link_share [1] of the link bandwidth;
                 \phi  dynamic_ratio [1] dynamic power at this clock over that at full clock;  returns [W]
    Assumptions  parts add; memory and links keep their clocks; no limit (the device holds its cap by lower clocks)
    Valid for    active_share <= 1; memory_share <= 1; compute_share <= 1; link_share <= 1; dynamic_ratio <= 1;
                 static_w >= 0; idle_w >= 0; fails where a device clips at its power limit
    Monotone     active_share +; memory_share +; compute_share +; link_share +; active_w +; hbm_w +;
                 tensor_w +; link_w +
    Source       linear activity model after Hong and Kim 2010, "An integrated GPU power and performance model",
                 doi:10.1145/1815961.1815998
    """
    dynamic_w = idle_w - static_w + active_w * active_share + tensor_w * compute_share
    return static_w + dynamic_w * dynamic_ratio + hbm_w * memory_share + link_w * link_share


@formula
def clock_dynamic_ratio(clock_ratio, voltage_slope, voltage_floor):
    r"""Dynamic power at a lower clock over that at full clock: clock times voltage squared.

    .. math:: \phi = r\,\max(v_0,\, 1 - k (1 - r))^2

    Symbols      r  clock_ratio [1] clock over full clock;  k  voltage_slope [1] relative voltage per relative clock;
                 v_0  voltage_floor [1] lowest voltage over that at full clock;  returns [1]
    Assumptions  voltage is linear in the clock down to a floor
    Valid for    1e-2 <= clock_ratio <= 1; 0 <= voltage_slope <= 4; 1e-1 <= voltage_floor <= 1
    Monotone     clock_ratio +; voltage_floor +
    Limits       clock_ratio = 1 -> 1
    Source       CMOS switching power, P = C V^2 f; linear voltage after Mei et al. 2017, arXiv:1610.01784
    """
    voltage = maximum(voltage_floor, 1 - voltage_slope * (1 - clock_ratio))
    return clock_ratio * voltage**2


@formula
def time_at_clock(time_s, clock_bound_share, clock_ratio):
    r"""Time of work at a lower clock: what waits for memory or links does not slow, the rest does.

    .. math:: T = t\,(1 - s + s / r)

    Symbols      t  time_s [s] at full clock;  s  clock_bound_share [1] of it that follows the clock;
                 r  clock_ratio [1] clock over full clock;  returns [s]
    Assumptions  memory and links keep their clocks; no overlap appears or disappears
    Valid for    clock_bound_share <= 1; 1e-2 <= clock_ratio <= 1; time_s >= 0
    Monotone     time_s +; clock_bound_share +; clock_ratio -
    Source       Etinski et al. 2012, "Understanding the future of energy-performance trade-off via DVFS in HPC
                 environments", eq. 2, doi:10.1016/j.jpdc.2012.01.006
    """
    return time_s * (1 - clock_bound_share + clock_bound_share / clock_ratio)


@formula
def idle_gap_time_at_clock(busy_s, gap_s, clock_ratio):
    r"""Time of a job that alternates between clock-bound work and gaps (input, synchronisation) at a lower clock.

    .. math:: T = g + b / r

    Symbols      b  busy_s [s] of work at full clock;  g  gap_s [s] of gaps;
                 r  clock_ratio [1] clock over full clock;  returns [s]
    Assumptions  work is wholly clock-bound, gaps not at all
    Valid for    busy_s >= 0; gap_s >= 0; 1e-2 <= clock_ratio <= 1
    Monotone     busy_s +; gap_s +; clock_ratio -
    Source       the two-state form of time_at_clock
    """
    return gap_s + busy_s / clock_ratio


@formula
def energy_at_clock(time_s, static_w, dynamic_w, clock_bound_share, clock_ratio, voltage_slope, voltage_floor):
    r"""Energy of work at a lower clock: power falls, time rises, so there is a clock of least energy.

    .. math:: E = (P_s + P_d\,\phi(r))\,t\,(1 - s + s / r)

    Symbols      t  time_s [s] at full clock;  P_s  static_w [W] that does not follow the clock;
                 P_d  dynamic_w [W] that does, at full clock;  s  clock_bound_share [1] of the time that follows it;
                 r  clock_ratio [1] clock over full clock;  k  voltage_slope [1] relative voltage per relative clock;
                 v_0  voltage_floor [1] lowest voltage over that at full clock;  returns [J]
    Assumptions  activity of the clocked parts stays as it was
    Valid for    clock_bound_share <= 1; 1e-2 <= clock_ratio <= 1; 0 <= voltage_slope <= 4;
                 1e-1 <= voltage_floor <= 1; time_s >= 0; static_w >= 0; dynamic_w >= 0
    Monotone     static_w +; dynamic_w +; time_s +
    Source       power (clock_dynamic_ratio) times time (time_at_clock); the U shape: You et al. 2023, Zeus,
                 arXiv:2208.06102, figure 3
    """
    power_w = static_w + dynamic_w * clock_dynamic_ratio(clock_ratio, voltage_slope, voltage_floor)
    return power_w * time_at_clock(time_s, clock_bound_share, clock_ratio)


@formula
def iteration_mean_power(compute_s, sync_s, compute_w, sync_w):
    r"""Mean power of a training iteration: forward and backward at one level, synchronisation in a trough.

    .. math:: \bar P = \frac{P_c t_c + P_y t_y}{t_c + t_y}

    Symbols      t_c  compute_s [s] forward and backward;  t_y  sync_s [s] synchronisation at the boundary;
                 P_c  compute_w [W] in the one;  P_y  sync_w [W] in the other;  returns [W]
    Valid for    compute_s >= 1e-9; sync_s >= 0; compute_w >= 0; sync_w >= 0
    Monotone     compute_w +; sync_w +
    Source       mean over two states; troughs of 20 to 75 % of TDP: Patel et al. 2024, POLCA, arXiv:2308.12908
    """
    return (compute_w * compute_s + sync_w * sync_s) / (compute_s + sync_s)


@formula
def loaded_time(time_s, compute_s, memory_s, link_s, compute_weight, memory_weight, link_weight):
    r"""Time at the power limit in which a device would draw as much, beyond a running kernel, as a kernel draws.

    .. math:: t_l = \min(t,\, w_c t_c + w_m t_m + w_n t_n)

    Symbols      t  time_s [s] of the kernel;  t_c  compute_s [s] of arithmetic;  t_m  memory_s [s] of memory traffic;
                 t_n  link_s [s] of messages;  w_c  compute_weight [1] what arithmetic draws over all that the limit
                 leaves to a running kernel;  w_m  memory_weight [1] likewise memory;
                 w_n  link_weight [1] likewise links;  returns [s]
    Assumptions  parts add (accelerator_power); the limit holds within each kernel
    Valid for    time_s >= 0; compute_s >= 0; memory_s >= 0; link_s >= 0; compute_weight >= 0; memory_weight >= 0;
                 link_weight >= 0
    Monotone     time_s +; compute_s +; memory_s +; link_s +
    Source       accelerator_power with a limit, over the limit's own scale
    """
    return minimum(time_s, compute_weight * compute_s + memory_weight * memory_s + link_weight * link_s)


@formula
def activity_energy(time_s, kernel_s, loaded_s, idle_w, active_w, room_w):
    r"""Energy of an accelerator over work that consists of kernels and of waiting for the host.

    .. math:: E = P_i t + P_a t_k + P_r t_l

    Symbols      t  time_s [s] in all;  t_k  kernel_s [s] in which a kernel runs, messages and waits for them included;
                 t_l  loaded_s [s] sum of loaded_time;  P_i  idle_w [W] with a process present;
                 P_a  active_w [W] more while a kernel runs;
                 P_r  room_w [W] from there to the limit;  returns [J]
    Assumptions  a rank that waits for others does so in a kernel that polls
    Valid for    time_s >= 0; kernel_s >= 0; loaded_s >= 0; idle_w >= 0; active_w >= 0; room_w >= 0
    Monotone     time_s +; kernel_s +; loaded_s +; idle_w +; active_w +; room_w +
    Source       accelerator_power integrated over time
    """
    return idle_w * time_s + active_w * kernel_s + room_w * loaded_s
