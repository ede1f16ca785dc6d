"""Accuracy on real trained models: every preset, with and without cross-layer equalization.

    python -m benchmarks.accuracy [--models ...] [--presets xint8 a8w8] [--draws N] [--no-data | --from-file]
        [--options JSON] [--out FILE]

Needs the optional folder `shared/` beside the checkout: four models with calibration and evaluation inputs. Each model
is quantized with up to 100 calibration inputs, checked (ONNX checker, default operator domain only, runs in
onnxruntime), and scored on inputs that calibration did not see. One run is one draw of the rounding; with `--draws`,
others follow on nine tenths of those inputs in another order, and the figures are means with their standard error. With
`--no-data` inputs are made up instead, in each draw from another seed; with `--from-file` a first run writes its
statistics to a file, and the run that is scored has nothing else. The peer's figures are those AMD Quark ONNX 0.13
reached on the same inputs, as the folder's README records them; ReLU6 is replaced by Relu in all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from benchmarks.common import SHARED, markdown, real_data, write_json

METRICS = {
    "mobilenetv1_025": ("top1", "top-1"),
    "posenet_mnv1_075": ("keypoints_within_5px", "keypoints within 5 px"),
    "ultraface_rfb_320": ("det_f1", "detection F1"),
    "kws_dscnn": ("top1", "top-1"),
}
PEER = {  # AMD Quark ONNX 0.13, 100 calibration samples: (preset, equalized) -> figure, SQNR where stated
    "mobilenetv1_025": {
        ("xint8", False): "3.3%, 1.0 dB",
        ("xint8", True): "42.7%, 9.8 dB",
        ("a8w8", False): "27.3%, 4.8 dB",
        ("a8w8", True): "44.7%, 13.0 dB",
    },
    "posenet_mnv1_075": {
        ("xint8", False): "1.7%",
        ("xint8", True): "0.0%",
        ("a8w8", False): "1.7%",
        ("a8w8", True): "17.1%",
    },
    "ultraface_rfb_320": {
        ("xint8", False): "84.8%",
        ("xint8", True): "88.6%",
        ("a8w8", False): "92.8%",
        ("a8w8", True): "91.9%",
    },
    "kws_dscnn": {
        ("xint8", False): "91.0%, 18.9 dB",
        ("xint8", True): "90.3%, 18.1 dB",
        ("a8w8", False): "90.3%, 26.4 dB",
        ("a8w8", True): "90.3%, 26.9 dB",
    },
}


def check(path: Path) -> None:
    """Refuse a model that another tool might not read."""
    onnx.checker.check_model(str(path), full_check=True)
    model = ir.load(path)
    domains = {node.domain for node in model.graph.all_nodes()} | set(model.opset_imports)
    if domains - {""}:
        raise ValueError(f"{path.name} uses operator domains besides the default one: {sorted(domains - {''})}")


def measure(realdata: Any, name: str, preset: str, cle: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """Quantize one model in one way as often as asked; return the first figures, and the means and their errors."""
    return averaged(name, [draw(realdata, name, preset, cle, arguments, seed) for seed in range(arguments.draws)])


def averaged(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first of some scores of one model, with the means of all of them and their errors."""
    figures = np.array([[row[METRICS[name][0]], row["sqnr_db"][0]] for row in rows])
    error = figures.std(axis=0, ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else np.zeros(2)
    return {**rows[0], "mean": figures.mean(axis=0).tolist(), "error": error.tolist(), "draws": len(rows)}


def draw(realdata: Any, name: str, preset: str, cle: bool, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Quantize one model, check the result and score it."""
    from equiquant import quantize

    inputs, _ = realdata.load(name, "calib")
    order = np.arange(min(arguments.samples, len(inputs)))
    if seed:
        order = np.random.default_rng(seed).permutation(order)[: max(1, len(order) * 9 // 10)]
    calibration: Iterator[Any] | None = None if arguments.no_data else (inputs[k : k + 1] for k in order)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        start = time.perf_counter()
        options = {"cle": cle, "replace_clip6_relu": arguments.replace_clip6_relu, "seed": seed, **arguments.options}
        if arguments.from_file:
            options["calibration_cache"] = Path(folder) / "statistics"
            quantize(realdata.reference(name), None, data=calibration, preset=preset, **options)
            calibration = None
        quantize(realdata.reference(name), out, data=calibration, preset=preset, **options)
        seconds = time.perf_counter() - start
        check(out)
        score = realdata.score(str(out), name)
    return {"model": name, "preset": preset, "cle": cle, "seconds": round(seconds, 1), **score}


def float_figure(row: dict[str, Any]) -> str:
    return f"{100 * row['float_top1']:.1f}%" if "float_top1" in row else "100.0%"


def figure(row: dict[str, Any]) -> str:
    (share, db), (share_error, db_error) = row["mean"], row["error"]
    if row["draws"] == 1:
        return f"{100 * share:.1f}%, {db:.1f} dB"
    return f"{100 * share:.1f} ± {100 * share_error:.1f}%, {db:.1f} ± {db_error:.1f} dB"


def table(rows: list[dict[str, Any]]) -> str:
    """Return one line for each model, preset and setting, the figures of both tools side by side."""
    body = []
    for row in rows:
        name, key = row["model"], (row["preset"], row["cle"])
        peer = PEER[name].get(key, "-")
        cle = "on" if row["cle"] else "off"
        body.append([f"{name}, {METRICS[name][1]}", float_figure(row), key[0], cle, figure(row), peer, row["seconds"]])
    return markdown(["model, figure", "float", "preset", "CLE", "EquiQuant", "peer", "s"], body)


def main() -> int:
    parser = argparse.ArgumentParser(description="Accuracy of quantized real models, as a markdown table.")
    parser.add_argument("--models", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--presets", nargs="+", default=["xint8", "a8w8"])
    parser.add_argument("--cle", nargs="+", choices=["on", "off"], default=["off", "on"])
    parser.add_argument("--samples", type=int, default=100, help="calibration inputs")
    parser.add_argument("--draws", type=int, default=1, help="runs on different calibration inputs")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--no-data", action="store_true", help="make calibration inputs up")
    source.add_argument("--from-file", action="store_true", help="quantize from a file of statistics, without data")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="more options of `quantize`")
    parser.add_argument("--replace-clip6-relu", action="store_true", help="as the documented options and the peer do")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    realdata = real_data(parser, arguments.data)
    rows, failures = [], 0
    for name in arguments.models:
        for preset in arguments.presets:
            for cle in (state == "on" for state in arguments.cle):
                try:
                    rows.append(measure(realdata, name, preset, cle, arguments))
                except Exception as error:  # one failing combination must not hide the other fifteen
                    failures += 1
                    print(f"{name} {preset} cle={cle}: {type(error).__name__}: {error}", file=sys.stderr)
                else:
                    print(json.dumps(rows[-1]), file=sys.stderr)
    print(table(rows))
    write_json(arguments.out, rows)
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
