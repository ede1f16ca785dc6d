"""float16 ends at 65504, and a runtime that computes it in float32 does not show it: nothing may grow there."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant import equalize
from equiquant.equalization import find_classes, without_growth
from tests.canonical.support import proto, weights
from tests.equalization.support import Case, random_scales

LAYERS = "r = Relu(a) b = Conv(r, w2) c = Clip(b, low, high) d = Conv(c, w3) y = Conv(d, w4)"
GIVEN = weights(w1=(6, 4, 1, 1), w2=(5, 6, 1, 1), w3=(4, 5, 1, 1), w4=(2, 4, 1, 1))
ENDS = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}


def network(kind: str) -> Case:
    given = {
        name: array.astype("float16" if kind == "float16" else "float32") for name, array in (GIVEN | ENDS).items()
    }
    return Case(kind, f"a = Conv(x, w1) {LAYERS}", inputs=f"{kind}[N,4,3,3] x", outputs=f"{kind}[] y", weights=given)


def test_no_float16_tensor_grows_and_ratios_stay() -> None:
    classes = find_classes(network("float16").model())
    z = random_scales(classes)
    named = {value.name: np.unique(ids) for value, ids in classes.values.items()}
    held = named["b"]
    z[held] = np.linspace(-1, 1, held.size)
    found = without_growth(classes, z)
    assert z.max() > 0.2
    assert found.max() == pytest.approx(0)
    for name in "ad":
        np.testing.assert_allclose(np.diff(found[named[name]]), np.diff(z[named[name]]))
    np.testing.assert_allclose(found[held], np.minimum(z[held], 0))  # a shift would pass the Clip's bound


def test_others_grow_as_planned() -> None:
    classes = find_classes(network("float").model())
    z = random_scales(classes)
    assert without_growth(classes, z) is z


def test_what_fits_float16_fits_it_equalized() -> None:
    """Sums of 12288 products come near the end of float16; the second weight asks for more of them."""
    given = {"w1": np.full((12288, 4), 1e-2, np.float16), "w2": np.full((4, 3), 20, np.float16)}
    source = proto("a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2)", "float16[N,12288] x", "float16[] y", given)
    data = np.random.default_rng(0).uniform(100, 200, (4, 12288)).astype(np.float16)
    with pytest.warns(UserWarning, match="'y' is NaN or infinite"):
        result = equalize(source, data=data)
    first = next(t for t in result.model.graph.initializer if t.dims[0] == 12288)
    assert np.frombuffer(first.raw_data, np.float16).max() <= np.float16(1e-2)
