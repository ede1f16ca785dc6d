"""Which nodes the options leave float, and the errors of names that match nothing."""

from __future__ import annotations

import re
from typing import Any

import onnx_ir as ir
import pytest

from equiquant import target
from equiquant.errors import ModelError, OptionError
from equiquant.recipe import preset
from tests.qdq.support import noise, parse

TEXT = """g (float[1, 4, 8, 8] x) => (float[] y) {
  [first] a = Conv (x, w)  [act] b = Relu (a)  [left] c = Conv (b, w)  [right] d = Conv (b, w)
  [join] e = Add (c, d)  [pool] f = GlobalAveragePool (e)  [last] y = Conv (f, w)
}"""


def _model() -> ir.Model:
    return parse(TEXT, w=noise(4, 4, 1, 1))


def _nodes(**options: Any) -> set[str]:
    return set(target.survey(_model(), preset("a8w8", **options)).nodes)


ALL = {"first", "act", "left", "right", "join", "pool", "last"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ALL),
        ({"nodes_to_exclude": ("left",)}, ALL - {"left"}),
        ({"nodes_to_exclude": ("l*", "re:(join|pool)")}, ALL - {"left", "last", "join", "pool"}),
        ({"nodes_to_exclude": ("first",)}, ALL - {"first", "act"}),  # the fused activation follows
        ({"nodes_to_exclude": ("act",)}, ALL - {"act"}),
        ({"nodes_to_quantize": ("first", "la?t")}, {"first", "act", "last"}),
        ({"nodes_to_quantize": ("first", "last"), "nodes_to_exclude": ("last",)}, {"first", "act"}),
        ({"op_types_to_quantize": ("Conv",)}, ALL - {"join", "pool"}),
        ({"op_types_to_quantize": ("Conv", "MatMul")}, ALL - {"join", "pool"}),
        ({"subgraphs_to_exclude": ((("act",), ("join",)),)}, {"first", "pool", "last"}),
        ({"subgraphs_to_exclude": ((("left",), ("join",)), (("pool",), ("pool",)))}, {"first", "act", "right", "last"}),
    ],
)
def test_the_options_pick_the_nodes(options: dict[str, Any], expected: set[str]) -> None:
    assert _nodes(**options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"nodes_to_exclude": ("frist",)},
            "nodes_to_exclude: 'frist' matches no node of the model. Did you mean 'first'",
        ),
        ({"nodes_to_quantize": ("z*",)}, "nodes_to_quantize: 'z*' matches no node"),
        ({"nodes_to_exclude": ("re:(",)}, "'re:(' is not a valid regular expression"),
        ({"op_types_to_quantize": ("Convv",)}, "op_types_to_quantize: 'Convv' matches no op type. Did you mean 'Conv'"),
        ({"subgraphs_to_exclude": ((("join",), ("left",)),)}, "no path leads from join to left"),
        ({"subgraphs_to_exclude": (((), ("left",)),)}, "each entry is (start nodes, end nodes)"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        _nodes(**options)


def test_op_types_of_which_none_can_be_quantized_are_an_error() -> None:
    model = parse("g (float[2, 4] x) => (float[] y) { a = Exp (x)  y = MatMul (a, w) }", w=noise(4, 4))
    with pytest.raises(OptionError, match="'Exp', 'Erf' cannot be quantized"):
        target.survey(model, preset("a8w8", op_types_to_quantize=("Exp", "Erf")))
    found = target.survey(model, preset("a8w8", op_types_to_quantize=("Exp", "Erf", "MatMul")))
    assert len(found.nodes) == 1


def test_a_name_with_brackets_is_taken_literally() -> None:
    model = parse("g (float[2, 4] x) => (float[] y) { a = MatMul (x, w)  y = MatMul (a, w) }", w=noise(4, 4))
    next(iter(model.graph)).name = "block[0]"
    found = target.survey(model, preset("a8w8", nodes_to_exclude=("block[0]",)))
    assert found.kept_float["block[0]"] == "nodes_to_exclude names it ('block[0]')"


def test_every_node_left_out_has_its_reason() -> None:
    found = target.survey(_model(), preset("a8w8", nodes_to_exclude=("left",), op_types_to_quantize=("Conv",)))
    assert set(found.kept_float) | set(found.nodes) == ALL
    assert found.kept_float["join"] == "'Add' is not among op_types_to_quantize"


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(ModelError, match=r"no node that can be quantized.*nodes_to_exclude names it"):
        _nodes(nodes_to_exclude=("*",))
