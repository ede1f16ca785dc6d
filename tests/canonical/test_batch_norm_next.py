from __future__ import annotations

import numpy as np
import pytest

from equiquant.canonical.absorb import STANDARDIZES
from tests.canonical.support import BN, Array, Shapes, bn, canonical, proto, weights

RULE = "fold_batch_norm_next"

FOLDS: dict[str, tuple[str, str, Shapes, int]] = {
    "conv": ("y = Conv(a, w, b)", "float[N,4,5,5] x", {"w": (3, 4, 3, 3), "b": (3,)}, 1),
    "conv without bias": ('y = Conv<auto_pad="VALID">(a, w)', "float[N,4,5,5] x", {"w": (3, 4, 3, 3)}, 1),
    "pointwise SAME": ('y = Conv<auto_pad="SAME_UPPER">(a, w)', "float[N,4,5,5] x", {"w": (3, 4, 1, 1)}, 1),
    "grouped": ("y = Conv<group=2>(a, w)", "float[N,4,5,5] x", {"w": (6, 2, 3, 3)}, 1),
    "depthwise": ("y = Conv<group=4, strides=[2,2]>(a, w)", "float[N,4,5,5] x", {"w": (8, 1, 3, 3)}, 1),
    "gemm": ("y = Gemm<alpha=0.5, beta=2.0>(a, w, b)", "float[N,4] x", {"w": (4, 3), "b": (3,)}, 1),
    "gemm transB": ("y = Gemm<transB=1, alpha=2.0>(a, w)", "float[N,4] x", {"w": (3, 4)}, 1),
    "matmul": ("y = MatMul(a, w)", "float[N,4] x", {"w": (4, 3)}, 1),
    "matmul add": ("p = MatMul(a, w) y = Add(p, b)", "float[N,4] x", {"w": (4, 3), "b": (3,)}, 1),
    "two readers": (
        "p = Conv(a, w) q = Conv(a, w) y = Concat<axis=1>(p, q)",
        "float[N,4,5,5] x",
        {"w": (3, 4, 3, 3)},
        3,
    ),
}


@pytest.mark.parametrize("case", FOLDS, ids=list(FOLDS))
def test_folds(case: str) -> None:
    nodes, inputs, shapes, left = FOLDS[case]
    source = proto(f"a = BatchNormalization(x, {BN}) {nodes}", inputs, "float[] y", weights(**shapes) | bn(4))
    outcome = canonical(source)
    assert "BatchNormalization" not in outcome.ops
    assert len(outcome.ops) == left
    assert len(outcome.applied(RULE)) == 1


def without_shift(parameters: dict[str, Array]) -> dict[str, Array]:
    return parameters | {"beta": np.zeros(4, np.float32), "mean": np.zeros(4, np.float32)}


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        ("Conv<pads=[1,1,1,1]>(a, w)", (3, 4, 3, 3)),
        ('Conv<auto_pad="SAME_LOWER">(a, w)', (3, 4, 3, 3)),
        ("ConvTranspose<strides=[2,2]>(a, w)", (4, 3, 3, 3)),
        ("ConvTranspose<group=2>(a, w)", (4, 3, 3, 3)),
    ],
)
def test_a_shift_does_not_pass_padding_but_a_scale_does(conv: str, shape: tuple[int, ...]) -> None:
    parameters = weights(w=shape) | bn(4)
    nodes = f"a = BatchNormalization(x, {BN}) [conv] y = {conv}"
    refused = canonical(proto(nodes, "float[N,4,5,5] x", "float[] y", parameters))
    assert "BatchNormalization" in refused.ops
    assert "'conv'" in refused.refused(RULE)
    folded = canonical(proto(nodes, "float[N,4,5,5] x", "float[] y", without_shift(parameters)))
    assert len(folded.ops) == 1


REFUSALS = {
    "another reader": (
        f"a = BatchNormalization(x, {BN}) y = Conv(a, w) [r] z = Relu(a)",
        "float[] y, float[] z",
        "'r'",
    ),
    "graph output": (f"a = BatchNormalization(x, {BN}) y = Conv(a, w)", "float[] y, float[] a", "graph output"),
}


@pytest.mark.parametrize("case", REFUSALS, ids=list(REFUSALS))
def test_refuses(case: str) -> None:
    nodes, outputs, reason = REFUSALS[case]
    outcome = canonical(proto(nodes, "float[N,4,3,3] x", outputs, weights(w=(4, 4, 1, 1)) | bn(4)))
    assert "BatchNormalization" in outcome.ops
    assert reason in outcome.refused(RULE)


FROM_INPUT: dict[str, tuple[str, str]] = {
    "at once": ("", "float[N,4,3,3] x"),
    "transposed": ("p = Transpose<perm=[0,3,1,2]>(x)", "float[N,3,3,4] x"),
    "concatenated": ("p = Concat<axis=1>(x, k)", "float[N,1,3,3] x, float[N,3,3,3] k"),
    "bytes": ("p = Cast<to=1>(x)", "uint8[N,4,3,3] x"),
    "centered": ("p = Sub(x, beta4)", "float[N,4,3,3] x"),
}


@pytest.mark.parametrize("spread", [1.9, 2.1])
@pytest.mark.parametrize("case", FROM_INPUT, ids=list(FROM_INPUT))
def test_features_of_an_input_keep_what_makes_them_alike(case: str, spread: float) -> None:
    before, inputs = FROM_INPUT[case]
    nodes = f"{before} [bn] a = BatchNormalization({'p' if before else 'x'}, {BN}) [c] y = Conv(a, w)"
    ones = np.ones(4, np.float32)
    factors = {"gamma": ones, "var": np.array([1, spread**2, 1, 1], np.float32)}
    parameters = weights(w=(2, 4, 1, 1), beta4=(4, 1, 1)) | bn(4) | factors
    outcome = canonical(proto(nodes, inputs, "float[] y", parameters))
    if spread > 2:
        assert "BatchNormalization" in outcome.ops
        assert outcome.refused(RULE) == STANDARDIZES
    else:
        assert "BatchNormalization" not in outcome.ops


def test_features_that_are_computed_need_no_factors_of_their_own() -> None:
    nodes = f"p = Tanh(x) a = BatchNormalization(p, {BN}) y = Conv(a, w)"
    parameters = weights(w=(2, 4, 1, 1)) | bn(4) | {"var": np.array([1, 100, 1, 1], np.float32)}
    assert canonical(proto(nodes, "float[N,4,3,3] x", "float[] y", parameters)).ops == ["Tanh", "Conv"]


def test_transposed_gemm_input_is_refused() -> None:
    nodes = f"a = BatchNormalization(x, {BN}) [fc] y = Gemm<transA=1>(a, w)"
    outcome = canonical(proto(nodes, "float[3,4] x", "float[] y", weights(w=(3, 2)) | bn(4)))
    assert "'fc' transposes its input" in outcome.refused(RULE)


def test_the_result_as_a_weight_is_not_its_data() -> None:
    nodes = f"a = BatchNormalization(x, {BN}) y = Conv(k, a)"
    outcome = canonical(proto(nodes, "float[2,4,3,3] x", "float[] y", weights(k=(1, 4, 5, 5)) | bn(4)))
    assert "BatchNormalization" in outcome.ops


def test_goes_forward_when_the_way_back_is_closed() -> None:
    nodes = f"y = Conv(x, w) a = BatchNormalization(y, {BN}) z = Conv(a, v)"
    outcome = canonical(
        proto(nodes, "float[N,3,3,3] x", "float[] y, float[] z", weights(w=(4, 3, 1, 1), v=(2, 4, 1, 1)) | bn(4))
    )
    assert outcome.ops == ["Conv", "Conv"]
    assert not [d for d in outcome.decisions if not d.applied]  # the node is gone, and its refusal with it


def test_public_result_of_a_matmul_keeps_its_name_when_a_bias_is_inserted() -> None:
    nodes = f"a = BatchNormalization(x, {BN}) y = MatMul(a, w) z = Relu(y)"
    outcome = canonical(proto(nodes, "float[N,4] x", "float[] y, float[] z", weights(w=(4, 3)) | bn(4)))
    assert outcome.ops == ["Gemm", "Relu"]


def test_one_that_standardizes_a_weight_is_computed_and_not_refused() -> None:
    """As networks with standardized weights are exported: the Conv's weight comes out of it."""
    nodes = f"s = BatchNormalization(w, {BN}) y = Conv(x, s)"
    source = proto(nodes, "float[N,4,5,5] x", "float[] y", weights(w=(3, 4, 3, 3)) | bn(4))
    outcome = canonical(source)
    assert outcome.ops == ["Conv"]
    assert not [d for d in outcome.decisions if d.rule == RULE]
