"""The page's section on equalization: every figure of it is shown, and a bad one does not break the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from equiquant.cli import main
from equiquant.report.charts import NOISE_ROWS, noise_chart
from equiquant.report.equalization import equalization, method_text
from tests.canonical.support import proto, weights

RECIPE = {"cle": True}
SECTION: dict[str, Any] = {
    "method": "global",
    "steps": 80,
    "equivalence_error": 3e-7,
    "tolerance": 1e-5,
    "trials": [
        {"method": "none", "sqnr_db": 4.4},
        {"method": "pairwise", "sqnr_db": 12.25},
        {"method": "global", "sqnr_db": 17.5},
    ],
    "objective_db": {"before": -2.6, "pairwise": 13.2, "global": 18.6},
    "noise": [
        {"name": "good", "kind": "activation", "before": 40.0, "pairwise": 41.0, "global": 42.0},
        {"name": "<bad>", "kind": "weight", "before": -5.0, "pairwise": 11.0, "global": 21.0},
        {"name": "none", "kind": "bias", "before": "Infinity", "pairwise": "Infinity", "global": "Infinity"},
    ],
    "clip_sqnr_db": 61.5,
    "replace_clip6_relu": {"replaced": 27, "error": 1.25, "sqnr_db": 4.1},
}


@pytest.mark.parametrize("measured", [True, False])
def test_what_was_not_measured_has_no_column(measured: bool) -> None:
    tried = equalization(SECTION if measured else SECTION | {"trials": []}, RECIPE).partition("What was tried")[2]
    assert ("SQNR measured" in tried, "Measured:" in tried) == (measured, measured)
    assert "18.6 dB" in tried


def test_trials_noise_and_damage_are_shown() -> None:
    text = equalization(SECTION, RECIPE)
    for shown in (
        "not equalized",
        "4.4 dB",
        "12.2 dB",
        "18.6 dB",
        "27 Clip(0, 6)",
        "4.1 dB",
        "All 3 tensors",
        "3e-07",
        "61.5 dB",
    ):
        assert shown in text, shown
    row = next(part for part in text.split("<tr>") if "kept" in part)
    assert "17.5 dB" in row
    assert "<bad>" not in text
    table = text[text.index("All 3 tensors") :]
    assert table.index("&lt;bad&gt;") < table.index("good")


def test_the_worst_tensors_are_drawn_first_and_bounded() -> None:
    rows = [{"name": f"t{i:03}", "kind": "activation", "before": float(90 - i), "global": 50.0} for i in range(60)]
    chart = noise_chart(rows, "global")
    assert chart.count('class="after"') == NOISE_ROWS
    assert chart.index(">t059<") < chart.index(">t058<")
    assert ">t000<" not in chart
    assert noise_chart([{"name": "t", "kind": "bias", "before": None, "global": None}], "global") == ""


@pytest.mark.parametrize(("before", "after"), [(-200.0, 300.0), (0.0, 0.0), (9.999, 10.001)])
def test_the_axis_holds_every_figure(before: float, after: float) -> None:
    chart = noise_chart([{"name": "t", "kind": "activation", "before": before, "global": after}], "global")
    places = [float(part.split('"')[0]) for part in chart.split(' cx="')[1:]]
    assert len(places) == 2
    assert all(31 <= x <= 930 for x in places)  # right of the name
    assert chart.count("<text") <= 12


def test_a_function_that_was_changed_on_purpose_is_said() -> None:
    text = equalization({"method": "soft", "equivalence_error": 0.2, "tolerance": 1e-5}, RECIPE)
    assert "asked for" in text
    assert "ReLU6 soft" in text
    assert "ReLU6 was changed as asked" in text


@pytest.mark.parametrize(("made_up", "inputs"), [(True, "made-up inputs"), (False, "the samples")])
def test_a_function_that_moved_unasked_is_told_with_what_moved_it(made_up: bool, inputs: str) -> None:
    """Scales of before, on inputs that reach a Clip's bound."""
    section = {"method": "global", "equivalence_error": 1.6e-3, "tolerance": 1e-5}
    text = equalization(section, RECIPE, made_up=made_up)
    assert "asked" not in text
    assert f"; on {inputs} the float function moved by more than the tolerance" in text
    assert f"0.0016 (on {inputs}; allowed 1e-05)" in text


@pytest.mark.parametrize(("held", "told"), [(True, "run on others"), (False, "on the one feed")])
def test_candidates_are_told_with_what_they_were_measured_on(held: bool, told: str) -> None:
    text = equalization(SECTION | {"held": held}, RECIPE)
    assert [words for words in ("run on others", "on the one feed") if words in text] == [told]


def test_noise_that_is_not_predicted_of_what_was_kept_is_not_drawn() -> None:
    assert "Predicted noise per tensor" in equalization(SECTION, RECIPE)
    assert "Predicted noise per tensor" not in equalization(SECTION | {"method": "global+ranges"}, RECIPE)


@pytest.mark.parametrize("section", [{}, {"method": "none"}, {"trials": [], "noise": [], "objective_db": {}}])
def test_little_to_say(section: dict[str, Any]) -> None:
    assert "nan" not in equalization(section, RECIPE)
    assert "off in this run" in equalization({}, {"cle": False})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none+ranges", "not equalized, ranges clipped"),
        ("global+powers", "global, powers of two"),
        ("soft", "global, ReLU6 soft"),
        ("pairwise", "pairwise"),
    ],
)
def test_candidates_are_named_in_words(name: str, told: str) -> None:
    assert method_text(name) == told


@pytest.mark.parametrize("free", [True, False])
def test_the_spread_told_is_of_layers_that_can_move(
    free: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = "float[N,4,6,6] y" if free else "float[N,8,6,6] r, float[N,4,6,6] y"
    constants = weights(w1=(8, 3, 1, 1), w2=(4, 8, 1, 1))
    constants["w2"][0] *= 40
    model = proto("a = Conv(x, w1) r = Relu(a) y = Conv(r, w2)", "float[N,3,6,6] x", ends, constants)
    data = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
    onnx.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", data)
    words = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "q.onnx"), "--data", str(tmp_path / "x.npy")]
    assert main(["equalize", *words, "--report", str(tmp_path)]) == 0
    saved = json.loads((tmp_path / "report.json").read_text())["equalization"]
    assert (saved["spread_before"] is not None) == free
    phrase = "largest channel range spread of the layers that can move"
    assert (phrase in capsys.readouterr().out) == free
    assert (phrase in (tmp_path / "report.html").read_text()) == free
