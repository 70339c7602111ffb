"""The formulas behind a document, and their closed forms as MathML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.formulas._registry import Formula, get_formula
from perfmodel.report.documents import kind_of, prediction_of

__all__ = ["Law", "formulas_of", "law", "mathml"]

_OF_A_STEP = {
    "layers": ("matmul_flops", "tiled_compute_time", "tiled_matmul_time", "elementwise_time"),
    "tensor_parallel": ("ring_all_gather_time", "ring_reduce_scatter_time"),
    "stragglers": ("straggler_slowdown",),
    "pipeline_transfer": ("p2p_message_bytes", "send_recv_time"),
    "optimizer": ("optimizer_bytes",),
}
"""What prices a term of a training step; a test sees that each is called."""
_OF_EVERY_STEP = ("energy_j", "cost_usd")
_BUBBLES = {
    "zb-h1": "zb_h1_bubble_time",
    "zb-1p": "zb_h1_bubble_time",
    "zb-h2": "zb_h2_bubble_time",
    "zb-2p": "zb_2p_bubble_time",
    "zb-v": "zb_v_bubble_time",
    "v-half": "v_half_bubble_time",
    "v-min": "v_min_bubble_time",
    "dualpipe": "dualpipe_bubble_time",
}
_OF_SERVING = ("tiled_matmul_time", "decode_attention_time", "elementwise_time", "engine_host_time")
_OF_POOLS = ("disaggregated_requests_per_s", "kv_transfer_bytes", "layerwise_exposed_transfer_time")
_OF_KIND: dict[str, tuple[str, ...]] = {
    "power-plan": ("row_power_quantile", "row_power_sd", "server_power", "accelerator_power", "time_at_clock"),
    "experts-plan": ("imbalanced_layer_time",),
    "training-budget-plan": ("chinchilla_loss", "effective_precision_params", "lifetime_cost_usd"),
    "disaggregated-estimate": _OF_POOLS,
    "test-time-plan": ("independent_coverage", "coverage_beta_mixture"),
}
_ACCENTS = {"bar": "\u0304", "hat": "\u0302", "tilde": "\u0303", "dot": "\u0307"}
_LONGEST = 5000
"""Letters of MathML beyond which a closed form is no longer readable; its published equation stands alone then."""


@dataclass(frozen=True)
class Law:
    """One formula as a page shows it; `mathml` is empty where the closed form is too long to read."""

    name: str
    summary: str
    mathml: str
    latex: str
    symbols: tuple[tuple[str, str, str], ...]
    returns: str
    valid: str
    source: str
    checked: str


def formulas_of(document: Mapping[str, Any]) -> list[str]:
    """Ids of formulas that the document rests on: the main ones, and those that its warnings name."""
    from perfmodel.formulas import all_formulas

    said = prediction_of(document)
    found: list[str] = []
    if "step_time_s" in said and "terms" in said:
        found += _of_step(said)
    if "ttft_s" in said:
        found += _of_serving(said)
    found += _OF_KIND.get(kind_of(document), ())
    if said is not document and "document" in said:  # a plan shows the formulas of what it predicts
        found += _OF_KIND.get(kind_of(said), ())
    warned = [one["formula"] for one in said.get("warnings", ()) if isinstance(one, Mapping)]
    known = all_formulas()
    return [name for name in dict.fromkeys([*found, *warned]) if name in known]


def _of_step(said: Mapping[str, Any]) -> Iterator[str]:
    layout = said["request"]["layout"]
    for term in said["terms"]:
        if term["name"] == "pipeline_bubble":
            yield _BUBBLES.get(layout["schedule"], "pipeline_bubble_time")
        elif term["name"] != "tensor_parallel" or layout["sequence_parallel"]:
            yield from _OF_A_STEP.get(term["name"], ())
    yield from _OF_EVERY_STEP


def _of_serving(said: Mapping[str, Any]) -> Iterator[str]:
    yield from _OF_SERVING
    yield "kv_cache_budget_bytes"
    yield "cost_usd_per_mtok"


def law(name: str) -> Law:
    """The formula of that name as a page shows it; raises `PlanError` with the nearest match."""
    formula = get_formula(name)
    written = mathml(formula)
    return Law(
        name=name,
        summary=formula.summary,
        mathml=written if len(written) <= _LONGEST else "",
        latex=formula.equation,
        symbols=tuple((_plain(one.tex), f"{one.name} [{one.unit}]", one.meaning) for one in formula.symbols.values()),
        returns=f"{formula.returns.unit}",
        valid=formula.valid_text,
        source=formula.source,
        checked=formula.checked,
    )


def mathml(formula: Formula) -> str:
    """What the formula computes as one `<math>` element, in the symbols of its source; printed by SymPy."""
    import sympy

    expression = formula.symbolic()
    names = _symbols(formula)
    expression = expression.xreplace(
        {one: sympy.Symbol(names[one.name]) for one in expression.free_symbols if one.name in names}
    )
    # Constants of a fit have more digits than anybody reads.
    expression = expression.xreplace({one: sympy.Float(one, 4) for one in expression.atoms(sympy.Float)})
    body = _printer()._print(expression).toxml()
    body = re.sub(r"<mo><(=?)</mo>", r"<mo>&lt;\1</mo>", body).replace("&InvisibleTimes;", "&#8290;")
    return f'<math displaystyle="true">{_left(formula)}<mo>=</mo>{body}</math>'


def _left(formula: Formula) -> str:
    """What the source calls the result, where it is one symbol."""
    tex = _plain(formula.equation.split("=")[0])
    if re.fullmatch(r"\w+", tex) is None:
        return f"<mtext>{formula.name.replace('_', ' ')}</mtext>"
    import sympy

    written: str = _printer()._print(sympy.Symbol(tex)).toxml()
    return written


def _printer() -> Any:
    from sympy.printing.mathml import MathMLPresentationPrinter

    class Printer(MathMLPresentationPrinter):  # type: ignore[misc]
        """Cases as rows behind a brace; SymPy writes them as a function of tuples."""

        def _print_Piecewise(self, expression: Any) -> Any:
            make = self.dom.createElement
            row, table = make("mrow"), make("mtable")
            brace = make("mo")
            brace.appendChild(self.dom.createTextNode("{"))
            row.appendChild(brace)
            for value, condition in expression.args:
                line = make("mtr")
                for part in (value, condition):
                    cell = make("mtd")
                    if part == True:  # noqa: E712 (SymPy's own true)
                        text = make("mtext")
                        text.appendChild(self.dom.createTextNode("otherwise"))
                        cell.appendChild(text)
                    else:
                        cell.appendChild(self._print(part))
                    line.appendChild(cell)
                table.appendChild(line)
            row.appendChild(table)
            return row

    return Printer()


def _symbols(formula: Formula) -> dict[str, str]:
    """Names in which SymPy writes the symbols of the source: `t_F`, `alpha`, `tbar`; ours where two would be alike."""
    found = {one.name: _plain(one.tex) for one in formula.symbols.values()}
    twice = {tex for tex in found.values() if list(found.values()).count(tex) > 1}
    return {name: name if tex in twice or not tex else tex for name, tex in found.items()}


def _plain(tex: str) -> str:
    r"""A LaTeX symbol as SymPy names it: `\alpha` is alpha, accents become combining letters.

    >>> _plain(r"\alpha"), _plain("n_{kv}"), len(_plain(r"\bar t"))
    ('alpha', 'n_kv', 2)
    """
    accented = re.sub(r"\\(bar|hat|tilde|dot)\s*\{?(\w)\}?", lambda found: found[2] + _ACCENTS[found[1]], tex.strip())
    return re.sub(r"\\(?:mathrm|text|mathit)|[\\{}\s]", "", accented)
