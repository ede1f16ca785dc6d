"""What keeping a ReLU6 rests on: that its channels stay below its bound."""

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import equalize, quantize
from equiquant.numerics.statistics.sqnr import ErrorFigures
from equiquant.pipeline.measuring.splitting import alternate
from equiquant.pipeline.scales.clips import warn_of_clips
from equiquant.verify import Comparison, OutputQuality
from tests.canonical.support import error, proto, run, weights

PLAIN: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest"}


def network() -> tuple[onnx.ModelProto, np.ndarray]:
    """Return Conv, Clip(0, 6), Conv with channels of unlike sizes, and samples, the last ones larger."""
    parameters = weights(w1=(8, 3, 1, 1), b1=(8,), w2=(4, 8, 1, 1), b2=(4,))
    parameters["w1"] *= np.logspace(0, -2, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    parameters["b1"] *= 0
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = "a = Conv(x, w1, b1) c = Clip(a, low, high) y = Conv(c, w2, b2)"
    samples = np.random.default_rng(0).standard_normal((8, 3, 6, 6), np.float32)
    samples[4:] *= 4
    return proto(nodes, "float[N,3,6,6] x", "float[] y", parameters), samples


def changes(source: onnx.ModelProto, result: onnx.ModelProto, samples: Iterable[np.ndarray]) -> list[float]:
    """Return the largest change of the output for each sample, relative to the largest output."""
    return [error(run(source, {"x": sample}), run(result, {"x": sample})) for sample in samples]


@pytest.mark.parametrize("method", ["pairwise", "global"])
def test_a_float_model_is_kept_on_every_sample_given(method: str) -> None:
    source, samples = network()
    with pytest.warns(UserWarning, match=r"One half of the samples drove \d of the \d channels"):
        result = equalize(source, data=samples, method=method)
    report = result.report.to_dict()
    assert report["equalization"]["moved"] > 0
    assert max(changes(source, result.model, samples[:, None])) < 1e-5
    assert [d["applied"] for d in report["decisions"] if d["rule"] == "clip_bound"] == [True]


@pytest.mark.parametrize("method", ["pairwise", "global"])
def test_a_float_model_is_kept_on_larger_samples_too(method: str) -> None:
    source, samples = network()
    result = equalize(source, data=samples[:4], method=method)
    assert result.report.to_dict()["equalization"]["moved"] > 0
    assert max(changes(source, result.model, samples[:, None])) < 1e-5


def test_what_only_the_first_samples_show_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded fault: with the bounds of the first half and no margin, the second half changes."""
    monkeypatch.setattr("equiquant.pipeline.scales.clip_reach.WIDE_MARGIN", 0.02)
    monkeypatch.setattr("equiquant.pipeline.scales.clip_reach.FEW_SAMPLES", 0)
    source, samples = network()
    result = equalize(source, data=samples[:4], method="pairwise")
    found = changes(source, result.model, samples[:, None])
    assert max(found[:4]) < 1e-5 < max(found[4:])


@pytest.mark.parametrize("method", ["pairwise", "global"])
def test_samples_whose_halves_agree_need_no_warning(method: str) -> None:
    source, samples = network()
    assert not equalize(source, data=samples[:4], method=method).report.warnings


def test_channels_that_stand_still_do_not_stray() -> None:
    source, samples = network()
    samples[4:] *= 1e3  # every channel reaches the bound
    result = equalize(source, data=samples)
    assert not result.report.warnings
    assert max(changes(source, result.model, 10 * samples[:, None])) < 1e-5


def test_without_data_no_channel_under_a_clip_moves() -> None:
    source, samples = network()
    result = equalize(source)
    (decision,) = [d for d in result.report.to_dict()["decisions"] if d["rule"] == "clip_bound"]
    assert not decision["applied"]
    assert "per_channel" in decision["reason"]
    assert max(changes(source, result.model, samples[:, None])) < 1e-5


def test_a_bound_for_each_channel_keeps_it_on_anything() -> None:
    source, samples = network()
    result = equalize(source, clip_mode="per_channel")
    assert result.report.to_dict()["equalization"]["moved"] > 0
    assert max(changes(source, result.model, samples[:, None])) < 1e-5


@pytest.mark.parametrize("method", ["pairwise", "global"])
def test_a_channel_that_was_never_above_zero_does_not_move(method: str) -> None:
    """How far it would go nobody has seen: its room under the bound would be without end."""
    source, samples = network()
    given = {tensor.name: tensor for tensor in source.graph.initializer}
    bias = np.array([-3.05, 0, 0, 0, 0, 0, 0, 0], np.float32)
    given["b1"].CopyFrom(onnx.numpy_helper.from_array(bias, "b1"))
    weight = onnx.numpy_helper.to_array(given["w1"]).copy()
    weight[0] = [[[1.0]], [[0.0]], [[0.0]]]
    given["w1"].CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    result = equalize(source, data=samples[:4].clip(-3, 3), method=method)
    assert result.report.to_dict()["equalization"]["moved"] > 0
    beyond = np.zeros((4, 1, 3, 6, 6), np.float32)
    beyond[:, :, 0] = np.array([4, 6, 8, 20], np.float32).reshape(4, 1, 1, 1)
    assert max(changes(source, result.model, beyond)) < 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_soft_tells_what_it_changes_on_any_sample_and_with_scales_of_before_the_same(tmp_path: Path) -> None:
    """The two samples that rewrites are proven on reach no bound."""
    source, samples = network()
    fitted, others = alternate(16)
    data = np.concatenate([np.tile(samples[:4] * 0.01, (2, 1, 1, 1)), np.tile(samples[4:] * 3, (2, 1, 1, 1))])
    data = data[np.argsort(fitted + others)]
    options: dict[str, Any] = {"clip_mode": "soft", "cle_accept": "always", "calibration_cache": tmp_path / "stats"}
    first, again = (quantize(source, data=data, preset="a8w8", **options).report for _ in range(2))
    assert first.equalization["method"] == "soft"
    assert first.equalization["equivalence_error"] > 1e-4
    assert first.equalization["equivalence_error"] == again.equalization["equivalence_error"]
    for report in (first, again):
        assert any("ClipMode 'soft' moved channels that reach" in warning for warning in report.warnings)


@pytest.mark.filterwarnings("ignore:On samples that the scales were not found on")
def test_it_is_proven_on_no_sample_that_the_scales_were_not_found_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one feed is all that can be afforded a second may drive the channels farther."""
    monkeypatch.setattr("equiquant.pipeline.measuring.judging.MACS_PER_SECOND", 1.0)
    source, samples = network()
    samples = samples[:4] * 10
    samples[alternate(2)[0]] /= 10
    for _ in range(2):
        report = quantize(source, data=samples, preset="a8w8", calibration_cache=tmp_path / "stats").report
        assert report.equalization["moved"] > 1
        assert not report.equalization["rolled_back"]
        assert report.equalization["equivalence_error"] < 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_soft_has_to_measure_best_of_a_large_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiquant.pipeline.scales.equalizing.LARGE", 0)
    monkeypatch.setattr("equiquant.pipeline.scales.equalizing.CLEAR_DB", -100.0)  # the prediction decides
    source, samples = network()
    found = [quantize(source, data=samples, preset="a8w8", clip_mode=mode).report for mode in ("exact", "soft")]
    assert [[t["method"] for t in f.equalization.get("trials", ())][-1:] for f in found] == [[], ["soft"]]


def test_quantizing_measures_it_too_with_scales_of_before_as_well(tmp_path: Path) -> None:
    source, samples = network()
    fitted, others = alternate(8)
    samples = samples[np.argsort(fitted + others)]  # those of the second half are not fitted to
    left = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="More samples, or --clip-mode per_channel"):
            result = quantize(
                source, data=samples, preset="a8w8", cle_accept="always", calibration_cache=tmp_path / "stats"
            )
        left.append(result.report.equalization["clip_sqnr_db"])
    assert left[0] == left[1] < 40


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_of_a_large_model_too_candidates_are_measured_against_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    source, samples = network()
    fitted, others = alternate(8)
    samples = samples[np.argsort(fitted + others)]  # those of the second half reach bounds that the others do not
    told = []
    for limit in (50_000_000, 0):
        monkeypatch.setattr(importlib.import_module("equiquant.pipeline.run"), "PER_TENSOR_BELOW", limit)
        report = quantize(source, data=samples, preset="a8w8", cle_accept="always", keep_float=1).report
        told.append((report.refinement, report.mixed_precision["sqnr_db"]))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("left", "told"),
    [({"y": 24.0}, ["y"]), ({"y": 26.0}, []), ({"y": 26.0, "u": 39.0}, ["u"]), ({"u": 41.0}, [])],
)
def test_what_clips_changed_is_told_where_it_is_a_part_of_the_noise(left: dict[str, float], told: list[str]) -> None:
    """15 dB are left of y in the end, of u nobody knows."""
    texts: list[str] = []
    state: Any = SimpleNamespace(clips_left=left, warn=texts.append)
    output = OutputQuality("y", ErrorFigures(1, 15.0, 15.0, 0.0, 1.0), None)
    warn_of_clips(state, Comparison(1, (output,), (), ()))
    assert re.findall(r"dB of the float network's '(.)' are left", " ".join(texts)) == told


def test_a_single_sample_tells_nothing_of_others() -> None:
    source, samples = network()
    options: Any = {"preset": "a8w8", "cle_accept": "always"}
    assert "clip_sqnr_db" in quantize(source, data=samples[:2], **options).report.equalization
    with pytest.warns(UserWarning, match="There is a single calibration sample: .* Give a few dozen"):
        report = quantize(source, data=samples[:1], **options).report
    assert "clip_sqnr_db" not in report.equalization


TAILS = {
    "rows": ("a = MatMul(x, w1) c = Clip(a, low, high) y = MatMul(c, w2)", "float[1,10,3] x"),
    "as many rows as channels": ("a = MatMul(x, w1) c = Clip(a, low, high) y = MatMul(c, w2)", "float[1,8,3] x"),
    "channels last": (
        "v = Conv(x, w4) a = Transpose<perm = [0, 2, 3, 1]>(v) c = Clip(a, low, high) y = MatMul(c, w2)",
        "float[1,3,6,6] x",
    ),
    "one axis": ("v = MatMul(x, w1) a = Squeeze(v) c = Clip(a, low, high) y = MatMul(c, w2)", "float[1,3] x"),
    "integers": (
        "v = MatMul(x, w1) i = ArgMax<axis = 1, keepdims = 0>(v) k = Clip(i, first, last) g = Gather(w3, k)"
        " y = MatMul(g, w2)",
        "float[1,3] x",
    ),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_channels_are_found_where_they_are(tail: str, preset: str) -> None:
    nodes, inputs = TAILS[tail]
    parameters = weights(w1=(3, 8), w2=(8, 4), w3=(8, 8), w4=(8, 3, 1, 1))
    spread = np.logspace(0.5, -1.5, 8, dtype=np.float32)
    parameters["w1"] *= spread
    parameters["w4"] *= spread.reshape(8, 1, 1, 1)
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    parameters |= {"first": np.array(0), "last": np.array(5)}
    used = {name: array for name, array in parameters.items() if re.search(rf"\b{name}\b", nodes)}
    source = proto(nodes, inputs, "float[] y", used)
    shape = [dim.dim_value for dim in source.graph.input[0].type.tensor_type.shape.dim]
    samples = [np.random.default_rng(k).standard_normal(shape).astype(np.float32) for k in range(12)]
    result = equalize(source, data=samples)
    assert max(changes(source, result.model, samples)) < 1e-5
    assert (result.report.to_dict()["equalization"]["moved"] > 0) == (
        tail in ("rows", "as many rows as channels", "channels last")
    )
    report = quantize(source, data=samples, preset=preset).report.to_dict()
    assert report["quality"]["outputs"][0]["sqnr_db"] > 5


@pytest.mark.parametrize("preset", ["a8w8", "xint8", "a8w8_per_channel", "a16w8"])
def test_bounds_far_above_what_channels_reach_do_not_coarsen_the_others(preset: str) -> None:
    """A channel that hardly varies is scaled up, its bound with it: of bounds from 6 to 60 000 only 6 matters here."""
    parameters = weights(w1=(8, 3, 1, 1), b1=(8,), w2=(4, 8, 1, 1), b2=(4,))
    parameters["w1"] *= np.logspace(0.6, -4, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    parameters["b1"] *= 0
    parameters["w2"] *= np.logspace(0, 4, 8, dtype=np.float32).reshape(1, 8, 1, 1)
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    source = proto(
        "a = Conv(x, w1, b1) c = Clip(a, low, high) y = Conv(c, w2, b2)", "float[N,3,6,6] x", "float[] y", parameters
    )
    samples = np.random.default_rng(0).standard_normal((8, 3, 6, 6), np.float32)
    report = quantize(source, data=samples, preset=preset, clip_mode="per_channel", **PLAIN).report.to_dict()
    assert report["equalization"]["moved"] > 0
    assert report["quality"]["outputs"][0]["sqnr_db"] > (28 if preset == "xint8" else 35)


@pytest.mark.parametrize("tail", ["rows", "as many rows as channels", "any number of rows", "channels last"])
def test_bounds_per_channel_lie_where_the_channels_do(tail: str) -> None:
    nodes, inputs = TAILS["rows" if tail.startswith("any") else tail]
    if tail.startswith("any"):
        inputs = "float[1,N,3] x"
    parameters = weights(w1=(3, 8), w2=(8, 4), w4=(8, 3, 1, 1))
    parameters["w1"] *= np.logspace(1.5, -1.5, 8, dtype=np.float32)
    parameters["w4"] *= np.logspace(1.5, -1.5, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    source = proto(nodes, inputs, "float[] y", {n: a for n, a in parameters.items() if re.search(rf"\b{n}\b", nodes)})
    shape = [dim.dim_value or 10 for dim in source.graph.input[0].type.tensor_type.shape.dim]
    samples = [np.random.default_rng(k).standard_normal(shape).astype(np.float32) for k in range(4)]
    result = equalize(source, data=samples, clip_mode="per_channel")
    report = result.report.to_dict()
    assert [d["applied"] for d in report["decisions"] if d["rule"] == "per_channel_clip"] == [True]
    assert report["equalization"]["moved"] == 8
    (bound,) = [i for i in result.model.graph.initializer if i.name.endswith("_bound")]
    assert sorted(bound.dims)[-2:] == [1, 8]
    assert max(changes(source, result.model, [100 * sample for sample in samples])) < 1e-5


INDICES = "v = MatMul(x, w) i = ArgMax<axis = 1, keepdims = 0>(v) k = Clip(i, first, last) g = Gather(t, k)"


@pytest.mark.filterwarnings("ignore:ReplaceClip6Relu")
@pytest.mark.parametrize("mode", ["per_channel", "relu"])
def test_a_clip_of_indices_stays(mode: str) -> None:
    parameters = weights(w=(3, 8), t=(8, 3), w1=(3, 8), w2=(8, 4)) | {"first": np.array(0), "last": np.array(6)}
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = f"{INDICES} a = MatMul(g, w1) c = Clip(a, low, high) y = MatMul(c, w2)"
    source = proto(nodes, "float[1,3] x", "float[] y", parameters)
    samples = [np.random.default_rng(k).standard_normal((1, 3)).astype(np.float32) for k in range(4)]
    result = equalize(source, data=samples, clip_mode=mode)
    assert max(changes(source, result.model, samples)) < (1e-5 if mode == "per_channel" else np.inf)
    assert [node.input[1] for node in result.model.graph.node if node.op_type == "Clip"] == ["first"]
    assert {"low", "high"}.isdisjoint(tensor.name for tensor in result.model.graph.initializer)


def test_a_clip_whose_channels_cannot_move_stays() -> None:
    source, samples = network()
    del source.graph.node[2]
    source.graph.node[1].output[0] = "y"
    report = equalize(source, data=samples[:4], clip_mode="per_channel").report
    (said,) = [d for d in report.decisions if d.rule == "per_channel_clip"]
    assert not said.applied
    assert "keep their scale in any case" in said.reason
    assert equalize(source, data=samples[:4]).report.equalization["held_by_clips"] == 0


def test_rows_of_a_weight_in_front_are_channels() -> None:
    parameters = weights(w1=(8, 3), w2=(4, 8))
    parameters["w1"] *= np.logspace(0.5, -1.5, 8, dtype=np.float32)[:, None]
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    source = proto(
        "a = MatMul(w1, x) c = Clip(a, low, high) y = MatMul(w2, c)", "float[3,8] x", "float[4,8] y", parameters
    )
    samples = [np.random.default_rng(k).standard_normal((3, 8)).astype(np.float32) * 3 for k in range(12)]
    cle = quantize(source, data=samples, preset="a8w8", cle_accept="always", **PLAIN).report.equalization
    assert cle["rolled_back"] == []
    assert cle["moved"] > 0


def test_what_replacing_relu6_costs_is_said_with_statistics_of_before_too(tmp_path: Path) -> None:
    source, samples = network()
    costs = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="ReplaceClip6Relu replaced 1"):
            result = quantize(
                source, data=samples, preset="a8w8", replace_clip6_relu=True, calibration_cache=tmp_path / "stats"
            )
        costs.append(result.report.equalization["replace_clip6_relu"]["sqnr_db"])
    assert costs[1] == costs[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_soft_says_nothing_of_bounds_that_hold() -> None:
    source, samples = network()
    report = equalize(source, data=samples, clip_mode="soft", cle_accept="always").report
    assert report.equalization["method"] == "soft"
    assert not [d for d in report.decisions if d.rule == "clip_bound"]
    assert "clip_strays" not in report.equalization


@pytest.mark.parametrize("outputs", ["y", "y, float[] z"])
def test_an_exact_output_does_not_hide_what_replacing_relu6_cost_another(outputs: str) -> None:
    parameters = weights(w=(4, 3, 1, 1), v=(2, 4, 1, 1))
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = "a = Conv(x, w) c = Clip(a, low, high) y = Conv(c, v) z = Conv(x, w)"
    source = proto(nodes, "float[N,3,4,4] x", f"float[] {outputs}", parameters)
    samples = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32) * 20
    with pytest.warns(UserWarning, match=" dB of 'y' are left before any rounding"):
        result = quantize(source, data=samples, preset="a8w8", replace_clip6_relu=True)
    assert result.report.equalization["replace_clip6_relu"]["sqnr_db"] < 20
