"""Made-up inputs of a size the model runs with."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from equiquant import inspect, quantize
from equiquant.calibrate import open_samples
from equiquant.errors import DataError
from equiquant.io import input_specs
from equiquant.recipe import preset
from tests.qdq.support import noise, parse

pytestmark = pytest.mark.filterwarnings("ignore:No calibration data")
W = noise(4, 3, 3, 3)


def _shape(model: ir.Model) -> tuple[int, ...]:
    with open_samples(None, input_specs(model), preset("a8w8"), model) as stream:
        return next(iter(stream.first(1)[0].values())).shape


def _model(inputs: str, body: str = "y = Conv(x, w)", **more: object) -> ir.Model:
    return parse(f"g ({inputs}) => (float[] y) {{ {body} }}", w=W, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("float[N,3,H,W] x", (1, 3, 224, 224)),
        ("float[N,3,40,W] x", (1, 3, 40, 224)),
        ("float[N,3,20,24] x", (1, 3, 20, 24)),
    ],
)
def test_the_usual_size_where_it_runs(inputs: str, expected: tuple[int, ...]) -> None:
    assert _shape(_model(inputs)) == expected


def test_the_first_size_that_runs() -> None:
    """Three by three positions behind strides of 32, one behind the Conv: sides of 96 and no other."""
    body = """
        p = MaxPool <kernel_shape = [32, 32], strides = [32, 32]> (x) c = Conv(p, w)
        to = Constant<value_ints=[1, 4]>() f = Reshape(c, to) y = Gemm(f, v)
    """
    model = _model("float[N,3,H,W] x", body, v=noise(4, 5))
    assert _shape(model) == (1, 3, 96, 96)
    assert quantize(model, preset="a8w8").report.quality is not None
    assert not isinstance(inspect(model).outlook, str)


def test_sequences_are_longer_than_one() -> None:
    assert _shape(_model("float[N,3,L] x", "y = Conv(x, k)", k=noise(4, 3, 3))) == (1, 3, 64)


def test_where_no_size_will_do_real_samples_are_asked_for() -> None:
    body = "to = Constant<value_ints=[1, 4, 17, 19]>() c = Conv(x, w) y = Reshape(c, to)"
    with pytest.raises(DataError, match=r"open \('x' \(\?, 3, \?, \?\)\) must have certain ones.*--data PATH"):
        quantize(_model("float[N,3,H,W] x", body), preset="a8w8")


def test_static_integers_that_do_not_fit_ask_for_real_samples() -> None:
    body = "two = Constant<value_int=2>() i = Add(ids, two) e = Gather(table, i) y = MatMul(e, v)"
    model = _model("int64[1, 16] ids", body, table=noise(7, 5), v=noise(5, 3, seed=1))
    with pytest.raises(DataError, match=r"made-up inputs: 'ids' \(1, 16\) must have certain values\. .*--data PATH"):
        quantize(model, preset="a8w8")


@pytest.mark.parametrize("body", ["e = Gather(table, ids)", "i = Cast<to = 7>(ids) e = Gather(table, i)"])
def test_made_up_indices_stay_within_their_table(body: str) -> None:
    model = parse(
        f"g (int64[1, N] ids) => (float[] y) {{ {body} y = MatMul(e, v) }}", table=noise(7, 5), v=noise(5, 3, seed=1)
    )
    with open_samples(None, input_specs(model), preset("a8w8"), model) as stream:
        largest = max(int(feed["ids"].max()) for feed in stream)
    assert 1 < largest < 7
    assert quantize(model, preset="a8w8").report.quality is not None
