"""The calibration stage: statistics from the data, from a file of earlier ones, or from where an interrupted run was.

With a file, histograms are kept whatever the method, so that the same statistics serve other methods later; it names
the model it is of by hash, and is refused for another.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from equiquant import calibrate, target
from equiquant.calibrate import Checkpoint, TensorStats, load_stats, model_hash, save_stats
from equiquant.errors import DataError
from equiquant.pipeline.state import RunState
from equiquant.target import Survey

__all__ = ["statistics"]


def statistics(
    state: RunState, model: ir.Model, survey: Survey, tensors: Sequence[str], file: str | os.PathLike[str] | None
) -> TensorStats:
    """Return the statistics of the tensors.

    Args:
        state: The run.
        model: The model that will be quantized.
        survey: What will be quantized.
        tensors: Names of the tensors whose statistics are needed.
        file: Load them from there if it exists, else save them there, by way of checkpoints; None does neither.

    Raises:
        DataError: The file is of another model, or lacks tensors; or see `calibrate.collect`.
    """
    total = state.stream.known

    def progress(done: int) -> None:
        state.progress("calibrate", done, total)

    if file is None:
        return _recounted(
            state, model, survey, calibrate.collect(model, state.stream, tensors, state.recipe, progress=progress)
        )
    digest = model_hash(model)
    if Path(file).exists():
        stats = load_stats(file, digest)
        missing = [name for name in tensors if name not in stats.tensors]
        if missing:
            raise DataError(f"The statistics in {os.fspath(file)} lack '{missing[0]}' and {len(missing) - 1} more.")
        return stats
    stats = _collect_into(state, model, survey, tensors, Path(file), digest, progress)
    save_stats(stats, file)
    return stats


def _collect_into(
    state: RunState,
    model: ir.Model,
    survey: Survey,
    tensors: Sequence[str],
    file: Path,
    digest: str,
    progress: Callable[[int], None],
) -> TensorStats:
    recipe = state.recipe
    key = f"{digest} {sorted(tensors)} {recipe.calibration} {recipe.minmse_mode} {recipe.exact_histograms}"
    partial = file.with_name(f"{file.name}.partial")
    checkpoint = None if recipe.moving_average else Checkpoint(partial, key)  # averages cannot be merged
    stats = calibrate.collect(
        model, state.stream, tensors, recipe, progress=progress, histograms=True, checkpoint=checkpoint
    )
    return dataclasses.replace(_recounted(state, model, survey, stats), model_hash=digest, scales=state.scales)


def _recounted(state: RunState, model: ir.Model, survey: Survey, stats: TensorStats) -> TensorStats:
    """Count every element of the tensors whose sampled histograms leave two scales too close to call."""
    doubtful = target.in_doubt(model, survey, stats, state.recipe)
    if not doubtful:
        return stats
    full = calibrate.collect(model, state.stream, doubtful, state.recipe, exact=True)
    counts = {name: r.histogram for name, r in full.tensors.items() if r.histogram is not None}
    return dataclasses.replace(stats, recounted=counts)
