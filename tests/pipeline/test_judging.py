"""Which samples candidates are calibrated and measured on, and what of them counts."""

from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import SampleView, open_samples
from equiquant.graph.edit import infer_shapes
from equiquant.io import input_specs, load_model
from equiquant.numerics.statistics.sqnr import mean_noise_db
from equiquant.pipeline.measuring.judging import Judge, Yardstick
from equiquant.pipeline.measuring.splitting import alternate, held_back
from equiquant.recipe import Recipe, preset
from tests.canonical.support import proto, weights


@pytest.mark.parametrize(
    ("name", "options", "least", "most"),
    [
        ("a8w8", {}, 0, 10),  # what competes with ranges chosen on the first part sees no more than that
        ("xint8", {}, 0, 10),
        ("a8w8", {"cle_method": "pairwise"}, 25, 60),
        ("a8w8", {"calibration": "minmax"}, 25, 60),
        ("xint8", {"cle": False}, 25, 60),
    ],
)
def test_the_ranges_of_candidates_see_no_more_than_those_they_compete_with(
    name: str, options: dict[str, Any], least: float, most: float
) -> None:
    recipe = preset(name, bias_correction=False, **options)
    assert least < _measured(recipe) < most


def test_what_is_raised_to_16_bits_sees_what_ranges_of_before_saw() -> None:
    recipe = preset("a8w8", bias_correction=False)
    assert _measured(recipe, recipe.replace(nodes_to_int16=("conv",))) > 25


def _measured(recipe: Recipe, other: Recipe | None = None) -> float:
    """Return what a judge says of a layer whose held samples are ten times the fitted ones."""
    nodes, given = "[conv] a = Conv(x, w) y = Relu(a)", weights(w=(4, 3, 1, 1))
    model = load_model(proto(nodes, "float[N,3,8,8] x", "float[] y", given, opset=21, ir_version=10)).model
    samples = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    samples[alternate(16)[1]] *= 10
    with open_samples(samples, input_specs(model), recipe) as stream:
        return Judge(model, stream, recipe).sqnr_db(model, recipe=other)


@pytest.mark.parametrize("other", ["z = ReduceMax(x)", "b = Elu(x) z = Conv(b, w)", "r = Relu(y) z = Log(r)"])
def test_outputs_that_are_exact_or_infinite_drown_no_other(other: str) -> None:
    figures = []
    for nodes, outputs in (("", "float[] y"), (other, "float[] y, float[] z")):
        text = f"[first] y = Conv(x, w) {nodes}", "float[N,3,8,8] x", outputs, weights(w=(4, 3, 1, 1))
        model = load_model(proto(*text)).model
        recipe = preset("a8w8", bias_correction=False)
        kept = tuple(str(node.name) for node in model.graph if node.op_type == "Conv" and node.name != "first")
        recipe = recipe.replace(nodes_to_exclude=kept)
        samples = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
        with open_samples(samples, input_specs(model), recipe) as stream:
            figures.append(Judge(model, stream, recipe).sqnr_db(model))
    assert 25 < figures[0] < 60
    assert figures[1] == pytest.approx(figures[0])


def test_an_infinite_output_that_rounding_made_another_drowns_no_float_figure() -> None:
    figures = []
    for outputs in ("float[] y", "float[] y, float[] z"):
        rest = "float[N,3,8,8] x", outputs, weights(w=(4, 3, 1, 1))
        whole, other = (
            load_model(proto(f"y = Conv(x, w) r = {kind}(y) z = Log(r)", *rest)).model for kind in ("Relu", "Abs")
        )
        samples = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
        with open_samples(samples, input_specs(whole), preset("a8w8")) as stream:
            figures.append(Yardstick(whole, SampleView(stream, 0, 8), mean_noise_db).sqnr_db(other))
    assert figures[0] == figures[1] > 100


def test_a_masked_output_is_heard_beside_others() -> None:
    given: dict[str, np.ndarray] = {**weights(w=(4, 3, 1, 1)), "m": np.array([0, 0, 0, -np.inf], np.float32)}
    text = "y = Conv(x, w) t = Transpose<perm = [0, 2, 3, 1]>(y) z = Add(t, m) v = ReduceMax(x)"
    model = load_model(proto(text, "float[N,3,8,8] x", "float[] z, float[] v", given)).model
    recipe = preset("a8w8", bias_correction=False)
    samples = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    with open_samples(samples, input_specs(model), recipe) as stream:
        assert 25 < Judge(model, stream, recipe).sqnr_db(model) < 60


def test_an_output_that_a_candidate_keeps_in_float_counts_as_it_did() -> None:
    given = weights(w=(4, 3, 1, 1), v=(4, 3, 1, 1))
    nodes = "[first] y = Conv(x, w) [second] z = Conv(x, v)"
    model = load_model(proto(nodes, "float[N,3,8,8] x", "float[] y, float[] z", given)).model
    recipe = preset("a8w8", bias_correction=False)
    samples = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    with open_samples(samples, input_specs(model), recipe) as stream:
        judge = Judge(model, stream, recipe)
        assert judge.sqnr_db(model) < 60
        assert judge.sqnr_db(model, recipe=recipe.replace(nodes_to_exclude=("second",))) > 100


@pytest.mark.parametrize(("count", "size", "most"), [(1, 8, 1), (2, 8, 1), (5, 8, 2), (96, 8, 48), (120, 130, 24)])
def test_one_half_is_fitted_to_and_the_other_measured(count: int, size: int, most: int) -> None:
    nodes, given = "a = Conv(x, w) y = Relu(a)", weights(w=(4, 3, 1, 1))
    model = load_model(proto(nodes, f"float[N,3,{size},{size}] x", "float[] y", given))
    samples = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 3, size, size))
    with open_samples(samples, input_specs(model.model), preset("a8w8")) as stream:
        judge = Judge(model.model, stream, preset("a8w8"))
        fitted, held = ([int(feed["x"].flat[0]) for feed in view] for view in (judge.fitted, judge.held))
    first, others = alternate(min(count, 96))  # of smaller feeds more than the first 96 would be taken
    assert fitted == first
    assert set(held) <= set(others or first)
    assert len(held) == most
    assert len(others) <= most or not set(held).intersection(held_back(96))


def test_what_only_fills_up_a_static_batch_is_not_measured() -> None:
    samples = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
    samples[4:] *= 10
    figures = []
    for batch in ("N", "4"):
        given = (f"float[{batch},3,4,4] x", "float[] y", weights(w=(2, 3, 1, 1)))
        whole, less = (load_model(proto(f"a = Conv(x, w) y = {kind}(a)", *given)).model for kind in ("Elu", "Relu"))
        with open_samples(samples, input_specs(whole), preset("a8w8")) as stream:
            figures.append(Yardstick(whole, SampleView(stream, 0, stream.count_up_to(9))).sqnr_db(less))
    assert figures[0] == pytest.approx(figures[1])


def test_a_yardstick_hears_what_a_final_sigmoid_does() -> None:
    nodes = "a = Conv(x, w) s = {}(a{}) y = Sigmoid(s)"
    given = weights(w=(2, 4, 1, 1)) | {"low": np.array(-8, np.float32), "high": np.array(8, np.float32)}
    whole, less = (
        load_model(proto(nodes.format(*cut), "float[N,4,6,6] x", "float[] y", given)).model
        for cut in (("Identity", ""), ("Clip", ", low, high"))
    )
    for model in (whole, less):
        infer_shapes(model)
    samples = 20 * np.random.default_rng(0).standard_normal((8, 4, 6, 6)).astype(np.float32)
    with open_samples(samples, input_specs(whole), preset("a8w8")) as stream:
        assert Yardstick(whole, SampleView(stream, 0, 8)).sqnr_db(less) > 60
