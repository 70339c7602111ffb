"""`plan_clocks`: clocks by pipeline stage of a training layout, from the times that the step model gives its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.power import time_at_clock
from perfmodel.plan.power_caps import StageClocks, clock_warnings, plan_stage_clocks
from perfmodel.plan.records import Certificate, Plan
from perfmodel.predict.cost import Cost, total
from perfmodel.predict.layout import ParallelLayout, check_layout, make_layout
from perfmodel.predict.power import DevicePower
from perfmodel.predict.records import Record, TrainingEstimate, Warned
from perfmodel.predict.run import run_totals
from perfmodel.predict.stage_times import StageTime, stage_times
from perfmodel.predict.step import Step
from perfmodel.predict.training import describe
from perfmodel.predict.training_task import ClusterLike, ModelLike, TrainingTask, as_laid_out, degrees_of, training_task
from perfmodel.specs.power import full_clock_hz
from perfmodel.specs.registry import data_version

__all__ = ["ClocksPlan", "HeldClocks", "StageClock", "plan_clocks"]

_PACED = ("layers", "tensor_parallel", "context_parallel", "expert_parallel", "vocabulary")
"""Terms that a micro-batch meets in every stage."""
_METHOD = "of each pace the lowest clock of every stage that keeps it; 21 paces up to the slack, or the one without"


class StageClock(Record):
    """One stage: its layers, seconds of a micro-batch at full clocks and at its own, and its own."""

    stage: int
    layers: float
    microbatch_before_s: float
    microbatch_s: float
    clock_ratio: float
    clock_hz: float | None


class HeldClocks(Record):
    """The same clocks also in the micro-batches that fill and drain the pipeline: the step is longer."""

    step_time_s: float
    energy_j_per_step: float


class ClocksPlan(Plan):
    """Clocks of the stages, and the step with and without them; energies are at the meter, of all accelerators.

    Before and after: `run` has days, kWh and carbon of a run of `tokens`, where they are given.
    """

    document: str = "perfmodel/clocks-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool = True
    stages: tuple[StageClock, ...]
    step_time_before_s: float
    step_time_s: float
    energy_before_j_per_step: float
    energy_j_per_step: float
    saved_share: float
    compute_share: float
    """Share of a micro-batch's time that arithmetic binds [1]: what `clock_bound_share` may be brought down to."""
    full_clock_microbatches: int
    """Of a step, those at full clocks: half of them fill the pipeline, half drain it."""
    held: HeldClocks
    run: dict[str, float] | None
    certificate: Certificate
    warnings: tuple[Warned, ...]
    notes: tuple[str, ...]
    sources: tuple[str, ...]


def plan_clocks(
    model: ModelLike,
    cluster: ClusterLike,
    *,
    layout: ParallelLayout | Mapping[str, Any],
    slack: float = 0.0,
    clock_bound_share: float = 1.0,
    **asked: Any,
) -> ClocksPlan:
    """Clocks of least energy for the stages of a pipeline whose step takes at most `slack` [1] longer.

    The question is that of `estimate_training`, whose keywords `asked` has. Stages that are early for their micro-batch
    run slower, but for the micro-batches that fill the pipeline and drain it, which are on the critical path in every
    stage: without slack a step is as long as before, to 0.2 % on average in replays (Chung et al. 2024, "Perseus",
    arXiv:2312.06902, sets clocks by computation too).
    `clock_bound_share` [1] of a stage's time follows the clock: 1 is on the safe side, memory and messages do not.
    Raises `SpecError` and `PlanError`.
    """
    for name, value, high in (("slack", slack, 10.0), ("clock_bound_share", clock_bound_share, 1.0)):
        low = 0.0 if name == "slack" else 1e-3
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise OutOfRangeError(f"{name}: must be a number from {low:g} to {high:g} (got {value!r})")
    task = training_task(model, cluster, **asked)
    chosen = make_layout(layout)
    check_layout(chosen, task.model, task.cluster, task.global_batch, task.seq_len)
    steps = as_laid_out(task.steps, chosen)
    step = steps.price(degrees_of(chosen, task.model.n_layers), task.global_batch, task.seq_len)
    estimate = describe(task, chosen, step)
    assert step.turn is not None  # priced in detail
    stages = stage_times(step.turn, chosen, task.model.n_layers)
    if idle := [at for at, one in enumerate(stages) if one.seconds <= 0]:
        raise PlanError(f"stage_layers: stage {idle[0]} has nothing to do; a stage without work has no clock to set")
    return _plan(task, chosen, step, estimate, stages, float(slack), float(clock_bound_share))


def _plan(
    task: TrainingTask, layout: ParallelLayout, step: Step, estimate: TrainingEstimate, stages: tuple[StageTime, ...],
    slack: float, share: float,
) -> ClocksPlan:  # fmt: skip
    device, before_s = task.steps.device_power, estimate.step_time_s
    times = [one.seconds for one in stages]
    ends = _ends(times)
    slowed = max(0, estimate.n_microbatches - 2 * ends)
    stretch = _stretch(estimate)
    paced_s = slowed * max(times) * stretch
    found = plan_stage_clocks(
        times, device.power, clock_bound_share=share, slack=slack * before_s / paced_s if slowed else 0.0,
        busy_w=_clocked_w(device, step), rest_w=float(task.cluster.server_overhead_w),
    )  # fmt: skip
    if not slowed:
        found = StageClocks((1.0,) * len(times), found.energy_before_j, found.energy_before_j, max(times))
    late_s = (found.pace_s - max(times)) * stretch
    of_step = _Saving(task, layout, found, stretch, max(times))
    after_j, after_s = estimate.energy_j_per_step - slowed * of_step.microbatch_j, before_s + slowed * late_s
    own = [
        float(time_at_clock(seconds, share, ratio)) for seconds, ratio in zip(times, found.clock_ratios, strict=True)
    ]
    # The bubble is what the other stages take for one micro-batch.
    others = (sum(own) - found.pace_s) / max(sum(times) - max(times), 1e-300) if layout.pp > 1 else 1.0
    filled_s = _seconds(estimate, "pipeline_bubble") * (others - 1.0) * stretch
    held = HeldClocks(
        step_time_s=before_s + estimate.n_microbatches * late_s + filled_s,
        energy_j_per_step=estimate.energy_j_per_step
        - estimate.n_microbatches * of_step.microbatch_j
        + of_step.waiting_w * filled_s,
    )
    full_hz = full_clock_hz(device.power)
    return ClocksPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=estimate.request | {"slack": slack, "clock_bound_share": share},
        stages=tuple(
            StageClock(
                stage=at, layers=one.layers, microbatch_before_s=one.seconds, microbatch_s=seconds, clock_ratio=ratio,
                clock_hz=None if full_hz is None else full_hz * ratio,
            )
            for at, (one, seconds, ratio) in enumerate(zip(stages, own, found.clock_ratios, strict=True))
        ),
        step_time_before_s=before_s,
        step_time_s=after_s,
        energy_before_j_per_step=estimate.energy_j_per_step,
        energy_j_per_step=after_j,
        saved_share=1.0 - after_j / estimate.energy_j_per_step,
        compute_share=_compute_share(step),
        full_clock_microbatches=estimate.n_microbatches - slowed,
        held=held,
        run=_run(task, estimate, after_s / before_s, after_j / estimate.energy_j_per_step),
        certificate=_certificate(slack),
        warnings=(*estimate.warnings, *clock_warnings(device.power)),
        notes=(*estimate.notes, *_remarks(estimate, layout, device, slowed)),
        sources=estimate.sources,
    )  # fmt: skip


class _Saving:
    """What the clocks save at the meter: of a micro-batch on all accelerators [J], and what all draw waiting [W]."""

    def __init__(
        self, task: TrainingTask, layout: ParallelLayout, found: StageClocks, stretch: float, slowest_s: float
    ) -> None:
        cluster, pue = task.cluster, float(task.cluster.pue)
        each_w = float(task.steps.device_power.power.static_w) + float(cluster.server_overhead_w)
        self.waiting_w = each_w * layout.accelerators * pue
        late_s = found.pace_s - slowest_s
        ranks = layout.accelerators / layout.pp
        saved_j = (found.energy_before_j - found.energy_j) * ranks * pue
        self.microbatch_j = saved_j - self.waiting_w * late_s * (stretch - 1.0)


def _ends(times: list[float]) -> int:
    """Micro-batches at each end of a step that stay at full clocks: as many as stages stand behind the slowest, two,
    and as many as the waits of all stages together would hold.

    In replays of 1F1B steps without slack are then longer by 0.02 % on average (1.1 % at most) where all stages but the
    last are alike, and by 0.2 % (2.8 %) where stages are drawn at random up to 30 % faster than the slowest.
    """
    if len(times) == 1:
        return 0
    slowest = max(times)
    behind = times[::-1].index(slowest)
    return behind + 2 + round(sum(slowest - one for one in times) / slowest)


def _seconds(estimate: TrainingEstimate, *names: str) -> float:
    return sum(term.seconds for term in estimate.terms if term.name in names)


def _stretch(estimate: TrainingEstimate) -> float:
    """How much longer slow neighbours make what the accelerators compute [1]."""
    computed = _seconds(estimate, "layers", "vocabulary", "pipeline_bubble")
    return 1.0 + _seconds(estimate, "stragglers") / computed


def _leaves(step: Step) -> Iterator[Cost]:
    return (leaf.cost for node in step.tree.children if node.name in _PACED for leaf in node.leaves())


def _clocked_w(device: DevicePower, step: Step) -> float:
    """Mean draw of a stage at work without its memory and links, which keep their clocks [W]."""
    work = total(_leaves(step))
    loaded_s = sum(float(cost.at_full_draw(device.draw)) for cost in _leaves(step))
    mean_w = float(device.energy_j(work.seconds, 0.0, loaded_s)) / float(work.seconds)
    unclocked_s = device.draw.memory * float(work.memory_s) + device.draw.link * float(work.link_s)
    return mean_w - device.room_w * unclocked_s / float(work.seconds)


def _compute_share(step: Step) -> float:
    bound = sum(float(cost.seconds) for cost in _leaves(step) if cost.bound_by == "compute")
    return bound / float(total(_leaves(step)).seconds)


def _run(task: TrainingTask, estimate: TrainingEstimate, longer: float, kept: float) -> dict[str, float] | None:
    before = estimate.run
    if before is None:
        return None
    step_s, step_j = estimate.step_time_s * longer, estimate.energy_j_per_step * kept
    after = run_totals(
        before["tokens"], estimate.tokens_per_s / longer, step_s, step_j, 0.0, estimate.accelerators_used,
        task.cluster.accelerators, task.emissions, task.start_hour,
    )  # fmt: skip
    return {
        "tokens": before["tokens"], "run_days_before": before["run_days"], "run_days": after["run_days"],
        "energy_before_kwh": before["energy_kwh"], "energy_kwh": after["energy_kwh"],
        "carbon_before_kg": before["carbon_kg"], "carbon_kg": after["carbon_kg"],
    }  # fmt: skip


def _certificate(slack: float) -> Certificate:
    paces = 21 if slack else 1
    return Certificate(
        method=_METHOD, optimal=not slack, bound=None, gap=None, candidates=paces, priced=paces, pruned={}
    )


def _remarks(
    estimate: TrainingEstimate, layout: ParallelLayout, device: DevicePower, slowed: int
) -> Iterator[str]:  # fmt: skip
    yield f"power set: {device.fitted.id}; a stage that is early is taken to draw its static power, so this is least"
    yield "clocks are shares of the full one; where the power limit already lowers it, of the one that it holds"
    if not estimate.fits:
        yield "the layout does not fit in memory"
    if layout.pp == 1:
        yield "one stage: none waits for another; only slack slows it"
    elif not slowed:
        yield f"{estimate.n_microbatches} micro-batches: all of them fill the pipeline or drain it"
    else:
        yield "the length of the step holds to 0.2 % on average, 3 % at worst, in replays of 1F1B"
