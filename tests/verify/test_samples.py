"""What is left of single samples, where the sum over all of them hides it."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.verify.samples import SingleSamples

SIGNAL = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
LOUD = SIGNAL * np.array([1, 1, 100, 1, 1, 1], np.float32)[:, None]


def single(values: np.ndarray, output: np.ndarray, batch: int) -> SingleSamples:
    found = SingleSamples()
    for k in range(0, len(values), batch):
        found.add(values[k : k + batch], output[k : k + batch], min(batch, len(values) - k))
    return found


def median_db(values: np.ndarray, output: np.ndarray, batch: int) -> float | None:
    return single(values, output, batch).median_db()


@pytest.mark.parametrize("batch", [1, 4])
def test_noise_of_ordinary_samples_is_told_beside_a_loud_one(batch: int) -> None:
    assert median_db(LOUD, LOUD + SIGNAL / 2, batch) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_silent_samples_have_no_say() -> None:
    silent = LOUD * np.array([0, 1, 1, 0, 1, 1], np.float32)[:, None]
    assert median_db(silent, silent + SIGNAL / 2, 1) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_an_output_that_is_no_number_is_all_noise() -> None:
    assert median_db(LOUD, np.full_like(LOUD, np.nan), 2) == -np.inf


def test_nothing_is_told_where_no_sample_is_loud() -> None:
    assert median_db(SIGNAL, SIGNAL * 2, 1) is None


def test_a_masked_value_is_no_noise() -> None:
    masked = LOUD.copy()
    masked[:, 0] = -np.inf
    assert median_db(masked, masked, 1) == np.inf


@pytest.mark.parametrize(("samples", "poor"), [(4, 1), (5, 2), (6, 2)])
def test_a_quarter_of_the_samples_is_one_at_least(samples: int, poor: int) -> None:
    noise = np.ones(samples, np.float32)
    noise[:poor] = 10
    output = SIGNAL[:samples] * (1 + noise[:, None] / 10)
    assert single(SIGNAL[:samples], output, 2).quartile_db() == pytest.approx(0, abs=1e-3)


def test_one_sample_has_no_quarter() -> None:
    assert single(SIGNAL[:1], SIGNAL[:1] * 2, 1).quartile_db() is None


def test_samples_are_even_where_none_has_much_more_power() -> None:
    assert single(SIGNAL, SIGNAL, 2).even
    assert not single(LOUD, LOUD, 2).even
