"""Nothing that was read is written over, and no two results go to one place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from equiquant import quantize
from equiquant.errors import OutputError
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    source = proto("a = Conv(x, w) y = Relu(a)", "float[N,3,6,6] x", "float[] y", weights(w=(4, 3, 1, 1)))
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
