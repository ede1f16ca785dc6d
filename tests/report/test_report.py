import json
import math
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant.decisions import Decision
from equiquant.errors import ModelError, OutputError
from equiquant.recipe import ImageOptions, preset
from equiquant.report import Report, StageCost, Stages
from equiquant.report.plain import dumps, plain
from equiquant.report.style import STYLE

TIMES = "\N{MULTIPLICATION SIGN}"
NASTY = '/block<script>alert("x")</script>&amp;/Conv'


def report(**changes: Any) -> Report:
    tensor = {"name": NASTY, "compared": NASTY, "op_type": "Conv", "count": 8, "sqnr_db": 12.0, "cosine": 0.99}
    fields: dict[str, Any] = {
        "recipe": preset("xint8", nodes_to_exclude=("a", "b"), image=ImageOptions(size=(8, 8), mean=(0.5,))),
        "input_sha256": "ab" * 32,
        "input_path": "models/tiny.onnx",
        "samples": 48,
        "decisions": [
            Decision("canonical", "fold_batch_norm", NASTY, True, "folded"),
            Decision("equalize", "pairwise", "softmax", False, "<b>its input is pinned</b>"),
        ],
        "equalization": {
            "method": "pairwise",
            "steps": -1,
            "classes": 12,
            "spread_before": 100.0,
            "spread_after": 4.0,
            "equivalence_error": 3e-7,
            "tolerance": 1e-5,
            "rolled_back": [],
            "tensors": [
                {"tensor": NASTY, "channels": 4, "spread_before": 100.0, "spread_after": 4.0, "pinned_by": NASTY},
                {"tensor": "dead", "channels": 4, "spread_before": math.inf, "spread_after": math.inf},
            ],
        },
        "hardware": [
            {"rule": "split_to_slice", "nodes": 2, "sqnr_db": None},
            {"rule": NASTY, "nodes": 1, "sqnr_db": 31.5},
            {"rule": "together", "nodes": 1, "sqnr_db": math.inf},
        ],
        "tensors": [
            {"name": NASTY, "scale": 0.25, "zero_point": 128, "type": "uint8", "low": -1.0, "high": 2.0},
            {"name": "w", "scale": [0.1, 0.2], "zero_point": [0, 0], "type": "int8", "axis": 0},
        ],
        "quality": {
            "samples": 4,
            "outputs": [
                {"name": NASTY, "sqnr_db": math.inf, "max_abs_error": 0.0, "cosine": 1.0, "top1_agreement": 0.75}
            ],
            "tensors": [
                {**tensor, "aligned_sqnr_db": 12.0, "max_abs_error": 0.1, "position": 0},
                {**tensor, "aligned_sqnr_db": -math.inf, "max_abs_error": math.nan, "position": 1},
            ],
        },
        "warnings": ["No data <given>"],
        "stages": [StageCost("load", 0.01, 1000), StageCost("calibrate", 2.0, None)],
    }
    return Report(**(fields | changes))


class Page(HTMLParser):
    """Collects tags and text, and checks that they nest."""

    VOID = frozenset({"meta", "br", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_to_dict_is_strict_json_and_comes_back() -> None:
    original = report()
    text = dumps(original.to_dict())
    data = json.loads(text, parse_constant=pytest.fail)
    assert data["quality"]["outputs"][0]["sqnr_db"] == "Infinity"
    assert data["quality"]["tensors"][1]["aligned_sqnr_db"] == "-Infinity"
    assert data["quality"]["tensors"][1]["max_abs_error"] is None
    assert data["recipe"]["bias_type"] == "int8"
    assert set(data["versions"]) == {"equiquant", "onnx", "onnx-ir", "onnxruntime", "numpy"}
    back = Report.from_dict(data)
    assert back.recipe == original.recipe
    assert back.to_dict() == original.to_dict()


def test_write_leaves_two_files_and_loads_again(tmp_path: Path) -> None:
    folder = report().write(tmp_path / "deep" / "report")
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json"]
    assert Report.load(folder).to_dict() == report().to_dict()
    assert Report.load(folder / "report.json").to_html() == (folder / "report.html").read_text(encoding="utf-8")
    report(warnings=()).write(folder)  # again, over the first
    assert Report.load(folder).warnings == ()


def test_names_are_escaped_everywhere() -> None:
    text = report().to_html()
    assert "<script" not in text
    assert "its input is pinned" in text
    assert "<b>its" not in text
    page = Page(text)
    assert NASTY in page.text
    assert page.text.count(NASTY) >= 5


def test_names_send_no_control_characters() -> None:
    page = report(warnings=("of 'e\x1b[31mred\x9b'",)).to_html()
    assert "e\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}" in page
    assert not set("\x1b\x9b") & set(page)


def test_the_tiles_are_short_and_of_outputs_that_are_not_classes_themselves() -> None:
    row = {"max_abs_error": 0.1, "cosine": 1.0}
    outputs = [
        {"name": "y" * 300, "sqnr_db": 31.0, "top1_agreement": 0.875, "chosen": False, **row},
        {"name": "mask", "sqnr_db": 3.0, "top1_agreement": 0.25, "chosen": True, **row},
    ]
    tiles = report(quality={"samples": 4, "outputs": outputs}).to_html().split("<section>")[0]
    assert "31.0 dB" in tiles
    assert "87.5%" in tiles
    assert "25.0%" not in tiles
    assert "y" * 10 in tiles
    assert "y" * 40 not in tiles


@pytest.mark.parametrize(("synthetic", "inputs"), [(True, ", on made-up inputs<"), (False, "<")])
def test_a_change_of_the_function_is_told_with_its_inputs(synthetic: bool, inputs: str) -> None:
    page = report(quality={"outputs": (), "synthetic": synthetic, "samples": 4}).to_html()
    assert f"largest change of the float output by equalization{inputs}" in page


def test_the_page_fetches_nothing() -> None:
    page = Page(report().to_html())
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert "url(" not in report().to_html()
    assert "@import" not in report().to_html()


def test_the_page_shows_the_figures() -> None:
    text = Page(report().to_html()).text
    for shown in (
        "tiny.onnx",
        "xint8",
        "75.0%",
        "identical",
        f"100{TIMES}",
        "3e-07",
        "No data <given>",
        "\N{MINUS SIGN}\N{INFINITY} dB",
        "2.0 s",
        "minmse calibration on 48 samples",
    ):
        assert shown in text, shown
    assert "until converged" in text
    assert Page(report().to_html()).tags.count("svg") == 2


@pytest.mark.parametrize("method", ["global", "soft"])
def test_the_page_says_what_moved_the_function(method: str) -> None:
    """Quality is against the float model that was given, whatever became of its ReLU6."""
    moved = {"method": method, "equivalence_error": 1.6e-3, "tolerance": 1e-5}
    quality = report().quality
    assert quality is not None
    text = Page(report(equalization=moved, quality={**quality, "synthetic": True}).to_html()).text
    assert ("on made-up inputs the float function moved" in text) == (method == "global")
    assert "not the one that was given" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": None, "equalization": {}, "decisions": (), "tensors": (), "warnings": (), "stages": ()},
        {"input_path": None, "quality": {"samples": 0, "outputs": [], "tensors": []}},
        {"recipe": preset("a8w8_per_channel", cle=False), "equalization": {}},
        {"equalization": {"method": "pairwise", "tensors": [{"tensor": "t", "spread_before": 1, "spread_after": 1}]}},
    ],
)
def test_a_sparse_report_still_makes_a_page(changes: dict[str, Any]) -> None:
    page = Page(report(**changes).to_html())
    assert "EquiQuant" in page.text
    assert "nan" not in page.text.lower()


def test_not_a_report(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Cannot read the report"):
        Report.load(tmp_path)
    path = tmp_path / "x.json"
    for text in ("{}", "[]", "not json", '{"format": 99}'):
        path.write_text(text)
        with pytest.raises(ModelError, match="report"):
            Report.load(path)


def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the report folder"):
        report().write(tmp_path / "file")
    (tmp_path / "taken" / "report.json").mkdir(parents=True)
    with pytest.raises(OutputError, match="is not a regular file"):
        report().write(tmp_path / "taken")
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["report.json"]


def test_plain_takes_numpy_apart_and_refuses_the_unknown(tmp_path: Path) -> None:
    value = {1: np.float32(0.5), "a": np.arange(2), "b": {3, 1}, "p": tmp_path, "n": np.float64("nan")}
    assert plain(value) == {"1": 0.5, "a": [0, 1], "b": [1, 3], "p": str(tmp_path), "n": None}
    with pytest.raises(TypeError, match="cannot hold a object"):
        plain(object())


def test_stages_add_up_and_record_failures_too() -> None:
    stages = Stages()
    with stages("load"):
        time.sleep(0.01)
    with pytest.raises(KeyError), stages("fail"):
        raise KeyError
    with stages("load"):
        time.sleep(0.01)
    costs = {c.name: c for c in stages.costs}
    assert list(costs) == ["load", "fail"]
    assert costs["load"].seconds >= 0.02
    assert costs["load"].peak_bytes is None or costs["load"].peak_bytes > 1_000_000


def test_long_names_break_where_the_screen_ends() -> None:
    (rule,) = [line for line in STYLE.splitlines() if "overflow-wrap: anywhere" in line and "td code" in line]
    for place in ("td.reason", ".tile span", ".warnings li"):
        assert place in rule
