"""What a document does not write down and its request still answers: operations of a layer, other loads, elasticities.

All of it stands only where this version gives the document's own answer again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PerfModelError, PlanError
from perfmodel.report.documents import prediction_of

__all__ = ["Load", "Operation", "Roof", "loads_of", "operations_of", "sensitivities_of"]

_LOADS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
_OPERAND_BYTES = 2.0


@dataclass(frozen=True)
class Operation:
    """One operation: arithmetic [flop], least traffic [B] and predicted time [s], all of one layer on one rank."""

    name: str
    phase: str
    flops: float
    n_bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """Arithmetic over traffic [flop/B]."""
        return self.flops / self.n_bytes

    @property
    def flop_per_s(self) -> float:
        return self.flops / self.seconds


@dataclass(frozen=True)
class Roof:
    """Data-sheet peaks of an accelerator and the operations under them."""

    accelerator: str
    precision: str
    peak_flop_per_s: float
    hbm_byte_per_s: float
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Load:
    """A deployment under one load: `what` the number counts, and the rates that follow."""

    what: str
    load: float
    user_tokens_per_s: float
    accelerator_tokens_per_s: float


def operations_of(document: Mapping[str, Any]) -> Roof:
    """The operations of the document's layers; raises `PlanError` where it has none or is not answered alike."""
    said = prediction_of(document)
    if "step_time_s" in said:
        return _training_roof(said)
    if "ttft_s" in said and "layout" in said.get("request", {}):
        return _serving_roof(said)
    raise PlanError("roofline: the document has no layers")


def sensitivities_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Elasticities of a training estimate's step time, as a plan writes them; raises `PlanError` as above."""
    from perfmodel.plan.sensitivity import step_sensitivities

    task, layout = _training(document)
    return [one.to_dict() for one in step_sensitivities(task, layout)]


def loads_of(document: Mapping[str, Any]) -> list[Load]:
    """The document's deployment at other loads, by growing load; raises `PlanError`."""
    said = prediction_of(document)
    if said.get("document") != "perfmodel/serving-estimate/1":
        raise PlanError("load_curve: the document has no deployment to price at other loads")
    return _other_loads(said)


def _other_loads(said: Mapping[str, Any]) -> list[Load]:
    request = said["request"]
    key = "arrival_rate_per_s" if request.get("arrival_rate_per_s") else "concurrency"
    now = request.get(key)
    if not now:
        raise PlanError("load_curve: the request names no load")
    _same(said["tpot_s"], _serving(request, {}), "tpot_s")
    found = []
    for factor in _LOADS:
        load = now * factor if key == "arrival_rate_per_s" else max(1, round(now * factor))
        try:
            one = _serving(request, {key: load})
        except PerfModelError:  # more than the deployment takes
            continue
        if one["saturated"] and factor > 1:
            continue
        what = "requests/s" if key == "arrival_rate_per_s" else "requests in flight"
        found.append(Load(what, load, 1.0 / one["tpot_s"], one["output_tokens_per_s_per_accelerator"]))
    return found


def _serving(request: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    import perfmodel as pm

    asked = {key: value for key, value in {**request, **changes}.items() if value is not None}
    cluster = pm.load_cluster(asked.pop("cluster"), accelerators=asked.pop("accelerators", None))
    try:
        return pm.estimate_serving(cluster=cluster, **asked).to_dict()
    except TypeError as error:  # a key of a later version
        raise PlanError(f"request: cannot be priced by this version: {error}") from None


def _training(document: Mapping[str, Any]) -> tuple[Any, Any]:
    """Task and layout of a training document that this version prices alike."""
    import perfmodel as pm
    from perfmodel.predict.layout import make_layout
    from perfmodel.predict.training_task import training_task

    said = prediction_of(document)
    asked = {key: value for key, value in said["request"].items() if value is not None}
    layout = make_layout(asked.pop("layout"))
    cluster = pm.load_cluster(asked.pop("cluster"), accelerators=asked.pop("accelerators", None))
    try:
        again = pm.estimate_training(cluster=cluster, layout=layout, **asked).to_dict()
        task = training_task(asked.pop("model"), cluster, **asked)
    except TypeError as error:  # a key of a later version
        raise PlanError(f"request: cannot be priced by this version: {error}") from None
    _same(said["step_time_s"], again, "step_time_s")
    return task, layout


def _same(said: float, again: Mapping[str, Any], key: str) -> None:
    if abs(again[key] - said) > 1e-9 * abs(said):
        raise PlanError(
            f"{key}: this version answers {again[key]:.6g}, the document {said:.6g}; make the document again"
        )


def _training_roof(said: Mapping[str, Any]) -> Roof:
    from perfmodel.predict.kinds import bottleneck_parts
    from perfmodel.predict.matmul import matmul_format
    from perfmodel.predict.training_task import degrees_of

    task, layout = _training(said)
    degrees = degrees_of(layout, task.model.n_layers)
    share = degrees.share(task.seq_len, task.steps.document_len)
    costs = task.steps.load(share, degrees.pp).layer.forward
    form = matmul_format(task.precision)
    work: dict[str, tuple[float, float]] = {}
    for kind, part in bottleneck_parts(task.model, degrees.pp):
        for name, flops, n_bytes in (*_products(task.model, kind, share, form), *_core(task.model, kind, share)):
            before = work.get(name, (0.0, 0.0))
            work[name] = (before[0] + flops * float(part), before[1] + n_bytes * float(part))
    operations = tuple(
        Operation(name, "forward", *done, float(costs[name].seconds)) for name, done in work.items() if done[0] > 0
    )
    part = task.cluster.accelerator
    return Roof(
        part.name or part.id, task.precision, float(part.peak(form.peak)), float(part.hbm_byte_per_s), operations
    )


def _products(model: Any, kind: Any, share: Any, form: Any) -> Iterator[tuple[str, float, float]]:
    """Arithmetic and least traffic of the matrix products of a layer, forward."""
    from perfmodel.formulas.matmul import matmul_flops, mixed_matmul_bytes

    sizes = form.left_bytes, form.right_bytes, form.result_bytes
    for product in model.products(kind):
        count, rows = 1.0, share.rows(product)
        if product.experts:
            count = model.n_experts / share.ep
            rows = share.expert_tokens * model.experts_per_token / count
        n, k = share.columns(model, kind, product)
        yield (
            product.name,
            float(matmul_flops(rows, n, k) * count),
            float(mixed_matmul_bytes(rows, n, k, count, *sizes)),
        )


def _core(model: Any, kind: Any, share: Any) -> Iterator[tuple[str, float, float]]:
    """Arithmetic of what mixes the tokens, and Q, K, V, O once each; other mixers than attention are left out."""
    from perfmodel.specs.products import core_macs

    if kind.mixer not in ("attention", "window", "latent"):
        return
    length = share.document_len or share.seq_len
    sequences = share.micro_batch * (share.seq_len / length) / share.cp
    flops = 2.0 * core_macs(model, kind.mixer, round(length), model.causal) * sequences / share.tp
    latent = model.latent if kind.mixer == "latent" else None
    widths = model.d_head * 2 if latent is None else latent.qk_head_dim + latent.v_head_dim
    heads = model.n_heads / share.tp
    kv_heads = heads if latent is not None else max(model.n_kv_heads / share.tp, 1.0)
    yield "attention_core", float(flops), float(_OPERAND_BYTES * sequences * length * widths * (heads + kv_heads))


def _serving_roof(said: Mapping[str, Any]) -> Roof:
    """Products and attention of a prompt and of a decode step, as this version prices single kernels."""
    import perfmodel as pm
    from perfmodel.predict.matmul import matmul_format
    from perfmodel.predict.serving.load import ServingShare
    from perfmodel.predict.serving.precisions import make_precisions

    request = said["request"]
    model = pm.load_model(request["model"])
    part = pm.load_cluster(request["cluster"], accelerators=request.get("accelerators")).accelerator
    layout = pm.ParallelLayout(**request["layout"])
    precisions = make_precisions(request["weights"], request.get("activations"), request.get("kv_cache"))
    share = ServingShare.of(layout)
    prompt, answer = (_mean(request[key]) for key in ("prompt_tokens", "output_tokens"))
    batch = max(1, round(said["batch"] / layout.attention_dp / layout.pp))
    found: dict[str, Operation] = {}
    for kind, _ in model.layer_groups:
        products = [one for one in model.products(kind) if not one.experts]
        for phase, rows in (("prefill", prompt), ("decode", batch)):
            for one in products:
                n, k = (round(float(size)) for size in share.columns(model, kind, one))
                found[f"{phase} {one.name}"] = _product(part, one.name, phase, (rows, n, k), precisions.product)
        if kind.mixer in ("attention", "window"):
            heads = (round(model.n_heads / share.tp), max(1, round(model.n_kv_heads / share.tp)), model.d_head)
            steps = (("prefill", 1, prompt), ("decode", batch, prompt + answer // 2))
            for phase, sequences, length in steps:
                found[f"{phase} attention"] = _attention(part, phase, (sequences, length, *heads), precisions.kv_cache)
    peak = float(part.peak(matmul_format(precisions.product).peak))
    return Roof(part.name or part.id, precisions.product, peak, float(part.hbm_byte_per_s), tuple(found.values()))


def _mean(tokens: Any) -> int:
    return max(1, round(tokens["mean"] if isinstance(tokens, Mapping) else tokens))


def _product(part: Any, name: str, phase: str, sizes: tuple[int, int, int], dtype: str) -> Operation:
    from perfmodel.predict.kernel_estimates import priced_gemm

    priced = priced_gemm(part, *sizes, dtype=dtype)
    return Operation(name, phase, float(priced.flops), float(priced.n_bytes), float(priced.cost.seconds))


def _attention(part: Any, phase: str, sizes: tuple[int, int, int, int, int], kv_cache: str) -> Operation:
    from perfmodel.predict.kernel_estimates import priced_attention

    kept = kv_cache if phase == "decode" else "bf16"
    priced = priced_attention(part, phase, *sizes, dtype="bf16", kv_dtype=kept, library=None)
    return Operation("attention", phase, float(priced.flops), float(priced.n_bytes), float(priced.cost.seconds))
