"""Outputs that cannot be compared number by number, and values that are no tensors of numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import equalize, inspect, quantize
from equiquant.errors import DataError, ModelError
from equiquant.graph.decisions import decided_by
from tests.canonical.support import run

PRESETS = ("a8w8", "xint8")
SAMPLES = np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)
Z = np.zeros((), np.float32)


def network(nodes: list[Any], outputs: list[Any], **constants: Any) -> onnx.ModelProto:
    """Return Conv, Relu, Conv and what `nodes` make of its result `s`, (1, 6, 8, 8)."""
    rng = np.random.default_rng(1)
    constants |= {"w1": rng.standard_normal((8, 3, 3, 3)), "w2": rng.standard_normal((6, 8, 1, 1))}
    opset = constants.pop("opset", 17)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="c1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"], name="r1"),
            helper.make_node("Conv", ["b", "w2"], ["s"], name="c2"),
            *nodes,
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        outputs,
        [
            c if isinstance(c, TensorProto) else numpy_helper.from_array(_single(np.asarray(c)), n)
            for n, c in constants.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def output(kind: int, shape: list[Any], name: str = "y") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def words(*items: str) -> TensorProto:
    return numpy_helper.from_array(np.array(items, dtype=object), "words")


def quality(model: onnx.ModelProto, preset: str, data: np.ndarray = SAMPLES) -> dict[str, float]:
    report = quantize(model, data=data, preset=preset).report.to_dict()
    return {row["name"]: float(row["sqnr_db"]) for row in report["quality"]["outputs"]}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_network_of_classes_alone(preset: str) -> None:
    model = network([helper.make_node("ArgMax", ["s"], ["y"], axis=1)], [output(TensorProto.INT64, [1, 1, 8, 8])])
    (row,) = quantize(model, data=SAMPLES, preset=preset).report.to_dict()["quality"]["outputs"]
    assert row["top1_agreement"] > 0.9
    assert row["sqnr_db"] == pytest.approx(-10 * np.log10(1 - row["top1_agreement"]))
    assert decided_by(ir.from_proto(model)) == {"y": ["s"]}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_number_of_results_that_depends_on_the_numbers(preset: str) -> None:
    nodes = [helper.make_node("Greater", ["s", "zero"], ["m"]), helper.make_node("NonZero", ["m"], ["y"])]
    model = network(nodes, [output(TensorProto.INT64, [4, None])], zero=Z)
    found = quality(model, preset)
    assert list(found) == ["s"], "what the choice is made by takes its place"
    assert found["s"] > 15


@pytest.mark.parametrize("preset", PRESETS)
def test_boxes_that_a_suppression_chose(preset: str) -> None:
    nodes = [
        helper.make_node("Reshape", ["s", "flat"], ["f"]),
        helper.make_node("Split", ["f"], ["p", "q"], axis=1),
        helper.make_node("Concat", ["p", "one"], ["r"], axis=1),
        helper.make_node("Transpose", ["r"], ["boxes"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["boxes", "q", "most", "zero", "zero"], ["chosen"]),
        helper.make_node("Gather", ["chosen", "two"], ["index"], axis=1),
        helper.make_node("Gather", ["boxes", "index"], ["y"], axis=1),
    ]
    constants = {"flat": np.array([1, 6, 64]), "one": np.ones((1, 1, 64)), "most": np.array([20]), "two": np.array(2)}
    model = network(nodes, [output(TensorProto.FLOAT, [1, None, 4])], zero=Z, **constants)
    assert set(quality(model, preset)) == {"boxes", "q"}
    with pytest.warns(UserWarning, match="No calibration data"):
        quantize(model, preset=preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_words_are_compared_for_being_equal(preset: str) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["v"]),
        helper.make_node("Add", ["v", "apart"], ["m"]),
        helper.make_node("ArgMax", ["m"], ["i"], axis=1, keepdims=0),
        helper.make_node("Gather", ["words", "i"], ["y"]),
    ]
    apart = np.array([0, 30, 0, 0, 0, 0], np.float32)  # the largest is told from the others in 8 bits, too
    found = quality(network(nodes, [output(TensorProto.STRING, [1])], words=words(*"abcdef"), apart=apart), preset)
    assert found["y"] > 3


def test_a_constant_of_words_stays_where_it_is() -> None:
    constant = helper.make_node("Constant", [], ["k"], value=words("a", "b"))
    nodes = [constant, helper.make_node("Shape", ["k"], ["n"])]
    model = network(nodes, [output(TensorProto.FLOAT, [1, 6, 8, 8], "s"), output(TensorProto.INT64, [1], "n")])
    assert quality(model, "a8w8")["n"] == np.inf


@pytest.mark.parametrize("preset", PRESETS)
def test_masked_outputs_are_measured_by_what_is_finite(preset: str) -> None:
    nodes = [helper.make_node("Greater", ["s", "zero"], ["m"]), helper.make_node("Where", ["m", "s", "least"], ["y"])]
    model = network(nodes, [output(TensorProto.FLOAT, [1, 6, 8, 8])], zero=Z, least=np.float32(-np.inf))
    report = quantize(model, data=SAMPLES, preset=preset).report.to_dict()
    assert all(np.isfinite(trial["sqnr_db"]) for trial in report["equalization"]["trials"])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "last", [helper.make_node("Mul", ["s", "zero"], ["y"]), helper.make_node("Sqrt", ["s"], ["y"])]
)
def test_an_output_that_says_nothing(preset: str, last: onnx.NodeProto) -> None:
    """Nothing but 0; square roots of negative numbers, whose slope at 0 is infinite."""
    model = network([last], [output(TensorProto.FLOAT, [1, 6, 8, 8])], zero=Z)
    result = quantize(model, data=SAMPLES, preset=preset).model
    scales = [numpy_helper.to_array(i) for i in result.graph.initializer if i.name.endswith("_scale")]
    assert scales
    assert all(np.isfinite(scale).all() for scale in scales)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_sequence_on_the_way(preset: str) -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["s", "three"], ["q"], axis=1),
        helper.make_node("Identity", ["q"], ["same"]),
        helper.make_node("SequenceAt", ["same", "first"], ["y"]),
    ]
    constants = {"three": np.array(3), "first": np.array(1)}
    assert quality(network(nodes, [output(TensorProto.FLOAT, [1, 3, 8, 8])], **constants), preset)["y"] > 15


def test_a_sequence_as_a_result() -> None:
    nodes = [helper.make_node("SplitToSequence", ["s", "parts"], ["y"], axis=1)]
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    model = network(nodes, [sequence], parts=np.array([2, 4]))
    result = equalize(model, data=SAMPLES)
    before, after = (run(m, {"x": SAMPLES[:1]})[0] for m in (model, result.model))
    assert before.shape == (6 * 8 * 8,)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_a_weight_that_a_body_reads_too() -> None:
    branches = {
        name: helper.make_graph(nodes, name, [], [output(TensorProto.FLOAT, [1, 8, 8, 8], f"{name}_y")])
        for name, nodes in {
            "then_branch": [helper.make_node("Conv", ["b", "w"], ["then_branch_y"], pads=[1, 1, 1, 1])],
            "else_branch": [helper.make_node("Identity", ["b"], ["else_branch_y"])],
        }.items()
    }
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["k"]),
        helper.make_node("If", ["k"], ["d"], **branches),
        helper.make_node("Conv", ["d", "w"], ["e"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["e", "d"], ["y"]),
    ]
    weight = np.random.default_rng(2).standard_normal((8, 8, 3, 3))
    model = network(nodes, [output(TensorProto.FLOAT, [1, 8, 8, 8])], zero=Z, w=weight)
    assert quality(model, "xint8")["y"] > 10


def test_a_function_of_the_model_in_an_old_operator_set() -> None:
    nodes = [helper.make_node("Sq", ["s"], ["y"], domain="my")]
    model = network(nodes, [output(TensorProto.FLOAT, [1, 6, 8, 8])], opset=11)
    body = [helper.make_node("ReduceSum", ["a"], ["t"], axes=[2]), helper.make_node("Add", ["a", "t"], ["r"])]
    model.opset_import.append(helper.make_opsetid("my", 1))
    model.functions.append(helper.make_function("my", "Sq", ["a"], ["r"], body, [helper.make_opsetid("", 11)]))
    assert quality(model, "a8w8")["y"] > 15


def test_where_the_optimizer_of_onnxruntime_fails_the_model_comes_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> None:
        raise ModelError("onnxruntime cannot run the model: no such kernel.")

    monkeypatch.setattr("equiquant.pipeline.telling.kernels.kernel_sqnr_db", fails)
    model = network([], [output(TensorProto.FLOAT, [1, 6, 8, 8], "s")])
    with pytest.warns(UserWarning, match=r"graph optimizations fail on it .*ORT_DISABLE_ALL"):
        result = quantize(model, data=SAMPLES, preset="a8w8")
    assert run(result.model, {"x": SAMPLES[:1]})[0].shape == (1, 6, 8, 8)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_average_with_dilations_stays_float(preset: str) -> None:
    """onnxruntime would make an integer pool of it, which it then refuses."""
    nodes = [helper.make_node("AveragePool", ["s"], ["y"], name="pool", kernel_shape=[3, 3], dilations=[2, 2])]
    model = network(nodes, [output(TensorProto.FLOAT, [1, 6, 4, 4])], opset=19)
    result = quantize(model, data=SAMPLES, preset=preset)
    assert run(result.model, {"x": SAMPLES[:1]})[0].shape == (1, 6, 4, 4)


def test_maps_and_sparse_tensors_are_refused_by_name() -> None:
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model = network([], [helper.make_value_info("y", helper.make_sequence_type_proto(kind))])
    with pytest.raises(ModelError, match=r"'y' is a map.*zipmap=False"):
        quantize(model)
    numbers = helper.make_tensor("w3", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [3])
    model = network([], [output(TensorProto.FLOAT, [1, 6, 8, 8], "s")])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(numbers, places, [8]))
    with pytest.raises(ModelError, match="'w3' is sparse"):
        quantize(model)


def test_what_nothing_defines_is_refused_by_name() -> None:
    lost = helper.make_node("Mul", ["s", "lost"], ["y"], name="m")
    with pytest.raises(ModelError, match="'m' reads 'lost', which nothing defines"):
        quantize(network([lost], [output(TensorProto.FLOAT, [1, 6, 8, 8])]))


def test_words_as_an_input_need_data() -> None:
    model = network([helper.make_node("Identity", ["name"], ["y"])], [output(TensorProto.STRING, [1])])
    model.graph.input.append(helper.make_tensor_value_info("name", TensorProto.STRING, [1]))
    model.graph.output.append(output(TensorProto.FLOAT, [1, 6, 8, 8], "s"))
    with pytest.raises(DataError, match="'name' has type string"):
        quantize(model)
    feeds = ({"x": sample[None], "name": np.array(["a"], dtype=object)} for sample in SAMPLES)
    report = quantize(model, data=feeds, preset="a8w8").report.to_dict()
    assert [row["name"] for row in report["quality"]["outputs"]] == ["y", "s"]


def test_numbers_nobody_reads_may_be_anything() -> None:
    model = network([], [output(TensorProto.FLOAT, [1, 6, 8, 8], "s")], idle=np.float32(np.nan))
    assert quality(model, "a8w8")["s"] > 15


def test_what_says_nothing_is_inspected_too() -> None:
    model = network([helper.make_node("Mul", ["s", "zero"], ["y"])], [output(TensorProto.FLOAT, [1, 6, 8, 8])], zero=Z)
    outlook = inspect(model, SAMPLES).outlook
    assert outlook is not None
    assert outlook.sqnr_db == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_behind_a_choice_are_quantized_as_they_are(preset: str) -> None:
    """A second stage looks at what the first one chose, which is more or less in the quantized network."""
    nodes = [
        helper.make_node("Reshape", ["s", "rows"], ["f"]),
        helper.make_node("Slice", ["f", "zeros", "ones", "zeros"], ["score"]),
        helper.make_node("Greater", ["score", "zero"], ["m"]),
        helper.make_node("Squeeze", ["m", "zeros"], ["good"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        helper.make_node("Compress", ["t", "good"], ["chosen"], axis=0),
        helper.make_node("MatMul", ["chosen", "w3"], ["hidden"], name="second"),
        helper.make_node("Relu", ["hidden"], ["h"]),
        helper.make_node("MatMul", ["h", "w4"], ["y"], name="third"),
    ]
    rng = np.random.default_rng(3)
    constants: dict[str, Any] = {"rows": np.array([6, 64]), "zeros": np.array([0]), "ones": np.array([1])}
    constants |= {"w3": rng.standard_normal((6, 8)), "w4": rng.standard_normal((8, 4))}
    model = network(nodes, [output(TensorProto.FLOAT, [None, 4])], zero=Z, **constants)
    report = quantize(model, data=SAMPLES, preset=preset).report.to_dict()
    assert [row["name"] for row in report["quality"]["outputs"]] == ["t", "score"]
    left = {d["where"] for d in report["decisions"] if "depends on the numbers" in d["reason"]}
    assert left == {"second", "third"}
    assert {"second[1]", "third[1]"} <= {row["name"] for row in report["tensors"]}


@pytest.mark.parametrize("preset", PRESETS)
def test_inputs_may_be_scalars(preset: str) -> None:
    """A number chooses how many channels are left: as a list of one it would be another split."""
    nodes = [
        helper.make_node("SplitToSequence", ["s", "n"], ["parts"], axis=1),
        helper.make_node("SequenceAt", ["parts", "zero"], ["y"]),
    ]
    model = network(nodes, [output(TensorProto.FLOAT, [1, None, 8, 8])], zero=np.array(0))
    model.graph.input.append(output(TensorProto.INT64, [], "n"))
    data = [{"x": x[None], "n": np.array(3)} for x in SAMPLES]
    result = quantize(model, data=data, preset=preset).model
    assert run(result, data[0])[0].shape == (1, 3, 8, 8)


def test_a_model_without_inputs_is_refused() -> None:
    nodes = [helper.make_node("Identity", ["zero"], ["y"])]
    constants = [numpy_helper.from_array(Z, "zero")]
    graph = helper.make_graph(nodes, "g", [], [output(TensorProto.FLOAT, [])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for work in (quantize, equalize):
        with pytest.raises(ModelError, match="no inputs"):
            work(model)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_output_may_be_empty(preset: str) -> None:
    """The state that a causal convolution with a kernel of one keeps."""
    nodes = [
        helper.make_node("Slice", ["s", "end", "end", "axis"], ["state"], name="slice"),
        helper.make_node("Relu", ["s"], ["y"], name="r2"),
    ]
    outputs = [output(TensorProto.FLOAT, [1, 6, 8, 8]), output(TensorProto.FLOAT, [1, 6, 8, 0], "state")]
    model = network(nodes, outputs, end=np.array([8]), axis=np.array([3]))
    assert run(quantize(model, data=SAMPLES, preset=preset).model, {"x": SAMPLES[:1]})[1].shape == (1, 6, 8, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_outputs_far_below_1_are_quantized(preset: str) -> None:
    """Gains of outputs below 1e-19 exceed float32; nothing else about them is unusual."""
    small = np.array([1e-21], np.float32)
    model = network(
        [helper.make_node("Mul", ["s", "small"], ["y"])], [output(TensorProto.FLOAT, [1, 6, 8, 8])], small=small
    )
    assert min(quality(model, preset).values()) > 25


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros((6, 1, 3, 8, 8), np.float32), "samples are constant"),
        (np.repeat(SAMPLES[:1, None], 6, axis=0), "are all the same"),
        (np.concatenate([np.zeros((2, 1, 3, 8, 8), np.float32), SAMPLES[:, None]]), None),
    ],
)
def test_samples_that_tell_nothing_are_warned_of(samples: np.ndarray, says: str | None) -> None:
    model = network([helper.make_node("Identity", ["s"], ["y"])], [output(TensorProto.FLOAT, [1, 6, 8, 8])])
    plain: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest", "cle": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantize(model, data=list(samples), preset="a8w8", **plain)
    told = [str(w.message) for w in caught if "calibration samples" in str(w.message)]
    assert [says in text for text in told] == [True] if says else told == []


@pytest.mark.parametrize(("limit", "warned"), [(2, True), (3, False), (None, False)])
def test_a_limit_that_one_feed_exceeds_is_warned_of(limit: int | None, warned: bool) -> None:
    model = network([helper.make_node("Identity", ["s"], ["y"])], [output(TensorProto.FLOAT, [None, 6, 8, 8])])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    plain: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest", "cle": False}
    data = np.random.default_rng(0).standard_normal((4, 3, 3, 8, 8), np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = quantize(model, data=list(data), preset="a8w8", calibration_samples=limit, **plain).report
    assert any("is taken for a batch" in str(w.message) for w in caught) == warned
    assert found.samples == (12 if limit is None else 3)


def test_an_output_that_is_nan_is_warned_of() -> None:
    nodes = [helper.make_node("Sub", ["s", "s"], ["zero"]), helper.make_node("Log", ["minus"], ["y"], name="log")]
    nodes.insert(1, helper.make_node("Sub", ["zero", "one"], ["minus"]))
    model = network(nodes, [output(TensorProto.FLOAT, [1, 6, 8, 8])], one=np.array([1], np.float32))
    with pytest.warns(UserWarning, match="'y' is NaN or infinite throughout"):
        quantize(model, data=SAMPLES, preset="a8w8", cle=False, bias_correction=False, weight_rounding="nearest")


@pytest.mark.parametrize("preset", PRESETS)
def test_what_only_onnxruntime_can_hold_is_not_compared(preset: str) -> None:
    nodes = [
        helper.make_node("Cast", ["s"], ["h"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["f", "w3"], ["y"], name="c3"),
    ]
    w3 = np.random.default_rng(2).standard_normal((2, 6, 1, 1))
    assert quality(network(nodes, [output(TensorProto.FLOAT, [1, 2, 8, 8])], w3=w3), preset)["y"] > 15


@pytest.mark.parametrize("call", [equalize, quantize])
@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E5M2])
def test_an_output_that_only_onnxruntime_can_hold_is_refused_by_name(call: Any, kind: int) -> None:
    nodes = [helper.make_node("Cast", ["s"], ["h"], to=kind)]
    with pytest.raises(ModelError, match=r"The output 'h' is (bfloat16|float8e5m2).* Cast to float"):
        call(network(nodes, [output(kind, [1, 6, 8, 8], "h")], opset=19), data=SAMPLES)
