import math
from typing import Any

import pytest

from equiquant.report import markup
from equiquant.report.charts import SPREAD_ROWS, spread_chart, sqnr_chart

DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, DASH),
        (math.nan, DASH),
        ("Infinity", "identical"),
        (-math.inf, "\N{MINUS SIGN}\N{INFINITY} dB"),
        (-3.21, "\N{MINUS SIGN}3.2 dB"),
        (20, "20.0 dB"),
    ],
)
def test_decibels(value: Any, shown: str) -> None:
    assert markup.decibels(value) == shown


def test_a_silent_reference_is_told_from_infinite_noise() -> None:
    shown = [markup.decibels("-Infinity", error) for error in (1.5, "Infinity", None)]
    assert shown == ["no signal", *["\N{MINUS SIGN}\N{INFINITY} dB"] * 2]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9999, "99.9%"), (1.0, "100%"), (0, "0%"), (0.1875, "18.8%"), (None, DASH)]
)
def test_percent_says_100_only_when_it_is(value: Any, shown: str) -> None:
    assert markup.percent(value) == shown


@pytest.mark.parametrize(
    ("scale", "exponent"), [(0.25, -2), (1.0, 0), (8.0, 3), (0.3, None), (0.0, None), (math.inf, None), (-2.0, None)]
)
def test_power_of_two(scale: Any, exponent: int | None) -> None:
    assert markup.power_of_two(scale) == exponent


def test_units() -> None:
    assert [markup.bytes_text(x) for x in (12, 1234, 5e6, 2.5e9, None)] == ["12 B", "1.23 kB", "5 MB", "2.5 GB", DASH]
    assert [markup.seconds_text(x) for x in (0.0123, 3.21, 150)] == ["12 ms", "3.2 s", "2 min 30 s"]
    assert [markup.seconds_text(x) for x in (119.94, 119.96, 179.7)] == ["119.9 s", "2 min 0 s", "3 min 0 s"]
    assert [markup.spread_text(x) for x in (1.234, 4321.0)] == [
        "1.23\N{MULTIPLICATION SIGN}",
        "4,321\N{MULTIPLICATION SIGN}",
    ]
    assert [markup.figure(x) for x in (3, 0.12345, 1e-9, math.inf, 4213)] == ["3", "0.1235", "1e-09", "inf", "4,213"]


def test_grades_at_their_limits() -> None:
    assert [markup.grade(x) for x in (20, 19.99, 10, 9.99, None)] == ["good", "fair", "fair", "poor", "poor"]


def test_shorten_keeps_both_ends() -> None:
    assert len(markup.shorten("x" * 50 + "end", 20)) == 20
    assert markup.shorten("x" * 50 + "end", 20).endswith("end")
    assert markup.shorten("short", 20) == "short"
    assert [markup.shorten("name", length) for length in (1, 2, 3)] == ["…", "…e", "n…e"]


def test_line_breaks_never_split_an_entity() -> None:
    assert markup.code("a/b<c>.d") == "<code>a<wbr>/b&lt;c&gt;<wbr>.d</code>"


def test_a_taller_bar_for_a_better_tensor() -> None:
    chart = sqnr_chart(
        [{"name": "a", "aligned_sqnr_db": 5, "position": 1}, {"name": "b", "aligned_sqnr_db": 25, "position": 0}]
    )
    heights = [float(part.split('"')[0]) for part in chart.split(' height="')[1:]]
    assert len(heights) == 2
    assert heights[0] > heights[1] > 0  # graph order: b comes first


def test_a_tensor_that_is_all_but_exact_leaves_the_others_their_height() -> None:
    def rows(*ratios: float) -> list[dict[str, Any]]:
        return [{"name": "t", "aligned_sqnr_db": ratio, "position": i} for i, ratio in enumerate(ratios)]

    chart = sqnr_chart(rows(40, 146.4, math.inf))
    heights = [float(part.split('"')[0]) for part in chart.split(' height="')[1:]]
    assert heights[0] * 2 == heights[1] == heights[2]
    assert (chart.count(">146<"), ">inf<" in chart, ">80 dB<" in chart) == (1, False, True)
    assert 1 < sqnr_chart(rows(*[146.4] * 200)).count(">146<") < 40  # none touches the next


def test_spread_rows_are_bounded_and_in_graph_order() -> None:
    rows = [{"tensor": f"t{i:03}", "channels": 2, "spread_before": 1.0 + i, "spread_after": 1.0} for i in range(60)]
    chart = spread_chart(rows)
    assert chart.count('class="after"') == SPREAD_ROWS
    assert chart.index(">t030<") < chart.index(">t059<")
    assert ">t019<" not in chart
    assert spread_chart([]) == ""
