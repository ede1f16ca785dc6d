"""What equalization gives and costs: accuracy by method on real models, and the time of the solvers.

    python -m benchmarks.equalization [--models ...] [--networks ...] [--out FILE]

Accuracy: a8w8 with min-max ranges, each method kept whatever it measures, then the treatments of ReLU6 with the ranges
of the preset. Needs the optional folder `shared/` beside the checkout. Time: solver and writing of the weights, without
loading, calibration and saving.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import networks
from benchmarks.common import SHARED, markdown, write_json

METHODS: dict[str, dict[str, Any]] = {
    "none": {"cle": False},
    "pairwise": {"cle_method": "pairwise", "cle_accept": "always"},
    "global": {"cle_method": "global", "cle_accept": "always"},
}
CLIP_MODES = ("exact", "soft", "per_channel")


def accuracy(models: list[str], samples: int = 100) -> list[dict[str, Any]]:
    """Score every method, and on PoseNet every treatment of ReLU6."""
    sys.path.insert(0, str(SHARED / "data"))
    import realdata

    from equiquant import quantize

    rows = []
    for name in models:
        data = realdata.load(name, "calib")[0][:samples]
        runs = {method: {"calibration": "minmax", **options} for method, options in METHODS.items()}
        if name.startswith("posenet"):
            runs |= {f"clip_mode={mode}": {"clip_mode": mode} for mode in CLIP_MODES}
        for label, options in runs.items():
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path = Path(folder) / "model.onnx"
                quantize(realdata.reference(name), path, data=data, preset="a8w8", **options)
                rows.append({"model": name, "method": label, **realdata.score(str(path), name)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def speed(name: str) -> dict[str, Any]:
    """Time class finding, both solvers and the writing of the weights on one network."""
    from equiquant import calibrate, canonical
    from equiquant.equalization import apply, clip_bounds, find_classes, noise_terms, plan_global, plan_pairwise
    from equiquant.io import input_specs
    from equiquant.pipeline.scales import solving
    from equiquant.pipeline.scales.clip_reach import reach_seen
    from equiquant.recipe import preset
    from equiquant.target import survey

    model = networks.NETWORKS[name]()
    canonical.canonicalize(model)
    recipe = preset("a8w8", calibration="minmax")
    shape = (1, 3, 224, 224)
    data = [np.random.default_rng(0).standard_normal(shape).astype(np.float32) for _ in range(2)]
    with calibrate.open_samples(data, input_specs(model), recipe) as stream:
        samples = calibrate.SampleView(stream, 0, 2)
        start = time.perf_counter()
        classes = find_classes(model)
        classes_s = time.perf_counter() - start
        chosen = survey(model, recipe)
        seen = solving.channel_statistics(recipe, model, classes, chosen.calibrated, samples)
        reach = reach_seen(seen.sketches, seen.samples)
        bounds = clip_bounds(classes, reach.largest, reach.margin)
        start = time.perf_counter()
        pairwise = plan_pairwise(classes, bounds, steps=recipe.cle_steps, append_bias=recipe.cle_append_bias)
        pairwise_s = time.perf_counter() - start
        quantizer = solving.quantizer_model(chosen, bias_corrected=False)
        gains = solving.channel_gains(model, classes, seen.figures, quantizer, samples, 0)
        start = time.perf_counter()
        terms = noise_terms(classes, seen.figures, gains, quantizer)
        best = plan_global(terms, pairwise.z, bounds)
        global_s = time.perf_counter() - start
    copy = model.clone()
    on_copy = find_classes(copy)
    start = time.perf_counter()
    apply(copy, on_copy, best.z)
    apply_s = time.perf_counter() - start
    figures_s = {"classes_s": classes_s, "pairwise_s": pairwise_s, "global_s": global_s, "apply_s": apply_s}
    return {"network": name, **{key: round(value, 3) for key, value in figures_s.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["mobilenetv1_025", "posenet_mnv1_075", "ultraface_rfb_320", "kws_dscnn"]
    parser.add_argument("--models", nargs="*", default=names if (SHARED / "data").is_dir() else [])
    parser.add_argument(
        "--networks", nargs="*", choices=sorted(networks.NETWORKS), default=["mobilenet_v2", "resnet152"]
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    speeds = [speed(name) for name in arguments.networks]
    if speeds:
        print(markdown(list(speeds[0]), [list(row.values()) for row in speeds]))
    rows = accuracy(arguments.models)
    if rows:
        table = []
        for row in rows:
            figure = next((row[k] for k in ("top1", "keypoints_within_5px", "det_f1") if k in row), None)
            table.append([row["model"], row["method"], ", ".join(str(v) for v in row["sqnr_db"]), f"{figure:.3f}"])
        print(markdown(["model", "method", "SQNR dB of each output", "figure"], table))
    write_json(arguments.out, [*speeds, *rows])


if __name__ == "__main__":
    main()
