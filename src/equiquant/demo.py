"""The bundled demo: quantize a small MobileNet plainly, with equalization, and with all there is, and measure each.

The network (depthwise-separable blocks, BatchNormalization, ReLU6) and its held-out images come with the package;
`examples/train_demo_model.py` trained it on scikit-learn's digits (Alpaydin and Kaynak, "Optical Recognition of
Handwritten Digits", UCI, 1998). As often in such networks, training has left one depthwise layer with a channel whose
range is 25 times the median; one scale per tensor serves it badly, and this is the case equalization is for.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from equiquant import api
from equiquant.io import Runner, check_makeable, place_of
from equiquant.numerics.statistics.sqnr import ErrorAccumulator
from equiquant.pipeline import Progress
from equiquant.recipe import Recipe, preset

__all__ = ["DemoData", "DemoResult", "DemoRow", "load_data", "model_path", "recipes", "render", "run"]

Array = npt.NDArray[Any]

INPUT = "image"
LATENCY_ROUNDS = 30
LATENCY_BATCH = 32
MODEL_NAME = "digits_mobilenet.onnx"
STEPS = {"plain": "plain", "cle": "with CLE", "all": "as the preset does"}
"""What is done, and what the table calls it: ranges alone; equalization; that, biases, rounding and chosen ranges."""


@dataclass(frozen=True, eq=False)
class DemoData:
    """The bundled images, as the network takes them.

    Attributes:
        calibration: (100, 1, 16, 16) float32 in [0, 1].
        images: Held-out images, (600, 1, 16, 16) float32 in [0, 1]; seen neither in training nor in calibration.
        labels: Their digits, (600,).
    """

    calibration: Array
    images: Array
    labels: Array


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One model and its figures.

    Attributes:
        preset: `float`, or the preset it was quantized with.
        steps: What was done besides calibrating, a key of `STEPS`; empty for the float model.
        accuracy: Share of the held-out images it recognizes.
        sqnr_db: Signal over quantization noise of the logits, dB; None for the float model.
        size: File size in bytes.
        latency_ms: Median time for a batch of 32 images, ms, all models taking turns.
        model: The file.
        report: The folder with its report; None for the float model.
    """

    preset: str
    steps: str
    accuracy: float
    sqnr_db: float | None
    size: int
    latency_ms: float
    model: Path
    report: Path | None


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        rows: The float model first, then one for each of `STEPS` with each preset.
        images: How many held-out images the accuracy is over.
        output: The folder everything was written to.
    """

    rows: tuple[DemoRow, ...]
    images: int
    output: Path

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        plain = [{k: str(v) if isinstance(v, Path) else v for k, v in vars(row).items()} for row in self.rows]
        return {"rows": plain, "images": self.images, "output": str(self.output)}


def model_path() -> Path:
    """Return the path of the bundled float model."""
    return _asset(MODEL_NAME)


def load_data() -> DemoData:
    """Return the bundled images and labels."""
    with np.load(_asset("digits.npz")) as stored:
        return DemoData(_pixels(stored["calibration"]), _pixels(stored["images"]), stored["labels"])


def _asset(name: str) -> Path:
    return Path(str(resources.files("equiquant") / "assets" / name))


def _pixels(stored: Array) -> Array:
    return stored.astype(np.float32) / 255


def recipes() -> tuple[tuple[str, Recipe], ...]:
    """Return the recipes compared, each with what it does: the usual ranges alone, with equalization, and the preset.

    Equalization passes a ReLU6 only where it has become a Relu (`ReplaceClip6Relu`, as the documented configuration
    has it), so this is part of what is compared. On the held-out images no value reaches 6: here it changes nothing.
    """
    found: list[tuple[str, Recipe]] = []
    for name, method in (("a8w8", "minmax"), ("xint8", "minmse")):
        base = preset(name, calibration=method, cle=False, bias_correction=False, weight_rounding="nearest")
        chosen = (base, base.replace(cle=True, replace_clip6_relu=True), preset(name, replace_clip6_relu=True))
        found += zip(STEPS, chosen, strict=True)
    return tuple(found)


def run(output: str | Path = "demo-output", *, progress: Progress | None = None) -> DemoResult:
    """Quantize the bundled model in each of these ways and measure accuracy, noise, size and latency.

    Args:
        output: The folder to write models and reports to; made if missing.
        progress: Called with (stage, done, total).

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    folder, data, source = check_makeable(place_of(output)), load_data(), model_path()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = recipes()
    models, reports = [source], list[Path | None]([None])
    for done, (steps, recipe) in enumerate(chosen):
        if progress is not None:
            progress(f"quantize {_title(recipe.name, steps)}", done, len(chosen))
        name = f"{recipe.name}-{steps}"
        models.append(folder / f"digits-{name}.onnx")
        report = folder / f"report-{name}"
        reports.append(report)
        with warnings.catch_warnings():  # what replacing ReLU6 costs is in the figures, and in the report
            warnings.simplefilter("ignore", UserWarning)
            api.run_recipe(source, models[-1], recipe, data=data.calibration, report_dir=report)
    if progress is not None:
        progress("measure", len(chosen), len(chosen))
    runners = [Runner(path) for path in models]
    logits = [runner.run({INPUT: data.images})[0] for runner in runners]
    latencies = _latencies(runners, {INPUT: data.images[:LATENCY_BATCH]})
    titles = [("float", ""), *((recipe.name, steps) for steps, recipe in chosen)]
    rows = tuple(
        DemoRow(
            preset=name,
            steps=steps,
            accuracy=float(np.mean(result.argmax(axis=1) == data.labels)),
            sqnr_db=None if report is None else _sqnr(logits[0], result),
            size=path.stat().st_size,
            latency_ms=latency,
            model=path,
            report=report,
        )
        for (name, steps), result, latency, path, report in zip(titles, logits, latencies, models, reports, strict=True)
    )
    return DemoResult(rows, len(data.labels), folder)


def render(console: Console, result: DemoResult) -> None:
    """Print the table of figures and where everything was written."""
    table = Table(title=f"A small MobileNet on {result.images} held-out handwritten digits")
    table.add_column("model")
    for heading in ("accuracy", "SQNR", "size", f"latency of {LATENCY_BATCH} images"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        table.add_row(
            _title(row.preset, row.steps),
            f"{row.accuracy:.1%}",
            "" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB",
            f"{row.size / 1000:.0f} kB",
            f"{row.latency_ms:.2f} ms",
            end_section=row.steps in ("", list(STEPS)[-1]),
        )
    console.print(table)
    console.print("xint8 is for NPUs; a CPU computes it in float between roundings, so its latency here says little.")
    console.print(f"Models and reports are in {result.output}/", highlight=False)
    best = next((row for row in reversed(result.rows) if row.report is not None), None)
    if best is not None:
        console.print(f"Open {best.report}/report.html to see what was done and why.", highlight=False)


def _title(name: str, steps: str) -> str:
    return f"{name}, {STEPS[steps]}" if steps else "float32"


def _sqnr(reference: Array, output: Array) -> float:
    error = ErrorAccumulator()
    error.add(reference, output)
    return error.figures().sqnr_db


def _latencies(runners: Sequence[Runner], feed: dict[str, Array]) -> list[float]:
    """Return the median ms of each model; they take turns, so that a busy moment touches all of them alike."""
    times: list[list[float]] = [[] for _ in runners]
    for _ in range(LATENCY_ROUNDS):
        for runner, record in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner.run(feed)
            record.append((time.perf_counter() - start) * 1000)
    return [statistics.median(record) for record in times]
