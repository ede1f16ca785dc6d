"""Choose made-up inputs so that the first BatchNormalizations see the means and variances they were trained on.

Up to there a network is affine in its input: y = c + A·x. For noise x = m + Σ_k √p_k·n_k with an offset m for each
input channel and components n_k (spectra from white to constant, common to all channels or each channel's own) the mean
of an output channel is c + S·m and its variance Σ_k p_k·V_k. S and V are measured by running the first layers on the
offsets and the components; m follows by least squares, p by least squares without negative powers, both relative to the
stored variance. So inputs in any units are found: pixels of 0 to 255, normalized images, spectra in decibels.

Cf. Cai et al., ZeroQ, arXiv:2001.00281, which fits inputs to all BatchNormalizations by gradient descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.optimize import nnls

from equiquant.calibrate.data.feeds import float_dtype
from equiquant.calibrate.made_up.synthetic import (
    COMPONENTS,
    USUAL_POWERS,
    Texture,
    channel_axis,
    component,
    filled_shape,
)
from equiquant.graph import query
from equiquant.io.runtime import InputSpec, Runner

__all__ = ["alive", "matching_texture"]

Array = npt.NDArray[Any]

AFFINE = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Identity", "Transpose", "Reshape"}
    | {"Pad", "Flatten", "Unsqueeze", "Squeeze", "AveragePool", "Dropout"}
)
PROBES = 4  # noise inputs a component
DEAD = 1e-4  # of the variance of the loud channels of a layer: those below say nothing
LOUD = 0.9  # quantile of the variances: a single channel may be far louder than all others
NOTHING = 1e-5  # the usual ε: where that quantile is below, most channels are dead, and the largest variance counts
LEAST = 0.05  # of the variance is left to the noise
PULL = 1e-2  # weight of the usual spectrum against that of the stored statistics


@dataclass(frozen=True, eq=False)
class _Targets:
    """What the first BatchNormalizations expect, channel by channel."""

    names: Sequence[str]
    mean: Array
    variance: Array
    alive: Array


def matching_texture(model: ir.Model, spec: InputSpec, seed: int) -> Texture | None:
    """Return the texture of an input that fits the first BatchNormalizations; None where there is none to fit.

    Args:
        model: The model as it came, BatchNormalizations not folded.
        spec: Its only input; one of another type or of less than three dimensions is not fitted.
        seed: Seed of the probes.
    """
    if not float_dtype(spec) or len(spec.shape) < 3:
        return None
    targets = _targets(model, spec.name)
    if targets is None:
        return None
    shape = filled_shape(spec)
    axis = channel_axis(spec)
    runner = Runner(model, targets.names)
    rest, size = _responses(runner, spec, [np.zeros(shape)])[0], shape[axis]
    offsets = np.array([_constant(shape, axis, c) for c in range(size)])
    slopes = np.stack([mean - rest[0] for mean, _ in _responses(runner, spec, offsets)], axis=1)
    powers = []
    for index in range(len(COMPONENTS)):
        rng = np.random.default_rng(seed)
        probes = [component(index, shape, axis, rng) for _ in range(PROBES)]
        found = _responses(runner, spec, probes)
        powers.append(np.mean([variance + np.square(mean - rest[0]) for mean, variance in found], axis=0))
    live = targets.alive
    spread = np.sqrt(targets.variance[live])
    offset = _offset(slopes[live] / spread[:, None], (targets.mean - rest[0])[live] / spread)
    still = np.zeros(shape) + offset.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    border = _responses(runner, spec, [still])[0][1][live]  # zero padding around an offset is variance too
    left = np.maximum(targets.variance[live] - border, LEAST * targets.variance[live])
    return Texture(offset, _powers(np.stack(powers, axis=1)[live] / left[:, None]))


def alive(variance: Array) -> Array:
    """Return which channels of a BatchNormalization say something: most may be dead, one far louder than the others."""
    loud = np.quantile(variance, LOUD, method="lower")
    result: Array = variance > DEAD * (loud if loud > NOTHING else variance.max())
    return result


def _targets(model: ir.Model, source: str) -> _Targets | None:
    """Return the statistics of the BatchNormalizations that see an affine function of the input."""
    affine = {value for value in model.graph.inputs if value.name == source}
    names, means, variances = [], [], []
    for node in model.graph:
        inputs = [v for v in node.inputs if v is not None]
        moving = [v for v in inputs if v in affine]
        if not moving or node.domain != "":
            continue
        if node.op_type == "BatchNormalization" and moving == inputs[:1]:
            mean, variance = (query.constant(v) for v in inputs[3:5])
            if mean is not None and variance is not None:
                names.append(inputs[0].name or "")
                means.append(mean.astype(np.float64))
                variances.append(variance.astype(np.float64))
        elif node.op_type in AFFINE and all(v in affine or query.constant(v) is not None for v in inputs):
            affine.update(node.outputs if len(moving) == 1 or node.op_type in ("Add", "Sub") else ())
    if not names:
        return None
    return _Targets(names, np.concatenate(means), np.concatenate(variances), np.concatenate([*map(alive, variances)]))


def _responses(runner: Runner, spec: InputSpec, inputs: Any) -> list[tuple[Array, Array]]:
    """Return the mean and the variance of every output channel, all outputs in a row, for each input."""
    found = []
    for x in inputs:
        results = [r.astype(np.float64) for r in runner.run({spec.name: np.asarray(x, spec.dtype)})]
        axes = [tuple(i for i in range(r.ndim) if i != 1) for r in results]
        means = np.concatenate([r.mean(axis=a) for r, a in zip(results, axes, strict=True)])
        found.append((means, np.concatenate([r.var(axis=a) for r, a in zip(results, axes, strict=True)])))
    return found


def _constant(shape: Sequence[int], axis: int, channel: int) -> Array:
    x = np.zeros(shape)
    np.moveaxis(x, axis, 0)[channel] = 1.0
    return x


def _offset(slopes: Array, wanted: Array) -> Array:
    """Return the offsets whose responses come closest, `(C,)`; as small as they can be where responses say little."""
    ridge = 1e-3 * np.sqrt(np.square(slopes).sum(axis=0).max() + 1e-30)
    matrix = np.concatenate([slopes, ridge * np.eye(slopes.shape[1])])
    result: Array = np.linalg.lstsq(matrix, np.concatenate([wanted, np.zeros(slopes.shape[1])]), rcond=None)[0]
    return result


def _powers(responses: Array) -> Array:
    """Return the power of every component, `(K,)`, for responses relative to the variance wanted."""
    plain = responses @ USUAL_POWERS
    size = plain.sum() / max(np.square(plain).sum(), 1e-30)  # of the usual mixture, by least squares
    weight = np.sqrt(PULL * len(responses))
    matrix = np.concatenate([responses * size, weight * np.eye(USUAL_POWERS.size)])
    result: Array = size * nnls(matrix, np.concatenate([np.ones(len(responses)), weight * USUAL_POWERS]))[0]
    return result
