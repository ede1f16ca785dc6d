"""Tell networks that take pixels of 0 to 255 from those that take normalized images, where no BatchNormalization does.

A layer that was trained behind or with a normalization has channels whose mean is about as large as their deviation.
Inputs a hundred times too small leave nothing but the biases: channels hardly vary, in the first layer least of all. On
two real networks that take pixels the median of |mean| / deviation over the channels of the first layer was 30 with
normalized images, 0.6 with pixels; on thirteen that take normalized ones it was 3.5 or less, but for one where most
channels are dead, and pixels do not change that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.feeds import Feed, float_dtype
from equiquant.calibrate.synthetic import COMPONENTS, Texture, channel_axis, filled_shape, synthetic_feeds
from equiquant.errors import ModelError
from equiquant.graph import query
from equiquant.io.runtime import InputSpec, Runner

__all__ = ["pixel_texture"]

Array = npt.NDArray[np.float64]

CHANNELS = (1, 3, 4)
MIDDLE, DEVIATION = 64.0, 80.0  # so that pixels are covered, and those less the mean of their color
PROBES = 3  # inputs
LAYERS, FEWEST = 10, 3  # first layers with a bias that are looked at
STIFF = 10.0  # |mean| / deviation of the first layer's channels that no right input gives


def pixel_texture(model: ir.Model, spec: InputSpec, seed: int) -> Texture | None:
    """Return what pixels look like if the model takes them; None if it does not, or nothing tells.

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
    pixels = Texture(np.full(channels, MIDDLE), np.array([DEVIATION**2 * usual for *_, usual in COMPONENTS]))
    try:
        runner = Runner(model, outputs, optimize=False)
        normalized = _stiffness(runner, synthetic_feeds([spec], seed, PROBES))
        if normalized[0] < STIFF:
            return None
        raw = _stiffness(runner, synthetic_feeds([spec], seed, PROBES, pixels))
    except ModelError:
        return None
    return pixels if raw[0] < STIFF and np.median(raw) < np.median(normalized) else None


def _first_layers(model: ir.Model) -> list[str]:
    """Return the outputs of the first layers that have a bias; their channels lie along axis 1."""
    found = []
    for node in model.graph:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) > 2:
            bias = query.constant(node.inputs[2])
            if bias is not None and bias.any():
                found.append(node.outputs[0].name or "")
    return found[:LAYERS]


def _stiffness(runner: Runner, feeds: Iterator[Feed]) -> Array:
    """Return the median of |mean| / deviation over the channels that vary, of each output."""
    runs = [runner.run(feed) for feed in feeds]
    return np.array([_median_ratio(outputs) for outputs in zip(*runs, strict=True)])


def _median_ratio(outputs: Sequence[npt.NDArray[np.float32]]) -> float:
    rows = np.concatenate([o.swapaxes(0, 1).reshape(o.shape[1], -1) for o in outputs], axis=1, dtype=np.float64)
    mean, deviation = np.abs(rows.mean(axis=1)), rows.std(axis=1)
    live = deviation > np.finfo(np.float32).eps * mean
    return float(np.median(mean[live] / deviation[live])) if live.any() else np.inf
