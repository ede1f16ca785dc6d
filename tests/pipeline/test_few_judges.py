"""A target that one or two samples say is reached is not said to be without a warning."""

from __future__ import annotations

import re

import numpy as np
import pytest

from equiquant import quantize
from tests.canonical.support import proto, weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # the report has them


@pytest.mark.parametrize(
    ("count", "batch", "says"),
    [
        (1, 1, r"on one sample that it was made with: .* Give more samples, one at a time"),
        (1, 8, r"on 8 samples that it was made with: .* Give more samples, one at a time"),
        (2, 1, r"on one sample: .* Give more samples; half of them judge"),
        (4, 1, r"on 2 samples: .* Give more samples; half of them judge"),
        (6, 1, None),
        (0, 1, None),  # made-up inputs have a warning of their own
    ],
)
def test_a_target_judged_by_few_is_warned_of(count: int, batch: int, says: str | None) -> None:
    model = proto("c = Conv(x, w) r = Relu(c) y = Conv(r, v)", "float[N,3,6,6] x", "float[N,5,6,6] y", WEIGHTS)
    data = [np.random.default_rng(n).standard_normal((batch, 3, 6, 6)).astype(np.float32) for n in range(count)]
    report = quantize(model, data=data or None, preset="a8w8", target_sqnr=20.0).report
    found = [text for text in report.warnings if "target_sqnr was judged" in text]
    assert len(found) == (says is not None)
    assert all(re.search(says or "", text) for text in found)


def test_a_network_that_is_measured_on_little_of_what_there_is_asks_for_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("equiquant.pipeline.measuring.judging.TRIAL_SECONDS", 0.0)
    model = proto("c = Conv(x, w) r = Relu(c) y = Conv(r, v)", "float[N,3,6,6] x", "float[N,5,6,6] y", WEIGHTS)
    data = np.random.default_rng(0).standard_normal((16, 3, 6, 6)).astype(np.float32)
    report = quantize(model, data=data, preset="a8w8", target_sqnr=20.0).report
    assert any("on one sample: the result may be worse on others. Of a network" in text for text in report.warnings)


WEIGHTS = weights(w=(4, 3, 1, 1), v=(5, 4, 1, 1))
