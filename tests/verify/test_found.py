"""What is left of the few values above 0, where nearly all of an output lies below."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.verify.found import Found

LOGITS = np.full((4, 100), -20.0, np.float32)
LOGITS[:, :3] = 2.0


def found_db(values: np.ndarray, output: np.ndarray) -> float | None:
    found = Found()
    for one, other in zip(values, output, strict=True):
        found.add(one[None], other[None])
    return found.decibels()


def test_noise_beside_what_is_found_is_told() -> None:
    assert found_db(LOGITS, LOGITS + 1) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_noise_below_zero_is_not() -> None:
    assert found_db(LOGITS, np.where(LOGITS < 0, -25, LOGITS)) == np.inf


def test_what_is_lost_altogether_leaves_nothing() -> None:
    assert found_db(LOGITS, np.minimum(LOGITS, 0)) == pytest.approx(0)
    assert found_db(LOGITS, np.full_like(LOGITS, np.nan)) == -np.inf


@pytest.mark.parametrize("values", [-LOGITS, np.abs(LOGITS), np.maximum(LOGITS, 0), LOGITS[:, 3:], LOGITS[:1, 2:]])
def test_nothing_is_told_where_such_values_are_many_or_none(values: np.ndarray) -> None:
    assert found_db(values, values + 1) is None


def test_a_masked_logit_is_below() -> None:
    masked = np.where(LOGITS < 0, -np.inf, LOGITS)
    assert found_db(masked, masked + 1) == pytest.approx(20 * np.log10(2), abs=1e-3)
