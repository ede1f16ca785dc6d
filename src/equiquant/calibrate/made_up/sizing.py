"""Sizes for the open dimensions of made-up inputs: the first usual ones that the model runs with.

A reader of text lines takes any width but one height; a network that adds what it upsampled to what it kept needs
multiples of 32. The shapes of a file do not say so, running it does. Nor does a file always say which integers fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from equiquant.calibrate.data.feeds import float_dtype, shape_text
from equiquant.calibrate.made_up.synthetic import filled_shape, synthetic_feeds
from equiquant.calibrate.made_up.vocabularies import vocabularies
from equiquant.errors import DataError, ModelError
from equiquant.io.runtime import InputSpec, Runner

__all__ = ["sized"]

IMAGE_SIZES = (224, 320, 640, 256, 512, 128, 96, 64, 48, 32)  # pixels of a side
OTHER_SIZES = (64, 128, 16, 512, 1)  # positions of a sequence, features


def sized(model: ir.Model, specs: Sequence[InputSpec], seed: int) -> tuple[InputSpec, ...]:
    """Return the inputs with sizes for their open dimensions, the batch aside, that the model runs with.

    Args:
        model: The model as it came.
        specs: Its inputs.
        seed: Seed of the inputs it is tried with.

    Raises:
        DataError: An input has a type that cannot be made up, or no size will do.
    """
    left_open = [spec for spec in specs if None in spec.shape[1:]]
    if not left_open and all(map(float_dtype, specs)):
        return tuple(specs)
    runner, entries = Runner(model), vocabularies(model)
    failure: ModelError | None = None
    for step in range(max(len(IMAGE_SIZES), len(OTHER_SIZES)) if left_open else 1):
        tried = tuple(_filled(spec, step) for spec in specs)
        try:
            runner.run(next(synthetic_feeds(tried, seed, samples=1, entries=entries)))
        except ModelError as error:
            failure = failure or error
        else:
            return tried
    shapes = ", ".join(f"'{spec.name}' {shape_text(spec.shape)}" for spec in specs)
    why = f": {shapes} must have"
    if left_open:
        why = f" of any usual size: the dimensions left open ({shapes}) must have certain ones, or the inputs"
    raise DataError(
        f"The model does not run on made-up inputs{why} certain values. Give a few dozen real samples"
        " (data=…, --data PATH)."
    ) from failure


def _filled(spec: InputSpec, step: int) -> InputSpec:
    """Return the input with the size tried at a step."""
    sizes = IMAGE_SIZES if len(spec.shape) == 4 else OTHER_SIZES
    return dataclasses.replace(spec, shape=filled_shape(spec, sizes[min(step, len(sizes) - 1)]))
