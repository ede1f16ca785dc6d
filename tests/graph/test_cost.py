"""What a layer costs does not depend on how its weight is stored."""

import onnx_ir as ir
import pytest

from equiquant.graph import edit
from equiquant.graph.cost import multiplications
from tests.canonical.support import proto, weights


@pytest.mark.parametrize(
    ("node", "shape", "inputs", "expected"),
    [
        ("y = Conv(x, w)", (8, 3, 3, 3), "float[1,3,6,6] x", 16 * 8 * 27),
        ("y = Conv<group = 4>(x, w)", (8, 1, 3, 3), "float[1,4,6,6] x", 16 * 8 * 9),
        ("y = ConvTranspose<strides = [2, 2]>(x, w)", (4, 3, 2, 2), "float[1,4,6,6] x", 36 * 4 * 12),
        ("y = ConvTranspose<group = 4, strides = [2, 2]>(x, w)", (4, 1, 2, 2), "float[1,4,6,6] x", 36 * 4 * 4),
        ("y = Gemm(x, w)", (300, 10), "float[1,300] x", 3000),
        ("y = Gemm<transB = 1>(x, w)", (10, 300), "float[1,300] x", 3000),
        ("y = MatMul(x, w)", (5, 7), "float[1,4,5] x", 4 * 35),
    ],
)
def test_multiplications(node: str, shape: tuple[int, ...], inputs: str, expected: int) -> None:
    model = ir.from_proto(proto(node, inputs, "float[] y", weights(w=shape)))
    edit.infer_shapes(model)
    assert multiplications(model.graph[0]) == expected
