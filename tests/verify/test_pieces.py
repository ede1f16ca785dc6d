"""A network in pieces gives what it gives as a whole, and keeps no more than later pieces read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from equiquant import compare, quantize
from equiquant.io import Runner
from equiquant.verify import pairs
from equiquant.verify.pieces import Pieces, ends_of
from tests.canonical.support import proto, weights

FEED = {"x": np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)}
GRID = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
ROUNDED = (
    "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) a = Conv(d, w) r = Relu(a)"
    " p = QuantizeLinear(r, s, z) e = DequantizeLinear(p, s, z) b = Conv(e, v) y = Add(b, e)"
)
SEQUENCE = "a = Conv(x, w) t = SequenceConstruct(a, a) r = Relu(a) m = Neg(r) b = SequenceAt(t, i) y = Add(b, m)"


def network(nodes: str, **constants: Any) -> ir.Model:
    given = weights(w=(4, 3, 1, 1), v=(4, 4, 1, 1)) | constants
    used = {name: array for name, array in given.items() if f" {name})" in nodes or f", {name}" in nodes}
    return ir.from_proto(proto(nodes, "float[N,3,4,4] x", "float[] y", used))


def alive(model: ir.Model, groups: Sequence[Sequence[str]]) -> list[set[str]]:
    """Run it in pieces; what is wanted must be as of the whole. Return what each piece leaves, but for the input."""
    names = [name for group in groups for name in group]
    expected = dict(zip(names, Runner(model, names, optimize=False).run(FEED), strict=True))
    pieces, values = Pieces(model, groups), dict(FEED)
    left = []
    for index, group in enumerate(groups):
        found: list[npt.NDArray[Any]] = pieces.run(index, values)
        for name, value in zip(group, found, strict=True):
            np.testing.assert_array_equal(value, expected[name])
        left.append(values.keys() - FEED.keys())
    return left


def test_integers_are_kept_for_what_reads_them_dequantized() -> None:
    assert alive(network(ROUNDED, **GRID), [["d", "r"], ["e"], ["b", "y"]]) == [{"r"}, {"p"}, set()]


def test_what_is_wanted_last_is_kept_until_then() -> None:
    assert alive(network("a = Conv(x, w) r = Relu(a) y = Neg(r)"), [["r"], ["y", "a"]]) == [{"a", "r"}, set()]


def test_what_a_body_reads_from_around_it_is_kept() -> None:
    body = "y = If(c) <then_branch = g () => (f) { f = Add(a, r) }, else_branch = h () => (k) { k = Neg(a) }>"
    nodes = f"a = Conv(x, w) r = Relu(a) c = Identity(yes) {body}"
    model = ir.from_proto(
        proto(nodes, "float[N,3,4,4] x", "float[] y", weights(w=(4, 3, 1, 1)) | {"yes": np.array(True)})
    )
    assert alive(model, [["a"], ["r"], ["y"]]) == [{"a"}, {"a", "r"}, set()]


def test_scales_that_are_computed_are_kept_too() -> None:
    nodes = "q, s, z = DynamicQuantizeLinear(x) d = DequantizeLinear(q, s, z) a = Conv(d, w) y = Relu(a)"
    assert alive(network(nodes), [["d"], ["a"], ["y"]]) == [{"q", "s", "z"}, {"a"}, set()]


def test_no_piece_ends_where_a_sequence_passes() -> None:
    model = network(SEQUENCE, i=np.array(0))
    assert ends_of(model, [["a"], ["r"], ["m"], ["y"]]) == [True, True, True, True]
    assert ends_of(model, [["a"], ["r", "t"], ["m"], ["y"]]) == [True, False, False, True]


@pytest.mark.parametrize("preset", ["xint8", "a8w8", "a16w8"])
def test_every_tensor_may_be_a_piece_of_its_own(monkeypatch: pytest.MonkeyPatch, preset: str) -> None:
    source = proto(
        "a = Conv(x, w) r = Relu(a) b = Conv(r, v) c = Add(b, r) y = Sigmoid(c)",
        "float[N,3,4,4] x",
        "float[] y",
        weights(w=(4, 3, 1, 1), v=(4, 4, 1, 1)),
    )
    data = np.random.default_rng(1).standard_normal((8, 3, 4, 4)).astype(np.float32)
    quantized = quantize(source, data=data, preset=preset).model
    whole = compare(source, quantized, data).to_dict()
    monkeypatch.setattr(pairs, "GROUP_BYTES", 1)
    assert compare(source, quantized, data).to_dict() == whole
