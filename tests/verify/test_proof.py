"""What a wrong rule does is rolled back, and nothing else; rounding noise is answered by powers of two."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.decisions import Decision
from equiquant.equalization import ScaleClasses, apply, find_classes
from equiquant.equalization.apply import powers_of_two
from equiquant.equalization.rules import RULES, passing
from equiquant.errors import ModelError
from equiquant.verify import Equivalence, Proof, Reference, apply_proven
from tests.equalization.support import Case, changed, random_scales

WEIGHTS: dict[str, Any] = {
    "w1": (6, 4, 1, 1), "b1": (6,), "w2": (5, 6, 1, 1), "w3": (6, 5, 1, 1), "w4": (3, 6, 1, 1), "w5": (2, 3, 1, 1),
}  # fmt: skip
MIXED = Case(
    "mixed",
    "a = Conv(x, w1, b1) r = Relu(a) b = Conv(r, w2) s = Sigmoid(b) c = Conv(s, w3) t = Relu(c) d = Conv(t, w4)"
    " u = Relu(d) y = Conv(u, w5)",
    weights=WEIGHTS,
)


def prove(case: Case, tolerance: float = 1e-5) -> tuple[ir.Model, Proof]:
    model = case.model()
    classes = find_classes(model)
    return model, apply_proven(model, classes, random_scales(classes), Reference.of(model, case.feeds()), tolerance)


def rolled_back(proof: Proof) -> list[str]:
    return [d.where for d in proof.decisions if d.rule == "rollback"]


def rules(proof: Proof) -> list[str]:
    return [d.rule for d in proof.decisions]


def test_a_right_plan_is_applied_as_it_is() -> None:
    model, proof = prove(MIXED)
    assert proof.equivalence.error <= 1e-5
    assert rules(proof) == []
    assert changed(model, proof.model) == {"w1", "b1", "w2", "w3", "w4", "w5"}
    np.testing.assert_array_equal(proof.z, random_scales(find_classes(model)))


def test_only_the_guilty_layer_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Sigmoid", passing.homogeneous)
    model, proof = prove(MIXED)
    assert rolled_back(proof) == ["Conv_b"]
    assert proof.equivalence.error <= 1e-5
    wanted = random_scales(find_classes(model))
    moved = proof.z != 0
    assert (wanted != 0).sum() - moved.sum() == 5  # the channels of b
    np.testing.assert_array_equal(proof.z[moved], wanted[moved])
    assert changed(model, proof.model) == {"w1", "b1", "w2", "w3", "w4", "w5"}


def test_several_guilty_layers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Sigmoid", passing.homogeneous)
    monkeypatch.setitem(RULES, "Tanh", passing.homogeneous)
    case = Case("two", MIXED.nodes.replace("u = Relu(d)", "u = Tanh(d)"), weights=WEIGHTS)
    tried: list[bytes] = []

    def noted(model: ir.Model, classes: ScaleClasses, z: np.ndarray) -> list[Decision]:
        tried.append(z.tobytes())
        return apply(model, classes, z)

    monkeypatch.setattr("equiquant.verify.proof.apply", noted)
    _, proof = prove(case)
    assert rolled_back(proof) == ["Conv_b", "Conv_d"]
    assert proof.equivalence.error <= 1e-5
    assert proof.z.any()
    assert len(tried) == len(set(tried))  # a run of a large network takes long


def test_powers_of_two_answer_rounding_noise() -> None:
    model, proof = prove(MIXED, tolerance=1e-12)
    assert rules(proof) == ["power_of_two_scales"]
    assert proof.equivalence.error == 0.0
    np.testing.assert_allclose(proof.z, powers_of_two(find_classes(model), proof.z), atol=1e-12)
    assert proof.z.any()


def test_a_wrong_rule_is_told_from_rounding_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Sigmoid", passing.homogeneous)
    _, proof = prove(MIXED, tolerance=1e-12)
    assert rolled_back(proof) == ["Conv_b"]
    assert rules(proof)[-1] == "power_of_two_scales"
    assert proof.equivalence.error == 0.0
    assert proof.z.any()


def clip_scales(bound: float, channels: float) -> tuple[float, set[float]]:
    """Round log2-scales of a Clip's bound and of its channels; return what they became."""
    case = Case(
        "clip",
        "a = Conv(x, w1) r = Clip(a, lo, hi) y = Conv(r, w2)",
        weights={"w1": (6, 4, 1, 1), "w2": (2, 6, 1, 1), "lo": np.float32(0), "hi": np.float32(6)},
    )
    classes = find_classes(case.model())
    (site,) = classes.clips
    z = np.zeros(classes.count)
    z[site.ids], z[site.bound_id] = channels * np.log(2), bound * np.log(2)
    rounded = powers_of_two(classes, z) / np.log(2)
    return float(rounded[site.bound_id]), set(rounded[site.ids].reshape(-1).tolist())


@pytest.mark.parametrize(
    ("bound", "channels", "expected"),
    [(0.0, 0.9, (0.0, {0.0})), (0.9, 0.9, (1.0, {1.0})), (0.4, 1.7, (0.0, {1.0})), (0.6, -0.9, (1.0, {0.0}))],
)
def test_powers_of_two_never_push_a_channel_over_a_clip(
    bound: float, channels: float, expected: tuple[float, set[float]]
) -> None:
    assert clip_scales(bound, channels) == expected


def test_rounding_a_little_over_the_tolerance_is_drawn_anew() -> None:
    class Stub(Reference):
        calls = 0

        def measure(self, model: ir.Model) -> Equivalence:
            self.calls += 1
            return Equivalence(1.2e-5 if self.calls < 3 else 0.9e-5, "y", 1)

    model = MIXED.model()
    classes = find_classes(model)
    z = random_scales(classes)
    proof = apply_proven(model, classes, z, Stub.of(model, MIXED.feeds()))
    assert rules(proof) == ["shrunk_scales"]
    np.testing.assert_allclose(proof.z, z, rtol=1e-3)
    assert (np.abs(proof.z) <= np.abs(z)).all()


def test_no_more_layers_are_rounded_than_it_takes() -> None:
    """A stub whose error is large until the factors of the first weight are powers of two."""
    model = MIXED.model()
    classes = find_classes(model)
    z = random_scales(classes)

    class Stub(Reference):
        def measure(self, model: ir.Model) -> Equivalence:
            ratio = weight(model, "w1") / weight(MIXED.model(), "w1")
            return Equivalence(0.0 if np.allclose(np.frexp(ratio)[0], 0.5) else 1e-3, "y", 1)

    proof = apply_proven(model, classes, z, Stub.of(model, MIXED.feeds()))
    assert rules(proof) == ["power_of_two_scales"]
    assert proof.decisions[0].where == "up to Conv_a"
    assert (proof.z == z).any()
    assert (proof.z != z).sum() == 6  # the channels of a


def test_no_two_copies_are_alive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[weakref.ref[ir.Model]] = []
    alive: list[int] = []

    def noted(model: ir.Model, classes: ScaleClasses, z: np.ndarray) -> list[Decision]:
        gc.collect()
        copies.append(weakref.ref(model))
        alive.append(sum(copy() is not None for copy in copies))
        return apply(model, classes, z)

    monkeypatch.setattr("equiquant.verify.proof.apply", noted)
    test_rounding_a_little_over_the_tolerance_is_drawn_anew()
    test_no_more_layers_are_rounded_than_it_takes()
    test_only_the_guilty_layer_is_rolled_back(monkeypatch)
    assert set(alive) == {1}


def weight(model: ir.Model, name: str) -> Any:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def test_nan_after_equalization_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log(x + offset) breaks where a rule lets its input be rescaled."""
    monkeypatch.setitem(RULES, "Sqrt", passing.homogeneous)
    monkeypatch.setitem(RULES, "Sin", passing.homogeneous)
    case = Case(
        "nan",
        "a = Conv(x, w1) t = Sin(a) p = Add(t, one) q = Sqrt(p) y = Conv(q, w2)",
        weights={"w1": (6, 4, 1, 1), "w2": (2, 6, 1, 1), "one": np.float32(1.0)},
    )
    _, proof = prove(case)
    assert rolled_back(proof) == ["Conv_a"]
    assert proof.equivalence.error == 0.0


def test_a_model_whose_outputs_are_nan_is_left_alone() -> None:
    case = Case("silent", MIXED.nodes + " q = Abs(y) n = Neg(q) z = Sqrt(n)", weights=WEIGHTS, outputs="float[] z")
    model, proof = prove(case)
    assert not proof.z.any()
    assert changed(model, proof.model) == set()
    (decision,) = proof.decisions
    assert (decision.where, decision.applied) == ("whole network", False)
    assert "'z' is NaN" in decision.reason


def proven_by(stub: type[Reference]) -> Proof:
    """Return the proof of some scales by a stub in place of the reference."""
    model = MIXED.model()
    classes = find_classes(model)
    return apply_proven(model, classes, random_scales(classes), stub.of(model, MIXED.feeds()))


def test_layers_that_are_only_wrong_together_do_not_both_go() -> None:
    """A stub in place of the reference: moving w1 and w4 at once is wrong, either alone is not."""

    class Stub(Reference):
        def measure(self, model: ir.Model) -> Equivalence:
            both = {"w1", "w5"} <= changed(MIXED.model(), model)
            return Equivalence(1.0 if both else 0.0, "y", 1)

    proof = proven_by(Stub)
    assert proof.equivalence.error == 0.0
    assert len(rolled_back(proof)) == 1
    assert proof.z.any()


def test_a_model_that_does_not_repeat_itself_keeps_its_scales() -> None:
    """A stub in place of the reference, as of a custom operator that counts its runs: no two results agree."""

    class Stub(Reference):
        runs = 0

        def measure(self, model: ir.Model) -> Equivalence:
            Stub.runs += 1
            return Equivalence(0.0 if Stub.runs == 6 else 1.0, "y", 1)

    proof = proven_by(Stub)
    assert proof.equivalence.error == 1.0
    assert not proof.z.any()
    assert rolled_back(proof) == ["whole network"]


@pytest.mark.parametrize("runs", [0, 2, 4])
def test_a_model_that_cannot_be_run_is_not_said_to_differ(runs: int) -> None:
    """A stub in place of the reference: after some runs, of whole plans or of parts, memory is short."""

    class Stub(Reference):
        runs = 0

        def measure(self, model: ir.Model) -> Equivalence:
            Stub.runs += 1
            if Stub.runs > runs:
                raise ModelError("memory is short\nof what was asked for")
            return Equivalence(1.0, "y", 1)

    proof = proven_by(Stub)
    assert not proof.z.any()
    assert proof.failure == "memory is short"
    (decision,) = proof.decisions
    assert "memory is short" in decision.reason
    assert "differ" not in decision.reason


def test_what_cannot_be_run_holds_at_no_tolerance() -> None:
    """Where the function may change, as with `soft`, any error is allowed; a layer that breaks the model is not."""
    model = MIXED.model()
    classes = find_classes(model)

    class Stub(Reference):
        def measure(self, model: ir.Model) -> Equivalence:
            if "w4" in changed(MIXED.model(), model):
                raise ModelError("no kernel")
            return Equivalence(1.0, "y", 1)

    proof = apply_proven(model, classes, random_scales(classes), Stub.of(model, MIXED.feeds()), np.inf)
    assert proof.z.any()
    assert not proof.failure
    assert "w4" not in changed(model, proof.model)
    assert all("no kernel" in d.reason for d in proof.decisions)
