"""Options that name nodes of the user's model, which folds and rewrites make parts of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equiquant import quantize
from equiquant.errors import OptionError
from tests.qdq.support import noise, parse

TEXT = """g (float[1, 4, 8, 8] x) => (float[] y) {
  [conv] a = Conv <pads=[1, 1, 1, 1]> (x, w)
  [norm] b = BatchNormalization (a, gain, shift, mean, power)
  [act] c = Relu (b)
  [halves] d, e = Split <axis=1> (c, two)
  [skip] f = Identity (d)
  [join] g = Concat <axis=1> (e, f)
  [last] y = Conv (g, v)
}"""
MADE = np.random.default_rng(0).normal(size=(8, 1, 4, 8, 8)).astype(np.float32)


def _quantized(preset: str = "a8w8", **options: Any) -> tuple[set[str], Any]:
    """Return the names of the layers that got an integer weight, and the report."""
    model = parse(
        TEXT,
        w=noise(4, 4, 3, 3),
        v=noise(4, 4, 1, 1),
        gain=np.ones(4, np.float32),
        shift=np.zeros(4, np.float32),
        mean=np.zeros(4, np.float32),
        power=np.ones(4, np.float32),
        two=np.array([2, 2]),
    )
    result = quantize(model, data=list(MADE), preset=preset, **options)
    makers = {name: node for node in result.model.graph.node for name in node.output}
    layers = {
        node.name
        for node in result.model.graph.node
        if node.op_type == "Conv" and getattr(makers.get(node.input[1]), "op_type", "") == "DequantizeLinear"
    }
    return layers, result.report


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"conv", "last"}),
        ({"nodes_to_exclude": ("norm",)}, {"last"}),
        ({"nodes_to_exclude": ("re:no.*",)}, {"last"}),
        ({"nodes_to_exclude": ("skip",)}, {"conv", "last"}),
        ({"nodes_to_exclude": ("*o*",)}, {"last"}),  # what is there goes first: conv and join
        ({"nodes_to_quantize": ("norm", "act")}, {"conv"}),
        ({"subgraphs_to_exclude": ((("conv",), ("norm",)),)}, {"last"}),
    ],
)
def test_what_was_folded_counts_as_what_it_became(options: dict[str, Any], expected: set[str]) -> None:
    assert _quantized(**options)[0] == expected


def test_every_name_of_the_model_may_be_given_though_the_npu_has_no_split() -> None:
    every = ("conv", "norm", "act", "halves", "skip", "join", "last")
    layers, report = _quantized("xint8", nodes_to_quantize=every)
    assert layers == {"conv", "last"}
    assert not any("not among nodes_to_quantize" in d.reason for d in report.decisions)  # both of the Slices are
    assert set(report.recipe.nodes_to_quantize) == {*every} - {"skip", "norm"}


def test_the_report_says_where_a_named_node_went() -> None:
    report = _quantized(nodes_to_exclude=("norm", "skip"))[1]
    said = {d.where: (d.applied, d.reason) for d in report.decisions if d.rule == "named"}
    assert said == {
        "norm": (True, "nodes_to_exclude names it; it is part of 'conv' now"),
        "skip": (False, "nodes_to_exclude names it; nothing computes it now"),
    }


def test_where_nothing_is_left_of_what_was_to_be_quantized_it_is_refused() -> None:
    with pytest.raises(OptionError, match="nothing computes any of these nodes"):
        _quantized(nodes_to_quantize=("skip",))


def test_a_name_that_never_was_is_still_refused() -> None:
    with pytest.raises(OptionError, match="matches no node of the model"):
        _quantized(nodes_to_exclude=("nrm",))
