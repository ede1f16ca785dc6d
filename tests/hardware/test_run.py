"""Rewrites in a whole run: placed where the hardware rounds, measured, reported, proven, and run on integers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import Config, ModelQuantizer, PowerOfTwoMethod, QuantizationConfig, QuantType, api, io, quantize
from equiquant.errors import OptionError
from equiquant.hardware.batch_norm_to_conv import BatchNormToConv
from equiquant.hardware.factors import is_hardware_factor, pool_factor
from equiquant.pipeline.measuring.splitting import alternate
from equiquant.pipeline.network import proving, rewriting
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe, preset
from equiquant.report import Report
from equiquant.verify import Reference
from equiquant.verify.integer import integer_agreement
from tests.canonical.support import proto, weights
from tests.qdq.support import noise, parse

NETWORK = """g (float[N,3,14,14] x) => (float[N,6] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    a = LeakyRelu <alpha = 0.1> (c)
    m = AveragePool <kernel_shape = [3, 3]> (a)
    n = BatchNormalization(m, g, b, mean, var)
    r = Relu(n)
    e = ReduceMean <axes = [2, 3]> (r)
    h = Conv(e, w1, b1)
    s = HardSigmoid <alpha = 0.16666667> (h)
    t = Mul(r, s)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = Gemm(f, w2, b2)
}"""
PARAMETERS: dict[str, Any] = {
    "w0": noise(8, 3, 3, 3, seed=1),
    "b0": noise(8, seed=2),
    "g": noise(8, seed=3) ** 2 + 0.5,
    "b": noise(8, seed=4),
    "mean": noise(8, seed=5),
    "var": noise(8, seed=6) ** 2 + 0.5,
    "w1": noise(8, 8, 1, 1, seed=7),
    "b1": noise(8, seed=8),
    "w2": noise(8, 6, seed=9),
    "b2": noise(6, seed=10),
}
DATA = noise(12, 3, 14, 14, seed=11)


def network() -> ir.Model:
    return parse(NETWORK, **PARAMETERS)


def result(**options: Any) -> tuple[ir.Model, Report]:
    done = quantize(network(), data=DATA, preset="xint8", **options)
    return io.load_model(done.model, allow_quantized=True).model, done.report


@pytest.mark.parametrize("cle", [True, False])
def test_every_factor_is_between_the_operator_and_its_rounding(cle: bool) -> None:
    model, report = result(cle=cle)
    factors = [n for n in model.graph if is_hardware_factor(n)]
    hosts = sorted(n.inputs[0].producer().op_type for n in factors)  # type: ignore[union-attr]
    assert hosts == ["AveragePool", "GlobalAveragePool", "GlobalAveragePool", "HardSigmoid"]
    for mul in factors:
        assert [n.op_type for n in mul.outputs[0].consumers()] == ["QuantizeLinear"]
        host = mul.inputs[0].producer()  # type: ignore[union-attr]
        assert host is not None
        assert [n.op_type for n in host.outputs[0].consumers()] == ["Mul"]
        assert host.inputs[0].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
    assert not any(n.op_type == "BatchNormalization" for n in model.graph)
    assert {t["name"] for t in report.tensors} >= {"m", "e", "s", "p", "y"}


def test_the_result_runs_on_integers() -> None:
    model, _ = result()
    found = integer_agreement(model, [{"x": DATA[k : k + 1]} for k in range(4)])
    assert found.agrees
    assert found.float_nodes == {}


def test_the_report_says_what_each_rewrite_did(tmp_path: Path) -> None:
    _, report = result(cle=False)
    rows = {row["rule"]: row for row in report.hardware}
    kept, changed = ("bn_to_conv", "reduce_mean_to_pool"), ("dpu_leaky_relu", "dpu_hard_sigmoid", "dpu_average_pool")
    assert list(rows) == [*kept, *changed, "together"]
    assert all(rows[rule]["sqnr_db"] is None for rule in kept)
    assert rows["dpu_average_pool"]["nodes"] == 3
    assert rows["together"]["nodes"] == 5
    assert 20 < rows["together"]["sqnr_db"] <= min(rows[rule]["sqnr_db"] for rule in changed) + 3
    assert Report.load(report.write(tmp_path)).hardware == report.hardware
    assert "Rewritten for the NPU" in (tmp_path / "report.html").read_text()
    stages = {d.stage for d in report.decisions if d.rule in rows}
    assert stages == {"hardware"}


def test_a_node_that_is_rewritten_twice_is_one() -> None:
    model = proto("c = Conv(x, w) y = Sigmoid(c)", "float[N,3,6,6] x", "float[] y", weights(w=(4, 3, 1, 1)))
    data = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
    rows = {row["rule"]: row["nodes"] for row in quantize(model, data=data, preset="xint8", cle=False).report.hardware}
    assert rows == {"dpu_sigmoid": 1, "dpu_hard_sigmoid": 1, "together": 1}


def test_without_rewrites_nothing_is_rewritten() -> None:
    off = dict.fromkeys(("bn_to_conv", "reduce_mean_to_pool", "split_large_pool", "split_to_slice"), False)
    model, report = result(simulate_dpu=False, cle=False, **off)
    assert report.hardware == ()
    assert any(n.op_type == "ReduceMean" for n in model.graph)
    assert not any(is_hardware_factor(n) for n in model.graph)


def test_other_targets_and_equalize_keep_the_graph() -> None:
    done = quantize(network(), data=DATA, preset="a8w8", cle=False)
    assert done.report.hardware == ()
    assert any(n.op_type == "ReduceMean" for n in done.model.graph.node)
    left = api.equalize(network(), data=DATA)
    assert any(n.op_type == "BatchNormalization" for n in left.model.graph.node)


def test_a_rewrite_that_would_change_the_function_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = BatchNormToConv.check

    def wrong(self: BatchNormToConv, match: Any) -> Any:
        weight, bias = original(self, match)
        return weight * np.float32(1.01), bias

    monkeypatch.setattr(BatchNormToConv, "check", wrong)
    with pytest.warns(UserWarning, match="it was undone"):
        _, report = result(cle=False)
    assert "bn_to_conv" not in {row["rule"] for row in report.hardware}


def test_what_costs_much_is_said() -> None:
    text = "g (float[N,4,6,6] x) => (float[N,4,4,4] y) { c = Conv(x, w)  s = Sigmoid(c)  y = Sub(s, half) }"
    model = parse(text, w=noise(4, 4, 3, 3) * 0.3, half=np.array(0.5, np.float32))
    data = noise(8, 4, 6, 6, seed=1)
    with pytest.warns(UserWarning, match=r"dB of 'y' are left before .* by 'dpu_sigmoid' \(1 nodes\) alone"):
        done = quantize(model, data=data, preset="xint8", cle=False)
    assert done.report.quality is not None
    (output,) = done.report.quality["outputs"]  # compared with the Sigmoid the user gave
    assert output["sqnr_db"] < 20
    exact = quantize(model, data=data, preset="xint8", cle=False, dpu_sigmoid=False)
    assert exact.report.quality is not None
    assert exact.report.quality["outputs"][0]["sqnr_db"] > output["sqnr_db"] + 3


NAMES = {
    "SimulateDPU": "simulate_dpu",
    "ConvertLeakyReluToDPUVersion": "dpu_leaky_relu",
    "ConvertSigmoidToHardSigmoid": "dpu_sigmoid",
    "ConvertHardSigmoidToDPUVersion": "dpu_hard_sigmoid",
    "ConvertAvgPoolToDPUVersion": "dpu_average_pool",
    "ConvertReduceMeanToDPUVersion": "dpu_reduce_mean",
    "ConvertClipToDPUVersion": "dpu_clip",
    "ConvertBNToConv": "bn_to_conv",
    "ConvertReduceMeanToGlobalAvgPool": "reduce_mean_to_pool",
    "SplitLargeKernelPool": "split_large_pool",
    "ConvertSplitToSlice": "split_to_slice",
}


def config(**extra: Any) -> QuantizationConfig:
    return QuantizationConfig(
        calibrate_method=PowerOfTwoMethod.MinMSE,
        activation_type=QuantType.QUInt8,
        enable_npu_cnn=True,
        include_cle=False,
        extra_options=extra,
    )


@pytest.mark.parametrize("name", NAMES)
def test_documented_names_and_defaults(name: str) -> None:
    default = name != "ConvertClipToDPUVersion"
    assert getattr(config().to_recipe(), NAMES[name]) is default
    assert config(**{name: not default}).to_recipe() == config().to_recipe().replace(**{NAMES[name]: not default})


def test_the_softmax_of_the_dpu_is_refused() -> None:
    config(ConvertSoftmaxToDPUVersion=False)
    with pytest.raises(OptionError, match="ConvertSoftmaxToDPUVersion"):
        config(ConvertSoftmaxToDPUVersion=True)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Clip", "PRelu"])
def test_remove_qdq_false_rounds_before_the_activation_too(activation: str) -> None:
    calls = {"Clip": "Clip(c, lo, hi)", "PRelu": "PRelu(c, slope)"}
    call = calls.get(activation, f"{activation}(c)")
    text = f"g (float[1,4,6,6] x) => (float[1,4,4,4] y) {{ c = Conv(x, w)  y = {call} }}"
    constants: dict[str, Any] = {"w": noise(4, 4, 3, 3)}
    if activation == "Clip":
        constants |= {"lo": np.array(0.0, np.float32), "hi": np.array(2.0, np.float32)}
    if activation == "PRelu":
        constants["slope"] = noise(4, 1, 1)
    for remove in (True, False):
        options = config(**{f"RemoveQDQConv{activation}": remove})
        assert options.to_recipe().separate == (() if remove else (activation,))
        quantizer = ModelQuantizer(Config(options))
        done = quantizer.quantize_model(ir.to_proto(parse(text, **constants)), calibration_data_reader=Reader())
        model = io.load_model(done, allow_quantized=True).model
        conv = next(n for n in model.graph if n.op_type == "Conv")
        follower = next(iter(conv.outputs[0].consumers())).op_type
        assert follower == (activation if remove else "QuantizeLinear")
        assert integer_agreement(model, [{"x": noise(1, 4, 6, 6)}]).agrees


class Reader:
    """As existing scripts write them."""

    def __init__(self) -> None:
        self.left = [{"x": noise(1, 4, 6, 6, seed=k)} for k in range(3)]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(OptionError, match="separate"):
        Recipe(separate=("Tanh",))


def test_a_factor_off_is_found_by_the_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = result(cle=False)
    mul = next(n for n in model.graph if is_hardware_factor(n))
    executor = importlib.import_module("equiquant.verify.integer.executor")
    original = executor.exact_of

    def wrong(array: Any) -> Any:
        return original(array * np.float32(1.1) if array.size == 1 else array)

    assert pool_factor(3) == pytest.approx(float(mul.inputs[1].const_value.numpy()))  # type: ignore[union-attr]
    monkeypatch.setattr(executor, "exact_of", wrong)
    assert not integer_agreement(model, [{"x": DATA[:1]}]).agrees


@pytest.mark.shared
def test_a_real_model_is_the_same_on_integers_to_the_last_bit(shared_data: Path) -> None:
    realdata: Any = importlib.import_module("realdata")
    name = "mobilenetv1_025"
    calibration, _ = realdata.load(name, "calib")
    held, _ = realdata.load(name, "eval")
    done = quantize(
        realdata.reference(name), data=[calibration[k : k + 1] for k in range(4)], preset="xint8", cle=False
    )
    assert [(row["rule"], row["nodes"]) for row in done.report.hardware[:2]] == [
        ("dpu_leaky_relu", 27),
        ("dpu_average_pool", 1),
    ]
    assert done.report.hardware[-1]["sqnr_db"] > 25
    model = io.load_model(done.model, allow_quantized=True).model
    found = integer_agreement(model, [{model.graph.inputs[0].name or "": held[:2]}])
    assert found.agrees
    assert found.float_nodes == {}
    assert found.outputs[0].different == 0  # slopes of 26/256 and a mean by shift are exact in float32


def test_the_recipe_of_the_preset_is_what_is_documented() -> None:
    recipe = preset("xint8")
    assert recipe.simulate_dpu
    assert not recipe.dpu_clip
    assert recipe.separate == ()


SWISH = """g (float[N,3,10,10] x) => (float[] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0) sa = Sigmoid(a) xa = Mul(a, sa)
    b = Conv <pads = [1, 1, 1, 1]> (xa, w1, b1) sb = Sigmoid(b) xb = Mul(b, sb)
    c = Conv(xb, w2, b2) sc = Sigmoid(c) xc = Mul(c, sc)
    y = Conv(xc, w3)
}"""


def test_refinement_aims_at_the_function_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """A HardSigmoid errs the same way every time, so that the layers after it can make up for some of it."""
    parameters: dict[str, Any] = {f"w{i}": noise(8, 8 if i else 3, 3, 3, seed=20 + i) * 0.3 for i in range(4)}
    parameters |= {f"b{i}": noise(8, seed=30 + i) * 0.5 for i in range(3)}
    model = parse(SWISH, **parameters)
    data = noise(32, 3, 10, 10, seed=12)

    def reached() -> float:
        quality = quantize(model, data=data, preset="xint8").report.quality
        assert quality is not None
        return float(quality["outputs"][0]["sqnr_db"])

    aimed = reached()
    monkeypatch.setattr(RunState, "approximated", False)
    assert aimed > reached() + 0.5


def test_a_batch_normalization_become_a_layer_is_aimed_at_too() -> None:
    model, report = result(cle=True)
    assert report.refinement["layers"] == sum(n.op_type in ("Conv", "Gemm") for n in model.graph)


@pytest.mark.parametrize("large", ["never", "always", "once its constants are folded"])
def test_it_is_measured_and_proven_on_samples_that_scales_are_chosen_on(
    monkeypatch: pytest.MonkeyPatch, large: str
) -> None:
    if large == "always":
        monkeypatch.setattr(proving, "LARGE", 0)
    if large != "never":
        monkeypatch.setattr(rewriting, "LARGE", 0)
    found: list[Reference] = []

    def kept(*args: Any) -> Any:
        model, reference = rewriting.rewrite_for_npu(*args)
        found.append(reference)
        return model, reference

    monkeypatch.setattr(importlib.import_module("equiquant.pipeline.run"), "rewrite_for_npu", kept)
    _, report = result()
    (reference,) = found
    numbers = [int(np.flatnonzero((feed["x"] == DATA).all(axis=(1, 2, 3)))[0]) for feed in reference.feeds]
    assert numbers == alternate(2 if large == "always" else 4)[0]
    assert report.hardware[-1]["sqnr_db"] > 20
