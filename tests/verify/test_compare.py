import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant.calibrate.data.feeds import CountedFeed
from equiquant.errors import DataError, ModelError
from equiquant.verify import Reference, compared_values
from equiquant.verify import pairs as module
from equiquant.verify.compare import Comparison, TensorQuality, compare_models

Array = npt.NDArray[Any]

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 3)).astype(np.float32)  # (in, out)


def model(
    nodes: Sequence[tuple[str, list[str], list[str]]],
    initializers: Mapping[str, Any],
    *,
    outputs: Sequence[str] = ("y",),
    inputs: Sequence[str] = ("x",),
) -> ir.Model:
    graph = helper.make_graph(
        [helper.make_node(*n[:3], name=n[2][0] + "_node") for n in nodes],
        "g",
        [helper.make_tensor_value_info(i, TensorProto.FLOAT, ["N", 4]) for i in inputs],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in initializers.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.from_proto(proto)


def float_model(weight: Array = WEIGHT) -> ir.Model:
    return model(
        [("MatMul", ["x", "w"], ["h"]), ("Relu", ["h"], ["r"]), ("MatMul", ["r", "v"], ["y"])],
        {"w": weight, "v": np.eye(3, dtype=np.float32)},
    )


def quantized_model(scale: float = 2**-4, weight: Array = WEIGHT) -> ir.Model:
    return model(
        [
            ("MatMul", ["x", "w"], ["h"]),
            ("Relu", ["h"], ["r"]),
            ("QuantizeLinear", ["r", "s", "z"], ["r_QuantizeLinear_Output"]),
            ("DequantizeLinear", ["r_QuantizeLinear_Output", "s", "z"], ["r_DequantizeLinear_Output"]),
            ("MatMul", ["r_DequantizeLinear_Output", "v"], ["y"]),
        ],
        {"w": weight, "v": np.eye(3, dtype=np.float32), "s": np.float32(scale), "z": np.uint8(0)},
    )


def feeds(count: int = 6, batch: int = 1) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((batch, 4)).astype(np.float32)} for _ in range(count)]


def by_name(comparison: Comparison) -> dict[str, TensorQuality]:
    return {t.name: t for t in comparison.tensors}


def test_figures_equal_those_computed_by_hand() -> None:
    data = feeds()
    comparison = compare_models(float_model(), quantized_model(), data)
    x = np.concatenate([f["x"] for f in data])
    r = np.maximum(x @ WEIGHT, 0).astype(np.float64)
    q = np.clip(np.rint(r * 16), 0, 255) / 16
    (output,) = comparison.outputs
    assert comparison.samples == 6
    assert output.error.sqnr_db == pytest.approx(10 * math.log10((r**2).sum() / ((r - q) ** 2).sum()), abs=1e-3)
    assert output.error.max_abs_error == pytest.approx(np.abs(r - q).max(), abs=1e-6)
    assert output.top1_agreement == pytest.approx(np.mean(r.argmax(1) == q.argmax(1)))
    assert output.error.cosine == pytest.approx((r * q).sum() / np.sqrt((r**2).sum() * (q**2).sum()))
    tensors = by_name(comparison)
    assert tensors["r"].compared == "r_DequantizeLinear_Output"
    assert tensors["r"].error.sqnr_db == pytest.approx(output.error.sqnr_db)
    assert tensors["h"].compared == "h"
    assert tensors["h"].error.sqnr_db == math.inf
    assert set(tensors) == {"h", "r"}
    assert comparison.tensors[0].name == "r"
    assert comparison.order == ("h", "r")


def test_what_only_fills_up_a_static_batch_is_not_compared() -> None:
    x = np.concatenate([feed["x"] for feed in feeds()])
    filled = [CountedFeed({"x": x[:4]}, 4), CountedFeed({"x": x[[4, 5, 4, 5]]}, 2, filling=2)]
    plain = [{"x": x[:4]}, {"x": x[4:]}]
    found, wanted = (compare_models(float_model(), quantized_model(), given) for given in (filled, plain))
    assert found.samples == 6
    mine, theirs = ([part.error for parts in (c.outputs, c.tensors) for part in parts] for c in (found, wanted))
    assert [error.count for error in mine] == [error.count for error in theirs]
    assert [error.sqnr_db for error in mine] == pytest.approx([error.sqnr_db for error in theirs])


def test_batches_and_single_samples_agree() -> None:
    x = np.concatenate([f["x"] for f in feeds()])
    one = compare_models(float_model(), quantized_model(), feeds())
    batch = compare_models(float_model(), quantized_model(), [{"x": x[:4]}, {"x": x[4:]}])
    assert batch.samples == one.samples == 6
    assert batch.outputs[0].error.sqnr_db == pytest.approx(one.outputs[0].error.sqnr_db)
    assert batch.outputs[0].top1_agreement == one.outputs[0].top1_agreement


def test_a_quantized_input_is_compared_too() -> None:
    quantized = model(
        [
            ("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            ("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            ("MatMul", ["xd", "w"], ["h"]),
            ("Relu", ["h"], ["y"]),
        ],
        {"w": WEIGHT, "s": np.float32(0.25), "z": np.int8(0)},
    )
    reference = model([("MatMul", ["x", "w"], ["h"]), ("Relu", ["h"], ["y"])], {"w": WEIGHT})
    comparison = compare_models(reference, quantized, feeds())
    x = np.concatenate([f["x"] for f in feeds()]).astype(np.float64)
    noise = x - np.rint(x * 4) / 4
    tensor = by_name(comparison)["x"]
    assert (tensor.op_type, tensor.compared) == ("Input", "xd")
    assert tensor.error.sqnr_db == pytest.approx(10 * math.log10((x**2).sum() / (noise**2).sum()), abs=1e-3)


ROUNDED_INPUT = [("QuantizeLinear", ["x", "s", "z"], ["xq"]), ("DequantizeLinear", ["xq", "s", "z"], ["xd"])]
GRID = {"s": np.float32(0.25), "z": np.int8(0)}


@pytest.mark.parametrize("tensors", [True, False])
def test_outputs_that_all_vary_in_size_leave_nothing_of_the_float_model_to_run(tensors: bool) -> None:
    """What a mask selects of an input: the input is compared with itself rounded, if anything is."""
    kept = {"mask": np.array([True, False, True])}
    reference = model([("Compress", ["x", "mask"], ["c"]), ("Relu", ["c"], ["y"])], kept)
    rounded = [*ROUNDED_INPUT, ("Compress", ["xd", "mask"], ["c"]), ("Relu", ["c"], ["y"])]
    comparison = compare_models(reference, model(rounded, kept | GRID), feeds(), tensors=tensors)
    assert (comparison.samples, comparison.outputs) == (6, ())
    assert [t.name for t in comparison.tensors] == (["x"] if tensors else [])


def test_a_group_may_be_nothing_but_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*names: str) -> list[tuple[str, list[str], list[str]]]:
        return [("Add", list(names), ["a"]), ("Relu", ["a"], ["y"])]

    other = [
        (op, [i.replace("x", "v") for i in ins], [o.replace("x", "v") for o in outs]) for op, ins, outs in ROUNDED_INPUT
    ]
    quantized = model([*ROUNDED_INPUT, *other, *read("xd", "vd")], GRID, inputs=("x", "v"))
    pairs = [feed | {"v": feed["x"] + 1} for feed in feeds()]
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    comparison = compare_models(model(read("x", "v"), {}, inputs=("x", "v")), quantized, pairs)
    assert comparison.order == ("x", "v", "a")


@pytest.mark.parametrize("fault", ["doubled weight", "dropped channel", "coarse scale"])
def test_seeded_faults_are_seen(fault: str) -> None:
    sound = compare_models(float_model(), quantized_model(), feeds()).outputs[0]
    weight, scale = WEIGHT.copy(), 2**-4
    if fault == "doubled weight":
        weight *= 2
    elif fault == "dropped channel":
        weight[:, 1] = 0
    else:
        scale = 1.0
    faulty = compare_models(float_model(), quantized_model(scale, weight), feeds()).outputs[0]
    assert faulty.error.sqnr_db < sound.error.sqnr_db - 10
    assert faulty.error.max_abs_error > 4 * sound.error.max_abs_error


def test_rescaled_channels_are_no_error_of_a_tensor_but_are_one_of_an_output() -> None:
    gains = np.asarray([0.25, 1, 8], np.float32)
    equalized = model(
        [("MatMul", ["x", "w"], ["h"]), ("Relu", ["h"], ["r"]), ("MatMul", ["r", "v"], ["y"])],
        {"w": WEIGHT * gains, "v": np.diag(1 / gains)},
    )
    comparison = compare_models(float_model(), equalized, feeds())
    assert comparison.outputs[0].error.sqnr_db > 120
    assert by_name(comparison)["r"].error.sqnr_db < 6
    assert by_name(comparison)["r"].error.aligned_sqnr_db > 120
    broken = compare_models(float_model(), quantized_model(weight=WEIGHT * gains), feeds())
    assert broken.outputs[0].error.sqnr_db < 6


def test_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare_models(float_model(), quantized_model(), feeds())
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    seen: list[int] = []
    split = compare_models(float_model(), quantized_model(), iter(feeds()), progress=seen.append)
    assert split.to_dict() == whole.to_dict()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_outputs_only() -> None:
    assert compare_models(float_model(), quantized_model(), feeds(), tensors=False).tensors == ()


def test_a_float_model_whose_outputs_are_known_does_not_run() -> None:
    known = Reference.of(float_model(), feeds())
    ran = compare_models(float_model(), quantized_model(), feeds(), tensors=False)
    assert compare_models(float_model(), quantized_model(), feeds(), tensors=False, expected=known) == ran
    other = float_model(2 * WEIGHT)
    assert compare_models(other, quantized_model(), feeds(), tensors=False, expected=known) == ran
    assert compare_models(other, quantized_model(), feeds(), tensors=False) != ran


def test_what_outputs_were_decided_by_is_known_of_a_float_model_that_has_changed() -> None:
    def selecting(weight: Array, *rounding: tuple[str, list[str], list[str]]) -> ir.Model:
        kept = {"w": weight, "mask": np.array([True, False, True])} | GRID
        nodes = [*rounding, ("MatMul", ["xd" if rounding else "x", "w"], ["h"]), ("Compress", ["h", "mask"], ["y"])]
        return model(nodes, kept)

    quantized = selecting(WEIGHT, *ROUNDED_INPUT)
    known = Reference.of(selecting(WEIGHT), feeds(), compared_values(selecting(WEIGHT)))
    ran = compare_models(selecting(WEIGHT), quantized, feeds(), tensors=False)
    assert [o.name for o in ran.outputs] == ["h"]
    other = selecting(2 * WEIGHT)
    assert compare_models(other, quantized, feeds(), tensors=False, expected=known) == ran


def test_top1_only_for_classes() -> None:
    column = {"w": WEIGHT[:, :1]}
    single = model([("MatMul", ["x", "w"], ["y"])], column)
    assert compare_models(single, single, feeds()).outputs[0].top1_agreement is None


def test_different_interfaces_are_refused() -> None:
    other_output = model([("Relu", ["x"], ["z"])], {}, outputs=("z",))
    with pytest.raises(ModelError, match="different outputs: y in the float model, z in the quantized"):
        compare_models(float_model(), other_output, feeds())
    other_input = model([("Relu", ["u"], ["y"])], {}, inputs=("u",))
    with pytest.raises(ModelError, match=r"different inputs: x .* in the float model, u .* in the quantized"):
        compare_models(float_model(), other_input, feeds())
    longer = float_model()
    longer.graph.inputs[0].shape = ir.Shape(["N", 5])
    with pytest.raises(ModelError, match=r"different inputs: x \[N, 4\] in the float model, x \[N, 5\] in the"):
        compare_models(float_model(), longer, feeds())
    narrower = model([("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT[:, :2]})
    with pytest.raises(ModelError, match=r"output 'y' has shape \(1, 3\) in the float model, \(1, 2\)"):
        compare_models(float_model(), narrower, feeds())


def test_no_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        compare_models(float_model(), quantized_model(), [])


def test_to_dict_lists_the_worst_first_with_their_place() -> None:
    data = compare_models(float_model(), quantized_model(), feeds()).to_dict()
    assert [t["name"] for t in data["tensors"]] == ["r", "h"]
    assert [t["position"] for t in data["tensors"]] == [1, 0]
    assert set(data["outputs"][0]) == {
        *("name", "count", "sqnr_db", "max_abs_error", "cosine", "top1_agreement", "chosen", "parts"),
        *("varying_db", "median_db", "quartile_db", "found_db", "unmasked_db"),
    }


@pytest.mark.parametrize(("apart", "told"), [(0.1, True), (2.0, False)])
def test_samples_behind_a_sigmoid_are_told_apart_where_all_find_something(apart: float, told: bool) -> None:
    nodes = [("MatMul", ["x", "w"], ["h"]), ("Sigmoid", ["h"], ["y"])]
    ours, theirs = (model(nodes, {"w": np.abs(WEIGHT) * scale}) for scale in (1.0, 1.1))
    given = [{"x": np.full((1, 4), -apart * k, np.float32)} for k in range(4)]
    (output,) = compare_models(ours, theirs, given).outputs
    assert (output.quartile_db is not None) is told
    assert output.median_db is None
