import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equiquant.numerics.statistics.histogram import BINS, DyadicHistogram, HistogramBuilder, absolute_exponent

magnitudes = st.floats(2.0**-60, 2.0**40, width=32)  # far smaller ones underflow beside the largest
arrays = hnp.arrays(np.float32, st.integers(0, 20), elements=st.just(0.0) | magnitudes | magnitudes.map(lambda m: -m))


def naive(x: np.ndarray, exponent: int) -> np.ndarray:
    counts = np.zeros(2 * BINS, np.int64)
    for value in x.ravel():
        counts[math.floor(float(value) * 2.0**-exponent) + BINS] += 1
    return counts


@given(arrays)
def test_counts_are_those_of_the_definition(x: np.ndarray) -> None:
    histogram = DyadicHistogram.of(x)
    assert np.array_equal(histogram.counts, naive(x, histogram.exponent))
    assert histogram.total == x.size


@given(arrays, arrays, arrays)
def test_merge_is_associative_commutative_and_that_of_the_union(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    parts = [DyadicHistogram.of(v) for v in (a, b, c)]
    union = DyadicHistogram.of(np.concatenate([a, b, c]))
    assert parts[0].merge(parts[1]).merge(parts[2]) == union
    assert parts[0].merge(parts[1].merge(parts[2])) == union
    assert parts[2].merge(parts[0]).merge(parts[1]) == union
    assert DyadicHistogram.merged(parts) == union


@given(st.lists(arrays, max_size=4))
def test_streaming_equals_one_array(batches: list[np.ndarray]) -> None:
    builder = HistogramBuilder()
    for batch in batches:
        builder.add(batch)
    assert builder.result() == DyadicHistogram.of(np.concatenate([np.zeros(0, np.float32), *batches]))


@pytest.mark.parametrize("bound", [2.0**-140, 1e-30, 0.999, 1.0, 1.001, 6.0, 3e38])
def test_the_exponent_is_the_smallest_that_covers(bound: float) -> None:
    exponent = absolute_exponent(bound)
    assert bound < BINS * 2.0**exponent
    assert exponent == -126 or bound >= BINS * 2.0 ** (exponent - 1)
    assert DyadicHistogram.of(np.array([bound, -bound], np.float32)).total == 2


def test_the_extremes_survive_exactly_and_centers_stay_within() -> None:
    x = np.array([-1.7, 0.3, 5.9], np.float32)
    histogram = DyadicHistogram.of(x)
    centers, counts = histogram.occupied()
    assert (histogram.low, histogram.high) == (x[0], x[2])
    assert np.array_equal(counts, [1, 1, 1])
    assert np.abs(centers - x).max() <= 2.0**histogram.exponent / 2
    assert centers[0] >= x[0]
    assert centers[-1] <= x[2]


def test_sampling_counts_the_tails_exactly_and_the_body_in_proportion() -> None:
    rng = np.random.default_rng(0)
    x = rng.laplace(size=(5, 40, 50)).astype(np.float32)
    builder = HistogramBuilder()
    builder.add(x, limit=1000)
    exact, sampled = DyadicHistogram.of(x), builder.result()
    assert (sampled.low, sampled.high, sampled.exponent) == (exact.low, exact.high, exact.exponent)
    edge = BINS // 4  # a quarter of the power of two above the maximum
    tails = np.r_[: BINS - edge, BINS + edge : 2 * BINS]
    assert exact.counts[tails].sum() > 50
    assert np.array_equal(sampled.counts[tails], exact.counts[tails])
    assert sampled.total == pytest.approx(x.size, rel=0.02)
    assert not np.array_equal(sampled.counts, exact.counts)


def test_sampling_does_not_depend_on_the_order_of_the_stream() -> None:
    rng = np.random.default_rng(1)
    batches = [(rng.standard_normal(3000) * 4.0**k).astype(np.float32) for k in range(-4, 4)]
    results = []
    for order in (batches, batches[::-1]):
        builder = HistogramBuilder()
        for batch in order:
            builder.add(batch, limit=200)
        results.append(builder.result())
    assert results[0] == results[1]


def test_where_the_tails_are_most_of_it_they_are_sampled_too() -> None:
    x = np.ones(10_000, np.float32)
    builder = HistogramBuilder()
    builder.add(x, limit=100)
    (occupied,) = np.nonzero(builder.result().counts)
    assert occupied.size == 1
    assert builder.result().total == pytest.approx(10_000, rel=0.02)
