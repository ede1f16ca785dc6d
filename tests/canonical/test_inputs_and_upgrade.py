from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import helper

from equiquant import equalize, io, quantize
from equiquant.canonical import canonicalize
from equiquant.errors import ModelError
from tests.canonical.support import BN, bn, canonical, feed_for, proto, weights

CONV_BN = f"y = Conv<pads=[1,1,1,1]>(x, w) z = BatchNormalization(y, {BN}) r = Relu(z)"


def listed(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """List initializers as graph inputs too, all of them by default."""
    for tensor in model.graph.initializer:
        if not names or tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def conv_bn(**options: int) -> onnx.ModelProto:
    return proto(CONV_BN, "float[N,3,4,4] x", "float[N,4,4,4] r", weights(w=(4, 3, 3, 3)) | bn(4), **options)


def test_exporter_habit_is_undone() -> None:
    outcome = canonical(listed(conv_bn()))
    assert outcome.ops == ["Conv", "Relu"]
    assert [v.name for v in outcome.model.graph.inputs] == ["x"]
    assert len(outcome.applied("initializer_inputs")) == 5


def test_a_single_listed_initializer_was_listed_on_purpose() -> None:
    outcome = canonical(listed(conv_bn(), "gamma"))
    assert "BatchNormalization" in outcome.ops
    assert [v.name for v in outcome.model.graph.inputs] == ["x", "gamma"]
    assert "only 1 of 5 initializers" in outcome.refused("initializer_inputs")
    assert "not all constants" in outcome.refused("fold_batch_norm")


def test_a_listed_initializer_that_is_data_stays_an_input() -> None:
    nodes = "a = Relu(state) y = Conv(x, w, b) z = Add(y, a)"
    source = listed(proto(nodes, "float[1,3,4,4] x", "float[] z", weights(w=(4, 3, 1, 1), b=(4,), state=(1, 4, 4, 4))))
    outcome = canonical(source)
    assert [v.name for v in outcome.model.graph.inputs] == ["x", "state"]
    assert "reads it as input 0" in outcome.refused("initializer_inputs")
    assert len(outcome.applied("initializer_inputs")) == 2


def test_ir_version_3_inputs_are_constants_even_without_optimization() -> None:
    outcome = canonical(listed(conv_bn(opset=9, ir_version=3)), optimize=False)
    assert outcome.ops == ["Conv", "BatchNormalization", "Relu"]
    assert [v.name for v in outcome.model.graph.inputs] == ["x"]
    assert outcome.model.ir_version >= 7


@pytest.mark.parametrize("ir_version", [3, 4])
@pytest.mark.parametrize("name", ["a8w8", "a16w8", "xint8"])
def test_what_the_converter_adds_hides_no_habit(ir_version: int, name: str) -> None:
    """Every Pad gets an initializer of its own; the converted model has another IR version."""
    nodes = "p = Pad<pads=[0,0,1,1,0,0,1,1]>(x) y = Conv(p, w) q = Pad<pads=[0,0,1,1,0,0,1,1]>(y) r = Conv(q, v)"
    given = weights(w=(4, 3, 3, 3), v=(4, 4, 3, 3))
    source = proto(nodes, "float[1,3,4,4] x", "float[1,4,4,4] r", given, opset=9, ir_version=ir_version)
    outcome = canonical(listed(source))
    assert [v.name for v in outcome.model.graph.inputs] == ["x"]
    quantized = quantize(source, data=[feed_for(source)], preset=name).model
    assert [i.name for i in quantized.graph.input] == ["x"]
    assert {"w_quantized", "v_quantized"} <= {i.name for i in quantized.graph.initializer}


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12])
@pytest.mark.parametrize("optimize", [True, False])
def test_old_opsets_are_raised(opset: int, optimize: bool) -> None:
    outcome = canonical(conv_bn(opset=opset, ir_version=4), optimize=optimize)
    assert outcome.model.graph.opset_imports[""] == 17
    assert outcome.model.ir_version >= 8
    assert any("opset" in d.reason for d in outcome.applied("upgrade"))
    assert ("BatchNormalization" in outcome.ops) is not optimize


def test_without_optimization_the_graph_is_left_alone() -> None:
    outcome = canonical(conv_bn(opset=13, ir_version=7), optimize=False)
    assert outcome.ops == ["Conv", "BatchNormalization", "Relu"]
    assert not outcome.decisions
    assert outcome.model.graph.opset_imports[""] == 13


def test_a_low_ir_version_is_raised_with_a_recent_opset() -> None:
    outcome = canonical(conv_bn(opset=13, ir_version=4))
    assert outcome.model.ir_version == 7
    assert "IR version 4 → 7" in outcome.applied("upgrade")[0].reason


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("opset", "op"), [(9, "Upsample"), (10, "Resize")])
def test_upsampling_keeps_its_coordinates(mode: str, opset: int, op: str) -> None:
    parameters = {"scales": np.array([1, 1, 3, 2], np.float32)}
    nodes = f'[up] y = {op}<mode="{mode}">(x, scales)'
    outcome = canonical(proto(nodes, "float[1,2,3,4] x", "float[1,2,9,8] y", parameters, opset=opset, ir_version=4))
    assert outcome.ops == ["Resize"]
    assert outcome.node("Resize").name == "up"


@pytest.mark.parametrize("scales", [(0.7, 0.7), (0.3, 0.4), (0.5, 1.0)])
def test_a_nearest_pixel_that_is_left_out_is_the_one_behind(scales: tuple[float, float]) -> None:
    parameters = {"scales": np.array([1, 1, *scales], np.float32)}
    nodes = 'y = Resize<mode="nearest">(x, scales)'
    outcome = canonical(proto(nodes, "float[1,2,9,11] x", "float[] y", parameters, opset=10))
    assert outcome.ops == ["Resize"]


@pytest.mark.parametrize("scales", [(2.0, 0.5), (0.5, 2.0)])
def test_one_axis_may_shrink_by_whole_pixels_while_another_grows(scales: tuple[float, float]) -> None:
    parameters = {"scales": np.array([1, 1, *scales], np.float32)}
    nodes = 'y = Resize<mode="nearest">(x, scales)'
    canonical(proto(nodes, "float[1,2,8,12] x", "float[] y", parameters, opset=10))


def test_a_conversion_that_changes_the_function_is_refused() -> None:
    parameters = {"scales": np.array([1, 1, 0.7, 1.7], np.float32)} | weights(w=(4, 3, 3, 3), w2=(2, 4, 1, 1))
    nodes = 'a = Conv(x, w) r = Relu(a) s = Resize<mode="nearest">(r, scales) y = Conv(s, w2)'
    model = proto(nodes, "float[1,3,11,11] x", "float[] y", parameters, opset=10)
    data = np.random.default_rng(0).standard_normal((4, 3, 11, 11), np.float32)
    for face in (equalize, partial(quantize, preset="a8w8")):
        with (
            pytest.raises(ModelError, match=r"from opset 10 to \d+ changes 'y' by .*opset 13 or later"),
            pytest.warns(UserWarning, match="Folding changed 'y'"),
        ):
            face(model, data=data)


GROUP_NORM = "a = Conv(x, w) b = GroupNormalization<num_groups=2>(a, s, t) y = MatMul(b, m)"
GROUP_NORM_SHAPES = {"w": (8, 3, 1, 1), "s": (2,), "t": (2,), "m": (5, 4)}


@pytest.mark.parametrize("name", ["a16w8", "w8"])
def test_group_normalization_gets_a_scale_for_each_channel(name: str) -> None:
    source = proto(GROUP_NORM, "float[N,3,5,5] x", "float[] y", weights(**GROUP_NORM_SHAPES), opset=18)
    data = np.random.default_rng(0).standard_normal((8, 3, 5, 5), np.float32)
    made = quantize(source, data=data, preset=name).model
    expected, result = (io.Runner(m, ("y",), optimize=False).run({"x": data})[0] for m in (source, made))
    assert np.abs(expected - result).max() < 0.03 * np.abs(expected).max()


def test_group_normalization_with_computed_scales_is_not_converted() -> None:
    nodes = f"s = Sigmoid(p) {GROUP_NORM}"
    shapes = {k: v for k, v in GROUP_NORM_SHAPES.items() if k != "s"}
    source = proto(nodes, "float[N,3,5,5] x, float[2] p", "float[] y", weights(**shapes), opset=18)
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, 5, 5), np.float32), "p": np.ones(2, np.float32)}
    with pytest.raises(ModelError, match=r"needs constant scales .* Export the model again with opset 21"):
        quantize(source, data=[feed], preset="a16w8")


def test_large_weights_pass_by_the_converter() -> None:
    source = proto("y = MatMul(x, w)", "float[N,30] x", "float[N,40] y", weights(w=(30, 40)), opset=9, ir_version=4)
    model = io.load_model(source).model
    before = model.graph.initializers["w"].const_value
    canonicalize(model, optimize=False)
    assert model.graph.initializers["w"].const_value is before
    canonical(source)


def test_bodies_are_converted_too() -> None:
    body = """then_branch = t () => (float[] o) { p = Unsqueeze<axes=[0]>(x) o = Softmax<axis=1>(p) },
        else_branch = e () => (float[] o2) { o2 = Unsqueeze<axes=[0]>(x) }"""
    source = proto(
        f"[the_if] y = If (c) <{body}>", "float[2,3,4] x, bool c", "float[1,2,3,4] y", {}, opset=11, ir_version=6
    )
    assert canonical(source).ops == ["If"]


def test_names_survive_the_conversion() -> None:
    nodes = "[first] a = Conv(x, w) [second] b = Softmax<axis=1>(a) [third] y = Relu(b)"
    source = proto(nodes, "float[N,3,2,2] x", "float[N,4,2,2] y", weights(w=(4, 3, 1, 1)), opset=9, ir_version=4)
    outcome = canonical(source, optimize=False)
    assert {"first", "second", "third"} <= {n.name for n in outcome.model.graph}


def test_what_cannot_be_converted_is_refused_clearly() -> None:
    source = proto("y = ImageScaler(x)", "float[1,3,2,2] x", "float[1,3,2,2] y", {}, opset=9, ir_version=4)
    model = io.load_model(source).model
    with pytest.raises(ModelError, match=r"opset 9 and cannot .* Export it again with opset 13 or later") as caught:
        canonicalize(model)
    assert "convert.cc" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_noted_of_inputs_and_outputs_survives_a_new_opset() -> None:
    source = conv_bn(opset=12)
    for end in (source.graph.input[0], source.graph.output[0]):
        helper.set_metadata_props(end, {"unit": end.name})
        end.doc_string = f"about {end.name}"
    graph = canonical(source).model.graph
    assert [(v.metadata_props, v.doc_string) for v in (*graph.inputs, *graph.outputs)] == [
        ({"unit": name}, f"about {name}") for name in ("x", "r")
    ]
