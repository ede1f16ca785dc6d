from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from equiquant import io
from equiquant.canonical import canonicalize
from equiquant.graph.query import constant
from tests.canonical.support import BN, Shapes, bn, canonical, proto, weights

RULE = "fold_batch_norm"

FOLDS: dict[str, tuple[str, str, Shapes, int]] = {
    "conv": ("y = Conv<pads=[1,1,1,1]>(x, w)", "float[N,3,5,5] x", {"w": (4, 3, 3, 3)}, 4),
    "conv with bias": ("y = Conv(x, w, b)", "float[N,3,5,5] x", {"w": (4, 3, 3, 3), "b": (4,)}, 4),
    "conv 1-d": ("y = Conv<strides=[2]>(x, w, b)", "float[N,3,9] x", {"w": (4, 3, 3), "b": (4,)}, 4),
    "conv 3-d": ("y = Conv(x, w)", "float[N,2,3,3,3] x", {"w": (4, 2, 2, 2, 2)}, 4),
    "depthwise": ("y = Conv<group=4>(x, w)", "float[N,4,5,5] x", {"w": (4, 1, 3, 3)}, 4),
    "grouped": ("y = Conv<group=2>(x, w, b)", "float[N,4,5,5] x", {"w": (6, 2, 3, 3), "b": (6,)}, 6),
    "conv transpose": ("y = ConvTranspose<strides=[2,2]>(x, w)", "float[N,3,4,4] x", {"w": (3, 5, 3, 3)}, 5),
    "grouped conv transpose": (
        "y = ConvTranspose<group=2, strides=[2,2], output_padding=[1,1]>(x, w, b)",
        "float[N,4,4,4] x",
        {"w": (4, 3, 3, 3), "b": (6,)},
        6,
    ),
    "gemm": ("y = Gemm(x, w)", "float[N,3] x", {"w": (3, 4)}, 4),
    "gemm transB alpha beta": (
        "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)",
        "float[N,3] x",
        {"w": (4, 3), "b": (4,)},
        4,
    ),
    "gemm transA": ("y = Gemm<transA=1, alpha=3.0>(x, w, b)", "float[3,2] x", {"w": (3, 4), "b": (1, 4)}, 4),
    "gemm scalar bias": ("y = Gemm<beta=0.25>(x, w, b)", "float[N,3] x", {"w": (3, 4), "b": ()}, 4),
    "matmul": ("y = MatMul(x, w)", "float[N,3] x", {"w": (3, 4)}, 4),
    "matmul add": ("p = MatMul(x, w) y = Add(b, p)", "float[N,3] x", {"w": (3, 4), "b": (4,)}, 4),
}


@pytest.mark.parametrize("case", FOLDS, ids=list(FOLDS))
def test_folds(case: str) -> None:
    nodes, inputs, shapes, channels = FOLDS[case]
    source = proto(f"{nodes} z = BatchNormalization(y, {BN})", inputs, "float[] z", weights(**shapes) | bn(channels))
    outcome = canonical(source)
    assert "BatchNormalization" not in outcome.ops
    assert len(outcome.ops) == 1  # a MatMul becomes a Gemm with the shift as its bias
    assert len(outcome.applied(RULE)) == 1


def test_missing_epsilon_is_one_in_a_hundred_thousand() -> None:
    parameters = weights(w=(4, 3, 1, 1)) | bn(4) | {"var": np.full(4, 1e-5, np.float32)}
    canonical(proto(f"y = Conv(x, w) z = BatchNormalization(y, {BN})", "float[N,3,2,2] x", "float[] z", parameters))
    with_epsilon = f"y = Conv(x, w) z = BatchNormalization<epsilon=0.5, momentum=0.1>(y, {BN})"
    canonical(proto(with_epsilon, "float[N,3,2,2] x", "float[] z", parameters))


def test_weights_from_constant_nodes() -> None:
    source = proto(f"y = Conv(x, w) z = BatchNormalization(y, {BN})", "float[N,3,4,4] x", "float[] z", bn(4))
    node = source.graph.node.add(op_type="Constant", output=["w"])
    attribute = node.attribute.add(name="value", type=4)
    attribute.t.CopyFrom(numpy_helper.from_array(weights(w=(4, 3, 1, 1))["w"]))
    source.graph.node.insert(0, source.graph.node.pop())
    outcome = canonical(source)
    assert outcome.ops == ["Conv"]
    assert [d.rule for d in outcome.decisions] == ["lift_constants", RULE]


def test_shared_weights_are_never_edited_for_the_other_reader() -> None:
    parameters = weights(w=(4, 4, 1, 1), b=(4,)) | bn(4) | bn(4, "second_")
    second = BN.replace("gamma", "second_gamma").replace("beta", "second_beta").replace("mean", "second_mean")
    nodes = f"""a = Conv(x, w, b) p = BatchNormalization(a, {BN})
        c = Conv(x, w, b) q = BatchNormalization(c, {second})
        plain = Conv(x, w, b) y = Sum(p, q, plain)"""
    outcome = canonical(proto(nodes, "float[N,4,3,3] x", "float[] y, float[] p, float[] plain", parameters))
    assert outcome.ops == ["Conv", "Conv", "Conv", "Sum"]
    used = [outcome.node("Conv", i).inputs[1] for i in range(3)]
    assert len({id(v) for v in used}) == 3
    np.testing.assert_array_equal(constant(used[2]), parameters["w"])


def test_shared_statistics_fold_into_both() -> None:
    nodes = f"a = Conv(x, w) p = BatchNormalization(a, {BN}) c = Conv(p, w2) y = BatchNormalization(c, {BN})"
    parameters = weights(w=(4, 3, 1, 1), w2=(4, 4, 1, 1)) | bn(4)
    assert canonical(proto(nodes, "float[N,3,3,3] x", "float[] y", parameters)).ops == ["Conv", "Conv"]


def test_output_name_survives() -> None:
    nodes = f"y = Conv(x, w) scores = BatchNormalization(y, {BN}) r = Relu(scores)"
    outcome = canonical(proto(nodes, "float[N,3,3,3] x", "float[] scores, float[] r", weights(w=(4, 3, 1, 1)) | bn(4)))
    assert outcome.ops == ["Conv", "Relu"]


def test_float16_stays_float16() -> None:
    parameters = {k: v.astype(np.float16) for k, v in (weights(w=(4, 3, 3, 3)) | bn(4)).items()}
    source = proto(f"y = Conv(x, w) z = BatchNormalization(y, {BN})", "float16[N,3,5,5] x", "float16[] z", parameters)
    outcome = canonical(source, tolerance=4e-3)
    weight = constant(outcome.node("Conv").inputs[1])
    assert weight is not None
    assert weight.dtype == np.float16
    assert outcome.ops == ["Conv"]


def test_float16_overflow_is_refused() -> None:
    # the model overflows by itself, so only the decision is looked at
    parameters = weights(w=(4, 3, 1, 1)) | bn(4)
    parameters["gamma"] = np.full(4, 6e4, np.float32)
    parameters["var"] = np.full(4, 1e-4, np.float32)
    parameters["mean"] = np.zeros(4, np.float32)
    half = {k: v.astype(np.float16) for k, v in parameters.items()}
    half["w"] *= np.float16(1e-3)
    nodes = f"y = Conv(x, w) z = BatchNormalization(y, {BN})"
    half["w"][0, 0] = 1.0
    source = proto(nodes, "float16[N,3,1,1] x", "float16[N,4,1,1] z", half)
    decisions = canonicalize(io.load_model(source).model)
    assert [d.applied for d in decisions] == [False]
    assert "range of float16" in decisions[0].reason


REFUSALS = {
    "the convolution's result is a graph output": (
        f"y = Conv(x, w) z = BatchNormalization(y, {BN})",
        "float[] y, float[] z",
        "is a graph output",
    ),
    "the convolution is read twice": (
        f"[conv] y = Conv(x, w) z = BatchNormalization(y, {BN}) [other] r = Relu(y)",
        "float[] z, float[] r",
        "'conv' is also read by 'other'",
    ),
    "training mode": (
        f"y = Conv(x, w) z, rm, rv = BatchNormalization<training_mode=1>(y, {BN})",
        "float[] z",
        "training mode",
    ),
    "statistics are not constant": (
        "y = Conv(x, w) g = Relu(c) z = BatchNormalization(y, g, beta, mean, var)",
        "float[] z",
        "not all constants",
    ),
    "weights are not constant": (
        f"v = ReduceMax<keepdims=0>(c) u = Mul(w, v) y = Conv(x, u) z = BatchNormalization(y, {BN})",
        "float[] z",
        "is not a constant",
    ),
    "bias is not constant": (
        f"[conv] y = Conv(x, w, c) z = BatchNormalization(y, {BN})",
        "float[] z",
        "the bias of 'conv' is not a constant",
    ),
}


@pytest.mark.parametrize("case", REFUSALS, ids=list(REFUSALS))
def test_refuses(case: str) -> None:
    nodes, outputs, reason = REFUSALS[case]
    parameters = weights(w=(4, 3, 1, 1), k=(1,)) | bn(4)
    outcome = canonical(proto(nodes, "float[N,3,3,3] x, float[4] c", outputs, parameters))
    assert "BatchNormalization" in outcome.ops
    assert reason in outcome.refused(RULE)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (f"y = Concat<axis=1>(x, x) z = BatchNormalization(y, {BN})", "(Concat)"),
        (f"z = BatchNormalization(x2, {BN})", "a graph input"),
    ],
)
def test_no_linear_operator_near(nodes: str, reason: str) -> None:
    outcome = canonical(proto(nodes, "float[N,2,3,3] x, float[N,4,3,3] x2", "float[] z", bn(4)))
    assert "BatchNormalization" in outcome.ops
    assert reason in outcome.refused("fold_batch_norm_next")


def test_value_captured_by_a_body_is_refused() -> None:
    body = "then_branch = t () => (float[] o) { o = Relu(y) }, else_branch = e () => (float[] o2) { o2 = Neg(y) }"
    nodes = f"[conv] y = Conv(x, w) z = BatchNormalization(y, {BN}) [the_if] s = If (c) <{body}>"
    source = proto(nodes, "float[N,3,3,3] x, bool c", "float[] z, float[] s", weights(w=(4, 3, 1, 1)) | bn(4))
    outcome = canonical(source)
    assert "BatchNormalization" in outcome.ops
    assert "also read by" in outcome.refused(RULE)


def test_weight_read_by_a_body_is_copied() -> None:
    body = "then_branch = t () => (float[] o) { o = Relu(w) }, else_branch = e () => (float[] o2) { o2 = Neg(w) }"
    nodes = f"y = Conv(x, w) z = BatchNormalization(y, {BN}) s = If (c) <{body}>"
    source = proto(nodes, "float[N,3,3,3] x, bool c", "float[] z, float[] s", weights(w=(4, 3, 1, 1)) | bn(4))
    assert canonical(source).ops == ["Conv", "If"]


def test_channels_of_a_batched_matmul_are_elsewhere() -> None:
    nodes = f"[mm] y = MatMul(x, w) z = BatchNormalization(y, {BN})"
    outcome = canonical(proto(nodes, "float[N,4,3] x", "float[] z", weights(w=(3, 4)) | bn(4)))
    assert "axis 2 of 3" in outcome.refused(RULE)
