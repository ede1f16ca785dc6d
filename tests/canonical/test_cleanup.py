from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import io
from equiquant.canonical import canonicalize
from tests.canonical.support import Array, canonical, proto, weights


def test_identity_in_the_middle_and_at_both_ends() -> None:
    nodes = "a = Identity(x) b = Relu(a) c = Identity(b) d = Neg(c) y = Identity(d)"
    assert canonical(proto(nodes, "float[N,3] x", "float[] y", {})).ops == ["Relu", "Neg"]


def test_identity_of_an_initializer_is_a_shared_weight() -> None:
    nodes = "v = Identity(w) a = Conv(x, w) b = Conv(a, v) y = Mul(b, c)"
    source = proto(nodes, "float[N,3,2,2] x", "float[] y", weights(w=(3, 3, 1, 1), c=(3, 1, 1)))
    assert canonical(source).ops == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("y = Identity(x) z = Relu(x)", "float[] y, float[] z"),
        ("a = Relu(x) y = Identity(a)", "float[] a, float[] y"),
        ("a = Relu(x) y = Identity(a) z = Identity(a)", "float[] y, float[] z"),
        ("y = Identity(k) z = Relu(x)", "float[] y, float[] z"),
    ],
)
def test_identity_that_names_an_output_stays(nodes: str, outputs: str) -> None:
    outcome = canonical(proto(nodes, "float[N,3] x", outputs, weights(k=(3,))))
    assert outcome.ops.count("Identity") == 1
    assert outcome.refused("remove_identity")


def test_identity_read_by_a_body() -> None:
    body = "then_branch = t () => (float[] o) { o = Relu(a) }, else_branch = e () => (float[] o2) { o2 = Identity(a) }"
    nodes = f"r = Neg(x) a = Identity(r) y = If (c) <{body}>"
    assert canonical(proto(nodes, "float[N,3] x, bool c", "float[] y", {})).ops == ["Neg", "If"]


def test_dropout_in_inference_mode() -> None:
    for dropout in ("Dropout(a)", "Dropout(a, ratio)", "Dropout(a, ratio, off)"):
        parameters = {"ratio": np.array(0.5, np.float32), "off": np.array(False, np.bool_)}
        source = proto(f"a = Relu(x) b = {dropout} y = Neg(b)", "float[N,3] x", "float[] y", parameters)
        outcome = canonical(source)
        assert outcome.ops == ["Relu", "Neg"]
        assert len(outcome.applied("remove_dropout")) == 1


@pytest.mark.parametrize(
    ("dropout", "outputs", "reason"),
    [
        ("b = Dropout(a, zero, on)", "float[] b", "training mode"),
        ("b = Dropout(a, zero, flag)", "float[] b", "not a constant"),
        ("b, mask = Dropout(a)", "float[] b, bool[] mask", "mask is used"),
        ("b, m = Dropout(a) mask = Or(m, m)", "float[] b, bool[] mask", "mask is used"),
    ],
)
def test_dropout_refused(dropout: str, outputs: str, reason: str) -> None:
    # ratio 0 makes even training mode deterministic; the mask of a dropout that drops nothing is all true
    parameters = {"zero": np.array(0.0, np.float32), "on": np.array(True, np.bool_)}
    outcome = canonical(proto(f"a = Relu(x) {dropout}", "float[N,3] x, bool flag", outputs, parameters))
    assert "Dropout" in outcome.ops
    assert reason in outcome.refused("remove_dropout")


def test_dead_code_goes() -> None:
    nodes = "y = Relu(x) [dead] d = Conv(x, w) [deader] e = Relu(d)"
    outcome = canonical(proto(nodes, "float[N,3,2,2] x", "float[] y", weights(w=(3, 3, 1, 1), unused=(7,))))
    assert outcome.ops == ["Relu"]
    assert {d.where for d in outcome.applied("remove_dead")} == {"dead", "deader"}
    assert not outcome.model.graph.initializers


def test_a_transposed_weight_is_computed_once() -> None:
    nodes = "t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) z = Add(y, b)"
    outcome = canonical(proto(nodes, "float[N,3] x", "float[] z", weights(w=(4, 3), b=(4,))))
    assert outcome.ops == ["Gemm"]
    assert len(outcome.applied("fold_constants")) == 1


def test_large_weights_are_computed_through_many_steps() -> None:
    """As networks with standardized weights are exported."""
    nodes = """m = ReduceMean<axes=[1,2,3], keepdims=1>(w) c = Sub(w, m) q = Mul(c, c)
        v = ReduceMean<axes=[1,2,3], keepdims=1>(q) s = Sqrt(v) u = Div(c, s) y = Conv(x, u)"""
    outcome = canonical(proto(nodes, "float[N,64,5,5] x", "float[] y", weights(w=(64, 64, 3, 3))))
    assert outcome.ops == ["Conv"]


def test_what_differs_in_every_run_stays() -> None:
    nodes = "r = RandomUniformLike(w) y = Conv(x, r)"
    outcome = canonical(proto(nodes, "float[N,3,5,5] x", "float[] y", weights(w=(4, 3, 3, 3))))
    assert outcome.ops == ["RandomUniformLike", "Conv"]


def test_static_shape_arithmetic_is_computed() -> None:
    nodes = """s = Shape(x) i = Constant<value_ints=[0]>() n = Gather(s, i) m = Constant<value_ints=[-1]>()
        t = Concat<axis=0>(n, m) y = Reshape(x, t)"""
    assert canonical(proto(nodes, "float[2,3,4] x", "float[] y", {})).ops == ["Reshape"]
    outcome = canonical(proto(nodes, "float[N,3,4] x", "float[] y", {}))
    assert "Shape" in outcome.ops  # a dynamic batch cannot be computed beforehand
    assert len(outcome.applied("lift_constants")) == 2


def test_a_constant_that_would_grow_stays() -> None:
    outcome = canonical(
        proto("b = Add(p, q) y = Mul(x, b)", "float[300,300] x", "float[] y", weights(p=(300, 1), q=(1, 300)))
    )
    assert outcome.ops == ["Add", "Mul"]
    assert "larger" in outcome.refused("fold_constants")


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_unflattens(op: str) -> None:
    nodes = f"a = Relu(x) s = Shape(a) f = Flatten<axis=2>(a) p = {op}<axis=-1>(f) y = Reshape(p, s)"
    assert canonical(proto(nodes, "float[N,3,4] x", "float[N,3,4] y", {})).ops == ["Relu", op]


def test_softmax_across_axes_stays_flattened() -> None:
    nodes = "s = Shape(x) f = Flatten<axis=1>(x) p = Softmax<axis=-1>(f) y = Reshape(p, s)"
    outcome = canonical(proto(nodes, "float[N,3,4] x", "float[N,3,4] y", {}))
    assert "Flatten" in outcome.ops
    assert "several axes" in outcome.refused("unflatten_softmax")


def test_output_that_is_a_constant_node_stays() -> None:
    outcome = canonical(
        proto("y = Constant<value_floats=[1.0, 2.0]>() z = Relu(x)", "float[N,3] x", "float[2] y, float[] z", {})
    )
    assert outcome.ops == ["Constant", "Relu"]
    assert outcome.refused("lift_constants")


PADS = {"p": np.array([1, 0, 0, 2]), "a": np.array([2, -1]), "v": np.array(0.5, np.float32)}


def test_a_pad_by_axes_pads_all_of_them() -> None:
    """onnxruntime's optimizer moves transposes through a Pad and leaves its axes behind."""
    outcome = canonical(proto("y = Pad(x, p, v, a)", "float[N,3,4,5] x", "float[] y", PADS, opset=18))
    assert len(outcome.applied("expand_pad")) == 1
    (node,) = outcome.model.graph
    assert len(node.inputs) == 3


@pytest.mark.parametrize("inputs", ["float[N,3,4,5] x, int64[2] a", "float[N,3,4,5] x, int64[4] p"])
def test_a_pad_that_is_not_known_keeps_its_axes(inputs: str) -> None:
    given = {name: array for name, array in PADS.items() if f"] {name}" not in inputs}
    found = canonicalize(io.load_model(proto("y = Pad(x, p, v, a)", inputs, "float[] y", given, opset=18)).model)
    assert [d.reason for d in found if d.rule == "expand_pad"] == ["its rank, pads or axes are not known"]


POOL = "MaxPool <kernel_shape = [3, 2], strides = [2, 2]"


DILATED = "MaxPool <kernel_shape = [2, 2], dilations = ["
ONE = (0, 0, 1, 1, 0, 0, 1, 1)


def padded(
    fill: float = -np.inf,
    pads: tuple[int, ...] = (0, 0, 1, 0, 0, 0, 2, 1),
    pool: str = POOL + ">",
    more: str = "",
    size: str = "float[N,3,6,7]",
) -> onnx.ModelProto:
    parameters: dict[str, Array] = {"pads": np.array(pads, np.int64), "fill": np.array(fill, np.float32)}
    return proto(f"p = Pad(x, pads, fill) y = {pool}(p) {more}", f"{size} x", "float[] y", parameters)


@pytest.mark.parametrize("fill", [-np.inf, float(np.finfo(np.float32).min)])
def test_a_pool_pads_by_itself(fill: float) -> None:
    outcome = canonical(padded(fill))
    assert outcome.ops == ["MaxPool"]
    assert outcome.node("MaxPool").attributes["pads"].value == (1, 0, 2, 1)


def test_a_pool_that_pads_already_pads_more() -> None:
    outcome = canonical(padded(pads=(0, 0, 1, 0, 0, 0, 0, 0), pool=POOL + ", pads = [1, 0, 1, 1]>"))
    assert outcome.node("MaxPool").attributes["pads"].value == (2, 0, 1, 1)


@pytest.mark.parametrize("height", [6, 7, 8, 9])
@pytest.mark.parametrize("pads", [(0, 0, 1, 1, 0, 0, 1, 1), (0, 0, 0, 0, 0, 0, 1, 1)])
@pytest.mark.parametrize("how", ["ceil_mode = 1", 'auto_pad = "SAME_UPPER"', 'auto_pad = "SAME_LOWER"'])
def test_a_pool_that_chooses_its_size_pads_by_itself(how: str, pads: tuple[int, ...], height: int) -> None:
    pool = f"MaxPool <kernel_shape = [4, 3], strides = [2, 2], {how}>"
    assert canonical(padded(pads=pads, pool=pool, size=f"float[N,3,{height},9]")).ops == ["MaxPool"]


@pytest.mark.parametrize("fill", [0.0, -1e4, -1e9])
@pytest.mark.parametrize(
    ("before", "folds"),
    [("Relu(x)", True), ("Sigmoid(x)", True), ("Neg(x)", False), ("Clip(x, low)", False), ("Clip(x, zero)", True)]
    + [("Clip(x, zero, low)", False), ("Concat<axis=1>(x, zeros)", False), ("Concat<axis=1>(r, zeros)", True)]
    + [(f'Resize<mode="{mode}">(r, , twice)', mode != "cubic") for mode in ("nearest", "linear", "cubic")]
    + [("Reshape(r, shape)", True), ("Slice(r, one, three, three)", True), ("MaxPool<kernel_shape=[1,1]>(r)", True)]
    + [("MaxPool<kernel_shape=[2,2], dilations=[2,2], pads=[1,1,1,1]>(r)", False)],
)
def test_a_pad_below_whatever_it_pads_is_the_pools_own(before: str, folds: bool, fill: float) -> None:
    given: dict[str, Any] = {"low": np.float32(-2e9), "zero": np.float32(0), "fill": np.float32(fill)}
    given |= {"zeros": np.zeros((1, 2, 6, 7), np.float32), "twice": np.array([1, 1, 2, 2], np.float32)}
    given |= {"shape": np.array([0, 3, 7, 6]), "one": np.ones(1, np.int64), "three": np.full(1, 3)}
    read = {*re.findall(r"\w+", before), "fill"}
    used = {name: np.asarray(array) for name, array in given.items() if name in read}
    nodes = f"r = Relu(x) a = {before} t = Transpose<perm=[0,1,3,2]>(a) p = Pad(t, pads, fill) y = {POOL}>(p)"
    pads = np.array([0, 0, 1, 0, 0, 0, 1, 1], np.int64)
    outcome = canonical(proto(nodes, "float[1,3,6,7] x", "float[] y", used | {"pads": pads}))
    assert ("Pad" not in outcome.ops) is folds


def test_a_pad_that_others_read_stays() -> None:
    source = padded(float(np.finfo(np.float32).min), more="z = Relu(p)")
    source.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    assert sorted(canonical(source).ops) == ["MaxPool", "Pad", "Relu"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (padded(pads=(0, 0, 3, 0, 0, 0, 0, 0)), "as wide as"),
        (padded(float(np.finfo(np.float32).min), pads=(0, 1, 1, 0, 0, 0, 0, 0)), "the channels"),
        (padded(pads=(0, 0, -1, 0, 0, 0, 0, 0)), "crops"),
        (padded(pool=POOL + ", ceil_mode = 1>"), "rounds its size up"),
        (padded(pool=POOL + ', auto_pad = "SAME_UPPER">'), "as wide as"),
        (
            padded(pads=(0, 0, 1, 0, 0, 0, 1, 0), pool=POOL + ', auto_pad = "SAME_UPPER">', size="float[N,3,H,7]"),
            "size",
        ),
        (padded(pads=ONE, pool=DILATED + "7, 2]>"), "not known"),
        (padded(pads=ONE, pool=DILATED + "2, 2]>", size="float[N,3,H,7]"), "not known"),
        (padded(pool='MaxPool <kernel_shape = [3, 3], dilations = [2, 2], auto_pad = "SAME_UPPER">'), "its own"),
        (padded(pool='MaxPool <kernel_shape = [2, 2], strides = [4, 4], auto_pad = "SAME_LOWER">'), "its own"),
    ],
)
def test_a_pad_that_a_pool_cannot_do_stays(source: onnx.ModelProto, reason: str) -> None:
    model = io.load_model(source).model
    decisions = canonicalize(model)
    assert [n.op_type for n in model.graph] == ["Pad", "MaxPool"]
    assert reason in "".join(d.reason for d in decisions if d.rule == "fold_pad")


def test_a_dilated_pool_pads_by_itself_where_every_window_meets_what_is_there() -> None:
    assert canonical(padded(pads=ONE, pool=DILATED + "6, 1]>")).ops == ["MaxPool"]


def test_a_pad_with_another_number_stays() -> None:
    outcome = canonical(padded(0.0))
    assert outcome.ops == ["Pad", "MaxPool"]
    assert not [d for d in outcome.decisions if d.rule == "fold_pad"]
