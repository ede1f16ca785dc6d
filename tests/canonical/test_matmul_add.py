from __future__ import annotations

import pytest

from tests.canonical.support import canonical, proto, weights

RULE = "fuse_matmul_add"


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), (), (1, 1)])
@pytest.mark.parametrize("add", ["Add(y, b)", "Add(b, y)"])
def test_fuses(shape: tuple[int, ...], add: str) -> None:
    source = proto(f"[fc] y = MatMul(x, w) z = {add}", "float[N,3] x", "float[] z", weights(w=(3, 4), b=shape))
    outcome = canonical(source)
    assert outcome.ops == ["Gemm"]
    assert outcome.node("Gemm").name == "fc"
    bias = outcome.node("Gemm").inputs[2]
    assert bias is not None
    assert bias.shape == (4,)


def test_weight_may_be_computed() -> None:
    nodes = "y = MatMul(x, v) z = Add(y, b)"
    assert canonical(proto(nodes, "float[N,3] x, float[3,4] v", "float[] z", weights(b=(4,)))).ops == ["Gemm"]


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"w": (3, 4), "b": (2, 1)}, "each of the 4"),
        ({"w": (3, 1), "b": (5,)}, "each of the 1"),
        ({"w": (3, 4), "b": (1, 1, 4)}, "each"),
    ],
)
def test_refuses_other_shapes(shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    outcome = canonical(proto("y = MatMul(x, w) z = Add(y, b)", "float[2,3] x", "float[] z", weights(**shapes)))
    assert outcome.ops == ["MatMul", "Add"]
    assert reason in outcome.refused(RULE)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("y = MatMul(x, w) z = Add(y, b)", "float[] y, float[] z"),
        ("y = MatMul(x, w) z = Add(y, b) r = Relu(y)", "float[] z, float[] r"),
    ],
)
def test_refuses_a_product_others_see(nodes: str, outputs: str) -> None:
    outcome = canonical(proto(nodes, "float[N,3] x", outputs, weights(w=(3, 4), b=(4,))))
    assert "MatMul" in outcome.ops
    assert outcome.refused(RULE)


def test_higher_rank_stays() -> None:
    outcome = canonical(
        proto("y = MatMul(x, w) z = Add(y, b)", "float[N,2,3] x", "float[] z", weights(w=(3, 4), b=(4,)))
    )
    assert outcome.ops == ["MatMul", "Add"]
    assert not outcome.decisions


def test_an_add_that_raises_the_rank_is_no_bias() -> None:
    source = proto(
        "y = MatMul(x, w) a = Add(y, b) z = Mul(a, c)",
        "float[N,3] x",
        "float[] z",
        weights(w=(3, 4), b=(1, 1, 4), c=(4,)),
    )
    assert canonical(source).ops == ["MatMul", "Add", "Mul"]
