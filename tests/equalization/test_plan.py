"""Ranges chosen with scales are dropped where other scales were applied, and only there."""

from __future__ import annotations

import numpy as np

from equiquant.equalization import EqualizationPlan, Ranges, find_classes
from tests.equalization.support import Case, random_scales

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
    found = plan.ranges_at(classes, applied)
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
    assert EqualizationPlan("pairwise", z, 1).ranges_at(classes, z + 1) is None
