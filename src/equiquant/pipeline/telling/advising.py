"""Say so where little is left of an output, and what is worth trying: the options that free what makes the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from equiquant.numerics.statistics.sqnr import decibels
from equiquant.pipeline.state import RunState
from equiquant.recipe import LEAST_BLOCK
from equiquant.target import Bound, LimitReport
from equiquant.verify import Comparison

__all__ = ["warn_of_poor_quality"]

POOR_DB = 10.0  # noise above a tenth of the signal's energy
NEAR_DB = 3.0  # a change that leaves less than this above the result makes half of the noise, or more
FAR = 10.0  # times the noise without the limits
MOST = 0.5  # share of the predicted noise
HIDDEN = {
    "median_db": "summed over samples of which some are more than ten times as loud as others; of the median sample",
    "unmasked_db": "but a part of it is masked by numbers far below the others; of these",
    "found_db": "but nearly all of it is below 0, as logits are; of its few values above 0, if that is the threshold,",
    "varying_db": "but most of it is the same for every sample; of what varies",
}
"""Figures of an output that its own may hide, and how."""

MERE_MEAN = "less than if every sample were answered with the mean"


def warn_of_poor_quality(state: RunState, quality: Comparison, limits: LimitReport | None = None) -> None:
    """Warn of the output of which least is left, if that is little, else if it is of a part that others hide.

    Args:
        state: The run, finished but for its report.
        quality: The result, compared with the float model.
        limits: What the limits of the target did; None where it has none.
    """
    measured = [o.worst for o in quality.outputs if math.isfinite(o.error.sqnr_db) and not o.chosen]
    what, left = min(measured, key=lambda found: found[1], default=("", math.inf))
    if left >= POOR_DB:
        if not state.stream.synthetic:  # made-up inputs are more alike than real ones
            _warn_of_what_is_hidden(state, quality, limits)
        return
    made_up = " on made-up inputs, which says little of real ones" if state.stream.synthetic else ""
    state.warn(
        f"Only {left:.1f} dB of {what} are left{made_up}: more than a tenth of it is noise."
        f" Worth trying: {'; '.join(_advice(state, left, limits))}."
    )


def _warn_of_what_is_hidden(state: RunState, quality: Comparison, limits: LimitReport | None) -> None:
    """Warn of outputs, each once, whose figure hides that little is left of a part of them."""
    told: set[str] = set()
    for name, why in HIDDEN.items():
        rest = [o for o in quality.outputs if o.name not in told and math.isfinite(o.error.sqnr_db)]
        poor = [(left, o) for o in rest if (left := getattr(o, name)) is not None and left < POOR_DB]
        if not poor:
            continue
        left, output = min(poor, key=lambda found: found[0])
        told.add(output.name)
        noise = "more than a tenth of that is noise"
        if left < 0:
            noise = MERE_MEAN if name == "varying_db" else "less than there is noise"
        first = "nodes_to_exclude, the node that masks it; " if name == "unmasked_db" else ""
        state.warn(
            f"{output.error.sqnr_db:.1f} dB of the output '{output.name}' are left, {why} only {left:.1f} dB are left,"
            f" {noise}. Worth trying: {first}{'; '.join(_advice(state, output.error.sqnr_db, limits))}."
        )


def _advice(state: RunState, left: float, limits: LimitReport | None) -> Iterator[str]:
    """Yield what may help, what is likeliest first."""
    recipe, cle = state.recipe, state.equalization
    if state.stream.synthetic and not (recipe.weight_only and recipe.weight_rounding == "nearest"):
        yield "real samples"
    if recipe.weight_only:
        if recipe.weight_type == "int4":
            yield "preset='w8', 8 bits a weight"
        if recipe.block_size > LEAST_BLOCK:
            yield f"block_size={LEAST_BLOCK}, more scales"
        yield "nodes_to_exclude, the layers that matter most"
        return
    replaced = cle.get("replace_clip6_relu", {}).get("sqnr_db", math.inf)
    if replaced < left + NEAR_DB:
        yield f"replace_clip6_relu=False, for replacing ReLU6 alone leaves {replaced:.1f} dB"
    rewritten = min((row["sqnr_db"] for row in state.hardware if row["rule"] == "together"), default=math.inf)
    if rewritten < left + NEAR_DB:
        yield f"simulate_dpu=False, for the NPU's own operators leave {rewritten:.1f} dB"
    if limits is not None and decibels(1.0, limits.noise_after) < left + NEAR_DB:
        yield from _loosened(limits)
    predicted = _predicted(cle)
    unknown = not predicted
    kept = -math.inf if unknown else decibels(1.0, sum(predicted.values()))
    cuts = recipe.moving_average or recipe.calibration in ("percentile", "entropy")
    if cuts and kept > left + NEAR_DB:  # predicted for ranges that hold every value: what is cut makes the noise
        better = "moving_average=False" if recipe.moving_average else "calibration='noise' or 'minmax'"
        yield f"{better}, for {kept:.1f} dB are predicted where nothing is cut"
        predicted = {}
    shares = _shares(predicted)
    if not recipe.cle:
        yield "cle=True, which evens out the channels that share a scale"
    held = cle.get("held_by_clips", 0)
    if held and recipe.clip_mode == "exact":
        yield f"clip_mode='per_channel', if the backend takes a Min, for {held} channels keep their scale at a ReLU6"
    if not recipe.per_channel and not recipe.npu:
        if shares.get("weight", 0.0) > MOST:
            yield f"per_channel=True, one scale a weight's channel, for {_part(shares, 'weight')} to come from weights"
        elif unknown:
            yield "per_channel=True, one scale a weight's channel"
    if shares.get("activation", 0.0) > MOST and not recipe.int16:
        yield f"int16=N, the N layers that matter most, for {_part(shares, 'activation')} to come from activations"
    if not recipe.keep_float:
        yield "keep_float=N, the N layers that matter most"
    yield "preset='auto', which tries combinations"


def _loosened(limits: LimitReport) -> Iterator[str]:
    """Yield the limit that the best scales are farthest from, where meeting them made most of the noise."""
    missed = {bound: _missed(bound) for bound in limits.bounds}
    worst = max(missed, key=lambda bound: missed[bound], default=None)
    if worst is not None and missed[worst] > 0 and limits.noise_after > FAR * limits.noise_before:
        kept = decibels(1.0, limits.noise_after)
        yield (
            f"limits_off=('{worst.option}',), if the backend can do without it, for meeting {worst.option} at"
            f" '{worst.node}' leaves {kept:.1f} dB"
        )


def _missed(bound: Bound) -> int:
    """Return how many positions the best scales of single tensors are away from a limit."""
    below = 0 if bound.low is None else bound.low - bound.before
    above = 0 if bound.high is None else bound.before - bound.high
    return max(below, above)


def _part(shares: dict[str, float], kind: str) -> str:
    return f"{100 * shares[kind]:.0f}% of the noise is predicted"


def _predicted(cle: dict[str, Any]) -> dict[str, float]:
    """Return the noise predicted at the output, over its energy, of each kind of tensor."""
    rows, plan = cle.get("noise", ()), cle.get("method")
    key = {"none": "before"}.get(plan or "", plan)
    noise: dict[str, float] = {}
    for row in rows:
        if isinstance(row.get(key), float):
            noise[row["kind"]] = noise.get(row["kind"], 0.0) + 10 ** (-row[key] / 10)
    return noise


def _shares(noise: dict[str, float]) -> dict[str, float]:
    """Return the share of each kind in all of it."""
    total = sum(noise.values())
    return {kind: part / total for kind, part in noise.items()} if total > 0 else {}
