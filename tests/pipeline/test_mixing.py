"""Mixed precision: the layers that are raised are the harmful ones, and naming them gives the same result."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from equiquant import quantize
from equiquant.errors import DataError, OptionError
from equiquant.recipe import Recipe, preset
from equiquant.report import Report
from equiquant.results import Result
from tests.canonical.support import proto, weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # whether it helps is not what most of these ask

Array = npt.NDArray[Any]
LAYERS = ("first", "harmful", "depthwise", "last")


def _model() -> onnx.ModelProto:
    """Four layers; in `harmful` one row of the weight is a thousand times the others, which one scale rounds away."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((8, 8, 1, 1)) * 0.3
    spread[0] *= 1000
    weights = {
        "w0": rng.standard_normal((8, 3, 3, 3)) * 0.3,
        "w1": spread,
        "w2": rng.standard_normal((8, 1, 3, 3)) * 0.3,
        "w3": rng.standard_normal((5, 8)) * 0.3,
        "damp": np.array([1e-3] + [1.0] * 7).reshape(1, 8, 1, 1),
        "b0": rng.standard_normal(8) * 0.1,
    }
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        s = Softplus (a)
        b = Conv (s, w1)
        t = Softsign (b)
        u = Mul (t, damp)
        c = Conv <pads = [1, 1, 1, 1], group = 8> (u, w2)
        r = Relu (c)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w3)
    }
    """
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    layers = iter(LAYERS)
    for node in model.graph.node:
        node.name = next(layers) if node.op_type in ("Conv", "Gemm") else node.op_type.lower()
    onnx.checker.check_model(model, full_check=True)
    return model


def _data(count: int = 16) -> Array:
    return np.random.default_rng(1).standard_normal((count, 1, 3, 8, 8)).astype(np.float32)


def _quantize(preset: str | Recipe = "a8w8", **options: Any) -> Result:
    # refinement comes after the choice; what else is off depends on the machine, or only takes time
    plain = {"bias_correction": False, "weight_rounding": "nearest", "avoid_overflow": False, "cle": False}
    return quantize(_model(), data=list(_data()), preset=preset, **{**plain, **options})


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ONNX type of every QuantizeLinear's zero point, by the tensor it rounds."""
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    return {n.input[0]: kinds[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"}


def _weights(model: onnx.ModelProto) -> dict[str, bool]:
    """Return, by layer, whether its weight is stored as integers."""
    makers = {n.output[0]: n.op_type for n in model.graph.node}
    return {n.name: makers.get(n.input[1]) == "DequantizeLinear" for n in model.graph.node if n.name in LAYERS}


def _bytes(result: Result) -> bytes:
    model = onnx.ModelProto.FromString(result.model.SerializeToString())
    del model.metadata_props[:]  # the recipe differs
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", ["xint8", "a8w8", "a8w8_per_channel", "a16w8"])
def test_the_harmful_layer_stays_float(name: str) -> None:
    result = _quantize(name, keep_float=1, cle=True)
    mixed = result.report.mixed_precision
    worst = min(mixed["layers"], key=lambda row: row["measured_float_db"])["layer"]
    assert mixed["float"] == [worst]
    assert {row["precision"] for row in mixed["layers"]} == {"float", "int16" if name == "a16w8" else "int8"}
    if name == "a8w8":
        assert worst == "harmful"
    assert mixed["sqnr_db"] > mixed["sqnr_before_db"]
    assert _weights(result.model) == {layer: layer != worst for layer in LAYERS}
    (decision,) = [d for d in result.report.decisions if d.where == worst and d.rule == "keep_float"]
    assert "mixed precision" in decision.reason
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("name", ["xint8", "a8w8"])
def test_the_pool_before_a_float_classifier_stays_float(name: str) -> None:
    """Of means a thousandth of the largest one, one scale leaves nothing; the classifier needs the small ones."""
    rng = np.random.default_rng(0)
    size = np.array([1000.0] + [1.0] * 7)
    model = _small(
        "a = Conv (x, v) [pool] p = GlobalAveragePool (a) f = Flatten (p) [last] y = Gemm (f, w)",
        v=rng.standard_normal((8, 3, 1, 1)) * size.reshape(-1, 1, 1, 1),
        w=rng.standard_normal((8, 5)) / size.reshape(-1, 1),
    )
    result = quantize(model, data=list(_data()), preset=name, keep_float=1, cle=False)
    assert result.report.mixed_precision["float"] == ["last"]
    assert not {"p", "f"} & set(_types(result.model))
    (decision,) = [d for d in result.report.decisions if d.where == "pool" and d.rule == "keep_float"]
    assert decision.reason == "its result is only read by excluded layers, in float"


@pytest.mark.parametrize("options", [{"keep_float": 2}, {"int16": 2}, {"keep_float": 1, "int16": 1}])
@pytest.mark.parametrize("name", ["xint8", "a8w8"])
def test_naming_the_chosen_layers_gives_the_same_model(name: str, options: dict[str, Any]) -> None:
    # without equalization, which would be solved for other layers, and without ranges chosen for the whole network
    base = preset(name, cle=False) if name == "xint8" else preset(name, cle=False, calibration="minmax")
    chosen = _quantize(base.replace(**options))
    mixed = chosen.report.mixed_precision
    fused = {"depthwise": ("depthwise", "relu")}
    excluded = tuple(node for layer in mixed["float"] for node in fused.get(layer, (layer,)))
    assert len(mixed["float"]) == options.get("keep_float", 0)
    assert len(mixed["int16"]) == options.get("int16", 0)
    named = base.replace(nodes_to_exclude=excluded, nodes_to_int16=tuple(mixed["int16"]))
    assert _bytes(_quantize(named)) == _bytes(chosen)


@pytest.mark.parametrize(("name", "kind"), [("xint8", onnx.TensorProto.INT16), ("a8w8", onnx.TensorProto.UINT16)])
def test_int16_widens_what_the_layer_reads_and_writes(name: str, kind: int) -> None:
    result = _quantize(name, nodes_to_int16=("depthwise",))
    narrow = onnx.TensorProto.UINT8
    types = Counter(_types(result.model).values())
    assert set(types) == {kind, narrow}
    model = result.model
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version >= 21
    (layer,) = [n for n in model.graph.node if n.name == "depthwise"]
    makers = {n.output[0]: n for n in model.graph.node}
    types_of = {t.name: t.data_type for t in model.graph.initializer}
    assert types_of[makers[layer.input[0]].input[2]] == kind
    assert types_of[makers[layer.input[1]].input[2]] == onnx.TensorProto.INT8
    (reader,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0].startswith("r")]
    assert types_of[reader.input[2]] == kind


@pytest.mark.parametrize("options", [{"keep_float": 2}, {"target_sqnr": 30.0}])
def test_an_output_that_is_exact_cannot_pay_for_one_that_is_lost(options: dict[str, Any]) -> None:
    given = weights(v=(4, 3, 1, 1), u=(4, 4, 1, 1), w=(4, 4, 1, 1))
    given["u"][0] /= 100  # a channel that one scale rounds away, and the last layer wants
    given["w"][:, 0] = 100
    nodes = "[trunk] a = Conv(x, v) y = Relu(a) [before] b = Conv(y, u) t = Tanh(b) [lost] z = Conv(t, w)"
    model = proto(nodes, "float[N,3,6,6] x", "float[] y, float[] z", given)
    samples = np.random.default_rng(1).standard_normal((16, 3, 6, 6)).astype(np.float32)
    plain: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest", "cle": False}
    report = quantize(model, data=samples, preset="a8w8", **plain, **options).report
    mixed = report.mixed_precision
    assert set(mixed["float"]) == {"before", "lost"}
    assert mixed["sqnr_before_db"] < 15
    assert report.quality is not None
    assert all(row["sqnr_db"] > 27 for row in report.quality["outputs"])


@pytest.mark.parametrize(("name", "raise_to"), [("a8w8", "float"), ("a8w8_per_channel", "int16")])
def test_target_sqnr_raises_no_more_layers_than_it_needs(name: str, raise_to: str) -> None:
    before = _quantize(name, keep_float=1).report.mixed_precision["sqnr_before_db"]
    nothing = _quantize(name, target_sqnr=max(before - 1, 1e-9), raise_to=raise_to).report.mixed_precision
    if before > 0:
        assert (nothing["float"], nothing["int16"], nothing["sqnr_db"]) == ([], [], before)
    goal = before + 11
    mixed = _quantize(name, target_sqnr=goal, raise_to=raise_to).report.mixed_precision
    raised = mixed[raise_to]
    assert mixed["sqnr_db"] >= goal
    assert raised
    if len(raised) > 1:
        option: dict[str, Any] = {"keep_float" if raise_to == "float" else "int16": len(raised) - 1}
        assert _quantize(name, **option).report.mixed_precision["sqnr_db"] < goal


def test_a_raise_that_does_not_help_is_told() -> None:
    with pytest.warns(UserWarning, match="Raising 4 of 4 layers does not help"):
        _quantize(int16=4)


def test_refinement_works_on_the_layers_that_are_left() -> None:
    result = _quantize(keep_float=1, int16=1, bias_correction=True, weight_rounding="optimal")
    assert not _weights(result.model)["harmful"]
    assert result.report.refinement["trials"]
    weight = next(t for t in _model().graph.initializer if t.name == "w1")
    kept = [t for t in result.model.graph.initializer if list(t.dims) == [8, 8, 1, 1]]
    assert [t.data_type for t in kept] == [weight.data_type]


def test_runs_repeat_exactly() -> None:
    assert _bytes(_quantize("a8w8_per_channel", keep_float=1, int16=1)) == _bytes(
        _quantize("a8w8_per_channel", keep_float=1, int16=1)
    )


def test_excluded_layers_are_not_counted() -> None:
    result = _quantize(keep_float=1, nodes_to_exclude=("harmful",))
    rows = result.report.mixed_precision["layers"]
    assert [row["layer"] for row in rows] == ["first", "depthwise", "last"]
    assert "harmful" not in result.report.mixed_precision["float"]
    assert not _weights(result.model)["harmful"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep_float": -1}, "at least 0"),
        ({"int16": True}, "must be an int"),
        ({"keep_float": 4}, "would leave nothing to quantize: the options leave 4 layers"),
        ({"keep_float": 3, "nodes_to_exclude": ("first",)}, "the options leave 3 layers"),
        ({"int16": 5}, "int16=5: the options leave 4 layers"),
        ({"int16": 3, "keep_float": 2}, "int16=3 and keep_float=2: the options leave 4 layers"),
        ({"target_sqnr": 20.0, "keep_float": 1}, "either target_sqnr, .* or keep_float, not both"),
        ({"target_sqnr": 20.0, "int16": 1}, "either target_sqnr, .* or int16, not both"),
        ({"target_sqnr": 199.0}, "target_sqnr=199.0 is out of reach: with 3 of 4 layers float"),
        ({"target_sqnr": 199.0}, r"Ask for less, or try raise_to='int16'\."),
        ({"target_sqnr": 199.0, "nodes_to_exclude": ("first", "depthwise", "last")}, "no layer .* raise_to='int16'"),
        ({"target_sqnr": 199.0, "activation_type": "int16"}, r"Ask for less\.$"),
        ({"target_sqnr": 199.0, "raise_to": "int16"}, "16-bit activations in every layer.* try raise_to='float'"),
        ({"target_sqnr": -3}, "above 0 and below 200"),
        ({"target_sqnr": "high"}, "must be a float"),
        ({"raise_to": "int16"}, "give target_sqnr as well"),
        ({"raise_to": "int32"}, "must be one of 'float', 'int16'"),
        ({"int16": 1, "activation_type": "uint16"}, "All activations are uint16 already"),
        ({"nodes_to_int16": ("harmfull",)}, "matches no node of the model. Did you mean 'harmful'"),
        ({"nodes_to_int16": ("relu",)}, "'relu' names no quantized Conv"),
        ({"nodes_to_int16": ("last",), "nodes_to_exclude": ("last",)}, "'last' names no quantized Conv"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        _quantize(**options)


def test_what_was_not_held_back_is_not_said_to_be() -> None:
    one = list(_data(1))
    report = quantize(_model(), data=one, preset="a8w8", keep_float=1).report
    assert report.mixed_precision["held"] is False
    page = report.to_html()
    section = page[page.index("Mixed precision") : page.index("With them")]
    assert "on the calibration samples, with its" in section
    assert "held-back" not in section
    with pytest.raises(OptionError, match="dB are left on the calibration samples"):
        quantize(_model(), data=one, preset="a8w8", target_sqnr=199.0)


def _small(nodes: str, **weights: Array) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 8, 8] x) => (float[] y) {{ {nodes} }}
    """)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    return model


def test_a_neighbour_that_reads_and_writes_16_bits_as_well_is_told() -> None:
    """What two layers read is one tensor, and what a Concat joins has one type."""
    rng = np.random.default_rng(0)
    model = _small(
        "[one] a = Conv (x, v) [two] b = Conv (x, w) c = Concat <axis = 1> (a, b) y = GlobalAveragePool (c)",
        v=rng.standard_normal((4, 3, 1, 1)),
        w=rng.standard_normal((4, 3, 1, 1)),
    )
    mixed = quantize(model, data=list(_data()), preset="xint8", int16=1).report.mixed_precision
    assert len(mixed["int16"]) == 1
    assert {row["layer"]: row["precision"] for row in mixed["layers"]} == {"one": "int16", "two": "int16"}


@pytest.mark.parametrize(
    ("data", "told"), [(list(_data()), "8 held-back samples"), (None, "made-up inputs")], ids=["data", "none"]
)
@pytest.mark.parametrize("raise_to", ["float", "int16"])
def test_a_target_without_a_layer_to_raise_is_refused(data: Any, told: str, raise_to: str) -> None:
    says = f"out of reach: with no layer that can be raised, .* are left on {told}, .* Ask for less\\.$"
    with pytest.raises(OptionError, match=says):
        quantize(
            _small("t = Add (x, x) y = Mul (t, x)"), data=data, preset="xint8", target_sqnr=199.0, raise_to=raise_to
        )


def test_a_reversed_sensitivity_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from equiquant.pipeline.refinement import mixing
    from equiquant.pipeline.refinement.weighing import Weighing

    class Reversed(Weighing):
        def _measured(self, layer: Any, precision: str) -> float:
            return -super()._measured(layer, precision)

    monkeypatch.setattr(mixing, "Weighing", Reversed)
    assert _quantize(keep_float=1).report.mixed_precision["float"] != ["harmful"]


def test_the_report_shows_every_layer_and_survives_a_round_trip(tmp_path: Path) -> None:
    report = _quantize(keep_float=1, int16=1).report
    report.write(tmp_path)
    assert Report.load(tmp_path).mixed_precision == report.to_dict()["mixed_precision"]
    page = (tmp_path / "report.html").read_text()
    for word in ("Mixed precision", "1 of 4 layers float", "1 of 4 layers with int16 activations", *LAYERS):
        assert word in page, word


@pytest.mark.shared
def test_one_float_layer_lifts_a_real_model(shared_data: Path) -> None:
    import realdata

    inputs, _ = realdata.load("mobilenetv1_025", "calib")
    plain: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest"}
    result = quantize(
        realdata.reference("mobilenetv1_025"), data=list(inputs[:6, None]), preset="a8w8", keep_float=1, **plain
    )
    mixed = result.report.mixed_precision
    assert mixed["sqnr_db"] > mixed["sqnr_before_db"] + 1
    assert mixed["share_of_multiplications"]["float"] < 0.05


def _mixed(**options: Any) -> dict[str, Any]:
    found: dict[str, Any] = _quantize(**options).report.to_dict()["mixed_precision"]
    return found


def test_a_target_that_refinement_reaches_raises_nothing() -> None:
    refining = {"bias_correction": True, "weight_rounding": "optimal"}
    with_it, without = (_mixed(target_sqnr=1.0, **options)["sqnr_before_db"] for options in (refining, {}))
    assert with_it > without
    between = (with_it + without) / 2
    assert _mixed(target_sqnr=between, **refining)["float"] == []
    assert _mixed(target_sqnr=between)["float"] != []


def _without_relu6(name: str, **options: Any) -> Report:
    """Quantize a network whose ReLU6 cuts off much, with Relu in its place."""
    given = weights(v=(8, 3, 3, 3), u=(8, 8, 3, 3), w=(5, 8)) | {
        "lo": np.array(0, np.float32),
        "hi": np.array(6, np.float32),
    }
    given["v"], given["u"] = given["v"] * np.float32(0.7), given["u"] * np.float32(0.7)
    nodes = """
        a = Conv <pads = [1, 1, 1, 1]> (x, v) r = Clip (a, lo, hi) b = Conv <pads = [1, 1, 1, 1]> (r, u)
        s = Clip (b, lo, hi) p = GlobalAveragePool (s) f = Flatten (p) y = Gemm <transB = 1> (f, w)
    """
    model = proto(nodes, "float[N,3,8,8] x", "float[] y", given)
    return quantize(model, data=list(_data()), preset=name, replace_clip6_relu=True, **options).report


@pytest.mark.parametrize("name", ["a8w8", "xint8"])
def test_what_changed_the_function_is_made_good_as_in_the_result(name: str) -> None:
    trials = {trial["name"]: trial["sqnr_db"] for trial in _without_relu6(name).refinement["trials"]}
    assert max(trials.values()) > trials["none"] + 6
    assert _without_relu6(name, target_sqnr=max(trials.values()) - 1).mixed_precision["float"] == []
    assert _without_relu6(name, keep_float=1).mixed_precision["sqnr_before_db"] > trials["none"] + 6


def test_what_changed_the_function_is_no_layers_harm() -> None:
    mixed = _without_relu6("a8w8", keep_float=1, int16=1).mixed_precision
    for row in mixed["layers"]:
        assert min(row["measured_float_db"], row["measured_int16_db"]) > mixed["sqnr_before_db"] + 20


def test_statistics_alone_measure_nothing(tmp_path: Path) -> None:
    file = tmp_path / "some.stats"
    _quantize(calibration_cache=file)
    with pytest.raises(DataError, match="Give the data too"):
        quantize(_model(), preset="a8w8", cle=False, calibration_cache=file, target_sqnr=20.0)
    with pytest.warns(UserWarning, match="holds no samples"):
        quantize(_model(), preset="a8w8", cle=False, calibration_cache=file, keep_float=1)


def test_layers_that_were_given_16_bits_are_told_of() -> None:
    mixed = _mixed(keep_float=1, nodes_to_int16=("first",))
    assert {row["layer"]: row["precision"] for row in mixed["layers"]}["first"] == "int16"
    assert mixed["int16"] == ["first"]
    assert mixed["share_of_multiplications"]["int16"] > 0
