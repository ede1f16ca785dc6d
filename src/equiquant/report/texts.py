"""Figures as people read them, on the page and on the terminal, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "DASH",
    "FAIR_DB",
    "GOOD_DB",
    "MINUS",
    "NOTICEABLE_DB",
    "TIMES",
    "bytes_text",
    "calibrated_on",
    "compared_on",
    "counted",
    "decibels_text",
    "figure",
    "grade",
    "number",
    "or_low",
    "percent",
    "power_of_two",
    "scattered",
    "seconds_text",
    "shorten",
    "spread_text",
]

DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
GOOD_DB = 20.0  # noise is 1% of the signal's energy
FAIR_DB = 10.0  # noise is 10% of it
HIDDEN_DB = 3.0  # twice the noise: worth a word where the figure of all samples hides it
NOTICEABLE_DB = 0.5  # one rounding draw moves a measured SQNR by more


def shorten(name: str, length: int) -> str:
    """Return at most `length` characters, cut in the middle: both ends of a tensor's name tell it apart.

    >>> shorten("/stage1/stage1.0/Conv_output_0", 15)
    '/stage1…utput_0'
    """
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"


def number(value: Any) -> float:
    """Return a figure as a float; None and anything unreadable are NaN, `"Infinity"` is infinite."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def or_low(value: Any) -> float:
    """Return a figure to sort by: what is unknown comes first."""
    x = number(value)
    return -math.inf if math.isnan(x) else x


def figure(value: Any, digits: int = 4) -> str:
    """Return a number with a few significant digits, a dash for an unknown one."""
    x = number(value)
    if math.isnan(x):
        return DASH
    if abs(x) < 1e9 and x == int(x):
        return f"{int(x):,}"
    return f"{x:.{digits}g}"


def counted(value: Any, what: str) -> str:
    """Return a number of things.

    >>> counted(1, "sample"), counted(8, "sample")
    ('1 sample', '8 samples')
    """
    return f"{figure(value)} {what}{'' if number(value) == 1 else 's'}"


def calibrated_on(samples: Any, *, made_up: bool) -> str:
    """Return what ranges come from, e.g. `100 samples`."""
    return counted(samples, "made-up input" if made_up else "sample")


def compared_on(quality: Mapping[str, Any]) -> str:
    """Return what a comparison ran on, e.g. `4 held-back samples`."""
    if quality.get("synthetic"):
        return counted(quality.get("samples"), "made-up input")
    return counted(quality.get("samples"), "held-back sample" if quality.get("held") else "calibration sample")


def decibels_text(value: Any, largest_error: Any = None) -> str:
    """Return dB with one decimal; `no signal` where errors are known to be finite and yet infinitely larger than it."""
    x = number(value)
    if math.isnan(x):
        return DASH
    if math.isinf(x):
        return "identical" if x > 0 else "no signal" if math.isfinite(number(largest_error)) else f"{MINUS}∞ dB"
    return f"{x:.1f} dB".replace("-", MINUS)


def scattered(output: Mapping[str, Any]) -> bool:
    """True if a quarter of an output's samples, `quartile_db`, have clearly less left than the figure of all says."""
    return number(output.get("quartile_db")) < number(output.get("sqnr_db")) - HIDDEN_DB


def percent(value: Any) -> str:
    """Return a fraction as a percentage that says 100 only where it is.

    >>> percent(0.99999), percent(1.0)
    ('99.9%', '100%')
    """
    x = number(value)
    if math.isnan(x):
        return DASH
    return f"{x:.0%}" if x in (0.0, 1.0) else f"{min(100 * x, 99.9):.1f}%"


def spread_text(value: Any) -> str:
    """Return a ratio such as `12×`."""
    x = number(value)
    if math.isnan(x):
        return DASH
    return (f"{x:,.0f}" if 99.5 <= x < 99_999.5 else f"{x:.3g}") + TIMES


def bytes_text(value: Any) -> str:
    """Return a size in the unit that suits it.

    >>> bytes_text(1_500_000)
    '1.5 MB'
    """
    x = number(value)
    if math.isnan(x):
        return DASH
    for unit in ("B", "kB", "MB"):
        if x < 999.5:
            return f"{x:.3g} {unit}"
        x /= 1000
    return f"{x:.3g} GB"


def seconds_text(value: Any) -> str:
    """Return a duration: milliseconds below a second, with two digits at least, minutes above 120 seconds."""
    x = number(value)
    if math.isnan(x):
        return DASH
    if x < 0.9995:
        return f"{x * 1000:.0f} ms" if x > 0.0095 else f"{x * 1000:.2g} ms"
    if round(x, 1) < 120:
        return f"{x:.1f} s"
    minutes, seconds = divmod(round(x), 60)
    return f"{minutes} min {seconds} s"


def power_of_two(scale: float) -> int | None:
    """Return k where scale is exactly 2^k, else None."""
    if not math.isfinite(scale) or scale <= 0:
        return None
    mantissa, exponent = math.frexp(scale)
    return exponent - 1 if mantissa == 0.5 else None


def grade(sqnr_db: Any) -> str:
    """Return `good`, `fair` or `poor`: noise under 1%, under 10%, or above 10% of the signal's energy."""
    x = number(sqnr_db)
    return "good" if x >= GOOD_DB else "fair" if x >= FAIR_DB else "poor"
