"""Equivalence: equal models are equal, a fault is a number, NaN is never taken for agreement."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.graph import edit
from equiquant.verify import Reference, equivalence
from tests.equalization.support import Case

CHAIN = Case(
    "chain",
    "a = Conv(x, w1) y = Conv(a, w2)",
    weights={"w1": (3, 4, 1, 1), "w2": (2, 3, 1, 1)},
    inputs="float[N,4,2,2] x",
)


def scaled(factor: float) -> float:
    model, other = CHAIN.model(), CHAIN.model()
    value = other.graph.initializers["w2"]
    assert value.const_value is not None
    edit.set_initializer(value, value.const_value.numpy() * np.float32(factor))
    found = equivalence(model, other, CHAIN.feeds())
    assert found.samples == 2
    assert found.output == "y"
    return found.error


def test_a_model_equals_itself() -> None:
    assert scaled(1.0) == 0.0


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.001])
def test_the_error_is_relative_to_the_output(factor: float) -> None:
    assert scaled(factor) == pytest.approx(abs(factor - 1), rel=1e-3)


def test_nan_where_there_was_a_number_is_infinitely_wrong() -> None:
    assert scaled(float("nan")) == float("inf")


def test_infinity_where_there_was_a_number_is_infinitely_wrong() -> None:
    assert scaled(float("inf")) == float("inf")


def test_the_same_nan_on_both_sides_is_no_difference() -> None:
    case = Case("log", "y = Log(x)", inputs="float[N,4] x")
    model = case.model()
    feeds = case.feeds()
    assert any((f["x"] < 0).any() for f in feeds)
    reference = Reference.of(model, feeds)
    assert reference.silent == ()
    assert reference.measure(model.clone()).error == 0.0


def test_an_output_of_nan_alone_is_silent() -> None:
    case = Case(
        "root", "a = Abs(x) b = Neg(a) y = Sqrt(b) z = Relu(x)", inputs="float[N,4] x", outputs="float[] y, float[] z"
    )
    assert Reference.of(case.model(), case.feeds()).silent == ("y",)


def test_another_shape_is_infinitely_wrong() -> None:
    short = Case("short", "y = Relu(x)", inputs="float[N,4] x")
    long = Case("long", "y = Concat<axis=1>(x, x)", inputs="float[N,4] x")
    assert equivalence(short.model(), long.model(), short.feeds()).error == float("inf")


def test_of_integer_outputs_the_share_counts_that_differs() -> None:
    up = Case("up", "y = ArgMax<axis=1>(x)", inputs="float[N,4] x", outputs="int64[] y")
    down = Case("down", "y = ArgMin<axis=1>(x)", inputs="float[N,4] x", outputs="int64[] y")
    assert equivalence(up.model(), up.model(), up.feeds()).error == 0.0
    assert equivalence(up.model(), down.model(), up.feeds()).error == 1.0


def test_the_worst_output_is_named() -> None:
    before = Case("before", "y = Relu(x) z = Abs(x)", inputs="float[N,4] x", outputs="float[] y, float[] z")
    after = Case("after", "y = Relu(x) z = Neg(x)", inputs="float[N,4] x", outputs="float[] y, float[] z")
    found = equivalence(before.model(), after.model(), before.feeds())
    assert found.output == "z"
    assert found.output == "z"


def test_known_outputs_come_in_the_order_asked_for() -> None:
    case = Case("two", "y = Relu(x) z = Neg(x)", inputs="float[N,4] x", outputs="float[] y, float[] z")
    feeds = case.feeds()
    reference = Reference.of(case.model(), feeds)
    known = reference.outputs(["z", "y"])
    assert known is not None
    for (z, y), feed in zip(known, feeds, strict=True):
        assert (z == -feed["x"]).all()
        assert (y == np.maximum(feed["x"], 0)).all()
    assert reference.outputs(["y", "inner"]) is None
