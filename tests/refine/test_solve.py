"""One layer's integers: a sample unlike the others, and a bias that the layer did not have."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from equiquant.graph.query import constant
from equiquant.numerics.affine import QuantParams, dequantize, quantize
from equiquant.refine import Refinement
from equiquant.refine.forms import Form, form_of
from equiquant.refine.layers import Layer
from equiquant.refine.solve import Solution, solve
from tests.qdq.support import noise, parse

Array = npt.NDArray[Any]

BOTH = Refinement(correct_bias=True, round_weights=True)
INPUT = QuantParams.make(1 / 32, 0, "uint8")


def layer(bias_type: str = "int32") -> Layer:
    model = parse("g (float[N, 4, 6, 6] x) => (float[] y) { y = Conv(x, w) }", w=noise(5, 4, 3, 3, seed=1))
    node = next(iter(model.graph))
    weight = constant(node.inputs[1])
    assert weight is not None
    form = form_of(node, weight)
    assert isinstance(form, Form)
    weights = QuantParams.make(np.abs(weight).max() / 20, 0, "int8")
    bias = QuantParams.make(float(weights.scale) / 32, 0, bias_type)
    return Layer("conv", form, weight, np.zeros(5, np.float32), weights, bias, INPUT, np.ones(5))


def solved(given: Layer, samples: list[Array]) -> Solution:
    return solve(given, [[sample, quantize(sample, given.input_params)] for sample in samples], BOTH)


def test_a_sample_that_drifts_more_than_the_others_counts_less() -> None:
    """What the range cuts off one sample is not made good for by weights that all of them meet."""
    rng = np.random.default_rng(0)
    samples = [rng.uniform(0, 6, (1, 4, 6, 6)).astype(np.float32) for _ in range(8)]
    wild = [*samples[:-1], samples[-1] * np.float32(50)]
    end = np.float32(255 / 32)
    found, without = solved(layer(), wild), solved(layer(), [np.minimum(sample, end) for sample in wild])
    assert np.abs(found.weight.astype(int) - without.weight).max() <= 2
    assert np.abs(found.bias - without.bias).max() > 0.1  # means match, whatever became of the inputs


def test_a_late_int8_bias_stays_small() -> None:
    """A bias that takes up whatever the weights do to the mean would need a coarse step."""
    rng = np.random.default_rng(1)
    samples = [(5 + 0.3 * rng.standard_normal((1, 4, 6, 6))).astype(np.float32) for _ in range(8)]
    late = dataclasses.replace(layer("int8"), late_bias=True)
    fine, coarse = solved(layer("int32"), samples), solved(late, samples)
    assert np.abs(coarse.bias).max() < 0.3 * np.abs(fine.bias).max()
    for given, found in ((layer("int32"), fine), (late, coarse)):
        real = np.asarray(dequantize(found.weight, given.weight_params) - given.weight, np.float64)
        shift = real.sum(axis=(1, 2, 3)) * np.mean(samples)
        np.testing.assert_allclose(found.bias, -shift, atol=0.05)


def test_a_bias_that_hardly_matters_is_clipped_and_the_others_keep_their_step() -> None:
    samples = [np.zeros((1, 4, 6, 6), np.float32)] * 8
    given = layer("int8")
    assert given.bias_params is not None
    step = float(given.bias_params.scale)
    bias = (np.array([0.3, 1.4, -2.6, 180.0, 3.3]) * step).astype(np.float32)
    given = dataclasses.replace(given, bias=bias)
    alike, knowing = (
        solve(one, [[x, quantize(x, one.input_params)] for x in samples], Refinement(True, False)).bias_params
        for one in (given, dataclasses.replace(given, bias_gains=np.array([1.0, 1.0, 1.0, 1e-5, 1.0])))
    )
    assert alike is not None
    assert knowing is not None
    assert float(alike.scale) == 2 * step
    assert float(knowing.scale) == step
