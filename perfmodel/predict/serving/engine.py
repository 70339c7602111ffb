"""The iterations of one engine: a prefill, a decode step, or both at once, as a tree of named terms."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from perfmodel.dual import plain
from perfmodel.errors import PlanError
from perfmodel.formulas.serving import engine_host_time, sampling_bytes
from perfmodel.ops import minimum
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Node, Number, total
from perfmodel.predict.grouped import GroupedMatmul
from perfmodel.predict.imbalance import EVEN, ExpertRouting
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.power import DevicePower, device_power_of, power_at_clock
from perfmodel.predict.row_kernels import RowKernels
from perfmodel.predict.serving.all_reduce import EngineAllReduce
from perfmodel.predict.serving.layer import LayerModel
from perfmodel.predict.serving.load import Load, ServingShare
from perfmodel.predict.serving.precisions import Precisions
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.power import PowerSet, power_set_of
from perfmodel.specs.quantity import Quantity
from perfmodel.specs.serving_software import ServingSoftware

__all__ = ["Engine"]

_SETTLES = ("products", "experts")
"""Terms whose arithmetic slows down when clocks settle under a lasting load."""
_SIXTEEN_BITS = 2.0


class Engine:
    """One replica: a model on `tp * pp` accelerators under one serving software.

    With `attention_dp` groups the engine spans that many times as many; loads and costs are those of one group, whose
    experts' ranks also work for the others. `routing` says how uneven experts are (None: not at all), `power` what an
    accelerator draws (None: its own set).
    """

    def __init__(
        self, model: Architecture, cluster: Cluster, efficiency: Efficiency, software: ServingSoftware,
        layout: ParallelLayout, precisions: Precisions, routing: ExpertRouting | None = None,
        power: PowerSet | None = None,
    ) -> None:  # fmt: skip
        accelerator = cluster.accelerator
        own = efficiency.inside(software.framework) if software.framework else efficiency
        own = _split(own) if software.splits_products else own
        self.model, self.software, self.layout, self.precisions = model, software, layout, precisions
        self.kernels = Kernels(accelerator, own, precisions.product, steady=True, casts_apart=True)
        self.links = Links(cluster if software.in_network else _without_switch_sums(cluster), efficiency)
        self.share = ServingShare.of(layout, routing)
        self.routing, self._power_set = routing, power
        self.layers = LayerModel(
            model, self.kernels, RowKernels(accelerator, efficiency, vector_elements=software.vector_elements),
            _experts(model, cluster, efficiency, precisions),
            self.links, EngineAllReduce(self.links, accelerator, efficiency, software), software, precisions,
            self.share,
        )  # fmt: skip

    @cached_property
    def power(self) -> DevicePower:
        """What an accelerator draws in these kernels."""
        return device_power_of(self.kernels.accelerator, *self.kernels.reached, self._power_set)

    def at_clock(self, cluster: Cluster, clock_ratio: float) -> Engine:
        """The same engine on the same machines with their clocks held at a share of the full ones [1].

        Peaks of arithmetic follow the clock; memory, links and the host do not.
        """
        part = cluster.accelerator
        peaks = {name: Quantity(float(peak) * clock_ratio) for name, peak in part.peak_flop_per_s.items()}
        slower = cluster.model_copy(update={"accelerator": part.model_copy(update={"peak_flop_per_s": peaks})})
        power = power_at_clock(power_set_of(part), clock_ratio)
        efficiency, parts = part.kernel_constants(), (self.software, self.layout, self.precisions, self.routing)
        return Engine(self.model, slower, efficiency, *parts, power)

    def choosing_alike(self) -> Engine:
        """The same engine where all tokens of an iteration choose the same experts, as with untrained weights."""
        experts = self.model.experts
        chosen = None if experts is None else float(experts.experts_per_token)
        other = Engine.__new__(Engine)
        other.__dict__ |= self.__dict__ | {"layers": replace(self.layers, chosen_experts=chosen)}
        return other

    def balanced(self) -> Engine:
        """The same engine with evenly loaded experts, one copy of each."""
        other = Engine.__new__(Engine)
        share = replace(self.share, uneven=EVEN)
        own = {"share": share, "layers": replace(self.layers, share=share), "routing": None}
        other.__dict__ |= self.__dict__ | own
        return other

    def prefill(self, prompts: Number, prompt_tokens: Number, past_tokens: Number = 0.0) -> Node:
        """Prompts alone."""
        return self.iteration(Load(prompts, prompt_tokens, past_tokens))

    def decode(self, sequences: Number, kv_len: Number) -> Node:
        """One token for each sequence."""
        return self.iteration(Load(sequences=sequences, kv_len=kv_len))

    def iteration(self, load: Load, name: str = "iteration") -> Node:
        """One iteration of all sequences; pipeline stages take equal parts of them in turn."""
        pp = float(self.layout.pp)
        part = Load(load.prompts / pp, load.prompt_tokens, load.past_tokens, load.sequences / pp, load.kv_len)
        costs = self._layers(part if pp > 1 else load)
        device = [*costs.items(), ("head", self._head(load)), ("sampling", self._sampling(load))]
        nodes = [Node(term, cost) for term, cost in device]
        busy = total(cost for _, cost in device)
        nodes += [Node("pipeline", self._pipeline(load)), *self._host(load, busy)]
        return Node.of(name, *nodes)

    def _layers(self, load: Load) -> dict[str, Cost]:
        """All layers, products at the clocks to which this load settles."""
        sums: dict[str, Cost] = {}
        for kind, count in self.model.layer_groups:
            for name, cost in self.layers.costs(kind, load).items():
                sums[name] = sums.get(name, Cost()) + cost * float(count)
        everything = total(sums.values()).seconds
        arithmetic = sum(sums[name].compute_s for name in _SETTLES)
        slowdown = self.kernels.slowdown(minimum(arithmetic, everything), everything)
        return {name: cost.slowed(slowdown) if name in _SETTLES else cost for name, cost in sums.items()}

    def _head(self, load: Load) -> Cost:
        """Embedding, last norm and LM head in 16 bits, for the sequences that get a token."""
        model, kernels = self.model, self.kernels.in_sixteen_bits()
        costs = [self.layers.rows.norm(load.answered, float(model.d_model))]
        for product in model.head_products:
            costs.append(kernels.matmul(load.answered, product.n / self.share.tp, product.k))
        gathered = _SIXTEEN_BITS * load.answered * model.vocab_padded
        costs.append(self.links.collective("all_gather", gathered, self.share.tp))
        # The embedding is cut along the vocabulary: a lookup and a sum over ranks.
        costs.append(self.layers.all_reduce(load.tokens))
        return total(costs)

    def _sampling(self, load: Load) -> Cost:
        n_bytes = sampling_bytes(load.answered, float(self.model.vocab_size))
        return self.kernels.elementwise(n_bytes, "vllm-activation", 4.0)

    def _pipeline(self, load: Load) -> Cost:
        pp = float(self.layout.pp)
        n_bytes = _SIXTEEN_BITS * load.tokens / pp * self.model.d_model
        return self.links.send_recv(n_bytes, self.share.tp) * pp if pp > 1 else Cost()

    def _host(self, load: Load, device: Cost) -> list[Node]:
        software = self.software
        serial_s = plain(software.step_s) + plain(software.prompt_s) * load.prompts * load.finishes
        beside_s = 0.0 if software.serial_front_end else plain(software.sequence_s)
        if software.serial_front_end:
            serial_s = serial_s + plain(software.sequence_s) * load.answered
        own = engine_host_time(device.seconds, serial_s, beside_s, load.answered)
        return [Node.wait("engine", own, "host")]


def _without_switch_sums(cluster: Cluster) -> Cluster:
    """The same cluster for a stack whose collectives do not use the switch's adders."""
    tiers = tuple(tier.model_copy(update={"in_network_reduction": False}) for tier in cluster.tiers)
    return cluster.model_copy(update={"tiers": tiers})


def _split(efficiency: Efficiency) -> Efficiency:
    """The same kernels where every library may sum a product in parts, as those of 16 bits do.

    Tables hold one library; engines of 2025 try several (cuBLASLt, CUTLASS, their own) and keep the fastest.
    """
    like = efficiency.matmul_constants("bf16")
    free = {
        dtype: block.model_copy(update={"splits": like.splits, "split_s": like.split_s})
        for dtype, block in efficiency.matmul.items()
        if len(block.splits) == 1
    }
    return efficiency.model_copy(update={"matmul": efficiency.matmul | free})


def _experts(
    model: Architecture, cluster: Cluster, efficiency: Efficiency, precisions: Precisions
) -> GroupedMatmul | None:
    """The kernels of routed experts, where a table of them was calibrated for the format."""
    if model.experts is None:
        return None
    try:
        return GroupedMatmul(cluster.accelerator, efficiency, precisions.product)
    except PlanError:
        return None
