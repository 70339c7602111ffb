r"""Congestion: how many flows the fullest of several equal links carries, and what a flow gets of it."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import log, maximum, minimum

__all__ = ["congested_link_byte_per_s", "single_path_max_flows", "sprayed_max_flows"]


@formula
def single_path_max_flows(flows, links):
    r"""Flows on the fullest link when a hash (ECMP) gives each flow one path.

    .. math:: m = \min\left(F, \frac{F}{L} + \sqrt{\frac{2 F \ln L}{L}}\right)

    Symbols      F  flows [1] flows of equal rate;  L  links [1] equal links;  returns [1]
    Assumptions  an independent, even hash; with probability tending to 1 for F far above L ln L, and an upper guess of
                 the few collisions below that; long flows, as collectives have, so nothing averages out
    Valid for    1 <= flows <= 1e9; 1 <= links <= 1e6
    Monotone     flows +
    Source       Raab, Steger 1998, "Balls into bins - a simple and tight analysis", theorem 1,
                 doi:10.1007/3-540-49543-6_13; the hash per flow: RFC 2992
    """
    return minimum(flows, flows / links + (2 * flows * log(links) / links) ** 0.5)


@formula
def sprayed_max_flows(flows, links):
    r"""Flows on every link when packets are sprayed over all of them, or flows are placed one by one.

    .. math:: m = F / L

    Symbols      F  flows [1] flows of equal rate;  L  links [1] equal links;  returns [1]
    Assumptions  each packet takes any path; the receiver restores the order at no cost
    Valid for    1 <= flows <= 1e9; 1 <= links <= 1e6
    Monotone     flows +; links -
    Source       Dixit, Prakash, Hu, Kompella 2013, "On the impact of packet spraying in data center networks",
                 doi:10.1109/INFCOM.2013.6567015
    """
    return flows / links


@formula
def congested_link_byte_per_s(link_byte_per_s, max_flows):
    r"""Rate of the slowest flow, which is the rate of a collective: a full link shared by the flows on it.

    .. math:: \beta = \beta_0 / \max(m, 1)

    Symbols      \beta_0  link_byte_per_s [B/s] one link, one direction;
                 m  max_flows [1] flows on the fullest link (single_path_max_flows or sprayed_max_flows);
                 returns [B/s]
    Assumptions  fair shares; one flow fills a link at most
    Valid for    max_flows >= 0
    Monotone     link_byte_per_s +; max_flows -
    Source       Bertsekas, Gallager 1992, "Data Networks", section 6.5.2 (max-min fair shares)
    """
    return link_byte_per_s / maximum(max_flows, 1)
