"""The limits of the NPU: each violated by the best single scales, each kept by the emitted model, none where off."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import quantize as quantize_model
from equiquant import target
from equiquant.errors import OptionError
from equiquant.recipe import LIMITS, Recipe, preset
from tests.qdq.support import Array, noise, parse, quantize, run, sqnr
from tests.target.emitted import checks, violations

X = noise(1, 2, 8, 8)


def _scaled(*factors: float) -> Array:
    return (X * np.array(factors, np.float32).reshape(1, -1, 1, 1)).astype(np.float32)


@dataclass
class Case:
    """A graph x -> y whose best single scales violate `option`, for the input `x`."""

    option: str
    says: str
    text: str
    x: Array
    constants: dict[str, Array] = field(default_factory=dict)

    def model(self) -> ir.Model:
        dims = ",".join(map(str, self.x.shape))
        return parse(f"g (float[{dims}] x) => (float[] y) {{ {self.text} }}", 17, **self.constants)


ONE = np.ones((1, 1, 1, 1), np.float32)
FIRST = np.array([[1.0, 0.0]], np.float32).reshape(1, 2, 1, 1)  # reads the first channel only
SMALL_FIRST = _scaled(1e-3, 30.0)
CASES = [
    Case("AdjustShiftCut", "cut", "y = Conv (x, w)", SMALL_FIRST, {"w": FIRST}),
    Case(
        "AdjustShiftCut",
        "cut",
        "y = Conv (x, w)",
        1 + 0.1 * noise(1, 4096, 1, 1),
        {"w": 1 + 0.1 * noise(1, 4096, 1, 1, seed=1)},
    ),
    Case("AdjustShiftBias", "bias", "y = Conv (x, w, b)", X, {"w": FIRST, "b": np.array([1e6], np.float32)}),
    Case("AdjustShiftBias", "bias", "y = Conv (x, w, b)", X, {"w": FIRST, "b": np.array([1e-9], np.float32)}),
    Case(
        "AdjustShiftBias",
        "bias",
        "t = Conv (x, w, b)  y = LeakyRelu <alpha = 0.1> (t)",
        X,
        {"w": FIRST, "b": np.array([1e-3], np.float32)},
    ),
    Case(
        "AdjustShiftCut",
        "cut",
        "f = Flatten (x)  y = Gemm (f, w)",
        SMALL_FIRST,
        {"w": np.eye(128, 4, dtype=np.float32)},
    ),
    Case(
        "AdjustShiftRead",
        "read",
        "a = Conv (x, w)  b = Conv (x, v)  y = Add (a, b)",
        X,
        {"w": FIRST, "v": FIRST * np.float32(1e4)},
    ),
    Case(
        "AdjustShiftWrite",
        "write",
        "a = Conv (x, w)  b = Conv (x, v)  y = Add (a, b)",
        _scaled(100.0, 100.0),
        {"w": FIRST, "v": FIRST * np.float32(-0.99999)},
    ),
    Case(
        "AdjustShiftWrite",
        "write",
        "a = Conv (x, w)  y = Mul (a, x)",
        np.concatenate([_scaled(1e3, 0.0), _scaled(0.0, 1e3)]),
        {"w": np.array([[0.0, 1.0], [1e-3, 0.0]], np.float32).reshape(2, 2, 1, 1)},
    ),
    Case("AdjustHardSigmoid", "input", "y = HardSigmoid <alpha = 0.16666667> (x)", _scaled(1e3, 1e3)),
    Case(
        "AdjustHardSigmoid",
        "output",
        "t = HardSigmoid <alpha = 0.16666667> (x)  y = Concat <axis = 1> (t, x)",
        _scaled(40.0, 40.0),
    ),
    Case(
        "AlignConcat",
        "positions",
        "a = Conv (x, w)  b = Conv (x, v)  y = Concat <axis = 1> (a, b)",
        X,
        {"w": FIRST, "v": FIRST * np.float32(9)},
    ),
    Case("AlignPool", "positions", "a = Conv (x, w)  y = GlobalAveragePool (a)", X, {"w": FIRST}),
    Case("AlignPool", "positions", "y = AveragePool <kernel_shape = [4, 4]> (x)", X),
    Case(
        "AlignPad",
        "positions",
        "y = Pad (x, pads, fill)",
        X,
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "fill": np.array(99.0, np.float32)},
    ),
]
NAMES = [f"{case.option} {index}" for index, case in enumerate(CASES)]


def _emit(case: Case, recipe: Recipe) -> tuple[onnx.ModelProto, target.QuantPlan, ir.Model]:
    quantized, plan = quantize(case.model(), recipe, [{"x": case.x}])
    return ir.to_proto(quantized), plan, quantized


@pytest.mark.parametrize("method", ["minmse", "nonoverflow"])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_emitted_model_keeps_every_limit(case: Case, method: Any) -> None:
    emitted, plan, _ = _emit(case, preset("xint8", calibration=method))
    assert checks(emitted)
    assert violations(emitted) == []
    assert plan.limits is not None
    assert not plan.limits.broken


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_without_its_option_the_limit_is_violated_and_the_checker_sees_it(case: Case) -> None:
    """The seeded fault of the test above, and the proof that each option does something."""
    for options in ({"limits_off": (case.option,)}, {"npu_limits": False}):
        emitted, plan, _ = _emit(case, preset("xint8", **options))
        assert any(case.says in line for line in violations(emitted))
        assert plan.limits is None or case.option not in plan.limits.violated


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_report_counts_the_violation_and_what_moved(case: Case) -> None:
    _, plan, _ = _emit(case, preset("xint8"))
    assert plan.limits is not None
    assert plan.limits.violated[case.option] >= 1
    assert plan.limits.checked[case.option] >= plan.limits.violated[case.option]
    if not case.option.startswith("Align"):
        mine = [bound for bound in plan.limits.bounds if bound.option == case.option and bound.before != bound.value]
        assert mine
        for bound in mine:
            assert bound.low is None or bound.low <= bound.value
            assert bound.high is None or bound.value <= bound.high
        assert plan.limits.moved
        assert plan.limits.noise_after >= plan.limits.noise_before >= 0


def test_a_pool_takes_the_scale_of_least_noise_for_both_sides() -> None:
    """Neither the input's alone, which rounds the small average away, nor the output's alone, which clips the input."""
    case = Case("AlignPool", "", "a = Conv (x, w)  y = GlobalAveragePool (a)", X, {"w": FIRST})
    off = _emit(case, preset("xint8", limits_off=("AlignPool",)))[1].activations
    on = _emit(case, preset("xint8"))[1].activations
    fine, coarse = float(off["y"].scale), float(off["a"].scale)
    assert fine < coarse
    assert on["a"] == on["y"]
    assert fine <= float(on["y"].scale) <= coarse


def test_nothing_moves_where_nothing_is_violated() -> None:
    case = Case("", "", "a = Conv (x, w)  y = Relu (a)", X, {"w": noise(4, 2, 3, 3, seed=3)})
    on, off = (_emit(case, preset("xint8", npu_limits=limits)) for limits in (True, False))
    assert on[0].SerializeToString() == off[0].SerializeToString()
    assert on[1].limits is not None
    assert not on[1].limits.moved


def test_enforcing_costs_little_where_a_scale_is_free_to_move() -> None:
    case = CASES[6]  # Add: the small input becomes coarser, which the large one hides
    reference = run(case.model(), {"x": case.x})[0]
    on, off = (_emit(case, preset("xint8", npu_limits=limits))[2] for limits in (True, False))
    assert sqnr(reference, run(on, {"x": case.x})[0]) > sqnr(reference, run(off, {"x": case.x})[0]) - 0.5


def test_a_tiny_constant_gives_way_to_what_it_is_added_to() -> None:
    """A transformer's key bias, which a Softmax behind does not feel, stays as small as training began with it."""
    tiny = np.array([3e-6, -2e-6], np.float32).reshape(1, 2, 1, 1)
    case = Case("AdjustShiftRead", "", "a = Conv (x, w)  y = Add (a, c)", X, {"w": noise(2, 2, 1, 1), "c": tiny})
    off = _emit(case, preset("xint8", limits_off=("AdjustShiftRead",)))[1].activations
    _, plan, _ = _emit(case, preset("xint8"))
    assert plan.activations["a"] == off["a"]
    assert plan.limits is not None
    assert [moved.tensor for moved in plan.limits.moved] == ["Add_y[1]"]


# The table, the recipe, the report


def test_the_table_names_documented_options_only() -> None:
    rows = target.HARDWARE["npu_cnn"]
    assert {s.option for s in rows.shifts} | set(rows.aligned.values()) == set(LIMITS)
    assert not any(row.shifts or row.aligned for name, row in target.HARDWARE.items() if name != "npu_cnn")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"activation_type": "uint16"}, "'npu_cnn' has no activation_type='uint16', only int8, uint8"),
        ({"weight_type": "uint8"}, "'npu_cnn' has no weight_type='uint8', only int8"),
        ({"activation_symmetric": False}, "needs activation_symmetric=True"),
        ({"weight_symmetric": False}, "needs weight_symmetric=True"),
        ({"scale_kind": "float", "calibration": "minmax", "bias_type": "int32"}, "needs scale_kind='power_of_two'"),
        ({"limits_off": ("AlignPol",)}, "no limit 'AlignPol'. Did you mean 'AlignPool'"),
    ],
)
def test_what_the_target_cannot_run_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        target.target_of(preset("xint8", **options))


def test_the_rows_follow_the_presets() -> None:
    names = {name: target.target_of(preset(name)).name for name in ("xint8", "a8w8", "a8w8_per_channel", "a16w8")}
    assert names == {"xint8": "npu_cnn", "a8w8": "cpu", "a8w8_per_channel": "cpu_per_channel", "a16w8": "a16w8"}


def test_the_report_of_a_run_has_the_limits(tmp_path: Path) -> None:
    case = CASES[0]
    result = quantize_model(
        ir.to_proto(case.model()), data=[case.x], preset="xint8", cle=False, report_dir=tmp_path / "r"
    )
    found = result.report.to_dict()["target"]
    assert found["target"] == "npu_cnn"
    assert found["violated"] == {"AdjustShiftCut": 1}
    assert type(result.report).load(tmp_path / "r").to_dict()["target"] == found
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Target npu_cnn" in page
    assert "AdjustShiftCut" in page
    assert violations(result.model) == []


def test_limits_that_cannot_be_met_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that contradicts itself: the run goes on with the closest scales, a decision and a warning."""
    row = target.HARDWARE["npu_cnn"]
    cut = row.shifts[0]
    shifts = (*row.shifts, dataclasses.replace(cut, option="AdjustShiftRead", low=300, high=310))
    monkeypatch.setitem(target.HARDWARE, "npu_cnn", dataclasses.replace(row, shifts=shifts))
    model = ir.to_proto(Case("", "", "y = Conv (x, w)", X, {"w": FIRST}).model())
    with pytest.warns(UserWarning, match=r"limits of the target 'npu_cnn' cannot be met together"):
        result = quantize_model(model, data=[X], preset="xint8", cle=False)
    assert result.report.to_dict()["target"]["broken"]
    assert any(d.rule in ("AdjustShiftRead", "AdjustShiftCut") and not d.applied for d in result.report.decisions)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "cle"),
    [
        ("posenet_mnv1_075", False),
        ("ultraface_rfb_320", False),
        ("mobilenetv1_025", True),
        ("kws_dscnn", True),
    ],
)
def test_real_models_keep_every_limit(name: str, cle: bool, shared_data: Path) -> None:
    import realdata

    inputs, _ = realdata.load(name, "calib")
    data = (inputs[k : k + 1] for k in range(4))
    # biases are corrected, which limits bear on; rounding for the inputs would only take time
    result = quantize_model(realdata.reference(name), data=data, cle=cle, weight_rounding="nearest")
    assert checks(result.model) >= 10
    assert violations(result.model) == []


LATE = "g (float[1, 2, 8, 8] x) => (float[] y) { a = Conv (x, w)  t = LeakyRelu <alpha = 0.1> (a)  y = Conv (t, v) }"


@pytest.mark.parametrize("kept", [True, False])
def test_a_bias_that_correction_adds_keeps_within_the_limits(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What corrects a mean is small: alone it would be finer than an accumulator that a LeakyRelu follows."""
    if not kept:
        monkeypatch.setattr("equiquant.refine.run.LateBiases.fit", lambda limits, place, params: params)
    weights = {"w": noise(4, 2, 3, 3, seed=1) * 30, "v": noise(3, 4, 1, 1, seed=2)}
    model = ir.to_proto(parse(LATE, 17, **weights))
    data = [noise(1, 2, 8, 8, seed=k, scale=30.0) for k in range(1, 25)]
    recipe = preset("xint8", cle=False, weight_rounding="nearest", bias_correction=True)
    monkeypatch.setattr("equiquant.pipeline.refinement.refining._choose", lambda trials: trials[-1])
    made = quantize_model(model, data=data, preset=recipe).model
    assert sum(len(node.input) == 3 for node in made.graph.node if node.op_type == "Conv") == 2
    assert (violations(made) == []) == kept
