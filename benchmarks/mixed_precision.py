"""What raising a few layers gives on real trained models.

    python -m benchmarks.mixed_precision [--models ...] [--presets xint8 a8w8] [--out FILE]

Needs the optional folder `shared/` beside the checkout, as `benchmarks.accuracy` does: 100 calibration inputs, scored
on inputs that calibration did not see.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.accuracy import METRICS, averaged, check, figure
from benchmarks.common import SHARED, markdown, real_data, write_json

WAYS: tuple[dict[str, int], ...] = ({}, {"keep_float": 1}, {"keep_float": 2}, {"keep_float": 3}, {"int16": 3})


def measure(realdata: Any, name: str, preset: str, way: dict[str, Any]) -> dict[str, Any]:
    """Quantize one model in one way, check the result and score it."""
    from equiquant import quantize

    inputs, _ = realdata.load(name, "calib")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        start = time.perf_counter()
        calibration = (inputs[k : k + 1] for k in range(min(100, len(inputs))))
        result = quantize(realdata.reference(name), out, data=calibration, preset=preset, **way)
        seconds = time.perf_counter() - start
        check(out)
        mixed = result.report.mixed_precision
        share = mixed["share_of_multiplications"] if mixed else {"float": 0.0, "int16": 0.0}
        row = {"model": name, "preset": preset, "way": way, "seconds": round(seconds, 1), "share": max(share.values())}
        return averaged(name, [{**row, **realdata.score(str(out), name)}])


def main() -> int:
    parser = argparse.ArgumentParser(description="Accuracy with a few layers raised, as a markdown table.")
    parser.add_argument("--models", nargs="+", choices=METRICS, default=["mobilenetv1_025", "posenet_mnv1_075"])
    parser.add_argument("--presets", nargs="+", default=["xint8", "a8w8"])
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    realdata = real_data(parser, arguments.data)
    rows = [
        measure(realdata, name, preset, way)
        for name in arguments.models
        for preset in arguments.presets
        for way in WAYS
    ]
    body = [
        [
            f"{row['model']}, {METRICS[row['model']][1]}",
            row["preset"],
            ", ".join(f"{k}={v}" for k, v in row["way"].items()) or "all in 8 bits",
            figure(row),
            f"{100 * row['share']:.1f}%",
            row["seconds"],
        ]
        for row in rows
    ]
    head = ["model, figure", "preset", "raised", "EquiQuant", "of the multiplications", "s"]
    print(markdown(head, body))
    write_json(arguments.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
