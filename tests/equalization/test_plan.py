"""Ranges chosen with scales: what they cost, and that they are dropped where other scales were applied."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.equalization import EqualizationPlan, Ranges, find_classes, join_ranges, plan_ranges, with_noise
from tests.equalization.support import Case, random_scales
from tests.numerics.range_networks import CLASSES, network, tensor_formula, weight_formula

CASE = Case(
    "chain",
    "a = Conv(x, w1, b1) r = Relu(a) b = Conv(r, w2) s = Relu(b) y = Conv(s, w3)",
    weights={"w1": (6, 4, 1, 1), "b1": (6,), "w2": (5, 6, 1, 1), "w3": (3, 5, 1, 1)},
)
KEYS = [(kind, f"Conv_{name}") for kind in ("weight", "bias") for name in "aby"] + [
    ("activation", name) for name in "xarbsy"
]


def left(change: float) -> set[tuple[str, str]]:
    classes = find_classes(CASE.model())
    z = random_scales(classes)
    ranges = Ranges(dict.fromkeys(KEYS, (1.0,)), {key: {0: 1.0} for key in KEYS})
    plan = EqualizationPlan("global", z, 1, ranges)
    applied = z.copy()
    producer = next(slot for slot in classes.slots if slot.node.name == "Conv_b")
    applied[producer.gain.reshape(-1)[0]] += change
    found = plan.ranges_at(classes, applied, plan.ranges)
    assert found is not None
    assert set(found.ends) == set(found.costs)
    return set(found.ends)


def test_ranges_of_what_moved_otherwise_are_dropped() -> None:
    assert set(KEYS) - left(0.5) == {
        ("weight", "Conv_b"),
        ("weight", "Conv_y"),
        ("activation", "b"),
        ("activation", "s"),
    }


def test_a_trifle_changes_no_range() -> None:
    assert left(1e-3) == set(KEYS)


def test_without_ranges_there_are_none_to_keep() -> None:
    classes = find_classes(CASE.model())
    z = np.zeros(classes.count)
    assert EqualizationPlan("pairwise", z, 1).ranges_at(classes, z + 1, None) is None


@pytest.mark.parametrize("powers_of_two", [False, True])
def test_the_noise_of_chosen_ranges_counts_what_they_cut_off(powers_of_two: bool) -> None:
    weights, tensors = network()
    nothing = EqualizationPlan("global", np.zeros(CLASSES), 0)
    joint = join_ranges(tensors, [(tensors[0].name, tensors[2].name)])  # of one side: they share one range
    chosen = plan_ranges(weights, joint, nothing, None, "ranges", powers_of_two=powers_of_two)
    assert chosen.ranges is not None
    ends = {key: np.array(end) for key, end in chosen.ranges.ends.items()}
    expected = {("weight", w.name): weight_formula(w, chosen.z, ends["weight", w.name][0]) for w in weights}
    expected |= {(t.kind, t.name): tensor_formula(t, chosen.z, ends[t.kind, t.name]) for t in tensors}
    assert with_noise(chosen, weights, tensors).noise == pytest.approx(expected)
    assert set(with_noise(chosen, [], tensors).noise) == {(t.kind, t.name) for t in tensors}
