"""A search keeps what judges best on held-back data, within what was fixed, and can go on after it was cut off."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from equiquant import quantize, search
from equiquant.cli import main
from equiquant.errors import DataError, EquiQuantError, OptionError
from equiquant.pipeline.search import searching
from tests.canonical.support import proto, weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PLAIN: dict[str, Any] = {"bias_correction": False, "weight_rounding": "nearest"}
QUICK: dict[str, Any] = {**PLAIN, "cle": False, "calibration": "minmax"}  # leaves clip_mode and per_channel to vary
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, 6, 6] x) => (float[N, 5] y) <float zero = {0.0}, float six = {6.0}> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0)
        r = Clip (a, zero, six)
        b = Conv (r, w1)
        s = Relu (b)
        p = GlobalAveragePool (s)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w2)
    }
    """
    result = onnx.parser.parse_model(text)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 8, 1, 1), "w2": (5, 8)}
    for name, shape in shapes.items():
        array = rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
        result.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return result


@pytest.fixture(scope="module")
def data() -> Array:
    return np.random.default_rng(1).standard_normal((9, 3, 6, 6)).astype(np.float32)


def _bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def test_the_result_is_that_of_the_winning_recipe(model: onnx.ModelProto, data: Array) -> None:
    result = search(model, data=data, cle=False, **PLAIN)
    found = result.search
    scores = [trial.score for trial in found.trials if trial.score is not None]
    assert len(scores) >= 6
    assert found.best.score is not None
    assert found.best.score >= max(scores) - searching.CLEAR_DB
    assert found.metric == "sqnr_db"
    assert [stage.name for stage in result.report.stages][:2] == ["search", "load"]
    assert result.report.stages[0].seconds >= sum(trial.seconds for trial in found.trials)
    assert _bytes(result.model) == _bytes(quantize(model, data=data, preset=found.recipe).model)
    assert _bytes(quantize(model, data=data, preset="auto", cle=False, **PLAIN).model) == _bytes(result.model)


def test_a_search_stays_with_the_target_and_what_was_fixed(model: onnx.ModelProto, data: Array) -> None:
    found = search(model, data=data, preset="xint8", clip_mode="exact", **PLAIN).search
    assert found.recipe.npu
    assert found.recipe.scale_kind == "power_of_two"
    assert not any("clip_mode" in trial.changes or "per_channel" in trial.changes for trial in found.trials)
    tried = [trial.changes.get("calibration") for trial in found.trials]
    assert "nonoverflow" in tried
    assert not {"noise", "percentile", "minmax"} & set(tried)


def test_a_metric_decides_and_is_given_the_model(model: onnx.ModelProto, data: Array) -> None:
    def without_equalization(candidate: onnx.ModelProto) -> float:
        recipe = json.loads(next(p.value for p in candidate.metadata_props if p.key == "equiquant.recipe"))
        return 0.0 if recipe["cle"] else 1.0

    found = search(
        model, data=data, metric=without_equalization, calibration="minmax", clip_mode="exact", **PLAIN
    ).search
    assert not found.recipe.cle
    assert found.metric.endswith("without_equalization")


@pytest.mark.filterwarnings("ignore:The search judged its trials on one sample")
@pytest.mark.parametrize(("batch", "score"), [(0, 2 / 3), (2, 0)])  # of two the last of nine samples is alone
def test_labels_are_those_of_the_held_back_samples(
    model: onnx.ModelProto, data: Array, batch: int, score: float
) -> None:
    from equiquant.io import Runner

    classes = Runner(model).run({"x": data})[0].argmax(axis=1)
    if batch:
        model = onnx.ModelProto.FromString(_bytes(model))
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    found = search(model, data=data, labels=classes, **QUICK)
    assert found.search.trials[0].score == 1.0
    alone = quantize(model, data=data, preset=found.search.recipe).report
    assert (found.report.samples, found.report.quality) == (alone.samples, alone.quality)
    assert alone.samples == 9
    wrong = classes.copy()
    wrong[-1] = (wrong[-1] + 1) % 5
    assert search(model, data=data, labels=wrong, **QUICK).search.trials[0].score == pytest.approx(score)


def test_an_interrupted_search_goes_on(model: onnx.ModelProto, data: Array, tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "trials.json"
    whole = search(model, data=data, **QUICK).search
    cut = search(model, data=data, **QUICK, time_budget=1e-9, trials_file=file).search
    assert (len(cut.trials), cut.complete) == (1, False)
    ran: list[Any] = []
    true_run = searching._Bench.run

    def counted(bench: Any, changes: Any, recipe: Any) -> Any:
        ran.append(changes)
        return true_run(bench, changes, recipe)

    monkeypatch.setattr(searching._Bench, "run", counted)
    rest = search(model, data=data, **QUICK, trials_file=file).search
    assert len(ran) == len(whole.trials) - 1
    assert [(t.changes, t.score) for t in rest.trials] == [(t.changes, t.score) for t in whole.trials]
    assert rest.recipe == whole.recipe
    ran.clear()
    again = search(model, data=data, **QUICK, trials_file=file).search
    assert (ran, again.recipe) == ([], whole.recipe)


def test_labels_are_the_same_in_any_type(model: onnx.ModelProto, data: Array, tmp_path: Path) -> None:
    labels = np.arange(len(data)) % 5
    for kind in (np.int64, np.int32, np.uint8, list):
        given = labels.tolist() if kind is list else labels.astype(kind)
        found = search(model, data=data, labels=given, time_budget=1e-9, trials_file=tmp_path / "t", **QUICK).search
    assert len(found.trials) == 1


def test_a_metric_that_fails_ends_the_search_which_goes_on_and_infinities_are_kept(
    model: onnx.ModelProto, data: Array, tmp_path: Path
) -> None:
    figures = iter([-np.inf, None, 1.0, *[0.0] * 20])

    def metric(_: onnx.ModelProto) -> Any:
        return next(figures)

    with pytest.raises(OptionError, match="must return one number"):
        search(model, data=data, metric=metric, trials_file=tmp_path / "t", **QUICK)
    found = search(model, data=data, metric=metric, trials_file=tmp_path / "t", **QUICK).search
    assert [trial.score for trial in found.trials[:2]] == [-np.inf, 1.0]
    assert found.best is found.trials[1]
    again = search(model, data=data, metric=metric, trials_file=tmp_path / "t", **QUICK).search
    assert again.trials == found.trials


def test_a_metric_that_is_nan_refuses_all_but_the_first_recipe(
    model: onnx.ModelProto, data: Array, tmp_path: Path
) -> None:
    figures = iter([1.0, np.nan, *[0.0] * 20])
    options: dict[str, Any] = {"metric": lambda _: next(figures), "trials_file": tmp_path / "t", **QUICK}
    found = search(model, data=data, **options).search
    assert found.best is found.trials[0]
    assert [(bool(t.refused), t.score is None) for t in found.trials[:3]] == [(False,) * 2, (True,) * 2, (False,) * 2]
    assert "It returned nan" in found.trials[1].refused
    assert not any(t.refused for t in search(model, data=data, **options).search.trials)


def test_what_was_refused_is_tried_again(
    model: onnx.ModelProto, data: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(searching, "run", _out_of_room)
        with pytest.raises(OptionError, match=r"cannot be run: No room\."):
            search(model, data=data, trials_file=tmp_path / "t", **QUICK)
    assert search(model, data=data, trials_file=tmp_path / "t", **QUICK, time_budget=1e-9).search.best.score is not None


def _out_of_room(*_: Any) -> Any:
    raise DataError("No room.")


def test_trials_of_another_search_are_refused(
    model: onnx.ModelProto, data: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trials.json"
    search(model, data=data, **QUICK, time_budget=1e-9, trials_file=file)
    with pytest.raises(OptionError, match="another model, other data or options"):
        search(model, data=data * 2, **QUICK, trials_file=file)
    monkeypatch.setattr(searching, "versions", lambda: {"onnxruntime": "0"})
    with pytest.raises(OptionError, match="or of another version"):
        search(model, data=data, **QUICK, trials_file=file)
    for text, says in (("{", "not JSON"), ("[]", "other JSON"), ('{"format": 1}', "other JSON")):
        file.write_text(text)
        with pytest.raises(OptionError, match=f"not a file of trials: it .* {says}"):
            search(model, data=data, **QUICK, trials_file=file)


@pytest.mark.parametrize(
    ("field", "value"), [("score", None), ("score", 10**400), ("sqnr_db", "high"), ("changes", None), ("refused", 1)]
)
def test_a_damaged_trial_is_refused(
    model: onnx.ModelProto, data: Array, tmp_path: Path, field: str, value: Any
) -> None:
    file = tmp_path / "trials.json"
    budget: Any = np.float32(1e-9)  # a number like any other
    search(model, data=data, **QUICK, time_budget=budget, trials_file=file)
    found = json.loads(file.read_text())
    found["trials"][0][field] = value
    file.write_text(json.dumps(found))
    with pytest.raises(OptionError, match=r"not a file of trials: it is damaged\. Delete it"):
        search(model, data=data, **QUICK, trials_file=file)


class _Constant:
    def __init__(self, score: float) -> None:
        self._score = score

    def __call__(self, _: onnx.ModelProto) -> float:
        return self._score


@pytest.mark.parametrize(
    ("metric", "name", "other"),
    [
        (_Constant(1.0), "_Constant", lambda _: 2.0),
        (functools.partial(min, 1.0, key=lambda _: 0), "min(1.0, key=", functools.partial(min, 2.0, key=hash)),
    ],
)
def test_trials_of_another_metric_are_refused(
    model: onnx.ModelProto, data: Array, tmp_path: Path, metric: Any, name: str, other: Any
) -> None:
    file = tmp_path / "trials.json"
    result = search(model, data=data, metric=metric, **QUICK, time_budget=1e-9, trials_file=file)
    assert result.search.metric.startswith(name)
    with pytest.raises(OptionError, match="other data or options"):
        search(model, data=data, metric=other, **QUICK, trials_file=file)


@pytest.mark.parametrize("name", ["sqnr_db", "top1"])
def test_a_metric_of_the_users_is_none_of_ours_whatever_its_name(
    model: onnx.ModelProto, data: Array, tmp_path: Path, name: str
) -> None:
    figures = itertools.count(50)

    def metric(_: onnx.ModelProto) -> float:
        return float(next(figures))

    metric.__qualname__ = name
    file = tmp_path / "trials.json"
    given = {"metric": None} if name == "sqnr_db" else {"labels": [1] * 9}
    search(model, data=data, **given, **QUICK, time_budget=1e-9, trials_file=file)
    with pytest.raises(OptionError, match="other data or options"):
        search(model, data=data, metric=metric, **QUICK, trials_file=file)
    result = search(model, data=data, metric=metric, **QUICK)
    assert result.search.best is result.search.trials[-1]
    page = result.report.to_html()
    assert f">{name}</th>" in page
    assert f">{result.search.best.score:.0f}</td>" in page


def test_a_partial_metric_is_known_again(model: onnx.ModelProto, data: Array, tmp_path: Path) -> None:
    for _ in range(2):
        metric: Any = functools.partial(_agreement, object(), digits=3)
        found = search(model, data=data, metric=metric, **QUICK, time_budget=1e-9, trials_file=tmp_path / "t.json")
        assert found.search.metric == "_agreement(object, digits=3)"


def _agreement(_: object, model: onnx.ModelProto, *, digits: int) -> float:
    return round(len(model.graph.node), digits)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1, 1)])
def test_the_classes_of_labels_lie_along_any_axis(data: Array, shape: tuple[int, ...]) -> None:
    given: dict[str, Any] = weights(w=(5, 3, 1, 1)) | {"s": np.array([-1, *shape])}
    nodes = "c = Conv(x, w) p = GlobalAveragePool(c) y = Reshape(p, s)"
    result = search(proto(nodes, "float[N,3,6,6] x", "float[] y", given), data=data, labels=[1] * 9, **QUICK)
    assert result.search.metric == "top1"


@pytest.mark.parametrize("samples", [9, 11, 15])
@pytest.mark.parametrize("rows", [(5, 6, 6), (4, 5)])  # pixels; rows that are no samples, as those of found boxes
def test_labels_are_of_whole_samples(rows: tuple[int, ...], samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = int(np.prod(rows))
    given: dict[str, Any] = weights(w=(108, size)) | {"s": np.array(rows if len(rows) == 2 else (1, *rows))}
    model = proto("f = Flatten(x) g = MatMul(f, w) y = Reshape(g, s)", "float[1,3,6,6] x", "float[] y", given)
    monkeypatch.setattr(searching, "run", lambda *_: pytest.fail("a trial was paid for"))
    data = np.random.default_rng(0).normal(size=(samples, 1, 3, 6, 6)).astype(np.float32)
    with pytest.raises(EquiQuantError, match="need class scores as the first output, one row for each sample"):
        search(model, data=list(data), labels=[1] * samples, **QUICK)


def test_one_judge_needs_a_clear_gain_and_is_warned_of(model: onnx.ModelProto, data: Array) -> None:
    with pytest.warns(UserWarning, match="judged its trials on one sample"):
        found = search(model, data=data[:5], **QUICK)
    assert any("judged its trials on one sample" in text for text in found.report.warnings)
    best, figures = found.search.best, [t.sqnr_db for t in found.search.trials if t.sqnr_db is not None]
    assert best.sqnr_db is not None
    assert not best.changes or best.sqnr_db > figures[0] + 3.0
    assert found.search.to_dict()["judges"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": None}, "needs calibration data"),
        ({"data": np.zeros((2, 3, 6, 6), np.float32)}, "at least 3 samples"),
        ({"data": [np.zeros((4, 3, 6, 6), np.float32)] * 2}, "at least 3 batches of samples"),
        ({"labels": [1, 2]}, "2 labels for 9 samples"),
        ({"labels": [1] * 9, "metric": lambda _: 0.0}, "either a metric or labels"),
        ({"labels": ["cat"] * 9}, "must be whole numbers"),
        ({"labels": [0.5] * 9}, "must be whole numbers"),
        ({"labels": [[1, 2], [3]]}, "one whole number for each sample"),
        ({"labels": [-1] * 9}, "numbered from 0"),
        ({"labels": [7] * 9}, "go up to 7, but the first output has only 5"),
        ({"metric": "accuracy"}, "must be a function"),
        ({"metric": lambda _: None}, "must return one number, higher is better. It returned None"),
        ({"metric": lambda _: np.zeros(3)}, "must return one number"),
        ({"metric": lambda _: float("nan")}, "must return one number"),
        ({"metric": lambda _: 10**5000}, "a number too large for a float; scale it down"),
        ({"time_budget": 0}, "positive number of seconds"),
        ({"time_budget": float("nan")}, "positive number of seconds"),
        ({"time_budget": "10"}, "positive number of seconds"),
        ({"time_budget": True}, "positive number of seconds"),
        ({"preset": "w4"}, "nothing to vary"),
        ({"target_sqnr": 20.0}, "then quantize with the recipe found and target_sqnr"),
        ({"keep_float": 3}, "cannot be run: keep_float=3"),
        ({"colour": 1}, "Unknown option 'colour'"),
    ],
)
def test_nonsense_is_refused(model: onnx.ModelProto, data: Array, options: dict[str, Any], says: str) -> None:
    with pytest.raises(EquiQuantError, match=says) as caught:
        search(model, **{"data": data, **options})
    assert isinstance(caught.value, OptionError | DataError)


def test_from_the_command_line(
    model: onnx.ModelProto, data: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, samples, out = tmp_path / "m.onnx", tmp_path / "x.npy", tmp_path / "out.onnx"
    onnx.save(model, source)
    np.save(samples, data)
    np.save(tmp_path / "labels.npy", np.zeros(9, dtype=np.int64))
    words = [
        "quantize",
        str(source),
        "-o",
        str(out),
        "--data",
        str(samples),
        "--preset",
        "xint8",
        "--no-bias-correction",
    ]
    words += ["--weight-rounding", "nearest"]
    words += ["--report", str(tmp_path / "report")]
    assert main([*words, "--auto", "--labels", str(tmp_path / "labels.npy")]) == 0
    shown = capsys.readouterr().out
    for word in ("Trial", "Top-1", "xint8 as it is", "calibration=nonoverflow", "kept", "Quality"):
        assert word in shown, word
    trials = json.loads((tmp_path / "out.onnx.trials.json").read_text())["trials"]
    told = json.loads((tmp_path / "report" / "report.json").read_text())["search"]
    assert (told["metric"], told["complete"], told["trials"]) == ("top1", True, trials)
    assert told["kept"] in [trial["changes"] for trial in trials]
    assert "<h2>Search</h2>" in (tmp_path / "report" / "report.html").read_text()
    onnx.checker.check_model(str(out), full_check=True)
    assert main([*words, "--labels", "x"]) == 1
    assert "give --auto as well" in capsys.readouterr().err
