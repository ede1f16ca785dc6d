import math
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equiquant.numerics.affine import INT_TYPES, IntType, QuantParams, fake_quantize
from equiquant.numerics.calibration.pow2 import minmse_exponent, minmse_margin, nonoverflow_exponent, squared_errors
from equiquant.numerics.statistics.histogram import DyadicHistogram

INT8, UINT8, INT16 = INT_TYPES["int8"], INT_TYPES["uint8"], INT_TYPES["int16"]


def brute_force(x: np.ndarray, kind: IntType, zero_point: int) -> int:
    """The documented search, by quantizing for real."""
    top = nonoverflow_exponent(float(x.min()), float(x.max()), kind, zero_point=zero_point)
    errors = {}
    for exponent in range(top, top - 5, -1):
        rounded = fake_quantize(x, QuantParams.make(2.0**exponent, zero_point, kind.name)).astype(np.float64)
        errors[exponent] = float(((x - rounded) ** 2).sum())
    return min(errors, key=lambda e: (errors[e], -e))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1.0, 1.0, -6),
        (-1.0, 0.99, -7),
        (-128.5, 127.5, 0),
        (-128.6, 0.0, 1),
        (0.0, 127.6, 1),
        (0.0, 0.0, 0),
        (0.5, 2.0, -5),
    ],
)
def test_nonoverflow_is_the_smallest_exponent_that_holds_the_range(low: float, high: float, expected: int) -> None:
    assert nonoverflow_exponent(low, high, INT8) == expected
    assert nonoverflow_exponent(low, high, UINT8) == expected  # the same integers, shifted by 128


@given(st.floats(-(2.0**99), 0, width=32), st.floats(0, 2.0**99, width=32))
def test_nonoverflow_clips_nothing_and_is_tight(low: float, high: float) -> None:
    exponent = nonoverflow_exponent(low, high, INT8)
    scale = 2.0**exponent
    assert low >= -128.5 * scale
    assert high <= 127.5 * scale
    if exponent > -126 and (low, high) != (0, 0):
        assert low < -128.5 * scale / 2 or high > 127.5 * scale / 2


def test_nonoverflow_takes_channels_and_a_zero_point_at_the_edge() -> None:
    got = nonoverflow_exponent(np.array([-1.0, 0.0, -4.0]), np.array([1.0, 0.0, 0.0]), INT8)
    assert got.tolist() == [-6, 0, -5]
    assert nonoverflow_exponent(0.0, 1.99, UINT8, zero_point=0) == -7
    assert nonoverflow_exponent(0.0, 1.99, UINT8) == -6


def test_exponents_stay_normal_float32() -> None:
    assert nonoverflow_exponent(0.0, 1e-44, INT8) == -126
    assert nonoverflow_exponent(0.0, 3e38, INT8) == 121
    for value in (1e-44, 1e-38, 3e38):
        x = np.array([value, -value / 3], np.float32)
        for data in (x, DyadicHistogram.of(x)):
            assert -126 <= minmse_exponent(data, INT8) <= 127


@pytest.mark.parametrize("kind", [INT8, UINT8])
@pytest.mark.parametrize("zero_point", [None, 0])
@pytest.mark.parametrize("seed", range(6))
def test_minmse_of_arrays_and_histograms_is_that_of_quantizing_for_real(
    kind: IntType, zero_point: int | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_t(2 + seed, 4000) * 2.0 ** rng.uniform(-3, 3)).astype(np.float32)
    if zero_point == 0 and kind is UINT8:
        x = np.maximum(x, 0)
    expected = brute_force(x, kind, kind.center if zero_point is None else zero_point)
    assert minmse_exponent(x, kind, zero_point=zero_point) == expected
    assert minmse_exponent(DyadicHistogram.of(x), kind, zero_point=zero_point) == expected


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-100, 100, width=16)))
def test_minmse_of_any_array_has_the_least_error(x: np.ndarray) -> None:
    def error(exponent: int) -> float:
        rounded = fake_quantize(x, QuantParams.make(2.0**exponent, 0, "int8")).astype(np.float64)
        return float(((x - rounded) ** 2).sum())

    found = error(minmse_exponent(x, INT8))
    best = error(brute_force(x, INT8, 0)) if x.any() else 0.0
    assert found <= best * (1 + 1e-5) + 1e-12


def test_the_worst_aligned_maximum_is_still_exact_on_the_histogram() -> None:
    for top in (127.5, 127.4, 64.0, 63.76, 100.0):  # of one step, the whole octave of a scale
        x = np.random.default_rng(3).standard_t(1.5, 5000).astype(np.float32)
        x = np.clip(x, -top, top) if top < 100 else x * np.float32(top / np.abs(x).max())
        assert minmse_exponent(DyadicHistogram.of(x), INT8) == brute_force(x, INT8, 0)


def test_outliers_are_clipped_when_that_pays() -> None:
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    x[0] = 40.0
    assert minmse_exponent(x, INT8) < nonoverflow_exponent(float(x.min()), float(x.max()), INT8)


def test_per_channel_is_the_search_of_each_channel() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 7, 5)).astype(np.float32) * np.array([1, 0, 100], np.float32)[:, None, None]
    for axis in range(3):
        expected = [minmse_exponent(np.take(w, c, axis), INT8) for c in range(w.shape[axis])]
        assert minmse_exponent(w, INT8, axis).tolist() == expected


def test_pieces_of_a_large_array_add_up() -> None:
    x = np.random.default_rng(0).standard_t(3, (2, 70_000)).astype(np.float32)
    assert minmse_exponent(x, INT8) == brute_force(x, INT8, 0)
    assert minmse_exponent(x, INT8, 0).tolist() == [brute_force(row, INT8, 0) for row in x]


def test_zeros_and_nothing_get_exponent_zero() -> None:
    for x in (np.zeros((2, 3), np.float32), np.zeros(0, np.float32)):
        assert minmse_exponent(x, INT8) == 0
        assert minmse_exponent(DyadicHistogram.of(x), INT8) == 0


def test_sixteen_bits_weigh_rounding_against_clipping() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 10_000).astype(np.float32)
    assert minmse_exponent(DyadicHistogram.of(x), INT16) == minmse_exponent(x, INT16) == -15


@given(st.floats(1e-6, 1e6), st.sampled_from(["int8", "uint8", "int16"]))
def test_nonoverflow_up_never_overflows_and_nearest_is_the_rounded_log(bound: float, name: str) -> None:
    kind = INT_TYPES[name]
    top = kind.qmax - kind.center
    up = nonoverflow_exponent(-bound, bound, kind)
    nearest = nonoverflow_exponent(-bound, bound, kind, rounding="nearest")
    assert bound <= (top + 0.5) * 2.0**up
    assert abs(nearest - math.log2(bound / top)) <= 0.5
    assert up in (nearest, nearest + 1)


def test_nearest_may_overflow() -> None:
    kind = INT_TYPES["int8"]
    assert nonoverflow_exponent(-1.3, 1.3, kind, rounding="nearest") == -7  # 127·2^−7 = 0.99: a fifth is clipped
    assert nonoverflow_exponent(-1.3, 1.3, kind) == -6


def test_the_errors_of_many_exponents_take_one_look_at_the_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    histogram = DyadicHistogram.of(x)
    look = Mock(wraps=histogram.occupied)
    monkeypatch.setattr(DyadicHistogram, "occupied", look)
    exponents = np.arange(-8, -3)
    errors, power = squared_errors(histogram, exponents, INT8)
    exact, own = squared_errors(x, exponents, INT8)
    np.testing.assert_allclose([*errors, power], [*exact, own], rtol=0.02)
    assert look.call_count == 1


def test_the_margin_tells_how_close_the_second_best_is() -> None:
    kind = INT_TYPES["int8"]
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    errors = {}
    for e in range(-9, -3):
        q = np.clip(np.rint(x * 2.0**-e), -128, 127) * 2.0**e
        errors[e] = float(np.square(x.astype(np.float64) - q).sum())
    first, second = sorted(errors.values())[:2]
    assert minmse_margin(DyadicHistogram.of(x), kind) == pytest.approx(second / first - 1, rel=0.02)
    assert minmse_margin(DyadicHistogram.of(np.zeros(5, np.float32)), kind) == 0
