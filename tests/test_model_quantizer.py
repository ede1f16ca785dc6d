"""ModelQuantizer: what it hands to a run, and the documented script from the first byte to the last."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import api
from equiquant.config import (
    CalibrationDataReader,
    Config,
    ModelQuantizer,
    PowerOfTwoMethod,
    QuantizationConfig,
)
from equiquant.errors import EquiQuantError, OptionError, OutputError
from equiquant.io import save
from tests.test_config import DOCUMENTED


class Calls:
    """Stands in for `api.run_recipe` and keeps what it was asked."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.data: Any = "not called"

    def __call__(self, *arguments: Any, data: Any = None) -> SimpleNamespace:
        self.arguments, self.data = arguments, data
        return SimpleNamespace(model="the model", report="the report")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    stand_in = Calls()
    monkeypatch.setattr(api, "run_recipe", stand_in)
    return stand_in


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Yields each feed once."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def test_quantize_model_runs_the_recipe(calls: Calls) -> None:
    quantizer = ModelQuantizer(Config(global_quant_config=QuantizationConfig(**DOCUMENTED)))
    assert quantizer.report is None
    assert quantizer.quantize_model("in.onnx", "out.onnx", calibration_data_reader=None) == "the model"
    assert calls.arguments == ("in.onnx", "out.onnx", QuantizationConfig(**DOCUMENTED).to_recipe())
    assert calls.data is None
    assert quantizer.report == "the report"


def test_a_reader_and_a_path_are_data(calls: Calls, tmp_path: Path) -> None:
    quantizer = ModelQuantizer(Config(QuantizationConfig()))
    reader = Reader([])
    quantizer.quantize_model("in.onnx", None, reader)
    assert calls.data is reader
    quantizer.quantize_model("in.onnx", calibration_data_path=tmp_path)
    assert calls.data is tmp_path


def test_both_kinds_of_data_are_refused(calls: Calls) -> None:
    quantizer = ModelQuantizer(QuantizationConfig())
    with pytest.raises(OptionError, match="not both"):
        quantizer.quantize_model("in.onnx", None, Reader([]), "folder")
    assert calls.data == "not called"


def test_a_configuration_broken_later_is_refused_before_anything_runs(calls: Calls) -> None:
    config = Config(QuantizationConfig())
    config.global_quant_config.extra_options["CLEstep"] = 1
    with pytest.raises(OptionError, match="Did you mean 'CLESteps'"):
        ModelQuantizer(config).quantize_model("in.onnx")
    assert calls.data == "not called"


# The whole path


@pytest.fixture
def float_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (2, 4, 1, 1), "b2": (2,)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
            helper.make_node("Conv", ["r1", "w2", "b2"], ["y"], "conv2"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("arguments", [DOCUMENTED, {}, {"calibrate_method": PowerOfTwoMethod.NonOverflow}])
def test_the_documented_script_end_to_end(
    float_model: onnx.ModelProto, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(float_model, source)
    before = source.read_bytes()
    feeds = [{"x": np.random.default_rng(k).standard_normal((1, 3, 6, 6)).astype(np.float32)} for k in range(3)]
    quantizer = ModelQuantizer(Config(global_quant_config=QuantizationConfig(**arguments)))
    made = quantizer.quantize_model(str(source), str(target), Reader(feeds))
    assert isinstance(made, onnx.ModelProto)
    assert onnx.load(target) == made
    assert "QuantizeLinear" in {n.op_type for n in made.graph.node}
    assert quantizer.report is not None
    assert quantizer.report.recipe == QuantizationConfig(**arguments).to_recipe()
    assert source.read_bytes() == before


def test_a_result_too_large_for_a_proto_is_returned_with_references_to_what_was_written(
    float_model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save, "INLINE_LIMIT", 10)
    feeds = [{"x": np.random.default_rng(k).standard_normal((1, 3, 6, 6)).astype(np.float32)} for k in range(3)]
    quantizer = ModelQuantizer(Config(QuantizationConfig()))
    made = quantizer.quantize_model(float_model, tmp_path / "out.onnx", Reader(list(feeds)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert "QuantizeLinear" in {n.op_type for n in made.graph.node}
    onnx.load_external_data_for_model(made, str(tmp_path))
    assert made.SerializeToString() == onnx.load(tmp_path / "out.onnx").SerializeToString()
    with pytest.raises(OutputError, match="give an output path"):
        quantizer.quantize_model(float_model, None, Reader(feeds))


def test_without_data_it_warns(float_model: onnx.ModelProto) -> None:
    quantizer = ModelQuantizer(Config(QuantizationConfig(**DOCUMENTED)))
    with pytest.warns(UserWarning, match="[Cc]alibration data"):
        quantizer.quantize_model(float_model, calibration_data_reader=None)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Reader([]), "no|empty"),
        (Reader([{"z": np.zeros((1, 3, 6, 6), np.float32)}]), "z"),
        (Reader([{"x": np.zeros((1, 4, 6, 6), np.float32)}]), "shape"),
        (Reader([{"x": np.full((1, 3, 6, 6), np.nan, np.float32)}]), "NaN"),
        (object(), "data"),
    ],
)
def test_unusable_readers_are_refused_and_leave_nothing(
    float_model: onnx.ModelProto, tmp_path: Path, reader: Any, message: str
) -> None:
    target = tmp_path / "out.onnx"
    with pytest.raises(EquiQuantError, match=message) as caught:
        ModelQuantizer(Config(QuantizationConfig())).quantize_model(float_model, target, reader)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
