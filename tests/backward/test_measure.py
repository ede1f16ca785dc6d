"""Gains against injected noise, and the models the backward pass must cope with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import canonical
from equiquant.backward import Gains, measure_gains
from equiquant.backward.builder import build
from equiquant.io import Runner, load_model
from tests.backward.support import Array, disturbed, noise, parse

Feeds = Sequence[dict[str, Array]]

NET = """g (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    b = Conv <group = 6, strides = [2, 2], pads = [1, 1, 1, 1]> (r, w2)  c = Clip (b, lo, hi)
    d = Conv (c, w3)  e = Add (d, c)  f = LeakyRelu <alpha = 0.1> (e)
    p = GlobalAveragePool (f)  q = Flatten (p)  y = Gemm (q, w4, b4) }"""
WEIGHTS = {
    "w1": noise(6, 3, 3, 3, seed=1), "b1": noise(6, seed=2), "w2": noise(6, 1, 3, 3, seed=3), "w3": noise(6, 6, 1, 1),
    "w4": noise(6, 5, seed=5), "b4": noise(5, seed=6), "lo": np.array(-1, np.float32), "hi": np.array(6, np.float32),
}  # fmt: skip
ALL = dict.fromkeys("xarbcdefpqy", 1)


def net(text: str = NET, opset: int = 17) -> ir.Model:
    return parse(text, opset, **WEIGHTS)


def images(count: int = 24, batch: int = 1) -> list[dict[str, Array]]:
    return [{"x": noise(batch, 3, 8, 8, seed=k)} for k in range(count)]


def injected(model: ir.Model, feeds: Feeds, name: str, sigma: float, *, constant: bool, draws: int = 4) -> float:
    """Return noise power over signal power at the outputs, for noise of deviation `sigma` on one tensor."""
    sizes = Runner(model, [name]).run(feeds[0])[0].shape
    runner, clean = Runner(disturbed(model, name, len(sizes))), Runner(model)
    rng = np.random.default_rng(3)
    shape = sizes[:2] + (1,) * (len(sizes) - 2) if constant else sizes
    power, signal = np.zeros(len(model.graph.outputs)), np.zeros(len(model.graph.outputs))
    for feed in feeds:
        reference = clean.run(feed)
        for _ in range(draws):
            error = np.broadcast_to(rng.standard_normal(shape) * sigma, sizes).astype(np.float32)
            found = runner.run({**feed, "added": error})
            power += [np.square((f - r).astype(np.float64)).sum() for f, r in zip(found, reference, strict=True)]
            signal += [np.square(r.astype(np.float64)).sum() for r in reference]
    return float((power / signal).sum())


def decibels(gains: Gains, measured: float, sigma: float, *, constant: bool) -> float:
    predicted = (gains.constant if constant else gains.white).sum() * sigma**2
    return abs(10 * float(np.log10(predicted / measured)))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", list(ALL))
def test_gains_are_the_injected_noise(name: str, constant: bool) -> None:
    feeds = images(48)
    gains = measure_gains(net(), feeds, ALL)
    assert set(gains) == set(ALL)
    sigma = 1e-3
    measured = injected(net(), feeds, name, sigma, constant=constant)
    assert decibels(gains[name], measured, sigma, constant=constant) < 1.0


def test_the_injection_finds_a_wrong_gain() -> None:
    feeds = images(48)
    gains = measure_gains(net(), feeds, {"r": 1})["r"]
    measured = injected(net(), feeds, "r", 1e-3, constant=False)
    assert decibels(Gains(2 * gains.white, gains.constant), measured, 1e-3, constant=False) > 2.0
    assert decibels(Gains(gains.white, gains.white), measured, 1e-3, constant=True) < 1.0  # the two modes differ
    assert decibels(gains, measured, 1e-3, constant=True) > 1.0


def test_each_channel_has_its_own_gain() -> None:
    model = parse(
        "g (float[N,3,4] x) => (float[N,3,4] y) { a = Relu (x)  y = Mul (a, w) }",
        w=np.array([[1], [2], [0]], np.float32),
    )
    feeds = [{"x": np.abs(noise(50, 3, 4, seed=k)) + 1} for k in range(40)]
    gains = measure_gains(model, feeds, {"a": 1, "x": 2})
    white, constant = gains["a"].white, gains["a"].constant
    assert white.shape == (3,)
    assert gains["x"].white.shape == (4,)
    np.testing.assert_allclose(white / white[0], [1, 4, 0], rtol=0.1)
    np.testing.assert_allclose(constant, white, rtol=0.15)  # every position goes to an output of its own
    power = np.mean([np.square(f["x"] * [[1], [2], [0]]).sum() / 50 for f in feeds])
    assert white[0] == pytest.approx(4 / power, rel=0.05)


def test_results_repeat_and_follow_the_seed() -> None:
    first, again, other = (measure_gains(net(), images(4), {"r": 1}, seed=s)["r"] for s in (0, 0, 1))
    np.testing.assert_array_equal(first.white, again.white)
    np.testing.assert_array_equal(first.constant, again.constant)
    assert (first.white != other.white).all()


def test_batches_and_iterators_give_the_same_as_single_samples() -> None:
    samples = np.concatenate([f["x"] for f in images(240)])
    one = measure_gains(net(), ({"x": samples[k : k + 1]} for k in range(240)), ALL)
    cuts = [*range(0, 240, 50), 240]  # the last batch is smaller
    many = measure_gains(net(), [{"x": samples[i:j]} for i, j in itertools.pairwise(cuts)], ALL)
    for name in ALL:
        for a, b in ((one[name].white, many[name].white), (one[name].constant, many[name].constant)):
            assert abs(10 * np.log10(a.sum() / b.sum())) < 0.7, name


def test_the_model_is_not_changed_and_absent_tensors_are_left_out() -> None:
    text = NET.replace("r = Relu (a)", "r = Relu (a)  s = Shape (a)  dead = Neg (a)")
    model = net(text)
    before = ir.to_proto(model).SerializeToString()
    assert set(measure_gains(model, images(1), {"dead": 1, "s": 0, "none": 1, "w1": 0, "e": 1})) == {"e"}
    assert measure_gains(model, images(1), {"dead": 1}) == {}
    assert measure_gains(model, [], {"e": 1}) == {}
    assert ir.to_proto(model).SerializeToString() == before


def test_stale_shapes_and_old_opsets_do_not_matter() -> None:
    text = NET.replace("float[N,5] y", "float[1,5] y").replace(
        "p = Glob", "m = MaxPool <kernel_shape = [2, 2]> (f)  p = Glob"
    )
    text = text.replace("(f)  p = GlobalAveragePool (f)", "(f)  p = GlobalAveragePool (m)")
    expected = measure_gains(net(text), images(3, 2), {"r": 1})["r"]
    found = measure_gains(net(text, 13), images(3, 2), {"r": 1})["r"]
    np.testing.assert_allclose(found.white, expected.white, rtol=1e-5)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_precisions_are_measured_in_float32(kind: str) -> None:
    dtype = np.dtype({"double": "float64"}.get(kind, kind))
    text = """g (float[N,6] x) => (float[N,5] y) {
        a = MatMul (x, w)  o = Cast <to = 1> (a)  r = Relu (o)  y = MatMul (r, v) }"""
    feeds = [{"x": noise(3, 6, seed=k)} for k in range(6)]
    weights = {"w": noise(6, 4), "v": noise(4, 5)}
    expected = measure_gains(parse(text, **weights), feeds, {"r": 1})["r"]
    code = 10 if kind == "float16" else 11
    model = parse(
        text.replace("float[", f"{kind}[").replace("to = 1", f"to = {code}"),
        **{k: w.astype(dtype) for k, w in weights.items()},
    )
    found = measure_gains(model, [{"x": f["x"].astype(dtype)} for f in feeds], {"r": 1})["r"]
    np.testing.assert_allclose(found.white, expected.white, rtol=0.05)


def seeds(
    text: str, shape: tuple[int, ...] = (2, 3, 4), tensors: Sequence[str] = ("a",), **constants: Array
) -> list[str]:
    """Return what is seeded, and check that gains come out."""
    feed = {"x": noise(*shape, seed=9)}
    model = parse(text, **constants)
    assert set(measure_gains(model, [feed], dict.fromkeys(tensors, 1))) == set(tensors)
    return sorted(build(model, feed, dict.fromkeys(tensors, 1)).seeds)


HEAD = "g (float[2,3,4] x) => "


def test_several_outputs_add_up() -> None:
    assert seeds(HEAD + "(float[] y, float[] z) { a = Neg (x)  y = Relu (a)  z = Tanh (a) }") == ["y", "z"]
    text = HEAD + "(float[] y, float[] z) { a = Neg (x)  y = Identity (a)  z = Mul (a, k) }"
    feeds = [{"x": noise(2, 3, 4, seed=s)} for s in range(200)]
    power = np.mean([np.square(f["x"]).sum() / 2 for f in feeds])
    found = measure_gains(parse(text, k=np.array(100, np.float32)), feeds, {"a": 1})["a"]  # one unit of noise, twice
    np.testing.assert_allclose(found.white, 2 * 4 / power, rtol=0.1)


def test_an_op_without_a_rule_ends_the_way() -> None:
    text = "(float[] y) { a = Relu (x)  b = CumSum (a, n)  y = Neg (b) }"
    assert seeds(HEAD + text, n=np.array(1)) == ["a", "y"]
    text = "(float[] y) { a = Relu (x)  c = MatMul (a, w)  b = Det (c)  y = Neg (b) }"
    assert seeds(HEAD + text, w=noise(4, 3)) == ["c", "y"]
    model = parse(HEAD + text, w=noise(4, 3))
    gains = measure_gains(model, [{"x": noise(2, 3, 4)}], {"a": 1})["a"]
    cut = parse(HEAD + "(float[] c) { a = Relu (x)  c = MatMul (a, w) }", w=noise(4, 3))
    np.testing.assert_allclose(gains.white, measure_gains(cut, [{"x": noise(2, 3, 4)}], {"a": 1})["a"].white, rtol=0.5)


def test_integer_outputs_are_seeded_before_they_become_integers() -> None:
    assert seeds(HEAD + "(int64[] y) { a = Relu (x)  b = Tanh (a)  y = ArgMax <axis = 1> (b) }") == ["b"]
    assert seeds(HEAD + "(bool[] y) { a = Relu (x)  b = Greater (a, k)  y = Not (b) }", k=np.array(1, np.float32)) == [
        "a"
    ]
    assert seeds(HEAD + "(uint8[] y) { a = Relu (x)  y = Cast <to = 2> (a) }") == ["a"]


def test_a_shape_or_a_comparison_inside_carries_nothing() -> None:
    text = (
        "(float[] y) { a = Relu (x)  s = Shape (a)  z = ConstantOfShape (s)  t = Greater (a, z)  y = Where (t, x, z) }"
    )
    model = parse(HEAD + text)
    assert measure_gains(model, [{"x": noise(2, 3, 4)}], {"a": 1}) == {}


def test_values_captured_by_a_body_are_seeded() -> None:
    text = (
        HEAD
        + """(float[] y) { a = Relu (x)  b = Neg (x)
        y = If (t) <then_branch = g1 () => (float[] p) { p = Tanh (a) },
                    else_branch = g2 () => (float[] q) { q = Neg (b) }> }"""
    )
    assert seeds(text, tensors=("a", "b"), t=np.array(True)) == ["a", "b", "y"]


def test_states_of_a_recurrent_layer_are_outputs() -> None:
    """Nothing reads them within the graph, so that they lose their names once the graph has other outputs."""
    text = (
        HEAD
        + "(float[] y, float[] h, float[] c) { a = Relu (x)  s, h, c = LSTM <hidden_size = 3> (a, w, r)  y = Tanh (s) }"
    )
    model = parse(text, w=noise(1, 12, 4), r=noise(1, 12, 3))
    gains = measure_gains(model, [{"x": noise(2, 3, 4)}], {"s": 2, "a": 2})
    assert gains["s"].white.shape == (3,)
    assert set(build(model, {"x": noise(2, 3, 4)}, {"s": 2, "a": 2}).seeds) >= {"y", "h", "c"}


def test_shapes_that_inference_cannot_find_are_measured() -> None:
    text = HEAD + "(float[] y) { a = Relu (x)  n = NonZero (a)  m = Transpose (n)  c = GatherND (a, m)  y = Neg (c) }"
    assert seeds(text) == ["y"]


def test_tokens_of_a_sample_side_by_side_are_one_sample() -> None:
    text = (
        HEAD
        + """(float[2,12] y) { b = Transpose <perm = [0, 2, 1]> (x)
        a = Reshape (b, n)  c = Reshape (a, m)  y = ReduceSum (c, k) }"""
    )
    model = parse(text, n=np.array([8, 3]), m=np.array([2, 4, 3]), k=np.array([1]))
    feeds = [{"x": noise(2, 3, 4, seed=s)} for s in range(200)]
    gains = measure_gains(model, feeds, {"a": 1})["a"]
    np.testing.assert_allclose(gains.constant, 4 * gains.white, rtol=1e-4)  # the four tokens add up coherently


def test_an_output_that_is_always_zero_does_not_count() -> None:
    text = HEAD + "(float[] y, float[] z) { a = Relu (x)  z = Mul (a, k)  y = Neg (a) }"
    (gains,) = measure_gains(parse(text, k=np.array(0, np.float32)), [{"x": noise(2, 3, 4)}], {"a": 1}).values()
    assert np.isfinite(gains.white).all()
    assert (gains.white > 0).all()


def test_empty_outputs_stop_no_gradient() -> None:
    """The state that a causal convolution with a kernel of one keeps."""
    four, two = np.array([4], np.int64), np.array([2], np.int64)
    model = parse(HEAD + "(float[] y, float[] z) { a = Neg (x)  y = Relu (a)  z = Slice (a, n, n, k) }", n=four, k=two)
    gains = measure_gains(model, [{"x": noise(2, 3, 4)}], {"a": 1, "z": 0})
    assert (gains["a"].white > 0).all()
    assert "z" not in gains


def test_infinite_gradients_are_left_out() -> None:
    model = parse(HEAD + "(float[] y) { a = Relu (x)  b = Log (a)  y = Neg (b) }")
    infinite, finite = ({"x": x} for x in (np.zeros((2, 3, 4), np.float32), np.abs(noise(2, 3, 4)) + 1))
    assert set(measure_gains(model, [infinite], {"a": 1, "b": 1})) == {"b"}
    alone, both = (measure_gains(model, feeds, {"a": 1})["a"] for feeds in ([finite], [infinite, finite]))
    np.testing.assert_allclose(both.white, 2 * alone.white, rtol=1e-4)


@pytest.mark.parametrize("root", ["b = Sqrt (s)", "b = Pow (s, h)", "b = ReduceL2 <axes = [2]> (a)"])
def test_a_root_at_zero_behind_a_gate_stops_no_gradient(root: str) -> None:
    nodes = f"a = Relu (x)  q = Mul (a, a)  s = ReduceSum (q, k)  {root}  m = Max (b, e)  y = Div (a, m)"
    constants = {"k": np.array([2]), "h": np.array(0.5, np.float32), "e": np.array(1e-6, np.float32)}
    model = parse(HEAD + f"(float[] y) {{ {nodes} }}", **constants)
    x = noise(2, 3, 4)
    x[:, 1] = -1  # a row of zeros
    assert "a" in measure_gains(model, [{"x": x}], {"a": 1})


def samples(shared_data: Path, name: str, count: int) -> tuple[ir.Model, list[dict[str, Array]]]:
    import realdata

    model = load_model(realdata.reference(name)).model
    canonical.canonicalize(model)
    x, _ = realdata.load(name, "calib")
    return model, [{str(model.graph.inputs[0].name): x[k : k + 1]} for k in range(count)]


@pytest.mark.parametrize("most", [10, 1000])
def test_a_graph_of_many_nodes_runs_as_it_is(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    optimized = []

    def spy(model: ir.Model, *, optimize: bool) -> Runner:
        optimized.append(optimize)
        return Runner(model, optimize=optimize)

    expected = measure_gains(net(), images(2), ALL)
    monkeypatch.setattr("equiquant.backward.measure.FOLD_NODES", most)
    monkeypatch.setattr("equiquant.backward.measure.Runner", spy)
    found = measure_gains(net(), images(2), ALL)
    assert optimized == [most == 1000]
    for name, gains in expected.items():
        np.testing.assert_allclose(found[name].white, gains.white, rtol=1e-4)


def every(model: ir.Model, step: int) -> Iterator[str]:
    yield from [n.outputs[0].name or "" for n in model.graph if n.op_type in ("Conv", "LeakyRelu", "Clip", "Relu")][
        ::step
    ]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mobilenetv1_025", "kws_dscnn"])
def test_real_models_have_the_gains_of_injected_noise(shared_data: Path, name: str) -> None:
    model, feeds = samples(shared_data, name, 8)
    tensors = list(every(model, 20))
    gains = measure_gains(model, feeds, dict.fromkeys(tensors, 1), draws=6)
    assert set(gains) == set(tensors)
    errors = []
    runner = Runner(model, tensors)
    powers = [np.square(array).mean() for array in runner.run(feeds[0])]
    for tensor, power in zip(tensors, powers, strict=True):
        for constant in (False, True):
            sigma = 1e-4 * float(np.sqrt(power))
            measured = injected(model, feeds, tensor, sigma, constant=constant, draws=6)
            errors.append(decibels(gains[tensor], measured, sigma, constant=constant))
    assert np.median(errors) < 1.0, errors
    assert max(errors) < 2.5, errors
