"""Nothing that was read is written over, and no two results go to one place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import equalize, quantize
from equiquant.cli import main
from equiquant.errors import OutputError
from equiquant.io import save
from equiquant.io.places import replacing
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(0).standard_normal((9, 3, 6, 6)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    source = proto("a = Conv(x, w) y = Relu(a)", "float[N,3,6,6] x", "float[] y", weights(w=(32, 3, 3, 3)))
    onnx.save(source, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin"])
def test_a_result_is_not_saved_over_the_input_nor_its_weights(model: Path, name: str) -> None:
    place = model.parent / name
    before = place.read_bytes()
    result = quantize(model, data=DATA, preset="a8w8")
    with pytest.raises(OutputError, match="is the input model"):
        result.save(place)
    with pytest.raises(OutputError, match="is the input model"):
        quantize(model, place, data=DATA, preset="a8w8")
    assert place.read_bytes() == before


def test_nor_over_one_that_is_named_in_bytes(model: Path) -> None:
    with os.scandir(os.fsencode(model.parent)) as entries:
        held: Any = next(entry for entry in entries if entry.name == b"model.onnx")
    with pytest.raises(OutputError, match="is the input model"):
        quantize(held, model, data=DATA, preset="a8w8")
    with pytest.raises(OutputError, match="is the input model"):
        quantize(held, data=DATA, preset="a8w8").save(model.parent / "weights.bin")


def _unloaded(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


@pytest.mark.parametrize("read", [ir.load, _unloaded])
def test_a_model_in_memory_keeps_the_weights_it_has_in_a_file(
    model: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any]
) -> None:
    monkeypatch.setattr(save, "INLINE_LIMIT", 10)
    monkeypatch.chdir(model.parent)  # where the places in a proto are looked up
    out = model.parent / "new.onnx"
    onnx.save(onnx.load(model), out, save_as_external_data=True, location="new.onnx.data", size_threshold=0)
    before = _contents(model.parent)
    held = read(out)
    found = quantize(held, preset="auto", data=DATA, cle=False, weight_rounding="nearest", time_budget=0.001)
    result = equalize(held, data=DATA)
    writes: list[Callable[[Path], Any]] = [result.save, found.save, lambda to: equalize(held, to, data=DATA)]
    for write in writes:
        for place in (out, model.parent / "new.onnx.data"):
            with pytest.raises(OutputError, match="choose another name so that nothing is lost"):
                write(place)
    assert _contents(model.parent) == before


def test_statistics_that_are_read_are_not_written_over(model: Path) -> None:
    stats = model.parent / "some.stats"
    quantize(model, data=DATA, preset="a8w8", calibration_cache=stats)
    before = stats.read_bytes()
    with pytest.raises(OutputError, match="choose another name"):
        quantize(model, stats, data=DATA, preset="a8w8", calibration_cache=stats)
    assert stats.read_bytes() == before


def test_the_report_does_not_go_where_the_model_goes(model: Path) -> None:
    folder = model.parent / "report"
    folder.mkdir()
    with pytest.raises(OutputError, match=r"The report would be written to .*report\.json as well"):
        quantize(model, folder / "report.json", data=DATA, preset="a8w8", report_dir=folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("place", ["output", "report_dir", "calibration_cache"])
def test_a_result_goes_to_a_path(model: Path, place: str) -> None:
    for wrong in (5, b"out"):
        options: dict[str, Any] = {place: wrong}
        with pytest.raises(OutputError, match=f"must be a path. Got {wrong!r} instead"):
            quantize(model, data=DATA, preset="a8w8", **options)


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("earlier", [False, True])
def test_weights_beside_the_output_are_not_those_of_the_input(
    model: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """A float model that was renamed still refers to the file of weights by its old name."""
    monkeypatch.setattr(save, "INLINE_LIMIT", 10)
    source, out = model.parent / "float.onnx", model.parent / "new.onnx"
    onnx.save(onnx.load(model), source, save_as_external_data=True, location="new.onnx.data", size_threshold=0)
    if earlier:
        out.write_bytes(source.read_bytes())
    result = quantize(source, data=DATA, preset="a8w8")
    data = model.parent / "data.npy"
    np.save(data, DATA)
    before = _contents(model.parent)
    for write in (result.save, lambda to: quantize(source, to, data=DATA), lambda to: equalize(source, to, data=DATA)):
        with pytest.raises(OutputError, match=r"may go to .*new\.onnx\.data, which is the input model's"):
            write(out)
    assert main(["quantize", str(source), "-o", str(out), "--data", str(data)]) != 0
    assert _contents(model.parent) == before


def test_a_small_result_leaves_alone_what_lies_where_the_weights_of_a_large_one_go(model: Path) -> None:
    source, out, beside = (model.parent / name for name in ("float.onnx", "new.onnx", "new.onnx.data"))
    onnx.save(onnx.load(model), source, save_as_external_data=True, location=beside.name, size_threshold=0)
    before = beside.read_bytes()
    quantize(source, out, data=DATA, preset="a8w8").save(out)
    assert beside.read_bytes() == before
    quantize(model, model.parent / "a", data=DATA, preset="a8w8", calibration_cache=model.parent / "a.data")


def test_weights_beside_the_output_replace_those_of_an_earlier_result_alone(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, beside = model.parent / "out.onnx", model.parent / "out.onnx.data"
    beside.write_bytes(b"something else")
    quantize(model, out, data=DATA, preset="a8w8").save(out)  # small enough for one file
    monkeypatch.setattr(save, "INLINE_LIMIT", 10)
    result = quantize(model, data=DATA, preset="a8w8")
    for write in (result.save, lambda to: quantize(model, to, data=DATA, preset="a8w8")):
        with pytest.raises(OutputError, match=r"exists and is not of a model at .*out\.onnx; choose another name"):
            write(out)
    assert beside.read_bytes() == b"something else"
    beside.unlink()
    result.save(out)
    quantize(model, out, data=DATA, preset="a8w8").save(out)
    assert len(onnx.load(out).graph.node) == len(result.model.graph.node)
    with pytest.raises(OutputError, match=r"Two results would be written to .*a\.data;"):
        quantize(model, model.parent / "a", data=DATA, preset="a8w8", calibration_cache=model.parent / "a.data")


def test_what_is_written_replaces_a_file_whole_or_leaves_it_and_nothing_else(tmp_path: Path) -> None:
    file, beside = tmp_path / "a.txt", tmp_path / "a.txt.data"
    file.write_text("old")
    with contextlib.suppress(ZeroDivisionError), replacing(file) as place:
        place.write_text("half")
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == [file]
    assert file.read_text() == "old"
    with replacing(file) as place:
        place.with_name(beside.name).write_text("data")
        place.write_text("new")
    assert {path: path.read_text() for path in tmp_path.iterdir()} == {file: "new", beside: "data"}
    absent = replacing(tmp_path / "no" / "a.txt", "the figures")
    with pytest.raises(OutputError, match=r"^Cannot write the figures to .*a.txt: No such file"), absent:
        pass
