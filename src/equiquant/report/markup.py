"""The small pieces of the page: escaped text, tables, and numbers as people read them."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equiquant.printable import printable

__all__ = [
    "DASH",
    "MINUS",
    "TIMES",
    "Cell",
    "bytes_text",
    "calibrated_on",
    "code",
    "compared_on",
    "counted",
    "decibels",
    "escape",
    "facts",
    "figure",
    "grade",
    "grade_pill",
    "names",
    "number",
    "or_low",
    "percent",
    "power_of_two",
    "seconds_text",
    "section",
    "shorten",
    "spread_text",
    "table",
]

DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
BREAKS, BREAK = re.compile(r"(?<=[^/._:])([/._:])(?=\w)"), r"<wbr>\1"  # never inside an entity such as &lt;
GOOD_DB = 20.0  # noise is 1% of the signal's energy
INLINE_NAMES = 2  # names shown in a table cell before they fold away
FAIR_DB = 10.0  # noise is 10% of it


@dataclass(frozen=True)
class Cell:
    """One table cell of ready markup.

    Attributes:
        markup: HTML, already escaped.
        kind: Its CSS class, e.g. `num`.
    """

    markup: str
    kind: str = ""


def escape(text: object) -> str:
    """Return text safe inside an element or a quoted attribute, without control characters."""
    return html.escape(printable(str(text)), quote=True)


def code(text: object) -> str:
    """Return escaped text in the code face, free to break where the parts of a name meet."""
    return f"<code>{BREAKS.sub(BREAK, escape(text))}</code>"


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


def decibels(value: Any, largest_error: Any = None) -> str:
    """Return dB with one decimal; `no signal` where errors are known to be finite and yet infinitely larger than it."""
    x = number(value)
    if math.isnan(x):
        return DASH
    if math.isinf(x):
        return "identical" if x > 0 else "no signal" if math.isfinite(number(largest_error)) else f"{MINUS}∞ dB"
    return f"{x:.1f} dB".replace("-", MINUS)


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


def grade_pill(sqnr_db: Any, largest_error: Any = None) -> str:
    """Return the figure in its grade's colour, see `decibels`."""
    return f'<span class="pill {grade(sqnr_db)}">{escape(decibels(sqnr_db, largest_error))}</span>'


def table(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[Cell | str]]) -> str:
    """Return a table that scrolls sideways where the screen is narrow.

    Args:
        head: (title, CSS class) of each column; cells without a class of their own take the column's.
        rows: Cells, or markup.
    """
    titles = "".join(f'<th scope="col" class="{kind}">{escape(title)}</th>' for title, kind in head)
    body = []
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        body.append(
            "<tr>"
            + "".join(
                f'<td class="{cell.kind or kind}">{cell.markup}</td>'
                for cell, (_, kind) in zip(cells, head, strict=True)
            )
            + "</tr>"
        )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def section(title: str, note: str, *parts: str) -> str:
    """Return a section of the page; the note and the parts are markup."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{note}</p>{"".join(parts)}</section>'


def facts(values: Mapping[str, str]) -> str:
    """Return named values, the values as markup."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{v}</dd></div>" for k, v in values.items()) + "</dl>"


def names(found: Sequence[str]) -> str:
    """Return names one below the other, folded away if they are many."""
    if len(found) <= INLINE_NAMES:
        return "<br>".join(code(name) for name in found)
    items = "".join(f"<li>{code(name)}</li>" for name in found)
    return f"<details><summary>{len(found)} places</summary><ul>{items}</ul></details>"
