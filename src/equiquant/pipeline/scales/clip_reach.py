"""How far the channels under a Clip reach, on the samples there are, and what that says of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import calibrate
from equiquant.calibrate import SampleStream, SampleView
from equiquant.equalization import ScaleClasses, Sketches
from equiquant.equalization.builder import ClipSite
from equiquant.graph.query import constant, name_of
from equiquant.recipe import Recipe

__all__ = ["ClipReach", "channel_axis", "clip_reach", "clipped", "held_by_clips", "output_axis", "plain", "reach_seen"]

Array = npt.NDArray[Any]

LEAST_MARGIN = 0.02  # for the channels under a Clip, where rounding follows: what a few values change drowns in it
WIDE_MARGIN = 2.0  # where none does: what is handed on must not change on samples not seen (docs/cle.md)
LARGEST_HALF = 128  # feeds of the first half of many
TINY = 1e-30
STILL = 1e-9  # log-scales this near stand still
FEW_SAMPLES = 32  # samples over which fewer than 16 say little: the margin grows


@dataclass(frozen=True, eq=False)
class ClipReach:
    """How far the channels under a Clip reach.

    Attributes:
        largest: (C,) the largest value of each channel, by the name of what goes into the Clip; empty if nobody knows.
        samples: How many samples that was seen on.
        margin: Part of it by which other samples are taken to exceed it.
        halves: The same as `largest` for either half of the samples, where they were looked at apart: for a model that
            is handed on, and has to be the same function on other samples.
    """

    largest: Mapping[str, Array]
    samples: int
    margin: float
    halves: tuple[Mapping[str, Array], ...] = ()

    def strayed(self, classes: ScaleClasses, z: Array) -> tuple[int, int]:
        """Return how many channels move under their Clip, and how many of them may reach a bound they did not reach.

        Those are the channels that one half of the samples showed to go farther than the other, by more than what is
        left between them and the bound: from one half nobody would have known.

        Args:
            classes: The scale classes.
            z: (classes,) their log-scales.
        """
        moved = strayed = 0
        for site in classes.clips:
            name = name_of(site.node.inputs[0])
            shift = _shift(site, z)
            seen = [half[name] for half in self.halves if name in half and half[name].size == shift.size]
            moves = np.abs(shift) > STILL
            moved += int(moves.sum())
            if len(seen) == 2:
                least, most = np.maximum(np.minimum(*seen), TINY), np.maximum(np.maximum(*seen), TINY)
                left = site.bound / (most * np.exp(np.maximum(shift, 0.0)))
                strayed += int((moves & (most / least > left)).sum())
        return moved, strayed


def held_by_clips(classes: ScaleClasses, z: Array) -> int:
    """Return how many channels that might move stand still under their Clip, while others move.

    Args:
        classes: The scale classes.
        z: (classes,) their log-scales.
    """
    held = ((np.abs(_shift(site, z)) <= STILL) & (site.ids.reshape(-1) != 0) for site in classes.clips)
    return sum(int(still.sum()) for still in held) if z.any() else 0


def _shift(site: ClipSite, z: Array) -> Array:
    """Return how far each channel under a Clip moves against its bound, (C,)."""
    return np.asarray(z[site.ids] - z[site.bound_id]).reshape(-1)


def reach_seen(sketches: Mapping[str, Sketches], samples: int) -> ClipReach:
    """Return how far the channels under each Clip reach on the samples the scales are found on."""
    largest = {name: sides[0].high for name, sides in sketches.items()}
    return ClipReach(largest, samples, max(LEAST_MARGIN, 1 / max(samples, 1) ** 2))


def clip_reach(
    model: ir.Model, classes: ScaleClasses, recipe: Recipe, stream: SampleStream, progress: Callable[[int], None]
) -> ClipReach:
    """Return how far the channels under each Clip reach on all the samples, one half after the other.

    The margin is wide: the model is handed on, and must stay the same function on samples not seen. On made-up ones
    nobody knows.

    Args:
        model: The folded float model; not changed.
        classes: Its scale classes.
        recipe: Says how much memory the pass may take.
        stream: The samples.
        progress: Called with the number of samples done.
    """
    if stream.synthetic or not classes.clips:
        return ClipReach({}, 0, 0.0)
    middle = stream.count_up_to(2 * LARGEST_HALF) // 2
    parts, done = [SampleView(stream, 0, middle), SampleView(stream, middle, None)] if middle else [stream], 0
    halves = []
    for part in parts:
        stats = calibrate.collect(
            model,
            part,
            (),
            plain(recipe),
            channels=clipped(classes),
            progress=lambda n, before=done: progress(before + n),  # type: ignore[misc]
        )
        done += stats.samples
        halves.append({n: r.channels.high for n, r in stats.tensors.items() if r.channels is not None})
    largest = {name: np.max([half[name] for half in halves], axis=0) for name in halves[0] if _same(name, halves)}
    return ClipReach(largest, done, max(WIDE_MARGIN, FEW_SAMPLES / done), tuple(halves))


def _same(name: str, halves: Sequence[Mapping[str, Array]]) -> bool:
    """True if a tensor has as many channels in all parts of the samples."""
    return len({half[name].size if name in half else None for half in halves}) == 1


def clipped(classes: ScaleClasses) -> dict[str, int]:
    """Return the channel axis of what goes into each Clip, by name: that of what comes out of it."""
    sites = ((site.node.inputs[0], channel_axis(site.node.outputs[0], classes)) for site in classes.clips)
    return {name_of(value): axis for value, axis in sites if value is not None and axis is not None}


def plain(recipe: Recipe) -> Recipe:
    """Return the recipe of a pass that needs figures of channels and nothing else."""
    return recipe.replace(calibration="minmax", scale_kind="float", bias_type="int32")


def channel_axis(value: ir.Value, classes: ScaleClasses) -> int | None:
    """Return the axis along which a value's classes differ; None for scalars and unknown ranks.

    Where none does, it is the output channels of a MatMul, the last axis of what one reads, else axis 1.
    """
    rank = len(value.shape) if value.shape is not None else 0
    if rank == 0:
        return None
    varying = classes.varying_axis(value)
    if varying is not None:
        return varying
    producer = value.producer()
    if producer is not None and producer.op_type == "MatMul":
        return output_axis(producer)
    return rank - 1 if any(node.op_type == "MatMul" for node in value.consumers()) else min(1, rank - 1)


def output_axis(node: ir.Node) -> int:
    """Return the axis of a layer's output channels: of a MatMul the last, or the rows if the weight is in front."""
    rank = len(node.outputs[0].shape or ())
    if node.op_type != "MatMul":
        return min(1, max(rank - 1, 0))
    return max(rank - (2 if constant(node.inputs[0]) is not None else 1), 0)
