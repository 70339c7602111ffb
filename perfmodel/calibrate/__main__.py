"""`python -m perfmodel.calibrate [--accelerator ID] [--write]`: fit the shipped tables, print, and write if asked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from perfmodel.calibrate.kernels import Fitted, Score
from perfmodel.calibrate.layer_table import ACCELERATOR, fit_layer_table, write_layer_fit
from perfmodel.calibrate.write import RECIPES, calibrated, fits, path_of, render
from perfmodel.errors import PerfModelError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m perfmodel.calibrate", description="Fit the kernel constants.")
    parser.add_argument("--accelerator", help=f"one of {', '.join(RECIPES)}; all when left out")
    parser.add_argument("--write", action="store_true", help="write hardware_specs/efficiency")
    options = parser.parse_args(arguments)
    print("median / 90th percentile of |ln(law / measured)|; the roofline has the data-sheet peaks, on held-out rows")
    try:
        for id in [options.accelerator] if options.accelerator else list(RECIPES):
            found = dict(fits(id))
            for key, fit in found.items():
                _show(f"{id} {key}", fit)
            if options.write:
                path_of(id).write_text(render(calibrated(id, found)), encoding="utf-8")
        if options.accelerator in (None, ACCELERATOR):
            layer = fit_layer_table()
            print(
                f"{ACCELERATOR} elementwise.megatron and exposed_share: 10 layer times; median "
                f"{100 * layer.median_error:.1f} %, worst {100 * layer.max_error:.1f} %; with nothing hidden "
                f"{100 * layer.median_error_without_overlap:.1f} %\n"
                f"    memory_efficiency {layer.memory_efficiency:.4g}, exposed_share {layer.exposed_share:.4g}"
            )
            if options.write:
                write_layer_fit(layer)
    except PerfModelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _show(title: str, fit: Fitted) -> None:
    scores = {"fitted": fit.fitted, "held out": fit.held_out, "roofline": fit.roofline}
    print(f"{title}: {fit.rows} rows; " + ", ".join(f"{name} {_percent(score)}" for name, score in scores.items()))
    print("    " + ", ".join(f"{name} {value:.4g}" for name, value in fit.constants.items()))


def _percent(score: Score) -> str:
    return f"{100 * score.median:.1f} / {100 * score.p90:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
