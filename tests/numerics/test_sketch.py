from typing import Any

import numpy as np
import pytest

from equiquant.numerics.statistics import sketch
from equiquant.numerics.statistics.sketch import MagnitudeCounts, SketchBuilder


def counted(parts: Any) -> MagnitudeCounts:
    builder = SketchBuilder()
    for part in parts:
        builder.add(part)
    return builder.result()


def test_counts_widen_only_where_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).standard_normal((4, 3, 50)).astype(np.float32)
    narrow = counted(samples)
    monkeypatch.setattr(sketch, "NARROW", 120)
    monkeypatch.setattr(sketch, "PENDING", 100)
    wide = counted(samples)
    merged = counted(samples[:2]).merge(counted(samples[2:]))
    assert [x.counts.dtype for x in (narrow, wide, merged)] == [np.int32, np.int64, np.int64]
    assert counted(samples[:2]).counts.dtype == np.int32
    np.testing.assert_array_equal(narrow.counts, wide.counts)
    np.testing.assert_array_equal(narrow.counts, merged.counts)
    assert narrow.counts.sum() == samples.size
    assert wide.seen == merged.seen == 200


@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_a_sketch_does_not_depend_on_the_unit(unit: float) -> None:
    values = np.random.default_rng(1).standard_normal((2, 400)).astype(np.float32)
    values[0] *= 1e-3
    plain, other = counted([values]), counted([values * np.float32(unit)])
    sides = plain.sides(values.min(axis=1), values.max(axis=1), 400), other.sides(np.zeros(2), np.zeros(2), 400)
    for a, b in zip(*sides, strict=True):
        power = (a.values**2 @ a.share.T, b.values**2 @ b.share.T)
        np.testing.assert_allclose(power[1] / unit**2, power[0], rtol=0.05)
    assert plain.counts.sum() == other.counts.sum()


def test_counts_are_the_same_in_any_order_when_the_largest_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(2).standard_normal((6, 3, 50)).astype(np.float32)
    samples *= np.array([1e-7, 1, 1e-3, 1e5, 0, 10], np.float32)[:, None, None]
    whole = counted(samples)
    monkeypatch.setattr(sketch, "PENDING", 1)
    for order in ([0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]):
        streamed = counted(samples[order])
        merged = counted(samples[order[:2]]).merge(counted(samples[order[2:]]))
        for found in (streamed, merged):
            np.testing.assert_array_equal(found.counts, whole.counts)
            assert (found.top, found.seen) == (whole.top, whole.seen)
    assert 0 < whole.counts.sum() < samples[:4].size  # the smallest lie too far below the largest
