"""What a sample counts beside the others."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.numerics.statistics.loudness import Loudness, sample_powers


def shares(*powers: float) -> list[float]:
    heard = Loudness([np.array([power]) for power in powers])
    return [float(heard.weighed(np.ones(1), feed)[0]) ** 2 for feed in range(len(powers))]


def test_a_loud_sample_counts_as_ten_medians() -> None:
    assert shares(1, 1, 1, 1, 1000) == pytest.approx([1, 1, 1, 1, 0.01])
    heard = Loudness([np.array([1.0, 1, 1, 1, 1000])])
    assert (heard.loud, heard.samples, heard.times) == (1, 5, 1000)


@pytest.mark.parametrize(
    "powers",
    [
        (1, 2, 3, 9),
        (0, 0, 0, 5, 7),
        (0, 0, 5, 700),
        (1, 1, 1000),
        (0.0, 1e-3, 1e-3, 1e-3),
        (1, 1, 1, np.inf),
        (),
        (np.nan, 1, 1, 1),
    ],
    ids=["even", "mostly silent", "half silent", "few", "small", "infinite", "none", "not a number"],
)
def test_elsewhere_all_count_with_their_power(powers: tuple[float, ...]) -> None:
    heard = Loudness([np.array([power]) for power in powers])
    values = np.ones((1, 3), np.float32)
    assert all(heard.weighed(values, feed) is values for feed in range(len(powers)))
    assert (heard.loud, heard.times) == (0, 1)


def test_samples_of_a_batch_count_each_for_itself() -> None:
    values = np.ones((5, 2, 3), np.float32)
    values[4] *= 100
    powers = sample_powers(values, 5)
    np.testing.assert_allclose(powers, [6, 6, 6, 6, 6e4])
    weighed = Loudness([powers]).weighed(values, 0)
    assert weighed.dtype == np.float32
    np.testing.assert_array_equal(weighed[:4], values[:4])
    np.testing.assert_allclose(sample_powers(weighed, 5)[4], 60, rtol=1e-6)


def test_what_has_no_axis_of_samples_is_one() -> None:
    assert sample_powers(np.full((3, 2), 2, np.float32), 4).tolist() == [24]
    assert sample_powers(np.array(3, np.float32), 1).tolist() == [9]


def test_classes_and_masked_logits_have_no_power() -> None:
    assert sample_powers(np.array([[7], [3]]), 2).tolist() == [0, 0]
    assert sample_powers(np.array([[-np.inf, 2], [np.nan, 0]], np.float32), 2).tolist() == [4, 0]
