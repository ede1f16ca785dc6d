"""Which values tell how good a model is: what it computes, not what it hands on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import SampleView, open_samples
from equiquant.graph.decisions import computed_values
from equiquant.io import input_specs
from equiquant.pipeline.measuring.judging import Yardstick
from equiquant.recipe import preset
from tests.qdq.support import noise, parse


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("y = Concat<axis = 1>(x, a)", ["a"]),  # the past and what is new
        ("t = Slice(x, one, two, one) y = Concat<axis = 1>(t, a)", ["a"]),
        ("t = Relu(x) y = Concat<axis = 1>(t, a)", ["t", "a"]),
        ("y = Transpose(x)", ["y"]),  # nothing else to go by
    ],
)
def test_what_hands_on_an_input_tells_nothing(nodes: str, names: list[str]) -> None:
    model = parse(
        f"g (float[1,3,6,6] x) => (float[] y) {{ a = Conv(x, w) {nodes} }}",
        w=noise(4, 3, 1, 1),
        one=np.array([1]),
        two=np.array([2]),
    )
    assert computed_values(model) == names


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("y = Sigmoid(a)", ["a"]),
        ("y = HardSigmoid(a)", ["a"]),
        ("s = HardSigmoid(a) y = Mul(s, k)", ["a"]),  # as the NPU computes it
        ("s = HardSigmoid(a) t = Reshape(s, flat) y = Mul(k, t)", ["y"]),
        ("s = HardSigmoid(a) y = Mul(a, s)", ["y"]),  # a gate
    ],
)
def test_what_is_squashed_is_decided_before(nodes: str, names: list[str]) -> None:
    parameters: dict[str, Any] = {"k": np.array(0.999, np.float32), "flat": np.array([1, -1])}
    text = f"g (float[1,3,6,6] x) => (float[] y) {{ a = Conv(x, w) {nodes} }}"
    model = parse(text, w=noise(4, 3, 1, 1), **{name: value for name, value in parameters.items() if name in nodes})
    assert computed_values(model) == names


def test_a_copied_input_does_not_flatter_a_figure() -> None:
    figures = []
    for outputs in ("y", "y, float[] z"):
        text = f"g (float[N,3,6,6] x) => (float[] {outputs}) {{ y = Conv(x, w) z = Identity(x) }}"
        model, worse = (parse(text, w=noise(4, 3, 1, 1) * scale) for scale in (1.0, 1.01))
        with open_samples(noise(8, 3, 6, 6), input_specs(model), preset("a8w8")) as stream:
            figures.append(Yardstick(model, SampleView(stream, 0, 8)).sqnr_db(worse))
    assert figures == pytest.approx([40.0, 40.0], abs=0.01)
