"""A result in a pickle, which another process reads, and in a copy."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant import Result, SearchResult, equalize, quantize
from equiquant.errors import OutputError
from equiquant.io import save
from tests.canonical.support import proto, weights

MODEL = proto("a = Conv(x, w) y = Relu(a)", "float[N,3,6,6] x", "float[] y", weights(w=(32, 3, 3, 3)))
DATA = np.random.default_rng(0).standard_normal((9, 3, 6, 6)).astype(np.float32)
WAYS = [lambda result: pickle.loads(pickle.dumps(result)), copy.deepcopy]


@pytest.mark.parametrize("again", WAYS)
@pytest.mark.parametrize("preset", ["a8w8", "auto"])
def test_a_result_is_pickled_and_copied_whole(again: Callable[[Result], Result], preset: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"time_budget": 0.001} if preset == "auto" else {}
    result = quantize(MODEL, tmp_path / "q.onnx", data=DATA, preset=preset, weight_rounding="nearest", **options)
    twin = again(result)
    assert type(twin) is type(result) is (SearchResult if preset == "auto" else Result)
    assert (twin.model, twin.report, twin.path) == (result.model, result.report, tmp_path / "q.onnx")
    assert twin.save(tmp_path / "twin.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()


@pytest.mark.parametrize("output", [None, "q.onnx"])
def test_writing_the_model_counts_as_a_stage(output: str | None, tmp_path: Path) -> None:
    place = None if output is None else tmp_path / output
    result = equalize(MODEL, place, data=DATA, report_dir=tmp_path / "report")
    assert (result.report.stages[-1].name == "save") == (output is not None)
    assert json.loads((tmp_path / "report/report.json").read_text("utf-8")) == result.report.to_dict()


@pytest.mark.parametrize("again", WAYS)
def test_a_result_too_large_for_a_pickle_says_what_to_do(
    again: Callable[[Result], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = quantize(MODEL, data=DATA, preset="a8w8")
    monkeypatch.setattr(save, "INLINE_LIMIT", 10)
    with pytest.raises(OutputError, match="larger than 2 GB and cannot be pickled or copied; save it"):
        again(result)
