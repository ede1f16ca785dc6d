from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from equiquant.numerics.ranges.curve import tensor_curve, weight_curve
from equiquant.numerics.ranges.noise import RangeNoise, WeightRange
from equiquant.numerics.ranges.stage import RangeStage
from tests.numerics.range_networks import CLASSES, formula, network, tensor_formula, weight_formula

Array = npt.NDArray[Any]


def point(seed: int, ranges: int) -> tuple[Array, Array]:
    """Return log-scales and logs of range ends that clip a good part of everything."""
    rng = np.random.default_rng(seed)
    return 0.3 * rng.standard_normal(CLASSES), np.log(1.0 + rng.random(ranges))


def ranges(weights: list[WeightRange], tensors: list[RangeNoise]) -> int:
    return len(weights) + sum(len(t.sides) for t in tensors)


def differences(stage: RangeStage, at: Array, step: float = 1e-6) -> Array:
    units = step * np.eye(at.size)
    return np.array([(stage(at + unit)[0] - stage(at - unit)[0]) / (2 * step) for unit in units])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("parts", ["both", "weights", "tensors"])
def test_all_at_once_is_the_sum_of_all_terms(seed: int, parts: str) -> None:
    weights, tensors = network(seed)
    weights, tensors = weights if parts != "tensors" else [], tensors if parts != "weights" else []
    z, logs = point(seed, ranges(weights, tensors))
    stage = RangeStage(weights, tensors, z, logs)
    for moved in (0.0, 0.1):
        value, _ = stage(np.concatenate([z + moved * np.arange(CLASSES) / CLASSES, logs - moved]))
        expected = formula(weights, tensors, z + moved * np.arange(CLASSES) / CLASSES, np.exp(logs - moved))
        assert value == pytest.approx(np.log(expected), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_that_of_finite_differences(seed: int) -> None:
    weights, tensors = network(seed)
    z, logs = point(seed, ranges(weights, tensors))
    stage = RangeStage(weights, tensors, z, logs)
    at = np.concatenate([z, logs])
    np.testing.assert_allclose(stage(at)[1], differences(stage, at), atol=1e-7)


def test_what_reaches_no_output_has_a_finite_value_that_pulls_nowhere() -> None:
    silent = [replace(t, gain=0 * t.gain, clip_gain=0 * t.clip_gain) for t in network()[1]]
    z, logs = point(0, ranges([], silent))
    stage, at = RangeStage([], silent, z, logs), np.concatenate([z, logs])
    value, gradient = stage(at)
    assert np.isfinite(value)
    assert not gradient.any()
    assert not stage.curvature(at).any()


def test_curvature_is_exact_where_nothing_is_clipped() -> None:
    weights, tensors = network()
    tensors = [t for t in tensors if not np.isfinite(t.bound)]
    z, logs = point(0, ranges(weights, tensors))
    stage = RangeStage(weights, tensors, z, logs + 3)  # rounding only: J″ = J·((log J)″ + (log J)′²)
    at, step = np.concatenate([z, logs + 3]), 1e-4
    (middle, slope), units = stage(at), step * np.eye(at.size)
    second = np.array([stage(at + unit)[0] - 2 * middle + stage(at - unit)[0] for unit in units]) / step**2
    for found, expected, used in zip(stage.curvature(at), second + slope**2, slope, strict=True):
        if used:
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_curvature_grows_where_ranges_clip() -> None:
    weights, tensors = network()
    z, logs = point(0, ranges(weights, tensors))
    stage = RangeStage(weights, tensors, z, logs - 1)
    wide, narrow = (stage.curvature(np.concatenate([z, ends])) for ends in (logs + 3, logs))
    assert (wide >= 0).all()
    assert (narrow[CLASSES:] > 2 * wide[CLASSES:]).sum() > len(weights)


def test_curve_of_a_weight_is_its_formula_at_every_end() -> None:
    weights, _ = network()
    z, _ = point(1, 0)
    tries = np.array([2.0, 0.1, 0.7, 9.0, 0.7])
    for weight in weights:
        expected = [weight_formula(weight, z, end) for end in tries]
        np.testing.assert_allclose(weight_curve(weight, z, tries), expected, rtol=1e-6)


def test_curve_of_a_tensor_is_its_formula_with_one_side_moved() -> None:
    _, tensors = network()
    z, _ = point(1, 0)
    tries = np.array([2.0, 0.1, 0.7, 9.0, 0.7])
    for tensor in tensors:
        ends = np.linspace(1.0, 1.5, len(tensor.sides))
        for side in range(ends.size):
            expected = [tensor_formula(tensor, z, np.where(np.arange(ends.size) == side, t, ends)) for t in tries]
            np.testing.assert_allclose(tensor_curve(tensor, z, ends, side, tries), expected, rtol=1e-12)
