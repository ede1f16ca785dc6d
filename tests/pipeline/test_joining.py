"""Results joined at the end of a network: one scale for boxes in pixels and scores leaves nothing of the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant import quantize
from equiquant.graph.decisions import decision_values
from equiquant.numerics.statistics.sqnr import decibels
from equiquant.results import Result
from tests.canonical.support import run
from tests.qdq.support import noise, parse

DATA = noise(12, 3, 8, 8, seed=3)
SPLIT = {"a": slice(0, 4), "s": slice(4, 6)}


def _detector(tail: str, boxes: float) -> Any:
    """Boxes of a given size and the scores of two classes, handed to `tail` as a and s."""
    body = f"c = Conv(x, w) r = Relu(c) a = Conv(r, wa) l = Conv(r, ws, bs) s = Sigmoid(l) {tail}"
    wa = noise(4, 8, 1, 1, seed=5) * boxes
    ws, bs = noise(2, 8, 1, 1, seed=6) * 0.3, np.array([-3.0, 0.0], np.float32)
    parameters: dict[str, Any] = {"w": noise(8, 3, 3, 3, seed=4), "wa": wa, "ws": ws, "bs": bs}
    if "wj" in tail:
        parameters["wj"] = noise(2, 6, 1, 1, seed=7)
    return parse(f"g (float[N,3,8,8] x) => (float[] y) {{ {body} }}", **parameters)


def _parts_db(model: Any, result: Result, axis: int = 1) -> dict[str, float]:
    expected, got = (run(m, {"x": DATA})[0] for m in (model, result.model))
    found = {}
    for name, part in SPLIT.items():
        a, b = (np.moveaxis(y, axis, 0)[part].astype(np.float64) for y in (expected, got))
        found[name] = decibels(float(np.square(a).sum()), float(np.square(a - b).sum()))
    return found


def _joined(result: Result) -> list[str]:
    return [d.where for d in result.report.decisions if d.rule == "join_in_float" and d.applied]


def _quantize(model: Any, **options: Any) -> Result:
    return quantize(model, data=DATA, preset="xint8", simulate_dpu=False, **options)


@pytest.mark.parametrize(
    "tail",
    [
        "y = Concat<axis=1>(a, s)",
        "j = Concat<axis=1>(a, s) y = Transpose<perm=[0,2,3,1]>(j)",
        "b = Transpose<perm=[0,2,3,1]>(a) t = Transpose<perm=[0,2,3,1]>(s) y = Concat<axis=3>(b, t)",
    ],
)
def test_scores_survive_beside_boxes(tail: str) -> None:
    model = _detector(tail, boxes=100.0)
    result = _quantize(model)
    parts = _parts_db(model, result, axis=1 if tail.startswith("y") else 3)
    assert min(parts.values()) > 15
    assert len(_joined(result)) == 1
    assert _joined(result)[0] in result.report.recipe.nodes_to_exclude
    (kept,) = (d for d in result.report.decisions if d.rule == "keep_float" and d.where == _joined(result)[0])
    assert "cannot share a scale" in kept.reason


@pytest.mark.parametrize(
    "tail", ["y = Concat<axis=1>(a, s)", "f = Flatten(a) g2 = Flatten(s) y = Concat<axis=1>(f, g2)"]
)
def test_a_file_of_statistics_alone_decides_as_its_samples_did(tail: str, tmp_path: Path) -> None:
    """Inputs of 60 drive the boxes far beyond what made-up inputs would, which is no reason to warn of quality."""
    model = _detector(tail, boxes=0.1)
    options: dict[str, Any] = {"preset": "xint8", "simulate_dpu": False, "calibration_cache": tmp_path / "stats"}
    made = quantize(model, data=60 * DATA, **options)
    assert len(_joined(made)) == 1
    assert _joined(quantize(model, **options)) == _joined(made)


@pytest.mark.filterwarnings("ignore:Only")
def test_without_it_the_scores_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equiquant.pipeline.network.joining.LOST_DB", -np.inf)
    model = _detector("y = Concat<axis=1>(a, s)", boxes=100.0)
    assert min(_parts_db(model, _quantize(model)).values()) < 5


def test_what_shares_a_scale_well_is_joined_in_integers() -> None:
    model = _detector("y = Concat<axis=1>(a, l)", boxes=0.3)
    result = _quantize(model)
    assert not _joined(result)
    concat = next(n for n in result.model.graph.node if n.op_type == "Concat")
    assert all("Dequantize" in name for name in concat.input)


def test_what_is_joined_for_a_layer_keeps_the_documented_scale() -> None:
    model = _detector("j = Concat<axis=1>(a, s) y = Conv(j, wj)", boxes=100.0)
    assert not _joined(_quantize(model))


@pytest.mark.filterwarnings("ignore:Only")  # the scores of this one have little to lose
@pytest.mark.parametrize(
    "tail", ["y = Concat<axis=1>(a, s)", "f = Flatten(a) g2 = Flatten(s) y = Concat<axis=1>(f, g2)"]
)
def test_a_limit_on_the_scale_of_one_input_counts(tail: str) -> None:
    """The NPU's HardSigmoid needs a step of 1/128 or less: boxes that share it would be cut at 1."""
    model = _detector(tail, boxes=0.4)
    result = quantize(model, data=DATA, preset="xint8")
    assert _joined(result)
    relaxed = quantize(model, data=DATA, preset="xint8", limits_off=("AdjustHardSigmoid",))
    assert not _joined(relaxed)


def test_levels_behind_one_another_are_all_left_float() -> None:
    tail = (
        "j = Concat<axis=1>(a, s) k = Concat<axis=1>(s, a) f = Flatten(j) g2 = Flatten(k) h = Identity(f)"
        " y = Concat<axis=1>(h, g2)"
    )
    result = _quantize(_detector(tail, boxes=100.0))
    concats = [n for n in result.model.graph.node if n.op_type == "Concat"]
    quantized = {o for n in result.model.graph.node if n.op_type == "QuantizeLinear" for o in n.input}
    assert len(concats) == 3
    assert not quantized.intersection(o for n in concats for o in n.output)
    assert not any(d.reason.startswith("nodes_to_exclude") for d in result.report.decisions)


@pytest.mark.parametrize("tail", ["y = Concat<axis=1>(a, none)", "y = Concat<axis=1>(a, s, none)"])
def test_an_input_without_elements_has_nothing_to_lose(tail: str) -> None:
    empty = "zero = Constant<value_ints=[0]>() one = Constant<value_ints=[1]>() none = Slice(a, zero, zero, one)"
    result = _quantize(_detector(f"{empty} {tail}", boxes=100.0))
    assert len(_joined(result)) == tail.count(" s,")


@pytest.mark.parametrize(
    ("tail", "names"),
    [
        ("y = Concat<axis=1>(a, s)", ["a", "l"]),
        ("j = Concat<axis=1>(a, s) f = Flatten(j) y = Identity(f)", ["a", "l"]),
        ("j = Concat<axis=1>(a, l) y = Softmax<axis=1>(j)", ["j"]),
        ("y = Add(s, s)", ["y"]),
        ("y = Concat<axis=1>(a, l)", ["y"]),
        ("j = Concat<axis=1>(a, s) k = Concat<axis=1>(l, s) y = Concat<axis=2>(j, k)", ["a", "l"]),
    ],
)
def test_each_part_is_a_decision(tail: str, names: list[str]) -> None:
    assert decision_values(_detector(tail, boxes=1.0)) == names


@pytest.mark.parametrize("preset", ["xint8", "a8w8"])
@pytest.mark.parametrize("mask", ["o = Sub(one, legal) m = Mul(o, far) y = Add(l, m)", "y = Add(legal, l)"])
def test_what_is_not_masked_survives(preset: str, mask: str) -> None:
    nodes = f"h = MatMul(x, w) r = Relu(h) l = MatMul(r, v) {mask}"
    text = f"g (float[N,8] x, float[N,6] legal) => (float[N,6] y) {{ {nodes} }}"
    parameters: dict[str, Any] = (
        {"one": np.ones((), np.float32), "far": np.array(-1e4, np.float32)} if "far" in mask else {}
    )
    model = parse(text, w=noise(8, 16, seed=1), v=noise(16, 6, seed=2), **parameters)
    legal = np.random.default_rng(0).random((16, 6)) < 0.5
    legal[:, 0] = True
    given = legal.astype(np.float32) if parameters else np.where(legal, 0, -1e4).astype(np.float32)
    feeds = [{"x": x[None], "legal": part[None]} for x, part in zip(noise(16, 8, seed=3), given, strict=True)]
    result = quantize(model, data=feeds, preset=preset)
    assert len(_joined(result)) == 1
    expected, got = (np.concatenate([run(m, feed)[0] for feed in feeds])[legal] for m in (model, result.model))
    assert decibels(float(np.square(expected).sum()), float(np.square(expected - got).sum())) > 25


def test_a_residual_at_the_end_is_added_as_the_target_does() -> None:
    text = "g (float[N,3,8,8] x) => (float[] y) { a = Conv(x, w) b = Relu(a) c = Conv(b, v) y = Add(x, c) }"
    model = parse(text, w=noise(3, 3, 1, 1, seed=1), v=noise(3, 3, 1, 1, seed=2) / 1000)
    assert not _joined(_quantize(model))
