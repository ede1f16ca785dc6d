"""One layer's integers: weights rounded for the inputs they will meet, and a bias that puts the means right.

    bias:      b_q = E[W x + b] − W_q E[x_q], per output channel, over all positions and samples
    weights:   W* = W + D (H + ρ diag H + ε)⁻¹, rounded column by column (`layers.rounding`)

x is the input of the layer in the float network, x_q in the quantized one with all earlier layers refined; H and D are
the second moments of x_q and the drift (`layers.moments`). The layer is linear, so the means take one evaluation on
the mean input. The regression on the drift is damped much more (ρ) than the rounding: along directions in which the
inputs vary little, drift is what the samples happen to have, and making good for it does not generalize (measured). So
much the more for inputs that hardly vary at all (ε, a part of the mean diagonal). And a sample that drifts more than
most counts less: what the ranges cut off a few, weights could only make good at the expense of all others (measured).

A bias finer than the noise (int32, float) takes what its column would lose: H is centered, the bias set last. An int8
bias is rounded first, and the weights make good for what it lost; where the corrected bias leaves its range, its scale
doubles. One that the layer did not have begins at 0: the weights keep the means, so that it stays small, and fine.
Source: Nagel et al., arXiv:1906.04721, section 4.2 (bias correction); Frantar et al., arXiv:2210.17323 (rounding).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.numerics.affine import QuantParams, fake_quantize, quantize
from equiquant.numerics.layers.moments import Moments
from equiquant.numerics.layers.rounding import damped, regress, ridged, round_rows
from equiquant.numerics.parallel import parallel
from equiquant.numerics.stride import coprime_stride
from equiquant.refine.layers import Layer
from equiquant.refine.means import InputMean

__all__ = ["Refinement", "Solution", "correct", "positions", "recentre", "solve"]

Array = npt.NDArray[Any]

DRIFT_RIDGE = 2.0  # ρ, of each input's own energy: with 0.5 and with 4 fewer dB on other samples
FEWEST_POSITIONS = 8192  # of all samples together: columns that H is made of
POSITIONS_PER_INPUT = 4
MOST_SHIFT = 15  # powers of two between the steps of a bias and of the accumulator (the documented limit)
DOUBLINGS = 3
SHARES = 2  # of a grouped layer's samples, summed side by side; fixed, so that sums do not depend on the machine
MOST_SEEN = 1 << 16  # values of a sample that tell how much it drifts
STRIDE = 7  # between the positions taken of one sample and those of the next


@dataclass(frozen=True)
class Refinement:
    """What to do.

    Attributes:
        correct_bias: Set the biases so that means match.
        round_weights: Round the weights for the inputs they meet, not to nearest.
    """

    correct_bias: bool
    round_weights: bool


@dataclass(frozen=True, eq=False)
class Solution:
    """A layer's new parameters.

    Attributes:
        weight: Integers, as stored.
        bias: (outputs,) float64, not rounded yet.
        bias_params: How it is to be rounded; None for a float bias.
    """

    weight: Array
    bias: Array
    bias_params: QuantParams | None


def positions(inputs: int) -> int:
    """Return how many columns, of all samples together, the moments of so many inputs are made of."""
    return max(FEWEST_POSITIONS, POSITIONS_PER_INPUT * inputs)


def solve(layer: Layer, inputs: Sequence[list[Array]], wanted: Refinement, factor: Array | None = None) -> Solution:
    """Return the layer's integers, rounded for its inputs unless they are too many, and its bias.

    Args:
        layer: The layer.
        inputs: For each sample the layer's input in the float network, and the integers in the quantized one.
        wanted: What to do.
        factor: What the input in the float network is to be multiplied by; it broadcasts.
    """
    form = layer.form
    rows = _rows(layer)
    most = math.ceil(positions(form.inputs) / len(inputs))
    scale, zero = float(layer.input_params.scale), int(layer.input_params.zero_point)
    trust = _trust(inputs, zero, scale, factor)

    shares = min(SHARES, len(inputs)) if len(rows) > 1 else 1

    def gather(first: int) -> tuple[InputMean, InputMean, Moments | None]:
        exact_mean, integer_mean = InputMean(), InputMean()
        moments = Moments(rows) if layer.roundable else None
        for index in range(first, len(inputs), shares):
            exact, integers = inputs[index]
            if factor is not None:
                exact = (exact * factor).astype(exact.dtype)
            exact_mean.add(exact)
            integer_mean.add(integers)
            if moments is not None:
                shift = index * STRIDE
                rounded = _real_inputs(form.columns(integers, most, shift, fill=zero), zero, scale)
                drift = form.columns(exact, most, shift) - rounded
                drift *= trust[index]
                moments.add(drift, rounded)
        if moments is not None:
            moments.reduce()
        return exact_mean, integer_mean, moments

    exact_mean, integer_mean, moments = _merged(parallel(gather, range(shares)))
    exact, rounded = exact_mean.columns(form), integer_mean.columns(form, zero, scale)
    target = _times(rows, exact) + form.bias_gain * layer.bias.astype(np.float64) if wanted.correct_bias else None
    missing = None if target is None else (target - _times(rows, rounded)) / form.bias_gain
    params = layer.bias_params if missing is None else _wide_enough(layer, missing)
    if moments is None:
        weight = quantize(layer.weight, layer.weight_params)
    else:
        weight = _rounded(layer, rows, moments, missing, params)
    if target is None:
        return Solution(weight, layer.bias.astype(np.float64), params)
    return Solution(weight, _bias(layer, weight, target, rounded), params)


def _trust(inputs: Sequence[list[Array]], zero: int, scale: float, factor: Array | None) -> Array:
    """Return what share of each sample's drift counts, (samples,) float32: the median drift over its own, or all."""

    def drift(sample: list[Array]) -> float:
        exact, integers = sample
        if factor is not None:
            exact = exact * factor
        stride = coprime_stride(-(-exact.size // MOST_SEEN), exact.size)
        some, rounded = exact.reshape(-1)[::stride], _real_inputs(integers.reshape(-1)[::stride], zero, scale)
        return float(np.square(some - rounded).mean(dtype=np.float64))

    each = np.array([drift(sample) for sample in inputs])
    share = np.median(each) / np.maximum(each, np.finfo(np.float64).tiny)
    return np.asarray(np.minimum(1.0, share), np.float32)


def _real_inputs(integers: Array, zero: int, scale: float) -> Array:
    """Return what `affine.dequantize` would, bit for bit, without its float64: this is done to every input there is."""
    result = integers.astype(np.float32)
    result -= np.float32(zero)
    result *= np.float32(scale)
    return result


def _merged(
    shares: Sequence[tuple[InputMean, InputMean, Moments | None]],
) -> tuple[InputMean, InputMean, Moments | None]:
    first, *rest = shares
    for exact, rounded, moments in rest:
        first[0].merge(exact)
        first[1].merge(rounded)
        if first[2] is not None and moments is not None:
            first[2].merge(moments)
    return first


def correct(layer: Layer, inputs: Iterable[Array], target: Array) -> Solution:
    """Return the layer's integers, rounded to nearest, and the bias that gives it the mean output wanted.

    Args:
        layer: The layer; one that takes a bias.
        inputs: For each sample the integers in the quantized network.
        target: (outputs,) the mean output in the float network.
    """
    mean = InputMean()
    for integers in inputs:
        mean.add(integers)
    rounded = mean.columns(layer.form, float(layer.input_params.zero_point), float(layer.input_params.scale))
    return _corrected(layer, target, rounded)


def recentre(layer: Layer, column: Array) -> Solution:
    """Return the layer's integers, rounded to nearest, and the bias that makes up for it at the mean of its inputs.

    Args:
        layer: The layer; one that takes a bias.
        column: (G, K) the mean of its inputs.
    """
    target = _times(_rows(layer), column) + layer.form.bias_gain * layer.bias.astype(np.float64)
    return _corrected(layer, target, column)


def _corrected(layer: Layer, target: Array, mean: Array) -> Solution:
    """Return the nearest integers and the bias that make a mean output of the quantized network's mean columns."""
    weight = quantize(layer.weight, layer.weight_params)
    bias = _bias(layer, weight, target, mean)
    return Solution(weight, bias, _wide_enough(layer, bias))


def _rows(layer: Layer) -> Array:
    """Return the float weight as (G, M, K) rows."""
    return layer.form.rows(layer.weight.astype(np.float64)) * layer.form.gain


def _bias(layer: Layer, weight: Array, target: Array, mean: Array) -> Array:
    """Return the bias that makes a mean output of the mean columns, (G, K), and the weight's integers."""
    return np.asarray((target - _times(_real(layer, weight), mean)) / layer.form.bias_gain)


def _times(rows: Array, mean: Array) -> Array:
    """Return the (outputs,) results for one column of inputs."""
    return (rows @ mean[..., None])[..., 0].ravel()


def _real(layer: Layer, weight: Array) -> Array:
    """Return the integers of a weight as rows of real numbers."""
    scale, zero = layer.weight_params.aligned(weight.ndim)
    return layer.form.rows((weight.astype(np.float64) - zero) * scale) * layer.form.gain


def _wide_enough(layer: Layer, bias: Array) -> QuantParams | None:
    """Return the parameters of a corrected bias: a scale of its own may double, while that loses less than clipping.

    An error counts as much as it does at the network's output, where that is known: a channel that hardly matters may
    have by far the largest bias, and clipping it costs nothing. A coarser bias stays within what a shifter of the
    accumulator can do: 2^15 steps of s_x·s_w.
    """
    params = layer.bias_params
    if params is None or layer.fine_bias or layer.late_bias:
        return params
    limit = layer.accumulator_step * 2.0**MOST_SHIFT
    doubled = [dataclasses.replace(params, scale=params.scale * np.float32(2**n)) for n in range(DOUBLINGS + 1)]
    allowed = [p for p in doubled if p is doubled[0] or p.scale <= limit]
    return min(allowed, key=lambda p: float(np.dot(layer.bias_gains, np.square(bias - fake_quantize(bias, p)))))


def _rounded(
    layer: Layer, rows: Array, moments: Moments, missing: Array | None, bias_params: QuantParams | None
) -> Array:
    """Return the weight's integers.

    Args:
        layer: The layer.
        rows: (G, M, K) the float weight.
        moments: Of its inputs.
        missing: (outputs,) the bias that exact weights would need; None if the bias is given.
        bias_params: How the bias will be rounded.
    """
    form, params = layer.form, layer.weight_params
    centered, drift = moments.centered()
    aim = rows + regress(drift, ridged(centered, DRIFT_RIDGE))
    second = damped(centered if missing is not None and layer.fine_bias else moments.second())
    if missing is not None and bias_params is not None and not (layer.fine_bias or layer.late_bias):
        lost = form.bias_gain * (missing - fake_quantize(missing, bias_params))
        aim = aim + lost.reshape(*rows.shape[:2], 1) * regress(moments.with_one()[:, None, :], second)
    scale, zero = params.aligned(layer.weight.ndim)
    steps, middle = _of_rows(layer, scale)[:, :, 0] * form.gain, _of_rows(layer, zero)
    offsets = round_rows(aim, second, steps, params.type.qmin - middle, params.type.qmax - middle)
    return (form.stored(offsets) + zero).astype(params.type.name)


def _of_rows(layer: Layer, values: Array) -> Array:
    """Return what broadcasts against the weight, one value an output, as (G, M, 1)."""
    return layer.form.rows(np.broadcast_to(np.asarray(values, np.float64), layer.weight.shape))[:, :, :1]
