import math
from typing import Any

from equiquant.report import markup
from equiquant.report.charts import SPREAD_ROWS, spread_chart, sqnr_chart


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
