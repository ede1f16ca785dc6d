"""What each step gives: the accuracy of real trained models with more and more of what EquiQuant does, and the peer's.

    python -m benchmarks.accuracy_by_step [--models ...] [--presets xint8 a8w8] [--draws N]

Writes the tables into `docs/accuracy.md`. Models, inputs and figures are those of `benchmarks.accuracy`; the peer's
figures are from there too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.accuracy import METRICS, PEER, figure, float_figure, measure
from benchmarks.common import ROOT, SHARED, markdown, real_data

PAGE = ROOT / "docs" / "accuracy.md"
MARK = "<!-- written by benchmarks.accuracy_by_step -->"
UNREFINED = {"bias_correction": False, "weight_rounding": "nearest"}
STEPS: dict[str, tuple[bool, bool, dict[str, Any]]] = {  # equalized, data, other options
    "rounded as it is": (False, True, UNREFINED),
    "equalized": (True, True, UNREFINED),
    "+ biases": (True, True, {"weight_rounding": "nearest"}),
    "+ rounding (default)": (True, True, {}),
    "default, no data": (True, False, {}),
}


def row(realdata: Any, name: str, preset: str, arguments: argparse.Namespace) -> list[Any]:
    found: dict[str, Any] = {}
    cells: list[str] = []
    for equalized, data, options in STEPS.values():
        settings = argparse.Namespace(
            draws=arguments.draws,
            samples=100,
            no_data=not data,
            from_file=False,
            options=options,
            replace_clip6_relu=False,
        )
        found = measure(realdata, name, preset, equalized, settings)
        cells.append(figure(found))
        print(name, preset, *cells, sep=" | ", file=sys.stderr)
    peer = PEER[name]
    return [name, float_figure(found), *cells, peer.get((preset, False), "-"), peer.get((preset, True), "-")]


def main() -> int:
    parser = argparse.ArgumentParser(description="Accuracy of real models, step by step, into docs/accuracy.md.")
    parser.add_argument("--models", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--presets", nargs="+", default=["xint8", "a8w8"])
    parser.add_argument("--draws", type=int, default=1, help="runs on different calibration inputs")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    arguments = parser.parse_args()
    realdata = real_data(parser, arguments.data)
    header = ["model", "float", *STEPS, "peer, no CLE", "peer, CLE"]
    tables = [
        f"## {preset}\n\n{markdown(header, [row(realdata, name, preset, arguments) for name in arguments.models])}"
        for preset in arguments.presets
    ]
    about = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(about + MARK + "\n\n" + "\n\n".join(tables).rstrip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
