"""A file of statistics serves later runs without the data, the equalization included."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import ImageOptions, quantize
from equiquant.calibrate import load_stats, save_stats
from equiquant.cli import main
from equiquant.cli.summary import show_run
from equiquant.errors import DataError
from equiquant.report import Report

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys
from equiquant.calibrate import checkpoint
from equiquant.cli import main
from equiquant.cli.summary import show_run
checkpoint.INTERVAL = 0.0
kill_at = int(sys.argv[1])
due, count = checkpoint.Checkpoint.due, 0
def counted(self, group):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return due(self, group)
checkpoint.Checkpoint.due = counted
code = main(sys.argv[2:])
print("fed", count)
sys.exit(code)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    spread = np.exp(rng.standard_normal(8) * 2)[:, None, None, None]
    weights = {
        "w": (rng.standard_normal((8, 3, 3, 3)) * spread).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
        "v": (rng.standard_normal((5, 8, 1, 1)) / spread.reshape(1, 8, 1, 1)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "v"], ["d"], name="conv2"),
            helper.make_node("GlobalAveragePool", ["d"], ["y"], name="pool"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 1, 1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((12, 3, 8, 8)).astype(np.float32)


def scales(result: Any) -> dict[str, Any]:
    return {t["name"]: (t["scale"], t["zero_point"]) for t in result.report.to_dict()["tensors"]}


@pytest.mark.parametrize("name", ["xint8", "a8w8"])
def test_the_same_recipe_without_data_gives_the_same_model(
    model: Path, x: np.ndarray, tmp_path: Path, name: str
) -> None:
    options: dict[str, Any] = {"preset": name, "calibration_cache": tmp_path / "stats"}
    options |= {"bias_correction": False, "weight_rounding": "nearest"}  # these need the data
    first = quantize(model, tmp_path / "a.onnx", data=x, **options)
    assert first.report.to_dict()["equalization"]["method"] != "none"
    again = quantize(model, tmp_path / "b.onnx", **options)  # and no warning
    assert [d.reason for d in again.report.decisions if d.rule == "statistics"] == [f"taken from {tmp_path / 'stats'}"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    section = again.report.to_dict()["equalization"]
    assert section["method"] == first.report.to_dict()["equalization"]["method"]
    assert section["equivalence_error"] < 1e-5


def test_statistics_of_made_up_inputs_give_the_same_model_again(model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        with pytest.warns(UserWarning, match="No calibration data"):
            result = quantize(model, tmp_path / name, preset="a8w8", calibration_cache=tmp_path / "stats")
        assert result.report.to_dict()["recipe"]["calibration"] == "minmax"  # no range clips
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.filterwarnings("ignore:No calibration data")
def test_statistics_of_made_up_inputs_are_refused_beside_data(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    quantize(model, preset="a8w8", calibration_cache=tmp_path / "stats")
    with pytest.raises(DataError, match=r"are of made-up inputs\. Name another file"):
        quantize(model, preset="a8w8", data=x, calibration_cache=tmp_path / "stats")


def test_statistics_of_other_data_are_told_of(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "cle": False, "calibration_cache": tmp_path / "stats"}
    quantize(model, data=x, **options)
    with pytest.warns(UserWarning, match="they are of other data"):
        quantize(model, data=100 * x, **options)


@pytest.mark.parametrize("cle", [True, False])
def test_ranges_that_were_not_chosen_are_of_least_squared_error(
    model: Path, x: np.ndarray, tmp_path: Path, cle: bool
) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "cle": cle, "bias_correction": False, "weight_rounding": "nearest"}
    first = quantize(model, data=x, calibration_cache=tmp_path / "stats", **options)
    again = quantize(model, calibration_cache=tmp_path / "stats", **options)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    other = options | {"calibration_cache": tmp_path / "stats", "per_channel": True}
    noise, mse = quantize(model, **other), quantize(model, calibration="mse", **other)
    assert scales(noise) == scales(mse)
    told = [d.reason for d in noise.report.decisions if d.rule == "noise"]
    assert len(told) == 1
    assert "least squared error are taken" in told[0]


@pytest.mark.parametrize(
    "options",
    [
        {"calibration_memory": 4000, "seed": 1, "equivalence_tolerance": 1e-4},
        {"weight_rounding": "nearest", "avoid_overflow": False, "image": ImageOptions(mean=(0.5,))},
        {"keep_float": 1},
        {"int16": 1},
    ],
)
@pytest.mark.filterwarnings("ignore:Raising", "ignore:The image options")
def test_ranges_that_were_chosen_serve_what_does_not_decide_them(
    model: Path, x: np.ndarray, tmp_path: Path, options: dict[str, Any]
) -> None:
    file = tmp_path / "stats"
    quantize(model, data=x, preset="a8w8", calibration_cache=file)
    with_file = quantize(model, data=x, preset="a8w8", calibration_cache=file, **options)
    assert scales(with_file) == scales(quantize(model, data=x, preset="a8w8", **options))
    assert not [d for d in with_file.report.decisions if d.rule == "noise"]


@pytest.mark.parametrize("name", ["xint8", "a8w8"])
@pytest.mark.parametrize("corrected", [True, False])
def test_ranges_that_were_chosen_serve_with_bias_correction_and_without(
    model: Path, x: np.ndarray, tmp_path: Path, name: str, corrected: bool
) -> None:
    """What differs is far less than what ranges without a solver cost."""
    options: dict[str, Any] = {"preset": name, "calibration_cache": tmp_path / "stats", "cle_accept": "always"}
    first = quantize(model, data=x, bias_correction=corrected, **options)
    other = quantize(model, bias_correction=not corrected, **options)
    activations = [tensor for tensor in scales(first) if "[" not in tensor]
    assert [scales(other)[tensor] for tensor in activations] == [scales(first)[tensor] for tensor in activations]
    assert not [d for d in other.report.decisions if d.rule == "noise"]


@pytest.mark.parametrize(("name", "option"), [("xint8", "bias_type=int16"), ("a8w8", "per_channel=true")])
def test_the_console_says_that_ranges_were_dropped(
    model: Path, x: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, option: str
) -> None:
    np.save(tmp_path / "x.npy", x)
    given = ["quantize", str(model), "-o", str(tmp_path / "o.onnx"), "--data", str(tmp_path / "x.npy")]
    given += ["--preset", name, "--stats", str(tmp_path / "stats"), "--set", "cle_accept=always"]
    for more, told in (((), False), (("--set", option), True)):
        assert main([*given, *more]) == 0
        assert ("those of least squared error are taken" in capsys.readouterr().out) == told


def test_other_options_use_the_equalized_models_statistics(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "stats"
    quantize(model, data=x, preset="xint8", simulate_dpu=False, calibration_cache=file)  # a8w8 is for no NPU
    stats = load_stats(file)
    assert stats.scales is not None
    before = file.read_bytes()
    for method in ("minmax", "percentile", "entropy", "mse"):
        other = scales(quantize(model, preset="a8w8", calibration=method, calibration_cache=file))
        record = stats.tensors["r"]
        assert record.high / 255 * 1.001 >= float(other["r"][0]) > 0
        if method == "minmax":
            assert float(other["r"][0]) == pytest.approx(record.high / 255, rel=1e-6)
    assert file.read_bytes() == before


RELU6 = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[N, 3, 12, 12] x) => (float[N, 5] y) <int64[2] half = {4, 4}, float zero = {0.0}, float six = {6.0}> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w0)
    r = Clip (a, zero, six)
    s, t = Split <axis = 1> (r, half)
    u = Conv (s, w1)
    v = Conv (t, w2)
    c = Concat <axis = 1> (u, v)
    d = Clip (c, zero, six)
    m = ReduceMean <axes = [2, 3], keepdims = 0> (d)
    y = Gemm <transB = 1> (m, w3)
}
"""
"""What the version converter rewrites, ReLU6, and tensors only some targets quantize."""


@pytest.fixture
def relu6() -> onnx.ModelProto:
    result = onnx.parser.parse_model(RELU6)
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (8, 3, 3, 3), "w1": (8, 4, 1, 1), "w2": (8, 4, 1, 1), "w3": (5, 16)}.items():
        array = rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
        result.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return result


IMAGES = np.random.default_rng(2).standard_normal((12, 3, 12, 12)).astype(np.float32)
AS_THEY_ARE: dict[str, Any] = {"split_to_slice": False, "reduce_mean_to_pool": False, "simulate_dpu": False}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("mode", ["exact", "soft", "per_channel"])
def test_the_scales_are_applied_as_they_were(relu6: onnx.ModelProto, tmp_path: Path, mode: str) -> None:
    """Made-up inputs or other samples may reach a bound; proven anew, the scales became those of another model."""
    options: dict[str, Any] = {"preset": "a8w8", "clip_mode": mode, "calibration": "minmax", "cle_accept": "always"}
    options |= {"bias_correction": False, "weight_rounding": "nearest", "calibration_cache": tmp_path / "stats"}
    first = quantize(relu6, data=IMAGES, **options).model.SerializeToString()
    for data in (None, 10 * IMAGES, IMAGES[:2]):
        assert quantize(relu6, data=data, **options).model.SerializeToString() == first


@pytest.mark.filterwarnings("ignore:'x' reaches", "ignore:On samples that the scales")
def test_what_they_leave_of_the_function_is_said(relu6: onnx.ModelProto, tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "calibration": "minmax", "calibration_cache": tmp_path / "stats"}
    quantize(relu6, data=IMAGES / 10, **options)
    with pytest.warns(UserWarning, match=r"equalization among the statistics moved 'y' by .* on the samples given"):
        quantize(relu6, data=10 * IMAGES, **options)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_file_serves_every_preset(relu6: onnx.ModelProto, tmp_path: Path) -> None:
    """Whatever operator set and tensors each of them needs."""
    recipes: dict[str, dict[str, Any]] = {
        "xint8": AS_THEY_ARE,
        "a8w8": {"calibration": "minmax"},
        "a8w8_per_channel": {"calibration": "percentile"},
        "a16w8": {"calibration": "minmax"},
    }
    for first in ("xint8", "a16w8"):
        file = tmp_path / first
        quantize(relu6, data=IMAGES, preset=first, calibration_cache=file, **recipes[first])
        given = file.read_bytes()
        others = [{"preset": name} | options for name, options in recipes.items()]
        others += [others[1] | {"int16": 1}, others[0] | {"bias_type": "int16"}]
        for other in others:
            report = quantize(relu6, calibration_cache=file, **other).report
            assert [d.reason for d in report.decisions if d.rule == "statistics"] == [f"taken from {file}"]
            assert report.samples == len(IMAGES)
        assert file.read_bytes() == given


def test_tensors_the_file_lacks_are_named(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "xint8", "cle": False, "calibration_cache": tmp_path / "stats"}
    quantize(model, data=x, **options)
    with pytest.raises(DataError, match=r"lack 'c': .*Name another file and give the data"):
        quantize(model, separate=("Relu",), **options)


@pytest.mark.filterwarnings("ignore:No calibration data", "ignore:Only")
def test_what_ranges_come_from_is_what_the_file_says(
    model: Path, x: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for data, kind in ((x, "12 samples"), (None, "32 made-up inputs")):
        for given in (data, None):
            report = quantize(model, data=given, preset="a8w8", calibration_cache=tmp_path / kind).report
            assert f"calibration on {kind}" in Report.from_dict(report.to_dict()).to_html()
            show_run(report, str(model), "out.onnx", None, quiet=False)
            assert f"calibrated on {kind}" in capsys.readouterr().out


def test_what_the_file_cannot_answer_is_refused(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "stats"
    quantize(model, data=x, preset="xint8", simulate_dpu=False, calibration_cache=file)
    with pytest.raises(DataError, match=r"equalized with cle_method='auto'\. Ask for the same"):
        quantize(model, preset="xint8", simulate_dpu=False, cle_method="pairwise", calibration_cache=file)
    with pytest.raises(DataError, match="equalized otherwise"):
        quantize(model, preset="xint8", simulate_dpu=False, cle=False, calibration_cache=file)
    with pytest.raises(DataError, match="of this one with simulate_dpu=False, where its graph is written otherwise"):
        quantize(model, preset="xint8", calibration_cache=file)
    changed = onnx.load(model)
    changed.graph.initializer[1].raw_data = np.zeros(8, np.float32).tobytes()
    with pytest.raises(DataError, match="of another model: "):
        quantize(changed, preset="xint8", simulate_dpu=False, calibration_cache=file)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"moving_average": True}, "hold the extremes of all samples"),
        (
            {"calibration": "minmse", "scale_kind": "power_of_two", "minmse_mode": "most_common"},
            "do not hold for all samples the uint8 scale",
        ),
    ],
)
def test_statistics_of_another_kind_are_refused(
    model: Path, x: np.ndarray, tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    file = tmp_path / "stats"
    plain: dict[str, Any] = {"preset": "a8w8", "calibration": "minmax", "cle": False}
    quantize(model, data=x, calibration_cache=file, **plain)
    with pytest.raises(DataError, match=why):
        quantize(model, calibration_cache=file, **plain | options)


def test_a_limit_of_samples_does_not_reach_the_file(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "stats"
    options: dict[str, Any] = {"preset": "a8w8", "calibration": "minmax", "cle": False}
    quantize(model, data=x, calibration_cache=file, **options)
    with pytest.warns(UserWarning, match=rf"calibration_samples=3 limits the data: ranges come from all {len(x)} of"):
        quantize(model, data=x, calibration_cache=file, calibration_samples=3, **options)


def test_votes_on_other_scales_are_refused(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    voting: dict[str, Any] = {"preset": "xint8", "cle": False, "simulate_dpu": False, "minmse_mode": "most_common"}
    plain, signed = voting | {"minmse_mode": "all"}, voting | {"activation_type": "int8"}
    for name, options in (("votes", voting), ("none", plain), ("signed", signed)):
        quantize(model, data=x, calibration_cache=tmp_path / name, **options)
    votes = load_stats(tmp_path / "votes")
    save_stats(votes.merge(load_stats(tmp_path / "none")), tmp_path / "some")
    save_stats(votes.merge(load_stats(tmp_path / "signed")), tmp_path / "mixed")
    save_stats(votes.merge(votes), tmp_path / "all")
    quantize(model, calibration_cache=tmp_path / "all", **voting)
    for name, options in (("some", voting), ("mixed", voting), ("votes", signed), ("votes", {"unsigned_relu": True})):
        with pytest.raises(DataError, match=r"do not hold for all samples the u?int8 scale"):
            quantize(model, calibration_cache=tmp_path / name, **voting | options)


def test_merged_statistics_keep_the_equalization_but_not_the_ranges(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    quantize(model, data=x, preset="xint8", calibration_cache=tmp_path / "stats")
    part = load_stats(tmp_path / "stats")
    assert part.scales is not None
    save_stats(part.merge(part), tmp_path / "both")
    both = load_stats(tmp_path / "both")
    assert both.scales is not None
    assert both.scales.ranges is None
    assert np.array_equal(both.scales.z, part.scales.z)
    assert both.samples == 24
    quantize(model, preset="xint8", calibration_cache=tmp_path / "both")
    with pytest.raises(DataError, match="of another model, or of this one with npu=True"):
        quantize(model, preset="a8w8", calibration_cache=tmp_path / "both")
    other = replace(part, scales=replace(part.scales, recipe="{}"))
    save_stats(part.merge(other), tmp_path / "mixed")
    with pytest.raises(DataError, match="of another model: "):
        quantize(model, preset="a8w8", calibration_cache=tmp_path / "mixed")


def test_whether_every_element_was_counted_is_told(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "calibration": "mse", "cle": False}
    exact = options | {"exact_histograms": True}
    quantize(model, data=x, calibration_cache=tmp_path / "all", **exact)
    quantize(model, data=x, calibration_cache=tmp_path / "sampled", **options)
    full, sampled = load_stats(tmp_path / "all"), load_stats(tmp_path / "sampled")
    assert (full.exact, full.merge(full).exact, full.merge(sampled).exact) == (True, True, False)
    quantize(model, calibration_cache=tmp_path / "sampled", **exact | {"calibration": "minmax"})
    quantize(model, calibration_cache=tmp_path / "sampled", **options | {"calibration": "entropy"})
    cutting = options | {"calibration": "entropy", "histogram_bins": 2048}
    for asked, words in ((exact, "exact_histograms"), (cutting, "entropy with histogram_bins=2048")):
        quantize(model, calibration_cache=tmp_path / "all", **asked)
        with pytest.warns(UserWarning, match=rf"{words} .*sampled are not known to count every element"):
            quantize(model, calibration_cache=tmp_path / "sampled", **asked)


def test_a_killed_command_started_again_ends_with_the_same_bytes(model: Path, x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", x)

    def command(kill_at: int, name: str) -> subprocess.CompletedProcess[str]:
        words = ["quantize", str(model), "-o", str(tmp_path / f"{name}.onnx"), "--data", str(tmp_path / "data.npy")]
        words += ["--stats", str(tmp_path / f"{name}.stats")]
        words = [sys.executable, "-c", CHILD, str(kill_at), *words]
        return subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)

    whole = command(0, "whole")
    assert whole.returncode == 0, whole.stderr
    assert command(8, "killed").returncode == -signal.SIGKILL
    assert (tmp_path / "killed.stats.partial").exists()
    assert not (tmp_path / "killed.onnx").exists()
    again = command(0, "killed")
    assert again.returncode == 0, again.stderr
    fed = [int(done.stdout.rpartition("fed")[2]) for done in (whole, again)]
    assert fed[1] == fed[0] - 7  # what was done was not done again
    for suffix in ("stats", "onnx"):
        assert (tmp_path / f"killed.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert not (tmp_path / "killed.stats.partial").exists()
