"""Guess the units of an image where no BatchNormalization tells them: what its first layer makes of it does.

A layer that was trained with a normalization has channels whose deviation is about 1 and whose mean is about as large.
Two usual inputs are far enough from images of mean 0 and deviation 1 to be told from them:

- Pixels of 0 to 255 are a hundred times larger. Images of deviation 1 leave the first layer hardly anything but its
  biases: on two networks that take pixels the median of |mean| / deviation over its channels was 30 and 37 with them,
  0.6 with pixels; on thirteen others 3.5 or less, but for one where most channels are dead, and pixels change nothing.
- Pixels of 0 to 1 are four times smaller. With images of deviation 1 the median deviation of the first layer's channels
  was 22 and 35 on two detectors that take those; on twelve others 5 or less. Where the layers behind it are louder
  still, the network was not trained with normalizations, and nothing follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.data.feeds import Feed, float_dtype
from equiquant.calibrate.made_up.synthetic import USUAL_POWERS, Texture, channel_axis, filled_shape, synthetic_feeds
from equiquant.errors import ModelError
from equiquant.graph import query
from equiquant.io.runtime import InputSpec, Runner

__all__ = ["guessed_units"]

Array = npt.NDArray[np.float64]

CHANNELS = (1, 3, 4)
PROBES = 3  # inputs
LAYERS, FEWEST = 10, 3  # first layers with a bias that are looked at
STIFF = 10.0  # |mean| / deviation of the first layer's channels that no right input gives
LOUD = 16.0  # deviation of the first layer's channels that no right input gives, nor its inverse
BYTES = 64.0, 80.0  # mean and deviation that cover 0 to 255, and those less the mean of their color
SHARES = 0.45, 0.27  # of pixels over 255


def guessed_units(model: ir.Model, spec: InputSpec, seed: int) -> tuple[Texture, str] | None:
    """Return what images look like in the units the model takes, and why; None for mean 0 and deviation 1.

    Args:
        model: The model as it came.
        spec: Its only input; only images of known channels are looked at.
        seed: Seed of the probes.
    """
    if not float_dtype(spec) or len(spec.shape) != 4:
        return None
    channels = filled_shape(spec)[channel_axis(spec)]
    outputs = _first_layers(model)
    if channels not in CHANNELS or len(outputs) < FEWEST:
        return None
    try:
        runner = Runner(model, outputs, optimize=False)
        deviation, stiffness = _figures(runner, synthetic_feeds([spec], seed, PROBES))
        if deviation[0] > max(LOUD, np.median(deviation)):
            reason = f"of deviation 1 would give the first layer's channels one of {deviation[0]:.0f}: they are 0 to 1"
            return _texture(channels, *SHARES), reason
        if stiffness[0] < STIFF:
            return None
        pixels = _texture(channels, *BYTES)
        loudness, raw = _figures(runner, synthetic_feeds([spec], seed, PROBES, pixels))
    except ModelError:
        return None
    if raw[0] >= STIFF or np.median(raw) >= np.median(stiffness) or not 1 / LOUD < loudness[0] < LOUD:
        return None
    return pixels, "of deviation 1 would leave the first layer hardly anything but its biases: they are 0 to 255"


def _texture(channels: int, mean: float, deviation: float) -> Texture:
    return Texture(np.full(channels, mean), deviation**2 * USUAL_POWERS)


def _first_layers(model: ir.Model) -> list[str]:
    """Return the outputs of the first layers that have a bias; their channels lie along axis 1."""
    found = []
    for node in model.graph:
        if node.op_type in query.LINEAR_OPS and len(node.inputs) > 2:
            bias = query.constant(node.inputs[2])
            if bias is not None and bias.any():
                found.append(node.outputs[0].name or "")
    return found[:LAYERS]


def _figures(runner: Runner, feeds: Iterator[Feed]) -> tuple[Array, Array]:
    """Return medians over the channels that vary, of each output: of their deviation, and of |mean| / deviation."""
    runs = [runner.run(feed) for feed in feeds]
    deviation, stiffness = np.transpose([_medians(outputs) for outputs in zip(*runs, strict=True)])
    return deviation, stiffness


def _medians(outputs: Sequence[npt.NDArray[np.float32]]) -> tuple[float, float]:
    rows = np.concatenate([o.swapaxes(0, 1).reshape(o.shape[1], -1) for o in outputs], axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite values nothing follows
        mean, deviation = np.abs(rows.mean(axis=1)), rows.std(axis=1)
    live = deviation > np.finfo(np.float32).eps * mean
    if not live.any():
        return 0.0, np.inf
    return float(np.median(deviation[live])), float(np.median(mean[live] / deviation[live]))
