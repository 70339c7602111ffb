r"""Collectives in the alpha-beta model: steps of latency, and bytes over the bandwidth of the slowest link.

`n_bytes` follows DESIGN section 3: the per-rank input of all-reduce and all-to-all, the gathered total of all-gather,
the un-scattered total of reduce-scatter. A protocol (LL, LL128, Simple) is one set of constants of the same law.
"""

from perfmodel.formulas._registry import formula
from perfmodel.ops import ceil, log2, minimum

__all__ = [
    "all_to_all_time",
    "hierarchical_all_reduce_time",
    "in_network_all_reduce_time",
    "ring_all_gather_time",
    "ring_all_reduce_time",
    "ring_link_byte_per_s",
    "ring_reduce_scatter_time",
    "send_recv_time",
    "tree_all_reduce_time",
]


@formula
def send_recv_time(n_bytes, latency_s, link_byte_per_s):
    r"""Point-to-point message.

    .. math:: T = \alpha + n / \beta

    Symbols      n  n_bytes [B] message;  \alpha  latency_s [s] latency;
                 \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Valid for    n_bytes >= 0; latency_s >= 0
    Monotone     n_bytes +; latency_s +; link_byte_per_s -
    Source       Hockney 1994, "The communication challenge for MPP", doi:10.1016/S0167-8191(06)80021-9
    """
    return latency_s + n_bytes / link_byte_per_s


@formula
def ring_all_gather_time(n_bytes, ranks, launch_s, latency_s, link_byte_per_s):
    r"""Ring all-gather of `n_bytes` in total.

    .. math:: T = t_0 + (p-1)\alpha + \frac{p-1}{p}\frac{n}{\beta}

    Symbols      n  n_bytes [B] gathered total;  p  ranks [1] ranks;  t_0  launch_s [s] floor of the kernel;
                 \alpha  latency_s [s] one ring step;  \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Assumptions  full duplex, equal hops, no congestion
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6; launch_s >= 0; latency_s >= 0
    Monotone     n_bytes +; latency_s +; link_byte_per_s -; launch_s +
    Source       Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication operations in MPICH",
                 section 3.1, doi:10.1177/1094342005051521
    """
    return launch_s * minimum(ranks - 1, 1) + (ranks - 1) * (latency_s + n_bytes / (ranks * link_byte_per_s))


@formula
def ring_reduce_scatter_time(n_bytes, ranks, launch_s, latency_s, link_byte_per_s):
    r"""Ring reduce-scatter of an `n_bytes` vector: the mirror image of the all-gather.

    .. math:: T = t_0 + (p-1)\alpha + \frac{p-1}{p}\frac{n}{\beta}

    Symbols      n  n_bytes [B] un-scattered total;  p  ranks [1] ranks;  t_0  launch_s [s] floor of the kernel;
                 \alpha  latency_s [s] one ring step;  \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Assumptions  full duplex, equal hops, reduction hidden behind the transfer
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6; launch_s >= 0; latency_s >= 0
    Monotone     n_bytes +; latency_s +; link_byte_per_s -; launch_s +
    Source       Thakur, Rabenseifner, Gropp 2005, section 3.3, doi:10.1177/1094342005051521
    """
    return ring_all_gather_time(n_bytes, ranks, launch_s, latency_s, link_byte_per_s)


@formula
def ring_all_reduce_time(n_bytes, ranks, launch_s, latency_s, link_byte_per_s):
    r"""Ring all-reduce: a reduce-scatter and an all-gather in one kernel.

    .. math:: T = t_0 + 2(p-1)\alpha + 2\frac{p-1}{p}\frac{n}{\beta}

    Symbols      n  n_bytes [B] message of each rank;  p  ranks [1] ranks;  t_0  launch_s [s] floor of the kernel;
                 \alpha  latency_s [s] one ring step;  \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Assumptions  full duplex, equal hops, no congestion
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6; launch_s >= 0; latency_s >= 0
    Monotone     n_bytes +; latency_s +; link_byte_per_s -; launch_s +
    Source       Patarasuk, Yuan 2009, "Bandwidth optimal all-reduce algorithms", doi:10.1016/j.jpdc.2008.09.002
    """
    return launch_s * minimum(ranks - 1, 1) + 2 * (ranks - 1) * (latency_s + n_bytes / (ranks * link_byte_per_s))


@formula
def tree_all_reduce_time(n_bytes, ranks, launch_s, latency_s, link_byte_per_s):
    r"""Pipelined double binary tree all-reduce: fewer steps than a ring, twice its bytes per link.

    .. math:: T = t_0 + 2\lceil\log_2 p\rceil\alpha + 2\frac{n}{\beta}

    Symbols      n  n_bytes [B] message of each rank;  p  ranks [1] ranks;  t_0  launch_s [s] floor of the kernel;
                 \alpha  latency_s [s] one tree level;  \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Assumptions  two complementary trees keep every link busy in both directions; chunks hide the depth
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6; launch_s >= 0; latency_s >= 0
    Monotone     n_bytes +; ranks +; latency_s +; link_byte_per_s -; launch_s +
    Limits       ranks = 1 -> 0
    Source       Sanders, Speck, Traeff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan",
                 doi:10.1016/j.parco.2009.09.001
    """
    more_than_one = minimum(ranks - 1, 1)
    return 2 * ceil(log2(ranks)) * latency_s + more_than_one * (launch_s + 2 * n_bytes / link_byte_per_s)


@formula
def in_network_all_reduce_time(n_bytes, ranks, launch_s, link_byte_per_s):
    r"""All-reduce in the switch: every rank sends its message up and receives the sum once.

    .. math:: T = t_0 + n / \beta

    Symbols      n  n_bytes [B] message of each rank;  p  ranks [1] ranks;  t_0  launch_s [s] floor of the kernel;
                 \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Assumptions  the switch adds at line rate; up and down overlap
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6; launch_s >= 0
    Monotone     n_bytes +; link_byte_per_s -; launch_s +
    Limits       ranks = 1 -> 0
    Source       Klenk et al. 2020, "An in-network architecture for accelerating shared-memory multiprocessor
                 collectives", doi:10.1109/ISCA45697.2020.00085
    """
    return minimum(ranks - 1, 1) * (launch_s + n_bytes / link_byte_per_s)


@formula
def all_to_all_time(n_bytes, ranks, launch_s, latency_s, link_byte_per_s):
    r"""Direct all-to-all of an `n_bytes` per-rank buffer, of which the own share stays.

    .. math:: T = t_0 + (p-1)\alpha + \frac{p-1}{p}\frac{n}{\beta}

    Symbols      n  n_bytes [B] input of each rank;  p  ranks [1] ranks;  t_0  launch_s [s] floor of the kernel;
                 \alpha  latency_s [s] one peer;  \beta  link_byte_per_s [B/s] one direction;  returns [s]
    Assumptions  equal shares, full bisection
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6; launch_s >= 0; latency_s >= 0
    Monotone     n_bytes +; latency_s +; link_byte_per_s -; launch_s +
    Source       Thakur, Rabenseifner, Gropp 2005, section 3.2, doi:10.1177/1094342005051521
    """
    return ring_all_gather_time(n_bytes, ranks, launch_s, latency_s, link_byte_per_s)


@formula
def ring_link_byte_per_s(inner_byte_per_s, outer_byte_per_s, ranks_per_domain):
    r"""Bandwidth of a ring that leaves its domain: all rails of the domain carry it together.

    .. math:: \beta = \min(\beta_i, k \beta_o)

    Symbols      \beta_i  inner_byte_per_s [B/s] link inside the domain;
                 \beta_o  outer_byte_per_s [B/s] link of one accelerator out of it;
                 k  ranks_per_domain [1] ranks of the group inside one domain;  returns [B/s]
    Assumptions  one network interface for each accelerator (rails); rings are laid so that each rail is used equally
    Valid for    ranks_per_domain >= 1
    Monotone     inner_byte_per_s +; outer_byte_per_s +; ranks_per_domain +
    Source       Wang et al. 2023, "Rail-only", arXiv:2307.12169, section 2 (rail-optimised networks)
    """
    return minimum(inner_byte_per_s, ranks_per_domain * outer_byte_per_s)


@formula
def hierarchical_all_reduce_time(
    n_bytes, inner_ranks, outer_ranks, launch_s, inner_latency_s, outer_latency_s, inner_byte_per_s, outer_byte_per_s
):
    r"""Two-level all-reduce: reduce-scatter inside, all-reduce of the shares across, all-gather inside.

    .. math:: T = t_0 + 2(q-1)\left(\alpha_i + \frac{n}{q\beta_i}\right)
              + 2(r-1)\left(\alpha_o + \frac{n}{q r \beta_o}\right)

    Symbols      n  n_bytes [B] message of each rank;  q  inner_ranks [1] ranks inside a domain;
                 r  outer_ranks [1] domains;  t_0  launch_s [s] floor of the kernel;
                 \alpha_i  inner_latency_s [s] inner step;  \alpha_o  outer_latency_s [s] outer step;
                 \beta_i  inner_byte_per_s [B/s] inner link;
                 \beta_o  outer_byte_per_s [B/s] outer link of one accelerator;  returns [s]
    Assumptions  levels one after the other, one network interface for each accelerator
    Valid for    n_bytes >= 0; 1 <= inner_ranks <= 1e4; 1 <= outer_ranks <= 1e6; launch_s >= 0
    Monotone     n_bytes +; inner_byte_per_s -; outer_byte_per_s -
    Source       Thakur, Rabenseifner, Gropp 2005, doi:10.1177/1094342005051521, applied at each level
    """
    inner = 2 * ring_all_gather_time(n_bytes, inner_ranks, 0, inner_latency_s, inner_byte_per_s)
    outer = ring_all_reduce_time(n_bytes / inner_ranks, outer_ranks, 0, outer_latency_s, outer_byte_per_s)
    return inner + outer + launch_s * minimum(inner_ranks * outer_ranks - 1, 1)
