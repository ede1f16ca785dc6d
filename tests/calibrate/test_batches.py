import importlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from equiquant.calibrate import batches, collect, open_samples
from equiquant.io import Runner, input_specs, load_model
from equiquant.recipe import preset
from tests.calibrate.support import IMAGE, relu_model, samples

A8W8 = preset("a8w8", calibration="mse")


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    run = Runner.run

    def counted(self: Runner, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(next(iter(feed.values())).shape[0])
        return run(self, feed)

    monkeypatch.setattr(Runner, "run", counted)
    return sizes


def test_single_samples_are_batched_where_the_model_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples(65)
    alone = collect(relu_model(), open_samples(x[:20], [IMAGE], A8W8), ["double", "y"], A8W8)
    for part in (x[20:40], x[40:]):
        alone = alone.merge(collect(relu_model(), open_samples(part, [IMAGE], A8W8), ["double", "y"], A8W8))
    sizes = counting(monkeypatch)
    stats = collect(relu_model(), open_samples(x, [IMAGE], A8W8), ["double", "y"], A8W8)
    assert sizes == [1] * 4 + [4] + [4] * 16 + [1]
    assert stats.samples == 65
    for name, record in alone.tensors.items():
        assert (record.low, record.high, record.count) == (
            (stats.tensors[name].low, stats.tensors[name].high, stats.tensors[name].count)
        )
        assert record.histogram == stats.tensors[name].histogram


def mixing_model() -> ir.Model:
    """y = x − mean over the batch: dynamic batch, but the samples of one see each other."""
    shape: list[str | int | None] = ["N", 3, 4, 5]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["s"]),
            helper.make_node("Relu", ["s"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).model


def test_a_model_that_mixes_its_batch_is_never_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = counting(monkeypatch)
    stats = collect(mixing_model(), open_samples(samples(64), [IMAGE], A8W8), ["s"], A8W8)
    assert sizes == [1] * 4 + [4] + [1] * 64
    assert stats.tensors["s"].high == 0.0


def test_few_samples_static_batches_and_moving_averages_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = counting(monkeypatch)
    static = relu_model(batch=1)
    collect(relu_model(), open_samples(samples(20), [IMAGE], A8W8), ["y"], A8W8)
    collect(static, open_samples(samples(64), input_specs(static), A8W8), ["y"], A8W8)
    average = preset("a8w8", calibration="minmax", moving_average=True)
    collect(relu_model(), open_samples(samples(64), [IMAGE], average), ["y"], average)
    assert set(sizes) == {1}
    assert len(sizes) == 20 + 64 + 64


def test_a_memory_limit_makes_passes_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples(5)
    whole = collect(relu_model(), open_samples(x, [IMAGE], A8W8), ["x", "double", "y"], A8W8)
    monkeypatch.setattr(
        importlib.import_module("equiquant.calibrate.collect"), "default_memory_limit", lambda: 2 * 4 * 60
    )
    sizes = counting(monkeypatch)
    done: list[int] = []
    split = collect(relu_model(), open_samples(x, [IMAGE], A8W8), ["x", "double", "y"], A8W8, progress=done.append)
    assert len(sizes) == 10
    assert len(done) == 10
    assert done == sorted(done)
    assert done[-1] == 5
    assert list(split.tensors) == list(whole.tensors)
    assert all(whole.tensors[n].histogram == r.histogram for n, r in split.tensors.items())


def test_sizes_come_from_the_feed_and_unknown_ones_from_the_largest() -> None:
    model = relu_model()
    feed = {"x": samples(7)}
    every = 7 * 60 * 4
    assert batches.split_by_memory(model, ["x", "double", "y"], feed, 3 * every) == [["x", "double", "y"]]
    assert batches.split_by_memory(model, ["x", "double", "y"], feed, 3 * every - 1) == [["x", "double"], ["y"]]
    assert batches.split_by_memory(model, ["x", "y"], feed, 1) == [["x"], ["y"]]
    next(iter(model.graph)).outputs[0].shape = None
    assert batches.split_by_memory(model, ["double", "y"], feed, 2 * every - 1) == [["double"], ["y"]]
    assert batches.default_memory_limit() > 1 << 20


def test_the_recipe_sets_the_limit() -> None:
    assert preset("a8w8", calibration_memory=1).calibration_memory == 1
    with pytest.raises(ValueError, match=r"CalibMemoryLimit, in MiB\) must be at least 1"):
        preset("a8w8", calibration_memory=0)


def test_values_that_are_no_arrays_for_one_sample_keep_samples_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["m"], axes=[1, 2, 3], keepdims=1),
            helper.make_node("Squeeze", ["m"], ["s"]),
            helper.make_node("Sigmoid", ["s"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 4, 5])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [])],
    )
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).model
    sizes = counting(monkeypatch)
    stats = collect(model, open_samples(samples(32), input_specs(model), A8W8), ["s", "y"], A8W8)
    assert (stats.samples, sizes[-28:]) == (32, [1] * 28)
