"""The Python interface: `quantize`, `search`, `equalize`, `compare`, `inspect`. Everything else is options."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from equiquant import pipeline
from equiquant.calibrate import DATA_SUFFIXES, open_samples
from equiquant.errors import DataError, ModelError, OptionError, OutputError
from equiquant.io import (
    ModelLike,
    check_makeable,
    check_place,
    check_writable,
    data_file,
    files_of,
    input_specs,
    is_large,
    load_model,
    path_of,
    place_of,
    to_proto,
)
from equiquant.pipeline import Progress
from equiquant.recipe import Recipe, preset
from equiquant.report import REPORT_FILES, Inspection, Stages, inspect_model
from equiquant.results import Result, SearchResult
from equiquant.verify import INTEGER_FEEDS, Comparison, IntegerAgreement, compare_models, integer_agreement

if TYPE_CHECKING:
    import onnx

__all__ = ["compare", "equalize", "inspect", "quantize", "run_recipe", "search"]

PathLike = str | os.PathLike[str]


def quantize(
    model: ModelLike,
    output: PathLike | None = None,
    *,
    data: Any = None,
    preset: str | Recipe = "xint8",
    report_dir: PathLike | None = None,
    progress: Progress | None = None,
    calibration_cache: PathLike | None = None,
    **overrides: Any,
) -> Result:
    """Quantize a float model to INT8 (QDQ).

    Args:
        model: A path, `onnx.ModelProto` or `onnx_ir.Model`; never changed.
        output: Where to write the result; None keeps it in memory.
        data: Calibration data: None, an array (samples along axis 0), an iterable of arrays or feed dicts, a reader
            with `get_next()`, a .npy or .npz file, a folder of .npy files or images. Read as a stream.
        preset: `xint8`, `a8w8`, `a8w8_per_channel`, `a16w8`, `w8` or `w4` (weights alone), or a `Recipe`; `auto`
            searches, see `search`.
        report_dir: Write report.json and report.html there.
        progress: Called with (stage, done, total).
        calibration_cache: A file of calibration statistics: used if it exists, else written. An interrupted
            calibration goes on from the checkpoint beside it.
        **overrides: Fields of `Recipe` that replace the preset's.

    Raises:
        EquiQuantError: Bad model, data, option or output path; no model is written then, unless it is the
            report that cannot be.
    """
    if preset == "auto":
        if calibration_cache is not None:
            raise OptionError("A search calibrates many models; calibration_cache holds the statistics of one.")
        return search(model, output, data=data, report_dir=report_dir, progress=progress, **overrides)
    return run_recipe(
        model,
        output,
        _recipe(preset, overrides),
        data=data,
        progress=progress,
        report_dir=report_dir,
        calibration_cache=calibration_cache,
    )


def search(
    model: ModelLike,
    output: PathLike | None = None,
    *,
    data: Any,
    preset: str | Recipe = "auto",
    metric: Callable[[onnx.ModelProto], float] | None = None,
    labels: Any = None,
    time_budget: float | None = None,
    trials_file: PathLike | None = None,
    report_dir: PathLike | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> SearchResult:
    """Quantize in several ways, judge each on held-back data, and keep the best, made anew with all the data.

    Args:
        model: As in `quantize`.
        output: As in `quantize`.
        data: As in `quantize`; two thirds calibrate the trials and the last third, up to 256 samples, judges them.
        preset: Where to begin, and what target to stay with; `auto` begins at `a8w8` and may choose `per_channel`.
        metric: Judges a quantized model, higher is better.
        labels: The class of every sample: models are judged by top-1 of the first output. Without either, by the
            signal-to-noise ratio of the outputs, before a final Softmax or Sigmoid.
        time_budget: Seconds after which no further trial begins.
        trials_file: Keep the trials in this file; those already there are not run again.
        report_dir: As in `quantize`.
        progress: As in `quantize`.
        **overrides: Fields of `Recipe`; these are not varied.

    Raises:
        EquiQuantError: Bad model, data, option or output path; no model is written then, unless it is the
            report that cannot be.
    """
    if data is None:
        raise DataError("A search needs calibration data: it judges on some of them.")
    _check_places(model, data, report_dir, output, trials_file)
    free = preset == "auto"
    recipe = _recipe("a8w8" if free else preset, overrides)
    judge: Any = metric  # None, or refused
    if callable(metric):
        judge = functools.wraps(metric)(lambda candidate: metric(to_proto(candidate)))
    with open_samples(data, input_specs(load_model(model).model), recipe) as stream:
        found = pipeline.search(
            model,
            recipe,
            stream,
            fixed=(*overrides, *(() if free else ("per_channel",))),
            metric=judge,
            labels=labels,
            time_budget=time_budget,
            trials_file=trials_file,
            progress=progress,
        )
        best = run_recipe(model, output, found.recipe, data=stream, progress=progress)
    for text in found.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)
    report = dataclasses.replace(
        best.report,
        search=found.to_dict(),
        stages=(*found.stages, *best.report.stages),
        warnings=(*found.warnings, *best.report.warnings),
    )
    result = SearchResult(best, report, found)
    if report_dir is not None:
        report.write(os.fspath(report_dir))
    return result


def equalize(
    model: ModelLike,
    output: PathLike | None = None,
    *,
    data: Any = None,
    method: str = "global",
    steps: int = 1,
    append_bias: bool = True,
    replace_clip6_relu: bool = False,
    clip_mode: str = "exact",
    report_dir: PathLike | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Result:
    """Equalize a float model's channels and leave it float, for any toolchain: same inputs, outputs and function.

    Args:
        model: As in `quantize`.
        output: As in `quantize`.
        data: As in `quantize`; the scales are chosen for it, and it proves that the function is unchanged.
        method: The solver: `global` (least noise at the output), `pairwise` (documented), or `auto` (what measures
            best).
        steps: Sweeps of the pairwise solver; −1 until convergence.
        append_bias: The bias counts in a producing row's range.
        replace_clip6_relu: Replace Clip(0, 6) by Relu first; this does change the function.
        clip_mode: What to do with ReLU6, see `Recipe`: `exact`, `soft`, `per_channel`, `per_channel:N` or `relu`.
        report_dir: As in `quantize`.
        progress: As in `quantize`.
        **overrides: Further fields of `Recipe`.

    Raises:
        EquiQuantError: Bad model, data, option or output path; no model is written then, unless it is the
            report that cannot be.
    """
    options = {
        "cle": True,
        "cle_method": method,
        "cle_steps": steps,
        "cle_append_bias": append_bias,
        "replace_clip6_relu": replace_clip6_relu,
        "clip_mode": clip_mode,
        "calibration": "minmax",  # scales tuned for clipped ranges would be worse for a quantizer that does not clip
    }
    recipe = _recipe("a8w8", options | overrides)
    return run_recipe(model, output, recipe, data=data, progress=progress, report_dir=report_dir, to_int=False)


def run_recipe(
    model: ModelLike,
    output: PathLike | None,
    recipe: Recipe,
    *,
    data: Any = None,
    progress: Progress | None = None,
    report_dir: PathLike | None = None,
    to_int: bool = True,
    calibration_cache: PathLike | None = None,
) -> Result:
    """Run one recipe: what `quantize`, `equalize` and `ModelQuantizer` have in common.

    Args:
        model: As in `quantize`.
        output: As in `quantize`.
        recipe: What to do.
        data: As in `quantize`.
        progress: As in `quantize`.
        report_dir: As in `quantize`.
        to_int: Quantize after equalizing.
        calibration_cache: As in `quantize`.

    Raises:
        EquiQuantError: Bad model, data, option or output path; no model is written then, unless it is the
            report that cannot be.
    """
    made = calibration_cache is None or not place_of(calibration_cache).is_file()
    places = (output, calibration_cache) if made else (output,)
    _check_places(model, data, report_dir, *places, read=() if made else (calibration_cache,))
    outcome = pipeline.run(model, recipe, data, quantize=to_int, progress=progress, stats_file=calibration_cache)
    held = () if isinstance(model, str | os.PathLike) else files_of(model)  # of a path they are looked up when it saves
    result = Result(outcome.model, outcome.report, read=held)
    if output is not None:
        stages = Stages()
        with stages("save"):
            result.save(output)
        result.report = dataclasses.replace(outcome.report, stages=(*outcome.report.stages, *stages.costs))
    if report_dir is not None:
        result.report.write(os.fspath(report_dir))
    return result


def compare(
    float_model: ModelLike,
    quantized_model: ModelLike,
    data: Any,
    *,
    integer: bool = False,
    progress: Progress | None = None,
    **overrides: Any,
) -> Comparison:
    """Compare a float model with its quantized twin, per output and per tensor.

    Args:
        float_model: The reference.
        quantized_model: The model to judge.
        data: As in `quantize`.
        integer: Also run the quantized model with integers and shifts only, on the first samples, and compare that with
            onnxruntime; its scales must be powers of two.
        progress: As in `quantize`.
        **overrides: Fields of `Recipe` that say how to read the data: `image`, `calibration_samples`.

    Raises:
        EquiQuantError: A model or the data cannot be used, or the two models have different inputs or outputs.
    """
    sides = [load_model(model, allow_quantized=True) for model in (float_model, quantized_model)]
    if sides[0].quantized and not sides[1].quantized:
        raise ModelError("The first model is quantized and the second is not; give the float model first.")
    reference, candidate = (side.model for side in sides)
    with open_samples(data, input_specs(reference), _recipe("a8w8", overrides), reference) as stream:
        agreement: IntegerAgreement | None = None
        if integer:  # first, since it refuses what it cannot run
            feeds = stream.first(INTEGER_FEEDS)
            count = None if progress is None else (lambda done: progress("integers", done, len(feeds)))
            agreement = integer_agreement(candidate, feeds, progress=count)
        total = stream.known
        tell = None if progress is None else (lambda done: progress("compare", done, total))
        comparison = compare_models(reference, candidate, stream, progress=tell)
        return dataclasses.replace(comparison, integer=agreement)


def inspect(
    model: ModelLike, data: Any = None, *, preset: str | Recipe = "xint8", outlook: bool = True, **overrides: Any
) -> Inspection:
    """Describe a model and what equalization could do for it, without changing it.

    Args:
        model: As in `quantize`.
        data: As in `quantize`; a few samples are enough.
        preset: The quantization to predict for, as in `quantize`.
        outlook: Predict; off, the model is only described, which takes no inference.
        **overrides: Fields of `Recipe` that replace the preset's.

    Raises:
        EquiQuantError: The model, the data or an option cannot be used.
    """
    recipe = _recipe(preset, overrides)
    loaded = load_model(model, allow_quantized=True)
    described = inspect_model(loaded)
    if not outlook:
        return described
    if described.quantized:
        return dataclasses.replace(described, no_outlook="it is already quantized")
    found = pipeline.foresee(loaded, data, recipe)
    if isinstance(found, str):
        return dataclasses.replace(described, no_outlook=found)
    return dataclasses.replace(described, outlook=found)


def _check_places(
    model: ModelLike, data: Any, folder: PathLike | None, *files: PathLike | None, read: Sequence[PathLike | None] = ()
) -> None:
    """Check, before any work, that all that will be written, the output first, has a place, and over nothing read."""
    places = [place_of(file) for file in files if file is not None]
    beside = [] if files[0] is None else [data_file(files[0])]  # of a large output
    reports = [] if folder is None else [place_of(folder) / name for name in REPORT_FILES]
    if both := [place for place in places if place.resolve() in [report.resolve() for report in reports]]:
        raise OutputError(f"The report would be written to {both[0]} as well; give each a file of its own.")
    if folder is not None:
        check_makeable(os.fspath(folder))
        places += [report for report in reports if report.exists()]
    taken = [path_of(source) for source in (model, data, *read) if isinstance(source, str | os.PathLike)]
    if isinstance(data, str | os.PathLike) and path_of(data).is_dir():
        inside = [place for place in places if place.resolve().is_relative_to(path_of(data).resolve())]
        taken += [place for place in inside if place.suffix.lower() in DATA_SUFFIXES]
    if any(place.exists() for place in (*places, *beside)):
        taken += files_of(model)
    for place in places:
        check_writable(place, *taken)
    resolved = [place.resolve() for place in places]
    if any(place.exists() or place.resolve() in resolved for place in beside) and is_large(load_model(model).model):
        check_place(places[0], *taken, large=True)
        resolved += [place.resolve() for place in beside]
    if twice := [place for place in resolved if resolved.count(place) > 1]:
        raise OutputError(f"Two results would be written to {twice[0]}; give each a file of its own.")


def _recipe(base: str | Recipe, overrides: dict[str, Any]) -> Recipe:
    known = {field.name for field in dataclasses.fields(Recipe)}
    for name in overrides:
        if name not in known:
            from equiquant.options import unknown_field  # takes half a second to import

            raise unknown_field(name, known)
    return base.replace(**overrides) if isinstance(base, Recipe) else preset(base, **overrides)
