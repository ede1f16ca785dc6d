"""Time of calibration as a ratio to plain float inference of the same samples, and the exactness of its scales.

    python -m benchmarks.calibration [--networks ...] [--samples N] [--repeats N] [--exactness] [--out FILE]

Every network is measured in a process of its own. Plain inference (onnxruntime, all optimizations, all cores) and the
calibration methods take turns; a figure is the median over the repeats, its ratio that of the medians. Samples are
seeded noise in memory. `channels` is min-max with per-channel figures of every tensor, as the equalizer asks for them.
`--exactness` compares the scales of each method with those of full counts, on the real models of the folder `shared/`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, SHARED, last_json, markdown, noise, write_json
from benchmarks.networks import NETWORKS

METHODS = ("minmax", "channels", "minmse", "percentile", "entropy", "mse")
REAL = ("kws_dscnn", "mobilenetv1_025", "ultraface_rfb_320", "posenet_mnv1_075")


def recipe_of(method: str) -> Any:
    from equiquant.recipe import preset

    if method == "minmse":
        return preset("xint8")
    return preset("a8w8", calibration="minmax" if method == "channels" else method)


def measure(path: Path, samples: int, repeats: int, methods: Sequence[str]) -> dict[str, Any]:
    """Return the seconds of plain inference and of each method, in this process."""
    import numpy as np

    from equiquant import calibrate, canonical, target
    from equiquant.io import Runner, input_specs, load_model, memory_managed

    model = load_model(path).model
    canonical.canonicalize(model, optimize=True)
    specs = input_specs(model)
    shape = [d or 1 for d in specs[0].shape]
    data = np.concatenate(list(noise(shape, samples)))
    plain = Runner(model)
    plain.run({specs[0].name: data[:1]})

    def infer() -> None:
        for i in range(samples):
            plain.run({specs[0].name: data[i : i + 1]})

    def calibration(method: str) -> Callable[[], None]:
        recipe = recipe_of(method)
        survey = target.survey(model, recipe)
        ranks = {v.name: len(v.shape or ()) for node in model.graph for v in node.outputs}
        axes = {name: 1 for name in survey.calibrated if ranks.get(name, len(shape)) > 1}

        def work() -> None:
            stream = calibrate.open_samples(data, specs, recipe)
            stats = calibrate.collect(
                model, stream, survey.calibrated, recipe, channels=axes if method == "channels" else None
            )
            target.choose(model, survey, stats, recipe)

        return work

    tasks = {"inference": infer} | {method: calibration(method) for method in methods}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            with memory_managed():  # as in every run
                task()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "network": path.stem,
        "samples": samples,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "ratio": {m: round(medians[m] / medians["inference"], 2) for m in methods},
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def exactness(name: str, samples: int) -> dict[str, Any]:
    """Return how many tensors of a real model get another scale from the collected statistics than from full counts."""
    sys.path.insert(0, str(SHARED / "data"))
    import realdata

    from equiquant import calibrate, canonical, target
    from equiquant.io import input_specs, load_model

    model = load_model(realdata.reference(name)).model
    canonical.canonicalize(model, optimize=True)
    data = realdata.load(name, "calib")[0][:samples]
    row: dict[str, Any] = {"network": name, "samples": len(data), "differing": {}}
    for method in ("minmax", "minmse", "percentile", "entropy", "mse"):
        recipe = recipe_of(method)
        survey = target.survey(model, recipe)
        with calibrate.open_samples(data, input_specs(model), recipe) as stream:
            found = calibrate.collect(model, stream, survey.calibrated, recipe)
            full = calibrate.collect(model, stream, survey.calibrated, recipe, exact=survey.calibrated)
        scales = [target.choose(model, survey, stats, recipe).activations for stats in (found, full)]
        if method == "minmse":
            row["recounted"] = len(target.in_doubt(model, survey, found, recipe))
        row["tensors"] = len(scales[0])
        row["differing"][method] = sum(scales[0][tensor] != scales[1][tensor] for tensor in scales[0])
    return row


def table(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    header = ["network", "samples", "inference s", *methods, "MB"]
    body = [
        [row["network"], row["samples"], row["seconds"]["inference"]]
        + [row["ratio"][m] for m in methods]
        + [row["peak_rss_mb"]]
        for row in rows
    ]
    return markdown(header, body)


def exactness_table(rows: Sequence[dict[str, Any]]) -> str:
    methods = list(rows[0]["differing"])
    header = ["network", "samples", "tensors", *methods, "minmse in doubt"]
    body = [
        [r["network"], r["samples"], r["tensors"], *(r["differing"][m] for m in methods), r["recounted"]] for r in rows
    ]
    return markdown(header, body)


def main() -> int:
    parser = argparse.ArgumentParser(description="Calibration as a ratio to plain inference, as a markdown table.")
    parser.add_argument(
        "--networks", nargs="*", choices=sorted(NETWORKS), default=["mobilenet_v2", "resnet50", "resnet152"]
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--exactness", action="store_true", help="also compare scales, on the real models")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker, arguments.samples, arguments.repeats, arguments.methods)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            model = Path(folder) / f"{name}.onnx"
            subprocess.run([sys.executable, ROOT / "benchmarks" / "networks.py", name, model], check=True)
            command = [sys.executable, "-m", "benchmarks.calibration", "--worker", str(model)]
            command += ["--samples", str(arguments.samples), "--repeats", str(arguments.repeats)]
            rows.append(last_json([*command, "--methods", *arguments.methods], 3600))
    if rows:
        print(table(rows, arguments.methods))
    if arguments.exactness and (SHARED / "data").exists():
        real = [exactness(name, arguments.samples) for name in REAL]
        print("\nTensors whose scale differs from that of full counts:\n")
        print(exactness_table(real))
        rows += real
    write_json(arguments.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
