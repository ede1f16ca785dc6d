"""Made-up inputs come to fit the statistics of all BatchNormalizations, behind nonlinear ops too."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import calibrate
from equiquant.calibrate.made_up.distilling import distilled
from equiquant.io import Runner, input_specs
from equiquant.recipe import preset
from tests.backward.support import Array, noise, parse
from tests.calibrate.support import plain, trained


def distance(model: ir.Model, inputs: Array) -> float:
    """Return how far means and deviations are from those stored, in deviations."""
    values = {v.name: v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value is not None}
    squares = []
    for name, k in (("a", 1), ("b", 2)):
        (array,) = Runner(model, [name]).run({"x": inputs})
        mean, deviation = values[f"mean{k}"], np.sqrt(values[f"var{k}"])
        squares.append(np.square((array.mean((0, 2, 3)) - mean) / deviation).mean())
        squares[-1] += np.square(array.std((0, 2, 3)) / deviation - 1).mean()
    return float(np.sqrt(np.mean(squares)))


def test_inputs_fit_all_layers() -> None:
    model = trained()
    found = distilled(model, plain())
    assert found is not None
    moved = np.concatenate([feed["x"] for feed in found.feeds])
    assert found.before == pytest.approx(distance(trained(), np.concatenate([f["x"] for f in plain()])), rel=0.01)
    assert found.after == pytest.approx(distance(trained(), moved), rel=0.02)
    assert found.after < 0.2 * found.before


def test_dead_channels_say_nothing_however_many_there_are() -> None:
    found = distilled(trained(dead=6), plain())
    assert found is not None
    assert found.after < 0.2 * found.before


def test_the_same_inputs_every_time() -> None:
    first, second = distilled(trained(), plain(8)), distilled(trained(), plain(8))
    assert first is not None
    assert second is not None
    for one, other in zip(first.feeds, second.feeds, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


def test_inputs_that_fit_already_are_not_replaced() -> None:
    found = distilled(trained(), plain())
    assert found is not None
    for _ in range(20):
        again = distilled(trained(), found.feeds)
        if again is None:
            return
        assert again.after < found.after  # never worse
        found = again


def test_masks_stay_zeros_and_ones() -> None:
    model = trained()
    mask = ir.val("mask", ir.DataType.FLOAT, ["N", 1, 16, 16])
    model.graph.inputs.append(mask)
    hidden = ir.node("Mul", [model.graph.inputs[0], mask])
    hidden.outputs[0].name = "hidden"
    model.graph[0].replace_input_with(0, hidden.outputs[0])
    model.graph.insert_before(model.graph[0], hidden)
    masks = [(noise(1, 1, 16, 16, seed=k) > -1).astype(np.float32) for k in range(16)]
    found = distilled(model, [{**feed, "mask": m} for feed, m in zip(plain(), masks, strict=True)])
    assert found is not None
    for feed, given, m in zip(found.feeds, plain(), masks, strict=True):
        np.testing.assert_array_equal(feed["mask"], m)
        assert not np.array_equal(feed["x"], given["x"])


def test_no_batch_normalization_nothing_moved() -> None:
    model = parse("g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu (x) }")
    assert distilled(model, ({"x": noise(1, 3, 8, 8)} for _ in range(4))) is None
    with calibrate.open_samples(None, input_specs(model), preset("a8w8"), model, distill=True) as stream:
        assert stream.synthetic
        assert stream.guessed
        assert stream.distilled is None


def test_too_few_batch_normalizations_nothing_moved() -> None:
    layers = "  ".join(f"c{k} = Conv <pads = [1, 1, 1, 1]> (c{k - 1}, w)" for k in range(2, 4))
    text = f"""g (float[1,4,8,8] x) => (float[1,4,8,8] y) {{
        c0 = BatchNormalization (x, one, zero, zero, one)  c1 = Conv <pads = [1, 1, 1, 1]> (c0, w)  {layers}
        y = Relu (c3) }}"""
    model = parse(text, 17, w=noise(4, 4, 3, 3), one=np.ones(4, np.float32), zero=np.zeros(4, np.float32))
    assert distilled(model, ({"x": 3 * noise(1, 4, 8, 8)} for _ in range(4))) is None


def test_large_inputs_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["equiquant.calibrate.made_up.distilling"]
    monkeypatch.setattr(module, "INPUT_BYTES", 10 * 3 * 16 * 16 * 4)
    source = plain(100)
    found = distilled(trained(), source)
    assert found is not None
    assert len(found.feeds) == 10
    assert len(list(source)) == 90  # the others were never made
    monkeypatch.setattr(module, "INPUT_BYTES", 1)
    few = distilled(trained(), plain(100))
    assert few is not None
    assert len(few.feeds) == module.FEWEST_INPUTS


def test_large_networks_take_fewest_steps_one_feed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["equiquant.calibrate.made_up.distilling"]
    for name in ("STEPS_COST", "INPUTS_COST", "ALONE_ABOVE"):
        monkeypatch.setattr(module, name, 1.0)
    told: list[tuple[int, int]] = []
    found = distilled(trained(), plain(100), lambda done, total: told.append((done, total)))
    assert found is not None
    assert len(found.feeds) == module.FEWEST_INPUTS
    assert told == [(step, module.FEWEST_STEPS) for step in range(1, module.FEWEST_STEPS + 1)]
    assert found.after < found.before


def test_a_stream_of_them() -> None:
    model = trained()
    recipe = preset("a8w8").replace(calibration_samples=12)
    with calibrate.open_samples(None, input_specs(model), recipe, model, distill=True) as stream:
        assert stream.synthetic
        assert not stream.guessed
        assert stream.distilled is not None
        first, second = list(stream), list(stream)
        assert len(first) == stream.known == stream.samples == 12
    for one, other in itertools.zip_longest(first, second):
        np.testing.assert_array_equal(one["x"], other["x"])
    with calibrate.open_samples(None, input_specs(model), recipe, model) as untouched:
        assert untouched.guessed


def old_exporter(model: ir.Model) -> None:
    """Opset 9, every initializer listed as an input."""
    model.ir_version = 4
    model.graph.opset_imports[""] = 9
    for value in list(model.graph.initializers.values()):
        model.graph.inputs.append(value)


def shared_parameters(model: ir.Model) -> None:
    """An Identity in front of what a BatchNormalization stored, as for equal tensors."""
    for node in [n for n in model.graph if n.op_type == "BatchNormalization"]:
        copy = ir.node("Identity", [node.inputs[3]])
        copy.outputs[0].name = f"{node.outputs[0].name}_mean"
        model.graph.insert_before(node, copy)
        node.replace_input_with(3, copy.outputs[0])


def constant_nodes(model: ir.Model) -> None:
    for value in list(model.graph.initializers.values()):
        node = ir.node("Constant", [], {"value": value.const_value})
        node.outputs[0].name = f"{value.name}_constant"
        model.graph.insert_before(model.graph[0], node)
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del model.graph.initializers[value.name or ""]


@pytest.mark.parametrize("wrap", [old_exporter, shared_parameters, constant_nodes])
def test_whatever_the_exporter_made_of_the_parameters(wrap: Callable[[ir.Model], None]) -> None:
    model = trained()
    specs = input_specs(model)
    wrap(model)
    names = [node.op_type for node in model.graph]
    with calibrate.open_samples(None, specs, preset("a8w8"), model, distill=True) as stream:
        assert stream.distilled is not None
        assert stream.distilled.after < 0.2 * stream.distilled.before
    assert [node.op_type for node in model.graph] == names  # the model itself is left alone
