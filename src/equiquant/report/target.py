"""The page's section on the target: the limits of its shifters, which decided something, and what had to move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equiquant.report.markup import code, escape, section, table
from equiquant.report.texts import DASH, decibels_text, figure, number

__all__ = ["target"]

SHOWN = 40  # rows of a table; the report as data has them all
NOTE = (
    "The hardware rescales by shifts, which have limits. A scale of 2^-p has the position p: each limit is one of a sum"
    " of positions, or asks for equal ones. The scales are the ones of least noise that satisfy all limits together."
)


def target(data: Mapping[str, Any]) -> str:
    """Return the section for `Report.target` as plain data; nothing for a target without limits."""
    if not data or not data["checked"]:
        return ""
    counts = table(
        [("Limit", ""), ("Checked at", "num"), ("Violated by the best single scales", "num")],
        (
            [code(option), figure(count), figure(data["violated"].get(option, 0))]
            for option, count in data["checked"].items()
        ),
    )
    parts = [counts]
    if data["broken"]:
        parts += [f"<h3>Cannot be met ({len(data['broken'])})</h3>", _bounds(data["broken"])]
    if data["moved"]:
        noise = (
            f"Relative noise of the tensors concerned: {_noise(data['noise_before'])} → {_noise(data['noise_after'])}."
        )
        rows = ([code(m["tensor"]), figure(m["before"]), figure(m["after"])] for m in data["moved"][:SHOWN])
        parts += [
            f"<h3>Moved for them ({len(data['moved'])})</h3><p>{escape(noise)}</p>",
            table([("Tensor", ""), ("p, best alone", "num"), ("p", "num")], rows),
        ]
    if data["bounds"]:
        title = f"Limits that decided something ({len(data['bounds'])})"
        parts.append(f"<details><summary>{escape(title)}</summary>{_bounds(data['bounds'])}</details>")
    return section(f"Target {data['target']}", NOTE, *parts)


def _bounds(bounds: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        [
            code(b["option"]),
            escape(b["name"]),
            code(b["node"]),
            figure(b["before"]),
            figure(b["value"]),
            f"{DASH if b['low'] is None else figure(b['low'])} to {DASH if b['high'] is None else figure(b['high'])}",
        ]
        for b in bounds[:SHOWN]
    )
    heads = [("Option", ""), ("Limited", ""), ("Node", ""), ("Best alone", "num"), ("Value", "num"), ("Allowed", "num")]
    return table(heads, rows)


def _noise(value: Any) -> str:
    return decibels_text(None) if number(value) <= 0 else f"{number(value):.2e}"
