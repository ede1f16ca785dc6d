"""Charts as inline SVG: no script, no file besides the page, colours from the page's style sheet."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equiquant.report.markup import escape
from equiquant.report.texts import decibels_text, grade, number, shorten, spread_text

__all__ = ["NOISE_ROWS", "SPREAD_ROWS", "noise_chart", "spread_chart", "sqnr_chart"]

WIDTH = 1000
SPREAD_ROWS = 40  # rows a person still reads; the rest is in report.json
NOISE_ROWS = 25
LABEL_CHARS, LABEL_WIDTH = 44, 7  # of a name, and of each in pixels
MOST_DB = 80.0  # drawn: one tensor that is all but exact would flatten all others
FIGURE_WIDTH = 30  # of a figure above a bar in pixels
MOST_MARKS = 8  # labels along an axis before they touch


def sqnr_chart(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Return a column per tensor, left to right as the data flow, its height the SQNR in dB, up to `MOST_DB`.

    Above one that would be higher its figure is written, as far as there is room.

    Args:
        tensors: Entries of `Comparison.to_dict()["tensors"]`, in any order.
    """
    ordered = sorted(tensors, key=lambda t: t.get("position", 0))
    values = [number(t.get("aligned_sqnr_db")) for t in ordered]
    finite = [v for v in values if math.isfinite(v)]
    top = min(MOST_DB, max(30.0, 10 * math.ceil(max(finite, default=30.0) / 10)))
    left, height, base = 54, 250, 214
    plot, step = WIDTH - left - 6, (WIDTH - left - 6) / max(1, len(ordered))
    width = max(1.0, min(26.0, step * 0.72))

    def y(value: float) -> float:
        return base - (base - 12) * min(max(value, 0.0), top) / top

    parts = [_open(height, f"Signal to quantization noise ratio of {len(ordered)} tensors in graph order")]
    for mark in range(0, int(top) + 1, 10):
        kind = "axis" if mark == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{left}" x2="{left + plot}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')
        label = f"{mark} dB" if mark == top or mark == 0 else str(mark)
        parts.append(f'<text x="{left - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{label}</text>')
    room = 0.0  # where the next figure may begin
    for i, (tensor, value) in enumerate(zip(ordered, values, strict=True)):
        x = left + i * step + (step - width) / 2
        tall = max(base - y(value if not math.isnan(value) else 0.0), 2.0)  # a stub: a poor tensor must be seen
        title = f"{tensor.get('name')} ({tensor.get('op_type')}): {decibels_text(value, tensor.get('max_abs_error'))}"
        parts.append(
            f'<rect class="{grade(value)}" x="{x:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
            f' rx="1.5"><title>{escape(title)}</title></rect>'
        )
        middle = x + width / 2
        if top < value < math.inf and middle - FIGURE_WIDTH / 2 >= room:
            parts.append(f'<text x="{middle:.1f}" y="10" text-anchor="middle">{value:.0f}</text>')
            room = middle + FIGURE_WIDTH / 2
    parts.append(f'<text x="{left}" y="{base + 24}">input</text>')
    parts.append(f'<text x="{left + plot}" y="{base + 24}" text-anchor="end">last tensor</text></svg>')
    return f'<div class="scroll">{"".join(parts)}</div>'


def spread_chart(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per layer: largest over median channel range, before and after equalization, on a log axis.

    Args:
        tensors: `{tensor, channels, spread_before, spread_after}`; the `SPREAD_ROWS` widest are drawn, in graph order.
    """
    usable = [
        (i, str(t.get("tensor")), t.get("channels"), before, after)
        for i, t in enumerate(tensors)
        if (before := number(t.get("spread_before"))) >= 1 and (after := number(t.get("spread_after"))) >= 1
        if math.isfinite(before) and math.isfinite(after)
    ]
    if not usable:
        return ""
    rows = sorted(sorted(usable, key=lambda r: -r[3])[:SPREAD_ROWS])
    decades = max(1, math.ceil(math.log10(max(max(r[3], r[4]) for r in rows)) - 1e-9))
    every = -(-decades // MOST_MARKS)
    marks = {d / decades: spread_text(10.0**d) for d in range(0, decades + 1, every)}
    drawn = [
        _Row(
            name,
            f"{name}, {channels} channels: {spread_text(before)} before, {spread_text(after)} after",
            math.log10(before) / decades,
            math.log10(after) / decades,
        )
        for _, name, channels, before, after in rows
    ]
    return _dumbbells("Channel range spread of each layer before and after equalization", drawn, marks)


def noise_chart(tensors: Sequence[Mapping[str, Any]], method: str) -> str:
    """Return a row per rounded tensor: its predicted SQNR in dB before equalization and after, the worst first.

    Args:
        tensors: `{name, kind, before, <method>}`; the `NOISE_ROWS` worst are drawn.
        method: The key of the figure after equalization.
    """
    usable = [
        (before, after, str(t.get("name")) + ("" if t.get("kind") == "activation" else f" ({t.get('kind')})"))
        for t in tensors
        if math.isfinite(before := number(t.get("before"))) and math.isfinite(after := number(t.get(method)))
    ]
    rows = sorted(usable)[:NOISE_ROWS]
    if not rows:
        return ""
    ends = [value for before, after, _ in rows for value in (before, after)]
    low, high = 10 * math.floor(min(ends) / 10), 10 * math.ceil(max(ends) / 10 + 1e-9)
    span = high - low
    every = 10 * -(-span // (10 * MOST_MARKS))
    marks = {(db - low) / span: decibels_text(db).replace(".0", "") for db in range(low, high + 1, every)}
    drawn = [
        _Row(
            name,
            f"{name}: {decibels_text(before)} before, {decibels_text(after)} after",
            (before - low) / span,
            (after - low) / span,
        )
        for before, after, name in rows
    ]
    return _dumbbells("Predicted signal to noise ratio of each tensor before and after equalization", drawn, marks)


@dataclass(frozen=True)
class _Row:
    """A row of a before-and-after chart; `before` and `after` from 0, the left end of the axis, to 1."""

    name: str
    title: str
    before: float
    after: float


def _dumbbells(label: str, rows: Sequence[_Row], marks: Mapping[float, str]) -> str:
    labels = [shorten(row.name, LABEL_CHARS) for row in rows]
    left, line, top = round(24 + LABEL_WIDTH * max(map(_columns, labels))), 22, 26
    plot, height = WIDTH - left - 70, top + line * len(rows) + 8
    parts = [_open(height, label)]
    for at, text in marks.items():
        x = left + plot * at
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{height - 6}"/>')
        parts.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{text}</text>')
    for index, (row, name) in enumerate(zip(rows, labels, strict=True)):
        y = top + line * index + line / 2
        before, after = left + plot * row.before, left + plot * row.after
        parts.append(
            f"<g><title>{escape(row.title)}</title>"
            f'<text class="name" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(name)}</text>"
            f'<line class="link" x1="{before:.1f}" x2="{after:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="before" cx="{before:.1f}" cy="{y:.1f}" r="4.5"/>'
            f'<circle class="after" cx="{after:.1f}" cy="{y:.1f}" r="4.5"/></g>'
        )
    return f'<div class="scroll">{"".join(parts)}</svg></div>'


def _columns(name: str) -> int:
    """Return how many letters wide a name is; characters of the far East are two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name)


def _open(height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
