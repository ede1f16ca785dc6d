"""Refinement sets means right, lowers the error of weights, and leaves scales and everything else alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import qdq
from equiquant.graph.edit import add_initializer, set_input
from equiquant.graph.query import constant
from equiquant.io import Runner
from equiquant.numerics.affine import dequantize, quantize
from equiquant.recipe import Recipe, preset
from equiquant.refine import (
    ChannelMeans,
    Original,
    Refined,
    Refinement,
    layers_of,
    mean_inputs,
    refine,
    refine_by_means,
)
from equiquant.target import QuantPlan, target_of
from tests.qdq.support import noise, parse, run, sqnr
from tests.qdq.support import quantize as quantized

BIAS, BOTH, WEIGHTS = Refinement(True, False), Refinement(True, True), Refinement(False, True)
A8W8 = preset("a8w8", calibration="minmax")
XINT8 = preset("xint8", calibration="nonoverflow")
POWERS32 = XINT8.replace(npu=False, bias_type="int32")
PER_CHANNEL = preset("a8w8_per_channel", calibration="minmax")
RECIPES = {"a8w8": A8W8, "xint8": XINT8, "int32 powers": POWERS32, "per channel": PER_CHANNEL}

CHAIN = """g (float[N, 3, 12, 12] x) => (float[N, 6, 5, 5] y) {
  a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, w1, b1)
  r = Relu(a)
  b = Conv<kernel_shape=[3, 3], group=8>(r, w2, b2)
  s = Relu(b)
  y = Conv<kernel_shape=[2, 2], strides=[2, 2]>(s, w3)
}"""


def chain() -> ir.Model:
    return parse(
        CHAIN,
        w1=noise(8, 3, 3, 3, seed=1),
        b1=noise(8, seed=4),
        w2=noise(8, 1, 3, 3, seed=2) + np.float32(0.3),
        b2=noise(8, seed=5),
        w3=noise(6, 8, 2, 2, seed=3) ** 3,
    )


def images(count: int, seed: int = 100) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    waves = np.cumsum(rng.standard_normal((count, 1, 3, 12, 12)), axis=4) + rng.standard_normal((count, 1, 3, 1, 1))
    return [{"x": image.astype(np.float32)} for image in waves]


def planned(model: ir.Model, recipe: Recipe, feeds: Sequence[dict[str, Any]]) -> QuantPlan:
    return quantized(model, recipe, feeds)[1]


def inserted(found: Refined) -> ir.Model:
    result = found.model.clone()
    qdq.insert(result, found.plan)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    return result


def outputs(model: ir.Model, feeds: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([run(model, feed)[0] for feed in feeds])


def refined(model: ir.Model, recipe: Recipe, wanted: Refinement, feeds: Sequence[dict[str, Any]]) -> Refined:
    return refine(model, planned(model, recipe, feeds), target_of(recipe), feeds, wanted)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("wanted", [BIAS, BOTH], ids=["biases", "both"])
def test_means_match(name: str, wanted: Refinement) -> None:
    """On the samples fitted to, the last layer's mean output is the float one's within its bias's rounding."""
    model, feeds, recipe = chain(), images(8), RECIPES[name]
    before = quantized(model, recipe, feeds)[0]
    found = refined(model, recipe, wanted, feeds)
    after = inserted(found)
    axes = (0, 2, 3)
    target = outputs(model, feeds).mean(axis=axes, dtype=np.float64)
    errors = [np.abs(outputs(m, feeds).mean(axis=axes, dtype=np.float64) - target).max() for m in (before, after)]
    last = [n for n in model.graph if n.op_type == "Conv"][-1]
    step = float(np.max(found.plan.constants[last.name or "", 2].scale))
    rounding = float(found.plan.activations["y"].scale) if "y" in found.plan.activations else 0.0
    assert errors[1] < 0.5 * step + 0.1 * rounding
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("name", RECIPES)
def test_rounding_lowers_the_error_on_other_samples(name: str) -> None:
    model, feeds, others, recipe = chain(), images(12), images(8, seed=7), RECIPES[name]
    expected = outputs(model, others)
    plain = sqnr(expected, outputs(quantized(model, recipe, feeds)[0], others))
    biases, both, weights = (
        sqnr(expected, outputs(inserted(refined(model, recipe, wanted, feeds)), others))
        for wanted in (BIAS, BOTH, WEIGHTS)
    )
    assert both > biases > plain - 0.3
    assert both > plain + 1
    assert weights > plain


@pytest.mark.parametrize("name", RECIPES)
def test_means_alone_correct_biases(name: str) -> None:
    """The error of mean outputs falls without a sample; a layer whose input is not among the means stays as it is."""
    model, feeds, others, recipe = chain(), images(12), images(40, seed=7), RECIPES[name]
    before, plan = quantized(model, recipe, feeds)
    names = list(mean_inputs(model))
    runs = [np.concatenate(tensors) for tensors in zip(*(Runner(model, names).run(f) for f in others), strict=True)]
    means = {
        name: ChannelMeans(x.mean(axis=(0, 2, 3), dtype=np.float64), x[0, 0].size)
        for name, x in zip(names, runs, strict=True)
    }
    found = refine_by_means(model, plan, target_of(recipe), means)
    assert found is not None
    target = outputs(model, others).mean(axis=(0, 2, 3), dtype=np.float64)
    errors = [
        np.square(outputs(m, others).mean(axis=(0, 2, 3), dtype=np.float64) - target).sum()
        for m in (before, inserted(found))
    ]
    assert errors[1] < 0.5 * errors[0]
    del means["s"]
    partly = refine_by_means(model, plan, target_of(recipe), means)
    assert partly is not None
    assert len(partly.plan.constants) == len(plan.constants) == len(found.plan.constants) - 1
    assert refine_by_means(model, plan, target_of(recipe), {}) is None


@pytest.mark.parametrize(
    ("given", "sizes"), [((4, None), [4, 6]), ((None, None), [5, 5]), ((3, 8), [3, 8]), ((None, None, None), [3, 3, 3])]
)
def test_open_sizes_are_those_of_as_many_positions(given: tuple[int | None, ...], sizes: list[int]) -> None:
    assert ChannelMeans(np.zeros(1), 24.0).sizes(given) == sizes


def test_a_window_longer_than_open_sizes_seem_still_has_its_biases_corrected() -> None:
    """As of a long and narrow input, of which only the number of positions is known."""
    model, recipe = chain(), A8W8
    plan = quantized(model, recipe, images(2))[1]
    tiny = {name: ChannelMeans(np.zeros(3 if name == "x" else 8), 1.0) for name in mean_inputs(model)}
    for value in (model.graph.inputs[0], *(node.outputs[0] for node in model.graph)):
        value.shape = None
    found = refine_by_means(model, plan, target_of(recipe), tiny)
    assert found is not None
    assert len(found.plan.constants) == len(plan.constants) + 1


def test_scales_stay_and_the_integers_are_exact() -> None:
    model, feeds = chain(), images(6)
    plan = planned(model, XINT8, feeds)
    found = refine(model, plan, target_of(XINT8), feeds, BOTH)
    assert found.plan.activations == plan.activations
    assert {key: found.plan.constants[key] for key in plan.constants} == dict(plan.constants)
    (added,) = set(found.plan.constants) - set(plan.constants)
    assert added[1] == 2
    assert found.plan.constants[added].type.name == "int8"
    assert len(found.model.graph.initializers) == 6
    nodes = {n.name: n for n in found.model.graph}
    for (name, index), params in found.plan.constants.items():
        value = constant(nodes[name].inputs[index])
        assert value is not None
        np.testing.assert_array_equal(dequantize(quantize(value, params), params), value)


def test_nothing_given_is_changed() -> None:
    model, feeds = chain(), images(3)
    plan = planned(model, A8W8, feeds)
    before, keys = ir.to_proto(model).SerializeToString(), list(plan.constants)
    refine(model, plan, target_of(A8W8), feeds, BOTH)
    assert ir.to_proto(model).SerializeToString() == before
    assert list(plan.constants) == keys


def test_the_result_is_the_same_every_time() -> None:
    model, feeds = chain(), images(5)
    first, second = (ir.to_proto(inserted(refined(model, XINT8, BOTH, feeds))).SerializeToString() for _ in range(2))
    assert first == second


GRAPHS = {
    "transposed": """g (float[N, 3, 12, 12] x) => (float[N, 4, 24, 24] y) {
        a = ConvTranspose<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]>(x, t1)
        y = Relu(a)
    }""",
    "gemm": """g (float[N, 3, 12, 12] x) => (float[N, 5] y) {
        p = GlobalAveragePool(x)
        f = Flatten(p)
        y = Gemm<transB=1, alpha=2.0, beta=0.5>(f, g1, b5)
    }""",
    "shared": """g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 12] y) {
        a = Conv<kernel_shape=[1, 1]>(x, s1)
        b = Conv<kernel_shape=[1, 1]>(a, s1)
        y = Relu(b)
    }""",
    "branches": """g (float[N, 3, 12, 12] x) => (float[N, 8, 12, 12] y) {
        a = Conv<kernel_shape=[1, 1]>(x, s1)
        b = Conv<kernel_shape=[1, 1]>(x, s2)
        c = Add(a, b)
        d = Concat<axis=1>(c, a)
        y = Conv<kernel_shape=[1, 1]>(d, s3, b8)
    }""",
    "matmul": """g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 7] y) {
        y = MatMul(x, m1)
    }""",
}
ARRAYS = {
    "t1": noise(3, 4, 3, 3, seed=1),
    "g1": noise(5, 3, seed=2),
    "b5": noise(5, seed=3),
    "s1": noise(3, 3, 1, 1, seed=4),
    "s2": noise(3, 3, 1, 1, seed=5),
    "s3": noise(8, 6, 1, 1, seed=6),
    "b8": noise(8, seed=7),
    "m1": noise(12, 7, seed=8),
}


@pytest.mark.parametrize("recipe", [A8W8, XINT8], ids=["a8w8", "xint8"])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_kind_of_layer_is_refined(name: str, recipe: Recipe) -> None:
    model = parse(GRAPHS[name], **{key: a for key, a in ARRAYS.items() if key in GRAPHS[name]})  # type: ignore[arg-type]
    feeds, others = images(16), images(8, seed=5)
    layers, refused = layers_of(model, planned(model, recipe, feeds))
    assert layers
    assert not refused
    expected = outputs(model, others)
    plain = sqnr(expected, outputs(quantized(model, recipe, feeds)[0], others))
    better = sqnr(expected, outputs(inserted(refined(model, recipe, BOTH, feeds)), others))
    assert better > plain - 0.5, (plain, better)  # one draw of the rounding


def test_layers_that_cannot_be_refined_say_why() -> None:
    text = """g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 7] y) {
        y = MatMul(x, m)
    }"""
    model, feeds = parse(text, m=noise(3, 12, 7)), images(2)
    layers, refused = layers_of(model, planned(model, A8W8, feeds))
    assert not layers
    assert [d.reason for d in refused] == ["its weight is a stack of matrices, or a vector"]


CLIPPED = """g (float[N, 3, 12, 12] x) => (float[N, 6, 12, 12] y) {
  a = Conv<kernel_shape=[1, 1]>(x, w1, b1)
  r = Clip(a, low, high)
  y = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(r, w2, b2)
}"""


@pytest.mark.parametrize("wanted", [BIAS, BOTH], ids=["biases", "both"])
def test_it_aims_at_the_original_where_the_model_computes_something_else(wanted: Refinement) -> None:
    """As ClipMode 'soft' leaves it: channels scaled through a Clip whose bound stays."""
    factors = np.array([1, 2, 4, 1, 3, 2, 1, 1], np.float32).reshape(1, 8, 1, 1)
    w1, w2 = noise(8, 3, 1, 1, seed=1), noise(6, 8, 3, 3, seed=2)
    b1, b2 = noise(8, seed=3), noise(6, seed=4)
    bounds = {"low": np.float32(0), "high": np.float32(4)}
    original = parse(CLIPPED, w1=w1, b1=b1, w2=w2, b2=b2, **bounds)  # type: ignore[arg-type]
    scale = factors.reshape(8, 1, 1, 1)
    model = parse(CLIPPED, w1=w1 * scale, b1=b1 * factors.ravel(), w2=w2 / factors, b2=b2, **bounds)  # type: ignore[arg-type]
    feeds = images(12)
    plan = planned(model, A8W8, feeds)
    target = outputs(original, feeds)

    def errors(original_of_run: Original | None) -> tuple[float, float]:
        got = outputs(inserted(refine(model, plan, target_of(A8W8), feeds, wanted, original_of_run)), feeds)
        return float(np.abs((got - target).mean(axis=(0, 2, 3))).max()), sqnr(target, got)

    aimed, blind = errors(Original(original, {"a": factors, "r": factors})), errors(None)
    assert aimed[0] < 0.1 * blind[0]
    assert aimed[1] > blind[1] + 0.5


def test_an_int8_bias_that_leaves_its_range_gets_a_coarser_scale() -> None:
    model, feeds = chain(), images(6)
    plan = planned(model, XINT8, feeds)
    first = next(n.name for n in model.graph if n.op_type == "Conv")
    key = (first or "", 2)
    narrow = dataclasses.replace(plan.constants[key], scale=plan.constants[key].scale / np.float32(4))
    clipped = dataclasses.replace(plan, constants={**plan.constants, key: narrow})
    found = refine(model, clipped, target_of(XINT8), feeds, BIAS)
    assert float(found.plan.constants[key].scale) == 4 * float(narrow.scale)


def test_a_bias_of_zeros_is_corrected_as_well_as_none() -> None:
    """Its scale, chosen for zeros, would clip the correction."""
    feeds, zeros = images(6), chain()
    last = [node for node in zeros.graph if node.op_type == "Conv"][-1]
    set_input(last, 2, add_initializer(zeros.graph, "b3", np.zeros(6, np.float32)))
    absent, given = (refined(model, XINT8, BIAS, feeds) for model in (chain(), zeros))
    key = (last.name or "", 2)
    assert given.plan.constants[key] == absent.plan.constants[key]


@pytest.mark.parametrize("wanted", [BIAS, BOTH], ids=["biases", "both"])
def test_int8_biases_stay_within_reach_of_the_accumulator(wanted: Refinement) -> None:
    """The documented limit of the NPU: 15 powers of two above s_x·s_w; also of a bias that was added."""
    model, feeds = chain(), images(6)
    found = refined(model, XINT8, wanted, feeds)
    for layer in layers_of(found.model, found.plan)[0]:
        assert layer.bias_params is not None
        steps = float(layer.bias_params.scale) / layer.accumulator_step
        assert steps <= 2**15
