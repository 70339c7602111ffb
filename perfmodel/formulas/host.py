r"""The host: what launching kernels costs, what a captured graph saves, and when the device stops waiting."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum

__all__ = [
    "coupled_break_even_batch",
    "coupled_speedup",
    "device_bound_batch",
    "device_bound_batch_ratio",
    "dispatched_time",
    "eager_dispatch_time",
    "fusion_speedup",
    "graph_break_even_kernels",
    "graph_replay_time",
    "host_bound_time",
    "launch_queue_time",
]


@formula
def eager_dispatch_time(kernels, launch_s):
    r"""Host time that eager execution spends to launch kernels one by one.

    .. math:: H = n\,t_l

    Symbols      n  kernels [1] kernels launched;
                 t_l  launch_s [s] host time of one (framework dispatch and driver call);  returns [s]
    Assumptions  one host thread, every launch costs the same
    Valid for    kernels >= 0; launch_s >= 0
    Monotone     kernels +; launch_s +
    Limits       kernels = 0 -> 0
    Source       Kwon et al. 2020, "Nimble", arXiv:2012.02732, section 2 (scheduling cost of every GPU task)
    """
    return kernels * launch_s


@formula
def graph_replay_time(kernels, graph_launch_s, node_s):
    r"""Host time to replay kernels that were captured in one graph.

    .. math:: H = t_g + n\,t_n

    Symbols      n  kernels [1] nodes of the graph;  t_g  graph_launch_s [s] one call that launches the graph;
                 t_n  node_s [s] what every node adds to that call;  returns [s]
    Assumptions  capture and instantiation are paid once, outside; shapes and addresses stay the same
    Valid for    kernels >= 0; graph_launch_s >= 0; node_s >= 0
    Monotone     kernels +; graph_launch_s +; node_s +
    Source       NVIDIA, "CUDA Programming Guide", section 4.2 CUDA Graphs (set-up paid once at instantiation),
                 https://docs.nvidia.com/cuda/cuda-programming-guide/04-special-topics/cuda-graphs.html; the linear
                 cost of a node is assumed
    """
    return graph_launch_s + kernels * node_s


@formula
def graph_break_even_kernels(launch_s, graph_launch_s, node_share):
    r"""Kernels from which a captured graph costs the host less than launching them one by one.

    .. math:: n^* = \frac{t_g}{t_l (1 - r)}

    Symbols      t_l  launch_s [s] host time of one eager launch;  t_g  graph_launch_s [s] launch of the graph;
                 r  node_share [1] cost of a node of the graph over that of an eager launch;  returns [1]
    Assumptions  those of `eager_dispatch_time` and `graph_replay_time`
    Valid for    launch_s >= 0; graph_launch_s >= 0; 0 <= node_share <= 0.99;
                 fails when a node costs as much as a launch
    Monotone     launch_s -; graph_launch_s +; node_share +
    Source       Derived: `eager_dispatch_time` equal to `graph_replay_time`; the two ways of launching are those of
                 Kwon et al. 2020, arXiv:2012.02732
    """
    return graph_launch_s / (launch_s * (1 - node_share))


@formula
def host_bound_time(device_s, host_s):
    r"""Time of a step in which the device works while the host launches ahead of it: the slower of the two.

    .. math:: T = \max(D, H)

    Symbols      D  device_s [s] what the device works;  H  host_s [s] what the host needs to launch it;  returns [s]
    Assumptions  no synchronisation inside the step; the first launch and the last kernel are short against the step
    Valid for    device_s >= 0; host_s >= 0
    Monotone     device_s +; host_s +
    Source       Vellaisamy et al. 2025, "Characterizing and Optimizing LLM Inference Workloads on CPU-GPU Coupled
                 Architectures", arXiv:2504.11750 (CPU-bound and GPU-bound regions)
    """
    return maximum(device_s, host_s)


@formula
def dispatched_time(kernels, dispatch_s, launch_s, kernel_s):
    r"""Time from the first launch call to the end of the last of `kernels` equal kernels of one stream.

    .. math:: T = t_l + (n - 1) \max(t_d, d) + d

    Symbols      n  kernels [1] kernels of the stream;  t_d  dispatch_s [s] from one launch call to the next;
                 t_l  launch_s [s] from a launch call to the start of its kernel on an idle device;
                 d  kernel_s [s] time of one kernel;  returns [s]
    Assumptions  a kernel starts when its launch has arrived and its predecessor has ended
    Valid for    kernels >= 1; dispatch_s >= 0; launch_s >= 0; kernel_s >= 0
    Monotone     kernels +; dispatch_s +; launch_s +; kernel_s +
    Source       Derived from that queue; regions and metric of Vellaisamy et al. 2025, arXiv:2504.11750
    """
    return launch_s + (kernels - 1) * maximum(dispatch_s, kernel_s) + kernel_s


@formula
def launch_queue_time(kernels, dispatch_s, launch_s, kernel_s):
    r"""Total kernel launch and queueing time (TKLQT): launch call to kernel start, summed over equal kernels.

    .. math:: Q = n\,t_l + \frac{n (n - 1)}{2} \max(0, d - t_d)

    Symbols      n  kernels [1] kernels of the stream;  t_d  dispatch_s [s] from one launch call to the next;
                 t_l  launch_s [s] from a launch call to the start of its kernel on an idle device;
                 d  kernel_s [s] time of one kernel;  returns [s]
    Assumptions  kernel i starts at t_l + i max(t_d, d): a plateau n t_l while the host binds, then every kernel waits
                 d - t_d longer than the one before
    Valid for    kernels >= 1; dispatch_s >= 0; launch_s >= 0; kernel_s >= 0;
                 fails when so many launches wait (about a thousand) that the host blocks
    Monotone     kernels +; dispatch_s -; launch_s +; kernel_s +
    Source       Metric: Vellaisamy et al. 2025, arXiv:2504.11750 (SKIP, TKLQT); the closed form is derived
    """
    return kernels * launch_s + kernels * (kernels - 1) / 2 * maximum(kernel_s - dispatch_s, 0)


@formula
def device_bound_batch(dispatch_s, fixed_s, item_s):
    r"""Batch at which a kernel takes as long as the host needs for its launch: CPU-bound below, GPU-bound above.

    .. math:: b^* = \max\left(0, \frac{t_d - a}{c}\right)

    Symbols      t_d  dispatch_s [s] host time of one kernel;  a  fixed_s [s] time of a kernel at batch zero;
                 c  item_s [s] what one more sample adds to a kernel;  returns [1]
    Assumptions  the mean kernel takes a + c b; zero means that the device binds at every batch
    Valid for    dispatch_s >= 0; fixed_s >= 0; item_s >= 0
    Monotone     dispatch_s +; fixed_s -; item_s -
    Source       Inverse of a linear device time; the transition is that of Vellaisamy et al. 2025, arXiv:2504.11750
    """
    return maximum(dispatch_s - fixed_s, 0) / item_s


@formula
def device_bound_batch_ratio(host_slowdown, device_speedup, fixed_share):
    r"""Transition batch of a coupled part (GH200) over that of a PCIe part, from the speeds of host and device.

    .. math:: \frac{b'}{b} = \frac{s g - f}{1 - f}

    Symbols      s  host_slowdown [1] launch time of the coupled host over that of the PCIe host;
                 g  device_speedup [1] kernel time of the PCIe device over that of the coupled device;
                 f  fixed_share [1] kernel time at batch zero over launch time, on the PCIe part;  returns [1]
    Assumptions  kernels of a + c b on one part and (a + c b) / g on the other; f < 1, or the PCIe part is never
                 CPU-bound
    Valid for    host_slowdown >= 1; device_speedup >= 1; 0 <= fixed_share <= 0.95
    Monotone     host_slowdown +; device_speedup +; fixed_share +
    Source       Two `device_bound_batch`; that GH200 stays CPU-bound to larger batches: Vellaisamy et al. 2025,
                 arXiv:2504.11750
    """
    return (host_slowdown * device_speedup - fixed_share) / (1 - fixed_share)


@formula
def coupled_speedup(device_load, host_slowdown, device_speedup):
    r"""Speed of a coupled part (GH200) over a PCIe part with a faster host and a slower device.

    .. math:: S = \frac{\max(1, x)}{\max(s, x / g)}

    Symbols      x  device_load [1] kernel time over launch time, on the PCIe part;
                 s  host_slowdown [1] launch time of the coupled host over that of the PCIe host;
                 g  device_speedup [1] kernel time of the PCIe device over that of the coupled device;  returns [1]
    Assumptions  both parts follow `host_bound_time`: 1 / s where both hosts bind, g where both devices bind, and
                 equal at x = s
    Valid for    device_load >= 0; host_slowdown >= 1; device_speedup >= 1
    Monotone     device_load +; host_slowdown -; device_speedup +
    Source       Ratio of two `host_bound_time`; slower at small and faster at large batch as in Vellaisamy et al.
                 2025, arXiv:2504.11750
    Example      >>> coupled_speedup(100, 1.5, 2)
                 2.0
    """
    return maximum(1, device_load) / maximum(host_slowdown, device_load / device_speedup)


@formula
def coupled_break_even_batch(dispatch_s, host_slowdown, fixed_s, item_s):
    r"""Batch from which a coupled part (GH200) is the faster one, although its host launches more slowly.

    .. math:: b^* = \max\left(0, \frac{s\,t_d - a}{c}\right)

    Symbols      t_d  dispatch_s [s] host time of one kernel on the PCIe part;
                 s  host_slowdown [1] launch time of the coupled host over that of the PCIe host;
                 a  fixed_s [s] kernel at batch zero on the PCIe part;
                 c  item_s [s] what one more sample adds to it;  returns [1]
    Assumptions  `coupled_speedup` is 1 where the PCIe kernel takes as long as the coupled host needs to launch it,
                 whatever the device speedup above 1
    Valid for    dispatch_s >= 0; host_slowdown >= 1; fixed_s >= 0; item_s >= 0
    Monotone     dispatch_s +; host_slowdown +; fixed_s -; item_s -
    Source       `coupled_speedup` = 1, solved for the batch; compare Vellaisamy et al. 2025, arXiv:2504.11750
    """
    return device_bound_batch(host_slowdown * dispatch_s, fixed_s, item_s)


@formula
def fusion_speedup(chain_share, chain_length):
    r"""Gain of a launch-bound step when chains of kernels become one kernel each.

    .. math:: S = \frac{1}{1 - y (1 - 1 / L)}

    Symbols      y  chain_share [1] share of the kernels that lie in chains;  L  chain_length [1] kernels of a chain;
                 returns [1]
    Assumptions  the host binds before and after, and a fused kernel costs one launch
    Valid for    0 <= chain_share <= 1; chain_length >= 1
    Monotone     chain_share +; chain_length +
    Limits       chain_length = 1 -> 1; chain_share = 0 -> 1
    Source       Launches before over launches after; fusion as the remedy: Vellaisamy et al. 2025, arXiv:2504.11750
    """
    return 1 / (1 - chain_share * (1 - 1 / chain_length))
