r"""Queues in front of a serving replica: iterations as a gated cycle, bursts over all time scales, places."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import exp, log, maximum, minimum, sqrt

__all__ = [
    "allen_cunneen_waiting_time",
    "arrival_sees_work",
    "backlog_of_window",
    "crowd_of_window",
    "gated_cycle_time",
    "gated_residual_cycle",
    "gated_token_time",
    "kingman_waiting_time",
    "mm1_waiting_time",
    "modulated_cycle_time",
    "palm_excess",
    "rate_of_batch",
    "split_dispersion",
    "wilson_hilferty_gamma",
]


@formula
def mm1_waiting_time(service_s, load):
    r"""Mean wait before one server with Poisson arrivals and exponential service: the textbook's queue.

    .. math:: W = \frac{\rho}{1 - \rho}\, s

    Symbols      s  service_s [s] mean service;  \rho  load [1] share of time it works;  returns [s]
    Assumptions  Poisson arrivals, exponential service, first come first served
    Valid for    service_s >= 0; 0 <= load <= 0.999
    Monotone     service_s +; load +
    Limits       load = 0 -> 0
    Source       Kleinrock 1975, "Queueing Systems", volume 1, eq. 3.24 and Little's law
    """
    return load / (1 - load) * service_s


@formula
def kingman_waiting_time(service_s, load, arrival_variation, service_variation):
    r"""Mean wait before one server in heavy traffic, whatever the laws of arrivals and of service.

    .. math:: W = \frac{\rho}{1 - \rho}\,\frac{c_a^2 + c_s^2}{2}\, s

    Symbols      s  service_s [s] mean service;  \rho  load [1] share of time it works;
                 c_a^2  arrival_variation [1] squared coefficient of variation of the time between arrivals;
                 c_s^2  service_variation [1] that of the service;  returns [s]
    Assumptions  times between arrivals are independent of each other; exact for Poisson arrivals, else for high load
    Valid for    service_s >= 0; 0 <= load <= 0.999; arrival_variation >= 0; service_variation >= 0
    Monotone     service_s +; load +; arrival_variation +; service_variation +
    Limits       load = 0 -> 0
    Source       Kingman 1961, "The single server queue in heavy traffic", doi:10.1017/S0305004100036094
    """
    return mm1_waiting_time(service_s, load) * (arrival_variation + service_variation) / 2


@formula
def allen_cunneen_waiting_time(service_s, load, servers, arrival_variation, service_variation):
    r"""Mean wait before several equal servers with one queue.

    .. math:: W = \frac{\rho^{\sqrt{2 (m + 1)} - 1}}{m (1 - \rho)}\,\frac{c_a^2 + c_s^2}{2}\, s

    Symbols      s  service_s [s] mean service;  \rho  load [1] share of time a server works;  m  servers [1] alike;
                 c_a^2  arrival_variation [1] squared coefficient of variation of the time between arrivals;
                 c_s^2  service_variation [1] that of the service;  returns [s]
    Assumptions  the wait of exponential servers by Sakasegawa's exponent, scaled as Kingman's
    Valid for    service_s >= 0; 0.001 <= load <= 0.999; servers >= 1; arrival_variation >= 0;
                 service_variation >= 0
    Monotone     service_s +; load +; arrival_variation +; service_variation +
    Source       Allen 1990, "Probability, Statistics, and Queueing Theory", 2nd ed., section 5.3 (Allen-Cunneen);
                 Sakasegawa 1977, "An approximation formula L_q = alpha rho^beta / (1 - rho)", doi:10.1007/BF02532775
    """
    exponent = sqrt(2 * (servers + 1)) - 1
    busy = exp(exponent * log(load))
    return busy / (servers * (1 - load)) * (arrival_variation + service_variation) / 2 * service_s


@formula
def gated_cycle_time(decode_s, load):
    r"""Mean time between two tokens of an answer where each iteration takes the prompts that came during the last one.

    .. math:: C = \frac{t_d}{1 - \rho}

    Symbols      t_d  decode_s [s] a decode step of all running answers;
                 \rho  load [1] share of time that prompts add to iterations: rate times added time;  returns [s]
    Assumptions  steady arrivals of any law; an iteration has room for all prompts that wait
    Valid for    decode_s >= 0; 0 <= load <= 0.999
    Monotone     decode_s +; load +
    Source       Takagi 1991, "Queueing Analysis", volume 1, section 2.2 (gated service with vacations: mean cycle)
    """
    return decode_s / (1 - load)


@formula
def gated_residual_cycle(decode_s, load, backlog_s):
    r"""Mean length of the iteration that an arriving prompt meets: long ones are met more often.

    .. math:: C^* = \frac{t_d}{1 - \rho} + \frac{2 Z}{1 + \rho}

    Symbols      t_d  decode_s [s] a decode step of all running answers;
                 \rho  load [1] share of time that prompts add to iterations;
                 Z  backlog_s [s] mean work of prompts before a server that does nothing else;  returns [s]
    Assumptions  gated service with vacations t_d; second moment of the cycle by its recursion; exact for Poisson
    Valid for    decode_s >= 0; 0 <= load <= 0.999; backlog_s >= 0
    Monotone     decode_s +; backlog_s +
    Source       derived from C' = t_d + work arriving in C: E[C^2](1 - rho^2) = t_d^2 + 2 t_d rho E[C] + E[C] var; the
                 same model as Takagi 1991, "Queueing Analysis", volume 1, section 2.2
    """
    return gated_cycle_time(decode_s, load) + 2 * backlog_s / (1 + load)


@formula
def rate_of_batch(batch, decode_s, added_s, decode_steps):
    r"""Requests a second that keep so many answers running.

    .. math:: \lambda = \frac{B}{(O - 1)\, t_d + B\, a}

    Symbols      B  batch [1] running answers;  t_d  decode_s [s] a decode step of them;
                 a  added_s [s] what one prompt adds to the iterations;
                 O-1  decode_steps [1] decode steps of an answer, mean;  returns [1/s]
    Assumptions  Little's law over the gated cycle: B = lambda (O - 1) t_d / (1 - lambda a)
    Valid for    batch >= 0; decode_s >= 1e-9; added_s >= 0; decode_steps >= 1e-6
    Monotone     batch +; decode_s -; added_s -; decode_steps -
    Limits       batch = 0 -> 0
    Source       Little 1961, "A proof for the queuing formula L = lambda W", doi:10.1287/opre.9.3.383, and
                 gated_cycle_time
    """
    return batch / (decode_steps * decode_s + batch * added_s)


@formula
def backlog_of_window(window_s, work_rate, capacity, work_variance_per_s, dispersion, likelihood=1):
    r"""Work that waits because more than usual came in the last so many seconds; its maximum over windows is the queue.

    .. math:: Z(x) = \frac{1}{c}\left(\sqrt{2\,\ell\, I(x)\, w\, x} - (c - \rho)\, x\right)

    Symbols      x  window_s [s] the window;  \rho  work_rate [1] seconds of work that arrive in a second;
                 c  capacity [1] seconds of it that are done in a second;
                 w  work_variance_per_s [s] variance of the work of Poisson arrivals, for each second: rate E[a^2];
                 I  dispersion [1] variance in such windows over that of Poisson arrivals;
                 \ell  likelihood [1] 1 for the mean, ln(1 / (1 - q)) for the q-th percentile;  returns [s]
    Assumptions  work in a window is about normal; the mean is exact for M/G/1 (constant I = 1), where its maximum is
                 w / (2 (c - rho)), and the percentiles are those of the exponential law
    Valid for    window_s >= 0; 0 <= work_rate <= 1; 0.01 <= capacity <= 1; work_variance_per_s >= 0; dispersion >= 0;
                 likelihood >= 0
    Monotone     work_variance_per_s +; dispersion +; likelihood +; work_rate +
    Limits       window_s = 0 -> 0
    Source       Whitt and You 2018, "Using robust queueing to expose the impact of dependence in single-server queues",
                 doi:10.1287/opre.2017.1649 (mean); Choe and Shroff 1998, "A central-limit-theorem-based approach for
                 analyzing queue behavior in high-speed networks", doi:10.1109/90.731202 (percentiles)
    """
    return (sqrt(2 * likelihood * dispersion * work_variance_per_s * window_s) - (capacity - work_rate) * window_s) / (
        capacity
    )


@formula
def palm_excess(dispersion, slope):
    r"""Requests beyond the mean rate that come within a window after a request, because requests come in bursts.

    .. math:: h(x) = \frac{1}{2}\left(I(x) + x I'(x) - 1\right)

    Symbols      I  dispersion [1] variance of counts in such windows over their mean;
                 xI'  slope [1] its increase for each e-fold of the window;  returns [1]
    Assumptions  stationary arrivals: V'(x) = lambda (1 + 2 h(x)) with V = lambda x I(x)
    Valid for    dispersion >= 1; slope >= 0
    Monotone     dispersion +; slope +
    Source       Cox and Isham 1980, "Point Processes", eq. 2.30 (variance-time curve and intensity after a point)
    """
    return maximum(0, (dispersion + slope - 1) / 2)


@formula
def split_dispersion(dispersion, ways):
    r"""Index of dispersion of the share of one of several replicas to which requests go at random.

    .. math:: I_k = 1 + \frac{I - 1}{k}

    Symbols      I  dispersion [1] of all arrivals;  k  ways [1] replicas;  returns [1]
    Assumptions  each request goes to any replica with equal chance, independent of the others
    Valid for    dispersion >= 0; ways >= 1
    Monotone     dispersion +
    Source       Cox and Isham 1980, "Point Processes", section 4.3 (random thinning)
    """
    return 1 + (dispersion - 1) / ways


@formula
def wilson_hilferty_gamma(mean, deviation, normal_score):
    r"""Percentile of a gamma law of given mean and standard deviation.

    .. math:: q = m \max\left(0,\; 1 - \frac{v}{9} + z\sqrt{\frac{v}{9}}\right)^3, \quad v = (\sigma / m)^2

    Symbols      m  mean [s] of the law;  \sigma  deviation [s] standard;  z  normal_score [1] of the percentile;
                 returns [s]
    Assumptions  the cube root of a gamma variable is about normal
    Valid for    mean >= 1e-9; deviation >= 0; -3 <= normal_score <= 3
    Monotone     normal_score +
    Source       Wilson and Hilferty 1931, "The distribution of chi-square", doi:10.1073/pnas.17.12.684
    """
    ninth = minimum(deviation / mean, 3) ** 2 / 9
    return mean * maximum(0, 1 - ninth + normal_score * sqrt(ninth)) ** 3


@formula
def arrival_sees_work(work_variance_per_s, mean_work_s):
    r"""Chance that an arriving request finds work before it, where requests come in bursts.

    .. math:: p = \max\left(0,\; 1 - \frac{w}{2 Z}\right)

    Symbols      w  work_variance_per_s [s] rate times the second moment of the work of a request;
                 Z  mean_work_s [s] work in the system, mean over time;  returns [1]
    Assumptions  over busy time the work has the mean Z / \rho, and an arrival that finds any finds as much; for M/G/1,
                 Z = w / (2 (1 - \rho)), it is the load
    Valid for    work_variance_per_s >= 0; mean_work_s >= 1e-9
    Monotone     work_variance_per_s -; mean_work_s +
    Source       Brumelle 1971, "On the relation between customer and time averages in queues", doi:10.2307/3212174:
                 Z = \rho W + w / 2, with W the mean work that arrivals find
    """
    return maximum(0, 1 - work_variance_per_s / (2 * mean_work_s))


@formula
def gated_token_time(cycle_s, first_cycle_s, load, decode_steps):
    r"""Mean time between the tokens of an answer that began in a long iteration: what came lengthens the next.

    .. math:: T = C + (C_0 - C)\,\frac{\rho\,(1 - \rho^n)}{(1 - \rho)\, n}

    Symbols      C  cycle_s [s] mean iteration;  C_0  first_cycle_s [s] the iteration of the prompt itself;
                 \rho  load [1] share of time that prompts add to iterations;
                 n  decode_steps [1] iterations that follow;  returns [s]
    Assumptions  gated service: the mean of an iteration is t_d + \rho times the one before
    Valid for    cycle_s >= 0; first_cycle_s >= 0; 0.001 <= load <= 0.98; decode_steps >= 1
    Monotone     first_cycle_s +
    Source       derived from the recursion of gated service, Takagi 1991, "Queueing Analysis", volume 1, section 2.2
    """
    remains = 1 - exp(decode_steps * log(load))
    return cycle_s + (first_cycle_s - cycle_s) * load * remains / ((1 - load) * decode_steps)


@formula
def crowd_of_window(window_s, load, work_variance_per_s, dispersion, excess_s, normal_score):
    r"""Work that has piled up because arrivals ran above the mean for so long; its maximum over windows is the crowd.

    .. math:: Z(x) = h(x) + z\sqrt{I(x)\, w\, x} - (1 - \rho)\, x

    Symbols      x  window_s [s] the window;  \rho  load [1] seconds of work that arrive in a second;
                 w  work_variance_per_s [s] variance of the work of Poisson arrivals, for each second: rate E[a^2];
                 I  dispersion [1] variance in such windows over that of Poisson arrivals;
                 h  excess_s [s] work beyond the mean that comes in the window before a request, as bursts have it;
                 z  normal_score [1] of the percentile;  returns [s]
    Assumptions  one window rules: rates that vary slowly, so that overload is met once and not tried again and again
    Valid for    window_s >= 0; 0 <= load <= 1; work_variance_per_s >= 0; dispersion >= 0; excess_s >= 0;
                 0 <= normal_score <= 3
    Monotone     work_variance_per_s +; dispersion +; normal_score +; load +; excess_s +
    Source       Norros 1994, "A storage model with self-similar input", doi:10.1007/BF01158964 (the lower bound
                 max over windows of a normal tail)
    """
    return excess_s + normal_score * sqrt(dispersion * work_variance_per_s * window_s) - (1 - load) * window_s


@formula
def modulated_cycle_time(decode_s, batch, slope_s, added_s, decode_steps, arrival_rate_per_s):
    r"""Mean time between two tokens while requests come at another rate for longer than an answer takes.

    .. math:: C = \frac{t_d - s B}{1 - \lambda\,(a + s\, (O - 1))}

    Symbols      t_d  decode_s [s] a decode step of the usual batch;  B  batch [1] usual running answers;
                 s  slope_s [s] by which one more answer lengthens a step;
                 a  added_s [s] what a prompt adds to the iterations;  O-1  decode_steps [1] of an answer, mean;
                 \lambda  arrival_rate_per_s [1/s] for the time being, below 1 / (a + s (O - 1));  returns [s]
    Assumptions  steps are linear in the batch; the batch follows the rate: B' = lambda (O - 1) C
    Valid for    decode_s >= 1; 0 <= batch <= 100; 0 <= slope_s <= 0.001; 0 <= added_s <= 0.01;
                 0 <= decode_steps <= 10; 0 <= arrival_rate_per_s <= 10
    Monotone     decode_s +; added_s +; decode_steps +; arrival_rate_per_s +; batch -
    Source       derived from gated_cycle_time and Little's law; slow rates: pointwise stationary approximation,
                 Green and Kolesar 1991, doi:10.1287/mnsc.37.1.84
    """
    return (decode_s - slope_s * batch) / (1 - arrival_rate_per_s * (added_s + slope_s * decode_steps))
