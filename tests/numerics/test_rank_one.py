"""A matrix as a product of a row and a column."""

import numpy as np
import pytest

from equiquant.numerics.scales.rank_one import rank_one


def test_a_product_is_found_again() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.exp(rng.normal(0, 2, (2, 5))), np.exp(rng.normal(0, 2, (2, 7)))
    a, b = rank_one(rows[:, :, None] * columns[:, None, :])
    assert a[:, :, None] * b[:, None, :] == pytest.approx(rows[:, :, None] * columns[:, None, :])


def test_a_line_times_a_factor_keeps_the_others() -> None:
    tables = np.random.default_rng(1).random((1, 6, 4)) + 0.1
    factor = np.array([1.0, 100.0, 1.0, 1.0, 0.01, 1.0])
    (a, b), (scaled, other) = rank_one(tables), rank_one(tables * factor[:, None])
    assert scaled[:, :, None] * other[:, None, :] == pytest.approx((factor * a)[:, :, None] * b[:, None, :], rel=1e-4)
    left = tables / (a[:, :, None] * b[:, None, :])
    assert (left.mean(axis=1), left.mean(axis=2)) == (pytest.approx(1.0, rel=1e-3), pytest.approx(1.0, rel=1e-3))


def test_nothing_in_a_line_is_little_not_nothing() -> None:
    a, b = rank_one(np.array([[[1.0, 2.0], [0.0, 0.0]]]))
    assert (a > 0).all()
    assert a[0, 1] * b[0] == pytest.approx(np.full(2, 0.75e-6), rel=0.5)
