"""What a run reads is never written over: the model, its weights, the data and the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from equiquant.cli import main

QUICK = ["--no-cle", "--no-bias-correction", "--weight-rounding", "nearest", "-q"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model, its weights in a file of their own, data and labels."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 4, 4] x) => (float[N, 5] y)'
        " { c = Conv (x, w)  p = GlobalAveragePool (c)  y = Flatten (p) }"
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((5, 3, 3, 3)).astype(np.float32), "w"))
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.weights", size_threshold=0)
    (tmp_path / "data").mkdir()
    for index in range(4):
        np.save(tmp_path / "data" / f"{index}.npy", rng.standard_normal((1, 3, 4, 4)).astype(np.float32))
    np.save(tmp_path / "labels.npy", np.zeros(4, np.int64))
    return tmp_path


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("model.onnx", []),
        ("model.weights", []),
        ("data/1.npy", []),
        ("labels.npy", ["--auto", "--labels", "{folder}/labels.npy"]),
        ("out.onnx", ["--stats", "{folder}/model.weights"]),
        ("out.onnx", ["--auto", "--trials", "{folder}/data/2.npy"]),
        ("out.onnx", ["--auto", "--labels", "{folder}/labels.npy", "--trials", "{folder}/labels.npy"]),
    ],
)
def test_what_is_read_is_not_written_over(
    folder: Path, output: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["quantize", str(folder / "model.onnx"), "-o", str(folder / output), "--data", str(folder / "data")]
    assert main([*words, *QUICK, *(word.format(folder=folder) for word in more)]) == 1
    shown = capsys.readouterr().err
    assert "nothing is lost" in shown or "Cannot read calibration statistics" in shown
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_result_of_before_is_replaced_even_beside_the_data(folder: Path) -> None:
    for _ in range(2):
        words = ["quantize", str(folder / "model.onnx"), "-o", str(folder / "data" / "out.onnx")]
        assert main([*words, "--data", str(folder / "data"), "--report", str(folder / "data"), *QUICK]) == 0


def test_a_model_in_the_reports_place_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.onnx").rename(folder / "report.json")
    words = ["quantize", str(folder / "report.json"), "-o", str(folder / "out.onnx"), "--report", str(folder)]
    assert main([*words, *QUICK]) == 1
    assert "nothing is lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["quantize", "", "-o", "out.onnx"],
        ["quantize", "model.onnx", "-o", ""],
        *(
            ["quantize", "model.onnx", "-o", "out.onnx", *more]
            for more in (
                ["--data", ""],
                ["--report", ""],
                ["--stats", ""],
                ["--auto", "--data", "data", "--labels", ""],
                ["--auto", "--data", "data", "--trials", ""],
            )
        ),
        ["compare", "model.onnx", "", "--data", "data"],
        ["inspect", "model.onnx", "--data", ""],
        ["demo", "-o", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(words) == 1
    assert "A path is empty" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
