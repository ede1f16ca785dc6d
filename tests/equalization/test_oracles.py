"""The oracles of `test_function.py` can fail: seeded faults in the result, and in the rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.equalization import find_classes
from equiquant.equalization.builder import ClassBuilder
from equiquant.equalization.rules import RULES, linear, passing
from equiquant.graph import edit, query
from tests.equalization.corpus import named
from tests.equalization.support import changed, check, equalized, random_scales, why_pinned

Rule = Callable[[ClassBuilder, ir.Node], None]


def double(model: ir.Model) -> None:
    value = model.graph.initializers["w2"]
    array = query.constant(value)
    assert array is not None
    edit.set_initializer(value, array * np.float32(2))


def one_element(model: ir.Model) -> None:
    value = model.graph.initializers["w2"]
    array = np.array(query.constant(value))
    array.reshape(-1)[0] *= np.float32(1.01)
    edit.set_initializer(value, array)


def drop_bias(model: ir.Model) -> None:
    value = model.graph.initializers["b1"]
    edit.set_initializer(value, np.zeros(value.shape.numpy(), np.float32) if value.shape else np.zeros(()))


def unscaled_consumer(model: ir.Model) -> None:
    original = named("conv chain").model().graph.initializers["w2"]
    edit.set_initializer(model.graph.initializers["w2"], np.array(query.constant(original)))


@pytest.mark.parametrize("fault", [double, one_element, drop_bias, unscaled_consumer])
def test_a_fault_in_the_result_is_seen(fault: Callable[[ir.Model], None]) -> None:
    check(named("conv chain"))
    with pytest.raises(AssertionError, match="the function changed"):
        check(named("conv chain"), sabotage=fault)


def test_a_renamed_node_is_seen() -> None:
    def rename(model: ir.Model) -> None:
        model.graph[0].name = "other"

    with pytest.raises(AssertionError):
        check(named("conv chain"), sabotage=rename)


def no_bias(builder: ClassBuilder, node: ir.Node) -> None:
    linear.conv(builder, node)
    builder.slots[:] = [s for s in builder.slots if s.role != "bias"]


def size(value: ir.Value | None) -> int:
    assert value is not None
    found = (query.static_shape(value) or ())[1]
    assert found is not None
    return found


def backwards(builder: ClassBuilder, node: ir.Node) -> None:
    """A Concat that puts its operands' classes in the wrong order."""
    parts = [builder.channels(builder.ids(v), 1, size(v)).reshape(1, -1, 1, 1) for v in reversed(node.inputs)]
    builder.set(node.outputs[0], np.concatenate(parts, axis=1))


def blind_union(builder: ClassBuilder, node: ir.Node) -> None:
    """An Add that follows its first operand and forgets the second."""
    builder.set(node.outputs[0], builder.ids(node.inputs[0]))


@pytest.mark.parametrize(
    ("op", "rule", "name"),
    [
        ("Sigmoid", passing.homogeneous, "Sigmoid pins"),
        ("Elu", passing.homogeneous, "Elu has no rule"),
        ("Softmax", passing.homogeneous, "Softmax over channels"),
        ("Conv", no_bias, "conv chain"),
        ("Concat", backwards, "inception"),
        ("Add", blind_union, "residual"),
        ("Add", blind_union, "Add of a scalar"),
        ("Pad", passing.homogeneous, "Pad of space with a value"),
        ("Slice", passing.homogeneous, "Slice backwards to a place"),
        ("Gather", passing.homogeneous, "Gather shuffles channels"),
        ("Clip", passing.homogeneous, "Clip(0, 6) holds its channels"),
        ("Mul", blind_union, "square"),
        ("LayerNormalization", passing.homogeneous, "LayerNormalization over two axes"),
    ],
)
def test_a_wrong_rule_is_seen(monkeypatch: pytest.MonkeyPatch, op: str, rule: Rule, name: str) -> None:
    check(named(name))
    monkeypatch.setitem(RULES, op, rule)
    with pytest.raises((AssertionError, ValueError, IndexError)):
        check(named(name))


def test_a_missing_rule_is_seen_as_missing_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "Relu")
    found = named("conv chain")
    check(found)  # still exact
    model = found.model()
    classes = find_classes(model)
    assert changed(model, equalized(model, random_scales(classes))) == set()
    assert "Relu has no scale rule" in why_pinned(classes, model, "a")
