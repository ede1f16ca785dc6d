"""The calibration stage: statistics from the data, from a file of earlier ones, or from where an interrupted run was.

Large tensors are counted by a sample of their elements, which nearly always tells the best scale. Where two are too
close to call every element is counted. The first samples, counted in full, show for which tensors that will be, so that
one pass over the data does.

With a file, histograms are kept whatever the method, and of every tensor that one of the presets quantizes, so that the
same statistics serve other methods and targets later, and the means that biases are corrected by where there are no
samples; it names the model it is of by hash, and is refused for another.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import onnx_ir as ir

from equiquant import calibrate, target
from equiquant.calibrate import Checkpoint, SampleView, TensorStats, Wanted, check_model, model_hash, save_stats
from equiquant.calibrate.methods import needs_histogram
from equiquant.errors import DataError, ModelError
from equiquant.pipeline.state import RunState
from equiquant.recipe import PRESETS, Recipe
from equiquant.refine import mean_inputs
from equiquant.target import Survey

__all__ = ["statistics"]

FULL_FEEDS = 8  # counted in full
OPEN = 0.5  # relative difference of the errors of two scales on the first feeds that all of them together may close


def statistics(state: RunState, model: ir.Model, survey: Survey, tensors: Sequence[str]) -> TensorStats:
    """Return the statistics of the tensors.

    Args:
        state: The run; they are loaded from its file if that exists, else saved there, by way of checkpoints.
        model: The model that will be quantized.
        survey: What will be quantized.
        tensors: Names of the tensors whose statistics are needed.

    Raises:
        DataError: The file is of another model, or lacks tensors; or see `calibrate.collect`.
    """
    file, total = state.stats_file, state.stream.known

    def progress(done: int) -> None:
        state.progress("calibrate", done, total)

    if file is None:
        return _collect(state, model, survey, tensors, progress)
    digest = model_hash(model)
    stats = state.recalled
    if stats is not None:
        check_model(stats, file, digest)
        missing = [name for name in tensors if name not in stats.tensors]
        if missing:
            raise DataError(
                f"The statistics in {file} lack {_listed(missing)}: they were collected with options under"
                " which that is not quantized. Name another file and give the data."
            )
        _check_kind(stats, state.recipe, file)
        limit = state.recipe.calibration_samples
        if limit is not None and limit < stats.samples:
            state.warn(f"calibration_samples={limit} limits the data: ranges come from all {stats.samples} of {file}.")
        _warn_of_samples(state, stats, file)
        return stats
    tensors = _useful(model, tensors)
    stats = _collect_into(state, model, survey, tensors, file, digest, progress)
    save_stats(stats, file)
    return stats


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{names[0]}'{more}"


def _useful(model: ir.Model, tensors: Sequence[str]) -> tuple[str, ...]:
    """Return the tensors that this recipe or any of the presets needs statistics of."""
    needed = dict.fromkeys(tensors)
    for other in PRESETS.values():
        if not other.weight_only:
            with contextlib.suppress(ModelError):  # nothing to quantize
                needed |= dict.fromkeys(target.survey(model, other).calibrated)
    return tuple(needed)


def _check_kind(stats: TensorStats, recipe: Recipe, file: Path) -> None:
    """Refuse statistics that do not hold what the recipe is about: nothing else would show it."""
    wanted = Wanted.by(recipe, histogram=True)
    if stats.averaged != (wanted.pace is not None):
        kind = "moving averages" if stats.averaged else "the extremes of all samples"
        raise DataError(f"The statistics in {file} hold {kind}; ask for them (moving_average), or name another file.")
    if wanted.votes is not None:
        stored, unsigned = wanted.votes
        if not all(record.votes_on(stored, unsigned=unsigned) for record in stats.tensors.values() if record.count):
            raise DataError(
                f"The statistics in {file} do not hold for all samples the {stored.name} scale that each of them would"
                " have, which minmse_mode 'most_common' is about. Name another file and give the data."
            )


def _warn_of_samples(state: RunState, stats: TensorStats, file: Path) -> None:
    """Say where the recipe needs every element counted and the histograms may be of a sample of them."""
    recipe = state.recipe
    if stats.exact or not needs_histogram(recipe) or Wanted.by(recipe, histogram=True).limit is not None:
        return
    asked = "exact_histograms" if recipe.exact_histograms else f"entropy with histogram_bins={recipe.histogram_bins}"
    state.warn(
        f"{asked} is about counting: the histograms in {file} are not known to count every element."
        " Name another file and give the data."
    )


def _collect(
    state: RunState, model: ir.Model, survey: Survey, tensors: Sequence[str], progress: Callable[[int], None]
) -> TensorStats:
    """Collect in one pass; the tensors that the first feeds leave in doubt are counted in full all along."""
    recipe, stream = state.recipe, state.stream
    if recipe.moving_average or not target.counts_decide(survey, recipe):
        return _recounted(state, model, survey, calibrate.collect(model, stream, tensors, recipe, progress=progress))
    head, rest = SampleView(stream, 0, FULL_FEEDS), SampleView(stream, FULL_FEEDS, None)
    stats = calibrate.collect(model, head, tensors, recipe, progress=progress, exact=tensors)
    if stream.count_up_to(FULL_FEEDS + 1) <= FULL_FEEDS:
        return stats
    doubtful = target.in_doubt(model, survey, stats, recipe, OPEN)
    seen = stats.samples
    more = calibrate.collect(model, rest, tensors, recipe, progress=lambda done: progress(seen + done), exact=doubtful)
    return _recounted(state, model, survey, stats.merge(more), counted=doubtful)


def _collect_into(
    state: RunState,
    model: ir.Model,
    survey: Survey,
    tensors: Sequence[str],
    file: Path,
    digest: str,
    progress: Callable[[int], None],
) -> TensorStats:
    recipe, axes = state.recipe, mean_inputs(model)
    key = f"{digest} {sorted(tensors)} {sorted(axes)} {Wanted.by(recipe, histogram=True)}"
    partial = file.with_name(f"{file.name}.partial")
    checkpoint = None if recipe.moving_average else Checkpoint(partial, key)  # averages cannot be merged
    stats = calibrate.collect(
        model, state.stream, tensors, recipe, channels=axes, progress=progress, histograms=True, checkpoint=checkpoint
    )
    return dataclasses.replace(_recounted(state, model, survey, stats), model_hash=digest, scales=state.scales)


def _recounted(
    state: RunState, model: ir.Model, survey: Survey, stats: TensorStats, counted: Collection[str] = ()
) -> TensorStats:
    """Count every element of the tensors whose sampled histograms leave two scales too close to call.

    Args:
        state: The run.
        model: The model that will be quantized.
        survey: What will be quantized.
        stats: Statistics over all samples.
        counted: Those of its tensors that were counted in full.
    """
    doubtful = [name for name in target.in_doubt(model, survey, stats, state.recipe) if name not in counted]
    if not doubtful:
        return stats
    full = calibrate.collect(model, state.stream, doubtful, state.recipe, exact=doubtful)
    counts = {name: r.histogram for name, r in full.tensors.items() if r.histogram is not None}
    return dataclasses.replace(stats, recounted=counts)
