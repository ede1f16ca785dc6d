"""The bundled demo: what it ships, what it measures, and that the figures mean what they say."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from equiquant import demo
from equiquant.errors import OutputError
from equiquant.io import Runner
from equiquant.recipe import preset

ASSETS = Path(demo.__file__).parent / "assets"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> demo.DemoResult:
    return demo.run(tmp_path_factory.mktemp("demo") / "made" / "here")


def test_the_assets_are_small() -> None:
    assert sum(f.stat().st_size for f in ASSETS.iterdir()) <= 1_000_000


def test_the_bundled_network_is_what_it_is_said_to_be() -> None:
    model = onnx.load(demo.model_path())
    onnx.checker.check_model(model, full_check=True)
    nodes = model.graph.node
    ops = [n.op_type for n in nodes]
    groups = [a.i for n in nodes if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    assert ops.count("BatchNormalization") == ops.count("Clip") == ops.count("Conv")
    assert sum(g > 1 for g in groups) >= 5
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_data_are_images_with_their_digits() -> None:
    data = demo.load_data()
    assert data.images.shape == (len(data.labels), 1, 16, 16)
    assert data.calibration.shape == (100, 1, 16, 16)
    assert data.images.dtype == data.calibration.dtype == np.float32
    assert 0 <= data.images.min() < data.images.max() <= 1
    assert set(data.labels) == set(range(10))
    held_out = {image.tobytes() for image in data.images}
    assert not held_out & {image.tobytes() for image in data.calibration}


def test_the_demo_measures_every_model(result: demo.DemoResult) -> None:
    names = [(row.preset, row.steps) for row in result.rows]
    assert names == [("float", ""), *((name, steps) for name in ("a8w8", "xint8") for steps in ("plain", "cle", "all"))]
    reference, *quantized = result.rows
    assert reference.accuracy > 0.9
    assert reference.sqnr_db is None
    assert reference.report is None
    for row in quantized:
        assert 0.1 < row.accuracy <= 1
        assert row.sqnr_db is not None
        assert 3 < row.sqnr_db < 80
        assert row.size < 0.6 * reference.size
        assert row.latency_ms > 0
        assert row.report is not None
        assert (row.report / "report.json").exists()
        assert (row.report / "report.html").exists()
    for rows in (quantized[:3], quantized[3:]):
        plain, equalized, refined = (row.sqnr_db or 0.0 for row in rows)
        assert equalized > plain + 3
        assert refined > equalized - 0.7  # as much as a draw of the rounding is worth


def test_the_accuracy_is_that_of_the_written_file(result: demo.DemoResult) -> None:
    data = demo.load_data()
    row = result.rows[-1]
    (logits,) = Runner(row.model).run({"image": data.images})
    assert row.accuracy == np.mean(logits.argmax(1) == data.labels)
    assert row.size == row.model.stat().st_size


def test_the_table_shows_every_row_and_where_things_are(result: demo.DemoResult) -> None:
    text = io.StringIO()
    demo.render(Console(file=text, width=200), result)
    shown = text.getvalue()
    for title in (
        "float32",
        "a8w8, plain",
        "a8w8, with CLE",
        "a8w8, as the preset does",
        "xint8, plain",
        "xint8, with CLE",
    ):
        assert shown.count(title) == 1
    assert f"{result.rows[0].accuracy:.1%}" in shown
    assert f"Models and reports are in {result.output}/" in shown.replace("\n", "")


def test_the_result_is_plain_data(result: demo.DemoResult) -> None:
    plain = result.to_dict()
    assert plain["images"] == len(demo.load_data().labels)
    assert plain["rows"][0]["model"] == str(demo.model_path())


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LATENCY_ROUNDS", 1)
    monkeypatch.setattr(demo, "recipes", lambda: (("plain", preset("a8w8", cle=False)),))
    told: list[tuple[str, int, int | None]] = []
    demo.run(tmp_path, progress=lambda *step: told.append(step))
    assert told == [("quantize a8w8, plain", 0, 1), ("measure", 1, 1)]


def test_an_unusable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write to"):
        demo.run(tmp_path / "file")
