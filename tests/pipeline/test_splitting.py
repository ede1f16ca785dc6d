"""Which samples are fitted to, and which are held back: halves that no turns of the samples keep step with."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from equiquant import quantize
from equiquant.io import load_model
from equiquant.pipeline.measuring.splitting import alternate, held_back
from equiquant.verify import compare_models
from tests.canonical.support import proto, run, weights


@pytest.mark.parametrize("known", [1, 2, 3, 4, 5, 7, 96, 160])
def test_every_feed_is_in_one_half_and_those_held_back_in_the_other(known: int) -> None:
    fitted, others = alternate(known)
    assert sorted(fitted + others) == list(range(known))
    assert len(fitted) == (known + 1) // 2
    held = held_back(known)
    assert held
    assert set(held) <= set(others or fitted)
    assert known < 96 or abs(len(held) - known / 4) <= 2


@pytest.mark.parametrize("known", [24, 32, 64, 96])
@pytest.mark.parametrize("turns", range(2, 7))
def test_no_turn_is_left_out(turns: int, known: int) -> None:
    fitted, others = alternate(known)
    for half, least in ((fitted, 0.45), (others, 0.45), (held_back(known), 0.2)):
        counts = np.bincount([number % turns for number in half], minlength=turns)
        assert counts.min() >= int(least * len(half) / turns), (turns, counts)


def test_what_is_known_longer_keeps_its_place() -> None:
    assert alternate(96)[0][:24] == alternate(48)[0]
    assert [n for n in held_back(96) if n < 48] == held_back(48)


@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
@pytest.mark.parametrize("loud", ["every second", "two that nothing is fitted to"])
def test_loud_samples_are_not_cut(preset: str, loud: str) -> None:
    """Two cameras by turns, one brighter; and two bright ones that scales and ranges were not chosen by."""
    given = weights(w1=(16, 3, 3, 3), w2=(16, 16, 3, 3), w3=(8, 16, 3, 3))
    model = proto(
        "a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) s = Relu(b) y = Conv(s, w3)",
        "float[N,3,16,16] x",
        "float[] y",
        given,
    )
    samples = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)
    samples[slice(1, None, 2) if loud == "every second" else alternate(24)[1][:2]] *= 5
    result = quantize(model, data=samples, preset=preset)
    others = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    (expected,), (got,) = (run(m, {"x": 5 * others}) for m in (model, result.model))
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 22


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_a_large_model_is_measured_on_samples_held_back_against_what_was_given(
    preset: str, varying: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the number of outputs depends on the numbers, too: what the mask selects is compared before."""
    parameters = weights(w=(8, 3, 1, 1), v=(4, 8, 1, 1)) | {"mask": np.array([True, False, True, True])}
    nodes = "c = Conv(x, w) r = Relu(c) d = Conv(r, v) y = Compress<axis = 1>(d, mask)"
    if not varying:
        nodes, _ = nodes.replace("Compress<axis = 1>(d, mask)", "Relu(d)"), parameters.pop("mask")
    source = proto(nodes, "float[N,3,6,6] x", "float[] y", parameters)
    data = np.random.default_rng(0).standard_normal((12, 3, 6, 6)).astype(np.float32)
    monkeypatch.setattr(importlib.import_module("equiquant.pipeline.run"), "PER_TENSOR_BELOW", 0)
    result = quantize(source, data=data, preset=preset, weight_rounding="optimal")
    held = [{"x": data[n : n + 1]} for n in held_back(12)[:2]]
    found = compare_models(load_model(source).model, load_model(result.model, allow_quantized=True).model, held)
    quality = result.report.to_dict()["quality"]
    assert (quality["samples"], quality["held"]) == (2, True)
    told = {o["name"]: o["sqnr_db"] for o in quality["outputs"]}
    assert told == pytest.approx({o.name: o.error.sqnr_db for o in found.outputs}, abs=0.01)


@pytest.mark.parametrize(("feeds", "held"), [(1, False), (2, True)])
def test_the_report_says_whether_candidates_were_measured_on_others(feeds: int, held: bool) -> None:
    model = proto("a = Conv(x, w) y = Relu(a)", "float[N,3,6,6] x", "float[] y", weights(w=(4, 3, 1, 1)))
    batches = [{"x": batch} for batch in np.random.default_rng(0).standard_normal((feeds, 8, 3, 6, 6), np.float32)]
    report = quantize(model, data=batches, bias_correction=False, weight_rounding="nearest").report
    assert report.equalization["held"] is held
