"""From collected statistics to scales: every documented method, on data whose answer is known."""

import importlib
import itertools
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant import quantize, target
from equiquant.calibrate import TensorStats, collect, load_stats, open_samples
from equiquant.calibrate.accumulate import Wanted
from equiquant.errors import DataError
from equiquant.numerics.affine import INT_TYPES
from equiquant.numerics.calibration.pow2 import minmse_exponent
from equiquant.numerics.statistics.histogram import DyadicHistogram, HistogramBuilder
from equiquant.recipe import Recipe, preset
from tests.calibrate.support import IMAGE, proto, relu_model, samples

UINT8 = INT_TYPES["uint8"]


def scales(x: np.ndarray, recipe: Recipe) -> dict[str, Any]:
    model = relu_model()
    survey = target.survey(model, recipe)
    stats = collect(model, open_samples(x, [IMAGE], recipe), survey.calibrated, recipe)
    return dict(target.choose(model, survey, stats, recipe).activations)


def outlying(count: int = 40) -> np.ndarray:
    x = samples(count)
    x[3, 0, 0, 0] = 60.0
    return x


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_methods_that_cut_ignore_a_lone_outlier(method: str) -> None:
    x = outlying()
    ops = ("Mul",)
    recipe = preset("a8w8", calibration=method, percentile=99.9, histogram_bins=2048, op_types_to_quantize=ops)
    whole = scales(x, recipe.replace(calibration="minmax"))
    cut = scales(x, recipe)
    assert float(whole["x"].scale) == pytest.approx((60 - x.min()) / 255, rel=1e-6)
    assert float(cut["x"].scale) < 0.7 * float(whole["x"].scale)


@pytest.mark.parametrize("name", ["a8w8", "a16w8"])
def test_entropy_as_in_onnxruntime_cuts_nothing(name: str) -> None:
    recipe = preset(name, calibration="entropy")
    found, whole = scales(outlying(), recipe), scales(outlying(), recipe.replace(calibration="minmax"))
    assert {tensor: p.scale for tensor, p in found.items()} == {tensor: p.scale for tensor, p in whole.items()}


@pytest.mark.parametrize(("name", "bins", "limit"), [("a8w8", None, 8192), ("a8w8", 2048, None), ("a16w8", 2048, 8192)])
def test_entropy_counts_every_element_only_where_it_cuts(name: str, bins: int | None, limit: int | None) -> None:
    assert Wanted.by(preset(name, calibration="entropy", histogram_bins=bins), histogram=True).limit == limit


def test_symmetric_ranges_hold_for_every_method() -> None:
    for method in ("minmax", "percentile", "entropy", "mse"):
        recipe = preset("a8w8", calibration=method, symmetric_ranges=True, op_types_to_quantize=("Mul",))
        assert int(scales(outlying(), recipe)["x"].zero_point) in (127, 128)


def test_most_common_is_the_scale_most_samples_have() -> None:
    x = samples(9)
    x[:3] *= 50
    one = preset("xint8")
    most = one.replace(minmse_mode="most_common")
    votes = Counter(minmse_exponent(sample, UINT8) for sample in x)
    exponent = max(votes, key=lambda e: (votes[e], e))
    assert float(scales(x, most)["x"].scale) == 2.0**exponent
    assert float(scales(x, one)["x"].scale) == 2.0 ** minmse_exponent(x, UINT8)
    assert scales(x, one)["x"] != scales(x, most)["x"]


def test_nonoverflow_rounds_up_unless_told_otherwise() -> None:
    x = np.clip(samples(4), -1, 1)
    x[0, 0, 0, 0] = 1.3
    up = preset("xint8", calibration="nonoverflow")
    assert float(scales(x, up)["x"].scale) == 2.0**-6
    assert float(scales(x, up.replace(nonoverflow_rounding="nearest"))["x"].scale) == 2.0**-7


def test_the_tails_of_either_side_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.laplace(size=60_000).astype(np.float32)
    x[x < 0] *= 0.05  # a leaky activation: its negative side is twenty times smaller
    builder = HistogramBuilder()
    builder.add(x, limit=1000)
    exact, sampled = DyadicHistogram.of(x), builder.result()
    for far in (np.sort(x)[59], np.sort(x)[-60]):
        position = int(np.floor(far / 2.0**exact.exponent)) + 8192
        region = slice(0, position) if far < 0 else slice(position, None)
        assert exact.counts[region].sum() > 40
        assert np.array_equal(exact.counts[region], sampled.counts[region])


def test_statistics_in_doubt_are_counted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = preset("xint8")
    model = relu_model()
    survey = target.survey(model, recipe)
    stats = collect(model, open_samples(samples(2), [IMAGE], recipe), survey.calibrated, recipe)
    assert target.in_doubt(model, survey, stats, recipe) == ()  # small tensors are counted in full anyway
    monkeypatch.setattr(importlib.import_module("equiquant.target.choosing.choose"), "HISTOGRAM_LIMIT", 1)
    monkeypatch.setattr("equiquant.target.choosing.ranges.DOUBT", 1e9)
    doubtful = target.in_doubt(model, survey, stats, recipe)
    assert set(doubtful) == set(survey.calibrated)
    assert target.in_doubt(model, survey, stats, recipe.replace(exact_histograms=True)) == ()
    coarse = DyadicHistogram.of(np.full(10, 100, np.float32))
    recounted = TensorStats(2, stats.tensors, recounted=dict.fromkeys(doubtful, coarse))
    changed = target.choose(model, survey, recounted, recipe).activations
    assert changed["x"] != target.choose(model, survey, stats, recipe).activations["x"]


def collections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[str, ...]]]:
    """Return a list that gets the samples and the fully counted tensors of each collection; all tensors are large."""
    asked: list[tuple[int, tuple[str, ...]]] = []

    def watched(*args: Any, exact: Collection[str] = (), **kwargs: Any) -> TensorStats:
        found = collect(*args, exact=exact, **kwargs)
        asked.append((found.samples, tuple(exact)))
        return found

    monkeypatch.setattr("equiquant.calibrate.collect", watched)
    monkeypatch.setattr(importlib.import_module("equiquant.target.choosing.choose"), "HISTOGRAM_LIMIT", 1)
    return asked


def test_what_the_first_samples_leave_in_doubt_is_counted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = collections(monkeypatch)
    monkeypatch.setattr("equiquant.target.choosing.ranges.DOUBT", 1e9)
    quantize(proto(), data=samples(11), preset="xint8", cle=False, bias_correction=False, weight_rounding="nearest")
    (first, everything), (rest, doubtful) = asked
    assert (first, rest) == (8, 3)
    assert set(everything) == set(doubtful) != set()


def test_a_few_samples_are_counted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = collections(monkeypatch)
    monkeypatch.setattr("equiquant.target.choosing.ranges.DOUBT", 1e9)
    quantize(proto(), data=samples(3), preset="xint8", cle=False, bias_correction=False, weight_rounding="nearest")
    assert [count for count, exact in asked if exact] == [3]


def test_what_all_samples_leave_in_doubt_is_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = collections(monkeypatch)
    calls = itertools.count()
    in_doubt = target.in_doubt
    monkeypatch.setattr("equiquant.target.choosing.ranges.DOUBT", 1e9)
    monkeypatch.setattr("equiquant.target.in_doubt", lambda *given: in_doubt(*given) if next(calls) else ())
    quantize(proto(), data=samples(11), preset="xint8", cle=False, bias_correction=False, weight_rounding="nearest")
    assert [count for count, _ in asked] == [8, 3, 11]
    assert set(asked[2][1]) == set(asked[0][1])


def test_saved_statistics_serve_other_methods_without_data(tmp_path: Path) -> None:
    file, x = tmp_path / "stats", outlying(10)
    options: dict[str, Any] = {"cle": False, "calibration_cache": file}
    quantize(proto(), data=x, preset="a8w8", calibration="minmax", **options)
    assert load_stats(file).samples == 10
    before = file.read_bytes()
    for method in ("minmax", "percentile", "entropy", "mse"):
        again = quantize(proto(), preset="a8w8", calibration=method, **options)  # no data, and no warning
        fresh = quantize(proto(), data=x, preset="a8w8", calibration=method, cle=False)
        assert [t["scale"] for t in again.report.to_dict()["tensors"]] == [
            t["scale"] for t in fresh.report.to_dict()["tensors"]
        ]
    assert file.read_bytes() == before
    other = proto()
    other.graph.initializer[0].raw_data = np.float32(3).tobytes()
    with pytest.raises(DataError, match="of another model"):
        quantize(other, data=x, preset="a8w8", calibration="minmax", **options)
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="Cannot read calibration statistics"):
        quantize(proto(), data=x, preset="a8w8", calibration="minmax", **options)
