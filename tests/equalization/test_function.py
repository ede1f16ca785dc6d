"""On every topology: the function is preserved, what must change does, what must not move says why."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.equalization import clip_bounds, find_classes, plan_pairwise
from tests.equalization.corpus import CASES
from tests.equalization.support import Case, changed, check, equalized, random_scales, why_pinned

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "-"))


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 65
    assert len({c.name for c in CASES}) == len(CASES)


@EVERY
def test_any_scales_of_the_free_classes_preserve_the_function(case: Case) -> None:
    check(case)


@EVERY
@pytest.mark.parametrize("steps", [1, -1])
def test_the_pairwise_scales_preserve_the_function(case: Case, steps: int) -> None:
    classes = find_classes(case.model())
    z = plan_pairwise(classes, clip_bounds(classes, {}, 1), steps=steps, append_bias=True).z
    assert np.isfinite(z).all()
    check(case, z)


@EVERY
def test_exactly_what_must_change_changes(case: Case) -> None:
    model = case.model()
    classes = find_classes(model)
    assert changed(model, equalized(model, random_scales(classes))) == set(case.changes.split())


@EVERY
def test_what_is_pinned_says_why(case: Case) -> None:
    model = case.model()
    classes = find_classes(model)
    for tensor, reason in case.pinned.items():
        assert reason in why_pinned(classes, model, tensor)


@EVERY
def test_every_pinned_tensor_has_a_reason(case: Case) -> None:
    classes = find_classes(case.model())
    for value, ids in classes.values.items():
        assert ids.all() or value in classes.pins, value.name
