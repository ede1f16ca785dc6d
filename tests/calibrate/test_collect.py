import importlib
import weakref
from pathlib import Path

import numpy as np
import pytest

from equiquant.calibrate import SampleView, collect, open_samples, save_stats
from equiquant.errors import DataError, ModelError
from equiquant.io import InputSpec, Runner, input_specs, load_model
from equiquant.numerics.affine import INT_TYPES
from equiquant.numerics.calibration.pow2 import minmse_exponent
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.recipe import preset
from tests.backward.support import noise, parse
from tests.calibrate.support import IMAGE, relu_model, samples

NAMES = ["x", "double", "y"]
XINT8, A8W8 = preset("xint8"), preset("a8w8")


def test_records_are_those_of_all_activations() -> None:
    x = samples(5)
    done: list[int] = []
    stats = collect(relu_model(), open_samples(x, [IMAGE], XINT8), NAMES, XINT8, progress=done.append)
    assert (stats.samples, stats.synthetic, done) == (5, False, [1, 2, 3, 4, 5])
    for name, value in (("x", x), ("double", 2 * x), ("y", np.maximum(2 * x, 0))):
        record = stats.tensors[name]
        assert (record.low, record.high, record.count) == (value.min(), value.max(), value.size)
        assert record.histogram == DyadicHistogram.of(value)
        assert record.channels is None


def test_minmax_keeps_no_histogram_and_batches_do_not_matter() -> None:
    x, minmax = samples(6), A8W8.replace(calibration="minmax")
    whole = collect(relu_model(), open_samples([x[:4], x[4:]], [IMAGE], minmax), NAMES, minmax)
    single = collect(relu_model(), open_samples(x, [IMAGE], minmax), NAMES, minmax)
    assert whole.samples == single.samples == 6
    for name in NAMES:
        a, b = whole.tensors[name], single.tensors[name]
        assert (a.low, a.high, a.count, a.histogram) == (b.low, b.high, b.count, None)


@pytest.mark.parametrize("axis", [1, 3])
def test_channel_figures(axis: int) -> None:
    x = samples(7)
    stats = collect(relu_model(), open_samples(x, [IMAGE], A8W8), ["y"], A8W8, channels={"y": axis, "x": axis})
    others = tuple(i for i in range(4) if i != axis)
    for name, value in (("x", x), ("y", np.maximum(2 * x, 0))):
        channels = stats.tensors[name].channels
        assert channels is not None
        exact = value.astype(np.float64)
        assert channels.axis == axis
        assert np.array_equal(channels.low, value.min(axis=others))
        assert np.array_equal(channels.high, value.max(axis=others))
        assert np.allclose(channels.mean, exact.mean(axis=others), rtol=1e-6, atol=1e-7)
        assert np.allclose(channels.mean_square, (exact**2).mean(axis=others), rtol=1e-6)
        within = tuple(i for i in others if i != 0)
        assert np.allclose(channels.constant_square, (exact.mean(axis=within) ** 2).mean(axis=0), rtol=1e-5)
        assert stats.tensors[name].high == value.max()


def test_moving_average_is_the_documented_recursion() -> None:
    x = samples(4)
    recipe = preset("a8w8", calibration="minmax", moving_average=True, moving_average_constant=0.25)
    record = collect(relu_model(), open_samples(x, [IMAGE], recipe), ["x"], recipe).tensors["x"]
    low, high = float(x[0].min()), float(x[0].max())
    for sample in x[1:]:
        low += 0.25 * (float(sample.min()) - low)
        high += 0.25 * (float(sample.max()) - high)
    assert (record.low, record.high) == pytest.approx((low, high))
    assert record.high < x.max()


def test_nan_activations_name_the_tensor() -> None:
    x = samples(3)
    x[2, 0, 0, 0] = 3e38  # doubles to infinity
    with pytest.raises(DataError, match=r"Calibration feed 2: .*NaN or infinite values in tensor '(double|y)'"):
        collect(relu_model(), open_samples(x, [IMAGE], A8W8), NAMES, A8W8)


@pytest.mark.parametrize(("count", "bad"), [(10, 3), (40, 1), (40, 30)])
def test_the_feed_the_model_fails_on_is_named(count: int, bad: int) -> None:
    """What only the model sees: an index beyond its table."""
    model = parse("g (int64[N, 2] ids) => (float[N, 2, 5] y) { e = Gather(table, ids) y = Relu(e) }", table=noise(7, 5))
    ids = np.full((count, 2), 6)
    ids[bad] = 7
    stream = open_samples(ids, input_specs(model), A8W8)
    feeds = rf"feeds? ({bad - 1} to )?{bad}( to {bad + 1})?"  # batched or not
    for view in (stream, SampleView(stream, 1, None), SampleView.picked(stream, range(1, count))):
        with pytest.raises(ModelError, match=rf"Calibration {feeds}: .*out of data bounds"):
            collect(model, view, ["y"], A8W8)


def test_a_bad_sample_stops_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(Runner, "run", never)
    with pytest.raises(DataError, match="expected"):
        collect(relu_model(), open_samples([np.zeros((2, 2))], [IMAGE], A8W8), NAMES, A8W8)


def test_half_precision_models() -> None:
    spec = InputSpec("x", "float16", (None, 3, 4, 5))
    x = samples(2).astype(np.float16)
    stats = collect(relu_model(dtype=10), open_samples(x, [spec], XINT8), NAMES, XINT8, channels={"y": 1})
    assert stats.tensors["double"].high == float((2 * x).max())
    assert stats.tensors["x"].histogram == DyadicHistogram.of(x)


def test_one_worker_or_many_give_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = importlib.import_module("equiquant.calibrate.collect")
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(module, "CORES", cores)
        stats = collect(
            relu_model(),
            open_samples(samples(7), [IMAGE], XINT8),
            NAMES,
            XINT8,
            channels={"y": 1, "double": 1, "x": 3},
            sketches={"double", "x"},
        )
        save_stats(stats, tmp_path / f"{cores}.stats")
        found.append((tmp_path / f"{cores}.stats").read_bytes())
    assert found[0] == found[1]


def test_each_worker_lets_go_of_a_sample_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("equiquant.calibrate.collect"), "CORES", 2)
    alive: list[weakref.ref[np.ndarray]] = []
    run = Runner.run

    def watched(self: Runner, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert sum(r() is not None for r in alive) <= 2  # of the sample in the other worker
        results = [r.copy() for r in run(self, feed)]
        alive.extend(weakref.ref(r) for r in results)
        return results

    monkeypatch.setattr(Runner, "run", watched)
    collect(relu_model(), open_samples(samples(4), [IMAGE], XINT8), NAMES, XINT8)
    assert len(alive) == 8


def test_synthetic_data_are_marked() -> None:
    stats = collect(relu_model(), open_samples(None, [IMAGE], A8W8), ["y"], A8W8)
    assert (stats.synthetic, stats.samples) == (True, 32)


@pytest.mark.shared
def test_streaming_scales_equal_those_of_the_raw_activations(shared_data: Path) -> None:
    import realdata

    kind = INT_TYPES["uint8"]
    model = load_model(realdata.reference("mobilenetv1_025")).model
    x = realdata.load("mobilenetv1_025", "calib")[0][:8]
    names = [node.outputs[0].name or "" for node in model.graph if node.op_type in ("Conv", "LeakyRelu")]
    runner = Runner(model, names)
    feeds = [{runner.inputs[0].name: row[None]} for row in x]
    raw = [runner.run(feed) for feed in feeds]
    stats = collect(model, open_samples(x, runner.inputs, XINT8), names, XINT8)
    assert len(names) > 40
    for index, name in enumerate(names):
        whole = np.concatenate([values[index] for values in raw])
        record = stats.tensors[name]
        assert (record.low, record.high) == (whole.min(), whole.max())
        assert record.histogram is not None
        assert minmse_exponent(record.histogram, kind) == minmse_exponent(whole, kind), name
