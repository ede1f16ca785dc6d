"""float16 and bfloat16: with powers of two every product is exact, whatever the type."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from equiquant import equalize
from equiquant.equalization import clip_bounds, find_classes, plan_pairwise
from equiquant.equalization.apply import powers_of_two
from equiquant.graph import edit, query
from equiquant.verify import Reference, apply_proven
from tests.equalization.support import Array, Case, equalized, error, random_scales, run, spread_weight

NODES = "a = Conv(x, w1, b1) r = Relu(a) d = Conv<group=6>(r, w2) s = Add(d, r) y = Conv(s, w3)"
SHAPES = {"w1": (6, 4, 1, 1), "b1": (6,), "w2": (6, 1, 1, 1), "w3": (2, 6, 1, 1)}


def half(kind: type) -> Case:
    generator = np.random.default_rng(0)
    weights: dict[str, Array] = {
        name: (spread_weight(generator, shape) / 4).astype(kind) for name, shape in SHAPES.items()
    }
    text = "float16" if kind is np.float16 else "bfloat16"
    return Case(text, NODES, inputs=f"{text}[N,4,3,3] x", outputs=f"{text}[] y", weights=weights, opset=22)


def test_float16_is_exact_with_powers_of_two() -> None:
    case = half(np.float16)
    model, feeds = case.model(), case.feeds()
    classes = find_classes(model)
    z = powers_of_two(classes, random_scales(classes))
    assert z.any()
    after = equalized(model, z)
    assert {v.dtype for v in after.graph.initializers.values()} == {ir.DataType.FLOAT16}
    assert error(run(model, feeds), run(after, feeds)) <= 2.0**-11


def test_float16_gets_powers_of_two_and_is_proven() -> None:
    case = half(np.float16)
    model = case.model()
    classes = find_classes(model)
    plan = plan_pairwise(classes, clip_bounds(classes, {}, 1), steps=-1, append_bias=True)
    proof = apply_proven(model, classes, plan.z, Reference.of(model, case.feeds()))
    np.testing.assert_allclose(proof.z / np.log(2), np.rint(proof.z / np.log(2)), atol=1e-9)
    assert proof.z.any()
    assert not [d for d in proof.decisions if d.rule == "rollback"]


def test_float16_overflow_is_rolled_back() -> None:
    case = half(np.float16)
    model = case.model()
    edit.set_initializer(model.graph.initializers["w1"], np.full((6, 4, 1, 1), 3e4, np.float16))
    edit.set_initializer(model.graph.initializers["w3"], np.full((2, 6, 1, 1), 1e-4, np.float16))
    classes = find_classes(model)
    z = np.full(classes.count, np.log(16.0))
    z[0] = 0.0
    reference = Reference.of(model, [{k: v * np.float16(1e-3) for k, v in f.items()} for f in case.feeds()])
    proof = apply_proven(model, classes, z, reference)
    assert [d.where for d in proof.decisions if d.rule == "rollback"]
    assert proof.equivalence.error <= 2.0**-10


def as_float32(model: ir.Model) -> dict[str, Array]:
    return {
        name: np.array(query.constant(value)).astype(np.float32) for name, value in model.graph.initializers.items()
    }


def test_bfloat16_weights_scale_exactly() -> None:
    """onnxruntime has no bfloat16 convolution: the same weights in float32 tell whether the scaling was exact."""
    model = half(ml_dtypes.bfloat16).model()
    classes = find_classes(model)
    after = equalized(model, powers_of_two(classes, random_scales(classes)))
    assert {v.dtype for v in after.graph.initializers.values()} == {ir.DataType.BFLOAT16}
    wide = Case("float32", NODES, inputs="float[N,4,3,3] x", weights=as_float32(model))
    scaled = Case("float32", NODES, inputs="float[N,4,3,3] x", weights=as_float32(after))
    feeds = wide.feeds()
    expected = run(wide.model(), feeds)
    assert any((a != b).any() for a, b in zip(as_float32(model).values(), as_float32(after).values(), strict=True))
    assert error(expected, run(scaled.model(), feeds)) == pytest.approx(0.0, abs=1e-7)


def test_pairwise_reads_bfloat16() -> None:
    classes = find_classes(half(ml_dtypes.bfloat16).model())
    z = plan_pairwise(classes, clip_bounds(classes, {}, 1), steps=1, append_bias=True).z
    assert np.isfinite(z).all()
    assert z.any()


@pytest.mark.parametrize("method", ["auto", "global", "pairwise"])
def test_the_stand_alone_face_takes_float16(method: str) -> None:
    """Nothing of it can be quantized, so that noise says nothing: the ranges alone do."""
    source = half(np.float16).proto()
    samples = [np.random.default_rng(k).standard_normal((1, 4, 3, 3)).astype(np.float16) for k in range(4)]
    result = equalize(source, data=samples, method=method)
    found = result.report.to_dict()["equalization"]
    assert found["method"] == "pairwise"
    assert found["moved"] > 0
    assert found["equivalence_error"] <= 2**-10
