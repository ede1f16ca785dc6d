from __future__ import annotations

import math
from typing import Any

import pytest

from equiquant.report import texts

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
def test_decibels_text(value: Any, shown: str) -> None:
    assert texts.decibels_text(value) == shown


def test_a_silent_reference_is_told_from_infinite_noise() -> None:
    shown = [texts.decibels_text("-Infinity", error) for error in (1.5, "Infinity", None)]
    assert shown == ["no signal", *["\N{MINUS SIGN}\N{INFINITY} dB"] * 2]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9999, "99.9%"), (1.0, "100%"), (0, "0%"), (0.1875, "18.8%"), (None, DASH)]
)
def test_percent_says_100_only_when_it_is(value: Any, shown: str) -> None:
    assert texts.percent(value) == shown


@pytest.mark.parametrize(
    ("scale", "exponent"), [(0.25, -2), (1.0, 0), (8.0, 3), (0.3, None), (0.0, None), (math.inf, None), (-2.0, None)]
)
def test_power_of_two(scale: Any, exponent: int | None) -> None:
    assert texts.power_of_two(scale) == exponent


def test_units() -> None:
    assert [texts.bytes_text(x) for x in (12, 1234, 5e6, 2.5e9, None)] == ["12 B", "1.23 kB", "5 MB", "2.5 GB", DASH]
    assert [texts.seconds_text(x) for x in (0.0123, 3.21, 150)] == ["12 ms", "3.2 s", "2 min 30 s"]
    assert [texts.seconds_text(x) for x in (119.94, 119.96, 179.7)] == ["119.9 s", "2 min 0 s", "3 min 0 s"]
    assert [texts.spread_text(x) for x in (1.234, 4321.0)] == [
        "1.23\N{MULTIPLICATION SIGN}",
        "4,321\N{MULTIPLICATION SIGN}",
    ]
    assert [texts.figure(x) for x in (3, 0.12345, 1e-9, math.inf, 4213)] == ["3", "0.1235", "1e-09", "inf", "4,213"]


def test_grades_at_their_limits() -> None:
    assert [texts.grade(x) for x in (20, 19.99, 10, 9.99, None)] == ["good", "fair", "fair", "poor", "poor"]


def test_shorten_keeps_both_ends() -> None:
    assert len(texts.shorten("x" * 50 + "end", 20)) == 20
    assert texts.shorten("x" * 50 + "end", 20).endswith("end")
    assert texts.shorten("short", 20) == "short"
    assert [texts.shorten("name", length) for length in (1, 2, 3)] == ["…", "…e", "n…e"]


@pytest.mark.parametrize(
    ("quartile", "told"), [(16.9, True), (17.1, False), (None, False), ("-Infinity", True), ("Infinity", False)]
)
def test_samples_scatter_where_a_quarter_has_clearly_less(quartile: Any, told: bool) -> None:
    assert texts.scattered({"sqnr_db": 20.0, "quartile_db": quartile}) is told
