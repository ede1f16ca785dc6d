"""Rewrites for the NPU: what keeps the function, what changes it and by which formula, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import hardware, target
from equiquant.canonical.absorb import STANDARDIZES
from equiquant.decisions import Decision
from equiquant.hardware.factors import HARD_SIGMOID_FACTOR, is_hardware_factor, mean_factor, pool_factor
from equiquant.hardware.rewrites import EXACT, VALUES
from equiquant.recipe import Recipe, preset
from tests.qdq.support import Array, noise, op_types, parse, run

ALL = preset("xint8", dpu_clip=True)
MAPS = (2, 4, 6, 6)


def rewritten(model: ir.Model, recipe: Recipe = ALL) -> tuple[ir.Model, list[Decision]]:
    """Return a rewritten copy, run through onnxruntime once, and what was decided."""
    copy = model.clone()
    exact, values = hardware.wanted(recipe)
    skip = target.left_float(copy, recipe)
    done = hardware.rewrite(copy, exact, skip) + hardware.rewrite(copy, values, skip)
    assert [v.name for v in copy.graph.outputs] == [v.name for v in model.graph.outputs]
    assert all(d.stage == "hardware" for d in done)
    names = [n.name for n in copy.graph]
    assert len(set(names)) == len(names)
    return copy, done


def outputs(text: str, shape: tuple[int, ...], recipe: Recipe = ALL, **constants: Any) -> tuple[Any, Any, ir.Model]:
    """Return the outputs before and after, and the rewritten model."""
    model = parse(text, **constants)
    feed = {"x": noise(*shape, seed=5)}
    copy, _ = rewritten(model, recipe)
    return run(model, feed), run(copy, feed), copy


def refusals(text: str, recipe: Recipe = ALL, **constants: Any) -> list[str]:
    """Return the reasons of the refusals, after checking that nothing was done."""
    model = parse(text, **constants)
    copy, done = rewritten(model, recipe)
    assert op_types(copy) == op_types(model)
    return [d.reason for d in done if not d.applied]


def same(before: list[Array], after: list[Array]) -> bool:
    return all(np.abs(a - b).max() <= 1e-5 * np.abs(a).max() for a, b in zip(before, after, strict=True))


BN: dict[str, Any] = {
    "g": 1 + noise(4) / 8,
    "b": noise(4, seed=1),
    "m": noise(4, seed=2),
    "v": 1 + noise(4, seed=3) / 8,
}


@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (2, 4, 9), (1, 4, 2, 3, 2)])
def test_a_batch_normalization_becomes_a_depthwise_conv(shape: tuple[int, ...]) -> None:
    dims = ",".join(map(str, shape))
    text = f"g (float[{dims}] x) => (float[{dims}] y) {{ y = BatchNormalization <epsilon = 0.01> (x, g, b, m, v) }}"
    before, after, copy = outputs(text, shape, **BN)
    assert dict(op_types(copy)) == {"Conv": 1}
    assert same(before, after)


def test_a_batch_normalization_that_cannot_be_a_conv_is_refused() -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { y = BatchNormalization(x, g, b, m, v) }"
    assert refusals(text, **BN) == ["a Conv needs at least one spatial axis"]
    text = "g (float[2,4,6,6] x, float[4] g) => (float[] y) { y = BatchNormalization(x, g, b, m, v) }"
    rest = {k: v for k, v in BN.items() if k != "g"}
    assert refusals(text, **rest) == ["its parameters are not all constants"]
    text = "g (float[2,4,6,6] x) => (float[] y) { y = BatchNormalization(x, g, b, m, v) }"
    assert refusals(text, **BN | {"v": np.array([1, 1, 100, 1], np.float32)}) == [STANDARDIZES]


GEMM: dict[str, Any] = {"w": noise(4, 3), "c": noise(2, 3, seed=1)}


@pytest.mark.parametrize(
    ("call", "left"),
    [
        ("Gemm <alpha = 0.3, beta = -2.0> (x, w, c)", set()),
        ("Gemm <alpha = 5.9604645e-08, transA = 0> (x, w, c)", {"transA"}),
        ("Gemm <beta = 3.0, alpha = -1.0> (x, w)", {"beta"}),
    ],
)
def test_the_factors_of_a_gemm_become_part_of_its_constants(call: str, left: set[str]) -> None:
    text = f"g (float[2,4] x) => (float[2,3] y, float[2,3] z) {{ y = {call}  z = Gemm(x, w, c) }}"
    before, after, copy = outputs(text, (2, 4), preset("xint8", simulate_dpu=False), **GEMM)
    assert set(copy.graph[0].attributes) == left
    assert same(before, after)  # z among them: it has constants of its own


def test_the_factor_of_a_computed_matrix_is_refused() -> None:
    text = "g (float[2,4] x, float[4,3] w) => (float[] y) { y = Gemm <alpha = 0.5> (x, w) }"
    assert refusals(text) == ["what its alpha multiplies is not a constant"]


def test_a_mean_over_the_map_becomes_a_pool() -> None:
    text = "g (float[2,4,6,6] x) => (float[2,4,1,1] y) { y = ReduceMean <axes = [-1, 2]> (x) }"
    before, after, copy = outputs(text, MAPS, preset("xint8", simulate_dpu=False))
    assert dict(op_types(copy)) == {"GlobalAveragePool": 1}
    assert same(before, after)
    dropped = "g (float[2,4,6,6] x) => (float[2,4] y) { y = ReduceMean <axes = [2, 3], keepdims = 0> (x) }"
    (why,) = refusals(dropped, preset("xint8", simulate_dpu=False))
    assert "keepdims=1" in why
    other = "g (float[2,4,6,6] x) => (float[2,1,6,6] y) { y = ReduceMean <axes = [1]> (x) }"
    assert refusals(other, preset("xint8", simulate_dpu=False)) == []


@pytest.mark.parametrize(("height", "width", "first"), [(28, 28, (4, 4)), (30, 20, (5, 4)), (23, 23, None)])
def test_a_large_pool_is_split_where_one_split_is_enough(
    height: int, width: int, first: tuple[int, int] | None
) -> None:
    text = f"g (float[1,2,{height},{width}] x) => (float[1,2,1,1] y) {{ y = GlobalAveragePool(x) }}"
    recipe = preset("xint8", simulate_dpu=False)
    if first is None:
        assert "cannot be split" in refusals(text, recipe)[0]
        return
    before, after, copy = outputs(text, (1, 2, height, width), recipe)
    (pool,) = (n for n in copy.graph if n.op_type == "AveragePool")
    assert pool.attributes["kernel_shape"].value == pool.attributes["strides"].value == first
    assert same(before, after)


def test_a_small_pool_is_not_split() -> None:
    text = "g (float[1,2,22,22] x) => (float[1,2,1,1] y) { y = GlobalAveragePool(x) }"
    assert refusals(text, preset("xint8", simulate_dpu=False)) == []


@pytest.mark.parametrize("how", ["(x, n)", "(x)"])
def test_a_split_becomes_slices(how: str) -> None:
    text = f"g (float[2,8,3] x) => (float[] a, float[] b) {{ a, c = Split <axis = 1> {how}  b = Relu(c) }}"
    constants: dict[str, Any] = {"n": np.array([2, 6])} if "n" in how else {}
    before, after, copy = outputs(text, (2, 8, 3), **constants)
    assert op_types(copy)["Slice"] == 2
    assert op_types(copy)["Split"] == 0
    assert same(before, after)


def test_a_split_of_computed_sizes_is_refused() -> None:
    text = "g (float[2,7,3] x, int64[2] n) => (float[] a, float[] b) { a, b = Split <axis = 1> (x, n) }"
    assert refusals(text) == ["the sizes of its pieces are not constants"]


def test_a_slope_becomes_a_multiple_of_one_over_256() -> None:
    text = "g (float[2,4,6,6] x) => (float[2,4,6,6] y) { y = LeakyRelu <alpha = 0.1> (x) }"
    (before,), (after,), copy = outputs(text, MAPS)
    assert copy.graph[0].attributes["alpha"].value == 26 / 256
    negative = noise(*MAPS, seed=5) < 0
    assert np.allclose(after[negative], before[negative] / 0.1 * (26 / 256), rtol=1e-6)
    assert np.array_equal(after[~negative], before[~negative])
    assert refusals(text.replace("0.1", "0.25")) == []


@pytest.mark.parametrize("slope", [np.inf, np.nan])
def test_a_slope_that_is_not_finite_is_refused(slope: float) -> None:
    model = parse("g (float[2,4,6,6] x) => (float[2,4,6,6] y) { y = LeakyRelu (x) }")
    model.graph[0].attributes.add(ir.AttrFloat32("alpha", slope))
    assert [d.reason for d in rewritten(model)[1]] == ["its slope is not finite"]


def test_a_sigmoid_becomes_the_hard_sigmoid_of_the_npu() -> None:
    text = "g (float[2,4,6,6] x) => (float[2,4,6,6] y) { y = Sigmoid(x) }"
    _, (after,), copy = outputs(text, MAPS)
    assert dict(op_types(copy)) == {"HardSigmoid": 1, "Mul": 1}
    x = noise(*MAPS, seed=5)
    assert np.allclose(after, np.clip(x / 6 + 0.5, 0, 1) * 6 * 2731 / 16384, atol=1e-6)
    assert pytest.approx(1.0001, abs=1e-4) == HARD_SIGMOID_FACTOR
    assert "alpha 1/6" in refusals(text.replace("Sigmoid(", "HardSigmoid <alpha = 0.2> ("))[0]


FIXED = {3: 9 * 7 / 64, 5: 25 * 10 / 256, 6: 36 * 7 / 256, 7: 49 * 21 / 1024, 14: 196 * 21 / 4096}


@pytest.mark.parametrize("side", [3, 5, 6, 7, 9, 10, 14])
def test_a_mean_is_a_sum_times_a_short_fraction(side: int) -> None:
    expected = FIXED.get(side, pool_factor(side))
    square = f"g (float[1,2,{side},{side}] x) => (float[1,2,1,1] y) {{ y = POOL }}"
    for pool in ("GlobalAveragePool(x)", f"AveragePool <kernel_shape = [{side}, {side}]> (x)"):
        (before,), (after,), copy = outputs(square.replace("POOL", pool), (1, 2, side, side))
        assert op_types(copy)["Mul"] == 1
        assert np.allclose(after, before * expected, rtol=1e-6)


def test_the_factors_are_within_what_the_npu_can_hold() -> None:
    for count in range(1, 300):
        factor = mean_factor(count)
        assert abs(factor - 1) < 1 / 64
        numerator = np.frexp(factor / count)[0]
        assert float(np.ldexp(numerator, 8)).is_integer(), count  # k has at most 8 bits
    assert all(pool_factor(side) == 1.0 for side in (1, 2, 4, 8, 16))


def test_a_factor_of_one_needs_no_node_and_others_are_refused() -> None:
    assert refusals("g (float[1,2,4,4] x) => (float[] y) { y = GlobalAveragePool(x) }") == []
    (why,) = refusals("g (float[1,2,6,4] x) => (float[] y) { y = GlobalAveragePool(x) }")
    assert "square" in why


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("float[1,2,N,N] x) => (float[] y) { y = GlobalAveragePool(x)", ["is unknown; fix the model's", "is unknown"]),
        ("float[1,2,600] x) => (float[] y) { y = GlobalAveragePool(x)", ["over height and width", "square"]),
        ("float[1,2,9,9,9] x) => (float[] y) { y = GlobalAveragePool(x)", ["over height and width", "square"]),
        ("float[1,2,300,300] x) => (float[] y) { y = AveragePool <kernel_shape=[300,300]>(x)", ["no window wider"]),
        ("float[1,2,6,6] x, int64[1] n) => (float[] y) { y = ReduceMean(x, n)", ["axes are not constants"] * 2),
        ("float[1,2,0,6] x) => (float[] y) { y = ReduceMean(x)", ["averages no values"]),
        ("float[1,3,6,6] x) => (float[] y) { y = ReduceMean <noop_with_empty_axes=1>(x)", []),
    ],
)
def test_means_that_cannot_be_rewritten_are_listed_and_one_over_nothing_is_none(text: str, reasons: list[str]) -> None:
    model = parse(f"g ({text} }}", opset=18)
    copy, done = rewritten(model)
    assert op_types(copy) == op_types(model)
    for decision, reason in zip(done, reasons, strict=True):
        assert reason in decision.reason


def test_a_mean_over_channels_gets_its_factor() -> None:
    text = "g (float[2,6,5,5] x) => (float[2,1,5,5] y) { y = ReduceMean <axes = [1]> (x) }"
    (before,), (after,), _ = outputs(text, (2, 6, 5, 5))
    assert np.allclose(after, before * mean_factor(6), rtol=1e-6)
    assert mean_factor(6) != 1


def test_a_factor_is_inserted_once_and_keeps_every_reader() -> None:
    text = """g (float[1,2,7,7] x) => (float[] p, float[] y) {
        p = GlobalAveragePool(x)  a = Relu(p)  y = Add(a, p) }"""
    model = parse(text)
    once, _ = rewritten(model)
    twice, done = rewritten(once)
    assert op_types(twice) == op_types(once)
    assert not any(d.applied for d in done)
    feed = {"x": noise(1, 2, 7, 7)}
    for before, after in zip(run(model, feed), run(once, feed), strict=True):
        assert np.allclose(after, before * pool_factor(7), rtol=1e-6)


def test_a_product_of_the_users_own_is_not_a_factor() -> None:
    text = "g (float[1,2,7,7] x) => (float[] y) { p = GlobalAveragePool(x)  y = Mul(p, two) }"
    model = parse(text, two=np.array(2.0, np.float32))
    copy, _ = rewritten(model)
    assert op_types(copy)["Mul"] == 2
    assert [is_hardware_factor(n) for n in copy.graph] == [False, True, False]


def test_bounds_become_whole_numbers_when_asked() -> None:
    text = "g (float[2,4,6,6] x) => (float[] y) { y = Clip(x, lo, hi) }"
    bounds: dict[str, Any] = {"lo": np.array(-0.6, np.float32), "hi": np.array(200.0, np.float32)}
    _, (after,), _ = outputs(text, MAPS, **bounds)
    assert np.array_equal(after, np.clip(noise(*MAPS, seed=5), -1, 127))
    assert refusals(text, preset("xint8"), **bounds) == []


FIELDS = [rule.name for rule in (*EXACT, *VALUES)]
EVERYTHING = """g (float[1,4,28,28] x) => (float[] y, float[] z, float[] w) {
    n = BatchNormalization(x, g, b, m, v)
    l = LeakyRelu <alpha = 0.1> (n)
    q = GlobalAveragePool(l)
    c = Clip(q, lo, hi)
    s = Sigmoid(c)
    h = HardSigmoid <alpha = 0.16666667> (c)
    y, k = Split <axis = 1> (s)
    r = AveragePool <kernel_shape = [3, 3]> (l)
    o = ReduceMean <axes = [2, 3]> (r)
    z = Add(o, h)
    w = ReduceMean <axes = [3]> (l)
}"""
SOME: dict[str, Any] = {**BN, "lo": np.array(0.0, np.float32), "hi": np.array(5.5, np.float32)}


@pytest.mark.parametrize("field", FIELDS)
def test_every_rewrite_is_an_option_of_its_own(field: str) -> None:
    model = parse(EVERYTHING, **SOME)
    _, done = rewritten(model)
    assert field in {d.rule for d in done if d.applied}
    _, done = rewritten(model, ALL.replace(**{field: False}))
    assert field not in {d.rule for d in done}


def test_simulate_dpu_turns_off_what_changes_values_and_other_targets_are_left_alone() -> None:
    model = parse(EVERYTHING, **SOME)
    copy, done = rewritten(model, ALL.replace(simulate_dpu=False))
    assert {d.rule for d in done if d.applied} == {rule.name for rule in EXACT}
    feed = {"x": noise(1, 4, 28, 28)}
    assert same(run(model, feed), run(copy, feed))
    assert rewritten(model, preset("a8w8"))[1] == []


def test_a_node_that_stays_float_is_left_alone() -> None:
    text = "g (float[2,4,6,6] x) => (float[2,4,6,6] y) { y = Sigmoid(x) }"
    model = parse(text)
    (name,) = (n.name or "" for n in model.graph)
    assert rewritten(model, ALL.replace(nodes_to_exclude=(name,)))[1] == []
    assert rewritten(model, ALL.replace(op_types_to_quantize=("Sigmoid",)))[1] == []  # HardSigmoid is not among them


@pytest.mark.parametrize(("node", "done"), [("LeakyRelu <alpha = 0.1> (a)", 1), ("GlobalAveragePool (a)", 0)])
def test_before_an_excluded_layer_only_what_a_quantized_one_computes_is_rewritten(node: str, done: int) -> None:
    model = parse(
        f"g (float[1,4,3,3] x) => (float[] y) {{ a = Conv (x, w)  b = {node}  y = Conv (b, w) }}", w=noise(4, 4, 1, 1)
    )
    assert len(rewritten(model, ALL.replace(nodes_to_exclude=("Conv_y",)))[1]) == done
    assert len(rewritten(model)[1]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "g (int32[2,3,6,6] x) => (int32[2,1,6,6] y) { y = ReduceMean <axes = [1]> (x) }",
        "g (int32[2,4,6,6] x) => (int32[2,4,1,1] y) { y = ReduceMean <axes = [2, 3]> (x) }",
        "g (double[2,4,6,6] x) => (double[2,4,6,6] y) { y = Sigmoid(x) }",
        "g (double[2,4,6,6] x) => (double[] y) { y = BatchNormalization(x, g, b, m, v) }",
        "g (float[1,4,6,6] x) => (float[] y) { y = AveragePool <kernel_shape = [3, 3], dilations = [2, 2]> (x) }",
        "g (int64[12] x) => (int64[12] y) { y = Clip(x, low, high) }",
        "g (float[12] x, float t) => (int64[12] y) { c = Clip(x, t)  y = Cast <to = 7> (c) }",
    ],
    ids=["mean of integers", "pool of integers", "double", "double norm", "dilated", "integer bounds", "index"],
)
def test_a_node_the_quantizer_refuses_is_left_alone(text: str) -> None:
    bounds = {"low": np.array(0), "high": np.array(999)}
    parameters = {name: array.astype(np.float64) for name, array in BN.items()}
    model = parse(text, opset=19, **bounds, **parameters)
    copy, done = rewritten(model)
    assert done == []
    assert op_types(copy) == op_types(model)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_factor_is_known_again_in_any_type(kind: type[np.floating[Any]]) -> None:
    """Of 11 x 11 values it is no float16, and was multiplied in again and again."""
    name = {np.float16: "float16", np.float32: "float"}[kind]
    model = parse(f"g ({name}[1, 2, 11, 11] x) => ({name}[1, 2, 1, 1] y) {{ y = GlobalAveragePool (x) }}")
    _, values = hardware.wanted(ALL)
    hardware.rewrite(model, values, frozenset())
    assert op_types(model) == {"GlobalAveragePool": 1, "Mul": 1}
