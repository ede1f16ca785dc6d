"""Grids: the step is found whatever offset and rounding, and nothing that rounding would change passes for one."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.numerics.affine import INT_TYPES, fake_quantize, params_from_range
from equiquant.numerics.calibration.grid import Grid, grid_of

PIXELS = np.arange(256).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        (PIXELS, Grid(1.0, 0, 255)),
        (PIXELS / np.float32(255), Grid(1 / 255, 0, 255)),
        ((PIXELS - np.float32(127)) * np.float32(1 / 128), Grid(1 / 128, -127, 128)),
        (-PIXELS[:100] * np.float32(0.3), Grid(0.3, -99, 0)),
        (np.array([0, 1], np.float32), Grid(1.0, 0, 1)),
    ],
)
def test_the_grid_of_pixels_is_found(values: np.ndarray, grid: Grid) -> None:
    found = grid_of(np.random.default_rng(0).permutation(values)[None], 255)
    assert found is not None
    assert (found.low, found.high) == (grid.low, grid.high)
    assert found.step == pytest.approx(grid.step, rel=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=1000).astype(np.float32),
        (PIXELS - np.float32(127.5)) / np.float32(127.5),  # 0 lies half a step beside it
        np.concatenate([(PIXELS / np.float32(255) - m) / np.float32(s) for m, s in ((0.485, 0.229), (0.456, 0.224))]),
        np.arange(257).astype(np.float32),
        np.append(PIXELS, np.float32(17.4)),
        np.append(PIXELS, np.float32("nan")),
        np.append(PIXELS, np.float32("inf")),
        np.zeros(10, np.float32),
        np.zeros(0, np.float32),
    ],
)
def test_other_values_have_none(values: np.ndarray) -> None:
    assert grid_of([values], 255) is None


def test_samples_count_together() -> None:
    even, odd, beside = PIXELS[::2], PIXELS[1::2], PIXELS + np.float32(0.3)
    assert grid_of([even], 255) == Grid(2.0, 0, 127)
    assert grid_of([even, odd], 255) == Grid(1.0, 0, 255)
    assert grid_of([even, odd, beside], 255) is None
    assert grid_of([np.zeros(3, np.float32), odd], 255) == Grid(1.0, 0, 255)
    few = np.array([0, 3, 5], np.float32)  # lie on no grid of 2, their smallest difference
    assert grid_of([few, PIXELS], 255) == Grid(1.0, 0, 255)
    assert grid_of([few, PIXELS, beside], 255) is None
    assert grid_of([PIXELS[::2], few * np.float32(2.1)], 255) is None


def test_a_value_that_is_rare_counts_too() -> None:
    large = np.tile(PIXELS, 10_000)
    large[1_234_567] = 0.5
    assert grid_of([large], 255) is None


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(("first", "last"), [(0, 255), (3, 250), (-127, 128), (-40, 17), (-200, -3), (0, 3)])
def test_the_range_loses_nothing(kind: str, first: int, last: int) -> None:
    values = np.arange(first, last + 1) * np.float32(0.0123)
    grid = grid_of([values], 255)
    assert grid is not None
    low, high = grid.range_of(255)
    params = params_from_range(low, high, INT_TYPES[kind], symmetric=False)
    assert np.abs(fake_quantize(values, params) - values).max() < 1e-3 * 0.0123
    if grid.fits(127, symmetric=True):
        end = grid.symmetric_range(127)
        params = params_from_range(-end, end, INT_TYPES[kind], symmetric=True)
        assert np.abs(fake_quantize(values, params) - values).max() < 1e-3 * 0.0123
