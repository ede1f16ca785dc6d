"""Samples are counted along the axis that is the batch, whichever input comes first."""

from __future__ import annotations

import pytest

from equiquant.calibrate.data.sample_axis import batch_input
from equiquant.io.runtime import InputSpec

Shape = tuple[int | None, ...]


@pytest.mark.parametrize(
    ("shapes", "counted"),
    [
        ({"x": (None, 3, 8, 8)}, "x"),
        ({"x": (8, 3, 8, 8)}, "x"),
        ({"k": (10,), "x": (None, 3, 8, 8)}, "x"),
        ({"h": (1, None, 8), "x": (None, 7, 4)}, "x"),
        ({"t": (1,), "x": (None, 3, 8, 8)}, "x"),
        ({"t": (1,), "x": (8, 3, 8, 8)}, "x"),
        ({"anchors": (10, 4), "x": (1, 3, 12, 12)}, "x"),
        ({"x": (8, 7, 4), "h": (1, 8, 6), "c": (1, 8, 6)}, "x"),
        ({"h": (1, 8, 6), "c": (1, 8, 6), "x": (8, 7, 4)}, "x"),
        ({"h": (2, 8, 6), "x": (8, 7, 4)}, "x"),
        ({"ids": (None,), "mask": (None,)}, "ids"),
        ({"x": (3, 12, 12)}, None),
        ({"k": (10,)}, None),
        ({"s": ()}, None),
    ],
)
def test_the_batch_is_found(shapes: dict[str, Shape], counted: str | None) -> None:
    specs = [InputSpec(name, "float32", shape) for name, shape in shapes.items()]
    assert batch_input(specs) == counted
