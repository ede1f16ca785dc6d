"""What is left of the part of an output that differs from sample to sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from equiquant.numerics.statistics.sqnr import decibels
from equiquant.verify.varied import LEAST, Varied

RNG = np.random.default_rng(0)
SCORES = RNG.normal([3, 4, -5], 1.0, (12, 3)).astype(np.float32)


def varied(*feeds: npt.NDArray[Any], samples: int = 1) -> float | None:
    found = Varied()
    for feed in feeds:
        found.add(feed, samples)
    return found.decibels(20.0)


def test_it_is_the_sqnr_about_the_mean_of_each_channel() -> None:
    noise = np.square(SCORES.astype(float)).sum() / 100  # 20 dB
    expected = decibels(float(np.square(SCORES - SCORES.mean(axis=0)).sum()), float(noise))
    for found in (
        varied(SCORES, samples=12),
        varied(*SCORES[:, None]),
        varied(*SCORES),  # no axis of samples at all
        varied(SCORES[:7, :, None], samples=7) and varied(*np.split(SCORES[:, :, None, None], 4), samples=3),
    ):
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_scalar_a_sample_counts() -> None:
    assert varied(*SCORES[:, 0]) == pytest.approx(varied(SCORES[:, :1], samples=12))


def test_it_is_not_told_of_few_samples_of_maps_or_of_what_never_varies() -> None:
    assert varied(*SCORES[: LEAST - 1]) is None
    assert varied(*SCORES[:LEAST]) is not None
    assert varied(*RNG.standard_normal((12, 1, 3, 4))) is None
    assert varied(*np.ones((12, 1, 3), np.float32)) is None
    assert varied(*(1 + SCORES / 1e3)) is None
    assert varied(*np.zeros((12, 1, 3), np.float32)) is None
    assert varied(SCORES[:8], SCORES[:8, :2], samples=8) is None
    assert varied(SCORES[:9], samples=8) is None


@pytest.mark.parametrize("odd", [math.nan, -math.inf])
def test_it_is_not_told_of_what_is_not_finite(odd: float) -> None:
    assert varied(np.where(SCORES[3] == SCORES, odd, SCORES), samples=12) is None
