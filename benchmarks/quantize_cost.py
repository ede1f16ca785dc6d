"""Time and peak memory of quantizing networks of published shapes, beside the peer where it is installed.

    python -m benchmarks.quantize_cost [--peer-python PATH] [--networks ...] [--samples ...] [--repeats N] [--out FILE]

Every measurement is a fresh process that loads a model file, quantizes it with the documented xint8 options (power of
two, MinMSE, one equalization sweep, ReLU6 replaced) and writes the result. Both sides read the same file and the same
seeded noise; they take turns, and each figure is the median over the repeats.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, SHARED, last_json, markdown, noise, write_json
from benchmarks.networks import NETWORKS

FIGURES = ("quantize_s", "import_s", "peak_rss_mb")


def measure_here(model: Path, out: Path, samples: int) -> dict[str, Any]:
    """Quantize in this process and return the same figures as the peer's script."""
    start = time.perf_counter()
    from equiquant import quantize
    from equiquant.io import input_specs, load_model

    import_s = time.perf_counter() - start
    shape = [d or 1 for d in input_specs(load_model(model).model)[0].shape]
    gc.collect()  # the graph just read is full of cycles
    start = time.perf_counter()
    quantize(model, out, data=noise(shape, samples), preset="xint8", replace_clip6_relu=True)
    return {
        "quantize_s": round(time.perf_counter() - start, 2),
        "import_s": round(import_s, 2),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "samples": samples,
    }


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {figure: statistics.median(run[figure] for run in runs) for figure in FIGURES}


def compare(model: Path, samples: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one network with one number of samples, alternating who goes first."""
    out = model.with_suffix(".int8.onnx")
    tail = [str(model), str(out), "--samples", str(samples)]
    sides = {"equiquant": [sys.executable, "-m", "benchmarks.quantize_cost", "--worker", *tail]}
    if arguments.peer_python:
        sides["peer"] = [str(Path(arguments.peer_python).absolute()), str(arguments.peer_script.absolute()), *tail]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    failed: dict[str, str] = {}
    for repeat in range(arguments.repeats):
        for side in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
            if side in failed:
                continue
            out.unlink(missing_ok=True)
            try:
                # the peer leaves files in the folder it runs in; ours must find this package
                folder = ROOT if side == "equiquant" else model.parent
                runs[side].append(last_json(sides[side], arguments.timeout, folder))
            except RuntimeError as error:
                failed[side] = str(error)
                print(f"{side}, {model.stem}, {samples} samples: {error}", file=sys.stderr)
    row: dict[str, Any] = {"network": model.stem, "samples": samples, "repeats": arguments.repeats, "failed": failed}
    row |= {side: medians(done) for side, done in runs.items() if done and side not in failed}
    if "equiquant" in row and "peer" in row:
        row["ratio"] = {f: round(row["equiquant"][f] / max(row["peer"][f], 1e-3), 3) for f in FIGURES}
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], side: str, figure: str) -> str:
        return f"{row[side][figure]:g}" if side in row else "failed" if side in row["failed"] else "-"

    header = [
        "network",
        "samples",
        "EquiQuant s",
        "peer s",
        "ratio",
        "EquiQuant MB",
        "peer MB",
        "ratio",
        "import s",
        "peer",
    ]
    body = [
        [row["network"], row["samples"]]
        + [
            cell(row, side, figure)
            for figure in ("quantize_s", "peak_rss_mb")
            for side in ("equiquant", "peer", "ratio")
        ]
        + [cell(row, side, "import_s") for side in ("equiquant", "peer")]
        for row in rows
    ]
    return markdown(header, body)


def main() -> int:
    if "--worker" in sys.argv:
        worker = argparse.ArgumentParser()
        worker.add_argument("--worker", nargs=2, type=Path)
        worker.add_argument("--samples", type=int)
        given = worker.parse_args()
        model, out = given.worker
        print(json.dumps(measure_here(model, out, given.samples)))
        return 0
    parser = argparse.ArgumentParser(description="Time and peak memory of quantization, as a markdown table.")
    parser.add_argument(
        "--networks", nargs="+", choices=sorted(NETWORKS), default=["mobilenet_v2", "resnet50", "resnet152"]
    )
    parser.add_argument("--samples", nargs="+", type=int, default=[4, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=os.environ.get("EQUIQUANT_PEER_PYTHON"), help="a python with the peer")
    parser.add_argument("--peer-script", type=Path, default=SHARED / "tools" / "peer_quark.py")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds a single run may take")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.peer_python and not arguments.peer_script.exists():
        parser.error(f"no such peer script: {arguments.peer_script}")
    if not arguments.peer_python:
        print("No --peer-python given: measuring EquiQuant alone.", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            model = Path(folder) / f"{name}.onnx"
            subprocess.run([sys.executable, ROOT / "benchmarks" / "networks.py", name, model], check=True)
            for samples in arguments.samples:
                rows.append(compare(model, samples, arguments))
                print(json.dumps(rows[-1]), file=sys.stderr)
    print(table(rows))
    write_json(arguments.out, rows)
    return int(any("equiquant" in row["failed"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
