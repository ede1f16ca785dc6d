"""Percentile, entropy and MSE ranges against the same methods on the raw values."""

import numpy as np
import pytest

from equiquant.numerics.affine import INT_TYPES, fake_quantize, params_from_range
from equiquant.numerics.calibration.entropy import entropy_range
from equiquant.numerics.calibration.mse import mse_range
from equiquant.numerics.calibration.percentile import percentile_range
from equiquant.numerics.statistics.histogram import DyadicHistogram

RNG = np.random.default_rng(0)
LAPLACE = RNG.laplace(size=50_000).astype(np.float32)
RELU = np.maximum(RNG.standard_normal(50_000) * 2, 0).astype(np.float32)
SKEWED = (RNG.gamma(2.0, size=50_000) - 1.0).astype(np.float32)
ALL = pytest.mark.parametrize("x", [LAPLACE, RELU, SKEWED], ids=["laplace", "relu", "skewed"])


def width(x: np.ndarray) -> float:
    return 2.0 ** DyadicHistogram.of(x).exponent


@ALL
@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentile_is_that_of_the_values_within_a_bin(x: np.ndarray, percent: float) -> None:
    low, high = percentile_range(DyadicHistogram.of(x), percent, symmetric=False)
    keep = 100 - (100 - percent) / 2
    assert abs(low + np.percentile(-x, keep, method="inverted_cdf")) <= width(x)
    assert abs(high - np.percentile(x, keep, method="inverted_cdf")) <= width(x)
    assert high < x.max()
    magnitude = percentile_range(DyadicHistogram.of(x), percent, symmetric=True)
    assert abs(magnitude[1] - np.percentile(np.abs(x), percent, method="inverted_cdf")) <= width(x)
    assert magnitude[0] == -magnitude[1]


def test_all_percent_is_min_max_and_bins_coarsen() -> None:
    histogram = DyadicHistogram.of(LAPLACE)
    assert percentile_range(histogram, 100, symmetric=False) == (LAPLACE.min(), LAPLACE.max())
    fine = percentile_range(histogram, 99.9, symmetric=False)
    coarse = percentile_range(histogram, 99.9, symmetric=False, bins=32)
    step = (LAPLACE.max() - LAPLACE.min()) / 32
    assert fine[1] <= coarse[1] <= fine[1] + step + width(LAPLACE)
    assert abs(round((coarse[1] - LAPLACE.min()) / step) - (coarse[1] - LAPLACE.min()) / step) < 1e-6
    assert percentile_range(DyadicHistogram.of(np.zeros(0, np.float32)), 99.9, symmetric=False) == (0.0, 0.0)


def entropy(x: np.ndarray, kind: str = "uint8", *, symmetric: bool = False, bins: int = 2048) -> tuple[float, float]:
    return entropy_range(DyadicHistogram.of(x), INT_TYPES[kind], symmetric=symmetric, bins=bins)


def test_entropy_clips_a_long_tail_and_keeps_a_uniform_range() -> None:
    tail = np.append(RNG.standard_normal(100_000), [40.0, -40.0]).astype(np.float32)
    low, high = entropy(tail)
    assert 3 < high < 20
    assert low == -high
    assert entropy(RNG.uniform(-1, 1, 200_000).astype(np.float32))[1] > 0.95
    assert entropy(RELU)[0] == 0.0
    assert entropy(np.zeros(3, np.float32)) == (0.0, 0.0)
    assert entropy(tail, bins=1 << 20) == entropy(tail, bins=1 << 14)  # the histogram has no more


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_cuts_where_the_grid_has_fewer_levels_than_there_are_bins(symmetric: bool) -> None:
    spiked = np.clip(RNG.standard_normal(80_000) * 1.5, 0, 6).astype(np.float32)
    whole = (0.0, float(spiked.max()))
    levels = 256 if symmetric else 512  # over ±max: one-sided values have them all on their side
    assert entropy(spiked, bins=levels, symmetric=symmetric) == whole
    assert entropy(spiked, bins=2 * levels, symmetric=symmetric)[1] < 0.99 * whole[1]
    assert entropy(spiked, "uint16", symmetric=symmetric) == whole
    assert entropy_range(DyadicHistogram.of(spiked), INT_TYPES["uint8"], symmetric=symmetric) == whole


def error(x: np.ndarray, bounds: tuple[float, float], symmetric: bool) -> float:
    params = params_from_range(*bounds, INT_TYPES["uint8"], symmetric=symmetric)
    return float(np.square(x.astype(np.float64) - fake_quantize(x, params)).sum())


@ALL
@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_within_a_percent_of_the_best_found_on_the_values(x: np.ndarray, symmetric: bool) -> None:
    found = mse_range(DyadicHistogram.of(x), INT_TYPES["uint8"], symmetric=symmetric)
    low, high = min(float(x.min()), 0.0), float(x.max())
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    grid = np.linspace(0.1, 1, 46)
    tries = [(low * a, high * b) for a in grid for b in (grid if low < 0 and not symmetric else [a])][::3]
    best = min(error(x, t, symmetric) for t in tries)
    assert error(x, found, symmetric) <= 1.03 * best
    assert error(x, found, symmetric) <= error(x, (low, high), symmetric)


def test_mse_of_nothing_is_nothing() -> None:
    assert mse_range(DyadicHistogram.of(np.zeros(4, np.float32)), INT_TYPES["int8"], symmetric=True) == (0.0, 0.0)


@pytest.mark.parametrize("bins", [101, 127, 128])
def test_with_few_bins_entropy_is_min_max(bins: int) -> None:
    data = DyadicHistogram.of(np.array([-1.0, 0.5, 1.0], np.float32))
    assert entropy_range(data, INT_TYPES["uint8"], symmetric=True, bins=bins) == (-1.0, 1.0)
