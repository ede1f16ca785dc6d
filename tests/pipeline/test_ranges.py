"""Ranges that may clip: where they are chosen with the scales, and what takes their place where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import quantize
from equiquant.calibrate import SampleView, load_stats, open_samples
from equiquant.canonical import canonicalize
from equiquant.equalization import EqualizationPlan, find_classes
from equiquant.io import input_specs, load_model
from equiquant.pipeline.measuring.judging import Judge
from equiquant.pipeline.measuring.splitting import alternate
from equiquant.pipeline.scales.solving import solve
from equiquant.recipe import preset
from equiquant.report.page import page
from equiquant.target import survey
from tests.calibrate.support import trained
from tests.canonical.support import proto, run, weights

PLAIN: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest"}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    nodes = "a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2)"
    return proto(nodes, "float[N,3,H,W] x", "float[] y", weights(w1=(16, 3, 1, 1), b1=(16,), w2=(8, 16, 1, 1)))


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    """Return samples with long tails."""
    return np.random.default_rng(0).laplace(size=(16, 3, 12, 12)).astype(np.float32)


def scales(source: onnx.ModelProto | ir.Model, data: np.ndarray | None, **options: Any) -> tuple[dict[str, Any], Any]:
    report = quantize(source, data=data, **PLAIN, **options).report.to_dict()
    return {t["name"]: np.asarray(t["scale"]) for t in report["tensors"]}, report


def told(report: Any) -> list[str]:
    """Return what is said of ranges that were not chosen by the noise they leave."""
    return [d["reason"] for d in report["decisions"] if (d["stage"], d["rule"]) == ("calibrate", "noise")]


def test_with_weights_per_channel_activations_may_clip(model: onnx.ModelProto) -> None:
    data = np.random.default_rng(0).normal(size=(16, 3, 96, 96)).astype(np.float32) ** 3
    reaching, _ = scales(model, data, preset="a8w8_per_channel", calibration="minmax", cle=False)
    found, report = scales(model, data, preset="a8w8_per_channel", cle=False, cle_accept="always")
    assert report["equalization"]["method"] == "none+ranges"
    assert not told(report)
    assert ", noise calibration" in page(report)
    assert found["x"] < 0.95 * reaching["x"]
    for name in found:
        if name.endswith("[1]"):  # weights reach their largest
            assert found[name].size > 1
            assert np.array_equal(found[name], reaching[name])


@pytest.mark.parametrize("preset", ["a8w8", "a8w8_per_channel"])
def test_where_the_solver_chooses_none_squared_error_does(
    model: onnx.ModelProto, data: np.ndarray, preset: str
) -> None:
    options = {"preset": preset, "cle_method": "pairwise", "cle_accept": "always"}
    found, report = scales(model, data, **options)
    wanted, _ = scales(model, data, calibration="mse", **options)
    assert told(report) == ["cle_method 'pairwise' chooses no ranges: those of least squared error are taken"]
    assert ", mse calibration" in page(report)
    assert found.keys() == wanted.keys()
    for name in found:
        assert np.array_equal(found[name], wanted[name])


@pytest.mark.filterwarnings("ignore:No calibration data")
def test_on_made_up_inputs_the_largest_values_do() -> None:
    """However well they fit: what is rare in them may not be elsewhere."""
    options = {"preset": "a8w8", "cle_method": "pairwise", "cle_accept": "always"}
    found, report = scales(trained(), None, **options)
    assert report["recipe"]["calibration"] == "noise"
    assert "smallest and largest values are taken" in told(report)[0]
    assert ", minmax calibration" in page(report)
    wanted, _ = scales(trained(), None, calibration="minmax", **options)
    for name in found:
        assert np.array_equal(found[name], wanted[name])


@pytest.mark.parametrize(("accept", "tried", "kept"), [("measured", 1, "none"), ("always", 0, "global")])
def test_scales_that_move_float_layers_alone_are_not_tried(
    data: np.ndarray, accept: str, tried: int, kept: str
) -> None:
    nodes = "[a] a = Conv(x, w1) r = Relu(a) [s] s = Conv(r, w2) t = Softmax<axis=1>(s) [y] y = Conv(t, w3)"
    source = proto(nodes, "float[N,3,H,W] x", "float[] y", weights(w1=(16, 3, 1, 1), w2=(8, 16, 1, 1), w3=(4, 8, 1, 1)))
    options = {"preset": "a8w8", "nodes_to_exclude": ("a", "s"), "calibration": "minmax", "cle_accept": accept}
    _, report = scales(source, data, **options)
    assert len(report["equalization"].get("trials", [])) == tried
    assert report["equalization"]["method"] == kept


def test_the_gains_of_biases_come_with_the_ranges(model: onnx.ModelProto, data: np.ndarray, tmp_path: Path) -> None:
    """A file of statistics gives the same biases again: it keeps how much each channel of them counts."""
    file = tmp_path / "stats.npz"
    quantize(model, data=data, preset="xint8", cle_accept="always", calibration_cache=file)
    kept = load_stats(file).scales
    assert kept is not None
    assert kept.ranges is not None
    (gains,) = kept.ranges.gains.values()
    assert len(gains) == 16
    assert min(gains) > 0


@pytest.mark.parametrize(("preset", "least"), [("a8w8", 0.45), ("xint8", 0.25)])  # steps that never overflow are coarse
def test_what_shows_few_values_has_its_range_from_all_samples(preset: str, least: float) -> None:
    nodes = "a = Conv(x, w1) r = Relu(a) p = GlobalAveragePool(r) y = Conv(p, w2)"
    source = proto(nodes, "float[N,3,12,12] x", "float[] y", weights(w1=(8, 3, 1, 1), w2=(4, 8, 1, 1)))
    samples = np.random.default_rng(0).normal(size=(24, 3, 12, 12)).astype(np.float32)
    samples[alternate(24)[1]] += 2.0  # these are held back from the solver
    options = {"preset": preset, "cle_accept": "always", "cle_method": "global"}
    found, report = scales(source, samples, **options)
    reaching, _ = scales(source, samples, calibration="minmax" if preset == "a8w8" else "nonoverflow", **options)
    assert report["equalization"]["method"].startswith("global+")
    for name in "py":
        assert found[name] >= least * reaching[name]


def without_ranges(name: str, count: int) -> tuple[list[EqualizationPlan], float]:
    """Return the candidates of a classifier that choose no ranges, and the largest of its outputs."""
    nodes = "a = Conv(x, w1) r = Relu(a) p = GlobalAveragePool(r) y = Conv(p, w2)"
    given = weights(w1=(8, 3, 1, 1), w2=(4, 8, 1, 1))
    model = load_model(proto(nodes, "float[N,3,12,12] x", "float[] y", given)).model
    canonicalize(model)
    recipe, x = preset(name), np.random.default_rng(0).normal(size=(count, 3, 12, 12)).astype(np.float32)
    with open_samples(x, input_specs(model), recipe) as stream:
        fitted, *rest = (SampleView.picked(stream, picks) for picks in alternate(count) if picks)
        more = rest[0] if rest else None
        plans, _ = solve(model, find_classes(model), recipe, survey(model, recipe), fitted, 100, rest=more)
    plain = [plan for plan in plans if plan.method in ("none", "pairwise", "global")]
    assert len(plain) == 3
    assert not any(plan.ranges for plan in plain)
    return plain, float(run(ir.to_proto(model), {"x": x})[0].max())


@pytest.mark.parametrize(("name", "few"), [("a8w8", {"p", "y"}), ("xint8", {"y"})])  # the NPU's pool keeps its scale
def test_every_candidate_has_room_beyond_the_few_values_of_pooled_features(name: str, few: set[str]) -> None:
    """Samples held back cannot tell: too few of them go beyond the largest of those seen."""
    plans, largest = without_ranges(name, 24)
    for plan in plans:
        assert plan.settled is not None
        assert {key[1] for key in plan.settled.ends} == few
        assert plan.settled.ends["activation", "y"][0] > (1.0 if name == "a8w8" else 0.7) * largest


def test_a_single_sample_leaves_room_beyond_its_few_values_too() -> None:
    for plan in without_ranges("a8w8", 1)[0]:
        assert plan.settled is not None
        assert {"p", "y"} <= {key[1] for key in plan.settled.ends}


def test_few_values_of_a_layer_have_room_below_0_where_none_was_seen_there() -> None:
    """Pooled features are bounded by the Relu before them; what a layer makes of them is not."""
    nodes = "a = Conv(x, w1) r = Relu(a) p = GlobalAveragePool(r) y = Conv(p, w2, b)"
    given = weights(w1=(8, 3, 1, 1), w2=(4, 8, 1, 1)) | {"b": np.full(4, 4.0, np.float32)}
    source = proto(nodes, "float[N,3,4,4] x", "float[] y", given)
    samples = np.random.default_rng(0).normal(size=(24, 3, 4, 4)).astype(np.float32)
    assert run(source, {"x": samples})[0].min() > 0
    report = quantize(source, data=samples, preset="a8w8", **PLAIN).report.to_dict()
    zeros = {t["name"]: t["zero_point"] for t in report["tensors"]}
    assert zeros["p"] == 0
    assert 10 < zeros["y"] < 128


@pytest.mark.parametrize(("best", "kept"), [(2, "global"), (3, "global+ranges")])
def test_room_beyond_few_values_may_cost_something_on_samples_held_back(
    best: int, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They show what it costs, and hardly ever what it is good for; where it is ruinous, it tells nothing."""
    nodes = "a = Conv(x, w1) r = Relu(a) p = GlobalAveragePool(r) y = Conv(p, w2)"
    source = proto(nodes, "float[N,3,12,12] x", "float[] y", weights(w1=(8, 3, 1, 1), w2=(4, 8, 1, 1)))
    samples = np.random.default_rng(0).normal(size=(24, 3, 12, 12)).astype(np.float32)
    samples[alternate(24)[1]] += 2.0  # these are held back from the solver

    def scale_of_scores(cost: float) -> Any:
        measured: list[ir.Model] = []

        def told(_: Judge, model: ir.Model, ranges: Any = None, **__: Any) -> float:
            first = all(model is not other for other in measured)
            measured.extend([model] * first)
            return 50.0 + 30.0 * (len(measured) == best + 1) - (0.0 if first else cost)

        monkeypatch.setattr(Judge, "sqnr_db", told)
        found, report = scales(source, samples, preset="a8w8")
        assert report["equalization"]["method"] == kept
        return found["y"]

    assert scale_of_scores(0.0) == scale_of_scores(5.0) > scale_of_scores(15.0)


@pytest.mark.parametrize("options", [{"preset": "a16w8"}, {"preset": "a8w8", "nodes_to_int16": ("*",)}])
def test_16_bits_have_room_for_more_than_was_seen(
    model: onnx.ModelProto, data: np.ndarray, options: dict[str, Any]
) -> None:
    """Half their resolution is nothing beside what a value beyond the range costs."""
    found, _ = scales(model, data, cle=False, **options)
    (y,) = run(model, {"x": data})
    assert 1.6 < found["x"] * 65535 / (data.max() - data.min()) < 3.0  # ranges know one half of the samples
    assert 1.6 < found["y"] * 65535 / (y.max() - y.min()) < 3.0
