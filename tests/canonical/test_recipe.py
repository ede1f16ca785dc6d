from __future__ import annotations

import cProfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import io
from equiquant.canonical import canonicalize
from equiquant.graph.edit import set_initializer
from equiquant.graph.query import constant
from tests.canonical.support import BN, Array, bn, canonical, error, feed_for, proto, run, weights

CHAIN = f"y = Conv<pads=[1,1,1,1]>(x, w, b) p = Mul(y, c) q = Identity(p) r = Add(q, d) z = BatchNormalization(r, {BN})"
PARAMETERS = weights(w=(4, 3, 3, 3), b=(4,), c=(4, 1, 1), d=(1, 4, 1, 1)) | bn(4)


def test_a_chain_folds_to_its_end() -> None:
    outcome = canonical(proto(CHAIN, "float[N,3,4,4] x", "float[] z", PARAMETERS))
    assert outcome.ops == ["Conv"]
    assert [d.rule for d in outcome.decisions] == ["fold_scale", "remove_identity", "fold_scale", "fold_batch_norm"]
    assert outcome.node("Conv").outputs[0].shape == ir.Shape(["N", 4, 4, 4])
    assert set(outcome.model.graph.initializers) == {"w", "b"}


def test_doing_it_twice_changes_nothing() -> None:
    outcome = canonical(proto(CHAIN, "float[N,3,4,4] x", "float[] z", PARAMETERS))
    assert canonicalize(outcome.model) == []


def test_the_caller_s_model_is_not_touched() -> None:
    source = proto(CHAIN, "float[N,3,4,4] x", "float[] z", PARAMETERS)
    before = source.SerializeToString()
    canonical(source)
    assert source.SerializeToString() == before


def double_the_weight(model: ir.Model) -> None:
    value = model.graph.initializers["w"]
    array = constant(value)
    assert array is not None
    set_initializer(value, 2 * array)


def drop_the_bias(model: ir.Model) -> None:
    next(n for n in model.graph if n.op_type == "Conv").resize_inputs(2)


def nudge_one_weight(model: ir.Model) -> None:
    value = model.graph.initializers["w"]
    array = constant(value)
    assert array is not None
    changed = array.copy()
    changed[0, 0, 1, 1] *= 1.001
    set_initializer(value, changed)


@pytest.mark.parametrize("fault", [double_the_weight, drop_the_bias, nudge_one_weight])
def test_the_oracle_sees_a_fault(fault: Callable[[ir.Model], None]) -> None:
    source = proto(CHAIN, "float[N,3,4,4] x", "float[] z", PARAMETERS)
    with pytest.raises(AssertionError, match="the function changed by"):
        canonical(source, sabotage=fault)


def test_decisions_are_plain_data() -> None:
    outcome = canonical(proto(CHAIN, "float[N,3,4,4] x", "float[] z", PARAMETERS))
    assert outcome.decisions[0].stage == "canonical"


def test_other_domains_are_left_alone() -> None:
    source = proto(
        f"y = Conv(x, w) p = my.BatchNormalization(y, {BN}) z = Relu(p)", "float[N,3,4,4] x", "float[] z", PARAMETERS
    )
    model = io.load_model(source).model
    canonicalize(model)
    assert [n.op_type for n in model.graph] == ["Conv", "BatchNormalization", "Relu"]


def test_work_grows_with_the_number_of_nodes() -> None:
    def calls(blocks: int) -> int:
        nodes: list[str] = []
        parameters: dict[str, Array] = {}
        last = "x"
        for i in range(blocks):
            prefix = f"n{i}_"
            parameters |= bn(2, prefix) | {f"w{i}": weights(w=(2, 2, 1, 1))["w"]}
            names = ", ".join(prefix + k for k in ("gamma", "beta", "mean", "var"))
            nodes.append(f"a{i} = Conv({last}, w{i}) b{i} = BatchNormalization(a{i}, {names}) c{i} = Relu(b{i})")
            last = f"c{i}"
        model = io.load_model(proto(" ".join(nodes), "float[1,2,4,4] x", f"float[1,2,4,4] {last}", parameters)).model
        profile = cProfile.Profile()
        decisions = profile.runcall(canonicalize, model)
        assert len(decisions) == blocks
        return sum(entry.callcount for entry in profile.getstats())

    calls(10)
    assert calls(160) < 5 * calls(40)  # 4 if linear, 16 if quadratic


MODELS = {
    "mobilenetv1_025/mobilenetv1_025_bn.onnx": 27,
    "ultraface_rfb_320/ultraface_rfb_320_bn.onnx": 35,
    "ultraface_rfb_320/ultraface_rfb_320_bn_orig.onnx": 35,
    "kws_dscnn/kws_dscnn_bn.onnx": 9,
    "posenet_mnv1_075/posenet_mnv1_075.onnx": 0,
}


@pytest.mark.shared
@pytest.mark.parametrize("name", MODELS)
def test_real_models(shared_data: Path, name: str) -> None:
    before = io.load_model(shared_data / name).model
    feed = feed_for(before, batch=1)
    expected, outputs = run(before, feed), [v.name for v in before.graph.outputs]
    model = io.load_model(shared_data / name).model
    decisions = canonicalize(model)
    assert error(expected, run(model, feed)) < 1e-5
    assert [v.name for v in model.graph.inputs] == list(feed)
    assert [v.name for v in model.graph.outputs] == outputs
    counts = Counter(n.op_type for n in model.graph)
    assert counts["BatchNormalization"] == counts["Constant"] == 0
    assert sum(d.rule == "fold_batch_norm" and d.applied for d in decisions) == MODELS[name]
    assert not [d for d in decisions if not d.applied]


@pytest.mark.shared
def test_published_ultraface_without_optimization(shared_data: Path) -> None:
    path = shared_data / "ultraface_rfb_320" / "ultraface_rfb_320_bn_orig.onnx"
    before, model = io.load_model(path).model, io.load_model(path).model
    feed = feed_for(before)
    decisions = canonicalize(model, optimize=False)
    assert {d.rule for d in decisions} == {"upgrade"}
    assert model.graph.opset_imports[""] == 17
    for expected, actual in zip(run(before, feed), run(model, feed), strict=True):
        np.testing.assert_array_equal(expected, actual)
