"""Time and peak memory of quantizing a model larger than a protobuf can hold, in a process of its own.

    python -m benchmarks.large_model [--gigabytes 3] [--half] [--samples 4] [--no-cle] [--folder DIR] [--out FILE]

The model is a stack of residual blocks (MatMul 2048 to 8192, Relu, MatMul back, Add, LayerNormalization) with seeded
weights in external data. `--half` stores float16. It needs that much disk in the folder for the model, and as much
again for temporary files and the result. The peak is that of the resident set, mapped pages of the model file included.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, last_json, markdown, write_json

WIDTH, INNER = 2048, 8192
TOKENS = 16


def write_model(path: Path, gigabytes: float, half: bool) -> int:
    """Write the model, one weight in memory at a time; return the size of its weights in bytes."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    rng = np.random.default_rng(0)
    blocks = max(1, round(gigabytes * 1e9 / (2 * WIDTH * INNER * np.dtype(dtype).itemsize)))
    nodes, weights, position = [], [], 0
    gain = onnx.numpy_helper.from_array(np.ones(WIDTH, dtype), "gain")
    with (path.parent / f"{path.name}.data").open("wb") as data:

        def weight(name: str, rows: int, columns: int) -> str:
            nonlocal position
            array = (rng.standard_normal((rows, columns), np.float32) / np.sqrt(rows)).astype(dtype)
            data.write(array.data)
            tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
            where = {"location": f"{path.name}.data", "offset": str(position), "length": str(array.nbytes)}
            tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in where.items())
            weights.append(tensor)
            position += array.nbytes
            return name

        value = "x"
        for i in range(blocks):
            nodes += [
                helper.make_node("MatMul", [value, weight(f"up{i}", WIDTH, INNER)], [f"u{i}"]),
                helper.make_node("Relu", [f"u{i}"], [f"r{i}"]),
                helper.make_node("MatMul", [f"r{i}", weight(f"down{i}", INNER, WIDTH)], [f"d{i}"]),
                helper.make_node("Add", [value, f"d{i}"], [f"a{i}"]),
                helper.make_node("LayerNormalization", [f"a{i}", "gain"], [f"n{i}"]),
            ]
            value = f"n{i}"
    shape: list[str | int | None] = ["N", TOKENS, WIDTH]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(value, kind, shape)],
        [*weights, gain],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return position


def measure(model: Path, samples: int, preset: str, half: bool, cle: bool) -> dict[str, Any]:
    """Quantize in this process and return time and memory, stage by stage."""
    import numpy as np

    from equiquant import quantize

    rng = np.random.default_rng(1)
    data = rng.standard_normal((samples, TOKENS, WIDTH)).astype(np.float16 if half else np.float32)
    start = time.perf_counter()
    result = quantize(model, model.with_suffix(".int8.onnx"), data=data, preset=preset, cle=cle)
    stages = result.report.to_dict()["stages"]
    return {
        "quantize_s": round(time.perf_counter() - start, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "stages": {s["name"]: [round(s["seconds"], 1), (s["peak_bytes"] or 0) >> 20] for s in stages},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost of quantizing a large model, as a markdown table.")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the weights")
    parser.add_argument("--half", action="store_true", help="float16 weights")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--preset", default="xint8")
    parser.add_argument("--no-cle", action="store_true", help="without equalization")
    parser.add_argument("--folder", type=Path, help="where to put the model for the time of the run")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        cle = not arguments.no_cle
        print(json.dumps(measure(arguments.worker, arguments.samples, arguments.preset, arguments.half, cle)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = Path(folder) / "large.onnx"
        size = write_model(model, arguments.gigabytes, arguments.half)
        command = [sys.executable, "-m", "benchmarks.large_model", "--worker", str(model)]
        command += ["--samples", str(arguments.samples), "--preset", arguments.preset]
        command += [flag for flag, on in (("--half", arguments.half), ("--no-cle", arguments.no_cle)) if on]
        row = last_json(command, 7200, ROOT)
    row |= {"weights_mb": size >> 20, "type": "float16" if arguments.half else "float32", "preset": arguments.preset}
    row["ratio"] = round(row["peak_rss_mb"] / row["weights_mb"], 2)
    body = [[row[k] for k in ("type", "preset", "weights_mb", "peak_rss_mb", "ratio", "quantize_s")]]
    print(markdown(["weights", "preset", "MB", "peak MB", "peak / weights", "s"], body))
    print(markdown(["stage", "s", "peak MB"], [[name, *figures] for name, figures in row["stages"].items()]))
    write_json(arguments.out, [row])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
