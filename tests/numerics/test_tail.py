from collections.abc import Callable

import numpy as np
import pytest

from equiquant.numerics.statistics.sketch import MagnitudeSketch, SketchBuilder
from equiquant.numerics.statistics.tail import beyond, untold

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
CHANNELS = 4000


def sides(values: np.ndarray) -> tuple[MagnitudeSketch, MagnitudeSketch]:
    """Return both sides of (C, n) values of which all are looked at."""
    builder = SketchBuilder()
    for column in values.T:
        builder.add(column[:, None].astype(np.float32))
    return builder.result().sides(values.min(axis=1), values.max(axis=1), values.shape[1])


def sketched(values: np.ndarray) -> MagnitudeSketch:
    """Return the positive side."""
    return sides(values)[0]


@pytest.mark.parametrize(("count", "stands_for"), [(100, 0.5), (400, 1.0)])
@pytest.mark.parametrize(
    ("draw", "least", "most"),
    [
        (lambda rng, shape: rng.exponential(size=shape), 0.35, 1.0),
        (lambda rng, shape: rng.standard_normal(shape), 0.5, 2.0),
        (lambda rng, shape: np.maximum(rng.standard_normal(shape), 0), 0.5, 2.0),
        (lambda rng, shape: 10 * rng.gamma(0.5, size=shape), 0.2, 1.0),
    ],
)
def test_what_new_values_cut_off_is_foreseen(
    draw: Draw, least: float, most: float, count: int, stands_for: float
) -> None:
    rng = np.random.default_rng(0)
    seen, new = draw(rng, (CHANNELS, count)), draw(rng, (CHANNELS, 400))
    side = sketched(seen)
    further, share = beyond(side)
    excess = np.maximum(new - side.high[:, None], 0)
    assert share.sum() == pytest.approx(stands_for * (excess > 0).mean(axis=1).sum(), rel=0.1)
    assert least < (share * (further - side.high[:, None]) ** 2).sum() / np.square(excess).mean(axis=1).sum() < most


def test_of_few_values_what_a_wider_range_would_lose_is_foreseen_too() -> None:
    """One value would say that a range which holds it loses nothing."""
    rng = np.random.default_rng(0)
    side = sketched(rng.exponential(size=(CHANNELS, 24)))
    further, share = beyond(side)
    for wider in (1.0, 2.0, 3.0):  # units of the exponential, beyond the largest
        end = side.high[:, None] + wider
        new = np.square(np.maximum(rng.exponential(size=(CHANNELS, 2000)) - end, 0)).mean()
        assert 0.3 < (share * np.square(np.maximum(further - end, 0))).sum(axis=1).mean() / new < 4


@pytest.mark.parametrize("mean", [1.8, 2.7, 3.6])
def test_a_side_that_showed_few_values_or_none_is_foreseen_from_the_other(mean: float) -> None:
    rng = np.random.default_rng(0)
    shown = rng.logistic(mean, size=(CHANNELS, 24))
    positive, negative = sides(shown[(shown < 0).sum(axis=1) < 3])
    further, share = beyond(negative, positive)
    new = np.square(np.maximum(-rng.logistic(mean, size=(CHANNELS, 2000)), 0)).mean()
    assert 0.4 < (share * np.square(further)).sum(axis=1).mean() / new < 3
    assert untold(negative)
    assert not untold(positive)


@pytest.mark.parametrize("values", [np.full((2, 24), 3.0), np.zeros((2, 24)), 50 + np.arange(48).reshape(2, 24) / 24])
def test_values_far_from_0_are_expected_to_stay_on_their_side(values: np.ndarray) -> None:
    positive, negative = sides(values)
    np.testing.assert_array_equal(beyond(negative, positive)[0], 0)


def test_it_does_not_depend_on_the_unit() -> None:
    values = np.random.default_rng(1).exponential(size=(8, 200))
    (further, share), (larger, same) = beyond(sketched(values)), beyond(sketched(values * 64))
    np.testing.assert_allclose(larger, further * 64)
    np.testing.assert_array_equal(same, share)


def test_nothing_is_to_come_where_nothing_was_or_all_are_at_the_end() -> None:
    saturated = np.tile(np.array([0.25, 1.0]), (2, 50))
    saturated[1] = -1
    further, share = beyond(sketched(saturated))
    np.testing.assert_array_equal(share, 0)
    np.testing.assert_array_equal(further, np.outer([1, 0], np.ones(further.shape[1])))
    further, share = beyond(sketched(np.full((3, 5), -1.0)))
    np.testing.assert_array_equal((further, share), np.zeros((2, 3, 3)))


def test_a_channel_that_fired_once_is_expected_to_go_little_further() -> None:
    values = np.zeros((1, 100))
    values[0, 3] = 1.9
    further, share = beyond(sketched(values))
    assert 1.9 < np.average(further, weights=share) < 2.5
    assert share.sum() == pytest.approx(0.5 / 101)
