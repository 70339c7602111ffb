"""`perfmodel plan clocks|pools|pool-clocks|rows`: their questions and their pages."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE, NOT_FEASIBLE
from perfmodel.cli.option import parsed
from perfmodel.cli.options import LAYOUT, PLAN_CLOCKS
from perfmodel.cli.output import emit, say
from perfmodel.cli.pool_options import PLAN_POOL_CLOCKS, PLAN_POOLS, PLAN_ROWS
from perfmodel.cli.question import question_of
from perfmodel.cli.scenario import gather

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plan_clocks", "plan_pool_clocks", "plan_pools", "plan_rows"]

_Page = Callable[["Console", Mapping[str, Any]], None]
_SHOWN = 12


def plan_clocks(args: Namespace) -> int:
    """`perfmodel plan clocks`: 0; where no stage waits the clocks are the full ones, and a note says so."""
    import perfmodel as pm

    given = {
        option.name: value if isinstance(value := getattr(args, option.name), bool) else parsed(option, value)
        for option in PLAN_CLOCKS
        if hasattr(args, option.name)
    }
    scenario = gather(PLAN_CLOCKS, given, args.file, "plan clocks")
    for note in scenario.notes:
        say(f"note: {note}")
    question = dict(scenario.values)
    layout = {option.name: question.pop(option.name) for option in LAYOUT if option.name in question}
    cluster = pm.load_cluster(question.pop("cluster"), accelerators=question.pop("accelerators", None))
    plan = pm.plan_clocks(question.pop("model"), cluster, layout=layout, **question)
    return _emitted(args, plan.to_dict(), _clocks_page)


def plan_pools(args: Namespace) -> int:
    """`perfmodel plan pools`: 0 with pools, 1 where the budget has no room for one machine of each."""
    import perfmodel as pm

    plan = pm.plan_pools(**question_of(args, PLAN_POOLS, "perfmodel/pools-plan/1", rows=True)).to_dict()
    return _emitted(args, plan, _pools_page)


def plan_pool_clocks(args: Namespace) -> int:
    """`perfmodel plan pool-clocks`: 0 with engines for every pool, 1 where the accelerators do not suffice."""
    import perfmodel as pm

    plan = pm.plan_clocks_of_pools(
        **question_of(args, PLAN_POOL_CLOCKS, "perfmodel/pool-clocks-plan/1", rows=True)
    ).to_dict()
    return _emitted(args, plan, _pool_clocks_page)


def plan_rows(args: Namespace) -> int:
    """`perfmodel plan rows`: 0 with a placement, 1 where none is found."""
    import perfmodel as pm

    plan = pm.plan_rows(**question_of(args, PLAN_ROWS, "perfmodel/rows-plan/1", rows=True)).to_dict()
    return _emitted(args, plan, _rows_page)


def _emitted(args: Namespace, plan: Mapping[str, Any], page: _Page) -> int:
    emit(plan, lambda console: page(console, plan), as_json=args.json, file=args.output)
    return DONE if plan["feasible"] else NOT_FEASIBLE


def _clocks_page(console: Console, plan: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    asked, before, after = plan["request"], plan["step_time_before_s"], plan["step_time_s"]
    saved = fmt.percent(plan["saved_share"])
    console.print(
        Text.assemble(
            (f"{fmt.called(asked['model'])} on {asked['accelerators']:,} of {fmt.called(asked['cluster'])}: ", "bold"),
            (f"{saved} of the energy saved", "bold green"),
            f", step {fmt.seconds(before)} to {fmt.seconds(after)} ({fmt.percent(after / before - 1, signed=True)})",
        )
    )
    joules = (plan["energy_before_j_per_step"], plan["energy_j_per_step"])
    console.print(f"{' to '.join(fmt.energy(one) for one in joules)} a step, servers and facility included")
    if plan["run"]:
        run = plan["run"]
        kwh = " to ".join(f"{run[key]:,.0f} kWh" for key in ("energy_before_kwh", "energy_kwh"))
        kg = " to ".join(fmt.carbon(run[key]) for key in ("carbon_before_kg", "carbon_kg"))
        console.print(f"run of {fmt.count(run['tokens'])} tokens: {kwh}, {kg}, {run['run_days']:.1f} days")
    heading(console, "Clocks", "a micro-batch at full clocks and at its own; alike neighbours together")
    table = plain_table("stages", "layers", "full", "own", "clock", "", left=(0,))
    for stages, one in _alike(plan["stages"]):
        hertz = "" if one["clock_hz"] is None else f"{one['clock_hz'] / 1e6:,.0f} MHz"
        times = (fmt.seconds(one[key]) for key in ("microbatch_before_s", "microbatch_s"))
        table.add_row(stages, f"{one['layers']:g}", *times, fmt.percent(one["clock_ratio"]), hertz)
    console.print(table)
    held = plan["held"]
    share = 1 - held["energy_j_per_step"] / plan["energy_before_j_per_step"]
    console.print(
        f"{plan['full_clock_microbatches']} micro-batches fill and drain the pipeline at full "
        f"clocks; held for these too: step {fmt.seconds(held['step_time_s'])} "
        f"({fmt.percent(held['step_time_s'] / before - 1, signed=True)}), {fmt.percent(share)} saved"
    )
    console.print(
        f"arithmetic binds {fmt.percent(plan['compute_share'])} of a micro-batch's time; "
        f"taken to follow the clock: {fmt.percent(asked['clock_bound_share'])}"
    )
    _notes(console, plan)


def _alike(stages: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Neighbouring stages with the same layers and times as one line."""
    lines: list[tuple[int, int, dict[str, Any]]] = []
    for one in stages:
        key = {name: value for name, value in one.items() if name != "stage"}
        if lines and lines[-1][2].items() >= key.items():
            lines[-1] = (lines[-1][0], one["stage"], one)
        else:
            lines.append((one["stage"], one["stage"], one))
    return [(str(low) if low == high else f"{low} to {high}", one) for low, high, one in lines]


def _pools_page(console: Console, plan: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    if _nothing(console, plan, "No pair of pools is within the budget"):
        return
    made, said = plan["decision"], plan["prediction"]
    console.print(
        Text.assemble(
            (f"{made['prompt_machines']} x {made['prompt_machine']} for prompts, {made['token_machines']} x "
             f"{made['token_machine']} for tokens: ", "bold"),
            (f"{said['requests_per_s']:.4g} requests/s", "bold green"),
            f", {fmt.power(said['watts'])}, {fmt.usd(said['usd_per_hour'])} an hour",
        )
    )  # fmt: skip
    heading(console, "One machine", "requests/s in each phase alone, and doing both; then the whole budget on it")
    table = plain_table("", "prompts", "tokens", "both", "power", "USD/h", "machines", "requests/s")
    for one, whole in zip(plan["machines"], plan["mixed"], strict=True):
        rates = (f"{one[f'{key}_requests_per_s']:.4g}" for key in ("prompt", "token", "mixed"))
        table.add_row(one["machine"], *rates, fmt.power(one["watts"]), f"{one['usd_per_hour']:.2f}",
                      f"{whole['machines']:,}", f"{whole['requests_per_s']:.4g}")  # fmt: skip
    console.print(table)
    if plan["gain"] is not None:
        console.print(f"{plan['gain']:.2f} times the best budget spent on machines that do both")
    _proof(console, plan)
    _notes(console, plan)


def _pool_clocks_page(console: Console, plan: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    if _nothing(console, plan, "These accelerators do not serve every pool"):
        return
    given = plan["request"]["accelerators"]
    console.print(
        Text.assemble(
            (f"{plan['accelerators_used']} of {fmt.many(given, 'accelerator')}: ", "bold"),
            (fmt.power(plan["watts"]), "bold green"),
        )
    )
    heading(console, "Engines", "requests/s and power of all of a line, at their full rate")
    table = plain_table("pool", "engines", "of", "accelerators", "requests/s", "power", left=(0, 2))
    for one in plan["engines"]:
        table.add_row(one["pool"], str(one["instances"]), one["option"], str(one["accelerators"]),
                      f"{one['requests_per_s']:.4g}", fmt.power(one["watts"]))  # fmt: skip
    console.print(table)
    if plan["full_clock_w"] is not None:
        saved = fmt.percent(plan["saved_share"])
        console.print(f"at full clocks alone {fmt.power(plan['full_clock_w'])}: clocks save {saved}")
    _proof(console, plan)
    _notes(console, plan)


def _rows_page(console: Console, plan: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    if _nothing(console, plan, "No placement was found"):
        return
    count = f"{fmt.many(len(plan['placement']), 'load')} in {fmt.many(len(plan['rows']), 'row')}: "
    full = f"the fullest takes {fmt.percent(plan['peak_share'])} of its power"
    console.print(Text.assemble((count, "bold"), (full, "bold green")))
    heading(console, "Rows")
    table = plain_table("row", "power", "of", "", "heat", "of", "", "loads", left=(0, 7))
    for one in plan["rows"]:
        here = [load["load"] for load in plan["placement"] if load["row"] == one["row"]]
        more = f" and {len(here) - _SHOWN} more" if len(here) > _SHOWN else ""
        cells = (
            cell
            for used, most, share in (("watts", "power_w", "power_share"), ("heat_w", "cooling_w", "cooling_share"))
            for cell in (fmt.power(one[used]), fmt.power(one[most]), fmt.percent(one[share]))
        )
        table.add_row(one["row"], *cells, ", ".join(here[:_SHOWN]) + more)
    console.print(table)
    _proof(console, plan)


def _nothing(console: Console, plan: Mapping[str, Any], said: str) -> bool:
    from rich.text import Text

    if plan["feasible"]:
        return False
    console.print(Text(said, "bold red"))
    for reason in plan["infeasible_because"]:
        console.print(f"- {reason}", markup=False)
    return True


def _proof(console: Console, plan: Mapping[str, Any]) -> None:
    """What the certificate proves; a limit that ended the search is told."""
    from rich.text import Text

    from perfmodel.cli import format as fmt

    proof = plan["certificate"]
    said = "proved best" if proof["optimal"] else "best found, not proved best"
    if proof["stopped_by"]:
        said += f": {proof['stopped_by'].replace('_', ' ')} reached"
    if not proof["optimal"] and proof["gap"] is not None:
        said += f"; nothing is better by more than {fmt.percent(proof['gap'])}"
    console.print(Text(said, "dim"))


def _notes(console: Console, plan: Mapping[str, Any]) -> None:
    from rich.text import Text

    for note in plan["notes"]:
        console.print(Text(note, "dim"))
    for one in plan.get("warnings", ()):
        console.print(Text(f"{one['formula']}: {one['quantity']}: {one['value']} (valid: {one['valid']})", "yellow"))
