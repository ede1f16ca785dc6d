"""The page's section on refinement: what correcting biases and rounding weights gave, and what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equiquant.report.markup import decibels, escape, figure, grade_pill, number, section, table

__all__ = ["refinement"]


def refinement(data: Mapping[str, Any]) -> str:
    """Return the section for `Report.refinement` as plain data; nothing where nothing was to be refined."""
    trials = data.get("trials") or []
    if not trials:
        return ""
    first = number(trials[0]["sqnr_db"])
    rows = [
        [
            escape("as quantized" if trial["name"] == "none" else trial["name"]),
            grade_pill(trial["sqnr_db"]),
            decibels(number(trial["sqnr_db"]) - first) if index else "",
            '<span class="pill plain">kept</span>' if trial["name"] == data.get("kept") else "",
        ]
        for index, trial in enumerate(trials)
    ]
    on = f"{figure(data.get('held'))} others" if data.get("apart", True) else "the same"
    note = (
        f"Weights and biases of {figure(data.get('layers'))} layers were fitted to {figure(data.get('fitted'))} feeds"
        f" and measured on {on}. Each layer sees the inputs that the quantized layers"
        " before it give."
    )
    head = [("Candidate", ""), ("SQNR measured", ""), ("Gain", "num"), ("", "")]
    return section("Refinement", note, table(head, rows))
