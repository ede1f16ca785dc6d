"""Latency of quantized models against their float originals in onnxruntime on this processor.

    python -m benchmarks.latency [--networks mobilenet_v2 resnet50] [--preset a8w8] [--bias-type int32] [--threads N]
        [--rounds N] [--out FILE]

Both models live in one process and take turns, so that a busy machine slows both. Reported are medians, their ratio,
and which Conv, Gemm, MatMul, Add and pool nodes still compute in floating point in the graph onnxruntime made of the
quantized model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
from benchmarks.common import markdown, noise, write_json
from benchmarks.networks import NETWORKS

INTEGER_OPS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QGemm", "ConvInteger", "MatMulInteger"})
FLOAT_FROM_INTEGER = frozenset({"DequantizeLinear"})
COMPUTE = ("Conv", "Gemm", "MatMul", "Add", "Pool")


def session(model: Path, threads: int, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def carries_integers(value: ir.Value | None) -> bool:
    """Tell whether a value of an optimized graph holds integers, following operators that only move data."""
    if value is None:
        return False
    node = value.producer()
    if node is None:
        dtype = value.const_value.dtype if value.const_value is not None else value.dtype
        return dtype is not None and dtype.is_integer()
    if node.op_type in FLOAT_FROM_INTEGER:
        return False
    if node.op_type in INTEGER_OPS or node.op_type.startswith("QLinear"):
        return True
    return carries_integers(node.inputs[0]) if node.inputs else False


def float_nodes(optimized: Path) -> Counter[str]:
    """Count the compute nodes that read floating point, by operator (fused and blocked forms included)."""
    graph = ir.load(optimized).graph
    compute = [node for node in graph if any(kind in node.op_type for kind in COMPUTE)]
    quantized = [n for n in compute if n.op_type in INTEGER_OPS or n.op_type.startswith("QLinear")]
    return Counter(n.op_type for n in compute if n not in quantized and not carries_integers(n.inputs[0]))


def alternate(sessions: Sequence[ort.InferenceSession], feed: dict[str, npt.NDArray[Any]], rounds: int) -> list[float]:
    """Return the median milliseconds of each session, run in turns after a warm-up."""
    times: list[list[float]] = [[] for _ in sessions]
    for k in range(rounds + 3):
        for index in range(len(sessions)) if k % 2 == 0 else reversed(range(len(sessions))):
            start = time.perf_counter()
            sessions[index].run(None, feed)
            if k >= 3:
                times[index].append(1000 * (time.perf_counter() - start))
    return [statistics.median(t) for t in times]


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from equiquant import quantize

    with tempfile.TemporaryDirectory() as folder:
        original, quantized, optimized = (Path(folder) / f"{part}.onnx" for part in ("float", "int8", "optimized"))
        ir.save(NETWORKS[name](), original)
        options = {} if arguments.bias_type is None else {"bias_type": arguments.bias_type}
        samples = noise((1, 3, 224, 224), arguments.samples)
        quantize(original, quantized, data=samples, preset=arguments.preset, **options)
        sessions = [session(original, arguments.threads), session(quantized, arguments.threads, optimized)]
        feed = {"input": np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)}
        float_ms, int8_ms = alternate(sessions, feed, arguments.rounds)
        left = float_nodes(optimized)
        sizes = [path.stat().st_size / 1e6 for path in (original, quantized)]
    return {
        "network": name,
        "preset": arguments.preset + (f", {arguments.bias_type} bias" if arguments.bias_type else ""),
        "threads": arguments.threads,
        "float_ms": round(float_ms, 2),
        "int8_ms": round(int8_ms, 2),
        "ratio": round(int8_ms / float_ms, 3),
        "float_mb": round(sizes[0], 1),
        "int8_mb": round(sizes[1], 1),
        "float_nodes": dict(left),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Latency of float and quantized networks, as a markdown table.")
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--preset", default="a8w8")
    parser.add_argument("--bias-type", help="instead of the preset's, e.g. int32 for the CPU form of xint8")
    parser.add_argument("--samples", type=int, default=4, help="calibration inputs")
    parser.add_argument("--threads", type=int, default=1, help="0 for all cores")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        rows.append(measure(name, arguments))
        print(json.dumps(rows[-1]), file=sys.stderr)
    header = ["network", "preset", "threads", "float ms", "int8 ms", "ratio", "float MB", "int8 MB", "float nodes left"]
    print(markdown(header, [[*list(row.values())[:-1], row["float_nodes"] or "none"] for row in rows]))
    write_json(arguments.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
