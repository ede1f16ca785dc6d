from typing import Any

import numpy as np
import pytest

from equiquant.numerics import sketch
from equiquant.numerics.sketch import MagnitudeCounts, SketchBuilder


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
