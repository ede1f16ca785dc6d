"""What `equiquant equalize` does for another toolchain: onnxruntime's own static quantizer on equalized float models.

    python -m benchmarks.other_toolchains [--samples N] [--out FILE]

Needs the optional folder `shared/` beside the checkout. MobileNetV1-0.25 is given to
`onnxruntime.quantization.quantize_static` (QDQ, per tensor, min-max, uint8 activations, int8 weights) as it is, after
the documented pairwise equalization and after the global one, with the same calibration inputs, and scored on others.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from benchmarks.common import SHARED, markdown, real_data, write_json

MODEL = "mobilenetv1_025"
METHODS = ("none", "pairwise", "global")


class Reader:
    """The samples one at a time, as `quantize_static` wants them."""

    def __init__(self, name: str, inputs: Any) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({name: inputs[k : k + 1]} for k in range(len(inputs)))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def static_quantized(model: Path, inputs: Any, out: Path) -> Path:
    """Quantize a float model with onnxruntime, and nothing of ours."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    name = onnx.load(model, load_external_data=False).graph.input[0].name
    quantize_static(
        model,
        out,
        Reader(name, inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return out


def interface(model: Path) -> list[tuple[str, str]]:
    """Return the names and types of a model's inputs and outputs."""
    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [(v.name, str(v.type)) for v in (*graph.input, *graph.output) if v.name not in weights]


def measure(realdata: Any, method: str, samples: int) -> dict[str, Any]:
    """Equalize by one method, or only fold for `none`, quantize with onnxruntime, and score."""
    from equiquant import equalize

    inputs = realdata.load(MODEL, "calib")[0][:samples]
    source = Path(realdata.reference(MODEL))
    with tempfile.TemporaryDirectory() as folder:
        floated = Path(folder) / "float.onnx"
        if method == "none":
            from onnxruntime.quantization.shape_inference import quant_pre_process

            quant_pre_process(source, floated)  # onnxruntime's own folding of BatchNormalization
        else:
            equalize(source, floated, data=inputs, method=method)
            if interface(floated) != interface(source):
                raise ValueError("the equalized model has other inputs or outputs")
        score = realdata.score(str(static_quantized(floated, inputs, Path(folder) / "int8.onnx")), MODEL)
    return {"model": MODEL, "equalized": method, **score}


def table(rows: list[dict[str, Any]]) -> str:
    """Return one line a method."""
    body = [[r["equalized"], f"{100 * r['top1']:.1f}%", f"{r['sqnr_db'][0]:.1f} dB"] for r in rows]
    return markdown(["equalized before", "top-1", "SQNR"], body)


def main() -> int:
    parser = argparse.ArgumentParser(description="onnxruntime's quantizer on equalized models, as a markdown table.")
    parser.add_argument("--samples", type=int, default=100, help="calibration inputs")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    realdata = real_data(parser, arguments.data)
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime recommends its own folding, which is done here
    rows = []
    for method in METHODS:
        rows.append(measure(realdata, method, arguments.samples))
        print(json.dumps(rows[-1]), file=sys.stderr)
    print(
        f"{MODEL}, float {100 * rows[0]['float_top1']:.1f}%, quantized by onnxruntime's quantize_static, per tensor\n"
    )
    print(table(rows))
    write_json(arguments.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
