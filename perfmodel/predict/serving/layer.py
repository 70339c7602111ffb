"""One layer in one iteration of a serving engine: the operator list of the model, each product with its kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PlanError
from perfmodel.formulas.serving import cache_reread_time
from perfmodel.formulas.sparse import expected_touched_groups
from perfmodel.ops import maximum, minimum
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Number, total
from perfmodel.predict.grouped import GroupedMatmul
from perfmodel.predict.imbalance import expert_exchange
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.row_kernels import RowKernels
from perfmodel.predict.serving.all_reduce import EngineAllReduce
from perfmodel.predict.serving.load import Load, ServingShare
from perfmodel.predict.serving.precisions import Precisions
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind
from perfmodel.specs.serving_software import ServingSoftware

__all__ = ["LayerModel"]

_SIXTEEN_BITS = 2.0
# Reading the last cache, per core [B/s]: 5.4 TB/s on an A100, 9.75 on an H200, 5.2 on an L40, data sets of 10 to 25 MB
# (Ernst, gpu-benches, gpu-l2-cache/*.txt at commit 3088b33, https://github.com/te42kyfo/gpu-benches).
_CACHE_BYTE_PER_S = {"Ampere": 5.4e12 / 108, "Hopper": 9.75e12 / 132, "Ada Lovelace": 5.2e12 / 142}
# Elsewhere over reading memory: the least of those three.
_CACHE_SPEED = 2.0
# Norm with the residual added in the same kernel: branch and residual in, sum and norm out, over a plain norm.
_WITH_RESIDUAL = 2.0
# An activation without a gate reads one tensor and writes one, where a gate makes it two and one.
_WITHOUT_GATE = 2.0 / 3.0


@dataclass(frozen=True)
class LayerModel:
    """Costs of a layer of any kind on one rank, by operation."""

    model: Architecture
    kernels: Kernels
    rows: RowKernels
    experts: GroupedMatmul | None
    links: Links
    sums: EngineAllReduce
    software: ServingSoftware
    precisions: Precisions
    share: ServingShare
    chosen_experts: float | None = None
    """Experts that all tokens share, where weights are such that they choose alike; None: random choices."""

    def costs(self, kind: LayerKind, load: Load) -> dict[str, Cost]:
        """Every operation of one layer in one iteration."""
        products = [(one.experts, self.share.columns(self.model, kind, one)) for one in self.model.products(kind)]
        dense, routed = ([shape for experts, shape in products if bool(experts) is of] for of in (False, True))
        found = {
            "products": self.kernels.products(load.tokens, dense),
            "experts": Cost() if self.experts else total(self._plain_experts(load, n, k) for n, k in routed),
            "attention": self._mixer(kind, load),
        }
        if kind.ffn == "experts" and self.experts is not None:
            found["experts"] = self._routed(load)
        found["elementwise"] = self._elementwise(kind, load)
        found["tensor_parallel"] = self._tensor(kind, load)
        found["expert_parallel"] = self._exchange(kind, load)
        return found

    # Experts

    def _rank_tokens(self, load: Load) -> Number:
        """Fair share of an expert-parallel rank, tokens of all attention groups; ranks of one expert see the same."""
        return maximum(load.tokens * self.share.attention_dp / self.share.ep, 1e-9)

    def _routed(self, load: Load) -> Cost:
        experts, share = self.model.experts, self.share
        assert experts is not None
        assert self.experts is not None
        alike = {} if self.chosen_experts is None else {"touched_experts": self.chosen_experts, "evenness": 1.0}
        return self.experts.ffn(
            self._rank_tokens(load), float(self.model.d_model), experts.d_ff / share.etp,
            experts.n_experts * share.uneven.replicas / share.ep, float(experts.experts_per_token),
            self.model.gated_mlp, share.uneven.fullest, **alike,
        )  # fmt: skip

    def _plain_experts(self, load: Load, n: Number, k: Number) -> Cost:
        experts = self.model.experts
        assert experts is not None
        uneven = self.share.uneven
        copies = self._rank_tokens(load) * experts.experts_per_token * uneven.fullest
        touched = expected_touched_groups(copies, experts.n_experts * uneven.replicas / self.share.ep)
        return self.kernels.grouped_matmul(copies / touched, n, k, touched)

    # Mixers

    def _mixer(self, kind: LayerKind, load: Load) -> Cost:
        if kind.mixer == "none":
            return Cost()
        if kind.mixer in ("mamba2", "linear"):
            return self._state(kind, load)
        return self._prefill(kind, load) + self._decode(kind, load)

    def _prefill(self, kind: LayerKind, load: Load) -> Cost:
        if _zero(load.prompts):
            return Cost()
        model, share = self.model, self.share
        heads, library = model.n_heads / share.tp, self.software.prefill_library
        if kind.mixer == "latent" and model.latent is not None:
            latent = model.latent
            return self.kernels.mla_prefill(
                load.prompts, load.prompt_tokens, heads, library="tensorrt-llm", kv_dtype=self.precisions.kv_cache,
                past_len=load.past_tokens, key_width=float(latent.qk_head_dim), value_width=float(latent.v_head_dim),
            )  # fmt: skip
        return self.kernels.flash_attention(
            load.prompts, load.prompt_tokens, heads, share.key_value_heads(model), float(model.d_head),
            library=library, past_len=load.past_tokens, window=self._window(kind),
        )  # fmt: skip

    def _decode(self, kind: LayerKind, load: Load) -> Cost:
        if _zero(load.sequences):
            return Cost()
        model, share, library = self.model, self.share, self.software.decode_library
        heads, kv_dtype = model.n_heads / share.tp, self.precisions.kv_cache
        if kind.mixer == "latent" and model.latent is not None:
            return self.kernels.mla_decode(
                load.sequences, load.kv_len, heads, kv_dtype=kv_dtype, library="tensorrt-llm",
                latent_width=float(model.latent.kv_lora_rank), rotary_width=float(model.latent.qk_rope_head_dim),
            )  # fmt: skip
        cost = self.kernels.decode_attention(
            load.sequences, load.kv_len, heads, share.key_value_heads(model), float(model.d_head),
            kv_dtype=kv_dtype, library=library, window=self._window(kind),
        )  # fmt: skip
        known, group = self.software.grouped_decode, model.n_heads // model.n_kv_heads
        return cost if not known or group in known or group == 1 else self._reread(kind, load, cost)

    def _reread(self, kind: LayerKind, load: Load, cost: Cost) -> Cost:
        """Every query head of a group reads the keys and values by itself, the group's copy from the last cache."""
        model, window, part = self.model, self._window(kind), self.kernels.accelerator
        read = load.kv_len if window is None else minimum(load.kv_len, window)
        per_core = _CACHE_BYTE_PER_S.get(part.architecture)
        speed = _CACHE_SPEED * self.kernels.byte_per_s if per_core is None else per_core * self.kernels.n_cores
        constants = self.kernels.efficiency.decode_constants(self.software.decode_library, self.precisions.kv_cache)
        again_s = cache_reread_time(
            load.sequences, read, model.n_heads / self.share.tp, float(model.d_head), speed,
            constants.ungrouped_efficiency,
        )  # fmt: skip
        return Cost(maximum(cost.seconds, again_s), cost.lower, cost.upper + again_s, cost.compute_s, cost.memory_s)

    def _window(self, kind: LayerKind) -> float | None:
        return float(self.model.window) if kind.mixer == "window" and self.model.window else None

    def _state(self, kind: LayerKind, load: Load) -> Cost:
        """State kernels are bound by traffic: each sequence's state is read and written, each token's inputs are."""
        model = self.model
        if kind.mixer == "mamba2" and model.state_space is not None:
            state, width = model.state_space.state_values, model.state_space.conv_width
        elif model.linear_attention is not None:
            state, width = model.linear_attention.state_values, 3 * model.linear_attention.width
        else:
            raise PlanError(f"{model.id}: layers of kind {kind.mixer} have no sizes")
        n_bytes = 2 * _SIXTEEN_BITS * (load.answered * state + 2 * load.tokens * width) / self.share.tp
        return self.kernels.elementwise(n_bytes, "vllm-activation", 2.0)

    # Around the products

    def _elementwise(self, kind: LayerKind, load: Load) -> Cost:
        model, share, tokens = self.model, self.share, load.tokens
        norm = self.rows.norm(tokens, float(model.d_model), _WITH_RESIDUAL * _SIXTEEN_BITS)
        costs = [norm * float(model.norms_per_layer)]
        if kind.mixer in ("attention", "window", "latent"):
            heads, kv_heads = model.n_heads / share.tp, share.key_value_heads(model)
            if model.rope:
                rotated = float(model.d_head * model.rope.fraction)
                costs.append(self.rows.rotary_embedding(tokens, heads, kv_heads, rotated))
            if model.qk_norm != "none":
                costs.append(self.rows.norm(tokens, (heads + kv_heads) * model.d_head))
            cached = 2 * _SIXTEEN_BITS * 2 * tokens * kv_heads * model.d_head
            costs.append(self.kernels.elementwise(cached, "vllm-rope"))
        width = self._activation_width(kind)
        if width:
            moved = 1.0 if model.gated_mlp else _WITHOUT_GATE
            costs.append(self.rows.gated_activation(tokens, width, moved * _SIXTEEN_BITS))
        if self.precisions.is_narrow and not self.software.fused_quantise:
            costs.append(self._quantise(kind, load))
        return total(costs)

    def _activation_width(self, kind: LayerKind) -> Number:
        if kind.ffn == "dense":
            return self.model.d_ff / self.share.tp
        if kind.ffn == "experts" and self.model.experts is not None:
            return self.model.experts.shared_d_ff / self.share.tp
        return 0.0

    def _quantise(self, kind: LayerKind, load: Load) -> Cost:
        """Inputs of all products read in 16 bits and written narrow, one kernel each."""
        per_element = _SIXTEEN_BITS + matmul_format(self.precisions.product).left_bytes
        products = [one for one in self.model.products(kind) if not one.experts and one.split != "none"]
        # Products of the same input share its narrow copy.
        inputs = {(product.k, product.split): product for product in products}.values()
        widths = [self.share.columns(self.model, kind, product)[1] for product in inputs]
        n_bytes = sum(per_element * load.tokens * width for width in widths)
        return self.kernels.elementwise(n_bytes, "vllm-activation", float(len(widths)))

    # Messages

    def _tensor(self, kind: LayerKind, load: Load) -> Cost:
        # Mixer and FFN each end in a product whose parts are summed over the ranks.
        sums = (kind.mixer != "none") + (kind.ffn != "none")
        if self.model.parallel_block:
            sums = min(sums, 1)
        return self.all_reduce(load.tokens) * float(sums)

    def all_reduce(self, tokens: Number) -> Cost:
        """The sum of the hidden state over the tensor-parallel ranks, the fastest of the engine's and NCCL's."""
        return self.sums.cost(tokens, float(self.model.d_model), self.share.tp)

    def _exchange(self, kind: LayerKind, load: Load) -> Cost:
        """Tokens to their experts and back, where the experts lie on other ranks than the tokens."""
        experts, share = self.model.experts, self.share
        if kind.ffn != "experts" or experts is None:
            return Cost()
        width = _SIXTEEN_BITS * self.model.d_model
        if _used(share.ep):
            n_bytes = width * self._rank_tokens(load) * experts.experts_per_token
            return expert_exchange(self.links, n_bytes, share.ep, share.etp, share.uneven) * 2.0
        if not _used(share.attention_dp):
            return Cost()
        # Every rank has a slice of every expert: it needs the tokens of all groups, and all add to the results.
        n_bytes = width * load.tokens * share.attention_dp
        gathered = self.links.collective("all_gather", n_bytes, share.attention_dp, share.tp)
        return gathered + self.links.collective("reduce_scatter", n_bytes, share.attention_dp, share.tp)


def _zero(value: Any) -> bool:
    nothing = value <= 0
    return bool(nothing.all()) if hasattr(nothing, "all") else nothing


def _used(degree: Number) -> bool:
    return bool((degree > 1).any()) if hasattr(degree, "any") else degree > 1
