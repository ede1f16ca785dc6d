"""The parameters chosen: ranges, power-of-two scales, weights and biases."""

from __future__ import annotations

import importlib
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import target
from equiquant.calibrate.stats import TensorRecord, TensorStats
from equiquant.errors import DataError
from equiquant.numerics.affine import QuantParams, fake_quantize
from equiquant.numerics.ranges.chosen import ChosenRanges
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.recipe import preset
from equiquant.target import QuantPlan
from tests.qdq.support import Array, noise, parse


def _record(low: float, high: float) -> TensorRecord:
    return TensorRecord(low, high, 100, DyadicHistogram.of(np.linspace(low, high, 100, dtype=np.float32)))


def _choose(model: ir.Model, ranges: dict[str, tuple[float, float]], name: str = "a8w8", **options: Any) -> QuantPlan:
    recipe = preset(name, **options)
    stats = TensorStats(1, {k: _record(*v) for k, v in ranges.items()})
    return target.choose(model, target.survey(model, recipe), stats, recipe)


def _conv(w: Array, b: Array, relu: bool = False) -> ir.Model:
    tail = "t = Conv (x, w, b)  y = Relu (t)" if relu else "y = Conv (x, w, b)"
    return parse(f"g (float[1, 2, 4, 4] x) => (float[] y) {{ {tail} }}", w=w, b=b)


W = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32).reshape(2, 2, 1, 1)
B = np.array([0.5, -0.25], np.float32)
RANGES = {"x": (-1.0, 2.0), "y": (-3.0, 5.0)}


def test_asymmetric_uint8_covers_the_range_and_zero() -> None:
    plan = _choose(_conv(w=W, b=B), RANGES | {"y": (1.0, 5.0)})
    assert plan.activations["x"] == QuantParams.make(3 / 255, 85, "uint8")
    assert plan.activations["y"] == QuantParams.make(5 / 255, 0, "uint8")


def test_symmetric_ranges_center_the_zero_point() -> None:
    plan = _choose(_conv(w=W, b=B), RANGES, symmetric_ranges=True)
    assert plan.activations["y"] == QuantParams.make(10 / 255, 128, "uint8")


def test_the_signal_of_a_tensor_is_measured_once_and_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[1, 2, 4, 4] x) => (float[] y) { a = Conv (x, w)  b = Conv (x, v)  y = Add (a, b) }"
    power = Mock(return_value=1.0)
    monkeypatch.setattr(importlib.import_module("equiquant.target.choosing.choose"), "power", power)
    far = dict.fromkeys("xy", (-1.0, 1.0)) | {"a": (-1e-4, 1e-4), "b": (-1e4, 1e4)}  # read by one Add, too far apart
    limits = _choose(parse(text, 17, w=W, v=W), far, "xint8").limits
    assert limits is not None
    assert len(limits.moved) > 1
    assert [call.args[0].high for call in power.call_args_list] == [1.0]


def test_the_bound_of_the_producer_cuts_the_range() -> None:
    model = parse(
        "g (float[1, 2, 4, 4] x) => (float[] y) { t = Conv (x, w)  y = Clip (t, lo, hi) }",
        w=W,
        lo=np.array(0, np.float32),
        hi=np.array(6, np.float32),
    )
    plan = _choose(model, RANGES | {"y": (-0.5, 6.5)})
    assert plan.activations["y"] == QuantParams.make(6 / 255, 0, "uint8")


@pytest.mark.parametrize("kind", ["Min", "Max"])
def test_the_constant_of_a_min_or_max_lies_on_the_grid_of_the_result(kind: str) -> None:
    """However far it lies from that: what is rounded to the grid afterwards is the same for the constant as it was."""
    bounds = np.array([2e4, 1.2345, -0.3, -7e3], np.float32).reshape(1, 4, 1, 1)
    model = parse(f"g (float[1, 4, 8, 8] x) => (float[] y) {{ y = {kind} (x, b) }}", b=bounds)
    plan = _choose(model, {"x": (-2.0, 2.0), "y": (-2.0, 2.0)}, "xint8")
    result = plan.activations["y"]
    assert plan.constants[f"{kind}_y", 1] == result
    x, compare = noise(1, 4, 8, 8), {"Min": np.minimum, "Max": np.maximum}[kind]
    stored = fake_quantize(bounds, result)
    assert np.array_equal(fake_quantize(compare(x, stored), result), fake_quantize(compare(x, bounds), result))


def test_xint8_is_power_of_two_around_128() -> None:
    plan = _choose(_conv(w=W, b=B), RANGES, "xint8")
    for params in (*plan.activations.values(), *plan.constants.values()):
        assert np.frexp(params.scale)[0] == 0.5
    assert {int(p.zero_point) for p in plan.activations.values()} == {128}
    assert plan.constants["Conv_y", 1] == QuantParams.make(2.0**-6, 0, "int8")
    assert plan.constants["Conv_y", 2].type.name == "int8"


@pytest.mark.parametrize(("unsigned", "zero", "exponent"), [(False, 128, -4), (True, 0, -5)])
def test_a_tensor_never_negative_may_use_the_whole_unsigned_range(unsigned: bool, zero: int, exponent: int) -> None:
    ranges = {"x": (-1.0, 1.0), "y": (0.0, 7.9)}
    plan = _choose(_conv(relu=True, w=W, b=B), ranges, "xint8", unsigned_relu=unsigned, calibration="nonoverflow")
    assert plan.activations["y"] == QuantParams.make(2.0**exponent, zero, "uint8")
    assert int(plan.activations["x"].zero_point) == 128


def test_an_int32_bias_has_the_scale_of_the_accumulator() -> None:
    plan = _choose(_conv(w=W, b=B), RANGES)
    weight, bias = plan.constants["Conv_y", 1], plan.constants["Conv_y", 2]
    assert weight == QuantParams.make(2 / 127, 0, "int8")
    assert bias.scale == plan.activations["x"].scale * weight.scale


def test_per_channel_scales_follow_the_output_channels() -> None:
    plan = _choose(_conv(w=W, b=B), RANGES, "a8w8_per_channel")
    weight, bias = plan.constants["Conv_y", 1], plan.constants["Conv_y", 2]
    np.testing.assert_allclose(weight.scale, np.array([2.0, 0.5]) / 127, rtol=1e-6)
    assert (weight.axis, bias.axis) == (0, 0)
    np.testing.assert_array_equal(bias.scale, plan.activations["x"].scale * weight.scale)


@pytest.mark.parametrize("name", ["a8w8", "a8w8_per_channel"])
def test_a_bias_too_large_for_int32_raises_the_weight_scale(name: str) -> None:
    w, b = W.copy(), np.array([1e4, -0.25], np.float32)
    w[0] *= 1e-9
    w[1] *= 1e-9
    plan = _choose(_conv(w=w, b=b), RANGES, name)
    rounded = fake_quantize(b, plan.constants["Conv_y", 2])
    np.testing.assert_allclose(rounded, b, rtol=1e-5, atol=1e-5)  # a step is 1e4 / 2^30
    assert plan.constants["Conv_y", 1].scale.max() > 2e-9 / 127


@pytest.mark.parametrize("name", ["a8w8", "a8w8_per_channel"])
def test_a_channel_without_weights_keeps_its_bias(name: str) -> None:
    w = W.copy()
    w[0] = 0
    if name == "a8w8":
        w[1] = 0
    plan = _choose(_conv(w=w, b=B), {"x": (-100.0, 200.0), "y": (-3.0, 5.0)}, name)
    np.testing.assert_allclose(fake_quantize(B, plan.constants["Conv_y", 2]), B, rtol=2e-2)


def test_a_gemm_with_negative_alpha_keeps_its_bias_float() -> None:
    model = parse("g (float[1, 2] x) => (float[] y) { y = Gemm <alpha = -2.0> (x, w, b) }", w=W.reshape(2, 2), b=B)
    assert set(_choose(model, RANGES).constants) == {("Gemm_y", 1)}


def test_a_group_covers_all_its_sources() -> None:
    text = "a = Conv (x, w)  b = Conv (x, w)  c = Concat <axis = 1> (a, b)  y = Flatten (c)"
    ranges = {"x": (-1.0, 1.0), "a": (-1.0, 1.0), "b": (-9.0, 3.0)}
    plan = _choose(
        parse(f"g (float[1, 2, 4, 4] x) => (float[] y) {{ {text} }}", w=W), ranges, "xint8", calibration="nonoverflow"
    )
    assert len({p.scale.tobytes() for p in (plan.activations[k] for k in "abcy")}) == 1
    assert plan.activations["y"].scale == 2.0**-3


def test_missing_statistics_are_an_error() -> None:
    with pytest.raises(DataError, match="no statistics of 'y'"):
        _choose(_conv(w=W, b=B), {"x": (-1.0, 1.0)})


def test_minmse_without_histograms_is_an_error() -> None:
    recipe, model = preset("xint8"), _conv(w=W, b=B)
    stats = TensorStats(1, {k: TensorRecord(*v, 1) for k, v in RANGES.items()})
    with pytest.raises(DataError, match="hold no histogram"):
        target.choose(model, target.survey(model, recipe), stats, recipe)


def test_the_model_is_only_read() -> None:
    model = _conv(w=noise(2, 2, 1, 1), b=B)
    before = ir.to_proto(model).SerializeToString()
    _choose(model, RANGES)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_bias_of_zeros_has_a_scale_that_the_accumulator_reaches_and_holds_nothing_up() -> None:
    """The solver's range for zeros is anything; with large activations no limit could be met without moving those."""
    model = _conv(w=W, b=np.zeros(2, np.float32))
    (conv,) = [n.name or "" for n in model.graph]
    recipe = preset("xint8")
    stats = TensorStats(1, {"x": _record(-1e6, 2e6), "y": _record(-3e6, 5e6)})
    survey = target.survey(model, recipe)
    alone = target.choose(model, survey, stats, recipe)
    ranges = ChosenRanges({("bias", conv): (1e-20,)}, {("bias", conv): {-73: 0.0}})
    plan = target.choose(model, survey, stats, recipe, ranges)
    assert plan.activations == alone.activations
    assert plan.constants[conv, 1] == alone.constants[conv, 1]
    steps = float(plan.constants[conv, 2].scale) / float(plan.activations["x"].scale * plan.constants[conv, 1].scale)
    assert 2.0**-16 <= steps <= 2.0**15


def _made_up(name: str, model: ir.Model, ranges: dict[str, tuple[float, float]], given: ChosenRanges) -> QuantPlan:
    recipe = preset(name)
    stats = TensorStats(1, {k: _record(*v) for k, v in ranges.items()}, synthetic=True)
    return target.choose(model, target.survey(model, recipe), stats, recipe, given)


def test_outputs_get_room_for_more_than_made_up_inputs_show() -> None:
    plan = _made_up("a8w8", _conv(w=W, b=B), RANGES, ChosenRanges({}))
    assert plan.activations["x"] == QuantParams.make(3 / 255, 85, "uint8")
    assert plan.activations["y"] == QuantParams.make(12 / 255, 96, "uint8")
    positive = _conv(w=W, b=B, relu=True)
    assert _made_up("a8w8", positive, RANGES, ChosenRanges({})).activations["y"].zero_point == 0
    for high, scale in ((0.6, 2**-7), (0.7, 2**-6)):  # 1.5 times as much fits, or does not
        given = ChosenRanges({("activation", name): (1.0, 1.0) for name in "xy"})
        powers = _made_up("xint8", _conv(w=W, b=B), {"x": (-0.3, 0.3), "y": (-0.1, high)}, given)
        assert powers.activations["y"].scale == np.float32(scale)
        assert powers.activations["x"].scale == np.float32(2**-7)  # as given


def test_what_made_up_inputs_leave_open_is_measured() -> None:
    found = target.survey(_conv(w=W, b=B), preset("xint8"))
    given = ChosenRanges({("activation", name): (1.0, 1.0) for name in "xy"})
    assert found.decided == {"y"}
    assert target.missing(found, given) == ()
    assert target.missing(found, given, synthetic=True) == ("y",)


def test_sixteen_bits_have_room_for_twice_what_was_seen_by_whatever_solver() -> None:
    recipe, model = preset("a16w8"), _conv(w=W, b=B)
    stats = TensorStats(1, {name: _record(*ends) for name, ends in RANGES.items()})
    survey = target.survey(model, recipe)
    for solved in (
        ChosenRanges({}),
        ChosenRanges({("activation", k): (high, -low) for k, (low, high) in RANGES.items()}),
    ):
        plan = target.choose(model, survey, stats, recipe, solved)
        for name, (low, high) in RANGES.items():
            assert plan.activations[name].scale == pytest.approx(2 * (high - low) / 65535)
