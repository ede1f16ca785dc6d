import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from equiquant.numerics.statistics import sqnr
from equiquant.numerics.statistics.sqnr import ErrorAccumulator, ErrorFigures, mean_db, mean_noise_db


def f32(values: Any) -> Any:
    return np.asarray(values, dtype=np.float32)


def figures(reference: Any, output: Any, channel_axis: int | None = None) -> ErrorFigures:
    accumulator = ErrorAccumulator(channel_axis)
    accumulator.add(np.asarray(reference), np.asarray(output))
    return accumulator.figures()


def test_hand_computed_figures() -> None:
    # signal 9 + 16 = 25, noise 0.5² = 0.25: 10 log10(100) = 20 dB; cosine (9 + 14) / (5 · sqrt(9 + 12.25))
    result = figures(f32([3, 4]), f32([3, 3.5]))
    assert result.sqnr_db == pytest.approx(20.0)
    assert result.max_abs_error == 0.5
    assert result.cosine == pytest.approx(23 / (5 * math.sqrt(21.25)))
    assert result.count == 2


def test_batches_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    r = rng.standard_normal((7, 3, 5, 2)).astype(np.float32)
    q = r + 0.1 * rng.standard_normal(r.shape).astype(np.float32)
    whole = figures(r, q, 1)
    monkeypatch.setattr(sqnr, "BLOCK", 16)
    parts = ErrorAccumulator(1)
    for start in range(0, 7, 2):
        parts.add(r[start : start + 2], q[start : start + 2])
    for name in ("sqnr_db", "aligned_sqnr_db", "max_abs_error", "cosine"):
        assert getattr(parts.figures(), name) == pytest.approx(getattr(whole, name))
    expected = 10 * math.log10(float((r.astype(float) ** 2).sum() / ((r.astype(float) - q) ** 2).sum()))
    assert whole.sqnr_db == pytest.approx(expected)


def test_alignment_takes_out_a_factor_per_channel_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    r = rng.standard_normal((4, 6, 50))
    noise = 0.05 * rng.standard_normal(r.shape)
    factors = np.array([0.1, 0.5, 1, 2, 7, 30]).reshape(1, 6, 1)
    plain = figures(r, r + noise, 1)
    rescaled = figures(r, (r + noise) * factors, 1)
    assert plain.sqnr_db == pytest.approx(26.0, abs=0.5)
    assert plain.aligned_sqnr_db == pytest.approx(plain.sqnr_db, abs=0.1)
    assert rescaled.sqnr_db < 0
    assert rescaled.aligned_sqnr_db == pytest.approx(plain.aligned_sqnr_db, abs=0.02)


@pytest.mark.parametrize("fault", ["negated", "zeroed", "shuffled"])
def test_alignment_does_not_hide_a_broken_channel(fault: str) -> None:
    rng = np.random.default_rng(2)
    r = rng.standard_normal((4, 3, 50))
    q = r.copy()
    q[:, 1] = {"negated": -r[:, 1], "zeroed": 0 * r[:, 1], "shuffled": rng.permutation(r[:, 1].ravel()).reshape(4, 50)}[
        fault
    ]
    assert figures(r, q, 1).aligned_sqnr_db < 6


def test_alignment_does_not_flatter_noise() -> None:
    rng = np.random.default_rng(3)
    r = rng.standard_normal((1, 1, 100_000))
    result = figures(np.repeat(r, 2, axis=1), np.repeat(r, 2, axis=1) + rng.standard_normal((1, 2, 100_000)), 1)
    assert result.sqnr_db == pytest.approx(0.0, abs=0.05)
    assert result.aligned_sqnr_db == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("values", [1, 2, 3, 50])
def test_few_values_a_channel_do_not_flatter_either(values: int) -> None:
    """A factor takes one value's noise with it: of a single one all of it."""
    rng = np.random.default_rng(4)
    r = 2 * rng.integers(0, 2, (values, 20_000)) - 1.0
    result = figures(r, r + 0.1 * rng.standard_normal(r.shape), 1)
    assert result.sqnr_db == pytest.approx(20.0, abs=0.1)
    assert result.aligned_sqnr_db == pytest.approx(20.0, abs=0.3)
    if values == 1:
        assert figures(r, 3 * r, 1).aligned_sqnr_db == pytest.approx(figures(r, 3 * r, 1).sqnr_db)


def test_identical_silent_and_broken_tensors() -> None:
    r = f32([[1, 2], [3, 4]])
    assert figures(r, r, 1).sqnr_db == math.inf
    assert figures(r, r, 1).aligned_sqnr_db == math.inf
    assert figures(r, r).cosine == pytest.approx(1.0)
    assert figures(0 * r, 0 * r).cosine == 1.0
    assert figures(0 * r, r).sqnr_db == -math.inf
    assert figures(0 * r, r).cosine == 0.0
    assert figures(f32([]), f32([])).count == 0


def test_a_value_that_became_infinite_or_nan_is_the_worst_figure_not_a_crash() -> None:
    r = f32([1, 2, 3])
    assert figures(r, f32([1, np.nan, 3])).sqnr_db == -math.inf
    assert figures(r, f32([1, np.inf, 3])).sqnr_db == -math.inf


def test_a_masked_value_that_stays_masked_is_no_noise() -> None:
    masked = f32([1, -np.inf, 3])
    assert figures(masked, masked).sqnr_db == math.inf
    assert figures(masked, f32([1, 2, 3])).sqnr_db == -math.inf


@pytest.mark.parametrize(
    ("ratios", "of_db", "of_noise"),
    [
        ([31.7], 31.7, 31.7),
        ([], 200.0, 200.0),
        ([math.inf], 200.0, 200.0),
        ([-math.inf], -200.0, -200.0),
        ([10.0, math.inf], 105.0, 10 + 10 * math.log10(2)),
        ([40.0, 10.0, 40.0], 30.0, 10 + 10 * math.log10(3 / 1.002)),
        ([300.0, -math.inf], 0.0, -200 + 10 * math.log10(2)),
    ],
)
def test_means_of_several_tensors(ratios: list[float], of_db: float, of_noise: float) -> None:
    assert mean_db(ratios) == of_db
    assert mean_noise_db(iter(ratios)) == pytest.approx(of_noise, rel=1e-12)
    assert len(ratios) != 1 or mean_noise_db(ratios) == of_noise


def test_channel_axis_beyond_the_rank_means_no_channels() -> None:
    r = f32([1, 2, 3])
    result = figures(r, 2 * r, 1)
    assert result.aligned_sqnr_db == result.sqnr_db


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        figures(np.zeros(3), np.zeros(4))


def test_an_axis_whose_size_changes_is_no_channel_axis() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((1, size, 5)).astype(np.float32) for size in (3, 3, 4, 3)]
    uneven, whole = ErrorAccumulator(1), ErrorAccumulator()
    for part in parts:
        uneven.add(part, 0.9 * part)
        whole.add(part, 0.9 * part)
    assert dataclasses.astuple(uneven.figures()) == pytest.approx(dataclasses.astuple(whole.figures()))
