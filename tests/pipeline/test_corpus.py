"""Every topology of the corpus, quantized with the defaults: a result that runs, or a refusal in one line."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest

from equiquant import quantize
from equiquant.errors import ModelError
from tests.equalization.corpus import CASES
from tests.equalization.support import Case

REFUSED = {"double": "no node that can be quantized"}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_the_defaults_quantize_it(case: Case) -> None:
    preset = ("xint8", "a8w8")[CASES.index(case) % 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said about such models is tested elsewhere
        if case.name in REFUSED:
            with pytest.raises(ModelError, match=REFUSED[case.name]):
                quantize(case.proto(), data=case.feeds(), preset=preset)
            return
        result = quantize(case.proto(), data=case.feeds(), preset=preset)
    onnx.checker.check_model(result.model, full_check=True)
    figures = result.report.to_dict()["quality"]["outputs"]
    assert not any(np.isnan(float(figure["sqnr_db"])) for figure in figures)
