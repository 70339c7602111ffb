r"""What overlap hides, what it costs, and what synchronisation adds."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import less, log, maximum, minimum, sqrt, where

__all__ = ["expected_maximum_of_normals", "exposed_time", "host_exposed_time", "overlapped_time", "straggler_slowdown"]


@formula
def overlapped_time(compute_s, communication_s, exposed_share):
    r"""Time of two activities that run side by side and disturb each other.

    .. math:: T = \max(C, M) + z \min(C, M)

    Symbols      C  compute_s [s] arithmetic alone;  M  communication_s [s] transfer alone;
                 z  exposed_share [1] 0 is perfect overlap, 1 is one after the other, above 1 the overlap loses;
                 returns [s]
    Assumptions  what the shorter activity loses to contention is a share of the shorter one
    Valid for    compute_s >= 0; communication_s >= 0; 0 <= exposed_share <= 2
    Monotone     compute_s +; communication_s +; exposed_share +
    Source       Hidden shares after Wang et al. 2023, "Overlap communication with dependent computation",
                 doi:10.1145/3567955.3567959; the linear contention term is derived: z = 0 and z = 1 are its two limits
    """
    return maximum(compute_s, communication_s) + exposed_share * minimum(compute_s, communication_s)


@formula
def exposed_time(compute_s, communication_s, exposed_share):
    r"""The part of a transfer that an overlap leaves visible.

    .. math:: E = \max(C, M) + z \min(C, M) - C

    Symbols      C  compute_s [s] arithmetic alone;  M  communication_s [s] transfer alone;
                 z  exposed_share [1] share of the shorter one that contention leaves;  returns [s]
    Valid for    compute_s >= 0; communication_s >= 0; 0 <= exposed_share <= 2
    Monotone     communication_s +; exposed_share +
    Source       `overlapped_time` less the arithmetic; doi:10.1145/3567955.3567959
    """
    return overlapped_time(compute_s, communication_s, exposed_share) - compute_s


@formula
def host_exposed_time(device_s, host_s):
    r"""Time by which a device waits for the host to launch its kernels.

    .. math:: E = \max(0, H - D)

    Symbols      D  device_s [s] what the device works;  H  host_s [s] what the host needs to launch it;  returns [s]
    Assumptions  the host runs ahead of the device whenever it is faster
    Valid for    device_s >= 0; host_s >= 0
    Monotone     device_s -; host_s +
    Source       Kwon et al. 2020, "Nimble", arXiv:2012.02732, section 2 (GPU idle time from scheduling cost)
    """
    return maximum(host_s - device_s, 0)


@formula
def expected_maximum_of_normals(ranks, euler_gamma=0.5772156649015329, log_4_pi=2.5310242469692907):
    r"""Expected largest of `ranks` independent standard normal draws.

    .. math:: E_N \approx u - \frac{\ln\ln N + \ln 4\pi}{2u} + \frac{\gamma}{u}, \quad u = \sqrt{2 \ln N}

    Symbols      N  ranks [1] draws;  \gamma  euler_gamma [1] Euler's constant;
                 c  log_4_pi [1] natural logarithm of 4 pi;  returns [1]
    Assumptions  extreme-value limit, 0.2 too large at N = 2 and 0.04 at N = 100
    Valid for    1 <= ranks <= 1e7
    Limits       ranks = 1 -> 0
    Source       Cramer 1946, "Mathematical Methods of Statistics", section 28.6
    Checked      exact values of Tippett 1925 for N = 100 and 1000
    """
    many = maximum(ranks, 2)
    u = sqrt(2 * log(many))
    largest = u - (log(log(many)) + log_4_pi) / (2 * u) + euler_gamma / u
    return where(less(ranks, 2), 0, largest)


@formula
def straggler_slowdown(ranks, relative_spread):
    r"""Relative loss of a synchronous step to the slowest of many nominally equal accelerators.

    .. math:: \delta = \sigma E_N

    Symbols      N  ranks [1] accelerators that wait for each other;
                 \sigma  relative_spread [1] standard deviation of their speed over the mean;  returns [1]
    Assumptions  lasting differences between parts (binning, cooling), normal and independent; every rank waits for
                 every other once a step
    Valid for    1 <= ranks <= 1e7; 0 <= relative_spread <= 0.1
    Monotone     relative_spread +
    Limits       ranks = 1 -> 0
    Source       Sinha et al. 2022, "Not all GPUs are created equal", arXiv:2208.11035 (8 % variation within a cluster)
    """
    return relative_spread * expected_maximum_of_normals(ranks)
