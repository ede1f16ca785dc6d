"""Scale and zero point of weights and biases.

Weights: per tensor or per output channel, min-max (symmetric: scale = max|w| / 127) or a power of two.
Biases: int32 at scale alpha·s_x·s_w with zero point 0, what the integer accumulator holds (alpha: Gemm's, else 1); or
int8 / int16 with a power-of-two scale of their own.

An int32 bias must fit: where |b| exceeds 2^30 steps of s_x·s_w, the weight scale grows until it fits (half the int32
range is left to the products). A channel without any weight may have any weight scale; it gets one that resolves its
bias.
Source: Jacob et al., arXiv:1712.05877, section 2.2; ONNX Runtime operator QGemm (scale of C).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.affine import SMALLEST_SCALE, IntType, QuantParams, params_from_range, power_of_two_params
from equiquant.numerics.calibration.pow2 import minmse_exponent, nonoverflow_exponent
from equiquant.target.table.targets import Target

__all__ = ["bias_params", "fit_weight_to_bias", "weight_params"]

Array = npt.NDArray[Any]

BIAS_LIMIT = 2.0**30  # steps: half the accumulator's range
FINEST_SHIFT = 16  # powers of two that a bias's scale may lie under the accumulator's (the documented limit)
EMPTY_CHANNEL_STEPS = 2.0**20  # steps that resolve the bias of a channel without weights


def weight_params(weight: Array, axis: int | None, target: Target, end: float | None = None) -> QuantParams:
    """Return the parameters of a weight.

    Args:
        weight: The weight.
        axis: The channel axis for per-channel scales, None per tensor.
        target: Type, symmetry and method.
        end: A range [−end, end] chosen beforehand; larger weights are clipped.
    """
    kind = target.weight
    if end is not None and target.scale_kind == "power_of_two":
        return power_of_two_params(end, kind)
    if end is not None:
        return params_from_range(-end, end, kind, symmetric=target.weight_symmetric)
    if target.scale_kind == "power_of_two":
        return _power_of_two(weight, axis, kind, target)
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    low, high = weight.min(axis=others), weight.max(axis=others)
    return params_from_range(low, high, kind, symmetric=target.weight_symmetric, axis=axis)


def fit_weight_to_bias(params: QuantParams, weight: Array, bias: Array, step: float) -> QuantParams:
    """Return the weight's parameters, rescaled where an int32 bias at scale `step` · weight scale would not fit.

    Args:
        params: The parameters chosen for the weight alone.
        weight: The weight.
        bias: The bias, its last axis the output channels, or a single number.
        step: alpha·s_x.
    """
    scale = params.scale.astype(np.float64)
    if params.axis is None:
        largest, empty = np.abs(bias).max(initial=0.0), not np.any(weight)
    else:
        others = tuple(i for i in range(weight.ndim) if i != params.axis)
        largest, empty = np.abs(bias).reshape(-1, bias.shape[-1]).max(axis=0), ~np.any(weight, axis=others)
    largest = np.asarray(largest, dtype=np.float64)
    wanted = np.maximum(scale, largest / (step * BIAS_LIMIT))
    resolving = np.maximum(largest / (step * EMPTY_CHANNEL_STEPS), SMALLEST_SCALE)
    wanted = np.where(empty & (largest > 0), resolving, wanted)
    if np.array_equal(wanted, scale):
        return params
    if np.all(np.frexp(scale)[0] == 0.5):  # powers of two stay powers of two
        wanted = np.exp2(np.ceil(np.log2(wanted)))
    return QuantParams(wanted.astype(np.float32), params.zero_point, params.type, params.axis)


def bias_params(bias: Array, step: float, weight: QuantParams, target: Target, end: float | None = None) -> QuantParams:
    """Return the parameters of a bias whose input's scale is `step` (times alpha) and whose weight has `weight`.

    `end` is a range [−end, end] chosen beforehand for a bias with a scale of its own. However small the bias, even 0,
    such a scale is no finer than the accumulator's can be shifted to.
    """
    scale = np.float32(step) * weight.scale
    if target.bias.name == "int32":
        return QuantParams.make(scale, 0, "int32", None if weight.axis is None else bias.ndim - 1)
    params = _power_of_two(bias, None, target.bias, target) if end is None else power_of_two_params(end, target.bias)
    finest = np.exp2(np.ceil(np.log2(float(scale.max())) - FINEST_SHIFT))
    return dataclasses.replace(params, scale=np.maximum(params.scale, np.float32(finest)))


def _power_of_two(array: Array, axis: int | None, kind: IntType, target: Target) -> QuantParams:
    exponent: Any
    if target.method == "minmse":
        exponent = minmse_exponent(array, kind) if axis is None else minmse_exponent(array, kind, axis)
    else:
        others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
        exponent = nonoverflow_exponent(array.min(axis=others), array.max(axis=others), kind)
    return QuantParams.make(np.ldexp(np.float32(1), exponent), kind.center, kind.name, axis)
