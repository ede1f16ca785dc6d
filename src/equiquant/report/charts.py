"""Charts as inline SVG: no script, no file besides the page, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from equiquant.report.markup import decibels, escape, grade, number, shorten, spread_text

__all__ = ["SPREAD_ROWS", "spread_chart", "sqnr_chart"]

WIDTH = 1000
SPREAD_ROWS = 40  # rows a person still reads; the rest is in report.json
LABEL_CHARS = 44


def sqnr_chart(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Return a column per tensor, left to right as the data flow, its height the SQNR in dB.

    Args:
        tensors: Entries of `Comparison.to_dict()["tensors"]`, in any order.
    """
    ordered = sorted(tensors, key=lambda t: t.get("position", 0))
    values = [number(t.get("aligned_sqnr_db")) for t in ordered]
    finite = [v for v in values if math.isfinite(v)]
    top = max(30.0, 10 * math.ceil(max(finite, default=30.0) / 10))
    left, height, base = 46, 250, 214
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
    for i, (tensor, value) in enumerate(zip(ordered, values, strict=True)):
        x = left + i * step + (step - width) / 2
        tall = max(base - y(value if not math.isnan(value) else 0.0), 2.0)  # a stub: a poor tensor must be seen
        title = f"{tensor.get('name')} ({tensor.get('op_type')}): {decibels(value)}"
        parts.append(
            f'<rect class="{grade(value)}" x="{x:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
            f' rx="1.5"><title>{escape(title)}</title></rect>'
        )
    parts.append(f'<text x="{left}" y="{base + 24}">input</text>')
    parts.append(f'<text x="{left + plot}" y="{base + 24}" text-anchor="end">output</text></svg>')
    return f'<div class="scroll">{"".join(parts)}</div>'


def spread_chart(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per layer: largest over smallest channel range, before and after equalization, on a log axis.

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
    left, line, top = 330, 22, 26
    plot, height = WIDTH - left - 70, top + line * len(rows) + 8

    def x(value: float) -> float:
        return left + plot * math.log10(value) / decades

    parts = [_open(height, "Channel range spread of each layer before and after equalization")]
    for decade in range(decades + 1):
        at = x(10.0**decade)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 6}" y2="{height - 6}"/>')
        parts.append(f'<text x="{at:.1f}" y="14" text-anchor="middle">{spread_text(10.0**decade)}</text>')
    for row, (_, name, channels, before, after) in enumerate(rows):
        y = top + line * row + line / 2
        title = f"{name}, {channels} channels: {spread_text(before)} before, {spread_text(after)} after"
        parts.append(
            f"<g><title>{escape(title)}</title>"
            f'<text class="name" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(shorten(name, LABEL_CHARS))}</text>"
            f'<line class="link" x1="{x(before):.1f}" x2="{x(after):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="before" cx="{x(before):.1f}" cy="{y:.1f}" r="4.5"/>'
            f'<circle class="after" cx="{x(after):.1f}" cy="{y:.1f}" r="4.5"/></g>'
        )
    return f'<div class="scroll">{"".join(parts)}</svg></div>'


def _open(height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
