"""Clamps that follow each other."""

from __future__ import annotations

import numpy as np
import pytest

from tests.canonical.support import Array, canonical, proto

NUMBERS: dict[str, Array] = {
    name: np.asarray(number, np.float32)
    for name, number in {
        "zero": 0,
        "six": 6,
        "one": 1,
        "half": 0.5,
        "low": -1,
        "list": [0.5],
        "cube": [[[[1]]]],
    }.items()
}


@pytest.mark.parametrize(
    ("nodes", "ops", "bounds"),
    [
        ("a = Relu(x) b = Min(a, one) y = Max(b, zero)", ["Clip"], (0, 1)),
        ("a = Min(x, one) y = Max(zero, a)", ["Clip"], (0, 1)),
        ("a = Max(x, zero) y = Min(a, list)", ["Clip"], (0, 0.5)),
        ("a = Relu(x) y = Clip(a, low, half)", ["Clip"], (0, 0.5)),
        ("a = Clip(x, zero, six) b = Relu(a) y = Min(b, one)", ["Clip"], (0, 1)),
        ("a = Clip(x, low, half) y = Min(a, one)", ["Clip"], (-1, 0.5)),
        ("y = Max(x, zero)", ["Relu"], None),
        ("a = Relu(x) b = Max(a, low) y = Relu(b)", ["Relu"], None),
        ("a = Max(x, low) y = Min(a, six)", ["Clip"], (-1, 6)),
    ],
)
def test_they_become_one(nodes: str, ops: list[str], bounds: tuple[float, float] | None) -> None:
    outcome = canonical(proto(nodes, "float[N,3] x", "float[] y", NUMBERS))
    assert outcome.ops == ops
    assert outcome.applied("fold_clip")
    if bounds is not None:
        clip = next(iter(outcome.model.graph))
        ends = [float(v.const_value.numpy()) for v in clip.inputs[1:] if v is not None and v.const_value is not None]
        assert tuple(ends) == bounds


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("a = Relu(x) y = Min(a, one) z = Neg(a)", "float[] y, float[] z"),
        ("a = Relu(x) y = Min(a, one)", "float[] a, float[] y"),
        ("a = Relu(x) y = Min(a, cube)", "float[] y"),
        ("a = Relu(x) y = Min(a, w)", "float[] y"),
        ("a = Relu(x) y = Min(a, one, half)", "float[] y"),
        ("y = Min(x, one)", "float[] y"),
        ("y = Max(x, one)", "float[] y"),
    ],
)
def test_others_stay(nodes: str, outputs: str) -> None:
    parameters = NUMBERS | {"w": np.array([1, 2, 0.5], np.float32)}
    outcome = canonical(proto(nodes, "float[N,3] x", outputs, parameters))
    assert not outcome.applied("fold_clip")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = Relu(x) y = Min(a, low)", "nothing is left"),
        ("a = Clip(x, six, one) y = Relu(a)", "above the upper"),
    ],
)
def test_bounds_that_leave_nothing_are_refused(nodes: str, reason: str) -> None:
    outcome = canonical(proto(nodes, "float[N,3] x", "float[] y", NUMBERS))
    assert reason in outcome.refused("fold_clip")


def test_whole_numbers_stay() -> None:
    parameters = {"k": np.array(0, np.int64), "m": np.array(2, np.int64)}
    outcome = canonical(
        proto(
            "a = Cast<to=7>(x) b = Max(a, k) c = Min(b, m) y = Cast<to=1>(c)", "float[N,3] x", "float[] y", parameters
        )
    )
    assert outcome.ops == ["Cast", "Max", "Min", "Cast"]


def test_half_precision_keeps_its_type() -> None:
    parameters = {"zero": np.array(0, np.float16), "six": np.array(6, np.float16)}
    outcome = canonical(proto("a = Max(x, zero) y = Min(a, six)", "float16[N,3] x", "float16[] y", parameters))
    assert outcome.ops == ["Clip"]
