"""Writing scales into constants: once each, in place where they have one reader, copied and reported where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import io
from equiquant.decisions import Decision
from equiquant.equalization import apply, find_classes
from equiquant.graph import edit, query
from tests.equalization.corpus import named
from tests.equalization.support import Case, equalized, error, random_scales, run


def applied(name: str) -> tuple[ir.Model, ir.Model, list[Decision]]:
    model = named(name).model()
    copy = model.clone()
    classes = find_classes(copy)
    return model, copy, apply(copy, classes, random_scales(classes))


def shape(model: ir.Model, name: str) -> tuple[int, ...]:
    array = query.constant(model.graph.initializers[name])
    assert array is not None
    return array.shape


def test_no_scales_change_nothing() -> None:
    model = named("conv chain").model()
    classes = find_classes(model)
    before = dict(model.graph.initializers)
    tensors = {name: value.const_value for name, value in before.items()}
    assert apply(model, classes, np.zeros(classes.count)) == []
    assert all(value.const_value is tensors[name] for name, value in model.graph.initializers.items())


@pytest.mark.parametrize(
    "name", ["conv chain", "weight shared by two nodes", "siamese branches", "zero bias shared by many layers"]
)
def test_what_can_stay_shared_does(name: str) -> None:
    model, copy, decisions = applied(name)
    assert decisions == []
    assert set(copy.graph.initializers) == set(model.graph.initializers)


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("bias shared by two layers", 1),
        ("bias shared with a layer that keeps its scale", 1),
        ("weight shared by Conv and ConvTranspose", 1),
        ("weight whose shape and values are read elsewhere", 1),
        ("weight that is also a graph output", 1),
        ("weight that is also added", 1),
        ("If captures a weight", 1),
        ("one constant twice in one node", 0),
    ],
)
def test_a_copy_is_made_and_reported_where_readers_differ(name: str, copies: int) -> None:
    model, copy, decisions = applied(name)
    assert len(decisions) == copies
    assert len(copy.graph.initializers) == len(model.graph.initializers) + copies
    for decision in decisions:
        assert (decision.rule, decision.applied) == ("unshare", True)
        assert decision.reason.split("'")[-2] in copy.graph.initializers


def test_readers_that_agree_share_one_copy() -> None:
    case = Case(
        "two of three",
        "a = Conv(x, w1, b) r = Relu(a) s = Add(r, c) t = Max(s, c) u = Conv(t, w2, b) y = Add(u, c)",
        weights={"w1": (6, 4, 1, 1), "b": (6,), "c": (6, 1, 1), "w2": (6, 6, 1, 1)},
    )
    model = case.model()
    classes = find_classes(model)
    decisions = apply(model, classes, random_scales(classes))
    assert sorted(d.where for d in decisions) == ["Add_s, Max_t", "Conv_a"]


def test_constants_grow_only_where_they_must() -> None:
    _, copy, _ = applied("Add of a scalar")
    assert shape(copy, "c") == (6, 1, 1) or shape(copy, "c") == (1, 6, 1, 1)
    _, copy, _ = applied("Gemm biases of every shape")
    assert [shape(copy, n) for n in ("b1", "b2", "b3")] == [(3, 7), (3, 6), (4,)]
    _, copy, _ = applied("MatMul and Add")
    assert shape(copy, "b1") == (7,)


def test_constant_nodes_are_rewritten_in_place() -> None:
    model, copy, decisions = applied("weights in Constant nodes")
    assert decisions == []
    assert [n.op_type for n in copy.graph] == [n.op_type for n in model.graph]
    assert set(copy.graph.initializers) == set(model.graph.initializers)


def test_external_weights_are_rescaled_and_their_file_is_not_touched(tmp_path: Path) -> None:
    case = Case(
        "external",
        named("conv chain").nodes,
        weights={"w1": (64, 4, 3, 3), "b1": (64,), "w2": (3, 64, 1, 1), "b2": (3,)},
    )
    path = tmp_path / "model.onnx"
    onnx.save_model(
        case.proto(), path, save_as_external_data=True, location="model.data", size_threshold=0, convert_attribute=False
    )
    before = (tmp_path / "model.data").read_bytes()
    model = io.load_model(path).model
    assert isinstance(model.graph.initializers["w1"].const_value, ir.ExternalTensor) or not path.stat().st_size > 9000
    edit.infer_shapes(model)
    classes = find_classes(model)
    assert classes.count == 65
    after = equalized(model, random_scales(classes))
    assert error(run(model, case.feeds()), run(after, case.feeds())) <= 1e-5
    assert (tmp_path / "model.data").read_bytes() == before


def test_the_arrays_of_the_original_are_not_written_to() -> None:
    model = named("conv chain").model()
    kept = {n: np.array(query.constant(v)) for n, v in model.graph.initializers.items()}
    equalized(model, random_scales(find_classes(model)))
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(query.constant(value), kept[name])
