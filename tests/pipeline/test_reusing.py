"""Scales of a file of statistics are taken as they are: nothing is judged anew, and what that overrides is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant import quantize
from equiquant.calibrate import load_stats, save_stats
from equiquant.cli.summary import show_run
from equiquant.errors import DataError
from equiquant.io import Runner, load_model
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(1).standard_normal((12, 3, 8, 8)).astype(np.float32)
MODEL = proto(
    "a = Conv(x, w) r = Relu(a) y = Conv(r, v)",
    "float[N,3,8,8] x",
    "float[] y",
    weights(w=(8, 3, 3, 3), v=(5, 8, 1, 1)),
)
GATED = proto(
    "[a] a = Conv(x, w) [s] s = Sigmoid(a) m = Mul(a, s) [y] y = Conv(m, v)",
    "float[N,3,8,8] x",
    "float[] y",
    weights(w=(8, 3, 3, 3), v=(5, 8, 1, 1)),
)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("gated") / "stats"
    options: dict[str, Any] = {"preset": "xint8", "data": DATA, "calibration_cache": file}
    quantize(GATED, **options)
    return options


@pytest.mark.parametrize("option", [{"bias_type": "int16"}, {"nodes_to_int16": ("y",)}], ids=str)
def test_a_file_serves_the_same_rewritten_model_whatever_the_recipe_needs(
    gated: dict[str, Any], option: dict[str, Any]
) -> None:
    """Types of 16 bits need a higher operator set, in which a rewrite's floats are not yet those of a file."""
    told = quantize(GATED, **gated, **option).report.decisions
    assert [d.reason for d in told if d.rule == "statistics"] == [f"taken from {gated['calibration_cache']}"]


@pytest.mark.parametrize(
    ("field", "nodes"),
    [
        ("nodes_to_exclude", ("s",)),
        ("nodes_to_quantize", ("a", "y")),
        ("subgraphs_to_exclude", ((("s",), ("s",)),)),
        ("op_types_to_quantize", ("Conv",)),
    ],
)
def test_which_nodes_are_quantized_decides_which_are_rewritten(gated: dict[str, Any], field: str, nodes: Any) -> None:
    with pytest.raises(DataError, match=rf"another model, or of this one with {field}=\[\], where its graph"):
        quantize(GATED, **gated, **{field: nodes})


def test_what_is_not_rewritten_is_not_told_of_rewrites(tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "data": DATA, "calibration_cache": tmp_path / "stats"}
    quantize(MODEL, **options)
    with pytest.raises(DataError, match="of another model: "):
        quantize(GATED, **options, nodes_to_exclude=("s",))


@pytest.mark.parametrize(
    ("option", "now", "then"), [("cle_accept", "always", "'measured'"), ("equivalence_tolerance", 1e-3, "1e-05")]
)
def test_scales_accepted_otherwise_stay_and_the_summary_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, now: Any, then: str
) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "data": DATA, "calibration_cache": tmp_path / "stats"}
    first, same, other = (quantize(MODEL, **options, **more).report for more in ({}, {}, {option: now}))
    assert first.equalization["moved"] == same.equalization["moved"] == other.equalization["moved"] > 0
    show_run(other, "in.onnx", "out.onnx", None, quiet=False)
    assert f"were accepted with {option}={then} and stay" in " ".join(capsys.readouterr().out.split())
    assert not [d for d in same.decisions if d.rule == "scales"]


def test_a_file_that_holds_no_ranges_for_a_reason_says_the_same_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "data": DATA, "calibration_cache": tmp_path / "stats"}
    reports = [quantize(MODEL, cle_method="pairwise", **options).report for _ in range(2)]
    told = [[d.reason for d in report.decisions if (d.stage, d.rule) == ("calibrate", "noise")] for report in reports]
    assert "cle_method 'pairwise' chooses no ranges" in told[0][0]
    assert told[0] == told[1]


def test_what_judges_candidates_is_made_only_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"preset": "a8w8", "calibration_cache": tmp_path / "stats"}
    quantize(MODEL, data=DATA, **options)
    monkeypatch.setattr("equiquant.pipeline.scales.equalizing.Judge", None)
    for data in (None, DATA):
        quantize(MODEL, data=data, **options)


def test_biases_are_corrected_without_data_by_the_means_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where nobody wants it or it does harm, nor by a file of an earlier version, without means: that is said."""
    file, bare = tmp_path / "stats", tmp_path / "bare"
    quantize(MODEL, data=DATA + 1, preset="xint8", calibration_cache=file)
    stats = load_stats(file)
    save_stats(replace(stats, tensors={n: replace(r, sums=None) for n, r in stats.tensors.items()}), bare)

    def outcome(cache: Path, **options: Any) -> tuple[float, str]:
        result = quantize(MODEL, preset="xint8", calibration_cache=cache, **options)
        (told,) = [d.reason for d in result.report.decisions if d.rule == "no_data"]
        models = (load_model(m, allow_quantized=True).model for m in (result.model, MODEL))
        y, expected = (Runner(m).run({"x": DATA + 1})[0] for m in models)
        return float(np.square((y - expected).mean(axis=(0, 2, 3))).sum()), told

    corrected, told = outcome(file)
    assert told.startswith("biases are corrected by the means")
    for cache, options, reason in ((file, {"bias_correction": False}, "go to"), (bare, {}, "holds no means")):
        plain, told = outcome(cache, **options)
        assert reason in told
        assert corrected < 0.5 * plain
    monkeypatch.setattr("equiquant.pipeline.refinement.refining.MEANS_DB", -100.0)
    assert outcome(file)[0] > 2 * corrected
    assert "are left without: they stay" in outcome(file)[1]


def test_those_of_a_single_sample_are_worth_no_more_the_next_time(tmp_path: Path) -> None:
    for data in (DATA[:1], DATA):
        with pytest.warns(UserWarning, match="a single calibration sample"):
            quantize(MODEL, data=data, preset="a8w8", calibration_cache=tmp_path / "stats")
