"""What is left of an output beside what masks a part of it."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.verify.unmasked import Unmasked

LOGITS = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
MASKED = LOGITS.copy()
MASKED[:, ::2] -= 1e4


def unmasked_db(values: np.ndarray, output: np.ndarray) -> float | None:
    found = Unmasked()
    for one, other in zip(values, output, strict=True):
        found.add(one[None], other[None])
    return found.decibels()


def test_only_what_is_not_masked_counts() -> None:
    worse = MASKED * 1.5
    assert unmasked_db(MASKED, worse) == pytest.approx(20 * np.log10(2), abs=1e-3)
    worse[:, ::2] = 0
    assert unmasked_db(MASKED, worse) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_samples_without_a_mask_do_not_count() -> None:
    mixed = np.concatenate([MASKED, LOGITS])
    assert unmasked_db(mixed, np.concatenate([MASKED * 1.5, LOGITS * 9])) == pytest.approx(20 * np.log10(2), abs=1e-3)


@pytest.mark.parametrize(
    "values", [LOGITS, -(np.abs(MASKED) ** 0.2), np.minimum(MASKED, 0) // 1e3, np.where(MASKED < -9, -np.inf, MASKED)]
)
def test_nothing_is_told_where_nothing_is_masked(values: np.ndarray) -> None:
    assert unmasked_db(values, values * 2) is None
