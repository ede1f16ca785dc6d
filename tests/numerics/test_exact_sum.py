import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from equiquant.numerics.statistics.exact_sum import ExactSum

values = st.lists(st.floats(-(2.0**100), 2.0**100, allow_subnormal=False), min_size=1, max_size=90).map(
    lambda v: [x if abs(x) >= 2.0**-150 else 0.0 for x in v]  # all their bits lie above the unit
)


def total(*parts: list[float]) -> ExactSum:
    result = ExactSum(1)
    for part in parts:
        for value in part:
            result.add(np.array([[value]]))
    return result


@given(values)
def test_the_sum_is_that_of_rational_arithmetic(x: list[float]) -> None:
    assert math.isclose(total(x).value()[0], math.fsum(x), rel_tol=1e-15, abs_tol=2.0**-220)
    assert total(x, [-v for v in x]).value()[0] == 0  # nothing was lost, however large what cancelled


@given(values, values)
def test_neither_order_nor_merging_changes_a_bit(a: list[float], b: list[float]) -> None:
    whole = total(a, b).digits()
    assert np.array_equal(whole, total(b[::-1], a).digits())
    assert np.array_equal(whole, total(a).merge(total(b)).digits())


def test_a_small_term_survives_a_large_one() -> None:
    assert total([1e30, 1.0, -1e30]).value()[0] == 1.0
    assert 1e30 + 1.0 - 1e30 != 1.0


def test_rows_of_vectors_add_by_column() -> None:
    rows = np.random.default_rng(0).standard_normal((200, 7)).astype(np.float32)
    result = ExactSum(7)
    for start in range(0, 200, 3):
        result.add(rows[start : start + 3])
    assert np.allclose(result.value(), rows.astype(np.float64).sum(axis=0), rtol=1e-14)
