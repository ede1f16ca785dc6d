"""Shapes as exporters write them: computed from what is reshaped (PyTorch), or −1 for any size (Paddle)."""

import numpy as np
import pytest

from equiquant import equalize, quantize
from equiquant.io import input_specs, load_model
from tests.canonical.support import error, feed_for, proto, run, weights

SHUFFLE = """
    a = Conv(x, w1, b1) r = Relu(a)
    s = Shape(r) zero = Constant<value_ints=[0]>() n = Gather(s, zero)
    groups = Constant<value_ints=[2, 4, 6, 6]>() whole = Constant<value_ints=[8, 6, 6]>()
    t1 = Concat<axis=0>(n, groups) t2 = Concat<axis=0>(n, whole)
    p = Reshape(r, t1) q = Transpose<perm=[0,2,1,3,4]>(p) z = Reshape(q, t2)
    y = Conv(z, w2, b2)
"""


@pytest.mark.parametrize("batch", ["1", "N"])
@pytest.mark.parametrize("preset", [None, "xint8", "a8w8"])
def test_a_channel_shuffle_by_computed_shapes(batch: str, preset: str | None) -> None:
    parameters = weights(w1=(8, 3, 1, 1), b1=(8,), w2=(4, 8, 1, 1), b2=(4,))
    parameters["w1"] *= np.logspace(0, 2, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    source = proto(SHUFFLE, f"float[{batch},3,6,6] x", "float[] y", parameters)
    data = np.random.default_rng(0).standard_normal((6, 3, 6, 6), np.float32)
    result = equalize(source, data=data) if preset is None else quantize(source, data=data, preset=preset)
    assert result.report.to_dict()["equalization"]["moved"] == 8
    feed = feed_for(source, batch=1)
    assert error(run(source, feed), run(result.model, feed)) < (1e-5 if preset is None else 0.1)


def test_a_negative_size_is_an_open_dimension() -> None:
    source = proto("y = Conv(x, w)", "float[N,3,6,6] x", "float[N,4,6,6] y", weights(w=(4, 3, 1, 1)))
    for value in (*source.graph.input, *source.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    (spec,) = input_specs(load_model(source).model)
    assert spec.shape == (None, 3, 6, 6)
    data = np.random.default_rng(0).standard_normal((6, 3, 6, 6), np.float32)
    result = quantize(source, data=data, preset="a8w8")
    assert run(result.model, {"x": data[:2]})[0].shape == (2, 4, 6, 6)
